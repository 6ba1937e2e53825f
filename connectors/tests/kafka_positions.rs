//! Positions that can't be trusted, and topics that change under a reader, against a real Kafka, where `DIRIGENT_KAFKA` names one.

use bytes::Bytes;
use dirigent_connectors::{
    ChannelSpec, Connector, ConnectorError, Message, Sent, Settle, Source, SourceSpec,
    kafka::{KafkaConnector, PositionsFrom},
};
use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminOptions, NewPartitions, NewTopic, TopicReplication},
};
use real::kafka::{admin, at, connector, connector_with, message, receive, topic};
use std::time::Duration;

mod real;

async fn send(connector: &KafkaConnector, channel: &ChannelSpec, ids: std::ops::Range<usize>) {
    let window: Vec<_> = ids.map(|id| message(channel, id)).collect();
    let sent = connector.sink().await.expect("a sink").send(&window).await;
    assert!(sent.iter().all(|sent| *sent == Sent::Confirmed), "{sent:?}");
}

fn spec(channel: &ChannelSpec, next: Option<u64>) -> SourceSpec {
    let positions = next.map(|next| at(channel, next)).unwrap_or_default();
    SourceSpec { unsettled_max: 1_000, ..real::kafka::spec(channel, positions) }
}

/// Why a source that is read ends.
async fn end(source: &mut dyn Source) -> String {
    let ended = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            if let Err(error) = source.receive(1_000).await {
                return error.to_string();
            }
        }
    });
    ended.await.expect("it ends in time")
}

