//! What others may write to a topic we read, and librdkafka would never send: on its mock cluster, by a producer of our own.

use bytes::Bytes;
use dirigent_connectors::{
    Attributes, ChannelKind, ChannelSpec, Connector, ConnectorError, Delivery, Message, Sent,
    Source, SourceSpec,
    kafka::{KafkaConnector, KafkaSettings},
    names,
};
use raw::{Record, batch, produce};
use rdkafka::{mocking::MockCluster, producer::DefaultProducerContext};
use std::time::Duration;

mod raw;

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster() -> (Cluster, KafkaSettings) {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    for topic in ["orders", "g.owner"] {
        cluster.create_topic(topic, 1, 1).expect("a topic");
    }
    let settings = KafkaSettings::new(cluster.bootstrap_servers());
    (cluster, settings)
}

async fn source(settings: &KafkaSettings) -> Box<dyn Source> {
    let connector = KafkaConnector::new(settings.clone()).expect("usable settings");
    let spec = SourceSpec {
        channels: vec![ChannelSpec::work("orders")],
        group: "g".into(),
        positions: Vec::new(),
        unsettled_max: 1_000,
    };
    connector.source(spec).await.expect("a source")
}

async fn receive(source: &mut dyn Source, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    while deliveries.len() < count {
        let more = tokio::time::timeout(Duration::from_secs(60), source.receive(1_000)).await;
        deliveries.extend(more.expect("an answer in time").expect("deliveries"));
    }
    deliveries
}

const PLAIN: Record<'static> = Record { headers: &[(b"ce_id", b"plain")], body: b"{}" };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_whose_name_is_no_text_stops_neither_its_record_nor_those_behind_it() {
    let (cluster, settings) = cluster();
    let bootstrap = cluster.bootstrap_servers();
    let odd = Record {
        headers: &[(b"ce_id", b"odd"), (b"\xff\xfe", b"?"), (b"ce_type", b"Placed"), (b"x", b"y")],
        body: b"{}",
    };
    produce(&bootstrap, "orders", &batch(&odd, 0, None));
    let names: Vec<(&[u8], &[u8])> = vec![(b"\xff", b""); 5_000];
    let flood = Record { headers: &names, body: b"flood" };
    produce(&bootstrap, "orders", &batch(&flood, 0, None));
    produce(&bootstrap, "orders", &batch(&PLAIN, 0, None));

    let mut source = source(&settings).await;
    let read = receive(&mut *source, 3).await;
    let message = &read[0].message;
    assert_eq!(message.attributes.get(names::ID), Some("odd"));
    assert_eq!(message.attributes.get(names::TYPE), Some("Placed"));
    let others: Vec<_> = message.others.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(others, ["unreadable-header-name", "x"]);
    assert_eq!(read[1].message.body, Bytes::from_static(b"flood"));
    assert_eq!(read[2].message.attributes.get(names::ID), Some("plain"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_packed_with_any_codec_of_kafka_is_read() {
    let (_cluster, settings) = cluster();
    let mut source = source(&settings).await;
    for (number, codec) in ["none", "gzip", "snappy", "lz4", "zstd"].into_iter().enumerate() {
        let mut settings = settings.clone();
        settings.properties.insert("compression.type".into(), codec.into());
        let connector = KafkaConnector::new(settings).expect("usable settings");
        // Large enough, and alike enough, to be worth packing.
        let message = Message {
            channel: "orders".into(),
            kind: ChannelKind::Work,
            key: "k".into(),
            attributes: Attributes::new().with(names::ID, codec),
            others: Vec::new(),
            body: Bytes::from(vec![b'x'; 10_000]),
        };
        let sent = connector.sink().await.expect("a sink").send(&[message]).await;
        assert_eq!(sent, [Sent::Confirmed], "{codec}");
        let read = receive(&mut *source, 1).await;
        assert_eq!(read[0].offset, number as u64);
        assert_eq!(read[0].message.attributes.get(names::ID), Some(codec));
        assert_eq!(read[0].message.body.len(), 10_000);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_can_not_be_unpacked_ends_its_source_and_says_where_it_lies() {
    // Damaged though its checksum fits, and packed with what nobody knows.
    for (codec, packed) in [(1, b"not gzip at all".as_slice()), (7, b"?")] {
        let (cluster, settings) = cluster();
        let bootstrap = cluster.bootstrap_servers();
        produce(&bootstrap, "orders", &batch(&PLAIN, 0, None));
        produce(&bootstrap, "orders", &batch(&PLAIN, codec, Some(packed)));
        produce(&bootstrap, "orders", &batch(&PLAIN, 0, None));
        let mut source = source(&settings).await;
        assert_eq!(receive(&mut *source, 1).await[0].offset, 0);
        let ended = tokio::time::timeout(Duration::from_secs(60), source.receive(1)).await;
        let Err(ConnectorError::Refused { doing, text, .. }) = ended.expect("an answer in time")
        else {
            panic!("a batch that can't be unpacked was taken");
        };
        assert_eq!(doing, "reading for group g");
        assert!(text.contains("topic orders partition 0 offset 1"), "{text}");
    }
}
