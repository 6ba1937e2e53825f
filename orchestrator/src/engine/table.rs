//! Instances at rest: what the journal says that the store does not know yet, and the store below it.
//!
//! The committer puts durable changes on top. A checkpoint freezes the top, writes it into the store and lets it go;
//! only the last of an instance's many states is ever written. Shards read through all layers.

use crate::store::{Change, Space, Store, StoreError};
use dirigent_model::{history::History, instance::InstanceId, time::Timestamp};
use rustc_hash::{FxHashMap, FxHashSet};
use std::{
    mem,
    sync::{Arc, PoisonError, RwLock},
};

/// An instance at rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resting {
    /// The stored form.
    pub state: Vec<u8>,
    pub history: History,
    pub due: Option<Timestamp>,
    /// The group that made it so.
    pub seq: u64,
}

/// Changes by instance; `None` for one that is gone.
pub(crate) type Layer = FxHashMap<InstanceId, Option<Resting>>;

/// What is due, and where to go on, unless this was the last page.
pub(crate) type DuePage = (Vec<(Timestamp, InstanceId)>, Option<Vec<u8>>);

#[derive(Default)]
struct Layers {
    top: Layer,
    frozen: Arc<Layer>,
}

/// All instances at rest.
pub(crate) struct Table {
    layers: RwLock<Layers>,
    store: Arc<dyn Store>,
}

impl Table {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { layers: RwLock::default(), store }
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// An instance, whatever layer holds it.
    pub(crate) fn get(&self, id: InstanceId) -> Result<Option<Resting>, StoreError> {
        {
            let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(found) = layers.top.get(&id).or_else(|| layers.frozen.get(&id)) {
                return Ok(found.clone());
            }
        }
        Ok(self.store.get(Space::Instances, id.0.as_bytes())?.map(|value| decode(&value)))
    }

    /// Puts durable changes on top.
    pub(crate) fn put(&self, changes: impl IntoIterator<Item = (InstanceId, Option<Resting>)>) {
        let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        layers.top.extend(changes);
    }

    /// How many instances the store does not know yet.
    pub(crate) fn top_len(&self) -> usize {
        self.layers.read().unwrap_or_else(PoisonError::into_inner).top.len()
    }

    /// Freezes the top for a checkpoint; the former one must have been let go.
    pub(crate) fn freeze(&self) -> Arc<Layer> {
        let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        debug_assert!(layers.frozen.is_empty(), "one checkpoint at a time");
        layers.frozen = Arc::new(mem::take(&mut layers.top));
        Arc::clone(&layers.frozen)
    }

    /// The frozen layer is in the store for good.
    pub(crate) fn let_go(&self) {
        let gone = {
            let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
            mem::take(&mut layers.frozen)
        };
        drop(gone);
    }

    /// What a layer changes in the store. Reads the old due times, so that no timer is left behind.
    pub(crate) fn changes_of(
        &self,
        layer: &[(&InstanceId, &Option<Resting>)],
    ) -> Result<Vec<Change>, StoreError> {
        let mut changes = Vec::with_capacity(layer.len() * 2);
        for (id, resting) in layer {
            let key = id.0.as_bytes();
            let before = match self.store.get(Space::Instances, key) {
                Ok(value) => value.and_then(|value| decode(&value).due),
                Err(error) if !error.is_final() => None,
                Err(error) => return Err(error),
            };
            let due = resting.as_ref().and_then(|resting| resting.due);
            if let Some(before) = before.filter(|before| Some(*before) != due) {
                changes.push(Change::remove(Space::Timers, timer_key(before, **id)));
            }
            if let Some(due) = due.filter(|due| Some(*due) != before) {
                changes.push(Change::put(Space::Timers, timer_key(due, **id), []));
            }
            changes.push(match resting {
                Some(resting) => Change::put(Space::Instances, *key, encode(resting)),
                None => Change::remove(Space::Instances, *key),
            });
        }
        Ok(changes)
    }

    /// Instances due up to `until` that the store knows of, the earliest first, from a key on.
    pub(crate) fn due_in_store(
        &self,
        until: Timestamp,
        from: &[u8],
        limit: usize,
    ) -> Result<DuePage, StoreError> {
        let end = until.0.saturating_add(1).to_be_bytes();
        let range = (std::ops::Bound::Included(from), std::ops::Bound::Excluded(&end[..]));
        let page = self.store.scan(Space::Timers, range, limit)?;
        Ok((page.records.iter().filter_map(|(key, _)| read_timer_key(key)).collect(), page.next))
    }

