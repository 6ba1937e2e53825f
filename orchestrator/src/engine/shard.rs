//! A shard: the one owner of the instances whose ids fall to it. Pure work on one thread.
//!
//! Takes what is there, never waits to fill; applies it to its instances; hands the committer one batch with everything
//! that has to become durable together. While the committer waits for the disk, it goes on with the next batch on top
//! of the state it has in memory: nothing of that leaves the process before it is durable.

mod finding;
mod holding;
mod inputs;
mod mail;
mod shelf;
mod timers;

use super::{
    Shared,
    attention::Attention,
    batch::Batch,
    job::{DeliveryDone, Job},
    kept::Shelf,
    schedule::Schedule,
};
use dirigent_model::{
    definition::Plan,
    instance::{Instance, InstanceId},
    time::Timestamp,
};
use finding::Found;
use mail::First;
use rustc_hash::FxHashMap;
use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// Inputs in one batch. Large enough that one sync serves many, small enough that the first of them does not wait long.
const BATCH_INPUTS_MAX: usize = 1_024;

/// Instances a shard keeps in memory; idle ones beyond it go, to be read again when they are needed.
const INSTANCES_IN_MEMORY_MAX: usize = 50_000;

/// Bytes of an instance's stored form. A message that would make it larger is quarantined with this reason: far below what
/// the store takes as one value, so that no checkpoint ever meets one that it can't write.
pub const INSTANCE_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of the bodies that one input makes a saga send. Beside a full batch they fit into one record of the journal.
pub const DECISION_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Due instances taken in one turn, so that a storm of timers does not starve messages.
const DUE_PER_TURN_MAX: usize = 256;

/// How long an instance whose handler panicked on a timer is left alone.
const PANICKED_TIMER_REST: Duration = Duration::from_secs(60);

/// How long an idle shard sleeps at the most, so that a stop is seen.
const IDLE_MAX: Duration = Duration::from_millis(500);

pub(super) use mail::Mail;

/// What a shard is sent.
pub(crate) enum ToShard {
    /// Jobs, in order.
    Jobs(Vec<Job>),
    /// All batches up to this number are in the store: timers far away can be forgotten.
    Checkpointed(u64),
    /// Finish what was begun and end.
    Stop,
}

/// An instance in memory.
pub(super) struct Live {
    pub instance: Instance,
    pub plan: Arc<Plan>,
    /// The last batch that changed it.
    pub batch: u64,
    pub due: Option<Timestamp>,
    /// Its stored form, when it was last written.
    pub bytes: usize,
}

/// The owner of some instances.
pub(crate) struct Shard {
    pub(super) index: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) mail: Mail,
    pub(super) to_committer: crossbeam_channel::Sender<Batch>,
    pub(super) live: FxHashMap<InstanceId, Live>,
    pub(super) schedule: Schedule,
    /// What is kept for its instances.
    pub(super) shelves: FxHashMap<InstanceId, Shelf>,
    /// When messages that wait for their instance have waited long enough.
    pub(super) expiries: BTreeSet<(Timestamp, u64, InstanceId)>,
    /// Of those, from when to when they wait in the end, where the start of their saga could not have been heard all the time. Not
    /// stored: the gaps are, and tell the next process the same.
    pub(super) prolonged: FxHashMap<u64, (Timestamp, Timestamp)>,
    /// Kept messages whose delivery concerns other instances too, until that is durable.
    pub(super) shared_kept: FxHashMap<u64, Arc<DeliveryDone>>,
    pub(super) batch: Batch,
    pub(super) next_batch: u64,
    /// Instances that were forgotten, with the batch that says so: until it is durable the table has them still, and for us they
    /// are nowhere.
    pub(super) gone: FxHashMap<InstanceId, u64>,
    /// Instances that have ended, with the batch that says so: they leave the memory once it is durable.
    pub(super) ended: VecDeque<(u64, InstanceId)>,
    /// What became of commands, to be told again at this time: a function of their saga panicked. At most one for each command of
    /// an instance; they lie in the journal, too.
    pub(super) withheld: VecDeque<(Timestamp, Job)>,
    pub(super) attention: Attention,
    /// Lets the committer get on, for a moment.
    pub(super) wait: Box<dyn Fn() + Send>,
}

/// Something that no instance can mend: the process has to end.
pub(crate) type Fatal = Box<dyn std::error::Error + Send + Sync>;

impl Shard {
    /// Works until told to stop.
    pub(crate) fn run(mut self) -> Result<(), Fatal> {
        loop {
            let patience = self.patience(IDLE_MAX);
            let first = self.mail.first(patience);
            if matches!(first, First::Ended) {
                return Ok(());
            }
            let stop = self.take_turn(first)?;
            if !self.hand_over() || stop {
                return Ok(());
            }
            self.evict();
        }
    }

    /// Takes one turn with what is there, for whoever takes all turns of an engine on one thread. Says whether to go on.
    #[cfg(feature = "simulation")]
    pub(super) fn step(&mut self) -> Result<bool, Fatal> {
        let stop = self.take_turn(First::Nothing)?;
        if !self.hand_over() || stop {
            return Ok(false);
        }
        self.evict();
        Ok(true)
    }

    /// Whether somebody has sent it something.
    #[cfg(feature = "simulation")]
    pub(super) fn has_mail(&self) -> bool {
        self.mail.is_there()
    }

    /// Batches of jobs in its inbox.
    #[cfg(feature = "simulation")]
    pub(super) fn waiting(&self) -> usize {
        self.mail.waiting()
    }

