//! The reduction held against exploring everything: on generated sagas, on wrong definitions, and on wrong transitions.
//!
//! A *twist* plants a mistake into every decision. Whether something is found, and what, must be the same with and without the
//! reduction. `DIRIGENT_CHECKS` says how many sagas are tried; run with thousands where the reduction is touched.

use super::{Bounds, Explorer, Found, ViolationKind, symbols::Move, symbols::Symbols};
use crate::{
    decision::{Command, Decision, Effect, Hold},
    definition::{Graph, Kind, NodeId, OnTimeout, WayBack},
    generated::{Limits, generated_within},
    history::Verdict,
    instance::{Ask, Core, Leg, Next, NoEffect, NodeState, Status},
    message::{Body, Format},
    retry::scatter,
    time::Timestamp,
};
use std::collections::BTreeSet;

pub(super) type Twist = fn(&Graph, &Core, Move, Decision) -> Decision;

/// Every twist, by name.
const TWISTS: &[(&str, Twist)] = &[
    ("a late success of what was undone counts", late_success_counts),
    ("what is in doubt counts as undone", doubt_is_undone),
    ("a compensation leaves while a step is out", races),
    ("the deadline turns back behind the pivot", deadline_behind_the_pivot),
    ("what others depend on is undone at once", out_of_order),
    ("a compensation is sent once more", compensates_twice),
    ("a compensation is given up without a word", given_up_silently),
    ("a command that is given back is sent", held_is_sent),
    ("what failed for now at a held destination is asked as the same attempt", asks_the_same),
    ("what failed for now at a held destination counts", hold_counts),
    ("the first branch that is done is enough", joins_too_soon),
    ("a failure of an earlier attempt counts", stale_failure_counts),
    ("a step without effect is asked about", asks_though_certain),
    ("the next step begins though it turns back", goes_on_turning_back),
    ("a wait is done before it opens", early_event_is_taken),
    ("the doubt of an attempt is forgotten", doubt_is_forgotten),
    ("a pivot that is out is cancelled", cancelled_too_late),
    ("a compensation is left out", compensation_left_out),
    ("a choice that was taken is undone as another", choice_is_forgotten),
    ("killed, it goes on", kill_is_ignored),
];

fn command(graph: &Graph, core: &Core, node: NodeId, leg: Leg) -> Effect {
    Effect::Command(Command {
        node,
        leg,
        attempt: 1,
        channel: "channel".into(),
        format: Format::Json,
        name: "Planted".into(),
        body: Body { format: Format::Json, bytes: Vec::new() },
        idempotency_key: core.idempotency_key(graph.name_of(node), leg),
    })
}

fn undoing() -> NodeState {
    let now = Timestamp(1_000_000);
    let next = Next::GiveUp(Timestamp(2_000_000));
    let (first_at, asked_at) = (now, now);
    NodeState::Undoing(
        None,
        Ask { attempt: 1, excused: 0, first_at, asked_at, next, doubt: false, questions: 0 },
    )
}

fn has_turned(before: &Core, after: &Decision) -> bool {
    before.status == Status::Running && after.instance.core.status == Status::TurningBack
}

fn is_undone_by_command(graph: &Graph, node: NodeId) -> bool {
    matches!(graph.step(node).map(|step| &step.way_back), Some(WayBack::Compensated { .. }))
}

fn is_pivot(graph: &Graph, node: NodeId) -> bool {
    matches!(graph.step(node).map(|step| &step.way_back), Some(WayBack::Pivot))
}

/// The first node in a state that a command undoes.
fn undoable(graph: &Graph, core: &Core) -> Option<NodeId> {
    let is_done = |id: &NodeId| matches!(core.state(*id), NodeState::Done(_));
    graph.ids().find(|id| is_done(id) && is_undone_by_command(graph, *id))
}

/// Steps that begin to be undone now.
fn begin_back(graph: &Graph, before: &Core, after: &Decision) -> Vec<NodeId> {
    let core = &after.instance.core;
    let begins = |id: &NodeId| {
        matches!(core.state(*id), NodeState::Undoing(..))
            && !matches!(before.state(*id), NodeState::Undoing(..) | NodeState::Stuck(..))
    };
    graph.ids().filter(begins).collect()
}

fn unsend(decision: &mut Decision, node: NodeId, leg: Leg) {
    decision.effects.retain(|effect| !matches!(effect, Effect::Command(command) if (command.node, command.leg) == (node, leg)));
}

