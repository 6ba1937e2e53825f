//! The committer: makes the batches of all shards durable with one sync, and only then lets their effects happen.
//!
//! The order in [`Committer::commit`] is the promise of the whole process: append, sync, and only behind that the
//! messages to the relay, the settlements to the brokers, the answers to operators ([`told`]).

mod told;

use super::{
    Shared,
    accounts::Accounts,
    batch::Batch,
    checkpoint::{Checkpoint, Checkpointer},
    group::{GroupBody, GroupHead, LaneSeq, Outgoing},
    headroom::Writer,
    health::Concern,
    job::DeliveryDone,
    kept::KeptChange,
    shard::Fatal,
    table::Weight,
};
use crate::{
    journal::{GroupSeq, Journal, JournalError},
    planted::{self, Bug},
    relay::{Confirmed, RelayHandle, Stretch},
};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use dirigent_model::time::Timestamp;
use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// Batches made durable by one sync: as many as shards can have ready, and no more than a moment's work.
const BATCHES_PER_SYNC_MAX: usize = 64;

/// How long an idle committer waits before it writes down watermarks that have moved.
pub(super) const IDLE: Duration = Duration::from_millis(200);

/// The least time between two copies of the accounts for the meters.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Bytes of the journal after which a checkpoint is due.
const CHECKPOINT_BYTES: u64 = 48 * 1024 * 1024;

/// Time after which a checkpoint is due, if anything changed.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(10);

/// Time after which one is due while sagas are under way, though nothing changed: the next process is to know how long this one
/// listened for what they wait for.
const CHECKPOINT_IDLE_EVERY: Duration = Duration::from_secs(60);

/// Instances that wait for a checkpoint, before the committer waits for the store.
const UNCHECKPOINTED_MAX: usize = 400_000;

/// Their bytes in the store, roughly. A checkpoint of so many fits what headroom and ballast hold back for it.
const UNCHECKPOINTED_BYTES_MAX: usize = 96 * 1024 * 1024;

/// Messages that wait to be sent or confirmed, on all lanes, before the committer waits for the brokers.
pub const OUTBOX_MAX: usize = 100_000;

/// How long to wait before room is looked for again.
const ROOM_AGAIN: Duration = Duration::from_millis(500);

/// How long to wait before it is looked whether brokers have confirmed.
const CONFIRMED_AGAIN: Duration = Duration::from_millis(2);

/// Room on the disk without which no checkpoint is begun, beside twice what it writes.
const CHECKPOINT_ROOM_BYTES: u64 = 16 * 1024 * 1024;

/// The encoded form of a group that changes nothing: no instances, no messages, no inputs, nothing kept.
const EMPTY_BODY: [u8; 4] = [0, 0, 0, 0];

/// Why a group was not appended.
enum Hindered {
    /// There is no room for the journal's next file; nothing has changed, and it may be tried again.
    NoRoom {
        bytes: u64,
    },
    Fatal(Fatal),
}

/// Owns the journal.
pub(crate) struct Committer {
    pub(super) shared: Arc<Shared>,
    pub(super) journal: Journal,
    pub(super) inbox: Receiver<Batch>,
    pub(super) relays: Vec<RelayHandle>,
    pub(super) accounts: Accounts,
    pub(super) checkpointer: Checkpointer,
    /// Groups that still hold unconfirmed messages: their place, and the stretch of each lane. Confirmed ones go with the next
    /// checkpoint.
    pub(super) unconfirmed: VecDeque<(GroupSeq, Vec<Stretch>)>,
    /// By lane: what was to leave before the start and is more than the outbox takes. Nothing overtakes it.
    pub(super) backlog: Vec<VecDeque<(LaneSeq, Outgoing)>>,
    /// Batches that are not in the journal yet: of one round, unless there is no room.
    pub(super) gathered: VecDeque<Batch>,
    /// The head of a group that was tried and found no room.
    pub(super) head: Option<GroupHead>,
    /// The outbox is full, and that was told.
    pub(super) is_full: bool,
    /// Too much waits for a checkpoint, which lacks room.
    pub(super) is_heavy: bool,
    pub(super) written: Written,
    /// Batches whose messages have left, and that are not durable: where that bug is planted.
    #[cfg(feature = "planted")]
    pub(super) sent_early: Option<(Vec<Batch>, Vec<Appended>)>,
}

