//! A bucket of tokens: so many commands a second, with a burst. Pure: the time in, whether one may leave out.

use dirigent_model::time::Timestamp;
use std::time::Duration;

/// How many commands a destination is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In a second, on average; at least 1.
    pub per_second: u32,
    /// At once, after a pause; at least 1.
    pub burst: u32,
}

/// Counted in thousandths of a token, so that a millisecond at any rate is a whole number of them.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    rate: Rate,
    level: u64,
    at: Timestamp,
}

const ONE: u64 = 1_000;

impl Bucket {
    pub(super) fn new(rate: Rate) -> Self {
        let rate = Rate { per_second: rate.per_second.max(1), burst: rate.burst.max(1) };
        Self { rate, level: u64::from(rate.burst) * ONE, at: Timestamp(0) }
    }

    pub(super) fn rate(&self) -> Rate {
        self.rate
    }

    fn fill(&mut self, now: Timestamp) {
        let passed = u64::try_from(now.since(self.at).as_millis()).unwrap_or(u64::MAX);
        let more = passed.saturating_mul(u64::from(self.rate.per_second));
        self.level = self.level.saturating_add(more).min(u64::from(self.rate.burst) * ONE);
        self.at = self.at.max(now);
    }

    /// When a token is there: `None` for now.
    pub(super) fn empty_until(&mut self, now: Timestamp) -> Option<Timestamp> {
        self.fill(now);
        let missing = ONE.checked_sub(self.level).filter(|missing| *missing > 0)?;
        Some(now + Duration::from_millis(missing.div_ceil(u64::from(self.rate.per_second))))
    }

    /// Takes a token that is there.
    pub(super) fn take(&mut self) {
        self.level = self.level.saturating_sub(ONE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_the_burst_commands_leave_at_the_rate() {
        let mut bucket = Bucket::new(Rate { per_second: 40, burst: 5 });
        let (begin, mut left) = (Timestamp(1_000_000), Vec::new());
        for milli in 0..1_000 {
            let now = begin + Duration::from_millis(milli);
            while bucket.empty_until(now).is_none() {
                bucket.take();
                left.push(milli);
            }
        }
        assert_eq!(left[..7], [0, 0, 0, 0, 0, 25, 50]);
        assert_eq!(left.len(), 5 + 39);
    }

    #[test]
    fn it_says_when_the_next_one_may_leave() {
        let mut bucket = Bucket::new(Rate { per_second: 3, burst: 1 });
        let now = Timestamp(5_000);
        assert_eq!(bucket.empty_until(now), None);
        bucket.take();
        let at = bucket.empty_until(now).unwrap();
        assert_eq!(at, Timestamp(5_334));
        assert_eq!(bucket.empty_until(at), None);
    }
}
