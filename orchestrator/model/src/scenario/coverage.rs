//! What scenarios have crossed of a definition, and what none of them has: above all the compensations no test ever ran.

use crate::{
    decision::{Decision, Effect},
    definition::{Graph, Kind, OnTimeout, Plan, WayBack},
    history::What,
    instance::{CauseKind, Core, Leg, NoEffect, NodeState, Status},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// Transitions of one definition: those there are, and those that were crossed. Plain data, to be merged over scenarios.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    definition: String,
    /// Per node, in the order of the definition: its name and what can happen there.
    possible: Vec<(String, Vec<String>)>,
    crossed: BTreeMap<String, BTreeSet<String>>,
}

const SUCCEEDED: &str = "succeeded";
const REJECTED: &str = "rejected";
const NO_EFFECT: &str = "failed without effect";
const NOT_DONE: &str = "asked, was not done";
const IN_DOUBT: &str = "left in doubt";
const COMPENSATED: &str = "compensated";
const CAME: &str = "event came";
const REFUSED: &str = "refusing event came";
const TIMED_OUT: &str = "timed out";
const NO_ARM: &str = "took no arm";
const OTHERWISE: &str = "took the other way";
const DEADLINE: &str = "deadline";
const CANCELLED: &str = "cancelled by event";

impl Coverage {
    /// All of a definition, nothing crossed yet.
    pub fn of(plan: &Plan) -> Self {
        let graph = plan.graph();
        let mut possible = Vec::new();
        let whole =
            [(graph.deadline.is_some(), DEADLINE), (!graph.cancelled_by.is_empty(), CANCELLED)];
        possible.push((graph.name.clone(), kept(&whole)));
        for node in &graph.nodes {
            possible.push((node.name.clone(), possible_at(&node.kind)));
        }
        possible.retain(|(_, what)| !what.is_empty());
        Self { definition: graph.name.clone(), possible, crossed: BTreeMap::new() }
    }

    /// Adds what another scenario of the same definition has crossed.
    #[must_use]
    pub fn merge(mut self, other: &Self) -> Self {
        for (name, what) in &other.crossed {
            self.crossed.entry(name.clone()).or_default().extend(what.iter().cloned());
        }
        self
    }

    /// Steps whose compensation no scenario has asked for.
    pub fn compensations_never_run(&self) -> Vec<&str> {
        let never = self.never_crossed().into_iter();
        never.filter(|(_, what)| *what == COMPENSATED).map(|(name, _)| name).collect()
    }

    /// Everything that no scenario has crossed: the node's name and what did not happen there.
    pub fn never_crossed(&self) -> Vec<(&str, &str)> {
        let all = self.possible.iter();
        let all = all.flat_map(|(name, what)| what.iter().map(move |what| (&**name, &**what)));
        all.filter(|(name, what)| !self.is_crossed(name, what)).collect()
    }

    fn is_crossed(&self, name: &str, what: &str) -> bool {
        self.crossed.get(name).is_some_and(|crossed| crossed.contains(what))
    }

    fn add(&mut self, name: &str, what: &str) {
        self.crossed.entry(name.into()).or_default().insert(what.into());
    }

    /// Adds what one decision has crossed.
    pub(super) fn cross(&mut self, graph: &Graph, before: &Core, decision: &Decision) {
        let after = &decision.instance.core;
        for effect in &decision.effects {
            if let Effect::Command(command) = effect
                && command.leg == Leg::Compensate
            {
                self.add(graph.name_of(command.node), COMPENSATED);
            }
        }
        if before.status == Status::Running && after.status == Status::TurningBack
            || after.status == Status::Compensated
        {
            match after.cause.as_ref().map(|cause| cause.what) {
                Some(CauseKind::Deadline) => self.add(&graph.name, DEADLINE),
                Some(CauseKind::Cancelled) if told(decision) == Some(What::Cancelled) => {
                    self.add(&graph.name, CANCELLED);
                }
                _ => {}
            }
        }
        for id in graph.ids() {
            let (was, is) = (before.state(id), after.state(id));
            let at = decision.line.as_ref().and_then(|(line, _)| line.node) == Some(id);
            if let Some(what) = crossed_at(&graph.node(id).kind, was, is, at, decision) {
                self.add(graph.name_of(id), &what);
            }
        }
    }
}

