//! Schemas, parsed once: what [`bodies`](super::bodies) looks up before it writes or reads.
//!
//! Parsing costs thirty times what encoding does, so a schema is kept for the life of the process and
//! shared by every [`Bodies`](super::Bodies). It is never freed: its writer and reader borrow from it,
//! and the texts come from the program, its contracts and a schema registry, never from a message.

use crate::plain::{self, Flaw};
use apache_avro::{
    Schema,
    rabin::Rabin,
    reader::datum::GenericDatumReader,
    schema::{NamesRef, ResolvedSchema},
    writer::datum::GenericDatumWriter,
};
use std::{
    collections::HashMap,
    sync::{LazyLock, PoisonError, RwLock},
};

/// Different schemas a process keeps. Well above the messages of a system times their versions; it
/// shows up a program that makes schemas as it goes.
pub const SCHEMAS_MAX: usize = 4_096;

/// A schema text that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The text is no schema, or one that refers to types it does not contain.
    #[error("reading the Avro schema that starts with `{start}`: check it with an Avro tool")]
    Unreadable {
        /// The first characters of the text.
        start: String,
        /// What the parser found.
        #[source]
        source: Box<apache_avro::Error>,
    },
    /// The Avro library can't stand the text.
    #[error("using the Avro schema that starts with `{start}`: {why}")]
    Unusable {
        /// The first characters of the text.
        start: String,
        /// What is wrong with it.
        why: String,
    },
    /// Renaming by alias is not followed when reading, and would lose the value silently.
    #[error(
        "field `{field}` of Avro schema `{schema}` has an alias, which readers here do not follow: \
         keep the field's name, or add a new field with a default"
    )]
    Alias {
        /// The full name of the record.
        schema: String,
        /// The field.
        field: String,
    },
    /// Too many different schemas.
    #[error("keeping Avro schema `{schema}`: the process already keeps {SCHEMAS_MAX} of them")]
    TooMany {
        /// The full name of the one too many.
        schema: String,
    },
}

/// A parsed schema, with all that writing and reading need of it.
pub(crate) type Known = Prepared<'static>;

/// The same for a schema that is not kept.
pub(crate) struct Prepared<'s> {
    pub(crate) text: &'s str,
    /// The record and its field that readers here could not honour; of no matter to what only writes.
    aliased: Option<(String, String)>,
    pub(crate) schema: &'s Schema,
    /// The full name of the record.
    pub(crate) name: String,
    /// Rabin-64 over the parsing canonical form.
    pub(crate) fingerprint: u64,
    pub(crate) names: NamesRef<'s>,
    pub(crate) writer: GenericDatumWriter<'s>,
    pub(crate) reader: GenericDatumReader<'s>,
}

/// Every schema of the process, by its text.
static KNOWN: LazyLock<RwLock<HashMap<&'static str, &'static Known>>> =
    LazyLock::new(RwLock::default);

/// The schema a text stands for, to read and write with; parsed at the first call only.
pub(crate) fn known(text: &str) -> Result<&'static Known, SchemaError> {
    let known = known_writer(text)?;
    match &known.aliased {
        None => Ok(known),
        Some((schema, field)) => {
            Err(SchemaError::Alias { schema: schema.clone(), field: field.clone() })
        }
    }
}

/// The schema a text stands for, where others wrote with it and it is resolved to a schema of our own.
pub(crate) fn known_writer(text: &str) -> Result<&'static Known, SchemaError> {
    if let Some(known) = KNOWN.read().unwrap_or_else(PoisonError::into_inner).get(text) {
        return Ok(known);
    }
    // Checked before it is kept: what is refused is dropped again.
    let (schema, aliased) = parse_any(text)?;
    let mut all = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = all.get(text) {
        return Ok(known);
    }
    if all.len() >= SCHEMAS_MAX {
        return Err(SchemaError::TooMany { schema: full_name(&schema) });
    }
    let kept: &'static str = Box::leak(text.into());
    let known = prepare(kept, Box::leak(Box::new(schema)), aliased)?;
    let known: &'static Known = Box::leak(Box::new(known));
    all.insert(kept, known);
    Ok(known)
}

/// The same of a stranger, who may write anything into it: only what reading his bodies takes is parsed, and kept.
pub(crate) fn known_stranger(text: &str) -> Result<&'static Known, SchemaError> {
    known_writer(&stranger(text)?)
}

/// What of a stranger's text is parsed.
pub(crate) fn stranger(text: &str) -> Result<String, SchemaError> {
    plain::of_a_writer(text).map_err(|flaw| unusable(text, flaw))
}

/// Parses a text and refuses what readers here could not honour.
pub(crate) fn parse(text: &str) -> Result<Schema, SchemaError> {
    match parse_any(text)? {
        (schema, None) => Ok(schema),
        (_, Some((schema, field))) => Err(SchemaError::Alias { schema, field }),
    }
}

type Parsed = (Schema, Option<(String, String)>);

