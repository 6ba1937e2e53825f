//! The contract sits on the message: which channel it travels on, and which answers a command may get.
//!
//! Types are known where a saga is declared and forgotten behind the builder; what crosses that line is a [`Body`].

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fmt;

/// How bodies on a channel are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JSON text.
    Json,
    /// Avro binary, with a header that names the writer's schema.
    Avro,
}

impl Format {
    /// The media type of such a body.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Avro => "application/avro",
        }
    }

    /// The format a media type stands for; parameters such as `charset` are passed over.
    pub fn of_content_type(content_type: &str) -> Option<Self> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json" => Some(Self::Json),
            "application/avro" | "avro/binary" => Some(Self::Avro),
            _ => None,
        }
    }
}

/// Where messages travel: a topic of Kafka, or a queue or exchange of RabbitMQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Channel {
    /// The name at the broker.
    pub name: &'static str,
    /// How bodies are written.
    pub format: Format,
}

impl Channel {
    /// A channel with JSON bodies.
    pub const fn json(name: &'static str) -> Self {
        Self { name, format: Format::Json }
    }

    /// A channel with Avro bodies; every message on it needs a [`Message::SCHEMA`].
    pub const fn avro(name: &'static str) -> Self {
        Self { name, format: Format::Avro }
    }
}

/// Anything with a name that travels.
pub trait Message: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The `type` attribute on the wire, for instance `ReserveStock`.
    const NAME: &'static str;
    /// The Avro schema (the text of its `.avsc`), where the message may travel on an Avro channel.
    const SCHEMA: Option<&'static str> = None;
}

/// What a participant is asked to do. Its answers belong to it, so that a saga can't wait for the wrong one.
pub trait Command: Message {
    /// Where participants read it.
    const TO: Channel;
    /// The answer when it was done.
    type Success: Message;
    /// The final refusal for a business reason: no effect took place. [`Never`] where there is none.
    type Rejection: Message;
}

/// Something that happened, told to whoever listens and found by business key.
pub trait Event: Message {
    /// Where it is published.
    const ON: Channel;
}

/// A message type as one side of a conversation uses it: what has to be agreed on before the first message is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Contract {
    /// The message's name.
    pub name: &'static str,
    /// The text of its `.avsc`, where it has one.
    pub schema: Option<&'static str>,
    /// The channel it belongs to; for an answer, the channel of its command, whoever asked.
    pub channel: &'static str,
    /// How its bodies are written.
    pub format: Format,
    /// Whether it is sent here; else it is read here.
    pub sent: bool,
}

impl Contract {
    /// Of a message that is sent.
    pub const fn sent<M: Message>(on: Channel) -> Self {
        Self { name: M::NAME, schema: M::SCHEMA, channel: on.name, format: on.format, sent: true }
    }

    /// Of a message that is read.
    pub const fn read<M: Message>(on: Channel) -> Self {
        Self { sent: false, ..Self::sent::<M>(on) }
    }

    /// Of a command as its sender uses it: it is sent, and its answers are read.
    pub fn asking<C: Command>() -> Vec<Self> {
        let mut all = vec![Self::sent::<C>(C::TO)];
        all.extend(Self::answers::<C>().map(|answer| Self { sent: false, ..answer }));
        all
    }

    /// Of the question what became of a command: it is sent, and its answers are read.
    pub fn asking_status(on: Channel) -> Vec<Self> {
        vec![
            Self::sent::<StatusQuery>(on),
            Self::read::<StatusNotDone>(on),
            Self::read::<StatusUnknown>(on),
        ]
    }

    /// Of a command as its participant uses it: it and the question what became of it are read, and the answers are sent.
    pub fn answering<C: Command>() -> Vec<Self> {
        let mut all = vec![Self::read::<C>(C::TO)];
        all.extend(Self::answers::<C>());
        all.extend(
            Self::asking_status(C::TO).iter().map(|asked| Self { sent: !asked.sent, ..*asked }),
        );
        all
    }

    fn answers<C: Command>() -> impl Iterator<Item = Self> {
        let rejection = Self::sent::<C::Rejection>(C::TO);
        // Nobody can write it.
        let rejection = (rejection.name != Never::NAME).then_some(rejection);
        let certain = [Self::sent::<C::Success>(C::TO), Self::sent::<Failure>(C::TO)];
        certain.into_iter().chain(rejection)
    }
}

/// A rejection that can't happen. Required of compensations and of retriable steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Never {}

impl Message for Never {
    const NAME: &'static str = "Never";
}

/// Technical trouble at a participant: not a business answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For programs: which trouble.
    pub code: String,
    /// For people.
    pub message: String,
    /// Whether asking again may help.
    pub retriable: bool,
    /// Whether the command may have taken effect all the same.
    pub effect: FailureEffect,
}

impl Message for Failure {
    const NAME: &'static str = "Failure";
    const SCHEMA: Option<&'static str> = Some(
        r#"{"type":"record","name":"Failure","namespace":"dirigent","fields":[
            {"name":"code","type":"string"},{"name":"message","type":"string"},{"name":"retriable","type":"boolean"},
            {"name":"effect","type":{"type":"enum","name":"FailureEffect","symbols":["none","unknown"]}}]}"#,
    );
}

/// What a failed command may have left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureEffect {
    /// Nothing, for certain.
    None,
    /// Perhaps something.
    Unknown,
}

/// Asks a participant what became of a command. It goes to the command's own channel under a name of its own, so that a
/// participant that does not know it never mistakes it for the command.
///
/// The answer is the command's success or rejection as it was answered before, [`StatusNotDone`], [`StatusUnknown`], or
/// a [`Failure`] where the question itself came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusQuery {
    /// The idempotency key of the command. The question has one of its own.
    pub idempotencykey: String,
    /// The name of the command.
    pub command: String,
}

