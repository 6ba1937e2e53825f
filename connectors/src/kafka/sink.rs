//! Sends windows. The whole window is handed to librdkafka at once, and its delivery reports decide it.

use super::{
    KafkaSettings,
    context::Context,
    topics::{self, Probe, Wanted},
    window::{Report, Token, Window, failed},
};
use crate::{ChannelKind, ConnectorError, Health, Message, Sent, Sink};
use async_trait::async_trait;
use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    error::KafkaError,
    producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer},
    types::RDKafkaErrorCode,
};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout_at};

/// Beyond librdkafka's own time limit, for its report to arrive.
const REPORT_MARGIN: Duration = Duration::from_secs(2);

/// Until a full queue of librdkafka is tried again.
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(2);

/// Messages handed to librdkafka before other tasks get their turn; some 3 µs each.
const TURN_MAX: usize = 256;

pub(super) struct KafkaSink {
    settings: Arc<KafkaSettings>,
    /// `None` only while it is being replaced or dropped.
    producer: Option<ThreadedProducer<Reports>>,
    window: Arc<Window>,
    /// Topics that exist, as far as was asked.
    known: HashSet<String>,
    health: Health,
}

impl KafkaSink {
    pub(super) fn new(settings: Arc<KafkaSettings>) -> Result<Self, ConnectorError> {
        let window = Arc::new(Window::default());
        let health = Health::new();
        let producer = Some(producer(&settings, &window, &health)?);
        Ok(Self { settings, producer, window, known: HashSet::new(), health })
    }

    /// Finds out which topics of the window exist. Work for one that does not is decided; topics of events are created.
    async fn find_topics(&mut self, window: &[Message], outcomes: &mut [Option<Sent>]) {
        let mut asked: HashSet<(&str, ChannelKind)> = HashSet::new();
        for message in window {
            let way = (message.channel.as_str(), message.kind);
            if self.known.contains(&message.channel) || !asked.insert(way) {
                continue;
            }
            let decided = match self.find_topic(way.0, way.1).await {
                Ok(true) => {
                    self.known.insert(message.channel.clone());
                    continue;
                }
                Ok(false) => failed(RDKafkaErrorCode::UnknownTopicOrPartition, way.0, way.1),
                Err(ConnectorError::Refused { text, .. }) => {
                    let reason = crate::UnsentReason::Refused;
                    Sent::Unsent { reason, text: format!("looking for topic {}: {text}", way.0) }
                }
                Err(error) => Sent::Unknown { text: error.to_string() },
            };
            for (index, other) in window.iter().enumerate() {
                if (other.channel.as_str(), other.kind) == way {
                    outcomes[index] = Some(decided.clone());
                }
            }
        }
    }

