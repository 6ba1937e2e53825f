//! Runs worlds drawn from seeds, and tells which rules were broken: `simulate --seeds 0..20000`. Or tries every crash point of small sagas: `simulate --points`.
//!
//! What goes in: seeds, for how long, and on how many cores. What comes out: figures on standard output and progress on standard error; of a world that
//! breaks a rule its seed, the commit, the shortest cut and its story. What must be true: a seed is the same world with the same faults, however it came to be run.

#![allow(clippy::print_stdout, reason = "a program that tells people what it found")]

use clap::Parser;
use dirigent::simulation::{Report, Simulation};
use integration_tests::simulate::{drawn, points, shortest_of};
use std::{
    collections::BTreeMap,
    io::Write,
    process::{Command, ExitCode},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Seeds if neither they nor minutes are said.
const SEEDS_DEFAULT: (u64, u64) = (0, 1_000);

/// How often progress is told.
const TELLS_EVERY: Duration = Duration::from_secs(15);

/// A world is on one thread and lives of small pieces of memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs sagas, participants, brokers and disks on virtual time, from seeds, and judges what came of it.
///
/// Exit code 0: every rule held; 1: one was broken; 2: the arguments make no sense.
#[derive(Debug, Parser)]
struct Arguments {
    /// One seed; if it breaks a rule, it is cut to the shortest that still does, with its story.
    #[arg(long, conflicts_with_all = ["seeds", "minutes"], group = "one_run")]
    seed: Option<u64>,
    /// Seeds from A up to, and without, B; 0..1000 if not said, and all from 0 on if only minutes are said.
    #[arg(long, value_name = "A..B", value_parser = range)]
    seeds: Option<(u64, u64)>,
    /// Ends after so many minutes, wherever it is.
    #[arg(long, value_name = "MINUTES", value_parser = minutes)]
    minutes: Option<f64>,
    /// Worlds that run at the same time; as many as there are cores if not said.
    #[arg(long, value_name = "N")]
    jobs: Option<std::num::NonZeroUsize>,
    /// Seeds that break a rule before it gives up.
    #[arg(long, default_value_t = 5)]
    broken_max: u64,
    /// Prints each message and each decision as they go, of one seed or point.
    #[arg(long, requires = "one_run")]
    trace: bool,
    /// Plants a bug into the engine, by its name.
    #[cfg(feature = "planted")]
    #[arg(long, value_name = "NAME", value_parser = bug)]
    bug: Option<dirigent::planted::Bug>,
    /// The figures as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    points: points::Options,
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let (from, to) = text.split_once("..").ok_or("write it as A..B, such as 0..20000")?;
    let number = |it: &str| it.parse().map_err(|_| format!("`{it}` is no number"));
    match (number(from)?, number(to)?) {
        (from, to) if from < to => Ok((from, to)),
        _ => Err("A must be less than B".into()),
    }
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(minutes) if minutes > 0.0 && f64::is_finite(minutes) => Ok(minutes),
        _ => Err("write it as a number above 0, such as 0.5".into()),
    }
}

#[cfg(feature = "planted")]
fn bug(text: &str) -> Result<dirigent::planted::Bug, String> {
    let all = dirigent::planted::Bug::ALL;
    let names = || all.iter().map(|bug| bug.name()).collect::<Vec<_>>().join(", ");
    let found = all.iter().find(|bug| bug.name() == text);
    found.copied().ok_or_else(|| format!("there are {}", names()))
}

impl Arguments {
    /// The world of a seed, whoever asks for it.
    fn world(&self, seed: u64) -> Simulation {
        #[cfg(feature = "planted")]
        if let Some(bug) = self.bug {
            return integration_tests::simulate::world_for(bug, seed).planted(bug);
        }
        drawn(seed)
    }
}

#[derive(Debug, Default, serde::Serialize)]
struct Figures {
    commit: String,
    seeds: u64,
    broken: Vec<u64>,
    virtual_hours: f64,
    seconds: f64,
    virtual_per_real: f64,
    ended: BTreeMap<String, u64>,
    faults: BTreeMap<&'static str, u64>,
}

