//! What the tests of the simulated brokers share: a broker, processes, and numbered messages.

use crate::{
    Attributes, ChannelSpec, Connector, ConnectorError, Delivery, Message, Position, Sent, Settle,
    Sink, Source, SourceSpec, names,
    simulated::{Life, SimBroker, SimEvent, SimSettings},
};
use bytes::Bytes;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

/// A process: a life, and its way to the broker.
pub(super) struct Process {
    pub(super) life: Arc<Life>,
    pub(super) connector: Arc<dyn Connector>,
}

pub(super) fn process(broker: &SimBroker, number: u32) -> Process {
    let life = Arc::new(Life::numbered(number));
    Process { connector: broker.connector(Arc::clone(&life)), life }
}

impl Process {
    pub(super) async fn source(&self, group: &str) -> Box<dyn Source> {
        self.source_at(group, Vec::new()).await
    }

    pub(super) async fn source_at(&self, group: &str, positions: Vec<Position>) -> Box<dyn Source> {
        loop {
            match self.connector.source(spec(group, positions.clone())).await {
                // It is away for longer than opening waits.
                Err(ConnectorError::Unreachable { .. }) => {}
                opened => return opened.expect("the source opens"),
            }
        }
    }

    pub(super) async fn sink(&self) -> Box<dyn Sink> {
        loop {
            match self.connector.sink().await {
                Err(ConnectorError::Unreachable { .. }) => {}
                opened => return opened.expect("the sink opens"),
            }
        }
    }

    pub(super) async fn owner_sink(&self, group: &str) -> Box<dyn Sink> {
        loop {
            match self.connector.owner_sink(group).await {
                Err(ConnectorError::Unreachable { .. }) => {}
                opened => return opened.expect("the owner's sink opens"),
            }
        }
    }

    pub(super) async fn prepare(&self) {
        while let Err(error) = self.connector.prepare(&[ChannelSpec::work("work")]).await {
            assert!(matches!(error, ConnectorError::Unreachable { .. }), "{error}");
        }
    }
}

pub(super) fn spec(group: &str, positions: Vec<Position>) -> SourceSpec {
    let channels = vec![ChannelSpec::work("work")];
    SourceSpec { channels, group: group.to_owned(), positions, unsettled_max: 1_000 }
}

pub(super) fn message(key: &str, id: usize) -> Message {
    Message {
        channel: "work".to_owned(),
        kind: crate::ChannelKind::Work,
        key: key.to_owned(),
        attributes: Attributes::new().with(names::ID, id.to_string()),
        others: Vec::new(),
        body: Bytes::from_static(b"{}"),
    }
}

pub(super) fn window(key: &str, ids: std::ops::Range<usize>) -> Vec<Message> {
    ids.map(|id| message(key, id)).collect()
}

pub(super) fn id_of(message: &Message) -> usize {
    let id = message.attributes.get(names::ID).and_then(|id| id.parse().ok());
    id.expect("every message here has a number")
}

pub(super) fn ids(deliveries: &[Delivery]) -> Vec<usize> {
    deliveries.iter().map(|delivery| id_of(&delivery.message)).collect()
}

/// Everything that comes until nothing does for as long as no fault lasts.
pub(super) async fn all(source: &mut dyn Source) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    let silence = Duration::from_secs(300);
    while let Ok(more) = tokio::time::timeout(silence, source.receive(100)).await {
        deliveries.extend(more.expect("nothing that a person must mend"));
    }
    deliveries
}

pub(super) fn confirmed(outcomes: &[Sent]) -> usize {
    outcomes.iter().filter(|sent| **sent == Sent::Confirmed).count()
}

/// Settles all of these.
pub(super) fn settle(source: &dyn Source, deliveries: &[Delivery], settle: Settle) {
    let receipts = deliveries.iter().map(|delivery| (delivery.receipt, settle));
    source.settler().settle(&receipts.collect::<Vec<_>>());
}

/// A connector of the first process at a new broker, on which the channel of work is prepared.
pub(super) async fn begun(settings: SimSettings) -> (SimBroker, Process) {
    let broker = SimBroker::new(settings);
    let first = process(&broker, 1);
    first.prepare().await;
    (broker, first)
}

/// Both kinds, with the same seed.
pub(super) fn both(seed: u64) -> [SimSettings; 2] {
    [SimSettings::log("log", seed), SimSettings::queues("queues", seed)]
}

/// Writes down all that happens.
pub(super) fn written(broker: &SimBroker) -> Arc<Mutex<Vec<SimEvent>>> {
    let events = Arc::new(Mutex::new(Vec::new()));
    let writes = Arc::clone(&events);
    broker.watch(Box::new(move |event| {
        writes.lock().expect("no panic").push(event.clone());
    }));
    events
}
