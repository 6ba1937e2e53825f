//! The ways through a graph, read from its drawing alone: what comes before what, and what can't be passed by.

use dirigent_model::definition::{Graph, Kind, NodeId};

/// Whether the second node begins only after the first one: the block that holds both is a sequence, and has them in this order.
pub(in crate::simulation::judge) fn follows(graph: &Graph, first: NodeId, second: NodeId) -> bool {
    joint(graph, first, second).is_some_and(|joint| joint.in_order)
}

/// Whether the second node begins only after the first one, and nothing leads past that: no choice was to be taken on the way to it.
pub(super) fn must_follow(graph: &Graph, first: NodeId, second: NodeId) -> bool {
    joint(graph, first, second).is_some_and(|joint| {
        let is_choice =
            |node: &NodeId| matches!(graph.nodes[node.index()].kind, Kind::Choose { .. });
        joint.in_order && !joint.down_to_first.iter().any(is_choice)
    })
}

/// Whether every way through the graph leads through this node.
pub(super) fn is_on_every_way(graph: &Graph, node: NodeId) -> bool {
    let is_choice = |node: &NodeId| matches!(graph.nodes[node.index()].kind, Kind::Choose { .. });
    !way_up(graph, node).iter().skip(1).any(is_choice)
}

/// A node with all that is inside of it.
pub(super) fn inside(graph: &Graph, node: NodeId) -> Vec<NodeId> {
    graph.ids().filter(|inner| way_up(graph, *inner).contains(&node)).collect()
}

/// Where the ways of two nodes part.
struct Joint {
    /// They part in a sequence, which has the first one before the second.
    in_order: bool,
    /// The blocks from there down to the first one, itself included.
    down_to_first: Vec<NodeId>,
}

fn joint(graph: &Graph, first: NodeId, second: NodeId) -> Option<Joint> {
    let (mut down_first, mut down_second) = (way_up(graph, first), way_up(graph, second));
    down_first.reverse();
    down_second.reverse();
    let common = down_first.iter().zip(&down_second).take_while(|(a, b)| a == b).count();
    let block = *down_first.get(common.checked_sub(1)?)?;
    let (of_first, of_second) = (down_first.get(common)?, down_second.get(common)?);
    let is_sequence = matches!(graph.nodes[block.index()].kind, Kind::Sequence { .. });
    let place = |node: &NodeId| graph.children(block).into_iter().position(|child| child == *node);
    let in_order = is_sequence && place(of_first) < place(of_second);
    Some(Joint { in_order, down_to_first: down_first[common..].to_vec() })
}

/// A node and all blocks around it, the innermost first.
fn way_up(graph: &Graph, node: NodeId) -> Vec<NodeId> {
    std::iter::successors(Some(node), |node| graph.nodes[node.index()].parent).collect()
}
