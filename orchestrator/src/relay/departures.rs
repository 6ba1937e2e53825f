//! Who leaves next: a queue for each saga at each destination, served in turn.
//!
//! ```text
//! durable messages ─► (destination, saga) queues ─► a share each, round and round ─► the next window
//!                                      │ its destination takes no more now
//!                                      └─► waits for its turn · is given back to its instance
//! not confirmed ─► its channel rests ─► before all others of it, the next window
//! ```
//!
//! Deficit round robin (Shreedhar and Varghese, SIGCOMM 1995) over the queues that have something: a saga that floods a
//! destination delays another one by a share at the most, and a destination that takes nothing delays nobody else. Within
//! a queue order is kept, and with it the order of each instance at each destination. Events and dead letters are governed
//! by no destination; they share one queue for each channel.

use super::{present::Present, rests::Rests};
use crate::{
    destinations::{Admission, Asked, Destination, Destinations, Key},
    engine::{LaneSeq, Outgoing, Sender, Withdrawn},
};
use dirigent_model::time::Timestamp;
use rustc_hash::FxHashMap;
use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};
use tokio::time::Instant;

/// Bytes that a queue may send before it is the next one's turn: a few dozen small messages, so that a turn is worth its lock.
const SHARE_BYTES: usize = 16 * 1024;

/// What a message costs beside its body, in bytes.
const HEAD_BYTES: usize = 512;

/// Commands of one saga that wait for their turn at one destination. Beyond it they are given back to their instances.
pub(super) const QUEUED_MAX: usize = 1_000;

pub(super) type Numbered = (LaneSeq, Outgoing);

/// Commands that are known to wait, and since when.
type Told = FxHashMap<LaneSeq, Timestamp>;

struct Queue {
    channel: String,
    destination: Option<Arc<Destination>>,
    messages: VecDeque<Numbered>,
    /// Those below this number are known to their destination as waiting.
    told: LaneSeq,
    /// What is left of its share.
    share: usize,
    /// It has its place among those to be served.
    is_listed: bool,
}

/// A command on its way back to its instance.
pub(super) struct GivenBack {
    pub seq: LaneSeq,
    pub sender: Sender,
    pub until: Timestamp,
}

/// What comes out of one look.
#[derive(Default)]
pub(super) struct Departing {
    pub window: Vec<Numbered>,
    pub given_back: Vec<GivenBack>,
}

/// What is to leave on a lane.
pub(super) struct Departures {
    destinations: Arc<Destinations>,
    /// By channel, then by saga.
    places: FxHashMap<String, Vec<(u32, usize)>>,
    queues: Vec<Queue>,
    /// Queues to be served, the next one first.
    listed: VecDeque<usize>,
    /// Queues whose destination takes nothing for now; those that had nothing of late come first.
    waiting: Vec<usize>,
    rests: Rests,
    /// Channels whose destinations know that their broker confirms nothing of them.
    resting: BTreeSet<String>,
    /// Commands that their destinations know to wait, until the broker has confirmed them or they are gone from here: of those in a window, too.
    /// With the time since when.
    told: Told,
    /// Commands among them, for those that are withdrawn.
    present: Present,
    /// Messages in listed queues.
    ready: usize,
    /// Messages in waiting ones, as of the last look.
    queued: usize,
}

impl Departures {
    pub(super) fn new(destinations: Arc<Destinations>) -> Self {
        Self {
            destinations,
            places: FxHashMap::default(),
            queues: Vec::new(),
            listed: VecDeque::new(),
            waiting: Vec::new(),
            rests: Rests::default(),
            resting: BTreeSet::new(),
            told: Told::default(),
            present: Present::default(),
            ready: 0,
            queued: 0,
        }
    }

    /// Messages that may leave as far as is known.
    pub(super) fn ready(&self) -> usize {
        self.ready
    }

