//! Settings: said by a flag, the environment, a file, or nobody; the first of these that says something counts.
//!
//! ```text
//! flags ─► environment (DIRIGENT_*) ─► file (--config, or dirigent.toml where it is) ─► defaults ─► Settings
//! ```
//!
//! ```toml
//! broker = "kafka"
//! data = "data"
//! [kafka]
//! address = "broker-1:9092,broker-2:9092"
//! properties = { "linger.ms" = 5 }
//! [destination.inventory]
//! rate = 100
//! ```
//!
//! [`KNOWN`] names every setting once. What came from where is kept for `config show`; secrets are never shown.

mod brokers;
mod destinations;
mod file;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzed;
mod kafka;
mod near;
mod redact;
mod schemas;
mod understood;

pub use brokers::Security;
pub use redact::uri as redact_uri;
pub use schemas::SchemaSettings;

pub(crate) use near::did_you_mean;

use crate::{
    destinations::Protections,
    journal::Durability,
    telemetry::logs::{LOG_DEFAULT, LogFormat},
};
use dirigent_connectors::{
    ConnectorError,
    kafka::{PositionsFrom, property_refused},
};
use dirigent_schemas::registry::RegistrySettings;
use redact::HIDDEN;
use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use understood::Understood;

/// The file that is read if it lies in the working folder and no other is named.
pub const FILE: &str = "dirigent.toml";

/// What the names of our variables of the environment begin with.
const PREFIX: &str = "DIRIGENT_";

/// Variables that name the file, or are meant for the tests and what starts brokers for them.
const ELSEWHERE: &[&str] = &[
    "DIRIGENT_CONFIG",
    "DIRIGENT_REQUIRE_BROKERS",
    "DIRIGENT_KEEP",
    "DIRIGENT_CI_BOUNDED",
    "DIRIGENT_RABBITMQCTL",
    "DIRIGENT_POSTGRES",
];
const TESTS: &str = "DIRIGENT_TEST_";

/// A setting: its name in the file, and its variable of the environment.
pub(crate) struct Known {
    pub(crate) key: &'static str,
    pub(crate) variable: &'static str,
    flag: &'static str,
    default: &'static str,
}

const fn known(
    key: &'static str,
    variable: &'static str,
    flag: &'static str,
    default: &'static str,
) -> Known {
    Known { key, variable, flag, default }
}

