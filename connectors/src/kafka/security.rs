//! Kafka over TLS, and who we are there (SASL): what is set, what is checked before anything is opened, and what a refusal means.
//!
//! ```text
//! KafkaTls, KafkaSasl ─► check (files, features of this build, OpenSSL's own word) ─► properties of every client
//! librdkafka's errors ─► refusal: what a person can do ─► opening ends with it, health says it
//! ```
//!
//! librdkafka reads the files when a client is made, and clients live long: what was renewed counts from the next start on.

use super::{KafkaSettings, NAME};
use crate::{
    ConnectorError, Secret,
    tls::{self, Flaw, Key, OF_BROKERS},
};
use rdkafka::{ClientConfig, consumer::BaseConsumer, types::RDKafkaErrorCode};
use std::{fmt, path::PathBuf};

/// What a property may not say, TLS asked for by properties or by settings: nobody would know who answers.
const UNVERIFIED: &[(&str, &[&str])] = &[
    ("enable.ssl.certificate.verification", &["false", "0", "f"]),
    ("ssl.endpoint.identification.algorithm", &["none"]),
];

/// The properties that TLS and SASL lead to: said beside them, nobody could tell which one counts.
const OURS: &[&str] = &[
    "enable.ssl.certificate.verification",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.password",
    "sasl.username",
    "security.protocol",
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.certificate.pem",
    "ssl.endpoint.identification.algorithm",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.location",
    "ssl.keystore.password",
];

/// TLS to the brokers. Their certificates are verified, names included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KafkaTls {
    /// PEM file of the authorities to trust; those of the system if not said.
    pub ca: Option<PathBuf>,
    /// PEM file of our certificate, with what lies between it and its authority, for brokers that want one.
    pub certificate: Option<PathBuf>,
    /// PEM file of the key of our certificate.
    pub key: Option<PathBuf>,
    /// What opens that key, if it is encrypted.
    pub key_password: Option<Secret>,
}

/// How the brokers learn who we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaslMechanism {
    /// The password itself: over TLS only, unless the network is trusted.
    Plain,
    /// A proof of knowing the password, by SHA-256.
    ScramSha256,
    /// The same by SHA-512.
    ScramSha512,
}

impl SaslMechanism {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Plain, Self::ScramSha256, Self::ScramSha512];

    /// Its name, as Kafka has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl fmt::Display for SaslMechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who we are at the brokers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaSasl {
    /// How they learn it.
    pub mechanism: SaslMechanism,
    /// The user.
    pub username: String,
    /// The user's password.
    pub password: Secret,
}

impl KafkaSettings {
    /// What is spoken with the brokers, by Kafka's names; as properties say where neither TLS nor SASL is set.
    pub fn protocol(&self) -> &str {
        match (&self.tls, &self.sasl) {
            (None, None) => {
                self.properties.get("security.protocol").map_or("plaintext", String::as_str)
            }
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        }
    }

    /// Puts into the properties of a client what makes it secure.
    pub(super) fn secure(&self, config: &mut ClientConfig) {
        if self.tls.is_none() && self.sasl.is_none() {
            return;
        }
        config.set("security.protocol", self.protocol());
        if let Some(tls) = &self.tls {
            config
                .set("enable.ssl.certificate.verification", "true")
                .set("ssl.endpoint.identification.algorithm", "https");
            let files = [
                ("ssl.ca.location", &tls.ca),
                ("ssl.certificate.location", &tls.certificate),
                ("ssl.key.location", &tls.key),
            ];
            for (name, file) in files {
                if let Some(path) = file {
                    config.set(name, path.to_string_lossy());
                }
            }
            if let Some(password) = &tls.key_password {
                config.set("ssl.key.password", password.expose());
            }
        }
        if let Some(sasl) = &self.sasl {
            config
                .set("sasl.mechanism", sasl.mechanism.name())
                .set("sasl.username", &sasl.username)
                .set("sasl.password", sasl.password.expose());
        }
    }

    /// Refuses what can't work: before anything is opened, and with the setting that is at fault.
    pub(super) fn check_security(&self) -> Result<(), ConnectorError> {
        self.find_flaw().map_err(|flaw| flaw.of(NAME))
    }

