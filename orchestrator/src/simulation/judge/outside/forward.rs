//! Forward: what a step waits for was there before it was asked for.

use super::{Case, marks, paths};
use dirigent_model::definition::{Kind, NodeId, OnTimeout};

pub(super) const NOT_BEGUN: &str = "no command before its saga was asked for";
pub(super) const TOO_EARLY: &str = "no step is asked for before what it depends on is there";
pub(super) const ONE_WAY: &str = "a choice takes one way";
pub(super) const UNKNOWN: &str = "every command is one of its saga's";

/// Judges what was asked for in one run.
pub(super) fn judge(case: &mut Case<'_, '_>) {
    belongs_to_its_saga(case);
    let graph = case.graph();
    for node in case.run.asked(graph, "do") {
        let Some(asked) = case.run.first(graph.name_of(node), "do") else { continue };
        let begun = case.keyed.starts.iter().filter(|start| start.at < asked).count() as u64;
        if begun <= case.number {
            let step = graph.name_of(node);
            case.find(NOT_BEGUN, format!("{step}, with {begun} starts handed out before"));
        }
        for before in graph.ids() {
            waits_for(case, node, asked, before);
        }
    }
    for choice in graph.ids().filter(|node| matches!(graph.node(*node).kind, Kind::Choose { .. })) {
        takes_one_way(case, choice);
    }
}

fn belongs_to_its_saga(case: &mut Case<'_, '_>) {
    for command in &case.run.commands {
        let node = case.graph().find(marks::step(command.message));
        let step = node.and_then(|node| case.graph().step(node));
        let is_own = match (step, marks::leg(command.message)) {
            (None, _) => false,
            (Some(step), "do") => super::is_this(&step.command, command.message),
            (Some(step), "status") => {
                step.status.is_some() && step.command.channel == command.message.channel
            }
            (Some(step), "compensate") => match &step.way_back {
                dirigent_model::definition::WayBack::Compensated { command: undo, .. } => {
                    super::is_this(undo, command.message)
                }
                _ => false,
            },
            (Some(_), _) => false,
        };
        if !is_own {
            case.find(UNKNOWN, marks::named(command.message));
        }
    }
}

/// Whether what stands before a step was through when it was asked for.
fn waits_for(case: &mut Case<'_, '_>, node: NodeId, asked: usize, before: NodeId) {
    let graph = case.graph();
    let is_certain = paths::must_follow(graph, before, node);
    let (step, first) = (graph.name_of(node), graph.name_of(before));
    match &graph.node(before).kind {
        Kind::Step(_) => {
            let was_asked = case.run.first(first, "do").is_some_and(|sent| sent < asked);
            let is_due = is_certain || was_asked && paths::follows(graph, before, node);
            if is_due && case.run.done(graph, before).is_none_or(|done| done > asked) {
                case.find(TOO_EARLY, format!("{step} was asked for, and {first} was not done"));
            }
        }
        Kind::Wait { event, on_timeout: OnTimeout::Reject, .. } if is_certain => {
            let mut events = case.keyed.events.iter();
            if !events.any(|it| marks::name(it.message) == event.name && it.at < asked) {
                case.find(TOO_EARLY, format!("{step} was asked for, and {event} had not come"));
            }
        }
        Kind::Pause { span } if is_certain => {
            let number = usize::try_from(case.number).unwrap_or(usize::MAX);
            let started = case.keyed.starts.get(number).map(|start| marks::millis(start.after));
            let made = case.run.of(step, "do").next().and_then(|it| marks::made_at(it.message));
            if let (Some(begins), Some(started), Some(made)) = (case.known.begins, started, made)
                && made + 1 < begins + started + marks::millis(*span)
            {
                case.find(TOO_EARLY, format!("{step} was asked for, and {first} was not over"));
            }
        }
        _ => {}
    }
}

fn takes_one_way(case: &mut Case<'_, '_>, choice: NodeId) {
    let graph = case.graph();
    let asked = case.run.asked(graph, "do");
    let taken: Vec<&str> = graph
        .children(choice)
        .into_iter()
        .filter_map(|arm| {
            let inside = paths::inside(graph, arm);
            asked.iter().find(|node| inside.contains(node)).map(|node| graph.name_of(*node))
        })
        .collect();
    if taken.len() > 1 {
        let taken = taken.join(" and ");
        case.find(ONE_WAY, format!("{taken} were asked for, which lie on different ways"));
    }
}
