//! What a graph must be: one set of rules for what the builder makes and for what is read from a file. The types guarantee some of
//! them to whoever declares a saga; a file has only these.

use super::{
    errors::{DefinitionError, DefinitionErrors},
    graph::{AskStatus, Graph, Kind, MessageRef, NodeId, OnTimeout, Step, WayBack},
};
use crate::{
    message::{Failure, Message, StatusNotDone, StatusUnknown},
    retry::Retry,
};
use std::collections::BTreeSet;

/// Finds every mistake.
pub(crate) fn check(graph: &Graph) -> Result<(), DefinitionErrors> {
    let mut errors = Vec::new();
    if graph.nodes.len() > Graph::NODES_MAX {
        errors.push(DefinitionError::TooLarge { count: graph.nodes.len(), max: Graph::NODES_MAX });
    } else {
        names(graph, &mut errors);
        blocks(graph, &mut errors);
        messages(graph, &mut errors);
        policies(graph, &mut errors);
        Paths { graph, errors: &mut errors, parallel: None }.walk(Graph::ROOT, Pivot::NotPassed);
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(DefinitionErrors { definition: graph.name.clone(), errors })
    }
}

fn names(graph: &Graph, errors: &mut Vec<DefinitionError>) {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let mut seen = BTreeSet::new();
    let named = graph.nodes.iter().filter(|node| !matches!(node.kind, Kind::Sequence { .. }));
    for name in named.map(|node| &node.name).chain([&graph.name]) {
        if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
            errors.push(DefinitionError::Name { name: name.clone() });
        }
    }
    for node in graph.nodes.iter().filter(|node| !matches!(node.kind, Kind::Sequence { .. })) {
        if !seen.insert(&node.name) {
            errors.push(DefinitionError::NameTwice { name: node.name.clone() });
        }
    }
}

fn blocks(graph: &Graph, errors: &mut Vec<DefinitionError>) {
    if graph.events_awaited().any(|event| event.name == graph.start.name) {
        errors.push(DefinitionError::StartAwaited { event: graph.start.name.clone() });
    }
    if matches!(&graph.node(Graph::ROOT).kind, Kind::Sequence { children } if children.is_empty()) {
        errors.push(DefinitionError::Empty);
    }
    if graph.deadline.is_some_and(|span| span.is_zero()) {
        errors.push(DefinitionError::NoTime { name: graph.name.clone() });
    }
    ambiguities(graph, errors);
    for node in &graph.nodes {
        let name = || node.name.clone();
        let no_time = match &node.kind {
            Kind::All { branches } if branches.len() < 2 => {
                errors
                    .push(DefinitionError::TooFewBranches { name: name(), count: branches.len() });
                false
            }
            Kind::Choose { arms, .. } if arms.is_empty() => {
                errors.push(DefinitionError::NoArm { name: name() });
                false
            }
            Kind::Step(step) => {
                let undo_within = match &step.way_back {
                    WayBack::Compensated { reply_within, .. } => *reply_within,
                    WayBack::Nothing { .. } | WayBack::Pivot | WayBack::Retriable => {
                        step.reply_within
                    }
                };
                let asked_within = step.status.as_ref().map(|status| status.reply_within);
                if step.status.is_some() && step.way_back == WayBack::Retriable {
                    errors.push(DefinitionError::StatusOfRetriable { name: name() });
                }
                [Some(step.reply_within), Some(undo_within), asked_within]
                    .into_iter()
                    .flatten()
                    .any(|span| span.is_zero())
            }
            Kind::Wait { within, .. } => within.is_zero(),
            Kind::Pause { span } => span.is_zero(),
            Kind::Sequence { .. }
            | Kind::All { .. }
            | Kind::Choose { .. }
            | Kind::Publish { .. } => false,
        };
        if no_time {
            errors.push(DefinitionError::NoTime { name: name() });
        }
    }
}

