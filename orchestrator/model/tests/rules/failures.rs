//! What goes wrong on the way: failures, time limits, the pivot and what lies behind it.

use super::{captured, failure, order, sagas::*, secured, trip};
use dirigent_model::{
    decision::{Decision, Effect, Input},
    definition::{AskStatus, all, pause, publish, saga, step},
    instance::{Leg, Status, Trace},
    message::{
        Body, Channel, Codec, CodecError, Command, Event, FailureEffect, Format, Message, Never,
        StatusQuery,
    },
    retry::Retry,
    scenario::{lasting, passing, scenario, uncertain},
    time::Timestamp,
    transition::{self, Start},
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

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

/// Writes every format as JSON, but no question.
struct NoQuestions;

impl Codec for NoQuestions {
    fn encode(
        &self,
        name: &'static str,
        _: Option<&'static str>,
        format: Format,
        value: &dyn erased_serde::Serialize,
    ) -> Result<Vec<u8>, CodecError> {
        if name == StatusQuery::NAME {
            return Err(CodecError::new(name, format, "its schema can't be reached"));
        }
        serde_json::to_vec(value).map_err(|error| CodecError::new(name, format, error))
    }

    fn decode(
        &self,
        name: &'static str,
        _: Option<&'static str>,
        body: &Body,
        _: &mut dyn FnMut(
            &mut dyn erased_serde::Deserializer<'_>,
        ) -> Result<(), erased_serde::Error>,
    ) -> Result<(), CodecError> {
        Err(CodecError::new(name, body.format, "nothing is read here"))
    }
}

#[test]
fn r6_a_question_that_can_not_be_written_counts_as_one_that_can_not_be_sent() {
    let definition = saga(
        "paid",
        1,
        |event: &OrderPlaced| event.order,
        |event| Order { id: event.order, ..Order::default() },
    )
    .then(
        step("authorise-payment", |order: &Order| AuthorisePayment { order: order.id })
            .on_rejection(|_, _| ())
            .reply_within(seconds(10))
            .retry(Retry::never())
            .status_by(AskStatus::within(seconds(5)).retry(Retry::exponential(
                2,
                seconds(1),
                seconds(1),
            )))
            .compensated_by(|order, _| CancelPayment { order: order.id, hold: None }),
    )
    .ends()
    .unwrap();
    let plan = definition.plan();
    let body = Body { format: Format::Json, bytes: br#"{"order":80}"#.to_vec() };
    let start =
        Start { key: "80".into(), run: 0, body: &body, cause: None, trace: Trace::default() };
    let decision = transition::start(&plan, start, Timestamp(0), &NoQuestions).unwrap();
    let due = |decision: Decision| {
        let at = decision.instance.core.next_due().map(|(at, _)| at).unwrap();
        transition::apply(&plan, decision.instance, Input::Due, None, at, &NoQuestions).unwrap()
    };
    let said = |decision: &Decision| -> Vec<(String, Leg)> {
        let commands = decision.effects.iter().filter_map(|effect| match effect {
            Effect::Command(command) => Some((command.name.clone(), command.leg)),
            Effect::Publish { .. } => None,
        });
        commands.collect()
    };
    assert_eq!(said(&decision), [("AuthorisePayment".to_owned(), Leg::Do)]);
    // Nobody answered; the question can't be written, and is tried once more.
    let decision = due(decision);
    assert_eq!((said(&decision), decision.instance.core.status), (vec![], Status::Running));
    let decision = due(decision);
    assert_eq!(said(&decision), [("CancelPayment".to_owned(), Leg::Compensate)]);
    let cause = decision.instance.core.cause.as_ref().unwrap();
    assert!(cause.text.contains("no reply to attempt 1"), "{}", cause.text);
}
