//! The journal: every commit group, in order, durable. What the store holds only adds it up.
//!
//! The committer appends the groups of all shards that are ready and syncs once for all; only then do
//! their commands leave and their inputs get settled. At start the engine reads it from the checkpoint on.
//!
//! - **Append-only** segments, preallocated and recycled; a record is one group and never spans two segments.
//! - **Torn tail**: a record that can't be read ends the journal if it may never have been durable; it is cut.
//!   If a later record proves that it was durable, the journal refuses to open and changes nothing.
//!   Not told apart: damage to the very last write, with nothing written after it, looks like a torn one.
//! - **A cut file is known**: every segment says how long it is, and one of another length is refused.
//! - **Every error of the disk is final.** After a failed sync nobody knows what is durable: the journal refuses
//!   everything from then on, and the process ends. A restart reads what is there.
//! - **But for one**: where there is no room for the next segment's file, nothing was promised and nothing has changed.
//!   [`JournalError::NoRoom`] says so, and the same append may be tried again once there is.

mod disk;
mod error;
#[cfg(test)]
mod killed;
#[cfg(feature = "simulation")]
mod prefix;
mod record;
mod sim;
mod spares;
mod tail;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::planted::{self, Bug};
use rustc_hash::FxBuildHasher;

pub use disk::{Disk, DiskFile, FileDisk, Room};
pub use error::JournalError;
#[cfg(feature = "simulation")]
pub(crate) use prefix::Prefix;
pub use sim::{DiskFault, DiskOperation, SimDisk};

use error::doing;
use record::{HeaderFault, SEGMENT_HEADER_BYTES, SegmentHeader};
use spares::Spares;
use tail::{OpenTail, ReadTail, cut, let_go};

/// Bytes of a segment unless set otherwise: seconds to minutes of work, so that rolling is rare, and soon enough full to be retired.
pub const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

/// The largest record unless set otherwise. A group is tens of KiB; this only stops a runaway from filling the memory of the reader.
pub const RECORD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The bound on `record_bytes_max` itself: the length of a record is written in 32 bits.
const RECORD_BYTES_MAX_MAX: usize = 1 << 30;

/// The smallest segment, for tests: the header and a page of records.
const SEGMENT_BYTES_MIN: u64 = 2 * SEGMENT_HEADER_BYTES as u64;

/// Memory the buffer keeps between two syncs. A group larger than this is rare enough to ask for it again.
const BUFFER_BYTES_KEPT: usize = 4 * 1024 * 1024;

const SUFFIX: &str = ".segment";

/// The place of a commit group in the journal. Consecutive, starting at 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupSeq(pub u64);

impl GroupSeq {
    /// The first group of a new journal.
    pub const FIRST: GroupSeq = GroupSeq(1);

    /// The one behind this.
    #[must_use]
    pub fn next(self) -> GroupSeq {
        GroupSeq(self.0.checked_add(1).expect("2^64 groups take longer than the disk lasts"))
    }
}

impl fmt::Display for GroupSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a synced group survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// A power cut: every sync waits for the disk.
    #[default]
    PowerLoss,
    /// A crash of the process, not of the machine: a sync hands the bytes to the system and goes on.
    ProcessCrash,
}

/// When the file of the next segment is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preparation {
    /// Ahead of time, by a thread of the journal.
    #[default]
    InBackground,
    /// When it is needed, by the caller. One thread only, for tests that repeat.
    OnDemand,
}

/// How to keep the journal.
#[derive(Clone, Copy, Debug)]
pub struct JournalOptions {
    /// Bytes of a segment. Each is on disk in full from its first record on.
    pub segment_bytes: u64,
    /// The largest record, in bytes. A record larger than a segment gets a segment of its own size.
    pub record_bytes_max: usize,
    /// What a sync promises.
    pub durability: Durability,
    /// When files are made.
    pub preparation: Preparation,
    /// What nonces are drawn from; the system's randomness, which a disk that outlives the process needs, where nothing is set.
    pub nonce_seed: Option<u64>,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self {
            segment_bytes: SEGMENT_BYTES,
            record_bytes_max: RECORD_BYTES_MAX,
            durability: Durability::default(),
            preparation: Preparation::default(),
            nonce_seed: None,
        }
    }
}

