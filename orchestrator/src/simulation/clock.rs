//! The time in a simulation: virtual, the same for all processes.

use crate::engine::Clock;
use dirigent_model::time::Timestamp;
use tokio::time::Instant;

/// When every simulation begins: the first second of 2026, by UTC.
pub(super) const BEGINS: Timestamp = Timestamp(1_767_225_600_000);

/// Tells the virtual time.
#[derive(Debug)]
pub(super) struct SimClock {
    begun: Instant,
}

impl SimClock {
    /// Begins now, by the virtual time of the runtime that it is made on.
    pub(super) fn new() -> Self {
        Self { begun: Instant::now() }
    }

    /// How long it is since the beginning.
    pub(super) fn elapsed(&self) -> std::time::Duration {
        self.begun.elapsed()
    }
}

/// How long after the beginning this is.
pub(super) fn since_the_beginning(at: Timestamp) -> std::time::Duration {
    at.since(BEGINS)
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        BEGINS + self.elapsed()
    }
}
