//! A broker within the process: for tests, the simulator, and to measure what everything around a broker costs.
//!
//! ```text
//! Sink ─► routes (channel → queues) ─► queue (one lock and one wake-up per window) ─► Source ─► unsettled, until settled
//! ```
//!
//! It remembers by settlement, as a queueing broker does, and forgets everything with its last clone.

mod queue;
mod sink;
mod source;

use crate::{
    ChannelKind, ChannelSpec, Connector, ConnectorError, Memory, Sink, Source, SourceSpec,
};
use async_trait::async_trait;
use queue::Queue;
use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

/// The largest body that is taken (bytes), unless set otherwise. What Kafka takes by default.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// Messages waiting in one queue at the most, unless set otherwise. A few seconds of work at full speed.
pub const QUEUE_MESSAGES_MAX: usize = 1024 * 1024;

/// Bytes of the bodies waiting in one queue at the most, unless set otherwise. Fits into a small machine.
pub const QUEUE_BYTES_MAX: usize = 512 * 1024 * 1024;

/// How long a window waits for space in full queues before the rest of it is reported unknown, unless set otherwise.
pub const SEND_WAIT_MAX: Duration = Duration::from_secs(10);

/// The bounds of a [`MemoryBroker`].
#[derive(Debug, Clone)]
pub struct MemorySettings {
    /// The largest body that is taken (bytes).
    pub message_bytes_max: usize,
    /// Messages waiting in one queue at the most.
    pub queue_messages_max: usize,
    /// Bytes of the bodies waiting in one queue at the most.
    pub queue_bytes_max: usize,
    /// How long a window waits for space in full queues.
    pub send_wait_max: Duration,
}

impl Default for MemorySettings {
    fn default() -> Self {
        Self {
            message_bytes_max: MESSAGE_BYTES_MAX,
            queue_messages_max: QUEUE_MESSAGES_MAX,
            queue_bytes_max: QUEUE_BYTES_MAX,
            send_wait_max: SEND_WAIT_MAX,
        }
    }
}

/// A broker within the process. Clones are the same broker.
///
/// Several open sources of one queue share its messages; each message is out with one of them.
/// Order per key holds for a queue with one open source.
#[derive(Debug, Clone, Default)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    settings: MemorySettings,
    channels: RwLock<HashMap<String, Channel>>,
}

/// The queues of one channel. Those for events live on when their source is dropped: their group comes back.
#[derive(Debug, Default)]
struct Channel {
    work: Option<Arc<Queue>>,
    groups: Vec<(String, Arc<Queue>)>,
}

impl MemoryBroker {
    /// With the default bounds.
    pub fn new() -> Self {
        Self::default()
    }

    /// With bounds of one's own.
    pub fn with_settings(settings: MemorySettings) -> Self {
        Self { shared: Arc::new(Shared { settings, channels: RwLock::default() }) }
    }

    /// Forgets a channel with its queues, as an operator who deletes them would.
    pub fn remove(&self, channel: &ChannelSpec) {
        self.shared.channels.write().unwrap_or_else(PoisonError::into_inner).remove(&channel.name);
    }

    /// How many messages wait in the queues of a channel, of all groups together, without those that are out with a source.
    pub fn waiting(&self, channel: &str) -> usize {
        let channels = self.shared.channels.read().unwrap_or_else(PoisonError::into_inner);
        let Some(channel) = channels.get(channel) else { return 0 };
        channel
            .work
            .iter()
            .chain(channel.groups.iter().map(|(_, queue)| queue))
            .map(|queue| queue.waiting())
            .sum()
    }
}

impl Shared {
    fn queue(&self, channel: &ChannelSpec, group: &str) -> Arc<Queue> {
        let new = || Arc::new(Queue::new(&self.settings));
        let mut channels = self.channels.write().unwrap_or_else(PoisonError::into_inner);
        let entry = channels.entry(channel.name.clone()).or_default();
        match channel.kind {
            ChannelKind::Work => entry.work.get_or_insert_with(new).clone(),
            ChannelKind::Events => match entry.groups.iter().find(|(known, _)| known == group) {
                Some((_, queue)) => queue.clone(),
                None => {
                    let queue = new();
                    entry.groups.push((group.to_owned(), queue.clone()));
                    queue
                }
            },
        }
    }

