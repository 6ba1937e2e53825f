//! The broker a person asked for, found or started, with chaos around it if asked for.

use super::{apart::Apart, args::BrokerKind};
use dirigent::config::{BrokerName, ConfigError, ConfigErrors, Settings, SettingsArgs, World};
use dirigent_brokers::{Broker, Unavailable};
use dirigent_connectors::{
    Connector, ConnectorError,
    faulty::{Faults, Faulty},
    kafka::{KafkaConnector, KafkaSettings},
    memory::MemoryBroker,
    rabbitmq::{RabbitMqConnector, RabbitMqSettings},
};
use std::{sync::Arc, time::Duration};

/// How long chaos holds a message back at the most. Well below what [`brisk`](crate::order::OrderTiming::brisk) waits for a reply.
pub const DELAY_MAX: Duration = Duration::from_millis(200);

/// A broker that answers.
pub struct Found {
    /// How to reach it.
    pub connector: Arc<dyn Connector>,
    /// For people: which broker it is and where it comes from.
    pub how: String,
    /// Where it is, for other programs; none within this process. It may hold a password.
    pub address: Option<String>,
    /// Keeps a broker that was started here alive.
    _broker: Option<Broker>,
}

/// Why there is no broker.
#[derive(Debug, thiserror::Error)]
pub enum NoBroker {
    /// None was found, and none can be started.
    #[error("looking for a broker")]
    Unavailable(#[source] Box<Unavailable>),
    /// Its address can't be used.
    #[error("connecting to the broker")]
    Connector(#[source] Box<ConnectorError>),
    /// What is said of how to get in can't be understood.
    #[error("reading the settings of the broker")]
    Settings(#[source] Box<ConfigErrors>),
    /// What is said of how to get in can't be used.
    #[error("connecting to the broker")]
    Secured(#[source] Box<ConfigError>),
    /// A broker within this process is nobody else's.
    #[error(
        "the memory broker lives in one process; use `--broker kafka` or `--broker rabbitmq`, or `demo`, which runs everything in one"
    )]
    MemoryIsNotShared,
}

/// Finds or starts the broker.
///
/// # Errors
/// None can be had.
pub async fn find(kind: BrokerKind) -> Result<Found, NoBroker> {
    if let Some(found) = find_secured(kind)? {
        return Ok(found);
    }
    match kind {
        BrokerKind::Memory => Ok(Found {
            connector: Arc::new(MemoryBroker::new()),
            how: "memory".into(),
            address: None,
            _broker: None,
        }),
        BrokerKind::Kafka => {
            let broker = asked(dirigent_brokers::kafka).await?;
            let mut settings = KafkaSettings::new(broker.address());
            settings.create_by_asking = broker.is_mock();
            let connector = KafkaConnector::new(settings);
            found("kafka", broker, connector.map(|connector| Arc::new(connector) as _))
        }
        BrokerKind::Rabbitmq => {
            let broker = asked(dirigent_brokers::rabbitmq).await?;
            let settings = RabbitMqSettings::new(broker.address());
            let connector =
                settings.map(|settings| Arc::new(RabbitMqConnector::new(settings)) as _);
            found("rabbitmq", broker, connector)
        }
    }
}

/// The broker of the settings, where they say more of it than its address: who looks for brokers has no certificate and no password.
fn find_secured(kind: BrokerKind) -> Result<Option<Found>, NoBroker> {
    let broker = match kind {
        BrokerKind::Memory => return Ok(None),
        BrokerKind::Kafka => BrokerName::Kafka,
        BrokerKind::Rabbitmq => BrokerName::RabbitMq,
    };
    let mut settings = Settings::load("order", &SettingsArgs::default(), &World::here())
        .map_err(|errors| NoBroker::Settings(Box::new(errors)))?;
    settings.broker = Some(broker);
    if !settings.is_secured() {
        return Ok(None);
    }
    let connector = settings
        .connector(&MemoryBroker::new())
        .map_err(|error| NoBroker::Secured(Box::new(error)))?;
    let address = match broker {
        BrokerName::RabbitMq => settings.rabbitmq.clone(),
        BrokerName::Kafka | BrokerName::Memory => settings.kafka.clone(),
    };
    Ok(Some(Found {
        connector,
        how: settings.broker_shown(),
        address: Some(address),
        _broker: None,
    }))
}

/// A broker that other processes can reach too.
///
/// # Errors
/// None can be had, or the one asked for is within this process.
pub async fn find_shared(kind: BrokerKind) -> Result<Found, NoBroker> {
    match kind {
        BrokerKind::Memory => Err(NoBroker::MemoryIsNotShared),
        BrokerKind::Kafka | BrokerKind::Rabbitmq => find(kind).await,
    }
}

fn found(
    name: &str,
    broker: Broker,
    connector: Result<Arc<dyn Connector>, ConnectorError>,
) -> Result<Found, NoBroker> {
    let how = format!("{name}, {}", broker.how());
    let connector = connector.map_err(|error| NoBroker::Connector(Box::new(error)))?;
    let address = Some(broker.address().to_owned());
    Ok(Found { connector, how, address, _broker: Some(broker) })
}

/// Looking for a broker blocks, and starting one takes seconds.
async fn asked(find: fn() -> Result<Broker, Unavailable>) -> Result<Broker, NoBroker> {
    match tokio::task::spawn_blocking(find).await {
        Ok(found) => found.map_err(|error| NoBroker::Unavailable(Box::new(error))),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// Chaos around a connector: everything a network and two brokers may do, often.
pub(super) fn chaos(inner: Arc<dyn Connector>, seed: u64) -> Arc<dyn Connector> {
    let faults =
        Faults { seed, lose: 0.02, double: 0.05, delay: 0.05, delay_max: DELAY_MAX, reorder: 0.05 };
    Arc::new(Faulty::new(inner, faults))
}

/// A connector whose channels nobody else uses.
pub(super) fn apart(inner: Arc<dyn Connector>, prefix: &str) -> Arc<dyn Connector> {
    Arc::new(Apart::new(inner, prefix))
}
