//! Bytes and headers in and out. Nothing here knows what a saga is.
//!
//! ```text
//! broker ─► Source::receive ─► Delivery ─► (whoever decides) ─► Settler::settle ─► broker
//! (whoever decides) ─► Sink::send a window ─► broker ─► one Sent per message
//! ```
//!
//! What every connector promises, and [`conformance`] tests for each of them:
//!
//! 1. Messages of one key on one channel are delivered in the order they were sent, unless a delivery is settled [`Settle::Again`].
//! 2. A delivery that was not settled [`Settle::Done`] comes again after the source is opened anew
//!    (from the broker's memory for a queue, from the positions handed in for a log).
//! 3. [`Sink::send`] decides each message of the window: confirmed by the broker for good, certainly not
//!    handed over, or unknown. Unknown messages may be sent again with the same `id`.
//! 4. Attributes and foreign headers arrive as they were sent; the body is never looked into.
//! 5. Nothing waits for ever without saying so, nothing queues without a bound, and a lost connection is rebuilt for ever.
//! 6. Each source and sink tells by its [`Health`] whether messages flow, and if not, why.

pub mod conformance;
pub mod faulty;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod health;
pub mod kafka;
pub mod memory;
pub mod rabbitmq;
pub mod random;
pub mod retry;
pub mod simulated;
pub mod tls;

mod message;
mod receipts;
mod secret;

pub use health::Health;
pub use message::{Attributes, Message, names};
pub use secret::Secret;

use async_trait::async_trait;
use std::{fmt, sync::Arc, time::Duration};

/// How the consumers of a channel share its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChannelKind {
    /// One group of workers takes each message once: commands and replies. A message nobody could ever take is *unsent*.
    Work,
    /// Every group that listens gets each message: domain events. Nobody listening is not an error.
    Events,
}

/// How the name of every channel of dead letters ends.
pub const LETTERS_SUFFIX: &str = ".dead-letters";

/// A channel as the broker has to know it: a topic, or an exchange with its queues.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelSpec {
    /// The name of the topic, queue or exchange.
    pub name: String,
    /// How its consumers share it.
    pub kind: ChannelKind,
}

impl ChannelSpec {
    /// A channel of commands or replies.
    pub fn work(name: impl Into<String>) -> Self {
        Self { name: name.into(), kind: ChannelKind::Work }
    }

    /// Whether dead letters lie in it, told by its name. They wait for people: each is taken alone, with any tool, by as many
    /// readers as there are, and in no promised order.
    pub fn keeps_letters(&self) -> bool {
        self.kind == ChannelKind::Work && self.name.ends_with(LETTERS_SUFFIX)
    }

    /// A channel of domain events.
    pub fn events(name: impl Into<String>) -> Self {
        Self { name: name.into(), kind: ChannelKind::Events }
    }
}

/// Where the next message of one partition is to be read from: all offsets below `next` are taken care of.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct Position {
    /// The channel.
    pub channel: String,
    /// The partition within the channel; 0 where the broker has none.
    pub partition: u32,
    /// The offset of the first message not yet taken care of.
    pub next: u64,
}

/// What a source is to read.
#[derive(Debug, Clone)]
pub struct SourceSpec {
    /// The channels to read, all by this one source.
    pub channels: Vec<ChannelSpec>,
    /// Who reads: the consumer group of a log, the owner in the names of queues for events.
    pub group: String,
    /// Where to go on, for a connector whose [`Memory`] is [`Memory::Positions`]. A partition that is not named starts at its beginning.
    pub positions: Vec<Position>,
    /// Deliveries handed out and not yet settled, at the most (messages).
    pub unsettled_max: usize,
}

/// Who remembers what has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// The reader does, by position; the broker keeps a log.
    Positions,
    /// The broker does, by settlement; it hands out again what was not settled.
    Settlements,
}

/// Names one delivery to the [`Settler`] of the source that made it. Unique within one opened source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Receipt(pub u64);

/// A message as it came in.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// What was sent.
    pub message: Message,
    /// The partition it was read from; 0 where the broker has none.
    pub partition: u32,
    /// Its offset in the partition; where the broker has none, a count of deliveries since the source was opened.
    pub offset: u64,
    /// To be handed to the settler once the delivery is taken care of.
    pub receipt: Receipt,
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settle {
    /// Taken care of for good.
    Done,
    /// Not taken care of; hand it out again.
    Again,
}

/// Reads deliveries of the channels it was opened for.
#[async_trait]
pub trait Source: Send {
    /// Waits for at least one delivery and returns at most `max` of those that are there. Never waits to fill up.
    /// Dropping the future loses nothing. A connection that breaks is rebuilt inside; only what a person must mend is an error.
    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>, ConnectorError>;

    /// Settles deliveries of this source, from any thread.
    fn settler(&self) -> Arc<dyn Settler>;

    /// How this source stands with its broker, from now on: the same handle every time.
    fn health(&self) -> Health;
}

/// Tells the broker what became of deliveries.
pub trait Settler: Send + Sync {
    /// Never blocks and never fails: a settlement that can't be told leads to the delivery coming again.
    fn settle(&self, settlements: &[(Receipt, Settle)]);
}

