//! Publishing: what is said of each event, whatever the broker says of it.

use super::*;
use async_trait::async_trait;
use dirigent_connectors::{
    Health, Memory, Source, SourceSpec,
    memory::{MemoryBroker, MemorySettings},
};
use dirigent_model::{
    message::{Channel, Message as Named},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct SeatAsked {
    ticket: u64,
}

impl Named for SeatAsked {
    const NAME: &'static str = "SeatAsked";
}
impl Event for SeatAsked {
    const ON: Channel = Channel::json("seats");
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct SeatFreed {
    ticket: u64,
}

impl Named for SeatFreed {
    const NAME: &'static str = "SeatFreed";
}
impl Event for SeatFreed {
    const ON: Channel = Channel::json("seats");
}

struct Noon;

impl Clock for Noon {
    fn now(&self) -> Timestamp {
        Timestamp(1_800_000_000_000)
    }
}

/// What a reader of the channel finds there after some events.
async fn heard(broker: &MemoryBroker, events: usize) -> Vec<Message> {
    let spec = SourceSpec {
        channels: vec![ChannelSpec::events("seats")],
        group: "hall".into(),
        positions: vec![],
        unsettled_max: 1_000,
    };
    let mut source = broker.source(spec).await.expect("a source");
    let mut found = Vec::new();
    while found.len() < events {
        found.extend(source.receive(1_000).await.expect("events"));
    }
    found.into_iter().map(|delivery| delivery.message).collect()
}

async fn listening(broker: &MemoryBroker) {
    let channels = [ChannelSpec::events("seats")];
    broker.prepare(&channels).await.expect("channels");
    let spec = SourceSpec {
        channels: channels.into(),
        group: "hall".into(),
        positions: vec![],
        unsettled_max: 1,
    };
    drop(broker.source(spec).await.expect("a source"));
}

#[tokio::test]
async fn an_event_arrives_as_the_wire_wants_it_and_each_with_an_id_of_its_own() {
    let broker = MemoryBroker::new();
    listening(&broker).await;
    let publisher = Publisher::connect(Arc::new(broker.clone()), "web-shop").await;
    let mut publisher = publisher.expect("the broker is there").clock(Arc::new(Noon));
    for _ in 0..2 {
        publisher.publish(7_u64, &SeatAsked { ticket: 7 }).await.expect("confirmed");
    }
    publisher.publish_as("row-9", "9", &SeatAsked { ticket: 9 }).await.expect("confirmed");
    let heard = heard(&broker, 3).await;
    let says = |at: usize, name| heard[at].attributes.get(name).unwrap_or_default();
    assert_eq!((heard[0].key.as_str(), &heard[0].body[..]), ("7", &br#"{"ticket":7}"#[..]));
    for (name, value) in [
        (names::SPEC_VERSION, "1.0"),
        (names::SOURCE, "/web-shop"),
        (names::TYPE, "SeatAsked"),
        (names::SUBJECT, "7"),
        (names::TIME, "2027-01-15T08:00:00.000Z"),
        (names::CONTENT_TYPE, "application/json"),
    ] {
        assert_eq!(says(0, name), value, "{name}");
    }
    let ids = [0, 1, 2].map(|at| says(at, names::ID).to_owned());
    assert!(ids[0] != ids[1] && ids[2] == "web-shop/SeatAsked/row-9", "{ids:?}");
}

#[tokio::test]
async fn rows_of_the_same_number_in_tables_of_two_services_are_events_of_their_own() {
    let broker = MemoryBroker::new();
    listening(&broker).await;
    for name in ["web-shop", "billing"] {
        let publisher = Publisher::connect(Arc::new(broker.clone()), name).await;
        let mut publisher = publisher.expect("the broker is there");
        publisher.publish_as("17", "63", &SeatAsked { ticket: 1 }).await.expect("confirmed");
        publisher.publish_as("17", "63", &SeatFreed { ticket: 1 }).await.expect("confirmed");
    }
    let mut ids: Vec<_> = heard(&broker, 4).await.iter().map(id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4, "{ids:?}");
}

#[tokio::test]
async fn a_name_that_would_mix_up_ids_is_refused_with_what_a_name_is() {
    for name in ["", "web/shop", "Web Shop", &"a".repeat(65)] {
        let refused = Publisher::connect(Arc::new(MemoryBroker::new()), name).await;
        let refused = refused.err().expect("it is no name");
        assert!(matches!(refused, PublishError::Name { .. }), "{refused}");
        assert!(refused.to_string().contains("1 to 64 lower-case letters"), "{refused}");
    }
}

#[tokio::test]
async fn an_event_with_an_empty_id_is_refused_since_it_would_be_the_same_as_every_other_one() {
    let (_, mut publisher) = scripted(&[]).await;
    let refused = publisher.publish_as("", "7", &SeatAsked { ticket: 7 }).await.unwrap_err();
    assert!(matches!(refused, PublishError::Id { .. }), "{refused}");
    assert!(refused.to_string().contains("SeatAsked as web-shop: its id is empty"), "{refused}");
}

#[tokio::test]
async fn what_the_broker_never_takes_is_told_with_its_reason_and_a_key_that_can_not_be_one_is_not_sent()
 {
    let settings = MemorySettings { message_bytes_max: 4, ..MemorySettings::default() };
    let broker = MemoryBroker::with_settings(settings);
    listening(&broker).await;
    let publisher = Publisher::connect(Arc::new(broker.clone()), "web-shop").await;
    let mut publisher = publisher.expect("the broker is there");
    let refused = publisher.publish("7", &SeatAsked { ticket: 7 }).await.unwrap_err();
    assert!(matches!(&refused, PublishError::Refused { reason: UnsentReason::TooLarge, .. }));
    let text = refused.to_string();
    assert!(text.starts_with("publishing SeatAsked 7 on `seats` as web-shop: too-large"), "{text}");
    let nameless = publisher.publish("", &SeatAsked { ticket: 7 }).await.unwrap_err();
    assert!(matches!(nameless, PublishError::Key { bytes: 0, .. }), "{nameless}");
}

/// What a broker makes of a message.
#[derive(Debug, Clone, Copy)]
enum Makes {
    /// Takes and confirms it.
    Confirmed,
    /// Takes it, and the confirm is lost.
    Unheard,
    /// Never gets it, and nobody knows.
    Lost,
    /// Refuses it.
    Refused,
}

use Makes::{Confirmed, Lost, Refused, Unheard};

/// A broker that makes of each window what its script says, and confirms what comes behind the script.
#[derive(Clone)]
struct Scripted {
    inner: MemoryBroker,
    script: Arc<Mutex<VecDeque<Vec<Makes>>>>,
    /// The ids of each window that was sent.
    windows: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Scripted {
    fn windows(&self) -> Vec<Vec<String>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct ScriptedSink {
    broker: Scripted,
    inner: Box<dyn Sink>,
}

#[async_trait]
impl Connector for Scripted {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn memory(&self) -> Memory {
        self.inner.memory()
    }

    async fn prepare(&self, channels: &[ChannelSpec]) -> Result<(), ConnectorError> {
        self.inner.prepare(channels).await
    }

    async fn source(&self, spec: SourceSpec) -> Result<Box<dyn Source>, ConnectorError> {
        self.inner.source(spec).await
    }

    async fn sink(&self) -> Result<Box<dyn Sink>, ConnectorError> {
        let inner = self.inner.sink().await?;
        Ok(Box::new(ScriptedSink { broker: self.clone(), inner }))
    }

    async fn owner_sink(&self, _: &str) -> Result<Box<dyn Sink>, ConnectorError> {
        self.sink().await
    }
}

#[async_trait]
impl Sink for ScriptedSink {
    async fn send(&mut self, window: &[Message]) -> Vec<Sent> {
        let ids = window.iter().map(id).collect();
        self.broker.windows.lock().unwrap_or_else(PoisonError::into_inner).push(ids);
        let script = self.broker.script.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let script = script.unwrap_or_else(|| vec![Confirmed; window.len()]);
        assert_eq!(script.len(), window.len(), "the window is another one than the script's");
        let unknown = || Sent::Unknown { text: "the line broke".into() };
        let mut sent = Vec::new();
        for (message, makes) in window.iter().zip(script) {
            if matches!(makes, Confirmed | Unheard) {
                self.inner.send(std::slice::from_ref(message)).await;
            }
            sent.push(match makes {
                Confirmed => Sent::Confirmed,
                Unheard | Lost => unknown(),
                Refused => Sent::Unsent { reason: UnsentReason::TooLarge, text: "big".into() },
            });
        }
        sent
    }

    fn health(&self) -> Health {
        self.inner.health()
    }
}

fn id(message: &Message) -> String {
    message.attributes.get(names::ID).unwrap_or_default().to_owned()
}

/// A broker with a script, and a publisher that gives up after five seconds.
async fn scripted(script: &[&[Makes]]) -> (Scripted, Publisher) {
    let inner = MemoryBroker::new();
    listening(&inner).await;
    let script = script.iter().map(|window| window.to_vec()).collect();
    let script = Arc::new(Mutex::new(script));
    let broker = Scripted { inner, script, windows: Arc::default() };
    let publisher = Publisher::connect(Arc::new(broker.clone()), "web-shop").await;
    (broker, publisher.expect("the broker is there").within(Duration::from_secs(5)))
}

/// Publishes `a`, `b` and `c` at once, each for the key of that name.
async fn publishes_three(publisher: &mut Publisher) -> Result<(), PublishError> {
    let event = SeatAsked { ticket: 1 };
    let events = ["a", "b", "c"].map(|id| (id.to_owned(), Key::from(id), &event));
    publisher.publish_all(events).await
}

fn on_the_wire(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| format!("web-shop/SeatAsked/{id}")).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_not_confirmed_is_sent_again_and_told_with_its_id_where_it_never_is() {
    let lost: &[Makes] = &[Lost];
    let (broker, mut publisher) = scripted(&[lost; 100]).await;
    let told = publisher.publish_as("row-1", "7", &SeatAsked { ticket: 7 }).await.unwrap_err();
    assert!(matches!(&told, PublishError::Unconfirmed { id, .. } if &**id == "row-1"), "{told}");
    let text = told.to_string();
    assert!(
        text.contains("not confirmed within 5s") && text.contains("again as `row-1`"),
        "{text}"
    );
    let tries = broker.windows();
    assert!(tries.len() > 1, "it was tried once");
    assert!(tries.iter().all(|tried| *tried == on_the_wire(&["row-1"])), "{tries:?}");
}

#[tokio::test(start_paused = true)]
async fn only_what_is_unknown_is_sent_again_and_with_the_id_it_had() {
    let (broker, mut publisher) =
        scripted(&[&[Confirmed, Unheard, Lost], &[Lost, Unheard], &[Confirmed, Confirmed]]).await;
    publishes_three(&mut publisher).await.expect("confirmed in the end");
    let again = on_the_wire(&["b", "c"]);
    assert_eq!(broker.windows(), [on_the_wire(&["a", "b", "c"]), again.clone(), again]);
    let arrived: Vec<_> = heard(&broker.inner, 5).await.iter().map(id).collect();
    assert_eq!(arrived, on_the_wire(&["a", "b", "c", "b", "c"]), "each at least once");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_once_all_before_it_are_confirmed() {
    let (broker, mut publisher) = scripted(&[&[Lost, Refused, Lost], &[Lost, Confirmed]]).await;
    let refused = publishes_three(&mut publisher).await.unwrap_err();
    assert!(matches!(&refused, PublishError::Refused { key, .. } if &**key == "b"), "{refused}");
    let again = on_the_wire(&["a", "c"]);
    assert_eq!(broker.windows(), [on_the_wire(&["a", "b", "c"]), again, on_the_wire(&["a"])]);
    let arrived: Vec<_> = heard(&broker.inner, 2).await.iter().map(id).collect();
    assert_eq!(arrived, on_the_wire(&["c", "a"]));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_confirmed_is_told_before_a_refusal_behind_it() {
    let lost: &[Makes] = &[Lost];
    let script = [&[Lost, Refused, Confirmed][..]].into_iter().chain([lost; 20]);
    let (_, mut publisher) = scripted(&script.collect::<Vec<_>>()).await;
    let told = publishes_three(&mut publisher).await.unwrap_err();
    assert!(matches!(&told, PublishError::Unconfirmed { id, .. } if &**id == "a"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn what_was_unknown_once_and_is_refused_then_may_be_there_and_is_not_told_as_refused() {
    let (broker, mut publisher) =
        scripted(&[&[Confirmed, Unheard, Confirmed], &[Refused], &[Confirmed; 3]]).await;
    let told = publishes_three(&mut publisher).await.unwrap_err();
    assert!(matches!(&told, PublishError::Unconfirmed { id, .. } if &**id == "b"), "{told}");
    assert!(told.to_string().contains("refused since: too-large: big"), "{told}");
    assert_eq!(broker.windows().len(), 2, "a refusal is final");
    publishes_three(&mut publisher).await.expect("the broker takes it now");
    assert_eq!(broker.windows()[2], on_the_wire(&["a", "b", "c"]));
}
