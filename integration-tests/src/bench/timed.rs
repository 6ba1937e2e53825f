//! A connector that notes of the deliveries of another one how long each takes from being handed out to being settled, how large they are,
//! and for how long at a time nothing is settled at all.

use super::{histogram::Histogram, orders::bytes_of};
use async_trait::async_trait;
use dirigent_connectors::{
    ChannelSpec, Connector, ConnectorError, Delivery, Health, Memory, Receipt, Retention, Settle,
    Settler, Sink, Source, SourceSpec,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Every how many deliveries one is measured: often enough for the last percent, seldom enough to cost nothing.
const SAMPLE_EVERY: u64 = 16;

/// What was noted.
#[derive(Debug, Clone, Default)]
pub(super) struct Noted {
    /// From being handed out to being settled, which is behind the commit.
    pub to_durable: Histogram,
    /// Bytes of the deliveries that were looked at, and how many these are.
    pub bytes: u64,
    pub looked_at: u64,
    /// The longest time between two settlements.
    pub longest_stall: Duration,
}

impl Noted {
    /// What a delivery takes at the broker, on the average.
    pub(super) fn bytes_per_delivery(&self) -> f64 {
        self.bytes as f64 / (self.looked_at.max(1)) as f64
    }
}

#[derive(Default)]
struct Samples {
    out: HashMap<Receipt, Instant>,
    settled_at: Option<Instant>,
    noted: Noted,
}

/// Measures the sources of another connector.
#[derive(Clone)]
pub(super) struct Timed {
    inner: Arc<dyn Connector>,
    samples: Arc<Mutex<Samples>>,
}

fn lock(samples: &Mutex<Samples>) -> MutexGuard<'_, Samples> {
    samples.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Timed {
    pub(super) fn new(inner: Arc<dyn Connector>) -> Self {
        Self { inner, samples: Arc::default() }
    }

    /// What was noted since the last time. The time up to the next settlement is no stall.
    pub(super) fn take(&self) -> Noted {
        let mut samples = lock(&self.samples);
        samples.settled_at = None;
        std::mem::take(&mut samples.noted)
    }
}

#[async_trait]
impl Connector for Timed {
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
        Ok(Box::new(TimedSource { inner, samples: Arc::clone(&self.samples) }))
    }

    async fn sink(&self) -> Result<Box<dyn Sink>, ConnectorError> {
        self.inner.sink().await
    }

    async fn owner_sink(&self, group: &str) -> Result<Box<dyn Sink>, ConnectorError> {
        self.inner.owner_sink(group).await
    }
}

struct TimedSource {
    inner: Box<dyn Source>,
    samples: Arc<Mutex<Samples>>,
}

#[async_trait]
impl Source for TimedSource {
    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>, ConnectorError> {
        let deliveries = self.inner.receive(max).await?;
        let now = Instant::now();
        let mut samples = lock(&self.samples);
        for delivery in deliveries.iter().filter(|it| it.receipt.0 % SAMPLE_EVERY == 0) {
            samples.out.insert(delivery.receipt, now);
            samples.noted.bytes += bytes_of(&delivery.message);
            samples.noted.looked_at += 1;
        }
        drop(samples);
        Ok(deliveries)
    }

    fn settler(&self) -> Arc<dyn Settler> {
        Arc::new(TimedSettler { inner: self.inner.settler(), samples: Arc::clone(&self.samples) })
    }

    fn health(&self) -> Health {
        self.inner.health()
    }
}

struct TimedSettler {
    inner: Arc<dyn Settler>,
    samples: Arc<Mutex<Samples>>,
}

impl Settler for TimedSettler {
    fn settle(&self, settlements: &[(Receipt, Settle)]) {
        let now = Instant::now();
        {
            let mut samples = lock(&self.samples);
            let before = samples.settled_at.replace(now).unwrap_or(now);
            samples.noted.longest_stall = samples.noted.longest_stall.max(now - before);
            for (receipt, _) in settlements.iter().filter(|it| it.0.0 % SAMPLE_EVERY == 0) {
                if let Some(began) = samples.out.remove(receipt) {
                    samples.noted.to_durable.record(now - began);
                }
            }
        }
        self.inner.settle(settlements);
    }
}
