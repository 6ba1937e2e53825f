//! When a shard's instances are due. Near times are in memory; far ones rest in the store and cost nothing.
//!
//! In memory are: every time up to the horizon, and later ones that the store does not know yet.

use super::{Shared, shard::Fatal};
use crate::planted::{self, Bug};
use dirigent_model::{instance::InstanceId, time::Timestamp};
use std::{collections::BTreeMap, time::Duration};

/// How far ahead times are read from the store.
const HORIZON: Duration = Duration::from_secs(120);

/// Times read from the store at once.
const PAGE: usize = 10_000;

#[derive(Default)]
pub(super) struct Schedule {
    /// With the batch that set each.
    due: BTreeMap<(Timestamp, InstanceId), u64>,
    /// Every time below is in memory.
    horizon: Timestamp,
}

impl Schedule {
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.due.first_key_value().map(|((due, _), _)| *due)
    }

    /// Everything due before has been taken.
    pub(super) fn floor(&self) -> Timestamp {
        self.next_due().unwrap_or(self.horizon).min(self.horizon)
    }

    /// Takes an instance that is due. It is put back when its next time is set.
    pub(super) fn take_due(&mut self, now: Timestamp) -> Option<InstanceId> {
        let entry = self.due.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(entry.remove_entry().0.1)
    }

    /// Moves an instance from one time to another.
    pub(super) fn set(
        &mut self,
        id: InstanceId,
        before: Option<Timestamp>,
        due: Option<Timestamp>,
        batch: u64,
    ) {
        if let Some(before) = before {
            self.due.remove(&(before, id));
        }
        if let Some(due) = due {
            self.due.insert((due, id), batch);
        }
    }

    /// Looks at an instance again at this time, whatever it says itself.
    pub(super) fn put_off(&mut self, id: InstanceId, until: Timestamp) {
        self.due.retain(|(_, known), _| *known != id);
        self.due.insert((until, id), u64::MAX);
    }

    /// The store knows of every batch up to this one.
    pub(super) fn checkpointed(&mut self, batch: u64) {
        let nothing_is_near = planted::is(Bug::TimersForgotten);
        let horizon = if nothing_is_near { Timestamp(0) } else { self.horizon };
        self.due.retain(|(due, _), set_by| *due < horizon || *set_by > batch);
    }

    /// Reads the times that come near.
    pub(super) fn look_ahead(
        &mut self,
        now: Timestamp,
        shard: usize,
        shared: &Shared,
    ) -> Result<(), Fatal> {
        if now + HORIZON / 2 < self.horizon {
            return Ok(());
        }
        let until = now + HORIZON;
        let mut from = self.horizon.0.to_be_bytes().to_vec();
        loop {
            let (page, next) = shared.table.due_in_store(until, &from, PAGE)?;
            for (due, id) in page {
                if shared.shard_of(id) == shard {
                    self.due.entry((due, id)).or_insert(0);
                }
            }
            match next {
                Some(next) => from = next,
                None => break,
            }
        }
        self.horizon = Timestamp(until.0 + 1);
        Ok(())
    }
}
