//! The power goes: whatever of the writes and names that were not synced is lost, torn or overtaken by others, what was promised is there.
//!
//! A shop works under strace; what it did to its folder is `recorded`. From that, states are drawn in which the power may leave the
//! folder, at any moment of the run; each is opened and asked, and in some of them the shop goes on until all orders have ended. By
//! default forty states; more: `DIRIGENT_TEST_POWER_LOSSES=10000 cargo test -p dirigent --test calls power -- --nocapture`.

use crate::{
    Draw, at_rest, number,
    recorded::{Event, Recorded},
    shop::{Memories, Works, child},
    strace,
};
use dirigent::journal::Durability;
use std::{
    fs,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

/// How many states are opened, where it is asked for.
const LOSSES: &str = "DIRIGENT_TEST_POWER_LOSSES";
const LOSSES_DEFAULT: u64 = 40;

/// In one of so many states the shop goes on to its end.
const GOES_ON_EVERY: u64 = 50;

/// States of a journal without its syncs that are opened, to see that one of them at least is found out.
const BREACHES: u64 = 20;

/// States that are opened at once.
const AT_ONCE: usize = 2;

/// Several orderly stops with checkpoints in between, and many groups between those.
const WORKS: Works = Works { orders: 36, shift: 9, at_once: 3, leaves: 2 };

/// One state, opened; answers what is wrong with it.
fn opened(recorded: &Recorded, number: u64, seed: u64) -> Option<String> {
    let mut draw = Draw::of(seed.wrapping_add(number));
    let place = tempfile::tempdir().unwrap();
    // Every other one where something was just promised, which is when there is most to lose.
    let mut moment = draw.below(recorded.events.len() as u64 + 1) as usize;
    if draw.below(2) == 0 {
        let mut rest = recorded.events[moment..].iter();
        moment += rest.position(|it| matches!(it, Event::Told { .. })).map_or(0, |at| at + 1);
    }
    recorded.lose_power(moment, &mut draw, place.path());
    let found = at_rest::wrong(place.path()).or_else(|| {
        if !number.is_multiple_of(GOES_ON_EVERY) {
            return None;
        }
        let output = child(place.path(), Works { leaves: 0, ..WORKS }).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let ended = (!output.status.success()).then_some(said);
        let found = ended.or_else(|| at_rest::wrong(place.path()));
        if found.is_none() {
            Memories::at(place.path()).is_as_it_should(WORKS.orders);
        }
        found
    });
    let calls = recorded.events.len();
    found.map(|found| format!("seed {seed}, state {number}, after {moment} of {calls}: {found}"))
}

/// What is wrong with any of so many states.
fn wrong(recorded: &Recorded, count: u64, seed: u64) -> Vec<String> {
    let (next, wrong) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let numbers =
                    || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|it| *it < count);
                while let Some(number) = numbers() {
                    let found = opened(recorded, number, seed);
                    wrong.lock().unwrap().extend(found);
                }
            });
        }
    });
    wrong.into_inner().unwrap()
}

#[test]
fn whatever_the_power_takes_of_what_was_not_synced_everything_promised_is_there() {
    if !strace::is_here() {
        return;
    }
    let count = number(LOSSES).unwrap_or(LOSSES_DEFAULT);
    let mut recorded = Recorded::of_a_shop(WORKS, Durability::PowerLoss);
    let seed = Draw::new().seed();
    eprintln!("DIRIGENT_TEST_SEED={seed}");
    let found = wrong(&recorded, count, seed);
    eprintln!("{count} states of {recorded}, {} not as they should be", found.len());
    assert!(found.is_empty(), "{}", found.join("\n"));

    // The rule on its breach: a journal whose syncs cover nothing loses what was promised.
    recorded.loses_syncs("data/journal");
    assert_ne!(wrong(&recorded, BREACHES, seed), [""; 0]);
}

/// A folder of its own for each test of the model.
fn after(events: Vec<Event>, seed: u64) -> Vec<(String, Vec<u8>)> {
    let place = tempfile::tempdir().unwrap();
    let recorded = Recorded { events };
    recorded.lose_power(recorded.events.len(), &mut Draw::of(seed), place.path());
    let data = place.path().join("data");
    let Ok(entries) = fs::read_dir(data) else { return vec![] };
    let mut found: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap())
        })
        .collect();
    found.sort();
    found
}

#[test]
fn states_keep_what_was_synced_and_may_lack_tear_and_reorder_the_rest() {
    let path = |name: &str| Path::new("data").join(name);
    let wrote = |name: &str, at, byte, many: usize| Event::Wrote {
        path: path(name),
        at,
        bytes: vec![byte; many],
    };
    let synced = |name: &str, covers| Event::Synced { path: path(name), covers };
    let made = |name: &str| Event::Made { path: path(name), is_folder: false };
    let begun = || {
        vec![
            Event::Made { path: "data".into(), is_folder: true },
            Event::Synced { path: "".into(), covers: 1 },
            made("a"),
            wrote("a", 0, 1, 1024),
            synced("a", 4),
            synced("", 5),
        ]
    };
    let all = |more: &[Event]| -> std::collections::BTreeSet<Vec<(String, Vec<u8>)>> {
        (0..200).map(|seed| after([begun(), more.to_vec()].concat(), seed)).collect()
    };
    let synced_only = vec![("a".to_owned(), vec![1; 1024])];
    assert_eq!(all(&[]), [synced_only.clone()].into());

    // Two sectors: neither, both, or either of them.
    let torn = all(&[wrote("a", 0, 2, 1024)]);
    let sectors = |first, second| vec![("a".to_owned(), [[first; 512], [second; 512]].concat())];
    assert_eq!(torn, [sectors(1, 1), sectors(2, 1), sectors(1, 2), sectors(2, 2)].into());
    // A sync covers what was written before it was entered, and nothing of another file.
    assert_eq!(all(&[wrote("a", 0, 2, 1024), synced("a", 7)]), [sectors(2, 2)].into());
    assert_eq!(all(&[wrote("a", 0, 2, 1024), synced("a", 6)]).len(), 4);
    // The later of two writes may overtake the other.
    let overtaken = all(&[wrote("a", 0, 2, 512), wrote("a", 512, 3, 512)]);
    assert!(overtaken.contains(&sectors(1, 3)) && overtaken.contains(&sectors(2, 1)));
    // A name lasts once its folder was synced, whatever became of its bytes.
    let renamed = Event::Renamed { from: path("a"), to: path("b") };
    let names = |states: std::collections::BTreeSet<Vec<(String, Vec<u8>)>>| -> Vec<String> {
        let names = states.into_iter().flatten().map(|(name, _)| name);
        names.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
    };
    assert_eq!(names(all(std::slice::from_ref(&renamed))), ["a", "b"]);
    assert_eq!(names(all(&[renamed, synced("", 7)])), ["b"]);
    let gone = Event::Removed { path: path("a") };
    assert_eq!(all(&[gone.clone(), synced("", 7)]), [vec![]].into());
    assert_eq!(all(&[gone]), [vec![], synced_only].into());
}
