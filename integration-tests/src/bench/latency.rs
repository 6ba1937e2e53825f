//! `bench latency`: from when an order was due to its first command at a service, and to the event of its end, at parts of what the engine
//! can do; beside the bare loop at the very same pace.
//!
//! The load is open: orders are due by the clock, and latency is taken from then, whenever they could really be placed. So a pause counts
//! for everybody who had to wait for it, not only for the one that was on its way.

use super::{
    Error,
    alternate::{Subject, Turns, alternate, named},
    brokers::{BARE, BARE_IN_TRANSACTIONS, Both, ENGINE},
    figures::{Measured, rounded},
    stage::{At, Stage, Which},
    track::{Pace, Paced, Track},
};
use async_trait::async_trait;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// How it is measured.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// The broker.
    #[arg(long, value_enum, default_value_t = Which::Memory)]
    pub broker: Which,
    /// Parts of the engine's capacity, in percent.
    #[arg(long, value_delimiter = ',', default_value = "10,50,80")]
    pub loads: Vec<f64>,
    /// Seconds of each round.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Of these: not measured, so that what is cold gets warm.
    #[arg(long, default_value_t = 2.0)]
    pub warm_up: f64,
    /// Orders of each of three rounds that say what the engine can do.
    #[arg(long, default_value_t = 20_000)]
    pub orders: u64,
    /// Orders in flight at once in those rounds.
    #[arg(long, default_value_t = 2_000)]
    pub window: u64,
    /// The part of the orders that is refused, from 0.0 to 1.0.
    #[arg(long, default_value_t = 0.1)]
    pub reject_rate: f64,
    /// Rounds of each load, and how long at the most.
    #[command(flatten)]
    pub turns: Turns,
    /// Where the broker is.
    #[command(flatten)]
    pub at: At,
}

/// Rounds that say what the engine can do.
const CAPACITY_ROUNDS: usize = 3;

/// Measures.
pub async fn run(settings: &Settings) -> Result<Value, Error> {
    let stage = Stage::open(settings.broker, &settings.at).await?;
    let mut both = Both::start(&stage, settings.reject_rate).await?;
    let capacity = capacity(&mut both.house.track, settings.orders, settings.window).await?;
    let (mut loads, mut added) = (Map::new(), Vec::new());
    for load in &settings.loads {
        let pace = Pace {
            orders_per_second: capacity * load / 100.0,
            lasts: Duration::from_secs_f64(settings.seconds),
            warm_up: Duration::from_secs_f64(settings.warm_up),
        };
        let Both { house, bare, in_transactions, .. } = &mut both;
        let of = |name, track| Box::new(Open { name, track, pace }) as Box<dyn Subject + '_>;
        let mut subjects = vec![of(ENGINE, &mut house.track), of(BARE, &mut bare.track)];
        if let Some(bare) = in_transactions {
            subjects.push(of(BARE_IN_TRANSACTIONS, &mut bare.track));
        }
        let measured = alternate(settings.turns, &mut subjects).await?;
        let p99 = (ENGINE, "p99_ms");
        let at = format!("at {load} %");
        added.push((
            format!("p99_ms added to the {BARE}, {at}"),
            measured.difference(p99, (BARE, "p99_ms")),
        ));
        let apart = measured.difference(p99, (BARE_IN_TRANSACTIONS, "p99_ms"));
        added.push((format!("p99_ms added to the {BARE_IN_TRANSACTIONS}, {at}"), apart));
        loads.insert(at, measured.json());
    }
    both.stop().await?;
    Ok(json!({
        "broker": format!("{}, {}", settings.broker.word(), stage.how),
        "capacity_orders_per_second": rounded(capacity),
        "seconds of each round": settings.seconds,
        "subjects": loads,
        "ratios": named(added),
    }))
}

/// What a track carries when it is loaded as fast as it goes: orders per second, the median of a few rounds.
pub(super) async fn capacity(track: &mut Track, orders: u64, window: u64) -> Result<f64, Error> {
    let mut rates = Vec::new();
    for _ in 0..CAPACITY_ROUNDS {
        rates.push(track.closed(orders, window).await?.orders_per_second());
    }
    rates.sort_by(f64::total_cmp);
    Ok(rates[rates.len() / 2])
}

struct Open<'a> {
    name: &'static str,
    track: &'a mut Track,
    pace: Pace,
}

#[async_trait]
impl Subject for Open<'_> {
    fn name(&self) -> String {
        self.name.into()
    }

    async fn round(&mut self) -> Result<Measured, Error> {
        figures_of(&self.track.open(self.pace).await?)
    }
}

/// The percentiles of an open load. One that did not end has none.
pub(super) fn figures_of(paced: &Paced) -> Result<Measured, Error> {
    if paced.unended > 0 {
        let unended = paced.unended;
        return Err(format!("{unended} orders of an open load have not ended: it was more than could be carried; say smaller --loads").into());
    }
    let (mut measured, to_end) = paced.figures();
    let ends = [("p50_ms", "to_end_p50_ms"), ("p99_ms", "to_end_p99_ms")];
    measured.extend(ends.iter().map(|(name, end)| (*end, to_end[name])));
    measured.insert("behind_plan_max_ms", paced.behind_max.as_secs_f64() * 1e3);
    Ok(measured)
}
