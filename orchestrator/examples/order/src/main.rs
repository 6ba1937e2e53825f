//! The `order` binary: the demo, the services and the customers of the example.

use clap::Parser;
use order::demo::{self, DemoError, Verb};
use std::{io::Write, process::ExitCode};
use tracing_subscriber::EnvFilter;

/// Orders and trips, orchestrated.
#[derive(Debug, Parser)]
#[command(name = "order", version)]
struct Order {
    #[command(subcommand)]
    verb: Verb,
}

#[tokio::main]
async fn main() -> ExitCode {
    let order = Order::parse();
    // What a demo has to say it says at its end; chaos makes many warnings, and lapin calls an orderly end an error.
    let quiet = EnvFilter::new("error,lapin=off");
    let filter = EnvFilter::try_from_default_env().unwrap_or(quiet);
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match carry_out(order.verb).await {
        Ok(code) => code,
        Err(error) => {
            tracing::debug!(?error, "The verb failed.");
            say(&mut std::io::stderr(), &format!("error: {}", dirigent::describe(&error)));
            ExitCode::FAILURE
        }
    }
}

async fn carry_out(verb: Verb) -> Result<ExitCode, DemoError> {
    match verb {
        Verb::Demo(args) => {
            let report = demo::demo(&args).await?;
            let text = if args.json {
                serde_json::to_string(&report).expect("a report is numbers and flags")
            } else {
                report.to_string()
            };
            say(&mut std::io::stdout(), &text);
            Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Verb::Participants(args) => {
            let stop = async {
                // Where signals can't be listened to, the process ends by them.
                if tokio::signal::ctrl_c().await.is_err() {
                    std::future::pending().await
                }
            };
            demo::participants(&args, stop).await.map(|()| ExitCode::SUCCESS)
        }
        Verb::Publish(args) => demo::publish(&args).await.map(|()| ExitCode::SUCCESS),
    }
}

/// A reader that has gone away is no error of ours.
fn say(to: &mut dyn Write, text: &str) {
    writeln!(to, "{text}").unwrap_or_default();
}
