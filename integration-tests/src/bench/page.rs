//! `bench all`: measures every section in a process of its own, keeps the figures, and writes the page and its plots from what is kept.
//!
//! A section that is not measured this time stays as it was, with its date. What is kept after each section outlives a run that is ended early.

use super::{
    Error, Scratch,
    figures::{SERIES, Spread, shown, told},
    plan::{GOALS, Goal, Section, Size},
    soak::LOOKED_AT,
    svg::{self, Bar, Panel},
    system::{self, Machine},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fmt::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Instant, SystemTime},
};

/// What is measured, and where it is written.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// Sections to be measured; all if not said.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Section>,
    /// How much is measured.
    #[arg(long, value_enum, default_value_t = Size::Full)]
    pub size: Size,
    /// Measures nothing, and writes the page from the figures that are kept.
    #[arg(long, conflicts_with = "only")]
    pub render: bool,
    /// The page.
    #[arg(long, value_name = "FILE", default_value = "BENCHMARKS.md")]
    pub write: PathBuf,
    /// Where figures and plots are kept, from the folder of the page.
    #[arg(long, value_name = "FOLDER", default_value = "docs/bench")]
    pub plots: PathBuf,
}

/// What is kept of a section.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    /// The day (UTC).
    measured_on: String,
    /// What was measured, where the sources say so.
    commit: Option<String>,
    machine: Machine,
    /// How many processes wanted to run before, in the mean of a minute.
    load_average_before: Option<f64>,
    seconds: f64,
    arguments: String,
    figures: Value,
}

type Figures = BTreeMap<String, Kept>;

/// The file of the figures.
const FIGURES: &str = "figures.json";

/// Measures, and writes. Says which sections could not be measured.
pub fn run(settings: &Settings) -> Result<Value, Error> {
    let folder = settings.write.parent().unwrap_or(Path::new(""));
    let plots = folder.join(&settings.plots);
    std::fs::create_dir_all(&plots)?;
    let place = plots.join(FIGURES);
    let mut figures: Figures = match std::fs::read_to_string(&place) {
        Ok(text) => serde_json::from_str(&text)?,
        Err(_) => Figures::new(),
    };
    let sections: Vec<Section> = match (settings.render, settings.only.is_empty()) {
        (true, _) => Vec::new(),
        (false, true) => Section::ALL.into(),
        (false, false) => settings.only.clone(),
    };
    // Folders with instances at rest take long to fill and are filled once, but for those that take no time.
    let scratch = (settings.size == Size::Tiny).then(Scratch::new).transpose()?;
    let resting = scratch.as_ref().map_or(Scratch::place()?.join("resting"), |it| it.path().into());
    let mut failed = Vec::new();
    for section in &sections {
        eprintln!("{} …", section.word());
        match measured(*section, settings.size, &resting) {
            Ok(kept) => {
                figures.insert(section.word().to_owned(), kept);
                std::fs::write(&place, serde_json::to_string_pretty(&figures)? + "\n")?;
            }
            Err(error) => {
                let text = dirigent::describe(&*error);
                eprintln!("{} could not be measured: {text}", section.word());
                failed.push(format!("{}: {text}", section.word()));
            }
        }
    }
    for (name, plot) in plotted(&figures) {
        std::fs::write(plots.join(format!("{name}.svg")), plot)?;
    }
    let page = written(&figures, &settings.plots);
    std::fs::write(&settings.write, page)?;
    if !failed.is_empty() {
        return Err(failed.join("; ").into());
    }
    let measured: Vec<&str> = sections.iter().map(|section| section.word()).collect();
    Ok(serde_json::json!({ "measured": measured, "page": settings.write }))
}

/// Measures one section in a process of its own.
fn measured(section: Section, size: Size, resting: &Path) -> Result<Kept, Error> {
    let program = std::env::current_exe()?;
    let words = section.arguments(size);
    let keeps = words.last() == Some(&"--keep");
    let (load, begun) = (system::load_average(), Instant::now());
    let mut command = Command::new(&program);
    command.args(&words);
    if keeps {
        command.arg(resting);
    }
    let output = command.arg("--json").stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!(
            "`bench {}` ended with {}; its own words are above",
            words.join(" "),
            output.status
        )
        .into());
    }
    Ok(Kept {
        measured_on: today()?,
        commit: commit(),
        machine: Machine::here(&Scratch::place()?),
        load_average_before: load,
        seconds: begun.elapsed().as_secs_f64().round(),
        arguments: words.join(" ") + if keeps { " FOLDER" } else { "" },
        figures: serde_json::from_slice(&output.stdout)?,
    })
}

fn today() -> Result<String, Error> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let now = dirigent::model::time::Timestamp(u64::try_from(now.as_millis())?).to_string();
    Ok(now.split('T').next().unwrap_or_default().to_owned())
}

fn commit() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| output.status.success() && !text.is_empty())
}

