//! Commands that their destination holds: its circuit is open, it was paused, or it takes no more for now.
//!
//! Rule 23: what is held does not count. Neither the attempt nor the time is used up, and no saga fails of it; the saga's
//! own deadline goes on. What was not answered is asked again as the attempt that it was. What was answered by a failure for
//! now is settled by that answer, and a participant repeats it to the same attempt for ever: so the next attempt is asked, and
//! the one before it is *excused*: the policy does not count it. A command that has not left holds up no turning back: its step had no effect. And while it still
//! waits for its turn its step is open, so that no compensation overtakes it.

use super::{
    Outcome, Told, Turn,
    forward::{Trouble, step_of},
};
use crate::{
    decision::{Heard, Hold},
    definition::{Graph, NodeId, WayBack},
    history::{Verdict, What, Why},
    instance::{Ask, Leg, Next, NodeState, Question, Status},
    time::Timestamp,
};

impl Turn<'_> {
    /// Notes what an input says of a command's destination.
    pub(super) fn hear(&mut self, node: NodeId, leg: Leg, well: bool) {
        let left = match (leg, self.state(node)) {
            (Leg::Do, NodeState::InQuestion(question)) => question.about.asked_at,
            (Leg::Compensate, NodeState::Stuck(_, ask)) => ask.asked_at,
            _ => self.ask_of(node, leg).map_or(self.now, |ask| ask.asked_at),
        };
        self.heard = Some(Heard { node, leg, well, left });
    }

    /// Whether a command may go on resting: turning back, no further attempt of a step starts.
    pub(super) fn may_rest(&self, leg: Leg) -> bool {
        leg != Leg::Do || self.status() == Status::Running
    }

    /// A command is held.
    pub(super) fn held(
        &mut self,
        (node, leg, attempt): (NodeId, Leg, u32),
        hold: Hold,
        until: Timestamp,
    ) -> Result<Outcome, crate::decision::Unreadable> {
        self.graph().step(node).ok_or(crate::decision::Unreadable::NoSuchCommand { leg })?;
        let told = Told::of(What::Held, node);
        if self.status().is_end() {
            return Ok(told.ignored(Why::HasEnded));
        }
        let Some(ask) = self.ask_of(node, leg).cloned() else {
            return Ok(told.ignored(Why::AlreadySettled));
        };
        match (ask.next, hold) {
            (Next::GiveUp(_), _) if ask.attempt != attempt => {
                return Ok(told.ignored(Why::EarlierAttempt));
            }
            (Next::GiveUp(_), Hold::Queued) => {
                let within = self.within(node, leg);
                let next = Next::GiveUp(self.now + within);
                self.put(node, Ask { next, ..ask_after_hold(ask, self.now) });
                self.is_told = true;
            }
            // Turning back, nothing is asked again: it was not answered in time, and that is all.
            (Next::GiveUp(_), Hold::Left) if !self.may_rest(leg) => return Ok(self.due()),
            (Next::GiveUp(_), Hold::GivenBack | Hold::Left) => {
                self.hold((node, leg), until, hold == Hold::Left);
                self.go_back();
            }
            (Next::AskAgain(_), Hold::GivenBack) => {
                let attempt = ask.attempt.saturating_add(1);
                self.put(node, Ask { attempt, next: Next::Held(until), asked_at: self.now, ..ask });
            }
            // The history was told when it began.
            (Next::Held(_), Hold::GivenBack) => {
                self.put(node, Ask { next: Next::Held(until), ..ask });
                self.is_told = true;
            }
            (Next::AskAgain(_) | Next::Held(_), Hold::Queued | Hold::Left) => {
                return Ok(told.ignored(Why::EarlierAttempt));
            }
        }
        Ok((Verdict::Applied, told))
    }

    /// Lets a command rest whose answer was a failure for now of a destination that is held: the attempt has its answer, and is excused.
    pub(super) fn hold_answered(&mut self, at: (NodeId, Leg), until: Timestamp, doubt: bool) {
        self.hold(at, until, doubt);
        let ask = self.ask_of(at.0, at.1).cloned().expect("a command that is held is still open");
        let (attempt, excused) = (ask.attempt.saturating_add(1), ask.excused.saturating_add(1));
        self.put(at.0, Ask { attempt, excused, ..ask });
    }

    /// Lets a command rest that its destination holds. Turning back, its step is settled instead.
    pub(super) fn hold(&mut self, (node, leg): (NodeId, Leg), until: Timestamp, doubt: bool) {
        if !self.may_rest(leg) {
            let text = "its destination holds it";
            let trouble = if doubt { Trouble::timed_out(text) } else { Trouble::unsent(text) };
            return self.attempt_failed(node, leg, &trouble);
        }
        let ask = self.ask_of(node, leg).cloned().expect("only a command that is out can be held");
        let doubt = ask.doubt || doubt && leg != Leg::Status;
        let ask = ask_after_hold(ask, self.now);
        self.put(node, Ask { next: Next::Held(until), doubt, asked_at: self.now, ..ask });
    }

    fn put(&mut self, node: NodeId, ask: Ask) {
        let state = match self.state(node) {
            NodeState::Undoing(done, _) => NodeState::Undoing(done.clone(), ask),
            NodeState::InQuestion(question) => {
                NodeState::InQuestion(Box::new(Question { ask, ..(**question).clone() }))
            }
            _ => NodeState::Open(ask),
        };
        self.set(node, state);
    }

    /// The command that is out, or rests.
    fn ask_of(&self, node: NodeId, leg: Leg) -> Option<&Ask> {
        self.state(node).asked().filter(|(asked, _)| *asked == leg).map(|(_, ask)| ask)
    }

    fn within(&self, node: NodeId, leg: Leg) -> std::time::Duration {
        let step = step_of(self.graph(), node);
        match (leg, &step.way_back) {
            (Leg::Compensate, WayBack::Compensated { reply_within, .. }) => *reply_within,
            (Leg::Status, _) => {
                step.status.as_ref().map_or(step.reply_within, |status| status.reply_within)
            }
            (Leg::Do | Leg::Compensate, _) => step.reply_within,
        }
    }
}

/// The same attempt with the time since it began taken out of the policy's.
pub(super) fn ask_after_hold(ask: Ask, now: Timestamp) -> Ask {
    Ask { first_at: ask.first_at + now.since(ask.asked_at), asked_at: now, ..ask }
}

/// The channel that a command goes to; `None` for a node without commands.
pub fn destination(graph: &Graph, node: NodeId, leg: Leg) -> Option<&str> {
    let step = graph.step(node)?;
    Some(match (leg, &step.way_back) {
        (Leg::Compensate, WayBack::Compensated { command, .. }) => &command.channel,
        (Leg::Do | Leg::Compensate | Leg::Status, _) => &step.command.channel,
    })
}