impl Message for StatusQuery {
    const NAME: &'static str = "dirigent.StatusQuery";
    const SCHEMA: Option<&'static str> = Some(
        r#"{"type":"record","name":"StatusQuery","namespace":"dirigent","fields":[
            {"name":"idempotencykey","type":"string"},{"name":"command","type":"string"}]}"#,
    );
}

/// The command took no effect and never will: whoever answers so refuses it from now on, however late it comes.
/// Without that seal a command still under way would take effect unseen, after the saga has counted on it not doing so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusNotDone {}

impl Message for StatusNotDone {
    const NAME: &'static str = "dirigent.StatusNotDone";
    const SCHEMA: Option<&'static str> =
        Some(r#"{"type":"record","name":"StatusNotDone","namespace":"dirigent","fields":[]}"#);
}

/// The command may or may not have taken effect, and asking again would not tell. Who will know later answers by a
/// [`Failure`] that is retriable, or not at all: then it is asked again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusUnknown {
    /// Why, for people.
    #[serde(default)]
    pub message: String,
}

impl Message for StatusUnknown {
    const NAME: &'static str = "dirigent.StatusUnknown";
    const SCHEMA: Option<&'static str> = Some(
        r#"{"type":"record","name":"StatusUnknown","namespace":"dirigent","fields":[
            {"name":"message","type":"string","default":""}]}"#,
    );
}

/// The business key that finds an instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key(Box<str>);

impl Key {
    /// Bytes of a key, at the most. Longer ones are refused when a message comes in.
    pub const BYTES_MAX: usize = 256;

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! keys_from {
    ($($number:ty),*) => {$(
        impl From<$number> for Key {
            fn from(value: $number) -> Self {
                Self(value.to_string().into_boxed_str())
            }
        }
    )*};
}
keys_from!(u16, u32, u64, i32, i64, uuid::Uuid, &str);

impl From<String> for Key {
    fn from(value: String) -> Self {
        Self(value.into_boxed_str())
    }
}

impl From<&String> for Key {
    fn from(value: &String) -> Self {
        Self(value.as_str().into())
    }
}

/// An encoded message, its type forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Body {
    /// How the bytes are written.
    pub format: Format,
    /// The bytes.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// A body that could not be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} as {format:?}: {text}")]
pub struct CodecError {
    /// The message's name.
    pub message: String,
    /// The format tried.
    pub format: Format,
    /// What was wrong.
    pub text: String,
}

impl CodecError {
    /// An error about one message.
    pub fn new(message: &str, format: Format, text: impl fmt::Display) -> Self {
        Self { message: message.into(), format, text: text.to_string() }
    }
}

/// Writes and reads the bodies that are not JSON. The model brings JSON itself; `dirigent-schemas` brings Avro.
pub trait Codec: Send + Sync {
    /// Writes `value`, a message called `name` whose schema is `schema`.
    fn encode(
        &self,
        name: &'static str,
        schema: Option<&'static str>,
        format: Format,
        value: &dyn erased_serde::Serialize,
    ) -> Result<Vec<u8>, CodecError>;

    /// Reads bytes as a message called `name` whose schema here is `schema`, handing a deserializer to `read` exactly once.
    fn decode(
        &self,
        name: &'static str,
        schema: Option<&'static str>,
        body: &Body,
        read: &mut dyn FnMut(
            &mut dyn erased_serde::Deserializer<'_>,
        ) -> Result<(), erased_serde::Error>,
    ) -> Result<(), CodecError>;
}

/// Knows JSON only: enough for tests and for systems without Avro.
#[derive(Debug, Clone, Copy, Default)]
pub struct JsonOnly;

impl Codec for JsonOnly {
    fn encode(
        &self,
        name: &'static str,
        _schema: Option<&'static str>,
        format: Format,
        _value: &dyn erased_serde::Serialize,
    ) -> Result<Vec<u8>, CodecError> {
        Err(CodecError::new(name, format, "no codec for this format was set up"))
    }

    fn decode(
        &self,
        name: &'static str,
        _schema: Option<&'static str>,
        body: &Body,
        _read: &mut dyn FnMut(
            &mut dyn erased_serde::Deserializer<'_>,
        ) -> Result<(), erased_serde::Error>,
    ) -> Result<(), CodecError> {
        Err(CodecError::new(name, body.format, "no codec for this format was set up"))
    }
}

impl Body {
    /// Writes a message in a format.
    pub fn write<M: Message>(
        message: &M,
        format: Format,
        codec: &dyn Codec,
    ) -> Result<Self, CodecError> {
        let bytes = match format {
            Format::Json => serde_json::to_vec(message)
                .map_err(|error| CodecError::new(M::NAME, format, error))?,
            Format::Avro => codec.encode(M::NAME, M::SCHEMA, format, message)?,
        };
        Ok(Self { format, bytes })
    }

    /// Reads a message.
    pub fn read<M: Message>(&self, codec: &dyn Codec) -> Result<M, CodecError> {
        match self.format {
            Format::Json => serde_json::from_slice(&self.bytes)
                .map_err(|error| CodecError::new(M::NAME, self.format, error)),
            Format::Avro => {
                let mut read = None;
                codec.decode(M::NAME, M::SCHEMA, self, &mut |from| {
                    read = Some(erased_serde::deserialize::<M>(from)?);
                    Ok(())
                })?;
                read.ok_or_else(|| CodecError::new(M::NAME, self.format, "the codec read nothing"))
            }
        }
    }
}
