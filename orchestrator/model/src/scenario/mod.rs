//! A saga's test, as its author writes it: what happens, what is said in answer, how it ends. Time is moved by hand.
//!
//! ```ignore
//! scenario(&definition).starts(OrderPlaced { order: 80 })        .says(&["ReserveStock order=80", "AuthorisePayment order=80"])
//!     .rejects("authorise-payment", PaymentDeclined { .. })      .says(&[])
//!     .succeeds("reserve-stock", StockReserved { reservation: 3 }).says(&["compensate ReleaseStock reservation=3"])
//!     .compensates("reserve-stock")                              .ends_compensated("card");
//! ```
//!
//! An expectation of [`Scenario::says`] names the message and the fields that matter; fields it does not name may be anything.
//! After every input the instance is written to its stored form and read again, so each test covers that form too.
//! What does not fit the expectation fails the test with the story so far. An input that was ignored fails the test
//! as well, unless [`Scenario::is_ignored`] or [`Scenario::is_duplicate`] says that it was meant.

mod claims;
mod coverage;
mod say;

pub use coverage::Coverage;

use crate::{
    decision::{Action, Decision, Hold, Input, Reply},
    definition::{Data, Definition, Kind, NodeId, WayBack},
    history::{History, Verdict},
    instance::{Core, Instance, Leg, NodeState, Status, Trace},
    message::{Body, Event, Failure, FailureEffect, Format, Message, StatusNotDone, StatusUnknown},
    time::Timestamp,
    transition::{self, Start},
};
use say::{Legible, fields, saying};
use std::{
    error::Error,
    fmt,
    process::{ExitCode, Termination},
    time::Duration,
};

/// Turns without time passing before a scenario is given up as going round in circles.
const TURNS_AT_ONE_INSTANT_MAX: u32 = 10_000;

/// When every scenario starts: 1 January 2026. Any fixed instant would do; this one reads well in a transcript.
const BEGINNING: Timestamp = Timestamp(1_767_225_600_000);

/// Begins a test of a definition.
pub fn scenario<D: Data>(definition: &Definition<D>) -> Unstarted<D> {
    Unstarted { definition: definition.clone() }
}

/// A scenario before its start event.
#[must_use = "a scenario begins with `.starts(..)`"]
pub struct Unstarted<D> {
    definition: Definition<D>,
}

impl<D: Data> Unstarted<D> {
    /// The start event comes in.
    #[track_caller]
    pub fn starts<E: Event>(self, event: E) -> Scenario<D> {
        let definition = self.definition;
        let graph = definition.graph();
        assert!(
            graph.start.name == E::NAME,
            "the saga `{}` is started by `{}`, not by `{}`",
            graph.name,
            graph.start.name,
            E::NAME
        );
        let body = body_of(&event);
        let key = definition
            .start_key(&body, &Legible)
            .unwrap_or_else(|error| panic!("reading the key of `{}`: {error}", E::NAME));
        let start = Start {
            key,
            run: 0,
            body: &body,
            cause: Some("start".into()),
            trace: Trace::default(),
        };
        let decision = transition::start(&definition, start, BEGINNING, &Legible)
            .unwrap_or_else(|error| panic!("starting by `{}`: {}", E::NAME, chain(&error)));
        let idle = vec![NodeState::Idle; graph.nodes.len()];
        let before =
            Core { nodes: idle, status: Status::Running, ..decision.instance.core.clone() };
        let mut scenario = Scenario {
            coverage: Coverage::of(&definition),
            instance: decision.instance.clone(),
            definition,
            now: BEGINNING,
            transcript: Vec::new(),
            said: Vec::new(),
            verdict: Verdict::Applied,
            is_acknowledged: true,
            reasons: String::new(),
            latest: None,
            events: 0,
        };
        scenario.follow(&format!("starts {}{}", E::NAME, fields(&body)), &before, decision);
        scenario
    }
}

/// A saga under test.
pub struct Scenario<D> {
    definition: Definition<D>,
    now: Timestamp,
    instance: Instance,
    transcript: Vec<String>,
    said: Vec<String>,
    verdict: Verdict,
    is_acknowledged: bool,
    /// What was told by the input that turned the saga back, and by the event of its end.
    reasons: String,
    latest: Option<(String, Input, Option<String>)>,
    events: u32,
    coverage: Coverage,
}

