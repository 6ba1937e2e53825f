//! Rule 23: what its destination holds does not count.

use super::{order, sagas::*, secured};
use dirigent_model::{
    decision::{Hold, Input, Reply},
    definition::{AskStatus, pause, saga, step},
    history::What,
    instance::{Leg, NodeState},
    message::{Body, Failure, Format, JsonOnly, Message},
    scenario::{Scenario, lasting, passing},
    transition::destination,
};
use std::time::Duration;

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
fn r23_a_failure_for_now_of_a_held_destination_is_asked_anew_and_uses_up_no_attempt() {
    // Three attempts: ten of them are excused, each with its own number, since a participant answers one attempt the same for ever.
    let mut saga = secured_but_stock();
    for attempt in 1..=10 {
        let busy = saga_reply(&saga, attempt, &passing("busy"), seconds(5));
        let next = format!("ReserveStock order=80 (attempt {})", attempt + 1);
        saga = saga.takes_input(busy, Some("r")).says(&[]).after(seconds(5)).says(&[&next]);
    }
    // The two that are left count, and their delays begin with the first one's: at most 200 ms and 400 ms.
    let out = saga.fails("reserve-stock", passing("busy")).after(Duration::from_millis(200));
    let last = out.says(&["ReserveStock (attempt 12)"]).fails("reserve-stock", passing("busy"));
    let last = last.after(Duration::from_millis(400)).says(&["ReserveStock (attempt 13)"]);
    last.fails("reserve-stock", passing("busy")).is_turning_back();
}

#[test]
fn r23_what_was_not_answered_is_asked_as_the_attempt_that_it_was() {
    for hold in [Hold::GivenBack, Hold::Left] {
        secured_but_stock()
            .held("reserve-stock", hold, seconds(30))
            .after(seconds(30))
            .says(&["ReserveStock order=80"])
            .instance(|instance| {
                let asked = instance.core.nodes.iter().find_map(NodeState::asked).unwrap().1;
                assert_eq!((asked.attempt, asked.excused), (1, 0));
            });
    }
}

#[test]
fn r23_a_failure_that_will_last_is_an_answer_whatever_its_destination_does() {
    let saga = secured_but_stock();
    let closed = saga_reply(&saga, 1, &lasting("closed"), seconds(5));
    saga.takes_input(closed, Some("r")).is_turning_back();
}

#[test]
fn r23_an_answer_to_an_attempt_that_is_excused_counts_if_it_is_a_success() {
    let saga = secured_but_stock();
    let busy = saga_reply(&saga, 1, &passing("busy"), seconds(5));
    let saga = saga.takes_input(busy, Some("r")).after(seconds(5)).says(&["ReserveStock"]);
    let late = saga_reply(&saga, 1, &lasting("closed"), seconds(5));
    let saga = saga.takes_input(late, Some("late")).is_ignored("earlier-attempt");
    saga.succeeds("reserve-stock", reserved()).says(&["CapturePayment"]);
}

#[test]
fn r23_a_compensation_that_fails_for_now_at_a_held_destination_is_asked_anew_and_never_blocks() {
    let mut saga = order(80).rejects("authorise-payment", declined()).times_out("reserve-stock");
    for attempt in 1..=20 {
        let reply = saga_reply(&saga, attempt, &passing("busy"), seconds(5));
        let Input::Reply(reply) = reply else { unreachable!() };
        let busy = Input::Reply(Reply { leg: Leg::Compensate, ..reply });
        let next = format!("compensate ReleaseStock (attempt {})", attempt + 1);
        saga = saga.takes_input(busy, Some("r")).after(seconds(5)).says(&[&next]).is_not_blocked();
    }
    saga.compensates("reserve-stock").ends_compensated("card");
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

#[test]
fn r23_a_wait_whose_event_could_not_be_heard_goes_on_and_takes_it() {
    let day = seconds(24 * 60 * 60);
    secured(1_000)
        .after(day - seconds(1))
        .unheard("approval", seconds(600))
        .says(&[])
        .after(seconds(599))
        .is_running()
        .receives(OrderApproved { order: 1_000 })
        .says(&["CapturePayment"]);
    secured(1_000)
        .after(day - seconds(1))
        .unheard("approval", seconds(600))
        .after(seconds(600))
        .is_turning_back();
}

#[test]
fn r23_the_history_tells_once_that_nothing_was_heard() {
    let mut saga = secured(1_000);
    for _ in 0..100 {
        saga = saga.unheard("approval", seconds(30)).after(seconds(29));
    }
    saga.instance(|instance| {
        let lines = instance.history.lines();
        assert_eq!(lines.iter().filter(|line| line.what == What::Unheard).count(), 1);
    });
}

#[test]
fn r23_only_a_wait_that_is_open_is_prolonged() {
    let asked = order(80).unheard("reserve-stock", seconds(30)).is_ignored("already-settled");
    asked.times_out("reserve-stock").after(seconds(1)).says(&["ReserveStock (attempt 2)"]);
    secured(1_000)
        .receives(OrderApproved { order: 1_000 })
        .unheard("approval", seconds(30))
        .is_ignored("already-settled");
    secured(1_000).kills("ann", "test").unheard("approval", seconds(30)).is_ignored("has-ended");
}

#[test]
fn r23_a_compensation_is_held_where_its_own_command_goes_and_a_question_where_the_steps_command_goes()
 {
    let definition = saga(
        "apart",
        1,
        |event: &OrderPlaced| event.order,
        |event| Order { id: event.order, ..Order::default() },
    )
    .then(
        step("reserve-stock", |order: &Order| ReserveStock { order: order.id })
            .on_rejection(|_, _| ())
            .reply_within(seconds(10))
            .status_by(AskStatus::within(seconds(5)))
            .compensated_by(|order, _| CancelPayment { order: order.id, hold: None }),
    )
    .then(pause("rest", seconds(1)))
    .ends()
    .unwrap();
    let graph = definition.graph();
    let goes_to = |name: &str, leg| destination(graph, graph.find(name).unwrap(), leg);
    let stock = [Leg::Do, Leg::Status, Leg::Compensate].map(|leg| goes_to("reserve-stock", leg));
    assert_eq!(stock, [Some("inventory"), Some("inventory"), Some("payments")]);
    assert_eq!(goes_to("rest", Leg::Do), None);
}

fn secured_but_stock() -> Scenario<Order> {
    order(80).succeeds("authorise-payment", authorised())
}

fn held_input(saga: &Scenario<Order>, step: &str, attempt: u32) -> Input {
    let node = order_saga().unwrap().graph().find(step).unwrap();
    let until = saga.now() + seconds(1);
    Input::Held { node, leg: Leg::Do, attempt, hold: Hold::GivenBack, until }
}

fn saga_reply(saga: &Scenario<Order>, attempt: u32, failure: &Failure, span: Duration) -> Input {
    Input::Reply(Reply {
        node: order_saga().unwrap().graph().find("reserve-stock").unwrap(),
        leg: Leg::Do,
        key: None,
        attempt: Some(attempt),
        held_until: Some(saga.now() + span),
        name: Failure::NAME.into(),
        body: Body::write(failure, Format::Json, &JsonOnly).unwrap(),
    })
}
