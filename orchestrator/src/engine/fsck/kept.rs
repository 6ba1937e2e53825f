//! Kept messages: each can be read, lies where its number says, and something will end its keeping.

use super::{All, accounts::Moves};
use crate::{
    engine::{
        accounts::Count,
        kept::{
            KEPT_MESSAGE_BYTES_MAX, Kept, KeptChange, PARKED_BYTES_MAX, PARKED_MAX,
            QUARANTINED_BYTES_MAX, QUARANTINED_MAX, Standing,
        },
        kept_wire::{put_change, take_change},
        wire::Take,
    },
    store::{
        Space, StoreError,
        check::{Kind, Mend, NOTHING, RecordChange, Severity, Survey},
    },
};
use std::sync::Arc;

const UNREADABLE: Kind = Kind {
    name: "kept-message-unreadable",
    severity: Severity::Harmful,
    means: "the message is lost to its saga: it can be neither offered nor replayed",
    advice: "restore the data folder from a backup, or set the record aside by the plan and ask the sender to send it again",
};

const REPLACED: Kind = Kind {
    name: "kept-message-unreadable-and-replaced",
    severity: Severity::Harmless,
    means: "the journal has it, or says that it is decided about",
    advice: "nothing: the next checkpoint replaces the record",
};

const NUMBER: Kind = Kind {
    name: "kept-message-number",
    severity: Severity::Harmful,
    means: "another message would get the same number and take its place",
    advice: "restore the data folder from a backup",
};

const LEFT_BEHIND: Kind = Kind {
    name: "kept-message-left-behind",
    severity: Severity::Harmful,
    means: "it is parked behind a quarantined message that is not there: nobody will ever offer it",
    advice: "quarantine it by the plan, then decide about it with `quarantine replay` or `discard`",
};

const OVERTAKEN: Kind = Kind {
    name: "kept-message-overtaken",
    severity: Severity::Harmful,
    means: "it waits for its instance to begin, which lives: it is quarantined when its time is over",
    advice: "wait until it is quarantined, then decide about it with `quarantine replay` or `discard`",
};

const BOUND: Kind = Kind {
    name: "kept-bound-exceeded",
    severity: Severity::Harmful,
    means: "what is kept lies in memory and is bounded, and this is above it",
    advice: "decide about quarantined messages; report it",
};

/// Goes through all that is kept. Answers which messages count as something else once the plan is applied.
pub(super) fn check(all: &All<'_>, survey: &mut Survey) -> Result<Moves, StoreError> {
    survey.walk(all.store(), Space::Kept, |survey, key, value| {
        let number = <[u8; 8]>::try_from(key).ok().map(u64::from_be_bytes);
        let place = || match number {
            Some(number) => format!("kept message #{number}"),
            None => format!("kept message {}", key.escape_ascii()),
        };
        let flaw = match value.map(|value| (number, read(value))) {
            None => "it is damaged: its checksum is another one".into(),
            Some((_, Err(text))) => text,
            Some((number, Ok(kept))) if number != Some(kept.number) => {
                format!("the message in it has the number {}", kept.number)
            }
            Some((_, Ok(_))) => return Ok(()),
        };
        if number.is_some_and(|number| all.kept.is_changed(number)) {
            survey.find(&REPLACED, place(), flaw, None);
        } else {
            let mend = Mend::set_aside(Space::Kept, key, "the message, which can't be read anyhow");
            survey.find(&UNREADABLE, place(), flaw, Some(mend));
        }
        Ok(())
    })?;
    let kept = all.kept.all();
    let mut moves = Moves::new();
    for message in &kept {
        survey.count("kept messages");
        let place = format!("kept message #{} for {}", message.number, message.instance);
        if message.number >= all.recovered.accounts.kept_next {
            let next = all.recovered.accounts.kept_next;
            survey.find(&NUMBER, &place, format!("the next one to be kept would get {next}"), None);
        }
        if message.bytes() > KEPT_MESSAGE_BYTES_MAX {
            let what = format!("{} bytes, the bound is {KEPT_MESSAGE_BYTES_MAX}", message.bytes());
            survey.find(&BOUND, &place, what, None);
        }
        match message.standing {
            Standing::Behind if !is_behind(message, &kept) => {
                let mend = (!all.kept.is_changed(message.number)).then(|| quarantine(message));
                if let (Some(_), Some(moved)) = (&mend, message.moved(Count::Quarantined)) {
                    let place = (moved.channel.as_ref().to_owned(), moved.partition);
                    moves.entry(place).or_default().push((moved.from, moved.to));
                }
                survey.find(
                    &LEFT_BEHIND,
                    &place,
                    "no quarantined message blocks its instance",
                    mend,
                );
            }
            Standing::Orphan { until } => {
                // One that has ended may be waiting for its key to begin anew, which is offered what is parked.
                if all.resting(message.instance)?.is_some_and(|resting| !resting.ended) {
                    let what = format!("it waits until {until}, and its instance lives");
                    survey.find(&OVERTAKEN, &place, what, None);
                }
            }
            Standing::Behind | Standing::Quarantined { .. } => {}
        }
    }
    for (what, parked, messages_max, bytes_max) in [
        ("parked", true, PARKED_MAX, PARKED_BYTES_MAX),
        ("quarantined", false, QUARANTINED_MAX, QUARANTINED_BYTES_MAX),
    ] {
        let of = kept.iter().filter(|kept| (kept.standing.count() == Count::Parked) == parked);
        let (messages, bytes) =
            of.fold((0, 0), |(messages, bytes), kept| (messages + 1, bytes + kept.bytes()));
        if messages > messages_max || bytes > bytes_max {
            let found = format!(
                "{messages} messages of {bytes} bytes, the bounds are {messages_max} and {bytes_max}"
            );
            survey.find(&BOUND, format!("{what} messages"), found, None);
        }
    }
    Ok(moves)
}

fn read(value: &[u8]) -> Result<Arc<Kept>, String> {
    let mut from = Take(value);
    match take_change(&mut from) {
        Ok(KeptChange::Put(kept)) if from.0.is_empty() => Ok(kept),
        Ok(_) => Err("it is no message, or something stands behind it".into()),
        Err(malformed) => Err(malformed.to_string()),
    }
}

/// Whether a quarantined message of the same instance blocks what is behind it.
fn is_behind(message: &Kept, kept: &[Arc<Kept>]) -> bool {
    kept.iter().any(|other| other.instance == message.instance && other.standing.blocks())
}

fn quarantine(message: &Kept) -> Mend {
    let standing = Standing::Quarantined {
        reason: "left-behind".into(),
        text: "what it was parked behind is not there any more".into(),
        blocks: false,
    };
    let mut value = Vec::new();
    put_change(&mut value, &KeptChange::Put(Arc::new(Kept { standing, ..message.clone() })));
    let change = RecordChange::put(Space::Kept, message.number.to_be_bytes(), value);
    Mend::new("quarantines it, so that a person can replay or discard it", NOTHING, vec![change])
}
