//! From where a partition is read, and up to where everything read of it is settled.

use std::collections::BTreeSet;

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Nothing was read before.
    Beginning,
    /// This offset is next.
    At(u64),
}

/// Compares what was taken care of with what the log holds, from `low` to just below `high`.
/// The error tells why reading on would repeat or skip something silently.
pub(super) fn start(next: Option<u64>, low: u64, high: u64) -> Result<Start, String> {
    let Some(next) = next else { return Ok(Start::Beginning) };
    if next > high {
        return Err(format!(
            "everything below offset {next} was read before, but the log ends at {high}; the topic was truncated or made anew, \
             or the store belongs to another cluster; bring the matching one back, or start with a store without this position"
        ));
    }
    if next < low {
        return Err(format!(
            "offset {next} is next, but the log begins at {low} and ends at {high}; the messages between were deleted before they were \
             read; bring them back, or accept the loss by moving the position to {low}"
        ));
    }
    Ok(Start::At(next))
}

/// What of one partition was read and is not settled yet.
#[derive(Debug, Default)]
pub(super) struct Mark {
    unsettled: BTreeSet<u64>,
    next: Option<u64>,
}

impl Mark {
    pub(super) fn starting_at(start: Start) -> Self {
        let next = match start {
            Start::Beginning => None,
            Start::At(next) => Some(next),
        };
        Self { unsettled: BTreeSet::new(), next }
    }

    pub(super) fn read(&mut self, offset: u64) {
        self.unsettled.insert(offset);
        self.next = Some(offset + 1);
    }

    pub(super) fn settled(&mut self, offset: u64) {
        self.unsettled.remove(&offset);
    }

    /// The next offset that will be read, where one is known.
    pub(super) fn next(&self) -> Option<u64> {
        self.next
    }

    /// Everything below is settled.
    pub(super) fn low(&self) -> Option<u64> {
        self.unsettled.first().copied().or(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_outside_the_log_is_refused_with_its_reason() {
        assert_eq!(start(None, 5, 9), Ok(Start::Beginning));
        assert_eq!(start(Some(5), 5, 9), Ok(Start::At(5)));
        assert_eq!(start(Some(9), 5, 9), Ok(Start::At(9)));
        assert!(start(Some(10), 5, 9).is_err_and(|why| why.contains("ends at 9")));
        assert!(start(Some(4), 5, 9).is_err_and(|why| why.contains("begins at 5")));
    }

    #[test]
    fn the_low_mark_waits_for_the_oldest_unsettled() {
        let mut mark = Mark::starting_at(Start::Beginning);
        assert_eq!(mark.low(), None);
        for offset in [3, 4, 7] {
            mark.read(offset);
        }
        mark.settled(4);
        assert_eq!(mark.low(), Some(3));
        mark.settled(3);
        assert_eq!(mark.low(), Some(7));
        mark.settled(7);
        assert_eq!(mark.low(), Some(8));
    }
}
