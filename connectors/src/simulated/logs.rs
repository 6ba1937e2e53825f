//! Logs, as Kafka keeps them: partitions by key, offsets that may have gaps, transactions that hold readers back.
//!
//! ```text
//! store ─► a partition by the key ─► its end          begin ─► the same, open ─► commit or abort ─► there, or never
//! reader: from its position ─► up to the first open transaction, or the first message that is late
//! ```
//!
//! What must be true: an offset names one message for ever; within a partition messages are handed out in the order of offsets; what
//! is open or aborted is handed out to nobody. What retention has deleted is only out of reach: who judges a run still finds it.

mod reader;
mod transactions;

use super::{
    Fate, Kept, Life, Place, Unsettled, What,
    faults::injected,
    house::{ConnId, House, hash, unsettled},
};
use crate::{ChannelKind, ChannelSpec, Message, Retention};
use reader::Reader;
use std::{collections::BTreeMap, sync::Arc};
use tokio::time::Instant;
use transactions::Transaction;

pub(super) use transactions::Ended;

/// Offsets that one gap leaves out at the most: an end of a transaction takes one, an aborted window as many as it had.
const GAP_MAX: u64 = 4;

/// All logs of one broker, their readers, and who owns which group.
#[derive(Default)]
pub(super) struct Logs {
    topics: Vec<Topic>,
    by_name: BTreeMap<Arc<str>, usize>,
    groups: BTreeMap<Arc<str>, Group>,
    readers: BTreeMap<ConnId, Reader>,
    transactions: BTreeMap<u64, Transaction>,
    transaction_next: u64,
}

struct Topic {
    name: Arc<str>,
    kind: ChannelKind,
    partitions: Vec<Partition>,
    readers: Vec<ConnId>,
}

#[derive(Default)]
struct Partition {
    entries: Vec<Entry>,
    /// The first entry that was not deleted.
    first: usize,
    /// The first offset that was not deleted.
    low: u64,
    /// The offset of the next message.
    high: u64,
    /// Nothing behind it is handed out before.
    visible: Option<Instant>,
}

struct Entry {
    offset: u64,
    message: Arc<Message>,
    life: u32,
    stored: Instant,
    visible: Instant,
    fate: Fate,
}

/// A group of consumers, of which one process owns all.
#[derive(Default)]
struct Group {
    epoch: u64,
    owner: Option<(ConnId, Arc<Life>)>,
    /// Up to where it has settled, by topic and partition.
    committed: BTreeMap<(usize, u32), u64>,
}

/// Where an entry lies: topic, partition, and its place among the entries.
type Spot = (usize, u32, usize);

impl Logs {
    /// The log of this name; made if it is missing.
    pub(super) fn topic(&mut self, house: &House, channel: &ChannelSpec) -> usize {
        if let Some(known) = self.by_name.get(channel.name.as_str()) {
            return *known;
        }
        let name: Arc<str> = channel.name.as_str().into();
        let partitions = (0..house.settings.partitions.max(1)).map(|_| Partition::default());
        self.topics.push(Topic {
            name: Arc::clone(&name),
            kind: channel.kind,
            partitions: partitions.collect(),
            readers: Vec::new(),
        });
        self.by_name.insert(name, self.topics.len() - 1);
        self.topics.len() - 1
    }

    /// The log a message goes to; none where it is work and nobody has prepared it.
    pub(super) fn route(&mut self, house: &House, message: &Message) -> Option<usize> {
        let known = self.by_name.get(message.channel.as_str()).copied();
        known.or_else(|| {
            let is_event = message.kind == ChannelKind::Events;
            is_event.then(|| self.topic(house, &ChannelSpec::events(message.channel.as_str())))
        })
    }

    /// Stores a message at the end of its partition.
    pub(super) fn store(
        &mut self,
        house: &mut House,
        life: u32,
        topic: usize,
        message: &Arc<Message>,
        now: Instant,
    ) {
        self.append(house, life, topic, message, now, Fate::There);
        self.wake(house, topic);
    }

