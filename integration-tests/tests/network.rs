//! The network between a process and its broker fails: at every byte of a dialogue, and at random for a while.
//!
//! By default a small share of it. All of it: `DIRIGENT_TEST_CUTS=all` (every byte below 4 KiB, both ways) and
//! `DIRIGENT_TEST_CHAOS_SECONDS=1800`; `DIRIGENT_TEST_SEED` repeats a run, which prints its seed. Run when named:
//! `cargo test -p integration-tests --test network -- --nocapture`.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

use dirigent_brokers::{Broker, kafka_private_behind, rabbitmq_private, require};
use dirigent_connectors::{
    Attributes, ChannelKind, ChannelSpec, Connector, Health, Message, Sent, Settle, Sink, Source,
    SourceSpec,
    kafka::{KafkaConnector, KafkaSettings},
    names,
    rabbitmq::{RabbitMqConnector, RabbitMqSettings},
};
use integration_tests::proxy::{Bound, Every, Proxy, Random};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::task::spawn_blocking;

/// Bytes of a dialogue that are cut one by one.
const DIALOGUE_BYTES: u64 = 4_096;

/// Every how many bytes a dialogue is cut, where nobody says otherwise.
const STEP_DEFAULT: u64 = 512;

/// Clients that connect side by side.
const CLIENTS: u64 = 12;

/// Bytes behind which other connections end: more than lies on one channel, which a reader that begins anew is given at once.
const TURNOVER_BYTES: u64 = 1024 * 1024;

/// Messages a client sends at once, and the bytes of each: enough for a dialogue to get to its end within a round or two.
const MESSAGES: u64 = 4;
const BODY_BYTES: usize = 700;

/// What RabbitMQ may have of it for all cuts.
const MEMORY: &str = "4GB";

/// How long all clients together may get nothing done.
const STALLED_AFTER: Duration = Duration::from_secs(120);

/// How often whoever waits hears how far it is.
const TELL_EVERY: Duration = Duration::from_secs(60);

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |said| said.parse().expect(name))
}

fn seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("DIRIGENT_TEST_SEED", u64::from(since.subsec_nanos()));
    eprintln!("DIRIGENT_TEST_SEED={seed}");
    seed
}

fn step() -> u64 {
    match std::env::var("DIRIGENT_TEST_CUTS").as_deref() {
        Ok("all") => 1,
        _ => number("DIRIGENT_TEST_CUTS", STEP_DEFAULT),
    }
}

fn all_cuts() -> Every {
    Every::byte_below(DIALOGUE_BYTES, step(), seed()).turning_over_behind(TURNOVER_BYTES)
}

/// A connector that reaches its broker through the port of a proxy.
type Reach = Arc<dyn Fn(u16) -> Arc<dyn Connector> + Send + Sync>;

fn kafka_at(port: u16) -> Arc<dyn Connector> {
    let mut settings = KafkaSettings::new(format!("127.0.0.1:{port}"));
    settings.partitions = 1;
    settings.open_wait_max = Duration::from_secs(60);
    for (name, value) in [("reconnect.backoff.ms", "10"), ("reconnect.backoff.max.ms", "200")] {
        settings.properties.insert(name.into(), value.into());
    }
    Arc::new(KafkaConnector::new(settings).unwrap())
}

