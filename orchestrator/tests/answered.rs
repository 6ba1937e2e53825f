//! What an answer has settled: that attempt is neither sent again nor asked once more. On the memory broker; time is moved by hand.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

mod support;

use dirigent::{
    Orchestrator,
    engine::{Clock, Engine, EngineParts, Handle, LaneParts, OperatorAction},
    envelope::SAGA_ATTEMPT,
    journal::{DiskFault, DiskOperation, SimDisk},
    registry::Registry,
    store::{MemoryStore, Store},
};
use dirigent_connectors::{ChannelSpec, Connector, Message, Sent, Settle, memory::MemoryBroker};
use dirigent_model::{
    definition::{Definition, DefinitionErrors, saga, step},
    message::{self, Channel, Command, Event, Failure, FailureEffect, Message as _, Never},
    retry::Retry,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use support::{
    Stranger, clock::ByHand, event, orchestrator, parts, reply, stubborn::Stubborn, until,
};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Wanted {
    id: u64,
}
impl message::Message for Wanted {
    const NAME: &'static str = "Wanted";
}
impl Event for Wanted {
    const ON: Channel = Channel::json("wants");
}
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Fetch {
    id: u64,
}
impl message::Message for Fetch {
    const NAME: &'static str = "Fetch";
}
impl Command for Fetch {
    const TO: Channel = Channel::json("away");
    type Success = Fetched;
    type Rejection = Never;
}
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Fetched {}
impl message::Message for Fetched {
    const NAME: &'static str = "Fetched";
}

/// One step at a destination of its own: three attempts of ten seconds.
fn errand() -> Result<Definition<u64>, DefinitionErrors> {
    saga("errand", 1, |event: &Wanted| event.id, |event: Wanted| event.id)
        .then(
            step("fetch", |id: &u64| Fetch { id: *id })
                .reply_within(Duration::from_secs(10))
                .retry(Retry::exponential(3, Duration::from_millis(200), Duration::from_secs(5)))
                .nothing_to_compensate("it is a test"),
        )
        .ends()
}

async fn customer(broker: &MemoryBroker) -> Stranger {
    let channels = ["starts", "wants", "ends"].map(ChannelSpec::events);
    broker.prepare(&channels).await.unwrap();
    Stranger::listening(broker, ChannelSpec::events("ends"), "customer").await
}

async fn wants(customer: &mut Stranger, id: u64) {
    let body = serde_json::to_vec(&Wanted { id }).unwrap();
    let name = format!("wanted-{id}");
    customer.sends(event("wants", Wanted::NAME, &name, &id.to_string(), body)).await;
}

/// How the step of an errand stands.
fn fetch(handle: &Handle, id: u64) -> String {
    let shown = handle.show(handle.id("errand", &id.to_string())).unwrap();
    let mut nodes = shown.map(|shown| shown.nodes).unwrap_or_default().into_iter();
    nodes.find(|node| node.name == "fetch").map(|node| node.state).unwrap_or_default()
}

fn attempt(command: &Message) -> u32 {
    command.attributes.get(SAGA_ATTEMPT).unwrap().parse().unwrap()
}

/// It failed for now, and had no effect.
fn busy(command: &Message) -> Message {
    let failure = Failure {
        code: "busy".into(),
        message: "try again later".into(),
        retriable: true,
        effect: FailureEffect::None,
    };
    reply(command, Failure::NAME, serde_json::to_vec(&failure).unwrap())
}

async fn operates(handle: &Handle, id: u64, action: OperatorAction) {
    let (asking, id) = (handle.clone(), handle.id("errand", &id.to_string()));
    let operate = move || asking.operate(id, action, "ann", "no longer wanted");
    tokio::task::spawn_blocking(operate).await.unwrap().unwrap();
}

/// A connector that never confirms the first attempt for the key 1: how often it was tried, and with which message.
fn never_confirming(broker: &MemoryBroker) -> (Stubborn, Arc<Mutex<Vec<Message>>>) {
    let tried = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&tried);
    let stubborn = Stubborn::around(broker, move |message| {
        let is_lost = message.channel == "away" && message.key == "1" && attempt(message) == 1;
        is_lost.then(|| {
            seen.lock().unwrap().push(message.clone());
            Sent::Unknown { text: "nobody confirms".into() }
        })
    });
    (stubborn, tried)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_no_broker_confirmed_is_not_sent_again_once_it_is_answered_without_effect() {
    let (broker, clock) = (MemoryBroker::new(), ByHand::new());
    let mut customer = customer(&broker).await;
    let (stubborn, tried) = never_confirming(&broker);
    let engine = Orchestrator::builder("shop")
        .saga(errand())
        .connector(Arc::new(stubborn))
        .clock(Arc::clone(&clock) as Arc<dyn Clock>)
        .start()
        .await
        .unwrap();
    let handle = engine.handle();
    let mut place = Stranger::listening(&broker, ChannelSpec::work("away"), "fetcher").await;
    wants(&mut customer, 1).await;
    until(|| !tried.lock().unwrap().is_empty()).await;
    // It got there all the same, and is answered; it would hold back every other one of its channel as long as it is sent again.
    let first = tried.lock().unwrap()[0].clone();
    place.sends(busy(&first)).await;
    until(|| fetch(&handle, 1).contains("after attempt 1")).await;
    wants(&mut customer, 2).await;
    assert_eq!(place.next().await.message.key, "2");
    let before = tried.lock().unwrap().len();
    clock.passes(Duration::from_secs(1));
    let again = place.next().await.message;
    assert_eq!((again.key.as_str(), attempt(&again)), ("1", 2));
    assert_eq!(tried.lock().unwrap().len(), before);
    place.sends(reply(&again, Fetched::NAME, b"{}".to_vec())).await;
    until(|| handle.snapshot().completed == 1).await;
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_no_broker_confirmed_is_not_sent_again_once_its_saga_is_killed() {
    let broker = MemoryBroker::new();
    let mut customer = customer(&broker).await;
    let (stubborn, tried) = never_confirming(&broker);
    let engine = Orchestrator::builder("shop")
        .saga(errand())
        .connector(Arc::new(stubborn))
        .clock(ByHand::new())
        .start()
        .await
        .unwrap();
    let handle = engine.handle();
    let mut place = Stranger::listening(&broker, ChannelSpec::work("away"), "fetcher").await;
    wants(&mut customer, 1).await;
    until(|| !tried.lock().unwrap().is_empty()).await;
    operates(&handle, 1, OperatorAction::Kill).await;
    wants(&mut customer, 2).await;
    assert_eq!(place.next().await.message.key, "2");
    engine.stop().await.unwrap();
}

/// A machine that may lose its power; what lies on its disk and in its store is there afterwards.
struct Machine {
    broker: MemoryBroker,
    disk: SimDisk,
    store: Arc<dyn Store>,
    clock: Arc<ByHand>,
}

impl Machine {
    async fn starts(&self, connector: Arc<dyn Connector>) -> Engine {
        let disk = Arc::new(self.disk.clone());
        let reads = vec![ChannelSpec::events("wants"), ChannelSpec::work("shop.replies")];
        let prepares = vec![ChannelSpec::work("away")];
        let parts = EngineParts {
            registry: Registry::new(vec![errand().unwrap().plan()]).unwrap(),
            lanes: vec![LaneParts { connector, reads, prepares, carries: vec![] }],
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            ..parts(&self.broker, Arc::clone(&self.store), disk)
        };
        Engine::start(parts).await.unwrap()
    }

    /// Ends an engine that can write nothing down any more.
    async fn loses_its_power(&self, engine: Engine) {
        self.disk.fail(DiskOperation::Any, 1, DiskFault::PowerCut);
        drop(engine.stop().await);
        self.disk.crash(1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_was_withdrawn_leaves_no_more_after_a_power_cut_though_no_broker_confirmed_it()
 {
    for is_killed in [false, true] {
        let (broker, clock) = (MemoryBroker::new(), ByHand::new());
        let store = Arc::new(MemoryStore::new());
        let machine = Machine { broker: broker.clone(), disk: SimDisk::new(), store, clock };
        let mut customer = customer(&broker).await;
        let (stubborn, tried) = never_confirming(&broker);
        let engine = machine.starts(Arc::new(stubborn)).await;
        let handle = engine.handle();
        let mut place = Stranger::listening(&broker, ChannelSpec::work("away"), "fetcher").await;
        wants(&mut customer, 1).await;
        until(|| !tried.lock().unwrap().is_empty()).await;
        let first = tried.lock().unwrap()[0].clone();
        if is_killed {
            operates(&handle, 1, OperatorAction::Kill).await;
        } else {
            place.sends(busy(&first)).await;
            until(|| fetch(&handle, 1).contains("after attempt 1")).await;
        }
        drop(handle);
        machine.loses_its_power(engine).await;

        let engine = machine.starts(Arc::new(broker.clone())).await;
        wants(&mut customer, 2).await;
        // What was to leave before the power went would leave first.
        assert_eq!(place.next().await.message.key, "2", "killed: {is_killed}");
        machine.clock.passes(Duration::from_secs(1));
        if is_killed {
            wants(&mut customer, 3).await;
        }
        let next = place.next().await.message;
        let expected = if is_killed { ("3", 1) } else { ("1", 2) };
        assert_eq!((next.key.as_str(), attempt(&next)), expected);
        engine.stop().await.unwrap();
    }
}

/// A participant that remembers what it answered to each attempt, and says the same however often that is asked.
#[derive(Clone, Default)]
struct Faithful {
    is_well: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    busy: Arc<Mutex<BTreeMap<String, BTreeSet<u32>>>>,
}

impl Faithful {
    async fn works(self, mut place: Stranger) {
        loop {
            for delivery in place.source.receive(256).await.unwrap() {
                place.source.settler().settle(&[(delivery.receipt, Settle::Done)]);
                let command = delivery.message;
                let is_busy = {
                    let mut busy = self.busy.lock().unwrap();
                    let known = busy.entry(command.key.clone()).or_default();
                    let is_new = !self.is_well.load(Ordering::Acquire);
                    known.contains(&attempt(&command)) || is_new && known.insert(attempt(&command))
                };
                let answer = match is_busy {
                    true => busy(&command),
                    false => reply(&command, Fetched::NAME, b"{}".to_vec()),
                };
                place.sends(answer).await;
                self.asked.fetch_add(1, Ordering::AcqRel);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_failed_for_now_closes_the_circuit_of_its_destination_as_its_only_traffic() {
    const ERRANDS: u64 = 12;
    let (broker, clock) = (MemoryBroker::new(), ByHand::new());
    let mut customer = customer(&broker).await;
    let engine = orchestrator(&broker)
        .saga(errand())
        .clock(Arc::clone(&clock) as Arc<dyn Clock>)
        .shards(1)
        .start()
        .await
        .unwrap();
    let handle = engine.handle();
    let participant = Faithful::default();
    let place = Stranger::listening(&broker, ChannelSpec::work("away"), "fetcher").await;
    let working = tokio::spawn(participant.clone().works(place));
    for id in 0..ERRANDS {
        wants(&mut customer, id).await;
    }
    let state = || {
        let views = handle.destinations().into_iter();
        views.filter(|view| view.channel == "away").map(|view| view.state).collect::<String>()
    };
    until(|| participant.asked.load(Ordering::Acquire) as u64 == ERRANDS).await;
    until(|| state() == "open").await;
    let rests = |id| {
        let state = fetch(&handle, id);
        state.contains("held") || state.contains("after attempt")
    };
    until(|| (0..ERRANDS).all(rests)).await;
    for id in 1..ERRANDS {
        operates(&handle, id, OperatorAction::Cancel).await;
    }
    // Alone now: probe after probe fails, more of them than the step has attempts.
    let alone = participant.asked.load(Ordering::Acquire);
    let asked = || participant.asked.load(Ordering::Acquire) - alone;
    // Half of the time for a reply at the most passes while it is out.
    let passes = || {
        if rests(0) {
            clock.passes(Duration::from_secs(5));
        }
    };
    until(|| {
        passes();
        asked() >= 5
    })
    .await;
    until(|| rests(0)).await;
    assert!(asked() >= 5 && fetch(&handle, 0).contains("(counts as "), "{}", fetch(&handle, 0));
    assert_ne!(state(), "closed");
    participant.is_well.store(true, Ordering::Release);
    until(|| {
        passes();
        handle.snapshot().completed == 1
    })
    .await;
    assert_eq!(state(), "closed");
    working.abort();
    engine.stop().await.unwrap();
}
