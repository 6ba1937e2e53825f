//! A saga orchestrator for services that talk through Kafka and RabbitMQ.
//!
//! The path of a message, each word a room:
//!
//! broker ─► [`source`](dirigent_connectors::Source) ─► `intake` ─► shard ([`engine`]) ─►
//! [`transition`](dirigent_model::transition) ─► [`journal`] ─► `relay` ─► [`sink`](dirigent_connectors::Sink) ─► broker
//!
//! An input is settled only after its group is durable in the journal; a command leaves only after that.
//!
//! One dependency is enough: [`model`] is what sagas and messages are declared with, [`connectors`] are the brokers, [`schemas`] the bodies in
//! Avro. [`Orchestrator`] runs sagas, [`participant`] carries out their commands, [`Publisher`] says what happened, [`cli()`] makes a program
//! of it. `examples/tickets.rs` has all of them in one file.

// Tests in here share what those from outside stand on.
#[cfg(test)]
extern crate self as dirigent;

pub mod cli;
pub mod config;
pub mod conformance;
pub mod destinations;
pub mod engine;
pub mod envelope;
pub mod fsck;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod journal;
pub mod participant;
pub mod publisher;
pub mod registry;
pub mod store;
pub mod telemetry;

mod api;
mod control;
mod http;
mod intake;
#[cfg(test)]
mod kept_forms;
mod meters;
#[doc(hidden)]
pub mod planted;
mod relay;
#[cfg(feature = "simulation")]
pub mod simulation;

pub use api::{
    BODY_BYTES_MAX, IntoPlan, Orchestrator, OrchestratorBuilder, StartError, UNSETTLED_MAX,
};
pub use cli::cli;
pub use publisher::{PublishError, Publisher};

// So that one dependency is enough for whoever declares and runs sagas.
pub use {dirigent_connectors as connectors, dirigent_model as model, dirigent_schemas as schemas};

/// Does what may block where it may: on a thread for it, or here while a simulation has only one.
async fn may_block<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    #[cfg(feature = "simulation")]
    if simulation::is_running() {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down: as in a crash, nothing follows.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Whether an application, or a publisher, may have this name: it stands in the names of channels and in ids of messages.
fn is_app_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    (1..=64).contains(&name.len()) && name.chars().all(allowed)
}

/// An error with all its causes, in one line.
pub fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
