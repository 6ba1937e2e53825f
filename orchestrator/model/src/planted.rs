//! Mistakes that can be planted into the decision, to see whether a simulation finds them. Without the feature `planted` there are none.
//!
//! What goes in: the mistake that is made on this thread, if one. What comes out: whether it is this one, where it would be made. What
//! must be true: without the feature the answer is a constant, and nothing of it is left in the code.

#[cfg(feature = "planted")]
use std::cell::Cell;

/// What can be decided wrongly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// A sequence is undone from its beginning.
    CompensatesForward,
    /// A step counts as undone though nobody was asked to undo it.
    CompensationNeverSent,
    /// A step in doubt is taken for one without effect.
    InDoubtNotCompensated,
    /// The reply to a step that is done is applied once more.
    ReplyAcceptedTwice,
    /// Whatever is next due is due already.
    TimerGenerationIgnored,
    /// An event that comes before its wait is not kept.
    EarlyEventDropped,
    /// The event that refuses lets the saga go on.
    RefusingEventIgnored,
    /// The event that withdraws a saga is taken for one that came too late.
    CancellationIgnored,
    /// Each attempt has an idempotency key of its own.
    NewKeyOnRetry,
    /// A further attempt has the number of the one before.
    AttemptNotCounted,
    /// A pivot in doubt turns the saga back.
    PivotTurnedBack,
    /// Whatever is answered to a question, the step is taken for not done.
    StatusAnswerIgnored,
    /// A further run of a key has the number of the one before.
    RunNotAdvanced,
    /// A compensation is given up without an incident.
    BlockedWithoutIncident,
    /// An event that was taken is taken again.
    EventTakenTwice,
}

#[cfg(feature = "planted")]
thread_local! {
    static PLANTED: Cell<Option<Mistake>> = const { Cell::new(None) };
}

/// Makes this mistake on this thread from now on, or none.
#[cfg(feature = "planted")]
pub fn plant(mistake: Option<Mistake>) {
    PLANTED.set(mistake);
}

/// Whether this mistake is to be made.
#[cfg(feature = "planted")]
pub fn is(mistake: Mistake) -> bool {
    PLANTED.get() == Some(mistake)
}

/// Whether this mistake is to be made: never.
#[cfg(not(feature = "planted"))]
pub const fn is(_: Mistake) -> bool {
    false
}
