//! The simulated brokers keep what every connector promises, and break what they are told to break.

mod bench;
mod promises;
mod repeats;
