//! Instances at rest: what the journal says that the store does not know yet, and the store below it.
//!
//! The committer puts durable changes on top. A checkpoint freezes the top, writes it into the store and lets it go;
//! only the last of an instance's many states is ever written. Shards read through all layers.

use crate::{
    planted::{self, Bug},
    store::{Change, Space, Store, StoreError},
};
use dirigent_model::{history::History, instance::InstanceId, time::Timestamp};
use rustc_hash::{FxHashMap, FxHashSet};
use std::{
    collections::hash_map::Entry,
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
    /// Whether it has ended, and is only kept until its retention is over.
    pub ended: bool,
    /// Whether the store has never had it, for certain.
    pub new: bool,
}

/// Ends of retentions in one record of the store: it stays well below the size that the store would cut into pieces.
const RETENTIONS_PER_BUNDLE: usize = 250;

/// Bundles removed by one checkpoint.
const BUNDLES_REMOVED_AT_ONCE: usize = 10_000;

/// What an instance takes in the store beside its state and history, roughly: its key, its times and their records.
const RECORD_BYTES: usize = 128;

/// How much the store does not know yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Weight {
    pub instances: usize,
    /// What they take in the store, roughly.
    pub bytes: usize,
}

/// Changes by instance; `None` for one that is gone.
pub(crate) type Layer = FxHashMap<InstanceId, Option<Resting>>;

/// What is due, and where to go on, unless this was the last page.
pub(crate) type DuePage = (Vec<(Timestamp, InstanceId)>, Option<Vec<u8>>);

