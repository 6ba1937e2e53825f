//! Hearing: time limits count only while what is awaited could have been heard.
//!
//! ```text
//! intake: from which channels its source hands out ─► Hearing ─► shard, when a time is over: does it count, or does it go on?
//!                                                        └─► checkpoint, so that the next process knows when nobody listened
//! ```
//!
//! While the broker of a connector is away nobody hears its replies and events, nor do participants there hear commands. Where
//! only some channels don't deliver (a queue without a leader), only the time stops of what is awaited on them.
//!
//! - A *command's* time begins anew where much of it was not heard: its participant heard nothing either. What was before this
//!   process counts as not heard.
//! - The time of a *wait*, and of an event that is parked until its saga starts, is prolonged by what was not heard of it, no more. A wait
//!   may take months. Therefore gaps outlive the process:
//!   they are written with each checkpoint, with the instant up to which was listened. A gap between two processes begins
//!   there, so it is told too long by what lies between the last checkpoint and the end, never too short.
//!
//! One for each connector that is read.

use crate::store::{Change, Space, Store, StoreError};
use dirigent_connectors::{ChannelSpec, health::Flow};
use dirigent_model::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Gaps in the hearing that are remembered, of a connector and of each of its channels. Of a network that fails more often than
/// this within one time limit, the earliest are forgotten: then time counts that need not.
const GAPS_MAX: usize = 64;

/// A command's time begins anew where one part in so many of it was not heard. Otherwise a network that fails for a moment now
/// and then would keep every command from ever being asked again.
const UNHEARD_SHARE: u32 = 4;

/// While nothing is heard, a wait whose time is over is looked at again after so long at the least, and has so long at the least
/// once something is heard: what was sent meanwhile has to be read first.
const LISTEN_AGAIN: Duration = Duration::from_secs(30);

/// Under which key of the store's single records it lies.
pub(super) const KEY: &[u8] = b"heard";

/// The stored form this release writes: this byte, then one [`Record`] for each connector in postcard.
const FORMAT: u8 = 2;

/// From when to when nothing was heard.
type Gap = (Timestamp, Timestamp);

/// Whether what comes on one connector is heard, and when it was not.
#[derive(Debug)]
pub(crate) struct Hearing(Mutex<Heard>);

#[derive(Debug)]
struct Heard {
    /// What was told last.
    flow: Flow,
    /// When nothing was heard at all. The first gap begins with time itself.
    all: Ear,
    /// When a channel was not heard although others were, so these gaps and those of all never overlap. No more than the channels
    /// that a source reads.
    by_channel: BTreeMap<String, Ear>,
    /// What the processes before knew.
    before: Record,
}

/// When something was not heard, by this process.
#[derive(Debug, Default)]
struct Ear {
    /// Since when it is not heard.
    lost: Option<Timestamp>,
    /// In order.
    gaps: VecDeque<Gap>,
}

/// What a process leaves to the next one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    gaps: Vec<Gap>,
    /// Of channels that were not heard although others were.
    by_channel: BTreeMap<String, Vec<Gap>>,
    /// Up to where it listened.
    heard_until: Timestamp,
}

impl Record {
    /// Without channels that are not read any more.
    pub(crate) fn of(mut self, reads: &[ChannelSpec]) -> Self {
        self.by_channel.retain(|name, _| reads.iter().any(|channel| channel.name == *name));
        self
    }
}

impl Ear {
    fn lose(&mut self, now: Timestamp) {
        self.lost.get_or_insert(now);
    }

    fn hear(&mut self, now: Timestamp) {
        let Some(since) = self.lost.take() else { return };
        if self.gaps.len() == GAPS_MAX {
            self.gaps.pop_front();
        }
        self.gaps.push_back((since, now));
    }

    /// All gaps, the one that is open as far as it goes.
    fn known(&self, now: Timestamp) -> impl Iterator<Item = Gap> {
        self.gaps.iter().copied().chain(self.lost.map(|since| (since, now)))
    }
}

