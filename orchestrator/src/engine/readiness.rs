//! Whether an engine does its work, and if not, why: its own concerns, and how its sources and sinks stand with their brokers.

use super::{Concern, Handle, Snapshot, WantsPerson};
use crate::relay::RelayGauge;
use dirigent_connectors::{Health, health::Report};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A source or sink that is watched.
pub(crate) struct Watched {
    pub connector: String,
    pub part: &'static str,
    pub health: Health,
}

/// The outbox of one connector.
pub(crate) struct Outbox {
    pub connector: String,
    pub gauge: RelayGauge,
}

/// A source or sink, and what it says.
pub(crate) struct BrokerReport<'a> {
    pub connector: &'a str,
    pub part: &'static str,
    pub report: Report,
}

/// Whether messages are taken in and leave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether they do.
    pub ready: bool,
    /// Why not; empty if they do.
    pub reasons: Vec<Reason>,
}

/// One reason why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Who says so: `engine`, or a connector and its part, as in `rabbitmq source`.
    pub what: String,
    /// A stable word: `starting`, `stopping`, `waiting`, `degraded`, `away`, or the name of a concern of the engine.
    pub state: String,
    /// For people.
    pub why: String,
    /// Since how many seconds, where that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub for_seconds: Option<u64>,
}

impl Reason {
    /// A reason of the engine itself.
    pub(crate) fn of_engine(state: &str, why: impl Into<String>) -> Self {
        Self { what: "engine".into(), state: state.into(), why: why.into(), for_seconds: None }
    }
}

impl Readiness {
    /// Ready only without a reason not to be.
    pub(crate) fn of(reasons: Vec<Reason>) -> Self {
        Self { ready: reasons.is_empty(), reasons }
    }
}

/// How one source or sink stands, for people and programs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BrokerView {
    /// The connector.
    pub connector: String,
    /// `source` or `sink`.
    pub part: String,
    /// `ready`, `waiting`, `degraded` or `away`.
    pub state: String,
    /// Why it is not ready.
    pub why: Option<String>,
    /// Since how many seconds it is in this state.
    pub for_seconds: u64,
    /// How often its connection was built anew.
    pub reconnects: u64,
    /// Messages that wait to be confirmed; of sinks only.
    pub waiting: Option<u64>,
    /// Since how many seconds the oldest of them waits.
    pub oldest_seconds: Option<u64>,
    /// What the connector shows beside that: names with labels, and values.
    pub figures: Vec<(String, f64)>,
}

/// A running engine at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    /// Whether it does its work.
    pub readiness: Readiness,
    /// Its sources and sinks.
    pub brokers: Vec<BrokerView>,
    /// What wants a person; an engine that is ready may have some of it.
    #[serde(default)]
    pub person: WantsPerson,
    /// What it has done.
    pub counts: Snapshot,
}

impl Handle {
    /// Whether messages are taken in and leave, as of now.
    pub fn readiness(&self) -> Readiness {
        let mut reasons = Vec::new();
        let concerns = self.concerns();
        let has_failed = concerns.iter().any(|it| matches!(it, Concern::Failed { .. }));
        if self.shared.is_stopping() && !has_failed {
            reasons.push(Reason::of_engine("stopping", "nothing more is taken in"));
        }
        reasons.extend(concerns.iter().map(|it| Reason::of_engine(&name_of(it), it.to_string())));
        reasons.extend(self.broker_reports().into_iter().filter_map(|it| {
            let Report { standing, since, .. } = it.report;
            Some(Reason {
                what: format!("{} {}", it.connector, it.part),
                state: standing.name().into(),
                why: standing.why()?.into(),
                for_seconds: Some(since.elapsed().as_secs()),
            })
        }));
        Readiness::of(reasons)
    }

    /// Everything at a glance.
    pub fn status(&self) -> StatusView {
        let view = |it: BrokerReport<'_>| {
            let Report { standing, since, reconnects, figures } = it.report;
            let outbox = self.outboxes().iter().find(|outbox| outbox.connector == it.connector);
            let gauge = outbox.filter(|_| it.part == "sink").map(|outbox| &outbox.gauge);
            BrokerView {
                connector: it.connector.into(),
                part: it.part.into(),
                state: standing.name().into(),
                why: standing.why().map(Into::into),
                for_seconds: since.elapsed().as_secs(),
                reconnects,
                waiting: gauge.map(|gauge| gauge.waiting() as u64),
                oldest_seconds: gauge
                    .and_then(RelayGauge::oldest)
                    .map(|age: Duration| age.as_secs()),
                figures: figures
                    .into_iter()
                    .map(|figure| {
                        let labels: Vec<_> = figure
                            .labels
                            .iter()
                            .map(|(name, value)| format!("{name}={value}"))
                            .collect();
                        (
                            format!("{} {}", figure.measure.name, labels.join(" "))
                                .trim_end()
                                .to_owned(),
                            figure.value,
                        )
                    })
                    .collect(),
            }
        };
        StatusView {
            readiness: self.readiness(),
            brokers: self.broker_reports().into_iter().map(view).collect(),
            person: self.wants_person(),
            counts: self.snapshot(),
        }
    }

    /// What wants a person, as of the last commit. Reads the instances that quarantined messages hold: not for hot paths.
    pub fn wants_person(&self) -> WantsPerson {
        self.reader().wants_person(self.snapshot().blocked)
    }

    pub(crate) fn broker_reports(&self) -> Vec<BrokerReport<'_>> {
        let watched = self.shared.watched.get().map_or(&[][..], Vec::as_slice);
        let report = |it: &'_ Watched| it.health.report();
        watched
            .iter()
            .map(|it| BrokerReport { connector: &it.connector, part: it.part, report: report(it) })
            .collect()
    }

    pub(crate) fn outboxes(&self) -> &[Outbox] {
        self.shared.outboxes.get().map_or(&[][..], Vec::as_slice)
    }

    pub(crate) fn meters(&self) -> &crate::meters::Meters {
        &self.shared.meters
    }
}

/// The stable word of a concern, as it is serialised.
fn name_of(concern: &Concern) -> String {
    let value = serde_json::to_value(concern).unwrap_or_default();
    value["concern"].as_str().unwrap_or("concern").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_concern_is_named_by_the_word_that_programs_read() {
        let full = Concern::DiskFull { wanted_bytes: 1 };
        assert_eq!(name_of(&full), "disk-full");
        assert_eq!(name_of(&Concern::Failed { cause: "x".into() }), "failed");
    }
}
