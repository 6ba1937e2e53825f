//! The rules of turning back, written a second time, from the graph alone.
//!
//! What a participant did is taken from what was asked and what it said, never from the state of a node. Plain and slow on
//! purpose: this is what the transition is measured against, so it shares nothing with it.

use super::{
    report::{Finding, ViolationKind},
    symbols::{Move, Word},
};
use crate::{
    decision::{Command, Decision, Effect, Hold},
    definition::{Graph, Kind, NodeId, Step, WayBack},
    instance::{Core, Leg, Next, NodeState, Status},
    message::FailureEffect,
};

/// What is known of the effect of one step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Fate {
    /// An attempt is out and nothing is known of it.
    in_flight: bool,
    /// An attempt before may have taken effect.
    in_doubt: bool,
    /// It took effect.
    took: bool,
    /// It was undone, or an operator vouched for it.
    undone: bool,
    /// Its participant was asked what became of it, and has not answered.
    in_question: bool,
}

impl Fate {
    pub(super) fn to_byte(self) -> u8 {
        u8::from(self.in_flight)
            | u8::from(self.in_doubt) << 1
            | u8::from(self.took) << 2
            | u8::from(self.undone) << 3
            | u8::from(self.in_question) << 4
    }

    pub(super) fn from_byte(byte: u8) -> Self {
        let bit = |place: u8| byte >> place & 1 == 1;
        Self {
            in_flight: bit(0),
            in_doubt: bit(1),
            took: bit(2),
            undone: bit(3),
            in_question: bit(4),
        }
    }

    /// Whether something may stand that was not undone.
    pub(super) fn stands(self) -> bool {
        (self.took || self.in_doubt) && !self.undone
    }

    /// Whether nothing is out and nothing is asked.
    pub(super) fn is_quiet(self) -> bool {
        !self.in_flight && !self.in_question
    }

    /// Whether it took effect, and that is all.
    pub(super) fn is_done(self) -> bool {
        self == Self { took: true, ..Self::default() }
    }
}

/// A graph that can be walked: every child lies behind its parent and knows it, every node but the first has one.
pub(super) fn well_laid(graph: &Graph) -> Result<(), String> {
    if graph.nodes.is_empty() || graph.nodes.len() > Graph::NODES_MAX {
        let count = graph.nodes.len();
        return Err(format!("{count} nodes; there must be 1 to {}", Graph::NODES_MAX));
    }
    let mut inside = vec![0_usize; graph.nodes.len()];
    for node in graph.ids() {
        for child in graph.children(node) {
            let known = graph.nodes.get(child.index());
            if child <= node || known.is_none_or(|known| known.parent != Some(node)) {
                let name = graph.name_of(node);
                return Err(format!("`{name}` holds node {}, which is not laid in it", child.0));
            }
            inside[child.index()] += 1;
        }
    }
    let lost = graph.ids().skip(1).find(|node| inside[node.index()] != 1);
    match lost {
        Some(node) => Err(format!("`{}` does not lie in exactly one block", graph.name_of(node))),
        None if graph.nodes[0].parent.is_some() => Err("the first node has a parent".into()),
        None => Ok(()),
    }
}

pub(super) struct Reference<'a> {
    graph: &'a Graph,
    /// By step: the compensatable steps that depend on it.
    dependents: Vec<Vec<NodeId>>,
}

impl<'a> Reference<'a> {
    pub(super) fn new(graph: &'a Graph) -> Self {
        let steps: Vec<NodeId> = graph.ids().filter(|id| graph.step(*id).is_some()).collect();
        let later = |first: &NodeId| -> Vec<NodeId> {
            steps
                .iter()
                .copied()
                .filter(|second| compensated(graph, *second) && depends(graph, *second, *first))
                .collect()
        };
        let dependents = graph
            .ids()
            .map(|id| if steps.contains(&id) { later(&id) } else { Vec::new() })
            .collect();
        Self { graph, dependents }
    }

