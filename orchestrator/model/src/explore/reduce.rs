//! What need not be explored twice. Everything here leaves verdicts as they are; tests hold that against exploring all of it, on
//! generated sagas, wrong ones and wrong transitions.
//!
//! - **The past is forgotten** where nothing asks for it any more: turning back, what is undone or never took effect; going forward,
//!   what is done and will not be undone, because it needs no undoing or the pivot is passed; of an end, everything.
//! - **Branches alike are interchangeable.** Side by side, the states of branches of the same shape count in any order. A branch
//!   with a wait is like no other: events find waits by their place.
//! - **One of many goes first** where the others can't tell: turning back, open commands settle one after the other, and so do
//!   compensations side by side; behind the pivot so does what is out side by side, if nothing awaits an event. Any order leads
//!   to the same states, and no rule looks at the order.
//! - **Early events come late:** only where the next input may open their wait. Until then nothing looks at them.
//! - **What nobody awaits is tried once** for each state of its step and of the saga, not in every state around.
//!
//! A class of states is named by a few bytes; the state that is kept is the first of its class that was found, as it was found.

use super::{
    reference::Fate,
    symbols::{Situation, Symbols},
};
use crate::{
    definition::{Graph, Kind, NodeId, Step, WayBack},
    instance::{Core, Leg, NodeState, Status},
};
use std::collections::HashMap;

/// Names what is settled or was never reached.
const NOTHING: u8 = 0;
/// Names what is done for good.
const FOR_GOOD: u8 = 30;
/// Precedes what is named at a node with an incident.
const INCIDENT: u8 = 31;
/// Names a block around others, while it is turned back through.
const AROUND: u8 = 32;

/// What is known of a graph before it is explored.
pub(super) struct Reduction<'a> {
    graph: &'a Graph,
    /// By node: equal numbers for what is alike.
    shapes: Vec<usize>,
    /// By node: what an effect there leaves may stay, by the word of its author.
    may_stay: Vec<bool>,
    /// Waits, each with the places of the events that it takes.
    pub(super) waits: Vec<(NodeId, Vec<u16>)>,
}

/// Which way a saga goes, as far as its past matters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Forward,
    PastPivot,
    Back,
}

impl<'a> Reduction<'a> {
    pub(super) fn new(symbols: &'a Symbols) -> Self {
        let graph = symbols.graph();
        let may_stay = graph.ids().map(|id| match graph.step(id).map(|step| &step.way_back) {
            Some(WayBack::Nothing { reason }) => !reason.trim().is_empty(),
            Some(WayBack::Compensated { .. } | WayBack::Pivot | WayBack::Retriable) => false,
            None => true,
        });
        let waits = graph.ids().filter_map(|id| match &graph.node(id).kind {
            Kind::Wait { event, refusing, .. } => {
                let names = std::iter::once(event).chain(refusing);
                Some((id, names.filter_map(|event| symbols.place_of(&event.name)).collect()))
            }
            _ => None,
        });
        Self { shapes: shapes(graph), may_stay: may_stay.collect(), waits: waits.collect(), graph }
    }

    /// Names the class of a state.
    pub(super) fn class(&self, symbols: &Symbols, core: &Core, fates: &[Fate]) -> Vec<u8> {
        let mut name = Vec::with_capacity(core.nodes.len() * 2 + 8);
        name.push(symbols.head(core));
        if core.status.is_end() {
            return name;
        }
        let way = match core.status {
            Status::TurningBack | Status::Compensated => Way::Back,
            Status::Running | Status::Completed | Status::Killed => {
                if self.is_past_pivot(core, fates) { Way::PastPivot } else { Way::Forward }
            }
        };
        for early in &core.early {
            let place = symbols.place_of(&early.event);
            let is_open = |(node, takes): &(NodeId, Vec<u16>)| {
                place.is_some_and(|place| takes.contains(&place))
                    && matches!(core.state(*node), NodeState::Idle | NodeState::Waiting { .. })
            };
            if let Some(place) = place.filter(|_| self.waits.iter().any(is_open)) {
                name.extend_from_slice(&[1, place.to_le_bytes()[0], place.to_le_bytes()[1]]);
            }
        }
        name.push(0);
        name.push(way as u8);
        let at = At { symbols, core, fates, way };
        self.lay(Graph::ROOT, &at, &mut name);
        name
    }

