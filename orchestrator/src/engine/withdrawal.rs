//! Commands that must not leave any more, or not again, since their instances count on that.
//!
//! ```text
//! not confirmed, and its process has ended ─► recovery asks of each: must it stay?
//! not confirmed, and its answer is heard   ─► the shard asks the same ─► durable ─► its relay takes it out
//! ```
//!
//! A broker may have taken in a command whose confirm is lost. Its relay sends it again, with the same id, until it is confirmed; its
//! answer may come before that. Where the answer says that there was no effect, the same attempt sent once more might have one after all.

use super::{
    committer::Committer,
    group::{Lane, LaneSeq, Outgoing, Sender},
};
use crate::planted::{self, Bug};
use dirigent_model::{
    definition::NodeId,
    instance::{Core, Leg, Next, NodeState},
};
use std::collections::VecDeque;

/// A command that an answer has settled, with all attempts before: wherever they still are, they do not leave. Whatever is asked of
/// the same step and leg after it is a later attempt, so that this one is never the next to leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Withdrawn {
    pub lane: Lane,
    pub channel: String,
    pub sender: Sender,
}

impl Withdrawn {
    /// Whether a message is an attempt of this command, this one or one before it.
    pub(crate) fn covers(&self, sender: Sender) -> bool {
        let Sender { instance, run, node, leg, attempt } = self.sender;
        (instance, run, node, leg) == (sender.instance, sender.run, sender.node, sender.leg)
            && sender.attempt <= attempt
    }
}

/// The commands of a node that are out, as an instance is before an input: which leg, and the last attempt.
pub(super) fn out_at(core: &Core, node: NodeId) -> [Option<(Leg, u32)>; 2] {
    let Some(state) = core.nodes.get(node.index()) else { return [None; 2] };
    let about = match state {
        // The command itself may still be on its way while its participant is asked what became of it.
        NodeState::InQuestion(question) => Some((Leg::Do, question.about.attempt)),
        _ => None,
    };
    [state.asked().map(|(leg, ask)| (leg, ask.attempt)), about]
}

/// Which of the commands that were out an answer has settled so that they must not leave again. One that was done may: it is
/// answered the same.
pub(super) fn settled(
    core: &Core,
    node: NodeId,
    out: [Option<(Leg, u32)>; 2],
) -> impl Iterator<Item = Sender> + use<> {
    let (instance, run) = (core.id, core.run);
    let stays = out.map(|out| {
        let (leg, attempt) = out?;
        let sender = Sender { instance, run, node, leg, attempt };
        let is_done = match (leg, core.state(node)) {
            (Leg::Do, state) => matches!(state, NodeState::Done(_)),
            (Leg::Compensate, state) => matches!(state, NodeState::Undone),
            (Leg::Status, _) => false,
        };
        (!is_done && must_stay(core, sender)).then_some(sender)
    });
    stays.into_iter().flatten()
}

impl Committer {
    /// Takes out what must not leave any more, now that it is durable why.
    pub(super) fn withdraw(&mut self, withdrawn: Vec<Withdrawn>) {
        if planted::is(Bug::WithdrawalIgnored) {
            return;
        }
        for command in withdrawn {
            let lane = usize::from(command.lane);
            let gone = take_out(&mut self.backlog[lane], &command);
            self.relays[lane].confirm(&gone);
            self.relays[lane].withdraw(command);
        }
    }
}

/// Takes the attempts that a command withdraws out of what still waits for room; answers which they were.
fn take_out(backlog: &mut VecDeque<(LaneSeq, Outgoing)>, command: &Withdrawn) -> Vec<LaneSeq> {
    let mut gone = Vec::new();
    backlog.retain(|(seq, outgoing)| {
        let stays = outgoing.sender.is_some_and(|sender| command.covers(sender));
        gone.extend(stays.then_some(*seq));
        !stays
    });
    gone
}

