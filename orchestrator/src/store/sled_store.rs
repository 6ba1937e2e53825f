//! The store on disk: sled 0.34.7, with a guard for every trap it has.
//!
//! - A snapshot half written by a crash makes sled refuse its folder for ever: it is deleted before opening.
//! - Its settings are written without a sync, and a power cut may leave a part of them, which it refuses for ever: what is no whole file of
//!   settings is deleted before opening, and written anew; the whole one is synced behind it.
//! - What is written stays in memory of the process until half a megabyte has gathered: [`Store::hand_over`] flushes it.
//! - `flush()` does not wait for the disk: [`Store::sync`] syncs the file through a handle of our own.
//! - Values above 128 KiB go to files that are never synced: a value above [`PIECE_BYTES_MAX`] is kept in pieces.
//! - A page that is wrong but readable would go unnoticed: every value carries a checksum over its space and key.
//!
//! ```text
//! 00 key              head:  layout 1 | crc 4 | value            (layout 1)
//!                            layout 1 | crc 4 | value length 4   (layout 2, value in pieces)
//! 01 key number 4     piece of the value
//! 02 name             ours alone: the format of the store, in the space `meta`
//! ```
//!
//! Numbers are big-endian, so that pieces lie in order.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{Advice, fadvise};

use super::{
    BATCH_BYTES_MAX, Change, DataFolder, KeyRange, Page, SCAN_BYTES_MAX, Space, Store, StoreError,
    VALUE_BYTES_MAX, check_bounds, is_empty_range, spaces_in_order,
};

/// The layout this build writes. A store with a higher one is refused.
const FORMAT_VERSION: u32 = 1;

/// Memory for pages unless set otherwise: sled would take 1 GiB, and holds about three times what it is given.
pub const CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// Bytes of a value, or of a piece of one, in one record of sled. sled keeps up to sixteen records, and while it merges a
/// few more, in one page, and a page above 128 KiB goes to a file that is never synced: sixteen records of 8 KiB do.
const PIECE_BYTES_MAX: usize = 4 * 1024;

/// How often sled is asked again while its file is still locked, and how long to rest before: two seconds in all.
const LOCK_TRIES_MAX: u32 = 200;
const LOCK_REST: Duration = Duration::from_millis(10);

/// sled's own file of settings: a line each for the size of segments, compression and its version.
const SETTINGS: &str = "conf";
const SETTINGS_LINES: usize = 3;

const HEAD_BYTES: usize = 5;
const LAYOUT_WHOLE: u8 = 1;
const LAYOUT_PIECES: u8 = 2;

const HEADS: u8 = 0;
const PIECES: u8 = 1;
const FORMAT_KEY: &[u8] = b"\x02format";

/// How to keep the store.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Memory for pages, in bytes.
    pub cache_bytes: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { cache_bytes: CACHE_BYTES }
    }
}

/// A store in the data folder, which stays locked as long as this lives.
#[derive(Debug)]
pub struct SledStore {
    db: sled::Db,
    trees: HashMap<Space, sled::Tree>,
    /// Spaces in which some value is, or was, in pieces. In all others no write has to look for stale ones.
    in_pieces: Mutex<HashSet<Space>>,
    /// sled's file, to sync it ourselves. Opened before the first record is written, so that no error of the disk is missed.
    file: File,
    /// One writer at a time: which pieces of an old value are stale is read before they are removed.
    writing: Mutex<()>,
    stopped: AtomicBool,
    /// Last, so that the lock is released after sled has closed.
    _folder: DataFolder,
}

