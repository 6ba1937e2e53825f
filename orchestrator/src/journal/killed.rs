//! A real process that is killed while it writes: what it said was durable is there afterwards.
//!
//! The test starts itself again as the writer, reads its acknowledgements and kills it in the middle.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;

const FOLDER_VARIABLE: &str = "DIRIGENT_TEST_JOURNAL_FOLDER";

/// Enough for every phase to be hit: writes, syncs, rolls, retiring, and opening itself.
const KILLS: u64 = 20;

const OPTIONS: JournalOptions = JournalOptions {
    segment_bytes: 64 * 1024,
    record_bytes_max: 64 * 1024,
    durability: Durability::PowerLoss,
    preparation: Preparation::InBackground,
    nonce_seed: None,
};

fn payload(seq: u64) -> Vec<u8> {
    let bytes = usize::try_from(seq * 7919 % 3000).expect("small");
    seq.to_le_bytes().iter().copied().cycle().take(bytes).collect()
}

fn open(folder: &Path, from: u64) -> Journal {
    let disk = FileDisk::open(folder).expect("the folder exists");
    let mut expected = from;
    Journal::open(Arc::new(disk), OPTIONS, GroupSeq(from), &mut |seq, bytes| {
        assert_eq!(seq.0, expected, "no gap");
        assert!(bytes == payload(seq.0), "group {seq} is torn");
        expected += 1;
        Ok(())
    })
    .expect("the journal is sound")
}

/// The first group a checkpoint would still need when this one is the last that is durable.
fn needed_after(durable: u64) -> u64 {
    durable.saturating_sub(30).max(1)
}

/// Not a test of its own: the writer, when started by the test below.
#[test]
fn writer() {
    let Some(folder) = std::env::var_os(FOLDER_VARIABLE) else { return };
    let durable: u64 =
        std::env::var("DIRIGENT_TEST_DURABLE").expect("set").parse().expect("number");
    let mut journal = open(Path::new(&folder), needed_after(durable));
    let mut out = std::io::stdout();
    loop {
        let mut last = GroupSeq(0);
        for _ in 0..3 {
            last = journal.append(&[&payload(journal.next().0)]).expect("append");
        }
        journal.sync().expect("sync");
        // The parent may be gone: then there is nobody to write for.
        if writeln!(out, "durable {last}").and_then(|()| out.flush()).is_err() {
            return;
        }
        if last.0.is_multiple_of(4) {
            journal.retire(GroupSeq(needed_after(last.0))).expect("retire");
        }
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let folder = tempfile::tempdir().expect("a folder");
    let test = module_path!().split_once("::").expect("inside a crate").1.to_owned() + "::writer";
    let mut durable = 0;
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().expect("this test has a file"))
            .args([&test, "--exact", "--nocapture", "--test-threads=1"])
            .env(FOLDER_VARIABLE, folder.path())
            .env("DIRIGENT_TEST_DURABLE", durable.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the test starts itself");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut note = |line: std::io::Result<String>| {
            let line = line.expect("readable");
            let said = line.split_once("durable ").and_then(|(_, seq)| seq.parse::<u64>().ok());
            durable = durable.max(said.unwrap_or(0));
        };
        // Kills at growing distances from the start, the first while it opens; how far the writer is by then, nobody knows.
        lines.by_ref().take(usize::try_from(kill * 5).expect("small")).for_each(&mut note);
        child.kill().expect("it is ours");
        lines.for_each(&mut note);
        child.wait().expect("it was killed");

        let journal = open(folder.path(), needed_after(durable));
        assert!(journal.next().0 > durable, "kill {kill}: group {durable} is lost");
        durable = journal.next().0 - 1;
    }
    assert!(durable > KILLS, "the writer has written");
}
