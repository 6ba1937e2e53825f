//! The stores that the suite around runs on: in memory, or as `DIRIGENT_TEST_PARTICIPANT_STORE` says `sled`, or the `postgres://…`
//! of a server.

use crate::store::{MemoryStore, Store};
use std::sync::Arc;

/// An empty store.
pub(super) fn store() -> Arc<dyn Store> {
    match std::env::var("DIRIGENT_TEST_PARTICIPANT_STORE").as_deref() {
        Err(_) => Arc::new(MemoryStore::new()),
        Ok("sled") => on_disk(),
        Ok(address) => in_postgres(address),
    }
}

/// Its folder goes with it, once nobody looks into it.
fn on_disk() -> Arc<dyn Store> {
    use crate::store::{DataFolder, SledStore, StoreOptions};

    let place = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(place.path()).unwrap();
    Arc::new(SledStore::open(&folder, StoreOptions::default()).unwrap())
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
