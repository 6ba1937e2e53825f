//! The simulated brokers keep what every connector promises, and break what they are told to break.

mod bench;
mod owning;
mod promises;
mod properties;
mod repeats;
mod speed;
mod troubles;
