//! Backward: only with a reason, only what was sent, the latest first, and nothing forward any more.

use super::{
    Case, ends, is_compensatable, is_pivot, marks, paths,
    story::{Command, Heard, Moment},
};
use dirigent_model::{
    definition::{Kind, NodeId, OnTimeout, WayBack},
    message::{Failure, FailureEffect, Message as _, StatusNotDone, StatusUnknown},
};
use std::time::Duration;

pub(super) const WITHOUT_REASON: &str = "nothing is compensated without a reason to turn back";
pub(super) const NEVER_SENT: &str = "only what was sent is compensated";
pub(super) const NO_EFFECT: &str = "what had no effect for certain is not compensated";
pub(super) const ATTEMPT_BEHIND: &str =
    "no attempt of a step is sent first behind its compensation";
pub(super) const FORWARD_BEHIND: &str = "nothing forward is begun behind the first compensation";
pub(super) const REVERSE: &str = "compensations begin in reverse order of dependency";
pub(super) const BEHIND_PIVOT: &str = "behind the pivot nothing is compensated";

/// Judges what was taken back in one run.
pub(super) fn judge(case: &mut Case<'_, '_>) {
    let graph = case.graph();
    let undone = case.run.asked(graph, "compensate");
    let first = |case: &Case<'_, '_>, node| case.run.first(graph.name_of(node), "compensate");
    let Some(turned) = undone.iter().filter_map(|node| first(case, *node)).min() else { return };
    has_a_reason(case, turned);
    for node in &undone {
        let Some(at) = first(case, *node) else { continue };
        was_sent(case, *node, at);
        may_have_taken_effect(case, *node);
        goes_last(case, *node, at);
    }
    for pivot in graph.ids().filter(|node| is_pivot(graph, *node)) {
        if case.run.done(graph, pivot).is_some() {
            let (pivot, step) = (graph.name_of(pivot), first_step(case, turned));
            case.find(BEHIND_PIVOT, format!("{step} was, and {pivot} is done"));
        }
    }
    for command in case.run.commands.iter().filter(|it| it.sent > turned) {
        let (leg, step) = (marks::leg(command.message), marks::step(command.message));
        let is_undone = graph.find(step).is_some_and(|node| undone.contains(&node));
        let behind = case.run.first(step, "compensate").is_some_and(|at| command.sent > at);
        let named = marks::named(command.message);
        match leg {
            "do" if is_undone && behind => case.find(ATTEMPT_BEHIND, named),
            // It waited while the one before was answered, and is answered the same.
            "do" | "status" if ends::is_a_straggler(case, command.message, command.sent) => {}
            "do" | "status" if case.may_be_given_up(step, command.sent) => {}
            "do" | "status" => {
                let step = first_step(case, turned);
                case.find(FORWARD_BEHIND, format!("{named}, behind the compensation of {step}"));
            }
            _ => {}
        }
    }
}

fn first_step<'s>(case: &Case<'_, 's>, turned: Moment) -> &'s str {
    let first = case.run.commands.iter().find(|command| command.sent == turned);
    first.map_or("?", |command| marks::step(command.message))
}

fn was_sent(case: &mut Case<'_, '_>, node: NodeId, at: Moment) {
    let step = case.graph().name_of(node);
    let was_sent = case.run.first(step, "do").is_some_and(|sent| sent < at);
    if !was_sent && !case.may_be_given_up(step, at) {
        case.find(NEVER_SENT, format!("{step} was never asked for, and is compensated"));
    }
}

/// Something was heard that turns a saga back, or enough time had passed for it.
fn has_a_reason(case: &mut Case<'_, '_>, turned: Moment) {
    let graph = case.graph();
    let is_trouble = |reply: &Heard<'_>| {
        let name = marks::name(reply.message);
        let step = graph.find(marks::step(reply.message)).and_then(|node| graph.step(node));
        let rejection = step.and_then(|step| step.rejection.as_deref());
        [Failure::NAME, StatusNotDone::NAME, StatusUnknown::NAME].contains(&name)
            || rejection == Some(name)
    };
    let refuses = |event: &Heard<'_>| {
        let name = marks::name(event.message);
        graph.cancelled_by.iter().any(|cancels| cancels.name == name)
            || graph.nodes.iter().any(|node| match &node.kind {
                Kind::Wait { refusing: Some(refusing), .. } => refusing.name == name,
                _ => false,
            })
    };
    let heard = case.run.replies.iter().any(|reply| reply.at < turned && is_trouble(reply))
        || case.keyed.events.iter().any(|event| event.at < turned && refuses(event));
    // One that nobody took in: the broker refused it, or it is not known.
    let is_lost = case.run.commands.iter().any(|command| command.stored.is_none());
    if !heard && !is_lost && !time_ran_out(case, turned) {
        let step = first_step(case, turned);
        case.find(WITHOUT_REASON, format!("{step} is compensated, and nothing had gone wrong"));
    }
}

