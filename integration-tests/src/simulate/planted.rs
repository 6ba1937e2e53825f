//! Worlds with a bug in the engine, run seed by seed until one of them breaks a rule.
//!
//! What goes in: the bug and the seeds. What comes out: the first seed at which a rule is broken, and which. What must be true: the seed repeats it.

use super::{drawn, drawn_with};
use dirigent::{
    planted::Bug,
    simulation::{Faults, Simulation},
};
use std::{ops::Range, time::Duration};

/// Bugs that no drawn world finds yet, each for a reason that `ARCHITECTURE.md` tells.
pub const UNFOUND: &[Bug] = &[Bug::FenceIgnored, Bug::InstancesBeforeTimes];

/// How soon lives end, and for how long, where a bug wants many of them.
const KILLED_WITHIN: Duration = Duration::from_secs(40);
const LASTS: Duration = Duration::from_secs(300);

/// A bug was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// At this seed.
    pub seed: u64,
    /// By this rule.
    pub rule: &'static str,
}

/// The world of a seed in which a bug is looked for, without it.
pub fn world_for(bug: Bug, seed: u64) -> Simulation {
    let faults = drawn(seed).drawn_faults();
    match bug {
        Bug::InFlightLeaks => drawn(seed).faults(Faults { in_flight_max: Some(2), ..faults }),
        // Lost are the times of sagas that were asleep in two lives.
        Bug::InstancesBeforeTimes => {
            let (killed_within, lasts) = (Some(KILLED_WITHIN), LASTS);
            let faults = Faults { killed_within, dies_at_crossings: true, lasts, ..faults };
            drawn_with(seed, true).faults(faults)
        }
        _ => drawn(seed),
    }
}

/// The first of these seeds at which a world with a bug breaks a rule.
pub fn first_found(bug: Bug, mut seeds: Range<u64>) -> Option<Found> {
    seeds.find_map(|seed| {
        let report = world_for(bug, seed).planted(bug).run();
        report.findings.first().map(|finding| Found { seed, rule: finding.rule })
    })
}
