//! What a turn leaves behind beside the instance: its part of the tally, what became of the message, and the words of a dead letter.

use super::{accounts::Count, batch::Touched};
use crate::envelope::DeadLetter;
use dirigent_model::{
    decision::Unreadable,
    history::Verdict,
    instance::{Instance, Status},
    time::Timestamp,
};

/// What an instance was before an input.
#[derive(Default)]
pub(super) struct Before {
    pub(super) started: bool,
    pub(super) ended: bool,
    pub(super) blocked: bool,
    pub(super) due: Option<Timestamp>,
}

impl Before {
    pub(super) fn of(instance: &Instance, due: Option<Timestamp>) -> Self {
        let core = &instance.core;
        let (ended, blocked) = (core.status.is_end(), core.is_blocked());
        Self { started: false, ended, blocked, due }
    }
}

pub(super) fn note_tally(
    touched: &mut Touched,
    instance: &Instance,
    before: &Before,
    ended: Option<Status>,
) {
    let core = &instance.core;
    let tally = &mut touched.tally;
    tally.started |= before.started;
    tally.ended = ended.or(tally.ended);
    if before.started || ended.is_some() {
        tally.release = Some((core.definition.clone(), core.version, core.fingerprint.0));
    }
    match (before.blocked, core.is_blocked()) {
        (false, true) if tally.became_unblocked => tally.became_unblocked = false,
        (true, false) if tally.became_blocked => tally.became_blocked = false,
        (false, true) => tally.became_blocked = true,
        (true, false) => tally.became_unblocked = true,
        (false, false) | (true, true) => {}
    }
}

pub(super) fn count_of(verdict: Verdict) -> Count {
    match verdict {
        // An event that is kept for a later wait is a part of its instance from then on.
        Verdict::Applied | Verdict::Deferred => Count::Applied,
        Verdict::Duplicate => Count::Duplicate,
        Verdict::Ignored(_) => Count::Ignored,
    }
}

pub(super) fn unreadable_letter(unreadable: &Unreadable) -> DeadLetter {
    let reason = match unreadable {
        Unreadable::Body(_) => "undecodable",
        Unreadable::UnknownReply { .. } => "unknown-reply",
        Unreadable::NoSuchCommand { .. } => "unknown-step",
    };
    let text = match std::error::Error::source(unreadable) {
        Some(cause) => format!("{unreadable}: {cause}"),
        None => unreadable.to_string(),
    };
    DeadLetter { reason, text }
}

/// Characters of what a function said as it panicked: the value it could not handle may be in it.
const PANIC_CHARS_MAX: usize = 400;

pub(crate) fn panic_letter(panic: &(dyn std::any::Any + Send)) -> DeadLetter {
    let said = panic.downcast_ref::<&str>().copied();
    let said = said
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)");
    let said: String = said.chars().take(PANIC_CHARS_MAX).collect();
    let text = format!("the saga's own function panicked: {said}");
    DeadLetter { reason: "handler-panicked", text }
}
