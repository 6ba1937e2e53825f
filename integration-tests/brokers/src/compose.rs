//! The brokers of the project's `docker-compose.yml`, where a docker engine runs.

use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::broker::Kind;
use crate::error::Unavailable;
use crate::process::{self, Ran};
use crate::{kafka, place, rabbitmq};

/// How long the engine may take to say that it is there. Silence means that it is not.
const ENGINE_MAX: Duration = Duration::from_secs(10);

/// How long pulling the image and becoming healthy may take.
const UP_MAX: Duration = Duration::from_secs(600);

/// Where the file publishes the brokers.
const KAFKA_ADDRESS: &str = "127.0.0.1:9092";
const RABBITMQ_ADDRESS: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";

/// Starts the broker with docker compose. Answers its address, or `None` without an engine.
pub(crate) fn up(kind: Kind) -> Result<Option<String>, Unavailable> {
    // The file knows neither a registry nor a database.
    let file = place::workspace().map(|root| root.join("docker-compose.yml"));
    let Some(file) = file.filter(|file| file.is_file()) else { return Ok(None) };
    if matches!(kind, Kind::SchemaRegistry | Kind::Postgres) || !engine_runs()? {
        return Ok(None);
    }
    let root = place::root()?;
    let log = root.join(format!("compose-{}.log", kind.word()));
    let failed = |why: String| Unavailable::Failed {
        kind,
        doing: "docker compose up",
        why,
        log: Some(log.clone()),
    };
    // One process at a time: docker does not like the same container created twice.
    let _lock = place::lock(&root.join("compose.lock"))?;
    let mut command = Command::new("docker");
    command.args(["compose", "-f"]).arg(&file).args(["up", "-d", "--wait", kind.word()]);
    match process::run(&mut command, &log, UP_MAX) {
        Ran::Well => {}
        Ran::Badly(why) => return Err(failed(why)),
    }
    let (address, answer) = match kind {
        Kind::Kafka => (KAFKA_ADDRESS, kafka::answers(KAFKA_ADDRESS)),
        Kind::RabbitMq => (RABBITMQ_ADDRESS, rabbitmq::answers(RABBITMQ_ADDRESS).map(drop)),
        Kind::SchemaRegistry | Kind::Postgres => return Ok(None),
    };
    answer.map_err(failed)?;
    Ok(Some(address.to_owned()))
}

/// Asked once per process: the answer takes a third of a second even without an engine.
fn engine_runs() -> Result<bool, Unavailable> {
    static RUNS: OnceLock<bool> = OnceLock::new();
    if let Some(runs) = RUNS.get() {
        return Ok(*runs);
    }
    let log = place::root()?.join("docker-info.log");
    place::remove(&log)?;
    let runs = process::find("docker").is_some_and(|docker| {
        let ran = process::run(Command::new(docker).arg("info"), &log, ENGINE_MAX);
        matches!(ran, Ran::Well)
    });
    Ok(*RUNS.get_or_init(|| runs))
}
