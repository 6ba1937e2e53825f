//! `bench scale`: throughput, latency, memory and disk with thousands and with millions of live instances at rest, whose times are far away.
//! `bench open`: from the start of a process to its first settled input, after `kill -9` under load.
//!
//! For each number of instances there is a folder, filled once and kept where it is asked for, and a process of its own on it. All processes
//! run at once and take turns: whatever the machine does meets all of them.

use super::{
    Error, Scratch,
    alternate::{Measurements, Subject, Turns, alternate, named},
    figures::{Measured, rounded},
    measured::{Asked, Process, number},
};
use async_trait::async_trait;
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

/// What says that a folder was filled to the end.
const FILLED: &str = "filled.json";

/// For how long a folder that was filled is used: the first of its times are over after a day.
const FILLED_FOR: Duration = Duration::from_secs(12 * 60 * 60);

/// Which instances rest, and where.
#[derive(Debug, Clone, clap::Args)]
pub struct Rest {
    /// Live instances at rest, several numbers to compare them.
    #[arg(long, value_delimiter = ',', default_value = "10000,1000000")]
    pub live: Vec<u64>,
    /// Keeps the filled folders here, and takes those that are there already; else they are made for this run alone.
    #[arg(long, value_name = "FOLDER")]
    pub keep: Option<PathBuf>,
    /// Rounds, and how long at the most.
    #[command(flatten)]
    pub turns: Turns,
}

/// How scale is measured.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// What rests.
    #[command(flatten)]
    pub rest: Rest,
    /// Orders of each closed load.
    #[arg(long, default_value_t = 40_000)]
    pub orders: u64,
    /// Orders in flight at once in it.
    #[arg(long, default_value_t = 4_000)]
    pub window: u64,
    /// Seconds that a process is left alone before its memory is looked at.
    #[arg(long, default_value_t = 2.0)]
    pub rest_seconds: f64,
    /// Pace of the open load, in percent of what goes with the fewest instances.
    #[arg(long, default_value_t = 50.0)]
    pub load: f64,
    /// Seconds of each open load.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
}

/// How opening is measured.
#[derive(Debug, Clone, clap::Args)]
pub struct OpenSettings {
    /// What rests.
    #[command(flatten)]
    pub rest: Rest,
    /// Orders per second before each kill.
    #[arg(long, default_value_t = 5_000.0)]
    pub pace: f64,
    /// Seconds of load before each kill.
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
}

/// Folders with instances at rest.
struct Folders {
    /// Goes with them, unless they are kept.
    _scratch: Option<Scratch>,
    by_live: BTreeMap<u64, (PathBuf, Value)>,
}

impl Folders {
    async fn filled(rest: &Rest) -> Result<Self, Error> {
        let scratch = rest.keep.is_none().then(Scratch::new).transpose()?;
        let place = rest.keep.as_deref().or(scratch.as_ref().map(Scratch::path));
        let place = place.ok_or("folders have a place")?.to_owned();
        std::fs::create_dir_all(&place)?;
        let mut by_live = BTreeMap::new();
        for live in &rest.live {
            let folder = place.join(format!("live-{live}"));
            let told = filled(&folder, *live).await?;
            by_live.insert(*live, (folder.join("data"), told));
        }
        Ok(Self { _scratch: scratch, by_live })
    }
}

/// A folder with so many, filled now or before; what filling it told.
async fn filled(folder: &Path, live: u64) -> Result<Value, Error> {
    let about = folder.join(FILLED);
    let age = std::fs::metadata(&about).and_then(|about| about.modified()).map(|at| at.elapsed());
    let is_fresh = age.is_ok_and(|age| age.is_ok_and(|age| age < FILLED_FOR));
    if let Some(text) = is_fresh.then(|| std::fs::read_to_string(&about)).transpose()? {
        return Ok(serde_json::from_str(&text)?);
    }
    // One that was not filled to the end, or long ago.
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    std::fs::create_dir_all(folder)?;
    let mut process = Process::start(&folder.join("data")).await?;
    let taken = process.ask(&Asked::Fill { live }).await?;
    process.stop().await?;
    let seconds = number(&taken, "seconds")?.max(1e-3);
    let told = json!({ "starts_per_second": rounded(live as f64 / seconds) });
    std::fs::write(about, told.to_string())?;
    Ok(told)
}

fn name_of(live: u64) -> String {
    format!("{live} at rest")
}

