//! Which topics exist, as far as a sink has asked: what goes to none is decided before anything is handed to librdkafka.
//!
//! Only what the brokers say of a topic decides its messages. Whatever else keeps us from asking (no broker that answers, no client
//! for want of descriptors or of a readable file) may pass: they are unknown, and the health says why.

use super::{
    KafkaSettings,
    topics::{self, NoTopic, Probe, Wanted},
    window::failed,
};
use crate::{ChannelKind, Health, Message, Sent, UnsentReason, health::Standing};
use rdkafka::types::RDKafkaErrorCode;
use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

pub(super) struct Routes {
    settings: Arc<KafkaSettings>,
    health: Health,
    /// Topics that exist, as far as was asked.
    known: HashSet<String>,
    /// What the health was told, until asking succeeds.
    told: Option<String>,
}

impl Routes {
    pub(super) fn new(settings: Arc<KafkaSettings>, health: &Health) -> Self {
        Self { settings, health: health.clone(), known: HashSet::new(), told: None }
    }

    /// Finds out which topics of the window exist. Work for one that does not is decided; topics of events are created.
    pub(super) async fn find(&mut self, window: &[Message], outcomes: &mut [Option<Sent>]) {
        let mut asked: HashSet<(&str, ChannelKind)> = HashSet::new();
        let mut trouble = None;
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
                Err(error) => meant(&error, way.0, way.1),
            };
            if let Sent::Unknown { text } = &decided {
                trouble.get_or_insert_with(|| text.clone());
            }
            for (index, other) in window.iter().enumerate() {
                if (other.channel.as_str(), other.kind) == way {
                    outcomes[index] = Some(decided.clone());
                }
            }
        }
        self.tell(trouble);
    }

    /// What librdkafka did not find, of whatever kind, is looked for again by the next window, and made anew where that is ours to do.
    pub(super) fn forget(
        &mut self,
        gone: &HashSet<String>,
        window: &[Message],
        outcomes: &[Option<Sent>],
    ) {
        self.known.retain(|topic| !gone.contains(topic));
        for (message, outcome) in window.iter().zip(outcomes) {
            if matches!(outcome, Some(Sent::Unsent { reason: UnsentReason::Unroutable, .. })) {
                self.known.remove(&message.channel);
            }
        }
    }

    /// Which of these topics are not there any more, as far as the brokers say so in time.
    pub(super) async fn gone(
        &self,
        topics: HashSet<String>,
        wait_max: Duration,
    ) -> HashSet<String> {
        let settings = self.settings.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let until = Instant::now() + wait_max;
            let probe = Probe::new(&settings, wait_max)?;
            let is_gone = |topic: &String| matches!(probe.partitions(topic), Ok(None));
            let in_time = topics.into_iter().take_while(|_| Instant::now() < until);
            Ok::<_, NoTopic>(in_time.filter(is_gone).collect())
        });
        let asked = asked.await;
        let asked = asked.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        asked.unwrap_or_default()
    }

    /// Whether some topic of the last window could not be asked for.
    pub(super) fn has_trouble(&self) -> bool {
        self.told.is_some()
    }

    fn tell(&mut self, trouble: Option<String>) {
        if let Some(text) = &trouble {
            self.health.degraded(text.clone());
        } else if let (Some(told), Standing::Degraded { why }) =
            (&self.told, self.health.standing())
            && told.starts_with(why.trim_end_matches('…'))
        {
            self.health.ready();
        }
        self.told = trouble;
    }

    /// How long a sink that runs waits for an answer: no longer than for a window, whatever an opening may take.
    fn wait_max(&self) -> Duration {
        self.settings.open_wait_max.min(self.settings.send_wait_max)
    }

    async fn find_topic(&self, channel: &str, kind: ChannelKind) -> Result<bool, NoTopic> {
        let (settings, name, wait_max) =
            (self.settings.clone(), channel.to_owned(), self.wait_max());
        let found = tokio::task::spawn_blocking(move || match kind {
            ChannelKind::Work => Ok(Probe::new(&settings, wait_max)?.partitions(&name)?.is_some()),
            ChannelKind::Events => {
                let wanted = Wanted::log(name, settings.partitions);
                topics::create_missing(&settings, &[wanted], wait_max).map(|()| true)
            }
        });
        found.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }
}

