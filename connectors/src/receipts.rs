//! Receipts of deliveries that are handed out and not yet settled, with what is needed to hand them out again.
//!
//! A slab: as large as the most deliveries that were ever out at once, however long one of them stays out.

use crate::Receipt;

/// What is out, by receipt. A receipt carries the slot and how often the slot was used, so that an old one names nothing.
#[derive(Debug)]
pub(crate) struct Receipts<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    uses: u32,
    held: Option<T>,
}

impl<T> Default for Receipts<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Receipts<T> {
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn insert(&mut self, held: T) -> Receipt {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push(Slot { uses: 0, held: None });
                u32::try_from(self.slots.len() - 1)
                    .expect("unsettled deliveries are bounded far below 2^32")
            }
        };
        let slot = &mut self.slots[index as usize];
        slot.uses = slot.uses.wrapping_add(1);
        slot.held = Some(held);
        Receipt(u64::from(slot.uses) << 32 | u64::from(index))
    }

    /// `None` for a receipt that was settled before.
    pub(crate) fn remove(&mut self, receipt: Receipt) -> Option<T> {
        let index = (receipt.0 & u64::from(u32::MAX)) as u32;
        let slot = self.slots.get_mut(index as usize)?;
        if u64::from(slot.uses) != receipt.0 >> 32 {
            return None;
        }
        let held = slot.held.take()?;
        self.free.push(index);
        Some(held)
    }

    /// What is out, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.held.as_ref())
    }

    /// All that is out, in no order. Its receipts name nothing any more.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        let count = u32::try_from(self.slots.len()).expect("bounded far below 2^32, as above");
        self.free = (0..count).rev().collect();
        self.slots.iter_mut().filter_map(|slot| slot.held.take()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_settles_once_and_never_the_next_user_of_its_slot() {
        let mut receipts = Receipts::default();
        let first = receipts.insert("a");
        assert_eq!(receipts.remove(first), Some("a"));
        let second = receipts.insert("b");
        assert_eq!(receipts.remove(first), None);
        assert_eq!(receipts.len(), 1);
        assert_eq!(receipts.remove(second), Some("b"));
        assert_eq!(receipts.len(), 0);
    }

    #[test]
    fn what_was_drained_leaves_receipts_that_name_nothing() {
        let mut receipts = Receipts::default();
        let former = [receipts.insert("a"), receipts.insert("b")];
        assert_eq!(receipts.drain(), ["a", "b"]);
        let later = [receipts.insert("c"), receipts.insert("d"), receipts.insert("e")];
        assert!(former.iter().all(|receipt| receipts.remove(*receipt).is_none()));
        assert_eq!(later.map(|receipt| receipts.remove(receipt)), ["c", "d", "e"].map(Some));
        assert_eq!(receipts.len(), 0);
    }
}
