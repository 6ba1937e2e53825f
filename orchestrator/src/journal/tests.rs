//! What the journal promises, on a disk that loses what it may lose.

use proptest::prelude::*;

use super::record::RECORD_HEADER_BYTES;
use super::sim::Dice;
use super::*;

type Records = Vec<(u64, Vec<u8>)>;

const OPTIONS: JournalOptions = JournalOptions {
    segment_bytes: 16 * 1024,
    record_bytes_max: 64 * 1024,
    durability: Durability::PowerLoss,
    preparation: Preparation::OnDemand,
    nonce_seed: None,
};

fn open_with(
    disk: &SimDisk,
    options: JournalOptions,
    from: u64,
) -> Result<(Journal, Records), JournalError> {
    let mut records = Vec::new();
    let journal =
        Journal::open(Arc::new(disk.clone()), options, GroupSeq(from), &mut |seq, bytes| {
            records.push((seq.0, bytes.to_vec()));
            Ok(())
        })?;
    Ok((journal, records))
}

fn open(disk: &SimDisk, from: u64) -> (Journal, Records) {
    open_with(disk, OPTIONS, from).expect("the journal is sound")
}

/// What record `seq` holds; told from every other record by its content alone.
fn payload(seq: u64, salt: u64, bytes: usize) -> Vec<u8> {
    let mut dice = Dice(seq << 20 | salt);
    (0..bytes).map(|_| dice.throw().to_le_bytes()[0]).collect()
}

fn append(journal: &mut Journal, bytes: usize) -> u64 {
    let record = payload(journal.next().0, 0, bytes);
    journal.append(&[&record]).expect("the disk is well").0
}

fn fill(disk: &SimDisk, records: u64, bytes: usize) -> Journal {
    let (mut journal, _) = open(disk, 1);
    for _ in 0..records {
        append(&mut journal, bytes);
        journal.sync().expect("the disk is well");
    }
    journal
}

fn last_segment(disk: &SimDisk) -> String {
    let mut names: Vec<String> =
        disk.list().expect("list").into_iter().map(|file| file.0).collect();
    names.retain(|name| name.ends_with(SUFFIX));
    names.sort();
    names.pop().expect("there is one")
}

#[test]
fn synced_records_are_read_back_in_order_across_segments() {
    let disk = SimDisk::new();
    let (mut journal, nothing) = open(&disk, 1);
    assert_eq!(nothing, vec![]);
    for bytes in [0, 1, 300, 5_000, 16_000, 40_000, 64 * 1024, 7] {
        append(&mut journal, bytes);
    }
    journal.sync().expect("the disk is well");
    disk.crash(1);

    let (journal, records) = open(&disk, 3);
    let lengths: Vec<_> = records.iter().map(|(seq, bytes)| (*seq, bytes.len())).collect();
    assert_eq!(lengths, [(3, 300), (4, 5_000), (5, 16_000), (6, 40_000), (7, 65_536), (8, 7)]);
    assert!(records.iter().all(|(seq, bytes)| *bytes == payload(*seq, 0, bytes.len())));
    assert_eq!((journal.next(), journal.torn_tail()), (GroupSeq(9), None));
}

#[test]
fn a_record_larger_than_a_segment_takes_the_place_of_an_empty_one() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    for _ in 0..3 {
        append(&mut journal, 30_000);
        journal.sync().expect("sync");
    }
    assert_eq!(journal.segments.len(), 3);
    assert_eq!(journal.retire(GroupSeq(3)).expect("retire"), 2);
    assert_eq!((journal.first(), journal.next()), (GroupSeq(3), GroupSeq(4)));
    disk.crash(1);
    let records = open(&disk, 3).1;
    assert_eq!(records, vec![(3, payload(3, 0, 30_000))]);
}

#[test]
fn a_record_gathered_from_parts_is_read_back_as_one() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    journal.append(&[b"state ", b"", b"and commands"]).expect("append");
    journal.sync().expect("sync");
    assert_eq!(open(&disk, 1).1, vec![(1, b"state and commands".to_vec())]);
}

#[test]
fn a_record_above_the_bound_is_refused_and_nothing_else_happens() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    let error = journal.append(&[&[0; 64 * 1024], &[0]]).expect_err("it is one byte too large");
    assert!(matches!(error, JournalError::TooLarge { bytes: 65_537, bytes_max: 65_536 }));
    assert!(!error.is_final());
    assert_eq!(append(&mut journal, 10), 1);
    journal.sync().expect("the journal goes on");
}

