//! The data folder: who uses it, and what lies where in it.
//!
//! Opened first of all. A lock makes sure that only one process writes; it goes away with the process, however that ends.
//!
//! ```text
//! lock       who uses the folder
//! journal/   segments of the journal
//! store/     files of the store
//! schemas/   schemas of a registry, by their ids
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use fs4::fs_std::FileExt;

/// Bytes of the lock file that are read when it is taken: a few short lines.
const HOLDER_BYTES_MAX: u64 = 1024;

/// A data folder that this process alone uses. Clones share the lock; it is released with the last of them.
#[derive(Clone, Debug)]
pub struct DataFolder {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    lock: File,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Closing would not do: a child that is just being started has the same open file, until it runs its program.
        let _ = FileExt::unlock(&self.lock);
    }
}

/// Why a data folder can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// Another process uses it.
    #[error("data folder {} is in use by {holder}; stop it or choose another folder with --data", .path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Which process, as it introduced itself.
        holder: String,
    },
    /// The file system gives the same lock to everybody.
    #[error(
        "data folder {} lies on a file system whose locks keep nobody out (some network file systems are like that), so two processes could write to it at once; choose a folder on a local disk with --data", .path.display()
    )]
    LockWorthless {
        /// The folder.
        path: PathBuf,
    },
    /// The disk, or a permission, is in the way.
    #[error("{doing} {}; check the permissions and the disk, or choose another folder with --data", .path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl DataFolder {
    /// Makes the folder if need be and locks it.
    ///
    /// # Errors
    /// [`FolderError::InUse`] names the process that has it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FolderError> {
        let path = path.as_ref();
        make_folder(path)?;
        let lock = lock(path)?;
        for inner in [path.join("journal"), path.join("store")] {
            make_folder(&inner)?;
        }
        sync_names(path)?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_names(parent)?;
        }
        Ok(Self { inner: Arc::new(Inner { path: path.to_owned(), lock }) })
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Where the journal's segments lie.
    pub fn journal(&self) -> PathBuf {
        self.inner.path.join("journal")
    }

    /// Where the schemas lie that a registry told; made when there is one.
    pub fn schemas(&self) -> PathBuf {
        self.inner.path.join("schemas")
    }

    /// Where the store's files lie.
    pub fn store(&self) -> PathBuf {
        self.inner.path.join("store")
    }
}

fn make_folder(path: &Path) -> Result<(), FolderError> {
    // What instances carry is nobody else's business on this machine.
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(io_error("making the folder", path))
}

fn sync_names(path: &Path) -> Result<(), FolderError> {
    let synced = File::open(path).and_then(|folder| folder.sync_all());
    synced.map_err(io_error("syncing the folder", path))
}

fn lock(folder: &Path) -> Result<File, FolderError> {
    let path = folder.join("lock");
    let mut options = OpenOptions::new();
    let mut file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io_error("opening the lock file", &path))?;
    let locked = FileExt::try_lock_exclusive(&file);
    if !locked.map_err(io_error("locking", &path))? {
        let holder = holder(&mut file).unwrap_or_else(|_| "another process".to_owned());
        return Err(FolderError::InUse { path: folder.to_owned(), holder });
    }
    check_lock(folder, &path)?;
    introduce(&mut file).map_err(io_error("writing to the lock file", &path))?;
    Ok(file)
}

/// Tries the lock on its breach: on some network file systems everybody gets it.
fn check_lock(folder: &Path, path: &Path) -> Result<(), FolderError> {
    let second = OpenOptions::new().read(true).write(true).open(path);
    let second = second.map_err(io_error("opening the lock file again", path))?;
    let locked = FileExt::try_lock_exclusive(&second);
    if locked.map_err(io_error("trying the lock of", path))? {
        return Err(FolderError::LockWorthless { path: folder.to_owned() });
    }
    Ok(())
}

