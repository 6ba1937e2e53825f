//! The check of a store at rest: each kind of harm is done on purpose, found, mended by the plan, and the engine starts on it again.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

mod support;

use dirigent::{
    engine::{self, Engine, EngineParts},
    journal::{Disk, SimDisk},
    registry::Registry,
    store::{
        ALL_KEYS, Change, Fsck, KeyRange, MemoryStore, Page, RepairError, RepairPlan, Severity,
        Space, Store, StoreError,
    },
};
use dirigent_connectors::{ChannelSpec, Connector, memory::MemoryBroker};
use dirigent_model::instance::{Core, Instance, NodeState};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};
use support::{
    Stranger,
    clock::ByHand,
    invoices::{UNLUCKY, invoice, payment},
    parts, purchase, until,
};

/// A store in memory whose records can be damaged.
#[derive(Default)]
struct Bent {
    inner: MemoryStore,
    damaged: Mutex<BTreeSet<(Space, Vec<u8>)>>,
}

impl Bent {
    fn is_damaged(&self, space: Space, key: &[u8]) -> bool {
        self.damaged.lock().unwrap().contains(&(space, key.to_vec()))
    }

    fn damage(&self, space: Space, key: &[u8]) {
        self.damaged.lock().unwrap().insert((space, key.to_vec()));
    }

    fn records(&self, space: Space) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.inner.scan(space, ALL_KEYS, usize::MAX).unwrap().records
    }

    fn copy(&self) -> Self {
        let copy = Self::default();
        for space in Space::ALL {
            let records = self.records(space).into_iter();
            let changes: Vec<_> =
                records.map(|(key, value)| Change::put(space, key, value)).collect();
            copy.inner.write(&changes).unwrap();
        }
        copy
    }
}

impl Store for Bent {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.is_damaged(space, key) {
            true => Err(StoreError::Corrupt { space, key: key.to_vec() }),
            false => self.inner.get(space, key),
        }
    }

    fn write(&self, changes: &[Change]) -> Result<(), StoreError> {
        let mut damaged = self.damaged.lock().unwrap();
        for change in changes {
            damaged.remove(&(change.space, change.key.clone()));
        }
        self.inner.write(changes)
    }

    fn scan(&self, space: Space, range: KeyRange<'_>, limit: usize) -> Result<Page, StoreError> {
        let mut page = self.inner.scan(space, range, limit)?;
        let (sound, damaged): (Vec<_>, Vec<_>) =
            page.records.into_iter().partition(|(key, _)| !self.is_damaged(space, key));
        page.records = sound;
        page.damaged = damaged.into_iter().map(|(key, _)| key).collect();
        Ok(page)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.inner.sync()
    }

    fn remains(&self, space: Space, key: &[u8]) -> Result<Vec<u8>, StoreError> {
        Ok(self.inner.get(space, key)?.unwrap_or_default())
    }
}

/// A process that was stopped, and what it left.
struct Left {
    broker: MemoryBroker,
    store: Arc<Bent>,
    disk: SimDisk,
    clock: Arc<ByHand>,
}

fn registry() -> Registry {
    Registry::new(vec![purchase(1).unwrap().plan(), invoice("invoice").unwrap().plan()]).unwrap()
}

fn copy_of(disk: &SimDisk) -> SimDisk {
    let copy = SimDisk::new();
    for (name, bytes) in disk.list().unwrap() {
        let content = disk.open(&name).unwrap().read().unwrap();
        let file = copy.create_preallocated(&name, bytes).unwrap();
        file.write_at(0, &content).unwrap();
        file.sync_data().unwrap();
    }
    copy.sync_dir().unwrap();
    copy
}

