//! Who decides what happens to connections: nothing, every byte once, or anything by seed.

use super::{Carried, Cut, Director, Plan, Way};
use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// Numbers that look random and come again with their seed (SplitMix64).
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Carries everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Through;

impl Director for Through {
    fn plan(&self, _: u64) -> Plan {
        Plan::default()
    }

    fn ended(&self, _: u64, _: &Plan, _: Carried) {}
}

/// Bytes behind which a connection that was let through ends too, so that others follow, unless set otherwise.
const TURNOVER_BYTES: u64 = 48 * 1024;

/// How often a cut is tried that no connection lived long enough for: of some twenty that a client of Kafka makes for one opening,
/// one or two get beyond the first two KiB.
const TRIES_MAX: u32 = 256;

/// Cuts one connection at each of the given bytes, both ways: those up to which a connection gets. Every other connection is
/// let through, so that whoever connects gets something done.
#[derive(Debug)]
pub struct Every {
    state: Mutex<Cuts>,
    turnover: u64,
    over: AtomicBool,
}

#[derive(Debug)]
struct Cuts {
    waiting: Vec<(Plan, u32)>,
    /// By the number of the connection: how often its cut was tried before.
    under_way: BTreeMap<u64, u32>,
    made: u64,
    unreached: u64,
}

impl Every {
    /// Every `step`th byte below `bytes`, beginning at one below `step` that the seed says, in an order that the seed says.
    pub fn byte_below(bytes: u64, step: u64, seed: u64) -> Self {
        let mut dice = Dice(seed);
        let first = dice.below(step);
        let mut waiting = Vec::new();
        for after in (first..bytes).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
            for up in [true, false] {
                let cut = if dice.below(2) == 0 { Cut::Reset } else { Cut::HalfClose };
                let way = Way { cut: Some((after, cut)), delay: Duration::ZERO };
                let mut plan = Plan::default();
                *(if up { &mut plan.up } else { &mut plan.down }) = way;
                waiting.push((plan, 0));
            }
        }
        for index in (1..waiting.len()).rev() {
            let other = usize::try_from(dice.below(index as u64 + 1)).unwrap_or_default();
            waiting.swap(index, other);
        }
        let state = Cuts { waiting, under_way: BTreeMap::new(), made: 0, unreached: 0 };
        Self { state: Mutex::new(state), turnover: TURNOVER_BYTES, over: AtomicBool::new(false) }
    }

    /// Ends connections that were let through behind so many bytes: more than what anybody is given at once, who would never get it else.
    #[must_use]
    pub fn turning_over_behind(mut self, bytes: u64) -> Self {
        self.turnover = bytes;
        self
    }

    /// Cuts that were made, cuts no connection lived long enough for, and cuts still to be made.
    pub fn counts(&self) -> (u64, u64, usize) {
        let state = self.state();
        (state.made, state.unreached, state.waiting.len() + state.under_way.len())
    }

    /// From now on everything is carried.
    pub fn is_over(&self) {
        self.over.store(true, Ordering::Release);
    }

    fn state(&self) -> MutexGuard<'_, Cuts> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn target(plan: &Plan) -> Option<(u64, bool)> {
    let of = |way: &Way, up| way.cut.map(|(after, _)| (after, up));
    of(&plan.up, true)
        .or_else(|| of(&plan.down, false))
        .filter(|(after, _)| *after < TURNOVER_BYTES)
}

impl Director for Every {
    fn plan(&self, number: u64) -> Plan {
        if self.over.load(Ordering::Acquire) {
            return Plan::default();
        }
        let through = Way { cut: Some((self.turnover, Cut::Reset)), delay: Duration::ZERO };
        let through = Plan { up: through, down: through };
        if number % 2 == 1 {
            return through;
        }
        let mut state = self.state();
        match state.waiting.pop() {
            Some((plan, tries)) => {
                state.under_way.insert(number, tries);
                plan
            }
            None => through,
        }
    }

    fn ended(&self, number: u64, plan: &Plan, carried: Carried) {
        let Some((after, up)) = target(plan) else { return };
        let mut state = self.state();
        let Some(tries) = state.under_way.remove(&number).map(|tries| tries + 1) else { return };
        let reached = if up { carried.up } else { carried.down } >= after;
        if reached {
            state.made += 1;
        } else if tries >= TRIES_MAX {
            state.unreached += 1;
        } else {
            // Not at once: others first, as what is wanted now may be what can't be had now.
            state.waiting.insert(0, (*plan, tries));
        }
    }
}

