//! The kit is tried on participants that fail one duty each, on one by hand that fails none, and on the participant kit.

use super::{
    sloppy::{Release, Released, Reserve, Reserved, Sloppy, SoldOut, start},
    *,
};
use crate::{
    envelope::{SAGA_ATTEMPT, SAGA_ID, SAGA_LEG, SAGA_RUN, SAGA_STEP},
    participant::{Answer, Participant, Records},
    store::MemoryStore,
};
use dirigent_connectors::{memory::MemoryBroker, names};

fn stock() -> Conformance {
    Conformance::of("stock").case(
        Case::of(|number| (number, Reserve { order: number, pieces: 1 }))
            .undone_by(|number| (number, Release { order: number }))
            .refused(|number| (number, Reserve { order: number, pieces: 1_000 })),
    )
}

async fn played(how: Sloppy) -> Report {
    let broker = MemoryBroker::new();
    let participant = start(&broker, how).await;
    let report = stock().play(Arc::new(broker), "run").await.unwrap();
    participant.abort();
    report
}

/// The first check that was failed, and the duty named.
fn first_breach(report: &Report) -> Option<(Check, Duty)> {
    report.checks.iter().find_map(|checked| match &checked.outcome {
        Outcome::Broken { duty, .. } => Some((checked.check, *duty)),
        Outcome::Kept { .. } | Outcome::Skipped { .. } => None,
    })
}

#[track_caller]
fn only_fails(report: &Report, check: Check, duty: Duty) {
    assert_eq!(first_breach(report), Some((check, duty)), "{report}");
    assert_eq!(report.failed(), [duty], "{report}");
}

#[tokio::test(start_paused = true)]
async fn one_that_was_written_by_hand_and_keeps_its_duties_fails_nothing() {
    let report = played(Sloppy::Not).await;
    assert!(report.is_good(), "{report}");
    assert_eq!(report.checks.len(), Check::ALL.len());
    let advised = |checked: &&Checked| !matches!(&checked.outcome, Outcome::Kept { advice } if advice.is_empty());
    assert_eq!(report.checks.iter().filter(advised).count(), 0, "{report}");
}

#[tokio::test(start_paused = true)]
async fn one_that_does_what_it_is_asked_however_often_fails_the_first_duty() {
    let report = played(Sloppy::DoesEverything).await;
    assert_eq!(first_breach(&report), Some((Check::Once, Duty::Once)), "{report}");
}

#[tokio::test(start_paused = true)]
async fn one_that_answers_a_repeat_differently_fails_the_first_duty() {
    let report = played(Sloppy::AnswersRepeatsDifferently).await;
    assert_eq!(first_breach(&report), Some((Check::Once, Duty::Once)), "{report}");
}

#[tokio::test(start_paused = true)]
async fn one_that_says_nothing_to_a_repeat_fails_the_first_duty() {
    let report = played(Sloppy::IgnoresRepeats).await;
    let breaches = |check| report.checks.iter().any(|one| one.check == check && one.is_broken());
    assert!(breaches(Check::Once) && breaches(Check::Late), "{report}");
    assert!(report.failed().contains(&Duty::Once), "{report}");
}

