//! Whether anything left a process before it was durable, judged by the process's own system calls.
//!
//! In: the calls, the folder of the journal, what its sync promises and what it talks to its broker. Out: what was published and settled,
//! and each message of which that was entered before the sync was left that covers it. A message is durable once the bytes of its id
//! stand in a write to the journal: its own where it is published, and the one that caused a line of a history where it is settled.
//! RabbitMQ is told of each message that it is settled; Kafka is told up to which offset a partition is.

pub mod amqp;
pub mod kafka;

use crate::strace::Call;
use amqp::Happening;
use kafka::{Logs, Place, Said};
use std::collections::{BTreeMap, BTreeSet};

/// What it takes until something is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Its write, and a sync of the file after it.
    PowerLoss,
    /// Its write.
    ProcessCrash,
}

/// What is spoken with the broker.
#[derive(Debug, Clone, Copy)]
pub enum Wire<'a> {
    Amqp,
    /// A log is settled by offsets, so it takes these to say which messages that concerns: what lies in the partitions that the process
    /// reads, but for what was settled before it began.
    Kafka(&'a Logs),
}

/// What was found.
#[derive(Debug, Default)]
pub struct Judged {
    pub published: usize,
    pub settled: usize,
    /// Of those settled, what the journal never names. What no longer matters is counted there, and not written down.
    pub unwritten: usize,
    /// Syncs of the journal that succeeded.
    pub syncs: usize,
    /// Messages that left, or were settled, too early, or left without ever having been in the journal.
    pub breaches: Vec<String>,
}

/// What stands in the journal, and from which line of the trace on it can be relied on; `usize::MAX` where it never can.
struct Durable(Vec<(usize, Vec<u8>)>);

impl Durable {
    /// In the order in which writes became durable.
    fn of(calls: &[Call], journal: &str, level: Level) -> Self {
        let within = |call: &&Call| call.about().starts_with(journal) && call.result >= Some(0);
        let mut durable = Vec::new();
        let mut written: BTreeMap<&str, Vec<(usize, Vec<u8>)>> = BTreeMap::new();
        let mut ended: Vec<&Call> = calls.iter().filter(within).collect();
        ended.sort_by_key(|call| call.left);
        for call in ended {
            match (call.name.as_str(), level) {
                // Zeros of a new file, of which strace was not asked for all.
                ("pwrite64", _) if call.moved().iter().all(|byte| *byte == 0) => {}
                ("pwrite64", _) => {
                    assert!(
                        !call.is_cut(),
                        "a write longer than what strace wrote down: {}",
                        call.left
                    );
                    let write = (call.left, call.moved().to_vec());
                    match level {
                        Level::PowerLoss => written.entry(call.about()).or_default().push(write),
                        Level::ProcessCrash => durable.push(write),
                    }
                }
                ("fdatasync" | "fsync", Level::PowerLoss) => {
                    let all = written.remove(call.about()).unwrap_or_default();
                    // A write that had not returned when the sync began may be left out of it.
                    let (covered, later): (Vec<_>, Vec<_>) =
                        all.into_iter().partition(|(left, _)| *left < call.entered);
                    durable.extend(covered.into_iter().map(|(_, bytes)| (call.left, bytes)));
                    written.insert(call.about(), later);
                }
                _ => {}
            }
        }
        let never = written.into_values().flatten();
        durable.extend(never.map(|(_, bytes)| (usize::MAX, bytes)));
        Self(durable)
    }

    /// From which line on the id stands there for good; none where it was never written.
    fn since(&self, id: &str) -> Option<usize> {
        let id = id.as_bytes();
        let found = |bytes: &[u8]| {
            let mut rest = bytes;
            while let Some(at) = rest.iter().position(|byte| *byte == id[0]) {
                if rest[at..].starts_with(id) {
                    return true;
                }
                rest = &rest[at + 1..];
            }
            false
        };
        let mut writes = self.0.iter().filter(|_| !id.is_empty());
        writes.find(|(_, bytes)| found(bytes)).map(|(since, _)| *since)
    }
}

