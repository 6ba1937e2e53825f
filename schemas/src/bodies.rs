//! Avro bodies in single-object encoding: `C3 01`, the fingerprint of the writer's schema, the datum.
//!
//! The entrance of this crate. What goes out is written with the message's own schema; what comes in is
//! read with the schema it was written with, found by fingerprint, and resolved to the message's own
//! where the two differ. No bytes make it panic or allocate beyond the bounds.

use crate::{
    compatibility::readable,
    handover::{self, Read, Taken},
    known::{Known, SchemaError, known},
    measure::{VALUES_MAX, measure},
};
use apache_avro::{reader::datum::GenericDatumReader, schema::ResolvedSchema};
use dirigent_model::message::{Body, Codec, CodecError, Format};
use std::{
    collections::HashMap,
    error::Error,
    fmt::Display,
    sync::{Arc, PoisonError, RwLock},
};

/// Bytes of an Avro body, header included. What Kafka takes in one message as it comes.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

/// Bytes the library may allocate at once. Room for all values that a measured body may hold, at 128
/// bytes each with the key of a map, and so for the longest string as well.
const ALLOCATION_BYTES_MAX: usize = VALUES_MAX * 128;

/// Characters of the library's own words in an error: it likes to print whole schemas and values.
const ERROR_CHARS_MAX: usize = 300;

/// How a body in single-object encoding begins.
const MARK: [u8; 2] = [0xC3, 0x01];

/// Writes and reads Avro bodies. Share one per process.
pub struct Bodies {
    /// The schemas a body may have been written with.
    writers: RwLock<HashMap<u64, &'static Known>>,
    /// Messages' own schemas, by where their text lies: hashing the text would cost as much as writing.
    own: RwLock<HashMap<(usize, usize), &'static Known>>,
    /// How to read what one schema wrote with another: by the fingerprint of the one and the text of the other.
    resolutions: RwLock<HashMap<(u64, usize), Resolution>>,
}

/// Reads one schema's bodies as another's; the reason where that can't be.
type Resolution = Result<Arc<GenericDatumReader<'static>>, Arc<str>>;

impl Bodies {
    /// Knows the schemas of messages as they are used, and so their newest versions only.
    pub fn new() -> Self {
        // Set for the whole process, by the first who sets it.
        apache_avro::util::max_allocation_bytes(ALLOCATION_BYTES_MAX);
        Self { writers: RwLock::default(), own: RwLock::default(), resolutions: RwLock::default() }
    }

    /// Knows these schema texts from the start: every version that may still be under way.
    pub fn with_schemas<T: AsRef<str>>(
        texts: impl IntoIterator<Item = T>,
    ) -> Result<Self, SchemaError> {
        let bodies = Self::new();
        for text in texts {
            bodies.learn(text.as_ref())?;
        }
        Ok(bodies)
    }

    /// Takes bodies written with this schema from now on. Returns its fingerprint (Rabin-64).
    pub fn learn(&self, text: &str) -> Result<u64, SchemaError> {
        let known = known(text)?;
        put(&self.writers, known.fingerprint, known);
        Ok(known.fingerprint)
    }

    /// The schema of the message itself.
    fn own(&self, name: &str, schema: Option<&'static str>) -> Result<&'static Known, CodecError> {
        let text = schema.ok_or_else(|| {
            refused(name, "the message has no schema: set Message::SCHEMA, or use a JSON channel")
        })?;
        // A text that lives for ever is known by its place.
        let place = (text.as_ptr() as usize, text.len());
        if let Some(known) = get(&self.own, &place) {
            return Ok(known);
        }
        let known = known(text).map_err(|error| refused(name, chain(&error)))?;
        put(&self.writers, known.fingerprint, known);
        put(&self.own, place, known);
        Ok(known)
    }

    /// How to read what `writer` wrote as `reader`: checked and prepared at the first such body.
    fn resolution(&self, writer: &'static Known, reader: &'static Known) -> Resolution {
        let pair = (writer.fingerprint, std::ptr::from_ref(reader).addr());
        if let Some(resolution) = get(&self.resolutions, &pair) {
            return resolution;
        }
        let resolution = resolve(writer, reader);
        put(&self.resolutions, pair, resolution.clone());
        resolution
    }
}

impl Default for Bodies {
    fn default() -> Self {
        Self::new()
    }
}

impl Codec for Bodies {
    fn encode(
        &self,
        name: &'static str,
        schema: Option<&'static str>,
        format: Format,
        value: &dyn erased_serde::Serialize,
    ) -> Result<Vec<u8>, CodecError> {
        avro_only(name, format)?;
        let own = self.own(name, schema)?;
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&MARK);
        bytes.extend_from_slice(&own.fingerprint.to_le_bytes());
        let header = bytes.len();
        own.writer.write_ser(&mut bytes, &value).map_err(|error| refused(name, chain(&error)))?;
        // What is written here must be readable here.
        bounded(name, &bytes)?;
        measure(own.schema, &own.names, &bytes[header..])
            .map_err(|misfit| refused(name, misfit))?;
        Ok(bytes)
    }