    async fn find_topic(&self, channel: &str, kind: ChannelKind) -> Result<bool, ConnectorError> {
        let (settings, name) = (self.settings.clone(), channel.to_owned());
        let found = tokio::task::spawn_blocking(move || match kind {
            ChannelKind::Work => Ok(Probe::new(&settings)?.partitions(&name)?.is_some()),
            ChannelKind::Events => {
                let partitions = settings.partitions;
                topics::create_missing(&settings, &[Wanted { name, partitions }]).map(|()| true)
            }
        });
        found.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    /// Hands the messages at `indices` to librdkafka and waits until all are decided or the time is over.
    async fn send_part(
        &mut self,
        window: &[Message],
        indices: &[usize],
        outcomes: &mut [Option<Sent>],
        deadline: Instant,
    ) {
        let number = self.window.begin(window.len());
        for (turn, index) in indices.iter().enumerate() {
            if let Err(outcome) = self.hand_over(number, *index, &window[*index], deadline).await {
                outcomes[*index] = Some(outcome);
            }
            if turn % TURN_MAX == TURN_MAX - 1 {
                tokio::task::yield_now().await;
            }
        }
        let _ = timeout_at(deadline + REPORT_MARGIN, self.window.decided()).await;
        for (index, report) in self.window.take().into_iter().enumerate() {
            let message = &window[index];
            outcomes[index] = match report {
                None => continue,
                Some(Report::Delivered) => Some(Sent::Confirmed),
                Some(Report::Failed(code)) => Some(failed(code, &message.channel, message.kind)),
            };
        }
        // From now on reports of this part come too late: what is not decided is unknown.
        self.window.begin(0);
    }

    async fn hand_over(
        &mut self,
        number: u32,
        index: usize,
        message: &Message,
        deadline: Instant,
    ) -> Result<(), Sent> {
        let token = self.window.expect(number, index);
        let mut record = BaseRecord::with_opaque_to(&message.channel, token.to_number())
            .payload(message.body.as_ref())
            .headers(super::envelope::headers(message));
        if !message.key.is_empty() {
            record = record.key(message.key.as_str());
        }
        loop {
            let Some(producer) = &self.producer else {
                self.window.forget();
                return Err(Sent::Unknown { text: "the producer could not be built anew".into() });
            };
            match producer.send(record) {
                Ok(()) => return Ok(()),
                Err((error, returned)) => {
                    let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                    if code != RDKafkaErrorCode::QueueFull || Instant::now() >= deadline {
                        self.window.forget();
                        return Err(failed(code, &message.channel, message.kind));
                    }
                    record = returned;
                }
            }
            sleep(QUEUE_FULL_WAIT).await;
        }
    }

    /// An idempotent producer that has lost the count of its messages never sends again.
    fn replace_when_fatal(&mut self) {
        let fatal = match &self.producer {
            Some(producer) => producer.client().fatal_error(),
            None => Some((RDKafkaErrorCode::Fail, "it could not be built before".into())),
        };
        let Some((code, text)) = fatal else { return };
        tracing::warn!(%code, text, "A Kafka producer has failed for good, building a new one.");
        drop_elsewhere(self.producer.take());
        match producer(&self.settings, &self.window, &self.health) {
            Ok(producer) => self.producer = Some(producer),
            Err(error) => tracing::error!(%error, "The Kafka producer could not be built anew."),
        }
    }
}

#[async_trait]
impl Sink for KafkaSink {
    async fn send(&mut self, window: &[Message]) -> Vec<Sent> {
        self.replace_when_fatal();
        let mut outcomes: Vec<Option<Sent>> = vec![None; window.len()];
        self.find_topics(window, &mut outcomes).await;
        let deadline = Instant::now() + self.settings.send_wait_max;
        let open: Vec<usize> =
            (0..window.len()).filter(|index| outcomes[*index].is_none()).collect();
        self.send_part(window, &open, &mut outcomes, deadline).await;

        // A broker refuses a whole batch for one message that is too large for its topic. Alone, each shows what it is.
        let too_large: Vec<usize> =
            open.into_iter().filter(|index| is_too_large(outcomes[*index].as_ref())).collect();
        if too_large.len() > 1 {
            for index in too_large {
                if Instant::now() < deadline {
                    self.send_part(window, &[index], &mut outcomes, deadline).await;
                } else {
                    outcomes[index] = None;
                }
            }
        }
        for (message, outcome) in window.iter().zip(&outcomes) {
            if matches!(outcome, Some(Sent::Unsent { reason: crate::UnsentReason::Unroutable, .. }))
            {
                self.known.remove(&message.channel);
            }
        }
        let late = || Sent::Unknown { text: "Kafka did not confirm in time".into() };
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(late)).collect()
    }

    fn health(&self) -> Health {
        self.health.clone()
    }
}

impl Drop for KafkaSink {
    fn drop(&mut self) {
        drop_elsewhere(self.producer.take());
    }
}

fn is_too_large(outcome: Option<&Sent>) -> bool {
    matches!(outcome, Some(Sent::Unsent { reason: crate::UnsentReason::TooLarge, .. }))
}

/// Dropping a producer joins its thread, which blocks: not here. What it still holds is purged, and was reported unknown.
fn drop_elsewhere(producer: Option<ThreadedProducer<Reports>>) {
    if let Some(producer) = producer {
        // Without a thread it is dropped right here, which is only slower.
        let _ = std::thread::Builder::new().name("kafka-drop".into()).spawn(move || drop(producer));
    }
}

fn producer(
    settings: &KafkaSettings,
    window: &Arc<Window>,
    health: &Health,
) -> Result<ThreadedProducer<Reports>, ConnectorError> {
    let reports = Reports { window: window.clone(), context: Context::of(health) };
    settings
        .producer()
        .create_with_context(reports)
        .map_err(|error| settings.refused("creating a producer".into(), &error))
}

/// Writes the delivery reports down.
struct Reports {
    window: Arc<Window>,
    context: Context,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.context.log(level, facility, message);
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
