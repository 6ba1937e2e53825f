//! The audit: whether every message that was consumed is in exactly one account, and every account stands for what is there.
//!
//! Reads what the store and the journal add up to. Each sum is held against another that was written by another hand: verdicts
//! against positions or settled deliveries, parked and quarantined against the messages that are kept, the tally against the instances.

use super::{
    accounts::{Accounts, Count, Counts},
    kept::KeptTable,
    table::Table,
};
use crate::store::StoreError;
use dirigent_model::instance::Instance;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What an audit found.
#[derive(Debug, Clone, Serialize)]
pub struct Audit {
    /// By channel and partition.
    pub partitions: Vec<PartitionAudit>,
    /// Sagas.
    pub instances: InstancesAudit,
    /// What does not add up; nothing where all is well.
    pub gaps: Vec<String>,
}

/// One partition of a log, or one queue.
#[derive(Debug, Clone, Serialize)]
pub struct PartitionAudit {
    /// The channel.
    pub channel: String,
    /// The partition.
    pub partition: u32,
    /// Messages consumed: by their positions in a log, by their settlements elsewhere.
    pub consumed: u64,
    /// What became of them.
    pub counts: Counts,
    /// Where the reading of a log goes on.
    pub next: Option<u64>,
    /// Offsets of a log that held no message.
    pub skipped: Option<u64>,
    /// Messages of a log that were handed out again and counted again.
    pub repeated: Option<u64>,
    /// Messages kept as parked.
    pub kept_parked: u64,
    /// Messages kept as quarantined.
    pub kept_quarantined: u64,
}

/// Sagas: what the tally says, and what is there.
#[derive(Debug, Clone, Default, Serialize)]
pub struct InstancesAudit {
    /// Live ones by the tally.
    pub in_flight: u64,
    /// Live ones that are there.
    pub found: u64,
    /// Those with an incident of their own, by the tally.
    pub blocked: u64,
    /// Those with an incident of their own that are there.
    pub found_blocked: u64,
    /// Live ones that a quarantined message holds.
    pub held: u64,
}

impl Audit {
    /// Whether everything adds up.
    pub fn is_clean(&self) -> bool {
        self.gaps.is_empty()
    }
}

/// Compares the accounts with what they stand for.
pub(super) fn audit(
    accounts: &Accounts,
    table: &Table,
    kept: &KeptTable,
) -> Result<Audit, StoreError> {
    let (partitions, mut gaps) = partitions(accounts, kept);
    let mut instances = InstancesAudit {
        in_flight: accounts.tally.in_flight(),
        blocked: accounts.tally.blocked,
        ..InstancesAudit::default()
    };
    let holding = kept.holding();
    table.each(|id, resting| {
        instances.found += u64::from(!resting.ended);
        instances.held += u64::from(!resting.ended && holding.contains_key(&id));
        let core = Instance::peek(&resting.state);
        instances.found_blocked += u64::from(core.is_ok_and(|(core, _)| core.is_blocked()));
        true
    })?;
    let mut same = |what: &str, told: u64, found: u64| {
        if told != found {
            gaps.push(format!("instances: {told} are {what} by the tally, {found} are there"));
        }
    };
    same("in flight", instances.in_flight, instances.found);
    same("blocked", instances.blocked, instances.found_blocked);
    Ok(Audit { partitions, instances, gaps })
}

/// Each partition, and what does not add up there.
pub(super) fn partitions(
    accounts: &Accounts,
    kept: &KeptTable,
) -> (Vec<PartitionAudit>, Vec<String>) {
    let mut kept_by: BTreeMap<(String, u32), (u64, u64)> = BTreeMap::new();
    for message in kept.all().iter().filter(|message| message.counted) {
        let place = (message.message.channel.clone(), message.partition);
        let (parked, quarantined) = kept_by.entry(place).or_default();
        match message.standing.count() {
            Count::Parked => *parked += 1,
            _ => *quarantined += 1,
        }
    }
    let places: BTreeSet<&(String, u32)> = accounts
        .counts
        .keys()
        .chain(accounts.progress.keys())
        .chain(accounts.settled.keys())
        .chain(kept_by.keys())
        .collect();
    let mut gaps = Vec::new();
    let mut partitions = Vec::new();
    for place in places {
        let kept = kept_by.get(place).copied().unwrap_or_default();
        partitions.push(partition(accounts, place, kept, &mut gaps));
    }
    (partitions, gaps)
}

fn partition(
    accounts: &Accounts,
    place: &(String, u32),
    (kept_parked, kept_quarantined): (u64, u64),
    gaps: &mut Vec<String>,
) -> PartitionAudit {
    let (channel, number) = place;
    let counts = accounts.counts.get(place).copied().unwrap_or_default();
    let progress = accounts.progress.get(place);
    let mut same = |what: &str, told: u64, other: &str, found: u64| {
        if told != found {
            gaps.push(format!(
                "{channel}, partition {number}: {told} {what}, but {found} {other} ({} missing on one side)",
                told.abs_diff(found)
            ));
        }
    };
    let counted = "in the accounts";
    let consumed = match progress {
        Some(progress) => {
            let read = progress.messages.saturating_add(progress.repeated);
            same("messages are covered by positions", read, counted, counts.consumed());
            let offsets = progress.covered();
            let told = progress.messages.saturating_add(progress.skipped);
            same("offsets are covered", offsets, "are messages or gaps of the log", told);
            read
        }
        None => {
            let settled = accounts.settled.get(place).copied().unwrap_or_default();
            same("deliveries are settled", settled, counted, counts.consumed());
            settled
        }
    };
    same("are counted as parked", counts.of(Count::Parked), "are kept so", kept_parked);
    let quarantined = counts.of(Count::Quarantined);
    same("are counted as quarantined", quarantined, "are kept so", kept_quarantined);
    PartitionAudit {
        channel: channel.clone(),
        partition: *number,
        consumed,
        counts,
        next: progress.map(|progress| progress.next),
        skipped: progress.map(|progress| progress.skipped),
        repeated: progress.map(|progress| progress.repeated),
        kept_parked,
        kept_quarantined,
    }
}
