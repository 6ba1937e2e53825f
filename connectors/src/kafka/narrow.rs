//! How much of a topic is handed over at once, where the brokers have refused more of it as one batch.
//!
//! A batch that is larger than its topic takes (`max.message.bytes`, or a whole segment) is refused as one, though each message in it
//! may fit. In go the messages that were refused; out comes how many of the next ones go at once: half of the bytes each time, one
//! message at last. Only one that was refused alone is too large by itself. What a topic takes is remembered for a while, so that not
//! every window is refused first. Decides only; `sink` and `owner_sink` send.

use crate::{Message, Sent, UnsentReason};
use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};
use tokio::time::Instant;

/// How long a topic is given smaller pieces before larger ones are tried again: a person may have changed its settings.
const NARROW_FOR: Duration = Duration::from_secs(600);

/// The topics whose batches were refused.
#[derive(Debug, Default)]
pub(super) struct Narrow(HashMap<String, Limit>);

#[derive(Debug, Clone, Copy)]
struct Limit {
    bytes: usize,
    since: Instant,
}

impl Narrow {
    /// Forgets what was learnt long ago.
    pub(super) fn forget(&mut self, now: Instant) {
        self.0.retain(|_, limit| now.duration_since(limit.since) < NARROW_FOR);
    }

    /// How many messages of the part, from its beginning, go at once: one at the least, if there is one.
    pub(super) fn piece(&self, window: &[Message], part: &[usize]) -> usize {
        if self.0.is_empty() {
            return part.len();
        }
        let mut under_way: HashMap<&str, usize> = HashMap::new();
        let is_full = |index: &usize| {
            let message = &window[*index];
            let Some(limit) = self.0.get(&message.channel) else { return false };
            let before = under_way.entry(&message.channel).or_default();
            let with_it = *before + message.bytes();
            let is_full = *before > 0 && with_it > limit.bytes;
            *before = with_it;
            is_full
        };
        part.iter().position(is_full).unwrap_or(part.len())
    }

    /// Looks at what has become of a piece. Answers which of its messages were refused together with others of their topic: sent again
    /// in smaller pieces, they show what each of them is.
    pub(super) fn look_at(
        &mut self,
        window: &[Message],
        piece: &[usize],
        outcomes: &[Option<Sent>],
        now: Instant,
    ) -> HashSet<usize> {
        let mut by_topic: HashMap<&str, Vec<usize>> = HashMap::new();
        for index in piece.iter().filter(|index| is_too_large(outcomes[**index].as_ref())) {
            by_topic.entry(&window[*index].channel).or_default().push(*index);
        }
        // All of a batch are refused with it: one alone was alone in its batch.
        by_topic.retain(|_, refused| refused.len() > 1);
        for (topic, refused) in &by_topic {
            let bytes = refused.iter().map(|index| window[*index].bytes()).sum::<usize>() / 2;
            let known = self.0.get(*topic).map_or(usize::MAX, |limit| limit.bytes);
            let limit = Limit { bytes: bytes.min(known), since: now };
            tracing::debug!(topic, bytes = limit.bytes, "A batch was too large for its topic.");
            self.0.insert((*topic).to_owned(), limit);
        }
        by_topic.into_values().flatten().collect()
    }
}

pub(super) fn is_too_large(outcome: Option<&Sent>) -> bool {
    matches!(outcome, Some(Sent::Unsent { reason: UnsentReason::TooLarge, .. }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attributes, ChannelKind};

    /// Messages of these many bytes each to topics of one letter.
    fn window(messages: &[(&str, usize)]) -> Vec<Message> {
        let message = |(channel, bytes): &(&str, usize)| Message {
            channel: (*channel).into(),
            kind: ChannelKind::Work,
            key: String::new(),
            attributes: Attributes::new(),
            others: Vec::new(),
            body: vec![b'x'; bytes - 1].into(),
        };
        messages.iter().map(message).collect()
    }

    /// What is unsent when a topic takes batches of `most` bytes and all that goes at once is one batch, and how often it was refused.
    fn send(narrow: &mut Narrow, window: &[Message], most: usize) -> (Vec<usize>, usize) {
        let mut outcomes = vec![None; window.len()];
        let (mut rest, mut refusals): (Vec<usize>, _) = ((0..window.len()).collect(), 0);
        while !rest.is_empty() {
            let piece: Vec<_> = rest.drain(..narrow.piece(window, &rest)).collect();
            let bytes: usize = piece.iter().map(|index| window[*index].bytes()).sum();
            if bytes <= most {
                continue;
            }
            refusals += 1;
            for index in &piece {
                let reason = UnsentReason::TooLarge;
                outcomes[*index] = Some(Sent::Unsent { reason, text: "a batch".into() });
            }
            let again = narrow.look_at(window, &piece, &outcomes, Instant::now());
            let again: Vec<_> = piece.into_iter().filter(|index| again.contains(index)).collect();
            for index in &again {
                outcomes[*index] = None;
            }
            rest.splice(0..0, again);
        }
        let unsent = (0..window.len()).filter(|index| outcomes[*index].is_some()).collect();
        (unsent, refusals)
    }

    #[tokio::test]
    async fn a_batch_that_was_refused_goes_in_smaller_pieces_and_only_what_is_too_large_alone_is_so()
     {
        let (mut messages, mut narrow) = (vec![("a", 300); 1_000], Narrow::default());
        messages[700].1 = 5_000;
        messages[10].1 = 4_001;
        let window = window(&messages);
        let (unsent, refusals) = send(&mut narrow, &window, 4_000);
        assert_eq!(unsent, [10, 700]);
        assert!(refusals < 12, "{refusals}");
        // The next window knows, and is refused for those two alone.
        assert_eq!(send(&mut narrow, &window, 4_000), (vec![10, 700], 2));
        let pieces = narrow.piece(&window, &(0..10).collect::<Vec<_>>());
        assert!((6..=10).contains(&pieces), "nearly as many as fit: {pieces}");
    }

    #[tokio::test]
    async fn other_topics_go_in_one_piece_and_a_narrow_one_is_tried_with_more_after_a_while() {
        let window = window(&[("a", 10), ("b", 10), ("a", 10), ("b", 10), ("b", 10)]);
        let too_large = || {
            let text = String::new();
            Some(Sent::Unsent { reason: UnsentReason::TooLarge, text })
        };
        let (mut narrow, now, all) = (Narrow::default(), Instant::now(), [0, 1, 2, 3, 4]);
        let outcomes = [too_large(), None, too_large(), too_large(), None];
        let again = narrow.look_at(&window, &all, &outcomes, now);
        assert_eq!(again, HashSet::from([0, 2]), "the one of b was refused alone");
        assert_eq!(narrow.piece(&window, &all), 2);
        assert_eq!(narrow.piece(&window, &all[1..]), 4, "a has one in it");
        narrow.forget(now + NARROW_FOR / 2);
        assert_eq!(narrow.piece(&window, &all), 2);
        narrow.forget(now + NARROW_FOR);
        assert_eq!(narrow.piece(&window, &all), 5);
    }
}
