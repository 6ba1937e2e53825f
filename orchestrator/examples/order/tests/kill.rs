//! Processes of their own at a real broker: the orchestrator and the services are killed in the middle, and nothing is lost or done twice.

// Clippy takes the helpers of an integration test for code that is no test.
#![allow(clippy::unwrap_used)]

use dirigent_brokers::{Broker, Kind};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{Receiver, channel},
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

/// Orders placed: enough to be under way at every kill.
const ORDERS: u64 = 2_000;

/// How long the sagas may take to end after the last kill. A Kafka gives a killed owner's place away after ten seconds.
const ENDED_WITHIN: Duration = Duration::from_secs(150);

/// How long a start may take, the wait for a killed owner's place at a Kafka included.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// When to kill after each start: while it connects, and while it works on what waits.
const KILLS: [Moment; 5] = [
    Moment::Started(Duration::from_millis(300)),
    Moment::Ready(Duration::from_millis(100)),
    Moment::Started(Duration::from_millis(1_200)),
    Moment::Ready(Duration::from_millis(300)),
    Moment::Ready(Duration::ZERO),
];

#[derive(Clone, Copy)]
enum Moment {
    /// This long after its start.
    Started(Duration),
    /// This long after it said that it is ready.
    Ready(Duration),
}

#[test]
fn killed_at_any_moment_orders_on_rabbitmq_end_and_balance() {
    let found = dirigent_brokers::rabbitmq_private();
    let Some(broker) = dirigent_brokers::require!(found) else { return };
    survives_kills(&broker);
}

#[test]
fn killed_at_any_moment_orders_on_kafka_end_and_balance() {
    let found = dirigent_brokers::kafka_private();
    let Some(broker) = dirigent_brokers::require!(found) else { return };
    // A mock lives within this process and its bounds are small: it is no broker for others to be killed at.
    if !broker.is_mock() {
        survives_kills(&broker);
    }
}

fn survives_kills(broker: &Broker) {
    let folder = tempfile::tempdir().unwrap();
    let at = At { broker, folder: folder.path() };
    let mut services = at.services();
    // Channels for events are made by who listens: the orchestrator has to have been there once.
    let mut engine = at.engine();
    engine.is_ready();
    engine.stops();
    at.says(&["publish", "--orders", &ORDERS.to_string(), "--seed", "7", "--broker", at.word()]);
    for (round, moment) in KILLS.into_iter().enumerate() {
        let mut engine = at.engine();
        match moment {
            Moment::Started(after) => sleep(after),
            Moment::Ready(after) => {
                engine.is_ready();
                sleep(after);
            }
        }
        engine.dies();
        if round == 1 {
            services.dies();
            services = at.services();
        }
    }
    let began = Instant::now();
    let found = loop {
        let mut engine = at.engine();
        engine.is_ready();
        sleep(Duration::from_secs(5));
        engine.stops();
        services.stops();
        let found = at.reconciled();
        let all_ended = found["started"] == ORDERS && found["in_flight"] == 0;
        if all_ended && found["ledger"]["balanced"] == true {
            break found;
        }
        assert_eq!(found["ledger"]["effects_twice"], 0, "{found}");
        assert!(began.elapsed() < ENDED_WITHIN, "not at its end: {found}");
        services = at.services();
    };
    assert_eq!(found["ledger"]["orphans"], 0, "{found}");
    assert_eq!(found["blocked"], 0, "{found}");
}

/// A broker, and where processes keep what.
struct At<'a> {
    broker: &'a Broker,
    folder: &'a Path,
}

impl At<'_> {
    fn word(&self) -> &'static str {
        match self.broker.kind() {
            Kind::Kafka => "kafka",
            Kind::RabbitMq => "rabbitmq",
        }
    }

    fn order(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_order"));
        command
            .args(arguments)
            .current_dir(self.folder)
            .env(self.broker.kind().variable(), self.broker.address())
            .env("DIRIGENT_LOG", "error,lapin=off");
        command
    }

    fn starts(&self, arguments: &[&str]) -> Process {
        let mut command = self.order(arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let said = child.stderr.take().unwrap();
        let (tell, ready) = channel();
        // Read to its end, so that the process never waits for a reader.
        let reader = thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                if line.starts_with("ready:") {
                    tell.send(()).ok();
                } else {
                    eprintln!("{line}");
                }
            }
        });
        Process { child, ready, reader: Some(reader) }
    }

    fn engine(&self) -> Process {
        self.starts(&["run", "--data", "orchestrator", "--broker", self.word()])
    }

    fn services(&self) -> Process {
        self.starts(&["participants", "--data", "services", "--broker", self.word(), "--seed", "7"])
    }

    fn says(&self, arguments: &[&str]) -> Output {
        let output = self.order(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        output
    }

    fn reconciled(&self) -> Value {
        let arguments = ["reconcile", "--data", "orchestrator", "--services", "services", "--json"];
        let output = self.order(&arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
    }
}

/// A process that ends with the test.
struct Process {
    child: Child,
    ready: Receiver<()>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Waits until it says so.
    fn is_ready(&mut self) {
        self.ready.recv_timeout(READY_WITHIN).expect("the process gets ready");
    }

    fn dies(mut self) {
        self.child.kill().unwrap();
        self.ends();
    }

    fn stops(mut self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        self.ends();
    }

    fn ends(&mut self) {
        self.child.wait().unwrap();
        self.reader.take().map(JoinHandle::join).transpose().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
