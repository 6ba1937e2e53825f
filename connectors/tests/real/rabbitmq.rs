//! A RabbitMQ under test: names that no other run uses, an administrator's commands, and waiting for what heals.

use bytes::Bytes;
use dirigent_connectors::{
    Attributes, ChannelSpec, Connector, Delivery, Health, Message, Sent, Settle, Sink, Source,
    SourceSpec,
    health::Standing,
    names,
    rabbitmq::{RabbitMqConnector, RabbitMqSettings},
};
use lapin::{Connection, ConnectionProperties};
use std::{
    process::Command,
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::timeout,
};

/// How long a broker may take to heal, rebuilding with delays included.
pub(crate) const HEALING_TIME_MAX: Duration = Duration::from_secs(30);

/// The bench, or a return from the test around after saying that it is skipped.
#[macro_export]
macro_rules! broker_or_skip {
    ($test:literal) => {
        match $crate::require!("DIRIGENT_RABBITMQ") {
            Some(uri) => $crate::real::rabbitmq::Bench::new(uri, $test).await,
            None => return,
        }
    };
}

/// Some tests close everyone's connections or stop the broker: they have it one after the other.
static BROKER: Mutex<()> = Mutex::const_new(());

/// A broker, and names that no other run uses.
pub(crate) struct Bench {
    pub(crate) uri: String,
    pub(crate) settings: RabbitMqSettings,
    pub(crate) connector: RabbitMqConnector,
    pub(crate) prefix: String,
    _alone: MutexGuard<'static, ()>,
}

impl Bench {
    pub(crate) async fn new(uri: String, test: &str) -> Self {
        let _alone = BROKER.lock().await;
        let mut settings = RabbitMqSettings::new(&uri).expect("DIRIGENT_RABBITMQ is an address");
        if test == "blocked" || test == "stopped" {
            settings.confirm_time_max = Duration::from_secs(2);
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        let prefix = format!("{test}-{}", now.as_micros());
        Self { uri, connector: RabbitMqConnector::new(settings.clone()), settings, prefix, _alone }
    }

    pub(crate) fn work(&self) -> ChannelSpec {
        ChannelSpec::work(format!("{}-work", self.prefix))
    }

    pub(crate) async fn source(
        &self,
        channel: &ChannelSpec,
        unsettled_max: usize,
    ) -> Box<dyn Source> {
        let spec = SourceSpec {
            channels: vec![channel.clone()],
            group: self.prefix.clone(),
            positions: vec![],
            unsettled_max,
        };
        self.connector.source(spec).await.expect("a source")
    }

    pub(crate) async fn administer(&self) -> lapin::Channel {
        let connection = Connection::connect(&self.uri, ConnectionProperties::default()).await;
        let channel = connection.expect("a connection").create_channel().await;
        channel.expect("an AMQP channel")
    }
}

pub(crate) fn message(channel: &ChannelSpec, id: usize) -> Message {
    Message {
        channel: channel.name.clone(),
        kind: channel.kind,
        key: "k".into(),
        attributes: Attributes::new()
            .with(names::SPEC_VERSION, "1.0")
            .with(names::ID, id.to_string())
            .with(names::TYPE, "Counted")
            .with(names::CONTENT_TYPE, "application/json"),
        others: vec![],
        body: Bytes::from(vec![b'x'; 300]),
    }
}

pub(crate) fn window(channel: &ChannelSpec, ids: std::ops::Range<usize>) -> Vec<Message> {
    ids.map(|id| message(channel, id)).collect()
}

pub(crate) fn ids(deliveries: &[Delivery]) -> Vec<usize> {
    let id = |delivery: &Delivery| delivery.message.attributes.get(names::ID)?.parse().ok();
    deliveries.iter().map(|delivery| id(delivery).expect("a number")).collect()
}

pub(crate) async fn receive(source: &mut dyn Source, count: usize) -> Vec<Delivery> {
    let mut all = Vec::new();
    while all.len() < count {
        let more = timeout(HEALING_TIME_MAX, source.receive(count - all.len())).await;
        all.extend(more.expect("deliveries in time").expect("no trouble"));
    }
    all
}

/// An administrator's command: the words of `ctl`, then the arguments.
pub(crate) fn command(ctl: &str, arguments: &[&str]) -> Command {
    let mut words = ctl.split_whitespace();
    let mut command = Command::new(words.next().expect("DIRIGENT_RABBITMQCTL is a command"));
    command.args(words).args(arguments);
    command
}

/// Runs an administrator's command and returns what it says.
pub(crate) fn administered(ctl: &str, arguments: &[&str]) -> String {
    let output = command(ctl, arguments).output().expect("rabbitmqctl runs");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Undoes an administrator's command when the test ends, passed or not.
pub(crate) struct Undo<'a>(pub(crate) &'a str, pub(crate) &'a [&'a str]);

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        let _ = command(self.0, self.1).output();
    }
}

/// Waits until a source or sink stands so.
pub(crate) async fn until(health: &Health, wanted: impl FnMut(&Standing) -> bool) -> Standing {
    let standing = timeout(HEALING_TIME_MAX, health.until(wanted)).await;
    standing.unwrap_or_else(|_| panic!("it still says {:?}", health.report()))
}

/// Sends until all are confirmed.
pub(crate) async fn send_until_confirmed(sink: &mut dyn Sink, mut open: Vec<Message>) {
    let begin = Instant::now();
    while !open.is_empty() {
        assert!(begin.elapsed() < HEALING_TIME_MAX, "the sink did not heal");
        let outcomes = sink.send(&open).await;
        let mut outcomes = outcomes.iter();
        open.retain(|_| outcomes.next() != Some(&Sent::Confirmed));
    }
}

pub(crate) fn done(source: &dyn Source, deliveries: &[Delivery]) {
    let settlements: Vec<_> =
        deliveries.iter().map(|delivery| (delivery.receipt, Settle::Done)).collect();
    source.settler().settle(&settlements);
}
