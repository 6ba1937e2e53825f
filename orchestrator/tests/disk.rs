//! The engine on a disk that is full, slow, or not the one it was: nothing leaves that is not durable, and it goes on where it may.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

mod support;

use dirigent::{
    engine::{Clock, Concern, Engine, EngineParts, Handle},
    journal::{Disk, DiskFile, Room, SimDisk},
    store::{DataFolder, MemoryStore, Store},
};
use dirigent_connectors::{ChannelSpec, Connector, memory::MemoryBroker, names};
use dirigent_model::message::Message as _;
use std::{
    io,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use support::{Reserve, Stranger, clock::ByHand, orchestrator, parts};

/// More than the journal's small segments hold without a new one.
const ORDERS: u64 = 200;

struct Shop {
    broker: MemoryBroker,
    store: Arc<dyn Store>,
}

impl Shop {
    fn new() -> Self {
        Self { broker: MemoryBroker::new(), store: Arc::new(MemoryStore::new()) }
    }

    fn parts(&self, disk: impl Disk + 'static) -> EngineParts {
        parts(&self.broker, Arc::clone(&self.store), Arc::new(disk))
    }

    async fn customer(&self) -> Stranger {
        self.broker
            .prepare(&[ChannelSpec::events("starts"), ChannelSpec::events("ends")])
            .await
            .unwrap();
        Stranger::listening(&self.broker, ChannelSpec::events("ends"), "customer").await
    }

    async fn worker(&self) -> tokio::task::JoinHandle<()> {
        let work = ChannelSpec::work("work");
        tokio::spawn(Stranger::listening(&self.broker, work, "worker").await.answers())
    }
}

/// Waits until the engine says something of the kind, and answers what.
async fn says(handle: &Handle, what: impl Fn(&Concern) -> bool) -> Concern {
    for _ in 0..2_000 {
        if let Some(concern) = handle.concerns().into_iter().find(&what) {
            return concern;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not said within 20 s: {:?}", handle.concerns());
}

async fn is_well(handle: &Handle) {
    for _ in 0..2_000 {
        if handle.concerns().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not well within 20 s: {:?}", handle.concerns());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_holds_everything_back_and_it_goes_on_once_there_is_room() {
    let (shop, disk) = (Shop::new(), SimDisk::new());
    let mut customer = shop.customer().await;
    let engine = Engine::start(shop.parts(disk.clone())).await.unwrap();
    let handle = engine.handle();
    let worker = shop.worker().await;
    disk.leave(1_000);
    for order in 0..ORDERS {
        customer.begins(order, 5).await;
    }
    let full = says(&handle, |concern| matches!(concern, Concern::DiskFull { .. })).await;
    assert_eq!(full, Concern::DiskFull { wanted_bytes: 32 * 1024 });
    // Whatever has ended by now was durable before it left.
    let ended = handle.snapshot().completed;
    assert!(ended < ORDERS, "the segment was to be too small for all of them");
    disk.leave(10_000_000);
    for _ in 0..ORDERS {
        customer.next().await;
    }
    is_well(&handle).await;
    worker.abort();
    engine.stop().await.unwrap();
    let snapshot = handle.snapshot();
    assert_eq!((snapshot.started, snapshot.completed), (ORDERS, ORDERS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_on_a_full_disk_it_says_so_and_what_was_not_durable_comes_again() {
    let (shop, disk) = (Shop::new(), SimDisk::new());
    let mut customer = shop.customer().await;
    let engine = Engine::start(shop.parts(disk.clone())).await.unwrap();
    let worker = shop.worker().await;
    disk.leave(1_000);
    for order in 0..ORDERS {
        customer.begins(order, 5).await;
    }
    says(&engine.handle(), |concern| matches!(concern, Concern::DiskFull { .. })).await;
    let error = engine.stop().await.expect_err("something could not be written");
    assert!(dirigent::describe(&error).contains("make room first"), "{error}");
    disk.crash(7);
    disk.leave(10_000_000);
    let engine = Engine::start(shop.parts(disk)).await.unwrap();
    let handle = engine.handle();
    for _ in 0..2_000 {
        if handle.snapshot().completed == ORDERS {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(handle.snapshot().completed, ORDERS);
    worker.abort();
    engine.stop().await.unwrap();
    assert_eq!(handle.snapshot().started, ORDERS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_its_headroom_nothing_is_taken_in_and_the_ballast_is_given_up_last() {
    let (shop, disk) = (Shop::new(), SimDisk::new());
    let mut customer = shop.customer().await;
    let ballast = || disk.list().unwrap().iter().any(|(name, _)| name == "ballast");
    disk.leave(20_000_000);
    let parts = EngineParts { headroom_bytes: 1_000_000, ..shop.parts(disk.clone()) };
    let engine = Engine::start(parts).await.unwrap();
    let handle = engine.handle();
    let worker = shop.worker().await;
    customer.begins(0, 5).await;
    customer.next().await;
    while !ballast() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    disk.leave(600_000);
    let low = says(&handle, |concern| matches!(concern, Concern::DiskLow { .. })).await;
    assert!(matches!(low, Concern::DiskLow { free_bytes, .. } if free_bytes <= 600_000), "{low}");
    // What is fetched from now on is held as well.
    let before = handle.snapshot().started;
    for order in 1..=ORDERS {
        customer.begins(order, 5).await;
    }
    assert_eq!(handle.snapshot().started, before, "taken in on a disk that is low");
    assert!(ballast());
    disk.leave(10_000);
    while ballast() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!handle.concerns().is_empty(), "what the ballast held is for what was begun");
    disk.leave(20_000_000);
    for _ in 1..=ORDERS {
        customer.next().await;
    }
    is_well(&handle).await;
    assert!(ballast());
    worker.abort();
    engine.stop().await.unwrap();
    assert!(!ballast(), "at rest nobody needs it");
}

/// A disk whose syncs wait while it is told to hold them.
#[derive(Debug, Clone, Default)]
struct HeldDisk {
    disk: SimDisk,
    held: Arc<(Mutex<bool>, Condvar)>,
    /// Syncs that wait now.
    waiting: Arc<AtomicUsize>,
}

impl HeldDisk {
    /// Waits until a sync hangs.
    async fn hangs(&self) {
        for _ in 0..2_000 {
            if self.waiting.load(Ordering::Acquire) > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("nothing was synced within 20 s");
    }

    fn hold(&self, held: bool) {
        *self.held.0.lock().unwrap() = held;
        self.held.1.notify_all();
    }
}

#[derive(Debug)]
struct HeldFile(Box<dyn DiskFile>, HeldDisk);

impl DiskFile for HeldFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        self.0.read()
    }

    fn let_go(&self) -> io::Result<()> {
        self.0.let_go()
    }

    fn sync_data(&self) -> io::Result<()> {
        let held = self.1.held.0.lock().unwrap();
        self.1.waiting.fetch_add(1, Ordering::AcqRel);
        drop(self.1.held.1.wait_while(held, |held| *held).unwrap());
        self.1.waiting.fetch_sub(1, Ordering::AcqRel);
        self.0.sync_data()
    }
}

impl Disk for HeldDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.disk.list()
    }

    fn create_preallocated(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(HeldFile(self.disk.create_preallocated(name, bytes)?, self.clone())))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(HeldFile(self.disk.open(name)?, self.clone())))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }

    fn room(&self) -> io::Result<Option<Room>> {
        self.disk.room()
    }

    fn reserve(&self, name: &str, bytes: u64) -> io::Result<()> {
        self.disk.reserve(name, bytes)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_sync_hangs_nothing_leaves_and_no_more_is_taken_in_than_the_bounds_allow() {
    let (shop, disk) = (Shop::new(), HeldDisk::default());
    let mut customer = shop.customer().await;
    let engine = Engine::start(shop.parts(disk.clone())).await.unwrap();
    let handle = engine.handle();
    let mut worker = Stranger::listening(&shop.broker, ChannelSpec::work("work"), "worker").await;
    disk.hold(true);
    for order in 0..ORDERS {
        customer.begins(order, 5).await;
    }
    let nothing = tokio::time::timeout(Duration::from_millis(300), worker.source.receive(1)).await;
    assert!(nothing.is_err(), "a command left before its group was durable");
    assert_eq!(handle.snapshot().started, 0);
    disk.hold(false);
    let worker = tokio::spawn(worker.answers());
    for _ in 0..ORDERS {
        customer.next().await;
    }
    worker.abort();
    engine.stop().await.unwrap();
    assert_eq!(handle.snapshot().completed, ORDERS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_comes_while_the_former_saga_of_its_key_is_being_forgotten_begins_another_one()
{
    let (shop, disk, clock) = (Shop::new(), HeldDisk::default(), ByHand::new());
    let mut customer = shop.customer().await;
    let parts = EngineParts { clock: clock.clone(), ..shop.parts(disk.clone()) };
    let engine = Engine::start(parts).await.unwrap();
    let handle = engine.handle();
    let worker = shop.worker().await;
    customer.begins(1, 5).await;
    customer.next().await;
    let until = async |holds: &dyn Fn() -> bool| {
        for _ in 0..2_000 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it did not come about within 20 s: {:?}", handle.snapshot());
    };
    // Everything is confirmed, and a further group has written that down: from here on only the end of the retention
    // makes the journal sync.
    until(&|| handle.snapshot().confirmed == [handle.snapshot().sent]).await;
    customer.begins(1, 5).await;
    until(&|| handle.snapshot().inputs.duplicate == 1).await;
    let id = handle.id("purchase", "1");
    let kept_until = handle.show(id).unwrap().unwrap().kept_until.unwrap();
    disk.hold(true);
    clock.passes(kept_until.since(clock.now()));
    disk.hangs().await;
    customer.begins(1, 5).await;
    until(&|| shop.broker.waiting("starts") == 0).await;
    disk.hold(false);
    customer.next().await;
    worker.abort();
    engine.stop().await.unwrap();
    let snapshot = handle.snapshot();
    assert_eq!((snapshot.started, snapshot.completed, snapshot.inputs.duplicate), (2, 2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_is_gone_is_not_taken_for_a_new_one() {
    let (shop, disk) = (Shop::new(), SimDisk::new());
    let engine = Engine::start(shop.parts(disk.clone())).await.unwrap();
    engine.stop().await.unwrap();
    for (name, _) in disk.list().unwrap() {
        disk.remove(&name).unwrap();
    }
    let error = Engine::start(shop.parts(disk.clone())).await.err().expect("its files are gone");
    assert!(dirigent::describe(&error).contains("a journal that is gone"), "{error}");
    assert_eq!(disk.list().unwrap(), [], "nothing was changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_nothing_gets_durable_no_time_for_a_reply_counts() {
    const ORDERS: u64 = 20;
    let (shop, disk, clock) = (Shop::new(), HeldDisk::default(), ByHand::new());
    let mut customer = shop.customer().await;
    let parts = EngineParts { clock: Arc::clone(&clock) as _, ..shop.parts(disk.clone()) };
    let engine = Engine::start(parts).await.unwrap();
    let work = ChannelSpec::work("work");
    let mut work = Stranger::listening(&shop.broker, work, "worker").await;
    // Half of the commands have left, half of them are decided while the disk does not answer.
    let mut asked = Vec::new();
    for order in 0..ORDERS / 2 {
        customer.begins(order, 5).await;
        asked.push(work.next().await.message);
    }
    disk.hold(true);
    for order in ORDERS / 2..ORDERS {
        customer.begins(order, 5).await;
    }
    // Several times what it takes until nothing counts as heard.
    tokio::time::sleep(Duration::from_secs(5)).await;
    clock.passes(Duration::from_secs(3_600));
    disk.hold(false);
    for _ in ORDERS / 2..ORDERS {
        asked.push(work.next().await.message);
    }
    // Less than the time that each of them has now, and more than what a retry rests.
    for _ in 0..20 {
        clock.passes(Duration::from_millis(10));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let more = tokio::time::timeout(Duration::from_millis(100), work.source.receive(1)).await;
    assert!(more.is_err(), "asked again: {more:?}");
    let attempt = dirigent::envelope::SAGA_ATTEMPT;
    for command in &asked {
        assert_eq!(command.attributes.get(names::TYPE), Some(Reserve::NAME));
        assert_eq!(command.attributes.get(attempt), Some("1"), "{}", command.key);
    }
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ballast_of_a_killed_process_is_given_up_before_the_store_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let ballast = folder.path().join("journal/ballast");
    drop(DataFolder::open(folder.path()).unwrap());
    std::fs::write(&ballast, [0; 4_096]).unwrap();
    // Something keeps the store from being opened, as a full disk does.
    std::fs::create_dir_all(folder.path().join("store/db")).unwrap();
    let started = orchestrator(&MemoryBroker::new()).data(folder.path()).start().await;
    let error = dirigent::describe(&started.err().unwrap());
    assert!(error.contains("store"), "{error}");
    assert!(!ballast.exists(), "its room may be what the store lacks");
}
