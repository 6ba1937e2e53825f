//! A check of a participant's store at rest: what it remembers can be read, is forgotten in its time, and nothing else lies there.
//!
//! Looks at everything that [`remembered`](super::remembered) puts under its keys. The service's own records are read by the service alone:
//! of them only the checksum is known here.

use super::remembered::{
    Mark, Remembered, SPACE, expiring, expiry_key, is_newer, number_of, read, read_message,
};
use crate::store::{
    Fsck, KeepBytes, RepairError, RepairPlan, Space, Store, StoreError,
    check::{Kind, Mend, NOTHING, RecordChange, Severity, Survey, carry_out},
};
use dirigent_model::time::Timestamp;

const ANSWER: Kind = Kind {
    name: "answer-unreadable",
    severity: Severity::Harmful,
    means: "the command is answered by a failure whenever it comes again, and its saga takes it for in doubt",
    advice: "restore the folder from a backup; or set the record aside by the plan, once no saga can ask for that command any more",
};

const MARK: Kind = Kind {
    name: "mark-unreadable",
    severity: Severity::Harmful,
    means: "nobody knows whether that step took effect: its compensation is answered by a failure",
    advice: "restore the folder from a backup; or set the record aside by the plan, and see to that step by hand",
};

const HEARD: Kind = Kind {
    name: "heard-event-unreadable",
    severity: Severity::Harmful,
    means: "the event can't be told from a new one when it comes again",
    advice: "set the record aside by the plan",
};

const WAITING: Kind = Kind {
    name: "outbox-unreadable",
    severity: Severity::Harmful,
    means: "the participant does not start, since it can't send what no broker has confirmed",
    advice: "restore the folder from a backup, or set the record aside by the plan and publish that event by hand",
};

const POSITION: Kind = Kind {
    name: "position-unreadable",
    severity: Severity::Harmful,
    means: "the participant does not start, since it does not know where to go on reading",
    advice: "set the record aside by the plan: reading goes on where the broker says, and what comes again is answered as before",
};

const NEWER: Kind = Kind {
    name: "record-newer",
    severity: Severity::Harmful,
    means: "a later release wrote it; this one can't go on with it",
    advice: "start the release that wrote it, or a later one",
};

const OWN: Kind = Kind {
    name: "service-record-unreadable",
    severity: Severity::Harmful,
    means: "whichever command needs the record is answered by a failure",
    advice: "restore the folder from a backup; or set the record aside by the plan, and make it anew from what the service knows elsewhere",
};

const NEVER: Kind = Kind {
    name: "never-forgotten",
    severity: Severity::Harmful,
    means: "it would be remembered for ever",
    advice: "write by the plan when it may be forgotten",
};

const NOTHING_TO_FORGET: Kind = Kind {
    name: "forgotten-already",
    severity: Severity::Harmless,
    means: "nothing is left of what was to be forgotten then",
    advice: "take it out by the plan, or leave it",
};

const STRANGE: Kind = Kind {
    name: "record-strange",
    severity: Severity::Harmless,
    means: "no participant has such a record, so nobody reads it",
    advice: "set it aside by the plan, or leave it",
};

/// Checks the store of a participant that does not work on it.
///
/// # Errors
/// What the store says of itself as a whole.
pub fn fsck(store: &dyn Store) -> Result<Fsck, StoreError> {
    let mut survey = Survey::default();
    survey.walk(store, SPACE, |survey, key, value| look_at(store, survey, key, value))?;
    for space in Space::ALL.into_iter().filter(|space| *space != SPACE) {
        survey.walk(store, space, |survey, key, _| {
            let mend = Mend::set_aside(space, key, "a record that nobody reads");
            survey.find(
                &STRANGE,
                place_of(space, key),
                "a participant keeps nothing there",
                Some(mend),
            );
            Ok(())
        })?;
    }
    survey.finish(store, 0, 0)
}

/// Carries out a plan, or a part of one, that [`fsck`] made for this very state. `keep` is handed the bytes of what is taken out before
/// anything is changed. Answers what a check finds afterwards.
///
/// # Errors
/// The state has changed since, or the plan holds what the check does not propose: nothing is changed then.
pub fn repair(
    store: &dyn Store,
    plan: &RepairPlan,
    keep: KeepBytes<'_>,
) -> Result<Fsck, RepairError> {
    let check = || fsck(store).map_err(|error| RepairError::Unreadable(error.into()));
    check()?.check_plan(plan)?;
    carry_out(store, &plan.repairs, keep)?;
    check()
}

fn place_of(space: Space, key: &[u8]) -> String {
    format!("record \"{}\" of the {space}", key.escape_ascii())
}

