//! How `simulate --points` is asked, and what it prints: a table or JSON, and for each finding how to repeat it.

#![allow(clippy::print_stdout, reason = "what a program tells people")]

use super::{
    CANONICAL, Canonical, Found, KINDS, NUMBER, News, Outcome, Plan, Row, SHARDS, Scenario, Trial,
    explored, script::Trouble,
};
use dirigent::simulation::{Death, Finding, ORCHESTRATOR};
use dirigent_model::instance::Leg;
use std::{
    fmt,
    process::ExitCode,
    sync::{Arc, atomic::AtomicU64},
    time::Instant,
};

/// Crash points instead of seeds.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Every crash point of the canonical sagas, instead of worlds drawn from seeds.
    #[arg(long, conflicts_with_all = ["seed", "seeds", "minutes"])]
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
    #[arg(long, requires = "points", value_name = "N", default_value = "1", value_parser = clap::value_parser!(u64).range(1..))]
    each: u64,
    /// Which one of the first N of them, from 0: all parts together are everything. The one in their middle if not said.
    #[arg(long, requires = "each", value_name = "K")]
    part: Option<u64>,
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
    /// On which of its legs.
    #[arg(long, requires = "stage", value_parser = leg, default_value = "do")]
    leg: Leg,
    /// The number of the purchase in that run.
    #[arg(long, requires = "one_run", default_value_t = NUMBER)]
    number: u64,
    /// How many shards that run has.
    #[arg(long, requires = "one_run", default_value_t = SHARDS[0])]
    shards: usize,
    /// The broker of that run.
    #[arg(long, requires = "one_run", value_parser = ["log", "queues"], default_value = "log")]
    broker: String,
    /// Who dies in it: the orchestrator if not said, else a participant by its name.
    #[arg(long, requires = "die")]
    process: Option<String>,
}

fn leg(text: &str) -> Result<Leg, String> {
    Leg::parse(text).ok_or_else(|| format!("`{text}` is none of do, compensate, status"))
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
    let asked = one(options).and_then(|one| match one {
        None => many(options, json, broken_max),
        Some(trial) => repeat(&trial, trace),
    });
    asked.unwrap_or_else(|wrong| {
        println!("{wrong}");
        ExitCode::from(2)
    })
}

/// The one run that is asked for, if there is one.
fn one(options: &Options) -> Result<Option<Trial>, String> {
    let saga = options.saga.as_deref().and_then(Canonical::named);
    let Some(saga) = saga.filter(|_| options.undisturbed || !options.die.is_empty()) else {
        return Ok(None);
    };
    let trouble = match (&options.stage, options.outcome) {
        (Some(stage), Some(outcome)) => {
            let known = saga.stages.iter().find(|known| *known == stage);
            let known = known.ok_or_else(|| {
                format!("`{stage}` is no stage of {}: {}", saga.name, saga.stages.join(", "))
            })?;
            Some(Trouble { stage: known, leg: options.leg, outcome })
        }
        _ => None,
    };
    let kind = KINDS.iter().find(|(name, _)| *name == options.broker).unwrap_or(&KINDS[0]).1;
    let process = options.process.clone().unwrap_or_else(|| ORCHESTRATOR.to_owned());
    let Options { number, shards, .. } = *options;
    let scenario = Scenario { saga, number, trouble, kind, shards };
    Ok(Some(Trial { scenario, process, deaths: options.die.clone() }))
}

fn repeat(trial: &Trial, trace: bool) -> Result<ExitCode, String> {
    let undisturbed = trial.scenario.undisturbed();
    if let Ok(undisturbed) = &undisturbed
        && undisturbed.processes().all(|(known, _)| known != trial.process)
    {
        let known: Vec<&str> = undisturbed.processes().map(|(known, _)| known).collect();
        let process = &trial.process;
        return Err(format!("`{process}` is no process of that run: {}", known.join(", ")));
    }
    if trace {
        trial.world(&Arc::new(AtomicU64::new(0))).traced(|line| println!("{line}")).run();
    }
    let found = match undisturbed {
        Ok(undisturbed) => {
            let findings = trial.tried(&undisturbed).1;
            Found { trial: trial.clone(), findings }
        }
        Err(found) => *found,
    };
    if found.findings.is_empty() {
        println!("every rule holds: {trial}");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{found}");
    Ok(ExitCode::FAILURE)
}

fn many(options: &Options, json: bool, broken_max: usize) -> Result<ExitCode, String> {
    let Options { saga, pairs, all, each, part, .. } = options.clone();
    if let Some(part) = part.filter(|part| *part >= each) {
        return Err(format!("there is no part {part} of {each}: they count from 0"));
    }
    let place = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let (each, part) = (place(each), part.map(place));
    let plan = Plan { saga, pairs, all, scenario_each: 1, each, part, broken_max };
    let begun = Instant::now();
    let (rows, found) = explored(&plan, &|news| match news {
        News::Found(found) if !json => println!("{found}"),
        News::PairsNext { runs, pairs } if !json => {
            println!("{runs} runs with one death are made; {pairs} pairs are next");
        }
        News::Found(_) | News::PairsNext { .. } => {}
    });
    let seconds = begun.elapsed().as_secs_f64();
    let is_sound = found.is_empty();
    let found = found.iter().map(ToString::to_string).collect();
    let figures = Figures { rows, seconds, found };
    match serde_json::to_string(&figures).ok().filter(|_| json) {
        Some(json) => println!("{json}"),
        None => print!("{figures}"),
    }
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let titles = ["saga", "stages", "scenarios", "crossings", "of participants"];
        let line =
            titles.into_iter().chain(["runs", "pairs there are", "pairs", "findings", "seconds"]);
        writeln!(f, "| {} |", line.collect::<Vec<_>>().join(" | "))?;
        writeln!(f, "|---|{}", "---:|".repeat(9))?;
        let mut sum = Row { saga: "all", ..Row::default() };
        for row in &self.rows {
            sum.stages += row.stages;
            sum.scenarios += row.scenarios;
            sum.crossings += row.crossings;
            sum.participants_crossings += row.participants_crossings;
            sum.runs += row.runs;
            sum.pairs_there_are += row.pairs_there_are;
            sum.pairs += row.pairs;
            sum.findings += row.findings;
            sum.seconds += row.seconds;
        }
        for row in self.rows.iter().chain([&sum]) {
            writeln!(
                f,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {:.1} |",
                row.saga,
                row.stages,
                row.scenarios,
                row.crossings,
                row.participants_crossings,
                row.runs,
                row.pairs_there_are,
                row.pairs,
                row.findings,
                row.seconds
            )?;
        }
        writeln!(f, "in {:.1} s", self.seconds)
    }
}

/// As one says it at the command line.
impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scenario { saga, number, trouble, kind, shards } = self.scenario;
        let broker = KINDS.iter().find(|(_, known)| *known == kind).unwrap_or(&KINDS[0]).0;
        write!(f, "--points --saga {} --broker {broker} --shards {shards}", saga.name)?;
        if number != NUMBER {
            write!(f, " --number {number}")?;
        }
        if let Some(Trouble { stage, leg, outcome }) = trouble {
            write!(f, " --stage {stage} --outcome {}", outcome.name())?;
            if leg != Leg::Do {
                write!(f, " --leg {}", leg.as_str())?;
            }
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
        write!(f, "simulate {} --trace", self.trial)?;
        for Finding { rule, found } in &self.findings {
            write!(f, "\n  broken: {rule}: {found}")?;
        }
        Ok(())
    }
}
