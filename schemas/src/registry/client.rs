//! The questions to a schema registry: Confluent's REST API, as Confluent, Apicurio and Karapace serve it.
//!
//! Each is asked once, within a time limit, and tells three outcomes apart: an answer, *it has no such thing*, and an error that
//! says whether asking again may help. *No such thing* is believed only with the error code of a registry: a 404 of a proxy or
//! of a wrong path must never condemn a message.

use super::{Credentials, RegistryError, RegistrySettings};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use ureq::{
    Agent,
    tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem},
};

/// Bytes of an answer. Schemas have a few kilobytes; whatever answers more is no registry.
pub const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Bytes of a file of certificates.
const CA_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Characters of the registry's own words in an error.
const SAID_CHARS_MAX: usize = 300;

/// What the registry calls its bodies.
const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// Codes of "no such thing", beside which the status is 404.
mod code {
    pub(super) const NO_SUBJECT: u64 = 40_401;
    pub(super) const NO_VERSION: u64 = 40_402;
    pub(super) const NO_SCHEMA: u64 = 40_403;
    /// The subject has no level of compatibility of its own.
    pub(super) const NO_LEVEL: u64 = 40_408;
}

/// A version of a subject.
#[derive(Debug, Deserialize)]
pub(super) struct Version {
    pub version: u64,
    pub id: u32,
    #[serde(flatten)]
    pub written: Written,
}

/// A schema as the registry keeps it.
#[derive(Debug, Deserialize)]
pub(super) struct Written {
    pub schema: String,
    #[serde(rename = "schemaType", default)]
    kind: Option<String>,
    #[serde(default)]
    references: Vec<Value>,
}

impl Written {
    /// Why it is of no use here, if so.
    pub(super) fn why_unusable(&self) -> Option<String> {
        match self.kind.as_deref() {
            None | Some("AVRO") => {}
            Some(other) => return Some(format!("it is a schema of kind {other}, not Avro")),
        }
        (!self.references.is_empty()).then(|| {
            "it refers to other schemas of the registry, which is not followed here: write them into it".to_owned()
        })
    }
}

#[derive(Deserialize)]
struct Named {
    id: u32,
}

#[derive(Deserialize)]
struct Verdict {
    is_compatible: bool,
    #[serde(default)]
    messages: Vec<String>,
}

pub(super) struct Client {
    agent: Agent,
    base: String,
    authorization: Option<String>,
}

impl Client {
    pub(super) fn new(settings: &RegistrySettings) -> Result<Self, RegistryError> {
        RegistrySettings::check_url(&settings.url)?;
        let authorization = match &settings.credentials {
            Credentials::None => None,
            Credentials::Basic { username, password } => {
                Some(format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
            }
            Credentials::Bearer(token) => Some(format!("Bearer {token}")),
        };
        if authorization.as_ref().is_some_and(|value| value.contains(|c: char| c.is_control())) {
            let text =
                "the token holds a line break or another control character: is its file right?";
            return Err(RegistryError::Setting { text: text.into() });
        }
        let mut config = Agent::config_builder()
            .timeout_global(Some(settings.answer_wait_max))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent("dirigent");
        if settings.url.starts_with("https://") {
            config = config.tls_config(tls(settings)?);
        }
        let base = settings.url.trim_end_matches('/').to_owned();
        Ok(Self { agent: config.build().into(), base, authorization })
    }

    /// Where it is, for people.
    pub(super) fn shown(&self) -> &str {
        &self.base
    }

    /// The id of a schema under a subject.
    pub(super) fn id_of(&self, subject: &str, schema: &str) -> Result<Option<u32>, RegistryError> {
        let path = format!("/subjects/{}", escaped(subject));
        let doing = || format!("to look a schema of subject {subject} up");
        let asked = Some(json!({ "schema": schema }));
        let named: Option<Named> = self.ask(&path, asked, doing)?;
        Ok(named.map(|named| named.id))
    }

    /// Registers a schema under a subject; the same id when it is there already.
    pub(super) fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        let path = format!("/subjects/{}/versions", escaped(subject));
        let doing = || format!("to register a schema under subject {subject}");
        let named: Option<Named> = self.ask(&path, Some(json!({ "schema": schema })), doing)?;
        named
            .map(|named| named.id)
            .ok_or_else(|| self.refused(doing(), "there is no such subject".into()))
    }

