//! Channels whose messages the broker did not confirm: they rest for a while, and everybody else goes on.
//!
//! ```text
//! a window came back ─► what is unknown lies before all others of its channel ─► its rest is over: a few of it
//!                    ─► confirmed: the rest of it, then the others · unknown again: a longer rest
//! ```
//!
//! While a channel rests nothing else of it leaves, so what is sent again stays before what was behind it: the order of each instance on
//! each channel holds. What lies here has passed its destination's gate and is not asked again. A command that is not confirmed
//! for long although the broker confirms others is given back to its instance: the journal is not kept for it.
//!
//! Pure: what the broker said and the time in, what is to be sent again out.

use super::departures::Numbered;
use dirigent_connectors::retry::Delays;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};
use tokio::time::Instant;

/// Messages of a channel that are sent again after a rest, until one such handful was confirmed. As many as a RabbitMQ queue has under
/// way at the most before it slows its senders down.
const TRIED_MAX: usize = 32;

/// How long commands stay unconfirmed here while the broker confirms those of other channels. Longer than a broker takes to elect
/// leaders after a restart.
pub(super) const UNCONFIRMED_MAX: Duration = Duration::from_secs(60);

/// A channel of which nothing was confirmed for this long is more than a connection that is made anew.
const SILENT_FROM: Duration = Duration::from_secs(2);

struct Rest {
    /// To be sent again, in this order.
    again: VecDeque<Numbered>,
    /// When the broker first did not confirm.
    since: Instant,
    until: Instant,
    delays: Delays,
    /// Some of it is on its way.
    is_out: bool,
    /// What was sent again last was confirmed.
    is_well: bool,
}

/// All channels that rest, by name. Each holds what one window held of it, and is told of no more until that is decided.
#[derive(Default)]
pub(super) struct Rests {
    by_channel: BTreeMap<String, Rest>,
    /// When the broker last confirmed something.
    confirmed_at: Option<Instant>,
}

impl Rests {
    pub(super) fn is_empty(&self) -> bool {
        self.by_channel.is_empty()
    }

    /// Those of which the broker has confirmed nothing for a while.
    pub(super) fn silent(&self, at: Instant) -> impl Iterator<Item = &str> {
        let is_silent =
            move |rest: &Rest| !rest.is_well && at.duration_since(rest.since) >= SILENT_FROM;
        self.by_channel
            .iter()
            .filter(move |(_, rest)| is_silent(rest))
            .map(|(name, _)| name.as_str())
    }

    /// Whether nothing else of this channel may leave.
    pub(super) fn holds(&self, channel: &str) -> bool {
        !self.by_channel.is_empty() && self.by_channel.contains_key(channel)
    }

    /// Puts into the window what is to be sent again now. `bytes` counts the bodies in it.
    pub(super) fn leave(
        &mut self,
        at: Instant,
        (messages_max, bytes_max): (usize, usize),
        bytes: &mut usize,
        window: &mut Vec<Numbered>,
    ) {
        for rest in self.by_channel.values_mut().filter(|rest| rest.until <= at) {
            let most = if rest.is_well { messages_max } else { TRIED_MAX };
            for _ in 0..most {
                let Some((_, outgoing)) = rest.again.front() else { break };
                let body = outgoing.message.body.len();
                let fits = window.is_empty() || *bytes + body <= bytes_max;
                if window.len() >= messages_max || !fits {
                    return;
                }
                *bytes += body;
                rest.is_out = true;
                window.extend(rest.again.pop_front());
            }
        }
    }

    /// What has become of a window: what of it is to be sent again, in its order, and whether anything was confirmed.
    pub(super) fn hear(&mut self, unconfirmed: Vec<Numbered>, was_confirmed: bool, at: Instant) {
        if was_confirmed {
            self.confirmed_at = Some(at);
        }
        let mut by_channel: BTreeMap<String, Vec<Numbered>> = BTreeMap::new();
        for message in unconfirmed {
            let channel = &message.1.message.channel;
            match by_channel.get_mut(channel) {
                Some(known) => known.push(message),
                None => {
                    by_channel.insert(channel.clone(), vec![message]);
                }
            }
        }
        for (channel, messages) in by_channel {
            let rest = self.by_channel.entry(channel).or_insert_with(|| Rest {
                again: VecDeque::new(),
                since: at,
                until: at,
                delays: Delays::new(),
                is_out: false,
                is_well: false,
            });
            for message in messages.into_iter().rev() {
                rest.again.push_front(message);
            }
            if rest.is_well {
                rest.since = at;
                rest.delays.succeeded();
            }
            (rest.is_out, rest.is_well) = (false, false);
            rest.until = at + rest.delays.after_failure();
        }
        // Of what was out and did not come back, all is confirmed.
        for rest in self.by_channel.values_mut().filter(|rest| rest.is_out) {
            (rest.is_out, rest.is_well) = (false, true);
        }
        self.by_channel.retain(|_, rest| !rest.again.is_empty() || !rest.is_well);
    }

    /// How many messages are to be sent again.
    pub(super) fn len(&self) -> usize {
        self.by_channel.values().map(|rest| rest.again.len()).sum()
    }

