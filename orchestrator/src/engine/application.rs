//! Whose data folder it is: the application's name, kept with the first start.
//!
//! The name is the consumer group and is in the names of the channels for replies and dead letters. Started under another one, answers to
//! what is in flight would come where nobody reads, and the fence of the group would not be taken: that is refused. A folder that does
//! not know its name yet is taken over by whoever starts first.

use super::{EngineError, shard::Fatal};
use crate::store::{ALL_KEYS, Change, Space, Store};

/// Under which key of the store's single records the name lies.
pub(super) const KEY: &[u8] = b"application";

/// The stored form this release writes: this byte, then the name.
const FORMAT: u8 = 1;

/// Compares the name with that of the first start, or keeps it for those that follow.
pub(super) fn keep(store: &dyn Store, app: &str) -> Result<(), EngineError> {
    let failed = |error: Fatal| EngineError::Recovery(error);
    let known = store.get(Space::Meta, KEY).map_err(|error| failed(error.into()))?;
    match known.as_deref().map(read) {
        Some(Some(owner)) if owner == app => Ok(()),
        Some(Some(owner)) => Err(EngineError::AnotherApp { owner, app: app.into() }),
        Some(None) => Err(failed(
            "reading the name of the application that the data folder belongs to; `fsck` tells what can be done, or restore the data folder from a backup".into(),
        )),
        None if is_participants(store).map_err(failed)? => Err(EngineError::Participants),
        None => note(store, app).map_err(failed),
    }
}

/// One record, and durable before anything else is done: there is no start in part.
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

pub(super) fn read(value: &[u8]) -> Option<String> {
    let name = value.strip_prefix(&[FORMAT])?;
    String::from_utf8(name.to_vec()).ok().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    fn told(store: &MemoryStore, app: &str) -> Result<(), String> {
        keep(store, app).map_err(|error| crate::describe(&error))
    }

    #[test]
    fn a_folder_belongs_to_the_application_that_started_first_and_another_one_is_refused() {
        let store = MemoryStore::default();
        told(&store, "order").unwrap();
        told(&store, "order").unwrap();
        let error = told(&store, "other").unwrap_err();
        assert!(error.contains("belongs to application `order`, not to `other`"), "{error}");
        assert!(error.contains("say --app order"), "{error}");
        told(&store, "order").unwrap();
        let value = store.get(Space::Meta, KEY).unwrap().unwrap();
        let kept = crate::kept_forms::kept("application", &value);
        assert_eq!(read(&kept).as_deref(), Some("order"));
    }

    #[test]
    fn a_folder_that_does_not_know_its_name_yet_is_adopted() {
        let store = MemoryStore::default();
        store.write(&[Change::put(Space::Meta, b"checkpoint", [1])]).unwrap();
        told(&store, "order").unwrap();
        assert!(told(&store, "other").is_err());
    }

    #[test]
    fn the_store_of_a_participant_is_refused_and_left_as_it_is() {
        let store = MemoryStore::default();
        store.write(&[Change::put(Space::Ledger, b"r/1", [1])]).unwrap();
        let error = told(&store, "order").unwrap_err();
        assert!(error.contains("a participant keeps its answers"), "{error}");
        assert_eq!(store.get(Space::Meta, KEY).unwrap(), None);
    }

    #[test]
    fn a_name_that_can_not_be_read_is_no_leave_to_take_the_folder() {
        for value in [vec![], vec![FORMAT], vec![FORMAT + 1, b'x'], vec![FORMAT, 0xff]] {
            let store = MemoryStore::default();
            store.write(&[Change::put(Space::Meta, KEY, value)]).unwrap();
            let error = told(&store, "order").unwrap_err();
            assert!(error.contains("the name of the application"), "{error}");
        }
    }
}
