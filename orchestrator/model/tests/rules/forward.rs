//! The way forward: how a saga ends, starts once, and takes only what it awaits.

use super::{captured, order, sagas::*, secured, trip};
use dirigent_model::{
    decision::{Input, Reply, Unreadable},
    definition::{OnTimeout, all, choose, pause, publish, saga, wait},
    instance::{EARLY_EVENTS_MAX, InstanceId, Leg, NodeState, Trace},
    message::{Body, Failure, Format, JsonOnly, Key, Message},
    scenario::{Scenario, passing, scenario},
    time::Timestamp,
    transition::{self, Start},
};

// ---- Ends, and the way forward -------------------------------------------------------------------------------------

#[test]
fn an_order_goes_its_way_and_tells_of_its_end() {
    order(80)
        .says(&["ReserveStock order=80", "AuthorisePayment order=80"])
        .succeeds("reserve-stock", reserved())
        .says(&[])
        .is_running()
        .succeeds("authorise-payment", authorised())
        .says(&["CapturePayment hold=9"])
        .succeeds("capture-payment", PaymentCaptured {})
        .says(&["ShipOrder order=80 reservation=3"])
        .succeeds("ship", shipped())
        .says(&["publish OrderCompleted order=80 tracking=T1"])
        .ends_completed()
        .data(|order| assert_eq!(order.tracking, "T1"));
}

#[test]
fn a_rejection_waits_for_the_other_branch_and_then_compensates_it() {
    order(80)
        .rejects("authorise-payment", declined())
        .says(&[])
        .succeeds("reserve-stock", reserved())
        .says(&["compensate ReleaseStock reservation=3"])
        .compensates("reserve-stock")
        .says(&["publish OrderFailed reason=card"])
        .ends_compensated("card");
}

#[test]
fn once_ended_nothing_changes() {
    let ended = |saga: Scenario<Order>| {
        saga.succeeds("ship", shipped())
            .is_ignored("has-ended")
            .cancels("ann", "too late")
            .is_ignored("has-ended")
            .receives(OrderWithdrawn { order: 80 })
            .is_ignored("has-ended")
            .unsent("ship", "no route")
            .is_ignored("has-ended")
            .kills("ann", "for good")
            .is_ignored("has-ended")
            .after(seconds(10_000_000))
            .says(&[])
    };
    ended(captured().succeeds("ship", shipped())).ends_completed();
    ended(order(80).kills("ann", "test")).ends_killed();
}

#[test]
fn a_kill_leaves_everything_as_it_stands_and_tells_nobody() {
    secured(80).kills("ann", "duplicate order").says(&[]).ends_killed().instance(|instance| {
        let cause = instance.core.cause.as_ref().unwrap();
        assert_eq!(cause.text, "killed by ann: duplicate order");
        assert!(instance.core.nodes.iter().any(|state| matches!(state, NodeState::Done(Some(_)))));
    });
}

#[test]
fn every_kind_of_block_can_lie_in_every_other() {
    trip(2)
        .says(&["Book place=visa"])
        .succeeds("visa", booked(1))
        .says(&["Book place=flight", "Book place=hotel"])
        .succeeds("hotel", booked(2))
        .says(&["Book place=single", "Book place=double"])
        .succeeds("flight", booked(3))
        .says(&["Book place=taxi"])
        .receives(ready(7))
        .says(&["publish Note text=rome"])
        .succeeds("double", booked(4))
        .succeeds("single", booked(5))
        .times_out("rest")
        .says(&[])
        .succeeds("taxi", booked(6))
        .says(&["Book place=insurance"])
        .succeeds("insurance", booked(7))
        .receives(ready(8))
        .says(&["Book place=last"])
        .succeeds("last", booked(8))
        .says(&["publish TripEnded trip=rome"])
        .ends_completed()
        .data(|trip| assert_eq!((&*trip.pax, trip.codes.len()), (&[7, 8][..], 8)));
}

#[test]
fn a_choice_is_recorded_when_first_asked_and_never_asked_again() {
    // No legs: on foot, and no insurance.
    trip(0)
        .succeeds("visa", booked(1))
        .succeeds("flight", booked(2))
        .says(&["publish Note"])
        .instance(|instance| {
            let chosen = |place| instance.core.nodes.contains(&NodeState::Chosen(place));
            assert!(chosen(Some(2)) && !chosen(None));
        });
}

