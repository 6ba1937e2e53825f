//! The `order` binary: what every process of sagas can do, and the demo, the services and the customers of the example.

use clap::{Parser, Subcommand};
use dirigent::{
    cli::{ConfigVerb, FolderArgs},
    telemetry::{
        Traces,
        logs::{LogFormat, init_logs},
    },
};
use order::{
    demo::{self, Verb},
    order::order_saga,
    trip::trip_saga,
};
use std::{error::Error, io::Write, process::ExitCode, sync::Arc, time::Duration};

/// What the demo, which has its say at its end, logs by itself: chaos makes many warnings, and lapin calls an orderly end an error.
const QUIET: &str = "error,lapin=off";

/// How long the end of a process waits for the collector of traces.
const TRACES_TOLD_WITHIN: Duration = Duration::from_secs(5);

/// Orders and trips: sagas, their services, and customers.
#[derive(Parser)]
#[command(name = "order", version)]
struct Order {
    #[command(subcommand)]
    verb: Any,
}

#[derive(Subcommand)]
enum Any {
    #[command(flatten)]
    Example(Box<Verb>),
    #[command(flatten)]
    Sagas(Box<dirigent::cli::Verb>),
}

#[tokio::main]
async fn main() -> ExitCode {
    let ended = match Order::parse().verb {
        Any::Example(verb) => Box::pin(carry_out(*verb)).await,
        Any::Sagas(mut verb) => {
            if let Some(folder) = folder_of(&mut verb) {
                folder.data = folder.data.take().map(demo::sagas_of);
            }
            let found = match &mut *verb {
                dirigent::cli::Verb::Run(args) => demo::look_for_run(&mut args.settings).await,
                dirigent::cli::Verb::Config(ConfigVerb::Show(args)) => {
                    demo::tell_of_looking(&mut args.settings);
                    Ok(None)
                }
                _ => Ok(None),
            };
            // Held as long as it is used.
            let _broker = match found {
                Ok(broker) => broker,
                Err(error) => return failed(&error),
            };
            let cli = dirigent::cli("order").saga(order_saga()).saga(trip_saga());
            return Box::pin(cli.execute(*verb)).await;
        }
    };
    ended.unwrap_or_else(|error| failed(&*error))
}

fn failed(error: &(dyn Error + 'static)) -> ExitCode {
    say(&mut std::io::stderr(), &format!("error: {}", dirigent::describe(error)));
    ExitCode::FAILURE
}

/// The folder that a verb about instances reads.
fn folder_of(verb: &mut dirigent::cli::Verb) -> Option<&mut FolderArgs> {
    use dirigent::cli::{ParkedVerb, PauseVerb, QuarantineVerb, ResumeVerb, Verb};
    match verb {
        Verb::List(args) => Some(&mut args.folder),
        Verb::Status(args) => Some(&mut args.folder),
        Verb::Show(args) => Some(&mut args.instance.folder),
        Verb::Cancel(args) | Verb::Kill(args) => Some(&mut args.instance.folder),
        Verb::Retry(args) | Verb::Resolve(args) => Some(&mut args.folder),
        Verb::Destinations(args) => Some(&mut args.folder),
        Verb::Pause(PauseVerb::Destination(args)) | Verb::Resume(ResumeVerb::Destination(args)) => {
            Some(&mut args.folder)
        }
        Verb::Quarantine(QuarantineVerb::List(args)) | Verb::Parked(ParkedVerb::List(args)) => {
            Some(&mut args.folder)
        }
        Verb::Quarantine(QuarantineVerb::Show(args)) | Verb::Parked(ParkedVerb::Show(args)) => {
            Some(&mut args.folder)
        }
        Verb::Quarantine(QuarantineVerb::Replay(args)) => Some(&mut args.folder),
        Verb::Quarantine(QuarantineVerb::Discard(args)) => Some(&mut args.folder),
        Verb::Audit(args) => Some(&mut args.folder),
        Verb::Fsck(args) => Some(&mut args.folder),
        Verb::Run(_) | Verb::Check(_) | Verb::Graph(_) | Verb::Config(_) => None,
    }
}

async fn carry_out(verb: Verb) -> Result<ExitCode, Box<dyn Error>> {
    match verb {
        Verb::Demo(args) => {
            init_logs(LogFormat::Text, Some(QUIET))?;
            let traces = Arc::new(Traces::from_env("order")?);
            let report = demo::demo(&args, &traces).await?;
            told(traces).await?;
            let text = if args.json { serde_json::to_string(&report)? } else { report.to_string() };
            say(&mut std::io::stdout(), &text);
            Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Verb::Participants(args) => {
            init_logs(LogFormat::Text, None)?;
            let traces = Arc::new(Traces::from_env("order-services")?);
            demo::participants(&args, told_to_stop()?, &traces).await?;
            told(traces).await?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Publish(args) => {
            init_logs(LogFormat::Text, Some(QUIET))?;
            demo::publish(&args).await?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Conformance(args) => {
            init_logs(LogFormat::Text, Some(QUIET))?;
            let report = demo::conformance(&args).await?;
            let text = if args.json { serde_json::to_string(&report)? } else { report.to_string() };
            say(&mut std::io::stdout(), &text);
            Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Verb::Reconcile(args) => {
            let found = demo::reconcile_at_rest(&args)?;
            let text = if args.json { serde_json::to_string(&found)? } else { found.to_string() };
            say(&mut std::io::stdout(), &text);
            Ok(if found.ledger.balanced { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

/// Waits until what is left of the traces has been told.
async fn told(traces: Arc<Traces>) -> Result<(), tokio::task::JoinError> {
    tokio::task::spawn_blocking(move || traces.shutdown(TRACES_TOLD_WITHIN)).await.map(drop)
}

/// Waits for Ctrl-C or SIGTERM.
fn told_to_stop() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// A reader that has gone away is no error of ours.
fn say(to: &mut dyn Write, text: &str) {
    writeln!(to, "{text}").unwrap_or_default();
}
