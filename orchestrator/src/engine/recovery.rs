//! Recovery: the store as of the last checkpoint, and the groups behind it folded on top.
//!
//! Groups up to the checkpoint are read too while they hold messages above the watermark. What comes out is what would
//! have been without the crash: instances, accounts, and the messages still to be sent with their numbers.

use super::{
    accounts::Accounts,
    checkpoint::read_mark,
    group::{self, LaneSeq, Outgoing, Sender, saga_of},
    kept::KeptTable,
    shard::Fatal,
    table::{Resting, Table},
};
use crate::{
    journal::{self, Disk, GroupSeq, Journal, JournalError, TakeIn},
    store::{Change, Space},
};
use dirigent_model::instance::{Core, Instance, InstanceId, Leg, NodeState};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// Stands in the store once there is a journal: a folder without one is then no new folder.
pub(super) const JOURNAL_BEGUN: &[u8] = b"journal";

/// What was found.
pub(crate) struct Recovered<J = Journal> {
    pub journal: J,
    /// Whether the store knows that there is a journal.
    pub begun: bool,
    pub accounts: Accounts,
    /// By lane: messages that no broker has confirmed, in their order.
    pub outbox: Vec<Vec<(LaneSeq, Outgoing)>>,
    /// By lane: messages above the watermark that must not leave any more.
    pub given_up: Vec<Vec<LaneSeq>>,
    pub unconfirmed: VecDeque<(GroupSeq, Vec<LaneSeq>)>,
    /// Instances that the store does not know as they are.
    pub fresh: Vec<InstanceId>,
    pub groups: u64,
}

