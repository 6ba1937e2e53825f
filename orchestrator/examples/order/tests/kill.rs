//! Processes of their own at a real broker: the orchestrator and the services are killed in the middle, and nothing is lost or done twice.
//!
//! By default at five chosen moments. `DIRIGENT_KILLS=20 DIRIGENT_ORDERS=5000 cargo test --release -p order --test kill -- --nocapture`
//! kills at twenty random ones; `DIRIGENT_SEED` repeats them.

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
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Says how many orders are placed: half of them at once, the others in slices before each kill.
const ORDERS: &str = "DIRIGENT_ORDERS";

/// Orders placed where [`ORDERS`] does not say: enough to be under way at every kill.
const ORDERS_DEFAULT: u64 = 2_000;

/// Says how often the orchestrator is killed, at random moments.
const KILLS: &str = "DIRIGENT_KILLS";

/// Repeats the random moments of a run, which prints it.
const SEED: &str = "DIRIGENT_SEED";

/// Up to how long after its start a random kill comes, where it is not waited for: it connects meanwhile, or waits for a killed owner's place.
const CONNECTING_WITHIN_MS: u64 = 2_000;

/// Up to how long after a saga is under way a random kill comes. Longer, and a fast machine would have ended all orders before it.
const WORKING_WITHIN_MS: u64 = 400;

/// How long the sagas may take to end after the last kill. A Kafka gives a killed owner's place away after ten seconds.
const ENDED_WITHIN: Duration = Duration::from_secs(150);

/// How long a start may take, the wait for a killed owner's place at a Kafka included.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long a ready orchestrator may take to its first saga. Where none is left to begin, the kill comes then.
const UNDER_WAY_WITHIN: Duration = Duration::from_secs(15);

/// When to kill after each start where [`KILLS`] does not say: while it connects, and while it works on what waits.
const CHOSEN: [Kill; 5] = [
    Kill { engine: Moment::Started(Duration::from_millis(300)), services: None },
    Kill { engine: Moment::UnderWay(Duration::ZERO), services: Some(Duration::ZERO) },
    Kill { engine: Moment::Started(Duration::from_millis(1_200)), services: None },
    Kill { engine: Moment::UnderWay(Duration::from_millis(100)), services: None },
    Kill { engine: Moment::Ready(Duration::ZERO), services: None },
];

/// One round: a slice of the orders is placed, the orchestrator starts, and is killed.
#[derive(Debug, Clone, Copy)]
struct Kill {
    engine: Moment,
    /// The services are killed too, this long after the next orchestrator is ready, which is killed with them.
    services: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
enum Moment {
    /// This long after its start.
    Started(Duration),
    /// This long after it said that it is ready.
    Ready(Duration),
    /// This long after a saga was seen under way, however long a broker takes to hand out its first message.
    UnderWay(Duration),
}

/// What the environment asks for, or what is done without a word from it.
fn asked() -> (Vec<Kill>, u64) {
    let number = |name: &str| std::env::var(name).ok().map(|said| said.parse::<u64>().expect(name));
    let orders = number(ORDERS).unwrap_or(ORDERS_DEFAULT);
    let Some(kills) = number(KILLS) else { return (CHOSEN.to_vec(), orders) };
    let seed = number(SEED).unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        u64::from(since.subsec_nanos())
    });
    eprintln!("{kills} kills at random moments: {SEED}={seed}");
    let mut random = Random(seed);
    let kills = (0..kills).map(|_| random.kill()).collect();
    (kills, orders)
}

