//! A disk in memory that forgets what was not synced.
//!
//! Stands in for [`FileDisk`](super::FileDisk) in tests and in the simulator. [`SimDisk::crash`] cuts the
//! power: each unsynced write is kept, lost, or torn at 512-byte borders, each unsynced name kept or
//! lost, all by a seed that repeats it. [`SimDisk::fail`] lets a chosen operation go wrong.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::disk::{Disk, DiskFile, Room};

/// What a drive writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// A kind of operation that can be told to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskOperation {
    /// Any of the others.
    Any,
    /// [`Disk::list`].
    List,
    /// [`Disk::create_preallocated`].
    Create,
    /// [`Disk::open`].
    Open,
    /// [`Disk::rename`].
    Rename,
    /// [`Disk::remove`].
    Remove,
    /// [`Disk::sync_dir`].
    SyncDir,
    /// [`DiskFile::write_at`].
    Write,
    /// [`DiskFile::read`].
    Read,
    /// [`DiskFile::sync_data`].
    Sync,
}

/// How an operation goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// An I/O error, once. What a failed sync should have made durable never will be.
    Error,
    /// No space left, once.
    Full,
    /// The power goes: this and every later operation fails until [`SimDisk::crash`].
    PowerCut,
}

/// A folder in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Every file ever made, by its number.
    files: Vec<Content>,
    /// What a running process sees.
    names: BTreeMap<String, usize>,
    /// What a power cut leaves for certain.
    names_durable: BTreeMap<String, usize>,
    names_pending: Vec<NameChange>,
    /// How often the power was cut: a handle from before is dead.
    life: u64,
    dark: bool,
    faults: Vec<PlannedFault>,
    operations: u64,
    /// Bytes that can still be written, where somebody said so.
    free: Option<u64>,
    /// The most that there ever was.
    total: u64,
    held: BTreeMap<usize, u64>,
}

#[derive(Debug)]
struct Content {
    seen: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
}

#[derive(Debug)]
enum NameChange {
    Made { name: String, file: usize },
    Renamed { from: String, to: String, file: usize },
    Removed { name: String },
}

#[derive(Debug)]
struct PlannedFault {
    operation: DiskOperation,
    left: u64,
    fault: DiskFault,
}

impl SimDisk {
    /// An empty folder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the `nth` operation of this kind from now on (1 is the next) go wrong.
    pub fn fail(&self, operation: DiskOperation, nth: u64, fault: DiskFault) {
        self.state().faults.push(PlannedFault { operation, left: nth, fault });
    }

    /// Leaves room for no more than `bytes` from now on, until the next call: as others that fill the disk, or clear it.
    pub fn leave(&self, bytes: u64) {
        let mut state = self.state();
        let held: u64 = state.held.values().sum();
        state.total = state.total.max(bytes + held);
        state.free = Some(bytes);
    }

    /// Operations so far, whatever became of them.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Cuts the power and switches it on again. Open handles are dead, planned faults forgotten.
    pub fn crash(&self, seed: u64) {
        let mut dice = Dice(seed);
        let mut state = self.state();
        for file in &mut state.files {
            for (offset, bytes) in std::mem::take(&mut file.pending) {
                survive(&mut file.durable, offset, &bytes, &mut dice);
            }
            file.seen = file.durable.clone();
        }
        for change in std::mem::take(&mut state.names_pending) {
            if dice.one_in(2) {
                change.apply(&mut state.names_durable);
            }
        }
        state.names = state.names_durable.clone();
        state.life += 1;
        state.dark = false;
        state.faults.clear();
    }

    /// What a power cut at this very moment would leave for certain: of each file whose name was synced, in the order of names, the bytes that were.
    #[cfg(feature = "simulation")]
    pub(crate) fn each_durable(&self, look: &mut dyn FnMut(&str, &[u8])) {
        let state = self.state();
        for (name, file) in &state.names_durable {
            look(name, &state.files[*file].durable);
        }
    }

    /// The folder once more, as a process would find it now: for whoever looks into it, which syncs, and leaves this one as it is.
    #[cfg(feature = "simulation")]
    pub(crate) fn copied(&self) -> Self {
        let state = self.state();
        let mut copy = State::default();
        for (name, file) in &state.names {
            let seen = state.files[*file].seen.clone();
            copy.names.insert(name.clone(), copy.files.len());
            copy.files.push(Content { durable: seen.clone(), seen, pending: Vec::new() });
        }
        copy.names_durable = copy.names.clone();
        Self { state: Arc::new(Mutex::new(copy)) }
    }

    /// Forgets the faults that were planned and have not come.
    #[cfg(test)]
    pub(super) fn be_well(&self) {
        self.state().faults.clear();
    }

