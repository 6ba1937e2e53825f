//! Puts a window into the queues: one lock and one wake-up per queue and window.

use super::{Shared, queue::Queue};
use crate::{ChannelKind, Health, Message, Sent, Sink, UnsentReason};
use async_trait::async_trait;
use std::sync::Arc;
use tokio::time::Instant;

pub(super) struct MemorySink {
    shared: Arc<Shared>,
    health: Health,
}

/// The part of a window that goes one way.
struct Way<'a> {
    channel: &'a str,
    kind: ChannelKind,
    /// Where in the window its messages stand.
    indices: Vec<usize>,
    messages: Vec<Arc<Message>>,
}

impl MemorySink {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, health: Health::new() }
    }

    /// Groups the window by channel, in order; what is too large is left out with its outcome.
    fn ways<'a>(&self, window: &'a [Message], outcomes: &mut [Sent]) -> Vec<Way<'a>> {
        let bytes_max = self.shared.settings.message_bytes_max;
        let mut ways: Vec<Way<'a>> = Vec::new();
        let mut last = 0;
        for (index, message) in window.iter().enumerate() {
            if message.body.len() > bytes_max {
                let text =
                    format!("the body has {} bytes, {bytes_max} are allowed", message.body.len());
                outcomes[index] = Sent::Unsent { reason: UnsentReason::TooLarge, text };
                continue;
            }
            let goes = |way: &Way<'_>| way.channel == message.channel && way.kind == message.kind;
            if !ways.get(last).is_some_and(goes) {
                last = ways.iter().position(goes).unwrap_or_else(|| {
                    let (indices, messages) = (Vec::new(), Vec::new());
                    ways.push(Way {
                        channel: &message.channel,
                        kind: message.kind,
                        indices,
                        messages,
                    });
                    ways.len() - 1
                });
            }
            ways[last].indices.push(index);
            ways[last].messages.push(Arc::new(message.clone()));
        }
        ways
    }

    /// Returns how many of the messages the queue took until the deadline.
    async fn append(&self, queue: &Queue, messages: &[Arc<Message>], deadline: Instant) -> usize {
        let mut taken = queue.append(messages);
        while taken < messages.len() {
            let space = queue.space.notified();
            tokio::pin!(space);
            space.as_mut().enable();
            taken += queue.append(&messages[taken..]);
            if taken < messages.len() {
                self.health.degraded("a queue is full; its reader is slow, or nobody reads it");
            }
            if taken < messages.len() && tokio::time::timeout_at(deadline, space).await.is_err() {
                break;
            }
        }
        taken
    }
}

#[async_trait]
impl Sink for MemorySink {
    async fn send(&mut self, window: &[Message]) -> Vec<Sent> {
        let mut outcomes = vec![Sent::Confirmed; window.len()];
        let deadline = Instant::now() + self.shared.settings.send_wait_max;
        let mut full = false;
        for way in self.ways(window, &mut outcomes) {
            let Some(queues) = self.shared.routes(way.channel, way.kind) else {
                for index in way.indices {
                    let text =
                        format!("nobody has prepared or opened the work channel {}", way.channel);
                    outcomes[index] = Sent::Unsent { reason: UnsentReason::Unroutable, text };
                }
                continue;
            };
            for queue in queues {
                let taken = self.append(&queue, &way.messages, deadline).await;
                full |= taken < way.messages.len();
                for index in &way.indices[taken..] {
                    let text = format!("a queue of channel {} stayed full", way.channel);
                    outcomes[*index] = Sent::Unknown { text };
                }
            }
        }
        if !full {
            self.health.ready();
        }
        outcomes
    }

    fn health(&self) -> Health {
        self.health.clone()
    }
}
