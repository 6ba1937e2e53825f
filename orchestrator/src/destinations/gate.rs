//! The gate of one destination: circuit, rate, number in flight and an operator's pause, decided together. Pure.

use super::{
    Asked, DestinationView, Key, Protection,
    bucket::Bucket,
    circuit::{Change, Circuit},
    millis, scatter,
};
use crate::planted::{self, Bug};
use dirigent_model::{decision::Hold, time::Timestamp};
use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Held commands of a destination that are known by name, to be counted and shown. Beyond it they are held as well.
const HELD_KNOWN_MAX: usize = 100_000;

/// How long after its time a held command that was not asked again still counts: its instance was ended otherwise.
const HELD_FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// How much longer than the longest time for a reply from here a command is in flight. Its instance has spoken by then; one that is
/// silent has no step any more that waits for it: its command left after that was settled, and nobody need answer it.
const IN_FLIGHT_FOR: Duration = Duration::from_secs(60);

/// Commands a second that come back to a destination without a limit of its own, after it held them.
const BACK_PER_SECOND: u64 = 1_000;

/// The shortest and the longest span over which held commands come back.
const BACK_MIN: Duration = Duration::from_millis(250);
const BACK_MAX: Duration = Duration::from_secs(60);

/// Commands confirmed late that are known until they are heard of. Of further ones the time counts as of any other.
const LATE_KNOWN_MAX: usize = 100_000;

/// How often those are forgotten that nobody was heard of for too long.
const LATE_LOOK_EVERY: Duration = Duration::from_secs(10);

/// A paused destination is looked at by held commands at least and at most so often.
const PAUSE_LOOK_MIN: Duration = Duration::from_secs(1);
const PAUSE_LOOK_MAX: Duration = Duration::from_secs(30);

/// An operator's pause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// Who.
    pub by: String,
    /// Why.
    pub why: String,
    /// Since when.
    pub since: Timestamp,
}

/// Whether a command may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It counts as sent.
    Leaves,
    /// It waits for its turn.
    Waits,
    /// Its instance asks again from this instant on.
    GivenBack(Timestamp),
}

/// Where a command stands when its time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// An attempt has no answer that began then. Its saga may wait for it without end, or turns back.
    UnderWay { asked_at: Timestamp, may_wait: bool },
    /// It rests, and is to be asked now.
    Resting,
}

/// The attempt of a command that its broker confirmed long after it was asked.
#[derive(Debug, Clone, Copy)]
struct Late {
    run: u32,
    attempt: u32,
    at: Timestamp,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    since: Timestamp,
    until: Timestamp,
}

/// What is known of a destination.
#[derive(Debug)]
pub(crate) struct Gate {
    protection: Protection,
    circuit: Option<Circuit>,
    bucket: Option<Bucket>,
    paused: Option<Paused>,
    /// Sent and not yet answered, where their number is limited: until when each of them counts, unless it is heard of.
    in_flight: FxHashMap<Key, Timestamp>,
    /// None of them counts no more before.
    let_go_at: Timestamp,
    /// How long each of them counts.
    in_flight_for: Duration,
    /// In the relay: waiting for their turn, or for the broker's word where that takes long. The relay alone says who.
    queued: FxHashSet<Asked>,
    /// Those of them that were confirmed since. One that was answered before stays for a while.
    late: FxHashMap<Key, Late>,
    /// None of them is forgotten before.
    late_look_at: Timestamp,
    /// Its broker has confirmed nothing of it for a while.
    rests: bool,
    /// With their instances.
    held: FxHashMap<Key, Held>,
    forget_at: Timestamp,
    sent: u64,
    given_back: u64,
}

impl Gate {
    /// Of a destination whose answers are awaited for `reply_within` at the longest.
    pub(super) fn new(protection: Protection, reply_within: Duration) -> Self {
        Self {
            protection,
            circuit: protection.circuit.map(Circuit::new),
            bucket: protection.rate.map(Bucket::new),
            paused: None,
            in_flight: FxHashMap::default(),
            let_go_at: Timestamp(0),
            in_flight_for: reply_within.saturating_add(IN_FLIGHT_FOR),
            queued: FxHashSet::default(),
            late: FxHashMap::default(),
            late_look_at: Timestamp(0),
            rests: false,
            held: FxHashMap::default(),
            forget_at: Timestamp(0),
            sent: 0,
            given_back: 0,
        }
    }

    /// Whether everything may leave, and nobody has to be asked about each command.
    pub(crate) fn is_free(&mut self, now: Timestamp) -> bool {
        if !self.held.is_empty() && now >= self.forget_at {
            self.forget_settled(now);
            self.forget_at = now + HELD_FORGOTTEN_AFTER;
        }
        self.paused.is_none()
            && self.bucket.is_none()
            && self.protection.in_flight_max.is_none()
            && self.held.is_empty()
            && self.circuit.as_ref().is_none_or(Circuit::is_closed)
    }

    /// Counts commands that left a free gate.
    pub(crate) fn left(&mut self, count: usize) {
        self.sent += count as u64;
    }

