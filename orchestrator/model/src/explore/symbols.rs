//! What stands for the world: empty bodies, choices that take every arm, due times in any order, and all that can come in.
//!
//! A state is a few bytes, so that millions fit; [`Symbols::decode`] makes an instance of them again.

mod key;
mod moves;
mod silent;

use super::reference::Fate;
use crate::{
    decision::{Action, Decision, Hold, Input, Reply, Unreadable},
    definition::{Graph, Kind, NodeId, Plan, WayBack},
    history::History,
    instance::{Core, Instance, InstanceId, Leg, Next, NodeState, Status, Trace},
    message::{
        Body, Failure, FailureEffect, Format, JsonOnly, Key, Message, StatusNotDone, StatusUnknown,
    },
    time::Timestamp,
    transition::{self, Start},
};
use serde::{Deserialize, Serialize};
use silent::{Silent, read_choices, start_body};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

/// The instant at which everything happens.
const NOW: Timestamp = Timestamp(1_000_000);
/// When what was chosen to be due is due.
const SOON: Timestamp = Timestamp(1_000_001);
/// When everything else is due.
const LATER: Timestamp = Timestamp(2_000_000);

/// What a participant says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    Success,
    Rejection,
    Failure {
        retriable: bool,
        effect: FailureEffect,
    },
    /// About a status: not done, and refused from now on.
    NotDone,
    /// About a status: nobody knows.
    Unknown,
}

/// Something that can come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    Start,
    /// An awaited reply.
    Reply(NodeId, Leg, Word),
    /// A reply nobody awaits: to a command that was settled, or never sent.
    Unawaited(NodeId, Leg, Word),
    /// A failure of an attempt before the one under way.
    Stale(NodeId, Leg),
    /// Something is due: the saga's deadline for `None`.
    Due(Option<NodeId>),
    /// An event, by its place among all that are awaited.
    Event(u16),
    /// The time of a wait is over, but its event could not have been heard.
    Unheard(NodeId),
    Unsent(NodeId, Leg),
    /// A command is held by its destination: on its way, given back, or after it had left and its time is over.
    Held(NodeId, Leg, Hold),
    /// A failure for now from a destination that is held.
    HeldFailure(NodeId, Leg, FailureEffect),
    Cancel,
    Kill,
    Retry(NodeId),
    Resolve(NodeId),
}

impl Move {
    pub(super) fn node(self) -> Option<NodeId> {
        match self {
            Self::Reply(node, ..)
            | Self::Unawaited(node, ..)
            | Self::Stale(node, _)
            | Self::Unsent(node, _)
            | Self::Held(node, ..)
            | Self::HeldFailure(node, ..)
            | Self::Unheard(node)
            | Self::Retry(node)
            | Self::Resolve(node) => Some(node),
            Self::Due(node) => node,
            Self::Start | Self::Event(_) | Self::Cancel | Self::Kill => None,
        }
    }

    pub(super) fn moves_time(self) -> bool {
        matches!(self, Self::Due(_) | Self::Held(_, _, Hold::Left))
    }

    pub(super) fn is_unawaited(self) -> bool {
        matches!(self, Self::Unawaited(..) | Self::Stale(..))
    }
}

/// Answers to choices, in the order of nodes: the data of an instance that has none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Choices(Vec<(NodeId, Option<usize>)>);

/// A state, taken apart.
pub(super) struct Situation {
    pub(super) core: Core,
    /// What the reference knows, by node.
    pub(super) fates: Vec<Fate>,
}

pub(super) struct Symbols {
    plan: Plan,
    attempts_max: u32,
    /// Whether destinations hold commands.
    holds: bool,
    /// What an instance is like before anything is known of it.
    blank: Core,
    chooses: Vec<NodeId>,
    events: Vec<String>,
    /// A mistake planted into every decision.
    #[cfg(test)]
    pub(super) twist: Option<super::wrong::Twist>,
}

