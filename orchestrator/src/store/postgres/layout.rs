//! The kit's own tables, in a schema of their own, and the statements that read and write them.
//!
//! ```text
//! format   version                                        which release may use them
//! place    participant │ epoch, turns, owner, since       whose turn it is to work; its row is locked by every transaction
//! record   participant, space, key │ value                answers, marks, outbox, positions, expiry, the service's records
//! ```

use crate::store::{Change, Glanced, KeyRange, Page, SCAN_BYTES_MAX, Space};
use std::{collections::BTreeMap, ops::Bound};
use tokio_postgres::{Client, Error, types::Type};

/// The schema of the kit's tables, unless another one is named.
pub const SCHEMA: &str = "dirigent_participant";

/// The version of the tables.
pub(super) const VERSION: i32 = 1;

/// Records read at once at the most, whatever is asked for: keys are sent though values are held back.
const SCAN_RECORDS_MAX: usize = 10_000;

/// Bytes of keys and values in one statement, so that the server holds a bounded message.
const STATEMENT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The statements on the tables of one participant.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) schema: String,
    participant: String,
    get: String,
    glance: String,
    put: String,
    remove: String,
}

/// The statements that make the tables.
pub(super) fn make(schema: &str) -> String {
    format!(
        "CREATE SCHEMA IF NOT EXISTS {schema};
CREATE TABLE IF NOT EXISTS {schema}.format (version integer NOT NULL);
INSERT INTO {schema}.format SELECT {VERSION} WHERE NOT EXISTS (SELECT FROM {schema}.format);
CREATE TABLE IF NOT EXISTS {schema}.place (
    participant text PRIMARY KEY,
    epoch bigint NOT NULL,
    turns bigint NOT NULL,
    owner text NOT NULL,
    since timestamptz NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS {schema}.record (
    participant text NOT NULL,
    space text NOT NULL,
    key bytea NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (participant, space, key)
);
"
    )
}

impl Layout {
    pub(super) fn of(schema: &str, participant: &str) -> Self {
        let mine = format!("{schema}.record WHERE participant = $1 AND space = $2");
        Self {
            schema: schema.to_owned(),
            participant: participant.to_owned(),
            get: format!("SELECT value FROM {mine} AND key = $3"),
            glance: weighed(&format!("SELECT key, value FROM {mine} AND key = ANY($3)"), "$4"),
            put: format!(
                "INSERT INTO {schema}.record (participant, space, key, value)
                 SELECT $1, $2, k, v FROM unnest($3, $4) AS c (k, v)
                 ON CONFLICT (participant, space, key) DO UPDATE SET value = excluded.value"
            ),
            remove: format!("DELETE FROM {mine} AND key = ANY($3)"),
        }
    }

    pub(super) async fn get(
        &self,
        client: &Client,
        space: Space,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, Error> {
        let space = space.name();
        let row = client
            .query_typed_opt(
                &self.get,
                &[(&self.participant, Type::TEXT), (&space, Type::TEXT), (&key, Type::BYTEA)],
            )
            .await?;
        row.map(|row| row.try_get(0)).transpose()
    }

    pub(super) async fn glance(
        &self,
        client: &Client,
        space: Space,
        keys: &[Vec<u8>],
    ) -> Result<Vec<Glanced>, Error> {
        let space = space.name();
        let rows = client
            .query_typed(
                &self.glance,
                &[
                    (&self.participant, Type::TEXT),
                    (&space, Type::TEXT),
                    (&keys, Type::BYTEA_ARRAY),
                    (&bytes_max(), Type::INT8),
                ],
            )
            .await?;
        let mut known: BTreeMap<Vec<u8>, Option<Vec<u8>>> =
            keys.iter().map(|key| (key.clone(), None)).collect();
        for row in rows {
            let (key, value): (Vec<u8>, Option<Vec<u8>>) = (row.try_get(0)?, row.try_get(1)?);
            // Held back, as it is too much at once: there, but not known.
            match value {
                Some(value) => known.insert(key, Some(value)),
                None => known.remove(&key),
            };
        }
        Ok(known.into_iter().collect())
    }

    pub(super) async fn scan(
        &self,
        client: &Client,
        space: Space,
        range: KeyRange<'_>,
        limit: usize,
    ) -> Result<Page, Error> {
        let limit = limit.clamp(1, SCAN_RECORDS_MAX);
        let from = match range.0 {
            Bound::Included(_) => "AND key >= $3",
            Bound::Excluded(_) => "AND key > $3",
            Bound::Unbounded => "AND $3::bytea IS NOT NULL",
        };
        let to = match range.1 {
            Bound::Included(_) => "AND key <= $4",
            Bound::Excluded(_) => "AND key < $4",
            Bound::Unbounded => "AND $4::bytea IS NOT NULL",
        };
        let bytes = |bound: Bound<&[u8]>| match bound {
            Bound::Included(key) | Bound::Excluded(key) => key.to_vec(),
            Bound::Unbounded => Vec::new(),
        };
        let page = format!(
            "SELECT key, value FROM {}.record WHERE participant = $1 AND space = $2 {from} {to} ORDER BY key LIMIT $5",
            self.schema
        );
        let space = space.name();
        // One more tells where the next page begins.
        let rows_max = i64::try_from(limit + 1).unwrap_or(i64::MAX);
        let rows = client
            .query_typed(
                &weighed(&page, "$6"),
                &[
                    (&self.participant, Type::TEXT),
                    (&space, Type::TEXT),
                    (&bytes(range.0), Type::BYTEA),
                    (&bytes(range.1), Type::BYTEA),
                    (&rows_max, Type::INT8),
                    (&bytes_max(), Type::INT8),
                ],
            )
            .await?;
        let mut found = Page::default();
        for row in rows {
            let (key, value): (Vec<u8>, Option<Vec<u8>>) = (row.try_get(0)?, row.try_get(1)?);
            match value {
                Some(value) if found.records.len() < limit => found.records.push((key, value)),
                Some(_) | None => {
                    found.next = Some(key);
                    break;
                }
            }
        }
        Ok(found)
    }

    /// Carries the changes out, the last one of a key winning.
    pub(super) async fn write(&self, client: &Client, changes: &[Change]) -> Result<(), Error> {
        let mut last: BTreeMap<(Space, &[u8]), Option<&[u8]>> = BTreeMap::new();
        for change in changes {
            last.insert((change.space, &change.key), change.value.as_deref());
        }
        for space in Space::ALL {
            let name = space.name();
            let (mut puts, mut removed, mut bytes) = ((Vec::new(), Vec::new()), Vec::new(), 0);
            for ((_, key), value) in
                last.range((space, [].as_slice())..).take_while(|((at, _), _)| *at == space)
            {
                bytes += key.len() + value.map_or(0, <[u8]>::len);
                match value {
                    Some(value) => {
                        puts.0.push(*key);
                        puts.1.push(*value);
                    }
                    None => removed.push(*key),
                }
                if bytes >= STATEMENT_BYTES_MAX {
                    self.carry_out(client, name, (&puts.0, &puts.1), &removed).await?;
                    (puts, removed, bytes) = ((Vec::new(), Vec::new()), Vec::new(), 0);
                }
            }
            self.carry_out(client, name, (&puts.0, &puts.1), &removed).await?;
        }
        Ok(())
    }

    async fn carry_out(
        &self,
        client: &Client,
        space: &str,
        (keys, values): (&[&[u8]], &[&[u8]]),
        removed: &[&[u8]],
    ) -> Result<(), Error> {
        let (me, text) = (&self.participant, Type::TEXT);
        if !keys.is_empty() {
            client
                .execute_typed(
                    &self.put,
                    &[
                        (me, text.clone()),
                        (&space, text.clone()),
                        (&keys, Type::BYTEA_ARRAY),
                        (&values, Type::BYTEA_ARRAY),
                    ],
                )
                .await?;
        }
        if !removed.is_empty() {
            client
                .execute_typed(
                    &self.remove,
                    &[(me, text.clone()), (&space, text), (&removed, Type::BYTEA_ARRAY)],
                )
                .await?;
        }
        Ok(())
    }
}

/// The records of a query in the order of their keys, their values as long as those before are not too much at once.
fn weighed(records: &str, bytes_max: &str) -> String {
    format!(
        "SELECT key, CASE WHEN before < {bytes_max} THEN value END FROM (
           SELECT key, value, coalesce(sum(octet_length(key) + octet_length(value))
             OVER (ORDER BY key ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before
           FROM ({records}) AS found) AS weighed ORDER BY key"
    )
}

fn bytes_max() -> i64 {
    i64::try_from(SCAN_BYTES_MAX).unwrap_or(i64::MAX)
}