    /// Whether the power is off, which only a crash brings back.
    #[cfg(test)]
    pub(super) fn is_dark(&self) -> bool {
        self.state().dark
    }

    /// Whether these bytes would outlive a power cut for certain, somewhere in a file.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn keeps(&self, bytes: &[u8]) -> bool {
        let state = self.state();
        let Some((first, rest)) = bytes.split_first() else { return true };
        let begins = |content: &[u8], at: usize| content[at + 1..].starts_with(rest);
        let holds = |content: &[u8]| {
            let mut places = content.iter().enumerate().filter(|(_, byte)| *byte == first);
            places.any(|(at, _)| begins(content, at))
        };
        // What was written last lies in the latest file as a rule.
        state.files.iter().rev().any(|file| holds(&file.durable))
    }

    /// Flips one bit of a file, as failing media do.
    ///
    /// # Panics
    /// When there is no such file or byte.
    pub fn flip_bit(&self, name: &str, byte: usize) {
        let mut state = self.state();
        let file = state.names[name];
        state.files[file].seen[byte] ^= 1;
        state.files[file].durable[byte] ^= 1;
    }

    /// Cuts a file off behind `bytes`, as a copy that was broken off.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn cut(&self, name: &str, bytes: usize) {
        let mut state = self.state();
        let file = state.names[name];
        state.files[file].seen.truncate(bytes);
        state.files[file].durable.truncate(bytes);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no operation panics while it holds the state")
    }

    /// Counts the operation, and lets it go wrong if its time has come.
    fn begin(&self, operation: DiskOperation) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        state.operations += 1;
        let mut due = None;
        state.faults.retain_mut(|planned| {
            if planned.operation != operation && planned.operation != DiskOperation::Any {
                return true;
            }
            planned.left = planned.left.saturating_sub(1);
            if planned.left == 0 {
                due = Some(planned.fault);
            }
            planned.left > 0
        });
        match due {
            Some(DiskFault::PowerCut) => state.dark = true,
            Some(DiskFault::Error) => return Err(io::Error::other("the disk was told to fail")),
            Some(DiskFault::Full) => return Err(io::ErrorKind::StorageFull.into()),
            None => {}
        }
        if state.dark { Err(io::Error::other("the power is off")) } else { Ok(state) }
    }

    fn handle(&self, file: usize, life: u64) -> Box<dyn DiskFile> {
        Box::new(SimFile { disk: self.clone(), file, life })
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let state = self.begin(DiskOperation::List)?;
        let length = |file: &usize| state.files[*file].seen.len() as u64;
        Ok(state.names.iter().map(|(name, file)| (name.clone(), length(file))).collect())
    }

    fn create_preallocated(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.begin(DiskOperation::Create)?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.take_room(bytes)?;
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        let file = state.files.len();
        state.held.insert(file, bytes as u64);
        let zeros = vec![0; bytes];
        state.files.push(Content { seen: zeros.clone(), durable: zeros, pending: Vec::new() });
        state.change(NameChange::Made { name: name.to_owned(), file });
        let life = state.life;
        drop(state);
        Ok(self.handle(file, life))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let state = self.begin(DiskOperation::Open)?;
        let file = state.find(name)?;
        let life = state.life;
        drop(state);
        Ok(self.handle(file, life))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.begin(DiskOperation::Rename)?;
        let file = state.find(from)?;
        state.change(NameChange::Renamed { from: from.to_owned(), to: to.to_owned(), file });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.begin(DiskOperation::Remove)?;
        let file = state.find(name)?;
        let held = state.held.remove(&file).unwrap_or_default();
        state.free = state.free.map(|free| free + held);
        state.change(NameChange::Removed { name: name.to_owned() });
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.begin(DiskOperation::SyncDir)?;
        state.names_pending.clear();
        state.names_durable = state.names.clone();
        Ok(())
    }

    fn room(&self) -> io::Result<Option<Room>> {
        let state = self.state();
        Ok(state.free.map(|free| Room { free, total: state.total }))
    }

    fn reserve(&self, name: &str, bytes: u64) -> io::Result<()> {
        let mut state = self.begin(DiskOperation::Create)?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.take_room(bytes)?;
        let file = state.files.len();
        state.held.insert(file, bytes);
        state.files.push(Content { seen: Vec::new(), durable: Vec::new(), pending: Vec::new() });
        state.change(NameChange::Made { name: name.to_owned(), file });
        Ok(())
    }
}

impl State {
    fn take_room(&mut self, bytes: u64) -> io::Result<()> {
        let Some(free) = &mut self.free else { return Ok(()) };
        let left = free.checked_sub(bytes).ok_or(io::ErrorKind::StorageFull)?;
        *free = left;
        Ok(())
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.names_pending.push(change);
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            NameChange::Made { name, file } => {
                names.insert(name.clone(), *file);
            }
            NameChange::Renamed { from, to, file } => {
                if names.get(from) == Some(file) {
                    names.remove(from);
                }
                names.insert(to.clone(), *file);
            }
            NameChange::Removed { name } => {
                names.remove(name);
            }
        }
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: usize,
    life: u64,
}

