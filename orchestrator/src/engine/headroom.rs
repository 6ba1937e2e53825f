//! Headroom: is there room on the disk for what is still to come, and does the disk answer at all?
//!
//! A thread of its own looks every second, since asking a disk that hangs would hang whoever asks.
//!
//! ```text
//! free ≥ headroom            all is well; the ballast, a file that only takes up room, is made
//! free < headroom            nothing is taken in; timers rest, since nobody hears the replies; what was begun goes on
//! free < a quarter of it,    the ballast is given up: checkpoints and the journal's next file have its room
//!   or somebody lacks room
//! ```
//!
//! Work is taken in again once the ballast and the headroom both fit: no swinging to and fro at the border.

use super::{Shared, health::Concern};
use crate::journal::{Disk, Room};
use std::{
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Free bytes below which nothing is taken in, unless set otherwise: four files of the journal, or a few checkpoints.
pub const HEADROOM_BYTES: u64 = 256 * 1024 * 1024;

/// On a small disk the headroom is this share of the whole: a tenth.
pub(crate) const HEADROOM_SHARE: u64 = 10;

/// The ballast is this share of the headroom: half.
const BALLAST_SHARE: u64 = 2;

/// The ballast is given up below this share of the headroom: a quarter.
const LAST_SHARE: u64 = 4;

/// How often the disk is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long the disk may take over one operation before readiness says so.
const SILENT_AFTER: Duration = Duration::from_secs(30);

/// How long the disk may take over one operation before the engine ends: a supervisor can do more than we can.
const HUNG_AFTER: Duration = Duration::from_secs(300);

/// The file that only takes up room. It lies beside the segments and is none of them.
const BALLAST: &str = "ballast";

/// Removes the ballast that a process left which was killed.
pub(crate) fn give_up_ballast(disk: &dyn Disk) {
    let left = disk.remove(BALLAST).is_ok();
    tracing::debug!(left, "The ballast of an earlier run was looked for.");
}

/// What the threads that write know of the disk, and it of them.
#[derive(Debug)]
pub(crate) struct DiskWatch {
    /// Free bytes, when it was last looked; all there are where nobody knows.
    free: AtomicU64,
    /// Nothing is to be taken in.
    low: AtomicBool,
    /// Somebody lacks room: the ballast is to go.
    wanted: AtomicBool,
    begun: Instant,
    journal: Busy,
    store: Busy,
}

/// Since when an operation is under way: milliseconds since the watch began, plus one; 0 for none.
#[derive(Debug, Default)]
struct Busy(AtomicU64);

/// Which of the two that write.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Writer {
    Journal,
    Store,
}

/// Ends with the operation.
pub(crate) struct Asked<'a>(&'a Busy);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.0.store(0, Ordering::Release);
    }
}

impl Default for DiskWatch {
    fn default() -> Self {
        Self {
            free: AtomicU64::new(u64::MAX),
            low: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            begun: Instant::now(),
            journal: Busy::default(),
            store: Busy::default(),
        }
    }
}

impl DiskWatch {
    /// Whether nothing is to be taken in.
    pub(crate) fn is_low(&self) -> bool {
        self.low.load(Ordering::Acquire)
    }

    /// Whether there is room for so many bytes; if not, the ballast goes.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        let has = self.free.load(Ordering::Acquire) >= bytes;
        if !has {
            self.lacks_room();
        }
        has
    }

    /// Somebody found no room: the ballast is to go.
    pub(crate) fn lacks_room(&self) {
        self.wanted.store(true, Ordering::Release);
    }

    /// Notes that the disk is being asked, until the value is dropped.
    pub(crate) fn asks(&self, writer: Writer) -> Asked<'_> {
        let busy = match writer {
            Writer::Journal => &self.journal,
            Writer::Store => &self.store,
        };
        busy.0.store(self.millis() + 1, Ordering::Release);
        Asked(busy)
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }

    /// What the disk has been silent about for the longest.
    fn silence(&self) -> Option<(&'static str, Duration)> {
        let now = self.millis();
        let of = |busy: &Busy, doing| match busy.0.load(Ordering::Acquire) {
            0 => None,
            since => Some((doing, Duration::from_millis((now + 1).saturating_sub(since)))),
        };
        let journal = of(&self.journal, "writing the journal");
        let store = of(&self.store, "writing the store");
        journal.into_iter().chain(store).max_by_key(|(_, silent)| *silent)
    }
}

/// What to do about the room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Nothing has to change.
    Rest,
    /// Take nothing in from now on.
    Pause,
    /// Take nothing in, and give the ballast up.
    GiveUp,
    /// There is room for the ballast: make it, and take in again.
    Resume,
}

/// The thresholds of one disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Marks {
    headroom: u64,
    ballast: u64,
}

impl Marks {
    fn of(headroom_bytes: u64, room: Room) -> Self {
        let headroom = headroom_bytes.min(room.total / HEADROOM_SHARE);
        Self { headroom, ballast: headroom / BALLAST_SHARE }
    }

    /// `wanted`: somebody lacks room. `low`: nothing is taken in as it is.
    fn decide(self, free: u64, has_ballast: bool, low: bool, wanted: bool) -> Step {
        let short = free < self.headroom;
        if has_ballast && (free < self.headroom / LAST_SHARE || wanted) {
            Step::GiveUp
        } else if (has_ballast && low && !short)
            || (!has_ballast && free >= self.headroom + self.ballast)
        {
            Step::Resume
        } else if short && !low {
            Step::Pause
        } else {
            Step::Rest
        }
    }
}

/// Looks at the disk until the engine stops.
pub(crate) struct Watcher {
    pub shared: Arc<Shared>,
    pub disk: Arc<dyn Disk>,
    /// 0 for not looking at the room.
    pub headroom_bytes: u64,
    pub has_ballast: bool,
    /// That the room can't be told is told once.
    tells: bool,
}

