//! The way out of a lane, which its relay shares with the destinations behind it.
//!
//! What goes in: when a window leaves and when the broker has decided it (the relay), and that something may leave which waited (a
//! destination). What comes out: the relay is woken, and a destination learns whether a command can have left at all.
//! What must be true: of a command that is behind a window it is not said that it left long ago, so its time is not used up by others.
//!
//! A command whose time is over is in the window under way, or behind it, if that window has been out for the better part of its time:
//! what was handed over before had left with the windows before. This costs a relay two writes for each window, and nobody has to
//! know which command lies where.

use dirigent_model::time::Timestamp;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// No window is under way.
const NONE: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct WayOut {
    wake: Notify,
    left: AtomicU64,
}

impl Default for WayOut {
    fn default() -> Self {
        Self { wake: Notify::new(), left: AtomicU64::new(NONE) }
    }
}

impl WayOut {
    /// Something may leave that waited.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Until something may leave that waited.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    pub(crate) fn window_leaves(&self, now: Timestamp) {
        self.left.store(now.0, Ordering::Release);
    }

    pub(crate) fn window_is_decided(&self) {
        self.left.store(NONE, Ordering::Release);
    }

    /// Whether the broker can't have confirmed a command that was asked at `asked`, and whose time is over now.
    pub(super) fn keeps(&self, asked: Timestamp, now: Timestamp) -> bool {
        let left = self.left.load(Ordering::Acquire);
        left != NONE && now.since(Timestamp(left)) >= now.since(asked) / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_kept_by_a_window_that_is_out_for_the_better_part_of_its_time() {
        let way = WayOut::default();
        let at = Timestamp;
        assert!(!way.keeps(at(1_000), at(11_000)), "nothing is under way");
        way.window_leaves(at(2_000));
        assert!(way.keeps(at(1_000), at(11_000)), "it is in it, or just missed it");
        assert!(way.keeps(at(3_000), at(13_000)), "it is behind it");
        assert!(!way.keeps(at(1_000), at(2_500)), "it left with an earlier one and was lost");
        way.window_is_decided();
        assert!(!way.keeps(at(3_000), at(13_000)));
    }
}
