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
use std::{borrow::Cow, collections::BTreeMap};
use uuid::Uuid;

/// Extension: the instance.
pub const SAGA_ID: &str = "sagaid";
/// Extension: the step.
pub const SAGA_STEP: &str = "sagastep";
/// Extension: which run of the same business key; absent for the first one.
pub const SAGA_RUN: &str = "sagarun";
/// Extension: `do`, `compensate` or `status`.
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
    /// Channels of commands whose replies come on another one.
    elsewhere: BTreeMap<String, String>,
}

/// Attributes of a command: room for them is made once.
const ATTRIBUTES_OF_A_COMMAND: usize = 15;

type Pairs = Vec<(Cow<'static, str>, Cow<'static, str>)>;

fn put(pairs: &mut Pairs, name: &'static str, value: impl Into<Cow<'static, str>>) {
    pairs.push((Cow::Borrowed(name), value.into()));
}

impl Envelopes {
    /// For an application whose replies go to the channel `replies`.
    pub fn new(app: &str, replies: &str) -> Self {
        let source = format!("/dirigent/{app}");
        Self { source, replies: replies.into(), elsewhere: BTreeMap::new() }
    }

    /// Replies to the commands on `channel` go to `replies` instead.
    #[must_use]
    pub fn replies_by(mut self, channel: &str, replies: &str) -> Self {
        self.elsewhere.insert(channel.into(), replies.into());
        self
    }

    /// The channel that replies to the commands on `channel` come on.
    pub fn replies(&self, channel: &str) -> &str {
        self.elsewhere.get(channel).unwrap_or(&self.replies)
    }

    /// The message of an effect, sent at `now` (RFC 3339).
    pub fn message(&self, core: &Core, step: &str, effect: Effect, now: &str) -> Message {
        match effect {
            Effect::Command(command) => self.command(core, step, command, now),
            Effect::Publish { channel, name, body, id, .. } => {
                let attributes =
                    Attributes::of_distinct(self.attributes(core, id, name, body.format, now));
                let key = core.key.as_str().to_owned();
                let kind = ChannelKind::Events;
                Message { channel, kind, key, attributes, others: vec![], body: body.bytes.into() }
            }
        }
    }

    fn command(&self, core: &Core, step: &str, command: Command, now: &str) -> Message {
        let id = message_id(&command.idempotency_key, command.attempt);
        let mut pairs = self.attributes(core, id, command.name, command.format, now);
        put(&mut pairs, SAGA_ID, text_of(&core.id.0));
        if core.run > 0 {
            put(&mut pairs, SAGA_RUN, core.run.to_string());
        }
        put(&mut pairs, SAGA_STEP, step.to_owned());
        put(&mut pairs, SAGA_LEG, command.leg.as_str());
        put(&mut pairs, SAGA_ATTEMPT, command.attempt.to_string());
        put(&mut pairs, names::IDEMPOTENCY_KEY, text_of(&command.idempotency_key));
        put(&mut pairs, names::REPLY_TO, self.replies(&command.channel).to_owned());
        Message {
            channel: command.channel,
            kind: ChannelKind::Work,
            key: core.key.as_str().to_owned(),
            attributes: Attributes::of_distinct(pairs),
            others: vec![],
            body: command.body.bytes.into(),
        }
    }

    fn attributes(&self, core: &Core, id: Uuid, name: String, format: Format, now: &str) -> Pairs {
        let mut pairs = Vec::with_capacity(ATTRIBUTES_OF_A_COMMAND);
        put(&mut pairs, names::SPEC_VERSION, "1.0");
        put(&mut pairs, names::ID, text_of(&id));
        put(&mut pairs, names::SOURCE, self.source.clone());
        put(&mut pairs, names::TYPE, name);
        put(&mut pairs, names::SUBJECT, core.key.as_str().to_owned());
        put(&mut pairs, names::TIME, now.to_owned());
        put(&mut pairs, names::CONTENT_TYPE, format.content_type());
        put(&mut pairs, names::TRACEPARENT, traceparent(&core.trace.id, &span_of(&id)));
        pairs
    }
}

/// A UUID with hyphens, without the detour over formatting.
fn text_of(id: &Uuid) -> String {
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    id.hyphenated().encode_lower(&mut text).to_owned()
}

