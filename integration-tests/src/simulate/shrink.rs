//! The shortest cut: what is left of a world that breaks a rule once everything is taken out of it that the rule breaks without.
//!
//! What goes in: a seed whose run has findings. What comes out: the same world with fewer customers and fewer kinds of faults, and its report. Greedy:
//! one thing at a time is left out, and stays out if the run still breaks a rule.

use super::drawn;
use dirigent::simulation::{Faults, Report, Simulation};
use dirigent_connectors::simulated::SimFaults;
use std::collections::BTreeSet;

/// What was left out of a world.
#[derive(Debug, Clone, Default)]
pub struct Cut {
    /// Numbers of what customers say.
    pub unsaid: BTreeSet<usize>,
    /// Kinds of faults.
    pub without: BTreeSet<&'static str>,
}

type Without = (&'static str, fn(&mut Faults));

const KINDS: [Without; 13] = [
    ("faults of brokers", |it| it.brokers = SimFaults::none()),
    ("doubled", |it| it.brokers.doubled = 0),
    ("late", |it| it.brokers.late = 0),
    ("confirm lost", |it| it.brokers.confirm_lost = 0),
    ("refused", |it| it.brokers.refused = 0),
    ("reset", |it| it.brokers.reset = 0),
    ("silent and away", |it| (it.brokers.silent, it.brokers.away) = (0, 0)),
    ("kills of the orchestrator", |it| it.killed_within = None),
    ("deaths at crossings", |it| it.dies_at_crossings = false),
    ("kills of participants", |it| it.participants_killed_within = None),
    ("power cuts", |it| it.power_cuts = false),
    ("dawdling", |it| it.dawdles = None),
    ("latency", |it| it.latency = std::time::Duration::ZERO),
];

impl Cut {
    /// The world of a seed without what was cut.
    pub fn world(&self, seed: u64) -> Simulation {
        let world = drawn(seed);
        let mut faults = world.drawn_faults();
        for (name, without) in KINDS {
            if self.without.contains(name) {
                without(&mut faults);
            }
        }
        world.unsaid(&self.unsaid).faults(faults)
    }
}

/// The shortest cut of a run that breaks a rule.
pub fn shortest(seed: u64) -> (Cut, Report) {
    let mut cut = Cut::default();
    let mut report = cut.world(seed).run();
    for (name, _) in KINDS {
        let mut next = cut.clone();
        next.without.insert(name);
        try_it(&mut cut, next, &mut report, seed);
    }
    for said in (0..drawn(seed).said_count()).rev() {
        let mut next = cut.clone();
        next.unsaid.insert(said);
        try_it(&mut cut, next, &mut report, seed);
    }
    (cut, report)
}

fn try_it(cut: &mut Cut, next: Cut, report: &mut Report, seed: u64) {
    let tried = next.world(seed).run();
    if !tried.is_sound() {
        (*cut, *report) = (next, tried);
    }
}