/// What it means for the messages of a topic that it can't be had.
fn meant(trouble: &NoTopic, channel: &str, kind: ChannelKind) -> Sent {
    let text = format!("looking for topic {channel}: {}", trouble.error);
    match trouble.code.map(|code| failed(code, channel, kind)) {
        Some(Sent::Unsent { reason, .. }) => Sent::Unsent { reason, text },
        _ => Sent::Unknown { text },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attributes, ConnectorError};
    use bytes::Bytes;
    use rdkafka::error::KafkaError;

    fn settings() -> KafkaSettings {
        let mut settings = KafkaSettings::new("localhost:1");
        settings.open_wait_max = Duration::from_millis(50);
        settings
    }

    fn event(channel: &str) -> Message {
        Message {
            channel: channel.into(),
            kind: ChannelKind::Events,
            key: "k".into(),
            attributes: Attributes::new(),
            others: Vec::new(),
            body: Bytes::new(),
        }
    }

    #[test]
    fn only_what_brokers_say_of_a_topic_makes_its_messages_unsent() {
        use RDKafkaErrorCode as Code;
        let settings = settings();
        let meant = |code: Option<Code>| {
            let said = KafkaError::Global(code.unwrap_or(Code::Fail));
            let error = settings.refused("creating topic news".into(), &said);
            meant(&NoTopic { error, code }, "news", ChannelKind::Events)
        };
        for code in [Code::InvalidTopic, Code::PolicyViolation, Code::TopicAuthorizationFailed] {
            assert!(matches!(meant(Some(code)), Sent::Unsent { .. }), "{code}");
        }
        for passing in [
            None,
            Some(Code::InvalidReplicationFactor),
            Some(Code::RequestTimedOut),
            Some(Code::NotController),
            Some(Code::SaslAuthenticationFailed),
        ] {
            assert!(matches!(meant(passing), Sent::Unknown { .. }), "{passing:?}");
        }
    }

    #[tokio::test]
    async fn a_client_that_can_not_be_made_leaves_messages_unknown_and_is_told_until_it_can() {
        let mut settings = settings();
        // As with a file of authorities that is just being renewed: no client of librdkafka comes of it.
        settings.properties.insert("socket.timeout.ms".into(), "never".into());
        let health = Health::new();
        let mut routes = Routes::new(Arc::new(settings), &health);
        for kind in [ChannelKind::Work, ChannelKind::Events] {
            let window = [Message { kind, ..event("news") }];
            let mut outcomes = vec![None];
            routes.find(&window, &mut outcomes).await;
            assert!(matches!(outcomes[0], Some(Sent::Unknown { .. })), "{outcomes:?}");
            let told = health.standing();
            assert!(told.why().is_some_and(|why| why.contains("socket.timeout.ms")), "{told:?}");
        }
        routes.known.insert("news".into());
        routes.find(&[event("news")], &mut [None]).await;
        assert!(health.standing().is_ready());
    }

    #[tokio::test]
    async fn a_name_that_no_topic_can_have_makes_its_messages_unsent_at_once() {
        let mut routes = Routes::new(Arc::new(settings()), &Health::new());
        for kind in [ChannelKind::Work, ChannelKind::Events] {
            let mut outcomes = vec![None];
            routes.find(&[Message { kind, ..event("a\0b") }], &mut outcomes).await;
            let refused =
                matches!(outcomes[0], Some(Sent::Unsent { reason: UnsentReason::Refused, .. }));
            assert!(refused, "{outcomes:?}");
        }
    }

    #[test]
    fn a_topic_that_is_gone_is_looked_for_again_whatever_its_kind() {
        let mut routes = Routes::new(Arc::new(settings()), &Health::new());
        routes.known.extend(["news".to_owned(), "orders".to_owned()]);
        let unknown = Some(Sent::Unknown { text: "unknown topic".into() });
        routes.forget(&HashSet::from(["news".to_owned()]), &[event("news")], &[unknown]);
        assert_eq!(routes.known, HashSet::from(["orders".to_owned()]));
    }

    #[test]
    fn trouble_says_what_was_looked_for_and_why() {
        let error = ConnectorError::Refused {
            connector: "kafka",
            doing: "creating a client".into(),
            text: "too many open files".into(),
        };
        let Sent::Unknown { text } = meant(&error.into(), "news", ChannelKind::Events) else {
            panic!("it may pass");
        };
        assert!(text.contains("topic news") && text.contains("too many open files"), "{text}");
    }
}