impl Watcher {
    /// Takes over the ballast that an earlier run left.
    pub(super) fn new(shared: Arc<Shared>, disk: Arc<dyn Disk>, headroom_bytes: u64) -> Self {
        if headroom_bytes > 0 {
            // One of another size may have been left by other settings, and any is made anew at once.
            give_up_ballast(&*disk);
        }
        Self { shared, disk, headroom_bytes, has_ballast: false, tells: true }
    }

    pub(super) fn run(mut self) {
        while !self.shared.is_stopping() {
            self.step();
            std::thread::park_timeout(LOOK_EVERY);
        }
    }

    /// Looks once.
    pub(super) fn step(&mut self) {
        match self.disk.room() {
            Ok(Some(room)) if self.headroom_bytes > 0 => self.look(room),
            Ok(_) => {}
            Err(error) if self.tells => {
                self.tells = false;
                tracing::warn!(%error, "The room on the disk can't be told; nothing pauses for it.");
            }
            Err(_) => {}
        }
        self.listen();
    }

    fn look(&mut self, room: Room) {
        let watch = &self.shared.disk;
        watch.free.store(room.free, Ordering::Release);
        let marks = Marks::of(self.headroom_bytes, room);
        let wanted = watch.wanted.swap(false, Ordering::AcqRel);
        match marks.decide(room.free, self.has_ballast, watch.is_low(), wanted) {
            Step::Rest => {}
            Step::Pause => watch.low.store(true, Ordering::Release),
            Step::GiveUp => {
                watch.low.store(true, Ordering::Release);
                match self.disk.remove(BALLAST) {
                    Ok(()) => {
                        self.has_ballast = false;
                        tracing::warn!(
                            bytes = marks.ballast,
                            "The ballast was given up, so that what was begun can be finished."
                        );
                    }
                    Err(error) => tracing::warn!(%error, "The ballast could not be given up."),
                }
            }
            Step::Resume => {
                if !self.has_ballast {
                    match self.disk.reserve(BALLAST, marks.ballast) {
                        Ok(()) => self.has_ballast = true,
                        // Not every file system can; the headroom alone has to do there.
                        Err(error) => tracing::debug!(%error, "No ballast was made."),
                    }
                }
                watch.low.store(false, Ordering::Release);
            }
        }
        if watch.is_low() {
            let wanted_bytes = marks.headroom + if self.has_ballast { 0 } else { marks.ballast };
            self.shared.health.raise(Concern::DiskLow { free_bytes: room.free, wanted_bytes });
        } else {
            self.shared.health.clear(|concern| matches!(concern, Concern::DiskLow { .. }));
        }
    }

    /// Tells of a disk that does not answer, and ends the engine when it never does.
    fn listen(&self) {
        let silence = self.shared.disk.silence();
        match silence.filter(|(_, silent)| *silent >= SILENT_AFTER) {
            Some((doing, silent)) => {
                let seconds = silent.as_secs();
                self.shared.health.raise(Concern::DiskSilent { doing: doing.into(), seconds });
                if silent >= HUNG_AFTER && !self.shared.is_stopping() {
                    let text = format!(
                        "the disk has not answered for {seconds} s while {doing}; check it, then start again"
                    );
                    self.shared.fail("The disk hangs", text.into());
                }
            }
            None => {
                self.shared.health.clear(|concern| matches!(concern, Concern::DiskSilent { .. }));
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        // Whoever works at rest needs no ballast, and the room may be what the next start lacks.
        let kept = self.has_ballast && self.disk.remove(BALLAST).is_err();
        let failed = self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        tracing::debug!(kept, failed, "The disk is no longer looked at.");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKS: Marks = Marks { headroom: 100, ballast: 50 };

    #[test]
    fn the_headroom_is_what_was_set_or_a_tenth_of_a_small_disk() {
        let of = |total| Marks::of(256, Room { free: 0, total });
        assert_eq!(of(10_000), Marks { headroom: 256, ballast: 128 });
        assert_eq!(of(1_000), MARKS);
    }

    #[test]
    fn a_disk_that_fills_up_and_is_cleared_pauses_gives_up_its_ballast_and_resumes_once() {
        // Free bytes, and what is decided, as the disk fills by others and is cleared again.
        let story = [
            (1_000, Step::Resume),
            (120, Step::Rest),
            (99, Step::Pause),
            (60, Step::Rest),
            (24, Step::GiveUp),
            (74, Step::Rest),
            (120, Step::Rest),
            (149, Step::Rest),
            (150, Step::Resume),
            (100, Step::Rest),
        ];
        let (mut has_ballast, mut low) = (false, false);
        for (free, expected) in story {
            let step = MARKS.decide(free, has_ballast, low, false);
            assert_eq!(step, expected, "{free} bytes free");
            match step {
                Step::Rest => {}
                Step::Pause => low = true,
                Step::GiveUp => (has_ballast, low) = (false, true),
                Step::Resume => (has_ballast, low) = (true, false),
            }
        }
    }

    #[test]
    fn whoever_lacks_room_gets_that_of_the_ballast() {
        assert_eq!(MARKS.decide(90, true, true, true), Step::GiveUp);
        assert_eq!(MARKS.decide(90, false, true, true), Step::Rest);
    }

    #[test]
    fn an_operation_under_way_is_heard_of_until_it_ends() {
        let watch = DiskWatch::default();
        assert_eq!(watch.silence(), None);
        let asked = watch.asks(Writer::Store);
        assert_eq!(watch.silence().map(|(doing, _)| doing), Some("writing the store"));
        drop(asked);
        assert_eq!(watch.silence(), None);
    }
}
