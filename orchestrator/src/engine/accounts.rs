//! The accounts: how far each partition has been read, what became of its messages, and how many instances stand where.
//!
//! A fold over commit groups, the same while running and at recovery. Stored with each checkpoint.
//!
//! Each message consumed is in exactly one account. What is kept and decided about later is moved: taken from one account and
//! added to another in the same group, so the sums stay exact. [`audit`](super::audit) compares them with what they stand for.

use super::{
    group::{GroupBody, GroupHead, InputDone, LaneSeq},
    kept::KeptChange,
};
use crate::registry::Release;
use dirigent_connectors::Position;
use dirigent_model::{definition::Fingerprint, instance::Status};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What became of a message: exactly one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Count {
    /// It changed an instance.
    Applied,
    /// It had been applied before.
    Duplicate,
    /// It no longer mattered.
    Ignored,
    /// It is kept until its instance can take it.
    Parked,
    /// It is kept until a person decides.
    Quarantined,
    /// It is handed to the broker's channel of dead letters.
    DeadLetter,
}

impl Count {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Applied,
        Self::Duplicate,
        Self::Ignored,
        Self::Parked,
        Self::Quarantined,
        Self::DeadLetter,
    ];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Duplicate => "duplicate",
            Self::Ignored => "ignored",
            Self::Parked => "parked",
            Self::Quarantined => "quarantined",
            Self::DeadLetter => "dead-letter",
        }
    }

    /// Its place in [`ALL`](Self::ALL).
    pub(crate) fn place(self) -> u8 {
        match self {
            Self::Applied => 0,
            Self::Duplicate => 1,
            Self::Ignored => 2,
            Self::Parked => 3,
            Self::Quarantined => 4,
            Self::DeadLetter => 5,
        }
    }
}

/// How many messages became what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Changed an instance.
    pub applied: u64,
    /// Had been applied before.
    pub duplicate: u64,
    /// No longer mattered.
    pub ignored: u64,
    /// Kept until their instances can take them.
    pub parked: u64,
    /// Set aside for a person: kept here, or handed to the broker as dead letters.
    pub quarantined: u64,
    /// Those of the quarantined that are dead letters.
    pub dead_letters: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, count: Count, messages: u64) {
        self.change(count, |known| known.saturating_add(messages));
    }

    /// Moves one message. An account that has none is left as it is: the audit finds the gap.
    pub(crate) fn move_one(&mut self, from: Count, to: Count) {
        self.move_all(from, to, 1);
    }

    /// The same with so many.
    pub(crate) fn move_all(&mut self, from: Count, to: Count, messages: u64) {
        self.change(from, |known| known.saturating_sub(messages));
        self.add(to, messages);
    }

    fn change(&mut self, count: Count, change: impl Fn(u64) -> u64) {
        let field = match count {
            Count::Applied => &mut self.applied,
            Count::Duplicate => &mut self.duplicate,
            Count::Ignored => &mut self.ignored,
            Count::Parked => &mut self.parked,
            Count::Quarantined => &mut self.quarantined,
            Count::DeadLetter => {
                self.dead_letters = change(self.dead_letters);
                &mut self.quarantined
            }
        };
        *field = change(*field);
    }

    /// Messages in one account; dead letters are not among the quarantined here.
    pub fn of(&self, count: Count) -> u64 {
        match count {
            Count::Applied => self.applied,
            Count::Duplicate => self.duplicate,
            Count::Ignored => self.ignored,
            Count::Parked => self.parked,
            Count::Quarantined => self.quarantined.saturating_sub(self.dead_letters),
            Count::DeadLetter => self.dead_letters,
        }
    }

    /// All messages.
    pub fn consumed(&self) -> u64 {
        sum(Count::ALL.iter().map(|count| self.of(*count)))
    }
}

/// The sum of figures. Those that were stored may be any: a sum that they exceed is told by `fsck`, and ends no process.
pub(super) fn sum(figures: impl IntoIterator<Item = u64>) -> u64 {
    figures.into_iter().fold(0, u64::saturating_add)
}

fn one_more(figure: &mut u64) {
    *figure = figure.saturating_add(1);
}

