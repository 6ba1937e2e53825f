//! Which messages of a lane are confirmed, though confirms come out of order: all below a number, and stretches above it.
//!
//! As many stretches as there are messages between them that are not confirmed, however many are.

use crate::{
    engine::LaneSeq,
    planted::{self, Bug},
};
use std::collections::BTreeMap;

/// Stretches of confirmed messages that are told, the lowest first: as many as the outbox holds messages between them. What lies in
/// further ones is sent again after a restart.
const STRETCHES_MAX: usize = 100_000;

/// Confirmed messages from a number on, up to another one that is not among them.
pub(crate) type Stretch = (LaneSeq, LaneSeq);

/// What of a lane is confirmed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Confirmed {
    /// The first number that is not confirmed.
    pub below: LaneSeq,
    /// Above it, in order. Neither overlap nor touch.
    pub above: Vec<Stretch>,
}

impl Confirmed {
    /// Whether all messages from a number up to another one are confirmed.
    pub(crate) fn covers(&self, (from, end): Stretch) -> bool {
        let from = from.max(self.below);
        let behind = self.above.partition_point(|(start, _)| *start <= from);
        from >= end || behind.checked_sub(1).is_some_and(|at| self.above[at].1 >= end)
    }
}

pub(super) struct Watermark {
    next: LaneSeq,
    above: BTreeMap<LaneSeq, LaneSeq>,
}

impl Watermark {
    pub(super) fn new(confirmed: &Confirmed) -> Self {
        let mut watermark = Self { next: confirmed.below, above: BTreeMap::new() };
        confirmed.above.iter().for_each(|stretch| watermark.join(*stretch));
        watermark
    }

    /// The first number that is not confirmed.
    pub(super) fn next(&self) -> LaneSeq {
        self.next
    }

    pub(super) fn confirmed(&self) -> Confirmed {
        let above = self.above.iter().take(STRETCHES_MAX).map(|(from, end)| (*from, *end));
        Confirmed { below: self.next, above: above.collect() }
    }

    pub(super) fn covers(&self, (from, end): Stretch) -> bool {
        let from = from.max(self.next);
        let stretch = self.above.range(..=from).next_back();
        from >= end || stretch.is_some_and(|(_, reach)| *reach >= end)
    }

    pub(super) fn confirm(&mut self, seqs: &[LaneSeq]) {
        // Neighbours are confirmed together as a rule.
        for run in seqs.chunk_by(|one, other| one + 1 == *other) {
            if let (Some(first), Some(last)) = (run.first(), run.last()) {
                self.join((*first, last + 1));
            }
        }
    }

    fn join(&mut self, (from, end): Stretch) {
        let (mut from, mut end) = (from.max(self.next), end);
        if from >= end {
            return;
        }
        while let Some((&other, &other_end)) = self.above.range(..=end).next_back() {
            if other_end < from {
                break;
            }
            self.above.remove(&other);
            (from, end) = (from.min(other), end.max(other_end));
        }
        if from == self.next || planted::is(Bug::WatermarkIsTheHighest) {
            self.next = end;
        } else {
            self.above.insert(from, end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(below: LaneSeq) -> Watermark {
        Watermark::new(&Confirmed { below, above: vec![] })
    }

    #[test]
    fn it_moves_only_over_what_is_confirmed() {
        let mut watermark = at(5);
        watermark.confirm(&[7, 6]);
        assert_eq!(watermark.next(), 5);
        watermark.confirm(&[5]);
        assert_eq!(watermark.next(), 8);
    }

    #[test]
    fn confirming_twice_changes_nothing() {
        let mut watermark = at(1);
        watermark.confirm(&[1, 1, 2]);
        watermark.confirm(&[1]);
        assert_eq!(watermark.next(), 3);
        assert!(watermark.above.is_empty());
    }

    #[test]
    fn one_that_is_never_confirmed_costs_one_stretch_however_many_are() {
        let mut watermark = at(1);
        for from in (2..1_000_000).step_by(1_000) {
            watermark.confirm(&(from..from + 1_000).collect::<Vec<_>>());
        }
        let confirmed = watermark.confirmed();
        assert_eq!(confirmed, Confirmed { below: 1, above: vec![(2, 1_000_002)] });
        assert!(confirmed.covers((2, 1_000_002)) && watermark.covers((2, 1_000_002)));
        for not in [(1, 2), (1, 3), (5, 1_000_003), (2_000_000, 2_000_001)] {
            assert!(!confirmed.covers(not) && !watermark.covers(not), "{not:?}");
        }
        // The next process goes on there.
        let mut next = Watermark::new(&confirmed);
        next.confirm(&[1]);
        assert_eq!((next.next(), next.confirmed().above), (1_000_002, vec![]));
    }

    #[test]
    fn confirms_in_any_order_come_to_the_same() {
        let order = |turn: u64| (0..100).map(move |at| 1 + (at * 37 + turn * 11) % 100);
        for turn in 0..10 {
            let (mut watermark, mut known) = (at(1), std::collections::BTreeSet::new());
            for seq in order(turn) {
                watermark.confirm(&[seq]);
                known.insert(seq);
                let confirmed = watermark.confirmed();
                let covered = |seq: &u64| confirmed.covers((*seq, seq + 1));
                assert!((1..=101).filter(covered).eq(known.iter().copied()), "{confirmed:?}");
                assert!(confirmed.above.windows(2).all(|pair| pair[0].1 < pair[1].0));
            }
            assert_eq!(watermark.next(), 101);
        }
    }
}
