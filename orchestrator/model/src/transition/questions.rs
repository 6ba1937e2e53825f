//! Asking what became of a step that may or may not have taken effect.
//!
//! Rules 6 and 7: where a definition says how its participant is asked, that comes before the step counts as in doubt. The
//! answer *not done* is binding: whoever gives it refuses the command from then on, so that it counts as no effect for
//! certain, even for a pivot. A reply to the command itself decides just as well while the question is open.

use super::{
    Turn,
    forward::{EXHAUSTED_DELAY_MIN, Trouble, is_resting, rests_until, step_of},
};
use crate::{
    decision::{Command, Effect, Reply, Unreadable},
    definition::{AskStatus, NodeId, WayBack},
    history::What,
    instance::{Ask, CauseKind, Leg, Next, NoEffect, NodeState, Question},
    message::{Failure, FailureEffect, Message, StatusQuery, StatusUnknown},
    planted::{self, Mistake},
};
use std::time::Duration;

impl Turn<'_> {
    /// A command may or may not have taken effect, and is not asked again: asks what became of it.
    pub(super) fn question(&mut self, node: NodeId, about: Ask, trouble: &Trouble<'_>) {
        let now = self.now;
        let next = Next::GiveUp(now);
        // A pivot may be asked about more than once: an answer to the former question is no answer to this one.
        let excused = about.questions;
        let attempt = excused.saturating_add(1);
        let (first_at, asked_at) = (now, now);
        let ask = Ask { attempt, excused, first_at, asked_at, next, doubt: false, questions: 0 };
        let (cause, text) = (trouble.cause, super::shorten(trouble.text));
        self.ask_status(node, Question { ask, about, cause, text });
    }

    /// Asks for the status. A question that can't even be written counts as unsent.
    pub(super) fn ask_status(&mut self, node: NodeId, mut question: Question) {
        let graph = self.graph();
        let step = step_of(graph, node);
        let AskStatus { reply_within, .. } = terms_of(step.status.as_ref());
        question.ask.asked_at = self.now;
        question.ask.next = Next::GiveUp(self.now + *reply_within);
        let attempt = question.ask.attempt;
        let core = &self.instance.core;
        let key = |leg| core.idempotency_key(graph.name_of(node), leg);
        let query = StatusQuery {
            idempotencykey: key(Leg::Do).to_string(),
            command: step.command.name.clone(),
        };
        let idempotency_key = key(Leg::Status);
        let body = self.plan.behaviour().question(&query, step.command.format, self.codec);
        self.set(node, NodeState::InQuestion(Box::new(question)));
        match body {
            Ok(body) => self.effects.push(Effect::Command(Command {
                node,
                leg: Leg::Status,
                attempt,
                channel: step.command.channel.clone(),
                format: step.command.format,
                name: StatusQuery::NAME.into(),
                body,
                idempotency_key,
            })),
            Err(error) => {
                let text = format!("writing the question: {error}");
                self.question_failed(node, &Trouble::unsent(&text));
            }
        }
    }

    /// A question brought no answer: asks again, or leaves the step in doubt.
    pub(super) fn question_failed(&mut self, node: NodeId, trouble: &Trouble<'_>) {
        let mut question = self.question_at(node);
        let AskStatus { retry, .. } = terms_of(step_of(self.graph(), node).status.as_ref());
        let code_permits =
            trouble.code.is_none_or(|code| !retry.not_after.iter().any(|known| known == code));
        let elapsed = self.now.since(question.ask.first_at);
        let again = (trouble.retriable && code_permits || trouble.cause == CauseKind::Unsent)
            && retry.permits_after(question.ask.counted(), elapsed);
        if again {
            let name = self.graph().name_of(node);
            let seed = self.instance.core.idempotency_key(name, Leg::Status).as_u64_pair().0;
            let until = rests_until(&question.ask, retry, seed, Duration::ZERO, self.now);
            question.ask.next = Next::AskAgain(until);
            self.set(node, NodeState::InQuestion(Box::new(question)));
        } else {
            self.stays_in_doubt(node, question);
        }
    }

    /// Nobody can say what became of a step.
    pub(super) fn stays_in_doubt(&mut self, node: NodeId, question: Question) {
        let Question { ask, mut about, cause, text } = question;
        about.questions = ask.attempt;
        let step = step_of(self.graph(), node);
        // Ask again instead of turning back: a pivot in doubt can be neither compensated nor ignored.
        if step.way_back == WayBack::Pivot && !planted::is(Mistake::PivotTurnedBack) {
            self.set(node, NodeState::Open(about.clone()));
            self.raise(node, Leg::Do, &text);
            self.rest_at_least(node, Leg::Do, about, &step.retry, EXHAUSTED_DELAY_MIN);
            return;
        }
        self.settle_incident(node, Leg::Do);
        self.set(node, NodeState::InDoubt);
        let cause = self.cause(Some(node), cause, &text);
        self.turn_back(cause);
    }

    /// An answer that names no reply of the command: it was not done, nobody knows, or the question itself failed.
    pub(super) fn status_answered(
        &mut self,
        reply: &Reply,
        kind: What,
    ) -> Result<Option<String>, Unreadable> {
        let node = reply.node;
        let question = self.question_at(node);
        match kind {
            What::NotDone => {
                self.hear(node, Leg::Status, true);
                self.settle_incident(node, Leg::Do);
                self.set(node, NodeState::NoEffect(NoEffect::NotDone));
                let Question { cause, text, .. } = question;
                let cause = self.cause(Some(node), cause, &text);
                self.turn_back(cause);
                Ok(None)
            }
            What::Unknown => {
                let StatusUnknown { message } = reply.body.read(self.codec)?;
                self.hear(node, Leg::Status, true);
                self.stays_in_doubt(node, question);
                self.go_back();
                Ok(Some(message))
            }
            _ => {
                let failure: Failure = reply.body.read(self.codec)?;
                let text = format!("{}: {}", failure.code, failure.message);
                let trouble = Trouble {
                    text: &text,
                    code: Some(&failure.code),
                    retriable: failure.retriable,
                    doubt: failure.effect == FailureEffect::Unknown,
                    cause: CauseKind::Failed,
                };
                self.hear(node, Leg::Status, !failure.retriable);
                match reply.held_until.filter(|_| failure.retriable) {
                    Some(until) => self.hold_answered((node, Leg::Status), until, false),
                    None => self.question_failed(node, &trouble),
                }
                self.go_back();
                Ok(Some(text))
            }
        }
    }

    /// Whether the answer about a status speaks of a question that is not open any more.
    pub(super) fn is_earlier_question(question: &Question, reply: &Reply) -> bool {
        is_resting(&question.ask)
            || reply.attempt.is_some_and(|attempt| attempt != question.ask.attempt)
    }

    fn question_at(&self, node: NodeId) -> Question {
        match self.state(node) {
            NodeState::InQuestion(question) => (**question).clone(),
            _ => unreachable!("only a question that is open can be answered or fail"),
        }
    }
}

fn terms_of(status: Option<&AskStatus>) -> &AskStatus {
    status.expect("only steps that say how their status is asked are questioned")
}