    /// Where messages of a channel go: `None` for work nobody could ever take.
    fn routes(&self, channel: &str, kind: ChannelKind) -> Option<Vec<Arc<Queue>>> {
        let channels = self.channels.read().unwrap_or_else(PoisonError::into_inner);
        let found = channels.get(channel);
        match kind {
            ChannelKind::Work => {
                found.and_then(|channel| channel.work.clone()).map(|queue| vec![queue])
            }
            ChannelKind::Events => Some(found.map_or_else(Vec::new, |channel| {
                channel.groups.iter().map(|(_, queue)| queue.clone()).collect()
            })),
        }
    }
}

#[async_trait]
impl Connector for MemoryBroker {
    fn name(&self) -> &str {
        "memory"
    }

    fn memory(&self) -> Memory {
        Memory::Settlements
    }

    async fn prepare(&self, channels: &[ChannelSpec]) -> Result<(), ConnectorError> {
        for channel in channels.iter().filter(|channel| channel.kind == ChannelKind::Work) {
            self.shared.queue(channel, "");
        }
        Ok(())
    }

    async fn source(&self, spec: SourceSpec) -> Result<Box<dyn Source>, ConnectorError> {
        let queues =
            spec.channels.iter().map(|channel| self.shared.queue(channel, &spec.group)).collect();
        Ok(Box::new(source::MemorySource::open(queues, spec.unsettled_max)))
    }

    async fn owner_sink(&self, _: &str) -> Result<Box<dyn Sink>, ConnectorError> {
        self.sink().await
    }

    async fn sink(&self) -> Result<Box<dyn Sink>, ConnectorError> {
        Ok(Box::new(sink::MemorySink::new(self.shared.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attributes, Message, Sent, Settle, names};
    use bytes::Bytes;

    fn message(channel: &str, id: usize) -> Message {
        Message {
            channel: channel.into(),
            kind: ChannelKind::Work,
            key: "k".into(),
            attributes: Attributes::new().with(names::ID, id.to_string()),
            others: Vec::new(),
            body: Bytes::from_static(b"{}"),
        }
    }

    fn spec(channel: &str, unsettled_max: usize) -> SourceSpec {
        SourceSpec {
            channels: vec![ChannelSpec::work(channel)],
            group: "g".into(),
            positions: vec![],
            unsettled_max,
        }
    }

    fn ids(deliveries: &[crate::Delivery]) -> Vec<usize> {
        let id = |d: &crate::Delivery| d.message.attributes.get(names::ID)?.parse().ok();
        deliveries.iter().map(|d| id(d).expect("an id")).collect()
    }

    #[tokio::test]
    async fn what_is_not_settled_returns_to_its_old_place() {
        let broker = MemoryBroker::new();
        let mut source = broker.source(spec("c", 10)).await.expect("open");
        let window: Vec<_> = (0..6).map(|id| message("c", id)).collect();
        broker.sink().await.expect("sink").send(&window).await;
        let first = source.receive(4).await.expect("receive");
        source
            .settler()
            .settle(&[(first[0].receipt, Settle::Done), (first[2].receipt, Settle::Again)]);
        assert_eq!(ids(&source.receive(1).await.expect("receive")), [2]);
        drop(source);
        let mut source = broker.source(spec("c", 10)).await.expect("open");
        assert_eq!(ids(&source.receive(10).await.expect("receive")), [1, 2, 3, 4, 5]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_makes_the_rest_of_the_window_unknown_after_the_time_limit() {
        let broker = MemoryBroker::with_settings(MemorySettings {
            queue_messages_max: 2,
            ..Default::default()
        });
        broker.prepare(&[ChannelSpec::work("c")]).await.expect("prepare");
        let window: Vec<_> = (0..3).map(|id| message("c", id)).collect();
        let outcomes = broker.sink().await.expect("sink").send(&window).await;
        assert!(
            matches!(outcomes[..], [Sent::Confirmed, Sent::Confirmed, Sent::Unknown { .. }]),
            "{outcomes:?}"
        );
    }

    #[tokio::test]
    async fn a_sender_waits_until_a_full_queue_has_space() {
        let broker = MemoryBroker::with_settings(MemorySettings {
            queue_messages_max: 2,
            ..Default::default()
        });
        let mut source = broker.source(spec("c", 100)).await.expect("open");
        let window: Vec<_> = (0..7).map(|id| message("c", id)).collect();
        let mut sink = broker.sink().await.expect("sink");
        let read = async {
            let mut seen = Vec::new();
            while seen.len() < 7 {
                seen.extend(ids(&source.receive(10).await.expect("receive")));
            }
            seen
        };
        let (outcomes, seen) = tokio::join!(sink.send(&window), read);
        assert!(outcomes.iter().all(|outcome| *outcome == Sent::Confirmed));
        assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6]);
    }
}
