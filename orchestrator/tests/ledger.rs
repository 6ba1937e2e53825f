//! The ledger of messages: whatever comes in, in whatever order, and wherever the power goes, the accounts balance.
//!
//! `DIRIGENT_CRASH_SEEDS=200 cargo test -p dirigent --test ledger` tries more; a failure names its seed.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

mod support;

use dirigent::{
    cli::{AuditArgs, FolderArgs, Verb},
    engine::{
        Audit, Decision, Engine, EngineError, EngineParts, Handle, KeptFilter, audit,
        audit_at_rest, fsck,
    },
    journal::{DiskFault, DiskOperation, SimDisk},
    registry::Registry,
    store::{Change, DataFolder, MemoryStore, SledStore, Space, Store, StoreOptions},
};
use dirigent_connectors::{ChannelSpec, Connector, Message, memory::MemoryBroker};
use std::{
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use support::{
    Dice, Stranger, event,
    invoices::{MENDED, UNLUCKY, invoice, other, payment},
    orchestrator, parts, start_event,
};

const LIVES: u64 = 6;
const MESSAGES: u64 = 60;

/// What outlives a process.
struct Machine {
    broker: MemoryBroker,
    disk: SimDisk,
    store: Arc<dyn Store>,
}

impl Machine {
    async fn start(&self) -> Result<Engine, EngineError> {
        let plans = vec![invoice("invoice").unwrap().plan(), other().unwrap().plan()];
        let disk = Arc::new(self.disk.clone());
        let parts = EngineParts {
            registry: Registry::new(plans).unwrap(),
            parked_for: Duration::from_millis(150),
            ..parts(&self.broker, Arc::clone(&self.store), disk)
        };
        Engine::start(parts).await
    }

    fn audit(&self, seed: u64) -> Audit {
        let audit = audit(Arc::clone(&self.store), Arc::new(self.disk.clone())).unwrap();
        assert!(audit.is_clean(), "seed {seed}: {:?}", audit.gaps);
        let disk = Arc::new(self.disk.clone());
        let found = fsck(Arc::clone(&self.store), disk, None).unwrap();
        assert!(found.is_clean(), "seed {seed}: {:?}", found.findings);
        audit
    }
}

impl Dice {
    /// Starts, events that come too soon, twice, for two sagas, that make a function panic, and what nobody can read.
    fn message(&mut self) -> Message {
        let id = self.below(15);
        let amount = if self.below(6) == 0 { UNLUCKY } else { 1 + self.below(3) };
        match self.below(10) {
            0..3 => start_event(id, amount),
            3..8 => payment(id, amount),
            8 => {
                let body = format!("{{\"id\":{id}}}").into_bytes();
                event("starts", "Opened", &format!("opened-{id}"), &id.to_string(), body)
            }
            _ => event("starts", "Begun", &format!("bad-{id}"), "1", b"{".to_vec()),
        }
    }
}

/// An operator decides about what is quarantined, in any order; what the end of a process leaves undecided stays so.
async fn decides(handle: &Handle, dice: &mut Dice) -> usize {
    let kept = handle.reader().kept(&KeptFilter { quarantined: true, ..KeptFilter::default() });
    for message in &kept {
        let decision = if dice.below(2) == 0 { Decision::Replay } else { Decision::Discard };
        let (handle, number) = (handle.clone(), message.number);
        let work = move || handle.decide(number, decision, "ann", "by chance").is_ok();
        tokio::task::spawn_blocking(work).await.unwrap();
    }
    kept.len()
}

/// Lives of a process on one disk. Says whether something was parked, and something quarantined, when one of them ended.
async fn balances(seed: u64) -> (bool, bool) {
    let mut dice = Dice(seed);
    let machine = Machine {
        broker: MemoryBroker::new(),
        disk: SimDisk::new(),
        store: Arc::new(MemoryStore::new()),
    };
    let broker = &machine.broker;
    let channels = [ChannelSpec::events("starts"), ChannelSpec::events("ends")];
    broker.prepare(&channels).await.unwrap();
    drop(Stranger::listening(broker, ChannelSpec::events("starts"), "shop").await);
    let mut stranger = Stranger::listening(broker, ChannelSpec::events("ends"), "customer").await;
    let (mut parked, mut quarantined) = (false, false);
    for _ in 0..LIVES {
        let kind = [DiskOperation::Any, DiskOperation::Write, DiskOperation::Sync];
        let kind = kind[usize::try_from(dice.below(3)).unwrap()];
        machine.disk.fail(kind, 1 + dice.below(40), DiskFault::PowerCut);
        if let Ok(engine) = machine.start().await {
            let handle = engine.handle();
            for _ in 0..MESSAGES {
                stranger.sends(dice.message()).await;
            }
            let moment = Duration::from_millis(20 + dice.below(100));
            drop(tokio::time::timeout(moment, engine.failed()).await);
            decides(&handle, &mut dice).await;
            if dice.below(2) == 0 {
                machine.disk.fail(DiskOperation::Any, 1, DiskFault::PowerCut);
            }
            drop(engine.stop().await);
        }
        machine.disk.crash(dice.throw());
        let audit = machine.audit(seed);
        parked |= audit.partitions.iter().any(|partition| partition.kept_parked > 0);
        quarantined |= audit.partitions.iter().any(|partition| partition.kept_quarantined > 0);
    }
    // In the end somebody mends the sagas, and decides about everything.
    MENDED.store(true, Ordering::SeqCst);
    let engine = machine.start().await.unwrap();
    let handle = engine.handle();
    // What was parked before, and is looked at while this process hears nothing yet, is looked at again after half a minute at the earliest.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(150);
    loop {
        let left = decides(&handle, &mut dice).await;
        let kept = handle.reader().kept(&KeptFilter::default());
        if left == 0 && kept.is_empty() {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "seed {seed}: {left} and {kept:?} left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    engine.stop().await.unwrap();
    MENDED.store(false, Ordering::SeqCst);
    let audit = machine.audit(seed);
    for partition in &audit.partitions {
        assert_eq!((partition.kept_parked, partition.kept_quarantined), (0, 0), "seed {seed}");
        assert_eq!(partition.consumed, partition.counts.consumed(), "seed {seed}");
    }
    (parked, quarantined)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_accounts_balance_whatever_comes_in_and_wherever_the_power_goes() {
    let seeds = std::env::var("DIRIGENT_CRASH_SEEDS").ok();
    let count = seeds.and_then(|seeds| seeds.parse().ok()).unwrap_or(3);
    let (mut parked, mut quarantined) = (false, false);
    for seed in 1..=count {
        let seen = balances(seed).await;
        parked |= seen.0;
        quarantined |= seen.1;
    }
    assert!(parked && quarantined, "the lives met neither: {parked} {quarantined}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_message_that_is_lost_is_a_gap_with_its_place_and_the_exit_code_1() {
    let folder = tempfile::tempdir().unwrap();
    let broker = MemoryBroker::new();
    let channels = [ChannelSpec::events("starts"), ChannelSpec::events("ends")];
    broker.prepare(&channels).await.unwrap();
    let sagas = || orchestrator(&broker).saga(invoice("invoice")).data(folder.path());
    let engine = sagas().start().await.unwrap();
    let mut stranger = Stranger::listening(&broker, ChannelSpec::events("ends"), "customer").await;
    stranger.sends(payment(1, 7)).await;
    let handle = engine.handle();
    while handle.snapshot().inputs.parked == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let number = handle.reader().kept(&KeptFilter::default())[0].number;
    drop(handle);
    engine.stop().await.unwrap();
    assert!(audit_at_rest(folder.path()).unwrap().is_clean());
    assert_eq!(audits(folder.path()).await, format!("{:?}", ExitCode::SUCCESS));
    {
        let opened = DataFolder::open(folder.path()).unwrap();
        let store = SledStore::open(&opened, StoreOptions::default()).unwrap();
        store.write(&[Change::remove(Space::Kept, number.to_be_bytes())]).unwrap();
        store.sync().unwrap();
    }
    let audit = audit_at_rest(folder.path()).unwrap();
    assert_eq!(
        audit.gaps,
        ["starts, partition 0: 1 are counted as parked, but 0 are kept so (1 missing on one side)"]
    );
    assert_eq!(audits(folder.path()).await, format!("{:?}", ExitCode::FAILURE));
}

async fn audits(folder: &std::path::Path) -> String {
    let folder = FolderArgs { data: Some(folder.into()), ..FolderArgs::default() };
    let verb = Verb::Audit(AuditArgs { folder, json: false });
    let code = dirigent::cli("shop").saga(invoice("invoice")).execute(verb).await;
    format!("{code:?}")
}
