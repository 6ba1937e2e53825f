//! Numbers by seed: splitmix64, which is small, and the same everywhere and for ever.
//!
//! Decides what the [`faulty`](crate::faulty) connector and the [`simulated`](crate::simulated) brokers do, and the jitter of
//! [`retry`](crate::retry). Good enough for dice, and for nothing that has to be secret.

use std::{ops::Range, time::Duration};

/// The golden ratio as a fraction of 2^64: the step of splitmix64.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// A generator. A clone repeats what the original draws.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Random(pub u64);

impl Random {
    /// Draws the same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mixed(self.0)
    }

    /// From 0 to just below `n`; 0 for an `n` of 0.
    pub fn below(&mut self, n: u64) -> u64 {
        let drawn = u128::from(self.number());
        u64::try_from((drawn * u128::from(n)) >> 64).expect("a product of two u64, shifted by 64")
    }

    /// True once in `n` times; never for an `n` of 0.
    pub fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.below(n) == 0
    }

    /// True `per_mille` times in a thousand. A rate of 0 draws nothing, so that what is switched off shifts nothing else.
    pub fn chance(&mut self, per_mille: u16) -> bool {
        per_mille > 0 && self.below(1_000) < u64::from(per_mille)
    }

    /// From 0.0 to just below 1.0.
    pub fn fraction(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A time within the range; its beginning where it is empty.
    pub fn between(&mut self, range: &Range<Duration>) -> Duration {
        let width = range.end.saturating_sub(range.start);
        if width.is_zero() {
            return range.start;
        }
        let nanos = u64::try_from(width.as_nanos()).unwrap_or(u64::MAX);
        range.start + Duration::from_nanos(self.below(nanos))
    }

    /// A generator of its own for somebody else: what one draws does not shift what the other does.
    pub fn fork(&mut self) -> Self {
        Self(self.number())
    }
}

/// A number that looks drawn and is always the same for the same one.
pub(crate) fn mixed(number: u64) -> u64 {
    let mut mixed = number;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_numbers_that_were_published_for_it() {
        // The first numbers of splitmix64 from seed 0, as its author published them.
        let mut random = Random::new(0);
        let drawn = [random.number(), random.number()];
        assert_eq!(drawn, [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4]);
    }

    #[test]
    fn what_is_drawn_stays_within_its_bounds_and_reaches_all_of_them() {
        let mut random = Random::new(7);
        let mut seen = [0_u32; 6];
        for _ in 0..6_000 {
            seen[random.below(6) as usize] += 1;
        }
        assert!(seen.iter().all(|count| (800..1_200).contains(count)), "{seen:?}");
        let range = Duration::from_millis(5)..Duration::from_millis(7);
        assert!((0..1_000).all(|_| range.contains(&random.between(&range))));
        assert!((0..1_000).all(|_| (0.0..1.0).contains(&random.fraction())));
        let still = Duration::from_secs(1)..Duration::from_secs(1);
        assert_eq!(random.between(&still), Duration::from_secs(1));
        assert_eq!((random.below(0), random.one_in(0)), (0, false));
        let hits = (0..10_000).filter(|_| random.chance(100)).count();
        assert!((800..1_200).contains(&hits), "{hits}");
    }

    #[test]
    fn a_rate_of_nought_draws_nothing_and_a_fork_goes_its_own_way() {
        let mut random = Random::new(3);
        let before = random.clone();
        assert!(!random.chance(0));
        assert_eq!(random, before);
        let mut fork = random.fork();
        let mut alone = random.clone();
        fork.number();
        assert_eq!(random.number(), alone.number());
    }
}