    /// How long to wait for jobs: until something is due, and no longer than this.
    pub(super) fn patience(&self, at_most: Duration) -> Duration {
        let expiry = self.expiries.first().map(|(until, ..)| *until);
        let withheld = self.withheld.front().map(|(at, _)| *at);
        let next = self.schedule.next_due().into_iter().chain(expiry).chain(withheld).min();
        let due = next.map(|due| due.since(self.shared.clock.now()));
        due.map_or(at_most, |due| self.attention.patience(due).min(at_most))
    }

    /// Takes what is there, up to a batch. Says whether to stop.
    fn take_turn(&mut self, first: First) -> Result<bool, Fatal> {
        self.tell_time();
        // What becomes due while the committer makes this turn wait is not of this turn: replies may lie before it.
        let began = self.batch.now;
        let timers_fire = self.attention.turn(Instant::now(), self.shared.disk.is_low());
        let (told, mut back) = match first {
            First::Told(message) => (Some(message), None),
            First::Back(job) => (None, Some(job)),
            First::Nothing | First::Ended => (None, None),
        };
        let mut taken = 0;
        while let Some(job) = back.take().or_else(|| self.mail.next_back(taken)) {
            taken += 1;
            self.work(job)?;
            if self.batch.is_full() && !self.begin_batch() {
                return Ok(true);
            }
        }
        let mut next = told.or_else(|| self.mail.next_told());
        while let Some(message) = next {
            match message {
                ToShard::Jobs(jobs) => {
                    for job in jobs {
                        self.work(job)?;
                        if self.batch.is_full() && !self.begin_batch() {
                            return Ok(true);
                        }
                    }
                }
                ToShard::Checkpointed(batch) => self.schedule.checkpointed(batch),
                ToShard::Stop => return Ok(true),
            }
            if self.batch.inputs() >= BATCH_INPUTS_MAX {
                break;
            }
            next = self.mail.next_told();
        }
        // Before anything is due: what never left is not to be taken for lost.
        self.tell_withheld()?;
        self.schedule.look_ahead(self.batch.now, self.index, &self.shared)?;
        let due_max = if timers_fire { DUE_PER_TURN_MAX } else { 0 };
        for _ in 0..due_max {
            if !self.expire_one(began)? {
                break;
            }
            if self.batch.is_full() && !self.begin_batch() {
                return Ok(true);
            }
        }
        for _ in 0..due_max {
            let due = self.schedule.next_due();
            let Some(id) = self.schedule.take_due(began) else { break };
            if let Some(due) = due {
                self.shared.meters.timer_fired(self.batch.now.since(due));
            }
            self.wake(id)?;
            if self.batch.is_full() && !self.begin_batch() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Hands the batch over within a turn, and begins the next one. Says whether there is still a committer.
    fn begin_batch(&mut self) -> bool {
        let goes_on = self.hand_over();
        self.tell_time();
        goes_on
    }

    /// A batch is of the time at which it begins: the one before it may have waited for long.
    fn tell_time(&mut self) {
        self.batch.now = self.shared.clock.now();
        self.batch.now_text = self.batch.now.to_string();
    }

    /// An earlier batch of this shard is on its way to the disk; the committer does not depend on this shard to get there.
    fn await_durable(&mut self, batch: u64) {
        let waiting = Instant::now();
        while self.shared.durable_batch[self.index].load(Ordering::Acquire) < batch
            // Stopping is no reason: a state from before that batch would be taken for the last one.
            && !self.shared.has_failed()
        {
            (self.wait)();
        }
        self.attention.waited(waiting.elapsed());
    }

    /// Gives the batch to the committer, waiting while it has enough. Says whether there is still a committer.
    fn hand_over(&mut self) -> bool {
        if self.batch.is_empty() {
            return true;
        }
        let number = self.next_batch;
        self.next_batch += 1;
        let mut batch = std::mem::take(&mut self.batch);
        batch.shard = self.index;
        batch.number = number;
        for (id, touched) in &mut batch.touched {
            if let Some(live) = self.live.get_mut(id).filter(|_| !touched.gone) {
                live.bytes = touched.capture(&live.instance, live.due, live.bytes);
            }
        }
        batch.floor = self.schedule.floor();
        batch.seal(self.shared.buffers.take());
        self.batch = Batch::after(&mut batch);
        let handing_over = Instant::now();
        let is_taken = self.to_committer.send(batch).is_ok();
        self.attention.waited(handing_over.elapsed());
        is_taken
    }

    /// Lets instances go that are durable already: those that have ended, and idle ones when there are many.
    fn evict(&mut self) {
        let durable = self.shared.durable_batch[self.index].load(Ordering::Acquire);
        self.gone.retain(|_, batch| *batch > durable);
        while let Some((_, id)) = self.ended.front().copied().filter(|(batch, _)| *batch <= durable)
        {
            self.ended.pop_front();
            if self.live.get(&id).is_some_and(|live| live.batch <= durable) {
                self.live.remove(&id);
            }
        }
        if self.live.len() <= INSTANCES_IN_MEMORY_MAX {
            return;
        }
        let spare = self.live.len() - INSTANCES_IN_MEMORY_MAX / 2;
        let old: Vec<InstanceId> = {
            let settled = self.live.iter().filter(|(_, live)| live.batch <= durable);
            settled.map(|(id, _)| *id).take(spare).collect()
        };
        old.iter().for_each(|id| drop(self.live.remove(id)));
    }
}