/// Every setting, in the order people read them. An empty default is told where it is used.
pub(crate) const KNOWN: &[Known] = &[
    known("app", "DIRIGENT_APP", "--app", ""),
    known("data", "DIRIGENT_DATA", "--data", ""),
    known("broker", "DIRIGENT_BROKER", "--broker", ""),
    known("kafka.address", "DIRIGENT_KAFKA", "--kafka", "localhost:9092"),
    known("kafka.partitions", "DIRIGENT_KAFKA_PARTITIONS", "", "6"),
    known("kafka.replicas", "DIRIGENT_KAFKA_REPLICAS", "", ""),
    known(
        "kafka.positions_from",
        "DIRIGENT_KAFKA_POSITIONS_FROM",
        "--kafka-positions-from",
        "refuse",
    ),
    known(
        "rabbitmq.uri",
        "DIRIGENT_RABBITMQ",
        "--rabbitmq",
        "amqp://guest:guest@localhost:5672/%2f",
    ),
    known("kafka.tls.enabled", "DIRIGENT_KAFKA_TLS", "", ""),
    known("kafka.tls.ca", "DIRIGENT_KAFKA_TLS_CA", "", ""),
    known("kafka.tls.certificate", "DIRIGENT_KAFKA_TLS_CERTIFICATE", "", ""),
    known("kafka.tls.key", "DIRIGENT_KAFKA_TLS_KEY", "", ""),
    known("kafka.tls.key_password", "DIRIGENT_KAFKA_TLS_KEY_PASSWORD", "", ""),
    known("kafka.tls.key_password_file", "DIRIGENT_KAFKA_TLS_KEY_PASSWORD_FILE", "", ""),
    known("kafka.sasl.mechanism", "DIRIGENT_KAFKA_SASL_MECHANISM", "", ""),
    known("kafka.sasl.username", "DIRIGENT_KAFKA_SASL_USERNAME", "", ""),
    known("kafka.sasl.password", "DIRIGENT_KAFKA_SASL_PASSWORD", "", ""),
    known("kafka.sasl.password_file", "DIRIGENT_KAFKA_SASL_PASSWORD_FILE", "", ""),
    known("rabbitmq.password", "DIRIGENT_RABBITMQ_PASSWORD", "", ""),
    known("rabbitmq.password_file", "DIRIGENT_RABBITMQ_PASSWORD_FILE", "", ""),
    known("rabbitmq.mechanism", "DIRIGENT_RABBITMQ_MECHANISM", "", "PLAIN"),
    known("rabbitmq.tls.ca", "DIRIGENT_RABBITMQ_TLS_CA", "", ""),
    known("rabbitmq.tls.certificate", "DIRIGENT_RABBITMQ_TLS_CERTIFICATE", "", ""),
    known("rabbitmq.tls.key", "DIRIGENT_RABBITMQ_TLS_KEY", "", ""),
    known("wait_for_broker_seconds", "DIRIGENT_WAIT_FOR_BROKER_SECONDS", "--wait-for-broker", ""),
    known("durability", "DIRIGENT_DURABILITY", "--durability", "power-loss"),
    known("shards", "DIRIGENT_SHARDS", "--shards", ""),
    known("unsettled_max", "DIRIGENT_UNSETTLED_MAX", "", ""),
    known("body_bytes_max", "DIRIGENT_BODY_BYTES_MAX", "", ""),
    known("parked_seconds", "DIRIGENT_PARKED_SECONDS", "", ""),
    known("headroom_bytes", "DIRIGENT_HEADROOM_BYTES", "", ""),
    known("http.listen", "DIRIGENT_HTTP", "--http", ""),
    known("registry.url", "DIRIGENT_REGISTRY", "--registry", ""),
    known("registry.register", "DIRIGENT_REGISTRY_REGISTER", "", "false"),
    known("registry.subjects", "DIRIGENT_REGISTRY_SUBJECTS", "", "record-name"),
    known("registry.username", "DIRIGENT_REGISTRY_USERNAME", "", ""),
    known("registry.password", "DIRIGENT_REGISTRY_PASSWORD", "", ""),
    known("registry.password_file", "DIRIGENT_REGISTRY_PASSWORD_FILE", "", ""),
    known("registry.token", "DIRIGENT_REGISTRY_TOKEN", "", ""),
    known("registry.token_file", "DIRIGENT_REGISTRY_TOKEN_FILE", "", ""),
    known("registry.ca", "DIRIGENT_REGISTRY_CA", "", ""),
    known("schemas.released", "DIRIGENT_SCHEMAS_RELEASED", "", ""),
    known("schemas.compatibility", "DIRIGENT_SCHEMAS_COMPATIBILITY", "", "full"),
    known("log.filter", "DIRIGENT_LOG", "--log", LOG_DEFAULT),
    known("log.format", "DIRIGENT_LOG_FORMAT", "--log-format", "text"),
];

