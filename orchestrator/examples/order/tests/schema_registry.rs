//! The order saga with a schema registry: Confluent's wire format on the way, and what happens while the registry is away.

// Clippy takes the helpers of an integration test for code that is no test.
#![allow(clippy::unwrap_used)]

#[path = "../../../../schemas/tests/stub/mod.rs"]
mod stub;

use dirigent::{
    Orchestrator,
    engine::{Engine, Snapshot},
};
use dirigent_connectors::{
    Attributes, ChannelKind, ChannelSpec, Connector, Delivery, Message, Sent, Source, SourceSpec,
    memory::MemoryBroker, names,
};
use dirigent_model::message::{Body, Contract, Format, Message as _};
use dirigent_schemas::registry::{RegistrySettings, SchemaRegistry};
use order::order::{
    Rates,
    messages::{AuthorisePayment, ORDERS, OrderPlaced},
    order_saga,
    services::services,
};
use std::{sync::Arc, time::Duration};
use stub::{Stub, Trouble};

/// A registry as one process of its own knows it.
fn registry(stub: &Stub) -> Arc<SchemaRegistry> {
    let settings = RegistrySettings { register: true, ..RegistrySettings::new(stub.url()) };
    Arc::new(SchemaRegistry::new(settings).unwrap())
}

async fn engine(broker: &MemoryBroker, stub: &Stub) -> Engine {
    let builder = Orchestrator::builder("order").saga(order_saga());
    let builder = builder.connector(Arc::new(broker.clone())).schema_registry(registry(stub));
    builder.start().await.unwrap()
}

async fn listening(broker: &MemoryBroker, channel: ChannelSpec) -> Box<dyn Source> {
    broker.prepare(std::slice::from_ref(&channel)).await.unwrap();
    let spec = SourceSpec {
        channels: vec![channel],
        group: "test".into(),
        positions: vec![],
        unsettled_max: 100,
    };
    broker.source(spec).await.unwrap()
}

async fn next(source: &mut Box<dyn Source>) -> Delivery {
    let received = tokio::time::timeout(Duration::from_secs(60), source.receive(1)).await;
    received.expect("it comes within a minute").unwrap().remove(0)
}

fn placed(order: i64) -> OrderPlaced {
    OrderPlaced {
        order,
        customer: "ada".into(),
        sku: "lamp".into(),
        quantity: 1,
        amount_cents: 1_000,
    }
}

/// Places an order, with a body of this format.
async fn place(broker: &MemoryBroker, order: i64, body: Body) {
    let message = Message {
        channel: ORDERS.name.into(),
        kind: ChannelKind::Events,
        key: order.to_string(),
        attributes: Attributes::new()
            .with(names::SPEC_VERSION, "1.0")
            .with(names::ID, format!("order-{order}"))
            .with(names::SOURCE, "/customers")
            .with(names::TYPE, OrderPlaced::NAME)
            .with(names::SUBJECT, order.to_string())
            .with(names::CONTENT_TYPE, body.format.content_type()),
        others: vec![],
        body: body.bytes.into(),
    };
    let sent = broker.sink().await.unwrap().send(&[message]).await;
    assert!(matches!(sent[..], [Sent::Confirmed]), "{sent:?}");
}

/// As a sender of its own writes it, whose registry knows the schema.
fn framed(stub: &Stub, order: i64) -> Body {
    let registry = registry(stub);
    let contract = Contract { format: Format::Avro, ..Contract::sent::<OrderPlaced>(ORDERS) };
    registry.agree(&[contract]).unwrap();
    Body::write(&placed(order), Format::Avro, &*registry.codec()).unwrap()
}

async fn started(engine: &Engine, count: u64) {
    until(engine, |snapshot| snapshot.started >= count).await;
}

async fn completed(engine: &Engine, count: u64) {
    until(engine, |snapshot| snapshot.completed >= count).await;
}

