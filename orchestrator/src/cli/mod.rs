//! The command line of a process that runs sagas: `run · check · graph · list · show · cancel · kill · retry ·
//! resolve · quarantine · parked · audit · fsck · destinations · pause · resume · config`.
//!
//! ```no_run
//! # fn order_saga() -> Result<dirigent_model::definition::Definition<()>, dirigent_model::definition::DefinitionErrors> { loop {} }
//! # async fn main_() -> std::process::ExitCode {
//! dirigent::cli("order").saga(order_saga()).run().await
//! # }
//! ```
//!
//! Or as a part of another command: [`Verb`] is a `clap::Subcommand`, and [`Cli::execute`] carries it out.
//! Exit codes: 0 for done, 1 for an error or something found, 2 for a command line that makes no sense, and
//! for a folder that `fsck` can't check.

mod ask;
mod destinations;
mod fsck;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzed;
mod graph_file;
mod kept;
mod out;
mod plans;
mod serve;
mod settings;
mod stand;
mod tell;
mod tell_kept;

#[cfg(test)]
mod tests;

pub use fsck::FsckArgs;
pub use kept::{
    AuditArgs, DiscardArgs, KeptListArgs, KeptShowArgs, ParkedVerb, QuarantineVerb, ReplayArgs,
};

use crate::{
    IntoPlan,
    config::{ConfigErrors, Settings, SettingsArgs, World, did_you_mean},
    registry::Registry,
    telemetry::Observer,
};
use clap::{FromArgMatches, Subcommand, ValueEnum};
use dirigent_connectors::memory::MemoryBroker;
use dirigent_model::definition::{DefinitionErrors, Plan};
use out::{Paint, Trouble, note};
use std::{path::PathBuf, process::ExitCode, sync::Arc};

/// Instances that are listed if not said otherwise: a screen or two.
const LIST_DEFAULT: u32 = 50;

/// Begins the command line of an application: its name is the consumer group, unless the settings say otherwise.
pub fn cli(app: &str) -> Cli {
    Cli {
        app: app.into(),
        plans: Vec::new(),
        mistakes: Vec::new(),
        memory: MemoryBroker::new(),
        observer: None,
        version: concat!("(dirigent ", env!("CARGO_PKG_VERSION"), ")"),
    }
}

/// The command line of an application.
#[must_use = "nothing happens before `.run()` or `.execute(..)`"]
pub struct Cli {
    app: String,
    plans: Vec<Arc<Plan>>,
    mistakes: Vec<DefinitionErrors>,
    memory: MemoryBroker,
    observer: Option<Arc<dyn Observer>>,
    version: &'static str,
}

/// What can be done.
#[derive(Subcommand, Debug, Clone)]
pub enum Verb {
    /// Runs the sagas until told to stop (Ctrl-C or SIGTERM; a second one stops at once)
    Run(RunArgs),
    /// Tries every order of inputs a saga can meet, and reports what must not be; exit code 1 if anything was found, 3 if nothing was
    /// found within the bounds, and they were reached
    Check(CheckArgs),
    /// Draws a saga
    Graph(GraphArgs),
    /// Says how the process stands that runs on a data folder; exit code 1 while it is not ready
    Status(StatusArgs),
    /// Lists instances of a data folder, of a running process or at rest
    List(ListArgs),
    /// Shows everything about one instance
    Show(ShowArgs),
    /// Makes an instance turn back
    Cancel(OperateArgs),
    /// Ends an instance as it stands, without compensation
    Kill(OperateArgs),
    /// Asks a step, or its compensation, again now
    Retry(StepArgs),
    /// Declares a compensation that was given up unnecessary, or done by hand
    Resolve(StepArgs),
    /// Shows how the destinations of commands stand: circuits, rates, and what is held
    Destinations(DestinationsArgs),
    /// Holds all commands to a destination, until it is resumed
    #[command(subcommand)]
    Pause(PauseVerb),
    /// Lets commands leave again for a destination that was paused
    #[command(subcommand)]
    Resume(ResumeVerb),
    /// Messages that a saga could not take, and that wait for a person
    #[command(subcommand)]
    Quarantine(QuarantineVerb),
    /// Messages that wait for their instance, or behind a quarantined one
    #[command(subcommand)]
    Parked(ParkedVerb),
    /// Proves of a folder at rest that every message consumed is accounted for; exit code 1 if not
    Audit(AuditArgs),
    /// Checks a folder at rest for everything a process relies on, an engine's or a participant's, and mends it by a plan; exit code 1
    /// where something harmful is found, 2 where it can't be checked
    Fsck(FsckArgs),
    /// Shows or checks the settings
    #[command(subcommand)]
    Config(ConfigVerb),
}

