//! Replies, and time passing.
//!
//! Rule 4: a reply counts only if it is awaited. Rules 6 and 7: no answer in time means in doubt, except for a pivot.

use super::{
    Outcome, Told, Turn,
    forward::{Trouble, is_resting, step_of},
    held::ask_after_hold,
};
use crate::{
    decision::{Reply, Unreadable},
    definition::{NodeId, WayBack},
    history::{Verdict, What, Why},
    instance::{Ask, CauseKind, Leg, Next, NoEffect, NodeState, Question, Status},
    message::{Failure, FailureEffect, Message, StatusNotDone, StatusUnknown},
    planted::{self, Mistake},
};

impl Turn<'_> {
    pub(super) fn reply(&mut self, reply: Reply) -> Result<Outcome, Unreadable> {
        let (node, leg) = (reply.node, reply.leg);
        let step = self.graph().step(node).ok_or(Unreadable::NoSuchCommand { leg })?;
        let kind = match leg {
            Leg::Do if reply.name == step.success => What::Succeeded,
            Leg::Do if step.rejection.as_ref() == Some(&reply.name) => What::Rejected,
            Leg::Compensate if matches!(&step.way_back, WayBack::Compensated { success, .. } if *success == reply.name) => {
                What::Succeeded
            }
            Leg::Status if step.status.is_none() => return Err(Unreadable::NoSuchCommand { leg }),
            Leg::Status if planted::is(Mistake::StatusAnswerIgnored) => What::NotDone,
            Leg::Status if reply.name == step.success => What::Succeeded,
            Leg::Status if step.rejection.as_ref() == Some(&reply.name) => What::Rejected,
            Leg::Status if reply.name == StatusNotDone::NAME => What::NotDone,
            Leg::Status if reply.name == StatusUnknown::NAME => What::Unknown,
            _ if reply.name == Failure::NAME => What::Failed,
            _ => return Err(self.unknown_reply(node, leg, &reply.name)),
        };
        let told = Told::of(kind, node);
        if self.status().is_end() {
            return Ok(told.ignored(Why::HasEnded));
        }
        if let Some(why) = self.not_awaited(&reply) {
            let repeated =
                why == Why::AlreadySettled && kind == What::Succeeded && self.is_done(node, leg);
            return Ok(if repeated { (Verdict::Duplicate, told) } else { told.ignored(why) });
        }
        match kind {
            What::NotDone | What::Unknown | What::Failed if leg == Leg::Status => {
                let note = self.status_answered(&reply, kind)?;
                let told = match note {
                    Some(note) => told.noting(&note),
                    None => told,
                };
                Ok((Verdict::Applied, told))
            }
            What::Failed => self.failure(&reply, told),
            What::Rejected => {
                self.hear(node, leg, true);
                let behaviour = self.plan.behaviour();
                behaviour.rejected(node, &mut *self.instance.data, &reply.body, self.codec)?;
                self.settle_incident(node, Leg::Do);
                self.set(node, NodeState::NoEffect(NoEffect::Rejected));
                let cause = self.cause(Some(node), CauseKind::Rejected, &reply.name);
                self.turn_back(cause);
                Ok((Verdict::Applied, told.noting(&reply.name)))
            }
            _ => {
                self.hear(node, leg, true);
                self.success(reply)?;
                Ok((Verdict::Applied, told))
            }
        }
    }

    fn unknown_reply(&self, node: NodeId, leg: Leg, found: &str) -> Unreadable {
        let step = step_of(self.graph(), node);
        let mut expected = match (leg, &step.way_back) {
            (Leg::Do, _) => {
                std::iter::once(&step.success).chain(&step.rejection).cloned().collect()
            }
            (Leg::Compensate, WayBack::Compensated { success, .. }) => vec![success.clone()],
            (Leg::Compensate, _) => return Unreadable::NoSuchCommand { leg },
            (Leg::Status, _) => {
                let answers = [StatusNotDone::NAME, StatusUnknown::NAME].map(ToOwned::to_owned);
                let replies = std::iter::once(&step.success).chain(&step.rejection).cloned();
                replies.chain(answers).collect()
            }
        };
        expected.push(Failure::NAME.into());
        let expected =
            expected.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        Unreadable::UnknownReply {
            step: self.graph().name_of(node).into(),
            expected,
            found: found.into(),
        }
    }

    /// Why a reply does not count; `None` when it does.
    fn not_awaited(&self, reply: &Reply) -> Option<Why> {
        let expected =
            self.instance.core.idempotency_key(self.graph().name_of(reply.node), reply.leg);
        // A later run follows in the same place: there, a reply without a key may be one to the run before.
        if reply.key.map_or(self.instance.core.run > 0, |key| key != expected) {
            return Some(Why::OtherKey);
        }
        let ask = match (reply.leg, self.state(reply.node)) {
            (Leg::Do, NodeState::Open(ask)) => ask,
            (Leg::Do, NodeState::InQuestion(question)) => &question.about,
            (Leg::Status, NodeState::InQuestion(question)) => {
                let is_fact = [&*step_of(self.graph(), reply.node).success, StatusNotDone::NAME]
                    .contains(&reply.name.as_str());
                let is_fact = is_fact
                    || step_of(self.graph(), reply.node).rejection.as_ref() == Some(&reply.name);
                return (!is_fact && Self::is_earlier_question(question, reply))
                    .then_some(Why::EarlierAttempt);
            }
            // A pivot that was in question before is asked again: what comes late speaks of an earlier question.
            (Leg::Status, NodeState::Open(ask)) if ask.doubt => return Some(Why::EarlierAttempt),
            (Leg::Status, NodeState::Idle | NodeState::Open(_)) => return Some(Why::NotAsked),
            (Leg::Status, _) => return Some(Why::AlreadySettled),
            (Leg::Compensate, NodeState::Undoing(_, ask) | NodeState::Stuck(_, ask)) => ask,
            (Leg::Do, NodeState::Done(_)) if planted::is(Mistake::ReplyAcceptedTwice) => {
                return None;
            }
            (Leg::Do, NodeState::Idle) => return Some(Why::NotAsked),
            (Leg::Do, _) => return Some(Why::AlreadySettled),
            (Leg::Compensate, NodeState::Undone | NodeState::Resolved) => {
                return Some(Why::AlreadySettled);
            }
            (Leg::Compensate, _) => return Some(Why::NotAsked),
        };
        // A success or a rejection is true whichever attempt brought it; a failure speaks of its own attempt only.
        let is_failure = reply.name == Failure::NAME;
        let settled = is_resting(ask)
            || matches!(self.state(reply.node), NodeState::Stuck(..) | NodeState::InQuestion(_));
        let earlier = reply.attempt.is_some_and(|attempt| attempt != ask.attempt);
        (is_failure && (settled || earlier)).then_some(Why::EarlierAttempt)
    }

    fn is_done(&self, node: NodeId, leg: Leg) -> bool {
        match leg {
            Leg::Do | Leg::Status => matches!(self.state(node), NodeState::Done(_)),
            Leg::Compensate => matches!(self.state(node), NodeState::Undone),
        }
    }

    fn success(&mut self, reply: Reply) -> Result<(), Unreadable> {
        let Reply { node, leg, body, .. } = reply;
        match leg {
            Leg::Do | Leg::Status => {
                self.plan.behaviour().succeeded(
                    node,
                    &mut *self.instance.data,
                    &body,
                    self.codec,
                )?;
                self.settle_incident(node, Leg::Do);
                // Only a compensation will ever look at the reply again.
                let undone_by_command =
                    matches!(step_of(self.graph(), node).way_back, WayBack::Compensated { .. });
                self.set(node, NodeState::Done(undone_by_command.then_some(body)));
                match self.status() {
                    Status::Running => self.complete(node),
                    _ => self.go_back(),
                }
            }
            Leg::Compensate => {
                self.settle_incident(node, leg);
                self.set(node, NodeState::Undone);
                self.go_back();
            }
        }
        Ok(())
    }

    fn failure(&mut self, reply: &Reply, told: Told) -> Result<Outcome, Unreadable> {
        let failure: Failure = reply.body.read(self.codec)?;
        let text = format!("{}: {}", failure.code, failure.message);
        let trouble = Trouble {
            text: &text,
            code: Some(&failure.code),
            retriable: failure.retriable,
            doubt: failure.effect == FailureEffect::Unknown,
            cause: CauseKind::Failed,
        };
        self.hear(reply.node, reply.leg, !failure.retriable);
        match reply.held_until.filter(|_| failure.retriable && self.may_rest(reply.leg)) {
            Some(until) => self.hold_answered((reply.node, reply.leg), until, trouble.doubt),
            None => self.attempt_failed(reply.node, reply.leg, &trouble),
        }
        self.go_back();
        Ok((Verdict::Applied, told.noting(&text)))
    }

    /// A command could not be handed to the broker: it certainly had no effect.
    pub(super) fn unsent(
        &mut self,
        node: NodeId,
        leg: Leg,
        attempt: u32,
        text: &str,
    ) -> Result<Outcome, Unreadable> {
        self.graph().step(node).ok_or(Unreadable::NoSuchCommand { leg })?;
        let told = Told::of(What::Unsent, node).noting(text);
        let under_way = |ask: &Ask| ask.attempt == attempt && matches!(ask.next, Next::GiveUp(_));
        let awaited = match (leg, self.state(node)) {
            (Leg::Do, NodeState::Open(ask)) | (Leg::Compensate, NodeState::Undoing(_, ask)) => {
                under_way(ask)
            }
            (Leg::Status, NodeState::InQuestion(question)) => under_way(&question.ask),
            _ => false,
        };
        if self.status().is_end() {
            return Ok(told.ignored(Why::HasEnded));
        }
        if !awaited {
            return Ok(told.ignored(Why::EarlierAttempt));
        }
        self.attempt_failed(node, leg, &Trouble::unsent(text));
        self.go_back();
        Ok((Verdict::Applied, told))
    }

    /// Does the first of what is due.
    pub(super) fn due(&mut self) -> Outcome {
        let is_due = |at| at <= self.now || planted::is(Mistake::TimerGenerationIgnored);
        let Some((at, place)) = self.instance.core.next_due().filter(|(at, _)| is_due(*at)) else {
            return Told { what: What::Woke, node: None, note: None }.ignored(Why::NothingDue);
        };
        let Some(node) = place else {
            return self.deadline_over();
        };
        let (leg, ask) = match self.state(node) {
            NodeState::Open(ask) => (Leg::Do, ask.clone()),
            NodeState::Undoing(_, ask) => (Leg::Compensate, ask.clone()),
            NodeState::InQuestion(question) => (Leg::Status, question.ask.clone()),
            _ => {
                let what = self.wait_over(node);
                return (Verdict::Applied, Told::of(what, node));
            }
        };
        let what = match ask.next {
            Next::AskAgain(_) => {
                let further = u32::from(!planted::is(Mistake::AttemptNotCounted));
                let attempt = ask.attempt.saturating_add(further);
                match self.state(node) {
                    NodeState::InQuestion(question) => {
                        let mut question = (**question).clone();
                        question.ask.attempt = attempt;
                        self.ask_status(node, question);
                    }
                    _ => self.ask(node, leg, Ask { attempt, ..ask }),
                }
                What::Woke
            }
            // The time it was held counts neither for the policy nor as an attempt.
            Next::Held(_) => {
                let ask = ask_after_hold(ask, self.now);
                match self.state(node) {
                    NodeState::InQuestion(question) => {
                        let question = Question { ask, ..(**question).clone() };
                        self.ask_status(node, question);
                    }
                    _ => self.ask(node, leg, ask),
                }
                What::Woke
            }
            Next::GiveUp(_) => {
                self.hear(node, leg, false);
                let waited = at.since(ask.asked_at).as_millis();
                let what = if leg == Leg::Status { "question" } else { "attempt" };
                let text = format!("no reply to {what} {} within {waited} ms", ask.attempt);
                self.attempt_failed(node, leg, &Trouble::timed_out(&text));
                What::TimedOut
            }
        };
        self.go_back();
        (Verdict::Applied, Told::of(what, node))
    }

    fn deadline_over(&mut self) -> Outcome {
        self.instance.core.deadline = None;
        let told = Told { what: What::TimedOut, node: None, note: None };
        if self.is_pivot_asked() {
            let note = "the saga's deadline, too late: its pivot has been asked for";
            return (Verdict::Applied, told.noting(note));
        }
        let told = told.noting("the saga's deadline");
        let cause = self.cause(None, CauseKind::Deadline, "the saga took too long");
        self.turn_back(cause);
        (Verdict::Applied, told)
    }

    /// Whether the pivot's answer, present or still to come, decides alone.
    pub(super) fn is_pivot_asked(&self) -> bool {
        let graph = self.graph();
        graph.ids().any(|id| {
            graph.step(id).is_some_and(|step| step.way_back == WayBack::Pivot)
                && match self.state(id) {
                    // Asked for, but it has not left: nobody can have taken it in.
                    NodeState::Open(ask) => ask.doubt || !matches!(ask.next, Next::Held(_)),
                    state => matches!(state, NodeState::InQuestion(_) | NodeState::Done(_)),
                }
        })
    }
}