/// Leaves word who has the folder. Only the program and its subcommand: arguments may hold secrets.
fn introduce(file: &mut File) -> io::Result<()> {
    let mut arguments = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    let program = arguments.next().unwrap_or_default();
    let program =
        Path::new(&program).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let is_word = |word: &String| {
        word.len() <= 20
            && word.chars().all(|c| c.is_ascii_lowercase() || c == '-')
            && !word.starts_with('-')
    };
    let subcommand = arguments.next().filter(is_word).unwrap_or_default();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let text = format!(
        "process {}\ncommand {}\nhost {}\n",
        std::process::id(),
        format!("{program} {subcommand}").trim(),
        host.trim(),
    );
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(text.as_bytes())?;
    file.sync_data()
}

/// Who has the folder, in words.
fn holder(file: &mut File) -> io::Result<String> {
    // Nobody asks for the time here: the system noted it when the holder introduced itself.
    let since = file.metadata()?.modified()?;
    let mut text = String::new();
    file.take(HOLDER_BYTES_MAX).read_to_string(&mut text)?;
    let field = |name: &str| {
        let mut values = text.lines().filter_map(|line| line.strip_prefix(name));
        values.next().map(str::trim).filter(|value| !value.is_empty())
    };
    let process = field("process ").unwrap_or("(unknown)");
    let command = field("command ").map(|command| format!(" ({command})")).unwrap_or_default();
    let host = field("host ").map(|host| format!(" on {host}")).unwrap_or_default();
    Ok(format!("process {process}{command}{host} since {}", utc(since)))
}

/// `2026-11-21 19:31 UTC`
fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, minutes) = (seconds / 86_400, seconds % 86_400 / 60);
    // Counted from 1 March of year 0, where leap days come last.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", minutes / 60, minutes % 60)
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    let path = path.to_owned();
    move |source| FolderError::Io { doing, path, source }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_folder_in_use_names_its_holder_and_is_free_again_afterwards() {
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().join("new").join("data");
        let folder = DataFolder::open(&path).expect("nobody else uses it");
        assert!(folder.journal().is_dir() && folder.store().is_dir());

        let error = DataFolder::open(&path).expect_err("it is in use").to_string();
        assert!(error.contains(&format!("process {} (", std::process::id())), "{error}");
        assert!(error.contains("data folder") && error.contains("since 2"), "{error}");
        assert!(error.ends_with("stop it or choose another folder with --data"), "{error}");

        let clone = folder.clone();
        drop(folder);
        DataFolder::open(&path).expect_err("a clone still holds it");
        drop(clone);
        DataFolder::open(&path).expect("it is free");
    }

    #[test]
    fn a_folder_is_free_at_once_even_while_a_child_process_is_being_started() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = DataFolder::open(place.path()).expect("nobody else uses it");
        // What a child holds between its fork and its exec: the same open file.
        let in_the_child = folder.inner.lock.try_clone().expect("a second descriptor");
        drop(folder);
        DataFolder::open(place.path()).expect("it is free");
        drop(in_the_child);
    }

    #[test]
    fn a_lock_that_keeps_nobody_out_is_refused() {
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().join("lock");
        // As on a file system without locks: nobody holds this one.
        fs::write(&path, b"").expect("write");
        let error = check_lock(place.path(), &path).expect_err("anybody could take it");
        assert!(matches!(error, FolderError::LockWorthless { .. }));
        assert!(error.to_string().contains("local disk"), "{error}");
        let held = File::open(&path).expect("it is there");
        assert!(FileExt::try_lock_exclusive(&held).expect("a local disk locks"));
        check_lock(place.path(), &path).expect("it keeps others out");
    }

    #[test]
    fn a_place_that_can_not_be_a_folder_is_an_error_that_names_it() {
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().join("file");
        fs::write(&path, b"").expect("write");
        let error = DataFolder::open(&path).expect_err("it is a file");
        assert!(matches!(&error, FolderError::Io { path: at, .. } if *at == path));
        assert!(error.to_string().contains("--data"));
    }

    #[test]
    fn the_time_of_the_lock_is_shown_for_people() {
        for (seconds, shown) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_795_289_460, "2026-11-21 19:31 UTC"),
            (1_798_761_599, "2026-12-31 23:59 UTC"),
        ] {
            assert_eq!(utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), shown);
        }
    }
}