/// Holds what left against what was durable by then. `journal` is the folder's path, without a slash at its end.
pub fn judge(calls: &[Call], journal: &str, level: Level, wire: Wire<'_>) -> Judged {
    let durable = Durable::of(calls, journal, level);
    let syncs = calls.iter().filter(|call| {
        call.name == "fdatasync" && call.about().starts_with(journal) && call.result == Some(0)
    });
    let mut judged = Judged { syncs: syncs.count(), ..Judged::default() };
    for (at, happening) in happenings(calls, wire) {
        let (what, id) = match &happening {
            Happening::Published { id } => {
                judged.published += 1;
                ("published", id)
            }
            Happening::Settled { id } => {
                judged.settled += 1;
                ("settled", id)
            }
        };
        match (durable.since(id), &happening) {
            (Some(since), _) if since <= at => {}
            (None, Happening::Settled { .. }) => judged.unwritten += 1,
            (_, Happening::Published { .. } | Happening::Settled { .. }) => {
                judged
                    .breaches
                    .push(format!("`{id}` was {what} at line {}, and was not durable", at + 1));
            }
        }
    }
    judged
}

/// Up to which offset each partition was settled.
pub fn committed(calls: &[Call]) -> BTreeMap<Place, u64> {
    let mut committed = BTreeMap::new();
    for (_, said) in said(calls) {
        if let Said::Committed { place, next } = said {
            let reached = committed.entry(place).or_default();
            *reached = next.max(*reached);
        }
    }
    committed
}

/// What left, each with the line at which its first byte was handed to the system.
fn happenings(calls: &[Call], wire: Wire<'_>) -> Vec<(usize, Happening)> {
    let mut happenings = Vec::new();
    match wire {
        Wire::Amqp => {
            let mut connections: BTreeMap<&str, amqp::Connection> = BTreeMap::new();
            for Piece { at, is_sent, call } in pieces(calls, amqp::begins) {
                let connection = connections.entry(call.about()).or_default();
                if is_sent {
                    let tell = |at, happening| happenings.push((at, happening));
                    connection.sends(at, call.moved(), tell);
                } else {
                    connection.receives(at, call.moved());
                }
            }
        }
        Wire::Kafka(logs) => {
            let mut unsettled = logs.clone();
            for (at, said) in said(calls) {
                match said {
                    Said::Produced { id } => happenings.push((at, Happening::Published { id })),
                    Said::Committed { place, next } => {
                        let Some(log) = unsettled.get_mut(&place) else { continue };
                        let later = log.split_off(&next);
                        let settled = std::mem::replace(log, later).into_values();
                        happenings.extend(settled.map(|id| (at, Happening::Settled { id })));
                    }
                }
            }
        }
    }
    happenings
}

/// What was said to a Kafka.
fn said(calls: &[Call]) -> Vec<(usize, Said)> {
    let mut all = Vec::new();
    let mut connections: BTreeMap<&str, kafka::Connection> = BTreeMap::new();
    for Piece { at, call, .. } in pieces(calls, kafka::begins).filter(|piece| piece.is_sent) {
        let connection = connections.entry(call.about()).or_default();
        connection.sends(at, call.moved(), |at, said| all.push((at, said)));
    }
    all
}

/// Bytes that went over a socket at once.
struct Piece<'a> {
    /// What is sent counts from its entering on, what is received once it is there.
    at: usize,
    is_sent: bool,
    call: &'a Call,
}

/// All of the connections that begin like that; others are other conversations.
fn pieces(calls: &[Call], begins: fn(&[u8]) -> bool) -> impl Iterator<Item = Piece<'_>> {
    let sends = ["write", "writev", "sendto", "sendmsg"];
    let receives = ["read", "readv", "recvfrom", "recvmsg"];
    let is_any = |call: &&Call| call.about().starts_with("socket:") && !call.moved().is_empty();
    let mut moved: Vec<Piece<'_>> = calls
        .iter()
        .filter(is_any)
        .filter_map(|call| match call.name.as_str() {
            name if sends.contains(&name) => Some(Piece { at: call.entered, is_sent: true, call }),
            name if receives.contains(&name) => Some(Piece { at: call.left, is_sent: false, call }),
            _ => None,
        })
        .collect();
    moved.sort_by_key(|piece| piece.at);
    let mut known: BTreeSet<&str> = BTreeSet::new();
    moved.into_iter().filter(move |Piece { at, is_sent, call }| {
        let (socket, bytes) = (call.about(), call.moved());
        if *is_sent && begins(bytes) {
            known.insert(socket);
        }
        let is_known = known.contains(socket);
        let is_whole = !is_known || call.result == i64::try_from(bytes.len()).ok();
        assert!(is_whole, "more went over {socket} than strace wrote down, at line {}", at + 1);
        is_known
    })
}

