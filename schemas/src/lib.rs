//! The bodies of messages: Avro beside the JSON that the model brings, and the check before a contract changes.
//!
//! An encoded message is taken apart in this order: [`bodies`] reads the header and finds the writer's
//! schema among the [`known`] ones, whose texts are made [`plain`] before they are parsed, [`measure`] walks the bytes and refuses what is cut short or too
//! large before anything is allocated, and [`handover`] brings the library's deserializer to the type
//! that waits for it. [`compatibility`] says beforehand whether one version can read another.
//!
//! Where there is a schema registry, [`registry`] asks it, beforehand and outside of all this, and fills the [`ids`].
//!
//! The contracts of the examples lie beside the code, one `.avsc` per message and version; see the README.

mod bodies;
mod compatibility;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod handover;
mod ids;
mod known;
mod measure;
mod plain;
pub mod registry;

pub use bodies::{BODY_BYTES_MAX, Bodies};
pub use compatibility::{Incompatible, compatible};
pub use ids::{IDS_MAX, MISSING_FOR, MISSING_MAX};
pub use known::{SCHEMAS_MAX, SchemaError};
pub use measure::{DEPTH_MAX, VALUES_MAX};
