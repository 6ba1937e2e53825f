//! The corpus of the fuzzer, replayed: what every target promises holds for all of it, and for a few changes of each input.
//!
//! `fuzz/corpus/TARGET` holds seeds, which are made here of real bytes, inputs that a fuzzer found to reach further, and those that once broke a
//! promise, under names that say what they were. A seed that is new is written where `DIRIGENT_TEST_WRITE_FORMS=1` asks for it.
//!
//! `DIRIGENT_TEST_FUZZ_CHANGES` says how often each input is changed at random; `DIRIGENT_TEST_FUZZ_SEED` from which numbers on, and
//! `DIRIGENT_TEST_FUZZ_TARGET` of which target. So it is a fuzzer itself, where there is no libFuzzer: one that does not see what an input reaches.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

#[path = "fuzz_corpus/seeds.rs"]
mod seeds;

use dirigent::{
    connectors::random::Random,
    fuzzing::{TARGETS, Target},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    ops::Range,
    panic::catch_unwind,
    path::PathBuf,
};

/// Inputs of a target, and their bytes: a corpus lies in the repository.
const INPUTS_MAX: usize = 100;
const BYTES_MAX: usize = 200 * 1024;

/// How often each input is changed unless said otherwise: some seconds in all.
const CHANGES: u64 = 40;

fn fuzz() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

/// The inputs of a target, by name.
fn corpus(target: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = fuzz().join("corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{target}: {error}"));
    let inputs = entries.map(|entry| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
    });
    inputs.collect()
}

/// Whether a target takes an input. An input that breaks a promise is told with its bytes.
fn is_taken((target, call): Target, name: &str, input: &[u8]) -> bool {
    catch_unwind(|| call(input)).unwrap_or_else(|_| {
        let kept = fuzz().join("artifacts").join(target).join("broken");
        fs::create_dir_all(kept.parent().unwrap()).unwrap();
        fs::write(&kept, input).unwrap();
        panic!(
            "{target} breaks a promise with {name}, which lies in fuzz/artifacts/{target}/broken: {}",
            input.escape_ascii()
        )
    })
}

fn asked(variable: &str, otherwise: u64) -> u64 {
    env::var(variable).map_or(otherwise, |said| said.parse().expect("a number"))
}

fn targets() -> impl Iterator<Item = Target> {
    let only = env::var("DIRIGENT_TEST_FUZZ_TARGET").ok();
    TARGETS.into_iter().filter(move |(name, _)| only.as_ref().is_none_or(|only| only == name))
}

#[test]
fn every_input_of_the_corpus_keeps_what_its_target_promises() {
    for target in targets() {
        let (name, inputs) = (target.0, corpus(target.0));
        let bytes: usize = inputs.values().map(Vec::len).sum();
        assert!(inputs.len() <= INPUTS_MAX, "{name} has {} inputs", inputs.len());
        assert!(bytes <= BYTES_MAX, "{name} has {bytes} bytes");
        let taken = inputs.iter().filter(|(input, bytes)| is_taken(target, input, bytes)).count();
        assert!(taken > 0, "{name}: no input gets behind the first check");
    }
}

#[test]
fn every_seed_lies_in_the_corpus_and_is_taken_unless_it_is_there_to_be_refused() {
    let writes = env::var("DIRIGENT_TEST_WRITE_FORMS").is_ok_and(|said| said == "1");
    let mut wrong = Vec::new();
    for (target, seeds) in seeds::all() {
        let call = TARGETS.into_iter().find(|(name, _)| *name == target);
        let call = call.unwrap_or_else(|| panic!("there is no target {target}"));
        for (name, seed) in seeds {
            let path = fuzz().join("corpus").join(target).join(format!("seed-{name}"));
            if writes && !path.exists() {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(&path, &seed).unwrap();
            }
            if fs::read(&path).ok().as_ref() != Some(&seed) {
                wrong.push(format!("{target}: seed-{name} is another one, or not there"));
            }
            if is_taken(call, name, &seed) == name.starts_with("refused") {
                wrong.push(format!("{target}: seed-{name} was not to be taken like that"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_input_of_the_corpus_may_be_changed_and_breaks_no_promise() {
    let changes = asked("DIRIGENT_TEST_FUZZ_CHANGES", CHANGES);
    let seed = asked("DIRIGENT_TEST_FUZZ_SEED", 1);
    for target in targets() {
        let inputs: Vec<(String, Vec<u8>)> = corpus(target.0).into_iter().collect();
        let mut taken = 0;
        for number in 0..changes {
            for (at, (name, input)) in inputs.iter().enumerate() {
                let mut dice = Random::new(seed + number * inputs.len() as u64 + at as u64);
                let other = &inputs[dice.below(inputs.len() as u64) as usize].1;
                let changed = changed(input, other, &mut dice);
                taken += u64::from(is_taken(target, &format!("{name}, change {number}"), &changed));
            }
        }
        println!("{}: {} inputs, {taken} taken", target.0, changes * inputs.len() as u64);
    }
}

/// An input with one to four changes, drawn by dice: bits, bytes, numbers at their bounds, pieces that go, come twice, or come from another input.
fn changed(input: &[u8], other: &[u8], dice: &mut Random) -> Vec<u8> {
    const ODD: [&[u8]; 12] = [
        b"\0",
        b"\xff",
        b"\x7f",
        b"\x80",
        b"\xff\xff",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"-1",
        b"18446744073709551615",
        b"1e308",
        b"\"",
    ];
    let mut bytes = input.to_vec();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len() as u64 + 1) as usize;
        let end = (at + 1 + dice.below(16) as usize).min(bytes.len());
        match dice.below(8) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            2 if at < bytes.len() => bytes[at] = dice.below(256) as u8,
            3 => replace(&mut bytes, at..end, &[]),
            4 => {
                let odd = ODD[dice.below(ODD.len() as u64) as usize];
                let over = if dice.one_in(2) { at } else { (at + odd.len()).min(bytes.len()) };
                replace(&mut bytes, at..over, odd);
            }
            5 => {
                let piece = bytes[at..end].to_vec();
                replace(&mut bytes, at..at, &piece);
            }
            6 if !other.is_empty() => {
                let from = dice.below(other.len() as u64) as usize;
                let to = (from + 1 + dice.below(64) as usize).min(other.len());
                replace(&mut bytes, at..end, &other[from..to]);
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

fn replace(bytes: &mut Vec<u8>, piece: Range<usize>, by: &[u8]) {
    let behind = bytes.split_off(piece.end);
    bytes.truncate(piece.start);
    bytes.extend_from_slice(by);
    bytes.extend(behind);
}

#[test]
fn every_target_of_the_fuzzer_calls_the_function_of_its_name() {
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    let built: BTreeSet<&str> = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("name = ")?.split('"').nth(1))
        .collect();
    for (name, _) in TARGETS {
        assert!(built.contains(name), "fuzz/Cargo.toml does not build {name}");
        let source = fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(source.contains(&format!("target!(dirigent::fuzzing::{name});")), "{source}");
    }
    assert_eq!(built.len(), TARGETS.len() + 1, "the package and its targets: {built:?}");
}
