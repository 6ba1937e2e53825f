//! Topics: whether they exist, with how many partitions, and creating them. Everything here blocks; it runs off the async runtime.

use super::{KafkaSettings, NAME, clients::Role, context::Context, security::Refusal};
use crate::ConnectorError;
use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication, TopicResult},
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

/// Why a topic can't be had.
#[derive(Debug)]
pub(super) struct NoTopic {
    pub(super) error: ConnectorError,
    /// What the brokers said about the topic itself. Without it nothing was said of it: a client could not be made, or nobody answered.
    pub(super) code: Option<RDKafkaErrorCode>,
}

impl From<ConnectorError> for NoTopic {
    fn from(error: ConnectorError) -> Self {
        Self { error, code: None }
    }
}

impl From<NoTopic> for ConnectorError {
    fn from(trouble: NoTopic) -> Self {
        trouble.error
    }
}

/// Creates the topics that are missing and waits until the brokers know who leads their partitions. Waits for each answer of the
/// brokers for `wait_max` at the most.
pub(super) fn create_missing(
    settings: &KafkaSettings,
    wanted: &[Wanted],
    wait_max: Duration,
) -> Result<(), NoTopic> {
    let probe = Probe::new(settings, wait_max)?;
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
        create(settings, &missing, wait_max)?;
    }
    let deadline = Instant::now() + wait_max;
    for topic in missing {
        while probe.partitions(&topic.name)?.is_none() {
            if Instant::now() > deadline {
                let doing = format!("waiting for the new topic {}", topic.name);
                return Err(settings.silent_for(wait_max, doing, None).into());
            }
            std::thread::sleep(ASK_AGAIN);
        }
    }
    Ok(())
}

fn create(
    settings: &KafkaSettings,
    missing: &[&Wanted],
    wait_max: Duration,
) -> Result<(), NoTopic> {
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
    let first = missing.first().map_or("", |topic| topic.name.as_str());
    let deadline = Instant::now() + wait_max;
    let created = loop {
        let left = deadline.saturating_duration_since(Instant::now()).max(ASK_AGAIN);
        let options = AdminOptions::new().operation_timeout(Some(left)).request_timeout(Some(left));
        let created =
            tokio::runtime::Handle::current().block_on(admin.create_topics(&topics, &options));
        let is_over = Instant::now() >= deadline;
        match created {
            Ok(created) if is_over || !created.iter().any(passes) => break created,
            Ok(_) => {}
            Err(error) => match code_of(&error) {
                Some(code) if forbidden(code) => {
                    let error = settings.refused(doing(first), &error);
                    return Err(NoTopic { error, code: Some(code) });
                }
                // Nobody answered in time, or not as one does who can: nothing was said of the topics.
                _ if is_over => {
                    return Err(settings.silent_for(wait_max, doing(first), Some(error)).into());
                }
                // A connection that breaks takes the request along. One that was carried out after all finds its topics there.
                _ => {
                    tracing::debug!(%error, topic = first, "A topic was not created; trying again.")
                }
            },
        }
        std::thread::sleep(ASK_AGAIN);
    };
    for result in created {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => {
                // Of the errors that carry a code, the one that says most about it.
                let error = settings.refused(doing(&name), &KafkaError::Global(code));
                return Err(NoTopic { error, code: Some(code) });
            }
        }
    }
    Ok(())
}

/// Whether brokers could not create a topic just now.
fn passes(result: &TopicResult) -> bool {
    use RDKafkaErrorCode::{BrokerNotAvailable, NotController, RequestTimedOut};
    let passing = [BrokerNotAvailable, NotController, RequestTimedOut];
    matches!(result, Err((_, code)) if passing.contains(code))
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
    wait_max: Duration,
    consumer: BaseConsumer<Context>,
}

