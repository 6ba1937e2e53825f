//! How long the brokers keep what was read: the age at which a topic's messages are deleted.

use super::{KafkaSettings, clients::Role, context::Context};
use crate::{ConnectorError, Retention};
use rdkafka::{
    admin::{AdminClient, AdminOptions, ResourceSpecifier},
    error::KafkaError,
    types::RDKafkaErrorCode,
};
use std::time::Duration;

/// How long the question may take: a process that starts does not wait for it longer, and goes on without an answer.
const ASK_WAIT_MAX: Duration = Duration::from_secs(5);

/// Asks for the settings of a topic.
pub(super) async fn of(settings: &KafkaSettings, topic: &str) -> Result<Retention, ConnectorError> {
    let doing = || format!("asking how long topic {topic} keeps its messages");
    let admin: AdminClient<Context> = settings
        .admin()
        .create_with_context(Context::new(Role::Admin))
        .map_err(|error| settings.refused("creating an administration client".into(), &error))?;
    let wait_max = settings.open_wait_max.min(ASK_WAIT_MAX);
    let options =
        AdminOptions::new().operation_timeout(Some(wait_max)).request_timeout(Some(wait_max));
    let asked = admin.describe_configs(&[ResourceSpecifier::Topic(topic)], &options).await;
    let described = asked
        .map_err(|error| settings.refused(doing(), &error))?
        .pop()
        .unwrap_or(Err(RDKafkaErrorCode::UnknownTopicOrPartition))
        .map_err(|code| settings.refused(doing(), &KafkaError::AdminOp(code)))?;
    let value = |name: &str| described.get(name).and_then(|entry| entry.value.as_deref());
    // Of a topic that is not there, the client library hands over no settings, and no error either.
    let (Some(policy), Some(retention_ms)) = (value("cleanup.policy"), value("retention.ms"))
    else {
        let error = KafkaError::AdminOp(RDKafkaErrorCode::UnknownTopicOrPartition);
        return Err(settings.refused(doing(), &error));
    };
    Ok(read(policy, retention_ms))
}

/// What the settings of a topic mean. Its size may make it forget sooner, but nobody knows when.
fn read(policy: &str, retention_ms: &str) -> Retention {
    if !policy.split(',').any(|word| word.trim() == "delete") {
        return Retention::ForEver;
    }
    // Negative is for ever; what is no number is taken for it, since that is the longest.
    match retention_ms.trim().parse() {
        Ok(millis) => Retention::For(Duration::from_millis(millis)),
        Err(_) => Retention::ForEver,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_of_a_topic_say_how_long_it_keeps_messages() {
        let week = Retention::For(Duration::from_secs(7 * 24 * 60 * 60));
        assert_eq!(read("delete", "604800000"), week);
        assert_eq!(read("compact,delete", "604800000"), week);
        assert_eq!(read("compact", "604800000"), Retention::ForEver);
        assert_eq!(read("delete", "-1"), Retention::ForEver);
        assert_eq!(read("delete", "?"), Retention::ForEver);
    }
}