impl Left {
    /// What one life of a process leaves: a purchase that has ended, two invoices that wait, one of them behind a message that its
    /// function could not take, and a payment for an invoice that is not there.
    async fn behind() -> Self {
        let broker = MemoryBroker::new();
        let channels = [ChannelSpec::events("starts"), ChannelSpec::events("ends")];
        broker.prepare(&channels).await.unwrap();
        let mut customer = Stranger::listening(&broker, ChannelSpec::events("ends"), "them").await;
        drop(Stranger::listening(&broker, ChannelSpec::events("starts"), "shop").await);
        let left =
            Self { broker, store: Arc::default(), disk: SimDisk::new(), clock: ByHand::new() };
        let engine = left.starts().await;
        let worker = Stranger::listening(&left.broker, ChannelSpec::work("work"), "worker").await;
        let worker = tokio::spawn(worker.answers());
        for id in [1, 2] {
            customer.begins(id, 5).await;
        }
        for message in [payment(1, UNLUCKY), payment(1, 7), payment(99, 7)] {
            customer.sends(message).await;
        }
        let handle = engine.handle();
        until(|| {
            let now = handle.snapshot();
            (now.completed, now.inputs.parked, now.inputs.quarantined) == (2, 2, 1)
        })
        .await;
        drop(handle);
        engine.stop().await.unwrap();
        worker.abort();
        left
    }

    /// The same, to be harmed.
    fn copy(&self) -> Self {
        Self {
            broker: self.broker.clone(),
            store: Arc::new(self.store.copy()),
            disk: copy_of(&self.disk),
            clock: Arc::clone(&self.clock),
        }
    }

    fn parts(&self) -> EngineParts {
        let store: Arc<dyn Store> = self.store.clone();
        let parts = parts(&self.broker, store, Arc::new(self.disk.clone()));
        EngineParts { registry: registry(), clock: self.clock.clone(), ..parts }
    }

    async fn starts(&self) -> Engine {
        Engine::start(self.parts()).await.unwrap()
    }

    fn checked(&self) -> Fsck {
        let store: Arc<dyn Store> = self.store.clone();
        engine::fsck(store, Arc::new(self.disk.clone()), Some(&registry())).unwrap()
    }

    fn repaired(&self, plan: &RepairPlan, kept: &mut Vec<Vec<u8>>) -> Result<Fsck, RepairError> {
        let store: Arc<dyn Store> = self.store.clone();
        let disk = Arc::new(self.disk.clone());
        let mut keep = |_: Space, _: &[u8], bytes: &[u8]| {
            kept.push(bytes.to_vec());
            Ok(())
        };
        engine::repair(store, disk, Some(&registry()), plan, &mut keep)
    }

    fn put(&self, space: Space, key: &[u8], value: impl Into<Vec<u8>>) {
        self.store.write(&[Change::put(space, key, value)]).unwrap();
    }

    fn remove(&self, space: Space, key: &[u8]) {
        self.store.write(&[Change::remove(space, key)]).unwrap();
    }

    /// The record of an instance: a live one, or one that has ended.
    fn record(&self, ended: bool) -> (Vec<u8>, Record) {
        let records = self.store.records(Space::Instances).into_iter();
        let mut records = records.map(|(key, value)| (key, Record::read(&value)));
        records.find(|(_, record)| record.ended == ended).unwrap()
    }

    fn timers(&self, bytes: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let timers = self.store.records(Space::Timers).into_iter();
        timers.filter(|(key, _)| key.len() == bytes).collect()
    }

    /// Rewrites a live instance.
    fn changes(&self, change: impl FnOnce(&mut Record)) {
        let (key, mut record) = self.record(false);
        change(&mut record);
        self.put(Space::Instances, &key, record.write());
    }
}

/// The record of an instance, byte for byte.
struct Record {
    due: u64,
    seq: u64,
    ended: bool,
    state: Vec<u8>,
    history: Vec<u8>,
}

impl Record {
    fn read(value: &[u8]) -> Self {
        let number = |at: usize| u64::from_be_bytes(value[at..at + 8].try_into().unwrap());
        let length = u32::from_be_bytes(value[17..21].try_into().unwrap()) as usize;
        let (state, history) = value[21..].split_at(length);
        let (state, history) = (state.to_vec(), history.to_vec());
        Self { due: number(0), seq: number(8), ended: value[16] == 1, state, history }
    }

    fn write(&self) -> Vec<u8> {
        let length = u32::try_from(self.state.len()).unwrap().to_be_bytes();
        let numbers = [self.due.to_be_bytes(), self.seq.to_be_bytes()].concat();
        [&numbers[..], &[u8::from(self.ended)], &length, &self.state, &self.history].concat()
    }

    fn changes(&mut self, change: impl FnOnce(&mut Core)) {
        let (mut core, json) = Instance::peek(&self.state).unwrap();
        change(&mut core);
        self.state = [&[self.state[0]], &postcard::to_stdvec(&core).unwrap()[..], json].concat();
    }
}

