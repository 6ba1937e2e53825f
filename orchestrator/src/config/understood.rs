//! From what was said to what is meant: each setting read once, each mistake told with who made it.

use super::{
    BrokerName, ConfigError, KNOWN, Origin, Raw, Settings, brokers, did_you_mean,
    redact::{self, HIDDEN},
    redact_uri, schemas,
};
use crate::{
    BODY_BYTES_MAX, UNSETTLED_MAX,
    engine::{HEADROOM_BYTES, PARKED_FOR},
    journal::Durability,
    telemetry::logs::LogFormat,
};
use dirigent_connectors::{ConnectorError, kafka::PositionsFrom, rabbitmq::RabbitMqUri};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// Turns what was said into what is meant, and remembers how to show it.
pub(super) struct Understood {
    pub(super) said: BTreeMap<&'static str, Raw>,
    pub(super) shown: Vec<(String, String, String)>,
    pub(super) wrong: Vec<ConfigError>,
}

impl Understood {
    pub(super) fn settings(&mut self, app: &str) -> Settings {
        let text = |text: &str| Ok(text.to_owned());
        let names = |text: &str| {
            let allowed =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
            match (1..=64).contains(&text.len()) && text.chars().all(allowed) {
                true => Ok(text.to_owned()),
                false => {
                    Err("takes 1 to 64 lower-case letters, digits, `-`, `_` and `.`".to_owned())
                }
            }
        };
        let mut settings = Settings {
            app: self.take("app", app, names).unwrap_or_default(),
            data: self.take("data", "(none)", |text| {
                if text.is_empty() { Err("is empty; name a folder".into()) } else { Ok(PathBuf::from(text)) }
            }),
            broker: self.take("broker", "(none)", |text| match text {
                "memory" => Ok(BrokerName::Memory),
                "kafka" => Ok(BrokerName::Kafka),
                "rabbitmq" => Ok(BrokerName::RabbitMq),
                other => Err(one_of(other, &["memory", "kafka", "rabbitmq"])),
            }),
            kafka_by: self.origin_of("kafka.address"),
            kafka: self.take("kafka.address", "", brokers::kafka_address).unwrap_or_default(),
            kafka_properties: BTreeMap::new(),
            kafka_partitions: self.take("kafka.partitions", "", whole(1, 10_000)).unwrap_or(1),
            kafka_replicas: self.take("kafka.replicas", "(the brokers' own)", whole(1, 100)),
            kafka_positions_from: self.take("kafka.positions_from", "", |text| match text {
                "refuse" => Ok(PositionsFrom::Refuse),
                "journal" => Ok(PositionsFrom::Journal),
                "committed" => Ok(PositionsFrom::Committed),
                "beginning" => Ok(PositionsFrom::Beginning),
                other => Err(one_of(other, &["refuse", "journal", "committed", "beginning"])),
            }).unwrap_or_default(),
            rabbitmq_by: self.origin_of("rabbitmq.uri"),
            rabbitmq: self.take("rabbitmq.uri", "", |text| match RabbitMqUri::parse(text) {
                Ok(_) => Ok(text.to_owned()),
                Err(ConnectorError::Setting { text, .. }) => Err(text),
                Err(error) => Err(error.to_string()),
            }).unwrap_or_default(),
            security: self.security(),
            wait_for_broker: self
                .take("wait_for_broker_seconds", "(20 for kafka, 30 for rabbitmq)", whole(1, 86_400))
                .map(Duration::from_secs),
            durability: self.take("durability", "", |text| match text {
                "power-loss" => Ok(Durability::PowerLoss),
                "process-crash" => Ok(Durability::ProcessCrash),
                other => Err(one_of(other, &["power-loss", "process-crash"])),
            }).unwrap_or_default(),
            shards: self.take("shards", "(as many as cores, up to 8)", whole(1, 256)),
            unsettled_max: self
                .take("unsettled_max", &UNSETTLED_MAX.to_string(), whole(1, 1_000_000))
                .unwrap_or(UNSETTLED_MAX),
            body_bytes_max: self
                .take("body_bytes_max", &BODY_BYTES_MAX.to_string(), whole(1_024, 64 * 1024 * 1024))
                .unwrap_or(BODY_BYTES_MAX),
            parked_for: self
                .take("parked_seconds", "600", whole(0, 30 * 86_400))
                .map_or(PARKED_FOR, Duration::from_secs),
            headroom_bytes: self
                .take("headroom_bytes", &HEADROOM_BYTES.to_string(), whole(0, 1 << 50))
                .unwrap_or(HEADROOM_BYTES),
            protections: Default::default(),
            http: self.take("http.listen", "(off)", |text| {
                text.trim().parse().map_err(|_| {
                    "takes an address of this machine and a port, as 127.0.0.1:9464".to_owned()
                })
            }),
            registry_by: self.origin_of("registry.url"),
            registry: None,
            schemas: self.schemas(),
            log_filter: self.take("log.filter", "", |filter| {
                match tracing_subscriber::EnvFilter::try_new(filter) {
                    Ok(_) => text(filter),
                    Err(error) => Err(format!("is no filter of logs ({error}); say for instance info, or dirigent=debug,warn")),
                }
            }).unwrap_or_default(),
            log_format: self.take("log.format", "", |text| {
                    text.parse().map_err(|_| one_of(text, &["text", "json"]))
                })
                .unwrap_or(LogFormat::Text),
            shown: Vec::new(),
            warnings: Vec::new(),
        };
        settings.registry = self.registry(settings.schemas.compatibility);
        settings
    }

