//! What comes in is what went out, in both framings, and no bytes do harm.

use super::*;
use dirigent_model::message::Message;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

macro_rules! message {
    ($name:ident, $wire:literal, $schema:expr) => {
        impl Message for $name {
            const NAME: &'static str = $wire;
            const SCHEMA: Option<&'static str> = Some($schema);
        }
    };
}

const HOLD_V1: &str = r#"{"type":"record","name":"Hold","namespace":"bank","fields":[
    {"name":"amount","type":"int"},{"name":"card","type":"string"}]}"#;
const HOLD_V2: &str = r#"{"type":"record","name":"Hold","namespace":"bank","fields":[
    {"name":"card","type":"string"},{"name":"amount","type":"long"},
    {"name":"note","type":["null","string"],"default":null},
    {"name":"currency","type":"string","default":"EUR"}]}"#;
const PARCEL: &str = r#"{"type":"record","name":"Parcel","namespace":"shop","fields":[
    {"name":"id","type":"long"},{"name":"name","type":"string"},{"name":"weight","type":"double"},
    {"name":"fragile","type":"boolean"},{"name":"size","type":{"type":"enum","name":"Size","symbols":["small","large"]}},
    {"name":"stops","type":{"type":"array","items":"string"}},
    {"name":"tags","type":{"type":"map","values":"long"}},
    {"name":"seal","type":["null","bytes"]},
    {"name":"voids","type":{"type":"array","items":"null"}},
    {"name":"inside","type":["null","Parcel"]}]}"#;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename = "Hold")]
struct HoldV1 {
    amount: i32,
    card: String,
}
message!(HoldV1, "Hold", HOLD_V1);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Hold {
    card: String,
    amount: i64,
    note: Option<String>,
    currency: String,
}
message!(Hold, "Hold", HOLD_V2);

/// The same fields as the first version of a hold, but another message.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Refund {
    amount: i32,
    card: String,
}
message!(
    Refund,
    "Refund",
    r#"{"type":"record","name":"Refund","namespace":"bank","fields":[
        {"name":"amount","type":"int"},{"name":"card","type":"string"}]}"#
);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Parcel {
    id: i64,
    name: String,
    weight: f64,
    fragile: bool,
    size: Size,
    stops: Vec<String>,
    tags: std::collections::BTreeMap<String, i64>,
    #[serde(with = "apache_avro::serde::bytes_opt")]
    seal: Option<Vec<u8>>,
    voids: Vec<()>,
    inside: Option<Box<Parcel>>,
}
message!(Parcel, "Parcel", PARCEL);

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Size {
    Small,
    Large,
}

fn parcel(levels: usize) -> Parcel {
    Parcel {
        id: i64::MIN,
        name: "ß—🎈".into(),
        weight: 0.5,
        fragile: true,
        size: Size::Large,
        stops: vec!["Utrecht".into(), String::new()],
        tags: [("a".to_owned(), 1), ("b".to_owned(), i64::MAX)].into(),
        seal: Some(vec![0, 255]),
        voids: vec![(); 3],
        inside: levels.checked_sub(1).map(|levels| Box::new(parcel(levels))),
    }
}

fn written<M: Message>(message: &M) -> Body {
    Body::write(message, Format::Avro, &Bodies::new()).unwrap()
}

fn avro(bytes: Vec<u8>) -> Body {
    Body { format: Format::Avro, bytes }
}

fn reason<M: Message + std::fmt::Debug>(bodies: &Bodies, body: &Body) -> String {
    body.read::<M>(bodies).unwrap_err().text
}

#[test]
fn a_message_comes_back_as_it_went() {
    for levels in [0, 1, 5] {
        assert_eq!(
            written(&parcel(levels)).read::<Parcel>(&Bodies::new()).unwrap(),
            parcel(levels)
        );
    }
}

#[test]
fn a_body_is_the_mark_the_fingerprint_and_the_datum() {
    let body = written(&HoldV1 { amount: 5, card: "ab".into() });
    let mut expected = vec![0xC3, 0x01];
    expected.extend(Bodies::new().learn(HOLD_V1).unwrap().to_le_bytes());
    expected.extend([10, 4, b'a', b'b']);
    assert_eq!(body.bytes, expected);
}

#[test]
fn an_older_version_is_read_as_the_newer_one() {
    let bodies = Bodies::with_schemas([HOLD_V1]).unwrap();
    let old = written(&HoldV1 { amount: 500, card: "4711".into() });
    let expected = Hold { card: "4711".into(), amount: 500, note: None, currency: "EUR".into() };
    for _ in 0..2 {
        assert_eq!(old.read::<Hold>(&bodies).unwrap(), expected);
    }
}

#[test]
fn an_unknown_version_is_named_by_its_fingerprint() {
    let old = written(&HoldV1 { amount: 500, card: "4711".into() });
    let fingerprint = format!("{:016x}", Bodies::new().learn(HOLD_V1).unwrap());
    let text = reason::<Hold>(&Bodies::new(), &old);
    assert!(text.contains(&fingerprint) && text.contains("register"), "{text}");
}

#[test]
fn a_version_that_can_not_be_read_says_which_field() {
    let bodies = Bodies::with_schemas([HOLD_V2]).unwrap();
    let hold = Hold { card: "4711".into(), amount: 1, note: None, currency: "EUR".into() };
    let text = reason::<HoldV1>(&bodies, &written(&hold));
    assert!(text.contains("'amount'"), "{text}");
}

#[test]
fn a_message_is_not_read_as_another_with_the_same_fields() {
    let bodies = Bodies::with_schemas([HOLD_V1]).unwrap();
    let text = reason::<Refund>(&bodies, &written(&HoldV1 { amount: 5, card: String::new() }));
    assert!(text.contains("Hold") && text.contains("Refund"), "{text}");
}

