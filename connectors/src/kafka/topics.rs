//! Topics: whether they exist, with how many partitions, and creating them. Everything here blocks; it runs off the async runtime.

use super::{KafkaSettings, NAME, clients::Role, context::Context, security::Refusal};
use crate::ConnectorError;
use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    types::RDKafkaErrorCode,
};
use std::time::{Duration, Instant};

/// How long one question to the brokers may take before it is asked again.
const ASK_WAIT_MAX: Duration = Duration::from_secs(5);

/// Between two questions for the same thing.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Events of a client that are fetched to learn why it was not let in (events).
const TOLD_MAX: usize = 100;

/// How long nothing may come before all of them count as fetched. Not zero: librdkafka's own log stands in the same queue, and a
/// call that may not wait ends at the first line of it.
const TOLD_SILENCE: Duration = Duration::from_millis(20);

/// A topic that is to exist.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) partitions: u32,
    /// Keeps the last record of each key, instead of all for a time.
    pub(super) compacted: bool,
}

impl Wanted {
    /// A topic of messages.
    pub(super) fn log(name: impl Into<String>, partitions: u32) -> Self {
        Self { name: name.into(), partitions, compacted: false }
    }
}

/// Creates the topics that are missing and waits until the brokers know who leads their partitions.
pub(super) fn create_missing(
    settings: &KafkaSettings,
    wanted: &[Wanted],
) -> Result<(), ConnectorError> {
    let probe = Probe::new(settings)?;
    let mut missing = Vec::new();
    for topic in wanted {
        if probe.partitions(&topic.name)?.is_none() {
            missing.push(topic);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    if settings.create_by_asking {
        create_by_asking(settings, &missing)?;
    } else {
        create(settings, &missing)?;
    }
    let deadline = Instant::now() + settings.open_wait_max;
    for topic in missing {
        while probe.partitions(&topic.name)?.is_none() {
            if Instant::now() > deadline {
                return Err(
                    settings.unreachable(format!("waiting for the new topic {}", topic.name), None)
                );
            }
            std::thread::sleep(ASK_AGAIN);
        }
    }
    Ok(())
}

fn create(settings: &KafkaSettings, missing: &[&Wanted]) -> Result<(), ConnectorError> {
    let doing = |name: &str| format!("creating topic {name}");
    let admin: AdminClient<Context> = settings
        .admin()
        .create_with_context(Context::new(Role::Admin))
        .map_err(|error| settings.refused("creating an administration client".into(), &error))?;
    let replicas = settings.replicas.map_or(-1, i32::from);
    let topics: Vec<_> = missing
        .iter()
        .map(|topic| {
            let partitions = i32::try_from(topic.partitions).unwrap_or(i32::MAX);
            let new = NewTopic::new(&topic.name, partitions, TopicReplication::Fixed(replicas));
            if topic.compacted { new.set("cleanup.policy", "compact") } else { new }
        })
        .collect();
    let options = AdminOptions::new()
        .operation_timeout(Some(settings.open_wait_max))
        .request_timeout(Some(settings.open_wait_max));
    let first = missing.first().map_or("", |topic| topic.name.as_str());
    let created =
        tokio::runtime::Handle::current().block_on(admin.create_topics(&topics, &options));
    for result in created.map_err(|error| settings.refused(doing(first), &error))? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => {
                // Of the errors that carry a code, the one that says most about it.
                return Err(settings.refused(doing(&name), &KafkaError::Global(code)));
            }
        }
    }
    Ok(())
}

fn create_by_asking(settings: &KafkaSettings, missing: &[&Wanted]) -> Result<(), ConnectorError> {
    let consumer: BaseConsumer<Context> = settings
        .asking()
        .create_with_context(Context::new(Role::Asking))
        .map_err(|error| settings.refused("creating a client".into(), &error))?;
    for topic in missing {
        // Whether it worked is seen by whoever waits for the topic.
        if let Err(error) = partitions(&consumer, &topic.name, ASK_WAIT_MAX) {
            tracing::debug!(%error, topic = topic.name, "A topic was asked for and is not there yet.");
        }
    }
    Ok(())
}

