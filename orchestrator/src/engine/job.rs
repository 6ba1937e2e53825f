//! What shards are given to do, and what must be said about it once it is durable.

use super::{
    accounts::{Count, Covered},
    group::{self, InputDone},
    kept::{Kept, KeptChange},
};
use crate::envelope::{DeadLetter, ReplyHead};
use crossbeam_channel::Sender;
use dirigent_connectors::{Message, Receipt, Settle, Settler};
use dirigent_model::{
    decision::Action,
    definition::Plan,
    history::Verdict,
    instance::{InstanceId, Trace},
    message::{Body, Key},
    time::Timestamp,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
        /// The definition that knows it, and the business key.
        plan: Arc<Plan>,
        key: Key,
        name: String,
        body: Body,
    },
    Reply {
        head: ReplyHead,
        name: String,
        body: Body,
    },
    Unsent {
        sender: group::Sender,
        text: String,
        confirm: Confirm,
    },
    /// Its destination holds a command, which did not leave.
    Held {
        sender: group::Sender,
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
    /// An operator's word about a quarantined message.
    Decide {
        number: u64,
        decision: Decision,
        by: String,
        why: String,
        answer: Sender<Result<Decided, OperatorError>>,
    },
    /// No decision can be made about it.
    SetAside(DeadLetter),
    /// It was taken care of before a restart: only the broker has to be told.
    SettleOnly,
}

/// What is to become of a quarantined message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It is offered again, and what is parked behind it.
    Replay,
    /// It is given up, and what is parked behind it is offered.
    Discard,
}

/// What became of a quarantined message.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Decided {
    /// Its number.
    pub number: u64,
    /// `applied`, `duplicate`, `ignored`, `parked`, `quarantined` (again) or `dead-letter`.
    pub became: String,
    /// Why it is quarantined again.
    pub text: Option<String>,
    /// Messages behind it that were offered too.
    pub followed: u64,
    /// Messages of its instance that are parked still.
    pub parked: u64,
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
    /// It can't be used.
    #[error("the stored instance {instance} can't be used: {text}")]
    Unusable {
        /// The id.
        instance: InstanceId,
        /// Why not.
        text: String,
    },
    /// No such step.
    #[error("saga `{saga}` has no step `{step}`; `graph` shows its steps")]
    NoSuchStep {
        /// The definition.
        saga: String,
        /// The step asked for.
        step: String,
    },
    /// No such message.
    #[error("there is no quarantined message #{number}; `quarantine list` shows those there are")]
    NotQuarantined {
        /// The number.
        number: u64,
    },
    /// Another one comes first.
    #[error(
        "message #{number} waits behind #{first} of the same instance; decide about that one first"
    )]
    WaitsBehind {
        /// The number.
        number: u64,
        /// The one before it.
        first: u64,
    },
    /// The engine is stopping.
    #[error("the process is stopping; ask again when it runs")]
    Stopping,
}

/// A message on a lane that counts as confirmed once a job is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Confirm {
    pub lane: group::Lane,
    pub seq: group::LaneSeq,
}

/// A delivery on its way through one shard, or through several.
pub(crate) struct DeliveryJob {
    /// As it came in, for a dead letter. Shared where several shards look at it.
    pub message: Arc<Message>,
    pub done: Arc<DeliveryDone>,
    /// Whether this is the first of those it concerns. Where it is kept for that one, that is what it counts as.
    pub leads: bool,
    /// The instances of the others.
    pub others: Vec<InstanceId>,
}

/// Where an input came from: whoever has to be told what became of it.
pub(crate) enum Origin {
    /// A timer, an operator, the relay.
    Inside,
    /// A broker.
    Delivery(DeliveryJob),
    /// It was kept, and is offered again.
    Shelf(Arc<Kept>),
}

impl Origin {
    pub(crate) fn message(&self) -> Option<&Arc<Message>> {
        match self {
            Self::Inside => None,
            Self::Delivery(job) => Some(&job.message),
            Self::Shelf(kept) => Some(&kept.message),
        }
    }

    pub(crate) fn is_inside(&self) -> bool {
        matches!(self, Self::Inside)
    }
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
    /// Where it concerns several instances.
    parts: Option<Mutex<Parts>>,
}

/// A delivery that concerns several instances: what they said so far.
struct Parts {
    unappended: usize,
    uncommitted: usize,
    /// The best of what they said.
    best: Option<Count>,
    /// What it is kept as for the one that leads.
    kept_as: Option<Count>,
    /// What is kept of it, to be written with the last of them.
    kept: Vec<Arc<Kept>>,
}

impl DeliveryDone {
    pub(crate) fn new(
        channel: Arc<str>,
        partition: u32,
        offset: u64,
        covered: Option<Covered>,
        settler: Arc<dyn Settler>,
        receipt: Receipt,
        targets: usize,
    ) -> Self {
        let parts = (targets > 1).then(|| {
            Mutex::new(Parts {
                unappended: targets,
                uncommitted: targets,
                best: None,
                kept_as: None,
                kept: Vec::new(),
            })
        });
        Self { channel, partition, offset, covered, settler, receipt, parts }
    }

    fn parts(&self) -> Option<MutexGuard<'_, Parts>> {
        self.parts.as_ref().map(|parts| parts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether several instances look at it.
    pub(crate) fn is_shared(&self) -> bool {
        self.parts.is_some()
    }

    /// Notes a verdict. For a delivery that concerns one instance: what its own group says of it.
    pub(crate) fn decided(&self, count: Count) -> Option<InputDone> {
        let Some(mut parts) = self.parts() else { return Some(self.input(count)) };
        parts.best = parts.best.min(Some(count)).or(Some(count));
        None
    }

    /// Keeps it for one of several instances: written once all of them have spoken, so that it is kept and counted together.
    pub(crate) fn keep(&self, kept: Arc<Kept>) {
        let Some(mut parts) = self.parts() else { return };
        if kept.counted {
            parts.kept_as = Some(kept.standing.count());
        }
        parts.kept.push(kept);
    }

    /// Takes back what is kept and not yet written, to be decided about as if it came only now. Says whether it could be.
    pub(crate) fn take_back(&self, number: u64) -> bool {
        let Some(mut parts) = self.parts() else { return false };
        let Some(at) = parts.kept.iter().position(|kept| kept.number == number) else {
            return false;
        };
        if parts.kept.remove(at).counted {
            parts.kept_as = None;
        }
        parts.unappended += 1;
        parts.uncommitted += 1;
        true
    }

    fn input(&self, count: Count) -> InputDone {
        InputDone {
            channel: Arc::clone(&self.channel),
            partition: self.partition,
            covered: self.covered,
            count,
        }
    }

    /// A group that speaks of it is appended to the journal. Where it was the last of several: what they said together.
    pub(crate) fn appended(&self) -> Option<(InputDone, Vec<KeptChange>)> {
        let mut parts = self.parts()?;
        parts.unappended -= 1;
        if parts.unappended > 0 {
            return None;
        }
        let count = parts.kept_as.or(parts.best).unwrap_or(Count::Ignored);
        let kept = std::mem::take(&mut parts.kept).into_iter().map(KeptChange::Put).collect();
        Some((self.input(count), kept))
    }

    /// A group that speaks of it is durable. Says whether it was the last one, and the delivery is to be settled.
    pub(crate) fn committed(&self) -> bool {
        let Some(mut parts) = self.parts() else { return true };
        parts.uncommitted -= 1;
        parts.uncommitted == 0
    }

    /// What the settler is told.
    pub(crate) fn settlement(&self) -> (Receipt, Settle) {
        (self.receipt, Settle::Done)
    }
}