#[test]
fn headers_of_a_torn_write_are_cleared_wherever_they_stand() {
    let disk = SimDisk::new();
    let (first, other) = (record::bytes_of(300), record::bytes_of(500));
    drop(fill(&disk, 3, 300));
    let name = last_segment(&disk);
    let file = disk.open(&name).expect("it is there");
    let header = SegmentHeader::from_bytes(&file.read().expect("read")).expect("it is sound");
    let end = SEGMENT_HEADER_BYTES + 3 * first;
    // Of two records only the headers got to the disk.
    let mut torn = Vec::new();
    for (seq, bytes) in [(4, 300), (5, 500)] {
        record::write(
            &mut torn,
            GroupSeq(seq),
            GroupSeq(4),
            header.nonce,
            &[&payload(seq, 9, bytes)],
        );
    }
    file.write_at(end as u64, &torn[..RECORD_HEADER_BYTES]).expect("write");
    let second = first..first + RECORD_HEADER_BYTES;
    file.write_at((end + first) as u64, &torn[second]).expect("write");
    file.sync_data().expect("sync");
    disk.crash(1);

    let (mut journal, records) = open(&disk, 1);
    assert_eq!((records.len(), journal.torn_tail().map(|torn| torn.offset)), (3, Some(end as u64)));
    // A record that ends where the second header stood, and one that wants another segment.
    append(&mut journal, 300);
    append(&mut journal, 16_000 - other);
    journal.sync().expect("sync");
    assert_ne!(last_segment(&disk), name);
    disk.crash(2);
    assert_eq!(open(&disk, 1).1.len(), 5);
}

#[test]
fn a_failed_sync_ends_everything() {
    for operation in [DiskOperation::Sync, DiskOperation::Write] {
        let disk = SimDisk::new();
        let mut journal = fill(&disk, 1, 100);
        append(&mut journal, 100);
        disk.fail(operation, 1, DiskFault::Error);
        let error = journal.sync().expect_err("the disk failed");
        assert!(matches!(error, JournalError::Disk { .. }) && error.is_final());
        assert!(matches!(journal.sync(), Err(JournalError::Stopped)));
        assert!(matches!(journal.append(&[b"x"]), Err(JournalError::Stopped)));
        assert!(matches!(journal.retire(GroupSeq(2)), Err(JournalError::Stopped)));
        disk.crash(3);
        assert_eq!(open(&disk, 1).1[0].0, 1);
    }
}

/// The system takes for written what a failed sync did not write, and a further sync of it succeeds: so did the journal, until what was acted
/// on after a restart was gone with the power, and it refused to open for the gap.
#[test]
fn what_a_failed_sync_left_in_memory_only_is_not_acted_on() {
    let disk = SimDisk::new();
    let mut journal = fill(&disk, 3, 100);
    append(&mut journal, 100);
    disk.fail(DiskOperation::Sync, 1, DiskFault::Error);
    journal.sync().expect_err("the disk failed");
    drop(journal);

    let (mut journal, read) = open(&disk, 1);
    assert_eq!(
        read.len(),
        3,
        "the system still has the fourth in memory, and the disk never had it"
    );
    append(&mut journal, 100);
    journal.sync().expect("the disk is well");
    drop(journal);
    disk.crash(7);
    assert_eq!(open(&disk, 1).1.len(), 4, "what was read once is there for good");
}

/// A torn write may have left a later record whole. Where the sync failed that was to make its clearing durable, the next life saw zeros in its place,
/// wrote a record as long as the torn one before it, and whoever came after a power cut took the later one for a group behind.
#[test]
fn a_cut_whose_sync_failed_is_made_again() {
    for seed in 0..64 {
        let disk = SimDisk::new();
        let mut journal = fill(&disk, 3, 100);
        journal.append(&[&[1; 600]]).expect("append");
        journal.append(&[&[2; 600]]).expect("append");
        journal.write_out(Durability::ProcessCrash).expect("write");
        drop(journal);
        disk.crash(seed);
        disk.fail(DiskOperation::Sync, 2, DiskFault::Error);
        let refused = open_with(&disk, OPTIONS, 1).is_err();

        let (mut journal, read) = open(&disk, 1);
        journal.append(&[&[3; 600]]).expect("append");
        journal.sync().expect("the disk is well");
        drop(journal);
        disk.crash(seed);
        let (_, again) = open(&disk, 1);
        assert_eq!(again.len(), read.len() + 1, "seed {seed}, refused: {refused}");
    }
}

