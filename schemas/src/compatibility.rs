//! Whether one version of a message can be read by another: asked before a contract changes.

use crate::{
    known::{self, SchemaError},
    registry::Compatibility,
};
use apache_avro::{
    Schema,
    error::CompatibilityError,
    schema_compatibility::{Compatibility as Readable, SchemaCompatibility},
};
use std::{error::Error, fmt::Write};

/// Who can't read what, and why.
pub(crate) type Unfit = (&'static str, Incompatible);

/// Why a reader can't read all that a writer may write.
#[derive(Debug, thiserror::Error)]
pub enum Incompatible {
    /// One of the two is no schema.
    #[error("reading the {side}'s schema")]
    Schema {
        /// `writer` or `reader`.
        side: &'static str,
        /// What is wrong with it.
        #[source]
        source: SchemaError,
    },
    /// No value can be read.
    #[error("what {writer} writes can't be read as {reader}: {reason}")]
    Never {
        /// The full name of the writer's schema.
        writer: String,
        /// The full name of the reader's schema.
        reader: String,
        /// For people.
        reason: String,
    },
    /// Some values can be read, others not.
    #[error(
        "some of what {writer} writes can't be read as {reader}: a symbol of an enum or a branch of a \
         union is missing at the reader; give the enum a default, or add what is missing there first"
    )]
    Sometimes {
        /// The full name of the writer's schema.
        writer: String,
        /// The full name of the reader's schema.
        reader: String,
    },
}

/// Checks that whatever is written with the schema text `writer` can be read with `reader`.
pub fn compatible(writer: &str, reader: &str) -> Result<(), Incompatible> {
    let parse =
        |side, text| known::parse(text).map_err(|source| Incompatible::Schema { side, source });
    let (writer, reader) = (parse("writer", writer)?, parse("reader", reader)?);
    full(&writer, &reader)
}

/// Checks a new version against an old one, as far as the rule asks for it.
pub(crate) fn fits(old: &str, new: &str, rule: Compatibility) -> Result<(), Unfit> {
    if rule.is_backward() {
        compatible_writer(old, new)
            .map_err(|error| ("the new version can't read what the old one wrote", error))?;
    }
    if rule.is_forward() {
        compatible_writer(new, old)
            .map_err(|error| ("whoever still has the old version can't read the new one", error))?;
    }
    Ok(())
}

/// Like [`compatible`], for schemas of others too, whose aliases are of no matter here.
fn compatible_writer(writer: &str, reader: &str) -> Result<(), Incompatible> {
    let parse = |side, text| {
        known::known_writer(text).map_err(|source| Incompatible::Schema { side, source })
    };
    full(parse("writer", writer)?.schema, parse("reader", reader)?.schema)
}

fn full(writer: &Schema, reader: &Schema) -> Result<(), Incompatible> {
    match readable(writer, reader)? {
        Readable::Full => Ok(()),
        Readable::Partial => {
            Err(Incompatible::Sometimes { writer: name(writer), reader: name(reader) })
        }
    }
}

/// How much of what one schema writes can be read with another; an error where nothing can.
pub(crate) fn readable(writer: &Schema, reader: &Schema) -> Result<Readable, Incompatible> {
    SchemaCompatibility::can_read(writer, reader).map_err(|error| Incompatible::Never {
        writer: name(writer),
        reader: name(reader),
        reason: reason(&error),
    })
}

fn name(schema: &Schema) -> String {
    schema.name().map_or_else(|| schema.to_string(), |name| name.fullname(None))
}

/// The library's chain of causes as one sentence, without its exclamations.
fn reason(error: &CompatibilityError) -> String {
    let plain = |text: String| {
        text.trim_start_matches("Incompatible schemata! ")
            .trim_start_matches("Incompatible schema types! ")
            .to_owned()
    };
    let mut text = plain(error.to_string());
    let mut cause = error.source();
    while let Some(deeper) = cause {
        write!(text, ": {}", plain(deeper.to_string())).expect("a string takes all text");
        cause = deeper.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(fields: &str) -> String {
        format!(r#"{{"type":"record","name":"Order","namespace":"test","fields":[{fields}]}}"#)
    }
    const ID: &str = r#"{"name":"id","type":"long"}"#;

    #[test]
    fn a_new_field_needs_a_default() {
        let old = order(ID);
        let with = order(&format!(r#"{ID},{{"name":"note","type":"string","default":""}}"#));
        let without = order(&format!(r#"{ID},{{"name":"note","type":"string"}}"#));
        compatible(&old, &with).unwrap();
        compatible(&with, &old).unwrap();
        let error = compatible(&old, &without).unwrap_err().to_string();
        assert!(error.contains("'note'") && error.contains("default"), "{error}");
    }

    #[test]
    fn a_changed_type_is_named_with_its_field() {
        let text = order(r#"{"name":"id","type":"string"}"#);
        let error = compatible(&order(ID), &text).unwrap_err();
        assert!(matches!(error, Incompatible::Never { .. }));
        assert!(error.to_string().contains("'id'"), "{error}");
        assert!(!error.to_string().contains('!'), "{error}");
    }

    #[test]
    fn a_number_may_grow_but_not_shrink() {
        let int = order(r#"{"name":"id","type":"int"}"#);
        compatible(&int, &order(ID)).unwrap();
        compatible(&order(ID), &int).unwrap_err();
    }

    #[test]
    fn a_symbol_only_the_writer_has_is_incompatible() {
        let colours =
            |symbols| format!(r#"{{"type":"enum","name":"Colour","symbols":[{symbols}]}}"#);
        let (two, three) = (colours(r#""RED","BLUE""#), colours(r#""RED","BLUE","GREEN""#));
        compatible(&two, &three).unwrap();
        assert!(matches!(compatible(&three, &two), Err(Incompatible::Sometimes { .. })));
    }

    #[test]
    fn another_message_is_incompatible_even_with_the_same_fields() {
        let other = order(ID).replace("Order", "Parcel");
        compatible(&order(ID), &other).unwrap_err();
    }
}