    /// Who says a setting that was not taken yet.
    pub(super) fn origin_of(&self, key: &str) -> Origin {
        self.said.get(key).map_or(Origin::Default, |raw| raw.origin.clone())
    }

    /// The value of a setting: what was said, or its default where that has a meaning of its own.
    pub(super) fn take<T>(
        &mut self,
        key: &'static str,
        otherwise: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let default = KNOWN.iter().find(|known| known.key == key).map(|known| known.default);
        let default = default.filter(|default| !default.is_empty()).unwrap_or(otherwise);
        let raw = self.said.remove(key);
        let (text, origin) = match &raw {
            Some(raw) => (raw.text.as_str(), raw.origin.clone()),
            None => (default, Origin::Default),
        };
        let is_told_of = matches!(origin, Origin::Default | Origin::Program(_));
        let is_none = is_told_of && text.starts_with('(');
        let shown = match key {
            _ if is_none => text.to_owned(),
            "kafka.address" => redact::kafka(text),
            "rabbitmq.uri" => redact_uri(text),
            // Said wrongly, its address may hold a password.
            "registry.url" if raw.is_some() => redact_uri(text),
            _ if is_secret(key) && raw.is_some() => HIDDEN.into(),
            _ => text.to_owned(),
        };
        self.shown.push((key.into(), shown, origin.to_string()));
        if is_none {
            return None;
        }
        match read(text) {
            Ok(value) => Some(value),
            Err(text) => {
                self.wrong.push(ConfigError::Value { origin, key, text });
                None
            }
        }
    }
}

pub(super) fn is_secret(key: &str) -> bool {
    brokers::SECRETS.contains(&key) || schemas::SECRETS.contains(&key)
}

pub(super) fn one_of(word: &str, words: &[&str]) -> String {
    let hint = did_you_mean(word, words.iter().copied());
    format!("can't be `{word}`, only one of {}{hint}", words.join(", "))
}

fn whole<T: TryFrom<u64>>(least: u64, most: u64) -> impl Fn(&str) -> Result<T, String> {
    move |text| {
        let number = text.trim().parse().ok().filter(|number| (least..=most).contains(number));
        let fits = number.and_then(|number| T::try_from(number).ok());
        fits.ok_or_else(|| format!("takes a whole number from {least} to {most}"))
    }
}
