//! The parts of an engine, put together and not at work yet.
//!
//! ```text
//! data folder ─► recover ─► definitions are all here? ─► channels, sources, sinks ─► Assembly ─► a thread for each part
//!                                                                                        └─► or one thread takes all turns
//! ```
//!
//! [`Engine::start`](super::Engine::start) gives each part a thread. The simulation takes their turns one by one on virtual time, in an order
//! drawn from a seed; it is the same parts that decide, commit and send. Whoever takes turns must not step a part that would wait for
//! another one: no intake while an inbox is full, no shard while its batches wait for the committer.

use super::{
    Shared, Snapshot, ToShard, application,
    attention::Attention,
    batch::Batch,
    checkpoint::Checkpointer,
    committer::{Committer, Written},
    handle::Handle,
    headroom::Watcher,
    hearing::{self, Hearing},
    kept::KeptTable,
    lanes, pausing,
    readiness::{Outbox, Watched},
    recovery::{Recovered, note_begun, recover},
    repeats,
    schedule::Schedule,
    shard::{Mail, Shard},
    start::{EngineError, EngineParts, Lane},
    table::Table,
};
use crate::{
    destinations::{Destinations, WayOut},
    envelope::Envelopes,
    intake::{IDLE, Intake},
    journal::{Disk, Journal, JournalOptions},
    planted::{self, Bug},
    relay::{Relay, Surroundings},
};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use dirigent_connectors::{Position, SourceSpec};
use dirigent_model::instance::InstanceId;
use rustc_hash::FxHashMap;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Batches of jobs a shard's inbox holds before its intake waits. Two fetches' worth, so that a slow commit does not idle the broker.
pub(crate) const INBOX_MAX: usize = 8;

/// Batches that wait for the committer, for each shard: one, so that a shard gathers more while the disk is busy.
pub(crate) const BATCHES_WAITING_PER_SHARD: usize = 1;

/// How long a shard that needs the disk's word on an earlier batch rests before it looks again.
const DURABLE_AGAIN: Duration = Duration::from_millis(1);

/// Who takes the turns of the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turns {
    /// A thread of each part. A full queue makes the one before it wait.
    OfThreads,
    /// One thread takes them all, and looks itself whether a queue is full.
    #[cfg(feature = "simulation")]
    InTurn,
}

impl Turns {
    fn queue<T>(self, most: usize) -> (Sender<T>, Receiver<T>) {
        match self {
            Self::OfThreads => bounded(most),
            #[cfg(feature = "simulation")]
            // Its bound is kept by whoever takes the turns; waiting here would be waiting for oneself.
            Self::InTurn => unbounded(),
        }
    }
}

/// All parts of one engine.
pub(crate) struct Assembly {
    pub handle: Handle,
    pub intakes: Vec<Intake>,
    pub shards: Vec<Shard>,
    pub committer: Committer,
    pub watcher: Watcher,
    pub relays: Vec<Relay>,
}

/// What lies on the disk.
pub(crate) struct Folder {
    app: String,
    table: Arc<Table>,
    kept: Arc<KeptTable>,
    disk: Arc<dyn Disk>,
    journal: JournalOptions,
    lanes: usize,
}

/// What was read from it.
pub(crate) struct Read {
    table: Arc<Table>,
    kept: Arc<KeptTable>,
    recovered: Recovered,
}

impl Folder {
    /// Takes its place out of the parts.
    pub(crate) fn of(parts: &EngineParts) -> Self {
        Self {
            app: parts.app.clone(),
            table: Arc::new(Table::new(Arc::clone(&parts.store))),
            kept: Arc::new(KeptTable::default()),
            disk: Arc::clone(&parts.disk),
            journal: parts.journal,
            lanes: parts.lanes.len(),
        }
    }

    /// Reads store and journal. Blocks.
    pub(crate) fn recover(self) -> Result<Read, EngineError> {
        let Self { app, table, kept, disk, journal, lanes } = self;
        // Before anything is written: into a store of a later release, of another application, or of a participant.
        application::belongs_to(&**table.store(), &app)?;
        let recovered = recover(&table, &kept, disk, lanes, |disk, from, take_in| {
            let journal = Journal::open(disk, journal, from, take_in)?;
            let next = journal.next();
            Ok((journal, next))
        });
        let mut recovered = recovered.map_err(EngineError::Recovery)?;
        recovered.give_up(&table).map_err(EngineError::Recovery)?;
        if !recovered.begun {
            note_begun(&table).map_err(EngineError::Recovery)?;
        }
        Ok(Read { table, kept, recovered })
    }
}

