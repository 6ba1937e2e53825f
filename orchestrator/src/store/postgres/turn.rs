//! One transaction: the kit's records, and the service's own statements, kept as a whole or not at all.
//!
//! ```text
//! BEGIN, place ─► reads ─► handler: SAVEPOINT, its statements, constraints checked, RELEASE ─► … ─► the kit's changes ─► COMMIT
//!                              └─ refused: back to the savepoint, the next handler goes on
//! ```
//!
//! The row of the place is changed first: so a worker that was fenced calls no handler, and whoever reads after a lost connection
//! waits until the commit that was under way is decided.

use super::{
    link::Link,
    session::{Session, fenced, holder},
    sql::{Sql, SqlError, said},
    trouble::{self, Fate},
};
use crate::store::{
    Change, Glanced, KeyRange, Left, Page, Space, Store, StoreError, Transaction, check_bounds,
    is_empty_range,
};
use futures_executor::block_on;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Mutex as Turns, OwnedMutexGuard};
use tokio_postgres::{
    Client, Error, Row,
    types::{ToSql, Type},
};

/// Statements of handlers within [`Sql::attempt`] within each other at the most.
const ATTEMPTS_MAX: u32 = 16;

/// A transaction of PostgreSQL.
pub struct Turn {
    link: Arc<Link>,
    client: Arc<Client>,
    within: Mutex<Within>,
}

struct Within {
    session: OwnedMutexGuard<Session>,
    /// Savepoints of the handler at work: its own, and those of its attempts.
    depth: u32,
    /// Why the innermost of them was gone back to.
    refused: Option<String>,
    /// Why the whole transaction comes to nothing.
    lost: Option<StoreError>,
    is_open: bool,
}

impl Turn {
    pub(super) fn begin(
        link: &Arc<Link>,
        session: &Arc<Turns<Session>>,
    ) -> Result<Self, StoreError> {
        let mut session = block_on(Arc::clone(session).lock_owned());
        let client = session.client(link)?;
        let epoch = session.epoch;
        let within = Within { session, depth: 0, refused: None, lost: None, is_open: true };
        let turn = Self { link: Arc::clone(link), client, within: Mutex::new(within) };
        let place = format!(
            "UPDATE {}.place SET turns = turns + 1 WHERE participant = $1 AND epoch = $2",
            link.layout.schema
        );
        // Both at once: one way there and back.
        let ours: [(&(dyn ToSql + Sync), Type); 2] =
            [(&link.participant, Type::TEXT), (&epoch, Type::INT8)];
        let is_ours = turn.ours("beginning a transaction", async |client| {
            let (begun, taken) =
                futures::join!(client.batch_execute("BEGIN"), client.execute_typed(&place, &ours));
            begun?;
            taken
        })?;
        if is_ours == 0 {
            let owner = holder(link, &turn.client)?;
            let owner = owner.map_or_else(|| "nobody: its row is gone".into(), |(_, owner)| owner);
            return Err(fenced(link, owner));
        }
        Ok(turn)
    }

