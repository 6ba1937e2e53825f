//! The store: what the journal adds up to. An ordered map in named spaces, written by the checkpoint
//! and read at start and when a cold instance is asked for.
//!
//! It may lag behind the journal, never the other way round: what it lost since its last [`Store::sync`]
//! is folded again from the journal. [`SledStore`] keeps it on disk, [`MemoryStore`] for tests; one
//! conformance suite holds each of them to what is written here.
//!
//! A participant keeps its answers in a store too. One in a database offers a [`Transaction`], so that they are kept together
//! with what the service writes into its own tables: `postgres`, behind the cargo feature of that name.

pub(crate) mod check;
mod folder;
mod memory;
#[cfg(feature = "postgres")]
pub mod postgres;
mod sled_store;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod killed;

use std::error::Error;
use std::fmt;
use std::io;
use std::ops::Bound;

pub use check::{
    FINDINGS_MAX, Finding, Fsck, Hex, KeepBytes, PLAN_FORMAT, RecordChange, Repair, RepairError,
    RepairPlan, Severity, State,
};
pub use folder::{DataFolder, FolderError};
pub use memory::MemoryStore;
#[cfg(feature = "postgres")]
pub use postgres::PostgresStore;
pub use sled_store::{CACHE_BYTES, SledStore, StoreOptions};

/// The largest value, in bytes. An instance is a few KiB; one that gets near this is a mistake of its definition.
pub const VALUE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The longest key, in bytes. Keys are ids and business keys; longer ones slow every page they are on.
pub const KEY_BYTES_MAX: usize = 2 * 1024;

/// Bytes of keys and values of one space that are written as one, all or nothing. Enough for one value
/// of the largest size with its company; a batch of the store is held in memory a few times over.
pub const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes of keys and values after which a scan returns what it has, so that a page of large values fits the memory.
pub const SCAN_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a record is part of. Each space has its own keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// Saga instances by id.
    Instances,
    /// What is due, time first.
    Timers,
    /// From correlation and idempotency keys to instances.
    Keys,
    /// Messages kept for their instances: parked, or quarantined.
    Kept,
    /// The accounting of what came in and what became of it.
    Ledger,
    /// The checkpoint and other single records.
    Meta,
}

impl Space {
    /// Every space.
    pub const ALL: [Space; 6] =
        [Space::Instances, Space::Timers, Space::Keys, Space::Kept, Space::Ledger, Space::Meta];

    /// Its name, also on disk: never changes.
    pub fn name(self) -> &'static str {
        match self {
            Space::Instances => "instances",
            Space::Timers => "timers",
            Space::Keys => "keys",
            Space::Kept => "kept",
            Space::Ledger => "ledger",
            Space::Meta => "meta",
        }
    }
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One record to be put, or to be removed when `value` is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub space: Space,
    /// Under which key, at most [`KEY_BYTES_MAX`].
    pub key: Vec<u8>,
    /// The new value, at most [`VALUE_BYTES_MAX`].
    pub value: Option<Vec<u8>>,
}

impl Change {
    /// Puts a value, whether or not there was one.
    pub fn put(space: Space, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self { space, key: key.into(), value: Some(value.into()) }
    }

    /// Removes a value, if there was one.
    pub fn remove(space: Space, key: impl Into<Vec<u8>>) -> Self {
        Self { space, key: key.into(), value: None }
    }
}

/// From where to where to look, in the order of the keys' bytes.
pub type KeyRange<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// Every key.
pub const ALL_KEYS: KeyRange<'static> = (Bound::Unbounded, Bound::Unbounded);

/// The end of the range that starts with `prefix` and holds every key beginning with it.
pub fn prefix_end(prefix: &[u8]) -> Bound<Vec<u8>> {
    match prefix.iter().rposition(|byte| *byte != u8::MAX) {
        None => Bound::Unbounded,
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            Bound::Excluded(end)
        }
    }
}

/// One page of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// What was found, in the order of the keys.
    pub records: Vec<(Vec<u8>, Vec<u8>)>,
    /// Keys whose value is damaged: to be set aside, never a reason to stop.
    pub damaged: Vec<Vec<u8>>,
    /// Where the next page starts (inclusive), unless this was the last.
    pub next: Option<Vec<u8>>,
}

/// A key, and its value where there is one.
pub type Glanced = (Vec<u8>, Option<Vec<u8>>);

