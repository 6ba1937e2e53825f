//! `list`, `show` and the operators' words: asked of the running process, or read from the folder at rest.

use super::{
    Cli, FolderArgs, InstanceArgs, ListArgs, OperateArgs, ShowArgs, SpeakerArgs, StatusArgs,
    StatusName, StepArgs,
    out::{Paint, Trouble, say},
    stand, tell,
};
use crate::{
    config::SettingsArgs,
    control::{Action, Answer, AskError, Named, Question, ask},
    engine::{Clock, InstanceView, SystemClock},
};
use dirigent_model::history::Verdict;
use serde::Serialize;
use std::process::ExitCode;

pub(super) async fn status(cli: &Cli, args: StatusArgs) -> Result<ExitCode, Trouble> {
    let Answer::Standing { status } = asked(cli, &args.folder, Question::Status).await? else {
        return Err(wrong_answer());
    };
    if args.json {
        say(&json(&status)?)?;
    } else {
        say(&stand::status(&status, Paint::of_stdout()))?;
    }
    Ok(if status.readiness.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) async fn list(cli: &Cli, args: ListArgs) -> Result<ExitCode, Trouble> {
    let status = args.status.map(|status| word(status).to_owned());
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let question = Question::List { saga: args.saga, status, limit };
    let answer = asked(cli, &args.folder, question).await?;
    let Answer::Listed { instances, more, quarantined } = answer else {
        return Err(wrong_answer());
    };
    if args.json {
        #[derive(Serialize)]
        struct Listed {
            instances: Vec<InstanceView>,
            more: bool,
            quarantined: usize,
        }
        say(&json(&Listed { instances, more, quarantined })?)?;
    } else {
        let now = SystemClock::default().now();
        say(&tell::list(&instances, more, quarantined, now, Paint::of_stdout()))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn show(cli: &Cli, args: ShowArgs) -> Result<ExitCode, Trouble> {
    let InstanceArgs { key, saga, folder } = args.instance;
    let question = Question::Show { instance: Named { key, saga } };
    let Answer::Shown { instance } = asked(cli, &folder, question).await? else {
        return Err(wrong_answer());
    };
    if args.json {
        say(&json(&instance)?)?;
    } else {
        let now = SystemClock::default().now();
        say(&tell::instance(&instance, now, Paint::of_stdout()))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn cancel(cli: &Cli, args: OperateArgs) -> Result<ExitCode, Trouble> {
    operate(cli, args, Action::Cancel).await
}

pub(super) async fn kill(cli: &Cli, args: OperateArgs) -> Result<ExitCode, Trouble> {
    operate(cli, args, Action::Kill).await
}

pub(super) async fn retry(cli: &Cli, args: StepArgs) -> Result<ExitCode, Trouble> {
    let step = args.step.clone();
    operate(cli, without_step(args), Action::Retry { step }).await
}

pub(super) async fn resolve(cli: &Cli, args: StepArgs) -> Result<ExitCode, Trouble> {
    let step = args.step.clone();
    operate(cli, without_step(args), Action::Resolve { step }).await
}

fn without_step(args: StepArgs) -> OperateArgs {
    let StepArgs { key, step: _, saga, folder, why, speaker } = args;
    OperateArgs { instance: InstanceArgs { key, saga, folder }, why, speaker }
}

async fn operate(cli: &Cli, args: OperateArgs, action: Action) -> Result<ExitCode, Trouble> {
    let OperateArgs { instance, why, speaker: SpeakerArgs { by } } = args;
    let InstanceArgs { key, saga, folder } = instance;
    if why.trim().is_empty() {
        return Err(Trouble::new("an operator's word needs a reason: say it with --why"));
    }
    let question =
        Question::Operate { instance: Named { key, saga }, action: action.clone(), by, why };
    let Answer::Operated { verdict, instance } = asked(cli, &folder, question).await? else {
        return Err(wrong_answer());
    };
    let stands = format!("{} {} is {}", instance.saga, instance.key, instance.status);
    match verdict {
        Verdict::Applied => {
            let done = match action {
                Action::Cancel => "cancelled",
                Action::Kill => "killed",
                Action::Retry { .. } => "asked again",
                Action::Resolve { .. } => "resolved",
            };
            say(&format!("{done}: {stands}\n"))?;
            Ok(ExitCode::SUCCESS)
        }
        Verdict::Duplicate | Verdict::Deferred => {
            Err(Trouble::new(format!("nothing was changed; {stands}")))
        }
        Verdict::Ignored(why) => {
            Err(Trouble::new(format!("nothing was changed: {}", tell::why(why)))
                .hint(format!("{stands}; `show {}` tells all of it", instance.key)))
        }
    }
}

pub(super) async fn asked(
    cli: &Cli,
    folder: &FolderArgs,
    question: Question,
) -> Result<Answer, Trouble> {
    let said = SettingsArgs {
        data: folder.data.clone(),
        config: folder.config.clone(),
        ..SettingsArgs::default()
    };
    let settings = cli.settings(&said)?;
    let Some(data) = settings.data else {
        return Err(Trouble::new("no data folder is named; say --data DIR, or set DIRIGENT_DATA"));
    };
    let answer = ask(&data, cli.registry()?, question).await;
    answer.map_err(|error| match error {
        // The text says it all; the error around it adds nothing.
        AskError::Refused(refusal) => Trouble::new(refusal.text),
        error => Trouble::of(error),
    })
}

fn word(status: StatusName) -> &'static str {
    match status {
        StatusName::Running => "running",
        StatusName::TurningBack => "turning-back",
        StatusName::Completed => "completed",
        StatusName::Compensated => "compensated",
        StatusName::Killed => "killed",
        StatusName::Blocked => "blocked",
    }
}

pub(super) fn json(value: &impl Serialize) -> Result<String, Trouble> {
    serde_json::to_string(value)
        .map(|text| text + "\n")
        .map_err(|error| Trouble::new("writing the answer").because(error))
}

pub(super) fn wrong_answer() -> Trouble {
    Trouble::new("the running process answered another question")
        .hint("ask with the release that runs")
}
