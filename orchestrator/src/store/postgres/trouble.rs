//! What an error of the server means: try again, give up, or tell the handler.
//!
//! Codes are those of PostgreSQL's appendix A; their first two letters say the class.

use super::link::Link;
use crate::store::StoreError;
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

impl Fate {
    pub(super) fn of(error: &Error) -> Self {
        let Some(said) = error.as_db_error() else {
            let text = error.to_string();
            return match () {
                () if LOCAL.iter().any(|local| text.starts_with(local)) => Fate::Refused,
                () if text.starts_with("authentication error") => Fate::Forbidden,
                () => Fate::Away,
            };
        };
        if matches!(said.parsed_severity(), Some(Severity::Fatal | Severity::Panic)) {
            // A password, a database or a role: nothing that heals by itself.
            return match class(said) {
                "28" | "3D" => Fate::Forbidden,
                _ => Fate::Away,
            };
        }
        match (class(said), said.code().code()) {
            // Its time was over, or somebody cancelled it.
            (_, "57014") => Fate::Refused,
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

/// The error of a statement of our own.
pub(super) fn of_ours(link: &Link, doing: &str, error: Error) -> StoreError {
    let (doing, place) = (doing.to_owned(), link.place.clone());
    match Fate::of(&error) {
        Fate::Away => StoreError::Unreached { doing, place, source: Box::new(error) },
        Fate::Forbidden => {
            let advice = advice(&error).to_owned();
            StoreError::Unusable { doing, place, advice, source: Box::new(error) }
        }
        // Nothing that we ask for is wrong by itself: a trigger on our tables, a constraint that waited for the commit.
        Fate::GivenUp | Fate::Stale | Fate::Refused => {
            StoreError::GivenUp { doing, place, source: Box::new(error) }
        }
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
