//! The bytes of a segment: its header, its records, and how one is told from what was there before.
//!
//! [`Journal`](super::Journal) writes with it, and reads with it at start. Nothing here touches a disk.
//!
//! ```text
//! segment   magic 8 | version 4 | crc 4 | first sequence 8 | nonce 8 | bytes of the file 8 | zeros up to 4096 | records …
//! record    crc 4 | payload length 4 | sequence 8 | durable below 8 | nonce 8 | payload | zeros up to a multiple of 8
//! ```
//!
//! Numbers are little-endian. A checksum is CRC32C over every other field, and over the payload.
//!
//! - The **nonce** is drawn anew whenever a file becomes a segment, so the bytes of its earlier life never pass as records.
//! - **Bytes of the file** never change while it is a segment, so a file that was cut is known. Layout 1 did not say them.
//! - **Durable below** says which records were durable when this one was written. A record that can't be
//!   read but was durable is corruption; one that wasn't may be the torn end of the last write.

use std::ops::Range;

use super::GroupSeq;
use crate::planted::{self, Bug};

/// The layout this build writes. A segment with a higher one is refused, with a lower one read.
pub(super) const FORMAT_VERSION: u32 = 2;

/// Bytes before the first record: a whole page, so that no later write touches the page of the header.
pub(super) const SEGMENT_HEADER_BYTES: usize = 4096;

/// Bytes before the payload of a record.
pub(super) const RECORD_HEADER_BYTES: usize = 32;

/// Records start at multiples of this, which makes looking for them behind a damaged one cheap.
pub(super) const RECORD_ALIGN_BYTES: usize = 8;

const SEGMENT_MAGIC: [u8; 8] = *b"DIRIGENT";

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) first: GroupSeq,
    pub(super) nonce: u64,
    /// The length of the file, from its first record to its last. Layout 1 does not say.
    pub(super) bytes: Option<u64>,
}

/// Why the first bytes of a file are no segment header of ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderFault {
    Newer { version: u32 },
    Damaged,
}

impl SegmentHeader {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = vec![0; SEGMENT_HEADER_BYTES];
        bytes[0..8].copy_from_slice(&SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.nonce.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.bytes.unwrap_or_default().to_le_bytes());
        let crc = header_crc(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, HeaderFault> {
        if bytes.len() < SEGMENT_HEADER_BYTES || bytes[0..8] != SEGMENT_MAGIC {
            return Err(HeaderFault::Damaged);
        }
        // Before the checksum: a newer layout may keep it elsewhere.
        let version = u32_at(bytes, 8);
        if version > FORMAT_VERSION {
            return Err(HeaderFault::Newer { version });
        }
        if u32_at(bytes, 12) != header_crc(bytes) {
            return Err(HeaderFault::Damaged);
        }
        let length = u64_at(bytes, 32);
        Ok(Self {
            first: GroupSeq(u64_at(bytes, 16)),
            nonce: u64_at(bytes, 24),
            bytes: (length > 0).then_some(length),
        })
    }
}

fn header_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[0..12]), &bytes[16..SEGMENT_HEADER_BYTES])
}

/// An intact record inside the bytes of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) seq: GroupSeq,
    pub(super) durable_below: GroupSeq,
    pub(super) payload: Range<usize>,
    /// Where the next record starts.
    pub(super) end: usize,
}

/// Bytes a record takes in a segment. The payload is below 4 GiB, which `record_bytes_max` sees to.
pub(super) fn bytes_of(payload_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + payload_bytes).next_multiple_of(RECORD_ALIGN_BYTES)
}