/// As any schema, whose aliases may be of no matter.
pub(crate) fn parse_any(text: &str) -> Result<Parsed, SchemaError> {
    plain::check(text).map_err(|flaw| unusable(text, flaw))?;
    let schema = Schema::parse_str(text).map_err(|source| unreadable(text, source))?;
    let resolved = ResolvedSchema::new(&schema).map_err(|source| unreadable(text, source))?;
    let aliased = resolved.get_names().values().find_map(|named| {
        let Schema::Record(record) = named else { return None };
        let field = record.fields.iter().find(|field| !field.aliases.is_empty())?;
        Some((record.name.fullname(None), field.name.clone()))
    });
    Ok((schema, aliased))
}

pub(crate) fn prepare<'s>(
    text: &'s str,
    schema: &'s Schema,
    aliased: Option<(String, String)>,
) -> Result<Prepared<'s>, SchemaError> {
    let prepare = || {
        let resolved = ResolvedSchema::new(schema)?;
        let digest = schema.fingerprint::<Rabin>();
        Ok(Prepared {
            text,
            aliased: aliased.clone(),
            schema,
            name: full_name(schema),
            fingerprint: u64::from_le_bytes(
                digest.bytes.try_into().expect("a Rabin fingerprint has 64 bits"),
            ),
            names: resolved.get_names().clone(),
            writer: GenericDatumWriter::builder(schema)
                .resolved_schemata(resolved.clone())
                .human_readable(false)
                .build()?,
            reader: GenericDatumReader::builder(schema)
                .resolved_writer_schemata(resolved)
                .human_readable(false)
                .build()?,
        })
    };
    prepare().map_err(|source| unreadable(text, source))
}

fn full_name(schema: &Schema) -> String {
    schema.name().map_or_else(|| schema.to_string(), |name| name.fullname(None))
}

fn unusable(text: &str, flaw: Flaw) -> SchemaError {
    SchemaError::Unusable { start: start_of(text), why: flaw.to_string() }
}

fn unreadable(text: &str, source: apache_avro::Error) -> SchemaError {
    SchemaError::Unreadable { start: start_of(text), source: Box::new(source) }
}

/// As much of a text as is enough to find it again.
fn start_of(text: &str) -> String {
    const START_CHARS: usize = 80;
    text.chars().take(START_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_those_of_the_specifications_test_set() {
        let fingerprint = |text| known(text).unwrap().fingerprint;
        assert_eq!(fingerprint(r#""null""#), 7_195_948_357_588_979_594);
        assert_eq!(fingerprint(r#""boolean""#), (-6_970_731_678_124_411_036_i64).cast_unsigned());
        assert_eq!(fingerprint(r#""int""#), 8_247_732_601_305_521_295);
    }

    #[test]
    fn a_schema_is_parsed_once() {
        let text = r#"{"type":"record","name":"Once","fields":[]}"#;
        assert!(std::ptr::eq(known(text).unwrap(), known(text).unwrap()));
    }

    #[test]
    fn a_text_that_is_no_schema_is_named_by_its_start() {
        let error = parse("{\"type\":\"recrd\"}").unwrap_err();
        assert!(error.to_string().contains("recrd"), "{error}");
    }

    #[test]
    fn a_schema_at_which_the_library_panics_is_refused_and_named_by_its_start() {
        let with = |property: &str| {
            format!(
                r#"{{"type":"record","name":"Odd","fields":[{{"name":"n","type":"long",{property}}}]}}"#
            )
        };
        let plain = known_writer(&with(r#""unit":"cent""#)).unwrap();
        for odd in [r#""size":"large""#, r#""scale":2.5"#, r#""precision":null"#, r#""items":7"#] {
            let text = with(odd);
            for refused in [known_writer(&text).map(|_| ()), parse(&text).map(|_| ())] {
                let error = refused.unwrap_err();
                assert!(matches!(error, SchemaError::Unusable { .. }), "{text}: {error}");
                assert!(error.to_string().contains(&text[..40]), "{error}");
            }
            // A stranger's bodies are the same with it and without.
            assert_eq!(known_stranger(&text).unwrap().fingerprint, plain.fingerprint);
        }
        let large = r#"{"type":"fixed","name":"Large","size":9223372036854775808}"#;
        assert!(matches!(known_writer(large), Err(SchemaError::Unusable { .. })));
        assert!(matches!(known_stranger(large), Err(SchemaError::Unusable { .. })));
    }

    /// Each record twice within the next one, by default: to a library that looks whether a default fits, a billion values.
    #[test]
    fn what_a_strangers_defaults_stand_for_is_not_asked() {
        let mut text =
            r#"[{"type":"record","name":"R0","fields":[{"name":"n","type":"long","default":0}]}"#
                .to_owned();
        for level in 1..30 {
            let field =
                |name| format!(r#"{{"name":"{name}","type":"R{}","default":{{}}}}"#, level - 1);
            let (one, other) = (field("a"), field("b"));
            text += &format!(r#",{{"type":"record","name":"R{level}","fields":[{one},{other}]}}"#);
        }
        known_stranger(&(text + "]")).unwrap();
    }

    #[test]
    fn a_field_renamed_by_alias_is_refused() {
        let error = parse(
            r#"{"type":"record","name":"Renamed","fields":[{"name":"b","type":"long","aliases":["a"]}]}"#,
        )
        .unwrap_err();
        assert!(matches!(error, SchemaError::Alias { field, .. } if field == "b"));
    }
}
