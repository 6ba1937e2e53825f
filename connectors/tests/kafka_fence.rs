//! Who may send and read for a group, against a real Kafka, where `DIRIGENT_KAFKA` names one (`brokers up kafka` starts one).

use bytes::Bytes;
use dirigent_connectors::{
    ChannelSpec, Connector, ConnectorError, Message, Sent, Sink, Source, UnsentReason,
    kafka::KafkaConnector,
};
use rdkafka::{
    ClientConfig,
    admin::AdminOptions,
    producer::{BaseProducer, BaseRecord, Producer},
};
use real::kafka::{
    OwnerApart, admin, at, connector, connector_with, id, message, receive, spec, topic, unique,
};
use std::time::{Duration, Instant};

mod real;

async fn owner(
    connector: &KafkaConnector,
    channel: &ChannelSpec,
) -> (Box<dyn Source>, Box<dyn Sink>) {
    let source = connector.source(spec(channel, Vec::new())).await.expect("a source");
    let sink = connector.owner_sink(&channel.name).await.expect("the sink of the owner");
    (source, sink)
}

/// Not a test of its own: the process that the next ones stop. Sends a message at a time for as long as it may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_in_another_process() {
    let Some((channel, bootstrap)) = OwnerApart::asked() else { return };
    let connector = connector(&bootstrap);
    let (mut source, mut sink) = owner(&connector, &channel).await;
    for number in 0.. {
        let sent = sink.send(&[message(&channel, number)]).await;
        match &sent[..] {
            [Sent::Confirmed] if number == 10 => eprintln!("owned"),
            [Sent::Confirmed | Sent::Unknown { .. }] => {}
            [Sent::Fenced { text }] => {
                eprintln!("fenced: {text}");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    // What it had read before is in its inbox, and it hands out none of it.
    match source.receive(1).await {
        Ok(deliveries) => eprintln!("received {}", deliveries.len()),
        Err(error) => eprintln!("ended: {error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_stood_still_sends_and_hands_out_nothing_after_another_took_over() {
    let Some(bootstrap) = bootstrap!() else { return };
    let channel = ChannelSpec::work(unique("frozen"));
    let connector = connector(&bootstrap);
    connector.prepare(std::slice::from_ref(&channel)).await.expect("a topic");
    let child = OwnerApart::starts(&channel);
    child.signal("STOP");
    let (mut source, mut sink) = owner(&connector, &channel).await;
    assert_eq!(sink.send(&[message(&channel, 1_000_000)]).await, [Sent::Confirmed]);
    child.signal("CONT");
    let said = child.last_words(2);
    let us = format!("process {} on", std::process::id());
    assert!(said[0].contains("fenced: ") && said[0].contains(&us), "{said:?}");
    assert!(said[1].contains("ended: ") && said[1].contains(&us), "{said:?}");

    // Nothing of the child lies behind what was sent after it had been fenced off, on any partition.
    let marks: Vec<_> = (0..64).map(|id| message(&channel, 2_000_000 + id)).collect();
    let sent = sink.send(&marks).await;
    assert!(sent.iter().all(|sent| *sent == Sent::Confirmed), "{sent:?}");
    let (mut ours, mut taken) = (0, Vec::new());
    while ours < 65 {
        for delivery in receive(&mut *source, 1).await {
            if id(&delivery) >= 1_000_000 {
                ours += 1;
                taken.push((delivery.partition, delivery.offset));
            } else {
                let behind = |(partition, offset): &(u32, u64)| {
                    *partition == delivery.partition && *offset < delivery.offset
                };
                assert!(!taken.iter().any(behind), "{delivery:?} came after the takeover");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_is_for_the_owner_and_ends_with_its_source() {
    let Some(bootstrap) = bootstrap!() else { return };
    let (channel, connector) = (ChannelSpec::work(unique("sourceless")), connector(&bootstrap));
    let refused = connector.owner_sink(&channel.name).await.err();
    let Some(ConnectorError::Refused { text, .. }) = refused else { panic!("{refused:?}") };
    assert!(text.contains("no source of this group"), "{text}");
    let (source, mut sink) = owner(&connector, &channel).await;
    assert_eq!(sink.send(&[message(&channel, 0)]).await, [Sent::Confirmed]);
    drop(source);
    // The next owner fences the sink that was left behind.
    let (_source, mut next) = owner(&connector, &channel).await;
    let sent = sink.send(&[message(&channel, 1)]).await;
    assert!(matches!(sent[..], [Sent::Unknown { .. } | Sent::Fenced { .. }]), "{sent:?}");
    assert_eq!(next.send(&[message(&channel, 2)]).await, [Sent::Confirmed]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_an_owner_can_not_send_takes_no_other_with_it() {
    let Some(bootstrap) = bootstrap!() else { return };
    let channel = topic(&bootstrap, "owner-small", 1, &[("max.message.bytes", "4000")]).await;
    let connector = connector(&bootstrap);
    let (mut source, mut sink) = owner(&connector, &channel).await;
    let mut window: Vec<_> = (0..40).map(|id| message(&channel, id)).collect();
    window[7].body = Bytes::from(vec![b'x'; 5_000]);
    window[21].channel = unique("not-there");
    let sent = sink.send(&window).await;
    for (index, sent) in sent.iter().enumerate() {
        let right = match index {
            7 => matches!(sent, Sent::Unsent { reason: UnsentReason::TooLarge, .. }),
            21 => matches!(sent, Sent::Unsent { reason: UnsentReason::Unroutable, .. }),
            _ => *sent == Sent::Confirmed,
        };
        assert!(right, "{index}: {sent:?}");
    }
    // Once each, in order: what was aborted on the way is not read.
    let ids: Vec<_> = receive(&mut *source, 38).await.iter().map(id).collect();
    let expected: Vec<_> = (0..40).filter(|id| ![7, 21].contains(id)).collect();
    assert_eq!(ids, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aborted_transactions_leave_gaps_that_are_neither_read_nor_waited_for() {
    let Some(bootstrap) = bootstrap!() else { return };
    let channel = topic(&bootstrap, "aborts", 1, &[]).await;
    let name = channel.name.clone();
    let (servers, wait) = (bootstrap.clone(), Duration::from_secs(20));
    let wrote = tokio::task::spawn_blocking(move || {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", servers)
            .set("transactional.id", &name)
            .create()?;
        producer.init_transactions(wait)?;
        for (round, ids) in [[0, 1], [2, 3], [4, 5]].iter().enumerate() {
            producer.begin_transaction()?;
            for id in ids {
                let headers = rdkafka::message::OwnedHeaders::new();
                let header =
                    rdkafka::message::Header { key: "ce_id", value: Some(&id.to_string()) };
                let record = BaseRecord::to(&name).key("k").payload("{}");
                let record = record.headers(headers.insert(header));
                producer.send(record).map_err(|(error, _)| error)?;
            }
            // An aborted one is in the log as well.
            producer.flush(wait)?;
            match round {
                1 => producer.abort_transaction(wait)?,
                _ => producer.commit_transaction(wait)?,
            }
        }
        Ok::<_, rdkafka::error::KafkaError>(())
    });
    wrote.await.expect("no panic").expect("written");
    let connector = connector(&bootstrap);
    let mut source = connector.source(spec(&channel, Vec::new())).await.expect("a source");
    let read = receive(&mut *source, 4).await;
    assert_eq!(read.iter().map(id).collect::<Vec<_>>(), [0, 1, 4, 5]);
    // Two messages and the end of a transaction each: the aborted ones lie between.
    assert_eq!(read.iter().map(|delivery| delivery.offset).collect::<Vec<_>>(), [0, 1, 6, 7]);
    drop(source);
    // Positions within the gap, and behind the last message, are as good as any other.
    for (next, first) in [(2, 4), (4, 4), (7, 5)] {
        let mut again = spec(&channel, at(&channel, next));
        again.group = unique("gap");
        let mut source = connector.source(again).await.expect("a source");
        assert_eq!(id(&receive(&mut *source, 1).await[0]), first);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_hangs_holds_back_its_readers_until_the_next_owner_is_there() {
    let Some(bootstrap) = bootstrap!() else { return };
    let channel = topic(&bootstrap, "hangs", 1, &[]).await;
    let (name, servers, wait) = (channel.name.clone(), bootstrap.clone(), Duration::from_secs(20));
    // An owner that was lost within a window: what it wrote is neither there nor gone.
    let hanging = tokio::task::spawn_blocking(move || {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", servers)
            .set("transactional.id", format!("{name}.owner"))
            .create()?;
        producer.init_transactions(wait)?;
        producer.begin_transaction()?;
        let sent = producer.send(BaseRecord::to(&name).key("k").payload("{}"));
        sent.map_err(|(error, _)| error)?;
        producer.flush(wait)?;
        Ok::<_, rdkafka::error::KafkaError>(producer)
    });
    let hanging = hanging.await.expect("no panic").expect("written");
    let connector = connector(&bootstrap);
    let behind = message(&channel, 1);
    let sent = connector.sink().await.expect("a sink").send(&[behind]).await;
    assert_eq!(sent, [Sent::Confirmed]);
    let mut other = spec(&channel, Vec::new());
    other.group = unique("reads");
    let mut reader = connector.source(other).await.expect("a source");
    let early = tokio::time::timeout(Duration::from_secs(2), reader.receive(1)).await;
    assert!(early.is_err(), "what lies behind an open transaction is not there yet: {early:?}");
    let (mut source, _sink) = owner(&connector, &channel).await;
    for source in [&mut reader, &mut source] {
        assert_eq!(id(&receive(&mut **source, 1).await[0]), 1, "and nothing of the lost window");
    }
    drop(hanging);
}

/// Prints what transactions cost: `cargo test -p dirigent-connectors --test kafka_fence cost -- --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owners_windows_arrive_in_order_and_cost_what_they_cost() {
    let Some(bootstrap) = bootstrap!() else { return };
    let (channel, connector) = (ChannelSpec::work(unique("cost")), connector(&bootstrap));
    let (mut source, mut owners) = owner(&connector, &channel).await;
    let mut plain = connector.sink().await.expect("a sink");
    let mut next = 0;
    for (size, windows) in [(1, 40), (64, 20), (1_000, 20)] {
        for (name, sink) in [("plain", &mut plain), ("owner", &mut owners)] {
            let begin = Instant::now();
            for _ in 0..windows {
                let window: Vec<_> = (next..next + size).map(|id| message(&channel, id)).collect();
                next += size;
                assert!(sink.send(&window).await.iter().all(|sent| *sent == Sent::Confirmed));
            }
            let took = begin.elapsed().as_secs_f64();
            let (rate, each) = ((size * windows) as f64 / took, took * 1e3 / windows as f64);
            eprintln!("{name}, windows of {size}: {rate:.0} messages/s, {each:.1} ms a window");
        }
    }
    let mut last = std::collections::HashMap::new();
    for delivery in receive(&mut *source, next).await {
        let before = last.insert(delivery.message.key.clone(), id(&delivery));
        assert!(before.is_none_or(|before| before < id(&delivery)), "{before:?} {delivery:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_of_events_that_was_deleted_is_made_anew_and_takes_no_other_message_with_it() {
    let Some(bootstrap) = bootstrap!() else { return };
    let (work, news) = (ChannelSpec::work(unique("kept")), ChannelSpec::events(unique("news")));
    let connector = connector(&bootstrap);
    let (_source, owners) = owner(&connector, &work).await;
    for mut sink in [connector.sink().await.expect("a sink"), owners] {
        let both = |id| [message(&work, id), message(&news, id), message(&work, id + 64)];
        assert_eq!(sink.send(&both(0)).await, vec![Sent::Confirmed; 3]);
        let deleted = admin(&bootstrap).delete_topics(&[&news.name], &AdminOptions::new()).await;
        assert!(deleted.expect("an answer").iter().all(Result::is_ok));
        // Brokers may still take some for the topic that is going.
        let mut sent = sink.send(&both(1)).await;
        for id in 2..50 {
            if sent[1] != Sent::Confirmed {
                break;
            }
            sent = sink.send(&both(id)).await;
        }
        assert!(matches!(sent[1], Sent::Unknown { .. }), "{sent:?}");
        // Brokers may show it for a while yet, so that more than one window finds out.
        let mut id = 60;
        while sent[1] != Sent::Confirmed {
            assert!(id < 70, "it is made anew: {sent:?}");
            assert_eq!((&sent[0], &sent[2]), (&Sent::Confirmed, &Sent::Confirmed), "{sent:?}");
            sent = sink.send(&both(id)).await;
            id += 1;
        }
        assert_eq!(sent, vec![Sent::Confirmed; 3], "it is made anew");
    }
}

/// With a key of its own for all of them.
fn in_one_key(channel: &ChannelSpec, id: usize, bytes: usize) -> Message {
    let body = Bytes::from(vec![b'x'; bytes]);
    Message { key: "k".into(), body, ..message(channel, id) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owners_window_larger_than_a_batch_of_its_topic_arrives_once_and_in_order() {
    let Some(bootstrap) = bootstrap!() else { return };
    let channel = topic(&bootstrap, "owner-narrow", 1, &[("max.message.bytes", "16384")]).await;
    let connector = connector(&bootstrap);
    let (mut source, mut sink) = owner(&connector, &channel).await;
    let mut window: Vec<_> = (0..200).map(|id| in_one_key(&channel, id, 1_000)).collect();
    for id in [60, 150] {
        window[id] = in_one_key(&channel, id, 20_000);
    }
    // The second window is of those that know what the topic takes.
    for _ in 0..2 {
        let begin = Instant::now();
        let sent = sink.send(&window).await;
        eprintln!("a window larger than a batch took {} ms", begin.elapsed().as_millis());
        for (index, sent) in sent.iter().enumerate() {
            let right = match index {
                60 | 150 => matches!(sent, Sent::Unsent { reason: UnsentReason::TooLarge, .. }),
                _ => *sent == Sent::Confirmed,
            };
            assert!(right, "{index}: {sent:?}");
        }
        let ids: Vec<_> = receive(&mut *source, 198).await.iter().map(id).collect();
        let expected: Vec<_> = (0..200).filter(|id| ![60, 150].contains(id)).collect();
        assert_eq!(ids, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_larger_than_a_segment_of_its_topic_goes_in_smaller_pieces() {
    let Some(bootstrap) = bootstrap!() else { return };
    let (most, segment) = ((8 * 1024 * 1024).to_string(), (1024 * 1024).to_string());
    let settings = [("max.message.bytes", most.as_str()), ("segment.bytes", &segment)];
    let channel = topic(&bootstrap, "segments", 1, &settings).await;
    // As somebody sends who was set up for large messages: batches of four megabytes.
    let connector = connector_with(&bootstrap, |settings| {
        for name in ["message.max.bytes", "batch.size"] {
            settings.properties.insert(name.into(), (4 * 1024 * 1024).to_string());
        }
    });
    let (_source, owners) = owner(&connector, &channel).await;
    let mut window: Vec<_> = (0..40).map(|id| in_one_key(&channel, id, 100_000)).collect();
    window[20] = in_one_key(&channel, 20, 1_100_000);
    for mut sink in [connector.sink().await.expect("a sink"), owners] {
        let sent = sink.send(&window).await;
        for (index, sent) in sent.iter().enumerate() {
            let right = match index {
                20 => matches!(sent, Sent::Unsent { reason: UnsentReason::TooLarge, .. }),
                _ => *sent == Sent::Confirmed,
            };
            assert!(right, "{index}: {sent:?}");
        }
    }
}
