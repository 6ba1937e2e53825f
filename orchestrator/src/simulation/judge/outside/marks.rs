//! What a message says about itself, as anybody at a broker can read it.

use crate::{
    envelope::{DEAD_REASON, SAGA_ATTEMPT, SAGA_ID, SAGA_LEG, SAGA_RUN, SAGA_STEP},
    simulation::process::APP,
};
use dirigent_connectors::{Message, names};
use std::time::Duration;

/// Whether the orchestrator made it.
pub(in crate::simulation::judge) fn is_ours(message: &Message) -> bool {
    let source = message.attributes.get(names::SOURCE);
    is_dead_letter(message) && message.channel.starts_with(APP)
        || source.and_then(|source| source.strip_prefix("/dirigent/")) == Some(APP)
            && !is_dead_letter(message)
}

/// Whether it was set aside by somebody.
pub(in crate::simulation::judge) fn is_dead_letter(message: &Message) -> bool {
    message.attributes.get(DEAD_REASON).is_some()
}

/// Whether it is a command of the orchestrator.
pub(super) fn is_command(message: &Message) -> bool {
    is_ours(message) && saga(message).is_some() && !is_dead_letter(message)
}

/// Its id.
pub(in crate::simulation::judge) fn id(message: &Message) -> &str {
    message.attributes.get(names::ID).unwrap_or_default()
}

/// Its type.
pub(super) fn name(message: &Message) -> &str {
    message.attributes.get(names::TYPE).unwrap_or_default()
}

/// The instance it is about, and the run of its key.
pub(in crate::simulation::judge) fn saga(message: &Message) -> Option<(&str, u64)> {
    let saga = message.attributes.get(SAGA_ID)?;
    let run = message.attributes.get(SAGA_RUN).and_then(|run| run.parse().ok());
    Some((saga, run.unwrap_or_default()))
}

/// The step it is about.
pub(super) fn step(message: &Message) -> &str {
    message.attributes.get(SAGA_STEP).unwrap_or_default()
}

/// Which way it goes.
pub(super) fn leg(message: &Message) -> &str {
    message.attributes.get(SAGA_LEG).unwrap_or("do")
}

/// Which attempt it is.
pub(super) fn attempt(message: &Message) -> u64 {
    let attempt = message.attributes.get(SAGA_ATTEMPT).and_then(|attempt| attempt.parse().ok());
    attempt.unwrap_or_default()
}

/// The key of the effect it asks for.
pub(super) fn effect(message: &Message) -> &str {
    message.attributes.get(names::IDEMPOTENCY_KEY).unwrap_or_default()
}

/// When it was made, in milliseconds since 1970; none where it does not say.
pub(super) fn made_at(message: &Message) -> Option<u64> {
    read_time(message.attributes.get(names::TIME)?)
}

/// A span as times count it.
pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// What people call it.
pub(in crate::simulation::judge) fn named(message: &Message) -> String {
    let (name, id) = (name(message), id(message));
    match saga(message) {
        Some((saga, run)) => {
            let (step, leg, attempt) = (step(message), leg(message), attempt(message));
            format!("{name} ({leg} {step}, attempt {attempt}, of {saga} in run {run}, {id})")
        }
        None => format!("{name} of {} ({id})", message.key),
    }
}

/// RFC 3339 in UTC, with milliseconds.
fn read_time(text: &str) -> Option<u64> {
    let number = |from, to| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let milli = number(20, 23)?;
    // Years that begin in March, so that the odd day comes last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leaps = year / 4 - year / 100 + year / 400;
    let days = (365 * year + leaps + (153 * month + 2) / 5 + day).checked_sub(719_469)?;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000 + milli)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dirigent_model::time::Timestamp;

    #[test]
    fn a_time_is_read_as_it_was_written() {
        for millis in [0, 1_767_225_600_000, 1_772_409_599_999, 951_782_400_123] {
            assert_eq!(read_time(&Timestamp(millis).to_string()), Some(millis));
        }
        assert_eq!(read_time("yesterday"), None);
    }
}
