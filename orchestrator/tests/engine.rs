//! The engine through its public face, on the memory broker: the main job, bad input, restarts.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

mod support;

use dirigent::{
    Orchestrator, StartError,
    engine::{Engine, EngineError, EngineParts, KeptFilter, ListFilter},
    envelope,
    journal::SimDisk,
    registry::Registry,
    store::{ALL_KEYS, DataFolder, MemoryStore, SledStore, Space, Store, StoreOptions},
};
use dirigent_connectors::{
    ChannelSpec, Connector, ConnectorError, Sent, UnsentReason,
    memory::MemoryBroker,
    names,
    rabbitmq::{RabbitMqConnector, RabbitMqSettings},
};
use dirigent_model::definition::{Definition, DefinitionErrors, Repeat, saga, step};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use support::{
    Begun, Broken, Finished, PANICS, Reserve, Stranger, clock::ByHand, event, orchestrator,
    purchase, reply_to, start_event, stubborn::Stubborn, until,
};

async fn participant(broker: &MemoryBroker) -> tokio::task::JoinHandle<()> {
    tokio::spawn(Stranger::listening(broker, ChannelSpec::work("work"), "worker").await.answers())
}

async fn customer(broker: &MemoryBroker) -> Stranger {
    broker.prepare(&[ChannelSpec::events("starts"), ChannelSpec::events("ends")]).await.unwrap();
    Stranger::listening(broker, ChannelSpec::events("ends"), "customer").await
}

