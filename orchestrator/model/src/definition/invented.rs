//! Answers that are made up from their type alone, for participants that nobody wrote: numbers are 1, texts are empty, lists too, what may be missing
//! is missing, and of several variants it is the first.
//!
//! What goes in: a message type. What comes out: its body, or why none can be made up. What must be true: whoever wrote the type could have made that
//! value, since it was read by the type's own `Deserialize`.

use crate::message::{Body, Codec, CodecError, Format, Message};
use serde::{
    Deserializer,
    de::{
        DeserializeSeed, EnumAccess, Error as _, MapAccess, SeqAccess, VariantAccess, Visitor,
        value::{Error, StrDeserializer, UnitDeserializer},
    },
    forward_to_deserialize_any,
};

/// What is tried for texts, in this order: types often take a text for something else.
const TEXTS: [&str; 5] =
    ["", "1", "00000000-0000-4000-8000-000000000001", "2026-01-01", "2026-01-01T00:00:00Z"];

/// How deep values may lie within each other. A type that holds itself for certain has no value at all.
const DEPTH_MAX: u32 = 32;

/// Makes the body of an answer.
pub(crate) type InventAct = fn(Format, &dyn Codec) -> Result<Body, CodecError>;

/// A body of this message.
pub(crate) fn invented<M: Message>(format: Format, codec: &dyn Codec) -> Result<Body, CodecError> {
    let mut refused = None;
    for text in TEXTS {
        match M::deserialize(Inventor { text, depth: 0 }) {
            Ok(message) => return Body::write(&message, format, codec),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    let why = refused.map_or_else(String::new, |error| error.to_string());
    Err(CodecError::new(M::NAME, format, format!("no value of it can be made up: {why}")))
}

/// Gives each type what it asks for.
#[derive(Clone, Copy)]
struct Inventor {
    text: &'static str,
    depth: u32,
}

impl Inventor {
    fn inside(self) -> Result<Self, Error> {
        if self.depth == DEPTH_MAX {
            return Err(Error::custom("it holds itself without end"));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

macro_rules! gives {
    ($($method:ident => $visit:ident($($value:expr)?),)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.$visit($($value)?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Inventor {
    type Error = Error;

    gives! {
        deserialize_bool => visit_bool(false),
        deserialize_i8 => visit_i8(1),
        deserialize_i16 => visit_i16(1),
        deserialize_i32 => visit_i32(1),
        deserialize_i64 => visit_i64(1),
        deserialize_i128 => visit_i128(1),
        deserialize_u8 => visit_u8(1),
        deserialize_u16 => visit_u16(1),
        deserialize_u32 => visit_u32(1),
        deserialize_u64 => visit_u64(1),
        deserialize_u128 => visit_u128(1),
        deserialize_f32 => visit_f32(1.0),
        deserialize_f64 => visit_f64(1.0),
        deserialize_char => visit_char('x'),
        deserialize_bytes => visit_bytes(&[]),
        deserialize_byte_buf => visit_bytes(&[]),
        deserialize_any => visit_unit(),
    }

    forward_to_deserialize_any! { unit ignored_any }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str(self.text)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str(self.text)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str(self.text)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_none()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self.inside()?)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Several { inventor: self, left: 0, names: &[] })
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_seq(Several { inventor: self.inside()?, left: length, names: &[] })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Several { inventor: self, left: 0, names: &[] })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_map(Several { inventor: self.inside()?, left: 0, names })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match variants.first() {
            Some(first) => visitor.visit_enum(Variant { inventor: self.inside()?, first }),
            None => Err(Error::custom(format!("`{name}` has no value"))),
        }
    }
}

/// Values in a row, or those of named fields.
struct Several {
    inventor: Inventor,
    left: usize,
    names: &'static [&'static str],
}

impl<'de> SeqAccess<'de> for Several {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        seed.deserialize(self.inventor).map(Some)
    }
}

impl<'de> MapAccess<'de> for Several {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let Some((name, rest)) = self.names.split_first() else { return Ok(None) };
        self.names = rest;
        seed.deserialize(StrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(self.inventor)
    }
}

struct Variant {
    inventor: Inventor,
    first: &'static str,
}

impl<'de> EnumAccess<'de> for Variant {
    type Error = Error;
    type Variant = Inventor;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Inventor), Error> {
        let variant = seed.deserialize(StrDeserializer::new(self.first))?;
        Ok((variant, self.inventor))
    }
}

impl<'de> VariantAccess<'de> for Inventor {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        serde::Deserialize::deserialize(UnitDeserializer::new())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_tuple(length, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_map(Several { inventor: self.inside()?, left: 0, names })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{JsonOnly, Never};
    use serde::{Deserialize, Serialize};
    use uuid::Uuid;

    #[derive(Serialize, Deserialize)]
    struct Quoted {
        price: f64,
        pieces: (u8, i64),
        note: Option<String>,
        lines: Vec<Line>,
        way: Way,
        #[serde(rename = "byWhom")]
        by: By,
    }

    #[derive(Serialize, Deserialize)]
    struct By(String);

    #[derive(Serialize, Deserialize)]
    struct Line {}

    #[derive(Serialize, Deserialize)]
    enum Way {
        Sea { days: u16 },
        Air,
    }

    #[derive(Serialize, Deserialize)]
    struct Named {
        id: Uuid,
    }

    #[derive(Serialize, Deserialize)]
    struct Endless {
        inside: Box<Endless>,
    }

    macro_rules! messages {
        ($($name:ident)*) => {$(impl Message for $name {
            const NAME: &'static str = stringify!($name);
        })*};
    }
    messages! { Quoted Named Endless }

    fn json<M: Message>() -> Result<String, String> {
        let body = invented::<M>(Format::Json, &JsonOnly).map_err(|error| error.to_string())?;
        Ok(String::from_utf8(body.bytes).unwrap())
    }

    #[test]
    fn an_answer_is_made_up_from_its_type() {
        assert_eq!(
            json::<Quoted>().unwrap(),
            r#"{"price":1.0,"pieces":[1,1],"note":null,"lines":[],"way":{"Sea":{"days":1}},"byWhom":""}"#
        );
        assert!(json::<Named>().unwrap().contains("4000"));
    }

    #[test]
    fn what_has_no_value_is_told() {
        assert!(json::<Never>().unwrap_err().contains("`Never` has no value"));
        assert!(json::<Endless>().unwrap_err().contains("without end"));
    }
}
