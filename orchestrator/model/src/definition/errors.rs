//! Mistakes of a graph, all reported together when the definition is built.

use std::fmt;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// No block at all.
    #[error("the saga has no block; add one with `.then(..)`")]
    Empty,
    /// More nodes than [`Graph::NODES_MAX`](super::Graph::NODES_MAX).
    #[error("{count} nodes are more than the {max} a definition may have; split the saga")]
    TooLarge {
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// A name that can't be used.
    #[error("`{name}` can't be a name: use 1 to 64 lower-case letters, digits, `-` and `_`")]
    Name {
        /// Which.
        name: String,
    },
    /// Two blocks of one name.
    #[error("the name `{name}` is used twice; names must be unique within a saga")]
    NameTwice {
        /// Which.
        name: String,
    },
    /// A parallel block of fewer than two branches.
    #[error("`{name}` has {count} branch(es); side by side needs two or more")]
    TooFewBranches {
        /// Which block.
        name: String,
        /// How many it has.
        count: usize,
    },
    /// A choice without arms.
    #[error("`{name}` has no arm; add one with `.arm(..)`")]
    NoArm {
        /// Which block.
        name: String,
    },
    /// A pivot inside a parallel block.
    #[error(
        "the pivot `{name}` lies in a branch of `{within}`: its siblings could fail after the point of no return; move it behind the join"
    )]
    PivotInParallel {
        /// The pivot.
        name: String,
        /// The parallel block.
        within: String,
    },
    /// Two pivots on one path.
    #[error(
        "`{name}` is a second pivot on its path; make it retriable, or the first one compensatable"
    )]
    SecondPivot {
        /// The second one.
        name: String,
    },
    /// Something that could make the saga turn back after the pivot.
    #[error("`{name}` {how} after the pivot, where the saga can only go forward; {mend}")]
    TurnsBackAfterPivot {
        /// Which block.
        name: String,
        /// In which way.
        how: &'static str,
        /// What to do.
        mend: &'static str,
    },
    /// A retriable step that may be reached before the pivot.
    #[error(
        "the retriable step `{name}` may be reached before the pivot: nothing would undo it if the saga turned back; give it a compensation"
    )]
    RetriableBeforePivot {
        /// Which step.
        name: String,
    },
    /// A retriable step that says how to ask what became of it.
    #[error(
        "`{name}` is retriable: it is asked until it is done, so its status is never asked for; leave out `.status_by(..)`"
    )]
    StatusOfRetriable {
        /// Which step.
        name: String,
    },
    /// A step that is never asked.
    #[error(
        "the {leg} of `{name}` has no attempt (`attempts_max` is 0), so it would never be sent; give it at least 1"
    )]
    NoAttempt {
        /// Which step.
        name: String,
        /// Which of its messages.
        leg: &'static str,
    },
    /// Nothing to compensate, and no reason why.
    #[error(
        "`{name}` has nothing to compensate, and no reason is written; say why what it did may stay, or give it a compensation"
    )]
    NoReason {
        /// Which step.
        name: String,
    },
    /// A channel that can't be one.
    #[error(
        "the {role} `{message}` of `{name}` travels on channel `{channel}`, which can't be one; name a topic or queue, without spaces"
    )]
    Channel {
        /// Which block, or the saga.
        name: String,
        /// What the message is there.
        role: &'static str,
        /// The message.
        message: String,
        /// The channel.
        channel: String,
    },
    /// A message without a name.
    #[error(
        "the {role} of `{name}` has no name; messages are told apart by their names, so give it one"
    )]
    NamelessMessage {
        /// Which block, or the saga.
        name: String,
        /// What the message is there.
        role: &'static str,
    },
    /// A time limit of zero.
    #[error("`{name}` waits for no time at all; give it a time limit above zero")]
    NoTime {
        /// Which block.
        name: String,
    },
    /// A wait is let on and refused by one and the same event, or the event cancels the saga.
    #[error(
        "`{name}` awaits `{event}`, which also refuses or cancels; it could not be told which is meant"
    )]
    EventAmbiguous {
        /// Which wait.
        name: String,
        /// Which event.
        event: String,
    },
    /// Two of a step's answers have one name.
    #[error(
        "two answers to `{name}` are called `{reply}`; success and rejection need names of their own, other than `Failure` and the answers about a status"
    )]
    ReplyAmbiguous {
        /// Which step.
        name: String,
        /// Which name.
        reply: String,
    },
    /// The start event is awaited later too.
    #[error(
        "`{event}` both starts the saga and is awaited by it; it could not be told which is meant"
    )]
    StartAwaited {
        /// Which event.
        event: String,
    },
}

impl DefinitionError {
    /// The name of the block it is about, or of the saga.
    pub fn block(&self) -> Option<&str> {
        match self {
            Self::Empty | Self::TooLarge { .. } | Self::Name { .. } | Self::StartAwaited { .. } => {
                None
            }
            Self::NameTwice { name }
            | Self::TooFewBranches { name, .. }
            | Self::NoArm { name }
            | Self::PivotInParallel { name, .. }
            | Self::SecondPivot { name }
            | Self::TurnsBackAfterPivot { name, .. }
            | Self::RetriableBeforePivot { name }
            | Self::StatusOfRetriable { name }
            | Self::NoAttempt { name, .. }
            | Self::NoReason { name }
            | Self::Channel { name, .. }
            | Self::NamelessMessage { name, .. }
            | Self::NoTime { name }
            | Self::EventAmbiguous { name, .. }
            | Self::ReplyAmbiguous { name, .. } => Some(name),
        }
    }
}

/// All mistakes of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefinitionErrors {
    /// The definition's name.
    pub definition: String,
    /// At least one.
    pub errors: Vec<DefinitionError>,
}

impl fmt::Display for DefinitionErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the definition of saga `{}` has {} mistake(s):",
            self.definition,
            self.errors.len()
        )?;
        self.errors.iter().try_for_each(|error| write!(f, "\n  - {error}"))
    }
}

impl std::error::Error for DefinitionErrors {}
