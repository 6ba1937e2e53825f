//! How long to wait before the next try to reach a broker.
//!
//! Used by the supervisors of the brokers' connections. Only computes delays: whoever waits does so with its own clock.
//! Each thread draws its jitter from a seed of the system, or from one that [`seeded`] gave it: so a run can be repeated.

use crate::random::Random;
use backoff::{SystemClock, backoff::Backoff, exponential::ExponentialBackoff};
use std::{
    cell::RefCell,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// The first delay. Long enough for a broker that only dropped one connection, too short for a person to notice.
pub const DELAY_FIRST: Duration = Duration::from_millis(100);

/// The longest delay before jitter. A broker that comes back is found again within this time and its jitter.
pub const DELAY_MAX: Duration = Duration::from_secs(15);

/// Each delay is this many times the one before it.
const GROWTH: f64 = 2.0;

/// Delays vary by this part of their length both ways, so that many processes do not come back in step.
const JITTER: f64 = 0.5;

thread_local! {
    // The standard library seeds its hashers from the system, another way for each of them.
    static DICE: RefCell<Random> = RefCell::new(Random::new(RandomState::new().hash_one(0_u8)));
}

/// From now on the jitter of all delays of this thread follows from `seed`, those that exist included: for runs on virtual time
/// that are to be repeated. Never called, no two processes wait in step.
pub fn seeded(seed: u64) {
    DICE.set(Random::new(seed));
}

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
                // Ours, below: the crate's own can't be repeated.
                randomization_factor: 0.0,
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
        let delay = self.backoff.next_backoff().unwrap_or(DELAY_MAX);
        let part = DICE.with_borrow_mut(Random::fraction);
        delay.mul_f64(1.0 - JITTER + 2.0 * JITTER * part)
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
    fn delays_of_a_seeded_thread_are_repeated_and_those_of_others_differ() {
        let drawn = || {
            let mut delays = Delays::new();
            (0..20).map(|_| delays.after_failure()).collect::<Vec<_>>()
        };
        seeded(7);
        let first = drawn();
        assert_ne!(drawn(), first, "it goes on, instead of beginning anew");
        seeded(7);
        assert_eq!(drawn(), first);
        seeded(8);
        assert_ne!(drawn(), first);
        let unseeded = || std::thread::spawn(drawn).join().expect("no panic");
        assert_ne!(unseeded(), unseeded());
    }

    #[test]
    fn jitter_reaches_both_sides_of_a_delay() {
        let firsts: Vec<_> = (0..1_000).map(|_| Delays::new().after_failure()).collect();
        let near = |part: f64| {
            let wanted = DELAY_FIRST.mul_f64(part);
            firsts.iter().any(|delay| delay.abs_diff(wanted) < DELAY_FIRST.mul_f64(0.05))
        };
        assert!(near(1.0 - JITTER) && near(1.0) && near(1.0 + JITTER));
        assert!(firsts.iter().all(|delay| *delay >= DELAY_FIRST.mul_f64(1.0 - JITTER)));
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
