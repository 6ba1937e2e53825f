//! What a saga's messages carry beside their bodies: written for commands and events, read from replies.
//!
//! The attributes are CloudEvents 1.0 with our extensions; `connectors` puts them into each broker's own form.

use dirigent_connectors::{Attributes, ChannelKind, Message, names};
use dirigent_model::{
    decision::{Command, Effect},
    instance::{Core, InstanceId, Leg, Trace},
    message::{Format, Key},
    time::Timestamp,
};
use uuid::Uuid;

/// Extension: the instance.
pub const SAGA_ID: &str = "sagaid";
/// Extension: the step.
pub const SAGA_STEP: &str = "sagastep";
/// Extension: which run of the same business key; absent for the first one.
pub const SAGA_RUN: &str = "sagarun";
/// Extension: `do` or `compensate`.
pub const SAGA_LEG: &str = "sagaleg";
/// Extension: which attempt, from 1. A reply should echo it.
pub const SAGA_ATTEMPT: &str = "sagaattempt";
/// Dead letters: the reason code.
pub const DEAD_REASON: &str = "deadreason";
/// Dead letters: the reason for people.
pub const DEAD_TEXT: &str = "deadtext";
/// Dead letters: the channel it came from.
pub const DEAD_CHANNEL: &str = "deadchannel";
/// Dead letters: the partition it came from.
pub const DEAD_PARTITION: &str = "deadpartition";
/// Dead letters: its offset there.
pub const DEAD_OFFSET: &str = "deadoffset";
/// Dead letters: when it was set aside.
pub const DEAD_TIME: &str = "deadtime";

/// Writes the messages of one application.
#[derive(Debug, Clone)]
pub struct Envelopes {
    source: String,
    replies: String,
}

impl Envelopes {
    /// For an application whose replies go to the channel `replies`.
    pub fn new(app: &str, replies: &str) -> Self {
        Self { source: format!("/dirigent/{app}"), replies: replies.into() }
    }

    /// The message of an effect, sent at `now` (RFC 3339).
    pub fn message(&self, core: &Core, step: &str, effect: Effect, now: &str) -> Message {
        match effect {
            Effect::Command(command) => self.command(core, step, command, now),
            Effect::Publish { channel, name, body, id, .. } => {
                let span = span_of(&id);
                let attributes = self.attributes(core, id, &name, body.format, span, now);
                let key = core.key.as_str().to_owned();
                Message {
                    channel,
                    kind: ChannelKind::Events,
                    key,
                    attributes,
                    others: vec![],
                    body: body.bytes.into(),
                }
            }
        }
    }

    fn command(&self, core: &Core, step: &str, command: Command, now: &str) -> Message {
        let id = message_id(&command.idempotency_key, command.attempt);
        let mut attributes =
            self.attributes(core, id, &command.name, command.format, span_of(&id), now);
        attributes.set(SAGA_ID, core.id.to_string());
        if core.run > 0 {
            attributes.set(SAGA_RUN, core.run.to_string());
        }
        attributes.set(SAGA_STEP, step);
        attributes.set(SAGA_LEG, command.leg.as_str());
        attributes.set(SAGA_ATTEMPT, command.attempt.to_string());
        attributes.set(names::IDEMPOTENCY_KEY, command.idempotency_key.to_string());
        attributes.set(names::REPLY_TO, self.replies.as_str());
        Message {
            channel: command.channel,
            kind: ChannelKind::Work,
            key: core.key.as_str().to_owned(),
            attributes,
            others: vec![],
            body: command.body.bytes.into(),
        }
    }

    fn attributes(
        &self,
        core: &Core,
        id: Uuid,
        name: &str,
        format: Format,
        span: [u8; 8],
        now: &str,
    ) -> Attributes {
        let mut attributes = Attributes::new();
        attributes.set(names::SPEC_VERSION, "1.0");
        attributes.set(names::ID, id.to_string());
        attributes.set(names::SOURCE, self.source.as_str());
        attributes.set(names::TYPE, name);
        attributes.set(names::SUBJECT, core.key.as_str());
        attributes.set(names::TIME, now);
        attributes.set(names::CONTENT_TYPE, format.content_type());
        attributes.set(names::TRACEPARENT, traceparent(&core.trace.id, &span));
        attributes
    }
}

/// The id of an attempt's message: the same whenever this attempt is sent again.
pub fn message_id(idempotency_key: &Uuid, attempt: u32) -> Uuid {
    Uuid::new_v5(idempotency_key, &attempt.to_be_bytes())
}

/// The span that stands for a message in its trace.
pub fn span_of(message_id: &Uuid) -> [u8; 8] {
    message_id.as_u64_pair().0.to_be_bytes()
}

/// The root span of an instance.
pub fn root_span(id: InstanceId) -> [u8; 8] {
    id.0.as_u64_pair().0.to_be_bytes()
}

/// The trace of an instance: that of its start event, or one of its own.
pub fn trace_of(id: InstanceId, start: &Attributes) -> Trace {
    start.get(names::TRACEPARENT).and_then(parse_traceparent).map_or_else(
        || Trace { id: *id.0.as_bytes(), parent: [0; 8] },
        |(id, parent)| Trace { id, parent },
    )
}

/// W3C trace context, version 00, sampled.
pub fn traceparent(trace: &[u8; 16], span: &[u8; 8]) -> String {
    format!("00-{:032x}-{:016x}-01", u128::from_be_bytes(*trace), u64::from_be_bytes(*span))
}