fn late_success_counts(_: &Graph, before: &Core, by: Move, mut after: Decision) -> Decision {
    if let Move::Unawaited(node, Leg::Do, super::symbols::Word::Success) = by
        && *before.state(node) == NodeState::Undone
        && !before.status.is_end()
    {
        after.instance.core.nodes[node.index()] = NodeState::Done(None);
        after.verdict = Verdict::Applied;
    }
    after
}

fn doubt_is_undone(graph: &Graph, before: &Core, _: Move, mut after: Decision) -> Decision {
    for node in begin_back(graph, before, &after) {
        if matches!(after.instance.core.state(node), NodeState::Undoing(None, _)) {
            unsend(&mut after, node, Leg::Compensate);
            after.instance.core.nodes[node.index()] = NodeState::Undone;
        }
    }
    after
}

fn races(graph: &Graph, before: &Core, _: Move, mut after: Decision) -> Decision {
    let core = &after.instance.core;
    let is_open = core.nodes.iter().any(|state| matches!(state, NodeState::Open(_)));
    if has_turned(before, &after)
        && is_open
        && let Some(node) = undoable(graph, core)
    {
        after.effects.push(command(graph, before, node, Leg::Compensate));
        after.instance.core.nodes[node.index()] = undoing();
    }
    after
}

fn deadline_behind_the_pivot(graph: &Graph, _: &Core, by: Move, mut after: Decision) -> Decision {
    let core = &mut after.instance.core;
    let is_passed = |core: &Core| {
        graph.ids().any(|id| is_pivot(graph, id) && matches!(core.state(id), NodeState::Done(_)))
    };
    if by == Move::Due(None) && core.status == Status::Running && is_passed(core) {
        core.status = Status::TurningBack;
    }
    after
}

fn out_of_order(graph: &Graph, before: &Core, _: Move, mut after: Decision) -> Decision {
    if !begin_back(graph, before, &after).is_empty()
        && let Some(node) = undoable(graph, &after.instance.core)
    {
        after.effects.push(command(graph, before, node, Leg::Compensate));
        after.instance.core.nodes[node.index()] = undoing();
    }
    after
}

fn compensates_twice(graph: &Graph, before: &Core, by: Move, mut after: Decision) -> Decision {
    if let Move::Reply(node, Leg::Compensate, _) = by
        && *after.instance.core.state(node) == NodeState::Undone
    {
        after.effects.push(command(graph, before, node, Leg::Compensate));
    }
    after
}

fn given_up_silently(_: &Graph, _: &Core, _: Move, mut after: Decision) -> Decision {
    after.instance.core.incidents.clear();
    after
}

fn held_is_sent(graph: &Graph, before: &Core, by: Move, mut after: Decision) -> Decision {
    if let Move::Held(node, leg, Hold::GivenBack) = by
        && after.verdict == Verdict::Applied
    {
        after.effects.push(command(graph, before, node, leg));
    }
    after
}

/// Changes what is held now because its destination's answer was a failure for now.
fn excused(by: Move, mut after: Decision, change: fn(&mut Ask)) -> Decision {
    if let Move::HeldFailure(node, ..) = by
        && let NodeState::Open(ask) | NodeState::Undoing(_, ask) =
            &mut after.instance.core.nodes[node.index()]
        && ask.excused > 0
    {
        change(ask);
    }
    after
}

fn asks_the_same(_: &Graph, _: &Core, by: Move, after: Decision) -> Decision {
    excused(by, after, |ask| (ask.attempt, ask.excused) = (ask.attempt - 1, ask.excused - 1))
}

fn hold_counts(_: &Graph, _: &Core, by: Move, after: Decision) -> Decision {
    excused(by, after, |ask| ask.excused = 0)
}

fn joins_too_soon(graph: &Graph, before: &Core, by: Move, mut after: Decision) -> Decision {
    let core = &mut after.instance.core;
    if let Move::Reply(node, Leg::Do, _) = by
        && before.status == Status::Running
        && core.status == Status::Running
        && matches!(core.state(node), NodeState::Done(_))
        && graph
            .node(node)
            .parent
            .is_some_and(|parent| matches!(graph.node(parent).kind, Kind::All { .. }))
    {
        core.status = Status::Completed;
    }
    after
}

fn stale_failure_counts(_: &Graph, before: &Core, by: Move, mut after: Decision) -> Decision {
    if let Move::Stale(node, Leg::Do) = by
        && matches!(before.state(node), NodeState::Open(_))
    {
        after.instance.core.nodes[node.index()] = NodeState::NoEffect(NoEffect::Failed);
        after.verdict = Verdict::Applied;
    }
    after
}

