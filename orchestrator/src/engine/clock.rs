//! The only place that asks for the time.

use dirigent_model::time::Timestamp;
use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Now. Never earlier than what was told before.
    fn now(&self) -> Timestamp;
}

/// How much faster or slower than real time the clock runs while it follows a system's clock that was set: a tenth.
/// Deadlines are then that much shorter or longer, and no timer fires an hour early because somebody turned a hand.
const FOLLOW_SHARE: u64 = 10;

/// How far the system's clock may be away before it is told.
const ASTRAY: Duration = Duration::from_secs(60);

/// How often it is told while it stays so.
const TELL_EVERY: Duration = Duration::from_secs(600);

/// The system's clock, checked against the one that nobody can set. Where the two disagree, because the system's clock was
/// set or the machine was suspended, it follows the system's gently: it never goes back, stands still or leaps.
#[derive(Debug)]
pub struct SystemClock {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What was told last, in microseconds since 1970.
    told: u64,
    /// When, by the clock that nobody can set.
    at: Instant,
    warned: Option<Instant>,
}

impl Default for SystemClock {
    fn default() -> Self {
        let state = State { told: micros_of(SystemTime::now()), at: Instant::now(), warned: None };
        Self { state: Mutex::new(state) }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked for while the state is held: of two who ask, the later one has the later time.
        let (system, at) = (micros_of(SystemTime::now()), Instant::now());
        let told = state.follow(system, at);
        Timestamp(told / 1_000)
    }
}

impl State {
    /// What to tell now, in microseconds.
    fn follow(&mut self, system: u64, at: Instant) -> u64 {
        let passed = micros(at.saturating_duration_since(self.at));
        let (least, most) = (passed - passed / FOLLOW_SHARE, passed + passed / FOLLOW_SHARE);
        self.told = system.clamp(self.told + least, self.told.saturating_add(most));
        self.at = at;
        let astray = self.told.abs_diff(system);
        let told_lately =
            self.warned.is_some_and(|warned| at.saturating_duration_since(warned) < TELL_EVERY);
        if astray > micros(ASTRAY) && !told_lately {
            self.warned = Some(at);
            tracing::warn!(
                seconds = astray / 1_000_000,
                ahead = system > self.told,
                "The system's clock was set, or the machine was suspended; timers follow it gently, by a tenth of real time."
            );
        }
        self.told
    }
}

fn micros_of(time: SystemTime) -> u64 {
    micros(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn micros(length: Duration) -> u64 {
    u64::try_from(length.as_micros()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;
    const HOUR: u64 = 3_600 * SECOND;
    const START: u64 = 1_000_000 * HOUR;

    /// What is told after each real second, while the system's clock is `off` by so much.
    fn told(off: i64, seconds: u64) -> Vec<u64> {
        let begun = Instant::now();
        let mut state = State { told: START, at: begun, warned: None };
        let tell = |second: u64| {
            let system = (START + second * SECOND).saturating_add_signed(off);
            state.follow(system, begun + Duration::from_secs(second))
        };
        (1..=seconds).map(tell).collect()
    }

    #[test]
    fn a_clock_that_nobody_sets_is_told_as_it_is() {
        let exact: Vec<u64> = (1..=100).map(|second| START + second * SECOND).collect();
        assert_eq!(told(0, 100), exact);
    }

    #[test]
    fn a_clock_that_is_set_an_hour_or_ten_years_ahead_fires_no_timer_early() {
        for ahead in [HOUR, 10 * 365 * 24 * HOUR] {
            let told = told(ahead.cast_signed(), 60);
            // A deadline of a minute is at the most a tenth too short.
            assert_eq!(told[59], START + 66 * SECOND);
        }
    }

    #[test]
    fn a_clock_that_is_set_back_stops_no_timer() {
        let told = told(-HOUR.cast_signed(), 60);
        assert_eq!(told[59], START + 54 * SECOND);
        assert!(told.is_sorted_by(|one, next| one < next), "it goes on all the time");
    }

    #[test]
    fn a_small_step_is_made_up_for_soon() {
        let told = told(SECOND.cast_signed(), 20);
        assert_eq!(told[19], START + 21 * SECOND);
    }

    #[test]
    fn the_clock_is_close_to_the_systems_and_never_goes_back() {
        let clock = SystemClock::default();
        let mut last = clock.now();
        for _ in 0..10_000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
        let system = micros_of(SystemTime::now()) / 1_000;
        assert!(last.0.abs_diff(system) < 60_000);
    }
}
