//! The real process at a real broker, by its system calls: no command leaves and no message is settled before the sync that covers it.
//!
//! `order run` works on orders under strace, at either level of durability; what strace wrote down is judged by `synced`. That the rule
//! sees what it should is tried on the same trace: without its syncs everything in it is too early. That it sees all there is, by the
//! accounts: as many messages were settled as were consumed.

// Clippy takes the helpers of an integration test for code that is no test.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod processes;
#[path = "../../../tests/support/strace.rs"]
mod strace;
mod synced;

use dirigent_brokers::{Broker, Kind};
use dirigent_connectors::{
    ChannelSpec, Connector, Settle, SourceSpec,
    kafka::{KafkaConnector, KafkaSettings},
    names,
};
use processes::At;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};
use strace::Call;
use synced::{
    Level, Wire, judge,
    kafka::{Logs, Place},
};

/// Enough for groups that hold one message and groups that hold many.
const ORDERS: u64 = 30;

/// For how long nothing may get on before the sagas count as standing still: far longer than a traced process takes for all of them.
const STALLED_AFTER: Duration = Duration::from_secs(180);

/// How long the broker may take to hand out what lies in a log.
const READ_WITHIN: Duration = Duration::from_secs(60);

/// Messages that are taken from a log at once.
const READ_AT_ONCE: usize = 256;

/// The longest piece of a write that strace writes down, in bytes. A group of these orders is far smaller, and what a connection moves
/// at once as well; zeros of the journal's new files are longer, and nobody looks at them.
const PIECE_BYTES: &str = "70000";

/// What moves bytes, and what makes them durable.
const CALLS: &str = "trace=pwrite64,pwritev,write,writev,sendto,sendmsg,read,readv,recvfrom,recvmsg,fdatasync,fsync";

/// What `order run` did from its start to its end, with further orders behind those of a life before.
fn traced(at: &At<'_>, placed: u64, level: Level) -> Vec<Call> {
    let trace = at.folder.join("trace");
    let mut services = at.services();
    services.is_ready();
    let mut engine = at.engine_under(level_word(level), |command| {
        strace::under(command, &["-s", PIECE_BYTES, "-e", CALLS], &trace)
    });
    engine.is_ready();
    at.places(placed, placed + ORDERS);
    at.until_all_have_ended(placed + ORDERS, STALLED_AFTER, || ());
    // Strace holds the other end of what the process says, so that its file is whole when that has ended.
    engine.stops();
    services.stops();
    strace::calls(&std::fs::read_to_string(trace).unwrap()).unwrap()
}

fn level_word(level: Level) -> &'static str {
    match level {
        Level::PowerLoss => "power-loss",
        Level::ProcessCrash => "process-crash",
    }
}

/// Messages that were consumed so far, and how many of them may have left no line in any history.
fn accounts(at: &At<'_>) -> [usize; 2] {
    let audit = at.audited();
    let mut sums = [0, 0];
    for partition in audit["partitions"].as_array().unwrap() {
        let number = |of: &serde_json::Value| usize::try_from(of.as_u64().unwrap()).unwrap();
        let counts = &partition["counts"];
        sums[0] += number(&partition["consumed"]);
        sums[1] += number(&counts["duplicate"]) + number(&counts["ignored"]);
    }
    sums
}

/// What lies in the logs up to there.
fn read(broker: &Broker, up_to: &BTreeMap<Place, u64>, group: String) -> Logs {
    let connector = KafkaConnector::new(KafkaSettings::new(broker.address())).unwrap();
    let topics: BTreeSet<&String> = up_to.keys().map(|(topic, _)| topic).collect();
    let channels = topics.into_iter().map(ChannelSpec::work).collect();
    let spec = SourceSpec { channels, group, positions: vec![], unsettled_max: READ_AT_ONCE };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut source = connector.source(spec).await.unwrap();
        let mut logs = Logs::new();
        let has = |log: Option<&BTreeMap<u64, String>>, offset: u64| {
            log.is_some_and(|log| log.contains_key(&offset))
        };
        while up_to.iter().any(|(place, next)| *next > 0 && !has(logs.get(place), next - 1)) {
            let next = tokio::time::timeout(READ_WITHIN, source.receive(READ_AT_ONCE)).await;
            for delivery in next.expect("the log is handed out").unwrap() {
                let id = delivery.message.attributes.get(names::ID).unwrap().to_owned();
                let place = (delivery.message.channel, delivery.partition);
                logs.entry(place).or_default().insert(delivery.offset, id);
                source.settler().settle(&[(delivery.receipt, Settle::Done)]);
            }
        }
        logs
    })
}

