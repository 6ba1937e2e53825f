//! How a process is put together: sagas, connectors, a data folder.
//!
//! ```no_run
//! # async fn start(order: dirigent_model::definition::Definition<()>, kafka: std::sync::Arc<dyn dirigent_connectors::Connector>)
//! # -> Result<(), dirigent::StartError> {
//! let engine = dirigent::Orchestrator::builder("order").saga(order).connector(kafka).data("data").start().await?;
//! # engine.stop().await?; Ok(()) }
//! ```
//!
//! Quiet by default: no global subscriber, no signal handler, no listening port unless asked for.

use crate::{
    destinations::{Protection, Protections},
    engine::{
        Clock, Engine, EngineError, EngineParts, HEADROOM_BYTES, LaneParts, PARKED_FOR,
        SystemClock, belongs_to, give_up_ballast, names_of_lanes, replies_by,
    },
    journal::{Disk, Durability, FileDisk, JournalOptions, SimDisk},
    registry::{Registry, RegistryError},
    store::{DataFolder, FolderError, MemoryStore, SledStore, Store, StoreError, StoreOptions},
    telemetry::{Observer, Quiet},
};
use dirigent_connectors::{ChannelKind, ChannelSpec, Connector};
use dirigent_model::{
    definition::{Definition, DefinitionErrors, Graph, Kind, Plan, WayBack},
    message::{Codec, Contract},
};
use dirigent_schemas::registry::{
    Compatibility, RegistryError as SchemaError, SchemaRegistry, keep_to_released,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

/// Deliveries of one source that may be unsettled if not said otherwise.
pub const UNSETTLED_MAX: usize = 4_096;

/// The largest body that is looked into if not said otherwise, in bytes.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

/// Threads of pure work if not said otherwise, where there are more cores.
const SHARDS_UNSAID_MAX: usize = 8;

/// Connectors of one process: the journal names them by one byte.
const CONNECTORS_MAX: usize = 255;

/// Begins to put a process together.
#[derive(Debug)]
pub struct Orchestrator(());

impl Orchestrator {
    /// For an application: its name is the consumer group, and names its channels for replies and dead letters.
    pub fn builder(app: &str) -> OrchestratorBuilder {
        OrchestratorBuilder {
            app: app.into(),
            plans: Vec::new(),
            mistakes: Vec::new(),
            connectors: Vec::new(),
            codec: None,
            schemas: None,
            released: Vec::new(),
            compatibility: Compatibility::default(),
            place: Place::Memory,
            durability: Durability::default(),
            shards: std::thread::available_parallelism()
                .map_or(1, |cores| cores.get().min(SHARDS_UNSAID_MAX)),
            unsettled_max: UNSETTLED_MAX,
            body_bytes_max: BODY_BYTES_MAX,
            headroom_bytes: HEADROOM_BYTES,
            protections: Protections::default(),
            parked_for: PARKED_FOR,
            clock: Arc::new(SystemClock::default()),
            observer: Arc::new(Quiet),
        }
    }
}

/// Anything that is a definition, or the mistakes of one.
pub trait IntoPlan {
    /// The definition with its data type forgotten.
    fn into_plan(self) -> Result<Arc<Plan>, DefinitionErrors>;
}

impl<D> IntoPlan for Definition<D> {
    fn into_plan(self) -> Result<Arc<Plan>, DefinitionErrors> {
        Ok(self.plan())
    }
}

impl<D> IntoPlan for Result<Definition<D>, DefinitionErrors> {
    fn into_plan(self) -> Result<Arc<Plan>, DefinitionErrors> {
        self.map(|definition| definition.plan())
    }
}

impl IntoPlan for Arc<Plan> {
    fn into_plan(self) -> Result<Arc<Plan>, DefinitionErrors> {
        Ok(self)
    }
}

enum Place {
    Memory,
    Folder(PathBuf),
    Open(DataFolder),
}

/// A process being put together.
#[must_use = "nothing runs before `.start()`"]
pub struct OrchestratorBuilder {
    app: String,
    plans: Vec<Arc<Plan>>,
    mistakes: Vec<DefinitionErrors>,
    connectors: Vec<(Arc<dyn Connector>, Vec<String>)>,
    codec: Option<Arc<dyn Codec>>,
    schemas: Option<Arc<SchemaRegistry>>,
    released: Vec<(String, String)>,
    compatibility: Compatibility,
    place: Place,
    durability: Durability,
    shards: usize,
    unsettled_max: usize,
    body_bytes_max: usize,
    headroom_bytes: u64,
    protections: Protections,
    parked_for: Duration,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn Observer>,
}

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Definitions with mistakes.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Definitions(Vec<DefinitionErrors>),
    /// Definitions that can't live side by side.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// No broker.
    #[error("no connector is set up; add one with `.connector(..)`")]
    NoConnector,
    /// More brokers than can be told apart in the journal.
    #[error("{count} connectors are more than the {CONNECTORS_MAX} a process may have")]
    TooManyConnectors {
        /// How many.
        count: usize,
    },
    /// A name that can't be used.
    #[error(
        "`{name}` can't be an application's name: use 1 to 64 lower-case letters, digits, `-`, `_` and `.`"
    )]
    App {
        /// The name.
        name: String,
    },
    /// The data folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The journal's folder.
    #[error("opening the journal's folder {folder}")]
    Journal {
        /// Which.
        folder: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The schemas of messages, or their registry.
    #[error("agreeing on the schemas of messages")]
    Schemas(#[source] Box<SchemaError>),
    /// Anything later.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl OrchestratorBuilder {
    /// Adds a saga. Mistakes of its definition are reported by [`start`](Self::start).
    pub fn saga(mut self, saga: impl IntoPlan) -> Self {
        match saga.into_plan() {
            Ok(plan) => self.plans.push(plan),
            Err(mistakes) => self.mistakes.push(mistakes),
        }
        self
    }

    /// Adds a broker. The first one carries every channel that no other is given.
    pub fn connector(self, connector: Arc<dyn Connector>) -> Self {
        self.connector_for(connector, &[])
    }

    /// Adds a broker that carries these channels.
    pub fn connector_for(mut self, connector: Arc<dyn Connector>, channels: &[&str]) -> Self {
        self.connectors.push((connector, channels.iter().map(ToString::to_string).collect()));
        self
    }

    /// Reads and writes bodies that are not JSON; the Avro codec of `dirigent-schemas` if not said.
    pub fn codec(mut self, codec: Arc<dyn Codec>) -> Self {
        self.codec = Some(codec);
        self
    }

    /// Agrees with a schema registry at the start, and writes Avro in Confluent's wire format. Its codec takes the place of
    /// any other.
    pub fn schema_registry(mut self, registry: Arc<SchemaRegistry>) -> Self {
        self.schemas = Some(registry);
        self
    }

    /// Versions of messages that were released: the names and texts of their `.avsc` files. What they wrote is read, and the
    /// start is refused where a message's schema does not keep to them.
    pub fn released_schemas(
        mut self,
        released: Vec<(String, String)>,
        compatibility: Compatibility,
    ) -> Self {
        self.released = released;
        self.compatibility = compatibility;
        self
    }

    /// Keeps everything in this folder, which one process at a time may use. Without a folder everything is in memory.
    pub fn data(mut self, folder: impl Into<PathBuf>) -> Self {
        self.place = Place::Folder(folder.into());
        self
    }

    /// Keeps everything in a folder that is open already.
    pub fn data_folder(mut self, folder: DataFolder) -> Self {
        self.place = Place::Open(folder);
        self
    }

    /// What a settled input survives; a power cut if not said.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// How many threads do the pure work; as many as there are cores, up to 8, if not said.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = shards.max(1);
        self
    }

    /// Deliveries of one source that may be unsettled; [`UNSETTLED_MAX`] if not said.
    pub fn unsettled_max(mut self, deliveries: usize) -> Self {
        self.unsettled_max = deliveries.max(1);
        self
    }

    /// The largest body that is looked into, in bytes; [`BODY_BYTES_MAX`] if not said.
    pub fn body_bytes_max(mut self, bytes: usize) -> Self {
        self.body_bytes_max = bytes;
        self
    }

    /// Bytes to be free on the disk before anything is taken in, at the most a tenth of it; [`HEADROOM_BYTES`] if not said,
    /// 0 for taking in until the disk is full.
    pub fn headroom_bytes(mut self, bytes: u64) -> Self {
        self.headroom_bytes = bytes;
        self
    }

    /// What every destination of commands is given at the most, unless [`protect_at`](Self::protect_at) says otherwise; a
    /// circuit and no limits if not said.
    pub fn protect(mut self, protection: Protection) -> Self {
        self.protections.all = protection;
        self
    }

    /// What the destination of this channel is given at the most.
    pub fn protect_at(mut self, channel: &str, protection: Protection) -> Self {
        self.protections.by_channel.insert(channel.into(), protection);
        self
    }

    /// How long an event waits for an instance that is not there yet, before it is quarantined; [`PARKED_FOR`] if not said.
    pub fn parked_for(mut self, time: Duration) -> Self {
        self.parked_for = time;
        self
    }

    /// Tells the time; the system's clock if not said.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Takes facts of every turn; nobody if not said.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }

    /// The channel that replies go to by the first broker; by others the name of their connector follows behind a dot.
    pub fn replies(&self) -> String {
        format!("{}.replies", self.app)
    }

    /// The channel that dead letters go to.
    pub fn dead_letters(&self) -> String {
        format!("{}.dead-letters", self.app)
    }

    /// Recovers what the data folder holds, connects, and runs.
    pub async fn start(self) -> Result<Engine, StartError> {
        Ok(Engine::start(self.parts().await?).await?)
    }

    /// What the engine is to be made of, once everything that was said is found to fit together.
    pub(crate) async fn parts(self) -> Result<EngineParts, StartError> {
        if !self.mistakes.is_empty() {
            return Err(StartError::Definitions(self.mistakes));
        }
        if !crate::is_app_name(&self.app) {
            return Err(StartError::App { name: self.app });
        }
        if self.connectors.is_empty() {
            return Err(StartError::NoConnector);
        }
        if self.connectors.len() > CONNECTORS_MAX {
            return Err(StartError::TooManyConnectors { count: self.connectors.len() });
        }
        let (replies, dead_letters) = (self.replies(), self.dead_letters());
        let lanes = lanes(&self.plans, &self.connectors, &replies, &dead_letters);
        let contracts = self.plans.iter().flat_map(|plan| plan.contracts()).copied().collect();
        let registry = Registry::new(self.plans)?;
        let (place, app) = (self.place, self.app.clone());
        // Whose folder it is, before schemas are registered and kept in it.
        let opened = crate::may_block(move || {
            let opened = open(place)?;
            belongs_to(&*opened.0, &app)?;
            Ok::<_, StartError>(opened)
        });
        let (store, disk, kept) = opened.await?;
        let schemas = Schemas {
            contracts,
            codec: self.codec,
            registry: self.schemas.clone(),
            kept,
            released: self.released,
            compatibility: self.compatibility,
        };
        let codec = schemas.agreed().await?;
        Ok(EngineParts {
            app: self.app,
            replies,
            dead_letters,
            registry,
            codec,
            schemas: self.schemas,
            lanes,
            store,
            disk,
            journal: JournalOptions { durability: self.durability, ..JournalOptions::default() },
            headroom_bytes: self.headroom_bytes,
            shards: self.shards,
            unsettled_max: self.unsettled_max,
            body_bytes_max: self.body_bytes_max,
            protections: self.protections,
            parked_for: self.parked_for,
            clock: self.clock,
            observer: self.observer,
        })
    }
}

