//! A small saga of two steps and somebody who answers it, for tests of the engine through its public face.

#![allow(
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    reason = "shared by several test binaries, each of which uses a part"
)]

pub mod clock;
pub mod invoices;
pub mod stubborn;

use dirigent::{
    Orchestrator, OrchestratorBuilder,
    engine::{EngineParts, LaneParts, SystemClock},
    envelope,
    journal::{Disk, JournalOptions},
    registry::Registry,
    store::Store,
    telemetry::Quiet,
};
use dirigent_connectors::{
    Attributes, ChannelKind, ChannelSpec, Connector, Delivery, Message, Settle, Sink, Source,
    SourceSpec, memory::MemoryBroker, names,
};
use dirigent_model::{
    definition::{Definition, DefinitionErrors, Outcome, saga, step},
    message::{self, Channel, Command, Event, Message as _, Never},
    retry::Retry,
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

pub const WORK: Channel = Channel::json("work");
pub const STARTS: Channel = Channel::json("starts");
pub const ENDS: Channel = Channel::json("ends");

macro_rules! messages {
    ($($name:ident { $($field:ident: $kind:ty),* })*) => {$(
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub struct $name { $(pub $field: $kind),* }
        impl message::Message for $name { const NAME: &'static str = stringify!($name); }
    )*};
}

messages! {
    Begun { id: u64, amount: u64 }
    Reserve { id: u64 }
    Reserved { ticket: u64 }
    Release { ticket: Option<u64> }
    Released {}
    Pay { amount: u64 }
    Paid {}
    Refused { why: String }
    Finished { id: u64 }
    Broken { id: u64, why: String }
}

impl Event for Begun {
    const ON: Channel = STARTS;
}
impl Event for Finished {
    const ON: Channel = ENDS;
}
impl Event for Broken {
    const ON: Channel = ENDS;
}
impl Command for Reserve {
    const TO: Channel = WORK;
    type Success = Reserved;
    type Rejection = Never;
}
impl Command for Release {
    const TO: Channel = WORK;
    type Success = Released;
    type Rejection = Never;
}
impl Command for Pay {
    const TO: Channel = WORK;
    type Success = Paid;
    type Rejection = Refused;
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Data {
    id: u64,
    amount: u64,
    why: String,
}

/// Above this amount the payment is refused.
pub const LIMIT: u64 = 1_000;
/// At exactly this amount a function of the saga panics.
pub const PANICS: u64 = 13;

pub fn purchase(version: u32) -> Result<Definition<Data>, DefinitionErrors> {
    saga(
        "purchase",
        version,
        |event: &Begun| event.id,
        |event: Begun| Data { id: event.id, amount: event.amount, why: String::new() },
    )
    .then(
        step("reserve", |data: &Data| Reserve { id: data.id })
            .on_success(|data, _| assert_ne!(data.amount, PANICS, "this amount is unlucky"))
            .reply_within(Duration::from_millis(400))
            .retry(Retry::exponential(20, Duration::from_millis(20), Duration::from_millis(50)))
            .compensated_by(|_, outcome| Release {
                ticket: match outcome {
                    Outcome::Done(reply) => Some(reply.ticket),
                    Outcome::InDoubt => None,
                },
            }),
    )
    .then(
        step("pay", |data: &Data| Pay { amount: data.amount })
            .on_rejection(|data, reply| data.why = reply.why)
            .reply_within(Duration::from_millis(400))
            .pivot(),
    )
    .ends_with(
        |data| Finished { id: data.id },
        |data| Broken { id: data.id, why: data.why.clone() },
    )
}

pub fn orchestrator(broker: &MemoryBroker) -> OrchestratorBuilder {
    Orchestrator::builder("shop").saga(purchase(1)).connector(Arc::new(broker.clone()))
}

/// An engine of parts: on a disk and a store that outlive it, and in small segments, so that rolling, retiring and recycling
/// them have their share of what happens.
pub fn parts(broker: &MemoryBroker, store: Arc<dyn Store>, disk: Arc<dyn Disk>) -> EngineParts {
    let lane = LaneParts {
        connector: Arc::new(broker.clone()),
        reads: vec![ChannelSpec::events("starts"), ChannelSpec::work("shop.replies")],
        prepares: vec![ChannelSpec::work("work"), ChannelSpec::events("ends")],
        carries: vec![],
    };
    EngineParts {
        app: "shop".into(),
        replies: "shop.replies".into(),
        dead_letters: "shop.dead-letters".into(),
        registry: Registry::new(vec![purchase(1).unwrap().plan()]).unwrap(),
        codec: Arc::new(dirigent_schemas::Bodies::new()),
        schemas: None,
        lanes: vec![lane],
        store,
        disk,
        journal: JournalOptions { segment_bytes: 32 * 1024, ..JournalOptions::default() },
        headroom_bytes: 0,
        protections: dirigent::destinations::Protections::default(),
        shards: 2,
        unsettled_max: 32,
        body_bytes_max: 10_000,
        parked_for: dirigent::engine::PARKED_FOR,
        clock: Arc::new(SystemClock::default()),
        observer: Arc::new(Quiet),
    }
}

/// Waits for what other threads bring about.
pub async fn until(mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "it did not come about within 60 s");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Reads a channel and sends, as a stranger would.
pub struct Stranger {
    pub sink: Box<dyn Sink>,
    pub source: Box<dyn Source>,
}

impl Stranger {
    pub async fn listening(broker: &dyn Connector, channel: ChannelSpec, group: &str) -> Self {
        let spec = SourceSpec {
            channels: vec![channel],
            group: group.into(),
            positions: vec![],
            unsettled_max: 1_000,
        };
        Self { sink: broker.sink().await.unwrap(), source: broker.source(spec).await.unwrap() }
    }

    pub async fn begins(&mut self, id: u64, amount: u64) {
        self.sends(start_event(id, amount)).await;
    }

    pub async fn sends(&mut self, message: Message) {
        let sent = self.sink.send(&[message]).await;
        assert_eq!(sent, [dirigent_connectors::Sent::Confirmed]);
    }

    /// The next message, settled at once.
    pub async fn next(&mut self) -> Delivery {
        let wait = tokio::time::timeout(Duration::from_secs(20), self.source.receive(1));
        let delivery = wait.await.expect("a message comes within 20 s").unwrap().remove(0);
        self.source.settler().settle(&[(delivery.receipt, Settle::Done)]);
        delivery
    }

    /// Answers commands as a good participant would, until its task is dropped.
    pub async fn answers(mut self) {
        loop {
            for delivery in self.source.receive(256).await.unwrap() {
                let reply = reply_to(&delivery.message);
                self.sink.send(&[reply]).await;
                self.source.settler().settle(&[(delivery.receipt, Settle::Done)]);
            }
        }
    }
}

pub fn start_event(id: u64, amount: u64) -> Message {
    let body = serde_json::to_vec(&Begun { id, amount }).unwrap();
    event(STARTS.name, Begun::NAME, &format!("start-{id}"), &id.to_string(), body)
}

pub fn event(channel: &str, name: &str, id: &str, key: &str, body: Vec<u8>) -> Message {
    let attributes = Attributes::new()
        .with(names::ID, id)
        .with(names::TYPE, name)
        .with(names::CONTENT_TYPE, "application/json");
    let channel = channel.to_owned();
    Message {
        channel,
        kind: ChannelKind::Events,
        key: key.into(),
        attributes,
        others: vec![],
        body: body.into(),
    }
}

/// A command as a saga would send it.
pub fn command(name: &str, body: &[u8]) -> Message {
    let attributes = Attributes::new()
        .with(names::ID, "command-1")
        .with(names::TYPE, name)
        .with(names::CONTENT_TYPE, "application/json")
        .with(envelope::SAGA_ID, "saga-1")
        .with(envelope::SAGA_STEP, "step")
        .with(names::IDEMPOTENCY_KEY, "key-1")
        .with(names::REPLY_TO, "shop.replies");
    Message {
        channel: WORK.name.into(),
        kind: ChannelKind::Work,
        key: "1".into(),
        attributes,
        others: vec![],
        body: body.to_vec().into(),
    }
}

pub fn reply_to(command: &Message) -> Message {
    let kind = command.attributes.get(names::TYPE).unwrap();
    let body: serde_json::Value = serde_json::from_slice(&command.body).unwrap();
    let (name, body) = match kind {
        Reserve::NAME => (Reserved::NAME, serde_json::json!({ "ticket": 7 })),
        Release::NAME => (Released::NAME, serde_json::json!({})),
        Pay::NAME if body["amount"].as_u64().unwrap() > LIMIT => {
            (Refused::NAME, serde_json::json!({ "why": "too dear" }))
        }
        Pay::NAME => (Paid::NAME, serde_json::json!({})),
        other => panic!("nobody sends {other}"),
    };
    reply(command, name, serde_json::to_vec(&body).unwrap())
}

pub fn reply(command: &Message, name: &str, body: Vec<u8>) -> Message {
    let mut attributes = Attributes::new()
        .with(names::ID, format!("reply-{}", command.attributes.get("id").unwrap()));
    attributes.set(names::TYPE, name);
    attributes.set(names::CONTENT_TYPE, "application/json");
    for echoed in [
        envelope::SAGA_ID,
        envelope::SAGA_STEP,
        envelope::SAGA_LEG,
        envelope::SAGA_ATTEMPT,
        names::IDEMPOTENCY_KEY,
    ] {
        attributes.set(echoed, command.attributes.get(echoed).unwrap());
    }
    Message {
        channel: command.attributes.get(names::REPLY_TO).unwrap().to_owned(),
        kind: ChannelKind::Work,
        key: command.key.clone(),
        attributes,
        others: vec![],
        body: body.into(),
    }
}

/// Numbers that look random and come again with their seed (SplitMix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.throw() % bound
    }
}
