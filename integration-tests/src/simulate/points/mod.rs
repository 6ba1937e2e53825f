//! Every crash point of twelve canonical sagas: tried one by one and in ordered pairs, none left to the dice.
//!
//! ```text
//! saga × broker × what becomes of one stage ─► undisturbed: how it ends, and its crossings ─► dies at each of them ─► and again at each of the next life's
//! ```
//!
//! What goes in: which sagas, and whether pairs too. What comes out: a [`Row`] for each saga, and what was [`Found`]. What must be true of each run:
//! every rule of the judge holds, the deaths that were planned have come, and all ends as it does undisturbed. A crossing is a call of a broker, of the disk
//! or of the store, so that between any two of them there is a point; before each, the process is killed, or loses its power, too.

mod canonical;
mod example;
mod messages;
mod script;
mod small;
mod tasks;
mod told;

pub use canonical::{CANONICAL, Canonical};
pub use script::Outcome;
pub use tasks::{Found, Plan, Row, explored};
pub use told::{Options, tell};

use dirigent::simulation::{Death, Faults, Finding, ORCHESTRATOR, Report, Simulation};
use dirigent_connectors::simulated::SimKind;
use script::Script;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

/// The one seed of all worlds: nothing that matters is drawn from it.
const SEED: u64 = 11;

/// How long an operation at a broker takes at the most: enough that others go on between its halves.
const LATENCY: Duration = Duration::from_millis(5);

/// What a world is about: a saga, what becomes of one of its stages, and a broker.
#[derive(Clone, Copy)]
pub struct Scenario {
    saga: &'static Canonical,
    script: Script,
    kind: SimKind,
}

/// Both kinds of broker, as one says them at the command line.
const KINDS: [(&str, SimKind); 2] = [("log", SimKind::Log), ("queues", SimKind::Queues)];

impl Scenario {
    /// In which all succeeds, or else.
    fn new(saga: &'static Canonical, at: Option<(&'static str, Outcome)>, kind: SimKind) -> Self {
        let (stage, outcome) = at.unwrap_or(("", Outcome::Success));
        Self { saga, script: saga.script(stage, outcome), kind }
    }

    fn world(self) -> Simulation {
        let world = Simulation::new(SEED).brokers(vec![(self.kind, Vec::new())]);
        self.saga.world(world.faults(Faults { latency: LATENCY, ..Faults::none() }), self.script)
    }

    /// As it goes if nobody dies. A finding where even that breaks a rule.
    fn undisturbed(self) -> Result<Undisturbed, Point> {
        let point = Point { scenario: self, process: ORCHESTRATOR.to_owned(), deaths: Vec::new() };
        match point.report() {
            Ok(report) if report.is_sound() => Ok(Undisturbed(report)),
            _ => Err(point),
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

/// A run in which one process dies where it is told to.
#[derive(Clone)]
pub struct Point {
    scenario: Scenario,
    process: String,
    deaths: Vec<Death>,
}

impl Point {
    fn world(&self) -> Simulation {
        self.scenario.world().dies(&self.process, self.deaths.clone())
    }

    /// What came of it; the text of a panic, which is a fault of ours whoever died.
    fn report(&self) -> Result<Report, String> {
        let world = self.world();
        catch_unwind(AssertUnwindSafe(|| world.run())).map_err(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("without a word").to_owned()
        })
    }

    /// What is broken though nobody dies.
    fn broken_by_itself(&self) -> Vec<Finding> {
        match self.report() {
            Ok(report) => report.findings,
            Err(panic) => vec![Finding { rule: "nothing panics", found: panic }],
        }
    }

    /// How often the life after all planned deaths crosses its border, and the rules that were broken.
    fn tried(&self, undisturbed: &Undisturbed) -> (u64, Vec<Finding>) {
        let report = match self.report() {
            Ok(report) => report,
            Err(panic) => return (0, vec![Finding { rule: "nothing panics", found: panic }]),
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
