//! Messages that are kept for an instance: parked until they can be applied, or quarantined until a person decides.
//!
//! What is kept for one instance lies on its *shelf* in the order of arrival. The shard that owns the instance decides; what it
//! decided is a [`KeptChange`] in its commit group, beside the movement it means in the accounts. Once that is durable it is in
//! the [`KeptTable`], which everybody may read and the checkpoint writes into the store. All of it is in memory, within bounds.

use super::{
    accounts::Count,
    kept_wire::{put_change, take_change},
    shard::Fatal,
    wire::Take,
};
use crate::store::{ALL_KEYS, Change, Space, Store};
use dirigent_connectors::{Message, names};
use dirigent_model::{instance::InstanceId, time::Timestamp};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Messages parked at once. A flood of events that nobody waits for must not fill the memory.
pub const PARKED_MAX: usize = 10_000;

/// Bytes of the messages parked at once.
pub const PARKED_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Messages quarantined at once: more than a person can look at.
pub const QUARANTINED_MAX: usize = 10_000;

/// Bytes of the messages quarantined at once.
pub const QUARANTINED_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Bytes of a message that can be kept, its headers included: what the store takes as one value, with room to spare.
pub const KEPT_MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Characters of the reason why a message is quarantined; what comes from outside may be long.
const REASON_CHARS_MAX: usize = 500;

/// How long an event waits for its instance if the settings don't say: longer than a broker is away as a rule.
pub const PARKED_FOR: Duration = Duration::from_secs(600);

/// Records read from the store at once.
const PAGE: usize = 1_000;

/// What a kept message is for its saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Start,
    Event,
    Reply,
}

/// A message that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Names it, never used again; in the order of arrival for each instance.
    pub number: u64,
    pub instance: InstanceId,
    pub kind: Kind,
    /// The saga and the business key, where the message says so, or its instance.
    pub saga: String,
    pub key: String,
    pub standing: Standing,
    /// When it came.
    pub since: Timestamp,
    pub partition: u32,
    pub offset: u64,
    /// Whether the accounts count it. A message that concerns several sagas is kept for each, and counted for the first.
    pub counted: bool,
    /// The other instances it concerns.
    pub others: Vec<InstanceId>,
    pub message: Arc<Message>,
}

/// Why a message is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Parked for an instance that is not there yet, up to this time.
    Orphan { until: Timestamp },
    /// Parked behind a quarantined message of its instance.
    Behind,
    /// A person decides. One that `blocks` holds back what comes behind it, and the timers of its instance.
    Quarantined { reason: String, text: String, blocks: bool },
}

impl Standing {
    /// For a person to decide.
    pub(crate) fn quarantined(reason: &str, text: &str, blocks: bool) -> Self {
        let text = text.chars().take(REASON_CHARS_MAX).collect();
        Self::Quarantined { reason: reason.to_owned(), text, blocks }
    }

    pub(crate) fn count(&self) -> Count {
        match self {
            Self::Orphan { .. } | Self::Behind => Count::Parked,
            Self::Quarantined { .. } => Count::Quarantined,
        }
    }

    pub(crate) fn blocks(&self) -> bool {
        matches!(self, Self::Quarantined { blocks: true, .. })
    }
}

impl Kept {
    /// What it takes of the bounds.
    pub(crate) fn bytes(&self) -> usize {
        bytes_of(&self.message)
    }

    /// The id of its message.
    pub(crate) fn cause(&self) -> Option<String> {
        self.message.attributes.get(names::ID).map(ToOwned::to_owned)
    }

    /// The movement in the accounts when it becomes something else.
    pub(crate) fn moved(&self, to: Count) -> Option<Moved> {
        let from = self.standing.count();
        let (channel, partition) = (self.message.channel.as_str().into(), self.partition);
        (self.counted && from != to).then_some(Moved { channel, partition, from, to })
    }

    /// Whether a message that comes in is this one again.
    pub(crate) fn is_same_as(&self, message: &Message) -> bool {
        let known = &self.message;
        self.message.attributes.get(names::ID).is_some()
            && known.attributes.get(names::ID) == message.attributes.get(names::ID)
            && known.attributes.get(names::TYPE) == message.attributes.get(names::TYPE)
            && known.channel == message.channel
            && known.body == message.body
    }
}

/// All bytes of a message.
pub(crate) fn bytes_of(message: &Message) -> usize {
    let attributes = message.attributes.iter().map(|(name, value)| name.len() + value.len());
    let others = message.others.iter().map(|(name, value)| name.len() + value.len());
    message.body.len() + message.key.len() + attributes.chain(others).sum::<usize>()
}

