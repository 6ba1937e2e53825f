//! Domain events: for a wait that is open, for one that is not open yet, or to cancel.
//!
//! Rule 9: an event that a later wait will need is kept with the instance and offered again when that wait opens.

use super::{Outcome, Told, Turn};
use crate::{
    decision::Unreadable,
    definition::{Graph, Kind, NodeId},
    history::{Verdict, What, Why},
    instance::{
        CauseKind, EARLY_EVENTS_MAX, EVENTS_TAKEN_MAX, Early, Leg, NodeState, Status, taken_id,
    },
    message::Body,
    planted::{self, Mistake},
    time::Timestamp,
};
use std::time::Duration;

/// How long an early event is kept for its wait.
const EARLY_EVENT_AGE_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The channels on which what a wait awaits may come; none for other nodes.
pub fn awaited_on(graph: &Graph, node: NodeId) -> impl Iterator<Item = &str> {
    let (event, refusing) = match graph.nodes.get(node.index()).map(|node| &node.kind) {
        Some(Kind::Wait { event, refusing, .. }) => (Some(event), refusing.as_ref()),
        _ => (None, None),
    };
    event.into_iter().chain(refusing).map(|event| event.channel.as_str())
}

impl Turn<'_> {
    pub(super) fn event(
        &mut self,
        name: &str,
        body: Body,
        cause: Option<String>,
    ) -> Result<Outcome, Unreadable> {
        let told = Told { what: What::Event, node: None, note: None }.noting(name);
        if self.status().is_end() {
            return Ok(told.ignored(Why::HasEnded));
        }
        if cause.as_ref().is_some_and(|id| self.has_seen(id)) {
            return Ok((Verdict::Duplicate, told));
        }
        if self.graph().cancelled_by.iter().any(|event| event.name == name) {
            return self.cancelled_by_event(name, &body);
        }
        let waits: Vec<NodeId> = self.graph().ids().filter(|id| self.awaits(*id, name)).collect();
        if let Some(node) =
            waits.iter().copied().find(|id| matches!(self.state(*id), NodeState::Waiting { .. }))
        {
            self.take_event(node, name, &body, cause)?;
            return Ok((Verdict::Applied, Told { node: Some(node), ..told }));
        }
        if self.status() == Status::Running && waits.iter().any(|id| self.may_be_reached(*id)) {
            let early = &mut self.instance.core.early;
            if early.len() >= EARLY_EVENTS_MAX {
                return Ok(told.ignored(Why::TooManyEarly));
            }
            if planted::is(Mistake::EarlyEventDropped) {
                return Ok((Verdict::Deferred, told));
            }
            early.push(Early { event: name.into(), body, since: self.now, cause });
            return Ok((Verdict::Deferred, told));
        }
        Ok(told.ignored(Why::NotAwaited))
    }

    fn has_seen(&self, id: &String) -> bool {
        let core = &self.instance.core;
        if planted::is(Mistake::EventTakenTwice) {
            return false;
        }
        core.early.iter().any(|kept| kept.cause.as_ref() == Some(id)) || core.has_taken(id)
    }

    fn awaits(&self, node: NodeId, name: &str) -> bool {
        match &self.graph().node(node).kind {
            Kind::Wait { event, refusing, .. } => {
                event.name == name || refusing.as_ref().is_some_and(|event| event.name == name)
            }
            _ => false,
        }
    }

    /// Whether an idle node can still be reached: no choice around it went another way.
    fn may_be_reached(&self, node: NodeId) -> bool {
        let graph = self.graph();
        let mut inner = node;
        while let Some(outer) = graph.node(inner).parent {
            if let NodeState::Chosen(place) = self.state(outer) {
                let taken =
                    super::forward::chosen_node(&graph.node(outer).kind, place.map(usize::from));
                if taken != Some(inner) {
                    return false;
                }
            }
            inner = outer;
        }
        matches!(self.state(node), NodeState::Idle)
    }

    fn take_event(
        &mut self,
        node: NodeId,
        name: &str,
        body: &Body,
        cause: Option<String>,
    ) -> Result<(), Unreadable> {
        self.plan.behaviour().event(
            Some(node),
            name,
            &mut *self.instance.data,
            body,
            self.codec,
        )?;
        let id = cause.map(|id| taken_id(self.instance.core.id, &id));
        let taken = &mut self.instance.core.events_taken;
        taken.extend(id);
        taken.drain(..taken.len().saturating_sub(EVENTS_TAKEN_MAX));
        self.settle_incident(node, Leg::Do);
        let lets_on =
            matches!(&self.graph().node(node).kind, Kind::Wait { event, .. } if event.name == name);
        if lets_on || planted::is(Mistake::RefusingEventIgnored) {
            self.complete(node);
        } else {
            self.set(node, NodeState::Ended);
            let cause = self.cause(Some(node), CauseKind::Rejected, name);
            self.turn_back(cause);
        }
        Ok(())
    }

    /// A wait has opened: offers it the first event that was kept for it. One that can't be read is dropped, and the
    /// next one offered; it was readable enough to be routed, so this is a contract broken between two releases.
    pub(super) fn offer_early(&mut self, node: NodeId) {
        let now = self.now;
        self.instance.core.early.retain(|kept| now.since(kept.since) <= EARLY_EVENT_AGE_MAX);
        while let Some(at) =
            self.instance.core.early.iter().position(|kept| self.awaits(node, &kept.event))
        {
            let kept = self.instance.core.early.remove(at);
            if self.take_event(node, &kept.event, &kept.body, kept.cause).is_ok() {
                return;
            }
            let text = format!("the kept event {} can't be read", kept.event);
            self.raise(node, Leg::Do, &text);
        }
    }

    /// The event of a wait could not have been heard for a part of its time: it is awaited for longer.
    pub(super) fn unheard(&mut self, node: NodeId, until: Timestamp) -> Outcome {
        let told = Told::of(What::Unheard, node);
        if self.status().is_end() {
            return told.ignored(Why::HasEnded);
        }
        let is_open = awaited_on(self.graph(), node).next().is_some()
            && matches!(self.state(node), NodeState::Waiting { .. });
        if !is_open {
            return told.ignored(Why::AlreadySettled);
        }
        self.set(node, NodeState::Waiting { until, since: self.now });
        // Looked at again and again while its broker is away, it would fill its history with that.
        let last = self.instance.history.last();
        self.is_told =
            last.is_some_and(|line| line.what == What::Unheard && line.node == Some(node));
        (Verdict::Applied, told.noting(&format!("awaited until {until}")))
    }

    fn cancelled_by_event(&mut self, name: &str, body: &Body) -> Result<Outcome, Unreadable> {
        let told = Told { what: What::Cancelled, node: None, note: None }.noting(name);
        if self.status() == Status::TurningBack {
            return Ok(told.ignored(Why::TurningBackAlready));
        }
        if self.is_pivot_asked() || planted::is(Mistake::CancellationIgnored) {
            return Ok(told.ignored(Why::PastPivot));
        }
        self.plan.behaviour().event(None, name, &mut *self.instance.data, body, self.codec)?;
        let cause = self.cause(None, CauseKind::Cancelled, name);
        self.turn_back(cause);
        Ok((Verdict::Applied, told))
    }
}
