//! `config`: what the settings are and who said it, also where some of them are wrong; and whether a process could start with them.

use super::{
    Cli, ConfigVerb,
    out::{Paint, Trouble, note, say},
    tell, unusable,
};
use crate::{
    api::destinations_of,
    config::{ConfigErrors, Settings, SettingsArgs, World, did_you_mean},
    engine::HEADROOM_SHARE,
};
use std::{path::Path, process::ExitCode};

pub(super) fn config(cli: &Cli, verb: &ConfigVerb, world: &World) -> Result<ExitCode, Trouble> {
    match verb {
        ConfigVerb::Show(args) => {
            let (settings, wrong) = Settings::read(&cli.app, &args.settings, world);
            say(&tell::settings(&settings, Paint::of_stdout()))?;
            warn(&settings.warnings);
            match wrong.is_empty() {
                true => Ok(ExitCode::SUCCESS),
                false => Err(Trouble::new(ConfigErrors(wrong).to_string())),
            }
        }
        ConfigVerb::Check(args) => {
            let settings = usable(cli, &args.settings, world)?;
            if !settings.warnings.is_empty() {
                return Err(Trouble::new(settings.warnings.join("\n")));
            }
            warn(&oddities(cli, &settings));
            say("The settings can be used.\n")?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The settings, if a process could start with them; otherwise all that is known to be wrong.
pub(super) fn usable(cli: &Cli, args: &SettingsArgs, world: &World) -> Result<Settings, Trouble> {
    let (settings, mut wrong) = Settings::read(&cli.app, args, world);
    // A connector made of what is wrong would only say it again.
    wrong.extend(if wrong.is_empty() { settings.flaws() } else { settings.flaws_of_files() });
    if wrong.is_empty() { Ok(settings) } else { Err(unusable(ConfigErrors(wrong))) }
}

pub(super) fn warn(warnings: &[String]) {
    for warning in warnings {
        note(format_args!("{} {warning}", Paint::of_stderr().yellow("warning:")));
    }
}

/// What can be used, and is hardly meant.
pub(super) fn oddities(cli: &Cli, settings: &Settings) -> Vec<String> {
    let mut odd = Vec::new();
    let known = destinations_of(&cli.plans);
    for channel in settings.protections.by_channel.keys() {
        if !known.contains(channel) {
            let hint = did_you_mean(channel, known.iter().map(String::as_str));
            odd.push(format!(
                "`[destination.{channel}]` protects a destination that no saga here sends commands to{hint}"
            ));
        }
    }
    if let Some(data) = &settings.data
        && let Some(total) = disk_of(data)
        && settings.is_said("headroom_bytes")
        && settings.headroom_bytes > total / HEADROOM_SHARE
    {
        odd.push(format!(
            "`headroom_bytes` is {}, and the disk under {} has {total} bytes: a tenth of those counts",
            settings.headroom_bytes,
            data.display()
        ));
    }
    odd
}

/// Bytes in all of the disk that a folder lies on, or will.
fn disk_of(folder: &Path) -> Option<u64> {
    let folder = std::path::absolute(folder).ok()?;
    let there = folder.ancestors().find(|folder| folder.is_dir())?;
    fs4::statvfs(there).ok().map(|volume| volume.total_space())
}
