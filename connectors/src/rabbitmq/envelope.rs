//! A message as AMQP 0-9-1 properties and headers, and back.
//!
//! CloudEvents attributes travel as headers `cloudEvents_<name>`, as the AMQP binding asks, and the ones that AMQP has a
//! property for are said there too, the way RabbitMQ's users expect: `message_id`, `correlation_id`, `type`,
//! `content_type`, `reply_to`, `timestamp`. Reading takes `cloudEvents:<name>` as well, and a message that has the properties alone.

mod time;

use crate::{Attributes, ChannelSpec, Message, names};
use bytes::Bytes;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};

/// The prefix we write: the one that survives brokers that take a colon for something else.
const PREFIX: &str = "cloudEvents_";
/// The other prefix that the binding allows.
const PREFIX_COLON: &str = "cloudEvents:";
/// The CloudEvents extension that carries the key of a message.
const PARTITION_KEY: &str = "partitionkey";
/// The attribute that ties messages of one saga together, for `correlation_id`.
const SAGA_ID: &str = "sagaid";
/// AMQP: survives a restart of the broker.
const PERSISTENT: u8 = 2;

/// All properties and headers of one message (bytes). They go in one frame, and RabbitMQ takes frames of 128 KiB by default.
const HEADERS_BYTES_MAX: usize = 96 * 1024;
/// AMQP's bound on names (bytes).
pub(super) const NAME_BYTES_MAX: usize = 255;

/// Attributes of one message at the most: each is looked for among those before it. Headers beyond it are kept as they came.
pub(super) const ATTRIBUTES_MAX: usize = 256;

/// Headers that RabbitMQ adds on its own when it hands out a message again: not the sender's.
const BROKERS_OWN: [&str; 2] = ["x-delivery-count", "x-acquired-count"];

/// Headers by which RabbitMQ sends a message to more queues (sender-selected distribution). In ours it would obey a stranger, and it refuses them
/// as text, which is all that is left of them once they were read.
pub(super) const ROUTING: [&str; 2] = ["CC", "BCC"];
/// Stands before their names where they are kept for people.
pub(super) const RECEIVED: &str = "received-";

/// Why a message can't be put into AMQP's form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unfit {
    /// A name is longer than AMQP allows.
    Name(String),
    /// The headers are larger than a frame.
    Headers {
        /// How large (bytes).
        bytes: usize,
    },
}

/// The properties and headers of a message.
pub(super) fn properties_of(message: &Message) -> Result<BasicProperties, Unfit> {
    let attributes = &message.attributes;
    let mut headers = FieldTable::default();
    let mut bytes = 0;
    let mut insert = |name: &str, value: &[u8]| -> Result<(), Unfit> {
        bytes += name.len() + value.len() + FIELD_OVERHEAD_BYTES;
        let name = short(name).ok_or_else(|| Unfit::Name(name.into()))?;
        headers.insert(name, AMQPValue::LongString(value.into()));
        Ok(())
    };

    for (name, value) in &message.others {
        match ROUTING.contains(&name.as_str()) {
            true => insert(&format!("{RECEIVED}{name}"), value)?,
            false => insert(name, value)?,
        }
    }
    for (name, value) in attributes.iter() {
        match name {
            // The binding gives it the property instead of a header; one too long for a property keeps the header.
            names::CONTENT_TYPE if value.len() <= NAME_BYTES_MAX => {}
            names::TRACEPARENT | names::TRACESTATE => insert(name, value.as_bytes())?,
            _ => insert(&format!("{PREFIX}{name}"), value.as_bytes())?,
        }
    }
    insert(&format!("{PREFIX}{PARTITION_KEY}"), message.key.as_bytes())?;
    // Several properties repeat an attribute, each at most once more.
    if bytes + PROPERTIES_BYTES_MAX > HEADERS_BYTES_MAX {
        return Err(Unfit::Headers { bytes });
    }

    let property = |name: &str| attributes.get(name).and_then(short);
    let mut properties =
        BasicProperties::default().with_delivery_mode(PERSISTENT).with_headers(headers);
    if let Some(id) = property(names::ID) {
        properties = properties.with_message_id(id);
    }
    if let Some(correlation) = property(SAGA_ID).or_else(|| property(names::SUBJECT)) {
        properties = properties.with_correlation_id(correlation);
    }
    if let Some(kind) = property(names::TYPE) {
        properties = properties.with_type(kind);
    }
    if let Some(content_type) = property(names::CONTENT_TYPE) {
        properties = properties.with_content_type(content_type);
    }
    if let Some(reply_to) = property(names::REPLY_TO) {
        properties = properties.with_reply_to(reply_to);
    }
    if let Some(seconds) = attributes.get(names::TIME).and_then(time::seconds_of) {
        properties = properties.with_timestamp(seconds);
    }
    Ok(properties)
}

