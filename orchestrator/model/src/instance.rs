//! One running saga: what is known of each node, and the saga's own data.
//!
//! Its stored form is one version byte, the [`Core`] in postcard, and the data as JSON. The history lies beside it
//! (see [`history`](crate::history)), so that a turn writes only its own line of it.

use crate::{
    definition::{Data, Fingerprint, NodeId, Plan},
    history::History,
    message::{Body, Key},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};
use std::fmt;
use uuid::Uuid;

/// Ids of instances, and of all effects, are UUIDv5 under this name space.
const NAMESPACE: Uuid = Uuid::from_u128(0x6469_7269_6765_6e74_0000_7361_6761_0001);

/// A UUIDv5 (RFC 9562, section 5.5) of the parts of a name, one behind the other. Several of them are made for every event, and this
/// SHA-1 knows the instructions that processors have for it.
fn named(space: &Uuid, name: &[&[u8]]) -> Uuid {
    let mut hash = Sha1::new();
    hash.update(space.as_bytes());
    name.iter().for_each(|part| hash.update(part));
    let digest: [u8; 20] = hash.finalize().into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_sha1_bytes(bytes).into_uuid()
}

/// Names the place of a saga for one business key. Runs of the same key follow each other in the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InstanceId(pub Uuid);

impl InstanceId {
    /// The id for a definition's name and a key.
    pub fn of(definition: &str, key: &Key) -> Self {
        Self(named(&NAMESPACE, &[definition.as_bytes(), &[0], key.as_str().as_bytes()]))
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Which way a command goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Leg {
    /// Forward.
    Do,
    /// Back.
    Compensate,
    /// Neither: asks what became of the command forward.
    Status,
}

impl Leg {
    /// As on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Do => "do",
            Self::Compensate => "compensate",
            Self::Status => "status",
        }
    }

    /// From the wire.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "do" => Some(Self::Do),
            "compensate" => Some(Self::Compensate),
            "status" => Some(Self::Status),
            _ => None,
        }
    }
}

impl fmt::Display for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where an instance stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Going forward.
    Running,
    /// Settling what is open and taking back what took effect.
    TurningBack,
    /// All was done.
    Completed,
    /// All that took effect was undone.
    Compensated,
    /// An operator ended it as it stood.
    Killed,
}

impl Status {
    /// Whether nothing more will happen.
    pub const fn is_end(self) -> bool {
        match self {
            Self::Running | Self::TurningBack => false,
            Self::Completed | Self::Compensated | Self::Killed => true,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::TurningBack => "turning back",
            Self::Completed => "completed",
            Self::Compensated => "compensated",
            Self::Killed => "killed",
        })
    }
}

/// A command that was sent, or is to be sent again, and not yet answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ask {
    /// The attempt under way, the last one, or the one that is held; from 1.
    pub attempt: u32,
    /// How many of the attempts before it the policy does not count: each was answered by a failure for now while its destination
    /// was held. Of a question about a pivot, also those of the times before.
    pub excused: u32,
    /// When the first attempt began.
    pub first_at: Timestamp,
    /// When the last attempt began.
    pub asked_at: Timestamp,
    /// What happens next by itself.
    pub next: Next,
    /// Whether an attempt so far may have taken effect without a word.
    pub doubt: bool,
    /// How often its status was asked for so far: the number of each question is its own.
    pub questions: u32,
}

impl Ask {
    /// The attempt as the policy counts it: without those that are excused.
    pub const fn counted(&self) -> u32 {
        self.attempt.saturating_sub(self.excused)
    }
}

/// What an [`Ask`] does by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Next {
    /// The attempt is given up at this instant.
    GiveUp(Timestamp),
    /// The next attempt begins at this instant.
    AskAgain(Timestamp),
    /// Its destination takes nothing now: the attempt begins at this instant.
    Held(Timestamp),
}

impl Next {
    /// When.
    pub const fn at(self) -> Timestamp {
        match self {
            Self::GiveUp(at) | Self::AskAgain(at) | Self::Held(at) => at,
        }
    }
}

/// A step that may or may not have taken effect, while its participant is asked what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Question {
    /// The question that is out, or is to be asked again.
    pub ask: Ask,
    /// The command it is about, with its last attempt.
    pub about: Ask,
    /// Why the saga turns back if the answer does not say that it was done.
    pub cause: CauseKind,
    /// The same for people.
    pub text: String,
}

/// Why a step certainly had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoEffect {
    /// The participant refused.
    Rejected,
    /// The command could not be handed to the broker.
    Unsent,
    /// Every attempt said that it failed without effect.
    Failed,
    /// The participant was asked, said that it was not done, and refuses it from now on.
    NotDone,
}

