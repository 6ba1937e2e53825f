//! Walks over encoded bytes before they are read, and refuses what is cut short, too deep or too many.
//!
//! Called by [`bodies`](super::bodies) on every body that comes in or goes out. The library allocates
//! what a length in the bytes asks for, descends as deep as they say, and takes the end of the bytes for
//! a null in some places. After this walk none of that can happen: every length lies within the bytes,
//! and exactly all of them are used.

use apache_avro::{
    Schema,
    schema::{InnerDecimalSchema, NamesRef, UuidSchema},
};

/// Values in one body, those without bytes of their own included. Some thousand times what a message
/// of a saga holds; at about 100 bytes each, reading one body takes 7 MB at the most.
pub const VALUES_MAX: usize = 65_536;

/// Records, arrays, maps and unions inside one another. A message has a handful of levels, and a thread's
/// stack has room for this many.
pub const DEPTH_MAX: usize = 32;

/// Why bytes are not what their schema says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misfit {
    #[error("the bytes end within a value: the body was cut short")]
    CutShort,
    #[error("{0} bytes are left over after the message: it was written with another schema")]
    LeftOver(usize),
    #[error("a number is longer than 64 bits, or out of the range of its type")]
    Number,
    #[error("a union, an enum or a boolean has a value that its schema does not know")]
    Choice,
    #[error("more than {VALUES_MAX} values in one body")]
    TooMany,
    #[error("more than {DEPTH_MAX} levels in one body")]
    TooDeep,
    #[error("the schema refers to a type it does not contain")]
    UnknownType,
}

/// Checks that `datum` is one value of `schema` and nothing more. Allocates nothing.
pub(crate) fn measure(schema: &Schema, names: &NamesRef<'_>, datum: &[u8]) -> Result<(), Misfit> {
    let mut walk = Walk { left: datum, names, values: 0 };
    walk.value(schema, 0)?;
    match walk.left.len() {
        0 => Ok(()),
        left => Err(Misfit::LeftOver(left)),
    }
}

struct Walk<'d, 'n> {
    left: &'d [u8],
    names: &'n NamesRef<'n>,
    values: usize,
}

impl Walk<'_, '_> {
    fn value(&mut self, schema: &Schema, depth: usize) -> Result<(), Misfit> {
        if depth > DEPTH_MAX {
            return Err(Misfit::TooDeep);
        }
        self.values += 1;
        if self.values > VALUES_MAX {
            return Err(Misfit::TooMany);
        }
        match schema {
            Schema::Null => Ok(()),
            Schema::Boolean => match self.skip(1)? {
                [0 | 1] => Ok(()),
                _ => Err(Misfit::Choice),
            },
            Schema::Int | Schema::Date | Schema::TimeMillis => {
                i32::try_from(self.long()?).map(drop).map_err(|_| Misfit::Number)
            }
            Schema::Long
            | Schema::TimeMicros
            | Schema::TimestampMillis
            | Schema::TimestampMicros
            | Schema::TimestampNanos
            | Schema::LocalTimestampMillis
            | Schema::LocalTimestampMicros
            | Schema::LocalTimestampNanos => self.long().map(drop),
            Schema::Float => self.skip(4).map(drop),
            Schema::Double => self.skip(8).map(drop),
            Schema::Bytes
            | Schema::String
            | Schema::BigDecimal
            | Schema::Uuid(UuidSchema::Bytes | UuidSchema::String) => self.with_length(),
            Schema::Fixed(fixed)
            | Schema::Duration(fixed)
            | Schema::Uuid(UuidSchema::Fixed(fixed)) => self.skip(fixed.size).map(drop),
            Schema::Decimal(decimal) => match &decimal.inner {
                InnerDecimalSchema::Bytes => self.with_length(),
                InnerDecimalSchema::Fixed(fixed) => self.skip(fixed.size).map(drop),
            },
            Schema::Enum(of) => self.choice(of.symbols.len()).map(drop),
            Schema::Union(of) => {
                let choice = self.choice(of.variants().len())?;
                self.value(&of.variants()[choice], depth + 1)
            }
            Schema::Record(record) => {
                record.fields.iter().try_for_each(|field| self.value(&field.schema, depth + 1))
            }
            Schema::Array(array) => self.blocks(|walk| walk.value(&array.items, depth + 1)),
            Schema::Map(map) => self.blocks(|walk| {
                walk.with_length()?;
                walk.value(&map.types, depth + 1)
            }),
            Schema::Ref { name } => {
                let schema = *self.names.get(name).ok_or(Misfit::UnknownType)?;
                self.value(schema, depth + 1)
            }
        }
    }

