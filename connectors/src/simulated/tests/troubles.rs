//! What is amiss by command or by dice, and what of it is told.

use super::bench::{
    all, begun, both, confirmed, ids, message, process, settle, spec, window, written,
};
use crate::{
    ChannelSpec, ConnectorError, Sent, Settle, SourceSpec, UnsentReason,
    health::Flow,
    simulated::{SimBroker, SimFaults, SimKind, SimSettings, What, injected},
};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

fn with(settings: SimSettings, faults: SimFaults) -> SimSettings {
    SimSettings { faults, ..settings }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_away_leaves_windows_unknown_and_is_waited_for() {
    for settings in both(1) {
        let wait_max = settings.send_wait_max;
        let (broker, first) = begun(settings).await;
        let (mut source, mut sink) = (first.source("g").await, first.sink().await);
        broker.away(wait_max + SECOND);
        let begun = Instant::now();
        for health in [source.health(), sink.health()] {
            assert_eq!(health.standing().name(), "away");
        }
        let outcomes = sink.send(&window("k", 0..2)).await;
        assert!(outcomes.iter().all(|sent| matches!(sent, Sent::Unknown { .. })), "{outcomes:?}");
        assert_eq!(begun.elapsed(), wait_max);
        // Within its time it waits.
        assert_eq!(confirmed(&sink.send(&window("k", 2..4)).await), 2);
        assert_eq!(begun.elapsed(), wait_max + SECOND);
        assert_eq!(ids(&all(&mut *source).await), [2, 3]);
        for health in [source.health(), sink.health()] {
            assert_eq!(health.standing().name(), "ready");
        }
        assert_eq!(broker.injected()[injected::AWAY], 1);
    }
}

#[tokio::test(start_paused = true)]
async fn opening_waits_for_a_broker_that_is_away_and_not_for_ever() {
    for settings in both(1) {
        let wait_max = settings.open_wait_max;
        let (broker, first) = begun(settings).await;
        broker.away(wait_max * 2);
        let Err(error) = first.connector.source(spec("g", Vec::new())).await else {
            panic!("opened at a broker that is away")
        };
        assert!(matches!(error, ConnectorError::Unreachable { .. }), "{error}");
        let before = Instant::now();
        first.source("g").await;
        assert_eq!(before.elapsed(), wait_max);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_channel_hands_out_nothing_for_its_time_and_its_source_is_degraded() {
    for settings in both(1) {
        let (broker, first) = begun(settings).await;
        let other = ChannelSpec::work("other");
        first.connector.prepare(std::slice::from_ref(&other)).await.expect("prepared");
        let channels = vec![ChannelSpec::work("work"), other];
        let spec = SourceSpec { channels, ..spec("g", Vec::new()) };
        let mut source = first.connector.source(spec).await.expect("opened");
        broker.freeze_source("work", SECOND * 20);
        let begun = Instant::now();
        let mut beside = message("k", 7);
        beside.channel = "other".to_owned();
        first.sink().await.send(&[message("k", 1), beside]).await;
        assert_eq!(ids(&source.receive(9).await.expect("received")), [7]);
        let standing = source.health().standing();
        assert!(
            standing.name() == "degraded" && standing.why().is_some_and(|why| why.contains("work"))
        );
        assert_eq!(source.health().flow(), Flow::AllBut(["work".to_owned()].into()));
        assert_eq!(ids(&source.receive(9).await.expect("received")), [1]);
        assert_eq!(begun.elapsed(), SECOND * 20);
        assert_eq!(source.health().standing().name(), "ready");
    }
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_takes_nothing_makes_work_unroutable_until_it_is_over() {
    for settings in both(1) {
        let (broker, first) = begun(settings).await;
        let mut sink = first.sink().await;
        broker.unroutable("work", Some(SECOND * 5));
        let unroutable =
            |sent: &Sent| matches!(sent, Sent::Unsent { reason: UnsentReason::Unroutable, .. });
        assert!(sink.send(&window("k", 0..2)).await.iter().all(unroutable));
        sleep(SECOND * 5).await;
        assert_eq!(confirmed(&sink.send(&window("k", 0..2)).await), 2);
        broker.unroutable("work", None);
        sleep(SECOND * 1_000_000).await;
        assert!(sink.send(&window("k", 2..4)).await.iter().all(unroutable));
        assert_eq!(
            (broker.messages("work").len(), broker.injected()[injected::UNROUTABLE]),
            (2, 4)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_refused_says_what_a_person_must_mend() {
    for settings in both(1) {
        let (broker, first) = begun(settings).await;
        let mut source = first.source("g").await;
        broker.refuse_source("work", "the licence has run out", Some(SECOND));
        let refused = source.receive(9).await.expect_err("refused").to_string();
        assert!(refused.contains("the licence has run out"), "{refused}");
        let other = process(&broker, 2).connector.source(spec("h", Vec::new())).await;
        assert!(matches!(other, Err(ConnectorError::Refused { .. })));
        sleep(SECOND).await;
        first.sink().await.send(&window("k", 0..1)).await;
        assert_eq!(ids(&source.receive(9).await.expect("received")), [0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_destination_slows_its_windows_and_beyond_their_time_leaves_them_unknown() {
    for settings in both(1) {
        let wait_max = settings.send_wait_max;
        let latency = Duration::from_millis(1)..Duration::from_millis(2);
        let (broker, first) = begun(SimSettings { latency, ..settings }).await;
        let mut sink = first.sink().await;
        broker.slow("work", SECOND * 2, SECOND * 10);
        let begun = Instant::now();
        assert_eq!(confirmed(&sink.send(&window("k", 0..2)).await), 2);
        assert!(begun.elapsed() >= SECOND * 2);
        broker.slow("work", wait_max, SECOND * 100);
        let outcomes = sink.send(&window("k", 2..4)).await;
        assert!(outcomes.iter().all(|sent| matches!(sent, Sent::Unknown { .. })), "{outcomes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_confirm_leaves_a_message_that_is_there_unknown_and_a_refused_one_is_not_there() {
    for settings in both(2) {
        for (lost, refused) in [(400, 0), (0, 400)] {
            let faults = SimFaults { confirm_lost: lost, refused, ..SimFaults::none() };
            let wait_max = settings.send_wait_max;
            let (broker, first) = begun(with(settings.clone(), faults)).await;
            let (mut source, mut sink) = (first.source("g").await, first.sink().await);
            let begun = Instant::now();
            let outcomes = sink.send(&window("k", 0..50)).await;
            let confirmed = confirmed(&outcomes);
            assert!((15..45).contains(&confirmed), "{confirmed}");
            let there = if lost > 0 { 50 } else { confirmed };
            assert_eq!(begun.elapsed(), if lost > 0 { wait_max } else { Duration::ZERO });
            assert_eq!(all(&mut *source).await.len(), there);
            let unknown = 50 - confirmed as u64;
            let fault = if lost > 0 { injected::CONFIRM_LOST } else { injected::REFUSED };
            assert_eq!(broker.injected(), [(fault, unknown)].into());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_doubled_message_comes_twice_beside_itself() {
    for settings in both(2) {
        let faults = SimFaults { doubled: 1_000, ..SimFaults::none() };
        let (_broker, first) = begun(with(settings, faults)).await;
        let mut source = first.source("g").await;
        first.sink().await.send(&window("k", 0..3)).await;
        assert_eq!(ids(&all(&mut *source).await), [0, 0, 1, 1, 2, 2]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_late_holds_back_its_key_and_on_a_log_its_partition() {
    for settings in both(3) {
        let faults = SimFaults { late: 300, ..SimFaults::none() };
        let kind = settings.kind;
        let (broker, first) = begun(SimSettings { partitions: 1, ..with(settings, faults) }).await;
        let mut source = first.source("g").await;
        let keys = ["a", "b", "c", "d"];
        let sent: Vec<_> = (0..60).map(|id| message(keys[id % 4], id)).collect();
        first.sink().await.send(&sent).await;
        let begun = Instant::now();
        let came = all(&mut *source).await;
        assert!(begun.elapsed() > SECOND);
        assert!(broker.injected()[injected::LATE] > 5);
        let came_ids = ids(&came);
        if kind == SimKind::Log {
            assert_eq!(came_ids, (0..60).collect::<Vec<_>>());
        } else {
            assert_ne!(came_ids, (0..60).collect::<Vec<_>>());
            for key in 0..4 {
                let of_key = came_ids.iter().copied().filter(|id| id % 4 == key);
                assert!(of_key.is_sorted(), "{came_ids:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whether_a_message_is_refused_as_too_large_does_not_change_when_it_is_sent_again() {
    for settings in both(5) {
        let faults = SimFaults { too_large: 500, ..SimFaults::none() };
        let (broker, first) = begun(with(settings, faults)).await;
        let mut sink = first.sink().await;
        let once = sink.send(&window("k", 0..40)).await;
        let again = sink.send(&window("k", 0..40)).await;
        assert_eq!(once, again);
        let large = 40 - confirmed(&once);
        assert!((8..32).contains(&large), "{large}");
        assert_eq!(broker.injected()[injected::TOO_LARGE], 2 * large as u64);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_gives_a_queue_back_what_was_out_and_a_log_goes_on() {
    for settings in both(1) {
        let is_log = settings.kind == SimKind::Log;
        let (broker, first) = begun(settings).await;
        let events = written(&broker);
        let (mut source, mut sink) = (first.source("g").await, first.sink().await);
        sink.send(&window("k", 0..6)).await;
        let out = source.receive(4).await.expect("received");
        settle(&*source, &out[..1], Settle::Done);
        broker.reset_connections();
        assert_eq!(source.health().standing().name(), "away");
        settle(&*source, &out[1..2], Settle::Done);
        let came = ids(&all(&mut *source).await);
        assert_eq!(came, if is_log { vec![4, 5] } else { vec![1, 2, 3, 4, 5] });
        assert_eq!(source.health().report().reconnects, 1);
        assert_eq!(source.health().standing().name(), "ready");
        let events = events.lock().expect("no panic");
        let returned = events.iter().find_map(|event| match &event.what {
            What::Returned { places, .. } => Some(places.len()),
            _ => None,
        });
        assert_eq!(returned, if is_log { None } else { Some(3) });
        assert_eq!(broker.injected()[injected::SINK_RESET], 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_window_within_which_the_connection_breaks_is_unknown_as_a_whole_and_there_in_part() {
    for settings in both(9) {
        let faults = SimFaults { reset: 1_000, ..SimFaults::none() };
        let (broker, first) = begun(with(settings, faults)).await;
        let mut sink = first.sink().await;
        let mut stored = Vec::new();
        for round in 0..20 {
            let outcomes = sink.send(&window("k", round * 5..round * 5 + 5)).await;
            assert_eq!(confirmed(&outcomes), 0);
            stored.push(broker.messages("work").len() - stored.iter().sum::<usize>());
        }
        assert!(stored.contains(&0) && stored.contains(&5) && stored.contains(&2), "{stored:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_returns_to_a_queue_keeps_its_order_unless_the_dice_reorder_it() {
    for reordered in [0, 1_000] {
        let faults = SimFaults { reordered, ..SimFaults::none() };
        let (broker, first) = begun(with(SimSettings::queues("queues", 3), faults)).await;
        first.sink().await.send(&window("k", 0..12)).await;
        let mut source = first.source("g").await;
        source.receive(10).await.expect("received");
        first.life.kill();
        let mut came = ids(&all(&mut *process(&broker, 2).source("g").await).await);
        assert_eq!(came[10..], [10, 11], "what was never out stays behind what was");
        assert_eq!(came.is_sorted(), reordered == 0);
        came.sort_unstable();
        assert_eq!(came, (0..12).collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn a_settlement_that_had_not_arrived_when_its_process_died_counts_for_nothing() {
    let latency = Duration::from_millis(10)..Duration::from_millis(11);
    let settings = SimSettings { latency, ..SimSettings::queues("queues", 1) };
    let (broker, first) = begun(settings).await;
    first.sink().await.send(&window("k", 0..4)).await;
    let mut source = first.source("g").await;
    let out = source.receive(4).await.expect("received");
    settle(&*source, &out[..2], Settle::Done);
    sleep(Duration::from_millis(20)).await;
    settle(&*source, &out[2..3], Settle::Done);
    first.life.kill();
    let mut source = process(&broker, 2).source("g").await;
    assert_eq!(ids(&all(&mut *source).await), [2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_at_a_crossing_has_no_effect_by_it() {
    for settings in both(1) {
        let (broker, first) = begun(settings).await;
        let (mut source, mut sink) = (first.source("g").await, first.sink().await);
        sink.send(&window("k", 0..2)).await;
        let out = source.receive(2).await.expect("received");
        first.life.die_at(1);
        settle(&*source, &out, Settle::Done);
        assert_eq!(first.life.died_before(), Some("settle"));
        assert!(timeout(SECOND, sink.send(&window("k", 2..4))).await.is_err());
        assert!(timeout(SECOND, source.receive(2)).await.is_err());
        drop((source, sink));
        assert_eq!(broker.messages("work").len(), 2);
        assert_eq!((broker.unsettled().len(), broker.waiting("work", "g")), (0, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_watches_may_kill_the_caller_and_ask_the_broker() {
    for settings in both(1) {
        let (broker, first) = begun(settings).await;
        let (life, asks) = (Arc::clone(&first.life), broker.clone());
        broker.watch(Box::new(move |event| {
            if let What::Stored { .. } = event.what {
                assert!(!asks.messages("work").is_empty());
                life.kill();
            }
        }));
        let mut sink = first.sink().await;
        assert!(timeout(SECOND, sink.send(&window("k", 0..3))).await.is_err());
        assert_eq!(broker.messages("work").len(), 3, "it was there before anybody was told");
    }
}

#[tokio::test(start_paused = true)]
async fn faults_can_be_ended_for_the_rest_of_a_run() {
    let faults = SimFaults { refused: 1_000, ..SimFaults::none() };
    let (broker, first): (SimBroker, _) = begun(with(SimSettings::log("log", 1), faults)).await;
    let mut sink = first.sink().await;
    assert_eq!(confirmed(&sink.send(&window("k", 0..3)).await), 0);
    broker.faults(SimFaults::none());
    assert_eq!(confirmed(&sink.send(&window("k", 0..3)).await), 3);
}
