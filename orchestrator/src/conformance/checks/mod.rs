//! The checks: each a short scene with sagas of its own, and what must be true of the answers.
//!
//! None of them waits for something not to come: where a message may stay unanswered, the one behind it, of the same business key,
//! must be answered, and whatever came before counts.

mod back;
mod bad;
mod judge;
mod status;

use super::{
    ConformanceError, Effects,
    case::Played,
    report::{Check, Checked, Duty, Outcome},
    stage::{Saga, Said, Stage},
};
use crate::envelope::{SAGA_ATTEMPT, SAGA_ID, SAGA_LEG, SAGA_RUN, SAGA_STEP};
use bytes::Bytes;
use dirigent_connectors::{Attributes, Message, names};
use dirigent_model::{instance::Leg, message::Format};
use judge::{
    Advice, Stop, all_the_same, broken, counted, done, first, not_done, of, success, unanswered,
    undone,
};

/// Sagas that are asked at once, where many are.
const MANY: usize = 24;

/// A step that no command of the check is for.
const OTHER_STEP: &str = "another-step";

/// Begins an Avro body whose schema nobody knows.
const UNKNOWN_SCHEMA: [u8; 12] = [0xc3, 0x01, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0];

/// Makes one check.
pub(super) async fn play(
    check: Check,
    case: &Played,
    stage: &mut Stage<'_>,
) -> Result<Checked, ConformanceError> {
    stage.clear();
    let outcome = match made(check, case, stage).await {
        Ok(advice) => Outcome::Kept { advice },
        Err(Stop::Skip(why)) => Outcome::Skipped { why },
        Err(Stop::Broken(duty, text)) => {
            let (sent, came) = stage.scene();
            Outcome::Broken { duty, text, sent, came }
        }
        Err(Stop::Error(error)) => return Err(error),
    };
    Ok(Checked { command: case.command.name, check, duty: check.duty(), outcome })
}

/// Whether a plain command is still answered at all.
pub(super) async fn still_answers(
    case: &Played,
    stage: &mut Stage<'_>,
) -> Result<bool, ConformanceError> {
    stage.clear();
    let saga = stage.saga();
    let asked = stage.message(&case.command, &saga, Leg::Do, 1)?;
    stage.ask(&[asked]).await
}

