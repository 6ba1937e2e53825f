//! Properties of librdkafka that a person must not set: the promises of the connector rest on them.

/// Why a property can't be set, or nothing if it can.
pub(super) fn why_refused(name: &str) -> Option<&'static str> {
    let found = REFUSED.iter().find(|(refused, _)| *refused == name);
    found.map(|(_, why)| *why)
}

const REFUSED: &[(&str, &str)] = &[
    ("acks", "a command counts as sent only when all in-sync replicas have it"),
    ("request.required.acks", "a command counts as sent only when all in-sync replicas have it"),
    (
        "auto.offset.reset",
        "a position the log no longer has must be an error: to start elsewhere repeats or skips messages silently",
    ),
    ("bootstrap.servers", "the address is said by `kafka.address`, --kafka or DIRIGENT_KAFKA"),
    ("metadata.broker.list", "the address is said by `kafka.address`, --kafka or DIRIGENT_KAFKA"),
    ("client.id", "it tells which process on which machine holds a group, and is in errors"),
    ("enable.auto.commit", "positions are kept in the journal, together with what they led to"),
    (
        "enable.auto.offset.store",
        "positions are kept in the journal, together with what they led to",
    ),
    ("enable.idempotence", "without it the broker may keep a message twice, or out of order"),
    ("group.id", "the application's name is the group; it is said by `app`"),
    ("group.instance.id", "one process owns a group, and this is how a second one is refused"),
    ("group.protocol", "one process owns a group, and this is how a second one is refused"),
    (
        "partition.assignment.strategy",
        "one process owns a group, and this is how a second one is refused",
    ),
    (
        "transactional.id",
        "one process owns a group, and this is how the brokers refuse a former one",
    ),
    (
        "transaction.timeout.ms",
        "it follows from the time after which a message counts as unknown and is sent again",
    ),
    ("session.timeout.ms", "one process owns a group, and this is how a second one is refused"),
    ("isolation.level", "messages of a transaction that was aborted never happened"),
    (
        "message.timeout.ms",
        "it is the time after which a message counts as unknown and is sent again",
    ),
    (
        "delivery.timeout.ms",
        "it is the time after which a message counts as unknown and is sent again",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use dirigent_connectors::kafka::{KafkaConnector, KafkaSettings};

    #[test]
    fn the_connector_refuses_the_same_properties() {
        for (name, _) in REFUSED {
            let mut settings = KafkaSettings::new("localhost:9092");
            settings.properties.insert((*name).to_owned(), "x".into());
            let error = KafkaConnector::new(settings).expect_err("it refuses them, too");
            assert!(error.to_string().contains(name), "{error}");
        }
        assert_eq!(why_refused("sasl.mechanism"), None);
    }
}
