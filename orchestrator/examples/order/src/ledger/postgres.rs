//! The ledger as a table of the services' own in PostgreSQL, written in the transaction of their answer.

use super::{CAUSES_MAX, Entry};
use dirigent::participant::Tx;
use tokio_postgres::{Client, Error};

/// The statements that make the table in `schema`.
pub(crate) fn make(schema: &str) -> String {
    format!(
        "SELECT pg_advisory_lock(hashtextextended('{schema}', 0));
         CREATE SCHEMA IF NOT EXISTS {schema};
         CREATE TABLE IF NOT EXISTS {schema}.ledger (
             key bigint NOT NULL,
             kind text NOT NULL,
             times bigint NOT NULL,
             causes text[] NOT NULL,
             PRIMARY KEY (key, kind)
         );
         SELECT pg_advisory_unlock_all()"
    )
}

/// Counts an effect. Where that is refused, the kit keeps nothing of the handler, whatever it answers.
pub(super) fn apply(tx: &mut Tx<'_>, key: i64, kind: &str, cause: &str) {
    let causes_max = i32::try_from(CAUSES_MAX).unwrap_or(i32::MAX);
    let counted = tx.sql().execute(
        "INSERT INTO ledger AS l (key, kind, times, causes) VALUES ($1, $2, 1, ARRAY[$3])
         ON CONFLICT (key, kind) DO UPDATE SET times = l.times + 1,
             causes = CASE WHEN cardinality(l.causes) < $4 THEN l.causes || $3 ELSE l.causes END",
        &[&key, &kind, &cause, &causes_max],
    );
    if let Err(error) = counted {
        tracing::warn!(key, kind, "An effect was not counted: {error}");
    }
}

/// How often an effect has been applied.
pub(super) fn applied(tx: &mut Tx<'_>, key: i64, kind: &str) -> u64 {
    let times = "SELECT times FROM ledger WHERE key = $1 AND kind = $2";
    let row = tx.sql().query_opt(times, &[&key, &kind]).ok().flatten();
    row.map_or(0, |row| u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
}

/// All entries.
pub(crate) async fn read(client: &Client, schema: &str) -> Result<Vec<Entry>, Error> {
    let all = format!("SELECT key, kind, times, causes FROM {schema}.ledger ORDER BY key, kind");
    let entry = |row: tokio_postgres::Row| Entry {
        key: row.get(0),
        kind: row.get(1),
        times: u64::try_from(row.get::<_, i64>(2)).unwrap_or(0),
        causes: row.get(3),
    };
    Ok(client.query(&all, &[]).await?.into_iter().map(entry).collect())
}
