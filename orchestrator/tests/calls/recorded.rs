//! What a shop did to its folder and told the world, and how the folder may be found after the power went.
//!
//! In: system calls. Out: what was done, in its order; and a folder in which everything is that was synced, and of the rest whatever the
//! dice say:
//!
//! - **bytes**: each write and each change of length that its file's sync does not cover is there, is not, or is there in some of its sectors;
//! - **names**: each creation, renaming and deletion that its folder's sync does not cover has happened or not, in their order within a
//!   folder as file systems with a journal keep it, so that of several only the last are missing;
//! - **the world** is another machine: what it was told by then it knows.
//!
//! A sync covers what had returned before it was entered. That a name is kept by syncing its file, as some file systems do, is not relied on.

use crate::{
    Draw,
    shop::{Works, child_at},
    strace::{self, Call},
};
use dirigent::journal::Durability;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Path, PathBuf},
};

/// What a disk writes whole or not at all, in bytes.
const SECTOR_BYTES: usize = 512;

/// The longest write that strace writes down, in bytes: sled's largest is half a megabyte.
const PIECE_BYTES: &str = "1100000";

/// What changes a folder, and what makes a change last.
const CALLS: &str = "trace=openat,creat,mkdir,mkdirat,pwrite64,pwritev,pwritev2,write,writev,ftruncate,fallocate,lseek,link,linkat,rename,renameat,renameat2,unlink,unlinkat,rmdir,fdatasync,fsync";

/// One thing that was done, in the order of its being done. Paths are below the place.
#[derive(Debug, Clone)]
pub enum Event {
    Made {
        path: PathBuf,
        is_folder: bool,
    },
    Wrote {
        path: PathBuf,
        at: usize,
        bytes: Vec<u8>,
    },
    /// To this length.
    Cut {
        path: PathBuf,
        length: usize,
    },
    Renamed {
        from: PathBuf,
        to: PathBuf,
    },
    Removed {
        path: PathBuf,
    },
    /// A file or a folder: so many of the events before it are covered.
    Synced {
        path: PathBuf,
        covers: usize,
    },
    /// The world was told.
    Told {
        text: Vec<u8>,
    },
}

/// A run.
pub struct Recorded {
    pub events: Vec<Event>,
}

impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count =
            |what: fn(&Event) -> bool| self.events.iter().filter(|event| what(event)).count();
        let writes = count(|event| matches!(event, Event::Wrote { .. }));
        let syncs = count(|event| matches!(event, Event::Synced { .. }));
        let told = count(|event| matches!(event, Event::Told { .. }));
        let names = self.events.len() - writes - syncs - told;
        write!(
            f,
            "{writes} writes, {syncs} syncs, {names} changes of names and lengths, {told} words to the world"
        )
    }
}