/// Every message has a name, and a channel to travel on.
fn messages(graph: &Graph, errors: &mut Vec<DefinitionError>) {
    let nameless = |at: &str, role: &'static str, name: &str| {
        is_blank(name).then(|| DefinitionError::NamelessMessage { name: at.into(), role })
    };
    for node in &graph.nodes {
        if let Kind::Step(step) = &node.kind {
            let undone = match &step.way_back {
                WayBack::Compensated { success, .. } => Some(success),
                WayBack::Nothing { .. } | WayBack::Pivot | WayBack::Retriable => None,
            };
            let answers = [
                ("success", Some(&step.success)),
                ("rejection", step.rejection.as_ref()),
                ("answer to the compensation", undone),
            ];
            let wrong = |(role, answer): (_, Option<&String>)| nameless(&node.name, role, answer?);
            errors.extend(answers.into_iter().filter_map(wrong));
        }
    }
    let of_saga = |role: &'static str| move |message| (graph.name.as_str(), role, message);
    let mut sent: Vec<(&str, &'static str, &MessageRef)> = Vec::new();
    sent.push(of_saga("start event")(&graph.start));
    sent.extend(graph.cancelled_by.iter().map(of_saga("cancelling event")));
    sent.extend(graph.ends.completed.iter().map(of_saga("event of its success")));
    sent.extend(graph.ends.failed.iter().map(of_saga("event of its failure")));
    for node in &graph.nodes {
        let name = node.name.as_str();
        match &node.kind {
            Kind::Step(step) => {
                sent.push((name, "command", &step.command));
                if let WayBack::Compensated { command, .. } = &step.way_back {
                    sent.push((name, "compensation", command));
                }
            }
            Kind::Wait { event, refusing, .. } => {
                sent.push((name, "event", event));
                sent.extend(refusing.iter().map(|event| (name, "refusing event", event)));
            }
            Kind::Publish { event } => sent.push((name, "event", event)),
            Kind::Sequence { .. } | Kind::All { .. } | Kind::Choose { .. } | Kind::Pause { .. } => {
            }
        }
    }
    for (at, role, message) in sent {
        errors.extend(nameless(at, role, &message.name));
        if is_blank(&message.channel) || message.channel.chars().any(char::is_whitespace) {
            errors.push(DefinitionError::Channel {
                name: at.into(),
                role,
                message: message.name.clone(),
                channel: message.channel.clone(),
            });
        }
    }
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

/// Every command is asked at least once, and what needs no way back says why.
fn policies(graph: &Graph, errors: &mut Vec<DefinitionError>) {
    for node in &graph.nodes {
        let Kind::Step(step) = &node.kind else { continue };
        let Step { retry, status, way_back, .. } = &**step;
        let mut asks = |retry: &Retry, leg: &'static str| {
            if retry.attempts_max == 0 {
                errors.push(DefinitionError::NoAttempt { name: node.name.clone(), leg });
            }
        };
        asks(retry, "command");
        if let Some(AskStatus { retry, .. }) = status {
            asks(retry, "question about its status");
        }
        match way_back {
            WayBack::Compensated { retry, .. } => asks(retry, "compensation"),
            WayBack::Nothing { reason } if is_blank(reason) => {
                errors.push(DefinitionError::NoReason { name: node.name.clone() });
            }
            WayBack::Nothing { .. } | WayBack::Pivot | WayBack::Retriable => {}
        }
    }
}