/// Does harm, and sees it found: as this, and with this weight.
fn harm(left: &Left, kind: &str, severity: Severity, what: impl FnOnce(&Left)) -> Left {
    let harmed = left.copy();
    what(&harmed);
    let found = harmed.checked();
    let told: Vec<_> = found.findings.iter().map(|it| (it.kind, &it.place, &it.what)).collect();
    let finding = found.findings.iter().find(|finding| finding.kind == kind);
    let finding = finding.unwrap_or_else(|| panic!("{kind} was not found, but {told:?}"));
    assert_eq!(finding.severity, severity, "{finding:?}");
    assert!(!finding.what.is_empty() && !finding.means.is_empty() && !finding.advice.is_empty());
    assert_eq!(found.is_clean(), found.harmful().next().is_none(), "{told:?}");
    harmed
}

/// The same, and that its plan mends it: a second check finds nothing, and the engine starts and stops on it. Answers what was kept.
async fn mended(
    left: &Left,
    kind: &str,
    severity: Severity,
    what: impl FnOnce(&Left),
) -> Vec<Vec<u8>> {
    let harmed = harm(left, kind, severity, what);
    let found = harmed.checked();
    assert!(found.findings.iter().all(|finding| finding.repairable), "{:?}", found.findings);
    let (plan, mut kept) = (found.plan(), Vec::new());
    let again = harmed.repaired(&plan, &mut kept).unwrap();
    assert!(again.findings.is_empty(), "{kind}: {:?}", again.findings);
    harmed.starts().await.stop().await.unwrap();
    let last = harmed.checked();
    assert!(last.findings.is_empty(), "{kind}, after a life: {:?}", last.findings);
    // What was made for another state is refused.
    let stale = harmed.repaired(&plan, &mut Vec::new());
    assert!(matches!(stale, Err(RepairError::Stale { .. })), "{kind}: {stale:?}");
    kept
}

