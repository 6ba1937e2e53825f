//! `bench`: what the engine does in a second, beside what the disk under it could do.

use clap::{Parser, Subcommand};
use integration_tests::bench::{engine, report};
use std::process::ExitCode;

// Messages are made on one thread and dropped on another all the time, which the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures Dirigent. Each figure stands beside its own limit, taken in the same run.
#[derive(Parser)]
#[command(name = "bench", version)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Durable saga events per second on the memory broker; beside it, the same bytes appended and synced.
    Engine(engine::Settings),
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { what } = Arguments::parse();
    let outcome = match what {
        What::Engine(settings) => {
            engine::run(&settings).await.map(|figures| report(&figures, settings.json))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", dirigent::describe(&*error));
            ExitCode::FAILURE
        }
    }
}
