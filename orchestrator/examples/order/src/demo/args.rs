//! What a person can say on the command line, beyond what every process of this project understands.

use crate::order::{Rates, samples::Service};
use clap::{
    Args, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser as _},
};
use dirigent::config::SettingsArgs;
use std::{fmt, path::PathBuf};

/// The verbs of this example.
#[derive(Debug, Clone, Subcommand)]
pub enum Verb {
    /// Runs orchestrator, services and customers in one process, then reconciles the services' ledgers with the sagas
    Demo(DemoArgs),
    /// Runs the five services of the order saga and the three of the trip saga
    Participants(ParticipantsArgs),
    /// Places orders
    Publish(PublishArgs),
    /// Plays a nasty broker against one service, in whatever language it is, and says which duty it fails
    Conformance(ConformanceArgs),
    /// Reconciles the folders of an orchestrator and of services that have ended
    Reconcile(ReconcileArgs),
}

/// Which broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BrokerKind {
    /// Within this process
    Memory,
    /// At the address that is said, by docker compose, or started here
    Kafka,
    /// At the address that is said, by docker compose, or started here
    Rabbitmq,
}

/// One that other processes can reach, too: who asks for the one within this process is told which others there are.
fn shared() -> impl clap::builder::TypedValueParser<Value = BrokerKind> {
    let kinds = PossibleValuesParser::new(["kafka", "rabbitmq"]);
    kinds.map(|kind| if kind == "kafka" { BrokerKind::Kafka } else { BrokerKind::Rabbitmq })
}

/// Where the broker is. The same for every verb: what a flag says, else the environment, else the file of settings; else it is looked for.
#[derive(Clone, Default, Args)]
pub struct AddressArgs {
    /// Address of Kafka, host:port; else DIRIGENT_KAFKA, else `[kafka] address` in the file of settings, else docker compose's, or one
    /// that is started here
    #[arg(long, value_name = "ADDRESS")]
    pub kafka: Option<String>,
    /// Address of RabbitMQ, amqp://user:password@host:port/vhost; else DIRIGENT_RABBITMQ, else `[rabbitmq] uri` in the file of settings,
    /// else docker compose's, or one that is started here; others on this machine can read flags, so prefer DIRIGENT_RABBITMQ
    #[arg(long, value_name = "URI")]
    pub rabbitmq: Option<String>,
    /// File of settings [default: dirigent.toml, where it is]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl AddressArgs {
    /// As every process of this project says it.
    pub fn flags(&self) -> SettingsArgs {
        SettingsArgs {
            kafka: self.kafka.clone(),
            rabbitmq: self.rabbitmq.clone(),
            config: self.config.clone(),
            ..SettingsArgs::default()
        }
    }
}

/// Without passwords.
impl fmt::Debug for AddressArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.flags().fmt(f)
    }
}

/// `demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// How many orders are placed
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub orders: u32,
    /// What goes wrong
    #[command(flatten)]
    pub rates: RateArgs,
    /// The broker between orchestrator and services
    #[arg(long, value_enum, default_value_t = BrokerKind::Memory)]
    pub broker: BrokerKind,
    /// Where it is
    #[command(flatten)]
    pub address: AddressArgs,
    /// The schema registry
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// Services that keep their ledgers in PostgreSQL
    #[command(flatten)]
    pub postgres: PostgresArgs,
    /// Loses, doubles, delays and reorders messages on their way in and out
    #[arg(long)]
    pub chaos: bool,
    /// Runs this program as the inventory, instead of the one in Rust; not with the memory broker
    #[arg(long, value_name = "COMMAND")]
    pub inventory: Option<String>,
    /// Keeps everything in this folder, and goes on from there next time; a temporary folder if not said
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Prints one JSON object instead of a text
    #[arg(long)]
    pub json: bool,
}

