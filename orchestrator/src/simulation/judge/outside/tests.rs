//! Each rule on its breach: stories of messages made up by hand, sound ones first.

use super::{Graphs, Known, Stand, backward, ends, forward, judge, keys, story::id_of};
use crate::{
    envelope::{SAGA_ATTEMPT, SAGA_ID, SAGA_LEG, SAGA_RUN, SAGA_STEP},
    simulation::{
        Findings,
        judge::{Effect, Effects},
        process::APP,
    },
};
use dirigent_connectors::{
    Attributes, ChannelKind, Message, Sent, Settle, names,
    simulated::{Place, SimEvent, What},
};
use dirigent_model::{
    definition::{
        Arm, Ends, Graph, Kind, MessageRef, Node, NodeId, OnTimeout, Repeat, Step, WayBack,
    },
    message::Format,
    retry::Retry,
    time::Timestamp,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

const BEGINS: u64 = 1_767_225_600_000;
const RETENTION: Duration = Duration::from_secs(600);

fn on(channel: &str, name: &str) -> MessageRef {
    MessageRef { name: name.into(), channel: channel.into(), format: Format::Json }
}

fn step(name: &str, way_back: WayBack) -> Kind {
    Kind::Step(Box::new(Step {
        command: on("work", &format!("Do-{name}")),
        success: format!("{name}-done"),
        rejection: Some(format!("{name}-refused")),
        reply_within: Duration::from_secs(60),
        retry: Retry::default(),
        status: None,
        way_back,
    }))
}

fn undone(name: &str) -> WayBack {
    WayBack::Compensated {
        command: on("work", &format!("Undo-{name}")),
        success: format!("{name}-undone"),
        reply_within: Duration::from_secs(60),
        retry: Retry::default(),
    }
}

/// A pause of a second, then reserve, then pack and label side by side, then the word that it is cleared, then charge, behind which nothing turns back, then ship or fetch.
fn graph() -> Graph {
    let sequence = |children: &[u16]| Kind::Sequence {
        children: children.iter().map(|child| NodeId(*child)).collect(),
    };
    let arm = |node| Arm { label: "so".into(), node: NodeId(node) };
    let wait = Kind::Wait {
        event: on("events", "Cleared"),
        refusing: Some(on("events", "Objected")),
        within: Duration::from_secs(3_600),
        on_timeout: OnTimeout::Reject,
    };
    let choice = Kind::Choose { arms: vec![arm(10), arm(12)], otherwise: None };
    let nodes = [
        ("root", None, sequence(&[14, 1, 2, 7, 8, 9])),
        ("reserve", Some(0), step("reserve", undone("reserve"))),
        ("side-by-side", Some(0), Kind::All { branches: vec![NodeId(3), NodeId(5)] }),
        ("one", Some(2), sequence(&[4])),
        ("pack", Some(3), step("pack", undone("pack"))),
        ("other", Some(2), sequence(&[6])),
        ("label", Some(5), step("label", undone("label"))),
        ("cleared", Some(0), wait),
        ("charge", Some(0), step("charge", WayBack::Pivot)),
        ("which", Some(0), choice),
        ("by-post", Some(9), sequence(&[11])),
        ("ship", Some(10), step("ship", WayBack::Retriable)),
        ("by-hand", Some(9), sequence(&[13])),
        ("fetch", Some(12), step("fetch", WayBack::Retriable)),
        ("rest", Some(0), Kind::Pause { span: Duration::from_secs(1) }),
    ];
    let node = |(name, parent, kind): (&str, Option<u16>, Kind)| Node {
        name: name.into(),
        parent: parent.map(NodeId),
        kind,
    };
    Graph {
        name: "order".into(),
        version: 1,
        start: on("events", "Placed"),
        repeat: Repeat::Duplicate,
        deadline: None,
        retention: RETENTION,
        cancelled_by: vec![on("events", "Withdrawn")],
        ends: Ends {
            completed: Some(on("events", "Completed")),
            failed: Some(on("events", "Failed")),
        },
        nodes: nodes.into_iter().map(node).collect(),
    }
}

/// A story of one key, told second by second.
#[derive(Default)]
struct Story {
    told: Vec<(usize, SimEvent)>,
    effects: Effects,
    status: Option<&'static str>,
    run: u64,
}

fn story() -> Story {
    Story::default().hears("Placed", "start").passes()
}

impl Story {
    fn tell(mut self, what: What) -> Self {
        let at = Duration::from_secs(self.told.len() as u64);
        self.told.push((0, SimEvent { at, life: 1, what }));
        self
    }

    fn message(&self, channel: &str, name: &str, id: &str) -> Message {
        let now = Timestamp(BEGINS + 1_000 * self.told.len() as u64);
        let attributes = Attributes::new()
            .with(names::ID, id)
            .with(names::TYPE, name)
            .with(names::TIME, now.to_string());
        Message {
            channel: channel.into(),
            kind: ChannelKind::Events,
            key: "80".into(),
            attributes,
            others: vec![],
            body: "{}".into(),
        }
    }

    fn of_saga(&self, mut message: Message, step: &str, leg: &str, attempt: u64) -> Message {
        let attributes = &mut message.attributes;
        attributes.set(SAGA_ID, id_of(&graph(), "80"));
        attributes.set(SAGA_RUN, self.run.to_string());
        attributes.set(SAGA_STEP, step.to_owned());
        attributes.set(SAGA_LEG, leg.to_owned());
        attributes.set(SAGA_ATTEMPT, attempt.to_string());
        attributes.set(names::IDEMPOTENCY_KEY, format!("{step}/{leg}/{}", self.run));
        message
    }

    fn stored(self, message: Message) -> Self {
        let (place, message) = (self.place(), Arc::new(message));
        self.tell(What::Stored { place, message, open: false })
    }

    fn place(&self) -> Place {
        Place { channel: "channel".into(), partition: 0, offset: self.told.len() as u64 }
    }

    /// The orchestrator is handed something, and takes care of it.
    fn handed(self, message: Message) -> Self {
        let (group, place): (Arc<str>, _) = (APP.into(), self.place());
        let handed =
            What::HandedOut { group: group.clone(), place: place.clone(), message: message.into() };
        self.tell(handed).tell(What::Settled { group, place, settle: Settle::Done })
    }

    fn hears(self, name: &str, id: &str) -> Self {
        let event = self.message("events", name, id);
        self.handed(event)
    }

    fn command(&self, step: &str, leg: &str, attempt: u64) -> Message {
        let name = if leg == "do" { format!("Do-{step}") } else { format!("Undo-{step}") };
        let message = self.message("work", &name, &format!("{step}/{leg}/{attempt}/{}", self.run));
        let mut message = self.of_saga(message, step, leg, attempt);
        message.attributes.set(names::SOURCE, format!("/dirigent/{APP}"));
        message
    }

    fn asks_as(self, step: &str, leg: &str, attempt: u64) -> Self {
        let command = self.command(step, leg, attempt);
        self.stored(command)
    }

    fn asks(self, step: &str) -> Self {
        self.asks_as(step, "do", 1)
    }

    fn undoes(self, step: &str) -> Self {
        self.asks_as(step, "compensate", 1)
    }

    fn answers(self, step: &str, leg: &str, name: &str) -> Self {
        let message = self.message("replies", name, &format!("reply/{step}/{leg}/{name}"));
        let reply = self.of_saga(message, step, leg, 1);
        self.handed(reply)
    }

    fn took_effect(mut self, step: &str, done: u64, undone: u64) -> Self {
        let times = |times| Effect { times, order: 0 };
        self.effects.insert(step.into(), (times(done), times(undone)));
        self
    }

    fn done(self, step: &str) -> Self {
        self.answers(step, "do", &format!("{step}-done")).took_effect(step, 1, 0)
    }

    fn undone(self, step: &str) -> Self {
        self.answers(step, "compensate", &format!("{step}-undone")).took_effect(step, 1, 1)
    }

    fn does(self, step: &str) -> Self {
        self.asks(step).done(step)
    }

    fn takes_back(self, step: &str) -> Self {
        self.undoes(step).undone(step)
    }

    fn tells_as(self, name: &str, id: &str) -> Self {
        let mut event = self.message("events", name, id);
        event.attributes.set(names::SOURCE, format!("/dirigent/{APP}"));
        self.stored(event)
    }

    fn tells(self, name: &str) -> Self {
        self.tells_as(name, "end")
    }

    fn stands(mut self, status: &'static str) -> Self {
        self.status = Some(status);
        self
    }

    /// A second goes by.
    fn passes(self) -> Self {
        self.tell(What::Injected { fault: "time" })
    }

    /// What goes by until it is too late for anything.
    fn later(mut self) -> Self {
        for _ in 0..60 {
            self = self.passes();
        }
        self
    }

    /// Everything up to the point of no return.
    fn prepared(self) -> Self {
        self.does("reserve").does("pack").does("label").hears("Cleared", "cleared")
    }

    fn found(self) -> Vec<(&'static str, String)> {
        let graph = graph();
        let graphs = Graphs(vec![(&graph, None)]);
        let id = id_of(&graph, "80");
        let stand = |status: &str| Stand { status: status.into(), run: self.run };
        let known = Known {
            graphs: &graphs,
            stands: self.status.map(|status| (id.clone(), stand(status))).into_iter().collect(),
            effects: &BTreeMap::from([((id, self.run), self.effects)]),
            reads: &|channel| channel == "work",
            lasted: RETENTION / 2,
            begins: Some(BEGINS),
        };
        let mut findings = Findings::default();
        judge(&self.told, &known, &mut findings);
        findings.0.into_iter().map(|finding| (finding.rule, finding.found)).collect()
    }

    #[track_caller]
    fn keeps_all(self) {
        assert_eq!(self.found(), []);
    }

    #[track_caller]
    fn breaks(self, rule: &str, says: &str) {
        let found = self.found();
        let told = found.iter().any(|(broken, what)| *broken == rule && what.contains(says));
        assert!(told, "{rule}: {found:?}");
    }
}

#[test]
fn a_saga_that_completes_breaks_no_rule() {
    story().prepared().does("charge").does("ship").tells("Completed").keeps_all();
    story().prepared().does("charge").tells("Completed").stands("completed").keeps_all();
}

#[test]
fn a_saga_that_turns_back_breaks_no_rule() {
    let refused = || story().prepared().asks("charge").answers("charge", "do", "charge-refused");
    let undone = || refused().takes_back("label").takes_back("pack").takes_back("reserve");
    undone().tells("Failed").stands("compensated").keeps_all();
    // Asked again after a silence, and in doubt in the end.
    let silent = story().does("reserve").asks("pack").asks("label").done("label").later();
    let again = silent.asks_as("pack", "do", 2).later();
    let undone = again.undoes("label").takes_back("pack").undone("label").takes_back("reserve");
    undone.took_effect("pack", 0, 0).tells("Failed").keeps_all();
    story().asks("reserve").later().takes_back("reserve").tells("Failed").keeps_all();
    let objected = story().does("reserve").does("pack").does("label").hears("Objected", "no");
    let undone = objected.takes_back("pack").takes_back("label").takes_back("reserve");
    undone.tells("Failed").keeps_all();
}

#[test]
fn a_saga_that_was_forgotten_and_begun_again_breaks_no_rule() {
    let mut done = story().prepared().does("charge").tells("Completed");
    for _ in 0..RETENTION.as_secs() {
        done = done.passes();
    }
    done.hears("Placed", "start").asks("reserve").stands("blocked").keeps_all();
}

#[test]
fn a_saga_that_is_blocked_tells_of_no_end() {
    let refused = story().prepared().asks("charge").answers("charge", "do", "charge-refused");
    refused.undoes("label").answers("label", "compensate", "Failure").stands("blocked").keeps_all();
}

#[test]
fn one_id_for_two_messages_is_found() {
    let command = story().command("reserve", "do", 1);
    let (mut other, mut elsewhere) = (command.clone(), command.clone());
    other.body = "other".into();
    elsewhere.channel = "elsewhere".into();
    let breaks = |other| story().stored(command.clone()).stored(other);
    breaks(other).breaks(keys::ONE_MESSAGE, "reserve");
    breaks(elsewhere).breaks(keys::ONE_MESSAGE, "reserve");
    let end = story().prepared().does("charge").tells("Completed");
    let mut twice = story().message("events", "Completed", "end");
    twice.attributes.set(names::SOURCE, format!("/dirigent/{APP}"));
    twice.body = "other".into();
    end.stored(twice).breaks(keys::ONE_MESSAGE, "other");
}

#[test]
fn one_key_for_two_effects_is_found() {
    let mut other = story().command("pack", "do", 1);
    other.attributes.set(names::IDEMPOTENCY_KEY, "reserve/do/0");
    story().does("reserve").stored(other).breaks(keys::ONE_EFFECT, "pack");
    let mut changed = story().command("reserve", "do", 2);
    changed.body = "other".into();
    story().asks("reserve").stored(changed).breaks(keys::ONE_EFFECT, "other");
}

#[test]
fn a_further_attempt_may_say_what_its_saga_has_learnt_meanwhile() {
    let learnt = story().does("reserve").asks("pack").asks("label").done("label").later();
    let mut changed = learnt.command("pack", "do", 2);
    changed.body = "other".into();
    learnt.stored(changed).stands("blocked").keeps_all();
}

#[test]
fn an_attempt_that_is_left_out_is_found() {
    story().asks("reserve").asks_as("reserve", "do", 3).breaks(keys::COUNTED, "behind attempt 1");
    story().asks_as("reserve", "do", 2).breaks(keys::COUNTED, "behind attempt 0");
}

#[test]
fn an_attempt_before_the_time_of_the_one_before_is_over_is_found() {
    story().asks("reserve").asks_as("reserve", "do", 2).breaks(keys::IN_TIME, "too soon");
    let failed = story().asks("reserve").answers("reserve", "do", "Failure");
    failed.asks_as("reserve", "do", 2).stands("blocked").keeps_all();
    story().asks("reserve").later().asks_as("reserve", "do", 2).stands("blocked").keeps_all();
}

#[test]
fn a_step_before_its_pause_is_over_is_found() {
    let early = Story::default().tell(What::Injected { fault: "none" });
    let mut command = early.command("reserve", "do", 1);
    command.attributes.set(names::TIME, Timestamp(BEGINS + 1_000).to_string());
    early.hears("Placed", "start").stored(command).breaks(forward::TOO_EARLY, "rest was not over");
}

#[test]
fn a_command_without_a_start_is_found() {
    Story::default().asks("reserve").breaks(forward::NOT_BEGUN, "reserve");
    let later = Story { run: 1, ..story().does("reserve") };
    later.asks("reserve").breaks(forward::NOT_BEGUN, "with 1 starts");
}

#[test]
fn a_command_that_is_none_of_its_saga_is_found() {
    story().asks("nonsense").breaks(forward::UNKNOWN, "nonsense");
    story().prepared().does("charge").undoes("charge").breaks(forward::UNKNOWN, "charge");
}

#[test]
fn a_step_before_what_it_depends_on_is_found() {
    story().asks("reserve").asks("pack").breaks(forward::TOO_EARLY, "reserve was not done");
    let without = story().does("reserve").does("pack").does("label");
    without.does("charge").breaks(forward::TOO_EARLY, "Cleared had not come");
    story().does("pack").breaks(forward::TOO_EARLY, "reserve was not done");
}

#[test]
fn two_ways_of_one_choice_are_found() {
    let both = story().prepared().does("charge").does("ship").does("fetch");
    both.tells("Completed").breaks(forward::ONE_WAY, "ship and fetch");
}

#[test]
fn a_compensation_without_a_reason_is_found() {
    story().does("reserve").undoes("reserve").breaks(backward::WITHOUT_REASON, "reserve");
}

fn objected() -> Story {
    story().does("reserve").does("pack").does("label").hears("Objected", "no")
}

#[test]
fn a_compensation_of_what_was_never_sent_is_found() {
    let early = story().does("reserve").does("pack").hears("Objected", "no");
    early.undoes("label").breaks(backward::NEVER_SENT, "label");
}

#[test]
fn a_compensation_of_what_was_refused_in_time_is_found() {
    let refused = story().does("reserve").asks("pack").answers("pack", "do", "pack-refused");
    refused.undoes("pack").breaks(backward::NO_EFFECT, "pack");
}

#[test]
fn an_attempt_behind_the_compensation_of_its_step_is_found() {
    let undone = objected().takes_back("pack");
    undone.asks_as("pack", "do", 2).breaks(backward::ATTEMPT_BEHIND, "pack");
}

#[test]
fn an_attempt_that_is_sent_once_more_behind_its_compensation_is_none() {
    let command = story().does("reserve").command("pack", "do", 1);
    let early = story().does("reserve").stored(command.clone()).done("pack").does("label");
    let undone = early.hears("Objected", "no").takes_back("pack").stored(command);
    undone.takes_back("label").takes_back("reserve").tells("Failed").keeps_all();
}

#[test]
fn a_step_begun_behind_the_first_compensation_is_found() {
    let early = story().does("reserve").does("pack").hears("Objected", "no").takes_back("pack");
    early.asks("label").breaks(backward::FORWARD_BEHIND, "label");
}

#[test]
fn compensations_in_the_order_of_the_steps_are_found() {
    objected().takes_back("reserve").breaks(backward::REVERSE, "reserve before pack");
    objected().undoes("pack").undoes("reserve").breaks(backward::REVERSE, "reserve before pack");
}

#[test]
fn a_compensation_behind_the_pivot_is_found() {
    let done = story().prepared().does("charge").hears("Withdrawn", "no");
    done.undoes("pack").breaks(backward::BEHIND_PIVOT, "charge is done");
}

#[test]
fn a_start_that_was_confirmed_and_began_nothing_is_found() {
    let start = Arc::new(story().message("events", "Placed", "start"));
    let said = || {
        let answered = What::Answered { message: Arc::clone(&start), sent: Sent::Confirmed };
        Story::default().tell(answered)
    };
    said().breaks(ends::BEGINS, "0 starts were handed out");
    said().hears("Placed", "start").breaks(ends::BEGINS, "1 starts were handed out");
}

#[test]
fn an_end_that_is_not_told_and_one_told_twice_are_found() {
    let done = || story().prepared().does("charge");
    done().stands("completed").breaks(ends::TOLD_ONCE, "0 ends are told of 1");
    done().breaks(ends::TOLD_ONCE, "not known any more");
    let twice = done().tells_as("Completed", "one").tells_as("Completed", "two");
    twice.breaks(ends::TOLD_ONCE, "2 ends are told, and it was asked for 1 times");
    done().tells("Completed").tells("Failed").breaks(ends::TOLD_ONCE, "Completed and Failed");
    // The same message twice is one that was sent again.
    done().tells("Completed").tells("Completed").keeps_all();
}

#[test]
fn an_end_that_is_another_one_than_people_see_is_found() {
    let done = story().prepared().does("charge").tells("Completed");
    done.stands("compensated").breaks(ends::TOLD_TRULY, "Completed is told");
}

#[test]
fn a_saga_that_completed_without_all_of_its_steps_is_found() {
    let told = |story: Story| story.tells("Completed");
    told(story().does("reserve")).breaks(ends::COMPLETED, "charge was never asked for");
    let silent = story().prepared().asks("charge").took_effect("charge", 1, 0);
    told(silent).breaks(ends::COMPLETED, "charge was never answered");
    let without = story().prepared().does("charge").took_effect("pack", 0, 0);
    told(without).breaks(ends::COMPLETED, "pack has not taken effect");
    let undone = story().prepared().does("charge").took_effect("pack", 1, 1);
    told(undone).breaks(ends::COMPLETED, "pack was compensated");
}

#[test]
fn a_saga_that_left_something_standing_is_found() {
    let told = |story: Story| story.tells("Failed");
    let left = objected().takes_back("pack").takes_back("label");
    told(left).breaks(ends::COMPENSATED, "no compensation of reserve was answered");
    let undone = objected().takes_back("pack").takes_back("label").takes_back("reserve");
    told(undone.took_effect("pack", 1, 0)).breaks(ends::COMPENSATED, "pack stands");
    let pivot = story().prepared().asks("charge").answers("charge", "do", "charge-refused");
    let undone = pivot.takes_back("pack").takes_back("label").takes_back("reserve");
    told(undone.took_effect("charge", 1, 0)).breaks(ends::COMPENSATED, "charge, behind which");
}

#[test]
fn a_command_behind_the_end_is_found() {
    let done = story().prepared().does("charge").tells("Completed");
    done.asks("ship").breaks(ends::BEHIND_END, "ship");
}

#[test]
fn an_attempt_that_waited_while_the_one_before_was_answered_may_leave_behind_the_end() {
    let asked = story().prepared().asks("charge").later().done("charge").tells("Completed");
    asked.asks_as("charge", "do", 2).keeps_all();
}
