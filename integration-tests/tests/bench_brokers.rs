//! The benchmark through real brokers in its smallest form: that the engine and the loops beside it are still measured. Run by name:
//! `cargo test -p integration-tests --test bench_brokers`. Each broker is this test's own, as the channels have fixed names.

use serde_json::Value;
use std::process::{Command, Stdio};

/// What `bench` says to these arguments.
fn bench(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(arguments)
        .arg("--json")
        .stderr(Stdio::inherit())
        .output()
        .expect("the benchmark runs");
    assert!(output.status.success(), "bench {arguments:?} ended with {}", output.status);
    serde_json::from_slice(&output.stdout).expect("figures as JSON")
}

/// The middle of a figure's rounds.
fn median(figures: &Value, place: &[&str]) -> f64 {
    let found = place.iter().try_fold(figures, |tree, name| tree.get(*name));
    let median = found.and_then(|figure| figure.get("median")).and_then(Value::as_f64);
    median.unwrap_or_else(|| panic!("no {place:?} in {figures}"))
}

/// The engine, and the loop by the client library, through a broker of this test alone.
fn through(broker: &dirigent_brokers::Broker, what: &str, others: &[&str]) {
    if broker.is_mock() {
        eprintln!("SKIPPED bench {what}: there is only a mock, which says nothing about a broker");
        return;
    }
    let tiny = ["--orders", "200", "--rounds", "1", "--address", broker.address()];
    let figures = bench(&[&[what][..], &tiny[..]].concat());
    for subject in ["engine", "bare loop"].iter().chain(others).copied() {
        assert!(median(&figures, &["subjects", subject, "events_per_second"]) > 0.0);
    }
    assert!(median(&figures, &["ratios", "engine ÷ bare loop"]) > 0.0);
}

#[test]
fn through_kafka_the_engine_is_measured_beside_loops_with_and_without_transactions() {
    let Some(broker) = dirigent_brokers::require!(dirigent_brokers::kafka_private()) else {
        return;
    };
    through(&broker, "kafka", &["bare loop, in transactions"]);
}

#[test]
fn through_rabbitmq_the_engine_is_measured_beside_a_loop_of_the_same_client() {
    let Some(broker) = dirigent_brokers::require!(dirigent_brokers::rabbitmq_private()) else {
        return;
    };
    through(&broker, "rabbitmq", &[]);
}
