//! The Kafka connector against a real Kafka, where `DIRIGENT_KAFKA` names one (`brokers up kafka` starts one).

use bytes::Bytes;
use dirigent_connectors::{
    Attributes, ChannelSpec, Connector, ConnectorError, Delivery, Message, Position, Retention,
    Sent, Settle, Source, SourceSpec, UnsentReason,
    conformance::run_all,
    kafka::{KafkaConnector, KafkaSettings},
    names,
};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};
use std::{
    io::{BufRead, BufReader, Lines},
    process::{Child, ChildStderr, Command, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

mod real;

/// The variable that names the Kafka to test against; it is littered.
const KAFKA_VARIABLE: &str = "DIRIGENT_KAFKA";

/// `None`, and says so, without a real Kafka.
macro_rules! connector {
    () => {
        require!(KAFKA_VARIABLE).map(connector_to)
    };
}

fn connector_to(bootstrap: String) -> KafkaConnector {
    KafkaConnector::new(KafkaSettings::new(bootstrap)).expect("usable settings")
}

fn unique(name: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    format!("{name}-{:x}", now.as_nanos())
}

fn message(channel: &ChannelSpec, id: usize) -> Message {
    Message {
        channel: channel.name.clone(),
        kind: channel.kind,
        key: format!("key-{}", id % 64),
        attributes: Attributes::new()
            .with(names::ID, id.to_string())
            .with(names::TYPE, "Counted")
            .with(names::SOURCE, "test")
            .with(names::CONTENT_TYPE, "application/json")
            .with(names::IDEMPOTENCY_KEY, id.to_string()),
        others: Vec::new(),
        body: Bytes::from(vec![b'x'; 200]),
    }
}

fn spec(channel: &ChannelSpec, positions: Vec<Position>) -> SourceSpec {
    SourceSpec {
        channels: vec![channel.clone()],
        group: channel.name.clone(),
        positions,
        unsettled_max: 10_000,
    }
}

async fn receive(source: &mut dyn Source, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    while deliveries.len() < count {
        let more = tokio::time::timeout(Duration::from_secs(30), source.receive(1_000)).await;
        let more = more.expect("an answer in time").expect("deliveries");
        let settled: Vec<_> =
            more.iter().map(|delivery| (delivery.receipt, Settle::Done)).collect();
        source.settler().settle(&settled);
        deliveries.extend(more);
    }
    deliveries
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
    let position = Position { channel: channel.name.clone(), partition: 0, next: 7 };
    let refused = connector.source(spec(&channel, vec![position])).await.err();
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
        let id: usize = delivery
            .message
            .attributes
            .get(names::ID)
            .and_then(|id| id.parse().ok())
            .expect("an id");
        let before = last.insert(delivery.message.key.clone(), id);
        assert!(before.is_none_or(|before| before + 64 == id), "{before:?} before {id}");
    }
}

/// Where the child process of the next tests learns which channel to own.
const OWN_VARIABLE: &str = "DIRIGENT_TEST_OWNS";

/// Not a test of its own: the process that the next ones kill or stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_in_another_process() {
    let (Ok(name), Ok(bootstrap)) = (std::env::var(OWN_VARIABLE), std::env::var(KAFKA_VARIABLE))
    else {
        return;
    };
    let connector = connector_to(bootstrap);
    let channel = ChannelSpec::work(name);
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

/// Starts the process above and waits until it owns the group.
fn owner(channel: &ChannelSpec) -> std::io::Result<(Child, Lines<BufReader<ChildStderr>>)> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["an_owner_in_another_process", "--exact", "--nocapture"])
        .env(OWN_VARIABLE, &channel.name)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    let owned = lines.by_ref().map_while(Result::ok).any(|line| line.contains("owned"));
    assert!(owned, "the child never owned the group");
    Ok((child, lines))
}

