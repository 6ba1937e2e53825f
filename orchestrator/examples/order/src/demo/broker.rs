//! The broker a person asked for, found or started, with chaos around it if asked for.
//!
//! ```text
//! flag ─► environment ─► dirigent.toml ─► docker compose ─► started here       the first that knows of one; the same for every verb
//! ```

use super::{
    apart::Apart,
    args::{AddressArgs, BrokerKind},
};
use dirigent::config::{
    BrokerName, ConfigError, ConfigErrors, Origin, Otherwise, Settings, SettingsArgs, World,
};
use dirigent_brokers::{Broker, How, Unavailable};
use dirigent_connectors::{
    Connector, ConnectorError,
    faulty::{Faults, Faulty},
    kafka::{KafkaConnector, KafkaSettings},
    memory::MemoryBroker,
};
use std::{io::Write as _, sync::Arc, time::Duration};

/// The settings that say where brokers are.
const KAFKA_KEY: &str = "kafka.address";
const RABBITMQ_KEY: &str = "rabbitmq.uri";

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
    /// What is said of it can't be understood.
    #[error("reading the settings of the broker")]
    Settings(#[source] Box<ConfigErrors>),
    /// What is said of it can't be used.
    #[error("connecting to the broker")]
    Unusable(#[source] Box<ConfigError>),
    /// The program that was to be the inventory can't reach it.
    #[error(
        "--inventory runs a process of its own, which can't reach the memory broker; name another one by `--broker kafka` or `--broker rabbitmq`, or leave --inventory out"
    )]
    MemoryIsNotForOthers,
    /// A broker within this process is nobody else's.
    #[error(
        "the memory broker lives in one process; use `--broker kafka` or `--broker rabbitmq`, or `demo`, which runs everything in one"
    )]
    MemoryIsNotShared,
}

/// The broker that was asked for: where a flag, the environment or the file of settings says, else found or started here. Says which it is.
///
/// # Errors
/// None can be had.
pub async fn find(kind: BrokerKind, address: &AddressArgs) -> Result<Found, NoBroker> {
    let name = match kind {
        BrokerKind::Memory => {
            let connector = Arc::new(MemoryBroker::new());
            return Ok(Found { connector, how: "memory".into(), address: None, _broker: None });
        }
        BrokerKind::Kafka => BrokerName::Kafka,
        BrokerKind::Rabbitmq => BrokerName::RabbitMq,
    };
    let mut flags = SettingsArgs { broker: Some(name.to_string()), ..address.flags() };
    let broker = look(&mut flags).await?;
    let settings = load(&flags)?;
    let connector = match &broker {
        Some(mock) if mock.is_mock() => {
            let mut settings = KafkaSettings::new(mock.address());
            settings.create_by_asking = true;
            let mock = KafkaConnector::new(settings);
            Arc::new(mock.map_err(|error| NoBroker::Connector(Box::new(error)))?)
        }
        _ => settings
            .connector(&MemoryBroker::new())
            .map_err(|error| NoBroker::Unusable(Box::new(error)))?,
    };
    let (how, address) = (
        settings.broker_told(),
        match name {
            BrokerName::RabbitMq => settings.rabbitmq,
            BrokerName::Kafka | BrokerName::Memory => settings.kafka,
        },
    );
    note(&format!("broker: {how}"));
    Ok(Found { connector, how, address: Some(address), _broker: broker })
}

/// A broker that other processes can reach too.
///
/// # Errors
/// None can be had, or the one asked for is within this process.
pub async fn find_shared(kind: BrokerKind, address: &AddressArgs) -> Result<Found, NoBroker> {
    match kind {
        BrokerKind::Memory => Err(NoBroker::MemoryIsNotShared),
        BrokerKind::Kafka | BrokerKind::Rabbitmq => {
            let found = find(kind, address).await?;
            found._broker.as_ref().map_or(Ok(()), is_shared)?;
            Ok(found)
        }
    }
}

/// For `run`: the broker that it is to use where nobody says where it is, which the settings say from then on. To be held as long as it
/// is used.
///
/// # Errors
/// None can be had.
pub async fn look_for_run(flags: &mut SettingsArgs) -> Result<Option<Broker>, NoBroker> {
    // What can't be used is told by `run`, with all that belongs to it; without a folder it does not start either.
    if load(flags).ok().and_then(|settings| settings.data).is_none() {
        return Ok(None);
    }
    let broker = look(flags).await?;
    broker.as_ref().map_or(Ok(()), is_shared)?;
    Ok(broker)
}

/// For `config show`: brokers that nobody says where they are will be looked for.
pub fn tell_of_looking(flags: &mut SettingsArgs) {
    for key in [KAFKA_KEY, RABBITMQ_KEY] {
        let value = "(looked for: by docker compose, or started here)".into();
        flags.otherwise.push(Otherwise { key, value, by: "default".into() });
    }
}

/// Looks for the chosen broker if nobody says where it is, and puts what was found into the settings.
async fn look(flags: &mut SettingsArgs) -> Result<Option<Broker>, NoBroker> {
    let settings = load(flags)?;
    // Who looks for brokers has no certificate and no password.
    if settings.broker_by() != Some(&Origin::Default) || settings.is_secured() {
        return Ok(None);
    }
    let (key, flag, variable, find): (_, _, _, fn() -> _) = match settings.broker {
        Some(BrokerName::Kafka) => {
            (KAFKA_KEY, "--kafka", dirigent_brokers::KAFKA_VARIABLE, dirigent_brokers::kafka)
        }
        Some(BrokerName::RabbitMq) => (
            RABBITMQ_KEY,
            "--rabbitmq",
            dirigent_brokers::RABBITMQ_VARIABLE,
            dirigent_brokers::rabbitmq,
        ),
        Some(BrokerName::Memory) | None => return Ok(None),
    };
    let section = key.replace('.', "] ");
    note(&format!(
        "broker: neither {flag} nor {variable} nor `[{section}` in dirigent.toml says where it is; asking docker compose, else starting one here, which may take a minute"
    ));
    let broker = asked(find).await?;
    let (value, by) = (broker.address().to_owned(), broker.how().to_string());
    flags.otherwise.push(Otherwise { key, value, by });
    Ok(Some(broker))
}

fn is_shared(broker: &Broker) -> Result<(), NoBroker> {
    match broker.how() {
        How::Mock { why } => {
            let why = why.clone();
            Err(NoBroker::Unavailable(Box::new(Unavailable::OnlyMock { why })))
        }
        How::Environment | How::Compose | How::Started { .. } => Ok(()),
    }
}

fn load(flags: &SettingsArgs) -> Result<Settings, NoBroker> {
    Settings::load("order", flags, &World::here())
        .map_err(|errors| NoBroker::Settings(Box::new(errors)))
}

/// For people, whatever is logged; a reader that has gone away is no error.
fn note(line: &str) {
    writeln!(std::io::stderr(), "{line}").unwrap_or_default();
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
