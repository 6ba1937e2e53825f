//! A shard: the one owner of the instances whose ids fall to it. Pure work on one thread.
//!
//! Takes what is there, never waits to fill; applies it to its instances; hands the committer one batch with everything
//! that has to become durable together. While the committer waits for the disk, it goes on with the next batch on top
//! of the state it has in memory: nothing of that leaves the process before it is durable.

use super::{
    Shared,
    accounts::Count,
    aftermath::{Before, count_of, note_tally, panic_letter, unreadable_letter},
    batch::Batch,
    group::{Outgoing, Sender},
    job::{DeliveryJob, Job, What},
    schedule::Schedule,
    table::Resting,
};
use crate::{
    envelope::{DeadLetter, dead_letter},
    store::StoreError,
    telemetry::Fact,
};
use crossbeam_channel::{Receiver, select};
use dirigent_model::{
    decision::{Decision, Effect, Input, Reply},
    definition::{Plan, Repeat},
    history::{Verdict, Why},
    instance::{Instance, InstanceId},
    time::Timestamp,
    transition::{self, Start},
};
use rustc_hash::FxHashMap;
use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// Inputs in one batch. Large enough that one sync serves many, small enough that the first of them does not wait long.
const BATCH_INPUTS_MAX: usize = 1_024;

/// Instances a shard keeps in memory; idle ones beyond it go, to be read again when they are needed.
const INSTANCES_IN_MEMORY_MAX: usize = 50_000;

/// Bytes of an instance's stored form. A saga that collects more is set aside with this reason.
pub const INSTANCE_BYTES_MAX: usize = 1024 * 1024;

/// Due instances taken in one turn, so that a storm of timers does not starve messages.
const DUE_PER_TURN_MAX: usize = 256;

/// How long an instance whose handler panicked on a timer is left alone.
const PANICKED_TIMER_REST: Duration = Duration::from_secs(60);

/// How long an idle shard sleeps at the most, so that a stop is seen.
const IDLE_MAX: Duration = Duration::from_millis(500);

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
    pub(super) inbox: Receiver<ToShard>,
    /// Commands that could not be sent. Bounded by the outbox: each is one of its messages.
    pub(super) unsent: Receiver<Job>,
    pub(super) to_committer: crossbeam_channel::Sender<Batch>,
    pub(super) live: FxHashMap<InstanceId, Live>,
    pub(super) schedule: Schedule,
    pub(super) batch: Batch,
    pub(super) next_batch: u64,
    /// Instances that have ended, with the batch that says so: they leave the memory once it is durable.
    pub(super) ended: VecDeque<(u64, InstanceId)>,
}

/// Something that no instance can mend: the process has to end.
pub(crate) type Fatal = Box<dyn std::error::Error + Send + Sync>;

impl Shard {
    /// Works until told to stop.
    pub(crate) fn run(mut self) -> Result<(), Fatal> {
        loop {
            let first = select! {
                recv(self.inbox) -> message => match message {
                    Ok(message) => Some(message),
                    Err(_) => return Ok(()),
                },
                // While it runs, an engine always has somebody who may bring such a job.
                recv(self.unsent) -> job => job.ok().map(|job| ToShard::Jobs(vec![job])),
                default(self.patience()) => None,
            };
            let stop = self.take_turn(first)?;
            if !self.hand_over() || stop {
                return Ok(());
            }
            self.evict();
        }
    }

    /// How long to wait for jobs: until something is due.
    fn patience(&self) -> Duration {
        self.schedule
            .next_due()
            .map_or(IDLE_MAX, |due| due.since(self.shared.clock.now()).min(IDLE_MAX))
    }

