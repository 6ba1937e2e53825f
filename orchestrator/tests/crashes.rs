//! The engine on a disk that loses power at random moments: every order ends, every effect happens once, the counts add up.
//!
//! A seed decides everything the test decides: which orders, where the power goes, what the disk keeps of what was not synced.
//! Threads run as they like, so a seed makes a failure likely again rather than certain.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

mod support;

use dirigent::{
    engine::{Engine, EngineError, Snapshot},
    journal::{DiskFault, DiskOperation, SimDisk},
    store::{MemoryStore, Store},
};
use dirigent_connectors::{ChannelSpec, Connector, Message, Settle, memory::MemoryBroker, names};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};
use support::{Dice, LIMIT, Stranger, parts, reply, reply_to};

const ORDERS: u64 = 60;
const LIVES: u64 = 10;

/// What a participant that keeps its duties has done: at most once by key, and a compensation wins over what comes late.
#[derive(Default)]
struct Ledger {
    effects: BTreeMap<String, u32>,
    undone_first: BTreeSet<String>,
    replies: BTreeMap<String, Message>,
}

impl Ledger {
    fn carry_out(&mut self, command: &Message) -> Option<Message> {
        let of = |name: &str| command.attributes.get(name).unwrap().to_owned();
        let key = of(names::IDEMPOTENCY_KEY);
        let effect = format!("{} {}", command.key, of(names::TYPE));
        if self.undone_first.contains(&effect) {
            return None;
        }
        let known = self.replies.contains_key(&key);
        if !known {
            let answer = reply_to(command);
            if answer.attributes.get(names::TYPE) != Some("Refused") {
                if of(names::TYPE) == "Release" {
                    self.undone_first.insert(format!("{} Reserve", command.key));
                }
                *self.effects.entry(effect).or_default() += 1;
            }
            self.replies.insert(key.clone(), answer);
        }
        // The same answer as before, to the attempt that asks now.
        let before = &self.replies[&key];
        let name = before.attributes.get(names::TYPE).unwrap();
        Some(reply(command, name, before.body.to_vec()))
    }

    fn count(&self, order: u64, name: &str) -> u32 {
        self.effects.get(&format!("{order} {name}")).copied().unwrap_or_default()
    }
}

async fn participant(broker: MemoryBroker, ledger: Arc<Mutex<Ledger>>) {
    let mut worker = Stranger::listening(&broker, ChannelSpec::work("work"), "worker").await;
    loop {
        for delivery in worker.source.receive(64).await.unwrap() {
            let answer = ledger.lock().unwrap().carry_out(&delivery.message);
            if let Some(answer) = answer {
                worker.sink.send(&[answer]).await;
            }
            worker.source.settler().settle(&[(delivery.receipt, Settle::Done)]);
        }
    }
}

/// What outlives a process.
struct Machine {
    broker: MemoryBroker,
    disk: SimDisk,
    store: Arc<dyn Store>,
}

impl Machine {
    fn new() -> Self {
        Self {
            broker: MemoryBroker::new(),
            disk: SimDisk::new(),
            store: Arc::new(MemoryStore::new()),
        }
    }

    async fn start(&self) -> Result<Engine, EngineError> {
        let disk = Arc::new(self.disk.clone());
        Engine::start(parts(&self.broker, Arc::clone(&self.store), disk)).await
    }

    /// What is left now and then is harmless: a time that a checkpoint wrote and did not live to use.
    fn is_sound(&self) {
        let (store, disk) = (Arc::clone(&self.store), Arc::new(self.disk.clone()));
        let registry = parts(&self.broker, Arc::clone(&self.store), disk.clone()).registry;
        let found = dirigent::engine::fsck(store, disk, Some(&registry)).unwrap();
        assert!(found.is_clean(), "{:?}", found.findings);
    }

    /// One life of the process: it ends by a power cut, or in peace.
    async fn live(&self, dice: &mut Dice) {
        let kind = match dice.below(4) {
            0 => DiskOperation::Any,
            1 => DiskOperation::Write,
            2 => DiskOperation::Sync,
            _ => DiskOperation::SyncDir,
        };
        self.disk.fail(kind, 1 + dice.below(30), DiskFault::PowerCut);
        if let Ok(engine) = self.start().await {
            let moment = Duration::from_millis(20 + dice.below(200));
            let cut = tokio::time::timeout(moment, engine.failed()).await.is_ok();
            if !cut && dice.below(2) == 0 {
                self.disk.fail(DiskOperation::Any, 1, DiskFault::PowerCut);
            }
            // A process that lost its disk says so; the other one writes its checkpoint.
            drop(engine.stop().await);
        }
        self.disk.crash(dice.throw());
        self.is_sound();
    }
}

