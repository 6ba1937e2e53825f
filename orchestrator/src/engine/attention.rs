//! Attention: a deadline counts only while replies are heard.
//!
//! Where the process stood still (stopped, suspended, starved, or waiting for its disk or its brokers), or took nothing in
//! for want of room, replies wait at the broker and time has gone on. A shard then listens for a moment before it lets
//! timers fire: otherwise all deadlines of that time would run out at once, and answered steps would be taken for unanswered.

use std::time::{Duration, Instant};

/// A shard that took no turn for this long stood still. Many times what a turn takes, and below what a deadline is worth.
const STOOD_STILL: Duration = Duration::from_secs(5);

/// How long replies are listened to before timers fire again.
const LISTEN_FIRST: Duration = Duration::from_secs(3);

/// Since when a shard hears what is said.
#[derive(Debug)]
pub(crate) struct Attention {
    turn: Instant,
    /// Timers rest until then.
    resting: Option<Instant>,
}

impl Attention {
    pub(super) fn new(now: Instant) -> Self {
        Self { turn: now, resting: None }
    }

    /// A turn begins; `deaf` while nothing is taken in. Says whether timers may fire in it.
    pub(super) fn turn(&mut self, now: Instant, deaf: bool) -> bool {
        let still = now.saturating_duration_since(self.turn);
        self.turn = now;
        if still > STOOD_STILL {
            tracing::warn!(
                seconds = still.as_secs(),
                "This process stood still; timers rest until waiting replies are heard."
            );
        }
        if deaf || still > STOOD_STILL {
            self.resting = Some(now + LISTEN_FIRST);
        }
        match self.resting {
            Some(until) if now < until => false,
            _ => {
                self.resting = None;
                true
            }
        }
    }

    /// How long to wait for jobs, where the next timer is due after `due`.
    pub(super) fn patience(&self, due: Duration) -> Duration {
        self.resting.map_or(due, |until| due.max(until.saturating_duration_since(self.turn)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_standing_still_timers_rest_for_a_moment_and_then_fire() {
        let start = Instant::now();
        let mut attention = Attention::new(start);
        assert!(attention.turn(start + Duration::from_millis(500), false));
        let woken = start + Duration::from_secs(30);
        assert!(!attention.turn(woken, false));
        assert_eq!(attention.patience(Duration::ZERO), LISTEN_FIRST);
        assert!(!attention.turn(woken + LISTEN_FIRST / 2, false));
        assert!(attention.turn(woken + LISTEN_FIRST, false));
        assert_eq!(attention.patience(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn while_nothing_is_taken_in_timers_rest_and_for_a_moment_longer() {
        let start = Instant::now();
        let mut attention = Attention::new(start);
        for second in 1..100 {
            assert!(!attention.turn(start + Duration::from_secs(second), true));
        }
        let heard = start + Duration::from_secs(100);
        assert!(!attention.turn(heard, false));
        assert!(attention.turn(heard + LISTEN_FIRST, false));
    }
}
