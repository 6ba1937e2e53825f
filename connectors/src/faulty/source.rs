//! Hands out deliveries with faults. Receipts are numbered anew, so that the copy of a doubled delivery has one that settles nothing.

use super::{Chance, HELD_MAX, Shared, count, somebody_asks_again};
use crate::{ConnectorError, Delivery, Health, Memory, Receipt, Settle, Settler, Source};
use async_trait::async_trait;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, sleep_until};

pub(super) struct FaultySource {
    inner: Box<dyn Source>,
    memory: Memory,
    shared: Arc<Shared>,
    chance: Chance,
    settler: Arc<FaultySettler>,
    receipt_next: u64,
    /// Due now, in order.
    ready: VecDeque<Delivery>,
    /// Held back, in the order they came.
    held: VecDeque<(Instant, Delivery)>,
    /// Lost since the last delivery of their partition, of a log only.
    lost: HashMap<(String, u32), Vec<Receipt>>,
}

/// Knows which receipt of the inner source stands behind one of ours. A copy has none.
struct FaultySettler {
    inner: Arc<dyn Settler>,
    receipts: Mutex<HashMap<Receipt, Vec<Receipt>>>,
}

impl FaultySource {
    pub(super) fn new(
        inner: Box<dyn Source>,
        memory: Memory,
        shared: Arc<Shared>,
        chance: Chance,
    ) -> Self {
        let settler =
            Arc::new(FaultySettler { inner: inner.settler(), receipts: Mutex::default() });
        let (ready, held, lost) = (VecDeque::new(), VecDeque::new(), HashMap::new());
        Self { inner, memory, shared, chance, settler, receipt_next: 0, ready, held, lost }
    }

    /// Takes a batch of the inner source in and decides what happens to each delivery.
    fn take_in(&mut self, mut batch: Vec<Delivery>) {
        let shared = self.shared.clone();
        let (faults, done) = (&shared.faults, &shared.done);
        if self.memory == Memory::Settlements {
            for index in 1..batch.len() {
                if shared.happens(&mut self.chance, faults.reorder) {
                    count(&done.deliveries_reordered);
                    batch.swap(index - 1, index);
                }
            }
        }
        for mut delivery in batch {
            let lose = shared.happens(&mut self.chance, faults.lose);
            let double = shared.happens(&mut self.chance, faults.double);
            if lose && somebody_asks_again(&delivery.message) {
                count(&done.deliveries_lost);
                if self.memory == Memory::Settlements {
                    self.settler.inner.settle(&[(delivery.receipt, Settle::Done)]);
                } else {
                    // Whoever keeps positions has not heard of it: it is settled with the next one of its partition.
                    self.lost.entry(place(&delivery)).or_default().push(delivery.receipt);
                }
                continue;
            }
            let mut behind = self.lost.remove(&place(&delivery)).unwrap_or_default();
            behind.push(delivery.receipt);
            delivery.receipt = self.receipt();
            self.settler.lock().insert(delivery.receipt, behind.clone());
            let copy = double.then(|| Delivery { receipt: self.receipt(), ..delivery.clone() });
            self.hold_or_ready(delivery);
            if let Some(copy) = copy {
                count(&done.deliveries_doubled);
                self.hold_or_ready(copy);
            }
        }
    }

    fn hold_or_ready(&mut self, delivery: Delivery) {
        let faults = &self.shared.faults;
        let delay = self.shared.happens(&mut self.chance, faults.delay);
        let mut due = delay.then(|| Instant::now() + self.chance.up_to(faults.delay_max));
        if self.held.len() >= HELD_MAX {
            due = None;
        }
        if due.is_some() {
            count(&self.shared.done.deliveries_delayed);
        }
        if self.memory == Memory::Positions {
            let same = |held: &Delivery| {
                held.partition == delivery.partition
                    && held.message.channel == delivery.message.channel
            };
            let before = self.held.iter().rev().find(|(_, held)| same(held)).map(|(due, _)| *due);
            due = due.max(before);
        }
        match due {
            Some(due) => self.held.push_back((due, delivery)),
            None => self.ready.push_back(delivery),
        }
    }

    fn release(&mut self, now: Instant) {
        let (due, held): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.held).into_iter().partition(|(due, _)| *due <= now);
        self.held = held;
        self.ready.extend(due.into_iter().map(|(_, delivery)| delivery));
    }

    fn receipt(&mut self) -> Receipt {
        self.receipt_next += 1;
        Receipt(self.receipt_next)
    }
}

#[async_trait]
impl Source for FaultySource {
    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>, ConnectorError> {
        let max = max.max(1);
        loop {
            if !self.held.is_empty() {
                self.release(Instant::now());
            }
            if !self.ready.is_empty() {
                let count = max.min(self.ready.len());
                return Ok(self.ready.drain(..count).collect());
            }
            let next = self.held.iter().map(|(due, _)| *due).min();
            let due = next.unwrap_or_else(|| Instant::now() + Duration::from_secs(3_600));
            tokio::select! {
                biased;
                batch = self.inner.receive(max) => self.take_in(batch?),
                () = sleep_until(due) => {}
            }
        }
    }

    fn settler(&self) -> Arc<dyn Settler> {
        self.settler.clone()
    }

    fn health(&self) -> Health {
        self.inner.health()
    }
}

fn place(delivery: &Delivery) -> (String, u32) {
    (delivery.message.channel.clone(), delivery.partition)
}

impl Settler for FaultySettler {
    fn settle(&self, settlements: &[(Receipt, Settle)]) {
        let mut behind = Vec::with_capacity(settlements.len());
        {
            let mut receipts = self.lock();
            behind.extend(settlements.iter().flat_map(|(receipt, settle)| {
                let behind = receipts.remove(receipt).unwrap_or_default();
                behind.into_iter().map(|receipt| (receipt, *settle))
            }));
        }
        self.inner.settle(&behind);
    }
}

impl FaultySettler {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Receipt, Vec<Receipt>>> {
        self.receipts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
