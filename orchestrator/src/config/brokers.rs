//! The settings of the brokers: how to reach them securely, and the connector of the one that was chosen.
//!
//! ```toml
//! [kafka.tls]                    # saying any of it switches TLS on; `enabled = true` alone trusts the system's authorities
//! ca = "ca.pem"
//! certificate = "client.pem"     # where the brokers want one
//! key = "client.key"
//! key_password_file = "client.key.password"
//! [kafka.sasl]
//! mechanism = "SCRAM-SHA-512"    # or SCRAM-SHA-256, PLAIN
//! username = "order"
//! password_file = "kafka.password"
//!
//! [rabbitmq]
//! uri = "amqps://order@broker:5671/%2f"
//! password_file = "rabbitmq.password"
//! mechanism = "PLAIN"            # or EXTERNAL: the broker knows us by our certificate
//! [rabbitmq.tls]
//! ca = "ca.pem"
//! certificate = "client.pem"
//! key = "client.key"
//! ```
//!
//! Passwords are said in the environment or in a file of their own, by no flag; in the file of settings they are taken, too.

use super::{
    BrokerName, ConfigError, Origin, Settings, redact_uri,
    understood::{Understood, one_of},
};
use dirigent_connectors::{
    Connector, ConnectorError, Secret,
    kafka::{KafkaConnector, KafkaSasl, KafkaSettings, KafkaTls, SaslMechanism},
    memory::MemoryBroker,
    rabbitmq::{RabbitMqConnector, RabbitMqSettings, RabbitMqTls},
};
use std::{path::PathBuf, sync::Arc};

/// What is never shown.
pub(super) const SECRETS: &[&str] =
    &["kafka.tls.key_password", "kafka.sasl.password", "rabbitmq.password"];

/// How the brokers are reached securely. Printing it shows no secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Security {
    /// TLS to Kafka, if it is to be.
    pub kafka_tls: Option<KafkaTls>,
    /// Who we are at Kafka, if it wants to know.
    pub kafka_sasl: Option<KafkaSasl>,
    /// TLS to RabbitMQ, where its address begins with `amqps://`.
    pub rabbitmq_tls: RabbitMqTls,
    /// The password at RabbitMQ, instead of the one in the address.
    pub rabbitmq_password: Option<Secret>,
    /// RabbitMQ knows us by our certificate.
    pub rabbitmq_by_certificate: bool,
}

impl Settings {
    /// The connector of the chosen broker; `memory` is the broker within this process.
    ///
    /// # Errors
    /// No broker was chosen, or its settings can't be used.
    pub fn connector(&self, memory: &MemoryBroker) -> Result<Arc<dyn Connector>, ConfigError> {
        let Some(broker) = self.broker else {
            let text = "no broker is chosen; say --broker kafka, rabbitmq or memory, or set DIRIGENT_BROKER";
            return Err(ConfigError::Missing { text: text.into() });
        };
        Ok(match broker {
            BrokerName::Memory => Arc::new(memory.clone()),
            BrokerName::Kafka => {
                let connector = KafkaConnector::new(self.kafka_settings());
                Arc::new(connector.map_err(|error| self.placed(error))?)
            }
            BrokerName::RabbitMq => {
                let settings = self.rabbitmq_settings().map_err(|error| self.placed(error))?;
                Arc::new(RabbitMqConnector::new(settings))
            }
        })
    }

    /// All that is known to keep the chosen broker's connector from working, before anything is asked. Reads the files it wants.
    pub fn flaws(&self) -> Vec<ConfigError> {
        let flaws = self.flaws_of_files();
        if !flaws.is_empty() || self.broker.is_none() {
            return flaws;
        }
        self.connector(&MemoryBroker::new()).err().into_iter().collect()
    }

