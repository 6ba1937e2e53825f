//! Ledgers in PostgreSQL: where they are, the stores of the services that write them, and their entries.
//!
//! Every demo has a schema of its own there, so that orders of the same number don't meet.

use super::args::PostgresArgs;
use crate::ledger::Entry;
use dirigent::store::{Store, StoreError};
use std::sync::Arc;

/// What the schema of services is named after that are no demo's.
pub(super) const SHARED: &str = "services";

/// Why there are no ledgers in PostgreSQL.
#[derive(Debug, thiserror::Error)]
pub enum NoTables {
    /// It is not compiled in.
    #[error("--postgres wants a build that knows it: cargo run -p order --features postgres -- …")]
    NotCompiledIn,
    /// The address.
    #[cfg(feature = "postgres")]
    #[error("--postgres")]
    Address(#[from] dirigent::store::postgres::AddressError),
    /// The store of a service, or the way to it.
    #[error("reaching what services keep in PostgreSQL")]
    Store(#[from] StoreError),
    /// The tables of the ledgers.
    #[cfg(feature = "postgres")]
    #[error("{doing} the ledgers in PostgreSQL")]
    Ledger {
        /// What was being done.
        doing: &'static str,
        /// What the server says.
        #[source]
        source: tokio_postgres::Error,
    },
}

/// Where they are.
#[cfg(feature = "postgres")]
pub(super) struct Tables {
    address: dirigent::store::postgres::PostgresAddress,
    schema: String,
}

#[cfg(feature = "postgres")]
impl Tables {
    /// At the address that was said, if one was; makes what is missing.
    pub(super) fn at(args: &PostgresArgs, of: &str) -> Result<Option<Self>, NoTables> {
        let Some(address) = &args.postgres else { return Ok(None) };
        let mut address = dirigent::store::postgres::PostgresAddress::parse(address)?;
        if let Some(file) = &args.postgres_password_file {
            address = address.password_file(file)?;
        }
        let letters = of.chars().filter(char::is_ascii_alphanumeric).collect::<String>();
        let schema = format!("order_{}", letters.to_lowercase());
        let tables = Self { address, schema };
        let make = crate::ledger::postgres::make(&tables.schema);
        tables.ask("making", async move |client| client.batch_execute(&make).await)?;
        Ok(Some(tables))
    }

    /// The store of a service.
    pub(super) fn open(&self, service: &str) -> Result<Arc<dyn Store>, NoTables> {
        let store = dirigent::store::PostgresStore::open(self.of_kit()?, service)?;
        Ok(Arc::new(store))
    }

    /// All entries.
    pub(super) fn entries(&self) -> Result<Vec<Entry>, NoTables> {
        let schema = self.schema.clone();
        self.ask("reading", async move |client| {
            crate::ledger::postgres::read(client, &schema).await
        })
    }

    fn of_kit(&self) -> Result<dirigent::store::postgres::PostgresAddress, NoTables> {
        let address = self.address.clone();
        Ok(address.schema(format!("{}_kit", self.schema))?.search_path(self.schema.as_str())?)
    }

    /// Asks on a thread of its own: whoever wants to know may be within a runtime or not.
    fn ask<T: Send>(
        &self,
        doing: &'static str,
        question: impl AsyncFnOnce(&tokio_postgres::Client) -> Result<T, tokio_postgres::Error> + Send,
    ) -> Result<T, NoTables> {
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime can be made").block_on(async {
                    let client = self.address.connect().await?;
                    question(&client).await.map_err(|source| NoTables::Ledger { doing, source })
                })
            });
            asked.join().expect("asking does not panic")
        })
    }
}

/// Not compiled in: there are none.
#[cfg(not(feature = "postgres"))]
pub(super) enum Tables {}

#[cfg(not(feature = "postgres"))]
impl Tables {
    pub(super) fn at(args: &PostgresArgs, _: &str) -> Result<Option<Self>, NoTables> {
        if args.postgres.is_some() { Err(NoTables::NotCompiledIn) } else { Ok(None) }
    }

    pub(super) fn open(&self, _: &str) -> Result<Arc<dyn Store>, NoTables> {
        match *self {}
    }

    pub(super) fn entries(&self) -> Result<Vec<Entry>, NoTables> {
        match *self {}
    }
}
