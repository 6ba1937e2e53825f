//! Nothing is told to the world before it is durable, at either level of durability, by the system calls of a shop.
//!
//! What the shop sent and settled is read from its writes to the world, and what was durable by then from its writes and syncs of the
//! journal. Its broker lies in memory, so this needs nothing but strace; with real brokers, and the bytes on their sockets, the same is
//! held by `syncs` of the example.

use crate::{
    recorded::{Event, Recorded},
    shop::{Memories, Works},
    strace,
};
use dirigent::{envelope, journal::Durability};
use std::{collections::BTreeSet, path::Path};

/// So few orders that the id of no start begins like another's.
const WORKS: Works = Works { orders: 10, shift: 5, at_once: 3, leaves: 0 };

/// Of each order a start and two replies are settled, and two commands and an end sent.
const PROMISES_OF_AN_ORDER: u64 = 6;

/// Where the journal lies.
const JOURNAL: &str = "data/journal";

/// What was found.
struct Judged {
    promised: u64,
    /// What was told before it was durable.
    early: Vec<String>,
}

fn judge(recorded: &Recorded, durability: Durability) -> Judged {
    let mut judged = Judged { promised: 0, early: Vec::new() };
    let mut written: Vec<(usize, &Path, &[u8])> = Vec::new();
    let mut durable: Vec<&[u8]> = Vec::new();
    let mut later_replies: BTreeSet<String> = BTreeSet::new();
    for (number, event) in recorded.events.iter().enumerate() {
        match event {
            // Zeros of a new file.
            Event::Wrote { bytes, .. } if bytes.iter().all(|byte| *byte == 0) => {}
            Event::Wrote { path, bytes, .. } if path.starts_with(JOURNAL) => match durability {
                Durability::PowerLoss => written.push((number, path, bytes)),
                Durability::ProcessCrash => durable.push(bytes),
            },
            Event::Synced { path, covers } => {
                let is_covered = |(number, of, _): &mut (usize, &Path, &[u8])| {
                    *number < *covers && *of == path.as_path()
                };
                durable.extend(written.extract_if(.., is_covered).map(|(.., bytes)| bytes));
            }
            Event::Told { text } => {
                let told = Memories::read(std::str::from_utf8(text).unwrap());
                let mut promised: BTreeSet<&str> = told.settled.iter().map(|id| &**id).collect();
                for (id, message) in &told.sent {
                    let attempt = message.attributes.get(envelope::SAGA_ATTEMPT);
                    match message.channel.as_str() {
                        "work" | "ends" => drop(promised.insert(id)),
                        // Awaited by nobody any more, it leaves no line: it is counted as ignored.
                        "shop.replies" if attempt != Some("1") => {
                            later_replies.insert(id.clone());
                        }
                        _ => {}
                    }
                }
                promised.retain(|id| !later_replies.contains(*id));
                judged.promised += promised.len() as u64;
                let stands = |id: &str| durable.iter().rev().any(|bytes| holds(bytes, id));
                let early = promised.into_iter().filter(|id| !stands(id));
                judged.early.extend(early.map(|id| format!("`{id}` was told as event {number}")));
            }
            Event::Wrote { .. }
            | Event::Made { .. }
            | Event::Cut { .. }
            | Event::Renamed { .. }
            | Event::Removed { .. } => {}
        }
    }
    judged
}

fn holds(bytes: &[u8], id: &str) -> bool {
    bytes.windows(id.len()).any(|window| window == id.as_bytes())
}

#[test]
fn the_world_is_told_nothing_before_the_sync_that_covers_it() {
    if !strace::is_here() {
        return;
    }
    for durability in [Durability::PowerLoss, Durability::ProcessCrash] {
        let mut recorded = Recorded::of_a_shop(WORKS, durability);
        let judged = judge(&recorded, durability);
        let promised = judged.promised;
        eprintln!("{durability:?}: {recorded}, {promised} promises, {} early", judged.early.len());
        assert_eq!(judged.early, [""; 0], "{durability:?}");
        assert!(promised >= PROMISES_OF_AN_ORDER * WORKS.orders, "{promised}");

        // The rule on its breach: had nothing been synced, or written, all of it would have been early.
        match durability {
            Durability::PowerLoss => recorded.loses_syncs(JOURNAL),
            Durability::ProcessCrash => recorded
                .events
                .retain(|it| !matches!(it, Event::Wrote { path, .. } if path.starts_with(JOURNAL))),
        }
        assert_eq!(judge(&recorded, durability).early.len() as u64, promised);
    }
}