    /// Those of the files of certificates and keys alone.
    pub(crate) fn flaws_of_files(&self) -> Vec<ConfigError> {
        let none = (None, None, None);
        let ((ca, certificate, key), prefix) = match self.broker {
            None | Some(BrokerName::Memory) => return Vec::new(),
            Some(BrokerName::Kafka) => {
                let tls = self.security.kafka_tls.as_ref();
                (
                    tls.map_or(none, |tls| {
                        (tls.ca.as_ref(), tls.certificate.as_ref(), tls.key.as_ref())
                    }),
                    "kafka.tls",
                )
            }
            Some(BrokerName::RabbitMq) => {
                let tls = &self.security.rabbitmq_tls;
                ((tls.ca.as_ref(), tls.certificate.as_ref(), tls.key.as_ref()), "rabbitmq.tls")
            }
        };
        let mut flaws = Vec::new();
        for (name, path) in [("ca", ca), ("certificate", certificate), ("key", key)] {
            let Some(path) = path else { continue };
            if let Err(error) = std::fs::File::open(path) {
                let text = format!("names {}, which can't be read: {error}", path.display());
                flaws.push(self.refused(format!("{prefix}.{name}"), text));
            }
        }
        let half = |said: &str, other: &str| {
            let text = format!("is said without `{prefix}.{other}`; say both");
            self.refused(format!("{prefix}.{said}"), text)
        };
        match (certificate, key) {
            (Some(_), None) => flaws.push(half("certificate", "key")),
            (None, Some(_)) => flaws.push(half("key", "certificate")),
            (None, None) | (Some(_), Some(_)) => {}
        }
        flaws
    }

    /// What a connector refuses, with who said it, where it is one of these settings.
    fn placed(&self, error: ConnectorError) -> ConfigError {
        match error {
            ConnectorError::Setting { connector, setting, text } => {
                let key =
                    [format!("{connector}.{setting}"), format!("{connector}.properties.{setting}")];
                let known = key.into_iter().find(|key| self.said_by(key).is_some());
                match known {
                    Some(key) => self.refused(key, text),
                    None => ConnectorError::Setting { connector, setting, text }.into(),
                }
            }
            error => error.into(),
        }
    }

    fn refused(&self, key: String, text: String) -> ConfigError {
        let by = self.said_by(&key).unwrap_or("default").to_owned();
        ConfigError::Refused { by, key, text }
    }

    /// Whether somebody has said this setting.
    pub fn is_said(&self, key: &str) -> bool {
        self.said_by(key).is_some_and(|by| by != Origin::Default.to_string())
    }

    fn said_by(&self, key: &str) -> Option<&str> {
        let shown = self.shown.iter().find(|(shown, ..)| shown == key);
        shown.map(|(_, _, by)| by.as_str())
    }

    /// How Kafka is reached.
    fn kafka_settings(&self) -> KafkaSettings {
        let mut settings = KafkaSettings::new(&self.kafka);
        settings.tls.clone_from(&self.security.kafka_tls);
        settings.sasl.clone_from(&self.security.kafka_sasl);
        settings.properties.clone_from(&self.kafka_properties);
        settings.partitions = self.kafka_partitions;
        settings.replicas = self.kafka_replicas;
        settings.positions_from = self.kafka_positions_from;
        if let Some(wait) = self.wait_for_broker {
            settings.open_wait_max = wait;
        }
        settings
    }

    /// How RabbitMQ is reached. Its files were read, and belong together.
    fn rabbitmq_settings(&self) -> Result<RabbitMqSettings, ConnectorError> {
        let mut settings = RabbitMqSettings::new(&self.rabbitmq)?;
        settings.tls.clone_from(&self.security.rabbitmq_tls);
        settings.password.clone_from(&self.security.rabbitmq_password);
        settings.by_certificate = self.security.rabbitmq_by_certificate;
        settings.connection_name = format!("dirigent {}", self.app);
        if let Some(wait) = self.wait_for_broker {
            settings.connect_time_max = wait;
        }
        settings.check()?;
        Ok(settings)
    }