/// Offsets `from..end` of a partition. A message covers itself and the gap before it, where a log holds no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Covered {
    pub from: u64,
    pub end: u64,
}

/// How far one partition has been read: everything below `next`, and stretches above it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The first offset that is not taken care of.
    pub next: u64,
    /// Stretches taken care of above it, by their start, with something between any two: shards finish out of order. No more
    /// than may be unsettled.
    pub above: BTreeMap<u64, u64>,
    /// Offsets that were messages, each counted once.
    pub messages: u64,
    /// Offsets that held no message: what a log skips.
    pub skipped: u64,
    /// Messages taken care of again: a broker had handed them out twice.
    pub repeated: u64,
}

impl Progress {
    /// Whether an offset has been taken care of.
    pub fn covers(&self, offset: u64) -> bool {
        offset < self.next
            || self.above.range(..=offset).next_back().is_some_and(|(_, end)| offset < *end)
    }

    /// Offsets taken care of, gaps included.
    pub fn covered(&self) -> u64 {
        sum([self.next]
            .into_iter()
            .chain(self.above.iter().map(|(from, end)| end.saturating_sub(*from))))
    }

    pub(crate) fn cover(&mut self, covered: Covered) {
        let Covered { from, end } = covered;
        if self.covers(end.saturating_sub(1)) {
            one_more(&mut self.repeated);
            // What came again may stand before a gap that only the other delivery of it knew.
            let before = self.covered();
            self.join(from, end);
            self.skip(self.covered().saturating_sub(before));
            return;
        }
        one_more(&mut self.messages);
        let overlaps = from < self.next || self.above.range(from..end).next().is_some();
        if overlaps || self.covers(from) {
            let before = self.covered();
            self.join(from, end);
            self.skip(self.covered().saturating_sub(before).saturating_sub(1));
        } else {
            self.join(from, end);
            self.skip((end - from).saturating_sub(1));
        }
    }

    fn skip(&mut self, offsets: u64) {
        self.skipped = self.skipped.saturating_add(offsets);
    }

    fn join(&mut self, from: u64, end: u64) {
        if from > self.next {
            // Stretches that overlap or touch become one: above an offset that is long under way there may be many.
            let (mut from, mut end) = (from, end);
            while let Some((&other, &other_end)) = self.above.range(..=end).next_back() {
                if other_end < from {
                    break;
                }
                self.above.remove(&other);
                (from, end) = (from.min(other), end.max(other_end));
            }
            self.above.insert(from, end);
            return;
        }
        self.next = self.next.max(end);
        while let Some(entry) = self.above.first_entry() {
            if *entry.key() > self.next {
                break;
            }
            self.next = self.next.max(entry.remove());
        }
    }
}

/// How many instances stand where.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Ever started.
    pub started: u64,
    /// Ended completed.
    pub completed: u64,
    /// Ended compensated.
    pub compensated: u64,
    /// Ended by an operator as they stood.
    pub killed: u64,
    /// Live with an open incident, now.
    pub blocked: u64,
    /// Live, by release and fingerprint, now.
    pub live: BTreeMap<(String, u32, u64), u64>,
}

impl Tally {
    /// Live instances of releases that are not here, with their number.
    pub fn live_releases(&self) -> impl Iterator<Item = (Release, Fingerprint, u64)> + '_ {
        self.live.iter().filter(|(_, count)| **count > 0).map(
            |((name, version, fingerprint), count)| {
                (
                    Release { name: name.clone(), version: *version },
                    Fingerprint(*fingerprint),
                    *count,
                )
            },
        )
    }

    /// Instances that have not ended.
    pub fn in_flight(&self) -> u64 {
        sum(self.live.values().copied())
    }
}

/// What all groups so far add up to, beside the instances.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounts {
    /// By channel and partition.
    pub progress: BTreeMap<(String, u32), Progress>,
    /// By channel and partition.
    pub counts: BTreeMap<(String, u32), Counts>,
    /// By channel and partition, where the broker remembers: deliveries that were settled, or are about to be.
    pub settled: BTreeMap<(String, u32), u64>,
    /// The number of the next message that is kept.
    pub kept_next: u64,
    /// Of instances.
    pub tally: Tally,
    /// For each lane: the number the next message gets.
    pub lanes_next: Vec<LaneSeq>,
    /// For each lane: all messages below this number are confirmed.
    pub lanes_confirmed: Vec<LaneSeq>,
    /// Commands and events handed to the relay, ever.
    pub sent: u64,
}

