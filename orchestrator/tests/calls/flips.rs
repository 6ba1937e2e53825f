//! Single bits of a folder flip: whoever asks it is told that something is wrong, or gets the same answers as before.
//!
//! Two folders are flipped in: one at rest behind an orderly stop, and one whose process was killed, with groups that no checkpoint
//! covers. By default a hundred flips; more: `DIRIGENT_TEST_FLIPS=10000 cargo test -p dirigent --test calls bit -- --nocapture`.
//!
//! One thing is not told apart, as the journal says: damage to its very last write, with nothing behind it, looks like a torn one. Such
//! a flip may leave the folder as it was before that write, and in no other state.

use crate::{
    Draw,
    at_rest::{Answers, Said, ask},
    number,
    shop::{Memories, Works, child, live},
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
    thread::sleep,
    time::{Duration, Instant},
};

/// How many bits flip, where it is asked for.
const FLIPS: &str = "DIRIGENT_TEST_FLIPS";
const FLIPS_DEFAULT: u64 = 100;

/// Folders that are asked at once.
const AT_ONCE: u64 = 2;

const WORKS: Works = Works { orders: 16, shift: 6, at_once: 4, leaves: 3 };

/// Orders of which the killed process goes on without a checkpoint.
const WORKS_ON: Works = Works { orders: 60, shift: 44, at_once: 4, leaves: 0 };

/// How much the killed one has to have done since it last started.
const WORLD_BYTES_MORE: u64 = 12_000;

/// How long it may take for that.
const WORKS_WITHIN: Duration = Duration::from_secs(60);

/// A segment of the journal: its records begin here, at multiples of that, and each has a head of so many bytes.
const RECORDS_FROM: usize = 4096;
const RECORD_ALIGN: usize = 8;
const RECORD_HEAD: usize = 32;

/// A folder, and what it answers.
struct Base {
    name: &'static str,
    data: PathBuf,
    files: Vec<(PathBuf, Vec<u8>)>,
    answers: Answers,
    /// What it answers without the last write to its journal, or a part of it; and where that lies.
    shorter: Vec<Answers>,
    last_write: Option<(PathBuf, usize)>,
}

impl Base {
    fn of(name: &'static str, place: &Path) -> Self {
        let data = place.join("data");
        let mut files = Vec::new();
        read(&data, &data, &mut files);
        let answers = answers_of(&files, |_, _| {});
        assert_eq!(answers.lack(&Memories::at(place)), None, "{name}");
        assert!(!answers.is_amiss(), "{name}: {answers:?}");
        let torn = last_write(&files);
        let shorter =
            torn.iter().flat_map(|(file, starts)| starts.iter().map(move |at| (file, *at)));
        let shorter = shorter.filter_map(|(file, at)| {
            let cut = |path: &Path, bytes: &mut Vec<u8>| {
                if path == file {
                    bytes[at..].fill(0);
                }
            };
            match said_of(&files, cut) {
                Said::Answers(answers) => Some(*answers),
                _ => None,
            }
        });
        let shorter = shorter.collect();
        let last_write = torn.and_then(|(file, starts)| Some((file, *starts.first()?)));
        Self { name, data, files, answers, shorter, last_write }
    }
}

/// What a flip came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// The same answers as without it.
    Harmless,
    /// The folder is refused, with an error.
    Refused,
    /// The check or the audit names it.
    Found,
    /// The last write is gone, as if it had been torn.
    TakenForTorn,
}

fn read(root: &Path, folder: &Path, into: &mut Vec<(PathBuf, Vec<u8>)>) {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    for path in entries.collect::<std::collections::BTreeSet<_>>() {
        if path.is_dir() {
            read(root, &path, into);
        } else if path.is_file() {
            let name = path.strip_prefix(root).unwrap().to_owned();
            into.push((name, fs::read(&path).unwrap()));
        }
    }
}

/// What a copy of the files says, changed on the way.
fn said_of(files: &[(PathBuf, Vec<u8>)], change: impl Fn(&Path, &mut Vec<u8>)) -> Said {
    let copy = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = copy.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut bytes = bytes.clone();
        change(name, &mut bytes);
        fs::write(path, bytes).unwrap();
    }
    ask(copy.path())
}

fn answers_of(files: &[(PathBuf, Vec<u8>)], change: impl Fn(&Path, &mut Vec<u8>)) -> Answers {
    match said_of(files, change) {
        Said::Answers(answers) => *answers,
        Said::Told(error) | Said::Broken(error) => panic!("{error}"),
    }
}

/// Where the records of the journal's last write begin: those that it had not been told are durable.
fn last_write(files: &[(PathBuf, Vec<u8>)]) -> Option<(PathBuf, Vec<usize>)> {
    let mut segments =
        files.iter().filter(|(name, _)| name.extension().is_some_and(|it| it == "segment"));
    let (name, bytes) = segments.next_back()?;
    let number = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().unwrap());
    let (mut records, mut at) = (Vec::new(), RECORDS_FROM);
    while at + RECORD_HEAD < bytes.len() && number(at + 8) != 0 {
        let length = u32::from_le_bytes(*bytes[at + 4..].first_chunk().unwrap()) as usize;
        records.push((at, number(at + 8), number(at + 16)));
        at += (RECORD_HEAD + length).next_multiple_of(RECORD_ALIGN);
    }
    let (_, _, durable_below) = *records.last()?;
    let torn = records.iter().filter(|(_, seq, _)| *seq >= durable_below);
    Some((name.clone(), torn.map(|(at, ..)| *at).collect()))
}

