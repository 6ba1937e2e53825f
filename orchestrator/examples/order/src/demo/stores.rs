//! The stores of services: each in a folder of its own, or in memory; some of them in PostgreSQL.

use super::tables::{NoTables, Tables};
use crate::order::samples::Service;
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
    /// The database.
    #[error(transparent)]
    Tables(#[from] NoTables),
}

/// Where services keep what.
pub(super) struct Stores<'a> {
    /// In memory without one.
    pub folder: Option<&'a Path>,
    pub tables: Option<Tables>,
}

impl Stores<'_> {
    /// Whether this service's ledger is a table.
    pub(super) fn is_in_tables(&self, service: &str) -> bool {
        let are = [Service::Inventory, Service::Payment];
        self.tables.is_some() && are.iter().any(|one| one.name() == service)
    }

    /// The store of a service.
    ///
    /// # Errors
    /// Its folder, or the database, can't be used.
    pub(super) fn open(&self, service: &str) -> Result<Arc<dyn Store>, NoStore> {
        if let Some(tables) = self.tables.as_ref().filter(|_| self.is_in_tables(service)) {
            return Ok(tables.open(service)?);
        }
        let Some(folder) = self.folder else { return Ok(Arc::new(MemoryStore::new())) };
        let folder = DataFolder::open(folder.join(service))?;
        Ok(Arc::new(SledStore::open(&folder, StoreOptions { cache_bytes: CACHE_BYTES })?))
    }
}
