//! Tests of Dirigent as a whole: what needs several crates, real brokers, or the repository itself.
//!
//! The tests are in `tests/`, the programs in `src/bin/`. `brokers/` is a crate of its own, which finds or starts a real
//! Kafka and RabbitMQ; it knows no other crate of ours, so that the example may use it too.

pub mod bench;
pub mod proxy;
pub mod simulate;