#[derive(Default)]
struct Layers {
    top: Layer,
    /// What the top takes in the store, roughly.
    top_bytes: usize,
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
        let Layers { top, top_bytes, .. } = &mut *layers;
        for (id, mut resting) in changes {
            *top_bytes += bytes_of(resting.as_ref());
            match top.entry(id) {
                Entry::Occupied(mut known) => {
                    // One that is gone may be in the store still.
                    if let Some(resting) = &mut resting {
                        resting.new = known.get().as_ref().is_some_and(|known| known.new);
                    }
                    let before = known.insert(resting);
                    *top_bytes -= bytes_of(before.as_ref());
                }
                Entry::Vacant(place) => {
                    place.insert(resting);
                }
            }
        }
    }

    /// How much the store does not know yet, and no checkpoint is writing.
    pub(crate) fn top_weight(&self) -> Weight {
        let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
        Weight { instances: layers.top.len(), bytes: layers.top_bytes }
    }

    /// Freezes the top for a checkpoint; the former one must have been let go.
    pub(crate) fn freeze(&self) -> Arc<Layer> {
        let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        debug_assert!(layers.frozen.is_empty(), "one checkpoint at a time");
        layers.frozen = Arc::new(mem::take(&mut layers.top));
        layers.top_bytes = 0;
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
        // Times before instances: cut short in between, a time may be left over, which is harmless. The other way round an
        // instance would say of itself that its time is in the store already, and the next checkpoint would leave it out.
        let mut changes = Vec::with_capacity(layer.len() * 2);
        let mut instances = Vec::with_capacity(layer.len());
        let mut kept: Vec<(Timestamp, InstanceId, u64)> = Vec::new();
        for (id, resting) in layer {
            let key = id.0.as_bytes();
            let is_new = resting.as_ref().is_some_and(|resting| resting.new);
            let stored = if is_new { Ok(None) } else { self.store.get(Space::Instances, key) };
            let before = match stored {
                Ok(value) => value
                    .map(|value| decode(&value))
                    .filter(|before| !before.ended)
                    .and_then(|before| before.due),
                Err(error) if !error.is_final() => None,
                Err(error) => return Err(error),
            };
            let (due, ended) =
                resting.as_ref().map_or((None, false), |resting| (resting.due, resting.ended));
            if let Some(before) = before.filter(|before| ended || Some(*before) != due) {
                changes.push(Change::remove(Space::Timers, timer_key(before, **id)));
            }
            match due {
                Some(due) if ended => {
                    kept.push((due, **id, resting.as_ref().map_or(0, |resting| resting.seq)))
                }
                Some(_) if planted::is(Bug::TimersNotCheckpointed) => {}
                Some(due) if Some(due) != before => {
                    changes.push(Change::put(Space::Timers, timer_key(due, **id), []))
                }
                Some(_) | None => {}
            }
            instances.push(match resting {
                Some(resting) => Change::put(Space::Instances, *key, encode(resting)),
                None => Change::remove(Space::Instances, *key),
            });
        }
        // The ends of retentions are many and far, and exact to the moment for nobody: they go in bundles.
        kept.sort_unstable();
        for bundle in kept.chunks(RETENTIONS_PER_BUNDLE) {
            let Some((due, first, seq)) = bundle.last() else { continue };
            let ids: Vec<u8> = bundle.iter().flat_map(|(_, id, _)| *id.0.as_bytes()).collect();
            changes.push(Change::put(Space::Timers, bundle_key(*due, *seq, *first), ids));
        }
        if planted::is(Bug::InstancesBeforeTimes) {
            instances.append(&mut changes);
            return Ok(instances);
        }
        changes.append(&mut instances);
        Ok(changes)
    }

    /// Removes bundles of retentions that every shard has gone through.
    pub(crate) fn bundles_below(&self, until: Timestamp) -> Result<Vec<Change>, StoreError> {
        let end = until.0.to_be_bytes();
        let range = (std::ops::Bound::Unbounded, std::ops::Bound::Excluded(&end[..]));
        let page = self.store.scan(Space::Timers, range, BUNDLES_REMOVED_AT_ONCE)?;
        let bundles = page.records.into_iter().filter(|(key, _)| key.len() == BUNDLE_KEY_BYTES);
        Ok(bundles.map(|(key, _)| Change::remove(Space::Timers, key)).collect())
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
        Ok((
            page.records.iter().flat_map(|(key, value)| read_timer(key, value)).collect(),
            page.next,
        ))
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

fn bytes_of(resting: Option<&Resting>) -> usize {
    RECORD_BYTES + resting.map_or(0, |resting| resting.state.len() + resting.history.bytes())
}

pub(super) fn timer_key(due: Timestamp, id: InstanceId) -> Vec<u8> {
    [&due.0.to_be_bytes()[..], id.0.as_bytes()].concat()
}

/// Longer than the key of a timer, so that one is never taken for the other.
pub(super) const BUNDLE_KEY_BYTES: usize = 8 + 8 + 16;

pub(super) fn bundle_key(due: Timestamp, seq: u64, first: InstanceId) -> Vec<u8> {
    [&due.0.to_be_bytes()[..], &seq.to_be_bytes(), first.0.as_bytes()].concat()
}

fn read_timer(key: &[u8], value: &[u8]) -> Vec<(Timestamp, InstanceId)> {
    let Some((due, id)) = key.split_first_chunk() else { return Vec::new() };
    let due = Timestamp(u64::from_be_bytes(*due));
    let ids = if key.len() == BUNDLE_KEY_BYTES { value } else { id };
    ids.chunks_exact(16)
        .filter_map(|id| Some((due, InstanceId(uuid::Uuid::from_slice(id).ok()?))))
        .collect()
}

/// Due time, group, whether it has ended, length of the state, state, history.
pub(super) fn encode(resting: &Resting) -> Vec<u8> {
    let history = resting.history.encode();
    let mut value = Vec::with_capacity(21 + resting.state.len() + history.len());
    value.extend_from_slice(&resting.due.map_or(0, |due| due.0).to_be_bytes());
    value.extend_from_slice(&resting.seq.to_be_bytes());
    value.push(u8::from(resting.ended));
    value.extend_from_slice(&u32::try_from(resting.state.len()).unwrap_or(u32::MAX).to_be_bytes());
    value.extend_from_slice(&resting.state);
    value.extend_from_slice(&history);
    value
}

/// What [`flaw_of`] says where all but the history can be read.
pub(super) const HISTORY_FLAW: &str = "its history can't be read";

/// What is wrong with a value, for whoever wants to know more than [`decode`] says.
pub(super) fn flaw_of(value: &[u8]) -> Option<&'static str> {
    let length = value.get(17..).and_then(|rest| rest.first_chunk());
    let length = length.map(|length| u32::from_be_bytes(*length) as usize);
    let rest = value.get(21..).unwrap_or_default();
    match (value.get(16), length.and_then(|length| rest.split_at_checked(length))) {
        (Some(0 | 1), Some((_, history))) if History::is_whole(history) => None,
        (Some(0 | 1), Some(_)) => Some(HISTORY_FLAW),
        (Some(_), Some(_)) => Some("it says neither that the instance lives nor that it has ended"),
        (_, None) | (None, _) => Some("it is cut short"),
    }
}