/// What a table field needs beside name and value (bytes).
const FIELD_OVERHEAD_BYTES: usize = 6;
/// The properties beside the headers (bytes): five short strings, a timestamp, flags.
const PROPERTIES_BYTES_MAX: usize = 5 * (NAME_BYTES_MAX + 1) + 64;

fn short(text: &str) -> Option<ShortString> {
    ShortString::try_new(text).ok()
}

/// The message that was delivered.
pub(super) fn message_of(
    channel: &ChannelSpec,
    properties: &BasicProperties,
    body: Vec<u8>,
) -> Message {
    let mut attributes = Attributes::new();
    let mut others = Vec::new();
    let mut key = None;
    let mut is_cloud_event = false;
    let headers = properties.headers().iter().flat_map(|table| table.inner());
    for (name, value) in headers {
        let name = name.as_str();
        match attribute_name(name) {
            Some(PARTITION_KEY) => {
                is_cloud_event = true;
                key = Some(text_of(value));
            }
            Some(attribute) if attributes.len() < ATTRIBUTES_MAX => {
                is_cloud_event = true;
                attributes.set(attribute.to_owned(), text_of(value));
            }
            None if name == names::TRACEPARENT || name == names::TRACESTATE => {
                attributes.set(name.to_owned(), text_of(value));
            }
            None if BROKERS_OWN.contains(&name) => {}
            _ => others.push((name.to_owned(), bytes_of(value))),
        }
    }

    let mut fill = |name: &'static str, property: &Option<ShortString>| {
        if let (None, Some(value)) = (attributes.get(name), property) {
            attributes.set(name, value.as_str());
        }
    };
    fill(names::ID, properties.message_id());
    fill(names::TYPE, properties.kind());
    fill(names::CONTENT_TYPE, properties.content_type());
    if !is_cloud_event {
        // A stranger's message: its properties say what it would have said in attributes.
        fill(names::SUBJECT, properties.correlation_id());
        fill(names::REPLY_TO, properties.reply_to());
        if let Some(text) = properties.timestamp().and_then(time::text_of) {
            attributes.set(names::TIME, text);
        }
    }
    let key = key.or_else(|| attributes.get(names::SUBJECT).map(Into::into)).unwrap_or_default();
    Message {
        channel: channel.name.clone(),
        kind: channel.kind,
        key,
        attributes,
        others,
        body: body.into(),
    }
}

/// The `id` of a message that the broker gave back.
pub(super) fn id_of(properties: &BasicProperties) -> String {
    let header = properties
        .headers()
        .as_ref()
        .and_then(|headers| headers.inner().get(&*format!("{PREFIX}{}", names::ID)).map(text_of));
    header
        .or_else(|| properties.message_id().as_ref().map(|id| id.as_str().into()))
        .unwrap_or_default()
}

fn attribute_name(header: &str) -> Option<&str> {
    header.strip_prefix(PREFIX).or_else(|| header.strip_prefix(PREFIX_COLON))
}

fn text_of(value: &AMQPValue) -> String {
    String::from_utf8_lossy(&bytes_of(value)).into_owned()
}

