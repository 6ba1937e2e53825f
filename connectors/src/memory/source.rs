//! Reads the queues of one source in turn and keeps what is out until it is settled.

use super::queue::{Queue, Queued};
use crate::{
    ConnectorError, Delivery, Health, Message, Receipt, Settle, Settler, Source, receipts::Receipts,
};
use async_trait::async_trait;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

pub(super) struct MemorySource {
    out: Arc<Out>,
    /// The queue to be asked first, so that a busy one does not starve the others.
    turn: usize,
    delivered: u64,
    health: Health,
}

/// What the source and its settlers share.
struct Out {
    queues: Vec<Arc<Queue>>,
    unsettled_max: usize,
    unsettled: Mutex<Unsettled>,
    /// Told when messages came, or when settling made room for more.
    wake: Arc<Notify>,
}

#[derive(Default)]
struct Unsettled {
    receipts: Receipts<(usize, Queued)>,
    /// The source is gone: nothing is out any more, and late settlements name nothing.
    closed: bool,
}

impl MemorySource {
    pub(super) fn open(queues: Vec<Arc<Queue>>, unsettled_max: usize) -> Self {
        let wake = Arc::new(Notify::new());
        for queue in &queues {
            queue.add_reader(wake.clone());
        }
        let out =
            Out { queues, unsettled_max: unsettled_max.max(1), unsettled: Mutex::default(), wake };
        Self { out: Arc::new(out), turn: 0, delivered: 0, health: Health::new() }
    }

    fn take(&mut self, max: usize) -> Vec<Delivery> {
        let mut unsettled = self.out.lock();
        let room = self.out.unsettled_max.saturating_sub(unsettled.receipts.len()).min(max);
        let waiting: usize = self.out.queues.iter().map(|queue| queue.waiting()).sum();
        let mut deliveries = Vec::with_capacity(room.min(waiting));
        let count = self.out.queues.len();
        for step in 0..count {
            let index = (self.turn + step) % count;
            let left = room - deliveries.len();
            if left == 0 {
                break;
            }
            self.out.queues[index].take(left, |queued| {
                let message = Message::clone(&queued.message);
                let receipt = unsettled.receipts.insert((index, queued));
                deliveries.push(Delivery {
                    message,
                    partition: 0,
                    offset: self.delivered,
                    receipt,
                });
                self.delivered += 1;
            });
        }
        self.turn = (self.turn + 1) % count.max(1);
        deliveries
    }
}

#[async_trait]
impl Source for MemorySource {
    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>, ConnectorError> {
        loop {
            let deliveries = self.take(max.max(1));
            if !deliveries.is_empty() {
                return Ok(deliveries);
            }
            self.out.wake.notified().await;
        }
    }

    fn settler(&self) -> Arc<dyn Settler> {
        self.out.clone()
    }

    /// The queues lie in this process: always ready.
    fn health(&self) -> Health {
        self.health.clone()
    }
}

impl Drop for MemorySource {
    fn drop(&mut self) {
        for queue in &self.out.queues {
            queue.remove_reader(&self.out.wake);
        }
        let returned = {
            let mut unsettled = self.out.lock();
            unsettled.closed = true;
            unsettled.receipts.drain()
        };
        self.out.give_back(returned);
    }
}

impl Settler for Out {
    fn settle(&self, settlements: &[(Receipt, Settle)]) {
        let mut again = Vec::new();
        let was_full = {
            let mut unsettled = self.lock();
            let was_full = unsettled.receipts.len() >= self.unsettled_max;
            if unsettled.closed {
                return;
            }
            for (receipt, settle) in settlements {
                let Some(held) = unsettled.receipts.remove(*receipt) else { continue };
                match settle {
                    Settle::Done => {}
                    Settle::Again => again.push(held),
                }
            }
            was_full
        };
        self.give_back(again);
        if was_full {
            self.wake.notify_one();
        }
    }
}

impl Out {
    fn give_back(&self, returned: Vec<(usize, Queued)>) {
        let mut by_queue: Vec<Vec<Queued>> =
            vec![Vec::new(); if returned.is_empty() { 0 } else { self.queues.len() }];
        for (index, queued) in returned {
            by_queue[index].push(queued);
        }
        for (queue, returned) in self.queues.iter().zip(by_queue) {
            queue.give_back(returned);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Unsettled> {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
