//! What can be asked of a running engine, and said to it.

use super::{
    Concern, InstanceView, ListFilter, Reader, Shared, Snapshot, ToShard,
    job::{Decided, Decision, Job, OperatorAction, OperatorError, What},
    pausing::{self, PauseError},
};
use crate::{
    destinations::{DestinationView, Paused},
    store::StoreError,
};
use crossbeam_channel::{Sender, bounded};
use dirigent_model::{history::Verdict, instance::InstanceId, time::Timestamp};
use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

/// How long an operator's action may take to become durable.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Asks a running engine and tells it what to do. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
    pub(super) shards: Vec<Sender<ToShard>>,
}

/// Why a question had no answer.
#[derive(Debug, thiserror::Error)]
pub enum HandleError {
    /// It was not permitted, or there is no such thing.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// The engine has too much to do, or is stuck on its disk or brokers.
    #[error("no answer within {}s: the process is busy or waits for its disk or a broker", ANSWER_WITHIN.as_secs())]
    NoAnswer,
}

impl Handle {
    /// What is going on, as of the last commit.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What keeps the engine from taking work in, as of now; nothing while it is well.
    pub fn concerns(&self) -> Vec<Concern> {
        self.shared.health.concerns()
    }

    /// Reads instances, as of the last commit.
    pub fn reader(&self) -> Reader {
        let shared = &self.shared;
        let (table, kept) = (Arc::clone(&shared.table), Arc::clone(&shared.kept));
        let reader = Reader::new(table, kept, Arc::clone(&shared.registry));
        reader.of_running(&shared.destinations, shared.clock.now())
    }

    /// See [`Reader::list`].
    pub fn list(&self, filter: &ListFilter) -> Result<Vec<InstanceView>, StoreError> {
        self.reader().list(filter)
    }

    /// See [`Reader::show`].
    pub fn show(&self, id: InstanceId) -> Result<Option<InstanceView>, StoreError> {
        self.reader().show(id)
    }

    /// The id of a saga's instance.
    pub fn id(&self, saga: &str, key: &str) -> InstanceId {
        InstanceId::of(saga, &key.into())
    }

    /// The time by this engine's clock.
    pub fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// How the destinations of commands stand.
    pub fn destinations(&self) -> Vec<DestinationView> {
        self.shared.destinations.views(self.shared.clock.now())
    }

    /// Holds every command to a destination until it is resumed, restarts included. Blocks.
    pub fn pause(&self, channel: &str, by: &str, why: &str) -> Result<DestinationView, PauseError> {
        let since = self.shared.clock.now();
        let paused = Paused { by: by.into(), why: why.into(), since };
        pausing::pause(&self.shared, channel, Some(paused))
    }

    /// Lets commands go to a destination that was paused. Blocks.
    pub fn resume(
        &self,
        channel: &str,
        by: &str,
        why: &str,
    ) -> Result<DestinationView, PauseError> {
        let resumed = pausing::pause(&self.shared, channel, None)?;
        tracing::info!(channel, by, why, "A destination is resumed.");
        Ok(resumed)
    }

    /// Does an operator's action, and answers once it is durable. Blocks: not for the async runtime's threads.
    pub fn operate(
        &self,
        id: InstanceId,
        action: OperatorAction,
        by: &str,
        why: &str,
    ) -> Result<Verdict, HandleError> {
        let (by, why) = (by.into(), why.into());
        self.ask(id, |answer| What::Operator { action, by, why, answer })
    }

    /// Carries out what an operator decided about a quarantined message, and answers once it is durable. Blocks: not for the
    /// async runtime's threads.
    pub fn decide(
        &self,
        number: u64,
        decision: Decision,
        by: &str,
        why: &str,
    ) -> Result<Decided, HandleError> {
        let kept = self.shared.kept.get(number);
        let kept = kept.ok_or(OperatorError::NotQuarantined { number })?;
        let (by, why) = (by.into(), why.into());
        self.ask(kept.instance, |answer| What::Decide { number, decision, by, why, answer })
    }

    /// Gives the owner of an instance something to do, and waits for its answer.
    fn ask<T>(
        &self,
        id: InstanceId,
        what: impl FnOnce(Sender<Result<T, OperatorError>>) -> What,
    ) -> Result<T, HandleError> {
        let (answer, answered) = bounded(1);
        let job = Job { instance: id, what: what(answer), cause: None, delivery: None };
        let shard = &self.shards[self.shared.shard_of(id)];
        let jobs = ToShard::Jobs(vec![job]);
        shard.send_timeout(jobs, ANSWER_WITHIN).map_err(|error| match error {
            crossbeam_channel::SendTimeoutError::Timeout(_) => HandleError::NoAnswer,
            crossbeam_channel::SendTimeoutError::Disconnected(_) => OperatorError::Stopping.into(),
        })?;
        match answered.recv_timeout(ANSWER_WITHIN) {
            Ok(outcome) => Ok(outcome?),
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => Err(HandleError::NoAnswer),
            Err(crossbeam_channel::RecvTimeoutError::Disconnected) => {
                Err(OperatorError::Stopping.into())
            }
        }
    }
}
