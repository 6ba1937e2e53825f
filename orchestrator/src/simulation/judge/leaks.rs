//! Leaks: once everything has come to rest, nothing waits for what never comes.
//!
//! What goes in: the engine's figures and what lies at the brokers. What comes out: findings. What must be true: all that was to be sent is
//! confirmed, no destination holds or counts a command, nothing is kept for a saga that lives or beyond its time, no delivery is out, and
//! nobody set a message aside without a cause.

use super::{Findings, Judged, Seen};
use crate::{
    destinations::DestinationView,
    engine::{Handle, InstanceView},
    envelope::{DEAD_CHANNEL, DEAD_REASON},
    simulation::process::APP,
};
use dirigent_connectors::{Message, names, simulated::Fate};
use dirigent_model::{definition::Repeat, instance::InstanceId, time::Timestamp};
use std::time::Duration;

pub(super) const LEFT_OVER: &str = "nothing is left over";
/// How long after its time something may still be there: whoever sees to it has its turns.
const OVERDUE_MAX: Duration = Duration::from_secs(60);

/// How long a destination may count a command that was held, or is not answered any more: the longest time of a reply, and more.
pub(in crate::simulation) const FORGETS_WITHIN: Duration = Duration::from_secs(20 * 60);

pub(super) const DEAD_LETTERS: &str = "no message becomes a dead letter";

impl Judged<'_> {
    pub(super) fn leaks(&self, seen: &Seen, findings: &mut Findings) {
        figures(seen, findings);
        for (broker, _) in self.brokers {
            for unsettled in broker.unsettled() {
                findings.add(LEFT_OVER, format!("a delivery is not settled: {unsettled:?}"));
            }
            for letters in self.dead_letters() {
                for letter in broker.messages(&letters).iter().filter(|it| it.fate == Fate::There) {
                    if !self.has_a_cause(&letter.message) {
                        let attributes = &letter.message.attributes;
                        findings.add(DEAD_LETTERS, format!("{attributes:?}"));
                    }
                }
            }
        }
    }

    fn dead_letters(&self) -> Vec<String> {
        let names = self.places.iter().map(|place| place.name.as_str()).chain([APP]);
        names.map(|name| format!("{name}.dead-letters")).collect()
    }

    /// A start that is said again is refused where its saga declares so.
    fn has_a_cause(&self, letter: &Message) -> bool {
        let says = |name| letter.attributes.get(name);
        let refuses = |graph: &dirigent_model::definition::Graph| {
            graph.repeat == Repeat::Reject
                && Some(graph.start.name.as_str()) == says(names::TYPE)
                && Some(graph.start.channel.as_str()) == says(DEAD_CHANNEL)
                && says(DEAD_REASON) == Some("already-started")
        };
        self.simulation.sagas.iter().any(|plan| refuses(plan.graph()))
    }
}

/// What the engine says of itself.
fn figures(seen: &Seen, findings: &mut Findings) {
    let snapshot = &seen.snapshot;
    let confirmed: u64 = snapshot.confirmed.iter().sum();
    if confirmed != snapshot.sent {
        let sent = snapshot.sent;
        findings.add(LEFT_OVER, format!("{sent} messages were sent, {confirmed} are confirmed"));
    }
    let standing = |live: bool| seen.instances.iter().filter(move |it| is_live(it) == live);
    let live = standing(true).count() as u64;
    if live != snapshot.in_flight {
        let told = snapshot.in_flight;
        findings.add(LEFT_OVER, format!("{told} sagas are under way by the figures, {live} are"));
    }
    // An event that comes late waits for a further run of its key, and nobody for it.
    let lives = |id: InstanceId| standing(true).any(|it| it.id == id);
    for kept in seen.kept.iter().filter(|kept| lives(kept.instance)) {
        findings.add(LEFT_OVER, format!("a message is kept from its saga: {kept:?}"));
    }
    let is_over = |until: Timestamp| until + OVERDUE_MAX < seen.at;
    for kept in seen.kept.iter().filter(|kept| kept.standing == "parked") {
        if kept.until.is_some_and(is_over) {
            findings.add(LEFT_OVER, format!("a message is parked beyond its time: {kept:?}"));
        }
    }
    // Those that ended at about the same time are forgotten together, with the last of them.
    let last = standing(false).filter_map(|it| it.kept_until).max();
    for ended in standing(false).filter(|_| last.is_some_and(is_over)) {
        let (saga, key) = (&ended.saga, &ended.key);
        let (until, at) = (ended.kept_until, seen.at);
        let what = format!("{saga} {key} is there at {at}, beyond its retention, {until:?}");
        findings.add(LEFT_OVER, what);
    }
    for ended in standing(false).filter(|it| it.due.is_some() && it.due != it.kept_until) {
        let (saga, key, due) = (&ended.saga, &ended.key, ended.due);
        findings.add(LEFT_OVER, format!("{saga} {key} has ended, and is due at {due:?}"));
    }
    for concern in &seen.concerns {
        findings.add(LEFT_OVER, format!("a concern: {concern}"));
    }
    // Who is blocked may go on asking.
    for destination in seen.destinations.iter().filter(|_| live == 0) {
        let counts = counts(destination);
        if counts != [0; 3] {
            let channel = &destination.channel;
            let what = format!("{channel} has {counts:?} commands held, queued and in flight");
            findings.add(LEFT_OVER, what);
        }
    }
}

