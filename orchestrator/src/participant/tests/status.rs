//! The third duty: asked what became of a command, in every order of command, question, compensation and crash.

use super::*;
use crate::participant;
use dirigent_model::message::{StatusNotDone, StatusQuery, StatusUnknown};

/// The question about a command, as a saga asks it.
fn question_about(command: &Sending, attempt: u32) -> Sending {
    let attribute = |name| command.attributes.get(name).unwrap().to_owned();
    let query = StatusQuery {
        idempotencykey: attribute(names::IDEMPOTENCY_KEY),
        command: attribute(names::TYPE),
    };
    let mut question = sending(StatusQuery::NAME, Leg::Status, attempt, &query);
    let own = Uuid::new_v5(&Uuid::NAMESPACE_OID, query.idempotencykey.as_bytes());
    question.attributes.set(names::IDEMPOTENCY_KEY, own.to_string());
    question.attributes.set(SAGA_ID, attribute(SAGA_ID));
    question
}

#[tokio::test]
async fn what_was_done_is_answered_by_its_reply_and_echoes_the_question() {
    let mut bench = Bench::new().await;
    let running = bench.start(inventory()).await;
    says(&bench.asks(reserve("brush", 1)).await, Reserved { number: 1 });
    let question = question_about(&reserve("brush", 1), 2);
    let answer = bench.asks(question.clone()).await;
    says(&answer, Reserved { number: 1 });
    for echoed in
        [SAGA_ID, SAGA_STEP, SAGA_LEG, SAGA_ATTEMPT, names::IDEMPOTENCY_KEY, names::SUBJECT]
    {
        assert_eq!(answer.attributes.get(echoed), question.attributes.get(echoed), "{echoed}");
    }
    assert_eq!(answer.attributes.get(SAGA_LEG), Some("status"));
    assert_eq!(bench.record::<u64>("reserved"), Some(1));
    let counts = running.stop().await.unwrap();
    assert_eq!((counts.done, counts.questions, counts.sealed), (1, 1, 0));
}

#[tokio::test]
async fn what_was_rejected_is_answered_by_its_rejection() {
    let mut bench = Bench::new().await;
    let _running = bench.start(inventory()).await;
    bench.asks(reserve("gone", 1)).await;
    let answer = bench.asks(question_about(&reserve("gone", 1), 1)).await;
    says(&answer, SoldOut { sku: "gone".into() });
}

#[tokio::test]
async fn a_command_that_comes_after_the_answer_not_done_is_refused() {
    let mut bench = Bench::new().await;
    let running = bench.start(inventory()).await;
    let question = question_about(&reserve("brush", 1), 1);
    says(&bench.asks(question.clone()).await, StatusNotDone {});
    fails(&bench.asks(reserve("brush", 1)).await, "sealed", false, FailureEffect::None);
    fails(&bench.asks(reserve("brush", 2)).await, "sealed", false, FailureEffect::None);
    says(&bench.asks(question).await, StatusNotDone {});
    assert_eq!(bench.record::<u64>("reserved"), None);
    let counts = running.stop().await.unwrap();
    assert_eq!((counts.questions, counts.sealed, counts.refused, counts.done), (2, 1, 2, 0));
}

#[tokio::test]
async fn the_answer_not_done_binds_after_a_restart() {
    let mut bench = Bench::new().await;
    let running = bench.start(inventory()).await;
    says(&bench.asks(question_about(&reserve("brush", 1), 1)).await, StatusNotDone {});
    drop(running);
    let _running = bench.start(inventory()).await;
    fails(&bench.asks(reserve("brush", 1)).await, "sealed", false, FailureEffect::None);
}

#[tokio::test]
async fn a_question_and_the_command_behind_it_in_one_window_are_taken_in_their_order() {
    let mut bench = Bench::new().await;
    bench.send(&[question_about(&reserve("brush", 1), 1), reserve("brush", 1)]).await;
    let first = of_saga(2, reserve("brush", 1));
    bench.send(&[first.clone(), question_about(&first, 1)]).await;
    let _running = bench.start(inventory()).await;
    let replies = bench.hears(4).await;
    says(&replies[0], StatusNotDone {});
    fails(&replies[1], "sealed", false, FailureEffect::None);
    says(&replies[2], Reserved { number: 1 });
    says(&replies[3], Reserved { number: 1 });
}

