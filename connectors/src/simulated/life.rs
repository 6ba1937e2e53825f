//! One life of one simulated process: it counts what crosses the border of the process, and ends at a crossing of one's choice.
//!
//! Whoever calls the world out there (a broker, a disk) asks [`Life::crosses`] first. That makes each such call a point at which
//! the process may die: `die_at(1)`, `die_at(2)`, … until one run has fewer crossings than that, and every one of them was tried.
//!
//! What must be true: a call of a dead process has no effect out there, and never returns to it. A frozen one (stopped, swapped out,
//! in a virtual machine that was suspended) calls on once it thaws, and its brokers hear nothing of it meanwhile.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, Weak,
    atomic::{AtomicBool, AtomicU64, Ordering},
};
use std::{pin::pin, time::Duration};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// Never reached by counting.
const NEVER: u64 = u64::MAX;

/// One life. A process that is started again begins another one.
#[derive(Debug, Default)]
pub struct Life {
    number: u32,
    ended: AtomicBool,
    crossings: AtomicU64,
    /// One more than the crossing at which it dies, so that nought means never.
    dies_behind: AtomicU64,
    /// Whether it ever stood still: asked before each call, and hardly ever so.
    froze: AtomicBool,
    /// Told of its end.
    over: Notify,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    mourners: Vec<Weak<dyn Mourner>>,
    last_crossing: Option<&'static str>,
    ended_at: Option<Instant>,
    frozen: Option<Freeze>,
}

/// A time in which a process stood still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Freeze {
    pub(super) since: Instant,
    pub(super) until: Instant,
}

/// Who has to know that a life has ended: the brokers it was connected to.
pub(super) trait Mourner: Send + Sync + std::fmt::Debug {
    /// Called once, with the life dead already.
    fn died(&self, life: &Life);
}

impl Life {
    /// Of a process without a number: there is only one, or nobody looks at whose events they are.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a number, which the [events](super::SimEvent) of its calls carry.
    pub fn numbered(number: u32) -> Self {
        Self { number, ..Self::default() }
    }

    /// The number it was given, or 0.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// To be asked before each call that crosses the border of the process. Counts it, and says whether the process still lives: if
    /// not, the call must have no effect. `what` names the kind of call for whoever reads where it died.
    #[must_use]
    pub fn crosses(&self, what: &'static str) -> bool {
        if !self.is_alive() {
            return false;
        }
        let count = self.crossings.fetch_add(1, Ordering::AcqRel) + 1;
        let dies_behind = self.dies_behind.load(Ordering::Acquire);
        if dies_behind != 0 && count >= dies_behind - 1 {
            self.lock().last_crossing = Some(what);
            self.kill();
        }
        self.is_alive()
    }

    /// Plans its death at the `n`-th crossing from now: 1 is the next one. That crossing does not happen any more.
    pub fn die_at(&self, n: u64) {
        let at = self.crossings().saturating_add(n.max(1)).min(NEVER - 1);
        self.dies_behind.store(at + 1, Ordering::Release);
    }

    /// Ends it now. What it had under way stays as far as it got.
    pub fn kill(&self) {
        let mourners = {
            let mut state = self.lock();
            if self.ended.swap(true, Ordering::AcqRel) {
                return;
            }
            state.ended_at = Some(Instant::now());
            std::mem::take(&mut state.mourners)
        };
        self.over.notify_waiters();
        for mourner in mourners.iter().filter_map(Weak::upgrade) {
            mourner.died(self);
        }
    }

    /// Whether it has not ended.
    pub fn is_alive(&self) -> bool {
        !self.ended.load(Ordering::Acquire)
    }

    /// Returns once it has ended.
    pub async fn over(&self) {
        let mut over = pin!(self.over.notified());
        over.as_mut().enable();
        if self.is_alive() {
            over.await;
        }
    }

    /// How many crossings there were.
    pub fn crossings(&self) -> u64 {
        self.crossings.load(Ordering::Acquire)
    }

