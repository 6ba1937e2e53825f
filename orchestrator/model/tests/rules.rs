//! What a saga does, rule by rule: the numbers are those of the reference of sagas.

#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod sagas;

use dirigent_model::{
    decision::{Action, Effect, Hold, Input, Reply, Unreadable},
    definition::{Definition, OnTimeout, Outcome, all, choose, pause, publish, saga, step, wait},
    history::{History, What},
    instance::{EARLY_EVENTS_MAX, Instance, InstanceId, Leg, NodeState, Trace},
    message::{
        Body, Channel, Command, Event, Failure, FailureEffect, Format, JsonOnly, Key, Message,
        Never,
    },
    retry::Retry,
    scenario::{Coverage, Scenario, lasting, passing, scenario, uncertain},
    time::Timestamp,
    transition::{self, Start},
};
use sagas::*;
use serde::{Deserialize, Serialize};
use std::time::Duration;

fn order(id: u64) -> Scenario<Order> {
    scenario(&order_saga().unwrap()).starts(OrderPlaced { order: id })
}

fn secured(id: u64) -> Scenario<Order> {
    order(id).succeeds("reserve-stock", reserved()).succeeds("authorise-payment", authorised())
}

fn captured() -> Scenario<Order> {
    secured(80).succeeds("capture-payment", PaymentCaptured {})
}

fn trip(legs: u8) -> Scenario<Trip> {
    scenario(&trip_saga().unwrap()).starts(rome(legs))
}

fn failure(code: &str, retriable: bool, effect: FailureEffect) -> Failure {
    Failure { code: code.into(), message: "m".into(), retriable, effect }
}

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

// ---- 5 Failures ----------------------------------------------------------------------------------------------------

#[test]
fn r5_a_rejection_is_final_and_never_retried() {
    order(80)
        .succeeds("authorise-payment", authorised())
        .rejects("reserve-stock", StockRejected { sku: "pen".into() })
        .says(&["compensate CancelPayment hold=9"])
        .compensated("authorise-payment", PaymentCancelled { refunded: 1 })
        .says(&["publish OrderFailed"])
        .ends_compensated("pen");
}

#[test]
fn r5_a_failure_is_retried_by_the_policy_until_it_is_exhausted() {
    order(80)
        .succeeds("authorise-payment", authorised())
        .fails("reserve-stock", passing("busy"))
        .after(seconds(1))
        .says(&["ReserveStock (attempt 2)"])
        .fails("reserve-stock", passing("busy"))
        .after(seconds(1))
        .says(&["ReserveStock (attempt 3)"])
        .fails("reserve-stock", passing("busy"))
        // It said each time that it had no effect: there is nothing to undo.
        .says(&["compensate CancelPayment hold=9"])
        .compensates("authorise-payment")
        .ends_compensated("busy");
}

#[test]
fn r5_a_failure_that_will_stay_is_not_retried() {
    trip(0)
        .fails("visa", lasting("closed"))
        .says(&["publish Note text=no rome"])
        .ends_compensated("closed");
}

#[test]
fn r5_no_attempt_begins_later_than_the_policy_says() {
    // Delays of up to an hour, and a policy that ends after ten seconds.
    let hour = seconds(60 * 60);
    let definition =
        saga("brief", 1, |e: &TripAsked| e.trip.clone(), |_: TripAsked| Trip::default())
            .then(
                step("visa", |_: &Trip| Book { place: "visa".into() })
                    .on_rejection(|_, _| ())
                    .reply_within(seconds(4))
                    .retry(Retry::exponential(9, hour, hour).within(seconds(10)))
                    .nothing_to_compensate("a test"),
            )
            .ends()
            .unwrap();
    scenario(&definition)
        .starts(rome(0))
        .fails("visa", passing("busy"))
        .after(seconds(10))
        .says(&["Book place=visa (attempt 2)"])
        .fails("visa", passing("busy"))
        .ends_compensated("busy");
}

#[test]
fn r5_a_code_that_asking_again_does_not_help_ends_the_retries() {
    order(80)
        .succeeds("reserve-stock", reserved())
        .fails("authorise-payment", passing("blocked"))
        .says(&["compensate ReleaseStock"]);
}