#[test]
fn a_full_disk_is_told_from_a_broken_one() {
    let disk = SimDisk::new();
    let mut journal = fill(&disk, 1, 100);
    append(&mut journal, 100);
    disk.fail(DiskOperation::Write, 1, DiskFault::Full);
    let full = journal.sync().expect_err("what was promised has no room");
    assert!(matches!(full, JournalError::Full { .. }) && full.is_final());
    assert!(full.to_string().contains("make room"));
    disk.crash(0);
    assert!(open(&disk, 1).1.len() <= 2);
}

#[test]
fn without_room_for_a_segment_nothing_changes_and_the_same_append_succeeds_once_there_is() {
    let disk = SimDisk::new();
    let mut journal = fill(&disk, 1, 100);
    append(&mut journal, 200);
    disk.leave(1_000);
    for _ in 0..3 {
        let before = journal.next();
        let none = journal.append(&[&[7; 16_300]]).expect_err("there is no room for a segment");
        assert!(matches!(none, JournalError::NoRoom { .. }) && !none.is_final(), "{none}");
        assert!(none.to_string().contains("make room"), "{none}");
        assert_eq!(journal.next(), before);
        // What fits into the segment that is there goes on meanwhile.
        append(&mut journal, 50);
        journal.sync().expect("nothing has failed");
    }
    disk.leave(1_000_000);
    assert_eq!(append(&mut journal, 16_300), 6);
    journal.sync().expect("there is room");
    disk.crash(0);
    let lengths: Vec<usize> = open(&disk, 1).1.iter().map(|record| record.1.len()).collect();
    assert_eq!(lengths, [100, 200, 50, 50, 50, 16_300]);
}

#[test]
fn a_segment_that_was_cut_is_refused_wherever_it_was_cut() {
    for keep in [0, 100, 4_096, 4_200, 9_000, 16_383] {
        for last in [true, false] {
            let disk = SimDisk::new();
            let journal = fill(&disk, 6, 5_000);
            let index = if last { journal.segments.len() - 1 } else { 0 };
            let segment = journal.segments[index].name.clone();
            disk.cut(&segment, keep);
            let error = open_with(&disk, OPTIONS, 1).expect_err("a file was cut");
            assert!(matches!(error, JournalError::Corrupt { .. }), "{keep}, {last}: {error}");
        }
    }
}

#[test]
fn retired_segments_are_used_again_and_their_old_records_never_return() {
    let disk = SimDisk::new();
    let mut journal = fill(&disk, 40, 3_000);
    let live = journal.bytes_live();
    assert!(journal.retire(GroupSeq(38)).expect("retire") >= 8);
    assert!(journal.bytes_live() < live / 3);
    assert!(journal.first() <= GroupSeq(38));
    let created = disk.list().expect("list").len();
    for round in 0..30 {
        for _ in 0..4 {
            append(&mut journal, 3_000);
            journal.sync().expect("sync");
        }
        journal.retire(journal.next()).expect("retire");
        disk.crash(round);
        let from = journal.next().0;
        let (reopened, records) = open(&disk, from);
        assert_eq!((reopened.next().0, records), (from, vec![]));
        journal = reopened;
    }
    assert!(disk.list().expect("list").len() <= created + 2);
}

#[test]
fn a_damaged_record_that_was_durable_is_refused_with_its_place() {
    let disk = SimDisk::new();
    drop(fill(&disk, 4, 100));
    let segment = last_segment(&disk);
    let second = SEGMENT_HEADER_BYTES + record::bytes_of(100);
    disk.flip_bit(&segment, second + 40);
    let before = disk.operations();
    let error = open_with(&disk, OPTIONS, 1).expect_err("group 2 was durable");
    assert!(
        matches!(&error, JournalError::Corrupt { segment: at, offset, expected: GroupSeq(2), .. }
            if *at == segment && *offset == second as u64),
        "{error}"
    );
    assert_eq!(disk.operations() - before, 5, "list, open, sync, open, read: nothing was changed");
}