/// `participants`.
#[derive(Debug, Clone, Args)]
pub struct ParticipantsArgs {
    /// What goes wrong
    #[command(flatten)]
    pub rates: RateArgs,
    /// The broker
    #[arg(long, value_parser = shared())]
    pub broker: BrokerKind,
    /// Where it is
    #[command(flatten)]
    pub address: AddressArgs,
    /// The schema registry
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// Services that keep their ledgers in PostgreSQL
    #[command(flatten)]
    pub postgres: PostgresArgs,
    /// Each service keeps its ledger in a folder of its own in here
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
}

/// Where inventory and payment keep their ledgers.
#[derive(Clone, Default, Args)]
pub struct PostgresArgs {
    /// A PostgreSQL: inventory and payment keep their ledgers there in a table of their own, in one transaction with their
    /// answers; wants a build with `--features postgres`. By TLS with sslmode=verify-full, sslrootcert, sslcert and sslkey in it.
    /// Others on this machine can read flags, so prefer ORDER_POSTGRES or --postgres-password-file where there is a password
    #[arg(long, value_name = "URI", env = "ORDER_POSTGRES", hide_env_values = true)]
    pub postgres: Option<String>,
    /// A file that holds the password for it, and nothing else
    #[arg(long, value_name = "FILE", env = "ORDER_POSTGRES_PASSWORD_FILE", requires = "postgres")]
    pub postgres_password_file: Option<PathBuf>,
}

/// Whether there is one: a password may be in the address.
impl fmt::Debug for PostgresArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.postgres.as_ref().map(|_| "…");
        f.debug_struct("PostgresArgs")
            .field("postgres", &shown)
            .field("postgres_password_file", &self.postgres_password_file)
            .finish()
    }
}

/// Where schemas are agreed on.
#[derive(Debug, Clone, Default, Args)]
pub struct RegistryArgs {
    /// A schema registry that speaks Confluent's API: schemas are registered there, and Avro is written in its wire format;
    /// also by DIRIGENT_REGISTRY, and with the other settings of `[registry]`. At one that only the file names they are registered
    /// where the file says so, by `register = true`
    #[arg(long, value_name = "URL")]
    pub registry: Option<String>,
}

/// `publish`.
#[derive(Debug, Clone, Args)]
pub struct PublishArgs {
    /// How many orders are placed
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub orders: u32,
    /// The number of the first order
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub from: i64,
    /// Repeats the same orders
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The broker
    #[arg(long, value_parser = shared())]
    pub broker: BrokerKind,
    /// Where it is
    #[command(flatten)]
    pub address: AddressArgs,
}

/// `conformance`.
#[derive(Debug, Clone, Args)]
pub struct ConformanceArgs {
    /// Which service
    #[arg(long, value_enum)]
    pub participant: Service,
    /// The broker it reads from; with memory, the service of this example is started beside
    #[arg(long, value_enum, default_value_t = BrokerKind::Memory)]
    pub broker: BrokerKind,
    /// Where it is
    #[command(flatten)]
    pub address: AddressArgs,
    /// What its channels begin with at the broker
    #[arg(long, value_name = "TEXT")]
    pub prefix: Option<String>,
    /// How long an answer may take
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub within: u64,
    /// A command that looks into its ledger: gets the name of a command and a business key as its last arguments, prints
    /// {"applied":N,"undone":N}
    #[arg(long, value_name = "COMMAND")]
    pub probe: Option<String>,
    /// What goes wrong at the service: as it was started with
    #[command(flatten)]
    pub rates: RateArgs,
    /// Prints one JSON object instead of a text
    #[arg(long)]
    pub json: bool,
}

/// `reconcile`.
#[derive(Debug, Clone, Args)]
pub struct ReconcileArgs {
    /// The folder of the orchestrator, or the one that a demo was given
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Services that keep their ledgers in PostgreSQL
    #[command(flatten)]
    pub postgres: PostgresArgs,
    /// The folder of the services; a demo's lie in its folder
    #[arg(long, value_name = "DIR")]
    pub services: Option<PathBuf>,
    /// Prints one JSON object instead of a text
    #[arg(long)]
    pub json: bool,
}

