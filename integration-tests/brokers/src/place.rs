//! Where things lie: the folder of the brokers under cargo's target folder, and its locks.
//!
//! The target folder is found from the running binary, so that a test, the `brokers` program and a
//! build with its own target folder each meet the brokers of their own build. A binary that was copied out of it
//! keeps its brokers in the user's cache: the folder it was built in may be somebody else's by now, or gone.

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

/// The root of the workspace that the running binary is a build of; none where it was copied out of its target folder.
pub(crate) fn workspace() -> Option<PathBuf> {
    let target = target_of(&std::env::current_exe().ok()?)?;
    if let Some(around) = target.parent().filter(|around| around.join("Cargo.toml").is_file()) {
        return Some(around.to_path_buf());
    }
    // A target folder that lies elsewhere: as it was when this crate was built.
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map(Path::to_path_buf)
}

fn target() -> PathBuf {
    let binary = std::env::current_exe().ok();
    if let Some(target) = binary.as_deref().and_then(target_of) {
        return target;
    }
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => std::path::absolute(&target).unwrap_or_else(|_| PathBuf::from(target)),
        None => cache(|name| std::env::var_os(name).map(PathBuf::from)),
    }
}

/// Cargo marks its target folder with this file; its binaries lie some levels below.
fn target_of(binary: &Path) -> Option<PathBuf> {
    let marked = |folder: &&Path| folder.join("CACHEDIR.TAG").is_file();
    binary.ancestors().skip(1).find(marked).map(Path::to_path_buf)
}

/// What the user's programs keep to find it again, and can do without.
fn cache(variable: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    cache.unwrap_or_else(std::env::temp_dir).join("dirigent")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_belongs_to_the_target_folder_around_it_and_a_copied_one_to_none() {
        let place = tempfile::tempdir().expect("a folder");
        let target = place.path().join("target");
        fs::create_dir_all(target.join("debug/deps")).expect("make");
        fs::write(target.join("CACHEDIR.TAG"), "").expect("write");
        assert_eq!(target_of(&target.join("debug/deps/order")), Some(target));
        assert_eq!(target_of(&place.path().join("bin/order")), None);
    }

    #[test]
    fn brokers_of_a_copied_binary_lie_in_the_cache_of_its_user() {
        let with = |said: &[(&str, &str)]| {
            cache(|name| said.iter().find(|said| said.0 == name).map(|said| said.1.into()))
        };
        let home = ("HOME", "/ann");
        assert_eq!(with(&[("XDG_CACHE_HOME", "/c"), home]), Path::new("/c/dirigent"));
        assert_eq!(with(&[("XDG_CACHE_HOME", "c"), home]), Path::new("/ann/.cache/dirigent"));
        assert_eq!(with(&[]), std::env::temp_dir().join("dirigent"));
    }
}
