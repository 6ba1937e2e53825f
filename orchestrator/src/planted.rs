//! Bugs that can be planted into the engine and the participant kit, to see whether the simulation finds each of them.
//!
//! What goes in: the bug that is planted on this thread, if one. What comes out: whether it is this one, asked at the place where the mistake
//! would be made. What must be true: without the feature `planted` the answer is a constant, and nothing of it is left in the code; with it, what no
//! bug was planted into runs as ever. Bugs of the pure decision are made in [`dirigent_model::planted`].

#[cfg(feature = "planted")]
use dirigent_model::planted::{self as model, Mistake};
#[cfg(feature = "planted")]
use std::cell::Cell;

macro_rules! bugs {
    (@mistake) => { None };
    (@mistake $mistake:ident) => { Some(Mistake::$mistake) };
    ($(#[doc = $what:literal] $bug:ident, $name:literal $(, decides $mistake:ident)?;)*) => {
        /// What can be planted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Bug {
            $(#[doc = $what] $bug,)*
        }

        #[cfg(feature = "planted")]
        impl Bug {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$bug,)*];

            /// As on a command line.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$bug => $name,)*
                }
            }

            /// What goes wrong.
            pub fn what(self) -> &'static str {
                let what = match self {
                    $(Self::$bug => $what,)*
                };
                what.trim()
            }

            const fn mistake(self) -> Option<Mistake> {
                match self {
                    $(Self::$bug => bugs!(@mistake $($mistake)?),)*
                }
            }
        }
    };
}