impl Hearing {
    /// Hears nothing yet, and heard nothing since what the last process left: a source takes its time to open, after a killed
    /// owner until that one's place is given away. The first word of its intake ends that.
    pub(crate) fn not_yet(before: Record) -> Self {
        let all = Ear { lost: Some(Timestamp(0)), gaps: VecDeque::new() };
        Self(Mutex::new(Heard { flow: Flow::Nothing, all, by_channel: BTreeMap::new(), before }))
    }

    /// Of a connector that nothing is read from: only what was before does not count.
    pub(crate) fn from(now: Timestamp) -> Self {
        let hearing = Self::not_yet(Record::default());
        hearing.tell(&Flow::All, now);
        hearing
    }

    /// Says what is heard as of now.
    pub(crate) fn tell(&self, flow: &Flow, now: Timestamp) {
        let mut heard = self.lock();
        if heard.flow == *flow {
            return;
        }
        heard.flow = flow.clone();
        let (nothing, ailing): (bool, &[String]) = match flow {
            Flow::All => (false, &[]),
            Flow::AllBut(channels) => (false, channels),
            Flow::Nothing => (true, &[]),
        };
        match nothing {
            true => heard.all.lose(now),
            false => heard.all.hear(now),
        }
        for (channel, ear) in &mut heard.by_channel {
            if !ailing.contains(channel) {
                ear.hear(now);
            }
        }
        for channel in ailing {
            heard.by_channel.entry(channel.clone()).or_default().lose(now);
        }
    }

    /// Whether the time of a command that was sent at `asked`, and whose reply comes on this channel, does not count, so that it begins anew.
    pub(crate) fn begins_anew(&self, channel: &str, asked: Timestamp, now: Timestamp) -> bool {
        let heard = self.lock();
        if heard.is_lost(channel) {
            return true;
        }
        let own = heard.by_channel.get(channel).into_iter().chain([&heard.all]);
        let unheard = unheard_of(own.flat_map(|ear| ear.known(now)), asked, now);
        !unheard.is_zero() && unheard * UNHEARD_SHARE >= now.since(asked)
    }

    /// How much longer is waited for something on this channel that was to end at `until`, counted from `since`; `None` if it had all of its time.
    pub(crate) fn lacks(
        &self,
        channel: &str,
        (since, until): (Timestamp, Timestamp),
        now: Timestamp,
    ) -> Option<Duration> {
        let heard = self.lock();
        let gaps = heard.known(now).chain(heard.known_of(channel, now));
        let listened = now.since(since).saturating_sub(unheard_of(gaps, since, now));
        let lacks = until.since(since).saturating_sub(listened);
        match heard.is_lost(channel) {
            true => Some(lacks.max(LISTEN_AGAIN)),
            false => Some(lacks).filter(|lacks| !lacks.is_zero()),
        }
    }