/// Reads store and journal; `open` opens the journal, or only reads it, and says which group comes next.
pub(crate) fn recover<J>(
    table: &Table,
    kept: &KeptTable,
    disk: Arc<dyn Disk>,
    lanes: usize,
    open: impl FnOnce(Arc<dyn Disk>, GroupSeq, TakeIn<'_>) -> Result<(J, GroupSeq), JournalError>,
) -> Result<Recovered<J>, Fatal> {
    let mark = read_mark(&**table.store())?;
    let begun = table.store().get(Space::Meta, JOURNAL_BEGUN)?.is_some();
    if begun
        && journal::is_empty(&*disk).map_err(|error| format!("listing the journal: {error}"))?
    {
        return Err(
            "the store belongs to a journal that is gone: all of its files are missing; restore the whole data folder from one backup".into(),
        );
    }
    kept.load(&**table.store())?;
    let (checkpointed, mut accounts) = (GroupSeq(mark.seq), mark.accounts);
    let mut lanes_next = Vec::new();
    let mut outbox: Vec<BTreeMap<LaneSeq, Outgoing>> = Vec::new();
    let mut confirmed: Vec<LaneSeq> = accounts.lanes_confirmed.clone();
    let mut unconfirmed = VecDeque::new();
    let mut fresh: BTreeMap<InstanceId, Option<Resting>> = BTreeMap::new();
    let mut groups = 0;
    let (journal, next) = {
        let take_in = &mut |seq: GroupSeq, record: &[u8]| -> Result<(), Fatal> {
            let (head, mut body) =
                group::decode(record).map_err(|error| format!("group {seq}: {error}"))?;
            groups += 1;
            for (lane, (first, up_to)) in head.lanes.iter().enumerate() {
                confirmed.resize(confirmed.len().max(lane + 1), 1);
                confirmed[lane] = confirmed[lane].max(*up_to);
                outbox.resize_with(outbox.len().max(lane + 1), BTreeMap::new);
                lanes_next.resize(lanes_next.len().max(lane + 1), 1);
                lanes_next[lane] = *first;
            }
            if seq > checkpointed {
                accounts.fold(&head, &body);
                kept.apply(head.kept.iter().chain(&body.kept));
            }
            let sends = !body.outgoing.is_empty();
            for outgoing in std::mem::take(&mut body.outgoing) {
                let lane = usize::from(outgoing.lane);
                let next = lanes_next
                    .get_mut(lane)
                    .ok_or("a message of a lane its group does not know")?;
                outbox[lane].insert(*next, outgoing);
                *next += 1;
            }
            if sends {
                unconfirmed.push_back((seq, lanes_next.clone()));
            }
            if seq > checkpointed {
                for change in body.changes {
                    fold_change(table, &mut fresh, seq, change)?;
                }
            }
            Ok(())
        };
        open(disk, GroupSeq(mark.keep_from), take_in)?
    };
    if next <= checkpointed {
        let mark = checkpointed;
        return Err(format!(
            "the journal ends before group {next}, but the store holds what groups up to {mark} added up to: the journal was rolled back or emptied; restore the whole data folder from one backup"
        )
        .into());
    }
    kept.settle_in(accounts.kept_next);
    accounts.lanes_next.resize(lanes.max(accounts.lanes_next.len()), 1);
    accounts.lanes_confirmed.resize(lanes.max(accounts.lanes_confirmed.len()), 1);
    confirmed.resize(accounts.lanes_next.len(), 1);
    outbox.resize_with(accounts.lanes_next.len(), BTreeMap::new);
    let mut outbox: Vec<Vec<_>> = outbox
        .into_iter()
        .zip(&confirmed)
        .map(|(mut lane, up_to)| lane.split_off(up_to).into_iter().collect())
        .collect();
    if let Some(lane) = outbox.iter().skip(lanes).position(|lane| !lane.is_empty()) {
        let lane = lane + lanes;
        let count = outbox[lane].len();
        return Err(format!(
            "{count} messages still have to leave by connector number {}, but only {lanes} are set up; start with the same connectors as before",
            lane + 1
        )
        .into());
    }
    accounts.lanes_confirmed.clone_from(&confirmed);
    let ids = fresh.keys().copied().collect();
    table.put(fresh);
    let mut given_up: Vec<Vec<LaneSeq>> = vec![Vec::new(); outbox.len()];
    for (lane, given_up) in outbox.iter_mut().zip(&mut given_up) {
        for (seq, outgoing) in &mut *lane {
            let Some(sender) = outgoing.sender else { continue };
            let Some(core) = core_of(table, sender)? else { continue };
            outgoing.saga = saga_of(&core.definition);
            if had_no_effect(&core, sender) {
                given_up.push(*seq);
            }
        }
        lane.retain(|(seq, _)| given_up.binary_search(seq).is_err());
    }
    Ok(Recovered { journal, begun, accounts, outbox, given_up, unconfirmed, fresh: ids, groups })
}

/// Notes in the store that there is a journal, once there is one. The other way round a crash in between would make a new
/// folder look like one that lost its journal.
pub(crate) fn note_begun(table: &Table) -> Result<(), Fatal> {
    table.store().write(&[Change::put(Space::Meta, JOURNAL_BEGUN, [])])?;
    Ok(table.store().sync()?)
}

/// Whether an instance counts on a command never taking effect: it could not be sent, or was refused, and its step will
/// not be compensated. Sent again now, it might take effect after all, and nobody would take that back.
fn had_no_effect(core: &Core, sender: Sender) -> bool {
    sender.leg == Leg::Do
        && matches!(core.nodes.get(sender.node.index()), Some(NodeState::NoEffect(_)))
}

/// The instance whose command it is, where it can be read.
fn core_of(table: &Table, sender: Sender) -> Result<Option<Core>, Fatal> {
    match table.get(sender.instance) {
        Ok(resting) => {
            Ok(resting
                .and_then(|resting| Instance::peek(&resting.state).ok().map(|(core, _)| core)))
        }
        Err(error) if !error.is_final() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn fold_change(
    table: &Table,
    fresh: &mut BTreeMap<InstanceId, Option<Resting>>,
    seq: GroupSeq,
    change: group::InstanceChange,
) -> Result<(), Fatal> {
    let Some(state) = change.state else {
        fresh.insert(change.id, None);
        return Ok(());
    };
    let known = match fresh.remove(&change.id) {
        Some(known) => known,
        None => match table.get(change.id) {
            Ok(known) => known,
            // The group holds the whole state; only the older history is lost with the damaged record.
            Err(error) if !error.is_final() => None,
            Err(error) => return Err(error.into()),
        },
    };
    // A checkpoint that was cut short may have stored this group's lines already.
    let (mut history, told_up_to) = match known.filter(|_| !change.tally.started) {
        Some(known) => (known.history, known.seq),
        None => Default::default(),
    };
    if seq.0 > told_up_to {
        change.lines.iter().for_each(|line| history.append_encoded(line));
    }
    let seq = seq.0.max(told_up_to);
    let ended = Instance::peek(&state).is_ok_and(|(core, _)| core.status.is_end());
    let resting = Resting { state, history, due: change.due, seq, ended, new: false };
    fresh.insert(change.id, Some(resting));
    Ok(())
}
