//! A message as all connectors understand it: a CloudEvents envelope in binary mode around bytes.
//!
//! Attribute names are those of CloudEvents 1.0 without any binding's prefix (`id`, `type`, `subject`, `datacontenttype`,
//! `traceparent`, extensions in lower case). Each connector writes them the way its broker's binding asks and reads them back.

use bytes::Bytes;
use std::{borrow::Cow, sync::Arc};

/// Names of the attributes this project uses.
pub mod names {
    /// Unique per message.
    pub const ID: &str = "id";
    /// Who sent it.
    pub const SOURCE: &str = "source";
    /// The name of the message type.
    pub const TYPE: &str = "type";
    /// The correlation key.
    pub const SUBJECT: &str = "subject";
    /// When it was sent, RFC 3339.
    pub const TIME: &str = "time";
    /// `application/json` or `application/avro`.
    pub const CONTENT_TYPE: &str = "datacontenttype";
    /// Version of CloudEvents: always `1.0`.
    pub const SPEC_VERSION: &str = "specversion";
    /// The schema of the body, where known.
    pub const SCHEMA: &str = "dataschema";
    /// W3C trace context; written without any binding's prefix.
    pub const TRACEPARENT: &str = "traceparent";
    /// W3C trace state; written without any binding's prefix.
    pub const TRACESTATE: &str = "tracestate";
    /// Extension: where replies go.
    pub const REPLY_TO: &str = "replyto";
    /// Extension: the stable key of one effect.
    pub const IDEMPOTENCY_KEY: &str = "idempotencykey";
}

/// CloudEvents attributes by name, in the order they were set. Few enough for a linear search to be fastest.
/// Clones share them until one is changed: a message is cloned on its way far more often than its attributes are set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes(Arc<Vec<(Cow<'static, str>, Cow<'static, str>)>>);

impl Attributes {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of an attribute.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_ref())
    }

    /// Sets an attribute, replacing a former value.
    pub fn set(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) {
        let name = name.into();
        let pairs = Arc::make_mut(&mut self.0);
        match pairs.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = Cow::Owned(value.into()),
            None => pairs.push((name, Cow::Owned(value.into()))),
        }
    }

    /// All of these, whose names are different from each other: no former value is looked for.
    pub fn of_distinct(pairs: Vec<(Cow<'static, str>, Cow<'static, str>)>) -> Self {
        debug_assert!(
            (1..pairs.len()).all(|at| pairs[..at].iter().all(|(name, _)| *name != pairs[at].0))
        );
        Self(Arc::new(pairs))
    }

    /// Sets an attribute, for chaining.
    #[must_use]
    pub fn with(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        self.set(name, value);
        self
    }

    /// All attributes.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value.as_ref()))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<N: Into<Cow<'static, str>>, V: Into<String>> FromIterator<(N, V)> for Attributes {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut attributes = Self::new();
        for (name, value) in pairs {
            attributes.set(name, value);
        }
        attributes
    }
}

/// A message to be sent, or as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The topic, queue or exchange.
    pub channel: String,
    /// Whether a channel that nobody could ever read from makes this message *unsent*: so for commands and replies, not for events.
    pub kind: super::ChannelKind,
    /// Orders messages among themselves; the correlation key as a rule.
    pub key: String,
    /// CloudEvents attributes.
    pub attributes: Attributes,
    /// Headers that are no CloudEvents attributes, as they came.
    pub others: Vec<(String, Bytes)>,
    /// The bytes nobody here looks into.
    pub body: Bytes,
}

impl Message {
    /// About what it takes of the memory (bytes).
    pub(crate) fn bytes(&self) -> usize {
        let attributes = self.attributes.iter().map(|(name, value)| name.len() + value.len());
        let others = self.others.iter().map(|(name, value)| name.len() + value.len());
        self.channel.len()
            + self.key.len()
            + self.body.len()
            + attributes.chain(others).sum::<usize>()
    }
}
