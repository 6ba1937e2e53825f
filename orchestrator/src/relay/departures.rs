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
    destinations::{Admission, Destination, Destinations, Key},
    engine::{LaneSeq, Outgoing, Sender, Withdrawn},
};
use dirigent_model::time::Timestamp;
use rustc_hash::FxHashMap;
use std::{collections::VecDeque, sync::Arc};
use tokio::time::Instant;

/// Bytes that a queue may send before it is the next one's turn: a few dozen small messages, so that a turn is worth its lock.
const SHARE_BYTES: usize = 16 * 1024;

/// What a message costs beside its body, in bytes.
const HEAD_BYTES: usize = 512;

/// Commands of one saga that wait for their turn at one destination. Beyond it they are given back to their instances.
pub(super) const QUEUED_MAX: usize = 1_000;

pub(super) type Numbered = (LaneSeq, Outgoing);

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
        let mut gone = Vec::new();
        let queued = self.queues.iter().map(|queue| queue.messages.len());
        let count = queued.sum::<usize>() + self.rests.len();
        let (queues, rests) = (&self.queues, &self.rests);
        let all = || queues.iter().flat_map(|queue| &queue.messages).chain(rests.messages());
        if !self.present.may_have(&command.sender.key(), count, all) {
            return gone;
        }
        let mut stays = |(seq, outgoing): &Numbered| {
            let is_gone = outgoing.sender.is_some_and(|sender| command.covers(sender));
            gone.extend(is_gone.then_some(*seq));
            !is_gone
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
        if !gone.is_empty()
            && let Some(destination) = self.destinations.of(&command.channel)
        {
            destination.ask(|gate| gate.unqueue(command.sender.key()));
        }
        gone
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
                queue.give_back_what_is_too_much(now, &mut out);
                Turn::Held
            } else {
                queue.take_turn(now, (messages_max, bytes_max), &mut bytes, &mut out)
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
                        self.queues[*at].tell_who_waits();
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
                out.given_back.push(GivenBack { seq, sender, until });
            }
        }
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
                    self.give_back_what_is_too_much(now, out);
                    break Turn::Held;
                }
                Admission::Leaves => {
                    self.share -= body + HEAD_BYTES;
                    *bytes += body;
                    left += 1;
                    out.window.extend(self.messages.pop_front());
                }
                Admission::GivenBack(until) => out.give_back(self.messages.pop_front(), until),
            }
        };
        if is_free && let Some(destination) = &destination {
            destination.ask(|gate| gate.left(left));
        }
        turn
    }

    /// The latest ones go back: those before them have waited longer.
    fn give_back_what_is_too_much(&mut self, now: Timestamp, out: &mut Departing) {
        let Some(destination) = &self.destination else { return };
        destination.ask(|gate| {
            while self.messages.len() > QUEUED_MAX
                && let Some((seq, outgoing)) = self.messages.pop_back()
                && let Some(sender) = outgoing.sender
            {
                let until = gate.give_back(sender.key(), now);
                out.given_back.push(GivenBack { seq, sender, until });
            }
        });
        self.tell_who_waits();
    }

    /// What stays here has not left, and is not late.
    fn tell_who_waits(&mut self) {
        let (Some(destination), Some((last, _))) = (&self.destination, self.messages.back()) else {
            return;
        };
        if *last < self.told {
            return;
        }
        let new = self.messages.iter().rev().take_while(|(seq, _)| *seq >= self.told);
        let keys = new.filter_map(|(_, outgoing)| Some(outgoing.sender?.key()));
        destination.ask(|gate| keys.for_each(|key| gate.queue(key)));
        self.told = last + 1;
    }
}

impl Departing {
    fn give_back(&mut self, message: Option<Numbered>, until: Timestamp) {
        let Some((seq, Outgoing { sender: Some(sender), .. })) = message else { return };
        self.given_back.push(GivenBack { seq, sender, until });
    }
}

impl Sender {
    /// Names the command to its destination.
    pub(crate) fn key(&self) -> Key {
        (self.instance, self.node, self.leg)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::present::NOTED_MIN, *};
    use crate::destinations::{Paused, Protection, Protections, Rate, WayOut};
    use dirigent_connectors::{Attributes, ChannelKind, Message};
    use dirigent_model::{
        definition::NodeId,
        instance::{InstanceId, Leg},
    };
    use std::time::Duration;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn command(seq: LaneSeq, channel: &str, saga: u32) -> Numbered {
        let instance = InstanceId::of("a", &seq.into());
        let sender = Sender { instance, run: 0, node: NodeId(1), leg: Leg::Do, attempt: 1 };
        let message = Message {
            channel: channel.into(),
            kind: ChannelKind::Work,
            key: seq.to_string(),
            attributes: Attributes::new(),
            others: vec![],
            body: vec![0; 100].into(),
        };
        (seq, Outgoing { lane: 0, sender: Some(sender), saga, message })
    }

