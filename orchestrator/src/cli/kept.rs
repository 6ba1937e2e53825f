//! `quarantine`, `parked` and `audit`: the messages that wait, and whether every message is accounted for.

use super::{
    Cli, FolderArgs, SpeakerArgs,
    ask::{asked, json, wrong_answer},
    out::{Paint, Trouble, say},
    tell_kept as tell,
};
use crate::{
    config::SettingsArgs,
    control::{Answer, Question},
    engine::{Clock, Decision, KeptFilter, KeptView, SystemClock, audit_at_rest},
};
use clap::Subcommand;
use serde::Serialize;
use std::process::ExitCode;

/// What to do with quarantined messages.
#[derive(Subcommand, Debug, Clone)]
pub enum QuarantineVerb {
    /// Lists messages that wait for a person
    List(KeptListArgs),
    /// Shows one message with its headers and its body
    Show(KeptShowArgs),
    /// Offers messages again, with what is parked behind them, in order
    Replay(ReplayArgs),
    /// Gives messages up; what is parked behind them goes on
    Discard(DiscardArgs),
}

/// What to do with parked messages.
#[derive(Subcommand, Debug, Clone)]
pub enum ParkedVerb {
    /// Lists messages that wait for their instance, or behind a quarantined one
    List(KeptListArgs),
    /// Shows one message with its headers and its body
    Show(KeptShowArgs),
}

/// Which kept messages to list.
#[derive(clap::Args, Debug, Clone)]
pub struct KeptListArgs {
    /// Where they are.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// Only for this saga
    #[arg(long, value_name = "NAME")]
    pub saga: Option<String>,
    /// Only for this business key
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Only with this reason, for instance handler-panicked or no-instance
    #[arg(long, value_name = "CODE")]
    pub because: Option<String>,
    /// At the most this many
    #[arg(long, value_name = "N", default_value_t = super::LIST_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
    /// Prints a JSON object
    #[arg(long)]
    pub json: bool,
}

/// Which kept message to show.
#[derive(clap::Args, Debug, Clone)]
pub struct KeptShowArgs {
    /// Its number, as the list shows it
    #[arg(value_name = "NUMBER")]
    pub number: u64,
    /// Where it is.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// Prints a JSON object
    #[arg(long)]
    pub json: bool,
}

/// Which messages to offer again.
#[derive(clap::Args, Debug, Clone)]
pub struct ReplayArgs {
    /// Their numbers, as the list shows them
    #[arg(value_name = "NUMBER", required = true)]
    pub numbers: Vec<u64>,
    /// Where they are.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// Why, for the log
    #[arg(long, alias = "reason", value_name = "TEXT", default_value = "replayed")]
    pub why: String,
    /// Who says so.
    #[command(flatten)]
    pub speaker: SpeakerArgs,
    /// Prints a JSON object for each
    #[arg(long)]
    pub json: bool,
}

/// Which messages to give up.
#[derive(clap::Args, Debug, Clone)]
pub struct DiscardArgs {
    /// Their numbers, as the list shows them
    #[arg(value_name = "NUMBER", required = true)]
    pub numbers: Vec<u64>,
    /// Where they are.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// Why, for the history of their instance
    #[arg(long, alias = "reason", value_name = "TEXT")]
    pub why: String,
    /// Who says so.
    #[command(flatten)]
    pub speaker: SpeakerArgs,
    /// Prints a JSON object for each
    #[arg(long)]
    pub json: bool,
}

/// What to audit.
#[derive(clap::Args, Debug, Clone)]
pub struct AuditArgs {
    /// Where it is.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// Prints a JSON object
    #[arg(long)]
    pub json: bool,
}