/// Where traces go, by the names every tool knows.
const OTLP: &[&str] = &["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// Who said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody.
    Default,
    /// A file.
    File {
        /// Which.
        file: String,
        /// Where in it, from 1.
        line: usize,
    },
    /// A variable of the environment.
    Environment(&'static str),
    /// A flag.
    Flag(&'static str),
    /// The program itself, in its own words, as nobody else has said anything.
    Program(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Environment(variable) => f.write_str(variable),
            Self::Flag(flag) => f.write_str(flag),
            Self::Program(words) => f.write_str(words),
        }
    }
}

/// What somebody said, before it is understood.
#[derive(Clone)]
pub(crate) struct Raw {
    text: String,
    origin: Origin,
}

/// Settings that can't be used: all of them at once.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(|error| crate::describe(error)).collect::<Vec<_>>().join("\n"))]
pub struct ConfigErrors(pub Vec<ConfigError>);

/// A setting that can't be used. Never repeats what may be a secret.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("reading the settings in {file}")]
    File {
        /// Which.
        file: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The file is no TOML, or a value has the wrong type.
    #[error("{file}:{line}: {text}")]
    Syntax {
        /// Which.
        file: String,
        /// Where in it, from 1.
        line: usize,
        /// What is wrong.
        text: String,
    },
    /// Nobody knows this key.
    #[error("{file}:{line}: unknown key `{key}`{hint}")]
    Unknown {
        /// Which file.
        file: String,
        /// Where in it, from 1.
        line: usize,
        /// The key.
        key: String,
        /// What was perhaps meant.
        hint: String,
    },
    /// A property that the promises of the Kafka connector rest on.
    #[error("{origin}: `kafka.properties` may not set `{name}`: {why}; remove it")]
    Property {
        /// Who said it.
        origin: Origin,
        /// Which property.
        name: String,
        /// Why it is refused.
        why: &'static str,
    },
    /// A property that librdkafka does not take.
    #[error("{origin}: `{name}` of `kafka.properties` {text}")]
    PropertyValue {
        /// Who said it.
        origin: Origin,
        /// Which property.
        name: String,
        /// Why not; never its value.
        text: String,
    },
    /// What a broker's connector refuses, with who said it.
    #[error("{by}: `{key}` {text}")]
    Refused {
        /// Who said it, as it is shown.
        by: String,
        /// Which setting.
        key: String,
        /// What is wrong, and what would be right.
        text: String,
    },
    /// A value makes no sense.
    #[error("{origin}: `{key}` {text}")]
    Value {
        /// Who said it.
        origin: Origin,
        /// Which setting.
        key: &'static str,
        /// What is wrong, and what would be right.
        text: String,
    },
    /// What is said of a destination makes no sense.
    #[error("{origin}: `{key}` {text}")]
    Destination {
        /// Who said it.
        origin: Origin,
        /// Which setting.
        key: String,
        /// What is wrong, and what would be right.
        text: String,
    },
    /// A variable that nobody reads. A warning, unless settings are being checked.
    #[error("nobody reads the environment's {variable}{hint}")]
    Variable {
        /// Its name.
        variable: String,
        /// What was perhaps meant.
        hint: String,
    },
    /// Something that has no sensible default was not said.
    #[error("{text}")]
    Missing {
        /// What, and how to say it.
        text: String,
    },
    /// A broker's connector refuses its settings.
    #[error(transparent)]
    Connector(#[from] ConnectorError),
}

/// Which broker carries the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerName {
    /// One within this process.
    Memory,
    /// Apache Kafka.
    Kafka,
    /// RabbitMQ.
    RabbitMq,
}

impl fmt::Display for BrokerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Kafka => "kafka",
            Self::RabbitMq => "rabbitmq",
        })
    }
}

/// What can be said by flags; each wins over environment, file and default.
#[derive(clap::Args, Clone, Default)]
pub struct SettingsArgs {
    /// File of settings [default: dirigent.toml, where it is]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Name of the application: its consumer group, and the names of its channels
    #[arg(long, value_name = "NAME")]
    pub app: Option<String>,
    /// The data folder
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The broker that carries the messages: memory, kafka or rabbitmq
    #[arg(long, value_name = "BROKER")]
    pub broker: Option<String>,
    /// Address of Kafka, host:port
    #[arg(long, value_name = "ADDRESS")]
    pub kafka: Option<String>,
    /// For one start: where to read what the group has read further than the data folder knows, or what Kafka has deleted unread: journal, committed or beginning
    #[arg(long, value_name = "PLACE")]
    pub kafka_positions_from: Option<String>,
    /// Address of RabbitMQ, amqp://user:password@host:port/vhost; others on this machine can read flags, so prefer DIRIGENT_RABBITMQ
    #[arg(long, value_name = "URI")]
    pub rabbitmq: Option<String>,
    /// How long to wait for a broker that does not answer, in seconds
    #[arg(long, value_name = "SECONDS")]
    pub wait_for_broker: Option<String>,
    /// What a settled message survives: power-loss or process-crash
    #[arg(long, value_name = "LEVEL")]
    pub durability: Option<String>,
    /// Threads that do the pure work
    #[arg(long, value_name = "N")]
    pub shards: Option<String>,
    /// Where to tell liveness, readiness and metrics by HTTP, for instance 127.0.0.1:9464; nowhere if not said
    #[arg(long, value_name = "ADDRESS")]
    pub http: Option<String>,
    /// Address of a schema registry that speaks Confluent's API; Avro is written in its wire format then
    #[arg(long, value_name = "URL")]
    pub registry: Option<String>,
    /// Which logs to write, for instance info or dirigent=debug
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// How logs are written: text or json
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// What the program itself says of settings that nobody else has said.
    #[arg(skip)]
    pub otherwise: Vec<Otherwise>,
}