    /// What an input tells of effects. `before` says only whether an attempt was under way.
    pub(super) fn hears(&self, by: Move, before: &Core, fates: &mut [Fate]) {
        let under_way = |node: NodeId| matches!(before.state(node), NodeState::Open(ask) if matches!(ask.next, Next::GiveUp(_)));
        // Whatever comes settles a question, or leads to the next one, which is seen then. One that is held is still open.
        let is_held = matches!(by, Move::Held(..) | Move::HeldFailure(..));
        if let Some(fate) = by.node().and_then(|node| fates.get_mut(node.index())) {
            fate.in_question &= by.is_unawaited() || is_held;
        }
        match by {
            Move::Reply(node, Leg::Do | Leg::Status, word) => {
                let fate = &mut fates[node.index()];
                fate.in_flight = false;
                match word {
                    Word::Success => *fate = Fate { took: true, ..Fate::default() },
                    Word::Rejection | Word::NotDone => *fate = Fate::default(),
                    Word::Failure { effect, .. } => {
                        fate.in_doubt |= effect == FailureEffect::Unknown;
                    }
                    Word::Unknown => {}
                }
            }
            Move::Reply(node, Leg::Compensate, Word::Success) | Move::Resolve(node) => {
                fates[node.index()].undone = true;
            }
            Move::Due(Some(node)) if under_way(node) => {
                fates[node.index()] =
                    Fate { in_flight: false, in_doubt: true, ..fates[node.index()] };
            }
            Move::Unsent(node, Leg::Do) => fates[node.index()].in_flight = false,
            // Given back is not sent: nobody can have taken it in. What had left may have taken effect.
            Move::Held(node, Leg::Do, Hold::GivenBack) => fates[node.index()].in_flight = false,
            Move::Held(node, Leg::Do, Hold::Left) if under_way(node) => {
                fates[node.index()] =
                    Fate { in_flight: false, in_doubt: true, ..fates[node.index()] };
            }
            Move::HeldFailure(node, Leg::Do, effect) => {
                let fate = &mut fates[node.index()];
                fate.in_flight = false;
                fate.in_doubt |= effect == FailureEffect::Unknown;
            }
            Move::Reply(_, Leg::Compensate, _)
            | Move::Unsent(_, Leg::Compensate | Leg::Status)
            | Move::Held(..)
            | Move::HeldFailure(..)
            | Move::Start
            | Move::Unawaited(..)
            | Move::Stale(..)
            | Move::Due(_)
            | Move::Event(_)
            | Move::Unheard(_)
            | Move::Cancel
            | Move::Kill
            | Move::Retry(_) => {}
        }
    }