/// What has to be agreed on before anything is sent.
struct Schemas {
    contracts: Vec<Contract>,
    codec: Option<Arc<dyn Codec>>,
    registry: Option<Arc<SchemaRegistry>>,
    kept: Option<PathBuf>,
    released: Vec<(String, String)>,
    compatibility: Compatibility,
}

impl Schemas {
    /// The codec, once everybody can read everybody.
    async fn agreed(self) -> Result<Arc<dyn Codec>, StartError> {
        // The registry is asked, and the folder read: not on the runtime's own threads.
        let agreed = crate::may_block(move || {
            let bodies = self.registry.as_ref().map_or_else(Default::default, |it| it.codec());
            keep_to_released(&bodies, &self.contracts, &self.released, self.compatibility)?;
            if let Some(registry) = &self.registry {
                if let Some(folder) = &self.kept {
                    registry.keep_in(folder)?;
                }
                registry.agree(&self.contracts)?;
                return Ok(bodies as Arc<dyn Codec>);
            }
            Ok(self.codec.unwrap_or(bodies))
        });
        agreed.await.map_err(|error| StartError::Schemas(Box::new(error)))
    }
}

type Opened = (Arc<dyn Store>, Arc<dyn Disk>, Option<PathBuf>);

fn open(place: Place) -> Result<Opened, StartError> {
    let folder = match place {
        Place::Memory => {
            return Ok((Arc::new(MemoryStore::new()), Arc::new(SimDisk::new()), None));
        }
        Place::Folder(path) => DataFolder::open(path)?,
        Place::Open(folder) => folder,
    };
    let path = folder.journal();
    let disk = FileDisk::open(&path).map_err(|source| {
        let folder = path.display().to_string();
        StartError::Journal { folder, source }
    })?;
    // On a full disk its room is what opening the store needs.
    give_up_ballast(&disk);
    let store = SledStore::open(&folder, StoreOptions::default())?;
    Ok((Arc::new(store), Arc::new(disk), Some(folder.schemas())))
}

