//! How long a run takes that does as much as one of the simulator's: printed, never asserted.
//!
//! `DIRIGENT_SIM_RUNS=1000 cargo test --release -p dirigent-connectors --lib simulated::tests::speed -- --nocapture`

use super::bench::{begun, both, confirmed, message, settle};
use crate::{
    Settle,
    simulated::{SimFaults, SimSettings},
};
use std::time::Duration;

/// Messages of a run. Each is sent, handed out and settled.
const MESSAGES: usize = 3_000;

/// Messages of a window, as a relay has them at rest.
const WINDOW: usize = 10;

async fn run(settings: SimSettings) -> u64 {
    let faults = SimFaults { late: 5, doubled: 5, pieces: 20, ..SimFaults::none() };
    let latency = Duration::from_micros(100)..Duration::from_millis(2);
    let (_broker, first) = begun(SimSettings { faults, latency, ..settings }).await;
    let mut source = first.source("g").await;
    let mut sink = first.sink().await;
    let keys: Vec<String> = (0..50).map(|key| format!("order-{key}")).collect();
    let sends = async {
        for from in (0..MESSAGES).step_by(WINDOW) {
            let window: Vec<_> =
                (from..from + WINDOW).map(|id| message(&keys[id % keys.len()], id)).collect();
            assert_eq!(confirmed(&sink.send(&window).await), WINDOW);
        }
    };
    let reads = async {
        let mut seen = vec![false; MESSAGES];
        while seen.contains(&false) {
            let received = source.receive(64).await.expect("received");
            for delivery in &received {
                seen[super::bench::id_of(&delivery.message)] = true;
            }
            settle(&*source, &received, Settle::Done);
        }
    };
    tokio::join!(sends, reads);
    first.life.crossings()
}

#[tokio::test(start_paused = true)]
async fn a_run_of_nine_thousand_operations_ends_and_tells_how_long_it_took() {
    let runs = std::env::var("DIRIGENT_SIM_RUNS").ok().and_then(|runs| runs.parse().ok());
    let runs: u32 = runs.unwrap_or(2);
    for settings in both(1) {
        let begin = std::time::Instant::now();
        let mut crossings = 0;
        for seed in 0..u64::from(runs) {
            crossings += run(SimSettings { seed, ..settings.clone() }).await;
        }
        let each = begin.elapsed() / runs;
        let calls = crossings / u64::from(runs);
        println!("{}: {each:?} a run of {MESSAGES} messages in {calls} calls", settings.name);
    }
}
