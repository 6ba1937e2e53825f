//! What a fuzzer asks of what the engine reads from a disk: groups of the journal, and records of the store.
//!
//! What must be true: what can be read is written again as the same value, and what it adds up to can be checked, mended and read by people, or
//! is refused with a reason. Nothing of it panics, whatever the bytes: a checksum says that they are what somebody wrote, not what he meant.

use super::{
    Reader, application, checkpoint, fsck, group,
    kept::KeptTable,
    kept_wire, lanes,
    reader::{self, read},
    repair, table,
    wire::Take,
};
use crate::{
    journal::Disk,
    registry::Registry,
    store::{Fsck, RepairPlan, Space, Store},
};
use dirigent_model::{
    history::History,
    instance::{Instance, InstanceId},
};
use std::sync::Arc;

/// Plans that are made and applied until nothing is left to be mended: what one sets aside may leave something for the next, and no more.
const PLANS_MAX: usize = 8;

/// Whether bytes are a group.
pub(crate) fn is_group(record: &[u8]) -> bool {
    let Ok((head, body)) = group::decode(record) else { return false };
    assert_eq!(group::later_format(record), None, "a later release's is not read");
    let written = |head: &group::GroupHead, body: &group::GroupBody| {
        let mut record = head.encode();
        body.encode(&mut record);
        record
    };
    let once = written(&head, &body);
    let (head_again, body_again) = group::decode(&once).expect("what we write can be read");
    assert_eq!(body_again.changes, body.changes);
    assert_eq!(body_again.outgoing, body.outgoing);
    assert_eq!((&body_again.kept, &head_again.kept), (&body.kept, &head.kept));
    assert_eq!((&head_again.lanes, &head_again.settled), (&head.lanes, &head.settled));
    assert_eq!(written(&head_again, &body_again), once, "it is written as it was");
    true
}

/// Whether bytes are an instance's record that can be read in full by its definition.
pub(crate) fn is_instance(value: &[u8], registry: &Registry) -> bool {
    let resting = table::decode(value);
    let flaw = table::flaw_of(value);
    let written = table::encode(&resting);
    assert_eq!(table::decode(&written), resting, "it is written as it was read");
    assert!(flaw.is_some() || table::flaw_of(&written).is_none());
    let (lines, unreadable) = (resting.history.lines().len(), resting.history.unreadable());
    assert!(lines + unreadable <= resting.history.bytes() / 4 + 1);
    assert!(resting.history.last().is_none() || lines > 0);
    assert_eq!(History::decode(&resting.history.encode()), resting.history);
    let Ok((core, _)) = Instance::peek(&resting.state) else { return false };
    let _ = (core.next_due(), core.is_blocked());
    let Some(plan) = registry.plan(&core.definition, core.version) else { return false };
    let Ok(instance) = Instance::decode(plan, &resting.state, resting.history) else {
        return false;
    };
    let mut state = Vec::new();
    instance.encode(&mut state);
    let again = Instance::decode(plan, &state, instance.history.clone());
    let again = again.expect("what we write can be read");
    assert_eq!(again.core, instance.core, "it is written as it was read");
    let mut written = Vec::new();
    again.encode(&mut written);
    assert_eq!(written, state, "its data does not change by being read");
    flaw.is_none()
}

/// Whether a single record can be read.
pub(crate) fn is_single(key: &[u8], value: &[u8]) -> bool {
    match key {
        super::hearing::KEY => super::hearing::read(value).is_some(),
        lanes::KEY => lanes::read(value).is_some(),
        application::KEY => matches!(application::read(value), application::Owner::Named(_)),
        checkpoint::MARK => checkpoint::is_readable(value),
        _ => super::pausing::is_readable(value),
    }
}

/// Whether bytes are a change of what is kept.
pub(crate) fn is_kept(value: &[u8]) -> bool {
    let mut from = Take(value);
    let Ok(change) = kept_wire::take_change(&mut from) else { return false };
    let mut written = Vec::new();
    kept_wire::put_change(&mut written, &change);
    assert_eq!(kept_wire::take_change(&mut Take(&written)).ok(), Some(change));
    from.0.is_empty()
}