use Severity::{Harmful, Harmless};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_a_process_left_in_peace_has_no_finding() {
    let left = Left::behind().await;
    let found = left.checked();
    assert!(found.findings.is_empty(), "{:?}", found.findings);
    assert_eq!((found.looked_at["live"], found.looked_at["ended"]), (2, 2));
    assert_eq!((found.looked_at["kept messages"], found.looked_at["due times"]), (3, 3));
    assert!(found.plan().repairs.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_due_time_that_is_missing_left_over_or_unreadable_is_found_and_mended() {
    let left = Left::behind().await;
    let timer = left.timers(24).remove(0).0;
    let bundle = left.timers(32).remove(0);
    mended(&left, "due-time-missing", Harmful, |left| left.remove(Space::Timers, &timer)).await;
    mended(&left, "retention-missing", Harmful, |left| left.remove(Space::Timers, &bundle.0)).await;
    let nobody = [&timer[..8], &[7; 16]].concat();
    let kept = mended(&left, "due-time-left-over", Harmless, |left| {
        left.put(Space::Timers, &nobody, []);
    })
    .await;
    assert!(kept.is_empty(), "nothing is in it that could be kept");
    mended(&left, "due-time-unreadable", Harmful, |left| left.store.damage(Space::Timers, &timer))
        .await;
    let kept = mended(&left, "due-time-unreadable", Harmful, |left| {
        left.store.damage(Space::Timers, &bundle.0);
    })
    .await;
    assert_eq!(kept, [bundle.1]);
    mended(&left, "due-time-strange", Harmless, |left| left.put(Space::Timers, b"odd", [])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_of_an_instance_that_is_damaged_or_says_something_else_is_found_and_mended() {
    let left = Left::behind().await;
    let (key, record) = left.record(true);
    // Of one that has ended nothing is lost but the memory of it.
    let kept = mended(&left, "instance-unreadable", Harmful, |left| {
        left.store.damage(Space::Instances, &key);
    })
    .await;
    assert_eq!(kept, [record.write()]);
    mended(&left, "instance-unreadable", Harmful, |left| {
        left.put(Space::Instances, &key, &record.write()[..10]);
    })
    .await;
    mended(&left, "instance-key-strange", Harmless, |left| {
        left.put(Space::Instances, b"odd", []);
    })
    .await;
    mended(&left, "record-differs", Harmful, |left| left.changes(|record| record.due += 1)).await;
    mended(&left, "record-differs", Harmful, |left| left.changes(|record| record.ended = true))
        .await;
    // A live one is lost with its record; that is said, and the tally no longer speaks of it.
    let live = left.store.records(Space::Instances).into_iter().find(|(key, value)| {
        let kept = left.store.records(Space::Kept);
        !Record::read(value).ended && !kept.iter().any(|(_, it)| it.windows(16).any(|id| id == key))
    });
    let (key, value) = live.unwrap();
    let harmed = harm(&left, "tally-differs", Harmful, |left| {
        left.store.damage(Space::Instances, &key);
    });
    let plan = harmed.checked().plan();
    assert!(
        plan.repairs
            .iter()
            .any(|repair| repair.loses.contains("neither completed nor compensated"))
    );
    let kept = mended(&left, "instance-unreadable", Harmful, |left| {
        left.store.damage(Space::Instances, &key);
    })
    .await;
    assert_eq!(kept, [value]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_could_not_go_on_is_found_with_what_to_do() {
    let left = Left::behind().await;
    harm(&left, "instance-newer", Harmful, |left| left.changes(|record| record.state[0] += 1));
    harm(&left, "instance-without-exit", Harmful, |left| {
        left.changes(|record| {
            record.due = 0;
            record.changes(|core| core.nodes.fill(NodeState::Idle));
        });
    });
    harm(&left, "definition-missing", Harmful, |left| {
        left.changes(|record| record.changes(|core| core.version += 1));
    });
    harm(&left, "definition-missing", Harmful, |left| {
        left.changes(|record| record.changes(|core| core.fingerprint.0 += 1));
    });
    harm(&left, "instance-strange", Harmful, |left| {
        left.changes(|record| {
            record.changes(|core| {
                let waits = |node: &&mut NodeState| matches!(node, NodeState::Waiting { .. });
                let idle = core.nodes.iter_mut().find(|node| !waits(node));
                *idle.unwrap() = NodeState::InDoubt;
            });
        });
    });
    harm(&left, "instance-strange", Harmful, |left| {
        left.changes(|record| {
            let cut = record.state.len() - 1;
            record.state.truncate(cut);
        });
    });
    harm(&left, "instance-under-another-key", Harmful, |left| {
        let (_, record) = left.record(true);
        left.put(Space::Instances, &[7; 16], record.write());
    });
    harm(&left, "instance-ahead-of-the-journal", Harmful, |left| {
        left.changes(|record| record.seq += 1_000);
    });
    harm(&left, "bound-exceeded", Harmful, |left| {
        left.changes(|record| {
            record.changes(|core| core.events_taken.resize(100, uuid::Uuid::nil()));
        });
    });
    harm(&left, "history-unreadable", Harmless, |left| {
        left.changes(|record| record.history.push(0xff));
        left.changes(|record| record.history.truncate(3));
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_messages_that_are_lost_left_behind_or_overtaken_are_found() {
    let left = Left::behind().await;
    let kept = left.store.records(Space::Kept);
    let holds =
        |value: &[u8], text: &str| value.windows(text.len()).any(|it| it == text.as_bytes());
    let blocking = kept.iter().find(|(_, value)| holds(value, "this amount is unlucky")).unwrap();
    let lost = mended(&left, "kept-message-unreadable", Harmful, |left| {
        left.store.damage(Space::Kept, &kept.last().unwrap().0);
    })
    .await;
    assert_eq!(lost, [kept.last().unwrap().1.clone()]);
    mended(&left, "kept-messages-differ", Harmful, |left| {
        left.remove(Space::Kept, &kept.last().unwrap().0);
    })
    .await;
    // What was parked behind a message that is lost is for a person from then on.
    mended(&left, "kept-message-left-behind", Harmful, |left| {
        left.remove(Space::Kept, &blocking.0);
    })
    .await;
    mended(&left, "kept-message-unreadable", Harmful, |left| {
        left.put(Space::Kept, &kept[0].0, &kept[0].1[..5]);
    })
    .await;
    harm(&left, "kept-message-unreadable", Harmful, |left| {
        left.put(Space::Kept, &77_u64.to_be_bytes(), kept[0].1.clone());
    });
    // The one that waits for an invoice that is there by now.
    harm(&left, "kept-message-overtaken", Harmful, |left| {
        let orphan = kept.iter().find(|(_, value)| holds(value, "paid-99-7")).unwrap();
        let records = left.store.records(Space::Instances);
        let live = records.iter().find(|(_, value)| !Record::read(value).ended).unwrap();
        let mut value = orphan.1.clone();
        // Tag, number, then the instance.
        value[2..18].copy_from_slice(&live.0);
        left.put(Space::Kept, &orphan.0, value);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_and_single_records_that_do_not_agree_are_found() {
    let left = Left::behind().await;
    let mark = left.store.get(Space::Meta, b"checkpoint").unwrap().unwrap();
    type Mark = (u64, u64, Vec<Vec<(u64, u64)>>, engine::Accounts);
    let (seq, keep_from, above, accounts): Mark = postcard::from_bytes(&mark[1..]).unwrap();
    let with = |change: &dyn Fn(&mut engine::Accounts)| {
        let mut accounts = accounts.clone();
        change(&mut accounts);
        postcard::to_extend(&(seq, keep_from, &above, accounts), vec![mark[0]]).unwrap()
    };
    let tally = with(&|accounts| {
        accounts.tally.blocked += 3;
        accounts.tally.live.values_mut().for_each(|live| *live += 1);
    });
    // More than were ever started: the past can't be counted again.
    harm(&left, "tally-differs", Harmful, |left| left.put(Space::Meta, b"checkpoint", tally));
    let tally = with(&|accounts| {
        accounts.tally.blocked += 3;
        accounts.tally.live.values_mut().for_each(|live| *live = live.saturating_sub(1));
    });
    mended(&left, "tally-differs", Harmful, |left| left.put(Space::Meta, b"checkpoint", tally))
        .await;
    let lost = with(&|accounts| {
        accounts.counts.values_mut().for_each(|counts| counts.applied += 1);
    });
    harm(&left, "accounts-differ", Harmful, |left| left.put(Space::Meta, b"checkpoint", lost));
    let ahead = with(&|accounts| accounts.lanes_confirmed[0] += 1_000);
    harm(&left, "lanes-strange", Harmful, |left| left.put(Space::Meta, b"checkpoint", ahead));
    let beside = with(&|accounts| {
        let progress = accounts.progress.entry(("starts".into(), 0)).or_default();
        progress.above.insert(progress.next, progress.next);
    });
    harm(&left, "positions-strange", Harmful, |left| left.put(Space::Meta, b"checkpoint", beside));
    let number = with(&|accounts| accounts.kept_next = 0);
    harm(&left, "kept-message-number", Harmful, |left| {
        left.put(Space::Meta, b"checkpoint", number)
    });
    mended(&left, "journal-unmarked", Harmful, |left| left.remove(Space::Meta, b"journal")).await;
    mended(&left, "record-strange", Harmless, |left| left.put(Space::Meta, b"odd", [])).await;
    mended(&left, "record-strange", Harmless, |left| left.put(Space::Keys, b"odd", [])).await;
    mended(&left, "application-unreadable", Harmful, |left| {
        left.put(Space::Meta, b"application", [0])
    })
    .await;
    let newer = harm(&left, "application-newer", Harmful, |left| {
        left.put(Space::Meta, b"application", [9, b'x'])
    });
    assert!(newer.checked().plan().repairs.is_empty(), "another --app must not get the folder");
    harm(&left, "hearing-unreadable", Harmless, |left| left.put(Space::Meta, b"heard", [9]));
    harm(&left, "pause-unreadable", Harmless, |left| left.put(Space::Meta, b"paused/work", [9]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_read_at_all_is_an_error_that_says_what_to_do() {
    let left = Left::behind().await;
    let said = |left: &Left| {
        let store: Arc<dyn Store> = left.store.clone();
        let checked = engine::fsck(store, Arc::new(left.disk.clone()), Some(&registry()));
        dirigent::describe(&*checked.unwrap_err())
    };
    let harmed = left.copy();
    harmed.put(Space::Meta, b"checkpoint", [1]);
    assert!(said(&harmed).contains("restore the data folder from a backup"), "{}", said(&harmed));
    let harmed = left.copy();
    for (name, _) in harmed.disk.list().unwrap() {
        harmed.disk.remove(&name).unwrap();
    }
    assert!(said(&harmed).contains("a journal that is gone"), "{}", said(&harmed));
}
