//! Where the broker is: every verb takes the word of the same ones in the same order, and says whose it was.
//!
//! Nobody listens at the addresses here, so that each verb ends with what it says.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

/// A port that nobody listens at.
const NOWHERE: &str = "127.0.0.1:1";

/// Every verb that goes to a broker, without saying which.
const VERBS: &[&[&str]] = &[
    &["run", "--data", "o", "--log", "error"],
    &["participants", "--data", "s"],
    &["publish"],
    &["demo", "--orders", "1", "--data", "d"],
    &["conformance", "--participant", "payment"],
];

/// Begins a verb in a folder of its own with this file of settings. It knows nothing else but these variables.
fn begin(folder: &Path, words: &[&str], file: &str, variables: &[(&str, &str)]) -> Child {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("dirigent.toml"), file).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_order"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DIRIGENT_") {
            command.env_remove(name);
        }
    }
    command.args(words).current_dir(folder).envs(variables.iter().copied());
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What it said before it failed.
fn said(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

#[test]
fn every_verb_goes_to_the_broker_of_the_file_and_says_so() {
    let place = tempfile::tempdir().unwrap();
    for (broker, section, shown) in [
        ("kafka", format!("[kafka]\naddress = '{NOWHERE}'\n"), format!("kafka at {NOWHERE}")),
        (
            "rabbitmq",
            format!("[rabbitmq]\nuri = 'amqp://ann:s3cret@{NOWHERE}/%2f'\n"),
            format!("rabbitmq at amqp://ann:***@{NOWHERE}/%2f"),
        ),
    ] {
        let file = format!("wait_for_broker_seconds = 1\n\n{section}");
        let begun: Vec<_> = VERBS
            .iter()
            .map(|verb| {
                let folder = place.path().join(broker).join(verb[0]);
                let words: Vec<_> = verb.iter().chain(&["--broker", broker]).copied().collect();
                (verb[0], begin(&folder, &words, &file, &[]))
            })
            .collect();
        for (verb, child) in begun {
            let said = said(child);
            let told = format!("broker: {shown}, by dirigent.toml:4");
            assert!(said.contains(&told), "{verb}: {said}");
            assert!(said.contains("did not answer") && !said.contains("s3cret"), "{verb}: {said}");
        }
    }
}

#[test]
fn a_flag_wins_over_the_environment_which_wins_over_the_file_for_every_verb() {
    let place = tempfile::tempdir().unwrap();
    let file = "wait_for_broker_seconds = 1\n[kafka]\naddress = '127.0.0.1:3'\n";
    let environment = [("DIRIGENT_KAFKA", "127.0.0.1:2")];
    let mut begun = Vec::new();
    for verb in VERBS {
        for (flags, told) in [
            (&["--kafka", NOWHERE][..], "broker: kafka at 127.0.0.1:1, by --kafka"),
            (&[], "broker: kafka at 127.0.0.1:2, by DIRIGENT_KAFKA"),
        ] {
            let folder = place.path().join(verb[0]).join(flags.len().to_string());
            let words: Vec<_> =
                verb.iter().chain(&["--broker", "kafka"]).chain(flags).copied().collect();
            begun.push((verb[0], told, begin(&folder, &words, file, &environment)));
        }
    }
    for (verb, told, child) in begun {
        let said = said(child);
        assert!(said.contains(told), "{verb}: {said}");
    }
}
