//! Avro bodies: a header that names the writer's schema, and the datum.
//!
//! ```text
//! C3 01 | fingerprint, 8 bytes, little endian | datum      single-object encoding, without a schema registry
//! 00    | id, 4 bytes, big endian             | datum      Confluent's wire format, with one
//! ```
//!
//! The entrance of this crate. What goes out is written with the message's own schema; what comes in is
//! read with the schema it was written with, found by fingerprint or id, and resolved to the message's own
//! where the two differ. Both headers are read, whichever is written. No bytes make it panic or allocate
//! beyond the bounds, and nothing here waits: an id that is not known yet is an error.

use crate::{
    compatibility::readable,
    handover::{self, Read, Taken},
    ids::{Entry, Ids},
    known::{Known, Prepared, SchemaError, known},
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

/// How a body in Confluent's wire format begins.
const MAGIC: u8 = 0;

/// Writes and reads Avro bodies. Share one per process.
pub struct Bodies {
    /// The schemas a body may have been written with.
    writers: RwLock<HashMap<u64, &'static Known>>,
    /// Messages' own schemas, by where their text lies: hashing the text would cost as much as writing.
    own: RwLock<HashMap<(usize, usize), &'static Known>>,
    /// How to read what one schema wrote with another: by the fingerprint of the one and the text of the other.
    resolutions: RwLock<HashMap<(u64, usize), Resolution<'static>>>,
    /// The ids of a schema registry, where there is one.
    ids: Option<Arc<Ids>>,
}

/// Reads one schema's bodies as another's; the reason where that can't be.
type Resolution<'s> = Result<Arc<GenericDatumReader<'s>>, Arc<str>>;

impl Bodies {
    /// Knows the schemas of messages as they are used, and so their newest versions only.
    pub fn new() -> Self {
        // Set for the whole process, by the first who sets it.
        apache_avro::util::max_allocation_bytes(ALLOCATION_BYTES_MAX);
        Self {
            writers: RwLock::default(),
            own: RwLock::default(),
            resolutions: RwLock::default(),
            ids: None,
        }
    }

    /// Writes in Confluent's wire format, with the ids that a registry gave.
    pub(crate) fn with_ids(ids: Arc<Ids>) -> Self {
        Self { ids: Some(ids), ..Self::new() }
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

    /// The schema that a header names.
    fn writer(&self, by: WrittenBy, reader: &'static Known) -> Result<&'static Known, String> {
        let fingerprint = match by {
            WrittenBy::Fingerprint(fingerprint) => fingerprint,
            WrittenBy::Id(id) => {
                let ids = self.ids.as_ref().ok_or(
                    "it starts with 00, the framing of a schema registry, and none is set up here: say \
                     where it is by `registry.url`",
                )?;
                let known = match ids.get(id) {
                    Some(Entry::Known(known)) => known,
                    Some(Entry::Unusable(why)) => {
                        return Err(format!(
                            "it was written with schema {id} of the registry, which is of no use here: {why}"
                        ));
                    }
                    Some(Entry::Missing(_)) => {
                        return Err(format!(
                            "it was written with schema {id}, and the registry has no such schema: it was \
                             deleted, or the body comes from a system with another registry"
                        ));
                    }
                    None => {
                        return Err(format!(
                            "it was written with schema {id}, which the registry was not asked for"
                        ));
                    }
                };
                // The reader's own where the form is the same: it may say more than what was registered.
                return Ok(if known.fingerprint == reader.fingerprint { reader } else { known });
            }
        };
        if fingerprint == reader.fingerprint {
            return Ok(reader);
        }
        get(&self.writers, &fingerprint).ok_or_else(|| {
            format!(
                "it was written with a schema of fingerprint {fingerprint:016x}, which is not known here: \
                 register the .avsc of that version"
            )
        })
    }

    /// How to read what `writer` wrote as `reader`: checked and prepared at the first such body.
    fn resolution(&self, writer: &'static Known, reader: &'static Known) -> Resolution<'static> {
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
        match &self.ids {
            None => {
                bytes.extend_from_slice(&MARK);
                bytes.extend_from_slice(&own.fingerprint.to_le_bytes());
            }
            Some(ids) => {
                let id = ids.of(own).ok_or_else(|| {
                    refused(
                        name,
                        "the schema registry was not asked for the id of its schema at the start: declare \
                         that it is sent",
                    )
                })?;
                bytes.push(MAGIC);
                bytes.extend_from_slice(&id.to_be_bytes());
            }
        }
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
        let (by, mut datum) = split(&body.bytes).map_err(|text| refused(name, text))?;
        let writer = self.writer(by, reader).map_err(|text| refused(name, text))?;
        measure(writer.schema, &writer.names, datum).map_err(|misfit| refused(name, misfit))?;
        let read = if std::ptr::eq(writer, reader) {
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

/// What the header of a body names its writer's schema by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WrittenBy {
    /// Single-object encoding.
    Fingerprint(u64),
    /// Confluent's wire format.
    Id(u32),
}

/// The header and the datum of a body.
pub(crate) fn split(bytes: &[u8]) -> Result<(WrittenBy, &[u8]), &'static str> {
    const CUT_SHORT: &str = "it ends within its header: the body was cut short";
    if let Some(rest) = bytes.strip_prefix(&MARK) {
        let (fingerprint, datum) = rest.split_first_chunk().ok_or(CUT_SHORT)?;
        return Ok((WrittenBy::Fingerprint(u64::from_le_bytes(*fingerprint)), datum));
    }
    match bytes {
        [MAGIC, rest @ ..] => {
            let (id, datum) = rest.split_first_chunk().ok_or(CUT_SHORT)?;
            Ok((WrittenBy::Id(u32::from_be_bytes(*id)), datum))
        }
        [] => Err("the body is empty"),
        [b'{', ..] => Err("it looks like JSON on an Avro channel: check its content type"),
        [..] => Err(
            "it starts neither with C3 01, the mark of Avro's single-object encoding, nor with 00, \
                     that of a schema registry",
        ),
    }
}

pub(crate) fn resolve<'s>(writer: &'s Prepared<'s>, reader: &'s Prepared<'s>) -> Resolution<'s> {
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
mod tests;
