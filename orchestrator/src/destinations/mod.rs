//! Destinations: the channels that commands go to, and what each of them is given at the most.
//!
//! ```text
//! shard: what was answered, and what was not ─► Destination ◄─ relay: may this command leave now?
//!        is this one late, or held?          ◄─     ▲      ─► it leaves · it waits for its turn · it is given back
//!                                                   └── operator: pause, resume
//! ```
//!
//! A command that may not leave waits for its turn in the relay where that will be soon: for a token of the rate, or for an
//! answer where many are in flight. Where nobody knows when, it is given back to its instance, which is durable and asks
//! again by itself; so a destination that is away for a day costs no memory and no journal here. Everything is in memory
//! and begins anew with the process, except that an operator paused a destination: the engine keeps that.

mod bucket;
mod circuit;
mod gate;
mod outcomes;
mod way_out;

pub use bucket::Rate;
pub use circuit::{
    CircuitSettings, FAILING_PERCENT, FAILURES_IN_A_ROW, OPEN_MAX, OPEN_MIN, OUTCOMES_MAX,
    OUTCOMES_MIN, PROBES_MAX,
};
pub use gate::Paused;

pub(crate) use gate::{Admission, Stage};
pub(crate) use way_out::WayOut;

use circuit::Change;
use dirigent_model::{
    decision::Hold,
    definition::NodeId,
    instance::{InstanceId, Leg},
    time::Timestamp,
};
use gate::Gate;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Names a command: it is the same for every attempt.
pub(crate) type Key = (InstanceId, NodeId, Leg);

/// Names one attempt of a command: in which run of its instance, and the how many-th.
pub(crate) type Asked = (Key, u32, u32);

/// What a destination is given at the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protection {
    /// Holds commands while nobody answers; `None` for never.
    pub circuit: Option<CircuitSettings>,
    /// How many commands; as many as there are if not said.
    pub rate: Option<Rate>,
    /// Commands that are sent and not yet answered; any number if not said. Those of before a restart are not counted.
    pub in_flight_max: Option<usize>,
}

impl Default for Protection {
    /// A circuit, and no limits.
    fn default() -> Self {
        Self { circuit: Some(CircuitSettings::default()), rate: None, in_flight_max: None }
    }
}

/// What all destinations are given, and what some of them are given instead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Protections {
    /// Where nothing else is said.
    pub all: Protection,
    /// By channel.
    pub by_channel: BTreeMap<String, Protection>,
}

/// A destination as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationView {
    /// The channel.
    pub channel: String,
    /// `closed` while commands leave, `open` or `half-open` while its circuit holds them, `paused`.
    pub state: String,
    /// Since when it is not closed.
    pub since: Option<Timestamp>,
    /// Who paused it, and why.
    pub paused: Option<Paused>,
    /// When it is tried again.
    pub next_try: Option<Timestamp>,
    /// The last outcomes that are looked at; at a high throughput, all of a tenth of a second.
    pub outcomes: usize,
    /// How many of them are failures: failed for now, no reply in time, or not confirmed by the broker.
    pub failures: usize,
    /// Commands that were given back and rest with their instances, as far as they are known.
    pub held: usize,
    /// Since when the oldest of them is held.
    pub oldest_held: Option<Timestamp>,
    /// Commands that wait in this process, for their turn or for the word of a broker that takes long.
    pub queued: usize,
    /// Commands sent and not yet answered; known where their number is limited.
    pub in_flight: Option<usize>,
    /// Their limit.
    pub in_flight_max: Option<usize>,
    /// Commands a second, where limited.
    pub rate: Option<u32>,
    /// Commands that were let go, by this process.
    pub sent: u64,
    /// Times that a command was given back, by this process.
    pub given_back: u64,
    /// Times that its circuit opened, in this process.
    pub opened: u64,
}

impl DestinationView {
    /// All that `state` may be.
    pub const STATES: [&str; 4] = ["closed", "open", "half-open", "paused"];
}

/// A command that waited for less in the relay was not late.
const LATE_FROM: Duration = Duration::from_millis(50);

/// All destinations of a process.
#[derive(Debug, Default)]
pub(crate) struct Destinations {
    by_channel: BTreeMap<String, Arc<Destination>>,
}

impl Destinations {
    /// For these channels, with the longest time that an answer from each is awaited, and the way out that they share with others
    /// of their lane: it is told of what may let a waiting command go.
    pub(crate) fn new(
        channels: impl IntoIterator<Item = (String, Duration, Arc<WayOut>)>,
        protections: &Protections,
    ) -> Self {
        let made = channels.into_iter().map(|(channel, reply_within, way)| {
            let protection = protections.by_channel.get(&channel).unwrap_or(&protections.all);
            let gate = Mutex::new(Gate::new(*protection, reply_within));
            (channel.clone(), Arc::new(Destination { channel, gate, way }))
        });
        Self { by_channel: made.collect() }
    }

    pub(crate) fn of(&self, channel: &str) -> Option<&Arc<Destination>> {
        self.by_channel.get(channel)
    }

    pub(crate) fn channels(&self) -> impl Iterator<Item = &str> {
        self.by_channel.keys().map(String::as_str)
    }