/// Whether an instance counts on a command not leaving: it has been told that it did not, or had no effect, or it asks for nothing
/// any more. Sent again now, the command might take effect after all, and nobody would take that back.
pub(super) fn must_stay(core: &Core, sender: Sender) -> bool {
    if planted::is(Bug::SendsWhatMustStay) {
        return false;
    }
    if core.run != sender.run || core.status.is_end() {
        // Of a later run than this one nobody knows: it is sent, and `fsck` tells of it.
        return core.run >= sender.run;
    }
    let Some(state) = core.nodes.get(sender.node.index()) else { return false };
    match (sender.leg, state) {
        // It could not be sent, or was refused, and its step will not be compensated.
        (Leg::Do, NodeState::NoEffect(_)) => true,
        // An earlier attempt had no effect for certain, and the instance sends the next one itself when it is time: after a
        // rest between two attempts, or when its destination takes it. Turning back before that, it compensates nothing.
        (Leg::Do, NodeState::Open(ask)) if !ask.doubt => {
            sender.attempt < ask.attempt || !matches!(ask.next, Next::GiveUp(_))
        }
        // The answer would be heard by nobody, but the participant would refuse the command from then on.
        (Leg::Status, state) => !matches!(state, NodeState::InQuestion(_)),
        (Leg::Do | Leg::Compensate, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dirigent_connectors::{Attributes, ChannelKind, Message};
    use dirigent_model::{
        definition::Fingerprint,
        instance::{Ask, CauseKind, InstanceId, NoEffect, Question, Status, Trace},
        message::Key,
        time::Timestamp,
    };

    fn core(state: NodeState) -> Core {
        let key = Key::from("80");
        Core {
            id: InstanceId::of("order", &key),
            definition: "order".into(),
            version: 1,
            fingerprint: Fingerprint(7),
            key,
            run: 1,
            status: Status::Running,
            revision: 1,
            nodes: vec![state],
            cause: None,
            incidents: vec![],
            early: vec![],
            events_taken: vec![],
            started_at: Timestamp(1),
            ended_at: None,
            deadline: None,
            trace: Trace::default(),
        }
    }

    fn ask(attempt: u32, next: Next, doubt: bool) -> Ask {
        let (first_at, asked_at) = (Timestamp(1), Timestamp(1));
        Ask { attempt, excused: 0, first_at, asked_at, next, doubt, questions: 0 }
    }

    fn sender(core: &Core, leg: Leg, attempt: u32) -> Sender {
        Sender { instance: core.id, run: core.run, node: NodeId(0), leg, attempt }
    }

    #[test]
    fn a_command_stays_where_its_instance_counts_on_that_and_leaves_where_it_waits_for_it() {
        let at = Timestamp(9);
        let stays = |state: NodeState, leg, attempt| {
            let core = core(state);
            must_stay(&core, sender(&core, leg, attempt))
        };
        for next in [Next::Held(at), Next::AskAgain(at)] {
            assert!(stays(NodeState::Open(ask(2, next, false)), Leg::Do, 2), "{next:?}");
            assert!(!stays(NodeState::Open(ask(2, next, true)), Leg::Do, 2), "in doubt, {next:?}");
        }
        let asked = |doubt| NodeState::Open(ask(2, Next::GiveUp(at), doubt));
        assert!(!stays(asked(false), Leg::Do, 2));
        assert!(stays(asked(false), Leg::Do, 1), "the first attempt had no effect for certain");
        assert!(!stays(asked(true), Leg::Do, 1));
        assert!(stays(NodeState::NoEffect(NoEffect::Unsent), Leg::Do, 1));
        assert!(!stays(NodeState::InDoubt, Leg::Do, 1));
        let undoing = NodeState::Undoing(None, ask(1, Next::Held(at), false));
        assert!(!stays(undoing, Leg::Compensate, 1));
        assert!(stays(asked(true), Leg::Status, 1), "nobody awaits that answer any more");
    }

    #[test]
    fn a_command_of_a_former_run_or_of_a_saga_that_has_ended_stays() {
        let here = core(NodeState::Open(ask(1, Next::GiveUp(Timestamp(9)), false)));
        let of = |run| Sender { run, ..sender(&here, Leg::Do, 1) };
        assert!(must_stay(&here, of(0)) && !must_stay(&here, of(1)));
        assert!(
            !must_stay(&here, of(2)),
            "a later run than the one that is there is told of by fsck"
        );
        let ended = Core { status: Status::Killed, ..here.clone() };
        assert!(must_stay(&ended, of(1)) && !must_stay(&ended, of(2)));
    }

    #[test]
    fn an_answer_without_effect_settles_all_attempts_of_its_command_and_a_success_none() {
        let at = Timestamp(9);
        let node = NodeId(0);
        let settles = |before: NodeState, after: NodeState| -> Vec<(Leg, u32)> {
            let out = out_at(&core(before), node);
            settled(&core(after), node, out).map(|sender| (sender.leg, sender.attempt)).collect()
        };
        let out = |doubt| NodeState::Open(ask(3, Next::GiveUp(at), doubt));
        for next in [Next::AskAgain(at), Next::Held(at)] {
            assert_eq!(settles(out(false), NodeState::Open(ask(3, next, false))), [(Leg::Do, 3)]);
            assert_eq!(settles(out(true), NodeState::Open(ask(3, next, true))), []);
        }
        assert_eq!(settles(out(true), NodeState::NoEffect(NoEffect::Rejected)), [(Leg::Do, 3)]);
        assert_eq!(settles(out(false), NodeState::Done(None)), []);
        assert_eq!(settles(NodeState::Idle, NodeState::Idle), []);
        let (text, cause) = (String::new(), CauseKind::TimedOut);
        let (open, about) = (ask(1, Next::GiveUp(at), false), ask(3, Next::GiveUp(at), true));
        let asked = NodeState::InQuestion(Box::new(Question { ask: open, about, cause, text }));
        let not_done = NodeState::NoEffect(NoEffect::NotDone);
        assert_eq!(settles(asked.clone(), not_done), [(Leg::Status, 1), (Leg::Do, 3)]);
        assert_eq!(settles(asked.clone(), NodeState::InDoubt), [(Leg::Status, 1)]);
        assert_eq!(settles(asked, NodeState::Done(None)), [(Leg::Status, 1)]);
        let last = core(NodeState::Undoing(None, ask(1, Next::GiveUp(at), false)));
        let ended = Core { status: Status::Compensated, ..core(NodeState::Undone) };
        assert_eq!(settled(&ended, node, out_at(&last, node)).count(), 0);
    }

    #[test]
    fn what_is_withdrawn_covers_this_attempt_and_those_before_of_this_run_only() {
        let here = core(NodeState::Idle);
        let of = |leg, attempt| sender(&here, leg, attempt);
        let withdrawn = Withdrawn { lane: 0, channel: "work".into(), sender: of(Leg::Do, 2) };
        let covers = |sender| withdrawn.covers(sender);
        assert!(covers(of(Leg::Do, 1)) && covers(of(Leg::Do, 2)));
        assert!(!covers(of(Leg::Do, 3)) && !covers(of(Leg::Status, 2)));
        assert!(!covers(Sender { run: 2, ..of(Leg::Do, 1) }));
    }

    #[test]
    fn what_is_withdrawn_is_taken_out_of_what_waits_for_room_and_the_rest_stays_in_its_order() {
        let here = core(NodeState::Idle);
        let outgoing = |sender: Option<Sender>| Outgoing {
            lane: 0,
            sender,
            saga: 0,
            message: Message {
                channel: "work".into(),
                kind: ChannelKind::Work,
                key: "80".into(),
                attributes: Attributes::new(),
                others: Vec::new(),
                body: "{}".into(),
            },
        };
        let of = |leg, attempt| Some(sender(&here, leg, attempt));
        let waiting = [of(Leg::Do, 1), None, of(Leg::Status, 1), of(Leg::Do, 2), of(Leg::Do, 3)];
        let mut backlog: VecDeque<(LaneSeq, Outgoing)> = (7..).zip(waiting.map(outgoing)).collect();
        let command =
            Withdrawn { lane: 0, channel: "work".into(), sender: sender(&here, Leg::Do, 2) };
        assert_eq!(take_out(&mut backlog, &command), [7, 10]);
        let left: Vec<LaneSeq> = backlog.iter().map(|(seq, _)| *seq).collect();
        assert_eq!(left, [8, 9, 11]);
        assert_eq!(take_out(&mut backlog, &command), [0; 0], "once");
    }
}
