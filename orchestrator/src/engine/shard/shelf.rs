//! The shelf of an instance: what is kept for it, when that is offered, and what an operator decides about it.
//!
//! An event without an instance is parked and offered right behind the start of its instance, or quarantined when its time is
//! over, of which only that counts in which the start could have been heard. A message that its instance could not take is quarantined and *blocks*: what comes for that instance is parked behind it
//! in order, and its timers rest, until a person has decided. All other instances go on.

use super::{Fatal, Found, Shard};
use crate::{
    engine::{
        accounts::Count,
        job::{Decided, Decision, DeliveryJob, OperatorError, Origin, What},
        kept::{Kept, KeptChange, Kind, PARKED_BYTES_MAX, PARKED_MAX, Standing, bytes_of},
    },
    envelope::DeadLetter,
    intake,
    planted::{self, Bug},
};
use dirigent_connectors::names;
use dirigent_model::{
    definition::Plan,
    history::{Line, Verdict, What as Happened},
    instance::InstanceId,
    message::Key,
    time::Timestamp,
};
use std::sync::Arc;

/// Characters of a discarded message's story in the history of its instance.
const DISCARDED_CHARS_MAX: usize = 200;

impl Shard {
    /// Puts a kept message where it belongs in memory.
    pub(in crate::engine) fn shelve(&mut self, kept: Arc<Kept>) {
        if let Standing::Orphan { until } = kept.standing {
            self.expiries.insert((until, kept.number, kept.instance));
        }
        self.shelves.entry(kept.instance).or_default().put(kept);
    }

    fn unshelve(&mut self, id: InstanceId, number: u64) -> Option<Arc<Kept>> {
        let shelf = self.shelves.get_mut(&id)?;
        let kept = shelf.take(number)?;
        if shelf.is_empty() {
            self.shelves.remove(&id);
        }
        if let Standing::Orphan { until } = kept.standing {
            let until = self.prolonged.remove(&number).map_or(until, |(_, until)| until);
            self.expiries.remove(&(until, number, id));
        }
        Some(kept)
    }

    /// Takes a message from its shelf, to be decided about.
    fn take_kept(&mut self, id: InstanceId, number: u64) -> Option<Origin> {
        let kept = self.unshelve(id, number)?;
        self.shared.kept.give_room(kept.standing.count(), kept.bytes());
        self.batch.bytes += kept.bytes();
        let shared = self.shared_kept.remove(&number);
        if let Some(done) = shared
            && done.take_back(number)
        {
            let (message, others) = (Arc::clone(&kept.message), kept.others.clone());
            return Some(Origin::Delivery(DeliveryJob {
                message,
                done,
                leads: kept.counted,
                others,
            }));
        }
        Some(Origin::Shelf(kept))
    }

    /// Whether a quarantined message holds back what comes for an instance.
    pub(super) fn is_blocked(&self, id: InstanceId) -> bool {
        self.shelves.get(&id).is_some_and(|shelf| shelf.blocked_by().is_some())
    }

    /// Parks a message behind the quarantined one of its instance, if there is one; gives it back otherwise.
    pub(super) fn behind(
        &mut self,
        id: InstanceId,
        what: &What,
        delivery: DeliveryJob,
    ) -> Result<Option<DeliveryJob>, Fatal> {
        let Some(shelf) = self.shelves.get(&id) else { return Ok(Some(delivery)) };
        if shelf.holds(&delivery.message) {
            // It was kept before its delivery could be settled.
            self.batch.settle(Origin::Delivery(delivery), Count::Duplicate);
            return Ok(None);
        }
        if shelf.blocked_by().is_none() {
            return Ok(Some(delivery));
        }
        let about = self.about(id, what)?;
        self.park(id, Origin::Delivery(delivery), about, Standing::Behind);
        Ok(None)
    }

