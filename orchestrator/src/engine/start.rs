//! Starting and stopping: what runs on which thread, and who waits for whom.

use super::{
    Shared, ToShard,
    assembly::{Assembly, Folder, Turns},
    clock::Clock,
    handle::Handle,
    shard::Fatal,
};
use crate::{
    destinations::Protections,
    journal::{Disk, JournalOptions},
    registry::Registry,
    relay::Relay,
    store::Store,
    telemetry::Observer,
};
use dirigent_connectors::{ChannelSpec, Connector, ConnectorError};
use dirigent_model::message::Codec;
use dirigent_schemas::registry::SchemaRegistry;
use futures::FutureExt;
use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

/// One connector and what it is to be read and prepared for.
pub struct Lane {
    /// The connector.
    pub connector: Arc<dyn Connector>,
    /// Channels to read.
    pub reads: Vec<ChannelSpec>,
    /// Channels to be there before anything is sent.
    pub prepares: Vec<ChannelSpec>,
    /// Channels whose messages leave by it; the first lane takes what no lane names.
    pub carries: Vec<String>,
}

/// What an engine is made of.
pub struct EngineParts {
    /// The application's name.
    pub app: String,
    /// The channel that replies go to.
    pub replies: String,
    /// The channel that dead letters go to.
    pub dead_letters: String,
    /// The definitions.
    pub registry: Registry,
    /// Reads and writes bodies that are not JSON.
    pub codec: Arc<dyn Codec>,
    /// Told of ids that the codec does not know, before a message is handed on.
    pub schemas: Option<Arc<SchemaRegistry>>,
    /// The connectors.
    pub lanes: Vec<Lane>,
    /// Where instances rest.
    pub store: Arc<dyn Store>,
    /// Where the journal lies.
    pub disk: Arc<dyn Disk>,
    /// How the journal is kept.
    pub journal: JournalOptions,
    /// Bytes to be free on the disk before anything is taken in; a tenth of a small disk; 0 for not looking.
    pub headroom_bytes: u64,
    /// How many shards.
    pub shards: usize,
    /// Deliveries of one source that may be unsettled.
    pub unsettled_max: usize,
    /// The largest body that is looked into, in bytes.
    pub body_bytes_max: usize,
    /// How long an event waits for an instance that is not there yet.
    pub parked_for: Duration,
    /// What destinations are given at the most.
    pub protections: Protections,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Takes facts in.
    pub observer: Arc<dyn Observer>,
}

