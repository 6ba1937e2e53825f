//! Control of a running process: questions and operators' words, through a socket in its data folder.
//!
//! ```text
//! list, show, cancel, … ─► client ─► DIR/control.sock (0600) ─► server ─► engine's handle
//!                            └─ nobody listens: list and show read the folder at rest
//! ```
//!
//! One JSON object per line each way; see [`protocol`]. The lock of the data folder makes sure that one process listens.

mod answer;
mod client;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzed;
mod place;
mod protocol;
mod server;

pub(crate) use client::{AskError, ask};
pub(crate) use protocol::{Action, Answer, Named, Question};
pub(crate) use server::Server;