/// An ordered map in named spaces.
pub trait Store: Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] concerns this record only; it can be put or removed like any other.
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Carries the changes out, the last one of a key winning.
    ///
    /// The changes of one space are one batch, which a crash leaves in whole or not at all; more than [`BATCH_BYTES_MAX`]
    /// are several batches in the order given. Spaces follow each other in the order of their last change,
    /// so that a mark put last stands only if everything else does. Durable after [`sync`](Store::sync).
    ///
    /// # Errors
    /// [`StoreError::ValueTooLarge`] and [`StoreError::KeyTooLong`] change nothing; all others are final.
    fn write(&self, changes: &[Change]) -> Result<(), StoreError>;

    /// Up to `limit` records of a range (at least one, whatever `limit` says), or fewer when they are large; see [`Page::next`].
    fn scan(&self, space: Space, range: KeyRange<'_>, limit: usize) -> Result<Page, StoreError>;

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// Any error is final.
    fn sync(&self) -> Result<(), StoreError>;

    /// Hands everything written so far to the system, so that it survives the end of this process; not that of the machine. A
    /// [`write`](Store::write) alone may leave it in memory of the process.
    ///
    /// # Errors
    /// Any error is final.
    fn hand_over(&self) -> Result<(), StoreError> {
        self.sync()
    }

    /// The values of those keys that are cheap to be had at once: of none, of some, or of all of them. A record that is damaged
    /// is left out.
    ///
    /// # Errors
    /// What [`get`](Store::get) says of the whole store.
    fn glance(&self, space: Space, keys: &[Vec<u8>]) -> Result<Vec<Glanced>, StoreError> {
        let (_, _) = (space, keys);
        Ok(Vec::new())
    }

    /// The bytes of a record as far as they can be read, damaged or not: for whoever takes it out and keeps them. Empty where there
    /// is nothing to be read.
    ///
    /// # Errors
    /// What [`get`](Store::get) says of the whole store.
    fn remains(&self, space: Space, key: &[u8]) -> Result<Vec<u8>, StoreError> {
        match self.get(space, key) {
            Ok(value) => Ok(value.unwrap_or_default()),
            Err(error) if error.is_of_one_record() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Begins a transaction, where the store has any; one at a time. It sees what all before it have left.
    ///
    /// # Errors
    /// [`StoreError::is_passing`] where it may be tried again.
    fn transaction(&self) -> Result<Option<Box<dyn Transaction>>, StoreError> {
        Ok(None)
    }
}

/// Reads and writes that are kept as a whole, or not at all: dropped without [`commit`](Transaction::commit), nothing of it remains.
///
/// Within it, what one handler does is kept or undone by itself, between [`enter`](Transaction::enter) and [`leave`](Transaction::leave).
pub trait Transaction: Store {
    /// A handler begins.
    fn enter(&self);

    /// A handler has ended. Unless it `keeps` what it did, all of it since [`enter`](Transaction::enter) is undone.
    ///
    /// # Errors
    /// The whole transaction came to nothing.
    fn leave(&self, keeps: bool) -> Result<Left, StoreError>;

    /// Makes everything durable.
    ///
    /// # Errors
    /// One that [`is_passing`](StoreError::is_passing) may be in doubt: what the store says afterwards counts.
    fn commit(self: Box<Self>) -> Result<(), StoreError>;

    /// The same as a transaction of PostgreSQL, if it is one.
    #[cfg(feature = "postgres")]
    fn postgres(&self) -> Option<&postgres::Turn> {
        None
    }
}

/// What is left of a handler's work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// All of it.
    Kept,
    /// Nothing, as it was to be.
    Undone,
    /// Nothing, though it was to be kept: this is why.
    Refused(String),
}

/// Why the store refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It could not be opened.
    #[error(
        "opening the store in {folder}: {doing}; if this stays, restore the data folder from a backup"
    )]
    Open {
        /// Where it is.
        folder: String,
        /// What was being done.
        doing: &'static str,
        /// What went wrong.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// A later release wrote it.
    #[error(
        "the store in {folder} has format {version}, this release knows up to {known}; use the \
         release that wrote it, or a later one"
    )]
    Newer {
        /// Where it is.
        folder: String,
        /// Its format.
        version: u32,
        /// The highest this release reads.
        known: u32,
    },
    /// What is on the disk is not what was written there.
    #[error(
        "{doing} the {space} of the store, which is damaged: starting again does not mend it; restore the data folder from a backup, and have the disk looked at"
    )]
    Damaged {
        /// What was being done.
        doing: &'static str,
        /// Where.
        space: Space,
        /// What went wrong.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The disk failed.
    #[error("{doing} the {space} of the store; check the disk, then start again")]
    Storage {
        /// What was being done.
        doing: &'static str,
        /// Where.
        space: Space,
        /// What went wrong.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Making what was written durable failed; nobody knows what is.
    #[error("syncing the store; check the disk, then start again")]
    Sync {
        /// What went wrong.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The disk, or the quota, is full.
    #[error("no space left while {doing} the store; make room, then start again")]
    Full {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An earlier error was final.
    #[error("the store has stopped after an earlier error; start the process again")]
    Stopped,
    /// A database does not let itself be used as it is.
    #[error("{doing} at {place}; {advice}")]
    Unusable {
        /// What was being done.
        doing: String,
        /// Where, without secrets.
        place: String,
        /// What a person can do.
        advice: String,
        /// What went wrong.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// A database was not reached, or can't do now what it was asked for. Nobody knows what became of a commit under way.
    #[error("{doing} at {place}; it is tried again once the database can do it")]
    Unreached {
        /// What was being done.
        doing: String,
        /// Where, without secrets.
        place: String,
        /// What went wrong.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// A database gave a transaction up, and nothing of it remains.
    #[error("{doing} at {place}; the database gave the transaction up, it is tried again")]
    GivenUp {
        /// What was being done.
        doing: String,
        /// Where, without secrets.
        place: String,
        /// What went wrong.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Somebody else works for this participant.
    #[error(
        "participant {participant} has its place at {place} taken by {owner}; stop that process, or wait until it has ended"
    )]
    InUse {
        /// Whose place.
        participant: String,
        /// Where, without secrets.
        place: String,
        /// Who has it.
        owner: String,
    },
    /// Somebody else has taken this participant's place since.
    #[error(
        "participant {participant} lost its place at {place} to {owner}; nothing more is written here, end this process"
    )]
    Fenced {
        /// Whose place.
        participant: String,
        /// Where, without secrets.
        place: String,
        /// Who has it now.
        owner: String,
    },
    /// What is stored under this key is not what was put there.
    #[error("the record {} of the {space} is damaged", Shown(.key))]
    Corrupt {
        /// Where.
        space: Space,
        /// Which.
        key: Vec<u8>,
    },
    /// A later release wrote this record.
    #[error("the record {} of the {space} has layout {layout}, this release reads up to {known}; use the release that wrote it, or a later one", Shown(.key))]
    NewerRecord {
        /// Where.
        space: Space,
        /// Which.
        key: Vec<u8>,
        /// Its layout.
        layout: u8,
        /// The highest this release reads.
        known: u8,
    },
    /// Above [`VALUE_BYTES_MAX`]. Nothing was changed.
    #[error("a value of {bytes} bytes for {} of the {space} is above the store's bound of {VALUE_BYTES_MAX}", Shown(.key))]
    ValueTooLarge {
        /// Where.
        space: Space,
        /// Which.
        key: Vec<u8>,
        /// How large it is.
        bytes: usize,
    },
    /// Above [`KEY_BYTES_MAX`]. Nothing was changed.
    #[error("a key of {bytes} bytes for the {space} is above the store's bound of {KEY_BYTES_MAX}")]
    KeyTooLong {
        /// Where.
        space: Space,
        /// How long it is.
        bytes: usize,
    },
}

impl StoreError {
    /// Whether the store is of no more use and the process has to end. Otherwise only this record, or this call, is concerned.
    pub fn is_final(&self) -> bool {
        match self {
            StoreError::Open { .. }
            | StoreError::Newer { .. }
            | StoreError::Damaged { .. }
            | StoreError::Storage { .. }
            | StoreError::Sync { .. }
            | StoreError::Full { .. }
            | StoreError::Unusable { .. }
            | StoreError::InUse { .. }
            | StoreError::Fenced { .. }
            | StoreError::Stopped => true,
            StoreError::Unreached { .. }
            | StoreError::GivenUp { .. }
            | StoreError::Corrupt { .. }
            | StoreError::NewerRecord { .. }
            | StoreError::ValueTooLarge { .. }
            | StoreError::KeyTooLong { .. } => false,
        }
    }

    /// Whether the same may succeed later: everything since the last commit that was confirmed is to be done again.
    pub fn is_passing(&self) -> bool {
        matches!(self, StoreError::Unreached { .. } | StoreError::GivenUp { .. })
    }

    /// Whether one record or call is concerned, and all others are as good as before.
    pub fn is_of_one_record(&self) -> bool {
        !self.is_final() && !self.is_passing()
    }
}

/// The beginning of a key, readable: enough to find it, never a whole page of it.
struct Shown<'a>(&'a [u8]);

/// Bytes of a key that an error shows: longer than our ids.
const KEY_BYTES_SHOWN: usize = 64;

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.len().min(KEY_BYTES_SHOWN);
        write!(f, "\"{}\"", self.0[..end].escape_ascii())?;
        if end < self.0.len() { f.write_str("…") } else { Ok(()) }
    }
}

