//! The participant kit: a service that carries out commands, and keeps the three duties of `wire.md` without thinking of them.
//!
//! ```text
//! broker ─► window ─► turn: decode, once?, compensated?, handler ─► one batch, one sync ─► replies, events ─► settle
//! ```
//!
//! 1. **Once**: the idempotency key and the answer are stored in one batch with what the handler changed. A repeat is answered from there.
//! 2. **Compensation wins**: a compensation whose command was never here is remembered and answered as done; the command that comes later is
//!    refused. Both carry the same saga, run and step, and so find the same mark.
//! 3. **Status**: asked what became of a command, it answers by the reply of then, by *not done*, or by *unknown*. Who answers
//!    *not done* refuses the command from then on. [`status`] looks into the store without that promise.
//!
//! A handler is a plain function of its [`Tx`], the message and what it says about itself. Commands of one participant are
//! carried out one after another, in the order they came.
//!
//! What it writes by [`Tx::put`] is kept with its answer in any store. A service whose data are in PostgreSQL starts with a
//! `PostgresStore` (cargo feature `postgres`): by `Tx::sql` it writes its own tables in the transaction that keeps the answer.
//! A turn that such a store gives up (connection lost, transactions in each other's way) is made again, handlers included.

mod again;
mod asked;
mod fsck;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzed;
#[cfg(feature = "simulation")]
mod played;
mod remembered;
mod reply;
mod rests;
mod running;
mod traced;
mod turn;
mod tx;
#[cfg(feature = "simulation")]
mod witness;

#[cfg(test)]
mod tests;

#[cfg(feature = "postgres")]
pub use crate::store::postgres::{Sql, SqlError};
pub use asked::{Asked, Heard, Undoing};
pub use fsck::{fsck, repair};
#[cfg(feature = "simulation")]
pub(crate) use played::{Instead, Interrupts, Invent};
pub use remembered::Records;
pub use running::Running;
pub use tx::{CHANGES_BYTES_MAX, EVENTS_MAX, RECORD_KEY_BYTES_MAX, Tx};
#[cfg(feature = "simulation")]
pub(crate) use witness::{begins as witness_begins, witnessed};

use crate::{
    engine::{Clock, SystemClock},
    journal::Durability,
    store::{Store, StoreError},
    telemetry::Spans,
};
use dirigent_connectors::{ChannelKind, ChannelSpec, Connector, ConnectorError};
use dirigent_model::message::{
    Body, Codec, CodecError, Command, Contract, Event, Failure, JsonOnly, Message, Never,
};
use dirigent_schemas::registry::{RegistryError, SchemaRegistry};
use remembered::{Answered, Remembered, SPACE, answer_key, read};
use std::{collections::HashMap, sync::Arc, time::Duration};
use turn::Written;

/// How long answers are remembered unless set otherwise: longer than any saga asks again.
pub const REMEMBER_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What a handler answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<C: Command> {
    /// It took effect.
    Done(C::Success),
    /// It is refused for a business reason, and took no effect.
    Rejected(C::Rejection),
    /// Technical trouble. Nothing that the handler changed through its [`Tx`] is kept, and asked again it is called again.
    Failed(Failure),
}

impl<C: Command> Answer<C> {
    /// The answer, or the trouble that kept the handler from one.
    pub fn or_failed(result: Result<Self, impl Into<Failure>>) -> Self {
        result.unwrap_or_else(|trouble| Answer::Failed(trouble.into()))
    }
}

/// How a participant is told to misbehave, in tests and demos.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Misbehaviour {
    /// Not at all.
    #[default]
    None,
    /// Neither acts nor answers, as if the command had been lost.
    SilentBefore,
    /// Acts and does not answer, as if the reply had been lost.
    SilentAfter,
}

/// What was done since the start, in messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Commands that took effect.
    pub done: u64,
    /// Commands refused for a business reason.
    pub rejected: u64,
    /// Commands answered by a failure.
    pub failed: u64,
    /// Commands and events that had been taken care of before.
    pub repeated: u64,
    /// Compensations that found nothing to undo.
    pub nothing_to_undo: u64,
    /// Commands refused because their compensation was here first, or because a question about them was answered by
    /// *not done*; they are `failed` too.
    pub refused: u64,
    /// Questions what became of a command.
    pub questions: u64,
    /// Questions answered by *not done* that sealed the command's key.
    pub sealed: u64,
    /// Commands not answered on purpose.
    pub silent: u64,
    /// Events taken in.
    pub heard: u64,
    /// Events of no interest.
    pub ignored: u64,
    /// Messages set aside as dead letters.
    pub dead: u64,
    /// Messages that could not be sent for good.
    pub unsent: u64,
    /// Records forgotten after their time.
    pub forgotten: u64,
}

