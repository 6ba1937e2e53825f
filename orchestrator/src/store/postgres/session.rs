//! The worker's session, and the participant's place in it.
//!
//! Who holds the place holds a lock of its session, which the server takes back with the connection. Each `open` raises the epoch;
//! a session made anew goes on in the epoch of its `open`, and is refused where there is a later one. So a process that was frozen,
//! and whose place was taken meanwhile, finds itself fenced before it reads or writes anything.

use super::{layout, link::Link};
use crate::store::StoreError;
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};
use tokio_postgres::{
    Client, Statement,
    types::{ToSql, Type},
};

/// How long a place may still be held by who had it before, until that counts as alive. Longer than the server keeps a session
/// that fell silent.
const TAKE_WITHIN: Duration = Duration::from_secs(20);

/// How long a server may take to be reached when the store is opened.
const OPEN_WITHIN: Duration = Duration::from_secs(20);

/// How often the place, or the server, is tried again meanwhile.
const TRY_EVERY: Duration = Duration::from_millis(200);

/// How often a session shows that it is alive. Several times while the server waits for that.
const ALIVE_EVERY: Duration = Duration::from_secs(3);

/// Statements of handlers kept prepared at the most; beyond that all are prepared anew.
const PREPARED_MAX: usize = 256;

/// The worker's connection, made anew when it is lost.
#[derive(Debug)]
pub(super) struct Session {
    client: Option<Arc<Client>>,
    prepared: HashMap<String, Statement>,
    pub(super) epoch: i64,
}

impl Session {
    /// Connects, makes the tables where they are missing, takes the place. A server that is just starting is waited for.
    pub(super) fn open(link: &Link) -> Result<Self, StoreError> {
        let begun = Instant::now();
        loop {
            match Self::try_to_open(link) {
                Err(error) if error.is_passing() && begun.elapsed() < OPEN_WITHIN => {
                    thread::sleep(TRY_EVERY);
                }
                Err(StoreError::Unreached { doing, place, source }) => {
                    let advice = "is it running, and is the address right?".into();
                    return Err(StoreError::Unusable { doing, place, advice, source });
                }
                opened => return opened,
            }
        }
    }

    fn try_to_open(link: &Link) -> Result<Self, StoreError> {
        let client = link.connect()?;
        prepare_tables(link, &client)?;
        let epoch = take_place(link, &client)?;
        let mut session = Self { client: None, prepared: HashMap::new(), epoch };
        session.keep_alive(link, client);
        Ok(session)
    }

    /// The connection, made anew where it is lost.
    pub(super) fn client(&mut self, link: &Link) -> Result<Arc<Client>, StoreError> {
        if let Some(client) = self.client.as_ref().filter(|client| !client.is_closed()) {
            return Ok(Arc::clone(client));
        }
        self.lost();
        let client = link.connect_again()?;
        take_place_again(link, &client, self.epoch)?;
        Ok(self.keep_alive(link, client))
    }

    /// Whether there is a connection to be asked.
    pub(super) fn is_there(&self) -> bool {
        self.client.is_some()
    }

    /// The connection is of no more use.
    pub(super) fn lost(&mut self) {
        self.client = None;
        self.prepared.clear();
    }

    pub(super) fn forget_prepared(&mut self) {
        self.prepared.clear();
    }

    pub(super) fn prepared(&self, statement: &str) -> Option<Statement> {
        self.prepared.get(statement).cloned()
    }

    pub(super) fn keep_prepared(&mut self, text: &str, statement: Statement) {
        if self.prepared.len() >= PREPARED_MAX {
            self.prepared.clear();
        }
        self.prepared.insert(text.to_owned(), statement);
    }

    /// Lets the server know that somebody is there: it ends sessions that fell silent, and with them their place.
    fn keep_alive(&mut self, link: &Link, client: Client) -> Arc<Client> {
        let client = Arc::new(client);
        link.beside(show_alive(Arc::downgrade(&client)));
        self.client = Some(Arc::clone(&client));
        client
    }
}

async fn show_alive(client: Weak<Client>) {
    loop {
        tokio::time::sleep(ALIVE_EVERY).await;
        let Some(client) = client.upgrade() else { return };
        if client.check_connection().await.is_err() {
            return;
        }
    }
}

