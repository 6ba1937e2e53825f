//! What an error of the server means: try again, give up, or tell the handler.
//!
//! Codes are those of PostgreSQL's appendix A; their first two letters say the class. One code means different things, depending on
//! whose statement met it: the kit's own are right by themselves, so what hinders them passes and is waited for. What hinders a
//! handler's may be its own doing, so it is tried some times and then answered: nothing that a command does holds up all behind it.
//! No error carries the details that the server adds: they may show what is in rows.

use super::{PostgresAddress, link::Link, sql::said, tls};
use crate::store::StoreError;
use std::io;
use tokio_postgres::{
    Error,
    error::{DbError, Severity},
};

/// What follows from an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The connection is gone, or the server can't do it now: no room, no memory, shutting down, a standby.
    Away,
    /// Another transaction was in the way: everything may be done again at once.
    GivenUp,
    /// It waited for a lock, or was at work, for longer than the server lets it; or somebody cancelled it.
    Held,
    /// A prepared statement is of no more use: prepared again, it is.
    Stale,
    /// The server does not let us do that, today or tomorrow.
    Forbidden,
    /// The statement was refused for what it says or does.
    Refused,
}

/// What the client says of parameters and columns that don't fit their types; the connection is as good as before.
const LOCAL: [&str; 6] = [
    "error serializing parameter",
    "error deserializing column",
    "error encoding message",
    "expected ",
    "invalid column",
    "query returned an unexpected number of rows",
];

/// Where the server checks its timers and what else interrupts a statement.
const INTERRUPTS: &str = "ProcessInterrupts";

impl Fate {
    /// What an error of a handler's statement means. It may be that statement's own doing, even that the session ended, or that the
    /// server went down: the kit's statement just before it was carried out. So none of it is waited for. A server that is away is
    /// met by the kit's own statements, before a handler is called again.
    pub(super) fn of_service(error: &Error) -> Self {
        match Self::of(error) {
            Fate::Away | Fate::Held => Fate::GivenUp,
            fate => fate,
        }
    }

    /// What an error of the commit means, in which what was deferred is asked once more: that may be a handler's doing, unless the
    /// session ended, as nobody knows then what became of it.
    pub(super) fn of_commit(error: &Error) -> Self {
        match Self::of(error) {
            Fate::Away if error.as_db_error().is_some_and(|said| !is_leaving(said)) => {
                Fate::GivenUp
            }
            Fate::Held => Fate::GivenUp,
            fate => fate,
        }
    }

    /// What an error of the kit's own statement means.
    pub(super) fn of(error: &Error) -> Self {
        let Some(said) = error.as_db_error() else {
            let text = error.to_string();
            return match () {
                () if LOCAL.iter().any(|local| text.starts_with(local)) => Fate::Refused,
                () if text.starts_with("authentication error") => Fate::Forbidden,
                () => Fate::Away,
            };
        };
        if ends(said) {
            // A password, a database or a role: nothing that heals by itself.
            return match class(said) {
                "28" | "3D" => Fate::Forbidden,
                _ => Fate::Away,
            };
        }
        match (class(said), said.code().code()) {
            (_, "55P03" | "57014") => Fate::Held,
            (_, "25006") | ("08" | "53" | "57" | "58" | "XX", _) => Fate::Away,
            ("40", _) => Fate::GivenUp,
            // A plan that was kept does not fit a table that was changed.
            (_, "26000") => Fate::Stale,
            (_, "0A000") if said.message().contains("cached plan") => Fate::Stale,
            ("28" | "3D" | "3F" | "42", _) => Fate::Forbidden,
            _ => Fate::Refused,
        }
    }
}

fn class(said: &DbError) -> &str {
    said.code().code().get(..2).unwrap_or_default()
}

/// Whether the session ended with it.
pub(super) fn ends_session(error: &Error) -> bool {
    error.as_db_error().map_or(Fate::of(error) == Fate::Away, ends)
}

fn ends(said: &DbError) -> bool {
    matches!(said.parsed_severity(), Some(Severity::Fatal | Severity::Panic))
}

/// Whether the server, and not a statement, is the reason.
fn is_leaving(said: &DbError) -> bool {
    let code = said.code().code();
    ends(said) || code == "25006" || code.starts_with("57P0")
}

/// Whether a lock was asked for by `NOWAIT`, and not had: that answers a question, nothing was waited for.
pub(super) fn was_not_waited_for(error: &Error) -> bool {
    error.as_db_error().is_some_and(|said| {
        said.code().code() == "55P03" && said.routine().is_some_and(|routine| routine != INTERRUPTS)
    })
}

/// The error of a statement of our own.
pub(super) fn of_ours(link: &Link, doing: &str, error: &Error) -> StoreError {
    ours(link.place.clone(), doing, error, advice(error).into())
}

