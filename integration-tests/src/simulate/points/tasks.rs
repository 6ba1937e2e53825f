//! What is to be tried, shared out among threads: undisturbed runs first, which say how many points there are, then the points, which say how many
//! pairs there are, then pairs of them.
//!
//! A task is one scenario with one first death; its pairs belong to it.

use super::{CANONICAL, Canonical, Scenario, Trial, Undisturbed};
use dirigent::simulation::{Death, Finding, ORCHESTRATOR};
use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

/// What is to be tried.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Only this one; all of them if not said.
    pub saga: Option<String>,
    /// Also ordered pairs of deaths of the orchestrator, of a path on which all succeeds and of one that turns back.
    pub pairs: bool,
    /// Pairs of all paths.
    pub all: bool,
    /// One scenario in so many, from the first one on.
    pub scenario_each: usize,
    /// One first death in so many, of those of all scenarios.
    pub each: usize,
    /// Which one of the first so many, from 0; the one in their middle if not said.
    pub part: Option<usize>,
    /// Trials that break a rule before it gives up, one at least.
    pub broken_max: usize,
}

/// What was tried of a saga.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Row {
    /// Its name.
    pub saga: &'static str,
    /// Its steps and waits.
    pub stages: usize,
    /// What can become of them, on either broker.
    pub scenarios: u64,
    /// Points at which a process can die, over all scenarios: the orchestrator.
    pub crossings: u64,
    /// The same of participants.
    pub participants_crossings: u64,
    /// Runs with one death.
    pub runs: u64,
    /// Runs with two deaths that follow those, however many of them are tried: the second one at every point of the next life, of either kind.
    pub pairs_there_are: u64,
    /// Runs with two deaths.
    pub pairs: u64,
    /// Runs that broke a rule.
    pub findings: u64,
    /// Of threads at work (s).
    pub seconds: f64,
}

/// A trial that broke a rule.
#[derive(Clone)]
pub struct Found {
    /// Which.
    pub trial: Trial,
    /// What was broken.
    pub findings: Vec<Finding>,
}

/// What is heard while it goes on.
pub enum News<'a> {
    /// A rule was broken.
    Found(&'a Found),
    /// So many runs with one death were made, and so many with two are next.
    PairsNext {
        /// With one.
        runs: u64,
        /// With two.
        pairs: u64,
    },
}

struct Task {
    scenario: Scenario,
    /// The place of its undisturbed run.
    undisturbed: usize,
    process: String,
    first: Death,
    has_pairs: bool,
}