    /// Parks an event whose instance is not there.
    pub(super) fn park_orphan(&mut self, id: InstanceId, plan: &Plan, key: &Key, origin: Origin) {
        if planted::is(Bug::ParkedDropped) {
            self.batch.settle(origin, Count::Ignored);
            return;
        }
        let about = (Kind::Event, plan.graph().name.clone(), key.as_str().to_owned());
        let until = self.batch.now + self.shared.parked_for;
        self.park(id, origin, about, Standing::Orphan { until });
    }

    /// The kind of a message, and the saga and key it is for as far as they are known.
    fn about(&mut self, id: InstanceId, what: &What) -> Result<About, Fatal> {
        Ok(match what {
            What::Start { plan, key, .. } => {
                (Kind::Start, plan.graph().name.clone(), key.as_str().to_owned())
            }
            What::Event { plan, key, .. } => {
                (Kind::Event, plan.graph().name.clone(), key.as_str().to_owned())
            }
            _ => {
                self.find(id)?;
                let core = self.live.get(&id).map(|live| &live.instance.core);
                let known = core.map(|core| (core.definition.clone(), core.key.to_string()));
                let (saga, key) = known.unwrap_or_default();
                (Kind::Reply, saga, key)
            }
        })
    }

    fn park(&mut self, id: InstanceId, origin: Origin, about: About, standing: Standing) {
        let Some(message) = origin.message() else { return };
        let bytes = bytes_of(message);
        if self.shared.kept.take_room(Count::Parked, bytes) {
            self.keep(id, origin, about, standing);
            return;
        }
        let text = format!(
            "no room to park it: {PARKED_MAX} messages or {PARKED_BYTES_MAX} bytes are parked already, or it is too large with its {bytes} bytes"
        );
        self.quarantine_about(
            id,
            origin,
            about,
            &DeadLetter { reason: "parked-full", text },
            false,
        );
    }

    /// Quarantines a message for its instance.
    pub(super) fn quarantine(
        &mut self,
        id: InstanceId,
        origin: Origin,
        dead: &DeadLetter,
        blocks: bool,
    ) {
        let about = match &origin {
            Origin::Inside => return,
            Origin::Shelf(kept) => (kept.kind, kept.saga.clone(), kept.key.clone()),
            Origin::Delivery(job) => self.about_message(id, job),
        };
        self.quarantine_about(id, origin, about, dead, blocks);
    }

    /// What a message is for, read from itself: its handler panicked, and took what was known of it along.
    fn about_message(&self, id: InstanceId, job: &DeliveryJob) -> About {
        let core = self.live.get(&id).map(|live| &live.instance.core);
        let known = core.map(|core| (core.definition.clone(), core.key.to_string()));
        let targets = intake::targets(&self.shared, &job.message, usize::MAX);
        let target = targets.into_iter().find(|target| target.instance == id);
        match target.map(|target| target.what) {
            Some(What::Start { plan, key, .. }) => {
                (Kind::Start, plan.graph().name.clone(), key.as_str().to_owned())
            }
            Some(What::Event { plan, key, .. }) => {
                (Kind::Event, plan.graph().name.clone(), key.as_str().to_owned())
            }
            _ => {
                let (saga, key) = known.unwrap_or_default();
                (Kind::Reply, saga, key)
            }
        }
    }

    fn quarantine_about(
        &mut self,
        id: InstanceId,
        origin: Origin,
        about: About,
        dead: &DeadLetter,
        blocks: bool,
    ) {
        let Some(message) = origin.message() else { return };
        let bytes = bytes_of(message);
        if !self.shared.kept.take_room(Count::Quarantined, bytes) {
            let text = format!("{}; the quarantine has no room for it", dead.text);
            tracing::error!(instance = %id, saga = about.1, key = about.2, reason = dead.reason, "The quarantine is full; a message goes to the dead letters instead.");
            self.set_aside(origin, &DeadLetter { reason: dead.reason, text });
            return;
        }
        tracing::error!(
            instance = %id, saga = about.1, key = about.2, channel = %message.channel,
            reason = dead.reason, text = dead.text, blocks, "A message is quarantined and wants a person."
        );
        let standing = Standing::quarantined(dead.reason, &dead.text, blocks);
        self.keep(id, origin, about, standing);
        if blocks {
            self.hold_orphans(id);
        }
    }

