//! Publishing events from outside of a saga: how a customer, a web server or a job says what happened, so that sagas begin or go on.
//!
//! ```no_run
//! # use dirigent::model::message::{Channel, Event, Message};
//! # #[derive(serde::Serialize, serde::Deserialize)] struct OrderPlaced { order: u64 }
//! # impl Message for OrderPlaced { const NAME: &'static str = "OrderPlaced"; }
//! # impl Event for OrderPlaced { const ON: Channel = Channel::json("orders"); }
//! # async fn place(kafka: std::sync::Arc<dyn dirigent::connectors::Connector>) -> Result<(), dirigent::PublishError> {
//! let mut publisher = dirigent::Publisher::connect(kafka, "web-shop").await?;
//! publisher.publish(63_u64, &OrderPlaced { order: 63 }).await?;
//! # Ok(()) }
//! ```
//!
//! An event goes in with its business key; once the call has returned, the broker has it for good. It may have it twice, with one id: sagas
//! take it once. Events of one key keep their order when each is published after the one before was.

use crate::engine::{Clock, SystemClock};
use dirigent_connectors::{
    Attributes, ChannelKind, ChannelSpec, Connector, ConnectorError, Message, Sent, Sink,
    UnsentReason, names, retry::Delays,
};
use dirigent_model::message::{Body, Codec, CodecError, Event, Key};
use std::{
    collections::BTreeSet,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};
use uuid::{Builder, Uuid};

/// Messages handed to the broker at once.
pub const WINDOW_MAX: usize = 256;

/// After so long without the broker's confirmation it is not asked again, unless [`Publisher::within`] says otherwise: about as long as a
/// web server lets its customer wait.
pub const CONFIRMED_WITHIN: Duration = Duration::from_secs(30);

/// Why an event was not published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The broker.
    #[error("publishing as {publisher}, {doing}")]
    Connector {
        /// Who publishes.
        publisher: String,
        /// What was being done.
        doing: String,
        /// What the connector says.
        #[source]
        source: Box<ConnectorError>,
    },
    /// Its body can't be written.
    #[error("publishing as {publisher}, writing {event}")]
    Body {
        /// Who publishes.
        publisher: String,
        /// Which event.
        event: &'static str,
        /// What the codec says.
        #[source]
        source: Box<CodecError>,
    },
    /// Its key can't be one.
    #[error(
        "publishing as {publisher}: the key of {event} has {bytes} bytes; a business key has 1 to {}",
        Key::BYTES_MAX
    )]
    Key {
        /// Who publishes.
        publisher: String,
        /// Which event.
        event: &'static str,
        /// How many it has.
        bytes: usize,
    },
    /// The broker does not take it, and would not if it were asked again. Those before it are published, those after it may be.
    #[error("publishing {event} {key} on `{channel}` as {publisher}: {reason}: {text}")]
    Refused {
        /// Who publishes.
        publisher: Box<str>,
        /// The event's name.
        event: Box<str>,
        /// Its business key.
        key: Box<str>,
        /// The channel.
        channel: Box<str>,
        /// Why, for decisions.
        reason: UnsentReason,
        /// Why, for people.
        text: Box<str>,
    },
    /// Nobody knows whether the broker has it. Published again with its id, it counts once.
    #[error(
        "publishing {event} {key} as {publisher}: not confirmed within {}s, so it may or may not be there ({text}); publish it again as `{id}`, and it counts once",
        .waited.as_secs()
    )]
    Unconfirmed {
        /// Who publishes.
        publisher: Box<str>,
        /// The event's name.
        event: Box<str>,
        /// Its business key.
        key: Box<str>,
        /// Its id.
        id: Box<str>,
        /// How long was waited.
        waited: Duration,
        /// What the connector said last.
        text: Box<str>,
    },
}

/// Publishes events at a broker.
pub struct Publisher {
    name: String,
    connector: Arc<dyn Connector>,
    sink: Box<dyn Sink>,
    codec: Arc<dyn Codec>,
    clock: Arc<dyn Clock>,
    within: Duration,
    /// Channels that are there.
    prepared: BTreeSet<&'static str>,
    ids: Ids,
}

