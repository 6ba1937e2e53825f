//! What one decision has crossed, told from how its instance was and is, and from the line that it wrote.

use super::{
    AGAIN, CAME, CANCELLED, COMPENSATED, COMPENSATED_AGAIN, COMPENSATED_IN_DOUBT, DEADLINE, EARLY,
    GIVEN_UP, IN_DOUBT, LATE, NO_ARM, NO_EFFECT, NOT_DONE, NOT_KNOWN, OTHERWISE, REFUSED, REJECTED,
    SUCCEEDED, TIMED_OUT, WAS_DONE, WAS_REJECTED, possible::took,
};
use crate::{
    decision::{Command, Decision, Effect},
    definition::{Graph, Kind, NodeId, OnTimeout},
    history::{Verdict, What},
    instance::{CauseKind, Core, Leg, NoEffect, NodeState, Status},
};

/// Tells each thing that it has crossed, with the node; without one what happened to the saga as a whole.
pub(super) fn by(
    graph: &Graph,
    before: &Core,
    decision: &Decision,
    tell: &mut dyn FnMut(Option<NodeId>, &str),
) {
    let after = &decision.instance.core;
    for effect in &decision.effects {
        if let Effect::Command(command) = effect {
            let (was, is) = (before.state(command.node), after.state(command.node));
            sent(command, was, is, &mut |what| tell(Some(command.node), what));
        }
    }
    if before.status == Status::Running && after.status != Status::Running {
        match after.cause.as_ref().map(|cause| cause.what) {
            Some(CauseKind::Deadline) if told(decision) == Some(What::TimedOut) => {
                tell(None, DEADLINE);
            }
            Some(CauseKind::Cancelled) if told(decision) == Some(What::Cancelled) => {
                tell(None, CANCELLED);
            }
            _ => {}
        }
    }
    // What an operator speaks of may be no place of this saga.
    if let Some(node) = place(decision).filter(|node| node.index() < graph.nodes.len()) {
        let (was, is) = (before.state(node), after.state(node));
        said(&graph.node(node).kind, was, is, decision, &mut |what| tell(Some(node), what));
    }
    for node in graph.ids() {
        let (was, is) = (before.state(node), after.state(node));
        if was != is {
            let at = place(decision) == Some(node);
            let kind = &graph.node(node).kind;
            became(kind, was, is, at, decision, &mut |what| tell(Some(node), what));
        }
    }
}

fn told(decision: &Decision) -> Option<What> {
    decision.line.as_ref().map(|(line, _)| line.what)
}

fn place(decision: &Decision) -> Option<NodeId> {
    decision.line.as_ref().and_then(|(line, _)| line.node)
}

/// By what is sent.
fn sent(command: &Command, was: &NodeState, is: &NodeState, tell: &mut dyn FnMut(&str)) {
    match (command.leg, command.attempt) {
        (Leg::Do, 2..) => tell(AGAIN),
        (Leg::Compensate, 2..) => tell(COMPENSATED_AGAIN),
        // What was held is sent as the same attempt.
        (Leg::Compensate, _) if matches!(was, NodeState::Undoing(..)) => {}
        (Leg::Compensate, _) if matches!(is, NodeState::Undoing(None, _)) => {
            tell(COMPENSATED_IN_DOUBT);
        }
        (Leg::Compensate, _) => tell(COMPENSATED),
        (Leg::Do | Leg::Status, _) => {}
    }
}

/// By what came in, at its place.
fn said(
    kind: &Kind,
    was: &NodeState,
    is: &NodeState,
    decision: &Decision,
    tell: &mut dyn FnMut(&str),
) {
    let leg = decision.heard.map(|heard| heard.leg);
    match (kind, decision.verdict, told(decision)) {
        (Kind::Wait { .. }, Verdict::Deferred, Some(What::Event)) => tell(EARLY),
        (Kind::Step(_), Verdict::Applied, Some(What::TimedOut))
            if matches!(was, NodeState::Open(_)) =>
        {
            tell(LATE);
        }
        (Kind::Step(_), Verdict::Applied, Some(What::Unknown)) => tell(NOT_KNOWN),
        (Kind::Step(_), Verdict::Applied, Some(What::Succeeded))
            if leg == Some(Leg::Status) && was != is =>
        {
            tell(WAS_DONE);
        }
        (Kind::Step(_), Verdict::Applied, Some(What::Rejected))
            if leg == Some(Leg::Status) && was != is =>
        {
            tell(WAS_REJECTED);
        }
        _ => {}
    }
}

/// By what became of a node.
fn became(
    kind: &Kind,
    was: &NodeState,
    is: &NodeState,
    at: bool,
    decision: &Decision,
    tell: &mut dyn FnMut(&str),
) {
    match kind {
        Kind::Step(_) => step_became(was, is, tell),
        Kind::Wait { on_timeout, .. } => {
            let own = decision.instance.core.cause.as_ref();
            let own = own.filter(|_| at || *was == NodeState::Idle).map(|cause| cause.what);
            let is_late = at && told(decision) == Some(What::TimedOut);
            match (is, own) {
                (NodeState::Done(_), _) if is_late && *on_timeout == OnTimeout::Proceed => {
                    tell(TIMED_OUT);
                }
                (NodeState::Done(_), _) => tell(CAME),
                (NodeState::Ended, Some(CauseKind::Rejected)) => tell(REFUSED),
                (NodeState::Ended, Some(CauseKind::TimedOut)) => tell(TIMED_OUT),
                _ => {}
            }
        }
        Kind::Choose { arms, otherwise } => match is {
            NodeState::Chosen(Some(place)) => match (arms.get(usize::from(*place)), otherwise) {
                (Some(arm), _) => tell(&took(&arm.label)),
                (None, Some(_)) => tell(OTHERWISE),
                (None, None) => tell(NO_ARM),
            },
            NodeState::Chosen(None) => tell(NO_ARM),
            _ => {}
        },
        Kind::Sequence { .. } | Kind::All { .. } | Kind::Publish { .. } | Kind::Pause { .. } => {}
    }
}

fn step_became(was: &NodeState, is: &NodeState, tell: &mut dyn FnMut(&str)) {
    let was_open = matches!(was, NodeState::Idle | NodeState::Open(_) | NodeState::InQuestion(_));
    match is {
        NodeState::Done(_) if was_open => tell(SUCCEEDED),
        NodeState::NoEffect(NoEffect::Rejected) => tell(REJECTED),
        NodeState::NoEffect(NoEffect::Failed | NoEffect::Unsent) => tell(NO_EFFECT),
        NodeState::NoEffect(NoEffect::NotDone) => tell(NOT_DONE),
        NodeState::InDoubt => tell(IN_DOUBT),
        NodeState::Undoing(None, _) | NodeState::Stuck(None, _) if was_open => tell(IN_DOUBT),
        NodeState::Undoing(Some(_), _) | NodeState::Stuck(Some(_), _) if was_open => {
            tell(SUCCEEDED);
        }
        _ => {}
    }
    if matches!(is, NodeState::Stuck(..)) && !matches!(was, NodeState::Stuck(..)) {
        tell(GIVEN_UP);
    }
}