/// Takes in one record while the journal is opened; an error ends the opening with [`JournalError::Refused`].
pub type TakeIn<'a> =
    &'a mut dyn FnMut(GroupSeq, &[u8]) -> Result<(), Box<dyn Error + Send + Sync>>;

/// The journal, owned by the committer's thread.
#[derive(Debug)]
pub struct Journal {
    disk: Arc<dyn Disk>,
    options: JournalOptions,
    /// Oldest first; the last one is written to.
    segments: VecDeque<Segment>,
    active: Box<dyn DiskFile>,
    nonce: u64,
    /// What is appended and not yet written. Belongs at `used` of the last segment, and never grows beyond it.
    buffer: Vec<u8>,
    written_unsynced: bool,
    next: GroupSeq,
    /// Every group below has survived a sync.
    durable_below: GroupSeq,
    spares: Spares,
    stopped: bool,
    torn: Option<TornTail>,
}

/// What was cut off at the end when the journal was opened. None of it had been confirmed to anyone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The file.
    pub segment: String,
    /// Where in it.
    pub offset: u64,
    /// The first group that is gone; the next append gets its number.
    pub seq: GroupSeq,
}

#[derive(Debug)]
struct Segment {
    name: String,
    first: GroupSeq,
    /// The file's length.
    bytes: u64,
    /// Up to where it holds records.
    used: u64,
}

impl Segment {
    fn name_of(first: GroupSeq) -> String {
        format!("{:020}{SUFFIX}", first.0)
    }
}

