//! Going forward: which node is entered next, and the commands that are sent there.
//!
//! Rules 3 and 5: a command carries a stable key, and what fails is asked again by the step's policy.

use super::Turn;
use crate::{
    decision::{Command, Effect},
    definition::{Graph, Kind, MessageRef, NodeId, OnTimeout, Step, WayBack},
    history::What,
    instance::{Ask, CauseKind, Leg, Next, NoEffect, NodeState, Status},
    planted::{self, Mistake},
    retry::Retry,
    time::Timestamp,
};
use std::time::Duration;

/// The shortest delay once a policy is exhausted and asking goes on all the same. A policy without delays, or a command
/// that can't be written, must not ask without pause for as long as its incident is open.
pub(super) const EXHAUSTED_DELAY_MIN: Duration = Duration::from_secs(1);

impl Turn<'_> {
    /// Enters a node that was not reached before.
    pub(super) fn enter(&mut self, node: NodeId) {
        let graph = self.graph();
        match &graph.node(node).kind {
            Kind::Sequence { children } => {
                self.set(node, NodeState::Entered);
                match children.first() {
                    Some(first) => self.enter(*first),
                    None => self.complete(node),
                }
            }
            Kind::Step(_) => self.ask_first(node, Leg::Do),
            Kind::Wait { within, .. } => {
                self.set(node, self.waiting(*within));
                self.offer_early(node);
            }
            Kind::All { branches } => {
                self.set(node, NodeState::Entered);
                for branch in branches {
                    // A branch that fails at once turns the saga back: its siblings are then not begun.
                    if self.status() == Status::Running {
                        self.enter(*branch);
                    }
                }
            }
            Kind::Choose { arms, otherwise } => {
                let chosen = self.plan.behaviour().choose(node, &*self.instance.data);
                let place = chosen.or_else(|| otherwise.map(|_| arms.len()));
                self.set(
                    node,
                    NodeState::Chosen(place.and_then(|place| u16::try_from(place).ok())),
                );
                match chosen_node(&graph.node(node).kind, place) {
                    Some(next) => self.enter(next),
                    None => self.complete(node),
                }
            }
            Kind::Publish { event } => {
                let body = self.plan.behaviour().publish(node, &*self.instance.data, self.codec);
                self.publish(Some(node), graph.name_of(node), body, (&event.channel, &event.name));
                self.complete(node);
            }
            Kind::Pause { span } => self.set(node, self.waiting(*span)),
        }
    }

    fn waiting(&self, span: Duration) -> NodeState {
        NodeState::Waiting { until: self.now + span, since: self.now }
    }

    /// A node is done: what contains it goes on.
    pub(super) fn complete(&mut self, node: NodeId) {
        let graph = self.graph();
        // A choice keeps the arm it took: turning back goes through that arm.
        if !matches!(self.state(node), NodeState::Done(_) | NodeState::Chosen(_)) {
            self.set(node, NodeState::Done(None));
        }
        if self.status() != Status::Running {
            return;
        }
        let Some(parent) = graph.node(node).parent else {
            return self.end(Status::Completed);
        };
        match &graph.node(parent).kind {
            Kind::Sequence { children } => {
                let behind = children.iter().skip_while(|child| **child != node).nth(1);
                match behind {
                    Some(next) => self.enter(*next),
                    None => self.complete(parent),
                }
            }
            Kind::All { branches } => {
                if branches.iter().all(|branch| self.is_complete(*branch)) {
                    self.complete(parent);
                }
            }
            Kind::Choose { .. } => self.complete(parent),
            Kind::Step(_) | Kind::Wait { .. } | Kind::Publish { .. } | Kind::Pause { .. } => {
                unreachable!("only blocks with blocks inside are parents")
            }
        }
    }

    fn is_complete(&self, node: NodeId) -> bool {
        match self.state(node) {
            NodeState::Done(_) => true,
            NodeState::Chosen(place) => {
                let place = place.map(usize::from);
                chosen_node(&self.graph().node(node).kind, place)
                    .is_none_or(|inner| self.is_complete(inner))
            }
            _ => false,
        }
    }

    /// Sends the first attempt of a command.
    pub(super) fn ask_first(&mut self, node: NodeId, leg: Leg) {
        let now = self.now;
        self.ask(
            node,
            leg,
            Ask {
                attempt: 1,
                excused: 0,
                first_at: now,
                asked_at: now,
                next: Next::GiveUp(now),
                doubt: false,
                questions: 0,
            },
        );
    }

    /// Sends an attempt. A command that can't even be written counts as unsent.
    pub(super) fn ask(&mut self, node: NodeId, leg: Leg, mut ask: Ask) {
        let graph = self.graph();
        let step = step_of(graph, node);
        let (to, within, _) = terms(step, leg);
        ask.asked_at = self.now;
        ask.next = Next::GiveUp(self.now + within);
        let attempt = ask.attempt;
        let behaviour = self.plan.behaviour();
        let done = match self.state(node) {
            NodeState::Done(reply) | NodeState::Undoing(reply, _) | NodeState::Stuck(reply, _) => {
                reply.clone()
            }
            _ => None,
        };
        let body = match leg {
            Leg::Do => behaviour.command(node, &*self.instance.data, self.codec),
            Leg::Compensate => {
                behaviour.undo(node, &*self.instance.data, done.as_ref(), self.codec)
            }
            Leg::Status => unreachable!("a status is asked for in `questions`"),
        };
        self.set(
            node,
            match leg {
                Leg::Do => NodeState::Open(ask),
                Leg::Compensate | Leg::Status => NodeState::Undoing(done, ask),
            },
        );
        match body {
            Ok(body) => self.effects.push(Effect::Command(Command {
                node,
                leg,
                attempt,
                channel: to.channel.clone(),
                format: to.format,
                name: to.name.clone(),
                body,
                idempotency_key: match attempt {
                    2.. if planted::is(Mistake::NewKeyOnRetry) => {
                        let name = format!("{}/{attempt}", graph.name_of(node));
                        self.instance.core.idempotency_key(&name, leg)
                    }
                    _ => self.instance.core.idempotency_key(graph.name_of(node), leg),
                },
            })),
            Err(error) => self.attempt_failed(
                node,
                leg,
                &Trouble::unsent(&format!("writing the command: {error}")),
            ),
        }
    }

    /// An attempt has failed technically: ask again, settle, or raise an incident.
    pub(super) fn attempt_failed(&mut self, node: NodeId, leg: Leg, trouble: &Trouble<'_>) {
        if leg == Leg::Status {
            return self.question_failed(node, trouble);
        }
        let step = step_of(self.graph(), node);
        let (_, _, retry) = terms(step, leg);
        let mut ask = match self.state(node) {
            NodeState::Open(ask) | NodeState::Undoing(_, ask) => ask.clone(),
            _ => unreachable!("only a command that is out can fail"),
        };
        ask.doubt |= trouble.doubt;
        let code_permits =
            trouble.code.is_none_or(|code| !retry.not_after.iter().any(|known| known == code));
        let again = trouble.retriable
            && code_permits
            && retry.permits_after(ask.counted(), self.now.since(ask.first_at));
        match (leg, &step.way_back) {
            (Leg::Compensate, _)
                if again
                    || trouble.is_unsent()
                        && retry.permits_after(ask.counted(), Duration::ZERO) =>
            {
                self.rest(node, leg, ask, retry);
            }
            (Leg::Compensate, _) => {
                let done = match self.state(node) {
                    NodeState::Undoing(done, _) => done.clone(),
                    _ => unreachable!("only a compensation that is out can fail"),
                };
                self.set(node, NodeState::Stuck(done, ask));
                if !planted::is(Mistake::BlockedWithoutIncident) {
                    self.raise(node, leg, trouble.text);
                }
            }
            // Ask again instead of turning back: behind the pivot there is no way back.
            (Leg::Do, WayBack::Retriable) => {
                if again {
                    self.rest(node, leg, ask, retry);
                } else {
                    self.raise(node, leg, trouble.text);
                    self.rest_at_least(node, leg, ask, retry, EXHAUSTED_DELAY_MIN);
                }
            }
            _ if again && self.status() == Status::Running => self.rest(node, leg, ask, retry),
            (Leg::Do, _) if ask.doubt && step.status.is_some() => self.question(node, ask, trouble),
            // Ask again instead of turning back: a pivot in doubt can be neither compensated nor ignored.
            (Leg::Do, WayBack::Pivot) if ask.doubt && !planted::is(Mistake::PivotTurnedBack) => {
                self.raise(node, leg, trouble.text);
                self.rest_at_least(node, leg, ask, retry, EXHAUSTED_DELAY_MIN);
            }
            (Leg::Do | Leg::Status, _) => {
                let settled = match (ask.doubt, trouble.is_unsent()) {
                    (true, _) => NodeState::InDoubt,
                    (false, true) => NodeState::NoEffect(NoEffect::Unsent),
                    (false, false) => NodeState::NoEffect(NoEffect::Failed),
                };
                self.settle_incident(node, leg);
                self.set(node, settled);
                let cause = self.cause(Some(node), trouble.cause, trouble.text);
                self.turn_back(cause);
            }
        }
    }

    fn rest(&mut self, node: NodeId, leg: Leg, ask: Ask, retry: &Retry) {
        self.rest_at_least(node, leg, ask, retry, Duration::ZERO);
    }

    pub(super) fn rest_at_least(
        &mut self,
        node: NodeId,
        leg: Leg,
        mut ask: Ask,
        retry: &Retry,
        shortest: Duration,
    ) {
        let graph = self.graph();
        let seed = self.instance.core.idempotency_key(graph.name_of(node), leg).as_u64_pair().0;
        ask.next = Next::AskAgain(rests_until(&ask, retry, seed, shortest, self.now));
        let state = match (leg, self.state(node)) {
            (Leg::Compensate, NodeState::Undoing(done, _)) => NodeState::Undoing(done.clone(), ask),
            _ => NodeState::Open(ask),
        };
        self.set(node, state);
    }

    /// A wait's or a pause's time is over.
    pub(super) fn wait_over(&mut self, node: NodeId) -> What {
        let graph = self.graph();
        self.settle_incident(node, Leg::Do);
        match &graph.node(node).kind {
            Kind::Wait { on_timeout: OnTimeout::Reject, event, .. } => {
                self.set(node, NodeState::Ended);
                let text = format!("no {event} in time");
                let cause = self.cause(Some(node), CauseKind::TimedOut, &text);
                self.turn_back(cause);
                What::TimedOut
            }
            Kind::Wait { .. } => {
                self.set(node, NodeState::Ended);
                self.complete(node);
                What::TimedOut
            }
            _ => {
                self.complete(node);
                What::Woke
            }
        }
    }
}