/// What to run with.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct RunArgs {
    /// The settings.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// What to check.
#[derive(clap::Args, Debug, Clone)]
pub struct CheckArgs {
    /// The saga, or saga@version; all of them if not said
    pub saga: Option<String>,
    /// Checks the graph in this file instead, as `graph --format json` writes it: to try a shape before it is declared
    #[arg(long, value_name = "FILE", conflicts_with = "saga")]
    pub graph: Option<std::path::PathBuf>,
    /// Draws the sequence to each violation as a Mermaid diagram, too
    #[arg(long, conflicts_with = "json")]
    pub mermaid: bool,
    /// Prints an array of JSON objects: states, transitions, bounds, seconds, violations with their sequences and diagrams
    #[arg(long)]
    pub json: bool,
}

/// What to draw.
#[derive(clap::Args, Debug, Clone)]
pub struct GraphArgs {
    /// The saga, or saga@version
    pub saga: String,
    /// For whom
    #[arg(long, value_enum, default_value_t = GraphFormat::Mermaid)]
    pub format: GraphFormat,
}

/// How a graph is written.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraphFormat {
    /// For Markdown
    Mermaid,
    /// For Graphviz
    Dot,
    /// For programs
    Json,
}

/// Which data folder is meant.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct FolderArgs {
    /// The data folder
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// File of settings [default: dirigent.toml, where it is]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Of which process.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct StatusArgs {
    /// Where it runs.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// Prints a JSON object
    #[arg(long)]
    pub json: bool,
}

/// Where an instance stands.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words of the status column")]
pub enum StatusName {
    Running,
    TurningBack,
    Completed,
    Compensated,
    Killed,
    Blocked,
}

/// What to list.
#[derive(clap::Args, Debug, Clone)]
pub struct ListArgs {
    /// Where they are.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// Only in this state; blocked is what wants a person: by an incident, or held by a quarantined message
    #[arg(long, value_enum)]
    pub status: Option<StatusName>,
    /// Only of this saga
    #[arg(long, value_name = "NAME")]
    pub saga: Option<String>,
    /// At the most this many
    #[arg(long, value_name = "N", default_value_t = LIST_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
    /// Prints a JSON object
    #[arg(long)]
    pub json: bool,
}

impl Default for ListArgs {
    fn default() -> Self {
        let folder = FolderArgs::default();
        Self { folder, status: None, saga: None, limit: LIST_DEFAULT, json: false }
    }
}

/// Which instance is meant.
#[derive(clap::Args, Debug, Clone)]
pub struct InstanceArgs {
    /// Its business key, or its id
    #[arg(value_name = "KEY|ID")]
    pub key: String,
    /// Its saga, where several have this key
    #[arg(long, value_name = "NAME")]
    pub saga: Option<String>,
    /// Where it is.
    #[command(flatten)]
    pub folder: FolderArgs,
}

/// What to show.
#[derive(clap::Args, Debug, Clone)]
pub struct ShowArgs {
    /// Of which instance.
    #[command(flatten)]
    pub instance: InstanceArgs,
    /// Prints a JSON object
    #[arg(long)]
    pub json: bool,
}