/// A test may return its scenario: it has passed, and another test can call it for what it [covers](Coverage::over).
impl<D> Termination for Scenario<D> {
    fn report(self) -> ExitCode {
        ExitCode::SUCCESS
    }
}

impl<D> fmt::Debug for Scenario<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.story())
    }
}

/// What happens.
impl<D: Data> Scenario<D> {
    /// A step is done.
    #[track_caller]
    pub fn succeeds<R: Message>(self, step: &str, reply: R) -> Self {
        self.answered("succeeds", step, Leg::Do, R::NAME, body_of(&reply))
    }

    /// A step is refused.
    #[track_caller]
    pub fn rejects<R: Message>(self, step: &str, reply: R) -> Self {
        self.answered("rejects", step, Leg::Do, R::NAME, body_of(&reply))
    }

    /// An attempt of a step, or of its compensation or its status when that is asked for, reports technical trouble.
    #[track_caller]
    pub fn fails(self, step: &str, failure: Failure) -> Self {
        let leg = self.leg_under_way(self.node(step));
        self.answered("fails", step, leg, Failure::NAME, body_of(&failure))
    }

    /// A compensation is done. Its reply has no fields, or none that matter.
    #[track_caller]
    pub fn compensates(self, step: &str) -> Self {
        let node = self.node(step);
        let way_back = self.definition.graph().step(node).map(|step| step.way_back.clone());
        let Some(WayBack::Compensated { success, .. }) = way_back else {
            self.fail(&format!("`{step}` has no compensation"));
        };
        let body = Body { format: Format::Json, bytes: b"{}".to_vec() };
        self.answered("compensates", step, Leg::Compensate, &success, body)
    }

    /// A compensation is done, with this reply.
    #[track_caller]
    pub fn compensated<R: Message>(self, step: &str, reply: R) -> Self {
        self.answered("compensates", step, Leg::Compensate, R::NAME, body_of(&reply))
    }

    /// What the participant of a step says when it is asked what became of it.
    pub fn status_of(self, step: &str) -> StatusOf<D> {
        StatusOf { scenario: self, step: step.into() }
    }

    /// The command of a step, of its compensation, or the question about it, can't be handed to the broker for good.
    #[track_caller]
    pub fn unsent(self, step: &str, why: &str) -> Self {
        let node = self.node(step);
        let leg = self.leg_under_way(node);
        let attempt = self.attempt_of(node).unwrap_or(1);
        let input = Input::Unsent { node, leg, attempt, text: why.into() };
        self.takes(&format!("can't send `{step}`: {why}"), input, None)
    }

    /// The command of a step, or of its compensation, is held by its destination, and asked again after `span`.
    #[track_caller]
    pub fn held(self, step: &str, hold: Hold, span: Duration) -> Self {
        let node = self.node(step);
        let leg = self.leg_under_way(node);
        let attempt = self.attempt_of(node).unwrap_or(1);
        let input = Input::Held { node, leg, attempt, hold, until: self.now + span };
        self.takes(&format!("`{step}` is held"), input, None)
    }

    /// The event of a wait could not have been heard for a part of its time: it is awaited for `span` more.
    #[track_caller]
    pub fn unheard(self, wait: &str, span: Duration) -> Self {
        let node = self.node(wait);
        let input = Input::Unheard { node, until: self.now + span };
        self.takes(&format!("nothing was heard for `{wait}`"), input, None)
    }

    /// The instant up to which time was moved.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// An event comes in.
    #[track_caller]
    pub fn receives<E: Event>(mut self, event: E) -> Self {
        let body = body_of(&event);
        match self.definition.event_key(E::NAME, &body, &Legible) {
            None => self.fail(&format!("the saga never awaits `{}`", E::NAME)),
            Some(Err(error)) => self.fail(&format!("reading the key of `{}`: {error}", E::NAME)),
            Some(Ok(key)) if key != self.instance.core.key => {
                self.fail(&format!(
                    "`{}` is for the key {key}, this instance has {}",
                    E::NAME,
                    self.instance.core.key
                ));
            }
            Some(Ok(_)) => {}
        }
        self.events += 1;
        let cause = Some(format!("event-{}", self.events));
        let heading = format!("receives {}{}", E::NAME, fields(&body));
        self.takes(&heading, Input::Event { name: E::NAME.into(), body }, cause)
    }

