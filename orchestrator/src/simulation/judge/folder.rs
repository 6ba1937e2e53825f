//! The folder at rest: the accounts balance, and what was left behind can go on.
//!
//! What goes in: disk and store as a process left them, in order or not. What comes out: findings. What must be true: after a crash nothing is
//! found but what the next start mends by itself, and at the end nothing at all. A check syncs what it reads, so it is given a copy of the disk.

use super::{Findings, Judged, SimDisk, SimStore, lock};
use crate::{engine, registry::Registry};
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

    fn check(
        &self,
        rule: &'static str,
        disk: &SimDisk,
        store: &SimStore,
        findings: &mut Findings,
    ) {
        match engine::fsck(store.seen(), Arc::new(disk.clone()), self.registry.as_ref()) {
            Ok(check) => {
                for found in check.findings.iter().filter(|it| !mends_itself(rule, it.kind)) {
                    let what = format!("{} at {}: {}", found.kind, found.place, found.what);
                    findings.add(rule, what);
                }
            }
            Err(error) => findings.add(READABLE, crate::describe(&*error)),
        }
    }
}

/// What the next start sees to without being asked.
fn mends_itself(rule: &str, kind: &str) -> bool {
    rule == AFTER_A_CRASH && ["due-time-left-over"].contains(&kind)
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
    }
}
