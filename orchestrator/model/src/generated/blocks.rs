//! The blocks of generated sagas, as an author would write them, for every place, slot and event there is.

use super::messages::{
    Begun, Completed, Desist, Did, Do, Failed, Happened, Happening, Insist, Noted, Objected,
    Recorded, Undo, Withdrawn,
};
use crate::{
    definition::{
        AskStatus, Block, Definition, DefinitionErrors, Limited, OnTimeout, Outcome, SagaDraft,
        StepDraft, Unhandled, choose, publish, saga, step, wait,
    },
    message::Command,
    retry::Retry,
};
use std::time::Duration;

/// Arms of a choice, at the most; beside the way it takes otherwise.
pub(super) const ARMS_MAX: usize = 3;

/// A step's way back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Compensated,
    Nothing,
    Pivot,
    Retriable,
}

/// On which terms a step asks.
pub(super) struct Terms {
    pub(super) may_be_refused: bool,
    pub(super) reply_within: Duration,
    pub(super) retry: Retry,
    pub(super) status: Option<AskStatus>,
    pub(super) undone_within: Duration,
    pub(super) undo_retry: Retry,
}

/// Calls a function for the number that is known only now.
macro_rules! numbered {
    ($function:ident::<$number:ident> $arguments:tt, $($n:literal)*) => {
        match $number {
            $($n => $function::<$n>$arguments,)*
            number => unreachable!("there is no number {number}"),
        }
    };
}

/// The same for a slot and a number in it.
macro_rules! in_a_slot {
    ($function:ident::<$slot:ident, $number:ident> $arguments:tt, $($n:literal)*) => {
        match ($slot, $number) {
            $((0, $n) => $function::<0, $n>$arguments,)*
            $((1, $n) => $function::<1, $n>$arguments,)*
            $((2, $n) => $function::<2, $n>$arguments,)*
            (slot, number) => unreachable!("there is no number {number} in slot {slot}"),
        }
    };
}

pub(super) fn step_at(place: usize, name: &str, way: Way, terms: Terms) -> Block<Recorded> {
    numbered!(step_of::<place>(name, way, terms), 0 1 2 3 4 5 6 7 8 9 10 11)
}

fn step_of<const N: usize>(name: &str, way: Way, terms: Terms) -> Block<Recorded> {
    if way == Way::Retriable {
        return insisting::<N>(name, terms).retriable();
    }
    if terms.may_be_refused {
        let undone_within = terms.undone_within;
        let undo_retry = terms.undo_retry.clone();
        let asking = step(name, |data: &Recorded| Do::<N> { key: data.key, seen: data.seen() });
        let asking = on_terms(asking, terms)
            .on_success(did::<N>)
            .on_rejection(|data, _| data.happened.push(Happening::Refused { place: N }))
            .compensation_retry(undo_retry)
            .compensation_reply_within(undone_within);
        return match way {
            Way::Compensated => asking.compensated_by(|data, outcome| Undo::<N> {
                key: data.key,
                receipt: receipt(outcome),
            }),
            Way::Pivot => asking.pivot(),
            Way::Nothing | Way::Retriable => asking.nothing_to_compensate("it only looks"),
        };
    }
    let asking = insisting::<N>(name, terms);
    match way {
        Way::Compensated => asking.compensated_by(|data, outcome| Desist::<N> {
            key: data.key,
            receipt: receipt(outcome),
        }),
        Way::Pivot => asking.pivot(),
        Way::Nothing | Way::Retriable => asking.nothing_to_compensate("it only looks"),
    }
}

/// A step that can't be refused, but for its way back.
fn insisting<const N: usize>(
    name: &str,
    terms: Terms,
) -> StepDraft<Recorded, Insist<N>, Unhandled, Limited> {
    let undone_within = terms.undone_within;
    let undo_retry = terms.undo_retry.clone();
    let asking = step(name, |data: &Recorded| Insist::<N> { key: data.key, seen: data.seen() });
    on_terms(asking, terms)
        .on_success(did::<N>)
        .compensation_retry(undo_retry)
        .compensation_reply_within(undone_within)
}

fn on_terms<C: Command>(
    asking: StepDraft<Recorded, C>,
    terms: Terms,
) -> StepDraft<Recorded, C, Unhandled, Limited> {
    let asking = asking.reply_within(terms.reply_within).retry(terms.retry);
    match terms.status {
        Some(how) => asking.status_by(how),
        None => asking,
    }
}

fn did<const N: usize>(data: &mut Recorded, reply: Did<N>) {
    data.happened.push(Happening::Done { place: N, receipt: reply.receipt });
}

