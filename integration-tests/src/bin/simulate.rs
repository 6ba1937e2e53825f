//! Runs worlds drawn from seeds, and tells which rules were broken: `simulate --seeds 0..20000`. Or tries every crash point of small sagas: `simulate --points`.

#![allow(clippy::print_stdout, reason = "a program that tells people what it found")]

use clap::Parser;
use integration_tests::simulate::{drawn, points, shortest};
use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Runs sagas, participants, brokers and disks on virtual time, from seeds, and judges what came of it.
///
/// Exit code 0: every rule held; 1: one was broken; 2: the arguments make no sense.
#[derive(Debug, Parser)]
struct Arguments {
    /// One seed, with its whole story cut to the shortest that still breaks a rule.
    #[arg(long, conflicts_with = "seeds", group = "one_run")]
    seed: Option<u64>,
    /// Seeds from A up to, and without, B.
    #[arg(long, value_name = "A..B", value_parser = range, default_value = "0..1000")]
    seeds: (u64, u64),
    /// Ends after so many minutes, wherever it is.
    #[arg(long, value_name = "MINUTES")]
    minutes: Option<f64>,
    /// Seeds that break a rule before it gives up.
    #[arg(long, default_value_t = 5)]
    broken_max: u64,
    /// Prints each message as it goes, of one seed or point.
    #[arg(long, requires = "one_run")]
    trace: bool,
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

#[derive(Debug, Default, serde::Serialize)]
struct Figures {
    seeds: u64,
    broken: Vec<u64>,
    virtual_hours: f64,
    seconds: f64,
    virtual_per_real: f64,
    ended: BTreeMap<String, u64>,
    faults: BTreeMap<&'static str, u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.points.points {
        let broken_max = usize::try_from(arguments.broken_max).unwrap_or(usize::MAX);
        return points::tell(&arguments.points, arguments.json, arguments.trace, broken_max);
    }
    match arguments.seed {
        Some(seed) => one(seed, arguments.trace),
        None => many(&arguments),
    }
}

fn one(seed: u64, trace: bool) -> ExitCode {
    let world = drawn(seed);
    let report = if trace { world.traced(|line| println!("{line}")).run() } else { world.run() };
    println!("{report}");
    if report.is_sound() {
        return ExitCode::SUCCESS;
    }
    let (cut, report) = shortest(seed);
    println!("\nthe shortest that still breaks a rule, {cut:?}:\n{report}");
    ExitCode::FAILURE
}

fn many(arguments: &Arguments) -> ExitCode {
    let (from, to) = arguments.seeds;
    let until =
        arguments.minutes.map(|minutes| Instant::now() + Duration::from_secs_f64(minutes * 60.0));
    let (next, stops, figures) =
        (AtomicU64::new(from), AtomicBool::new(false), Mutex::new(Figures::default()));
    let begun = Instant::now();
    let work = || {
        while !stops.load(Ordering::Relaxed) && until.is_none_or(|until| Instant::now() < until) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= to {
                return;
            }
            let report = drawn(seed).run();
            let mut figures = figures.lock().unwrap_or_else(PoisonError::into_inner);
            figures.seeds += 1;
            figures.virtual_hours += report.virtual_time.as_secs_f64() / 3_600.0;
            for (status, count) in &report.ended {
                *figures.ended.entry(status.clone()).or_default() += count;
            }
            for (fault, count) in &report.injected {
                *figures.faults.entry(fault).or_default() += count;
            }
            if !report.is_sound() {
                println!("{report}");
                figures.broken.push(seed);
                stops.store(figures.broken.len() as u64 >= arguments.broken_max, Ordering::Relaxed);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let mut figures = figures.into_inner().unwrap_or_else(PoisonError::into_inner);
    figures.seconds = begun.elapsed().as_secs_f64();
    figures.virtual_per_real = figures.virtual_hours * 3_600.0 / figures.seconds;
    match serde_json::to_string(&figures).ok().filter(|_| arguments.json) {
        Some(json) => println!("{json}"),
        None => println!("{figures:#?}"),
    }
    if figures.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