/// A setting as the program has it where neither flag nor environment nor file says it: a broker that it found, for instance.
#[derive(Clone)]
pub struct Otherwise {
    /// Which setting, by its name in the file.
    pub key: &'static str,
    /// Its value; may hold a secret.
    pub value: String,
    /// How it came by it, for people.
    pub by: String,
}

impl fmt::Debug for SettingsArgs {
    /// Without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(key, value): (&'static str, String)| match key {
            "kafka.address" => (key, redact::kafka(&value)),
            "rabbitmq.uri" | "registry.url" => (key, redact_uri(&value)),
            _ => (key, value),
        };
        f.debug_map().entries(self.said().into_iter().map(shown)).finish()
    }
}

impl SettingsArgs {
    fn said(&self) -> BTreeMap<&'static str, String> {
        let data = self.data.as_ref().map(|path| path.to_string_lossy().into_owned());
        let all = [
            ("app", &self.app),
            ("data", &data),
            ("broker", &self.broker),
            ("kafka.address", &self.kafka),
            ("kafka.positions_from", &self.kafka_positions_from),
            ("rabbitmq.uri", &self.rabbitmq),
            ("wait_for_broker_seconds", &self.wait_for_broker),
            ("durability", &self.durability),
            ("shards", &self.shards),
            ("http.listen", &self.http),
            ("registry.url", &self.registry),
            ("log.filter", &self.log),
            ("log.format", &self.log_format),
        ];
        all.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))).collect()
    }
}

/// What settings are read from beside the flags.
pub struct World {
    /// The environment.
    pub environment: BTreeMap<String, String>,
    /// Where [`FILE`] is looked for.
    pub folder: PathBuf,
}

impl World {
    /// Of this process.
    pub fn here() -> Self {
        let texts = std::env::vars_os().map(|(name, value)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        });
        Self { environment: texts.collect(), folder: PathBuf::new() }
    }
}

/// The settings of a process.
#[derive(Clone)]
pub struct Settings {
    /// The application's name.
    pub app: String,
    /// The data folder; none for everything in memory.
    pub data: Option<PathBuf>,
    /// The broker, if one was chosen.
    pub broker: Option<BrokerName>,
    /// `host:port` of Kafka.
    pub kafka: String,
    /// Who said so.
    pub kafka_by: Origin,
    /// Further properties of librdkafka; may be secrets.
    pub kafka_properties: BTreeMap<String, String>,
    /// Partitions of topics that are created.
    pub kafka_partitions: u32,
    /// Replicas of topics that are created; the brokers' own number if not said.
    pub kafka_replicas: Option<u16>,
    /// Where to read a partition whose position can't be trusted.
    pub kafka_positions_from: PositionsFrom,
    /// The address of RabbitMQ; holds a password.
    pub rabbitmq: String,
    /// Who said so.
    pub rabbitmq_by: Origin,
    /// How the brokers are reached securely; holds secrets.
    pub security: Security,
    /// How long to wait for a broker; the connector's own limit if not said.
    pub wait_for_broker: Option<Duration>,
    /// What a settled message survives.
    pub durability: Durability,
    /// Threads that do the pure work; as many as there are cores, up to 8, if not said.
    pub shards: Option<usize>,
    /// Deliveries of one source that may be unsettled.
    pub unsettled_max: usize,
    /// The largest body that is looked into, in bytes.
    pub body_bytes_max: usize,
    /// How long an event waits for its instance.
    pub parked_for: Duration,
    /// Bytes to be free on the disk before anything is taken in.
    pub headroom_bytes: u64,
    /// Where liveness, readiness and metrics are told by HTTP, if anywhere.
    pub http: Option<SocketAddr>,
    /// What destinations are given at the most.
    pub protections: Protections,
    /// Who says where the schema registry is.
    pub registry_by: Origin,
    /// The schema registry, if there is one; holds secrets.
    pub registry: Option<RegistrySettings>,
    /// What schemas must keep to.
    pub schemas: SchemaSettings,
    /// Which logs are written.
    pub log_filter: String,
    /// How logs are written.
    pub log_format: LogFormat,
    /// Each setting as it is shown: its name, its value without secrets, and who said it.
    pub shown: Vec<(String, String, String)>,
    /// What is odd, but no reason not to start.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Puts together what is said about an application.
    ///
    /// # Errors
    /// All that is wrong, at once.
    pub fn load(app: &str, flags: &SettingsArgs, world: &World) -> Result<Self, ConfigErrors> {
        let (settings, wrong) = Self::read(app, flags, world);
        if wrong.is_empty() { Ok(settings) } else { Err(ConfigErrors(wrong)) }
    }