/// How often what goes wrong.
#[derive(Debug, Clone, Copy, Args)]
pub struct RateArgs {
    /// The part of the orders that is refused: no stock, card declined, declined by a person, hold not taken
    #[arg(long, value_name = "RATE", default_value_t = 0.1, value_parser = rate)]
    pub reject_rate: f64,
    /// The part of the orders for which one service acts and does not answer
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = rate)]
    pub silent_rate: f64,
    /// Repeats the same orders and decisions
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl RateArgs {
    /// As the services want them.
    pub fn rates(&self) -> Rates {
        Rates { seed: self.seed, reject: self.reject_rate, silent: self.silent_rate }
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.0..=1.0).contains(&rate) => Ok(rate),
        Ok(_) | Err(_) => Err("a rate lies between 0.0 and 1.0".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Order {
        #[command(subcommand)]
        verb: Verb,
    }

    fn demo(line: &str) -> Result<DemoArgs, clap::Error> {
        match Order::try_parse_from(line.split(' '))?.verb {
            Verb::Demo(demo) => Ok(demo),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_demo_needs_no_arguments() {
        let demo = demo("order demo").unwrap();
        assert_eq!((demo.orders, demo.broker, demo.chaos), (1_000, BrokerKind::Memory, false));
    }

    #[test]
    fn everything_of_a_demo_can_be_said() {
        let demo = demo(
            "order demo --orders 5 --reject-rate 0.2 --silent-rate 0.01 --seed 7 --broker rabbitmq --chaos --data d --json --inventory inventory.py",
        )
        .unwrap();
        let rates = Rates { seed: 7, reject: 0.2, silent: 0.01 };
        assert_eq!((demo.orders, demo.rates.rates(), demo.json), (5, rates, true));
        assert_eq!(demo.inventory.as_deref(), Some("inventory.py"));
    }

    #[test]
    fn a_broker_within_this_process_is_not_offered_to_those_who_could_meet_nobody_there() {
        for line in ["order publish --broker memory", "order participants --data d --broker memory"]
        {
            let refused = Order::try_parse_from(line.split(' ')).err().unwrap().to_string();
            assert!(refused.contains("[possible values: kafka, rabbitmq]"), "{refused}");
        }
        let line =
            "order publish --broker rabbitmq --rabbitmq amqp://me:s3cret@broker --config c.toml";
        let Verb::Publish(publish) = Order::try_parse_from(line.split(' ')).unwrap().verb else {
            panic!("it is no publish");
        };
        assert_eq!(publish.broker, BrokerKind::Rabbitmq);
        assert_eq!(publish.address.config, Some("c.toml".into()));
        assert!(!format!("{publish:?}").contains("s3cret"), "{publish:?}");
    }

    #[test]
    fn an_answer_may_take_no_less_than_a_second() {
        for (within, is_fine) in [("0", false), ("1", true), ("3601", false)] {
            let line = format!("order conformance --participant payment --within {within}");
            assert_eq!(Order::try_parse_from(line.split(' ')).is_ok(), is_fine, "{line}");
        }
    }

    #[test]
    fn the_address_of_a_database_is_not_in_what_is_shown_of_arguments() {
        let demo = demo("order demo --postgres postgres://me:s3cret@db/shop").unwrap();
        assert!(demo.postgres.postgres.as_ref().unwrap().contains("s3cret"));
        assert!(!format!("{demo:?}").contains("s3cret"));
    }

    #[test]
    fn a_rate_above_one_and_a_demo_of_nothing_are_refused() {
        let refused = demo("order demo --reject-rate 1.5").unwrap_err().to_string();
        assert!(refused.contains("a rate lies between 0.0 and 1.0"), "{refused}");
        assert!(demo("order demo --orders 0").is_err());
    }
}