impl Journal {
    /// Opens the journal, or makes a new one if the folder is empty and `from` is the first group.
    ///
    /// Hands every intact record at or above `from` to `take_in`, in order; all of them are durable.
    ///
    /// # Errors
    /// The disk failed; records are damaged, missing, or of a later release; `take_in` refused. Nothing is changed then.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: JournalOptions,
        from: GroupSeq,
        take_in: TakeIn<'_>,
    ) -> Result<Self, JournalError> {
        let options = JournalOptions {
            segment_bytes: options.segment_bytes.max(SEGMENT_BYTES_MIN),
            record_bytes_max: options.record_bytes_max.min(RECORD_BYTES_MAX_MAX),
            ..options
        };
        let from = from.max(GroupSeq::FIRST);
        let files = disk.list().map_err(doing("listing", "the folder"))?;
        let mut segments = segments_of(&files);
        let tail = read_segments(disk.as_ref(), &mut segments, from, take_in)?;

        // The order matters: up to here nothing was changed, and what follows is only done to a sound journal.
        let in_background = options.preparation == Preparation::InBackground;
        let mut spares = Spares::find(&disk, &files, options.segment_bytes, in_background)?;
        let (tail, torn) = match tail {
            Some(tail) => cut(disk.as_ref(), tail)?,
            None => {
                let first = GroupSeq::FIRST;
                let name = spares.take()?;
                let bytes = options.segment_bytes;
                let (file, nonce) = begin_segment(disk.as_ref(), &name, first, &options)?;
                segments.push_back(Segment {
                    name: Segment::name_of(first),
                    first,
                    bytes,
                    used: SEGMENT_HEADER_BYTES as u64,
                });
                (OpenTail { file, nonce, next: first }, None)
            }
        };
        Ok(Self {
            disk,
            options,
            segments,
            active: tail.file,
            nonce: tail.nonce,
            buffer: Vec::new(),
            written_unsynced: false,
            next: tail.next,
            durable_below: tail.next,
            spares,
            stopped: false,
            torn,
        })
    }

    /// Adds a record, gathered from its parts, and says where. Durable after the next [`sync`](Journal::sync).
    ///
    /// # Errors
    /// [`JournalError::TooLarge`] and [`JournalError::NoRoom`] take nothing in, and the latter may be tried again.
    /// A full segment is written and synced here, which can fail like a sync.
    pub fn append(&mut self, record: &[&[u8]]) -> Result<GroupSeq, JournalError> {
        self.refuse_if_stopped()?;
        let payload_bytes: usize = record.iter().map(|part| part.len()).sum();
        if payload_bytes > self.options.record_bytes_max {
            let bytes_max = self.options.record_bytes_max;
            return Err(JournalError::TooLarge { bytes: payload_bytes, bytes_max });
        }
        let bytes = record::bytes_of(payload_bytes) as u64;
        let active = self.active_segment();
        if active.used + self.buffer.len() as u64 + bytes > active.bytes {
            self.roll(bytes)?;
        }
        let seq = self.next;
        record::write(&mut self.buffer, seq, self.durable_below, self.nonce, record);
        self.next = seq.next();
        Ok(seq)
    }

    /// Makes every record appended so far durable: one write and, for [`Durability::PowerLoss`], one sync of the disk.
    ///
    /// # Errors
    /// Any error is final: what was appended is durable or not, and the process has to end.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        self.refuse_if_stopped()?;
        let durability = match planted::is(Bug::JournalNotSynced) {
            true => Durability::ProcessCrash,
            false => self.options.durability,
        };
        let written = self.write_out(durability);
        self.stop_on_error(written)?;
        let active = self.active_segment();
        if active.used > active.bytes / 2 {
            self.spares.prepare();
        }
        Ok(())
    }

    /// Gives up the segments that hold only groups below `below`, and says how many. The last one always stays.
    ///
    /// Call it with what a *durable* checkpoint and watermark no longer need.
    ///
    /// # Errors
    /// Any error is final.
    pub fn retire(&mut self, below: GroupSeq) -> Result<usize, JournalError> {
        self.refuse_if_stopped()?;
        let retired = self.retire_segments(below);
        self.stop_on_error(retired)
    }

    /// Bytes of records that are not retired: what a checkpoint that falls behind lets grow.
    pub fn bytes_live(&self) -> u64 {
        let written: u64 = self.segments.iter().map(|segment| segment.used).sum();
        written + self.buffer.len() as u64
    }

    /// The place the next record will get.
    pub fn next(&self) -> GroupSeq {
        self.next
    }

    /// The first record that is still there, or would be.
    pub fn first(&self) -> GroupSeq {
        self.segments.front().expect("a journal has at least one segment").first
    }

    /// What was cut off when it was opened.
    pub fn torn_tail(&self) -> Option<&TornTail> {
        self.torn.as_ref()
    }

    /// Why the next segment could not be prepared ahead of time (most likely: no space), if so. A reason to
    /// take less work on; the attempt is repeated when the segment is needed, and failing then is final.
    pub fn next_segment_trouble(&self) -> Option<&std::io::Error> {
        self.spares.trouble()
    }

    fn refuse_if_stopped(&self) -> Result<(), JournalError> {
        if self.stopped { Err(JournalError::Stopped) } else { Ok(()) }
    }

    /// The disk below, to watch its room.
    pub fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk)
    }

    fn stop_on_error<T>(&mut self, outcome: Result<T, JournalError>) -> Result<T, JournalError> {
        self.stopped |= outcome.as_ref().is_err_and(JournalError::is_final);
        outcome
    }

    fn active_segment(&self) -> &Segment {
        self.segments.back().expect("a journal has at least one segment")
    }

    fn write_out(&mut self, durability: Durability) -> Result<(), JournalError> {
        let active = self.segments.back_mut().expect("a journal has at least one segment");
        if !self.buffer.is_empty() {
            let written = self.active.write_at(active.used, &self.buffer);
            written.map_err(doing("writing to segment", &active.name))?;
            active.used += self.buffer.len() as u64;
            self.written_unsynced = true;
            self.buffer.clear();
            self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        }
        if self.written_unsynced && durability == Durability::PowerLoss {
            self.active.sync_data().map_err(doing("syncing segment", &active.name))?;
            self.written_unsynced = false;
            self.durable_below = self.next;
        }
        Ok(())
    }

    /// Goes on in a new segment that has room for a record of `bytes`.
    fn roll(&mut self, bytes: u64) -> Result<(), JournalError> {
        // Whatever the durability: a segment behind the last one is always whole, which reading relies on.
        let written = self.write_out(match planted::is(Bug::RollsUnsynced) {
            true => Durability::ProcessCrash,
            false => Durability::PowerLoss,
        });
        self.stop_on_error(written)?;
        let segment_bytes = self.options.segment_bytes.max(SEGMENT_HEADER_BYTES as u64 + bytes);
        // Until here nothing was changed that the next attempt would not find as it is.
        let spare = if segment_bytes == self.options.segment_bytes {
            self.spares.take()
        } else {
            self.spares.make_of(segment_bytes)
        };
        let spare = self.stop_on_error(spare)?;
        let first = self.next;
        let options = JournalOptions { segment_bytes, ..self.options };
        let begun = begin_segment(self.disk.as_ref(), &spare, first, &options);
        let (file, nonce) = self.stop_on_error(begun)?;
        self.active = file;
        self.nonce = nonce;
        // A segment without a record has the same name, and was replaced.
        if self.active_segment().first == first {
            self.segments.pop_back();
        }
        self.segments.push_back(Segment {
            name: Segment::name_of(first),
            first,
            bytes: segment_bytes,
            used: SEGMENT_HEADER_BYTES as u64,
        });
        Ok(())
    }

    fn retire_segments(&mut self, below: GroupSeq) -> Result<usize, JournalError> {
        let mut kept = Vec::new();
        let mut retired = 0;
        while let Some(after) = self.segments.get(1)
            && (after.first <= below
                || planted::is(Bug::RetiresTooEarly) && after.first.0 <= below.0 + 8)
        {
            let segment = self.segments.pop_front().expect("there are two");
            let name = &segment.name;
            match self.spares.name_for_retired(segment.bytes, kept.len()) {
                Some(spare) => {
                    self.disk.rename(name, &spare).map_err(doing("retiring segment", name))?;
                    kept.push(spare);
                }
                None => self.disk.remove(name).map_err(doing("deleting segment", name))?,
            }
            retired += 1;
        }
        if retired > 0 {
            // Before a spare is overwritten its old name must be gone for good: a power cut could bring it back.
            self.disk.sync_dir().map_err(doing("syncing", "the folder"))?;
            self.spares.keep(kept);
        }
        Ok(retired)
    }
}