    /// Names what is known at a node and inside of it.
    fn lay(&self, node: NodeId, at: &At<'_>, name: &mut Vec<u8>) {
        let named = match at.way {
            Way::Back if self.is_settled(node, at) => Some(NOTHING),
            Way::Forward | Way::PastPivot if self.is_for_good(node, at) => Some(FOR_GOOD),
            Way::Back | Way::Forward | Way::PastPivot => None,
        };
        if let Some(named) = named {
            return name.push(named);
        }
        for incident in at.core.incidents.iter().filter(|incident| incident.node == node) {
            name.extend_from_slice(&[INCIDENT, u8::from(incident.leg == Leg::Compensate)]);
        }
        let inside = self.graph.children(node);
        if at.way == Way::Back && !inside.is_empty() {
            name.push(AROUND);
        } else {
            at.symbols.name_node(at.core.state(node), at.fates[node.index()], name);
        }
        if !matches!(self.graph.node(node).kind, Kind::All { .. }) {
            return inside.iter().for_each(|inner| self.lay(*inner, at, name));
        }
        let laid = inside.iter().map(|branch| {
            let mut name = Vec::new();
            self.lay(*branch, at, &mut name);
            (self.shapes[branch.index()], name)
        });
        let mut laid: Vec<(usize, Vec<u8>)> = laid.collect();
        laid.sort_unstable();
        laid.iter().for_each(|(_, branch)| name.extend_from_slice(branch));
    }

    /// Turning back: whether nothing in a node is open, or left to be undone.
    fn is_settled(&self, node: NodeId, at: &At<'_>) -> bool {
        if at.core.incidents.iter().any(|incident| incident.node == node) {
            return false;
        }
        let fate = at.fates[node.index()];
        match at.core.state(node) {
            NodeState::Open(_)
            | NodeState::InQuestion(_)
            | NodeState::Undoing(..)
            | NodeState::Stuck(..)
            | NodeState::Waiting { .. } => false,
            NodeState::Done(_) | NodeState::InDoubt
                if self.graph.step(node).is_some() && !self.may_stay[node.index()] =>
            {
                false
            }
            _ if !fate.is_quiet() || fate.stands() && !self.may_stay[node.index()] => false,
            _ => self.graph.children(node).iter().all(|inner| self.is_settled(*inner, at)),
        }
    }

    /// Going forward: whether a node is done and will never be asked about again.
    fn is_for_good(&self, node: NodeId, at: &At<'_>) -> bool {
        if at.core.incidents.iter().any(|incident| incident.node == node) {
            return false;
        }
        let (state, fate) = (at.core.state(node), at.fates[node.index()]);
        let all = |nodes: &[NodeId]| nodes.iter().all(|inner| self.is_for_good(*inner, at));
        match &self.graph.node(node).kind {
            Kind::Step(_) => {
                let may_be_undone = at.way == Way::Forward && !self.may_stay[node.index()];
                let is_done = matches!(state, NodeState::Done(_)) && fate.is_done();
                is_done && !may_be_undone
            }
            Kind::Wait { .. } | Kind::Publish { .. } | Kind::Pause { .. } => {
                matches!(state, NodeState::Done(_))
            }
            Kind::Sequence { children } => matches!(state, NodeState::Done(_)) && all(children),
            Kind::All { branches } => matches!(state, NodeState::Done(_)) && all(branches),
            Kind::Choose { arms, otherwise } => match state {
                NodeState::Chosen(None) => true,
                NodeState::Chosen(Some(place)) => {
                    let taken = arms.get(usize::from(*place)).map(|arm| arm.node).or(*otherwise);
                    taken.is_some_and(|taken| self.is_for_good(taken, at))
                }
                _ => false,
            },
        }
    }

    fn is_past_pivot(&self, core: &Core, fates: &[Fate]) -> bool {
        self.graph.ids().any(|id| {
            let is_pivot = |step: &Step| step.way_back == WayBack::Pivot;
            matches!(core.state(id), NodeState::Done(_))
                && self.graph.step(id).is_some_and(is_pivot)
                && fates[id.index()].is_done()
        })
    }