impl Accounts {
    /// Adds a group.
    pub(crate) fn fold(&mut self, head: &GroupHead, body: &GroupBody) {
        let lanes = head.lanes.len();
        self.lanes_next.resize(lanes.max(self.lanes_next.len()), 1);
        self.lanes_confirmed.resize(lanes.max(self.lanes_confirmed.len()), 1);
        for (lane, (first, confirmed)) in head.lanes.iter().enumerate() {
            self.lanes_next[lane] = self.lanes_next[lane].max(*first);
            self.lanes_confirmed[lane] = self.lanes_confirmed[lane].max(*confirmed);
        }
        for outgoing in &body.outgoing {
            one_more(&mut self.lanes_next[usize::from(outgoing.lane)]);
            one_more(&mut self.sent);
        }
        for (channel, partition, deliveries) in &head.settled {
            let place = (channel.as_ref().to_owned(), *partition);
            let settled = self.settled.entry(place).or_default();
            *settled = settled.saturating_add(*deliveries);
        }
        let inputs: Vec<&InputDone> = head.shared_inputs.iter().chain(&body.inputs).collect();
        // Neighbours are of the same place as a rule: its name is copied once for all of them.
        for together in inputs
            .chunk_by(|one, other| one.partition == other.partition && one.channel == other.channel)
        {
            self.take_in(together);
        }
        for change in head.kept.iter().chain(&body.kept) {
            self.keep(change);
        }
        for change in &body.changes {
            self.change(&change.tally);
        }
    }

    fn keep(&mut self, change: &KeptChange) {
        if let KeptChange::Put(kept) = change {
            self.kept_next = self.kept_next.max(kept.number.saturating_add(1));
        }
        if let Some(moved) = change.moved() {
            let place = (moved.channel.as_ref().to_owned(), moved.partition);
            self.counts.entry(place).or_default().move_one(moved.from, moved.to);
        }
    }

    fn take_in(&mut self, together: &[&InputDone]) {
        let Some(first) = together.first() else { return };
        let place = (first.channel.as_ref().to_owned(), first.partition);
        if together.iter().any(|input| input.covered.is_some()) {
            let progress = self.progress.entry(place.clone()).or_default();
            together
                .iter()
                .filter_map(|input| input.covered)
                .for_each(|covered| progress.cover(covered));
        }
        let counts = self.counts.entry(place).or_default();
        together.iter().for_each(|input| counts.add(input.count, 1));
    }

    fn change(&mut self, change: &super::group::TallyChange) {
        let tally = &mut self.tally;
        tally.blocked = tally.blocked.saturating_add(u64::from(change.became_blocked));
        tally.blocked -= u64::from(change.became_unblocked).min(tally.blocked);
        if let Some(release) = &change.release {
            let live = tally.live.entry(release.clone()).or_default();
            if change.started {
                one_more(live);
                one_more(&mut tally.started);
            }
            if let Some(ended) = change.ended {
                *live = live.saturating_sub(1);
                match ended {
                    Status::Completed => one_more(&mut tally.completed),
                    Status::Compensated => one_more(&mut tally.compensated),
                    Status::Killed => one_more(&mut tally.killed),
                    Status::Running | Status::TurningBack => {}
                }
            }
        }
    }

    /// Where sources go on.
    pub fn positions(&self) -> Vec<Position> {
        self.progress
            .iter()
            .map(|((channel, partition), progress)| Position {
                channel: channel.clone(),
                partition: *partition,
                next: progress.next,
            })
            .collect()
    }

