//! Single records, and spaces in which the engine keeps nothing.

use super::All;
use crate::{
    engine::{
        application::{self, Owner},
        checkpoint::MARK,
        hearing, lanes, pausing,
        recovery::{FORMAT, JOURNAL_BEGUN},
    },
    journal::GroupSeq,
    store::{
        Space, StoreError,
        check::{Kind, Mend, NOTHING, RecordChange, Severity, Survey},
    },
};

const STRANGE: Kind = Kind {
    name: "record-strange",
    severity: Severity::Harmless,
    means: "the engine has no such record, so nobody reads it",
    advice: "set it aside by the plan, or leave it",
};

const HEARING: Kind = Kind {
    name: "hearing-unreadable",
    severity: Severity::Harmless,
    means: "when the last process listened is not known: waits for events go on for longer than they need",
    advice: "nothing: the next checkpoint writes it anew",
};

const CONNECTORS: Kind = Kind {
    name: "connectors-unreadable",
    severity: Severity::Harmful,
    means: "the process refuses to start: it can't tell whether its connectors are in the order of the last start",
    advice: "make sure that they are, and set the record aside by the plan",
};

const APPLICATION: Kind = Kind {
    name: "application-unreadable",
    severity: Severity::Harmful,
    means: "the process refuses to start: it can't tell whether the folder is its own",
    advice: "make sure whose it is, set the record aside by the plan, and start under that name",
};

const APPLICATION_NEWER: Kind = Kind {
    name: "application-newer",
    severity: Severity::Harmful,
    means: "the process refuses to start: a later release has written whose folder it is, and this one can't read it",
    advice: "start, and check, with the later release",
};

const PAUSED: Kind = Kind {
    name: "pause-unreadable",
    severity: Severity::Harmless,
    means: "the destination stays paused, and nobody knows any more by whom and why",
    advice: "start the process; `resume destination` lets its commands leave again",
};

const UNMARKED: Kind = Kind {
    name: "journal-unmarked",
    severity: Severity::Harmful,
    means: "were the journal lost, the folder would pass for a new one",
    advice: "write the record by the plan",
};

/// Looks at single records, and for what lies where nothing should.
pub(super) fn check(all: &All<'_>, survey: &mut Survey) -> Result<(), StoreError> {
    let mut is_begun = false;
    survey.walk(all.store(), Space::Meta, |survey, key, value| {
        survey.count("single records");
        if key == MARK {
            return Ok(());
        }
        if key == JOURNAL_BEGUN {
            is_begun = true;
        } else if key == hearing::KEY {
            if value.and_then(hearing::read).is_none() {
                survey.find(&HEARING, "record `heard`", "it can't be read", None);
            }
        } else if key == lanes::KEY {
            if value.and_then(lanes::read).is_none() {
                let mend = Mend::set_aside(Space::Meta, key, "in which order the connectors were");
                survey.find(&CONNECTORS, "record `connectors`", "it can't be read", Some(mend));
            }
        } else if key == application::KEY {
            let place = "record `application`";
            match value.map_or(Owner::Unreadable, application::read) {
                Owner::Named(_) => {}
                Owner::Later(format) => {
                    let what = format!("it has format {format}, known is {}", application::FORMAT);
                    survey.find(&APPLICATION_NEWER, place, what, None);
                }
                Owner::Unreadable => {
                    let mend = Mend::set_aside(Space::Meta, key, "whose folder it is");
                    survey.find(&APPLICATION, place, "it can't be read", Some(mend));
                }
            }
        } else if let Some(channel) = key.strip_prefix(pausing::PREFIX.as_bytes()) {
            if !value.is_some_and(pausing::is_readable) {
                let place = format!("pause of `{}`", channel.escape_ascii());
                survey.find(&PAUSED, place, "it can't be read", None);
            }
        } else {
            let mend = Mend::set_aside(Space::Meta, key, "a record that nobody reads");
            let place = format!("record {}", key.escape_ascii());
            survey.find(&STRANGE, place, "no single record has this key", Some(mend));
        }
        Ok(())
    })?;
    if !is_begun && all.next > GroupSeq::FIRST && all.mark.seq > 0 {
        let change = RecordChange::put(Space::Meta, JOURNAL_BEGUN, [FORMAT]);
        let mend = Mend::new("says again that there is a journal", NOTHING, vec![change]);
        survey.find(
            &UNMARKED,
            "record `journal`",
            "the store does not know of its journal",
            Some(mend),
        );
    }
    for space in [Space::Keys, Space::Ledger] {
        survey.walk(all.store(), space, |survey, key, _| {
            let mend = Mend::set_aside(space, key, "a record that the engine never reads");
            let place = format!("record {} of the {space}", key.escape_ascii());
            survey.find(&STRANGE, place, "the engine keeps nothing there", Some(mend));
            Ok(())
        })?;
    }
    Ok(())
}
