//! `run`: from the settings to a running engine, and orderly down again.
//!
//! ```text
//! settings ─► data folder (locked) ─► engine (recovered, connected) ─► control socket ─► ready ─► stop: control, engine, traces
//! ```

use super::{
    Cli, RunArgs,
    out::{Paint, Trouble, note},
    settings,
};
use crate::{
    Orchestrator, StartError,
    config::{BrokerName, Settings, World},
    control::Server,
    engine::{Engine, EngineError},
    http::HttpServer,
    store::{DataFolder, FolderError},
    telemetry::{Observer, Traces, TracesSettings, logs::install_logs},
};
use dirigent_connectors::ConnectorError;
use std::{path::Path, process::ExitCode, sync::Arc, time::Duration};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};

/// How long to wait for a data folder that is in use. Who only reads it, as `list` does beside a process that is just starting,
/// is done by then.
const FOLDER_WAIT_MAX: Duration = Duration::from_secs(3);

/// How long an engine that had to end may take over it.
const ENDED_WITHIN: Duration = Duration::from_secs(30);

/// How long to wait between two looks at a folder in use.
const FOLDER_LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long the last traces may take to reach their collector.
const TRACES_WITHIN: Duration = Duration::from_secs(5);

/// Runs until a signal says to stop, or until it can't go on.
pub(super) async fn run(cli: Cli, args: RunArgs) -> Result<ExitCode, Trouble> {
    let settings = settings::usable(&cli, &args.settings, &World::here())?;
    settings::warn(&settings.warnings);
    settings::warn(&settings::oddities(&cli, &settings));
    cli.registry()?;
    // Whoever embeds the command line may log in a way of its own.
    if let Err(error) = install_logs(settings.log_format, &settings.log_filter) {
        tracing::debug!(%error, "Logs are left as they are.");
    }
    let mut signals = Signals::listen()?;
    if settings.broker_by().is_some() {
        note(format_args!("broker: {}", settings.broker_told()));
    }
    let started = tokio::select! {
        biased;
        code = signals.next() => at_once(code),
        started = Box::pin(Process::start(cli, &settings)) => started?,
    };
    note(started.ready(&settings));
    tokio::select! {
        code = signals.next() => {
            note("stopping: what was begun is finished; a second signal stops at once");
            tokio::select! {
                biased;
                _ = signals.next() => at_once(code),
                stopped = started.stop() => stopped?,
            }
            note("stopped");
            Ok(ExitCode::SUCCESS)
        }
        () = started.engine.failed() => {
            let ended = tokio::select! {
                biased;
                code = signals.next() => at_once(code),
                ended = tokio::time::timeout(ENDED_WITHIN, started.stop()) => ended,
            };
            let Ok(ended) = ended else {
                // A thread waits for a disk that hangs, and would keep the process for ever.
                note(format!(
                    "the engine had to end and does not within {} s: its disk or a broker does not answer",
                    ENDED_WITHIN.as_secs()
                ));
                at_once(1)
            };
            Err(ended.err().unwrap_or_else(|| Trouble::new("the engine ended by itself")))
        }
    }
}

/// Ends the process as it stands. Nothing is lost: what is durable is recovered at the next start.
fn at_once(code: u8) -> ! {
    note("stopped at once");
    std::process::exit(i32::from(code))
}

/// The signals that say to stop.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Trouble> {
        let listen = |kind| {
            signal(kind).map_err(|error| Trouble::new("listening for signals").because(error))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// The exit code that tells of the next signal, as shells have it.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            Some(()) = self.interrupt.recv() => 130,
            Some(()) = self.terminate.recv() => 143,
            else => std::future::pending().await,
        }
    }
}

/// Everything that runs.
pub(super) struct Process {
    engine: Engine,
    control: Option<Server>,
    http: Option<HttpServer>,
    traces: Option<Arc<Traces>>,
    sagas: Vec<String>,
}