/// Anything, by seed: some four of ten connections are carried to their end, the others are reset, closed by half, or fall silent;
/// any may be delayed.
#[derive(Debug)]
pub struct Random {
    dice: Mutex<Dice>,
    over: AtomicBool,
    cuts: AtomicU64,
    connections: AtomicU64,
}

/// The longest delay of a piece, and the longest silence (ms): long enough to be felt, too short for anybody's patience.
const DELAY_MS_MAX: u64 = 20;
const SILENCE_MS_MAX: u64 = 4_000;

/// Bytes behind which a random cut comes, at the most.
const CUT_BYTES_MAX: u64 = 4 * 1024 * 1024;

impl Random {
    /// By this seed.
    pub fn seeded(seed: u64) -> Self {
        Self {
            dice: Mutex::new(Dice(seed)),
            over: AtomicBool::new(false),
            cuts: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        }
    }

    /// From now on everything is carried.
    pub fn is_over(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// Connections that were made, and how many of them were cut.
    pub fn counts(&self) -> (u64, u64) {
        (self.connections.load(Ordering::Relaxed), self.cuts.load(Ordering::Relaxed))
    }
}

impl Director for Random {
    fn plan(&self, _: u64) -> Plan {
        self.connections.fetch_add(1, Ordering::Relaxed);
        if self.over.load(Ordering::Acquire) {
            return Plan::default();
        }
        let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
        let mut way = || {
            let delay = match dice.below(4) {
                0 => Duration::from_millis(dice.below(DELAY_MS_MAX)),
                _ => Duration::ZERO,
            };
            // Small ones more often: most of a dialogue's corners are at its beginning.
            let bound = CUT_BYTES_MAX >> dice.below(14);
            let after = dice.below(bound);
            let cut = match dice.below(8) {
                0 => Some(Cut::Reset),
                1 => Some(Cut::HalfClose),
                2 => Some(Cut::Silence(Duration::from_millis(dice.below(SILENCE_MS_MAX)))),
                _ => None,
            };
            Way { delay, cut: cut.map(|cut| (after, cut)) }
        };
        Plan { up: way(), down: way() }
    }

    fn ended(&self, _: u64, plan: &Plan, carried: Carried) {
        let cut = |way: Way, carried: u64| way.cut.is_some_and(|(after, _)| carried >= after);
        if cut(plan.up, carried.up) || cut(plan.down, carried.down) {
            self.cuts.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_cut_once_both_ways_and_what_was_not_reached_is_tried_again() {
        let every = Every::byte_below(10, 1, 7);
        let (mut made, mut number) = (Vec::new(), 0);
        while every.counts().2 > 0 {
            let own = number;
            let plan = every.plan(own);
            number += 1;
            let Some((after, up)) = target(&plan) else { continue };
            // Every third connection is too short for its cut.
            let far = if number % 3 == 0 && after > 0 { after - 1 } else { after };
            every.ended(own, &plan, Carried { up: far, down: far });
            if far == after {
                made.push((after, up));
            }
        }
        made.sort_unstable();
        let all: Vec<_> = (0..10).flat_map(|after| [(after, false), (after, true)]).collect();
        assert_eq!(made, all);
        assert_eq!(every.counts(), (20, 0, 0));
    }

    #[test]
    fn a_cut_that_no_connection_reaches_is_given_up_and_counted() {
        let every = Every::byte_below(1_000, 999, 1);
        let (mut number, none) = (0, Carried { up: 0, down: 0 });
        while every.counts().2 > 0 {
            every.ended(number, &every.plan(number), none);
            number += 1;
        }
        let (made, unreached, _) = every.counts();
        assert!(made + unreached >= 2 && unreached > 0);
    }

    #[test]
    fn a_seed_repeats_its_plans() {
        let (one, two) = (Random::seeded(3), Random::seeded(3));
        let plans: Vec<_> = (0..200).map(|number| one.plan(number)).collect();
        assert!(plans == (0..200).map(|number| two.plan(number)).collect::<Vec<_>>());
        assert!(plans.iter().any(|plan| plan.up.cut.is_some() && plan.down.cut.is_none()));
    }
}