    /// Whether messages wait for their destination, or for the end of their channel's rest.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty() || !self.rests.is_empty()
    }

    /// What has become of a window: what of it is to be sent again, in its order, and whether anything was confirmed.
    pub(super) fn hear(&mut self, unconfirmed: Vec<Numbered>, was_confirmed: bool, at: Instant) {
        self.present.come(unconfirmed.iter());
        self.rests.hear(unconfirmed, was_confirmed, at);
        self.tell_who_rests(at);
    }

    /// Tells destinations whether their broker has confirmed nothing of them for a while.
    fn tell_who_rests(&mut self, at: Instant) {
        if self.rests.is_empty() && self.resting.is_empty() {
            return;
        }
        let resting: BTreeSet<String> = self.rests.silent(at).map(ToOwned::to_owned).collect();
        for channel in resting.symmetric_difference(&self.resting) {
            if let Some(destination) = self.destinations.of(channel) {
                destination.ask(|gate| gate.rests(resting.contains(channel)));
            }
        }
        self.resting = resting;
    }

    /// A command waits here, or in a window that its broker takes long for: what is not confirmed is not late.
    pub(super) fn tell(
        &mut self,
        (seq, sender, channel): (LaneSeq, Option<Sender>, &str),
        now: Timestamp,
    ) {
        if let Some(sender) = sender
            && let Some(destination) = self.destinations.of(channel)
            && self.told.insert(seq, now).is_none()
        {
            destination.ask(|gate| gate.queue(sender.asked()));
        }
    }

    /// All that is here waits.
    pub(super) fn tell_all(&mut self, now: Timestamp) {
        for queue in &mut self.queues {
            queue.tell_who_waits(now, &mut self.told);
        }
    }

    /// The broker has a message for good; `again` where it was not confirmed before.
    pub(super) fn confirmed(
        &mut self,
        (seq, sender, channel): (LaneSeq, Option<Sender>, &str),
        again: bool,
        now: impl FnOnce() -> Timestamp,
    ) {
        if let Some(told) = self.told.remove(&seq)
            && let Some(sender) = sender
            && let Some(destination) = self.destinations.of(channel)
        {
            destination.confirmed(&sender.asked(), told, again, now());
        }
    }

    /// A command is gone from here without being confirmed.
    pub(super) fn untell(&mut self, seq: LaneSeq, sender: Sender, channel: &str) {
        if self.told.remove(&seq).is_some()
            && let Some(destination) = self.destinations.of(channel)
        {
            destination.ask(|gate| gate.unqueue(&sender.asked()));
        }
    }

    /// How many wait for their destination, as of the last look: at most [`QUEUED_MAX`] for each saga at each of them.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    pub(super) fn destination(&self, channel: &str) -> Option<&Arc<Destination>> {
        self.destinations.of(channel)
    }

    pub(super) fn take_in(&mut self, messages: Vec<Numbered>) {
        self.present.come(messages.iter());
        for message in messages {
            let at = self.place_of(&message.1);
            let queue = &mut self.queues[at];
            queue.messages.push_back(message);
            if queue.is_listed {
                self.ready += 1;
            } else if !self.waiting.contains(&at) {
                queue.is_listed = true;
                self.listed.push_back(at);
                self.ready += queue.messages.len();
            }
        }
    }

    /// Takes out all attempts that a command withdraws, and says which they were. As a rule they are confirmed, and nothing is here.
    pub(super) fn withdraw(&mut self, command: &Withdrawn) -> Vec<LaneSeq> {
        let mut gone: Vec<(LaneSeq, Sender)> = Vec::new();
        let queued = self.queues.iter().map(|queue| queue.messages.len());
        let count = queued.sum::<usize>() + self.rests.len();
        let (queues, rests) = (&self.queues, &self.rests);
        let all = || queues.iter().flat_map(|queue| &queue.messages).chain(rests.messages());
        if !self.present.may_have(&command.sender.key(), count, all) {
            return Vec::new();
        }
        let mut stays = |(seq, outgoing): &Numbered| {
            let is_gone = outgoing.sender.filter(|sender| command.covers(*sender));
            gone.extend(is_gone.map(|sender| (*seq, sender)));
            is_gone.is_none()
        };
        self.rests.retain(&command.channel, &mut stays);
        for (_, at) in self.places.get(&command.channel).into_iter().flatten() {
            let queue = &mut self.queues[*at];
            let before = queue.messages.len();
            queue.messages.retain(&mut stays);
            if queue.is_listed {
                self.ready -= before - queue.messages.len();
            }
        }
        for (seq, sender) in &gone {
            self.untell(*seq, *sender, &command.channel);
        }
        gone.into_iter().map(|(seq, _)| seq).collect()
    }

    fn place_of(&mut self, outgoing: &Outgoing) -> usize {
        let saga = outgoing.sender.map_or(0, |_| outgoing.saga);
        let channel = &outgoing.message.channel;
        let known = self.places.get(channel).map_or(&[][..], Vec::as_slice);
        if let Some((_, at)) = known.iter().find(|(known, _)| *known == saga) {
            return *at;
        }
        let destination = outgoing.sender.and_then(|_| self.destinations.of(channel).cloned());
        self.queues.push(Queue {
            channel: channel.clone(),
            destination,
            messages: VecDeque::new(),
            told: 0,
            share: 0,
            is_listed: false,
        });
        let at = self.queues.len() - 1;
        self.places.entry(channel.clone()).or_default().push((saga, at));
        at
    }

    /// The next window: at most so many messages, and so many bytes unless one alone has more.
    pub(super) fn next(
        &mut self,
        now: Timestamp,
        at: Instant,
        messages_max: usize,
        bytes_max: usize,
    ) -> Departing {
        for at in std::mem::take(&mut self.waiting) {
            self.list(at);
        }
        let mut out = Departing::default();
        let (mut bytes, mut served) = (0, Vec::new());
        self.give_back_what_rests_for_too_long(now, at, &mut out);
        self.rests.leave(at, (messages_max, bytes_max), &mut bytes, &mut out.window);
        while let Some(at) = self.listed.pop_front() {
            let queue = &mut self.queues[at];
            let before = queue.messages.len();
            queue.share += SHARE_BYTES;
            let turn = if self.rests.holds(&queue.channel) {
                queue.give_back_what_is_too_much(now, &mut out, &mut self.told);
                Turn::Held
            } else {
                let most = (messages_max, bytes_max);
                queue.take_turn(now, most, &mut bytes, &mut out, &mut self.told)
            };
            let after = queue.messages.len();
            self.ready -= before - after;
            match turn {
                Turn::Empty => {
                    queue.share = 0;
                    queue.is_listed = false;
                }
                Turn::Over => self.listed.push_back(at),
                Turn::Held => {
                    queue.share = 0;
                    queue.is_listed = false;
                    self.ready -= after;
                    if before > after { served.push(at) } else { self.waiting.push(at) }
                }
                Turn::WindowIsFull => {
                    queue.share = 0;
                    self.listed.push_front(at);
                    for at in &self.listed {
                        self.queues[*at].tell_who_waits(now, &mut self.told);
                    }
                    break;
                }
            }
        }
        self.waiting.append(&mut served);
        // What no destination governs has no bound here: it counts for the outbox's.
        let governed = self.waiting.iter().map(|at| &self.queues[*at]);
        let governed = governed.filter(|queue| queue.destination.is_some());
        self.queued = governed.map(|queue| queue.messages.len()).sum();
        out
    }

    fn give_back_what_rests_for_too_long(
        &mut self,
        now: Timestamp,
        at: Instant,
        out: &mut Departing,
    ) {
        if self.rests.is_empty() {
            return;
        }
        let destinations = &self.destinations;
        let is_governed = |(_, outgoing): &Numbered| {
            outgoing.sender.is_some() && destinations.of(&outgoing.message.channel).is_some()
        };
        for (seq, outgoing) in self.rests.overdue(at, is_governed) {
            if let Some(sender) = outgoing.sender
                && let Some(destination) = self.destinations.of(&outgoing.message.channel)
            {
                let until = destination.ask(|gate| gate.give_back(sender.key(), now));
                self.untell(seq, sender, &outgoing.message.channel);
                out.given_back.push(GivenBack { seq, sender, until });
            }
        }
        self.tell_who_rests(at);
    }

    fn list(&mut self, at: usize) {
        self.queues[at].is_listed = true;
        self.listed.push_back(at);
        self.ready += self.queues[at].messages.len();
    }
}