impl Symbols {
    pub(super) fn new(graph: &Graph, attempts_max: u32, holds: bool) -> Self {
        let mut graph = graph.clone();
        for node in &mut graph.nodes {
            if let Kind::Step(step) = &mut node.kind {
                let bound = |retry: &mut crate::retry::Retry| {
                    retry.attempts_max = retry.attempts_max.min(attempts_max);
                    // Giving up earlier than that is the same as a failure after which asking again is no use.
                    retry.within = None;
                };
                bound(&mut step.retry);
                if let Some(status) = &mut step.status {
                    bound(&mut status.retry);
                }
                if let WayBack::Compensated { retry, .. } = &mut step.way_back {
                    bound(retry);
                }
            }
        }
        let mut events: Vec<String> = Vec::new();
        for event in graph.events_awaited() {
            if !events.contains(&event.name) {
                events.push(event.name.clone());
            }
        }
        let chooses =
            graph.ids().filter(|id| matches!(graph.node(*id).kind, Kind::Choose { .. })).collect();
        let ends = [graph.ends.completed.is_some(), graph.ends.failed.is_some()];
        let plan = Plan::symbolic(graph, Arc::new(Silent { ends }), read_choices);
        let key = Key::from("explored");
        let blank = Core {
            id: InstanceId::of(&plan.graph().name, &key),
            definition: plan.graph().name.clone(),
            version: plan.graph().version,
            fingerprint: plan.fingerprint(),
            key,
            run: 0,
            status: Status::Running,
            revision: 1,
            nodes: vec![NodeState::Idle; plan.graph().nodes.len()],
            cause: None,
            incidents: Vec::new(),
            early: Vec::new(),
            events_taken: Vec::new(),
            started_at: NOW,
            ended_at: None,
            deadline: plan.graph().deadline.map(|_| LATER),
            trace: Trace::default(),
        };
        Self {
            plan,
            attempts_max,
            holds,
            blank,
            chooses,
            events,
            #[cfg(test)]
            twist: None,
        }
    }

    pub(super) fn graph(&self) -> &Graph {
        self.plan.graph()
    }

    pub(super) fn event(&self, place: u16) -> &str {
        &self.events[usize::from(place)]
    }

    /// The place of an event among all that are awaited.
    pub(super) fn place_of(&self, event: &str) -> Option<u16> {
        let place = self.events.iter().position(|known| known == event)?;
        u16::try_from(place).ok()
    }

    /// What there is before the start.
    pub(super) fn unstarted(&self) -> Situation {
        let fates = vec![Fate::default(); self.blank.nodes.len()];
        Situation { core: self.blank.clone(), fates }
    }

    /// Every way to start.
    pub(super) fn starts(&self) -> Result<Vec<(Choices, Decision)>, String> {
        let first = self.start(&Choices::default())?;
        Ok(self.branch(&self.blank, first, |choices| self.start(choices)))
    }

    pub(super) fn start(&self, choices: &Choices) -> Result<Decision, String> {
        let body = start_body(choices);
        let key = self.blank.key.clone();
        let start = Start { key, run: 0, body: &body, cause: None, trace: Trace::default() };
        told(|| transition::start(&self.plan, start, NOW, &JsonOnly))
    }

    pub(super) fn instance(&self, core: &Core) -> Instance {
        let (core, data) = (core.clone(), Box::new(Choices::default()));
        Instance { core, data, history: History::default() }
    }

    /// The same instance for another input.
    pub(super) fn again(&self, mut instance: Instance) -> Instance {
        instance.history = History::default();
        instance
    }