    /// Whether a command that is held stays where it is and uses up nothing, and is released once: as the attempt that it was, or as the
    /// next one if that was answered.
    pub(super) fn holds(&self, by: Move, before: &Core, decision: &Decision) -> Option<Finding> {
        let node = by.node()?;
        let (leg, ask) = before.state(node).asked()?;
        let sent: Vec<u32> = decision
            .effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Command(command) if (command.node, command.leg) == (node, leg) => {
                    Some(command.attempt)
                }
                Effect::Command(_) | Effect::Publish { .. } => None,
            })
            .collect();
        let name = self.graph.name_of(node);
        let found = |text: String| {
            Some(Finding { kind: ViolationKind::HeldWrongly, node: Some(node), text })
        };
        match by {
            Move::Held(..) | Move::HeldFailure(..) if !sent.is_empty() => {
                found(format!("the command of `{name}` is sent though its destination holds it"))
            }
            Move::Held(..) | Move::HeldFailure(..) => {
                // The next attempt begins by being held, the one that was under way is the same still. One that was answered
                // would be answered the same for ever: its place takes another one, which counts as the one before it.
                let is_next = matches!(ask.next, Next::AskAgain(_));
                // Turning back, no further attempt of a step starts, and nothing takes its place.
                let may_ask = leg != Leg::Do || before.status == Status::Running;
                let is_answered = matches!(by, Move::HeldFailure(..)) && may_ask;
                let expected = ask.attempt + u32::from(is_next || is_answered);
                let counts_as = ask.counted() + u32::from(is_next);
                let (_, after) =
                    decision.instance.core.state(node).asked().filter(|(it, _)| *it == leg)?;
                let is_right = after.attempt == expected && after.counted() == counts_as;
                (!is_right).then_some(())?;
                found(format!(
                    "`{name}`: being held made what is to be attempt {expected}, counting as {counts_as}, attempt {}, counting as {}",
                    after.attempt,
                    after.counted()
                ))
            }
            Move::Due(_) if matches!(ask.next, Next::Held(_)) && sent != [ask.attempt] => {
                found(format!(
                    "`{name}`: attempt {} was held, and attempts {sent:?} are sent in its place",
                    ask.attempt
                ))
            }
            _ => None,
        }
    }

    /// A command that goes out: what it tells of effects, and whether it may.
    pub(super) fn sees(
        &self,
        before: &Core,
        after: &Core,
        command: &Command,
        fates: &mut [Fate],
    ) -> Option<Finding> {
        let node = command.node;
        let found = |kind, text: String| Some(Finding { kind, node: Some(node), text });
        match command.leg {
            Leg::Do => {
                let fate = &mut fates[node.index()];
                // Asked again while nothing was known of the attempt before: that one may have taken effect.
                fate.in_doubt |= fate.in_flight;
                fate.in_flight = true;
                if before.status == Status::TurningBack {
                    let text = format!("{} was sent after the saga had turned back", command.name);
                    return found(ViolationKind::ForwardAfterTurningBack, text);
                }
                None
            }
            Leg::Status => {
                let fate = &mut fates[node.index()];
                let is_doubtful = fate.in_doubt && !fate.took && !fate.undone && !fate.in_flight;
                fate.in_question = true;
                if is_doubtful {
                    return None;
                }
                let name = self.graph.name_of(node);
                let text = format!("what became of `{name}` is asked though nothing is in doubt");
                found(ViolationKind::AskedWithoutDoubt, text)
            }
            Leg::Compensate => {
                let name = self.graph.name_of(node);
                let fate = fates[node.index()];
                let pivot = self.graph.ids().find(|id| {
                    fates[id.index()].took && way_back(self.graph, *id) == Some(&WayBack::Pivot)
                });
                if let Some(pivot) = pivot {
                    let pivot = self.graph.name_of(pivot);
                    let text =
                        format!("`{name}` is compensated though the pivot `{pivot}` is done");
                    return found(ViolationKind::CompensatedAfterPivot, text);
                }
                if after.status != Status::TurningBack {
                    let text =
                        format!("`{name}` is compensated while the saga is {}", after.status);
                    return found(ViolationKind::CompensatedGoingForward, text);
                }
                if !fate.stands() {
                    let text = format!(
                        "`{name}` is compensated though it certainly took no effect, or is undone"
                    );
                    return found(ViolationKind::CompensatedWithoutEffect, text);
                }
                let is_open = |id: &NodeId| {
                    let fate = fates[id.index()];
                    fate.in_flight || fate.in_question
                };
                if let Some(open) = self.graph.ids().find(is_open) {
                    let open = self.graph.name_of(open);
                    let text = format!("`{name}` is compensated while `{open}` is still out");
                    return found(ViolationKind::CompensationRacesCommand, text);
                }
                let first =
                    self.dependents[node.index()].iter().find(|id| fates[id.index()].stands());
                first.and_then(|first| {
                    let first = self.graph.name_of(*first);
                    let text =
                        format!("`{name}` is compensated before `{first}`, which depended on it");
                    found(ViolationKind::CompensatedOutOfOrder, text)
                })
            }
        }
    }

    /// Whether a saga may stand where it does now.
    pub(super) fn judges(&self, before: &Core, after: &Core, fates: &[Fate]) -> Option<Finding> {
        let wrong_turn = before.status == Status::TurningBack
            && matches!(after.status, Status::Running | Status::Completed);
        if wrong_turn {
            let text = format!("the saga had turned back and is {} now", after.status);
            return Some(Finding::saga(ViolationKind::ForwardAfterTurningBack, &text));
        }
        match after.status {
            Status::Running | Status::TurningBack | Status::Killed => None,
            Status::Completed => {
                let open = self.unfinished(Graph::ROOT, after, fates)?;
                let text =
                    format!("it completed though `{}` is not done", self.graph.name_of(open));
                Some(Finding { kind: ViolationKind::CompletedTooSoon, node: Some(open), text })
            }
            Status::Compensated => self.left(fates),
        }
    }

    /// What stays after a saga ended compensated.
    fn left(&self, fates: &[Fate]) -> Option<Finding> {
        self.graph.ids().find_map(|node| {
            let fate = fates[node.index()];
            let name = self.graph.name_of(node);
            if fate.in_flight {
                let text = format!("`{name}` is still out, and may take effect unseen");
                return Some(Finding { kind: ViolationKind::LeftInDoubt, node: Some(node), text });
            }
            let way_back = way_back(self.graph, node)?;
            let accepted =
                matches!(way_back, WayBack::Nothing { reason } if !reason.trim().is_empty());
            if !fate.stands() || accepted {
                return None;
            }
            let (kind, how) = match fate.took {
                true => (ViolationKind::LeftUncompensated, "took"),
                false => (ViolationKind::LeftInDoubt, "may have taken"),
            };
            let why = match way_back {
                WayBack::Compensated { .. } => "",
                WayBack::Nothing { .. } => {
                    ": it has no compensation, and no reason is written why it needs none"
                }
                WayBack::Pivot => ": it is the pivot",
                WayBack::Retriable => ": it has no compensation, being retriable",
            };
            let text = format!("`{name}` {how} effect and stays uncompensated{why}");
            Some(Finding { kind, node: Some(node), text })
        })
    }

    /// The first node on the path taken that is not done.
    fn unfinished(&self, node: NodeId, core: &Core, fates: &[Fate]) -> Option<NodeId> {
        let inside =
            |nodes: &[NodeId]| nodes.iter().find_map(|inner| self.unfinished(*inner, core, fates));
        match &self.graph.node(node).kind {
            Kind::Sequence { children } => inside(children),
            Kind::All { branches } => inside(branches),
            Kind::Choose { arms, otherwise } => match core.state(node) {
                NodeState::Chosen(place) => {
                    let place = usize::from((*place)?);
                    let taken = arms.get(place).map(|arm| arm.node).or(*otherwise)?;
                    self.unfinished(taken, core, fates)
                }
                _ => Some(node),
            },
            Kind::Step(_) => (!fates[node.index()].took).then_some(node),
            Kind::Wait { .. } | Kind::Publish { .. } | Kind::Pause { .. } => {
                (!matches!(core.state(node), NodeState::Done(_))).then_some(node)
            }
        }
    }
}