    /// The latest reply or event is delivered once more.
    #[track_caller]
    pub fn redelivers(self) -> Self {
        match self.latest.clone() {
            Some((heading, input, cause)) => self.takes(&format!("again: {heading}"), input, cause),
            None => self.fail("no reply and no event has been delivered yet"),
        }
    }

    /// The attempt under way gets no reply in time; or an awaited event does not come; or a pause or a delay is over.
    #[track_caller]
    pub fn times_out(self, name: &str) -> Self {
        let node = self.node(name);
        let at = match self.instance.core.state(node) {
            NodeState::Open(ask) | NodeState::Undoing(_, ask) => ask.next.at(),
            NodeState::InQuestion(question) => question.ask.next.at(),
            NodeState::Waiting { until, .. } => *until,
            state => self.fail(&format!("`{name}` waits for nothing: it is {state:?}")),
        };
        self.moves_to(at, &format!("`{name}` times out"))
    }

    /// All attempts of a step, of its compensation, or of the question about it, whichever is out, go by without a reply: until it is
    /// given up or wants a person.
    #[track_caller]
    pub fn never_answers(mut self, name: &str) -> Self {
        let node = self.node(name);
        let leg = self.leg_under_way(node);
        let mut said = Vec::new();
        let is_incident = |core: &Core| core.incidents.iter().any(|known| known.node == node);
        while !is_incident(&self.instance.core) {
            let at = match (leg, self.instance.core.state(node)) {
                (Leg::Do, NodeState::Open(ask)) | (Leg::Compensate, NodeState::Undoing(_, ask)) => {
                    ask.next.at()
                }
                (Leg::Status, NodeState::InQuestion(question)) => question.ask.next.at(),
                _ => break,
            };
            self = self.moves_to(at, &format!("`{name}` does not answer"));
            said.append(&mut self.said);
        }
        self.said = said;
        self
    }

    /// Time passes: what is due meanwhile happens, in order.
    #[track_caller]
    pub fn after(self, span: Duration) -> Self {
        let until = self.now + span;
        self.moves_to(until, "time passes")
    }

    /// An operator has the saga turn back.
    #[track_caller]
    pub fn cancels(self, who: &str, why: &str) -> Self {
        self.operates("cancels", Action::Cancel, who, why)
    }

    /// An operator ends the saga as it stands.
    #[track_caller]
    pub fn kills(self, who: &str, why: &str) -> Self {
        self.operates("kills", Action::Kill, who, why)
    }

    /// An operator has a step, or its compensation, asked again now.
    #[track_caller]
    pub fn retries(self, step: &str) -> Self {
        let node = self.node(step);
        self.operates(&format!("retries `{step}`"), Action::Retry(node), "operator", "by hand")
    }

    /// An operator declares a given-up compensation unnecessary, or done by hand.
    #[track_caller]
    pub fn resolves(self, step: &str, why: &str) -> Self {
        let node = self.node(step);
        self.operates(&format!("resolves `{step}`"), Action::Resolve(node), "operator", why)
    }

    /// Any input at all, for what the others can't say.
    #[track_caller]
    pub fn takes_input(self, input: Input, cause: Option<&str>) -> Self {
        self.takes(&format!("takes {input:?}"), input, cause.map(Into::into))
    }
}

impl<D: Data> Scenario<D> {
    #[track_caller]
    fn answered(mut self, verb: &str, step: &str, leg: Leg, name: &str, body: Body) -> Self {
        let node = self.node(step);
        let heading = format!("{verb} `{step}` {name}{}", fields(&body));
        let reply = Reply {
            held_until: None,
            node,
            leg,
            key: Some(self.instance.core.idempotency_key(step, leg)),
            attempt: self.attempt_of(node),
            name: name.into(),
            body,
        };
        self.events += 1;
        let cause = Some(format!("reply-{}", self.events));
        self.takes(&heading, Input::Reply(reply), cause)
    }