impl<'a> Probe<'a> {
    /// Asks for `wait_max` at the most.
    pub(super) fn new(
        settings: &'a KafkaSettings,
        wait_max: Duration,
    ) -> Result<Self, ConnectorError> {
        let consumer = settings
            .probe()
            .create_with_context(Context::new(Role::Probe))
            .map_err(|error| settings.refused("creating a client".into(), &error))?;
        Ok(Self { settings, wait_max, consumer })
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
    pub(super) fn partitions(&self, topic: &str) -> Result<Option<u32>, NoTopic> {
        let doing = || format!("asking for topic {topic}");
        let deadline = Instant::now() + self.wait_max;
        loop {
            let wait_max = ASK_WAIT_MAX.min(self.wait_max);
            let asked = partitions(&self.consumer, topic, wait_max);
            match asked {
                Ok(found) => return Ok(found),
                Err(error) if permanent(&error) => {
                    let code = said_of_a_name(&error);
                    return Err(NoTopic { error: self.settings.refused(doing(), &error), code });
                }
                Err(error) => {
                    // No broker has answered, and one that could be asked has refused us.
                    if let Some(refusal) = self.refusal() {
                        return Err(self.settings.not_let_in(refusal).into());
                    }
                    if Instant::now() > deadline {
                        let settings = self.settings;
                        return Err(settings
                            .silent_for(self.wait_max, doing(), Some(error))
                            .into());
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

/// What is said of a topic by what is permanent. A name that librdkafka can't be handed is one that no topic has.
fn said_of_a_name(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::Nul(_) => Some(RDKafkaErrorCode::InvalidTopic),
        error => error.rdkafka_error_code(),
    }
}

/// Whether asking again would not help.
pub(super) fn permanent(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{InvalidTopic, SaslAuthenticationFailed};
    if matches!(error, KafkaError::Nul(_)) {
        return true;
    }
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

/// The words for an error. rdkafka's own show the value of a property that librdkafka does not take, and that may be a secret.
pub(super) fn told(error: &KafkaError) -> String {
    let KafkaError::ClientConfig(_, text, name, value) = error else { return error.to_string() };
    // It may stand in those of librdkafka, too, cut off.
    let begin: String = value.chars().take(3).collect();
    if !begin.is_empty() && text.contains(&begin) {
        return format!("the property {name} does not have a value that librdkafka takes");
    }
    format!("the property {name}: {text}")
}

/// What the brokers said. rdkafka does not count an answer to an administrator as one.
fn code_of(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        error => error.rdkafka_error_code(),
    }
}

impl KafkaSettings {
    pub(super) fn refused(&self, doing: String, error: &KafkaError) -> ConnectorError {
        let text = told(error);
        match code_of(error) {
            Some(code) if forbidden(code) => {
                ConnectorError::NotAuthorised { connector: NAME, doing, text }
            }
            _ => ConnectorError::Refused { connector: NAME, doing, text },
        }
    }

    pub(super) fn unreachable(&self, doing: String, source: Option<KafkaError>) -> ConnectorError {
        self.silent_for(self.open_wait_max, doing, source)
    }

    fn silent_for(
        &self,
        waited: Duration,
        doing: String,
        source: Option<KafkaError>,
    ) -> ConnectorError {
        ConnectorError::Unreachable {
            connector: NAME,
            address: self.bootstrap.clone(),
            doing,
            waited,
            source: source.map(|error| match error {
                error @ KafkaError::ClientConfig(..) => told(&error).into(),
                error => Box::new(error) as _,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::KafkaConnector;

    #[test]
    fn a_property_that_is_not_taken_is_named_without_its_value() {
        for (name, value) in [
            ("sasl.pasword", "s3cret"),
            ("security.protocol", "s3cret"),
            ("socket.timeout.ms", "s3cret"),
            ("enable.sasl.oauthbearer.unsecure.jwt", "s3cret"),
        ] {
            let mut settings = KafkaSettings::new("localhost:1");
            settings.properties.insert(name.into(), value.into());
            let Err(error) = KafkaConnector::new(settings) else {
                panic!("librdkafka does not take it");
            };
            let (shown, debug) = (error.to_string(), format!("{error:?}"));
            assert!(shown.contains(name), "{shown}");
            assert!(!shown.contains("s3c") && !debug.contains("s3c"), "{debug}");
        }
    }
}
