//! Drawings of sagas: kept samples, and labels that stay inside their nodes.

mod explore_sagas;

use dirigent_model::definition::{Graph, Kind, WayBack};
use explore_sagas::{choices, order, trip};
use proptest::prelude::*;
use std::time::Duration;

fn order_graph() -> Graph {
    order().expect("the saga is well declared").graph().clone()
}

/// Compares with the kept sample. With `DIRIGENT_KEEP=1` in the environment the sample is written anew.
fn is_kept(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/draw_kept").join(name);
    if std::env::var_os("DIRIGENT_KEEP").is_some() {
        std::fs::write(&path, text).expect("the folder of the samples is there");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, kept, "{name} differs from the kept sample");
}

#[test]
fn the_order_saga_is_drawn_as_kept() {
    let order = order_graph();
    is_kept("order.mmd", &order.to_mermaid());
    is_kept("order.dot", &order.to_dot());
    is_kept("order.json", &order.to_json());
}

#[test]
fn the_trip_saga_is_drawn_as_kept() {
    let trip = trip().expect("the saga is well declared");
    is_kept("trip.mmd", &trip.graph().to_mermaid());
    is_kept("trip.dot", &trip.graph().to_dot());
}

#[test]
fn a_drawing_says_why_nothing_is_undone_and_shows_what_a_graph_made_by_hand_lacks() {
    let drawn = |reason: &str, reply_within| {
        let mut graph = order_graph();
        let steps = graph.nodes.iter_mut().filter_map(|node| match &mut node.kind {
            Kind::Step(step) => Some(step),
            _ => None,
        });
        for step in steps {
            step.way_back = WayBack::Nothing { reason: reason.into() };
            step.reply_within = reply_within;
        }
        [graph.to_mermaid(), graph.to_dot()]
    };
    for text in drawn("a letter stays sent", Duration::from_millis(1_500)) {
        assert!(text.contains("nothing to compensate: a letter stays sent"), "{text}");
        assert!(text.contains("reply within 1500 ms"), "{text}");
    }
    for text in drawn(" ", Duration::ZERO) {
        assert!(text.contains("NO COMPENSATION, no reason written"), "{text}");
        assert!(text.contains("reply within 0 s"), "{text}");
    }
}

#[test]
fn every_arrow_joins_two_drawn_nodes() {
    for definition in [order(), trip(), choices()] {
        let text = definition.expect("the saga is well declared").graph().to_mermaid();
        let drawn = |id: &str| text.lines().any(|line| id_of(line) == id && line.contains(":::"));
        for line in text.lines().filter(|line| line.contains("->")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            assert!(drawn(words[0]) && drawn(words[words.len() - 1]), "{line}\n{text}");
        }
    }
}

#[test]
fn the_json_reads_as_the_same_graph() {
    let value: serde_json::Value = serde_json::from_str(&order_graph().to_json()).unwrap();
    let read: Graph = serde_json::from_value(value["graph"].clone()).unwrap();
    assert_eq!(read, order_graph());
    let fingerprint = order().expect("the saga is well declared").fingerprint().to_string();
    assert_eq!(value["fingerprint"], fingerprint);
}

/// The letters and digits a line begins with.
fn id_of(line: &str) -> &str {
    let line = line.trim_start();
    &line[..line.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(line.len())]
}

/// The order saga with this text in place of every name that people choose.
fn labelled(text: &str) -> Graph {
    let mut graph = order_graph();
    graph.start.name = text.into();
    for node in &mut graph.nodes {
        node.name = text.into();
        match &mut node.kind {
            Kind::Step(step) => {
                step.command.name = text.into();
                step.command.channel = text.into();
                step.rejection = Some(text.into());
            }
            Kind::Choose { arms, .. } => arms.iter_mut().for_each(|arm| arm.label = text.into()),
            Kind::Wait { event, .. } => event.name = text.into(),
            _ => {}
        }
    }
    graph
}

/// What is left of a line of dot without its strings; `None` where a string does not end.
fn outside_strings(line: &str) -> Option<String> {
    let (mut out, mut inside, mut escaped) = (String::new(), false, false);
    for letter in line.chars() {
        match (inside, letter) {
            (true, _) if escaped => escaped = false,
            (true, '\\') => escaped = true,
            (_, '"') => inside = !inside,
            (true, _) => {}
            (false, letter) => out.push(letter),
        }
    }
    (!inside).then_some(out)
}

proptest! {
    #[test]
    fn any_label_stays_inside_its_node(text in "\\PC{0,40}|[\"\\\\\\[\\]{}()<>;#%|&`\\n\\r\u{2028}a-]{0,40}") {
        let (drawn, usual) = (labelled(&text), labelled("usual"));
        let (mermaid, expected) = (drawn.to_mermaid(), usual.to_mermaid());
        prop_assert_eq!(mermaid.lines().count(), expected.lines().count());
        for (line, usual) in mermaid.lines().zip(expected.lines()) {
            // What is not between quotes is what it always is, and there are two quotes to a label.
            let outside = |line: &str| line.split('"').step_by(2).map(str::to_owned).collect::<Vec<_>>();
            if line.contains('"') && usual.contains('"') {
                prop_assert_eq!(outside(line), outside(usual));
            } else if !text.is_empty() {
                prop_assert_eq!(line, usual);
            }
        }
        let (dot, expected) = (drawn.to_dot(), usual.to_dot());
        prop_assert_eq!(dot.lines().count(), expected.lines().count());
        for (line, usual) in dot.lines().zip(expected.lines()) {
            prop_assert_eq!(outside_strings(line), outside_strings(usual));
        }
    }
}