#[test]
fn a_damaged_record_before_a_later_segment_is_refused() {
    let disk = SimDisk::new();
    drop(fill(&disk, 6, 5_000));
    let first = Segment::name_of(GroupSeq(1));
    disk.flip_bit(&first, SEGMENT_HEADER_BYTES + record::bytes_of(5_000) + 77);
    let error = open_with(&disk, OPTIONS, 1).expect_err("group 2 was durable");
    assert!(matches!(error, JournalError::Corrupt { expected: GroupSeq(2), .. }), "{error}");
}

#[test]
fn a_missing_segment_is_refused_wherever_it_was() {
    for (gone, from, missing) in [(0, 1, true), (1, 1, true), (0, 12, false)] {
        let disk = SimDisk::new();
        let journal = fill(&disk, 12, 5_000);
        let name = journal.segments[gone].name.clone();
        disk.remove(&name).expect("remove");
        let opened = open_with(&disk, OPTIONS, from);
        let refused = matches!(
            opened,
            Err(JournalError::Missing { .. }
                | JournalError::Corrupt { what: "a later segment follows", .. })
        );
        assert_eq!(refused, missing, "segment {gone}, from {from}");
    }
}

#[test]
fn a_journal_behind_its_store_is_refused() {
    let disk = SimDisk::new();
    drop(fill(&disk, 2, 10));
    assert!(open_with(&disk, OPTIONS, 3).is_ok());
    for (disk, next) in [(disk, 3), (SimDisk::new(), 1)] {
        let error = open_with(&disk, OPTIONS, 9).expect_err("groups 3 to 8 are missing");
        assert!(
            matches!(error, JournalError::Behind { from: GroupSeq(9), next: at } if at.0 == next)
        );
    }
}

#[test]
fn a_segment_of_a_later_release_is_refused() {
    let disk = SimDisk::new();
    drop(fill(&disk, 1, 10));
    let segment = last_segment(&disk);
    disk.open(&segment)
        .and_then(|file| {
            file.write_at(8, &3u32.to_le_bytes())?;
            file.sync_data()
        })
        .expect("write");
    let error = open_with(&disk, OPTIONS, 1).expect_err("version 3 is not known");
    assert!(matches!(error, JournalError::Newer { version: 3, known: 2, .. }), "{error}");
}

#[test]
fn a_reader_that_refuses_ends_the_opening() {
    let disk = SimDisk::new();
    drop(fill(&disk, 3, 10));
    let mut refuse = |seq: GroupSeq, _: &[u8]| {
        if seq.0 == 2 { Err("cannot fold".into()) } else { Ok(()) }
    };
    let error = Journal::open(Arc::new(disk), OPTIONS, GroupSeq(1), &mut refuse).map(drop);
    assert!(matches!(error, Err(JournalError::Refused { seq: GroupSeq(2), .. })));
}

#[test]
fn segments_prepared_in_the_background_serve_as_well() {
    let disk = SimDisk::new();
    let options = JournalOptions { preparation: Preparation::InBackground, ..OPTIONS };
    let (mut journal, _) = open_with(&disk, options, 1).expect("open");
    for _ in 0..100 {
        append(&mut journal, 1_000);
        journal.sync().expect("sync");
    }
    drop(journal);
    assert_eq!(open_with(&disk, options, 1).expect("open").1.len(), 100);
}

#[test]
fn trouble_with_the_next_segment_is_known_before_it_is_needed() {
    let disk = SimDisk::new();
    let options = JournalOptions { preparation: Preparation::InBackground, ..OPTIONS };
    let (mut journal, _) = open_with(&disk, options, 1).expect("open");
    disk.fail(DiskOperation::Create, 1, DiskFault::Full);
    append(&mut journal, 9_000);
    journal.sync().expect("there is room in this one");
    while journal.next_segment_trouble().is_none() {
        journal.sync().expect("nothing to do");
        std::thread::yield_now();
    }
    append(&mut journal, 9_000);
    journal.sync().expect("there is room again when the segment is needed");
    assert!(journal.next_segment_trouble().is_none());
}

