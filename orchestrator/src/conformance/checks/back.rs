//! The second duty: compensations asked again, before their command, behind it, of others, and all of it at once.

use super::{
    super::{Effects, case::Played, report::Duty, stage::Stage},
    MANY, OTHER_STEP,
    judge::{
        Advice, Stop, all_said, all_the_same, broken, counted, done, first, is_refusal, of,
        refused, success, unanswered, undo_of, undone,
    },
};
use dirigent_model::instance::Leg;

pub(super) async fn compensates_once(case: &Played, stage: &mut Stage<'_>) -> Result<Advice, Stop> {
    let undo = undo_of(case)?;
    let saga = stage.saga();
    done(case, stage, &saga).await?;
    let back = stage.message(undo, &saga, Leg::Compensate, 1)?;
    undone(stage, undo, &back, Duty::CompensationWins).await?;
    let again = stage.message(undo, &saga, Leg::Compensate, 2)?;
    if !stage.ask(&[back.clone(), back, again.clone()]).await? {
        return unanswered(stage, Duty::CompensationWins, "a compensation that came again was");
    }
    all_the_same(stage, undo, &again, Duty::CompensationWins)?;
    counted(case, stage, &saga, Duty::CompensationWins, 1, 1).await?;
    Ok(vec![])
}

pub(super) async fn compensation_first(
    case: &Played,
    stage: &mut Stage<'_>,
) -> Result<Advice, Stop> {
    let undo = undo_of(case)?;
    let saga = stage.saga();
    let back = stage.message(undo, &saga, Leg::Compensate, 1)?;
    undone(stage, undo, &back, Duty::CompensationWins).await?;
    for attempt in [1, 2] {
        let late = stage.message(&case.command, &saga, Leg::Do, attempt)?;
        if !stage.ask(std::slice::from_ref(&late)).await? {
            return unanswered(
                stage,
                Duty::CompensationWins,
                "a command behind its compensation was",
            );
        }
        for answer in stage.answers(&late) {
            refused(stage, &case.command, answer, Duty::CompensationWins)?;
        }
    }
    let again = stage.message(undo, &saga, Leg::Compensate, 2)?;
    if !stage.ask(std::slice::from_ref(&again)).await? {
        return unanswered(stage, Duty::CompensationWins, "a compensation that came again was");
    }
    all_the_same(stage, undo, &again, Duty::CompensationWins)?;
    counted(case, stage, &saga, Duty::CompensationWins, 0, 0).await?;
    Ok(vec![])
}

pub(super) async fn compensation_stays(
    case: &Played,
    stage: &mut Stage<'_>,
) -> Result<Advice, Stop> {
    let undo = undo_of(case)?;
    let saga = stage.saga();
    let asked = done(case, stage, &saga).await?;
    let back = stage.message(undo, &saga, Leg::Compensate, 1)?;
    undone(stage, undo, &back, Duty::CompensationWins).await?;
    let again = stage.message(&case.command, &saga, Leg::Do, 2)?;
    if !stage.ask(&[asked.clone(), again]).await? {
        return unanswered(stage, Duty::CompensationWins, "a command behind its compensation was");
    }
    let said = all_said(stage, &case.command, &asked);
    let Some((first, later)) = said.split_first() else {
        return unanswered(stage, Duty::Answers, "a command was");
    };
    for later in later.iter().filter(|later| !later.is_same(first)) {
        is_refusal(case.command.name, later, Duty::CompensationWins)?;
    }
    let again = stage.message(undo, &saga, Leg::Compensate, 2)?;
    if !stage.ask(std::slice::from_ref(&again)).await? {
        return unanswered(stage, Duty::CompensationWins, "a compensation that came again was");
    }
    all_the_same(stage, undo, &again, Duty::CompensationWins)?;
    counted(case, stage, &saga, Duty::CompensationWins, 1, 1).await?;
    Ok(vec![])
}

pub(super) async fn own_step_and_run(case: &Played, stage: &mut Stage<'_>) -> Result<Advice, Stop> {
    let undo = undo_of(case)?;
    for is_of_run in [false, true] {
        let saga = stage.saga();
        let (other, own) = if is_of_run {
            (saga.clone(), saga.in_run(1))
        } else {
            (saga.at_step(OTHER_STEP), saga.clone())
        };
        let back = stage.message(undo, &other, Leg::Compensate, 1)?;
        undone(stage, undo, &back, Duty::CompensationWins).await?;
        let asked = stage.message(&case.command, &own, Leg::Do, 1)?;
        first(stage, &asked, Duty::Answers).await?;
        for answer in stage.answers(&asked) {
            let said = stage.said(&case.command, answer);
            if !said.is_success() {
                let whose = if is_of_run { "an earlier run" } else { "another step" };
                return broken(
                    Duty::CompensationWins,
                    format!(
                        "a compensation of {whose} kept a command from being done: {}",
                        of(&said)
                    ),
                );
            }
        }
        counted(case, stage, &own, Duty::CompensationWins, 1, 0).await?;
    }
    Ok(vec![])
}

/// Every second saga turns back before its command comes; everything comes twice, and between that of the others.
pub(super) async fn storm(case: &Played, stage: &mut Stage<'_>) -> Result<Advice, Stop> {
    let undo = undo_of(case)?;
    let mut sagas = Vec::with_capacity(MANY);
    for index in 0..MANY {
        let saga = stage.saga();
        let asked = stage.message(&case.command, &saga, Leg::Do, 1)?;
        let back = stage.message(undo, &saga, Leg::Compensate, 1)?;
        sagas.push((saga, asked, back, index % 2 == 0));
    }
    let mut window = Vec::with_capacity(4 * MANY);
    // A step that no other count divides: what belongs together is far apart and the neighbours change with every round.
    for (round, step) in [5, 7, 11, 13].into_iter().enumerate() {
        for index in 0..MANY {
            let (_, asked, back, back_first) = &sagas[(index * step + round) % MANY];
            let is_back = (round % 2 == 0) == *back_first;
            window.push(if is_back { back.clone() } else { asked.clone() });
        }
    }
    if !stage.ask(&window).await? {
        return unanswered(stage, Duty::Answers, "some of many commands and compensations were");
    }
    for (saga, asked, back, _) in &sagas {
        all_the_same(stage, undo, back, Duty::CompensationWins)?;
        for answer in stage.answers(back) {
            success(stage, undo, answer, Duty::CompensationWins)?;
        }
        let said = all_said(stage, &case.command, asked);
        let mut done = said.iter().filter(|said| said.is_success());
        if let Some(first) = done.next()
            && !done.all(|other| other.is_same(first))
        {
            return broken(Duty::Once, "the same command was answered by two different successes");
        }
        for other in said.iter().filter(|said| !said.is_success()) {
            is_refusal(case.command.name, other, Duty::CompensationWins)?;
        }
        if let Some(Effects { applied, undone }) = stage.effects(&case.command, saga).await?
            && (applied > 1 || applied != undone)
        {
            let duty = if applied > 1 { Duty::Once } else { Duty::CompensationWins };
            return broken(
                duty,
                format!(
                    "in the end the effect was applied {applied} times and undone {undone} times"
                ),
            );
        }
    }
    Ok(vec![])
}
