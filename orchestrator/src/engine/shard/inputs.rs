//! The inputs of a shard's instances: each job finds its instance, is decided, and leaves its part in the batch.

use super::{Fatal, Found, INSTANCE_BYTES_MAX, Live, PANICKED_TIMER_REST, Shard};
use crate::{
    engine::{
        accounts::Count,
        aftermath::{Before, count_of, note_tally, panic_letter, unreadable_letter},
        group::{Outgoing, Sender, saga_of},
        job::{DeliveryJob, Job, OperatorError, What},
    },
    envelope::{DeadLetter, dead_letter},
    telemetry::Fact,
};
use dirigent_model::{
    decision::{Decision, Effect, Hold, Input, Reply},
    definition::{Plan, Repeat},
    history::{Verdict, Why},
    instance::{Instance, InstanceId, Status},
    transition::{self, Start},
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

impl Shard {
    /// Does one job. Only what makes further work senseless is an error.
    pub(super) fn work(&mut self, job: Job) -> Result<(), Fatal> {
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
                let held_until = self.held_until(id, (node, head.leg), &name);
                let reply = Reply {
                    node,
                    leg: head.leg,
                    key: head.key,
                    attempt: head.attempt,
                    held_until,
                    name,
                    body,
                };
                self.apply(id, Input::Reply(reply), cause, delivery)?;
            }
            What::Unsent { node, leg, attempt, text, confirm } => {
                if self.find(id)?.is_found() {
                    tracing::warn!(instance = %id, text, "A command could not be sent.");
                    self.apply(id, Input::Unsent { node, leg, attempt, text }, cause, delivery)?;
                }
                self.batch.confirms.push(confirm);
            }
            What::Held { node, leg, attempt, until, may_have_left, confirm } => {
                if self.find(id)?.is_found() {
                    let hold = if may_have_left { Hold::Left } else { Hold::GivenBack };
                    let held = Input::Held { node, leg, attempt, hold, until };
                    self.apply(id, held, cause, delivery)?;
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
                        let missing = OperatorError::NoInstance { instance: id };
                        self.batch.answers.push((answer, Err(missing)));
                    }
                    Err(error) => self.batch.answers.push((answer, Err(error))),
                }
            }
        }
        Ok(())
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
    pub(super) fn apply(
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
        let Decision { instance, verdict, effects, line, heard, incidents_raised } = decision;
        if let Some(heard) = heard {
            self.tell_destination(&instance, plan, heard);
        }
        let core = &instance.core;
        if ended_now == Some(Status::Killed) {
            self.forget_commands(core, plan);
        }
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
        let saga = sender.map_or(0, |_| saga_of(&instance.core.definition));
        self.batch.outgoing.push(Outgoing { lane, sender, saga, message });
    }

    fn set_aside(&mut self, delivery: Option<DeliveryJob>, dead: &DeadLetter) {
        let Some(job) = delivery else { return };
        tracing::warn!(
            channel = %job.done.channel, partition = job.done.partition, offset = job.done.offset,
            reason = dead.reason, text = dead.text, "A message is set aside as a dead letter."
        );
        self.shared.meters.set_aside(dead.reason);
        let (partition, offset) = (job.done.partition, job.done.offset);
        let message = Arc::clone(&job.message);
        let letters = &self.shared.dead_letters;
        let letter =
            dead_letter(letters, (*message).clone(), dead, partition, offset, self.batch.now);
        let lane = self.shared.routes.lane(&job.done.channel);
        self.batch.outgoing.push(Outgoing { lane, sender: None, saga: 0, message: letter });
        self.batch.settle(Some(job), Some(Count::Quarantined));
    }
}
