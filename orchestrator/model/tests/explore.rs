//! Every order of inputs: what sound sagas are told, and what wrong ones.

mod explore_sagas;

use dirigent_model::{
    definition::{Definition, DefinitionErrors, Graph, Kind, NodeId, OnTimeout, WayBack},
    explore::{Bounds, Checked, ViolationKind, check_graph, check_graph_within},
};
use explore_sagas::{Own, chain, choices, fan, order, order_without_release, thirty, trip};

fn graph(definition: Result<Definition<Own>, DefinitionErrors>) -> Graph {
    definition.expect("the saga is well declared").graph().clone()
}

fn edited(
    definition: Result<Definition<Own>, DefinitionErrors>,
    step: &str,
    way_back: WayBack,
) -> Checked {
    let mut graph = graph(definition);
    let node = graph.find(step).expect("the saga has that step");
    if let Kind::Step(step) = &mut graph.nodes[node.index()].kind {
        step.way_back = way_back;
    }
    check_graph(&graph)
}

/// The order, but what `reserve-stock` took is never given back, for this reason.
fn unreleased(reason: &str) -> Checked {
    let way_back = WayBack::Nothing { reason: reason.into() };
    edited(order_without_release("reading only"), "reserve-stock", way_back)
}

fn kinds(checked: &Checked) -> Vec<ViolationKind> {
    checked.violations.iter().map(|violation| violation.kind).collect()
}

#[test]
fn an_order_and_a_trip_hold_under_every_order_of_inputs() {
    for definition in [order(), trip(), choices(), chain(6), fan(3, 1), fan(2, 2)] {
        let checked = definition.expect("the saga is well declared").check();
        println!("{checked}");
        assert!(checked.is_sound(), "{checked}");
        assert_eq!(checked.bounds, Bounds::default());
    }
}

#[test]
fn commands_that_are_held_are_explored_too_and_multiply_the_states_by_four_at_the_most() {
    for definition in [order(), trip(), chain(6), fan(2, 1)] {
        let graph = graph(definition);
        let [without, with] = [false, true]
            .map(|holds| check_graph_within(&graph, Bounds { holds, ..Bounds::default() }));
        assert!(without.is_sound() && with.is_sound(), "{with}");
        let most = 4 * without.states;
        assert!((without.states + 1..=most).contains(&with.states), "{without}\n{with}");
        let text = without.to_string();
        assert!(text.contains("(≤ 2 attempts per command, none of them held)"), "{text}");
    }
}

#[test]
fn the_summary_is_one_line() {
    let checked = graph(order_without_release("reading only"));
    let text = check_graph(&checked).to_string();
    assert!(!text.contains('\n'), "{text}");
    assert!(text.starts_with("order v1: "), "{text}");
    let end = "every order of inputs explored (≤ 2 attempts per command): no violation";
    assert!(text.ends_with(end), "{text}");
}

#[test]
fn a_compensation_that_is_missing_is_reported_with_its_shortest_sequence() {
    let checked = unreleased("");
    assert_eq!(checked.violations[0].kind, ViolationKind::Refused);
    let left = checked
        .violations
        .iter()
        .find(|violation| violation.kind == ViolationKind::LeftUncompensated)
        .expect("the missing compensation is found");
    assert_eq!(left.node.as_deref(), Some("reserve-stock"));
    assert_eq!(
        left.to_string(),
        "left uncompensated: `reserve-stock` took effect and stays uncompensated: it has no compensation, and no reason is written why it needs none
  1. OrderPlaced starts it
       sends   ReserveStock (reserve-stock) to inventory
       now     reserve-stock: attempt 1 is out
       saga    running
  2. reserve-stock succeeds
       sends   AuthorisePayment (authorise-payment) to payment
       now     reserve-stock: done
       now     authorise-payment: attempt 1 is out
       saga    running
  3. authorise-payment is rejected
       sends   OrderFailed to order-events
       now     authorise-payment: no effect
       saga    compensated"
    );
    assert_eq!(
        left.to_mermaid(),
        "sequenceDiagram
    participant saga
    participant p0 as orders
    participant p1 as inventory
    participant p2 as payment
    participant p3 as order-events
    p0->>saga: OrderPlaced starts it
    saga->>p1: ReserveStock (reserve-stock)
    Note over saga: running
    p1->>saga: reserve-stock succeeds
    saga->>p2: AuthorisePayment (authorise-payment)
    p2->>saga: authorise-payment is rejected
    saga->>p3: OrderFailed
    Note over saga: compensated
    Note over saga: VIOLATION #96;reserve-stock#96; took effect and stays uncompensated: it has no compensation, and no reason is written why it needs none
"
    );
}

#[test]
fn a_step_that_may_have_taken_effect_is_reported_too() {
    let checked = unreleased(" ");
    let doubt = &checked.violations[1];
    assert_eq!(doubt.kind, ViolationKind::LeftInDoubt);
    assert_eq!(doubt.sequence.len(), 2, "{doubt}");
}