mod tests {
    use super::*;
    use crate::strace::calls;

    /// A frame of AMQP as strace writes it down.
    fn frame(kind: u8, payload: &[u8]) -> String {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let bytes = [&[kind, 0, 1], &length[..], payload, &[0xce]].concat();
        bytes.iter().map(|byte| format!("\\{byte:03o}")).collect()
    }

    /// A header with a content type, headers and an id.
    fn header(id: &str) -> String {
        let flags: u16 = 1 << 15 | 1 << 13 | 1 << 12 | 1 << 7;
        let head = [&[0, 60, 0, 0], &[0; 8][..], &flags.to_be_bytes()].concat();
        let id_length = u8::try_from(id.len()).unwrap();
        let properties = [&[1, b'j'][..], &[0, 0, 0, 2, 0, 0], &[2], &[id_length], id.as_bytes()];
        frame(2, &[head, properties.concat()].concat())
    }

    fn published(id: &str) -> String {
        [frame(1, &[0, 60, 0, 40, 0, 0, 0, 1, b'q', 0]), header(id), frame(3, b"{}")].concat()
    }

    fn delivered(tag: u8, id: &str) -> String {
        let method = [0, 60, 0, 60, 2, b'c', b't', 0, 0, 0, 0, 0, 0, 0, tag, 0, 0, 1, b'q'];
        [frame(1, &method), header(id), frame(3, b"{}")].concat()
    }

    fn acknowledged(tag: u8, multiple: u8) -> String {
        frame(1, &[0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, tag, multiple])
    }

    fn moves(call: &str, on: &str, text: &str) -> String {
        // Each escape stands for a byte.
        let escapes = text.split('\\').skip(1);
        let digits =
            escapes.map(|rest| rest.bytes().take(3).take_while(u8::is_ascii_digit).count());
        let length = text.len() - digits.sum::<usize>();
        format!("7  {call}(5<{on}>, \"{text}\", {length}, 0) = {length}")
    }

    /// A process that greets its broker, is handed `in-1` and `in-2`, and does what follows.
    fn process(lines: &[String]) -> Vec<Call> {
        let greeting = "7  sendto(5<socket:[1]>, \"AMQP\\0\\0\\t\\1\", 8, 0) = 8".to_owned();
        let comes = [delivered(1, "in-1"), delivered(2, "in-2")].concat();
        let handed = moves("recvfrom", "socket:[1]", &comes);
        let all: Vec<String> =
            [greeting, handed].into_iter().chain(lines.iter().cloned()).collect();
        calls(&all.join("\n")).unwrap()
    }

    fn writes(text: &str) -> String {
        moves("pwrite64", "/j/1.segment", text)
    }

    fn sends(frames: &str) -> String {
        moves("sendto", "socket:[1]", frames)
    }

    const SYNC: &str = "7  fdatasync(5</j/1.segment>) = 0";

    fn breaches(lines: &[String], level: Level) -> Vec<String> {
        let judged = judge(&process(lines), "/j", level, Wire::Amqp);
        judged.breaches
    }

