//! What librdkafka tells beside its answers: its own log, that brokers are gone or back, and its statistics.

use super::{
    clients::{Open, Role},
    figures,
    security::Refusal,
};
use crate::Health;
use rdkafka::{
    ClientContext, Statistics,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::KafkaError,
    producer::{DeliveryResult, ProducerContext},
    types::RDKafkaErrorCode,
};
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

/// Forwards the log to ours, and says once that all brokers are gone.
#[derive(Debug)]
pub(super) struct Context {
    gone: AtomicBool,
    /// Why brokers and we do not come together, as last heard.
    refusal: Mutex<Option<Refusal>>,
    health: Health,
    _open: Open,
}

impl Context {
    /// For a client that nobody watches.
    pub(super) fn new(role: Role) -> Self {
        Self::of(role, &Health::new())
    }

    /// Tells it to the health of whose client this is.
    pub(super) fn of(role: Role, health: &Health) -> Self {
        Self {
            gone: AtomicBool::new(false),
            refusal: Mutex::default(),
            health: health.clone(),
            _open: Open::new(role),
        }
    }

    /// Something was heard of a broker.
    pub(super) fn heard(&self) {
        if self.gone.load(Ordering::Relaxed) && self.gone.swap(false, Ordering::Relaxed) {
            tracing::info!("Kafka answers again.");
            *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.health.reconnected();
            self.health.ready();
        }
    }

    /// Why no broker lets us in, if that was heard since one has answered.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self, refusal: Refusal, reason: &str) {
        let known = self.refusal.lock().unwrap_or_else(PoisonError::into_inner).replace(refusal);
        self.gone.store(true, Ordering::Relaxed);
        self.health.degraded(format!("the brokers do not let us in: {refusal}"));
        if known != Some(refusal) {
            tracing::warn!(%refusal, reason, "Kafka does not let us in, trying until it does.");
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // librdkafka repeats itself on every reconnect, and calls an error what heals by itself.
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::warn!(facility, message, "librdkafka reports trouble.");
            }
            RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning
            | RDKafkaLogLevel::Notice
            | RDKafkaLogLevel::Info
            | RDKafkaLogLevel::Debug => tracing::debug!(facility, message, "librdkafka reports."),
        }
    }

    fn stats(&self, statistics: Statistics) {
        self.health.show(figures::of(&statistics));
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        if let Some(refusal) = Refusal::of(code, reason) {
            self.refused(refusal, reason);
        } else if code == Some(RDKafkaErrorCode::AllBrokersDown) {
            // A broker that refuses us counts as down, too.
            if self.refusal().is_none() {
                self.health.away(format!("no broker can be reached: {reason}"));
            }
            if !self.gone.swap(true, Ordering::Relaxed) {
                tracing::warn!(reason, "Kafka can't be reached, trying until it can.");
            }
        } else {
            tracing::debug!(%error, reason, "A Kafka client reports an error.");
        }
    }
}

impl ConsumerContext for Context {}

/// For a producer that is asked itself whether its messages have arrived.
impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}
