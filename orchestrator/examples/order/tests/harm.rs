//! Harm beyond kills of our own processes: the broker is killed, processes and broker stand still, the disk is full.
//! Nothing is lost or done twice, and what can go on does.
//!
//! By default a short version. `DIRIGENT_TEST_KILLS=20 DIRIGENT_TEST_ORDERS=20000 DIRIGENT_TEST_STILL_SECONDS=30 cargo test --release
//! -p order --test harm -- --nocapture --test-threads=1` kills a broker twenty times. Run when named, as it does harm to brokers of its own.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

mod processes;

use dirigent_brokers::{Broker, kafka_private, rabbitmq_private, require};
use processes::{At, KILLS, ORDERS, Process, Random, number, seed};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

/// Orders where nobody says how many.
const ORDERS_DEFAULT: u64 = 1_500;

/// How often a broker is killed where nobody says how often.
const KILLS_DEFAULT: u64 = 1;

/// How long something stands still where nobody says: longer than a Kafka waits for an owner.
const STILL_SECONDS_DEFAULT: u64 = 12;

/// Up to how long a broker works between two kills (ms).
const WORKING_WITHIN_MS: u64 = 4_000;

/// After the last harm, for how long nothing may get on before the sagas count as standing still.
const STALLED_AFTER: Duration = Duration::from_secs(240);

/// How often orchestrator and services are stopped and compared after all orders have ended: what was on its way then takes effect meanwhile.
const COMPARED_MAX: u64 = 10;

/// The volume of the test of a full disk: two segments of the journal and a store of some size.
const VOLUME_MEGABYTES: u64 = 400;

fn still() -> Duration {
    Duration::from_secs(number("DIRIGENT_TEST_STILL_SECONDS").unwrap_or(STILL_SECONDS_DEFAULT))
}

fn kafka() -> Option<Broker> {
    // A mock lives within this process: it is no broker for others to be killed at.
    require!(kafka_private()).filter(|broker| !broker.is_mock())
}

#[test]
fn a_kafka_that_is_killed_and_started_again_under_load_loses_no_order() {
    let Some(broker) = kafka() else { return };
    survives_kills_of(&broker);
}

#[test]
fn a_rabbitmq_that_is_killed_and_started_again_under_load_loses_no_order() {
    let Some(broker) = require!(rabbitmq_private()) else { return };
    survives_kills_of(&broker);
}

fn survives_kills_of(broker: &Broker) {
    let kills = number(KILLS).unwrap_or(KILLS_DEFAULT);
    let mut random = Random(seed());
    Shop::open(broker, |_| {}).survives("kills of the broker", kills, |shop| {
        sleep(Duration::from_millis(random.below(WORKING_WITHIN_MS)));
        broker.kill().unwrap();
        sleep(Duration::from_millis(random.below(WORKING_WITHIN_MS)));
        broker.restart().unwrap();
        shop.looks_after_processes();
    });
}

#[test]
fn an_orchestrator_that_stands_still_under_load_goes_on_with_kafka() {
    let Some(broker) = kafka() else { return };
    survives_standing_still(&broker);
}

#[test]
fn an_orchestrator_that_stands_still_under_load_goes_on_with_rabbitmq() {
    let Some(broker) = require!(rabbitmq_private()) else { return };
    survives_standing_still(&broker);
}

/// First the orchestrator stands still, then the broker.
fn survives_standing_still(broker: &Broker) {
    Shop::open(broker, |_| {}).survives("standing still", 1, |shop| {
        sleep(Duration::from_millis(500));
        shop.engine.gets("STOP");
        sleep(still());
        shop.engine.gets("CONT");
        shop.looks_after_processes();
        sleep(Duration::from_millis(500));
        broker.freeze().unwrap();
        sleep(still());
        broker.thaw().unwrap();
        shop.looks_after_processes();
    });
}

#[test]
fn a_disk_that_is_full_for_a_while_holds_orders_back_and_loses_none() {
    let Some(volume) = Volume::mounted() else { return };
    let Some(broker) = require!(rabbitmq_private()) else { return };
    let shop = Shop::open(&broker, |folder| {
        // Of all folders only the orchestrator's lies there.
        std::os::unix::fs::symlink(&volume.path, folder.join("orchestrator")).unwrap();
    });
    let mut random = Random(seed());
    let fills = number(KILLS).unwrap_or(KILLS_DEFAULT);
    shop.survives("fillings of the disk", fills, |shop| {
        sleep(Duration::from_millis(random.below(WORKING_WITHIN_MS)));
        let others = volume.path.join("others");
        // As whoever shares the disk: to the last byte, which is told as no room.
        let filled = fs::File::create(&others)
            .and_then(|mut file| std::io::copy(&mut std::io::repeat(7), &mut file));
        assert!(filled.is_err(), "the volume has an end");
        shop.says("The engine is held up");
        sleep(Duration::from_secs(3));
        let restarts = shop.restarts;
        shop.looks_after_processes_but(|_| fs::remove_file(&others).unwrap());
        if others.exists() {
            fs::remove_file(&others).unwrap();
        }
        eprintln!("ended on the full disk: {}", shop.restarts > restarts);
    });
}

