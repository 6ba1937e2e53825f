//! A service's own statements, in the transaction of its answer.

use super::turn::Turn;
use dirigent_model::message::{Failure, FailureEffect};
use tokio_postgres::{Error, Row, types::ToSql};

/// Words that begin, end or split transactions. All of that is the kit's.
const OF_TRANSACTIONS: [&str; 10] = [
    "abort",
    "begin",
    "commit",
    "discard",
    "end",
    "prepare",
    "release",
    "rollback",
    "savepoint",
    "start",
];

/// The service's own tables, in the transaction that keeps its answer: what is written here stands if, and only if, the answer does.
///
/// As anywhere in PostgreSQL, a statement that is refused takes with it what the handler did before; a handler that wants to go on
/// makes it within [`attempt`](Sql::attempt). What a handler [is done](crate::participant::Answer::Done) with though one of its
/// statements was refused is not kept, and answered by a failure.
///
/// Statements are prepared once and kept. Constraints that are deferred are asked when the handler has ended.
pub struct Sql<'a> {
    turn: Option<&'a Turn>,
}

/// Why a statement was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SqlError {
    /// The database refused it. What the database says in detail is left out: it may show what is in other rows.
    #[error("{message} ({code})")]
    Statement {
        /// By which of PostgreSQL's codes.
        code: String,
        /// In its words.
        message: String,
        /// Which constraint was violated.
        constraint: Option<String>,
    },
    /// Its parameters or columns don't have the types that they should.
    #[error("the statement and its values don't fit each other: {0}")]
    Misfit(String),
    /// An earlier statement was refused, and nothing of this handler is left.
    #[error("an earlier statement was refused, nothing more is carried out: {0}")]
    Refused(String),
    /// Attempts lie within each other.
    #[error("attempts are made within each other more than {0} times")]
    TooDeep(u32),
    /// It would end the transaction of the answer, or split it.
    #[error(
        "`{0}` is the kit's own: a handler's statements are one transaction with its answer; use `attempt` for a part of it"
    )]
    OfTransactions(String),
    /// The connection is lost, the transaction met another one or waited too long for a lock, or the server could not do it now:
    /// whatever is answered now, the handler is called again, some times at the most.
    #[error("the transaction came to nothing, the handler is called again")]
    ComesAgain,
    /// The participant's store is none of PostgreSQL.
    #[error(
        "this participant does not keep its answers in PostgreSQL; start it with a PostgresStore"
    )]
    NoPostgres,
}

impl SqlError {
    pub(super) fn of(error: &Error) -> Self {
        match error.as_db_error() {
            Some(said) => SqlError::Statement {
                code: said.code().code().to_owned(),
                message: said.message().to_owned(),
                constraint: said.constraint().map(str::to_owned),
            },
            None => SqlError::Misfit(with_cause(error)),
        }
    }

    /// PostgreSQL's code, where the database refused it.
    pub fn code(&self) -> Option<&str> {
        match self {
            SqlError::Statement { code, .. } => Some(code),
            _ => None,
        }
    }

    /// Whether such a row is there already.
    pub fn is_unique_violation(&self) -> bool {
        self.code() == Some("23505")
    }

    /// The constraint that was violated.
    pub fn constraint(&self) -> Option<&str> {
        match self {
            SqlError::Statement { constraint, .. } => constraint.as_deref(),
            _ => None,
        }
    }
}

/// Technical trouble that may pass, and has left nothing: for handlers whose effects are all in their transaction.
impl From<SqlError> for Failure {
    fn from(error: SqlError) -> Self {
        Failure {
            code: "sql".into(),
            message: error.to_string(),
            retriable: true,
            effect: FailureEffect::None,
        }
    }
}

impl<'a> Sql<'a> {
    pub(super) fn within(turn: &'a Turn) -> Self {
        Self { turn: Some(turn) }
    }

    pub(crate) fn nowhere() -> Self {
        Self { turn: None }
    }