fn receipt<const N: usize>(outcome: Outcome<'_, Did<N>>) -> Option<u64> {
    match outcome {
        Outcome::Done(reply) => Some(reply.receipt),
        Outcome::InDoubt => None,
    }
}

pub(super) fn awaited(
    (slot, event): (usize, usize),
    name: &str,
    refusing: bool,
    within: Duration,
    on_timeout: OnTimeout,
) -> Block<Recorded> {
    in_a_slot!(awaited_of::<slot, event>(name, refusing, within, on_timeout), 0 1 2 3)
}

fn awaited_of<const S: usize, const E: usize>(
    name: &str,
    refusing: bool,
    within: Duration,
    on_timeout: OnTimeout,
) -> Block<Recorded> {
    let waiting = wait(
        name,
        |event: &Happened<S, E>| event.key,
        |data: &mut Recorded, event| {
            data.happened.push(Happening::Heard { event: E, number: event.number });
        },
    );
    let waiting = if refusing {
        waiting.or_rejected(
            |event: &Objected<S, E>| event.key,
            |data, event| {
                data.happened.push(Happening::Objected { event: E, number: event.number });
            },
        )
    } else {
        waiting
    };
    waiting.within(within, on_timeout)
}

pub(super) fn note(slot: usize, which: usize, name: &str) -> Block<Recorded> {
    in_a_slot!(note_of::<slot, which>(name), 0 1)
}

fn note_of<const S: usize, const E: usize>(name: &str) -> Block<Recorded> {
    publish(name, |data: &Recorded| Noted::<S, E> { recorded: data.clone() })
}

/// Whether a choice takes the arm of that number.
fn takes<const C: usize, const A: u64>(data: &Recorded) -> bool {
    data.turn_at(C) == A
}

/// What a `when` goes by.
pub(super) fn holds(choice: usize) -> fn(&Recorded) -> bool {
    asks(choice)[0]
}

fn asks(choice: usize) -> [fn(&Recorded) -> bool; ARMS_MAX] {
    match choice {
        0 => [takes::<0, 0>, takes::<0, 1>, takes::<0, 2>],
        1 => [takes::<1, 0>, takes::<1, 1>, takes::<1, 2>],
        2 => [takes::<2, 0>, takes::<2, 1>, takes::<2, 2>],
        _ => [takes::<3, 0>, takes::<3, 1>, takes::<3, 2>],
    }
}

pub(super) fn choice(
    name: &str,
    choice: usize,
    arms: Vec<Block<Recorded>>,
    otherwise: Option<Block<Recorded>>,
) -> Block<Recorded> {
    let labelled = arms.into_iter().zip(asks(choice)).enumerate();
    let choosing = labelled.fold(choose(name), |choosing, (at, (arm, holds))| {
        choosing.arm(&format!("arm-{at}"), holds, arm)
    });
    match otherwise {
        Some(block) => choosing.otherwise(block),
        None => choosing.otherwise_nothing(),
    }
}

pub(super) fn begun(slot: usize, name: &str) -> SagaDraft<Recorded> {
    numbered!(begun_of::<slot>(name), 0 1 2)
}

fn begun_of<const S: usize>(name: &str) -> SagaDraft<Recorded> {
    let begin =
        |event: Begun<S>| Recorded { key: event.key, turn: event.turn, happened: Vec::new() };
    saga(name, 1, |event: &Begun<S>| event.key, begin)
}

pub(super) fn withdrawn(slot: usize, draft: SagaDraft<Recorded>) -> SagaDraft<Recorded> {
    numbered!(withdrawn_of::<slot>(draft), 0 1 2)
}

fn withdrawn_of<const S: usize>(draft: SagaDraft<Recorded>) -> SagaDraft<Recorded> {
    draft.cancelled_by(
        |event: &Withdrawn<S>| event.key,
        |data, _| data.happened.push(Happening::Withdrawn),
    )
}

pub(super) fn ends_told(
    slot: usize,
    draft: SagaDraft<Recorded>,
) -> Result<Definition<Recorded>, DefinitionErrors> {
    numbered!(ends_told_of::<slot>(draft), 0 1 2)
}

fn ends_told_of<const S: usize>(
    draft: SagaDraft<Recorded>,
) -> Result<Definition<Recorded>, DefinitionErrors> {
    draft.ends_with(
        |data| Completed::<S> { recorded: data.clone() },
        |data| Failed::<S> { recorded: data.clone() },
    )
}
