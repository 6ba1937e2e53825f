//! Answers: the same for a running engine and for a folder at rest, where nobody can be told anything.

use super::protocol::{Action, Answer, LIST_MAX, Named, Question, Refusal};
use crate::{
    config::did_you_mean,
    destinations::DestinationView,
    engine::{Handle, InstanceView, KeptFilter, ListFilter, OperatorAction, PauseError, Reader},
};
use dirigent_model::{instance::InstanceId, message::Key};

/// Answers for a running engine. Blocks: not for the async runtime's threads.
pub(super) fn answer(handle: &Handle, question: Question, user: &str) -> Answer {
    let answered = match question {
        Question::Operate { instance, action, by, why } => {
            operate(handle, &instance, action, &format!("{by} ({user})"), &why)
        }
        Question::Status => Ok(Answer::Standing { status: Box::new(handle.status()) }),
        Question::Destinations => Ok(Answer::Destinations { destinations: handle.destinations() }),
        Question::Pause { channel, by, why } => {
            one(handle.pause(&channel, &format!("{by} ({user})"), &why))
        }
        Question::Resume { channel, by, why } => {
            one(handle.resume(&channel, &format!("{by} ({user})"), &why))
        }
        Question::Decide { number, decision, by, why } => handle
            .decide(number, decision, &format!("{by} ({user})"), &why)
            .map(|decided| Answer::Decided { decided })
            .map_err(|error| Refusal::of(&error)),
        question @ (Question::List { .. }
        | Question::Show { .. }
        | Question::Kept { .. }
        | Question::KeptMessage { .. }) => at_rest(&handle.reader(), question),
    };
    answered.unwrap_or_else(Answer::Refused)
}

/// Answers what can be read.
pub(super) fn at_rest(reader: &Reader, question: Question) -> Result<Answer, Refusal> {
    match question {
        Question::List { saga, status, limit } => list(reader, saga, status, limit),
        Question::Show { instance } => {
            let instance = Box::new(find_and_show(reader, &instance)?);
            Ok(Answer::Shown { instance })
        }
        Question::Status => {
            Err(Refusal::new("nobody runs on this data folder; `run` starts a process"))
        }
        Question::Kept { filter } => Ok(kept(reader, filter)),
        Question::KeptMessage { number } => match reader.kept_message(number) {
            Some(message) => Ok(Answer::KeptShown { message: Box::new(message) }),
            None => Err(Refusal::new(format!(
                "no message #{number} is kept; `quarantine list` and `parked list` show those there are"
            ))),
        },
        Question::Operate { .. }
        | Question::Decide { .. }
        | Question::Destinations
        | Question::Pause { .. }
        | Question::Resume { .. } => Err(Refusal::new("nobody runs who could do it")),
    }
}

fn one(destination: Result<DestinationView, PauseError>) -> Result<Answer, Refusal> {
    let destination = destination.map_err(|error| Refusal::of(&error))?;
    Ok(Answer::Destinations { destinations: vec![destination] })
}

fn kept(reader: &Reader, filter: KeptFilter) -> Answer {
    let limit = filter.limit.clamp(1, LIST_MAX);
    // One more than asked for tells whether there are more.
    let mut messages = reader.kept(&KeptFilter { limit: limit + 1, ..filter });
    let more = messages.len() > limit;
    messages.truncate(limit);
    Answer::KeptListed { messages, more }
}

fn list(
    reader: &Reader,
    saga: Option<String>,
    status: Option<String>,
    limit: usize,
) -> Result<Answer, Refusal> {
    let limit = limit.clamp(1, LIST_MAX);
    // One more than asked for tells whether there are more.
    let filter = ListFilter { saga: saga.clone(), status, key: None, limit: limit + 1 };
    let mut instances = reader.list(&filter).map_err(|error| Refusal::of(&error))?;
    if let Some(saga) = saga.filter(|_| instances.is_empty()) {
        is_there(reader, &saga)?;
    }
    let more = instances.len() > limit;
    instances.truncate(limit);
    // Shorter keys first, so that numbers stand in their order.
    let order = |view: &InstanceView| (view.started_at, view.key.as_str().len());
    instances.sort_by(|a, b| (order(a), &a.key).cmp(&(order(b), &b.key)));
    let quarantined = reader.quarantined();
    Ok(Answer::Listed { instances, more, quarantined })
}

