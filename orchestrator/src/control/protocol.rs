//! What goes over the control socket: a question per line, an answer per line.

use crate::{
    destinations::DestinationView,
    engine::{Decided, Decision, InstanceView, KeptFilter, KeptView, StatusView},
};
use dirigent_model::history::Verdict;
use serde::{Deserialize, Serialize};

/// Bytes of one question, at the most: names, keys and an operator's reason.
pub(super) const QUESTION_BYTES_MAX: usize = 64 * 1024;

/// Bytes of one answer, at the most: some ten thousand instances, or one with all its data and history.
pub(super) const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Instances listed at once, at the most.
pub(crate) const LIST_MAX: usize = 10_000;

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Question {
    /// Which instances there are.
    List { saga: Option<String>, status: Option<String>, limit: usize },
    /// Everything about one instance.
    Show { instance: Named },
    /// How the process stands.
    Status,
    /// Which messages are kept.
    Kept { filter: KeptFilter },
    /// Everything about one message that is kept.
    KeptMessage { number: u64 },
    /// An operator's word about a quarantined message.
    Decide { number: u64, decision: Decision, by: String, why: String },
    /// An operator's word.
    Operate { instance: Named, action: Action, by: String, why: String },
    /// How the destinations of commands stand.
    Destinations,
    /// An operator's word: nothing leaves for a destination, until it is resumed.
    Pause { channel: String, by: String, why: String },
    /// An operator's word: commands leave again.
    Resume { channel: String, by: String, why: String },
}

impl Question {
    /// Whether only a running process can answer it.
    pub(super) fn needs_somebody(&self) -> bool {
        match self {
            Self::Status
            | Self::Operate { .. }
            | Self::Decide { .. }
            | Self::Destinations
            | Self::Pause { .. }
            | Self::Resume { .. } => true,
            Self::List { .. }
            | Self::Show { .. }
            | Self::Kept { .. }
            | Self::KeptMessage { .. } => false,
        }
    }
}

/// An instance as people name it: by its key, with the saga where several have that key, or by its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Named {
    pub key: String,
    pub saga: Option<String>,
}

/// What an operator can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Action {
    Cancel,
    Kill,
    Retry { step: String },
    Resolve { step: String },
}

/// What is answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(crate) enum Answer {
    /// Instances, whether there are more, and how many messages wait for a person beside them.
    Listed {
        instances: Vec<InstanceView>,
        more: bool,
        /// Quarantined messages in the folder, of whatever saga.
        #[serde(default)]
        quarantined: usize,
    },
    /// One instance.
    Shown { instance: Box<InstanceView> },
    /// How the process stands.
    Standing { status: Box<StatusView> },
    /// What was decided about an operator's word, and how the instance stands now.
    Operated { verdict: Verdict, instance: Box<InstanceView> },
    /// Destinations: all of them, or the one that was spoken of.
    Destinations { destinations: Vec<DestinationView> },
    /// Kept messages, and whether there are more.
    KeptListed { messages: Vec<KeptView>, more: bool },
    /// One kept message.
    KeptShown { message: Box<KeptView> },
    /// What became of a quarantined message.
    Decided { decided: Decided },
    /// No answer.
    Refused(Refusal),
}

/// Why there is no answer: with causes, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Refusal {
    pub text: String,
}

impl Refusal {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }

    pub(crate) fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(crate::describe(error))
    }
}
