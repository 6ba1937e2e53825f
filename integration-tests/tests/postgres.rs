//! The participant kit's store in PostgreSQL, at real servers: its promises, its duties, and what happens when the server, the
//! network or another worker does harm.
//!
//! `cargo test -p integration-tests --features postgres --test postgres`. `DIRIGENT_TEST_CUT_STEP` says at which distance, in bytes,
//! the dialogue with the server is cut.

#![allow(clippy::unwrap_used, reason = "tests")]

use dirigent::{
    participant::{Answer, Participant, ParticipantError, Running, Sql, SqlError},
    store::{
        DataFolder, MemoryStore, SledStore, Store, StoreError, StoreOptions,
        postgres::{Client, PostgresAddress, PostgresStore},
    },
};
use dirigent_brokers::{postgres, postgres_private, require};
use dirigent_connectors::{
    Attributes, ChannelKind, ChannelSpec, Connector, Message as Sending, Settle, Sink, Source,
    SourceSpec, memory::MemoryBroker, names,
};
use dirigent_model::message::{Channel, Command, Failure, FailureEffect, Message, Never};
use integration_tests::proxy::{Bound, Every};
use order::order::{Rates, samples::Service, services::inventory};
use serde::{Deserialize, Serialize};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{task::spawn_blocking, time::timeout};

/// A server that all these tests may use, each in schemas of its own.
macro_rules! server {
    ($found:expr) => {{
        let Some(server) = require!(spawn_blocking($found).await.unwrap()) else { return };
        server
    }};
}

#[path = "postgres/frozen.rs"]
mod frozen;
#[path = "../../orchestrator/examples/order/tests/secured/papers.rs"]
mod papers;
#[path = "postgres/tls.rs"]
mod tls;
#[path = "postgres/trouble.rs"]
mod trouble;

const SHELF: Channel = Channel::json("shelf");
const REPLIES: &str = "replies";

/// How long anything may take here, that passes: machines are busy, and a server needs a while to start.
const PATIENCE: Duration = Duration::from_secs(150);

/// How long one answer may take while a dialogue is cut: cuts in a row add up, as the next try waits longer each time, and the server
/// keeps a session that was closed by one side until it has been silent for long enough.
const PATIENCE_WITH_CUTS: Duration = Duration::from_secs(1_800);

/// Commands asked for at the most while a dialogue is cut at all its bytes.
const ASKED_MAX: i32 = 20_000;

