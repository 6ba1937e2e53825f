//! The file of settings: TOML, where a key that nobody knows is an error and not a wish unheard.

use super::{
    ConfigError, Origin, Raw,
    destinations::{self, Shown},
    kafka, near,
};
use crate::destinations::Protections;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::Path,
    string::FromUtf8Error,
};
use toml::Spanned;

/// Bytes of a file of settings, at the most. A real one is a page; this keeps a wrong path from filling the memory.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Root {
    app: Option<Spanned<String>>,
    data: Option<Spanned<String>>,
    broker: Option<Spanned<String>>,
    durability: Option<Spanned<String>>,
    shards: Option<Spanned<u64>>,
    unsettled_max: Option<Spanned<u64>>,
    body_bytes_max: Option<Spanned<u64>>,
    headroom_bytes: Option<Spanned<u64>>,
    parked_seconds: Option<Spanned<u64>>,
    wait_for_broker_seconds: Option<Spanned<u64>>,
    #[serde(default)]
    kafka: Kafka,
    #[serde(default)]
    rabbitmq: RabbitMq,
    #[serde(default)]
    http: Http,
    #[serde(default)]
    registry: Registry,
    #[serde(default)]
    schemas: Schemas,
    #[serde(default)]
    log: Log,
    #[serde(default)]
    destinations: destinations::Part,
    #[serde(default)]
    destination: BTreeMap<String, destinations::Part>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Kafka {
    address: Option<Spanned<String>>,
    partitions: Option<Spanned<u64>>,
    replicas: Option<Spanned<u64>>,
    #[serde(default)]
    tls: KafkaTls,
    #[serde(default)]
    sasl: KafkaSasl,
    #[serde(default)]
    properties: BTreeMap<String, Spanned<Scalar>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct KafkaTls {
    enabled: Option<Spanned<bool>>,
    ca: Option<Spanned<String>>,
    certificate: Option<Spanned<String>>,
    key: Option<Spanned<String>>,
    key_password: Option<Spanned<String>>,
    key_password_file: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct KafkaSasl {
    mechanism: Option<Spanned<String>>,
    username: Option<Spanned<String>>,
    password: Option<Spanned<String>>,
    password_file: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RabbitMq {
    uri: Option<Spanned<String>>,
    password: Option<Spanned<String>>,
    password_file: Option<Spanned<String>>,
    mechanism: Option<Spanned<String>>,
    #[serde(default)]
    tls: RabbitMqTls,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RabbitMqTls {
    ca: Option<Spanned<String>>,
    certificate: Option<Spanned<String>>,
    key: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Http {
    listen: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Registry {
    url: Option<Spanned<String>>,
    register: Option<Spanned<bool>>,
    subjects: Option<Spanned<String>>,
    username: Option<Spanned<String>>,
    password: Option<Spanned<String>>,
    password_file: Option<Spanned<String>>,
    token: Option<Spanned<String>>,
    token_file: Option<Spanned<String>>,
    ca: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Schemas {
    released: Option<Spanned<String>>,
    compatibility: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Log {
    filter: Option<Spanned<String>>,
    format: Option<Spanned<String>>,
}

/// A property as people write it; librdkafka takes all of them as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Text(String),
    Number(i64),
    Switch(bool),
}

impl Scalar {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Number(number) => number.to_string(),
            Self::Switch(switch) => switch.to_string(),
        }
    }
}

/// What a file says.
#[derive(Default)]
pub(super) struct Said {
    pub(super) values: BTreeMap<&'static str, Raw>,
    /// Properties for librdkafka. Values may be secrets.
    pub(super) properties: BTreeMap<String, Raw>,
    /// What is said of destinations, and how it is shown.
    pub(super) protections: Protections,
    pub(super) shown: Vec<Shown>,
    /// What can't be used of it, though it can be read.
    pub(super) wrong: Vec<ConfigError>,
}

/// Reads a file; the error is that of one that can't be read as a whole.
pub(super) fn read(path: &Path) -> Result<Said, Vec<ConfigError>> {
    let shown = path.display().to_string();
    let text = bounded(path, FILE_BYTES_MAX)
        .map_err(|source| vec![ConfigError::File { file: shown.clone(), source }])?;
    parse(&shown, &text)
}

/// The text of a file, of which no more is read than it may have, whatever the system says of its size: a device says that it has none.
pub(super) fn bounded(path: &Path, bytes_max: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        let text = format!("it is larger than such a file may be, which is {bytes_max} bytes");
        return Err(io::Error::other(text));
    }
    // Without the bytes, among which there may be secrets.
    let no_text =
        |error: FromUtf8Error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error());
    String::from_utf8(bytes).map_err(no_text)
}

pub(super) fn parse(file: &str, text: &str) -> Result<Said, Vec<ConfigError>> {
    // Looked up for each setting, of which there may be tens of thousands.
    let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
    let line_of = |offset: usize| 1 + ends.partition_point(|end| *end < offset);
    let root: Root = toml::from_str(text).map_err(|error| {
        let span = error.span();
        let line = span.as_ref().map_or(1, |span| line_of(span.start));
        let key = span.as_ref().and_then(|span| key_before(text.get(..span.start)?));
        let word = span.and_then(|span| text.get(span)).unwrap_or_default();
        vec![tell(file, line, word, key, error.message())]
    })?;
    let origin = |offset| Origin::File { file: file.into(), line: line_of(offset) };
    let mut said = Said::default();
    let mut texts = |key, value: Option<Spanned<String>>| {
        if let Some(value) = value {
            let origin = origin(value.span().start);
            said.values.insert(key, Raw { text: value.into_inner(), origin });
        }
    };
    texts("app", root.app);
    texts("data", root.data);
    texts("broker", root.broker);
    texts("durability", root.durability);
    texts("kafka.address", root.kafka.address);
    let (tls, sasl) = (root.kafka.tls, root.kafka.sasl);
    texts("kafka.tls.ca", tls.ca);
    texts("kafka.tls.certificate", tls.certificate);
    texts("kafka.tls.key", tls.key);
    texts("kafka.tls.key_password", tls.key_password);
    texts("kafka.tls.key_password_file", tls.key_password_file);
    texts("kafka.sasl.mechanism", sasl.mechanism);
    texts("kafka.sasl.username", sasl.username);
    texts("kafka.sasl.password", sasl.password);
    texts("kafka.sasl.password_file", sasl.password_file);
    texts("rabbitmq.uri", root.rabbitmq.uri);
    texts("rabbitmq.password", root.rabbitmq.password);
    texts("rabbitmq.password_file", root.rabbitmq.password_file);
    texts("rabbitmq.mechanism", root.rabbitmq.mechanism);
    texts("rabbitmq.tls.ca", root.rabbitmq.tls.ca);
    texts("rabbitmq.tls.certificate", root.rabbitmq.tls.certificate);
    texts("rabbitmq.tls.key", root.rabbitmq.tls.key);
    texts("http.listen", root.http.listen);
    texts("registry.url", root.registry.url);
    texts("registry.subjects", root.registry.subjects);
    texts("registry.username", root.registry.username);
    texts("registry.password", root.registry.password);
    texts("registry.password_file", root.registry.password_file);
    texts("registry.token", root.registry.token);
    texts("registry.token_file", root.registry.token_file);
    texts("registry.ca", root.registry.ca);
    texts("schemas.released", root.schemas.released);
    texts("schemas.compatibility", root.schemas.compatibility);
    texts("log.filter", root.log.filter);
    texts("log.format", root.log.format);
    let mut numbers = |key, value: Option<Spanned<u64>>| {
        if let Some(value) = value {
            let origin = origin(value.span().start);
            said.values.insert(key, Raw { text: value.into_inner().to_string(), origin });
        }
    };
    numbers("shards", root.shards);
    numbers("unsettled_max", root.unsettled_max);
    numbers("body_bytes_max", root.body_bytes_max);
    numbers("headroom_bytes", root.headroom_bytes);
    numbers("parked_seconds", root.parked_seconds);
    numbers("wait_for_broker_seconds", root.wait_for_broker_seconds);
    numbers("kafka.partitions", root.kafka.partitions);
    numbers("kafka.replicas", root.kafka.replicas);
    for (key, switch) in
        [("registry.register", root.registry.register), ("kafka.tls.enabled", tls.enabled)]
    {
        if let Some(switch) = switch {
            let origin = origin(switch.span().start);
            said.values.insert(key, Raw { text: switch.into_inner().to_string(), origin });
        }
    }
    for (name, value) in root.kafka.properties {
        let origin = origin(value.span().start);
        match kafka::why_refused(&name) {
            Some(why) => said.wrong.push(ConfigError::Property { origin, name, why }),
            None => {
                said.properties.insert(name, Raw { text: value.into_inner().into_text(), origin });
            }
        }
    }
    let understood = destinations::understand(root.destinations, root.destination, &origin);
    (said.protections, said.shown) = (understood.protections, understood.shown);
    said.wrong.extend(understood.wrong);
    Ok(said)
}

/// The key whose value begins behind this text, if it is one that does.
fn key_before(text: &str) -> Option<&str> {
    let text = text.trim_end().strip_suffix('=')?.trim_end().trim_end_matches(['"', '\'']);
    let is_of_a_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    text.rsplit(|c| !is_of_a_key(c)).next().filter(|key| !key.is_empty())
}

/// What the parser says, in words for people. The line itself is never repeated: it may hold a secret.
fn tell(file: &str, line: usize, word: &str, key: Option<&str>, message: &str) -> ConfigError {
    let file = file.to_owned();
    if !message.starts_with("unknown field") {
        let said = message.lines().next().unwrap_or_default();
        // What was found there is repeated by these words, and may be a secret that lacks its quotes.
        let found = ["invalid type", "invalid value"].iter().any(|kind| said.starts_with(kind));
        let subject = key.map_or_else(|| "what stands here".to_owned(), |key| format!("`{key}`"));
        let text = match said.rsplit_once(", expected ") {
            Some((_, expected)) if found => format!("{subject} has to be {expected}"),
            None if found => format!("{subject} can't have such a value"),
            _ => said.to_owned(),
        };
        return ConfigError::Syntax { file, line, text };
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let key = quoted.next().unwrap_or(word).to_owned();
    let here: Vec<&str> = quoted.collect();
    // A word for one start has no place in a file.
    let everywhere =
        super::KNOWN.iter().map(|known| known.key).filter(|key| *key != "kafka.positions_from");
    let hint = near::did_you_mean(&key, here.iter().copied().chain(everywhere));
    let hint = if hint.is_empty() { format!("; known here: {}", here.join(", ")) } else { hint };
    ConfigError::Unknown { file, line, key, hint }
}
