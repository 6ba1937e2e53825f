//! The demo: orchestrator, services and customers in one process; and the services and the customers alone.
//!
//! ```text
//! customers ─► broker ─► orchestrator ─► broker ─► services with ledgers
//!                              └──── sagas ──► reconciliation ◄── ledgers ────┘
//! ```

mod apart;
mod args;
mod at_rest;
mod broker;
mod conformance;
mod customers;
mod external;
mod registry;
mod report;
mod stores;
mod tables;

pub use args::{
    AddressArgs, BrokerKind, ConformanceArgs, DemoArgs, ParticipantsArgs, PostgresArgs,
    PublishArgs, RateArgs, ReconcileArgs, RegistryArgs, Verb,
};
pub use at_rest::{AtRest, AtRestFailed, reconcile_at_rest};
pub use broker::{DELAY_MAX, Found, NoBroker, find, find_shared, look_for_run, tell_of_looking};
pub use conformance::{NotPlayed, conformance};
pub use customers::{Customers, WINDOW_MAX};
pub use external::ExternalFailed;
pub use report::{Ledger, Report};
pub use stores::NoStore;
pub use tables::NoTables;

use crate::{
    ledger,
    order::{
        OrderTiming, Reconciliation, SagaEnd, order_saga_with, reconcile, samples::Service,
        services::services,
    },
    trip::trip_saga,
};
use dirigent::{
    Orchestrator, PublishError,
    engine::{Engine, Handle, InstanceView, ListFilter, Snapshot},
    participant::{Participant, ParticipantError, Running},
    store::{Store, StoreError},
    telemetry::Traces,
};
use dirigent_connectors::Connector;
use dirigent_model::instance::Status;
use dirigent_schemas::registry::{RegistryError, SchemaRegistry};
use external::External;
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    fs, io,
    io::{IsTerminal, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tables::Tables;
use uuid::Uuid;

/// Orders under way at the most: a few windows of every queue on the way, far from filling any.
const IN_FLIGHT_MAX: u64 = 4_000;

/// How often the demo looks at what is going on.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// After how long without any progress the demo gives up. Longer than anything [`OrderTiming`] lets wait, a person apart.
const STALLED_AFTER: Duration = Duration::from_secs(180);

/// How long the services may take after the last saga has ended to take in what is still on its way to them.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);

/// Why a demo has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// There is no broker.
    #[error(transparent)]
    NoBroker(#[from] NoBroker),
    /// A folder can't be used.
    #[error("{doing} {}; check the permissions and the disk, or choose another folder with --data", .path.display())]
    Folder {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Something else lies in the folder.
    #[error(
        "folder {} is no demo's, and something else lies in it ({name}); choose a new or an empty one with --data", .path.display()
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// What.
        name: String,
    },
    /// A service has no store.
    #[error(transparent)]
    NoStore(#[from] NoStore),
    /// The ledgers in PostgreSQL.
    #[error(transparent)]
    NoTables(#[from] NoTables),
    /// A service did not start, or had to end.
    #[error(transparent)]
    Participant(#[from] ParticipantError),
    /// The program that was to be the inventory.
    #[error("running another inventory")]
    External(#[from] ExternalFailed),
    /// The settings of the schema registry.
    #[error("reading the settings of the schema registry")]
    Settings(#[source] Box<dirigent::config::ConfigErrors>),
    /// The schema registry.
    #[error(transparent)]
    Registry(Box<RegistryError>),
    /// The orchestrator did not start.
    #[error("starting the orchestrator")]
    Start(#[source] Box<dirigent::StartError>),
    /// The orchestrator had to end.
    #[error("running the orchestrator")]
    Engine(#[source] Box<dirigent::engine::EngineError>),
    /// An order can't be placed.
    #[error("placing orders")]
    Customers(#[source] Box<PublishError>),
    /// The sagas can't be read.
    #[error("reading the sagas")]
    Sagas(#[source] StoreError),
    /// A ledger can't be read.
    #[error("reading the ledger of {service}")]
    Ledger {
        /// Whose.
        service: &'static str,
        /// What the store says.
        #[source]
        source: StoreError,
    },
}

/// Runs a demo to its end, and tells its traces.
///
/// # Errors
/// Something needed for it is not to be had.
pub async fn demo(args: &DemoArgs, traces: &Arc<Traces>) -> Result<Report, DemoError> {
    let place = Place::of(args)?;
    let registry = registry::find(&args.registry, &args.address)?;
    let found = find(args.broker, &args.address).await?;
    let mut connector = match args.broker {
        BrokerKind::Memory => Arc::clone(&found.connector),
        BrokerKind::Kafka | BrokerKind::Rabbitmq => {
            broker::apart(Arc::clone(&found.connector), &place.prefix)
        }
    };
    if args.chaos {
        connector = broker::chaos(connector, args.rates.seed);
    }
    // Before anybody sends: events nobody listens to are gone.
    let mut participants = services(args.rates.rates());
    let mut external = external(args, &found, &place)?;
    if external.is_some() {
        participants.retain(|(name, _)| *name != Service::Inventory.name());
    }
    let tables = Tables::at(&args.postgres, &place.prefix)?;
    let services = Services::start(
        participants,
        &connector,
        stores::Stores { folder: place.services.as_deref(), tables },
        registry.as_ref(),
        traces,
    )
    .await?;
    let is_hurried = args.chaos || args.rates.silent_rate > 0.0;
    let timing = if is_hurried { OrderTiming::brisk() } else { OrderTiming::default() };
    let mut builder = Orchestrator::builder("order");
    if let Some(registry) = registry {
        builder = builder.schema_registry(registry);
    }
    let engine = builder
        .saga(order_saga_with(&timing))
        .saga(trip_saga())
        .connector(Arc::clone(&connector))
        .data(&place.orchestrator)
        .observer(Arc::clone(traces) as Arc<dyn dirigent::telemetry::Observer>)
        .start()
        .await
        .map_err(|error| DemoError::Start(Box::new(error)))?;
    // A folder that was used before has counts of its own; what this run does is counted from here.
    let before = engine.handle().snapshot();
    let watched = tokio::select! {
        watched = watch(args, &engine, &connector) => watched,
        failed = ended_early(&mut external) => Err(failed.into()),
    };
    let found_out = match watched {
        Ok(seconds) => settled(args, &engine.handle(), &services, &external)
            .await
            .map(|found| (seconds, found)),
        Err(error) => Err(error),
    };
    let handle = engine.handle();
    let stopped = engine.stop().await;
    services.stop().await?;
    if let Some(external) = external {
        external.stop().await;
    }
    stopped.map_err(|error| DemoError::Engine(Box::new(error)))?;
    let (seconds, details) = found_out?;
    Ok(report(&before, &handle.snapshot(), details, seconds, found.how))
}

/// The inventory that is a program of its own, where one was named.
fn external(args: &DemoArgs, found: &Found, place: &Place) -> Result<Option<External>, DemoError> {
    let Some(line) = &args.inventory else { return Ok(None) };
    let Some(address) = &found.address else { return Err(NoBroker::MemoryIsNotForOthers.into()) };
    let folder = place.orchestrator.parent().unwrap_or(&place.orchestrator);
    Ok(Some(External::start(line, args, address, &place.prefix, folder)?))
}

async fn ended_early(external: &mut Option<External>) -> ExternalFailed {
    match external {
        Some(external) => external.ended().await,
        None => std::future::pending().await,
    }
}

/// Places the orders, a window at a time, until all have ended. The seconds it took.
async fn watch(
    args: &DemoArgs,
    engine: &Engine,
    connector: &Arc<dyn Connector>,
) -> Result<f64, DemoError> {
    let mut customers = Customers::at(connector, args.rates.seed).await.map_err(not_placed)?;
    let handle = engine.handle();
    let bar = progress_bar(args);
    let began = Instant::now();
    let (mut placed, mut last, mut progressed) = (0_u32, handle.snapshot(), Instant::now());
    loop {
        let snapshot = handle.snapshot();
        let ended = ended(&snapshot);
        bar.set_position(ended);
        if snapshot.inputs != last.inputs {
            progressed = Instant::now();
        }
        last = snapshot;
        if placed == args.orders && last.started >= u64::from(args.orders) && last.in_flight == 0 {
            break;
        }
        if progressed.elapsed() > STALLED_AFTER {
            tracing::error!(
                in_flight = last.in_flight,
                blocked = last.blocked,
                "Nothing has happened for a long time, giving up."
            );
            break;
        }
        let under_way = u64::from(placed).saturating_sub(ended);
        if placed < args.orders && under_way < IN_FLIGHT_MAX {
            let count = WINDOW_MAX.min(args.orders - placed);
            customers.place(i64::from(placed) + 1, count).await.map_err(not_placed)?;
            placed += count;
            continue;
        }
        tokio::select! {
            () = engine.failed() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    bar.finish_and_clear();
    Ok(began.elapsed().as_secs_f64())
}

fn not_placed(error: PublishError) -> DemoError {
    DemoError::Customers(Box::new(error))
}

fn ended(snapshot: &Snapshot) -> u64 {
    snapshot.completed + snapshot.compensated + snapshot.killed
}

fn progress_bar(args: &DemoArgs) -> ProgressBar {
    if args.json || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("{bar:40} {pos}/{len} orders ended, {per_sec}, {eta} left");
    let bar = ProgressBar::new(args.orders.into());
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Reconciles once everything on its way has arrived: as soon as it balances, or when it had its time.
async fn settled(
    args: &DemoArgs,
    handle: &Handle,
    services: &Services,
    external: &Option<External>,
) -> Result<Reconciliation, DemoError> {
    if args.chaos {
        // What is held back comes now: it must change nothing.
        tokio::time::sleep(2 * DELAY_MAX).await;
    }
    let until = Instant::now() + SETTLED_WITHIN;
    loop {
        let mut entries = services.entries()?;
        if let Some(external) = external {
            entries.extend(external.entries().await?);
        }
        let found = reconcile(entries, sagas(handle).map_err(DemoError::Sagas)?);
        if found.balanced || Instant::now() >= until {
            return Ok(found);
        }
        tokio::time::sleep(LOOK_EVERY * 10).await;
    }
}

fn sagas(handle: &Handle) -> Result<Vec<SagaEnd>, StoreError> {
    let filter = ListFilter { saga: Some("order".into()), ..ListFilter::default() };
    Ok(handle.list(&filter)?.iter().filter_map(end_of).collect())
}

/// How far a saga has come; nothing for one whose key is no order.
fn end_of(view: &InstanceView) -> Option<SagaEnd> {
    let status = match view.status.as_str() {
        "completed" => Status::Completed,
        "compensated" => Status::Compensated,
        "killed" => Status::Killed,
        _ => Status::Running,
    };
    view.key.as_str().parse().ok().map(|order| SagaEnd { order, status })
}

/// Sagas as the folder knows them; messages as this run has seen them, since only its time was taken.
fn report(
    before: &Snapshot,
    snapshot: &Snapshot,
    details: Reconciliation,
    seconds: f64,
    broker: String,
) -> Report {
    let consumed = |at: &Snapshot| at.inputs.consumed();
    let of_no_use = |at: &Snapshot| at.inputs.duplicate + at.inputs.ignored;
    let events_consumed = consumed(snapshot).saturating_sub(consumed(before));
    Report {
        started: snapshot.started,
        completed: snapshot.completed,
        compensated: snapshot.compensated,
        blocked: snapshot.blocked,
        in_flight: snapshot.in_flight,
        events_consumed,
        duplicates_ignored: of_no_use(snapshot).saturating_sub(of_no_use(before)),
        commands_sent: snapshot.sent.saturating_sub(before.sent),
        ledger: Ledger::from(&details),
        seconds,
        events_per_second: events_consumed as f64 / seconds.max(f64::EPSILON),
        broker,
        details,
    }
}

/// Running services and their stores.
struct Services {
    running: Vec<Running>,
    /// Of those whose ledger is in their store.
    stores: Vec<(&'static str, Arc<dyn Store>)>,
    tables: Option<Tables>,
}

impl Services {
    async fn start(
        participants: impl IntoIterator<Item = (&'static str, Participant)>,
        connector: &Arc<dyn Connector>,
        kept: stores::Stores<'_>,
        registry: Option<&Arc<SchemaRegistry>>,
        traces: &Arc<Traces>,
    ) -> Result<Self, DemoError> {
        let (mut starting, mut stores) = (Vec::new(), Vec::new());
        for (name, participant) in participants {
            let store = kept.open(name)?;
            let mut participant = participant.spans(traces.spans());
            if let Some(registry) = registry {
                participant = participant.schema_registry(Arc::clone(registry));
            }
            starting.push(participant.start(Arc::clone(connector), Arc::clone(&store)));
            if !kept.is_in_tables(name) {
                stores.push((name, store));
            }
        }
        // Side by side: each waits for its broker several times.
        let running = futures::future::try_join_all(starting).await?;
        Ok(Self { running, stores, tables: kept.tables })
    }

    fn entries(&self) -> Result<Vec<ledger::Entry>, DemoError> {
        let mut entries = Vec::new();
        for (service, store) in &self.stores {
            let read = ledger::read(&**store);
            entries.extend(read.map_err(|source| DemoError::Ledger { service, source })?);
        }
        if let Some(tables) = &self.tables {
            entries.extend(tables.entries()?);
        }
        Ok(entries)
    }

    /// Waits until one of them has to end.
    async fn failed(&mut self) -> ParticipantError {
        let ended = self.running.iter_mut().map(|running| Box::pin(running.ended()));
        match futures::future::select_all(ended).await.0 {
            Err(error) => error,
            Ok(()) => std::future::pending().await,
        }
    }

    async fn stop(self) -> Result<(), ParticipantError> {
        for running in self.running {
            running.stop().await?;
        }
        Ok(())
    }
}

/// Runs the services of both sagas until asked to stop.
///
/// # Errors
/// One of them did not start, or had to end.
pub async fn participants(
    args: &ParticipantsArgs,
    stop: impl Future<Output = ()>,
    traces: &Arc<Traces>,
) -> Result<(), DemoError> {
    let registry = registry::find(&args.registry, &args.address)?;
    let found = find_shared(args.broker, &args.address).await?;
    let tables = Tables::at(&args.postgres, tables::SHARED)?;
    let kept = stores::Stores { folder: Some(&args.data), tables };
    let both = services(args.rates.rates()).into_iter().chain(crate::trip::services::services());
    let mut services =
        Services::start(both, &found.connector, kept, registry.as_ref(), traces).await?;
    let names: Vec<_> = services.running.iter().map(Running::name).collect();
    let ready = format!("ready: {} run · {}", names.join(", "), found.how);
    // Whoever started this waits for the line, whatever is logged; a reader that has gone away is no error.
    writeln!(io::stderr(), "{ready}").unwrap_or_default();
    tokio::select! {
        () = stop => {}
        error = services.failed() => return Err(error.into()),
    }
    Ok(services.stop().await?)
}

/// Places orders.
///
/// # Errors
/// There is no broker, or it refuses one.
pub async fn publish(args: &PublishArgs) -> Result<(), DemoError> {
    let found = find_shared(args.broker, &args.address).await?;
    let mut customers = Customers::at(&found.connector, args.seed).await.map_err(not_placed)?;
    let mut placed = 0;
    while placed < args.orders {
        let count = WINDOW_MAX.min(args.orders - placed);
        customers.place(args.from + i64::from(placed), count).await.map_err(not_placed)?;
        placed += count;
    }
    let last = args.from + i64::from(args.orders) - 1;
    let text = match args.orders {
        0 => "no order was placed".to_owned(),
        1 => format!("order {last} was placed"),
        orders => format!("{orders} orders were placed, {} to {last}", args.from),
    };
    writeln!(io::stderr(), "{text}").unwrap_or_default();
    Ok(())
}

/// The sagas' own folder within the one that a demo keeps.
const SAGAS: &str = "orchestrator";

/// The services' folder within it.
const SERVICES: &str = "services";

/// The file in it that says what the channels of a demo begin with.
const CHANNELS: &str = "channels";

/// Where the sagas lie in `folder`: a demo keeps its services beside them, a process of sagas has all of it.
pub fn sagas_of(folder: PathBuf) -> PathBuf {
    let within = folder.join(SAGAS);
    if within.is_dir() { within } else { folder }
}

/// Where a demo keeps what.
struct Place {
    orchestrator: PathBuf,
    /// In memory without a folder of one's own: services die with the demo.
    services: Option<PathBuf>,
    /// What channels begin with at a broker that others use too.
    prefix: String,
    _temporary: Option<tempfile::TempDir>,
}

impl Place {
    fn of(args: &DemoArgs) -> Result<Self, DemoError> {
        let failed = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| DemoError::Folder { doing, path, source }
        };
        let Some(folder) = &args.data else {
            let temporary = tempfile::Builder::new()
                .prefix("order-demo-")
                .tempdir()
                .map_err(failed("making a folder in", &std::env::temp_dir()))?;
            let orchestrator = temporary.path().join(SAGAS);
            return Ok(Self {
                orchestrator,
                services: None,
                prefix: new_prefix(),
                _temporary: Some(temporary),
            });
        };
        fs::create_dir_all(folder).map_err(failed("making the folder", folder))?;
        let name = folder.join(CHANNELS);
        if !name.exists() {
            let mut found = fs::read_dir(folder).map_err(failed("reading the folder", folder))?;
            // What file systems put there, and hidden files, are nobody's.
            let is_something = |name: &str| !name.starts_with('.') && name != "lost+found";
            let names = found.by_ref().flatten().map(|entry| entry.file_name());
            let mut names = names.map(|name| name.to_string_lossy().into_owned());
            if let Some(name) = names.find(|name| is_something(name)) {
                return Err(DemoError::Foreign { path: folder.clone(), name });
            }
        }
        let prefix = match fs::read_to_string(&name) {
            Ok(prefix) => prefix.trim().to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let prefix = new_prefix();
                fs::write(&name, &prefix).map_err(failed("writing", &name))?;
                prefix
            }
            Err(error) => return Err(failed("reading", &name)(error)),
        };
        let (orchestrator, services) = (folder.join(SAGAS), Some(folder.join(SERVICES)));
        Ok(Self { orchestrator, services, prefix, _temporary: None })
    }
}

fn new_prefix() -> String {
    let unique = format!("{}/{}", std::process::id(), now().as_nanos());
    let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, unique.as_bytes()).simple().to_string();
    format!("demo-{}.", &id[..8])
}

/// Since 1970.
fn now() -> Duration {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demo_that_goes_on_counts_the_messages_of_its_own_time() {
        let mut before = Snapshot { started: 20, completed: 20, sent: 90, ..Snapshot::default() };
        before.inputs.applied = 100;
        let done = report(&before, &before, Reconciliation::default(), 0.1, "memory".into());
        assert_eq!((done.started, done.events_consumed, done.commands_sent), (20, 0, 0));
        assert!(done.events_per_second < f64::EPSILON, "{done:?}");
        let mut after = before.clone();
        (after.inputs.applied, after.inputs.duplicate, after.sent) = (130, 5, 95);
        let more = report(&before, &after, Reconciliation::default(), 0.5, "memory".into());
        assert_eq!((more.events_consumed, more.duplicates_ignored, more.commands_sent), (35, 5, 5));
        assert!((more.events_per_second - 70.0).abs() < 1e-9, "{more:?}");
    }

    #[test]
    fn the_sagas_of_a_demo_are_found_by_the_folder_that_it_was_given() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = place.path().to_owned();
        assert_eq!(sagas_of(folder.clone()), folder, "a folder of sagas and nothing else");
        std::fs::create_dir(folder.join(SAGAS)).expect("a folder within");
        assert_eq!(sagas_of(folder.clone()), folder.join(SAGAS));
    }
}
