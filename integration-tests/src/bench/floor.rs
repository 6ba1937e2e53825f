//! The floor: the same number of groups of the same size, appended to a preallocated file and synced one by one.

use super::Error;
use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

/// What an engine has written to its journal.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Written {
    pub groups: u64,
    pub bytes: u64,
    /// Whether each group was made durable by a sync, or only handed to the system.
    pub synced: bool,
    /// How many events are in it.
    pub events: u64,
}

/// How long it takes to write the same in equal groups, each made durable by `fdatasync` where those were.
pub(super) fn append(folder: &Path, written: Written) -> Result<Duration, Error> {
    let Written { groups, bytes, synced, .. } = written;
    let group = usize::try_from(bytes / groups.max(1))?.max(1);
    let path = folder.join("floor");
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
    let zeros = vec![0_u8; 1 << 20];
    for at in (0..=bytes).step_by(1 << 20) {
        file.write_all_at(&zeros, at)?;
    }
    file.sync_all()?;
    let payload = vec![0x5a_u8; group];
    let begun = Instant::now();
    let mut at = 0;
    for _ in 0..groups {
        file.write_all_at(&payload, at)?;
        if synced {
            file.sync_data()?;
        }
        at += group as u64;
    }
    let taken = begun.elapsed();
    std::fs::remove_file(path)?;
    Ok(taken)
}