impl Publisher {
    /// Connects. The name says who published, in the attribute `source` of every event.
    ///
    /// # Errors
    /// What the connector says.
    pub async fn connect(connector: Arc<dyn Connector>, name: &str) -> Result<Self, PublishError> {
        let sink = connector.sink().await.map_err(|source| PublishError::Connector {
            publisher: name.into(),
            doing: "connecting".into(),
            source: Box::new(source),
        })?;
        Ok(Self {
            name: name.into(),
            connector,
            sink,
            codec: Arc::<dirigent_schemas::Bodies>::default(),
            clock: Arc::new(SystemClock::default()),
            within: CONFIRMED_WITHIN,
            prepared: BTreeSet::new(),
            ids: Ids::new(),
        })
    }

    /// Writes the bodies that are not JSON; the Avro codec of `dirigent-schemas` if not said. With a schema registry it is the codec of that.
    #[must_use]
    pub fn codec(mut self, codec: Arc<dyn Codec>) -> Self {
        self.codec = codec;
        self
    }

    /// After so long without its confirmation the broker is not asked again; [`CONFIRMED_WITHIN`] if not said. One try may take as long as
    /// the connector lets it.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.within = limit;
        self
    }

    /// Tells the time by another clock, for tests.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Publishes an event for a business key, and returns once the broker has it for good. Its channel is made where it is missing.
    ///
    /// The event gets an id of its own: publishing an equal one again says that the same has happened again. Where a process may be
    /// killed between what it says and noting that it was said, [`publish_as`](Self::publish_as) is what it wants.
    ///
    /// # Errors
    /// The broker does not take it, or does not confirm it in time.
    pub async fn publish<E: Event>(
        &mut self,
        key: impl Into<Key>,
        event: &E,
    ) -> Result<(), PublishError> {
        let id = self.ids.next().to_string();
        self.publish_as(&id, key, event).await
    }

    /// [`publish`](Self::publish) under an id that is the same whenever this event is published again, such as the number of a row in the
    /// table of what is to be said. However often that is, sagas take it once.
    ///
    /// # Errors
    /// The broker does not take it, or does not confirm it in time.
    pub async fn publish_as<E: Event>(
        &mut self,
        id: &str,
        key: impl Into<Key>,
        event: &E,
    ) -> Result<(), PublishError> {
        self.publish_all([(id.to_owned(), key.into(), event)]).await
    }

    /// Publishes events with their ids and keys, [`WINDOW_MAX`] at once, and returns once the broker has all of them. Where it was away meanwhile,
    /// they may arrive in another order.
    ///
    /// # Errors
    /// The broker does not take one of them, or does not confirm it in time; others may be published.
    pub async fn publish_all<'e, E: Event>(
        &mut self,
        events: impl IntoIterator<Item = (String, Key, &'e E)>,
    ) -> Result<(), PublishError> {
        let messages = events.into_iter().map(|(id, key, event)| self.message(id, &key, event));
        let messages = messages.collect::<Result<Vec<_>, _>>()?;
        if !self.prepared.contains(E::ON.name) {
            let prepared = self.connector.prepare(&[ChannelSpec::events(E::ON.name)]).await;
            prepared.map_err(|source| PublishError::Connector {
                publisher: self.name.clone(),
                doing: format!("making the channel `{}`", E::ON.name),
                source: Box::new(source),
            })?;
            self.prepared.insert(E::ON.name);
        }
        for window in messages.chunks(WINDOW_MAX) {
            self.send(window.to_vec()).await?;
        }
        Ok(())
    }

    /// The event as it travels.
    fn message<E: Event>(&self, id: String, key: &Key, event: &E) -> Result<Message, PublishError> {
        let bytes = key.as_str().len();
        if bytes == 0 || bytes > Key::BYTES_MAX {
            return Err(PublishError::Key { publisher: self.name.clone(), event: E::NAME, bytes });
        }
        let body = Body::write(event, E::ON.format, &*self.codec);
        let body = body.map_err(|source| PublishError::Body {
            publisher: self.name.clone(),
            event: E::NAME,
            source: Box::new(source),
        })?;
        Ok(Message {
            channel: E::ON.name.into(),
            kind: ChannelKind::Events,
            key: key.as_str().to_owned(),
            attributes: Attributes::new()
                .with(names::SPEC_VERSION, "1.0")
                .with(names::ID, id)
                .with(names::SOURCE, format!("/{}", self.name))
                .with(names::TYPE, E::NAME)
                .with(names::SUBJECT, key.as_str().to_owned())
                .with(names::TIME, self.clock.now().to_string())
                .with(names::CONTENT_TYPE, body.format.content_type()),
            others: Vec::new(),
            body: body.bytes.into(),
        })
    }

    /// Sends until all are confirmed, or one of them never will be.
    async fn send(&mut self, mut left: Vec<Message>) -> Result<(), PublishError> {
        let (within, mut delays, mut last) = (self.within, Delays::new(), String::new());
        let ends = tokio::time::Instant::now() + within;
        loop {
            // Never given up half-way: what is under way in the sink is known only once it says so.
            let sent = self.sink.send(&left).await;
            let mut again = Vec::new();
            for (message, sent) in left.iter().zip(sent) {
                match sent {
                    Sent::Confirmed => {}
                    Sent::Unsent { reason, text } => {
                        return Err(self.refused(message, reason, text));
                    }
                    // This sink belongs to no group that another could own.
                    Sent::Unknown { text } | Sent::Fenced { text } => {
                        last = text;
                        again.push(message.clone());
                    }
                }
            }
            left = again;
            let Some(first) = left.first() else { return Ok(()) };
            let delay = delays.after_failure();
            if tokio::time::Instant::now() + delay >= ends {
                return Err(self.unconfirmed(first, last));
            }
            tokio::time::sleep(delay).await;
        }
    }

    fn refused(&self, message: &Message, reason: UnsentReason, text: String) -> PublishError {
        PublishError::Refused {
            publisher: self.name.as_str().into(),
            event: attribute(message, names::TYPE),
            key: message.key.as_str().into(),
            channel: message.channel.as_str().into(),
            reason,
            text: text.into(),
        }
    }

    fn unconfirmed(&self, message: &Message, said: String) -> PublishError {
        PublishError::Unconfirmed {
            publisher: self.name.as_str().into(),
            event: attribute(message, names::TYPE),
            key: message.key.as_str().into(),
            id: attribute(message, names::ID),
            waited: self.within,
            text: said.into(),
        }
    }
}

