//! The judge from outside: what must be true of a run, told from what went over the brokers and from what the participants did.
//!
//! ```text
//! brokers tell: stored · answered · handed out · settled ─► story: by saga and run ─► keys · forward · backward · ends ─► findings
//! participants witness: done, undone ──────────────────────────────────────────────────────────┘
//! ```
//!
//! What goes in: every message that was sent, and when it was handed to whom; the effects that participants kept; the graphs as they are drawn; and of the
//! engine's views one word for each saga that has not ended: whether it is blocked, or was killed, as people see it. What comes out: findings,
//! which name saga, run and step. What must be true: it shares no rule, no state and no code with what it judges; it reads graphs and the
//! attributes of messages, and the function that names an instance.

mod backward;
mod ends;
mod forward;
mod keys;
pub(super) mod marks;
pub(super) mod paths;
mod story;
#[cfg(test)]
mod tests;

use super::{Effects, Findings};
use crate::envelope;
use dirigent_connectors::{Message, simulated::SimEvent};
use dirigent_model::{
    definition::{Graph, MessageRef, NodeId, Plan, WayBack},
    message::{Body, JsonOnly, Key},
};
use std::{collections::BTreeMap, time::Duration};
use story::{Keyed, Moment, Run, Story};

/// The sagas that are run, as they are drawn.
pub(super) struct Graphs<'a>(pub Vec<(&'a Graph, Option<&'a Plan>)>);

/// How a saga stands at the end, as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stand {
    pub status: String,
    pub run: u64,
}

impl Stand {
    /// Whether nothing more is to come of it by itself, and no end was reached.
    fn is_open(&self) -> bool {
        !matches!(self.status.as_str(), "completed" | "compensated")
    }
}

/// What is known beside the story.
pub(super) struct Known<'a> {
    pub graphs: &'a Graphs<'a>,
    /// By the id of the instance.
    pub stands: BTreeMap<String, Stand>,
    /// By saga and run of its key.
    pub effects: &'a BTreeMap<(String, u64), Effects>,
    /// Whether somebody here carries out what this channel asks for.
    pub reads: &'a dyn Fn(&str) -> bool,
    /// How much time passed.
    pub lasted: Duration,
    /// When the story begins, by the orchestrator's clock, in milliseconds since 1970; none where that clock is not to be trusted.
    pub begins: Option<u64>,
}

/// Judges a story.
pub(super) fn judge(told: &[(usize, SimEvent)], known: &Known<'_>, findings: &mut Findings) {
    let story = Story::of(told, known.graphs);
    keys::judge(&story, findings);
    for stray in &story.strays {
        findings.add(forward::NOT_BEGUN, marks::named(stray));
    }
    for (id, keyed) in &story.sagas {
        if keyed.may_be_two() {
            continue;
        }
        ends::of_key(known, id, keyed, findings);
        for (number, run) in &keyed.runs {
            let (number, unanswered) = (*number, &story.unanswered);
            let mut case = Case { known, id, keyed, number, run, unanswered, findings };
            keys::attempts(&mut case);
            forward::judge(&mut case);
            backward::judge(&mut case);
            ends::judge(&mut case);
        }
    }
}

/// One run of a saga, which is judged.
struct Case<'a, 's> {
    known: &'a Known<'a>,
    id: &'a str,
    keyed: &'a Keyed<'s>,
    number: u64,
    run: &'a Run<'s>,
    unanswered: &'a BTreeMap<&'s str, Moment>,
    findings: &'a mut Findings,
}

