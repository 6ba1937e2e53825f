//! Every crash point of twelve canonical sagas: tried one by one and in ordered pairs, none left to the dice.
//!
//! ```text
//! saga × what goes wrong on one leg of one stage × broker ─► undisturbed: ends as declared, and its crossings
//!                                                         ─► dies at each of them ─► and again at each of the next life's
//! ```
//!
//! What goes in: which sagas, and whether pairs too. What comes out: a [`Row`] for each saga, and what was [`Found`]. What must be true of each undisturbed
//! run: it ends as its saga declares, and what is to go wrong takes place. Of each [`Trial`]: every rule of the judge holds, the deaths that were planned have
//! come, and all ends as it does undisturbed. A crossing is a call of a broker, of the disk or of the store; before each, the process is killed, or
//! loses its power, too. What is drawn, by one seed: how long calls take, who takes a turn next, how long a restart takes, and what a power cut leaves.

mod canonical;
mod example;
mod messages;
mod script;
mod small;
mod tasks;
mod told;

pub use canonical::{CANONICAL, Canonical};
pub use script::Outcome;
pub use tasks::{Found, News, Plan, Row, explored};
pub use told::{Options, tell};

use canonical::NUMBER;
use dirigent::simulation::{Death, Faults, Finding, ORCHESTRATOR, Report, Simulation};
use dirigent_connectors::simulated::SimKind;
use dirigent_model::instance::Leg;
use script::Trouble;
use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// The one seed of all worlds.
const SEED: u64 = 11;

/// How long an operation at a broker takes at the most: enough that others go on between its halves.
const LATENCY: Duration = Duration::from_millis(5);

/// Shards of an orchestrator: the only one, or one of several. Either broker has both in turn.
const SHARDS: [usize; 2] = [1, 3];

/// What a world is about: a saga, its number, what goes wrong in it, a broker, and how many shards there are.
#[derive(Clone, Copy)]
pub struct Scenario {
    saga: &'static Canonical,
    number: u64,
    trouble: Option<Trouble>,
    kind: SimKind,
    shards: usize,
}

/// Both kinds of broker, as one says them at the command line.
const KINDS: [(&str, SimKind); 2] = [("log", SimKind::Log), ("queues", SimKind::Queues)];

impl Scenario {
    /// All of a saga.
    fn all(saga: &'static Canonical) -> Vec<Self> {
        let mut all = Vec::new();
        for (place, (_, kind)) in KINDS.into_iter().enumerate() {
            for (number, stages) in saga.numbers() {
                let troubles = saga.troubles(stages).into_iter().map(Some);
                for (turn, trouble) in std::iter::once(None).chain(troubles).enumerate() {
                    let shards = SHARDS[(place + turn) % SHARDS.len()];
                    all.push(Self { saga, number, trouble, kind, shards });
                }
            }
        }
        all
    }

    /// Whether it is one of the two of its saga and broker whose pairs are always tried: all succeeds, or all that can be is undone.
    fn is_plain(&self) -> bool {
        let turn = (self.saga.turn, Leg::Do, Outcome::Rejection);
        self.number == NUMBER
            && self.trouble.is_none_or(|it| (it.stage, it.leg, it.outcome) == turn)
    }

    /// In which what was met of its trouble is counted.
    fn world(&self, met: &Arc<AtomicU64>) -> Simulation {
        let brokers = vec![(self.kind, Vec::new())];
        let faults = Faults { latency: LATENCY, ..Faults::none() };
        let world = Simulation::new(SEED).brokers(brokers).shards(self.shards).faults(faults);
        self.saga.world(world, (self.number, self.trouble), met)
    }

    /// As it goes if nobody dies. What was found where even that breaks a rule.
    fn undisturbed(self) -> Result<Undisturbed, Box<Found>> {
        let trial = Trial { scenario: self, process: ORCHESTRATOR.to_owned(), deaths: Vec::new() };
        let (report, met) = trial.report();
        let report = match report {
            Ok(report) => report,
            Err(panic) => return Err(Box::new(Found { trial, findings: vec![panic] })),
        };
        let mut findings = report.findings.clone();
        let declared = BTreeMap::from([(self.saga.ends(self.trouble).to_owned(), 1)]);
        if (&report.ended, report.runs) != (&declared, self.saga.runs) {
            let (ended, runs) = (&report.ended, report.runs);
            let of = self.saga.runs;
            let found = format!("{ended:?} in {runs} runs instead of {declared:?} in {of}");
            findings.push(Finding { rule: "it ends as its saga declares", found });
        }
        if let Some(trouble) = self.trouble.filter(|trouble| self.saga.is_met(trouble.stage))
            && met == 0
        {
            let found = format!("nobody met it: {trouble:?}");
            findings.push(Finding { rule: "what is to go wrong goes wrong", found });
        }
        match findings.is_empty() {
            true => Ok(Undisturbed(report)),
            false => Err(Box::new(Found { trial, findings })),
        }
    }
}

