//! One queue: messages in the order they came, bounded, each handed to one of the open sources.

use super::MemorySettings;
use crate::Message;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// A message with its place in the queue, to which it returns when it is not settled.
#[derive(Debug, Clone)]
pub(super) struct Queued {
    pub(super) place: u64,
    pub(super) message: Arc<Message>,
}

#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Told when there is space again, while somebody waits for it.
    pub(super) space: Notify,
    messages_max: usize,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Queued>,
    bytes: usize,
    place_next: u64,
    senders_waiting: bool,
    readers: Vec<Arc<Notify>>,
}

impl Queue {
    pub(super) fn new(settings: &MemorySettings) -> Self {
        Self {
            state: Mutex::default(),
            space: Notify::new(),
            messages_max: settings.queue_messages_max.max(1),
            bytes_max: settings.queue_bytes_max.max(1),
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Takes messages from the front as long as there is space. An empty queue takes any message, however large.
    /// Returns how many it took; when not all, [`Queue::space`] will tell.
    pub(super) fn append(&self, messages: &[Arc<Message>]) -> usize {
        let mut state = self.lock();
        let mut taken = 0;
        for message in messages {
            let bytes = message.body.len();
            let full = state.waiting.len() >= self.messages_max
                || (state.bytes + bytes > self.bytes_max && !state.waiting.is_empty());
            if full {
                state.senders_waiting = true;
                break;
            }
            let place = state.place_next;
            state.place_next += 1;
            state.bytes += bytes;
            state.waiting.push_back(Queued { place, message: message.clone() });
            taken += 1;
        }
        if taken > 0 {
            state.wake_readers();
        }
        taken
    }

    /// Hands out up to `max` messages from the front to `take`.
    pub(super) fn take(&self, max: usize, mut take: impl FnMut(Queued)) {
        let mut state = self.lock();
        let count = max.min(state.waiting.len());
        for _ in 0..count {
            let queued = state.waiting.pop_front().expect("counted above, under the same lock");
            state.bytes -= queued.message.body.len();
            take(queued);
        }
        if count > 0 && state.senders_waiting {
            state.senders_waiting = false;
            drop(state);
            self.space.notify_waiters();
        }
    }

    /// Takes messages back to their old places. They were let in before, so there is always space for them.
    pub(super) fn give_back(&self, mut returned: Vec<Queued>) {
        if returned.is_empty() {
            return;
        }
        returned.sort_unstable_by_key(|queued| queued.place);
        let mut state = self.lock();
        for queued in returned.into_iter().rev() {
            state.bytes += queued.message.body.len();
            let index = state.waiting.partition_point(|other| other.place < queued.place);
            state.waiting.insert(index, queued);
        }
        state.wake_readers();
    }

    pub(super) fn add_reader(&self, reader: Arc<Notify>) {
        self.lock().readers.push(reader);
    }

    pub(super) fn remove_reader(&self, reader: &Arc<Notify>) {
        self.lock().readers.retain(|known| !Arc::ptr_eq(known, reader));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake_readers(&self) {
        for reader in &self.readers {
            reader.notify_one();
        }
    }
}