/// Commands that a destination knows of: held, queued, in flight.
fn counts(destination: &DestinationView) -> [usize; 3] {
    [destination.held, destination.queued, destination.in_flight.unwrap_or(0)]
}

/// Whether destinations have forgotten what nobody asks for again, which they do in time.
pub(in crate::simulation) fn have_destinations_forgotten(handle: &Handle) -> bool {
    handle.destinations().iter().all(|destination| counts(destination) == [0; 3])
}

fn is_live(instance: &InstanceView) -> bool {
    matches!(instance.status.as_str(), "running" | "turning-back" | "blocked")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Snapshot;
    use dirigent_model::message::Key;
    use serde_json::json;

    fn seen(status: &str, due: u64, kept_until: u64) -> Seen {
        let view = json!({
            "id": InstanceId::of("order", &Key::from("80")), "saga": "order", "version": 1, "key": "80", "run": 0, "status": status, "cause": null,
            "incidents": [], "started_at": 1, "ended_at": 2, "kept_until": kept_until, "due": due, "trace": "", "nodes": [], "data": null,
            "history": [], "history_forgotten": 0,
        });
        Seen {
            snapshot: Snapshot::default(),
            instances: vec![serde_json::from_value(view).unwrap()],
            kept: vec![],
            destinations: vec![],
            concerns: vec![],
            at: Timestamp(100_000),
        }
    }

    fn found(seen: &Seen) -> Vec<String> {
        let mut findings = Findings::default();
        figures(seen, &mut findings);
        findings.0.into_iter().map(|finding| finding.found).collect()
    }

    #[track_caller]
    fn finds(seen: &Seen, says: &str) {
        assert!(found(seen).iter().any(|found| found.contains(says)), "{:?}", found(seen));
    }

    fn rests() -> Seen {
        seen("completed", 500_000, 500_000)
    }

    #[test]
    fn an_engine_at_rest_leaves_nothing_over() {
        assert_eq!(found(&rests()), [""; 0]);
    }

    #[test]
    fn a_message_that_is_not_confirmed_and_a_wrong_figure_are_found() {
        let mut seen = rests();
        seen.snapshot = Snapshot { sent: 3, confirmed: vec![1, 1], ..Snapshot::default() };
        finds(&seen, "3 messages were sent, 2 are confirmed");
        seen.snapshot.in_flight = 1;
        finds(&seen, "1 sagas are under way by the figures, 0 are");
    }

    #[test]
    fn a_time_without_a_live_owner_and_a_saga_beyond_its_retention_are_found() {
        finds(&seen("compensated", 400_000, 500_000), "has ended, and is due");
        finds(&seen("completed", 39_999, 39_999), "beyond its retention");
    }

    #[test]
    fn a_command_that_a_destination_still_counts_is_found() {
        let view = |held, queued, in_flight| DestinationView {
            channel: "inventory".into(),
            state: "closed".into(),
            since: None,
            paused: None,
            next_try: None,
            outcomes: 0,
            failures: 0,
            held,
            oldest_held: None,
            queued,
            in_flight,
            in_flight_max: None,
            rate: None,
            sent: 0,
            given_back: 0,
            opened: 0,
        };
        for destination in [view(1, 0, None), view(0, 1, None), view(0, 0, Some(1))] {
            finds(&Seen { destinations: vec![destination], ..rests() }, "inventory has");
        }
        assert_eq!(found(&Seen { destinations: vec![view(0, 0, Some(0))], ..rests() }), [""; 0]);
    }

    #[test]
    fn a_concern_that_stays_is_found() {
        finds(&Seen { concerns: vec!["OutboxFull".into()], ..rests() }, "a concern: OutboxFull");
    }
}
