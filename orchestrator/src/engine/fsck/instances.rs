//! Instances: each can be read, is what its record says, has a way to go on, and a definition that knows it.
//!
//! Those that the journal knows better than the store are checked as recovery makes them; whatever is wrong with one of those can
//! be mended only once a checkpoint has written it.

use super::{All, accounts::Standing, due::Dues, named};
use crate::{
    engine::table::{self, Resting, timer_key},
    store::{
        Space, StoreError,
        check::{Kind, Mend, NOTHING, RecordChange, Severity, Survey},
    },
};
use dirigent_model::{
    definition::{Kind as Node, Plan},
    history::HISTORY_BYTES_MAX,
    instance::{
        Core, EARLY_EVENTS_MAX, EVENTS_TAKEN_MAX, Instance, InstanceId, NodeState, StoredError,
    },
};
use uuid::Uuid;

const STRANGE_KEY: Kind = Kind {
    name: "instance-key-strange",
    severity: Severity::Harmless,
    means: "no instance has such a key, so nobody ever reads this record",
    advice: "set it aside by the plan",
};

const UNREADABLE: Kind = Kind {
    name: "instance-unreadable",
    severity: Severity::Harmful,
    means: "the saga stands still where it was, and its messages are quarantined",
    advice: "restore the data folder from a backup, or set the record aside by the plan and see to what its saga had begun by hand",
};

const NEWER: Kind = Kind {
    name: "instance-newer",
    severity: Severity::Harmful,
    means: "a later release wrote it; this one can't go on with it",
    advice: "start the release that wrote it, or a later one",
};

const REPLACED: Kind = Kind {
    name: "instance-unreadable-and-replaced",
    severity: Severity::Harmless,
    means: "the journal has the whole instance; only the older lines of its history are lost",
    advice: "nothing: the next checkpoint replaces the record",
};

const ELSEWHERE: Kind = Kind {
    name: "instance-under-another-key",
    severity: Severity::Harmful,
    means: "replies and events for its business key do not find it",
    advice: "restore the data folder from a backup",
};

const DIFFERS: Kind = Kind {
    name: "record-differs",
    severity: Severity::Harmful,
    means: "what the record says beside the instance decides when it is looked at, and it is not what the instance says itself",
    advice: "correct the record by the plan",
};

const NO_EXIT: Kind = Kind {
    name: "instance-without-exit",
    severity: Severity::Harmful,
    means: "nothing is due, no command is open, no event is awaited, and no incident tells a person: it would stand still for ever",
    advice: "start the process, look at it with `show`, and end it with `cancel` or `kill`",
};

const DEFINITION: Kind = Kind {
    name: "definition-missing",
    severity: Severity::Harmful,
    means: "the process refuses to start, or can't go on with this instance",
    advice: "start a release that has this version of the saga with this fingerprint, or end its instances with that one",
};

const STRANGE: Kind = Kind {
    name: "instance-strange",
    severity: Severity::Harmful,
    means: "no sequence of inputs leads to such a state",
    advice: "look at it with `show`; restore the data folder from a backup, or end it with `kill`",
};

const BOUND: Kind = Kind {
    name: "bound-exceeded",
    severity: Severity::Harmful,
    means: "what an instance remembers is bounded, and this is above it",
    advice: "report it with the output of `show --json`",
};

const HISTORY: Kind = Kind {
    name: "history-unreadable",
    severity: Severity::Harmless,
    means: "people see less of what happened; no decision rests on it",
    advice: "nothing",
};

const AHEAD: Kind = Kind {
    name: "instance-ahead-of-the-journal",
    severity: Severity::Harmful,
    means: "the store holds what a group made that the journal does not have: its commands and accounts are lost",
    advice: "restore the whole data folder from one backup",
};

/// What the other checks need to know of all instances.
#[derive(Default)]
pub(super) struct Instances {
    pub due: Dues,
    pub standing: Standing,
}

