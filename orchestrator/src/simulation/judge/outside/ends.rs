//! Ends: each is told once, is true, and leaves the world as it says.

use super::{
    Case, Known, Stand, is_compensatable, is_pivot, marks, paths,
    story::{Keyed, Moment},
};
use crate::simulation::Findings;
use dirigent_connectors::Message;
use dirigent_model::definition::{Graph, NodeId, WayBack};
use std::collections::BTreeSet;

pub(super) const BEGINS: &str = "every saga that was asked for begins";
pub(super) const TOLD_ONCE: &str = "every saga comes to an end, and tells it once";
pub(super) const TOLD_TRULY: &str = "what is told of an end is how it ended";
pub(super) const COMPLETED: &str = "what completed was done, all of it";
pub(super) const COMPENSATED: &str = "what was compensated was undone, all of it";
pub(super) const BEHIND_END: &str = "nothing is sent first behind the end";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Completed,
    Compensated,
}

/// Judges one key of a saga: it begins, and as many ends are told as there were runs.
pub(super) fn of_key(known: &Known<'_>, id: &str, keyed: &Keyed<'_>, findings: &mut Findings) {
    let (graph, stand) = (keyed.graph, known.stands.get(id));
    let who = format!("{} {} ({id})", graph.name, keyed.key);
    let has_begun = !keyed.ends.is_empty() || keyed.runs.values().any(|it| !it.commands.is_empty());
    let is_known = has_begun || stand.is_some();
    if !is_known && keyed.is_confirmed && graph.retention >= known.lasted {
        let handed = keyed.starts.len();
        findings.add(BEGINS, format!("{who} did not; {handed} starts were handed out"));
    }
    if !known.graphs.tells_alone(graph) {
        return;
    }
    let ids: BTreeSet<&str> = keyed.ends.iter().map(|(id, ..)| *id).collect();
    for id in &ids {
        let names: Vec<&str> =
            keyed.ends.iter().filter(|(known, ..)| known == id).map(|(_, name, _)| *name).collect();
        if names.len() > 1 {
            findings.add(TOLD_ONCE, format!("{who}: {id} tells {}", names.join(" and ")));
        }
    }
    let (told, begun) = (ids.len(), keyed.starts.len());
    if told > begun {
        let what = format!("{who}: {told} ends are told, and it was asked for {begun} times");
        findings.add(TOLD_ONCE, what);
    }
    let tells_both = graph.ends.completed.is_some() && graph.ends.failed.is_some();
    if tells_both && has_begun | stand.is_some() {
        let last = keyed.runs.keys().next_back().copied().unwrap_or_default();
        let is_open = stand.is_some_and(|stand| stand.run >= last && stand.is_open());
        let must = usize::try_from(last + 1).unwrap_or(usize::MAX) - usize::from(is_open);
        if told < must {
            let status = stand.map_or("not known any more", |stand| stand.status.as_str());
            let what = format!("{who}: {told} ends are told of {must}, and it is {status}");
            findings.add(TOLD_ONCE, what);
        }
    }
}

/// Judges how one run ended.
pub(super) fn judge(case: &mut Case<'_, '_>) {
    let told = told(case);
    let stand = case.known.stands.get(case.id).filter(|stand| stand.run == case.number);
    let seen = stand.and_then(seen);
    if let (Some((told, _)), Some(seen)) = (told, seen)
        && told != seen
    {
        case.find(TOLD_TRULY, format!("{told:?} is told, and people see {seen:?}"));
    }
    if let Some((_, at)) = told {
        for command in case.run.commands.iter().filter(|command| command.sent > at) {
            let step = marks::step(command.message);
            let is_forward = marks::leg(command.message) != "compensate";
            let given_up = is_forward && case.may_be_given_up(step, command.sent);
            if !given_up && !is_a_straggler(case, command.message, at) {
                case.find(BEHIND_END, marks::named(command.message));
            }
        }
    }
    match told.map(|(told, _)| told).or(seen) {
        Some(End::Completed) => completed(case),
        Some(End::Compensated) => compensated(case),
        None => {}
    }
}