/// The id of an attempt's message: the same whenever this attempt is sent again, another one for each attempt.
///
/// The key's bits with the attempt mixed in, as a UUID of version 8 (RFC 9562, section 5.8).
pub fn message_id(idempotency_key: &Uuid, attempt: u32) -> Uuid {
    let mixed = u64::from(attempt).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let (high, low) = idempotency_key.as_u64_pair();
    let bits = Uuid::from_u64_pair(high ^ mixed, low ^ mixed.rotate_left(32));
    uuid::Builder::from_custom_bytes(*bits.as_bytes()).into_uuid()
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
    let mut text = String::with_capacity(55);
    text.push_str("00-");
    put_hex(&mut text, trace);
    text.push('-');
    put_hex(&mut text, span);
    text.push_str("-01");
    text
}

fn put_hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
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
            .ok_or_else(|| format!("`{SAGA_LEG}` is none of `do`, `compensate` and `status`"))?;
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

/// Bytes of a dead letter, its head included. It lies in the journal beside a full batch, far below what that takes as one record:
/// one that was too large would end the process, and come again first after each restart.
const LETTER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Makes a dead letter of a message: its bytes, headers and key as they came, and why and from where. Of one that is too large
/// the head is shortened, else the body left out; its size and checksum are told.
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
    let channel = channel.into();
    let mut letter = Message { channel, kind: ChannelKind::Work, attributes, ..message };
    while head_bytes(&letter) + letter.body.len() > LETTER_BYTES_MAX {
        let why = letter.attributes.get(DEAD_TEXT).unwrap_or_default().to_owned();
        if !shorten_letter(&mut letter, &why) {
            break;
        }
    }
    letter
}

/// Characters of the reason why a dead letter was shortened.
const WHY_CHARS_MAX: usize = 300;

/// Bytes of everything but the body that a dead letter may keep where it was too large for its channel. Far below a frame of AMQP.
const LETTER_HEAD_BYTES_MAX: usize = 16 * 1024;

/// Bytes that each text of a dead letter keeps where its head was too large.
const LETTER_TEXT_BYTES_MAX: usize = 512;

/// What a dead letter keeps where its head was too large: why and from where, and what names it.
const LETTER_KEEPS: [&str; 14] = [
    DEAD_REASON,
    DEAD_TEXT,
    DEAD_CHANNEL,
    DEAD_PARTITION,
    DEAD_OFFSET,
    DEAD_TIME,
    names::SPEC_VERSION,
    names::ID,
    names::SOURCE,
    names::TYPE,
    names::SUBJECT,
    names::CONTENT_TYPE,
    SAGA_ID,
    SAGA_STEP,
];

/// Takes the foreign headers from a dead letter that the broker refused, which said `why`: one of them may mean something to it.
/// `false` where there are none.
pub fn strip_letter(letter: &mut Message, why: &str) -> bool {
    if letter.others.is_empty() {
        return false;
    }
    letter.others.clear();
    let note = format!("{why} (refused with its foreign headers, which are left out)");
    letter.attributes.set(DEAD_TEXT, note.chars().take(DEAD_TEXT_CHARS_MAX).collect::<String>());
    true
}

/// Takes something from a dead letter that was too large for its channel, which said `why`: what is long in its head, else
/// its body. Place and reason are kept; the rest is where it came from. `false` where nothing is left to be taken.
pub fn shorten_letter(letter: &mut Message, why: &str) -> bool {
    // What was left out is told, however long the reason is.
    let why: String = why.chars().take(WHY_CHARS_MAX).collect();
    let note = if head_bytes(letter) > LETTER_HEAD_BYTES_MAX {
        shorten_head(letter);
        format!("{why} (headers shortened or left out: too large to set aside)")
    } else if !letter.body.is_empty() {
        let body = std::mem::take(&mut letter.body);
        let (bytes, crc) = (body.len(), crc32c::crc32c(&body));
        format!(
            "{why} (body of {bytes} bytes, CRC-32C {crc:08x}, left out: too large to set aside)"
        )
    } else {
        return false;
    };
    letter.attributes.set(DEAD_TEXT, note.chars().take(DEAD_TEXT_CHARS_MAX).collect::<String>());
    true
}

fn head_bytes(letter: &Message) -> usize {
    let attributes = letter.attributes.iter().map(|(name, value)| name.len() + value.len());
    let others = letter.others.iter().map(|(name, value)| name.len() + value.len());
    letter.key.len() + attributes.chain(others).sum::<usize>()
}

