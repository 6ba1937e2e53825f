//! What is kept and shown: the history, the stored form, the coverage of a test, the effects as they leave.

use super::{captured, order, sagas::*, secured};
use dirigent_model::{
    decision::Effect,
    definition::{Definition, publish, saga},
    history::{History, What},
    instance::{FORMAT, Instance, Leg, Trace},
    message::{Body, Channel, Event, Format, JsonOnly, Message},
    scenario::Coverage,
    time::Timestamp,
    transition::{self, Start},
};
use serde::{Deserialize, Serialize};
use std::sync::Mutex;

// ---- 22 History ----------------------------------------------------------------------------------------------------

#[test]
fn r22_every_input_leaves_a_line_with_its_cause_what_was_decided_and_what_was_sent() {
    order(80)
        .rejects("authorise-payment", declined())
        .succeeds("reserve-stock", reserved())
        .redelivers()
        .is_ignored("already-settled")
        .compensates("reserve-stock")
        .cancels("ann", "late")
        .is_ignored("has-ended")
        .instance(|instance| {
            let lines = instance.history.lines();
            let what: Vec<What> = lines.iter().map(|line| line.what).collect();
            use What::*;
            assert_eq!(what, [Started, Rejected, Succeeded, Succeeded, Succeeded, Operator]);
            assert_eq!(lines[0].cause.as_deref(), Some("start"));
            assert_eq!(lines[0].sent.len(), 2);
            assert_eq!(lines[2].sent[0].1, Leg::Compensate);
            assert_eq!(lines[5].note.as_deref(), Some("cancel by ann: late"));
        });
}

#[test]
fn r22_long_texts_from_outside_are_cut() {
    let long = "é".repeat(100_000);
    order(80).cancels(&long, &long).instance(|instance| {
        let note = instance.history.lines().pop().and_then(|line| line.note).unwrap();
        assert!(note.chars().count() <= 201);
        assert!(instance.core.cause.as_ref().unwrap().text.chars().count() <= 201);
    });
}

#[test]
fn r22_a_text_is_measured_in_characters_and_a_short_one_of_many_bytes_is_kept_whole() {
    let why = "é".repeat(150);
    order(80).cancels("ann", &why).instance(|instance| {
        let note = instance.history.lines().pop().and_then(|line| line.note).unwrap();
        assert_eq!(note, format!("cancel by ann: {why}"));
        assert_eq!(instance.core.cause.as_ref().unwrap().text, format!("by ann: {why}"));
    });
}

// ---- Stored form and coverage --------------------------------------------------------------------------------------

#[test]
fn a_stored_instance_is_refused_when_it_is_newer_damaged_or_of_another_shape() {
    let (order_definition, trip_definition) = (order_saga().unwrap(), trip_saga().unwrap());
    let mut stored = Vec::new();
    let _ = order(80).instance(|instance| instance.encode(&mut stored));
    let read =
        |bytes: &[u8]| Instance::decode(&order_definition, bytes, History::default()).map(drop);
    read(&stored).unwrap();
    let mut newer = stored.clone();
    newer[0] = FORMAT + 1;
    let reads_up_to = format!("reads up to {FORMAT}");
    assert!(read(&newer).unwrap_err().to_string().contains(&reads_up_to));
    let mut older = stored.clone();
    older[0] = 1;
    assert!(read(&older).unwrap_err().to_string().contains("older than the first release"));
    for length in 0..stored.len() {
        assert!(read(&stored[..length]).is_err(), "{length} bytes were taken for all");
    }
    let other = Instance::decode(&trip_definition, &stored, History::default()).map(drop);
    assert!(other.unwrap_err().to_string().contains("order v1"));
}

#[test]
fn a_leg_and_a_format_read_as_they_are_written() {
    for leg in [Leg::Do, Leg::Compensate, Leg::Status] {
        assert_eq!(Leg::parse(&leg.to_string()), Some(leg));
    }
    assert_eq!(Leg::parse("undo"), None);
    for format in [Format::Json, Format::Avro] {
        assert_eq!(Format::of_content_type(format.content_type()), Some(format));
    }
    let read = Format::of_content_type;
    assert_eq!(read("application/json; charset=utf-8"), Some(Format::Json));
    assert_eq!((read("avro/binary"), read("text/plain")), (Some(Format::Avro), None));
}

#[test]
fn a_body_in_a_format_that_nobody_set_up_is_no_message_and_says_so() {
    let body = Body { format: Format::Avro, bytes: vec![2] };
    let told = body.read::<Note>(&JsonOnly).unwrap_err().to_string();
    assert_eq!(told, "Note as Avro: no codec for this format was set up");
}

