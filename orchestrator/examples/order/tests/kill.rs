//! Processes of their own at a real broker: the orchestrator and the services are killed in the middle, and nothing is lost or done twice.
//!
//! By default at five chosen moments. `DIRIGENT_TEST_KILLS=20 DIRIGENT_TEST_ORDERS=5000 cargo test --release -p order --test kill -- --nocapture`
//! kills at twenty random ones; `DIRIGENT_TEST_SEED` repeats them.

// Clippy takes the helpers of an integration test for code that is no test.
#![allow(clippy::unwrap_used)]

mod processes;

use dirigent_brokers::Broker;
use processes::{At, KILLS, ORDERS, Random, number, seed};
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// Orders placed where [`ORDERS`] does not say: enough to be under way at every kill.
const ORDERS_DEFAULT: u64 = 2_000;

/// Up to how long after its start a random kill comes, where it is not waited for: it connects meanwhile, or waits for a killed owner's place.
const CONNECTING_WITHIN_MS: u64 = 2_000;

/// Up to how long after a saga is under way a random kill comes. Longer, and a fast machine would have ended all orders before it.
const WORKING_WITHIN_MS: u64 = 400;

/// After the last kill, for how long nothing may get on before the sagas count as standing still: longer than any of their time limits.
const STALLED_AFTER: Duration = Duration::from_secs(150);

/// How often orchestrator and services are stopped and compared after all orders have ended: what was on its way then takes effect meanwhile.
const COMPARED_MAX: u64 = 10;

/// How long a ready orchestrator may take to its first saga. Where none is left to begin, the kill comes then.
const UNDER_WAY_WITHIN: Duration = Duration::from_secs(15);

/// When to kill after each start where [`KILLS`] does not say: while it connects, and while it works on what waits.
const CHOSEN: [Kill; 5] = [
    Kill { engine: Moment::Started(Duration::from_millis(300)), services: None },
    Kill { engine: Moment::UnderWay(Duration::ZERO), services: Some(Duration::ZERO) },
    Kill { engine: Moment::Started(Duration::from_millis(1_200)), services: None },
    Kill { engine: Moment::UnderWay(Duration::from_millis(100)), services: None },
    Kill { engine: Moment::Ready(Duration::ZERO), services: None },
];

/// One round: a slice of the orders is placed, the orchestrator starts, and is killed.
#[derive(Debug, Clone, Copy)]
struct Kill {
    engine: Moment,
    /// The services are killed too, this long after the next orchestrator is ready, which is killed with them.
    services: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
enum Moment {
    /// This long after its start.
    Started(Duration),
    /// This long after it said that it is ready.
    Ready(Duration),
    /// This long after a saga was seen under way, however long a broker takes to hand out its first message.
    UnderWay(Duration),
}

/// What the environment asks for, or what is done without a word from it.
fn asked() -> (Vec<Kill>, u64) {
    let orders = number(ORDERS).unwrap_or(ORDERS_DEFAULT);
    let Some(kills) = number(KILLS) else { return (CHOSEN.to_vec(), orders) };
    eprintln!("{kills} kills at random moments");
    let mut random = Random(seed());
    let kills = (0..kills).map(|_| any_kill(&mut random)).collect();
    (kills, orders)
}

/// Three of four in the middle of work, as there is most to lose; every other one with the services.
fn any_kill(random: &mut Random) -> Kill {
    let connecting = Duration::from_millis(random.below(CONNECTING_WITHIN_MS));
    let [working, before] =
        [(); 2].map(|()| Duration::from_millis(random.below(WORKING_WITHIN_MS)));
    let engine = match random.below(4) {
        0 => Moment::Started(connecting),
        _ => Moment::UnderWay(working),
    };
    let services = random.below(2) == 0;
    Kill { engine, services: services.then_some(before) }
}

#[test]
fn killed_at_any_moment_orders_on_rabbitmq_end_and_balance() {
    let found = dirigent_brokers::rabbitmq_private();
    let Some(broker) = dirigent_brokers::require!(found) else { return };
    survives_kills(&broker);
}

#[test]
fn killed_at_any_moment_orders_on_kafka_end_and_balance() {
    let found = dirigent_brokers::kafka_private();
    let Some(broker) = dirigent_brokers::require!(found) else { return };
    // A mock lives within this process and its bounds are small: it is no broker for others to be killed at.
    if !broker.is_mock() {
        survives_kills(&broker);
    }
}

fn survives_kills(broker: &Broker) {
    let (kills, orders) = asked();
    let folder = tempfile::tempdir().unwrap();
    let at = At { broker, folder: folder.path().to_owned() };
    // Before anything is killed, all channels are there: only what is stored in them is at stake.
    let mut services = at.services();
    services.is_ready();
    // Channels for events are made by who listens: the orchestrator has to have been there once.
    let mut engine = at.engine();
    engine.is_ready();
    engine.stops();
    // Half of them wait from the beginning: the orchestrator lives so shortly that it has hardly ever done all it finds.
    let (mut met, mut placed, rounds) = (0, orders / 2, kills.len());
    at.places(0, placed);
    let started = Instant::now();
    for (round, kill) in (1..).zip(kills) {
        let until = orders / 2 + (orders - orders / 2) * round / rounds as u64;
        at.places(placed, until);
        placed = until;
        let mut engine = at.engine();
        match kill.engine {
            Moment::Started(after) => sleep(after),
            Moment::Ready(after) => {
                engine.is_ready();
                sleep(after);
            }
            Moment::UnderWay(after) => {
                engine.is_ready();
                let ready = Instant::now();
                while !at.under_way() && ready.elapsed() < UNDER_WAY_WITHIN {
                    sleep(Duration::from_millis(10));
                }
                sleep(after);
            }
        }
        engine.dies();
        at.audits();
        let under_way = at.under_way();
        met += usize::from(under_way);
        eprintln!(
            "{:6.1} s  kill {round} {kill:?}, sagas under way: {under_way}",
            started.elapsed().as_secs_f64()
        );
        if let Some(after) = kill.services {
            // With an orchestrator beside them again, so that they have something in hand.
            let mut engine = at.engine();
            engine.is_ready();
            sleep(after);
            services.dies();
            engine.dies();
            at.checks_services();
            services = at.services();
        }
    }
    assert!(met > 0, "no kill met a saga under way: place more orders");
    let mut compared = 0;
    let found = loop {
        let mut engine = at.engine();
        engine.is_ready();
        at.until_all_have_ended(orders, STALLED_AFTER, || ());
        engine.stops();
        services.stops();
        let found = at.reconciled();
        let all_ended = found["started"] == orders && found["in_flight"] == 0;
        if all_ended && found["ledger"]["balanced"] == true {
            break found;
        }
        assert_eq!(found["ledger"]["effects_twice"], 0, "{found}");
        compared += 1;
        assert!(compared < COMPARED_MAX, "not at its end: {found}");
        services = at.services();
        services.is_ready();
    };
    assert_eq!(found["ledger"]["orphans"], 0, "{found}");
    assert_eq!(found["blocked"], 0, "{found}");
    at.audits();
    at.checks_services();
    let seconds = started.elapsed().as_secs_f64();
    eprintln!(
        "{}: {orders} orders, {rounds} kills, {met} met sagas under way, {seconds:.0} s: {found}",
        at.word()
    );
}
