//! What a demo came to, for people and for programs.

use crate::order::Reconciliation;
use serde::Serialize;
use std::fmt;

/// One demo. The names of the fields are what programs read: they never change.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Sagas started.
    pub started: u64,
    /// Sagas that completed.
    pub completed: u64,
    /// Sagas that were taken back.
    pub compensated: u64,
    /// Sagas that want a person.
    pub blocked: u64,
    /// Sagas that have not ended, the blocked ones included.
    pub in_flight: u64,
    /// Messages the orchestrator consumed in this run.
    pub events_consumed: u64,
    /// Of those, the ones that had been applied before or did not matter any more.
    pub duplicates_ignored: u64,
    /// Messages the orchestrator sent in this run: commands, compensations and events, attempts included.
    pub commands_sent: u64,
    /// What the reconciliation says.
    pub ledger: Ledger,
    /// From the first order to the last end.
    pub seconds: f64,
    /// Messages consumed in each of those seconds.
    pub events_per_second: f64,
    /// For people: the broker.
    #[serde(skip)]
    pub broker: String,
    /// For people: how it went wrong, where it did.
    #[serde(skip)]
    pub details: Reconciliation,
}

/// What the reconciliation says, in short.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ledger {
    /// Every ended saga has exactly the effects it should have.
    pub balanced: bool,
    /// Effects applied again.
    pub effects_twice: u64,
    /// Effects of orders without a saga.
    pub orphans: u64,
}

impl Report {
    /// Whether everything is as it should be.
    pub fn is_good(&self) -> bool {
        self.ledger.balanced && self.in_flight == 0
    }
}

impl From<&Reconciliation> for Ledger {
    fn from(found: &Reconciliation) -> Self {
        let Reconciliation { balanced, effects_twice, orphans, .. } = *found;
        Self { balanced, effects_twice, orphans }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "broker        {}", self.broker)?;
        writeln!(
            f,
            "sagas         {} started, {} completed, {} compensated, {} in flight, {} blocked",
            self.started, self.completed, self.compensated, self.in_flight, self.blocked
        )?;
        writeln!(
            f,
            "messages      {} consumed ({} duplicates or late), {} sent",
            self.events_consumed, self.duplicates_ignored, self.commands_sent
        )?;
        writeln!(f, "time          {:.1} s, {:.0} events/s", self.seconds, self.events_per_second)?;
        self.ledger.tell(&self.details, f)
    }
}

impl Ledger {
    /// In words, with what does not fit.
    pub(super) fn tell(&self, details: &Reconciliation, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.balanced {
            return f.write_str(
                "ledgers       balanced: every completed order has one reservation, capture and shipment, every compensated one nets to nothing",
            );
        }
        let Ledger { effects_twice, orphans, .. } = self;
        write!(
            f,
            "ledgers       NOT BALANCED: {effects_twice} effects applied again, {orphans} of unknown orders"
        )?;
        for line in &details.lines {
            write!(f, "\n              {line}")?;
        }
        match details.lines_left_out {
            0 => Ok(()),
            more => write!(f, "\n              and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_find_the_names_they_know() {
        let details = Reconciliation { balanced: true, ..Reconciliation::default() };
        let report = Report {
            started: 2,
            completed: 1,
            compensated: 1,
            blocked: 0,
            in_flight: 0,
            events_consumed: 9,
            duplicates_ignored: 0,
            commands_sent: 8,
            ledger: Ledger::from(&details),
            seconds: 0.5,
            events_per_second: 18.0,
            broker: "memory".into(),
            details,
        };
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"started":2,"completed":1,"compensated":1,"blocked":0,"in_flight":0,"events_consumed":9,"duplicates_ignored":0,"commands_sent":8,"ledger":{"balanced":true,"effects_twice":0,"orphans":0},"seconds":0.5,"events_per_second":18.0}"#
        );
        assert!(report.is_good());
    }
}