fn rabbitmq_at(address: &str, port: u16) -> Arc<dyn Connector> {
    let (before, behind) = address.rsplit_once(':').unwrap();
    let path = behind.split_once('/').map_or("", |(_, path)| path);
    let mut settings = RabbitMqSettings::new(&format!("{before}:{port}/{path}")).unwrap();
    settings.connect_time_max = Duration::from_secs(60);
    Arc::new(RabbitMqConnector::new(settings))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dialogue_with_kafka_may_be_cut_at_every_byte_and_nothing_is_lost() {
    let bound = Bound::any().await.unwrap();
    let port = bound.port();
    let found = spawn_blocking(move || kafka_private_behind(port)).await.unwrap();
    let Some(broker) = require!(found) else { return };
    let every = Arc::new(all_cuts());
    let proxy = bound.carry_to(broker.behind().unwrap(), Arc::clone(&every) as _);
    survives(&broker, &proxy, &every, Arc::new(kafka_at)).await;
    spawn_blocking(move || drop(broker)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dialogue_with_rabbitmq_may_be_cut_at_every_byte_and_nothing_is_lost() {
    let found = spawn_blocking(rabbitmq_private).await.unwrap();
    let Some(broker) = require!(found) else { return };
    // Each opening leaves a queue behind. With thousands of them the broker is short of the memory that it has otherwise, and takes
    // nothing more from anybody.
    let broker = spawn_blocking(move || {
        broker.rabbitmqctl(&["set_vm_memory_high_watermark", "absolute", MEMORY]).unwrap();
        broker
    });
    let broker = broker.await.unwrap();
    let address = broker.address().to_owned();
    let target = address.rsplit_once('@').unwrap().1.split('/').next().unwrap().to_owned();
    let every = Arc::new(all_cuts());
    let proxy = Bound::any().await.unwrap().carry_to(target, Arc::clone(&every) as _);
    survives(&broker, &proxy, &every, Arc::new(move |port| rabbitmq_at(&address, port))).await;
    spawn_blocking(move || drop(broker)).await.unwrap();
}

/// Clients open, send and receive until every cut has been made, and once more when the network is well again.
async fn survives(broker: &Broker, proxy: &Proxy, every: &Arc<Every>, reach: Reach) {
    let (all, begun) = (every.counts().2, Instant::now());
    let done = Arc::new(AtomicU64::new(0));
    let standings = Standings::default();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (every, done) = (Arc::clone(every), Arc::clone(&done));
            let (connector, standings) = (reach(proxy.port()), Arc::clone(&standings));
            let client = Client { number, opened: 0, sent: 0, connector, standings };
            tokio::spawn(client.works(every, done))
        })
        .collect();
    let (mut last, mut since) = ((0, 0), Instant::now());
    let mut tell = begun + TELL_EVERY;
    while every.counts().2 > 0 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = (done.load(Ordering::Relaxed), every.counts().0);
        if Instant::now() > tell {
            tell += TELL_EVERY;
            eprintln!(
                "{:>6.0} s  {} of {all} cuts, {} rounds",
                begun.elapsed().as_secs_f64(),
                now.1,
                now.0
            );
        }
        if now != last {
            (last, since) = (now, Instant::now());
        }
        let (rounds, cuts) = now;
        assert!(
            since.elapsed() < STALLED_AFTER,
            "nothing gets done any more after {rounds} rounds and {cuts} of {all} cuts: {:#?}",
            standings.lock().unwrap()
        );
    }
    every.is_over();
    proxy.reset_all();
    let mut opened = 0;
    for client in clients {
        let ended = tokio::time::timeout(STALLED_AFTER, client).await;
        opened += ended.expect("a client ends once the network is well").unwrap();
    }
    let (made, unreached, _) = every.counts();
    let rounds = done.load(Ordering::Relaxed);
    eprintln!(
        "{}: {made} of {all} cuts made, {unreached} never reached, {rounds} rounds of {MESSAGES} messages by {CLIENTS} clients that opened {opened} times, {:.0} s",
        broker.kind(),
        begun.elapsed().as_secs_f64()
    );
    assert!(unreached * 20 <= all as u64, "too many cuts were never reached: {unreached} of {all}");
}

/// By client: how its source and its sink stand.
type Standings = Arc<Mutex<BTreeMap<u64, [Health; 2]>>>;

/// Opens a source and a sink, sends, receives, and begins anew now and then.
struct Client {
    number: u64,
    opened: u64,
    sent: u64,
    connector: Arc<dyn Connector>,
    standings: Standings,
}

