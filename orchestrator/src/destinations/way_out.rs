//! The way out of a lane, which its relay shares with the destinations behind it.
//!
//! What goes in: when a window leaves and when the broker has decided it (the relay), and that something may leave which waited (a
//! destination). What comes out: the relay is woken, and a destination learns whether windows kept a command from leaving.
//! What must be true: of a command that was in such a window, or handed over behind it, it is said; so its time is not used up by others.
//!
//! Nobody knows here which command lies where: one was kept where the window under way and the one before it were out for the better part of its time. That
//! may be said, too, of one that left before them and was lost: its time begins anew once or twice, since sinks decide their windows
//! within a bound of their own. Windows that are decided as fast as they should be keep nobody, however many there are.

use dirigent_model::time::Timestamp;
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(crate) struct WayOut {
    wake: Notify,
    windows: Mutex<Windows>,
}

#[derive(Debug, Default)]
struct Windows {
    /// When the one left that is not decided.
    out: Option<Timestamp>,
    /// When the one before it left, and when it was decided.
    last: Option<(Timestamp, Timestamp)>,
}

impl WayOut {
    fn windows(&self) -> MutexGuard<'_, Windows> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something may leave that waited.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Until something may leave that waited.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    pub(crate) fn window_leaves(&self, now: Timestamp) {
        self.windows().out = Some(now);
    }

    pub(crate) fn window_is_decided(&self, now: Timestamp) {
        let mut windows = self.windows();
        windows.last = windows.out.take().map(|left| (left, now));
    }

    /// Whether windows were out for the better part of the time since a command was asked, which is over now.
    pub(super) fn kept(&self, asked: Timestamp, now: Timestamp) -> bool {
        let windows = self.windows();
        let spans = [windows.out.map(|left| (left, now)), windows.last];
        let within =
            |(left, decided): (Timestamp, Timestamp)| decided.min(now).since(left.max(asked));
        let kept: Duration = spans.into_iter().flatten().map(within).sum();
        kept * 2 > now.since(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Timestamp {
        Timestamp(seconds * 1_000)
    }

    #[test]
    fn a_command_is_kept_by_a_window_that_is_out_for_the_better_part_of_its_time() {
        let way = WayOut::default();
        assert!(!way.kept(at(1), at(11)), "nothing is under way");
        way.window_leaves(at(2));
        assert!(way.kept(at(1), at(11)), "it is in it, or just missed it");
        assert!(way.kept(at(3), at(13)), "it is behind it");
        assert!(!way.kept(at(1), at(3)), "half of its time is not the better part");
    }

    #[test]
    fn a_command_was_kept_by_a_window_that_was_decided_just_before_its_time_was_over() {
        let way = WayOut::default();
        way.window_leaves(at(2));
        way.window_is_decided(at(25));
        assert!(way.kept(at(16), at(26)));
        way.window_leaves(at(25));
        assert!(way.kept(at(20), at(30)), "the one before it counts, too");
        way.window_is_decided(at(26));
        assert!(!way.kept(at(25), at(35)), "it left after that one");
    }

    #[test]
    fn windows_that_are_decided_soon_keep_nobody_however_many_there_are() {
        let way = WayOut::default();
        for second in 0..100 {
            way.window_leaves(at(second));
            way.window_is_decided(at(second + 1));
        }
        assert!(!way.kept(at(90), at(100)));
    }
}