/// Messages are told apart by their names: where two meanings share a name, the first would always be taken.
fn ambiguities(graph: &Graph, errors: &mut Vec<DefinitionError>) {
    let cancels = |event: &str| graph.cancelled_by.iter().any(|known| known.name == event);
    for node in &graph.nodes {
        let name = || node.name.clone();
        match &node.kind {
            Kind::Wait { event, refusing, .. } => {
                let refused = refusing.as_ref().map(|refusing| refusing.name.as_str());
                let twice = refused == Some(event.name.as_str());
                if let Some(event) = refused
                    .filter(|event| twice || cancels(event))
                    .or_else(|| cancels(&event.name).then_some(&event.name))
                {
                    errors.push(DefinitionError::EventAmbiguous {
                        name: name(),
                        event: event.into(),
                    });
                }
            }
            Kind::Step(step) => {
                let undone = match &step.way_back {
                    WayBack::Compensated { success, .. } => Some(success),
                    WayBack::Nothing { .. } | WayBack::Pivot | WayBack::Retriable => None,
                };
                let replies = [Some(&step.success), step.rejection.as_ref(), undone];
                let ours = [Failure::NAME, StatusNotDone::NAME, StatusUnknown::NAME];
                let shared =
                    replies.into_iter().flatten().find(|reply| ours.contains(&reply.as_str()));
                let shared =
                    shared.or(step.rejection.as_ref().filter(|name| **name == step.success));
                if let Some(reply) = shared {
                    let reply = reply.clone();
                    errors.push(DefinitionError::ReplyAmbiguous { name: name(), reply });
                }
            }
            Kind::Sequence { .. }
            | Kind::All { .. }
            | Kind::Choose { .. }
            | Kind::Publish { .. }
            | Kind::Pause { .. } => {}
        }
    }
}

/// Whether the pivot lies behind, on the paths that lead to a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pivot {
    NotPassed,
    OnSomePaths,
    Passed,
}

struct Paths<'a> {
    graph: &'a Graph,
    errors: &'a mut Vec<DefinitionError>,
    parallel: Option<NodeId>,
}

impl Paths<'_> {
    /// What holds behind a node, given what holds before it.
    fn walk(&mut self, id: NodeId, before: Pivot) -> Pivot {
        let graph = self.graph;
        match &graph.node(id).kind {
            Kind::Sequence { children } => {
                children.iter().fold(before, |before, child| self.walk(*child, before))
            }
            Kind::All { branches } => {
                let outer = self.parallel.replace(id);
                for branch in branches {
                    self.walk(*branch, before);
                }
                self.parallel = outer;
                before
            }
            Kind::Choose { arms, otherwise } => {
                let mut after: Vec<Pivot> =
                    arms.iter().map(|arm| self.walk(arm.node, before)).collect();
                after.push(otherwise.map_or(before, |node| self.walk(node, before)));
                if after.iter().all(|way| *way == after[0]) { after[0] } else { Pivot::OnSomePaths }
            }
            Kind::Step(step) => self.step(id, &step.way_back, before),
            Kind::Wait { refusing, on_timeout, .. } => {
                if refusing.is_some() || *on_timeout == OnTimeout::Reject {
                    let mend = "let its timeout proceed and give it no refusing event, or move it before the pivot";
                    self.no_turning_back(id, before, "may refuse", mend);
                }
                before
            }
            Kind::Publish { .. } | Kind::Pause { .. } => before,
        }
    }

    fn step(&mut self, id: NodeId, way_back: &WayBack, before: Pivot) -> Pivot {
        let name = self.graph.name_of(id).to_owned();
        match way_back {
            WayBack::Pivot => {
                if let Some(parallel) = self.parallel {
                    let within = self.graph.name_of(parallel).to_owned();
                    self.errors.push(DefinitionError::PivotInParallel { name, within });
                    return before;
                }
                if before != Pivot::NotPassed {
                    self.errors.push(DefinitionError::SecondPivot { name });
                }
                Pivot::Passed
            }
            WayBack::Retriable => {
                if before != Pivot::Passed {
                    self.errors.push(DefinitionError::RetriableBeforePivot { name });
                }
                before
            }
            WayBack::Compensated { .. } | WayBack::Nothing { .. } => {
                self.no_turning_back(
                    id,
                    before,
                    "may fail",
                    "make it retriable, or move it before the pivot",
                );
                before
            }
        }
    }

    fn no_turning_back(
        &mut self,
        id: NodeId,
        before: Pivot,
        how: &'static str,
        mend: &'static str,
    ) {
        if before != Pivot::NotPassed {
            let name = self.graph.name_of(id).to_owned();
            self.errors.push(DefinitionError::TurnsBackAfterPivot { name, how, mend });
        }
    }
}