    /// The newest version of a subject.
    pub(super) fn latest(&self, subject: &str) -> Result<Option<Version>, RegistryError> {
        let path = format!("/subjects/{}/versions/latest", escaped(subject));
        self.ask(&path, None, || format!("for the newest version of subject {subject}"))
    }

    /// A schema by its id.
    pub(super) fn schema(&self, id: u32) -> Result<Option<Written>, RegistryError> {
        self.ask(&format!("/schemas/ids/{id}"), None, || format!("for schema {id}"))
    }

    /// Why the registry would not take a schema as the next version of a subject that is there, if so.
    pub(super) fn why_incompatible(
        &self,
        subject: &str,
        schema: &str,
    ) -> Result<Option<String>, RegistryError> {
        let path =
            format!("/compatibility/subjects/{}/versions/latest?verbose=true", escaped(subject));
        let doing = || format!("whether a schema fits subject {subject}");
        let verdict: Option<Verdict> = self.ask(&path, Some(json!({ "schema": schema })), doing)?;
        Ok(verdict.filter(|verdict| !verdict.is_compatible).map(|verdict| {
            match verdict.messages.join("; ") {
                said if said.is_empty() => "it says no more".to_owned(),
                said => cut(&said),
            }
        }))
    }

    /// The level of compatibility that the registry asks of a subject, or of all.
    pub(super) fn level(&self, subject: &str) -> Result<Option<String>, RegistryError> {
        let doing = || format!("for the level of compatibility of subject {subject}");
        let of = |answer: Value| Some(answer.get("compatibilityLevel")?.as_str()?.to_owned());
        let own: Option<Value> = self.ask(&format!("/config/{}", escaped(subject)), None, doing)?;
        if let Some(level) = own.and_then(of) {
            return Ok(Some(level));
        }
        let all: Option<Value> = self.ask("/config", None, doing)?;
        Ok(all.and_then(of))
    }

    /// Asks once. `None` where the registry says that it has no such thing.
    fn ask<A: for<'de> Deserialize<'de>>(
        &self,
        path: &str,
        body: Option<Value>,
        doing: impl Fn() -> String,
    ) -> Result<Option<A>, RegistryError> {
        let (status, said) =
            self.exchange(path, body).map_err(|error| match why_distrusted(&error) {
                Some(why) => self.refused(doing(), why),
                None => self.unreachable(doing(), error.to_string()),
            })?;
        match status {
            200..=299 => match serde_json::from_str(&said) {
                Ok(answer) => Ok(Some(answer)),
                // A proxy's page of "please wait", or half an answer.
                Err(error) => Err(self.unreachable(
                    doing(),
                    format!("its answer can't be read ({error}); is the address, with its path, right?"),
                )),
            },
            404 => match code_of(&said) {
                Some(code::NO_SUBJECT | code::NO_VERSION | code::NO_SCHEMA | code::NO_LEVEL) => {
                    Ok(None)
                }
                _ => Err(self.refused(
                    doing(),
                    format!(
                        "404 without a registry's error code, {}; is the address, with its path, right?",
                        words_of(&said)
                    ),
                )),
            },
            408 | 425 | 429 | 500.. => {
                Err(self.unreachable(doing(), format!("{status}, {}", words_of(&said))))
            }
            401 | 403 => Err(self.refused(
                doing(),
                format!("{status}; check user and password, or the token, and what they permit"),
            )),
            300..=399 => Err(self.refused(
                doing(),
                format!("{status}, it is somewhere else; say its final address"),
            )),
            _ => Err(self.refused(doing(), format!("{status}, {}", words_of(&said)))),
        }
    }

