//! The settings of the Kafka connector, and the clients of librdkafka they lead to.

use super::{
    NAME,
    security::{KafkaSasl, KafkaTls},
};
use crate::ConnectorError;
use rdkafka::ClientConfig;
use std::{
    collections::BTreeMap,
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// How long an opening waits for the brokers to answer, unless set otherwise.
pub const OPEN_WAIT_MAX: Duration = Duration::from_secs(20);

/// How long a window waits for its confirmations before the rest is unknown, unless set otherwise.
pub const SEND_WAIT_MAX: Duration = Duration::from_secs(30);

/// After how long without a sign of life the brokers give up the owner of a group, unless set otherwise.
/// A restart after a crash waits that long. Brokers refuse less than six seconds by default.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(10);

/// Beyond the session timeout of a group's last owner, unless set otherwise: what a group needs to agree again.
pub const TAKEOVER_MARGIN: Duration = Duration::from_secs(8);

/// Beyond the time limit of a window: what a transaction may take to be ended. Brokers give up one that is open for longer than
/// both together, and only then do readers of what is committed see what others have sent behind it.
const TRANSACTION_MARGIN: Duration = Duration::from_secs(5);

/// How long a producer gathers messages for one request (ms). A window is handed over as a whole, so there is little to wait for.
const LINGER_MS: u32 = 1;

/// How often librdkafka tells its statistics (ms), unless a property says otherwise.
const STATISTICS_MS: u32 = 5_000;

/// Properties that the promises of this connector rest on.
const OURS: &[&str] = &[
    "acks",
    "auto.offset.reset",
    "bootstrap.servers",
    "client.id",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "isolation.level",
    "message.timeout.ms",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "request.required.acks",
    "session.timeout.ms",
    "transaction.timeout.ms",
    "transactional.id",
];

/// From where to read a partition whose group has read further than the positions handed in, or whose log has lost them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PositionsFrom {
    /// Nothing is read: opening is refused with the reason, because anything else repeats or skips messages.
    #[default]
    Refuse,
    /// From the positions handed in: what the group has done since comes again.
    Journal,
    /// From where the group stood: what lies between is never read.
    Committed,
    /// From the beginning of the log, with all that is still there.
    Beginning,
}

/// How to reach Kafka, and what to create there.
#[derive(Clone)]
pub struct KafkaSettings {
    /// `host:port` of one or more brokers, separated by commas.
    pub bootstrap: String,
    /// TLS to the brokers, if it is to be.
    pub tls: Option<KafkaTls>,
    /// Who we are there, if they want to know.
    pub sasl: Option<KafkaSasl>,
    /// More properties of librdkafka. Values may be secrets and are never shown.
    pub properties: BTreeMap<String, String>,
    /// Partitions of the topics that are created here.
    pub partitions: u32,
    /// Replicas of the topics that are created here; `None` leaves it to the brokers.
    pub replicas: Option<u16>,
    /// Creates topics by asking for them, with the brokers' own number of partitions, instead of by administration:
    /// for a cluster that has none, such as librdkafka's mock cluster.
    pub create_by_asking: bool,
    /// How long an opening waits for the brokers.
    pub open_wait_max: Duration,
    /// How long a window waits for its confirmations.
    pub send_wait_max: Duration,
    /// After how long without a sign of life the owner of a group is given up.
    pub session_timeout: Duration,
    /// How long beyond `session_timeout` a source waits for a group that another one has, before it is refused.
    pub takeover_margin: Duration,
    /// What a person has decided for partitions whose positions can't be trusted. For one start, not for good.
    pub positions_from: PositionsFrom,
}