/// Trace and span of a `traceparent`; `None` if it is not one, or names none.
pub fn parse_traceparent(text: &str) -> Option<([u8; 16], [u8; 8])> {
    let mut parts = text.split('-');
    let (version, trace, span) = (parts.next()?, parts.next()?, parts.next()?);
    if version.len() != 2 || version == "ff" || trace.len() != 32 || span.len() != 16 {
        return None;
    }
    let (trace, span) =
        (u128::from_str_radix(trace, 16).ok()?, u64::from_str_radix(span, 16).ok()?);
    (trace != 0 && span != 0).then(|| (trace.to_be_bytes(), span.to_be_bytes()))
}

/// What a reply says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyHead {
    /// The instance it is for.
    pub instance: InstanceId,
    /// The step.
    pub step: String,
    /// Which of its commands.
    pub leg: Leg,
    /// The idempotency key, where echoed.
    pub key: Option<Uuid>,
    /// The attempt, where echoed.
    pub attempt: Option<u32>,
}

/// Reads what a reply says about itself; `None` for a message that is no reply, an error for one that is a broken one.
pub fn reply_head(attributes: &Attributes) -> Option<Result<ReplyHead, String>> {
    let instance = attributes.get(SAGA_ID)?;
    Some((|| {
        let instance = Uuid::parse_str(instance).map_err(|_| format!("`{SAGA_ID}` is no UUID"))?;
        let step = attributes
            .get(SAGA_STEP)
            .ok_or_else(|| format!("`{SAGA_STEP}` is missing"))?
            .to_owned();
        let leg = attributes.get(SAGA_LEG).unwrap_or("do");
        let leg = Leg::parse(leg)
            .ok_or_else(|| format!("`{SAGA_LEG}` is neither `do` nor `compensate`"))?;
        let key = attributes.get(names::IDEMPOTENCY_KEY).map(Uuid::parse_str).transpose();
        let key = key.map_err(|_| format!("`{}` is no UUID", names::IDEMPOTENCY_KEY))?;
        let attempt = attributes.get(SAGA_ATTEMPT).map(str::parse).transpose();
        let attempt = attempt.map_err(|_| format!("`{SAGA_ATTEMPT}` is no number"))?;
        Ok(ReplyHead { instance: InstanceId(instance), step, leg, key, attempt })
    })())
}

/// The format of a body; JSON where nothing is said.
pub fn format_of(attributes: &Attributes) -> Result<Format, String> {
    match attributes.get(names::CONTENT_TYPE) {
        None => Ok(Format::Json),
        Some(text) => Format::of_content_type(text).ok_or_else(|| {
            let shown: String = text.chars().take(80).collect();
            format!("content type `{shown}` is neither application/json nor application/avro")
        }),
    }
}

/// Why a message was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// A stable code.
    pub reason: &'static str,
    /// For people.
    pub text: String,
}

/// Attributes of a dead letter as text, at the most (characters); what comes from outside may be long.
const DEAD_TEXT_CHARS_MAX: usize = 500;

/// Makes a dead letter of a message: its bytes, headers and key as they came, and why and from where.
pub fn dead_letter(
    channel: &str,
    message: Message,
    dead: &DeadLetter,
    partition: u32,
    offset: u64,
    now: Timestamp,
) -> Message {
    let mut attributes = message.attributes;
    attributes.set(DEAD_REASON, dead.reason);
    attributes.set(DEAD_TEXT, dead.text.chars().take(DEAD_TEXT_CHARS_MAX).collect::<String>());
    attributes.set(DEAD_CHANNEL, message.channel);
    attributes.set(DEAD_PARTITION, partition.to_string());
    attributes.set(DEAD_OFFSET, offset.to_string());
    attributes.set(DEAD_TIME, now.to_string());
    Message { channel: channel.into(), kind: ChannelKind::Work, attributes, ..message }
}

/// A key that fits the bound.
pub fn check_key(key: &Key) -> Result<(), String> {
    match key.as_str().len() {
        0 => Err("the business key is empty".into()),
        length if length > Key::BYTES_MAX => {
            Err(format!("the business key has {length} bytes, the bound is {}", Key::BYTES_MAX))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_it_was_written() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let (trace, span) = parse_traceparent(text).unwrap();
        assert_eq!(traceparent(&trace, &span), text);
    }

    #[test]
    fn a_broken_traceparent_is_no_traceparent() {
        for text in
            ["", "00", "00-0-0-01", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"]
        {
            assert_eq!(parse_traceparent(text), None, "{text}");
        }
        assert_eq!(
            parse_traceparent("00-00000000000000000000000000000000-00f067aa0ba902b7-01"),
            None
        );
        assert_eq!(
            parse_traceparent("00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01"),
            None
        );
    }

    #[test]
    fn a_broken_reply_says_what_is_wrong() {
        let broken = Attributes::new().with(SAGA_ID, "x");
        assert_eq!(reply_head(&broken), Some(Err("`sagaid` is no UUID".into())));
        assert_eq!(reply_head(&Attributes::new()), None);
        let stepless = Attributes::new().with(SAGA_ID, Uuid::nil().to_string());
        assert_eq!(reply_head(&stepless), Some(Err("`sagastep` is missing".into())));
    }
}