    /// Applies an input; the text of the panic or of the refusal if that fails.
    pub(super) fn apply(&self, mut instance: Instance, by: Move) -> Result<Decision, String> {
        let mut now = NOW;
        let due = match by {
            Move::Due(place) => Some(place),
            Move::Held(node, _, Hold::Left) => Some(Some(node)),
            _ => None,
        };
        if let Some(place) = due {
            now = SOON;
            match place.map(|node| &mut instance.core.nodes[node.index()]) {
                Some(NodeState::Open(ask) | NodeState::Undoing(_, ask)) => {
                    ask.next = match ask.next {
                        Next::GiveUp(_) => Next::GiveUp(SOON),
                        Next::AskAgain(_) => Next::AskAgain(SOON),
                        Next::Held(_) => Next::Held(SOON),
                    }
                }
                Some(NodeState::InQuestion(question)) => {
                    question.ask.next = match question.ask.next {
                        Next::GiveUp(_) => Next::GiveUp(SOON),
                        Next::AskAgain(_) => Next::AskAgain(SOON),
                        Next::Held(_) => Next::Held(SOON),
                    }
                }
                Some(NodeState::Waiting { until, .. }) => *until = SOON,
                Some(_) => {}
                None => instance.core.deadline = Some(SOON),
            }
        }
        let cause = match by {
            Move::Event(place) => Some(self.event(place).to_owned()),
            _ => None,
        };
        let input = self.input(&instance.core, by);
        #[cfg(test)]
        let before = self.twist.map(|_| instance.core.clone());
        let decided = told(|| {
            transition::apply(&self.plan, instance, input, cause, now, &JsonOnly)
                .map_err(|(_, unreadable)| unreadable)
        });
        #[cfg(test)]
        if let (Some(twist), Some(before)) = (self.twist, before) {
            return decided.map(|decision| twist(self.graph(), &before, by, decision));
        }
        decided
    }

    /// One decision for each answer to the choices that this input makes the saga ask.
    pub(super) fn each_choice(
        &self,
        before: &Core,
        by: Move,
        decision: Decision,
    ) -> Vec<(Choices, Decision)> {
        self.branch(before, decision, |choices| self.apply_choosing(before, by, choices))
    }

    pub(super) fn apply_choosing(
        &self,
        before: &Core,
        by: Move,
        choices: &Choices,
    ) -> Result<Decision, String> {
        let instance = Instance { data: Box::new(choices.clone()), ..self.instance(before) };
        self.apply(instance, by)
    }

    fn branch(
        &self,
        before: &Core,
        decision: Decision,
        run: impl Fn(&Choices) -> Result<Decision, String>,
    ) -> Vec<(Choices, Decision)> {
        let mut open = vec![(Choices::default(), decision)];
        let mut done = Vec::new();
        while let Some((choices, decision)) = open.pop() {
            let after = &decision.instance.core;
            let asked = self.chooses.iter().find(|node| {
                matches!(before.state(**node), NodeState::Idle)
                    && matches!(after.state(**node), NodeState::Chosen(_))
                    && !choices.0.iter().any(|(known, _)| known == *node)
            });
            let Some(node) = asked else {
                done.push((choices, decision));
                continue;
            };
            let Kind::Choose { arms, .. } = &self.graph().node(*node).kind else { continue };
            for answer in (0..arms.len()).map(Some).chain([None]) {
                let mut choices = choices.clone();
                choices.0.push((*node, answer));
                // A panic that depends on the arm is met again when that arm is gone along.
                if let Ok(decision) = run(&choices) {
                    open.push((choices, decision));
                }
            }
        }
        done
    }

    fn input(&self, core: &Core, by: Move) -> Input {
        let operator =
            |action| Input::Operator { action, by: "operator".into(), why: "explored".into() };
        match by {
            Move::Start => unreachable!("an instance starts once"),
            Move::Reply(node, leg, word) | Move::Unawaited(node, leg, word) => {
                self.reply(node, leg, word, None)
            }
            Move::Stale(node, leg) => {
                let word = Word::Failure { retriable: false, effect: FailureEffect::None };
                self.reply(
                    node,
                    leg,
                    word,
                    Some(attempt_of(core.state(node), leg).saturating_sub(1)),
                )
            }
            Move::Due(_) => Input::Due,
            Move::Event(place) => {
                Input::Event { name: self.event(place).into(), body: empty(Format::Json) }
            }
            Move::Unsent(node, leg) => {
                let attempt = attempt_of(core.state(node), leg);
                Input::Unsent { node, leg, attempt, text: "unroutable".into() }
            }
            Move::Held(node, leg, hold) => {
                let attempt = attempt_of(core.state(node), leg);
                Input::Held { node, leg, attempt, hold, until: LATER }
            }
            Move::HeldFailure(node, leg, effect) => {
                match self.reply(node, leg, Word::Failure { retriable: true, effect }, None) {
                    Input::Reply(reply) => Input::Reply(Reply { held_until: Some(LATER), ..reply }),
                    other => other,
                }
            }
            Move::Unheard(node) => Input::Unheard { node, until: LATER },
            Move::Cancel => operator(Action::Cancel),
            Move::Kill => operator(Action::Kill),
            Move::Retry(node) => operator(Action::Retry(node)),
            Move::Resolve(node) => operator(Action::Resolve(node)),
        }
    }

