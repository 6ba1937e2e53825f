//! The envelope on Kafka: the binary mode of CloudEvents' Kafka binding.
//!
//! Attributes are headers with `ce_` before their name, except the content type and the trace context, which have names of their own.
//! The record key is the message's key. All other headers are none of ours and stay as they are.
//!
//! Anybody may have written the record: whatever its headers are, it becomes a message, so that those behind it are read.

use crate::{Attributes, ChannelKind, Message, names};
use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Header, Headers, Message as _, OwnedHeaders};
use std::{
    borrow::Cow,
    panic::{AssertUnwindSafe, catch_unwind},
};

const PREFIX: &str = "ce_";
const CONTENT_TYPE_HEADER: &str = "content-type";

/// Attributes of one message at the most: each is looked for among those before it. Headers beyond it are kept as they came.
const ATTRIBUTES_MAX: usize = 256;

/// Stands in for the name of a header that is no UTF-8. Its value can't be reached without its name.
const UNREADABLE_NAME: &str = "unreadable-header-name";

/// Headers of one record with such a name before the rest of its headers is left out: each costs a panic that is caught and logged.
const UNREADABLE_MAX: usize = 8;

/// Attributes every message has: their names need no memory of their own.
const COMMON: &[&str] = &[
    names::ID,
    names::SOURCE,
    names::TYPE,
    names::SUBJECT,
    names::TIME,
    names::SPEC_VERSION,
    names::SCHEMA,
    names::REPLY_TO,
    names::IDEMPOTENCY_KEY,
    "sagaid",
    "sagastep",
    "sagaleg",
    "sagaattempt",
];

pub(super) fn headers(message: &Message) -> OwnedHeaders {
    let mut headers =
        OwnedHeaders::new_with_capacity(message.attributes.len() + message.others.len());
    let mut prefixed = String::new();
    for (name, value) in message.attributes.iter() {
        let key = match name {
            names::CONTENT_TYPE => CONTENT_TYPE_HEADER,
            names::TRACEPARENT | names::TRACESTATE => name,
            _ => {
                prefixed.clear();
                prefixed.push_str(PREFIX);
                prefixed.push_str(name);
                &prefixed
            }
        };
        headers = headers.insert(Header { key, value: Some(value) });
    }
    for (key, value) in &message.others {
        headers = headers.insert(Header { key, value: Some(value.as_ref()) });
    }
    headers
}

pub(super) fn message(record: &BorrowedMessage<'_>, kind: ChannelKind) -> Message {
    let (attributes, others) = record.headers().map(read).unwrap_or_default();
    Message {
        channel: record.topic().to_owned(),
        kind,
        key: record.key().map(|key| String::from_utf8_lossy(key).into_owned()).unwrap_or_default(),
        attributes,
        others,
        body: record.payload().map(Bytes::copy_from_slice).unwrap_or_default(),
    }
}

/// Attributes, and headers that are none.
pub(super) fn read(headers: &impl Headers) -> (Attributes, Vec<(String, Bytes)>) {
    let mut attributes = Attributes::new();
    let mut others = Vec::new();
    let mut unreadable = 0;
    for index in 0..headers.count() {
        // rdkafka panics at a name that is no UTF-8, and has no other way to look at a header.
        let Ok(header) = catch_unwind(AssertUnwindSafe(|| headers.try_get(index))) else {
            others.push((UNREADABLE_NAME.to_owned(), Bytes::new()));
            unreadable += 1;
            if unreadable == UNREADABLE_MAX {
                break;
            }
            continue;
        };
        let Some(header) = header else { continue };
        let value = header.value.unwrap_or_default();
        let room = attributes.len() < ATTRIBUTES_MAX;
        match (attribute(header.key), std::str::from_utf8(value)) {
            (Some(name), Ok(text)) if room => attributes.set(name, text),
            // An attribute that is no text is not one; it stays what it is.
            _ => others.push((header.key.to_owned(), Bytes::copy_from_slice(value))),
        }
    }
    if unreadable > 0 {
        tracing::warn!(
            unreadable,
            "A record has headers whose names are no UTF-8; they are left out."
        );
    }
    (attributes, others)
}

/// The attribute a header stands for.
fn attribute(header: &str) -> Option<Cow<'static, str>> {
    if let Some(name) = header.strip_prefix(PREFIX) {
        let common = COMMON.iter().find(|common| **common == name);
        return Some(
            common.map_or_else(|| Cow::Owned(name.to_owned()), |common| Cow::Borrowed(*common)),
        );
    }
    match header {
        CONTENT_TYPE_HEADER => Some(Cow::Borrowed(names::CONTENT_TYPE)),
        names::TRACEPARENT => Some(Cow::Borrowed(names::TRACEPARENT)),
        names::TRACESTATE => Some(Cow::Borrowed(names::TRACESTATE)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_prefixed_but_for_the_content_type_and_the_trace() {
        let attributes = Attributes::new()
            .with(names::ID, "1")
            .with(names::CONTENT_TYPE, "application/json")
            .with(names::TRACEPARENT, "00-a-b-01")
            .with("sagaid", "s");
        let message = Message {
            channel: "c".into(),
            kind: ChannelKind::Work,
            key: "k".into(),
            attributes,
            others: vec![("x-tenant".into(), Bytes::from_static(b"blue"))],
            body: Bytes::new(),
        };
        let headers = headers(&message);
        let written: Vec<_> =
            headers.iter().map(|header| (header.key, header.value.unwrap_or_default())).collect();
        assert_eq!(
            written,
            [
                ("ce_id", &b"1"[..]),
                ("content-type", b"application/json"),
                ("traceparent", b"00-a-b-01"),
                ("ce_sagaid", b"s"),
                ("x-tenant", b"blue"),
            ]
        );
        let back = |header| attribute(header).map(Cow::into_owned);
        assert_eq!(back("ce_sagaid").as_deref(), Some("sagaid"));
        assert_eq!(back("content-type").as_deref(), Some(names::CONTENT_TYPE));
        assert_eq!(back("x-tenant"), None);
    }

    #[test]
    fn more_headers_than_a_message_has_attributes_are_kept_as_they_came() {
        let mut headers = OwnedHeaders::new();
        for number in 0..20_000 {
            let key = format!("ce_x{number}");
            headers = headers.insert(Header { key: &key, value: Some("1") });
        }
        let (attributes, others) = read(headers.as_borrowed());
        assert_eq!((attributes.len(), others.len()), (ATTRIBUTES_MAX, 20_000 - ATTRIBUTES_MAX));
        assert_eq!(others[0].0, format!("ce_x{ATTRIBUTES_MAX}"));
    }
}
