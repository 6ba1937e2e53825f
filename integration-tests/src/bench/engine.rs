//! `bench engine`: durable saga events per second on the memory broker.
//!
//! A saga event is an input that was applied: a start, a reply. It counts once its group is durable and it has been settled.

use super::{Error, floor, responder::respond, timed::Timed};
use dirigent::{Orchestrator, engine::Handle, journal::Durability};
use dirigent_connectors::{
    Attributes, ChannelKind, ChannelSpec, Connector, Message, SourceSpec, memory::MemoryBroker,
    names,
};
use dirigent_model::message::{Body, Format, Message as Named};
use dirigent_schemas::Bodies;
use order::order::{
    Rates,
    messages::{ORDER_EVENTS, ORDERS, OrderPlaced},
    order_saga,
};
use serde_json::json;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How it is measured.
#[derive(Debug, clap::Args)]
pub struct Settings {
    /// Orders in each run.
    #[arg(long, default_value_t = 60_000)]
    pub orders: u64,
    /// Runs; medians are reported.
    #[arg(long, default_value_t = 5)]
    pub runs: usize,
    /// The part of the orders that is refused, from 0.0 to 1.0.
    #[arg(long, default_value_t = 0.1)]
    pub reject_rate: f64,
    /// Orders in flight at once.
    #[arg(long, default_value_t = 4_000)]
    pub window: u64,
    /// Threads of pure work; the engine's default if not said.
    #[arg(long)]
    pub shards: Option<usize>,
    /// Survive a crash of the process only: no sync of the disk.
    #[arg(long)]
    pub process_crash: bool,
    /// One JSON object instead of lines.
    #[arg(long)]
    pub json: bool,
}

struct Run {
    events: u64,
    taken: Duration,
    floor: Duration,
    groups: u64,
    bytes: u64,
    message_bytes: u64,
    p50: Duration,
    p99: Duration,
}