    /// The items of an array or a map: blocks, each behind its count, ended by a count of zero.
    fn blocks(&mut self, item: impl Fn(&mut Self) -> Result<(), Misfit>) -> Result<(), Misfit> {
        loop {
            let count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                // A negative count is followed by the length of the block in bytes.
                self.length()?;
            }
            // Before the loop: items without bytes of their own would keep it busy for ever.
            if count.unsigned_abs() > (VALUES_MAX - self.values) as u64 {
                return Err(Misfit::TooMany);
            }
            for _ in 0..count.unsigned_abs() {
                item(self)?;
            }
        }
    }

    fn with_length(&mut self) -> Result<(), Misfit> {
        let length = self.length()?;
        self.skip(length).map(drop)
    }

    fn length(&mut self) -> Result<usize, Misfit> {
        usize::try_from(self.long()?).map_err(|_| Misfit::Number)
    }

    fn choice(&mut self, of: usize) -> Result<usize, Misfit> {
        usize::try_from(self.long()?).ok().filter(|&at| at < of).ok_or(Misfit::Choice)
    }

    /// A zigzag number of at most ten bytes.
    fn long(&mut self) -> Result<i64, Misfit> {
        let mut bits = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = self.skip(1)?[0];
            bits |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok((bits >> 1).cast_signed() ^ -(bits & 1).cast_signed());
            }
        }
        Err(Misfit::Number)
    }

    fn skip(&mut self, bytes: usize) -> Result<&[u8], Misfit> {
        let (skipped, left) = self.left.split_at_checked(bytes).ok_or(Misfit::CutShort)?;
        self.left = left;
        Ok(skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::known::known;

    fn measured(schema: &str, datum: &[u8]) -> Result<(), Misfit> {
        let known = known(schema).unwrap();
        measure(known.schema, &known.names, datum)
    }

    /// Two hundred million nulls in five bytes.
    const BOMB: [u8; 6] = [0x80, 0x88, 0xDE, 0xBE, 0x01, 0x00];

    #[test]
    fn a_few_bytes_cannot_ask_for_millions_of_items() {
        assert_eq!(measured(r#"{"type":"array","items":"null"}"#, &BOMB), Err(Misfit::TooMany));
    }

    #[test]
    fn the_least_count_a_block_can_have_is_no_trap() {
        let mut least = [0xFF; 11];
        least[9] = 0x01;
        least[10] = 0x00;
        assert_eq!(measured(r#"{"type":"array","items":"null"}"#, &least), Err(Misfit::TooMany));
    }

    #[test]
    fn a_string_longer_than_the_body_is_cut_short() {
        assert_eq!(measured(r#""string""#, &BOMB), Err(Misfit::CutShort));
    }

    #[test]
    fn a_type_within_itself_is_refused_beyond_the_depth_bound() {
        let list = r#"{"type":"record","name":"List","namespace":"deep","fields":[{"name":"next","type":["null","List"]}]}"#;
        assert_eq!(measured(list, &[2, 2, 0]), Ok(()));
        assert_eq!(measured(list, &[2; 1_000]), Err(Misfit::TooDeep));
        // Without a byte per level, only the bound ends it.
        let endless = r#"{"type":"record","name":"Endless","fields":[{"name":"a","type":"Endless"},{"name":"b","type":"Endless"}]}"#;
        assert_eq!(measured(endless, &[]), Err(Misfit::TooDeep));
    }

    #[test]
    fn bytes_after_the_value_are_refused() {
        assert_eq!(measured(r#""long""#, &[2]), Ok(()));
        assert_eq!(measured(r#""long""#, &[2, 2]), Err(Misfit::LeftOver(1)));
    }

    #[test]
    fn an_unknown_choice_is_refused() {
        assert_eq!(measured(r#"["null","long"]"#, &[4, 2]), Err(Misfit::Choice));
        assert_eq!(measured(r#""boolean""#, &[2]), Err(Misfit::Choice));
        assert_eq!(measured(r#""int""#, &[0xFE, 0xFF, 0xFF, 0xFF, 0x1F]), Err(Misfit::Number));
    }
}