/// Why an engine did not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A broker.
    #[error(transparent)]
    Connector(#[from] ConnectorError),
    /// Journal, store, or what is in them.
    #[error("recovering what the data folder holds")]
    Recovery(#[source] Fatal),
    /// Running instances need a definition that is not here.
    #[error(
        "running instances need definitions that this process does not have: {missing}; start it with them, or end those instances with the release that has them"
    )]
    DefinitionsMissing {
        /// Which, and how many instances.
        missing: String,
    },
    /// The data folder is another application's.
    #[error(
        "the data folder belongs to application `{owner}`, not to `{app}`: replies to what is in flight come on the channels of `{owner}`, where nobody would read them; say --app {owner}, or choose another folder with --data; if `{owner}` was a mistake, let what it began end under that name, and begin anew in another folder"
    )]
    AnotherApp {
        /// Whose it is.
        owner: String,
        /// Who wanted it.
        app: String,
    },
    /// The data folder is no engine's.
    #[error(
        "the data folder is one in which a participant keeps its answers; choose another one with --data"
    )]
    Participants,
    /// A thread could not be made.
    #[error("starting a thread")]
    Thread(#[source] std::io::Error),
    /// It had to end by itself.
    #[error("the engine had to end")]
    Failed(#[source] Fatal),
}

/// A running engine.
pub struct Engine {
    handle: Handle,
    intakes: Vec<JoinHandle<()>>,
    shards: Vec<JoinHandle<()>>,
    committer: JoinHandle<()>,
    watcher: JoinHandle<()>,
    relays: tokio::task::JoinSet<()>,
}

impl Engine {
    /// Recovers, connects and starts.
    pub async fn start(parts: EngineParts) -> Result<Self, EngineError> {
        let folder = Folder::of(&parts);
        let read = tokio::task::spawn_blocking(move || folder.recover());
        let read = read.await.map_err(|error| EngineError::Recovery(error.into()))??;
        let assembly = Assembly::of(parts, read, Turns::OfThreads).await?;
        Self::run(assembly)
    }

    /// Gives each part its thread.
    fn run(assembly: Assembly) -> Result<Self, EngineError> {
        let Assembly { handle, intakes, shards, committer, watcher, relays: waiting } = assembly;
        let shared = &handle.shared;
        let mut relays = tokio::task::JoinSet::new();
        for relay in waiting {
            relays.spawn(guarded(Arc::clone(shared), relay));
        }
        let committer = spawn(shared, "committer".into(), move || committer.run())?;
        let mut shard_threads = Vec::new();
        for (index, shard) in shards.into_iter().enumerate() {
            shard_threads.push(spawn(shared, format!("shard {index}"), move || shard.run())?);
        }
        let look = move || {
            watcher.run();
            Ok(())
        };
        let watcher = spawn(shared, "disk watch".into(), look)?;
        let runtime = tokio::runtime::Handle::current();
        let mut intake_threads = Vec::new();
        for (index, intake) in intakes.into_iter().enumerate() {
            let runtime = runtime.clone();
            let work = move || runtime.block_on(intake.run());
            intake_threads.push(spawn(shared, format!("intake {index}"), work)?);
        }
        Ok(Engine {
            intakes: intake_threads,
            shards: shard_threads,
            committer,
            watcher,
            relays,
            handle,
        })
    }

    /// For questions and operators.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits until the engine has to end by itself.
    pub async fn failed(&self) {
        let shared = &self.handle.shared;
        while !shared.is_stopping() {
            let ended = shared.ended.notified();
            if shared.is_stopping() {
                return;
            }
            ended.await;
        }
    }

    /// Takes nothing more in, finishes what was begun, writes a checkpoint, and ends. What is not confirmed is sent
    /// again after the next start.
    pub async fn stop(self) -> Result<(), EngineError> {
        let Self { handle, intakes, shards, committer, watcher, mut relays } = self;
        let shared = Arc::clone(&handle.shared);
        shared.stopping.store(true, Ordering::Release);
        shared.ended.notify_waiters();
        let threads = tokio::task::spawn_blocking(move || {
            let mut sound = join_all(intakes);
            for shard in &handle.shards {
                shard.send(ToShard::Stop).unwrap_or_default();
            }
            sound &= join_all(shards);
            drop(handle);
            sound &= join_all(vec![committer]);
            watcher.thread().unpark();
            sound & join_all(vec![watcher])
        });
        let sound = threads.await.unwrap_or(false);
        relays.abort_all();
        while relays.join_next().await.is_some() {}
        let failure = shared.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        match failure {
            Some(cause) => Err(EngineError::Failed(cause)),
            None if !sound => Err(EngineError::Failed("one of its threads panicked".into())),
            None => Ok(()),
        }
    }
}

fn join_all(threads: Vec<JoinHandle<()>>) -> bool {
    // All are joined, whatever the first of them says.
    let panicked = threads.into_iter().filter_map(|thread| thread.join().err()).count();
    panicked == 0
}

/// Runs a relay whose error, or panic, ends the engine.
async fn guarded(shared: Arc<Shared>, relay: Relay) {
    match std::panic::AssertUnwindSafe(relay.run()).catch_unwind().await {
        Ok(Ok(())) => {}
        Ok(Err(fenced)) => shared.fail("A relay was fenced off", fenced.into()),
        Err(_) => shared.fail("A relay panicked", "a promise of this program was broken".into()),
    }
}

/// Runs a thread whose error, or panic, ends the engine.
fn spawn(
    shared: &Arc<Shared>,
    name: String,
    work: impl FnOnce() -> Result<(), Fatal> + Send + 'static,
) -> Result<JoinHandle<()>, EngineError> {
    let shared = Arc::clone(shared);
    let what = name.clone();
    let guarded = move || match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(Ok(())) => {}
        Ok(Err(cause)) => shared.fail(&format!("The {what} failed"), cause),
        Err(_) => shared
            .fail(&format!("The {what} panicked"), "a promise of this program was broken".into()),
    };
    std::thread::Builder::new().name(name).spawn(guarded).map_err(EngineError::Thread)
}
