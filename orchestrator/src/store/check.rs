//! What a check of a store finds, and how it is mended: findings in words, repairs as changes of records, and the plan of them.
//!
//! ```text
//! walk over all records ─► findings, each with what it means and what can be done
//!                     └──► a plan: repairs, and the state they were made for ─► applied only to that state, and only as proposed
//! ```
//!
//! A check only looks. Who knows what the records mean proposes the repairs; what is written here carries them out. A repair loses
//! nothing, or says what it loses; the bytes of whatever it takes out are handed to the caller before.

use super::{ALL_KEYS, Change, Space, Store, StoreError};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    ops::Bound,
};

/// Findings that one check tells, with their repairs. Behind a broken disk there may be millions; what is beyond is counted.
pub const FINDINGS_MAX: usize = 10_000;

/// Records read from the store at once.
const PAGE_RECORDS: usize = 1_000;

/// The form of plans that this release writes.
pub const PLAN_FORMAT: u32 = 1;

/// What a finding is to the process that starts on the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Something is lost, stands still, or will go wrong.
    Harmful,
    /// Left over, or mended by the next process itself.
    Harmless,
}

/// A kind of finding, with the words that are the same for all of them.
#[derive(Debug)]
pub(crate) struct Kind {
    pub name: &'static str,
    pub severity: Severity,
    pub means: &'static str,
    pub advice: &'static str,
}

/// Something that should not be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which kind; a stable name.
    pub kind: &'static str,
    /// Whether it matters to the process that starts here.
    pub severity: Severity,
    /// Where: the instance, the message, the record.
    pub place: String,
    /// What was found.
    pub what: String,
    /// What follows from it.
    pub means: &'static str,
    /// What a person can do.
    pub advice: &'static str,
    /// Whether the plan has a repair for it.
    pub repairable: bool,
}

/// Bytes as people can read them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hex(pub Vec<u8>);

/// One record that a repair changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordChange {
    /// The space of the store, by its name.
    pub space: String,
    /// The key.
    pub key: Hex,
    /// The new value; none for removing it.
    pub value: Option<Hex>,
    /// Whether what lay there is kept as a file, since it can't be made again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sets_aside: bool,
}

/// A way to mend what was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repair {
    /// The kind of finding it mends.
    pub finding: String,
    /// Where.
    pub place: String,
    /// What it does.
    pub does: String,
    /// What is lost by it.
    pub loses: String,
    /// The records it changes.
    pub changes: Vec<RecordChange>,
}

/// The state that a check saw: a plan is for this one only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The last group that the checkpoint covers; 0 where there is no journal.
    pub checkpoint: u64,
    /// The group that the journal would write next; 0 where there is no journal.
    pub next_group: u64,
    /// Records of the store.
    pub records: u64,
    /// The checksum (CRC32C) of all of them.
    pub checksum: String,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { checkpoint, next_group, records, checksum } = self;
        write!(
            f,
            "checkpoint {checkpoint}, next group {next_group}, {records} records with checksum {checksum}"
        )
    }
}

/// Repairs, and the state they were made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepairPlan {
    /// The form of this plan.
    pub format: u32,
    /// The state it was made for.
    pub made_for: State,
    /// What it does, in this order. One that is not wanted may be taken out.
    pub repairs: Vec<Repair>,
}

/// What a check found.
#[derive(Debug, Clone, Serialize)]
pub struct Fsck {
    /// What was looked at, and how many of each.
    pub looked_at: BTreeMap<&'static str, u64>,
    /// What should not be.
    pub findings: Vec<Finding>,
    /// Findings beyond [`FINDINGS_MAX`], which are not told.
    pub more: u64,
    /// The state that was seen.
    pub state: State,
    #[serde(skip)]
    pub(crate) repairs: Vec<Repair>,
}

impl Fsck {
    /// Whether nothing was found that would harm the process that starts here.
    pub fn is_clean(&self) -> bool {
        self.more == 0 && self.harmful().next().is_none()
    }

