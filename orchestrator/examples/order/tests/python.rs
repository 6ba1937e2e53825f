//! The inventory in Python, at the real brokers: it keeps its duties, and a demo in which it takes part balances.
//!
//! Wants a Python with the packages of `python/requirements.txt`: that of `target/python`, else the one that `DIRIGENT_TEST_PYTHON` names,
//! else `python3`. Skipped aloud where there is none, unless `DIRIGENT_REQUIRE_BROKERS` asks for everything.

// Clippy takes the helpers of an integration test for code that is no test.
#![allow(clippy::unwrap_used)]

use dirigent::{conformance::Outcome, telemetry::Traces};
use dirigent_brokers::{Broker, KAFKA_VARIABLE, Kind, RABBITMQ_VARIABLE, Unavailable};
use order::{
    demo::{
        AddressArgs, BrokerKind, ConformanceArgs, DemoArgs, PostgresArgs, RateArgs, RegistryArgs,
        conformance, demo,
    },
    order::samples::Service,
};
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

const RATES: RateArgs = RateArgs { reject_rate: 0.2, silent_rate: 0.0, seed: 7 };

/// Orders of the demo: enough that each place of refusal is among them.
const ORDERS: u32 = 60;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3).unwrap().to_owned()
}

/// A Python with both clients; `None` after saying what is missing.
fn python(test: &str) -> Option<String> {
    let ours = root().join("target/python/bin/python");
    let named = std::env::var("DIRIGENT_TEST_PYTHON").ok();
    let found = [Some(ours.to_string_lossy().into_owned()), named, Some("python3".into())];
    let has_clients = |python: &String| {
        let tried = Command::new(python)
            .args(["-c", "import confluent_kafka, pika"])
            .stderr(Stdio::null())
            .status();
        tried.is_ok_and(|status| status.success())
    };
    let found = found.into_iter().flatten().find(has_clients);
    if found.is_none() {
        let why = "no Python with confluent-kafka and pika; see orchestrator/examples/order/python/README.md";
        assert!(!dirigent_brokers::required(), "{test} needs one: {why}");
        // Past the harness, which keeps to itself what a passing test prints.
        let line = format!("SKIPPED {test}: {why}\n");
        std::io::stderr().write_all(line.as_bytes()).expect("a place for errors");
    }
    found
}

/// The service, killed when dropped.
struct Inventory(Child);

impl Drop for Inventory {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

async fn takes_part(test: &str, kind: BrokerKind, broker: Result<Broker, Unavailable>) {
    let Some(python) = python(test) else { return };
    let Some(broker) = dirigent_brokers::require!(broker) else { return };
    if broker.is_mock() {
        return;
    }
    let script = root().join("orchestrator/examples/order/python/inventory.py");
    let line = format!("{python} {}", script.display());
    let (name, variable) = match broker.kind() {
        Kind::Kafka => ("kafka", KAFKA_VARIABLE),
        Kind::RabbitMq => ("rabbitmq", RABBITMQ_VARIABLE),
        Kind::SchemaRegistry | Kind::Postgres => unreachable!("a participant has a broker"),
    };
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("inventory.db");
    let prefix = format!("python-{}.", std::process::id());
    let service = Command::new(&python)
        .arg(&script)
        .args(["run", "--broker", name, "--prefix", &prefix, "--seed", "7", "--reject-rate", "0.2"])
        .arg("--ledger")
        .arg(&ledger)
        .env(variable, broker.address())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let service = Inventory(service);
    let report = conformance(&ConformanceArgs {
        participant: Service::Inventory,
        broker: kind,
        address: AddressArgs::default(),
        prefix: Some(prefix),
        within: 60,
        probe: Some(format!("{line} probe --ledger {}", ledger.display())),
        rates: RATES,
        json: false,
    })
    .await
    .unwrap();
    drop(service);
    assert!(report.is_good(), "{report}");
    let kept = |outcome: &Outcome| matches!(outcome, Outcome::Kept { advice } if advice.is_empty());
    assert!(report.checks.iter().all(|checked| kept(&checked.outcome)), "{report}");

    let args = DemoArgs {
        orders: ORDERS,
        rates: RATES,
        broker: kind,
        address: AddressArgs::default(),
        registry: RegistryArgs::default(),
        postgres: PostgresArgs::default(),
        chaos: false,
        inventory: Some(line),
        data: Some(folder.path().join("demo")),
        json: true,
    };
    let report = demo(&args, &Arc::new(Traces::quiet())).await.unwrap();
    let rates = RATES.rates();
    let refused = (1..=i64::from(ORDERS)).filter(|order| rates.refusal(*order).is_some()).count();
    assert!(report.is_good(), "{report}");
    assert_eq!(
        (report.started, report.compensated),
        (u64::from(ORDERS), refused as u64),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_inventory_in_python_keeps_its_duties_and_takes_part_in_the_demo_on_kafka() {
    let test = "the_inventory_in_python_keeps_its_duties_and_takes_part_in_the_demo_on_kafka";
    takes_part(test, BrokerKind::Kafka, dirigent_brokers::kafka()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_inventory_in_python_keeps_its_duties_and_takes_part_in_the_demo_on_rabbitmq() {
    let test = "the_inventory_in_python_keeps_its_duties_and_takes_part_in_the_demo_on_rabbitmq";
    takes_part(test, BrokerKind::Rabbitmq, dirigent_brokers::rabbitmq()).await;
}