/// A group's place, each lane's first number in it, and what is kept of shared deliveries.
pub(super) type Appended = (GroupSeq, Vec<LaneSeq>, Vec<KeptChange>);

/// What a group's head says of its deliveries: those of several shards that it is the last to speak of, and how many are settled
/// where the broker remembers.
fn head_of(done: &[Arc<DeliveryDone>]) -> GroupHead {
    let mut head = GroupHead::default();
    for done in done {
        if done.is_shared() {
            let Some((input, kept)) = done.appended() else { continue };
            head.shared_inputs.push(input);
            head.kept.extend(kept);
        }
        if done.covered.is_some() {
            continue;
        }
        // Neighbours are of the same place as a rule.
        match head.settled.last_mut() {
            Some((channel, partition, deliveries))
                if *channel == done.channel && *partition == done.partition =>
            {
                *deliveries += 1;
            }
            Some(_) | None => head.settled.push((Arc::clone(&done.channel), done.partition, 1)),
        }
    }
    head
}

/// How far things are on their way to the store.
pub(super) struct Written {
    pub last: GroupSeq,
    pub bytes_since: u64,
    /// Of this process, ever.
    pub bytes: u64,
    pub syncs: u64,
    pub checkpoint_at: Instant,
    /// The meters know what became of all inputs so far.
    pub is_told: bool,
    pub told_at: Instant,
    /// By lane: what the last checkpoint says is confirmed above the watermark.
    pub above: Vec<Vec<Stretch>>,
}

impl Committer {
    /// Works until every shard is gone.
    pub(crate) fn run(mut self) -> Result<(), Fatal> {
        loop {
            match self.held_up() {
                Some(rest) => std::thread::park_timeout(rest),
                None => match self.inbox.recv_timeout(IDLE) {
                    Ok(first) => self.gathered.push_back(first),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return self.end(),
                },
            }
            self.turn()?;
        }
    }

    /// How long to wait before the next turn, where room or brokers hold it up: the shards wait for us, the sources for them.
    pub(super) fn held_up(&self) -> Option<Duration> {
        if !self.gathered.is_empty() || self.is_heavy {
            Some(ROOM_AGAIN)
        } else if self.is_full {
            Some(CONFIRMED_AGAIN)
        } else {
            None
        }
    }

    /// Batches that shards have handed it and that are not gathered yet.
    #[cfg(feature = "simulation")]
    pub(super) fn waiting(&self) -> usize {
        self.inbox.len()
    }

    /// Writes the checkpoint that was begun, where no thread does.
    #[cfg(feature = "simulation")]
    pub(super) fn write_checkpoint(&mut self) {
        self.checkpointer.write_here();
    }

    /// Whether a checkpoint is begun, and no thread writes it.
    #[cfg(feature = "simulation")]
    pub(super) fn has_checkpoint(&self) -> bool {
        self.checkpointer.waits()
    }

    /// Commits what is there, then does what is due.
    pub(super) fn turn(&mut self) -> Result<(), Fatal> {
        #[cfg(feature = "planted")]
        self.catch_up()?;
        // Stopping, the journal has it all.
        self.is_heavy &= !self.shared.is_stopping();
        if self.is_heavy {
            self.checkpoint(false)?;
        } else if !self.is_full {
            while self.gathered.len() < BATCHES_PER_SYNC_MAX
                && let Ok(next) = self.inbox.try_recv()
            {
                self.gathered.push_back(next);
            }
            match self.gathered.is_empty() {
                true => self.write_watermarks()?,
                false => self.commit()?,
            }
            self.tell_meters();
            self.checkpoint(false)?;
        }
        self.hold_back()?;
        self.shared.hold_up.tell(self.held_up().is_some());
        Ok(())
    }

