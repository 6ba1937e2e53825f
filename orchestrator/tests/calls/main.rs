//! The real engine on a real folder, by its system calls, and where its machine does harm: calls that fail, kills, bits that flip, power
//! that goes.
//!
//! Each is short by default and long by a variable of the environment, which its file names. Random runs print their seed;
//! `DIRIGENT_TEST_SEED` repeats it, though threads and processes run as they like.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests, their helpers included")]

#[path = "../support/mod.rs"]
mod support;

mod at_rest;
mod flips;
mod killed;
mod ordered;
mod power;
mod recorded;
mod refused;
mod shop;
#[path = "../support/strace.rs"]
mod strace;

use std::time::{SystemTime, UNIX_EPOCH};
use support::Dice;

/// A number of the environment, where it says one.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|said| said.parse().expect(name))
}

/// Numbers of a seed that is drawn, or named by the environment.
struct Draw {
    seed: u64,
    dice: Dice,
}

impl Draw {
    fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Self::of(number("DIRIGENT_TEST_SEED").unwrap_or(u64::from(since.subsec_nanos())))
    }

    fn of(seed: u64) -> Self {
        Self { seed, dice: Dice(seed) }
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.dice.below(bound)
    }
}
