//! Why there is no broker, and what a person can do about it.

use std::io;
use std::path::PathBuf;

use crate::broker::Kind;

/// Why a broker could not be found or started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// The environment names a broker that does not answer. Never replaced by another one silently.
    #[error(
        "{variable} names a {kind} at {address} that does not answer ({why}); start it or unset {variable}"
    )]
    Environment {
        /// Which broker.
        kind: Kind,
        /// The variable that names it.
        variable: &'static str,
        /// Its address, without credentials.
        address: String,
        /// What came back.
        why: String,
    },
    /// A program is missing that is needed to start it.
    #[error("starting {kind} needs {missing}; install {install}")]
    Missing {
        /// Which broker.
        kind: Kind,
        /// What is not there.
        missing: String,
        /// What a person can do.
        install: &'static str,
    },
    /// It was started, or being installed, and that failed.
    #[error("{doing} for {kind} failed: {why}{}", log.as_ref().map(|log| format!(" (log: {})", log.display())).unwrap_or_default())]
    Failed {
        /// Which broker.
        kind: Kind,
        /// What we were doing.
        doing: &'static str,
        /// What came back, the end of the log included.
        why: String,
        /// Where to read on.
        log: Option<PathBuf>,
    },
    /// Only the mock is left, and a real broker is required.
    #[error("only a mock of Kafka is left, and a real one is required: {why}")]
    OnlyMock {
        /// Why there is no real one.
        why: String,
    },
    /// The broker is shared or not ours: it can't be killed or restarted.
    #[error(
        "{doing} a {kind} that is {how}: only a private broker allows that, use {kind}_private()"
    )]
    NotOurs {
        /// Which broker.
        kind: Kind,
        /// What was asked.
        doing: &'static str,
        /// Where it comes from.
        how: String,
    },
    /// There is no RabbitMQ of ours to administer.
    #[error("rabbitmqctl is run for the RabbitMQ that was started here only: {why}")]
    NoAdministrator {
        /// What there is instead.
        why: &'static str,
    },
    /// Our own folder gave trouble.
    #[error("{doing} {}", path.display())]
    Folder {
        /// What we were doing.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another process kept the folder locked for too long.
    #[error("another process has been starting or stopping a broker in {} for {waited_s} s; look there, or run `brokers down`", path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
        /// How long we waited, in seconds.
        waited_s: u64,
    },
}

impl Unavailable {
    /// What to install or do, in one phrase.
    #[must_use]
    pub fn install(&self) -> String {
        match self {
            Unavailable::Missing { install, .. } => (*install).to_owned(),
            Unavailable::Environment { variable, .. } => format!("nothing, but correct {variable}"),
            Unavailable::Failed { kind, .. } | Unavailable::NotOurs { kind, .. } => {
                kind.install().to_owned()
            }
            Unavailable::OnlyMock { .. } => Kind::Kafka.install().to_owned(),
            Unavailable::NoAdministrator { .. } => {
                "nothing, but use the rabbitmqctl of that broker".to_owned()
            }
            Unavailable::Folder { .. } | Unavailable::Locked { .. } => {
                "nothing, but look at the folder named above".to_owned()
            }
        }
    }
}

/// Names what was being done to which path, for errors of our own folder.
pub(crate) fn folder(
    doing: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> Unavailable {
    let path = path.into();
    move |source| Unavailable::Folder { doing, path, source }
}