/// Refuses before anything is changed what no store takes.
fn check_bounds(changes: &[Change]) -> Result<(), StoreError> {
    for Change { space, key, value } in changes {
        let bytes = value.as_ref().map_or(0, Vec::len);
        if bytes > VALUE_BYTES_MAX {
            return Err(StoreError::ValueTooLarge { space: *space, key: key.clone(), bytes });
        }
        if key.len() > KEY_BYTES_MAX {
            return Err(StoreError::KeyTooLong { space: *space, bytes: key.len() });
        }
    }
    Ok(())
}

/// The spaces that are changed, in the order of their last change.
pub(crate) fn spaces_in_order(changes: &[Change]) -> Vec<Space> {
    let mut spaces = Vec::with_capacity(Space::ALL.len());
    for change in changes.iter().rev() {
        if !spaces.contains(&change.space) {
            spaces.push(change.space);
        }
    }
    spaces.reverse();
    spaces
}

/// Whether any key can lie in the range; the maps of the standard library and of sled panic or misbehave on an inverted one.
fn is_empty_range(range: &KeyRange<'_>) -> bool {
    match range {
        (Bound::Excluded(from), Bound::Excluded(to))
        | (Bound::Included(from), Bound::Excluded(to))
        | (Bound::Excluded(from), Bound::Included(to)) => from >= to,
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
    }
}