    /// Messages by channel and what became of them, of all partitions together.
    pub(crate) fn counted_by_channel(&self) -> BTreeMap<String, Vec<(&'static str, u64)>> {
        let mut by_channel: BTreeMap<String, Vec<(&'static str, u64)>> = BTreeMap::new();
        for ((channel, _), counts) in &self.counts {
            let none = || Count::ALL.map(|count| (count.name(), 0)).to_vec();
            let sums = by_channel.entry(channel.clone()).or_insert_with(none);
            for (sum, count) in sums.iter_mut().zip(Count::ALL) {
                sum.1 = sum.1.saturating_add(counts.of(count));
            }
        }
        by_channel
    }

    /// Messages of all partitions.
    pub fn counted(&self) -> Counts {
        let mut sum = Counts::default();
        for counts in self.counts.values() {
            Count::ALL.iter().for_each(|count| sum.add(*count, counts.of(*count)));
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_goes_on_only_over_what_is_taken_care_of() {
        let mut progress = Progress::default();
        progress.cover(Covered { from: 5, end: 6 });
        progress.cover(Covered { from: 3, end: 5 });
        assert_eq!(progress.next, 0);
        assert!(
            progress.covers(4) && progress.covers(5) && !progress.covers(2) && !progress.covers(6)
        );
        progress.cover(Covered { from: 0, end: 3 });
        assert_eq!((progress.next, progress.above.len()), (6, 0));
    }

    #[test]
    fn stored_figures_that_make_no_sense_are_added_up_to_the_most_there_is_and_end_no_process() {
        let most = u64::MAX;
        let mut progress = Progress {
            next: most - 1,
            above: [(5, 3), (most - 1, most)].into(),
            messages: most,
            skipped: most,
            repeated: most,
        };
        assert_eq!(progress.covered(), most);
        progress.cover(Covered { from: 0, end: 1 });
        progress.cover(Covered { from: most - 1, end: most });
        assert_eq!((progress.messages, progress.repeated), (most, most));
        let mut counts =
            Counts { parked: most, ignored: most, dead_letters: 1, ..Counts::default() };
        assert_eq!(counts.consumed(), most);
        // At once, however many.
        counts.move_all(Count::Parked, Count::Ignored, most);
        assert_eq!((counts.parked, counts.ignored), (0, most));
        let live = [(("a".into(), 1, 0), most), (("b".into(), 1, 0), most)].into();
        let tally = Tally { live, ..Tally::default() };
        assert_eq!(tally.in_flight(), most);
    }

    #[test]
    fn stretches_that_touch_are_one_however_long_the_first_offset_is_under_way() {
        let mut progress = Progress::default();
        for offset in [9, 5, 7, 6, 8, 12] {
            progress.cover(Covered { from: offset, end: offset + 1 });
        }
        assert_eq!(progress.above, BTreeMap::from([(5, 10), (12, 13)]));
        assert_eq!((progress.messages, progress.skipped), (6, 0));
        progress.cover(Covered { from: 0, end: 5 });
        assert_eq!((progress.next, progress.above.len()), (10, 1));
    }

    #[test]
    fn gaps_in_a_log_do_not_hold_progress_back() {
        let mut progress = Progress::default();
        progress.cover(Covered { from: 0, end: 1_000_001 });
        progress.cover(Covered { from: 1_000_001, end: 1_000_010 });
        assert_eq!(progress.next, 1_000_010);
    }

    #[test]
    fn covering_twice_changes_nothing() {
        let mut progress = Progress::default();
        for _ in 0..2 {
            progress.cover(Covered { from: 0, end: 2 });
            progress.cover(Covered { from: 4, end: 5 });
        }
        assert_eq!((progress.next, progress.above.len()), (2, 1));
        assert_eq!((progress.messages, progress.skipped, progress.repeated), (2, 1, 2));
    }

    #[test]
    fn what_is_covered_in_any_order_is_messages_and_gaps_and_nothing_else() {
        // Messages at these offsets of a log with gaps; 12 is handed out again before its gap is known to be covered.
        let log = [(0, 1), (1, 5), (5, 6), (6, 13), (13, 14)];
        for turn in 0..5 {
            let mut progress = Progress::default();
            progress.cover(Covered { from: 12, end: 13 });
            for place in 0..5 {
                let (from, end) = log[(place * 2 + turn) % 5];
                progress.cover(Covered { from, end });
            }
            assert_eq!((progress.next, progress.above.len()), (14, 0), "{turn}");
            assert_eq!((progress.messages, progress.repeated), (5, 1), "{turn}");
            assert_eq!(progress.covered(), progress.messages + progress.skipped, "{turn}");
        }
    }
}
