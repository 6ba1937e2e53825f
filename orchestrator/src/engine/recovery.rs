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
    withdrawal::must_stay,
};
use crate::{
    journal::{self, Disk, GroupSeq, Journal, JournalError, TakeIn},
    planted::{self, Bug},
    relay::{Confirmed, Stretch},
    store::{Change, Space, Store},
};
use dirigent_model::instance::{Core, Instance, InstanceId};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// The layout of all that a checkpoint writes, as this release writes it.
pub(super) const FORMAT: u8 = 1;

/// Stands in the store once there is a journal: a folder without one is then no new folder. It holds the [`FORMAT`].
pub(super) const JOURNAL_BEGUN: &[u8] = b"journal";

/// What was found.
pub(crate) struct Recovered<J = Journal> {
    pub journal: J,
    /// Whether the store knows that there is a journal.
    pub begun: bool,
    pub accounts: Accounts,
    /// By lane: what brokers have confirmed.
    pub confirmed: Vec<Confirmed>,
    /// By lane: messages that no broker has confirmed, in their order.
    pub outbox: Vec<Vec<(LaneSeq, Outgoing)>>,
    /// By lane: messages above the watermark that must not leave any more; see [`Recovered::give_up`].
    pub given_up: Vec<Vec<LaneSeq>>,
    /// Groups that hold messages, with the stretch of each lane.
    pub unconfirmed: VecDeque<(GroupSeq, Vec<Stretch>)>,
    /// Instances that the store does not know as they are.
    pub fresh: Vec<InstanceId>,
    pub groups: u64,
}

/// Whether there is a journal, as far as the store knows; refuses a store that a later release has written.
pub(crate) fn check_format(store: &dyn Store) -> Result<bool, Fatal> {
    let begun = store.get(Space::Meta, JOURNAL_BEGUN)?;
    if let Some(format) = begun.as_ref().and_then(|begun| begun.first()).filter(|it| **it > FORMAT)
    {
        return Err(format!(
            "the store has format {format}, this release knows up to {FORMAT}: it was written by a later release; start with that one"
        )
        .into());
    }
    Ok(begun.is_some())
}