/// Goes through all instances, first those that the store knows as they are, then those of the journal.
pub(super) fn check(all: &All<'_>, survey: &mut Survey) -> Result<Instances, StoreError> {
    let mut found = Instances::default();
    survey.walk(all.store(), Space::Instances, |survey, key, value| {
        let Ok(id) = Uuid::from_slice(key).map(InstanceId) else {
            let mend = Mend::set_aside(Space::Instances, key, "a record that nobody reads");
            let place = format!("record {}", key.escape_ascii());
            survey.find(&STRANGE_KEY, place, "its key is no id", Some(mend));
            return Ok(());
        };
        let is_fresh = all.fresh.contains(&id);
        let flaw = match value {
            Some(value) => table::flaw_of(value),
            None => Some("it is damaged: its checksum is another one"),
        };
        let readable = value.filter(|_| flaw.is_none() || flaw == Some(table::HISTORY_FLAW));
        if let (Some(value), true) = (readable, is_fresh) {
            let stored = table::decode(value);
            let folded = all.resting(id)?;
            found.due.expect_fresh(id, &stored, folded.as_ref());
        }
        match (readable, flaw) {
            (Some(_), None) => {}
            (Some(_), Some(flaw)) => survey.find(&HISTORY, id.to_string(), flaw, None),
            (None, flaw) if is_fresh => {
                survey.find(&REPLACED, id.to_string(), flaw.unwrap_or_default(), None);
            }
            (None, flaw) => {
                let mend = Mend::set_aside(Space::Instances, key, LOST);
                survey.find(&UNREADABLE, id.to_string(), flaw.unwrap_or_default(), Some(mend));
            }
        }
        if let (Some(value), false) = (readable, is_fresh) {
            look_at(all, id, &table::decode(value), &mut found, survey);
        }
        Ok(())
    })?;
    for id in &all.fresh {
        if let Some(resting) = all.resting(*id)? {
            look_at(all, *id, &resting, &mut found, survey);
        }
    }
    Ok(found)
}

/// What a person has to see to whose instance is set aside.
const LOST: &str = "the instance: its saga does not go on, and what it had begun is neither completed nor compensated";

fn look_at(
    all: &All<'_>,
    id: InstanceId,
    resting: &Resting,
    found: &mut Instances,
    survey: &mut Survey,
) {
    survey.count("instances");
    let is_fresh = all.fresh.contains(&id);
    let core = match Instance::peek(&resting.state) {
        Ok((core, _)) => core,
        Err(error) => {
            let is_newer = matches!(error, StoredError::Newer { .. });
            let mend = (!is_fresh && !is_newer)
                .then(|| Mend::set_aside(Space::Instances, id.0.as_bytes(), LOST));
            let kind = if is_newer { &NEWER } else { &UNREADABLE };
            survey.find(kind, id.to_string(), error.to_string(), mend);
            // It lives by the tally until it is set aside, and by nothing else.
            found.standing.unreadable += u64::from(is_newer);
            return;
        }
    };
    let place = named(&core);
    if core.id != id || InstanceId::of(&core.definition, &core.key) != id {
        survey.find(&ELSEWHERE, &place, format!("it lies under {id}"), None);
    }
    if resting.seq >= all.next.0 {
        let (seq, next) = (resting.seq, all.next);
        let what = format!("group {seq} made it so, and the journal would write group {next} next");
        survey.find(&AHEAD, &place, what, None);
    }
    let plan = all.registry.and_then(|registry| registry.plan(&core.definition, core.version));
    let due = match (core.ended_at, plan) {
        (None, _) => core.next_due().map(|(due, _)| due),
        // How long an ended one is kept may be set otherwise since.
        (Some(_), _) if resting.due.is_some() && resting.ended => resting.due,
        (Some(ended), Some(plan)) => Some(ended + plan.graph().retention),
        (Some(ended), None) => Some(ended),
    };
    let ended = core.status.is_end();
    if (due, ended) != (resting.due, resting.ended) {
        let what = format!(
            "the record says {}, the instance {}",
            told(resting.due, resting.ended),
            told(due, ended)
        );
        let corrected = Resting { due, ended, ..resting.clone() };
        survey.find(&DIFFERS, &place, what, (!is_fresh).then(|| correct(id, &corrected)));
        // The times are a part of the same repair.
        found.due.corrected(id, due);
    } else if !is_fresh {
        found.due.expect(id, resting);
    }
    if ended {
        survey.count("ended");
    } else {
        survey.count("live");
        found.standing.live(&core);
        if due.is_none() && core.incidents.is_empty() {
            survey.find(&NO_EXIT, &place, format!("it is {}", core.status), None);
        }
        look_at_definition(all, resting, &core, &place, survey);
    }
    look_at_bounds(resting, &core, &place, survey);
}