    /// What waited for its instance to appear waits behind a quarantined message from now on, without a time.
    fn hold_orphans(&mut self, id: InstanceId) {
        let orphans = self.shelves.get(&id).map(|shelf| shelf.orphans()).unwrap_or_default();
        for number in orphans {
            let kind = self
                .shelves
                .get(&id)
                .and_then(|shelf| shelf.get(number))
                .map(|kept| (kept.kind, kept.saga.clone(), kept.key.clone()));
            let (Some(about), Some(origin)) = (kind, self.take_kept(id, number)) else { continue };
            self.park(id, origin, about, Standing::Behind);
        }
    }

    /// Keeps a message; room for it has been taken.
    fn keep(&mut self, id: InstanceId, origin: Origin, about: About, standing: Standing) {
        let (kind, saga, key) = about;
        match origin {
            Origin::Inside => {}
            Origin::Delivery(job) => {
                let number = self.shared.kept.number();
                let kept = Arc::new(Kept {
                    number,
                    instance: id,
                    kind,
                    saga,
                    key,
                    standing,
                    since: self.batch.now,
                    partition: job.done.partition,
                    offset: job.done.offset,
                    counted: job.leads,
                    others: job.others.clone(),
                    message: Arc::clone(&job.message),
                });
                if job.done.is_shared() {
                    self.shared_kept.insert(number, Arc::clone(&job.done));
                }
                self.batch.keep(job, &kept);
                self.shelve(kept);
            }
            Origin::Shelf(kept) => {
                let moved = kept.moved(standing.count());
                let number = kept.number;
                let kept = Arc::new(Kept { standing: standing.clone(), ..(*kept).clone() });
                self.batch.kept.push(KeptChange::Stands { number, standing, moved });
                self.shelve(kept);
            }
        }
    }

    /// Offers a message that was taken from its shelf.
    fn offer(&mut self, id: InstanceId, kind: Kind, origin: Origin) -> Result<(), Fatal> {
        let Some(message) = origin.message() else { return Ok(()) };
        let cause = message.attributes.get(names::ID).map(ToOwned::to_owned);
        // Read again with the definitions of today: an operator may have started a release that can handle it.
        let targets = intake::targets(&self.shared, message, usize::MAX);
        let meant = targets.into_iter().map(|target| (target.instance, target.what)).find(
            |(instance, what)| match (what, kind) {
                (What::SetAside(_), _) => true,
                (What::Start { .. }, Kind::Start)
                | (What::Event { .. }, Kind::Event)
                | (What::Reply { .. }, Kind::Reply) => *instance == id,
                _ => false,
            },
        );
        match meant {
            Some((_, what)) => self.decide(id, what, cause, origin),
            None => {
                let text = "no saga here knows it for this instance any more".to_owned();
                self.set_aside(origin, &DeadLetter { reason: "unknown-type", text });
                Ok(())
            }
        }
    }

    /// An instance has begun: offers what was parked for it, in order.
    pub(super) fn offer_orphans(&mut self, id: InstanceId) -> Result<(), Fatal> {
        // Within a release the one who releases offers the rest.
        let mut orphans = self.shelves.get(&id).map(|shelf| shelf.orphans()).unwrap_or_default();
        if planted::is(Bug::ParkedReversed) {
            orphans.reverse();
        }
        for number in orphans {
            if self.is_blocked(id) {
                return Ok(());
            }
            if let Some(origin) = self.take_kept(id, number) {
                self.offer(id, Kind::Event, origin)?;
            }
        }
        Ok(())
    }