#[test]
fn a_graph_edited_as_json_is_checked_as_it_then_stands() {
    let json = serde_json::to_string(&graph(order())).unwrap();
    let read: Graph = serde_json::from_str(&json).unwrap();
    assert!(check_graph(&read).is_sound());
    let nothing = WayBack::Nothing { reason: String::new() };
    let checked = edited(order(), "reserve-stock", nothing);
    assert!(kinds(&checked).contains(&ViolationKind::LeftUncompensated), "{checked}");
}

#[test]
fn a_step_behind_the_pivot_that_may_fail_is_reported() {
    let nothing = WayBack::Nothing { reason: "a letter".into() };
    let checked = edited(order(), "ship", nothing);
    assert!(!checked.is_sound(), "{checked}");
}

#[test]
fn a_pivot_among_siblings_that_may_fail_is_reported() {
    let checked = edited(order(), "reserve-stock", WayBack::Pivot);
    assert!(!checked.is_sound(), "{checked}");
}

#[test]
fn a_retriable_step_before_the_pivot_is_reported() {
    let checked = edited(chain(2), "step-0", WayBack::Retriable);
    assert!(!checked.is_sound(), "{checked}");
}

#[test]
fn a_wait_that_refuses_behind_the_pivot_is_reported() {
    let mut graph = graph(trip());
    let pivot = graph.find("book-flight").expect("the trip has that step");
    if let Kind::Step(step) = &mut graph.nodes[pivot.index()].kind {
        step.way_back = WayBack::Pivot;
    }
    let wait = graph.find("confirmation").expect("the trip has that wait");
    if let Kind::Wait { on_timeout, .. } = &mut graph.nodes[wait.index()].kind {
        *on_timeout = OnTimeout::Reject;
    }
    assert!(!check_graph(&graph).is_sound());
}

#[test]
fn nodes_that_hold_one_another_are_refused_and_not_walked() {
    let mut graph = graph(order());
    graph.nodes[0].kind = Kind::Sequence { children: vec![NodeId(0)] };
    let checked = check_graph(&graph);
    assert_eq!(kinds(&checked), [ViolationKind::Malformed]);
    assert!(!checked.is_sound());
}

#[test]
fn a_graph_without_nodes_or_with_one_that_lies_in_no_block_is_refused_with_the_reason() {
    let (mut none, mut lost) = (graph(order()), graph(order()));
    none.nodes.clear();
    lost.nodes[0].kind = Kind::Sequence { children: Vec::new() };
    for (graph, why) in [(none, "0 nodes"), (lost, "does not lie in exactly one block")] {
        let checked = check_graph(&graph);
        assert_eq!(kinds(&checked), [ViolationKind::Malformed]);
        assert!(checked.to_string().contains(why), "{checked}");
    }
}

#[test]
fn a_saga_that_was_left_no_block_ends_at_once_and_is_refused_all_the_same() {
    let mut graph = graph(order());
    graph.nodes.truncate(1);
    graph.nodes[0].kind = Kind::Sequence { children: Vec::new() };
    let checked = check_graph(&graph);
    assert_eq!(kinds(&checked), [ViolationKind::Refused], "{checked}");
    assert!(checked.exhausted, "{checked}");
}

#[test]
fn reaching_the_bound_is_not_success() {
    let bounds = Bounds { states_max: 50, ..Bounds::default() };
    let checked = check_graph_within(&graph(order()), bounds);
    assert!(checked.violations.is_empty() && !checked.exhausted && !checked.is_sound());
    assert!(checked.to_string().contains("NOT EXHAUSTED"), "{checked}");
}

#[test]
fn the_outcome_can_be_written_and_read() {
    let checked = unreleased("");
    let json = serde_json::to_string(&checked).unwrap();
    assert_eq!(serde_json::from_str::<Checked>(&json).unwrap(), checked);
    // A number of 64 bits would be rounded by readers that know doubles only.
    assert!(json.contains(&format!(r#""fingerprint":"{}""#, checked.fingerprint)), "{json}");
}

#[test]
#[ignore = "measures; takes minutes without optimisation"]
#[allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "it is about the time taken"
)]
fn how_many_states_there_are_and_how_long_they_take() {
    let definitions =
        [order(), trip(), choices(), chain(30), fan(4, 1), fan(3, 2), fan(5, 1), thirty()];
    for definition in definitions {
        let graph = graph(definition);
        for reduced in [true, false] {
            let begun = std::time::Instant::now();
            let checked = check_graph_within(&graph, Bounds { reduced, ..Bounds::default() });
            println!("{:?}, reduced {reduced}: {checked}", begun.elapsed());
        }
    }
}

#[test]
fn a_saga_of_thirty_steps_is_explored_whole() {
    let graph = graph(thirty());
    assert_eq!(graph.ids().filter(|id| graph.step(*id).is_some()).count(), 30);
    // Without optimisation that takes half a minute; without commands that are held a few seconds.
    let bounds = Bounds { holds: !cfg!(debug_assertions), ..Bounds::default() };
    let checked = check_graph_within(&graph, bounds);
    println!("{checked}");
    assert!(checked.is_sound(), "{checked}");
}
