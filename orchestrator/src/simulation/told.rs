//! What a simulation tells of itself while it runs: lives, deaths, faults, and whether they are over.

use super::process::lock;
use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

/// Shared by all that take part.
#[derive(Debug, Default)]
pub(super) struct Told {
    lives: AtomicU32,
    has_opened: AtomicBool,
    faults_over: AtomicBool,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    /// With how often each was.
    failures: Mutex<BTreeMap<String, u64>>,
}

/// Failures that are told word for word.
const FAILURES_TOLD_MAX: usize = 20;

impl Told {
    /// The number of a life that begins.
    pub(super) fn begins(&self) -> u32 {
        self.lives.fetch_add(1, Ordering::AcqRel) + 1
    }

    pub(super) fn count(&self, what: &'static str) {
        *lock(&self.counts).entry(what).or_default() += 1;
    }

    /// The orchestrator is there: its channels are made.
    pub(super) fn opened(&self) {
        self.has_opened.store(true, Ordering::Release);
    }

    /// Whether it ever was.
    pub(super) fn has_opened(&self) -> bool {
        self.has_opened.load(Ordering::Acquire)
    }

    /// A process died; at this crossing, if at one.
    pub(super) fn died(&self, before: Option<&'static str>) {
        self.count("kill -9");
        if let Some(before) = before {
            self.count(before);
        }
    }

    /// A process ended by itself.
    pub(super) fn failed(&self, why: &str) {
        self.count("ended by itself");
        let mut failures = lock(&self.failures);
        if failures.len() < FAILURES_TOLD_MAX || failures.contains_key(why) {
            *failures.entry(why.to_owned()).or_default() += 1;
        }
    }

    pub(super) fn failures(&self) -> BTreeMap<String, u64> {
        lock(&self.failures).clone()
    }

    pub(super) fn counts(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.counts).clone()
    }

    /// From now on everything goes well.
    pub(super) fn end_faults(&self) {
        self.faults_over.store(true, Ordering::Release);
    }

    pub(super) fn are_faults_over(&self) -> bool {
        self.faults_over.load(Ordering::Acquire)
    }
}