#[test]
fn r5_a_failure_that_may_have_had_an_effect_is_compensated_in_doubt() {
    order(80)
        .succeeds("reserve-stock", reserved())
        .fails("authorise-payment", uncertain("blocked"))
        .says(&["compensate ReleaseStock", "compensate CancelPayment hold=none"]);
}

#[test]
fn r5_an_effect_that_one_attempt_left_in_doubt_stays_in_doubt() {
    order(80)
        .succeeds("reserve-stock", reserved())
        .times_out("authorise-payment")
        .after(seconds(1))
        .fails("authorise-payment", lasting("closed"))
        .says(&["compensate ReleaseStock", "compensate CancelPayment hold=none"]);
}

#[test]
fn r5_an_unsent_command_had_no_effect_and_needs_no_compensation() {
    order(80)
        .succeeds("reserve-stock", reserved())
        .unsent("authorise-payment", "no such queue")
        .says(&["compensate ReleaseStock reservation=3"])
        .compensates("reserve-stock")
        .ends_compensated("no such queue");
}

#[test]
fn r5_an_unsent_attempt_after_one_without_an_answer_is_in_doubt() {
    order(80)
        .succeeds("reserve-stock", reserved())
        .times_out("authorise-payment")
        .times_out("authorise-payment")
        .unsent("authorise-payment", "too large")
        .says(&["compensate ReleaseStock", "compensate CancelPayment hold=none"]);
}

#[test]
fn r5_a_word_of_an_earlier_attempt_that_was_not_sent_is_ignored() {
    let node = order_saga().unwrap().graph().find("reserve-stock").unwrap();
    let unsent = Input::Unsent { node, leg: Leg::Do, attempt: 1, text: "late".into() };
    order(80)
        .times_out("reserve-stock")
        .times_out("reserve-stock")
        .takes_input(unsent, None)
        .is_ignored("earlier-attempt");
}

// ---- 6 and 7 Timeouts, pivot ---------------------------------------------------------------------------------------

#[test]
fn r6_a_step_without_any_answer_is_in_doubt_and_compensated_so() {
    order(80)
        .succeeds("reserve-stock", reserved())
        .never_answers("authorise-payment")
        .says(&[
            "AuthorisePayment (attempt 2)",
            "compensate ReleaseStock",
            "compensate CancelPayment hold=none",
        ])
        .compensates("reserve-stock")
        .compensates("authorise-payment")
        .ends_compensated("no reply to attempt 2 within 20000 ms");
}

#[test]
fn r7_a_pivot_is_asked_again_until_an_explicit_answer_and_wants_a_person_meanwhile() {
    secured(80)
        .never_answers("capture-payment")
        .is_blocked("no reply to attempt 3")
        .is_running()
        .times_out("capture-payment")
        .says(&["CapturePayment hold=9 (attempt 4)"])
        .is_blocked("no reply")
        .succeeds("capture-payment", PaymentCaptured {})
        .says(&["ShipOrder"])
        .is_not_blocked();
}

#[test]
fn r7_a_pivot_in_doubt_may_still_be_refused_and_then_the_saga_turns_back() {
    secured(80)
        .never_answers("capture-payment")
        .rejects("capture-payment", CaptureDeclined { reason: "limit".into() })
        .says(&["compensate ReleaseStock", "compensate CancelPayment"])
        .is_not_blocked()
        .compensates("authorise-payment")
        .compensates("reserve-stock")
        .ends_compensated("limit");
}

#[test]
fn r7_a_pivot_that_certainly_had_no_effect_turns_back() {
    secured(80).fails("capture-payment", lasting("closed")).is_turning_back();
    secured(80).unsent("capture-payment", "no route").is_turning_back();
    secured(80)
        .fails("capture-payment", uncertain("x"))
        .times_out("capture-payment")
        .unsent("capture-payment", "y")
        .is_running();
}

#[test]
fn r7_a_failure_with_possible_effect_that_will_stay_leaves_the_pivot_asking() {
    secured(80)
        .fails("capture-payment", failure("odd", false, FailureEffect::Unknown))
        .is_blocked("odd")
        .times_out("capture-payment")
        .says(&["CapturePayment (attempt 2)"]);
}

// ---- 8 Behind the pivot --------------------------------------------------------------------------------------------