impl Process {
    /// Locks, recovers, connects, listens.
    pub(super) async fn start(cli: Cli, settings: &Settings) -> Result<Self, Trouble> {
        let connector = settings.connector(&cli.memory).map_err(Trouble::of)?;
        if settings.data.is_none() && settings.broker != Some(BrokerName::Memory) {
            return Err(Trouble::new(
                "no data folder is named, and without one nothing would survive a restart",
            )
            .hint("say --data DIR, or set DIRIGENT_DATA"));
        }
        // Before anything that takes long, so that who asks is told that it starts.
        let http = match settings.http {
            Some(address) => Some(HttpServer::open(address).await.map_err(Trouble::of)?),
            None => None,
        };
        let (observer, traces) = observer(&cli, settings)?;
        let mut builder = Orchestrator::builder(&settings.app)
            .connector(connector)
            .durability(settings.durability)
            .unsettled_max(settings.unsettled_max)
            .body_bytes_max(settings.body_bytes_max)
            .parked_for(settings.parked_for)
            .headroom_bytes(settings.headroom_bytes)
            .observer(observer);
        builder = builder.protect(settings.protections.all);
        for (channel, protection) in &settings.protections.by_channel {
            builder = builder.protect_at(channel, *protection);
        }
        if let Some(shards) = settings.shards {
            builder = builder.shards(shards);
        }
        let released = settings.schemas.read().map_err(Trouble::of)?;
        builder = builder.released_schemas(released, settings.schemas.compatibility);
        if let Some(registry) = settings.schema_registry().map_err(Trouble::of)? {
            builder = builder.schema_registry(registry);
        }
        if let Some(path) = &settings.data {
            builder = builder.data_folder(lock(path, FOLDER_WAIT_MAX).await?);
        }
        let name = |plan: &Arc<_>| {
            let graph = dirigent_model::definition::Plan::graph(plan);
            format!("{} v{}", graph.name, graph.version)
        };
        let sagas = cli.plans.iter().map(name).collect();
        for plan in cli.plans {
            builder = builder.saga(plan);
        }
        let engine = Box::pin(builder.start()).await.map_err(|error| why_not(error, settings))?;
        let control = match &settings.data {
            None => None,
            Some(path) => match Server::open(path, engine.handle()) {
                Ok(server) => Some(server),
                Err(error) => {
                    let stopped = engine.stop().await;
                    tracing::debug!(?stopped, "The engine was stopped again.");
                    return Err(Trouble::of(error));
                }
            },
        };
        if let Some(http) = &http {
            http.running(engine.handle());
        }
        Ok(Self { engine, control, http, traces, sagas })
    }

    /// The line that says that it runs.
    fn ready(&self, settings: &Settings) -> String {
        let data = match &settings.data {
            Some(path) => format!("data in {}", path.display()),
            None => "everything in memory".into(),
        };
        let broker = settings.broker_shown();
        let http = match &self.http {
            Some(http) => format!(" · http at {}", http.address()),
            None => String::new(),
        };
        let ready = Paint::of_stderr().green("ready:");
        format!("{ready} {} runs {} · {broker} · {data}{http}", settings.app, self.sagas.join(", "))
    }

    /// Takes nothing more in, finishes what was begun, and ends.
    pub(super) async fn stop(self) -> Result<(), Trouble> {
        if let Some(http) = &self.http {
            http.stopping();
        }
        if let Some(control) = self.control {
            control.stop().await;
        }
        let stopped = self.engine.stop().await.map_err(Trouble::of);
        if let Some(traces) = self.traces {
            let sent = tokio::task::spawn_blocking(move || traces.shutdown(TRACES_WITHIN)).await;
            if !sent.unwrap_or(false) {
                tracing::warn!("The last traces did not reach their collector in time.");
            }
        }
        stopped
    }
}

type Observers = (Arc<dyn Observer>, Option<Arc<Traces>>);

fn observer(cli: &Cli, settings: &Settings) -> Result<Observers, Trouble> {
    if let Some(observer) = &cli.observer {
        return Ok((Arc::clone(observer), None));
    }
    let system = settings.broker.map(|broker| broker.to_string());
    let traces = TracesSettings { system, ..TracesSettings::new(&settings.app) };
    let traces = Arc::new(Traces::by_env(traces).map_err(Trouble::of)?);
    Ok((Arc::clone(&traces) as Arc<dyn Observer>, Some(traces)))
}

pub(super) async fn lock(path: &Path, wait: Duration) -> Result<DataFolder, Trouble> {
    let until = Instant::now() + wait;
    loop {
        match DataFolder::open(path) {
            Ok(folder) => return Ok(folder),
            Err(FolderError::InUse { .. }) if Instant::now() < until => {
                tokio::time::sleep(FOLDER_LOOK_AGAIN).await;
            }
            Err(error) => return Err(Trouble::of(error)),
        }
    }
}

/// What a person can do about an engine that did not start.
fn why_not(error: StartError, settings: &Settings) -> Trouble {
    let is_away = matches!(
        &error,
        StartError::Engine(EngineError::Connector(ConnectorError::Unreachable { .. }))
    );
    let trouble = Trouble::of(error);
    if !is_away {
        return trouble;
    }
    let said = match settings.broker {
        Some(BrokerName::Kafka) => "--kafka or DIRIGENT_KAFKA",
        Some(BrokerName::RabbitMq) => "--rabbitmq or DIRIGENT_RABBITMQ",
        Some(BrokerName::Memory) | None => return trouble,
    };
    trouble.hint(format!(
        "start the broker, or say where it is by {said}; --wait-for-broker SECONDS waits longer for one that is starting"
    ))
}
