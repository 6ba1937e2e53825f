//! Of the gate: what it lets leave, what it knows of those that wait, and what it forgets.

use super::{super::Rate, *};
use crate::destinations::CircuitSettings;
use dirigent_model::{
    definition::NodeId,
    instance::{InstanceId, Leg},
};

const NOW: Timestamp = Timestamp(1_000_000);

fn key(number: u16) -> Key {
    (InstanceId::of("a", &number.into()), NodeId(1), Leg::Do)
}

fn asked(number: u16) -> Asked {
    (key(number), 0, 1)
}

fn out(asked_at: Timestamp) -> Stage {
    Stage::UnderWay { asked_at, may_wait: true }
}

/// Of a destination whose answers are awaited for ten seconds.
fn gate(protection: Protection) -> Gate {
    Gate::new(protection, Duration::from_secs(10))
}

fn limited(rate: Option<u32>, in_flight_max: Option<usize>) -> Gate {
    let rate = rate.map(|per_second| Rate { per_second, burst: 1 });
    gate(Protection { rate, in_flight_max, ..Protection::default() })
}

fn open() -> Gate {
    let mut gate = gate(Protection::default());
    for number in 0..10 {
        gate.hear(key(number), false, NOW, NOW);
    }
    gate
}

#[test]
fn no_more_are_in_flight_than_may_be_and_an_answer_lets_the_next_one_go() {
    let mut gate = limited(None, Some(2));
    assert_eq!(gate.admit(key(1), NOW), Admission::Leaves);
    assert_eq!(gate.admit(key(2), NOW), Admission::Leaves);
    assert_eq!(gate.admit(key(3), NOW), Admission::Waits);
    assert_eq!(gate.admit(key(2), NOW), Admission::Leaves, "another attempt is the same one");
    gate.hear(key(1), false, NOW, NOW);
    assert_eq!(gate.admit(key(3), NOW), Admission::Leaves);
    assert_eq!(gate.admit(key(4), NOW), Admission::Waits);
    gate.forget(key(2));
    assert_eq!(gate.admit(key(4), NOW), Admission::Leaves);
    assert_eq!(gate.view("a", NOW).in_flight, Some(2));
}

#[test]
fn a_command_that_left_after_its_step_was_settled_takes_no_place_for_long() {
    let mut gate = limited(None, Some(1));
    assert_eq!(gate.admit(key(1), NOW), Admission::Leaves);
    assert_eq!(gate.admit(key(2), NOW), Admission::Waits, "its first attempt had left before");
    // That one is answered after all: its step is settled while the second attempt waits for its turn.
    gate.hear(key(2), true, NOW, NOW);
    gate.hear(key(1), true, NOW, NOW);
    assert_eq!(gate.admit(key(2), NOW), Admission::Leaves);
    assert_eq!(gate.admit(key(3), NOW), Admission::Waits);
    let within = NOW + Duration::from_secs(69);
    assert_eq!(gate.admit(key(3), within), Admission::Waits, "it may be answered yet");
    let later = NOW + Duration::from_secs(70);
    assert_eq!(gate.admit(key(3), later), Admission::Leaves);
    assert_eq!(gate.view("a", later).in_flight, Some(1));
}

#[test]
fn a_command_whose_answer_nobody_could_hear_keeps_its_place() {
    let mut gate = limited(None, Some(1));
    assert_eq!(gate.admit(key(1), NOW), Admission::Leaves);
    let mut now = NOW;
    for _ in 0..100 {
        now = now + Duration::from_secs(10);
        gate.keep_in_flight(key(1), now);
        gate.keep_in_flight(key(3), now);
        assert_eq!(gate.admit(key(2), now), Admission::Waits);
    }
    gate.hear(key(1), true, now, now);
    assert_eq!(gate.admit(key(2), now), Admission::Leaves);
}

