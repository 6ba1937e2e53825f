//! The engine: the only room that knows all the others.
//!
//! ```text
//! intake threads ─jobs─► shard threads ─batches─► committer thread ─► relay tasks ─► brokers
//!                            ▲   ▲                     │ settles, answers          │
//!                            │   └──── timers          └─► checkpointer thread     │
//!                            └─────────────────── unsent ◄─────────────────────────┘
//! ```
//!
//! Queues are bounded, and a full one makes the one before it wait, back to the source, which stops fetching. The way
//! back from the relay is not: it carries at most what the outbox holds, so that no circle of waiting can form.

mod accounts;
mod aftermath;
mod application;
mod assembly;
mod attention;
mod audit;
mod batch;
mod buffers;
mod checkpoint;
mod clock;
mod committer;
mod fsck;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzed;
mod group;
mod handle;
mod headroom;
mod health;
mod hearing;
mod hold_up;
#[cfg(feature = "simulation")]
mod in_turn;
mod job;
mod kept;
mod kept_view;
mod kept_wire;
mod lanes;
mod pausing;
mod reader;
mod readiness;
mod recovery;
mod repeats;
mod schedule;
mod shard;
mod start;
mod table;
#[cfg(test)]
mod table_samples;
#[cfg(feature = "simulation")]
mod watched;
mod wire;
mod withdrawal;

pub use accounts::{Accounts, Count, Counts, Progress, Tally};
pub use audit::{Audit, InstancesAudit, PartitionAudit};
pub use clock::{Clock, SystemClock};
pub use committer::OUTBOX_MAX;
pub use fsck::{fsck, repair};
pub use handle::{Handle, HandleError};
pub use headroom::HEADROOM_BYTES;
pub use health::Concern;
pub use job::{Decided, Decision, OperatorAction, OperatorError};
pub use kept::{
    KEPT_MESSAGE_BYTES_MAX, PARKED_BYTES_MAX, PARKED_FOR, PARKED_MAX, QUARANTINED_BYTES_MAX,
    QUARANTINED_MAX,
};
pub use kept_view::{KeptFilter, KeptView, MessageView};
pub use pausing::PauseError;
pub use reader::{
    AtRestError, InstanceView, ListFilter, NodeView, Reader, WantsPerson, audit, audit_at_rest,
    open_at_rest,
};
pub use readiness::{BrokerView, Readiness, Reason, StatusView};
pub use shard::{DECISION_BYTES_MAX, INSTANCE_BYTES_MAX};
pub use start::{Engine, EngineError, EngineParts, Lane as LaneParts};

pub(crate) use accounts::Covered;
pub(crate) use aftermath::panic_letter;
pub(crate) use application::belongs_to;
#[cfg(feature = "simulation")]
pub(crate) use assembly::{Assembly, Folder, Turns};
#[cfg(feature = "simulation")]
pub(crate) use group::decode as decode_group;
#[cfg(all(test, feature = "simulation"))]
pub(crate) use group::{GroupBody, GroupHead, InputDone};
pub(crate) use group::{Lane, LaneSeq, Outgoing, Sender};
pub(crate) use headroom::{HEADROOM_SHARE, give_up_ballast};
pub(crate) use hold_up::HELD_UP_AFTER;
#[cfg(feature = "simulation")]
pub(crate) use in_turn::{Dice, InTurn};
pub(crate) use job::{Confirm, DeliveryDone, DeliveryJob, Job, What};
pub(crate) use lanes::{names as names_of_lanes, replies_by};
pub(crate) use readiness::Outbox;
pub(crate) use repeats::span;
pub(crate) use shard::{Fatal, ToShard};
#[cfg(feature = "simulation")]
pub(crate) use watched::watch;
pub(crate) use withdrawal::Withdrawn;

use crate::{
    destinations::Destinations,
    envelope::Envelopes,
    meters::Meters,
    planted::{self, Bug},
    registry::Registry,
    telemetry::Observer,
};
use dirigent_model::{
    definition::Plan,
    instance::{Core, InstanceId},
    message::Codec,
    time::Timestamp,
};
use dirigent_schemas::registry::SchemaRegistry;
use kept::KeptTable;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use table::Table;

/// The shard an instance falls to.
pub(crate) fn shard_of(id: InstanceId, shards: usize) -> usize {
    // Ids are hashes already; the low half decides, the high half orders them in the store.
    usize::try_from(id.0.as_u64_pair().1 % (shards.max(1) as u64)).unwrap_or_default()
}

