//! One broker, where it comes from, and what a test may do to it.

use std::path::PathBuf;
use std::sync::Arc;
use std::{env, fmt};

use crate::error::Unavailable;
use crate::home::{self, Home, Wishes};
use crate::mock::Mock;
use crate::secured::{self, Secured};
use crate::{
    KAFKA_VARIABLE, POSTGRES_VARIABLE, RABBITMQ_VARIABLE, REGISTRY_VARIABLE, apicurio, compose,
    kafka, postgres, rabbitmq, report,
};

/// Which broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Apache Kafka.
    Kafka,
    /// RabbitMQ.
    RabbitMq,
    /// Apicurio, a schema registry that speaks Confluent's API. No broker, but kept like one.
    SchemaRegistry,
    /// PostgreSQL. No broker either.
    Postgres,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::Kafka, Kind::RabbitMq, Kind::SchemaRegistry, Kind::Postgres];

    /// The brokers among them.
    pub const BROKERS: [Kind; 2] = [Kind::Kafka, Kind::RabbitMq];

    /// Its name in folders, services and commands.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Kind::Kafka => "kafka",
            Kind::RabbitMq => "rabbitmq",
            Kind::SchemaRegistry => "schema-registry",
            Kind::Postgres => "postgres",
        }
    }

    /// The variable that names its address.
    #[must_use]
    pub fn variable(self) -> &'static str {
        match self {
            Kind::Kafka => KAFKA_VARIABLE,
            Kind::RabbitMq => RABBITMQ_VARIABLE,
            Kind::SchemaRegistry => REGISTRY_VARIABLE,
            Kind::Postgres => POSTGRES_VARIABLE,
        }
    }

    pub(crate) fn install(self) -> &'static str {
        match self {
            Kind::Kafka => kafka::INSTALL,
            Kind::RabbitMq => rabbitmq::INSTALL,
            Kind::SchemaRegistry => apicurio::INSTALL,
            Kind::Postgres => postgres::INSTALL,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Where a broker comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// Named by the environment.
    Environment,
    /// A service of `docker-compose.yml`.
    Compose,
    /// A process of this machine, started by us.
    Started {
        /// What it says of itself.
        version: String,
    },
    /// librdkafka's mock in this process.
    Mock {
        /// Why there is no real one.
        why: String,
    },
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            How::Environment => f.write_str("environment"),
            How::Compose => f.write_str("docker compose"),
            How::Started { version } => write!(f, "started here ({version})"),
            How::Mock { .. } => f.write_str("mock"),
        }
    }
}

/// A broker that answers. Keep the value as long as the broker is used.
pub struct Broker {
    kind: Kind,
    address: String,
    how: How,
    hold: Hold,
}

/// What keeps the broker alive.
enum Hold {
    Elsewhere,
    Home(Home),
    Mock { mock: Arc<Mock>, private: bool },
}

impl Broker {
    /// Which broker it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// `host:port` of Kafka, an `amqp://` address of RabbitMQ, a `postgres://` one of PostgreSQL. May hold a password: don't log it.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where the proxy carries to, for a broker that sends its clients to one.
    #[must_use]
    pub fn behind(&self) -> Option<String> {
        match &self.hold {
            Hold::Home(home) if self.kind == Kind::Kafka => {
                home.is_behind().then(|| kafka::behind(home.state().ports))
            }
            Hold::Home(_) | Hold::Elsewhere | Hold::Mock { .. } => None,
        }
    }

    /// Where it asks who its clients are, `host:port`, for a broker that was started to do so. The host is an address: a certificate
    /// for it names `127.0.0.1`.
    #[must_use]
    pub fn secured(&self) -> Option<String> {
        match &self.hold {
            Hold::Home(home) if home.is_secured() && self.kind == Kind::Postgres => {
                Some(postgres::place_of(home.state().ports))
            }
            Hold::Home(home) if home.is_secured() => {
                let [.., asking] = home.state().ports;
                Some(format!("127.0.0.1:{asking}"))
            }
            Hold::Home(_) | Hold::Elsewhere | Hold::Mock { .. } => None,
        }
    }

    /// Gives a secured broker other certificates. They count once it is restarted.
    ///
    /// # Errors
    /// It is not secured, or the files can't be written.
    pub fn secure(&self, secured: &Secured) -> Result<(), Unavailable> {
        match &self.hold {
            Hold::Home(home) if home.is_secured() => home.secure(secured),
            Hold::Home(_) | Hold::Elsewhere | Hold::Mock { .. } => Err(self.not_ours("securing")),
        }
    }

    /// Denies a user of a secured Kafka to write to a topic; everything else about it is permitted to everybody.
    ///
    /// # Errors
    /// It is no secured Kafka, or it refuses.
    pub fn deny_writing(&self, user: &str, topic: &str) -> Result<(), Unavailable> {
        match &self.hold {
            Hold::Home(home) if home.is_secured() && self.kind == Kind::Kafka => {
                secured::deny_writing(&self.address, user, topic)
                    .map_err(|why| self.failed("denying a topic", why))
            }
            Hold::Home(_) | Hold::Elsewhere | Hold::Mock { .. } => Err(self.not_ours("denying")),
        }
    }

