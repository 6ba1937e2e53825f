//! Destinations that answer nobody, take less than there is, or were paused: nothing is lost, no saga fails of it, and nobody
//! else waits. On the memory broker; time is moved by hand.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

mod support;

use dirigent::{
    Orchestrator, OrchestratorBuilder,
    destinations::{DestinationView, Protection},
    engine::{Clock, Handle, OperatorAction},
};
use dirigent_connectors::{
    ChannelSpec, Connector, Message, Sent, Settle, UnsentReason, memory::MemoryBroker, names,
};
use dirigent_model::{
    definition::{Definition, DefinitionErrors, saga, step},
    message::{self, Channel, Command, Event, Message as _, Never},
    retry::Retry,
};
use serde::{Deserialize, Serialize};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use support::{
    Release, Reserve, Stranger, clock::ByHand, event, orchestrator, purchase, reply, reply_to,
    stubborn::Stubborn, until,
};

const AWAY: Channel = Channel::json("away");

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
    const TO: Channel = AWAY;
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

async fn wants(customer: &mut Stranger, id: u64) {
    let body = serde_json::to_vec(&Wanted { id }).unwrap();
    let name = format!("wanted-{id}");
    customer.sends(event("wants", Wanted::NAME, &name, &id.to_string(), body)).await;
}

/// Somebody who reads commands, and answers them from some time on.
#[derive(Clone, Default)]
struct Fetcher {
    asked: Arc<Mutex<Vec<String>>>,
    answers: Arc<AtomicBool>,
}

