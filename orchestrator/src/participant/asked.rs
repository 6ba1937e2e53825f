//! What a command or an event says about itself, read before its body is.
//!
//! Called first for every delivery. What can't be answered, because it does not say to whom or for what, is [`Unanswerable`].

use crate::envelope::{SAGA_ATTEMPT, SAGA_ID, SAGA_LEG, SAGA_RUN, SAGA_STEP};
use dirigent_connectors::{Attributes, Message, names};
use dirigent_model::instance::Leg;

/// The longest id, step, key or type name that is taken (bytes): they become parts of the store's keys.
const NAME_BYTES_MAX: usize = 256;

/// A command as its participant sees it, without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The name of the command.
    pub command: String,
    /// The saga instance that asks.
    pub saga: String,
    /// Which run for its business key.
    pub run: u64,
    /// The step.
    pub step: String,
    /// Forward, back, or a question what became of the command forward.
    pub leg: Leg,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// The stable key of the effect.
    pub idempotency_key: String,
    /// The business key.
    pub subject: String,
    /// Where the answer goes.
    pub reply_to: String,
    /// For a compensation that is carried out: what is known of the command it undoes.
    pub undoing: Option<Undoing>,
}

/// What is known of the command that a compensation undoes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undoing {
    /// It took effect.
    Certain,
    /// It failed in a way that may have left an effect outside of this store.
    InDoubt,
}

/// An event as its listener sees it, without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// The name of the event.
    pub event: String,
    /// Who sent it.
    pub source: String,
    /// Unique for its source.
    pub id: String,
    /// The business key.
    pub subject: String,
}

/// Why a message can't be answered, or not be told from another: it goes to the dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unanswerable(pub String);

impl Asked {
    pub(super) fn read(message: &Message) -> Result<Self, Unanswerable> {
        let attributes = &message.attributes;
        let leg = attributes.get(SAGA_LEG).unwrap_or(Leg::Do.as_str());
        Ok(Self {
            command: attributes.get(names::TYPE).unwrap_or_default().to_owned(),
            saga: needed(attributes, SAGA_ID)?,
            run: number(attributes, SAGA_RUN, 0)?,
            step: needed(attributes, SAGA_STEP)?,
            leg: Leg::parse(leg).ok_or_else(|| {
                Unanswerable(format!("`{SAGA_LEG}` is none of `do`, `compensate` and `status`"))
            })?,
            attempt: number(attributes, SAGA_ATTEMPT, 1)?,
            idempotency_key: needed(attributes, names::IDEMPOTENCY_KEY)?,
            subject: attributes.get(names::SUBJECT).unwrap_or(&message.key).to_owned(),
            reply_to: needed(attributes, names::REPLY_TO)?,
            undoing: None,
        })
    }

    /// Where the step of this run has its mark: the same for the command and for its compensation.
    pub(super) fn place(&self) -> String {
        format!("{}/{}/{}", self.saga, self.run, self.step)
    }
}

impl Heard {
    pub(super) fn read(message: &Message) -> Result<Self, Unanswerable> {
        let attributes = &message.attributes;
        Ok(Self {
            event: attributes.get(names::TYPE).unwrap_or_default().to_owned(),
            source: attributes
                .get(names::SOURCE)
                .unwrap_or_default()
                .chars()
                .take(NAME_BYTES_MAX)
                .collect(),
            id: needed(attributes, names::ID)?,
            subject: attributes.get(names::SUBJECT).unwrap_or(&message.key).to_owned(),
        })
    }
}

fn needed(attributes: &Attributes, name: &str) -> Result<String, Unanswerable> {
    fitting(name, attributes.get(name).unwrap_or_default()).map(ToOwned::to_owned)
}

/// A text that is there and fits the bound, or what is wrong with it.
pub(super) fn fitting<'a>(name: &str, text: &'a str) -> Result<&'a str, Unanswerable> {
    match text.len() {
        0 => Err(Unanswerable(format!("`{name}` is missing"))),
        bytes if bytes > NAME_BYTES_MAX => {
            Err(Unanswerable(format!("`{name}` has {bytes} bytes, the bound is {NAME_BYTES_MAX}")))
        }
        // They become parts of names and keys, and brokers take no name with them.
        _ if text.contains(char::is_control) => {
            Err(Unanswerable(format!("`{name}` has control characters in it")))
        }
        _ => Ok(text),
    }
}

fn number<N: std::str::FromStr>(
    attributes: &Attributes,
    name: &str,
    absent: N,
) -> Result<N, Unanswerable> {
    match attributes.get(name) {
        None => Ok(absent),
        Some(text) => {
            text.parse().map_err(|_| Unanswerable(format!("`{name}` is not such a number")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use dirigent_connectors::ChannelKind;

    fn message(attributes: Attributes) -> Message {
        let (channel, key) = ("c".into(), "k".into());
        Message {
            channel,
            kind: ChannelKind::Work,
            key,
            attributes,
            others: vec![],
            body: Bytes::new(),
        }
    }

    fn complete() -> Attributes {
        Attributes::new()
            .with(SAGA_ID, "s")
            .with(SAGA_STEP, "step")
            .with(names::IDEMPOTENCY_KEY, "key")
            .with(names::REPLY_TO, "replies")
    }

    #[test]
    fn a_command_without_attempt_run_and_leg_is_the_first_attempt_forward() {
        let asked = Asked::read(&message(complete())).unwrap();
        assert_eq!((asked.attempt, asked.run, asked.leg), (1, 0, Leg::Do));
        assert_eq!((asked.place().as_str(), asked.subject.as_str()), ("s/0/step", "k"));
    }

    #[test]
    fn what_is_missing_or_too_long_is_named() {
        let no_key = message(Attributes::new().with(SAGA_ID, "s").with(SAGA_STEP, "step"));
        let text = Asked::read(&no_key).unwrap_err().0;
        assert_eq!(text, "`idempotencykey` is missing");
        let long = message(complete().with(SAGA_STEP, "x".repeat(257)));
        assert_eq!(Asked::read(&long).unwrap_err().0, "`sagastep` has 257 bytes, the bound is 256");
        for name in [names::REPLY_TO, names::IDEMPOTENCY_KEY, SAGA_ID, SAGA_STEP] {
            let text = Asked::read(&message(complete().with(name, "a\0b"))).unwrap_err().0;
            assert_eq!(text, format!("`{name}` has control characters in it"));
        }
        let odd = message(complete().with(SAGA_ATTEMPT, "many"));
        assert_eq!(Asked::read(&odd).unwrap_err().0, "`sagaattempt` is not such a number");
    }
}