    /// Where it comes from.
    #[must_use]
    pub fn how(&self) -> &How {
        &self.how
    }

    /// Whether it only plays a broker.
    #[must_use]
    pub fn is_mock(&self) -> bool {
        matches!(self.how, How::Mock { .. })
    }

    /// What the broker writes about itself, when it was started here.
    #[must_use]
    pub fn log(&self) -> Option<PathBuf> {
        match &self.hold {
            Hold::Home(home) => Some(home.log()),
            Hold::Elsewhere | Hold::Mock { .. } => None,
        }
    }

    /// `kill -9`. Its clients lose their connections; its data stay. Killing twice is fine.
    ///
    /// # Errors
    /// It is not private, or its processes live on.
    pub fn kill(&self) -> Result<(), Unavailable> {
        match self.private("killing")? {
            Private::Home(home) => home.kill(),
            Private::Mock(mock) => mock.down().map_err(|why| self.failed("stopping the mock", why)),
        }
    }

    /// Starts it again on the same ports and data, killing it first when it lives. Waits until it answers.
    ///
    /// # Errors
    /// It is not private, or does not start.
    pub fn restart(&self) -> Result<(), Unavailable> {
        match self.private("restarting")? {
            Private::Home(home) => home.restart(),
            Private::Mock(mock) => mock.up().map_err(|why| self.failed("starting the mock", why)),
        }
    }

    /// Stops it without ending it (SIGSTOP): connections stay open and nothing answers.
    ///
    /// # Errors
    /// It is not private, or a mock.
    pub fn freeze(&self) -> Result<(), Unavailable> {
        self.signal("freezing", "STOP")
    }

    /// Lets it go on after [`Broker::freeze`].
    ///
    /// # Errors
    /// It is not private, or a mock.
    pub fn thaw(&self) -> Result<(), Unavailable> {
        self.signal("thawing", "CONT")
    }

    /// Runs `rabbitmqctl` against a private RabbitMQ, to raise an alarm for example. Answers what it printed.
    ///
    /// # Errors
    /// It is not private or no RabbitMQ, or the command fails.
    pub fn rabbitmqctl(&self, arguments: &[&str]) -> Result<String, Unavailable> {
        match self.private("controlling")? {
            Private::Home(home) if self.kind == Kind::RabbitMq => {
                rabbitmq::control(home.path(), home.state().ports, arguments)
            }
            Private::Home(_) | Private::Mock(_) => Err(self.not_ours("controlling")),
        }
    }

    fn signal(&self, doing: &'static str, name: &str) -> Result<(), Unavailable> {
        match self.private(doing)? {
            Private::Home(home) => {
                home.signal(name);
                Ok(())
            }
            Private::Mock(_) => Err(self.not_ours(doing)),
        }
    }