    /// What would harm the process that starts here.
    pub fn harmful(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.severity == Severity::Harmful)
    }

    /// How what was found can be mended, as far as it can.
    pub fn plan(&self) -> RepairPlan {
        let (made_for, repairs) = (self.state.clone(), self.repairs.clone());
        RepairPlan { format: PLAN_FORMAT, made_for, repairs }
    }

    /// Refuses a plan that was made for another state, or holds what this check would not propose.
    pub(crate) fn check_plan(&self, plan: &RepairPlan) -> Result<(), RepairError> {
        if plan.format > PLAN_FORMAT {
            return Err(RepairError::Newer { format: plan.format });
        }
        if plan.made_for != self.state {
            let (made_for, found) = (plan.made_for.clone(), self.state.clone());
            return Err(RepairError::Stale { made_for, found });
        }
        match plan.repairs.iter().find(|repair| !self.repairs.contains(repair)) {
            Some(Repair { finding, place, .. }) => {
                let (finding, place) = (finding.clone(), place.clone());
                Err(RepairError::NotProposed { finding, place })
            }
            None => Ok(()),
        }
    }
}

/// Why a plan was not applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// A later release made it.
    #[error(
        "the plan has format {format}, this release knows up to {PLAN_FORMAT}; apply it with the release that made it, or make a new one"
    )]
    Newer {
        /// The plan's.
        format: u32,
    },
    /// Something has changed since.
    #[error(
        "the plan was made for another state of the store ({made_for}), which is now at {found}; nothing was changed: make a new plan"
    )]
    Stale {
        /// The plan's.
        made_for: State,
        /// What there is now.
        found: State,
    },
    /// The plan was changed by hand, or made by another release.
    #[error(
        "the plan holds a repair that this check does not propose: {finding} at {place}; nothing was changed: make a new plan, and take out of it what is not wanted"
    )]
    NotProposed {
        /// For which finding.
        finding: String,
        /// Where.
        place: String,
    },
    /// What is taken out could not be kept.
    #[error("keeping the bytes of {place} before they are taken out; nothing was changed")]
    Keeping {
        /// Of which record.
        place: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The store can't be checked.
    #[error("checking the store")]
    Unreadable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The store.
    #[error("changing the store; check it again: what was not carried out is found again")]
    Store(#[source] StoreError),
}

/// Takes the bytes of a record that is taken out: its space, its key, and what lay there. They are durable when it returns.
pub type KeepBytes<'a> = &'a mut dyn FnMut(Space, &[u8], &[u8]) -> io::Result<()>;

/// Carries repairs out. What they take out is kept first; then each space is changed at once, single records last, and synced.
pub(crate) fn carry_out(
    store: &dyn Store,
    repairs: &[Repair],
    keep: KeepBytes<'_>,
) -> Result<(), RepairError> {
    let mut changes = Vec::new();
    for RecordChange { space, key, value, sets_aside } in
        repairs.iter().flat_map(|repair| &repair.changes)
    {
        let space = Space::ALL.into_iter().find(|known| known.name() == space);
        let space = space.ok_or_else(|| RepairError::NotProposed {
            finding: "a change of an unknown space".into(),
            place: key.to_string(),
        })?;
        if *sets_aside {
            let bytes = store.remains(space, &key.0).map_err(RepairError::Store)?;
            keep(space, &key.0, &bytes).map_err(|source| RepairError::Keeping {
                place: format!("record {key} of the {space}"),
                source,
            })?;
        }
        let value = value.as_ref().map(|value| value.0.clone());
        changes.push(Change { space, key: key.0.clone(), value });
    }
    // The marks stand for everything else: they come last.
    changes.sort_by_key(|change| change.space == Space::Meta);
    store.write(&changes).map_err(RepairError::Store)?;
    store.sync().map_err(RepairError::Store)
}

/// A check under way: what was found so far, and the checksum of what was seen.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub looked_at: BTreeMap<&'static str, u64>,
    findings: Vec<Finding>,
    repairs: Vec<Repair>,
    more: u64,
    records: u64,
    crc: u32,
    walked: BTreeSet<Space>,
}