enum Turn {
    Empty,
    Over,
    /// Its destination takes no more for now.
    Held,
    WindowIsFull,
}

impl Queue {
    fn take_turn(
        &mut self,
        now: Timestamp,
        (messages_max, bytes_max): (usize, usize),
        bytes: &mut usize,
        out: &mut Departing,
        told: &mut Told,
    ) -> Turn {
        let destination = self.destination.clone();
        let is_free = destination.as_ref().is_none_or(|known| known.ask(|gate| gate.is_free(now)));
        let mut left = 0;
        let turn = loop {
            let Some((_, outgoing)) = self.messages.front() else { break Turn::Empty };
            let body = outgoing.message.body.len();
            if body + HEAD_BYTES > self.share {
                break Turn::Over;
            }
            let fits = out.window.is_empty() || *bytes + body <= bytes_max;
            if out.window.len() >= messages_max || !fits {
                break Turn::WindowIsFull;
            }
            let asked = match (&destination, outgoing.sender) {
                (Some(destination), Some(sender)) if !is_free => {
                    destination.ask(|gate| gate.admit(sender.key(), now))
                }
                _ => Admission::Leaves,
            };
            match asked {
                Admission::Waits => {
                    self.give_back_what_is_too_much(now, out, told);
                    break Turn::Held;
                }
                Admission::Leaves => {
                    self.share -= body + HEAD_BYTES;
                    *bytes += body;
                    left += 1;
                    out.window.extend(self.messages.pop_front());
                }
                Admission::GivenBack(until) => {
                    let Some((seq, Outgoing { sender: Some(sender), .. })) =
                        self.messages.pop_front()
                    else {
                        continue;
                    };
                    if told.remove(&seq).is_some()
                        && let Some(destination) = &destination
                    {
                        destination.ask(|gate| gate.unqueue(&sender.asked()));
                    }
                    out.given_back.push(GivenBack { seq, sender, until });
                }
            }
        };
        if is_free && let Some(destination) = &destination {
            destination.ask(|gate| gate.left(left));
        }
        turn
    }

