//! Queues, as RabbitMQ keeps them: one for each channel of work, one for each group that reads a channel of events.
//!
//! ```text
//! store ─► a copy in each queue it is routed to ─► handed out ─► settled, or back to the front once the reader is gone
//! ```
//!
//! What must be true: what is in a queue is handed out until it is settled *done*, by one reader at a time, in the order in which it
//! came; what returns stands before what was never handed out, in its old order unless the dice say otherwise. A message that is late lets others pass,
//! but none of its own key.

mod reader;

use super::{
    Fate, Kept, Life, Place, Unsettled, What,
    faults::injected,
    house::{ConnId, House, unsettled},
};
use crate::{ChannelKind, ChannelSpec, Message};
use reader::Reader;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};
use tokio::time::Instant;

/// All queues of one broker, and their readers.
#[derive(Default)]
pub(super) struct Queues {
    channels: Vec<Channel>,
    by_name: BTreeMap<Arc<str>, usize>,
    queues: Vec<Queue>,
    readers: BTreeMap<ConnId, Reader>,
    /// How many owned queues for this group.
    epochs: BTreeMap<Arc<str>, u64>,
    /// The number of the next message.
    number_next: u64,
}

struct Channel {
    name: Arc<str>,
    work: Option<usize>,
    /// By group.
    groups: BTreeMap<Arc<str>, usize>,
    /// All that was ever stored.
    kept: Vec<Stored>,
}

struct Stored {
    number: u64,
    message: Arc<Message>,
    life: u32,
    at: Instant,
}

struct Queue {
    channel: usize,
    kind: ChannelKind,
    ready: VecDeque<Held>,
    /// By when they are there, and their numbers.
    late: BTreeMap<(Instant, u64), Held>,
    /// Keys of what is late: what comes behind is late as well.
    late_keys: BTreeMap<String, Instant>,
    /// Who alone reads it; dead letters have no such reader.
    owner: Option<(ConnId, Arc<Life>)>,
    readers: Vec<ConnId>,
}

/// A message in a queue, or out of it with a reader.
struct Held {
    number: u64,
    message: Arc<Message>,
}

impl Queues {
    fn channel(&mut self, name: &str) -> usize {
        if let Some(known) = self.by_name.get(name) {
            return *known;
        }
        let name: Arc<str> = name.into();
        let (groups, kept) = (BTreeMap::new(), Vec::new());
        self.channels.push(Channel { name: Arc::clone(&name), work: None, groups, kept });
        self.by_name.insert(name, self.channels.len() - 1);
        self.channels.len() - 1
    }

    /// Makes what has to be there for a channel before anybody reads it.
    pub(super) fn prepare(&mut self, channel: &ChannelSpec) {
        match channel.kind {
            ChannelKind::Work => {
                self.queue(channel, "");
            }
            ChannelKind::Events => {
                self.channel(&channel.name);
            }
        }
    }

    /// The queue that a group reads a channel from; made if it is missing.
    fn queue(&mut self, spec: &ChannelSpec, group: &str) -> usize {
        let index = self.channel(&spec.name);
        let next = self.queues.len();
        let channel = &mut self.channels[index];
        let known = match spec.kind {
            ChannelKind::Work => *channel.work.get_or_insert(next),
            ChannelKind::Events => *channel.groups.entry(group.into()).or_insert(next),
        };
        if known == next {
            self.queues.push(Queue::new(index, spec.kind));
        }
        known
    }