    fn departures(limits: &[(&str, Protection)]) -> Departures {
        let way = Arc::new(WayOut::default());
        let within = Duration::from_secs(10);
        let channels = ["a", "b"].map(|channel| (channel.to_owned(), within, Arc::clone(&way)));
        let by_channel = limits.iter().map(|(name, p)| ((*name).to_owned(), *p)).collect();
        let protections = Protections { by_channel, ..Protections::default() };
        Departures::new(Arc::new(Destinations::new(channels, &protections)))
    }

    fn at() -> Instant {
        Instant::now()
    }

    fn seqs(departing: &Departing) -> Vec<LaneSeq> {
        departing.window.iter().map(|(seq, _)| *seq).collect()
    }

    #[test]
    fn the_flood_of_one_saga_delays_another_by_a_share_only() {
        let mut departures = departures(&[]);
        departures.take_in((0..10_000).map(|seq| command(seq, "a", 1)).collect());
        departures.take_in((10_000..10_010).map(|seq| command(seq, "a", 2)).collect());
        let window = departures.next(NOW, at(), 100, usize::MAX);
        let seqs = seqs(&window);
        assert_eq!(seqs.len(), 100);
        assert_eq!(seqs.iter().filter(|seq| **seq >= 10_000).count(), 10, "{seqs:?}");
        let mine: Vec<_> = seqs.iter().filter(|seq| **seq < 10_000).collect();
        assert!(mine.is_sorted(), "each saga keeps its order");
        assert_eq!(departures.ready(), 10_010 - 100);
    }

    #[test]
    fn a_destination_that_takes_nothing_delays_no_other_one() {
        let mut departures = departures(&[]);
        let paused = Paused { by: "ann".into(), why: "repair".into(), since: NOW };
        departures.destinations.of("a").unwrap().pause(Some(paused));
        departures.take_in((0..500).map(|seq| command(seq, "a", 1)).collect());
        departures.take_in((500..600).map(|seq| command(seq, "b", 1)).collect());
        let departing = departures.next(NOW, at(), 2_000, usize::MAX);
        assert_eq!(seqs(&departing), (500..600).collect::<Vec<_>>());
        let back: Vec<_> = departing.given_back.iter().map(|given| given.seq).collect();
        assert_eq!(back, (0..500).collect::<Vec<_>>(), "their instances ask again");
        assert_eq!((departures.ready(), departures.is_waiting()), (0, false));
    }

    #[test]
    fn what_a_rate_does_not_let_go_waits_in_its_order_and_the_latest_go_back_where_it_is_too_much()
    {
        let rate =
            Protection { rate: Some(Rate { per_second: 10, burst: 5 }), ..Default::default() };
        let mut departures = departures(&[("a", rate)]);
        departures.take_in((0..1_200).map(|seq| command(seq, "a", 1)).collect());
        let first = departures.next(NOW, at(), 2_000, usize::MAX);
        assert_eq!(seqs(&first), [0, 1, 2, 3, 4]);
        assert_eq!(first.given_back.len(), 195);
        assert!(first.given_back.iter().all(|given| given.seq >= 1_005));
        assert!(departures.is_waiting());
        let none = departures.next(NOW, at(), 2_000, usize::MAX);
        assert!(none.window.is_empty() && none.given_back.is_empty());
        let later = departures.next(NOW + Duration::from_millis(200), at(), 2_000, usize::MAX);
        assert_eq!(seqs(&later), [5, 6]);
        let view = departures.destinations.of("a").unwrap().view(NOW);
        assert_eq!((view.queued, view.held, view.sent), (998, 195, 7));
    }

    #[test]
    fn the_shares_of_a_limited_destination_are_even() {
        let rate =
            Protection { rate: Some(Rate { per_second: 100, burst: 1 }), ..Default::default() };
        let mut departures = departures(&[("a", rate)]);
        departures.take_in((0..900).map(|seq| command(seq, "a", 1)).collect());
        departures.take_in((900..1_000).map(|seq| command(seq, "a", 2)).collect());
        let mut left = Vec::new();
        for step in 0..100 {
            let now = NOW + Duration::from_millis(step * 10);
            left.extend(seqs(&departures.next(now, at(), 2_000, usize::MAX)));
        }
        let second = left.iter().filter(|seq| **seq >= 900).count();
        assert!((40..=60).contains(&second), "{second} of {}", left.len());
    }

