//! The suite that every connector has to pass, on both kinds, without faults and with those that break no promise.

use super::bench::{both, process};
use crate::{
    conformance,
    simulated::{SimBroker, SimFaults, SimKind, SimSettings, injected},
};
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn both_kinds_keep_every_promise() {
    for settings in both(1) {
        let broker = SimBroker::new(settings);
        let connector = process(&broker, 1).connector;
        conformance::run_all(&*connector, connector.name()).await.expect("every promise kept");
    }
}

#[tokio::test(start_paused = true)]
async fn both_kinds_keep_every_promise_while_all_is_slow_and_late_and_comes_in_pieces() {
    for seed in 0..3 {
        for settings in both(seed) {
            let faults = SimFaults {
                late: 100,
                slow: 200,
                pieces: 300,
                gaps: 100,
                // A log's reader goes on where it was; a queue hands out again what was not settled.
                reset: if settings.kind == SimKind::Log { 20 } else { 0 },
                // What the suite takes for silence is a second and a half.
                late_by: Duration::from_millis(1)..Duration::from_millis(400),
                slow_by: Duration::from_millis(1)..Duration::from_millis(400),
                broken_for: Duration::from_millis(1)..Duration::from_millis(300),
                ..SimFaults::none()
            };
            let latency = Duration::from_micros(200)..Duration::from_millis(20);
            let broker = SimBroker::new(SimSettings { faults, latency, ..settings });
            let connector = process(&broker, 1).connector;
            let kept = conformance::run_all(&*connector, connector.name()).await;
            kept.unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
            let injected = broker.injected();
            for fault in [injected::LATE, injected::SLOW, injected::PIECES] {
                assert!(injected.contains_key(fault), "{injected:?}");
            }
        }
    }
}
