//! Kafka. The log remembers nothing about its readers that we rely on: positions come from the store.
//!
//! ```text
//! log ─► reader thread (assigned by hand, owner of its group) ─► inbox ─► KafkaSource ─► settled: the low mark moves, a hint for others
//! window ─► KafkaSink, or OwnerSink (a transaction that only the owner can commit) ─► librdkafka (idempotent, acks=all)
//!                                                             ─► delivery reports ─► one outcome per message
//! ```
//!
//! Positions the log does not have any more, or not yet, are refused: reading on would skip or repeat silently.

mod clients;
mod closing;
mod config;
mod context;
mod doors;
mod envelope;
mod fence;
mod figures;
mod flight;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzed;
mod inbox;
mod narrow;
mod owner_sink;
mod ownership;
pub(crate) mod positions;
mod properties;
mod reader;
mod record;
mod retention;
mod routes;
mod security;
mod sink;
mod source;
mod topics;
mod troubles;
mod window;

pub use clients::clients_open;
pub use config::{
    KafkaSettings, OPEN_WAIT_MAX, PositionsFrom, SEND_WAIT_MAX, SESSION_TIMEOUT, TAKEOVER_MARGIN,
};
pub use properties::property_refused;
pub use security::{KafkaSasl, KafkaTls, SaslMechanism};

use crate::{ChannelSpec, Connector, ConnectorError, Memory, Retention, Sink, Source, SourceSpec};
use async_trait::async_trait;
use closing::Closing;
use doors::Doors;
use fence::Fences;
use std::sync::{Arc, PoisonError};
use topics::Wanted;

const NAME: &str = "kafka";

/// A Kafka cluster. Dropping it waits a moment for its sources to leave their groups.
pub struct KafkaConnector {
    settings: Arc<KafkaSettings>,
    closing: Arc<Closing>,
    fences: Fences,
    doors: Doors,
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
            doors: Doors::default(),
        })
    }

    /// Hands back what is to be held as long as this goes on, which may be longer than somebody waits for it.
    async fn create_missing<Held: Send + 'static>(
        &self,
        wanted: Vec<Wanted>,
        held: Held,
    ) -> Result<Held, ConnectorError> {
        let settings = self.settings.clone();
        let created = tokio::task::spawn_blocking(move || {
            topics::create_missing(&settings, &wanted, settings.open_wait_max).map(|()| held)
        });
        let created = created.await;
        let created = created.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
        created.map_err(ConnectorError::from)
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
        self.create_missing(self.wanted(channels), ()).await
    }

    async fn retention(&self, channel: &str) -> Result<Retention, ConnectorError> {
        retention::of(&self.settings, channel).await
    }

    async fn source(&self, spec: SourceSpec) -> Result<Box<dyn Source>, ConnectorError> {
        let door = self.doors.pass(&spec.group).await;
        let mut wanted = self.wanted(&spec.channels);
        let owner = ownership::topic(&spec.group);
        wanted.push(Wanted { name: owner, partitions: 1, compacted: true });
        let door = self.create_missing(wanted, door).await?;
        let (settings, fences) = (self.settings.clone(), self.fences.clone());
        Ok(Box::new(source::KafkaSource::open(settings, &self.closing, fences, door, spec).await?))
    }

    async fn owner_sink(&self, group: &str) -> Result<Box<dyn Sink>, ConnectorError> {
        let held = self.fences.lock().unwrap_or_else(PoisonError::into_inner).get(group).cloned();
        let Some(fence) = held else {
            return Err(ConnectorError::Refused {
                connector: NAME,
                doing: format!("opening the sink of group {group}"),
                text: "no source of this group is open here, so nobody here owns it; open its source first".into(),
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
