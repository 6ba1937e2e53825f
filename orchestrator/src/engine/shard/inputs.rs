//! The inputs of a shard's instances: each job finds its instance, is decided, and leaves its part in the batch.

use super::{
    DECISION_BYTES_MAX, Fatal, Found, INSTANCE_BYTES_MAX, Live, PANICKED_TIMER_REST, Shard,
};
#[cfg(feature = "simulation")]
use crate::engine::watched;
use crate::{
    engine::{
        accounts::Count,
        aftermath::{Before, count_of, note_tally, panic_letter, unreadable_letter},
        batch::stored_form,
        group::{Outgoing, Sender, saga_of},
        job::{Job, OperatorError, Origin, What},
        kept::bytes_of,
        withdrawal::out_at,
    },
    envelope::{DeadLetter, dead_letter},
    planted::{self, Bug},
    telemetry::Fact,
};
use dirigent_model::{
    decision::{Decision, Effect, Hold, Input, Reply},
    definition::{NodeId, Plan, Repeat},
    history::{Verdict, Why},
    instance::{Instance, InstanceId, NodeState, Status},
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
        self.batch.bytes += delivery.as_ref().map_or(0, |delivery| bytes_of(&delivery.message));
        match what {
            What::SettleOnly => {
                self.batch.settle_only(delivery);
                Ok(())
            }
            What::Start { .. } | What::Event { .. } | What::Reply { .. } => {
                let Some(delivery) = delivery else { return Ok(()) };
                match self.behind(id, &what, delivery)? {
                    Some(delivery) => self.decide(id, what, cause, Origin::Delivery(delivery)),
                    None => Ok(()),
                }
            }
            What::SetAside(_)
            | What::Unsent { .. }
            | What::Held { .. }
            | What::Operator { .. }
            | What::Decide { .. } => {
                let origin = delivery.map_or(Origin::Inside, Origin::Delivery);
                self.decide(id, what, cause, origin)
            }
        }
    }

    /// Decides about one input, wherever it comes from.
    pub(super) fn decide(
        &mut self,
        id: InstanceId,
        what: What,
        cause: Option<String>,
        origin: Origin,
    ) -> Result<(), Fatal> {
        match what {
            What::SettleOnly => {}
            What::SetAside(dead) => self.set_aside(origin, &dead),
            What::Start { plan, key, body, trace } => {
                let known = match self.find(id)? {
                    Found::Here if planted::is(Bug::StartBeginsTwice) => {
                        self.live.remove(&id);
                        Found::Nowhere
                    }
                    known => known,
                };
                let start = Start { key, run: 0, body: &body, cause, trace };
                self.start(id, &plan, start, known, origin)?;
            }
            What::Event { plan, key, name, body } => match self.find(id)? {
                Found::Here if self.is_for_the_next_run(id, &plan, &name, cause.as_deref()) => {
                    self.park_orphan(id, &plan, &key, origin);
                }
                Found::Here => {
                    self.apply(id, Input::Event { name, body }, cause, origin)?;
                }
                Found::Unusable(text) => self.unusable(id, origin, text),
                Found::Nowhere => self.park_orphan(id, &plan, &key, origin),
            },
            What::Reply { head, name, body } => {
                match self.find(id)? {
                    Found::Here => {}
                    Found::Unusable(text) => {
                        self.unusable(id, origin, text);
                        return Ok(());
                    }
                    Found::Nowhere => {
                        tracing::debug!(instance = %id, step = head.step, "A reply names no instance that is kept.");
                        self.batch.settle(origin, Count::Ignored);
                        return Ok(());
                    }
                }
                let node = self.live.get(&id).and_then(|live| live.plan.graph().find(&head.step));
                let Some(node) = node else {
                    let text = format!("the saga has no step `{}`", head.step);
                    self.set_aside(origin, &DeadLetter { reason: "unknown-step", text });
                    return Ok(());
                };
                let (leg, is_misled) = (head.leg, planted::is(Bug::ReplyToWrongStep));
                let node = match is_misled {
                    true => self.first_open(id).unwrap_or(node),
                    false => node,
                };
                let held_until = self.held_until(id, (node, leg), &name);
                let reply = Reply {
                    node,
                    leg,
                    key: head.key.filter(|_| !is_misled),
                    attempt: head.attempt,
                    held_until,
                    name,
                    body,
                };
                let core = self.live.get(&id).map(|live| &live.instance.core);
                let out = core.map(|core| out_at(core, node)).unwrap_or_default();
                let applied = self.apply(id, Input::Reply(reply), cause, origin)?;
                if let Applied::Decided(verdict) = applied {
                    self.note_needless(id, (node, leg), verdict);
                    if verdict == Verdict::Applied {
                        self.withdraw_settled(id, node, out);
                    }
                }
            }
            What::Unsent { sender, text, confirm } => {
                if self.is_of_this_run(sender)? {
                    let Sender { node, leg, attempt, .. } = sender;
                    tracing::warn!(instance = %id, text, "A command could not be sent.");
                    let unsent = Input::Unsent { node, leg, attempt, text: text.clone() };
                    if self.apply(id, unsent, cause.clone(), origin)?.is_nothing() {
                        self.withhold(id, What::Unsent { sender, text, confirm }, cause);
                        return Ok(());
                    }
                }
                self.batch.confirms.push(confirm);
            }
            What::Held { sender, until, may_have_left, confirm } => {
                if self.is_of_this_run(sender)? {
                    let Sender { node, leg, attempt, .. } = sender;
                    let hold = if may_have_left { Hold::Left } else { Hold::GivenBack };
                    let held = Input::Held { node, leg, attempt, hold, until };
                    if self.apply(id, held, cause.clone(), origin)?.is_nothing() {
                        self.withhold(
                            id,
                            What::Held { sender, until, may_have_left, confirm },
                            cause,
                        );
                        return Ok(());
                    }
                }
                self.batch.confirms.push(confirm);
            }
            What::Operator { action, by, why, answer } => {
                let outcome = match self.find(id)? {
                    Found::Nowhere => Err(OperatorError::NoInstance { instance: id }),
                    Found::Unusable(text) => Err(OperatorError::Unusable { instance: id, text }),
                    Found::Here => {
                        let plan = self.live.get(&id).map(|live| Arc::clone(&live.plan));
                        let plan = plan.expect("an instance that was found is here");
                        action.resolve(&plan)
                    }
                };
                let outcome = match outcome {
                    Ok(action) => {
                        let input = Input::Operator { action, by, why };
                        Ok(match self.apply(id, input, cause, origin)? {
                            Applied::Decided(verdict) => verdict,
                            Applied::SetAside | Applied::Nothing => Verdict::Ignored(Why::HasEnded),
                        })
                    }
                    Err(error) => Err(error),
                };
                self.batch.answer(answer, outcome);
            }
            What::Decide { number, decision, by, why, answer } => {
                let outcome = self.decide_about(id, number, decision, &by, &why)?;
                self.batch.answer(answer, outcome);
            }
        }
        Ok(())
    }

    /// The first step of an instance that awaits a reply.
    fn first_open(&self, id: InstanceId) -> Option<NodeId> {
        let Live { instance, plan, .. } = self.live.get(&id)?;
        let mut nodes = plan.graph().ids();
        nodes.find(|node| matches!(instance.core.state(*node), NodeState::Open(_)))
    }

    /// Whether an event belongs to a run that has not begun: its key begins anew, and the run that is here is over without having taken
    /// it. A cancellation that comes too late is for the run that it came too late for.
    fn is_for_the_next_run(
        &self,
        id: InstanceId,
        plan: &Plan,
        name: &str,
        cause: Option<&str>,
    ) -> bool {
        let graph = plan.graph();
        let Some(core) = self.live.get(&id).map(|live| &live.instance.core) else { return false };
        graph.repeat == Repeat::RestartWhenFinished
            && core.status.is_end()
            && cause.is_some_and(|cause| !core.has_taken(cause))
            && !graph.cancelled_by.iter().any(|event| event.name == name)
    }

    /// Whether the run that sent a command is the one that is here: what became of an earlier one's concerns nobody.
    fn is_of_this_run(&mut self, sender: Sender) -> Result<bool, Fatal> {
        let is_here = matches!(self.find(sender.instance)?, Found::Here);
        let live = self.live.get(&sender.instance).filter(|_| is_here);
        Ok(live.is_some_and(|live| live.instance.core.run == sender.run))
    }

    /// What became of a command could not be told to its instance, since a function of its saga panicked. Until it is, the command counts
    /// as one that leaves: the instance would take it for lost otherwise, and compensate what never left. After a
    /// restart, which may bring a mended release, the relay tries the command again and says anew what became of it.
    fn withhold(&mut self, id: InstanceId, what: What, cause: Option<String>) {
        let job = Job { instance: id, what, cause, delivery: None };
        self.withheld.push_back((self.batch.now + PANICKED_TIMER_REST, job));
    }

    /// Tells instances again what became of their commands.
    pub(super) fn tell_withheld(&mut self) -> Result<(), Fatal> {
        while self.withheld.front().is_some_and(|(at, _)| *at <= self.batch.now) {
            let Some((_, job)) = self.withheld.pop_front() else { break };
            self.work(job)?;
            if self.batch.is_full() && !self.begin_batch() {
                break;
            }
        }
        Ok(())
    }

    fn unusable(&mut self, id: InstanceId, origin: Origin, text: String) {
        self.quarantine(id, origin, &DeadLetter { reason: "instance-unusable", text }, true);
    }

    fn start(
        &mut self,
        id: InstanceId,
        plan: &Arc<Plan>,
        start: Start<'_>,
        known: Found,
        origin: Origin,
    ) -> Result<(), Fatal> {
        if let Found::Unusable(text) = known {
            self.unusable(id, origin, text);
            return Ok(());
        }
        let mut ended = None;
        if let Some(live) = self.live.get(&id) {
            let core = &live.instance.core;
            // The event that began this run, or one before it, begins no other one and is not refused, however often it is delivered.
            let is_again = start.cause.as_ref().is_some_and(|id| core.has_taken(id))
                && !planted::is(Bug::RepeatBeginsRun);
            match plan.graph().repeat {
                Repeat::RestartWhenFinished if core.status.is_end() && !is_again => {
                    ended = Some(core.clone());
                }
                Repeat::Reject if !is_again => {
                    let text = format!(
                        "an instance for the key `{}` is {} already",
                        core.key, core.status
                    );
                    self.set_aside(origin, &DeadLetter { reason: "already-started", text });
                    return Ok(());
                }
                Repeat::Duplicate | Repeat::Reject | Repeat::RestartWhenFinished => {
                    self.batch.settle(origin, Count::Duplicate);
                    return Ok(());
                }
            }
        }
        // What one group says of an instance is of one run.
        let follows = ended.is_some() || self.gone.contains_key(&id);
        if follows && self.batch.has_touched(id) && !self.begin_batch() {
            return Ok(());
        }
        let (now, codec) = (self.batch.now, Arc::clone(&self.shared.codec));
        let decided = catch_unwind(AssertUnwindSafe(|| {
            let decision = match &ended {
                Some(ended) => transition::start_again(plan, start, ended, now, &*codec),
                None => transition::start(plan, start, now, &*codec),
            };
            #[cfg(feature = "simulation")]
            let decision = decision.inspect(|decision| watched::begun(plan, decision));
            decision.map(|decision| Decided::of(decision, 0))
        }));
        let letter = match decided {
            Ok(Ok(decided)) => match decided.too_large(&origin) {
                None => {
                    let before = Before { started: true, ..Before::default() };
                    self.gone.remove(&id);
                    self.record(id, plan, decided, before, origin);
                    return self.offer_orphans(id);
                }
                Some(letter) => letter,
            },
            Ok(Err(unreadable)) => {
                self.set_aside(origin, &unreadable_letter(&unreadable));
                return Ok(());
            }
            Err(panic) => panic_letter(&*panic),
        };
        self.quarantine(id, origin, &letter, true);
        Ok(())
    }

    /// Applies an input to an instance in memory.
    pub(super) fn apply(
        &mut self,
        id: InstanceId,
        input: Input,
        cause: Option<String>,
        origin: Origin,
    ) -> Result<Applied, Fatal> {
        let Some(live) = self.live.remove(&id) else {
            self.unusable(id, origin, "the stored instance can't be used".to_owned());
            return Ok(Applied::SetAside);
        };
        let Live { instance, plan, batch, due, bytes } = live;
        let before = Before::of(&instance, due);
        // Only a second input within one batch needs a copy: before that, the table has what the handler may spoil.
        let spare = self.batch.has_touched(id).then(|| instance.clone());
        let (now, codec) = (self.batch.now, Arc::clone(&self.shared.codec));
        let decided = catch_unwind(AssertUnwindSafe(|| {
            #[cfg(feature = "simulation")]
            let was = watched::before(&instance);
            let decision = transition::apply(&plan, instance, input, cause, now, &*codec);
            #[cfg(feature = "simulation")]
            let decision = decision.inspect(|decision| watched::decided(&plan, was, decision));
            decision.map(|decision| Decided::of(decision, bytes))
        }));
        let letter = match decided {
            Ok(Ok(decided)) => match decided.too_large(&origin) {
                None => {
                    let verdict = decided.decision.verdict;
                    self.record(id, &plan, decided, before, origin);
                    return Ok(Applied::Decided(verdict));
                }
                Some(letter) => letter,
            },
            Ok(Err((instance, unreadable))) => {
                self.live.insert(id, Live { instance: *instance, plan, batch, due, bytes });
                self.set_aside(origin, &unreadable_letter(&unreadable));
                return Ok(Applied::SetAside);
            }
            Err(panic) => panic_letter(&*panic),
        };
        tracing::error!(instance = %id, reason = letter.reason, text = letter.text, "What a saga's own function made of an input can't be used; its message is quarantined.");
        if let Some(instance) = spare {
            self.live.insert(id, Live { instance, plan, batch, due, bytes });
        } else {
            self.await_durable(batch);
            self.find(id)?;
        }
        if origin.is_inside() {
            self.schedule.put_off(id, now + PANICKED_TIMER_REST);
        }
        self.quarantine(id, origin, &letter, true);
        Ok(Applied::Nothing)
    }

    /// Puts a decision into the batch.
    fn record(
        &mut self,
        id: InstanceId,
        plan: &Arc<Plan>,
        decided: Decided,
        before: Before,
        origin: Origin,
    ) {
        let Decided { decision, state } = decided;
        let bytes = state.len();
        self.batch.bytes += bytes;
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
        touched.state = state;
        let (line, encoded) = line.unzip();
        touched.lines.extend(encoded);
        note_tally(touched, &instance, &before, ended_now);
        if incidents_raised > 0 {
            let text = core.incidents.last().map_or("", |incident| incident.text.as_str());
            tracing::error!(instance = %id, saga = core.definition, key = %core.key, text, "A saga is blocked and wants a person.");
        }
        let fact = self.shared.observer.is_on().then(|| {
            Fact::of(core, plan, line, &effects, origin.message().map(|message| &**message))
        });
        self.batch.facts.extend(fact);
        for effect in effects {
            self.send(&instance, plan, effect);
        }
        if ended_now.is_some() {
            self.ended.push_back((number, id));
        }
        self.schedule.set(id, before.due, due, number);
        self.batch.settle(origin, count_of(verdict));
        self.live.insert(id, Live { instance, plan: Arc::clone(plan), batch: number, due, bytes });
    }

    fn send(&mut self, instance: &Instance, plan: &Plan, effect: Effect) {
        let (sender, step) = match &effect {
            Effect::Command(command) => {
                let sender = Sender {
                    instance: instance.core.id,
                    run: instance.core.run,
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
        self.batch.bytes += bytes_of(&message);
        let saga = sender.map_or(0, |_| saga_of(&instance.core.definition));
        self.batch.outgoing.push(Outgoing { lane, sender, saga, message });
    }

    /// Hands a message to the broker as a dead letter.
    pub(super) fn set_aside(&mut self, origin: Origin, dead: &DeadLetter) {
        let (message, partition, offset) = match &origin {
            Origin::Inside => return,
            Origin::Delivery(job) => (&job.message, job.done.partition, job.done.offset),
            Origin::Shelf(kept) => (&kept.message, kept.partition, kept.offset),
        };
        tracing::warn!(
            channel = %message.channel, partition, offset,
            reason = dead.reason, text = dead.text, "A message is set aside as a dead letter."
        );
        self.shared.meters.set_aside(dead.reason);
        let lane = self.shared.routes.lane(&message.channel);
        let letters = &self.shared.dead_letters;
        let letter =
            dead_letter(letters, (**message).clone(), dead, partition, offset, self.batch.now);
        self.batch.bytes += bytes_of(&letter);
        self.batch.outgoing.push(Outgoing { lane, sender: None, saga: 0, message: letter });
        self.batch.settle(origin, Count::DeadLetter);
    }
}

/// What became of an input.
pub(super) enum Applied {
    Decided(Verdict),
    /// It can't be read, or its instance can't be used.
    SetAside,
    /// A function of the saga panicked, or made too much of it. The instance is as it was; a later release may do better.
    Nothing,
}

impl Applied {
    fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }
}

/// A decision with the stored form of its instance: encoded where an author's function that panics costs its message only, and
/// once, as a rule, since an instance has one input in a batch.
struct Decided {
    decision: Decision,
    state: Vec<u8>,
}

impl Decided {
    fn of(decision: Decision, bytes_before: usize) -> Self {
        let state = stored_form(&decision.instance, bytes_before);
        Self { decision, state }
    }

    /// Why journal and store could not take it, if they could not. An instance that is near its bound still hears of time, of commands
    /// that could not leave, and of operators, which add little.
    fn too_large(&self, origin: &Origin) -> Option<DeadLetter> {
        let bytes = self.state.len();
        if bytes > INSTANCE_BYTES_MAX && !origin.is_inside() {
            let text =
                format!("the instance would have {bytes} bytes, the bound is {INSTANCE_BYTES_MAX}");
            return Some(DeadLetter { reason: "instance-too-large", text });
        }
        let sent = self.decision.effects.iter().map(|effect| match effect {
            Effect::Command(command) => command.body.bytes.len(),
            Effect::Publish { body, .. } => body.bytes.len(),
        });
        let sent = sent.sum::<usize>();
        (sent > DECISION_BYTES_MAX).then(|| DeadLetter {
            reason: "decision-too-large",
            text: format!("the saga would send {sent} bytes, the bound is {DECISION_BYTES_MAX}"),
        })
    }
}