#[test]
fn a_wait_that_may_proceed_lets_its_branch_join_after_its_time() {
    trip(1)
        .succeeds("visa", booked(1))
        .succeeds("flight", booked(2))
        .succeeds("bus", booked(3))
        .succeeds("hotel", booked(4))
        .succeeds("single", booked(5))
        .succeeds("double", booked(6))
        .says(&[])
        .times_out("pax-early")
        .says(&["publish Note"])
        .times_out("rest")
        .says(&["Book place=insurance"]);
}

#[test]
fn branches_of_nothing_but_what_is_done_at_once_join_at_once() {
    let definition =
        saga("quick", 1, |e: &TripAsked| e.trip.clone(), |_: TripAsked| Trip::default())
            .then(
                all("both").branch(publish("one", |_: &Trip| Note { text: "1".into() })).branch(
                    choose("none")
                        .arm("never", |_: &Trip| false, pause("p", seconds(1)))
                        .otherwise_nothing(),
                ),
            )
            .ends()
            .unwrap();
    scenario(&definition).starts(rome(0)).says(&["publish Note text=1"]).ends_completed();
}

#[test]
fn a_branch_that_is_a_choice_joins_once_the_arm_it_took_is_done() {
    let definition =
        saga("walk", 1, |e: &TripAsked| e.trip.clone(), |_: TripAsked| Trip::default())
            .then(
                all("both")
                    .branch(
                        choose("on-foot")
                            .arm("always", |_: &Trip| true, pause("stroll", seconds(2)))
                            .otherwise_nothing(),
                    )
                    .branch(pause("rest", seconds(1))),
            )
            .ends()
            .unwrap();
    scenario(&definition)
        .starts(rome(0))
        .times_out("rest")
        .is_running()
        .times_out("stroll")
        .ends_completed();
}

// ---- 1 Start once --------------------------------------------------------------------------------------------------

#[test]
fn r1_a_definition_and_a_key_always_name_the_same_instance_and_runs_have_keys_of_their_own() {
    let definition = order_saga().unwrap();
    let body = Body::write(&OrderPlaced { order: 80 }, Format::Json, &JsonOnly).unwrap();
    let begin = |run| {
        let key = definition.start_key(&body, &JsonOnly).unwrap();
        let start = Start { key, run, body: &body, cause: None, trace: Trace::default() };
        // The authorisation travels as Avro, which no codec was set up for: it fails, as an unsent command does.
        transition::start(&definition, start, Timestamp(1), &JsonOnly).unwrap().instance
    };
    assert_eq!(begin(0).core.id, InstanceId::of("order", &Key::from(80_u64)));
    assert_eq!(begin(0).core, begin(0).core);
    assert_eq!(begin(0).core.id, begin(1).core.id);
    let key = |run| begin(run).core.idempotency_key("ship", Leg::Do);
    assert_ne!(key(0), key(1));
    assert_ne!(key(1), key(2));
}

#[test]
fn r1_a_run_remembers_the_messages_that_began_and_moved_those_before_it() {
    let definition = order_saga().unwrap();
    let body = Body::write(&OrderPlaced { order: 80 }, Format::Json, &JsonOnly).unwrap();
    let start = |cause: &str| {
        let key = definition.start_key(&body, &JsonOnly).unwrap();
        let cause = Some(cause.to_owned());
        Start { key, run: 0, body: &body, cause, trace: Trace::default() }
    };
    let begun = transition::start(&definition, start("a"), Timestamp(1), &JsonOnly).unwrap();
    let mut core = begun.instance.core;
    for (run, cause) in (1..=40).zip(["b", "c"].into_iter().cycle()) {
        let next =
            transition::start_again(&definition, start(cause), &core, Timestamp(1), &JsonOnly);
        core = next.unwrap().instance.core;
        assert_eq!(core.run, run);
        assert!(core.has_taken("b") && (run < 2 || core.has_taken("c")) && !core.has_taken("d"));
        assert_eq!(core.has_taken("a"), run < 32, "the latest 32 are remembered");
    }
}