/// Everything that can be said once all is over.
async fn orders_survive(seed: u64) {
    let mut dice = Dice(seed);
    let machine = Machine::new();
    let broker = &machine.broker;
    broker.prepare(&[ChannelSpec::events("starts"), ChannelSpec::events("ends")]).await.unwrap();
    let mut customer = Stranger::listening(broker, ChannelSpec::events("ends"), "customer").await;
    // The orchestrator's group, so that starts are kept before it has ever run.
    drop(Stranger::listening(broker, ChannelSpec::events("starts"), "shop").await);
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let worker = tokio::spawn(participant(broker.clone(), Arc::clone(&ledger)));
    let amounts: Vec<u64> =
        (0..ORDERS).map(|_| if dice.below(4) == 0 { LIMIT + 1 } else { 5 }).collect();
    for life in 0..LIVES {
        for order in (life..ORDERS).step_by(LIVES as usize) {
            for _ in 0..=dice.below(2) {
                customer.begins(order, amounts[order as usize]).await;
            }
        }
        machine.live(&mut dice).await;
    }

    let engine = machine.start().await.unwrap();
    let mut ended: BTreeMap<String, String> = BTreeMap::new();
    while ended.len() < amounts.len() {
        let message = customer.next().await.message;
        let kind = message.attributes.get(names::TYPE).unwrap().to_owned();
        let before = ended.insert(message.key.clone(), kind.clone());
        assert!(before.is_none_or(|before| before == kind), "seed {seed}: order {}", message.key);
    }
    let handle = engine.handle();
    engine.stop().await.unwrap();
    worker.abort();
    happened_once(&ledger.lock().unwrap(), &amounts, &ended, seed);
    let kept = amounts.iter().filter(|amount| **amount <= LIMIT).count() as u64;
    let snapshot = handle.snapshot();
    adds_up(&snapshot, kept, seed);

    // What the next process finds is the same, and nothing is left to be sent.
    let engine = machine.start().await.unwrap();
    let again = engine.handle().snapshot();
    adds_up(&again, kept, seed);
    assert_eq!(again.confirmed, [again.sent], "seed {seed}");
    engine.stop().await.unwrap();
    let disk = Arc::new(machine.disk.clone());
    let audit = dirigent::engine::audit(Arc::clone(&machine.store), disk).unwrap();
    assert!(audit.is_clean(), "seed {seed}: {:?}", audit.gaps);
    machine.is_sound();
}

fn happened_once(ledger: &Ledger, amounts: &[u64], ended: &BTreeMap<String, String>, seed: u64) {
    for (order, amount) in (0..).zip(amounts) {
        let kept = *amount <= LIMIT;
        let done = ["Reserve", "Pay", "Release"].map(|name| ledger.count(order, name));
        assert_eq!(done, if kept { [1, 1, 0] } else { [1, 0, 1] }, "seed {seed}: order {order}");
        let told = if kept { "Finished" } else { "Broken" };
        assert_eq!(ended[&order.to_string()], told, "seed {seed}: order {order}");
    }
}

fn adds_up(snapshot: &Snapshot, kept: u64, seed: u64) {
    let ends = (snapshot.started, snapshot.completed, snapshot.compensated);
    assert_eq!(ends, (ORDERS, kept, ORDERS - kept), "seed {seed}");
    assert_eq!((snapshot.in_flight, snapshot.blocked), (0, 0), "seed {seed}");
    assert_eq!(snapshot.inputs.applied, 3 * kept + 4 * (ORDERS - kept), "seed {seed}");
    assert_eq!(snapshot.inputs.quarantined, 0, "seed {seed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_order_ends_and_every_effect_happens_once_though_the_power_goes_again_and_again() {
    let seeds = std::env::var("DIRIGENT_CRASH_SEEDS").ok();
    let count = seeds.and_then(|seeds| seeds.parse().ok()).unwrap_or(3);
    for seed in 1..=count {
        orders_survive(seed).await;
    }
}