    /// Every shard is gone: writes down what there is to be written.
    pub(super) fn end(&mut self) -> Result<(), Fatal> {
        #[cfg(feature = "planted")]
        self.catch_up()?;
        self.write_watermarks()?;
        self.checkpoint(true)
    }

    /// Commits as many of the gathered batches as there is room for.
    fn commit(&mut self) -> Result<(), Fatal> {
        // The disk may take its time.
        self.shared.hold_up.tell(true);
        let batches = std::mem::take(&mut self.gathered);
        let mut places = Vec::with_capacity(batches.len());
        let mut wanted = None;
        for batch in &batches {
            match self.append(batch) {
                Ok(place) => places.push(place),
                Err(Hindered::NoRoom { bytes }) => {
                    wanted = Some(bytes);
                    break;
                }
                Err(Hindered::Fatal(cause)) => return Err(cause),
            }
        }
        let mut appended = batches;
        self.gathered = appended.split_off(places.len());
        if !appended.is_empty() {
            let appended: Vec<Batch> = appended.into();
            #[cfg(feature = "planted")]
            if planted::is(Bug::SendsBeforeDurable) {
                self.send_early(appended, places);
                return Ok(());
            }
            self.make_durable(appended, places)?;
        }
        match wanted {
            Some(bytes) => self.lacks_room(bytes),
            None => {
                self.shared.health.clear(|it| matches!(it, Concern::DiskFull { .. }));
                Ok(())
            }
        }
    }

    /// Appends a batch's group; returns its place, each lane's first number in it, and what is kept of shared deliveries.
    fn append(&mut self, batch: &Batch) -> Result<Appended, Hindered> {
        let firsts: Vec<LaneSeq> = self.accounts.lanes_next.clone();
        // Each delivery is asked once what it adds up to, however often its group is tried.
        let mut head = self.head.take().unwrap_or_else(|| head_of(&batch.done));
        let is_empty = head.shared_inputs.is_empty() && head.settled.is_empty();
        if batch.encoded.is_empty() && is_empty {
            return Ok((self.written.last, firsts, Vec::new()));
        }
        if let Err(hindered) = self.append_group(&mut head, &batch.encoded, &batch.group) {
            self.head = Some(head);
            return Err(hindered);
        }
        Ok((self.written.last, firsts, head.kept))
    }

    fn append_group(
        &mut self,
        head: &mut GroupHead,
        encoded: &[u8],
        body: &GroupBody,
    ) -> Result<(), Hindered> {
        let confirmed = self.relays.iter().map(RelayHandle::confirmed);
        head.lanes = self.accounts.lanes_next.iter().copied().zip(confirmed).collect();
        if planted::is(Bug::WatermarkTooFar) {
            let too_far = head.lanes.iter_mut().filter(|(next, confirmed)| confirmed < next);
            too_far.for_each(|(_, confirmed)| *confirmed += 1);
        }
        let head_bytes = head.encode();
        let empty;
        let encoded = if encoded.is_empty() {
            empty = EMPTY_BODY;
            &empty[..]
        } else {
            encoded
        };
        let appended = {
            let _asked = self.shared.disk.asks(Writer::Journal);
            self.journal.append(&[&head_bytes, encoded])
        };
        let seq = match appended {
            Ok(seq) => seq,
            Err(JournalError::NoRoom { bytes, .. }) => return Err(Hindered::NoRoom { bytes }),
            Err(error) => return Err(Hindered::Fatal(error.into())),
        };
        self.accounts.fold(head, body);
        self.written.last = seq;
        let bytes = (head_bytes.len() + encoded.len()) as u64;
        self.written.bytes_since += bytes;
        self.written.bytes += bytes;
        if !body.outgoing.is_empty() {
            let firsts = head.lanes.iter().map(|(first, _)| *first);
            let stretches = firsts.zip(self.accounts.lanes_next.iter().copied()).collect();
            self.unconfirmed.push_back((seq, stretches));
        }
        Ok(())
    }

