//! The shortest cut: what is left of a world that breaks a rule once everything is taken out of it that the rule breaks without.
//!
//! What goes in: how a world is made whose run has findings, and how long it may take. What comes out: the same world with fewer messages, fewer kinds of faults, for a
//! shorter time, and its report. Greedy: one thing at a time is left out, and stays out if the run still breaks one of the same rules; again and again, until nothing more can be left
//! out or the time is over. What must be true: the world that is left breaks one of the rules that the whole one breaks.

use super::{Faults, Finding, Report, Simulation, process::lock};
use dirigent_connectors::simulated::SimFaults;
use std::{
    collections::BTreeSet,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// What was left out of a world.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cut {
    /// Numbers of messages that nobody says.
    pub unsaid: BTreeSet<usize>,
    /// Kinds of faults.
    pub without: BTreeSet<&'static str>,
    /// How long things go wrong, where that is shorter.
    pub lasts: Option<Duration>,
    /// Whether one shard takes all turns.
    pub one_shard: bool,
}

/// A kind of faults: its name, and how it is left out.
type Without = (&'static str, fn(&mut Faults));

const KINDS: [Without; 20] = [
    ("faults of brokers", |it| it.brokers = SimFaults::none()),
    ("doubled", |it| it.brokers.doubled = 0),
    ("late", |it| it.brokers.late = 0),
    ("confirm lost", |it| it.brokers.confirm_lost = 0),
    ("refused", |it| it.brokers.refused = 0),
    ("too large", |it| it.brokers.too_large = 0),
    ("reset", |it| it.brokers.reset = 0),
    ("reordered", |it| it.brokers.reordered = 0),
    ("slow", |it| it.brokers.slow = 0),
    ("pieces", |it| it.brokers.pieces = 0),
    ("silent and away", |it| (it.brokers.silent, it.brokers.away) = (0, 0)),
    ("gaps", |it| it.brokers.gaps = 0),
    ("kills of the orchestrator", |it| it.killed_within = None),
    ("deaths at crossings", |it| it.dies_at_crossings = false),
    ("kills of participants", |it| it.participants_killed_within = None),
    ("power cuts", |it| it.power_cuts = false),
    ("unroutable", |it| it.unroutable_within = None),
    ("dawdling", |it| it.dawdles = None),
    ("what is said twice", |it| it.says_twice = false),
    ("latency", |it| it.latency = Duration::ZERO),
];

/// Lines of a story that are told, the last ones. The seed tells all of them.
const STORY_LINES_MAX: usize = 300;

/// A time for faults that is not halved again.
const LASTS_MIN: Duration = Duration::from_millis(500);

impl Cut {
    /// What is left of a world.
    pub fn of(&self, world: Simulation) -> Simulation {
        let mut faults = world.drawn_faults();
        for (name, without) in KINDS {
            if self.without.contains(name) {
                without(&mut faults);
            }
        }
        faults.lasts = self.lasts.map_or(faults.lasts, |lasts| lasts.min(faults.lasts));
        let world = world.unsaid(&self.unsaid).faults(faults);
        if self.one_shard { world.shards(1) } else { world }
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::default() {
            return f.write_str("nothing could be left out");
        }
        let mut parts = Vec::new();
        if !self.without.is_empty() {
            let kinds: Vec<&str> = self.without.iter().copied().collect();
            parts.push(format!("without {}", kinds.join(", ")));
        }
        if let Some(lasts) = self.lasts {
            parts.push(format!("faults for {} ms", lasts.as_millis()));
        }
        if self.one_shard {
            parts.push("one shard".to_owned());
        }
        if !self.unsaid.is_empty() {
            parts.push(format!("{} messages are not said", self.unsaid.len()));
        }
        f.write_str(&parts.join("; "))
    }
}

/// The shortest cut of a run that breaks a rule.
#[derive(Debug, Clone)]
pub struct Shortest {
    /// What was left out.
    pub cut: Cut,
    /// Kinds of faults that are left, each of which it needs.
    pub left: Vec<&'static str>,
    /// The run without it.
    pub report: Report,
    /// What happened in it, line by line.
    pub story: Vec<String>,
}

impl fmt::Display for Shortest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = self.story.len().saturating_sub(STORY_LINES_MAX);
        writeln!(f, "The shortest that was found and still breaks it: {}.", self.cut)?;
        let left = if self.left.is_empty() {
            "only what participants and customers do".to_owned()
        } else {
            self.left.join(", ")
        };
        writeln!(f, "What still goes wrong in it: {left}.")?;
        writeln!(f, "{}", self.report)?;
        match before {
            0 => writeln!(f, "Its story:")?,
            before => writeln!(f, "Its story, without the first {before} lines:")?,
        }
        self.story.iter().skip(before).try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// The shortest cut of a world that breaks a rule, as far as it is found in this time. A world that breaks none is not cut.
pub fn shortest(make: &dyn Fn() -> Simulation, within: Duration) -> Shortest {
    let until = Instant::now() + within;
    let report = run(make());
    let rules = report.findings.iter().map(|finding| finding.rule).collect();
    let mut search = Search { make, until, rules, cut: Cut::default(), report };
    if !search.report.is_sound() {
        while search.pass() {}
    }
    let Search { cut, .. } = search;
    let story = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&story);
    let told = cut.of(make()).traced(move |line| lock(&into).push(line.to_owned()));
    let report = run(told);
    let story = std::mem::take(&mut *lock(&story));
    let faults = cut.of(make()).drawn_faults();
    // Behind the first one, which is all of what brokers do together.
    let left = KINDS.into_iter().skip(1).filter(|kind| is_in(kind, &faults));
    Shortest { left: left.map(|(name, _)| name).collect(), cut, report, story }
}