fn attribute(message: &Message, name: &str) -> Box<str> {
    message.attributes.get(name).unwrap_or_default().into()
}

/// Ids that no other publisher has: a number of this one's own, and one that counts.
struct Ids {
    own: u64,
    next: u64,
}

impl Ids {
    fn new() -> Self {
        // The standard library seeds its hashers from the system.
        Self { own: RandomState::new().hash_one(0_u8), next: RandomState::new().hash_one(1_u8) }
    }

    fn next(&mut self) -> Uuid {
        self.next = self.next.wrapping_add(1);
        let bits = Uuid::from_u64_pair(self.own, self.next);
        Builder::from_custom_bytes(*bits.as_bytes()).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dirigent_connectors::{
        SourceSpec,
        faulty::{Faults, Faulty},
        memory::{MemoryBroker, MemorySettings},
    };
    use dirigent_model::{
        message::{Channel, Message as Named},
        time::Timestamp,
    };
    use serde::{Deserialize, Serialize};

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
        assert!(ids[0] != ids[1] && ids[2] == "row-9", "{ids:?}");
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
        assert!(
            text.starts_with("publishing SeatAsked 7 on `seats` as web-shop: too-large"),
            "{text}"
        );
        let nameless = publisher.publish("", &SeatAsked { ticket: 7 }).await.unwrap_err();
        assert!(matches!(nameless, PublishError::Key { bytes: 0, .. }), "{nameless}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_confirmed_is_sent_again_and_told_with_its_id_where_it_never_is() {
        let broker = MemoryBroker::new();
        listening(&broker).await;
        let deaf = Faults { lose: 1.0, ..Faults::none() };
        let deaf = Arc::new(Faulty::new(Arc::new(broker.clone()), deaf));
        let publisher = Publisher::connect(deaf, "web-shop").await;
        let mut publisher = publisher.expect("the broker is there").within(Duration::from_secs(5));
        let lost = publisher.publish_as("row-1", "7", &SeatAsked { ticket: 7 }).await;
        let text = lost.unwrap_err().to_string();
        assert!(
            text.contains("not confirmed within 5s") && text.contains("again as `row-1`"),
            "{text}"
        );
    }
}
