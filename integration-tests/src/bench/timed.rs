//! A connector that notes how long each delivery takes from being handed out to being settled.

use async_trait::async_trait;
use dirigent_connectors::{
    ChannelSpec, Connector, ConnectorError, Delivery, Health, Memory, Receipt, Retention, Settle,
    Settler, Sink, Source, SourceSpec,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Every how many deliveries one is measured: often enough for the last percent, seldom enough to cost nothing.
const SAMPLE_EVERY: u64 = 16;

#[derive(Default)]
struct Samples {
    out: HashMap<Receipt, Instant>,
    taken: Vec<Duration>,
}

/// Measures the sources of another connector.
#[derive(Clone)]
pub(super) struct Timed {
    inner: Arc<dyn Connector>,
    samples: Arc<Mutex<Samples>>,
}

impl Timed {
    pub(super) fn new(inner: Arc<dyn Connector>) -> Self {
        Self { inner, samples: Arc::default() }
    }

    /// All samples so far, sorted.
    pub(super) fn sorted(&self) -> Vec<Duration> {
        let mut taken = self.samples.lock().unwrap_or_else(PoisonError::into_inner).taken.clone();
        taken.sort_unstable();
        taken
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
        let measured = deliveries
            .iter()
            .map(|delivery| delivery.receipt)
            .filter(|receipt| receipt.0 % SAMPLE_EVERY == 0);
        self.samples
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .out
            .extend(measured.map(|receipt| (receipt, now)));
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
        {
            let now = Instant::now();
            let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
            for (receipt, _) in
                settlements.iter().filter(|(receipt, _)| receipt.0 % SAMPLE_EVERY == 0)
            {
                if let Some(began) = samples.out.remove(receipt) {
                    samples.taken.push(now - began);
                }
            }
        }
        self.inner.settle(settlements);
    }
}