fn kind(delivery: &dirigent_connectors::Delivery) -> &str {
    delivery.message.attributes.get(names::TYPE).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purchase_that_is_paid_completes_and_one_that_is_refused_is_compensated() {
    let broker = MemoryBroker::new();
    let mut customer = customer(&broker).await;
    let engine = orchestrator(&broker).start().await.unwrap();
    let worker = participant(&broker).await;
    customer.begins(1, 500).await;
    assert_eq!(kind(&customer.next().await), "Finished");
    customer.begins(2, 5_000).await;
    let broken = customer.next().await;
    assert_eq!(kind(&broken), "Broken");
    assert_eq!(&broken.message.body[..], br#"{"id":2,"why":"too dear"}"#);
    let handle = engine.handle();
    let shown = handle.show(handle.id("purchase", "2")).unwrap().unwrap();
    assert_eq!(shown.status, "compensated");
    let reserve = shown.nodes.iter().find(|node| node.name == "reserve").unwrap();
    assert_eq!(reserve.state, "compensated");
    worker.abort();
    engine.stop().await.unwrap();
    let snapshot = handle.snapshot();
    assert_eq!((snapshot.started, snapshot.completed, snapshot.compensated), (2, 1, 1));
    assert_eq!(snapshot.inputs.applied, 2 + 2 + 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_comes_twice_starts_once() {
    let broker = MemoryBroker::new();
    let mut customer = customer(&broker).await;
    let engine = orchestrator(&broker).start().await.unwrap();
    let worker = participant(&broker).await;
    for _ in 0..3 {
        customer.begins(1, 500).await;
    }
    assert_eq!(kind(&customer.next().await), "Finished");
    customer.begins(1, 500).await;
    customer.begins(2, 500).await;
    assert_eq!(&customer.next().await.message.body[..], br#"{"id":2}"#);
    worker.abort();
    let handle = engine.handle();
    engine.stop().await.unwrap();
    assert_eq!(handle.snapshot().started, 2);
    assert_eq!(handle.snapshot().inputs.duplicate, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_can_use_becomes_a_dead_letter_with_its_reason_and_nothing_else_stops() {
    let broker = MemoryBroker::new();
    let mut customer = customer(&broker).await;
    let engine = orchestrator(&broker).body_bytes_max(10_000).start().await.unwrap();
    let mut letters =
        Stranger::listening(&broker, ChannelSpec::work("shop.dead-letters"), "clerk").await;
    let worker = participant(&broker).await;
    let mut typeless = start_event(9, 1);
    typeless.attributes = dirigent_connectors::Attributes::new().with("id", "t");
    let mut foreign = start_event(10, 1);
    foreign.attributes.set(names::CONTENT_TYPE, "text/html");
    let mut lost_reply = start_event(12, 1);
    lost_reply.attributes.set(envelope::SAGA_ID, "not a uuid");
    let bad = [
        (event("starts", "Begun", "a", "1", b"{\"id\":".to_vec()), "undecodable"),
        (event("starts", "Nonsense", "b", "1", b"{}".to_vec()), "unknown-type"),
        (event("starts", "Begun", "c", "1", vec![b' '; 10_001]), "too-large"),
        (typeless, "no-type"),
        (foreign, "unknown-format"),
        (lost_reply, "broken-reply"),
    ];
    for (message, reason) in bad {
        let (body, key) = (message.body.clone(), message.key.clone());
        customer.sends(message).await;
        let letter = letters.next().await.message;
        assert_eq!(letter.attributes.get(envelope::DEAD_REASON), Some(reason));
        assert_eq!(letter.attributes.get(envelope::DEAD_CHANNEL), Some("starts"));
        assert_eq!((letter.body, letter.key), (body, key));
    }
    customer.begins(1, 5).await;
    assert_eq!(kind(&customer.next().await), "Finished");
    worker.abort();
    let handle = engine.handle();
    engine.stop().await.unwrap();
    assert_eq!(handle.snapshot().inputs.quarantined, 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_at_which_reading_its_key_panics_becomes_a_dead_letter_and_those_behind_it_go_on()
{
    let broker = MemoryBroker::new();
    let mut customer = customer(&broker).await;
    let unlucky = saga(
        "unlucky",
        1,
        |event: &Begun| {
            assert_ne!(event.id, 13, "this key is unlucky");
            event.id
        },
        |event: Begun| event.id,
    );
    let unlucky = unlucky
        .then(
            step("reserve", |id: &u64| Reserve { id: *id })
                .reply_within(Duration::from_secs(10))
                .nothing_to_compensate("it is a test"),
        )
        .ends();
    let builder = Orchestrator::builder("shop").saga(unlucky).connector(Arc::new(broker.clone()));
    let engine = builder.start().await.unwrap();
    let mut letters =
        Stranger::listening(&broker, ChannelSpec::work("shop.dead-letters"), "clerk").await;
    let worker = participant(&broker).await;
    customer.begins(13, 1).await;
    customer.begins(14, 1).await;
    let letter = letters.next().await.message;
    assert_eq!(letter.attributes.get(envelope::DEAD_REASON), Some("handler-panicked"));
    let text = letter.attributes.get(envelope::DEAD_TEXT).unwrap();
    assert!(text.contains("this key is unlucky"), "{text}");
    let handle = engine.handle();
    until(|| handle.snapshot().completed == 1).await;
    worker.abort();
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panicking_function_costs_its_message_and_not_the_process() {
    let broker = MemoryBroker::new();
    let mut customer = customer(&broker).await;
    let engine = orchestrator(&broker).start().await.unwrap();
    let worker = participant(&broker).await;
    customer.begins(1, PANICS).await;
    customer.begins(2, 5).await;
    assert_eq!(&customer.next().await.message.body[..], br#"{"id":2}"#);
    let handle = engine.handle();
    let quarantine = KeptFilter { quarantined: true, ..KeptFilter::default() };
    until(|| !handle.reader().kept(&quarantine).is_empty()).await;
    let shown = handle.show(handle.id("purchase", "1")).unwrap().unwrap();
    assert_eq!(shown.status, "blocked", "{shown:?}");
    let kept = handle.reader().kept(&quarantine);
    assert_eq!((kept[0].reason.as_str(), kept[0].name.as_str()), ("handler-panicked", "Reserved"));
    assert!(kept[0].text.contains("this amount is unlucky"));
    worker.abort();
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_goes_on_where_it_was_and_sends_again_what_was_not_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    let broker = MemoryBroker::new();
    let mut customer = customer(&broker).await;
    let engine = orchestrator(&broker).data(folder.path()).start().await.unwrap();
    let mut work = Stranger::listening(&broker, ChannelSpec::work("work"), "worker").await;
    for id in 0..50 {
        customer.begins(id, 5).await;
    }
    let mut asked = Vec::new();
    for _ in 0..50 {
        asked.push(work.next().await.message);
    }
    engine.stop().await.unwrap();
    let engine = orchestrator(&broker).data(folder.path()).start().await.unwrap();
    assert_eq!(engine.handle().snapshot().in_flight, 50);
    for command in &asked {
        work.sends(reply_to(command)).await;
    }
    let worker = tokio::spawn(work.answers());
    for _ in 0..50 {
        assert_eq!(kind(&customer.next().await), "Finished");
    }
    worker.abort();
    let handle = engine.handle();
    engine.stop().await.unwrap();
    let snapshot = handle.snapshot();
    assert_eq!((snapshot.started, snapshot.completed, snapshot.in_flight), (50, 50, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timer_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let broker = MemoryBroker::new();
    let mut customer = customer(&broker).await;
    let engine = orchestrator(&broker).data(folder.path()).start().await.unwrap();
    let mut work = Stranger::listening(&broker, ChannelSpec::work("work"), "worker").await;
    customer.begins(1, 5).await;
    let first = work.next().await.message;
    engine.stop().await.unwrap();
    let engine = orchestrator(&broker).data(folder.path()).start().await.unwrap();
    let again = work.next().await.message;
    assert_eq!(
        again.attributes.get(names::IDEMPOTENCY_KEY),
        first.attributes.get(names::IDEMPOTENCY_KEY)
    );
    assert_eq!(again.attributes.get(envelope::SAGA_ATTEMPT), Some("2"));
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_on_the_same_folder_is_refused_and_told_who_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let broker = MemoryBroker::new();
    let engine = orchestrator(&broker).data(folder.path()).start().await.unwrap();
    let Err(error) = orchestrator(&broker).data(folder.path()).start().await else {
        panic!("it was let in")
    };
    assert!(dirigent::describe(&error).contains(&std::process::id().to_string()), "{error}");
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_application_on_the_same_folder_is_refused_with_the_name_to_say() {
    let folder = tempfile::tempdir().unwrap();
    let broker = MemoryBroker::new();
    orchestrator(&broker).data(folder.path()).start().await.unwrap().stop().await.unwrap();
    let other =
        Orchestrator::builder("other").saga(purchase(1)).connector(Arc::new(broker.clone()));
    let error = other.data(folder.path()).start().await.err().unwrap().to_string();
    assert!(error.contains("belongs to application `shop`") && error.contains("--app shop"));
    orchestrator(&broker).data(folder.path()).start().await.unwrap().stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_comes_to_nothing_takes_the_folder_for_no_application() {
    let folder = tempfile::tempdir().unwrap();
    let mut away = RabbitMqSettings::new("amqp://127.0.0.1:1").unwrap();
    away.connect_time_max = Duration::from_millis(50);
    let away = Arc::new(RabbitMqConnector::new(away));
    let typo = Orchestrator::builder("shpo").saga(purchase(1)).connector(away);
    let refused = typo.data(folder.path()).start().await.err().expect("no broker is there");
    let StartError::Engine(EngineError::Connector(refused)) = refused else { panic!("{refused}") };
    assert!(matches!(refused, ConnectorError::Unreachable { .. }), "{refused}");
    // It came so far that the folder has a journal, and noted nobody's name.
    let opened = DataFolder::open(folder.path()).unwrap();
    let store = SledStore::open(&opened, StoreOptions::default()).unwrap();
    let is_noted = |name: &str| store.get(Space::Meta, name.as_bytes()).unwrap().is_some();
    assert_eq!(["journal", "application"].map(is_noted), [true, false]);
    drop((store, opened));
    let broker = MemoryBroker::new();
    orchestrator(&broker).data(folder.path()).start().await.unwrap().stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_without_the_definition_of_a_live_instance_refuses_to_start() {
    let folder = tempfile::tempdir().unwrap();
    let broker = MemoryBroker::new();
    let mut customer = customer(&broker).await;
    let engine = orchestrator(&broker).data(folder.path()).start().await.unwrap();
    let mut work = Stranger::listening(&broker, ChannelSpec::work("work"), "worker").await;
    customer.begins(1, 5).await;
    work.next().await;
    engine.stop().await.unwrap();
    let newer = dirigent::Orchestrator::builder("shop")
        .saga(purchase(2))
        .connector(std::sync::Arc::new(broker.clone()));
    let Err(error) = newer.data(folder.path()).start().await else { panic!("it was let in") };
    assert!(error.to_string().contains("purchase v1"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_nobody_can_receive_turns_the_saga_back_with_the_reason() {
    // A broker that was prepared, and then lost the queue: the command is returned as unroutable.
    let broker = MemoryBroker::new();
    let mut customer = customer(&broker).await;
    let engine = orchestrator(&broker).start().await.unwrap();
    broker.remove(&ChannelSpec::work("work"));
    customer.begins(1, 5).await;
    assert_eq!(kind(&customer.next().await), "Broken");
    let handle = engine.handle();
    let shown = handle.show(handle.id("purchase", "1")).unwrap().unwrap();
    assert!(shown.cause.unwrap().contains("unroutable on `work`"));
    assert_eq!(
        handle
            .list(&ListFilter { status: Some("compensated".into()), ..ListFilter::default() })
            .unwrap()
            .len(),
        1
    );
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_large_messages_at_once_are_set_aside_and_the_process_goes_on() {
    // More bytes than the journal takes as one record, all there before the first is read.
    const LETTERS: u64 = 80;
    let broker = MemoryBroker::new();
    let mut customer = customer(&broker).await;
    drop(Stranger::listening(&broker, ChannelSpec::events("starts"), "shop").await);
    for id in 0..LETTERS {
        customer.sends(event("starts", "Begun", &id.to_string(), "1", vec![b' '; 900_000])).await;
    }
    customer.begins(1, 5).await;
    let engine = orchestrator(&broker).shards(1).start().await.unwrap();
    let worker = participant(&broker).await;
    assert_eq!(kind(&customer.next().await), "Finished");
    worker.abort();
    let handle = engine.handle();
    engine.stop().await.unwrap();
    assert_eq!(handle.snapshot().inputs.quarantined, LETTERS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_its_instance_knows_to_be_unsent_does_not_leave_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let broker = MemoryBroker::new();
    let mut customer = customer(&broker).await;
    // The window that carries both commands is decided for the second one only: the watermark stays below both.
    let stubborn = stubborn(&broker, |key| match key {
        "1" => Some(Sent::Unknown { text: "nobody answers".into() }),
        "2" => Some(Sent::Unsent { reason: UnsentReason::Unroutable, text: "no queue".into() }),
        _ => None,
    });
    let orders = || Orchestrator::builder("shop").saga(purchase(1)).data(folder.path()).shards(1);
    drop(Stranger::listening(&broker, ChannelSpec::events("starts"), "shop").await);
    customer.begins(1, 5).await;
    customer.begins(2, 5).await;
    let engine = orders().connector(std::sync::Arc::new(stubborn)).start().await.unwrap();
    let handle = engine.handle();
    let id = handle.id("purchase", "2");
    until(|| handle.show(id).unwrap().is_some_and(|shown| shown.status == "compensated")).await;
    // Whoever may ask keeps the folder open.
    drop(handle);
    engine.stop().await.unwrap();
    let engine = orders().connector(std::sync::Arc::new(broker.clone())).start().await.unwrap();
    let mut work = Stranger::listening(&broker, ChannelSpec::work("work"), "worker").await;
    assert_eq!(kind(&customer.next().await), "Broken");
    assert_eq!(work.next().await.message.key, "1");
    let left = tokio::time::timeout(Duration::from_millis(100), work.source.receive(10)).await;
    let left = left.map_or(Vec::new(), Result::unwrap);
    assert!(left.iter().all(|delivery| delivery.message.key == "1"), "{left:?}");
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_may_have_been_sent_before_it_could_not_be_is_in_doubt_and_compensated() {
    let broker = MemoryBroker::new();
    let mut customer = customer(&broker).await;
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let stubborn = stubborn(&broker, move |key| {
        (key == "1").then(|| match asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0 => Sent::Unknown { text: "the connection broke".into() },
            _ => Sent::Unsent { reason: UnsentReason::Unroutable, text: "no queue".into() },
        })
    });
    let stubborn = std::sync::Arc::new(stubborn);
    let orders = Orchestrator::builder("shop").saga(purchase(1)).connector(stubborn);
    let engine = orders.start().await.unwrap();
    customer.begins(1, 5).await;
    let mut work = Stranger::listening(&broker, ChannelSpec::work("work"), "worker").await;
    // The first attempt is in doubt; the second one, of which nothing ever left, ends the step.
    assert_eq!(kind(&work.next().await), "Release");
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_event_that_began_a_run_begins_no_other_one_when_it_is_delivered_again() {
    let broker = MemoryBroker::new();
    let mut customer = customer(&broker).await;
    let engine = Orchestrator::builder("shop")
        .saga(again(Repeat::RestartWhenFinished))
        .connector(std::sync::Arc::new(broker.clone()))
        .start()
        .await
        .unwrap();
    let worker = participant(&broker).await;
    customer.begins(1, 5).await;
    assert_eq!(kind(&customer.next().await), "Finished");
    customer.begins(1, 5).await;
    let mut later = start_event(1, 5);
    later.attributes.set(names::ID, "another");
    customer.sends(later.clone()).await;
    assert_eq!(kind(&customer.next().await), "Finished");
    // Neither the event of the last run nor that of the first one, both delivered again once all is over.
    customer.sends(later).await;
    customer.begins(1, 5).await;
    let handle = engine.handle();
    until(|| handle.snapshot().inputs.consumed() == 7).await;
    worker.abort();
    engine.stop().await.unwrap();
    let snapshot = handle.snapshot();
    assert_eq!((snapshot.started, snapshot.completed, snapshot.inputs.duplicate), (2, 2, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_repeated_starts_are_refused_the_event_that_began_the_saga_is_a_duplicate_when_it_is_delivered_again()
 {
    let broker = MemoryBroker::new();
    let mut customer = customer(&broker).await;
    let engine = Orchestrator::builder("shop")
        .saga(again(Repeat::Reject))
        .connector(Arc::new(broker.clone()))
        .start()
        .await
        .unwrap();
    let mut letters =
        Stranger::listening(&broker, ChannelSpec::work("shop.dead-letters"), "clerk").await;
    let handle = engine.handle();
    customer.begins(1, 5).await;
    customer.begins(1, 5).await;
    until(|| handle.snapshot().inputs.duplicate == 1).await;
    let mut other = start_event(1, 5);
    other.attributes.set(names::ID, "another");
    customer.sends(other).await;
    let letter = letters.next().await.message;
    let says = |name| letter.attributes.get(name);
    assert_eq!(says(envelope::DEAD_REASON), Some("already-started"));
    assert_eq!(says(names::ID), Some("another"));
    engine.stop().await.unwrap();
    let inputs = handle.snapshot().inputs;
    assert_eq!((inputs.applied, inputs.duplicate, inputs.dead_letters), (1, 1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saga_that_is_to_be_kept_for_longer_than_before_is_forgotten_when_that_time_is_over() {
    let (broker, disk, clock) = (MemoryBroker::new(), SimDisk::new(), ByHand::new());
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let hours = |hours: u64| Duration::from_secs(hours * 3_600);
    let mut customer = customer(&broker).await;
    let kept_for = |span| {
        let plan = again_kept_for(span, Repeat::Duplicate).unwrap().plan();
        let registry = Registry::new(vec![plan]).unwrap();
        let parts = support::parts(&broker, Arc::clone(&store), Arc::new(disk.clone()));
        Engine::start(EngineParts { registry, clock: clock.clone(), ..parts })
    };
    let worker = participant(&broker).await;
    let engine = kept_for(hours(1)).await.unwrap();
    let handle = engine.handle();
    customer.begins(1, 5).await;
    assert_eq!(kind(&customer.next().await), "Finished");
    let id = handle.id("again", "1");
    until(|| handle.show(id).unwrap().is_some_and(|shown| shown.ended_at.is_some())).await;
    let ended = handle.show(id).unwrap().unwrap().ended_at.unwrap();
    engine.stop().await.unwrap();

    // The former end of its retention passes, and the new one is in the store sooner or later: a stop writes it there.
    clock.passes(hours(2));
    let end = (ended + hours(3)).0.to_be_bytes();
    let is_written = || {
        let timers = store.scan(Space::Timers, ALL_KEYS, 100).unwrap().records;
        timers.iter().any(|(key, _)| key.starts_with(&end))
    };
    for _ in 0..30 {
        let engine = kept_for(hours(3)).await.unwrap();
        // An idle shard looks at the clock every half a second.
        tokio::time::sleep(Duration::from_millis(700)).await;
        engine.stop().await.unwrap();
        if is_written() {
            break;
        }
    }
    assert!(is_written(), "the new end of its retention is nowhere");

    clock.passes(hours(2));
    let engine = kept_for(hours(3)).await.unwrap();
    let handle = engine.handle();
    until(|| handle.show(id).unwrap().is_none()).await;
    customer.begins(1, 5).await;
    assert_eq!(kind(&customer.next().await), "Finished");
    worker.abort();
    engine.stop().await.unwrap();
    assert_eq!(handle.snapshot().started, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_whose_work_another_one_has_taken_over_ends_and_says_who_has_it() {
    let broker = MemoryBroker::new();
    let mut customer = customer(&broker).await;
    let stubborn =
        stubborn(&broker, |_| Some(Sent::Fenced { text: "process 7 on the other machine".into() }));
    let orders = Orchestrator::builder("shop").saga(purchase(1));
    let engine = orders.connector(std::sync::Arc::new(stubborn)).start().await.unwrap();
    let mut work = Stranger::listening(&broker, ChannelSpec::work("work"), "worker").await;
    customer.begins(1, 5).await;
    tokio::time::timeout(Duration::from_secs(20), engine.failed()).await.unwrap();
    let error = engine.stop().await.unwrap_err();
    let said = std::error::Error::source(&error).unwrap().to_string();
    assert!(said.contains("process 7 on the other machine"), "{said}");
    let left = tokio::time::timeout(Duration::from_millis(100), work.source.receive(10)).await;
    assert!(left.is_err(), "{left:?}");
}

/// One step; what a second start of the same key does, the test says.
fn again(repeat: Repeat) -> Result<Definition<u64>, DefinitionErrors> {
    again_kept_for(Duration::from_secs(3_600), repeat)
}

fn again_kept_for(span: Duration, repeat: Repeat) -> Result<Definition<u64>, DefinitionErrors> {
    saga("again", 1, |event: &Begun| event.id, |event: Begun| event.id)
        .on_repeated_start(repeat)
        .keep_for(span)
        .then(
            step("reserve", |id: &u64| Reserve { id: *id })
                .reply_within(Duration::from_secs(20))
                .nothing_to_compensate("it is a test"),
        )
        .ends_with(|id| Finished { id: *id }, |id| Broken { id: *id, why: String::new() })
}

/// Decides the fate of `Reserve` commands by their key; `None` is sent.
fn stubborn(
    broker: &MemoryBroker,
    fate: impl Fn(&str) -> Option<Sent> + Send + Sync + 'static,
) -> Stubborn {
    Stubborn::around(broker, move |message| {
        let is_reserve = message.attributes.get(names::TYPE) == Some("Reserve");
        is_reserve.then(|| fate(&message.key)).flatten()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_only_what_was_not_confirmed_leaves_again_though_one_event_never_was() {
    const PURCHASES: u64 = 50;
    let folder = tempfile::tempdir().unwrap();
    let broker = MemoryBroker::new();
    let mut customer = customer(&broker).await;
    let worker = participant(&broker).await;
    let sent = Arc::new(Mutex::new(Vec::new()));
    let engine = || {
        let sent = Arc::clone(&sent);
        let connector = Stubborn::around(&broker, move |message| {
            sent.lock().unwrap().push(message.channel.clone());
            let text = "its queue is full".to_owned();
            (message.channel == "ends").then_some(Sent::Unknown { text })
        });
        Orchestrator::builder("shop")
            .saga(purchase(1))
            .connector(Arc::new(connector))
            .data(folder.path())
    };
    let first = engine().start().await.unwrap();
    for id in 0..PURCHASES {
        customer.begins(id, 500).await;
    }
    until(|| first.handle().snapshot().completed == PURCHASES).await;
    first.stop().await.unwrap();
    let commands = |sent: &[String]| sent.iter().filter(|channel| *channel == "work").count();
    assert_eq!(commands(&std::mem::take(&mut *sent.lock().unwrap())), 2 * 50);

    let second = engine().start().await.unwrap();
    customer.begins(PURCHASES, 500).await;
    until(|| second.handle().snapshot().completed == PURCHASES + 1).await;
    second.stop().await.unwrap();
    worker.abort();
    let sent = std::mem::take(&mut *sent.lock().unwrap());
    assert!(sent.iter().any(|channel| channel == "ends"), "the events are sent again");
    assert_eq!(commands(&sent), 2, "those of the new purchase");
}
