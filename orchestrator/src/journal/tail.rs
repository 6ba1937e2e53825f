//! The end of the journal, as it is found when it is opened, and made certain before anybody acts on it.
//!
//! What goes in: the last segment. What comes out: its file, with nothing torn behind the last intact record and everything before that on the disk.
//! What must be true: it is read as the disk has it. Where a sync failed in an earlier life, the system takes for written what the disk never had; a
//! sync alone would succeed, and make nothing durable. All segments before it were synced as a whole before it was begun.

use super::{Disk, DiskFile, GroupSeq, JournalError, TornTail, error::doing};

/// The last segment as it was read, before anything is done to it.
pub(super) struct ReadTail {
    pub(super) name: String,
    pub(super) nonce: u64,
    pub(super) next: GroupSeq,
    pub(super) end: usize,
    /// Intact records of a torn write lie behind the end, or one begins there.
    pub(super) is_torn: bool,
    /// Up to where records of it lie there, and headers, intact or not.
    pub(super) stale_end: Option<usize>,
}

pub(super) struct OpenTail {
    pub(super) file: Box<dyn DiskFile>,
    pub(super) nonce: u64,
    pub(super) next: GroupSeq,
}

/// Makes durable what a killed process left in the system's memory, and forgets what is only there, before the last segment is read.
pub(super) fn let_go(disk: &dyn Disk, name: &str) -> Result<(), JournalError> {
    let file = disk.open(name).map_err(doing("opening segment", name))?;
    file.let_go().map_err(doing("syncing segment", name))
}

/// Clears what a torn write left behind the last intact record, and makes sure that everything before is durable.
pub(super) fn cut(
    disk: &dyn Disk,
    tail: ReadTail,
) -> Result<(OpenTail, Option<TornTail>), JournalError> {
    let ReadTail { name, nonce, next, end, stale_end, .. } = tail;
    let file = disk.open(&name).map_err(doing("opening segment", &name))?;
    let torn = stale_end.map(|_| TornTail { segment: name.clone(), offset: end as u64, seq: next });
    if let Some(stale_end) = stale_end {
        tracing::warn!(segment = %name, offset = end, seq = %next, "The journal ended in a torn write, which was cut.");
        // Otherwise a new record of the same length would join up with it, or a header pass for the beginning of a torn write.
        let cut = file.write_at(end as u64, &vec![0; stale_end - end]);
        cut.map_err(doing("cutting the torn end of segment", &name))?;
    }
    file.sync_data().map_err(doing("syncing segment", &name))?;
    disk.sync_dir().map_err(doing("syncing", "the folder"))?;
    Ok((OpenTail { file, nonce, next }, torn))
}
