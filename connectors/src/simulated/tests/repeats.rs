//! One seed is one run.

use super::bench::{all, both, confirmed, id_of, ids, process, window, written};
use crate::{
    Settle,
    kafka::PositionsFrom,
    random::Random,
    simulated::{SimBroker, SimEvent, SimFaults, SimSettings},
};
use std::{collections::BTreeMap, time::Duration};

/// What a run showed: all that happened, all that was injected, and when it ended.
type Shown = (Vec<SimEvent>, BTreeMap<&'static str, u64>, Duration);

/// Two senders and a reader that dies now and then, under a mix of faults of its own.
async fn run(settings: SimSettings) -> Shown {
    let mut random = Random::new(settings.seed);
    let faults = SimFaults::drawn(&mut random);
    let latency = Duration::from_micros(100)..Duration::from_millis(9);
    // Its readers keep no positions.
    let positions_from = PositionsFrom::Journal;
    let broker = SimBroker::new(SimSettings { faults, latency, positions_from, ..settings });
    let events = written(&broker);
    let begun = tokio::time::Instant::now();
    let sender = process(&broker, 1);
    sender.prepare().await;
    let sends = async {
        let mut sinks = [sender.sink().await, sender.sink().await];
        for round in 0..30 {
            let key = ["a", "b", "c"][round % 3];
            let window = window(key, round * 10..round * 10 + 10);
            let outcomes = sinks[round % 2].send(&window).await;
            assert!(confirmed(&outcomes) <= 10);
        }
    };
    let reads = async {
        for number in 2..6 {
            let reader = process(&broker, number);
            let mut source = reader.source("g").await;
            let settler = source.settler();
            for _ in 0..5 {
                let received =
                    tokio::time::timeout(Duration::from_secs(9), source.receive(7)).await;
                let Ok(received) = received else { continue };
                for delivery in received.expect("nothing that a person must mend") {
                    let settle = if random.one_in(9) { Settle::Again } else { Settle::Done };
                    settler.settle(&[(delivery.receipt, settle)]);
                }
            }
            reader.life.kill();
        }
    };
    tokio::join!(sends, reads);
    broker.faults(SimFaults::none());
    let mut last = process(&broker, 9).source("h").await;
    let rest = all(&mut *last).await;
    assert_eq!(ids(&rest).len(), rest.len());
    assert!(rest.iter().all(|delivery| id_of(&delivery.message) < 300));
    let events = events.lock().expect("no panic").clone();
    (events, broker.injected(), begun.elapsed())
}

#[tokio::test(start_paused = true)]
async fn two_runs_of_one_seed_tell_the_identical_story() {
    for seed in 0..8 {
        for settings in both(seed) {
            let first = run(settings.clone()).await;
            let second = run(settings.clone()).await;
            assert!(first.0.len() > 300, "only {} events", first.0.len());
            assert_eq!(first, second, "seed {seed} of {}", settings.name);
            let other = run(SimSettings { seed: seed + 1_000, ..settings }).await;
            assert_ne!(first.0, other.0);
        }
    }
}
