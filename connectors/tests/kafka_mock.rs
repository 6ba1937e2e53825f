//! The Kafka connector against librdkafka's mock cluster, which needs no Kafka.
//!
//! It has no administration, so topics are created beside the connector; and it does not name the members of a group.
//! What it can't show is checked against a real Kafka by the integration tests.

use bytes::Bytes;
use dirigent_connectors::{
    Attributes, ChannelKind, ChannelSpec, Connector, ConnectorError, Delivery, Message, Position,
    Sent, Settle, Source, SourceSpec,
    conformance::run_all,
    kafka::{KafkaConnector, KafkaSettings},
    names,
};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    mocking::MockCluster,
    producer::DefaultProducerContext,
};
use std::time::Duration;

type Cluster = MockCluster<'static, DefaultProducerContext>;

/// Short enough that a test does not wait long for a session to end, or for a group to agree: where a member leaves, the mock
/// cluster waits for others for a second less than this. The first member of a group it lets wait for three seconds, always.
const SESSION_TIMEOUT: Duration = Duration::from_secs(3);

fn cluster(topics: &[(&str, i32)]) -> (Cluster, KafkaConnector) {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    for (topic, partitions) in topics {
        cluster.create_topic(topic, *partitions, 1).expect("a topic");
    }
    let connector = connector(&cluster);
    (cluster, connector)
}

fn connector(cluster: &Cluster) -> KafkaConnector {
    KafkaConnector::new(settings(cluster)).expect("usable settings")
}

fn settings(cluster: &Cluster) -> KafkaSettings {
    let mut settings = KafkaSettings::new(cluster.bootstrap_servers());
    settings.session_timeout = SESSION_TIMEOUT;
    settings.takeover_margin = Duration::from_millis(200);
    settings.properties.insert("reconnect.backoff.max.ms".into(), "200".into());
    settings
}

fn message(id: usize) -> Message {
    Message {
        channel: "orders".into(),
        kind: ChannelKind::Events,
        key: "k".into(),
        attributes: Attributes::new().with(names::ID, id.to_string()),
        others: Vec::new(),
        body: Bytes::from_static(b"{}"),
    }
}

fn spec(next: Option<u64>) -> SourceSpec {
    let position = |next| Position { channel: "orders".into(), partition: 0, next };
    SourceSpec {
        channels: vec![ChannelSpec::events("orders")],
        group: "g".into(),
        positions: next.map(position).into_iter().collect(),
        unsettled_max: 1_000,
    }
}