async fn until(engine: &Engine, is_so: impl Fn(&Snapshot) -> bool) {
    for _ in 0..6_000 {
        if is_so(&engine.handle().snapshot()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not so within a minute: {:?}", engine.handle().snapshot());
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_complete_with_services_that_agreed_with_the_same_registry() {
    let (broker, stub) = (MemoryBroker::new(), Stub::start());
    let connector: Arc<dyn Connector> = Arc::new(broker.clone());
    let mut running = Vec::new();
    for (_, participant) in services(Rates { seed: 1, reject: 0.0, silent: 0.0 }) {
        let participant = participant.schema_registry(registry(&stub));
        let store = Arc::new(dirigent::store::MemoryStore::new());
        running.push(participant.start(Arc::clone(&connector), store).await.unwrap());
    }
    let engine = engine(&broker, &stub).await;
    assert!(stub.subjects().iter().any(|subject| subject == "order.AuthorisePayment"));
    for orders in [1..=1, 2..=20] {
        let last = *orders.end();
        for order in orders {
            let bytes = serde_json::to_vec(&placed(order)).unwrap();
            place(&broker, order, Body { format: Format::Json, bytes }).await;
        }
        completed(&engine, last.unsigned_abs()).await;
        // Everybody has met every schema by now, and nobody needs the registry any more.
        stub.always(Some(Trouble::Says(503, "away")));
    }
    engine.stop().await.unwrap();
    for participant in running {
        participant.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_go_out_in_confluents_wire_format_with_the_id_of_the_start() {
    let (broker, stub) = (MemoryBroker::new(), Stub::start());
    let mut payment = listening(&broker, ChannelSpec::work("payment")).await;
    let engine = engine(&broker, &stub).await;
    let id = stub.has("order.AuthorisePayment", AuthorisePayment::SCHEMA.unwrap());
    let bytes = serde_json::to_vec(&placed(7)).unwrap();
    place(&broker, 7, Body { format: Format::Json, bytes }).await;
    let command = next(&mut payment).await.message;
    assert_eq!(command.attributes.get(names::TYPE), Some("AuthorisePayment"));
    assert_eq!(command.body[..5], [&[0][..], &id.to_be_bytes()].concat());
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_registry_is_away_a_message_waits_and_is_no_dead_letter() {
    let (broker, stub) = (MemoryBroker::new(), Stub::start());
    let mut dead = listening(&broker, ChannelSpec::work("order.dead-letters")).await;
    let engine = engine(&broker, &stub).await;
    let body = framed(&stub, 7);
    stub.always(Some(Trouble::Says(503, "away")));
    let asked = stub.requests().len();
    place(&broker, 7, body).await;
    while stub.requests().len() < asked + 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(engine.handle().snapshot().started, 0);
    stub.always(None);
    started(&engine, 1).await;
    engine.stop().await.unwrap();
    let letters = tokio::time::timeout(Duration::from_millis(1), dead.receive(1)).await;
    assert!(letters.is_err(), "{letters:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_the_registry_does_not_have_makes_a_dead_letter_and_others_go_on() {
    let (broker, stub) = (MemoryBroker::new(), Stub::start());
    let mut dead = listening(&broker, ChannelSpec::work("order.dead-letters")).await;
    let engine = engine(&broker, &stub).await;
    let mut unknown = framed(&stub, 7);
    unknown.bytes[4] = 250;
    place(&broker, 7, unknown).await;
    place(&broker, 8, framed(&stub, 8)).await;
    let letter = next(&mut dead).await.message;
    assert_eq!(letter.attributes.get("deadreason"), Some("undecodable"));
    let text = letter.attributes.get("deadtext").unwrap();
    assert!(text.contains("schema 250"), "{text}");
    started(&engine, 1).await;
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_the_wait_for_a_registry() {
    let (broker, stub) = (MemoryBroker::new(), Stub::start());
    let engine = engine(&broker, &stub).await;
    let body = framed(&stub, 7);
    stub.always(Some(Trouble::Says(503, "away")));
    let asked = stub.requests().len();
    place(&broker, 7, body).await;
    while stub.requests().len() == asked {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let stopped = tokio::time::timeout(Duration::from_secs(60), engine.stop()).await;
    stopped.expect("it stops while the registry is away").unwrap();
}