fn look_at(
    store: &dyn Store,
    survey: &mut Survey,
    key: &[u8],
    value: Option<&[u8]>,
) -> Result<(), StoreError> {
    let place = || place_of(SPACE, key);
    let is_ours = matches!(key.get(..2), Some(b"k/" | b"e/" | b"m/" | b"o/" | b"p/"));
    if is_ours && value.is_some_and(is_newer) {
        survey.find(&NEWER, place(), "its layout is a later one than this release reads", None);
        return Ok(());
    }
    let mut unreadable = |kind: &'static Kind, loses: &str| {
        let what = match value {
            None => "it is damaged: its checksum is another one",
            Some(_) => "it is not what a participant writes there",
        };
        survey.find(kind, place(), what, Some(Mend::set_aside(SPACE, key, loses)));
    };
    let expires = match key.get(..2) {
        Some(b"k/") => match value.and_then(|value| read::<Remembered>(key, value).ok()) {
            Some(remembered) => remembered.expires,
            None => {
                unreadable(
                    &ANSWER,
                    "what was answered: should the command come again, it is carried out again",
                );
                return Ok(());
            }
        },
        Some(b"e/") => match value.and_then(|value| read::<Mark>(key, value).ok()) {
            Some(mark) => mark.expires,
            None => {
                unreadable(
                    &MARK,
                    "whether the step took effect: its compensation finds nothing to undo",
                );
                return Ok(());
            }
        },
        Some(b"m/") => match value.and_then(|value| read::<Timestamp>(key, value).ok()) {
            Some(expires) => expires,
            None => {
                unreadable(
                    &HEARD,
                    "that the event was heard: should it come again, it is heard again",
                );
                return Ok(());
            }
        },
        Some(b"o/") => {
            survey.count("waiting to be sent");
            let message = value.and_then(|value| read_message(key, value).ok());
            if message.is_none() || number_of(key).is_none() || key.len() != 10 {
                let mut unreadable = |kind, loses: &str| {
                    let mend = Mend::set_aside(SPACE, key, loses);
                    survey.find(kind, place(), "it can't be read as a message", Some(mend));
                };
                unreadable(
                    &WAITING,
                    "the message: an event or a dead letter that no broker has confirmed",
                );
            }
            return Ok(());
        }
        Some(b"p/") => {
            survey.count("positions");
            if !value.is_some_and(|value| is_position(key, value)) {
                let mend = Mend::set_aside(
                    SPACE,
                    key,
                    "where reading goes on: the broker is asked instead",
                );
                survey.find(&POSITION, place(), "it can't be read as a position", Some(mend));
            }
            return Ok(());
        }
        Some(b"r/") => {
            if value.is_none() {
                unreadable(&OWN, "the record");
            } else {
                survey.count("records of the service");
            }
            return Ok(());
        }
        Some(b"x/") => return look_at_expiry(store, survey, key),
        Some(_) | None => {
            unreadable(&STRANGE, "a record that nobody reads");
            return Ok(());
        }
    };
    survey.count("remembered");
    let entry = expiry_key(expires, key);
    let is_there = match store.get(SPACE, &entry) {
        Err(error) if !error.is_of_one_record() => return Err(error),
        // Of an entry only the key counts, and only one that can be read is found.
        found => found.is_ok_and(|found| found.is_some()),
    };
    if !is_there {
        let change = RecordChange::put(SPACE, entry, []);
        let mend = Mend::new("writes when it may be forgotten", NOTHING, vec![change]);
        survey.find(
            &NEVER,
            place(),
            format!("nothing says that it expires at {expires}"),
            Some(mend),
        );
    }
    Ok(())
}

fn look_at_expiry(store: &dyn Store, survey: &mut Survey, entry: &[u8]) -> Result<(), StoreError> {
    let place = place_of(SPACE, entry);
    let Some((expires, key)) = expiring(entry) else {
        let mend = Mend::set_aside(SPACE, entry, "a record that nobody reads");
        survey.find(&STRANGE, place, "it names no time", Some(mend));
        return Ok(());
    };
    // One that was renewed since has a later entry of its own, and this one goes when its time has come.
    match store.get(SPACE, key) {
        Ok(Some(_)) => {}
        Err(error) if error.is_of_one_record() => {}
        Err(error) => return Err(error),
        Ok(None) => {
            let change = RecordChange::remove(SPACE, entry);
            let mend = Mend::new("takes the entry out", NOTHING, vec![change]);
            survey.find(
                &NOTHING_TO_FORGET,
                place,
                format!("what expires at {expires} is gone"),
                Some(mend),
            );
        }
    }
    Ok(())
}

