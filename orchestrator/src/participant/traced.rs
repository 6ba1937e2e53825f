//! A participant's place in the trace: a span for each command or event it handles, and one for each event it publishes.
//!
//! The span of a handled command is that of its reply's message, so that whoever takes the reply knows it. Where nobody
//! takes spans, messages name the span of what caused them: the trace has no hole then, only less in it.

use super::{
    asked::{Asked, Heard},
    reply::{event_id, reply_id, stable_id},
};
use crate::{
    envelope,
    telemetry::{SpanFact, SpanKind, semconv, spans::SpanRef},
};
use dirigent_connectors::{Attributes, Message, names};
use dirigent_model::{instance::Leg, time::Timestamp};
use uuid::Uuid;

/// What a handled message is in its trace: itself, and the span that caused it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    trace: [u8; 16],
    cause: [u8; 8],
    /// Its own span; that of the cause where nobody takes spans.
    span: [u8; 8],
    is_noted: bool,
}

impl Place {
    /// Of a command; `None` where it belongs to no trace.
    pub(super) fn of_command(asked: &Asked, command: &Attributes, is_noted: bool) -> Option<Self> {
        Self::of(command, &reply_id(asked), is_noted)
    }

    /// Of an event; `None` where it belongs to no trace.
    pub(super) fn of_event(
        service: &str,
        heard: &Heard,
        event: &Attributes,
        is_noted: bool,
    ) -> Option<Self> {
        Self::of(event, &stable_id(&heard.id, &format!("handled/{service}")), is_noted)
    }

    fn of(cause: &Attributes, own: &Uuid, is_noted: bool) -> Option<Self> {
        let (trace, cause) = traced(cause)?;
        let span = if is_noted { envelope::span_of(own) } else { cause };
        Some(Self { trace, cause, span, is_noted })
    }

    /// What a reply says.
    pub(super) fn traceparent(&self) -> String {
        envelope::traceparent(&self.trace, &self.span)
    }

    /// What an event says that is published on the way.
    pub(super) fn traceparent_of_event(&self, id: &Uuid) -> String {
        let span = if self.is_noted { envelope::span_of(id) } else { self.span };
        envelope::traceparent(&self.trace, &span)
    }

    /// The span of a command that was handled.
    pub(super) fn handled_command(
        &self,
        service: &str,
        asked: &Asked,
        message: &Message,
        now: Timestamp,
    ) -> Option<SpanFact> {
        let span = self
            .handled(service, &asked.command, message, now)?
            .with(semconv::SAGA_ID, asked.saga.as_str())
            .with(semconv::SAGA_KEY, asked.subject.as_str())
            .with(semconv::SAGA_STEP, asked.step.as_str())
            .with(semconv::SAGA_LEG, asked.leg.as_str())
            .with(semconv::SAGA_ATTEMPT, asked.attempt);
        Some(match asked.leg {
            Leg::Do | Leg::Status => span,
            Leg::Compensate => span.with(semconv::SAGA_COMPENSATION, true),
        })
    }

    /// The span of an event that was heard.
    pub(super) fn handled_event(
        &self,
        service: &str,
        heard: &Heard,
        message: &Message,
        now: Timestamp,
    ) -> Option<SpanFact> {
        self.handled(service, &heard.event, message, now)
    }

    fn handled(
        &self,
        service: &str,
        what: &str,
        message: &Message,
        now: Timestamp,
    ) -> Option<SpanFact> {
        let at = (self.trace, self.span);
        self.is_noted.then(|| {
            SpanFact::new(at, SpanKind::Consumer, format!("handle {what}"), now, now)
                .under_remote(self.cause)
                .with(semconv::MESSAGING_OPERATION, "process")
                .with(semconv::MESSAGING_DESTINATION, message.channel.as_str())
                .with(semconv::MESSAGING_GROUP, service)
        })
    }

    /// The span of an event that was published on the way.
    pub(super) fn published(
        &self,
        cause: &str,
        service: &str,
        number: usize,
        event: &Message,
        now: Timestamp,
    ) -> Option<SpanFact> {
        let at = (self.trace, envelope::span_of(&event_id(cause, service, number)));
        let name = event.attributes.get(names::TYPE).unwrap_or_default();
        self.is_noted.then(|| {
            SpanFact::new(at, SpanKind::Producer, format!("publish {name}"), now, now)
                .under(self.span)
                .with(semconv::MESSAGING_OPERATION, "send")
                .with(semconv::MESSAGING_DESTINATION, event.channel.as_str())
        })
    }
}

/// The trace and span that a message names.
fn traced(attributes: &Attributes) -> Option<SpanRef> {
    attributes.get(names::TRACEPARENT).and_then(envelope::parse_traceparent)
}
