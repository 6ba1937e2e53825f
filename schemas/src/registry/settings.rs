//! Where the schema registry is, who we are there, and what we may do.

use super::RegistryError;
use std::{fmt, path::PathBuf, time::Duration};

/// How long one question may take.
pub const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long the start waits for a registry that is away.
pub const START_WAIT_MAX: Duration = Duration::from_secs(30);

/// What names the subject of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Subjects {
    /// The full name of its record, as in `order.OrderPlaced`: one history of versions for each message, wherever it travels.
    #[default]
    RecordName,
    /// Its channel and the full name of its record, as in `orders-order.OrderPlaced`. An answer belongs to the channel of its
    /// command: who will ask for it is not known beforehand.
    TopicRecordName,
}

impl Subjects {
    pub(super) fn of(self, channel: &str, record: &str) -> String {
        match self {
            Self::RecordName => record.to_owned(),
            Self::TopicRecordName => format!("{channel}-{record}"),
        }
    }
}

/// Who we are to the registry.
#[derive(Clone, Default)]
pub enum Credentials {
    /// Nobody in particular.
    #[default]
    None,
    /// Basic authentication.
    Basic {
        /// The user.
        username: String,
        /// A secret.
        password: String,
    },
    /// A bearer token, a secret.
    Bearer(String),
}

impl fmt::Debug for Credentials {
    /// Without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Basic { .. } => "Basic(***)",
            Self::Bearer(_) => "Bearer(***)",
        })
    }
}

/// Which versions of a message must be able to read which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compatibility {
    /// Each reads what the other writes: both sides may be replaced in any order.
    #[default]
    Full,
    /// The new version reads what the old one wrote: readers are replaced first.
    Backward,
    /// The old version reads what the new one writes: writers are replaced first.
    Forward,
    /// Nobody checks.
    None,
}

impl Compatibility {
    /// Whether the new version has to read the old one.
    pub(crate) fn is_backward(self) -> bool {
        matches!(self, Self::Full | Self::Backward)
    }

    /// Whether the old version has to read the new one.
    pub(crate) fn is_forward(self) -> bool {
        matches!(self, Self::Full | Self::Forward)
    }
}

/// Settings of a schema registry that speaks Confluent's API.
#[derive(Debug, Clone)]
pub struct RegistrySettings {
    /// Where it is, as in `https://registry:8081` or, for Apicurio, `http://registry:8080/apis/ccompat/v7`.
    pub url: String,
    /// Whether schemas that it does not have are registered at the start; else that is refused.
    pub register: bool,
    /// What names the subject of a message.
    pub subjects: Subjects,
    /// What a new version must keep to, beside what the registry itself asks for.
    pub compatibility: Compatibility,
    /// Who we are.
    pub credentials: Credentials,
    /// A file with the certificates (PEM) that vouch for it; those of the system if not said.
    pub ca: Option<PathBuf>,
    /// How long one question may take.
    pub answer_wait_max: Duration,
    /// How long the start waits for a registry that is away.
    pub start_wait_max: Duration,
}

impl RegistrySettings {
    /// A registry that is only read from.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            register: false,
            subjects: Subjects::default(),
            compatibility: Compatibility::default(),
            credentials: Credentials::default(),
            ca: None,
            answer_wait_max: ANSWER_WAIT_MAX,
            start_wait_max: START_WAIT_MAX,
        }
    }

    /// Whether an address can be one of a registry.
    ///
    /// # Errors
    /// Why not; never repeats the address, which may hold a secret.
    pub fn check_url(url: &str) -> Result<(), RegistryError> {
        let wrong = |text: &str| Err(RegistryError::Setting { text: text.into() });
        let Some(rest) = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"))
        else {
            return wrong("its address does not begin with http:// or https://");
        };
        if rest.contains('@') {
            return wrong(
                "its address holds a user or a password, which would end up in logs; say them by \
                 `registry.username` and `registry.password`, or `registry.token`",
            );
        }
        if rest.contains(['?', '#']) || rest.contains(char::is_whitespace) {
            return wrong(
                "its address has a query, a fragment or a space; say scheme, host, port and path only",
            );
        }
        if rest.split('/').next().unwrap_or_default().is_empty() {
            return wrong("its address names no host");
        }
        Ok(())
    }
}