fn is_position(key: &[u8], value: &[u8]) -> bool {
    let name = key[2..].split_last_chunk::<4>().and_then(|(name, _)| name.strip_suffix(b"\0"));
    name.is_some_and(|name| std::str::from_utf8(name).is_ok()) && read::<u64>(key, value).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        participant::remembered::{
            Answered, Effect, answer_key, heard_key, mark_key, outbox_key, own_key, position_key,
            write, write_message,
        },
        store::{Change, MemoryStore},
    };
    use dirigent_connectors::{Attributes, ChannelKind, Message};

    const EXPIRES: Timestamp = Timestamp(9_000);

    /// A store as a participant leaves it, one record of each kind.
    fn store() -> MemoryStore {
        let message = Message {
            channel: "c".into(),
            kind: ChannelKind::Events,
            key: "7".into(),
            attributes: Attributes::new().with("id", "a"),
            others: vec![],
            body: b"{}".to_vec().into(),
        };
        let (answer, mark, heard) = (answer_key("key"), mark_key("s/0/step"), heard_key("s", "id"));
        let mut records = vec![
            (own_key(b"stock"), b"80".to_vec()),
            (outbox_key(3), write_message(&message)),
            (position_key("c", 1), write(&17_u64)),
            (answer.clone(), write(&Remembered { answer: Answered::Sealed, expires: EXPIRES })),
            (mark.clone(), write(&Mark { effect: Effect::Took, expires: EXPIRES })),
            (heard.clone(), write(&EXPIRES)),
        ];
        records.extend([&answer, &mark, &heard].map(|key| (expiry_key(EXPIRES, key), vec![])));
        // It was renewed: the entry of before goes in its time.
        records.push((expiry_key(Timestamp(8_000), &answer), vec![]));
        let store = MemoryStore::new();
        let put = |(key, value)| Change::put(SPACE, key, value);
        store.write(&records.into_iter().map(put).collect::<Vec<_>>()).unwrap();
        store
    }

    #[test]
    fn a_participants_store_that_was_left_in_peace_has_no_finding() {
        let found = fsck(&store()).unwrap();
        assert!(found.findings.is_empty(), "{:?}", found.findings);
        assert_eq!((found.looked_at["remembered"], found.looked_at["positions"]), (3, 1));
    }

    #[test]
    fn what_a_later_release_wrote_is_found_and_left_alone() {
        let store = store();
        store.write(&[Change::put(SPACE, answer_key("key"), *b"\x02")]).unwrap();
        let found = fsck(&store).unwrap();
        assert_eq!((found.findings[0].kind, found.plan().repairs.len()), ("record-newer", 0));
    }

    #[test]
    fn what_a_participant_can_not_read_or_would_never_forget_is_found_and_mended() {
        let put = |key: Vec<u8>, value: &[u8]| Change::put(SPACE, key, value);
        let answer = answer_key("key");
        for (kind, severity, change) in [
            ("answer-unreadable", Severity::Harmful, put(answer.clone(), b"\x01\x09")),
            ("mark-unreadable", Severity::Harmful, put(mark_key("s/0/step"), b"")),
            ("heard-event-unreadable", Severity::Harmful, put(heard_key("s", "id"), b"\x01")),
            ("outbox-unreadable", Severity::Harmful, put(outbox_key(3), b"\x01\x01")),
            ("position-unreadable", Severity::Harmful, put(b"p/c".to_vec(), b"\x01\x02")),
            (
                "never-forgotten",
                Severity::Harmful,
                Change::remove(SPACE, expiry_key(EXPIRES, &answer)),
            ),
            ("forgotten-already", Severity::Harmless, Change::remove(SPACE, heard_key("s", "id"))),
            ("record-strange", Severity::Harmless, put(b"odd".to_vec(), b"")),
            ("record-strange", Severity::Harmless, Change::put(Space::Meta, b"odd", [])),
        ] {
            let store = store();
            store.write(&[change]).unwrap();
            let found = fsck(&store).unwrap();
            let told = found.findings.iter().find(|finding| finding.kind == kind);
            let told = told.unwrap_or_else(|| panic!("{kind}: {:?}", found.findings));
            assert_eq!(told.severity, severity, "{told:?}");
            // What is set aside leaves an entry behind, which the second plan takes out.
            let mut again = repair(&store, &found.plan(), &mut |_, _, _| Ok(())).unwrap();
            assert!(again.is_clean(), "{kind}: {:?}", again.findings);
            again = repair(&store, &again.plan(), &mut |_, _, _| Ok(())).unwrap();
            assert!(again.findings.is_empty(), "{kind}: {:?}", again.findings);
        }
    }
}