    /// One message has waited for its instance long enough as of `now`. Says whether there may be more.
    pub(super) fn expire_one(&mut self, now: Timestamp) -> Result<bool, Fatal> {
        let Some(&(until, number, id)) = self.expiries.first() else { return Ok(false) };
        if until > now {
            return Ok(false);
        }
        self.expiries.pop_first();
        let Some(kept) = self.shelves.get(&id).and_then(|shelf| shelf.get(number)).cloned() else {
            return Ok(true);
        };
        if let Some(longer) = self.start_unheard(&kept.saga, self.parked_from(&kept, until)) {
            self.prolonged.insert(number, (self.batch.now, self.batch.now + longer));
            self.expiries.insert((self.batch.now + longer, number, id));
            return Ok(true);
        }
        let Some(origin) = self.take_kept(id, number) else { return Ok(true) };
        let is_over = matches!(self.find(id)?, Found::Here)
            && self.live.get(&id).is_some_and(|live| live.instance.core.status.is_end());
        if is_over {
            // Its key may begin anew, and did not: then it came too late for the run that is here.
            tracing::info!(instance = %id, saga = kept.saga, key = kept.key, "An event that came after the end of its saga is let go, as no further run of it began.");
            self.batch.settle(origin, Count::Ignored);
            return Ok(true);
        }
        let waited = self.shared.parked_for.as_secs();
        let taken_elsewhere = kept
            .others
            .iter()
            .any(|other| self.shared.table.get(*other).is_ok_and(|resting| resting.is_some()));
        if taken_elsewhere || !kept.counted {
            // It concerned several sagas: another one has its instance, or says what becomes of it.
            tracing::info!(instance = %id, saga = kept.saga, key = kept.key, "An event for several sagas is let go for one whose instance did not appear.");
            self.batch.settle(origin, Count::Ignored);
            return Ok(true);
        }
        let name = kept.message.attributes.get(names::TYPE).unwrap_or_default();
        let text = format!(
            "no instance of `{}` with key `{}` appeared within {waited}s to take `{name}`",
            kept.saga, kept.key
        );
        self.quarantine(id, origin, &DeadLetter { reason: "no-instance", text }, false);
        Ok(true)
    }

    /// From when to when it was to wait for its instance, as last set.
    fn parked_from(&self, kept: &Kept, until: Timestamp) -> (Timestamp, Timestamp) {
        self.prolonged.get(&kept.number).copied().unwrap_or_else(|| {
            let parked_for = u64::try_from(self.shared.parked_for.as_millis()).unwrap_or(u64::MAX);
            // It came long before where an operator replayed it.
            (kept.since.max(Timestamp(until.0.saturating_sub(parked_for))), until)
        })
    }

    /// An operator's word about a quarantined message.
    pub(super) fn decide_about(
        &mut self,
        id: InstanceId,
        number: u64,
        decision: Decision,
        by: &str,
        why: &str,
    ) -> Result<Result<Decided, OperatorError>, Fatal> {
        let shelf = self.shelves.get(&id);
        let kept = shelf.and_then(|shelf| shelf.get(number)).cloned();
        let Some(kept) = kept.filter(|kept| kept.standing.count() == Count::Quarantined) else {
            return Ok(Err(OperatorError::NotQuarantined { number }));
        };
        let first = shelf.and_then(|shelf| shelf.blocked_by()).filter(|first| *first != number);
        if let Some(first) = first.filter(|_| decision == Decision::Replay) {
            return Ok(Err(OperatorError::WaitsBehind { number, first }));
        }
        let Some(origin) = self.take_kept(id, number) else {
            return Ok(Err(OperatorError::NotQuarantined { number }));
        };
        tracing::info!(instance = %id, number, ?decision, by, why, "An operator decided about a quarantined message.");
        let became = match decision {
            Decision::Discard => {
                if self.note_discarded(id, &kept, by, why)? {
                    self.batch.settle(origin, Count::Ignored);
                } else {
                    // No history tells of it: the letter does, and holds what was given up.
                    let text = format!("discarded by {by}: {why}");
                    self.set_aside(origin, &DeadLetter { reason: "discarded", text });
                }
                "discarded"
            }
            Decision::Replay => {
                self.offer(id, kept.kind, origin)?;
                became(number, &self.batch.kept)
            }
        };
        let followed = if kept.standing.blocks() { self.release(id)? } else { 0 };
        let shelf = self.shelves.get(&id);
        let again = shelf.and_then(|shelf| shelf.get(number)).map(|kept| &kept.standing);
        let text = match again {
            Some(Standing::Quarantined { text, .. }) => Some(text.clone()),
            _ => None,
        };
        let parked = shelf.map_or(0, |shelf| shelf.parked());
        Ok(Ok(Decided { number, became: became.into(), text, followed, parked }))
    }

