//! The check of a folder: opens it, finds out whose it is, checks it, and mends it by a plan with a record of what was done.
//!
//! ```text
//! DIR/repairs/0001/repair.json        what was found, what was done, by whom and when, and what is found since
//! DIR/repairs/0001/SPACE-KEY.record   the bytes of a record that was taken out
//! ```
//!
//! A folder is that of an engine, or of a participant: both keep what they know in a store. Nobody else may work on it meanwhile,
//! which its lock makes sure of. A check changes nothing of what the folder says; opening its store does what any start does to its files.

use crate::{
    engine::{self, AtRestError},
    journal::{self, Disk, FileDisk},
    participant,
    registry::Registry,
    store::{
        ALL_KEYS, DataFolder, Finding, Fsck, Hex, RepairError, RepairPlan, SledStore, Space, State,
        Store, StoreError, StoreOptions,
    },
};
use dirigent_model::time::Timestamp;
use serde::Serialize;
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Repairs of one folder that are told apart by their number.
const REPAIRS_MAX: u32 = 9_999;

/// Bytes of a key in the name of a file; what is longer is told by its checksum.
const KEY_BYTES_IN_NAME: usize = 64;

/// Whose folder it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whose {
    /// An engine's: store and journal.
    Engine,
    /// A participant's: a store alone.
    Participant,
}

/// What a check of a folder found.
#[derive(Debug, Clone, Serialize)]
pub struct FolderCheck {
    /// Whose folder it is.
    pub whose: Whose,
    /// What was found.
    #[serde(flatten)]
    pub found: Fsck,
}

/// Why a folder can't be checked or mended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FsckError {
    /// It can't be opened or read.
    #[error(transparent)]
    Unreadable(#[from] AtRestError),
    /// The plan was not applied.
    #[error("mending data folder {folder}")]
    Repair {
        /// Which folder.
        folder: String,
        /// Why not.
        #[source]
        source: RepairError,
    },
    /// The record of what is done can't be kept.
    #[error("{doing} {place}; {outcome}")]
    Record {
        /// What was being done.
        doing: &'static str,
        /// To what.
        place: String,
        /// What became of the repair.
        outcome: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What a plan did to a folder.
#[derive(Debug, Clone, Serialize)]
pub struct Applied {
    /// Where the record of it lies.
    pub record: PathBuf,
    /// Records that were taken out, and whose bytes lie beside it.
    pub set_aside: usize,
    /// What a check finds since.
    pub now: FolderCheck,
}

/// Checks a folder at rest. Blocks: not for the async runtime's threads.
///
/// # Errors
/// There is no such folder, a process works on it, or what is in it can't be read at all.
pub fn check_folder(folder: &Path, registry: &Registry) -> Result<FolderCheck, FsckError> {
    Ok(Opened::open(folder)?.check(registry)?)
}

/// Applies a plan to the folder it was made for, and writes a record of it. Blocks: not for the async runtime's threads.
///
/// # Errors
/// As for [`check_folder`]; or the plan is for another state, or holds what the check does not propose: nothing is changed then.
pub fn apply_to_folder(
    folder: &Path,
    registry: &Registry,
    plan: &RepairPlan,
    by: &str,
    at: Timestamp,
) -> Result<Applied, FsckError> {
    let opened = Opened::open(folder)?;
    let refused = |source| FsckError::Repair { folder: folder.display().to_string(), source };
    let found = opened.check(registry)?;
    // Before anything is written down: a plan that is refused leaves no record.
    found.found.check_plan(plan).map_err(refused)?;
    let place = next_record(folder).map_err(failed("making the folder", folder, UNCHANGED))?;
    let mut record =
        Record { by, at, whose: found.whose, found: &found.found.findings, plan, after: None };
    record.write(&place).map_err(failed("writing into", &place, UNCHANGED))?;
    let mut set_aside = 0;
    let mut keep = |space: Space, key: &[u8], bytes: &[u8]| {
        set_aside += 1;
        keep_bytes(&place, space, key, bytes)
    };
    let now = match opened.whose {
        Whose::Engine => {
            let disk = Arc::clone(&opened.journal);
            let store = Arc::clone(&opened.store);
            engine::repair(store, disk, Some(registry), plan, &mut keep)
        }
        Whose::Participant => participant::repair(&*opened.store, plan, &mut keep),
    };
    let now = FolderCheck { whose: opened.whose, found: now.map_err(refused)? };
    record.after = Some(After { state: &now.found.state, findings: &now.found.findings });
    record.write(&place).map_err(failed("writing into", &place, CHANGED))?;
    Ok(Applied { record: place.join(RECORD), set_aside, now })
}

const RECORD: &str = "repair.json";
const UNCHANGED: &str =
    "nothing was changed: make room, or check the permissions, and apply the plan again";
const CHANGED: &str = "the plan was applied, but its record does not say how it ended";

struct Opened {
    whose: Whose,
    store: Arc<dyn Store>,
    journal: Arc<dyn Disk>,
    folder: String,
}

impl Opened {
    fn open(folder: &Path) -> Result<Self, AtRestError> {
        let named = || folder.display().to_string();
        if !folder.join("journal").is_dir() || !folder.join("store").is_dir() {
            return Err(AtRestError::NoFolder { folder: named() });
        }
        let opened = DataFolder::open(folder)?;
        let unreadable =
            |error: io::Error| AtRestError::Journal { folder: named(), source: error.into() };
        let journal = FileDisk::open(&opened.journal()).map_err(unreadable)?;
        let store = SledStore::open(&opened, StoreOptions::default())?;
        let has_journal = !journal::is_empty(&journal).map_err(unreadable)?;
        let is_participants =
            !has_journal && is_empty(&store, Space::Meta)? && !is_empty(&store, Space::Ledger)?;
        let whose = if is_participants { Whose::Participant } else { Whose::Engine };
        Ok(Self { whose, store: Arc::new(store), journal: Arc::new(journal), folder: named() })
    }

    fn check(&self, registry: &Registry) -> Result<FolderCheck, AtRestError> {
        let found = match self.whose {
            Whose::Engine => {
                let (store, disk) = (Arc::clone(&self.store), Arc::clone(&self.journal));
                let folder = self.folder.clone();
                engine::fsck(store, disk, Some(registry))
                    .map_err(|source| AtRestError::Journal { folder, source })?
            }
            Whose::Participant => participant::fsck(&*self.store)?,
        };
        Ok(FolderCheck { whose: self.whose, found })
    }
}

fn is_empty(store: &dyn Store, space: Space) -> Result<bool, StoreError> {
    let page = store.scan(space, ALL_KEYS, 1)?;
    Ok(page.records.is_empty() && page.damaged.is_empty())
}

/// What was done to a folder, for whoever comes next.
#[derive(Serialize)]
struct Record<'a> {
    by: &'a str,
    at: Timestamp,
    whose: Whose,
    found: &'a [Finding],
    plan: &'a RepairPlan,
    /// What is found since; none while the plan is being applied.
    after: Option<After<'a>>,
}

#[derive(Serialize)]
struct After<'a> {
    state: &'a State,
    findings: &'a [Finding],
}