#[test]
fn what_waits_for_its_turn_is_not_late() {
    let mut gate = limited(Some(1), None);
    assert_eq!(gate.admit(key(1), NOW), Admission::Leaves);
    assert_eq!(gate.admit(key(2), NOW), Admission::Waits);
    gate.queue(asked(2));
    let late = NOW + Duration::from_secs(3_600);
    assert_eq!(gate.at_due(&asked(1), out(NOW), late), None);
    assert_eq!(gate.at_due(&asked(2), out(NOW), late), Some((Hold::Queued, late)));
    let other = (key(2), 0, 2);
    assert_eq!(gate.at_due(&other, out(NOW), late), None, "another attempt of it has left");
    assert_eq!(gate.admit(key(2), late), Admission::Leaves);
    assert!(gate.at_due(&asked(2), out(NOW), late).is_some(), "nobody has confirmed it");
    gate.confirmed_late(&asked(2), late);
    assert_eq!(gate.at_due(&asked(2), out(late), late), None);
}

#[test]
fn the_time_of_what_was_confirmed_late_begins_anew_once_and_soon_enough_it_counts() {
    let mut gate = gate(Protection { circuit: None, ..Protection::default() });
    let at = |seconds| NOW + Duration::from_secs(seconds);
    gate.queue(asked(1));
    gate.confirmed_late(&asked(1), at(9));
    assert_eq!(gate.at_due(&asked(1), out(NOW), at(10)), Some((Hold::Queued, at(10))));
    assert_eq!(gate.at_due(&asked(1), out(at(10)), at(20)), None, "its participant had its time");
    gate.confirmed_late(&asked(2), at(2));
    assert_eq!(gate.at_due(&asked(2), out(NOW), at(10)), None, "most of it was its participant's");
    let (next, run) = ((key(1), 0, 2), (key(1), 1, 1));
    assert_eq!(gate.at_due(&next, out(NOW), at(10)), None, "of another attempt it says nothing");
    assert_eq!(gate.at_due(&run, out(NOW), at(10)), None, "nor of another run");
    gate.hear(key(1), true, at(11), at(11));
    assert_eq!(gate.at_due(&asked(1), out(NOW), at(10)), None, "it was answered");
}

#[test]
fn whoever_turns_back_does_not_wait_for_a_broker_that_confirms_nothing() {
    let mut gate = gate(Protection { circuit: None, ..Protection::default() });
    let turns_back = Stage::UnderWay { asked_at: NOW, may_wait: false };
    let late = NOW + Duration::from_secs(10);
    gate.queue(asked(1));
    assert!(gate.at_due(&asked(1), turns_back, late).is_some(), "it will leave soon");
    gate.rests(true);
    assert_eq!(gate.at_due(&asked(1), turns_back, late), None);
    assert!(gate.at_due(&asked(1), out(NOW), late).is_some(), "forward it waits");
    gate.rests(false);
    assert!(gate.at_due(&asked(1), turns_back, late).is_some());
}

#[test]
fn as_many_late_commands_are_known_as_there_is_room_for() {
    let mut gate = gate(Protection { circuit: None, ..Protection::default() });
    let of = |number: u64| ((InstanceId::of("a", &number.into()), NodeId(1), Leg::Do), 0, 1);
    let many = LATE_KNOWN_MAX as u64;
    (0..many + 1).for_each(|number| gate.confirmed_late(&of(number), NOW));
    assert_eq!(gate.late.len(), LATE_KNOWN_MAX);
    gate.confirmed_late(&of(7), NOW);
    assert_eq!(gate.late.len(), LATE_KNOWN_MAX, "one that is known stays known");
    gate.confirmed_late(&of(many + 1), NOW + Duration::from_secs(70));
    assert_eq!(gate.late.len(), 1, "nobody was heard of for too long");
}