    #[test]
    fn a_channel_that_does_not_confirm_delays_no_other_and_keeps_its_order() {
        let mut departures = departures(&[]);
        departures.take_in((0..10).map(|seq| command(seq, "a", 1)).collect());
        let window = departures.next(NOW, at(), 4, usize::MAX).window;
        departures.hear(window, false, at());
        departures.take_in((20..2_000).map(|seq| command(seq, "a", 2)).collect());
        departures.take_in((10..20).map(|seq| command(seq, "b", 1)).collect());
        let departing = departures.next(NOW, at(), 2_000, usize::MAX);
        assert_eq!(seqs(&departing), (10..20).collect::<Vec<_>>());
        let back: Vec<_> = departing.given_back.iter().map(|given| given.seq).collect();
        assert_eq!(
            back,
            (1_020..2_000).rev().collect::<Vec<_>>(),
            "what is too much waits with its instances"
        );
        assert_eq!(departures.queued(), 6 + QUEUED_MAX);
        departures.hear(vec![], true, at());
        let later = at() + Duration::from_secs(30);
        let tried = departures.next(NOW, later, 2_000, usize::MAX);
        assert_eq!(seqs(&tried), [0, 1, 2, 3], "alone, until it is known how they fare");
        departures.hear(vec![], true, later);
        let rest = seqs(&departures.next(NOW, later, 2_000, usize::MAX));
        assert_eq!((rest.len(), &rest[..6]), (6 + QUEUED_MAX, &[4, 5, 6, 7, 8, 9][..]));
        assert!(!departures.is_waiting());
    }

    #[test]
    fn a_command_that_is_withdrawn_leaves_neither_its_queue_nor_its_rest_and_its_channel_goes_on() {
        let mut departures = departures(&[]);
        departures.take_in((0..6).map(|seq| command(seq, "a", 1)).collect());
        let window = departures.next(NOW, at(), 2, usize::MAX).window;
        departures.hear(window, false, at());
        let withdrawn = |seq| {
            let sender = command(seq, "a", 1).1.sender.expect("it is a command");
            Withdrawn { lane: 0, channel: "a".into(), sender }
        };
        let gone = [0, 4, 9].map(|seq| departures.withdraw(&withdrawn(seq)));
        assert_eq!(gone, [vec![0], vec![4], vec![]]);
        let later = at() + Duration::from_secs(30);
        assert_eq!(seqs(&departures.next(NOW, later, 10, usize::MAX)), [1]);
        departures.hear(vec![], true, later);
        assert_eq!(seqs(&departures.next(NOW, later, 10, usize::MAX)), [2, 3, 5]);
        assert_eq!((departures.ready(), departures.is_waiting()), (0, false));
    }

    #[test]
    fn a_command_is_found_among_many_that_wait_whenever_it_came() {
        let mut departures = departures(&[]);
        let withdrawn = |seq| {
            let sender = command(seq, "a", 1).1.sender.expect("it is a command");
            Withdrawn { lane: 0, channel: "a".into(), sender }
        };
        let many = u64::try_from(NOTED_MIN).expect("a number");
        departures.take_in((0..2 * many).map(|seq| command(seq, "a", 1)).collect());
        let window = departures.next(NOW, at(), 2, usize::MAX).window;
        assert!(departures.withdraw(&withdrawn(5 * many)).is_empty(), "never here");
        assert!(departures.withdraw(&withdrawn(0)).is_empty(), "on its way");
        departures.hear(window, false, at());
        assert_eq!(departures.withdraw(&withdrawn(0)), [0], "not confirmed");
        assert_eq!(departures.withdraw(&withdrawn(9)), [9], "there from the beginning");
        departures.take_in((2 * many..9 * many).map(|seq| command(seq, "a", 1)).collect());
        for seq in [2 * many, 9 * many - 1, 1, 8 * many] {
            assert_eq!(departures.withdraw(&withdrawn(seq)), [seq], "came later");
            assert!(departures.withdraw(&withdrawn(seq)).is_empty(), "once");
        }
    }

    #[test]
    fn what_the_next_window_has_no_room_for_is_known_to_wait_until_it_leaves() {
        let mut departures = departures(&[]);
        departures.take_in((0..4).map(|seq| command(seq, "a", 1)).collect());
        departures.take_in((4..7).map(|seq| command(seq, "a", 2)).collect());
        let queued = |departures: &Departures| {
            departures.destinations.of("a").map(|known| known.view(NOW).queued)
        };
        for (window, waiting) in [(vec![0, 1], 5), (vec![2, 3], 3), (vec![4, 5], 1), (vec![6], 0)] {
            assert_eq!(seqs(&departures.next(NOW, at(), 2, usize::MAX)), window);
            assert_eq!(queued(&departures), Some(waiting), "after {window:?}");
        }
    }

    #[test]
    fn windows_keep_their_bounds_and_one_message_too_large_for_them_goes_alone() {
        let mut departures = departures(&[]);
        departures.take_in((0..10).map(|seq| command(seq, "a", 1)).collect());
        assert_eq!(seqs(&departures.next(NOW, at(), 4, usize::MAX)), [0, 1, 2, 3]);
        assert_eq!(seqs(&departures.next(NOW, at(), 100, 250)), [4, 5]);
        assert_eq!(seqs(&departures.next(NOW, at(), 100, 50)), [6]);
        assert_eq!(seqs(&departures.next(NOW, at(), 100, usize::MAX)), [7, 8, 9]);
        assert_eq!(departures.ready(), 0);
        let mut large = command(20, "a", 1);
        large.1.message.body = vec![0; 10 * SHARE_BYTES].into();
        departures.take_in(vec![large]);
        assert_eq!(seqs(&departures.next(NOW, at(), 100, usize::MAX)), [20]);
    }
}
