//! An operator's word: an input like any other, with who and why.

use super::{Outcome, Told, Turn};
use crate::{
    decision::Action,
    history::{Verdict, What, Why},
    instance::{Ask, CauseKind, Leg, NodeState, Status},
};

impl Turn<'_> {
    pub(super) fn operator(&mut self, action: &Action, by: &str, why: &str) -> Outcome {
        let told =
            Told { what: What::Operator, node: None, note: None }.noting(&format!("{by}: {why}"));
        if self.status().is_end() {
            return told.ignored(Why::HasEnded);
        }
        match action {
            Action::Cancel if self.status() == Status::TurningBack => {
                told.ignored(Why::TurningBackAlready)
            }
            Action::Cancel if self.is_pivot_asked() => told.ignored(Why::PastPivot),
            Action::Cancel => {
                let cause = self.cause(None, CauseKind::Cancelled, &format!("by {by}: {why}"));
                self.turn_back(cause);
                (Verdict::Applied, told)
            }
            Action::Kill => {
                let cause =
                    self.cause(None, CauseKind::Cancelled, &format!("killed by {by}: {why}"));
                self.instance.core.cause = Some(cause);
                self.instance.core.incidents.clear();
                self.end(Status::Killed);
                (Verdict::Applied, told)
            }
            Action::Retry(node) => {
                let told = Told { node: Some(*node), ..told };
                let (leg, ask) = match self.instance.core.nodes.get(node.index()) {
                    Some(NodeState::Open(ask)) => (Leg::Do, ask.clone()),
                    Some(NodeState::Undoing(_, ask) | NodeState::Stuck(_, ask)) => {
                        (Leg::Compensate, ask.clone())
                    }
                    _ => return told.ignored(Why::NoIncident),
                };
                self.settle_incident(*node, leg);
                self.ask(*node, leg, Ask { attempt: ask.attempt.saturating_add(1), ..ask });
                (Verdict::Applied, told)
            }
            Action::Resolve(node) => {
                let told = Told { node: Some(*node), ..told };
                let Some(NodeState::Stuck(..)) = self.instance.core.nodes.get(node.index()) else {
                    return told.ignored(Why::NoIncident);
                };
                self.settle_incident(*node, Leg::Compensate);
                self.set(*node, NodeState::Resolved);
                self.go_back();
                (Verdict::Applied, told)
            }
        }
    }
}
