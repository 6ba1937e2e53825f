//! The home of one broker that was started here: its folder, processes, users, and end.
//!
//! `lock` guards starting and stopping, `lease` is held by every user, `state.json` tells the next
//! process where the broker is, `pids` tells the watchdog what to end, `keep` that it must not.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{self as this, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::broker::Kind;
use crate::error::{Unavailable, folder};
use crate::secured::{Files, Secured};
use crate::{apicurio, kafka, place, postgres, process, rabbitmq};

/// How long a shared broker lives without a user. Long enough to rebuild between two test runs.
pub const IDLE_MAX: Duration = Duration::from_secs(600);

/// How long a private broker lives after its test was killed: nobody else can want it.
pub const PRIVATE_IDLE_MAX: Duration = Duration::from_secs(10);

/// How long any broker lives that nobody asked to keep, users or not: a hung test ends some day.
const LIFE_MAX: Duration = Duration::from_secs(6 * 3600);

/// How long a broker lives that somebody asked to keep: a forgotten one ends after a working day.
pub const KEEP_MAX: Duration = Duration::from_secs(24 * 3600);

/// How long a broker may take until it answers. Thirty times what it takes when nothing else runs.
const START_MAX: Duration = Duration::from_secs(120);

/// How often a starting broker is asked whether it answers.
const START_POLL: Duration = Duration::from_millis(100);

/// How often starting is tried again on other ports: somebody may take a free port before us.
const START_ATTEMPTS_MAX: u32 = 3;

/// How long a killed process may take to go.
const END_MAX: Duration = Duration::from_secs(10);

/// How long the folder of a private broker whose test failed is kept for reading its log.
const LEFTOVER_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Loopback ports of one broker: for clients, for itself, for its helper, and for clients that it asks who they are.
pub(crate) type Ports = [u16; 4];

/// What a private broker is to be like.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wishes<'a> {
    /// Its clients are sent to this port of the machine, where it is a broker that tells them.
    pub(crate) proxy: Option<u16>,
    /// It asks who its clients are.
    pub(crate) secured: Option<&'a Secured>,
    /// More properties of its own configuration, where it is a Kafka.
    pub(crate) properties: &'a [(&'a str, &'a str)],
}

/// What the next process needs to know to use a broker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) version: String,
    pub(crate) ports: Ports,
    pub(crate) address: String,
    pub(crate) pids: Vec<u32>,
}

/// A broker that was started here, in use by this process as long as the value lives.
#[derive(Debug)]
pub(crate) struct Home {
    kind: Kind,
    path: PathBuf,
    private: bool,
    behind: bool,
    secured: bool,
    state: State,
    _lease: File,
}

impl Home {
    /// The shared one: used when it answers, started when not.
    pub(crate) fn shared(kind: Kind) -> Result<Self, Unavailable> {
        let path = shared_path(kind)?;
        let _lock = place::lock(&path.join("lock"))?;
        let lease = place::lease(&path.join("lease"))?;
        let running = read_state(&path).filter(|state| {
            state.pids.iter().all(|pid| process::is_ours(*pid, &path))
                && answers(kind, state).is_ok()
        });
        let state = match running {
            Some(state) => state,
            None => start(kind, &path, Wishes::default(), false)?,
        };
        Ok(Self { kind, path, private: false, behind: false, secured: false, state, _lease: lease })
    }

