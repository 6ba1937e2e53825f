//! The declared shape of a saga as data: what is stored, drawn, hashed and checked.
//!
//! Nodes lie in one list, parents before children; [`NodeId`] is the place in it. The order is part of the released
//! shape (stored instances speak of nodes by their place), so the [fingerprint](super::fingerprint) covers it.

use crate::{message::Format, retry::Retry};
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// The place of a node in [`Graph::nodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId(pub u16);

impl NodeId {
    /// The place as an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A message type with the channel it travels on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageRef {
    /// The message's name.
    pub name: String,
    /// The channel.
    pub channel: String,
    /// How bodies on that channel are written.
    pub format: Format,
}

impl fmt::Display for MessageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// What a second start event with the key of a live or kept instance means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repeat {
    /// Recorded as a duplicate, nothing else.
    #[default]
    Duplicate,
    /// Set aside as a dead letter, so that its sender learns of it.
    Reject,
    /// A duplicate while the former run is live; a new run once it has ended.
    RestartWhenFinished,
}

/// A saga's shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graph {
    /// The definition's name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// The event that starts an instance.
    pub start: MessageRef,
    /// What a second start event means.
    pub repeat: Repeat,
    /// How long the whole saga may run before it turns back.
    pub deadline: Option<Duration>,
    /// How long an ended instance is kept, and so how long a repeated start is recognised.
    pub retention: Duration,
    /// Events that make it turn back.
    pub cancelled_by: Vec<MessageRef>,
    /// Published when it has completed, and when it has not.
    pub ends: Ends,
    /// All nodes; the first is the outermost sequence.
    pub nodes: Vec<Node>,
}

/// What is published at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// After success.
    pub completed: Option<MessageRef>,
    /// After compensation.
    pub failed: Option<MessageRef>,
}

/// One block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Unique within the definition; containers without a name of their own are called after their place.
    pub name: String,
    /// The block around it.
    pub parent: Option<NodeId>,
    /// What it is.
    pub kind: Kind,
}

/// What a block is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One after the other.
    Sequence {
        /// In order.
        children: Vec<NodeId>,
    },
    /// Send a command, await its reply.
    Step(Box<Step>),
    /// Await an event.
    Wait {
        /// The event that lets the saga go on.
        event: MessageRef,
        /// The event that makes it turn back.
        refusing: Option<MessageRef>,
        /// How long it is awaited.
        within: Duration,
        /// What it means when none comes.
        on_timeout: OnTimeout,
    },
    /// Side by side; joined when all have succeeded.
    All {
        /// Two or more.
        branches: Vec<NodeId>,
    },
    /// One of several, by the data; the answer is recorded when first asked.
    Choose {
        /// In the order they are asked.
        arms: Vec<Arm>,
        /// When none applies; `None` goes on at once.
        otherwise: Option<NodeId>,
    },
    /// Emit an event.
    Publish {
        /// Which.
        event: MessageRef,
    },
    /// Go on later.
    Pause {
        /// How much later.
        span: Duration,
    },
}

/// A choice and where it leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arm {
    /// For people.
    pub label: String,
    /// Where it leads.
    pub node: NodeId,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What is sent.
    pub command: MessageRef,
    /// The name of the answer when it was done.
    pub success: String,
    /// The name of the final refusal; `None` where it can't be refused.
    pub rejection: Option<String>,
    /// How long an attempt waits for its answer.
    pub reply_within: Duration,
    /// When to ask again.
    pub retry: Retry,
    /// How its participant is asked what became of it, where that is not known; `None` where it can't be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<AskStatus>,
    /// What can be done about it afterwards.
    pub way_back: WayBack,
}

/// How a participant is asked what became of a command: how long each answer is awaited, and when it is asked again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskStatus {
    /// How long each question waits for its answer.
    pub reply_within: Duration,
    /// When to ask again.
    pub retry: Retry,
}

impl AskStatus {
    /// Each question waits so long for its answer, and is asked again by [`Retry::default`].
    pub fn within(limit: Duration) -> Self {
        Self { reply_within: limit, retry: Retry::default() }
    }

    /// When to ask again. Exhausted, the step is in doubt.
    #[must_use]
    pub fn retry(mut self, policy: Retry) -> Self {
        self.retry = policy;
        self
    }
}

/// What can be done about a step that took effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WayBack {
    /// A command undoes it.
    Compensated {
        /// Which.
        command: MessageRef,
        /// The name of its answer.
        success: String,
        /// How long an attempt waits for its answer.
        reply_within: Duration,
        /// When to ask again; exhausted, the instance is blocked.
        retry: Retry,
    },
    /// There is nothing to undo.
    Nothing {
        /// Why.
        reason: String,
    },
    /// The point of no return.
    Pivot,
    /// After the pivot: asked until it is done.
    Retriable,
}

/// What it means when an awaited event does not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    /// As a refusal: the saga turns back.
    Reject,
    /// The saga goes on without it.
    Proceed,
}

impl Graph {
    /// Nodes a definition may have. Far above any saga a person can read, far below what the places can count.
    pub const NODES_MAX: usize = 1_000;

    /// The outermost sequence.
    pub const ROOT: NodeId = NodeId(0);

    /// A node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// A node's name.
    pub fn name_of(&self, id: NodeId) -> &str {
        &self.node(id).name
    }

    /// The node that its author called `name`. Sequences are called after their place and never found.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        let is_named = |id: &NodeId| !matches!(self.node(*id).kind, Kind::Sequence { .. });
        self.ids().filter(is_named).find(|id| self.name_of(*id) == name)
    }

    /// All places, parents first.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
        (0..self.nodes.len())
            .map(|index| NodeId(u16::try_from(index).expect("NODES_MAX fits the places")))
    }

    /// The step at a place, if there is one.
    pub fn step(&self, id: NodeId) -> Option<&Step> {
        match &self.nodes.get(id.index())?.kind {
            Kind::Step(step) => Some(step),
            _ => None,
        }
    }

    /// The blocks directly inside a node.
    pub fn children(&self, id: NodeId) -> Vec<NodeId> {
        match &self.node(id).kind {
            Kind::Sequence { children } => children.clone(),
            Kind::All { branches } => branches.clone(),
            Kind::Choose { arms, otherwise } => {
                arms.iter().map(|arm| arm.node).chain(*otherwise).collect()
            }
            Kind::Step(_) | Kind::Wait { .. } | Kind::Publish { .. } | Kind::Pause { .. } => {
                Vec::new()
            }
        }
    }

    /// Names of all events an instance may await or be cancelled by; the start event is not among them.
    pub fn events_awaited(&self) -> impl Iterator<Item = &MessageRef> {
        let waits = self.nodes.iter().flat_map(|node| match &node.kind {
            Kind::Wait { event, refusing, .. } => {
                std::iter::once(event).chain(refusing).collect::<Vec<_>>()
            }
            _ => Vec::new(),
        });
        waits.chain(&self.cancelled_by)
    }
}
