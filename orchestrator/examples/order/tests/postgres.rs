//! Inventory and payment with their ledgers in PostgreSQL: killed at random moments, their tables and their answers agree.
//!
//! Five kills by default; `DIRIGENT_TEST_KILLS` and `DIRIGENT_TEST_ORDERS` ask for more, `DIRIGENT_TEST_SEED` repeats the moments.
//! `cargo test -p order --features postgres --test postgres -- --nocapture`

// Clippy takes the helpers of an integration test for code that is no test.
#![allow(clippy::unwrap_used)]

#[path = "secured/papers.rs"]
mod papers;
mod processes;

use dirigent::telemetry::Traces;
use dirigent_brokers::{Broker, Secured};
use order::demo::{AddressArgs, BrokerKind, DemoArgs, PostgresArgs, RateArgs, RegistryArgs, demo};
use papers::{Authority, LATER, Papers};
use processes::{At, KILLS, ORDERS, Process, Random, number, seed};
use std::{
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

/// Orders placed where [`ORDERS`] does not say.
const ORDERS_DEFAULT: u64 = 1_000;

/// Up to how long after its start a process is killed, in milliseconds: it opens its stores, or is at work.
const KILLED_WITHIN_MS: u64 = 3_000;

/// How long the orders may take to end after the last kill.
const ENDED_WITHIN: Duration = Duration::from_secs(150);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demo_with_chaos_balances_with_ledgers_in_postgres() {
    let found = tokio::task::spawn_blocking(dirigent_brokers::postgres).await.unwrap();
    let Some(database) = dirigent_brokers::require!(found) else { return };
    let postgres = Some(database.address().to_owned());
    balances(BrokerKind::Memory, 300, PostgresArgs { postgres, ..PostgresArgs::default() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demo_with_chaos_on_real_brokers_balances_with_ledgers_reached_by_tls() {
    let authority = Authority::new("authority");
    let Papers { certificate, key } = authority.issues("server", "127.0.0.1", LATER);
    let (user, password) = ("ann".into(), "s3cret of ann".into());
    let secured = Secured { ca: authority.pem(), certificate, key, user, password };
    let found = move || {
        let database = dirigent_brokers::postgres_private_secured(&secured);
        (database, dirigent_brokers::kafka(), dirigent_brokers::rabbitmq())
    };
    let (database, kafka, rabbitmq) = tokio::task::spawn_blocking(found).await.unwrap();
    let Some(database) = dirigent_brokers::require!(database) else { return };
    let folder = tempfile::tempdir().unwrap();
    let Papers { certificate, key } = authority.issues("ann", "client", LATER);
    let texts = [authority.pem(), certificate, key, "s3cret of ann\n".into()];
    let [ca, certificate, key, password] =
        ["ca.pem", "client.pem", "client.key", "password"].map(|name| folder.path().join(name));
    for (file, text) in [&ca, &certificate, &key, &password].into_iter().zip(texts) {
        std::fs::write(file, text).unwrap();
    }
    let place = database.secured().unwrap();
    let [ca, certificate, key] = [&ca, &certificate, &key].map(|file| file.display());
    let postgres = PostgresArgs {
        postgres: Some(format!(
            "postgres://ann@{place}/postgres?sslmode=verify-full&sslrootcert={ca}&sslcert={certificate}&sslkey={key}"
        )),
        postgres_password_file: Some(password),
    };
    if dirigent_brokers::require!(kafka).is_some() {
        balances(BrokerKind::Kafka, 100, postgres.clone()).await;
    }
    if dirigent_brokers::require!(rabbitmq).is_some() {
        balances(BrokerKind::Rabbitmq, 100, postgres).await;
    }
}

async fn balances(broker: BrokerKind, orders: u32, postgres: PostgresArgs) {
    let args = DemoArgs {
        orders,
        rates: RateArgs { reject_rate: 0.2, silent_rate: 0.0, seed: 7 },
        broker,
        address: AddressArgs::default(),
        registry: RegistryArgs::default(),
        postgres,
        chaos: true,
        inventory: None,
        data: None,
        json: true,
    };
    let report = demo(&args, &Arc::new(Traces::quiet())).await.unwrap();
    assert!(report.is_good(), "{report}");
    assert_eq!(report.started, u64::from(orders), "{report}");
}

#[test]
fn killed_at_random_moments_the_tables_of_services_and_their_answers_agree() {
    let Some(broker) = dirigent_brokers::require!(dirigent_brokers::rabbitmq_private()) else {
        return;
    };
    let Some(database) = dirigent_brokers::require!(dirigent_brokers::postgres_private()) else {
        return;
    };
    survives_kills(&broker, &database);
}

fn survives_kills(broker: &Broker, database: &Broker) {
    let (orders, kills) = (number(ORDERS).unwrap_or(ORDERS_DEFAULT), number(KILLS).unwrap_or(5));
    let mut random = Random(seed());
    let folder = tempfile::tempdir().unwrap();
    let at = At { broker, folder: folder.path().to_owned() };
    let mut services = services(&at, database);
    let mut engine = at.engine();
    engine.is_ready();
    let (began, mut placed) = (Instant::now(), 0);
    for kill in 1..=kills {
        let until = orders * kill / kills;
        at.places(placed, until);
        placed = until;
        sleep(Duration::from_millis(random.below(KILLED_WITHIN_MS)));
        services.dies();
        // Every other time the server dies with them.
        if kill % 2 == 0 {
            database.restart().unwrap();
        }
        eprintln!("{:6.1} s  kill {kill}", began.elapsed().as_secs_f64());
        services = self::services(&at, database);
    }
    let killed = Instant::now();
    let found = loop {
        sleep(Duration::from_secs(5));
        engine.stops();
        services.stops();
        let found = at.reconciled_with(&["--postgres", database.address()]);
        if found["started"] == orders
            && found["in_flight"] == 0
            && found["ledger"]["balanced"] == true
        {
            break found;
        }
        assert_eq!(found["ledger"]["effects_twice"], 0, "{found}");
        assert!(killed.elapsed() < ENDED_WITHIN, "not at its end: {found}");
        services = self::services(&at, database);
        engine = at.engine();
        engine.is_ready();
    };
    assert_eq!(found["ledger"]["orphans"], 0, "{found}");
    at.audits();
    eprintln!("{orders} orders, {kills} kills, {:.0} s: {found}", began.elapsed().as_secs_f64());
}

fn services(at: &At<'_>, database: &Broker) -> Process {
    at.services_with(&["--postgres", database.address()])
}
