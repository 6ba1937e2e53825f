//! Names: the same id is the same message, the same key the same effect, and attempts are counted.

use super::{
    Case, marks,
    story::{Command, Moment, Story},
};
use crate::simulation::Findings;
use dirigent_connectors::{Message, names};
use dirigent_model::definition::WayBack;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

pub(super) const ONE_MESSAGE: &str = "a message id always means the same message";
pub(super) const ONE_EFFECT: &str = "an idempotency key always means the same command";
pub(super) const COUNTED: &str = "attempts are counted from one without a gap";
pub(super) const IN_TIME: &str =
    "nothing is asked again before it was answered or its time was over";

/// Judges all that the orchestrator sent.
pub(super) fn judge(story: &Story<'_>, findings: &mut Findings) {
    let mut messages: BTreeMap<&str, &Message> = BTreeMap::new();
    let mut effects: BTreeMap<&str, &Message> = BTreeMap::new();
    let twice: BTreeSet<&str> = story
        .sagas
        .values()
        .filter(|keyed| keyed.may_be_two())
        .map(|keyed| keyed.key.as_str())
        .collect();
    for message in story.ours.iter().filter(|message| !twice.contains(message.key.as_str())) {
        let first = *messages.entry(marks::id(message)).or_insert(message);
        if !is_same(first, message) {
            findings.add(ONE_MESSAGE, format!("{} and {}", told(first), told(message)));
        }
        if !marks::is_command(message) {
            continue;
        }
        let first = *effects.entry(marks::effect(message)).or_insert(message);
        if !is_one_effect(first, message) {
            let key = marks::effect(message);
            findings.add(ONE_EFFECT, format!("{key}: {} and {}", told(first), told(message)));
        }
    }
}

/// Whether two messages say the same. Asked again after its destination held it, an attempt is made anew, at another time, from what its saga
/// has learnt by then: that may change its body, for which see [`attempts`].
fn is_same(first: &Message, second: &Message) -> bool {
    let says = |message: &Message| {
        let attributes = message.attributes.iter().filter(|(name, _)| *name != names::TIME);
        attributes
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect::<BTreeSet<(String, String)>>()
    };
    let is_made_anew = marks::is_command(first) && marks::made_at(first) != marks::made_at(second);
    std::ptr::eq(first, second)
        || (&first.channel, &first.key) == (&second.channel, &second.key)
            && (first.body == second.body || is_made_anew)
            && says(first) == says(second)
}

/// Whether two commands ask for the same effect, whichever attempt they are. What they say of it may change with what the saga has
/// learnt meanwhile: see [`attempts`].
fn is_one_effect(first: &Message, second: &Message) -> bool {
    let asks = |message: &Message| {
        let saga = marks::saga(message).map(|(saga, run)| (saga.to_owned(), run));
        let named = [marks::step(message), marks::leg(message), marks::name(message)];
        (saga, named.map(ToOwned::to_owned), message.channel.clone())
    };
    asks(first) == asks(second)
}

fn told(message: &Message) -> String {
    format!("{} {}", marks::named(message), String::from_utf8_lossy(&message.body))
}

/// Judges the attempts of one run: each has the next number, and says what the one before said, unless the saga has learnt something since that was made.
pub(super) fn attempts(case: &mut Case<'_, '_>) {
    let mut last: BTreeMap<&str, &Message> = BTreeMap::new();
    for command in &case.run.commands {
        let message = command.message;
        let before = last.insert(marks::effect(message), message);
        let (attempt, number) = (marks::attempt(message), before.map_or(0, marks::attempt));
        let named = marks::named(message);
        let is_gap = attempt > number + 1;
        let given_up = is_gap && case.may_be_given_up(marks::step(message), command.sent);
        if attempt != number + 1 && !given_up {
            case.find(COUNTED, format!("{named} was sent first behind attempt {number}"));
        }
        if let Some(before) = before.filter(|before| !is_over(case, before, command)) {
            let before = marks::named(before);
            case.find(IN_TIME, format!("{named} came too soon behind {before}"));
        }
        if let Some(before) = before.filter(|before| before.body != message.body)
            && !has_learnt(case, marks::made_at(before), command.sent)
        {
            case.find(ONE_EFFECT, format!("{} and {}", told(before), told(message)));
        }
    }
}

/// Whether an attempt was through when the next one was made: something was answered to its command, nobody had taken it in, or its time was over.
fn is_over(case: &Case<'_, '_>, before: &Message, next: &Command<'_>) -> bool {
    let graph = case.graph();
    let (step, leg) = (marks::step(before), marks::leg(before));
    let Some(of_step) = graph.find(step).and_then(|node| graph.step(node)) else { return true };
    let within = match (leg, &of_step.way_back, &of_step.status) {
        ("compensate", WayBack::Compensated { reply_within, .. }, _) => *reply_within,
        ("status", _, Some(status)) => status.reply_within,
        _ => of_step.reply_within,
    };
    let made = (case.known.begins, marks::made_at(before), marks::made_at(next.message));
    let (Some(_), Some(made), Some(made_next)) = made else { return true };
    let is_answer = |message: &Message| (marks::step(message), marks::leg(message)) == (step, leg);
    let was_taken_in = |it: &&Command<'_>| it.stored.is_some_and(|stored| stored < next.sent);
    made_next + 1 >= made + marks::millis(within)
        || case.run.replies.iter().any(|it| it.at < next.sent && is_answer(it.message))
        || !case
            .run
            .of(step, leg)
            .filter(was_taken_in)
            .any(|it| marks::id(it.message) == marks::id(before))
}

/// Whether the saga may have heard anything after the first moment by its clock, and before the second.
fn has_learnt(case: &Case<'_, '_>, from: Option<u64>, until: Moment) -> bool {
    let (Some(begins), Some(from)) = (case.known.begins, from) else { return true };
    let is_later = |settled: Duration| begins + marks::millis(settled) >= from;
    let mut replies = case.run.replies.iter().filter(|reply| reply.at < until);
    // An event that came early is taken in when its wait opens.
    case.keyed.events.iter().any(|event| event.at < until)
        || replies.any(|reply| reply.settled.is_none_or(|(_, settled)| is_later(settled)))
}
