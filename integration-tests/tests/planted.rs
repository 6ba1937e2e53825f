//! Planted bugs: for each of them worlds are drawn seed by seed until one breaks a rule. What nobody would notice is no rule.
//!
//! `DIRIGENT_TEST_BUGS=parked-dropped,fence-ignored` tries some of them; `DIRIGENT_TEST_SEEDS` says how many seeds each has, 10 000 if not said. What was
//! found is printed as rows for the table in `ARCHITECTURE.md`.

use dirigent::planted::Bug;
use integration_tests::simulate::{Found, UNFOUND, drawn, first_found, world_for};
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

/// Seeds within which each bug is found.
const SEEDS_MAX: u64 = 10_000;

fn seeds() -> u64 {
    let said = std::env::var("DIRIGENT_TEST_SEEDS").ok();
    said.map_or(SEEDS_MAX, |said| said.parse().expect("DIRIGENT_TEST_SEEDS is a number"))
}

fn bugs() -> Vec<Bug> {
    let Ok(said) = std::env::var("DIRIGENT_TEST_BUGS") else {
        return Bug::ALL.iter().copied().filter(|bug| !UNFOUND.contains(bug)).collect();
    };
    let of = |name: &str| {
        let mut all = Bug::ALL.iter().copied();
        all.find(|bug| bug.name() == name).unwrap_or_else(|| panic!("no bug is called `{name}`"))
    };
    said.split(',').map(of).collect()
}

/// Does something with each of these, on all cores; answers in their order.
fn each<T: Copy + Sync, R: Send>(of: &[T], work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let at = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(one) = of.get(at)
                {
                    let result = work(*one);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

#[test]
fn every_planted_bug_is_found_and_without_it_the_same_worlds_are_sound() {
    let (bugs, seeds) = (bugs(), seeds());
    let found: Vec<Option<Found>> = each(&bugs, |bug| first_found(bug, 0..seeds));
    for (bug, found) in bugs.iter().zip(&found) {
        let (name, what) = (bug.name(), bug.what());
        match found {
            Some(Found { seed, rule }) => println!("| `{name}` | {what} | {seed} | {rule} |"),
            None => println!("| `{name}` | {what} | none in {seeds} | |"),
        }
    }
    let told =
        bugs.iter().zip(&found).filter_map(|(bug, found)| Some((*bug, found.as_ref()?.seed)));
    let told: Vec<(Bug, u64)> = told.collect();
    let reports = each(&told, |(bug, seed)| world_for(bug, seed).run());
    let broken: Vec<_> = reports.iter().filter(|report| !report.is_sound()).collect();
    assert!(broken.is_empty(), "without a bug a rule is broken: {broken:?}");
    let missed = bugs.iter().zip(&found).filter(|(_, found)| found.is_none());
    let missed: Vec<&str> = missed.map(|(bug, _)| bug.name()).collect();
    assert!(missed.is_empty(), "not found within {seeds} seeds: {}", missed.join(", "));
}

#[test]
fn a_world_with_a_bug_runs_the_same_way_every_time() {
    for (seed, bug) in (0..).zip(Bug::ALL) {
        let world = || drawn(seed).planted(*bug).run();
        assert_eq!(world(), world(), "{} at seed {seed}", bug.name());
    }
}
