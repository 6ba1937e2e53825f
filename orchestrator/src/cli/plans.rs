//! `check` and `graph`: what can be said about sagas without running them.

use super::{
    CheckArgs, GraphArgs, GraphFormat, find_plan,
    out::{Trouble, say},
};
use crate::registry::Registry;
use dirigent_model::{
    definition::Graph,
    explore::{Checked, Violation, check_graph},
};
use serde::{Deserialize, Serialize};
use std::{path::Path, process::ExitCode, sync::Arc, time::Instant};

/// A check ended before every state within its bounds was looked at, and nothing was found so far.
const NOT_EXHAUSTED: u8 = 3;

/// What was found of one saga, for programs.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    checked: &'a Checked,
    /// Every state was looked at, and nothing was found.
    sound: bool,
    /// How long it took.
    seconds: f64,
    /// By violation: its sequence as a Mermaid diagram; `null` where there is none.
    diagrams: Vec<Option<String>>,
}

pub(super) async fn check(registry: Arc<Registry>, args: CheckArgs) -> Result<ExitCode, Trouble> {
    let graphs = match (&args.graph, &args.saga) {
        (Some(file), _) => vec![read_graph(file)?],
        (None, Some(named)) => vec![find_plan(&registry, named)?.graph().clone()],
        (None, None) => registry.plans().iter().map(|plan| plan.graph().clone()).collect(),
    };
    let (mut is_wrong, mut is_exhausted) = (false, true);
    let mut checks = Vec::new();
    for graph in graphs {
        let repeats = told_of_repeats(&graph);
        let begun = Instant::now();
        let work = tokio::task::spawn_blocking(move || check_graph(&graph));
        let checked = work.await.map_err(|error| Trouble::new("checking a saga").because(error))?;
        let seconds = (begun.elapsed().as_secs_f64() * 1_000.0).round() / 1_000.0;
        is_wrong |= !checked.violations.is_empty();
        is_exhausted &= checked.exhausted;
        let drawn = |violation: &Violation| {
            (!violation.sequence.is_empty()).then(|| violation.to_mermaid())
        };
        let diagrams: Vec<Option<String>> = checked.violations.iter().map(drawn).collect();
        if args.json {
            let sound = checked.is_sound();
            let told = Told { checked: &checked, sound, seconds, diagrams };
            checks.push(serde_json::to_value(&told).map_err(unwritten)?);
            continue;
        }
        say(&format!("{checked}\n{repeats}\n"))?;
        if args.mermaid {
            diagrams
                .iter()
                .flatten()
                .try_for_each(|drawn| say(&format!("\n```mermaid\n{drawn}```\n")))?;
        }
    }
    if args.json {
        let text = serde_json::to_string(&checks).map_err(unwritten)?;
        say(&format!("{text}\n"))?;
    }
    Ok(match (is_wrong, is_exhausted) {
        (true, _) => ExitCode::FAILURE,
        (false, false) => ExitCode::from(NOT_EXHAUSTED),
        (false, true) => ExitCode::SUCCESS,
    })
}

fn unwritten(error: serde_json::Error) -> Trouble {
    Trouble::new("writing what was found").because(error)
}

/// For how long a repeated start is recognised.
fn told_of_repeats(graph: &Graph) -> String {
    let kept = super::tell::span(graph.retention);
    format!(
        "{} v{}: a repeated start is recognised for {kept} after the end",
        graph.name, graph.version
    )
}

/// A graph as `graph --format json` writes it, with or without the fingerprint around it.
fn read_graph(file: &Path) -> Result<Graph, Trouble> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Printed { graph: Graph },
        Bare(Graph),
    }
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Trouble::new(format!("reading {shown}")).because(error))?;
    // Told apart by hand only where neither fits: the reader wants to know where the graph itself is wrong.
    match serde_json::from_str(&text) {
        Ok(Written::Printed { graph } | Written::Bare(graph)) => Ok(graph),
        Err(_) => {
            let wrong =
                |error| Trouble::new(format!("{shown} is no graph of a saga")).because(error);
            let value: serde_json::Value = serde_json::from_str(&text).map_err(wrong)?;
            let inner = value.get("graph").cloned().unwrap_or(value);
            serde_json::from_value(inner)
                .map_err(|error| wrong(error).hint("`graph SAGA --format json` writes one"))
        }
    }
}

pub(super) fn graph(registry: &Registry, args: &GraphArgs) -> Result<ExitCode, Trouble> {
    let graph = find_plan(registry, &args.saga)?.graph();
    let drawn = match args.format {
        GraphFormat::Mermaid => graph.to_mermaid(),
        GraphFormat::Dot => graph.to_dot(),
        GraphFormat::Json => graph.to_json(),
    };
    say(&format!("{}\n", drawn.trim_end()))?;
    Ok(ExitCode::SUCCESS)
}