/// An orderly stop, with orders under way.
fn rested(place: &Path) -> Base {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(live(place, WORKS)).unwrap();
    Base::of("rested", place)
}

/// The same, and a process that went on and was killed.
fn killed(place: &Path) -> Base {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(live(place, WORKS)).unwrap();
    let world = || fs::metadata(place.join("world")).unwrap().len();
    let (before, begun) = (world(), Instant::now());
    let mut child = child(place, WORKS_ON).spawn().unwrap();
    while world() < before + WORLD_BYTES_MORE {
        assert!(begun.elapsed() < WORKS_WITHIN, "it does nothing");
        sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    Base::of("killed", place)
}

/// Three of four where something stands that is not zero; two of three in what instances and groups lie in, the others in any of the files.
fn draw_bit(base: &Base, draw: &mut Draw) -> (usize, usize, u8) {
    let is_large =
        |name: &Path| name.ends_with("db") || name.extension().is_some_and(|it| it == "segment");
    loop {
        let file = draw.below(base.files.len() as u64) as usize;
        let (name, bytes) = &base.files[file];
        if bytes.is_empty() || !is_large(name) && draw.below(6) > 0 {
            continue;
        }
        let mut at = draw.below(bytes.len() as u64) as usize;
        if draw.below(4) > 0 {
            let Some(more) = bytes[at..].iter().position(|byte| *byte != 0) else { continue };
            at += more;
        }
        return (file, at, 1 << draw.below(8));
    }
}

fn flip(base: &Base, (file, at, bit): (usize, usize, u8)) -> Result<Outcome, String> {
    let name = &base.files[file].0;
    let said = said_of(&base.files, |path, bytes| {
        if path == name {
            bytes[at] ^= bit;
        }
    });
    let case = || format!("{}: {} byte {at} bit {bit:#x}", base.name, name.display());
    match said {
        Said::Told(error) if error.trim().is_empty() => {
            Err(format!("{}: an error without a word", case()))
        }
        Said::Told(_) => Ok(Outcome::Refused),
        Said::Broken(how) => Err(format!("{}: {how}", case())),
        Said::Answers(answers) if *answers == base.answers => Ok(Outcome::Harmless),
        Said::Answers(answers) if answers.is_amiss() => Ok(Outcome::Found),
        Said::Answers(answers) => {
            let within =
                base.last_write.as_ref().is_some_and(|(torn, from)| torn == name && at >= *from);
            if within && base.shorter.contains(&answers) {
                return Ok(Outcome::TakenForTorn);
            }
            let gone = base.answers.instances.len().abs_diff(answers.instances.len());
            let other = answers
                .instances
                .iter()
                .filter(|(key, it)| base.answers.instances.get(*key) != Some(it));
            let (other, audit) = (other.count(), answers.audit != base.answers.audit);
            Err(format!(
                "{}: a wrong answer: {gone} instances more or fewer, {other} others, accounts differ: {audit}",
                case()
            ))
        }
    }
}

#[test]
fn a_bit_that_flips_is_found_out_or_changes_no_answer() {
    let count = number(FLIPS).unwrap_or(FLIPS_DEFAULT);
    let mut draw = Draw::new();
    let seed = draw.seed();
    let places = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let bases = [rested(places[0].path()), killed(places[1].path())];
    let flips: Vec<_> = (0..count)
        .map(|number| &bases[(number % 2) as usize])
        .map(|base| (base, draw_bit(base, &mut draw)))
        .collect();
    let outcomes: Mutex<BTreeMap<(String, Outcome), u64>> = Mutex::default();
    let wrong: Mutex<Vec<String>> = Mutex::default();
    std::thread::scope(|scope| {
        for part in flips.chunks(flips.len().div_ceil(AT_ONCE as usize).max(1)) {
            let (outcomes, wrong) = (&outcomes, &wrong);
            scope.spawn(move || {
                for (base, bit) in part {
                    match flip(base, *bit) {
                        Ok(outcome) => {
                            let name = base.files[bit.0].0.to_string_lossy();
                            let kind = name.split(['/', '.']).take(2).collect::<Vec<_>>().join("/");
                            let kind =
                                if name.ends_with(".segment") { "segment".into() } else { kind };
                            *outcomes.lock().unwrap().entry((kind, outcome)).or_default() += 1;
                        }
                        Err(how) => wrong.lock().unwrap().push(how),
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    eprintln!("seed {seed}, {count} flips: {:#?}", outcomes.lock().unwrap());
    if !wrong.is_empty() {
        // Kept for whoever looks into it.
        let kept = bases.iter().map(|base| base.data.display().to_string()).collect::<Vec<_>>();
        for place in places {
            drop(place.keep());
        }
        panic!("seed {seed}, {} of {count}, in {kept:?}:\n{}", wrong.len(), wrong.join("\n"));
    }
}
