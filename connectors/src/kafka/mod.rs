//! Kafka. The log remembers nothing about its readers that we rely on: positions come from the store.
//!
//! ```text
//! log ─► reader thread (assigned by hand, owner of its group) ─► inbox ─► KafkaSource ─► settled: the low mark moves, a hint for others
//! window ─► KafkaSink, or OwnerSink (a transaction that only the owner can commit) ─► librdkafka (idempotent, acks=all)
//!                                                             ─► delivery reports ─► one outcome per message
//! ```
//!
//! Positions the log does not have any more, or not yet, are refused: reading on would skip or repeat silently.

mod closing;
mod config;
mod context;
mod envelope;
mod fence;
mod figures;
mod flight;
mod inbox;
mod owner_sink;
mod ownership;
mod positions;
mod reader;
mod record;
mod retention;
mod routes;
mod sink;
mod source;
mod topics;
mod window;

pub use config::{
    KafkaSettings, OPEN_WAIT_MAX, PositionsFrom, SEND_WAIT_MAX, SESSION_TIMEOUT, TAKEOVER_MARGIN,
};

use crate::{ChannelSpec, Connector, ConnectorError, Memory, Retention, Sink, Source, SourceSpec};
use async_trait::async_trait;
use closing::Closing;
use fence::Fences;
use std::sync::{Arc, PoisonError};
use topics::Wanted;

const NAME: &str = "kafka";

/// A Kafka cluster. Dropping it waits a moment for its sources to leave their groups.
pub struct KafkaConnector {
    settings: Arc<KafkaSettings>,
    closing: Arc<Closing>,
    fences: Fences,
}

impl std::fmt::Debug for KafkaConnector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaConnector").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl KafkaConnector {
    /// Checks the settings; connects to nothing yet.
    pub fn new(settings: KafkaSettings) -> Result<Self, ConnectorError> {
        settings.check()?;
        Ok(Self {
            settings: Arc::new(settings),
            closing: Arc::default(),
            fences: Fences::default(),
        })
    }

    async fn create_missing(&self, wanted: Vec<Wanted>) -> Result<(), ConnectorError> {
        let settings = self.settings.clone();
        let created =
            tokio::task::spawn_blocking(move || topics::create_missing(&settings, &wanted)).await;
        created.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    fn wanted(&self, channels: &[ChannelSpec]) -> Vec<Wanted> {
        let partitions = self.settings.partitions;
        channels.iter().map(|channel| Wanted::log(&channel.name, partitions)).collect()
    }
}

#[async_trait]
impl Connector for KafkaConnector {
    fn name(&self) -> &str {
        NAME
    }

    fn memory(&self) -> Memory {
        Memory::Positions
    }

    async fn prepare(&self, channels: &[ChannelSpec]) -> Result<(), ConnectorError> {
        self.create_missing(self.wanted(channels)).await
    }

    async fn retention(&self, channel: &str) -> Result<Retention, ConnectorError> {
        retention::of(&self.settings, channel).await
    }

    async fn source(&self, spec: SourceSpec) -> Result<Box<dyn Source>, ConnectorError> {
        let mut wanted = self.wanted(&spec.channels);
        let owner = ownership::topic(&spec.group);
        wanted.push(Wanted { name: owner, partitions: 1, compacted: true });
        self.create_missing(wanted).await?;
        let (settings, fences) = (self.settings.clone(), self.fences.clone());
        Ok(Box::new(source::KafkaSource::open(settings, &self.closing, fences, spec).await?))
    }

    async fn owner_sink(&self, group: &str) -> Result<Box<dyn Sink>, ConnectorError> {
        let held = self.fences.lock().unwrap_or_else(PoisonError::into_inner).get(group).cloned();
        let Some(fence) = held else {
            return Err(ConnectorError::Refused {
                connector: NAME,
                doing: format!("opening the sink of group {group}"),
                text: "no source of this group was opened before, so nobody here owns it".into(),
            });
        };
        Ok(Box::new(owner_sink::OwnerSink::open(self.settings.clone(), fence).await?))
    }

    async fn sink(&self) -> Result<Box<dyn Sink>, ConnectorError> {
        Ok(Box::new(sink::KafkaSink::new(self.settings.clone())?))
    }
}

impl Drop for KafkaConnector {
    fn drop(&mut self) {
        self.closing.wait();
    }
}
