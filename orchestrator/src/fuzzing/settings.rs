//! What people hand to a process: settings, a graph in a file, and questions by its socket.

use super::{
    pieces::Pieces,
    samples::{self, REGISTRY},
};
use crate::{
    cli, config, control, engine,
    journal::{Disk, SimDisk},
    registry::Registry,
    store::{KeepBytes, MemoryStore, RepairPlan, Store},
};
use dirigent_model::explore::{Bounds, ViolationKind, check_graph_within};
use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

/// Nodes of a graph that is explored here, and states: the time of an input is bounded.
const EXPLORED_NODES_MAX: usize = 12;
const EXPLORED_STATES_MAX: usize = 200;

/// A file of settings, and behind a zero byte the environment: a variable a line.
pub fn config(bytes: &[u8]) -> bool {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let Some(Ok(file)) = parts.next().map(std::str::from_utf8) else { return false };
    let environment = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let variables = environment.lines().filter_map(|line| line.split_once('='));
    let variables: BTreeMap<String, String> =
        variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    config::fuzzed::settings(file, variables)
}

/// A graph as `check` reads it from a file.
pub fn graph(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Some(graph) = cli::fuzzed::graph(text) else { return false };
    let json = serde_json::to_string(&graph).expect("a graph is JSON");
    let again = cli::fuzzed::graph(&json).expect("what was written can be read");
    assert_eq!(again, graph, "it is written as it was read");
    let nothing = Bounds { states_max: 0, ..Bounds::default() };
    let states_max = EXPLORED_STATES_MAX;
    let bounds = match graph.nodes.len() {
        0..=EXPLORED_NODES_MAX => Bounds { states_max, ..nothing },
        _ => nothing,
    };
    let checked = check_graph_within(&graph, bounds);
    assert_eq!(check_graph_within(&again, nothing).fingerprint, checked.fingerprint);
    let is = |kind| checked.violations.iter().any(|violation| violation.kind == kind);
    let is_malformed = is(ViolationKind::Malformed);
    if !is_malformed {
        let drawn = [graph.to_mermaid(), graph.to_dot(), graph.to_json()];
        assert!(drawn.iter().all(|text| !text.is_empty()));
    }
    let is_sound = !is_malformed && !is(ViolationKind::Refused);
    assert!(!is_sound || !is(ViolationKind::Panicked), "a sound graph has every answer");
    is_sound
}

/// A store at rest that people ask about.
fn at_rest() -> (Arc<dyn Store>, Arc<dyn Disk>) {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    store.write(&samples::records()).expect("a store in memory does not fail");
    (store, Arc::new(SimDisk::new()))
}

static READER: LazyLock<engine::Reader> = LazyLock::new(|| {
    let (store, disk) = at_rest();
    let plans = REGISTRY.plans().to_vec();
    let registry = Arc::new(Registry::new(plans).expect("it was a registry before"));
    engine::fuzzed::reader(&store, &disk, &registry).expect("it can be read")
});

/// A question to a process, or a plan that is to mend a folder. The first byte says which.
pub fn control(bytes: &[u8]) -> bool {
    let mut pieces = Pieces(bytes);
    if pieces.byte() % 2 == 0 {
        return control::fuzzed::question(pieces.rest(), &READER);
    }
    let Ok(plan) = serde_json::from_slice::<RepairPlan>(pieces.rest()) else { return false };
    let written = serde_json::to_vec(&plan).expect("texts are JSON");
    assert_eq!(serde_json::from_slice::<RepairPlan>(&written).ok().as_ref(), Some(&plan));
    let (store, disk) = at_rest();
    let state = || {
        let found = engine::fsck(Arc::clone(&store), Arc::clone(&disk), Some(&*REGISTRY));
        found.expect("it can be read").state
    };
    let before = state();
    let keep: KeepBytes<'_> = &mut |_, _, _| Ok(());
    let repaired =
        engine::repair(Arc::clone(&store), Arc::clone(&disk), Some(&*REGISTRY), &plan, keep);
    assert!(repaired.is_ok() || state() == before, "a plan that is refused changes nothing");
    true
}