    /// Stores a message in each queue it is routed to; says whether it could: work needs its queue.
    pub(super) fn store(
        &mut self,
        house: &mut House,
        life: u32,
        message: &Arc<Message>,
        now: Instant,
    ) -> bool {
        let index = match message.kind {
            ChannelKind::Events => self.channel(&message.channel),
            ChannelKind::Work => match self.by_name.get(message.channel.as_str()) {
                Some(known) if self.channels[*known].work.is_some() => *known,
                _ => return false,
            },
        };
        let late = house.settings.faults.late;
        let late = house
            .strikes(now, life, late, injected::LATE)
            .then(|| now + house.trouble(|settings| &settings.faults.late_by));
        let number = self.number_next;
        self.number_next += 1;
        let channel = &mut self.channels[index];
        channel.kept.push(Stored { number, message: Arc::clone(message), life, at: now });
        house.tell(now, life, || What::Stored {
            place: channel.place(number),
            message: Arc::clone(message),
            open: false,
        });
        let work = channel.work.filter(|_| message.kind == ChannelKind::Work);
        let groups = channel.groups.values().filter(|_| message.kind == ChannelKind::Events);
        for queue in work.iter().chain(groups) {
            let queue = &mut self.queues[*queue];
            queue.put(Held { number, message: Arc::clone(message) }, late, now);
            queue.wake(house);
        }
        true
    }

    // Questions of whoever judges.

    pub(super) fn messages(&self, house: &House, channel: &str) -> Vec<Kept> {
        let Some(index) = self.by_name.get(channel) else { return Vec::new() };
        let channel = &self.channels[*index];
        let kept = |stored: &Stored| Kept {
            place: channel.place(stored.number),
            message: Arc::clone(&stored.message),
            life: stored.life,
            at: house.since_begun(stored.at),
            fate: Fate::There,
        };
        channel.kept.iter().map(kept).collect()
    }

    /// How many messages the group has not been handed.
    pub(super) fn waiting(&self, channel: &str, group: &str) -> usize {
        let Some(index) = self.by_name.get(channel) else { return 0 };
        let channel = &self.channels[*index];
        let queues = channel.work.iter().chain(channel.groups.get(group));
        queues.map(|queue| self.queues[*queue].ready.len() + self.queues[*queue].late.len()).sum()
    }

    pub(super) fn unsettled(&mut self, house: &mut House, now: Instant) -> Vec<Unsettled> {
        let readers: Vec<ConnId> = self.readers.keys().copied().collect();
        for conn in readers {
            self.hear(house, conn, now);
        }
        let mut found = Vec::new();
        for (conn, reader) in &self.readers {
            let life = house.life(*conn);
            let out = |(queue, number)| unsettled(&reader.group, life, self.place(queue, number));
            found.extend(reader.out().map(out));
        }
        found
    }

    fn place(&self, queue: usize, number: u64) -> Place {
        self.channels[self.queues[queue].channel].place(number)
    }
}

impl Channel {
    fn place(&self, number: u64) -> Place {
        Place { channel: Arc::clone(&self.name), partition: 0, offset: number }
    }
}

impl Queue {
    fn new(channel: usize, kind: ChannelKind) -> Self {
        Self {
            channel,
            kind,
            ready: VecDeque::new(),
            late: BTreeMap::new(),
            late_keys: BTreeMap::new(),
            owner: None,
            readers: Vec::new(),
        }
    }

    /// Puts a message at the end, at once or later; never before what is late of its key.
    fn put(&mut self, held: Held, late: Option<Instant>, now: Instant) {
        self.ripen(now);
        let behind = self.late_keys.get(&held.message.key).copied();
        match late.max(behind) {
            None => self.ready.push_back(held),
            Some(at) => {
                self.late_keys.insert(held.message.key.clone(), at);
                self.late.insert((at, held.number), held);
            }
        }
    }

    /// Moves what is late no more to the end.
    fn ripen(&mut self, now: Instant) {
        while let Some(first) = self.late.first_entry()
            && first.key().0 <= now
        {
            self.ready.push_back(first.remove());
        }
        if !self.late_keys.is_empty() {
            self.late_keys.retain(|_, at| *at > now);
        }
    }

    fn wake(&self, house: &House) {
        for reader in &self.readers {
            if let Some(conn) = house.conns.get(reader) {
                conn.wake.notify_one();
            }
        }
    }
}