/// A small file system in memory.
struct Volume {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Volume {
    /// None, said aloud, where mounting is not permitted.
    fn mounted() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let size = format!("size={VOLUME_MEGABYTES}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "dirigent-test"])
            .arg(&path)
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self { path, _folder: folder });
        }
        eprintln!("skipped: a small file system can't be mounted here; run it as root");
        None
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let ended = Command::new("umount").arg("-l").arg(&self.path).status();
        assert!(ended.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

/// An orchestrator and its services at a broker of their own.
struct Shop<'a> {
    at: At<'a>,
    engine: Process,
    services: Process,
    restarts: u64,
    _folder: tempfile::TempDir,
}

impl<'a> Shop<'a> {
    fn open(broker: &'a Broker, prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let at = At { broker, folder: folder.path().to_owned() };
        let mut services = at.services();
        let mut engine = at.engine_that_warns();
        // All channels are there before anything is harmed. A RabbitMQ 3.10 that is killed while it makes a quorum queue may come
        // back with one that has no leader, which no client can mend: what is sent to it is never confirmed.
        services.is_ready();
        engine.is_ready();
        Self { at, engine, services, restarts: 0, _folder: folder }
    }

    /// Places orders, a share of them before each harm, and waits until all have ended and the ledgers balance.
    fn survives(mut self, what: &str, harms: u64, mut harm: impl FnMut(&mut Self)) {
        let orders = number(ORDERS).unwrap_or(ORDERS_DEFAULT);
        let (begun, mut placed) = (Instant::now(), 0);
        for round in 1..=harms {
            let until = orders * round / harms;
            self.at.places(placed, until);
            placed = until;
            harm(&mut self);
            eprintln!("{:6.1} s  {what}: {round} of {harms}", begun.elapsed().as_secs_f64());
        }
        let mut compared = 0;
        let found = loop {
            let at = At { broker: self.at.broker, folder: self.at.folder.clone() };
            at.until_all_have_ended(orders, STALLED_AFTER, || self.looks_after_processes());
            self.engine.stops();
            self.services.stops();
            let found = self.at.reconciled();
            let ended = found["started"] == orders && found["in_flight"] == 0;
            assert_eq!(found["ledger"]["effects_twice"], 0, "{found}");
            if ended && found["ledger"]["balanced"] == true {
                break found;
            }
            compared += 1;
            assert!(compared < COMPARED_MAX, "not at its end: {found}");
            self.services = self.at.services();
            self.engine = self.at.engine_that_warns();
            self.services.is_ready();
            self.engine.is_ready();
        };
        assert_eq!(found["ledger"]["orphans"], 0, "{found}");
        assert_eq!(found["blocked"], 0, "{found}");
        self.at.audits();
        eprintln!(
            "{}: {orders} orders, {what}: {harms}, started again {} times, {:.0} s: {}",
            self.at.word(),
            self.restarts,
            begun.elapsed().as_secs_f64(),
            Value::clone(&found["ledger"]),
        );
    }

    /// Starts again what has ended by itself, as a supervisor does.
    fn looks_after_processes(&mut self) {
        self.looks_after_processes_but(|_| {});
    }

    fn looks_after_processes_but(&mut self, before: impl Fn(&Self)) {
        if self.engine.has_ended() {
            before(self);
            self.restarts += 1;
            self.engine = self.at.engine_that_warns();
            self.engine.is_ready();
        }
        if self.services.has_ended() {
            before(self);
            self.restarts += 1;
            self.services = self.at.services();
        }
    }

    /// Waits until the orchestrator has logged it, or has ended.
    fn says(&mut self, text: &str) {
        let begun = Instant::now();
        while !self.engine.has_said(text) && !self.engine.has_ended() {
            assert!(begun.elapsed() < STALLED_AFTER, "never said: {text}");
            sleep(Duration::from_millis(50));
        }
    }
}