fn signal(child: &Child, name: &str) {
    // The shell's own: the program of that name is not on every machine.
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", child.id())]).status();
    assert!(sent.is_ok_and(|status| status.success()), "kill -{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_was_stopped_for_too_long_reads_nothing_more() {
    let Some(connector) = connector!() else { return };
    let channel = ChannelSpec::work(unique("stopped"));
    connector.prepare(std::slice::from_ref(&channel)).await.expect("a topic");
    let mut sink = connector.sink().await.expect("a sink");
    sink.send(&[message(&channel, 0)]).await;
    let (mut child, mut lines) = tokio::task::block_in_place(|| owner(&channel)).expect("a child");
    signal(&child, "STOP");
    let mut source = connector.source(spec(&channel, Vec::new())).await.expect("it is given up");
    sink.send(&[message(&channel, 64)]).await;
    assert_eq!(receive(&mut *source, 2).await.len(), 2);
    signal(&child, "CONT");
    let said = tokio::task::block_in_place(|| {
        lines.by_ref().map_while(Result::ok).find(|line| !line.is_empty())
    });
    let said = said.unwrap_or_default();
    assert!(said.contains("ended: ") && said.contains("is already read by"), "{said}");
    child.wait().expect("the child ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_crash_the_next_start_waits_for_the_session_and_succeeds() {
    let Some(connector) = connector!() else { return };
    let channel = ChannelSpec::work(unique("crash"));
    connector.prepare(std::slice::from_ref(&channel)).await.expect("a topic");
    connector.sink().await.expect("a sink").send(&[message(&channel, 0)]).await;
    let (mut child, _lines) = tokio::task::block_in_place(|| owner(&channel)).expect("a child");
    child.kill().and_then(|()| child.wait()).expect("the child is killed");
    let begin = Instant::now();
    let mut source =
        connector.source(spec(&channel, Vec::new())).await.expect("the dead owner is given up");
    assert_eq!(receive(&mut *source, 1).await.len(), 1);
    eprintln!("taken over after {} ms", begin.elapsed().as_millis());
}

fn admin() -> AdminClient<DefaultClientContext> {
    let bootstrap = std::env::var(KAFKA_VARIABLE).expect("asked before");
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()
        .expect("an administration client")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_too_large_for_its_topic_does_not_take_its_batch_with_it() {
    let Some(connector) = connector!() else { return };
    let channel = ChannelSpec::work(unique("small"));
    let topic = NewTopic::new(&channel.name, 1, TopicReplication::Fixed(-1))
        .set("max.message.bytes", "4000");
    let created = admin().create_topics(&[topic], &AdminOptions::new()).await.expect("an answer");
    assert!(created.iter().all(Result::is_ok), "{created:?}");
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
async fn messages_deleted_before_they_were_read_are_noticed_when_opening() {
    let Some(connector) = connector!() else { return };
    let channel = ChannelSpec::work(unique("deleted"));
    let topic = NewTopic::new(&channel.name, 1, TopicReplication::Fixed(-1));
    admin().create_topics(&[topic], &AdminOptions::new()).await.expect("an answer");
    let window: Vec<_> = (0..10).map(|id| message(&channel, id)).collect();
    connector.sink().await.expect("a sink").send(&window).await;
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(&channel.name, 0, Offset::Offset(6)).expect("an offset");
    admin().delete_records(&before, &AdminOptions::new()).await.expect("deleted");
    let position = |next| vec![Position { channel: channel.name.clone(), partition: 0, next }];
    let refused = connector.source(spec(&channel, position(4))).await.err();
    let Some(ConnectorError::Refused { text, .. }) = refused else { panic!("{refused:?}") };
    assert!(text.contains("offset 4") && text.contains("begins at 6"), "{text}");
    let mut source =
        connector.source(spec(&channel, position(6))).await.expect("offset 6 is there");
    assert_eq!(receive(&mut *source, 4).await[0].offset, 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_says_how_long_it_keeps_its_messages() {
    let Some(address) = require!(KAFKA_VARIABLE) else { return };
    let connector = connector_to(address.clone());
    let (hour, ever, nowhere) = (unique("hour"), unique("ever"), unique("nowhere"));
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", address)
        .create()
        .expect("an administration client");
    let kept = [(&hour, "3600000"), (&ever, "-1")];
    let topics = kept.map(|(name, millis)| {
        NewTopic::new(name, 1, TopicReplication::Fixed(-1)).set("retention.ms", millis)
    });
    let created = admin.create_topics(&topics, &AdminOptions::new()).await;
    assert!(created.expect("an answer").iter().all(Result::is_ok));
    let kept = connector.retention(&hour).await.expect("an answer");
    assert_eq!(kept, Retention::For(Duration::from_secs(3_600)));
    assert_eq!(connector.retention(&ever).await.expect("an answer"), Retention::ForEver);
    let refused = connector.retention(&nowhere).await.expect_err("there is no such topic");
    assert!(refused.to_string().contains(&nowhere), "{refused}");
}