#[test]
fn r8_behind_the_pivot_nothing_turns_the_saga_back() {
    captured()
        .cancels("ann", "changed her mind")
        .is_ignored("past-pivot")
        .receives(OrderWithdrawn { order: 80 })
        .is_ignored("past-pivot")
        .fails("ship", lasting("strike"))
        .is_blocked("strike")
        .after(seconds(60 * 60))
        .is_running()
        .succeeds("ship", shipped())
        .ends_completed();
}

#[test]
fn r8_asking_beyond_the_policy_never_goes_without_a_pause() {
    #[derive(Debug, Clone, Serialize, Deserialize)]
    struct Nothing;
    let definition = saga("hot", 1, |e: &TripAsked| e.trip.clone(), |_: TripAsked| Nothing)
        .then(
            step("pay", |_: &Nothing| CapturePayment { hold: 1 })
                .on_rejection(|_, _| ())
                .reply_within(seconds(10))
                .retry(Retry::never())
                .pivot(),
        )
        .then(
            step("ship", |_: &Nothing| ShipOrder { order: 1, reservation: 1 })
                .reply_within(seconds(10))
                .retry(Retry::never())
                .retriable(),
        )
        .ends()
        .unwrap();
    scenario(&definition)
        .starts(rome(0))
        .succeeds("pay", PaymentCaptured {})
        .fails("ship", passing("busy"))
        .is_blocked("busy")
        .after(Duration::from_millis(999))
        .says(&[])
        .after(Duration::from_millis(1))
        .says(&["ShipOrder (attempt 2)"])
        .unsent("ship", "no route")
        .after(Duration::from_millis(999))
        .says(&[])
        .succeeds("ship", shipped())
        .ends_completed();
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

// ---- 11 to 17 Turning back -----------------------------------------------------------------------------------------

#[test]
fn r11_every_cause_enters_by_the_same_door() {
    let undoes = |saga: Scenario<Order>, cause: &str| {
        saga.says(&["compensate ReleaseStock reservation=3", "compensate CancelPayment hold=9"])
            .compensates("authorise-payment")
            .compensates("reserve-stock")
            .ends_compensated(cause);
    };
    undoes(secured(1_000).cancels("ann", "duplicate"), "by ann: duplicate");
    undoes(secured(1_000).receives(OrderWithdrawn { order: 1_000 }), "OrderWithdrawn");
    undoes(
        secured(1_000).receives(OrderDeclined { order: 1_000, by: "bob".into() }),
        "OrderDeclined",
    );
    undoes(secured(1_000).times_out("approval"), "no OrderApproved in time");
}

#[test]
fn r11_a_deadline_turns_the_saga_back_before_the_pivot_is_asked_and_not_after() {
    let definition = saga(
        "short",
        1,
        |e: &OrderPlaced| e.order,
        |e: OrderPlaced| Order { id: e.order, ..Order::default() },
    )
    .then(reserve_stock())
    .then(capture_payment())
    .then(ship())
    .deadline(seconds(8))
    .ends()
    .unwrap();
    let begin = || scenario(&definition).starts(OrderPlaced { order: 1 });
    begin()
        .after(seconds(8))
        .is_turning_back()
        .says(&[])
        .succeeds("reserve-stock", reserved())
        .says(&["compensate ReleaseStock reservation=3"])
        .compensates("reserve-stock")
        .ends_compensated("took too long");
    begin()
        .after(seconds(7))
        .succeeds("reserve-stock", reserved())
        .after(seconds(2))
        .is_running()
        .succeeds("capture-payment", PaymentCaptured {})
        .succeeds("ship", shipped())
        .ends_completed();
}

#[test]
fn r11_a_second_cause_changes_nothing() {
    order(80)
        .cancels("ann", "first")
        .is_turning_back()
        .cancels("bob", "second")
        .is_ignored("turning-back-already")
        .receives(OrderWithdrawn { order: 80 })
        .is_ignored("turning-back-already")
        .rejects("authorise-payment", declined())
        .rejects("reserve-stock", StockRejected { sku: "pen".into() })
        .says(&["publish OrderFailed"])
        .ends_compensated("by ann: first");
}

#[test]
fn r11_a_saga_without_anything_to_undo_ends_at_once() {
    trip(0).rejects("visa", full("visa")).says(&["publish Note text=no"]).ends_compensated("Full");
}

#[test]
fn r12_commands_in_flight_are_awaited_to_their_reply_or_deadline_without_a_further_attempt() {
    order(80)
        .rejects("authorise-payment", declined())
        .times_out("reserve-stock")
        .says(&["compensate ReleaseStock reservation=none"])
        .compensates("reserve-stock")
        .ends_compensated("card");
    order(80)
        .rejects("authorise-payment", declined())
        .fails("reserve-stock", passing("busy"))
        .says(&["publish OrderFailed"])
        .ends_compensated("card");
}

#[test]
fn r12_a_step_between_two_attempts_is_settled_at_once() {
    // Every attempt said that it had no effect.
    order(80)
        .fails("reserve-stock", passing("busy"))
        .rejects("authorise-payment", declined())
        .says(&["publish OrderFailed"])
        .ends_compensated("card");
    // One attempt left it in doubt.
    order(80)
        .times_out("reserve-stock")
        .rejects("authorise-payment", declined())
        .says(&["compensate ReleaseStock reservation=none"])
        .succeeds("reserve-stock", reserved())
        .is_ignored("already-settled");
}

#[test]
fn r12_waits_and_pauses_of_siblings_end_at_once() {
    trip(0)
        .succeeds("visa", booked(1))
        .receives(ready(1))
        .rejects("flight", full("flight"))
        .succeeds("hotel", booked(2))
        .says(&["compensate Unbook place=hotel code=2"])
        .receives(ready(2))
        .is_ignored("not-awaited")
        .after(seconds(9))
        .says(&[])
        .compensates("hotel")
        .says(&["compensate Unbook place=visa code=1"])
        .compensates("visa")
        .ends_compensated("Full");
}

#[test]
fn r12_no_new_forward_step_starts_when_a_sibling_succeeds_late() {
    trip(1)
        .succeeds("visa", booked(1))
        .rejects("hotel", full("hotel"))
        .succeeds("flight", booked(2))
        .says(&["compensate Unbook place=flight"]);
}

#[test]
fn r13_only_what_took_effect_or_may_have_is_compensated() {
    trip(1)
        .succeeds("visa", booked(1))
        .succeeds("flight", booked(2))
        .succeeds("hotel", booked(3))
        .rejects("single", full("single"))
        .says(&[])
        // Both commands in flight reach their time limit.
        .never_answers("bus")
        .says(&[
            "compensate Unbook place=bus code=none",
            "compensate Unbook place=double code=none",
        ])
        .compensates("double")
        .says(&["compensate Unbook place=hotel code=3"])
        .compensates("hotel")
        .compensates("bus")
        .says(&["compensate Unbook place=flight code=2"])
        .compensates("flight")
        .says(&["compensate Unbook place=visa code=1"])
        .compensates("visa")
        .says(&["publish Note"])
        .ends_compensated("Full");
}

#[test]
fn r14_compensation_goes_back_in_reverse_dependency_order_and_side_by_side() {
    trip(1)
        .succeeds("visa", booked(1))
        .succeeds("flight", booked(2))
        .succeeds("bus", booked(3))
        .succeeds("hotel", booked(4))
        .succeeds("single", booked(5))
        .succeeds("double", booked(6))
        .receives(ready(1))
        .times_out("rest")
        .says(&["Book place=insurance"])
        .rejects("insurance", full("insurance"))
        .says(&[
            "compensate Unbook place=bus",
            "compensate Unbook place=single",
            "compensate Unbook place=double",
        ])
        .compensates("single")
        .says(&[])
        .compensates("bus")
        .says(&["compensate Unbook place=flight"])
        .compensates("double")
        .says(&["compensate Unbook place=hotel"])
        .compensates("hotel")
        .says(&[])
        .compensates("flight")
        .says(&["compensate Unbook place=visa"])
        .compensates("visa")
        .says(&["publish Note text=no rome"])
        .ends_compensated("Full");
}

#[test]
fn r15_a_compensation_sees_the_reply_of_its_step_not_later_data() {
    #[derive(Debug, Clone, Serialize, Deserialize)]
    struct Latest {
        code: u64,
    }
    let definition =
        saga("later", 1, |e: &TripAsked| e.trip.clone(), |_: TripAsked| Latest { code: 0 })
            .then(
                step("one", |_: &Latest| Book { place: "one".into() })
                    .on_success(|data, reply| data.code = reply.code)
                    .on_rejection(|_, _| ())
                    .reply_within(seconds(1))
                    .compensated_by(|_, outcome| Unbook {
                        place: "one".into(),
                        code: match outcome {
                            Outcome::Done(reply) => Some(reply.code),
                            Outcome::InDoubt => None,
                        },
                    }),
            )
            .then(
                step("two", |_: &Latest| Book { place: "two".into() })
                    .on_success(|data, reply| data.code = reply.code)
                    .on_rejection(|data, _| data.code = 999)
                    .reply_within(seconds(1))
                    .nothing_to_compensate("only looks"),
            )
            .ends()
            .unwrap();
    scenario(&definition)
        .starts(rome(0))
        .succeeds("one", booked(41))
        .rejects("two", full("two"))
        .says(&["compensate Unbook code=41"])
        .data(|data| assert_eq!(data.code, 999));
}

#[test]
fn r16_an_exhausted_compensation_blocks_and_the_independent_ones_go_on() {
    secured(1_000)
        .cancels("ann", "test")
        .fails("authorise-payment", passing("busy"))
        .after(seconds(1))
        .says(&["compensate CancelPayment (attempt 2)"])
        .fails("authorise-payment", passing("busy"))
        .says(&[])
        .is_blocked("busy")
        .compensates("reserve-stock")
        .is_turning_back()
        .after(seconds(1_000_000))
        .says(&[])
        .retries("authorise-payment")
        .says(&["compensate CancelPayment hold=9 (attempt 3)"])
        .is_not_blocked()
        .fails("authorise-payment", passing("busy"))
        .is_blocked("busy")
        .resolves("authorise-payment", "refunded by hand")
        .says(&["publish OrderFailed"])
        .ends_compensated("by ann: test");
}

#[test]
fn r16_a_stuck_compensation_that_is_answered_late_goes_on() {
    trip(0)
        .succeeds("visa", booked(1))
        .rejects("flight", full("flight"))
        .rejects("hotel", full("hotel"))
        .says(&["compensate Unbook place=visa"])
        .never_answers("visa")
        .is_blocked("no reply to attempt 1")
        .fails("visa", passing("busy"))
        .is_ignored("earlier-attempt")
        .unsent("visa", "late word")
        .is_ignored("earlier-attempt")
        .compensates("visa")
        .ends_compensated("Full");
}

#[test]
fn r16_an_unsent_compensation_is_asked_again_and_then_blocks() {
    secured(1_000)
        .cancels("ann", "test")
        .unsent("authorise-payment", "no route")
        .is_not_blocked()
        .after(seconds(1))
        .says(&["compensate CancelPayment (attempt 2)"])
        .unsent("authorise-payment", "no route")
        .is_blocked("no route");
}

#[test]
fn r16_a_kill_ends_a_blocked_instance() {
    trip(0)
        .succeeds("visa", booked(1))
        .cancels("ann", "test")
        .rejects("flight", full("flight"))
        .rejects("hotel", full("hotel"))
        .never_answers("visa")
        .is_blocked("no reply")
        .kills("ann", "agreed with the embassy")
        .is_not_blocked()
        .ends_killed();
}

#[test]
fn r17_a_late_success_of_a_step_compensated_in_doubt_changes_nothing() {
    order(80)
        .succeeds("reserve-stock", reserved())
        .never_answers("authorise-payment")
        .succeeds("authorise-payment", authorised())
        .is_ignored("already-settled")
        .compensates("authorise-payment")
        .succeeds("authorise-payment", authorised())
        .is_ignored("already-settled")
        .compensates("reserve-stock")
        .ends_compensated("no reply");
}

// ---- Operators -----------------------------------------------------------------------------------------------------

#[test]
fn a_cancel_is_refused_once_the_pivot_has_been_asked_for() {
    secured(80).cancels("ann", "late").is_ignored("past-pivot").is_running();
}

#[test]
fn a_retry_by_hand_leaves_the_attempt_under_way_in_doubt() {
    trip(0)
        .retries("visa")
        .says(&["Book place=visa (attempt 2)"])
        .fails("visa", lasting("closed"))
        .says(&["compensate Unbook place=visa code=none"]);
}

#[test]
fn a_retry_by_hand_of_a_resting_step_asks_now_and_adds_no_doubt() {
    order(80)
        .fails("reserve-stock", passing("busy"))
        .retries("reserve-stock")
        .says(&["ReserveStock (attempt 2)"])
        .rejects("authorise-payment", declined())
        .fails("reserve-stock", lasting("closed"))
        .ends_compensated("card");
}

#[test]
fn a_retry_by_hand_starts_nothing_once_the_saga_turns_back() {
    order(80)
        .rejects("authorise-payment", declined())
        .retries("reserve-stock")
        .is_ignored("turning-back-already");
}

#[test]
fn a_retry_by_hand_settles_the_incident_of_a_step_behind_the_pivot() {
    captured()
        .fails("ship", lasting("strike"))
        .is_blocked("strike")
        .resolves("ship", "no word can stand for its reply")
        .is_ignored("no-incident")
        .retries("ship")
        .says(&["ShipOrder (attempt 2)"])
        .is_not_blocked()
        .fails("ship", lasting("strike"))
        .is_blocked("strike");
}

#[test]
fn an_operators_word_about_a_place_that_wants_nobody_is_ignored() {
    order(80)
        .retries("ship")
        .is_ignored("no-incident")
        .resolves("ship", "why not")
        .is_ignored("no-incident");
    let nowhere = dirigent_model::definition::NodeId(999);
    let word = |action| Input::Operator { action, by: "ann".into(), why: "typo".into() };
    order(80)
        .takes_input(word(Action::Retry(nowhere)), None)
        .is_ignored("no-incident")
        .takes_input(word(Action::Resolve(nowhere)), None)
        .is_ignored("no-incident");
}

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

// ---- What can't be written -----------------------------------------------------------------------------------------

/// A message that can't be written once its number is 13.
#[derive(Debug, Clone, Deserialize)]
struct Unlucky {
    number: u64,
}

impl Serialize for Unlucky {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.number {
            13 => Err(serde::ser::Error::custom("13 brings bad luck")),
            number => to.serialize_u64(number),
        }
    }
}

