//! Instances as people see them: read through the same layers, whether an engine runs on them or they lie at rest.

use super::{
    accounts::Accounts,
    audit::{self, Audit},
    kept::KeptTable,
    kept_view::{self, KeptFilter, KeptView},
    recovery::{Recovered, recover},
    shard::Fatal,
    table::Table,
};
use crate::{
    destinations::Destinations,
    journal::{self, Disk, FileDisk, GroupSeq},
    registry::Registry,
    store::{DataFolder, FolderError, SledStore, Store, StoreError, StoreOptions},
};
use dirigent_model::{
    definition::{NodeId, Plan},
    history::Line,
    instance::{Ask, Core, Instance, InstanceId, Next, NodeState, Status},
    message::Key,
    time::Timestamp,
    transition,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, path::Path, sync::Arc};

/// Which instances to list.
#[derive(Debug, Clone, Default)]
pub struct ListFilter {
    /// Only of this saga.
    pub saga: Option<String>,
    /// Only in this state: `running`, `turning-back`, `completed`, `compensated`, `killed`; or `blocked`: whatever wants a person,
    /// by an incident of its own or since a quarantined message holds it.
    pub status: Option<String>,
    /// Only with this key.
    pub key: Option<String>,
    /// At the most this many; 0 for all of them.
    pub limit: usize,
}

/// An instance as people see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    /// The quarantined message that holds it: what comes for it is parked behind that one, and its timers rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<u64>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Until when it is kept after its end, and a repeated start is recognised.
    #[serde(default)]
    pub kept_until: Option<Timestamp>,
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
    /// Messages that are parked or quarantined for it; empty in a list.
    #[serde(default)]
    pub kept: Vec<KeptView>,
}

/// What wants a person, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantsPerson {
    /// Live instances that are blocked: by an incident of theirs, or by a quarantined message that holds them.
    pub blocked: u64,
    /// Those of them that a quarantined message holds.
    pub held: u64,
    /// Quarantined messages, whether they hold an instance or not.
    pub quarantined: u64,
}

impl WantsPerson {
    /// Whether anything does.
    pub fn anything(&self) -> bool {
        self.blocked > 0 || self.quarantined > 0
    }
}

/// A node as people see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// What is known of it.
    pub state: String,
}

/// Reads instances. Cheap to clone. Goes through the store: not for hot paths.
#[derive(Clone)]
pub struct Reader {
    table: Arc<Table>,
    kept: Arc<KeptTable>,
    registry: Arc<Registry>,
    /// Of a running engine: why commands are held.
    running: Option<(Arc<Destinations>, Timestamp)>,
}

impl Reader {
    pub(super) fn new(table: Arc<Table>, kept: Arc<KeptTable>, registry: Arc<Registry>) -> Self {
        Self { table, kept, registry, running: None }
    }

    /// Tells of held commands why they are, as of now.
    pub(super) fn of_running(self, destinations: &Arc<Destinations>, now: Timestamp) -> Self {
        Self { running: Some((Arc::clone(destinations), now)), ..self }
    }

    /// The names of the sagas that are declared here.
    pub fn sagas(&self) -> BTreeSet<&str> {
        self.registry.plans().iter().map(|plan| plan.graph().name.as_str()).collect()
    }

    /// Instances, as of the last commit. Reads through the store: not for hot paths.
    pub fn list(&self, filter: &ListFilter) -> Result<Vec<InstanceView>, StoreError> {
        let (mut found, holding) = (Vec::new(), self.kept.holding());
        self.table.each(|id, resting| {
            let held_by = holding.get(&id).copied();
            if let Ok((core, _)) = Instance::peek(&resting.state)
                && filter.matches(&core, held_by)
            {
                found.push(view(&core, held_by));
            }
            filter.limit == 0 || found.len() < filter.limit
        })?;
        Ok(found)
    }

    /// How many messages are quarantined.
    pub fn quarantined(&self) -> usize {
        self.kept.quarantined()
    }

    /// What wants a person, where so many live instances have an incident of their own.
    pub(super) fn wants_person(&self, with_incident: u64) -> WantsPerson {
        let mut wants =
            WantsPerson { blocked: with_incident, held: 0, quarantined: self.quarantined() as u64 };
        for id in self.kept.holding().into_keys() {
            let (is_live, has_incident) = match self.table.get(id) {
                Ok(Some(resting)) => match Instance::peek(&resting.state) {
                    Ok((core, _)) => (!core.status.is_end(), core.is_blocked()),
                    Err(_) => (!resting.ended, false),
                },
                // Its start is what is quarantined: there is a message, and no instance.
                Ok(None) => (false, false),
                // What can't be read wants a person all the more.
                Err(_) => (true, false),
            };
            wants.held += u64::from(is_live);
            wants.blocked += u64::from(is_live && !has_incident);
        }
        wants
    }

    /// Messages that are kept, in the order of arrival, without their bytes.
    pub fn kept(&self, filter: &KeptFilter) -> Vec<KeptView> {
        let all = self.kept.all();
        let found = all.iter().filter(|kept| filter.matches(kept));
        let limit = if filter.limit == 0 { usize::MAX } else { filter.limit };
        found.take(limit).map(|kept| kept_view::view(kept)).collect()
    }