/// What is known of a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NodeState {
    /// Not reached.
    Idle,
    /// A block with blocks inside, under way.
    Entered,
    /// A choice, taken; `None` for no arm at all.
    Chosen(Option<u16>),
    /// A step whose command is out.
    Open(Ask),
    /// A wait or a pause.
    Waiting {
        /// Until this instant.
        until: Timestamp,
        /// Of the time of a wait, what came before this instant is accounted for.
        since: Timestamp,
    },
    /// Done; with the reply of a step.
    Done(Option<Body>),
    /// A step that may or may not have taken effect, and whose participant is asked which.
    InQuestion(Box<Question>),
    /// A step that may or may not have taken effect.
    InDoubt,
    /// A step that certainly had no effect.
    NoEffect(NoEffect),
    /// A wait or a pause that ended without success: refused, too late, or cut short by turning back.
    Ended,
    /// A step whose compensation is out. `None` is in doubt.
    Undoing(Option<Body>, Ask),
    /// A step whose compensation has been given up: an incident. `None` is in doubt.
    Stuck(Option<Body>, Ask),
    /// A step that has been undone.
    Undone,
    /// A step whose compensation an operator declared unnecessary.
    Resolved,
}

impl NodeState {
    /// The command that is out or rests, and which one it is; `None` where nothing is awaited, or it was given up.
    pub fn asked(&self) -> Option<(Leg, &Ask)> {
        match self {
            Self::Open(ask) => Some((Leg::Do, ask)),
            Self::Undoing(_, ask) => Some((Leg::Compensate, ask)),
            Self::InQuestion(question) => Some((Leg::Status, &question.ask)),
            Self::Idle
            | Self::Entered
            | Self::Chosen(_)
            | Self::Waiting { .. }
            | Self::Done(_)
            | Self::InDoubt
            | Self::NoEffect(_)
            | Self::Ended
            | Self::Stuck(..)
            | Self::Undone
            | Self::Resolved => None,
        }
    }
}

/// Why an instance turned back.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cause {
    /// The node where it began; `None` for the saga as a whole.
    pub node: Option<NodeId>,
    /// What happened there.
    pub what: CauseKind,
    /// For people.
    pub text: String,
}

/// Kinds of causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CauseKind {
    /// A participant, or an event, refused.
    Rejected,
    /// A step failed technically, all attempts used.
    Failed,
    /// No answer or event came in time.
    TimedOut,
    /// A command could not be handed to the broker.
    Unsent,
    /// The saga took too long as a whole.
    Deadline,
    /// Cancelled by an event or an operator.
    Cancelled,
}

/// Something that wants a person.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Incident {
    /// Where.
    pub node: NodeId,
    /// Which command.
    pub leg: Leg,
    /// Since when.
    pub since: Timestamp,
    /// What happened, for people.
    pub text: String,
}

/// An event that came before its wait was open.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Early {
    /// The event's name.
    pub event: String,
    /// The event.
    pub body: Body,
    /// When it came.
    pub since: Timestamp,
    /// The id of its message, where known.
    pub cause: Option<String>,
}

/// The trace an instance belongs to: W3C trace id, and the span that started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Trace {
    /// The trace id.
    pub id: [u8; 16],
    /// The span id of the start event's sender; zero if there was none.
    pub parent: [u8; 8],
}

/// Everything of an instance but its data and history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Core {
    /// Names its place.
    pub id: InstanceId,
    /// The definition's name.
    pub definition: String,
    /// The definition's version.
    pub version: u32,
    /// The definition's fingerprint when the instance was started.
    pub fingerprint: Fingerprint,
    /// The business key.
    pub key: Key,
    /// Which run for this key; from 0.
    pub run: u32,
    /// Where it stands.
    pub status: Status,
    /// Counts the inputs that changed something.
    pub revision: u64,
    /// What is known of each node.
    pub nodes: Vec<NodeState>,
    /// Why it turned back.
    pub cause: Option<Cause>,
    /// What wants a person.
    pub incidents: Vec<Incident>,
    /// Events kept for waits not yet open.
    pub early: Vec<Early>,
    /// Hashed ids of the start event and of the latest events that were taken, by this run and those before it, so that one
    /// delivered again is not given to a later wait, and begins no further run.
    pub events_taken: Vec<Uuid>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// When the whole saga has taken too long.
    pub deadline: Option<Timestamp>,
    /// The trace it belongs to.
    pub trace: Trace,
}

/// One running saga.
pub struct Instance {
    /// All but the data.
    pub core: Core,
    /// The saga's own data.
    pub data: Box<dyn Data>,
    /// What happened so far.
    pub history: History,
}

impl Clone for Instance {
    fn clone(&self) -> Self {
        Self { core: self.core.clone(), data: self.data.copy(), history: self.history.clone() }
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.core, f)
    }
}

/// Events an instance keeps for waits that are not open yet.
pub const EARLY_EVENTS_MAX: usize = 16;

/// Ids of taken events an instance remembers. Redelivery is a matter of a few messages; waits are few too.
pub const EVENTS_TAKEN_MAX: usize = 32;

/// Ids come from outside and may be long; what is remembered of each is not.
pub(crate) fn taken_id(instance: InstanceId, message_id: &str) -> Uuid {
    named(&instance.0, &[message_id.as_bytes()])
}

