//! Faults of a Kafka that only librdkafka's mock cluster commits on demand.

use bytes::Bytes;
use dirigent_connectors::{
    Attributes, ChannelSpec, Connector, Message, Sent, Source, SourceSpec, UnsentReason,
    kafka::{KafkaConnector, KafkaSettings},
    names,
};
use rdkafka::{
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use std::time::Duration;

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster() -> (Cluster, KafkaConnector) {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    for topic in ["orders", "secret", "g.owner"] {
        cluster.create_topic(topic, 1, 1).expect("a topic");
    }
    let mut settings = KafkaSettings::new(cluster.bootstrap_servers());
    settings.session_timeout = Duration::from_secs(3);
    let connector = KafkaConnector::new(settings).expect("usable settings");
    (cluster, connector)
}

fn message(channel: &str, id: usize) -> Message {
    Message {
        channel: channel.into(),
        kind: dirigent_connectors::ChannelKind::Work,
        key: "k".into(),
        attributes: Attributes::new().with(names::ID, id.to_string()),
        others: Vec::new(),
        body: Bytes::from_static(b"{}"),
    }
}

async fn source(connector: &KafkaConnector) -> Box<dyn Source> {
    let spec = SourceSpec {
        channels: vec![ChannelSpec::work("orders")],
        group: "g".into(),
        positions: Vec::new(),
        unsettled_max: 1_000,
    };
    connector.source(spec).await.expect("a source")
}

/// The ids of the next deliveries, until this one has come.
async fn read_until(source: &mut dyn Source, last: usize) -> Vec<usize> {
    let mut ids = Vec::new();
    while ids.last() != Some(&last) {
        let more = tokio::time::timeout(Duration::from_secs(30), source.receive(100)).await;
        for delivery in more.expect("an answer in time").expect("deliveries") {
            let id = delivery.message.attributes.get(names::ID);
            ids.push(id.and_then(|id| id.parse().ok()).expect("a number"));
        }
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_that_failed_for_good_is_replaced_and_order_per_key_survives_it() {
    let (cluster, connector) = cluster();
    let mut sink = connector.sink().await.expect("a sink");
    assert_eq!(sink.send(&[message("orders", 0)]).await, [Sent::Confirmed]);
    // The broker claims to have seen messages that were never sent: the producer has lost the count of its own.
    let lost = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
    cluster.request_errors(RDKafkaApiKey::Produce, &[lost]);
    let window: Vec<_> = (1..4).map(|id| message("orders", id)).collect();
    let sent = sink.send(&window).await;
    assert!(sent.iter().all(|sent| matches!(sent, Sent::Unknown { .. })), "{sent:?}");
    // What the relay does with a window that is unknown.
    assert_eq!(sink.send(&window).await, [Sent::Confirmed, Sent::Confirmed, Sent::Confirmed]);
    assert_eq!(sink.send(&[message("orders", 4)]).await, [Sent::Confirmed]);
    let mut source = source(&connector).await;
    assert_eq!(read_until(&mut *source, 4).await, [0, 1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_replicas_delay_a_window_and_lose_nothing_of_it() {
    let (cluster, connector) = cluster();
    let short = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS;
    let after = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND;
    cluster.request_errors(RDKafkaApiKey::Produce, &[short, short, after]);
    let window: Vec<_> = (0..4).map(|id| message("orders", id)).collect();
    let sent = connector.sink().await.expect("a sink").send(&window).await;
    assert!(sent.iter().all(|sent| *sent == Sent::Confirmed), "{sent:?}");
    let mut source = source(&connector).await;
    assert_eq!(read_until(&mut *source, 3).await, [0, 1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_whose_producer_was_fenced_by_nobody_goes_on_with_a_new_one() {
    let (cluster, connector) = cluster();
    let mut source = source(&connector).await;
    let mut sink = connector.owner_sink("g").await.expect("the sink of the owner");
    assert_eq!(sink.send(&[message("orders", 0)]).await, [Sent::Confirmed]);
    // As after a transaction that brokers gave up because the process stood still: the group is still ours.
    let fenced = RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH;
    cluster.request_errors(RDKafkaApiKey::AddPartitionsToTxn, &[fenced]);
    let sent = sink.send(&[message("orders", 1)]).await;
    assert!(matches!(sent[..], [Sent::Unknown { .. }]), "{sent:?}");
    assert_eq!(sink.send(&[message("orders", 1)]).await, [Sent::Confirmed]);
    assert_eq!(sink.send(&[message("orders", 2)]).await, [Sent::Confirmed]);
    let read = read_until(&mut *source, 2).await;
    assert!(read.is_sorted() && [0, 1, 2].iter().all(|id| read.contains(id)), "{read:?}");
    assert!(sink.health().report().standing.is_ready());
    assert!(sink.health().report().reconnects > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_may_not_be_written_to_is_not_authorised_and_takes_no_other_with_it() {
    let (cluster, connector) = cluster();
    let source = source(&connector).await;
    let forbidden = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    cluster.topic_error("secret", forbidden).expect("an error of the topic");
    let window = [message("orders", 0), message("secret", 1), message("orders", 2)];
    let owners = connector.owner_sink("g").await.expect("the sink of the owner");
    for mut sink in [connector.sink().await.expect("a sink"), owners] {
        let sent = sink.send(&window).await;
        let refused = &sent[1];
        assert!(
            matches!(refused, Sent::Unsent { reason: UnsentReason::NotAuthorised, text } if text.contains("secret")),
            "{refused:?}"
        );
        assert_eq!((&sent[0], &sent[2]), (&Sent::Confirmed, &Sent::Confirmed));
    }
    drop(source);
}
