//! Where things lie: the folder of the brokers under cargo's target folder, and its locks.
//!
//! The target folder is found from the running binary, so that a test, the `brokers` program and a
//! build with its own target folder each meet the brokers of their own build.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Unavailable, folder};

/// How long to wait for another process that installs or starts a broker. A first download of
/// Kafka's jars and a slow start fit into it twice.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(900);

/// How often a held lock is tried again.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// The folder of all brokers: `target/brokers`, created when absent.
pub(crate) fn root() -> Result<PathBuf, Unavailable> {
    let root = target().join("brokers");
    create(&root)?;
    Ok(root)
}

/// The root of the workspace, as it was when this crate was built.
pub(crate) fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

fn target() -> PathBuf {
    // Cargo marks its target folder with this file; the binary lies some levels below.
    let marked = |folder: &Path| folder.join("CACHEDIR.TAG").is_file();
    if let Ok(binary) = std::env::current_exe()
        && let Some(target) = binary.ancestors().skip(1).find(|folder| marked(folder))
    {
        return target.to_path_buf();
    }
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => std::path::absolute(&target).unwrap_or_else(|_| PathBuf::from(target)),
        None => workspace().join("target"),
    }
}

pub(crate) fn create(path: &Path) -> Result<(), Unavailable> {
    fs::create_dir_all(path).map_err(folder("creating the folder", path))
}

pub(crate) fn write(path: &Path, text: &str) -> Result<(), Unavailable> {
    // By rename: the watchdog and other processes read these files without a lock.
    let draft = path.with_extension("draft");
    fs::write(&draft, text).map_err(folder("writing", &draft))?;
    fs::rename(&draft, path).map_err(folder("putting in place", path))
}

/// Removes a file or a whole folder; that it is not there is fine.
pub(crate) fn remove(path: &Path) -> Result<(), Unavailable> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(folder("removing", path)(error))
        }
        _ => Ok(()),
    }
}

/// Holds the lock file alone until dropped. Waits for others, bounded by [`LOCK_WAIT_MAX`].
pub(crate) fn lock(path: &Path) -> Result<File, Unavailable> {
    wait_for(path, File::try_lock)
}

/// Holds the lock file together with other users until dropped.
pub(crate) fn lease(path: &Path) -> Result<File, Unavailable> {
    wait_for(path, File::try_lock_shared)
}

/// Whether anybody holds a lease now.
pub(crate) fn is_leased(path: &Path) -> bool {
    open(path).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

fn wait_for(
    path: &Path,
    take: impl Fn(&File) -> Result<(), TryLockError>,
) -> Result<File, Unavailable> {
    let file = open(path)?;
    let begun = Instant::now();
    loop {
        match take(&file) {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if begun.elapsed() < LOCK_WAIT_MAX => {
                thread::sleep(LOCK_POLL);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(Unavailable::Locked {
                    path: path.to_path_buf(),
                    waited_s: LOCK_WAIT_MAX.as_secs(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(folder("locking", path)(error)),
        }
    }
}

fn open(path: &Path) -> Result<File, Unavailable> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(folder("opening the lock", path))
}
