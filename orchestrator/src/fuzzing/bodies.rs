//! The bodies of messages: Avro in both framings, the schemas of strangers, and JSON.

use super::{
    pieces::Pieces,
    samples::{
        Cancelled, EVERYTHING, EVERYTHING_BEFORE, Everything, Ordered, Packed, REGISTRY,
        SOMETHING_ELSE, TooHeavy, Unpacked,
    },
};
use dirigent_model::message::{
    Body, Codec, Failure, Format, Message, StatusNotDone, StatusQuery, StatusUnknown,
};
use dirigent_schemas::{
    BODY_BYTES_MAX, Bodies,
    fuzzing::{Got, foreign, with_registry},
};
use std::sync::LazyLock;

/// Knows the schemas by their fingerprints.
pub(super) static CODEC: LazyLock<Bodies> = LazyLock::new(|| {
    Bodies::with_schemas([EVERYTHING, EVERYTHING_BEFORE, SOMETHING_ELSE]).expect("they are schemas")
});

/// The ids under which a registry has them, the one that is written first.
const IDS: [(u32, &str); 3] = [(7, EVERYTHING), (8, EVERYTHING_BEFORE), (256, SOMETHING_ELSE)];

/// Knows them by the ids of a registry, too.
pub(super) static REGISTERED: LazyLock<Bodies> = LazyLock::new(|| {
    let bodies = with_registry(&IDS).expect("they are schemas");
    for (_, schema) in IDS {
        bodies.learn(schema).expect("it is a schema");
    }
    bodies
});

/// An Avro body, read as a message with every kind of value, with and without a registry.
pub fn avro(bytes: &[u8]) -> bool {
    let body = Body { format: Format::Avro, bytes: bytes.to_vec() };
    let without = read::<Everything>(&body, &*CODEC);
    let with = read::<Everything>(&body, &*REGISTERED);
    if let (Some(without), Some(with)) = (&without, &with) {
        // Both say the same by a datum of the same schema, behind their own header.
        assert_eq!(without[10..], with[5..], "the framing changes no value");
    }
    let failure = read::<Failure>(&body, &*CODEC);
    without.is_some() || with.is_some() || failure.is_some()
}

/// Reads a body, writes it, and reads that again. What is written of it, if it can be read.
fn read<M: Message>(body: &Body, codec: &dyn Codec) -> Option<Vec<u8>> {
    let message: M = match body.read(codec) {
        Ok(message) => message,
        Err(error) => {
            assert!(!error.text.is_empty(), "whatever is refused has its reason");
            return None;
        }
    };
    // Fields that only the reader has may make a body too large that was not.
    let written = match Body::write(&message, body.format, codec) {
        Ok(written) => written,
        Err(error) => {
            assert!(body.bytes.len() > BODY_BYTES_MAX / 64, "{error}");
            return None;
        }
    };
    let again: M = written.read(codec).expect("what is written can be read");
    let again = Body::write(&again, body.format, codec).expect("what was written can be written");
    assert_eq!(again.bytes, written.bytes, "a value does not change by being read");
    Some(written.bytes)
}

/// A schema as a registry may serve it, and behind a zero byte a datum that was written with it.
pub fn schema(bytes: &[u8]) -> bool {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let Some(Ok(text)) = parts.next().map(std::str::from_utf8) else { return false };
    foreign(text, EVERYTHING, parts.next().unwrap_or_default()) > Got::NoSchema
}

/// A JSON body. The first byte says what it is read as.
pub fn json_body(bytes: &[u8]) -> bool {
    let mut pieces = Pieces(bytes);
    let kind = pieces.byte();
    let body = Body { format: Format::Json, bytes: pieces.rest().to_vec() };
    let codec = &*CODEC;
    let read = match kind % 10 {
        0 => read::<Failure>(&body, codec),
        1 => read::<StatusQuery>(&body, codec),
        2 => read::<StatusUnknown>(&body, codec),
        3 => read::<StatusNotDone>(&body, codec),
        4 => read::<Packed>(&body, codec),
        5 => read::<TooHeavy>(&body, codec),
        6 => read::<Unpacked>(&body, codec),
        7 => read::<Cancelled>(&body, codec),
        8 => read::<Everything>(&body, codec),
        _ => {
            for plan in REGISTRY.started_by(Ordered::NAME) {
                let key = plan.start_key(&body, codec);
                assert_eq!(key.is_ok(), body.read::<Ordered>(codec).is_ok());
            }
            read::<Ordered>(&body, codec)
        }
    };
    read.is_some()
}
