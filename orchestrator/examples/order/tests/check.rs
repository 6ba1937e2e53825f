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

/// The order, but what `reserve-stock` took is never given back.
fn without_release() -> Value {
    let mut printed: Value =
        serde_json::from_slice(&order(&["graph", "order", "--format", "json"]).stdout).unwrap();
    let nodes = printed["graph"]["nodes"].as_array_mut().unwrap();
    let reserve = nodes.iter_mut().find(|node| node["name"] == "reserve-stock").unwrap();
    reserve["kind"]["step"]["way_back"] = json!({ "nothing": { "reason": "" } });
    printed
}

#[test]
fn a_missing_compensation_is_reported_with_its_shortest_sequence() {
    let printed = without_release();
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
fn a_program_is_told_figures_bounds_sequences_and_diagrams() {
    let output = order(&["check", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    for saga in told.as_array().unwrap() {
        assert!(
            saga["states"].as_u64().unwrap() > 100 && saga["transitions"].as_u64().unwrap() > 100
        );
        assert!(saga["seconds"].as_f64().is_some());
        assert_eq!(saga["sound"], true);
        assert_eq!(saga["exhausted"], true);
        assert_eq!(saga["bounds"]["attempts_max"], 2);
        assert_eq!(saga["violations"], json!([]));
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wrong.json");
    std::fs::write(&file, without_release().to_string()).unwrap();
    let output = order(&["check", "--json", "--graph", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (violation, drawn) = (&told[0]["violations"][0], &told[0]["diagrams"][0]);
    assert_eq!(told[0]["sound"], false);
    assert_eq!(violation["node"], "reserve-stock");
    assert!(violation["sequence"].as_array().unwrap().len() >= 2, "{violation}");
    assert!(drawn.as_str().unwrap().starts_with("sequenceDiagram\n"), "{drawn}");
    let output = order(&["check", "--mermaid", "--graph", file.to_str().unwrap()]);
    assert!(said(&output).contains("```mermaid\nsequenceDiagram\n"), "{}", said(&output));
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
