//! What is told of batches once they are durable, and in which order: the other half of a commit.
//!
//! ```text
//! one sync ─► states become visible ─► snapshot ─► messages to the relay ─► settle inputs ─► answers ─► facts ─► confirms
//! ```
//!
//! What goes in: batches whose groups are appended. What comes out: all their effects. What must be true: nothing of a batch has been seen
//! outside before the sync.

use super::{Appended, Committer, OUTBOX_MAX, TELL_EVERY};
use crate::{
    engine::{batch::Batch, group::LaneSeq, headroom::Writer, shard::Fatal},
    planted::{self, Bug},
};
use dirigent_connectors::{Receipt, Settle, Settler};
use std::sync::{Arc, PoisonError, atomic::Ordering};
use tokio::time::Instant;

impl Committer {
    pub(super) fn make_durable(
        &mut self,
        mut batches: Vec<Batch>,
        places: Vec<Appended>,
    ) -> Result<(), Fatal> {
        if planted::is(Bug::SettlesBeforeDurable) {
            self.settle(&batches);
        }
        {
            let _asked = self.shared.disk.asks(Writer::Journal);
            let began = Instant::now();
            self.journal.sync()?;
            let inputs = batches.iter().map(Batch::inputs).sum();
            self.shared.meters.synced(began.elapsed(), inputs);
        }
        self.written.syncs += 1;
        self.written.is_told = false;
        // Everything of these batches is durable now; nothing of them has been seen outside yet. What is asked for comes first:
        // whoever gets a message of theirs, and then asks, is to see what it came from.
        let mut firsts = Vec::with_capacity(places.len());
        for (batch, (seq, first, kept)) in batches.iter_mut().zip(places) {
            self.shared.kept.apply(&kept);
            self.shared.table.put(batch.take_resting(seq.0));
            self.shared.kept.apply(&batch.group.kept);
            firsts.push(first);
        }
        self.publish_snapshot();
        for (batch, first) in batches.iter_mut().zip(firsts) {
            self.send(batch, first);
            self.shared.durable_batch[batch.shard].store(batch.number, Ordering::Release);
            self.shared.floors[batch.shard].store(batch.floor.0, Ordering::Release);
            self.shared.buffers.give_back(std::mem::take(&mut batch.encoded));
        }
        if !planted::is(Bug::SettlesBeforeDurable) {
            self.settle(&batches);
        }
        for batch in batches {
            batch.answers.into_iter().for_each(|answer| answer());
            if !batch.facts.is_empty() {
                self.shared.observer.observe(batch.facts);
            }
            for confirm in batch.confirms {
                self.relays[usize::from(confirm.lane)].confirm(&[confirm.seq]);
            }
            self.withdraw(batch.withdrawn);
        }
        Ok(())
    }

    pub(super) fn send(&mut self, batch: &mut Batch, mut next: Vec<LaneSeq>) {
        let outgoing = std::mem::take(&mut batch.group.outgoing);
        let room = if self.relays.len() == 1 { outgoing.len() } else { 0 };
        let mut lanes: Vec<Vec<_>> = self.relays.iter().map(|_| Vec::with_capacity(room)).collect();
        for outgoing in outgoing {
            let lane = usize::from(outgoing.lane);
            lanes[lane].push((next[lane], outgoing));
            next[lane] += 1;
        }
        if planted::is(Bug::CommandsReversed) {
            lanes.iter_mut().for_each(|messages| messages.reverse());
        }
        for ((relay, backlog), messages) in self.relays.iter().zip(&mut self.backlog).zip(lanes) {
            match (backlog.is_empty(), messages.is_empty()) {
                (_, true) => {}
                (true, false) => relay.send(messages),
                (false, false) => backlog.extend(messages),
            }
        }
    }

    /// Hands the relays what was to leave before the start, as far as each has room for it.
    pub(in crate::engine) fn hand_over_backlog(&mut self) {
        let share = OUTBOX_MAX / self.relays.len().max(1);
        for (relay, backlog) in self.relays.iter().zip(&mut self.backlog) {
            let room = share.saturating_sub(relay.waiting()).min(backlog.len());
            if room > 0 {
                relay.send(backlog.drain(..room).collect());
            }
        }
    }

    fn settle(&mut self, batches: &[Batch]) {
        let mut settler: Option<&Arc<dyn Settler>> = None;
        let deliveries = batches.iter().map(|batch| batch.done.len()).sum();
        let mut settlements: Vec<(Receipt, Settle)> = Vec::with_capacity(deliveries);
        for done in batches.iter().flat_map(|batch| &batch.done) {
            if !done.committed() {
                continue;
            }
            if !settler.is_some_and(|settler| Arc::ptr_eq(settler, &done.settler)) {
                if let Some(settler) = settler {
                    settler.settle(&settlements);
                }
                settlements.clear();
                settler = Some(&done.settler);
            }
            settlements.push(done.settlement());
        }
        if let Some(settler) = settler {
            settler.settle(&settlements);
        }
    }

    pub(in crate::engine) fn publish_snapshot(&self) {
        let mut snapshot = self.shared.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        snapshot.update(&self.accounts, self.journal.bytes_live());
        snapshot.journal_bytes_written = self.written.bytes;
        snapshot.syncs = self.written.syncs;
        for (lane, relay) in self.relays.iter().enumerate() {
            snapshot.confirmed[lane] = relay.confirmed().saturating_sub(1);
        }
    }

    /// Tells what became of the inputs of each channel, if somebody wants to know: now and then, as it is a copy of all of them.
    pub(super) fn tell_meters(&mut self) {
        if self.written.is_told
            || !self.shared.meters.is_on()
            || self.written.told_at.elapsed() < TELL_EVERY
        {
            return;
        }
        (self.written.is_told, self.written.told_at) = (true, Instant::now());
        self.shared.meters.consumed(self.accounts.counted_by_channel());
    }
    /// Lets messages leave before their group is durable.
    #[cfg(feature = "planted")]
    pub(super) fn send_early(&mut self, mut batches: Vec<Batch>, places: Vec<Appended>) {
        for (batch, (_, first, _)) in batches.iter_mut().zip(&places) {
            self.send(batch, first.clone());
        }
        self.sent_early = Some((batches, places));
    }

    /// Makes durable what has left before it was.
    #[cfg(feature = "planted")]
    pub(super) fn catch_up(&mut self) -> Result<(), Fatal> {
        match self.sent_early.take() {
            Some((batches, places)) => self.make_durable(batches, places),
            None => Ok(()),
        }
    }
}