#[derive(Debug, Serialize, Deserialize)]
struct Put {
    item: i32,
    how: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Stands {}

#[derive(Debug, Serialize, Deserialize)]
struct StandsAlready {}

#[derive(Debug, Serialize, Deserialize)]
struct Take {
    item: i32,
}

impl Message for Put {
    const NAME: &'static str = "Put";
}
impl Message for Stands {
    const NAME: &'static str = "Stands";
}
impl Message for StandsAlready {
    const NAME: &'static str = "StandsAlready";
}
impl Message for Take {
    const NAME: &'static str = "Take";
}
impl Command for Put {
    const TO: Channel = SHELF;
    type Success = Stands;
    type Rejection = StandsAlready;
}
impl Command for Take {
    const TO: Channel = SHELF;
    type Success = Stands;
    type Rejection = Never;
}

/// Puts items on a shelf that takes each once, and into boxes that must be there at the end.
fn shelf() -> Participant {
    Participant::new("shelf")
        .on::<Put>(|tx, command, _| Answer::or_failed(put(&mut tx.sql(), &command)))
        .undoes::<Take, Put>(
            |tx, command, _| {
                let taken = tx.sql().execute("DELETE FROM shelf WHERE item = $1", &[&command.item]);
                Answer::or_failed(taken.map(|_| Answer::Done(Stands {})))
            },
            |_, _| Stands {},
        )
}

fn put(sql: &mut Sql<'_>, command: &Put) -> Result<Answer<Put>, SqlError> {
    let item = command.item;
    let insert = "INSERT INTO shelf (item, box) VALUES ($1, $2)";
    match command.how.as_str() {
        "into-no-box" => drop(sql.execute(insert, &[&item, &99])?),
        "box-behind" => {
            sql.execute(insert, &[&item, &item])?;
            sql.execute("INSERT INTO boxes VALUES ($1)", &[&item])?;
        }
        "attempt" => {
            let twice = sql.attempt(|sql| {
                sql.execute("INSERT INTO boxes VALUES ($1)", &[&item])?;
                sql.execute("INSERT INTO boxes VALUES ($1)", &[&item])
            });
            assert!(twice.unwrap_err().is_unique_violation());
            sql.execute(insert, &[&item, &None::<i32>])?;
        }
        "aborted" => {
            sql.execute(insert, &[&item, &None::<i32>])?;
            let refused =
                sql.execute("INSERT INTO shelf (item) VALUES (1 / ($1::integer - $1))", &[&item]);
            assert_eq!(refused.unwrap_err().code(), Some("22012"));
            let after = sql.query("SELECT 1", &[]).unwrap_err();
            assert!(matches!(after, SqlError::Refused(_)), "{after}");
        }
        "panic" => {
            sql.execute(insert, &[&item, &None::<i32>])?;
            panic!("out of order");
        }
        "commit" => drop(sql.execute("COMMIT", &[])?),
        _ => match sql.execute(insert, &[&item, &None::<i32>]) {
            Err(error) if error.is_unique_violation() => {
                return Ok(Answer::Rejected(StandsAlready {}));
            }
            done => drop(done?),
        },
    }
    Ok(Answer::Done(Stands {}))
}

/// A participant with tables of its own, and a saga that asks it.
struct Bench {
    broker: MemoryBroker,
    sink: Box<dyn Sink>,
    replies: Box<dyn Source>,
    /// Looks from outside.
    db: Client,
    address: String,
    schema: String,
}

impl Bench {
    async fn at(address: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        let schema = format!("t{started}_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let db = connected(address).await;
        db.batch_execute(&format!(
            "CREATE SCHEMA {schema}; SET search_path = {schema};
             CREATE TABLE boxes (number integer PRIMARY KEY);
             CREATE TABLE shelf (item integer PRIMARY KEY,
                 box integer REFERENCES boxes DEFERRABLE INITIALLY DEFERRED)"
        ))
        .await
        .unwrap();
        Self::within(address, schema).await
    }

    /// Where its tables are there already.
    async fn within(address: &str, schema: String) -> Self {
        let db = connected(address).await;
        db.batch_execute(&format!("SET search_path = {schema}")).await.unwrap();
        let broker = MemoryBroker::new();
        broker.prepare(&[ChannelSpec::work(SHELF.name)]).await.unwrap();
        let channels = vec![ChannelSpec::work(REPLIES)];
        let spec =
            SourceSpec { channels, group: "saga".into(), positions: vec![], unsettled_max: 9_999 };
        let (replies, sink) = (broker.source(spec).await.unwrap(), broker.sink().await.unwrap());
        Self { broker, sink, replies, db, address: address.to_owned(), schema }
    }

    fn kit(&self) -> PostgresAddress {
        self.kit_by(&self.address)
    }

    fn kit_by(&self, address: &str) -> PostgresAddress {
        let named = if address.contains('?') { '&' } else { '?' };
        let address = format!("{address}{named}application_name={}", self.schema);
        let address = PostgresAddress::parse(&address).unwrap();
        let kit = address.schema(format!("{}_kit", self.schema)).unwrap();
        kit.search_path(self.schema.as_str()).unwrap()
    }

    async fn start(&self) -> Running {
        self.start_by(self.kit()).await
    }

    async fn start_by(&self, kit: PostgresAddress) -> Running {
        self.start_with(shelf(), kit).await
    }

    async fn start_with(&self, shelf: Participant, kit: PostgresAddress) -> Running {
        let store = Arc::new(opened(kit).await.unwrap());
        shelf.start(Arc::new(self.broker.clone()), store).await.unwrap()
    }

    async fn send(&mut self, commands: &[Sending]) {
        self.sink.send(commands).await;
    }

    async fn hears(&mut self, count: usize) -> Vec<Sending> {
        self.hears_within(PATIENCE, count).await
    }

    async fn hears_within(&mut self, patience: Duration, count: usize) -> Vec<Sending> {
        let mut heard = Vec::new();
        while heard.len() < count {
            let some = timeout(patience, self.replies.receive(count - heard.len())).await;
            let some = some.unwrap_or_else(|_| panic!("only {heard:?} came")).unwrap();
            let settled: Vec<_> = some.iter().map(|one| (one.receipt, Settle::Done)).collect();
            self.replies.settler().settle(&settled);
            heard.extend(some.into_iter().map(|one| one.message));
        }
        heard
    }

    async fn asks(&mut self, item: i32, how: &str) -> Sending {
        self.send(&[asked(item, how)]).await;
        self.hears(1).await.remove(0)
    }

    async fn items(&self) -> Vec<i32> {
        let rows = self.db.query("SELECT item FROM shelf ORDER BY item", &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

async fn connected(address: &str) -> Client {
    PostgresAddress::parse(address).unwrap().connect().await.unwrap()
}

async fn opened(kit: PostgresAddress) -> Result<PostgresStore, StoreError> {
    spawn_blocking(move || PostgresStore::open(kit, "shelf")).await.unwrap()
}

fn asked(item: i32, how: &str) -> Sending {
    let body = serde_json::to_vec(&Put { item, how: how.into() }).unwrap();
    Sending {
        channel: SHELF.name.into(),
        kind: ChannelKind::Work,
        key: item.to_string(),
        attributes: Attributes::new()
            .with(names::ID, format!("ask-{item}-{how}"))
            .with(names::TYPE, Put::NAME)
            .with(names::REPLY_TO, REPLIES)
            .with(names::IDEMPOTENCY_KEY, format!("key-{item}-{how}"))
            .with("sagaid", format!("saga-{item}-{how}"))
            .with("sagastep", "put"),
        others: vec![],
        body: body.into(),
    }
}

fn name_of(reply: &Sending) -> &str {
    reply.attributes.get(names::TYPE).unwrap()
}

fn failure(reply: &Sending) -> Failure {
    assert_eq!(name_of(reply), "Failure", "{:?}", reply.body);
    serde_json::from_slice(&reply.body).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_service_writes_into_its_own_tables_is_kept_with_its_answer_or_not_at_all() {
    let server = server!(postgres);
    let mut bench = Bench::at(server.address()).await;
    let running = bench.start().await;
    assert_eq!(name_of(&bench.asks(1, "well").await), Stands::NAME);
    // The same command again, and another one that finds the shelf taken.
    assert_eq!(name_of(&bench.asks(1, "well").await), Stands::NAME);
    assert_eq!(name_of(&bench.asks(1, "again").await), StandsAlready::NAME);
    // Deferred: asked when the handler has ended, and later for the next one.
    let refused = failure(&bench.asks(2, "into-no-box").await);
    assert_eq!((refused.code.as_str(), refused.effect), ("not-kept", FailureEffect::Unknown));
    assert!(refused.message.contains("foreign key"), "{refused:?}");
    assert_eq!(name_of(&bench.asks(3, "box-behind").await), Stands::NAME);
    assert_eq!(name_of(&bench.asks(4, "attempt").await), Stands::NAME);
    let aborted = failure(&bench.asks(5, "aborted").await);
    assert_eq!(aborted.code, "not-kept");
    assert!(aborted.message.contains("division by zero"), "{aborted:?}");
    assert_eq!(failure(&bench.asks(6, "panic").await).code, "panicked");
    let ended = failure(&bench.asks(7, "commit").await);
    assert_eq!((ended.code.as_str(), ended.effect), ("sql", FailureEffect::None));
    assert_eq!(bench.items().await, [1, 3, 4]);
    // All of it in one window: one that fails takes nothing of the others.
    let hows = ["well", "into-no-box", "well", "aborted", "panic", "box-behind", "commit", "well"];
    let window: Vec<_> = (10..).zip(hows).map(|(item, how)| asked(item, how)).collect();
    bench.send(&window).await;
    let names: Vec<_> =
        bench.hears(8).await.iter().map(|one| name_of(one) == Stands::NAME).collect();
    assert_eq!(names, [true, false, true, false, false, true, false, true]);
    assert_eq!(bench.items().await, [1, 3, 4, 10, 12, 15, 17]);
    let counts = running.stop().await.unwrap();
    assert_eq!((counts.done, counts.repeated, counts.rejected), (7, 1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_and_started_again_keeps_what_was_answered_and_does_nothing_twice()
{
    let server = Arc::new(server!(postgres_private));
    let mut bench = Bench::at(server.address()).await;
    let running = bench.start().await;
    for round in 0..3 {
        let window: Vec<_> = (0..300).map(|item| asked(round * 300 + item, "well")).collect();
        bench.send(&window).await;
        let again = Arc::clone(&server);
        spawn_blocking(move || again.restart().unwrap()).await.unwrap();
        let replies = bench.hears(300).await;
        // Another command found its item only if this one did nothing twice.
        assert!(replies.iter().all(|reply| name_of(reply) == Stands::NAME));
    }
    bench.db = connected(&bench.address).await;
    bench.db.batch_execute(&format!("SET search_path = {}", bench.schema)).await.unwrap();
    assert_eq!(bench.items().await, (0..900).collect::<Vec<_>>());
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cut_anywhere_in_the_dialogue_costs_nothing_and_repeats_nothing() {
    let server = server!(postgres);
    let mut bench = Bench::at(server.address()).await;
    let step = std::env::var("DIRIGENT_TEST_CUT_STEP").map_or(499, |step| step.parse().unwrap());
    let director = Arc::new(Every::byte_below(8_000, step, 7));
    let port = server.address().rsplit_once(':').unwrap().1.split('/').next().unwrap().to_owned();
    let proxy = Bound::any().await.unwrap();
    let proxied = server.address().replace(&port, &proxy.port().to_string());
    let _proxy = proxy.carry_to(format!("127.0.0.1:{port}"), director.clone());
    let mut running = bench.start_by(bench.kit_by(&proxied)).await;
    let mut item = 0;
    while director.counts().2 > 0 {
        assert!(item < ASKED_MAX, "cuts are left: {:?}", director.counts());
        bench.send(&[asked(item, "well")]).await;
        // Another answer would say that it was done before.
        let heard = tokio::select! {
            heard = bench.hears_within(PATIENCE_WITH_CUTS, 1) => heard,
            ended = running.ended() => panic!("a cut ended the participant: {ended:?}"),
        };
        assert_eq!(name_of(&heard[0]), Stands::NAME);
        item += 1;
    }
    let (made, unreached, _) = director.counts();
    eprintln!("{made} cuts were made, {unreached} not reached, {item} commands");
    assert!(made > unreached, "{made} cuts, {unreached} not reached");
    assert_eq!(bench.items().await, (0..item).collect::<Vec<_>>());
    director.is_over();
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_worker_is_refused_and_one_whose_place_was_taken_is_fenced() {
    let server = server!(postgres);
    let mut bench = Bench::at(server.address()).await;
    let mut first = bench.start().await;
    bench.asks(1, "well").await;
    let refused = opened(bench.kit()).await.unwrap_err();
    let text = refused.to_string();
    assert!(matches!(refused, StoreError::InUse { .. }), "{text}");
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    // As for one that was frozen: the server ends its session, and another worker takes the place.
    let ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1";
    bench.db.query(ends, &[&bench.schema]).await.unwrap();
    let second = opened(bench.kit()).await.unwrap();
    bench.send(&[asked(2, "well")]).await;
    let fenced = first.ended().await.unwrap_err();
    let ParticipantError::Store { source: fenced, .. } = fenced else { panic!("{fenced}") };
    assert!(matches!(&fenced, StoreError::Fenced { .. }), "{fenced}");
    assert_eq!(bench.items().await, [1], "it did nothing more");
    drop((first, second));
    // The next one does it.
    let running = bench.start().await;
    assert_eq!(name_of(&bench.hears(1).await[0]), Stands::NAME);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_room_is_waited_for_and_transactions_in_each_others_way_are_made_again() {
    let server = server!(postgres);
    let mut bench = Bench::at(server.address()).await;
    let running = bench.start().await;
    bench.asks(1, "well").await;
    let kit = format!("{}_kit", bench.schema);
    for (item, code) in [(2, "53100"), (3, "40001"), (4, "40P01")] {
        // Fails three times, then goes away: what a sequence counts stays though its transaction is undone.
        let makes = format!(
            "CREATE SEQUENCE times_{item};
             CREATE FUNCTION fails_{item}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF nextval('{schema}.times_{item}') <= 3 THEN
                     RAISE EXCEPTION 'as told' USING ERRCODE = '{code}';
                 END IF;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER fails_{item} AFTER INSERT ON {kit}.record
                 FOR EACH STATEMENT EXECUTE FUNCTION {schema}.fails_{item}();",
            schema = bench.schema
        );
        bench.db.batch_execute(&makes).await.unwrap();
        assert_eq!(name_of(&bench.asks(item, "well").await), Stands::NAME, "{code}");
        let row = bench.db.query_one(&format!("SELECT last_value FROM times_{item}"), &[]).await;
        assert_eq!(row.unwrap().get::<_, i64>(0), 4, "{code}: three tries came to nothing");
        bench
            .db
            .batch_execute(&format!("DROP TRIGGER fails_{item} ON {kit}.record"))
            .await
            .unwrap();
    }
    assert_eq!(bench.items().await, [1, 2, 3, 4]);
    assert_eq!(running.stop().await.unwrap().done, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_a_store_from_opening_is_said_with_what_to_do_and_without_the_password() {
    let server = server!(postgres);
    let bench = Bench::at(server.address()).await;
    let cases = [
        (server.address().replace(":dirigent@", ":wr0ng@"), "check user and password"),
        (server.address().replace("/postgres", "/nowhere"), "check the name of the database"),
        ("postgres://me:wr0ng@127.0.0.1:9/shop?connect_timeout=2".into(), "is it running"),
    ];
    for (address, advice) in cases {
        let error = opened(bench.kit_by(&address)).await.unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(advice), "{shown}");
        assert!(!shown.contains("wr0ng"), "{shown}");
    }
    drop(opened(bench.kit()).await.unwrap());
    let later = format!("UPDATE {}_kit.format SET version = 2", bench.schema);
    bench.db.batch_execute(&later).await.unwrap();
    let newer = opened(bench.kit()).await.unwrap_err();
    assert!(matches!(newer, StoreError::Newer { version: 2, known: 1, .. }), "{newer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_participant_keeps_its_duties_on_every_store() {
    let server = server!(postgres);
    let bench = Bench::at(server.address()).await;
    let folder = tempfile::tempdir().unwrap();
    let disk = DataFolder::open(folder.path()).unwrap();
    let stores: [(&str, Arc<dyn Store>); 3] = [
        ("memory", Arc::new(MemoryStore::new())),
        ("sled", Arc::new(SledStore::open(&disk, StoreOptions::default()).unwrap())),
        ("postgres", Arc::new(opened(bench.kit()).await.unwrap())),
    ];
    let ledger = "CREATE TABLE ledger (key bigint, kind text, times bigint NOT NULL, causes text[] NOT NULL, PRIMARY KEY (key, kind))";
    bench.db.batch_execute(ledger).await.unwrap();
    let rates = Rates { seed: 1, reject: 0.1, silent: 0.0 };
    for (name, store) in stores {
        let broker: Arc<dyn Connector> = Arc::new(MemoryBroker::new());
        let inventory = inventory(rates).codec(Arc::new(dirigent_schemas::Bodies::new()));
        let running = inventory.start(Arc::clone(&broker), store).await.unwrap();
        let report = Service::Inventory.conformance(rates).play(broker, "run").await.unwrap();
        assert!(report.is_good(), "{name}: {report}");
        running.stop().await.unwrap();
    }
    let twice = "SELECT count(*) FILTER (WHERE times > 1), count(*) FROM ledger";
    let row = bench.db.query_one(twice, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 0, "no effect came twice");
    assert!(row.get::<_, i64>(1) > 0, "its effects are in the service's own table");
}
