//! What came of a play: one line for each check, and what was sent and came back where a duty was failed.

use serde::{Serialize, Serializer};
use std::fmt;

/// What a participant owes its sagas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Duty {
    /// Duty 1.
    Once,
    /// Duty 2.
    CompensationWins,
    /// Duty 3.
    Status,
    /// Every command is answered, in the form that finds its saga.
    Answers,
    /// What can't be handled blocks nobody.
    Survives,
}

impl Duty {
    /// The number of the three duties.
    pub fn number(self) -> Option<u8> {
        match self {
            Self::Once => Some(1),
            Self::CompensationWins => Some(2),
            Self::Status => Some(3),
            Self::Answers | Self::Survives => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Once => "once",
            Self::CompensationWins => "compensation-wins",
            Self::Status => "status",
            Self::Answers => "answers",
            Self::Survives => "survives",
        }
    }

    /// What it asks for.
    pub fn text(self) -> &'static str {
        match self {
            Self::Once => {
                "Remember the idempotency key with the effect, in the same transaction; on a repeat answer what was answered before."
            }
            Self::CompensationWins => {
                "A compensation for a command never seen is remembered and answered as done; the command that comes later is refused, without effect. Both have saga, run and step in common."
            }
            Self::Status => {
                "Asked what became of a command (`dirigent.StatusQuery`), answer as it was answered then, or by `dirigent.StatusNotDone`, and refuse the command from then on, or by `dirigent.StatusUnknown`."
            }
            Self::Answers => {
                "Answer every command at its `replyto`, in its content type, with the declared type; echo `sagaid`, `sagarun`, `sagastep`, `sagaleg`, `sagaattempt` and `idempotencykey`."
            }
            Self::Survives => {
                "A message that can't be read or is not known is refused or set aside; those behind it are answered."
            }
        }
    }
}

impl fmt::Display for Duty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number() {
            Some(number) => write!(f, "duty {number}, {}", self.name()),
            None => f.write_str(self.name()),
        }
    }
}

impl Serialize for Duty {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

/// A play. In the order they are made: what stops a participant for good comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Check {
    /// A command is answered with its success type in its format.
    Answers,
    /// The answer echoes what finds its saga.
    Echoes,
    /// The answer goes where each message says.
    ReplyTo,
    /// Many sagas at once: each gets its own answer.
    SideBySide,
    /// The same message twice at once, then as a second attempt.
    Once,
    /// The same again after many others.
    Late,
    /// A refused command asked again.
    RefusedOnce,
    /// A compensation asked again.
    CompensatesOnce,
    /// A compensation whose command was never here, and then the command.
    CompensationFirst,
    /// The command again after its compensation.
    CompensationStays,
    /// A compensation of another step and of an earlier run.
    OwnStepAndRun,
    /// Commands and compensations of many sagas, doubled and out of order.
    Storm,
    /// What became of a command that was done.
    StatusDone,
    /// What became of one that was refused.
    StatusRefused,
    /// What became of one that never came, and then it comes.
    StatusNotDone,
    /// A field that this version does not know.
    LaterVersion,
    /// A version whose fields are others.
    UnknownVersion,
    /// A command nobody knows.
    UnknownCommand,
    /// A content type nobody knows.
    UnknownFormat,
    /// Bytes that are nothing.
    Undecodable,
    /// No idempotency key, no saga, nobody to answer.
    Unanswerable,
}

impl Check {
    /// All of them, in the order they are made.
    pub const ALL: [Self; 21] = [
        Self::Answers,
        Self::Echoes,
        Self::ReplyTo,
        Self::SideBySide,
        Self::Once,
        Self::Late,
        Self::RefusedOnce,
        Self::CompensatesOnce,
        Self::CompensationFirst,
        Self::CompensationStays,
        Self::OwnStepAndRun,
        Self::Storm,
        Self::StatusDone,
        Self::StatusRefused,
        Self::StatusNotDone,
        Self::LaterVersion,
        Self::UnknownVersion,
        Self::UnknownCommand,
        Self::UnknownFormat,
        Self::Undecodable,
        Self::Unanswerable,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Answers => "answers",
            Self::Echoes => "echoes",
            Self::ReplyTo => "reply-to",
            Self::SideBySide => "side-by-side",
            Self::Once => "once",
            Self::Late => "late",
            Self::RefusedOnce => "refused-once",
            Self::CompensatesOnce => "compensates-once",
            Self::CompensationFirst => "compensation-first",
            Self::CompensationStays => "compensation-stays",
            Self::OwnStepAndRun => "own-step-and-run",
            Self::Storm => "storm",
            Self::StatusDone => "status-done",
            Self::StatusRefused => "status-refused",
            Self::StatusNotDone => "status-not-done",
            Self::LaterVersion => "later-version",
            Self::UnknownVersion => "unknown-version",
            Self::UnknownCommand => "unknown-command",
            Self::UnknownFormat => "unknown-format",
            Self::Undecodable => "undecodable",
            Self::Unanswerable => "unanswerable",
        }
    }

    /// The duty it is about. One that fails on the way to it may name another.
    pub fn duty(self) -> Duty {
        match self {
            Self::Answers | Self::Echoes | Self::ReplyTo | Self::SideBySide => Duty::Answers,
            Self::Once | Self::Late | Self::RefusedOnce => Duty::Once,
            Self::CompensatesOnce
            | Self::CompensationFirst
            | Self::CompensationStays
            | Self::OwnStepAndRun
            | Self::Storm => Duty::CompensationWins,
            Self::StatusDone | Self::StatusRefused | Self::StatusNotDone => Duty::Status,
            Self::LaterVersion
            | Self::UnknownVersion
            | Self::UnknownCommand
            | Self::UnknownFormat
            | Self::Undecodable
            | Self::Unanswerable => Duty::Survives,
        }
    }
}