    fn record(&self, now: Timestamp) -> Record {
        let heard = self.lock();
        let mut gaps: Vec<Gap> = heard.known(now).collect();
        // The one that is open is told by where it began.
        let heard_until = heard.all.lost.and_then(|_| gaps.pop()).map_or(now, |(from, _)| from);
        let channels = heard.before.by_channel.keys().chain(heard.by_channel.keys());
        let mut by_channel = BTreeMap::new();
        for channel in channels {
            by_channel.entry(channel.clone()).or_insert_with(|| last(heard.known_of(channel, now)));
        }
        Record { gaps: last(gaps), by_channel, heard_until }
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heard {
    /// Whether nothing of a channel is heard now.
    fn is_lost(&self, channel: &str) -> bool {
        let own = self.by_channel.get(channel).and_then(|ear| ear.lost);
        self.all.lost.or(own).is_some()
    }

    /// All gaps in which nothing was heard, those of the processes before among them.
    fn known(&self, now: Timestamp) -> impl Iterator<Item = Gap> {
        let left = self.before.heard_until;
        let own = self.all.known(now).map(move |(from, to)| (from.max(left), to));
        self.before.gaps.iter().copied().chain(own)
    }

    /// All gaps of a channel beside those.
    fn known_of(&self, channel: &str, now: Timestamp) -> impl Iterator<Item = Gap> {
        let before = self.before.by_channel.get(channel).into_iter().flatten().copied();
        let own = self.by_channel.get(channel);
        before.chain(own.into_iter().flat_map(move |ear| ear.known(now)))
    }
}

/// Those that are remembered.
fn last(gaps: impl IntoIterator<Item = Gap>) -> Vec<Gap> {
    let mut gaps: Vec<Gap> = gaps.into_iter().collect();
    gaps.drain(..gaps.len().saturating_sub(GAPS_MAX));
    gaps
}

/// How much of the time between two instants fell into gaps.
fn unheard_of(gaps: impl Iterator<Item = Gap>, since: Timestamp, now: Timestamp) -> Duration {
    gaps.map(|(from, to)| to.min(now).since(from.max(since)))
        .fold(Duration::ZERO, Duration::saturating_add)
}

/// What is to be kept of all connectors for the next process.
pub(crate) fn change_of(all: &[Hearing], now: Timestamp) -> Change {
    let records: Vec<Record> = all.iter().map(|hearing| hearing.record(now)).collect();
    let value = postcard::to_extend(&records, vec![FORMAT]);
    Change::put(Space::Meta, KEY, value.expect("numbers can be written by postcard"))
}

/// What the last process left, by connector. Where that can't be read nothing before counts as heard: a wait goes on for longer.
pub(crate) fn recall(store: &dyn Store) -> Result<Vec<Record>, StoreError> {
    let stored = match store.get(Space::Meta, KEY) {
        Err(error) if error.is_final() => return Err(error),
        stored => stored.ok().flatten(),
    };
    let Some(value) = stored else { return Ok(Vec::new()) };
    let read = read(&value);
    if read.is_none() {
        tracing::warn!(
            "When the last process listened to its brokers can't be read; waits for events go on for longer."
        );
    }
    Ok(read.unwrap_or_default())
}

/// From the stored form, if it can be read.
pub(super) fn read(value: &[u8]) -> Option<Vec<Record>> {
    value.strip_prefix(&[FORMAT]).and_then(|rest| postcard::from_bytes(rest).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    /// The channel that is listened to.
    const ON: &str = "shop.replies";

    fn all_but(channel: &str) -> Flow {
        Flow::AllBut([channel.to_owned()].into())
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp(1_767_225_600_000 + seconds * 1_000)
    }

    #[test]
    fn the_form_of_what_was_heard_is_the_kept_one_and_a_later_one_counts_as_not_heard() {
        let record = Record {
            gaps: vec![(at(0), at(5)), (at(60), at(300))],
            by_channel: [(ON.to_owned(), vec![(at(7), at(9))])].into(),
            heard_until: at(400),
        };
        let hearing = Hearing::not_yet(record.clone());
        let mut value = change_of(&[hearing], at(500)).value.unwrap();
        let kept = crate::kept_forms::kept("heard", &value);
        assert_eq!(read(&kept), Some(vec![record]));
        value[0] = FORMAT + 1;
        assert_eq!(read(&value), None);
    }

    fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    fn listening(from: u64) -> Hearing {
        let before = Record { heard_until: at(from), ..Record::default() };
        let hearing = Hearing::not_yet(before);
        hearing.tell(&Flow::All, at(from));
        hearing
    }

    #[test]
    fn time_counts_while_replies_are_heard_and_begins_anew_after_they_were_not() {
        let hearing = Hearing::from(at(0));
        assert!(!hearing.begins_anew(ON, at(0), at(10)));
        hearing.tell(&Flow::Nothing, at(12));
        assert!(hearing.begins_anew(ON, at(11), at(21)), "nothing is heard now");
        hearing.tell(&Flow::All, at(30));
        assert!(hearing.begins_anew(ON, at(25), at(35)), "half of it was not heard");
        assert!(!hearing.begins_anew(ON, at(30), at(40)), "all of it was heard");
    }

    #[test]
    fn stored_gaps_that_add_up_to_more_than_there_can_be_end_no_process() {
        let ever = (Timestamp(0), Timestamp(u64::MAX));
        let gaps = std::iter::repeat_n(ever, 2_000);
        assert_eq!(unheard_of(gaps, ever.0, ever.1), Duration::MAX);
    }

    #[test]
    fn a_process_that_begins_to_listen_heard_nothing_before() {
        let hearing = Hearing::from(at(100));
        assert!(hearing.begins_anew(ON, at(40), at(100)));
        assert!(!hearing.begins_anew(ON, at(100), at(101)));
        assert!(!hearing.begins_anew(ON, at(99), at(109)), "a moment of ten seconds");
    }

    #[test]
    fn the_time_that_a_source_takes_to_open_does_not_count() {
        let hearing = Hearing::not_yet(Record::default());
        assert!(hearing.begins_anew(ON, at(5), at(15)), "nothing is heard yet");
        hearing.tell(&Flow::All, at(15));
        assert!(hearing.begins_anew(ON, at(5), at(16)));
        assert!(!hearing.begins_anew(ON, at(15), at(25)));
    }

    #[test]
    fn a_connection_that_breaks_for_a_moment_again_and_again_keeps_no_command_from_being_asked_again()
     {
        let hearing = Hearing::from(at(0));
        for second in 1..1_000 {
            hearing.tell(&Flow::Nothing, at(second));
            hearing.tell(&Flow::All, at(second) + Duration::from_millis(200));
        }
        assert_eq!(hearing.lock().all.gaps.len(), GAPS_MAX);
        assert!(!hearing.begins_anew(ON, at(990), at(1_000)));
    }

    #[test]
    fn a_wait_is_prolonged_by_what_was_not_heard_of_it_once() {
        let hearing = listening(0);
        assert_eq!(hearing.lacks(ON, (at(0), at(100)), at(100)), None, "all of it was heard");
        hearing.tell(&Flow::Nothing, at(110));
        hearing.tell(&Flow::All, at(130));
        assert_eq!(hearing.lacks(ON, (at(100), at(200)), at(200)), seconds(20));
        assert_eq!(hearing.lacks(ON, (at(200), at(220)), at(220)), None, "it had them");
        assert_eq!(
            hearing.lacks(ON, (at(100), at(200)), at(225)),
            None,
            "looked at late, it has them"
        );
    }

    #[test]
    fn while_nothing_is_heard_a_wait_goes_on_and_has_a_moment_afterwards() {
        let hearing = listening(0);
        hearing.tell(&Flow::Nothing, at(99));
        assert_eq!(hearing.lacks(ON, (at(0), at(100)), at(100)), Some(LISTEN_AGAIN));
        assert_eq!(hearing.lacks(ON, (at(50), at(100)), at(3_600)), Some(LISTEN_AGAIN));
        assert_eq!(hearing.lacks(ON, (at(90), at(190)), at(190)), seconds(91));
        hearing.tell(&Flow::All, at(4_000));
        let listen_again = (at(3_990), at(3_990) + LISTEN_AGAIN);
        assert_eq!(hearing.lacks(ON, listen_again, listen_again.1), seconds(10));
    }

    #[test]
    fn a_wait_ends_though_a_connection_breaks_again_and_again() {
        let hearing = listening(0);
        for second in 1..2_000 {
            hearing.tell(&Flow::Nothing, at(second));
            hearing.tell(&Flow::All, at(second) + Duration::from_millis(500));
        }
        let (mut from, mut until, mut rounds) = (at(1_970), at(1_980), 0);
        while let Some(lacks) = hearing.lacks(ON, (from, until), until) {
            (from, until, rounds) = (until, until + lacks, rounds + 1);
            assert!(rounds < 20, "it goes on for ever");
        }
        assert!(until >= at(1_989), "half of the time is heard: {until}");
    }

    #[test]
    fn gaps_outlive_the_process_and_time_without_one_is_a_gap() {
        let store = MemoryStore::default();
        let first = listening(0);
        first.tell(&Flow::Nothing, at(10));
        first.tell(&Flow::All, at(30));
        store.write(&[change_of(std::slice::from_ref(&first), at(100))]).unwrap();
        let second = Hearing::not_yet(recall(&store).unwrap().remove(0));
        assert_eq!(
            second.lacks(ON, (at(0), at(200)), at(200)),
            seconds(120),
            "20 before, 100 since"
        );
        second.tell(&Flow::All, at(160));
        assert_eq!(second.lacks(ON, (at(0), at(200)), at(200)), seconds(80));
        second.tell(&Flow::Nothing, at(210));
        store.write(&[change_of(&[second], at(250))]).unwrap();
        let third = Hearing::not_yet(recall(&store).unwrap().remove(0));
        third.tell(&Flow::All, at(300));
        assert_eq!(third.lacks(ON, (at(0), at(300)), at(300)), seconds(20 + 60 + 90));
    }

    #[test]
    fn where_no_record_can_be_read_nothing_before_was_heard() {
        let store = MemoryStore::default();
        assert_eq!(recall(&store).unwrap(), []);
        store.write(&[Change::put(Space::Meta, KEY, [FORMAT + 1])]).unwrap();
        assert_eq!(recall(&store).unwrap(), []);
        let hearing = Hearing::not_yet(Record::default());
        hearing.tell(&Flow::All, at(100));
        assert_eq!(hearing.lacks(ON, (at(0), at(90)), at(100)), seconds(90));
    }

    #[test]
    fn where_one_channel_is_not_heard_only_its_time_stops() {
        let hearing = listening(0);
        hearing.tell(&all_but(ON), at(100));
        assert!(hearing.begins_anew(ON, at(100), at(110)));
        assert!(!hearing.begins_anew("payments", at(100), at(110)));
        assert_eq!(hearing.lacks("payments", (at(60), at(160)), at(160)), None);
        assert_eq!(hearing.lacks(ON, (at(60), at(160)), at(160)), seconds(60));
        hearing.tell(&all_but("payments"), at(200));
        assert_eq!(hearing.lacks(ON, (at(60), at(260)), at(260)), seconds(100));
        assert!(!hearing.begins_anew(ON, at(200), at(210)));
        assert!(hearing.begins_anew(ON, at(190), at(210)), "half of it was not heard");
        assert!(hearing.begins_anew("payments", at(200), at(210)));
    }

    #[test]
    fn time_in_which_a_channel_and_then_its_whole_broker_was_not_heard_counts_once() {
        let hearing = listening(0);
        hearing.tell(&all_but(ON), at(10));
        hearing.tell(&Flow::Nothing, at(20));
        hearing.tell(&all_but(ON), at(30));
        hearing.tell(&Flow::All, at(40));
        assert_eq!(hearing.lacks(ON, (at(0), at(100)), at(100)), seconds(30));
        assert_eq!(hearing.lacks("payments", (at(0), at(100)), at(100)), seconds(10));
    }

    #[test]
    fn what_was_not_heard_of_a_channel_outlives_the_process() {
        let store = MemoryStore::default();
        let first = listening(0);
        first.tell(&all_but("old"), at(5));
        first.tell(&all_but(ON), at(10));
        store.write(&[change_of(&[first], at(50))]).unwrap();
        let second = Hearing::not_yet(recall(&store).unwrap().remove(0));
        second.tell(&all_but(ON), at(60));
        second.tell(&Flow::All, at(70));
        assert_eq!(second.lacks(ON, (at(0), at(100)), at(100)), seconds(40 + 10 + 10));
        assert_eq!(second.lacks("payments", (at(0), at(100)), at(100)), seconds(10));
        store.write(&[change_of(&[second], at(100))]).unwrap();
        let third = Hearing::not_yet(recall(&store).unwrap().remove(0));
        third.tell(&Flow::All, at(100));
        assert_eq!(third.lacks(ON, (at(0), at(100)), at(100)), seconds(60));
        assert_eq!(third.lacks("old", (at(0), at(100)), at(100)), seconds(5 + 10));
    }

    #[test]
    fn a_channel_that_fails_again_and_again_is_remembered_within_bounds() {
        let hearing = listening(0);
        for second in 1..1_000 {
            hearing.tell(&all_but(ON), at(second));
            hearing.tell(&Flow::All, at(second) + Duration::from_millis(200));
        }
        assert_eq!(hearing.lock().by_channel[ON].gaps.len(), GAPS_MAX);
        assert!(!hearing.begins_anew(ON, at(990), at(1_000)));
        let record = hearing.record(at(1_000));
        assert_eq!(record.by_channel[ON].len(), GAPS_MAX);
    }
}