fn nothing_leaves_too_early(broker: &Broker) {
    // The second life goes on in the folder of the first: a Kafka refuses a new one what an older one has read.
    let folder = tempfile::tempdir().unwrap();
    let at = At { broker, folder: folder.path().to_owned() };
    let (mut before, mut accounts_before) = (Logs::new(), [0, 0]);
    for (placed, level) in [(0, Level::PowerLoss), (ORDERS, Level::ProcessCrash)] {
        let calls = traced(&at, placed, level);
        let accounts = accounts(&at);
        let [consumed, without_line] = [0, 1].map(|it| accounts[it] - accounts_before[it]);
        accounts_before = accounts;
        let journal = Path::new(&at.folder).join("orchestrator/journal");
        let journal = journal.canonicalize().unwrap().display().to_string();
        let logs = match broker.kind() {
            Kind::Kafka => {
                let group = format!("reads-{}", level_word(level));
                let all = read(broker, &synced::committed(&calls), group);
                let mut logs = all.clone();
                for (place, log) in &mut logs {
                    let settled = before.get(place);
                    log.retain(|offset, _| settled.is_none_or(|it| !it.contains_key(offset)));
                }
                before = all;
                Some(logs)
            }
            Kind::RabbitMq => None,
            Kind::SchemaRegistry | Kind::Postgres => unreachable!("it is no broker"),
        };
        let wire = logs.as_ref().map_or(Wire::Amqp, Wire::Kafka);
        let judged = judge(&calls, &journal, level, wire);
        eprintln!(
            "{} at {}: {} calls, {} syncs of the journal, {} published, {} settled, {} too early",
            at.word(),
            level_word(level),
            calls.len(),
            judged.syncs,
            judged.published,
            judged.settled,
            judged.breaches.len()
        );
        assert_eq!(judged.breaches, [""; 0]);
        // At least one command of each order; and of what was settled, all.
        assert!(judged.published >= usize::try_from(ORDERS).unwrap(), "{judged:?}");
        assert_eq!(judged.settled, consumed, "{judged:?}");
        assert!(judged.unwritten <= without_line, "{judged:?}, {without_line} without a line");

        // The rule on its breach: had nothing been synced, or written, all of it would have left too early.
        let taken = match level {
            Level::PowerLoss => "fdatasync",
            Level::ProcessCrash => "pwrite64",
        };
        let without: Vec<Call> = calls.into_iter().filter(|call| call.name != taken).collect();
        let found = judge(&without, &journal, level, wire);
        assert_eq!(found.breaches.len() + found.unwritten, judged.published + judged.settled);
        assert!(found.breaches.len() >= judged.published, "{found:?}");
    }
}

#[test]
fn nothing_leaves_for_rabbitmq_and_nothing_is_settled_there_before_the_sync_that_covers_it() {
    let found = dirigent_brokers::rabbitmq_private();
    let Some(broker) = dirigent_brokers::require!(found) else { return };
    if strace::is_here() {
        nothing_leaves_too_early(&broker);
    }
}

#[test]
fn nothing_leaves_for_kafka_and_nothing_is_settled_there_before_the_sync_that_covers_it() {
    let found = dirigent_brokers::kafka_private();
    let Some(broker) = dirigent_brokers::require!(found) else { return };
    // A mock lives within this process, and other processes find none of it.
    if !broker.is_mock() && strace::is_here() {
        nothing_leaves_too_early(&broker);
    }
}