    fn private(&self, doing: &'static str) -> Result<Private<'_>, Unavailable> {
        match &self.hold {
            Hold::Home(home) if home.is_private() => Ok(Private::Home(home)),
            Hold::Mock { mock, private: true } => Ok(Private::Mock(mock)),
            Hold::Home(_) | Hold::Mock { .. } | Hold::Elsewhere => Err(self.not_ours(doing)),
        }
    }

    fn not_ours(&self, doing: &'static str) -> Unavailable {
        Unavailable::NotOurs { kind: self.kind, doing, how: self.how.to_string() }
    }

    fn failed(&self, doing: &'static str, why: String) -> Unavailable {
        Unavailable::Failed { kind: self.kind, doing, why, log: None }
    }

    fn of_home(kind: Kind, home: Home) -> Self {
        let how = How::Started { version: home.state().version.clone() };
        Self { kind, address: home.state().address.clone(), how, hold: Hold::Home(home) }
    }
}

enum Private<'b> {
    Home(&'b Home),
    Mock(&'b Mock),
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("kind", &self.kind)
            .field("address", &shown(self.kind, &self.address))
            .field("how", &self.how)
            .finish_non_exhaustive()
    }
}

pub(crate) fn find(kind: Kind) -> Result<Broker, Unavailable> {
    if let Some(broker) = named(kind)? {
        return Ok(broker);
    }
    match compose::up(kind) {
        Ok(Some(address)) => {
            return Ok(Broker { kind, address, how: How::Compose, hold: Hold::Elsewhere });
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "Docker has no broker for us, starting one here."),
    }
    match Home::shared(kind) {
        Ok(home) => Ok(Broker::of_home(kind, home)),
        Err(error) => mocked(kind, error, false),
    }
}

pub(crate) fn private(kind: Kind) -> Result<Broker, Unavailable> {
    match Home::private(kind, Wishes::default()) {
        Ok(home) => Ok(Broker::of_home(kind, home)),
        Err(error) => mocked(kind, error, true),
    }
}

pub(crate) fn private_behind(port: u16) -> Result<Broker, Unavailable> {
    let wishes = Wishes { proxy: Some(port), ..Wishes::default() };
    Ok(Broker::of_home(Kind::Kafka, Home::private(Kind::Kafka, wishes)?))
}

pub(crate) fn kafka_private_with(properties: &[(&str, &str)]) -> Result<Broker, Unavailable> {
    let wishes = Wishes { properties, ..Wishes::default() };
    Ok(Broker::of_home(Kind::Kafka, Home::private(Kind::Kafka, wishes)?))
}

pub(crate) fn private_secured(kind: Kind, secured: &Secured) -> Result<Broker, Unavailable> {
    let wishes = Wishes { secured: Some(secured), ..Wishes::default() };
    Ok(Broker::of_home(kind, Home::private(kind, wishes)?))
}

pub(crate) fn up(kind: Kind) -> Result<Broker, Unavailable> {
    let broker = find(kind)?;
    match (&broker.hold, &broker.how) {
        (Hold::Home(home), _) => home.keep()?,
        (_, How::Mock { why }) => return Err(Unavailable::OnlyMock { why: why.clone() }),
        (Hold::Elsewhere | Hold::Mock { .. }, _) => {}
    }
    Ok(broker)
}

pub(crate) fn status() -> Result<Vec<String>, Unavailable> {
    let mut lines = Vec::new();
    for kind in Kind::ALL {
        if let Some(address) = address_in_environment(kind) {
            // What is there may hold a password, and the reader has it already.
            lines.push(format!("# {} is set: {}", kind.variable(), shown(kind, &address)));
        } else if let Some(state) = home::running(kind)? {
            lines.push(format!("{}={}", kind.variable(), state.address));
        } else {
            lines.push(format!("# {kind}: nothing started here"));
        }
    }
    Ok(lines)
}

/// Runs `rabbitmqctl` against the shared RabbitMQ, where it was started here.
pub(crate) fn rabbitmqctl(arguments: &[&str]) -> Result<String, Unavailable> {
    let kind = Kind::RabbitMq;
    let Some((path, state)) = home::lives(kind)? else {
        return Err(Unavailable::NoAdministrator { why: "none runs; `brokers up` starts one" });
    };
    // Whoever asks for an alarm at another broker must not get it here.
    if address_in_environment(kind).is_some_and(|address| address != state.address) {
        return Err(Unavailable::NoAdministrator { why: "the environment names another one" });
    }
    rabbitmq::control(&path, state.ports, arguments)
}

pub(crate) fn down() -> Result<Vec<Kind>, Unavailable> {
    let mut ended = Vec::new();
    for kind in Kind::ALL {
        if home::down(kind)? {
            ended.push(kind);
        }
    }
    report::forget()?;
    Ok(ended)
}

/// The address without a password.
pub(crate) fn shown(kind: Kind, address: &str) -> String {
    match kind {
        Kind::Kafka => address.to_owned(),
        Kind::RabbitMq | Kind::SchemaRegistry | Kind::Postgres => {
            rabbitmq::without_credentials(address)
        }
    }
}

fn named(kind: Kind) -> Result<Option<Broker>, Unavailable> {
    let Some(address) = address_in_environment(kind) else { return Ok(None) };
    let answer = match kind {
        Kind::Kafka => kafka::answers(&address),
        Kind::RabbitMq => rabbitmq::answers(&address).map(drop),
        Kind::SchemaRegistry => apicurio::answers(&address),
        Kind::Postgres => postgres::answers(&address).map(drop),
    };
    match answer {
        Ok(()) => Ok(Some(Broker { kind, address, how: How::Environment, hold: Hold::Elsewhere })),
        Err(why) => Err(Unavailable::Environment {
            kind,
            variable: kind.variable(),
            address: shown(kind, &address),
            why,
        }),
    }
}

fn address_in_environment(kind: Kind) -> Option<String> {
    env::var(kind.variable()).ok().filter(|address| !address.trim().is_empty())
}

/// What is left for Kafka when none could be started; RabbitMQ has no such thing.
fn mocked(kind: Kind, error: Unavailable, private: bool) -> Result<Broker, Unavailable> {
    match kind {
        Kind::RabbitMq | Kind::SchemaRegistry | Kind::Postgres => Err(error),
        Kind::Kafka if report::required() => Err(Unavailable::OnlyMock { why: error.to_string() }),
        Kind::Kafka => {
            let mock = if private { Mock::start().map(Arc::new) } else { Mock::shared() };
            let mock = mock.map_err(|why| Unavailable::Failed {
                kind,
                doing: "starting the mock",
                why: format!("{why}, after {error}"),
                log: None,
            })?;
            Ok(Broker {
                kind,
                address: mock.address().to_owned(),
                how: How::Mock { why: error.to_string() },
                hold: Hold::Mock { mock, private },
            })
        }
    }
}
