//! The whole of it on virtual time: whatever happens to processes, brokers and disks, what was promised holds.

mod support;

use dirigent::{
    participant::{Answer, Participant},
    simulation::{Faults, Report, Simulation},
};
use std::time::Duration;
use support::{Begun, LIMIT, Paid, Pay, Refused, Release, Released, Reserve, Reserved, purchase};

fn worker() -> Participant {
    Participant::new("worker")
        .on(|_, asked: Reserve, _| Answer::Done(Reserved { ticket: asked.id }))
        .undoes::<Release, Reserve>(|_, _, _| Answer::Done(Released {}), |_, _| Released {})
        .on(|_, asked: Pay, _| match asked.amount > LIMIT {
            true => Answer::Rejected(Refused { why: "too much".into() }),
            false => Answer::Done(Paid {}),
        })
}

fn purchases(seed: u64) -> Simulation {
    (0..8).fold(Simulation::new(seed).saga(purchase(1)).participant(worker), |it, id| {
        let amount = if id % 4 == 3 { LIMIT + 1 } else { 20 };
        it.starts(Duration::from_millis(700 * id), &id.to_string(), &Begun { id, amount })
    })
}

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str, otherwise| {
        std::env::var(name).ok().map_or(otherwise, |it| it.parse().expect("a number"))
    };
    let first = number("DIRIGENT_TEST_SEED", 0);
    first..first + number("DIRIGENT_TEST_SEEDS", 20)
}

#[test]
fn without_faults_all_sagas_end_as_they_should() {
    let report = purchases(1).faults(Faults::none()).run();
    report.assert_sound();
    assert_eq!(report.ended["completed"], 6, "{report}");
    assert_eq!(report.ended["compensated"], 2, "{report}");
}

#[test]
fn whatever_goes_wrong_every_rule_holds() {
    let reports: Vec<Report> = seeds().map(|seed| purchases(seed).run()).collect();
    let broken: Vec<&Report> = reports.iter().filter(|report| !report.is_sound()).collect();
    let told: Vec<String> = broken.iter().take(5).map(ToString::to_string).collect();
    assert!(broken.is_empty(), "{} seeds broke a rule:\n{}", broken.len(), told.join("\n"));
}

#[test]
fn a_seed_is_one_run() {
    for seed in seeds().take(5) {
        assert_eq!(purchases(seed).run(), purchases(seed).run());
    }
}

#[test]
fn a_process_that_is_killed_faster_than_it_opens_is_spared_after_a_few_lives() {
    let killed_within = Some(Duration::from_millis(1));
    let lasts = Duration::from_secs(60);
    let slow = Duration::from_secs(1);
    let faults = Faults { killed_within, lasts, latency: slow, ..Faults::none() };
    let report = purchases(1).faults(faults).run();
    report.assert_sound();
    let kills = report.injected["kill -9"];
    assert!((1..100).contains(&kills), "{report}");
    assert_eq!(report.ended.values().sum::<u64>(), 8, "{report}");
}
