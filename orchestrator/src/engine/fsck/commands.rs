//! Commands that no broker has confirmed: each has its cause, an instance that knows the attempt.

use super::{All, named};
use crate::{
    engine::group::{Outgoing, Sender},
    envelope::{SAGA_ID, SAGA_RUN},
    store::{
        StoreError,
        check::{Kind, Severity, Survey},
    },
};
use dirigent_connectors::names;
use dirigent_model::instance::{Core, Instance, Leg, NodeState};
use std::collections::{BTreeMap, BTreeSet};

const NO_CAUSE: Kind = Kind {
    name: "command-without-cause",
    severity: Severity::Harmful,
    means: "a command would take effect that no saga counts on, and that nobody would take back",
    advice: "do not start the process on it; restore the data folder from a backup",
};

const ORPHAN: Kind = Kind {
    name: "command-of-a-forgotten-instance",
    severity: Severity::Harmless,
    means: "its instance has ended, and was forgotten before the broker confirmed it; it is not sent again",
    advice: "nothing, unless the instance was lost; then see to what its command was for",
};

const KEY: Kind = Kind {
    name: "idempotency-key-strange",
    severity: Severity::Harmful,
    means: "a participant would take one effect for another, or the same one for two",
    advice: "do not start the process on it; restore the data folder from a backup",
};

/// Goes through what is still to be sent.
pub(super) fn check(all: &All<'_>, survey: &mut Survey) -> Result<(), StoreError> {
    let mut keys: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut places: BTreeMap<&str, String> = BTreeMap::new();
    let lanes = all.recovered.outbox.iter().enumerate();
    let outbox =
        lanes.flat_map(|(lane, messages)| messages.iter().map(move |(seq, it)| (lane, *seq, it)));
    for (lane, seq, outgoing) in outbox {
        survey.count("unconfirmed messages");
        let Some(sender) = outgoing.sender else { continue };
        let leg = sender.leg.as_str();
        let place = format!("message {seq} of connector number {}", lane + 1);
        let key = outgoing.message.attributes.get(names::IDEMPOTENCY_KEY).unwrap_or_default();
        if key.is_empty() {
            survey.find(&KEY, &place, "the command has no idempotency key", None);
        } else {
            let run = run_of(outgoing);
            let effect = format!("{} run {run:?} node {} {leg}", sender.instance, sender.node.0);
            keys.entry(key).or_default().insert(effect);
            places.entry(key).or_insert_with(|| place.clone());
        }
        let Some(resting) = all.resting(sender.instance)? else {
            let what = format!("{leg} attempt {} of {}", sender.attempt, sender.instance);
            survey.find(&ORPHAN, place, what, None);
            continue;
        };
        let Ok((core, _)) = Instance::peek(&resting.state) else { continue };
        if let Some(why) = no_cause(&core, sender, outgoing) {
            let node = name_of(all, &core, sender);
            let what =
                format!("{leg} `{node}`, attempt {}, of {}: {why}", sender.attempt, named(&core));
            survey.find(&NO_CAUSE, &place, what, None);
        }
        if let Some(expected) = key_of(all, &core, sender, outgoing)
            && expected != key
        {
            survey.find(&KEY, place, format!("the command has {key}, its step {expected}"), None);
        }
    }
    for (key, effects) in keys.into_iter().filter(|(_, effects)| effects.len() > 1) {
        let effects: Vec<_> = effects.into_iter().collect();
        let place = places.remove(key).unwrap_or_default();
        survey.find(&KEY, place, format!("{key} stands for {}", effects.join(" and ")), None);
    }
    Ok(())
}

/// Which run of its key a command is of; `None` if it says nonsense.
fn run_of(outgoing: &Outgoing) -> Option<u32> {
    outgoing.message.attributes.get(SAGA_RUN).map_or(Some(0), |run| run.parse().ok())
}

/// Why an instance does not account for a command, if it does not.
fn no_cause(core: &Core, sender: Sender, outgoing: &Outgoing) -> Option<String> {
    if outgoing.message.attributes.get(SAGA_ID) != Some(core.id.to_string().as_str()) {
        return Some("the command names another instance".into());
    }
    let Some(run) = run_of(outgoing) else { return Some("the command names no run".into()) };
    if run != core.run {
        // What an earlier run has sent is not known any more.
        return (run > core.run).then(|| format!("the instance is in run {}", core.run));
    }
    let Some(state) = core.nodes.get(sender.node.index()) else {
        return Some("the instance has no such step".into());
    };
    let known = match (sender.leg, state) {
        (
            _,
            NodeState::Idle
            | NodeState::Entered
            | NodeState::Chosen(_)
            | NodeState::Waiting { .. }
            | NodeState::Ended,
        ) => return Some("it was never asked".into()),
        (Leg::Do, NodeState::Open(ask)) => ask.attempt,
        (Leg::Do, NodeState::InQuestion(question)) => question.about.attempt,
        (Leg::Status, NodeState::InQuestion(question)) => question.ask.attempt,
        (Leg::Compensate, NodeState::Undoing(_, ask) | NodeState::Stuck(_, ask)) => ask.attempt,
        (Leg::Compensate, NodeState::Undone | NodeState::Resolved) => return None,
        (Leg::Compensate, _) => return Some("it was never compensated".into()),
        // Asked, and settled in one way or another since.
        (Leg::Do | Leg::Status, _) => return None,
    };
    (sender.attempt > known).then(|| format!("its last attempt was {known}"))
}

fn name_of(all: &All<'_>, core: &Core, sender: Sender) -> String {
    let plan = all.registry.and_then(|registry| registry.plan(&core.definition, core.version));
    let node = plan.and_then(|plan| plan.graph().nodes.get(sender.node.index()));
    node.map_or_else(|| format!("node {}", sender.node.0), |node| node.name.clone())
}

/// The key that a command of this step has to carry, where its definition is here. Questions have keys of their own.
fn key_of(all: &All<'_>, core: &Core, sender: Sender, outgoing: &Outgoing) -> Option<String> {
    let plan = all.registry?.plan(&core.definition, core.version)?;
    let node = plan.graph().nodes.get(sender.node.index())?;
    let is_meant = sender.leg != Leg::Status && run_of(outgoing) == Some(core.run);
    is_meant.then(|| core.idempotency_key(&node.name, sender.leg).to_string())
}