    /// One kept message with its bytes.
    pub fn kept_message(&self, number: u64) -> Option<KeptView> {
        self.kept.get(number).map(|kept| kept_view::view_whole(&kept))
    }

    /// What is kept for an instance, in order.
    pub fn kept_for(&self, id: InstanceId) -> Vec<KeptView> {
        let all = self.kept.all();
        all.iter().filter(|kept| kept.instance == id).map(|kept| kept_view::view(kept)).collect()
    }

    /// One instance with everything known of it.
    pub fn show(&self, id: InstanceId) -> Result<Option<InstanceView>, StoreError> {
        let Some(resting) = self.table.get(id)? else { return Ok(None) };
        let Ok((core, json)) = Instance::peek(&resting.state) else { return Ok(None) };
        let plan = self.registry.plan(&core.definition, core.version);
        let name = |index: usize| {
            let node = plan.and_then(|plan| plan.graph().nodes.get(index));
            node.map_or_else(|| format!("node {index}"), |node| node.name.clone())
        };
        let mut view = view(&core, self.kept.holding().get(&id).copied());
        view.nodes = core
            .nodes
            .iter()
            .enumerate()
            .map(|(index, state)| NodeView {
                name: name(index),
                state: match plan.and_then(|plan| self.why_held(plan, index, state)) {
                    Some(why) => format!("{}: {why}", describe_state(state, core.status)),
                    None => describe_state(state, core.status),
                },
            })
            .collect();
        view.kept_until =
            plan.zip(core.ended_at).map(|(plan, ended)| ended + plan.graph().retention);
        view.data = serde_json::from_slice(json).unwrap_or_default();
        view.history = resting.history.lines();
        view.history_forgotten = resting.history.forgotten();
        view.kept = self.kept_for(id);
        Ok(Some(view))
    }
}

impl Reader {
    fn why_held(&self, plan: &Plan, index: usize, state: &NodeState) -> Option<String> {
        let (leg, ask) = state.asked()?;
        let Next::Held(_) = ask.next else { return None };
        let node = NodeId(u16::try_from(index).ok()?);
        let channel = transition::destination(plan.graph(), node, leg)?;
        let (destinations, now) = self.running.as_ref()?;
        destinations.of(channel)?.why_held(*now)
    }
}

/// Why a data folder at rest can't be read.
#[derive(Debug, thiserror::Error)]
pub enum AtRestError {
    /// There is none.
    #[error(
        "{folder} is no data folder; name the one that the process was started with, by --data"
    )]
    NoFolder {
        /// What was named.
        folder: String,
    },
    /// Another process has it, or the disk is in the way.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal, or what is in it.
    #[error("reading the journal of data folder {folder}")]
    Journal {
        /// Which folder.
        folder: String,
        /// Why not.
        #[source]
        source: Fatal,
    },
}

/// Reads a data folder that no process runs on: its store, and the journal on top. Locks it as long as the reader lives,
/// sends nothing and decides nothing. Blocks: not for the async runtime's threads.
///
/// Changes what an opening of the store changes; the journal is left as it is.
pub fn open_at_rest(folder: &Path, registry: Arc<Registry>) -> Result<Reader, AtRestError> {
    let AtRest { table, kept, .. } = open(folder)?;
    Ok(Reader::new(table, kept, registry))
}

/// Holds the accounts of a data folder that no process runs on against what they stand for. Changes nothing of the journal.
/// Blocks: not for the async runtime's threads.
pub fn audit_at_rest(folder: &Path) -> Result<Audit, AtRestError> {
    let AtRest { table, kept, accounts, .. } = open(folder)?;
    Ok(audit::audit(&accounts, &table, &kept)?)
}

/// The same for a store and a journal that lie somewhere else.
pub fn audit(store: Arc<dyn Store>, disk: Arc<dyn Disk>) -> Result<Audit, Fatal> {
    let (table, kept) = (Table::new(store), KeptTable::default());
    let recovered = read(&table, &kept, disk)?;
    Ok(audit::audit(&recovered.accounts, &table, &kept)?)
}

/// What lies in a folder.
struct AtRest {
    table: Arc<Table>,
    kept: Arc<KeptTable>,
    accounts: Accounts,
}

/// Reads store and journal, and leaves the journal as it is. Says which group would come next.
pub(super) fn read(
    table: &Table,
    kept: &KeptTable,
    disk: Arc<dyn Disk>,
) -> Result<Recovered<GroupSeq>, Fatal> {
    // As many connectors as there can be: whose messages are still to be sent does not matter here.
    let lanes = usize::from(u8::MAX) + 1;
    recover(table, kept, disk, lanes, |disk, from, take_in| {
        let next = journal::read(&*disk, from, take_in)?;
        Ok((next, next))
    })
}