fn asks_though_certain(graph: &Graph, before: &Core, by: Move, mut after: Decision) -> Decision {
    if let Some(node) = by.node()
        && graph.step(node).is_some_and(|step| step.status.is_some())
        && before.state(node) != after.instance.core.state(node)
        && matches!(after.instance.core.state(node), NodeState::NoEffect(_))
    {
        after.effects.push(command(graph, before, node, Leg::Status));
    }
    after
}

fn goes_on_turning_back(graph: &Graph, before: &Core, by: Move, mut after: Decision) -> Decision {
    let idle = |id: &NodeId| *after.instance.core.state(*id) == NodeState::Idle;
    let next = graph.ids().find(|id| graph.step(*id).is_some() && idle(id));
    if let (Move::Reply(_, Leg::Do, super::symbols::Word::Success), Some(next)) = (by, next)
        && before.status == Status::TurningBack
    {
        after.effects.push(command(graph, before, next, Leg::Do));
    }
    after
}

fn early_event_is_taken(graph: &Graph, _: &Core, by: Move, mut after: Decision) -> Decision {
    let core = &mut after.instance.core;
    let is_wait = |id: &NodeId| matches!(graph.node(*id).kind, Kind::Wait { .. });
    let idle = graph.ids().find(|id| is_wait(id) && *core.state(*id) == NodeState::Idle);
    if let (Move::Event(_), Verdict::Deferred, Some(wait)) = (by, after.verdict, idle) {
        core.early.clear();
        core.nodes[wait.index()] = NodeState::Done(None);
    }
    after
}

fn doubt_is_forgotten(_: &Graph, _: &Core, _: Move, mut after: Decision) -> Decision {
    for state in &mut after.instance.core.nodes {
        if let NodeState::Open(ask) = state {
            ask.doubt = false;
        }
    }
    after
}

fn cancelled_too_late(graph: &Graph, before: &Core, by: Move, mut after: Decision) -> Decision {
    let is_out = |id| is_pivot(graph, id) && matches!(before.state(id), NodeState::Open(_));
    if by == Move::Cancel && before.status == Status::Running && graph.ids().any(is_out) {
        after.instance.core.status = Status::TurningBack;
        after.verdict = Verdict::Applied;
    }
    after
}

fn compensation_left_out(graph: &Graph, before: &Core, _: Move, mut after: Decision) -> Decision {
    // Of several that begin side by side the last one.
    if let [.., _, node] = begin_back(graph, before, &after)[..] {
        unsend(&mut after, node, Leg::Compensate);
        after.instance.core.nodes[node.index()] = NodeState::Undone;
    }
    after
}

fn choice_is_forgotten(graph: &Graph, before: &Core, _: Move, mut after: Decision) -> Decision {
    if has_turned(before, &after) {
        for node in graph.ids() {
            if matches!(after.instance.core.state(node), NodeState::Chosen(Some(_))) {
                after.instance.core.nodes[node.index()] = NodeState::Chosen(None);
            }
        }
    }
    after
}

fn kill_is_ignored(_: &Graph, before: &Core, by: Move, mut after: Decision) -> Decision {
    if by == Move::Kill && !before.status.is_end() {
        after.instance.core.status = Status::Running;
    }
    after
}

/// Explores a graph twice; `None` where exploring all of it takes too long to be compared.
fn both(graph: &Graph, twist: Option<Twist>) -> Option<(Found, Found)> {
    let Bounds { attempts_max, .. } = Bounds::default();
    let mut symbols = Symbols::new(graph, attempts_max, true);
    symbols.twist = twist;
    let states_max = if asked().is_some() { 3_000 } else { 500 };
    let whole = Explorer::new(&symbols, graph, false).run(states_max);
    if !whole.exhausted && whole.violations.is_empty() {
        return None;
    }
    Some((whole, Explorer::new(&symbols, graph, true).run(states_max)))
}

fn kinds(found: &Found) -> BTreeSet<String> {
    found.violations.iter().map(|violation| violation.kind.to_string()).collect()
}

/// What differs, if anything does.
fn compared(graph: &Graph, twist: Option<Twist>, tally: &mut Tally) -> Result<(), String> {
    let Some((whole, reduced)) = both(graph, twist) else {
        tally.skipped += 1;
        return Ok(());
    };
    tally.compared += 1;
    tally.wrong += usize::from(!whole.violations.is_empty());
    tally.whole += whole.states;
    tally.reduced += reduced.states;
    let (ours, all) = (kinds(&reduced), kinds(&whole));
    // What an input that must not count leads to is followed from one place for each state of its step, and where an input can't
    // be decided both stop after a few: then what was met beside that may differ, but not that something was.
    let stray =
        [ViolationKind::Panicked, ViolationKind::AcceptedTwice].map(|kind| kind.to_string());
    let strays = stray.iter().any(|kind| ours.contains(kind) && all.contains(kind));
    let stopped = !whole.exhausted || !reduced.exhausted;
    if ours == all {
        return Ok(());
    }
    if (strays || stopped) && !ours.is_empty() && !all.is_empty() {
        tally.beside += 1;
        return Ok(());
    }
    let shown =
        whole.violations.iter().find(|violation| !ours.contains(&violation.kind.to_string()));
    Err(format!(
        "reduced {ours:?}, whole {all:?}, {} and {} states\n{}\n{}",
        reduced.states,
        whole.states,
        shown.map(ToString::to_string).unwrap_or_default(),
        graph.to_mermaid()
    ))
}

