//! The process that is measured, apart from the one that measures: so its memory is its own, and it can be killed.
//!
//! `bench measured --data FOLDER` opens the folder, tells how long it took until the first input was settled, and then does what it is asked for,
//! one JSON object a line each way. The broker, services and customers are of this process: they are in memory and cost the same at any size.

use super::{
    Error,
    figures::{Measured, once},
    house::{Build, House},
    latency::figures_of,
    orders::rates,
    resting,
    stage::Stage,
    system,
    track::Pace,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::mpsc,
};

/// The part of the orders that is refused.
const REJECT_RATE: f64 = 0.1;

/// What it is told to open.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// The data folder.
    #[arg(long)]
    pub data: PathBuf,
}

/// What it may be asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Asked {
    /// Let sagas begin until so many rest.
    Fill { live: u64 },
    /// What it takes of memory and disk.
    About,
    /// Orders as fast as they go.
    Closed { orders: u64, window: u64 },
    /// Orders by the clock.
    Open { orders_per_second: f64, seconds: f64, warm_up: f64 },
    /// Stop in order.
    Stop,
}

/// Opens the folder and does what it is asked for on standard input, until that ends or it is told to stop.
pub async fn run(settings: &Settings, begun: Instant) -> Result<(), Error> {
    let stage = Stage::memory();
    let build = Build { rests: true, ..Build::usual(rates(REJECT_RATE)) };
    let mut house = House::open(&stage, &settings.data, build).await?;
    let opened = begun.elapsed();
    // Numbers that no process before has placed: of two processes one is later, and none places more than one in a microsecond.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    house.track.begin_at(u64::try_from(now.as_micros())?);
    let first = house.track.first_input().await?;
    say(&json!({
        "opened_ms": opened.as_secs_f64() * 1e3,
        "first_settled_ms": first.duration_since(begun).as_secs_f64() * 1e3,
    }))?;
    let mut asked = heard();
    while let Some(line) = asked.recv().await {
        let asked: Asked = serde_json::from_str(&line?)?;
        let answer = match asked {
            Asked::Fill { live } => {
                let taken = resting::fill(&stage, &house, live).await?;
                json!({ "seconds": taken.as_secs_f64() })
            }
            Asked::About => about(&house, &settings.data),
            Asked::Closed { orders, window } => {
                house.timed.take();
                let closed = house.track.closed(orders, window).await?;
                let noted = house.timed.take();
                let ms = |time: Duration| time.as_secs_f64() * 1e3;
                once(&Measured::from([
                    ("events_per_second", closed.events_per_second()),
                    ("orders_per_second", closed.orders_per_second()),
                    ("input_to_durable_p50_ms", ms(noted.to_durable.quantile(0.5))),
                    ("input_to_durable_p99.9_ms", ms(noted.to_durable.quantile(0.999))),
                    ("longest_stall_ms", ms(noted.longest_stall)),
                ]))
            }
            Asked::Open { orders_per_second, seconds, warm_up } => {
                let lasts = Duration::from_secs_f64(seconds);
                let warm_up = Duration::from_secs_f64(warm_up);
                once(&figures_of(
                    &house.track.open(Pace { orders_per_second, lasts, warm_up }).await?,
                )?)
            }
            Asked::Stop => {
                house.close().await?;
                return say(&json!({}));
            }
        };
        say(&answer)?;
    }
    house.close().await
}

/// What is asked for: standard input can only be waited for by a thread.
fn heard() -> mpsc::Receiver<std::io::Result<String>> {
    let (tells, asked) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            if tells.blocking_send(line).is_err() {
                return;
            }
        }
    });
    asked
}

fn about(house: &House, data: &Path) -> Value {
    json!({
        "live": house.handle.snapshot().in_flight,
        "resident_bytes": system::resident_bytes(),
        "store_bytes": system::disk_bytes(&data.join("store")),
        "data_bytes": system::disk_bytes(data),
    })
}

fn say(answer: &Value) -> Result<(), Error> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{answer}")?;
    Ok(out.flush()?)
}

/// Such a process, from the side of whoever measures. Killed with this.
pub(super) struct Process {
    child: Child,
    asks: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    /// From being started to having opened its folder, and to the first input that was settled (ms).
    pub opened: Value,
}

impl Process {
    /// Starts one on this folder and waits for its first settled input.
    pub(super) async fn start(data: &Path) -> Result<Self, Error> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("measured")
            .arg("--data")
            .arg(data)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let asks = child.stdin.take().ok_or("the measured process has no input")?;
        let answers = child.stdout.take().ok_or("the measured process has no output")?;
        let answers = BufReader::new(answers).lines();
        let mut process = Self { child, asks, answers, opened: Value::Null };
        process.opened = process.answer().await?;
        Ok(process)
    }

    /// Asks for something, and waits for the answer.
    pub(super) async fn ask(&mut self, asked: &Asked) -> Result<Value, Error> {
        self.tell(asked).await?;
        self.answer().await
    }

    /// Asks for something whose answer nobody waits for.
    pub(super) async fn tell(&mut self, asked: &Asked) -> Result<(), Error> {
        let line = serde_json::to_string(asked)? + "\n";
        self.asks.write_all(line.as_bytes()).await?;
        Ok(self.asks.flush().await?)
    }

    async fn answer(&mut self) -> Result<Value, Error> {
        match self.answers.next_line().await? {
            Some(line) => Ok(serde_json::from_str(&line)?),
            None => Err("the measured process has ended; its own words are above".into()),
        }
    }

    /// Stops it in order.
    pub(super) async fn stop(mut self) -> Result<(), Error> {
        self.ask(&Asked::Stop).await?;
        self.child.wait().await?;
        Ok(())
    }

    /// `kill -9`.
    pub(super) async fn kill(mut self) -> Result<(), Error> {
        Ok(self.child.kill().await?)
    }
}

/// A number of an answer.
pub(super) fn number(answer: &Value, name: &str) -> Result<f64, Error> {
    let number = answer.get(name).and_then(Value::as_f64);
    number.ok_or_else(|| format!("the measured process did not tell {name}: {answer}").into())
}
