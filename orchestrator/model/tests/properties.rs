//! What holds whatever comes in: random inputs in random order against fixed sagas. A failing run prints its inputs, shrunk.

#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod sagas;

use dirigent_model::{
    decision::{Action, Decision, Effect, Hold, Input, Reply},
    definition::{Graph, Kind, NodeId, Plan, WayBack},
    history::{History, Verdict},
    instance::{Instance, Leg, NodeState, Status, Trace},
    message::{
        Body, Codec, CodecError, Failure, FailureEffect, Format, Message, StatusNotDone,
        StatusUnknown,
    },
    time::Timestamp,
    transition::{self, Start},
};
use proptest::{prelude::*, sample::Index};
use sagas::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use uuid::Uuid;

/// Writes every format as JSON.
struct AllJson;

impl Codec for AllJson {
    fn encode(
        &self,
        name: &'static str,
        _: Option<&'static str>,
        format: Format,
        value: &dyn erased_serde::Serialize,
    ) -> Result<Vec<u8>, CodecError> {
        serde_json::to_vec(value).map_err(|error| CodecError::new(name, format, error))
    }

    fn decode(
        &self,
        name: &'static str,
        _: Option<&'static str>,
        body: &Body,
        read: &mut dyn FnMut(
            &mut dyn erased_serde::Deserializer<'_>,
        ) -> Result<(), erased_serde::Error>,
    ) -> Result<(), CodecError> {
        let mut json = serde_json::Deserializer::from_slice(&body.bytes);
        read(&mut <dyn erased_serde::Deserializer<'_>>::erase(&mut json))
            .map_err(|error| CodecError::new(name, body.format, error))
    }
}

fn plans() -> Vec<(Arc<Plan>, Body)> {
    let json = |text: &str| Body { format: Format::Json, bytes: text.as_bytes().to_vec() };
    let order = order_saga().unwrap().plan();
    let trip = trip_saga().unwrap().plan();
    let forked = forked_saga().unwrap().plan();
    let asking = asking_saga().unwrap().plan();
    let asked = |legs| json(&format!(r#"{{"trip":"rome","legs":{legs}}}"#));
    vec![
        (Arc::clone(&order), json(r#"{"order":80}"#)),
        (order, json(r#"{"order":1000}"#)),
        (Arc::clone(&trip), asked(0)),
        (Arc::clone(&trip), asked(1)),
        (trip, asked(2)),
        (Arc::clone(&forked), asked(0)),
        (forked, asked(1)),
        (Arc::clone(&asking), asked(0)),
        (asking, asked(1)),
    ]
}

/// Something a message of this name may say.
fn sample(name: &str) -> Body {
    let text = match name {
        "StockReserved" => r#"{"reservation":3}"#,
        "StockRejected" => r#"{"sku":"pen"}"#,
        "PaymentAuthorised" => r#"{"hold":9}"#,
        "PaymentDeclined" | "CaptureDeclined" => r#"{"reason":"card"}"#,
        "OrderShipped" => r#"{"tracking":"T"}"#,
        "OrderApproved" | "OrderWithdrawn" => r#"{"order":80}"#,
        "OrderDeclined" => r#"{"order":80,"by":"bob"}"#,
        "Booked" => r#"{"code":1}"#,
        "Full" => r#"{"place":"any"}"#,
        "PaxReady" => r#"{"trip":"rome","pax":1}"#,
        "Note" => r#"{"text":"rome"}"#,
        _ => "{}",
    };
    Body { format: Format::Json, bytes: text.as_bytes().to_vec() }
}

/// One random input, before it is known what there is to answer.
#[derive(Debug, Clone)]
enum Act {
    Succeed(Index),
    Reject(Index),
    Fail(Index, bool, bool),
    Unsent(Index),
    /// About a status: not done, or unknown.
    Status(Index, bool),
    Held(Index, u8),
    /// Of any node: only for a wait that is open it means anything.
    Unheard(Index),
    Due,
    Event(Index, u8),
    Cancel,
    Kill,
    Retry(Index),
    Resolve(Index),
    AnyReply(Index, u8, Index, Vec<u8>, Option<u32>),
    AnyEvent(Index, Vec<u8>),
}

fn act() -> impl Strategy<Value = Act> {
    let at = any::<Index>;
    prop_oneof![
        12 => at().prop_map(Act::Succeed),
        2 => at().prop_map(Act::Reject),
        4 => (at(), any::<bool>(), any::<bool>()).prop_map(|(at, again, doubt)| Act::Fail(at, again, doubt)),
        1 => at().prop_map(Act::Unsent),
        3 => (at(), any::<bool>()).prop_map(|(at, known)| Act::Status(at, known)),
        3 => (at(), 0..3_u8).prop_map(|(at, hold)| Act::Held(at, hold)),
        1 => at().prop_map(Act::Unheard),
        6 => Just(Act::Due),
        3 => (at(), 0..4_u8).prop_map(|(at, id)| Act::Event(at, id)),
        1 => Just(Act::Cancel),
        1 => prop_oneof![9 => Just(Act::Due), 1 => Just(Act::Kill)],
        2 => at().prop_map(Act::Retry),
        1 => at().prop_map(Act::Resolve),
        2 => (at(), 0..3_u8, at(), prop::collection::vec(any::<u8>(), 0..20), any::<Option<u32>>())
            .prop_map(|(node, leg, name, bytes, attempt)| Act::AnyReply(node, leg, name, bytes, attempt)),
        1 => (at(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(at, bytes)| Act::AnyEvent(at, bytes)),
    ]
}

/// An instance with everything that was ever seen of it.
struct Run {
    plan: Arc<Plan>,
    instance: Instance,
    now: Timestamp,
    keys: BTreeMap<Uuid, (NodeId, Leg)>,
    published: BTreeSet<Uuid>,
    attempts: BTreeMap<(NodeId, Leg), u32>,
    held: BTreeSet<(NodeId, Leg)>,
    without_effect: BTreeSet<NodeId>,
}

impl Run {
    fn start(plan: &Arc<Plan>, body: &Body) -> Self {
        let now = Timestamp(1_000_000);
        let key = plan.start_key(body, &AllJson).unwrap();
        let start = Start { key, run: 0, body, cause: None, trace: Trace::default() };
        let decision = transition::start(plan, start, now, &AllJson).unwrap();
        let mut run = Self {
            plan: Arc::clone(plan),
            instance: decision.instance.clone(),
            now,
            keys: BTreeMap::new(),
            published: BTreeSet::new(),
            attempts: BTreeMap::new(),
            held: BTreeSet::new(),
            without_effect: BTreeSet::new(),
        };
        run.check(decision);
        run
    }

    fn graph(&self) -> &Graph {
        self.plan.graph()
    }

    /// Commands that are out: node, leg, attempt.
    fn out(&self) -> Vec<(NodeId, Leg, u32)> {
        let states = self.graph().ids().map(|id| (id, self.instance.core.state(id)));
        let out = states.flat_map(|(id, state)| match state {
            NodeState::Open(ask) => vec![(id, Leg::Do, ask.attempt)],
            NodeState::Undoing(_, ask) | NodeState::Stuck(_, ask) => {
                vec![(id, Leg::Compensate, ask.attempt)]
            }
            NodeState::InQuestion(question) => {
                vec![(id, Leg::Status, question.ask.attempt), (id, Leg::Do, question.about.attempt)]
            }
            _ => vec![],
        });
        out.collect()
    }

    fn success_of(&self, node: NodeId, leg: Leg) -> String {
        let step = self.graph().step(node).unwrap();
        match (leg, &step.way_back) {
            (Leg::Compensate, WayBack::Compensated { success, .. }) => success.clone(),
            _ => step.success.clone(),
        }
    }

    fn reply(&self, (node, leg, attempt): (NodeId, Leg, u32), name: &str, body: Body) -> Input {
        let key = Some(self.instance.core.idempotency_key(self.graph().name_of(node), leg));
        Input::Reply(Reply {
            node,
            leg,
            key,
            attempt: Some(attempt),
            held_until: None,
            name: name.into(),
            body,
        })
    }

    fn input(&mut self, act: &Act) -> Option<(Input, Option<String>)> {
        let out = self.out();
        let one = |at: &Index| (!out.is_empty()).then(|| *at.get(&out));
        let ids: Vec<NodeId> = self.graph().ids().collect();
        let events: Vec<String> =
            self.graph().events_awaited().map(|event| event.name.clone()).collect();
        let operator = |action| Input::Operator { action, by: "ann".into(), why: "test".into() };
        let input = match act {
            Act::Succeed(at) => {
                let (node, leg, attempt) = one(at)?;
                let name = self.success_of(node, leg);
                self.reply((node, leg, attempt), &name, sample(&name))
            }
            Act::Reject(at) => {
                let (node, leg, attempt) = one(at)?;
                let leg = if leg == Leg::Status { leg } else { Leg::Do };
                let name = self.graph().step(node)?.rejection.clone()?;
                self.reply((node, leg, attempt), &name, sample(&name))
            }
            Act::Status(at, known) => {
                let asked: Vec<_> =
                    out.iter().filter(|(_, leg, _)| *leg == Leg::Status).copied().collect();
                let one = (!asked.is_empty()).then(|| *at.get(&asked))?;
                let name = if *known { StatusNotDone::NAME } else { StatusUnknown::NAME };
                self.reply(one, name, sample(name))
            }
            Act::Fail(at, retriable, doubt) => {
                let effect = if *doubt { FailureEffect::Unknown } else { FailureEffect::None };
                let failure = Failure {
                    code: "c".into(),
                    message: "m".into(),
                    retriable: *retriable,
                    effect,
                };
                let body = Body::write(&failure, Format::Json, &AllJson).unwrap();
                self.reply(one(at)?, Failure::NAME, body)
            }
            Act::Unsent(at) => {
                let (node, leg, attempt) = one(at)?;
                Input::Unsent { node, leg, attempt, text: "no route".into() }
            }
            Act::Held(at, hold) => {
                let (node, leg, attempt) = one(at)?;
                let hold = [Hold::Queued, Hold::GivenBack, Hold::Left][usize::from(*hold)];
                self.held.insert((node, leg));
                let until = self.now + seconds(30);
                Input::Held { node, leg, attempt, hold, until }
            }
            Act::Unheard(at) => {
                Input::Unheard { node: *at.get(&ids), until: self.now + seconds(30) }
            }
            Act::Due => {
                let (at, _) = self.instance.core.next_due()?;
                self.now = self.now.max(at);
                Input::Due
            }
            Act::Event(at, id) => {
                let name = at.get(&events).clone();
                return Some((
                    Input::Event { body: sample(&name), name },
                    Some(format!("event-{id}")),
                ));
            }
            Act::Cancel => operator(Action::Cancel),
            Act::Kill => operator(Action::Kill),
            Act::Retry(at) => operator(Action::Retry(*at.get(&ids))),
            Act::Resolve(at) => operator(Action::Resolve(*at.get(&ids))),
            Act::AnyReply(node, leg, name, bytes, attempt) => {
                let names = [
                    "Booked",
                    "Full",
                    "Failure",
                    "Unbooked",
                    "StockReserved",
                    "StockReleased",
                    StatusNotDone::NAME,
                    StatusUnknown::NAME,
                    "Nonsense",
                ];
                Input::Reply(Reply {
                    held_until: None,
                    node: *node.get(&[&ids[..], &[NodeId(60_000)]].concat()),
                    leg: [Leg::Do, Leg::Compensate, Leg::Status][usize::from(*leg)],
                    key: None,
                    attempt: *attempt,
                    name: (*name.get(&names)).into(),
                    body: Body { format: Format::Json, bytes: bytes.clone() },
                })
            }
            Act::AnyEvent(at, bytes) => Input::Event {
                name: at.get(&events).clone(),
                body: Body { format: Format::Json, bytes: bytes.clone() },
            },
        };
        Some((input, None))
    }

    fn take(&mut self, input: Input, cause: Option<String>) {
        let before = self.instance.clone();
        let instance = self.instance.clone();
        match transition::apply(&self.plan, instance, input, cause, self.now, &AllJson) {
            Err((same, _)) => {
                assert_eq!(same.core, before.core, "what can't be read changes nothing");
                assert_eq!(same.history, before.history);
                assert_eq!(same.data.to_json(), before.data.to_json());
            }
            Ok(decision) => {
                let is_taken = matches!(decision.verdict, Verdict::Applied | Verdict::Deferred);
                if !is_taken || before.core.status.is_end() {
                    assert!(!is_taken, "once ended nothing is taken");
                    assert_eq!(decision.instance.core, before.core);
                    assert_eq!(decision.instance.data.to_json(), before.data.to_json());
                    assert!(decision.effects.is_empty() && decision.incidents_raised == 0);
                } else {
                    assert_eq!(decision.instance.core.revision, before.core.revision + 1);
                }
                let mut copy = before.history.clone();
                decision.line.iter().for_each(|(_, encoded)| copy.append_encoded(encoded));
                assert_eq!(copy, decision.instance.history);
                self.check(decision);
            }
        }
    }

    fn check(&mut self, decision: Decision) {
        let graph = self.plan.graph();
        let core = &decision.instance.core;
        for effect in &decision.effects {
            match effect {
                Effect::Publish { id, .. } => {
                    assert!(self.published.insert(*id), "an event is published once");
                    assert!(!self.keys.contains_key(id));
                }
                Effect::Command(command) => {
                    let place = (command.node, command.leg);
                    let known = *self.keys.entry(command.idempotency_key).or_insert(place);
                    assert_eq!(known, place, "a key belongs to one command");
                    let last = self.attempts.insert(place, command.attempt).unwrap_or(0);
                    let is_held = command.attempt == last && self.held.contains(&place);
                    assert!(command.attempt > last || is_held, "attempts only grow, unless held");
                    if command.leg == Leg::Compensate {
                        assert!(
                            self.attempts.contains_key(&(command.node, Leg::Do)),
                            "only what was asked is undone"
                        );
                        assert!(
                            !self.without_effect.contains(&command.node),
                            "what had no effect is not undone"
                        );
                        assert_eq!(core.status, Status::TurningBack);
                        let settled = |id: &NodeId| is_settled(graph, core.state(*id), *id);
                        let later: Vec<NodeId> =
                            graph.ids().filter(|id| depends_on(graph, *id, command.node)).collect();
                        assert!(later.iter().all(settled), "what depends on it is undone first");
                    }
                    if command.leg == Leg::Status {
                        let is_open = matches!(
                            self.instance.core.state(command.node),
                            NodeState::Open(_) | NodeState::InQuestion(_)
                        );
                        assert!(is_open, "only what is open is asked about");
                        let step = graph.step(command.node).unwrap();
                        assert!(step.status.is_some(), "only where that is declared");
                    }
                    if command.leg == Leg::Do {
                        // What an operator's retry sends counts as well: nothing starts once the saga turns back. A command sent
                        // in the very input that turned it back was sent before.
                        assert!(
                            self.instance.core.status != Status::TurningBack,
                            "no forward command while turning back"
                        );
                    }
                }
            }
        }
        for id in graph.ids() {
            if matches!(core.state(id), NodeState::NoEffect(_)) {
                self.without_effect.insert(id);
            }
            let is_pivot = graph.step(id).is_some_and(|step| step.way_back == WayBack::Pivot);
            if is_pivot && matches!(core.state(id), NodeState::Done(_)) {
                assert!(!matches!(core.status, Status::TurningBack | Status::Compensated));
            }
            assert!(
                !(is_pivot && matches!(core.state(id), NodeState::InDoubt)),
                "a pivot is never left in doubt"
            );
            if core.status == Status::Compensated {
                assert!(is_settled(graph, core.state(id), id), "what took effect was undone");
            }
            if core.status == Status::Completed {
                assert!(!matches!(
                    core.state(id),
                    NodeState::Undone
                        | NodeState::Open(_)
                        | NodeState::InQuestion(_)
                        | NodeState::Waiting { .. }
                ));
            }
        }
        if core.status.is_end() {
            assert_eq!(core.next_due(), None);
        } else {
            let moves = core.next_due().is_some() || core.is_blocked();
            assert!(moves, "a live instance waits for something or for a person: {core:?}");
        }
        let mut stored = Vec::new();
        decision.instance.encode(&mut stored);
        let history = History::decode(&decision.instance.history.encode());
        let read = Instance::decode(&self.plan, &stored, history).unwrap();
        assert_eq!(read.core, decision.instance.core);
        assert_eq!(read.history, decision.instance.history);
        assert_eq!(read.data.to_json(), decision.instance.data.to_json());
        self.instance = read;
    }

    /// Answers everything until the end.
    fn finish(&mut self) {
        for _ in 0..1_000 {
            if self.instance.core.status.is_end() {
                return;
            }
            let answer = self.out().first().copied();
            match answer {
                Some((node, leg, attempt)) => {
                    let name = self.success_of(node, leg);
                    let input = self.reply((node, leg, attempt), &name, sample(&name));
                    self.take(input, None);
                }
                None => {
                    let (at, _) = self.instance.core.next_due().expect("something is due");
                    self.now = self.now.max(at);
                    self.take(Input::Due, None);
                }
            }
        }
        panic!("it does not end: {:?}", self.instance);
    }
}

/// Whether nothing is left to be undone at a node.
fn is_settled(graph: &Graph, state: &NodeState, id: NodeId) -> bool {
    let is_undone_by_command =
        graph.step(id).is_some_and(|step| matches!(step.way_back, WayBack::Compensated { .. }));
    match state {
        NodeState::Done(_) | NodeState::InDoubt => !is_undone_by_command,
        NodeState::Open(_)
        | NodeState::InQuestion(_)
        | NodeState::Waiting { .. }
        | NodeState::Undoing(..)
        | NodeState::Stuck(..) => false,
        _ => true,
    }
}

/// Whether one step comes behind another in a sequence around both.
fn depends_on(graph: &Graph, later: NodeId, earlier: NodeId) -> bool {
    let path = |id: NodeId| -> Vec<NodeId> {
        let mut path: Vec<NodeId> =
            std::iter::successors(Some(id), |id| graph.node(*id).parent).collect();
        path.reverse();
        path
    };
    let (one, other) = (path(earlier), path(later));
    let Some(at) = (0..one.len().min(other.len())).find(|at| one[*at] != other[*at]) else {
        return false;
    };
    match &graph.node(one[at - 1]).kind {
        Kind::Sequence { children } => {
            let place = |id| children.iter().position(|child| *child == id);
            place(other[at]) > place(one[at])
        }
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_in_the_rules_hold_and_every_path_ends(
        which in any::<Index>(),
        acts in prop::collection::vec(act(), 0..80),
    ) {
        let plans = plans();
        let (plan, body) = which.get(&plans);
        let mut run = Run::start(plan, body);
        for act in &acts {
            if let Some((input, cause)) = run.input(act) {
                run.take(input, cause);
            }
        }
        run.finish();
    }

    #[test]
    fn the_same_inputs_give_the_same_decisions(acts in prop::collection::vec(act(), 0..40)) {
        let plans = plans();
        let (plan, body) = &plans[3];
        let run = || {
            let mut run = Run::start(plan, body);
            for act in &acts {
                if let Some((input, cause)) = run.input(act) {
                    run.take(input, cause);
                }
            }
            (run.instance.core, run.instance.history.encode(), run.keys)
        };
        prop_assert_eq!(run(), run());
    }

    #[test]
    fn bytes_that_are_no_instance_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let plan = order_saga().unwrap().plan();
        prop_assert!(Instance::decode(&plan, &bytes, History::decode(&bytes)).is_err());
        let _ = History::decode(&bytes).lines();
    }

    #[test]
    fn a_damaged_instance_never_panics_when_it_is_read(at in any::<Index>(), bit in 0..8_u8) {
        let plans = plans();
        let (plan, body) = &plans[2];
        let mut stored = Vec::new();
        Run::start(plan, body).instance.encode(&mut stored);
        let at = at.index(stored.len());
        stored[at] ^= 1 << bit;
        let _ = Instance::decode(plan, &stored, History::default());
    }

    #[test]
    fn bytes_that_are_no_start_event_begin_nothing(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let plan = order_saga().unwrap().plan();
        let body = Body { format: Format::Json, bytes };
        if plan.start_key(&body, &AllJson).is_err() {
            let start = Start { key: "k".into(), run: 0, body: &body, cause: None, trace: Trace::default() };
            prop_assert!(transition::start(&plan, start, Timestamp(0), &AllJson).is_err());
        }
    }
}