#[test]
fn while_its_circuit_is_open_commands_are_given_back_and_nothing_is_late() {
    let mut gate = open();
    let Admission::GivenBack(until) = gate.admit(key(1), NOW) else { panic!("it left") };
    assert!(until >= NOW + Duration::from_secs(5), "{until}");
    assert!(matches!(gate.at_due(&asked(2), out(NOW), NOW), Some((Hold::Left, _))));
    assert!(matches!(gate.at_due(&asked(3), Stage::Resting, NOW), Some((Hold::GivenBack, _))));
    assert!(gate.held_until(key(4), NOW).is_some());
    let view = gate.view("a", NOW);
    assert_eq!((view.state.as_str(), view.held, view.oldest_held), ("open", 4, Some(NOW)));
    // Its time is over: whoever asks first is a probe, and what was lost meanwhile is not late either.
    let later = NOW + Duration::from_secs(5);
    assert_eq!(gate.at_due(&asked(1), Stage::Resting, later), None);
    assert_eq!(gate.admit(key(1), later), Admission::Leaves);
    assert!(gate.hear(key(1), true, later, later).is_some());
    assert_eq!(gate.at_due(&asked(2), out(NOW), later), Some((Hold::Left, later)));
    let after = later + Duration::from_secs(1);
    assert_eq!(gate.at_due(&asked(2), out(after), after), None);
}

#[test]
fn an_operators_pause_holds_what_a_closed_circuit_would_let_go() {
    let mut gate = gate(Protection { circuit: None, ..Protection::default() });
    assert!(gate.is_free(NOW));
    let paused = Paused { by: "ann".into(), why: "repair".into(), since: NOW };
    gate.pause(Some(paused));
    let Admission::GivenBack(soon) = gate.admit(key(1), NOW) else { panic!("it left") };
    assert!(soon.since(NOW) <= Duration::from_millis(1_250), "{soon}");
    let late = NOW + Duration::from_secs(86_400);
    let Admission::GivenBack(until) = gate.admit(key(1), late) else { panic!("it left") };
    assert!(until.since(late) >= Duration::from_secs(30), "{until}");
    assert_eq!(gate.view("a", late).state, "paused");
    gate.pause(None);
    assert_eq!(gate.admit(key(1), late), Admission::Leaves);
}

#[test]
fn many_that_were_held_come_back_one_after_another() {
    let mut gate = open();
    let instants: Vec<Timestamp> = (0..10_000)
        .map(|number| match gate.admit(key(number), NOW) {
            Admission::GivenBack(until) => until,
            other => panic!("{other:?}"),
        })
        .collect();
    let from = NOW + Duration::from_secs(5);
    let last = *instants.iter().max().unwrap();
    assert!(instants.iter().all(|until| *until >= from));
    assert!(last.since(from) > Duration::from_secs(8), "{last}");
    for second in 0..11 {
        let (begin, end) = (Duration::from_secs(second), Duration::from_secs(second + 1));
        let here = instants.iter().filter(|at| (begin..end).contains(&at.since(from))).count();
        assert!(here < 4_000, "{here} in second {second}");
    }
}

#[test]
fn without_a_circuit_failures_hold_nothing() {
    let mut gate = gate(Protection { circuit: None, ..Protection::default() });
    for number in 0..1_000 {
        gate.hear(key(number), false, NOW, NOW);
    }
    assert!(gate.is_free(NOW));
    assert_eq!(gate.at_due(&asked(1), out(NOW), NOW), None);
}

#[test]
fn held_commands_that_nobody_asks_for_again_are_forgotten() {
    let settings = CircuitSettings { open_min: Duration::from_secs(1), ..Default::default() };
    let mut gate = gate(Protection { circuit: Some(settings), ..Default::default() });
    for number in 0..10 {
        gate.hear(key(number), false, NOW, NOW);
    }
    gate.admit(key(1), NOW);
    assert_eq!(gate.view("a", NOW + Duration::from_secs(60)).held, 1);
    assert_eq!(gate.view("a", NOW + Duration::from_secs(70)).held, 0);
    assert!(!gate.is_free(NOW), "its circuit is still open");
}
