//! What a participant's process leaves behind when it is killed: all that it had answered.
//!
//! What the system was handed by then is what another process finds in the files; they are copied while the first one runs.

use super::*;
use crate::store::{DataFolder, SledStore, StoreOptions};
use std::{fs, path::Path};

fn copied(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => copied(&entry.path(), &to),
            kind if kind.is_file() => drop(fs::copy(entry.path(), to).unwrap()),
            _ => {}
        }
    }
}

fn opened(place: &Path) -> Arc<dyn Store> {
    let folder = DataFolder::open(place).unwrap();
    Arc::new(SledStore::open(&folder, StoreOptions::default()).unwrap())
}

#[tokio::test]
async fn what_was_answered_is_remembered_after_a_kill_at_either_level_of_durability() {
    for durability in [Durability::PowerLoss, Durability::ProcessCrash] {
        let (place, left) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut bench = Bench { store: opened(place.path()), ..Bench::new().await };
        let running = bench.start(inventory().durability(durability)).await;
        says(&bench.asks(reserve("brush", 1)).await, Reserved { number: 1 });
        copied(place.path(), left.path());
        drop(running);

        bench.store = opened(left.path());
        assert_eq!(bench.record::<u64>("reserved"), Some(1), "{durability:?}");
        let running = bench.start(inventory().durability(durability)).await;
        says(&bench.asks(reserve("brush", 2)).await, Reserved { number: 1 });
        assert_eq!(running.stop().await.unwrap().repeated, 1, "{durability:?}");
    }
}
