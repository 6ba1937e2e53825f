//! `check` and `graph`: what can be said about sagas without running them.

use super::{
    CheckArgs, GraphArgs, GraphFormat, find_plan, graph_file,
    out::{Trouble, say},
};
use crate::registry::Registry;
use dirigent_model::{
    definition::Graph,
    explore::{Checked, Violation, check_graph},
};
use serde::Serialize;
use std::{
    cell::Cell,
    process::ExitCode,
    sync::{Arc, Once},
    time::Instant,
};

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
        (Some(file), _) => vec![graph_file::read(file)?],
        (None, Some(named)) => vec![find_plan(&registry, named)?.graph().clone()],
        (None, None) => registry.plans().iter().map(|plan| plan.graph().clone()).collect(),
    };
    let (mut is_wrong, mut is_exhausted) = (false, true);
    let mut checks = Vec::new();
    for graph in graphs {
        let repeats = told_of_repeats(&graph);
        let begun = Instant::now();
        let work = tokio::task::spawn_blocking(move || explored(&graph));
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

thread_local! {
    /// Whether panics of this thread are caught and told as what was found.
    static PANICS_ARE_TOLD: Cell<bool> = const { Cell::new(false) };
}

/// Explores a graph. Where the transition has no answer to an input, as in a graph that the builder would refuse, it panics; that is
/// caught and told as a violation, and is no news for the hook of panics, which would print it as a mistake of ours.
fn explored(graph: &Graph) -> Checked {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !PANICS_ARE_TOLD.get() {
                others(panic);
            }
        }));
    });
    PANICS_ARE_TOLD.set(true);
    let checked = check_graph(graph);
    PANICS_ARE_TOLD.set(false);
    checked
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

#[cfg(test)]
mod tests {
    use super::*;
    use dirigent_model::{
        definition::{Kind, WayBack},
        explore::ViolationKind,
    };

    const KEPT: &str = include_str!("../../model/tests/draw_kept/order.json");

    /// The order with a second pivot: `ship`, behind the one there is.
    fn second_pivot() -> Graph {
        let written: serde_json::Value = serde_json::from_str(KEPT).expect("it is JSON");
        let mut graph: Graph = serde_json::from_value(written["graph"].clone()).expect("a graph");
        let ship = graph.find("ship").expect("it ships");
        match &mut graph.nodes[ship.index()].kind {
            Kind::Step(step) => step.way_back = WayBack::Pivot,
            other => panic!("shipping is a step, not {other:?}"),
        }
        graph
    }

    #[test]
    fn a_mistake_in_a_graph_is_told_by_the_rules_of_the_builder_and_by_no_panic() {
        let checked = explored(&second_pivot());
        let first = &checked.violations[0];
        assert_eq!((first.kind, first.node.as_deref()), (ViolationKind::Refused, Some("ship")));
        assert!(first.text.starts_with("`ship` is a second pivot on its path"), "{first}");
        let text = checked.to_string();
        assert!(!text.contains("internal error") && !text.contains("panick"), "{text}");
    }
}
