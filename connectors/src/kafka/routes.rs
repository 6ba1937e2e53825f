//! Which topics exist, as far as a sink has asked: what goes to none is decided before anything is handed to librdkafka.

use super::{
    KafkaSettings,
    topics::{self, Probe, Wanted},
    window::failed,
};
use crate::{ChannelKind, ConnectorError, Message, Sent, UnsentReason};
use rdkafka::types::RDKafkaErrorCode;
use std::{collections::HashSet, sync::Arc};

pub(super) struct Routes {
    settings: Arc<KafkaSettings>,
    /// Topics that exist, as far as was asked.
    known: HashSet<String>,
}

impl Routes {
    pub(super) fn new(settings: Arc<KafkaSettings>) -> Self {
        Self { settings, known: HashSet::new() }
    }

    /// Finds out which topics of the window exist. Work for one that does not is decided; topics of events are created.
    pub(super) async fn find(&mut self, window: &[Message], outcomes: &mut [Option<Sent>]) {
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
                Err(ConnectorError::NotAuthorised { text, .. }) => Sent::Unsent {
                    reason: UnsentReason::NotAuthorised,
                    text: format!("looking for topic {}: {text}", way.0),
                },
                Err(ConnectorError::Refused { text, .. }) => Sent::Unsent {
                    reason: UnsentReason::Refused,
                    text: format!("looking for topic {}: {text}", way.0),
                },
                Err(error) => Sent::Unknown { text: error.to_string() },
            };
            for (index, other) in window.iter().enumerate() {
                if (other.channel.as_str(), other.kind) == way {
                    outcomes[index] = Some(decided.clone());
                }
            }
        }
    }

    /// Topics that turned out not to be there are looked for again by the next window.
    pub(super) fn forget_unroutable(&mut self, window: &[Message], outcomes: &[Option<Sent>]) {
        for (message, outcome) in window.iter().zip(outcomes) {
            if matches!(outcome, Some(Sent::Unsent { reason: UnsentReason::Unroutable, .. })) {
                self.known.remove(&message.channel);
            }
        }
    }

    async fn find_topic(&self, channel: &str, kind: ChannelKind) -> Result<bool, ConnectorError> {
        let (settings, name) = (self.settings.clone(), channel.to_owned());
        let found = tokio::task::spawn_blocking(move || match kind {
            ChannelKind::Work => Ok(Probe::new(&settings)?.partitions(&name)?.is_some()),
            ChannelKind::Events => {
                let wanted = Wanted::log(name, settings.partitions);
                topics::create_missing(&settings, &[wanted]).map(|()| true)
            }
        });
        found.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }
}