/// Which connector a channel's messages leave by.
#[derive(Debug, Clone, Default)]
pub(crate) struct Routes {
    pub by_channel: BTreeMap<String, Lane>,
}

impl Routes {
    pub(crate) fn lane(&self, channel: &str) -> Lane {
        self.by_channel.get(channel).copied().unwrap_or_default()
    }
}

/// What all threads of an engine share.
pub(crate) struct Shared {
    pub registry: Arc<Registry>,
    pub codec: Arc<dyn Codec>,
    pub schemas: Option<Arc<SchemaRegistry>>,
    pub envelopes: Envelopes,
    pub dead_letters: String,
    pub routes: Routes,
    pub destinations: Arc<Destinations>,
    pub clock: Arc<dyn Clock>,
    pub observer: Arc<dyn Observer>,
    pub table: Arc<Table>,
    pub kept: Arc<KeptTable>,
    /// How long an event waits for its instance.
    pub parked_for: std::time::Duration,
    pub shards: usize,
    /// Each shard's last batch that is durable.
    pub durable_batch: Vec<AtomicU64>,
    /// Up to where each shard has gone through what was due, durably; in milliseconds.
    pub floors: Vec<AtomicU64>,
    pub buffers: buffers::Buffers,
    pub snapshot: Mutex<Snapshot>,
    pub disk: headroom::DiskWatch,
    pub hold_up: hold_up::HoldUp,
    pub health: health::Health,
    /// By lane.
    pub hearing: Vec<hearing::Hearing>,
    pub stopping: AtomicBool,
    pub failure: Mutex<Option<Fatal>>,
    pub meters: Arc<Meters>,
    /// Sources and sinks, once they are open.
    pub watched: OnceLock<Vec<readiness::Watched>>,
    /// By connector, once its relay is there.
    pub outboxes: OnceLock<Vec<Outbox>>,
    /// Woken when the engine has to stop by itself.
    pub ended: tokio::sync::Notify,
}

impl Shared {
    pub(crate) fn shard_of(&self, id: InstanceId) -> usize {
        shard_of(id, self.shards)
    }

    /// When an instance is next looked at by itself: what is due in it, or the end of its retention.
    pub(crate) fn due_of(&self, core: &Core, plan: &Plan) -> Option<Timestamp> {
        match core.ended_at {
            Some(ended) => Some(ended + plan.graph().retention),
            None if planted::is(Bug::RetentionRemovesLive) => {
                let over = core.started_at + plan.graph().retention;
                Some(core.next_due().map_or(over, |(due, _)| due.min(over)))
            }
            None => core.next_due().map(|(due, _)| due),
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Whether what is not durable yet may never be.
    pub(crate) fn has_failed(&self) -> bool {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Something no instance can mend: remembers the first cause and stops everything.
    pub(crate) fn fail(&self, what: &str, cause: Fatal) {
        tracing::error!(cause = crate::describe(&*cause), "{what}; the process has to end.");
        self.health.raise(Concern::Failed { cause: crate::describe(&*cause) });
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(cause);
        drop(failure);
        self.stopping.store(true, Ordering::Release);
        self.ended.notify_waiters();
        self.ended.notify_one();
    }
}

/// What is going on, as of the last commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Snapshot {
    /// Sagas ever started.
    pub started: u64,
    /// Sagas that completed.
    pub completed: u64,
    /// Sagas that were compensated.
    pub compensated: u64,
    /// Sagas that an operator ended as they stood.
    pub killed: u64,
    /// Live sagas with an open incident.
    pub blocked: u64,
    /// Live sagas.
    pub in_flight: u64,
    /// Messages consumed and what became of them.
    pub inputs: Counts,
    /// Messages that are to be sent, ever.
    pub sent: u64,
    /// By connector: messages the broker has confirmed, ever.
    pub confirmed: Vec<u64>,
    /// Bytes of the journal not yet given up.
    pub journal_bytes: u64,
    /// Bytes written to the journal, ever, by this process.
    pub journal_bytes_written: u64,
    /// Groups synced, ever, by this process.
    pub syncs: u64,
}

impl Snapshot {
    fn update(&mut self, accounts: &Accounts, journal_bytes: u64) {
        let tally = &accounts.tally;
        self.started = tally.started;
        self.completed = tally.completed;
        self.compensated = tally.compensated;
        self.killed = tally.killed;
        self.blocked = tally.blocked;
        self.in_flight = tally.in_flight();
        self.inputs = accounts.counted();
        self.sent = accounts.sent;
        self.journal_bytes = journal_bytes;
    }
}
