//! Turning back: what is compensated, in which order, and what an operator may say.

use super::{captured, order, sagas::*, secured, trip};
use dirigent_model::{
    decision::{Action, Input},
    definition::{Outcome, saga, step},
    scenario::{Scenario, lasting, passing, scenario},
};
use serde::{Deserialize, Serialize};

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
