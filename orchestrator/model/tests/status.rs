//! Asking what became of a step before it counts as in doubt: rules 4, 6, 7 and 12 where a definition says `status_by`.

#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod sagas;

use dirigent_model::{
    decision::{Input, Reply},
    definition::{
        AskStatus, Block, Definition, DefinitionErrors, Kind, OnTimeout, Outcome, StepDraft,
        WayBack, all, saga, step, wait,
    },
    explore::{Checked, ViolationKind, check_graph},
    instance::{Leg, NoEffect, NodeState},
    message::{Body, Format, Message, StatusNotDone, StatusQuery, StatusUnknown},
    retry::Retry,
    scenario::{Scenario, lasting, passing, scenario, uncertain},
};
use sagas::*;

/// Once more after a second at the most, and then no more.
fn twice() -> Retry {
    Retry::exponential(2, seconds(1), seconds(1))
}

fn authorise() -> StepDraft<Order, AuthorisePayment> {
    step("authorise-payment", |order: &Order| AuthorisePayment { order: order.id })
}

fn hold(retry: Retry) -> Block<Order> {
    authorise()
        .on_success(|order, reply| order.hold = reply.hold)
        .on_rejection(|order, reply| order.failure = reply.reason)
        .reply_within(seconds(10))
        .retry(retry)
        .status_by(AskStatus::within(seconds(5)).retry(twice()))
        .compensated_by(|order, outcome| CancelPayment {
            order: order.id,
            hold: match outcome {
                Outcome::Done(reply) => Some(reply.hold),
                Outcome::InDoubt => None,
            },
        })
}

fn capture() -> Block<Order> {
    step("capture-payment", |order: &Order| CapturePayment { hold: order.hold })
        .on_rejection(|order, reply| order.failure = reply.reason)
        .reply_within(seconds(30))
        .retry(Retry::never())
        .status_by(AskStatus::within(seconds(5)).retry(Retry::never()))
        .pivot()
}

/// Holds the money, takes it, ships. Each hold that gets no answer, and the taking, can be asked about.
fn paid_with(retry: Retry) -> Result<Definition<Order>, DefinitionErrors> {
    saga(
        "paid",
        1,
        |event: &OrderPlaced| event.order,
        |event| Order { id: event.order, ..Order::default() },
    )
    .then(hold(retry))
    .then(capture())
    .then(ship())
    .cancelled_by(|event: &OrderWithdrawn| event.order, |_, _| ())
    .ends()
}

fn paid() -> Scenario<Order> {
    scenario(&paid_with(Retry::never()).unwrap()).starts(OrderPlaced { order: 80 })
}

/// The hold was given no answer to.
fn in_question() -> Scenario<Order> {
    paid().times_out("authorise-payment").says(&["status AuthorisePayment"])
}

fn held() -> Scenario<Order> {
    paid().succeeds("authorise-payment", authorised()).says(&["CapturePayment hold=9"])
}

/// The taking was given no answer to.
fn pivot_in_question() -> Scenario<Order> {
    held().times_out("capture-payment").says(&["status CapturePayment"])
}

/// Stock beside the hold; an approval beside both.
fn beside() -> Scenario<Order> {
    let approval = wait("approval", |event: &OrderApproved| event.order, |_: &mut Order, _| ())
        .or_rejected(|event: &OrderDeclined| event.order, |_, _| ())
        .within(seconds(1_000), OnTimeout::Reject);
    let definition = saga(
        "beside",
        1,
        |event: &OrderPlaced| event.order,
        |event| Order { id: event.order, ..Order::default() },
    )
    .then(all("secure").branch(reserve_stock()).branch(hold(twice())).branch(approval))
    .ends()
    .unwrap();
    scenario(&definition).starts(OrderPlaced { order: 80 })
}

// ---- 6 Before a step is in doubt -----------------------------------------------------------------------------------

#[test]
fn r6_a_step_that_was_done_after_all_goes_forward_with_its_reply() {
    in_question()
        .is_running()
        .status_of("authorise-payment")
        .is_done(authorised())
        .says(&["CapturePayment hold=9"])
        .is_running()
        .data(|order| assert_eq!(order.hold, 9))
        .succeeds("capture-payment", PaymentCaptured {})
        .succeeds("ship", shipped())
        .ends_completed();
}

#[test]
fn r6_a_step_that_was_rejected_after_all_is_as_one_rejected() {
    in_question()
        .status_of("authorise-payment")
        .is_rejected(declined())
        .says(&[])
        .ends_compensated("PaymentDeclined")
        .data(|order| assert_eq!(order.failure, "card"));
}