/// Reads store and journal; `open` opens the journal, or only reads it, and says which group comes next.
pub(crate) fn recover<J>(
    table: &Table,
    kept: &KeptTable,
    disk: Arc<dyn Disk>,
    lanes: usize,
    open: impl FnOnce(Arc<dyn Disk>, GroupSeq, TakeIn<'_>) -> Result<(J, GroupSeq), JournalError>,
) -> Result<Recovered<J>, Fatal> {
    // Before anything else is read, which a later release may have laid out otherwise.
    let begun = check_format(&**table.store())?;
    let mark = read_mark(&**table.store())?;
    if begun
        && journal::is_empty(&*disk).map_err(|error| format!("listing the journal: {error}"))?
    {
        return Err(
            "the store belongs to a journal that is gone: all of its files are missing; restore the whole data folder from one backup".into(),
        );
    }
    kept.load(&**table.store())?;
    let (checkpointed, mut accounts) = (GroupSeq(mark.seq), mark.accounts);
    let below = accounts.lanes_confirmed.clone().into_iter().chain(std::iter::repeat(1));
    let above = mark.above.into_iter().chain(std::iter::repeat(Vec::new()));
    let mut known = below.zip(above).map(|(below, above)| Confirmed { below, above });
    let mut at_mark: Vec<Confirmed> = Vec::new();
    let mut lanes_next = Vec::new();
    let mut outbox: Vec<BTreeMap<LaneSeq, Outgoing>> = Vec::new();
    let mut confirmed: Vec<LaneSeq> = accounts.lanes_confirmed.clone();
    let mut unconfirmed = VecDeque::new();
    let mut fresh: BTreeMap<InstanceId, Option<Resting>> = BTreeMap::new();
    let mut groups = 0;
    let (journal, next) = {
        let take_in = &mut |seq: GroupSeq, record: &[u8]| -> Result<(), Fatal> {
            if let Some(format) = group::later_format(record) {
                return Err(format!(
                    "group {seq} has format {format}, which this release does not know: it was written by a later one; start with that one"
                )
                .into());
            }
            let (head, mut body) =
                group::decode(record).map_err(|error| format!("group {seq}: {error}"))?;
            groups += 1;
            for (lane, (first, up_to)) in head.lanes.iter().enumerate() {
                confirmed.resize(confirmed.len().max(lane + 1), 1);
                confirmed[lane] = confirmed[lane].max(*up_to);
                outbox.resize_with(outbox.len().max(lane + 1), BTreeMap::new);
                let missing = (lane + 1).saturating_sub(at_mark.len());
                at_mark.extend(known.by_ref().take(missing));
                lanes_next.resize(lanes_next.len().max(lane + 1), 1);
                lanes_next[lane] = *first;
            }
            if planted::is(Bug::RecoverySkipsGroup) && seq == checkpointed.next() {
                return Ok(());
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
                let behind =
                    next.checked_add(1).ok_or("a message whose number has none behind it")?;
                if !at_mark[lane].covers((*next, behind)) {
                    outbox[lane].insert(*next, outgoing);
                }
                *next = behind;
            }
            if sends {
                let firsts = head.lanes.iter().map(|(first, _)| *first);
                unconfirmed.push_back((seq, firsts.zip(lanes_next.iter().copied()).collect()));
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
    let outbox: Vec<Vec<_>> = outbox
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
    let given_up = vec![Vec::new(); outbox.len()];
    let missing = outbox.len().saturating_sub(at_mark.len());
    at_mark.extend(known.take(missing));
    let confirmed = at_mark.into_iter().zip(confirmed);
    let confirmed = confirmed.map(|(known, below)| Confirmed { below, ..known }).collect();
    Ok(Recovered {
        journal,
        begun,
        accounts,
        confirmed,
        outbox,
        given_up,
        unconfirmed,
        fresh: ids,
        groups,
    })
}

impl<J> Recovered<J> {
    /// Takes out of the outbox what must not leave any more, and says of the rest whose it is. Called once, before anything is sent;
    /// whoever only reads finds the outbox as it was written.
    pub(crate) fn give_up(&mut self, table: &Table) -> Result<(), Fatal> {
        for (lane, given_up) in self.outbox.iter_mut().zip(&mut self.given_up) {
            if planted::is(Bug::OutboxNotSentAgain) {
                lane.clear();
            }
            for (seq, outgoing) in &mut *lane {
                let Some(sender) = outgoing.sender else { continue };
                let stays = match author_of(table, sender)? {
                    Author::Unreadable => false,
                    Author::Gone => true,
                    Author::Here(core) => {
                        outgoing.saga = saga_of(&core.definition);
                        must_stay(&core, sender)
                    }
                };
                if stays {
                    given_up.push(*seq);
                }
            }
            lane.retain(|(seq, _)| given_up.binary_search(seq).is_err());
        }
        Ok(())
    }
}

/// Notes in the store that there is a journal, once there is one. The other way round a crash in between would make a new
/// folder look like one that lost its journal.
pub(crate) fn note_begun(table: &Table) -> Result<(), Fatal> {
    table.store().write(&[Change::put(Space::Meta, JOURNAL_BEGUN, [FORMAT])])?;
    Ok(table.store().sync()?)
}

/// Whose command it is.
enum Author {
    Here(Box<Core>),
    /// It has ended, and was forgotten.
    Gone,
    /// Nobody can say what it counts on.
    Unreadable,
}

fn author_of(table: &Table, sender: Sender) -> Result<Author, Fatal> {
    match table.get(sender.instance) {
        Ok(None) => Ok(Author::Gone),
        Ok(Some(resting)) => Ok(Instance::peek(&resting.state)
            .map_or(Author::Unreadable, |(core, _)| Author::Here(Box::new(core)))),
        Err(error) if !error.is_final() => Ok(Author::Unreadable),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{journal::SimDisk, store::MemoryStore};
    use dirigent_connectors::{Attributes, ChannelKind, Message};

    fn recovers(format: u8, record: Option<&[u8]>) -> Result<Recovered<()>, String> {
        let table = Table::new(Arc::new(MemoryStore::new()));
        if format != FORMAT {
            let begun = Change::put(Space::Meta, JOURNAL_BEGUN, [format]);
            table.store().write(&[begun]).map_err(|error| error.to_string())?;
        }
        let read = |_, from: GroupSeq, take_in: TakeIn<'_>| {
            let taken = record.map_or(Ok(()), |record| take_in(from, record));
            taken.map_err(|source| JournalError::Refused { seq: from, source })?;
            Ok(((), from))
        };
        let recovered = recover(&table, &KeptTable::default(), Arc::new(SimDisk::new()), 1, read);
        recovered.map_err(|error| crate::describe(&*error))
    }

    #[test]
    fn what_a_later_release_has_written_is_refused_with_the_release_to_use() {
        recovers(FORMAT, None).map(|_| ()).unwrap();
        for (format, record) in [(FORMAT + 1, None), (FORMAT, Some(&[u8::MAX][..]))] {
            let error = recovers(format, record).map(|_| ()).unwrap_err();
            assert!(error.contains("later") && error.contains("start with that one"), "{error}");
        }
    }

    #[test]
    fn a_message_whose_number_has_none_behind_it_is_refused_and_ends_no_process() {
        let of = |first: LaneSeq| {
            let message = Message {
                channel: "inventory".into(),
                kind: ChannelKind::Work,
                key: "7".into(),
                attributes: Attributes::new(),
                others: vec![],
                body: vec![].into(),
            };
            let outgoing = vec![Outgoing { lane: 0, sender: None, saga: 0, message }];
            let head = group::GroupHead { lanes: vec![(first, 1)], ..Default::default() };
            let mut record = head.encode();
            group::GroupBody { outgoing, ..Default::default() }.encode(&mut record);
            record
        };
        let outbox = recovers(FORMAT, Some(&of(LaneSeq::MAX - 1))).unwrap().outbox;
        assert_eq!(outbox[0][0].0, LaneSeq::MAX - 1);
        let error = recovers(FORMAT, Some(&of(LaneSeq::MAX))).map(|_| ()).unwrap_err();
        assert!(error.contains("a message whose number has none behind it"), "{error}");
    }
}
