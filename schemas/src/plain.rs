//! A schema's text before the library parses it: the library panics at some texts, and takes much time or memory for others.
//!
//! Called by [`known`](super::known). In go texts, those of a registry too, which may serve any; out come texts that the library parses, or what
//! is wrong with them. It makes a canonical form of whatever it parsed and takes each property there for one of Avro's if it has the name of one,
//! so a field with a `scale` of its own ends the process, and would again, with the same message, after each restart.

use serde_json::{Map, Value};

/// Why a text is refused before the library sees it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flaw {
    #[error(
        "`{property}` is {value}, and Avro's is a whole number below 2^63; a property of one's own needs a name that Avro does not have"
    )]
    Number { property: String, value: String },
    #[error(
        "`{property}` is {value}, and Avro's is a text, a type or a list of them; a property of one's own needs a name that Avro does not have"
    )]
    Type { property: String, value: String },
    #[error("a list of types, fields or symbols has {value} in it")]
    Listed { value: String },
    #[error("a `{kind}` has no `{property}`, or one that makes no sense")]
    Bare { kind: &'static str, property: &'static str },
}

/// Properties that are whole numbers, wherever the library finds them.
const NUMBERS: [&str; 3] = ["size", "precision", "scale"];

/// Properties whose values it takes for texts, types, or lists of them.
const TYPES: [&str; 7] = ["name", "type", "fields", "symbols", "items", "values", "order"];

/// Others that say how a datum is read.
const KEPT: [&str; 2] = ["namespace", "logicalType"];

/// What each kind of type with a name must say; without it the library takes the kind for a name, and copies the type that has it.
const SAID: [(&str, &str); 3] = [("record", "fields"), ("enum", "symbols"), ("fixed", "size")];

/// Refuses a text at which the library panics. One that is no JSON is left to the library, which says where.
pub(crate) fn check(text: &str) -> Result<(), Flaw> {
    match serde_json::from_str(text) {
        Ok(mut schema) => walk(&mut schema, Odd::Refused),
        Err(_) => Ok(()),
    }
}

/// A text with no more in it than is needed to read what was written with it, and as such of the same canonical form: neither what only its
/// readers need, as defaults, nor what is for people. Defaults can stand for any number of values, and aliases for any number of copies.
pub(crate) fn of_a_writer(text: &str) -> Result<String, Flaw> {
    let Ok(mut schema) = serde_json::from_str::<Value>(text) else { return Ok(text.to_owned()) };
    walk(&mut schema, Odd::LeftOut)?;
    Ok(schema.to_string())
}

/// What becomes of a property that has a name of Avro's and no value of Avro's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Odd {
    Refused,
    /// With all that is not needed.
    LeftOut,
}

fn walk(schema: &mut Value, odd: Odd) -> Result<(), Flaw> {
    match schema {
        Value::Object(properties) => of_object(properties, odd),
        Value::Array(all) => all.iter_mut().try_for_each(|one| match is_type(one) {
            true => walk(one, odd),
            false => Err(Flaw::Listed { value: shown(one) }),
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

fn of_object(properties: &mut Map<String, Value>, odd: Odd) -> Result<(), Flaw> {
    let mut checked = Ok(());
    properties.retain(|property, value| {
        let (name, found) = (property.as_str(), || (property.clone(), shown(value)));
        let wrong = if NUMBERS.contains(&name) && !is_whole(value) {
            let (property, value) = found();
            Some(Flaw::Number { property, value })
        } else if TYPES.contains(&name) && !is_type(value) {
            let (property, value) = found();
            Some(Flaw::Type { property, value })
        } else {
            None
        };
        let goes_in = TYPES.contains(&name);
        let is_known = goes_in || NUMBERS.contains(&name) || KEPT.contains(&name);
        let is_right = wrong.is_none();
        if checked.is_ok() {
            checked = match wrong {
                Some(flaw) if odd == Odd::Refused => Err(flaw),
                None if goes_in => walk(value, odd),
                _ => Ok(()),
            };
        }
        is_known && is_right
    });
    checked?;
    let kind = properties.get("type").and_then(Value::as_str);
    let is_bare =
        |(bare, said): &(&str, &str)| kind == Some(*bare) && !properties.contains_key(*said);
    match SAID.into_iter().find(is_bare) {
        Some((kind, property)) => Err(Flaw::Bare { kind, property }),
        None => Ok(()),
    }
}

/// As the library reads it: a number, or the text of one.
fn is_whole(value: &Value) -> bool {
    match value {
        Value::String(text) => text.parse::<i64>().is_ok(),
        _ => value.as_i64().is_some(),
    }
}

fn is_type(value: &Value) -> bool {
    value.is_string() || value.is_array() || value.is_object()
}

/// A value for people, as much of it as is enough to find it.
fn shown(value: &Value) -> String {
    const SHOWN_CHARS: usize = 40;
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(properties: &str) -> String {
        format!(
            r#"{{"type":"record","name":"Odd","fields":[{{"name":"n","type":"long",{properties}}}]}}"#
        )
    }

    #[test]
    fn of_a_writers_schema_only_what_its_bytes_need_is_left() {
        let text = r#"{"type":"record","name":"a.B","aliases":["C"],"doc":"…","by":7,"fields":[
            {"name":"n","type":["null",{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}],"default":null,"order":"ignore"},
            {"name":"e","type":{"type":"enum","name":"E","namespace":"x","symbols":["A","B"],"default":"A"},"scale":2.5,"items":7}]}"#;
        let kept = r#"{"type":"record","name":"a.B","fields":[
            {"name":"n","type":["null",{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}],"order":"ignore"},
            {"name":"e","type":{"type":"enum","name":"E","namespace":"x","symbols":["A","B"]}}]}"#;
        let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(json(&of_a_writer(text).unwrap()), json(kept));
        assert_eq!(of_a_writer("no schema").as_deref(), Ok("no schema"));
    }

    #[test]
    fn a_property_that_has_a_name_of_avros_and_no_value_of_avros_is_named() {
        for (odd, said) in [
            (r#""scale":2.5"#, "`scale` is 2.5"),
            (r#""size":"large""#, "`size` is \"large\""),
            (r#""precision":null"#, "`precision` is null"),
            (r#""items":7"#, "`items` is 7"),
            (r#""order":{"name":true}"#, "`name` is true"),
            (r#""symbols":[1]"#, "a list of types, fields or symbols has 1 in it"),
        ] {
            let flaw = check(&field(odd)).unwrap_err().to_string();
            assert!(flaw.starts_with(said), "{flaw}");
        }
        check(&field(r#""scale":"2","precision":9,"order":"ignore","unit":2.5"#)).unwrap();
        assert!(of_a_writer(&field(r#""symbols":[1]"#)).is_err(), "it would be another enum");
    }

    #[test]
    fn a_type_that_does_not_say_what_its_kind_must_is_refused() {
        for (bare, kind, property) in [
            (r#"{"type":"record","name":"R"}"#, "record", "fields"),
            (r#"[{"type":"array","items":{"type":"enum"}}]"#, "enum", "symbols"),
            (r#"{"type":{"type":"fixed","name":"F","size":2.5}}"#, "fixed", "size"),
        ] {
            assert_eq!(of_a_writer(bare), Err(Flaw::Bare { kind, property }));
        }
        let large = r#"{"type":"fixed","name":"F","size":9223372036854775808}"#;
        assert!(matches!(check(large), Err(Flaw::Number { .. })));
        assert_eq!(of_a_writer(large), Err(Flaw::Bare { kind: "fixed", property: "size" }));
    }
}
