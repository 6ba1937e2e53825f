//! `bench kafka`, `bench rabbitmq`: saga events per second through a real broker, beside a loop that consumes and produces the same messages by
//! the same client library and remembers nothing.
//!
//! Both run in this process, on the same broker, and take turns; while one is measured the other has nothing to do. The services and customers
//! are of this process, too, and the broker is on this machine unless an address was said: all of them share its cores, for both alike.

use super::{
    Error, Scratch,
    alternate::{Subject, Turns, alternate, named},
    bare::{Bare, Sending},
    figures::Measured,
    house::{Build, House},
    orders::rates,
    stage::{At, Stage, Which},
    track::Track,
};
use async_trait::async_trait;
use serde_json::{Value, json};

/// Orders that go through the engine before anything is measured: every kind of refusal is among them, as a rule.
pub(super) const REHEARSAL_ORDERS: u64 = 200;

/// How it is measured.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// Orders in each round.
    #[arg(long, default_value_t = 10_000)]
    pub orders: u64,
    /// The part of the orders that is refused, from 0.0 to 1.0.
    #[arg(long, default_value_t = 0.1)]
    pub reject_rate: f64,
    /// Orders in flight at once.
    #[arg(long, default_value_t = 2_000)]
    pub window: u64,
    /// Rounds, and how long at the most.
    #[command(flatten)]
    pub turns: Turns,
    /// The broker.
    #[command(flatten)]
    pub at: At,
}

/// The engine, and the loops that its broker allows for.
pub(super) struct Both {
    pub house: House,
    pub bare: Bare,
    /// On Kafka, where the engine's windows are transactions.
    pub in_transactions: Option<Bare>,
    /// Goes behind all who use it.
    _data: Scratch,
}

impl Both {
    /// Starts all of them. The engine goes through a rehearsal, so that the loops know what it sends.
    pub(super) async fn start(stage: &Stage, reject_rate: f64) -> Result<Self, Error> {
        let (data, rates) = (Scratch::new()?, rates(reject_rate));
        let mut house = House::open(stage, data.path(), Build::usual(rates)).await?;
        house.track.watch.keep(true);
        house.track.closed(REHEARSAL_ORDERS, REHEARSAL_ORDERS).await?;
        house.track.watch.keep(false);
        let forms = house.track.watch.forms();
        let mut bare = Bare::start(stage, &forms, rates, Sending::Confirmed).await?;
        bare.track.closed(REHEARSAL_ORDERS, REHEARSAL_ORDERS).await?;
        let in_transactions = match stage.which {
            Which::Kafka => {
                let mut bare = Bare::start(stage, &forms, rates, Sending::InTransactions).await?;
                bare.track.closed(REHEARSAL_ORDERS, REHEARSAL_ORDERS).await?;
                Some(bare)
            }
            Which::Memory | Which::Rabbitmq => None,
        };
        Ok(Self { house, bare, in_transactions, _data: data })
    }

    pub(super) async fn stop(self) -> Result<(), Error> {
        drop((self.bare, self.in_transactions));
        self.house.close().await
    }
}

/// What the subjects are called.
pub(super) const ENGINE: &str = "engine";
/// The loop.
pub(super) const BARE: &str = "bare loop";
/// The loop with transactions.
pub(super) const BARE_IN_TRANSACTIONS: &str = "bare loop, in transactions";

/// Measures with a broker of this kind.
pub async fn run(which: Which, settings: &Settings) -> Result<Value, Error> {
    let stage = Stage::open(which, &settings.at).await?;
    let mut both = Both::start(&stage, settings.reject_rate).await?;
    let (orders, window) = (settings.orders, settings.window);
    let measured = {
        let Both { house, bare, in_transactions, .. } = &mut both;
        let of =
            |name, track| Box::new(Closed { name, track, orders, window }) as Box<dyn Subject + '_>;
        let mut subjects = vec![of(ENGINE, &mut house.track), of(BARE, &mut bare.track)];
        if let Some(bare) = in_transactions {
            subjects.push(of(BARE_IN_TRANSACTIONS, &mut bare.track));
        }
        alternate(settings.turns, &mut subjects).await?
    };
    both.stop().await?;
    let ratio = |below: &str| {
        let ratio = measured.ratio((ENGINE, EVENTS_PER_SECOND), (below, EVENTS_PER_SECOND));
        (format!("{ENGINE} ÷ {below}"), ratio)
    };
    Ok(json!({
        "broker": format!("{}, {}", which.word(), stage.how),
        "subjects": measured.json(),
        "ratios": named([ratio(BARE), ratio(BARE_IN_TRANSACTIONS)]),
        "orders in each round": orders,
        "orders in flight": window,
    }))
}

const EVENTS_PER_SECOND: &str = "events_per_second";

struct Closed<'a> {
    name: &'static str,
    track: &'a mut Track,
    orders: u64,
    window: u64,
}

#[async_trait]
impl Subject for Closed<'_> {
    fn name(&self) -> String {
        self.name.into()
    }

    async fn round(&mut self) -> Result<Measured, Error> {
        let closed = self.track.closed(self.orders, self.window).await?;
        Ok(Measured::from([
            (EVENTS_PER_SECOND, closed.events_per_second()),
            ("orders_per_second", closed.orders_per_second()),
        ]))
    }
}
