//! What a message is: a reply, a start event, an awaited event, or something to be set aside.

use crate::{
    engine::{Shared, What, panic_letter},
    envelope::{self, DeadLetter},
    registry::Registry,
};
use dirigent_connectors::{Message, names};
use dirigent_model::{
    instance::InstanceId,
    message::{Body, Codec, Key},
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use uuid::Uuid;

/// Whom a message concerns.
pub(crate) struct Target {
    pub instance: InstanceId,
    pub what: What,
}

/// Stands for a message that concerns no instance; spreads them over the shards.
pub(super) fn nobody(seed: u32) -> InstanceId {
    InstanceId(Uuid::from_u64_pair(0, u64::from(seed)))
}

/// Whom a message concerns: at least one target. A panic in a decoder, or in the function of a saga that reads a key, costs its message:
/// nobody knows whom it concerns, so it is set aside. It would end the process, and come again first after each restart.
pub(crate) fn targets(shared: &Shared, message: &Message, body_bytes_max: usize) -> Vec<Target> {
    let decide = || classify(&shared.registry, &*shared.codec, message, body_bytes_max);
    catch_unwind(AssertUnwindSafe(decide))
        .unwrap_or_else(|panic| Err(panic_letter(&*panic)))
        .unwrap_or_else(|dead| vec![Target { instance: nobody(0), what: What::SetAside(dead) }])
}

/// The same, or why it is set aside.
pub(super) fn classify(
    registry: &Registry,
    codec: &dyn Codec,
    message: &Message,
    body_bytes_max: usize,
) -> Result<Vec<Target>, DeadLetter> {
    let attributes = &message.attributes;
    let dead = |reason, text: String| DeadLetter { reason, text };
    if message.body.len() > body_bytes_max {
        let text =
            format!("the body has {} bytes, the bound is {body_bytes_max}", message.body.len());
        return Err(dead("too-large", text));
    }
    let name = attributes.get(names::TYPE).ok_or_else(|| {
        dead(
            "no-type",
            "the message has no `type` attribute (CloudEvents), so nobody knows what it is".into(),
        )
    })?;
    let format = envelope::format_of(attributes).map_err(|text| dead("unknown-format", text))?;
    let body = || Body { format, bytes: message.body.to_vec() };
    if let Some(head) = envelope::reply_head(attributes) {
        let head = head.map_err(|text| dead("broken-reply", text))?;
        let instance = head.instance;
        return Ok(vec![Target {
            instance,
            what: What::Reply { head, name: name.to_owned(), body: body() },
        }]);
    }
    let mut targets = Vec::new();
    let undecodable =
        |error: dirigent_model::message::CodecError| dead("undecodable", error.to_string());
    let checked =
        |key: Key| envelope::check_key(&key).map(|()| key).map_err(|text| dead("broken-key", text));
    for plan in registry.started_by(name) {
        let body = body();
        let key = checked(plan.start_key(&body, codec).map_err(undecodable)?)?;
        let instance = InstanceId::of(&plan.graph().name, &key);
        let trace = envelope::trace_of(instance, attributes);
        targets
            .push(Target { instance, what: What::Start { plan: plan.clone(), key, body, trace } });
    }
    for plan in registry.awaiting(name) {
        let body = body();
        let Some(key) = plan.event_key(name, &body, codec) else { continue };
        let key = checked(key.map_err(undecodable)?)?;
        let instance = InstanceId::of(&plan.graph().name, &key);
        let (plan, name) = (plan.clone(), name.to_owned());
        targets.push(Target { instance, what: What::Event { plan, key, name, body } });
    }
    if targets.is_empty() {
        let shown: String = name.chars().take(80).collect();
        return Err(dead(
            "unknown-type",
            format!("no saga here starts with, or waits for, `{shown}`"),
        ));
    }
    Ok(targets)
}
