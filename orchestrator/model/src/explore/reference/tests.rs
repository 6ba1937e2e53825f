//! The reference tried on its own: what it finds, state by state, without any transition.

use super::*;
use crate::{
    definition::{Ends, MessageRef, Node, Repeat},
    instance::Ask,
    message::Format,
    retry::Retry,
};
use std::time::Duration;

fn message(name: &str) -> MessageRef {
    MessageRef { name: name.into(), channel: "channel".into(), format: Format::Json }
}

fn step() -> Kind {
    let (reply_within, retry) = (Duration::from_secs(1), Retry::never());
    let way_back = WayBack::Compensated {
        command: message("Undo"),
        success: "Undone".into(),
        reply_within,
        retry: retry.clone(),
    };
    let (command, success) = (message("Do"), "Done".into());
    Kind::Step(Box::new(Step {
        command,
        success,
        rejection: None,
        reply_within,
        retry,
        status: None,
        way_back,
    }))
}

/// first, then left and right side by side, then last.
fn graph() -> Graph {
    let ids = |places: &[u16]| places.iter().map(|place| NodeId(*place)).collect();
    let node = |name: &str, parent: Option<u16>, kind| Node {
        name: name.into(),
        parent: parent.map(NodeId),
        kind,
    };
    Graph {
        name: "order".into(),
        version: 1,
        start: message("Start"),
        repeat: Repeat::Duplicate,
        deadline: None,
        retention: Duration::from_secs(1),
        cancelled_by: Vec::new(),
        ends: Ends { completed: None, failed: None },
        nodes: vec![
            node("saga", None, Kind::Sequence { children: ids(&[1, 2, 5]) }),
            node("first", Some(0), step()),
            node("both", Some(0), Kind::All { branches: ids(&[3, 4]) }),
            node("left", Some(2), step()),
            node("right", Some(2), step()),
            node("last", Some(0), step()),
        ],
    }
}

#[test]
fn what_comes_later_in_a_sequence_depends_on_what_comes_earlier_and_branches_are_independent() {
    let graph = graph();
    let on = |second: &str, first: &str| {
        let find = |name| graph.find(name).expect("the graph has a node of that name");
        depends(&graph, find(second), find(first))
    };
    assert!(on("left", "first") && on("right", "first") && on("last", "first"));
    assert!(on("last", "left") && on("last", "right"));
    assert!(!on("left", "right") && !on("right", "left") && !on("first", "last"));
    assert!(!on("left", "left"));
}

/// What the reference says of compensating a step, with these fates.
fn compensating(name: &str, fates: &[(&str, Fate)]) -> Option<ViolationKind> {
    let graph = graph();
    let symbols = super::super::symbols::Symbols::new(&graph, 1, true);
    let before = symbols.unstarted();
    let mut after = before.core.clone();
    after.status = Status::TurningBack;
    let mut all = before.fates;
    for (name, fate) in fates {
        all[graph.find(name).expect("the graph has it").index()] = *fate;
    }
    let node = graph.find(name).expect("the graph has it");
    let command = Command {
        node,
        leg: Leg::Compensate,
        attempt: 1,
        channel: "channel".into(),
        format: Format::Json,
        name: "Undo".into(),
        body: crate::message::Body { format: Format::Json, bytes: Vec::new() },
        idempotency_key: after.idempotency_key(name, Leg::Compensate),
    };
    let found = Reference::new(&graph).sees(&before.core, &after, &command, &mut all);
    found.map(|found| found.kind)
}

/// What the reference says of an input to an attempt, which one it is afterwards and how many before it are excused, and which
/// attempts were sent.
fn holding(by: Move, before: (u32, Next), after: (u32, u32), sent: &[u32]) -> Option<String> {
    let graph = graph();
    let symbols = super::super::symbols::Symbols::new(&graph, 2, true);
    let node = graph.find("first").expect("the graph has it");
    let now = crate::time::Timestamp(1);
    let ask = |attempt, excused, next| {
        let (first_at, asked_at, doubt) = (now, now, false);
        NodeState::Open(Ask { attempt, excused, first_at, asked_at, next, doubt, questions: 0 })
    };
    let mut core = symbols.unstarted().core;
    core.nodes[node.index()] = ask(before.0, 0, before.1);
    let command = |attempt: &u32| {
        Effect::Command(Command {
            node,
            leg: Leg::Do,
            attempt: *attempt,
            channel: "channel".into(),
            format: Format::Json,
            name: "Do".into(),
            body: crate::message::Body { format: Format::Json, bytes: Vec::new() },
            idempotency_key: core.idempotency_key("first", Leg::Do),
        })
    };
    let mut instance = symbols.instance(&core);
    instance.core.nodes[node.index()] = ask(after.0, after.1, Next::Held(now));
    let decision = Decision {
        instance,
        verdict: crate::history::Verdict::Applied,
        effects: sent.iter().map(command).collect(),
        line: None,
        heard: None,
        incidents_raised: 0,
    };
    Reference::new(&graph).holds(by, &core, &decision).map(|found| found.text)
}