impl Serialize for Check {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

/// How a check went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum Outcome {
    /// As it should, with what would be better where something would.
    Kept {
        /// What would be better, for people. Nothing is lost by it.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        advice: Vec<String>,
    },
    /// A duty was failed.
    Broken {
        /// Which.
        duty: Duty,
        /// How, for people.
        text: String,
        /// What was sent.
        sent: Vec<String>,
        /// What came back.
        came: Vec<String>,
    },
    /// It does not apply.
    Skipped {
        /// Why.
        why: &'static str,
    },
}

/// One check of one command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// The command.
    pub command: &'static str,
    /// Which check.
    pub check: Check,
    /// The duty it is about.
    pub duty: Duty,
    /// How it went.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Checked {
    /// Whether a duty was failed.
    pub fn is_broken(&self) -> bool {
        matches!(self.outcome, Outcome::Broken { .. })
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.check.name(), self.command)
    }
}

/// What came of a play.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Whom it was played against.
    pub participant: String,
    /// Over which broker.
    pub broker: String,
    /// Every check that was made.
    pub checks: Vec<Checked>,
    /// After which check the participant answered nothing any more, so that the others were not made.
    pub stopped_after: Option<String>,
}

impl Report {
    pub(super) fn of(participant: &str, broker: &str) -> Self {
        let (participant, broker) = (participant.to_owned(), broker.to_owned());
        Self { participant, broker, checks: Vec::new(), stopped_after: None }
    }

    /// Whether no duty was failed.
    pub fn is_good(&self) -> bool {
        !self.checks.iter().any(Checked::is_broken)
    }

    /// The duties that were failed, each once.
    pub fn failed(&self) -> Vec<Duty> {
        let mut failed: Vec<_> = self
            .checks
            .iter()
            .filter_map(|checked| match &checked.outcome {
                Outcome::Broken { duty, .. } => Some(*duty),
                Outcome::Kept { .. } | Outcome::Skipped { .. } => None,
            })
            .collect();
        failed.sort_unstable();
        failed.dedup();
        failed
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} on {}", self.participant, self.broker)?;
        let mut command = None;
        for checked in &self.checks {
            if command != Some(checked.command) {
                command = Some(checked.command);
                writeln!(f, "{}", checked.command)?;
            }
            tell(checked, f)?;
        }
        let failed: Vec<_> = self.failed().iter().map(Duty::to_string).collect();
        if let Some(check) = &self.stopped_after {
            writeln!(f, "it answered nothing more after {check}")?;
        }
        if failed.is_empty() {
            write!(f, "all duties are kept ({} checks)", self.checks.len())
        } else {
            write!(f, "FAILED: {}", failed.join("; "))
        }
    }
}

fn tell(checked: &Checked, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (name, duty) = (checked.check.name(), checked.duty);
    match &checked.outcome {
        Outcome::Kept { advice } => {
            writeln!(f, "  ✓ {name:<20} {duty}")?;
            advice.iter().try_for_each(|advice| writeln!(f, "      better: {advice}"))
        }
        Outcome::Skipped { why } => writeln!(f, "  – {name:<20} {duty}: {why}"),
        Outcome::Broken { duty, text, sent, came } => {
            writeln!(f, "  ✗ {name:<20} {duty}: {text}")?;
            sent.iter().try_for_each(|line| writeln!(f, "      sent  {line}"))?;
            if came.is_empty() {
                writeln!(f, "      came  nothing")?;
            }
            came.iter().try_for_each(|line| writeln!(f, "      came  {line}"))?;
            writeln!(f, "      {duty}: {}", duty.text())
        }
    }
}
