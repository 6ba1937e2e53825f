//! The RabbitMQ connector when others change its queues, read them too, or close its connections: what it says, and how it heals.
//!
//! Skipped, and says so, as the tests of `rabbitmq_real.rs` are. Some close all connections, so nobody else may use the broker meanwhile.

use bytes::Bytes;
use dirigent_connectors::{
    ChannelSpec, Connector, ConnectorError, Message, Receipt, Sent, Settle, SourceSpec,
    UnsentReason, health::Standing, rabbitmq::RabbitMqConnector,
};
use lapin::options::{BasicGetOptions, ExchangeDeleteOptions, QueueDeleteOptions};
use real::rabbitmq::*;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

mod real;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_deleted_while_it_is_sent_to_is_declared_again_before_anything_is_unroutable() {
    let bench = broker_or_skip!("regrown");
    let (work, events) = (bench.work(), ChannelSpec::events(format!("{}-events", bench.prefix)));
    bench.connector.prepare(&[work.clone(), events.clone()]).await.expect("prepared");
    let mut sink = bench.connector.sink().await.expect("a sink");
    assert_eq!(sink.send(&window(&work, 0..3)).await, vec![Sent::Confirmed; 3]);
    let admin = bench.administer().await;
    let deleted = admin.queue_delete(work.name.as_str().into(), QueueDeleteOptions::default());
    assert_eq!(deleted.await.expect("deleted"), 3);
    assert_eq!(sink.send(&window(&work, 3..6)).await, vec![Sent::Confirmed; 3]);
    let deleted =
        admin.exchange_delete(events.name.as_str().into(), ExchangeDeleteOptions::default());
    deleted.await.expect("deleted");
    assert_eq!(sink.send(&window(&events, 0..2)).await, vec![Sent::Confirmed; 2]);
    let mut source = bench.source(&work, 10).await;
    assert_eq!(ids(&receive(source.as_mut(), 3).await), [3, 4, 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_another_deletes_and_makes_anew_again_and_again_is_still_consumed() {
    let bench = broker_or_skip!("anew");
    let channel = bench.work();
    let mut source = bench.source(&channel, 10).await;
    let mut sink = bench.connector.sink().await.expect("a sink");
    let admin = bench.administer().await;
    for round in 0..2 {
        let deleted =
            admin.queue_delete(channel.name.as_str().into(), QueueDeleteOptions::default());
        deleted.await.expect("deleted");
        // Before its consumer can.
        bench.connector.prepare(std::slice::from_ref(&channel)).await.expect("prepared");
        send_until_confirmed(sink.as_mut(), window(&channel, round..round + 1)).await;
        let read = receive(source.as_mut(), 1).await;
        assert_eq!(ids(&read), [round]);
        done(source.as_ref(), &read);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_reader_of_a_queue_is_refused_and_told_how_to_find_the_first() {
    let bench = broker_or_skip!("owned");
    let channel = bench.work();
    let mut first = bench.source(&channel, 10).await;
    let mut settings = bench.settings.clone();
    settings.heartbeat = Duration::from_secs(1);
    let spec = SourceSpec {
        channels: vec![channel.clone()],
        group: "another-group".into(),
        positions: vec![],
        unsettled_max: 10,
    };
    let second = RabbitMqConnector::new(settings).source(spec).await;
    let Err(error @ ConnectorError::Owned { .. }) = second else { panic!("not refused") };
    let text = error.to_string();
    assert!(text.contains(&channel.name) && text.contains("list_connections"), "{text}");
    let mut sink = bench.connector.sink().await.expect("a sink");
    assert_eq!(sink.send(&window(&channel, 0..3)).await, vec![Sent::Confirmed; 3]);
    assert_eq!(ids(&receive(first.as_mut(), 3).await), [0, 1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stands_by_says_so_and_takes_over_when_the_first_ends() {
    let bench = broker_or_skip!("standby");
    let channel = bench.work();
    let mut first = bench.source(&channel, 10).await;
    let mut settings = bench.settings.clone();
    settings.stand_by = true;
    let spec = SourceSpec {
        channels: vec![channel.clone()],
        group: bench.prefix.clone(),
        positions: vec![],
        unsettled_max: 10,
    };
    let mut second = RabbitMqConnector::new(settings).source(spec).await.expect("a source");
    let waits = until(&second.health(), |standing| standing.name() == "waiting").await;
    assert!(waits.why().is_some_and(|why| why.contains("another connection")), "{waits:?}");
    assert!(first.health().standing().is_ready());
    let mut sink = bench.connector.sink().await.expect("a sink");
    assert_eq!(sink.send(&window(&channel, 0..3)).await, vec![Sent::Confirmed; 3]);
    assert_eq!(ids(&receive(first.as_mut(), 3).await), [0, 1, 2]);
    assert_eq!(second.health().standing().name(), "waiting");
    drop(first);
    // What the first has not settled comes to the second, in its order.
    assert_eq!(ids(&receive(second.as_mut(), 3).await), [0, 1, 2]);
    assert!(second.health().standing().is_ready());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_taken_by_any_tool_and_by_several_at_once() {
    let bench = broker_or_skip!("letters");
    let letters = ChannelSpec::work(format!("{}.dead-letters", bench.prefix));
    bench.connector.prepare(std::slice::from_ref(&letters)).await.expect("prepared");
    let mut sink = bench.connector.sink().await.expect("a sink");
    assert_eq!(sink.send(&window(&letters, 0..2)).await, vec![Sent::Confirmed; 2]);
    let admin = bench.administer().await;
    let taken = admin.basic_get(letters.name.as_str().into(), BasicGetOptions { no_ack: true });
    let taken = taken.await.expect("a queue that hands out one by one").expect("a letter");
    assert_eq!(taken.delivery.data, vec![b'x'; 300]);
    let (mut one, _other) = (bench.source(&letters, 1).await, bench.source(&letters, 1).await);
    assert!(one.health().standing().is_ready());
    drop(_other);
    assert_eq!(ids(&receive(one.as_mut(), 1).await), [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_is_seen_and_rebuilt_although_nobody_sends_or_receives() {
    let bench = broker_or_skip!("idle");
    let Some(ctl) = require!("DIRIGENT_RABBITMQCTL") else { return };
    let source = bench.source(&bench.work(), 10).await;
    let sink = bench.connector.sink().await.expect("a sink");
    administered(&ctl, &["close_all_connections", "a test"]);
    for health in [source.health(), sink.health()] {
        let begin = Instant::now();
        while health.report().reconnects == 0 {
            assert!(begin.elapsed() < HEALING_TIME_MAX, "it did not heal: {:?}", health.report());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        until(&health, Standing::is_ready).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_full_queue_refuses_is_unknown_and_goes_out_once_there_is_room() {
    let bench = broker_or_skip!("full");
    let Some(ctl) = require!("DIRIGENT_RABBITMQCTL") else { return };
    let channel = bench.work();
    bench.connector.prepare(std::slice::from_ref(&channel)).await.expect("prepared");
    let policy = r#"{"max-length":3,"overflow":"reject-publish"}"#;
    let set = ["set_policy", bench.prefix.as_str(), &bench.prefix, policy, "--apply-to", "queues"];
    administered(&ctl, &set);
    let clear = ["clear_policy", bench.prefix.as_str()];
    let _undo = Undo(&ctl, &clear);
    let mut sink = bench.connector.sink().await.expect("a sink");
    let begin = Instant::now();
    let mut next = 0;
    // A policy takes a moment to reach its queue.
    let refused = loop {
        assert!(begin.elapsed() < HEALING_TIME_MAX, "the policy does nothing");
        let outcomes = sink.send(&window(&channel, next..next + 10)).await;
        let refused: Vec<_> = (next..next + 10)
            .zip(&outcomes)
            .filter(|(_, sent)| **sent != Sent::Confirmed)
            .collect();
        if !refused.is_empty() {
            let says =
                |sent: &Sent| matches!(sent, Sent::Unknown { text } if text.contains("full"));
            assert!(refused.iter().all(|(_, sent)| says(sent)), "{outcomes:?}");
            break refused.into_iter().map(|(id, _)| message(&channel, id)).collect::<Vec<_>>();
        }
        next += 10;
    };
    let mut source = bench.source(&channel, 1_000).await;
    let confirmed = next + 10 - refused.len();
    let read = receive(source.as_mut(), confirmed).await;
    done(source.as_ref(), &read);
    let mut seen: BTreeSet<_> = ids(&read).into_iter().collect();
    for one in refused {
        send_until_confirmed(sink.as_mut(), vec![one]).await;
        let read = receive(source.as_mut(), 1).await;
        done(source.as_ref(), &read);
        seen.extend(ids(&read));
    }
    assert_eq!(seen, (0..next + 10).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_larger_than_the_broker_takes_is_too_large_and_its_neighbours_go_out_later() {
    let bench = broker_or_skip!("large");
    let Some(ctl) = require!("DIRIGENT_RABBITMQCTL") else { return };
    let channel = bench.work();
    bench.connector.prepare(std::slice::from_ref(&channel)).await.expect("prepared");
    let limit =
        administered(&ctl, &["eval", "application:get_env(rabbit, max_message_size, 134217728)."]);
    let put_back = format!("application:set_env(rabbit, max_message_size, {}).", limit.trim());
    let put_back = ["eval", put_back.as_str()];
    let _undo = Undo(&ctl, &put_back);
    administered(&ctl, &["eval", "application:set_env(rabbit, max_message_size, 1000)."]);
    let mut sink = bench.connector.sink().await.expect("a sink");
    let large = Message { body: Bytes::from(vec![b'x'; 2_000]), ..message(&channel, 2) };
    let outcomes = sink.send(&[message(&channel, 1), large, message(&channel, 3)]).await;
    assert!(
        matches!(&outcomes[1], Sent::Unsent { reason: UnsentReason::TooLarge, text } if text.contains("1000")),
        "{outcomes:?}"
    );
    let open = [(1, &outcomes[0]), (3, &outcomes[2])];
    assert!(open.iter().all(|(_, sent)| !matches!(sent, Sent::Unsent { .. })), "{outcomes:?}");
    let open = open.into_iter().filter(|(_, sent)| **sent != Sent::Confirmed);
    send_until_confirmed(sink.as_mut(), open.map(|(id, _)| message(&channel, id)).collect()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settling_twice_and_settling_what_was_never_delivered_leaves_the_channel_open() {
    let bench = broker_or_skip!("twice");
    let channel = bench.work();
    let mut source = bench.source(&channel, 10).await;
    let mut sink = bench.connector.sink().await.expect("a sink");
    assert_eq!(sink.send(&window(&channel, 0..3)).await, vec![Sent::Confirmed; 3]);
    let read = receive(source.as_mut(), 3).await;
    for _ in 0..3 {
        done(source.as_ref(), &read);
    }
    source.settler().settle(&[(Receipt(1_000_000), Settle::Done)]);
    assert_eq!(sink.send(&window(&channel, 3..4)).await, [Sent::Confirmed]);
    assert_eq!(ids(&receive(source.as_mut(), 1).await), [3]);
    assert_eq!(source.health().report().reconnects, 0);
}