#[test]
fn a_scenario_tells_which_compensations_no_test_has_run() {
    let definition = order_saga().unwrap();
    let nothing = Coverage::of(&definition);
    assert_eq!(nothing.compensations_never_run(), ["reserve-stock", "authorise-payment"]);
    let one = order(80)
        .rejects("authorise-payment", declined())
        .succeeds("reserve-stock", reserved())
        .coverage();
    assert_eq!(one.compensations_never_run(), ["authorise-payment"]);
    let other = captured().succeeds("ship", shipped()).coverage();
    let third = secured(1_000).times_out("approval").coverage();
    let both = nothing.merge(&one).merge(&other).merge(&third);
    assert!(both.compensations_never_run().is_empty());
    assert!(!both.missing().contains(&("approval", "timed out")));
    assert!(!both.missing().contains(&("ship", "succeeded")));
    assert!(both.missing().contains(&("approval", "event came")));
    assert!(both.to_string().starts_with("saga `order` v1: "));
}

#[test]
#[should_panic(expected = "the last input was not applied: Ignored(NotAsked)")]
fn a_scenario_fails_on_an_input_that_was_ignored_unawares() {
    order(80).succeeds("ship", shipped()).is_running();
}

#[test]
#[should_panic(expected = "says ReserveStock order=80")]
fn a_scenario_fails_with_its_story() {
    order(80).ends_completed();
}

/// Where the test below panicked.
static PLACE: Mutex<Option<(String, u32)>> = Mutex::new(None);

#[test]
fn a_mistake_in_a_scenario_is_told_at_its_own_line() {
    let others = std::panic::take_hook();
    let here = std::thread::current().id();
    std::panic::set_hook(Box::new(move |panic| match panic.location() {
        Some(place) if std::thread::current().id() == here => {
            *PLACE.lock().unwrap() = Some((place.file().into(), place.line()));
        }
        _ => others(panic),
    }));
    let line = line!() + 1;
    let wrong = std::panic::catch_unwind(|| order(80).succeeds("shipp", shipped()).is_running());
    assert!(wrong.is_err(), "there is no such step");
    let place = PLACE.lock().unwrap().take();
    assert_eq!(place, Some((file!().into(), line)));
}

#[test]
#[should_panic(expected = "the saga has no `shipp`; it has")]
fn a_scenario_names_the_steps_there_are() {
    order(80).succeeds("shipp", shipped()).is_running();
}

// ---- The effects ---------------------------------------------------------------------------------------------------

#[test]
fn a_command_says_its_channel_and_format_and_an_event_its_id() {
    let definition: Definition<Trip> =
        saga("ids", 1, |e: &TripAsked| e.trip.clone(), |_: TripAsked| Trip::default())
            .then(publish("end", |_: &Trip| Note { text: "x".into() }))
            .ends_with(|_| TripEnded { trip: "a".into() }, |_| Note { text: "b".into() })
            .unwrap();
    let body = Body::write(&rome(0), Format::Json, &JsonOnly).unwrap();
    let start =
        Start { key: "rome".into(), run: 0, body: &body, cause: None, trace: Trace::default() };
    let effects = transition::start(&definition, start, Timestamp(1), &JsonOnly).unwrap().effects;
    let ids: Vec<_> = effects
        .iter()
        .map(|effect| match effect {
            Effect::Publish { id, channel, .. } => {
                assert_eq!(channel, "orders");
                *id
            }
            Effect::Command(_) => panic!("no command was declared"),
        })
        .collect();
    // A block may be called `end`: the event of the end is still another message.
    assert_ne!(ids[0], ids[1]);
}

// ---- Numbers -------------------------------------------------------------------------------------------------------

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Weighed {
    parcel: u32,
    weight: f64,
}

impl Message for Weighed {
    const NAME: &'static str = "Weighed";
}

impl Event for Weighed {
    const ON: Channel = Channel::json("scales");
}

/// To a reader that rounds twice each of these is another number than the one that was written, as is one of ten.
#[test]
fn a_number_in_a_sagas_data_does_not_change_by_being_stored_and_read_again() {
    let definition: Definition<Weighed> =
        saga("weighed", 1, |event: &Weighed| event.parcel, |event: Weighed| event)
            .then(publish("tell", Weighed::clone))
            .ends()
            .unwrap();
    for weight in [449.49106478873813, 945.2706955539223, 901.4274576114835, 218.78103733768862] {
        let event = Weighed { parcel: 7, weight };
        let body = Body::write(&event, Format::Json, &JsonOnly).unwrap();
        assert_eq!(body.read::<Weighed>(&JsonOnly).unwrap(), event, "as it travels");
        let start =
            Start { key: "7".into(), run: 0, body: &body, cause: None, trace: Trace::default() };
        let decision = transition::start(&definition, start, Timestamp(1), &JsonOnly).unwrap();
        let (mut stored, mut again) = (Vec::new(), Vec::new());
        decision.instance.encode(&mut stored);
        let read = Instance::decode(&definition, &stored, History::default()).unwrap();
        read.encode(&mut again);
        assert_eq!(again, stored, "as it is kept: {weight}");
        assert!(String::from_utf8_lossy(&stored).contains(&weight.to_string()));
    }
}