    pub(crate) fn views(&self, now: Timestamp) -> Vec<DestinationView> {
        self.by_channel.values().map(|destination| destination.view(now)).collect()
    }
}

/// One destination. Every question takes a lock that is held for a moment.
#[derive(Debug)]
pub(crate) struct Destination {
    channel: String,
    gate: Mutex<Gate>,
    way: Arc<WayOut>,
}

impl Destination {
    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks about several commands under one lock.
    pub(crate) fn ask<T>(&self, questions: impl FnOnce(&mut Gate) -> T) -> T {
        questions(&mut self.gate())
    }

    /// A command that left at `left` was answered, refusals included; or it failed for now, or was not answered in time.
    pub(crate) fn hear(&self, key: Key, well: bool, left: Timestamp, now: Timestamp) {
        let mut gate = self.gate();
        let change = gate.hear(key, well, left, now);
        let (is_waited_for, counts) = (gate.has_queued(), gate.counts());
        drop(gate);
        if is_waited_for {
            self.way.wake();
        }
        self.tell(change, counts);
    }

    /// The broker did not confirm a command, which may have left all the same; it is sent again.
    pub(crate) fn unconfirmed(&self, key: Key, now: Timestamp) {
        let mut gate = self.gate();
        let change = gate.unconfirmed(key, now);
        let counts = gate.counts();
        drop(gate);
        self.tell(change, counts);
    }

    /// The broker has confirmed a command that waited in the relay since `told`. Where it had not confirmed it before, it is back, and so
    /// may be those behind it.
    pub(crate) fn confirmed(&self, asked: &Asked, told: Timestamp, again: bool, now: Timestamp) {
        let mut gate = self.gate();
        match now.since(told) < LATE_FROM {
            true => gate.unqueue(asked),
            false => gate.confirmed_late(asked, now),
        }
        if again {
            gate.confirmed_again(now);
        }
    }

    /// Whether a command waits in the relay for a broker that has confirmed nothing for a while.
    pub(crate) fn is_stuck(&self, asked: &Asked) -> bool {
        self.gate().is_stuck(asked)
    }

    fn tell(&self, change: Option<Change>, (outcomes, failures): (usize, usize)) {
        match change {
            None => {}
            Some(Change::Opened) => tracing::warn!(
                channel = self.channel,
                failures,
                outcomes,
                "The circuit of a destination has opened: its commands are held until it answers again."
            ),
            Some(Change::Reopened(until)) => tracing::debug!(
                channel = self.channel,
                %until,
                "A probe of a destination failed; its commands go on being held."
            ),
            Some(Change::Closed(after)) => {
                let seconds = after.as_secs();
                tracing::info!(
                    channel = self.channel,
                    seconds,
                    "The circuit of a destination has closed: it answers again."
                );
                self.way.wake();
            }
        }
    }

    /// What is due for a command: `None` where time goes on as it does.
    pub(crate) fn at_due(
        &self,
        asked: &Asked,
        stage: Stage,
        now: Timestamp,
    ) -> Option<(Hold, Timestamp)> {
        let mut gate = self.gate();
        let due = gate.at_due(asked, stage, now)?;
        // No reply in time: of a probe, this is what was to be found out.
        let change = match due.0 {
            Hold::Left => gate.unconfirmed_while_open(asked.0, now),
            Hold::Queued | Hold::GivenBack => None,
        };
        let counts = gate.counts();
        drop(gate);
        self.tell(change, counts);
        Some(due)
    }

    /// Until when it is held, if it is.
    pub(crate) fn held_until(&self, key: Key, now: Timestamp) -> Option<Timestamp> {
        self.gate().held_until(key, now)
    }

    /// The answer to this command could not have been heard: it goes on being out.
    pub(crate) fn keep_in_flight(&self, key: Key, now: Timestamp) {
        self.gate().keep_in_flight(key, now);
    }

    /// Nobody waits for this command any more.
    pub(crate) fn forget(&self, key: Key) {
        let mut gate = self.gate();
        gate.forget(key);
        if gate.has_queued() {
            self.way.wake();
        }
    }

    /// Lets nothing leave until it is resumed; `None` resumes.
    pub(crate) fn pause(&self, paused: Option<Paused>) {
        self.gate().pause(paused);
        self.way.wake();
    }

    pub(crate) fn view(&self, now: Timestamp) -> DestinationView {
        self.gate().view(&self.channel, now)
    }

    /// Why a command rests, for people; `None` where it is held no longer, or not here.
    pub(crate) fn why_held(&self, now: Timestamp) -> Option<String> {
        let view = self.view(now);
        let since = view.since?;
        let channel = &self.channel;
        Some(match view.paused {
            Some(Paused { by, why, .. }) => {
                format!("`{channel}` was paused by {by} at {since}: {why}")
            }
            None => format!("circuit of `{channel}` {} since {since}", view.state),
        })
    }
}

/// Spreads a key over all bits, so that what was held together does not come back together.
fn scatter(key: &Key, now: Timestamp) -> u64 {
    let (high, low) = key.0.0.as_u64_pair();
    // The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
    let mut bits = (high ^ low ^ now.0).wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
