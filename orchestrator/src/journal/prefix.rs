//! The durable prefix: what a power cut at this very moment would leave of the journal, read on as it grows.
//!
//! For whoever judges a simulation. What goes in: the disk, again and again. What comes out: each group once, in order, as soon as its bytes and
//! the name of its segment are durable. What must be true: nothing is handed out that recovery would not find, and looking changes nothing. What
//! was given up before anybody looked is passed over, and told of.

use super::{
    GroupSeq, SUFFIX, SimDisk,
    record::{self, SEGMENT_HEADER_BYTES, SegmentHeader},
};

/// How far it has been read.
#[derive(Debug)]
pub(crate) struct Prefix {
    /// Operations of the disk when it was looked at last: without a further one nothing has become durable.
    operations: u64,
    next: GroupSeq,
    /// The segment that was read last, its nonce, and up to where.
    segment: Option<(String, u64, usize)>,
}

impl Prefix {
    /// Of a journal that is not begun yet.
    pub(crate) fn new() -> Self {
        Self { operations: 0, next: GroupSeq::FIRST, segment: None }
    }

    /// Hands out the groups that have become durable since. Says whether some were passed over.
    pub(crate) fn read_on(
        &mut self,
        disk: &SimDisk,
        take_in: &mut dyn FnMut(GroupSeq, &[u8]),
    ) -> bool {
        let operations = disk.operations();
        if operations == self.operations {
            return false;
        }
        self.operations = operations;
        let (mut is_first, mut passed_over) = (true, false);
        disk.each_durable(&mut |name, bytes| {
            if let Some(first) = name.strip_suffix(SUFFIX).and_then(|first| first.parse().ok()) {
                if is_first && GroupSeq(first) > self.next {
                    (self.next, passed_over) = (GroupSeq(first), true);
                }
                is_first = false;
                self.read_segment(name, bytes, take_in);
            }
        });
        passed_over
    }

    fn read_segment(&mut self, name: &str, bytes: &[u8], take_in: &mut dyn FnMut(GroupSeq, &[u8])) {
        let known = self.segment.as_ref().filter(|(known, ..)| name <= known.as_str());
        if known.is_some_and(|(known, ..)| name < known.as_str()) {
            return;
        }
        let Ok(SegmentHeader { nonce, .. }) = SegmentHeader::from_bytes(bytes) else { return };
        let of_this = known.filter(|(_, of, _)| *of == nonce).map(|(.., end)| *end);
        let mut end = of_this.unwrap_or(SEGMENT_HEADER_BYTES);
        let mut is_ours = of_this.is_some();
        while let Some(record) = record::read(bytes, end, nonce)
            && record.seq <= self.next
        {
            if record.seq == self.next {
                take_in(record.seq, &bytes[record.payload]);
                self.next = self.next.next();
                is_ours = true;
            }
            end = record.end;
        }
        if is_ours {
            self.segment = Some((name.to_owned(), nonce, end));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Journal, JournalOptions, Preparation};
    use std::sync::Arc;

    fn read_on(prefix: &mut Prefix, disk: &SimDisk) -> Vec<String> {
        let mut found = Vec::new();
        prefix.read_on(disk, &mut |seq, record| {
            found.push(format!("{seq} {}", String::from_utf8_lossy(&record[..1])));
        });
        found
    }

    #[test]
    fn a_group_is_handed_out_once_and_only_when_it_was_synced() {
        let disk = SimDisk::new();
        let options = JournalOptions {
            segment_bytes: 8192,
            preparation: Preparation::OnDemand,
            ..JournalOptions::default()
        };
        let mut journal =
            Journal::open(Arc::new(disk.clone()), options, GroupSeq::FIRST, &mut |_, _| Ok(()))
                .unwrap();
        let mut prefix = Prefix::new();
        journal.append(&[b"a"]).unwrap();
        assert_eq!(read_on(&mut prefix, &disk), [""; 0]);
        journal.sync().unwrap();
        assert_eq!(read_on(&mut prefix, &disk), ["1 a"]);
        assert_eq!(read_on(&mut prefix, &disk), [""; 0]);
        // Many segments further, some of which are given up meanwhile.
        let large = [b'b'; 3000];
        let mut all = Vec::new();
        for round in 0..20 {
            let seq = journal.append(&[&large]).unwrap();
            journal.sync().unwrap();
            if round % 3 == 0 {
                journal.retire(seq).unwrap();
            }
            all.extend(read_on(&mut prefix, &disk));
        }
        assert_eq!(all.len(), 20);
        assert_eq!(all[19], "21 b");
        // Others are given up before anybody looks.
        for _ in 0..9 {
            let seq = journal.append(&[&large]).unwrap();
            journal.sync().unwrap();
            journal.retire(seq).unwrap();
        }
        let mut last = None;
        assert!(prefix.read_on(&disk, &mut |seq, _| last = Some(seq)), "some were passed over");
        assert_eq!(last, Some(GroupSeq(30)));
    }
}
