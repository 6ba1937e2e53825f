//! The data folder: who uses it, and what lies where in it.
//!
//! Opened first of all. A lock makes sure that only one process writes; it goes away with the process, however that ends. What is not
//! ours is left alone: a folder with other things in it, or around data folders, is none. What only we write says that it is ours;
//! names do not, as others have a `store` as well.
//!
//! ```text
//! lock           who uses the folder
//! journal/       segments of the journal
//! store/         files of the store
//! schemas/       schemas of a registry, by their ids
//! repairs/       records of what was mended
//! control.sock   where a running process answers
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fs4::fs_std::FileExt;

/// Bytes of the lock file that are read when it is taken: a few short lines.
const HOLDER_BYTES_MAX: u64 = 1024;

/// How often the lock is tried while others only ask who has it. Each of them holds it for a few system calls.
const ASKED_TRIES_MAX: usize = 200;

/// The rest between two of these tries.
const ASKED_REST: Duration = Duration::from_millis(10);

/// What else may lie in a folder that is to become one: what file systems and those who mount them put there, and single files of an
/// earlier data folder. So may hidden files.
const TOLERATED: &[&str] = &["lock", "lost+found", "control.sock", "control.new"];

/// Names that an error tells of what lies in a folder.
const NAMES_TOLD: usize = 5;

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
    /// It is a folder around data folders.
    #[error(
        "folder {} is no data folder, but holds some ({within}); say the one that is meant with --data: for instance {}", .path.display(), .first.display()
    )]
    Around {
        /// The folder.
        path: PathBuf,
        /// Names of those in it.
        within: String,
        /// One of them.
        first: PathBuf,
    },
    /// Something else lies there.
    #[error(
        "folder {} is no data folder, and something else lies in it ({found}); choose a new or an empty one with --data", .path.display()
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// What.
        found: String,
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
    /// [`FolderError::InUse`] names the process that has it; [`FolderError::Foreign`] and [`FolderError::Around`] tell of a folder that
    /// is something else, and is left as it is.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FolderError> {
        let path = path.as_ref();
        make_folder(path)?;
        check_contents(path)?;
        let lock = lock(path, || std::thread::sleep(ASKED_REST))?;
        for inner in [path.join("journal"), path.join("store")] {
            make_folder(&inner)?;
        }
        sync_names(path)?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_names(parent)?;
        }
        Ok(Self { inner: Arc::new(Inner { path: path.to_owned(), lock }) })
    }

    /// Who uses the folder at `path` now, in words; nobody where it is free, or there is none. Changes nothing, and keeps nobody from
    /// taking it: what it holds for a moment is told from being used.
    pub fn user_of(path: impl AsRef<Path>) -> Option<String> {
        let mut file = File::open(path.as_ref().join("lock")).ok()?;
        match FileExt::try_lock_shared(&file) {
            Ok(true) => {
                // Closing would not do, see above.
                let _ = FileExt::unlock(&file);
                None
            }
            Ok(false) => Some(holder(&mut file).unwrap_or_else(|_| "another process".to_owned())),
            Err(_) => None,
        }
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

/// Refuses what is somebody else's. One that has been a data folder before is one still.
fn check_contents(path: &Path) -> Result<(), FolderError> {
    let reading = || io_error("reading what lies in", path);
    if is_ours(path).map_err(reading())? {
        return Ok(());
    }
    let (mut within, mut others) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(path).map_err(reading())? {
        let name = entry.map_err(reading())?.file_name();
        let inner = path.join(&name);
        let shown = name.to_string_lossy().into_owned();
        // One that we may not look into is none of ours.
        if is_ours(&inner).unwrap_or(false) {
            within.push((shown, inner));
        } else if !is_harmless(&shown, &inner).map_err(reading())? {
            others.push(shown);
        }
    }
    within.sort();
    others.sort();
    if let Some((_, first)) = within.first() {
        let (path, first) = (path.to_owned(), first.clone());
        let names = within.into_iter().map(|(name, _)| name).collect();
        return Err(FolderError::Around { path, within: told(names), first });
    }
    match others.is_empty() {
        true => Ok(()),
        false => Err(FolderError::Foreign { path: path.to_owned(), found: told(others) }),
    }
}

/// Whether it has been a data folder before, by what nobody else writes.
fn is_ours(path: &Path) -> io::Result<bool> {
    Ok(is_introduction(&path.join("lock"))?
        || names_in(&path.join("journal"))?.iter().flatten().any(|name| is_segment(name)))
}

/// Whether it is what somebody left who took the lock.
fn is_introduction(path: &Path) -> io::Result<bool> {
    if !is_file(path)? {
        return Ok(false);
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(HOLDER_BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let begins = text.lines().zip(["process ", "command ", "host "]);
    Ok(begins.filter(|(line, begins)| line.starts_with(begins)).count() == 3)
}

/// As the journal names its files: by the number of the first group.
fn is_segment(name: &str) -> bool {
    name.strip_suffix(".segment").is_some_and(|number| number.len() == 20 && is_number(number))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether it is no sign of somebody else: hidden, tolerated, or left of a data folder that was cut off, or that a person begins anew.
fn is_harmless(name: &str, path: &Path) -> io::Result<bool> {
    let holds_only = |ours: &dyn Fn(&str) -> bool| -> io::Result<bool> {
        let names = names_in(path)?;
        Ok(names.is_some_and(|names| names.iter().all(|name| is_tolerated(name) || ours(name))))
    };
    match name {
        // A start that was cut off has left only some of its files, and its lock may be empty.
        "journal" => holds_only(&|name| name == "ballast" || name.ends_with(".spare")),
        "store" => {
            holds_only(&|name| ["conf", "blobs", "db"].contains(&name) || name.starts_with("snap."))
        }
        "repairs" => holds_only(&is_number),
        "schemas" => holds_only(&|name| name.split_once('.').is_some_and(|(id, _)| is_number(id))),
        _ => Ok(is_tolerated(name)),
    }
}

/// Hidden, or of a volume of its own.
fn is_tolerated(name: &str) -> bool {
    name.starts_with('.') || TOLERATED.contains(&name)
}

/// What lies in a folder; `None` where there is none.
fn names_in(path: &Path) -> io::Result<Option<Vec<String>>> {
    let Some(entries) = if_there(fs::read_dir(path))? else { return Ok(None) };
    let name = |entry: io::Result<fs::DirEntry>| {
        entry.map(|entry| entry.file_name().to_string_lossy().into_owned())
    };
    entries.map(name).collect::<io::Result<_>>().map(Some)
}

fn is_file(path: &Path) -> io::Result<bool> {
    Ok(if_there(fs::metadata(path))?.is_some_and(|what| what.is_file()))
}

fn if_there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    use io::ErrorKind::{NotADirectory, NotFound};
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The first of many names.
fn told(mut names: Vec<String>) -> String {
    let more = names.len().saturating_sub(NAMES_TOLD);
    names.truncate(NAMES_TOLD);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    names.join(", ") + &more
}

fn sync_names(path: &Path) -> Result<(), FolderError> {
    let synced = File::open(path).and_then(|folder| folder.sync_all());
    synced.map_err(io_error("syncing the folder", path))
}

fn lock(folder: &Path, mut rest: impl FnMut()) -> Result<File, FolderError> {
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
    let in_use = |holder| FolderError::InUse { path: folder.to_owned(), holder };
    let mut tries = 0;
    while !FileExt::try_lock_exclusive(&file).map_err(io_error("locking", &path))? {
        // Who uses it holds it alone. What can be shared is held by somebody who asks, see `user_of`.
        if !FileExt::try_lock_shared(&file).map_err(io_error("trying the lock of", &path))? {
            let holder = holder(&mut file).unwrap_or_else(|_| "another process".to_owned());
            return Err(in_use(holder));
        }
        FileExt::unlock(&file).map_err(io_error("unlocking", &path))?;
        tries += 1;
        if tries == ASKED_TRIES_MAX {
            return Err(in_use(
                "a process that only asks who uses it, and stands still".to_owned(),
            ));
        }
        rest();
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
mod tests;
