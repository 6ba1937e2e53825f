//! Names: the same id is the same message, the same key the same effect, and attempts are counted.

use super::{Case, marks, story::Story};
use crate::simulation::Findings;
use dirigent_connectors::{Message, names};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const ONE_MESSAGE: &str = "a message id always means the same message";
pub(super) const ONE_EFFECT: &str = "an idempotency key always means the same command";
pub(super) const COUNTED: &str = "attempts are counted from one without a gap";

/// Judges all that the orchestrator sent.
pub(super) fn judge(story: &Story<'_>, findings: &mut Findings) {
    let mut messages: BTreeMap<&str, &Message> = BTreeMap::new();
    let mut effects: BTreeMap<&str, &Message> = BTreeMap::new();
    for message in &story.ours {
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

/// Whether two messages say the same. Asked again after its destination held it, an attempt is made anew, at another time.
fn is_same(first: &Message, second: &Message) -> bool {
    let says = |message: &Message| {
        let attributes = message.attributes.iter().filter(|(name, _)| *name != names::TIME);
        attributes
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect::<BTreeSet<(String, String)>>()
    };
    std::ptr::eq(first, second)
        || (&first.channel, &first.key, &first.body) == (&second.channel, &second.key, &second.body)
            && says(first) == says(second)
}

/// Whether two commands ask for the same effect, whichever attempt they are.
fn is_one_effect(first: &Message, second: &Message) -> bool {
    let asks = |message: &Message| {
        let saga = marks::saga(message).map(|(saga, run)| (saga.to_owned(), run));
        let named = [marks::step(message), marks::leg(message), marks::name(message)];
        (saga, named.map(ToOwned::to_owned), message.channel.clone(), message.body.clone())
    };
    asks(first) == asks(second)
}

fn told(message: &Message) -> String {
    format!("{} {}", marks::named(message), String::from_utf8_lossy(&message.body))
}

/// Judges the attempts of one run.
pub(super) fn attempts(case: &mut Case<'_, '_>) {
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for command in &case.run.commands {
        let attempt = marks::attempt(command.message);
        let before = last.insert(marks::effect(command.message), attempt).unwrap_or_default();
        if attempt != before + 1 {
            let named = marks::named(command.message);
            case.find(COUNTED, format!("{named} was sent first behind attempt {before}"));
        }
    }
}