    /// The service's own statements.
    pub(crate) fn sql(&self) -> Sql<'_> {
        Sql::within(self)
    }

    /// One statement of a handler.
    pub(super) fn statement<T>(
        &self,
        text: &str,
        parameters: &[&(dyn ToSql + Sync)],
        carry_out: impl AsyncFnOnce(
            &Client,
            &tokio_postgres::Statement,
            &[&(dyn ToSql + Sync)],
        ) -> Result<T, Error>,
    ) -> Result<T, SqlError> {
        let mut within = self.within();
        self.save(&mut within)?;
        let client = &*self.client;
        let prepared = match within.session.prepared(text) {
            Some(prepared) => Ok(Ok(prepared)),
            None => self.link.answered(client.prepare(text)),
        };
        let answered = match prepared {
            Ok(Ok(prepared)) => {
                within.session.keep_prepared(text, prepared.clone());
                self.link.answered(carry_out(client, &prepared, parameters))
            }
            Ok(Err(error)) => Ok(Err(error)),
            Err(silent) => Err(silent),
        };
        match answered {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(self.refused(&mut within, error)),
            Err(silent) => {
                let (doing, place) = ("carrying out a statement".into(), self.link.place.clone());
                let source = Box::new(silent);
                within.give_up(StoreError::Unreached { doing, place, source });
                Err(SqlError::ComesAgain)
            }
        }
    }

    /// Rows of a statement.
    pub(super) fn rows(
        &self,
        text: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, SqlError> {
        self.statement(text, parameters, async |client, statement, parameters| {
            client.query(statement, parameters).await
        })
    }

    /// A savepoint within the handler's own begins.
    pub(super) fn attempt(&self) -> Result<u32, SqlError> {
        let mut within = self.within();
        self.save(&mut within)?;
        if within.depth > ATTEMPTS_MAX {
            return Err(SqlError::TooDeep(ATTEMPTS_MAX));
        }
        let depth = within.depth + 1;
        self.control(&mut within, &format!("SAVEPOINT {}", savepoint(depth)))?;
        within.depth = depth;
        Ok(depth)
    }

    /// It has ended; says why nothing of it is kept, though it was to be.
    pub(super) fn attempted(&self, depth: u32, keeps: bool) -> Result<Option<String>, SqlError> {
        let mut within = self.within();
        let refused = within.refused.take();
        let (name, keeps_it) = (savepoint(depth), keeps && refused.is_none());
        let back = if keeps_it { String::new() } else { format!("ROLLBACK TO SAVEPOINT {name}; ") };
        self.control(&mut within, &format!("{back}RELEASE SAVEPOINT {name}"))?;
        within.depth = depth - 1;
        Ok(refused.filter(|_| keeps))
    }

    /// Nothing more is carried out where a statement was refused; the first one of a handler gets its savepoint.
    fn save(&self, within: &mut Within) -> Result<(), SqlError> {
        if within.lost.is_some() {
            return Err(SqlError::ComesAgain);
        }
        if let Some(why) = &within.refused {
            return Err(SqlError::Refused(why.clone()));
        }
        if within.depth == 0 {
            self.control(within, &format!("SAVEPOINT {}", savepoint(1)))?;
            within.depth = 1;
        }
        Ok(())
    }

    /// A statement was refused: everything since the innermost savepoint is undone, so that the kit can go on.
    fn refused(&self, within: &mut Within, error: Error) -> SqlError {
        let doing = "carrying out a statement of the service";
        match Fate::of(&error) {
            Fate::Refused | Fate::Forbidden => {
                let told = SqlError::of(&error);
                let back = format!("ROLLBACK TO SAVEPOINT {}", savepoint(within.depth));
                match self.control(within, &back) {
                    Ok(()) => {
                        within.refused = Some(told.to_string());
                        told
                    }
                    Err(lost) => lost,
                }
            }
            fate @ (Fate::Away | Fate::GivenUp | Fate::Stale) => {
                if fate == Fate::Stale {
                    within.session.forget_prepared();
                }
                within.give_up(trouble::of_ours(&self.link, doing, error));
                SqlError::ComesAgain
            }
        }
    }

    /// Our own words within the transaction: where they fail, all of it is lost.
    fn control(&self, within: &mut Within, words: &str) -> Result<(), SqlError> {
        let done =
            self.link.ask(&self.client, "guarding a handler", self.client.batch_execute(words));
        done.map_err(|error| {
            within.give_up(error);
            SqlError::ComesAgain
        })
    }

    /// Our own reads and writes.
    fn ours<T>(
        &self,
        doing: &str,
        ask: impl AsyncFnOnce(&Client) -> Result<T, Error>,
    ) -> Result<T, StoreError> {
        let mut within = self.within();
        if let Some(lost) = within.lost.take() {
            return Err(lost);
        }
        let asked = self.link.ask(&self.client, doing, ask(&self.client));
        if let Err(StoreError::Unreached { .. }) = &asked {
            within.session.lost();
        }
        asked
    }

    fn within(&self) -> MutexGuard<'_, Within> {
        self.within.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Within {
    /// The first reason counts.
    fn give_up(&mut self, why: StoreError) {
        if matches!(why, StoreError::Unreached { .. }) {
            self.session.lost();
        }
        self.lost.get_or_insert(why);
    }
}

fn savepoint(depth: u32) -> String {
    format!("dirigent_{depth}")
}

impl Store for Turn {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.ours("reading the participant's records", async |client| {
            self.link.layout.get(client, space, key).await
        })
    }

    /// Within this transaction.
    fn write(&self, changes: &[Change]) -> Result<(), StoreError> {
        check_bounds(changes)?;
        self.ours("writing the participant's records", async |client| {
            self.link.layout.write(client, changes).await
        })
    }

    fn scan(&self, space: Space, range: KeyRange<'_>, limit: usize) -> Result<Page, StoreError> {
        if is_empty_range(&range) {
            return Ok(Page::default());
        }
        self.ours("reading the participant's records", async |client| {
            self.link.layout.scan(client, space, range, limit).await
        })
    }

    /// Nothing is durable before [`commit`](Transaction::commit).
    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn glance(&self, space: Space, keys: &[Vec<u8>]) -> Result<Vec<Glanced>, StoreError> {
        self.ours("reading the participant's records", async |client| {
            self.link.layout.glance(client, space, keys).await
        })
    }
}

