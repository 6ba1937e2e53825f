//! The Kafka connector against a real Kafka, where `DIRIGENT_KAFKA` names one (`brokers up kafka` starts one).

use bytes::Bytes;
use dirigent_connectors::{
    ChannelSpec, Connector, ConnectorError, Retention, Sent, UnsentReason,
    conformance::run_all,
    kafka::{KafkaConnector, KafkaSettings},
};
use rdkafka::{Offset, TopicPartitionList, admin::AdminOptions};
use real::kafka::{
    OwnerApart, admin, at, connector_with, id, message, receive, spec, topic, unique,
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

mod real;

/// With the settings that users begin with. `None`, and says so, without a real Kafka.
macro_rules! connector {
    () => {
        bootstrap!().map(connector_to)
    };
}

fn connector_to(bootstrap: String) -> KafkaConnector {
    KafkaConnector::new(KafkaSettings::new(bootstrap)).expect("usable settings")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_kafka_keeps_every_promise() {
    let Some(connector) = connector!() else { return };
    run_all(&connector, &unique("promises")).await.expect("every promise kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_reader_is_told_who_owns_the_group() {
    let (Some(first), Some(second)) = (connector!(), connector!()) else { return };
    let channel = ChannelSpec::work(unique("owned"));
    let mut owner =
        first.source(spec(&channel, Vec::new())).await.expect("the first becomes the owner");
    let refused = second.source(spec(&channel, Vec::new())).await.err();
    let Some(ConnectorError::Owned { owner: named, .. }) = refused else { panic!("{refused:?}") };
    let us = format!("process {} on ", std::process::id());
    assert!(named.starts_with(&us) && named.contains(", since "), "{named}");
    // The owner has not noticed.
    first.sink().await.expect("a sink").send(&[message(&channel, 0)]).await;
    assert_eq!(receive(&mut *owner, 1).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_made_anew_is_noticed_when_opening() {
    let Some(connector) = connector!() else { return };
    let channel = ChannelSpec::work(unique("anew"));
    let refused = connector.source(spec(&channel, at(&channel, 7))).await.err();
    let Some(ConnectorError::Refused { text, .. }) = refused else { panic!("{refused:?}") };
    assert!(text.contains("offset 7") && text.contains("ends at 0"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_windows_arrive_complete_and_in_order_per_key() {
    let Some(connector) = connector!() else { return };
    let channel = ChannelSpec::work(unique("many"));
    let mut source = connector.source(spec(&channel, Vec::new())).await.expect("a source");
    let mut sink = connector.sink().await.expect("a sink");
    let all: Vec<_> = (0..100_000).map(|id| message(&channel, id)).collect();
    let begin = Instant::now();
    let send = async {
        for window in all.chunks(2_000) {
            assert!(sink.send(window).await.iter().all(|sent| *sent == Sent::Confirmed));
        }
        begin.elapsed()
    };
    let (sent_in, deliveries) = tokio::join!(send, receive(&mut *source, all.len()));
    let (count, read_in) = (all.len() as f64, begin.elapsed());
    eprintln!(
        "sent {:.0}/s, received {:.0}/s",
        count / sent_in.as_secs_f64(),
        count / read_in.as_secs_f64()
    );
    let mut last = std::collections::HashMap::new();
    for delivery in &deliveries {
        let id = id(delivery);
        let before = last.insert(delivery.message.key.clone(), id);
        assert!(before.is_none_or(|before| before + 64 == id), "{before:?} before {id}");
    }
}

/// Not a test of its own: the process that the next ones kill or stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_in_another_process() {
    let Some((channel, bootstrap)) = OwnerApart::asked() else { return };
    let connector = connector_to(bootstrap);
    let mut source = connector.source(spec(&channel, Vec::new())).await.expect("a source");
    receive(&mut *source, 1).await;
    eprintln!("owned");
    loop {
        match source.receive(1).await {
            Ok(deliveries) => eprintln!("received {}", deliveries.len()),
            Err(error) => return eprintln!("ended: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_was_stopped_for_too_long_reads_nothing_more() {
    let Some(connector) = connector!() else { return };
    let channel = ChannelSpec::work(unique("stopped"));
    connector.prepare(std::slice::from_ref(&channel)).await.expect("a topic");
    let mut sink = connector.sink().await.expect("a sink");
    sink.send(&[message(&channel, 0)]).await;
    let child = OwnerApart::starts(&channel);
    child.signal("STOP");
    let mut source = connector.source(spec(&channel, Vec::new())).await.expect("it is given up");
    sink.send(&[message(&channel, 64)]).await;
    assert_eq!(receive(&mut *source, 2).await.len(), 2);
    child.signal("CONT");
    let said = child.last_words(1).concat();
    assert!(said.contains("ended: ") && said.contains("is already read by"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_crash_the_next_start_waits_for_the_session_and_succeeds() {
    let Some(connector) = connector!() else { return };
    let channel = ChannelSpec::work(unique("crash"));
    connector.prepare(std::slice::from_ref(&channel)).await.expect("a topic");
    connector.sink().await.expect("a sink").send(&[message(&channel, 0)]).await;
    OwnerApart::starts(&channel).kill();
    let begin = Instant::now();
    let mut source =
        connector.source(spec(&channel, Vec::new())).await.expect("the dead owner is given up");
    assert_eq!(receive(&mut *source, 1).await.len(), 1);
    eprintln!("taken over after {} ms", begin.elapsed().as_millis());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_too_large_for_its_topic_does_not_take_its_batch_with_it() {
    let Some(bootstrap) = bootstrap!() else { return };
    let channel = topic(&bootstrap, "small", 1, &[("max.message.bytes", "4000")]).await;
    let connector = connector_to(bootstrap);
    let mut window: Vec<_> = (0..5).map(|id| message(&channel, id)).collect();
    window[2].body = Bytes::from(vec![b'x'; 5_000]);
    let sent = connector.sink().await.expect("a sink").send(&window).await;
    let too_large =
        |sent: &Sent| matches!(sent, Sent::Unsent { reason: UnsentReason::TooLarge, .. });
    assert!(too_large(&sent[2]), "{sent:?}");
    assert_eq!(sent.iter().filter(|sent| **sent == Sent::Confirmed).count(), 4, "{sent:?}");
    let mut source = connector.source(spec(&channel, Vec::new())).await.expect("a source");
    assert_eq!(receive(&mut *source, 4).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_larger_than_a_fetch_is_handed_out_and_those_behind_it_as_well() {
    let Some(bootstrap) = bootstrap!() else { return };
    let most = 8 * 1024 * 1024;
    let channel = topic(&bootstrap, "large", 1, &[("max.message.bytes", &most.to_string())]).await;
    // As somebody sends who was set up for such messages; whoever reads is not, and fetches a megabyte at a time.
    let sends = connector_with(&bootstrap, |settings| {
        settings.properties.insert("message.max.bytes".into(), most.to_string());
    });
    let mut window: Vec<_> = (0..3).map(|id| message(&channel, id)).collect();
    window[1].body = Bytes::from(vec![b'x'; 5 * 1024 * 1024]);
    let sent = sends.sink().await.expect("a sink").send(&window).await;
    assert_eq!(sent, [Sent::Confirmed, Sent::Confirmed, Sent::Confirmed]);
    let reads = connector_to(bootstrap);
    let mut source = reads.source(spec(&channel, Vec::new())).await.expect("a source");
    let sizes: Vec<_> =
        receive(&mut *source, 3).await.iter().map(|delivery| delivery.message.body.len()).collect();
    assert_eq!(sizes, [200, 5 * 1024 * 1024, 200]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_deleted_before_they_were_read_are_noticed_when_opening() {
    let Some(bootstrap) = bootstrap!() else { return };
    let channel = topic(&bootstrap, "deleted", 1, &[]).await;
    let admin = admin(&bootstrap);
    let connector = connector_to(bootstrap);
    let window: Vec<_> = (0..10).map(|id| message(&channel, id)).collect();
    connector.sink().await.expect("a sink").send(&window).await;
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(&channel.name, 0, Offset::Offset(6)).expect("an offset");
    admin.delete_records(&before, &AdminOptions::new()).await.expect("deleted");
    let refused = connector.source(spec(&channel, at(&channel, 4))).await.err();
    let Some(ConnectorError::Refused { text, .. }) = refused else { panic!("{refused:?}") };
    assert!(text.contains("offset 4") && text.contains("begins at 6"), "{text}");
    let mut source =
        connector.source(spec(&channel, at(&channel, 6))).await.expect("offset 6 is there");
    assert_eq!(receive(&mut *source, 4).await[0].offset, 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_says_how_long_it_keeps_its_messages() {
    let Some(bootstrap) = bootstrap!() else { return };
    let hour = topic(&bootstrap, "hour", 1, &[("retention.ms", "3600000")]).await.name;
    let ever = topic(&bootstrap, "ever", 1, &[("retention.ms", "-1")]).await.name;
    let (nowhere, connector) = (unique("nowhere"), connector_to(bootstrap));
    let kept = connector.retention(&hour).await.expect("an answer");
    assert_eq!(kept, Retention::For(Duration::from_secs(3_600)));
    assert_eq!(connector.retention(&ever).await.expect("an answer"), Retention::ForEver);
    let refused = connector.retention(&nowhere).await.expect_err("there is no such topic");
    assert!(refused.to_string().contains(&nowhere), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_larger_than_a_batch_of_its_topic_arrives_and_ends_in_the_order_of_its_key() {
    let Some(bootstrap) = bootstrap!() else { return };
    let channel = topic(&bootstrap, "narrow", 1, &[("max.message.bytes", "65536")]).await;
    let connector = connector_to(bootstrap);
    let in_one_key = |id| {
        let mut message = message(&channel, id);
        (message.key, message.body) = ("k".into(), Bytes::from(vec![b'x'; 1_000]));
        message
    };
    let window: Vec<_> = (0..200).map(in_one_key).collect();
    let mut sink = connector.sink().await.expect("a sink");
    let sent = sink.send(&window).await;
    assert!(sent.iter().all(|sent| *sent == Sent::Confirmed), "{sent:?}");
    assert_eq!(sink.send(&[in_one_key(200)]).await, [Sent::Confirmed]);
    let mut source = connector.source(spec(&channel, Vec::new())).await.expect("a source");
    let (mut last, mut place) = (BTreeMap::new(), 0);
    while !last.contains_key(&200) {
        for delivery in receive(&mut *source, 1).await {
            last.insert(id(&delivery), place);
            place += 1;
        }
    }
    let places: Vec<_> = last.values().collect();
    assert_eq!(places.len(), 201);
    assert!(places.is_sorted(), "what came last of each: {last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_brokers_pack_anew_with_zstd_is_read() {
    let Some(bootstrap) = bootstrap!() else { return };
    let channel = topic(&bootstrap, "zstd", 1, &[("compression.type", "zstd")]).await;
    let connector = connector_to(bootstrap);
    let window: Vec<_> = (0..5).map(|id| message(&channel, id)).collect();
    let sent = connector.sink().await.expect("a sink").send(&window).await;
    assert_eq!(sent, vec![Sent::Confirmed; 5]);
    let mut source = connector.source(spec(&channel, Vec::new())).await.expect("a source");
    let ids: Vec<_> = receive(&mut *source, 5).await.iter().map(id).collect();
    assert_eq!(ids, [0, 1, 2, 3, 4]);
}
