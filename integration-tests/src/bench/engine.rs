//! `bench engine`: durable saga events per second on the memory broker, beside the same bytes appended and synced.
//!
//! A saga event is an input that was applied: a start, a reply. It counts once its group is durable and it has been settled. Each round begins
//! with a folder of its own; the floor of a round is the journal's bytes of that very round, in as many groups.

use super::{
    Error, Scratch,
    alternate::{Subject, Turns, alternate, named},
    figures::Measured,
    floor::{self, Written},
    house::{Build, House},
    orders::rates,
    stage::Stage,
    system,
};
use async_trait::async_trait;
use clap::ValueEnum;
use dirigent::journal::Durability;
use order::order::rates::Rates;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};

/// How it is measured.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// Orders in each round.
    #[arg(long, default_value_t = 60_000)]
    pub orders: u64,
    /// The part of the orders that is refused, from 0.0 to 1.0.
    #[arg(long, default_value_t = 0.1)]
    pub reject_rate: f64,
    /// Orders in flight at once.
    #[arg(long, default_value_t = 4_000)]
    pub window: u64,
    /// Threads of pure work, several numbers for one after the other; the engine's default if not said.
    #[arg(long, value_delimiter = ',')]
    pub shards: Vec<usize>,
    /// What a settled input survives.
    #[arg(long, value_enum, default_value_t = Survives::PowerLoss)]
    pub durability: Survives,
    /// Rounds, and how long at the most.
    #[command(flatten)]
    pub turns: Turns,
}

/// What is survived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Survives {
    /// A power cut: each group is synced.
    PowerLoss,
    /// A crash of the process: each group is handed to the system.
    ProcessCrash,
    /// One after the other.
    Both,
}

impl Survives {
    fn levels(self) -> &'static [Durability] {
        match self {
            Self::PowerLoss => &[Durability::PowerLoss],
            Self::ProcessCrash => &[Durability::ProcessCrash],
            Self::Both => &[Durability::PowerLoss, Durability::ProcessCrash],
        }
    }
}

/// Measures every engine that was asked for in turns, each with its floor behind it.
pub async fn run(settings: &Settings) -> Result<Value, Error> {
    let rates = rates(settings.reject_rate);
    let shards: Vec<Option<usize>> = match settings.shards.is_empty() {
        true => vec![None],
        false => settings.shards.iter().copied().map(Some).collect(),
    };
    let mut subjects: Vec<Box<dyn Subject>> = Vec::new();
    let mut names = Vec::new();
    for durability in settings.durability.levels() {
        for shards in &shards {
            let name = name_of(*durability, *shards);
            let written = Arc::new(Mutex::new(Written::default()));
            let floor = format!("{name}: floor");
            names.push((name.clone(), floor.clone()));
            subjects.push(Box::new(Engine {
                name,
                orders: settings.orders,
                window: settings.window,
                build: Build { durability: *durability, shards: *shards, ..Build::usual(rates) },
                rates,
                written: Arc::clone(&written),
            }));
            subjects.push(Box::new(Floor { name: floor, written }));
        }
    }
    let measured = alternate(settings.turns, &mut subjects).await?;
    let ratios = names.iter().map(|(engine, floor)| {
        let of = |figure| measured.ratio((engine.as_str(), figure), (floor.as_str(), figure));
        (format!("{engine} ÷ floor"), of(EVENTS_PER_SECOND))
    });
    Ok(json!({
        "subjects": measured.json(),
        "ratios": named(ratios),
        "orders in each round": settings.orders,
        "orders in flight": settings.window,
    }))
}

/// The figure that is compared.
const EVENTS_PER_SECOND: &str = "events_per_second";

fn name_of(durability: Durability, shards: Option<usize>) -> String {
    let survives = match durability {
        Durability::PowerLoss => "power-loss",
        Durability::ProcessCrash => "process-crash",
    };
    match shards {
        None => survives.to_owned(),
        Some(1) => format!("{survives}, 1 shard"),
        Some(shards) => format!("{survives}, {shards} shards"),
    }
}

struct Engine {
    name: String,
    orders: u64,
    window: u64,
    build: Build,
    rates: Rates,
    written: Arc<Mutex<Written>>,
}

#[async_trait]
impl Subject for Engine {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn round(&mut self) -> Result<Measured, Error> {
        let data = Scratch::new()?;
        let build = Build { rates: self.rates, ..self.build };
        let mut house = House::open(&Stage::memory(), data.path(), build).await?;
        house.timed.take();
        let (before, disk_before) = (house.handle.snapshot(), system::written_bytes());
        let closed = house.track.closed(self.orders, self.window).await?;
        let (after, disk_after) = (house.handle.snapshot(), system::written_bytes());
        let noted = house.timed.take();
        house.close().await?;
        let groups = after.syncs - before.syncs;
        let bytes = after.journal_bytes_written - before.journal_bytes_written;
        let synced = self.build.durability == Durability::PowerLoss;
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) =
            Written { groups, bytes, synced, events: closed.events };
        let per_event = |bytes: u64| bytes as f64 / closed.events as f64;
        let micros = |part| noted.to_durable.quantile(part).as_secs_f64() * 1e6;
        let mut measured = Measured::from([
            (EVENTS_PER_SECOND, closed.events_per_second()),
            ("input_to_durable_p50_us", micros(0.5)),
            ("input_to_durable_p99_us", micros(0.99)),
            ("journal_bytes_per_event", per_event(bytes)),
            ("message_bytes_per_event", noted.bytes_per_delivery()),
            ("journal_bytes_per_message_byte", per_event(bytes) / noted.bytes_per_delivery()),
            ("events_per_sync", closed.events as f64 / groups.max(1) as f64),
        ]);
        if let (Some(before), Some(after)) = (disk_before, disk_after) {
            measured.insert("disk_bytes_per_event", per_event(after - before));
        }
        Ok(measured)
    }
}

struct Floor {
    name: String,
    written: Arc<Mutex<Written>>,
}

#[async_trait]
impl Subject for Floor {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn round(&mut self) -> Result<Measured, Error> {
        let data = Scratch::new()?;
        let written = *self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = data.path().to_owned();
        let append = move || floor::append(&folder, written);
        let taken = tokio::task::spawn_blocking(append).await??;
        let events_per_second = written.events as f64 / taken.as_secs_f64();
        Ok(Measured::from([(EVENTS_PER_SECOND, events_per_second)]))
    }
}