    /// One of one's own, with fresh data.
    pub(crate) fn private(kind: Kind, wishes: Wishes<'_>) -> Result<Self, Unavailable> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let all = place::root()?.join("private");
        place::create(&all)?;
        sweep(&all);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = all.join(format!("{}-{}-{number}", kind.word(), this::id()));
        // A process of the same number may have left its folder.
        place::remove(&path)?;
        place::create(&path)?;
        let lease = place::lease(&path.join("lease"))?;
        let state = start(kind, &path, wishes, true)?;
        let (behind, secured) = (wishes.proxy.is_some(), wishes.secured.is_some());
        Ok(Self { kind, path, private: true, behind, secured, state, _lease: lease })
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn is_private(&self) -> bool {
        self.private
    }

    pub(crate) fn is_behind(&self) -> bool {
        self.behind
    }

    pub(crate) fn is_secured(&self) -> bool {
        self.secured
    }

    /// Other certificates, from its next start on.
    pub(crate) fn secure(&self, secured: &Secured) -> Result<(), Unavailable> {
        match self.kind {
            Kind::Postgres => postgres::secure(&self.path, secured),
            Kind::Kafka | Kind::RabbitMq | Kind::SchemaRegistry => {
                Files::of(&self.path).write(secured)
            }
        }
    }

    pub(crate) fn log(&self) -> PathBuf {
        log_of(&self.path)
    }

    /// Keeps it from ending when nobody uses it.
    pub(crate) fn keep(&self) -> Result<(), Unavailable> {
        place::write(&self.path.join("keep"), "until `brokers down`\n")
    }

    pub(crate) fn signal(&self, name: &str) {
        for pid in read_pids(&self.path) {
            process::signal(pid, name, &self.path);
        }
        if self.kind == Kind::Postgres {
            process::signal_all(&postgres::children(&self.path), name);
        }
    }

    /// `kill -9`, and waits until the processes are gone.
    pub(crate) fn kill(&self) -> Result<(), Unavailable> {
        end_processes(self.kind, &self.path)
    }

    /// Starts it again after [`Home::kill`] on the same ports and data, and waits until it answers.
    pub(crate) fn restart(&self) -> Result<(), Unavailable> {
        self.kill()?;
        let pids = launch(self.kind, &self.path, self.state.ports)?;
        write_pids(&self.path, &pids)?;
        let state = State { pids, ..self.state.clone() };
        wait_until_it_answers(self.kind, &self.path, &state)?;
        Ok(())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if !self.private {
            return;
        }
        let ended = self.kill();
        // First of all the pids: without them the watchdog goes, too.
        let forgotten = place::remove(&self.path.join("pids"));
        if self.kind == Kind::Postgres
            && let Err(error) = postgres::clear(&self.path)
        {
            tracing::warn!(%error, "The data of a private PostgreSQL were not removed.");
        }
        // What a failed test leaves is kept for reading the log.
        let removed = if thread::panicking() { Ok(()) } else { place::remove(&self.path) };
        if let Err(error) = ended.and(forgotten).and(removed) {
            tracing::warn!(%error, "A private broker was not tidied up.");
        }
    }
}

/// The shared broker of this kind, when it lives and answers. Starts nothing.
pub(crate) fn running(kind: Kind) -> Result<Option<State>, Unavailable> {
    Ok(lives(kind)?.map(|(_, state)| state).filter(|state| answers(kind, state).is_ok()))
}

/// The shared broker of this kind and its folder, when its processes live, though it may not answer. Starts nothing.
pub(crate) fn lives(kind: Kind) -> Result<Option<(PathBuf, State)>, Unavailable> {
    let path = shared_path(kind)?;
    let state = read_state(&path)
        .filter(|state| state.pids.iter().all(|pid| process::is_ours(*pid, &path)));
    Ok(state.map(|state| (path, state)))
}

/// Ends the shared broker of this kind. Answers whether there was one.
pub(crate) fn down(kind: Kind) -> Result<bool, Unavailable> {
    let path = shared_path(kind)?;
    let _lock = place::lock(&path.join("lock"))?;
    let lived = read_pids(&path).iter().any(|pid| process::is_ours(*pid, &path));
    end_processes(kind, &path)?;
    for name in ["keep", "pids", "state.json", "data"] {
        place::remove(&path.join(name))?;
    }
    if kind == Kind::Postgres {
        postgres::clear(&path)?;
    }
    Ok(lived)
}

fn shared_path(kind: Kind) -> Result<PathBuf, Unavailable> {
    let path = place::root()?.join(kind.word());
    place::create(&path)?;
    Ok(path)
}

fn start(kind: Kind, path: &Path, wishes: Wishes<'_>, private: bool) -> Result<State, Unavailable> {
    let mut attempt = 1;
    loop {
        match start_once(kind, path, wishes, private) {
            // What is missing stays missing; what failed may have lost the race for a port.
            Err(error @ Unavailable::Failed { .. }) if attempt < START_ATTEMPTS_MAX => {
                tracing::warn!(%error, attempt, "A broker did not start, trying other ports.");
                attempt += 1;
            }
            other => return other,
        }
    }
}

fn start_once(
    kind: Kind,
    path: &Path,
    wishes: Wishes<'_>,
    private: bool,
) -> Result<State, Unavailable> {
    let doing = "starting the broker";
    end_processes(kind, path)?;
    for name in ["pids", "state.json", "data", "broker.log"] {
        place::remove(&path.join(name))?;
    }
    place::create(&path.join("data"))?;
    let ports = process::free_ports().map_err(folder("finding free loopback ports for", path))?;
    match kind {
        Kind::Kafka => kafka::lay_out(path, ports, wishes)?,
        Kind::RabbitMq => rabbitmq::lay_out(path, ports, wishes)?,
        Kind::SchemaRegistry => {}
        Kind::Postgres => postgres::lay_out(path, wishes)?,
    }
    let pids = launch(kind, path, ports)?;
    write_pids(path, &pids)?;
    start_watchdog(path, private).map_err(|error| Unavailable::Failed {
        kind,
        doing,
        why: error.to_string(),
        log: None,
    })?;
    let address = match kind {
        Kind::Kafka => kafka::address(ports),
        Kind::RabbitMq => rabbitmq::address(ports),
        Kind::SchemaRegistry => apicurio::address(ports),
        Kind::Postgres => postgres::address(ports, wishes),
    };
    let mut state = State { version: String::new(), ports, address, pids };
    state.version = wait_until_it_answers(kind, path, &state).inspect_err(|_| {
        // Half a broker helps nobody, and the next attempt takes other ports.
        if let Err(error) = end_processes(kind, path) {
            tracing::warn!(%error, "A broker that did not start was not ended either.");
        }
    })?;
    let text = serde_json::to_string_pretty(&state).expect("a state has no maps or odd keys");
    place::write(&path.join("state.json"), &text)?;
    Ok(state)
}

fn launch(kind: Kind, path: &Path, ports: Ports) -> Result<Vec<u32>, Unavailable> {
    match kind {
        Kind::Kafka => kafka::launch(path),
        Kind::RabbitMq => rabbitmq::launch(path, ports),
        Kind::SchemaRegistry => apicurio::launch(path, ports),
        Kind::Postgres => postgres::launch(path, ports),
    }
}

fn start_watchdog(path: &Path, private: bool) -> std::io::Result<u32> {
    let script = path.join("watchdog.sh");
    fs::write(&script, include_str!("watchdog.sh"))?;
    let (idle, kind) = if private { (PRIVATE_IDLE_MAX, "private") } else { (IDLE_MAX, "shared") };
    let mut watchdog = Command::new("sh");
    watchdog.arg(&script).arg(path);
    watchdog.args([idle, LIFE_MAX, KEEP_MAX].map(|bound| bound.as_secs().to_string())).arg(kind);
    process::launch(&watchdog, &path.join("watchdog.log"))
}

/// How long a process has to be gone before it counts as ended. Start scripts become other programs, and on a busy
/// machine a look may fall between two of them.
const GONE_FOR: Duration = Duration::from_secs(3);

fn wait_until_it_answers(kind: Kind, path: &Path, state: &State) -> Result<String, Unavailable> {
    let log = log_of(path);
    let failed = |why: String| Unavailable::Failed {
        kind,
        doing: "starting the broker",
        why,
        log: Some(log.clone()),
    };
    let mut gone_since: Option<Instant> = None;
    let begun = Instant::now();
    loop {
        let why = match answers(kind, state) {
            Ok(version) => return Ok(version),
            Err(why) => why,
        };
        if state.pids.iter().all(|pid| process::is_ours(*pid, path)) {
            gone_since = None;
        } else if gone_since.get_or_insert_with(Instant::now).elapsed() > GONE_FOR {
            return Err(failed(format!("it ended; {}", process::tail(&log))));
        }
        if begun.elapsed() > START_MAX {
            let waited = START_MAX.as_secs();
            return Err(failed(format!("no answer in {waited} s: {why}; {}", process::tail(&log))));
        }
        thread::sleep(START_POLL);
    }
}

/// Its version, or why it does not answer.
fn answers(kind: Kind, state: &State) -> Result<String, String> {
    match kind {
        Kind::Kafka => kafka::answers(&state.address).map(|()| kafka::VERSION.to_owned()),
        Kind::RabbitMq => rabbitmq::answers(&state.address),
        Kind::SchemaRegistry => {
            apicurio::answers(&state.address).map(|()| format!("Apicurio {}", apicurio::VERSION))
        }
        Kind::Postgres => postgres::answers(&state.address),
    }
}

fn end_processes(kind: Kind, path: &Path) -> Result<(), Unavailable> {
    let pids = read_pids(path);
    let begun = Instant::now();
    loop {
        let living: Vec<u32> =
            pids.iter().copied().filter(|pid| process::is_ours(*pid, path)).collect();
        let children = if kind == Kind::Postgres { postgres::children(path) } else { Vec::new() };
        if living.is_empty() && children.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > END_MAX {
            return Err(Unavailable::Failed {
                kind,
                doing: "killing the broker",
                why: format!("processes {living:?} live on"),
                log: None,
            });
        }
        for pid in living {
            process::signal(pid, "KILL", path);
        }
        process::signal_all(&children, "KILL");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Removes what private brokers of failed tests left long ago.
fn sweep(all: &Path) {
    let Ok(entries) = fs::read_dir(all) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_old = fs::metadata(&path).and_then(|meta| meta.modified()).is_ok_and(|at| {
            SystemTime::now().duration_since(at).is_ok_and(|age| age > LEFTOVER_AGE_MAX)
        });
        if is_old && !path.join("pids").exists() && !place::is_leased(&path.join("lease")) {
            // Another process may be sweeping, too: whoever comes second finds nothing.
            let _ = place::remove(&path);
        }
    }
}

fn log_of(path: &Path) -> PathBuf {
    path.join("broker.log")
}

fn read_state(path: &Path) -> Option<State> {
    serde_json::from_str(&fs::read_to_string(path.join("state.json")).ok()?).ok()
}

fn read_pids(path: &Path) -> Vec<u32> {
    let text = fs::read_to_string(path.join("pids")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn write_pids(path: &Path, pids: &[u32]) -> Result<(), Unavailable> {
    let text: String = pids.iter().map(|pid| format!("{pid}\n")).collect();
    place::write(&path.join("pids"), &text)
}
