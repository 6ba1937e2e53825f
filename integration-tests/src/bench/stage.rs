//! The broker that is measured with: one in memory, or a real one that is started for this run alone unless an address is said.

use super::Error;
use clap::ValueEnum;
use dirigent_brokers::{Broker, Unavailable};
use dirigent_connectors::{
    Connector,
    kafka::{KafkaConnector, KafkaSettings},
    memory::MemoryBroker,
    rabbitmq::{RabbitMqConnector, RabbitMqSettings},
};
use std::sync::Arc;

/// A kind of broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// Within this process: what everything around a broker costs.
    Memory,
    /// Kafka.
    Kafka,
    /// RabbitMQ.
    Rabbitmq,
}

impl Which {
    /// As people write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Kafka => "Kafka",
            Self::Rabbitmq => "RabbitMQ",
        }
    }
}

/// Which broker to measure with.
#[derive(Debug, Clone, clap::Args)]
pub struct At {
    /// A broker that is there already, instead of one that is started for this run: `host:port` of Kafka, an `amqp://` address of
    /// RabbitMQ. The order saga's channels are made there and have to be empty.
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<String>,
}

/// A broker that is there. It ends with this, if it was started for it.
pub(super) struct Stage {
    pub which: Which,
    /// Where it comes from, for the report.
    pub how: String,
    address: String,
    memory: MemoryBroker,
    _broker: Option<Broker>,
}

impl Stage {
    /// One in memory.
    pub(super) fn memory() -> Self {
        Self {
            which: Which::Memory,
            how: "within this process".into(),
            address: String::new(),
            memory: MemoryBroker::new(),
            _broker: None,
        }
    }

    /// One of this kind.
    pub(super) async fn open(which: Which, at: &At) -> Result<Self, Error> {
        let start: fn() -> Result<Broker, Unavailable> = match which {
            Which::Memory => return Ok(Self::memory()),
            Which::Kafka => dirigent_brokers::kafka_private,
            Which::Rabbitmq => dirigent_brokers::rabbitmq_private,
        };
        if let Some(address) = &at.address {
            let how = "an address that was said".into();
            return Ok(Self { which, how, address: address.clone(), ..Self::memory() });
        }
        let broker = tokio::task::spawn_blocking(start).await??;
        if broker.is_mock() {
            return Err(format!(
                "there is no real {} to measure with ({}); install one, or say its address with --address",
                which.word(),
                broker.how(),
            )
            .into());
        }
        let (how, address) = (broker.how().to_string(), broker.address().to_owned());
        Ok(Self { which, how, address, _broker: Some(broker), ..Self::memory() })
    }

    /// A client of it, apart from all others.
    pub(super) fn connector(&self) -> Result<Arc<dyn Connector>, Error> {
        Ok(match self.which {
            Which::Memory => Arc::new(self.memory.clone()),
            Which::Kafka => Arc::new(KafkaConnector::new(KafkaSettings::new(&self.address))?),
            Which::Rabbitmq => {
                Arc::new(RabbitMqConnector::new(RabbitMqSettings::new(&self.address)?))
            }
        })
    }

    /// Where it is. May hold a password: it is in no report.
    pub(super) fn address(&self) -> &str {
        &self.address
    }
}