impl KafkaSettings {
    /// The usual settings for the brokers at `bootstrap`.
    pub fn new(bootstrap: impl Into<String>) -> Self {
        Self {
            bootstrap: bootstrap.into(),
            tls: None,
            sasl: None,
            properties: BTreeMap::new(),
            partitions: 6,
            replicas: None,
            create_by_asking: false,
            open_wait_max: OPEN_WAIT_MAX,
            send_wait_max: SEND_WAIT_MAX,
            session_timeout: SESSION_TIMEOUT,
            takeover_margin: TAKEOVER_MARGIN,
            positions_from: PositionsFrom::Refuse,
        }
    }

    /// Refuses what would break a promise.
    pub(super) fn check(&self) -> Result<(), ConnectorError> {
        let wrong = |setting: &str, text: &str| {
            Err(ConnectorError::Setting {
                connector: NAME,
                setting: setting.to_owned(),
                text: text.to_owned(),
            })
        };
        if self.bootstrap.trim().is_empty() {
            return wrong("bootstrap", "it is empty; name at least one broker as host:port");
        }
        if self.bootstrap.contains('@') {
            let text = "it holds an `@`, as if a user and a password stood in it; name brokers as host:port only, and say who this is by `sasl`";
            return wrong("bootstrap", text);
        }
        if self.partitions == 0 {
            return wrong("partitions", "a topic has at least one partition");
        }
        match self.properties.keys().find(|name| OURS.contains(&name.as_str())) {
            Some(name) => wrong(
                name,
                "the connector sets this property itself, because its promises rest on it; remove it",
            ),
            None => self.check_security().and_then(|()| self.check_properties()),
        }
    }

    fn client(&self, role: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        self.secure(&mut config);
        config
            .set("bootstrap.servers", &self.bootstrap)
            .set("client.id", client_id(role))
            .set("topic.metadata.propagation.max.ms", "10000");
        config
    }

    fn consumer(&self, role: &str) -> ClientConfig {
        let mut config = self.client(role);
        // Of meaning for the owner alone, but all would refuse a `max.poll.interval.ms` that is shorter than their own.
        config.set("session.timeout.ms", self.session_timeout.as_millis().to_string());
        config
    }

    /// Asks for metadata, never creates a topic by asking.
    pub(super) fn probe(&self) -> ClientConfig {
        let mut config = self.consumer("probe");
        config.set("allow.auto.create.topics", "false");
        config
    }

    /// Creates a topic by asking for it, where the brokers do that.
    pub(super) fn asking(&self) -> ClientConfig {
        let mut config = self.consumer("asking");
        config.set("allow.auto.create.topics", "true");
        config
    }

    pub(super) fn admin(&self) -> ClientConfig {
        self.client("admin")
    }

    /// Reads partitions that are assigned by hand, from positions the brokers know nothing of.
    pub(super) fn reader(&self, group: &str) -> ClientConfig {
        let mut config = self.consumer("reader");
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Earliest or latest would repeat or skip silently.
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("check.crcs", "true")
            .set("allow.auto.create.topics", "false")
            .set("fetch.wait.max.ms", "100");
        self.with_statistics(config)
    }

    /// Holds the group, see [`super::ownership`].
    pub(super) fn owner(&self, group: &str) -> ClientConfig {
        let mut config = self.client("owner");
        let session_ms = self.session_timeout.as_millis();
        config
            .set("group.id", group)
            .set("group.protocol", "classic")
            // The only strategy that leaves the partition with the one who has it when another one joins.
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", session_ms.to_string())
            .set("heartbeat.interval.ms", (session_ms / 4).max(100).to_string())
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Records of owners are read elsewhere.
            .set("auto.offset.reset", "latest")
            .set("allow.auto.create.topics", "false");
        config
    }

    /// Sends for the owner of a group, see [`super::fence`].
    pub(super) fn owning_producer(&self, group: &str) -> ClientConfig {
        let mut config = self.producer();
        let transaction = self.send_wait_max + TRANSACTION_MARGIN;
        if !self.properties.contains_key("linger.ms") {
            // A window gathers anyhow, while its partitions are entered into the transaction.
            config.set("linger.ms", "0");
        }
        config
            .set("transactional.id", super::ownership::topic(group))
            .set("transaction.timeout.ms", transaction.as_millis().to_string());
        config
    }