impl Record<'_> {
    fn write(&self, place: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        // Whole or not at all: the one before stands until this one is durable.
        let new = place.join("repair.json.new");
        write_durably(&new, &text)?;
        fs::rename(&new, place.join(RECORD))?;
        File::open(place)?.sync_all()
    }
}

/// A new folder for the record of a repair.
fn next_record(folder: &Path) -> io::Result<PathBuf> {
    let repairs = folder.join("repairs");
    let make =
        |path: &Path, recursive| DirBuilder::new().recursive(recursive).mode(0o700).create(path);
    make(&repairs, true)?;
    for number in 1..=REPAIRS_MAX {
        let place = repairs.join(format!("{number:04}"));
        match make(&place, false) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(()) => {
                File::open(&repairs)?.sync_all()?;
                File::open(folder)?.sync_all()?;
                return Ok(place);
            }
        }
    }
    Err(io::Error::other(format!("there are {REPAIRS_MAX} records of repairs already")))
}

fn keep_bytes(place: &Path, space: Space, key: &[u8], bytes: &[u8]) -> io::Result<()> {
    let shown = Hex(key[..key.len().min(KEY_BYTES_IN_NAME)].to_vec());
    let rest = match key.len() > KEY_BYTES_IN_NAME {
        true => format!("-{:08x}", crc32c::crc32c(key)),
        false => String::new(),
    };
    write_durably(&place.join(format!("{space}-{shown}{rest}.record")), bytes)?;
    File::open(place)?.sync_all()
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    // What instances carry is nobody else's business on this machine.
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn failed(
    doing: &'static str,
    place: &Path,
    outcome: &'static str,
) -> impl FnOnce(io::Error) -> FsckError {
    let place = place.display().to_string();
    move |source| FsckError::Record { doing, place, outcome, source }
}
