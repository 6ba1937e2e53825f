//! Times: each live instance has its own in the store, each ended one the end of its retention in a bundle, and each that is
//! there has its owner.
//!
//! Of instances that the journal knows better than the store, the times are in memory once the process has started, and the next
//! checkpoint writes what has changed. So only what it would take to be there already has to be there.

use super::All;
use crate::{
    engine::table::{BUNDLE_KEY_BYTES, Resting, bundle_key, timer_key},
    store::{
        Space, StoreError,
        check::{Kind, Mend, NOTHING, RecordChange, Severity, Survey},
    },
};
use dirigent_model::{instance::InstanceId, time::Timestamp};
use rustc_hash::{FxHashMap, FxHashSet};
use uuid::Uuid;

const MISSING: Kind = Kind {
    name: "due-time-missing",
    severity: Severity::Harmful,
    means: "nobody looks at the instance when its time comes: it stands still until a message for it comes, if any does",
    advice: "write the time by the plan",
};

const RETENTION: Kind = Kind {
    name: "retention-missing",
    severity: Severity::Harmful,
    means: "the instance has ended and would never be forgotten",
    advice: "write the time by the plan",
};

const STALE: Kind = Kind {
    name: "due-time-left-over",
    severity: Severity::Harmless,
    means: "an instance is looked at for nothing, once; a crash within a checkpoint leaves such times",
    advice: "take it out by the plan, or leave it",
};

const UNREADABLE: Kind = Kind {
    name: "due-time-unreadable",
    severity: Severity::Harmful,
    means: "the engine passes over times that can't be read",
    advice: "mend it by the plan; where an owner is known the time is written anew",
};

const STRANGE_KEY: Kind = Kind {
    name: "due-time-strange",
    severity: Severity::Harmless,
    means: "no time has such a key, so nobody is looked at because of it",
    advice: "set it aside by the plan",
};

/// Bytes of the key of one instance's time.
const TIMER_KEY_BYTES: usize = 8 + 16;

/// Which times the store has to have, and which it may have.
#[derive(Default)]
pub(super) struct Dues {
    live: FxHashSet<(Timestamp, InstanceId)>,
    ended: FxHashMap<InstanceId, Timestamp>,
    /// Times that are there for as long as the next checkpoint has not come.
    passing: FxHashSet<(Timestamp, InstanceId)>,
    corrected: FxHashSet<InstanceId>,
}

impl Dues {
    /// An instance that the store knows as it is.
    pub(super) fn expect(&mut self, id: InstanceId, resting: &Resting) {
        match resting.due {
            Some(due) if resting.ended => drop(self.ended.insert(id, due)),
            Some(due) => drop(self.live.insert((due, id))),
            None => {}
        }
    }

    /// One that the journal knows better: the next checkpoint writes its time, unless the store says that it is there.
    pub(super) fn expect_fresh(
        &mut self,
        id: InstanceId,
        stored: &Resting,
        folded: Option<&Resting>,
    ) {
        let live = |resting: &Resting| resting.due.filter(|_| !resting.ended);
        let (before, after) = (live(stored), folded.and_then(live));
        if let Some(due) = before {
            match after == before {
                true => drop(self.live.insert((due, id))),
                false => drop(self.passing.insert((due, id))),
            }
        }
        self.passing.extend(after.map(|due| (due, id)));
    }

    /// One whose times another repair writes.
    pub(super) fn corrected(&mut self, id: InstanceId, due: Option<Timestamp>) {
        self.corrected.insert(id);
        self.passing.extend(due.map(|due| (due, id)));
    }
}

/// Holds the times in the store against those that have to be there.
pub(super) fn check(
    all: &All<'_>,
    mut expected: Dues,
    survey: &mut Survey,
) -> Result<(), StoreError> {
    // A time of a new instance may have come to the store before the instance itself did.
    for id in &all.fresh {
        let due = all.resting(*id)?.filter(|resting| !resting.ended).and_then(|it| it.due);
        expected.passing.extend(due.map(|due| (due, *id)));
    }
    survey.walk(all.store(), Space::Timers, |survey, key, value| {
        survey.count("due times");
        let place = || format!("due time {}", key.escape_ascii());
        let set_aside = |loses: &str| Some(Mend::set_aside(Space::Timers, key, loses));
        match (key.len(), value) {
            (TIMER_KEY_BYTES | BUNDLE_KEY_BYTES, None) => {
                let loses = "nothing: those whose time it was are written anew";
                survey.find(&UNREADABLE, place(), "its checksum is another one", set_aside(loses));
            }
            (BUNDLE_KEY_BYTES, Some(ids)) => {
                let Some(due) = time_of(key) else { return Ok(()) };
                for id in ids.chunks_exact(16).filter_map(|id| Uuid::from_slice(id).ok()) {
                    let id = InstanceId(id);
                    if expected.ended.get(&id).is_some_and(|own| *own <= due) {
                        expected.ended.remove(&id);
                    }
                }
                if ids.len() % 16 != 0 {
                    let loses = "nothing: those whose time it was are written anew";
                    survey.find(&UNREADABLE, place(), "it is cut short", set_aside(loses));
                }
            }
            (TIMER_KEY_BYTES, Some(_)) => {
                let (due, id) = (time_of(key), Uuid::from_slice(&key[8..]));
                let (Some(due), Ok(id)) = (due, id) else { return Ok(()) };
                let entry = (due, InstanceId(id));
                let is_known = expected.live.remove(&entry) || expected.passing.contains(&entry);
                if !is_known {
                    let what = format!("{due} is no time of instance {id}");
                    let change = RecordChange::remove(Space::Timers, key);
                    let mend = Mend::new("takes the time out", NOTHING, vec![change]);
                    survey.find(&STALE, format!("instance {id}"), what, Some(mend));
                }
            }
            (_, _) => {
                let mend = set_aside("a record that nobody reads");
                survey.find(&STRANGE_KEY, place(), "its key is no time", mend);
            }
        }
        Ok(())
    })?;
    let mut live: Vec<_> = expected.live.into_iter().collect();
    live.sort_unstable();
    for (due, id) in live {
        let change = RecordChange::put(Space::Timers, timer_key(due, id), []);
        let mend = Mend::new("writes the time that the instance says", NOTHING, vec![change]);
        survey.find(&MISSING, format!("instance {id}"), format!("it is due at {due}"), Some(mend));
    }
    let mut ended: Vec<_> = expected.ended.into_iter().collect();
    ended.sort_unstable();
    for (id, due) in ended.into_iter().filter(|(id, _)| !expected.corrected.contains(id)) {
        let mend = Mend::new("writes the end of its retention", NOTHING, vec![bundle_of(id, due)]);
        let what = format!("its retention is over at {due}");
        survey.find(&RETENTION, format!("instance {id}"), what, Some(mend));
    }
    Ok(())
}

fn time_of(key: &[u8]) -> Option<Timestamp> {
    key.first_chunk().map(|due| Timestamp(u64::from_be_bytes(*due)))
}

/// The end of one instance's retention.
pub(super) fn bundle_of(id: InstanceId, due: Timestamp) -> RecordChange {
    RecordChange::put(Space::Timers, bundle_key(due, 0, id), id.0.as_bytes())
}