/// Whether a command waited for its turn, or was on its way, while what it asks for was answered, before this moment: it may leave all the same, and is
/// answered the same.
pub(super) fn is_a_straggler(case: &Case<'_, '_>, message: &Message, at: Moment) -> bool {
    let graph = case.graph();
    let (step, leg) = (marks::step(message), marks::leg(message));
    let Some(node) = graph.find(step) else { return false };
    // However it was answered: it may lie in a window that its broker takes long for.
    let is_answered = case.run.replies.iter().any(|reply| {
        let of_step =
            marks::step(reply.message) == step && marks::leg(reply.message) != "compensate";
        of_step && reply.at < at
    });
    match (leg, graph.step(node).map(|step| &step.way_back)) {
        ("do", _) => is_answered && marks::attempt(message) > 1,
        ("status", _) => is_answered,
        (_, Some(WayBack::Compensated { success, .. })) => {
            let told = [success.as_str()];
            case.run.replies_to(step, leg, &told).any(|reply| reply.at < at)
                && marks::attempt(message) > 1
        }
        _ => false,
    }
}

fn seen(stand: &Stand) -> Option<End> {
    match stand.status.as_str() {
        "completed" => Some(End::Completed),
        "compensated" => Some(End::Compensated),
        _ => None,
    }
}

/// The end that is told of this run, and when: the ends of a key's runs are told in their order, where all of them are told.
fn told(case: &Case<'_, '_>) -> Option<(End, usize)> {
    let (graph, keyed) = (case.graph(), case.keyed);
    let tells_both = graph.ends.completed.is_some() && graph.ends.failed.is_some();
    if !case.known.graphs.tells_alone(graph) || !tells_both && keyed.starts.len() > 1 {
        return None;
    }
    let number = usize::try_from(case.number).ok()?;
    let (_, name, at) = keyed.ends.get(number)?;
    let completed = graph.ends.completed.as_ref().is_some_and(|event| event.name == *name);
    Some((if completed { End::Completed } else { End::Compensated }, *at))
}

fn completed(case: &mut Case<'_, '_>) {
    let graph = case.graph();
    let asked = case.run.asked(graph, "do");
    for node in steps(graph) {
        let name = graph.name_of(node);
        let (done, undone) = case.effect(node);
        let (is_asked, is_witnessed) = (asked.contains(&node), case.is_witnessed(node));
        if paths::is_on_every_way(graph, node) && !is_asked {
            case.find(COMPLETED, format!("{name} was never asked for"));
        }
        if is_asked && case.run.done(graph, node).is_none() {
            case.find(COMPLETED, format!("{name} was never answered as done"));
        }
        if is_asked && is_witnessed && done == 0 {
            case.find(COMPLETED, format!("{name} has not taken effect"));
        }
        if undone > 0 || case.run.first(name, "compensate").is_some() {
            case.find(COMPLETED, format!("{name} was compensated"));
        }
    }
}

fn compensated(case: &mut Case<'_, '_>) {
    let graph = case.graph();
    for node in steps(graph) {
        let name = graph.name_of(node);
        let (done, undone) = case.effect(node);
        if let Some(WayBack::Compensated { success, .. }) =
            graph.step(node).map(|step| &step.way_back)
        {
            let is_done = case.run.done(graph, node).is_some();
            let is_undone = case.run.first(name, "compensate").is_some();
            let is_answered = case.run.replies_to(name, "compensate", &[success]).next().is_some();
            if (is_done || is_undone) && !is_answered {
                case.find(COMPENSATED, format!("no compensation of {name} was answered"));
            }
        }
        if is_compensatable(graph, node) && done > undone {
            case.find(COMPENSATED, format!("{name} stands"));
        }
        if is_pivot(graph, node) && (done > 0 || case.run.done(graph, node).is_some()) {
            case.find(COMPENSATED, format!("{name}, behind which nothing turns back, was done"));
        }
    }
}

fn steps(graph: &Graph) -> Vec<NodeId> {
    graph.ids().filter(|node| graph.step(*node).is_some()).collect()
}
