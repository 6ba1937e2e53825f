//! The envelope on Kafka: the binary mode of CloudEvents' Kafka binding.
//!
//! Attributes are headers with `ce_` before their name, except the content type and the trace context, which have names of their own.
//! The record key is the message's key. All other headers are none of ours and stay as they are.

use crate::{Attributes, ChannelKind, Message, names};
use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Header, Headers, Message as _, OwnedHeaders};
use std::borrow::Cow;

const PREFIX: &str = "ce_";
const CONTENT_TYPE_HEADER: &str = "content-type";

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
    let mut attributes = Attributes::new();
    let mut others = Vec::new();
    for header in record.headers().into_iter().flat_map(|headers| headers.iter()) {
        let value = header.value.unwrap_or_default();
        match (attribute(header.key), std::str::from_utf8(value)) {
            (Some(name), Ok(text)) => attributes.set(name, text),
            // An attribute that is no text is not one; it stays what it is.
            (Some(_), Err(_)) | (None, _) => {
                others.push((header.key.to_owned(), Bytes::copy_from_slice(value)))
            }
        }
    }
    Message {
        channel: record.topic().to_owned(),
        kind,
        key: record.key().map(|key| String::from_utf8_lossy(key).into_owned()).unwrap_or_default(),
        attributes,
        others,
        body: record.payload().map(Bytes::copy_from_slice).unwrap_or_default(),
    }
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
}