/// The error of a try to connect.
pub(super) fn of_connecting(address: &PostgresAddress, doing: &str, error: &Error) -> StoreError {
    ours(address.to_string(), doing, error, advice(error).into())
}

fn ours(place: String, doing: &str, error: &Error, advice: String) -> StoreError {
    let (doing, source) = (doing.to_owned(), said(error).into());
    match Fate::of(error) {
        Fate::Away | Fate::Held => StoreError::Unreached { doing, place, source },
        Fate::Forbidden => StoreError::Unusable { doing, place, advice, source },
        // Nothing that we ask for is wrong by itself: a trigger on our tables.
        Fate::GivenUp | Fate::Stale | Fate::Refused => StoreError::GivenUp { doing, place, source },
    }
}

/// The error of what handlers do: of a statement of theirs, or of a constraint or trigger that waited for the commit.
pub(super) fn of_service(link: &Link, doing: &str, error: &Error, fate: Fate) -> StoreError {
    let (doing, place, mut source) = (doing.to_owned(), link.place.clone(), said(error));
    if ends_session(error) && fate == Fate::GivenUp {
        source.push_str("; the server ended the session in it");
    }
    let source = source.into();
    match fate {
        Fate::Away => StoreError::Unreached { doing, place, source },
        Fate::GivenUp | Fate::Held | Fate::Stale | Fate::Forbidden | Fate::Refused => {
            StoreError::GivenUp { doing, place, source }
        }
    }
}

/// The server did not answer.
pub(super) fn silent(link: &Link, doing: &str, source: io::Error) -> StoreError {
    let (doing, place) = (doing.to_owned(), link.place.clone());
    StoreError::Unreached { doing, place, source: Box::new(source) }
}

/// The same, where no handler had a part in it: it is waited for, and no delivery pays for it.
pub(super) fn waited_for(error: StoreError) -> StoreError {
    match error {
        StoreError::GivenUp { doing, place, source } => {
            StoreError::Unreached { doing, place, source }
        }
        other => other,
    }
}

/// The same once more, for whoever asks later why a transaction came to nothing.
pub(super) fn copy(error: &StoreError) -> StoreError {
    match error {
        StoreError::Unreached { doing, place, source } => {
            let (doing, place) = (doing.clone(), place.clone());
            StoreError::Unreached { doing, place, source: source.to_string().into() }
        }
        StoreError::Unusable { doing, place, advice, source } => {
            let (doing, place, advice) = (doing.clone(), place.clone(), advice.clone());
            StoreError::Unusable { doing, place, advice, source: source.to_string().into() }
        }
        StoreError::GivenUp { doing, place, source } => {
            let (doing, place) = (doing.clone(), place.clone());
            StoreError::GivenUp { doing, place, source: source.to_string().into() }
        }
        _ => StoreError::Stopped,
    }
}

/// What can be done where the server does not let us in. Of pg_hba.conf its words tell more than its code, where they are English.
pub(super) fn advice_at_the_door(address: &PostgresAddress, error: &Error) -> Option<String> {
    (Fate::of(error) == Fate::Forbidden).then(|| entry_advice(address, error))
}

fn entry_advice(address: &PostgresAddress, error: &Error) -> String {
    let Some(refused) = error.as_db_error().filter(|said| said.code().code() == "28000") else {
        return advice(error).into();
    };
    let says = |words| refused.message().contains(words);
    let certificate = tls::wants_certificate();
    match &address.tls {
        None if says("no encryption") || says("SSL off") => {
            "the server lets in by TLS only: say sslmode=require in the address, and by sslrootcert the file of the authority that signed \
             its certificate, unless this system trusts that one"
                .into()
        }
        None => format!(
            "{}; where it lets in by TLS only (hostssl), say sslmode=require in the address",
            advice(error)
        ),
        Some(tls) if tls.certificate.is_some() => format!(
            "{}; does it want a certificate of another name?",
            advice(error)
        ),
        Some(_) if says("client certificate") => certificate,
        Some(_) => format!("{}; where it asks for a certificate (clientcert): {certificate}", advice(error)),
    }
}

fn advice(error: &Error) -> &'static str {
    match error.code().map(|code| code.code()).unwrap_or_default() {
        "28P01" => "check user and password",
        "28000" => "check the user, and whether pg_hba.conf lets it in from here",
        "3D000" => "check the name of the database, or create it",
        "42501" => {
            "grant it: USAGE on the schema; SELECT, INSERT, UPDATE, DELETE on its tables; CREATE on the database to make them"
        }
        "42P01" | "3F000" => "the kit's tables are gone; restore them from a backup",
        _ => "see what the server says",
    }
}
