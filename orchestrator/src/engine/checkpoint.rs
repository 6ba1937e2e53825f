//! Checkpoints: what the journal adds up to, written into the store in the background.
//!
//! A checkpoint holds only durable groups. Its mark is written last, so it stands only if everything else does; until
//! then recovery folds the same groups again, which changes nothing.

use super::{
    Shared,
    accounts::Accounts,
    headroom::Writer,
    hearing,
    kept::{KeptLayer, changes_of},
    shard::{Fatal, ToShard},
    table::Layer,
};
use crate::{
    journal::GroupSeq,
    planted::{self, Bug},
    relay::Stretch,
    store::{Change, Space, Store},
};
use crossbeam_channel::{Receiver, Sender, bounded};
use dirigent_model::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::{sync::Arc, thread::JoinHandle};

/// Instances written as one batch of the store.
const INSTANCES_PER_WRITE: usize = 512;

/// Kept messages written at once: of the largest size they fill a few batches of the store.
const KEPT_PER_WRITE: usize = 16;

/// What is to be written.
pub(crate) struct Checkpoint {
    pub layer: Arc<Layer>,
    /// What changed of the messages that are kept.
    pub kept: KeptLayer,
    /// Every retention that ended before has been gone through.
    pub floor: Timestamp,
    /// The last group it covers.
    pub seq: GroupSeq,
    /// The first group the journal has to keep: it holds messages that no broker has confirmed, or is not covered.
    pub keep_from: GroupSeq,
    /// By lane: what brokers have confirmed above the watermark.
    pub above: Vec<Vec<Stretch>>,
    pub accounts: Accounts,
    /// Each shard's last batch it covers.
    pub batches: Vec<u64>,
}

pub(super) const MARK: &[u8] = b"checkpoint";

/// The form of the mark that this release writes: this byte, then the mark in postcard. It stands for all that a checkpoint writes: who
/// changes the form of an instance's record, of a due time or of a kept message in the store, raises it.
const FORMAT: u8 = 1;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub seq: u64,
    pub keep_from: u64,
    /// By lane: messages that are confirmed though one before them is not. They need not leave again.
    pub above: Vec<Vec<Stretch>>,
    pub accounts: Accounts,
}

impl Mark {
    pub(super) fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_extend(self, vec![FORMAT])
    }

    fn decode(value: &[u8]) -> Result<Self, String> {
        match value.split_first() {
            Some((&FORMAT, mark)) => postcard::from_bytes(mark)
                .map_err(|error| format!("{error}; restore the data folder from a backup")),
            Some((&found, _)) if found > FORMAT => Err(format!(
                "the store has records of format {found}, this release reads up to {FORMAT}; use the release that wrote them, or a later one"
            )),
            _ => Err("it has no format; restore the data folder from a backup".into()),
        }
    }
}

/// Whether a stored mark can be read.
#[cfg(feature = "fuzzing")]
pub(super) fn is_readable(value: &[u8]) -> bool {
    let Ok(mark) = Mark::decode(value) else { return false };
    let again = mark.encode().map_err(|error| error.to_string());
    assert_eq!(again.and_then(|value| Mark::decode(&value)).as_ref(), Ok(&mark));
    true
}

/// The last checkpoint, or the beginning of time.
pub(crate) fn read_mark(store: &dyn Store) -> Result<Mark, Fatal> {
    match store.get(Space::Meta, MARK)? {
        None => Ok(Mark {
            seq: 0,
            keep_from: GroupSeq::FIRST.0,
            above: Vec::new(),
            accounts: Accounts::default(),
        }),
        Some(value) => Mark::decode(&value)
            .map_err(|error| format!("reading the mark of the last checkpoint: {error}").into()),
    }
}

/// Gets checkpoints written, one at a time: by a thread of its own, or by whoever takes the turns of an engine.
pub(crate) struct Checkpointer {
    work: Option<Sender<Checkpoint>>,
    done: Receiver<Result<GroupSeq, Fatal>>,
    busy: bool,
    thread: Option<JoinHandle<()>>,
    /// Where no thread does.
    desk: Option<Desk>,
}

/// Where checkpoints are written.
struct Desk {
    shared: Arc<Shared>,
    shards: Vec<Sender<ToShard>>,
    inbox: Receiver<Checkpoint>,
    outbox: Sender<Result<GroupSeq, Fatal>>,
}

impl Desk {
    /// Writes one. Says whether somebody wants to know.
    fn write(&self, checkpoint: Checkpoint) -> bool {
        let (keep_from, batches) = (checkpoint.keep_from, checkpoint.batches.clone());
        let began = std::time::Instant::now();
        let outcome = write(&self.shared, checkpoint).map(|()| keep_from);
        self.shared.meters.checkpointed(began.elapsed());
        if outcome.is_ok() {
            for (shard, batch) in self.shards.iter().zip(batches) {
                // A shard with a full inbox has work; it is told the next time.
                shard.try_send(ToShard::Checkpointed(batch)).unwrap_or_default();
            }
        }
        self.outbox.send(outcome).is_ok()
    }
}

impl Checkpointer {
    /// Writes them on a thread.
    pub(super) fn spawn(
        shared: Arc<Shared>,
        shards: Vec<Sender<ToShard>>,
    ) -> std::io::Result<Self> {
        let mut checkpointer = Self::here(shared, shards);
        if let Some(desk) = checkpointer.desk.take() {
            let thread = std::thread::Builder::new().name("checkpointer".into());
            let work = move || while desk.inbox.recv().is_ok_and(|it| desk.write(it)) {};
            checkpointer.thread = Some(thread.spawn(work)?);
        }
        Ok(checkpointer)
    }

