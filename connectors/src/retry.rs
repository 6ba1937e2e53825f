//! How long to wait before the next try to reach a broker.
//!
//! Used by the supervisors of the brokers' connections. Only computes delays: whoever waits does so with its own clock.

use backoff::{SystemClock, backoff::Backoff, exponential::ExponentialBackoff};
use std::time::Duration;

/// The first delay. Long enough for a broker that only dropped one connection, too short for a person to notice.
pub const DELAY_FIRST: Duration = Duration::from_millis(100);

/// The longest delay before jitter. A broker that comes back is found again within this time and its jitter.
pub const DELAY_MAX: Duration = Duration::from_secs(15);

/// Each delay is this many times the one before it.
const GROWTH: f64 = 2.0;

/// Delays vary by this part of their length both ways, so that many processes do not come back in step.
const JITTER: f64 = 0.5;

/// Delays between tries: they grow to [`DELAY_MAX`], with jitter, and never end.
#[derive(Debug)]
pub struct Delays {
    backoff: ExponentialBackoff<SystemClock>,
}

impl Delays {
    /// Starts with [`DELAY_FIRST`].
    pub fn new() -> Self {
        Self {
            backoff: ExponentialBackoff {
                current_interval: DELAY_FIRST,
                initial_interval: DELAY_FIRST,
                randomization_factor: JITTER,
                multiplier: GROWTH,
                max_interval: DELAY_MAX,
                // For ever: a broker may be away for a weekend.
                max_elapsed_time: None,
                ..ExponentialBackoff::default()
            },
        }
    }

    /// The next delay.
    pub fn after_failure(&mut self) -> Duration {
        self.backoff.next_backoff().unwrap_or(DELAY_MAX)
    }

    /// The connection stands: the next failure starts with a short delay again.
    pub fn succeeded(&mut self) {
        self.backoff.reset();
    }
}

impl Default for Delays {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_stay_bounded_and_never_end() {
        let mut delays = Delays::new();
        assert!(delays.after_failure() <= DELAY_FIRST.mul_f64(1.0 + JITTER));
        for _ in 0..1_000 {
            assert!(delays.after_failure() <= DELAY_MAX.mul_f64(1.0 + JITTER));
        }
        assert!(delays.after_failure() >= DELAY_MAX.mul_f64(1.0 - JITTER));
    }

    #[test]
    fn after_a_success_delays_are_short_again() {
        let mut delays = Delays::new();
        for _ in 0..20 {
            delays.after_failure();
        }
        delays.succeeded();
        assert!(delays.after_failure() <= DELAY_FIRST.mul_f64(1.0 + JITTER));
    }
}