/// Runs it as often as asked, and the floor after each run.
pub async fn run(settings: &Settings) -> Result<serde_json::Value, Error> {
    let mut runs = Vec::new();
    for _ in 0..settings.runs.max(1) {
        runs.push(once(settings).await?);
    }
    let rate = |run: &Run| run.events as f64 / run.taken.as_secs_f64();
    let floor = |run: &Run| run.events as f64 / run.floor.as_secs_f64();
    let micros = |duration: Duration| duration.as_secs_f64() * 1e6;
    let rates: Vec<f64> = runs.iter().map(rate).collect();
    Ok(json!({
        "events_per_second": median(&rates).round(),
        "events_per_second_min": rates.iter().copied().fold(f64::INFINITY, f64::min).round(),
        "events_per_second_max": rates.iter().copied().fold(0.0, f64::max).round(),
        "floor_events_per_second": median(&runs.iter().map(floor).collect::<Vec<_>>()).round(),
        "engine_to_floor": round3(median(&runs.iter().map(|run| rate(run) / floor(run)).collect::<Vec<_>>())),
        "input_to_durable_p50_us": median(&runs.iter().map(|run| micros(run.p50)).collect::<Vec<_>>()).round(),
        "input_to_durable_p99_us": median(&runs.iter().map(|run| micros(run.p99)).collect::<Vec<_>>()).round(),
        "journal_bytes_per_event": median(&runs.iter().map(|run| run.bytes as f64 / run.events as f64).collect::<Vec<_>>()).round(),
        "start_event_bytes_per_event": median(&runs.iter().map(|run| run.message_bytes as f64 / run.events as f64).collect::<Vec<_>>()).round(),
        "events_per_sync": median(&runs.iter().map(|run| run.events as f64 / run.groups as f64).collect::<Vec<_>>()).round(),
        "events_per_run": runs[0].events,
        "runs": runs.len(),
        "durability": if settings.process_crash { "process-crash" } else { "power-loss" },
        "window": settings.window,
    }))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn round3(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

async fn once(settings: &Settings) -> Result<Run, Error> {
    // Beside the build, not in the system's folder for temporary files, which may be in memory.
    let place =
        std::env::current_exe()?.parent().ok_or("a program has a folder")?.join("bench-data");
    std::fs::create_dir_all(&place)?;
    let folder = tempfile::tempdir_in(&place)?;
    let broker = MemoryBroker::new();
    let timed = Timed::new(Arc::new(broker.clone()));
    let codec = Arc::new(Bodies::new());
    let durability =
        if settings.process_crash { Durability::ProcessCrash } else { Durability::PowerLoss };
    let mut builder = Orchestrator::builder("order")
        .saga(order_saga())
        .connector(Arc::new(timed.clone()))
        .codec(codec.clone())
        .data(folder.path())
        .durability(durability);
    if let Some(shards) = settings.shards {
        builder = builder.shards(shards);
    }
    let engine = builder.start().await?;
    let rates = Rates { seed: 7, reject: settings.reject_rate, silent: 0.0 };
    let services = tokio::spawn(respond(broker.clone(), codec.clone(), rates));
    // Somebody listens to the ends, as somebody always does.
    let ends = drain(&broker).await?;
    let handle = engine.handle();
    // Written before the clock starts: customers are no part of what is measured.
    let orders =
        (0..settings.orders).map(|order| start(order, &codec)).collect::<Result<Vec<_>, _>>()?;
    let message_bytes = orders.iter().map(size).sum::<u64>();
    let begun = Instant::now();
    place_orders(settings, &broker, &orders, &handle).await?;
    let taken = begun.elapsed();
    services.abort();
    ends.abort();
    engine.stop().await?;
    let snapshot = handle.snapshot();
    let ended = snapshot.completed + snapshot.compensated;
    if ended != settings.orders {
        return Err(format!("{ended} of {} orders ended", settings.orders).into());
    }
    let (groups, bytes) = (snapshot.syncs, snapshot.journal_bytes_written);
    let floor = floor::append_and_sync(folder.path(), groups, bytes)?;
    let samples = timed.sorted();
    let percentile =
        |part: usize| samples.get(samples.len() * part / 100).copied().unwrap_or_default();
    let events = snapshot.inputs.applied;
    Ok(Run {
        events,
        taken,
        floor,
        groups,
        bytes,
        message_bytes,
        p50: percentile(50),
        p99: percentile(99),
    })
}

/// Places all orders, no more than the window at once, and waits for their ends.
async fn place_orders(
    settings: &Settings,
    broker: &MemoryBroker,
    orders: &[Message],
    handle: &Handle,
) -> Result<(), Error> {
    let mut sink = broker.sink().await?;
    let (mut placed, window) = (0, usize::try_from(settings.window)?);
    loop {
        let snapshot = handle.snapshot();
        let ended = usize::try_from(snapshot.completed + snapshot.compensated)?;
        if ended >= orders.len() {
            return Ok(());
        }
        let left = orders.len() - placed;
        let free = window.saturating_sub(placed - ended).min(left).min(2_000);
        // Orders come in handfuls, so that placing them does not cost the core that is being measured.
        if free < left.min(500) || left == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        sink.send(&orders[placed..placed + free]).await;
        placed += free;
    }
}

fn size(message: &Message) -> u64 {
    let attributes: usize =
        message.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    (message.body.len() + message.key.len() + attributes) as u64
}

fn start(order: u64, codec: &Bodies) -> Result<Message, Error> {
    let placed = OrderPlaced {
        order: i64::try_from(order)?,
        customer: format!("customer-{}", order % 1_000),
        sku: format!("sku-{}", order % 100),
        quantity: 2,
        amount_cents: 4_999,
    };
    let body = Body::write(&placed, Format::Json, codec)?;
    let attributes = Attributes::new()
        .with(names::SPEC_VERSION, "1.0")
        .with(names::ID, format!("order-placed-{order}"))
        .with(names::SOURCE, "/shop")
        .with(names::TYPE, OrderPlaced::NAME)
        .with(names::CONTENT_TYPE, Format::Json.content_type());
    Ok(Message {
        channel: ORDERS.name.into(),
        kind: ChannelKind::Events,
        key: order.to_string(),
        attributes,
        others: vec![],
        body: body.bytes.into(),
    })
}

async fn drain(broker: &MemoryBroker) -> Result<tokio::task::JoinHandle<()>, Error> {
    let spec = SourceSpec {
        channels: vec![ChannelSpec::events(ORDER_EVENTS.name)],
        group: "bench-listener".into(),
        positions: vec![],
        unsettled_max: 8_192,
    };
    let mut source = broker.source(spec).await?;
    Ok(tokio::spawn(async move {
        let settler = source.settler();
        while let Ok(events) = source.receive(4_096).await {
            let settled: Vec<_> = events
                .iter()
                .map(|event| (event.receipt, dirigent_connectors::Settle::Done))
                .collect();
            settler.settle(&settled);
        }
    }))
}
