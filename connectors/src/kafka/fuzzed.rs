//! What a fuzzer asks of the envelope on Kafka and of the record of a group's owner.
//!
//! In go headers, names and values as anybody may write them; out comes the message they stand for. What must be true: sent on by us it is
//! the same message, and an owner's record that can be read is read as it was written.

use super::{envelope, record::Record};
use crate::{Attributes, ChannelKind, Message};
use bytes::Bytes;
use rdkafka::message::{Header, OwnedHeaders};

/// The message that a record with these headers stands for.
pub(crate) fn message(headers: &[(&str, Option<&[u8]>)], key: &[u8], body: &[u8]) -> Message {
    let mut all = OwnedHeaders::new();
    for (key, value) in headers {
        all = all.insert(Header { key, value: *value });
    }
    let (attributes, others) = envelope::read(all.as_borrowed());
    let message = Message {
        channel: "fuzzed".into(),
        kind: ChannelKind::Work,
        key: String::from_utf8_lossy(key).into_owned(),
        attributes,
        others,
        body: Bytes::copy_from_slice(body),
    };
    let again: (Attributes, Vec<_>) = envelope::read(envelope::headers(&message).as_borrowed());
    assert_eq!(
        again,
        (message.attributes.clone(), message.others.clone()),
        "it is sent as it came"
    );
    message
}

/// Whether a value of the topic of owners is a record of one.
pub(crate) fn owner(value: &[u8]) -> bool {
    let Ok(record) = serde_json::from_slice::<Record>(value) else { return false };
    let written = serde_json::to_vec(&record).expect("texts and a number are JSON");
    assert_eq!(serde_json::from_slice::<Record>(&written).ok().as_ref(), Some(&record));
    assert!(!record.takes_over_from(&record), "nobody takes over from himself");
    true
}