    fn reply(&self, node: NodeId, leg: Leg, word: Word, attempt: Option<u32>) -> Input {
        let step = self.graph().step(node).expect("replies are made up for steps only");
        let (name, body) = match (word, leg, &step.way_back) {
            (Word::Success, Leg::Compensate, WayBack::Compensated { success, .. }) => {
                (success.clone(), empty(Format::Json))
            }
            (Word::Success, ..) => (step.success.clone(), empty(Format::Json)),
            (Word::NotDone, ..) => (StatusNotDone::NAME.into(), empty(Format::Json)),
            (Word::Unknown, ..) => {
                let unknown = StatusUnknown { message: "explored".into() };
                (StatusUnknown::NAME.into(), written(&unknown))
            }
            (Word::Rejection, ..) => {
                (step.rejection.clone().unwrap_or_default(), empty(Format::Json))
            }
            (Word::Failure { retriable, effect }, ..) => {
                let failure = Failure {
                    code: "trouble".into(),
                    message: "explored".into(),
                    retriable,
                    effect,
                };
                (Failure::NAME.into(), written(&failure))
            }
        };
        Input::Reply(Reply { node, leg, key: None, attempt, held_until: None, name, body })
    }
}

impl Core {
    /// The same state with everything due later: which is first is chosen by the next input.
    pub(super) fn calmed(mut self) -> Self {
        for state in &mut self.nodes {
            match state {
                NodeState::Open(ask) | NodeState::Undoing(_, ask) | NodeState::Stuck(_, ask) => {
                    ask.next = match ask.next {
                        Next::GiveUp(_) => Next::GiveUp(LATER),
                        Next::AskAgain(_) => Next::AskAgain(LATER),
                        Next::Held(_) => Next::Held(LATER),
                    }
                }
                NodeState::InQuestion(question) => {
                    question.ask.next = match question.ask.next {
                        Next::GiveUp(_) => Next::GiveUp(LATER),
                        Next::AskAgain(_) => Next::AskAgain(LATER),
                        Next::Held(_) => Next::Held(LATER),
                    }
                }
                NodeState::Waiting { until, .. } => *until = LATER,
                _ => {}
            }
        }
        self.deadline = self.deadline.map(|_| LATER);
        self
    }
}

/// A decision, or why there is none.
fn told(run: impl FnOnce() -> Result<Decision, Unreadable>) -> Result<Decision, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(decision)) => Ok(decision),
        Ok(Err(unreadable)) => Err(format!("the input is refused: {unreadable}")),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied());
            let text = text.unwrap_or("it ends without a word");
            let text =
                text.strip_prefix("internal error: entered unreachable code: ").unwrap_or(text);
            Err(format!("the transition has no answer to it: {text}"))
        }
    }
}

fn attempt_of(state: &NodeState, leg: Leg) -> u32 {
    match state {
        NodeState::InQuestion(question) if leg == Leg::Status => question.ask.attempt,
        NodeState::InQuestion(question) => question.about.attempt,
        NodeState::Open(ask) | NodeState::Undoing(_, ask) | NodeState::Stuck(_, ask) => ask.attempt,
        _ => 0,
    }
}

fn written<M: Message>(message: &M) -> Body {
    Body::write(message, Format::Json, &JsonOnly).expect("texts can be written as JSON")
}

fn empty(format: Format) -> Body {
    Body { format, bytes: Vec::new() }
}