/// Whether there is no journal yet, or none any more.
pub fn is_empty(disk: &dyn Disk) -> std::io::Result<bool> {
    Ok(segments_of(&disk.list()?).is_empty())
}

/// Reads like [`Journal::open`], and changes nothing: a torn tail is passed over. Says which group would come next.
///
/// # Errors
/// As for opening.
pub fn read(
    disk: &dyn Disk,
    from: GroupSeq,
    take_in: TakeIn<'_>,
) -> Result<GroupSeq, JournalError> {
    let mut segments = segments_of(&disk.list().map_err(doing("listing", "the folder"))?);
    let tail = read_segments(disk, &mut segments, from.max(GroupSeq::FIRST), take_in)?;
    Ok(tail.map_or(GroupSeq::FIRST, |tail| tail.next))
}

/// Turns a spare file into the segment that starts with `first`. Once its name is there, its header is too.
fn begin_segment(
    disk: &dyn Disk,
    spare: &str,
    first: GroupSeq,
    options: &JournalOptions,
) -> Result<(Box<dyn DiskFile>, u64), JournalError> {
    let name = Segment::name_of(first);
    let beginning = "beginning segment";
    // Odd, hence never the zeros of a new file.
    let seeded = options.nonce_seed.map(|seed| FxBuildHasher.hash_one((seed, first.0)));
    let nonce = match planted::is(Bug::NonceReused) {
        true => 1,
        false => seeded.unwrap_or_else(|| RandomState::new().hash_one(first.0)) | 1,
    };
    let file = disk.open(spare).map_err(doing(beginning, &name))?;
    let header = SegmentHeader { first, nonce, bytes: Some(options.segment_bytes) }.to_bytes();
    file.write_at(0, &header).map_err(doing(beginning, &name))?;
    file.sync_data().map_err(doing(beginning, &name))?;
    disk.rename(spare, &name).map_err(doing(beginning, &name))?;
    if !planted::is(Bug::NamesNotSynced) {
        disk.sync_dir().map_err(doing(beginning, &name))?;
    }
    Ok((file, nonce))
}

fn segments_of(files: &[(String, u64)]) -> VecDeque<Segment> {
    let mut segments: Vec<Segment> = files
        .iter()
        .filter_map(|(name, bytes)| {
            let first = GroupSeq(name.strip_suffix(SUFFIX)?.parse().ok()?);
            Some(Segment { name: name.clone(), first, bytes: *bytes, used: *bytes })
        })
        .collect();
    segments.sort_by_key(|segment| segment.first);
    segments.into()
}

