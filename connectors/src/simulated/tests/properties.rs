//! What holds in every run, whatever goes wrong: random mixes of faults, processes that die at random crossings or stand still, and a judge
//! that knows only what the broker told.
//!
//! A sender repeats what is unknown, a key's next message only once the one before is decided. A reader keeps its positions with what it
//! has read, as the engine does, and settles after that. In the end faults cease, and all has to come to rest.

use super::bench::{Process, id_of, message, process};
use crate::{
    ChannelSpec, ConnectorError, Delivery, Memory, Message, Position, Sent, Settle, Sink,
    SourceSpec,
    random::Random,
    simulated::{Fate, Place, SimBroker, SimEvent, SimFaults, SimKind, SimSettings, What},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::{sleep, timeout};

const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Rounds of a sender; each has one message of every key.
const ROUNDS: usize = 24;

/// Runs, unless `DIRIGENT_SIM_RUNS` says how many.
const RUNS: u64 = 60;

/// What a reader has taken care of for good: it survives its process.
#[derive(Default)]
struct Durable {
    positions: BTreeMap<(String, u32), u64>,
    taken: BTreeSet<usize>,
}

/// What must hold, judged event by event.
struct Judge {
    kind: SimKind,
    /// With whom each delivery is out.
    out: BTreeMap<(Arc<str>, Place), u32>,
    /// By group and key: the last message that was handed out for the first time.
    last: BTreeMap<(Arc<str>, String), usize>,
    seen: BTreeSet<(Arc<str>, usize)>,
    /// By group: the life that owns it.
    owners: BTreeMap<Arc<str>, u32>,
    confirmed: BTreeSet<usize>,
    breaches: Vec<String>,
}

impl Judge {
    fn new(kind: SimKind) -> Self {
        let (out, last, owners) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (seen, confirmed, breaches) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        Self { kind, out, last, seen, owners, confirmed, breaches }
    }

    fn judge(&mut self, event: &SimEvent) {
        let life = event.life;
        match &event.what {
            What::Owns { group, .. } => {
                self.owners.insert(Arc::clone(group), life);
                // A log's reader that is gone settles nothing any more; what it had comes again by its position.
                if self.kind == SimKind::Log {
                    self.out.retain(|(of, _), _| of != group);
                }
            }
            What::HandedOut { group, place, message } => {
                let out = (Arc::clone(group), place.clone());
                if let Some(other) = self.out.insert(out, life) {
                    self.breaches.push(format!("{place:?} is out with {other} and {life}"));
                }
                if self.owners.get(group) != Some(&life) {
                    self.breaches.push(format!("{life} reads {group}, which it does not own"));
                }
                let id = id_of(message);
                if self.seen.insert((Arc::clone(group), id)) {
                    let last = self.last.insert((Arc::clone(group), message.key.clone()), id);
                    if last.is_some_and(|last| last > id) {
                        self.breaches.push(format!("{id} comes behind {last:?} of its key"));
                    }
                }
            }
            What::Settled { group, place, .. } => {
                if self.out.remove(&(Arc::clone(group), place.clone())).is_none() {
                    self.breaches.push(format!("{place:?} is settled, and was not out"));
                }
            }
            What::Returned { group, places } => {
                for place in places {
                    if self.out.remove(&(Arc::clone(group), place.clone())).is_none() {
                        self.breaches.push(format!("{place:?} returns, and was not out"));
                    }
                }
            }
            What::Stored { open: true, .. } | What::Ended { committed: true, .. } => {
                // Only the owner's sink sends in transactions here. What a torn one left may count late, but is never begun.
                let begins = matches!(event.what, What::Stored { .. });
                if begins && !self.owners.values().any(|owner| *owner == life) {
                    self.breaches.push(format!("{life} begins to send, and owns no group"));
                }
            }
            What::Answered { message, sent: Sent::Confirmed } => {
                self.confirmed.insert(id_of(message));
            }
            What::Stored { .. }
            | What::Ended { .. }
            | What::Answered { .. }
            | What::Injected { .. } => {}
        }
    }
}

/// Sends every round until all of it is decided, in the order of keys. False once another one owns the group.
async fn send_all(sink: &mut dyn Sink, from: usize) -> bool {
    for round in 0..ROUNDS {
        let first = from + round * KEYS.len();
        let mut left: Vec<Message> =
            (0..KEYS.len()).map(|at| message(KEYS[at], first + at)).collect();
        while !left.is_empty() {
            let outcomes = sink.send(&left).await;
            assert_eq!(outcomes.len(), left.len());
            if outcomes.iter().any(|sent| matches!(sent, Sent::Fenced { .. })) {
                return false;
            }
            let unknown = |sent: &Sent| matches!(sent, Sent::Unknown { .. });
            let mut sent = outcomes.iter();
            left.retain(|_| sent.next().is_some_and(unknown));
            sleep(Duration::from_millis(50)).await;
        }
    }
    true
}

/// Reads until it is told to stop, its process dies, or the group is another's.
async fn read(process: &Process, durable: &Mutex<Durable>) -> Result<(), ConnectorError> {
    let positions = match process.connector.memory() {
        Memory::Settlements => Vec::new(),
        Memory::Positions => {
            let durable = durable.lock().expect("no panic");
            let position = |((channel, partition), next): (&(String, u32), &u64)| Position {
                channel: channel.clone(),
                partition: *partition,
                next: *next,
            };
            durable.positions.iter().map(position).collect()
        }
    };
    let channels = vec![ChannelSpec::work("work")];
    let spec = SourceSpec { channels, group: "g".into(), positions, unsettled_max: 40 };
    let mut source = process.connector.source(spec).await?;
    let settler = source.settler();
    loop {
        let received = source.receive(16).await?;
        if !process.life.crosses("sync") {
            std::future::pending::<()>().await;
        }
        let mut durable = durable.lock().expect("no panic");
        for Delivery { message, partition, offset, .. } in &received {
            durable.taken.insert(id_of(message));
            let next = durable.positions.entry((message.channel.clone(), *partition)).or_default();
            *next = (*next).max(offset + 1);
        }
        drop(durable);
        let done = received.iter().map(|delivery| (delivery.receipt, Settle::Done));
        settler.settle(&done.collect::<Vec<_>>());
    }
}

/// One run. Returns what was injected.
async fn run(settings: SimSettings) -> BTreeMap<&'static str, u64> {
    let mut random = Random::new(settings.seed ^ 0x5EED);
    let (seed, kind) = (settings.seed, settings.kind);
    let faults = SimFaults::drawn(&mut random);
    let latency = Duration::from_micros(100)..Duration::from_millis(20);
    let broker = SimBroker::new(SimSettings { faults, latency, ..settings });
    let judge = Arc::new(Mutex::new(Judge::new(kind)));
    let judges = Arc::clone(&judge);
    broker.watch(Box::new(move |event| judges.lock().expect("no panic").judge(event)));

    let sender = process(&broker, 1);
    sender.prepare().await;
    let durable = Mutex::new(Durable::default());
    let owns = kind == SimKind::Log && random.one_in(2);
    let sends = async {
        // The owner of a group of its own, or anybody.
        let (_source, mut sink) = if owns {
            let source = sender.source("senders").await;
            (Some(source), sender.owner_sink("senders").await)
        } else {
            (None, sender.sink().await)
        };
        assert!(send_all(&mut *sink, 0).await, "nobody else sends for this group");
    };
    let mut number = 1;
    let reads = async {
        loop {
            number += 1;
            let reader = process(&broker, number);
            reader.life.die_at(1 + random.below(60));
            let reading = read(&reader, &durable);
            tokio::pin!(reading);
            let ended = async {
                while reader.life.is_alive() {
                    sleep(Duration::from_millis(100)).await;
                    if random.one_in(200) {
                        reader.life.freeze(Duration::from_secs(random.below(40)));
                    }
                }
            };
            tokio::select! {
                biased;
                ended = &mut reading => {
                    let error = ended.expect_err("it never stops by itself");
                    let expected = [
                        matches!(error, ConnectorError::Unreachable { .. }),
                        matches!(error, ConnectorError::Owned { .. }),
                    ];
                    assert!(expected.contains(&true), "seed {seed}: {error}");
                    reader.life.kill();
                }
                () = ended => {}
            }
        }
    };
    tokio::select! {
        biased;
        () = sends => {}
        () = reads => {}
    }

    broker.faults(SimFaults::none());
    let last = process(&broker, 1_000_000);
    // Those before may have died within their sessions, and the broker may be away.
    while let Ok(Err(error)) = timeout(Duration::from_secs(900), read(&last, &durable)).await {
        let passes =
            matches!(error, ConnectorError::Unreachable { .. } | ConnectorError::Owned { .. });
        assert!(passes, "seed {seed}: {error}");
    }
    sleep(Duration::from_secs(900)).await;

    let judge = judge.lock().expect("no panic");
    assert!(judge.breaches.is_empty(), "seed {seed} of {kind:?}: {:#?}", judge.breaches);
    let all: BTreeSet<usize> = (0..ROUNDS * KEYS.len()).collect();
    let taken = &durable.lock().expect("no panic").taken;
    assert_eq!((&judge.confirmed, taken), (&all, &all), "seed {seed} of {kind:?}");
    let there = broker.messages("work").into_iter().filter(|kept| kept.fate == Fate::There);
    let there: BTreeSet<usize> = there.map(|kept| id_of(&kept.message)).collect();
    assert_eq!(there, all, "seed {seed} of {kind:?}");
    assert!(broker.unsettled().is_empty(), "seed {seed}: {:?}", broker.unsettled());
    assert_eq!(broker.waiting("work", "g"), 0, "seed {seed} of {kind:?}");
    broker.injected()
}

#[tokio::test(start_paused = true)]
async fn whatever_goes_wrong_nothing_is_lost_nor_out_of_order_nor_out_with_two() {
    let runs = std::env::var("DIRIGENT_SIM_RUNS").ok().and_then(|runs| runs.parse().ok());
    let mut injected = BTreeMap::<&str, u64>::new();
    for seed in 0..runs.unwrap_or(RUNS) {
        for settings in super::bench::both(seed) {
            for (fault, count) in run(settings).await {
                *injected.entry(fault).or_default() += count;
            }
        }
    }
    println!("{injected:?}");
    use crate::simulated::injected as name;
    for fault in [
        name::DOUBLED,
        name::LATE,
        name::CONFIRM_LOST,
        name::REFUSED,
        name::SINK_RESET,
        name::SOURCE_RESET,
        name::REORDERED,
        name::SLOW,
        name::PIECES,
        name::SILENT,
        name::AWAY,
        name::GAP,
        name::TAKEN_OVER,
    ] {
        assert!(injected.contains_key(fault), "no run met a fault `{fault}`: {injected:?}");
    }
}
