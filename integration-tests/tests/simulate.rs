//! Worlds drawn from seeds, in the short version that every run of the tests has; `simulate --seeds 0..20000` is the long one, which `.ci/run` has, too.
//!
//! `DIRIGENT_TEST_SEED=4711 DIRIGENT_TEST_SEEDS=1` repeats one.

use dirigent::simulation::Report;
use integration_tests::simulate::drawn;

/// Seeds of the short version: some seconds of a build that is not optimised.
const SEEDS_DEFAULT: u64 = 200;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |said| said.parse().expect(name))
}

#[test]
fn sagas_of_every_shape_keep_every_rule_whatever_goes_wrong() {
    let first = number("DIRIGENT_TEST_SEED", 0);
    let seeds = first..first + number("DIRIGENT_TEST_SEEDS", SEEDS_DEFAULT);
    let reports = seeds.map(|seed| drawn(seed).run());
    let broken: Vec<Report> = reports.filter(|report| !report.is_sound()).collect();
    let told: Vec<String> = broken.iter().take(5).map(ToString::to_string).collect();
    assert!(broken.is_empty(), "{} seeds broke a rule:\n{}", broken.len(), told.join("\n"));
}

#[test]
fn a_drawn_world_runs_the_same_way_every_time() {
    for seed in 0..25 {
        assert_eq!(drawn(seed).run(), drawn(seed).run(), "seed {seed}");
    }
}