/// A value cut short gives an empty state, which no definition can read: it is set aside when it is asked for.
pub(super) fn decode(value: &[u8]) -> Resting {
    let number = |at: usize| {
        value
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .map_or(0, |bytes| u64::from_be_bytes(*bytes))
    };
    let (due, seq) = (number(0), number(8));
    let length = value
        .get(17..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |length| u32::from_be_bytes(*length));
    let rest = value.get(21..).unwrap_or_default();
    let (state, history) = rest.split_at_checked(length as usize).unwrap_or((&[], &[]));
    Resting {
        state: state.to_vec(),
        history: History::decode(history),
        due: (due != 0).then_some(Timestamp(due)),
        seq,
        ended: value.get(16).is_some_and(|ended| *ended == 1),
        new: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;
    use dirigent_model::instance::Instance;
    use uuid::Uuid;

    fn resting(mark: u8, due: u64) -> Option<Resting> {
        Some(Resting {
            state: vec![mark; 10],
            history: History::default(),
            due: Some(Timestamp(due)),
            seq: 3,
            ended: false,
            new: false,
        })
    }

    fn checkpoint(table: &Table) {
        let layer = table.freeze();
        let entries: Vec<_> = layer.iter().collect();
        table.store.write(&table.changes_of(&entries).unwrap()).unwrap();
        table.let_go();
    }

    #[test]
    fn the_forms_of_an_instance_its_history_and_its_times_are_the_kept_ones() {
        let resting = super::super::table_samples::resting();
        let kept = crate::kept_forms::kept("instance", &encode(&resting));
        assert_eq!(decode(&kept), resting);
        assert_eq!(flaw_of(&kept), None);
        let state = decode(&kept).state;
        let (core, json) = Instance::peek(&state).unwrap();
        assert_eq!((core, json), (super::super::table_samples::core(), &br#"{"order":80}"#[..]));
        let lines = super::super::table_samples::lines();
        assert_eq!((decode(&kept).history.lines(), resting.history.forgotten()), (lines, 0));
        let id = InstanceId(Uuid::from_u128(7));
        let keys = [timer_key(Timestamp(300), id), bundle_key(Timestamp(300), 9, id)].concat();
        let kept = crate::kept_forms::kept("due-times", &keys);
        assert_eq!(read_timer(&kept[..24], &[]), [(Timestamp(300), id)]);
        assert_eq!(read_timer(&kept[24..], id.0.as_bytes()), [(Timestamp(300), id)]);
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
    fn the_weight_of_the_top_is_that_of_the_last_states_however_often_they_change() {
        let table = Table::new(Arc::new(MemoryStore::new()));
        let ids = [1, 2].map(|id| InstanceId(Uuid::from_u128(id)));
        for due in 1..1_000 {
            table.put([(ids[0], resting(1, due)), (ids[1], resting(2, due))]);
        }
        let both = Weight { instances: 2, bytes: 2 * (RECORD_BYTES + 10) };
        assert_eq!(table.top_weight(), both);
        table.put([(ids[1], None)]);
        assert_eq!(table.top_weight(), Weight { bytes: both.bytes - 10, ..both });
        checkpoint(&table);
        assert_eq!(table.top_weight(), Weight::default());
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

    #[test]
    fn retentions_of_many_ended_instances_are_one_record_and_are_all_found() {
        let table = Table::new(Arc::new(MemoryStore::new()));
        let ids: Vec<InstanceId> = (0..100).map(|id| InstanceId(Uuid::from_u128(id))).collect();
        let ended =
            |due| resting(1, due).map(|resting| Resting { ended: true, new: true, ..resting });
        table.put(ids.iter().map(|id| (*id, ended(50 + id.0.as_u128() as u64))));
        checkpoint(&table);
        let records =
            table.store.scan(Space::Timers, crate::store::ALL_KEYS, 1_000).unwrap().records;
        assert_eq!(records.len(), 1);
        let (mut due, _) = table.due_in_store(Timestamp(149), &[], 10).unwrap();
        due.sort_unstable();
        assert_eq!(due.len(), 100);
        assert!(
            due.iter().all(|(due, _)| *due == Timestamp(149)),
            "none is due before the last of its bundle"
        );
        assert_eq!(table.bundles_below(Timestamp(149)).unwrap().len(), 0);
        assert_eq!(table.bundles_below(Timestamp(150)).unwrap().len(), 1);
    }

    /// Writes only the first space of its first batch, as a process that is killed there.
    #[derive(Default)]
    struct Cut {
        store: MemoryStore,
        was_cut: std::sync::atomic::AtomicBool,
    }

    impl Store for Cut {
        fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
            self.store.get(space, key)
        }

        fn write(&self, changes: &[Change]) -> Result<(), StoreError> {
            if self.was_cut.swap(true, std::sync::atomic::Ordering::AcqRel) {
                return self.store.write(changes);
            }
            let first = crate::store::spaces_in_order(changes)[0];
            let written: Vec<Change> =
                changes.iter().filter(|change| change.space == first).cloned().collect();
            self.store.write(&written)?;
            Err(StoreError::Stopped)
        }

        fn scan(
            &self,
            space: Space,
            range: crate::store::KeyRange<'_>,
            limit: usize,
        ) -> Result<crate::store::Page, StoreError> {
            self.store.scan(space, range, limit)
        }

        fn sync(&self) -> Result<(), StoreError> {
            self.store.sync()
        }
    }

    #[test]
    fn a_checkpoint_that_is_cut_between_two_spaces_loses_no_timer_when_it_is_done_again() {
        let (live, ended) = (InstanceId(Uuid::from_u128(1)), InstanceId(Uuid::from_u128(2)));
        let hour = 3_600_000;
        let table = Table::new(Arc::new(Cut::default()));
        let over = resting(2, 2 * hour).map(|resting| Resting { ended: true, ..resting });
        let layer = [(live, resting(1, hour)), (ended, over)];
        let entries: Vec<_> = layer.iter().map(|(id, resting)| (id, resting)).collect();
        for is_cut in [true, false] {
            let written = table.store.write(&table.changes_of(&entries).unwrap());
            assert_eq!(written.is_err(), is_cut);
        }
        let (due, _) = table.due_in_store(Timestamp(3 * hour), &[], 10).unwrap();
        assert_eq!(due, [(Timestamp(hour), live), (Timestamp(2 * hour), ended)]);
    }

    #[test]
    fn times_come_to_the_store_before_the_instances_that_say_they_are_there() {
        let table = Table::new(Arc::new(MemoryStore::new()));
        let ended = resting(2, 9).map(|resting| Resting { ended: true, ..resting });
        table.put([
            (InstanceId(Uuid::from_u128(1)), resting(1, 5)),
            (InstanceId(Uuid::from_u128(2)), ended),
        ]);
        let layer = table.freeze();
        let changes = table.changes_of(&layer.iter().collect::<Vec<_>>()).unwrap();
        let spaces: Vec<Space> = changes.iter().map(|change| change.space).collect();
        assert_eq!(spaces, [Space::Timers, Space::Timers, Space::Instances, Space::Instances]);
    }

    #[test]
    fn an_instance_that_ends_leaves_no_timer_of_its_life_behind() {
        let table = Table::new(Arc::new(MemoryStore::new()));
        let id = InstanceId(Uuid::from_u128(1));
        table.put([(id, resting(1, 5))]);
        checkpoint(&table);
        table.put([(id, resting(2, 90).map(|resting| Resting { ended: true, ..resting }))]);
        checkpoint(&table);
        assert_eq!(table.due_in_store(Timestamp(100), &[], 10).unwrap().0, [(Timestamp(90), id)]);
    }
}