#[tokio::test]
async fn an_attempt_that_failed_without_effect_was_not_done_and_no_later_one_is_carried_out() {
    let mut bench = Bench::new().await;
    let _running = bench.start(inventory()).await;
    fails(&bench.asks(reserve("broken", 1)).await, "broken", true, FailureEffect::None);
    says(&bench.asks(question_about(&reserve("broken", 1), 1)).await, StatusNotDone {});
    fails(&bench.asks(reserve("brush", 2)).await, "sealed", false, FailureEffect::None);
    assert_eq!(bench.record::<u64>("reserved"), None);
}

#[tokio::test]
async fn what_may_have_left_an_effect_is_unknown_and_its_compensation_is_carried_out() {
    let mut bench = Bench::new().await;
    let _running = bench.start(inventory()).await;
    fails(&bench.asks(reserve("bomb", 1)).await, "panicked", true, FailureEffect::Unknown);
    let answer = bench.asks(question_about(&reserve("bomb", 1), 1)).await;
    assert_eq!(answer.attributes.get(names::TYPE), Some(StatusUnknown::NAME));
    says(&bench.asks(release(1)).await, Released { had: false });
    assert_eq!(bench.record::<u64>("released"), Some(1));
}

#[tokio::test]
async fn a_compensation_after_the_answer_not_done_finds_nothing_to_undo() {
    let mut bench = Bench::new().await;
    let _running = bench.start(inventory()).await;
    says(&bench.asks(question_about(&reserve("brush", 1), 1)).await, StatusNotDone {});
    says(&bench.asks(release(1)).await, Released { had: false });
    assert_eq!(bench.record::<u64>("released"), None);
}

#[tokio::test]
async fn a_question_after_a_compensation_that_came_first_is_answered_by_not_done() {
    let mut bench = Bench::new().await;
    let _running = bench.start(inventory()).await;
    says(&bench.asks(release(1)).await, Released { had: false });
    says(&bench.asks(question_about(&reserve("brush", 1), 1)).await, StatusNotDone {});
    fails(&bench.asks(reserve("brush", 1)).await, "sealed", false, FailureEffect::None);
}

#[tokio::test]
async fn a_question_about_a_command_nobody_here_knows_seals_nothing() {
    let mut bench = Bench::new().await;
    let running = bench.start(inventory()).await;
    let unknown = sending("Explode", Leg::Do, 1, Release {});
    let answer = bench.asks(question_about(&unknown, 1)).await;
    fails(&answer, "unknown-command", false, FailureEffect::Unknown);
    assert_eq!(running.stop().await.unwrap().sealed, 0);
}

#[tokio::test]
async fn a_question_that_can_not_be_understood_is_answered_so() {
    let mut bench = Bench::new().await;
    let _running = bench.start(inventory()).await;
    let mut odd = question_about(&reserve("brush", 1), 1);
    odd.body = b"{}".as_slice().into();
    fails(&bench.asks(odd.clone()).await, "undecodable", false, FailureEffect::Unknown);
    let long = StatusQuery { idempotencykey: "x".repeat(257), command: Reserve::NAME.into() };
    odd.body = serde_json::to_vec(&long).unwrap().into();
    fails(&bench.asks(odd).await, "undecodable", false, FailureEffect::Unknown);
}

#[tokio::test]
async fn looking_into_the_store_shows_a_seal_as_not_done_and_makes_none() {
    let mut bench = Bench::new().await;
    let running = bench.start(inventory()).await;
    let command = of_saga(1, reserve("brush", 1));
    let status = |store: &dyn Store| participant::status(store, "key-1").unwrap();
    assert_eq!(status(&*bench.store), Status::NotDone);
    says(&bench.asks(command.clone()).await, Reserved { number: 1 });
    let sealed = of_saga(2, reserve("brush", 1));
    bench.asks(question_about(&sealed, 1)).await;
    assert_eq!(participant::status(&*bench.store, "key-2").unwrap(), Status::NotDone);
    assert_eq!(running.stop().await.unwrap().refused, 0);
}