    #[test]
    fn what_leaves_behind_its_sync_is_in_order_and_what_leaves_before_it_is_not() {
        let (write, sync) = (writes("\\1in-1 in-2 out-1"), SYNC.to_owned());
        let leaves = sends(&[published("out-1"), acknowledged(2, 1)].concat());
        let good = [write.clone(), sync.clone(), leaves.clone()];
        let judged = judge(&process(&good), "/j", Level::PowerLoss, Wire::Amqp);
        assert_eq!((judged.published, judged.settled, judged.syncs), (1, 2, 1));
        assert_eq!(judged.breaches, [""; 0]);

        let early = breaches(&[write.clone(), leaves.clone(), sync.clone()], Level::PowerLoss);
        assert_eq!(early.len(), 3, "{early:?}");
        assert_eq!(early[0], "`out-1` was published at line 4, and was not durable");
        // What promises no more than to survive the process is durable once it is written.
        assert_eq!(breaches(&[write.clone(), leaves.clone()], Level::ProcessCrash), [""; 0]);
        let early = breaches(&[leaves.clone(), write.clone(), sync.clone()], Level::ProcessCrash);
        assert_eq!(early.len(), 3, "{early:?}");
    }

    #[test]
    fn a_sync_covers_only_what_was_written_before_it_began_to_its_own_file_and_only_if_it_succeeds()
    {
        let (write, leaves) = (writes("out-1"), sends(&published("out-1")));
        for sync in [
            "7  fdatasync(5</j/2.segment>) = 0",
            "7  fdatasync(5</j/1.segment>) = -1 EIO (Input/output error)",
        ] {
            let lines = [write.clone(), sync.to_owned(), leaves.clone()];
            assert_eq!(breaches(&lines, Level::PowerLoss).len(), 1, "{sync}");
        }
        let began = "8  fdatasync(5</j/1.segment> <unfinished ...>".to_owned();
        let ended = "8  <... fdatasync resumed>) = 0".to_owned();
        let within = [began.clone(), write.clone(), ended.clone(), leaves.clone()];
        assert_eq!(breaches(&within, Level::PowerLoss).len(), 1);
        let still = [write.clone(), began.clone(), leaves.clone(), ended.clone()];
        assert_eq!(breaches(&still, Level::PowerLoss).len(), 1);
        assert_eq!(breaches(&[write, began, ended, leaves], Level::PowerLoss), [""; 0]);
    }

    #[test]
    fn what_is_cut_into_several_writes_leaves_with_the_first_of_them() {
        let (write, sync) = (writes("out-1"), SYNC.to_owned());
        let whole = published("out-1");
        let (first, rest) = whole.split_at(4 * 5);
        let lines = [sends(first), write.clone(), sync.clone(), sends(rest)];
        assert_eq!(breaches(&lines, Level::PowerLoss).len(), 1);
        assert_eq!(breaches(&[write, sync, sends(first), sends(rest)], Level::PowerLoss), [""; 0]);
    }

    #[test]
    fn an_acknowledgement_settles_one_delivery_or_all_up_to_it() {
        let settles = |frames: String| {
            let sync = SYNC.to_owned();
            let first = [writes("in-1"), sync.clone(), sends(&frames)];
            breaches(&[&first[..], &[writes("in-2"), sync]].concat(), Level::PowerLoss)
        };
        assert_eq!(settles(acknowledged(1, 0)), [""; 0]);
        for frames in [acknowledged(2, 0), acknowledged(2, 1), acknowledged(0, 1)] {
            assert_eq!(settles(frames), ["`in-2` was settled at line 5, and was not durable"]);
        }
        // Given back to its queue.
        assert_eq!(settles(frame(1, &[0, 60, 0, 90, 0, 0, 0, 0, 0, 0, 0, 2, 1])), [""; 0]);
    }

    #[test]
    fn what_is_settled_and_never_written_is_counted_and_what_leaves_so_is_too_early() {
        let leaves = sends(&[published("out-1"), acknowledged(2, 1)].concat());
        for level in [Level::PowerLoss, Level::ProcessCrash] {
            let lines = [writes("in-1"), SYNC.to_owned(), leaves.clone()];
            let judged = judge(&process(&lines), "/j", level, Wire::Amqp);
            assert_eq!((judged.published, judged.settled, judged.unwritten), (1, 2, 1));
            assert_eq!(judged.breaches, ["`out-1` was published at line 5, and was not durable"]);
        }
    }

