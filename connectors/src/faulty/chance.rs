//! Chances by seed.

use crate::random::Random;
use std::time::Duration;

pub(super) struct Chance(Random);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(Random::new(seed))
    }

    pub(super) fn happens(&mut self, probability: f64) -> bool {
        self.0.fraction() < probability
    }

    pub(super) fn up_to(&mut self, max: Duration) -> Duration {
        max.mul_f64(self.0.fraction())
    }
}