struct Reads {
    app: String,
    unsettled_max: usize,
    body_bytes_max: usize,
    headroom_bytes: u64,
}

impl Assembly {
    /// Puts the parts together on what was read, and opens what they read from and send to.
    pub(crate) async fn of(
        parts: EngineParts,
        read: Read,
        turns: Turns,
    ) -> Result<Self, EngineError> {
        let Read { table, kept, recovered } = read;
        let lanes = parts.lanes.len();
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
            // What comes by a connector is set aside by it, too.
            let reads = parts.reads.iter().map(|channel| &channel.name);
            parts.carries.iter().chain(reads).map(move |channel| (channel.clone(), lane))
        });
        let connectors = || parts.lanes.iter().map(|lane| lane.connector.name());
        let names = lanes::names(connectors());
        lanes::compare(&**table.store(), &names).map_err(EngineError::Recovery)?;
        let mut envelopes = Envelopes::new(&parts.app, &parts.replies);
        for (lane, (name, parts_of)) in names.iter().zip(&parts.lanes).enumerate().skip(1) {
            let replies = lanes::replies_by(&parts.replies, lane, name);
            envelopes = parts_of
                .carries
                .iter()
                .fold(envelopes, |it, channel| it.replies_by(channel, &replies));
        }
        let shards = parts.shards.max(1);
        let routes = super::Routes { by_channel: by_channel.collect() };
        let ways: Vec<Arc<WayOut>> = (0..lanes).map(|_| Arc::default()).collect();
        let destinations =
            parts.registry.destinations().into_iter().map(|(channel, reply_within)| {
                let way = Arc::clone(&ways[usize::from(routes.lane(channel))]);
                (channel.to_owned(), reply_within, way)
            });
        let mut heard = hearing::recall(&**table.store())
            .map_err(|error| EngineError::Recovery(error.into()))?;
        heard.resize(lanes, Default::default());
        let hearing = parts.lanes.iter().zip(heard).map(|(lane, before)| {
            if lane.reads.is_empty() {
                Hearing::from(parts.clock.now())
            } else {
                Hearing::not_yet(before.of(&lane.reads))
            }
        });
        let hearing = hearing.collect();
        let shared = Arc::new(Shared {
            destinations: Arc::new(Destinations::new(destinations, &parts.protections)),
            registry: Arc::new(parts.registry),
            codec: parts.codec,
            schemas: parts.schemas,
            envelopes,
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
            hold_up: Default::default(),
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
        connect(shared, (parts.lanes, ways), recovered, reads, turns).await
    }
}