impl Message for Unlucky {
    const NAME: &'static str = "Unlucky";
}

impl Event for Unlucky {
    const ON: Channel = ORDERS;
}

impl Command for Unlucky {
    const TO: Channel = ORDERS;
    type Success = Booked;
    type Rejection = Never;
}

#[test]
fn a_command_that_can_not_be_written_counts_as_unsent_even_beside_others() {
    let definition = saga(
        "unlucky",
        1,
        |e: &TripAsked| e.trip.clone(),
        |e: TripAsked| Trip { legs: e.legs, ..Trip::default() },
    )
    .then(
        step("visa", |_: &Trip| Book { place: "visa".into() })
            .on_rejection(|_, _| ())
            .reply_within(seconds(1))
            .compensated_by(|_, _| Unbook { place: "visa".into(), code: None }),
    )
    .then(
        all("both")
            .branch(
                step("fine", |_: &Trip| Book { place: "fine".into() })
                    .on_rejection(|_, _| ())
                    .reply_within(seconds(1))
                    .compensated_by(|_, _| Unbook { place: "fine".into(), code: None }),
            )
            .branch(
                step("unlucky", |trip: &Trip| Unlucky { number: trip.legs.into() })
                    .reply_within(seconds(1))
                    .nothing_to_compensate("a test"),
            )
            .branch(publish("not-reached", |_: &Trip| Note { text: "x".into() })),
    )
    .ends()
    .unwrap();
    scenario(&definition)
        .starts(rome(13))
        .succeeds("visa", booked(1))
        .says(&["Book place=fine"])
        .is_turning_back()
        .succeeds("fine", booked(2))
        .says(&["compensate Unbook place=fine"])
        .compensates("fine")
        .says(&["compensate Unbook place=visa"])
        .compensates("visa")
        .ends_compensated("13 brings bad luck");
}

