//! Starting and stopping: what runs on which thread, and who waits for whom.

use super::{
    Shared, Snapshot, ToShard,
    attention::Attention,
    batch::Batch,
    checkpoint::Checkpointer,
    clock::Clock,
    committer::{Committer, Written},
    handle::Handle,
    headroom::Watcher,
    hearing::{self, Hearing},
    kept::KeptTable,
    pausing,
    readiness::{Outbox, Watched},
    recovery::{Recovered, note_begun, recover},
    repeats,
    schedule::Schedule,
    shard::{Fatal, Shard},
    table::Table,
};
use crate::{
    destinations::{Destinations, Protections},
    envelope::Envelopes,
    intake::Intake,
    journal::{Disk, Journal, JournalOptions},
    registry::Registry,
    relay::{Relay, Surroundings},
    store::Store,
    telemetry::Observer,
};
use crossbeam_channel::{Sender, bounded, unbounded};
use dirigent_connectors::{ChannelSpec, Connector, ConnectorError, SourceSpec};
use dirigent_model::{instance::InstanceId, message::Codec};
use dirigent_schemas::registry::SchemaRegistry;
use futures::FutureExt;
use rustc_hash::FxHashMap;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// Batches of jobs a shard's inbox holds before its intake waits. Two fetches' worth, so that a slow commit does not idle the broker.
const INBOX_MAX: usize = 8;

/// Batches that wait for the committer, for each shard: one, so that a shard gathers more while the disk is busy.
const BATCHES_WAITING_PER_SHARD: usize = 1;

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
    pub disk: Box<dyn Disk>,
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
        let lanes = parts.lanes.len();
        let table = Arc::new(Table::new(parts.store));
        let kept = Arc::new(KeptTable::default());
        let recovered = {
            let (table, kept) = (Arc::clone(&table), Arc::clone(&kept));
            let (disk, journal) = (parts.disk, parts.journal);
            let work = tokio::task::spawn_blocking(move || {
                let recovered = recover(&table, &kept, disk, lanes, |disk, from, take_in| {
                    let journal = Journal::open(disk, journal, from, take_in)?;
                    let next = journal.next();
                    Ok((journal, next))
                })?;
                if !recovered.begun {
                    note_begun(&table)?;
                }
                Ok(recovered)
            });
            work.await
                .map_err(|error| EngineError::Recovery(error.into()))?
                .map_err(EngineError::Recovery)?
        };
        let missing: Vec<String> = recovered
            .accounts
            .tally
            .live_releases()
            .filter(|(release, fingerprint, _)| !parts.registry.has(release, *fingerprint))
            .map(|(release, print, count)| {
                format!("{} v{} ({print}): {count}", release.name, release.version)
            })
            .collect();
        if !missing.is_empty() {
            return Err(EngineError::DefinitionsMissing { missing: missing.join(", ") });
        }
        tracing::info!(
            groups = recovered.groups,
            in_flight = recovered.accounts.tally.in_flight(),
            unconfirmed = recovered.outbox.iter().map(Vec::len).sum::<usize>(),
            "The data folder is read."
        );
        let by_channel = parts.lanes.iter().enumerate().flat_map(|(lane, parts)| {
            let lane = u8::try_from(lane).unwrap_or_default();
            parts.carries.iter().map(move |channel| (channel.clone(), lane))
        });
        let shards = parts.shards.max(1);
        let routes = super::Routes { by_channel: by_channel.collect() };
        let wakes: Vec<Arc<Notify>> = (0..lanes).map(|_| Arc::default()).collect();
        let destinations = parts.registry.destinations().into_iter().map(|channel| {
            let wake = Arc::clone(&wakes[usize::from(routes.lane(channel))]);
            (channel.to_owned(), wake)
        });
        let mut heard = hearing::recall(&**table.store())
            .map_err(|error| EngineError::Recovery(error.into()))?;
        heard.resize(lanes, Default::default());
        let hearing = parts.lanes.iter().zip(heard).map(|(lane, before)| {
            if lane.reads.is_empty() {
                Hearing::from(parts.clock.now())
            } else {
                Hearing::not_yet(before)
            }
        });
        let hearing = hearing.collect();
        let shared = Arc::new(Shared {
            destinations: Arc::new(Destinations::new(destinations, &parts.protections)),
            registry: Arc::new(parts.registry),
            codec: parts.codec,
            schemas: parts.schemas,
            envelopes: Envelopes::new(&parts.app, &parts.replies),
            dead_letters: parts.dead_letters,
            routes,
            hearing,
            clock: parts.clock,
            observer: parts.observer,
            table,
            kept,
            parked_for: parts.parked_for,
            shards,
            durable_batch: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            floors: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            buffers: Default::default(),
            snapshot: Mutex::new(Snapshot { confirmed: vec![0; lanes], ..Snapshot::default() }),
            disk: Default::default(),
            health: Default::default(),
            stopping: AtomicBool::new(false),
            failure: Mutex::new(None),
            meters: Default::default(),
            watched: Default::default(),
            outboxes: Default::default(),
            ended: tokio::sync::Notify::new(),
        });
        let reads = Reads {
            app: parts.app,
            unsettled_max: parts.unsettled_max,
            body_bytes_max: parts.body_bytes_max,
            headroom_bytes: parts.headroom_bytes,
        };
        for channel in parts.protections.by_channel.keys() {
            if shared.destinations.of(channel).is_none() {
                let known: Vec<&str> = shared.destinations.channels().collect();
                tracing::warn!(
                    channel,
                    known = known.join(", "),
                    "The settings protect a destination that no saga here sends commands to."
                );
            }
        }
        pausing::recall(&shared).map_err(|error| EngineError::Recovery(error.into()))?;
        run(shared, (parts.lanes, wakes), recovered, reads).await
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

