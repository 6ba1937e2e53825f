//! What can't be read or is not known: whoever gets it goes on, and the next of the same business key is answered.

use super::{
    super::{
        case::Played,
        report::Duty,
        stage::{Saga, Stage},
    },
    OTHER_STEP,
    judge::{Advice, Stop, broken, counted, first, of, success, unanswered},
};
use crate::envelope::{SAGA_ID, SAGA_STEP};
use bytes::Bytes;
use dirigent_connectors::{Attributes, Message, names};
use dirigent_model::instance::Leg;

pub(super) async fn later_version(case: &Played, stage: &mut Stage<'_>) -> Result<Advice, Stop> {
    let saga = stage.saga();
    let mut asked = stage.message(&case.command, &saga, Leg::Do, 1)?;
    let read = serde_json::from_slice::<serde_json::Value>(&asked.body);
    let Ok(serde_json::Value::Object(mut fields)) = read else {
        return Err(Stop::Skip("its bodies say themselves which version they are"));
    };
    fields.insert("addedInALaterVersion".into(), "x".into());
    asked.body = serde_json::Value::Object(fields).to_string().into();
    first(stage, &asked, Duty::Survives).await?;
    let refused = stage.answers(&asked).into_iter().find_map(|answer| {
        let said = stage.said(&case.command, answer);
        (!said.is_success()).then(|| of(&said))
    });
    Ok(refused.map_or_else(Vec::new, |refused| {
        vec![format!(
            "pass over fields that are not known, so that senders can add some: {refused}"
        )]
    }))
}

/// A message that can't be done, and behind it one of the same business key that can.
pub(super) async fn behind_it(
    case: &Played,
    stage: &mut Stage<'_>,
    duty: Duty,
    spoil: impl Fn(&mut Message),
) -> Result<Advice, Stop> {
    let saga = stage.saga();
    let mut bad = stage.message(&case.command, &saga.at_step(OTHER_STEP), Leg::Do, 1)?;
    spoil(&mut bad);
    stage.tell(std::slice::from_ref(&bad)).await?;
    behind(case, stage, &saga, duty).await?;
    if stage.answers(&bad).iter().any(|answer| stage.said(&case.command, answer).is_success()) {
        return broken(duty, "a message that can't be understood was answered as done");
    }
    counted(case, stage, &saga, duty, 1, 0).await?;
    Ok(vec![])
}

pub(super) async fn unanswerable(case: &Played, stage: &mut Stage<'_>) -> Result<Advice, Stop> {
    let saga = stage.saga();
    let whole = stage.message(&case.command, &saga.at_step(OTHER_STEP), Leg::Do, 1)?;
    let without = |left_out: &[&str]| {
        let kept = whole.attributes.iter().filter(|(name, _)| !left_out.contains(name));
        let kept = kept.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Message { attributes: kept.collect(), ..whole.clone() }
    };
    let spoiled = [
        without(&[names::IDEMPOTENCY_KEY]),
        without(&[names::REPLY_TO]),
        without(&[SAGA_ID, SAGA_STEP]),
        Message { attributes: Attributes::new(), ..whole.clone() },
        Message { attributes: Attributes::new(), body: Bytes::new(), ..whole.clone() },
    ];
    stage.tell(&spoiled).await?;
    behind(case, stage, &saga, Duty::Survives).await?;
    Ok(vec![])
}

/// The next command of the same business key is done.
async fn behind(case: &Played, stage: &mut Stage<'_>, saga: &Saga, duty: Duty) -> Result<(), Stop> {
    let good = stage.message(&case.command, saga, Leg::Do, 1)?;
    if !stage.ask(std::slice::from_ref(&good)).await? {
        return unanswered(stage, duty, "the command behind one that can't be handled was");
    }
    stage.answers(&good).iter().try_for_each(|answer| success(stage, &case.command, answer, duty))
}