async fn receive(source: &mut dyn Source, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    while deliveries.len() < count {
        let more =
            tokio::time::timeout(Duration::from_secs(30), source.receive(count - deliveries.len()))
                .await;
        deliveries.extend(more.expect("an answer in time").expect("deliveries"));
    }
    deliveries
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_keeps_every_promise() {
    // A fresh mock cluster needs half a second for each topic that it is told to create, and none for those it is asked for.
    let cluster = MockCluster::new(1).expect("a mock cluster");
    let mut settings = settings(&cluster);
    settings.create_by_asking = true;
    let connector = KafkaConnector::new(settings).expect("usable settings");
    run_all(&connector, "p").await.expect("every promise kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_the_log_does_not_have_is_refused() {
    let (_cluster, connector) = cluster(&[("orders", 1), ("g.owner", 1), ("h.owner", 1)]);
    let sent = connector.sink().await.expect("a sink").send(&[message(0), message(1)]).await;
    assert_eq!(sent, [Sent::Confirmed, Sent::Confirmed]);
    let there = SourceSpec { group: "h".into(), ..spec(Some(1)) };
    let (beyond, there) = tokio::join!(connector.source(spec(Some(3))), connector.source(there));
    let Err(ConnectorError::Refused { doing, text, .. }) = beyond else {
        panic!("offset 3 is not in a log of two messages");
    };
    assert_eq!(doing, "reading topic orders partition 0");
    assert!(text.contains("offset 3") && text.contains("ends at 2"), "{text}");

    let mut source = there.expect("offset 1 is");
    assert_eq!(receive(&mut *source, 1).await[0].offset, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_has_one_owner_until_it_leaves() {
    let (cluster, first) = cluster(&[("orders", 1), ("g.owner", 1)]);
    let second = connector(&cluster);
    first.sink().await.expect("a sink").send(&[message(0), message(1)]).await;
    let mut owner = first.source(spec(None)).await.expect("the first becomes the owner");
    let before = receive(&mut *owner, 1).await;
    owner.settler().settle(&[(before[0].receipt, Settle::Done)]);

    let refused = second.source(spec(None)).await.err();
    assert!(matches!(refused, Some(ConnectorError::Owned { .. })), "{refused:?}");
    // The owner has not noticed.
    assert_eq!(receive(&mut *owner, 1).await[0].offset, 1);

    drop(owner);
    let mut next = second.source(spec(Some(1))).await.expect("the owner has left");
    assert_eq!(receive(&mut *next, 1).await[0].offset, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_goes_away_and_comes_back_loses_nothing() {
    let (cluster, connector) = cluster(&[("orders", 1), ("g.owner", 1)]);
    let mut sink = connector.sink().await.expect("a sink");
    let mut source = connector.source(spec(None)).await.expect("a source");
    assert_eq!(sink.send(&[message(0)]).await, [Sent::Confirmed]);
    assert_eq!(receive(&mut *source, 1).await.len(), 1);
    let health = source.health();

    cluster.broker_down(1).expect("down");
    let window = [message(1), message(2)];
    let send = sink.send(&window);
    let come_back = async {
        // Its session is over by then: it has to get its group again.
        let lost = health.until(|standing| standing.name() == "waiting");
        tokio::time::timeout(Duration::from_secs(30), lost).await.expect("a lost group in time");
        // librdkafka ends the process if somebody else has taken the broker's port meanwhile.
        while std::net::TcpListener::bind(cluster.bootstrap_servers()).is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        cluster.broker_up(1).expect("up");
    };
    let (sent, ()) = tokio::join!(send, come_back);
    assert_eq!(sent, [Sent::Confirmed, Sent::Confirmed]);
    let ids: Vec<_> =
        receive(&mut *source, 2).await.iter().map(|delivery| delivery.offset).collect();
    assert_eq!(ids, [1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_administration_creates_topics_when_asked_for_them() {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    let mut settings = KafkaSettings::new(cluster.bootstrap_servers());
    settings.create_by_asking = true;
    let connector = KafkaConnector::new(settings).expect("usable settings");
    let channel = ChannelSpec::work("work");
    connector.prepare(std::slice::from_ref(&channel)).await.expect("a topic");
    let mut work = message(0);
    (work.channel, work.kind) = (channel.name, channel.kind);
    let mut never = work.clone();
    never.channel = "never-prepared".into();
    let sent = connector.sink().await.expect("a sink").send(&[work, never]).await;
    assert!(matches!(sent[..], [Sent::Confirmed, Sent::Unsent { .. }]), "{sent:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_settled_is_committed_for_lag_displays() {
    let (cluster, connector) = cluster(&[("orders", 1), ("g.owner", 1)]);
    connector.sink().await.expect("a sink").send(&[message(0), message(1), message(2)]).await;
    let mut source = connector.source(spec(None)).await.expect("a source");
    let deliveries = receive(&mut *source, 3).await;
    source
        .settler()
        .settle(&[(deliveries[0].receipt, Settle::Done), (deliveries[2].receipt, Settle::Done)]);
    drop(source);
    // Waits until the source has left its group, and with it for its last commit.
    drop(connector);
    let bootstrap = cluster.bootstrap_servers();
    let committed = tokio::task::spawn_blocking(move || {
        let mut config = rdkafka::ClientConfig::new();
        let consumer: BaseConsumer =
            config.set("bootstrap.servers", bootstrap).set("group.id", "g").create()?;
        let mut asked = TopicPartitionList::new();
        asked.add_partition("orders", 0);
        consumer.committed_offsets(asked, Duration::from_secs(10))
    });
    let committed = committed.await.expect("no panic").expect("an answer");
    let offset = committed.find_partition("orders", 0).map(|partition| partition.offset());
    assert_eq!(offset, Some(Offset::Offset(1)));
}