pub(super) async fn quarantine(cli: &Cli, verb: QuarantineVerb) -> Result<ExitCode, Trouble> {
    match verb {
        QuarantineVerb::List(args) => list(cli, args, true).await,
        QuarantineVerb::Show(args) => show(cli, args).await,
        QuarantineVerb::Replay(args) => {
            let ReplayArgs { numbers, folder, why, speaker: SpeakerArgs { by }, json } = args;
            let said = Said { folder, decision: Decision::Replay, by, why, json };
            decide(cli, &numbers, &said).await
        }
        QuarantineVerb::Discard(args) => {
            let DiscardArgs { numbers, folder, why, speaker: SpeakerArgs { by }, json } = args;
            let said = Said { folder, decision: Decision::Discard, by, why, json };
            decide(cli, &numbers, &said).await
        }
    }
}

pub(super) async fn parked(cli: &Cli, verb: ParkedVerb) -> Result<ExitCode, Trouble> {
    match verb {
        ParkedVerb::List(args) => list(cli, args, false).await,
        ParkedVerb::Show(args) => show(cli, args).await,
    }
}

async fn list(cli: &Cli, args: KeptListArgs, quarantined: bool) -> Result<ExitCode, Trouble> {
    let KeptListArgs { folder, saga, key, because, limit, json: as_json } = args;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let filter = KeptFilter { quarantined, saga, key, reason: because, limit };
    let answer = asked(cli, &folder, Question::Kept { filter }).await?;
    let Answer::KeptListed { messages, more } = answer else { return Err(wrong_answer()) };
    if as_json {
        #[derive(Serialize)]
        struct Listed {
            messages: Vec<KeptView>,
            more: bool,
        }
        say(&json(&Listed { messages, more })?)?;
    } else {
        let now = SystemClock::default().now();
        say(&tell::list(&messages, quarantined, more, now, Paint::of_stdout()))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(cli: &Cli, args: KeptShowArgs) -> Result<ExitCode, Trouble> {
    let answer = asked(cli, &args.folder, Question::KeptMessage { number: args.number }).await?;
    let Answer::KeptShown { message } = answer else { return Err(wrong_answer()) };
    if args.json {
        say(&json(&message)?)?;
    } else {
        let now = SystemClock::default().now();
        say(&tell::message(&message, now, Paint::of_stdout()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// An operator's word about quarantined messages.
struct Said {
    folder: FolderArgs,
    decision: Decision,
    by: String,
    why: String,
    json: bool,
}

/// Carries the word out for one message after the other. What is quarantined again is told, and makes the exit code 1.
async fn decide(cli: &Cli, numbers: &[u64], said: &Said) -> Result<ExitCode, Trouble> {
    if said.why.trim().is_empty() {
        return Err(Trouble::new("an operator's word needs a reason: say it with --why"));
    }
    let mut code = ExitCode::SUCCESS;
    for number in numbers {
        let question = Question::Decide {
            number: *number,
            decision: said.decision,
            by: said.by.clone(),
            why: said.why.clone(),
        };
        let Answer::Decided { decided } = asked(cli, &said.folder, question).await? else {
            return Err(wrong_answer());
        };
        if decided.became == "quarantined" || decided.became == "dead-letter" {
            code = ExitCode::FAILURE;
        }
        say(&if said.json { json(&decided)? } else { tell::decided(&decided) })?;
    }
    Ok(code)
}

/// Reads a folder at rest and holds its accounts against what they stand for.
pub(super) async fn audit(cli: &Cli, args: AuditArgs) -> Result<ExitCode, Trouble> {
    let said = SettingsArgs {
        data: args.folder.data.clone(),
        config: args.folder.config.clone(),
        ..SettingsArgs::default()
    };
    let Some(data) = cli.settings(&said)?.data else {
        return Err(Trouble::new("no data folder is named; say --data DIR, or set DIRIGENT_DATA"));
    };
    let audited = tokio::task::spawn_blocking(move || audit_at_rest(&data)).await;
    let audit = audited
        .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
        .map_err(Trouble::of)?;
    say(&if args.json { json(&audit)? } else { tell::audit(&audit, Paint::of_stdout()) })?;
    Ok(if audit.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
