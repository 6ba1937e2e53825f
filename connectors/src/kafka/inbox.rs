//! What a reader thread has read and the async side has not settled: bounded, in order, shared by both and by the settlers.

use super::{
    NAME,
    positions::{Mark, Start},
};
use crate::{
    ConnectorError, Delivery, Health, Message, Receipt, Settle, Settler, receipts::Receipts,
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// Bytes of messages read and not settled at the most, beside their number; one message is taken whatever its size. Where bodies are
/// large and the disk is slow, their number alone would not fit the memory.
const UNSETTLED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A partition by the index of its topic in the source and its number.
pub(super) type PartitionId = (usize, u32);

/// A message with the place it was read from.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) partition: PartitionId,
    pub(super) offset: u64,
    pub(super) message: Message,
}

#[derive(Debug)]
pub(super) struct Inbox {
    state: Mutex<State>,
    arrived: Notify,
    room: Condvar,
    unsettled_max: usize,
    /// For how long nothing need be heard of the group before a delivery is held back.
    sure_for: Duration,
    health: Health,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Incoming>,
    out: Receipts<Incoming>,
    /// Of both.
    bytes: usize,
    marks: BTreeMap<PartitionId, Mark>,
    /// Why the reader has ended; the first to ask gets the error itself.
    ended: Option<Option<ConnectorError>>,
    /// When the group was last known to be ours; `None` while that is in doubt.
    held: Option<Instant>,
    closed: bool,
}

impl Inbox {
    pub(super) fn new(unsettled_max: usize, sure_for: Duration) -> Self {
        let (arrived, room) = (Notify::new(), Condvar::new());
        let (unsettled_max, health) = (unsettled_max.max(1), Health::new());
        Self { state: Mutex::default(), arrived, room, unsettled_max, sure_for, health }
    }

    pub(super) fn health(&self) -> &Health {
        &self.health
    }

    // What the reader thread calls.

    pub(super) fn begin(&self, partition: PartitionId, start: Start) {
        self.lock().marks.insert(partition, Mark::starting_at(start));
    }

    /// The group was ours at this time, or is in doubt: then nothing is handed out.
    pub(super) fn held(&self, at: Option<Instant>) {
        let mut state = self.lock();
        let was_sure = self.is_sure(&state);
        state.held = at;
        if !was_sure && self.is_sure(&state) {
            drop(state);
            self.arrived.notify_one();
        }
    }

    /// A process that stood still for long may have lost the group without having heard of it: what was read before then
    /// is another's by now.
    fn is_sure(&self, state: &State) -> bool {
        state.held.is_some_and(|held| held.elapsed() < self.sure_for)
    }

    /// How many messages may be read now; waits for a moment while there is no room.
    pub(super) fn room(&self, wait: Duration) -> usize {
        let room = |state: &State| match state.bytes < UNSETTLED_BYTES_MAX {
            true => self.unsettled_max.saturating_sub(state.ready.len() + state.out.len()),
            false => 0,
        };
        let state = self.lock();
        let full = |state: &mut State| !state.closed && room(state) == 0;
        let waited = self.room.wait_timeout_while(state, wait, full);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        room(&state)
    }

    pub(super) fn push(&self, batch: Vec<Incoming>) {
        let mut state = self.lock();
        for incoming in batch {
            state.marks.entry(incoming.partition).or_default().read(incoming.offset);
            state.bytes += incoming.message.bytes();
            state.ready.push_back(incoming);
        }
        drop(state);
        self.arrived.notify_one();
    }

    pub(super) fn end(&self, error: ConnectorError) {
        self.lock().ended = Some(Some(error));
        self.arrived.notify_one();
    }

    pub(super) fn closed(&self) -> bool {
        self.lock().closed
    }

    /// Everything below these offsets is settled.
    pub(super) fn low_marks(&self) -> Vec<(PartitionId, u64)> {
        self.lock()
            .marks
            .iter()
            .filter_map(|(partition, mark)| Some((*partition, mark.low()?)))
            .collect()
    }

    /// The offset of one partition that is read next, where one is known.
    pub(super) fn next_offset(&self, partition: PartitionId) -> Option<u64> {
        self.lock().marks.get(&partition).and_then(Mark::next)
    }

    /// The offsets that are read next.
    pub(super) fn next_offsets(&self) -> Vec<(PartitionId, Option<u64>)> {
        self.lock().marks.iter().map(|(partition, mark)| (*partition, mark.next())).collect()
    }

    // What the async side calls.

    pub(super) async fn receive(&self, max: usize) -> Result<Vec<Delivery>, ConnectorError> {
        loop {
            {
                let mut state = self.lock();
                if let Some(error) = &mut state.ended {
                    return Err(error.take().unwrap_or_else(|| ConnectorError::Refused {
                        connector: NAME,
                        doing: "reading".into(),
                        text: "this source has ended with an error before; open a new one".into(),
                    }));
                }
                if !state.ready.is_empty() && self.is_sure(&state) {
                    let count = max.max(1).min(state.ready.len());
                    return Ok((0..count).filter_map(|_| state.hand_out()).collect());
                }
            }
            self.arrived.notified().await;
        }
    }

    /// The async side is gone.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.room.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn hand_out(&mut self) -> Option<Delivery> {
        let incoming = self.ready.pop_front()?;
        let (message, offset) = (incoming.message.clone(), incoming.offset);
        let (_, partition) = incoming.partition;
        let receipt = self.out.insert(incoming);
        Some(Delivery { message, partition, offset, receipt })
    }
}

impl Settler for Inbox {
    fn settle(&self, settlements: &[(Receipt, Settle)]) {
        let mut again = Vec::new();
        let mut state = self.lock();
        for (receipt, settle) in settlements {
            let Some(incoming) = state.out.remove(*receipt) else { continue };
            match settle {
                Settle::Done => {
                    state.bytes -= incoming.message.bytes();
                    if let Some(mark) = state.marks.get_mut(&incoming.partition) {
                        mark.settled(incoming.offset);
                    }
                }
                Settle::Again => again.push(incoming),
            }
        }
        again.sort_unstable_by_key(|incoming| (incoming.partition, incoming.offset));
        let wake = !again.is_empty();
        for incoming in again.into_iter().rev() {
            state.ready.push_front(incoming);
        }
        drop(state);
        if wake {
            self.arrived.notify_one();
        }
        self.room.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attributes, ChannelKind};
    use bytes::Bytes;

    #[tokio::test]
    async fn large_messages_leave_no_room_long_before_their_number_does() {
        let inbox = Inbox::new(4_096, Duration::from_secs(60));
        inbox.held(Some(Instant::now()));
        let incoming = |offset| Incoming {
            partition: (0, 0),
            offset,
            message: Message {
                channel: "c".into(),
                kind: ChannelKind::Work,
                key: "k".into(),
                attributes: Attributes::new(),
                others: Vec::new(),
                body: Bytes::from_static(&[0; 1024 * 1024]),
            },
        };
        inbox.push((0..63).map(incoming).collect());
        assert!(inbox.room(Duration::ZERO) > 0);
        inbox.push(vec![incoming(63)]);
        assert_eq!(inbox.room(Duration::ZERO), 0);
        let taken = inbox.receive(2).await.expect("they are there");
        // Handed out is not settled.
        assert_eq!(inbox.room(Duration::ZERO), 0);
        inbox.settle(&[(taken[0].receipt, Settle::Again)]);
        assert_eq!(inbox.room(Duration::ZERO), 0);
        inbox.settle(&[(taken[1].receipt, Settle::Done)]);
        assert_eq!(inbox.room(Duration::ZERO), 4_096 - 63);
    }
}
