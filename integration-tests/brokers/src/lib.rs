//! Finds or starts a real broker for tests and demos.
//!
//! Asked for Kafka or RabbitMQ, it looks in this order, and says which one it was ([`Broker::how`]):
//! the address in the environment ([`KAFKA_VARIABLE`], [`RABBITMQ_VARIABLE`]), the project's
//! `docker-compose.yml` where a docker engine runs, a broker started here in a folder under cargo's
//! target folder, and for Kafka alone librdkafka's mock inside this process.
//!
//! A broker started here is shared by all processes of a test run: it outlives the process that
//! started it, and ends when nobody has used it for [`IDLE_MAX`]. A test that kills its broker
//! takes one of its own ([`kafka_private`], [`rabbitmq_private`]). All calls block: from async code
//! call them on a blocking thread.

mod apicurio;
mod broker;
mod compose;
mod error;
mod home;
mod kafka;
mod mock;
mod place;
mod postgres;
mod process;
mod rabbitmq;
mod report;
mod secured;

pub use broker::{Broker, How, Kind};
pub use error::Unavailable;
pub use home::{IDLE_MAX, KEEP_MAX, PRIVATE_IDLE_MAX};
pub use kafka::VERSION as KAFKA_VERSION;
pub use report::{Named, brokers_used, required, skip};
pub use secured::Secured;

/// Where to find Kafka: `host:port`, several separated by commas.
pub const KAFKA_VARIABLE: &str = "DIRIGENT_KAFKA";

/// Where to find RabbitMQ: an `amqp://` or `amqps://` address.
pub const RABBITMQ_VARIABLE: &str = "DIRIGENT_RABBITMQ";

/// Where to find a schema registry: the address of Confluent's API.
pub const REGISTRY_VARIABLE: &str = "DIRIGENT_REGISTRY";

/// Where to find PostgreSQL: a `postgres://` address of somebody who may make schemas.
pub const POSTGRES_VARIABLE: &str = "DIRIGENT_POSTGRES";

/// The command that administers the RabbitMQ of [`RABBITMQ_VARIABLE`]: words separated by spaces, arguments follow.
pub const RABBITMQCTL_VARIABLE: &str = "DIRIGENT_RABBITMQCTL";

/// Set to `1`: a test without a real broker fails instead of being skipped.
pub const REQUIRE_VARIABLE: &str = "DIRIGENT_REQUIRE_BROKERS";

/// A Kafka, found or started, shared with the other tests of the run: use topic names of your own.
///
/// # Errors
/// An address in the environment that does not answer; nothing found and nothing startable
/// (only with [`REQUIRE_VARIABLE`], otherwise the mock answers).
pub fn kafka() -> Result<Broker, Unavailable> {
    report::noted(broker::find(Kind::Kafka))
}

/// A RabbitMQ, found or started, shared with the other tests of the run: use queue names of your own.
///
/// # Errors
/// An address in the environment that does not answer; nothing found and nothing startable.
pub fn rabbitmq() -> Result<Broker, Unavailable> {
    report::noted(broker::find(Kind::RabbitMq))
}

/// A Kafka of one's own, started here (else the mock), which may be killed and restarted. Ends with the value.
///
/// # Errors
/// As [`kafka`]; the environment and docker are not asked.
pub fn kafka_private() -> Result<Broker, Unavailable> {
    report::noted(broker::private(Kind::Kafka))
}

/// A Kafka of one's own that sends its clients to a port of this machine instead of to itself: a proxy listens there and
/// carries to [`Broker::behind`].
///
/// # Errors
/// As [`kafka_private`]; a mock can't do it and counts as unavailable.
pub fn kafka_private_behind(port: u16) -> Result<Broker, Unavailable> {
    report::noted(broker::private_behind(port))
}

/// A Kafka of one's own with more properties in its own configuration, such as how long it remembers something.
///
/// # Errors
/// As [`kafka_private`]; a mock can't do it and counts as unavailable.
pub fn kafka_private_with(properties: &[(&str, &str)]) -> Result<Broker, Unavailable> {
    report::noted(broker::kafka_private_with(properties))
}

/// A RabbitMQ of one's own, started here, which may be killed and restarted. Ends with the value.
///
/// # Errors
/// As [`rabbitmq`]; the environment and docker are not asked.
pub fn rabbitmq_private() -> Result<Broker, Unavailable> {
    report::noted(broker::private(Kind::RabbitMq))
}