#[tokio::test(start_paused = true)]
async fn one_that_forgets_a_compensation_of_nothing_fails_the_second_duty() {
    let report = played(Sloppy::ForgetsCompensations).await;
    only_fails(&report, Check::CompensationFirst, Duty::CompensationWins);
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_a_compensation_of_nothing_fails_the_second_duty() {
    let report = played(Sloppy::FailsCompensationOfNothing).await;
    only_fails(&report, Check::CompensationFirst, Duty::CompensationWins);
}

#[tokio::test(start_paused = true)]
async fn one_that_knows_a_compensation_by_its_business_key_alone_fails_the_second_duty() {
    let report = played(Sloppy::MarksByBusinessKey).await;
    only_fails(&report, Check::OwnStepAndRun, Duty::CompensationWins);
}

#[tokio::test(start_paused = true)]
async fn one_that_answers_not_done_and_then_does_it_fails_the_third_duty() {
    let report = played(Sloppy::SealsNothing).await;
    only_fails(&report, Check::StatusDone, Duty::Status);
    let text = report.to_string();
    assert!(
        text.contains("Reserve came after the answer `not done` and was done all the same"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_never_knows_is_asked_to_answer_not_done_and_fails_where_it_had_answered() {
    let report = played(Sloppy::NeverKnows).await;
    only_fails(&report, Check::StatusDone, Duty::Status);
    assert!(report.to_string().contains("better: answer `dirigent.StatusNotDone`"), "{report}");
}

#[tokio::test(start_paused = true)]
async fn one_that_knows_no_status_fails_the_third_duty_unless_nobody_asks_for_it() {
    let report = played(Sloppy::KnowsNoStatus).await;
    only_fails(&report, Check::StatusDone, Duty::Status);
    let broker = MemoryBroker::new();
    let participant = start(&broker, Sloppy::KnowsNoStatus).await;
    let case = Case::of(|number| (number, Reserve { order: number, pieces: 1 })).without_status();
    let report = Conformance::of("stock").case(case).play(Arc::new(broker), "run").await.unwrap();
    participant.abort();
    assert!(report.is_good(), "{report}");
}

#[tokio::test(start_paused = true)]
async fn one_that_forgets_an_echo_is_told_which() {
    for name in [SAGA_ID, SAGA_RUN, SAGA_STEP, SAGA_LEG, names::IDEMPOTENCY_KEY] {
        let report = played(Sloppy::Forgets(name)).await;
        only_fails(&report, Check::Echoes, Duty::Answers);
        assert!(report.to_string().contains(&format!("does not echo `{name}`")), "{report}");
    }
    let report = played(Sloppy::Forgets(SAGA_ATTEMPT)).await;
    assert!(
        report.is_good() && report.to_string().contains("better: echo `sagaattempt`"),
        "{report}"
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_answers_somewhere_else_is_told_where_it_was_to_answer() {
    let report = played(Sloppy::AnswersAtHome).await;
    only_fails(&report, Check::ReplyTo, Duty::Answers);
    assert!(report.to_string().contains("`run.other-replies`"), "{report}");
}

#[tokio::test(start_paused = true)]
async fn one_that_ends_on_what_it_can_not_handle_is_played_no_further() {
    for (how, check) in [
        (Sloppy::EndsOnUndecodable, Check::UnknownVersion),
        (Sloppy::EndsOnUnknown, Check::UnknownCommand),
    ] {
        let report = played(how).await;
        only_fails(&report, check, Duty::Survives);
        assert_eq!(report.stopped_after, Some(format!("{} of Reserve", check.name())));
        assert_eq!(report.checks.last().map(|last| last.check), Some(check), "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_guesses_what_it_can_not_read_is_told_what_it_answered() {
    let report = played(Sloppy::GuessesBodies).await;
    only_fails(&report, Check::UnknownVersion, Duty::Survives);
    let text = report.to_string();
    assert!(text.contains("sent  Reserve sagaleg=do"), "{text}");
    assert!(text.contains("came  Reserved sagaleg=do"), "{text}");
    assert!(text.contains(Duty::Survives.text()), "{text}");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_not_there_is_told_apart_from_one_that_fails() {
    let report = stock().play(Arc::new(MemoryBroker::new()), "run").await.unwrap();
    only_fails(&report, Check::Answers, Duty::Answers);
    assert_eq!(report.checks.len(), 1);
    assert!(report.to_string().contains("not answered within 10 s"), "{report}");
    let nothing = Conformance::of("stock").play(Arc::new(MemoryBroker::new()), "run").await;
    assert!(matches!(nothing, Err(ConformanceError::NoCase { .. })));
}

/// A stock by the participant kit, whose records say what was done.
fn by_the_kit() -> Participant {
    Participant::new("stock")
        .on::<Reserve>(|tx, command, _| {
            if command.pieces > 100 {
                return Answer::Rejected(SoldOut { order: command.order });
            }
            let times = tx.get_as::<u64>(format!("applied/{}", command.order)).unwrap_or(0) + 1;
            tx.put_as(format!("applied/{}", command.order), &times);
            let number = tx.get_as::<u64>("last").unwrap_or(0) + 1;
            tx.put_as("last", &number);
            Answer::Done(Reserved { number })
        })
        .undoes::<Release, Reserve>(
            |tx, command, _| {
                let times = tx.get_as::<u64>(format!("undone/{}", command.order)).unwrap_or(0) + 1;
                tx.put_as(format!("undone/{}", command.order), &times);
                Answer::Done(Released { had: true })
            },
            |_, _| Released { had: false },
        )
}

/// Reads those records, and adds to them what is to be seen.
struct Books {
    store: Arc<MemoryStore>,
    added: Effects,
}

#[async_trait]
impl Probe for Books {
    async fn effects(&self, _command: &str, key: &str) -> Result<Effects, ProbeError> {
        let read = |kind: &str| -> Result<u64, ProbeError> {
            let record = Records::of(&*self.store).get(format!("{kind}/{key}").as_bytes())?;
            Ok(record.map(|record| serde_json::from_slice(&record)).transpose()?.unwrap_or(0))
        };
        let (applied, undone) = (read("applied")?, read("undone")?);
        let had = u64::from(applied > 0);
        Ok(Effects {
            applied: applied + had * self.added.applied,
            undone: undone + had * self.added.undone,
        })
    }
}

async fn played_by_the_kit(added: Effects) -> Report {
    let (broker, store) = (MemoryBroker::new(), Arc::new(MemoryStore::new()));
    let running = by_the_kit().start(Arc::new(broker.clone()), store.clone()).await.unwrap();
    let probe = Arc::new(Books { store, added });
    let report = stock().probe(probe).play(Arc::new(broker), "run").await.unwrap();
    running.stop().await.unwrap();
    report
}

#[tokio::test]
async fn the_participant_kit_keeps_all_duties_and_its_books_prove_it() {
    let report = played_by_the_kit(Effects::default()).await;
    assert!(report.is_good(), "{report}");
    assert!(report.to_string().ends_with("all duties are kept (21 checks)"), "{report}");
}

#[tokio::test]
async fn effects_that_only_the_books_show_are_named_too() {
    let report = played_by_the_kit(Effects { applied: 1, undone: 0 }).await;
    assert_eq!(first_breach(&report), Some((Check::Answers, Duty::Once)), "{report}");
    assert!(report.to_string().contains("applied 2 times and undone 0 times"), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_report_for_programs_says_check_duty_and_what_was_sent() {
    let report = serde_json::to_value(played(Sloppy::ForgetsCompensations).await).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let broken = checks.iter().find(|check| check["outcome"] == "broken").unwrap();
    assert_eq!(broken["check"], "compensation-first");
    assert_eq!(broken["duty"], "compensation-wins");
    assert!(broken["sent"][0].as_str().unwrap().starts_with("Release sagaleg=compensate"));
    assert_eq!(report["stopped_after"], serde_json::Value::Null);
}