fn told(due: Option<dirigent_model::time::Timestamp>, ended: bool) -> String {
    let due = due.map_or("that nothing is due".into(), |due| format!("that it is due at {due}"));
    format!("{due} and {}", if ended { "has ended" } else { "lives" })
}

/// The record as the instance says it is, with its time.
fn correct(id: InstanceId, corrected: &Resting) -> Mend {
    let mut changes = Vec::new();
    match corrected.due {
        Some(due) if corrected.ended => changes.push(super::due::bundle_of(id, due)),
        Some(due) => changes.push(RecordChange::put(Space::Timers, timer_key(due, id), [])),
        None => {}
    }
    let value = table::encode(corrected);
    changes.push(RecordChange::put(Space::Instances, id.0.as_bytes(), value));
    Mend::new("writes into the record what the instance says of itself", NOTHING, changes)
}

fn look_at_definition(
    all: &All<'_>,
    resting: &Resting,
    core: &Core,
    place: &str,
    survey: &mut Survey,
) {
    let Some(registry) = all.registry else { return };
    let Some(plan) = registry.plan(&core.definition, core.version) else {
        let (name, version) = (&core.definition, core.version);
        let what = format!("saga `{name}` version {version} is not declared here");
        survey.find(&DEFINITION, place, what, None);
        return;
    };
    match Instance::decode(plan, &resting.state, resting.history.clone()) {
        Ok(_) => {}
        Err(error @ StoredError::OtherShape { .. }) => {
            survey.find(&DEFINITION, place, error.to_string(), None);
            return;
        }
        Err(error) => {
            let what = format!("its data can't be read: {error}");
            survey.find(&STRANGE, place, what, None);
            return;
        }
    }
    for (node, state) in plan.graph().ids().zip(&core.nodes) {
        if !fits(plan, node, state) {
            let what =
                format!("the state of `{}` is not one of its kind", plan.graph().name_of(node));
            survey.find(&STRANGE, place, what, None);
        }
    }
}

/// Whether a node of this kind can be in this state.
fn fits(plan: &Plan, node: dirigent_model::definition::NodeId, state: &NodeState) -> bool {
    let kind = &plan.graph().node(node).kind;
    match state {
        NodeState::Idle | NodeState::Done(_) => true,
        NodeState::Entered => matches!(kind, Node::Sequence { .. } | Node::All { .. }),
        NodeState::Chosen(_) => matches!(kind, Node::Choose { .. }),
        NodeState::Waiting { .. } | NodeState::Ended => {
            matches!(kind, Node::Wait { .. } | Node::Pause { .. })
        }
        NodeState::Open(_)
        | NodeState::InQuestion(_)
        | NodeState::InDoubt
        | NodeState::NoEffect(_)
        | NodeState::Undoing(..)
        | NodeState::Stuck(..)
        | NodeState::Undone
        | NodeState::Resolved => matches!(kind, Node::Step(_)),
    }
}

fn look_at_bounds(resting: &Resting, core: &Core, place: &str, survey: &mut Survey) {
    let mut bound = |what: &str, found: usize, max: usize| {
        if found > max {
            survey.find(&BOUND, place, format!("{found} {what}, the bound is {max}"), None);
        }
    };
    bound("events are kept for waits", core.early.len(), EARLY_EVENTS_MAX);
    bound("ids of taken events are remembered", core.events_taken.len(), EVENTS_TAKEN_MAX);
    bound("bytes of history are kept", resting.history.bytes(), HISTORY_BYTES_MAX);
    let unreadable = resting.history.unreadable();
    let beyond = |line: &dirigent_model::history::Line| {
        let named = line.node.iter().chain(line.sent.iter().map(|(node, ..)| node));
        named.into_iter().any(|node| node.index() >= core.nodes.len())
    };
    let strange = resting.history.lines().iter().filter(|line| beyond(line)).count();
    if unreadable + strange > 0 {
        let what =
            format!("{unreadable} lines can't be read, {strange} name steps that it does not have");
        survey.find(&HISTORY, place, what, None);
    }
}