impl Figures {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.virtual_hours += report.virtual_time.as_secs_f64() / 3_600.0;
        for (status, count) in &report.ended {
            *self.ended.entry(status.clone()).or_default() += count;
        }
        for (fault, count) in &report.injected {
            *self.faults.entry(fault).or_default() += count;
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.points.points {
        let broken_max = usize::try_from(arguments.broken_max).unwrap_or(usize::MAX);
        return points::tell(&arguments.points, arguments.json, arguments.trace, broken_max);
    }
    match arguments.seed {
        Some(seed) => one(&arguments, seed),
        None => many(&arguments),
    }
}

fn one(arguments: &Arguments, seed: u64) -> ExitCode {
    let world = arguments.world(seed);
    let world = if arguments.trace { world.traced(|line| println!("{line}")) } else { world };
    let report = world.run();
    println!("{report}");
    if report.is_sound() {
        return ExitCode::SUCCESS;
    }
    println!("\nCommit {}.\n{}", commit(), shortest_of(&|| arguments.world(seed)));
    ExitCode::FAILURE
}

fn many(arguments: &Arguments) -> ExitCode {
    let begun = Instant::now();
    let until = arguments.minutes.map(|minutes| begun + Duration::from_secs_f64(minutes * 60.0));
    let (from, to) = match (arguments.seeds, arguments.minutes) {
        (Some(seeds), _) => seeds,
        (None, Some(_)) => (0, u64::MAX),
        (None, None) => SEEDS_DEFAULT,
    };
    let (next, stops) = (AtomicU64::new(from), AtomicBool::new(false));
    let figures = Mutex::new(Figures { commit: commit(), ..Figures::default() });
    let told_at = Mutex::new(begun);
    let work = || {
        while !stops.load(Ordering::Relaxed) && until.is_none_or(|until| Instant::now() < until) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= to {
                return;
            }
            let report = arguments.world(seed).run();
            let mut figures = lock(&figures);
            figures.add(&report);
            if !report.is_sound() {
                println!("commit {}, {report}", figures.commit);
                figures.broken.push(seed);
                stops.store(figures.broken.len() as u64 >= arguments.broken_max, Ordering::Relaxed);
            }
            let mut told_at = lock(&told_at);
            if told_at.elapsed() >= TELLS_EVERY {
                *told_at = Instant::now();
                progress(&figures, begun.elapsed(), (to < u64::MAX).then_some(to - from));
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let jobs = arguments.jobs.map_or(cores, |jobs| jobs.get());
    std::thread::scope(|scope| (0..jobs).for_each(|_| drop(scope.spawn(work))));
    let mut figures = figures.into_inner().unwrap_or_else(PoisonError::into_inner);
    figures.seconds = begun.elapsed().as_secs_f64();
    figures.virtual_per_real = figures.virtual_hours * 3_600.0 / figures.seconds;
    figures.broken.sort_unstable();
    if let Some(seed) = figures.broken.first().copied() {
        println!("\nSeed {seed}, commit {}.", figures.commit);
        println!("{}", shortest_of(&|| arguments.world(seed)));
        println!("To repeat it: simulate --seed {seed} --trace\n");
    }
    match serde_json::to_string(&figures).ok().filter(|_| arguments.json) {
        Some(json) => println!("{json}"),
        None => println!("{figures:#?}"),
    }
    if figures.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Tells how far it is. Who does not listen misses nothing.
fn progress(figures: &Figures, so_far: Duration, all: Option<u64>) {
    let of = all.map_or_else(String::new, |all| format!(" of {all}"));
    let (seeds, broken, hours) = (figures.seeds, figures.broken.len(), figures.virtual_hours);
    let seconds = so_far.as_secs();
    let line = format!(
        "{seconds:>6} s: {seeds}{of} seeds, {hours:.0} h of virtual time, {broken} broken\n"
    );
    drop(std::io::stderr().write_all(line.as_bytes()));
}

/// What this was built of: as the build said, the commit of the checkout that it is run in, or the version.
fn commit() -> String {
    if let Some(said) = option_env!("DIRIGENT_COMMIT") {
        return said.to_owned();
    }
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok();
        let output = output.filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]).filter(|it| !it.is_empty()) else {
        return format!("unknown, version {}", env!("CARGO_PKG_VERSION"));
    };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => format!("{commit} with changes"),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