    fn find_flaw(&self) -> Result<(), Flaw> {
        let wrong = |setting, text: String| Err(Flaw { setting, text });
        for (name, refused) in UNVERIFIED {
            let said = self.properties.get(*name).map(|value| value.trim().to_ascii_lowercase());
            if let Some(value) = said.filter(|value| refused.contains(&value.as_str())) {
                return wrong(
                    "properties",
                    format!(
                        "`{name}` = `{value}` would leave the brokers' certificates unverified; remove it, and name the authority \
                         that signed them by `tls.ca`"
                    ),
                );
            }
        }
        if self.tls.is_none() && self.sasl.is_none() {
            return Ok(());
        }
        if let Some(name) = self.properties.keys().find(|name| OURS.contains(&name.as_str())) {
            return wrong(
                "properties",
                format!(
                    "`{name}` follows from `kafka.tls` and `kafka.sasl`, which are said, too; remove one"
                ),
            );
        }
        let scram = self.sasl.as_ref().is_some_and(|sasl| sasl.mechanism != SaslMechanism::Plain);
        let wanted = [("tls", "ssl", self.tls.is_some()), ("sasl.mechanism", "sasl_scram", scram)];
        for (setting, feature, is_wanted) in wanted {
            if is_wanted && !built_with(feature) {
                return wrong(
                    setting,
                    "asks for what this build can't do; build it with the cargo feature `kafka-tls` (`cargo build --features \
                     kafka-tls`), which wants the headers of OpenSSL (Debian: libssl-dev and pkg-config)"
                        .into(),
                );
            }
        }
        if let Some(sasl) = &self.sasl {
            if sasl.username.is_empty() {
                return wrong("sasl.username", "is empty; say the user".into());
            }
            if sasl.password.expose().is_empty() {
                return wrong("sasl.password", "is empty; say the user's password".into());
            }
        }
        self.tls.as_ref().map_or(Ok(()), |tls| self.find_flaw_of_files(tls))
    }

    fn find_flaw_of_files(&self, tls: &KafkaTls) -> Result<(), Flaw> {
        if let Some(ca) = &tls.ca {
            tls::certificates("tls.ca", ca)?;
        }
        match (&tls.certificate, &tls.key) {
            (None, None) => {}
            (Some(certificate), Some(key)) => {
                tls::certificates("tls.certificate", certificate)?;
                if matches!(tls::key("tls.key", key)?, Key::Encrypted) && tls.key_password.is_none()
                {
                    let text = format!(
                        "names {}, which is encrypted; say what opens it by `tls.key_password`",
                        key.display()
                    );
                    return Err(Flaw { setting: "tls.key", text });
                }
            }
            (Some(_), None) => {
                return Err(Flaw {
                    setting: "tls.key",
                    text: "is not said, and `tls.certificate` is; say both".into(),
                });
            }
            (None, Some(_)) => {
                return Err(Flaw {
                    setting: "tls.certificate",
                    text: "is not said, and `tls.key` is; say both".into(),
                });
            }
        }
        // A client of nobody: OpenSSL takes the files as it will, and sees whether they belong together.
        let mut config = ClientConfig::new();
        self.secure(&mut config);
        match config.create::<BaseConsumer>() {
            Ok(_) => Ok(()),
            Err(error) => Err(Flaw {
                setting: "tls",
                text: format!(
                    "OpenSSL does not take these files, does the key belong to the certificate, and is its password right? {}",
                    super::topics::told(&error)
                ),
            }),
        }
    }

    /// The refusal of all brokers, with what can be learned of it.
    pub(super) fn not_let_in(&self, refusal: Refusal) -> ConnectorError {
        let looked = match (refusal, &self.tls) {
            (Refusal::Distrusted, Some(tls)) => tls::roots(&OF_BROKERS, tls.ca.as_deref())
                .ok()
                .and_then(|roots| tls::look(self.bootstrap.split(',').next()?.trim(), roots)),
            _ => None,
        };
        ConnectorError::NotLetIn {
            connector: NAME,
            address: self.bootstrap.clone(),
            text: looked.unwrap_or_else(|| refusal.to_string()),
        }
    }
}

/// What librdkafka can do in this build.
fn built_with(feature: &str) -> bool {
    let native = ClientConfig::new().create_native_config();
    let features = native.and_then(|native| native.get("builtin.features")).unwrap_or_default();
    features.split(',').any(|found| found.trim() == feature)
}

/// Why a broker and we do not come together before anything is asked. A person must mend it, and whoever waits for it goes on
/// once that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// We do not trust its certificate.
    Distrusted,
    /// It wants one of ours.
    CertificateWanted,
    /// It does not take ours.
    CertificateRefused,
    /// User or password, or the mechanism.
    Login,
    /// TLS failed otherwise.
    Handshake,
}