/// Writes one record, gathered from its parts, to the end of `into`.
pub(super) fn write(
    into: &mut Vec<u8>,
    seq: GroupSeq,
    durable_below: GroupSeq,
    nonce: u64,
    parts: &[&[u8]],
) {
    let start = into.len();
    let payload_bytes: usize = parts.iter().map(|part| part.len()).sum();
    let length = u32::try_from(payload_bytes)
        .expect("the journal refuses records above record_bytes_max, which is below 4 GiB");
    into.reserve(bytes_of(payload_bytes));
    into.extend_from_slice(&[0; 4]);
    into.extend_from_slice(&length.to_le_bytes());
    into.extend_from_slice(&seq.0.to_le_bytes());
    into.extend_from_slice(&durable_below.0.to_le_bytes());
    into.extend_from_slice(&nonce.to_le_bytes());
    for part in parts {
        into.extend_from_slice(part);
    }
    let crc = crc32c::crc32c(&into[start + 4..]);
    into[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    into.resize(start + bytes_of(payload_bytes), 0);
}

/// The record at `at`, when an intact one of this segment is there.
pub(super) fn read(segment: &[u8], at: usize, nonce: u64) -> Option<Record> {
    let header = segment.get(at..at.checked_add(RECORD_HEADER_BYTES)?)?;
    if u64_at(header, 24) != nonce {
        return None;
    }
    let payload_bytes = usize::try_from(u32_at(header, 4)).ok()?;
    let payload_start = at + RECORD_HEADER_BYTES;
    let payload = payload_start..payload_start.checked_add(payload_bytes)?;
    let end = at.checked_add(bytes_of(payload_bytes))?;
    if end > segment.len() {
        return None;
    }
    let is_whole = u32_at(header, 0) == crc32c::crc32c(&segment[at + 4..payload.end]);
    if !is_whole && !planted::is(Bug::TornTailAccepted) {
        return None;
    }
    let seq = GroupSeq(u64_at(header, 8));
    Some(Record { seq, durable_below: GroupSeq(u64_at(header, 16)), payload, end })
}

/// Whether a record of this segment was begun at `at`, intact or not.
pub(super) fn begun(segment: &[u8], at: usize, nonce: u64) -> bool {
    at + RECORD_HEADER_BYTES <= segment.len() && u64_at(segment, at + 24) == nonce
}

/// Every intact record of this segment from `at` on, wherever it starts.
pub(super) fn search(segment: &[u8], at: usize, nonce: u64) -> Vec<Record> {
    headers(segment, at, nonce).filter_map(|at| read(segment, at, nonce)).collect()
}

/// Up to where intact records lie, or headers of this segment from `at` on, whether their records are intact or not.
pub(super) fn stale_end(segment: &[u8], intact: &[Record], at: usize, nonce: u64) -> Option<usize> {
    let headers = headers(segment, at, nonce).map(|at| at + RECORD_HEADER_BYTES);
    intact.iter().map(|record| record.end).chain(headers).max()
}

/// Where headers of this segment begin, from `at` on.
fn headers(segment: &[u8], at: usize, nonce: u64) -> impl Iterator<Item = usize> + '_ {
    let from = at.next_multiple_of(RECORD_ALIGN_BYTES);
    let words = segment.get(from..).unwrap_or_default().chunks_exact(RECORD_ALIGN_BYTES);
    words.enumerate().filter(move |(_, word)| **word == nonce.to_le_bytes()).filter_map(
        // The nonce is the last field of a record's header.
        move |(index, _)| (index * RECORD_ALIGN_BYTES).checked_sub(24).map(|offset| from + offset),
    )
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were sliced"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were sliced"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn this_version_keeps_its_bytes() {
        let nonce = 0x1122_3344_5566_7788;
        let header = SegmentHeader { first: GroupSeq(7), nonce, bytes: Some(1 << 26) };
        assert_eq!(hex(&header.to_bytes()[..40]), SAMPLE_SEGMENT_V2);
        let mut record = Vec::new();
        write(&mut record, GroupSeq(7), GroupSeq(6), header.nonce, &[b"commit ", b"group"]);
        assert_eq!(hex(&record), SAMPLE_RECORD_V1);
        assert_eq!(SegmentHeader::from_bytes(&header.to_bytes()), Ok(header));
        let read = read(&record, 0, header.nonce).expect("the record is intact");
        assert_eq!((read.seq, &record[read.payload]), (GroupSeq(7), &b"commit group"[..]));
    }

    #[test]
    fn the_first_version_is_read_and_says_no_length() {
        let mut bytes: Vec<u8> = (0..SAMPLE_SEGMENT_V1.len() / 2)
            .map(|at| u8::from_str_radix(&SAMPLE_SEGMENT_V1[2 * at..2 * at + 2], 16).expect("hex"))
            .collect();
        bytes.resize(SEGMENT_HEADER_BYTES, 0);
        let nonce = 0x1122_3344_5566_7788;
        let header = SegmentHeader { first: GroupSeq(7), nonce, bytes: None };
        assert_eq!(SegmentHeader::from_bytes(&bytes), Ok(header));
    }

    const SAMPLE_SEGMENT_V1: &str =
        "4449524947454e54010000006d9311d807000000000000008877665544332211";
    const SAMPLE_SEGMENT_V2: &str =
        "4449524947454e5402000000f914faf3070000000000000088776655443322110000000400000000";
    const SAMPLE_RECORD_V1: &str = "98b7db0a0c000000070000000000000006000000000000008877665544332211636f6d6d69742067726f757000000000";

    #[test]
    fn any_flipped_bit_makes_a_record_unreadable() {
        let mut bytes = Vec::new();
        write(&mut bytes, GroupSeq(1), GroupSeq(1), 9, &[b"0123456789abcdef"]);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&damaged, 0, 9), None, "bit {bit}");
        }
    }

    #[test]
    fn records_of_an_earlier_life_of_the_file_are_not_seen() {
        let mut bytes = Vec::new();
        write(&mut bytes, GroupSeq(1), GroupSeq(1), 9, &[b"old"]);
        assert_eq!(read(&bytes, 0, 11), None);
        assert!(search(&bytes, 0, 11).is_empty());
        assert_eq!(search(&bytes, 0, 9).len(), 1);
    }

    #[test]
    fn a_newer_layout_is_told_from_a_damaged_one() {
        let mut bytes = SegmentHeader { first: GroupSeq(1), nonce: 3, bytes: None }.to_bytes();
        bytes[8] = 3;
        assert_eq!(SegmentHeader::from_bytes(&bytes), Err(HeaderFault::Newer { version: 3 }));
        bytes[8] = 2;
        bytes[20] ^= 1;
        assert_eq!(SegmentHeader::from_bytes(&bytes), Err(HeaderFault::Damaged));
    }
}
