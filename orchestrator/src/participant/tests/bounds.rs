//! Handlers that do as much as they may: what a turn changes stays one batch of the store, which a crash keeps or loses as a whole.

use super::*;
use crate::store::{BATCH_BYTES_MAX, Change, KeyRange, Page, Space, StoreError};
use std::sync::atomic::AtomicUsize;

/// A store that knows its largest batch.
#[derive(Default)]
struct Measured {
    inner: MemoryStore,
    largest: AtomicUsize,
}

impl Store for Measured {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(space, key)
    }
    fn write(&self, changes: &[Change]) -> Result<(), StoreError> {
        let bytes = |change: &Change| change.key.len() + change.value.as_ref().map_or(0, Vec::len);
        self.largest.fetch_max(changes.iter().map(bytes).sum(), Ordering::Relaxed);
        self.inner.write(changes)
    }
    fn scan(&self, space: Space, range: KeyRange<'_>, limit: usize) -> Result<Page, StoreError> {
        self.inner.scan(space, range, limit)
    }
    fn sync(&self) -> Result<(), StoreError> {
        self.inner.sync()
    }
}

/// Room for what a handler says beside its records: 64 events.
const REST: usize = CHANGES_BYTES_MAX - 64 * 3 * 1024;

/// Two of them leave a turn open, so that it takes one more delivery.
const HALF: usize = 1_450_000;

fn greedy() -> Participant {
    Participant::new("inventory")
        .on::<Fill>(|tx, command, asked| {
            match command.how.as_str() {
                "half" => {
                    tx.put(format!("half/{}", asked.saga), vec![0; HALF]);
                    return Answer::Done(Filled { text: String::new() });
                }
                "large" => tx.put("large", vec![0; REST]),
                // As many as fit: what is ours in each key weighs most here.
                _ => (0..REST as u64 / 10).for_each(|key| tx.remove(key.to_be_bytes())),
            }
            for _ in 0..64 {
                tx.publish(asked.subject.as_str(), &Noted { sku: "x".repeat(500) });
            }
            Answer::Done(Filled { text: "x".repeat(CHANGES_BYTES_MAX - 100) })
        })
        .publishes::<Noted>()
}

#[tokio::test]
async fn whatever_handlers_do_a_turn_is_one_batch_of_the_store() {
    let store = Arc::new(Measured::default());
    let mut bench = Bench { store: store.clone(), ..Bench::new().await };
    let fill =
        |saga, how: &str| of_saga(saga, sending(Fill::NAME, Leg::Do, 1, Fill { how: how.into() }));
    let small = (0..40).map(|saga| of_saga(saga, reserve("brush", 1)));
    let mut window: Vec<_> = small.collect();
    for (saga, how) in (40..).zip(["half", "half", "large", "half", "half", "many"]) {
        window.push(fill(saga, how));
    }
    bench.send(&window).await;
    let running = bench.start(greedy()).await;
    // All but two replies that are larger than this broker takes.
    bench.hears(40 + 4 + 2 * 64).await;
    let counts = running.stop().await.unwrap();
    assert_eq!((counts.done, counts.failed), (6, 40), "only what is unknown failed");
    let largest = store.largest.load(Ordering::Relaxed);
    assert!(largest > BATCH_BYTES_MAX * 3 / 4, "they were greedy: {largest}");
    assert!(largest <= BATCH_BYTES_MAX, "{largest} bytes are more than one batch");
}