impl Core {
    /// The stable key of one effect: the same for every attempt, restart and replay, another one in another run.
    pub fn idempotency_key(&self, node: &str, leg: Leg) -> Uuid {
        let run = match self.run {
            0 => self.id.0,
            run => named(&self.id.0, &[&run.to_be_bytes()]),
        };
        named(&run, &[node.as_bytes(), &[0], leg.as_str().as_bytes()])
    }

    /// Whether the message with this id began this run or an earlier one, or was taken by one of their waits.
    pub fn has_taken(&self, message_id: &str) -> bool {
        self.events_taken.contains(&taken_id(self.id, message_id))
    }

    /// What is known of a node.
    pub fn state(&self, node: NodeId) -> &NodeState {
        &self.nodes[node.index()]
    }

    /// Whether something wants a person.
    pub fn is_blocked(&self) -> bool {
        !self.status.is_end() && !self.incidents.is_empty()
    }

    /// The next instant at which something is due, and where; `None` in second place is the saga's deadline.
    pub fn next_due(&self) -> Option<(Timestamp, Option<NodeId>)> {
        if self.status.is_end() {
            return None;
        }
        let nodes = self.nodes.iter().enumerate().filter_map(|(index, state)| {
            let at = match state {
                NodeState::Open(ask) | NodeState::Undoing(_, ask) => ask.next.at(),
                NodeState::InQuestion(question) => question.ask.next.at(),
                NodeState::Waiting { until, .. } => *until,
                NodeState::Idle
                | NodeState::Entered
                | NodeState::Chosen(_)
                | NodeState::Done(_)
                | NodeState::InDoubt
                | NodeState::NoEffect(_)
                | NodeState::Ended
                | NodeState::Stuck(..)
                | NodeState::Undone
                | NodeState::Resolved => return None,
            };
            Some((at, u16::try_from(index).ok().map(NodeId)))
        });
        let deadline = self.deadline.map(|at| (at, None));
        nodes.chain(deadline).min_by_key(|(at, _)| *at)
    }
}

/// A stored instance that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoredError {
    /// Written by a newer release.
    #[error(
        "the record has format {found}, this release reads up to {FORMAT}; use the release that wrote it, or a newer one"
    )]
    Newer {
        /// The format found.
        found: u8,
    },
    /// The bytes are no record.
    #[error("the record can't be read: {text}")]
    Damaged {
        /// What was wrong.
        text: String,
    },
    /// The definition's shape is another one.
    #[error(
        "the instance was started by {definition} v{version} with fingerprint {stored}, this process has {declared}"
    )]
    OtherShape {
        /// The definition's name.
        definition: String,
        /// Its version.
        version: u32,
        /// The fingerprint stored.
        stored: Fingerprint,
        /// The fingerprint declared.
        declared: Fingerprint,
    },
}

/// The stored form this release writes.
pub const FORMAT: u8 = 3;

impl Instance {
    /// The stored form, without the history.
    pub fn encode(&self, into: &mut Vec<u8>) {
        into.push(FORMAT);
        let start = std::mem::take(into);
        *into = postcard::to_extend(&self.core, start)
            .expect("the core holds nothing that postcard can't write");
        // Data that was read from JSON, or began as a value, can be written as JSON unless its author's `Serialize` fails:
        // then the empty text is refused when it is read, instead of a wrong value being believed.
        let before = into.len();
        if self.data.write_json(into).is_err() {
            into.truncate(before);
        }
    }

    /// The core and the JSON of the data from the stored form, for those who know no definition.
    pub fn peek(bytes: &[u8]) -> Result<(Core, &[u8]), StoredError> {
        match bytes.split_first() {
            Some((&FORMAT, rest)) => postcard::take_from_bytes(rest)
                .map_err(|error| StoredError::Damaged { text: error.to_string() }),
            Some((&found, _)) if found > FORMAT => Err(StoredError::Newer { found }),
            Some((&found, _)) if found > 0 => {
                let text = format!("its format {found} is older than the first release");
                Err(StoredError::Damaged { text })
            }
            _ => Err(StoredError::Damaged { text: "it has no format".into() }),
        }
    }

    /// From the stored form.
    pub fn decode(plan: &Plan, bytes: &[u8], history: History) -> Result<Self, StoredError> {
        let (core, json) = Self::peek(bytes)?;
        if core.fingerprint != plan.fingerprint() || core.nodes.len() != plan.graph().nodes.len() {
            return Err(StoredError::OtherShape {
                definition: core.definition,
                version: core.version,
                stored: core.fingerprint,
                declared: plan.fingerprint(),
            });
        }
        let data = plan
            .read_data(json)
            .map_err(|error| StoredError::Damaged { text: error.to_string() })?;
        Ok(Self { core, data, history })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_rfc_9562_makes_of_them() {
        let known = named(&Uuid::NAMESPACE_DNS, &[b"www.", b"example.com"]);
        assert_eq!(known.to_string(), "2ed6657d-e927-568b-95e1-2665a8aea6a2");
        assert_eq!(known, Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"www.example.com"));
    }
}