/// Rounds before a client opens anew.
const ROUNDS_PER_OPENING: u64 = 8;

/// Openings on one channel: all cuts take thousands of openings, and a broker of one small process with as many topics or queues is busy with those
/// alone (a Kafka with 9 700 topics took seconds to make another one).
const OPENINGS_PER_CHANNEL: u64 = 8;

impl Client {
    /// Until every cut has been made, and one round more; says how often it has opened.
    async fn works(mut self, every: Arc<Every>, done: Arc<AtomicU64>) -> u64 {
        loop {
            let was_last = every.counts().2 == 0;
            // Whatever breaks an opening passes, and is tried again: what must not happen is that it never ends.
            let Some((mut source, mut sink)) = self.opens().await else { continue };
            let rounds = if was_last { 1 } else { ROUNDS_PER_OPENING };
            let mut kept = true;
            for _ in 0..rounds {
                kept = self.round(source.as_mut(), sink.as_mut()).await;
                if !kept {
                    break;
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
            if was_last && kept {
                return self.opened;
            }
        }
    }

    async fn opens(&mut self) -> Option<(Box<dyn Source>, Box<dyn Sink>)> {
        self.opened += 1;
        let channel = ChannelSpec::work(self.channel());
        self.connector.prepare(std::slice::from_ref(&channel)).await.ok()?;
        let spec = SourceSpec {
            // One of its own: the one before may count as alive for a while where its end was cut off.
            group: format!("readers-{}-{}", self.number, self.opened),
            channels: vec![channel],
            positions: vec![],
            unsettled_max: 100,
        };
        let source = self.connector.source(spec).await.ok()?;
        let sink = self.connector.sink().await.ok()?;
        let health = [source.health(), sink.health()];
        self.standings.lock().unwrap().insert(self.number, health);
        Some((source, sink))
    }

    fn channel(&self) -> String {
        format!("cut-{}-{}", self.number, self.opened / OPENINGS_PER_CHANNEL)
    }

    /// Sends until all is confirmed, and receives until all has come. A source that is given up for good ends it.
    async fn round(&mut self, source: &mut dyn Source, sink: &mut dyn Sink) -> bool {
        let channel = self.channel();
        let ids = self.sent..self.sent + MESSAGES;
        self.sent += MESSAGES;
        let mut waiting: Vec<Message> = ids.clone().map(|id| message(&channel, id)).collect();
        while !waiting.is_empty() {
            let outcomes = sink.send(&waiting).await;
            let mut outcomes = outcomes.into_iter();
            waiting.retain(|message| match outcomes.next().unwrap() {
                Sent::Confirmed => false,
                Sent::Unknown { .. } => true,
                refused @ (Sent::Unsent { .. } | Sent::Fenced { .. }) => {
                    panic!("{refused:?} ({:?})", message.attributes.get(names::ID))
                }
            });
        }
        let mut missing: BTreeSet<String> = ids.map(|id| id.to_string()).collect();
        let settler = source.settler();
        while !missing.is_empty() {
            let Ok(deliveries) = source.receive(100).await else { return false };
            for delivery in deliveries {
                assert_eq!(delivery.message.body.len(), BODY_BYTES);
                missing.remove(delivery.message.attributes.get(names::ID).unwrap());
                settler.settle(&[(delivery.receipt, Settle::Done)]);
            }
        }
        true
    }
}

fn message(channel: &str, id: u64) -> Message {
    Message {
        channel: channel.into(),
        kind: ChannelKind::Work,
        key: "one".into(),
        attributes: Attributes::new().with(names::ID, id.to_string()).with(names::TYPE, "Cut"),
        others: vec![],
        body: vec![b'x'; BODY_BYTES].into(),
    }
}

/// How long the network fails at random, where nobody says otherwise (s).
const CHAOS_SECONDS_DEFAULT: u64 = 5;

/// Orders of one demo: enough for several connections to be cut, few enough for several demos in a minute.
const ORDERS: &str = "100";

/// How long one demo may take. It gives up by itself when nothing happens for three minutes.
const DEMO_WITHIN: Duration = Duration::from_secs(590);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_network_to_kafka_fails_at_random_all_orders_end_and_balance() {
    let bound = Bound::any().await.unwrap();
    let port = bound.port();
    let found = spawn_blocking(move || kafka_private_behind(port)).await.unwrap();
    let Some(broker) = require!(found) else { return };
    let random = Arc::new(Random::seeded(seed()));
    let proxy = bound.carry_to(broker.behind().unwrap(), Arc::clone(&random) as _);
    demos(&broker, "kafka", &format!("127.0.0.1:{}", proxy.port()), &random).await;
    spawn_blocking(move || drop(broker)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_network_to_rabbitmq_fails_at_random_all_orders_end_and_balance() {
    let found = spawn_blocking(rabbitmq_private).await.unwrap();
    let Some(broker) = require!(found) else { return };
    let (before, host) = broker.address().rsplit_once('@').unwrap();
    let (target, path) = host.split_once('/').unwrap();
    let random = Arc::new(Random::seeded(seed()));
    let proxy = Bound::any().await.unwrap().carry_to(target, Arc::clone(&random) as _);
    let address = format!("{before}@127.0.0.1:{}/{path}", proxy.port());
    demos(&broker, "rabbitmq", &address, &random).await;
    spawn_blocking(move || drop(broker)).await.unwrap();
}

/// Runs one demo after another through the proxy until the time is over; each has to end with all ledgers balanced.
async fn demos(broker: &Broker, word: &'static str, address: &str, random: &Random) {
    let program = spawn_blocking(order_program).await.unwrap();
    let length = Duration::from_secs(number("DIRIGENT_TEST_CHAOS_SECONDS", CHAOS_SECONDS_DEFAULT));
    let (begun, mut demos, mut orders, mut unanswered) = (Instant::now(), 0, 0, 0);
    while begun.elapsed() < length || demos == 0 {
        let mut demo = tokio::process::Command::new(&program);
        demo.args(["demo", "--broker", word, "--orders", ORDERS, "--chaos", "--json"])
            .args(["--seed", &demos.to_string()])
            .env(broker.kind().variable(), address)
            .env("DIRIGENT_LOG", "error,lapin=off")
            // A start, too, meets a broker that is away most of the time.
            .env("DIRIGENT_WAIT_FOR_BROKER_SECONDS", "600")
            .kill_on_drop(true);
        let ended = tokio::time::timeout(DEMO_WITHIN, demo.output()).await;
        let output = ended.expect("a demo ends, whatever the network does").unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() && said.contains("does not answer") {
            // The helper that looks for a broker asks once and cuts no slack: that is no part of what is tested.
            unanswered += 1;
            assert!(unanswered < 10 * (demos + 1), "{said}");
            continue;
        }
        assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stdout));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["ledger"]["balanced"], true, "{report}");
        assert_eq!(report["ledger"]["effects_twice"], 0, "{report}");
        demos += 1;
        orders += report["started"].as_u64().unwrap();
    }
    let (connections, cuts) = random.counts();
    eprintln!(
        "{word}: {demos} demos, {orders} orders, {cuts} of {connections} connections cut, {:.0} s",
        begun.elapsed().as_secs_f64()
    );
    assert!(cuts > 0, "nothing was cut");
}

/// The program of the example, built if it is not there.
fn order_program() -> PathBuf {
    // This test lies in `deps`, below the folder of the programs.
    let here = std::env::current_exe().unwrap();
    let program = here.parent().and_then(Path::parent).unwrap().join("order");
    if !program.is_file() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "-p", "order"]);
        if program.parent().is_some_and(|profile| profile.ends_with("release")) {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "the example can't be built");
    }
    assert!(program.is_file(), "{} is not there", program.display());
    program
}