/// Reads from the segment that holds `from` to the end. Older ones are waiting to be retired and are left alone.
fn read_segments(
    disk: &dyn Disk,
    segments: &mut VecDeque<Segment>,
    from: GroupSeq,
    take_in: TakeIn<'_>,
) -> Result<Option<ReadTail>, JournalError> {
    let Some(oldest) = segments.front() else {
        return if from == GroupSeq::FIRST {
            Ok(None)
        } else {
            Err(JournalError::Behind { from, next: GroupSeq::FIRST })
        };
    };
    let Some(start) = segments.iter().rposition(|segment| segment.first <= from) else {
        let segment = oldest.name.clone();
        return Err(JournalError::Missing { from, found: oldest.first, segment });
    };
    let mut tail = None;
    for index in start..segments.len() {
        let follower = segments.get(index + 1).map(|segment| (segment.first, segment.name.clone()));
        let segment = &mut segments[index];
        if follower.is_none() {
            let_go(disk, &segment.name)?;
        }
        let read = read_segment(disk, segment, from, take_in)?;
        segment.used = read.end as u64;
        if let Some((first, follower)) = follower {
            check_junction(segment, &read, first, follower)?;
        }
        tail = Some(read);
    }
    match tail {
        Some(tail) if from > tail.next => Err(JournalError::Behind { from, next: tail.next }),
        tail => Ok(tail),
    }
}

/// A segment was synced before the next one was begun, so it must lead up to it without a gap.
fn check_junction(
    segment: &Segment,
    read: &ReadTail,
    first: GroupSeq,
    follower: String,
) -> Result<(), JournalError> {
    if read.next == first && !read.is_torn {
        return Ok(());
    }
    if read.end == SEGMENT_HEADER_BYTES || read.end as u64 >= segment.bytes {
        return Err(JournalError::Missing { from: read.next, found: first, segment: follower });
    }
    Err(JournalError::Corrupt {
        segment: segment.name.clone(),
        offset: read.end as u64,
        expected: read.next,
        what: "a later segment follows",
    })
}

fn read_segment(
    disk: &dyn Disk,
    segment: &Segment,
    from: GroupSeq,
    take_in: TakeIn<'_>,
) -> Result<ReadTail, JournalError> {
    let name = &segment.name;
    let corrupt = |offset: usize, expected, what| JournalError::Corrupt {
        segment: name.clone(),
        offset: offset as u64,
        expected,
        what,
    };
    let file = disk.open(name).map_err(doing("opening segment", name))?;
    let bytes = file.read().map_err(doing("reading segment", name))?;
    let header = SegmentHeader::from_bytes(&bytes).map_err(|fault| match fault {
        HeaderFault::Newer { version } => {
            let known = record::FORMAT_VERSION;
            JournalError::Newer { segment: name.clone(), version, known }
        }
        HeaderFault::Damaged => corrupt(0, segment.first, "its header can't be read"),
    })?;
    if header.first != segment.first {
        return Err(corrupt(0, segment.first, "its name and its header disagree"));
    }
    if header.bytes.is_some_and(|made| made != bytes.len() as u64) {
        return Err(corrupt(bytes.len(), header.first, "the file was made with another length"));
    }

    let mut end = SEGMENT_HEADER_BYTES;
    let mut next = header.first;
    while let Some(record) = record::read(&bytes, end, header.nonce) {
        if record.seq != next {
            return Err(corrupt(end, next, "another group stands there"));
        }
        if record.seq >= from {
            let taken = take_in(record.seq, &bytes[record.payload]);
            taken.map_err(|source| JournalError::Refused { seq: record.seq, source })?;
        }
        next = next.next();
        end = record.end;
    }

    let behind = record::search(&bytes, end, header.nonce);
    if behind.iter().any(|record| record.durable_below > next) {
        return Err(corrupt(end, next, "a group behind it says that it was durable"));
    }
    let is_torn = !behind.is_empty() || record::begun(&bytes, end, header.nonce);
    let stale_end = record::stale_end(&bytes, &behind, end, header.nonce);
    Ok(ReadTail { name: name.clone(), nonce: header.nonce, next, end, is_torn, stale_end })
}
