//! The store in memory: for tests, and the simplest reading of what a store owes.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::{
    Change, KeyRange, Page, SCAN_BYTES_MAX, Space, Store, StoreError, check_bounds, is_empty_range,
};

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// Keeps everything in memory; a sync is nothing.
#[derive(Debug, Default)]
pub struct MemoryStore {
    /// Shared with copies until either writes to a space.
    records: RwLock<BTreeMap<Space, Arc<Records>>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another one that holds the same as of now.
    #[cfg(feature = "simulation")]
    pub(crate) fn copy(&self) -> Self {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner).clone();
        Self { records: RwLock::new(records) }
    }
}

impl Store for MemoryStore {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        Ok(records.get(&space).and_then(|space| space.get(key)).cloned())
    }

    fn write(&self, changes: &[Change]) -> Result<(), StoreError> {
        check_bounds(changes)?;
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        for Change { space, key, value } in changes {
            let space = Arc::make_mut(records.entry(*space).or_default());
            match value {
                Some(value) => space.insert(key.clone(), value.clone()),
                None => space.remove(key),
            };
        }
        Ok(())
    }

    fn scan(&self, space: Space, range: KeyRange<'_>, limit: usize) -> Result<Page, StoreError> {
        let mut page = Page::default();
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        let Some(space) = records.get(&space) else { return Ok(page) };
        if is_empty_range(&range) {
            return Ok(page);
        }
        let mut bytes = 0;
        for (key, value) in space.range::<[u8], _>(range) {
            if page.records.len() >= limit.max(1) || bytes >= SCAN_BYTES_MAX {
                page.next = Some(key.clone());
                break;
            }
            bytes += key.len() + value.len();
            page.records.push((key.clone(), value.clone()));
        }
        Ok(page)
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