#[derive(Debug, Default)]
struct Tally {
    compared: usize,
    skipped: usize,
    wrong: usize,
    /// States.
    whole: usize,
    reduced: usize,
    /// Found in both, with other kinds beside it.
    beside: usize,
}

#[allow(clippy::disallowed_methods, reason = "how many are tried is said from outside")]
fn asked() -> Option<u64> {
    std::env::var("DIRIGENT_CHECKS").ok().and_then(|text| text.parse().ok())
}

/// How many sagas are tried.
pub(super) fn checks(plain: u64) -> u64 {
    asked().unwrap_or(plain)
}

fn graph_of(seed: u64) -> Graph {
    let limits = Limits { steps_max: 4, nesting_max: 2, attempts_max: 2, ..Limits::default() };
    generated_within(seed, limits).plan.graph().clone()
}

#[test]
fn sound_sagas_stay_sound_with_fewer_states() {
    let mut tally = Tally::default();
    for seed in 0..checks(25) {
        let graph = graph_of(seed);
        compared(&graph, None, &mut tally).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    }
    println!("{tally:?}");
    assert_eq!(tally.wrong, 0);
    assert!(tally.compared >= 8 && tally.reduced < tally.whole, "{tally:?}");
}

/// One mistake of a definition, by chance; the same graph where it does not fit.
fn spoilt(mut graph: Graph, seed: u64) -> Graph {
    let count = u64::try_from(graph.nodes.len()).expect("graphs are small");
    let at = usize::try_from(scatter(seed) % count).expect("it is below the count");
    let nothing = |reason: &str| WayBack::Nothing { reason: reason.into() };
    match &mut graph.nodes[at].kind {
        Kind::Step(step) => {
            step.way_back = match scatter(seed ^ 1) % 5 {
                0 => nothing(""),
                1 => WayBack::Retriable,
                2 => WayBack::Pivot,
                3 => nothing("a reason"),
                _ => {
                    step.rejection = Some("Refused".into());
                    nothing("")
                }
            }
        }
        Kind::Wait { on_timeout, .. } => *on_timeout = OnTimeout::Reject,
        Kind::Choose { otherwise, .. } => {
            // Its nodes stay, and are never reached.
            if otherwise.is_none() {
                graph.deadline = Some(std::time::Duration::from_secs(1));
            }
        }
        Kind::Sequence { .. } | Kind::All { .. } | Kind::Publish { .. } | Kind::Pause { .. } => {}
    }
    graph
}

#[test]
fn mistakes_of_definitions_are_found_all_the_same() {
    let mut tally = Tally::default();
    for seed in 0..checks(40) {
        let graph = spoilt(graph_of(seed), seed);
        compared(&graph, None, &mut tally).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    }
    println!("{tally:?}");
    assert!(tally.wrong >= 6, "{tally:?}");
}

#[test]
fn mistakes_of_transitions_are_found_all_the_same() {
    let each = checks(24).div_ceil(6);
    let mut differ = Vec::new();
    for (at, (name, twist)) in (0..).zip(TWISTS) {
        let mut tally = Tally::default();
        for seed in (0..each).map(|seed| seed + 4 * at) {
            if let Err(wrong) = compared(&graph_of(seed), Some(*twist), &mut tally) {
                differ.push(format!("{name}, seed {seed}: {wrong}"));
            }
        }
        println!("{name}: {tally:?}");
    }
    assert!(differ.is_empty(), "{} differ\n{}", differ.len(), differ.join("\n\n"));
}

#[test]
fn every_twist_is_found_somewhere() {
    for (name, twist) in TWISTS {
        let finds = |seed: &u64| {
            let graph = graph_of(*seed);
            let mut symbols = Symbols::new(&graph, 2, true);
            symbols.twist = Some(*twist);
            let found = Explorer::new(&symbols, &graph, true).run(200);
            found.violations.iter().any(|violation| violation.kind != ViolationKind::Panicked)
        };
        assert!((0..100).any(|seed| finds(&seed)), "{name} is never found");
    }
}