/// Whether any such fault is among these.
fn is_in((_, without): &Without, faults: &Faults) -> bool {
    let mut fewer = faults.clone();
    without(&mut fewer);
    format!("{fewer:?}") != format!("{faults:?}")
}

struct Search<'a> {
    make: &'a dyn Fn() -> Simulation,
    until: Instant,
    rules: BTreeSet<&'static str>,
    cut: Cut,
    report: Report,
}

impl Search<'_> {
    /// Tries each thing once; whether anything was left out.
    fn pass(&mut self) -> bool {
        let before = self.cut.clone();
        for kind in KINDS {
            self.leave_out(&kind);
        }
        if !self.cut.one_shard {
            self.tries(Cut { one_shard: true, ..self.cut.clone() });
        }
        self.halve();
        self.hush();
        self.cut != before
    }

    fn leave_out(&mut self, kind: &Without) {
        if is_in(kind, &self.cut.of((self.make)()).drawn_faults()) {
            let mut next = self.cut.clone();
            next.without.insert(kind.0);
            self.tries(next);
        }
    }

    /// Faults last half as long, again and again.
    fn halve(&mut self) {
        loop {
            let lasts = self.cut.of((self.make)()).drawn_faults().lasts / 2;
            if lasts < LASTS_MIN || !self.tries(Cut { lasts: Some(lasts), ..self.cut.clone() }) {
                return;
            }
        }
    }

    /// Leaves out what is said: many at once at first, one by one at last.
    fn hush(&mut self) {
        let count = (self.make)().said_count();
        let mut at_once = count.div_ceil(2);
        while at_once > 0 {
            for first in (0..count).step_by(at_once).rev() {
                let mut next = self.cut.clone();
                next.unsaid.extend(first..(first + at_once).min(count));
                if next != self.cut {
                    self.tries(next);
                }
            }
            at_once = if at_once == 1 { 0 } else { at_once.div_ceil(2) };
        }
    }

    /// Whether the same rule is broken without this, too; then it stays out.
    fn tries(&mut self, next: Cut) -> bool {
        if Instant::now() >= self.until {
            return false;
        }
        let tried = run(next.of((self.make)()));
        let is_same = |finding: &Finding| self.rules.contains(finding.rule);
        let still = tried.findings.iter().any(is_same);
        if still {
            (self.cut, self.report) = (next, tried);
        }
        still
    }
}

/// Runs a world. A panic in it is a finding as any other.
pub(super) fn run(world: Simulation) -> Report {
    let seed = world.seed;
    let ended = catch_unwind(AssertUnwindSafe(|| world.run()));
    ended.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
        Report::panicked(seed, text.to_owned())
    })
}