    /// Carries a statement out. The rows that it changed.
    ///
    /// # Errors
    /// It is refused, or the transaction is lost.
    pub fn execute(
        &mut self,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, SqlError> {
        self.turn(statement)?.statement(
            statement,
            parameters,
            async |client, prepared, parameters| client.execute(prepared, parameters).await,
        )
    }

    /// The rows of a statement, all of them at once.
    ///
    /// # Errors
    /// As [`execute`](Sql::execute).
    pub fn query(
        &mut self,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, SqlError> {
        self.turn(statement)?.rows(statement, parameters)
    }

    /// The only row of a statement, or none.
    ///
    /// # Errors
    /// As [`execute`](Sql::execute), or there are several.
    pub fn query_opt(
        &mut self,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, SqlError> {
        let mut rows = self.query(statement, parameters)?;
        if rows.len() > 1 {
            return Err(SqlError::Misfit(format!("{} rows instead of one or none", rows.len())));
        }
        Ok(rows.pop())
    }

    /// The only row of a statement.
    ///
    /// # Errors
    /// As [`query_opt`](Sql::query_opt), or there is none.
    pub fn query_one(
        &mut self,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, SqlError> {
        let row = self.query_opt(statement, parameters)?;
        row.ok_or_else(|| SqlError::Misfit("no row instead of one".into()))
    }

    /// Makes what follows a part of its own: where it ends in an error, it is undone and the handler goes on.
    ///
    /// # Errors
    /// That of `part`; or a statement in it was refused, though `part` did not pass that on.
    pub fn attempt<T, E: From<SqlError>>(
        &mut self,
        part: impl FnOnce(&mut Sql<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let turn = self.turn.ok_or(SqlError::NoPostgres)?;
        let depth = turn.attempt()?;
        let ended = part(&mut Sql { turn: Some(turn) });
        match turn.attempted(depth, ended.is_ok())? {
            Some(why) => Err(SqlError::Refused(why).into()),
            None => ended,
        }
    }

    fn turn(&self, statement: &str) -> Result<&'a Turn, SqlError> {
        let first = first_word(statement);
        if OF_TRANSACTIONS.contains(&first.as_str()) {
            return Err(SqlError::OfTransactions(first));
        }
        self.turn.ok_or(SqlError::NoPostgres)
    }
}

/// What the database said, without its details; or why it could not be asked.
pub(super) fn said(error: &Error) -> String {
    match error.as_db_error() {
        Some(_) => SqlError::of(error).to_string(),
        None => with_cause(error),
    }
}

fn with_cause(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// The first word of a statement, in lower case, behind spaces and comments.
fn first_word(statement: &str) -> String {
    let mut rest = statement.trim_start();
    loop {
        let behind = if let Some(line) = rest.strip_prefix("--") {
            line.split_once('\n').map_or("", |(_, behind)| behind)
        } else if rest.starts_with("/*") {
            behind_comment(rest)
        } else if let Some(behind) = rest.strip_prefix(';') {
            behind
        } else {
            break;
        };
        rest = behind.trim_start();
    }
    let end = rest.find(|letter: char| !letter.is_ascii_alphabetic()).unwrap_or(rest.len());
    rest[..end].to_ascii_lowercase()
}

/// Comments lie within each other.
fn behind_comment(text: &str) -> &str {
    let (mut depth, mut at) = (0_u32, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return &text[at..];
            }
        } else {
            at += 1;
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_end_a_transaction_are_refused_wherever_they_hide() {
        for odd in [
            "COMMIT",
            "  rollback to savepoint x",
            "-- all is well\nEnd",
            "/* a /* b */ c */ Begin",
            "; ;Savepoint x",
            "prepare transaction 'x'",
        ] {
            let refused = Sql::nowhere().execute(odd, &[]).unwrap_err();
            assert!(matches!(refused, SqlError::OfTransactions(_)), "{odd}: {refused}");
        }
        for fine in
            ["SELECT 1", "insert into ends values (1)", "/* commit */ UPDATE x SET y = 1", ""]
        {
            assert_eq!(Sql::nowhere().execute(fine, &[]), Err(SqlError::NoPostgres), "{fine}");
        }
    }
}