/// Whether something may have come too late when the first compensation was made.
fn time_ran_out(case: &Case<'_, '_>, turned: Moment) -> bool {
    let graph = case.graph();
    let Some(begins) = case.known.begins else { return true };
    let first = case.run.commands.iter().find(|command| command.sent == turned);
    let Some(made) = first.and_then(|command| marks::made_at(command.message)) else { return true };
    let passed =
        |since: u64, span: Duration| Duration::from_millis(made.saturating_sub(since) + 1) >= span;
    let number = usize::try_from(case.number).unwrap_or(usize::MAX);
    let Some(start) = case.keyed.starts.get(number) else { return true };
    let started = begins + marks::millis(start.after);
    let an_attempt =
        graph.ids().filter_map(|node| Some((node, graph.step(node)?))).any(|(node, step)| {
            let asked = made_first(case.run.of(graph.name_of(node), "do"));
            asked.is_some_and(|asked| passed(asked, step.reply_within))
        });
    let a_wait = graph.nodes.iter().any(|node| match &node.kind {
        Kind::Wait { within, on_timeout: OnTimeout::Reject, .. } => passed(started, *within),
        _ => false,
    });
    an_attempt || a_wait || graph.deadline.is_some_and(|deadline| passed(started, deadline))
}

fn made_first<'a, 's: 'a>(commands: impl Iterator<Item = &'a Command<'s>>) -> Option<u64> {
    commands.filter_map(|command| marks::made_at(command.message)).min()
}

/// A step whose only attempt was answered in time by a refusal, or by a failure without effect, is not compensated.
fn may_have_taken_effect(case: &mut Case<'_, '_>, node: NodeId) {
    let graph = case.graph();
    let (name, Some(begins)) = (graph.name_of(node), case.known.begins) else { return };
    let Some(step) = graph.step(node) else { return };
    let [attempt] = &case.run.of(name, "do").collect::<Vec<_>>()[..] else { return };
    let undone = made_first(case.run.of(name, "compensate"));
    let (Some(asked), Some(undone)) = (marks::made_at(attempt.message), undone) else { return };
    let is_certain = |reply: &&Heard<'_>| {
        let told = marks::name(reply.message);
        step.rejection.as_deref() == Some(told) || told == Failure::NAME && is_without_effect(reply)
    };
    let of_step = |reply: &&Heard<'_>| {
        marks::step(reply.message) == name && marks::leg(reply.message) == "do"
    };
    let settled = case.run.replies.iter().filter(of_step).filter(is_certain).filter_map(|reply| {
        let settled = begins + marks::millis(reply.settled?.1);
        let in_time = settled < asked + marks::millis(step.reply_within) && settled < undone;
        in_time.then(|| marks::named(reply.message))
    });
    let settled = settled.collect::<Vec<_>>().pop();
    if let Some(reply) = settled.filter(|_| case.run.done(graph, node).is_none()) {
        case.find(NO_EFFECT, format!("{name} is, and had been answered by {reply}"));
    }
}

fn is_without_effect(reply: &Heard<'_>) -> bool {
    let failure = serde_json::from_slice::<Failure>(&reply.message.body);
    failure.is_ok_and(|failure| failure.effect == FailureEffect::None)
}

/// What depends on a step was undone before, if it took effect or may have.
fn goes_last(case: &mut Case<'_, '_>, node: NodeId, at: Moment) {
    let graph = case.graph();
    for later in graph.ids().filter(|later| is_compensatable(graph, *later)) {
        if !paths::follows(graph, node, later) {
            continue;
        }
        let Some(WayBack::Compensated { success, .. }) =
            graph.step(later).map(|step| &step.way_back)
        else {
            continue;
        };
        let (step, name) = (graph.name_of(node), graph.name_of(later));
        let was_done = case.run.done(graph, later).is_some_and(|done| done < at);
        let is_undone = case.run.first(name, "compensate").is_some();
        let told = [success.as_str()];
        let answered = case.run.replies_to(name, "compensate", &told).any(|reply| reply.at < at);
        if (was_done || is_undone) && !answered {
            case.find(REVERSE, format!("{step} before {name}, which depends on it, was undone"));
        }
    }
}