    /// Takes what is there, up to a batch. Says whether to stop.
    fn take_turn(&mut self, first: Option<ToShard>) -> Result<bool, Fatal> {
        self.batch.now = self.shared.clock.now();
        self.batch.now_text = self.batch.now.to_string();
        let mut next = first;
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
            next = self.inbox.try_recv().ok();
        }
        while self.batch.inputs() < BATCH_INPUTS_MAX
            && let Ok(job) = self.unsent.try_recv()
        {
            self.work(job)?;
            if self.batch.is_full() && !self.begin_batch() {
                return Ok(true);
            }
        }
        self.schedule.look_ahead(self.batch.now, self.index, &self.shared)?;
        for _ in 0..DUE_PER_TURN_MAX {
            let Some(id) = self.schedule.take_due(self.batch.now) else { break };
            self.wake(id)?;
            if self.batch.is_full() && !self.begin_batch() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Hands the batch over within a turn, and begins the next one. Says whether there is still a committer.
    fn begin_batch(&mut self) -> bool {
        let (now, now_text) = (self.batch.now, std::mem::take(&mut self.batch.now_text));
        let goes_on = self.hand_over();
        (self.batch.now, self.batch.now_text) = (now, now_text);
        goes_on
    }

    /// Does one job. Only what makes further work senseless is an error.
    fn work(&mut self, job: Job) -> Result<(), Fatal> {
        let Job { instance: id, what, cause, delivery } = job;
        self.batch.bytes += delivery.as_ref().map_or(0, |delivery| delivery.message.body.len());
        match what {
            What::SettleOnly => self.batch.settle(delivery, None),
            What::SetAside(dead) => self.set_aside(delivery, &dead),
            What::Start { plan, key, body, trace } => {
                let known = self.find(id)?;
                let start = Start { key, run: 0, body: &body, cause, trace };
                self.start(id, &plan, start, known, delivery)?;
            }
            What::Event { name, body } => {
                let event = Input::Event { name: name.clone(), body };
                if self.find(id)?.is_found() {
                    self.apply(id, event, cause, delivery)?;
                } else {
                    if delivery.as_ref().is_some_and(|delivery| delivery.done.is_shared()) {
                        // It concerns another saga too, which says what became of it.
                        self.batch.settle(delivery, Some(Count::Ignored));
                        return Ok(());
                    }
                    let text = format!("no instance waits for `{name}` with this business key");
                    self.set_aside(delivery, &DeadLetter { reason: "no-instance", text });
                }
            }
            What::Reply { head, name, body } => {
                if !self.find(id)?.is_found() {
                    tracing::debug!(instance = %id, step = head.step, "A reply names no instance that is kept.");
                    self.batch.settle(delivery, Some(Count::Ignored));
                    return Ok(());
                }
                let node = self.live.get(&id).and_then(|live| live.plan.graph().find(&head.step));
                let Some(node) = node else {
                    let text = format!("the saga has no step `{}`", head.step);
                    self.set_aside(delivery, &DeadLetter { reason: "unknown-step", text });
                    return Ok(());
                };
                let reply =
                    Reply { node, leg: head.leg, key: head.key, attempt: head.attempt, name, body };
                self.apply(id, Input::Reply(reply), cause, delivery)?;
            }
            What::Unsent { node, leg, attempt, text, confirm } => {
                if self.find(id)?.is_found() {
                    tracing::warn!(instance = %id, text, "A command could not be sent.");
                    self.apply(id, Input::Unsent { node, leg, attempt, text }, cause, delivery)?;
                }
                self.batch.confirms.push(confirm);
            }
            What::Operator { action, by, why, answer } => {
                let outcome = if self.find(id)?.is_found() {
                    let plan = self.live.get(&id).map(|live| Arc::clone(&live.plan));
                    plan.map(|plan| action.resolve(&plan)).transpose()
                } else {
                    Ok(None)
                };
                match outcome {
                    Ok(Some(action)) => {
                        let verdict =
                            self.apply(id, Input::Operator { action, by, why }, cause, delivery)?;
                        self.batch
                            .answers
                            .push((answer, Ok(verdict.unwrap_or(Verdict::Ignored(Why::HasEnded)))));
                    }
                    Ok(None) => {
                        let missing = super::job::OperatorError::NoInstance { instance: id };
                        self.batch.answers.push((answer, Err(missing)));
                    }
                    Err(error) => self.batch.answers.push((answer, Err(error))),
                }
            }
        }
        Ok(())
    }

    /// Brings an instance into memory.
    fn find(&mut self, id: InstanceId) -> Result<Found, Fatal> {
        if self.live.contains_key(&id) {
            return Ok(Found::Here);
        }
        let resting = match self.shared.table.get(id) {
            Ok(Some(resting)) => resting,
            Ok(None) => return Ok(Found::Nowhere),
            Err(error @ StoreError::Corrupt { .. }) => {
                return Ok(Found::Unusable(error.to_string()));
            }
            Err(error) => return Err(error.into()),
        };
        Ok(match self.revive(resting) {
            Ok(live) => {
                self.live.insert(id, live);
                Found::Here
            }
            Err(text) => Found::Unusable(text),
        })
    }

    fn revive(&self, resting: Resting) -> Result<Live, String> {
        let Resting { state, history, due, .. } = resting;
        let (core, _) = Instance::peek(&state).map_err(|error| error.to_string())?;
        let plan = self.shared.registry.plan(&core.definition, core.version);
        let plan = plan.ok_or_else(|| {
            format!("saga `{}` version {} is not here", core.definition, core.version)
        })?;
        let instance =
            Instance::decode(plan, &state, history).map_err(|error| error.to_string())?;
        // Some batch up to the last one made it what it is: it need not be in the store yet.
        let batch = self.next_batch - 1;
        Ok(Live { instance, plan: Arc::clone(plan), batch, due, bytes: state.len() })
    }

    fn start(
        &mut self,
        id: InstanceId,
        plan: &Arc<Plan>,
        mut start: Start<'_>,
        known: Found,
        delivery: Option<DeliveryJob>,
    ) -> Result<(), Fatal> {
        if let Found::Unusable(text) = known {
            self.set_aside(delivery, &DeadLetter { reason: "instance-unusable", text });
            return Ok(());
        }
        if let Some(live) = self.live.get(&id) {
            let core = &live.instance.core;
            match plan.graph().repeat {
                // The event that began the last run begins no other one, however often it is delivered.
                Repeat::RestartWhenFinished
                    if core.status.is_end()
                        && !start.cause.as_ref().is_some_and(|id| core.has_taken(id)) =>
                {
                    start.run = core.run + 1;
                }
                Repeat::Duplicate | Repeat::RestartWhenFinished => {
                    self.batch.settle(delivery, Some(Count::Duplicate));
                    return Ok(());
                }
                Repeat::Reject => {
                    let text = format!(
                        "an instance for the key `{}` is {} already",
                        core.key, core.status
                    );
                    self.set_aside(delivery, &DeadLetter { reason: "already-started", text });
                    return Ok(());
                }
            }
        }
        // What one group says of an instance is of one run.
        if start.run > 0 && self.batch.has_touched(id) && !self.begin_batch() {
            return Ok(());
        }
        let (now, codec) = (self.batch.now, Arc::clone(&self.shared.codec));
        let decided =
            catch_unwind(AssertUnwindSafe(|| transition::start(plan, start, now, &*codec)));
        match decided {
            Ok(Ok(decision)) => {
                let before = Before { started: true, ..Before::default() };
                self.record(id, plan, decision, before, delivery)
            }
            Ok(Err(unreadable)) => {
                self.set_aside(delivery, &unreadable_letter(&unreadable));
                Ok(())
            }
            Err(panic) => {
                self.set_aside(delivery, &panic_letter(&*panic));
                Ok(())
            }
        }
    }

    /// Applies an input to an instance in memory.
    fn apply(
        &mut self,
        id: InstanceId,
        input: Input,
        cause: Option<String>,
        delivery: Option<DeliveryJob>,
    ) -> Result<Option<Verdict>, Fatal> {
        let Some(live) = self.live.remove(&id) else {
            let text = "the stored instance can't be used".to_owned();
            self.set_aside(delivery, &DeadLetter { reason: "instance-unusable", text });
            return Ok(None);
        };
        if live.bytes > INSTANCE_BYTES_MAX && delivery.is_some() {
            let text =
                format!("the instance has {} bytes, the bound is {INSTANCE_BYTES_MAX}", live.bytes);
            self.live.insert(id, live);
            self.set_aside(delivery, &DeadLetter { reason: "instance-too-large", text });
            return Ok(None);
        }
        let Live { instance, plan, batch, due, bytes } = live;
        let before = Before::of(&instance, due);
        // Only a second input within one batch needs a copy: before that, the table has what the handler may spoil.
        let spare = self.batch.has_touched(id).then(|| instance.clone());
        self.batch.bytes += bytes;
        let (now, codec) = (self.batch.now, Arc::clone(&self.shared.codec));
        let decided = catch_unwind(AssertUnwindSafe(|| {
            transition::apply(&plan, instance, input, cause, now, &*codec)
        }));
        match decided {
            Ok(Ok(decision)) => {
                let verdict = decision.verdict;
                self.record(id, &plan, decision, before, delivery)?;
                Ok(Some(verdict))
            }
            Ok(Err((instance, unreadable))) => {
                self.live.insert(id, Live { instance: *instance, plan, batch, due, bytes });
                self.set_aside(delivery, &unreadable_letter(&unreadable));
                Ok(None)
            }
            Err(panic) => {
                let letter = panic_letter(&*panic);
                tracing::error!(instance = %id, text = letter.text, "A saga's own function panicked; its message is set aside.");
                if let Some(instance) = spare {
                    self.live.insert(id, Live { instance, plan, batch, due, bytes });
                } else {
                    self.await_durable(batch);
                    self.find(id)?;
                }
                if delivery.is_none() {
                    self.schedule.put_off(id, now + PANICKED_TIMER_REST);
                }
                self.set_aside(delivery, &letter);
                Ok(None)
            }
        }
    }

    /// An earlier batch of this shard is on its way to the disk; the committer does not depend on this shard to get there.
    fn await_durable(&self, batch: u64) {
        while self.shared.durable_batch[self.index].load(Ordering::Acquire) < batch
            // Stopping is no reason: a state from before that batch would be taken for the last one.
            && !self.shared.has_failed()
        {
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    /// Puts a decision into the batch.
    fn record(
        &mut self,
        id: InstanceId,
        plan: &Arc<Plan>,
        decision: Decision,
        before: Before,
        delivery: Option<DeliveryJob>,
    ) -> Result<(), Fatal> {
        let ended_now = decision.has_ended().filter(|_| !before.ended);
        let Decision { instance, verdict, effects, line, incidents_raised } = decision;
        let core = &instance.core;
        let due = self.shared.due_of(core, plan);
        let number = self.next_batch;
        let touched = self.batch.touch(id);
        touched.lines.extend(line.iter().map(|(_, encoded)| encoded.clone()));
        note_tally(touched, &instance, &before, ended_now);
        if incidents_raised > 0 {
            let text = core.incidents.last().map_or("", |incident| incident.text.as_str());
            tracing::error!(instance = %id, saga = core.definition, key = %core.key, text, "A saga is blocked and wants a person.");
        }
        let fact = self
            .shared
            .observer
            .is_on()
            .then(|| Fact::of(core, plan, line.as_ref(), &effects, delivery.as_ref()));
        self.batch.facts.extend(fact);
        for effect in effects {
            self.send(&instance, plan, effect);
        }
        if ended_now.is_some() {
            self.ended.push_back((number, id));
        }
        self.schedule.set(id, before.due, due, number);
        self.batch.settle(delivery, Some(count_of(verdict)));
        self.live
            .insert(id, Live { instance, plan: Arc::clone(plan), batch: number, due, bytes: 0 });
        Ok(())
    }

    fn send(&mut self, instance: &Instance, plan: &Plan, effect: Effect) {
        let (sender, step) = match &effect {
            Effect::Command(command) => {
                let sender = Sender {
                    instance: instance.core.id,
                    node: command.node,
                    leg: command.leg,
                    attempt: command.attempt,
                };
                (Some(sender), plan.graph().name_of(command.node))
            }
            Effect::Publish { .. } => (None, ""),
        };
        let message =
            self.shared.envelopes.message(&instance.core, step, effect, &self.batch.now_text);
        let lane = self.shared.routes.lane(&message.channel);
        self.batch.bytes += message.body.len();
        self.batch.outgoing.push(Outgoing { lane, sender, message });
    }

    /// Something is due in an instance.
    fn wake(&mut self, id: InstanceId) -> Result<(), Fatal> {
        match self.find(id)? {
            Found::Nowhere => return Ok(()),
            Found::Unusable(text) => {
                // One that has ended needs no definition to be forgotten, and its own may have gone with an older release.
                if let Ok(Some(Resting { ended: true, due: Some(due), .. })) =
                    self.shared.table.get(id)
                {
                    if due <= self.batch.now {
                        self.forget(id);
                    } else {
                        self.schedule.set(id, None, Some(due), self.next_batch - 1);
                    }
                    return Ok(());
                }
                tracing::error!(instance = %id, text, "A stored instance can't be used; it stays as it is.");
                return Ok(());
            }
            Found::Here => {}
        }
        let now = self.batch.now;
        let Some(live) = self.live.get_mut(&id) else { return Ok(()) };
        // The store may know of a due time that has moved since.
        live.due = self.shared.due_of(&live.instance.core, &live.plan);
        let due = live.due;
        if due.is_none_or(|due| due > now) {
            self.schedule.set(id, None, due, live.batch);
            return Ok(());
        }
        if live.instance.core.status.is_end() {
            self.forget(id);
            return Ok(());
        }
        // Each turn does one thing; what else is due comes next, after the other instances.
        self.apply(id, Input::Due, None, None)?;
        Ok(())
    }

    /// An ended instance has been kept long enough.
    fn forget(&mut self, id: InstanceId) {
        self.live.remove(&id);
        let number = self.next_batch;
        self.schedule.set(id, None, None, number);
        self.batch.touch(id).gone = true;
    }

    fn set_aside(&mut self, delivery: Option<DeliveryJob>, dead: &DeadLetter) {
        let Some(job) = delivery else { return };
        tracing::warn!(
            channel = %job.done.channel, partition = job.done.partition, offset = job.done.offset,
            reason = dead.reason, text = dead.text, "A message is set aside as a dead letter."
        );
        let (partition, offset) = (job.done.partition, job.done.offset);
        let message = Arc::clone(&job.message);
        let letters = &self.shared.dead_letters;
        let letter =
            dead_letter(letters, (*message).clone(), dead, partition, offset, self.batch.now);
        let lane = self.shared.routes.lane(&job.done.channel);
        self.batch.outgoing.push(Outgoing { lane, sender: None, message: letter });
        self.batch.settle(Some(job), Some(Count::Quarantined));
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
                live.bytes = touched.capture(&live.instance, live.due);
            }
        }
        batch.floor = self.schedule.floor();
        batch.seal(self.shared.buffers.take());
        self.to_committer.send(batch).is_ok()
    }

    /// Lets instances go that are durable already: those that have ended, and idle ones when there are many.
    fn evict(&mut self) {
        let durable = self.shared.durable_batch[self.index].load(Ordering::Acquire);
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

/// Whether an instance could be found.
enum Found {
    Here,
    Nowhere,
    Unusable(String),
}

impl Found {
    /// Whether there is one, usable or not.
    fn is_found(&self) -> bool {
        !matches!(self, Self::Nowhere)
    }
}