    fn append(
        &mut self,
        house: &mut House,
        life: u32,
        index: usize,
        message: &Arc<Message>,
        now: Instant,
        fate: Fate,
    ) -> Spot {
        let faults = &house.settings.faults;
        let (late, gaps) = (faults.late, faults.gaps);
        let late = house.strikes(now, life, late, injected::LATE);
        let gap = house.strikes(now, life, gaps, injected::GAP);
        let late_by = late.then(|| house.trouble(|settings| &settings.faults.late_by));
        let left_out = if gap { 1 + house.random.below(GAP_MAX) } else { 0 };
        let topic = &mut self.topics[index];
        let count = topic.partitions.len() as u64;
        let number = (hash(message.key.as_bytes()) % count) as u32;
        let partition = &mut topic.partitions[number as usize];
        partition.high += left_out;
        let offset = partition.high;
        partition.high += 1;
        let visible = partition.visible.max(late_by.map(|by| now + by)).filter(|at| *at > now);
        partition.visible = visible;
        let message = Arc::clone(message);
        let told = Arc::clone(&message);
        let visible = visible.unwrap_or(now);
        partition.entries.push(Entry { offset, message, life, stored: now, visible, fate });
        let place = Place { channel: Arc::clone(&topic.name), partition: number, offset };
        let open = fate == Fate::Open;
        house.tell(now, life, || What::Stored { place, message: told, open });
        (index, number, topic.partitions[number as usize].entries.len() - 1)
    }

    /// Wakes whoever reads a log.
    fn wake(&self, house: &House, topic: usize) {
        for reader in &self.topics[topic].readers {
            if let Some(conn) = house.conns.get(reader) {
                conn.wake.notify_one();
            }
        }
    }

    fn place(&self, (topic, partition, at): Spot) -> Place {
        let topic = &self.topics[topic];
        let offset = topic.partitions[partition as usize].entries[at].offset;
        Place { channel: Arc::clone(&topic.name), partition, offset }
    }

    /// Deletes all of a partition below an offset, as an administrator or its age would.
    pub(super) fn forget_before(&mut self, channel: &str, partition: u32, offset: u64) {
        let Some(topic) = self.by_name.get(channel) else { return };
        let partitions = &mut self.topics[*topic].partitions;
        if let Some(partition) = partitions.get_mut(partition as usize) {
            partition.forget_before(offset.min(partition.high));
        }
    }

    /// When the next transaction is aborted that has not ended until then.
    pub(super) fn due(&self) -> Option<Instant> {
        self.transactions.values().map(|open| open.until).min()
    }

    // Questions of whoever judges.

    pub(super) fn messages(&self, house: &House, channel: &str) -> Vec<Kept> {
        let Some(index) = self.by_name.get(channel) else { return Vec::new() };
        let topic = &self.topics[*index];
        let of_partition = |(number, partition): (u32, &Partition)| {
            let kept = |entry: &Entry| Kept {
                place: Place {
                    channel: Arc::clone(&topic.name),
                    partition: number,
                    offset: entry.offset,
                },
                message: Arc::clone(&entry.message),
                life: entry.life,
                at: house.since_begun(entry.stored),
                fate: entry.fate,
            };
            partition.entries.iter().map(kept).collect::<Vec<_>>()
        };
        (0_u32..).zip(&topic.partitions).flat_map(of_partition).collect()
    }

    /// How many messages the group has not been handed.
    pub(super) fn waiting(&self, channel: &str, group: &str) -> usize {
        let Some(topic) = self.by_name.get(channel) else { return 0 };
        let reader = self.readers.values().find(|reader| &*reader.group == group);
        let partitions = (0_u32..).zip(&self.topics[*topic].partitions);
        let waiting = partitions.map(|(number, partition)| {
            let reads = reader.and_then(|reader| reader.begins_at(*topic, number));
            let from = reads.unwrap_or_else(|| {
                let group = self.groups.get(group);
                let settled = group.and_then(|group| group.committed.get(&(*topic, number)));
                settled.map_or(partition.first, |next| partition.index_of(*next))
            });
            let waits = |entry: &&Entry| entry.fate == Fate::There;
            partition.entries[from..].iter().filter(waits).count()
        });
        let again = reader.map_or(0, |reader| reader.waiting_again(*topic));
        waiting.sum::<usize>() + again
    }

    pub(super) fn unsettled(&self, house: &House) -> Vec<Unsettled> {
        let of_reader = |(conn, reader): (&ConnId, &Reader)| {
            let out = |spot| unsettled(&reader.group, house.life(*conn), self.place(spot));
            reader.out().map(out).collect::<Vec<_>>()
        };
        self.readers.iter().flat_map(of_reader).collect()
    }
}

impl Partition {
    /// The first entry at or behind an offset.
    fn index_of(&self, offset: u64) -> usize {
        self.entries.partition_point(|entry| entry.offset < offset)
    }

    fn forget_before(&mut self, offset: u64) {
        self.low = self.low.max(offset);
        self.first = self.first.max(self.index_of(offset));
    }

    /// Deletes what is older than is kept.
    fn expire(&mut self, retention: Retention, now: Instant) {
        let Retention::For(age) = retention else { return };
        while let Some(entry) = self.entries.get(self.first)
            && entry.stored + age <= now
            && entry.fate != Fate::Open
        {
            self.first += 1;
            self.low = entry.offset + 1;
        }
    }
}
