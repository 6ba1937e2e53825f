//! What a participant sends: replies that echo what was asked, events of its handlers, and dead letters.
//!
//! Ids follow from what they answer, so that whatever is sent again after a crash is recognised.

use super::{asked::Asked, traced::Place};
use crate::envelope::{SAGA_ATTEMPT, SAGA_ID, SAGA_LEG, SAGA_RUN, SAGA_STEP};
use bytes::Bytes;
use dirigent_connectors::{Attributes, ChannelKind, Message, names};
use dirigent_model::{
    message::{Body, Key},
    time::Timestamp,
};
use uuid::Uuid;

/// The reply to a command.
pub(super) fn reply(
    service: &str,
    asked: &Asked,
    place: Option<&Place>,
    name: &str,
    body: Body,
    now: Timestamp,
) -> Message {
    let mut attributes = head(service, reply_id(asked), name, &asked.subject, &body, now);
    if let Some(place) = place {
        attributes.set(names::TRACEPARENT, place.traceparent());
    }
    attributes.set(SAGA_ID, asked.saga.as_str());
    attributes.set(SAGA_RUN, asked.run.to_string());
    attributes.set(SAGA_STEP, asked.step.as_str());
    attributes.set(SAGA_LEG, asked.leg.as_str());
    attributes.set(SAGA_ATTEMPT, asked.attempt.to_string());
    attributes.set(names::IDEMPOTENCY_KEY, asked.idempotency_key.as_str());
    Message {
        channel: asked.reply_to.clone(),
        kind: ChannelKind::Work,
        key: asked.subject.clone(),
        attributes,
        others: vec![],
        body: body.bytes.into(),
    }
}

/// An event of a handler, before [`complete`] gives it its place in the conversation.
pub(super) fn event(channel: &str, name: &str, key: Key, body: Body) -> Message {
    let attributes = Attributes::new()
        .with(names::TYPE, name)
        .with(names::CONTENT_TYPE, body.format.content_type());
    Message {
        channel: channel.to_owned(),
        kind: ChannelKind::Events,
        key: key.as_str().to_owned(),
        attributes,
        others: vec![],
        body: Bytes::from(body.bytes),
    }
}

/// Gives the event with this number, caused by the message with this key or id, its attributes.
pub(super) fn complete(
    event: &mut Message,
    service: &str,
    cause: &str,
    number: usize,
    place: Option<&Place>,
    now: Timestamp,
) {
    let id = event_id(cause, service, number);
    let attributes = &mut event.attributes;
    attributes.set(names::SPEC_VERSION, "1.0");
    attributes.set(names::ID, id.to_string());
    attributes.set(names::SOURCE, source(service));
    attributes.set(names::SUBJECT, event.key.as_str());
    attributes.set(names::TIME, now.to_string());
    if let Some(place) = place {
        attributes.set(names::TRACEPARENT, place.traceparent_of_event(&id));
    }
}

fn head(
    service: &str,
    id: Uuid,
    name: &str,
    subject: &str,
    body: &Body,
    now: Timestamp,
) -> Attributes {
    let mut attributes = Attributes::new();
    attributes.set(names::SPEC_VERSION, "1.0");
    attributes.set(names::ID, id.to_string());
    attributes.set(names::SOURCE, source(service));
    attributes.set(names::TYPE, name);
    attributes.set(names::SUBJECT, subject);
    attributes.set(names::TIME, now.to_string());
    attributes.set(names::CONTENT_TYPE, body.format.content_type());
    attributes
}

fn source(service: &str) -> String {
    format!("/{service}")
}

/// The id of the reply to an attempt.
pub(super) fn reply_id(asked: &Asked) -> Uuid {
    stable_id(&asked.idempotency_key, &format!("reply/{}", asked.attempt))
}

/// The id of the event with this number, caused by the message with this key or id.
pub(super) fn event_id(cause: &str, service: &str, number: usize) -> Uuid {
    stable_id(cause, &format!("event/{service}/{number}"))
}

/// An id that follows from a cause. Keys of other orchestrators need not be UUIDs.
pub(super) fn stable_id(cause: &str, what: &str) -> Uuid {
    let cause = Uuid::parse_str(cause)
        .unwrap_or_else(|_| Uuid::new_v5(&Uuid::NAMESPACE_OID, cause.as_bytes()));
    Uuid::new_v5(&cause, what.as_bytes())
}
