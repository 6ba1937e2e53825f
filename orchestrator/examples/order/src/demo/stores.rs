//! The stores of services: each in a folder of its own, or in memory.

use dirigent::store::{
    DataFolder, FolderError, MemoryStore, SledStore, Store, StoreError, StoreOptions,
};
use std::{path::Path, sync::Arc};

/// Memory for the pages of one service's store, in bytes: several of them share a process.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// Why a service has no store.
#[derive(Debug, thiserror::Error)]
pub enum NoStore {
    /// Its folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// What is in it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The store of a service: in its own folder within `folder`, or in memory.
///
/// # Errors
/// The folder can't be used.
pub(super) fn open(folder: Option<&Path>, service: &str) -> Result<Arc<dyn Store>, NoStore> {
    let Some(folder) = folder else { return Ok(Arc::new(MemoryStore::new())) };
    let folder = DataFolder::open(folder.join(service))?;
    Ok(Arc::new(SledStore::open(&folder, StoreOptions { cache_bytes: CACHE_BYTES })?))
}
