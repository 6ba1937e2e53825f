//! The circuit of a destination: closed while it answers, open while it does not, half-open to find out.
//!
//! ```text
//! closed ──too many outcomes failed, or all for a while──► open ──its time is over──► half-open ──a probe is answered──► closed
//!                                                    ▲                            │
//!                                                    └── a probe fails: twice as long ──┘
//! ```
//!
//! Pure: outcomes and the time in, whether a command may leave out. Nygard, "Release It!" (2007), names the pattern.

use super::{
    Key,
    outcomes::{Counts, Outcomes},
};
use crate::planted::{self, Bug};
use dirigent_model::{instance::InstanceId, time::Timestamp};
use std::time::Duration;

/// The last outcomes that are looked at, if not said otherwise, beside all that became known since a command that failed had left.
/// Enough that a few lost messages do not open it.
pub const OUTCOMES_MAX: usize = 50;

/// Outcomes before it may open, if not said otherwise. Below it, one saga with all its attempts could open it alone.
pub const OUTCOMES_MIN: usize = 10;

/// Of a hundred outcomes, how many open it, if not said otherwise. A network that loses one message in ten fails one
/// command in five; half is beyond what asking again should heal.
pub const FAILING_PERCENT: u8 = 50;

/// Failures in a row that open it too, if not said otherwise, once they have lasted for [`ROW_LASTS_MIN`] and concern several
/// sagas: where few commands go, the last [`OUTCOMES_MAX`] reach back to when all was well. As many as Envoy's outlier detection
/// and most circuit breakers take.
pub const FAILURES_IN_A_ROW: usize = 5;

/// How long nothing but failures opens it: a destination with many commands has as many failures in a row by chance.
const ROW_LASTS_MIN: Duration = Duration::from_secs(10);

/// How long it is open at first, if not said otherwise: a restart of a service is over by then.
pub const OPEN_MIN: Duration = Duration::from_secs(5);

/// How long it is open at the most, if not said otherwise: so late may the end of an outage be noticed.
pub const OPEN_MAX: Duration = Duration::from_secs(60);

/// Commands let through while it is half-open, if not said otherwise: one of them may be lost for another reason.
pub const PROBES_MAX: usize = 3;

/// How long probes may go without any outcome before others are let through. Their sagas tell sooner, unless they were ended.
const PROBES_WITHIN: Duration = Duration::from_secs(120);

/// When a circuit opens, and how it closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitSettings {
    /// The last outcomes that are looked at; see [`OUTCOMES_MAX`].
    pub outcomes: usize,
    /// Outcomes before it may open; see [`OUTCOMES_MIN`].
    pub outcomes_min: usize,
    /// Of a hundred outcomes, how many failures open it; see [`FAILING_PERCENT`].
    pub failing_percent: u8,
    /// Failures in a row that open it as well; see [`FAILURES_IN_A_ROW`].
    pub failures_in_a_row: usize,
    /// How long it is open at first; see [`OPEN_MIN`]. Twice as long after each probe that failed.
    pub open_min: Duration,
    /// How long it is open at the most; see [`OPEN_MAX`].
    pub open_max: Duration,
    /// Commands let through while it is half-open; see [`PROBES_MAX`].
    pub probes: usize,
}

impl Default for CircuitSettings {
    fn default() -> Self {
        Self {
            outcomes: OUTCOMES_MAX,
            outcomes_min: OUTCOMES_MIN,
            failing_percent: FAILING_PERCENT,
            failures_in_a_row: FAILURES_IN_A_ROW,
            open_min: OPEN_MIN,
            open_max: OPEN_MAX,
            probes: PROBES_MAX,
        }
    }
}

/// What an outcome changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Opened,
    /// A probe failed; open until then.
    Reopened(Timestamp),
    /// With how long it was not closed.
    Closed(Duration),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Closed,
    Open { since: Timestamp, until: Timestamp, lasts: Duration },
    HalfOpen { since: Timestamp, lasts: Duration, probes: Vec<Key>, until: Timestamp },
}

/// Failures with nothing well between them.
#[derive(Debug, Clone, Copy)]
struct Row {
    since: Timestamp,
    first: InstanceId,
    /// One saga with all its attempts says little of its destination.
    concerns_others: bool,
    count: usize,
}

/// One circuit.
#[derive(Debug, Clone)]
pub(super) struct Circuit {
    settings: CircuitSettings,
    state: State,
    outcomes: Outcomes,
    /// The failures since the last command that was answered well.
    row: Option<Row>,
    /// When it last closed again.
    closed_at: Option<Timestamp>,
    opened: u64,
}

