//! A Kafka under test: names that no other run uses, messages and sources of a channel of its own, an administrator, and a child
//! process that owns a group until it is stopped or killed.

use bytes::Bytes;
use dirigent_connectors::{
    Attributes, ChannelSpec, Delivery, Message, Position, Settle, Source, SourceSpec,
    kafka::{KafkaConnector, KafkaSettings},
    names,
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};
use std::{
    io::{BufRead, BufReader, Lines},
    process::{Child, ChildStderr, Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The variable that names the Kafka to test against; it is littered.
pub(crate) const KAFKA_VARIABLE: &str = "DIRIGENT_KAFKA";

/// As short as brokers take unless they are told otherwise.
pub(crate) const SESSION_TIMEOUT: Duration = Duration::from_secs(6);

/// `None`, and says so, without a real Kafka.
#[macro_export]
macro_rules! bootstrap {
    () => {
        $crate::require!($crate::real::kafka::KAFKA_VARIABLE)
    };
}

pub(crate) fn connector(bootstrap: &str) -> KafkaConnector {
    connector_with(bootstrap, |_| {})
}

pub(crate) fn connector_with(
    bootstrap: &str,
    change: impl FnOnce(&mut KafkaSettings),
) -> KafkaConnector {
    let mut settings = KafkaSettings::new(bootstrap);
    settings.session_timeout = SESSION_TIMEOUT;
    change(&mut settings);
    KafkaConnector::new(settings).expect("usable settings")
}

pub(crate) fn admin(bootstrap: &str) -> AdminClient<DefaultClientContext> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).create().expect("an administration client")
}

pub(crate) fn unique(name: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    format!("{name}-{:x}", now.as_nanos())
}

/// A topic of its own with this many partitions and these settings.
pub(crate) async fn topic(
    bootstrap: &str,
    name: &str,
    partitions: i32,
    settings: &[(&str, &str)],
) -> ChannelSpec {
    let name = unique(name);
    let mut topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(-1));
    for (setting, value) in settings {
        topic = topic.set(setting, value);
    }
    let made = admin(bootstrap).create_topics(&[topic], &AdminOptions::new()).await;
    assert!(made.expect("an answer").iter().all(Result::is_ok));
    ChannelSpec::work(name)
}

pub(crate) fn message(channel: &ChannelSpec, id: usize) -> Message {
    Message {
        channel: channel.name.clone(),
        kind: channel.kind,
        key: format!("key-{}", id % 64),
        attributes: Attributes::new()
            .with(names::ID, id.to_string())
            .with(names::TYPE, "Counted")
            .with(names::SOURCE, std::process::id().to_string())
            .with(names::CONTENT_TYPE, "application/json")
            .with(names::IDEMPOTENCY_KEY, id.to_string()),
        others: Vec::new(),
        body: Bytes::from(vec![b'x'; 200]),
    }
}

pub(crate) fn id(delivery: &Delivery) -> usize {
    let id = delivery.message.attributes.get(names::ID);
    id.and_then(|id| id.parse().ok()).expect("a number")
}

/// A source of this channel alone, in a group of its name.
pub(crate) fn spec(channel: &ChannelSpec, positions: Vec<Position>) -> SourceSpec {
    SourceSpec {
        channels: vec![channel.clone()],
        group: channel.name.clone(),
        positions,
        unsettled_max: 100_000,
    }
}

/// The first partition is to be read from here.
pub(crate) fn at(channel: &ChannelSpec, next: u64) -> Vec<Position> {
    vec![Position { channel: channel.name.clone(), partition: 0, next }]
}

/// At least `count` deliveries, all of them settled.
pub(crate) async fn receive(source: &mut dyn Source, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    while deliveries.len() < count {
        let more = tokio::time::timeout(Duration::from_secs(30), source.receive(1_000)).await;
        let more = more.expect("an answer in time").expect("deliveries");
        let settled: Vec<_> =
            more.iter().map(|delivery| (delivery.receipt, Settle::Done)).collect();
        source.settler().settle(&settled);
        deliveries.extend(more);
    }
    deliveries
}

/// Another process of this test program, and what it says. Ended with this.
pub(crate) struct OwnerApart {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
}

impl OwnerApart {
    /// Where the child process learns which channel to own.
    pub(crate) const VARIABLE: &str = "DIRIGENT_TEST_OWNS";

    /// What the child is to own, and its Kafka; nothing in the process that tests.
    pub(crate) fn asked() -> Option<(ChannelSpec, String)> {
        let name = std::env::var(Self::VARIABLE).ok()?;
        Some((ChannelSpec::work(name), std::env::var(KAFKA_VARIABLE).ok()?))
    }

    /// Starts the test `an_owner_in_another_process` of this program, and waits until it says `owned`.
    pub(crate) fn starts(channel: &ChannelSpec) -> Self {
        tokio::task::block_in_place(|| {
            let mut child = Command::new(std::env::current_exe().expect("this program"))
                .args(["an_owner_in_another_process", "--exact", "--nocapture"])
                .env(Self::VARIABLE, &channel.name)
                .stderr(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .expect("a child");
            let lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
            let mut owner = Self { child, lines };
            let owned =
                owner.lines.by_ref().map_while(Result::ok).any(|line| line.contains("owned"));
            assert!(owned, "the child never owned the group");
            owner
        })
    }

    pub(crate) fn signal(&self, name: &str) {
        // The shell's own: the program of that name is not on every machine.
        let kill = format!("kill -{name} {}", self.child.id());
        let sent = Command::new("sh").args(["-c", &kill]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name}");
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).expect("the child is killed");
    }

    /// The next lines that it says before it ends.
    pub(crate) fn last_words(mut self, count: usize) -> Vec<String> {
        tokio::task::block_in_place(|| {
            let lines = self.lines.by_ref().map_while(Result::ok);
            let said = lines.filter(|line| !line.trim().is_empty()).take(count).collect();
            self.child.wait().expect("the child ends");
            said
        })
    }
}

impl Drop for OwnerApart {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
