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

/// The order, with one of its steps edited.
fn edited(step: &str, edit: impl FnOnce(&mut Value)) -> Value {
    let mut printed: Value =
        serde_json::from_slice(&order(&["graph", "order", "--format", "json"]).stdout).unwrap();
    let nodes = printed["graph"]["nodes"].as_array_mut().unwrap();
    edit(&mut nodes.iter_mut().find(|node| node["name"] == step).unwrap()["kind"]["step"]);
    printed
}

/// The order, but what `reserve-stock` took is never given back.
fn without_release() -> Value {
    edited("reserve-stock", |step| step["way_back"] = json!({ "nothing": { "reason": "" } }))
}

/// What `check` says of a graph: its exit code, the standard output, and the standard error.
fn checked(graph: &Value) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("edited.json");
    std::fs::write(&file, graph.to_string()).unwrap();
    let output = order(&["check", "--graph", file.to_str().unwrap()]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said(&output), errors)
}

#[test]
fn a_graph_that_the_builder_would_refuse_is_refused_in_its_words_and_nothing_panics_aloud() {
    let second_pivot = edited("ship", |step| step["way_back"] = json!("pivot"));
    let twice = {
        let mut graph = edited("ship", |_| ());
        let nodes = graph["graph"]["nodes"].as_array_mut().unwrap();
        nodes.iter_mut().find(|node| node["name"] == "ship").unwrap()["name"] =
            json!("capture-payment");
        graph
    };
    for (graph, told) in [
        (second_pivot, "`ship` is a second pivot on its path; make it retriable"),
        (twice, "the name `capture-payment` is used twice"),
        (
            edited("ship", |step| step["command"]["channel"] = json!("")),
            "the command `ShipOrder` of `ship` travels on channel ``, which can't be one",
        ),
        (
            edited("ship", |step| step["retry"]["attempts_max"] = json!(0)),
            "the command of `ship` has no attempt",
        ),
        (
            edited("reserve-stock", |step| {
                step["way_back"] = json!({ "nothing": { "reason": " " } });
            }),
            "`reserve-stock` has nothing to compensate, and no reason is written",
        ),
    ] {
        let (code, text, errors) = checked(&graph);
        assert_eq!(code, Some(1), "{text}{errors}");
        assert!(text.contains(&format!("refused when it is declared: {told}")), "{text}");
        assert_eq!(errors, "", "a person would take it for a mistake of ours");
    }
}

#[test]
fn a_step_without_its_way_back_is_named_with_the_forms_there_are() {
    let (code, _, errors) = checked(&edited("ship", |step| {
        step.as_object_mut().unwrap().remove("way_back");
    }));
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("step `ship`: missing field `way_back`"), "{errors}");
    assert!(errors.contains(r#"{ "nothing": { "reason": "why" } }"#), "{errors}");
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
    let refused = &told[0]["violations"][0];
    assert_eq!((&refused["kind"], &refused["node"]), (&json!("refused"), &json!("reserve-stock")));
    let (violation, drawn) = (&told[0]["violations"][1], &told[0]["diagrams"][1]);
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