impl Circuit {
    pub(super) fn new(settings: CircuitSettings) -> Self {
        Self {
            settings,
            state: State::Closed,
            outcomes: Outcomes::default(),
            row: None,
            closed_at: None,
            opened: 0,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// The name of its state, and since when it is not closed.
    pub(super) fn shown(&self) -> (&'static str, Option<Timestamp>) {
        match &self.state {
            State::Closed => ("closed", None),
            State::Open { since, .. } => ("open", Some(*since)),
            State::HalfOpen { since, .. } => ("half-open", Some(*since)),
        }
    }

    /// How many outcomes are looked at, and how many of them are failures.
    pub(super) fn counts(&self) -> (usize, usize) {
        let Counts { seen, failed } = self.outcomes.last(self.settings.outcomes);
        (seen, failed)
    }

    /// How often it opened, ever.
    pub(super) fn opened(&self) -> u64 {
        self.opened
    }

    /// Whether it was not closed at some time since.
    pub(super) fn was_open_since(&self, instant: Timestamp) -> bool {
        !self.is_closed() || self.closed_at.is_some_and(|closed| closed >= instant)
    }

    /// From when on a command may be let through; `None` for now.
    pub(super) fn holds_until(&self, now: Timestamp) -> Option<Timestamp> {
        match &self.state {
            State::Closed => None,
            State::Open { .. } if planted::is(Bug::CircuitNeverCloses) => {
                Some(now + self.settings.open_max)
            }
            State::Open { until, .. } => Some(*until).filter(|until| *until > now),
            State::HalfOpen { probes, until, .. } => {
                let has_room = probes.len() < self.settings.probes.max(1) || *until <= now;
                // What its probes say is known soon after they were sent, as a rule.
                (!has_room).then(|| (now + self.settings.open_min).min(*until))
            }
        }
    }

    /// A command leaves: of a circuit that is not closed it is a probe.
    pub(super) fn lets_go(&mut self, key: Key, now: Timestamp) {
        match &mut self.state {
            State::Closed => {}
            State::Open { since, lasts, .. } => {
                let (since, lasts) = (*since, *lasts);
                let until = now + PROBES_WITHIN;
                self.state = State::HalfOpen { since, lasts, probes: vec![key], until };
            }
            State::HalfOpen { probes, until, .. } => {
                if *until <= now {
                    probes.clear();
                    *until = now + PROBES_WITHIN;
                }
                probes.push(key);
            }
        }
    }

    /// A command that left at `left` was answered, or was not.
    pub(super) fn hear(
        &mut self,
        key: Key,
        well: bool,
        left: Timestamp,
        now: Timestamp,
    ) -> Option<Change> {
        match &mut self.state {
            State::Closed => {
                self.note(key, well, now);
                if well || !(self.is_failing(left) || self.is_failing_in_a_row(now)) {
                    return None;
                }
                self.row = None;
                let lasts = self.settings.open_min;
                self.state = State::Open { since: now, until: now + lasts, lasts };
                self.opened += 1;
                Some(Change::Opened)
            }
            // Of what left before it opened; only a probe tells how things are now.
            State::Open { .. } => None,
            State::HalfOpen { since, lasts, probes, .. } => {
                let place = probes.iter().position(|probe| *probe == key)?;
                if well {
                    let open = now.since(*since);
                    self.state = State::Closed;
                    self.closed_at = Some(now);
                    self.outcomes.clear();
                    self.note(key, true, now);
                    return Some(Change::Closed(open));
                }
                probes.swap_remove(place);
                let lasts = lasts.saturating_mul(2).min(self.settings.open_max);
                let (since, until) = (*since, now + lasts);
                self.state = State::Open { since, until, lasts };
                Some(Change::Reopened(until))
            }
        }
    }

    /// Nobody waits for this command any more.
    pub(super) fn forget(&mut self, key: &Key) {
        if let State::HalfOpen { probes, .. } = &mut self.state {
            probes.retain(|probe| probe != key);
        }
    }

    /// There is reason to try at once.
    pub(super) fn try_now(&mut self, now: Timestamp) {
        if let State::Open { until, .. } = &mut self.state {
            *until = now.min(*until);
        }
    }

    /// Too many of the outcomes since a command left, and of the last ones, are failures.
    fn is_failing(&self, left: Timestamp) -> bool {
        let Counts { seen, failed } = self.outcomes.since(left, self.settings.outcomes);
        seen >= self.settings.outcomes_min
            && failed * 100 >= seen * usize::from(self.settings.failing_percent)
    }

    /// Nothing was answered well for a while.
    fn is_failing_in_a_row(&self, now: Timestamp) -> bool {
        self.row.is_some_and(|row| {
            row.concerns_others
                && row.count >= self.settings.failures_in_a_row
                && now.since(row.since) >= ROW_LASTS_MIN
        })
    }

    fn note(&mut self, (instance, ..): Key, well: bool, now: Timestamp) {
        if well {
            self.row = None;
        } else {
            let row = self.row.get_or_insert(Row {
                since: now,
                first: instance,
                concerns_others: false,
                count: 0,
            });
            row.count += 1;
            row.concerns_others |= instance != row.first;
        }
        self.outcomes.note(well, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dirigent_model::{definition::NodeId, instance::Leg};

    fn key(number: u16) -> Key {
        (InstanceId::of("a", &number.into()), NodeId(1), Leg::Do)
    }

    fn after(seconds: u64) -> Timestamp {
        Timestamp(1_000_000 + seconds * 1_000)
    }

    /// Of a command that left just before.
    fn hear(circuit: &mut Circuit, key: Key, well: bool, now: Timestamp) -> Option<Change> {
        circuit.hear(key, well, now, now)
    }

    fn opened() -> Circuit {
        let mut circuit = Circuit::new(CircuitSettings::default());
        for number in 1..10 {
            assert_eq!(hear(&mut circuit, key(number), false, after(0)), None);
        }
        assert_eq!(hear(&mut circuit, key(10), false, after(0)), Some(Change::Opened));
        circuit
    }

    #[test]
    fn it_opens_when_too_many_of_the_last_outcomes_failed_and_not_before() {
        let mut circuit = Circuit::new(CircuitSettings::default());
        for number in 0..1_000 {
            let now = after(u64::from(number));
            let change = hear(&mut circuit, key(number), number % 5 < 3, now);
            assert_eq!(change, None, "two in five are not half of them");
        }
        let failed =
            (0..50).find(|more| hear(&mut circuit, key(1), false, after(1_000 + more)).is_some());
        assert_eq!(
            failed,
            Some(6),
            "of the last fifty, twenty had failed, and five more make half"
        );
        assert!(!circuit.is_closed());
    }

    #[test]
    fn a_few_lost_commands_of_many_that_left_together_open_nothing_when_they_run_out_of_time_together()
     {
        let mut circuit = Circuit::new(CircuitSettings::default());
        for number in 0..1_000 {
            assert_eq!(circuit.hear(key(number), true, after(1), after(2)), None);
        }
        for number in 1_000..1_060 {
            assert_eq!(circuit.hear(key(number), false, after(1), after(11)), None);
        }
        assert!(circuit.is_closed(), "sixty of a thousand were lost");
    }

    #[test]
    fn a_busy_destination_that_stops_answering_is_known_soon_after_its_time_limits() {
        let at = |millis: u64| Timestamp(1_000_000 + millis);
        let mut circuit = Circuit::new(CircuitSettings::default());
        for milli in 0..10_000 {
            assert_eq!(circuit.hear(key(1), true, at(milli), at(milli + 20)), None);
        }
        // A thousand a second that nobody answers, with a time limit of five seconds.
        let failed = (10_000..15_000).position(|milli| {
            let number = u16::try_from(milli).unwrap();
            circuit.hear(key(number), false, at(milli), at(milli + 5_000)).is_some()
        });
        assert!(failed.is_some_and(|failed| failed < 200), "{failed:?}");
    }

    #[test]
    fn half_of_a_busy_destination_that_stops_answering_opens_it() {
        let at = |millis: u64| Timestamp(1_000_000 + millis);
        let mut circuit = Circuit::new(CircuitSettings::default());
        // One of two is answered at once, the other one never; each has five seconds.
        let opened = (0..60_000).find(|milli| {
            let answered = circuit.hear(key(1), true, at(*milli), at(milli + 20)).is_some();
            let late = milli.checked_sub(5_000).map(|left| (at(left), at(*milli)));
            let late = late.and_then(|(left, now)| circuit.hear(key(2), false, left, now));
            answered || late.is_some()
        });
        assert!(opened.is_some_and(|milli| milli < 20_000), "{opened:?}");
    }

    #[test]
    fn while_open_nothing_leaves_and_afterwards_a_few_probes_do() {
        let mut circuit = opened();
        assert_eq!(circuit.holds_until(after(1)), Some(after(5)));
        assert_eq!(circuit.holds_until(after(5)), None);
        for number in 0..3 {
            assert_eq!(circuit.holds_until(after(5)), None);
            circuit.lets_go(key(number), after(5));
        }
        assert!(circuit.holds_until(after(5)).is_some(), "three probes are out");
    }

    #[test]
    fn the_first_probe_that_is_answered_closes_it() {
        let mut circuit = opened();
        circuit.lets_go(key(50), after(6));
        assert_eq!(
            hear(&mut circuit, key(50), true, after(7)),
            Some(Change::Closed(Duration::from_secs(7)))
        );
        assert_eq!(circuit.holds_until(after(7)), None);
        assert!(circuit.was_open_since(after(7)) && !circuit.was_open_since(after(8)));
        assert_eq!(circuit.counts(), (1, 0), "what failed before is forgotten");
    }

    #[test]
    fn where_few_commands_go_it_opens_after_failures_in_a_row_of_several_sagas() {
        let mut circuit = Circuit::new(CircuitSettings::default());
        // All was well for long: of the last fifty, half would have to fail.
        (0..50)
            .for_each(|number| assert_eq!(hear(&mut circuit, key(number), true, after(0)), None));
        for minute in 1..5 {
            assert_eq!(hear(&mut circuit, key(minute), false, after(u64::from(minute) * 60)), None);
        }
        assert_eq!(hear(&mut circuit, key(5), false, after(300)), Some(Change::Opened));

        // A fresh one, with fewer outcomes than the rate wants.
        let mut circuit = Circuit::new(CircuitSettings::default());
        for minute in 1..5 {
            assert_eq!(hear(&mut circuit, key(minute), false, after(u64::from(minute) * 60)), None);
        }
        assert_eq!(hear(&mut circuit, key(5), false, after(300)), Some(Change::Opened));
    }

    #[test]
    fn failures_in_a_row_do_not_open_it_if_one_saga_has_them_or_they_are_over_in_a_moment() {
        let well_before = || {
            let mut circuit = Circuit::new(CircuitSettings::default());
            (0..50).for_each(|number| {
                assert_eq!(hear(&mut circuit, key(number), true, after(0)), None)
            });
            circuit
        };
        let mut circuit = well_before();
        for minute in 1..10 {
            assert_eq!(
                hear(&mut circuit, key(1), false, after(minute * 60)),
                None,
                "one saga alone"
            );
        }
        let mut circuit = well_before();
        (1..10).for_each(|number| {
            assert_eq!(hear(&mut circuit, key(number), false, after(5)), None, "by chance");
        });
        let mut circuit = well_before();
        for minute in 1..20 {
            let well = minute % 5 == 0;
            let now = after(u64::from(minute) * 60);
            assert_eq!(hear(&mut circuit, key(minute), well, now), None, "answers come between");
        }
    }

    #[test]
    fn each_probe_that_fails_opens_it_for_twice_as_long_up_to_a_bound() {
        let mut circuit = opened();
        let mut now = after(0);
        let mut waits = Vec::new();
        for number in 0..6 {
            let until = circuit.holds_until(now).unwrap();
            waits.push(until.since(now).as_secs());
            now = until;
            circuit.lets_go(key(number), now);
            let change = hear(&mut circuit, key(number), false, now);
            assert!(matches!(change, Some(Change::Reopened(_))), "{change:?}");
        }
        assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
        assert_eq!(circuit.opened(), 1, "it is the same outage");
    }

    #[test]
    fn what_left_before_it_opened_says_nothing_about_now() {
        let mut circuit = opened();
        assert_eq!(hear(&mut circuit, key(70), true, after(1)), None);
        circuit.lets_go(key(50), after(5));
        assert_eq!(hear(&mut circuit, key(71), false, after(6)), None);
        assert_eq!(hear(&mut circuit, key(72), true, after(6)), None);
        assert!(matches!(hear(&mut circuit, key(50), true, after(7)), Some(Change::Closed(_))));
    }

    #[test]
    fn when_the_broker_is_back_it_is_tried_at_once() {
        let mut circuit = opened();
        circuit.try_now(after(1));
        assert_eq!(circuit.holds_until(after(1)), None);
        circuit.lets_go(key(50), after(1));
        assert!(matches!(hear(&mut circuit, key(50), true, after(1)), Some(Change::Closed(_))));
    }

    #[test]
    fn a_probe_that_nobody_waits_for_makes_room_for_another() {
        let mut circuit = opened();
        (0..3).for_each(|number| circuit.lets_go(key(number), after(5)));
        circuit.forget(&key(1));
        assert_eq!(circuit.holds_until(after(5)), None);
    }

    #[test]
    fn probes_whose_outcome_never_comes_do_not_keep_it_half_open() {
        let mut circuit = opened();
        for number in 0..3 {
            circuit.lets_go(key(number), after(5));
        }
        assert!(circuit.holds_until(after(100)).is_some());
        assert_eq!(circuit.holds_until(after(125)), None);
        circuit.lets_go(key(9), after(125));
        assert!(matches!(hear(&mut circuit, key(9), true, after(126)), Some(Change::Closed(_))));
    }
}