    /// Whether more than an address is said of how to reach the chosen broker: who finds brokers by their addresses alone does not
    /// get in there.
    pub fn is_secured(&self) -> bool {
        match self.broker {
            None | Some(BrokerName::Memory) => false,
            Some(BrokerName::Kafka) => {
                let secures = |name: &String| {
                    ["security.", "sasl.", "ssl."].iter().any(|prefix| name.starts_with(prefix))
                };
                self.security.kafka_tls.is_some()
                    || self.security.kafka_sasl.is_some()
                    || self.kafka_properties.keys().any(secures)
            }
            Some(BrokerName::RabbitMq) => {
                self.rabbitmq.starts_with("amqps://") || self.security.rabbitmq_password.is_some()
            }
        }
    }

    /// Who said where the chosen broker is; nobody where none was chosen, or it is within this process.
    pub fn broker_by(&self) -> Option<&Origin> {
        match self.broker {
            None | Some(BrokerName::Memory) => None,
            Some(BrokerName::Kafka) => Some(&self.kafka_by),
            Some(BrokerName::RabbitMq) => Some(&self.rabbitmq_by),
        }
    }

    /// Where the chosen broker is and who said so, without secrets.
    pub fn broker_told(&self) -> String {
        let shown = self.broker_shown();
        match self.broker_by() {
            None => shown,
            Some(Origin::Default) => format!("{shown}, by default"),
            Some(Origin::Program(words)) => format!("{shown}, {words}"),
            Some(said) => format!("{shown}, by {said}"),
        }
    }

    /// Where the chosen broker is, without secrets.
    pub fn broker_shown(&self) -> String {
        match self.broker {
            None => "no broker".into(),
            Some(BrokerName::Memory) => "memory".into(),
            Some(BrokerName::Kafka) => {
                match (&self.security.kafka_tls, &self.security.kafka_sasl) {
                    (None, None) => format!("kafka at {}", self.kafka),
                    _ => format!("kafka at {} by {}", self.kafka, self.kafka_settings().protocol()),
                }
            }
            Some(BrokerName::RabbitMq) => format!("rabbitmq at {}", redact_uri(&self.rabbitmq)),
        }
    }
}

impl Understood {
    pub(super) fn security(&mut self) -> Security {
        Security {
            kafka_tls: self.kafka_tls(),
            kafka_sasl: self.kafka_sasl(),
            rabbitmq_tls: RabbitMqTls {
                ca: self.take("rabbitmq.tls.ca", "(the system's)", file),
                certificate: self.take("rabbitmq.tls.certificate", "(none)", file),
                key: self.take("rabbitmq.tls.key", "(none)", file),
            },
            rabbitmq_password: self
                .secret("rabbitmq.password", "rabbitmq.password_file")
                .map(Secret::new),
            rabbitmq_by_certificate: self
                .take("rabbitmq.mechanism", "", |text| match text {
                    "PLAIN" => Ok(false),
                    "EXTERNAL" => Ok(true),
                    other => Err(one_of(other, &["PLAIN", "EXTERNAL"])),
                })
                .unwrap_or_default(),
        }
    }

