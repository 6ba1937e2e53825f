//! The engine through its public face, on the memory broker: the main job, bad input, restarts.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

mod support;

use dirigent::{engine::ListFilter, envelope};
use dirigent_connectors::{ChannelSpec, Connector, memory::MemoryBroker, names};
use support::{PANICS, Stranger, event, orchestrator, purchase, reply_to, start_event};

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
async fn a_panicking_function_costs_its_message_and_not_the_process() {
    let broker = MemoryBroker::new();
    let mut customer = customer(&broker).await;
    let engine = orchestrator(&broker).start().await.unwrap();
    let mut letters =
        Stranger::listening(&broker, ChannelSpec::work("shop.dead-letters"), "clerk").await;
    let worker = participant(&broker).await;
    customer.begins(1, PANICS).await;
    let letter = letters.next().await.message;
    assert_eq!(letter.attributes.get(envelope::DEAD_REASON), Some("handler-panicked"));
    assert!(letter.attributes.get(envelope::DEAD_TEXT).unwrap().contains("this amount is unlucky"));
    customer.begins(2, 5).await;
    assert_eq!(&customer.next().await.message.body[..], br#"{"id":2}"#);
    let handle = engine.handle();
    let shown = handle.show(handle.id("purchase", "1")).unwrap().unwrap();
    assert_eq!(shown.status, "running", "{shown:?}");
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