/// What happens to what is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeptChange {
    /// It is kept from now on. Its delivery counts it.
    Put(Arc<Kept>),
    /// It stands otherwise.
    Stands { number: u64, standing: Standing, moved: Option<Moved> },
    /// It was decided about.
    Gone { number: u64, became: Count, moved: Option<Moved> },
}

impl KeptChange {
    pub(crate) fn moved(&self) -> Option<&Moved> {
        match self {
            Self::Put(_) => None,
            Self::Stands { moved, .. } | Self::Gone { moved, .. } => moved.as_ref(),
        }
    }
}

/// A message counts as something else from now on: taken from one account and added to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moved {
    pub channel: Arc<str>,
    pub partition: u32,
    pub from: Count,
    pub to: Count,
}

/// What is kept for one instance, in order.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    messages: BTreeMap<u64, Arc<Kept>>,
    blocked_by: Option<u64>,
}

impl Shelf {
    pub(crate) fn put(&mut self, kept: Arc<Kept>) {
        if kept.standing.blocks() {
            self.blocked_by = Some(kept.number);
        }
        self.messages.insert(kept.number, kept);
    }

    pub(crate) fn take(&mut self, number: u64) -> Option<Arc<Kept>> {
        if self.blocked_by == Some(number) {
            self.blocked_by = None;
        }
        self.messages.remove(&number)
    }

    pub(crate) fn get(&self, number: u64) -> Option<&Arc<Kept>> {
        self.messages.get(&number)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(crate) fn blocked_by(&self) -> Option<u64> {
        self.blocked_by
    }

    pub(crate) fn holds(&self, message: &Message) -> bool {
        self.messages.values().any(|kept| kept.is_same_as(message))
    }

    /// The first message from a number on that is parked behind another one.
    pub(crate) fn first_behind(&self, from: u64) -> Option<u64> {
        let mut later = self.messages.range(from..);
        later.find(|(_, kept)| kept.standing == Standing::Behind).map(|(number, _)| *number)
    }

    /// How many are parked.
    pub(crate) fn parked(&self) -> u64 {
        let messages = self.messages.values();
        messages.filter(|kept| kept.standing.count() == Count::Parked).count() as u64
    }

    /// Those that wait for their instance to appear.
    pub(crate) fn orphans(&self) -> Vec<u64> {
        let orphans = self.messages.values();
        let orphans = orphans.filter(|kept| matches!(kept.standing, Standing::Orphan { .. }));
        orphans.map(|kept| kept.number).collect()
    }
}

/// Room for messages: as much as its bounds leave.
#[derive(Debug, Default)]
struct Room {
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

impl Room {
    fn take(&self, bytes: usize, messages_max: usize, bytes_max: usize) -> bool {
        let fits =
            |used: usize, more: usize, max: usize| used.checked_add(more).filter(|sum| *sum <= max);
        let one = |used| fits(used, 1, messages_max);
        if self.messages.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one).is_err() {
            return false;
        }
        let all = |used| fits(used, bytes, bytes_max);
        let taken = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, all).is_ok();
        if !taken {
            self.messages.fetch_sub(1, Ordering::Relaxed);
        }
        taken
    }