fn told(decision: &Decision) -> Option<What> {
    decision.line.as_ref().map(|(line, _)| line.what)
}

fn kept(all: &[(bool, &str)]) -> Vec<String> {
    all.iter().filter(|(is, _)| *is).map(|(_, what)| (*what).into()).collect()
}

fn possible_at(kind: &Kind) -> Vec<String> {
    match kind {
        Kind::Step(step) => {
            let retriable = step.way_back == WayBack::Retriable;
            let pivot = step.way_back == WayBack::Pivot;
            kept(&[
                (true, SUCCEEDED),
                (step.rejection.is_some(), REJECTED),
                (!retriable, NO_EFFECT),
                (step.status.is_some(), NOT_DONE),
                (!retriable && !pivot, IN_DOUBT),
                (matches!(step.way_back, WayBack::Compensated { .. }), COMPENSATED),
            ])
        }
        Kind::Wait { refusing, .. } => {
            kept(&[(true, CAME), (refusing.is_some(), REFUSED), (true, TIMED_OUT)])
        }
        Kind::Choose { arms, otherwise } => {
            let mut all: Vec<String> = arms.iter().map(|arm| took(&arm.label)).collect();
            all.push(otherwise.map_or(NO_ARM, |_| OTHERWISE).into());
            all
        }
        Kind::Sequence { .. } | Kind::All { .. } | Kind::Publish { .. } | Kind::Pause { .. } => {
            Vec::new()
        }
    }
}

fn took(label: &str) -> String {
    format!("took `{label}`")
}

/// What has happened at a node, if anything that counts.
fn crossed_at(
    kind: &Kind,
    was: &NodeState,
    is: &NodeState,
    at: bool,
    decision: &Decision,
) -> Option<String> {
    if was == is {
        return None;
    }
    let what = at.then(|| told(decision)).flatten();
    let was_open = matches!(was, NodeState::Idle | NodeState::Open(_) | NodeState::InQuestion(_));
    let what = match kind {
        Kind::Step(_) => match is {
            NodeState::Done(_) => SUCCEEDED,
            NodeState::NoEffect(NoEffect::Rejected) => REJECTED,
            NodeState::NoEffect(NoEffect::Failed | NoEffect::Unsent) => NO_EFFECT,
            NodeState::NoEffect(NoEffect::NotDone) => NOT_DONE,
            NodeState::InDoubt => IN_DOUBT,
            NodeState::Undoing(None, _) | NodeState::Stuck(None, _) if was_open => IN_DOUBT,
            NodeState::Undoing(Some(_), _) | NodeState::Stuck(Some(_), _) if was_open => SUCCEEDED,
            _ => return None,
        },
        Kind::Wait { on_timeout, .. } => {
            let own = decision.instance.core.cause.as_ref();
            let own = own.filter(|_| at || *was == NodeState::Idle).map(|cause| cause.what);
            match (is, own) {
                (NodeState::Done(_), _)
                    if what == Some(What::TimedOut) && *on_timeout == OnTimeout::Proceed =>
                {
                    TIMED_OUT
                }
                (NodeState::Done(_), _) => CAME,
                (NodeState::Ended, Some(CauseKind::Rejected)) => REFUSED,
                (NodeState::Ended, Some(CauseKind::TimedOut)) => TIMED_OUT,
                _ => return None,
            }
        }
        Kind::Choose { arms, otherwise } => match is {
            NodeState::Chosen(Some(place)) => match (arms.get(usize::from(*place)), otherwise) {
                (Some(arm), _) => return Some(took(&arm.label)),
                (None, Some(_)) => return Some(OTHERWISE.into()),
                (None, None) => NO_ARM,
            },
            NodeState::Chosen(None) => NO_ARM,
            _ => return None,
        },
        Kind::Sequence { .. } | Kind::All { .. } | Kind::Publish { .. } | Kind::Pause { .. } => {
            return None;
        }
    };
    Some(what.into())
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: usize = self.possible.iter().map(|(_, what)| what.len()).sum();
        let never = self.never_crossed();
        write!(
            f,
            "saga `{}`: {} of {all} transitions crossed",
            self.definition,
            all - never.len()
        )?;
        never.iter().try_for_each(|(name, what)| write!(f, "\n  never: `{name}` {what}"))
    }
}