impl SledStore {
    /// Opens the store of a data folder, or makes a new one.
    ///
    /// # Errors
    /// The disk failed, sled can't read its files, or a later release wrote them.
    pub fn open(folder: &DataFolder, options: StoreOptions) -> Result<Self, StoreError> {
        let path = folder.store();
        let failed = |doing: &'static str| {
            let folder = path.display().to_string();
            move |source: Box<dyn std::error::Error + Send + Sync>| match source
                .downcast::<io::Error>()
            {
                Ok(source) if is_full(source.kind()) => {
                    StoreError::Full { doing: "opening", source: *source }
                }
                Ok(source) => StoreError::Open { folder, doing, source },
                Err(source) => match source.downcast::<sled::Error>() {
                    Ok(error) => match *error {
                        sled::Error::Io(source) if is_full(source.kind()) => {
                            StoreError::Full { doing: "opening", source }
                        }
                        error => StoreError::Open { folder, doing, source: error.into() },
                    },
                    Err(source) => StoreError::Open { folder, doing, source },
                },
            }
        };
        delete_torn_snapshots(&path)
            .map_err(|error| failed("deleting half-written snapshots")(error.into()))?;
        delete_torn_settings(&path)
            .map_err(|error| failed("deleting half-written settings")(error.into()))?;
        sync_before_open(&path).map_err(|error| failed("syncing its file")(error.into()))?;
        let config = sled::Config::new()
            .path(&path)
            .cache_capacity(options.cache_bytes)
            // Its own thread would only log a failed sync.
            .flush_every_ms(None);
        let db = open_once_unlocked(&config, || std::thread::sleep(LOCK_REST))
            .map_err(|error| failed("reading its files")(error.into()))?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path.join("db"))
            .map_err(|error| failed("opening its file for syncing")(error.into()))?;
        let mut trees = HashMap::new();
        let mut in_pieces = HashSet::new();
        for space in Space::ALL {
            let tree = db
                .open_tree(space.name())
                .map_err(|error| failed("opening its spaces")(error.into()))?;
            match tree.range([PIECES]..[PIECES + 1]).next() {
                None => {}
                Some(Ok(_)) => drop(in_pieces.insert(space)),
                Some(Err(error)) => return Err(failed("looking into its spaces")(error.into())),
            }
            trees.insert(space, tree);
        }
        let store = Self {
            db,
            trees,
            in_pieces: Mutex::new(in_pieces),
            file,
            writing: Mutex::new(()),
            stopped: AtomicBool::new(false),
            _folder: folder.clone(),
        };
        store.check_format(&path)?;
        File::open(path.join(SETTINGS))
            .and_then(|settings| settings.sync_all())
            .map_err(|error| failed("syncing its settings")(error.into()))?;
        // The names of new files.
        File::open(&path)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| failed("syncing its folder")(error.into()))?;
        Ok(store)
    }

    fn check_format(&self, path: &Path) -> Result<(), StoreError> {
        let meta = self.tree(Space::Meta);
        let found = meta.get(FORMAT_KEY).map_err(storage("reading", Space::Meta))?;
        match found.map(|bytes| <[u8; 4]>::try_from(bytes.as_ref()).map(u32::from_be_bytes)) {
            Some(Ok(version)) if version <= FORMAT_VERSION => Ok(()),
            Some(Ok(version)) => {
                let folder = path.display().to_string();
                Err(StoreError::Newer { folder, version, known: FORMAT_VERSION })
            }
            Some(Err(_)) => {
                Err(StoreError::Corrupt { space: Space::Meta, key: FORMAT_KEY.to_vec() })
            }
            None => {
                meta.insert(FORMAT_KEY, &FORMAT_VERSION.to_be_bytes())
                    .map_err(storage("writing", Space::Meta))?;
                self.sync()
            }
        }
    }

    /// Writes what sled gathers in memory, half a megabyte at the most, into its file.
    fn flush_and(&self, then: impl FnOnce() -> io::Result<()>) -> Result<(), StoreError> {
        let flushed = match self.db.flush() {
            Ok(_) => then(),
            Err(sled::Error::Io(error)) => Err(error),
            Err(error) => {
                return self.stop_on_error(Err(StoreError::Sync { source: error.into() }));
            }
        };
        self.stop_on_error(flushed.map_err(|source| {
            if is_full(source.kind()) {
                StoreError::Full { doing: "syncing", source }
            } else {
                StoreError::Sync { source: source.into() }
            }
        }))
    }

    fn tree(&self, space: Space) -> &sled::Tree {
        self.trees.get(&space).expect("every space is opened with the store")
    }

    fn refuse_if_stopped(&self) -> Result<(), StoreError> {
        if self.stopped.load(Ordering::Acquire) { Err(StoreError::Stopped) } else { Ok(()) }
    }

    fn stop_on_error<T>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        if outcome.as_ref().is_err_and(StoreError::is_final) {
            self.stopped.store(true, Ordering::Release);
        }
        outcome
    }

    /// The value under a head; `Corrupt` if it isn't what was put there.
    fn value(&self, space: Space, key: &[u8], head: &[u8]) -> Result<Vec<u8>, StoreError> {
        let corrupt = || StoreError::Corrupt { space, key: key.to_vec() };
        let (value, crc) = match Head::read(head).ok_or_else(corrupt)? {
            Head::Whole { crc, value } => (value.to_vec(), crc),
            Head::Pieces { crc, bytes } => {
                let mut value = Vec::with_capacity(bytes);
                for number in 0..pieces_of(bytes) {
                    let piece = self.tree(space).get(piece_key(key, number));
                    let piece = piece.map_err(storage("reading", space))?.ok_or_else(corrupt)?;
                    value.extend_from_slice(&piece);
                }
                (value, crc)
            }
        };
        if checksum(space, key, &value) == crc { Ok(value) } else { Err(corrupt()) }
    }

    /// As [`value`](Self::value), but sure of its verdict: the pieces may have been replaced between two reads.
    fn value_settled(
        &self,
        space: Space,
        key: &[u8],
        head: &[u8],
    ) -> Result<Option<Vec<u8>>, StoreError> {
        match self.value(space, key, head) {
            Err(StoreError::Corrupt { .. }) => {
                let _no_writer = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
                let head =
                    self.tree(space).get(head_key(key)).map_err(storage("reading", space))?;
                head.map(|head| self.value(space, key, &head)).transpose()
            }
            settled => settled.map(Some),
        }
    }

    fn write_space(&self, space: Space, changes: &[Change]) -> Result<(), StoreError> {
        let tree = self.tree(space);
        let mut batch = sled::Batch::default();
        let mut bytes = 0;
        let mut in_pieces = self.in_pieces.lock().unwrap_or_else(PoisonError::into_inner);
        // Pieces that a key has after the batch so far, where that isn't what the tree says.
        let mut pieces_in_batch: HashMap<&[u8], u32> = HashMap::new();
        for Change { key, value, .. } in changes.iter().filter(|change| change.space == space) {
            let change_bytes = key.len() + value.as_ref().map_or(0, Vec::len);
            if bytes > 0 && bytes + change_bytes > BATCH_BYTES_MAX {
                tree.apply_batch(std::mem::take(&mut batch)).map_err(storage("writing", space))?;
                pieces_in_batch.clear();
                bytes = 0;
            }
            bytes += change_bytes;
            let before = match pieces_in_batch.get(key.as_slice()) {
                Some(pieces) => *pieces,
                None if !in_pieces.contains(&space) => 0,
                None => self.pieces_stored(space, key)?,
            };
            let after = put(&mut batch, space, key, value.as_deref());
            if after > 0 {
                in_pieces.insert(space);
            }
            for stale in after..before {
                batch.remove(piece_key(key, stale));
            }
            pieces_in_batch.insert(key, after.max(before));
        }
        tree.apply_batch(batch).map_err(storage("writing", space))
    }

    /// Numbers of pieces under a key: all are below the returned one.
    fn pieces_stored(&self, space: Space, key: &[u8]) -> Result<u32, StoreError> {
        let tree = self.tree(space);
        let head = tree.get(head_key(key)).map_err(storage("reading", space))?;
        match head.as_deref().map(Head::read) {
            None | Some(Some(Head::Whole { .. })) => Ok(0),
            Some(Some(Head::Pieces { bytes, .. })) => Ok(pieces_of(bytes)),
            // The head is damaged: any number of pieces may be there.
            Some(None) => Ok(pieces_of(VALUE_BYTES_MAX)),
        }
    }
}

