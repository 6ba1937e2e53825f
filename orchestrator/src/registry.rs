//! The definitions of this process: which message concerns which of them.

use dirigent_model::definition::{Fingerprint, Plan, WayBack};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// All definitions, each version of each.
#[derive(Debug, Default)]
pub struct Registry {
    plans: Vec<Arc<Plan>>,
}

/// A definition as running instances name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Release {
    /// The definition's name.
    pub name: String,
    /// Its version.
    pub version: u32,
}

/// Definitions that can't live side by side.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// None at all.
    #[error("no saga is declared; add one with `.saga(..)`")]
    None,
    /// Twice the same.
    #[error(
        "saga `{name}` version {version} is declared twice; give the newer one a higher version"
    )]
    Twice {
        /// The name.
        name: String,
        /// The version.
        version: u32,
    },
}

impl Registry {
    /// Takes the definitions in.
    pub fn new(plans: Vec<Arc<Plan>>) -> Result<Self, RegistryError> {
        let mut seen = BTreeSet::new();
        for plan in &plans {
            let graph = plan.graph();
            if !seen.insert((graph.name.clone(), graph.version)) {
                return Err(RegistryError::Twice {
                    name: graph.name.clone(),
                    version: graph.version,
                });
            }
        }
        if plans.is_empty() { Err(RegistryError::None) } else { Ok(Self { plans }) }
    }

    /// All definitions.
    pub fn plans(&self) -> &[Arc<Plan>] {
        &self.plans
    }

    /// The definition of a release.
    pub fn plan(&self, name: &str, version: u32) -> Option<&Arc<Plan>> {
        self.plans.iter().find(|plan| plan.graph().name == name && plan.graph().version == version)
    }

    /// The channels that commands are sent to, with the longest time that an answer from each is awaited.
    pub fn destinations(&self) -> BTreeMap<&str, Duration> {
        let mut channels: BTreeMap<&str, Duration> = BTreeMap::new();
        let mut awaits = |channel, reply_within: Duration| {
            let longest = channels.entry(channel).or_default();
            *longest = reply_within.max(*longest);
        };
        for plan in &self.plans {
            let graph = plan.graph();
            for step in graph.ids().filter_map(|id| graph.step(id)) {
                let channel = step.command.channel.as_str();
                awaits(channel, step.reply_within);
                if let Some(status) = &step.status {
                    awaits(channel, status.reply_within);
                }
                if let WayBack::Compensated { command, reply_within, .. } = &step.way_back {
                    awaits(command.channel.as_str(), *reply_within);
                }
            }
        }
        channels
    }

    /// The newest version of a saga: the one whose start event begins an instance.
    pub fn newest_of(&self, saga: &str) -> Option<&Arc<Plan>> {
        self.newest().find(|plan| plan.graph().name == saga)
    }

    /// Definitions that a start event of this name begins: the newest version of each.
    pub fn started_by<'a>(&'a self, event: &'a str) -> impl Iterator<Item = &'a Arc<Plan>> + 'a {
        self.newest().filter(move |plan| plan.graph().start.name == event)
    }

    /// Definitions whose instances await events of this name, or are cancelled by them: the newest version of each.
    pub fn awaiting<'a>(&'a self, event: &'a str) -> impl Iterator<Item = &'a Arc<Plan>> + 'a {
        self.plans.iter().filter(move |plan| {
            let awaits = |plan: &Arc<Plan>| {
                plan.graph().events_awaited().any(|awaited| awaited.name == event)
            };
            // One target per saga name: the key finds the instance, whichever version it runs.
            awaits(plan)
                && !self.plans.iter().any(|other| {
                    other.graph().name == plan.graph().name
                        && other.graph().version > plan.graph().version
                        && awaits(other)
                })
        })
    }

    fn newest(&self) -> impl Iterator<Item = &Arc<Plan>> {
        self.plans.iter().filter(|plan| {
            !self.plans.iter().any(|other| {
                other.graph().name == plan.graph().name
                    && other.graph().version > plan.graph().version
            })
        })
    }

    /// Whether a release is here with the fingerprint its instances were started with.
    pub fn has(&self, release: &Release, fingerprint: Fingerprint) -> bool {
        self.plan(&release.name, release.version)
            .is_some_and(|plan| plan.fingerprint() == fingerprint)
    }
}