impl<'s> Case<'_, 's> {
    fn graph(&self) -> &'s Graph {
        self.keyed.graph
    }

    fn find(&mut self, rule: &'static str, what: impl std::fmt::Display) {
        let (saga, key) = (&self.keyed.graph.name, &self.keyed.key);
        let (id, run) = (self.id, self.number);
        self.findings.add(rule, format!("{saga} {key} ({id}) in run {run}: {what}"));
    }

    /// Whether a saga that turned back may have given up a command of this step before this moment: where its broker confirms nothing
    /// of a channel for a while, nobody waits for what lies in the relay. It is in doubt, and withdrawn; what was on its way then may arrive late.
    fn may_be_given_up(&self, step: &str, at: Moment) -> bool {
        let step = self.graph().find(step).and_then(|node| self.graph().step(node));
        let since = step.and_then(|step| self.unanswered.get(step.command.channel.as_str()));
        since.is_some_and(|since| *since < at)
    }

    /// How often the participant of a step did it, and undid it.
    fn effect(&self, node: NodeId) -> (u64, u64) {
        let effects = self.known.effects.get(&(self.id.to_owned(), self.number));
        let of_step = effects.and_then(|effects| effects.get(self.graph().name_of(node)));
        of_step.map_or((0, 0), |(done, undone)| (done.times, undone.times))
    }

    /// Whether the participant of a step says what it does.
    fn is_witnessed(&self, node: NodeId) -> bool {
        let step = self.graph().step(node);
        step.is_some_and(|step| (self.known.reads)(&step.command.channel))
    }
}

/// Whether a command undoes a step.
fn is_compensatable(graph: &Graph, node: NodeId) -> bool {
    graph.step(node).is_some_and(|step| matches!(step.way_back, WayBack::Compensated { .. }))
}

fn is_pivot(graph: &Graph, node: NodeId) -> bool {
    graph.step(node).is_some_and(|step| matches!(step.way_back, WayBack::Pivot))
}

impl<'a> Graphs<'a> {
    /// The sagas that a message begins, with the key of each.
    fn begun_by(&self, message: &Message) -> Vec<(&'a Graph, String)> {
        let begun = self.0.iter().filter(|(graph, _)| graph.start.name == marks::name(message));
        let key = |plan: &Option<&Plan>| {
            let read = |plan: &Plan| plan.start_key(&body(message)?, &JsonOnly).ok();
            key_or_routing(plan.and_then(read), message)
        };
        begun.map(|(graph, plan)| (*graph, key(plan))).collect()
    }

    /// The sagas that may wait for a message, with the key of each.
    fn awaiting(&self, message: &Message) -> Vec<(&'a Graph, String)> {
        let name = marks::name(message);
        let awaits = |graph: &Graph| graph.events_awaited().any(|event| event.name == name);
        let key = |plan: &Option<&Plan>| {
            let read = |plan: &Plan| plan.event_key(name, &body(message)?, &JsonOnly)?.ok();
            key_or_routing(plan.and_then(read), message)
        };
        let waiting = self.0.iter().filter(|(graph, _)| awaits(graph));
        waiting.map(|(graph, plan)| (*graph, key(plan))).collect()
    }

    /// The sagas that tell of their end by such a message.
    fn ending_with(&self, message: &Message) -> Vec<&'a Graph> {
        let ends = |graph: &Graph| {
            let mut told = graph.ends.completed.iter().chain(&graph.ends.failed);
            told.any(|event| is_this(event, message))
        };
        self.0.iter().map(|(graph, _)| *graph).filter(|graph| ends(graph)).collect()
    }

    /// Whether nobody else tells anything by the messages that this saga's ends are told by.
    fn tells_alone(&self, graph: &Graph) -> bool {
        let own = || graph.ends.completed.iter().chain(&graph.ends.failed);
        self.0.iter().all(|(other, _)| {
            let published = other.nodes.iter().filter_map(|node| match &node.kind {
                dirigent_model::definition::Kind::Publish { event } => Some(event),
                _ => None,
            });
            let ends = other.ends.completed.iter().chain(&other.ends.failed);
            let ends = ends.filter(|_| other.name != graph.name);
            published.chain(ends).all(|event| !own().any(|own| own.name == event.name))
        })
    }
}

fn is_this(event: &MessageRef, message: &Message) -> bool {
    event.name == marks::name(message) && event.channel == message.channel
}

fn key_or_routing(key: Option<Key>, message: &Message) -> String {
    key.map_or_else(|| message.key.clone(), |key| key.as_str().to_owned())
}

fn body(message: &Message) -> Option<Body> {
    let format = envelope::format_of(&message.attributes).ok()?;
    Some(Body { format, bytes: message.body.to_vec() })
}