    fn kafka_tls(&mut self) -> Option<KafkaTls> {
        let enabled = self.take("kafka.tls.enabled", "(if any of it is said)", |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(one_of(other, &["true", "false"])),
        });
        let tls = KafkaTls {
            ca: self.take("kafka.tls.ca", "(the system's)", file),
            certificate: self.take("kafka.tls.certificate", "(none)", file),
            key: self.take("kafka.tls.key", "(none)", file),
            key_password: self
                .secret("kafka.tls.key_password", "kafka.tls.key_password_file")
                .map(Secret::new),
        };
        enabled.unwrap_or(tls != KafkaTls::default()).then_some(tls)
    }

    fn kafka_sasl(&mut self) -> Option<KafkaSasl> {
        let mechanism = self.take("kafka.sasl.mechanism", "(none)", |text| {
            let found = SaslMechanism::ALL.into_iter().find(|mechanism| mechanism.name() == text);
            found.ok_or_else(|| one_of(text, &SaslMechanism::ALL.map(SaslMechanism::name)))
        });
        let username = self.take("kafka.sasl.username", "(nobody)", |text| Ok(text.to_owned()));
        let password = self.secret("kafka.sasl.password", "kafka.sasl.password_file");
        let is_refused = self.is_wrong("kafka.sasl.");
        match (mechanism, username, password) {
            (Some(mechanism), Some(username), Some(password)) => {
                Some(KafkaSasl { mechanism, username, password: Secret::new(password) })
            }
            (None, None, None) => None,
            // What is missing was said, and told to be wrong.
            _ if is_refused => None,
            (None, ..) => {
                self.missing("`kafka.sasl.username` or its password is said without `kafka.sasl.mechanism`; say PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512");
                None
            }
            (Some(_), None, _) => {
                self.missing(
                    "`kafka.sasl.mechanism` is said without `kafka.sasl.username`; say both",
                );
                None
            }
            (Some(_), Some(_), None) => {
                self.missing("`kafka.sasl.username` is said without a password; say `kafka.sasl.password_file`, or DIRIGENT_KAFKA_SASL_PASSWORD");
                None
            }
        }
    }
}

/// Addresses of Kafka brokers as librdkafka takes them, `[PROTOCOL://]host[:port]`; it says nothing of one that it can't understand.
pub(super) fn kafka_address(text: &str) -> Result<String, String> {
    // Looked for before anything is split: a password may hold whatever separates. What stands there is repeated nowhere.
    if text.contains('@') {
        return Err("holds an `@`, and so a user or a password, it seems (not repeated here); name brokers as host:port, and say who you are by `kafka.sasl.mechanism`, `kafka.sasl.username` and `kafka.sasl.password_file`, or DIRIGENT_KAFKA_SASL_PASSWORD".into());
    }
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let mut count = 0;
    for part in parts {
        count += 1;
        let place = part.split_once("://").map_or(part, |(_, place)| place);
        let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, rest)) => (host, Some(rest.strip_prefix(':').unwrap_or_default())),
            None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
        };
        if host.is_empty() || host.chars().any(char::is_whitespace) {
            return Err(format!("names `{part}`, which has no host; name brokers as host:port"));
        }
        let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port != 0);
        if port.is_some_and(|port| !is_port(port)) {
            return Err(format!(
                "names `{part}`, whose port is no number from 1 to 65535; name brokers as host:port, and addresses of IPv6 in brackets"
            ));
        }
    }
    match count {
        0 => Err("is empty; name at least one broker as host:port".into()),
        _ => Ok(text.trim().to_owned()),
    }
}

