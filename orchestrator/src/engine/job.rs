//! What shards are given to do, and what must be said about it once it is durable.

use super::{
    accounts::{Count, Covered},
    group::InputDone,
};
use crate::envelope::{DeadLetter, ReplyHead};
use crossbeam_channel::Sender;
use dirigent_connectors::{Message, Receipt, Settle, Settler};
use dirigent_model::{
    decision::Action,
    definition::{NodeId, Plan},
    history::Verdict,
    instance::{InstanceId, Leg, Trace},
    message::{Body, Key},
    time::Timestamp,
};
use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicUsize, Ordering},
};

/// Something for one instance.
pub(crate) struct Job {
    pub instance: InstanceId,
    pub what: What,
    /// The id of the message that brought it.
    pub cause: Option<String>,
    /// The delivery it came with; `None` for what came from inside.
    pub delivery: Option<DeliveryJob>,
}

/// Kinds of jobs.
pub(crate) enum What {
    Start {
        plan: Arc<Plan>,
        key: Key,
        body: Body,
        trace: Trace,
    },
    Event {
        name: String,
        body: Body,
    },
    Reply {
        head: ReplyHead,
        name: String,
        body: Body,
    },
    Unsent {
        node: NodeId,
        leg: Leg,
        attempt: u32,
        text: String,
        confirm: Confirm,
    },
    /// Its destination holds a command, which did not leave.
    Held {
        node: NodeId,
        leg: Leg,
        attempt: u32,
        until: Timestamp,
        /// It may have been sent before the start of this process.
        may_have_left: bool,
        confirm: Confirm,
    },
    Operator {
        action: OperatorAction,
        by: String,
        why: String,
        answer: Sender<Result<Verdict, OperatorError>>,
    },
    /// No decision can be made about it.
    SetAside(DeadLetter),
    /// It was taken care of before a restart: only the broker has to be told.
    SettleOnly,
}

/// An operator's action by names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperatorAction {
    /// See [`Action::Cancel`].
    Cancel,
    /// See [`Action::Kill`].
    Kill,
    /// See [`Action::Retry`]; the step's name.
    Retry(String),
    /// See [`Action::Resolve`]; the step's name.
    Resolve(String),
}

impl OperatorAction {
    pub(crate) fn resolve(&self, plan: &Plan) -> Result<Action, OperatorError> {
        let node = |name: &String| {
            let graph = plan.graph();
            graph.find(name).filter(|node| graph.step(*node).is_some()).ok_or_else(|| {
                OperatorError::NoSuchStep { saga: graph.name.clone(), step: name.clone() }
            })
        };
        Ok(match self {
            Self::Cancel => Action::Cancel,
            Self::Kill => Action::Kill,
            Self::Retry(step) => Action::Retry(node(step)?),
            Self::Resolve(step) => Action::Resolve(node(step)?),
        })
    }
}

/// Why an operator's action could not even be looked at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperatorError {
    /// No such instance.
    #[error("there is no instance {instance}; `list` shows those there are")]
    NoInstance {
        /// The id.
        instance: InstanceId,
    },
    /// No such step.
    #[error("saga `{saga}` has no step `{step}`; `graph` shows its steps")]
    NoSuchStep {
        /// The definition.
        saga: String,
        /// The step asked for.
        step: String,
    },
    /// The engine is stopping.
    #[error("the process is stopping; ask again when it runs")]
    Stopping,
}

/// A message on a lane that counts as confirmed once a job is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Confirm {
    pub lane: super::group::Lane,
    pub seq: super::group::LaneSeq,
}

/// A delivery on its way through one shard, or through several.
pub(crate) struct DeliveryJob {
    /// As it came in, for a dead letter. Shared where several shards look at it.
    pub message: Arc<Message>,
    pub done: Arc<DeliveryDone>,
}

/// How a delivery is settled once every shard concerned has committed.
pub(crate) struct DeliveryDone {
    pub channel: Arc<str>,
    pub partition: u32,
    pub offset: u64,
    /// Where the reader remembers positions.
    pub covered: Option<Covered>,
    pub settler: Arc<dyn Settler>,
    pub receipt: Receipt,
    /// Shards that have not committed yet.
    remaining: AtomicUsize,
    shared: bool,
    /// The best verdict so far, by its place in [`Count::ALL`]; the lowest wins.
    verdict: AtomicU8,
}

impl DeliveryDone {
    pub(crate) fn new(
        channel: Arc<str>,
        partition: u32,
        offset: u64,
        covered: Option<Covered>,
        settler: Arc<dyn Settler>,
        receipt: Receipt,
        shards: usize,
    ) -> Self {
        Self {
            channel,
            partition,
            offset,
            covered,
            settler,
            receipt,
            remaining: AtomicUsize::new(shards),
            shared: shards > 1,
            verdict: AtomicU8::new(u8::MAX),
        }
    }

    /// Whether more than one saga looks at it.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared
    }

    /// Notes a verdict. For a delivery of one shard: what its own group says of it.
    pub(crate) fn decided(&self, count: Count) -> Option<InputDone> {
        let place = Count::ALL.iter().position(|known| *known == count).unwrap_or_default();
        self.verdict.fetch_min(u8::try_from(place).unwrap_or(u8::MAX), Ordering::Relaxed);
        (!self.shared).then(|| self.input(count))
    }

    fn input(&self, count: Count) -> InputDone {
        InputDone {
            channel: Arc::clone(&self.channel),
            partition: self.partition,
            covered: self.covered,
            count,
        }
    }

    /// One shard's group is durable. When it was the last: settles, and says what a later group has to record.
    pub(crate) fn committed(&self) -> Option<Option<InputDone>> {
        if self.remaining.fetch_sub(1, Ordering::AcqRel) != 1 {
            return None;
        }
        let best = Count::ALL.get(usize::from(self.verdict.load(Ordering::Relaxed))).copied();
        Some(self.shared.then(|| self.input(best.unwrap_or(Count::Ignored))))
    }

    /// What the settler is told.
    pub(crate) fn settlement(&self) -> (Receipt, Settle) {
        (self.receipt, Settle::Done)
    }
}