impl Counts {
    fn add(&mut self, more: &Self) {
        self.done += more.done;
        self.rejected += more.rejected;
        self.failed += more.failed;
        self.repeated += more.repeated;
        self.nothing_to_undo += more.nothing_to_undo;
        self.refused += more.refused;
        self.questions += more.questions;
        self.sealed += more.sealed;
        self.silent += more.silent;
        self.heard += more.heard;
        self.ignored += more.ignored;
        self.dead += more.dead;
        self.unsent += more.unsent;
        self.forgotten += more.forgotten;
    }
}

/// What became of an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// It was done, and this was answered.
    Done {
        /// The name of the reply.
        name: String,
        /// The reply.
        body: Body,
    },
    /// It took no effect: it never came, was rejected, was sealed, or is not remembered any more.
    NotDone,
    /// It failed and may have taken effect.
    Unknown,
}

/// What became of an idempotency key, by the store of a participant. This only looks: what was not done may still come. A
/// saga's question ([`StatusQuery`](dirigent_model::message::StatusQuery)) is binding, and is answered by the participant itself.
///
/// # Errors
/// What the store says.
pub fn status(store: &dyn Store, idempotency_key: &str) -> Result<Status, StoreError> {
    let key = answer_key(idempotency_key);
    let Some(bytes) = store.get(SPACE, &key)? else { return Ok(Status::NotDone) };
    Ok(match read::<Remembered>(&key, &bytes)?.answer {
        Answered::Reply { rejected: true, .. } | Answered::Failed { .. } | Answered::Sealed => {
            Status::NotDone
        }
        Answered::Reply { name, format, body, .. } => {
            Status::Done { name, body: Body { format, bytes: body } }
        }
        Answered::InDoubt => Status::Unknown,
    })
}

/// Why a participant can't work, or not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParticipantError {
    /// What it was told to do makes no sense.
    #[error("participant {participant}: {text}")]
    Declared {
        /// Which participant.
        participant: String,
        /// What is wrong, and what would be right.
        text: String,
    },
    /// The broker.
    #[error("participant {participant}, {doing}")]
    Connector {
        /// Which participant.
        participant: String,
        /// What was being done.
        doing: &'static str,
        /// What the connector says.
        #[source]
        source: Box<ConnectorError>,
    },
    /// The schemas of its messages, or their registry.
    #[error("participant {participant}, agreeing on the schemas of its messages")]
    Schemas {
        /// Which participant.
        participant: String,
        /// What is wrong.
        #[source]
        source: Box<RegistryError>,
    },
    /// The store.
    #[error("participant {participant}, keeping its answers")]
    Store {
        /// Which participant.
        participant: String,
        /// What the store says.
        #[source]
        source: StoreError,
    },
}

