//! What became of the commands of a destination, for its circuit.
//!
//! A failure is held against all that was heard since its command left, and against the last few at the least. The last few alone
//! would mislead: answers come at once, the end of a time limit comes late, and where many commands leave together the few
//! of them that were lost run out of time together, long after the others were answered. Fifty such in a row say nothing of a
//! destination that answered a thousand meanwhile.
//!
//! Outcomes are counted in slots of time, so that what is remembered is bounded at any throughput.

use dirigent_model::time::Timestamp;
use std::{collections::VecDeque, time::Duration};

/// Outcomes within so long are counted together.
const SLOT: Duration = Duration::from_millis(100);

/// Slots that are remembered: a minute of never an idle moment, and longer else. Of a command that was out for longer than they
/// reach back, what is still known counts.
const SLOTS_MAX: usize = 600;

#[derive(Debug, Clone, Copy)]
struct Slot {
    first: Timestamp,
    last: Timestamp,
    seen: usize,
    failed: usize,
}

/// How many commands were answered, and how many of them were not or not well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) seen: usize,
    pub(super) failed: usize,
}

/// The outcomes of a destination's commands, in the order in which they became known.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcomes(VecDeque<Slot>);

impl Outcomes {
    pub(super) fn note(&mut self, well: bool, now: Timestamp) {
        let failed = usize::from(!well);
        match self.0.back_mut().filter(|slot| now.since(slot.first) < SLOT) {
            Some(slot) => {
                slot.last = now;
                slot.seen += 1;
                slot.failed += failed;
            }
            None => {
                if self.0.len() >= SLOTS_MAX {
                    self.0.pop_front();
                }
                self.0.push_back(Slot { first: now, last: now, seen: 1, failed });
            }
        }
    }

    /// Of those since an instant, and of the last `least` anyway.
    pub(super) fn since(&self, instant: Timestamp, least: usize) -> Counts {
        let mut counts = Counts::default();
        for slot in self.0.iter().rev() {
            if slot.last < instant && counts.seen >= least {
                break;
            }
            counts.seen += slot.seen;
            counts.failed += slot.failed;
        }
        counts
    }

    /// Of the last `least`, and those counted together with them.
    pub(super) fn last(&self, least: usize) -> Counts {
        self.since(Timestamp(u64::MAX), least)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(millis: u64) -> Timestamp {
        Timestamp(1_000_000 + millis)
    }

    #[test]
    fn what_was_heard_since_an_instant_counts_and_the_last_ones_at_the_least() {
        let mut outcomes = Outcomes::default();
        for second in 0..100 {
            outcomes.note(second % 2 == 0, after(second * 1_000));
        }
        assert_eq!(outcomes.last(10), Counts { seen: 10, failed: 5 });
        assert_eq!(outcomes.since(after(95_000), 2), Counts { seen: 5, failed: 3 });
        assert_eq!(outcomes.since(after(0), 2), Counts { seen: 100, failed: 50 });
        outcomes.clear();
        assert_eq!(outcomes.last(10), Counts::default());
    }

    #[test]
    fn any_number_of_outcomes_fits() {
        let mut outcomes = Outcomes::default();
        for milli in 0..1_000_000 {
            outcomes.note(true, after(milli));
        }
        assert_eq!(outcomes.0.len(), SLOTS_MAX);
        assert_eq!(outcomes.since(after(0), 1).seen, SLOTS_MAX * 100, "the last minute");
    }
}
