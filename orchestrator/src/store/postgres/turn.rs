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

/// What is being done where a handler's statement is.
const OF_SERVICE: &str = "carrying out a statement of the service";

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
    /// Why the whole transaction comes to nothing. Stays: whatever is asked from then on, this is the answer.
    lost: Option<StoreError>,
    is_open: bool,
}

impl Turn {
    /// What hinders that is waited for: no handler had a part in it.
    pub(super) fn begin(
        link: &Arc<Link>,
        session: &Arc<Turns<Session>>,
    ) -> Result<Self, StoreError> {
        Self::try_to_begin(link, session).map_err(trouble::waited_for)
    }

    fn try_to_begin(link: &Arc<Link>, session: &Arc<Turns<Session>>) -> Result<Self, StoreError> {
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
            // It may be at work for as long whenever it is tried again.
            Err(silent) => {
                self.fall_silent(&mut within);
                let (doing, place) = (OF_SERVICE.into(), self.link.place.clone());
                within.give_up(StoreError::GivenUp { doing, place, source: Box::new(silent) });
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
        if within.lost.is_some() {
            return Err(SqlError::ComesAgain);
        }
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
        let fate = match Fate::of_service(&error) {
            // Within an attempt, who asks for a lock without waiting wants to know.
            Fate::GivenUp if within.depth > 1 && trouble::was_not_waited_for(&error) => {
                Fate::Refused
            }
            fate => fate,
        };
        match fate {
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
            Fate::Away | Fate::GivenUp | Fate::Held | Fate::Stale => {
                if fate == Fate::Stale {
                    within.session.forget_prepared();
                }
                if trouble::ends_session(&error) {
                    within.session.lost();
                }
                within.give_up(trouble::of_service(&self.link, OF_SERVICE, &error, fate));
                SqlError::ComesAgain
            }
        }
    }

    /// Our own words within the transaction: where they fail, all of it is lost.
    fn control(&self, within: &mut Within, words: &str) -> Result<(), SqlError> {
        let done = self.asked(within, "guarding a handler", self.client.batch_execute(words));
        done.map_err(|error| {
            within.give_up(error);
            SqlError::ComesAgain
        })
    }

    /// Asks by our own statement.
    fn asked<T>(
        &self,
        within: &mut Within,
        doing: &str,
        question: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, StoreError> {
        match self.link.answered(question) {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => {
                if Fate::of(&error) == Fate::Away {
                    within.session.lost();
                }
                Err(trouble::of_ours(&self.link, doing, &error))
            }
            Err(silent) => {
                self.fall_silent(within);
                Err(trouble::silent(&self.link, doing, silent))
            }
        }
    }

    /// The server did not answer in time: nothing more is asked by this connection.
    fn fall_silent(&self, within: &mut Within) {
        self.link.cancel(&self.client);
        within.session.lost();
    }

    /// Our own reads and writes.
    fn ours<T>(
        &self,
        doing: &str,
        ask: impl AsyncFnOnce(&Client) -> Result<T, Error>,
    ) -> Result<T, StoreError> {
        let mut within = self.within();
        within.stands()?;
        let asked = self.asked(&mut within, doing, ask(&self.client));
        asked.map_err(|error| within.give_up(error))
    }

    fn within(&self) -> MutexGuard<'_, Within> {
        self.within.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Within {
    /// Unless it came to nothing.
    fn stands(&self) -> Result<(), StoreError> {
        self.lost.as_ref().map_or(Ok(()), |lost| Err(trouble::copy(lost)))
    }

    /// Answers why it comes to nothing: the first reason counts.
    fn give_up(&mut self, why: StoreError) -> StoreError {
        trouble::copy(self.lost.get_or_insert(why))
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
        within.stands()?;
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
                    Ok(Err(error)) => match Fate::of_service(&error) {
                        Fate::Refused | Fate::Forbidden => Left::Refused(said(&error)),
                        fate => {
                            if trouble::ends_session(&error) {
                                within.session.lost();
                            }
                            let lost = trouble::of_service(&self.link, doing, &error, fate);
                            return Err(within.give_up(lost));
                        }
                    },
                    Err(silent) => {
                        self.fall_silent(&mut within);
                        let (doing, place) = (doing.into(), self.link.place.clone());
                        let source = Box::new(silent);
                        let lost = StoreError::GivenUp { doing, place, source };
                        return Err(within.give_up(lost));
                    }
                }
            }
        };
        match self.control(&mut within, &undo) {
            Ok(()) => Ok(left),
            Err(_) => within.stands().map(|()| left),
        }
    }

    /// What was deferred is asked here once more, so what it says is the handlers' doing; without an answer it is in doubt.
    fn commit(self: Box<Self>) -> Result<(), StoreError> {
        let doing = "committing a transaction";
        let mut within = self.within();
        within.stands()?;
        match self.link.answered(self.client.batch_execute("COMMIT")) {
            Ok(Ok(())) => {
                within.is_open = false;
                Ok(())
            }
            Ok(Err(error)) => {
                if trouble::ends_session(&error) {
                    within.session.lost();
                }
                let fate = Fate::of_commit(&error);
                Err(within.give_up(trouble::of_service(&self.link, doing, &error, fate)))
            }
            Err(silent) => {
                self.fall_silent(&mut within);
                Err(within.give_up(trouble::silent(&self.link, doing, silent)))
            }
        }
    }

    fn postgres(&self) -> Option<&Turn> {
        Some(self)
    }
}

/// Where it was not committed, nothing of it remains.
impl Drop for Turn {
    fn drop(&mut self) {
        let mut within = self.within();
        // A connection that is lost ends with this, and its transaction with it.
        if within.is_open && within.session.is_there() && !self.client.is_closed() {
            let undone = self.asked(&mut within, "undoing", self.client.batch_execute("ROLLBACK"));
            if undone.is_err() {
                within.session.lost();
            }
        }
    }
}
