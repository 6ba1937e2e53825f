//! What goes wrong at a simulated broker, and how often: rates for its dice, and the names that what happened is counted by.

use crate::random::Random;
use std::{ops::Range, time::Duration};

/// Names of faults, as [`SimBroker::injected`](super::SimBroker::injected) counts them.
pub mod injected {
    /// A message was stored twice on its way in.
    pub const DOUBLED: &str = "doubled";
    /// A message was handed out later than it was stored.
    pub const LATE: &str = "late";
    /// A message was stored, and its sender was not told. For an owner of a log: the end of a transaction is in doubt.
    pub const CONFIRM_LOST: &str = "confirm lost";
    /// A message was not stored, and its sender can't know.
    pub const REFUSED: &str = "refused";
    /// A message was refused for good as too large, though it is not larger than the limit.
    pub const TOO_LARGE: &str = "too large";
    /// The connection of a sink broke within a window.
    pub const SINK_RESET: &str = "sink reset";
    /// The connection of a source broke.
    pub const SOURCE_RESET: &str = "source reset";
    /// What returned to a queue did so in another order.
    pub const REORDERED: &str = "reordered";
    /// An operation took longer.
    pub const SLOW: &str = "slow";
    /// Fewer messages were handed out than there were.
    pub const PIECES: &str = "pieces";
    /// A channel handed out nothing for a while.
    pub const SILENT: &str = "silent";
    /// The broker was away.
    pub const AWAY: &str = "away";
    /// Offsets were left out of a log.
    pub const GAP: &str = "gap";
    /// A transaction was open for longer than the broker lets it, and was aborted.
    pub const TIMED_OUT: &str = "transaction timed out";
    /// A window was sent by an owner that is none any more.
    pub const FENCED: &str = "fenced";
    /// A process that was dead or stood still lost its group or queues.
    pub const TAKEN_OVER: &str = "taken over";
    /// A channel took no messages, by command.
    pub const UNROUTABLE: &str = "unroutable";
    /// A source was refused, by command.
    pub const SOURCE_REFUSED: &str = "source refused";
}

/// How often each fault happens, in thousandths, and how long those last that last. All of them never, by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimFaults {
    /// Of messages sent: stored twice.
    pub doubled: u16,
    /// Of messages sent: handed out later, by `late_by`. The key's later messages wait behind it; on a log, its partition's.
    pub late: u16,
    /// Of messages sent: stored, and the confirm is lost. Of an owner's transactions on a log: nobody hears how it ended, and all,
    /// none or some of it is there.
    pub confirm_lost: u16,
    /// Of messages sent: not stored, and the sender is left in doubt.
    pub refused: u16,
    /// Of messages sent: refused for good as too large. A message is always so or never.
    pub too_large: u16,
    /// Of windows, and of batches handed out: the connection breaks, and stands again after `broken_for`.
    pub reset: u16,
    /// Of times that messages return to a queue: in another order.
    pub reordered: u16,
    /// Of operations: they take longer, by `slow_by`.
    pub slow: u16,
    /// Of batches: only some of what is there is handed out.
    pub pieces: u16,
    /// Of batches: a channel of the source hands out nothing for `silent_for`.
    pub silent: u16,
    /// Of windows: the broker is away from now on, for `away_for`.
    pub away: u16,
    /// Of messages stored in a log: some offsets before it are left out.
    pub gaps: u16,
    /// How late a message is.
    pub late_by: Range<Duration>,
    /// How much longer a slow operation takes.
    pub slow_by: Range<Duration>,
    /// How long a connection takes to stand again. At least a millisecond.
    pub broken_for: Range<Duration>,
    /// How long a channel is silent. At least a millisecond.
    pub silent_for: Range<Duration>,
    /// How long the broker is away. At least a millisecond.
    pub away_for: Range<Duration>,
}

impl Default for SimFaults {
    fn default() -> Self {
        let seconds = |from, to| Duration::from_secs(from)..Duration::from_secs(to);
        Self {
            doubled: 0,
            late: 0,
            confirm_lost: 0,
            refused: 0,
            too_large: 0,
            reset: 0,
            reordered: 0,
            slow: 0,
            pieces: 0,
            silent: 0,
            away: 0,
            gaps: 0,
            late_by: Duration::from_millis(10)..Duration::from_secs(20),
            slow_by: Duration::from_millis(10)..Duration::from_secs(5),
            broken_for: Duration::from_millis(100)..Duration::from_secs(3),
            silent_for: seconds(1, 60),
            away_for: seconds(1, 90),
        }
    }
}

impl SimFaults {
    /// None at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// A mix: each fault is on or off for the run, and those that are on have a rate of their own. So runs meet few faults thickly
    /// and many thinly, and none hides another for ever. `too_large` is never on: it changes what sagas do, not how messages go.
    pub fn drawn(random: &mut Random) -> Self {
        let mut faults = Self::none();
        let per_message = [
            &mut faults.doubled,
            &mut faults.late,
            &mut faults.confirm_lost,
            &mut faults.refused,
            &mut faults.gaps,
        ];
        for rate in per_message {
            *rate = on_or_off(random, 1..60);
        }
        let per_operation = [&mut faults.slow, &mut faults.pieces, &mut faults.reordered];
        for rate in per_operation {
            *rate = on_or_off(random, 1..400);
        }
        for rate in [&mut faults.reset, &mut faults.silent, &mut faults.away] {
            *rate = on_or_off(random, 1..30);
        }
        faults
    }
}

fn on_or_off(random: &mut Random, rates: Range<u16>) -> u16 {
    let rate = rates.start + random.below(u64::from(rates.end - rates.start)) as u16;
    if random.one_in(2) { rate } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(faults: &SimFaults) -> [u16; 11] {
        let SimFaults { doubled, late, confirm_lost, refused, reset, reordered, .. } = *faults;
        let SimFaults { slow, pieces, silent, away, gaps, .. } = *faults;
        let sending = [doubled, late, confirm_lost, refused, gaps];
        let [a, b, c, d, e] = sending;
        [a, b, c, d, e, reset, reordered, slow, pieces, silent, away]
    }

    #[test]
    fn mixes_switch_each_fault_on_and_off_and_repeat_by_seed() {
        let mut random = Random::new(5);
        let drawn: Vec<_> = (0..200).map(|_| SimFaults::drawn(&mut random)).collect();
        for at in 0..11 {
            let on = drawn.iter().filter(|faults| rates(faults)[at] > 0).count();
            assert!((60..140).contains(&on), "fault {at} is on in {on} of 200 mixes");
        }
        assert_eq!(SimFaults::drawn(&mut Random::new(5)), drawn[0]);
        assert!(drawn.iter().all(|faults| faults.too_large == 0));
    }
}
