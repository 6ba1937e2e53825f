//! Whether the committer gets on, or waits for brokers, for room or for the disk.
//!
//! While it waits nothing leaves this process, and what was sent to it is not taken in: no reply is heard, and no time for one
//! counts. The committer tells, intakes ask.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// How long the committer waits before nothing counts as heard: longer than a sync on a disk that is well, shorter than what a
/// time limit is worth.
pub(crate) const HELD_UP_AFTER: Duration = Duration::from_secs(1);

/// Since when the committer waits.
#[derive(Debug)]
pub(crate) struct HoldUp {
    begun: Instant,
    /// Milliseconds since `begun`, plus one; 0 while it gets on.
    since: AtomicU64,
}

impl Default for HoldUp {
    fn default() -> Self {
        Self { begun: Instant::now(), since: AtomicU64::new(0) }
    }
}

impl HoldUp {
    /// The committer waits, or may be about to; or it gets on.
    pub(super) fn tell(&self, waits: bool) {
        if !waits {
            self.since.store(0, Ordering::Release);
        } else if self.since.load(Ordering::Acquire) == 0 {
            self.since.store(self.millis() + 1, Ordering::Release);
        }
    }

    /// Whether it has been waiting for too long to call it work.
    pub(crate) fn lasts(&self) -> bool {
        match self.since.load(Ordering::Acquire) {
            0 => false,
            since => {
                Duration::from_millis((self.millis() + 1).saturating_sub(since)) >= HELD_UP_AFTER
            }
        }
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_committer_that_waits_for_long_is_held_up() {
        let hold_up = HoldUp::default();
        for _ in 0..100 {
            hold_up.tell(true);
            tokio::time::advance(HELD_UP_AFTER / 2).await;
            hold_up.tell(true);
            assert!(!hold_up.lasts());
            hold_up.tell(false);
        }
        hold_up.tell(true);
        tokio::time::advance(HELD_UP_AFTER).await;
        hold_up.tell(true);
        assert!(hold_up.lasts(), "told again is no news");
        hold_up.tell(false);
        assert!(!hold_up.lasts());
    }
}
