//! For how long a repeated start is recognised: as long as its instance is kept after its end.
//!
//! Compared at the start with how long the broker keeps the start event. Who reads it again after its instance is forgotten (with
//! a data folder that was restored, or because somebody sent it again by hand) starts the saga anew, and all its commands with it.

use super::start::Lane;
use crate::registry::Registry;
use dirigent_connectors::Retention;
use dirigent_model::definition::Graph;
use std::time::Duration;

/// Tells where a start event outlives its instance.
pub(super) async fn compare(registry: &Registry, lanes: &[Lane]) {
    for plan in registry.plans() {
        let graph = plan.graph();
        let channel = &graph.start.channel;
        let reads = |lane: &&Lane| lane.reads.iter().any(|read| read.name == *channel);
        let Some(lane) = lanes.iter().find(reads) else { continue };
        match lane.connector.retention(channel).await {
            Ok(kept) => {
                if let Some(text) = shortfall(graph, kept) {
                    tracing::warn!(
                        saga = graph.name,
                        version = graph.version,
                        channel,
                        text,
                        "A repeated start may be taken for a new one."
                    );
                }
            }
            // It is a question of caution: not being told is no reason not to run.
            Err(error) => tracing::info!(
                channel,
                error = crate::describe(&error),
                "The broker does not say how long it keeps start events; see to it that `keep_for` is longer."
            ),
        }
    }
}

/// What is wrong, and what to change; `None` where a repeated start is recognised for as long as it can be read.
fn shortfall(graph: &Graph, kept: Retention) -> Option<String> {
    let (name, mine) = (&graph.name, graph.retention);
    let (theirs, wanted) = match kept {
        Retention::For(theirs) if theirs > mine => (span(theirs), span(theirs)),
        Retention::ForEver => ("for ever".into(), "a time it may be read again".into()),
        Retention::For(_) | Retention::UntilSettled => return None,
    };
    let channel = &graph.start.channel;
    Some(format!(
        "instances of `{name}` are kept {} after their end, and `{channel}` keeps start events {theirs}; declare `.keep_for(..)` of at least {wanted}, or lower `retention.ms` of `{channel}`",
        span(mine)
    ))
}

/// A span in the largest unit that tells it exactly.
pub(crate) fn span(span: Duration) -> String {
    match span.as_secs() {
        seconds if seconds % 86_400 == 0 => format!("{} days", seconds / 86_400),
        seconds if seconds % 3_600 == 0 => format!("{} hours", seconds / 3_600),
        seconds if seconds % 60 == 0 => format!("{} minutes", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dirigent_model::{definition::saga, message};
    use serde::{Deserialize, Serialize};

    #[derive(Clone, Serialize, Deserialize)]
    struct Asked {
        id: u64,
    }
    impl message::Message for Asked {
        const NAME: &'static str = "Asked";
    }
    impl message::Event for Asked {
        const ON: message::Channel = message::Channel::json("asks");
    }

    fn kept_for(days: u64) -> std::sync::Arc<dirigent_model::definition::Plan> {
        let days = Duration::from_secs(days * 86_400);
        let pause = dirigent_model::definition::pause("rest", Duration::from_secs(1));
        let saga = saga("short", 1, |asked: &Asked| asked.id, |asked: Asked| asked.id).then(pause);
        saga.keep_for(days).ends().unwrap().plan()
    }

    #[test]
    fn a_broker_that_keeps_starts_for_longer_than_instances_are_kept_is_told_of_with_what_to_change()
     {
        let plan = kept_for(2);
        let days = |days: u64| Retention::For(Duration::from_secs(days * 86_400));
        let text = shortfall(plan.graph(), days(7)).unwrap();
        for part in ["`short`", "2 days", "`asks`", "7 days", "keep_for", "retention.ms"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(shortfall(plan.graph(), Retention::ForEver).unwrap().contains("for ever"));
        assert_eq!(shortfall(plan.graph(), days(2)), None);
        assert_eq!(shortfall(plan.graph(), Retention::UntilSettled), None);
    }
}