impl Survey {
    /// Hands every record of a space to `each`, in the order of pages; `None` is the value of a damaged one.
    pub(crate) fn walk(
        &mut self,
        store: &dyn Store,
        space: Space,
        mut each: impl FnMut(&mut Self, &[u8], Option<&[u8]>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let is_first = self.walked.insert(space);
        let mut from = Bound::Unbounded;
        loop {
            let start = from.as_ref().map(Vec::as_slice);
            let page = store.scan(space, (start, ALL_KEYS.1), PAGE_RECORDS)?;
            let sound = page.records.iter().map(|(key, value)| (key, Some(value.as_slice())));
            for (key, value) in sound.chain(page.damaged.iter().map(|key| (key, None))) {
                if is_first {
                    self.note(space, key, value);
                }
                each(self, key, value)?;
            }
            match page.next {
                Some(next) => from = Bound::Included(next),
                None => return Ok(()),
            }
        }
    }

    fn note(&mut self, space: Space, key: &[u8], value: Option<&[u8]>) {
        self.records += 1;
        let length = |bytes: &[u8]| (bytes.len() as u64).to_be_bytes();
        let mut add = |bytes: &[u8]| self.crc = crc32c::crc32c_append(self.crc, bytes);
        add(space.name().as_bytes());
        add(&length(key));
        add(key);
        match value {
            Some(value) => {
                add(&length(value));
                add(value);
            }
            None => add(&u64::MAX.to_be_bytes()),
        }
    }

    /// Counts what was looked at.
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.looked_at.entry(what).or_default() += 1;
    }

    /// Notes a finding, with the way to mend it where there is one.
    pub(crate) fn find(
        &mut self,
        kind: &'static Kind,
        place: impl Into<String>,
        what: impl Into<String>,
        mend: Option<Mend>,
    ) {
        if self.findings.len() >= FINDINGS_MAX {
            self.more += 1;
            return;
        }
        let (place, what) = (place.into(), what.into());
        let Kind { name, severity, means, advice } = *kind;
        let repairable = mend.is_some();
        self.repairs.extend(mend.map(|Mend { does, loses, changes }| Repair {
            finding: name.into(),
            place: place.clone(),
            does,
            loses,
            changes,
        }));
        self.findings.push(Finding {
            kind: name,
            severity,
            place,
            what,
            means,
            advice,
            repairable,
        });
    }

    /// Notes a finding that a repair mends which is proposed by itself: one repair for many.
    pub(crate) fn find_mended(
        &mut self,
        kind: &'static Kind,
        place: impl Into<String>,
        what: impl Into<String>,
    ) {
        let before = self.findings.len();
        self.find(kind, place, what, None);
        self.findings.iter_mut().skip(before).for_each(|finding| finding.repairable = true);
    }

    /// Proposes a repair of what was found by [`find_mended`](Self::find_mended).
    pub(crate) fn propose(&mut self, findings: &str, place: impl Into<String>, mend: Mend) {
        let Mend { does, loses, changes } = mend;
        let (finding, place) = (findings.into(), place.into());
        self.repairs.push(Repair { finding, place, does, loses, changes });
    }

    /// Whether there is more than is told.
    pub(crate) fn is_cut(&self) -> bool {
        self.more > 0
    }

    /// Ends the check; what was not walked so far counts for the checksum all the same.
    pub(crate) fn finish(
        mut self,
        store: &dyn Store,
        checkpoint: u64,
        next_group: u64,
    ) -> Result<Fsck, StoreError> {
        for space in Space::ALL {
            if !self.walked.contains(&space) {
                self.walk(store, space, |_, _, _| Ok(()))?;
            }
        }
        let Self { looked_at, findings, repairs, more, records, crc, .. } = self;
        let state = State { checkpoint, next_group, records, checksum: format!("{crc:08x}") };
        Ok(Fsck { looked_at, findings, more, state, repairs })
    }
}

/// How something can be mended.
#[derive(Debug, Clone)]
pub(crate) struct Mend {
    pub does: String,
    pub loses: String,
    pub changes: Vec<RecordChange>,
}

/// What most repairs lose.
pub(crate) const NOTHING: &str = "nothing";

impl Mend {
    pub(crate) fn new(
        does: impl Into<String>,
        loses: impl Into<String>,
        changes: Vec<RecordChange>,
    ) -> Self {
        Self { does: does.into(), loses: loses.into(), changes }
    }

    /// Takes a record out, and keeps its bytes as a file.
    pub(crate) fn set_aside(space: Space, key: &[u8], loses: impl Into<String>) -> Self {
        let change = RecordChange { sets_aside: true, ..RecordChange::remove(space, key) };
        let does = "takes the record out of the store, and keeps its bytes as a file";
        Self::new(does, loses, vec![change])
    }
}

impl RecordChange {
    pub(crate) fn put(space: Space, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        let (space, key) = (space.name().to_owned(), Hex(key.into()));
        Self { space, key, value: Some(Hex(value.into())), sets_aside: false }
    }