/// Measures with all of them.
pub async fn run(settings: &Settings) -> Result<Value, Error> {
    let rest = &settings.rest;
    let folders = Folders::filled(rest).await?;
    let (mut processes, mut at_rest) = (BTreeMap::new(), Map::new());
    for (live, (data, told)) in &folders.by_live {
        let mut process = Process::start(data).await?;
        tokio::time::sleep(Duration::from_secs_f64(settings.rest_seconds)).await;
        let about = process.ask(&Asked::About).await?;
        at_rest.insert(name_of(*live), about_rest(&about, told, *live)?);
        processes.insert(*live, process);
    }
    let closed = Asked::Closed { orders: settings.orders, window: settings.window };
    let fastest = each(&mut processes, &closed, rest.turns).await?;
    let fewest = processes.keys().next().copied().map(name_of).unwrap_or_default();
    let capacity = fastest.spread(&fewest, "orders_per_second").map_or(1.0, |it| it.median);
    let orders_per_second = capacity * settings.load / 100.0;
    let warm_up = settings.seconds / 5.0;
    let open = Asked::Open { orders_per_second, seconds: settings.seconds, warm_up };
    let paced = each(&mut processes, &open, rest.turns).await?;
    for (live, process) in &mut processes {
        let resident = number(&process.ask(&Asked::About).await?, "resident_bytes")?;
        if let Some(about) = at_rest.get_mut(&name_of(*live)).and_then(Value::as_object_mut) {
            about.insert("resident_after_load_mib".into(), json!(rounded(resident / MIB)));
        }
    }
    for (_, process) in processes {
        process.stop().await?;
    }
    let more = folders.by_live.keys().skip(1);
    let ratios = more.map(|live| {
        let (name, figure) = (name_of(*live), "events_per_second");
        let ratio = fastest.ratio((name.as_str(), figure), (fewest.as_str(), figure));
        (format!("events_per_second, {name} ÷ {fewest}"), ratio)
    });
    Ok(json!({
        "at rest": at_rest,
        "as fast as it goes": fastest.json(),
        "by the clock": paced.json(),
        "ratios": named(ratios),
        "pace_orders_per_second": rounded(orders_per_second),
    }))
}

const MIB: f64 = (1_u64 << 20) as f64;

fn about_rest(about: &Value, told: &Value, live: u64) -> Result<Value, Error> {
    let per_instance = |name| Ok::<_, Error>(rounded(number(about, name)? / live.max(1) as f64));
    Ok(json!({
        "live": about["live"],
        "resident_mib": rounded(number(about, "resident_bytes")? / MIB),
        "store_bytes_per_instance": per_instance("store_bytes")?,
        "data_mib": rounded(number(about, "data_bytes")? / MIB),
        "starts_per_second": told["starts_per_second"],
    }))
}

/// Lets each do the same in turns.
async fn each(
    processes: &mut BTreeMap<u64, Process>,
    asked: &Asked,
    turns: Turns,
) -> Result<Measurements, Error> {
    let subjects = processes.iter_mut().map(|(live, process)| {
        let name = name_of(*live);
        Box::new(Doing { name, process, asked: asked.clone() }) as Box<dyn Subject + '_>
    });
    let mut subjects: Vec<_> = subjects.collect();
    alternate(turns, &mut subjects).await
}

struct Doing<'a> {
    name: String,
    process: &'a mut Process,
    asked: Asked,
}

#[async_trait]
impl Subject for Doing<'_> {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn round(&mut self) -> Result<Measured, Error> {
        let answer = self.process.ask(&self.asked).await?;
        let told = FIGURES.iter().filter(|name| answer.get(**name).is_some());
        told.map(|name| Ok((*name, number(&answer, name)?))).collect()
    }
}

/// What a process tells of a load.
const FIGURES: &[&str] = &[
    "events_per_second",
    "orders_per_second",
    "input_to_durable_p50_ms",
    "input_to_durable_p99.9_ms",
    "longest_stall_ms",
    "p50_ms",
    "p99_ms",
    "p99.9_ms",
    "max_ms",
    "to_end_p50_ms",
    "to_end_p99_ms",
];

/// Kills processes under load, and measures how soon the next ones work.
pub async fn open(settings: &OpenSettings) -> Result<Value, Error> {
    let rest = &settings.rest;
    let folders = Folders::filled(rest).await?;
    let load =
        Asked::Open { orders_per_second: settings.pace, seconds: LOAD.as_secs_f64(), warm_up: 0.0 };
    let lasts = Duration::from_secs_f64(settings.seconds);
    let mut subjects: Vec<Box<dyn Subject>> = Vec::new();
    for (live, (data, _)) in &folders.by_live {
        let (load, data) = (load.clone(), data.clone());
        let mut killed = Opening { name: name_of(*live), data, load, lasts };
        // The first one opens a folder that was closed in order.
        killed.round().await?;
        subjects.push(Box::new(killed));
    }
    let measured = alternate(rest.turns, &mut subjects).await?;
    Ok(json!({ "subjects": measured.json(), "seconds of load before each kill": settings.seconds }))
}

/// A load that never comes to its end before it is killed.
const LOAD: Duration = Duration::from_secs(60 * 60);

struct Opening {
    name: String,
    data: PathBuf,
    load: Asked,
    lasts: Duration,
}

#[async_trait]
impl Subject for Opening {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn round(&mut self) -> Result<Measured, Error> {
        let mut process = Process::start(&self.data).await?;
        let opened = number(&process.opened, "opened_ms")?;
        let settled = number(&process.opened, "first_settled_ms")?;
        process.tell(&self.load).await?;
        tokio::time::sleep(self.lasts).await;
        process.kill().await?;
        Ok(Measured::from([("opened_ms", opened), ("first_settled_ms", settled)]))
    }
}