/// What is kept at this place of a section's figures.
fn figure<'a>(figures: &'a Figures, section: Section, place: &[&str]) -> Option<&'a Value> {
    let kept = figures.get(section.word())?;
    place.iter().try_fold(&kept.figures, |tree, name| tree.get(*name))
}

/// Every plot by its name.
fn plotted(figures: &Figures) -> Vec<(&'static str, String)> {
    let mut plots = Vec::new();
    for section in Section::ALL {
        for (name, place, figure_name) in section.plots() {
            let Some(subjects) = figure(figures, section, place).and_then(Value::as_object) else {
                continue;
            };
            let bars: Vec<Bar> = subjects
                .iter()
                .filter_map(|(label, figures)| {
                    let spread = Spread::from_json(figures.get(*figure_name)?)?;
                    Some(Bar { label: label.clone(), spread })
                })
                .collect();
            let title = format!("{}: {figure_name}", section.title());
            plots.push((*name, svg::bars(&title, &bars)));
        }
    }
    if let Some(series) = figure(figures, Section::Soak, &[SERIES]) {
        let points = |name: &str| {
            let values = series.get(name).and_then(Value::as_array);
            values.into_iter().flatten().filter_map(Value::as_f64).collect()
        };
        let panels = LOOKED_AT.map(|label| Panel { label, points: points(label) });
        let seconds = series.get("seconds_of_a_point").and_then(Value::as_f64).unwrap_or(1.0);
        plots.push(("soak", svg::lines(Section::Soak.title(), seconds, &panels)));
    }
    plots
}

