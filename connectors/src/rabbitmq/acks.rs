//! Which deliveries are still open, and what the broker is to be told about the others in as few frames as possible.
//!
//! Plain data: the pump of a [source](super::source) writes down what arrives and carries out what [`Ledger::tell`]
//! returns; the settler writes down what became of it.

use crate::{Receipt, Settle};
use std::collections::BTreeSet;

/// One frame to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Telling {
    /// Everything up to and with this tag that the broker has not heard about is done.
    AckThrough(u64),
    /// This tag is done.
    Ack(u64),
    /// This tag is to be handed out again.
    Requeue(u64),
}

/// The deliveries of one source. Delivery tags count from 1 on each AMQP channel; a receipt adds the tags of all
/// channels before, so that a receipt of a channel that is gone is known as such.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Receipts up to this one belong to channels that are gone.
    base: u64,
    /// The highest tag of this channel.
    highest: u64,
    /// Not settled yet. No more than the broker's prefetch.
    open: BTreeSet<u64>,
    /// Settled, and the broker does not know. No more than the broker's prefetch.
    untold: Vec<(u64, Settle)>,
    /// Of `open`, how many were handed out.
    handed_out: usize,
}

impl Ledger {
    /// A delivery came in. Returns the receipt for it.
    pub(super) fn arrived(&mut self, tag: u64) -> Receipt {
        self.highest = self.highest.max(tag);
        self.open.insert(tag);
        Receipt(self.base + tag)
    }

    /// So many deliveries were handed out.
    pub(super) fn hand_out(&mut self, count: usize) {
        self.handed_out += count;
    }

    /// Deliveries handed out and not yet settled.
    pub(super) fn handed_out(&self) -> usize {
        self.handed_out
    }

    /// Deliveries that came and are not settled.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// Deliveries that ever came.
    pub(super) fn ever_arrived(&self) -> u64 {
        self.base + self.highest
    }

    /// Writes down what became of a delivery. One of a channel that is gone, or settled before, is ignored:
    /// the broker hands out again what it was not told about.
    pub(super) fn settle(&mut self, receipt: Receipt, settle: Settle) {
        let Some(tag) = receipt.0.checked_sub(self.base) else { return };
        if self.open.remove(&tag) {
            self.handed_out = self.handed_out.saturating_sub(1);
            self.untold.push((tag, settle));
        }
    }

    /// What the broker is to be told now, in this order. Told once only.
    pub(super) fn tell(&mut self) -> Vec<Telling> {
        let mut news = std::mem::take(&mut self.untold);
        news.sort_unstable_by_key(|(tag, _)| *tag);
        // Below the first open delivery everything is settled, so one frame can speak for a whole run of it.
        let first_open = self.open.first().copied().unwrap_or(u64::MAX);
        let mut tellings: Vec<Telling> = Vec::new();
        for (tag, settle) in news {
            match (settle, tellings.last_mut()) {
                (Settle::Again, _) => tellings.push(Telling::Requeue(tag)),
                (Settle::Done, Some(Telling::AckThrough(through))) if tag < first_open => {
                    *through = tag;
                }
                (Settle::Done, _) if tag < first_open => tellings.push(Telling::AckThrough(tag)),
                (Settle::Done, _) => tellings.push(Telling::Ack(tag)),
            }
        }
        tellings
    }

    /// The AMQP channel is gone, and with it all that was open.
    pub(super) fn restart(&mut self) {
        *self = Self { base: self.base + self.highest, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Settle::{Again, Done};
    use Telling::{Ack, AckThrough, Requeue};

    fn ledger_of(count: u64) -> Ledger {
        let mut ledger = Ledger::default();
        for tag in 1..=count {
            assert_eq!(ledger.arrived(tag), Receipt(tag));
        }
        ledger.hand_out(count as usize);
        ledger
    }

    fn settle(ledger: &mut Ledger, settlements: &[(u64, Settle)]) {
        for (receipt, settle) in settlements {
            ledger.settle(Receipt(*receipt), *settle);
        }
    }

    #[test]
    fn a_run_from_the_start_is_told_in_one_frame_whatever_the_order_of_settling() {
        let mut ledger = ledger_of(5);
        settle(&mut ledger, &[(3, Done), (1, Done), (2, Done)]);
        assert_eq!(ledger.tell(), [AckThrough(3)]);
        assert_eq!(ledger.tell(), []);
    }

    #[test]
    fn behind_an_open_delivery_each_is_told_alone() {
        let mut ledger = ledger_of(5);
        settle(&mut ledger, &[(1, Done), (3, Done), (5, Done)]);
        assert_eq!(ledger.tell(), [AckThrough(1), Ack(3), Ack(5)]);
        settle(&mut ledger, &[(2, Done)]);
        assert_eq!(ledger.tell(), [AckThrough(2)]);
        settle(&mut ledger, &[(4, Done)]);
        assert_eq!(ledger.tell(), [AckThrough(4)]);
    }

    #[test]
    fn a_delivery_to_come_again_is_never_covered_by_an_acknowledgement() {
        let mut ledger = ledger_of(6);
        settle(&mut ledger, &[(1, Done), (2, Again), (3, Done), (4, Done), (6, Again)]);
        assert_eq!(ledger.tell(), [AckThrough(1), Requeue(2), AckThrough(4), Requeue(6)]);
    }

    #[test]
    fn a_settlement_after_the_channel_is_gone_is_dropped() {
        let mut ledger = ledger_of(3);
        ledger.restart();
        assert_eq!(ledger.handed_out(), 0);
        let fresh = ledger.arrived(1);
        assert_eq!(fresh, Receipt(4));
        settle(&mut ledger, &[(1, Done), (2, Again), (3, Done)]);
        assert_eq!(ledger.tell(), []);
        ledger.settle(fresh, Done);
        assert_eq!(ledger.tell(), [AckThrough(1)]);
    }

    #[test]
    fn settling_twice_is_told_once_and_frees_one_place() {
        let mut ledger = ledger_of(2);
        settle(&mut ledger, &[(1, Done), (1, Again), (1, Done), (9, Done)]);
        assert_eq!(ledger.handed_out(), 1);
        assert_eq!(ledger.tell(), [AckThrough(1)]);
    }
}