    fn give(&self, bytes: usize) {
        self.messages.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Everything that is kept, as far as it is durable, and the room that is left.
#[derive(Debug, Default)]
pub(crate) struct KeptTable {
    durable: Mutex<Durable>,
    parked: Room,
    quarantined: Room,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct Durable {
    all: BTreeMap<u64, Arc<Kept>>,
    /// What the store does not know as it is.
    changed: BTreeSet<u64>,
}

/// What a checkpoint writes: `None` for what is gone.
pub(crate) type KeptLayer = Vec<(u64, Option<Arc<Kept>>)>;

impl KeptTable {
    /// Reads what the last checkpoint wrote. A record that can't be read is set aside; the audit misses it.
    pub(crate) fn load(&self, store: &dyn Store) -> Result<(), Fatal> {
        let mut from = Bound::Unbounded;
        loop {
            let start = from.as_ref().map(Vec::as_slice);
            let page = store.scan(Space::Kept, (start, ALL_KEYS.1), PAGE)?;
            let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
            for (key, value) in &page.records {
                match take_change(&mut Take(value)) {
                    Ok(KeptChange::Put(kept)) => drop(durable.all.insert(kept.number, kept)),
                    Ok(_) | Err(_) => unreadable(key),
                }
            }
            page.damaged.iter().for_each(|key| unreadable(key));
            match page.next {
                Some(next) => from = Bound::Included(next),
                None => return Ok(()),
            }
        }
    }

    /// Takes durable changes in.
    pub(crate) fn apply<'a>(&self, changes: impl IntoIterator<Item = &'a KeptChange>) {
        let mut changes = changes.into_iter().peekable();
        if changes.peek().is_none() {
            return;
        }
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            let number = match change {
                KeptChange::Put(kept) => {
                    durable.all.insert(kept.number, Arc::clone(kept));
                    kept.number
                }
                KeptChange::Stands { number, standing, .. } => {
                    // A checkpoint that was cut short may know already that it is gone.
                    if let Some(kept) = durable.all.get_mut(number) {
                        Arc::make_mut(kept).standing = standing.clone();
                    }
                    *number
                }
                KeptChange::Gone { number, .. } => {
                    durable.all.remove(number);
                    *number
                }
            };
            durable.changed.insert(number);
        }
    }

    /// Once everything is read: what is kept takes its room, and new ones get higher numbers.
    pub(crate) fn settle_in(&self, next: u64) {
        self.next.store(next, Ordering::Relaxed);
        for kept in self.all() {
            let room = self.room(kept.standing.count());
            room.messages.fetch_add(1, Ordering::Relaxed);
            room.bytes.fetch_add(kept.bytes(), Ordering::Relaxed);
        }
    }

    /// What changed since the last checkpoint.
    pub(crate) fn freeze(&self) -> KeptLayer {
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = std::mem::take(&mut durable.changed);
        changed.into_iter().map(|number| (number, durable.all.get(&number).cloned())).collect()
    }

    /// Whether the store does not know a message as it is: the next checkpoint writes it, or takes it out.
    pub(super) fn is_changed(&self, number: u64) -> bool {
        let durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        durable.changed.contains(&number)
    }

    /// Everything, in the order of arrival.
    pub(crate) fn all(&self) -> Vec<Arc<Kept>> {
        let durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        durable.all.values().cloned().collect()
    }

    /// The instances that a quarantined message holds, with its number: what comes for them is parked behind it.
    pub(crate) fn holding(&self) -> BTreeMap<InstanceId, u64> {
        let durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        let blocking = durable.all.values().filter(|kept| kept.standing.blocks());
        blocking.map(|kept| (kept.instance, kept.number)).collect()
    }

    /// Messages that wait for a person. One that concerns several instances is one message.
    pub(crate) fn quarantined(&self) -> usize {
        let durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = durable.all.values().filter(|kept| kept.counted);
        counted.filter(|kept| kept.standing.count() == Count::Quarantined).count()
    }

    pub(crate) fn get(&self, number: u64) -> Option<Arc<Kept>> {
        let durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        durable.all.get(&number).cloned()
    }

    /// The number of the next message that is kept.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn room(&self, count: Count) -> &Room {
        if count == Count::Parked { &self.parked } else { &self.quarantined }
    }

    /// Bytes of all that is kept.
    pub(crate) fn bytes(&self) -> usize {
        [Count::Parked, Count::Quarantined]
            .map(|count| self.room(count).bytes.load(Ordering::Relaxed))
            .iter()
            .sum()
    }

    /// Takes room for a message. Says whether there was any.
    pub(crate) fn take_room(&self, count: Count, bytes: usize) -> bool {
        let (messages_max, bytes_max) = match count {
            Count::Parked => (PARKED_MAX, PARKED_BYTES_MAX),
            _ => (QUARANTINED_MAX, QUARANTINED_BYTES_MAX),
        };
        bytes <= KEPT_MESSAGE_BYTES_MAX && self.room(count).take(bytes, messages_max, bytes_max)
    }

    pub(crate) fn give_room(&self, count: Count, bytes: usize) {
        self.room(count).give(bytes);
    }
}

fn unreadable(key: &[u8]) {
    let number = key.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    tracing::error!(
        number,
        "A message that was kept can't be read from the store; it is set aside. `audit` tells what it leaves open."
    );
}

/// What a layer changes in the store.
pub(crate) fn changes_of(layer: &[(u64, Option<Arc<Kept>>)]) -> Vec<Change> {
    let change = |(number, kept): &(u64, Option<Arc<Kept>>)| {
        let key = number.to_be_bytes();
        match kept {
            None => Change::remove(Space::Kept, key),
            Some(kept) => {
                let mut value = Vec::new();
                put_change(&mut value, &KeptChange::Put(Arc::clone(kept)));
                Change::put(Space::Kept, key, value)
            }
        }
    };
    layer.iter().map(change).collect()
}