/// The page.
fn written(figures: &Figures, plots: &Path) -> String {
    let mut out = String::from(
        "# Benchmarks\n\n\
         Measured, not promised: each figure stands beside its own limit, which was measured in the same run, in turns with it. A figure is the \
         middle of its rounds, with the smallest and the largest behind it. This page is written by\n\n\
         ```sh\ncargo run --release -p integration-tests --bin bench -- all\n```\n\n\
         `--only SECTION` measures one section anew and leaves the others as they are, `--size short` leaves out what takes hours, and each section can be \
         measured by itself, as it says. The figures are kept in [`figures.json`](",
    );
    let place = |name: &str| plots.join(name).to_string_lossy().into_owned();
    line(&mut out, &format!("{}).\n", place(FIGURES)));
    machine(&mut out, figures);
    goals(&mut out, figures);
    for section in Section::ALL {
        let Some(kept) = figures.get(section.word()) else { continue };
        line(&mut out, &format!("## {}\n\n{}\n", section.title(), section.method()));
        let of = kept.commit.as_ref().map_or_else(String::new, |commit| format!(" of `{commit}`"));
        let load = kept
            .load_average_before
            .map_or_else(String::new, |load| format!(", load average before: {}", shown(load)));
        line(
            &mut out,
            &format!(
                "`bench {}`{of}, on {}, in {} s{load}.\n",
                kept.arguments,
                kept.measured_on,
                shown(kept.seconds)
            ),
        );
        let mut tree = kept.figures.clone();
        if let Some(tree) = tree.as_object_mut() {
            tree.remove(SERIES);
        }
        tables(&mut out, "", &tree, true);
        let soak = (section == Section::Soak).then_some("soak");
        for name in section.plots().iter().map(|(name, ..)| *name).chain(soak) {
            line(&mut out, &format!("![{}]({})\n", section.title(), place(&format!("{name}.svg"))));
        }
    }
    out.trim_end().to_owned() + "\n"
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn machine(out: &mut String, figures: &Figures) {
    let mut machines: Vec<(&Machine, Vec<&str>)> = Vec::new();
    for section in Section::ALL {
        let Some(kept) = figures.get(section.word()) else { continue };
        match machines.iter_mut().find(|(machine, _)| **machine == kept.machine) {
            Some((_, sections)) => sections.push(section.word()),
            None => machines.push((&kept.machine, vec![section.word()])),
        }
    }
    line(
        out,
        "## The machine\n\nThe load, the services, the broker and what is measured share its cores: no figure is that of the engine alone on it.\n",
    );
    for (machine, sections) in &machines {
        let Machine { processor, cores, memory_gib, kernel, disk } = machine;
        let which =
            if machines.len() > 1 { format!(" ({})", sections.join(", ")) } else { String::new() };
        line(
            out,
            &format!(
                "- {cores} cores of {processor}, {memory_gib} GiB of memory, Linux {kernel}; {disk}{which}"
            ),
        );
    }
    out.push('\n');
}

fn goals(out: &mut String, figures: &Figures) {
    line(
        out,
        "## What is to be reached\n\n| what | at least | aim | measured | |\n|---|---|---|---|---|",
    );
    for Goal { what, at_least, aim, rises, unit, section, place } in GOALS {
        let measured = figure(figures, *section, place);
        let value =
            measured.and_then(|it| Spread::from_json(it).map_or(it.as_f64(), |it| Some(it.median)));
        let reaches =
            |bound: f64| value.map(|value| if *rises { value >= bound } else { value <= bound });
        let said = match (reaches(*aim), reaches(*at_least)) {
            (Some(true), _) => "aim reached",
            (_, Some(true)) => "reached",
            (_, Some(false)) => "not reached",
            (_, None) => "",
        };
        let (bound, measured) =
            (if *rises { "≥" } else { "≤" }, measured.map_or("not measured".into(), told));
        line(
            out,
            &format!(
                "| {what} | {bound} {}{unit} | {}{unit} | {measured} | {said} |",
                shown(*at_least),
                shown(*aim)
            ),
        );
    }
    out.push('\n');
}

/// A tree of figures: what stands alone as a list, subjects below each other as a table with their figures side by side.
fn tables(out: &mut String, caption: &str, tree: &Value, is_top: bool) {
    let Some(branches) = tree.as_object() else { return };
    let (alone, below): (Vec<_>, Vec<_>) = branches.iter().partition(|(_, it)| is_figure(it));
    if !alone.is_empty() {
        if !caption.is_empty() {
            line(out, &format!("{caption}:\n"));
        }
        alone.iter().for_each(|(name, value)| line(out, &format!("- {name}: {}", told(value))));
        out.push('\n');
    }
    let is_row = |value: &Value| {
        !is_top && value.as_object().is_some_and(|figures| figures.values().all(is_figure))
    };
    let (rows, deeper): (Vec<_>, Vec<_>) = below.into_iter().partition(|(_, it)| is_row(it));
    if !rows.is_empty() {
        table(out, caption, &rows);
    }
    for (name, value) in deeper {
        let caption = match name.as_str() {
            "subjects" => "",
            "ratios" => "Side by side",
            name => name,
        };
        tables(out, caption, value, false);
    }
}

fn is_figure(value: &Value) -> bool {
    !value.is_object() || Spread::from_json(value).is_some()
}

fn table(out: &mut String, caption: &str, rows: &[(&String, &Value)]) {
    let mut columns: Vec<&str> = Vec::new();
    for figures in rows.iter().filter_map(|(_, figures)| figures.as_object()) {
        for name in figures.keys() {
            if !columns.contains(&name.as_str()) {
                columns.push(name);
            }
        }
    }
    let mut head = format!("| {caption} |");
    let mut rule = String::from("|---|");
    for column in &columns {
        let _ = write!(head, " {column} |");
        rule.push_str("---|");
    }
    line(out, &head);
    line(out, &rule);
    for (name, figures) in rows {
        let cells =
            columns.iter().map(|column| figures.get(*column).map_or_else(String::new, told));
        line(out, &format!("| {name} | {} |", cells.collect::<Vec<_>>().join(" | ")));
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kept(figures: Value) -> Kept {
        let machine = Machine {
            processor: "a processor".into(),
            cores: 2,
            memory_gib: 8,
            kernel: "6".into(),
            disk: "ext4".into(),
        };
        let (measured_on, arguments) = ("2026-11-22".into(), "engine".into());
        let (commit, load_average_before, seconds) = (None, Some(0.5), 12.0);
        Kept { measured_on, commit, machine, load_average_before, seconds, arguments, figures }
    }

    #[test]
    fn the_page_shows_what_was_measured_beside_what_is_to_be_reached_and_says_what_was_not() {
        let spread = |value: f64| Spread::of(&[value]).unwrap().json();
        let figures = Figures::from([(
            "engine".to_owned(),
            kept(json!({
                "subjects": { "power-loss, 2 shards": { "events_per_second": spread(130_000.0) } },
                "ratios": { "power-loss, 2 shards ÷ floor": spread(0.4) },
                "orders in each round": 5,
            })),
        )]);
        let page = written(&figures, Path::new("docs/bench"));
        for expected in [
            "| engine, durable events/s | ≥ 120 000 | 200 000 | 130 000 | reached |",
            "| engine ÷ floor of the disk | ≥ 0.5 | 0.8 | 0.4 | not reached |",
            "| memory with 5 million at rest | ≤ 1024 MiB | 300 MiB | not measured |  |",
            "|  | events_per_second |\n|---|---|\n| power-loss, 2 shards | 130 000 |",
            "Side by side:\n\n- power-loss, 2 shards ÷ floor: 0.4",
            "- orders in each round: 5",
            "![The engine, on a broker in memory](docs/bench/engine.svg)",
        ] {
            assert!(page.contains(expected), "{expected}\n{page}");
        }
        assert_eq!(plotted(&figures).len(), 1);
    }

    #[test]
    fn every_section_is_an_argument_of_this_program_and_every_goal_lies_in_a_section() {
        for section in Section::ALL {
            for size in [Size::Tiny, Size::Short, Size::Full] {
                assert!(!section.arguments(size).is_empty() && !section.method().is_empty());
            }
        }
        assert!(GOALS.iter().all(|goal| goal.at_least != goal.aim && !goal.place.is_empty()));
    }
}