/// The instance that a state says it is of.
pub(crate) fn id_in(value: &[u8]) -> Option<InstanceId> {
    Instance::peek(&table::decode(value).state).ok().map(|(core, _)| core.id)
}

/// Does with a store and a journal what is done with those at rest: they are checked, mended, audited and shown. Whether recovery takes them.
pub(crate) fn rests(
    store: &Arc<dyn Store>,
    disk: &Arc<dyn Disk>,
    registry: &Arc<Registry>,
) -> bool {
    let checked = || fsck(Arc::clone(store), Arc::clone(disk), Some(&**registry));
    let Ok(mut found) = checked() else { return false };
    let _ = super::audit(Arc::clone(store), Arc::clone(disk));
    shown(store, disk, registry);
    let mut plans = 0;
    while !found.plan().repairs.is_empty() {
        plans += 1;
        assert!(plans <= PLANS_MAX, "plans come to an end: {:?}", found.findings);
        let plan = through_json(&found.plan());
        let (store, disk) = (Arc::clone(store), Arc::clone(disk));
        found = repair(store, disk, Some(&**registry), &plan, &mut |_, _, _| Ok(()))
            .expect("a plan can be applied to the state that it was made for");
    }
    let again: Fsck = checked().expect("what was mended can be checked");
    assert_eq!(again.state, found.state, "a check changes nothing");
    true
}

/// A plan as a person hands it back.
fn through_json(plan: &RepairPlan) -> RepairPlan {
    let text = serde_json::to_vec(plan).expect("texts are JSON");
    let again = serde_json::from_slice(&text).expect("what was written can be read");
    assert_eq!(&again, plan);
    again
}

fn shown(store: &Arc<dyn Store>, disk: &Arc<dyn Disk>, registry: &Arc<Registry>) {
    let Some(reader) = reader(store, disk, registry) else { return };
    let all = reader.list(&reader::ListFilter::default()).expect("a store in memory does not fail");
    for listed in all {
        let _ = reader.show(listed.id).expect("a store in memory does not fail");
    }
    for kept in reader.kept(&Default::default()) {
        assert!(reader.kept_message(kept.number).is_some(), "what is listed can be shown");
    }
    let _ = reader.wants_person(0);
}

/// Shows people what lies there, where recovery takes it.
pub(crate) fn reader(
    store: &Arc<dyn Store>,
    disk: &Arc<dyn Disk>,
    registry: &Arc<Registry>,
) -> Option<Reader> {
    let (table, kept) = (table::Table::new(Arc::clone(store)), KeptTable::default());
    let mut recovered = read(&table, &kept, Arc::clone(disk)).ok()?;
    recovered.give_up(&table).expect("a store in memory does not fail");
    Some(Reader::new(Arc::new(table), Arc::new(kept), Arc::clone(registry)))
}

/// Under which keys single records lie.
pub(crate) const SINGLES: [(Space, &[u8]); 5] = [
    (Space::Meta, checkpoint::MARK),
    (Space::Meta, super::recovery::JOURNAL_BEGUN),
    (Space::Meta, super::hearing::KEY),
    (Space::Meta, lanes::KEY),
    (Space::Meta, application::KEY),
];

/// The record of an instance that has just begun, and when it is due.
pub(crate) fn record_of(instance: &Instance) -> Vec<u8> {
    let (mut state, history) = (Vec::new(), instance.history.clone());
    instance.encode(&mut state);
    let due = instance.core.next_due().map(|(due, _)| due);
    table::encode(&table::Resting { state, history, due, seq: 0, ended: false, new: false })
}

/// Under which key an instance's time lies.
pub(crate) fn time_of(instance: &Instance) -> Option<Vec<u8>> {
    let (due, _) = instance.core.next_due()?;
    Some(table::timer_key(due, instance.core.id))
}