impl SimFile {
    fn begin(&self, operation: DiskOperation) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.begin(operation)?;
        if state.life == self.life {
            Ok(state)
        } else {
            Err(io::Error::other("the handle is from before the power cut"))
        }
    }
}

impl DiskFile for SimFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let was_dark = self.disk.state().dark;
        match self.begin(DiskOperation::Write) {
            Ok(mut state) => {
                state.files[self.file].write(offset, bytes);
                Ok(())
            }
            Err(error) => {
                // A write that fails may have been carried out in part: the next crash decides.
                let mut state = self.disk.state();
                if state.life == self.life && !was_dark {
                    state.files[self.file].write(offset, bytes);
                }
                Err(error)
            }
        }
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        Ok(self.begin(DiskOperation::Read)?.files[self.file].seen.clone())
    }

    fn let_go(&self) -> io::Result<()> {
        self.sync_data()?;
        let mut state = self.disk.state();
        let content = &mut state.files[self.file];
        content.seen = content.durable.clone();
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.begin(DiskOperation::Sync) {
            Ok(mut state) => {
                let content = &mut state.files[self.file];
                for (offset, bytes) in std::mem::take(&mut content.pending) {
                    put(&mut content.durable, offset, &bytes);
                }
                Ok(())
            }
            Err(error) => {
                // The system marks the pages clean all the same, and a second sync would succeed.
                let mut state = self.disk.state();
                if state.life == self.life && !state.dark {
                    state.files[self.file].pending.clear();
                }
                Err(error)
            }
        }
    }
}

impl Content {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        put(&mut self.seen, offset, bytes);
        self.pending.push((offset, bytes.to_vec()));
    }
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if content.len() < offset + bytes.len() {
        content.resize(offset + bytes.len(), 0);
    }
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// What is left of one unsynced write.
fn survive(durable: &mut Vec<u8>, offset: usize, bytes: &[u8], dice: &mut Dice) {
    match dice.below(3) {
        0 => {}
        1 => put(durable, offset, bytes),
        _ => {
            let mut at = 0;
            while at < bytes.len() {
                let border = (offset + at + 1).next_multiple_of(SECTOR_BYTES) - offset;
                let end = border.min(bytes.len());
                if dice.one_in(2) {
                    put(durable, offset + at, &bytes[at..end]);
                }
                at = end;
            }
        }
    }
}

/// A small generator (SplitMix64): the same seed gives the same throws on every machine.
#[derive(Debug)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.throw() % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_keeps_what_was_synced_and_tears_the_rest_at_sector_borders() {
        let mut fates = [0; 3];
        for seed in 0..60 {
            let disk = SimDisk::new();
            let file = disk.create_preallocated("a", 4096).expect("create");
            disk.sync_dir().expect("sync names");
            file.write_at(0, &[1; 100]).expect("write");
            file.sync_data().expect("sync");
            file.write_at(100, &[2; 2000]).expect("write");
            disk.crash(seed);
            file.write_at(0, &[3]).expect_err("the handle is from before the power cut");

            let content = disk.open("a").expect("its name was synced").read().expect("read");
            assert_eq!(content[..100], [1; 100], "seed {seed}");
            let kept = content[100..2100].iter().filter(|byte| **byte == 2).count();
            fates[if kept == 0 {
                0
            } else if kept == 2000 {
                1
            } else {
                2
            }] += 1;
            assert!(content[100..512].iter().all(|byte| *byte == content[100]), "seed {seed}");
        }
        assert!(fates.iter().all(|count| *count > 5), "{fates:?}");
    }

    #[test]
    fn a_name_that_was_not_synced_may_vanish() {
        let survived = |seed| {
            let disk = SimDisk::new();
            disk.create_preallocated("a", 8).expect("create");
            disk.crash(seed);
            disk.open("a").is_ok()
        };
        assert!((0..20).any(survived) && !(0..20).all(survived));
    }

    #[test]
    fn a_failed_sync_loses_what_it_should_have_kept_even_if_the_next_one_succeeds() {
        let disk = SimDisk::new();
        let file = disk.create_preallocated("a", 8).expect("create");
        disk.sync_dir().expect("sync names");
        file.write_at(0, b"lost").expect("write");
        disk.fail(DiskOperation::Sync, 1, DiskFault::Error);
        file.sync_data().expect_err("it was told to fail");
        disk.crash(1);
        assert_eq!(disk.open("a").expect("open").read().expect("read"), [0; 8]);
    }
}
