//! A real process that is killed while it writes to its store: what it said was durable is there
//! afterwards, no batch is there in part, and the folder is free.
//!
//! The test starts itself again as the writer, reads its acknowledgements and kills it in the middle.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;

const FOLDER_VARIABLE: &str = "DIRIGENT_TEST_STORE_FOLDER";

/// Few, since each costs an opening; sled itself was killed thousands of times before it was chosen.
const KILLS: usize = 10;

const KEYS: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];

fn open(folder: &Path) -> SledStore {
    let folder = DataFolder::open(folder).expect("the lock went away with its process");
    SledStore::open(&folder, StoreOptions::default()).expect("the store is sound")
}

/// One batch: every key gets the round, in values of changing sizes, and the mark follows them.
fn changes(round: u64) -> Vec<Change> {
    let value = |index: usize| {
        let copies = (index as u64 * 1_000 + round * 37) % 3_000 + 1;
        round.to_be_bytes().repeat(usize::try_from(copies).expect("small"))
    };
    let mut changes: Vec<_> = (0..)
        .zip(KEYS)
        .map(|(index, key)| Change::put(Space::Instances, key, value(index)))
        .collect();
    changes.push(Change::put(Space::Meta, *b"mark", round.to_be_bytes()));
    changes
}

fn round_of(store: &SledStore, space: Space, key: &[u8]) -> u64 {
    let value = store.get(space, key).expect("no record is damaged");
    value.map_or(0, |value| {
        u64::from_be_bytes(*value.first_chunk().expect("every value starts with its round"))
    })
}

/// Not a test of its own: the writer, when started by the test below.
#[test]
fn writer() {
    let Some(folder) = std::env::var_os(FOLDER_VARIABLE) else { return };
    let store = open(Path::new(&folder));
    let mut out = std::io::stdout();
    for round in round_of(&store, Space::Instances, KEYS[0]) + 1.. {
        store.write(&changes(round)).expect("write");
        if round % 3 == 0 {
            store.sync().expect("sync");
            // The parent may be gone: then there is nobody to write for.
            if writeln!(out, "durable {round}").and_then(|()| out.flush()).is_err() {
                return;
            }
        }
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9_and_no_batch_is_torn() {
    let folder = tempfile::tempdir().expect("a folder");
    let test = module_path!().split_once("::").expect("inside a crate").1.to_owned() + "::writer";
    let mut durable = 0;
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().expect("this test has a file"))
            .args([&test, "--exact", "--nocapture", "--test-threads=1"])
            .env(FOLDER_VARIABLE, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the test starts itself");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut note = |line: std::io::Result<String>| {
            let line = line.expect("readable");
            let said = line.split_once("durable ").and_then(|(_, round)| round.parse::<u64>().ok());
            durable = durable.max(said.unwrap_or(0));
        };
        lines.by_ref().take(kill * 3).for_each(&mut note);
        child.kill().expect("it is ours");
        lines.for_each(&mut note);
        child.wait().expect("it was killed");

        let store = open(folder.path());
        let mark = round_of(&store, Space::Meta, b"mark");
        let rounds = KEYS.map(|key| round_of(&store, Space::Instances, key));
        assert_eq!(rounds, [rounds[0]; 4], "kill {kill}: a batch is there in part");
        assert!(durable <= mark && mark <= rounds[0], "kill {kill}: {durable}, {mark}, {rounds:?}");
    }
    assert!(durable > 0, "the writer has written");
}
