//! `fsck`: checks a folder at rest, writes a plan how what it found can be mended, and applies one.
//!
//! Exit codes: 0 where nothing harmful is found, 1 where something is, 2 where the folder can't be checked or the plan not applied.

use super::{
    Cli, FolderArgs, SpeakerArgs,
    ask::json,
    out::{Paint, Trouble, note, say, tame},
};
use crate::{
    config::SettingsArgs,
    engine::{Clock, SystemClock},
    fsck::{Applied, FolderCheck, FsckError, Whose, apply_to_folder, check_folder},
    registry::Registry,
    store::{Finding, RepairPlan, Severity},
};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

/// The exit code where nothing can be said about a folder.
const CAN_NOT_SAY: u8 = 2;

/// What to check.
#[derive(clap::Args, Debug, Clone)]
pub struct FsckArgs {
    /// Where it is.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// Writes a plan how what is found can be mended, as JSON into a new file; changes nothing
    #[arg(long, value_name = "FILE", conflicts_with = "apply")]
    pub plan: Option<PathBuf>,
    /// Applies a plan that was made for this very state; a record of it is kept in the folder, below repairs
    #[arg(long, value_name = "FILE")]
    pub apply: Option<PathBuf>,
    /// Who applies it.
    #[command(flatten)]
    pub speaker: SpeakerArgs,
    /// Prints a JSON object
    #[arg(long)]
    pub json: bool,
}

/// Checks a folder at rest, and mends it where a plan says how.
pub(super) async fn fsck(cli: &Cli, args: FsckArgs) -> ExitCode {
    match carry_out(cli, args).await {
        Ok(check) if check.found.is_clean() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(trouble) => {
            note(trouble.told(Paint::of_stderr()));
            ExitCode::from(CAN_NOT_SAY)
        }
    }
}

async fn carry_out(cli: &Cli, args: FsckArgs) -> Result<FolderCheck, Trouble> {
    let FsckArgs { folder, plan, apply, speaker: SpeakerArgs { by }, json: as_json } = args;
    let said = SettingsArgs { data: folder.data, config: folder.config, ..SettingsArgs::default() };
    let Some(data) = cli.settings(&said)?.data else {
        return Err(Trouble::new("no data folder is named; say --data DIR, or set DIRIGENT_DATA"));
    };
    let registry = cli.registry()?;
    if let Some(file) = apply {
        let plan = read(&file)?;
        let applied = blocking(registry, move |registry| {
            apply_to_folder(&data, registry, &plan, &by, SystemClock::default().now())
        })
        .await?;
        say(&if as_json { json(&applied)? } else { told_applied(&applied, Paint::of_stdout()) })?;
        return Ok(applied.now);
    }
    let check = blocking(registry, move |registry| check_folder(&data, registry)).await?;
    if let Some(file) = &plan {
        write(file, &check.found.plan())?;
    }
    let planned = plan.as_deref();
    say(&if as_json { json(&check)? } else { told(&check, planned, Paint::of_stdout()) })?;
    Ok(check)
}

async fn blocking<T: Send + 'static>(
    registry: Arc<Registry>,
    work: impl FnOnce(&Registry) -> Result<T, FsckError> + Send + 'static,
) -> Result<T, Trouble> {
    let done = tokio::task::spawn_blocking(move || work(&registry)).await;
    done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())).map_err(Trouble::of)
}

fn read(file: &Path) -> Result<RepairPlan, Trouble> {
    let about = |doing: &str| Trouble::new(format!("{doing} the plan {}", file.display()));
    let text = fs::read(file).map_err(|error| about("reading").because(error))?;
    serde_json::from_slice(&text).map_err(|error| {
        about("understanding").because(error).hint("make a new one with `fsck --plan FILE`")
    })
}

fn write(file: &Path, plan: &RepairPlan) -> Result<(), Trouble> {
    let about = || Trouble::new(format!("writing the plan {}", file.display()));
    let mut text = serde_json::to_vec_pretty(plan).map_err(|error| about().because(error))?;
    text.push(b'\n');
    // It holds data of instances, and never takes the place of another file.
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    opened
        .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
        .map_err(|error| about().because(error))
}

fn told(check: &FolderCheck, planned: Option<&Path>, paint: Paint) -> String {
    let whose = match check.whose {
        Whose::Engine => "the folder of an engine",
        Whose::Participant => "the folder of a participant",
    };
    let found = &check.found;
    let looked_at: Vec<_> =
        found.looked_at.iter().map(|(what, count)| format!("{count} {what}")).collect();
    let mut text = format!(
        "{whose}: {}\n",
        match looked_at.is_empty() {
            true => "nothing in it yet".to_owned(),
            false => looked_at.join(", "),
        }
    );
    found.findings.iter().for_each(|finding| text.push_str(&told_finding(finding, paint)));
    if found.more > 0 {
        text.push_str(&format!("{} more are not told; mend these, and check again\n", found.more));
    }
    let harmful = found.harmful().count() as u64 + found.more;
    let harmless = found.findings.len() as u64 + found.more - harmful;
    let repairs = found.plan().repairs.len();
    text.push_str(&match (harmful, harmless) {
        (0, 0) => format!("{}\n", paint.green("nothing was found that should not be")),
        (0, _) => format!("{} ({harmless} harmless)\n", paint.green("nothing harmful was found")),
        (_, _) => {
            format!("{} ({harmless} harmless)\n", paint.red(format!("{harmful} harmful findings")))
        }
    });
    match planned {
        Some(file) => text.push_str(&format!(
            "{repairs} repairs are written to {0}; read it, take out what is not wanted, then `fsck --apply {0}`\n",
            file.display()
        )),
        None if repairs > 0 => text.push_str(&format!(
            "`fsck --plan FILE` writes {repairs} repairs into a file, and changes nothing\n"
        )),
        None => {}
    }
    text
}

fn told_finding(finding: &Finding, paint: Paint) -> String {
    let Finding { kind, severity, place, what, means, advice, repairable } = finding;
    let weight = match severity {
        Severity::Harmful => paint.red("harmful"),
        Severity::Harmless => paint.yellow("harmless"),
    };
    let mended = if *repairable { " (the plan mends it)" } else { "" };
    format!(
        "{weight} {}, {}: {}{mended}\n  {} {means}\n  {} {advice}\n",
        paint.bold(kind),
        tame(place),
        tame(what),
        paint.dim("means:"),
        paint.dim("do:"),
    )
}

fn told_applied(applied: &Applied, paint: Paint) -> String {
    let Applied { record, set_aside, now } = applied;
    let mut text = format!("the plan is applied; the record of it is {}\n", record.display());
    if *set_aside > 0 {
        text.push_str(&format!("{set_aside} records were taken out, their bytes lie beside it\n"));
    }
    text + &told(now, None, paint)
}
