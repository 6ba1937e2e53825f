//! The pure saga: no I/O, no clock, no randomness.
//!
//! ```text
//! definition ─┐
//! instance ───┼─► transition::apply ─► Decision { instance, effects, history line }
//! input, now ─┘
//! ```
//!
//! A [`definition`] is a graph with plain functions by its side. An [`instance`] is one run of it. A
//! [`transition`] takes an instance, one input and the time, and returns the instance as it then is, and what is to be
//! sent once that is durable. [`explore`] drives it through every order of inputs.

pub mod decision;
pub mod definition;
pub mod explore;
#[doc(hidden)]
pub mod generated;
pub mod history;
pub mod instance;
pub mod message;
#[doc(hidden)]
pub mod planted;
pub mod retry;
pub mod scenario;
pub mod time;
pub mod transition;
