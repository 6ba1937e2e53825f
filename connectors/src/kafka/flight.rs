//! A producer of librdkafka with the window it carries: messages are handed over at once, delivery reports come back.
//!
//! Used by both sinks: the plain one sends as it is, the owner's within a transaction.

use super::{
    KafkaSettings,
    clients::Role,
    context::Context,
    envelope,
    window::{Report, Token, Window, failed, is_gone},
};
use crate::{ConnectorError, Health, Message, Sent};
use rdkafka::{
    ClientConfig, ClientContext, Statistics,
    config::RDKafkaLogLevel,
    error::KafkaError,
    producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer},
    types::RDKafkaErrorCode,
};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

/// Until a full queue of librdkafka is tried again.
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(2);

/// Messages handed to librdkafka before other tasks get their turn; some 3 µs each.
const TURN_MAX: usize = 256;

/// What librdkafka gives us to send with.
pub(super) type Carrier = ThreadedProducer<Reports>;

pub(super) struct Flight {
    /// `None` only while it is being dropped.
    producer: Option<Carrier>,
    window: Arc<Window>,
}

impl Flight {
    pub(super) fn new(
        settings: &KafkaSettings,
        config: &ClientConfig,
        health: &Health,
    ) -> Result<Self, ConnectorError> {
        let window = Arc::new(Window::default());
        let reports =
            Reports { window: window.clone(), context: Context::of(Role::Producer, health) };
        let producer = config
            .create_with_context(reports)
            .map_err(|error| settings.refused("creating a producer".into(), &error))?;
        Ok(Self { producer: Some(producer), window })
    }

    /// Another hold on the producer, for calls that block.
    pub(super) fn producer(&self) -> Carrier {
        self.producer.clone().expect("it is there until it is dropped")
    }

    /// Hands the messages at `indices` to librdkafka, in order. What it does not take is decided.
    pub(super) async fn hand_over(
        &self,
        window: &[Message],
        indices: &[usize],
        outcomes: &mut [Option<Sent>],
        deadline: Instant,
    ) {
        let number = self.window.begin(window.len());
        for (turn, index) in indices.iter().enumerate() {
            if let Err(outcome) =
                self.hand_over_one(number, *index, &window[*index], deadline).await
            {
                outcomes[*index] = Some(outcome);
            }
            if turn % TURN_MAX == TURN_MAX - 1 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Waits until no report is missing.
    pub(super) async fn decided(&self) {
        self.window.decided().await;
    }

    /// Whether a report says that its topic is not there.
    pub(super) fn has_gone(&self) -> bool {
        self.window.has_gone()
    }

    /// Writes down what the reports have said. Those that come later decide nothing any more. Answers which topics were not there.
    pub(super) fn land(
        &self,
        window: &[Message],
        outcomes: &mut [Option<Sent>],
    ) -> HashSet<String> {
        let mut gone = HashSet::new();
        for (index, report) in self.window.take().into_iter().enumerate() {
            let message = &window[index];
            outcomes[index] = match report {
                None => continue,
                Some(Report::Delivered) => Some(Sent::Confirmed),
                Some(Report::Failed(code)) => {
                    if is_gone(code) && !gone.contains(&message.channel) {
                        gone.insert(message.channel.clone());
                    }
                    Some(failed(code, &message.channel, message.kind))
                }
            };
        }
        self.window.begin(0);
        gone
    }

    async fn hand_over_one(
        &self,
        number: u32,
        index: usize,
        message: &Message,
        deadline: Instant,
    ) -> Result<(), Sent> {
        let producer = self.producer.as_ref().expect("it is there until it is dropped");
        let token = self.window.expect(number, index);
        let mut record = BaseRecord::with_opaque_to(&message.channel, token.to_number())
            .payload(message.body.as_ref())
            .headers(envelope::headers(message));
        if !message.key.is_empty() {
            record = record.key(message.key.as_str());
        }
        loop {
            match producer.send(record) {
                Ok(()) => return Ok(()),
                Err((error, returned)) => {
                    let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                    if code != RDKafkaErrorCode::QueueFull || Instant::now() >= deadline {
                        // It counts as a report, so that all of them are read in one place.
                        self.window.report(token, Report::Failed(code));
                        return Err(failed(code, &message.channel, message.kind));
                    }
                    record = returned;
                }
            }
            sleep(QUEUE_FULL_WAIT).await;
        }
    }
}

/// Dropping a producer joins its thread, which blocks: not here. What it still holds is purged, and was reported unknown.
impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(producer) = self.producer.take() {
            // Without a thread it is dropped right here, which is only slower.
            let _ =
                std::thread::Builder::new().name("kafka-drop".into()).spawn(move || drop(producer));
        }
    }
}

/// Writes the delivery reports down.
pub(super) struct Reports {
    window: Arc<Window>,
    context: Context,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.context.log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        self.context.stats(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        let report = match result {
            Ok(_) => {
                self.context.heard();
                Report::Delivered
            }
            Err((error, _)) => {
                Report::Failed(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail))
            }
        };
        self.window.report(Token::from_number(opaque), report);
    }
}