/// Whose word it is.
#[derive(clap::Args, Debug, Clone)]
pub struct SpeakerArgs {
    /// Who says so
    #[arg(
        long,
        value_name = "NAME",
        env = "USER",
        hide_env_values = true,
        default_value = "operator"
    )]
    pub by: String,
}

/// An operator's word.
#[derive(clap::Args, Debug, Clone)]
pub struct OperateArgs {
    /// About which instance.
    #[command(flatten)]
    pub instance: InstanceArgs,
    /// Why, for the history
    #[arg(long, value_name = "TEXT", alias = "reason")]
    pub why: String,
    /// Who says so.
    #[command(flatten)]
    pub speaker: SpeakerArgs,
}

/// An operator's word about a step.
#[derive(clap::Args, Debug, Clone)]
pub struct StepArgs {
    /// Its business key, or its id
    #[arg(value_name = "KEY|ID")]
    pub key: String,
    /// The step
    pub step: String,
    /// Its saga, where several have this key
    #[arg(long, value_name = "NAME")]
    pub saga: Option<String>,
    /// Where it is.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// Why, for the history
    #[arg(long, value_name = "TEXT", alias = "reason")]
    pub why: String,
    /// Who says so.
    #[command(flatten)]
    pub speaker: SpeakerArgs,
}

/// Which destinations to show.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct DestinationsArgs {
    /// Of which process.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// Prints an array of JSON objects
    #[arg(long)]
    pub json: bool,
}

/// What can be paused.
#[derive(Subcommand, Debug, Clone)]
pub enum PauseVerb {
    /// Holds all commands to one destination, a channel that commands are sent to, until it is resumed
    Destination(PauseArgs),
}

/// What can be resumed.
#[derive(Subcommand, Debug, Clone)]
pub enum ResumeVerb {
    /// Lets commands leave again for a destination that was paused
    Destination(PauseArgs),
}

/// An operator's word about a destination.
#[derive(clap::Args, Debug, Clone)]
pub struct PauseArgs {
    /// The channel
    pub channel: String,
    /// Of which process.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// Why, for whoever comes next
    #[arg(long, value_name = "TEXT", alias = "reason")]
    pub why: String,
    /// Who says so.
    #[command(flatten)]
    pub speaker: SpeakerArgs,
}

/// What to do with the settings.
#[derive(Subcommand, Debug, Clone)]
pub enum ConfigVerb {
    /// Prints each setting with who said it; secrets are not shown
    Show(RunArgs),
    /// Says whether the settings can be used; exit code 1 if not
    Check(RunArgs),
}

impl Cli {
    /// Adds a saga. Mistakes of its definition are reported by every verb but `config`.
    pub fn saga(mut self, saga: impl IntoPlan) -> Self {
        match saga.into_plan() {
            Ok(plan) => self.plans.push(plan),
            Err(mistakes) => self.mistakes.push(mistakes),
        }
        self
    }

    /// The broker that `--broker memory` stands for; one of its own if not said.
    pub fn memory_broker(mut self, broker: MemoryBroker) -> Self {
        self.memory = broker;
        self
    }

    /// Takes facts of every turn; if not said, traces go where the OTEL_ variables of the environment say.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// What `--version` says, such as `env!("CARGO_PKG_VERSION")`; the release of this crate if not said.
    pub fn version(mut self, version: &'static str) -> Self {
        self.version = version;
        self
    }

    /// Reads the command line of the process and carries it out.
    pub async fn run(self) -> ExitCode {
        let matches = self.command().get_matches();
        match Verb::from_arg_matches(&matches) {
            Ok(verb) => self.execute(verb).await,
            Err(error) => error.exit(),
        }
    }

    fn command(&self) -> clap::Command {
        let command = clap::Command::new("dirigent")
            .bin_name(self.app.clone())
            .display_name(self.app.clone())
            .version(self.version)
            .subcommand_required(true)
            .arg_required_else_help(true);
        // Last, or else the verbs would say what the whole is about.
        Verb::augment_subcommands(command).about(
            "Runs sagas: commands and replies through a broker, compensated where something fails",
        )
    }