    fn exchange(&self, path: &str, body: Option<Value>) -> Result<(u16, String), ureq::Error> {
        let url = format!("{}{path}", self.base);
        let mut response = match body {
            None => {
                let mut request = self.agent.get(&url).header("Accept", MEDIA_TYPE);
                if let Some(value) = &self.authorization {
                    request = request.header("Authorization", value);
                }
                request.call()?
            }
            Some(body) => {
                let mut request = self.agent.post(&url).header("Accept", MEDIA_TYPE);
                if let Some(value) = &self.authorization {
                    request = request.header("Authorization", value);
                }
                request.header("Content-Type", MEDIA_TYPE).send(body.to_string())?
            }
        };
        let status = response.status().as_u16();
        let said = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string()?;
        Ok((status, said))
    }

    fn unreachable(&self, doing: String, text: String) -> RegistryError {
        RegistryError::Unreachable { registry: self.base.clone(), doing, text }
    }

    fn refused(&self, doing: String, text: String) -> RegistryError {
        RegistryError::Refused { registry: self.base.clone(), doing, text }
    }
}

/// Why its certificate is not trusted, if it is for that: asking again does not help before a person did something.
fn why_distrusted(error: &ureq::Error) -> Option<String> {
    let tls = match error {
        ureq::Error::Rustls(tls) => tls,
        ureq::Error::Io(error) => error.get_ref()?.downcast_ref::<rustls::Error>()?,
        _ => return None,
    };
    match tls {
        rustls::Error::InvalidCertificate(flaw) => Some(format!(
            "its certificate is not trusted here ({flaw}); if it has run out or is for another name, have it renewed; if its authority is \
             not known here, name that one's file in `registry.ca`"
        )),
        _ => None,
    }
}

/// Certificates are always verified: those of the file that was named, or of the system.
fn tls(settings: &RegistrySettings) -> Result<TlsConfig, RegistryError> {
    let roots = match &settings.ca {
        Some(path) => {
            let unreadable = |text: String| RegistryError::Setting {
                text: format!("reading its certificates in {}: {text}", path.display()),
            };
            let bytes =
                std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
            if bytes > CA_BYTES_MAX {
                return Err(unreadable(format!("it has {bytes} bytes; is this the right file?")));
            }
            let pem = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
            let mut found: Vec<Certificate<'static>> = Vec::new();
            for item in parse_pem(&pem) {
                match item {
                    Ok(PemItem::Certificate(certificate)) => found.push(certificate),
                    Ok(_) => {}
                    Err(error) => return Err(unreadable(error.to_string())),
                }
            }
            if found.is_empty() {
                return Err(unreadable("there is no certificate (PEM) in it".into()));
            }
            found
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            if found.certs.is_empty() {
                let text = "this system has no certificates of its own; say whom to trust by `registry.ca`";
                return Err(RegistryError::Setting { text: text.into() });
            }
            found.certs.iter().map(|der| Certificate::from_der(der.as_ref()).to_owned()).collect()
        }
    };
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}

fn code_of(said: &str) -> Option<u64> {
    serde_json::from_str::<Value>(said).ok()?.get("error_code")?.as_u64()
}

/// What the registry says of its error, or what else is there, cut.
fn words_of(said: &str) -> String {
    let message = serde_json::from_str::<Value>(said).ok();
    let message = message.as_ref().and_then(|value| value.get("message")?.as_str());
    match message.unwrap_or(said).trim() {
        "" => "without a word".to_owned(),
        words => format!("\"{}\"", cut(words)),
    }
}

fn cut(text: &str) -> String {
    let shown: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match shown.char_indices().nth(SAID_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &shown[..end]),
        None => shown,
    }
}

/// A subject as a part of a path.
fn escaped(subject: &str) -> String {
    let mut path = String::with_capacity(subject.len());
    for byte in subject.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_one_part_of_a_path_whatever_it_is_called() {
        assert_eq!(escaped("orders-order.OrderPlaced"), "orders-order.OrderPlaced");
        assert_eq!(escaped("a/b ?ß"), "a%2Fb%20%3F%C3%9F");
    }

    #[test]
    fn the_registrys_words_are_cut_and_hold_no_line_breaks() {
        assert_eq!(words_of(r#"{"error_code":1,"message":"no\nway"}"#), "\"no way\"");
        assert_eq!(words_of(""), "without a word");
        assert!(words_of(&"x".repeat(10_000)).chars().count() < SAID_CHARS_MAX + 10);
    }
}
