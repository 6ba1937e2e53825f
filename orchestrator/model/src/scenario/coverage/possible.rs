//! What can happen at each node of a definition, told from its graph alone.

use super::{
    AGAIN, CAME, CANCELLED, COMPENSATED, COMPENSATED_AGAIN, COMPENSATED_IN_DOUBT, DEADLINE, EARLY,
    GIVEN_UP, IN_DOUBT, LATE, NO_ARM, NO_EFFECT, NOT_DONE, NOT_KNOWN, OTHERWISE, REFUSED, REJECTED,
    SUCCEEDED, TIMED_OUT, WAS_DONE, WAS_REJECTED,
};
use crate::definition::{Graph, Kind, NodeId, Step, WayBack};

/// To the saga as a whole.
pub(super) fn at_the_whole(graph: &Graph) -> Vec<String> {
    those(&[(graph.deadline.is_some(), DEADLINE), (!graph.cancelled_by.is_empty(), CANCELLED)])
}

/// At one node.
pub(super) fn at(graph: &Graph, node: NodeId) -> Vec<String> {
    match &graph.node(node).kind {
        Kind::Step(step) => at_step(graph, node, step),
        Kind::Wait { refusing, .. } => those(&[
            (true, CAME),
            (may_wait_before(graph, node), EARLY),
            (refusing.is_some(), REFUSED),
            (true, TIMED_OUT),
        ]),
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

pub(super) fn took(label: &str) -> String {
    format!("took `{label}`")
}

fn at_step(graph: &Graph, node: NodeId, step: &Step) -> Vec<String> {
    let (is_pivot, is_retriable) =
        (step.way_back == WayBack::Pivot, step.way_back == WayBack::Retriable);
    let (is_asked, may_be_rejected) = (step.status.is_some(), step.rejection.is_some());
    // A pivot and what follows it are asked until they answer, whatever their policy says.
    let again = is_pivot || is_retriable || step.retry.attempts_max > 1;
    let (is_compensated, back_again) = match &step.way_back {
        WayBack::Compensated { retry, .. } => (true, retry.attempts_max > 1),
        WayBack::Nothing { .. } | WayBack::Pivot | WayBack::Retriable => (false, false),
    };
    those(&[
        (true, SUCCEEDED),
        (may_be_rejected, REJECTED),
        (!is_retriable, NO_EFFECT),
        (true, LATE),
        (again, AGAIN),
        (is_asked, WAS_DONE),
        (is_asked && may_be_rejected, WAS_REJECTED),
        (is_asked, NOT_DONE),
        (is_asked, NOT_KNOWN),
        (!is_retriable && !is_pivot, IN_DOUBT),
        (is_compensated && may_follow(graph, node), COMPENSATED),
        (is_compensated, COMPENSATED_IN_DOUBT),
        (is_compensated && back_again, COMPENSATED_AGAIN),
        (is_compensated, GIVEN_UP),
    ])
}

/// Whether anything may go on beside or behind a node once it is done. Otherwise the saga completes with it, and what it did stands.
fn may_follow(graph: &Graph, node: NodeId) -> bool {
    let (mut below, mut above) = (node, graph.node(node).parent);
    while let Some(block) = above {
        let goes_on = match &graph.node(block).kind {
            Kind::All { .. } => true,
            Kind::Sequence { children } => children
                .iter()
                .skip_while(|child| **child != below)
                .skip(1)
                .any(|it| rests(graph, *it)),
            Kind::Step(_)
            | Kind::Wait { .. }
            | Kind::Choose { .. }
            | Kind::Publish { .. }
            | Kind::Pause { .. } => false,
        };
        if goes_on {
            return true;
        }
        (below, above) = (block, graph.node(block).parent);
    }
    false
}

/// Whether a saga may be under way before it comes to a node.
fn may_wait_before(graph: &Graph, node: NodeId) -> bool {
    let (mut below, mut above) = (node, graph.node(node).parent);
    while let Some(block) = above {
        if let Kind::Sequence { children } = &graph.node(block).kind
            && children.iter().take_while(|child| **child != below).any(|it| rests(graph, *it))
        {
            return true;
        }
        (below, above) = (block, graph.node(block).parent);
    }
    false
}

/// Whether an instance may rest in a block.
fn rests(graph: &Graph, node: NodeId) -> bool {
    match &graph.node(node).kind {
        Kind::Step(_) | Kind::Wait { .. } | Kind::Pause { .. } => true,
        Kind::Publish { .. } => false,
        Kind::Sequence { .. } | Kind::All { .. } | Kind::Choose { .. } => {
            graph.children(node).into_iter().any(|child| rests(graph, child))
        }
    }
}

fn those(all: &[(bool, &str)]) -> Vec<String> {
    all.iter().filter(|(is, _)| *is).map(|(_, what)| (*what).into()).collect()
}
