//! A connector around a connector that loses, doubles, delays and reorders, the same way for the same seed.
//!
//! ```text
//! window   ─► lose, double, delay, swap ─► inner sink
//! inner source ─► lose, double, swap, hold back ─► deliveries
//! ```
//!
//! It does what a network and two brokers may do, and no more:
//! *Losing* for good only happens to messages for which somebody asks again, which are those with an `idempotencykey`; others are
//! reported [`Sent::Unknown`] without being sent, so that the sender sends them again. A log ([`Memory::Positions`]) keeps the order
//! within a partition, whatever happens; there a delivery held back holds back what is behind it, and nothing is swapped.

mod chance;
mod sink;
mod source;

use crate::{
    ChannelSpec, Connector, ConnectorError, Memory, Message, Retention, Sink, Source, SourceSpec,
    names,
};
use async_trait::async_trait;
use chance::Chance;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// Messages held back at the same time by one source or sink at the most. Beyond that nothing is delayed.
pub const HELD_MAX: usize = 1_024;

/// What goes wrong how often: probabilities per message, from 0.0 (never) to 1.0 (always).
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Repeats the same faults for the same calls.
    pub seed: u64,
    /// Loses a message, or sends no message and reports it unknown.
    pub lose: f64,
    /// Sends or delivers it twice.
    pub double: f64,
    /// Holds it back while others go on.
    pub delay: f64,
    /// How long it is held back at the most.
    pub delay_max: Duration,
    /// Swaps it with the one behind it in its window or batch.
    pub reorder: f64,
}

impl Faults {
    /// None at all.
    pub fn none() -> Self {
        Self::default()
    }
}

/// How often each fault was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Sends reported confirmed but not sent.
    pub sends_lost: u64,
    /// Sends reported unknown and not sent.
    pub sends_unknown: u64,
    /// Messages sent twice.
    pub sends_doubled: u64,
    /// Messages sent later than confirmed.
    pub sends_delayed: u64,
    /// Neighbours swapped within a window.
    pub sends_reordered: u64,
    /// Deliveries settled without being seen.
    pub deliveries_lost: u64,
    /// Deliveries handed out twice.
    pub deliveries_doubled: u64,
    /// Deliveries held back.
    pub deliveries_delayed: u64,
    /// Neighbours swapped within a batch.
    pub deliveries_reordered: u64,
}

/// A connector that misbehaves. Clones misbehave together.
#[derive(Clone)]
pub struct Faulty {
    inner: Arc<dyn Connector>,
    shared: Arc<Shared>,
}

struct Shared {
    faults: Faults,
    calm: AtomicBool,
    opened: AtomicU64,
    done: Done,
}

/// The counts of [`FaultCounts`] as they grow.
#[derive(Default)]
struct Done {
    sends_lost: AtomicU64,
    sends_unknown: AtomicU64,
    sends_doubled: AtomicU64,
    sends_delayed: AtomicU64,
    sends_reordered: AtomicU64,
    deliveries_lost: AtomicU64,
    deliveries_doubled: AtomicU64,
    deliveries_delayed: AtomicU64,
    deliveries_reordered: AtomicU64,
}

impl Faulty {
    /// Wraps a connector.
    pub fn new(inner: Arc<dyn Connector>, faults: Faults) -> Self {
        let shared = Shared {
            faults,
            calm: AtomicBool::new(false),
            opened: AtomicU64::new(0),
            done: Done::default(),
        };
        Self { inner, shared: Arc::new(shared) }
    }

    /// No more faults from now on, or again. What is held back still comes.
    pub fn calm(&self, calm: bool) {
        self.shared.calm.store(calm, Ordering::Relaxed);
    }

    /// How often each fault was done so far.
    pub fn counts(&self) -> FaultCounts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let done = &self.shared.done;
        FaultCounts {
            sends_lost: read(&done.sends_lost),
            sends_unknown: read(&done.sends_unknown),
            sends_doubled: read(&done.sends_doubled),
            sends_delayed: read(&done.sends_delayed),
            sends_reordered: read(&done.sends_reordered),
            deliveries_lost: read(&done.deliveries_lost),
            deliveries_doubled: read(&done.deliveries_doubled),
            deliveries_delayed: read(&done.deliveries_delayed),
            deliveries_reordered: read(&done.deliveries_reordered),
        }
    }

    /// Chances of its own for each source and sink, in the order they are opened.
    fn chance(&self) -> Chance {
        let opened = self.shared.opened.fetch_add(1, Ordering::Relaxed);
        Chance::new(self.shared.faults.seed ^ opened.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }
}

impl Shared {
    fn happens(&self, chance: &mut Chance, probability: f64) -> bool {
        // Asked in any case, so that calm times do not shift what comes after.
        chance.happens(probability) && !self.calm.load(Ordering::Relaxed)
    }
}

fn count(what: &AtomicU64) {
    what.fetch_add(1, Ordering::Relaxed);
}

fn somebody_asks_again(message: &Message) -> bool {
    message.attributes.get(names::IDEMPOTENCY_KEY).is_some()
}

#[async_trait]
impl Connector for Faulty {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn memory(&self) -> Memory {
        self.inner.memory()
    }

    async fn prepare(&self, channels: &[ChannelSpec]) -> Result<(), ConnectorError> {
        self.inner.prepare(channels).await
    }

    async fn retention(&self, channel: &str) -> Result<Retention, ConnectorError> {
        self.inner.retention(channel).await
    }