    /// Carries a verb out, for the sake of people: speaks on the standard output and the standard error.
    pub async fn execute(self, verb: Verb) -> ExitCode {
        match Box::pin(self.carry_out(verb)).await {
            Ok(code) => code,
            Err(trouble) => {
                note(trouble.told(Paint::of_stderr()));
                ExitCode::FAILURE
            }
        }
    }

    async fn carry_out(self, verb: Verb) -> Result<ExitCode, Trouble> {
        match verb {
            Verb::Run(args) => serve::run(self, args).await,
            Verb::Check(args) => plans::check(self.registry()?, args).await,
            Verb::Graph(args) => plans::graph(&*self.registry()?, &args),
            Verb::Status(args) => ask::status(&self, args).await,
            Verb::List(args) => ask::list(&self, args).await,
            Verb::Show(args) => ask::show(&self, args).await,
            Verb::Cancel(args) => ask::cancel(&self, args).await,
            Verb::Kill(args) => ask::kill(&self, args).await,
            Verb::Retry(args) => ask::retry(&self, args).await,
            Verb::Resolve(args) => ask::resolve(&self, args).await,
            Verb::Destinations(args) => destinations::list(&self, args).await,
            Verb::Pause(PauseVerb::Destination(args)) => destinations::pause(&self, args).await,
            Verb::Resume(ResumeVerb::Destination(args)) => destinations::resume(&self, args).await,
            Verb::Quarantine(verb) => kept::quarantine(&self, verb).await,
            Verb::Parked(verb) => kept::parked(&self, verb).await,
            Verb::Audit(args) => kept::audit(&self, args).await,
            Verb::Fsck(args) => Ok(fsck::fsck(&self, args).await),
            Verb::Config(verb) => settings::config(&self, &verb, &World::here()),
        }
    }

    /// The settings, with warnings told.
    fn settings(&self, args: &SettingsArgs) -> Result<Settings, Trouble> {
        let settings = Settings::load(&self.app, args, &World::here()).map_err(unusable)?;
        settings::warn(&settings.warnings);
        Ok(settings)
    }

    fn registry(&self) -> Result<Arc<Registry>, Trouble> {
        if !self.mistakes.is_empty() {
            let mistakes: Vec<_> = self.mistakes.iter().map(ToString::to_string).collect();
            return Err(Trouble::new(mistakes.join("\n")));
        }
        Registry::new(self.plans.clone()).map(Arc::new).map_err(Trouble::of)
    }
}

fn unusable(errors: ConfigErrors) -> Trouble {
    Trouble::new(errors.to_string())
        .hint("`config show` prints each setting and who said it, these as well")
}

/// The plan that people mean by `name` or `name@version`: the newest one if no version is said.
fn find_plan<'a>(registry: &'a Registry, named: &str) -> Result<&'a Arc<Plan>, Trouble> {
    let (name, version) = match named.split_once('@') {
        Some((name, version)) => (name, Some(version.trim_start_matches('v'))),
        None => (named, None),
    };
    let is_meant = |plan: &&Arc<Plan>| {
        let graph = plan.graph();
        graph.name == name && version.is_none_or(|version| graph.version.to_string() == version)
    };
    let found = registry.plans().iter().filter(is_meant).max_by_key(|plan| plan.graph().version);
    found.ok_or_else(|| {
        let names: Vec<&str> =
            registry.plans().iter().map(|plan| plan.graph().name.as_str()).collect();
        let known: Vec<String> = registry
            .plans()
            .iter()
            .map(|plan| format!("{}@{}", plan.graph().name, plan.graph().version))
            .collect();
        let hint = did_you_mean(name, names);
        Trouble::new(format!("there is no saga `{named}` in this program{hint}"))
            .hint(format!("it has {}", known.join(", ")))
    })
}
