//! Hearing: the time limit of a command counts only while its reply could have been heard.
//!
//! ```text
//! intake: how its source stands ─► Hearing ─► shard, when a command's time is over: begin it anew, or take it for unanswered?
//! ```
//!
//! While the broker of a connector is away nobody hears its replies, nor do participants there hear commands. Commands that were
//! out then would all run out of time and use up their attempts, although nothing failed but the way. One for each connector that
//! is read; in memory only: what a process did not hear itself because it did not live yet, does not count either.

use dirigent_model::time::Timestamp;
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Gaps in the hearing that are remembered. Of a network that fails more often than this within one time limit, the earliest
/// are forgotten: then time counts that need not.
const GAPS_MAX: usize = 64;

/// A command's time begins anew where one part in so many of it was not heard. Otherwise a network that fails for a moment now
/// and then would keep every command from ever being asked again.
const UNHEARD_SHARE: u32 = 4;

/// Whether the replies on one connector are heard, and when they were not.
#[derive(Debug)]
pub(crate) struct Hearing(Mutex<Heard>);

#[derive(Debug)]
struct Heard {
    /// Since when nothing is heard.
    lost: Option<Timestamp>,
    /// From when to when nothing was heard, in order.
    gaps: VecDeque<(Timestamp, Timestamp)>,
}

impl Hearing {
    /// Hears nothing yet, and heard nothing before: a source takes its time to open, after a killed owner until that one's place
    /// is given away. The first word of its intake ends that.
    pub(crate) fn not_yet() -> Self {
        Self(Mutex::new(Heard { lost: Some(Timestamp(0)), gaps: VecDeque::new() }))
    }

    /// Of a connector that nothing is read from: only what was before does not count.
    pub(crate) fn from(now: Timestamp) -> Self {
        let hearing = Self::not_yet();
        hearing.tell(true, now);
        hearing
    }

    /// Says whether replies are heard as of now.
    pub(crate) fn tell(&self, is_heard: bool, now: Timestamp) {
        let mut heard = self.lock();
        match (is_heard, heard.lost) {
            (false, None) => heard.lost = Some(now),
            (true, Some(since)) => {
                heard.lost = None;
                if heard.gaps.len() == GAPS_MAX {
                    heard.gaps.pop_front();
                }
                heard.gaps.push_back((since, now));
            }
            (true, None) | (false, Some(_)) => {}
        }
    }

    /// Whether the time of a command that was sent at `asked` does not count, so that it begins anew.
    pub(crate) fn begins_anew(&self, asked: Timestamp, now: Timestamp) -> bool {
        let heard = self.lock();
        if heard.lost.is_some() {
            return true;
        }
        let within = |(from, to): &(Timestamp, Timestamp)| to.since(asked.max(*from));
        let unheard: Duration = heard.gaps.iter().map(within).sum();
        !unheard.is_zero() && unheard * UNHEARD_SHARE >= now.since(asked)
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp(1_767_225_600_000 + seconds * 1_000)
    }

    #[test]
    fn time_counts_while_replies_are_heard_and_begins_anew_after_they_were_not() {
        let hearing = Hearing::from(at(0));
        assert!(!hearing.begins_anew(at(0), at(10)));
        hearing.tell(false, at(12));
        assert!(hearing.begins_anew(at(11), at(21)), "nothing is heard now");
        hearing.tell(true, at(30));
        assert!(hearing.begins_anew(at(25), at(35)), "half of it was not heard");
        assert!(!hearing.begins_anew(at(30), at(40)), "all of it was heard");
    }

    #[test]
    fn a_process_that_begins_to_listen_heard_nothing_before() {
        let hearing = Hearing::from(at(100));
        assert!(hearing.begins_anew(at(40), at(100)));
        assert!(!hearing.begins_anew(at(100), at(101)));
        assert!(!hearing.begins_anew(at(99), at(109)), "a moment of ten seconds");
    }

    #[test]
    fn the_time_that_a_source_takes_to_open_does_not_count() {
        let hearing = Hearing::not_yet();
        assert!(hearing.begins_anew(at(5), at(15)), "nothing is heard yet");
        hearing.tell(true, at(15));
        assert!(hearing.begins_anew(at(5), at(16)));
        assert!(!hearing.begins_anew(at(15), at(25)));
    }

    #[test]
    fn a_connection_that_breaks_for_a_moment_again_and_again_keeps_no_command_from_being_asked_again()
     {
        let hearing = Hearing::from(at(0));
        for second in 1..1_000 {
            hearing.tell(false, at(second));
            hearing.tell(true, at(second) + Duration::from_millis(200));
        }
        assert_eq!(hearing.lock().gaps.len(), GAPS_MAX);
        assert!(!hearing.begins_anew(at(990), at(1_000)));
    }
}