    async fn source(&self, spec: SourceSpec) -> Result<Box<dyn Source>, ConnectorError> {
        let inner = self.inner.source(spec).await?;
        Ok(Box::new(source::FaultySource::new(
            inner,
            self.memory(),
            self.shared.clone(),
            self.chance(),
        )))
    }

    async fn sink(&self) -> Result<Box<dyn Sink>, ConnectorError> {
        let (inner, late) = (self.inner.sink().await?, self.inner.sink().await?);
        Ok(Box::new(sink::FaultySink::new(inner, late, self.shared.clone(), self.chance())))
    }

    async fn owner_sink(&self, group: &str) -> Result<Box<dyn Sink>, ConnectorError> {
        // A group has one owner, and its owner one sink: what comes late comes as from a network that held it back.
        let (inner, late) = (self.inner.owner_sink(group).await?, self.inner.sink().await?);
        Ok(Box::new(sink::FaultySink::new(inner, late, self.shared.clone(), self.chance())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attributes, ChannelKind, Delivery, Sent, Settle, memory::MemoryBroker};
    use bytes::Bytes;

    fn message(id: usize, asked_again: bool) -> Message {
        let mut attributes = Attributes::new().with(names::ID, id.to_string());
        if asked_again {
            attributes.set(names::IDEMPOTENCY_KEY, id.to_string());
        }
        let (channel, key) = ("c".into(), "k".into());
        Message {
            channel,
            kind: ChannelKind::Work,
            key,
            attributes,
            others: Vec::new(),
            body: Bytes::new(),
        }
    }

    fn window(asked_again: bool) -> Vec<Message> {
        (0..200).map(|id| message(id, asked_again)).collect()
    }

    fn ids(deliveries: &[Delivery]) -> Vec<usize> {
        let id = |d: &Delivery| d.message.attributes.get(names::ID)?.parse().ok();
        deliveries.iter().map(|d| id(d).expect("an id")).collect()
    }

    async fn source(connector: &dyn Connector) -> Box<dyn Source> {
        let channels = vec![ChannelSpec::work("c")];
        let spec =
            SourceSpec { channels, group: "g".into(), positions: vec![], unsettled_max: 1_000 };
        connector.source(spec).await.expect("open")
    }

    /// Everything that comes before nothing does for a minute of the test's own time.
    async fn all(source: &mut dyn Source) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        while let Ok(more) = tokio::time::timeout(Duration::from_secs(60), source.receive(64)).await
        {
            deliveries.extend(more.expect("receive"));
        }
        deliveries
    }

    #[tokio::test(start_paused = true)]
    async fn only_messages_somebody_asks_again_for_are_lost_when_sent() {
        let broker = MemoryBroker::new();
        let mut source = source(&broker).await;
        let faulty = Faulty::new(Arc::new(broker), Faults { seed: 1, lose: 0.5, ..Faults::none() });
        let mut sink = faulty.sink().await.expect("sink");
        assert!(sink.send(&window(true)).await.iter().all(|sent| *sent == Sent::Confirmed));
        let lost = faulty.counts().sends_lost;
        assert!((60..140).contains(&lost), "{lost}");
        assert_eq!(all(&mut *source).await.len() as u64, 200 - lost);

        let outcomes = sink.send(&window(false)).await;
        let confirmed = outcomes.iter().filter(|sent| **sent == Sent::Confirmed).count();
        assert_eq!(faulty.counts().sends_unknown as usize, 200 - confirmed);
        assert_eq!(all(&mut *source).await.len(), confirmed);
    }

    #[tokio::test(start_paused = true)]
    async fn the_copy_of_a_doubled_delivery_settles_nothing() {
        let broker = MemoryBroker::new();
        let faulty =
            Faulty::new(Arc::new(broker.clone()), Faults { double: 1.0, ..Faults::none() });
        let mut doubled = source(&faulty).await;
        broker.sink().await.expect("sink").send(&[message(7, true)]).await;
        let both = all(&mut *doubled).await;
        assert_eq!(ids(&both), [7, 7]);
        doubled.settler().settle(&[(both[1].receipt, Settle::Done)]);
        drop(doubled);
        assert_eq!(broker.waiting("c"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_back_comes_later_and_is_not_lost_with_the_source() {
        let broker = MemoryBroker::new();
        let delay_max = Duration::from_secs(5);
        let faults = Faults { seed: 3, delay: 0.3, delay_max, ..Faults::none() };
        let faulty = Faulty::new(Arc::new(broker.clone()), faults);
        let mut delayed = source(&faulty).await;
        broker.sink().await.expect("sink").send(&window(true)).await;
        let at_once = delayed.receive(500).await.expect("receive");
        assert!(at_once.len() < 200);
        drop(delayed);
        assert_eq!(broker.waiting("c"), 200);
        let mut delayed = source(&faulty).await;
        let mut came = ids(&all(&mut *delayed).await);
        assert_ne!(came, (0..200).collect::<Vec<_>>());
        came.sort_unstable();
        assert_eq!(came, (0..200).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_seed_does_the_same() {
        let mut runs = Vec::new();
        for _ in 0..2 {
            let faults = Faults { seed: 9, lose: 0.1, double: 0.1, reorder: 0.2, ..Faults::none() };
            let faulty = Faulty::new(Arc::new(MemoryBroker::new()), faults);
            let mut source = source(&faulty).await;
            faulty.sink().await.expect("sink").send(&window(true)).await;
            runs.push((ids(&all(&mut *source).await), faulty.counts()));
        }
        assert_eq!(runs[0], runs[1]);
    }
}
