//! What can be asked of a running engine, and said to it.

use super::{
    Shared, Snapshot, ToShard,
    job::{Job, OperatorAction, OperatorError, What},
};
use crate::store::StoreError;
use crossbeam_channel::{Sender, bounded};
use dirigent_model::{
    history::{Line, Verdict},
    instance::{Core, Instance, InstanceId, NodeState, Status},
    message::Key,
    time::Timestamp,
};
use serde::Serialize;
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
    /// The store can't be read.
    #[error("reading instances")]
    Store(#[from] StoreError),
    /// It was not permitted, or there is no such thing.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// The engine has too much to do, or is stuck on its disk or brokers.
    #[error("no answer within {}s: the process is busy or waits for its disk or a broker", ANSWER_WITHIN.as_secs())]
    NoAnswer,
}

/// Which instances to list.
#[derive(Debug, Clone, Default)]
pub struct ListFilter {
    /// Only of this saga.
    pub saga: Option<String>,
    /// Only in this state: `running`, `turning-back`, `completed`, `compensated`, `killed`, `blocked`.
    pub status: Option<String>,
    /// Only with this key.
    pub key: Option<String>,
    /// At the most this many.
    pub limit: usize,
}

/// An instance as people see it.
#[derive(Debug, Clone, Serialize)]
pub struct InstanceView {
    /// Its id.
    pub id: InstanceId,
    /// The saga's name.
    pub saga: String,
    /// Its version.
    pub version: u32,
    /// The business key.
    pub key: Key,
    /// Which run for this key.
    pub run: u32,
    /// Where it stands; `blocked` where something wants a person.
    pub status: String,
    /// Why it turned back.
    pub cause: Option<String>,
    /// What wants a person.
    pub incidents: Vec<String>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// When something happens by itself.
    pub due: Option<Timestamp>,
    /// The trace it belongs to.
    pub trace: String,
    /// Its nodes; empty in a list.
    pub nodes: Vec<NodeView>,
    /// Its data; null in a list.
    pub data: serde_json::Value,
    /// Its history; empty in a list.
    pub history: Vec<Line>,
    /// Older lines that are no longer kept.
    pub history_forgotten: u32,
}

/// A node as people see it.
#[derive(Debug, Clone, Serialize)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// What is known of it.
    pub state: String,
}

impl Handle {
    /// What is going on, as of the last commit.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Instances, as of the last commit. Reads through the store: not for hot paths.
    pub fn list(&self, filter: &ListFilter) -> Result<Vec<InstanceView>, HandleError> {
        let mut found = Vec::new();
        self.shared.table.each(|_, resting| {
            if let Ok((core, _)) = Instance::peek(&resting.state)
                && filter.matches(&core)
            {
                found.push(view(&core));
            }
            filter.limit == 0 || found.len() < filter.limit
        })?;
        Ok(found)
    }

    /// One instance with everything known of it.
    pub fn show(&self, id: InstanceId) -> Result<Option<InstanceView>, HandleError> {
        let Some(resting) = self.shared.table.get(id)? else { return Ok(None) };
        let Ok((core, json)) = Instance::peek(&resting.state) else { return Ok(None) };
        let plan = self.shared.registry.plan(&core.definition, core.version);
        let name = |index: usize| {
            let node = plan.and_then(|plan| plan.graph().nodes.get(index));
            node.map_or_else(|| format!("node {index}"), |node| node.name.clone())
        };
        let mut view = view(&core);
        view.nodes = core
            .nodes
            .iter()
            .enumerate()
            .map(|(index, state)| NodeView { name: name(index), state: describe_state(state) })
            .collect();
        view.data = serde_json::from_slice(json).unwrap_or_default();
        view.history = resting.history.lines();
        view.history_forgotten = resting.history.forgotten();
        Ok(Some(view))
    }

    /// The id of a saga's instance.
    pub fn id(&self, saga: &str, key: &str) -> InstanceId {
        InstanceId::of(saga, &key.into())
    }

    /// Does an operator's action, and answers once it is durable. Blocks: not for the async runtime's threads.
    pub fn operate(
        &self,
        id: InstanceId,
        action: OperatorAction,
        by: &str,
        why: &str,
    ) -> Result<Verdict, HandleError> {
        let (answer, answered) = bounded(1);
        let what = What::Operator { action, by: by.into(), why: why.into(), answer };
        let job = Job { instance: id, what, cause: None, delivery: None };
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

impl ListFilter {
    fn matches(&self, core: &Core) -> bool {
        self.saga.as_ref().is_none_or(|saga| *saga == core.definition)
            && self.key.as_ref().is_none_or(|key| key == core.key.as_str())
            && self.status.as_ref().is_none_or(|status| *status == status_of(core))
    }
}

fn status_of(core: &Core) -> &'static str {
    match core.status {
        _ if core.is_blocked() => "blocked",
        Status::Running => "running",
        Status::TurningBack => "turning-back",
        Status::Completed => "completed",
        Status::Compensated => "compensated",
        Status::Killed => "killed",
    }
}

fn view(core: &Core) -> InstanceView {
    InstanceView {
        id: core.id,
        saga: core.definition.clone(),
        version: core.version,
        key: core.key.clone(),
        run: core.run,
        status: status_of(core).into(),
        cause: core.cause.as_ref().map(|cause| cause.text.clone()),
        incidents: core.incidents.iter().map(|incident| incident.text.clone()).collect(),
        started_at: core.started_at,
        ended_at: core.ended_at,
        due: core.next_due().map(|(due, _)| due),
        trace: format!("{:032x}", u128::from_be_bytes(core.trace.id)),
        nodes: Vec::new(),
        data: serde_json::Value::Null,
        history: Vec::new(),
        history_forgotten: 0,
    }
}

fn describe_state(state: &NodeState) -> String {
    use dirigent_model::instance::{Next, NoEffect};
    let asked = |attempt: u32, next: &Next| match next {
        Next::GiveUp(at) => format!("attempt {attempt}, until {at}"),
        Next::AskAgain(at) => format!("after attempt {attempt}, again at {at}"),
    };
    match state {
        NodeState::Idle => "not reached".into(),
        NodeState::Entered => "under way".into(),
        NodeState::Chosen(Some(arm)) => format!("took arm {}", arm + 1),
        NodeState::Chosen(None) => "took no arm".into(),
        NodeState::Open(ask) => format!("asked ({})", asked(ask.attempt, &ask.next)),
        NodeState::Waiting(until) => format!("waiting until {until}"),
        NodeState::Done(_) => "done".into(),
        NodeState::InDoubt => "in doubt".into(),
        NodeState::NoEffect(NoEffect::Rejected) => "rejected".into(),
        NodeState::NoEffect(NoEffect::Unsent) => "unsent".into(),
        NodeState::NoEffect(NoEffect::Failed) => "failed without effect".into(),
        NodeState::Ended => "ended".into(),
        NodeState::Undoing(_, ask) => {
            format!("being compensated ({})", asked(ask.attempt, &ask.next))
        }
        NodeState::Stuck(_, ask) => format!("compensation given up after attempt {}", ask.attempt),
        NodeState::Undone => "compensated".into(),
        NodeState::Resolved => "resolved by hand".into(),
    }
}
