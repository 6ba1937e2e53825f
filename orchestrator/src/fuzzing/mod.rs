//! Bytes from outside, as a fuzzer thinks of them: one function for each door by which they come in.
//!
//! ```text
//! fuzz/fuzz_targets/NAME ─► fuzzing::NAME(bytes) ─► the real decoders, each with what must be true of it
//! orchestrator/tests/fuzz_corpus ─┘             (`fuzzed` in the rooms that have them)
//! ```
//!
//! Each takes any bytes and panics only where a promise is broken: what can be read is written again as the same value, what can't is refused
//! with a reason, and nothing overflows, hangs, or takes more memory than its bounds. It says whether the bytes were taken, so that a corpus
//! is known to reach what lies behind the first check. Behind the feature `fuzzing`, for `fuzz/` and for the test that replays its corpus.

mod at_rest;
mod bodies;
mod material;
mod messages;
mod pieces;
mod samples;
mod settings;

pub use at_rest::{journal, store};
pub use bodies::{avro, json_body, schema};
pub use material::material;
pub use messages::envelope;
pub use settings::{config, control, graph};

/// A door, and what is done with bytes that come in by it; `true` where they were taken.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// All of them, by the names of their corpora.
pub const TARGETS: [Target; 9] = [
    ("avro", avro),
    ("config", config),
    ("control", control),
    ("envelope", envelope),
    ("graph", graph),
    ("journal", journal),
    ("json_body", json_body),
    ("schema", schema),
    ("store", store),
];