    /// Writes down what has moved without any batch: watermarks.
    fn write_watermarks(&mut self) -> Result<(), Fatal> {
        let confirmed = self.relays.iter().map(RelayHandle::confirmed);
        let moved =
            confirmed.zip(&self.accounts.lanes_confirmed).any(|(now, written)| now > *written);
        if moved {
            match self.append_group(&mut GroupHead::default(), &[], &GroupBody::default()) {
                Ok(()) => {}
                // Nobody waits for it, and it will be written with the next group.
                Err(Hindered::NoRoom { .. }) => return Ok(()),
                Err(Hindered::Fatal(cause)) => return Err(cause),
            }
            let _asked = self.shared.disk.asks(Writer::Journal);
            self.journal.sync()?;
            self.publish_snapshot();
        }
        Ok(())
    }

    /// Does what makes room. Nothing of what waits for it has been promised to anyone.
    fn lacks_room(&mut self, bytes: u64) -> Result<(), Fatal> {
        self.shared.health.raise(Concern::DiskFull { wanted_bytes: bytes });
        self.shared.disk.lacks_room();
        if self.shared.is_stopping() {
            return Err(format!(
                "no room for the journal's next file of {bytes} bytes while stopping: what could not be written comes again after the next start; make room first"
            )
            .into());
        }
        Ok(())
    }

    /// Begins a checkpoint when one is due, and gives up what the last one made needless.
    fn checkpoint(&mut self, now: bool) -> Result<(), Fatal> {
        if let Some(done) = self.checkpointer.finished(now)? {
            self.journal.retire(done)?;
        }
        let (changed, since) = (self.written.bytes_since > 0, self.written.checkpoint_at.elapsed());
        let awaits = self.accounts.tally.in_flight() > 0;
        let due = self.written.bytes_since >= CHECKPOINT_BYTES
            || is_heavy(self.shared.table.top_weight())
            || since >= CHECKPOINT_EVERY && changed
            || since >= CHECKPOINT_IDLE_EVERY && awaits;
        if self.checkpointer.is_busy() || !(due || now) {
            return Ok(());
        }
        let confirmed: Vec<Confirmed> =
            self.relays.iter().map(RelayHandle::all_confirmed).collect();
        let has_moved =
            || confirmed.iter().zip(&self.written.above).any(|(now, before)| now.above != *before);
        if !(due || changed || awaits || has_moved()) {
            return Ok(());
        }
        // A store that runs out of room is of no more use until it is opened again; until then the journal has it all.
        let weight = self.shared.table.top_weight();
        let wanted = checkpoint_room(weight, self.shared.kept.bytes(), self.written.bytes_since);
        if !self.shared.disk.has_room(wanted) {
            if is_heavy(weight) && !now {
                self.is_heavy = true;
                self.shared.health.raise(Concern::DiskFull { wanted_bytes: wanted });
            }
            return Ok(());
        }
        if std::mem::take(&mut self.is_heavy) {
            self.shared.health.clear(|it| matches!(it, Concern::DiskFull { .. }));
        }
        self.written.bytes_since = 0;
        self.written.checkpoint_at = Instant::now();
        let keep_from = self.first_unconfirmed(&confirmed);
        // Groups below are given up: were the watermark older than that, it would wait for ever for messages that are gone.
        for (written, confirmed) in self.accounts.lanes_confirmed.iter_mut().zip(&confirmed) {
            *written = confirmed.below.max(*written);
        }
        self.written.above = confirmed.into_iter().map(|confirmed| confirmed.above).collect();
        self.checkpointer.begin(Checkpoint {
            keep_from,
            layer: self.shared.table.freeze(),
            kept: self.shared.kept.freeze(),
            floor: self
                .shared
                .floors
                .iter()
                .map(|floor| floor.load(Ordering::Acquire))
                .min()
                .map_or(Timestamp(0), Timestamp),
            seq: match planted::is(Bug::MarkTooFar) {
                true => self.written.last.next(),
                false => self.written.last,
            },
            above: self.written.above.clone(),
            accounts: self.accounts.clone(),
            batches: self
                .shared
                .durable_batch
                .iter()
                .map(|batch| batch.load(Ordering::Acquire))
                .collect(),
        });
        if now && let Some(done) = self.checkpointer.finished(true)? {
            self.journal.retire(done)?;
        }
        Ok(())
    }

