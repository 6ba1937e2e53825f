//! What a service's effects add up to: one entry per business key and kind of effect, counted where the effect is applied.
//!
//! Written by the services' handlers in the batch of their answer. An effect applied twice is counted twice, and stands there for everyone to see.

#[cfg(feature = "postgres")]
pub(crate) mod postgres;

use dirigent::{
    participant::{Asked, Heard, Records, Tx},
    store::{Space, Store, StoreError},
};
use serde::{Deserialize, Serialize};

/// Causes kept by name with an entry: more than any correct run has. Further ones are only counted.
const CAUSES_MAX: usize = 8;

const PREFIX: &str = "ledger/";

/// How often an effect was applied for a business key, and what asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The business key.
    pub key: i64,
    /// The kind of effect.
    pub kind: String,
    /// How often it was applied.
    pub times: u64,
    /// The idempotency keys or event ids that it was applied for.
    pub causes: Vec<String>,
}

/// What an effect is applied for.
pub trait Cause {
    /// The key that no two effects share.
    fn cause(&self) -> &str;
}

impl Cause for Asked {
    fn cause(&self) -> &str {
        &self.idempotency_key
    }
}

impl Cause for Heard {
    fn cause(&self) -> &str {
        &self.id
    }
}

/// Counts an effect that is applied now.
pub fn apply(tx: &mut Tx<'_>, key: i64, kind: &str, cause: &impl Cause) {
    #[cfg(feature = "postgres")]
    if tx.has_sql() {
        return postgres::apply(tx, key, kind, cause.cause());
    }
    let place = place(key, kind);
    let mut entry = tx.get_as(&place).unwrap_or_else(|| Entry {
        key,
        kind: kind.to_owned(),
        times: 0,
        causes: Vec::new(),
    });
    entry.times += 1;
    if entry.causes.len() < CAUSES_MAX {
        entry.causes.push(cause.cause().to_owned());
    }
    tx.put_as(&place, &entry);
}

/// How often an effect has been applied.
pub fn applied(tx: &mut Tx<'_>, key: i64, kind: &str) -> u64 {
    #[cfg(feature = "postgres")]
    if tx.has_sql() {
        return postgres::applied(tx, key, kind);
    }
    tx.get_as::<Entry>(place(key, kind)).map_or(0, |entry| entry.times)
}

/// The ledger in a service's store, by key and kind.
///
/// # Errors
/// What the store says; an entry that makes no sense is damage too.
pub fn read(store: &dyn Store) -> Result<Vec<Entry>, StoreError> {
    let (mut entries, mut damaged) = (Vec::new(), None);
    Records::of(store).each(PREFIX.as_bytes(), |key, value| {
        match serde_json::from_slice(value) {
            Ok(entry) => entries.push(entry),
            Err(_) => damaged = Some(key.to_vec()),
        }
    })?;
    match damaged {
        Some(key) => Err(StoreError::Corrupt { space: Space::Ledger, key }),
        None => Ok(entries),
    }
}

/// Ordered keys cost a store half of what random ones do.
fn place(key: i64, kind: &str) -> String {
    format!("{PREFIX}{key:020}/{kind}")
}
