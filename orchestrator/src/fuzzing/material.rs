//! What seeds are made of, where only this crate can write it.

use super::{
    at_rest, bodies,
    samples::{self, Colour, Everything, Next, REGISTRY},
};
use crate::engine::fuzzed;
use dirigent_model::message::{Body, Codec, Failure, FailureEffect, Format, Message};
use std::collections::BTreeMap;

/// Real bytes, by what they are.
pub fn material() -> BTreeMap<&'static str, Vec<u8>> {
    let everything = everything();
    let instance = samples::begun(7);
    let avro = |codec: &dyn Codec| written(&everything, Format::Avro, codec);
    BTreeMap::from([
        ("everything", avro(&*bodies::CODEC)),
        ("everything-registered", avro(&*bodies::REGISTERED)),
        ("everything-json", written(&everything, Format::Json, &*bodies::CODEC)),
        ("everything-schema", samples::EVERYTHING.into()),
        ("everything-before-schema", samples::EVERYTHING_BEFORE.into()),
        ("something-else-schema", samples::SOMETHING_ELSE.into()),
        ("failure", written(&failure(), Format::Avro, &*bodies::CODEC)),
        ("failure-json", written(&failure(), Format::Json, &*bodies::CODEC)),
        ("graph", REGISTRY.plans()[0].graph().to_json().into_bytes()),
        ("instance", fuzzed::record_of(&instance)),
        ("instance-id", instance.core.id.0.as_bytes().to_vec()),
        ("instance-time", fuzzed::time_of(&instance).unwrap_or_default()),
        ("segment", at_rest::segment_of(&[b"one", b"", b"three records"])),
    ])
}

fn written<M: Message>(message: &M, format: Format, codec: &dyn Codec) -> Vec<u8> {
    Body::write(message, format, codec).expect("a message of ours can be written").bytes
}

fn everything() -> Everything {
    let last = Next { name: "last".into(), next: None };
    Everything {
        key: "7".into(),
        yes: true,
        int: -1,
        long: i64::MIN,
        float: 0.1,
        double: 1e300,
        bytes: vec![0, 0xff].into(),
        colour: Colour::Blue,
        maybe: Some("ü".into()),
        list: vec![0, i64::MAX],
        map: [("a".to_owned(), "b".to_owned())].into(),
        next: Some(Box::new(Next { name: "first".into(), next: Some(Box::new(last)) })),
    }
}

fn failure() -> Failure {
    let (code, message) = ("busy".into(), "come again".into());
    Failure { code, message, retriable: true, effect: FailureEffect::Unknown }
}