    fn decode(
        &self,
        name: &'static str,
        schema: Option<&'static str>,
        body: &Body,
        read: &mut Read<'_>,
    ) -> Result<(), CodecError> {
        avro_only(name, body.format)?;
        let reader = self.own(name, schema)?;
        bounded(name, &body.bytes)?;
        let (fingerprint, mut datum) = split(&body.bytes).map_err(|text| refused(name, text))?;
        // The reader's own first: it may say more about the same form than what was registered.
        let writer = if fingerprint == reader.fingerprint {
            reader
        } else {
            get(&self.writers, &fingerprint).ok_or_else(|| {
                refused(
                    name,
                    format_args!(
                        "it was written with a schema of fingerprint {fingerprint:016x}, which is not known \
                         here: register the .avsc of that version"
                    ),
                )
            })?
        };
        measure(writer.schema, &writer.names, datum).map_err(|misfit| refused(name, misfit))?;
        let read = if fingerprint == reader.fingerprint {
            handover::to(read, || reader.reader.read_deser::<Taken>(&mut datum))
        } else {
            let resolution =
                self.resolution(writer, reader).map_err(|reason| refused(name, reason))?;
            resolution
                .read_value(&mut datum)
                .and_then(|value| handover::to(read, || apache_avro::from_value::<Taken>(&value)))
        };
        read.map(drop).map_err(|error| refused(name, chain(&error)))
    }
}

/// The fingerprint and the datum of a body.
fn split(bytes: &[u8]) -> Result<(u64, &[u8]), &'static str> {
    let Some(rest) = bytes.strip_prefix(&MARK) else {
        return Err(match bytes.first() {
            None => "the body is empty",
            Some(0) => {
                "it starts with 00, the framing of a schema registry: this reads Avro's single-object \
                 encoding, which starts with C3 01"
            }
            Some(b'{') => "it looks like JSON on an Avro channel: check its content type",
            Some(_) => "it does not start with C3 01, the mark of Avro's single-object encoding",
        });
    };
    let (fingerprint, datum) =
        rest.split_first_chunk().ok_or("it ends within its header: the body was cut short")?;
    Ok((u64::from_le_bytes(*fingerprint), datum))
}

fn resolve(writer: &'static Known, reader: &'static Known) -> Resolution {
    // Bodies of another message may have fields of the same names: the check compares names, too.
    readable(writer.schema, reader.schema).map_err(|error| Arc::from(error.to_string()))?;
    let prepared = || {
        GenericDatumReader::builder(writer.schema)
            .resolved_writer_schemata(ResolvedSchema::new(writer.schema)?)
            .reader_schema(reader.schema)
            .resolved_reader_schemata(ResolvedSchema::new(reader.schema)?)
            .human_readable(false)
            .build()
    };
    prepared().map(Arc::new).map_err(|error| {
        Arc::from(format!("reading {} as {}: {}", writer.name, reader.name, chain(&error)))
    })
}

fn avro_only(name: &str, format: Format) -> Result<(), CodecError> {
    match format {
        Format::Avro => Ok(()),
        Format::Json => {
            Err(CodecError::new(name, format, "the model reads and writes JSON itself"))
        }
    }
}

fn bounded(name: &str, bytes: &[u8]) -> Result<(), CodecError> {
    match bytes.len() {
        0..=BODY_BYTES_MAX => Ok(()),
        len => Err(refused(
            name,
            format_args!(
                "its body has {len} bytes, and {BODY_BYTES_MAX} is the bound: send a reference instead"
            ),
        )),
    }
}

fn refused(name: &str, text: impl Display) -> CodecError {
    CodecError::new(name, Format::Avro, text)
}

/// An error and its causes in one line, cut to [`ERROR_CHARS_MAX`].
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        let deeper_text = deeper.to_string();
        // The library repeats some causes in its own text.
        if !text.contains(&deeper_text) {
            text = format!("{text}: {deeper_text}");
        }
        cause = deeper.source();
    }
    if let Some((end, _)) = text.char_indices().nth(ERROR_CHARS_MAX) {
        text.truncate(end);
        text.push('…');
    }
    text
}

fn get<K: Eq + std::hash::Hash, V: Clone>(table: &RwLock<HashMap<K, V>>, key: &K) -> Option<V> {
    table.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
}

fn put<K: Eq + std::hash::Hash, V>(table: &RwLock<HashMap<K, V>>, key: K, value: V) {
    table.write().unwrap_or_else(PoisonError::into_inner).insert(key, value);
}

#[cfg(test)]
mod tests {
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
        let expected =
            Hold { card: "4711".into(), amount: 500, note: None, currency: "EUR".into() };
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
        assert!(text(&[0, 0, 0, 0, 1]).contains("registry"));
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
        let mut bytes = written(&Parcel {
            stops: vec![],
            tags: [].into(),
            seal: None,
            voids: vec![],
            ..parcel(0)
        })
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
}