async fn connect(
    shared: Arc<Shared>,
    (lanes, ways): (Vec<Lane>, Vec<Arc<WayOut>>),
    recovered: Recovered,
    reads: Reads,
    turns: Turns,
) -> Result<Assembly, EngineError> {
    let Recovered { journal, accounts, confirmed, outbox, given_up, unconfirmed, fresh, .. } =
        recovered;
    for lane in &lanes {
        lane.connector.prepare(&lane.prepares).await?;
    }
    repeats::compare(&shared.registry, &lanes).await;
    let shards = shared.shards;
    let (unsent_in, unsent_out): (Vec<_>, Vec<_>) = (0..shards).map(|_| unbounded()).unzip();
    let (shards_in, shards_out): (Vec<Sender<ToShard>>, Vec<_>) =
        (0..shards).map(|_| turns.queue(INBOX_MAX)).unzip();

    // Sources are opened before any thread runs, so that a refusal leaves nothing behind, and before anything is sent:
    // what is sent is sent by the owner of what is read.
    let mut intakes = Vec::new();
    let names = lanes::names(lanes.iter().map(|lane| lane.connector.name()));
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
                .map(|position| match planted::is(Bug::PositionsTooFar) {
                    true => Position { next: position.next + 1, ..position },
                    false => position,
                })
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
            idle: IDLE,
        });
    }

    let mut relays = Vec::new();
    let mut handles = Vec::new();
    let mut outboxes = Vec::new();
    for (index, (lane, (confirmed, given_up))) in
        lanes.iter().zip(confirmed.iter().zip(given_up)).enumerate()
    {
        let number = u8::try_from(index).unwrap_or_default();
        // Whoever reads for the application owns it; a lane that only sends has nothing that could be owned.
        let sink = match lane.reads.is_empty() {
            false => lane.connector.owner_sink(&reads.app).await?,
            true => lane.connector.sink().await?,
        };
        let health = sink.health();
        watched.push(Watched { connector: names[index].clone(), part: "sink", health });
        let next = accounts.lanes_next[index];
        let surroundings = Surroundings {
            destinations: Arc::clone(&shared.destinations),
            way: Arc::clone(&ways[index]),
            clock: Arc::clone(&shared.clock),
            back: unsent_in.clone(),
            meters: Arc::clone(&shared.meters),
        };
        let (relay, handle) =
            Relay::new(number, &names[index], sink, confirmed, next, surroundings);
        handle.confirm(&given_up);
        outboxes.push(Outbox { connector: names[index].clone(), gauge: handle.gauge() });
        handles.push(handle);
        relays.push(relay);
    }

    // Nothing has been taken in or sent yet, and brokers and definitions are there: this start has come about.
    let (store, app, order) = (Arc::clone(shared.table.store()), reads.app.clone(), names.clone());
    let kept = crate::may_block(move || {
        application::keep(&*store, &app)?;
        lanes::keep(&*store, &order).map_err(EngineError::Recovery)
    });
    kept.await?;

    // Nobody else sets them, and nobody asks before they are set.
    let _ = (shared.watched.set(watched), shared.outboxes.set(outboxes));

    let watcher = Watcher::new(Arc::clone(&shared), journal.disk(), reads.headroom_bytes);
    let (to_committer, batches) = turns.queue::<Batch>(shards * BATCHES_WAITING_PER_SHARD);
    let checkpointer = match turns {
        Turns::OfThreads => Checkpointer::spawn(Arc::clone(&shared), shards_in.clone())
            .map_err(EngineError::Thread)?,
        #[cfg(feature = "simulation")]
        Turns::InTurn => Checkpointer::here(Arc::clone(&shared), shards_in.clone()),
    };
    let mut committer = Committer {
        shared: Arc::clone(&shared),
        written: Written {
            last: crate::journal::GroupSeq(journal.next().0 - 1),
            bytes_since: u64::from(!fresh.is_empty()),
            bytes: 0,
            syncs: 0,
            checkpoint_at: Instant::now(),
            is_told: false,
            told_at: Instant::now(),
            above: confirmed.into_iter().map(|confirmed| confirmed.above).collect(),
        },
        journal,
        inbox: batches,
        relays: handles,
        accounts,
        checkpointer,
        unconfirmed,
        gathered: Default::default(),
        head: None,
        is_full: false,
        is_heavy: false,
        backlog: outbox.into_iter().take(lanes.len()).map(Into::into).collect(),
        #[cfg(feature = "planted")]
        sent_early: None,
    };
    committer.hand_over_backlog();
    committer.publish_snapshot();

    let mut owners = Vec::new();
    for (index, (inbox, unsent)) in shards_out.into_iter().zip(unsent_out).enumerate() {
        let mut schedule = Schedule::default();
        for id in fresh.iter().filter(|id| shared.shard_of(**id) == index) {
            recall(&shared, &mut schedule, *id)?;
        }
        let mut shard = Shard {
            index,
            shared: Arc::clone(&shared),
            mail: Mail::new(inbox, unsent),
            to_committer: to_committer.clone(),
            live: FxHashMap::default(),
            schedule,
            shelves: FxHashMap::default(),
            expiries: BTreeSet::new(),
            prolonged: FxHashMap::default(),
            shared_kept: FxHashMap::default(),
            batch: Batch::default(),
            next_batch: 1,
            gone: Default::default(),
            ended: Default::default(),
            withheld: Default::default(),
            attention: Attention::new(Instant::now()),
            wait: Box::new(|| std::thread::park_timeout(DURABLE_AGAIN)),
        };
        shared
            .kept
            .all()
            .into_iter()
            .filter(|kept| shared.shard_of(kept.instance) == index)
            .for_each(|kept| shard.shelve(kept));
        owners.push(shard);
    }
    Ok(Assembly {
        handle: Handle { shared, shards: shards_in },
        intakes,
        shards: owners,
        committer,
        watcher,
        relays,
    })
}

/// An instance that the store does not know as it is: its time has to be in memory.
fn recall(shared: &Shared, schedule: &mut Schedule, id: InstanceId) -> Result<(), EngineError> {
    if planted::is(Bug::TimersLostAtRecovery) {
        return Ok(());
    }
    let resting = shared.table.get(id).map_err(|error| EngineError::Recovery(error.into()))?;
    // Batch 1 is the first one of this process: no checkpoint before it lets this time go.
    schedule.set(id, None, resting.and_then(|resting| resting.due), 1);
    Ok(())
}