    #[track_caller]
    fn operates(self, verb: &str, action: Action, by: &str, why: &str) -> Self {
        let input = Input::Operator { action, by: by.into(), why: why.into() };
        self.takes(&format!("{by} {verb}: {why}"), input, None)
    }

    #[track_caller]
    fn moves_to(mut self, until: Timestamp, heading: &str) -> Self {
        let (mut said, mut turns, mut any) = (Vec::new(), 0, false);
        while let Some((at, _)) = self.instance.core.next_due().filter(|(at, _)| *at <= until) {
            turns = if at > self.now { 0 } else { turns + 1 };
            if turns > TURNS_AT_ONE_INSTANT_MAX {
                self.fail("time stands still: something is due again and again");
            }
            self.now = self.now.max(at);
            self = self.takes(heading, Input::Due, None);
            said.append(&mut self.said);
            any = true;
        }
        if !any {
            self.heard();
            self.transcript.push(format!("{}  {heading}", self.clock(until)));
        }
        self.now = self.now.max(until);
        self.said = said;
        self.verdict = Verdict::Applied;
        self
    }

    #[track_caller]
    fn takes(mut self, heading: &str, input: Input, cause: Option<String>) -> Self {
        self.heard();
        if matches!(input, Input::Reply(_) | Input::Event { .. }) {
            self.latest = Some((heading.into(), input.clone(), cause.clone()));
        }
        let before = self.instance.core.clone();
        let instance = self.instance.clone();
        match transition::apply(&self.definition, instance, input, cause, self.now, &Legible) {
            Ok(decision) => self.follow(heading, &before, decision),
            Err((_, unreadable)) => self.fail(&format!("{heading}: {}", chain(&unreadable))),
        }
        self
    }

    #[track_caller]
    fn follow(&mut self, heading: &str, before: &Core, decision: Decision) {
        self.coverage.cross(&self.definition, before, &decision);
        let said: Vec<String> = decision.effects.iter().map(saying).collect();
        self.transcript.push(format!("{}  {heading}", self.clock(self.now)));
        if decision.verdict != Verdict::Applied {
            self.transcript.push(format!("      {:?}", decision.verdict));
        }
        self.transcript.extend(said.iter().map(|said| format!("      says {said}")));
        self.verdict = decision.verdict;
        self.is_acknowledged = match decision.verdict {
            Verdict::Applied | Verdict::Deferred => true,
            Verdict::Duplicate | Verdict::Ignored(_) => {
                if decision.instance.core != *before || !said.is_empty() {
                    self.fail("an input that does not matter has changed the instance");
                }
                false
            }
        };
        let has_turned = decision.instance.core.status != Status::Running;
        if before.status == Status::Running && has_turned {
            self.reasons.push_str(heading);
        }
        if decision.has_ended().is_some() {
            self.reasons.extend(said.last().cloned());
        }
        self.said = said;
        self.instance = decision.instance;
        self.store_and_read();
    }

    /// Writes the instance to its stored form and goes on with what is read from it.
    #[track_caller]
    fn store_and_read(&mut self) {
        let mut stored = Vec::new();
        self.instance.encode(&mut stored);
        let history = History::decode(&self.instance.history.encode());
        let read = match Instance::decode(&self.definition, &stored, history) {
            Ok(read) => read,
            Err(error) => self.fail(&format!("the stored instance can't be read: {error}")),
        };
        let data = |instance: &Instance| instance.data.to_json().ok();
        let is_same = read.core == self.instance.core
            && read.history == self.instance.history
            && data(&read) == data(&self.instance);
        if !is_same {
            self.fail("the instance is another one after it was stored and read again");
        }
        self.instance = read;
    }

    /// The last input mattered, or it was said that it did not.
    #[track_caller]
    fn heard(&self) {
        if !self.is_acknowledged {
            let verdict = self.verdict;
            self.fail(&format!(
                "the last input was not applied: {verdict:?}; where that is meant, say so with `.is_ignored(..)` or `.is_duplicate()`"
            ));
        }
    }