    /// Reads what is committed of the record of a group's owner, up to its end.
    pub(super) fn record(&self) -> ClientConfig {
        let mut config = self.consumer("record");
        config
            // Nothing is committed; librdkafka wants a name.
            .set("group.id", "dirigent-record")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            .set("allow.auto.create.topics", "false")
            .set("fetch.wait.max.ms", "10");
        config
    }

    pub(super) fn producer(&self) -> ClientConfig {
        let mut config = self.client("producer");
        if !self.properties.contains_key("linger.ms") {
            config.set("linger.ms", LINGER_MS.to_string());
        }
        if !self.properties.contains_key("partitioner") {
            // The one of the Java clients: whoever writes the same key reaches the same partition.
            config.set("partitioner", "murmur2_random");
        }
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", self.send_wait_max.as_millis().max(1).to_string());
        self.with_statistics(config)
    }

    fn with_statistics(&self, mut config: ClientConfig) -> ClientConfig {
        if !self.properties.contains_key("statistics.interval.ms") {
            config.set("statistics.interval.ms", STATISTICS_MS.to_string());
        }
        config
    }
}

impl fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSettings")
            // What is refused may be shown, too.
            .field("bootstrap", &self.bootstrap.rsplit('@').next().unwrap_or_default())
            .field("tls", &self.tls)
            .field("sasl", &self.sasl)
            .field("properties", &self.properties.keys())
            .field("partitions", &self.partitions)
            .field("replicas", &self.replicas)
            .field("create_by_asking", &self.create_by_asking)
            .field("open_wait_max", &self.open_wait_max)
            .field("send_wait_max", &self.send_wait_max)
            .field("session_timeout", &self.session_timeout)
            .field("takeover_margin", &self.takeover_margin)
            .field("positions_from", &self.positions_from)
            .finish()
    }
}

/// Tells people on which machine and in which process to look: it is what the brokers show of a group's members.
fn client_id(role: &str) -> String {
    static CLIENTS: AtomicU64 = AtomicU64::new(0);
    let number = CLIENTS.fetch_add(1, Ordering::Relaxed);
    format!("dirigent-{role}-{}-{}-{number}", host(), std::process::id())
}

/// The name of this machine.
pub(super) fn host() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok());
    host.as_deref().map(str::trim).filter(|host| !host.is_empty()).unwrap_or("unknown-host").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_the_promises_rest_on_is_refused() {
        let mut settings = KafkaSettings::new("localhost:9092");
        assert!(settings.check().is_ok());
        settings.properties.insert("enable.auto.commit".into(), "true".into());
        let error = settings.check().expect_err("refused").to_string();
        assert!(error.contains("enable.auto.commit"), "{error}");
        // Another name of a property that is ours.
        settings.properties = BTreeMap::from([("delivery.timeout.ms".into(), "5".into())]);
        let error = settings.check().expect_err("refused").to_string();
        assert!(error.contains("delivery.timeout.ms"), "{error}");
    }

    #[test]
    fn an_address_with_a_password_in_it_is_refused_and_not_repeated() {
        let settings = KafkaSettings::new("ann:hunter2@broker:9092");
        let error = settings.check().expect_err("refused").to_string();
        assert!(error.contains("bootstrap") && error.contains("sasl"), "{error}");
        let shown = format!("{settings:?}");
        assert!(!(error + &shown).contains("hunter2"), "{shown}");
    }

    #[test]
    fn values_of_properties_are_never_shown() {
        let mut settings = KafkaSettings::new("localhost:9092");
        settings.properties.insert("sasl.password".into(), "hunter2".into());
        let shown = format!("{settings:?}");
        assert!(shown.contains("sasl.password") && !shown.contains("hunter2"), "{shown}");
    }
}
