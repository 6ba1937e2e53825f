//! One turn of a shard: what has to become durable together, and what may happen once it is.

use super::{
    accounts::Count,
    group::{GroupBody, InputDone, InstanceChange, Outgoing, TallyChange},
    job::{Confirm, DeliveryDone, DeliveryJob, Origin},
    kept::{Kept, KeptChange},
    table::Resting,
    withdrawal::Withdrawn,
};
use crate::{
    planted::{self, Bug},
    telemetry::Fact,
};
use crossbeam_channel::Sender;
use dirigent_model::{
    instance::{Instance, InstanceId},
    time::Timestamp,
};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// Bytes of one batch, roughly. Far below what the journal takes as one record, which a thousand large inputs would exceed:
/// that would end the process, and the same inputs would come again.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes that an instance's stored form grows by in one turn, as a rule.
const STATE_GROWTH_BYTES: usize = 192;

/// An instance that the batch changes. Its state is captured once, when the batch is handed over.
#[derive(Default)]
pub(super) struct Touched {
    pub lines: Vec<Vec<u8>>,
    pub tally: TallyChange,
    pub gone: bool,
    /// The stored form as the last decision left it.
    pub state: Vec<u8>,
    captured: Option<Resting>,
}

impl Touched {
    /// Takes the instance as it is at the end of the batch; `bytes_before` is what its stored form took the last time.
    pub(super) fn capture(
        &mut self,
        instance: &Instance,
        due: Option<Timestamp>,
        bytes_before: usize,
    ) -> usize {
        let mut state = std::mem::take(&mut self.state);
        if state.is_empty() {
            state = stored_form(instance, bytes_before);
        }
        let bytes = state.len();
        let core = &instance.core;
        // The first run of a key begins only where nothing is kept for it.
        let new = self.tally.started && core.run == 0;
        let (ended, history) = (core.status.is_end(), instance.history.clone());
        self.captured = Some(Resting { state, history, due, seq: 0, ended, new });
        bytes
    }
}

/// The stored form of an instance; `bytes_before` is what it took the last time.
pub(super) fn stored_form(instance: &Instance, bytes_before: usize) -> Vec<u8> {
    let mut state = Vec::with_capacity(bytes_before + STATE_GROWTH_BYTES);
    instance.encode(&mut state);
    state
}

/// An operator's answer, to be given once it is durable.
pub(crate) type Answer = Box<dyn FnOnce() + Send>;

/// One turn of a shard.
#[derive(Default)]
pub(crate) struct Batch {
    pub(super) now: Timestamp,
    /// The same as RFC 3339, written once for all messages of the batch.
    pub(super) now_text: String,
    pub(crate) shard: usize,
    /// Consecutive per shard, from 1.
    pub(crate) number: u64,
    pub(super) touched: FxHashMap<InstanceId, Touched>,
    pub(super) outgoing: Vec<Outgoing>,
    /// Roughly what its group will take: instances as they are, messages that came in, and those that go out.
    pub(super) bytes: usize,
    pub(super) inputs: Vec<InputDone>,
    pub(super) kept: Vec<KeptChange>,
    /// Deliveries to be settled.
    pub(crate) done: Vec<Arc<DeliveryDone>>,
    /// Messages that count as confirmed: they could not be sent, and their instances know.
    pub(crate) confirms: Vec<Confirm>,
    /// Commands that must not leave any more once this is durable.
    pub(super) withdrawn: Vec<Withdrawn>,
    pub(crate) answers: Vec<Answer>,
    pub(crate) facts: Vec<Fact>,
    /// The group, and its encoded form.
    pub(crate) group: GroupBody,
    pub(crate) encoded: Vec<u8>,
    rest: Vec<Option<Resting>>,
    /// Everything due before is gone through, in this batch at the latest.
    pub(crate) floor: Timestamp,
}