impl Recorded {
    /// Of a shop that works to its end, in a place of its own.
    pub fn of_a_shop(works: Works, durability: Durability) -> Self {
        let place = tempfile::tempdir().unwrap();
        let trace = tempfile::tempdir().unwrap();
        let file = trace.path().join("trace");
        let child = child_at(place.path(), works, durability);
        let how = ["-s", PIECE_BYTES, "-e", CALLS];
        let output = strace::under(&child, &how, &file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let calls = strace::calls(&fs::read_to_string(file).unwrap()).unwrap();
        Self::of(&calls, &place.path().canonicalize().unwrap())
    }

    /// Of the calls of a process that works at `place`; in the order of their returning, as whoever waits for one acts behind it. What
    /// the world is told it may know as soon as that is entered.
    fn of(calls: &[Call], place: &Path) -> Self {
        let below = |path: &Path| path.strip_prefix(place).ok().map(Path::to_owned);
        let about = |call: &Call| {
            below(Path::new(call.about())).filter(|_| !call.arguments[0].text.contains("(deleted)"))
        };
        let when = |call: &Call| {
            let is_told = call.name == "write" && about(call).is_some_and(|it| is_world(&it));
            if is_told { call.entered } else { call.left }
        };
        let mut done: Vec<&Call> = calls.iter().filter(|call| call.result >= Some(0)).collect();
        done.sort_by_key(|call| when(call));
        let mut events = Vec::new();
        let mut left = Vec::new();
        let mut known: BTreeSet<PathBuf> = BTreeSet::new();
        let mut reached: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for call in done {
            // Relative to the folder that the argument before it stands for.
            let named = |at: usize| {
                let argument = call.arguments.get(at).filter(|it| it.text.starts_with('"'))?;
                let folder = at.checked_sub(1).and_then(|at| call.arguments[at].stands_for());
                let path = String::from_utf8_lossy(&argument.bytes);
                below(&Path::new(folder.unwrap_or_default()).join(&*path))
            };
            let about = about(call);
            let number = |at: usize| usize::try_from(call.arguments[at].number().unwrap()).unwrap();
            let before = events.len();
            match call.name.as_str() {
                "openat" => {
                    let Some(path) = named(1) else { continue };
                    let how = &call.arguments[2].text;
                    if how.contains("O_CREAT") && known.insert(path.clone()) && !is_world(&path) {
                        events.push(Event::Made { path: path.clone(), is_folder: false });
                    }
                    if how.contains("O_TRUNC") {
                        events.push(Event::Cut { path: path.clone(), length: 0 });
                    }
                    reached.insert(path, 0);
                }
                "mkdir" | "mkdirat" => {
                    let Some(path) = named(call.arguments.len() - 2) else { continue };
                    events.push(Event::Made { path, is_folder: true });
                }
                "lseek" => {
                    let Some(path) = about else { continue };
                    reached.insert(path, usize::try_from(call.result.unwrap()).unwrap());
                }
                "pwrite64" | "write" => {
                    let Some(path) = about else { continue };
                    assert!(!call.is_cut(), "a write longer than what strace wrote down");
                    let bytes = call.moved().to_vec();
                    if is_world(&path) {
                        events.push(Event::Told { text: bytes });
                    } else {
                        let at = match call.name.as_str() {
                            "pwrite64" => number(3),
                            _ => {
                                let at = reached.entry(path.clone()).or_default();
                                *at += bytes.len();
                                *at - bytes.len()
                            }
                        };
                        events.push(Event::Wrote { path, at, bytes });
                    }
                }
                "ftruncate" => {
                    let Some(path) = about else { continue };
                    events.push(Event::Cut { path, length: number(1) });
                }
                "rename" | "renameat" | "renameat2" => {
                    let [from, to] = if call.name == "rename" { [0, 1] } else { [1, 3] };
                    let (Some(from), Some(to)) = (named(from), named(to)) else { continue };
                    known.remove(&from);
                    known.insert(to.clone());
                    events.push(Event::Renamed { from, to });
                }
                "unlink" | "unlinkat" => {
                    let Some(path) = named(usize::from(call.name == "unlinkat")) else { continue };
                    known.remove(&path);
                    events.push(Event::Removed { path });
                }
                "fdatasync" | "fsync" => {
                    let Some(path) = about else { continue };
                    let covers = left.partition_point(|left| *left < call.entered);
                    events.push(Event::Synced { path, covers });
                }
                other => {
                    let is_ours =
                        about.is_some() || (0..call.arguments.len()).any(|at| named(at).is_some());
                    assert!(!is_ours, "nobody here knows what {other} does to a folder");
                }
            }
            left.resize(left.len() + events.len() - before, when(call));
        }
        Self { events }
    }

    /// As if syncs below that folder covered nothing.
    pub fn loses_syncs(&mut self, below: &str) {
        for event in &mut self.events {
            if let Event::Synced { path, covers } = event
                && path.starts_with(below)
            {
                *covers = 0;
            }
        }
    }

    /// Makes the folder as it may be found, and the world beside it.
    pub fn lose_power(&self, moment: usize, draw: &mut Draw, place: &Path) {
        let mut disk = Disk::default();
        let mut world = Vec::new();
        for (number, event) in self.events[..moment].iter().enumerate() {
            match event {
                Event::Told { text } => world.extend_from_slice(text),
                event => disk.takes(number, event),
            }
        }
        disk.goes_dark(draw);
        disk.is_found(place);
        fs::write(place.join("world"), world).unwrap();
    }
}

/// Whether the world writes there what it was told.
fn is_world(path: &Path) -> bool {
    path == Path::new("world")
}

/// A change of a file.
#[derive(Debug)]
enum Change<'a> {
    Wrote { at: usize, bytes: &'a [u8] },
    Cut { length: usize },
}

/// A change of names.
#[derive(Debug)]
enum Naming<'a> {
    Made { path: &'a Path, file: usize },
    Renamed { from: &'a Path, to: &'a Path },
    Removed { path: &'a Path },
}

impl Naming<'_> {
    fn folder(&self) -> &Path {
        let (Self::Made { path, .. } | Self::Renamed { to: path, .. } | Self::Removed { path }) =
            self;
        path.parent().unwrap_or(Path::new(""))
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Made { path, file } => drop(names.insert((*path).to_owned(), *file)),
            Self::Renamed { from, to } => {
                if let Some(file) = names.remove(*from) {
                    names.insert((*to).to_owned(), file);
                }
            }
            Self::Removed { path } => drop(names.remove(*path)),
        }
    }
}

