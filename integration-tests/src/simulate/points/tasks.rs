//! What is to be tried, shared out among threads: undisturbed runs first, which say how many points there are, then the points, then pairs of them.
//!
//! A task is one scenario with one first death; its pairs belong to it, since how many there are is known once it has run.

use super::{CANONICAL, Canonical, KINDS, Outcome, Point, Scenario, Undisturbed};
use dirigent::simulation::{Death, Finding, ORCHESTRATOR};
use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
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
    /// One first death in so many, of those of all scenarios, from the middle of the first so many on.
    pub each: usize,
    /// Points that break a rule before it gives up.
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
    /// Runs with two.
    pub pairs: u64,
    /// Runs that broke a rule.
    pub findings: u64,
    /// Of threads at work (s).
    pub seconds: f64,
}

/// A run that broke a rule.
#[derive(Clone)]
pub struct Found {
    /// Which.
    pub point: Point,
    /// What was broken.
    pub findings: Vec<Finding>,
}

struct Task {
    scenario: Scenario,
    undisturbed: usize,
    process: String,
    first: Death,
    has_pairs: bool,
}

/// All that was tried, and what was found, which `tell` hears of as well at once.
pub fn explored(plan: &Plan, tell: &(dyn Fn(&Found) + Sync)) -> (Vec<Row>, Vec<Found>) {
    let is_meant = |saga: &&Canonical| plan.saga.as_deref().is_none_or(|name| name == saga.name);
    let mut rows: BTreeMap<&'static str, Row> = BTreeMap::new();
    let mut scenarios: Vec<Scenario> = Vec::new();
    for saga in CANONICAL.iter().filter(is_meant) {
        let row = Row { saga: saga.name, stages: saga.stages.len(), ..Row::default() };
        rows.insert(saga.name, row);
        for (_, kind) in KINDS {
            scenarios.push(Scenario::new(saga, None, kind));
            let others = saga.scripts().into_iter();
            scenarios.extend(others.map(|script| Scenario { saga, script, kind }));
        }
    }
    let scenarios: Vec<Scenario> =
        scenarios.into_iter().step_by(plan.scenario_each.max(1)).collect();
    let found = Exploration { rows: Mutex::new(rows), found: Mutex::default(), tell, plan };
    let undisturbed: Vec<Mutex<Option<Undisturbed>>> =
        scenarios.iter().map(|_| Mutex::new(None)).collect();
    found.share(scenarios.len(), &|at| {
        let begun = Instant::now();
        match scenarios[at].undisturbed() {
            Ok(one) => {
                let sum = |is_meant: fn(&str) -> bool| {
                    one.processes().filter(|it| is_meant(it.0)).map(|it| it.1).sum::<u64>()
                };
                found.row(scenarios[at].saga, |row| {
                    row.scenarios += 1;
                    row.crossings += sum(|process| process == ORCHESTRATOR);
                    row.participants_crossings += sum(|process| process != ORCHESTRATOR);
                    row.seconds += begun.elapsed().as_secs_f64();
                });
                *lock(&undisturbed[at]) = Some(one);
            }
            Err(point) => found.adds(point.clone(), point.broken_by_itself()),
        }
    });
    let undisturbed: Vec<Option<Undisturbed>> = undisturbed
        .into_iter()
        .map(|one| one.into_inner().unwrap_or_else(PoisonError::into_inner))
        .collect();
    let turning = turning_back(&scenarios, &undisturbed);
    let mut tasks = Vec::new();
    for (at, (scenario, undisturbed)) in scenarios.iter().zip(&undisturbed).enumerate() {
        let Some(undisturbed) = undisturbed else { continue };
        let is_paired = plan.all || scenario.script.outcome == Outcome::Success;
        let has_pairs = plan.pairs && (is_paired || turning.contains(&at));
        for (process, crossings) in undisturbed.processes() {
            let is_orchestrator = process == ORCHESTRATOR;
            // A participant has no disk of its own, only a store, which forgets what was not synced either way.
            let ways = if is_orchestrator { &[false, true][..] } else { &[false][..] };
            for crossing in 1..=crossings {
                tasks.extend(ways.iter().map(|power_cut| Task {
                    scenario: *scenario,
                    undisturbed: at,
                    process: process.to_owned(),
                    first: Death { crossing, power_cut: *power_cut },
                    has_pairs: has_pairs && is_orchestrator,
                }));
            }
        }
    }
    let tasks: Vec<Task> =
        tasks.into_iter().skip(plan.each.max(1) / 2).step_by(plan.each.max(1)).collect();
    found.share(tasks.len(), &|at| {
        let task = &tasks[at];
        if let Some(undisturbed) = &undisturbed[task.undisturbed] {
            found.try_it(task, undisturbed);
        }
    });
    let Exploration { rows, found, .. } = found;
    let rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut rows: Vec<Row> = rows.into_values().collect();
    let place = |row: &Row| CANONICAL.iter().position(|saga| saga.name == row.saga);
    rows.sort_by_key(place);
    (rows, found.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Of each saga on each broker, the scenario that turns back with most to undo: its last stage that turns it back, refused.
fn turning_back(scenarios: &[Scenario], undisturbed: &[Option<Undisturbed>]) -> Vec<usize> {
    let mut last: BTreeMap<(&str, bool), usize> = BTreeMap::new();
    for (at, (scenario, one)) in scenarios.iter().zip(undisturbed).enumerate() {
        let turns_back = one.as_ref().is_some_and(|one| one.0.ended.contains_key("compensated"));
        if turns_back && scenario.script.outcome == Outcome::Rejection {
            let is_log = scenario.kind == KINDS[0].1;
            last.insert((scenario.saga.name, is_log), at);
        }
    }
    last.into_values().collect()
}

struct Exploration<'a> {
    rows: Mutex<BTreeMap<&'static str, Row>>,
    found: Mutex<Vec<Found>>,
    tell: &'a (dyn Fn(&Found) + Sync),
    plan: &'a Plan,
}

impl Exploration<'_> {
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
        lock(&self.found).len() >= self.plan.broken_max
    }

    fn row(&self, saga: &Canonical, change: impl FnOnce(&mut Row)) {
        if let Some(row) = lock(&self.rows).get_mut(saga.name) {
            change(row);
        }
    }

    fn adds(&self, point: Point, findings: Vec<Finding>) {
        self.row(point.scenario.saga, |row| row.findings += 1);
        let found = Found { point, findings };
        (self.tell)(&found);
        lock(&self.found).push(found);
    }

    /// One death, and each that may follow it.
    fn try_it(&self, task: &Task, undisturbed: &Undisturbed) {
        let begun = Instant::now();
        let process = task.process.clone();
        let mut point = Point { scenario: task.scenario, process, deaths: vec![task.first] };
        let (crossings, findings) = point.tried(undisturbed);
        let is_sound = findings.is_empty();
        if !is_sound {
            self.adds(point.clone(), findings);
        }
        let mut pairs = 0;
        if task.has_pairs && is_sound {
            for crossing in 1..=crossings {
                if self.is_enough() {
                    break;
                }
                point.deaths = vec![task.first, Death { crossing, ..task.first }];
                pairs += 1;
                let (_, findings) = point.tried(undisturbed);
                if !findings.is_empty() {
                    self.adds(point.clone(), findings);
                }
            }
        }
        self.row(task.scenario.saga, |row| {
            row.runs += 1;
            row.pairs += pairs;
            row.seconds += begun.elapsed().as_secs_f64();
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