fn refusal(opened: Result<Box<dyn Source>, ConnectorError>) -> String {
    match opened {
        Err(ConnectorError::Refused { text, .. }) => text,
        other => panic!("{:?}", other.err()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_folder_that_is_new_or_an_older_copy_is_refused_until_a_person_decides() {
    let Some(bootstrap) = bootstrap!() else { return };
    let channel = topic(&bootstrap, "rolled-back", 1, &[]).await;
    {
        let connector = connector(&bootstrap);
        send(&connector, &channel, 0..10).await;
        let mut source =
            connector.source(spec(&channel, None)).await.expect("nothing was read before");
        assert_eq!(receive(&mut *source, 10).await.len(), 10);
        // Dropping the connector waits for the last word about what is settled.
    }
    let strict = connector(&bootstrap);
    for (stands, said) in [(None, "does not know this partition"), (Some(4), "stands at offset 4")]
    {
        let why = refusal(strict.source(spec(&channel, stands)).await);
        assert!(why.contains("up to offset 10") && why.contains(said), "{why}");
        assert!(why.contains("--kafka-positions-from"), "{why}");
    }
    send(&strict, &channel, 10..11).await;
    for (from, first, count) in [
        (PositionsFrom::Committed, 10, 1),
        (PositionsFrom::Journal, 4, 7),
        (PositionsFrom::Beginning, 0, 11),
    ] {
        let decided = connector_with(&bootstrap, |settings| settings.positions_from = from);
        let opened = decided.source(spec(&channel, Some(4))).await;
        let mut source = opened.expect("a person has decided");
        // All of it, so that the group stands at the end again.
        assert_eq!(receive(&mut *source, count).await[0].offset, first, "{from:?}");
    }
    // A folder that knows as much as the group needs no decision.
    send(&strict, &channel, 11..12).await;
    let mut source = strict.source(spec(&channel, Some(11))).await.expect("it is the newest");
    assert_eq!(receive(&mut *source, 1).await[0].offset, 11);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_made_anew_while_it_is_read_ends_the_source_with_the_reason() {
    let Some(bootstrap) = bootstrap!() else { return };
    let channel = topic(&bootstrap, "anew-running", 1, &[]).await;
    let connector = connector(&bootstrap);
    send(&connector, &channel, 0..10).await;
    let mut source = connector.source(spec(&channel, None)).await.expect("a source");
    assert_eq!(receive(&mut *source, 10).await.len(), 10);
    let admin = admin(&bootstrap);
    admin.delete_topics(&[&channel.name], &AdminOptions::new()).await.expect("deleted");
    let topic = NewTopic::new(&channel.name, 1, TopicReplication::Fixed(-1));
    // The name is free once the brokers have forgotten the old one.
    while admin.create_topics([&topic], &AdminOptions::new()).await.expect("an answer")[0].is_err()
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let why = end(&mut *source).await;
    let seen = why.contains("the topic is gone")
        || why.contains("made anew")
        || why.contains("log ends at 0");
    assert!(why.contains(&channel.name) && seen, "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_partitions_end_the_source_and_are_read_from_their_beginning_by_the_next() {
    let Some(bootstrap) = bootstrap!() else { return };
    let channel = topic(&bootstrap, "more-partitions", 1, &[]).await;
    let connector = connector(&bootstrap);
    send(&connector, &channel, 0..10).await;
    let mut source = connector.source(spec(&channel, None)).await.expect("a source");
    assert_eq!(receive(&mut *source, 10).await.len(), 10);
    let more = NewPartitions::new(&channel.name, 3);
    admin(&bootstrap).create_partitions([&more], &AdminOptions::new()).await.expect("an answer");
    let why = end(&mut *source).await;
    assert!(why.contains("has 3 partitions now, 1 are read"), "{why}");
    drop(source);
    // Sent before anybody reads the new partitions.
    send(&connector, &channel, 10..40).await;
    let mut source = connector.source(spec(&channel, Some(10))).await.expect("the next source");
    let read = receive(&mut *source, 30).await;
    assert_eq!(read.len(), 30);
    assert!([0, 1, 2].iter().all(|partition| read.iter().any(|one| one.partition == *partition)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_deleted_before_a_slow_reader_came_to_them_end_its_source() {
    let Some(bootstrap) = bootstrap!() else { return };
    let channel = topic(&bootstrap, "overtaken", 1, &[]).await;
    // librdkafka itself fetches little ahead, so that most of the log is still to be fetched.
    let connector = connector_with(&bootstrap, |settings| {
        for name in ["queued.max.messages.kbytes", "queued.min.messages"] {
            settings.properties.insert(name.into(), "1".into());
        }
        settings.properties.insert("fetch.message.max.bytes".into(), "1000".into());
    });
    let large = |id| Message { body: Bytes::from(vec![b'x'; 50_000]), ..message(&channel, id) };
    let mut sink = connector.sink().await.expect("a sink");
    for id in 0..40 {
        assert_eq!(sink.send(&[large(id)]).await, [Sent::Confirmed]);
    }
    let slow = SourceSpec { unsettled_max: 1, ..spec(&channel, None) };
    let mut source = connector.source(slow).await.expect("a source");
    let first = source.receive(1).await.expect("a delivery");
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(&channel.name, 0, Offset::Offset(35)).expect("an offset");
    admin(&bootstrap).delete_records(&before, &AdminOptions::new()).await.expect("deleted");
    source.settler().settle(&[(first[0].receipt, Settle::Done)]);
    let why = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            match source.receive(1).await {
                Ok(read) => {
                    assert!(read[0].offset < 35, "{} was skipped silently", read[0].offset - 1);
                    source.settler().settle(&[(read[0].receipt, Settle::Done)]);
                }
                Err(error) => return error.to_string(),
            }
        }
    });
    let why = why.await.expect("it ends in time");
    assert!(why.contains("the log begins at 35"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inbox_that_is_full_for_longer_than_the_poll_interval_costs_no_group() {
    const POLL_INTERVAL: Duration = Duration::from_secs(6);
    let Some(bootstrap) = bootstrap!() else { return };
    let channel = topic(&bootstrap, "full", 1, &[]).await;
    let connector = connector_with(&bootstrap, |settings| {
        let interval = POLL_INTERVAL.as_millis().to_string();
        settings.properties.insert("max.poll.interval.ms".into(), interval);
        settings.properties.insert("statistics.interval.ms".into(), "500".into());
    });
    send(&connector, &channel, 0..10).await;
    let full = SourceSpec { unsettled_max: 2, ..spec(&channel, None) };
    let mut source = connector.source(full).await.expect("a source");
    let mut sink = connector.owner_sink(&channel.name).await.expect("the sink of the owner");
    let mut held = Vec::new();
    while held.len() < 2 {
        held.extend(source.receive(10).await.expect("deliveries"));
    }
    // What the broker would take for a dead reader must really be over.
    tokio::time::sleep(POLL_INTERVAL + POLL_INTERVAL / 2).await;
    let standing = source.health().standing();
    assert!(standing.is_ready(), "{standing:?}");
    assert_eq!(sink.send(&[message(&channel, 10)]).await, [Sent::Confirmed]);
    let settled: Vec<_> = held.iter().map(|delivery| (delivery.receipt, Settle::Done)).collect();
    source.settler().settle(&settled);
    let rest = receive(&mut *source, 9).await;
    assert_eq!(
        rest.iter().map(|delivery| delivery.offset).collect::<Vec<_>>(),
        (2..11).collect::<Vec<_>>()
    );
    // Statistics come while it reads.
    let shown = tokio::time::timeout(Duration::from_secs(30), async {
        while source.health().report().figures.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        source.health().report().figures
    });
    let shown = shown.await.expect("figures in time");
    for name in ["kafka_lag_messages", "kafka_brokers_up", "kafka_fetch_queue_messages"] {
        assert!(shown.iter().any(|figure| figure.measure.name == name), "{name}: {shown:?}");
    }
}
