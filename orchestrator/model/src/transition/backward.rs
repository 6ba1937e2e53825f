//! Turning back: what is open settles first, then what took effect is undone, the latest first.
//!
//! Rules 11 to 16. A step is undone when everything that depended on it has been undone; independent steps side by side.

use super::{
    Turn,
    forward::{Trouble, chosen_node, is_resting},
};
use crate::{
    definition::{Graph, Kind, NodeId, WayBack},
    instance::{Cause, Leg, NoEffect, NodeState, Status},
    planted::{self, Mistake},
};

impl Turn<'_> {
    /// The one door through which a saga turns back.
    pub(super) fn turn_back(&mut self, cause: Cause) {
        if self.status() == Status::Running {
            self.instance.core.status = Status::TurningBack;
            self.instance.core.cause = Some(cause);
            self.instance.core.deadline = None;
            self.instance.core.early.clear();
            self.cut_short();
        }
        self.go_back();
    }

    /// No further attempt starts and nothing is awaited but replies that may be on their way, and answers to what became of a
    /// step that may have taken effect.
    fn cut_short(&mut self) {
        let mut questioned = Vec::new();
        for node in self.graph().ids() {
            let can_ask = self.graph().step(node).is_some_and(|step| step.status.is_some());
            let settled = match self.state(node) {
                NodeState::Waiting { .. } => NodeState::Ended,
                NodeState::Open(ask) if is_resting(ask) && ask.doubt && can_ask => {
                    questioned.push((node, ask.clone()));
                    continue;
                }
                NodeState::Open(ask) if is_resting(ask) && ask.doubt => NodeState::InDoubt,
                NodeState::Open(ask) if is_resting(ask) => NodeState::NoEffect(NoEffect::Failed),
                _ => continue,
            };
            self.set(node, settled);
            self.settle_incident(node, Leg::Do);
        }
        for (node, ask) in questioned {
            self.question(node, ask, &Trouble::timed_out("turned back between two attempts"));
        }
    }

    /// Undoes what can be undone now; ends when nothing is left.
    pub(super) fn go_back(&mut self) {
        let open =
            |state: &NodeState| matches!(state, NodeState::Open(_) | NodeState::InQuestion(_));
        if self.status() != Status::TurningBack || self.instance.core.nodes.iter().any(open) {
            return;
        }
        if self.undo(Graph::ROOT) {
            self.end(Status::Compensated);
        }
    }

    /// Goes through a node backwards; true when nothing in it is left to be undone.
    fn undo(&mut self, node: NodeId) -> bool {
        let graph = self.graph();
        match &graph.node(node).kind {
            Kind::Sequence { children } if planted::is(Mistake::CompensatesForward) => {
                children.iter().all(|child| self.undo(*child))
            }
            Kind::Sequence { children } => children.iter().rev().all(|child| self.undo(*child)),
            // Every branch goes back, whether or not its siblings are through.
            Kind::All { branches } => {
                branches.iter().filter(|branch| !self.undo(**branch)).count() == 0
            }
            Kind::Choose { .. } => match self.state(node) {
                NodeState::Chosen(place) => {
                    let inner = chosen_node(&graph.node(node).kind, place.map(usize::from));
                    inner.is_none_or(|inner| self.undo(inner))
                }
                _ => true,
            },
            Kind::Step(step) => match self.state(node) {
                NodeState::InDoubt if planted::is(Mistake::InDoubtNotCompensated) => true,
                NodeState::Done(_) if planted::is(Mistake::CompensationNeverSent) => {
                    self.set(node, NodeState::Undone);
                    true
                }
                NodeState::Done(_) | NodeState::InDoubt => match step.way_back {
                    WayBack::Pivot if planted::is(Mistake::PivotTurnedBack) => true,
                    WayBack::Compensated { .. } => {
                        self.ask_first(node, Leg::Compensate);
                        false
                    }
                    WayBack::Nothing { .. } => true,
                    WayBack::Pivot | WayBack::Retriable => {
                        unreachable!("behind the pivot a saga does not turn back")
                    }
                },
                NodeState::Undoing(..) | NodeState::Stuck(..) => false,
                NodeState::Idle
                | NodeState::NoEffect(_)
                | NodeState::Undone
                | NodeState::Resolved => true,
                NodeState::Entered
                | NodeState::Chosen(_)
                | NodeState::Open(_)
                | NodeState::InQuestion(_)
                | NodeState::Waiting { .. }
                | NodeState::Ended => {
                    unreachable!("what is open settles before anything is undone")
                }
            },
            Kind::Wait { .. } | Kind::Publish { .. } | Kind::Pause { .. } => true,
        }
    }
}
