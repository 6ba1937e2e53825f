//! What every connector promises, kept by each of them: in memory, and by a real Kafka and a real RabbitMQ, found or started here.
//!
//! The promises themselves are `dirigent_connectors::conformance`. The connectors' own tests ask real brokers for more, where
//! somebody names brokers that they may stop.

#![allow(clippy::unwrap_used, reason = "tests")]

use dirigent_brokers::{How, Unavailable, kafka, rabbitmq, require, skip};
use dirigent_connectors::{
    Connector,
    conformance::run_all,
    kafka::{KafkaConnector, KafkaSettings},
    memory::MemoryBroker,
    rabbitmq::{RabbitMqConnector, RabbitMqSettings},
};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::task::spawn_blocking;

/// Checks every promise under names that no other run uses: the brokers are shared.
async fn keeps_every_promise(connector: &dyn Connector) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let prefix = format!("promises-{}-{:x}", std::process::id(), now.as_nanos());
    run_all(connector, &prefix).await.unwrap_or_else(|broken| panic!("{broken}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_keeps_every_promise() {
    keeps_every_promise(&MemoryBroker::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_keeps_every_promise() {
    let Some(broker) = require!(spawn_blocking(kafka).await.unwrap()) else { return };
    if let How::Mock { why } = broker.how() {
        // It forgets what is beyond a few megabytes, and promises nothing.
        skip("kafka_keeps_every_promise", &Unavailable::OnlyMock { why: why.clone() });
        return;
    }
    let settings = KafkaSettings::new(broker.address().to_owned());
    keeps_every_promise(&KafkaConnector::new(settings).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_keeps_every_promise() {
    let Some(broker) = require!(spawn_blocking(rabbitmq).await.unwrap()) else { return };
    let settings = RabbitMqSettings::new(broker.address()).unwrap();
    keeps_every_promise(&RabbitMqConnector::new(settings)).await;
}