    /// The node whose inputs are enough, as all others that can move could do so before or after it just as well.
    pub(super) fn goes_first(&self, here: &Situation) -> Option<NodeId> {
        let core = &here.core;
        let of = |wanted: fn(&NodeState) -> bool| -> Vec<NodeId> {
            self.graph.ids().filter(|id| wanted(core.state(*id))).collect()
        };
        let open = of(|state| matches!(state, NodeState::Open(_) | NodeState::InQuestion(_)));
        let back = of(|state| matches!(state, NodeState::Undoing(..) | NodeState::Stuck(..)));
        let waiting = of(|state| matches!(state, NodeState::Waiting { .. }));
        let is_quiet = here.fates.iter().all(|fate| fate.is_quiet());
        match core.status {
            Status::TurningBack if back.is_empty() && waiting.is_empty() => {
                open.first().copied().filter(|_| open.len() > 1)
            }
            Status::TurningBack if open.is_empty() && waiting.is_empty() && is_quiet => {
                // One that was given up may be left to a person; first what moves by itself.
                let moves = |id: &&NodeId| matches!(core.state(**id), NodeState::Undoing(..));
                let first = back.iter().find(moves).or(back.first()).copied();
                first.filter(|_| back.len() > 1)
            }
            Status::Running if back.is_empty() && self.is_past_pivot(core, &here.fates) => {
                let may_fail = |id: &NodeId| {
                    let is_left = matches!(core.state(*id), NodeState::Idle | NodeState::Open(_));
                    match &self.graph.node(*id).kind {
                        Kind::Step(step) => {
                            !(matches!(core.state(*id), NodeState::Done(_))
                                || is_left && step.way_back == WayBack::Retriable)
                        }
                        _ => false,
                    }
                };
                let awaits = |(node, _): &(NodeId, Vec<u16>)| {
                    matches!(core.state(*node), NodeState::Idle | NodeState::Waiting { .. })
                };
                let fails =
                    self.graph.ids().any(|id| may_fail(&id) && self.is_on_the_way(id, core));
                let is_alone = open.len() + waiting.len() < 2;
                if fails || is_alone || self.waits.iter().any(awaits) {
                    return None;
                }
                open.first().or(waiting.first()).copied()
            }
            _ => None,
        }
    }

    /// Whether no choice around a node went another way.
    pub(super) fn is_on_the_way(&self, node: NodeId, core: &Core) -> bool {
        let mut inner = node;
        while let Some(outer) = self.graph.node(inner).parent {
            if let (NodeState::Chosen(place), Kind::Choose { arms, otherwise }) =
                (core.state(outer), &self.graph.node(outer).kind)
            {
                let taken = place.and_then(|place| {
                    arms.get(usize::from(place)).map(|arm| arm.node).or(*otherwise)
                });
                if taken != Some(inner) {
                    return false;
                }
            }
            inner = outer;
        }
        true
    }
}

/// A state that is being named.
struct At<'a> {
    symbols: &'a Symbols,
    core: &'a Core,
    fates: &'a [Fate],
    way: Way,
}

/// Equal numbers for nodes that are alike with all that lies in them, but for names, messages and times.
fn shapes(graph: &Graph) -> Vec<usize> {
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let mut shapes = vec![0; graph.nodes.len()];
    // Children lie behind their parents.
    for node in graph.ids().rev() {
        let inside: Vec<usize> =
            graph.children(node).iter().map(|inner| shapes[inner.index()]).collect();
        let told = match &graph.node(node).kind {
            Kind::Sequence { .. } => "sequence".into(),
            Kind::All { .. } => "all".into(),
            Kind::Choose { arms, otherwise } => {
                format!("choose {} {}", arms.len(), otherwise.is_some())
            }
            Kind::Publish { .. } => "publish".into(),
            Kind::Pause { .. } => "pause".into(),
            Kind::Wait { .. } => format!("wait {}", node.0),
            Kind::Step(step) => told_of(step),
        };
        let count = numbers.len();
        shapes[node.index()] = *numbers.entry(format!("{told} {inside:?}")).or_insert(count);
    }
    shapes
}

/// All of a step that a decision rests on.
fn told_of(step: &Step) -> String {
    let policy = |retry: &crate::retry::Retry| (retry.attempts_max, retry.not_after.clone());
    let way_back = match &step.way_back {
        WayBack::Compensated { retry, .. } => format!("compensated {:?}", policy(retry)),
        WayBack::Nothing { reason } => format!("nothing {}", reason.trim().is_empty()),
        WayBack::Pivot => "pivot".into(),
        WayBack::Retriable => "retriable".into(),
    };
    let status = step.status.as_ref().map(|status| policy(&status.retry));
    let rejected = step.rejection.is_some();
    format!("step {rejected} {:?} {status:?} {way_back}", policy(&step.retry))
}