impl Refusal {
    /// What an error of librdkafka says of it, if it is one.
    pub(super) fn of(code: Option<RDKafkaErrorCode>, reason: &str) -> Option<Self> {
        let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
        if code == Some(RDKafkaErrorCode::Authentication) {
            return Some(Self::Login);
        }
        if says(&["certificate verify failed", "could not be verified", "0A000086"]) {
            return Some(Self::Distrusted);
        }
        // OpenSSL's words for what the broker has told.
        if says(&["alert certificate required", "client SSL authentication might be required"]) {
            return Some(Self::CertificateWanted);
        }
        if says(&[
            "alert bad certificate",
            "alert unsupported certificate",
            "alert certificate revoked",
            "alert certificate expired",
            "alert certificate unknown",
            "alert unknown ca",
            "alert access denied",
        ]) {
            return Some(Self::CertificateRefused);
        }
        (code == Some(RDKafkaErrorCode::SSL)).then_some(Self::Handshake)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Distrusted => f.write_str(
                "the certificate of the broker can't be verified: it is not signed by an authority in `tls.ca`, is for another name \
                 than that in the address, or has expired",
            ),
            Self::CertificateWanted => f.write_str(&OF_BROKERS.wants_certificate()),
            Self::CertificateRefused => f.write_str(
                "the broker does not take the certificate of this client, or wants one and got none; are `tls.certificate` and `tls.key` \
                 said, signed by an authority that the broker trusts, and still valid?",
            ),
            Self::Login => f.write_str(
                "it does not know this user and password, or not by this mechanism; check `sasl.username`, `sasl.password` and \
                 `sasl.mechanism`",
            ),
            Self::Handshake => f.write_str(
                "the TLS handshake failed; is this the port for TLS, and does the broker offer TLS 1.2 or 1.3?",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> KafkaSettings {
        KafkaSettings::new("localhost:9092")
    }

    fn sasl(mechanism: SaslMechanism) -> KafkaSasl {
        KafkaSasl { mechanism, username: "ann".into(), password: Secret::new("hunter2") }
    }

    #[test]
    fn what_this_build_can_not_do_is_refused_with_the_feature_that_can() {
        let mut settings = settings();
        settings.sasl = Some(sasl(SaslMechanism::Plain));
        settings.check_security().expect("every build knows PLAIN");
        settings.sasl = Some(sasl(SaslMechanism::ScramSha256));
        let scram = settings.check_security();
        settings.sasl = None;
        settings.tls = Some(KafkaTls::default());
        let tls = settings.check_security();
        if cfg!(feature = "kafka-tls") {
            scram.expect("built with it");
            tls.expect("built with it");
        } else {
            for refused in [scram, tls] {
                let told = refused.expect_err("built without it").to_string();
                assert!(told.contains("`kafka-tls`") && told.contains("libssl-dev"), "{told}");
            }
        }
    }

    #[test]
    fn a_property_that_is_said_twice_is_refused_without_its_value() {
        let mut settings = settings();
        settings.sasl = Some(sasl(SaslMechanism::Plain));
        settings.properties.insert("sasl.password".into(), "s3cret".into());
        let told = settings.check_security().expect_err("refused").to_string();
        assert!(told.contains("`sasl.password`") && !told.contains("s3cret"), "{told}");
        assert!(!format!("{settings:?}").contains("hunter2"));
    }

    #[test]
    fn a_property_that_would_leave_certificates_unverified_is_refused_whoever_asked_for_tls() {
        for (name, value) in [
            ("enable.ssl.certificate.verification", " False"),
            ("ssl.endpoint.identification.algorithm", "none"),
        ] {
            let mut settings = settings();
            settings.properties.insert("security.protocol".into(), "ssl".into());
            settings.properties.insert(name.into(), value.into());
            let told = settings.check_security().expect_err("refused").to_string();
            assert!(told.contains(name) && told.contains("unverified"), "{told}");
            settings.properties.insert(name.into(), "https".into());
            settings.check_security().expect("nothing is given up");
        }
    }

    #[test]
    fn an_empty_password_is_refused_before_a_broker_is_asked() {
        let mut settings = settings();
        settings.sasl = Some(KafkaSasl { password: Secret::new(""), ..sasl(SaslMechanism::Plain) });
        let told = settings.check_security().expect_err("refused").to_string();
        assert!(told.contains("sasl.password: is empty"), "{told}");
    }

    #[test]
    fn librdkafkas_words_tell_who_refuses_whom() {
        let of = |reason| Refusal::of(Some(RDKafkaErrorCode::SSL), reason);
        assert_eq!(
            of("SSL handshake failed: error:0A000086:SSL routines::certificate verify failed"),
            Some(Refusal::Distrusted)
        );
        assert_eq!(
            Refusal::of(
                Some(RDKafkaErrorCode::BrokerTransportFailure),
                "alert certificate required"
            ),
            Some(Refusal::CertificateWanted)
        );
        assert_eq!(of("sslv3 alert bad certificate"), Some(Refusal::CertificateRefused));
        assert_eq!(of("wrong version number"), Some(Refusal::Handshake));
        let passing = Some(RDKafkaErrorCode::BrokerTransportFailure);
        assert_eq!(Refusal::of(passing, "SSL handshake failed: Disconnected"), None);
        assert_eq!(Refusal::of(Some(RDKafkaErrorCode::AllBrokersDown), "1/1 are down"), None);
    }
}