bugs! {
    // The commit.
    /// Inputs are settled before their group is durable.
    SettlesBeforeDurable, "settles-before-durable";
    /// Messages leave before their group is durable.
    SendsBeforeDurable, "sends-before-durable";
    /// The journal is written and not synced before a commit is told.
    JournalNotSynced, "journal-not-synced";
    /// What an instance sends in one group leaves in reverse order.
    CommandsReversed, "commands-reversed";

    // The journal.
    /// A full segment is left without a sync.
    RollsUnsynced, "rolls-unsynced";
    /// A new segment's name is not synced.
    NamesNotSynced, "names-not-synced";
    /// All segments have the same nonce, so that bytes of an earlier life pass as records.
    NonceReused, "nonce-reused";
    /// A record is read without a look at its checksum.
    TornTailAccepted, "torn-tail-accepted";
    /// A segment is given up with groups that are still needed.
    RetiresTooEarly, "retires-too-early";
    /// Groups are given up whose messages no broker has confirmed.
    UnconfirmedNotKept, "unconfirmed-not-kept";

    // Checkpoint and recovery.
    /// The first group behind the checkpoint is not folded.
    RecoverySkipsGroup, "recovery-skips-group";
    /// What was not confirmed before a restart is not sent after it.
    OutboxNotSentAgain, "outbox-not-sent-again";
    /// Positions are not written with their group.
    PositionsNotJournaled, "positions-not-journaled";
    /// Reading goes on one message too far after a restart.
    PositionsTooFar, "positions-too-far";
    /// What was due is not recalled at a restart.
    TimersLostAtRecovery, "timers-lost-at-recovery";
    /// A checkpoint leaves out when its instances are due.
    TimersNotCheckpointed, "timers-not-checkpointed";
    /// A checkpoint lets go of times that are near, which nobody reads from the store again.
    TimersForgotten, "timers-forgotten";
    /// A checkpoint writes instances before their times.
    InstancesBeforeTimes, "instances-before-times";
    /// A checkpoint leaves out messages that are kept.
    KeptNotCheckpointed, "kept-not-checkpointed";
    /// A checkpoint is called complete before the store has synced.
    CheckpointNotSynced, "checkpoint-not-synced";
    /// A checkpoint writes its mark before what the mark stands for.
    MarkBeforeData, "mark-before-data";
    /// The mark of a checkpoint covers a group more than was written.
    MarkTooFar, "mark-too-far";
    /// A live saga is forgotten once the time is over for which one that has ended is kept.
    RetentionRemovesLive, "retention-removes-live";

    // The relay.
    /// The watermark is written down one message too far.
    WatermarkTooFar, "watermark-too-far";
    /// The watermark moves up to the highest confirmed message, over those below that are not.
    WatermarkIsTheHighest, "watermark-is-the-highest";
    /// One confirm of a window counts for all of its messages.
    SentByOneConfirm, "sent-by-one-confirm";
    /// What could not be sent counts as sent.
    UnsentTakenForSent, "unsent-taken-for-sent";
    /// What nobody knows the fate of counts as confirmed.
    UnknownTakenForConfirmed, "unknown-taken-for-confirmed";
    /// A process that was taken over goes on sending.
    FenceIgnored, "fence-ignored";
    /// A command leaves after a restart though its instance counts on its not leaving.
    SendsWhatMustStay, "sends-what-must-stay";
    /// A command that an answer has settled is not withdrawn from the relay.
    WithdrawalIgnored, "withdrawal-ignored";

    // Destinations.
    /// A circuit that has opened lets nothing through any more.
    CircuitNeverCloses, "circuit-never-closes";
    /// An answered command goes on counting as in flight.
    InFlightLeaks, "in-flight-leaks";

    // The shard.
    /// A repeated start begins a live saga from the beginning.
    StartBeginsTwice, "start-begins-twice";
    /// A start that is delivered again begins a further run.
    RepeatBeginsRun, "repeat-begins-run";
    /// A reply is taken by the first step that awaits one.
    ReplyToWrongStep, "reply-to-wrong-step";
    /// An event that comes before its saga is dropped.
    ParkedDropped, "parked-dropped";
    /// Events that came before their saga are offered to it in reverse order.
    ParkedReversed, "parked-reversed";
    /// A message that was parked stays in that account once it is applied.
    ParkedNotMoved, "parked-not-moved";

    // The decision.
    /// A sequence is undone from its beginning.
    CompensatesForward, "compensates-forward", decides CompensatesForward;
    /// A step counts as undone though nobody was asked to undo it.
    CompensationNeverSent, "compensation-never-sent", decides CompensationNeverSent;
    /// A step in doubt is taken for one without effect.
    InDoubtNotCompensated, "in-doubt-not-compensated", decides InDoubtNotCompensated;
    /// The reply to a step that is done is applied once more.
    ReplyAcceptedTwice, "reply-accepted-twice", decides ReplyAcceptedTwice;
    /// A timer that was set for something else lets the time of what is awaited now be over.
    TimerGenerationIgnored, "timer-generation-ignored", decides TimerGenerationIgnored;
    /// An event that comes before its wait is not kept.
    EarlyEventDropped, "early-event-dropped", decides EarlyEventDropped;
    /// The event that refuses lets the saga go on.
    RefusingEventIgnored, "refusing-event-ignored", decides RefusingEventIgnored;
    /// The event that withdraws a saga is taken for one that came too late.
    CancellationIgnored, "cancellation-ignored", decides CancellationIgnored;
    /// An event that was taken is taken again.
    EventTakenTwice, "event-taken-twice", decides EventTakenTwice;
    /// Each attempt has an idempotency key of its own.
    NewKeyOnRetry, "new-key-on-retry", decides NewKeyOnRetry;
    /// A further attempt has the number of the one before, so that a policy never ends.
    AttemptNotCounted, "attempt-not-counted", decides AttemptNotCounted;
    /// A pivot in doubt turns the saga back.
    PivotTurnedBack, "pivot-turned-back", decides PivotTurnedBack;
    /// Whatever is answered to a question, the step is taken for not done.
    StatusAnswerIgnored, "status-answer-ignored", decides StatusAnswerIgnored;
    /// A further run of a key has the number of the one before.
    RunNotAdvanced, "run-not-advanced", decides RunNotAdvanced;
    /// A compensation is given up without an incident.
    BlockedWithoutIncident, "blocked-without-incident", decides BlockedWithoutIncident;

    // The participant kit.
    /// An answer is not remembered.
    KitForgetsAnswers, "kit-forgets-answers";
    /// A reply leaves before the answer is synced.
    KitAnswersUnsynced, "kit-answers-unsynced";
    /// A compensation that comes before its command leaves no mark.
    KitCompensationLoses, "kit-compensation-loses";
    /// A command whose status was answered by *not done* is carried out all the same.
    KitSealForgotten, "kit-seal-forgotten";
}

#[cfg(feature = "planted")]
thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants this bug on this thread, in the place of the one before; none takes that away.
#[cfg(feature = "planted")]
pub(crate) fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
    model::plant(bug.and_then(Bug::mistake));
}

/// Whether this bug is planted.
#[cfg(feature = "planted")]
pub(crate) fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether this bug is planted: never.
#[cfg(not(feature = "planted"))]
pub(crate) const fn is(_: Bug) -> bool {
    false
}