/// All that was tried, and what was found, which `tell` hears of as well at once.
pub fn explored(plan: &Plan, tell: &(dyn Fn(&News<'_>) + Sync)) -> (Vec<Row>, Vec<Found>) {
    let is_meant = |saga: &&Canonical| plan.saga.as_deref().is_none_or(|name| name == saga.name);
    let sagas: Vec<&'static Canonical> = CANONICAL.iter().filter(is_meant).collect();
    let scenarios = sagas.iter().copied().flat_map(Scenario::all);
    let scenarios: Vec<Scenario> = scenarios.step_by(plan.scenario_each.max(1)).collect();
    let row =
        |saga: &Canonical| Row { saga: saga.name, stages: saga.stages.len(), ..Row::default() };
    let rows = Mutex::new(sagas.iter().copied().map(|saga| (saga.name, row(saga))).collect());
    let exploration = Exploration { rows, found: Mutex::default(), tell, plan };
    let undisturbed = exploration.undisturbed(&scenarios);
    let tasks = tasks(plan, &scenarios, &undisturbed);
    let of = |task: &Task| undisturbed[task.undisturbed].as_ref();
    let nexts: Vec<AtomicU64> = tasks.iter().map(|_| AtomicU64::new(0)).collect();
    exploration.share(tasks.len(), &|at| {
        let next = of(&tasks[at]).map_or(0, |before| exploration.one_death(&tasks[at], before));
        nexts[at].store(next, Ordering::Relaxed);
    });
    if plan.pairs {
        let count = |(task, next): (&Task, &AtomicU64)| {
            if task.has_pairs { second_deaths(next.load(Ordering::Relaxed)).count() } else { 0 }
        };
        let pairs = tasks.iter().zip(&nexts).map(count).sum::<usize>() as u64;
        tell(&News::PairsNext { runs: tasks.len() as u64, pairs });
        exploration.share(tasks.len(), &|at| {
            if let Some(before) = of(&tasks[at]).filter(|_| tasks[at].has_pairs) {
                exploration.two_deaths(&tasks[at], before, nexts[at].load(Ordering::Relaxed));
            }
        });
    }
    let Exploration { rows, found, .. } = exploration;
    let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    let rows = sagas.iter().filter_map(|saga| rows.remove(saga.name)).collect();
    (rows, found.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Every process of every scenario at every point of its undisturbed run, or one in so many of those.
fn tasks(plan: &Plan, scenarios: &[Scenario], undisturbed: &[Option<Undisturbed>]) -> Vec<Task> {
    let mut tasks = Vec::new();
    for (at, (scenario, before)) in scenarios.iter().zip(undisturbed).enumerate() {
        for (process, crossings) in before.iter().flat_map(Undisturbed::processes) {
            let is_orchestrator = process == ORCHESTRATOR;
            // A participant has no disk of its own, only a store, which forgets what was not synced either way.
            let ways = if is_orchestrator { &WAYS[..] } else { &WAYS[..1] };
            for crossing in 1..=crossings {
                tasks.extend(ways.iter().map(|power_cut| Task {
                    scenario: *scenario,
                    undisturbed: at,
                    process: process.to_owned(),
                    first: Death { crossing, power_cut: *power_cut },
                    has_pairs: is_orchestrator && (plan.all || scenario.is_plain()),
                }));
            }
        }
    }
    let each = plan.each.max(1);
    tasks.into_iter().skip(plan.part.unwrap_or(each / 2)).step_by(each).collect()
}

/// Whether the power goes, too.
const WAYS: [bool; 2] = [false, true];

/// In a life of so many crossings: at each, of either kind, whichever the first one was of.
fn second_deaths(crossings: u64) -> impl Iterator<Item = Death> {
    (1..=crossings).flat_map(|crossing| WAYS.map(|power_cut| Death { crossing, power_cut }))
}

struct Exploration<'a> {
    rows: Mutex<BTreeMap<&'static str, Row>>,
    found: Mutex<Vec<Found>>,
    tell: &'a (dyn Fn(&News<'_>) + Sync),
    plan: &'a Plan,
}

impl Exploration<'_> {
    /// How each scenario goes if nobody dies; nothing where even that breaks a rule.
    fn undisturbed(&self, scenarios: &[Scenario]) -> Vec<Option<Undisturbed>> {
        let undisturbed: Vec<Mutex<Option<Undisturbed>>> =
            scenarios.iter().map(|_| Mutex::new(None)).collect();
        self.share(scenarios.len(), &|at| {
            let begun = Instant::now();
            match scenarios[at].undisturbed() {
                Ok(one) => {
                    let sum = |is_meant: fn(&str) -> bool| {
                        one.processes().filter(|it| is_meant(it.0)).map(|it| it.1).sum::<u64>()
                    };
                    self.row(scenarios[at].saga, |row| {
                        row.scenarios += 1;
                        row.crossings += sum(|process| process == ORCHESTRATOR);
                        row.participants_crossings += sum(|process| process != ORCHESTRATOR);
                        row.seconds += begun.elapsed().as_secs_f64();
                    });
                    *lock(&undisturbed[at]) = Some(one);
                }
                Err(found) => self.adds(*found),
            }
        });
        let taken = |one: Mutex<_>| one.into_inner().unwrap_or_else(PoisonError::into_inner);
        undisturbed.into_iter().map(taken).collect()
    }

    /// Does all of it on as many threads as there are cores, until too much is broken.
    fn share(&self, count: usize, work: &(dyn Fn(usize) + Sync)) {
        let (next, stops) = (AtomicUsize::new(0), AtomicBool::new(false));
        let works = || {
            while !stops.load(Ordering::Relaxed) {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= count {
                    return;
                }
                work(at);
                stops.store(self.is_enough(), Ordering::Relaxed);
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(works))));
    }

    fn is_enough(&self) -> bool {
        lock(&self.found).len() >= self.plan.broken_max.max(1)
    }

    fn row(&self, saga: &Canonical, change: impl FnOnce(&mut Row)) {
        if let Some(row) = lock(&self.rows).get_mut(saga.name) {
            change(row);
        }
    }

    fn adds(&self, found: Found) {
        self.row(found.trial.scenario.saga, |row| row.findings += 1);
        (self.tell)(&News::Found(&found));
        lock(&self.found).push(found);
    }

    /// Tries one, and says how often the life after its deaths crosses its border, if no rule was broken.
    fn tries(&self, trial: &Trial, undisturbed: &Undisturbed) -> u64 {
        let (crossings, findings) = trial.tried(undisturbed);
        if findings.is_empty() {
            return crossings;
        }
        self.adds(Found { trial: trial.clone(), findings });
        0
    }

    /// One death; says how often the life after it crosses its border.
    fn one_death(&self, task: &Task, undisturbed: &Undisturbed) -> u64 {
        let begun = Instant::now();
        let crossings = self.tries(&task.dies(None), undisturbed);
        self.row(task.scenario.saga, |row| {
            row.runs += 1;
            if task.process == ORCHESTRATOR {
                row.pairs_there_are += second_deaths(crossings).count() as u64;
            }
            row.seconds += begun.elapsed().as_secs_f64();
        });
        crossings
    }

    /// Each death that may follow the first one, in a life of so many crossings.
    fn two_deaths(&self, task: &Task, undisturbed: &Undisturbed, crossings: u64) {
        for second in second_deaths(crossings) {
            if self.is_enough() {
                return;
            }
            let begun = Instant::now();
            self.tries(&task.dies(Some(second)), undisturbed);
            self.row(task.scenario.saga, |row| {
                row.pairs += 1;
                row.seconds += begun.elapsed().as_secs_f64();
            });
        }
    }
}

impl Task {
    fn dies(&self, second: Option<Death>) -> Trial {
        let deaths = std::iter::once(self.first).chain(second).collect();
        Trial { scenario: self.scenario, process: self.process.clone(), deaths }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