    /// All that is to be sent again.
    pub(super) fn messages(&self) -> impl Iterator<Item = &Numbered> {
        self.by_channel.values().flat_map(|rest| &rest.again)
    }

    /// Keeps of a channel what is to stay. One with nothing left goes on resting until its time is over.
    pub(super) fn retain(&mut self, channel: &str, stays: impl FnMut(&Numbered) -> bool) {
        if let Some(rest) = self.by_channel.get_mut(channel) {
            rest.again.retain(stays);
        }
    }

    /// Commands that are to be given back, and are no longer here. Their channel goes on resting.
    pub(super) fn overdue(
        &mut self,
        at: Instant,
        is_governed: impl Fn(&Numbered) -> bool,
    ) -> Vec<Numbered> {
        let mut overdue = Vec::new();
        for rest in self.by_channel.values_mut() {
            let others_go = self.confirmed_at.is_some_and(|confirmed| confirmed > rest.since);
            if rest.is_well || !others_go || at.duration_since(rest.since) < UNCONFIRMED_MAX {
                continue;
            }
            let (back, stay) = rest.again.drain(..).partition(&is_governed);
            rest.again = stay;
            overdue.extend::<VecDeque<Numbered>>(back);
        }
        // One whose commands were all given back is tried with the next one that comes.
        self.by_channel.retain(|_, rest| !rest.again.is_empty() || rest.until > at);
        overdue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{LaneSeq, Outgoing};
    use dirigent_connectors::{Attributes, ChannelKind, Message};

    fn numbered(seqs: std::ops::Range<LaneSeq>, channel: &str) -> Vec<Numbered> {
        let one = |seq: LaneSeq| {
            let message = Message {
                channel: channel.into(),
                kind: ChannelKind::Work,
                key: seq.to_string(),
                attributes: Attributes::new(),
                others: vec![],
                body: vec![0; 100].into(),
            };
            (seq, Outgoing { lane: 0, sender: None, saga: 0, message })
        };
        seqs.map(one).collect()
    }

    fn leave(rests: &mut Rests, at: Instant) -> Vec<LaneSeq> {
        let mut window = Vec::new();
        rests.leave(at, (2_048, usize::MAX), &mut 0, &mut window);
        window.iter().map(|(seq, _)| *seq).collect()
    }

    /// Longer than any rest.
    const LATER: Duration = Duration::from_secs(30);

    #[test]
    fn what_is_unknown_rests_is_tried_with_a_few_and_goes_out_in_its_order() {
        let (mut rests, begin) = (Rests::default(), Instant::now());
        rests.hear(numbered(0..100, "sick"), true, begin);
        assert!(rests.holds("sick") && !rests.holds("well"));
        assert_eq!(leave(&mut rests, begin), [] as [LaneSeq; 0]);
        let mut at = begin + LATER;
        assert_eq!(leave(&mut rests, at), (0..32).collect::<Vec<_>>());
        // Some of it is unknown again: before what has not left yet.
        rests.hear(numbered(5..32, "sick"), true, at);
        assert_eq!(leave(&mut rests, at), [] as [LaneSeq; 0]);
        at += LATER;
        assert_eq!(leave(&mut rests, at), (5..37).collect::<Vec<_>>());
        rests.hear(vec![], true, at);
        assert!(rests.holds("sick"), "the others of it come first");
        assert_eq!(leave(&mut rests, at), (37..100).collect::<Vec<_>>(), "all of it, at once");
        rests.hear(vec![], true, at);
        assert!(rests.is_empty());
    }

    #[test]
    fn rests_grow_with_each_failure_and_each_channel_has_its_own() {
        let (mut rests, mut at) = (Rests::default(), Instant::now());
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            rests.hear(numbered(0..1, "sick"), false, at);
            let until = rests.by_channel["sick"].until;
            longest = longest.max(until - at);
            at = until;
            assert_eq!(leave(&mut rests, at), [0]);
        }
        assert!(longest > Duration::from_secs(7), "{longest:?}");
        rests.hear(numbered(1..2, "other"), false, at);
        assert!(!rests.holds("sick"), "what was out of it did not come back");
        assert!(rests.by_channel["other"].until - at < Duration::from_secs(1));
    }

    #[test]
    fn commands_unconfirmed_for_long_are_given_back_if_the_broker_confirms_others_only() {
        let (mut rests, begin) = (Rests::default(), Instant::now());
        let governed = |(seq, _): &Numbered| *seq != 3;
        let seqs = |back: Vec<Numbered>| back.iter().map(|(seq, _)| *seq).collect::<Vec<_>>();
        rests.hear(numbered(0..5, "sick"), false, begin);
        let late = begin + UNCONFIRMED_MAX;
        assert!(seqs(rests.overdue(late, governed)).is_empty(), "it is the broker that is away");
        rests.hear(vec![], true, begin + Duration::from_secs(1));
        let early = late - Duration::from_millis(1);
        assert!(seqs(rests.overdue(early, governed)).is_empty());
        assert_eq!(seqs(rests.overdue(late, governed)), [0, 1, 2, 4]);
        assert_eq!(leave(&mut rests, late), [3], "what no instance waits for stays");
        rests.hear(vec![], true, late);
        assert!(rests.is_empty());
    }
}
