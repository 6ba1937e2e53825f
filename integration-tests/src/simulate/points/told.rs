//! How `simulate --points` is asked, and what it prints: a table or JSON, and for each finding how to repeat it.

#![allow(clippy::print_stdout, reason = "what a program tells people")]

use super::{CANONICAL, Canonical, Found, KINDS, Outcome, Plan, Point, Row, Scenario, explored};
use dirigent::simulation::{Death, Finding, ORCHESTRATOR};
use std::{fmt, process::ExitCode, time::Instant};

/// Crash points instead of seeds.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Every crash point of the canonical sagas, instead of worlds drawn from seeds.
    #[arg(long, conflicts_with_all = ["seed", "seeds"])]
    pub points: bool,
    /// One of the canonical sagas.
    #[arg(long, requires = "points")]
    saga: Option<String>,
    /// Also ordered pairs of deaths, of a path on which all succeeds and of one that turns back.
    #[arg(long, requires = "points")]
    pairs: bool,
    /// Pairs of every path.
    #[arg(long, requires = "pairs")]
    all: bool,
    /// One first death in so many, with its pairs, always the same ones.
    #[arg(long, requires = "points", value_name = "N", default_value_t = 1)]
    each: usize,
    /// Repeats one run, in which the process dies so: the kind of each death, and the crossing of its life.
    #[arg(long, requires = "saga", group = "one_run", value_name = "kill:K,cut:K", value_delimiter = ',', value_parser = death, conflicts_with_all = ["pairs", "each"])]
    die: Vec<Death>,
    /// Repeats one run, in which nobody dies.
    #[arg(long, requires = "saga", group = "one_run", conflicts_with_all = ["pairs", "each"])]
    undisturbed: bool,
    /// The step or wait of that run that does not just succeed.
    #[arg(long, requires_all = ["one_run", "outcome"])]
    stage: Option<String>,
    /// What becomes of it.
    #[arg(long, requires = "stage")]
    outcome: Option<Outcome>,
    /// The broker of that run.
    #[arg(long, requires = "one_run", value_parser = ["log", "queues"], default_value = "log")]
    broker: String,
    /// Who dies in it: the orchestrator if not said, else a participant by its name.
    #[arg(long, requires = "die")]
    process: Option<String>,
}

fn death(text: &str) -> Result<Death, String> {
    let (kind, crossing) = text.split_once(':').ok_or("write it as kill:17 or cut:17")?;
    let power_cut = match kind {
        "kill" => false,
        "cut" => true,
        other => return Err(format!("`{other}` is neither `kill` nor `cut`")),
    };
    match crossing.parse() {
        Ok(crossing) if crossing > 0 => Ok(Death { crossing, power_cut }),
        _ => Err(format!("`{crossing}` is no number of a crossing, which count from 1")),
    }
}

/// All rows together.
#[derive(serde::Serialize)]
struct Figures {
    rows: Vec<Row>,
    seconds: f64,
    found: Vec<String>,
}

/// Tries what was asked for, and tells.
///
/// Exit code 0: every rule held; 1: one was broken; 2: the arguments make no sense.
pub fn tell(options: &Options, json: bool, trace: bool, broken_max: usize) -> ExitCode {
    if let Some(name) = &options.saga
        && Canonical::named(name).is_none()
    {
        let names: Vec<&str> = CANONICAL.iter().map(|saga| saga.name).collect();
        println!("`{name}` is no canonical saga; there are {}", names.join(", "));
        return ExitCode::from(2);
    }
    match one(options) {
        Ok(None) => many(options, json, broken_max),
        Ok(Some(point)) => repeat(&point, trace),
        Err(wrong) => {
            println!("{wrong}");
            ExitCode::from(2)
        }
    }
}