fn shorten_head(letter: &mut Message) {
    let kept = LETTER_KEEPS.into_iter().filter_map(|name| {
        Some((name, shortened(letter.attributes.get(name)?, LETTER_TEXT_BYTES_MAX).to_owned()))
    });
    letter.attributes = kept.collect();
    letter.others.clear();
    letter.key = shortened(&letter.key, LETTER_TEXT_BYTES_MAX).to_owned();
}

/// The beginning of a text, at most so many bytes of it.
pub fn shortened(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|&at| text.is_char_boundary(at));
    &text[..end.unwrap_or(0)]
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
    fn every_attempt_has_an_id_of_its_own_and_keeps_it() {
        let key = Uuid::new_v5(&Uuid::NAMESPACE_OID, b"a key");
        let ids: std::collections::BTreeSet<Uuid> =
            (1..10_000).map(|attempt| message_id(&key, attempt)).collect();
        assert_eq!(ids.len(), 9_999);
        assert!(ids.contains(&message_id(&key, 77)) && !ids.contains(&key));
        assert!(ids.iter().all(|id| id.get_version_num() == 8));
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

    fn letter(attribute_bytes: usize, body: &'static [u8]) -> Message {
        let message = Message {
            channel: "starts".into(),
            kind: ChannelKind::Events,
            key: "é".repeat(attribute_bytes),
            attributes: Attributes::new().with(names::TYPE, "T".repeat(attribute_bytes)),
            others: vec![("other".into(), "v".repeat(attribute_bytes).into())],
            body: body.into(),
        };
        let dead = DeadLetter { reason: "unknown-type", text: "nobody knows it".into() };
        dead_letter("shop.dead-letters", message, &dead, 3, 7, Timestamp(0))
    }

    #[test]
    fn a_dead_letter_with_a_head_too_large_keeps_place_reason_and_body() {
        let mut letter = letter(100_000, b"{}");
        assert!(shorten_letter(&mut letter, "does not fit"));
        let says = |name| letter.attributes.get(name);
        assert_eq!((says(DEAD_CHANNEL), says(DEAD_OFFSET)), (Some("starts"), Some("7")));
        assert_eq!(says(DEAD_REASON), Some("unknown-type"));
        assert!(says(DEAD_TEXT).is_some_and(|text| text.starts_with("does not fit (headers")));
        assert_eq!((&letter.body[..], letter.others.len()), (&b"{}"[..], 0));
        assert!(head_bytes(&letter) < LETTER_HEAD_BYTES_MAX);
    }

    #[test]
    fn a_dead_letter_that_is_refused_loses_its_foreign_headers_and_then_nothing_more() {
        let mut letter = letter(10, b"{}");
        letter.others = vec![("x-odd".into(), "1".into())];
        let body = letter.body.clone();
        assert!(strip_letter(&mut letter, "invalid message"));
        assert!(letter.others.is_empty() && letter.body == body);
        let text = letter.attributes.get(DEAD_TEXT).unwrap();
        assert!(text.starts_with("invalid message (refused with its foreign headers"), "{text}");
        assert!(!strip_letter(&mut letter, "invalid message"));
    }

    #[test]
    fn a_dead_letter_too_large_loses_its_body_next_and_then_nothing_more() {
        let mut letter = letter(10, b"{}");
        assert!(shorten_letter(&mut letter, "does not fit"));
        assert!(letter.body.is_empty() && letter.others.len() == 1);
        assert!(!shorten_letter(&mut letter, "does not fit"));
    }

    #[test]
    fn a_dead_letter_is_made_within_its_bound_and_tells_size_and_checksum_of_what_it_lost() {
        static LARGE: [u8; LETTER_BYTES_MAX] = [b' '; LETTER_BYTES_MAX];
        let both = letter(LETTER_BYTES_MAX, &LARGE);
        let text = both.attributes.get(DEAD_TEXT).unwrap();
        assert!(both.body.is_empty() && head_bytes(&both) < LETTER_HEAD_BYTES_MAX, "{text}");
        let crc = format!("body of 8388608 bytes, CRC-32C {:08x}", crc32c::crc32c(&LARGE));
        assert!(text.starts_with("nobody knows it (headers") && text.contains(&crc), "{text}");
        let body_only = letter(10, &LARGE);
        assert!(body_only.body.is_empty() && body_only.others.len() == 1);
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
