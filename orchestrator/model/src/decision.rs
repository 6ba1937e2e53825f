//! What comes into an instance, and what comes out.

use crate::{
    definition::NodeId,
    history::{Line, Verdict},
    instance::{Instance, Leg, Status},
    message::{Body, CodecError, Format},
    time::Timestamp,
};
use uuid::Uuid;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A reply to a command.
    Reply(Reply),
    /// A domain event with this instance's business key.
    Event {
        /// The event's name.
        name: String,
        /// The event.
        body: Body,
    },
    /// Time has passed: whatever is due first is due. Given again until nothing is.
    Due,
    /// A command's destination holds it: neither this attempt nor its time counts.
    Held {
        /// Whose command.
        node: NodeId,
        /// Which one.
        leg: Leg,
        /// Which attempt.
        attempt: u32,
        /// Where it is.
        hold: Hold,
        /// When it is asked again, where it is not still on its way.
        until: Timestamp,
    },
    /// A wait's time is over, but its event could not have been heard for a part of it.
    Unheard {
        /// Which wait.
        node: NodeId,
        /// Until when it goes on.
        until: Timestamp,
    },
    /// A command could not be handed to the broker for good.
    Unsent {
        /// Whose command.
        node: NodeId,
        /// Which one.
        leg: Leg,
        /// Which attempt.
        attempt: u32,
        /// Why, for people.
        text: String,
    },
    /// An operator's word.
    Operator {
        /// What is to be done.
        action: Action,
        /// Who says so.
        by: String,
        /// Why.
        why: String,
    },
}

/// Where a command is that its destination holds. Told by whoever sends: an instance does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hold {
    /// On its way: it waits for its turn and will leave.
    Queued,
    /// Given back, or not even handed over: it certainly did not leave.
    GivenBack,
    /// It left, or may have, for a destination that answers nobody now.
    Left,
}

/// What an input says of the destination of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Heard {
    /// Whose command.
    pub node: NodeId,
    /// Which one.
    pub leg: Leg,
    /// Whether it was answered, refusals included; otherwise it failed for now, or there was no reply in time.
    pub well: bool,
    /// When its last attempt began.
    pub left: Timestamp,
}

/// What an operator can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Turn back; refused once the pivot has been asked for.
    Cancel,
    /// End it as it stands, without compensation.
    Kill,
    /// Ask again now, whatever the retry policy says.
    Retry(NodeId),
    /// Declare a given-up compensation unnecessary, or done by hand.
    Resolve(NodeId),
}

/// A reply as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Whose reply.
    pub node: NodeId,
    /// To which of its commands.
    pub leg: Leg,
    /// The idempotency key it echoes, where it does.
    pub key: Option<Uuid>,
    /// The attempt it answers, where it says so.
    pub attempt: Option<u32>,
    /// Until when its destination is held, if it is: the policy does not count an attempt that failed for now then.
    pub held_until: Option<Timestamp>,
    /// The name of its type.
    pub name: String,
    /// The reply.
    pub body: Body,
}

/// Something to be sent once the instance is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// A command to a participant.
    Command(Command),
    /// An event to whoever listens.
    Publish {
        /// Where it was declared; `None` for the event that tells of the end.
        node: Option<NodeId>,
        /// The channel.
        channel: String,
        /// The event's name.
        name: String,
        /// The event.
        body: Body,
        /// The stable id of its message.
        id: Uuid,
    },
}

/// A command to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Whose command.
    pub node: NodeId,
    /// Which one.
    pub leg: Leg,
    /// Which attempt.
    pub attempt: u32,
    /// The channel.
    pub channel: String,
    /// How bodies on that channel are written.
    pub format: Format,
    /// The command's name.
    pub name: String,
    /// The command.
    pub body: Body,
    /// The same for every attempt.
    pub idempotency_key: Uuid,
}

/// The outcome of one input. `instance` and the position of the input are stored in one commit.
/// Only then may an effect leave the process, and only then is the input settled.
#[derive(Debug)]
#[must_use]
pub struct Decision {
    /// The instance as it is now.
    pub instance: Instance,
    /// What was decided about the input.
    pub verdict: Verdict,
    /// What is to be sent, in this order.
    pub effects: Vec<Effect>,
    /// The line added to the history, and its encoded form; `None` where nothing was worth a line.
    pub line: Option<(Line, Vec<u8>)>,
    /// What it says of a command's destination, where it says anything.
    pub heard: Option<Heard>,
    /// Incidents raised by this input.
    pub incidents_raised: u32,
}

impl Decision {
    /// Whether this input brought the instance to its end.
    pub fn has_ended(&self) -> Option<Status> {
        let status = self.instance.core.status;
        (status.is_end() && self.verdict == Verdict::Applied).then_some(status)
    }
}

/// A message that no decision can be made about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The body is not what its name says.
    #[error("the body can't be read")]
    Body(#[from] CodecError),
    /// The reply's type is none of those its command can have.
    #[error("`{step}` is answered by {expected}, not by `{found}`")]
    UnknownReply {
        /// The step.
        step: String,
        /// The types it can have.
        expected: String,
        /// The type it has.
        found: String,
    },
    /// The reply names a node that is no step, or has no such command.
    #[error("the saga has no command `{leg}` at that place")]
    NoSuchCommand {
        /// Which command.
        leg: Leg,
    },
}
