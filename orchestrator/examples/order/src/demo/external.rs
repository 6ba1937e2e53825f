//! Services that are programs of their own, in any language: started for a demo, asked for their ledger, probed for the conformance kit.
//!
//! Such a program understands `run --broker KIND --prefix TEXT --seed N --reject-rate R --silent-rate R --ledger FILE
//! --until-input-ends`, with the broker's address in the environment as everywhere here, and `ledger --ledger FILE`, which prints the
//! entries of its ledger as JSON.

use super::args::{BrokerKind, DemoArgs};
use crate::ledger::Entry;
use serde::de::DeserializeOwned;
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    process::{Child, ChildStdin, Command},
    time::timeout,
};

/// How long a program may take to say something. Far more than any look into a ledger takes.
const SAYS_WITHIN: Duration = Duration::from_secs(30);

/// How long it may take to end once its input has ended. Then it is killed, which must harm nothing.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// Bytes of a log's end that are shown.
const LOG_TAIL_BYTES: usize = 1_000;

/// What is wrong with a program.
#[derive(Debug, thiserror::Error)]
pub enum ExternalFailed {
    /// Nothing was named.
    #[error("a program with its arguments is wanted, separated by spaces")]
    NoProgram,
    /// It can't be started.
    #[error("running `{program}`; is it installed, and is the path right?")]
    Unstartable {
        /// Which.
        program: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// It says nothing.
    #[error("`{program}` has not ended within {} s", SAYS_WITHIN.as_secs())]
    Endless {
        /// Which.
        program: String,
    },
    /// It ended by itself.
    #[error("`{program}` ended with {status}: {said}")]
    Ended {
        /// Which.
        program: String,
        /// How.
        status: String,
        /// The end of what it said.
        said: String,
    },
    /// It says something else than it was asked for.
    #[error("reading what `{program}` printed as JSON")]
    Strange {
        /// Which.
        program: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
}

/// A program and its first arguments.
#[derive(Debug, Clone)]
pub(super) struct Program {
    program: String,
    arguments: Vec<String>,
}

impl Program {
    /// Words separated by spaces.
    pub(super) fn of(line: &str) -> Result<Self, ExternalFailed> {
        let mut words = line.split_whitespace().map(str::to_owned);
        let program = words.next().ok_or(ExternalFailed::NoProgram)?;
        Ok(Self { program, arguments: words.collect() })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).kill_on_drop(true);
        command
    }

    fn unstartable(&self, source: std::io::Error) -> ExternalFailed {
        ExternalFailed::Unstartable { program: self.program.clone(), source }
    }

    /// What it prints, with these arguments behind its own.
    pub(super) async fn says<T: DeserializeOwned>(
        &self,
        arguments: &[&str],
    ) -> Result<T, ExternalFailed> {
        let program = || self.program.clone();
        let said = timeout(SAYS_WITHIN, self.command().args(arguments).output()).await;
        let said = said
            .map_err(|_| ExternalFailed::Endless { program: program() })?
            .map_err(|source| self.unstartable(source))?;
        if !said.status.success() {
            let (status, said) = (said.status.to_string(), tail(&said.stderr));
            return Err(ExternalFailed::Ended { program: program(), status, said });
        }
        serde_json::from_slice(&said.stdout)
            .map_err(|source| ExternalFailed::Strange { program: program(), source })
    }
}

/// A service of a demo that is a process of its own.
pub(super) struct External {
    program: Program,
    ledger: PathBuf,
    log: PathBuf,
    child: Child,
    /// Held open: waiting for a child closes the input it still has.
    input: Option<ChildStdin>,
}

impl External {
    /// Starts it. Ledger and log lie in `folder`.
    pub(super) fn start(
        line: &str,
        args: &DemoArgs,
        address: &str,
        prefix: &str,
        folder: &Path,
    ) -> Result<Self, ExternalFailed> {
        let program = Program::of(line)?;
        let (ledger, log) = (folder.join("inventory.db"), folder.join("inventory.log"));
        let (broker, variable) = match args.broker {
            BrokerKind::Kafka => ("kafka", dirigent_brokers::KAFKA_VARIABLE),
            BrokerKind::Rabbitmq | BrokerKind::Memory => {
                ("rabbitmq", dirigent_brokers::RABBITMQ_VARIABLE)
            }
        };
        let rates = args.rates;
        let said = File::create(&log).map_err(|source| program.unstartable(source))?;
        let mut child = program
            .command()
            .args(["run", "--broker", broker, "--prefix", prefix, "--until-input-ends"])
            .args(["--seed", &rates.seed.to_string()])
            .args(["--reject-rate", &rates.reject_rate.to_string()])
            .args(["--silent-rate", &rates.silent_rate.to_string()])
            .arg("--ledger")
            .arg(&ledger)
            .env(variable, address)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .map_err(|source| program.unstartable(source))?;
        let input = child.stdin.take();
        Ok(Self { program, ledger, log, child, input })
    }

    /// Waits until it has ended, which it should not by itself.
    pub(super) async fn ended(&mut self) -> ExternalFailed {
        let program = self.program.program.clone();
        let status = match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let said = tail(&std::fs::read(&self.log).unwrap_or_default());
        ExternalFailed::Ended { program, status, said }
    }

    /// What its ledger says.
    pub(super) async fn entries(&self) -> Result<Vec<Entry>, ExternalFailed> {
        let ledger = self.ledger.to_string_lossy();
        self.program.says(&["ledger", "--ledger", &ledger]).await
    }

    /// Ends its input, and it with that.
    pub(super) async fn stop(mut self) {
        drop(self.input.take());
        // Killed when dropped, where it does not end.
        if timeout(ENDS_WITHIN, self.child.wait()).await.is_err() {
            tracing::warn!(
                program = self.program.program,
                "It did not end with its input and is killed."
            );
        }
    }
}

fn tail(bytes: &[u8]) -> String {
    let from = bytes.len().saturating_sub(LOG_TAIL_BYTES);
    String::from_utf8_lossy(&bytes[from..]).trim().replace('\n', " | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn says(script: &str) -> Result<Vec<u64>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("script");
        std::fs::write(&path, script).unwrap();
        let program = Program::of(&format!("sh {}", path.display())).unwrap();
        program.says(&["3"]).await.map_err(|error| dirigent::describe(&error))
    }

    #[tokio::test]
    async fn what_a_program_prints_is_read_and_its_trouble_is_told() {
        assert_eq!(says("echo [1, $1]").await, Ok(vec![1, 3]));
        let told = says("echo no such ledger >&2; exit 4").await.unwrap_err();
        assert!(told.contains("exit status: 4: no such ledger"), "{told}");
        let told = says("echo nothing").await.unwrap_err();
        assert!(told.starts_with("reading what `sh` printed as JSON"), "{told}");
        assert!(matches!(Program::of("  "), Err(ExternalFailed::NoProgram)));
    }
}
