//! How messages read in a test: `Name field=value`, nested fields as `address.city=Ghent`, lists as `items=[sku=1 sku=2]`.

use crate::{
    decision::Effect,
    instance::Leg,
    message::{Body, Codec, CodecError, Format, StatusQuery},
};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// Writes and reads every format as JSON: a test needs no schemas, and what is said can be read.
pub(super) struct Legible;

impl Codec for Legible {
    fn encode(
        &self,
        name: &'static str,
        _schema: Option<&'static str>,
        format: Format,
        value: &dyn erased_serde::Serialize,
    ) -> Result<Vec<u8>, CodecError> {
        serde_json::to_vec(value).map_err(|error| CodecError::new(name, format, error))
    }

    fn decode(
        &self,
        name: &'static str,
        _schema: Option<&'static str>,
        body: &Body,
        read: &mut dyn FnMut(
            &mut dyn erased_serde::Deserializer<'_>,
        ) -> Result<(), erased_serde::Error>,
    ) -> Result<(), CodecError> {
        let mut json = serde_json::Deserializer::from_slice(&body.bytes);
        read(&mut <dyn erased_serde::Deserializer<'_>>::erase(&mut json))
            .map_err(|error| CodecError::new(name, body.format, error))
    }
}

/// What an effect says.
pub(super) fn saying(effect: &Effect) -> String {
    match effect {
        Effect::Command(command) => {
            let verb = match command.leg {
                Leg::Do => "",
                Leg::Compensate => "compensate ",
                Leg::Status => "status ",
            };
            // A question is told by what it asks about.
            let query = (command.leg == Leg::Status)
                .then(|| serde_json::from_slice::<StatusQuery>(&command.body.bytes).ok())
                .flatten();
            let said = match query {
                Some(query) => query.command,
                None => format!("{}{}", command.name, fields(&command.body)),
            };
            let attempt = match command.attempt {
                1 => String::new(),
                attempt => format!(" (attempt {attempt})"),
            };
            format!("{verb}{said}{attempt}")
        }
        Effect::Publish { name, body, .. } => format!("publish {name}{}", fields(body)),
    }
}

/// Whether what was said is what was expected: the same message, and every word that was expected.
pub(super) fn fits(expected: &str, said: &str) -> bool {
    let head = |text: &str| {
        let words =
            if ["compensate ", "publish ", "status "].iter().any(|verb| text.starts_with(verb)) {
                2
            } else {
                1
            };
        let head = text.split_whitespace().take(words).map(String::from).collect::<Vec<_>>();
        let rest = text.split_whitespace().skip(words).map(String::from).collect::<Vec<_>>();
        (head, rest)
    };
    let ((expected_head, expected_words), (said_head, mut said_words)) =
        (head(expected), head(said));
    let is_said = |word: &String| {
        let at = said_words.iter().position(|said| said == word);
        at.map(|at| said_words.remove(at)).is_some()
    };
    expected_head == said_head && expected_words.iter().all(is_said)
}

/// The fields of a body, each after a blank.
pub(super) fn fields(body: &Body) -> String {
    match serde_json::from_slice::<Tree>(&body.bytes) {
        Ok(tree) => {
            let mut text = String::new();
            tree.write("", &mut text);
            text
        }
        Err(_) => format!(" ({} bytes)", body.bytes.len()),
    }
}

/// JSON with its fields in their order.
enum Tree {
    Leaf(String),
    List(Vec<Tree>),
    Fields(Vec<(String, Tree)>),
}

impl Tree {
    fn write(&self, path: &str, into: &mut String) {
        match self {
            Self::Leaf(text) if path.is_empty() => into.push_str(&format!(" {text}")),
            Self::Leaf(text) => into.push_str(&format!(" {path}={text}")),
            Self::List(items) => {
                let mut inner = String::new();
                items.iter().for_each(|item| item.write("", &mut inner));
                let equals = if path.is_empty() { "" } else { "=" };
                into.push_str(&format!(" {path}{equals}[{}]", inner.trim_start()));
            }
            Self::Fields(fields) => {
                for (name, tree) in fields {
                    let path =
                        if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    tree.write(&path, into);
                }
            }
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<T: Deserializer<'de>>(from: T) -> Result<Self, T::Error> {
        from.deserialize_any(Grow)
    }
}

struct Grow;

impl<'de> Visitor<'de> for Grow {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf("none".into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = from.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Tree, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = from.next_entry()? {
            fields.push(field);
        }
        Ok(Tree::Fields(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Body {
        Body { format: Format::Json, bytes: text.as_bytes().to_vec() }
    }

    #[test]
    fn fields_read_in_their_order_with_nested_ones_by_their_path() {
        let body = json(
            r#"{"order":80,"address":{"city":"Ghent","box":null},"items":[{"sku":1},{"sku":2}]}"#,
        );
        assert_eq!(
            fields(&body),
            " order=80 address.city=Ghent address.box=none items=[sku=1 sku=2]"
        );
        assert_eq!(
            fields(&json(r#"{"change":-3,"rate":0.5,"open":true}"#)),
            " change=-3 rate=0.5 open=true"
        );
        assert_eq!(fields(&json("{}")), "");
        assert_eq!(fields(&json("null")), " none");
        assert_eq!(fields(&json("{")), " (1 bytes)");
    }

    #[test]
    fn an_expectation_names_the_message_and_the_fields_that_matter() {
        let said = "compensate ReleaseStock order=80 reservation=3";
        assert!(fits("compensate ReleaseStock reservation=3", said));
        assert!(fits("compensate ReleaseStock", said));
        assert!(!fits("compensate ReleaseStock reservation=4", said));
        assert!(!fits("ReleaseStock reservation=3", said));
        assert!(!fits("compensate ReleaseStock reservation=3 reservation=3", said));
    }
}