    /// The same, to be shown: what is wrong stands beside what can be understood. A setting that is wrong has no meaning here.
    pub fn read(app: &str, flags: &SettingsArgs, world: &World) -> (Self, Vec<ConfigError>) {
        Self::of(app, flags, world, file_of(flags, world).map(|path| file::read(&path)))
    }

    /// The same with the file as it was read.
    fn of(
        app: &str,
        flags: &SettingsArgs,
        world: &World,
        file: Option<Result<file::Said, Vec<ConfigError>>>,
    ) -> (Self, Vec<ConfigError>) {
        let (file, unreadable) = match file {
            Some(Ok(said)) => (said, None),
            Some(Err(wrong)) => (file::Said::default(), Some(wrong)),
            None => (file::Said::default(), None),
        };
        let (otherwise, flags) = (&flags.otherwise, flags.said());
        let say = |known: &Known| {
            let said = |text: &String, origin| Some(Raw { text: text.clone(), origin });
            let flag = flags.get(known.key).and_then(|text| said(text, Origin::Flag(known.flag)));
            flag.or_else(|| {
                // An empty variable is how composed files say nothing.
                let value = world.environment.get(known.variable).filter(|text| !text.is_empty());
                value.and_then(|text| said(text, Origin::Environment(known.variable)))
            })
            .or_else(|| file.values.get(known.key).cloned())
            .or_else(|| {
                let own = otherwise.iter().find(|own| own.key == known.key)?;
                said(&own.value, Origin::Program(own.by.clone()))
            })
        };
        let said = KNOWN.iter().filter_map(|known| Some((known.key, say(known)?))).collect();
        let mut understood = Understood { said, shown: Vec::new(), wrong: file.wrong };
        let mut settings = understood.settings(app);
        for (name, raw) in file.properties {
            let shown = (format!("kafka.properties.{name}"), HIDDEN.into(), raw.origin.to_string());
            understood.shown.push(shown);
            if let Some(text) = property_refused(&name, &raw.text) {
                let (name, origin) = (name.clone(), raw.origin);
                understood.wrong.push(ConfigError::PropertyValue { origin, name, text });
            }
            settings.kafka_properties.insert(name, raw.text);
        }
        settings.protections = file.protections;
        understood.shown.extend(file.shown);
        let endpoint = OTLP.iter().find_map(|name| Some((*name, world.environment.get(*name)?)));
        understood.shown.push(match endpoint {
            Some((name, address)) => ("otlp".into(), redact_uri(address), name.into()),
            None => ("otlp".into(), "(no traces)".into(), Origin::Default.to_string()),
        });
        settings.shown = understood.shown;
        settings.warnings =
            unread_variables(&world.environment).map(|error| error.to_string()).collect();
        // What nobody could read would be missing everywhere else.
        (settings, unreadable.unwrap_or(understood.wrong))
    }
}

fn file_of(flags: &SettingsArgs, world: &World) -> Option<PathBuf> {
    let variable = world.environment.get("DIRIGENT_CONFIG").filter(|path| !path.is_empty());
    let named = flags.config.clone().or_else(|| variable.map(PathBuf::from));
    let here = || Some(world.folder.join(FILE)).filter(|path| Path::exists(path));
    named.or_else(here)
}

/// Variables that look like ours and are read by nobody.
fn unread_variables(
    environment: &BTreeMap<String, String>,
) -> impl Iterator<Item = ConfigError> + '_ {
    let ours = environment.keys().filter(|name| name.starts_with(PREFIX));
    let known = || KNOWN.iter().map(|known| known.variable).chain(ELSEWHERE.iter().copied());
    let unread =
        ours.filter(move |name| !name.starts_with(TESTS) && !known().any(|known| known == **name));
    unread.map(move |name| ConfigError::Variable {
        variable: name.clone(),
        hint: did_you_mean(name, known()),
    })
}

#[cfg(test)]
mod tests;