    /// Writes them when told to, by [`Checkpointer::write_here`].
    pub(super) fn here(shared: Arc<Shared>, shards: Vec<Sender<ToShard>>) -> Self {
        let (work, inbox) = bounded::<Checkpoint>(1);
        let (outbox, done) = bounded(1);
        let desk = Desk { shared, shards, inbox, outbox };
        Self { work: Some(work), done, busy: false, thread: None, desk: Some(desk) }
    }

    /// Whether one is begun and no thread writes it.
    #[cfg(feature = "simulation")]
    pub(super) fn waits(&self) -> bool {
        self.desk.as_ref().is_some_and(|desk| !desk.inbox.is_empty())
    }

    /// Writes the one that waits.
    pub(super) fn write_here(&self) {
        if let Some(desk) = &self.desk
            && let Ok(checkpoint) = desk.inbox.try_recv()
        {
            desk.write(checkpoint);
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.busy
    }

    pub(crate) fn begin(&mut self, checkpoint: Checkpoint) {
        self.busy = true;
        if let Some(work) = &self.work {
            work.send(checkpoint)
                .unwrap_or_else(|_| tracing::error!("The checkpointer has ended."));
        }
    }

    /// Which groups the journal still has to keep, once a checkpoint has finished; waits for the one under way if told to.
    pub(crate) fn finished(&mut self, wait: bool) -> Result<Option<GroupSeq>, Fatal> {
        if !self.busy {
            return Ok(None);
        }
        if wait {
            self.write_here();
        }
        let outcome = if wait {
            self.done.recv().map_err(|_| "the checkpointer has ended unexpectedly")?
        } else {
            match self.done.try_recv() {
                Ok(outcome) => outcome,
                Err(crossbeam_channel::TryRecvError::Empty) => return Ok(None),
                Err(crossbeam_channel::TryRecvError::Disconnected) => {
                    return Err("the checkpointer has ended unexpectedly".into());
                }
            }
        };
        self.busy = false;
        outcome.map(Some)
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        drop(self.work.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("The checkpointer panicked.");
        }
    }
}

fn write(shared: &Shared, checkpoint: Checkpoint) -> Result<(), Fatal> {
    let table = &shared.table;
    // One operation at a time, so that a large checkpoint is not taken for a disk that hangs.
    let write = |changes: &[Change]| {
        let _asked = shared.disk.asks(Writer::Store);
        table.store().write(changes)
    };
    let sync = || {
        let _asked = shared.disk.asks(Writer::Store);
        table.store().sync()
    };
    let Checkpoint { layer, kept, floor, seq, keep_from, above, accounts, .. } = checkpoint;
    if planted::is(Bug::MarkBeforeData) {
        let (above, accounts) = (above.clone(), accounts.clone());
        let mark = Mark { seq: seq.0, keep_from: keep_from.0, above, accounts }.encode()?;
        write(&[Change::put(Space::Meta, MARK, mark)])?;
    }
    // Ordered keys cost the store half of random ones.
    let mut entries: Vec<_> = layer.iter().collect();
    entries.sort_unstable_by_key(|(id, _)| **id);
    for part in entries.chunks(INSTANCES_PER_WRITE) {
        write(&table.changes_of(part)?)?;
    }
    for part in kept.chunks(KEPT_PER_WRITE) {
        if planted::is(Bug::KeptNotCheckpointed) {
            break;
        }
        write(&changes_of(part))?;
    }
    sync()?;
    let gone_through = table.bundles_below(floor)?;
    let mark = Mark { seq: seq.0, keep_from: keep_from.0, above, accounts }.encode()?;
    write(&gone_through)?;
    let heard = hearing::change_of(&shared.hearing, shared.clock.now());
    write(&[heard, Change::put(Space::Meta, MARK, mark)])?;
    if !planted::is(Bug::CheckpointNotSynced) {
        sync()?;
    }
    drop(entries);
    drop(layer);
    table.let_go();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::accounts::{Counts, Progress, Tally},
        store::MemoryStore,
    };

    fn sample() -> Mark {
        let place = ("orders".to_owned(), 4);
        let progress = Progress {
            next: 300,
            above: [(305, 307)].into(),
            messages: 298,
            skipped: 4,
            repeated: 1,
        };
        let counts = Counts {
            applied: 200,
            duplicate: 50,
            ignored: 30,
            parked: 9,
            quarantined: 10,
            dead_letters: 6,
        };
        let tally = Tally {
            started: 90,
            completed: 50,
            compensated: 20,
            killed: 3,
            blocked: 2,
            live: [(("order".to_owned(), 3, 1 << 63), 17)].into(),
        };
        let accounts = Accounts {
            progress: [(place.clone(), progress)].into(),
            counts: [(place, counts)].into(),
            settled: [(("replies".to_owned(), 0), 800)].into(),
            kept_next: 19,
            tally,
            lanes_next: vec![500, 1],
            lanes_confirmed: vec![480, 1],
            sent: 499,
        };
        Mark { seq: 1_000, keep_from: 990, above: vec![vec![(482, 490)], vec![]], accounts }
    }

    #[test]
    fn the_form_of_the_mark_is_the_kept_one_and_a_later_one_is_refused_with_what_to_do() {
        let mut bytes = sample().encode().unwrap();
        let kept = crate::kept_forms::kept("mark", &bytes);
        let store = MemoryStore::new();
        store.write(&[Change::put(Space::Meta, MARK, kept)]).unwrap();
        assert_eq!(read_mark(&store).unwrap(), sample());
        bytes[0] = FORMAT + 1;
        store.write(&[Change::put(Space::Meta, MARK, bytes)]).unwrap();
        let error = read_mark(&store).unwrap_err().to_string();
        assert!(error.contains("the release that wrote them"), "{error}");
    }
}