    /// A request of that kind and version.
    fn request(kind: u8, version: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&length[..], &[0, kind, 0, version], body].concat()
    }

    /// A record's header, behind one whose name begins alike.
    fn record(id: &str) -> Vec<u8> {
        let length = u8::try_from(2 * id.len()).unwrap();
        [b"\x22ce_idempotencykey\x02k\x0ace_id", &[length][..], id.as_bytes()].concat()
    }

    /// Commits an offset of each of two partitions, and one of the topic of owners.
    fn commits(topic: &str, first: u8, second: u8) -> Vec<u8> {
        let text =
            |text: &str| [&[u8::try_from(text.len() + 1).unwrap()], text.as_bytes()].concat();
        let offset = |partition: u8, next: u8| {
            [&[0, 0, 0, partition], &[0; 7][..], &[next], &[0xff; 4], &[1, 0]].concat()
        };
        let head = [&[0, 0, 0, 9, 0, 2, b'm', b'e', 0][..], &text("g"), &[0; 4], &text("m"), &[0]];
        let places = [&text(topic)[..], &[3], &offset(0, first), &offset(1, second), &[0]].concat();
        let owner = [&text("g.owner")[..], &[2], &offset(0, 9), &[0]].concat();
        request(8, 9, &[&head.concat()[..], &[3], &places, &owner, &[0]].concat())
    }

    fn says(bytes: &[&[u8]]) -> Vec<(usize, Said)> {
        let (mut connection, mut said) = (kafka::Connection::default(), Vec::new());
        for (at, bytes) in bytes.iter().enumerate() {
            connection.sends(at, bytes, |at, it| said.push((at, it)));
        }
        said
    }

    #[test]
    fn ids_are_found_in_what_is_produced_to_kafka() {
        let other = request(3, 9, &record("x"));
        let produces = request(0, 9, &[record("out-1"), record("out-2")].concat());
        let (first, rest) = produces.split_at(3);
        let said = says(&[&[other, first.to_vec()].concat(), rest]);
        let produced = |id: &str| (0_usize, Said::Produced { id: id.to_owned() });
        assert_eq!(said, [produced("out-1"), produced("out-2")]);
    }

    #[test]
    fn offsets_are_found_in_what_is_committed_to_kafka_but_for_those_that_ask_who_owns_the_group() {
        let committed = |at: usize, partition, next| {
            (at, Said::Committed { place: ("replies".to_owned(), partition), next })
        };
        let said = says(&[&commits("replies", 4, 7), &commits("replies", 5, 7)]);
        let all = [(0, 0, 4), (0, 1, 7), (1, 0, 5), (1, 1, 7)];
        assert_eq!(said, all.map(|(at, partition, next)| committed(at, partition, next)));
    }

    #[test]
    fn a_committed_offset_settles_all_below_it_once_and_nothing_of_a_life_before() {
        let escaped =
            |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("\\{byte:03o}")).collect() };
        let sends = |bytes: &[u8]| moves("sendmsg", "socket:[2]", &escaped(bytes));
        let log = |ids: [(u64, &str); 2]| ids.map(|(offset, id)| (offset, id.to_owned())).into();
        let logs = Logs::from([(("replies".to_owned(), 1), log([(3, "in-1"), (4, "in-2")]))]);
        let lines = [
            sends(&request(18, 3, &[])),
            sends(&commits("replies", 9, 3)),
            writes("in-1 out-1"),
            SYNC.to_owned(),
            sends(&[request(0, 9, &record("out-1")), commits("replies", 9, 4)].concat()),
            sends(&commits("replies", 9, 5)),
            writes("in-2"),
            SYNC.to_owned(),
            sends(&commits("replies", 9, 5)),
        ];
        let calls = calls(&lines.join("\n")).unwrap();
        let judged = judge(&calls, "/j", Level::PowerLoss, Wire::Kafka(&logs));
        assert_eq!((judged.published, judged.settled, judged.unwritten), (1, 2, 0));
        assert_eq!(judged.breaches, ["`in-2` was settled at line 6, and was not durable"]);
        let reached: BTreeMap<Place, u64> =
            [(("replies".to_owned(), 0), 9), (("replies".to_owned(), 1), 5)].into();
        assert_eq!(committed(&calls), reached);
    }
}
