//! An operator's word: an input like any other, with who and why.

use super::{Outcome, Told, Turn};
use crate::{
    decision::Action,
    history::{Verdict, What, Why},
    instance::{Ask, CauseKind, Leg, Next, NodeState, Status},
};

impl Turn<'_> {
    pub(super) fn operator(&mut self, action: &Action, by: &str, why: &str) -> Outcome {
        let done = match action {
            Action::Cancel => "cancel",
            Action::Kill => "kill",
            Action::Retry(_) => "retry",
            Action::Resolve(_) => "resolve",
        };
        let told = Told { what: What::Operator, node: None, note: None }
            .noting(&format!("{done} by {by}: {why}"));
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
                if let Some(NodeState::InQuestion(question)) =
                    self.instance.core.nodes.get(node.index())
                {
                    let mut question = (**question).clone();
                    self.settle_incident(*node, Leg::Do);
                    question.ask.attempt = question.ask.attempt.saturating_add(1);
                    self.ask_status(*node, question);
                    return (Verdict::Applied, told);
                }
                let (leg, ask) = match self.instance.core.nodes.get(node.index()) {
                    // Turning back, what is open only settles: no further attempt starts.
                    Some(NodeState::Open(_)) if self.status() == Status::TurningBack => {
                        return told.ignored(Why::TurningBackAlready);
                    }
                    Some(NodeState::Open(ask)) => (Leg::Do, ask.clone()),
                    Some(NodeState::Undoing(_, ask) | NodeState::Stuck(_, ask)) => {
                        (Leg::Compensate, ask.clone())
                    }
                    _ => return told.ignored(Why::NoIncident),
                };
                self.settle_incident(*node, leg);
                // The attempt under way is given up without its answer: it may still take effect.
                let doubt = ask.doubt || matches!(ask.next, Next::GiveUp(_));
                let attempt = ask.attempt.saturating_add(1);
                self.ask(*node, leg, Ask { attempt, doubt, ..ask });
                (Verdict::Applied, told)
            }
            Action::Resolve(node) => {
                let told = Told { node: Some(*node), ..told };
                let known = self.instance.core.incidents.iter().any(|known| known.node == *node);
                match self.instance.core.nodes.get(node.index()) {
                    Some(NodeState::Stuck(..)) => {
                        self.settle_incident(*node, Leg::Compensate);
                        self.set(*node, NodeState::Resolved);
                        self.go_back();
                        (Verdict::Applied, told)
                    }
                    // A step behind the pivot is asked until it is done: no word can stand for its reply.
                    Some(NodeState::Open(_)) => told.ignored(Why::NoIncident),
                    // An event that could not be written or read: seen to by hand, and nothing to wait for.
                    Some(_) if known => {
                        self.settle_incident(*node, Leg::Do);
                        (Verdict::Applied, told)
                    }
                    _ => told.ignored(Why::NoIncident),
                }
            }
        }
    }
}
