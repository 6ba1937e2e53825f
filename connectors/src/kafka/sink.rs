//! Sends windows. The whole window is handed to librdkafka at once, and its delivery reports decide it.

use super::{KafkaSettings, flight::Flight, routes::Routes};
use crate::{ConnectorError, Health, Message, Sent, Sink, UnsentReason};
use async_trait::async_trait;
use rdkafka::producer::Producer;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, timeout_at};

/// Beyond librdkafka's own time limit, for its report to arrive.
pub(super) const REPORT_MARGIN: Duration = Duration::from_secs(2);

pub(super) struct KafkaSink {
    settings: Arc<KafkaSettings>,
    /// `None` after it could not be built anew.
    flight: Option<Flight>,
    routes: Routes,
    health: Health,
}

impl KafkaSink {
    pub(super) fn new(settings: Arc<KafkaSettings>) -> Result<Self, ConnectorError> {
        let health = Health::new();
        let flight = Some(Flight::new(&settings, &settings.producer(), &health)?);
        Ok(Self { routes: Routes::new(settings.clone()), settings, flight, health })
    }

    /// Hands the messages at `indices` to librdkafka and waits until all are decided or the time is over.
    async fn send_part(
        &self,
        window: &[Message],
        indices: &[usize],
        outcomes: &mut [Option<Sent>],
        deadline: Instant,
    ) {
        let Some(flight) = &self.flight else {
            for index in indices {
                let text = "the producer could not be built anew".into();
                outcomes[*index] = Some(Sent::Unknown { text });
            }
            return;
        };
        flight.hand_over(window, indices, outcomes, deadline).await;
        let _ = timeout_at(deadline + REPORT_MARGIN, flight.decided()).await;
        flight.land(window, outcomes);
    }

    /// An idempotent producer that has lost the count of its messages never sends again.
    fn replace_when_fatal(&mut self) {
        if let Some(flight) = &self.flight {
            let Some((code, text)) = flight.producer().client().fatal_error() else { return };
            tracing::warn!(%code, text, "A Kafka producer has failed for good, building a new one.");
        }
        self.flight = None;
        match Flight::new(&self.settings, &self.settings.producer(), &self.health) {
            Ok(flight) => self.flight = Some(flight),
            Err(error) => tracing::error!(%error, "The Kafka producer could not be built anew."),
        }
    }
}

#[async_trait]
impl Sink for KafkaSink {
    async fn send(&mut self, window: &[Message]) -> Vec<Sent> {
        self.replace_when_fatal();
        let mut outcomes: Vec<Option<Sent>> = vec![None; window.len()];
        self.routes.find(window, &mut outcomes).await;
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
        self.routes.forget_unroutable(window, &outcomes);
        let late = || Sent::Unknown { text: "Kafka did not confirm in time".into() };
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(late)).collect()
    }

    fn health(&self) -> Health {
        self.health.clone()
    }
}

fn is_too_large(outcome: Option<&Sent>) -> bool {
    matches!(outcome, Some(Sent::Unsent { reason: UnsentReason::TooLarge, .. }))
}
