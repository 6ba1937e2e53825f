//! How the journal says that it can't go on.

use std::error::Error;
use std::io;

use super::GroupSeq;

/// Why the journal refused. All but [`TooLarge`](JournalError::TooLarge) and [`NoRoom`](JournalError::NoRoom) are final:
/// the process has to end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The disk failed. What was being written is durable or not; only a restart can tell.
    #[error("{doing} {file} of the journal; check the disk, then start again")]
    Disk {
        /// What was being done.
        doing: &'static str,
        /// To which file of the journal's folder.
        file: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The disk, or the quota, is full.
    #[error("no space left while {doing} {file} of the journal; make room, then start again")]
    Full {
        /// What was being done.
        doing: &'static str,
        /// To which file of the journal's folder.
        file: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is no room for the file of the next segment. Nothing was changed: the same may be tried again.
    #[error(
        "no space left for the next segment of the journal, a file of {bytes} bytes; make room for it"
    )]
    NoRoom {
        /// How long the file is to be.
        bytes: u64,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An earlier error was final.
    #[error("the journal has stopped after an earlier error; start the process again")]
    Stopped,
    /// The record is above `record_bytes_max`. Nothing was changed.
    #[error("a record of {bytes} bytes is above the journal's bound of {bytes_max}")]
    TooLarge {
        /// The record's.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// Records that were durable can't be read any more.
    #[error(
        "segment {segment} of the journal is damaged at byte {offset}, where group {expected} should \
         stand ({what}); nothing was changed: restore the data folder from a backup"
    )]
    Corrupt {
        /// The file.
        segment: String,
        /// Where in it.
        offset: u64,
        /// The first group that can't be read.
        expected: GroupSeq,
        /// How that is known.
        what: &'static str,
    },
    /// Groups are missing before the first or between two segments.
    #[error(
        "the journal has no groups {from} up to {found}: the segment before {segment} is missing; \
         restore the data folder from a backup"
    )]
    Missing {
        /// The first group that is missing.
        from: GroupSeq,
        /// The first one that is there again.
        found: GroupSeq,
        /// The file that starts with it.
        segment: String,
    },
    /// The store is ahead of the journal: the journal was emptied, or comes from an older backup.
    #[error(
        "the store has taken in all groups below {from}, but the journal ends at {next}; the two are \
         not of the same age: restore both from one backup"
    )]
    Behind {
        /// Where the store wants to go on.
        from: GroupSeq,
        /// The group the journal would write next.
        next: GroupSeq,
    },
    /// A later release wrote it.
    #[error(
        "segment {segment} of the journal has format {version}, this release knows up to {known}; \
         use the release that wrote it, or a later one"
    )]
    Newer {
        /// The file.
        segment: String,
        /// Its format.
        version: u32,
        /// The highest this release reads.
        known: u32,
    },
    /// Whoever reads the journal at start could not take a record in.
    #[error("taking in group {seq} of the journal")]
    Refused {
        /// The record.
        seq: GroupSeq,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl JournalError {
    /// Whether the journal is of no more use and the process has to end.
    pub fn is_final(&self) -> bool {
        !matches!(self, JournalError::TooLarge { .. } | JournalError::NoRoom { .. })
    }
}

/// Says what was being done to which file when the disk failed.
pub(super) fn doing(doing: &'static str, file: &str) -> impl FnOnce(io::Error) -> JournalError {
    let file = file.to_owned();
    move |source| match is_full(&source) {
        true => JournalError::Full { doing, file, source },
        false => JournalError::Disk { doing, file, source },
    }
}

/// Whether there is no room, or no more than a quota allows.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
