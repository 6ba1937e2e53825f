//! What the checks are made of: short scenes that come again, and what an answer must be.

use super::super::{
    ConformanceError, Effects,
    case::{Played, Sample},
    report::Duty,
    stage::{Saga, Said, Stage},
};
use dirigent_connectors::Message;
use dirigent_model::{instance::Leg, message::FailureEffect};

/// Why a check ended early.
pub(super) enum Stop {
    Broken(Duty, String),
    Skip(&'static str),
    Error(ConformanceError),
}

impl From<ConformanceError> for Stop {
    fn from(error: ConformanceError) -> Self {
        Self::Error(error)
    }
}

/// What would be better, where a duty is kept.
pub(super) type Advice = Vec<String>;

pub(super) fn undo_of(case: &Played) -> Result<&Sample, Stop> {
    case.undo.as_ref().ok_or(Stop::Skip("nothing undoes it"))
}

/// Asks for the command of a saga, which is done.
pub(super) async fn done(
    case: &Played,
    stage: &mut Stage<'_>,
    saga: &Saga,
) -> Result<Message, Stop> {
    let asked = stage.message(&case.command, saga, Leg::Do, 1)?;
    first(stage, &asked, Duty::Answers).await?;
    for answer in stage.answers(&asked) {
        success(stage, &case.command, answer, Duty::Answers)?;
    }
    Ok(asked)
}

/// Asks for a compensation, which is answered as done.
pub(super) async fn undone(
    stage: &mut Stage<'_>,
    undo: &Sample,
    back: &Message,
    duty: Duty,
) -> Result<(), Stop> {
    if !stage.ask(std::slice::from_ref(back)).await? {
        return unanswered(stage, duty, "a compensation was");
    }
    stage.answers(back).iter().try_for_each(|answer| success(stage, undo, answer, duty))
}

pub(super) async fn first(stage: &mut Stage<'_>, asked: &Message, duty: Duty) -> Result<(), Stop> {
    if stage.ask(std::slice::from_ref(asked)).await? {
        return Ok(());
    }
    unanswered(stage, duty, "a command was")
}

pub(super) fn success(
    stage: &Stage<'_>,
    sample: &Sample,
    answer: &Message,
    duty: Duty,
) -> Result<(), Stop> {
    match stage.said(sample, answer) {
        Said::Success(_) => Ok(()),
        other => not_done(sample.name, &other, duty),
    }
}

pub(super) fn not_done<T>(name: &str, said: &Said, duty: Duty) -> Result<T, Stop> {
    let duty = if matches!(said, Said::Strange(_)) { Duty::Answers } else { duty };
    broken(duty, format!("{name} was to be done: {}", of(said)))
}

pub(super) fn refused(
    stage: &Stage<'_>,
    sample: &Sample,
    answer: &Message,
    duty: Duty,
) -> Result<(), Stop> {
    is_refusal(sample.name, &stage.said(sample, answer), duty)
}

/// Whether an answer to a command that was settled before it came says for certain that nothing was done.
pub(super) fn is_refusal(name: &str, said: &Said, duty: Duty) -> Result<(), Stop> {
    let behind = if duty == Duty::Status { "the answer `not done`" } else { "its compensation" };
    match said {
        Said::Rejected(_) => Ok(()),
        Said::Failed(failure) if failure.effect == FailureEffect::None => Ok(()),
        Said::Failed(_) => broken(
            duty,
            format!(
                "{name} came after {behind} and was answered by a failure whose effect is unknown"
            ),
        ),
        Said::Success(_) => {
            broken(duty, format!("{name} came after {behind} and was done all the same"))
        }
        Said::NotDone | Said::Unknown | Said::Strange(_) => broken(Duty::Answers, of(said)),
    }
}

pub(super) fn all_said(stage: &Stage<'_>, sample: &Sample, asked: &Message) -> Vec<Said> {
    stage.answers(asked).iter().map(|answer| stage.said(sample, answer)).collect()
}

/// All answers to one idempotency key say the same; which.
pub(super) fn all_the_same(
    stage: &Stage<'_>,
    sample: &Sample,
    asked: &Message,
    duty: Duty,
) -> Result<Said, Stop> {
    let said = all_said(stage, sample, asked);
    let Some((first, later)) = said.split_first() else {
        return unanswered(stage, Duty::Answers, "a command was");
    };
    if let Said::Strange(text) = first {
        return broken(Duty::Answers, text.clone());
    }
    match later.iter().find(|later| !later.is_same(first)) {
        None => Ok(first.clone()),
        Some(other) => broken(
            duty,
            format!(
                "{} was answered by {}, and asked again by {}",
                sample.name,
                of(first),
                of(other)
            ),
        ),
    }
}

/// What the books say, where they can be seen.
pub(super) async fn counted(
    case: &Played,
    stage: &Stage<'_>,
    saga: &Saga,
    duty: Duty,
    applied: u64,
    undone: u64,
) -> Result<(), Stop> {
    match stage.effects(&case.command, saga).await? {
        Some(found) if found != (Effects { applied, undone }) => {
            // Too often is a breach of the first duty, whatever the check is about.
            let duty = if found.applied > applied && applied > 0 { Duty::Once } else { duty };
            broken(
                duty,
                format!(
                    "the books say: applied {} times and undone {} times; right would be {applied} and {undone}",
                    found.applied, found.undone
                ),
            )
        }
        Some(_) | None => Ok(()),
    }
}

pub(super) fn of(said: &Said) -> String {
    match said {
        Said::Success(body) => format!("a success ({})", shown(&body.bytes)),
        Said::Rejected(body) => format!("a rejection ({})", shown(&body.bytes)),
        Said::Failed(failure) => format!("a failure ({}: {})", failure.code, failure.message),
        Said::NotDone => "the status `not done`".to_owned(),
        Said::Unknown => "the status `unknown`".to_owned(),
        Said::Strange(text) => text.clone(),
    }
}

pub(super) fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(char::is_control) => text.to_owned(),
        Ok(_) | Err(_) => format!("{} bytes", bytes.len()),
    }
}

pub(super) fn unanswered<T>(stage: &Stage<'_>, duty: Duty, what: &str) -> Result<T, Stop> {
    broken(duty, format!("{what} not answered within {} s", stage.within().as_secs()))
}

pub(super) fn broken<T>(duty: Duty, text: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Broken(duty, text.into()))
}
