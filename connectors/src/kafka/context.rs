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
    /// Whether there is anything to forget once a broker answers: looked at for each message.
    troubled: AtomicBool,
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
            troubled: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            refusal: Mutex::default(),
            health: health.clone(),
            _open: Open::new(role),
        }
    }

    /// Something was heard of a broker.
    pub(super) fn heard(&self) {
        if !self.troubled.load(Ordering::Relaxed) || !self.troubled.swap(false, Ordering::Relaxed) {
            return;
        }
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if self.gone.swap(false, Ordering::Relaxed) {
            tracing::info!("Kafka answers again.");
            self.health.reconnected();
            self.health.ready();
        }
    }

    /// Why no broker lets us in, if that was heard since one has answered.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why no broker serves us, where those that are there refuse us.
    pub(super) fn shut_out(&self) -> Option<String> {
        self.gone.load(Ordering::Relaxed).then(|| self.refusal()).flatten().map(told)
    }

    /// One broker refuses us. Perhaps others serve: only remembered until all are down. If they are, it is told at once, since librdkafka
    /// says that they are down once only, and the one that refuses us may have been away then.
    fn refused(&self, refusal: Refusal, reason: &str) {
        let before = self.refusal.lock().unwrap_or_else(PoisonError::into_inner).replace(refusal);
        self.troubled.store(true, Ordering::Relaxed);
        tracing::debug!(%refusal, reason, "A broker does not let us in.");
        if self.gone.load(Ordering::Relaxed) {
            self.not_let_in(refusal, reason, before != Some(refusal));
        }
    }

    fn not_let_in(&self, refusal: Refusal, reason: &str, is_news: bool) {
        self.health.degraded(told(refusal));
        if is_news {
            tracing::warn!(%refusal, reason, "Kafka does not let us in, trying until it does.");
        }
    }

    /// No broker serves us. One that refuses us counts as down, too.
    fn all_down(&self, reason: &str) {
        let told = self.gone.swap(true, Ordering::Relaxed);
        self.troubled.store(true, Ordering::Relaxed);
        match self.refusal() {
            Some(refusal) => self.not_let_in(refusal, reason, !told),
            None => {
                self.health.away(format!("no broker can be reached: {reason}"));
                if !told {
                    tracing::warn!(reason, "Kafka can't be reached, trying until it can.");
                }
            }
        }
    }
}

fn told(refusal: Refusal) -> String {
    format!("the brokers do not let us in: {refusal}")
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
            self.all_down(reason);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn tells(context: &Context, code: RDKafkaErrorCode, reason: &str) {
        context.error(KafkaError::Global(code), reason);
    }

    const DENIED: (RDKafkaErrorCode, &str) =
        (RDKafkaErrorCode::Authentication, "SASL authentication error: Authentication failed");

    #[test]
    fn one_broker_that_refuses_us_is_no_trouble_while_others_serve() {
        let health = Health::new();
        health.ready();
        let context = Context::of(Role::Reader, &health);
        tells(&context, DENIED.0, DENIED.1);
        assert!(health.standing().is_ready() && context.refusal().is_some());
        assert_eq!(context.shut_out(), None);
        context.heard();
        assert!(context.refusal().is_none());
        tells(&context, RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down");
        let said = format!("{:?}", health.standing());
        assert!(said.contains("no broker can be reached"), "{said}");
    }

    #[test]
    fn brokers_that_were_away_and_come_back_refusing_us_are_told_with_the_reason() {
        let health = Health::new();
        health.ready();
        let context = Context::of(Role::Reader, &health);
        tells(&context, RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down");
        assert!(format!("{:?}", health.standing()).contains("no broker can be reached"));
        tells(&context, DENIED.0, DENIED.1);
        let said = format!("{:?}", health.standing());
        assert!(said.contains("do not let us in"), "{said}");
        assert!(context.shut_out().is_some_and(|why| said.contains(&why)), "{said}");
        context.heard();
        assert!(health.standing().is_ready() && context.shut_out().is_none());
    }

    #[test]
    fn where_all_are_down_the_refusal_says_why_until_one_answers() {
        let health = Health::new();
        health.ready();
        let context = Context::of(Role::Reader, &health);
        tells(&context, DENIED.0, DENIED.1);
        tells(&context, RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down");
        let said = format!("{:?}", health.standing());
        assert!(said.contains("do not let us in"), "{said}");
        context.heard();
        assert!(health.standing().is_ready() && context.refusal().is_none());
    }
}
