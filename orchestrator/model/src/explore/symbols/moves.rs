//! All that can come in, wanted or not.

use super::{Move, Symbols, Word};
use crate::{
    decision::Hold,
    definition::{Kind, NodeId, WayBack},
    instance::{Ask, Core, Leg, Next, NodeState},
    message::FailureEffect,
};

impl Symbols {
    /// All that can come in, wanted or not.
    pub(in crate::explore) fn moves(&self, core: &Core) -> Vec<Move> {
        let mut moves = Vec::with_capacity(core.nodes.len() * 3);
        self.graph().ids().for_each(|node| self.moves_at(node, core, &mut moves));
        moves.extend(self.events());
        moves.extend(self.moves_of_all(core));
        moves
    }

    /// Every event that is awaited somewhere.
    pub(in crate::explore) fn events(&self) -> impl Iterator<Item = Move> + use<> {
        let events = u16::try_from(self.events.len()).expect("fewer events than nodes fit");
        (0..events).map(Move::Event)
    }

    /// What concerns the saga as a whole, but for events.
    pub(in crate::explore) fn moves_of_all(&self, core: &Core) -> Vec<Move> {
        let mut moves = vec![Move::Cancel, Move::Kill];
        moves.extend(core.deadline.map(|_| Move::Due(None)));
        moves
    }

    /// All that can come in for one node, wanted or not.
    pub(in crate::explore) fn moves_at(&self, node: NodeId, core: &Core, moves: &mut Vec<Move>) {
        let failure = |retriable, effect| Word::Failure { retriable, effect };
        let failures = [
            failure(true, FailureEffect::None),
            failure(true, FailureEffect::Unknown),
            failure(false, FailureEffect::None),
            failure(false, FailureEffect::Unknown),
        ];
        let state = core.state(node);
        let Some(step) = self.graph().step(node) else {
            if matches!(state, NodeState::Waiting { .. }) {
                moves.push(Move::Due(Some(node)));
                let is_wait = matches!(self.graph().node(node).kind, Kind::Wait { .. });
                moves.extend(is_wait.then_some(Move::Unheard(node)));
            }
            return;
        };
        let rejection = step.rejection.as_ref().map(|_| Word::Rejection);
        let undone_by_command = matches!(step.way_back, WayBack::Compensated { .. });
        let mut under_way = |leg, ask: &Ask, words: &[Word]| {
            moves.push(Move::Reply(node, leg, Word::Success));
            if leg != Leg::Compensate {
                moves.extend(rejection.map(|word| Move::Reply(node, leg, word)));
            }
            moves.push(Move::Due(Some(node)));
            moves.push(Move::Retry(node));
            if ask.attempt > 1 {
                moves.push(Move::Stale(node, leg));
            }
            if self.holds {
                let hold = |hold| Move::Held(node, leg, hold);
                match ask.next {
                    Next::GiveUp(_) => {
                        moves.extend([Hold::Queued, Hold::GivenBack, Hold::Left].map(hold));
                        let effects = [FailureEffect::None, FailureEffect::Unknown];
                        let told = if leg == Leg::Do { &effects[..] } else { &effects[..1] };
                        let fails = told.iter().map(|it| Move::HeldFailure(node, leg, *it));
                        moves.extend(fails);
                    }
                    Next::AskAgain(_) | Next::Held(_) => moves.push(hold(Hold::GivenBack)),
                }
            }
            if matches!(ask.next, Next::GiveUp(_)) {
                moves.extend(words.iter().map(|word| Move::Reply(node, leg, *word)));
                moves.push(Move::Unsent(node, leg));
            } else {
                moves.push(Move::Unawaited(node, leg, words[0]));
            }
        };
        match state {
            NodeState::Open(ask) => under_way(Leg::Do, ask, &failures),
            // For a compensation it makes no difference whether a failed attempt had an effect.
            NodeState::Undoing(_, ask) => {
                under_way(Leg::Compensate, ask, &[failures[0], failures[2]]);
            }
            NodeState::InQuestion(question) => {
                let words = [Word::Unknown, failures[0], failures[2]];
                under_way(Leg::Status, &question.ask, &words);
                moves.push(Move::Reply(node, Leg::Status, Word::NotDone));
                // The command itself may be answered late, and that decides as well.
                moves.push(Move::Reply(node, Leg::Do, Word::Success));
                moves.extend(rejection.map(|word| Move::Reply(node, Leg::Do, word)));
                moves.push(Move::Unawaited(node, Leg::Do, failures[2]));
            }
            NodeState::Stuck(..) => {
                moves.push(Move::Reply(node, Leg::Compensate, Word::Success));
                moves.push(Move::Unawaited(node, Leg::Compensate, failures[0]));
                moves.push(Move::Retry(node));
                moves.push(Move::Resolve(node));
            }
            _ => {}
        }
        if !matches!(state, NodeState::Open(_) | NodeState::InQuestion(_)) {
            let words = [Word::Success, failures[3]].into_iter().chain(rejection);
            moves.extend(words.map(|word| Move::Unawaited(node, Leg::Do, word)));
        }
        if step.status.is_some() && !matches!(state, NodeState::InQuestion(_)) {
            let words = [Word::Success, Word::NotDone, Word::Unknown, failures[2]];
            let words = words.into_iter().chain(rejection);
            moves.extend(words.map(|word| Move::Unawaited(node, Leg::Status, word)));
        }
        if undone_by_command && !matches!(state, NodeState::Undoing(..) | NodeState::Stuck(..)) {
            moves.push(Move::Unawaited(node, Leg::Compensate, Word::Success));
        }
    }
}