impl Batch {
    /// The next one after a batch that is sealed, with room for as much.
    pub(super) fn after(sealed: &mut Self) -> Self {
        Self {
            touched: std::mem::take(&mut sealed.touched),
            outgoing: Vec::with_capacity(sealed.group.outgoing.len()),
            inputs: Vec::with_capacity(sealed.group.inputs.len()),
            done: Vec::with_capacity(sealed.done.len()),
            ..Self::default()
        }
    }

    /// How much is in it, against the bound.
    pub(super) fn inputs(&self) -> usize {
        self.done.len().max(self.touched.len()).max(self.kept.len())
    }

    /// Whether the next input belongs in the next batch.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.touched.is_empty()
            && self.outgoing.is_empty()
            && self.kept.is_empty()
            && self.done.is_empty()
            && self.confirms.is_empty()
            && self.answers.is_empty()
    }

    pub(super) fn has_touched(&self, id: InstanceId) -> bool {
        self.touched.contains_key(&id)
    }

    pub(super) fn touch(&mut self, id: InstanceId) -> &mut Touched {
        self.touched.entry(id).or_default()
    }

    /// An input is decided about.
    pub(super) fn settle(&mut self, origin: Origin, count: Count) {
        match origin {
            Origin::Inside => {}
            Origin::Delivery(DeliveryJob { done, .. }) => {
                self.inputs.extend(done.decided(count));
                self.done.push(done);
            }
            Origin::Shelf(kept) => {
                let moved = kept.moved(count).filter(|_| !planted::is(Bug::ParkedNotMoved));
                self.kept.push(KeptChange::Gone { number: kept.number, became: count, moved });
            }
        }
    }

    /// A delivery was counted before a restart: only the broker has to be told.
    pub(super) fn settle_only(&mut self, delivery: Option<DeliveryJob>) {
        self.done.extend(delivery.map(|delivery| delivery.done));
    }

    /// A delivery is kept.
    pub(super) fn keep(&mut self, delivery: DeliveryJob, kept: &Arc<Kept>) {
        let DeliveryJob { done, .. } = delivery;
        if done.is_shared() {
            done.keep(Arc::clone(kept));
        } else {
            self.inputs.extend(done.decided(kept.standing.count()));
            self.kept.push(KeptChange::Put(Arc::clone(kept)));
        }
        self.done.push(done);
    }

    /// An operator is told once it is durable. Whoever asked may have gone.
    pub(super) fn answer<T: Send + 'static>(&mut self, to: Sender<T>, outcome: T) {
        self.answers.push(Box::new(move || to.send(outcome).unwrap_or_default()));
    }

    /// Writes the group into a buffer.
    pub(super) fn seal(&mut self, buffer: Vec<u8>) {
        self.rest.reserve(self.touched.len());
        let mut changes = Vec::with_capacity(self.touched.len());
        for (id, touched) in self.touched.drain() {
            let mut resting = touched.captured.filter(|_| !touched.gone);
            let state = resting.as_mut().map(|resting| std::mem::take(&mut resting.state));
            let due = resting.as_ref().and_then(|resting| resting.due);
            self.rest.push(resting);
            changes.push(InstanceChange {
                id,
                state,
                lines: touched.lines,
                due,
                tally: touched.tally,
            });
        }
        self.group = GroupBody {
            changes,
            outgoing: std::mem::take(&mut self.outgoing),
            inputs: std::mem::take(&mut self.inputs),
            kept: std::mem::take(&mut self.kept),
        };
        self.encoded = buffer;
        if !self.group.is_empty() {
            self.group.encode(&mut self.encoded);
        }
    }

    /// The instances as they now rest.
    pub(super) fn take_resting(
        &mut self,
        seq: u64,
    ) -> impl Iterator<Item = (InstanceId, Option<Resting>)> + use<> {
        let changes = std::mem::take(&mut self.group.changes);
        let rest = std::mem::take(&mut self.rest);
        changes.into_iter().zip(rest).map(move |(change, resting)| {
            let state = change.state.unwrap_or_default();
            (change.id, resting.map(|resting| Resting { state, seq, ..resting }))
        })
    }
}
