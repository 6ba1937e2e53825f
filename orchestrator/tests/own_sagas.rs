//! The users' kit: a saga of theirs in drawn worlds, with participants of theirs, played ones, and sloppy ones that are found out.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

mod support;

use dirigent::{
    participant::{Answer, Participant},
    simulation::{Faults, Simulate, Simulated, simulate},
};
use std::{any::Any, panic::catch_unwind};
use support::{
    Begun, Finished, LIMIT, PANICS, Paid, Pay, Refused, Release, Released, Reserve, Reserved,
    purchase,
};

fn worker() -> Participant {
    Participant::new("worker")
        .on(|_, asked: Reserve, _| Answer::Done(Reserved { ticket: asked.id }))
        .undoes::<Release, Reserve>(|_, _, _| Answer::Done(Released {}), |_, _| Released {})
        .on(|_, asked: Pay, _| match asked.amount > LIMIT {
            true => Answer::Rejected(Refused { why: "too much".into() }),
            false => Answer::Done(Paid {}),
        })
}

fn begun(id: u64) -> Begun {
    Begun { id, amount: if id % 4 == 3 { LIMIT + 1 } else { 20 } }
}

fn purchases() -> Simulate {
    simulate(purchase(1)).participants(|| vec![worker()]).starts(begun)
}

/// What a check that fails tells.
fn told(check: impl FnOnce() -> Simulated + std::panic::UnwindSafe) -> String {
    let panic = catch_unwind(check).expect_err("it was to fail");
    text_of(&*panic)
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
}

#[test]
fn a_saga_keeps_every_rule_with_its_own_participants_and_all_of_it_is_crossed() {
    let simulated = purchases().check();
    println!("{simulated}");
    assert_eq!(simulated.worlds, 100);
    assert!(simulated.ended["completed"] > 0 && simulated.ended["compensated"] > 0, "{simulated}");
    simulated.coverage.assert_compensations_covered();
    assert!(simulated.coverage.times("pay", "rejected") > 0, "{simulated}");
}

#[test]
fn the_same_seeds_come_to_the_same_on_however_many_threads() {
    let all = purchases().seeds(0..12).run();
    assert_eq!(all, purchases().seeds(0..12).run());
    let one_by_one: u64 = (0..12).map(|seed| purchases().seed(seed).run().worlds).sum();
    assert_eq!(all.worlds, one_by_one);
}

#[test]
fn without_faults_and_moods_only_what_participants_refuse_is_compensated() {
    let simulated = purchases().faults(Faults::none()).willing().seeds(0..10).check();
    assert_eq!(simulated.coverage.times("reserve", "left in doubt"), 0, "{simulated}");
    assert_eq!(
        simulated.coverage.times("reserve", "compensated"),
        simulated.ended["compensated"],
        "{simulated}"
    );
}

#[test]
fn commands_that_nobody_carries_out_are_played() {
    let simulated = simulate(purchase(1)).starts(begun).seeds(0..10).check();
    assert!(simulated.ended["completed"] > 0, "{simulated}");
}

#[test]
fn a_command_that_can_not_be_played_is_named() {
    let half = || {
        vec![
            Participant::new("worker")
                .on(|_, asked: Reserve, _| Answer::Done(Reserved { ticket: asked.id })),
        ]
    };
    let text = told(move || simulate(purchase(1)).participants(half).starts(begun).check());
    assert!(text.contains("nobody carries out `Release` of step `reserve`"), "{text}");
    assert!(text.contains("`worker` reads its channel `work`"), "{text}");
}

#[test]
fn a_saga_without_a_beginning_is_told_how_to_begin() {
    let text = told(|| simulate(purchase(1)).check());
    assert!(text.contains("say how `purchase` begins: `.starts(|number| Begun { .. })`"), "{text}");
}

#[test]
fn an_event_that_begins_no_such_saga_is_named() {
    let text = told(|| simulate(purchase(1)).starts(|id| Finished { id }).check());
    assert!(text.contains("`purchase` is started by `Begun`, not by `Finished`"), "{text}");
}

#[test]
fn a_broken_rule_is_told_with_its_seed_the_shortest_cut_and_its_story() {
    // Its release is a command as any other: it takes effect, too, where the reservation was never here, or comes later.
    let sloppy = || {
        vec![
            Participant::new("worker")
                .on(|_, asked: Reserve, _| Answer::Done(Reserved { ticket: asked.id }))
                .on(|_, _: Release, _| Answer::Done(Released {}))
                .on(|_, _: Pay, _| Answer::Done(Paid {})),
        ]
    };
    let check = move || simulate(purchase(1)).participants(sloppy).starts(begun).check();
    let text = told(check);
    println!("{text}");
    let seed = text.split("`.seed(").nth(1).and_then(|text| text.split(')').next()).unwrap();
    assert!(text.contains(&format!("seed {seed}: ")), "{text}");
    assert!(text.contains("broken: only what was done is undone"), "{text}");
    assert!(text.contains("The shortest that was found and still breaks it: without"), "{text}");
    assert!(text.contains("; compensates reserve"), "{text}");
}

#[test]
fn a_function_of_the_saga_that_panics_is_found() {
    let unlucky = |id| Begun { id, amount: PANICS };
    let simulated =
        simulate(purchase(1)).participants(|| vec![worker()]).starts(unlucky).seeds(0..4).run();
    let broken = simulated.broken.expect("a reply that panics is quarantined");
    assert!(!broken.is_sound(), "{broken}");
}