#[test]
fn r6_a_step_that_was_not_done_had_no_effect_and_the_saga_turns_back_for_the_timeout() {
    in_question()
        .status_of("authorise-payment")
        .is_not_done()
        .says(&[])
        .ends_compensated("no reply to attempt 1 within 10000 ms")
        .instance(|instance| {
            let not_done = NodeState::NoEffect(NoEffect::NotDone);
            assert!(instance.core.nodes.contains(&not_done), "{:?}", instance.core.nodes);
        });
}

#[test]
fn r6_a_step_whose_status_is_unknown_is_in_doubt_and_compensated_so() {
    in_question()
        .status_of("authorise-payment")
        .is_unknown()
        .says(&["compensate CancelPayment hold=none"])
        .compensates_payment()
        .ends_compensated("no reply to attempt 1");
}

#[test]
fn r6_a_question_without_any_answer_is_asked_again_and_then_leaves_the_step_in_doubt() {
    in_question()
        .times_out("authorise-payment")
        .says(&[])
        .times_out("authorise-payment")
        .says(&["status AuthorisePayment (attempt 2)"])
        .times_out("authorise-payment")
        .says(&["compensate CancelPayment hold=none"])
        .compensates_payment()
        .ends_compensated("no reply to attempt 1");
}

#[test]
fn r23_a_question_that_fails_for_now_at_a_held_destination_is_asked_anew_and_uses_up_no_attempt() {
    let mut saga = in_question();
    let node = paid_with(Retry::never()).unwrap().graph().find("authorise-payment").unwrap();
    for attempt in 1..=10 {
        let bytes = br#"{"code":"busy","message":"m","retriable":true,"effect":"none"}"#.to_vec();
        let body = Body { format: Format::Json, bytes };
        let held_until = Some(saga.now() + seconds(5));
        let (leg, key, attempt, name) = (Leg::Status, None, Some(attempt), "Failure".into());
        let busy = Reply { node, leg, key, attempt, held_until, name, body };
        saga = saga.takes_input(Input::Reply(busy), None).says(&[]).after(seconds(5));
        let next = format!("status AuthorisePayment (attempt {})", attempt.unwrap_or_default() + 1);
        saga = saga.says(&[&next]);
    }
    // Both that its policy has are left.
    let again = saga.fails("authorise-payment", passing("busy")).after(seconds(1));
    let last = again.says(&["status AuthorisePayment (attempt 12)"]).is_running();
    last.fails("authorise-payment", passing("busy")).is_turning_back();
}

#[test]
fn r6_a_question_that_fails_is_asked_again_where_that_may_help() {
    in_question()
        .fails("authorise-payment", passing("busy"))
        .says(&[])
        .never_answers("authorise-payment")
        .says(&["status AuthorisePayment (attempt 2)", "compensate CancelPayment hold=none"]);
    in_question()
        .fails("authorise-payment", lasting("unknown-command"))
        .says(&["compensate CancelPayment hold=none"]);
}

#[test]
fn r6_a_question_that_can_not_be_sent_is_asked_again_and_then_leaves_the_step_in_doubt() {
    in_question()
        .unsent("authorise-payment", "no route")
        .says(&[])
        .times_out("authorise-payment")
        .says(&["status AuthorisePayment (attempt 2)"])
        .unsent("authorise-payment", "no route")
        .says(&["compensate CancelPayment hold=none"]);
}

#[test]
fn r6_a_question_is_not_asked_again_after_a_code_that_its_policy_names() {
    let asked = AskStatus::within(seconds(5)).retry(twice().not_after(&["archived"]));
    let definition = saga(
        "archived",
        1,
        |event: &OrderPlaced| event.order,
        |event| Order { id: event.order, ..Order::default() },
    )
    .then(
        authorise()
            .on_rejection(|_, _| ())
            .reply_within(seconds(10))
            .retry(Retry::never())
            .status_by(asked)
            .compensated_by(|order, _| CancelPayment { order: order.id, hold: None }),
    )
    .ends()
    .unwrap();
    let in_question = || {
        let placed = scenario(&definition).starts(OrderPlaced { order: 80 });
        placed.times_out("authorise-payment").says(&["status AuthorisePayment"])
    };
    in_question().fails("authorise-payment", passing("busy")).says(&[]).is_running();
    in_question()
        .fails("authorise-payment", passing("archived"))
        .says(&["compensate CancelPayment hold=none"])
        .is_turning_back();
}

