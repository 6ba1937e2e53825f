//! Up to where messages are confirmed, though confirms come out of order.

use crate::engine::LaneSeq;
use std::collections::VecDeque;

pub(super) struct Watermark {
    next: LaneSeq,
    /// From the first number that is not confirmed on: which ones are. Its first one never is.
    confirmed: VecDeque<bool>,
}

impl Watermark {
    pub(super) fn new(next: LaneSeq) -> Self {
        Self { next, confirmed: VecDeque::new() }
    }

    /// The first number that is not confirmed.
    pub(super) fn next(&self) -> LaneSeq {
        self.next
    }

    pub(super) fn confirm(&mut self, seqs: &[LaneSeq]) {
        for seq in seqs {
            let Some(at) = seq.checked_sub(self.next).and_then(|at| usize::try_from(at).ok())
            else {
                continue;
            };
            if at >= self.confirmed.len() {
                self.confirmed.resize(at + 1, false);
            }
            self.confirmed[at] = true;
        }
        while self.confirmed.front() == Some(&true) {
            self.confirmed.pop_front();
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
        assert!(watermark.confirmed.is_empty());
    }
}
