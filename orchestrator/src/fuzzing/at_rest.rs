//! What lies on a disk: the journal's segments and groups, and the records of stores.

use super::{
    pieces::Pieces,
    samples::{self, REGISTRY},
};
use crate::{
    engine,
    journal::{Disk, Durability, GroupSeq, Journal, JournalOptions, Preparation, SimDisk},
    participant,
    registry::Registry,
    store::{Change, MemoryStore, Space, Store},
};
use std::{
    error::Error,
    sync::{Arc, LazyLock},
};

/// Records that one input may write, and ways in which it may damage them: enough for whatever depends on another.
const RECORDS_MAX: usize = 40;
const DAMAGES_MAX: usize = 3;

/// The name of a journal's first file.
const FIRST_SEGMENT: &str = "00000000000000000001.segment";

static PLANS: LazyLock<Arc<Registry>> = LazyLock::new(|| {
    Arc::new(Registry::new(REGISTRY.plans().to_vec()).expect("it was a registry before"))
});

type Taken = Result<(), Box<dyn Error + Send + Sync>>;

fn options() -> JournalOptions {
    JournalOptions {
        segment_bytes: 0,
        durability: Durability::PowerLoss,
        preparation: Preparation::OnDemand,
        nonce_seed: Some(1),
        ..JournalOptions::default()
    }
}

/// The journal. The first byte says as what the rest is read: a segment's file, records that are written and then damaged, or the groups in
/// its records.
pub fn journal(bytes: &[u8]) -> bool {
    let mut pieces = Pieces(bytes);
    match pieces.byte() % 3 {
        0 => segment(pieces.rest()),
        1 => damaged(&mut pieces),
        _ => {
            let mut groups = Vec::new();
            while !pieces.is_empty() && groups.len() < RECORDS_MAX {
                groups.push(pieces.sized());
            }
            let are_groups = groups.iter().filter(|group| engine::fuzzed::is_group(group)).count();
            let disk = written(&groups);
            let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
            engine::fuzzed::rests(&store, &disk, &PLANS) && are_groups > 0
        }
    }
}

/// A journal of these records.
fn written(records: &[&[u8]]) -> Arc<dyn Disk> {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let open = Journal::open(Arc::clone(&disk), options(), GroupSeq::FIRST, &mut |_, _| Ok(()));
    let mut journal = open.expect("an empty folder becomes a journal");
    for record in records {
        journal.append(&[*record]).expect("there is room in memory");
    }
    journal.sync().expect("a disk in memory does not fail");
    disk
}

/// The file of a segment with these records.
pub(super) fn segment_of(records: &[&[u8]]) -> Vec<u8> {
    let disk = written(records);
    let files = disk.list().expect("a disk in memory does not fail");
    let (name, _) = files.iter().find(|(name, _)| name == FIRST_SEGMENT).expect("the first one");
    let file = disk.open(name).expect("it is there");
    file.read().expect("a disk in memory does not fail")
}

/// All records from the first on, if the journal can be read.
fn records_of(disk: &Arc<dyn Disk>) -> Option<Vec<Vec<u8>>> {
    let mut records = Vec::new();
    let take_in = &mut |seq: GroupSeq, record: &[u8]| -> Taken {
        assert_eq!(seq.0, records.len() as u64 + 1, "records come in order");
        records.push(record.to_vec());
        Ok(())
    };
    crate::journal::read(&**disk, GroupSeq::FIRST, take_in).ok().map(|_| records)
}

/// Any bytes as a segment's file: read, then opened to be written on. What was read stays, and what is written comes behind it.
fn segment(bytes: &[u8]) -> bool {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let file = disk.create_preallocated(FIRST_SEGMENT, bytes.len() as u64);
    let file = file.expect("a disk in memory does not fail");
    file.write_at(0, bytes).expect("it has room for them");
    goes_on(&disk)
}

fn goes_on(disk: &Arc<dyn Disk>) -> bool {
    let read = records_of(disk);
    let mut opened = 0;
    let take_in = &mut |_: GroupSeq, _: &[u8]| -> Taken {
        opened += 1;
        Ok(())
    };
    let journal = Journal::open(Arc::clone(disk), options(), GroupSeq::FIRST, take_in);
    assert_eq!(journal.is_ok(), read.is_some(), "what can be read can be opened");
    let (Ok(mut journal), Some(mut records)) = (journal, read) else { return false };
    assert_eq!(opened, records.len());
    let seq = journal.append(&[b"one ", b"more"]).expect("there is room in memory");
    journal.sync().expect("a disk in memory does not fail");
    assert_eq!(seq.0, records.len() as u64 + 1);
    records.push(b"one more".to_vec());
    assert_eq!(records_of(disk), Some(records), "what is written on comes behind what was there");
    true
}