/// What became of a message handed to a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// The broker has it for good.
    Confirmed,
    /// It certainly was not handed over, and trying again would not help.
    Unsent {
        /// Why, for decisions.
        reason: UnsentReason,
        /// Why, for people.
        text: String,
    },
    /// It may or may not have been handed over: send it again with the same `id`.
    Unknown {
        /// Why, for people.
        text: String,
    },
    /// Another process owns the group this sink sends for: nothing leaves by it any more, and opening another would not help.
    /// Only a sink of [`Connector::owner_sink`] says so. The process has to end.
    Fenced {
        /// Who owns the group now, for people.
        text: String,
    },
}

/// Why a message can't be handed to the broker for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnsentReason {
    /// No such topic or queue, or nothing bound.
    Unroutable,
    /// Larger than the broker takes.
    TooLarge,
    /// Not permitted.
    NotAuthorised,
    /// The broker, or the client, refuses it for another permanent reason.
    Refused,
}

impl fmt::Display for UnsentReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unroutable => "unroutable",
            Self::TooLarge => "too-large",
            Self::NotAuthorised => "not-authorised",
            Self::Refused => "refused",
        })
    }
}

/// Sends messages.
#[async_trait]
pub trait Sink: Send {
    /// Sends the window in its order and returns one outcome for each message, in that order, once all are decided
    /// or the connector's own time limit has made the rest [`Sent::Unknown`]. The whole window is in flight at once.
    async fn send(&mut self, window: &[Message]) -> Vec<Sent>;

    /// How this sink stands with its broker, from now on: the same handle every time.
    fn health(&self) -> Health;
}

/// How long a broker keeps a message that has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Retention {
    /// Not at all: it is not read again once it is settled.
    UntilSettled,
    /// For about so long after it was sent.
    For(Duration),
    /// Until a person deletes it.
    ForEver,
}

/// One broker.
#[async_trait]
pub trait Connector: Send + Sync {
    /// What people call it: `memory`, `kafka`, `rabbitmq`.
    fn name(&self) -> &str;

    /// Who remembers what has been read.
    fn memory(&self) -> Memory;

    /// Creates the channels that are missing. For [`ChannelKind::Work`] also the place where messages wait for their reader,
    /// so that a command can be sent before its participant has ever started.
    async fn prepare(&self, channels: &[ChannelSpec]) -> Result<(), ConnectorError>;

    /// How long messages of a channel can be read again. Of a channel that is there.
    async fn retention(&self, _channel: &str) -> Result<Retention, ConnectorError> {
        Ok(Retention::UntilSettled)
    }

    /// Opens a source. Creates what this reader needs on the broker.
    async fn source(&self, spec: SourceSpec) -> Result<Box<dyn Source>, ConnectorError>;

    /// Opens a sink for whoever may send: a participant, a customer.
    async fn sink(&self) -> Result<Box<dyn Sink>, ConnectorError>;

    /// Opens a sink that sends only while this process owns `group`: for one whose messages must not mix with those of
    /// another process that has taken the group over meanwhile. The source of the group has to be opened before, by the same
    /// connector. A broker that can't tell an owner from a former one gives an ordinary sink.
    async fn owner_sink(&self, group: &str) -> Result<Box<dyn Sink>, ConnectorError>;
}

/// What a person must mend. Passing troubles are healed inside the connectors and logged there.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// The broker did not answer within the time limit while opening.
    #[error("{connector} at {address} did not answer within {}s while {doing}; is it running, and is the address right?", .waited.as_secs())]
    Unreachable {
        /// Which connector.
        connector: &'static str,
        /// The address, without credentials.
        address: String,
        /// What was being done.
        doing: String,
        /// How long was waited.
        waited: Duration,
        /// The last cause, where one is known.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The broker answered and refused.
    #[error("{connector} refused {doing}: {text}")]
    Refused {
        /// Which connector.
        connector: &'static str,
        /// What was being done.
        doing: String,
        /// What the broker said, and what can be done.
        text: String,
    },
    /// The broker and we do not come together: one does not trust the other's certificate, or the user or password is wrong.
    #[error("{connector} at {address} does not let us in: {text}")]
    NotLetIn {
        /// Which connector.
        connector: &'static str,
        /// The address, without credentials.
        address: String,
        /// Why, and what can be done.
        text: String,
    },
    /// The broker knows us and does not let us.
    #[error(
        "{connector} does not permit {doing}: {text}; let an administrator of the brokers grant it to the user of this process"
    )]
    NotAuthorised {
        /// Which connector.
        connector: &'static str,
        /// What was being done.
        doing: String,
        /// What the broker said.
        text: String,
    },
    /// Another process reads for this group already.
    #[error(
        "{connector} group {group} is already read by {owner}; stop it first, or give this process a group of its own"
    )]
    Owned {
        /// Which connector.
        connector: &'static str,
        /// The consumer group.
        group: String,
        /// The other reader, as the broker names it.
        owner: String,
    },
    /// A setting can't be used.
    #[error("{connector} setting {setting}: {text}")]
    Setting {
        /// Which connector.
        connector: &'static str,
        /// Which setting.
        setting: String,
        /// Why, and what would be right.
        text: String,
    },
}