    pub(crate) fn admit(&mut self, key: Key, now: Timestamp) -> Admission {
        if self.holds_until(now).is_some() {
            return Admission::GivenBack(self.give_back(key, now));
        }
        let limit = self.protection.in_flight_max;
        let is_full = limit.is_some_and(|limit| self.is_full_for(key, limit.max(1), now));
        let mut is_empty = || self.bucket.as_mut().is_some_and(|b| b.empty_until(now).is_some());
        if is_full || is_empty() {
            return Admission::Waits;
        }
        self.held.remove(&key);
        if limit.is_some() {
            self.in_flight.insert(key, now + self.in_flight_for);
        }
        if let Some(bucket) = &mut self.bucket {
            bucket.take();
        }
        if let Some(circuit) = &mut self.circuit {
            circuit.lets_go(key, now);
        }
        self.sent += 1;
        Admission::Leaves
    }

    fn is_full_for(&mut self, key: Key, limit: usize, now: Timestamp) -> bool {
        if self.in_flight.len() < limit || self.in_flight.contains_key(&key) {
            return false;
        }
        self.let_go(now);
        self.in_flight.len() >= limit
    }

    /// Counts no more what nobody was heard of for too long.
    fn let_go(&mut self, now: Timestamp) {
        if now < self.let_go_at || planted::is(Bug::InFlightLeaks) {
            return;
        }
        self.in_flight.retain(|_, until| *until > now);
        let first = self.in_flight.values().min().copied();
        self.let_go_at = first.unwrap_or(now + self.in_flight_for);
    }

    /// Its time goes on: its answer could not have been heard.
    pub(super) fn keep_in_flight(&mut self, key: Key, now: Timestamp) {
        if let Some(until) = self.in_flight.get_mut(&key) {
            *until = now + self.in_flight_for;
        }
    }

    /// It waits in the relay.
    pub(crate) fn queue(&mut self, asked: Asked) {
        self.queued.insert(asked);
    }

    /// It does not wait any more: it is given back, or was answered before and does not leave again, or nobody can say that it did not.
    pub(crate) fn unqueue(&mut self, asked: &Asked) {
        self.queued.remove(asked);
    }

    /// The broker has it for good, of one that waited.
    pub(super) fn confirmed_late(&mut self, asked: &Asked, now: Timestamp) {
        self.queued.remove(asked);
        let (key, run, attempt) = *asked;
        if now >= self.late_look_at {
            let known_for = self.in_flight_for;
            self.late.retain(|_, late| late.at + known_for > now);
            self.late_look_at = now + LATE_LOOK_EVERY;
        }
        if self.late.len() < LATE_KNOWN_MAX || self.late.contains_key(&key) {
            self.late.insert(key, Late { run, attempt, at: now });
        }
    }

    /// Whether its broker has confirmed nothing of it for a while.
    pub(crate) fn rests(&mut self, rests: bool) {
        self.rests = rests;
    }

    /// There is no room for it to wait for its turn: when its instance asks again.
    pub(crate) fn give_back(&mut self, key: Key, now: Timestamp) -> Timestamp {
        self.given_back += 1;
        let until = self.again_at(&key, now);
        self.note_held(key, until, now);
        until
    }

    pub(super) fn hear(
        &mut self,
        key: Key,
        well: bool,
        left: Timestamp,
        now: Timestamp,
    ) -> Option<Change> {
        if !planted::is(Bug::InFlightLeaks) {
            self.in_flight.remove(&key);
        }
        self.late.remove(&key);
        self.circuit.as_mut().and_then(|circuit| circuit.hear(key, well, left, now))
    }

    /// The broker did not confirm a command, which may have left all the same. It is sent again, and waits until that is confirmed.
    pub(super) fn unconfirmed(&mut self, key: Key, now: Timestamp) -> Option<Change> {
        self.circuit.as_mut().and_then(|circuit| circuit.hear(key, false, now, now))
    }

    /// A command that left was not answered. Of a closed circuit it says nothing: it was lost before that closed.
    pub(super) fn unconfirmed_while_open(&mut self, key: Key, now: Timestamp) -> Option<Change> {
        let circuit = self.circuit.as_mut().filter(|circuit| !circuit.is_closed())?;
        circuit.hear(key, false, now, now)
    }

    /// The broker has confirmed a command that it had not confirmed before.
    pub(super) fn confirmed_again(&mut self, now: Timestamp) {
        if let Some(circuit) = &mut self.circuit {
            circuit.try_now(now);
        }
    }

    pub(super) fn forget(&mut self, key: Key) {
        self.in_flight.remove(&key);
        self.late.remove(&key);
        if let Some(circuit) = &mut self.circuit {
            circuit.forget(&key);
        }
        self.held.remove(&key);
    }

    pub(super) fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    pub(super) fn counts(&self) -> (usize, usize) {
        self.circuit.as_ref().map(Circuit::counts).unwrap_or_default()
    }

    pub(super) fn pause(&mut self, paused: Option<Paused>) {
        self.paused = paused;
    }