fn way_back(graph: &Graph, node: NodeId) -> Option<&WayBack> {
    graph.step(node).map(|Step { way_back, .. }| way_back)
}

fn compensated(graph: &Graph, node: NodeId) -> bool {
    matches!(way_back(graph, node), Some(WayBack::Compensated { .. }))
}

/// Whether `second` is only begun once `first` is done: the innermost block around both is a sequence, and `first`
/// lies in an earlier part of it.
fn depends(graph: &Graph, second: NodeId, first: NodeId) -> bool {
    let (mut ours, theirs) = (around(graph, second), around(graph, first));
    let shared = ours.iter().zip(&theirs).take_while(|(one, other)| one == other).count();
    if shared == 0 || shared >= ours.len() || shared >= theirs.len() {
        return false;
    }
    let (one, other) = (ours.swap_remove(shared), theirs[shared]);
    match &graph.node(theirs[shared - 1]).kind {
        Kind::Sequence { children } => {
            let place = |node| children.iter().position(|child| *child == node);
            place(other) < place(one)
        }
        _ => false,
    }
}

/// A node and the blocks around it, the outermost first.
fn around(graph: &Graph, node: NodeId) -> Vec<NodeId> {
    let mut path: Vec<NodeId> =
        std::iter::successors(Some(node), |inner| graph.node(*inner).parent).collect();
    path.reverse();
    path
}

#[cfg(test)]
mod tests;