    /// The first group that still holds a message no broker has confirmed, or the next one to come.
    fn first_unconfirmed(&mut self, confirmed: &[Confirmed]) -> GroupSeq {
        self.unconfirmed.retain(|(_, stretches)| {
            !stretches.iter().zip(confirmed).all(|(stretch, confirmed)| confirmed.covers(*stretch))
        });
        if planted::is(Bug::UnconfirmedNotKept) {
            return self.written.last.next();
        }
        self.unconfirmed.front().map_or(self.written.last.next(), |(seq, _)| *seq)
    }

    /// Looks whether the brokers or the store have enough to do.
    fn hold_back(&mut self) -> Result<(), Fatal> {
        let was_full = self.is_full;
        self.hand_over_backlog();
        let waiting: usize = self.relays.iter().map(RelayHandle::waiting).sum();
        let has_backlog = self.backlog.iter().any(|backlog| !backlog.is_empty());
        self.is_full = !self.shared.is_stopping() && (waiting > OUTBOX_MAX || has_backlog);
        match (was_full, self.is_full) {
            (false, true) => {
                tracing::warn!(
                    bound = OUTBOX_MAX,
                    "The outbox is full; nothing more is taken in until brokers confirm."
                );
                self.shared.health.raise(Concern::OutboxFull { messages: OUTBOX_MAX });
            }
            (true, false) => {
                self.shared.health.clear(|it| matches!(it, Concern::OutboxFull { .. }));
            }
            _ => {}
        }
        if is_heavy(self.shared.table.top_weight()) && self.checkpointer.is_busy() {
            self.shared.hold_up.tell(true);
            if let Some(done) = self.checkpointer.finished(true)? {
                self.journal.retire(done)?;
            }
        }
        Ok(())
    }
}

/// Whether so much waits for a checkpoint that nothing more is taken in before it.
fn is_heavy(top: Weight) -> bool {
    top.instances > UNCHECKPOINTED_MAX || top.bytes > UNCHECKPOINTED_BYTES_MAX
}

/// The room that a checkpoint wants: twice what it writes, which is no more than what the journal took in since the last one.
fn checkpoint_room(top: Weight, kept_bytes: usize, journal_bytes: u64) -> u64 {
    2 * journal_bytes.min((top.bytes + kept_bytes) as u64) + CHECKPOINT_ROOM_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{
        HEADROOM_BYTES,
        kept::{PARKED_BYTES_MAX, QUARANTINED_BYTES_MAX},
    };

    #[test]
    fn a_checkpoint_wants_room_for_what_it_writes_and_not_for_what_was_written_over() {
        let top = Weight { instances: 10, bytes: 10_000 };
        assert_eq!(checkpoint_room(top, 0, 1 << 40), CHECKPOINT_ROOM_BYTES + 20_000);
        assert_eq!(checkpoint_room(top, 5_000, 1 << 40), CHECKPOINT_ROOM_BYTES + 30_000);
        assert_eq!(checkpoint_room(top, 5_000, 1), CHECKPOINT_ROOM_BYTES + 2);
    }

    #[test]
    fn the_largest_checkpoint_fits_what_is_held_back_for_it() {
        let top = Weight { instances: UNCHECKPOINTED_MAX, bytes: UNCHECKPOINTED_BYTES_MAX };
        assert!(!is_heavy(top) && is_heavy(Weight { bytes: top.bytes + 1, ..top }));
        let kept = PARKED_BYTES_MAX + QUARANTINED_BYTES_MAX;
        let held_back = HEADROOM_BYTES + HEADROOM_BYTES / 2;
        assert!(checkpoint_room(top, kept, u64::MAX / 2) <= held_back);
    }
}