/// Makes the tables, unless they are there.
fn prepare_tables(link: &Link, client: &Client) -> Result<(), StoreError> {
    let schema = &link.layout.schema;
    let table = format!("{schema}.format");
    let there = "SELECT to_regclass($1) IS NOT NULL";
    let named: [(&(dyn ToSql + Sync), Type); 1] = [(&table, Type::TEXT)];
    let found = client.query_typed_one(there, &named);
    let row = link.ask(client, "looking for the kit's tables", found)?;
    if !row.get::<_, bool>(0) {
        // Several participants may begin at once: one makes the tables, the others find them.
        let make = format!(
            "BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('dirigent/{schema}', 0));\n{}COMMIT",
            layout::make(schema)
        );
        link.ask(client, "making the kit's tables", client.batch_execute(&make))?;
    }
    let version = format!("SELECT max(version) FROM {schema}.format");
    let found = client.query_typed_one(&version, &[]);
    let row = link.ask(client, "reading the version of the kit's tables", found)?;
    match row.get::<_, Option<i32>>(0) {
        Some(layout::VERSION) => Ok(()),
        Some(newer) => Err(StoreError::Newer {
            folder: format!("schema {schema} at {}", link.place),
            version: u32::try_from(newer).unwrap_or(u32::MAX),
            known: layout::VERSION.unsigned_abs(),
        }),
        None => Err(StoreError::Unusable {
            doing: "reading the version of the kit's tables".into(),
            place: link.place.clone(),
            advice: format!(
                "restore schema {schema} from a backup, or drop it where nothing of it is needed"
            ),
            source: "the table `format` is empty".into(),
        }),
    }
}

/// Takes the place for the first time: from now on everybody before is fenced.
fn take_place(link: &Link, client: &Client) -> Result<i64, StoreError> {
    let begun = Instant::now();
    while !try_lock(link, client)? {
        if begun.elapsed() > TAKE_WITHIN {
            let owner = holder(link, client)?.map_or_else(|| "somebody".into(), |(_, owner)| owner);
            let (participant, place) = (link.participant.clone(), link.place.clone());
            return Err(StoreError::InUse { participant, place, owner });
        }
        thread::sleep(TRY_EVERY);
    }
    let take = format!(
        "INSERT INTO {schema}.place AS p (participant, epoch, turns, owner, since) VALUES ($1, 1, 0, $2, now())
         ON CONFLICT (participant) DO UPDATE SET epoch = p.epoch + 1, owner = excluded.owner, since = excluded.since
         RETURNING epoch",
        schema = link.layout.schema
    );
    let us: [(&(dyn ToSql + Sync), Type); 2] =
        [(&link.participant, Type::TEXT), (&link.owner, Type::TEXT)];
    let taken = client.query_typed_one(&take, &us);
    Ok(link.ask(client, "taking the participant's place", taken)?.get(0))
}

/// Takes the place with a connection made anew, unless somebody else took it meanwhile. The session before has ended by then,
/// and with it whatever it was about to commit is decided.
fn take_place_again(link: &Link, client: &Client, epoch: i64) -> Result<(), StoreError> {
    let begun = Instant::now();
    loop {
        let is_ours = try_lock(link, client)?;
        match holder(link, client)? {
            Some((now, _)) if now == epoch && is_ours => return Ok(()),
            Some((now, _)) if now == epoch && begun.elapsed() <= TAKE_WITHIN => {
                thread::sleep(TRY_EVERY);
            }
            Some((now, _)) if now == epoch => {
                return Err(StoreError::Unreached {
                    doing: "taking the participant's place again".into(),
                    place: link.place.clone(),
                    source: "the server has not ended the session before".into(),
                });
            }
            other => {
                let owner =
                    other.map_or_else(|| "nobody: its row is gone".into(), |(_, owner)| owner);
                return Err(fenced(link, owner));
            }
        }
    }
}

pub(super) fn fenced(link: &Link, owner: String) -> StoreError {
    let (participant, place) = (link.participant.clone(), link.place.clone());
    StoreError::Fenced { participant, place, owner }
}

fn try_lock(link: &Link, client: &Client) -> Result<bool, StoreError> {
    let name = format!("dirigent/{}/{}", link.layout.schema, link.participant);
    let lock = "SELECT pg_try_advisory_lock(hashtextextended($1, 0))";
    let named: [(&(dyn ToSql + Sync), Type); 1] = [(&name, Type::TEXT)];
    let taken = client.query_typed_one(lock, &named);
    Ok(link.ask(client, "taking the participant's place", taken)?.get(0))
}

/// The epoch, and who has it.
pub(super) fn holder(link: &Link, client: &Client) -> Result<Option<(i64, String)>, StoreError> {
    let read = format!(
        "SELECT epoch, owner || ', since ' || to_char(since AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS\"Z\"')
         FROM {}.place WHERE participant = $1",
        link.layout.schema
    );
    let us: [(&(dyn ToSql + Sync), Type); 1] = [(&link.participant, Type::TEXT)];
    let row = client.query_typed_opt(&read, &us);
    let row = link.ask(client, "reading who has the participant's place", row)?;
    Ok(row.map(|row| (row.get(0), row.get(1))))
}