    pub(crate) fn remove(space: Space, key: impl Into<Vec<u8>>) -> Self {
        let (space, key) = (space.name().to_owned(), Hex(key.into()));
        Self { space, key, value: None, sets_aside: false }
    }
}

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let wrong = || serde::de::Error::custom("bytes are written as pairs of the digits 0 to f");
        let digit = |letter: &u8| char::from(*letter).to_digit(16).map(|digit| digit as u8);
        let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        });
        pairs.collect::<Option<_>>().map(Hex).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    const ODD: Kind =
        Kind { name: "odd", severity: Severity::Harmful, means: "a test", advice: "none" };

    fn checked(store: &dyn Store) -> Fsck {
        let mut survey = Survey::default();
        let looked = survey.walk(store, Space::Keys, |survey, key, _| {
            survey.count("records");
            let mend = Mend::set_aside(Space::Keys, key, "the record");
            survey.find(&ODD, Hex(key.to_vec()).to_string(), "it is here", Some(mend));
            Ok(())
        });
        looked.unwrap();
        survey.finish(store, 3, 4).unwrap()
    }

    fn store() -> MemoryStore {
        let store = MemoryStore::new();
        store
            .write(&[
                Change::put(Space::Keys, b"\x00\xff", b"one"),
                Change::put(Space::Meta, b"m", b""),
            ])
            .unwrap();
        store
    }

    #[test]
    fn a_plan_is_applied_to_the_state_it_was_made_for_and_what_it_takes_out_is_kept() {
        let store = store();
        let found = checked(&store);
        assert_eq!((found.is_clean(), found.state.records, found.findings.len()), (false, 2, 1));
        let text = serde_json::to_string(&found.plan()).unwrap();
        assert!(text.contains(r#""key":"00ff""#), "{text}");
        let plan: RepairPlan = serde_json::from_str(&text).unwrap();
        assert_eq!(plan, found.plan());
        found.check_plan(&plan).unwrap();
        let mut kept = Vec::new();
        let mut keep = |space: Space, key: &[u8], bytes: &[u8]| {
            kept.push((space, key.to_vec(), bytes.to_vec()));
            Ok(())
        };
        carry_out(&store, &plan.repairs, &mut keep).unwrap();
        assert_eq!(kept, [(Space::Keys, b"\x00\xff".to_vec(), b"one".to_vec())]);
        let again = checked(&store);
        assert!(again.is_clean());
        assert!(matches!(again.check_plan(&plan), Err(RepairError::Stale { .. })));
    }

    #[test]
    fn the_form_of_a_plan_is_the_kept_one() {
        let plan = checked(&store()).plan();
        let kept = crate::kept_forms::kept("plan.json", &serde_json::to_vec_pretty(&plan).unwrap());
        assert_eq!(serde_json::from_slice::<RepairPlan>(&kept).unwrap(), plan);
    }

    #[test]
    fn what_the_check_does_not_propose_and_what_a_later_release_made_is_refused() {
        let store = store();
        let found = checked(&store);
        let mut plan = found.plan();
        plan.repairs[0].changes[0].key = Hex(b"m".to_vec());
        assert!(matches!(found.check_plan(&plan), Err(RepairError::NotProposed { .. })));
        let newer = RepairPlan { format: PLAN_FORMAT + 1, ..found.plan() };
        let error = found.check_plan(&newer).unwrap_err();
        assert!(error.to_string().contains("the release that made it"), "{error}");
        let fewer = RepairPlan { repairs: vec![], ..found.plan() };
        found.check_plan(&fewer).unwrap();
    }

    #[test]
    fn nothing_is_changed_where_the_bytes_can_not_be_kept() {
        let store = store();
        let plan = checked(&store).plan();
        let mut keep = |_: Space, _: &[u8], _: &[u8]| Err(io::Error::other("no room"));
        let error = carry_out(&store, &plan.repairs, &mut keep).unwrap_err();
        assert!(error.to_string().contains("nothing was changed"), "{error}");
        assert_eq!(checked(&store).state, plan.made_for);
    }

    #[test]
    fn findings_beyond_the_bound_are_counted() {
        let store = MemoryStore::new();
        let put = |number: u32| Change::put(Space::Keys, number.to_be_bytes(), []);
        store.write(&(0..10_002).map(put).collect::<Vec<_>>()).unwrap();
        let found = checked(&store);
        assert_eq!(
            (found.findings.len(), found.more, found.repairs.len()),
            (FINDINGS_MAX, 2, FINDINGS_MAX)
        );
        assert!(!found.is_clean());
    }
}