    /// What it was about to do when it died at a planned crossing.
    pub fn died_before(&self) -> Option<&'static str> {
        self.lock().last_crossing
    }

    /// Stops it for so long from now: its calls wait, and brokers hear nothing of it. Whoever polls its tasks should leave that be
    /// meanwhile; what they settle all the same is told to the broker when it thaws.
    pub fn freeze(&self, duration: Duration) {
        let now = Instant::now();
        let mut state = self.lock();
        let since = state.frozen.filter(|frozen| frozen.until >= now).map_or(now, |it| it.since);
        state.frozen = Some(Freeze { since, until: now + duration });
        self.froze.store(true, Ordering::Release);
    }

    /// Whether it stands still.
    pub fn is_frozen(&self) -> bool {
        self.frozen_until(Instant::now()).is_some()
    }

    /// Counts a crossing once the process runs; pends for ever where it has ended.
    pub(super) async fn cross(&self, what: &'static str) {
        self.runs().await;
        if !self.crosses(what) {
            std::future::pending::<()>().await;
        }
    }

    /// Waits while it is frozen; pends for ever where it has ended.
    pub(super) async fn runs(&self) {
        while self.is_alive() {
            if !self.froze.load(Ordering::Acquire) {
                return;
            }
            let Some(until) = self.frozen_until(Instant::now()) else { return };
            sleep_until(until).await;
        }
        std::future::pending::<()>().await;
    }

    /// Since when brokers have heard nothing of it: it has ended, or stands still.
    pub(super) fn silent_since(&self, now: Instant) -> Option<Instant> {
        let state = self.lock();
        let frozen = state.frozen.filter(|frozen| frozen.until > now).map(|frozen| frozen.since);
        match (state.ended_at, frozen) {
            (Some(ended), Some(frozen)) => Some(ended.min(frozen)),
            (ended, frozen) => ended.or(frozen),
        }
    }

    pub(super) fn frozen_until(&self, now: Instant) -> Option<Instant> {
        if !self.froze.load(Ordering::Acquire) {
            return None;
        }
        self.lock().frozen.map(|frozen| frozen.until).filter(|until| *until > now)
    }

    /// The last time it stood still, or stands.
    pub(super) fn last_freeze(&self) -> Option<Freeze> {
        if !self.froze.load(Ordering::Acquire) {
            return None;
        }
        self.lock().frozen
    }

    /// Tells this one of the end. One that is told already is told once.
    pub(super) fn mourned_by(&self, mourner: &Arc<impl Mourner + 'static>) {
        let mut state = self.lock();
        let weak = Arc::downgrade(mourner) as Weak<dyn Mourner>;
        state.mourners.retain(|known| known.strong_count() > 0);
        if !state.mourners.iter().any(|known| known.ptr_eq(&weak)) {
            state.mourners.push(weak);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn a_life_ends_at_the_crossing_that_was_planned_and_none_follows() {
        let life = Life::numbered(4);
        assert!(life.crosses("send"));
        life.die_at(2);
        assert!(life.crosses("receive"));
        assert!(!life.crosses("settle"));
        assert!(!life.is_alive() && !life.crosses("send"));
        assert_eq!((life.crossings(), life.died_before(), life.number()), (3, Some("settle"), 4));
    }

    #[test]
    fn a_death_that_was_planned_anew_comes_at_the_new_crossing() {
        let life = Life::new();
        life.die_at(1);
        life.die_at(3);
        assert!(life.crosses("a") && life.crosses("b") && !life.crosses("c"));
    }

    #[tokio::test(start_paused = true)]
    async fn calls_of_a_frozen_process_wait_and_those_of_a_dead_one_never_return() {
        let life = Life::new();
        life.freeze(Duration::from_secs(5));
        let begun = Instant::now();
        assert!(life.is_frozen());
        life.cross("send").await;
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
        life.kill();
        assert!(life.cross("send").now_or_never().is_none());
        assert_eq!(life.crossings(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_its_end_is_told_at_once_before_it_or_behind_it() {
        let life = Life::new();
        let mut waits = pin!(life.over());
        assert!(waits.as_mut().now_or_never().is_none());
        life.kill();
        assert!(waits.now_or_never().is_some());
        assert!(life.over().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_mourns_is_told_once_and_finds_it_dead() {
        #[derive(Debug, Default)]
        struct Counting(AtomicU64);
        impl Mourner for Counting {
            fn died(&self, life: &Life) {
                assert!(!life.is_alive());
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let (life, mourner) = (Life::new(), Arc::new(Counting::default()));
        life.mourned_by(&mourner);
        life.mourned_by(&mourner);
        life.kill();
        life.kill();
        assert_eq!(mourner.0.load(Ordering::Relaxed), 1);
    }
}
