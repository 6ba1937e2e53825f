//! Attention: a deadline counts only while replies are heard.
//!
//! Where the process stood still (stopped, suspended, starved, or waiting for its disk or its brokers), or took nothing in
//! for want of room, replies wait at the broker and time has gone on. A shard then listens for a moment before it lets
//! timers fire: otherwise all deadlines of that time would run out at once, and answered steps would be taken for unanswered.

use std::time::Duration;
use tokio::time::Instant;

/// A shard that took no turn for this long stood still. Many times what a turn takes, and below what a deadline is worth.
const STOOD_STILL: Duration = Duration::from_secs(5);

/// How long replies are listened to before timers fire again.
const LISTEN_FIRST: Duration = Duration::from_secs(3);

/// Since when a shard hears what is said.
#[derive(Debug)]
pub(crate) struct Attention {
    turn: Instant,
    /// How long of the time since then it waited for the committer, whose own waits are told elsewhere.
    waited: Duration,
    /// Timers rest until then.
    resting: Option<Instant>,
}

impl Attention {
    pub(super) fn new(now: Instant) -> Self {
        Self { turn: now, waited: Duration::ZERO, resting: None }
    }

    /// The committer had enough and made it wait for so long.
    pub(super) fn waited(&mut self, span: Duration) {
        self.waited += span;
    }

    /// A turn begins; `deaf` while nothing is taken in. Says whether timers may fire in it.
    pub(super) fn turn(&mut self, now: Instant, deaf: bool) -> bool {
        let still = now.saturating_duration_since(self.turn);
        self.turn = now;
        let waited = std::mem::take(&mut self.waited);
        match (is_standstill(still, waited), still > STOOD_STILL) {
            (true, _) => tracing::warn!(
                seconds = (still - waited).as_secs(),
                "This process stood still; timers rest until waiting replies are heard."
            ),
            (false, true) => tracing::debug!(
                seconds = waited.as_secs(),
                "A shard waited for its disk or its brokers; timers rest until waiting replies are heard."
            ),
            (false, false) => {}
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

/// Whether what went on was not the waiting for disk and brokers, which is ordinary back-pressure.
fn is_standstill(still: Duration, waited: Duration) -> bool {
    still.saturating_sub(waited) > STOOD_STILL
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
    fn waiting_for_disk_or_brokers_is_no_standstill_but_timers_rest_after_it_all_the_same() {
        let start = Instant::now();
        let minute = Duration::from_secs(60);
        let mut attention = Attention::new(start);
        attention.waited(minute - Duration::from_secs(1));
        assert!(!attention.turn(start + minute, false));
        assert!(attention.turn(start + minute + LISTEN_FIRST, false));
        assert!(!is_standstill(minute, minute - Duration::from_secs(1)));
        assert!(is_standstill(minute, Duration::ZERO));
        assert!(is_standstill(minute, minute - STOOD_STILL - Duration::from_millis(1)));
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
