//! Crash points of the canonical sagas, in the short version that every run of the tests has; `simulate --points --pairs` is the long one.
//!
//! `DIRIGENT_TEST_POINTS=all` tries every point, and no pairs but those of one death.

use integration_tests::simulate::points::{CANONICAL, Found, Plan, Row, explored};

/// One scenario in so many, and one point of those in so many, are tried in the short version: with no divisor in common with how scenarios
/// and points lie, so that all sagas, brokers, outcomes and ways to die have their share.
const SHORT: (usize, usize) = (11, 67);

fn tried(plan: Plan) -> Vec<Row> {
    let (rows, found) = explored(&plan, &|_| {});
    let told: Vec<String> = found.iter().map(Found::to_string).collect();
    assert!(found.is_empty(), "{}", told.join("\n"));
    rows
}

#[test]
fn every_canonical_saga_ends_as_it_does_undisturbed_whoever_dies_where() {
    let is_whole = std::env::var("DIRIGENT_TEST_POINTS").is_ok_and(|said| said == "all");
    let (scenario_each, each) = if is_whole { (1, 1) } else { SHORT };
    let plan = Plan { saga: None, pairs: false, all: false, scenario_each, each, broken_max: 3 };
    let rows = tried(plan);
    assert_eq!(rows.len(), CANONICAL.len());
    assert!(rows.iter().all(|row| row.scenarios > 0), "each saga has its share: {rows:?}");
    assert!(rows.iter().map(|row| row.runs).sum::<u64>() > 40, "{rows:?}");
}

#[test]
fn it_ends_so_too_where_the_next_life_dies_as_well() {
    // The first scenario, in which all succeeds, and a death in its middle.
    let saga = Some("early".to_owned());
    let plan = Plan { saga, pairs: true, all: false, scenario_each: 14, each: 140, broken_max: 3 };
    let rows = tried(plan);
    assert!(rows.iter().all(|row| row.pairs > 40), "{rows:?}");
}