#[test]
fn r6_what_failed_with_an_unknown_effect_is_asked_about_and_what_had_none_is_not() {
    paid()
        .fails("authorise-payment", uncertain("crashed"))
        .says(&["status AuthorisePayment"])
        .status_of("authorise-payment")
        .is_not_done()
        .ends_compensated("crashed");
    paid().fails("authorise-payment", lasting("broken")).says(&[]).ends_compensated("broken");
    paid().unsent("authorise-payment", "no route").says(&[]).ends_compensated("no route");
}

#[test]
fn r6_an_attempt_that_could_not_be_sent_after_one_without_an_answer_is_asked_about() {
    scenario(&paid_with(twice()).unwrap())
        .starts(OrderPlaced { order: 80 })
        .times_out("authorise-payment")
        .times_out("authorise-payment")
        .says(&["AuthorisePayment order=80 (attempt 2)"])
        .unsent("authorise-payment", "no route")
        .says(&["status AuthorisePayment"]);
}

// ---- 7 A pivot -----------------------------------------------------------------------------------------------------

#[test]
fn r7_a_pivot_that_was_not_done_and_is_refused_from_now_on_turns_the_saga_back() {
    pivot_in_question()
        .cancels("ann", "changed my mind")
        .is_ignored("past-pivot")
        .status_of("capture-payment")
        .is_not_done()
        .says(&["compensate CancelPayment hold=9"])
        .compensates_payment()
        .ends_compensated("no reply to attempt 1");
}

#[test]
fn r7_a_pivot_that_was_done_goes_forward() {
    pivot_in_question()
        .status_of("capture-payment")
        .is_done(PaymentCaptured {})
        .says(&["ShipOrder order=80"]);
}

#[test]
fn r7_a_pivot_nobody_knows_of_is_asked_again_with_an_incident_and_asked_about_each_time() {
    pivot_in_question()
        .status_of("capture-payment")
        .is_unknown()
        .is_blocked("no reply to attempt 1")
        .says(&[])
        .times_out("capture-payment")
        .says(&["CapturePayment hold=9 (attempt 2)"])
        .times_out("capture-payment")
        .says(&["status CapturePayment (attempt 2)"])
        .is_blocked("no reply to attempt 1")
        .times_out("capture-payment")
        .says(&[])
        .is_running()
        .times_out("capture-payment")
        .says(&["CapturePayment hold=9 (attempt 3)"])
        .times_out("capture-payment")
        .says(&["status CapturePayment (attempt 3)"])
        .status_of("capture-payment")
        .is_not_done()
        .is_not_blocked()
        .says(&["compensate CancelPayment hold=9"]);
}

#[test]
fn r7_a_late_word_about_an_earlier_question_does_not_count_while_the_pivot_is_asked_again() {
    let asked_again = || {
        pivot_in_question()
            .status_of("capture-payment")
            .is_unknown()
            .times_out("capture-payment")
            .says(&["CapturePayment hold=9 (attempt 2)"])
            .status_of("capture-payment")
    };
    asked_again().is_not_done().is_ignored("earlier-attempt");
    asked_again().is_done(PaymentCaptured {}).is_ignored("earlier-attempt");
}

// ---- 4 What counts while a question is open ------------------------------------------------------------------------

#[test]
fn r4_a_late_reply_to_the_command_decides_while_the_question_is_open() {
    in_question().succeeds("authorise-payment", authorised()).says(&["CapturePayment hold=9"]);
    in_question().rejects("authorise-payment", declined()).ends_compensated("PaymentDeclined");
    late_failure(in_question()).is_ignored("earlier-attempt").is_running();
}

#[test]
fn r4_an_answer_that_comes_after_it_was_decided_is_ignored_or_a_duplicate() {
    in_question()
        .status_of("authorise-payment")
        .is_done(authorised())
        .redelivers()
        .is_duplicate()
        .succeeds("authorise-payment", authorised())
        .is_duplicate()
        .status_of("authorise-payment")
        .is_not_done()
        .is_ignored("already-settled");
    in_question()
        .status_of("authorise-payment")
        .is_unknown()
        .status_of("authorise-payment")
        .is_done(authorised())
        .is_ignored("already-settled")
        .compensates_payment();
    in_question()
        .status_of("authorise-payment")
        .is_not_done()
        .status_of("authorise-payment")
        .is_not_done()
        .is_ignored("has-ended");
}