    /// Every instance, in the order of ids, for listing. `each` says whether to go on.
    pub(crate) fn each(
        &self,
        mut each: impl FnMut(InstanceId, &Resting) -> bool,
    ) -> Result<(), StoreError> {
        // Names only, and one instance at a time: whoever lists a few must not copy all that changed lately.
        let overlay: FxHashSet<InstanceId> = {
            let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
            layers.top.keys().chain(layers.frozen.keys()).copied().collect()
        };
        for id in &overlay {
            if self.get(*id)?.is_some_and(|resting| !each(*id, &resting)) {
                return Ok(());
            }
        }
        let mut from = Vec::new();
        loop {
            let range = (std::ops::Bound::Included(&from[..]), std::ops::Bound::Unbounded);
            let page = self.store.scan(Space::Instances, range, 1_000)?;
            for (key, value) in &page.records {
                let Ok(id) = uuid::Uuid::from_slice(key).map(InstanceId) else { continue };
                if !overlay.contains(&id) && !each(id, &decode(value)) {
                    return Ok(());
                }
            }
            match page.next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }
}

fn timer_key(due: Timestamp, id: InstanceId) -> Vec<u8> {
    [&due.0.to_be_bytes()[..], id.0.as_bytes()].concat()
}

fn read_timer_key(key: &[u8]) -> Option<(Timestamp, InstanceId)> {
    let (due, id) = key.split_first_chunk()?;
    Some((Timestamp(u64::from_be_bytes(*due)), InstanceId(uuid::Uuid::from_slice(id).ok()?)))
}

/// Due time, group, length of the state, state, history.
fn encode(resting: &Resting) -> Vec<u8> {
    let history = resting.history.encode();
    let mut value = Vec::with_capacity(20 + resting.state.len() + history.len());
    value.extend_from_slice(&resting.due.map_or(0, |due| due.0).to_be_bytes());
    value.extend_from_slice(&resting.seq.to_be_bytes());
    value.extend_from_slice(&u32::try_from(resting.state.len()).unwrap_or(u32::MAX).to_be_bytes());
    value.extend_from_slice(&resting.state);
    value.extend_from_slice(&history);
    value
}

/// A value cut short gives an empty state, which no definition can read: it is set aside when it is asked for.
fn decode(value: &[u8]) -> Resting {
    let number = |at: usize| {
        value
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .map_or(0, |bytes| u64::from_be_bytes(*bytes))
    };
    let (due, seq) = (number(0), number(8));
    let length = value
        .get(16..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |length| u32::from_be_bytes(*length));
    let rest = value.get(20..).unwrap_or_default();
    let (state, history) = rest.split_at_checked(length as usize).unwrap_or((&[], &[]));
    Resting {
        state: state.to_vec(),
        history: History::decode(history),
        due: (due != 0).then_some(Timestamp(due)),
        seq,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;
    use uuid::Uuid;

    fn resting(mark: u8, due: u64) -> Option<Resting> {
        Some(Resting {
            state: vec![mark; 10],
            history: History::default(),
            due: Some(Timestamp(due)),
            seq: 3,
        })
    }

    fn checkpoint(table: &Table) {
        let layer = table.freeze();
        let entries: Vec<_> = layer.iter().collect();
        table.store.write(&table.changes_of(&entries).unwrap()).unwrap();
        table.let_go();
    }

    #[test]
    fn the_newest_layer_wins_and_the_store_comes_last() {
        let table = Table::new(Arc::new(MemoryStore::new()));
        let id = InstanceId(Uuid::from_u128(1));
        table.put([(id, resting(1, 5))]);
        checkpoint(&table);
        assert_eq!(table.get(id).unwrap(), resting(1, 5));
        table.put([(id, resting(2, 6))]);
        table.freeze();
        assert_eq!(table.get(id).unwrap(), resting(2, 6));
        table.put([(id, None)]);
        assert_eq!(table.get(id).unwrap(), None);
    }

    #[test]
    fn a_changed_due_time_leaves_no_timer_behind() {
        let table = Table::new(Arc::new(MemoryStore::new()));
        let id = InstanceId(Uuid::from_u128(1));
        for due in [5, 9, 7] {
            table.put([(id, resting(1, due))]);
            checkpoint(&table);
            assert_eq!(
                table.due_in_store(Timestamp(100), &[], 10).unwrap().0,
                [(Timestamp(due), id)]
            );
        }
        table.put([(id, None)]);
        checkpoint(&table);
        assert!(table.due_in_store(Timestamp(100), &[], 10).unwrap().0.is_empty());
    }
}