/// Records that are written, and whose files are then damaged: by a bit, by zeros, or by being cut. Whatever is read of them afterwards is what
/// was written, from the beginning on.
fn damaged(pieces: &mut Pieces<'_>) -> bool {
    let mut damages = Vec::new();
    for _ in 0..pieces.byte() % (DAMAGES_MAX as u8 + 1) {
        damages.push((pieces.byte(), pieces.byte(), pieces.short(), pieces.short()));
    }
    let mut records = Vec::new();
    while !pieces.is_empty() && records.len() < RECORDS_MAX {
        records.push(pieces.sized());
    }
    let disk = written(&records);
    let files = disk.list().expect("a disk in memory does not fail");
    for (kind, file, at, bytes) in damages {
        let (name, length) = &files[usize::from(file) % files.len()];
        let file = disk.open(name).expect("it is there");
        // Near the beginning of records, as often as anywhere.
        let at = u64::from(at) % *length;
        let mut content = file.read().expect("a disk in memory does not fail");
        match kind % 2 {
            0 => content[at as usize] ^= 1 << (bytes % 8),
            _ => {
                let end = (at + u64::from(bytes)).min(*length);
                content[at as usize..end as usize].fill(0);
            }
        }
        file.write_at(0, &content).expect("it has room for them");
    }
    if let Some(read) = records_of(&disk) {
        assert!(read.len() <= records.len(), "nothing is read that was not written");
        for (read, written) in read.iter().zip(&records) {
            assert_eq!(read, written, "what is read is what was written");
        }
    }
    goes_on(&disk)
}

/// Records of a store, each behind a byte that says where it lies, and groups of a journal above it: as an engine's store and as a
/// participant's. Whether an engine would take it.
pub fn store(bytes: &[u8]) -> bool {
    let mut pieces = Pieces(bytes);
    let (mut changes, mut groups) = (Vec::new(), Vec::new());
    let mut taken = 0;
    while !pieces.is_empty() && changes.len() + groups.len() < RECORDS_MAX {
        let kind = usize::from(pieces.byte());
        let singles = engine::fuzzed::SINGLES.len();
        let (space, key, value) = match kind % (singles + 8) {
            single if single < singles => {
                let (space, key) = engine::fuzzed::SINGLES[single];
                let value = pieces.sized();
                taken += usize::from(engine::fuzzed::is_single(key, value));
                (space, key.to_vec(), value)
            }
            kind => match kind - singles {
                0 => {
                    let key = [b"paused/".as_slice(), pieces.little()].concat();
                    let value = pieces.sized();
                    taken += usize::from(engine::fuzzed::is_single(&key, value));
                    (Space::Meta, key, value)
                }
                1 => {
                    let value = pieces.sized();
                    taken += usize::from(engine::fuzzed::is_instance(value, &PLANS));
                    let id = engine::fuzzed::id_in(value);
                    let id = id.unwrap_or_else(|| samples::instance_of("7"));
                    (Space::Instances, id.0.as_bytes().to_vec(), value)
                }
                2 => (Space::Timers, pieces.take(24).to_vec(), &[][..]),
                3 => (Space::Timers, pieces.take(32).to_vec(), pieces.sized()),
                4 => {
                    let key = pieces.take(8).to_vec();
                    let value = pieces.sized();
                    taken += usize::from(engine::fuzzed::is_kept(value));
                    (Space::Kept, key, value)
                }
                5 => {
                    let (key, value) = (pieces.little().to_vec(), pieces.sized());
                    taken += usize::from(participant::fuzzed::is_record(value));
                    (Space::Ledger, key, value)
                }
                6 => {
                    groups.push(pieces.sized());
                    continue;
                }
                _ => {
                    let space = Space::ALL[usize::from(pieces.byte()) % Space::ALL.len()];
                    (space, pieces.little().to_vec(), pieces.sized())
                }
            },
        };
        changes.push(Change::put(space, key, value));
    }
    let engines: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let participants = MemoryStore::new();
    if engines.write(&changes).and_then(|()| participants.write(&changes)).is_err() {
        return false;
    }
    participant::fuzzed::rests(&participants);
    let disk: Arc<dyn Disk> = match groups.is_empty() {
        true => Arc::new(SimDisk::new()),
        false => written(&groups),
    };
    engine::fuzzed::rests(&engines, &disk, &PLANS) && taken > 0
}