    /// The latest ones go back: those before them have waited longer.
    fn give_back_what_is_too_much(&mut self, now: Timestamp, out: &mut Departing, told: &mut Told) {
        let Some(destination) = &self.destination else { return };
        destination.ask(|gate| {
            while self.messages.len() > QUEUED_MAX
                && let Some((seq, outgoing)) = self.messages.pop_back()
                && let Some(sender) = outgoing.sender
            {
                let until = gate.give_back(sender.key(), now);
                if told.remove(&seq).is_some() {
                    gate.unqueue(&sender.asked());
                }
                out.given_back.push(GivenBack { seq, sender, until });
            }
        });
        self.tell_who_waits(now, told);
    }

    /// What stays here has not left, and is not late.
    fn tell_who_waits(&mut self, now: Timestamp, told: &mut Told) {
        let (Some(destination), Some((last, _))) = (&self.destination, self.messages.back()) else {
            return;
        };
        if *last < self.told {
            return;
        }
        let new = self.messages.iter().rev().take_while(|(seq, _)| *seq >= self.told);
        let new = new.filter_map(|(seq, outgoing)| Some((*seq, outgoing.sender?.asked())));
        destination.ask(|gate| {
            for (seq, asked) in new {
                told.insert(seq, now);
                gate.queue(asked);
            }
        });
        self.told = last + 1;
    }
}

impl Sender {
    /// Names the command to its destination.
    pub(crate) fn key(&self) -> Key {
        (self.instance, self.node, self.leg)
    }

    /// Names this attempt of it.
    pub(crate) fn asked(&self) -> Asked {
        (self.key(), self.run, self.attempt)
    }
}

#[cfg(test)]
mod tests;