/// What went wrong with an attempt.
pub(super) struct Trouble<'a> {
    /// For people.
    pub text: &'a str,
    /// The failure's code, where it has one.
    pub code: Option<&'a str>,
    /// Whether asking again may help.
    pub retriable: bool,
    /// Whether it may have taken effect all the same.
    pub doubt: bool,
    /// Why the saga turns back if nothing helps.
    pub cause: CauseKind,
}

impl<'a> Trouble<'a> {
    pub(super) fn unsent(text: &'a str) -> Self {
        Self { text, code: None, retriable: false, doubt: false, cause: CauseKind::Unsent }
    }

    pub(super) fn timed_out(text: &'a str) -> Self {
        Self { text, code: None, retriable: true, doubt: true, cause: CauseKind::TimedOut }
    }

    fn is_unsent(&self) -> bool {
        self.cause == CauseKind::Unsent
    }
}

/// The node that a recorded choice leads to.
pub(super) fn chosen_node(kind: &Kind, place: Option<usize>) -> Option<NodeId> {
    match kind {
        Kind::Choose { arms, otherwise } => {
            let place = place?;
            arms.get(place).map(|arm| arm.node).or(if place == arms.len() {
                *otherwise
            } else {
                None
            })
        }
        _ => None,
    }
}

pub(super) fn step_of(graph: &Graph, node: NodeId) -> &Step {
    graph.step(node).expect("only steps send commands")
}

/// Where a command goes, how long it waits for its reply, and when it is sent again.
fn terms(step: &Step, leg: Leg) -> (&MessageRef, Duration, &Retry) {
    match (leg, &step.way_back) {
        (Leg::Compensate, WayBack::Compensated { command, reply_within, retry, .. }) => {
            (command, *reply_within, retry)
        }
        (Leg::Do | Leg::Compensate | Leg::Status, _) => {
            (&step.command, step.reply_within, &step.retry)
        }
    }
}

/// When the attempt after this one begins.
pub(super) fn rests_until(
    ask: &Ask,
    retry: &Retry,
    seed: u64,
    shortest: Duration,
    now: Timestamp,
) -> Timestamp {
    let at = now + retry.delay(ask.counted(), seed).max(shortest);
    // The delay before the last attempt is cut where the policy's time ends; once that is over, asking goes on regardless.
    let latest = retry.within.map(|span| ask.first_at + span).filter(|at| *at > now);
    latest.map_or(at, |latest| at.min(latest))
}

/// Whether no attempt of an ask is under way: it is between two of them, or held.
pub(super) fn is_resting(ask: &Ask) -> bool {
    matches!(ask.next, Next::AskAgain(_) | Next::Held(_))
}