#[test]
fn r4_an_answer_to_a_question_that_was_never_asked_is_ignored() {
    paid().status_of("authorise-payment").is_done(authorised()).is_ignored("not-asked");
    paid().status_of("capture-payment").is_not_done().is_ignored("not-asked");
}

#[test]
fn r4_unknown_speaks_of_its_own_question_and_done_of_all() {
    let second = || {
        in_question()
            .times_out("authorise-payment")
            .times_out("authorise-payment")
            .says(&["status AuthorisePayment (attempt 2)"])
    };
    let answer = |saga: Scenario<Order>, name: &str, body: &[u8], attempt| {
        answered(saga, Leg::Status, name, body, Some(attempt))
    };
    let unknown = br#"{"message":"m"}"#;
    answer(second(), StatusUnknown::NAME, unknown, 1).is_ignored("earlier-attempt").is_running();
    answer(second(), StatusUnknown::NAME, unknown, 2).is_turning_back();
    answer(second(), "PaymentAuthorised", br#"{"hold":9}"#, 1).says(&["CapturePayment"]);
    answer(second(), StatusNotDone::NAME, b"{}", 1).ends_compensated("no reply");
    let resting = in_question().times_out("authorise-payment");
    answer(resting, StatusUnknown::NAME, unknown, 1).is_ignored("earlier-attempt");
}

#[test]
fn r4_an_unknown_that_gives_no_reason_can_be_read() {
    answered(in_question(), Leg::Status, StatusUnknown::NAME, b"{}", None).is_turning_back();
}

// ---- 12 Turning back -----------------------------------------------------------------------------------------------

#[test]
fn r12_a_step_between_two_attempts_is_asked_about_before_anything_is_compensated() {
    beside()
        .succeeds("reserve-stock", reserved())
        .times_out("authorise-payment")
        .receives(OrderDeclined { order: 80, by: "ann".into() })
        .says(&["status AuthorisePayment"])
        .is_turning_back()
        .status_of("authorise-payment")
        .is_done(authorised())
        .says(&["compensate ReleaseStock reservation=3", "compensate CancelPayment hold=9"]);
}

#[test]
fn r12_an_attempt_under_way_is_awaited_and_then_asked_about_instead_of_asked_again() {
    beside()
        .succeeds("reserve-stock", reserved())
        .receives(OrderDeclined { order: 80, by: "ann".into() })
        .says(&[])
        .times_out("authorise-payment")
        .says(&["status AuthorisePayment"])
        .never_answers("authorise-payment")
        .says(&[
            "status AuthorisePayment (attempt 2)",
            "compensate ReleaseStock reservation=3",
            "compensate CancelPayment hold=none",
        ]);
}

#[test]
fn r12_a_question_goes_on_when_the_saga_turns_back_meanwhile() {
    in_question()
        .cancels("ann", "changed my mind")
        .says(&[])
        .is_turning_back()
        .status_of("authorise-payment")
        .is_not_done()
        .ends_compensated("changed my mind");
    in_question()
        .cancels("ann", "changed my mind")
        .times_out("authorise-payment")
        .retries("authorise-payment")
        .says(&["status AuthorisePayment (attempt 2)"])
        .status_of("authorise-payment")
        .is_done(authorised())
        .says(&["compensate CancelPayment hold=9"]);
}

#[test]
fn r12_a_step_whose_attempts_all_had_no_effect_is_not_asked_about() {
    beside()
        .succeeds("reserve-stock", reserved())
        .fails("authorise-payment", passing("busy"))
        .receives(OrderDeclined { order: 80, by: "ann".into() })
        .says(&["compensate ReleaseStock reservation=3"]);
}

// ---- What is sent and declared -------------------------------------------------------------------------------------

#[test]
fn a_question_goes_to_the_commands_channel_with_a_key_of_its_own_and_names_the_commands_key() {
    in_question().instance(|instance| {
        let key = |leg| instance.core.idempotency_key("authorise-payment", leg);
        assert_ne!(key(Leg::Status), key(Leg::Do));
        assert_ne!(key(Leg::Status), key(Leg::Compensate));
    });
    let definition = paid_with(Retry::never()).unwrap();
    let query = StatusQuery { idempotencykey: "k".into(), command: "AuthorisePayment".into() };
    let json = serde_json::to_string(&query).unwrap();
    assert_eq!(json, r#"{"idempotencykey":"k","command":"AuthorisePayment"}"#);
    let drawn = definition.graph().to_mermaid();
    assert!(drawn.contains("else asks its status, within 5 s"), "{drawn}");
}

#[test]
fn a_status_is_part_of_the_shape_and_its_time_limits_are_not() {
    let fingerprint = |block: Block<Order>| {
        saga("s", 1, |event: &OrderPlaced| event.order, |_: OrderPlaced| Order::default())
            .then(block)
            .ends()
            .unwrap()
            .fingerprint()
    };
    let plain = || authorise().on_rejection(|_, _| ()).reply_within(seconds(1));
    let none = fingerprint(plain().nothing_to_compensate("a test"));
    let with = |limit| plain().status_by(AskStatus::within(seconds(limit)));
    let one = fingerprint(with(1).nothing_to_compensate("a test"));
    assert_ne!(one, none);
    assert_eq!(one, fingerprint(with(2).nothing_to_compensate("a test")));
}

#[test]
fn a_status_without_time_or_of_a_step_that_is_asked_until_done_is_refused() {
    let errors = saga("s", 1, |event: &OrderPlaced| event.order, |_: OrderPlaced| Order::default())
        .then(
            step("capture-payment", |order: &Order| CapturePayment { hold: order.hold })
                .on_rejection(|_, _| ())
                .reply_within(seconds(1))
                .status_by(AskStatus::within(seconds(0)))
                .pivot(),
        )
        .then(
            step("ship", |order: &Order| ShipOrder { order: order.id, reservation: 0 })
                .reply_within(seconds(1))
                .status_by(AskStatus::within(seconds(1)))
                .retriable(),
        )
        .ends()
        .unwrap_err()
        .to_string();
    assert!(errors.contains("`capture-payment` waits for no time at all"), "{errors}");
    assert!(errors.contains("`ship` is retriable: it is asked until it is done"), "{errors}");
}

// ---- Every order ---------------------------------------------------------------------------------------------------

#[test]
fn sagas_that_ask_hold_under_every_order_of_inputs() {
    for definition in [paid_with(twice()).unwrap(), paid_with(Retry::never()).unwrap()] {
        let checked = definition.check();
        println!("{checked}");
        assert!(checked.is_sound(), "{checked}");
    }
}

#[test]
fn the_shortest_sequence_to_a_violation_tells_of_the_question() {
    let definition =
        saga("s", 1, |event: &OrderPlaced| event.order, |_: OrderPlaced| Order::default())
            .then(
                authorise()
                    .on_rejection(|_, _| ())
                    .reply_within(seconds(1))
                    .retry(Retry::never())
                    .status_by(AskStatus::within(seconds(1)))
                    .nothing_to_compensate("it is a test"),
            )
            .ends()
            .unwrap();
    // A definition without that reason is refused: only a graph out of a file can lack it.
    let mut graph = definition.graph().clone();
    let node = graph.find("authorise-payment").unwrap();
    let Kind::Step(step) = &mut graph.nodes[node.index()].kind else { unreachable!() };
    step.way_back = WayBack::Nothing { reason: " ".into() };
    let Checked { violations, .. } = check_graph(&graph);
    let left = violations.iter().find(|one| one.kind == ViolationKind::LeftInDoubt).unwrap();
    let text = left.to_string();
    for told in [
        "sends   dirigent.StatusQuery (status of authorise-payment)",
        "question 1 about its status is out",
        "status of authorise-payment is unknown",
    ] {
        assert!(text.contains(told), "{text}");
    }
}

// ---- Words these tests need ----------------------------------------------------------------------------------------

trait Compensated {
    fn compensates_payment(self) -> Self;
}

impl Compensated for Scenario<Order> {
    fn compensates_payment(self) -> Self {
        self.compensated("authorise-payment", PaymentCancelled { refunded: 1 })
    }
}

fn late_failure(saga: Scenario<Order>) -> Scenario<Order> {
    let failure = br#"{"code":"busy","message":"m","retriable":true,"effect":"none"}"#;
    answered(saga, Leg::Do, "Failure", failure, Some(1))
}

/// A reply about the hold, as it comes in.
fn answered(
    saga: Scenario<Order>,
    leg: Leg,
    name: &str,
    bytes: &[u8],
    attempt: Option<u32>,
) -> Scenario<Order> {
    let definition = paid_with(Retry::never()).unwrap();
    let node = definition.graph().find("authorise-payment").unwrap();
    let body = Body { format: Format::Json, bytes: bytes.to_vec() };
    let reply = Reply { node, leg, key: None, attempt, held_until: None, name: name.into(), body };
    saga.takes_input(Input::Reply(reply), None)
}
