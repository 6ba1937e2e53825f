//! What came of all worlds of a saga.

use crate::simulation::{Finding, Report};
use dirigent_model::{definition::Plan, scenario::Coverage};
use std::{collections::BTreeMap, fmt, time::Duration};

/// What came of a saga's worlds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Simulated {
    /// Worlds that were run to their end.
    pub worlds: u64,
    /// Sagas by how they ended.
    pub ended: BTreeMap<String, u64>,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// How much time passed in all worlds.
    pub virtual_time: Duration,
    /// Which transitions of the saga they crossed, and which never.
    pub coverage: Coverage,
    /// The run of the least seed that broke a rule.
    pub broken: Option<Report>,
}

impl Simulated {
    pub(super) fn of(plan: &Plan) -> Self {
        Self {
            worlds: 0,
            ended: BTreeMap::new(),
            faults: BTreeMap::new(),
            virtual_time: Duration::ZERO,
            coverage: Coverage::of(plan),
            broken: None,
        }
    }

    pub(super) fn add(&mut self, report: Report) {
        self.worlds += 1;
        self.virtual_time += report.virtual_time;
        for (status, count) in &report.ended {
            *self.ended.entry(status.clone()).or_default() += count;
        }
        for (fault, count) in &report.injected {
            *self.faults.entry(fault).or_default() += count;
        }
        for crossed in &report.coverage {
            self.coverage = self.coverage.clone().merge(crossed);
        }
        let is_first = self.broken.as_ref().is_none_or(|broken| report.seed < broken.seed);
        if !report.is_sound() && is_first {
            self.broken = Some(report);
        }
    }
}

impl fmt::Display for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = |counts: &mut dyn Iterator<Item = (&str, &u64)>| {
            let counts: Vec<String> =
                counts.map(|(what, count)| format!("{count} {what}")).collect();
            counts.join(", ")
        };
        let ended = counted(&mut self.ended.iter().map(|(status, count)| (&**status, count)));
        let faults = counted(&mut self.faults.iter().map(|(fault, count)| (*fault, count)));
        let (worlds, hours) = (self.worlds, self.virtual_time.as_secs_f64() / 3_600.0);
        writeln!(f, "{worlds} worlds, {hours:.1} h of virtual time")?;
        writeln!(f, "sagas: {ended}")?;
        writeln!(f, "faults: {faults}")?;
        write!(f, "{}", self.coverage)
    }
}

impl Report {
    /// Of a run that ended by a panic, as of a saga's own function.
    pub(in crate::simulation) fn panicked(seed: u64, text: String) -> Self {
        Self {
            seed,
            findings: vec![Finding { rule: "nothing panics", found: text }],
            virtual_time: Duration::ZERO,
            injected: BTreeMap::new(),
            failures: BTreeMap::new(),
            ended: BTreeMap::new(),
            runs: 0,
            crossings: BTreeMap::new(),
            coverage: Vec::new(),
        }
    }
}
