//! Whose data folder it is: the application's name, kept with the first start that came about.
//!
//! The name is the consumer group and is in the names of the channels for replies and dead letters. Started under another one, answers to
//! what is in flight would come where nobody reads, and the fence of the group would not be taken: that is refused. A folder that does
//! not know its name yet is taken over by whoever starts first. Compared before anything is written; kept only once definitions, connectors
//! and brokers are there, as a start that comes to nothing may have been a mistake, its name included.

use super::{EngineError, recovery::check_format, shard::Fatal};
use crate::store::{ALL_KEYS, Change, Space, Store};

/// Under which key of the store's single records the name lies.
pub(super) const KEY: &[u8] = b"application";

/// The stored form this release writes: this byte, then the name.
pub(super) const FORMAT: u8 = 1;

/// The record as it lies in the store.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// It says this name.
    Named(String),
    /// A later release wrote it, in this format.
    Later(u8),
    /// Damaged.
    Unreadable,
}

/// Refuses a folder that is another application's, a participant's, or of a later release. Writes nothing.
pub(crate) fn belongs_to(store: &dyn Store, app: &str) -> Result<(), EngineError> {
    check_format(store).map_err(EngineError::Recovery)?;
    known(store, app).map(|_| ())
}

/// Keeps the name for the starts that follow, where none is known yet; durable before anything else is done.
pub(super) fn keep(store: &dyn Store, app: &str) -> Result<(), EngineError> {
    match known(store, app)? {
        true => Ok(()),
        false => note(store, app).map_err(EngineError::Recovery),
    }
}

/// Whether the folder knows this name.
fn known(store: &dyn Store, app: &str) -> Result<bool, EngineError> {
    let failed = |error: Fatal| EngineError::Recovery(error);
    let record = store.get(Space::Meta, KEY).map_err(|error| failed(error.into()))?;
    match record.as_deref().map(read) {
        Some(Owner::Named(owner)) if owner == app => Ok(true),
        Some(Owner::Named(owner)) => Err(EngineError::AnotherApp { owner, app: app.into() }),
        Some(Owner::Later(format)) => Err(failed(
            format!("the name of the application that the data folder belongs to has format {format}, this release knows up to {FORMAT}: it was written by a later release; start with that one").into(),
        )),
        Some(Owner::Unreadable) => Err(failed(
            "reading the name of the application that the data folder belongs to; `fsck` tells what can be done, or restore the data folder from a backup".into(),
        )),
        None if is_participants(store).map_err(failed)? => Err(EngineError::Participants),
        None => Ok(false),
    }
}

/// One record.
fn note(store: &dyn Store, app: &str) -> Result<(), Fatal> {
    let value = [&[FORMAT], app.as_bytes()].concat();
    store.write(&[Change::put(Space::Meta, KEY, value)])?;
    Ok(store.sync()?)
}

/// Whether a participant keeps its answers there: it has no single records, and an engine keeps nothing in the ledger.
fn is_participants(store: &dyn Store) -> Result<bool, Fatal> {
    let is_empty = |space| -> Result<bool, Fatal> {
        let page = store.scan(space, ALL_KEYS, 1)?;
        Ok(page.records.is_empty() && page.damaged.is_empty())
    };
    Ok(is_empty(Space::Meta)? && !is_empty(Space::Ledger)?)
}

pub(super) fn read(value: &[u8]) -> Owner {
    let Some((format, name)) = value.split_first() else { return Owner::Unreadable };
    match (*format, String::from_utf8(name.to_vec())) {
        (FORMAT, Ok(name)) if !name.is_empty() => Owner::Named(name),
        (later, _) if later > FORMAT => Owner::Later(later),
        _ => Owner::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    fn told(store: &MemoryStore, app: &str) -> Result<(), String> {
        keep(store, app).map_err(|error| crate::describe(&error))
    }

    fn compared(store: &MemoryStore, app: &str) -> Result<(), String> {
        belongs_to(store, app).map_err(|error| crate::describe(&error))
    }

    #[test]
    fn a_folder_belongs_to_the_application_that_started_first_and_another_one_is_refused() {
        let store = MemoryStore::default();
        told(&store, "order").unwrap();
        told(&store, "order").unwrap();
        let error = told(&store, "other").unwrap_err();
        assert!(error.contains("belongs to application `order`, not to `other`"), "{error}");
        assert!(error.contains("say --app order"), "{error}");
        assert!(error.contains("if `order` was a mistake"), "{error}");
        told(&store, "order").unwrap();
        let value = store.get(Space::Meta, KEY).unwrap().unwrap();
        let kept = crate::kept_forms::kept("application", &value);
        assert_eq!(read(&kept), Owner::Named("order".into()));
    }

    #[test]
    fn a_folder_that_does_not_know_its_name_yet_is_adopted() {
        let store = MemoryStore::default();
        store.write(&[Change::put(Space::Meta, b"checkpoint", [1])]).unwrap();
        compared(&store, "shpo").unwrap();
        assert_eq!(store.get(Space::Meta, KEY).unwrap(), None, "comparing keeps nothing");
        told(&store, "order").unwrap();
        assert!(told(&store, "other").is_err() && compared(&store, "other").is_err());
    }

    #[test]
    fn the_store_of_a_participant_is_refused_and_left_as_it_is() {
        let store = MemoryStore::default();
        store.write(&[Change::put(Space::Ledger, b"r/1", [1])]).unwrap();
        for asked in [told, compared] {
            let error = asked(&store, "order").unwrap_err();
            assert!(error.contains("a participant keeps its answers"), "{error}");
        }
        assert_eq!(store.get(Space::Meta, KEY).unwrap(), None);
    }

    #[test]
    fn a_name_that_can_not_be_read_is_no_leave_to_take_the_folder() {
        for value in [vec![], vec![FORMAT], vec![0, b'x'], vec![FORMAT, 0xff]] {
            let store = MemoryStore::default();
            store.write(&[Change::put(Space::Meta, KEY, value)]).unwrap();
            let error = told(&store, "order").unwrap_err();
            assert!(error.contains("the name of the application"), "{error}");
        }
    }

    #[test]
    fn a_name_that_a_later_release_has_written_is_refused_with_the_release_to_use() {
        let store = MemoryStore::default();
        store.write(&[Change::put(Space::Meta, KEY, [FORMAT + 1, b'x'])]).unwrap();
        for asked in [told, compared] {
            let error = asked(&store, "order").unwrap_err();
            assert!(error.contains("written by a later release; start with that one"), "{error}");
        }
        assert_eq!(store.get(Space::Meta, KEY).unwrap().unwrap(), [FORMAT + 1, b'x']);
    }
}