impl Transaction for Turn {
    fn enter(&self) {
        let mut within = self.within();
        within.depth = 0;
        within.refused = None;
    }

    /// Constraints that were deferred are asked now, so that one fails its handler and not the commit of all. They are asked in a
    /// savepoint that is undone: the next handler finds them deferred as they were declared, and the commit asks again.
    fn leave(&self, keeps: bool) -> Result<Left, StoreError> {
        let mut within = self.within();
        if let Some(lost) = within.lost.take() {
            return Err(lost);
        }
        let refused = within.refused.take();
        if std::mem::take(&mut within.depth) == 0 {
            return Ok(if keeps { Left::Kept } else { Left::Undone });
        }
        let own = savepoint(1);
        let undo = format!("ROLLBACK TO SAVEPOINT {own}; RELEASE SAVEPOINT {own}");
        let left = match refused {
            Some(why) if keeps => Left::Refused(why),
            Some(_) | None if !keeps => Left::Undone,
            Some(_) | None => {
                let check = "SAVEPOINT dirigent_check; SET CONSTRAINTS ALL IMMEDIATE;
                     ROLLBACK TO SAVEPOINT dirigent_check; RELEASE SAVEPOINT dirigent_check";
                let keep = format!("{check}; RELEASE SAVEPOINT {own}");
                let doing = "checking what a handler has left";
                match self.link.answered(self.client.batch_execute(&keep)) {
                    Ok(Ok(())) => return Ok(Left::Kept),
                    Ok(Err(error)) if Fate::of(&error) == Fate::Refused => {
                        Left::Refused(said(&error))
                    }
                    Ok(Err(error)) => {
                        let lost = trouble::of_ours(&self.link, doing, error);
                        within.give_up(lost);
                        return Err(within.lost.take().expect("it was just given up"));
                    }
                    Err(silent) => {
                        within.session.lost();
                        let (doing, place) = (doing.into(), self.link.place.clone());
                        let source = Box::new(silent);
                        return Err(StoreError::Unreached { doing, place, source });
                    }
                }
            }
        };
        match self.control(&mut within, &undo) {
            Ok(()) => Ok(left),
            Err(_) => Err(within.lost.take().expect("our own words failed")),
        }
    }

    fn commit(self: Box<Self>) -> Result<(), StoreError> {
        self.ours("committing a transaction", async |client| client.batch_execute("COMMIT").await)?;
        self.within().is_open = false;
        Ok(())
    }

    fn postgres(&self) -> Option<&Turn> {
        Some(self)
    }
}

/// Where it was not committed, nothing of it remains.
impl Drop for Turn {
    fn drop(&mut self) {
        let mut within = self.within();
        if within.is_open && !self.client.is_closed() {
            let undone =
                self.link.ask(&self.client, "undoing", self.client.batch_execute("ROLLBACK"));
            if undone.is_err() {
                within.session.lost();
            }
        }
    }
}