/// Refuses the name of a saga that is neither declared here nor has an instance in the folder.
fn is_there(reader: &Reader, saga: &str) -> Result<(), Refusal> {
    if reader.sagas().contains(saga) {
        return Ok(());
    }
    let any = ListFilter { saga: Some(saga.to_owned()), limit: 1, ..ListFilter::default() };
    if !reader.list(&any).map_err(|error| Refusal::of(&error))?.is_empty() {
        return Ok(());
    }
    let sagas = reader.sagas();
    let hint = did_you_mean(saga, sagas.iter().copied());
    let known: Vec<_> = sagas.into_iter().collect();
    Err(Refusal::new(format!(
        "there is no saga `{saga}` in this program, and no instance of one here{hint} (it has {})",
        known.join(", ")
    )))
}

fn operate(
    handle: &Handle,
    named: &Named,
    action: Action,
    by: &str,
    why: &str,
) -> Result<Answer, Refusal> {
    let reader = handle.reader();
    let id = find_and_show(&reader, named)?.id;
    let action = match action {
        Action::Cancel => OperatorAction::Cancel,
        Action::Kill => OperatorAction::Kill,
        Action::Retry { step } => OperatorAction::Retry(step),
        Action::Resolve { step } => OperatorAction::Resolve(step),
    };
    let verdict = handle.operate(id, action, by, why).map_err(|error| Refusal::of(&error))?;
    let instance = Box::new(show(&reader, id)?.ok_or_else(|| nobody(&reader, named))?);
    Ok(Answer::Operated { verdict, instance })
}

/// The instance people mean by a key or an id.
fn find_and_show(reader: &Reader, named: &Named) -> Result<InstanceView, Refusal> {
    if let Some(saga) = &named.saga {
        let id = InstanceId::of(saga, &Key::from(named.key.as_str()));
        return show(reader, id)?.ok_or_else(|| nobody(reader, named));
    }
    if let Ok(id) = named.key.parse().map(InstanceId)
        && let Some(view) = show(reader, id)?
    {
        return Ok(view);
    }
    let key = Key::from(named.key.as_str());
    let mut found = Vec::new();
    for saga in reader.sagas() {
        found.extend(show(reader, InstanceId::of(saga, &key))?);
    }
    match found.len() {
        1 => Ok(found.swap_remove(0)),
        0 => Err(nobody(reader, named)),
        _ => {
            let sagas: Vec<_> = found.iter().map(|view| view.saga.as_str()).collect();
            let text = format!(
                "several sagas have an instance with key `{key}`; say which with --saga: {}",
                sagas.join(", ")
            );
            Err(Refusal::new(text))
        }
    }
}

fn show(reader: &Reader, id: InstanceId) -> Result<Option<InstanceView>, Refusal> {
    reader.show(id).map_err(|error| Refusal::of(&error))
}

fn nobody(reader: &Reader, named: &Named) -> Refusal {
    let Named { key, saga } = named;
    let place = match saga {
        None => String::new(),
        Some(saga) if reader.sagas().contains(saga.as_str()) => format!(" in saga `{saga}`"),
        Some(saga) => {
            let hint = did_you_mean(saga, reader.sagas());
            return Refusal::new(format!(
                "there is no saga `{saga}` here, and no instance of it with key `{key}`{hint}"
            ));
        }
    };
    if let Some(refusal) = saga.is_none().then(|| of_a_saga_elsewhere(reader, key)).flatten() {
        return refusal;
    }
    Refusal::new(format!(
        "there is no instance with key or id `{key}`{place}; `list` shows those there are"
    ))
}

/// A key is looked for in the sagas of this program. The folder may be of another one.
fn of_a_saga_elsewhere(reader: &Reader, key: &str) -> Option<Refusal> {
    let filter = ListFilter { key: Some(key.to_owned()), ..ListFilter::default() };
    let found = reader.list(&filter).ok()?;
    let sagas: Vec<String> = found
        .iter()
        .map(|view| format!("`{}` (--saga {} shows it as far as it can)", view.saga, view.saga))
        .collect();
    (!sagas.is_empty()).then(|| {
        Refusal::new(format!(
            "no saga of this program has an instance with key or id `{key}`, but this folder has one of saga {}, which is not in this \
             program; ask with the program that declares it, or name the folder of this one by --data",
            sagas.join(" and ")
        ))
    })
}
