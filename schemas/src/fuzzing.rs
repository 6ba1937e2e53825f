//! Schemas and bodies of strangers, as a fuzzer thinks of them.
//!
//! A registry may serve any text as a schema, and a body may be any bytes. Each function does what is done with them and asserts what must be
//! true of it. Nothing is kept of a schema that is tried here: a process keeps those it meets for ever.

use crate::{
    Bodies, SchemaError,
    bodies::resolve,
    compatibility::readable,
    ids::Ids,
    known::{known, known_writer, parse_any, prepare, stranger},
    measure::measure,
};
use std::sync::Arc;

/// How far a stranger's schema and a datum written with it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Got {
    /// The text is no schema.
    NoSchema,
    /// It is one, and the bytes are not of it.
    Schema,
    /// They are, and can't be read as the reader's.
    Datum,
    /// They are read.
    Read,
}

/// Reads and writes bodies in the framing of a registry that has these schemas under these ids; the first one is that of what is written.
///
/// # Errors
/// One of them is no schema.
pub fn with_registry(schemas: &[(u32, &'static str)]) -> Result<Bodies, SchemaError> {
    let ids = Ids::default();
    for (id, text) in schemas {
        let put = match id == &schemas[0].0 {
            true => ids.put_own(*id, known(text)?),
            false => ids.put(*id, known_writer(text)?),
        };
        put.expect("each id is named once");
    }
    Ok(Bodies::with_ids(Arc::new(ids)))
}

/// Does with a schema what is done with one that a registry serves, and with a datum what is done with a body that was written with it;
/// `own` is the schema of the message that is read.
///
/// # Panics
/// What must be true is not.
pub fn foreign(text: &str, own: &str, datum: &[u8]) -> Got {
    let own = known(own).expect("our own schema can be read");
    // As it is read where it is the latest version of a message of ours, and has to fit.
    let whole = parse_any(text);
    if let Ok((schema, _)) = &whole {
        let _ = (readable(own.schema, schema), readable(schema, own.schema));
    }
    // As it is read where a message was written with it.
    let Ok(plain) = stranger(text) else { return Got::NoSchema };
    let Ok((schema, aliased)) = parse_any(&plain) else { return Got::NoSchema };
    let Ok(writer) = prepare(&plain, &schema, aliased) else { return Got::NoSchema };
    if let Ok((schema, aliased)) = whole {
        let whole = prepare(text, &schema, aliased).expect("a part of it can be used");
        assert_eq!(
            whole.fingerprint, writer.fingerprint,
            "what is left out is no part of its canonical form"
        );
    }
    if measure(writer.schema, &writer.names, datum).is_err() {
        return Got::Schema;
    }
    let Ok(resolution) = resolve(&writer, own) else { return Got::Datum };
    let mut left = datum;
    match resolution.read_value(&mut left) {
        Ok(_) => {
            assert!(left.is_empty(), "what was measured is read to its end");
            Got::Read
        }
        Err(_) => Got::Datum,
    }
}
