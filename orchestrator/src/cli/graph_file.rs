//! A graph out of a file: read whole, or every place told where it is none, by the name of its block.
//!
//! What comes out is laid out as a [`Graph`], and nothing more: whether it makes sense is for `check` to say.

use super::out::Trouble;
use dirigent_model::{
    definition::{AskStatus, Graph, MessageRef, Node, WayBack},
    retry::Retry,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::{path::Path, time::Duration};

/// Bytes of a file that is read as a graph: many times what the largest graph there can be takes.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Mistakes told of one file; where there are more, the first ones help most.
const MISTAKES_MAX: usize = 10;

const WAYS_BACK: &str = r#"`way_back` is one of "pivot", "retriable", { "nothing": { "reason": "why" } }, and { "compensated": { "command": .., "success": .., "reply_within": .., "retry": .. } }"#;

/// A graph as `graph --format json` writes it, with or without the fingerprint around it.
pub(super) fn read(file: &Path) -> Result<Graph, Trouble> {
    let shown = file.display();
    let reading = |error| Trouble::new(format!("reading {shown}")).because(error);
    let bytes = std::fs::metadata(file).map_err(reading)?.len();
    if bytes > FILE_BYTES_MAX {
        let text = format!("{shown} has {bytes} bytes, and no graph of a saga has that many");
        return Err(Trouble::new(text).hint("name a file that `graph SAGA --format json` wrote"));
    }
    let text = std::fs::read_to_string(file).map_err(reading)?;
    parse(&text).map_err(|mistakes| {
        let text = format!("{shown} is no graph of a saga:\n- {}", mistakes.join("\n- "));
        let hint = match mistakes.iter().any(|mistake| mistake.contains("`way_back`")) {
            true => WAYS_BACK,
            false => "`graph SAGA --format json` writes one",
        };
        Trouble::new(text).hint(hint)
    })
}

/// The graph, or every place where the text is none.
pub(super) fn parse(text: &str) -> Result<Graph, Vec<String>> {
    let value: Value = serde_json::from_str(text).map_err(|error| vec![error.to_string()])?;
    let graph = value.get("graph").unwrap_or(&value);
    let read = serde_json::from_value(graph.clone());
    read.map_err(|error| {
        let nodes = graph.get("nodes").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let mut mistakes: Vec<String> =
            nodes.iter().enumerate().filter_map(|(at, node)| in_node(at, node)).collect();
        if mistakes.is_empty() {
            mistakes.push(error.to_string());
        }
        mistakes.truncate(MISTAKES_MAX);
        mistakes
    })
}

/// What is wrong about one node, if anything is.
fn in_node(at: usize, node: &Value) -> Option<String> {
    let error = serde_json::from_value::<Node>(node.clone()).err()?;
    let step = node.pointer("/kind/step").and_then(Value::as_object);
    let what = step.and_then(in_step).unwrap_or_else(|| error.to_string());
    let kind = if step.is_some() { "step" } else { "node" };
    Some(match node.get("name").and_then(Value::as_str) {
        Some(name) => format!("{kind} `{name}`: {what}"),
        None => format!("{kind} {at} (counted from 0): {what}"),
    })
}

/// The same for the field of a step that can't be read. One that is missing is named by the error around it.
fn in_step(step: &Map<String, Value>) -> Option<String> {
    fn wrong<T: DeserializeOwned>(step: &Map<String, Value>, name: &str) -> Option<String> {
        let error = serde_json::from_value::<T>(step.get(name)?.clone()).err()?;
        Some(format!("`{name}`: {error}"))
    }
    wrong::<MessageRef>(step, "command")
        .or_else(|| wrong::<String>(step, "success"))
        .or_else(|| wrong::<Option<String>>(step, "rejection"))
        .or_else(|| wrong::<Duration>(step, "reply_within"))
        .or_else(|| wrong::<Retry>(step, "retry"))
        .or_else(|| wrong::<Option<AskStatus>>(step, "status"))
        .or_else(|| wrong::<WayBack>(step, "way_back"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: &str = include_str!("../../model/tests/draw_kept/order.json");

    fn edited(edit: impl FnOnce(&mut Map<String, Value>)) -> Vec<String> {
        let mut value: Value = serde_json::from_str(KEPT).expect("the kept drawing is JSON");
        let nodes = value["graph"]["nodes"].as_array_mut().expect("it has nodes");
        let ship = nodes.iter_mut().find(|node| node["name"] == "ship").expect("it ships");
        edit(ship["kind"]["step"].as_object_mut().expect("shipping is a step"));
        parse(&value.to_string()).expect_err("it is edited so that it is no graph")
    }

    #[test]
    fn what_graph_writes_is_read_with_and_without_its_fingerprint() {
        let whole = parse(KEPT).expect("it is a graph");
        let bare = serde_json::to_string(&whole).expect("a graph is JSON");
        assert_eq!(parse(&bare).expect("it is a graph"), whole);
    }

    #[test]
    fn a_step_that_can_not_be_read_is_named_with_its_field() {
        let missing = edited(|step| drop(step.remove("way_back")));
        assert_eq!(missing, ["step `ship`: missing field `way_back`"]);
        let null = edited(|step| drop(step.insert("way_back".into(), Value::Null)));
        assert_eq!(null.len(), 1);
        assert!(null[0].starts_with("step `ship`: `way_back`: invalid type: null"), "{null:?}");
        let unknown = edited(|step| drop(step.insert("way_back".into(), "forward".into())));
        assert!(unknown[0].contains("unknown variant `forward`"), "{unknown:?}");
        let retry = edited(|step| step["retry"]["attempts_max"] = (-1).into());
        assert!(retry[0].starts_with("step `ship`: `retry`: invalid value"), "{retry:?}");
    }

    #[test]
    fn text_that_is_no_json_is_told_with_its_place() {
        let mistakes = parse("{\n  \"graph\": {,\n").expect_err("it is no JSON");
        assert!(mistakes[0].contains("line 2"), "{mistakes:?}");
    }
}
