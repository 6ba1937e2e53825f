//! Sends windows. The whole window is handed to librdkafka at once, and its delivery reports decide it.
//!
//! ```text
//! window ─► hand over ─► reports ─► a batch was refused: it, and what was behind it in the order of its keys, once more in smaller pieces ─► …
//!                               └► what is behind an undecided message of its key is undecided, too: whoever sends again keeps the order
//! ```

use super::{KafkaSettings, flight::Flight, narrow::Narrow, routes::Routes};
use crate::{ConnectorError, Health, Message, Sent, Sink};
use async_trait::async_trait;
use rdkafka::producer::Producer;
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, timeout_at};

/// Beyond librdkafka's own time limit, for its report to arrive.
pub(super) const REPORT_MARGIN: Duration = Duration::from_secs(2);

pub(super) struct KafkaSink {
    settings: Arc<KafkaSettings>,
    /// `None` after it could not be built anew.
    flight: Option<Flight>,
    routes: Routes,
    narrow: Narrow,
    /// Topics that librdkafka did not find while sending the last window.
    gone: HashSet<String>,
    health: Health,
}

impl KafkaSink {
    pub(super) fn new(settings: Arc<KafkaSettings>) -> Result<Self, ConnectorError> {
        let health = Health::new();
        let flight = Some(Flight::new(&settings, &settings.producer(), &health)?);
        Ok(Self {
            routes: Routes::new(settings.clone(), &health),
            narrow: Narrow::default(),
            gone: HashSet::new(),
            settings,
            flight,
            health,
        })
    }

    /// Hands the messages at `indices` to librdkafka and waits until all are decided or the time is over.
    async fn send_part(
        &mut self,
        window: &[Message],
        indices: &[usize],
        outcomes: &mut [Option<Sent>],
        deadline: Instant,
    ) {
        let Some(flight) = &self.flight else {
            for index in indices {
                let text = "the producer could not be built anew".into();
                outcomes[*index] = Some(Sent::Unknown { text });
            }
            return;
        };
        flight.hand_over(window, indices, outcomes, deadline).await;
        let _ = timeout_at(deadline + REPORT_MARGIN, flight.decided()).await;
        self.gone.extend(flight.land(window, outcomes));
    }

    /// An idempotent producer that has lost the count of its messages never sends again; one that did not find a topic may take
    /// minutes to find it once it is made anew.
    fn replace_when_of_no_use(&mut self) {
        if let Some(flight) = &self.flight {
            match flight.producer().client().fatal_error() {
                Some((code, text)) => {
                    tracing::warn!(%code, text, "A Kafka producer has failed for good, building a new one.");
                }
                None if self.gone.is_empty() => return,
                None => {
                    tracing::debug!(gone = ?self.gone, "Topics are gone, building a new producer.")
                }
            }
        }
        self.gone.clear();
        self.flight = None;
        match Flight::new(&self.settings, &self.settings.producer(), &self.health) {
            Ok(flight) => self.flight = Some(flight),
            Err(error) => tracing::error!(%error, "The Kafka producer could not be built anew."),
        }
    }
}

#[async_trait]
impl Sink for KafkaSink {
    async fn send(&mut self, window: &[Message]) -> Vec<Sent> {
        self.replace_when_of_no_use();
        let mut outcomes: Vec<Option<Sent>> = vec![None; window.len()];
        self.routes.find(window, &mut outcomes).await;
        let deadline = Instant::now() + self.settings.send_wait_max;
        let open: Vec<usize> =
            (0..window.len()).filter(|index| outcomes[*index].is_none()).collect();
        self.narrow.forget(Instant::now());
        let mut parts = Parts::of(open);
        while let Some(part) = parts.next(window, &self.narrow, &mut outcomes) {
            if Instant::now() < deadline {
                self.send_part(window, &part, &mut outcomes, deadline).await;
                let refused = self.narrow.look_at(window, &part, &outcomes, Instant::now());
                parts.again(window, &part, &refused);
            }
        }
        undecide_behind_undecided(window, &mut outcomes);
        self.routes.forget(&self.gone, window, &outcomes);
        let late = || Sent::Unknown { text: "Kafka did not confirm in time".into() };
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(late)).collect()
    }

    fn health(&self) -> Health {
        self.health.clone()
    }
}

/// What of a window is to be sent, in order.
struct Parts(VecDeque<Vec<usize>>);

impl Parts {
    fn of(open: Vec<usize>) -> Self {
        Self(VecDeque::from([open]))
    }

    /// The next part: as much as its topics take at once. What was known of its messages counts no more: each is sent once more, and
    /// nobody may have heard of that.
    fn next(
        &mut self,
        window: &[Message],
        narrow: &Narrow,
        outcomes: &mut [Option<Sent>],
    ) -> Option<Vec<usize>> {
        let mut part = self.0.pop_front()?;
        let behind = part.split_off(narrow.piece(window, &part));
        if !behind.is_empty() {
            self.0.push_front(behind);
        }
        for index in &part {
            outcomes[*index] = None;
        }
        Some(part)
    }