#[test]
fn a_hold_that_sends_or_counts_and_a_release_that_is_none_are_found() {
    let node = graph().find("first").expect("the graph has it");
    let now = crate::time::Timestamp(1);
    let given_back = Move::Held(node, Leg::Do, Hold::GivenBack);
    let (out, rests, held) = (Next::GiveUp(now), Next::AskAgain(now), Next::Held(now));
    assert_eq!(holding(given_back, (1, out), (1, 0), &[]), None);
    assert_eq!(holding(given_back, (1, rests), (2, 0), &[]), None);
    assert_eq!(holding(given_back, (2, held), (2, 0), &[]), None);
    let says = |found: Option<String>| found.unwrap_or_default();
    let wrongly = |by, next, after, right: &str| {
        let said = says(holding(by, (1, next), after, &[]));
        assert!(said.contains(&format!("what is to be attempt {right}, attempt ")), "{said}");
    };
    assert!(says(holding(given_back, (1, out), (1, 0), &[1])).contains("is sent though"));
    wrongly(given_back, out, (2, 0), "1, counting as 1");
    wrongly(given_back, out, (2, 1), "1, counting as 1");
    wrongly(given_back, rests, (2, 1), "2, counting as 2");
    let fails = Move::HeldFailure(node, Leg::Do, FailureEffect::None);
    assert_eq!(holding(fails, (1, out), (2, 1), &[]), None);
    wrongly(fails, out, (1, 0), "2, counting as 1");
    wrongly(fails, out, (2, 0), "2, counting as 1");
    let due = Move::Due(Some(node));
    assert_eq!(holding(due, (1, held), (1, 0), &[1]), None);
    for sent in [&[][..], &[1, 1], &[2]] {
        assert!(says(holding(due, (1, held), (1, 0), sent)).contains("attempt 1 was held"));
    }
}

const NONE: Fate =
    Fate { in_flight: false, in_doubt: false, took: false, undone: false, in_question: false };
const TOOK: Fate = Fate { took: true, ..NONE };
const DOUBT: Fate = Fate { in_doubt: true, ..NONE };
const OUT: Fate = Fate { in_flight: true, ..NONE };
const ASKED: Fate = Fate { in_question: true, ..DOUBT };
const UNDONE: Fate = Fate { undone: true, ..TOOK };

#[test]
fn a_compensation_that_comes_too_early_too_late_or_for_nothing_is_found() {
    use ViolationKind as Is;
    assert_eq!(compensating("first", &[("first", TOOK)]), None);
    assert_eq!(compensating("first", &[("first", DOUBT), ("left", UNDONE)]), None);
    assert_eq!(compensating("left", &[("left", TOOK), ("right", TOOK)]), None);
    let out_of_order = Some(Is::CompensatedOutOfOrder);
    assert_eq!(compensating("first", &[("first", TOOK), ("left", DOUBT)]), out_of_order);
    assert_eq!(compensating("right", &[("right", TOOK), ("last", TOOK)]), out_of_order);
    assert_eq!(compensating("first", &[]), Some(Is::CompensatedWithoutEffect));
    assert_eq!(compensating("first", &[("first", UNDONE)]), Some(Is::CompensatedWithoutEffect));
    let races = Some(Is::CompensationRacesCommand);
    assert_eq!(compensating("left", &[("left", TOOK), ("right", OUT)]), races);
    assert_eq!(compensating("left", &[("left", TOOK), ("right", ASKED)]), races);
}

#[test]
fn a_fate_survives_being_a_byte() {
    (0..32).for_each(|byte| assert_eq!(Fate::from_byte(byte).to_byte(), byte));
}

#[test]
fn a_graph_whose_nodes_hold_one_another_is_not_walked() {
    let mut graph = graph();
    assert_eq!(well_laid(&graph), Ok(()));
    graph.nodes[2].kind = Kind::All { branches: vec![NodeId(0), NodeId(4)] };
    assert!(well_laid(&graph).is_err());
    graph.nodes[2].kind = Kind::All { branches: vec![NodeId(4), NodeId(900)] };
    assert!(well_laid(&graph).is_err());
}
