//! `bench`: what the engine does in a second, beside what the disk and the broker under it could do; and all else that has a figure.

use clap::{Parser, Subcommand};
use integration_tests::bench::{
    Error, brokers, check, engine, latency, measured, model, page, report, scale, soak,
    stage::Which,
};
use serde_json::Value;
use std::{process::ExitCode, time::Instant};

// Messages are made on one thread and dropped on another all the time, which the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures Dirigent. Each figure stands beside its own limit, taken in turns with it in the same run.
#[derive(Parser)]
#[command(name = "bench", version)]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// One JSON object instead of lines.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum What {
    /// Durable saga events per second on the memory broker; beside it, the same bytes appended and synced.
    Engine(engine::Settings),
    /// Saga events per second through Kafka; beside it, a loop that consumes and produces the same and remembers nothing.
    Kafka(brokers::Settings),
    /// The same through RabbitMQ.
    Rabbitmq(brokers::Settings),
    /// From when an order was due to its first command, at parts of what the engine can do; beside it, the bare loop's.
    Latency(latency::Settings),
    /// Throughput, latency, memory and disk with thousands and with millions of live instances at rest.
    Scale(scale::Settings),
    /// From the start of a process to its first settled input, after `kill -9`.
    Open(scale::OpenSettings),
    /// A load for long: what should stay flat.
    Soak(soak::Settings),
    /// States per second of the explorer.
    Check(check::Settings),
    /// Nanoseconds, instructions and allocations of a transition.
    Model(model::Settings),
    /// All of it, written as a page.
    All(page::Settings),
    /// The process that `scale` and `open` measure; speaks with them.
    #[command(hide = true)]
    Measured(measured::Settings),
}

#[tokio::main]
async fn main() -> ExitCode {
    let begun = Instant::now();
    let Arguments { what, json } = Arguments::parse();
    match figures(what, begun).await {
        Ok(Some(figures)) => {
            report(&figures, json);
            ExitCode::SUCCESS
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", dirigent::describe(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn figures(what: What, begun: Instant) -> Result<Option<Value>, Error> {
    let figures = match what {
        What::Engine(settings) => Box::pin(engine::run(&settings)).await,
        What::Kafka(settings) => Box::pin(brokers::run(Which::Kafka, &settings)).await,
        What::Rabbitmq(settings) => Box::pin(brokers::run(Which::Rabbitmq, &settings)).await,
        What::Latency(settings) => Box::pin(latency::run(&settings)).await,
        What::Scale(settings) => Box::pin(scale::run(&settings)).await,
        What::Open(settings) => Box::pin(scale::open(&settings)).await,
        What::Soak(settings) => Box::pin(soak::run(&settings)).await,
        What::Check(settings) => Box::pin(check::run(&settings)).await,
        What::Model(settings) => Box::pin(model::run(&settings)).await,
        What::All(settings) => page::run(&settings),
        What::Measured(settings) => {
            Box::pin(measured::run(&settings, begun)).await?;
            return Ok(None);
        }
    };
    figures.map(Some)
}