#[test]
fn r1_a_reply_without_a_key_does_not_count_for_a_later_run() {
    let definition = trip_saga().unwrap();
    let body = Body::write(&rome(0), Format::Json, &JsonOnly).unwrap();
    for (run, is_applied) in [(0, true), (1, false)] {
        let start =
            Start { key: "rome".into(), run, body: &body, cause: None, trace: Trace::default() };
        let begun = transition::start(&definition, start, Timestamp(1), &JsonOnly).unwrap();
        let reply = Reply {
            held_until: None,
            node: definition.graph().find("visa").unwrap(),
            leg: Leg::Do,
            key: None,
            attempt: None,
            name: "Booked".into(),
            body: Body::write(&booked(1), Format::Json, &JsonOnly).unwrap(),
        };
        let input = Input::Reply(reply);
        let decision =
            transition::apply(&definition, begun.instance, input, None, Timestamp(2), &JsonOnly)
                .unwrap();
        assert_eq!(decision.verdict == dirigent_model::history::Verdict::Applied, is_applied);
    }
}

// ---- 3 Stable keys -------------------------------------------------------------------------------------------------

#[test]
fn r3_every_attempt_of_a_command_has_the_same_key_and_each_leg_its_own() {
    let core = order(80).instance(|_| ());
    let mut keys = Vec::new();
    let _ = core.instance(|instance| {
        for name in ["reserve-stock", "authorise-payment", "/end"] {
            for leg in [Leg::Do, Leg::Compensate] {
                keys.push(instance.core.idempotency_key(name, leg));
            }
        }
    });
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 6);
}

#[test]
fn r3_the_attempt_travels_beside_the_key() {
    order(80)
        .fails("reserve-stock", passing("busy"))
        .says(&[])
        .times_out("reserve-stock")
        .says(&["ReserveStock order=80 (attempt 2)"]);
}

// ---- 4 Only what is awaited ----------------------------------------------------------------------------------------

#[test]
fn r4_a_reply_that_is_not_awaited_is_ignored_with_its_reason() {
    order(80).succeeds("ship", shipped()).is_ignored("not-asked");
    order(80).compensates("reserve-stock").is_ignored("not-asked");
    order(80).succeeds("reserve-stock", reserved()).redelivers().is_duplicate().says(&[]);
    order(80)
        .rejects("authorise-payment", declined())
        .redelivers()
        .is_ignored("already-settled")
        .succeeds("authorise-payment", authorised())
        .is_ignored("already-settled");
}

#[test]
fn r4_a_compensation_answered_twice_is_a_duplicate() {
    order(80)
        .succeeds("reserve-stock", reserved())
        .succeeds("authorise-payment", authorised())
        .rejects("capture-payment", CaptureDeclined { reason: "limit".into() })
        .says(&["compensate ReleaseStock reservation=3", "compensate CancelPayment hold=9"])
        .compensates("reserve-stock")
        .redelivers()
        .is_duplicate()
        .is_turning_back();
}

#[test]
fn r4_a_failure_of_an_earlier_attempt_says_nothing_of_the_present_one() {
    let saga = late_failure(order(80).times_out("reserve-stock").times_out("reserve-stock"), 1);
    let saga = saga.is_ignored("earlier-attempt");
    late_failure(saga, 2).says(&[]).is_running();
}

fn late_failure(saga: Scenario<Order>, attempt: u32) -> Scenario<Order> {
    let definition = order_saga().unwrap();
    let reply = Reply {
        held_until: None,
        node: definition.graph().find("reserve-stock").unwrap(),
        leg: Leg::Do,
        key: None,
        attempt: Some(attempt),
        name: Failure::NAME.into(),
        body: Body::write(&passing("busy"), Format::Json, &JsonOnly).unwrap(),
    };
    saga.takes_input(Input::Reply(reply), Some("late"))
}

#[test]
fn r4_a_reply_with_the_key_of_another_command_is_ignored() {
    let definition = order_saga().unwrap();
    let reply = Reply {
        held_until: None,
        node: definition.graph().find("reserve-stock").unwrap(),
        leg: Leg::Do,
        key: Some(uuid::Uuid::NAMESPACE_DNS),
        attempt: None,
        name: "StockReserved".into(),
        body: Body::write(&reserved(), Format::Json, &JsonOnly).unwrap(),
    };
    order(80).takes_input(Input::Reply(reply), None).is_ignored("other-key");
}