    pub(super) fn held_until(&mut self, key: Key, now: Timestamp) -> Option<Timestamp> {
        let is_closed = self.circuit.as_ref().is_none_or(Circuit::is_closed);
        if is_closed && self.paused.is_none() {
            return None;
        }
        let until = self.again_at(&key, now);
        self.note_held(key, until, now);
        Some(until)
    }

    pub(super) fn at_due(
        &mut self,
        asked: &Asked,
        stage: Stage,
        now: Timestamp,
    ) -> Option<(Hold, Timestamp)> {
        let key = asked.0;
        match stage {
            Stage::UnderWay { asked_at, may_wait }
                if self.waits(asked, may_wait) || self.was_late(asked, asked_at, now) =>
            {
                self.keep_in_flight(key, now);
                Some((Hold::Queued, now))
            }
            Stage::UnderWay { asked_at, .. } => {
                if let Some(until) = self.held_until(key, now) {
                    return Some((Hold::Left, until));
                }
                // It was lost in an outage that is over.
                let circuit = self.circuit.as_ref()?;
                circuit.was_open_since(asked_at).then_some((Hold::Left, now))
            }
            Stage::Resting => {
                self.holds_until(now)?;
                let until = self.again_at(&key, now);
                self.note_held(key, until, now);
                Some((Hold::GivenBack, until))
            }
        }
    }

    /// Whether it is in the relay. A saga that turns back does not wait for a broker that confirms nothing: that may be for ever.
    fn waits(&self, asked: &Asked, may_wait: bool) -> bool {
        self.queued.contains(asked) && (may_wait || !self.rests)
    }

    /// Whether it is in the relay, and its broker has confirmed nothing for a while.
    pub(super) fn is_stuck(&self, asked: &Asked) -> bool {
        self.rests && self.queued.contains(asked)
    }

    /// Whether a quarter or more of its time was over before its broker had it.
    fn was_late(&self, (key, run, attempt): &Asked, asked_at: Timestamp, now: Timestamp) -> bool {
        let late = self.late.get(key).filter(|late| (late.run, late.attempt) == (*run, *attempt));
        late.is_some_and(|late| {
            let lost = late.at.since(asked_at);
            !lost.is_zero() && lost * 4 >= now.since(asked_at)
        })
    }

    /// From when on anything may leave: `None` for now.
    fn holds_until(&self, now: Timestamp) -> Option<Timestamp> {
        if let Some(paused) = &self.paused {
            let look = (now.since(paused.since) / 2).clamp(PAUSE_LOOK_MIN, PAUSE_LOOK_MAX);
            return Some(now + look);
        }
        self.circuit.as_ref()?.holds_until(now)
    }

    /// When a held command is to be asked again: not before anything may leave, and not all at once.
    fn again_at(&self, key: &Key, now: Timestamp) -> Timestamp {
        let rate = self.bucket.as_ref().map(|bucket| u64::from(bucket.rate().per_second));
        let back = self.held.len() as u64 * 1_000 / rate.unwrap_or(BACK_PER_SECOND).max(1);
        let span = back.clamp(millis(BACK_MIN), millis(BACK_MAX));
        let from = self.holds_until(now).unwrap_or(now + Duration::from_millis(span / 2));
        from + Duration::from_millis(scatter(key, now) % span)
    }

    fn note_held(&mut self, key: Key, until: Timestamp, now: Timestamp) {
        self.in_flight.remove(&key);
        match self.held.get_mut(&key) {
            Some(held) => held.until = until,
            None => {
                if self.held.len() >= HELD_KNOWN_MAX {
                    self.forget_settled(now);
                }
                if self.held.len() < HELD_KNOWN_MAX {
                    self.held.insert(key, Held { since: now, until });
                }
            }
        }
    }

    /// Forgets those whose instances did not ask again when it was time: they were settled otherwise.
    fn forget_settled(&mut self, now: Timestamp) {
        self.held.retain(|_, held| held.until + HELD_FORGOTTEN_AFTER > now);
    }

    pub(super) fn view(&mut self, channel: &str, now: Timestamp) -> DestinationView {
        self.forget_settled(now);
        self.let_go(now);
        let (state, since) =
            self.circuit.as_ref().map_or(("closed", None), |circuit| circuit.shown());
        let (outcomes, failures) = self.counts();
        let (state, since) = match &self.paused {
            Some(paused) => ("paused", Some(paused.since)),
            None => (state, since),
        };
        let next_try = self.circuit.as_ref().and_then(|circuit| circuit.holds_until(now));
        DestinationView {
            channel: channel.into(),
            state: state.into(),
            since,
            next_try: next_try.filter(|_| self.paused.is_none()),
            paused: self.paused.clone(),
            outcomes,
            failures,
            held: self.held.len(),
            oldest_held: self.held.values().map(|held| held.since).min(),
            queued: self.queued.len(),
            in_flight: self.protection.in_flight_max.map(|_| self.in_flight.len()),
            in_flight_max: self.protection.in_flight_max,
            rate: self.bucket.as_ref().map(|bucket| bucket.rate().per_second),
            sent: self.sent,
            given_back: self.given_back,
            opened: self.circuit.as_ref().map_or(0, Circuit::opened),
        }
    }
}

#[cfg(test)]
mod tests;
