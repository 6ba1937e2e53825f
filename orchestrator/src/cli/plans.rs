//! `check` and `graph`: what can be said about sagas without running them.

use super::{
    CheckArgs, GraphArgs, GraphFormat, find_plan,
    out::{Trouble, say},
};
use crate::registry::Registry;
use std::{process::ExitCode, sync::Arc};

pub(super) async fn check(registry: Arc<Registry>, args: CheckArgs) -> Result<ExitCode, Trouble> {
    let plans = match &args.saga {
        Some(named) => vec![Arc::clone(find_plan(&registry, named)?)],
        None => registry.plans().to_vec(),
    };
    let mut all_sound = true;
    let mut checks = Vec::new();
    for plan in plans {
        let work = tokio::task::spawn_blocking(move || plan.check());
        let checked = work.await.map_err(|error| Trouble::new("checking a saga").because(error))?;
        all_sound &= checked.is_sound();
        if args.json {
            checks.push(checked);
        } else {
            say(&format!("{checked}\n"))?;
        }
    }
    if args.json {
        let text = serde_json::to_string(&checks)
            .map_err(|error| Trouble::new("writing what was found").because(error))?;
        say(&format!("{text}\n"))?;
    }
    Ok(if all_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
