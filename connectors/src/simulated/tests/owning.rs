//! Who owns a group of a log, or reads a queue: one at a time, and what becomes of one that died or stood still.

use super::bench::{all, begun, both, confirmed, ids, process, settle, spec, window, written};
use crate::{
    ConnectorError, Delivery, Position, Sent, Settle,
    kafka::PositionsFrom,
    simulated::{
        Fate, SESSION_TIMEOUT, SimFaults, SimSettings, TAKEOVER_MARGIN, TRANSACTION_MARGIN, What,
        injected,
    },
};
use std::time::Duration;
use tokio::time::{Instant, timeout};

const MINUTE: Duration = Duration::from_secs(60);

/// Latency, so that something can happen within a call.
fn with_latency(settings: SimSettings) -> SimSettings {
    let latency = Duration::from_millis(10)..Duration::from_millis(11);
    SimSettings { latency, positions_from: PositionsFrom::Journal, ..settings }
}

#[tokio::test(start_paused = true)]
async fn a_second_reader_is_refused_while_the_first_one_lives_and_lets_it_go_on() {
    for settings in both(1) {
        let (_broker, first) = begun(settings.clone()).await;
        let (mut source, mut sink) = (first.source("g").await, first.sink().await);
        let begun = Instant::now();
        let second = process(&_broker, 2);
        let Err(refused) = second.connector.source(spec("g", Vec::new())).await else {
            panic!("two read for one group")
        };
        assert!(matches!(&refused, ConnectorError::Owned { group, .. } if group == "g"));
        assert!(refused.to_string().contains("process 1"), "{refused}");
        assert!(begun.elapsed() >= settings.session_timeout + TAKEOVER_MARGIN);
        sink.send(&window("k", 0..2)).await;
        assert_eq!(ids(&all(&mut *source).await), [0, 1]);
        // Once it is gone, nobody waits.
        drop(source);
        let before = Instant::now();
        second.source("g").await;
        assert_eq!(before.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_owner_of_a_log_is_waited_for_until_its_session_is_over() {
    let settings =
        SimSettings { positions_from: PositionsFrom::Journal, ..SimSettings::log("log", 1) };
    let (broker, first) = begun(settings).await;
    first.sink().await.send(&window("k", 0..5)).await;
    let mut source = first.source("g").await;
    let out = source.receive(3).await.expect("received");
    settle(&*source, &out[..1], Settle::Done);
    first.life.kill();
    let killed = Instant::now();
    let next = Position { channel: "work".into(), partition: out[0].partition, next: 1 };
    let mut source = process(&broker, 2).source_at("g", vec![next]).await;
    assert_eq!(killed.elapsed(), SESSION_TIMEOUT);
    assert_eq!(broker.waiting("work", "g"), 4);
    assert_eq!(ids(&all(&mut *source).await), [1, 2, 3, 4]);
    assert_eq!(broker.injected()[injected::TAKEN_OVER], 1);
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_stood_still_is_fenced_and_a_short_stop_costs_it_nothing() {
    let (broker, first) = begun(with_latency(SimSettings::log("log", 1))).await;
    let mut source = first.source("g").await;
    let mut sink = first.owner_sink("g").await;
    first.life.freeze(SESSION_TIMEOUT / 2);
    assert_eq!(confirmed(&sink.send(&window("k", 0..3)).await), 3);
    assert_eq!(source.receive(10).await.expect("received").len(), 3);

    // It stands still within a window, whose transaction is open then.
    let (second, stops) = (process(&broker, 2), window("k", 3..6));
    let frozen = async {
        let sends = sink.send(&stops);
        tokio::pin!(sends);
        assert!(timeout(Duration::from_millis(15), &mut sends).await.is_err());
        first.life.freeze(MINUTE);
        sends.await
    };
    let takes_over = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut source = second.source("g").await;
        let mut sink = second.owner_sink("g").await;
        assert_eq!(confirmed(&sink.send(&window("k", 10..12)).await), 2);
        ids(&all(&mut *source).await)
    };
    let (outcomes, read) = tokio::join!(frozen, takes_over);
    assert!(outcomes.iter().all(|sent| matches!(sent, Sent::Fenced { .. })), "{outcomes:?}");
    assert_eq!(read, [0, 1, 2, 10, 11]);
    let fates: Vec<Fate> = broker.messages("work").iter().map(|kept| kept.fate).collect();
    assert_eq!(fates[3..6], [Fate::Aborted; 3]);
    let lost = source.receive(10).await;
    assert!(matches!(lost, Err(ConnectorError::Owned { .. })), "{lost:?}");
    assert!(matches!(sink.send(&window("k", 6..7)).await[..], [Sent::Fenced { .. }]));
    for health in [source.health(), sink.health()] {
        let standing = health.standing();
        assert!(standing.why().is_some_and(|why| why.contains("another process owns")));
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_for_an_owner_wants_the_source_of_the_group_to_be_open_here() {
    let (broker, first) = begun(SimSettings::log("log", 1)).await;
    let _source = first.source("g").await;
    for (process, group) in [(&first, "other"), (&process(&broker, 2), "g")] {
        let Err(refused) = process.connector.owner_sink(group).await else {
            panic!("a sink for a group that is not owned here")
        };
        assert!(refused.to_string().contains("open its source first"), "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_transaction_holds_readers_back_until_it_times_out() {
    let (broker, first) = begun(with_latency(SimSettings::log("log", 1))).await;
    let _source = first.source("g").await;
    let mut sink = first.owner_sink("g").await;
    let other = process(&broker, 2);
    let mut reader = other.source("h").await;
    let sent = window("k", 0..3);
    let begun = Instant::now();
    // Two ways cost a crossing each: it dies before it commits.
    first.life.die_at(2);
    assert!(timeout(MINUTE, sink.send(&sent)).await.is_err());
    assert_eq!(first.life.died_before(), Some("commit"));
    let (mut after, behind) = (other.sink().await, window("k", 3..5));
    assert_eq!(confirmed(&after.send(&behind).await), 2);
    assert_eq!(ids(&reader.receive(10).await.expect("received")), [3, 4]);
    assert!(begun.elapsed() >= MINUTE, "the minute of the sender that died");
    assert_eq!(broker.injected()[injected::TIMED_OUT], 1);
}

#[tokio::test(start_paused = true)]
async fn readers_behind_an_open_transaction_go_on_in_the_moment_it_times_out() {
    let settings = with_latency(SimSettings::log("log", 1));
    let limit = settings.send_wait_max + TRANSACTION_MARGIN;
    let (broker, first) = begun(settings).await;
    let _source = first.source("g").await;
    let mut sink = first.owner_sink("g").await;
    let other = process(&broker, 2);
    let mut reader = other.source("h").await;
    let mut after = other.sink().await;
    first.life.die_at(2);
    let begun = Instant::now();
    let (dies, behind) = (window("k", 0..3), window("k", 3..5));
    tokio::select! {
        biased;
        _ = sink.send(&dies) => panic!("a dead process hears nothing"),
        outcomes = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            after.send(&behind).await
        } => assert_eq!(confirmed(&outcomes), 2),
    }
    assert_eq!(ids(&reader.receive(10).await.expect("received")), [3, 4]);
    let waited = begun.elapsed();
    assert!(waited >= limit && waited < limit + Duration::from_secs(1), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_transaction_in_doubt_is_there_or_not_or_torn_and_always_unknown() {
    let faults = SimFaults { confirm_lost: 1_000, ..SimFaults::none() };
    let (broker, first) = begun(SimSettings { faults, ..SimSettings::log("log", 4) }).await;
    let mut source = first.source("g").await;
    let mut sink = first.owner_sink("g").await;
    let (mut whole, mut none, mut torn) = (0, 0, 0);
    for round in 0..60 {
        let outcomes = sink.send(&window("k", round * 4..round * 4 + 4)).await;
        assert!(outcomes.iter().all(|sent| matches!(sent, Sent::Unknown { .. })), "{outcomes:?}");
        let kept = broker.messages("work");
        match kept[round * 4..].iter().filter(|kept| kept.fate == Fate::There).count() {
            4 => whole += 1,
            0 => none += 1,
            _ => torn += 1,
        }
    }
    assert!(whole > 5 && none > 5 && torn > 5, "{whole} {none} {torn}");
    let there = broker.messages("work").into_iter().filter(|kept| kept.fate == Fate::There);
    assert_eq!(all(&mut *source).await.len(), there.count());
}

#[tokio::test(start_paused = true)]
async fn a_refused_message_is_unsent_and_its_window_goes_in_halves() {
    let (broker, first) =
        begun(SimSettings { message_bytes_max: 10, ..SimSettings::log("log", 1) }).await;
    let events = written(&broker);
    let _source = first.source("g").await;
    let mut sink = first.owner_sink("g").await;
    let mut sent = window("k", 0..5);
    sent[2].body = vec![0; 11].into();
    let outcomes = sink.send(&sent).await;
    assert_eq!((confirmed(&outcomes), outcomes.len()), (4, 5));
    assert!(matches!(outcomes[2], Sent::Unsent { .. }));
    let events = events.lock().expect("no panic");
    let halves = events.iter().filter_map(|event| match &event.what {
        What::Ended { committed: true, places } => Some(places.len()),
        _ => None,
    });
    assert_eq!(halves.collect::<Vec<_>>(), [2, 2]);
}

#[tokio::test(start_paused = true)]
async fn positions_the_log_does_not_have_are_refused_as_by_the_real_one() {
    let (broker, first) = begun(SimSettings { partitions: 1, ..SimSettings::log("log", 1) }).await;
    first.sink().await.send(&window("k", 0..9)).await;
    let at = |partition, next| vec![Position { channel: "work".into(), partition, next }];
    broker.forget_before("work", 0, 4);
    let mut why = Vec::new();
    for positions in [at(0, 10), at(0, 3), at(1, 0)] {
        let opened = first.connector.source(spec("g", positions)).await;
        why.push(opened.err().expect("refused").to_string());
    }
    assert!(why[0].contains("the log ends at 9"), "{why:?}");
    assert!(why[1].contains("the log begins at 4"), "{why:?}");
    assert!(why[2].contains("partition 1 was read before"), "{why:?}");
    let mut source = first.source_at("g", at(0, 7)).await;
    let rest = all(&mut *source).await;
    assert_eq!(ids(&rest), [7, 8]);
    settle(&*source, &rest, Settle::Done);
    drop(source);
    // The group has read further than whoever knows this position.
    let behind = first.connector.source(spec("g", at(0, 7))).await.err().expect("refused");
    assert!(behind.to_string().contains("has read up to offset 9"), "{behind}");
}

#[tokio::test(start_paused = true)]
async fn what_is_deleted_before_it_was_read_ends_its_reader_with_the_reason() {
    let (broker, first) = begun(SimSettings { partitions: 1, ..SimSettings::log("log", 1) }).await;
    first.sink().await.send(&window("k", 0..9)).await;
    let mut source = first.source("g").await;
    assert_eq!(source.receive(2).await.expect("received").len(), 2);
    broker.forget_before("work", 0, 5);
    let why = source.receive(2).await.expect_err("deleted").to_string();
    assert!(why.contains("offset 2 is next, but the log begins at 5"), "{why}");
    assert_eq!(broker.messages("work").len(), 9, "whoever judges still finds it");
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_queues_that_stood_still_loses_them_and_is_told() {
    let (broker, first) = begun(SimSettings::queues("queues", 1)).await;
    first.sink().await.send(&window("k", 0..4)).await;
    let mut source = first.source("g").await;
    let out: Vec<Delivery> = source.receive(3).await.expect("received");
    first.life.freeze(MINUTE);
    let mut other = process(&broker, 2).source("g").await;
    assert_eq!(ids(&all(&mut *other).await), [0, 1, 2, 3]);
    settle(&*source, &out, Settle::Done);
    assert_eq!(broker.unsettled().len(), 4, "what was out before settles nothing");
    assert!(matches!(source.receive(3).await, Err(ConnectorError::Owned { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_queues_that_stood_still_and_was_not_missed_gets_all_again() {
    let (_broker, first) = begun(SimSettings::queues("queues", 1)).await;
    first.sink().await.send(&window("k", 0..4)).await;
    let mut source = first.source("g").await;
    let out = source.receive(3).await.expect("received");
    first.life.freeze(MINUTE);
    assert_eq!(ids(&all(&mut *source).await), [0, 1, 2, 3]);
    settle(&*source, &out, Settle::Done);
    assert_eq!(_broker.unsettled().len(), 4);
    assert_eq!(source.health().report().reconnects, 1);
}
