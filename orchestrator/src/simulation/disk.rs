//! Disk and store of one life of a process: each operation crosses its border, and a dead process changes nothing any more.
//!
//! What goes in: a [`SimDisk`] and a [`SimStore`], which outlive the process. What comes out: the same for one [`Life`]. What must be true: a
//! process that was killed leaves what it had written, whether it was synced or not; a power cut leaves what was synced, and of the rest
//! what the dice say. The store forgets from its end, as sled does: what it kept is what it held at some moment since its last sync.

use crate::{
    journal::{Disk, DiskFile, Room, SimDisk},
    store::{Change, KeyRange, MemoryStore, Page, Space, Store, StoreError},
};
use dirigent_connectors::simulated::{Life, Random};
use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A disk as one life of a process has it.
#[derive(Debug)]
pub(super) struct LivingDisk {
    disk: SimDisk,
    life: Arc<Life>,
}

impl LivingDisk {
    pub(super) fn new(disk: SimDisk, life: Arc<Life>) -> Self {
        Self { disk, life }
    }

    fn crosses(&self, what: &'static str) -> io::Result<()> {
        crosses(&self.life, what)
    }

    fn living(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(LivingFile { file, life: Arc::clone(&self.life) })
    }
}

fn crosses(life: &Life, what: &'static str) -> io::Result<()> {
    if life.crosses(what) { Ok(()) } else { Err(io::Error::other("the process has died")) }
}

impl Disk for LivingDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.crosses("disk: list")?;
        self.disk.list()
    }

    fn create_preallocated(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        self.crosses("disk: create")?;
        Ok(self.living(self.disk.create_preallocated(name, bytes)?))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.crosses("disk: open")?;
        Ok(self.living(self.disk.open(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.crosses("disk: rename")?;
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.crosses("disk: remove")?;
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.crosses("disk: sync names")?;
        self.disk.sync_dir()
    }

    fn room(&self) -> io::Result<Option<Room>> {
        self.disk.room()
    }

    fn reserve(&self, name: &str, bytes: u64) -> io::Result<()> {
        self.crosses("disk: reserve")?;
        self.disk.reserve(name, bytes)
    }
}

#[derive(Debug)]
struct LivingFile {
    file: Box<dyn DiskFile>,
    life: Arc<Life>,
}

impl DiskFile for LivingFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        crosses(&self.life, "disk: write")?;
        self.file.write_at(offset, bytes)
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        crosses(&self.life, "disk: read")?;
        self.file.read()
    }

    fn let_go(&self) -> io::Result<()> {
        crosses(&self.life, "disk: sync")?;
        self.file.let_go()
    }

    fn sync_data(&self) -> io::Result<()> {
        crosses(&self.life, "disk: sync")?;
        self.file.sync_data()
    }
}

/// A store that forgets what was not synced. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct SimStore(Arc<Mutex<Stored>>);

#[derive(Debug, Default)]
struct Stored {
    seen: Arc<MemoryStore>,
    durable: MemoryStore,
    /// Writes since the last sync, in order; each is kept whole or not at all.
    pending: Vec<Vec<Change>>,
}

impl SimStore {
    /// As one life of a process has it.
    pub(super) fn of(&self, life: &Arc<Life>) -> Arc<dyn Store> {
        Arc::new(LivingStore { store: self.clone(), life: Arc::clone(life) })
    }

    /// As whoever looks on has it: nothing that it reads counts as a crossing.
    pub(super) fn seen(&self) -> Arc<MemoryStore> {
        Arc::clone(&self.lock().seen)
    }

    /// What a store that was not closed leaves behind: all it had synced, and of what came later as much from its beginning as
    /// the dice say.
    pub(super) fn crash(&self, random: &mut Random) {
        let mut stored = self.lock();
        let kept = random.below(stored.pending.len() as u64 + 1);
        let pending = std::mem::take(&mut stored.pending);
        for changes in pending.iter().take(usize::try_from(kept).unwrap_or_default()) {
            must(stored.durable.write(changes));
        }
        stored.seen = Arc::new(stored.durable.copy());
    }

    fn lock(&self) -> MutexGuard<'_, Stored> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A store in memory fails only for what it was asked to write, and that was written once before.
fn must<T>(outcome: Result<T, StoreError>) -> T {
    match outcome {
        Ok(done) => done,
        Err(error) => unreachable!("a store in memory failed: {error}"),
    }
}

struct LivingStore {
    store: SimStore,
    life: Arc<Life>,
}

impl LivingStore {
    fn crosses(&self, what: &'static str) -> Result<(), StoreError> {
        if self.life.crosses(what) { Ok(()) } else { Err(StoreError::Stopped) }
    }
}

/// The changes of each space, in the order of the spaces' last changes: what a crash leaves in whole or not at all.
fn batches(changes: &[Change]) -> Vec<Vec<Change>> {
    let mut spaces: Vec<Space> = Vec::new();
    for change in changes.iter().rev() {
        if !spaces.contains(&change.space) {
            spaces.push(change.space);
        }
    }
    let of = |space: &Space| changes.iter().filter(|it| it.space == *space).cloned().collect();
    spaces.iter().rev().map(of).collect()
}

impl Store for LivingStore {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.seen().get(space, key)
    }

    fn write(&self, changes: &[Change]) -> Result<(), StoreError> {
        for batch in batches(changes) {
            self.crosses("store: write")?;
            let mut stored = self.store.lock();
            stored.seen.write(&batch)?;
            stored.pending.push(batch);
        }
        Ok(())
    }

    fn scan(&self, space: Space, range: KeyRange<'_>, limit: usize) -> Result<Page, StoreError> {
        self.store.seen().scan(space, range, limit)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.crosses("store: sync")?;
        let mut stored = self.store.lock();
        for changes in std::mem::take(&mut stored.pending) {
            stored.durable.write(&changes)?;
        }
        Ok(())
    }
}
