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
//! An event goes in with its business key; once the call has returned, the broker has it for good, for all who listen by then: RabbitMQ
//! confirms an event that no queue is bound for, and forgets it, so the process of the sagas is started once before the first event. The
//! broker may have it twice, with one id: an instance takes it once for as long as it remembers that id, see [`Publisher::publish_as`].
//! Events of one key keep their order when each is published after the one before was.

use crate::engine::{Clock, SystemClock};
use dirigent_connectors::{
    Attributes, ChannelKind, ChannelSpec, Connector, ConnectorError, Message, Sent, Sink,
    UnsentReason, names, retry::Delays,
};
use dirigent_model::message::{Body, Codec, CodecError, Event, Key};
use std::{
    collections::{BTreeMap, BTreeSet},
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
    /// The publisher's name can't be one.
    #[error(
        "publishing as {name:?}: a publisher's name has 1 to 64 lower-case letters, digits, `-`, `_` or `.`, such as `web-shop`"
    )]
    Name {
        /// What was said.
        name: String,
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
    /// It has no id, so it could not be told from others.
    #[error(
        "publishing {event} as {publisher}: its id is empty, as that of every other such event would be; say one that is its own, such as the number of its row"
    )]
    Id {
        /// Who publishes.
        publisher: String,
        /// Which event.
        event: &'static str,
    },
    /// The broker did not take it, and would not if it were asked again: nothing of this call brought it there. Those before it in the call are
    /// published; those behind it may be, and with their ids they may be published again, and count once.
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
    /// Nobody knows whether the broker has it. Those before it in the call are published; it and those behind it may be, and with their ids
    /// they may be published again, and count once.
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
        /// Its id, as [`Publisher::publish_as`] takes it.
        id: Box<str>,
        /// How long was waited at the most.
        waited: Duration,
        /// What the connector said last. It may be a refusal: an earlier try was not, and may have got through.
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
    /// Connects. The name says who published, in the attribute `source` of every event and before its id: another name for every program
    /// that publishes, and always the same one for this. It has 1 to 64 lower-case letters, digits, `-`, `_` or `.`.
    ///
    /// # Errors
    /// The name is none, and what the connector says.
    pub async fn connect(connector: Arc<dyn Connector>, name: &str) -> Result<Self, PublishError> {
        if !crate::is_app_name(name) {
            return Err(PublishError::Name { name: name.into() });
        }
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
    /// table of what is to be said. It has to be no other's among this publisher's events of this type: it travels as `NAME/TYPE/ID`, since
    /// instances compare ids alone, and another table, or another service, has a row of that number as well.
    ///
    /// However often it is published, an instance takes it once as long as it remembers its id: those of the latest
    /// [32](dirigent_model::instance::EVENTS_TAKEN_MAX) events, the one that began it counted. Once the instance is forgotten (its definition says for
    /// how long it is kept after its end), an event that begins a saga begins another one.
    ///
    /// # Errors
    /// The id is empty, the broker does not take the event, or does not confirm it in time.
    pub async fn publish_as<E: Event>(
        &mut self,
        id: &str,
        key: impl Into<Key>,
        event: &E,
    ) -> Result<(), PublishError> {
        self.publish_all([(id.to_owned(), key.into(), event)]).await
    }

    /// Publishes events with their ids (as [`publish_as`](Self::publish_as) takes them) and keys, [`WINDOW_MAX`] at once, and returns once the
    /// broker has all of them. Where it was away meanwhile, they may arrive in another order.
    ///
    /// # Errors
    /// The broker does not take one of them, or does not confirm it in time. It is the first of them that is told: all before it are
    /// published, and those behind it may be.
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
            self.send(window).await?;
        }
        Ok(())
    }

    /// The event as it travels.
    fn message<E: Event>(&self, id: String, key: &Key, event: &E) -> Result<Message, PublishError> {
        let bytes = key.as_str().len();
        if bytes == 0 || bytes > Key::BYTES_MAX {
            return Err(PublishError::Key { publisher: self.name.clone(), event: E::NAME, bytes });
        }
        if id.is_empty() {
            return Err(PublishError::Id { publisher: self.name.clone(), event: E::NAME });
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
                .with(names::ID, self.id_prefix(E::NAME) + &id)
                .with(names::SOURCE, format!("/{}", self.name))
                .with(names::TYPE, E::NAME)
                .with(names::SUBJECT, key.as_str().to_owned())
                .with(names::TIME, self.clock.now().to_string())
                .with(names::CONTENT_TYPE, body.format.content_type()),
            others: Vec::new(),
            body: body.bytes.into(),
        })
    }

    /// What makes an id another one than that of any other sender, and of any other table of this one.
    fn id_prefix(&self, event: &str) -> String {
        format!("{}/{event}/", self.name)
    }

    /// Sends until each is confirmed, refused, or given up; tells of the first that is not confirmed.
    async fn send(&mut self, window: &[Message]) -> Result<(), PublishError> {
        let (ends, mut delays) = (tokio::time::Instant::now() + self.within, Delays::new());
        // Places in the window: what is not decided yet, and what is not confirmed, with what is to be told of it.
        let (mut left, mut failed) = ((0..window.len()).collect::<Vec<_>>(), BTreeMap::new());
        let mut is_first_try = true;
        while !left.is_empty() {
            let messages: Vec<_> = left.iter().map(|at| window[*at].clone()).collect();
            // Never given up half-way: what is under way in the sink is known only once it says so.
            let sent = self.sink.send(&messages).await;
            let mut again = Vec::new();
            for (at, sent) in left.into_iter().zip(sent) {
                let told = match sent {
                    Sent::Confirmed => {
                        failed.remove(&at);
                        continue;
                    }
                    Sent::Unsent { reason, text } if is_first_try => {
                        self.refused(&window[at], reason, text)
                    }
                    // Whatever is sent again was unknown once: this try did not get through, an earlier one may have.
                    Sent::Unsent { reason, text } => {
                        self.unconfirmed(&window[at], format!("refused since: {reason}: {text}"))
                    }
                    // This sink belongs to no group that another could own.
                    Sent::Unknown { text } | Sent::Fenced { text } => {
                        again.push(at);
                        self.unconfirmed(&window[at], text)
                    }
                };
                failed.insert(at, told);
            }
            (left, is_first_try) = (again, false);
            let delay = delays.after_failure();
            if left.is_empty() || tokio::time::Instant::now() + delay >= ends {
                break;
            }
            tokio::time::sleep(delay).await;
        }
        failed.pop_first().map_or(Ok(()), |(_, told)| Err(told))
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
        let event = attribute(message, names::TYPE);
        let id = attribute(message, names::ID);
        PublishError::Unconfirmed {
            publisher: self.name.as_str().into(),
            key: message.key.as_str().into(),
            id: id.strip_prefix(&self.id_prefix(&event)).unwrap_or(&id).into(),
            event,
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
mod tests;