/// A header's value as bytes: as they came for strings, otherwise as text.
fn bytes_of(value: &AMQPValue) -> Bytes {
    let text = match value {
        AMQPValue::LongString(text) => return Bytes::copy_from_slice(text.as_bytes()),
        AMQPValue::ShortString(text) => return Bytes::copy_from_slice(text.as_str().as_bytes()),
        AMQPValue::ByteArray(bytes) => return Bytes::copy_from_slice(bytes.as_slice()),
        AMQPValue::Boolean(value) => value.to_string(),
        AMQPValue::ShortShortInt(value) => value.to_string(),
        AMQPValue::ShortShortUInt(value) => value.to_string(),
        AMQPValue::ShortInt(value) => value.to_string(),
        AMQPValue::ShortUInt(value) => value.to_string(),
        AMQPValue::LongInt(value) => value.to_string(),
        AMQPValue::LongUInt(value) => value.to_string(),
        AMQPValue::LongLongInt(value) => value.to_string(),
        AMQPValue::Float(value) => value.to_string(),
        AMQPValue::Double(value) => value.to_string(),
        AMQPValue::DecimalValue(value) => format!("{}e-{}", value.value, value.scale),
        AMQPValue::Timestamp(seconds) => {
            time::text_of(*seconds).unwrap_or_else(|| seconds.to_string())
        }
        AMQPValue::FieldArray(values) => listed(values.as_slice().iter().map(text_of)),
        AMQPValue::FieldTable(table) => {
            listed(table.inner().iter().map(|(name, value)| format!("{name}={}", text_of(value))))
        }
        AMQPValue::Void => String::new(),
    };
    text.into()
}

