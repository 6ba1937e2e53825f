//! The saga and the messages that fuzzed bytes are read as: one of each block that reads something, and a message with every kind of value.

use crate::{
    engine::fuzzed,
    registry::Registry,
    store::{Change, Space},
};
use bytes::Bytes;
use dirigent_model::{
    definition::{Definition, DefinitionErrors, OnTimeout, Outcome, saga, step, wait},
    instance::{Instance, InstanceId, Trace},
    message::{Body, Channel, Command, Event, Format, JsonOnly, Message, Never},
    time::Timestamp,
    transition::{self, Start},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::LazyLock, time::Duration};

/// The sagas that are declared where bytes are fuzzed.
pub(super) static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
    let definition = parcel_saga().expect("it is sound");
    Registry::new(vec![definition.plan()]).expect("one saga, declared once")
});

/// An instance of that saga.
pub(super) fn instance_of(key: &str) -> InstanceId {
    InstanceId::of("parcel", &key.into())
}

/// One that has just begun.
pub(super) fn begun(order: u64) -> Instance {
    let plan = &REGISTRY.plans()[0];
    let event = Ordered { order, weight: 2.5, ..Ordered::default() };
    let body = Body::write(&event, Format::Json, &JsonOnly).expect("it is JSON");
    let start = Start {
        key: order.into(),
        body: &body,
        run: 0,
        cause: Some("message-1".into()),
        trace: Trace::default(),
    };
    let decision = transition::start(plan, start, Timestamp(1_767_225_600_000), &JsonOnly);
    decision.expect("the event can be read").instance
}

/// A store in which such instances lie.
pub(super) fn records() -> Vec<Change> {
    let records = [7, 8].map(begun).into_iter().flat_map(|instance| {
        let id = instance.core.id.0.as_bytes().to_vec();
        let time = fuzzed::time_of(&instance).map(|key| Change::put(Space::Timers, key, []));
        let record = Change::put(Space::Instances, id, fuzzed::record_of(&instance));
        time.into_iter().chain([record])
    });
    records.collect()
}

const ORDERS: Channel = Channel::json("orders");
const STORE: Channel = Channel::json("store");
const ROAD: Channel = Channel::avro("road");

macro_rules! messages {
    ($($name:ident { $($field:ident: $kind:ty),* })*) => {$(
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        pub(super) struct $name { $(pub(super) $field: $kind),* }
        impl Message for $name { const NAME: &'static str = stringify!($name); }
    )*};
}

messages! {
    Ordered { order: u64, weight: f64, note: Option<String>, rest: serde_json::Value }
    Cancelled { order: u64 }
    Pack { order: u64, weight: f64 }
    Packed { boxes: Vec<u32>, by: BTreeMap<String, i64> }
    TooHeavy { most: f32 }
    Unpack { order: u64 }
    Unpacked {}
}

impl Event for Ordered {
    const ON: Channel = ORDERS;
}
impl Event for Cancelled {
    const ON: Channel = ORDERS;
}
impl Event for Everything {
    const ON: Channel = ROAD;
}
impl Command for Pack {
    const TO: Channel = STORE;
    type Success = Packed;
    type Rejection = TooHeavy;
}
impl Command for Unpack {
    const TO: Channel = STORE;
    type Success = Unpacked;
    type Rejection = Never;
}

/// Every kind of value that a schema can ask for and a message can hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Everything {
    pub(super) key: String,
    pub(super) yes: bool,
    pub(super) int: i32,
    pub(super) long: i64,
    pub(super) float: f32,
    pub(super) double: f64,
    pub(super) bytes: Bytes,
    pub(super) colour: Colour,
    pub(super) maybe: Option<String>,
    pub(super) list: Vec<i64>,
    pub(super) map: BTreeMap<String, String>,
    pub(super) next: Option<Box<Next>>,
}

/// A record within itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Next {
    pub(super) name: String,
    pub(super) next: Option<Box<Next>>,
}

/// One of three.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Colour {
    /// The first.
    #[default]
    Red,
    /// The second.
    Green,
    /// The last.
    Blue,
}

/// Everything, as it is written now.
pub(super) const EVERYTHING: &str = r#"{"type":"record","name":"Everything","namespace":"fuzzed","fields":[
    {"name":"key","type":"string"},{"name":"yes","type":"boolean","default":false},{"name":"int","type":"int","default":0},
    {"name":"long","type":"long","default":0},{"name":"float","type":"float","default":0},{"name":"double","type":"double","default":0},
    {"name":"bytes","type":"bytes","default":""},
    {"name":"colour","type":{"type":"enum","name":"Colour","symbols":["Red","Green","Blue"],"default":"Red"},"default":"Red"},
    {"name":"maybe","type":["null","string"],"default":null},{"name":"list","type":{"type":"array","items":"long"},"default":[]},
    {"name":"map","type":{"type":"map","values":"string"},"default":{}},
    {"name":"next","type":["null",{"type":"record","name":"Next","fields":[
        {"name":"name","type":"string"},{"name":"next","type":["null","Next"],"default":null}]}],"default":null}]}"#;

/// As it was written before most of it was thought of, with smaller numbers, a colour that is gone and a field that is.
pub(super) const EVERYTHING_BEFORE: &str = r#"{"type":"record","name":"Everything","namespace":"fuzzed","fields":[
    {"name":"gone","type":["null","string",{"type":"fixed","name":"Hash","size":8}],"default":null},
    {"name":"key","type":"string"},{"name":"long","type":"int","default":0},{"name":"double","type":"long","default":0},
    {"name":"colour","type":{"type":"enum","name":"Colour","symbols":["Black","Blue","Red"]}},
    {"name":"list","type":{"type":"array","items":"int"},"default":[]}]}"#;

/// Another message, whose bodies can't be read as Everything.
pub(super) const SOMETHING_ELSE: &str = r#"{"type":"record","name":"Else","namespace":"fuzzed","fields":[
    {"name":"when","type":{"type":"long","logicalType":"timestamp-millis"}},
    {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}},
    {"name":"id","type":{"type":"string","logicalType":"uuid"}}]}"#;

impl Message for Everything {
    const NAME: &'static str = "Everything";
    const SCHEMA: Option<&'static str> = Some(EVERYTHING);
}

/// The saga's data.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Parcel {
    pub(super) order: u64,
    pub(super) weight: f64,
    pub(super) boxes: Vec<u32>,
    pub(super) rest: serde_json::Value,
}

fn parcel_saga() -> Result<Definition<Parcel>, DefinitionErrors> {
    let begin = |event: Ordered| Parcel {
        order: event.order,
        weight: event.weight,
        rest: event.rest,
        boxes: Vec::new(),
    };
    saga("parcel", 1, |event: &Ordered| event.order, begin)
        .cancelled_by(|event: &Cancelled| event.order, |_, _| {})
        .then(
            step("pack", |own: &Parcel| Pack { order: own.order, weight: own.weight })
                .on_success(|own, reply| own.boxes = reply.boxes)
                .on_rejection(|_, _| {})
                .reply_within(Duration::from_secs(10))
                .compensated_by(|own, outcome| match outcome {
                    Outcome::Done(_) | Outcome::InDoubt => Unpack { order: own.order },
                }),
        )
        .then(
            wait("road", |event: &Everything| event.key.clone(), |_: &mut Parcel, _| {})
                .within(Duration::from_secs(3_600), OnTimeout::Reject),
        )
        .ends()
}
