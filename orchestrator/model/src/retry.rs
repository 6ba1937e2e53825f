//! When to ask again. Durable retries are state of an instance, not a loop: this only computes.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How often and when a command is sent again after a technical failure or a timeout.
///
/// Delays grow exponentially with *full jitter* (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015),
/// drawn from a seed, so that the same history gives the same delays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Attempts in all, the first one included; at least 1.
    pub attempts_max: u32,
    /// The longest delay after the first attempt; doubles with each further one.
    pub first: Duration,
    /// No delay is longer.
    pub longest: Duration,
    /// No attempt begins later than this after the first one, if set.
    pub within: Option<Duration>,
    /// Failure codes after which asking again is no use.
    pub not_after: Vec<String>,
}

impl Retry {
    /// One attempt only.
    pub fn never() -> Self {
        Self::exponential(1, Duration::ZERO, Duration::ZERO)
    }

    /// `attempts_max` attempts, with delays up to `first`, twice that, and so on up to `longest`.
    pub fn exponential(attempts_max: u32, first: Duration, longest: Duration) -> Self {
        Self {
            attempts_max: attempts_max.max(1),
            first,
            longest,
            within: None,
            not_after: Vec::new(),
        }
    }

    /// No attempt begins later than `span` after the first.
    #[must_use]
    pub fn within(mut self, span: Duration) -> Self {
        self.within = Some(span);
        self
    }

    /// Gives up at once when a failure carries one of these codes.
    #[must_use]
    pub fn not_after(mut self, codes: &[&str]) -> Self {
        self.not_after.extend(codes.iter().map(ToString::to_string));
        self
    }

    /// Whether a further attempt may begin after `attempt` attempts, `elapsed` after the first.
    pub fn permits_after(&self, attempt: u32, elapsed: Duration) -> bool {
        attempt < self.attempts_max && self.within.is_none_or(|span| elapsed < span)
    }

    /// How long after the first attempt the last one may begin, if each of them waits so long for its reply.
    pub fn span(&self, reply_within: Duration) -> Duration {
        // From this attempt on all delays are the longest.
        let doubling = self.attempts_max.min(33);
        let growing =
            (1..doubling).map(|attempt| reply_within.saturating_add(self.ceiling(attempt)));
        let growing = growing.fold(Duration::ZERO, Duration::saturating_add);
        let level = reply_within.saturating_add(self.ceiling(doubling));
        let span = growing.saturating_add(level.saturating_mul(self.attempts_max - doubling));
        self.within.map_or(span, |within| span.min(within))
    }

    fn ceiling(&self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(32);
        let ceiling = self.first.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX));
        ceiling.min(self.longest)
    }

    /// The delay before the attempt after `attempt`, by `seed`.
    pub fn delay(&self, attempt: u32, seed: u64) -> Duration {
        let ceiling_ms = u64::try_from(self.ceiling(attempt).as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(scatter(seed ^ u64::from(attempt)) % ceiling_ms.saturating_add(1))
    }
}

impl Default for Retry {
    /// Three attempts, with delays up to 200 ms and 400 ms.
    fn default() -> Self {
        Self::exponential(3, Duration::from_millis(200), Duration::from_secs(5))
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): spreads a seed over all bits.
pub(crate) fn scatter(seed: u64) -> u64 {
    let mut bits = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: fn() -> Retry =
        || Retry::exponential(10, Duration::from_millis(100), Duration::from_secs(2));

    #[test]
    fn delays_never_exceed_the_doubling_ceiling_or_the_longest() {
        for seed in 0..500 {
            for attempt in 1..80 {
                let ceiling = 100_u128 << (attempt - 1).min(40);
                let delay = POLICY().delay(attempt, seed).as_millis();
                assert!(delay <= ceiling.min(2_000), "attempt {attempt}: {delay} ms");
            }
        }
    }

    #[test]
    fn the_span_of_a_policy_is_the_longest_time_until_its_last_attempt() {
        let (ms, second) = (Duration::from_millis, Duration::from_secs(1));
        assert_eq!(Retry::never().span(second), Duration::ZERO);
        // 100, 200, 400, 800, 1 600, and four times 2 000 ms, each after a second without a reply.
        assert_eq!(POLICY().span(second), ms(3_100 + 4 * 2_000 + 9 * 1_000));
        assert_eq!(POLICY().within(second).span(second), second);
        let many = Retry::exponential(1_000_000, second, second);
        assert_eq!(many.span(Duration::ZERO), Duration::from_secs(999_999));
    }

    #[test]
    fn the_same_seed_gives_the_same_delay_and_seeds_differ() {
        assert_eq!(POLICY().delay(5, 9), POLICY().delay(5, 9));
        assert!((0..20).any(|seed| POLICY().delay(5, seed) != POLICY().delay(5, 99)));
    }

    #[test]
    fn attempts_and_total_time_are_both_limits() {
        let policy = POLICY().within(Duration::from_secs(10));
        assert!(policy.permits_after(9, Duration::from_secs(9)));
        assert!(!policy.permits_after(10, Duration::from_secs(9)));
        assert!(!policy.permits_after(1, Duration::from_secs(10)));
    }
}