impl Store for SledStore {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let head = self.tree(space).get(head_key(key)).map_err(storage("reading", space))?;
        match head {
            None => Ok(None),
            Some(head) => self.value_settled(space, key, &head),
        }
    }

    fn write(&self, changes: &[Change]) -> Result<(), StoreError> {
        self.refuse_if_stopped()?;
        check_bounds(changes)?;
        let _writer = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        for space in spaces_in_order(changes) {
            let written = self.write_space(space, changes);
            self.stop_on_error(written)?;
        }
        Ok(())
    }

    fn scan(&self, space: Space, range: KeyRange<'_>, limit: usize) -> Result<Page, StoreError> {
        let mut page = Page::default();
        if is_empty_range(&range) {
            return Ok(page);
        }
        let (from, to) = range;
        let from = match from {
            Bound::Included(key) => Bound::Included(head_key(key)),
            Bound::Excluded(key) => Bound::Excluded(head_key(key)),
            Bound::Unbounded => Bound::Included(vec![HEADS]),
        };
        let to = match to {
            Bound::Included(key) => Bound::Included(head_key(key)),
            Bound::Excluded(key) => Bound::Excluded(head_key(key)),
            Bound::Unbounded => Bound::Excluded(vec![HEADS + 1]),
        };
        let mut bytes = 0;
        for entry in self.tree(space).range((from, to)) {
            let (head_key, head) = entry.map_err(storage("reading", space))?;
            let key = &head_key[1..];
            if page.records.len() + page.damaged.len() >= limit.max(1) || bytes >= SCAN_BYTES_MAX {
                page.next = Some(key.to_vec());
                break;
            }
            bytes += key.len();
            match self.value_settled(space, key, &head) {
                Ok(Some(value)) => {
                    bytes += value.len();
                    page.records.push((key.to_vec(), value));
                }
                Ok(None) => {}
                Err(StoreError::Corrupt { .. }) => page.damaged.push(key.to_vec()),
                Err(error) => return Err(error),
            }
        }
        Ok(page)
    }

    fn remains(&self, space: Space, key: &[u8]) -> Result<Vec<u8>, StoreError> {
        let tree = self.tree(space);
        let head = tree.get(head_key(key)).map_err(storage("reading", space))?;
        let mut bytes = match head.as_deref().map(Head::read) {
            Some(Some(Head::Whole { value, .. })) => return Ok(value.to_vec()),
            // A head that says nothing is a part of what is left, and its pieces may be there.
            Some(Some(Head::Pieces { .. })) | None => Vec::new(),
            Some(None) => head.map(|head| head.to_vec()).unwrap_or_default(),
        };
        for number in 0..pieces_of(VALUE_BYTES_MAX) {
            let piece = tree.get(piece_key(key, number)).map_err(storage("reading", space))?;
            bytes.extend_from_slice(piece.as_deref().unwrap_or_default());
        }
        Ok(bytes)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.refuse_if_stopped()?;
        self.flush_and(|| self.file.sync_data())
    }

    fn hand_over(&self) -> Result<(), StoreError> {
        self.refuse_if_stopped()?;
        self.flush_and(|| Ok(()))
    }
}