impl Fetcher {
    async fn works(self, mut place: Stranger) {
        loop {
            for delivery in place.source.receive(256).await.unwrap() {
                place.source.settler().settle(&[(delivery.receipt, Settle::Done)]);
                if self.answers.load(Ordering::Acquire) {
                    place
                        .sink
                        .send(&[reply(&delivery.message, Fetched::NAME, b"{}".to_vec())])
                        .await;
                }
                self.asked.lock().unwrap().push(delivery.message.key);
            }
        }
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

async fn customer(broker: &MemoryBroker) -> Stranger {
    let channels = ["starts", "wants", "ends"].map(ChannelSpec::events);
    broker.prepare(&channels).await.unwrap();
    Stranger::listening(broker, ChannelSpec::events("ends"), "customer").await
}

fn destination(handle: &Handle, channel: &str) -> DestinationView {
    handle.destinations().into_iter().find(|view| view.channel == channel).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_costs_probes_only_fails_no_saga_and_delays_nobody_else() {
    const ERRANDS: u64 = 100;
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
    let work = Stranger::listening(&broker, ChannelSpec::work("work"), "worker").await;
    let worker = tokio::spawn(work.answers());
    let fetcher = Fetcher::default();
    let place = Stranger::listening(&broker, ChannelSpec::work("away"), "fetcher").await;
    let fetching = tokio::spawn(fetcher.clone().works(place));
    for id in 0..ERRANDS {
        wants(&mut customer, id).await;
    }
    until(|| fetcher.asked() as u64 == ERRANDS).await;

    // Ten minutes without an answer. Every five seconds somebody else's saga begins and ends.
    let mut purchases = 0;
    for _ in 0..120 {
        clock.passes(Duration::from_secs(5));
        customer.begins(purchases, 500).await;
        customer.next().await;
        purchases += 1;
    }
    let during = fetcher.asked() as u64 - ERRANDS;
    // Open for 5, 10, 20, 40 and then 60 s, and each time up to three probes that wait ten seconds for nothing.
    assert!((1..=3 * 14).contains(&during), "{during} commands left during the outage");
    let view = destination(&handle, "away");
    assert_ne!(view.state, "closed", "{view:?}");
    assert!(view.held > 90 && view.opened == 1, "{view:?}");
    let mut shown = (0..ERRANDS).map(|id| {
        let shown = handle.show(handle.id("errand", &id.to_string())).unwrap().unwrap();
        assert_eq!(shown.status, "running");
        shown.nodes.into_iter().find(|node| node.name == "fetch").unwrap().state
    });
    let held = shown.find(|state| state.contains("held")).unwrap();
    assert!(held.contains("circuit of `away`") && held.contains("since"), "{held}");
    assert_eq!(destination(&handle, "work").state, "closed");

    // It is back: the first probe that is answered lets the others go.
    fetcher.answers.store(true, Ordering::Release);
    for _ in 0..100 {
        if handle.snapshot().in_flight == 0 {
            break;
        }
        clock.passes(Duration::from_secs(5));
        customer.begins(purchases, 500).await;
        customer.next().await;
        purchases += 1;
    }
    until(|| handle.snapshot().in_flight == 0).await;
    worker.abort();
    fetching.abort();
    engine.stop().await.unwrap();
    let snapshot = handle.snapshot();
    assert_eq!((snapshot.completed, snapshot.compensated), (ERRANDS + purchases, 0));
    let view = destination(&handle, "away");
    assert_eq!((view.state.as_str(), view.failures), ("closed", 0), "{view:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_whose_messages_are_not_confirmed_delays_nobody_else_and_loses_nothing() {
    const ERRANDS: u64 = 50;
    let broker = MemoryBroker::new();
    let mut customer = customer(&broker).await;
    let is_well = Arc::new(AtomicBool::new(false));
    let confirms = Arc::clone(&is_well);
    let stubborn = Stubborn::around(&broker, move |message| {
        let lost = message.channel == "away" && !confirms.load(Ordering::Acquire);
        lost.then(|| Sent::Unknown { text: "its queue has no leader".into() })
    });
    let engine = Orchestrator::builder("shop")
        .saga(purchase(1))
        .saga(errand())
        .connector(Arc::new(stubborn))
        .protect_at("away", Protection { circuit: None, ..Protection::default() })
        .clock(ByHand::new())
        // The order of two instances is promised where one shard decides about both.
        .shards(1)
        .start()
        .await
        .unwrap();
    let handle = engine.handle();
    let work = Stranger::listening(&broker, ChannelSpec::work("work"), "worker").await;
    let worker = tokio::spawn(work.answers());
    let mut place = Stranger::listening(&broker, ChannelSpec::work("away"), "fetcher").await;
    for id in 0..ERRANDS {
        wants(&mut customer, id).await;
        customer.begins(id, 500).await;
        customer.next().await;
    }
    let snapshot = handle.snapshot();
    assert_eq!((snapshot.completed, snapshot.in_flight), (ERRANDS, ERRANDS));
    is_well.store(true, Ordering::Release);
    let mut asked = Vec::new();
    while handle.snapshot().completed < 2 * ERRANDS {
        for delivery in place.source.receive(256).await.unwrap() {
            place.source.settler().settle(&[(delivery.receipt, Settle::Done)]);
            place.sends(reply(&delivery.message, Fetched::NAME, b"{}".to_vec())).await;
            asked.push(delivery.message.key.parse::<u64>().unwrap());
        }
        if asked.len() as u64 >= ERRANDS {
            until(|| handle.snapshot().completed == 2 * ERRANDS).await;
        }
    }
    assert_eq!(asked, (0..ERRANDS).collect::<Vec<_>>(), "each once, in its order");
    worker.abort();
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_circuit_the_same_outage_fails_every_saga_that_needs_it() {
    // What the test above is worth: the same, unprotected.
    const ERRANDS: u64 = 20;
    let (broker, clock) = (MemoryBroker::new(), ByHand::new());
    let mut customer = customer(&broker).await;
    let engine = orchestrator(&broker)
        .saga(errand())
        .protect(Protection { circuit: None, ..Protection::default() })
        .clock(Arc::clone(&clock) as Arc<dyn Clock>)
        .shards(1)
        .start()
        .await
        .unwrap();
    let handle = engine.handle();
    let work = Stranger::listening(&broker, ChannelSpec::work("work"), "worker").await;
    let worker = tokio::spawn(work.answers());
    let fetcher = Fetcher::default();
    let place = Stranger::listening(&broker, ChannelSpec::work("away"), "fetcher").await;
    let fetching = tokio::spawn(fetcher.clone().works(place));
    for id in 0..ERRANDS {
        wants(&mut customer, id).await;
    }
    until(|| fetcher.asked() as u64 == ERRANDS).await;
    for id in 0..12 {
        clock.passes(Duration::from_secs(5));
        customer.begins(id, 500).await;
        customer.next().await;
    }
    until(|| handle.snapshot().compensated == ERRANDS).await;
    until(|| fetcher.asked() as u64 == 3 * ERRANDS).await;
    worker.abort();
    fetching.abort();
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_destination_holds_its_commands_over_a_restart_until_it_is_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let broker = MemoryBroker::new();
    let mut customer = customer(&broker).await;
    let engine = orchestrator(&broker).data(folder.path()).start().await.unwrap();
    let handle = engine.handle();
    let unknown = handle.pause("wrok", "ann", "repair").unwrap_err().to_string();
    assert!(unknown.contains("`wrok`") && unknown.contains("work"), "{unknown}");
    assert!(
        handle.resume("work", "ann", "repaired").unwrap_err().to_string().contains("is not paused")
    );
    handle.pause("work", "ann", "repair").unwrap();
    let twice = handle.pause("work", "bob", "too").unwrap_err().to_string();
    assert!(twice.contains("by ann") && twice.contains("repair"), "{twice}");
    customer.begins(1, 500).await;
    until(|| destination(&handle, "work").held == 1).await;
    let id = handle.id("purchase", "1");
    let reserve = || {
        let shown = handle.show(id).unwrap().unwrap();
        shown.nodes.into_iter().find(|node| node.name == "reserve").unwrap().state
    };
    until(|| reserve().contains("paused by ann")).await;
    drop(handle);
    engine.stop().await.unwrap();

    let engine = orchestrator(&broker).data(folder.path()).start().await.unwrap();
    let handle = engine.handle();
    let view = destination(&handle, "work");
    assert_eq!(
        view.paused.map(|paused| (paused.by, paused.why)),
        Some(("ann".into(), "repair".into()))
    );
    assert_eq!(view.sent, 0);
    handle.resume("work", "ann", "repaired").unwrap();
    let work = Stranger::listening(&broker, ChannelSpec::work("work"), "worker").await;
    let worker = tokio::spawn(work.answers());
    assert_eq!(customer.next().await.message.attributes.get(names::TYPE), Some("Finished"));
    worker.abort();
    drop(handle);
    engine.stop().await.unwrap();

    let engine = orchestrator(&broker).data(folder.path()).start().await.unwrap();
    assert_eq!(destination(&engine.handle(), "work").state, "closed");
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saga_that_is_cancelled_while_its_command_is_held_ends_and_nothing_of_it_leaves() {
    let broker = MemoryBroker::new();
    let mut customer = customer(&broker).await;
    let engine = orchestrator(&broker).start().await.unwrap();
    let handle = engine.handle();
    handle.pause("work", "ann", "repair").unwrap();
    customer.begins(1, 500).await;
    until(|| destination(&handle, "work").held == 1).await;
    let id = handle.id("purchase", "1");
    let asking = handle.clone();
    let cancel = move || asking.operate(id, OperatorAction::Cancel, "ann", "no longer wanted");
    tokio::task::spawn_blocking(cancel).await.unwrap().unwrap();
    assert_eq!(customer.next().await.message.attributes.get(names::TYPE), Some("Broken"));
    handle.resume("work", "ann", "repaired").unwrap();
    customer.begins(2, 500).await;
    let mut work = Stranger::listening(&broker, ChannelSpec::work("work"), "worker").await;
    assert_eq!(work.next().await.message.key, "2");
    engine.stop().await.unwrap();
    assert_eq!(destination(&handle, "work").given_back, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_failed_without_effect_does_not_leave_again_after_a_restart_before_its_instance_asks()
 {
    let folder = tempfile::tempdir().unwrap();
    let (broker, clock) = (MemoryBroker::new(), ByHand::new());
    let mut customer = customer(&broker).await;
    // One window carries both commands, and only the second one is confirmed: the watermark stays below both.
    let stubborn = Stubborn::around(&broker, |message| {
        let is_lost = message.channel == "work" && message.key == "1";
        is_lost.then(|| Sent::Unknown { text: "nobody answers".into() })
    });
    let shop = |connector: Arc<dyn Connector>| {
        Orchestrator::builder("shop")
            .saga(purchase(1))
            .connector(connector)
            .clock(Arc::clone(&clock) as Arc<dyn Clock>)
            .data(folder.path())
            .shards(1)
    };
    drop(Stranger::listening(&broker, ChannelSpec::events("starts"), "shop").await);
    customer.begins(1, 500).await;
    customer.begins(2, 500).await;
    let engine = shop(Arc::new(stubborn)).start().await.unwrap();
    let handle = engine.handle();
    let mut work = Stranger::listening(&broker, ChannelSpec::work("work"), "worker").await;
    let asked = work.next().await.message;
    assert_eq!(asked.key, "2");
    let failed = br#"{"code":"busy","message":"later","retriable":true,"effect":"none"}"#;
    work.sends(reply(&asked, message::Failure::NAME, failed.to_vec())).await;
    let id = handle.id("purchase", "2");
    let history = |handle: &Handle| handle.show(id).unwrap().unwrap().history.len();
    until(|| history(&handle) == 2).await;
    drop(handle);
    engine.stop().await.unwrap();

    // The clock stands still: the instance rests, and does not ask again by itself.
    let engine = shop(Arc::new(broker.clone())).start().await.unwrap();
    let handle = engine.handle();
    assert_eq!(work.next().await.message.key, "1");
    let asking = handle.clone();
    let cancel = move || asking.operate(id, OperatorAction::Cancel, "ann", "no longer wanted");
    tokio::task::spawn_blocking(cancel).await.unwrap().unwrap();
    assert_eq!(customer.next().await.message.attributes.get(names::TYPE), Some("Broken"));
    let left = tokio::time::timeout(Duration::from_millis(100), work.source.receive(10)).await;
    assert!(left.is_err(), "{left:?}");
    engine.stop().await.unwrap();
}

/// How often the way back of a trip panicked, until it is mended.
static PANICKED: AtomicUsize = AtomicUsize::new(0);
static MENDED: AtomicBool = AtomicBool::new(false);

/// Two steps, the second of which can't be sent; the way back of the first one has a mistake.
fn trip() -> Result<Definition<u64>, DefinitionErrors> {
    saga("trip", 1, |event: &Wanted| event.id, |event: Wanted| event.id)
        .then(
            step("reserve", |id: &u64| Reserve { id: *id })
                .reply_within(Duration::from_secs(10))
                .compensated_by(|_, _| {
                    if !MENDED.load(Ordering::SeqCst) {
                        PANICKED.fetch_add(1, Ordering::SeqCst);
                        panic!("the way back has a mistake");
                    }
                    Release { ticket: None }
                }),
        )
        .then(
            step("fetch", |id: &u64| Fetch { id: *id })
                .reply_within(Duration::from_secs(10))
                .compensated_by(|_, _| Release { ticket: Some(9) }),
        )
        .ends()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_could_not_leave_is_never_in_doubt_though_a_function_panics_as_its_saga_hears_of_it()
 {
    let (broker, clock) = (MemoryBroker::new(), ByHand::new());
    let mut customer = customer(&broker).await;
    let stubborn = Stubborn::around(&broker, |message| {
        let (reason, text) = (UnsentReason::Unroutable, "no queue".to_owned());
        (message.channel == "away").then_some(Sent::Unsent { reason, text })
    });
    let engine = Orchestrator::builder("shop")
        .saga(trip())
        .connector(Arc::new(stubborn))
        .clock(Arc::clone(&clock) as Arc<dyn Clock>)
        .start()
        .await
        .unwrap();
    let handle = engine.handle();
    let mut work = Stranger::listening(&broker, ChannelSpec::work("work"), "worker").await;
    wants(&mut customer, 1).await;
    let reserve = work.next().await.message;
    work.sends(reply_to(&reserve)).await;
    until(|| PANICKED.load(Ordering::SeqCst) > 0).await;
    MENDED.store(true, Ordering::SeqCst);
    clock.passes(Duration::from_secs(61));
    let release = work.next().await.message;
    assert_eq!(&release.body[..], br#"{"ticket":null}"#, "what was fetched would be released");
    work.sends(reply_to(&release)).await;
    until(|| handle.snapshot().compensated == 1).await;
    let shown = handle.show(handle.id("trip", "1")).unwrap().unwrap();
    let fetch = shown.nodes.into_iter().find(|node| node.name == "fetch").unwrap();
    assert_eq!(fetch.state, "unsent");
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_commands_are_in_flight_than_may_be_and_all_of_them_get_there() {
    const PURCHASES: u64 = 40;
    let broker = MemoryBroker::new();
    let mut customer = customer(&broker).await;
    // Time stands still: nobody's time limit has to do with it.
    let engine = limited(&broker, Protection { in_flight_max: Some(3), ..Protection::default() });
    let engine = engine.clock(ByHand::new()).start().await.unwrap();
    for id in 0..PURCHASES {
        customer.begins(id, 500).await;
    }
    let mut work = Stranger::listening(&broker, ChannelSpec::work("work"), "worker").await;
    let (mut out, mut answered): (Vec<Message>, u64) = (vec![], 0);
    // Each purchase sends two commands.
    while answered < 2 * PURCHASES {
        let wait = Duration::from_millis(if out.is_empty() { 20_000 } else { 10 });
        if let Ok(more) = tokio::time::timeout(wait, work.source.receive(10)).await {
            for delivery in more.unwrap() {
                work.source.settler().settle(&[(delivery.receipt, Settle::Done)]);
                out.push(delivery.message);
            }
        }
        assert!(!out.is_empty(), "after {answered} answers no command came within 20 s");
        assert!(out.len() <= 3, "{} are not answered yet", out.len());
        work.sends(reply_to(&out.remove(0))).await;
        answered += 1;
    }
    for _ in 0..PURCHASES {
        assert_eq!(customer.next().await.message.attributes.get(names::TYPE), Some("Finished"));
    }
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_leaves_after_its_saga_has_ended_keeps_no_other_from_leaving() {
    let (broker, clock) = (MemoryBroker::new(), ByHand::new());
    let mut customer = customer(&broker).await;
    let engine = orchestrator(&broker)
        .saga(errand())
        .protect_at("away", Protection { in_flight_max: Some(1), ..Protection::default() })
        .clock(Arc::clone(&clock) as Arc<dyn Clock>)
        .start()
        .await
        .unwrap();
    let handle = engine.handle();
    let mut place = Stranger::listening(&broker, ChannelSpec::work("away"), "fetcher").await;
    let fetched = |command: &Message| reply(command, Fetched::NAME, b"{}".to_vec());
    let completed = |count| handle.snapshot().completed == count;
    // The second one waits behind the first, whose time is over while that one is out.
    wants(&mut customer, 1).await;
    let first = place.next().await.message;
    clock.passes(Duration::from_secs(2));
    wants(&mut customer, 2).await;
    until(|| destination(&handle, "away").queued == 1).await;
    clock.passes(Duration::from_millis(8_500));
    let other = place.next().await.message;
    assert_eq!(other.key, "2");
    until(|| destination(&handle, "away").queued == 0).await;
    // Now the first one's second attempt waits, and its first attempt is answered after all.
    clock.passes(Duration::from_secs(1));
    until(|| destination(&handle, "away").queued == 1).await;
    place.sends(fetched(&first)).await;
    until(|| completed(1)).await;
    place.sends(fetched(&other)).await;
    until(|| completed(2)).await;
    let again = place.next().await.message;
    assert_eq!((again.key.as_str(), destination(&handle, "away").in_flight), ("1", Some(1)));
    place.sends(fetched(&again)).await;
    wants(&mut customer, 3).await;
    let third = place.next().await.message;
    assert_eq!(third.key, "3");
    place.sends(fetched(&third)).await;
    until(|| completed(3)).await;
    engine.stop().await.unwrap();
    assert_eq!(destination(&handle, "away").in_flight, Some(0));
}

fn limited(broker: &MemoryBroker, protection: Protection) -> OrchestratorBuilder {
    Orchestrator::builder("shop")
        .saga(purchase(1))
        .connector(Arc::new(broker.clone()))
        .protect_at("work", protection)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_by_two_brokers_are_counted_apart_and_heard_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (here, there) = (MemoryBroker::new(), MemoryBroker::new());
    let mut customer = customer(&here).await;
    let engine = || {
        Orchestrator::builder("shop")
            .saga(purchase(1))
            .saga(errand())
            .connector(Arc::new(here.clone()))
            .connector_for(Arc::new(there.clone()), &["away"])
            .clock(ByHand::new())
            .data(folder.path())
            .start()
    };
    let first = engine().await.unwrap();
    let work = Stranger::listening(&here, ChannelSpec::work("work"), "worker").await;
    let worker = tokio::spawn(work.answers());
    let fetcher = Fetcher::default();
    fetcher.answers.store(true, Ordering::Release);
    let place = Stranger::listening(&there, ChannelSpec::work("away"), "fetcher").await;
    let fetching = tokio::spawn(fetcher.works(place));
    // Many replies by the one, few by the other.
    for id in 0..20 {
        customer.begins(id, 500).await;
    }
    wants(&mut customer, 1).await;
    until(|| first.handle().snapshot().completed == 21).await;
    first.stop().await.unwrap();
    let second = engine().await.unwrap();
    for id in 2..5 {
        wants(&mut customer, id).await;
    }
    until(|| second.handle().snapshot().completed == 24).await;
    second.stop().await.unwrap();
    worker.abort();
    fetching.abort();
    let audit = dirigent::engine::audit_at_rest(folder.path()).unwrap();
    assert!(audit.is_clean(), "{:?}", audit.gaps);
    let replies = |channel: &str| {
        let consumed = audit.partitions.iter().filter(|it| it.channel == channel);
        consumed.map(|it| it.consumed).sum::<u64>()
    };
    assert_eq!((replies("shop.replies"), replies("shop.replies.memory-2")), (40, 4));
}
