//! A participant's store in PostgreSQL: what it remembers is kept in one transaction with what the service writes into its own tables.
//!
//! ```text
//! open ─► layout: schema, version ─► place: session lock, epoch + 1 ─► transaction ─► turn: kit's records, the service's statements ─► commit
//!                                         ▲  connection lost, frozen, server killed                                                │
//!                                         └───────────── connect anew, the same epoch or fenced ◄──────────────────────────────────┘
//! ```
//!
//! One connection belongs to the worker, and holds the participant's *place*: a lock of its session, and an epoch that every
//! transaction checks. Whoever looks from outside ([`Store::get`] and [`Store::scan`] without a transaction) uses another one, and
//! sees what is committed.
//!
//! ```no_run
//! use dirigent::{participant::{Answer, Participant, Sql, SqlError}, store::postgres::{PostgresAddress, PostgresStore}};
//! # use dirigent_model::message::{Channel, Command, Message};
//! # use serde::{Deserialize, Serialize};
//! # #[derive(Serialize, Deserialize)] struct ReserveStock { order: i64, sku: String }
//! # #[derive(Serialize, Deserialize)] struct StockReserved { reservation: i64 }
//! # #[derive(Serialize, Deserialize)] struct StockRejected { sku: String }
//! # impl Message for ReserveStock { const NAME: &'static str = "ReserveStock"; }
//! # impl Message for StockReserved { const NAME: &'static str = "StockReserved"; }
//! # impl Message for StockRejected { const NAME: &'static str = "StockRejected"; }
//! # impl Command for ReserveStock {
//! #     const TO: Channel = Channel::json("stock");
//! #     type Success = StockReserved;
//! #     type Rejection = StockRejected;
//! # }
//!
//! fn reserve(sql: &mut Sql<'_>, command: ReserveStock) -> Result<Answer<ReserveStock>, SqlError> {
//!     let taken = "UPDATE stock SET free = free - 1 WHERE sku = $1 AND free > 0";
//!     if sql.execute(taken, &[&command.sku])? == 0 {
//!         return Ok(Answer::Rejected(StockRejected { sku: command.sku }));
//!     }
//!     let reserved = "INSERT INTO reservation (order_number, sku) VALUES ($1, $2) RETURNING id";
//!     let row = sql.query_one(reserved, &[&command.order, &command.sku])?;
//!     Ok(Answer::Done(StockReserved { reservation: row.get("id") }))
//! }
//!
//! # async fn start(connector: std::sync::Arc<dyn dirigent_connectors::Connector>) -> Result<(), Box<dyn std::error::Error>> {
//! let address = PostgresAddress::parse("postgres://inventory@db.example/shop")?.password_file("/run/secrets/shop")?;
//! let store = std::sync::Arc::new(PostgresStore::open(address, "inventory")?);
//! let inventory = Participant::new("inventory")
//!     .on::<ReserveStock>(|tx, command, _| Answer::or_failed(reserve(&mut tx.sql(), command)))
//!     .start(connector, store)
//!     .await?;
//! # inventory.stop().await?;
//! # Ok(()) }
//! ```
//!
//! Calls block. The connections are driven by a thread of their own, so that they may be made from anywhere, async code included.

mod address;
mod layout;
mod link;
mod session;
mod sql;
mod tls;
mod trouble;
mod turn;

pub use address::{AddressError, PostgresAddress};
pub use layout::SCHEMA;
pub use sql::{Sql, SqlError};
pub use tls::PostgresTls;
pub use tokio_postgres::{
    Client, Row,
    types::{FromSql, ToSql, Type},
};
pub use turn::Turn;

use super::{Change, Glanced, KeyRange, Page, Space, Store, StoreError, Transaction};
use futures_executor::block_on;
use link::Link;
use session::Session;
use std::{fmt, sync::Arc};
use tokio::sync::Mutex;

/// How long a name of a participant may be (bytes): it is part of every key.
const NAME_BYTES_MAX: usize = 200;

/// The store of one participant in PostgreSQL.
///
/// ```no_run
/// use dirigent::store::postgres::{PostgresAddress, PostgresStore};
///
/// # fn open() -> Result<(), Box<dyn std::error::Error>> {
/// let address = PostgresAddress::parse("postgres://inventory@db.example/shop")?
///     .password(std::env::var("INVENTORY_PASSWORD")?);
/// let store = PostgresStore::open(address, "inventory")?;
/// # Ok(()) }
/// ```
pub struct PostgresStore {
    link: Arc<Link>,
    session: Arc<Mutex<Session>>,
    /// For whoever looks from outside.
    looker: Mutex<Option<Client>>,
}

impl PostgresStore {
    /// Connects, makes the tables where they are missing, and takes the participant's place. Blocks.
    ///
    /// A place that a process has just left is waited for; so is a server that is just starting.
    ///
    /// # Errors
    /// The server does not let us in, or is not reached; a later release made the tables; somebody else has the place.
    pub fn open(
        address: PostgresAddress,
        participant: impl Into<String>,
    ) -> Result<Self, StoreError> {
        let participant = participant.into();
        if participant.is_empty() || participant.len() > NAME_BYTES_MAX {
            let bytes = participant.len();
            return Err(StoreError::Unusable {
                doing: "naming the participant".into(),
                place: address.to_string(),
                advice: format!("give it a name of 1 to {NAME_BYTES_MAX} bytes"),
                source: format!("its name has {bytes} bytes").into(),
            });
        }
        let link = Arc::new(Link::new(address, participant)?);
        let session = Session::open(&link)?;
        Ok(Self { link, session: Arc::new(Mutex::new(session)), looker: Mutex::new(None) })
    }

    /// The statements that make the tables in `schema`, for an administrator where the service may not make them itself.
    pub fn layout(schema: &str) -> String {
        layout::make(schema)
    }

    /// Looks by the connection of those outside, which is made when it is first needed.
    fn look<T>(
        &self,
        look: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, StoreError> {
        let doing = "reading the participant's records";
        let mut looker = block_on(self.looker.lock());
        let client = match looker.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => self.link.connect_again()?,
        };
        let looked = self.link.ask(&client, doing, look(&client))?;
        *looker = Some(client);
        Ok(looked)
    }
}

impl Store for PostgresStore {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.look(async |client| self.link.layout.get(client, space, key).await)
    }

    fn write(&self, changes: &[Change]) -> Result<(), StoreError> {
        super::check_bounds(changes)?;
        let turn = Turn::begin(&self.link, &self.session)?;
        turn.write(changes)?;
        Box::new(turn).commit()
    }

    fn scan(&self, space: Space, range: KeyRange<'_>, limit: usize) -> Result<Page, StoreError> {
        if super::is_empty_range(&range) {
            return Ok(Page::default());
        }
        self.look(async |client| self.link.layout.scan(client, space, range, limit).await)
    }

    /// A commit that was confirmed is durable already.
    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn glance(&self, space: Space, keys: &[Vec<u8>]) -> Result<Vec<Glanced>, StoreError> {
        self.look(async |client| self.link.layout.glance(client, space, keys).await)
    }

    fn transaction(&self) -> Result<Option<Box<dyn Transaction>>, StoreError> {
        Ok(Some(Box::new(Turn::begin(&self.link, &self.session)?)))
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("place", &self.link.place)
            .field("participant", &self.link.participant)
            .finish_non_exhaustive()
    }
}