/// A Kafka of one's own that asks who its clients are, at [`Broker::secured`]: by SASL over TLS, with a certificate of theirs.
///
/// # Errors
/// As [`kafka_private`]; a mock can't do it and counts as unavailable.
pub fn kafka_private_secured(secured: &Secured) -> Result<Broker, Unavailable> {
    report::noted(broker::private_secured(Kind::Kafka, secured))
}

/// A RabbitMQ of one's own that asks who its clients are, at [`Broker::secured`]: by TLS, with a certificate of theirs.
///
/// # Errors
/// As [`rabbitmq_private`].
pub fn rabbitmq_private_secured(secured: &Secured) -> Result<Broker, Unavailable> {
    report::noted(broker::private_secured(Kind::RabbitMq, secured))
}

/// A schema registry, found or started (Apicurio, in memory), shared with the other tests of the run: use record names of your own.
///
/// # Errors
/// An address in the environment that does not answer; nothing found and nothing startable.
pub fn schema_registry() -> Result<Broker, Unavailable> {
    report::noted(broker::find(Kind::SchemaRegistry))
}

/// A schema registry of one's own, started here, which may be killed and restarted. Ends with the value, its schemas with each end.
///
/// # Errors
/// As [`schema_registry`]; the environment is not asked.
pub fn schema_registry_private() -> Result<Broker, Unavailable> {
    report::noted(broker::private(Kind::SchemaRegistry))
}

/// A PostgreSQL, found or started, shared with the other tests of the run: use schemas of your own.
///
/// # Errors
/// An address in the environment that does not answer; nothing found and nothing startable.
pub fn postgres() -> Result<Broker, Unavailable> {
    report::noted(broker::find(Kind::Postgres))
}

/// A PostgreSQL of one's own, started here, which may be killed, restarted and frozen. Ends with the value.
///
/// # Errors
/// As [`postgres`]; the environment is not asked.
pub fn postgres_private() -> Result<Broker, Unavailable> {
    report::noted(broker::private(Kind::Postgres))
}

/// A PostgreSQL of one's own that asks who its clients are: it lets in by TLS only, with a certificate of theirs and the password.
/// Its address names that user.
///
/// # Errors
/// As [`postgres_private`].
pub fn postgres_private_secured(secured: &Secured) -> Result<Broker, Unavailable> {
    report::noted(broker::private_secured(Kind::Postgres, secured))
}

/// What runs here, without starting anything: one line per broker, as an env-file.
///
/// # Errors
/// The folder of the brokers cannot be read.
pub fn status() -> Result<Vec<String>, Unavailable> {
    broker::status()
}

/// Finds or starts the broker and keeps it until [`down`], for [`KEEP_MAX`] at most, though nobody uses it.
///
/// # Errors
/// As [`kafka`] and [`rabbitmq`]; a mock is no help to another process and counts as unavailable.
pub fn up(kind: Kind) -> Result<Broker, Unavailable> {
    report::noted(broker::up(kind))
}

/// Runs `rabbitmqctl` against the shared RabbitMQ that was started here, to raise an alarm for example.
/// Answers what it printed. All who share the broker feel it.
///
/// # Errors
/// None was started here, the environment names another one, or the command fails.
pub fn rabbitmqctl(arguments: &[&str]) -> Result<String, Unavailable> {
    broker::rabbitmqctl(arguments)
}

/// Ends the shared brokers that were started here. Answers what was ended.
///
/// # Errors
/// The folder of the brokers cannot be locked or changed.
pub fn down() -> Result<Vec<Kind>, Unavailable> {
    broker::down()
}

/// The broker, or `None` after saying aloud which test is skipped, why, and what to install.
/// Panics instead when [`REQUIRE_VARIABLE`] asks for brokers.
///
/// ```no_run
/// fn orders_survive_a_restart() {
///     let Some(broker) = dirigent_brokers::require!(dirigent_brokers::rabbitmq()) else { return };
///     println!("{}", broker.address());
/// }
/// ```
#[macro_export]
macro_rules! require {
    ($found:expr) => {{
        // The name of a function inside names the test around it, also off the test's own thread.
        fn here() {}
        match $found {
            Ok(broker) => Some(broker),
            Err(why) => {
                $crate::skip(::std::any::type_name_of_val(&here), &why);
                None
            }
        }
    }};
}
