//! What a handler can do: read and write the service's own records, and publish events, all or nothing with the remembered answer.
//!
//! Nothing here reaches the store or the broker by itself: the turn puts it into its batch when the handler has answered,
//! and drops it when the handler failed.

use super::remembered::{Batch, own_key};
#[cfg(feature = "postgres")]
use crate::store::postgres::Sql;
use crate::store::{KEY_BYTES_MAX, StoreError, Transaction, VALUE_BYTES_MAX};
use dirigent_connectors::Message;
use dirigent_model::message::{Body, Codec, Event, Key};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;

/// Bytes one handler may change at the most, keys and events included: a batch of the store, which is all or nothing, has room for
/// this and a reply as large, beside what was gathered before.
pub const CHANGES_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Events one handler may publish at the most: they are held in memory until the broker has them.
pub const EVENTS_MAX: usize = 64;

/// What an event counts for beside its body (bytes): its attributes, and its business key twice.
const EVENT_HEAD_BYTES: usize = 2 * 1024;

/// Bytes of a record's key at the most: the store's bound without our own prefix.
pub const RECORD_KEY_BYTES_MAX: usize = KEY_BYTES_MAX - 16;

/// The service's own records as they will be when this command is answered.
///
/// A read or write that is impossible makes the whole transaction void: whatever the handler then answers, nothing of it is kept
/// and the saga is told of a failure.
pub struct Tx<'a> {
    under: &'a Batch<'a>,
    /// What keeps it, where the store has transactions.
    #[cfg_attr(not(feature = "postgres"), allow(dead_code, reason = "only `sql` asks for it"))]
    transaction: Option<&'a dyn Transaction>,
    codec: &'a dyn Codec,
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    bytes: usize,
    events: Vec<Message>,
    void: Option<Void>,
}

/// Why a transaction can't be kept.
#[derive(Debug)]
pub(super) enum Void {
    /// The store failed.
    Store(StoreError),
    /// The handler asked for something that can't be.
    Impossible(String),
}

/// What is to be kept of a transaction.
pub(super) struct Kept {
    pub changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Events without their attributes.
    pub events: Vec<Message>,
}

impl<'a> Tx<'a> {
    pub(super) fn on(
        under: &'a Batch<'a>,
        transaction: Option<&'a dyn Transaction>,
        codec: &'a dyn Codec,
    ) -> Self {
        let (changes, events) = (BTreeMap::new(), Vec::new());
        Self { under, transaction, codec, changes, bytes: 0, events, void: None }
    }

    /// The service's own tables, in the transaction that keeps the answer: for a participant that was started with a
    /// [`PostgresStore`](crate::store::postgres::PostgresStore).
    #[cfg(feature = "postgres")]
    pub fn sql(&mut self) -> Sql<'_> {
        match self.transaction.and_then(|transaction| transaction.postgres()) {
            Some(turn) => turn.sql(),
            None => Sql::nowhere(),
        }
    }

    /// Whether [`sql`](Tx::sql) leads somewhere: whether this participant keeps its answers in PostgreSQL.
    #[cfg(feature = "postgres")]
    pub fn has_sql(&self) -> bool {
        self.transaction.is_some_and(|transaction| transaction.postgres().is_some())
    }

    /// A record of this service.
    pub fn get(&mut self, key: impl AsRef<[u8]>) -> Option<Vec<u8>> {
        let key = own_key(key.as_ref());
        if let Some(changed) = self.changes.get(&key) {
            return changed.clone();
        }
        match self.under.get(&key) {
            Ok(value) => value,
            Err(error) => {
                self.make_void(Void::Store(error));
                None
            }
        }
    }

    /// Writes a record of this service. Keys up to [`RECORD_KEY_BYTES_MAX`], all of a handler's changes up to [`CHANGES_BYTES_MAX`].
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl Into<Vec<u8>>) {
        self.change(key.as_ref(), Some(value.into()));
    }

    /// Removes a record of this service, if there is one.
    pub fn remove(&mut self, key: impl AsRef<[u8]>) {
        self.change(key.as_ref(), None);
    }

    /// A record that was written by [`put_as`](Tx::put_as).
    pub fn get_as<T: DeserializeOwned>(&mut self, key: impl AsRef<[u8]>) -> Option<T> {
        let bytes = self.get(&key)?;
        match serde_json::from_slice(&bytes) {
            Ok(value) => Some(value),
            Err(error) => {
                self.make_void(Void::Impossible(format!(
                    "the record \"{}\" is not such a value: {error}",
                    key.as_ref().escape_ascii()
                )));
                None
            }
        }
    }

    /// Writes a value as a record of this service, as JSON.
    pub fn put_as<T: Serialize>(&mut self, key: impl AsRef<[u8]>, value: &T) {
        match serde_json::to_vec(value) {
            Ok(bytes) => self.change(key.as_ref(), Some(bytes)),
            Err(error) => self.make_void(Void::Impossible(format!(
                "the value for \"{}\" can't be written: {error}",
                key.as_ref().escape_ascii()
            ))),
        }
    }

    /// Publishes an event about a business key, once this transaction is durable. At most [`EVENTS_MAX`].
    pub fn publish<E: Event>(&mut self, key: impl Into<Key>, event: &E) {
        if self.events.len() >= EVENTS_MAX {
            return self.make_void(Void::Impossible(format!(
                "more than {EVENTS_MAX} events are published"
            )));
        }
        match Body::write(event, E::ON.format, self.codec) {
            Ok(body) => {
                self.bytes += EVENT_HEAD_BYTES + body.bytes.len();
                self.events.push(super::reply::event(E::ON.name, E::NAME, key.into(), body));
                self.check_bytes();
            }
            Err(error) => {
                self.make_void(Void::Impossible(format!("an event can't be written: {error}")))
            }
        }
    }

    fn change(&mut self, key: &[u8], value: Option<Vec<u8>>) {
        if key.len() > RECORD_KEY_BYTES_MAX {
            return self.make_void(Void::Impossible(format!(
                "a record's key has {} bytes, the bound is {RECORD_KEY_BYTES_MAX}",
                key.len()
            )));
        }
        let key = own_key(key);
        self.bytes += key.len() + value.as_ref().map_or(0, Vec::len);
        self.changes.insert(key, value);
        self.check_bytes();
    }

    fn check_bytes(&mut self) {
        if self.bytes > CHANGES_BYTES_MAX {
            self.make_void(Void::Impossible(format!(
                "more than {CHANGES_BYTES_MAX} bytes are changed"
            )));
        }
    }

    /// The first reason counts.
    fn make_void(&mut self, why: Void) {
        self.void.get_or_insert(why);
    }

    /// Nothing of it is to be kept.
    pub(super) fn forget(&mut self) {
        self.changes.clear();
        self.events.clear();
    }

    /// Whether some of it is impossible.
    pub(super) fn is_void(&self) -> bool {
        self.void.is_some()
    }

    pub(super) fn finish(self) -> Result<Kept, Void> {
        match self.void {
            Some(void) => Err(void),
            None => Ok(Kept { changes: self.changes, events: self.events }),
        }
    }
}

// What a handler changes always fits one value of the store, and its key the store's bound.
const _: () = assert!(CHANGES_BYTES_MAX <= VALUE_BYTES_MAX);
