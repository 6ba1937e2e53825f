//! Up to where messages are confirmed, though confirms come out of order.

use crate::engine::LaneSeq;
use std::collections::BTreeSet;

pub(super) struct Watermark {
    next: LaneSeq,
    above: BTreeSet<LaneSeq>,
}

impl Watermark {
    pub(super) fn new(next: LaneSeq) -> Self {
        Self { next, above: BTreeSet::new() }
    }

    /// The first number that is not confirmed.
    pub(super) fn next(&self) -> LaneSeq {
        self.next
    }

    pub(super) fn confirm(&mut self, seqs: &[LaneSeq]) {
        for seq in seqs {
            if *seq == self.next {
                self.next += 1;
            } else if *seq > self.next {
                self.above.insert(*seq);
            }
        }
        while self.above.remove(&self.next) {
            self.next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_moves_only_over_what_is_confirmed() {
        let mut watermark = Watermark::new(5);
        watermark.confirm(&[7, 6]);
        assert_eq!(watermark.next(), 5);
        watermark.confirm(&[5]);
        assert_eq!(watermark.next(), 8);
    }

    #[test]
    fn confirming_twice_changes_nothing() {
        let mut watermark = Watermark::new(1);
        watermark.confirm(&[1, 1, 2]);
        watermark.confirm(&[1]);
        assert_eq!(watermark.next(), 3);
        assert!(watermark.above.is_empty());
    }
}