#[test]
fn an_event_that_can_not_be_written_wants_a_person_and_the_saga_goes_on() {
    let definition = saga(
        "unlucky",
        1,
        |e: &TripAsked| e.trip.clone(),
        |e: TripAsked| Trip { legs: e.legs, ..Trip::default() },
    )
    .then(publish("tell", |trip: &Trip| Unlucky { number: trip.legs.into() }))
    .then(pause("rest", seconds(5)))
    .ends()
    .unwrap();
    scenario(&definition)
        .starts(rome(13))
        .says(&[])
        .is_blocked("13 brings bad luck")
        .is_running()
        .resolves("tell", "told by phone")
        .is_not_blocked()
        .times_out("rest")
        .ends_completed();
}

#[test]
fn a_retriable_step_whose_command_can_not_be_written_does_not_turn_in_circles() {
    let definition = saga(
        "unlucky",
        1,
        |e: &TripAsked| e.trip.clone(),
        |e: TripAsked| Trip { legs: e.legs, ..Trip::default() },
    )
    .then(
        step("pay", |_: &Trip| CapturePayment { hold: 1 })
            .on_rejection(|_, _| ())
            .reply_within(seconds(10))
            .pivot(),
    )
    .then(
        step("go-on", |trip: &Trip| Unlucky { number: trip.legs.into() })
            .reply_within(seconds(1))
            .retry(Retry::never())
            .retriable(),
    )
    .ends()
    .unwrap();
    scenario(&definition)
        .starts(rome(13))
        .succeeds("pay", PaymentCaptured {})
        .is_blocked("13 brings bad luck")
        .after(seconds(5))
        .says(&[])
        .is_running();
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
    newer[0] = 2;
    assert!(read(&newer).unwrap_err().to_string().contains("reads up to 1"));
    for length in 0..stored.len() {
        assert!(read(&stored[..length]).is_err(), "{length} bytes were taken for all");
    }
    let other = Instance::decode(&trip_definition, &stored, History::default()).map(drop);
    assert!(other.unwrap_err().to_string().contains("order v1"));
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
    assert!(!both.never_crossed().contains(&("approval", "timed out")));
    assert!(!both.never_crossed().contains(&("ship", "succeeded")));
    assert!(both.never_crossed().contains(&("approval", "event came")));
    assert!(both.to_string().contains("never: `order` deadline"));
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

// ---- 23 Held by its destination -------------------------------------------------------------------------------------

#[test]
fn r23_what_is_held_uses_up_neither_attempts_nor_time() {
    // Three attempts and ten seconds for each: held twenty times for an hour, it still is the first one.
    let mut saga = secured_but_stock();
    for _ in 0..20 {
        saga = saga
            .held("reserve-stock", Hold::GivenBack, seconds(3_600))
            .says(&[])
            .after(seconds(3_600))
            .says(&["ReserveStock order=80"])
            .is_running();
    }
    saga.instance(|instance| {
        let ask = instance.core.nodes.iter().find_map(|state| match state {
            NodeState::Open(ask) => Some(ask.clone()),
            _ => None,
        });
        let ask = ask.unwrap();
        assert_eq!((ask.attempt, ask.doubt), (1, false));
        assert_eq!(ask.asked_at, ask.first_at, "no time has passed for the policy");
    })
    .succeeds("reserve-stock", reserved())
    .says(&["CapturePayment"]);
}

#[test]
fn r23_time_passes_again_once_the_command_has_left() {
    secured_but_stock()
        .held("reserve-stock", Hold::GivenBack, seconds(100))
        .after(seconds(100))
        .says(&["ReserveStock"])
        .times_out("reserve-stock")
        .after(seconds(1))
        .says(&["ReserveStock (attempt 2)"]);
}

#[test]
fn r23_a_command_that_waits_for_its_turn_is_not_late() {
    let until =
        secured_but_stock().after(seconds(9)).held("reserve-stock", Hold::Queued, seconds(0));
    let waiting = until.after(seconds(9)).says(&[]).is_running();
    // Its whole time begins anew, and it is not asked twice.
    waiting.after(seconds(1)).after(seconds(1)).says(&["ReserveStock (attempt 2)"]);
}

#[test]
fn r23_a_command_that_left_for_a_held_destination_is_asked_again_and_in_doubt() {
    secured_but_stock()
        .held("reserve-stock", Hold::Left, seconds(30))
        .says(&[])
        .after(seconds(30))
        .says(&["ReserveStock order=80"])
        .cancels("ann", "test")
        .says(&[])
        .times_out("reserve-stock")
        .says(&["compensate ReleaseStock reservation=none", "compensate CancelPayment"]);
}

#[test]
fn r23_a_step_that_is_held_when_its_saga_turns_back_had_no_effect_unless_it_is_in_doubt() {
    order(80)
        .held("reserve-stock", Hold::GivenBack, seconds(30))
        .rejects("authorise-payment", declined())
        .says(&["publish OrderFailed"])
        .ends_compensated("card");
    // The saga turned back while it waited for its turn: given back now, it is settled now.
    order(80)
        .rejects("authorise-payment", declined())
        .held("reserve-stock", Hold::Queued, seconds(0))
        .says(&[])
        .is_turning_back()
        .held("reserve-stock", Hold::GivenBack, seconds(30))
        .says(&["publish OrderFailed"])
        .ends_compensated("card");
    order(80)
        .held("reserve-stock", Hold::Left, seconds(30))
        .rejects("authorise-payment", declined())
        .says(&["compensate ReleaseStock reservation=none"]);
}

#[test]
fn r23_a_compensation_that_is_held_is_asked_until_its_destination_takes_it() {
    let mut saga = order(80).rejects("authorise-payment", declined()).times_out("reserve-stock");
    for _ in 0..20 {
        saga = saga
            .held("reserve-stock", Hold::Left, seconds(30))
            .after(seconds(30))
            .says(&["compensate ReleaseStock"])
            .is_not_blocked();
    }
    saga.compensates("reserve-stock").ends_compensated("card");
}

#[test]
fn r23_a_failure_for_now_of_a_held_destination_does_not_use_up_the_attempt() {
    let mut saga = secured_but_stock();
    for _ in 0..10 {
        let busy = saga_reply(&saga, &passing("busy"), seconds(5));
        saga =
            saga.takes_input(busy, Some("r")).says(&[]).after(seconds(5)).says(&["ReserveStock"]);
    }
    // One that will last is an answer, whatever its destination does.
    let closed = saga_reply(&saga, &lasting("closed"), seconds(5));
    saga.takes_input(closed, Some("r")).is_turning_back();
}

#[test]
fn r23_a_pivot_that_is_held_has_not_been_asked_for() {
    secured(80)
        .held("capture-payment", Hold::GivenBack, seconds(30))
        .cancels("ann", "too long")
        .says(&["compensate ReleaseStock", "compensate CancelPayment"]);
    secured(80)
        .held("capture-payment", Hold::GivenBack, seconds(8 * 24 * 60 * 60))
        .after(seconds(7 * 24 * 60 * 60))
        .is_turning_back();
    secured(80)
        .held("capture-payment", Hold::Left, seconds(30))
        .cancels("ann", "too long")
        .is_ignored("past-pivot");
}

#[test]
fn r23_what_is_held_no_longer_matters_once_it_was_answered_or_asked_again() {
    let answered = order(80).succeeds("reserve-stock", reserved());
    let input = held_input(&answered, "reserve-stock", 1);
    answered.takes_input(input, None).is_ignored("already-settled");
    let later = order(80).times_out("reserve-stock").after(seconds(1));
    let input = held_input(&later, "reserve-stock", 1);
    later.takes_input(input, None).is_ignored("earlier-attempt");
}

#[test]
fn r23_the_history_tells_of_a_hold_once() {
    let mut saga = secured_but_stock().held("reserve-stock", Hold::GivenBack, seconds(30));
    for _ in 0..100 {
        saga = saga.held("reserve-stock", Hold::GivenBack, seconds(30));
    }
    saga.instance(|instance| {
        let lines = instance.history.lines();
        assert_eq!(lines.iter().filter(|line| line.what == What::Held).count(), 1);
    });
}

fn secured_but_stock() -> Scenario<Order> {
    order(80).succeeds("authorise-payment", authorised())
}

fn held_input(saga: &Scenario<Order>, step: &str, attempt: u32) -> Input {
    let node = order_saga().unwrap().graph().find(step).unwrap();
    let until = saga.now() + seconds(1);
    Input::Held { node, leg: Leg::Do, attempt, hold: Hold::GivenBack, until }
}

fn saga_reply(saga: &Scenario<Order>, failure: &Failure, span: Duration) -> Input {
    Input::Reply(Reply {
        node: order_saga().unwrap().graph().find("reserve-stock").unwrap(),
        leg: Leg::Do,
        key: None,
        attempt: Some(1),
        held_until: Some(saga.now() + span),
        name: Failure::NAME.into(),
        body: Body::write(failure, Format::Json, &JsonOnly).unwrap(),
    })
}