async fn made(check: Check, case: &Played, stage: &mut Stage<'_>) -> Result<Advice, Stop> {
    let duty = check.duty();
    match check {
        Check::Answers => answers(case, stage).await,
        Check::Echoes => echoes(case, stage).await,
        Check::ReplyTo => reply_to(case, stage).await,
        Check::SideBySide => side_by_side(case, stage).await,
        Check::Once => once(case, stage).await,
        Check::Late => late(case, stage).await,
        Check::RefusedOnce => refused_once(case, stage).await,
        Check::CompensatesOnce => back::compensates_once(case, stage).await,
        Check::CompensationFirst => back::compensation_first(case, stage).await,
        Check::CompensationStays => back::compensation_stays(case, stage).await,
        Check::OwnStepAndRun => back::own_step_and_run(case, stage).await,
        Check::Storm => back::storm(case, stage).await,
        Check::StatusDone => status::of_done(case, stage).await,
        Check::StatusRefused => status::of_refused(case, stage).await,
        Check::StatusNotDone => status::of_unseen(case, stage).await,
        Check::LaterVersion => bad::later_version(case, stage).await,
        Check::UnknownVersion => {
            let body = match case.command.format() {
                Format::Json => Bytes::from_static(br#"{"fieldOfAnotherVersion":true}"#),
                Format::Avro => Bytes::from_static(&UNKNOWN_SCHEMA),
            };
            bad::behind_it(case, stage, duty, |message| message.body = body.clone()).await
        }
        Check::UnknownCommand => {
            let other = |message: &mut Message| {
                message.attributes.set(names::TYPE, "CommandThatNobodyKnows");
            };
            bad::behind_it(case, stage, duty, other).await
        }
        Check::UnknownFormat => {
            let other = |message: &mut Message| {
                message.attributes.set(names::CONTENT_TYPE, "application/x-nobody-knows");
            };
            bad::behind_it(case, stage, duty, other).await
        }
        Check::Undecodable => {
            let nothing = Bytes::from_static(&[0xff, 0x00, 0x7b, 0x22, 0xfe]);
            bad::behind_it(case, stage, duty, |message| message.body = nothing.clone()).await
        }
        Check::Unanswerable => bad::unanswerable(case, stage).await,
    }
}

async fn answers(case: &Played, stage: &mut Stage<'_>) -> Result<Advice, Stop> {
    let saga = stage.saga();
    done(case, stage, &saga).await?;
    counted(case, stage, &saga, Duty::Answers, 1, 0).await?;
    if let Some(undo) = &case.undo {
        let back = stage.message(undo, &saga, Leg::Compensate, 1)?;
        undone(stage, undo, &back, Duty::Answers).await?;
        counted(case, stage, &saga, Duty::Answers, 1, 1).await?;
    }
    Ok(vec![])
}

async fn echoes(case: &Played, stage: &mut Stage<'_>) -> Result<Advice, Stop> {
    let saga = stage.saga().in_run(2);
    let asked = stage.message(&case.command, &saga, Leg::Do, 3)?;
    let mut all = vec![asked.clone()];
    first(stage, &asked, Duty::Answers).await?;
    if let Some(undo) = &case.undo {
        let back = stage.message(undo, &saga, Leg::Compensate, 2)?;
        first(stage, &back, Duty::Answers).await?;
        all.push(back);
    }
    let mut advice = Vec::new();
    for asked in &all {
        let answer = stage.answers(asked).first().map(|answer| answer.attributes.clone());
        echoed(&asked.attributes, &answer.unwrap_or_default(), &mut advice)?;
    }
    advice.dedup();
    Ok(advice)
}

/// Whether an answer says whose it is.
fn echoed(asked: &Attributes, answer: &Attributes, advice: &mut Advice) -> Result<(), Stop> {
    for name in [SAGA_ID, SAGA_RUN, SAGA_STEP, SAGA_LEG, names::IDEMPOTENCY_KEY, SAGA_ATTEMPT] {
        let (sent, echoed) = (asked.get(name), answer.get(name));
        match echoed {
            echoed if echoed == sent => {}
            None if name == SAGA_ATTEMPT => advice.push(format!(
                "echo `{name}`, so that a failure of an early attempt is told from that of a later one"
            )),
            None => return broken(Duty::Answers, format!("the answer does not echo `{name}`")),
            Some(echoed) => {
                let sent = sent.unwrap_or_default();
                return broken(
                    Duty::Answers,
                    format!("the answer says `{name}` is `{echoed}`, asked was `{sent}`"),
                );
            }
        }
    }
    if answer.get(names::ID).is_none_or(str::is_empty) {
        return broken(Duty::Answers, "the answer has no `id`");
    }
    if answer.get(names::ID) == asked.get(names::ID) {
        return broken(
            Duty::Answers,
            "the answer has the `id` of its command: it is another message",
        );
    }
    for name in [names::SPEC_VERSION, names::SOURCE, names::SUBJECT, names::CONTENT_TYPE] {
        if answer.get(name).is_none_or(str::is_empty) {
            advice.push(format!("give answers the CloudEvents attribute `{name}`"));
        }
    }
    Ok(())
}

async fn reply_to(case: &Played, stage: &mut Stage<'_>) -> Result<Advice, Stop> {
    let saga = stage.saga();
    let asked = stage.message(&case.command, &saga, Leg::Do, 1)?;
    first(stage, &asked, Duty::Answers).await?;
    // The same effect, asked for by another process of its application.
    let mut elsewhere = stage.message(&case.command, &saga, Leg::Do, 2)?;
    let channel = stage.reply_elsewhere(&mut elsewhere);
    let answered = stage.ask(std::slice::from_ref(&elsewhere)).await?;
    if answered && stage.answers(&elsewhere).iter().any(|answer| answer.channel == channel) {
        return Ok(vec![]);
    }
    broken(Duty::Answers, format!("the answer was to go to `{channel}`, and did not come there"))
}

async fn side_by_side(case: &Played, stage: &mut Stage<'_>) -> Result<Advice, Stop> {
    let mut window = Vec::with_capacity(MANY);
    for _ in 0..MANY {
        let saga = stage.saga();
        window.push(stage.message(&case.command, &saga, Leg::Do, 1)?);
    }
    if !stage.ask(&window).await? {
        return unanswered(stage, Duty::Answers, "some of many commands sent at once were");
    }
    for asked in &window {
        for answer in stage.answers(asked) {
            success(stage, &case.command, answer, Duty::Answers)?;
            let subject = answer.attributes.get(names::SUBJECT);
            if subject.is_some() && subject != asked.attributes.get(names::SUBJECT) {
                return broken(Duty::Answers, "an answer has the `subject` of another command");
            }
        }
    }
    Ok(vec![])
}

async fn once(case: &Played, stage: &mut Stage<'_>) -> Result<Advice, Stop> {
    let saga = stage.saga();
    let asked = stage.message(&case.command, &saga, Leg::Do, 1)?;
    if !stage.ask(&[asked.clone(), asked.clone()]).await? {
        let duty = if stage.answers(&asked).is_empty() { Duty::Answers } else { Duty::Once };
        return unanswered(stage, duty, "a command that came twice was");
    }
    let again = stage.message(&case.command, &saga, Leg::Do, 2)?;
    repeated(case, stage, &saga, &again).await
}

async fn late(case: &Played, stage: &mut Stage<'_>) -> Result<Advice, Stop> {
    let saga = stage.saga();
    done(case, stage, &saga).await?;
    let mut others = Vec::with_capacity(MANY);
    for _ in 0..MANY {
        let other = stage.saga();
        others.push(stage.message(&case.command, &other, Leg::Do, 1)?);
    }
    if !stage.ask(&others).await? {
        return unanswered(stage, Duty::Answers, "some of many commands sent at once were");
    }
    let again = stage.message(&case.command, &saga, Leg::Do, 3)?;
    repeated(case, stage, &saga, &again).await
}

/// The command once more: all answers are the same, and it took effect once.
async fn repeated(
    case: &Played,
    stage: &mut Stage<'_>,
    saga: &Saga,
    again: &Message,
) -> Result<Advice, Stop> {
    if !stage.ask(std::slice::from_ref(again)).await? {
        return unanswered(stage, Duty::Once, "a command that came again was");
    }
    let first = all_the_same(stage, &case.command, again, Duty::Once)?;
    if !first.is_success() {
        return not_done(case.command.name, &first, Duty::Answers);
    }
    counted(case, stage, saga, Duty::Once, 1, 0).await?;
    Ok(vec![])
}

async fn refused_once(case: &Played, stage: &mut Stage<'_>) -> Result<Advice, Stop> {
    let Some(refused) = &case.refused else {
        return Err(Stop::Skip("there is no sample of one that is refused"));
    };
    let saga = stage.saga();
    let asked = stage.message(refused, &saga, Leg::Do, 1)?;
    first(stage, &asked, Duty::Answers).await?;
    let again = stage.message(refused, &saga, Leg::Do, 2)?;
    if !stage.ask(&[again.clone(), again.clone()]).await? {
        return unanswered(stage, Duty::Once, "a refused command that came again was");
    }
    match all_the_same(stage, refused, &again, Duty::Once)? {
        Said::Rejected(_) => {}
        other => {
            let wanted = refused.rejection.map_or("a rejection", |kind| kind.name);
            return broken(
                Duty::Answers,
                format!(
                    "{} is refused by {}, was answered by {}",
                    refused.name,
                    wanted,
                    of(&other)
                ),
            );
        }
    }
    if let Some(Effects { applied, .. }) = stage.effects(refused, &saga).await?
        && applied > 0
    {
        return broken(Duty::Once, format!("what was refused took effect {applied} times"));
    }
    Ok(vec![])
}
