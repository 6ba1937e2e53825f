//! The stores that the suite around runs on: in memory, or as `DIRIGENT_TEST_PARTICIPANT_STORE` says `sled`, or the `postgres://…`
//! of a server.

use crate::store::{
    Change, DataFolder, Glanced, KeyRange, MemoryStore, Page, SledStore, Space, Store, StoreError,
    StoreOptions,
};
use std::sync::Arc;
use tempfile::TempDir;

/// An empty store.
pub(super) fn store() -> Arc<dyn Store> {
    match std::env::var("DIRIGENT_TEST_PARTICIPANT_STORE").as_deref() {
        Err(_) => Arc::new(MemoryStore::new()),
        Ok("sled") => on_disk(),
        Ok(address) => in_postgres(address),
    }
}

/// A store, and the folder that goes with it once nobody looks into it.
struct OnDisk {
    store: SledStore,
    // Dropped behind the store: fields go in this order.
    _folder: DataFolder,
    _place: TempDir,
}

fn on_disk() -> Arc<dyn Store> {
    let place = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(place.path()).unwrap();
    let store = SledStore::open(&folder, StoreOptions::default()).unwrap();
    Arc::new(OnDisk { store, _folder: folder, _place: place })
}

impl Store for OnDisk {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(space, key)
    }

    fn write(&self, changes: &[Change]) -> Result<(), StoreError> {
        self.store.write(changes)
    }

    fn scan(&self, space: Space, range: KeyRange<'_>, limit: usize) -> Result<Page, StoreError> {
        self.store.scan(space, range, limit)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.store.sync()
    }

    fn hand_over(&self) -> Result<(), StoreError> {
        self.store.hand_over()
    }

    fn glance(&self, space: Space, keys: &[Vec<u8>]) -> Result<Vec<Glanced>, StoreError> {
        self.store.glance(space, keys)
    }
}

#[cfg(feature = "postgres")]
fn in_postgres(address: &str) -> Arc<dyn Store> {
    use crate::store::postgres::{PostgresAddress, PostgresStore};
    use std::sync::atomic::{AtomicU64, Ordering};

    // Names that no run before has used.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let started = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let address = PostgresAddress::parse(address).unwrap().schema("dirigent_suite").unwrap();
    Arc::new(PostgresStore::open(address, format!("{started}-{number}")).unwrap())
}

#[cfg(not(feature = "postgres"))]
fn in_postgres(_: &str) -> Arc<dyn Store> {
    panic!("built without the feature postgres")
}