fn listed(texts: impl Iterator<Item = String>) -> String {
    texts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Message {
        Message {
            channel: "payments".into(),
            kind: crate::ChannelKind::Work,
            key: "order-7".into(),
            attributes: Attributes::new()
                .with(names::ID, "m1")
                .with(names::TYPE, "AuthorisePayment")
                .with(names::SUBJECT, "order-7")
                .with(names::TIME, "2026-11-21T19:31:14Z")
                .with(names::CONTENT_TYPE, "application/json")
                .with(names::REPLY_TO, "replies")
                .with(SAGA_ID, "saga-9")
                .with(names::TRACEPARENT, "00-abc-def-01"),
            others: vec![("x-tenant".into(), Bytes::from_static(b"\xff\x00raw"))],
            body: Bytes::from_static(b"{}"),
        }
    }

    fn carried(message: &Message) -> Message {
        let properties = properties_of(message).expect("fits");
        let spec = ChannelSpec { name: message.channel.clone(), kind: message.kind };
        message_of(&spec, &properties, message.body.to_vec())
    }

    fn header(properties: &BasicProperties, name: &str) -> Option<String> {
        properties.headers().as_ref()?.inner().get(name).map(text_of)
    }

    #[test]
    fn headers_that_route_are_kept_under_a_name_that_does_not() {
        let mut message = command();
        message.others = ["CC", "BCC", "cc"].map(|name| (name.into(), "q".into())).into();
        let properties = properties_of(&message).expect("it fits");
        let headers = properties.headers().as_ref().expect("headers").inner();
        for (name, there) in [
            ("CC", false),
            ("BCC", false),
            ("received-CC", true),
            ("received-BCC", true),
            ("cc", true),
        ] {
            assert_eq!(headers.contains_key(name), there, "{name}");
        }
    }

    #[test]
    fn more_headers_than_a_message_has_attributes_are_kept_as_they_came() {
        let mut headers = FieldTable::default();
        for number in 0..5_000 {
            let name =
                ShortString::try_new(format!("cloudEvents_x{number:05}")).expect("it is short");
            headers.insert(name, AMQPValue::LongString("1".into()));
        }
        let properties = BasicProperties::default().with_headers(headers);
        let message = message_of(&ChannelSpec::work("q"), &properties, vec![]);
        assert_eq!(message.attributes.len(), ATTRIBUTES_MAX);
        assert_eq!(message.others.len(), 5_000 - ATTRIBUTES_MAX);
        assert_eq!(message.others[0].0, format!("cloudEvents_x{ATTRIBUTES_MAX:05}"));
    }

    #[test]
    fn a_message_arrives_as_it_was_sent() {
        let sent = command();
        let arrived = carried(&sent);
        for (name, value) in sent.attributes.iter() {
            assert_eq!(arrived.attributes.get(name), Some(value), "{name}");
        }
        assert_eq!(arrived.attributes.len(), sent.attributes.len());
        assert_eq!(arrived.key, sent.key);
        assert_eq!(arrived.others, sent.others);
        assert_eq!(arrived.body, sent.body);
    }

    #[test]
    fn the_properties_say_what_rabbitmq_users_expect() {
        let properties = properties_of(&command()).expect("fits");
        let text = |property: &Option<ShortString>| property.as_ref().map(|text| text.to_string());
        assert_eq!(text(properties.message_id()).as_deref(), Some("m1"));
        assert_eq!(text(properties.correlation_id()).as_deref(), Some("saga-9"));
        assert_eq!(text(properties.kind()).as_deref(), Some("AuthorisePayment"));
        assert_eq!(text(properties.content_type()).as_deref(), Some("application/json"));
        assert_eq!(text(properties.reply_to()).as_deref(), Some("replies"));
        assert_eq!(*properties.timestamp(), Some(1_795_289_474));
        assert_eq!(*properties.delivery_mode(), Some(2));
        assert_eq!(header(&properties, "cloudEvents_id").as_deref(), Some("m1"));
        assert_eq!(header(&properties, "cloudEvents_partitionkey").as_deref(), Some("order-7"));
        assert_eq!(header(&properties, "traceparent").as_deref(), Some("00-abc-def-01"));
        assert_eq!(header(&properties, "cloudEvents_datacontenttype"), None);
    }

    #[test]
    fn the_binding_with_a_colon_is_read_too() {
        let mut headers = FieldTable::default();
        headers.insert("cloudEvents:id".into(), AMQPValue::LongString("c1".into()));
        headers.insert("cloudEvents:subject".into(), AMQPValue::LongString("order-1".into()));
        let properties = BasicProperties::default()
            .with_headers(headers)
            .with_correlation_id("something else".into());
        let message = message_of(&ChannelSpec::work("q"), &properties, vec![]);
        assert_eq!(message.attributes.get("id"), Some("c1"));
        assert_eq!(message.attributes.get("subject"), Some("order-1"));
        assert_eq!(message.key, "order-1");
    }

    #[test]
    fn a_strangers_properties_become_attributes() {
        let properties = BasicProperties::default()
            .with_message_id("s1".into())
            .with_type("OrderPlaced".into())
            .with_content_type("application/json".into())
            .with_correlation_id("order-5".into())
            .with_reply_to("there".into())
            .with_timestamp(0);
        let message = message_of(&ChannelSpec::events("orders"), &properties, b"{}".to_vec());
        let said: Vec<_> = message.attributes.iter().collect();
        assert_eq!(
            said,
            [
                ("id", "s1"),
                ("type", "OrderPlaced"),
                ("datacontenttype", "application/json"),
                ("subject", "order-5"),
                ("replyto", "there"),
                ("time", "1970-01-01T00:00:00Z"),
            ]
        );
        assert_eq!(message.key, "order-5");
    }

    #[test]
    fn foreign_headers_of_any_kind_arrive_as_text_and_the_brokers_own_do_not() {
        let mut headers = FieldTable::default();
        headers.insert("attempt".into(), AMQPValue::LongInt(3));
        headers.insert("urgent".into(), AMQPValue::Boolean(true));
        headers.insert("x-delivery-count".into(), AMQPValue::LongLongInt(1));
        let properties = BasicProperties::default().with_headers(headers);
        let message = message_of(&ChannelSpec::work("q"), &properties, vec![]);
        assert_eq!(
            message.others,
            [
                ("attempt".to_owned(), Bytes::from_static(b"3")),
                ("urgent".to_owned(), Bytes::from_static(b"true")),
            ]
        );
    }

    #[test]
    fn an_id_too_long_for_the_property_still_arrives_and_is_found_in_a_return() {
        let mut message = command();
        let id = "i".repeat(300);
        message.attributes.set(names::ID, id.clone());
        let properties = properties_of(&message).expect("fits");
        assert!(properties.message_id().is_none());
        assert_eq!(id_of(&properties), id);
        assert_eq!(carried(&message).attributes.get(names::ID), Some(id.as_str()));
    }

    #[test]
    fn what_does_not_fit_into_amqp_is_refused_instead_of_breaking_the_connection() {
        let mut message = command();
        message.others.push(("n".repeat(256), Bytes::new()));
        assert!(matches!(properties_of(&message), Err(Unfit::Name(_))));
        let mut message = command();
        message.others.push(("big".into(), vec![0; HEADERS_BYTES_MAX].into()));
        assert!(matches!(properties_of(&message), Err(Unfit::Headers { .. })));
    }
}