fn open(folder: &Path) -> Result<AtRest, AtRestError> {
    let named = || folder.display().to_string();
    if !folder.join("journal").is_dir() || !folder.join("store").is_dir() {
        return Err(AtRestError::NoFolder { folder: named() });
    }
    let opened = DataFolder::open(folder)?;
    let journal = |source: Fatal| AtRestError::Journal { folder: named(), source };
    let disk = FileDisk::open(&opened.journal()).map_err(|error| journal(error.into()))?;
    let table = Arc::new(Table::new(Arc::new(SledStore::open(&opened, StoreOptions::default())?)));
    let kept = Arc::new(KeptTable::default());
    let accounts = read(&table, &kept, Arc::new(disk)).map_err(journal)?.accounts;
    Ok(AtRest { table, kept, accounts })
}

impl ListFilter {
    fn matches(&self, core: &Core, held_by: Option<u64>) -> bool {
        self.saga.as_ref().is_none_or(|saga| *saga == core.definition)
            && self.key.as_ref().is_none_or(|key| key == core.key.as_str())
            && self.status.as_ref().is_none_or(|status| *status == status_of(core, held_by))
    }
}

fn status_of(core: &Core, held_by: Option<u64>) -> &'static str {
    match core.status {
        _ if core.is_blocked() || (held_by.is_some() && !core.status.is_end()) => "blocked",
        Status::Running => "running",
        Status::TurningBack => "turning-back",
        Status::Completed => "completed",
        Status::Compensated => "compensated",
        Status::Killed => "killed",
    }
}

fn view(core: &Core, held_by: Option<u64>) -> InstanceView {
    let own = core.incidents.iter().map(|incident| incident.text.clone());
    let held = held_by.map(|number| format!("held by quarantined message #{number}"));
    InstanceView {
        id: core.id,
        saga: core.definition.clone(),
        version: core.version,
        key: core.key.clone(),
        run: core.run,
        status: status_of(core, held_by).into(),
        cause: core.cause.as_ref().map(|cause| cause.text.clone()),
        incidents: own.chain(held).collect(),
        held_by,
        started_at: core.started_at,
        ended_at: core.ended_at,
        kept_until: None,
        due: core.next_due().map(|(due, _)| due),
        trace: format!("{:032x}", u128::from_be_bytes(core.trace.id)),
        nodes: Vec::new(),
        data: serde_json::Value::Null,
        history: Vec::new(),
        history_forgotten: 0,
        kept: Vec::new(),
    }
}

fn describe_state(state: &NodeState, status: Status) -> String {
    use dirigent_model::instance::NoEffect;
    let number = |ask: &Ask| match ask.counted() {
        counted if counted == ask.attempt => format!("attempt {counted}"),
        counted => format!("attempt {} (counts as {counted})", ask.attempt),
    };
    let asked = |ask: &Ask| match ask.next {
        Next::GiveUp(at) => format!("{}, until {at}", number(ask)),
        Next::AskAgain(at) => format!("after {}, again at {at}", number(ask)),
        Next::Held(at) => format!("{} held, again at {at}", number(ask)),
    };
    match state {
        NodeState::Idle => "not reached".into(),
        // A block stays as it was left when the saga turned around inside it.
        NodeState::Entered => match status {
            Status::Running | Status::Completed => "under way".into(),
            Status::TurningBack => "turning back".into(),
            Status::Compensated => "turned back".into(),
            Status::Killed => "left as it stood".into(),
        },
        NodeState::Chosen(Some(arm)) => format!("took arm {}", u32::from(*arm) + 1),
        NodeState::Chosen(None) => "took no arm".into(),
        NodeState::Open(ask) => format!("asked ({})", asked(ask)),
        NodeState::Waiting { until, .. } => format!("waiting until {until}"),
        NodeState::Done(_) => "done".into(),
        NodeState::InQuestion(question) => {
            format!("in doubt, status asked ({})", asked(&question.ask))
        }
        NodeState::InDoubt => "in doubt".into(),
        NodeState::NoEffect(NoEffect::Rejected) => "rejected".into(),
        NodeState::NoEffect(NoEffect::Unsent) => "unsent".into(),
        NodeState::NoEffect(NoEffect::Failed) => "failed without effect".into(),
        NodeState::NoEffect(NoEffect::NotDone) => "not done".into(),
        NodeState::Ended => "ended".into(),
        NodeState::Undoing(_, ask) => format!("being compensated ({})", asked(ask)),
        NodeState::Stuck(_, ask) => format!("compensation given up after attempt {}", ask.attempt),
        NodeState::Undone => "compensated".into(),
        NodeState::Resolved => "resolved by hand".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whichever_arm_a_record_says_was_taken_is_told() {
        for (arm, said) in [(Some(0), "took arm 1"), (Some(u16::MAX), "took arm 65536")] {
            assert_eq!(describe_state(&NodeState::Chosen(arm), Status::Running), said);
        }
    }

    #[test]
    fn a_block_is_under_way_only_while_its_saga_goes_forward() {
        for (status, said) in [
            (Status::Running, "under way"),
            (Status::TurningBack, "turning back"),
            (Status::Compensated, "turned back"),
            (Status::Killed, "left as it stood"),
        ] {
            assert_eq!(describe_state(&NodeState::Entered, status), said);
        }
    }
}
