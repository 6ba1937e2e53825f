//! `bench soak`: an open load for as long as is asked for, looked at each second. What should stay flat is compared between the first fifth
//! of the time and the last: memory, disk, messages that no broker has confirmed, latency.

use super::{
    Error, Scratch,
    alternate::named,
    figures::{SERIES, Spread, rounded},
    house::{Build, House},
    latency::capacity,
    orders::rates,
    stage::{At, Stage, Which},
    system,
    track::Pace,
};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, time::Duration};

/// How it is measured.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// The broker.
    #[arg(long, value_enum, default_value_t = Which::Memory)]
    pub broker: Which,
    /// Minutes of the load.
    #[arg(long, default_value_t = 30.0)]
    pub minutes: f64,
    /// Its pace, in percent of what the engine can do.
    #[arg(long, default_value_t = 70.0)]
    pub load: f64,
    /// Seconds that a saga is kept once it has ended. A week by default in production: then what is kept grows for a week.
    #[arg(long, default_value_t = 60)]
    pub keep_seconds: u64,
    /// Orders of each of three rounds that say what the engine can do.
    #[arg(long, default_value_t = 40_000)]
    pub orders: u64,
    /// Orders in flight at once in those rounds.
    #[arg(long, default_value_t = 4_000)]
    pub window: u64,
    /// The part of the orders that is refused, from 0.0 to 1.0.
    #[arg(long, default_value_t = 0.1)]
    pub reject_rate: f64,
    /// Where the broker is.
    #[command(flatten)]
    pub at: At,
}

/// Points of each line of a plot, at the most.
const POINTS_MAX: usize = 240;

/// What is looked at each second, in the order of the plot.
pub(super) const LOOKED_AT: [&str; 6] =
    ["events_per_second", "p50_ms", "p99_ms", "resident_mib", "data_mib", "unconfirmed_messages"];

/// What is looked at each second.
#[derive(Debug, Default)]
struct Looks(BTreeMap<&'static str, Vec<f64>>);

/// Measures.
pub async fn run(settings: &Settings) -> Result<Value, Error> {
    let stage = Stage::open(settings.broker, &settings.at).await?;
    let data = Scratch::new()?;
    let keep_for = Some(Duration::from_secs(settings.keep_seconds));
    let build = Build { keep_for, ..Build::usual(rates(settings.reject_rate)) };
    let mut house = House::open(&stage, data.path(), build).await?;
    let capacity = capacity(&mut house.track, settings.orders, settings.window).await?;
    let pace = Pace {
        orders_per_second: capacity * settings.load / 100.0,
        lasts: Duration::from_secs_f64(settings.minutes * 60.0),
        warm_up: Duration::ZERO,
    };
    let mut looks = Looks::default();
    let (handle, folder) = (house.handle.clone(), data.path().to_owned());
    let mut applied = handle.snapshot().inputs.applied;
    let each_second = |seen: super::watch::Seen| {
        let snapshot = handle.snapshot();
        let confirmed: u64 = snapshot.confirmed.iter().sum();
        let events = snapshot.inputs.applied.saturating_sub(applied);
        applied = snapshot.inputs.applied;
        let ms = |part| seen.to_command.quantile(part).as_secs_f64() * 1e3;
        let mib = |bytes: u64| bytes as f64 / (1_u64 << 20) as f64;
        looks.note([
            events as f64,
            ms(0.5),
            ms(0.99),
            mib(system::resident_bytes().unwrap_or_default()),
            mib(system::disk_bytes(&folder)),
            snapshot.sent.saturating_sub(confirmed) as f64,
        ]);
    };
    let paced = house.track.open_with(pace, each_second).await?;
    house.close().await?;
    if paced.unended > 0 {
        return Err(format!("{} orders of the load have not ended", paced.unended).into());
    }
    let (first, last) = (looks.fifth(true), looks.fifth(false));
    let ratios = LOOKED_AT.iter().map(|name| {
        let (first, last) = (first.get(name), last.get(name));
        let ratio = first.zip(last).map(|(first, last)| last.median / first.median);
        (format!("{name}, last fifth ÷ first"), ratio.and_then(|ratio| Spread::of(&[ratio])))
    });
    let of = |fifth: &BTreeMap<&str, Spread>| {
        let figures = fifth.iter().map(|(name, spread)| ((*name).to_owned(), spread.json()));
        Value::Object(figures.collect::<Map<_, _>>())
    };
    Ok(json!({
        "broker": format!("{}, {}", settings.broker.word(), stage.how),
        "minutes": settings.minutes,
        "pace_orders_per_second": rounded(pace.orders_per_second),
        "orders_of_the_whole": paced.seen.to_end.count(),
        "longest_latency_ms": rounded(paced.seen.to_command.max().as_secs_f64() * 1e3),
        "subjects": { "first fifth": of(&first), "last fifth": of(&last) },
        "ratios": named(ratios),
        SERIES: looks.series(),
    }))
}

impl Looks {
    fn note(&mut self, values: [f64; LOOKED_AT.len()]) {
        for (name, value) in LOOKED_AT.iter().zip(values) {
            self.0.entry(name).or_default().push(value);
        }
    }

    fn fifth(&self, is_first: bool) -> BTreeMap<&'static str, Spread> {
        let of = |values: &Vec<f64>| {
            let fifth = values.len().div_ceil(5);
            Spread::of(match is_first {
                true => &values[..fifth],
                false => &values[values.len() - fifth..],
            })
        };
        self.0.iter().filter_map(|(name, values)| Some((*name, of(values)?))).collect()
    }

    /// What is plotted: of seconds that share a point the largest value, so that no peak is lost.
    fn series(&self) -> Value {
        let seconds = self.0.values().map(Vec::len).max().unwrap_or_default();
        let share = seconds.div_ceil(POINTS_MAX).max(1);
        let lines = self.0.iter().map(|(name, values)| {
            let points = values.chunks(share).filter_map(|of| of.iter().copied().reduce(f64::max));
            ((*name).to_owned(), json!(points.map(rounded).collect::<Vec<_>>()))
        });
        let mut series: Map<String, Value> = lines.collect();
        series.insert("seconds_of_a_point".into(), json!(share));
        Value::Object(series)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifths_are_compared_and_no_peak_is_lost_in_the_plot() {
        let mut looks = Looks::default();
        (0..1_000).for_each(|second| looks.note([f64::from(second); LOOKED_AT.len()]));
        assert_eq!(looks.fifth(true)["p99_ms"].median, 100.0);
        assert_eq!(looks.fifth(false)["p99_ms"].median, 900.0);
        let series = looks.series();
        assert_eq!(series["seconds_of_a_point"], 5);
        let points = series["p99_ms"].as_array().unwrap();
        assert_eq!((points.len(), &points[0], &points[199]), (200, &json!(4.0), &json!(999.0)));
    }
}