/// How a scenario goes if nobody dies.
#[derive(Clone)]
struct Undisturbed(Report);

impl Undisturbed {
    /// Everybody who may die, and at how many points.
    fn processes(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.crossings.iter().map(|(process, lives)| (process.as_str(), lives[0]))
    }
}

/// One run of a scenario, in which one process dies where it is told to, or nobody.
#[derive(Clone)]
pub struct Trial {
    scenario: Scenario,
    process: String,
    deaths: Vec<Death>,
}

impl Trial {
    fn world(&self, met: &Arc<AtomicU64>) -> Simulation {
        let world = self.scenario.world(met);
        match self.deaths.is_empty() {
            true => world,
            false => world.dies(&self.process, self.deaths.clone()),
        }
    }

    /// What came of it, and how often its trouble was met; the text of a panic, which is a fault of ours whoever died.
    fn report(&self) -> (Result<Report, Finding>, u64) {
        let met = Arc::new(AtomicU64::new(0));
        let world = self.world(&met);
        let report = catch_unwind(AssertUnwindSafe(|| world.run())).map_err(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("without a word");
            Finding { rule: "nothing panics", found: text.to_owned() }
        });
        (report, met.load(Ordering::Relaxed))
    }

    /// How often the life after all planned deaths crosses its border, and the rules that were broken.
    fn tried(&self, undisturbed: &Undisturbed) -> (u64, Vec<Finding>) {
        let report = match self.report().0 {
            Ok(report) => report,
            Err(panic) => return (0, vec![panic]),
        };
        let lives = report.crossings.get(&self.process).map_or(&[][..], Vec::as_slice);
        let last = lives.get(self.deaths.len()).copied().unwrap_or_default();
        let mut findings = report.findings.clone();
        let mut wants = |holds: bool, rule, found: String| {
            if !holds {
                findings.push(Finding { rule, found });
            }
        };
        let came = lives.len() == self.deaths.len() + 1;
        wants(came, "every planned death comes, and no other", format!("lives: {lives:?}"));
        let before = &undisturbed.0;
        wants(
            (&report.ended, report.runs) == (&before.ended, before.runs),
            "it ends as it does undisturbed",
            format!(
                "{:?} in {} runs instead of {:?} in {}",
                report.ended, report.runs, before.ended, before.runs
            ),
        );
        for (failure, times) in &report.failures {
            wants(false, "no process gives up", format!("{times} times: {failure}"));
        }
        (last, findings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules_broken(saga: Canonical, number: u64, trouble: Trouble) -> Vec<&'static str> {
        let saga: &'static Canonical = Box::leak(Box::new(saga));
        let (kind, trouble) = (SimKind::Queues, Some(trouble));
        let scenario = Scenario { saga, number, trouble, kind, shards: 1 };
        let findings = scenario.undisturbed().err().map(|found| found.findings);
        findings.unwrap_or_default().iter().map(|finding| finding.rule).collect()
    }

    fn refused(stage: &'static str) -> Trouble {
        Trouble { stage, leg: Leg::Do, outcome: Outcome::Rejection }
    }

    #[test]
    fn a_run_that_does_not_end_as_its_saga_declares_is_found() {
        let chain = *Canonical::named("chain").expect("it is one of them");
        assert_eq!(rules_broken(chain, NUMBER, refused("third")), [""; 0]);
        let (mut wrong, mut twice) = (chain, chain);
        wrong.turns_back = &[];
        assert_eq!(rules_broken(wrong, NUMBER, refused("third")), ["it ends as its saga declares"]);
        twice.runs = 2;
        assert_eq!(rules_broken(twice, NUMBER, refused("third")), ["it ends as its saga declares"]);
    }

    #[test]
    fn a_trouble_that_nobody_meets_is_found() {
        let mut choice = *Canonical::named("choice").expect("it is one of them");
        // By an even number, nobody is asked for the thing.
        choice.turns_back = &[];
        let found = rules_broken(choice, 2, refused("thing"));
        assert_eq!(found, ["what is to go wrong goes wrong"]);
    }

    #[test]
    fn all_scenarios_of_a_saga_have_either_broker_and_either_number_of_shards() {
        for saga in &CANONICAL {
            let all = Scenario::all(saga);
            let (on_log, on_queues): (Vec<Scenario>, Vec<Scenario>) =
                all.iter().copied().partition(|scenario| scenario.kind == SimKind::Log);
            assert_eq!(on_log.len(), on_queues.len(), "{}", saga.name);
            for (log, queues) in on_log.iter().zip(&on_queues) {
                assert_eq!(log.trouble, queues.trouble, "{}", saga.name);
                assert_ne!(log.shards, queues.shards, "{}", saga.name);
            }
            assert_eq!(all.iter().filter(|it| it.is_plain()).count(), 4, "{}", saga.name);
        }
    }
}
