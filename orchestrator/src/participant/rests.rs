//! Messages of a participant that the broker did not confirm: their channels rest for a while, and everything else goes on.
//!
//! ```text
//! a window came back ─► what is unknown rests, with all that comes later for its channel ─► its rest is over: a few of it are tried
//!                    ─► confirmed: the rest of it · unknown again: a longer rest
//! ```
//!
//! One queue that is ill (without a leader, full) must not hold up the answers to everybody else. What rests is durable in the outbox, so
//! the commands it answers are settled and make room for others; it is sent again after a restart, too. The order within a channel
//! holds. While as much rests as may, no further window is taken.
//!
//! Pure: what the broker said and the time in, what is to be sent again out.

use super::turn::Outgoing;
use dirigent_connectors::retry::Delays;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tokio::time::Instant;

/// Messages that rest at once. With all of them the participant stops taking commands until some are confirmed.
const RESTING_MAX: usize = 10_000;

/// Bytes of the bodies of what rests at once.
const RESTING_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Messages of a channel that are tried after a rest, until one such handful was confirmed.
const TRIED_MAX: usize = 32;

struct Rest {
    /// To be sent again, in this order.
    again: VecDeque<Outgoing>,
    until: Instant,
    delays: Delays,
    /// Some of it is on its way.
    is_out: bool,
    /// What was sent again last was confirmed.
    is_well: bool,
}

/// All channels that rest, by name.
#[derive(Default)]
pub(super) struct Rests {
    by_channel: BTreeMap<String, Rest>,
}

impl Rests {
    /// Whether nothing of this channel may leave but what rests here.
    pub(super) fn holds(&self, channel: &str) -> bool {
        self.by_channel.contains_key(channel)
    }

    /// Whether another window may be taken.
    pub(super) fn has_room(&self) -> bool {
        let resting = || self.by_channel.values().flat_map(|rest| &rest.again);
        let bytes: usize = resting().map(|outgoing| outgoing.message.body.len()).sum();
        bytes < RESTING_BYTES_MAX && resting().count() < RESTING_MAX
    }

    /// The channels that rest, for people.
    pub(super) fn channels(&self) -> String {
        self.by_channel.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }

    /// Of the outbox, and resting here.
    pub(super) fn numbers(&self) -> BTreeSet<u64> {
        let resting = self.by_channel.values().flat_map(|rest| &rest.again);
        resting.filter_map(|outgoing| outgoing.outbox).collect()
    }