struct Reads {
    app: String,
    unsettled_max: usize,
    body_bytes_max: usize,
    headroom_bytes: u64,
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

/// What people call the lanes: by their connectors, with a number where two have the same name.
fn names_of(lanes: &[Lane]) -> Vec<String> {
    let name = |lane: &Lane| lane.connector.name().to_owned();
    let mut names: Vec<String> = Vec::with_capacity(lanes.len());
    for (index, lane) in lanes.iter().enumerate() {
        let others = lanes[..index].iter().filter(|other| name(other) == name(lane)).count();
        names.push(match others {
            0 => name(lane),
            others => format!("{}-{}", name(lane), others + 1),
        });
    }
    names
}

async fn run(
    shared: Arc<Shared>,
    (lanes, wakes): (Vec<Lane>, Vec<Arc<Notify>>),
    recovered: Recovered,
    reads: Reads,
) -> Result<Engine, EngineError> {
    let Recovered { journal, accounts, outbox, given_up, unconfirmed, fresh, .. } = recovered;
    for lane in &lanes {
        lane.connector.prepare(&lane.prepares).await?;
    }
    repeats::compare(&shared.registry, &lanes).await;
    let shards = shared.shards;
    let (unsent_in, unsent_out): (Vec<_>, Vec<_>) = (0..shards).map(|_| unbounded()).unzip();
    let (shards_in, shards_out): (Vec<Sender<ToShard>>, Vec<_>) =
        (0..shards).map(|_| bounded(INBOX_MAX)).unzip();

    // Sources are opened before any thread runs, so that a refusal leaves nothing behind, and before anything is sent:
    // what is sent is sent by the owner of what is read.
    let mut intakes = Vec::new();
    let names = names_of(&lanes);
    let mut watched = Vec::new();
    for (index, (lane, name)) in lanes.iter().zip(&names).enumerate() {
        if lane.reads.is_empty() {
            continue;
        }
        let reads_it = |channel: &str| lane.reads.iter().any(|read| read.name == channel);
        let spec = SourceSpec {
            channels: lane.reads.clone(),
            group: reads.app.clone(),
            positions: accounts
                .positions()
                .into_iter()
                .filter(|position| reads_it(&position.channel))
                .collect(),
            unsettled_max: reads.unsettled_max,
        };
        let source = lane.connector.source(spec).await?;
        let health = source.health();
        watched.push(Watched { connector: name.clone(), part: "source", health });
        intakes.push(Intake {
            shared: Arc::clone(&shared),
            source,
            memory: lane.connector.memory(),
            shards: shards_in.clone(),
            progress: accounts.progress.clone(),
            body_bytes_max: reads.body_bytes_max,
            reached: BTreeMap::new(),
            names: BTreeMap::new(),
            lane: index,
        });
    }

    let mut relays = tokio::task::JoinSet::new();
    let mut handles = Vec::new();
    let mut outboxes = Vec::new();
    for (index, (lane, (waiting, given_up))) in
        lanes.iter().zip(outbox.into_iter().zip(given_up)).enumerate()
    {
        let number = u8::try_from(index).unwrap_or_default();
        // Whoever reads for the application owns it; a lane that only sends has nothing that could be owned.
        let sink = match lane.reads.is_empty() {
            false => lane.connector.owner_sink(&reads.app).await?,
            true => lane.connector.sink().await?,
        };
        let health = sink.health();
        watched.push(Watched { connector: names[index].clone(), part: "sink", health });
        let (confirmed, next) = (accounts.lanes_confirmed[index], accounts.lanes_next[index]);
        let surroundings = Surroundings {
            destinations: Arc::clone(&shared.destinations),
            wake: Arc::clone(&wakes[index]),
            clock: Arc::clone(&shared.clock),
            back: unsent_in.clone(),
            meters: Arc::clone(&shared.meters),
        };
        let (relay, handle) =
            Relay::new(number, &names[index], sink, confirmed, next, surroundings);
        handle.confirm(&given_up);
        if !waiting.is_empty() {
            handle.send(waiting);
        }
        outboxes.push(Outbox { connector: names[index].clone(), gauge: handle.gauge() });
        handles.push(handle);
        relays.spawn(guarded(Arc::clone(&shared), relay));
    }

    // Nobody else sets them, and nobody asks before they are set.
    let _ = (shared.watched.set(watched), shared.outboxes.set(outboxes));

    let watcher = Watcher::new(Arc::clone(&shared), journal.disk(), reads.headroom_bytes);
    let (to_committer, batches) = bounded::<Batch>(shards * BATCHES_WAITING_PER_SHARD);
    let checkpointer =
        Checkpointer::spawn(Arc::clone(&shared), shards_in.clone()).map_err(EngineError::Thread)?;
    let committer = Committer {
        shared: Arc::clone(&shared),
        written: Written {
            last: crate::journal::GroupSeq(journal.next().0 - 1),
            bytes_since: u64::from(!fresh.is_empty()),
            bytes: 0,
            syncs: 0,
            checkpoint_at: Instant::now(),
            is_told: false,
            told_at: Instant::now(),
        },
        journal,
        inbox: batches,
        relays: handles,
        accounts,
        checkpointer,
        unconfirmed,
        head: None,
    };
    committer.publish_snapshot();
    let committer = spawn(&shared, "committer".into(), move || committer.run())?;

    let mut shard_threads = Vec::new();
    for (index, (inbox, unsent)) in shards_out.into_iter().zip(unsent_out).enumerate() {
        let mut schedule = Schedule::default();
        for id in fresh.iter().filter(|id| shared.shard_of(**id) == index) {
            recall(&shared, &mut schedule, *id)?;
        }
        let mut shard = Shard {
            index,
            shared: Arc::clone(&shared),
            inbox,
            unsent,
            to_committer: to_committer.clone(),
            live: FxHashMap::default(),
            schedule,
            shelves: FxHashMap::default(),
            expiries: BTreeSet::new(),
            shared_kept: FxHashMap::default(),
            batch: Batch::default(),
            next_batch: 1,
            ended: Default::default(),
            attention: Attention::new(Instant::now()),
        };
        shared
            .kept
            .all()
            .into_iter()
            .filter(|kept| shared.shard_of(kept.instance) == index)
            .for_each(|kept| shard.shelve(kept));
        shard_threads.push(spawn(&shared, format!("shard {index}"), move || shard.run())?);
    }
    drop(to_committer);

    let look = move || {
        watcher.run();
        Ok(())
    };
    let watcher = spawn(&shared, "disk watch".into(), look)?;
    let runtime = tokio::runtime::Handle::current();
    let mut intake_threads = Vec::new();
    for (index, intake) in intakes.into_iter().enumerate() {
        let runtime = runtime.clone();
        intake_threads
            .push(spawn(&shared, format!("intake {index}"), move || intake.run(&runtime))?);
    }
    Ok(Engine {
        handle: Handle { shared, shards: shards_in },
        intakes: intake_threads,
        shards: shard_threads,
        committer,
        watcher,
        relays,
    })
}

/// An instance that the store does not know as it is: its time has to be in memory.
fn recall(shared: &Shared, schedule: &mut Schedule, id: InstanceId) -> Result<(), EngineError> {
    let resting = shared.table.get(id).map_err(|error| EngineError::Recovery(error.into()))?;
    // Batch 1 is the first one of this process: no checkpoint before it lets this time go.
    schedule.set(id, None, resting.and_then(|resting| resting.due), 1);
    Ok(())
}