/// Numbers that look random and come again with their seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    /// Three of four in the middle of work, as there is most to lose; every other one with the services.
    fn kill(&mut self) -> Kill {
        let connecting = Duration::from_millis(self.below(CONNECTING_WITHIN_MS));
        let [working, before] =
            [(); 2].map(|()| Duration::from_millis(self.below(WORKING_WITHIN_MS)));
        let engine = match self.below(4) {
            0 => Moment::Started(connecting),
            _ => Moment::UnderWay(working),
        };
        let services = self.below(2) == 0;
        Kill { engine, services: services.then_some(before) }
    }
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
    let (kills, orders) = asked();
    let folder = tempfile::tempdir().unwrap();
    let at = At { broker, folder: folder.path() };
    let mut services = at.services();
    // Channels for events are made by who listens: the orchestrator has to have been there once.
    let mut engine = at.engine();
    engine.is_ready();
    engine.stops();
    // Half of them wait from the beginning: the orchestrator lives so shortly that it has hardly ever done all it finds.
    let (mut met, mut placed, rounds) = (0, orders / 2, kills.len());
    at.places(0, placed);
    let started = Instant::now();
    for (round, kill) in (1..).zip(kills) {
        let until = orders / 2 + (orders - orders / 2) * round / rounds as u64;
        at.places(placed, until);
        placed = until;
        let mut engine = at.engine();
        match kill.engine {
            Moment::Started(after) => sleep(after),
            Moment::Ready(after) => {
                engine.is_ready();
                sleep(after);
            }
            Moment::UnderWay(after) => {
                engine.is_ready();
                let ready = Instant::now();
                while !at.under_way() && ready.elapsed() < UNDER_WAY_WITHIN {
                    sleep(Duration::from_millis(10));
                }
                sleep(after);
            }
        }
        engine.dies();
        let under_way = at.under_way();
        met += usize::from(under_way);
        eprintln!(
            "{:6.1} s  kill {round} {kill:?}, sagas under way: {under_way}",
            started.elapsed().as_secs_f64()
        );
        if let Some(after) = kill.services {
            // With an orchestrator beside them again, so that they have something in hand.
            let mut engine = at.engine();
            engine.is_ready();
            sleep(after);
            services.dies();
            engine.dies();
            services = at.services();
        }
    }
    assert!(met > 0, "no kill met a saga under way: place more orders");
    let began = Instant::now();
    let found = loop {
        let mut engine = at.engine();
        engine.is_ready();
        sleep(Duration::from_secs(5));
        engine.stops();
        services.stops();
        let found = at.reconciled();
        let all_ended = found["started"] == orders && found["in_flight"] == 0;
        if all_ended && found["ledger"]["balanced"] == true {
            break found;
        }
        assert_eq!(found["ledger"]["effects_twice"], 0, "{found}");
        assert!(began.elapsed() < ENDED_WITHIN, "not at its end: {found}");
        services = at.services();
    };
    assert_eq!(found["ledger"]["orphans"], 0, "{found}");
    assert_eq!(found["blocked"], 0, "{found}");
    let seconds = started.elapsed().as_secs_f64();
    eprintln!(
        "{}: {orders} orders, {rounds} kills, {met} met sagas under way, {seconds:.0} s: {found}",
        at.word()
    );
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
        // They are for this test alone, and the orchestrator warns of what it does not know.
        for own in [ORDERS, KILLS, SEED] {
            command.env_remove(own);
        }
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

    /// Places the orders above `placed`, up to `until`.
    fn places(&self, placed: u64, until: u64) {
        let [from, count] = [placed + 1, until - placed].map(|number| number.to_string());
        let seed = ["--seed", "7", "--broker", self.word()];
        said(self.order(&[&["publish", "--from", &from, "--orders", &count], &seed[..]].concat()));
    }

    /// Whether the folder of an orchestrator that was killed holds instances that have not ended.
    fn under_way(&self) -> bool {
        let list = ["list", "--data", "orchestrator", "--limit", "1", "--json", "--status"];
        ["running", "turning-back"].into_iter().any(|status| {
            let output = said(self.order(&[&list[..], &[status]].concat()));
            let found: Value = serde_json::from_slice(&output.stdout).unwrap();
            found["instances"].as_array().is_some_and(|found| !found.is_empty())
        })
    }

    fn reconciled(&self) -> Value {
        let arguments = ["reconcile", "--data", "orchestrator", "--services", "services", "--json"];
        let output = self.order(&arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
    }
}

/// Runs to its end, which is a good one.
fn said(mut command: Command) -> Output {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    output
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
