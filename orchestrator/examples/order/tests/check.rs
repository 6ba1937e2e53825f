//! `order check` as a person runs it: on the sagas as they are, and on one whose compensation is missing.

// Clippy takes the helpers of an integration test for code that is no test.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use std::process::{Command, Output};

fn order(arguments: &[&str]) -> Output {
    let folder = std::env::temp_dir();
    Command::new(env!("CARGO_BIN_EXE_order")).args(arguments).current_dir(folder).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn both_sagas_keep_every_rule_in_every_order_of_inputs() {
    let output = order(&["check"]);
    assert!(output.status.success(), "{}", said(&output));
    let said = said(&output);
    assert!(said.contains("order v1: ") && said.contains("trip v1: "), "{said}");
    assert_eq!(said.matches("no violation").count(), 2, "{said}");
}

#[test]
fn a_missing_compensation_is_reported_with_its_shortest_sequence() {
    let mut printed: Value =
        serde_json::from_slice(&order(&["graph", "order", "--format", "json"]).stdout).unwrap();
    let nodes = printed["graph"]["nodes"].as_array_mut().unwrap();
    let reserve = nodes.iter_mut().find(|node| node["name"] == "reserve-stock").unwrap();
    reserve["kind"]["step"]["way_back"] = json!({ "nothing": { "reason": "" } });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wrong.json");
    std::fs::write(&file, printed.to_string()).unwrap();
    let output = order(&["check", "--graph", file.to_str().unwrap()]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("`reserve-stock` took effect and stays uncompensated"), "{said}");
    assert!(
        said.contains("sequenceDiagram") || said.contains("1. "),
        "the sequence is told: {said}"
    );
}

#[test]
fn a_file_that_is_no_graph_is_refused_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("other.json");
    std::fs::write(&file, r#"{"graph":{"name":"x"}}"#).unwrap();
    let output = order(&["check", "--graph", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("is no graph of a saga") && said.contains("graph SAGA --format json"),
        "{said}"
    );
}