/// Which connector reads, prepares and carries what.
fn lanes(
    plans: &[Arc<Plan>],
    connectors: &[(Arc<dyn Connector>, Vec<String>)],
    replies: &str,
    dead_letters: &str,
) -> Vec<LaneParts> {
    let (mut reads, mut sends) = (BTreeMap::new(), BTreeMap::new());
    for plan in plans {
        channels(plan.graph(), &mut reads, &mut sends);
    }
    let lane_of = |channel: &str| {
        connectors.iter().position(|(_, own)| own.iter().any(|own| own == channel)).unwrap_or(0)
    };
    let spec =
        |(name, kind): (&String, &ChannelKind)| ChannelSpec { name: name.clone(), kind: *kind };
    let names = names_of_lanes(connectors.iter().map(|(connector, _)| connector.name()));
    let lane = |(index, (connector, own)): (usize, &(Arc<dyn Connector>, Vec<String>))| {
        let here = |(name, _): &(&String, &ChannelKind)| lane_of(name) == index;
        let mut reads: BTreeSet<ChannelSpec> = reads.iter().filter(here).map(spec).collect();
        let sends: BTreeSet<ChannelSpec> = sends.iter().filter(here).map(spec).collect();
        if sends.iter().any(|channel| channel.kind == ChannelKind::Work) {
            reads.insert(ChannelSpec::work(replies_by(replies, index, &names[index])));
        }
        let mut prepares: BTreeSet<ChannelSpec> = reads.union(&sends).cloned().collect();
        prepares.insert(ChannelSpec::work(dead_letters));
        LaneParts {
            connector: Arc::clone(connector),
            reads: reads.into_iter().collect(),
            prepares: prepares.into_iter().collect(),
            carries: own.clone(),
        }
    };
    connectors.iter().enumerate().map(lane).collect()
}