/// Files and folders by number: what lasts, and what may not.
#[derive(Default)]
struct Disk<'a> {
    /// What lasts of each; none for a folder.
    lasting: Vec<Option<Vec<u8>>>,
    pending: Vec<Vec<(usize, Change<'a>)>>,
    names: BTreeMap<PathBuf, usize>,
    names_lasting: BTreeMap<PathBuf, usize>,
    namings: Vec<(usize, Naming<'a>)>,
}

impl<'a> Disk<'a> {
    fn takes(&mut self, number: usize, event: &'a Event) {
        match event {
            Event::Made { path, is_folder } => {
                let file = self.lasting.len();
                self.lasting.push((!is_folder).then(Vec::new));
                self.pending.push(Vec::new());
                self.names(number, Naming::Made { path, file });
            }
            Event::Renamed { from, to } => self.names(number, Naming::Renamed { from, to }),
            Event::Removed { path } => self.names(number, Naming::Removed { path }),
            Event::Wrote { path, at, bytes } => {
                self.changes(number, path, Change::Wrote { at: *at, bytes });
            }
            Event::Cut { path, length } => {
                self.changes(number, path, Change::Cut { length: *length })
            }
            Event::Synced { path, covers } => self.syncs(path, *covers),
            Event::Told { .. } => unreachable!("the world is another machine"),
        }
    }

    fn names(&mut self, number: usize, naming: Naming<'a>) {
        naming.apply(&mut self.names);
        self.namings.push((number, naming));
    }

    fn changes(&mut self, number: usize, path: &Path, change: Change<'a>) {
        self.pending[self.names[path]].push((number, change));
    }

    fn syncs(&mut self, path: &Path, covers: usize) {
        for (_, naming) in
            self.namings.extract_if(.., |(number, it)| *number < covers && it.folder() == path)
        {
            naming.apply(&mut self.names_lasting);
        }
        let Some(file) = self.names.get(path) else { return };
        let Some(lasting) = &mut self.lasting[*file] else { return };
        for (_, change) in self.pending[*file].extract_if(.., |(number, _)| *number < covers) {
            match change {
                Change::Wrote { at, bytes } => put(lasting, at, bytes),
                Change::Cut { length } => lasting.resize(length, 0),
            }
        }
    }

    /// What was not synced lasts or not.
    fn goes_dark(&mut self, draw: &mut Draw) {
        for (lasting, pending) in self.lasting.iter_mut().zip(&mut self.pending) {
            let Some(lasting) = lasting else { continue };
            for (_, change) in pending.drain(..) {
                match (change, draw.below(3)) {
                    (_, 0) => {}
                    (Change::Cut { length }, _) => lasting.resize(length, 0),
                    (Change::Wrote { at, bytes }, 1) => put(lasting, at, bytes),
                    (Change::Wrote { at, bytes }, _) => tear(lasting, at, bytes, draw),
                }
            }
        }
        let folders: BTreeSet<PathBuf> =
            self.namings.iter().map(|(_, it)| it.folder().to_owned()).collect();
        for folder in folders {
            let namings = || self.namings.iter().filter(|(_, it)| it.folder() == folder);
            let lasts = draw.below(namings().count() as u64 + 1) as usize;
            namings().take(lasts).for_each(|(_, naming)| naming.apply(&mut self.names_lasting));
        }
    }

    fn is_found(&self, place: &Path) {
        // In the order of paths a folder comes before what lies in it; what lies in one that is not there is not there.
        for (path, file) in &self.names_lasting {
            let whole = place.join(path);
            if !whole.parent().is_some_and(Path::is_dir) {
                continue;
            }
            match &self.lasting[*file] {
                None => fs::create_dir(whole).unwrap(),
                Some(bytes) => fs::write(whole, bytes).unwrap(),
            }
        }
    }
}

fn put(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if content.len() < at + bytes.len() {
        content.resize(at + bytes.len(), 0);
    }
    content[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Some sectors of a write last.
fn tear(content: &mut Vec<u8>, at: usize, bytes: &[u8], draw: &mut Draw) {
    let mut from = 0;
    while from < bytes.len() {
        // Up to the next border of a sector.
        let to = bytes.len().min((at + from + 1).next_multiple_of(SECTOR_BYTES) - at);
        if draw.below(2) == 0 {
            put(content, at + from, &bytes[from..to]);
        }
        from = to;
    }
}