#[test]
fn r4_what_can_not_be_read_leaves_the_instance_as_it_was() {
    let definition = trip_saga().unwrap();
    let body = Body::write(&rome(0), Format::Json, &JsonOnly).unwrap();
    let start =
        Start { key: "rome".into(), run: 0, body: &body, cause: None, trace: Trace::default() };
    let begun = transition::start(&definition, start, Timestamp(1), &JsonOnly).unwrap().instance;
    let reply = |name: &str, node: &str, leg, bytes: &[u8]| {
        Input::Reply(Reply {
            held_until: None,
            node: definition.graph().find(node).unwrap(),
            leg,
            key: None,
            attempt: None,
            name: name.into(),
            body: Body { format: Format::Json, bytes: bytes.to_vec() },
        })
    };
    let told = |input| {
        let (same, error) =
            transition::apply(&definition, begun.clone(), input, None, Timestamp(2), &JsonOnly)
                .unwrap_err();
        assert_eq!(same.core, begun.core);
        assert_eq!(same.history, begun.history);
        error
    };
    assert!(matches!(told(reply("Booked", "visa", Leg::Do, b"{")), Unreadable::Body(_)));
    assert!(matches!(told(reply("Full", "visa", Leg::Do, b"[]")), Unreadable::Body(_)));
    assert!(matches!(told(reply("Failure", "visa", Leg::Do, b"{}")), Unreadable::Body(_)));
    assert_eq!(
        told(reply("Unbooked", "visa", Leg::Do, b"{}")).to_string(),
        "`visa` is answered by `Booked`, `Full`, `Failure`, not by `Unbooked`"
    );
    assert!(matches!(
        told(reply("Booked", "rest", Leg::Do, b"{}")),
        Unreadable::NoSuchCommand { .. }
    ));
}

// ---- 9 Early events ------------------------------------------------------------------------------------------------

#[test]
fn r9_an_early_event_is_kept_and_offered_when_its_wait_opens() {
    order(1_000)
        .receives(OrderApproved { order: 1_000 })
        .is_kept()
        .redelivers()
        .is_duplicate()
        .succeeds("reserve-stock", reserved())
        .succeeds("authorise-payment", authorised())
        .says(&["CapturePayment"]);
}

#[test]
fn r9_an_early_refusal_turns_the_saga_back_as_soon_as_its_wait_opens() {
    order(1_000)
        .receives(OrderDeclined { order: 1_000, by: "bob".into() })
        .is_kept()
        .succeeds("reserve-stock", reserved())
        .succeeds("authorise-payment", authorised())
        .says(&["compensate ReleaseStock", "compensate CancelPayment"])
        .data(|order| assert_eq!(order.failure, "declined by bob"));
}

#[test]
fn r9_an_event_that_no_wait_will_need_is_ignored() {
    secured(80).receives(OrderApproved { order: 80 }).is_ignored("not-awaited");
    secured(1_000)
        .receives(OrderApproved { order: 1_000 })
        .receives(OrderApproved { order: 1_000 })
        .is_ignored("not-awaited");
}

#[test]
fn r9_two_waits_of_one_event_take_one_each_and_a_redelivery_counts_once() {
    trip(0)
        .succeeds("visa", booked(1))
        .receives(ready(1))
        .redelivers()
        .is_duplicate()
        .receives(ready(2))
        .is_kept()
        .redelivers()
        .is_duplicate()
        .times_out("rest")
        .is_running()
        .data(|trip| assert_eq!(trip.pax, [1]));
}

#[test]
fn r9_the_number_of_kept_events_is_bounded() {
    let mut saga = trip(0);
    for pax in 0..EARLY_EVENTS_MAX {
        saga = saga.receives(ready(pax as u64)).is_kept();
    }
    saga.receives(ready(99)).is_ignored("too-many-early");
}

#[test]
fn r9_an_early_refusal_inside_a_parallel_block_starts_no_further_branch() {
    let definition =
        saga("gate", 1, |e: &TripAsked| e.trip.clone(), |_: TripAsked| Trip::default())
            .then(pause("first", seconds(1)))
            .then(
                all("both")
                    .branch(
                        wait("gate", |e: &PaxReady| e.trip.clone(), |_: &mut Trip, _| ())
                            .or_rejected(|e: &Note| e.text.clone(), |_, _| ())
                            .within(seconds(9), OnTimeout::Reject),
                    )
                    .branch(publish("never", |_: &Trip| Note { text: "never".into() })),
            )
            .ends()
            .unwrap();
    scenario(&definition)
        .starts(rome(0))
        .receives(Note { text: "rome".into() })
        .is_kept()
        .times_out("first")
        .says(&[])
        .ends_compensated("Note");
}
