//! Crash points of the canonical sagas, in the short version that every run of the tests has; `simulate --points --pairs` is the long one.
//!
//! `DIRIGENT_TEST_POINTS=all` tries every point, and no pairs but those of one death.

use dirigent::simulation::{Death, Simulation};
use integration_tests::simulate::points::{CANONICAL, Found, Plan, Row, explored};

/// One scenario in so many, and one point of those in so many, are tried in the short version: with no divisor in common with how scenarios
/// and points lie, so that all sagas, brokers, outcomes and ways to die have their share.
const SHORT: (usize, usize) = (13, 97);

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
    let (saga, part) = (None, None);
    let plan = Plan { saga, pairs: false, all: false, scenario_each, each, part, broken_max: 3 };
    let rows = tried(plan);
    let sagas: Vec<&str> = rows.iter().map(|row| row.saga).collect();
    assert_eq!(sagas, CANONICAL.map(|saga| saga.name));
    let has_its_share = |row: &Row| row.scenarios > 0 && row.runs > 0;
    assert!(rows.iter().all(has_its_share), "each saga has its share: {rows:?}");
}

#[test]
fn it_ends_so_too_where_the_next_life_dies_as_well() {
    // The first scenario, in which all succeeds, and a death near its end; the second one is of either kind.
    let (saga, part) = (Some("early".to_owned()), Some(90));
    let (scenario_each, each) = (usize::MAX, usize::MAX);
    let plan = Plan { saga, pairs: true, all: false, scenario_each, each, part, broken_max: 3 };
    let rows = tried(plan);
    assert_eq!(rows.iter().map(|row| row.runs).collect::<Vec<u64>>(), [1]);
    assert!(rows.iter().all(|row| row.pairs > 40 && row.pairs == row.pairs_there_are), "{rows:?}");
}

#[test]
#[should_panic(expected = "`nobody` is to die, but is no process of this simulation")]
fn a_death_of_nobody_is_refused() {
    let death = Death { crossing: 1, power_cut: false };
    Simulation::new(0).dies("nobody", vec![death]).run();
}