    /// Offers what is parked behind a message that was decided about, until another one blocks, and lets the timers go on.
    fn release(&mut self, id: InstanceId) -> Result<u64, Fatal> {
        let mut followed = 0;
        let mut above = 0;
        while !self.is_blocked(id) {
            let shelf = self.shelves.get(&id);
            let Some(number) = shelf.and_then(|shelf| shelf.first_behind(above)) else { break };
            above = number + 1;
            let kind = shelf.and_then(|shelf| shelf.get(number)).map(|kept| kept.kind);
            let (Some(kind), Some(origin)) = (kind, self.take_kept(id, number)) else { break };
            self.offer(id, kind, origin)?;
            followed += 1;
        }
        if !self.is_blocked(id) && matches!(self.find(id)?, Found::Here) {
            let next = self.next_batch;
            if let Some(live) = self.live.get_mut(&id) {
                live.due = self.shared.due_of(&live.instance.core, &live.plan);
                self.schedule.set(id, None, live.due, next);
            }
        }
        Ok(followed)
    }

    /// Tells the history of an instance that one of its messages was given up. Says whether there is such an instance.
    fn note_discarded(
        &mut self,
        id: InstanceId,
        kept: &Kept,
        by: &str,
        why: &str,
    ) -> Result<bool, Fatal> {
        if !matches!(self.find(id)?, Found::Here) {
            return Ok(false);
        }
        let (at, number) = (self.batch.now, self.next_batch);
        let Some(live) = self.live.get_mut(&id) else { return Ok(false) };
        let name = kept.message.attributes.get(names::TYPE).unwrap_or("a message");
        let note = format!("discard #{} {name} by {by}: {why}", kept.number);
        let line = Line {
            at,
            what: Happened::Operator,
            node: None,
            cause: kept.cause().map(|cause| cause.chars().take(DISCARDED_CHARS_MAX).collect()),
            verdict: Verdict::Applied,
            sent: Vec::new(),
            note: Some(note.chars().take(DISCARDED_CHARS_MAX).collect()),
        };
        let encoded = live.instance.history.append(&line);
        live.batch = number;
        self.batch.touch(id).lines.push(encoded);
        Ok(true)
    }
}

/// Kind, saga and business key of a message.
type About = (Kind, String, String);

/// What a batch says of a kept message.
fn became(number: u64, changes: &[KeptChange]) -> &'static str {
    let count = changes.iter().rev().find_map(|change| match change {
        KeptChange::Stands { number: known, standing, .. } if *known == number => {
            Some(standing.count())
        }
        KeptChange::Gone { number: known, became, .. } if *known == number => Some(*became),
        _ => None,
    });
    match count {
        Some(Count::Applied) => "applied",
        Some(Count::Duplicate) => "duplicate",
        Some(Count::Ignored) => "ignored",
        Some(Count::Parked) => "parked",
        Some(Count::Quarantined) => "quarantined",
        Some(Count::DeadLetter) => "dead-letter",
        None => "decided",
    }
}
