//! Deaths at points of one's choice: which process ends at which crossing of which of its lives.
//!
//! What goes in: for a process by its name, one [`Death`] for each of its first lives. What comes out: the same run as without them up to that
//! crossing, and how often each life crossed its border. What must be true: a planned death comes whether or not the faults are over, and nothing
//! else is drawn because of it before it has come. So `1..=crossings` of a run are all points at which that process can die in it.

use super::process::lock;
use dirigent_connectors::simulated::{Life, Random};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

/// The end of one life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Death {
    /// At which crossing of its border, from 1: that one does not happen any more.
    pub crossing: u64,
    /// Whether the power goes with it: what the disk was not told to sync is lost, kept or torn.
    pub power_cut: bool,
}

impl Death {
    /// Dice for what is left behind: others at each crossing, so that what was not synced does not have the same fate at all of them.
    pub(super) fn dice(self, drawn: &mut Random) -> Random {
        let mut dice = Random(drawn.below(u64::MAX) ^ self.crossing);
        dice.fork()
    }
}

/// Planned deaths by process, the first life's first.
pub(super) type Deaths = BTreeMap<String, Vec<Death>>;

/// The lives of all processes, in their order.
#[derive(Debug, Default)]
pub(super) struct Lives(Mutex<BTreeMap<String, Vec<Arc<Life>>>>);

impl Lives {
    /// A life of this process begins; its death, if one is planned for it, is set. It is told of what was planned.
    pub(super) fn begins(&self, process: &str, life: &Arc<Life>, deaths: &Deaths) -> Option<Death> {
        let mut lives = lock(&self.0);
        let lived = lives.entry(process.to_owned()).or_default();
        let death = deaths.get(process).and_then(|deaths| deaths.get(lived.len())).copied();
        if let Some(death) = death {
            life.die_at(death.crossing);
        }
        lived.push(Arc::clone(life));
        death
    }

    /// How often each life crossed its border, by process.
    pub(super) fn crossings(&self) -> BTreeMap<String, Vec<u64>> {
        let of = |lives: &Vec<Arc<Life>>| lives.iter().map(|life| life.crossings()).collect();
        lock(&self.0).iter().map(|(process, lives)| (process.clone(), of(lives))).collect()
    }
}
