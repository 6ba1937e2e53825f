//! The folder at rest: the accounts balance, and what was left behind can go on.
//!
//! What goes in: disk and store as a process left them, in order or not. What comes out: findings. What must be true: after a crash nothing is
//! found but what the next start mends by itself, and at the end nothing at all. A check syncs what it reads, so it is given a copy of the disk.

use super::{APP, Findings, Judged, SimDisk, SimStore, lock};
use crate::{engine, participant, registry::Registry, store::Fsck};
use dirigent_model::definition::Plan;
use std::sync::{Arc, Mutex};

/// Findings that are told of one run: what is broken once stays so.
const TOLD_MAX: usize = 5;

pub(super) const BALANCE: &str = "the accounts balance";
pub(super) const READABLE: &str = "the data folder can be read";
pub(super) const AFTER_A_CRASH: &str = "a crash leaves nothing that a person must mend";
pub(super) const AT_THE_END: &str = "what rests at the end is sound";

/// Looks into the folder after each death of the orchestrator, if this is a close look.
pub(in crate::simulation) struct Inquests {
    registry: Option<Registry>,
    is_close: bool,
    found: Mutex<Findings>,
}

impl Inquests {
    pub(in crate::simulation) fn new(plans: &[Arc<Plan>], is_close: bool) -> Self {
        let registry = Registry::new(plans.to_vec()).ok();
        Self { registry, is_close, found: Mutex::default() }
    }

    /// A process has died, and this is what it left.
    pub(in crate::simulation) fn died(&self, disk: &SimDisk, store: &SimStore) {
        if self.is_close && lock(&self.found).0.len() < TOLD_MAX {
            self.check(AFTER_A_CRASH, &disk.copied(), store, &mut lock(&self.found));
        }
    }

    fn check(&self, rule: &'static str, disk: &SimDisk, store: &SimStore, findings: &mut Findings) {
        match engine::fsck(store.seen(), Arc::new(disk.clone()), self.registry.as_ref()) {
            Ok(check) => tell(rule, APP, &check, findings),
            Err(error) => findings.add(READABLE, crate::describe(&*error)),
        }
    }
}

fn tell(rule: &'static str, whose: &str, check: &Fsck, findings: &mut Findings) {
    for found in check.findings.iter().filter(|found| !is_harmless(found.kind)) {
        let (kind, place, what) = (found.kind, &found.place, &found.what);
        findings.add(rule, format!("{whose}: {kind} at {place}: {what}"));
    }
}

/// What harms nobody: a crash within a checkpoint leaves times that are looked at for nothing.
fn is_harmless(kind: &str) -> bool {
    kind == "due-time-left-over"
}

impl Judged<'_> {
    pub(super) fn folder(&self, findings: &mut Findings) {
        match engine::audit(self.store.seen(), Arc::new(self.disk.clone())) {
            Ok(audit) if audit.is_clean() => {}
            Ok(audit) => findings.add(BALANCE, format!("{audit:?}")),
            Err(error) => findings.add(READABLE, crate::describe(&*error)),
        }
        findings.0.append(&mut lock(&self.inquests.found).0);
        self.inquests.check(AT_THE_END, &self.disk.copied(), self.store, findings);
        for place in self.places {
            match participant::fsck(&*place.store.seen()) {
                Ok(check) => tell(AT_THE_END, &place.name, &check, findings),
                Err(error) => findings.add(READABLE, crate::describe(&error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Change, Space};
    use dirigent_connectors::simulated::Life;

    fn found(is_close: bool, change: Option<Change>) -> Vec<&'static str> {
        let (disk, store) = (SimDisk::new(), SimStore::default());
        store.of(&Arc::new(Life::new())).write(change.as_slice()).unwrap();
        let inquests = Inquests::new(&[], is_close);
        inquests.died(&disk, &store);
        let found = lock(&inquests.found);
        found.0.iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn what_a_person_must_mend_after_a_crash_is_found_where_it_is_looked_for() {
        let strange = || Some(Change::put(Space::Ledger, *b"nobody's", *b"record"));
        assert_eq!(found(true, None), [""; 0]);
        assert_eq!(found(true, strange()), [AFTER_A_CRASH]);
        assert_eq!(found(false, strange()), [""; 0]);
    }

    #[test]
    fn a_folder_that_can_not_be_read_is_found() {
        let unreadable = Change::put(Space::Meta, *b"checkpoint", *b"no mark at all");
        assert_eq!(found(true, Some(unreadable)), [READABLE]);
    }
}