#[test]
fn without_syncs_a_crash_of_the_process_loses_nothing_and_a_power_cut_leaves_a_prefix() {
    let options = JournalOptions { durability: Durability::ProcessCrash, ..OPTIONS };
    for seed in 0..50 {
        let disk = SimDisk::new();
        let (mut journal, _) = open_with(&disk, options, 1).expect("open");
        for _ in 0..20 {
            append(&mut journal, 700);
            journal.sync().expect("sync");
        }
        drop(journal);
        if seed == 0 {
            assert_eq!(open_with(&disk, options, 1).expect("open").1.len(), 20);
        } else {
            disk.crash(seed);
            let (_, records) = open_with(&disk, options, 1).expect("a prefix is left");
            assert!(records.iter().zip(1..).all(|((seq, _), expected)| *seq == expected));
        }
    }
}

/// What a run has been told, against which the reopened journal is held.
#[derive(Default)]
struct Ledger {
    appended: Records,
    synced: usize,
}

impl Ledger {
    /// Exactly a prefix of what was appended, with everything that was synced. What is lost is forgotten.
    fn check(&mut self, from: u64, records: &Records, hint: &str) {
        let skipped = usize::try_from(from - 1).expect("small");
        let kept = skipped + records.len();
        assert!(kept >= self.synced, "{hint}: {} synced, {kept} kept", self.synced);
        assert!(kept <= self.appended.len(), "{hint}: more than was appended");
        assert!(self.appended[skipped..kept] == records[..], "{hint}: other records");
        self.appended.truncate(kept);
        self.synced = kept;
    }
}

/// Carries a script out until the disk fails.
fn run(journal: &mut Journal, ledger: &mut Ledger, dice: &mut Dice, steps: u64) -> bool {
    for _ in 0..steps {
        let outcome = match dice.below(8) {
            0..4 => {
                let bytes = usize::try_from(match dice.below(10) {
                    0 => dice.below(20_000),
                    _ => dice.below(900),
                })
                .expect("small");
                let seq = journal.next().0;
                let record = payload(seq, dice.throw() >> 44, bytes);
                // Noted before: the write may come through although it failed.
                ledger.appended.push((seq, record.clone()));
                match journal.append(&[&record]) {
                    // Not taken in: the next record gets its place.
                    Err(JournalError::NoRoom { .. }) => {
                        ledger.appended.pop();
                        Ok(())
                    }
                    outcome => outcome.map(drop),
                }
            }
            4..7 => journal.sync().map(|()| ledger.synced = ledger.appended.len()),
            _ => {
                let durable = ledger.synced as u64;
                journal.retire(GroupSeq(durable.saturating_sub(5))).map(drop)
            }
        };
        if outcome.is_err() {
            return false;
        }
    }
    true
}

fn opened_from(ledger: &Ledger) -> u64 {
    (ledger.synced as u64).saturating_sub(5).max(1)
}

fn survives(seed: u64, fault: Option<(u64, DiskFault)>) {
    let disk = SimDisk::new();
    let mut dice = Dice(seed);
    let mut ledger = Ledger::default();
    for life in 0..6 {
        if let Some((nth, fault)) = fault
            && life < 5
        {
            disk.fail(DiskOperation::Any, nth, fault);
        }
        let from = opened_from(&ledger);
        let hint = format!("seed {seed}, life {life}, fault {fault:?}");
        match open_with(&disk, OPTIONS, from) {
            Ok((mut journal, records)) => {
                ledger.check(from, &records, &hint);
                let steps = dice.below(60);
                run(&mut journal, &mut ledger, &mut dice, steps);
            }
            Err(
                JournalError::Disk { .. } | JournalError::Full { .. } | JournalError::NoRoom { .. },
            ) if fault.is_some() => {}
            Err(error) => panic!("{hint}: {error}"),
        }
        // A process that is ended leaves more than a power cut does, and what a failed sync left in memory.
        if disk.is_dark() || dice.below(2) == 0 {
            disk.crash(dice.throw());
        } else {
            disk.be_well();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_appended_and_wherever_the_power_goes_a_prefix_with_all_synced_records_is_left(seed: u64) {
        survives(seed, None);
    }

    #[test]
    fn whatever_fails_a_prefix_with_all_synced_records_is_left(
        seed: u64,
        nth in 1..120u64,
        fault in prop_oneof![Just(DiskFault::Error), Just(DiskFault::Full), Just(DiskFault::PowerCut)],
    ) {
        survives(seed, Some((nth, fault)));
    }
}

#[test]
fn the_power_may_go_at_any_operation() {
    for nth in 1..150 {
        for seed in 0..3 {
            survives(seed * 1_000 + nth, Some((nth, DiskFault::PowerCut)));
        }
    }
}
