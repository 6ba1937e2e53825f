//! The third duty: what became of a command, asked after it was done, after it was refused, and before it ever came.

use super::{
    super::{
        Effects,
        case::{Played, Sample},
        report::Duty,
        stage::{Said, Stage},
    },
    judge::{Advice, Stop, all_the_same, broken, done, first, of, refused, unanswered},
};
use dirigent_connectors::Message;
use dirigent_model::instance::Leg;

pub(super) async fn of_done(case: &Played, stage: &mut Stage<'_>) -> Result<Advice, Stop> {
    told(case)?;
    let saga = stage.saga();
    let command = done(case, stage, &saga).await?;
    as_then(&case.command, &command, &saga_questions(case, stage, &saga)?, stage).await
}

pub(super) async fn of_refused(case: &Played, stage: &mut Stage<'_>) -> Result<Advice, Stop> {
    told(case)?;
    let Some(refused) = &case.refused else {
        return Err(Stop::Skip("there is no sample of one that is refused"));
    };
    let saga = stage.saga();
    let command = stage.message(refused, &saga, Leg::Do, 1)?;
    first(stage, &command, Duty::Answers).await?;
    let questions = [stage.question(refused, &saga, 1)?, stage.question(refused, &saga, 2)?];
    as_then(refused, &command, &questions, stage).await
}

/// *Not done* is binding: the command is refused however late it comes.
pub(super) async fn of_unseen(case: &Played, stage: &mut Stage<'_>) -> Result<Advice, Stop> {
    told(case)?;
    let saga = stage.saga();
    let questions = saga_questions(case, stage, &saga)?;
    let said = answered(&case.command, &questions, stage).await?;
    let is_certain = match said {
        Said::NotDone => true,
        Said::Unknown => false,
        other => {
            return broken(
                Duty::Status,
                format!("asked about a command that never came, it answered by {}", of(&other)),
            );
        }
    };
    let late = stage.message(&case.command, &saga, Leg::Do, 1)?;
    if !stage.ask(std::slice::from_ref(&late)).await? {
        return unanswered(stage, Duty::Status, "a command behind a question about it was");
    }
    if !is_certain {
        return Ok(vec![
            "answer `dirigent.StatusNotDone` where it was not done and refuse it from then on: what is unknown is compensated as in doubt".into(),
        ]);
    }
    for answer in stage.answers(&late) {
        refused(stage, &case.command, answer, Duty::Status)?;
    }
    match stage.effects(&case.command, &saga).await? {
        Some(Effects { applied, .. }) if applied > 0 => broken(
            Duty::Status,
            format!("what was answered `not done` then took effect {applied} times"),
        ),
        Some(_) | None => Ok(vec![]),
    }
}

fn saga_questions(
    case: &Played,
    stage: &Stage<'_>,
    saga: &super::super::stage::Saga,
) -> Result<[Message; 2], Stop> {
    Ok([stage.question(&case.command, saga, 1)?, stage.question(&case.command, saga, 2)?])
}

fn told(case: &Played) -> Result<(), Stop> {
    if case.tells_status { Ok(()) } else { Err(Stop::Skip("no definition asks for it")) }
}

/// What is answered to both questions, the same.
async fn answered(
    sample: &Sample,
    questions: &[Message; 2],
    stage: &mut Stage<'_>,
) -> Result<Said, Stop> {
    for question in questions {
        if !stage.ask(std::slice::from_ref(question)).await? {
            return unanswered(stage, Duty::Status, "a question about a command was");
        }
    }
    all_the_same(stage, sample, &questions[0], Duty::Status)
}

/// The question is answered as the command was.
async fn as_then(
    sample: &Sample,
    command: &Message,
    questions: &[Message; 2],
    stage: &mut Stage<'_>,
) -> Result<Advice, Stop> {
    let then = all_the_same(stage, sample, command, Duty::Once)?;
    let now = answered(sample, questions, stage).await?;
    if now.is_same(&then) {
        return Ok(vec![]);
    }
    broken(
        Duty::Status,
        format!(
            "{} was answered by {}, and the question about it by {}",
            sample.name,
            of(&then),
            of(&now)
        ),
    )
}
