//! RabbitMQ: queues that hand each message to one reader, exchanges that copy events to each group's queue.
//!
//! ```text
//! source ─► connection ─► owner ─► topology ─► a consumer for each queue ─► envelope ─► acks
//! sink ─► line: connection ─► topology ─► envelope ─► publish the window ─► window: decided as a whole
//!      └► probes: a connection for each channel that does not confirm
//! ```
//!
//! - A [channel of work](crate::ChannelKind::Work) is a durable quorum queue of that name, reached through the default exchange.
//! - A [channel of events](crate::ChannelKind::Events) is a durable fanout exchange of that name; each group that reads it
//!   has a durable quorum queue `<channel>.<group>`, created when its source is first opened. Events sent before that are not kept for it.
//! - Every queue has a single active consumer. With consumers competing for single messages, a redelivery or a slow reader
//!   would overtake its neighbours and break the order of a key. Who has the queue also has its lock, so that a second reader
//!   is told: it is refused, or stands by where [`RabbitMqSettings::stand_by`] says so.
//! - Dead letters lie in plain quorum queues, from which any tool takes them one by one.
//! - A source has a connection for its locks and one for each queue, so that a queue that does not answer stops no other.
//! - Sinks have connections of their own: when the broker is short of memory or disk it stops reading from
//!   connections that publish, and acknowledgements must not wait behind that.
//! - lapin's own recovery is off. A connection that breaks is built anew, with its topology, for ever.
//!
//! Made for RabbitMQ 3.10 to 4.x.

mod acks;
mod config;
mod connection;
mod consumer;
mod envelope;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzed;
mod line;
mod mended;
mod owner;
mod probes;
mod silence;
mod sink;
mod source;
mod stream;
mod tls;
mod topology;
mod watch;
mod window;

pub use config::{
    CONFIRM_TIME_MAX, CONNECT_TIME_MAX, HEARTBEAT, MESSAGE_BYTES_MAX, PREFETCH_MAX,
    RabbitMqSettings, RabbitMqUri,
};

pub use tls::RabbitMqTls;

use crate::{ChannelSpec, Connector, ConnectorError, Memory, Sink, Source, SourceSpec};
use async_trait::async_trait;
use connection::Dialer;
use std::sync::Arc;
use topology::Prepared;

/// What people call this connector, in errors too.
const NAME: &str = "rabbitmq";

/// One RabbitMQ, or a cluster of it behind one address.
#[derive(Debug)]
pub struct RabbitMqConnector {
    dialer: Arc<Dialer>,
    prepared: Prepared,
}

impl RabbitMqConnector {
    /// Connects to nothing yet.
    pub fn new(settings: RabbitMqSettings) -> Self {
        Self { dialer: Arc::new(Dialer::new(settings)), prepared: Prepared::default() }
    }
}

#[async_trait]
impl Connector for RabbitMqConnector {
    fn name(&self) -> &str {
        NAME
    }

    fn memory(&self) -> Memory {
        Memory::Settlements
    }

    /// Errors: [`ConnectorError::Unreachable`]; [`ConnectorError::Refused`] for a queue or exchange that exists in another form.
    async fn prepare(&self, channels: &[ChannelSpec]) -> Result<(), ConnectorError> {
        topology::check_names(channels, None)?;
        let attempt = || async {
            let connection = self.dialer.dial("prepare").await?;
            topology::declare(&connection, channels, None).await?;
            connection::close(connection).await;
            Ok(())
        };
        self.dialer.while_opening("preparing its channels", attempt).await?;
        self.prepared.remember(channels);
        Ok(())
    }

    /// Errors: as for `prepare`; [`ConnectorError::Setting`] for a specification that can't be met; [`ConnectorError::Owned`]
    /// while another process reads one of its queues.
    async fn source(&self, spec: SourceSpec) -> Result<Box<dyn Source>, ConnectorError> {
        Ok(Box::new(source::RabbitMqSource::open(self.dialer.clone(), spec).await?))
    }

    /// Errors: as for `prepare`.
    async fn owner_sink(&self, _: &str) -> Result<Box<dyn Sink>, ConnectorError> {
        self.sink().await
    }

    async fn sink(&self) -> Result<Box<dyn Sink>, ConnectorError> {
        Ok(Box::new(sink::RabbitMqSink::open(self.dialer.clone(), self.prepared.clone()).await?))
    }
}