    #[track_caller]
    fn node(&self, name: &str) -> NodeId {
        let graph = self.definition.graph();
        // No closure: it would be told as the place of the mistake.
        if let Some(node) = graph.find(name) {
            return node;
        }
        let is_named = |kind: &Kind| !matches!(kind, Kind::Sequence { .. });
        let named = graph.nodes.iter().filter(|node| is_named(&node.kind));
        let names: Vec<&str> = named.map(|node| node.name.as_str()).collect();
        self.fail(&format!("the saga has no `{name}`; it has {names:?}"))
    }

    fn leg_under_way(&self, node: NodeId) -> Leg {
        match self.instance.core.state(node) {
            NodeState::Undoing(..) | NodeState::Stuck(..) => Leg::Compensate,
            NodeState::InQuestion(_) => Leg::Status,
            _ => Leg::Do,
        }
    }

    fn attempt_of(&self, node: NodeId) -> Option<u32> {
        match self.instance.core.state(node) {
            NodeState::Open(ask) | NodeState::Undoing(_, ask) | NodeState::Stuck(_, ask) => {
                Some(ask.attempt)
            }
            NodeState::InQuestion(question) => Some(question.ask.attempt),
            _ => None,
        }
    }
}

/// What a participant says of the status of a step. See [`Scenario::status_of`].
#[must_use = "a status is told by `.is_done(..)`, `.is_rejected(..)`, `.is_not_done()` or `.is_unknown()`"]
pub struct StatusOf<D> {
    scenario: Scenario<D>,
    step: String,
}

impl<D: Data> StatusOf<D> {
    /// It was done, and this was its reply.
    #[track_caller]
    pub fn is_done<R: Message>(self, reply: R) -> Scenario<D> {
        self.answered("was done", reply)
    }

    /// It was refused, and this was its reply.
    #[track_caller]
    pub fn is_rejected<R: Message>(self, reply: R) -> Scenario<D> {
        self.answered("was rejected", reply)
    }

    /// It was not done, and is refused from now on.
    #[track_caller]
    pub fn is_not_done(self) -> Scenario<D> {
        self.answered("was not done", StatusNotDone {})
    }

    /// The participant does not know either.
    #[track_caller]
    pub fn is_unknown(self) -> Scenario<D> {
        self.answered("is unknown", StatusUnknown { message: "told by the scenario".into() })
    }

    #[track_caller]
    fn answered<R: Message>(self, verb: &str, reply: R) -> Scenario<D> {
        self.scenario.answered(verb, &self.step, Leg::Status, R::NAME, body_of(&reply))
    }
}

impl<D> Scenario<D> {
    fn clock(&self, at: Timestamp) -> String {
        let span = at.since(BEGINNING);
        format!("+{}.{:03}s", span.as_secs(), span.subsec_millis())
    }

    fn story(&self) -> String {
        let core = &self.instance.core;
        let graph = self.definition.graph();
        let mut story = format!("The saga `{}` of key {}, so far:\n", graph.name, core.key);
        for line in &self.transcript {
            story.push_str(&format!("  {line}\n"));
        }
        story.push_str(&format!("It is {}", core.status));
        if let Some(cause) = &core.cause {
            story.push_str(&format!(", because: {}", cause.text));
        }
        for incident in &core.incidents {
            let name = graph.name_of(incident.node);
            story
                .push_str(&format!("\nIncident at `{name}` ({}): {}", incident.leg, incident.text));
        }
        story
    }

    #[track_caller]
    fn fail(&self, what: &str) -> ! {
        panic!("{what}\n\n{}\n", self.story())
    }
}

/// Trouble that may pass, for certain without effect.
pub fn passing(code: &str) -> Failure {
    failure(code, true, FailureEffect::None)
}

/// Trouble that will stay, for certain without effect.
pub fn lasting(code: &str) -> Failure {
    failure(code, false, FailureEffect::None)
}

/// Trouble that may pass and may have had an effect.
pub fn uncertain(code: &str) -> Failure {
    failure(code, true, FailureEffect::Unknown)
}

fn failure(code: &str, retriable: bool, effect: FailureEffect) -> Failure {
    Failure { code: code.into(), message: "told by the scenario".into(), retriable, effect }
}

#[track_caller]
fn body_of<M: Message>(message: &M) -> Body {
    match Body::write(message, Format::Json, &Legible) {
        Ok(body) => body,
        Err(error) => panic!("writing `{}`: {error}", M::NAME),
    }
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
