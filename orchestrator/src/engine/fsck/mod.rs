//! A semantic check of what rests: whether the engine that starts on this store and this journal finds everything it needs.
//!
//! ```text
//! store ─┬─► records: can they be read, do they belong here ──────────────┐
//!        └─► with the journal folded on top, as recovery does it           ├─► findings, and a plan to mend them
//!               instances · times · kept messages · commands · accounts ───┘
//! ```
//!
//! Goes through everything that the engine relies on and never looks at while it works: that every time has its owner and every
//! live instance a way to go on, that every command still to be sent has a cause, that accounts and positions stand for what is
//! there. What can't be read at all, a damaged journal or a mark, is an error: only a backup helps there.
//!
//! [`fsck`] changes nothing. [`repair`] carries out a plan of it, if the state is still the one it was made for.

mod accounts;
mod commands;
mod due;
mod instances;
mod kept;
mod singles;

#[cfg(test)]
mod tests;

use super::{
    checkpoint::{Mark, read_mark},
    kept::KeptTable,
    reader::read,
    recovery::Recovered,
    shard::Fatal,
    table::{Resting, Table},
};
use crate::{
    journal::{Disk, GroupSeq},
    registry::Registry,
    store::{
        Fsck, KeepBytes, RepairError, RepairPlan, Store, StoreError,
        check::{Survey, carry_out},
    },
};
use dirigent_model::instance::{Core, InstanceId};
use std::{collections::BTreeSet, sync::Arc};

/// Checks a store and its journal. Without a `registry` nothing is said about definitions and what only they know.
///
/// # Errors
/// The store's mark or the journal can't be read, or they are not of one age.
pub fn fsck(
    store: Arc<dyn Store>,
    disk: Arc<dyn Disk>,
    registry: Option<&Registry>,
) -> Result<Fsck, Fatal> {
    let (table, kept) = (Table::new(Arc::clone(&store)), KeptTable::default());
    let recovered = read(&table, &kept, disk)?;
    let mark = read_mark(&*store)?;
    let fresh = recovered.fresh.iter().copied().collect();
    let next = recovered.journal;
    let all = All {
        table: &table,
        kept: &kept,
        recovered: &recovered,
        mark: &mark,
        registry,
        fresh,
        next,
    };
    let mut survey = Survey::default();
    let found = instances::check(&all, &mut survey)?;
    due::check(&all, found.due, &mut survey)?;
    let moves = kept::check(&all, &mut survey)?;
    commands::check(&all, &mut survey)?;
    singles::check(&all, &mut survey)?;
    accounts::check(&all, &found.standing, &moves, &mut survey);
    Ok(survey.finish(&*store, mark.seq, next.0)?)
}

/// Carries out a plan, or a part of one, that [`fsck`] made for this very state. `keep` is handed the bytes of what is taken out before
/// anything is changed. Answers what a check finds afterwards.
///
/// # Errors
/// The state has changed since, or the plan holds what the check does not propose: nothing is changed then.
pub fn repair(
    store: Arc<dyn Store>,
    disk: Arc<dyn Disk>,
    registry: Option<&Registry>,
    plan: &RepairPlan,
    keep: KeepBytes<'_>,
) -> Result<Fsck, RepairError> {
    let check =
        || fsck(Arc::clone(&store), Arc::clone(&disk), registry).map_err(RepairError::Unreadable);
    check()?.check_plan(plan)?;
    carry_out(&*store, &plan.repairs, keep)?;
    check()
}

/// Everything that is looked at.
struct All<'a> {
    table: &'a Table,
    kept: &'a KeptTable,
    recovered: &'a Recovered<GroupSeq>,
    mark: &'a Mark,
    registry: Option<&'a Registry>,
    /// Instances that the journal knows better than the store: the next checkpoint writes them.
    fresh: BTreeSet<InstanceId>,
    /// The group that would come next.
    next: GroupSeq,
}

impl All<'_> {
    fn store(&self) -> &dyn Store {
        &**self.table.store()
    }

    /// An instance as the engine will find it, where it can be read.
    fn resting(&self, id: InstanceId) -> Result<Option<Resting>, StoreError> {
        match self.table.get(id) {
            Err(error) if error.is_of_one_record() => Ok(None),
            found => found,
        }
    }
}

/// What people call an instance.
fn named(core: &Core) -> String {
    format!("{} {} ({})", core.definition, core.key, core.id)
}
