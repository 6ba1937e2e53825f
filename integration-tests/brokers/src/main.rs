//! `brokers up [kafka|rabbitmq]`, `down`, `status`, `used`, `rabbitmqctl`: the brokers of tests and demos by hand.
//!
//! `up` and `status` print lines of an env-file, so that `set -a; eval "$(brokers up)"` is enough.

use std::io::{self, Write};
use std::process::ExitCode;

use dirigent_brokers::{How, Kind, Unavailable};

const USAGE: &str =
    "usage: brokers up [kafka|rabbitmq]   find or start, keep until `down` (a day at most), print the addresses
       brokers up schema-registry    the same for a schema registry (Apicurio, in memory)
       brokers up postgres           the same for a PostgreSQL, on fresh data
       brokers status                print what runs
       brokers rabbitmqctl ARGS...   administer the RabbitMQ that was started here
       brokers used                  print what the tests have used since the last `down`
       brokers down                  end what was started here";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["up"] => up(&Kind::BROKERS),
        ["up", "kafka"] => up(&[Kind::Kafka]),
        ["up", "rabbitmq"] => up(&[Kind::RabbitMq]),
        ["up", "schema-registry"] => up(&[Kind::SchemaRegistry]),
        ["up", "postgres"] => up(&[Kind::Postgres]),
        ["down"] => down(),
        ["status"] => dirigent_brokers::status(),
        ["used"] => used(),
        ["rabbitmqctl", ref arguments @ ..] => administer(arguments),
        ["help" | "--help" | "-h"] => Ok(vec![USAGE.to_owned()]),
        _ => {
            return say(&mut io::stderr(), &[USAGE.to_owned()], ExitCode::from(2));
        }
    };
    match outcome {
        Ok(lines) => say(&mut io::stdout(), &lines, ExitCode::SUCCESS),
        Err(error) => {
            let line = format!("brokers: {error}; install {}", error.install());
            say(&mut io::stderr(), &[line], ExitCode::FAILURE)
        }
    }
}

fn up(kinds: &[Kind]) -> Result<Vec<String>, Unavailable> {
    let mut lines = Vec::new();
    for kind in kinds {
        let broker = dirigent_brokers::up(*kind)?;
        lines.push(match broker.how() {
            // The reader has it already, and it may hold a password.
            How::Environment => format!("# {} is set and answers", kind.variable()),
            How::Compose | How::Started { .. } | How::Mock { .. } => {
                format!("{}={}", kind.variable(), broker.address())
            }
        });
        if let (Kind::RabbitMq, How::Started { .. }) = (kind, broker.how()) {
            lines.extend(administrator());
        }
    }
    Ok(lines)
}

/// The line that names this program as the administrator of the broker that it has started.
fn administrator() -> Option<String> {
    let program = std::env::current_exe().ok()?;
    // Whoever reads the line takes it apart at its spaces.
    let program = program.to_str().filter(|path| !path.contains(char::is_whitespace))?;
    Some(format!("{}=\"{program} rabbitmqctl\"", dirigent_brokers::RABBITMQCTL_VARIABLE))
}

fn administer(arguments: &[&str]) -> Result<Vec<String>, Unavailable> {
    let said = dirigent_brokers::rabbitmqctl(arguments)?;
    Ok(said.lines().map(ToOwned::to_owned).collect())
}

fn down() -> Result<Vec<String>, Unavailable> {
    let ended = dirigent_brokers::down()?;
    Ok(ended.iter().map(|kind| format!("# ended {kind}")).collect())
}

fn used() -> Result<Vec<String>, Unavailable> {
    let names: Vec<String> =
        dirigent_brokers::brokers_used()?.iter().map(ToString::to_string).collect();
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Ok(vec![format!("brokers used: {names}")])
}

fn say(to: &mut dyn Write, lines: &[String], code: ExitCode) -> ExitCode {
    for line in lines {
        if writeln!(to, "{line}").is_err() {
            return ExitCode::FAILURE;
        }
    }
    code
}