fn file(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("is empty; name a file".into()) } else { Ok(PathBuf::from(text)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{SettingsArgs, World};

    fn load(variables: &[(&str, &str)]) -> Result<Settings, String> {
        let pairs = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let world = World { environment: pairs.collect(), folder: "no-such-folder".into() };
        let settings = Settings::load("order", &SettingsArgs::default(), &world);
        settings.map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_said_is_nothing_secured() {
        let mut settings = load(&[]).unwrap();
        assert_eq!(settings.security, Security::default());
        for broker in [BrokerName::Kafka, BrokerName::RabbitMq] {
            settings.broker = Some(broker);
            assert!(!settings.is_secured());
        }
    }

    #[test]
    fn everything_about_secure_brokers_can_be_said_in_a_file_with_secrets_in_files_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), "s3cret\n").unwrap();
        let secret = folder.path().join("secret").display().to_string();
        let text = format!(
            "[kafka.tls]\nca = 'ca.pem'\ncertificate = 'c.pem'\nkey = 'c.key'\nkey_password_file = '{secret}'\n\
             [kafka.sasl]\nmechanism = 'SCRAM-SHA-512'\nusername = 'ann'\npassword_file = '{secret}'\n\
             [rabbitmq]\nuri = 'amqps://ann@broker'\nmechanism = 'EXTERNAL'\npassword_file = '{secret}'\n\
             [rabbitmq.tls]\nca = 'ca.pem'\ncertificate = 'c.pem'\nkey = 'c.key'\n"
        );
        std::fs::write(folder.path().join("dirigent.toml"), text).unwrap();
        let world = World { environment: Default::default(), folder: folder.path().into() };
        let mut settings = Settings::load("order", &SettingsArgs::default(), &world).unwrap();
        let security = settings.security.clone();
        let tls = security.kafka_tls.unwrap();
        assert_eq!((tls.ca, tls.key), (Some("ca.pem".into()), Some("c.key".into())));
        assert_eq!(tls.key_password.unwrap().expose(), "s3cret");
        let sasl = security.kafka_sasl.unwrap();
        assert_eq!((sasl.mechanism, sasl.username.as_str()), (SaslMechanism::ScramSha512, "ann"));
        assert_eq!(sasl.password.expose(), "s3cret", "without the line's end");
        assert_eq!(security.rabbitmq_tls.certificate, Some("c.pem".into()));
        assert!(security.rabbitmq_by_certificate);
        assert_eq!(security.rabbitmq_password.unwrap().expose(), "s3cret");
        settings.broker = Some(BrokerName::Kafka);
        assert!(settings.is_secured() && settings.broker_shown().ends_with("by sasl_ssl"));
        settings.broker = Some(BrokerName::RabbitMq);
        assert!(settings.is_secured());
        let shown = format!("{:?} {:?}", settings.shown, settings.security);
        assert!(shown.contains("kafka.sasl.mechanism") && !shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn an_address_of_kafka_that_no_client_could_use_is_refused() {
        for address in
            ["x", "x:1", "a:1,b:2", "a:1,", "[::1]:9092", "[::1]", "SASL_SSL://a.b:9093", " x:1 "]
        {
            assert_eq!(kafka_address(address).as_deref(), Ok(address.trim()));
        }
        for (address, told) in [
            ("x:99999", "names `x:99999`, whose port"),
            ("x:0", "whose port"),
            ("x:", "whose port"),
            ("::1:9092", "has no host"),
            ("a:1,b:port", "names `b:port`"),
            ("fe80::1", "in brackets"),
            ("[::1]9092", "whose port"),
            (":9092", "has no host"),
            ("a b:1", "has no host"),
            (" , ", "is empty"),
        ] {
            let error = kafka_address(address).err().unwrap();
            assert!(error.contains(told), "{address}: {error}");
        }
    }

    #[test]
    fn a_password_in_an_address_of_kafka_is_refused_and_repeated_nowhere() {
        for address in [
            "SASL_SSL://ann:s3cret@b:9093",
            "ann:s3cret@b:9093",
            "a:1,ann:12,s3cret@b",
            "ann:p@s3cret@b:1",
            "s3cret@",
        ] {
            let environment = [("DIRIGENT_KAFKA".to_owned(), address.to_owned())];
            let world = World { environment: environment.into(), folder: "no-such-folder".into() };
            let (settings, wrong) = Settings::read("order", &SettingsArgs::default(), &world);
            let told: Vec<_> = wrong.iter().map(ToString::to_string).collect();
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(
                told[0].starts_with("DIRIGENT_KAFKA: `kafka.address` holds an `@`"),
                "{told:?}"
            );
            assert!(told[0].contains("`kafka.sasl.password_file`"), "{told:?}");
            let flags = SettingsArgs { kafka: Some(address.into()), ..SettingsArgs::default() };
            let shown = format!("{told:?} {:?} {flags:?}", settings.shown);
            assert!(!shown.contains("s3cret") && shown.contains("***"), "{shown}");
        }
    }

    #[test]
    fn every_file_that_is_not_there_is_told_at_once_and_with_the_line_that_names_it() {
        for broker in ["kafka", "rabbitmq"] {
            let folder = tempfile::tempdir().unwrap();
            let text = format!(
                "broker = '{broker}'\n[rabbitmq]\nuri = 'amqps://broker'\n[{broker}.tls]\nca = 'no-ca'\ncertificate = 'no-certificate'\n"
            );
            std::fs::write(folder.path().join("dirigent.toml"), text).unwrap();
            let world = World { environment: Default::default(), folder: folder.path().into() };
            let settings = Settings::load("order", &SettingsArgs::default(), &world).unwrap();
            let told: Vec<_> = settings.flaws().iter().map(ToString::to_string).collect();
            assert_eq!(told.len(), 3, "{told:?}");
            for (told, (line, said)) in told.iter().zip([
                (5, "ca` names no-ca, which can't be read"),
                (6, "certificate` names no-certificate, which can't be read"),
                (6, &*format!("certificate` is said without `{broker}.tls.key`; say both")),
            ]) {
                let begins = format!("dirigent.toml:{line}: `{broker}.tls.{said}");
                assert!(told.contains(&begins), "{told} {begins}");
            }
        }
    }

    #[test]
    fn half_of_what_kafka_wants_to_know_is_refused_with_what_is_missing() {
        let user = ("DIRIGENT_KAFKA_SASL_USERNAME", "ann");
        let password = ("DIRIGENT_KAFKA_SASL_PASSWORD", "s3cret");
        let mechanism = |name| ("DIRIGENT_KAFKA_SASL_MECHANISM", name);
        for (said, told) in [
            (vec![user, password], "without `kafka.sasl.mechanism`"),
            (vec![password], "without `kafka.sasl.mechanism`"),
            (vec![mechanism("PLAIN"), password], "without `kafka.sasl.username`"),
            (vec![mechanism("PLAIN"), user], "without a password"),
            (vec![mechanism("SCRAM-SHA-255"), user, password], "did you mean `SCRAM-SHA-256`?"),
            (
                vec![
                    mechanism("PLAIN"),
                    user,
                    ("DIRIGENT_KAFKA_SASL_PASSWORD_FILE", "no-such-file"),
                ],
                "`kafka.sasl.password_file` names no-such-file",
            ),
            (
                vec![
                    mechanism("PLAIN"),
                    user,
                    password,
                    ("DIRIGENT_KAFKA_SASL_PASSWORD_FILE", "x"),
                ],
                "both said; leave one",
            ),
        ] {
            let error = load(&said).err().expect("it is refused");
            assert!(error.contains(told) && !error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named_with_its_setting_before_a_broker_is_asked() {
        let connect = |variables: &[(&str, &str)]| {
            let settings = load(variables).unwrap();
            settings.connector(&MemoryBroker::new()).err().expect("refused").to_string()
        };
        let rabbitmq = connect(&[
            ("DIRIGENT_BROKER", "rabbitmq"),
            ("DIRIGENT_RABBITMQ", "amqps://ann:s3cret@broker"),
            ("DIRIGENT_RABBITMQ_TLS_CA", "no-such-file"),
        ]);
        assert!(
            rabbitmq.starts_with("DIRIGENT_RABBITMQ_TLS_CA: `rabbitmq.tls.ca` names no-such-file"),
            "{rabbitmq}"
        );
        let kafka =
            connect(&[("DIRIGENT_BROKER", "kafka"), ("DIRIGENT_KAFKA_TLS_CA", "no-such-file")]);
        let wants = if cfg!(feature = "kafka-tls") { "names no-such-file" } else { "`kafka-tls`" };
        assert!(kafka.contains(wants), "{kafka}");
        assert!(!format!("{rabbitmq}{kafka}").contains("s3cret"));
    }
}