    /// When something is to be tried again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.by_channel.values().map(|rest| rest.until).min()
    }

    /// Keeps messages of channels that rest, behind what rests there already.
    pub(super) fn keep(&mut self, later: Vec<Outgoing>) {
        for outgoing in later {
            if let Some(rest) = self.by_channel.get_mut(&outgoing.message.channel) {
                rest.again.push_back(outgoing);
            }
        }
    }

    /// What is to be sent again now, `most` at the most.
    pub(super) fn leave(&mut self, at: Instant, most: usize) -> Vec<Outgoing> {
        let mut window = Vec::new();
        for rest in self.by_channel.values_mut().filter(|rest| rest.until <= at) {
            let room = most - window.len();
            let count = if rest.is_well { room } else { room.min(TRIED_MAX) };
            let count = count.min(rest.again.len());
            rest.is_out |= count > 0;
            window.extend(rest.again.drain(..count));
        }
        window
    }

    /// What the broker did not confirm of what was sent, in its order: it rests, before all others of its channel. What was out
    /// of a channel and is not among it is confirmed.
    pub(super) fn hear(&mut self, unconfirmed: Vec<Outgoing>, at: Instant) {
        let mut by_channel: BTreeMap<String, Vec<Outgoing>> = BTreeMap::new();
        for outgoing in unconfirmed {
            by_channel.entry(outgoing.message.channel.clone()).or_default().push(outgoing);
        }
        for (channel, unconfirmed) in by_channel {
            let rest = self.by_channel.entry(channel).or_insert_with(|| Rest {
                again: VecDeque::new(),
                until: at,
                delays: Delays::new(),
                is_out: false,
                is_well: false,
            });
            for outgoing in unconfirmed.into_iter().rev() {
                rest.again.push_front(outgoing);
            }
            if rest.is_well {
                rest.delays.succeeded();
            }
            (rest.is_out, rest.is_well) = (false, false);
            rest.until = at + rest.delays.after_failure();
        }
        for rest in self.by_channel.values_mut().filter(|rest| rest.is_out) {
            (rest.is_out, rest.is_well) = (false, true);
        }
        self.by_channel.retain(|_, rest| !rest.again.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dirigent_connectors::{Attributes, ChannelKind, Message};
    use std::{ops::Range, time::Duration};

    /// Longer than any rest.
    const LATER: Duration = Duration::from_secs(30);

    fn sent(numbers: Range<u64>, channel: &str) -> Vec<Outgoing> {
        let one = |number| Outgoing {
            message: Message {
                channel: channel.into(),
                kind: ChannelKind::Work,
                key: String::new(),
                attributes: Attributes::new(),
                others: vec![],
                body: vec![0; 100].into(),
            },
            outbox: Some(number),
        };
        numbers.map(one).collect()
    }

    fn leave(rests: &mut Rests, at: Instant, most: usize) -> Vec<u64> {
        rests.leave(at, most).iter().filter_map(|outgoing| outgoing.outbox).collect()
    }

    #[test]
    fn what_is_unknown_rests_with_what_comes_later_is_tried_with_a_few_and_goes_out_in_its_order() {
        let (mut rests, mut at) = (Rests::default(), Instant::now());
        rests.hear(sent(0..50, "sick"), at);
        assert!(rests.holds("sick") && !rests.holds("well"));
        rests.keep(sent(50..100, "sick"));
        assert!(leave(&mut rests, at, 256).is_empty());
        at += LATER;
        assert_eq!(leave(&mut rests, at, 256), (0..32).collect::<Vec<_>>());
        rests.hear(sent(4..32, "sick"), at);
        assert_eq!(rests.numbers().len(), 96);
        at += LATER;
        assert_eq!(leave(&mut rests, at, 256), (4..36).collect::<Vec<_>>());
        rests.hear(vec![], at);
        assert_eq!(leave(&mut rests, at, 60), (36..96).collect::<Vec<_>>(), "all at once");
        rests.hear(vec![], at);
        assert!(rests.holds("sick"), "the others of it come first");
        assert_eq!(leave(&mut rests, at, 60), (96..100).collect::<Vec<_>>());
        rests.hear(vec![], at);
        assert!(!rests.holds("sick") && rests.due().is_none());
    }

    #[test]
    fn each_channel_rests_for_itself_and_longer_each_time() {
        let (mut rests, mut at) = (Rests::default(), Instant::now());
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            rests.hear(sent(0..1, "sick"), at);
            longest = longest.max(rests.by_channel["sick"].until - at);
            at += LATER;
            assert_eq!(leave(&mut rests, at, 256), [0]);
        }
        assert!(longest > Duration::from_secs(7), "{longest:?}");
        let mut both = sent(0..1, "sick");
        both.extend(sent(1..2, "other"));
        rests.hear(both, at);
        assert_eq!(rests.channels(), "other, sick");
        let soon = at + Duration::from_secs(1);
        assert_eq!(leave(&mut rests, soon, 256), [1], "its own rest is short");
    }

    #[test]
    fn beyond_its_bounds_no_further_window_is_taken() {
        let (mut rests, at) = (Rests::default(), Instant::now());
        rests.hear(sent(0..RESTING_MAX as u64 - 1, "sick"), at);
        assert!(rests.has_room());
        rests.keep(sent(0..1, "sick"));
        assert!(!rests.has_room());
        let mut large = sent(0..1, "large");
        large[0].message.body = vec![0; RESTING_BYTES_MAX].into();
        let mut rests = Rests::default();
        rests.hear(large, at);
        assert!(!rests.has_room());
    }
}