/// The one run that is asked for, if there is one.
fn one(options: &Options) -> Result<Option<Point>, String> {
    let saga = options.saga.as_deref().and_then(Canonical::named);
    let Some(saga) = saga.filter(|_| options.undisturbed || !options.die.is_empty()) else {
        return Ok(None);
    };
    let at = match (&options.stage, options.outcome) {
        (Some(stage), Some(outcome)) => {
            let known = saga.stages.iter().find(|known| *known == stage);
            let known = known.ok_or_else(|| {
                format!("`{stage}` is no stage of {}: {}", saga.name, saga.stages.join(", "))
            })?;
            Some((*known, outcome))
        }
        _ => None,
    };
    let kind = KINDS.iter().find(|(name, _)| *name == options.broker).unwrap_or(&KINDS[0]).1;
    let process = options.process.clone().unwrap_or_else(|| ORCHESTRATOR.to_owned());
    let scenario = Scenario::new(saga, at, kind);
    Ok(Some(Point { scenario, process, deaths: options.die.clone() }))
}

fn repeat(point: &Point, trace: bool) -> ExitCode {
    if trace {
        point.world().traced(|line| println!("{line}")).run();
    }
    let findings = match point.scenario.undisturbed() {
        Ok(undisturbed) => point.tried(&undisturbed).1,
        Err(undisturbed) => undisturbed.broken_by_itself(),
    };
    if findings.is_empty() {
        println!("every rule holds: {point}");
        return ExitCode::SUCCESS;
    }
    println!("{}", Found { point: point.clone(), findings });
    ExitCode::FAILURE
}

fn many(options: &Options, json: bool, broken_max: usize) -> ExitCode {
    let Options { saga, pairs, all, each, .. } = options.clone();
    let plan = Plan { saga, pairs, all, scenario_each: 1, each, broken_max };
    let begun = Instant::now();
    let (rows, found) = explored(&plan, &|found| {
        if !json {
            println!("{found}");
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    let is_sound = found.is_empty();
    let found = found.iter().map(ToString::to_string).collect();
    let figures = Figures { rows, seconds, found };
    match serde_json::to_string(&figures).ok().filter(|_| json) {
        Some(json) => println!("{json}"),
        None => print!("{figures}"),
    }
    if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let titles = ["saga", "stages", "scenarios", "crossings", "of participants"];
        let line = titles.into_iter().chain(["runs", "pairs", "findings", "seconds"]);
        writeln!(f, "| {} |", line.collect::<Vec<_>>().join(" | "))?;
        writeln!(f, "|---|{}", "---:|".repeat(8))?;
        let mut sum = Row { saga: "all", ..Row::default() };
        for row in &self.rows {
            sum.stages += row.stages;
            sum.scenarios += row.scenarios;
            sum.crossings += row.crossings;
            sum.participants_crossings += row.participants_crossings;
            sum.runs += row.runs;
            sum.pairs += row.pairs;
            sum.findings += row.findings;
            sum.seconds += row.seconds;
        }
        for row in self.rows.iter().chain([&sum]) {
            writeln!(
                f,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {:.1} |",
                row.saga,
                row.stages,
                row.scenarios,
                row.crossings,
                row.participants_crossings,
                row.runs,
                row.pairs,
                row.findings,
                row.seconds
            )?;
        }
        writeln!(f, "in {:.1} s", self.seconds)
    }
}

/// As one says it at the command line.
impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scenario { saga, script, kind } = self.scenario;
        let broker = KINDS.iter().find(|(_, known)| *known == kind).unwrap_or(&KINDS[0]).0;
        write!(f, "--points --saga {} --broker {broker}", saga.name)?;
        if script.outcome != Outcome::Success {
            write!(f, " --stage {} --outcome {}", script.stage, script.outcome.name())?;
        }
        if self.process != ORCHESTRATOR {
            write!(f, " --process {}", self.process)?;
        }
        let kind = |death: &Death| if death.power_cut { "cut" } else { "kill" };
        let deaths = self.deaths.iter().map(|death| format!("{}:{}", kind(death), death.crossing));
        let deaths: Vec<String> = deaths.collect();
        match deaths.is_empty() {
            true => write!(f, " --undisturbed"),
            false => write!(f, " --die {}", deaths.join(",")),
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "simulate {} --trace", self.point)?;
        for Finding { rule, found } in &self.findings {
            write!(f, "\n  broken: {rule}: {found}")?;
        }
        Ok(())
    }
}
