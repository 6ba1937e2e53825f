//! From where a partition is read, and up to where everything read of it is settled.

use super::PositionsFrom;
use std::collections::BTreeMap;

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// Nothing was read before.
    Beginning,
    /// This offset is next.
    At(u64),
}

/// What the brokers know of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Log {
    /// The first offset that is there.
    pub(crate) low: u64,
    /// The one behind the last.
    pub(crate) high: u64,
    /// Up to where the group has settled, as far as it told.
    pub(crate) committed: Option<u64>,
}

impl Log {
    /// Whether the group has read further than this, or, where nothing is known, than the beginning.
    pub(crate) fn is_ahead_of(self, next: Option<u64>) -> bool {
        self.committed.is_some_and(|committed| committed > next.unwrap_or(self.low))
    }
}

/// What a person can say to a refusal.
const CHOICES: &str = "or start once with positions from `journal` (what the group did since comes again), `committed` (what lies between is \
                       never read) or `beginning` (all that the log still has is read again, and counts where this data folder has not taken care of it): \
                       --kafka-positions-from";

/// Compares what was taken care of with what the log holds and with what the group has told the brokers.
/// The error tells why reading on would repeat or skip something silently.
pub(crate) fn start(next: Option<u64>, log: Log, from: PositionsFrom) -> Result<Start, String> {
    let Log { low, high, committed } = log;
    if let Some(next) = next
        && next > high
    {
        return Err(format!(
            "everything below offset {next} was read before, but the log ends at {high}; the topic was truncated or made anew, \
             or the data folder belongs to another cluster; bring the matching one back, or use a topic of another name"
        ));
    }
    // Told only after the position was durable: a group that is further than we are was read with another data folder.
    let ahead = committed.filter(|_| log.is_ahead_of(next));
    let lost = next.filter(|next| *next < low);
    match (from, ahead, lost) {
        (_, None, None) => Ok(next.map_or(Start::Beginning, Start::At)),
        (PositionsFrom::Beginning, ..) => Ok(Start::Beginning),
        (PositionsFrom::Committed, Some(committed), _) if (low..=high).contains(&committed) => {
            Ok(Start::At(committed))
        }
        (PositionsFrom::Journal, Some(_), None) => Ok(next.map_or(Start::Beginning, Start::At)),
        (_, Some(committed), None) => {
            let stands = next.map_or("does not know this partition".to_owned(), |next| {
                format!("stands at offset {next}")
            });
            Err(format!(
                "the group has read up to offset {committed}, but this data folder {stands}: it is new, or an older copy; the log \
                 begins at {low} and ends at {high}; bring the newest data folder back, {CHOICES}"
            ))
        }
        (_, _, Some(next)) => Err(format!(
            "offset {next} is next, but the log begins at {low} and ends at {high}; the messages between were deleted before they were \
             read; bring them back, or accept the loss and start once with --kafka-positions-from beginning"
        )),
    }
}

/// What of one partition was read and is not settled yet.
#[derive(Debug, Default)]
pub(crate) struct Mark {
    /// By offset: the place behind the message before it. Between both lies a gap, which is taken care of with this message; nothing
    /// where nothing was read before.
    unsettled: BTreeMap<u64, Option<u64>>,
    next: Option<u64>,
}

impl Mark {
    pub(crate) fn starting_at(start: Start) -> Self {
        let next = match start {
            Start::Beginning => None,
            Start::At(next) => Some(next),
        };
        Self { unsettled: BTreeMap::new(), next }
    }

    pub(crate) fn read(&mut self, offset: u64) {
        self.unsettled.insert(offset, self.next);
        self.next = Some(offset + 1);
    }

    pub(crate) fn settled(&mut self, offset: u64) {
        self.unsettled.remove(&offset);
    }

    /// The next offset that will be read, where one is known.
    pub(crate) fn next(&self) -> Option<u64> {
        self.next
    }

    /// Everything below is settled. Never beyond the place that whoever settles knows by the same deliveries.
    pub(crate) fn low(&self) -> Option<u64> {
        self.unsettled.first_key_value().map_or(self.next, |(_, before)| *before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start_at(
        next: Option<u64>,
        committed: Option<u64>,
        from: PositionsFrom,
    ) -> Result<Start, String> {
        start(next, Log { low: 5, high: 9, committed }, from)
    }

    #[test]
    fn a_position_outside_the_log_is_refused_with_its_reason() {
        let checked = |next| start_at(next, None, PositionsFrom::Refuse);
        assert_eq!(checked(None), Ok(Start::Beginning));
        assert_eq!(checked(Some(5)), Ok(Start::At(5)));
        assert_eq!(checked(Some(9)), Ok(Start::At(9)));
        assert!(checked(Some(10)).is_err_and(|why| why.contains("ends at 9")));
        assert!(checked(Some(4)).is_err_and(|why| why.contains("begins at 5")));
        assert_eq!(start_at(Some(4), None, PositionsFrom::Beginning), Ok(Start::Beginning));
        assert!(start_at(Some(4), None, PositionsFrom::Journal).is_err());
        // Offsets of a topic that is gone mean nothing for the one that has its name.
        assert!(start_at(Some(10), None, PositionsFrom::Beginning).is_err());
    }

    #[test]
    fn a_group_that_is_further_than_we_are_is_refused_unless_a_person_has_decided() {
        for next in [None, Some(5), Some(7)] {
            let why = start_at(next, Some(8), PositionsFrom::Refuse).expect_err("refused");
            assert!(
                why.contains("up to offset 8") && why.contains("--kafka-positions-from"),
                "{why}"
            );
            let journal = start_at(next, Some(8), PositionsFrom::Journal);
            assert_eq!(journal, Ok(next.map_or(Start::Beginning, Start::At)));
            assert_eq!(start_at(next, Some(8), PositionsFrom::Committed), Ok(Start::At(8)));
            assert_eq!(start_at(next, Some(8), PositionsFrom::Beginning), Ok(Start::Beginning));
        }
        assert!(start_at(Some(6), Some(12), PositionsFrom::Committed).is_err());
        for from in [PositionsFrom::Refuse, PositionsFrom::Committed, PositionsFrom::Beginning] {
            // What was decided is for the partitions that want it.
            assert_eq!(start_at(Some(7), Some(7), from), Ok(Start::At(7)));
            assert_eq!(start_at(Some(7), Some(3), from), Ok(Start::At(7)));
            // All that the group has read is gone from the log: nothing comes again.
            assert_eq!(start_at(None, Some(5), from), Ok(Start::Beginning));
        }
    }

    #[test]
    fn the_low_mark_waits_for_the_oldest_unsettled_and_passes_a_gap_only_with_what_is_behind_it() {
        let mut mark = Mark::starting_at(Start::Beginning);
        assert_eq!(mark.low(), None);
        for offset in [3, 4, 7] {
            mark.read(offset);
        }
        mark.settled(4);
        assert_eq!(mark.low(), None);
        mark.settled(3);
        assert_eq!(mark.low(), Some(5));
        mark.settled(7);
        assert_eq!(mark.low(), Some(8));
        let mut mark = Mark::starting_at(Start::At(5));
        mark.read(9);
        assert_eq!(mark.low(), Some(5));
    }
}
