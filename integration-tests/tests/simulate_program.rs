//! The program `simulate` as a person or a pipeline calls it: what it prints where, and how it exits.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

use serde_json::Value;
use std::process::{Command, Output};

fn simulate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_simulate")).args(arguments).output().unwrap()
}

#[test]
fn sound_worlds_are_told_as_figures_with_the_commit_and_exit_0() {
    let done = simulate(&["--seeds", "5..9", "--jobs", "2", "--json"]);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let figures: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(figures["seeds"], 4, "{figures}");
    assert_eq!(figures["broken"], Value::Array(Vec::new()), "{figures}");
    assert!(!figures["commit"].as_str().unwrap().is_empty(), "{figures}");
}

#[test]
fn a_time_limit_ends_it_wherever_it_is() {
    let done = simulate(&["--minutes", "0.01", "--json"]);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let figures: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert!(figures["seeds"].as_u64().unwrap() > 0, "{figures}");
}

#[test]
fn arguments_without_sense_exit_2_and_say_why() {
    for wrong in [
        &["--seeds", "9..5"][..],
        &["--seeds", "all"],
        &["--minutes", "-1"],
        &["--jobs", "0"],
        &["--seed", "1", "--seeds", "0..5"],
        &["--trace"],
    ] {
        let done = simulate(wrong);
        assert_eq!(done.status.code(), Some(2), "{wrong:?}: {done:?}");
        assert!(!done.stderr.is_empty(), "{wrong:?}");
    }
}

#[test]
fn a_story_tells_messages_and_decisions() {
    let done = simulate(&["--seed", "5", "--trace"]);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let story = String::from_utf8(done.stdout).unwrap();
    assert!(story.contains("broker-0") && story.contains(": started"), "{story}");
}