    /// A broker refuses a whole batch for one message that is too large for its topic, or for all of them together. librdkafka goes on
    /// behind a refused batch meanwhile, so what came behind it in the order of a key goes behind it again.
    fn again(&mut self, window: &[Message], part: &[usize], refused: &HashSet<usize>) {
        if refused.is_empty() {
            return;
        }
        let mut first = HashMap::new();
        for index in part.iter().filter(|index| refused.contains(index)) {
            first.entry(way(&window[*index])).or_insert(*index);
        }
        let goes_again = |index: &usize| {
            refused.contains(index)
                || is_ordered(&window[*index])
                    && first.get(&way(&window[*index])).is_some_and(|first| first < index)
        };
        self.0.push_front(part.iter().copied().filter(goes_again).collect());
    }
}

/// What was confirmed behind a message of its key that may not be there: sent again, that one would come behind it. So both are.
fn undecide_behind_undecided(window: &[Message], outcomes: &mut [Option<Sent>]) {
    let mut undecided = HashSet::new();
    for (message, outcome) in window.iter().zip(outcomes) {
        match outcome {
            None | Some(Sent::Unknown { .. }) if is_ordered(message) => {
                undecided.insert(way(message));
            }
            Some(Sent::Confirmed) if undecided.contains(&way(message)) => {
                let text = "a message of its key before it was not confirmed".into();
                *outcome = Some(Sent::Unknown { text });
            }
            _ => {}
        }
    }
}

/// Messages with a key are ordered among themselves within their topic.
fn way(message: &Message) -> (&str, &str) {
    (&message.channel, &message.key)
}

fn is_ordered(message: &Message) -> bool {
    !message.key.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attributes, ChannelKind, UnsentReason};
    use bytes::Bytes;

    fn window(keys: &[&str]) -> Vec<Message> {
        let message = |key: &&str| Message {
            channel: "c".into(),
            kind: ChannelKind::Work,
            key: (*key).into(),
            attributes: Attributes::new(),
            others: Vec::new(),
            body: Bytes::new(),
        };
        keys.iter().map(message).collect()
    }

    fn too_large() -> Option<Sent> {
        Some(Sent::Unsent { reason: UnsentReason::TooLarge, text: "a batch".into() })
    }

    #[tokio::test]
    async fn a_message_tried_again_that_nobody_hears_of_is_not_decided_by_what_was_said_of_its_batch()
     {
        let (window, mut narrow) = (window(&["k", "k"]), Narrow::default());
        let mut outcomes = vec![too_large(), too_large()];
        let mut parts = Parts::of(vec![0, 1]);
        let whole = parts.next(&window, &narrow, &mut outcomes).expect("the window");
        (outcomes[0], outcomes[1]) = (too_large(), too_large());
        let refused = narrow.look_at(&window, &whole, &outcomes, Instant::now());
        parts.again(&window, &whole, &refused);
        assert_eq!(parts.next(&window, &narrow, &mut outcomes), Some(vec![0]));
        // No report comes.
        assert_eq!(outcomes[0], None);
        assert_eq!(parts.next(&window, &narrow, &mut outcomes), Some(vec![1]));
        outcomes[1] = too_large();
        let refused = narrow.look_at(&window, &[1], &outcomes, Instant::now());
        parts.again(&window, &[1], &refused);
        assert_eq!(parts.next(&window, &narrow, &mut outcomes), None);
        assert_eq!(outcomes, [None, too_large()]);
    }

    #[test]
    fn what_came_behind_a_refused_batch_in_the_order_of_its_key_goes_behind_it_again() {
        let window = window(&["a", "b", "", "a", "b", "a", "", "c"]);
        let mut parts = Parts(VecDeque::new());
        parts.again(&window, &[0, 1, 2, 3, 4, 5, 6, 7], &HashSet::from([1, 2, 3]));
        assert_eq!(parts.0, [vec![1, 2, 3, 4, 5]]);
    }

    #[test]
    fn what_is_confirmed_behind_a_message_in_doubt_of_its_key_is_in_doubt_with_it() {
        let window = window(&["a", "b", "a", "", "", "b"]);
        let unknown = || Some(Sent::Unknown { text: "late".into() });
        let mut outcomes = vec![None, Some(Sent::Confirmed), Some(Sent::Confirmed), unknown()];
        outcomes.extend([Some(Sent::Confirmed), too_large()]);
        undecide_behind_undecided(&window, &mut outcomes);
        assert!(matches!(outcomes[2], Some(Sent::Unknown { .. })), "{outcomes:?}");
        for index in [1, 4] {
            assert_eq!(outcomes[index], Some(Sent::Confirmed));
        }
        assert_eq!(outcomes[5], too_large());
    }
}