type Kinds = BTreeMap<String, ChannelKind>;

/// The channels that commands of these sagas go to.
pub(crate) fn destinations_of(plans: &[Arc<Plan>]) -> BTreeSet<String> {
    let (mut reads, mut sends) = (BTreeMap::new(), BTreeMap::new());
    plans.iter().for_each(|plan| channels(plan.graph(), &mut reads, &mut sends));
    let work = sends.into_iter().filter(|(_, kind)| *kind == ChannelKind::Work);
    work.map(|(channel, _)| channel).collect()
}

fn channels(graph: &Graph, reads: &mut Kinds, sends: &mut Kinds) {
    let awaited = graph.events_awaited().chain([&graph.start]);
    reads.extend(awaited.map(|event| (event.channel.clone(), ChannelKind::Events)));
    let ends = graph.ends.completed.iter().chain(&graph.ends.failed);
    sends.extend(ends.map(|event| (event.channel.clone(), ChannelKind::Events)));
    for node in &graph.nodes {
        match &node.kind {
            Kind::Step(step) => {
                sends.insert(step.command.channel.clone(), ChannelKind::Work);
                if let WayBack::Compensated { command, .. } = &step.way_back {
                    sends.insert(command.channel.clone(), ChannelKind::Work);
                }
            }
            Kind::Publish { event } => {
                sends.insert(event.channel.clone(), ChannelKind::Events);
            }
            Kind::Sequence { .. }
            | Kind::Wait { .. }
            | Kind::All { .. }
            | Kind::Choose { .. }
            | Kind::Pause { .. } => {}
        }
    }
}