/// A service that carries out commands and listens to events.
#[must_use = "a participant works after `.start(..)`"]
pub struct Participant {
    service: Service,
    /// Commands undone by others, with who undoes them.
    undone: Vec<(Named, &'static str)>,
    twice: Option<&'static str>,
}

/// Everything a participant was told, its types forgotten.
struct Service {
    name: String,
    dead_letters: String,
    commands: ByName<CommandAct>,
    events: ByName<EventAct>,
    /// What it reads.
    listening: Vec<ChannelSpec>,
    /// What has to be there: what it reads, publishes, and where it sets aside.
    channels: Vec<ChannelSpec>,
    codec: Arc<dyn Codec>,
    schemas: Option<Arc<SchemaRegistry>>,
    /// What it sends and reads.
    contracts: Vec<Contract>,
    misbehave: Box<dyn Fn(&Asked) -> Misbehaviour + Send + Sync>,
    remember_for: Duration,
    asked_for: Duration,
    durability: Durability,
    clock: Arc<dyn Clock>,
    spans: Spans,
    /// Each effect is noted with its answer.
    #[cfg(feature = "simulation")]
    is_witnessed: bool,
}

/// A handler's answer, its types forgotten.
enum Answers {
    Done(&'static str, Written),
    Rejected(&'static str, Written),
    Failed(Failure),
    Undecodable(CodecError),
    /// It was answered, but what it did can't be kept: this is why.
    NotKept(String),
}

type Handle<T> = dyn Fn(&mut Tx<'_>, &Body, &Asked, &dyn Codec) -> T + Send + Sync;
type Nothing = dyn Fn(&Body, &Asked, &dyn Codec) -> Answers + Send + Sync;
type EventAct =
    Box<dyn Fn(&mut Tx<'_>, &Body, &Heard, &dyn Codec) -> Result<(), CodecError> + Send + Sync>;

struct CommandAct {
    handle: Box<Handle<Answers>>,
    /// For a compensation: the answer when there is nothing to undo.
    undoes: Option<Box<Nothing>>,
    /// A compensation here undoes it.
    undoable: bool,
}

type Named = (&'static str, &'static str);

/// What is done with a message, by its channel and name.
struct ByName<A>(HashMap<&'static str, HashMap<&'static str, A>>);

impl<A> ByName<A> {
    fn contains_channel(&self, channel: &str) -> bool {
        self.0.contains_key(channel)
    }

    fn get(&self, channel: &str, name: &str) -> Option<&A> {
        self.0.get(channel)?.get(name)
    }

    /// Whether it was new.
    fn insert(&mut self, (channel, name): Named, act: A) -> bool {
        self.0.entry(channel).or_default().insert(name, act).is_none()
    }
}

impl Participant {
    /// A participant without commands yet. Its name is its consumer group, and part of the ids of what it sends: it never changes.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        let dead_letters = format!("{name}.dead-letters");
        let service = Service {
            channels: vec![ChannelSpec::work(dead_letters.as_str())],
            dead_letters,
            name,
            commands: ByName(HashMap::new()),
            events: ByName(HashMap::new()),
            listening: Vec::new(),
            codec: Arc::new(JsonOnly),
            schemas: None,
            contracts: Vec::new(),
            misbehave: Box::new(|_| Misbehaviour::None),
            remember_for: REMEMBER_FOR,
            asked_for: Duration::ZERO,
            durability: Durability::default(),
            clock: Arc::new(SystemClock::default()),
            spans: Spans::quiet(),
            #[cfg(feature = "simulation")]
            is_witnessed: false,
        };
        Self { service, undone: Vec::new(), twice: None }
    }

    /// Carries a command out. The handler is called once for each idempotency key that it has answered.
    pub fn on<C: Command>(
        mut self,
        handle: impl Fn(&mut Tx<'_>, C, &Asked) -> Answer<C> + Send + Sync + 'static,
    ) -> Self {
        self.insert::<C>(act(handle, None));
        self
    }

    /// Carries out a command that undoes another one of this participant, which must be there by [`on`](Participant::on).
    ///
    /// `nothing` is the answer when that other command was never here, or was undone before; `handle` is not called then.
    pub fn undoes<X: Command<Rejection = Never>, C: Command>(
        mut self,
        handle: impl Fn(&mut Tx<'_>, X, &Asked) -> Answer<X> + Send + Sync + 'static,
        nothing: impl Fn(X, &Asked) -> X::Success + Send + Sync + 'static,
    ) -> Self {
        let nothing =
            move |body: &Body, asked: &Asked, codec: &dyn Codec| match body.read::<X>(codec) {
                Ok(command) => {
                    let reply = nothing(command, asked);
                    Answers::Done(X::Success::NAME, Body::write(&reply, X::TO.format, codec))
                }
                Err(error) => Answers::Undecodable(error),
            };
        self.insert::<X>(act(handle, Some(Box::new(nothing))));
        self.undone.push(((C::TO.name, C::NAME), X::NAME));
        self
    }

    /// Listens to an event; each is heard once. Other events of its channel are passed over.
    pub fn listens<E: Event>(
        mut self,
        hear: impl Fn(&mut Tx<'_>, E, &Heard) + Send + Sync + 'static,
    ) -> Self {
        let act: EventAct = Box::new(move |tx, body, heard, codec| {
            hear(tx, body.read::<E>(codec)?, heard);
            Ok(())
        });
        if !self.service.events.insert((E::ON.name, E::NAME), act) {
            self.twice = Some(E::NAME);
        }
        self.service.contracts.push(Contract::read::<E>(E::ON));
        self.service.listen(ChannelSpec::events(E::ON.name));
        self
    }

    /// Says that handlers publish this event, so that its channel is there.
    pub fn publishes<E: Event>(mut self) -> Self {
        self.service.contracts.push(Contract::sent::<E>(E::ON));
        self.service.need(ChannelSpec::events(E::ON.name));
        self
    }

    /// Writes and reads the bodies that are not JSON.
    pub fn codec(mut self, codec: Arc<dyn Codec>) -> Self {
        self.service.codec = codec;
        self
    }

    /// Agrees with a schema registry at the start, and writes Avro in Confluent's wire format. Its codec takes the place of
    /// any other.
    pub fn schema_registry(mut self, registry: Arc<SchemaRegistry>) -> Self {
        self.service.codec = registry.codec();
        self.service.schemas = Some(registry);
        self
    }

    /// How long answers are remembered; [`REMEMBER_FOR`] if not said. A command that comes again later takes effect again.
    pub fn remember_for(mut self, span: Duration) -> Self {
        self.service.remember_for = span;
        self
    }

    /// How long sagas may go on asking for one command, such as [`Retry::span`](dirigent_model::retry::Retry::span) of its policy:
    /// [`start`](Participant::start) warns where that and what the broker keeps are longer together than answers are remembered.
    pub fn asked_for(mut self, span: Duration) -> Self {
        self.service.asked_for = span;
        self
    }

    /// What an answer survives once it is sent; a power cut if not said.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.service.durability = durability;
        self
    }

    /// Misbehaves on purpose, for tests and demos.
    pub fn misbehave(
        mut self,
        how: impl Fn(&Asked) -> Misbehaviour + Send + Sync + 'static,
    ) -> Self {
        self.service.misbehave = Box::new(how);
        self
    }

    /// Notes a span for each command and event it handles; none if not said.
    pub fn spans(mut self, spans: Spans) -> Self {
        self.service.spans = spans;
        self
    }

    /// Notes each effect with its answer, for whoever judges a simulation.
    #[cfg(feature = "simulation")]
    pub(crate) fn witnessed(mut self) -> Self {
        self.service.is_witnessed = true;
        self
    }

    /// Its name.
    #[cfg(feature = "simulation")]
    pub(crate) fn name(&self) -> &str {
        &self.service.name
    }

    /// The channels that it reads.
    #[cfg(feature = "simulation")]
    pub(crate) fn reads(&self) -> impl Iterator<Item = &str> {
        self.service.listening.iter().map(|channel| channel.name.as_str())
    }

    /// Tells the time by another clock, for tests.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.service.clock = clock;
        self
    }

    /// Starts to work. The store is this participant's alone.
    ///
    /// # Errors
    /// What was declared makes no sense, the broker can't be reached, or the store can't be read.
    pub async fn start(
        mut self,
        connector: Arc<dyn Connector>,
        store: Arc<dyn Store>,
    ) -> Result<Running, ParticipantError> {
        self.check()?;
        running::start(self.service, connector, store).await
    }

    fn insert<C: Command>(&mut self, act: CommandAct) {
        if !self.service.commands.insert((C::TO.name, C::NAME), act) {
            self.twice = Some(C::NAME);
        }
        self.service.contracts.extend(Contract::answering::<C>());
        self.service.listen(ChannelSpec::work(C::TO.name));
    }

    fn check(&mut self) -> Result<(), ParticipantError> {
        let wrong =
            |text| Err(ParticipantError::Declared { participant: self.service.name.clone(), text });
        if let Some(name) = self.twice {
            return wrong(format!("`{name}` has two handlers; leave one"));
        }
        if self.service.listening.is_empty() {
            return wrong(
                "it neither carries out commands nor listens; add `.on(..)` or `.listens(..)`"
                    .into(),
            );
        }
        for event in self.service.listening.iter().filter(|spec| spec.kind == ChannelKind::Events) {
            if self.service.commands.contains_channel(&event.name) {
                return wrong(format!(
                    "channel `{}` carries commands and events; give each a channel of its own",
                    event.name
                ));
            }
        }
        for ((channel, name), by) in &self.undone {
            let commands = &mut self.service.commands.0;
            match commands.get_mut(channel).and_then(|commands| commands.get_mut(name)) {
                Some(command) => command.undoable = true,
                None => {
                    return wrong(format!(
                        "`{by}` undoes `{name}`, which is not carried out here; add `.on::<{name}>(..)`, or carry `{by}` out with `.on(..)`"
                    ));
                }
            }
        }
        Ok(())
    }
}

impl Service {
    fn listen(&mut self, channel: ChannelSpec) {
        if !self.listening.contains(&channel) {
            self.listening.push(channel.clone());
        }
        self.need(channel);
    }

    fn need(&mut self, channel: ChannelSpec) {
        if !self.channels.contains(&channel) {
            self.channels.push(channel);
        }
    }
}

fn act<C: Command>(
    handle: impl Fn(&mut Tx<'_>, C, &Asked) -> Answer<C> + Send + Sync + 'static,
    undoes: Option<Box<Nothing>>,
) -> CommandAct {
    let handle = move |tx: &mut Tx<'_>, body: &Body, asked: &Asked, codec: &dyn Codec| {
        let command = match body.read::<C>(codec) {
            Ok(command) => command,
            Err(error) => return Answers::Undecodable(error),
        };
        let format = C::TO.format;
        match handle(tx, command, asked) {
            Answer::Done(reply) => {
                Answers::Done(C::Success::NAME, Body::write(&reply, format, codec))
            }
            Answer::Rejected(reply) => {
                Answers::Rejected(C::Rejection::NAME, Body::write(&reply, format, codec))
            }
            Answer::Failed(failure) => Answers::Failed(failure),
        }
    };
    CommandAct { handle: Box::new(handle), undoes, undoable: false }
}