/// Asks the brokers for topics without creating them by asking.
pub(super) struct Probe<'a> {
    settings: &'a KafkaSettings,
    consumer: BaseConsumer<Context>,
}

impl<'a> Probe<'a> {
    pub(super) fn new(settings: &'a KafkaSettings) -> Result<Self, ConnectorError> {
        let consumer = settings
            .probe()
            .create_with_context(Context::new(Role::Probe))
            .map_err(|error| settings.refused("creating a client".into(), &error))?;
        Ok(Self { settings, consumer })
    }

    /// Why no broker lets us in, as far as librdkafka has told.
    fn refusal(&self) -> Option<Refusal> {
        // What it tells waits to be fetched. Bounded by how much can have come up meanwhile.
        for _ in 0..TOLD_MAX {
            if self.consumer.poll(TOLD_SILENCE).is_none() {
                break;
            }
        }
        self.consumer.context().refusal()
    }

    /// How many partitions the topic has, `None` when there is no such topic. Asks until the brokers answer.
    pub(super) fn partitions(&self, topic: &str) -> Result<Option<u32>, ConnectorError> {
        let doing = || format!("asking for topic {topic}");
        let deadline = Instant::now() + self.settings.open_wait_max;
        loop {
            let wait_max = ASK_WAIT_MAX.min(self.settings.open_wait_max);
            let asked = partitions(&self.consumer, topic, wait_max);
            match asked {
                Ok(found) => return Ok(found),
                Err(error) if permanent(&error) => {
                    return Err(self.settings.refused(doing(), &error));
                }
                Err(error) => {
                    // No broker has answered, and one that could be asked has refused us.
                    if let Some(refusal) = self.refusal() {
                        return Err(self.settings.not_let_in(refusal));
                    }
                    if Instant::now() > deadline {
                        return Err(self.settings.unreachable(doing(), Some(error)));
                    }
                    std::thread::sleep(ASK_AGAIN);
                }
            }
        }
    }
}

/// One question: how many partitions the topic has, all of them led. An error may pass.
pub(super) fn partitions(
    consumer: &BaseConsumer<Context>,
    topic: &str,
    wait_max: Duration,
) -> Result<Option<u32>, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), wait_max)?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
        return Ok(None);
    };
    if let Some(error) = found.error() {
        return match error.into() {
            RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => Ok(None),
            code => Err(KafkaError::MetadataFetch(code)),
        };
    }
    match found.partitions().iter().find_map(|partition| partition.error()) {
        Some(error) => Err(KafkaError::MetadataFetch(error.into())),
        None => Ok(Some(u32::try_from(found.partitions().len()).unwrap_or(u32::MAX))
            .filter(|count| *count > 0)),
    }
}

/// Whether asking again would not help.
pub(super) fn permanent(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{InvalidTopic, SaslAuthenticationFailed};
    error.rdkafka_error_code().is_some_and(|code| {
        forbidden(code) || matches!(code, InvalidTopic | SaslAuthenticationFailed)
    })
}

/// Whether the brokers know us and do not let us.
pub(super) fn forbidden(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::ClusterAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::TopicAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
    )
}

impl KafkaSettings {
    pub(super) fn refused(&self, doing: String, error: &KafkaError) -> ConnectorError {
        let text = error.to_string();
        match error.rdkafka_error_code() {
            Some(code) if forbidden(code) => {
                ConnectorError::NotAuthorised { connector: NAME, doing, text }
            }
            _ => ConnectorError::Refused { connector: NAME, doing, text },
        }
    }

    pub(super) fn unreachable(&self, doing: String, source: Option<KafkaError>) -> ConnectorError {
        ConnectorError::Unreachable {
            connector: NAME,
            address: self.bootstrap.clone(),
            doing,
            waited: self.open_wait_max,
            source: source.map(|error| Box::new(error) as _),
        }
    }
}
