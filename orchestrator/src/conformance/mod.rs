//! The conformance kit: plays a nasty broker against a running participant, in whatever language it is, and names the duty it fails.
//!
//! ```text
//! samples of its commands ─► checks, one after another ─► stage: send, await answers ─► what was sent, what came ─► report
//! ```
//!
//! What goes in: the commands a participant carries out, with a way to make one for any business key ([`Case`]), a connector it can
//! be reached by, and where there is one a [`Probe`] that counts its effects. What comes out: a [`Report`] with one line for each
//! check, and for each that failed the duty, what was sent and what came back. Nothing is asked of the participant that its sagas
//! would not ask: it needs no switch and no change for it, and a store of its own only so that the made-up business keys harm nobody.

mod case;
mod checks;
mod report;
mod stage;

#[cfg(test)]
mod sloppy;
#[cfg(test)]
mod tests;

pub use case::Case;
pub use report::{Check, Checked, Duty, Outcome, Report};

use crate::engine::{Clock, SystemClock};
use async_trait::async_trait;
use case::Played;
use dirigent_connectors::{Connector, ConnectorError, UnsentReason};
use dirigent_model::message::{Codec, CodecError, Command, JsonOnly};
use stage::Stage;
use std::{sync::Arc, time::Duration};

/// How long an answer may take unless set otherwise. Enough for a participant that is busy, short enough to sit through.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How often the effect of a business key was applied and undone, as a participant's own books say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Effects {
    /// How often it was applied.
    pub applied: u64,
    /// How often it was undone.
    pub undone: u64,
}

/// Looks into the books of a participant. Optional: without it, effects are judged by answers alone.
#[async_trait]
pub trait Probe: Send + Sync {
    /// How often `command` took effect for the business key, and was undone. Asked after the answer came, so everything is durable.
    ///
    /// # Errors
    /// The books can't be read.
    async fn effects(&self, command: &str, key: &str) -> Result<Effects, ProbeError>;
}

/// Why the books of a participant can't be read.
pub type ProbeError = Box<dyn std::error::Error + Send + Sync>;

/// Why the kit can't play. A duty that is failed is no error; it is in the [`Report`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConformanceError {
    /// There is nothing to play.
    #[error("participant {participant}: no command to ask for; add `.case(..)`")]
    NoCase {
        /// Which participant.
        participant: String,
    },
    /// The broker.
    #[error("playing against {participant}, {doing}")]
    Connector {
        /// Which participant.
        participant: String,
        /// What was being done.
        doing: &'static str,
        /// What the connector says.
        #[source]
        source: Box<ConnectorError>,
    },
    /// The broker does not take a message.
    #[error(
        "playing against {participant}, `{channel}` does not take a message ({reason}): {text}"
    )]
    Unsent {
        /// Which participant.
        participant: String,
        /// The channel.
        channel: String,
        /// Why, for programs.
        reason: UnsentReason,
        /// Why, for people.
        text: String,
    },
    /// The broker says nothing about a message.
    #[error(
        "playing against {participant}, `{channel}` has not confirmed a message; is the broker well? {text}"
    )]
    Unconfirmed {
        /// Which participant.
        participant: String,
        /// The channel.
        channel: String,
        /// What the connector says.
        text: String,
    },
    /// A sample can't be written.
    #[error("writing a sample for {participant}; does the kit have the codec of its channel?")]
    Sample {
        /// Which participant.
        participant: String,
        /// What the codec says.
        #[source]
        source: CodecError,
    },
    /// The probe.
    #[error("asking the probe of {participant} about `{key}`")]
    Probe {
        /// Which participant.
        participant: String,
        /// The business key.
        key: String,
        /// What it says.
        #[source]
        source: ProbeError,
    },
}

/// What is to be played against a participant.
#[must_use = "the checks are made by `.play(..)`"]
pub struct Conformance {
    participant: String,
    cases: Vec<Played>,
    codec: Arc<dyn Codec>,
    probe: Option<Arc<dyn Probe>>,
    within: Duration,
    first_number: i64,
    clock: Arc<dyn Clock>,
}

impl Conformance {
    /// Nothing yet against the participant of this name, which is for people only.
    pub fn of(participant: impl Into<String>) -> Self {
        Self {
            participant: participant.into(),
            cases: Vec::new(),
            codec: Arc::new(JsonOnly),
            probe: None,
            within: ANSWER_WITHIN,
            first_number: 1,
            clock: Arc::new(SystemClock::default()),
        }
    }

    /// Adds a command that it carries out.
    pub fn case<C: Command>(mut self, case: Case<C>) -> Self {
        self.cases.push(case.played());
        self
    }

    /// Writes and reads the bodies that are not JSON.
    pub fn codec(mut self, codec: Arc<dyn Codec>) -> Self {
        self.codec = codec;
        self
    }

    /// Counts effects in the participant's own books.
    pub fn probe(mut self, probe: Arc<dyn Probe>) -> Self {
        self.probe = Some(probe);
        self
    }

    /// How long an answer may take; [`ANSWER_WITHIN`] if not said.
    pub fn within(mut self, limit: Duration) -> Self {
        self.within = limit;
        self
    }

    /// The number that the first sample is made of, 1 if not said. Each check takes numbers of its own, upwards from here: a
    /// participant that is played against again wants others, since its books know the business keys of the first time.
    pub fn first_number(mut self, number: i64) -> Self {
        self.first_number = number;
        self
    }

    /// Makes all checks, one after another. `run` names this play at the broker and in the ids of its sagas: another each time.
    /// The channels `<run>.replies` and `<run>.other-replies` are made and stay.
    ///
    /// # Errors
    /// The broker, a sample or the probe does not allow it.
    pub async fn play(
        self,
        connector: Arc<dyn Connector>,
        run: &str,
    ) -> Result<Report, ConformanceError> {
        if self.cases.is_empty() {
            return Err(ConformanceError::NoCase { participant: self.participant });
        }
        let mut report = Report::of(&self.participant, connector.name());
        let mut stage = Stage::open(&self, &*connector, run).await?;
        for case in &self.cases {
            for check in Check::ALL {
                let checked = checks::play(check, case, &mut stage).await?;
                report.checks.push(checked);
                // Whoever has stopped answering would fail everything that follows, and hide what made it stop.
                if report.checks.last().is_some_and(Checked::is_broken)
                    && !checks::still_answers(case, &mut stage).await?
                {
                    report.stopped_after = report.checks.last().map(Checked::to_string);
                    return Ok(report);
                }
            }
        }
        Ok(report)
    }
}