#[test]
fn what_is_no_single_object_is_refused_with_a_hint() {
    let bodies = Bodies::new();
    let text = |bytes: &[u8]| reason::<Hold>(&bodies, &avro(bytes.to_vec()));
    assert!(text(b"").contains("empty"));
    assert!(text(b"{}").contains("JSON"));
    assert!(text(&[0, 0, 0, 0, 1]).contains("registry.url"));
    assert!(text(&[0xC3, 0x01, 1]).contains("cut short"));
    assert!(text(&[0xFF]).contains("C3 01"));
}

#[test]
fn a_body_cut_anywhere_is_refused() {
    let bodies = Bodies::with_schemas([HOLD_V1]).unwrap();
    let whole = written(&HoldV1 { amount: 500, card: "4711".into() }).bytes;
    for end in 0..whole.len() {
        let cut = avro(whole[..end].to_vec());
        cut.read::<HoldV1>(&bodies).unwrap_err();
        // Resolved, too: there the library itself would take the end for a null.
        cut.read::<Hold>(&bodies).unwrap_err();
    }
}

#[test]
fn a_body_beyond_the_bound_is_neither_written_nor_read() {
    let bodies = Bodies::new();
    let large = HoldV1 { amount: 0, card: "x".repeat(BODY_BYTES_MAX) };
    let error = Body::write(&large, Format::Avro, &bodies).unwrap_err();
    assert!(error.text.contains("1048576"), "{error}");
    let text = reason::<HoldV1>(&bodies, &avro(vec![0xC3; BODY_BYTES_MAX + 1]));
    assert!(text.contains("1048577"), "{text}");
    let largest = HoldV1 { amount: 0, card: "x".repeat(BODY_BYTES_MAX - 20) };
    assert_eq!(written(&largest).read::<HoldV1>(&bodies).unwrap(), largest);
}

#[test]
fn a_bomb_of_nulls_is_refused_before_it_is_read() {
    let mut bytes =
        written(&Parcel { stops: vec![], tags: [].into(), seal: None, voids: vec![], ..parcel(0) })
            .bytes;
    // The last two bytes are the empty array of nulls and the missing parcel inside.
    bytes.truncate(bytes.len() - 2);
    bytes.extend([0x80, 0x88, 0xDE, 0xBE, 0x01, 0x00, 0x00]);
    let text = reason::<Parcel>(&Bodies::new(), &avro(bytes));
    assert!(text.contains("65536"), "{text}");
}

#[test]
fn a_message_too_deep_to_be_read_is_not_written() {
    let error = Body::write(&parcel(40), Format::Avro, &Bodies::new()).unwrap_err();
    assert!(error.text.contains("levels"), "{error}");
}

#[test]
fn a_message_without_a_schema_says_what_to_do() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Bare {}
    impl Message for Bare {
        const NAME: &'static str = "Bare";
    }
    let error = Body::write(&Bare {}, Format::Avro, &Bodies::new()).unwrap_err();
    assert!(error.to_string().contains("SCHEMA"), "{error}");
}

#[test]
fn a_value_that_does_not_fit_its_schema_is_refused_in_a_short_error() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Wrong {
        amount: String,
        card: String,
    }
    message!(Wrong, "Hold", HOLD_V1);
    let wrong = Wrong { amount: "x".repeat(10_000), card: String::new() };
    let error = Body::write(&wrong, Format::Avro, &Bodies::new()).unwrap_err();
    assert!(error.text.chars().count() <= ERROR_CHARS_MAX + 1, "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_reader_panic(datum in proptest::collection::vec(any::<u8>(), 0..512)) {
        let bodies = Bodies::with_schemas([HOLD_V1, PARCEL]).unwrap();
        for schema in [HOLD_V1, HOLD_V2, PARCEL] {
            let mut bytes = MARK.to_vec();
            bytes.extend(bodies.learn(schema).unwrap().to_le_bytes());
            bytes.extend(&datum);
            let body = avro(bytes);
            let _ = body.read::<Hold>(&bodies);
            let _ = body.read::<Parcel>(&bodies);
        }
        let _ = avro(datum).read::<Hold>(&bodies);
    }

    #[test]
    fn no_change_of_valid_bytes_makes_the_reader_panic(
        levels in 0_usize..4,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let bodies = Bodies::with_schemas([HOLD_V1]).unwrap();
        let hold = HoldV1 { amount: 500, card: "4711".into() };
        for mut bytes in [written(&parcel(levels)).bytes, written(&hold).bytes] {
            for (at, byte) in &changes {
                // Behind the header, so that the schema is still found.
                let at = 10 + at.index(bytes.len() - 10);
                bytes[at] = *byte;
            }
            let cut = avro(bytes[..cut.index(bytes.len())].to_vec());
            for body in [avro(bytes), cut] {
                let _ = body.read::<Parcel>(&bodies);
                let _ = body.read::<HoldV1>(&bodies);
                let _ = body.read::<Hold>(&bodies);
            }
        }
    }

    #[test]
    fn every_message_comes_back_as_it_went_and_resolved_to_the_newer_version(
        amount in any::<i32>(), card in ".{0,40}",
    ) {
        let bodies = Bodies::with_schemas([HOLD_V1]).unwrap();
        let old = HoldV1 { amount, card: card.clone() };
        let body = Body::write(&old, Format::Avro, &bodies).unwrap();
        prop_assert_eq!(body.read::<HoldV1>(&bodies).unwrap(), old);
        let new = Hold { card, amount: amount.into(), note: None, currency: "EUR".into() };
        prop_assert_eq!(body.read::<Hold>(&bodies).unwrap(), new);
    }
}