/// Opens sled, and rests and tries again while its file is locked. Our own lock says that nobody else uses the folder, so
/// what still holds sled's is a child process between its fork and its exec, with a copy of an earlier handle of ours.
fn open_once_unlocked(config: &sled::Config, mut rest: impl FnMut()) -> sled::Result<sled::Db> {
    let is_lock = |error: &sled::Error| matches!(error, sled::Error::Io(error) if error.to_string().contains("could not acquire lock"));
    for _ in 1..LOCK_TRIES_MAX {
        match config.open() {
            Err(error) if is_lock(&error) => rest(),
            outcome => return outcome,
        }
    }
    config.open()
}

/// A crash, or a full disk, during an earlier opening leaves it; sled then never opens the folder again.
fn delete_torn_snapshots(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// A power cut during or soon after the first opening leaves it. What it says is the same for every store that this release makes.
fn delete_torn_settings(path: &Path) -> io::Result<()> {
    let path = path.join(SETTINGS);
    match fs::read(&path) {
        Ok(settings) if !are_whole(&settings) => {
            tracing::warn!(path = %path.display(), "The store's settings were left in part, as a power cut does; they are written anew.");
            fs::remove_file(&path)
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Three lines of text, and a checksum behind them: sled writes the two one after the other. What the lines say is for sled to judge.
fn are_whole(settings: &[u8]) -> bool {
    let Some((text, _checksum)) = settings.split_last_chunk::<4>() else { return false };
    text.ends_with(b"\n")
        && !text.contains(&0)
        && text.iter().filter(|byte| **byte == b'\n').count() == SETTINGS_LINES
}

/// sled writes a durable snapshot of what it reads at opening. After a kill that may still be in the system's memory only, and after a failed
/// sync the system takes for written what the disk never had: a power cut would leave a snapshot of what is gone. So it is synced, and what the
/// system has of it forgotten: sled reads what the disk has.
fn sync_before_open(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).open(path.join("db")) {
        Ok(file) => {
            file.sync_data()?;
            Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// What stands under the key itself.
enum Head<'a> {
    Whole { crc: u32, value: &'a [u8] },
    Pieces { crc: u32, bytes: usize },
}

impl<'a> Head<'a> {
    fn read(head: &'a [u8]) -> Option<Self> {
        let (layout, rest) = head.split_first()?;
        let (crc, rest) = rest.split_first_chunk::<4>()?;
        let crc = u32::from_be_bytes(*crc);
        match *layout {
            LAYOUT_WHOLE => Some(Head::Whole { crc, value: rest }),
            LAYOUT_PIECES => {
                let bytes = u32::from_be_bytes(<[u8; 4]>::try_from(rest).ok()?);
                let bytes =
                    usize::try_from(bytes).ok().filter(|bytes| *bytes <= VALUE_BYTES_MAX)?;
                Some(Head::Pieces { crc, bytes })
            }
            _ => None,
        }
    }
}

/// Adds one change to the batch and returns the number of its pieces.
fn put(batch: &mut sled::Batch, space: Space, key: &[u8], value: Option<&[u8]>) -> u32 {
    let Some(value) = value else {
        batch.remove(head_key(key));
        return 0;
    };
    let crc = checksum(space, key, value).to_be_bytes();
    if HEAD_BYTES + value.len() <= PIECE_BYTES_MAX {
        batch.insert(head_key(key), [&[LAYOUT_WHOLE], &crc[..], value].concat());
        return 0;
    }
    let bytes = u32::try_from(value.len()).expect("values are checked against VALUE_BYTES_MAX");
    batch.insert(head_key(key), [&[LAYOUT_PIECES], &crc[..], &bytes.to_be_bytes()].concat());
    for (number, piece) in (0..).zip(value.chunks(PIECE_BYTES_MAX)) {
        batch.insert(piece_key(key, number), piece);
    }
    pieces_of(value.len())
}

/// Binds a value to its place: one that turns up under another key is damaged too.
fn checksum(space: Space, key: &[u8], value: &[u8]) -> u32 {
    let key_bytes = u32::try_from(key.len()).expect("keys are checked against KEY_BYTES_MAX");
    let crc = crc32c::crc32c(space.name().as_bytes());
    let crc = crc32c::crc32c_append(crc, &key_bytes.to_be_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(crc, key), value)
}

fn pieces_of(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(PIECE_BYTES_MAX)).expect("values are at most VALUE_BYTES_MAX")
}

fn head_key(key: &[u8]) -> Vec<u8> {
    [&[HEADS], key].concat()
}

fn piece_key(key: &[u8], number: u32) -> Vec<u8> {
    [&[PIECES], key, &number.to_be_bytes()].concat()
}

fn is_full(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn storage(doing: &'static str, space: Space) -> impl FnOnce(sled::Error) -> StoreError {
    move |error| match error {
        sled::Error::Io(source) if is_full(source.kind()) => StoreError::Full { doing, source },
        error @ sled::Error::Corruption { .. } => {
            StoreError::Damaged { doing, space, source: error.into() }
        }
        error => StoreError::Storage { doing, space, source: error.into() },
    }
}

#[cfg(test)]
mod tests;
