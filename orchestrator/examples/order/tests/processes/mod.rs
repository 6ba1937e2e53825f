//! Processes of the example at a broker of their own, for tests that do harm to them.

#![allow(
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    reason = "shared by several test binaries, each of which uses a part"
)]

use dirigent_brokers::{Broker, Kind};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Repeats the random moments of a run, which prints it.
pub const SEED: &str = "DIRIGENT_TEST_SEED";

/// Says how often the orchestrator is killed, at random moments.
pub const KILLS: &str = "DIRIGENT_TEST_KILLS";

/// Says how many orders are placed: half of them at once, the others in slices before each kill.
pub const ORDERS: &str = "DIRIGENT_TEST_ORDERS";

/// How long a start may take, the wait for a killed owner's place at a Kafka included.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How often is looked whether all orders have ended.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// A number of the environment, where it says one.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|said| said.parse().expect(name))
}

/// The seed of this run, which it prints.
pub fn seed() -> u64 {
    let seed = number(SEED).unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        u64::from(since.subsec_nanos())
    });
    eprintln!("{SEED}={seed}");
    seed
}

/// Numbers that look random and come again with their seed (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// A broker, and where processes keep what.
pub struct At<'a> {
    pub broker: &'a Broker,
    pub folder: PathBuf,
}

impl At<'_> {
    pub fn word(&self) -> &'static str {
        match self.broker.kind() {
            Kind::Kafka => "kafka",
            Kind::RabbitMq => "rabbitmq",
            Kind::SchemaRegistry | Kind::Postgres => unreachable!("it is no broker"),
        }
    }

    pub fn order(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_order"));
        command
            .args(arguments)
            .current_dir(&self.folder)
            .env(self.broker.kind().variable(), self.broker.address())
            .env("DIRIGENT_LOG", "error,lapin=off");
        // They are for this test alone, and the orchestrator warns of what it does not know.
        for own in [ORDERS, KILLS, SEED] {
            command.env_remove(own);
        }
        command
    }

    fn starts(&self, arguments: &[&str]) -> Process {
        self.runs(self.order(arguments))
    }

    fn runs(&self, mut command: Command) -> Process {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let said = child.stderr.take().unwrap();
        let (tell, ready) = channel();
        let heard = Arc::new(Mutex::new(String::new()));
        let hears = Arc::clone(&heard);
        // Read to its end, so that the process never waits for a reader.
        let reader = thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                if line.starts_with("ready:") {
                    tell.send(()).ok();
                } else {
                    eprintln!("{line}");
                }
                let mut heard = hears.lock().unwrap();
                heard.push_str(&line);
                heard.push('\n');
            }
        });
        Process { child, ready, heard, reader: Some(reader) }
    }

    pub fn engine(&self) -> Process {
        self.starts(&["run", "--data", "orchestrator", "--broker", self.word()])
    }

    /// One that logs what heals by itself, too.
    pub fn engine_that_warns(&self) -> Process {
        let mut command = self.order(&["run", "--data", "orchestrator", "--broker", self.word()]);
        command.env("DIRIGENT_LOG", "error,dirigent::engine=warn,lapin=off");
        self.runs(command)
    }

    /// What the orchestrator has done so far, as its running process tells; nothing where that has no answer.
    pub fn done_so_far(&self) -> Option<Value> {
        let output = self.order(&["status", "--data", "orchestrator", "--json"]).output().unwrap();
        let mut found: Value = serde_json::from_slice(&output.stdout).ok()?;
        Some(found["counts"].take()).filter(|counts| !counts.is_null())
    }

    /// Waits until so many orders have ended, doing `meanwhile` now and then. Fails where nothing gets on any more, however many
    /// orders there are and however slow the machine is: with what the orchestrator says.
    pub fn until_all_have_ended(
        &self,
        orders: u64,
        stalled_after: Duration,
        mut meanwhile: impl FnMut(),
    ) {
        let (mut last, mut since) = (None, Instant::now());
        loop {
            meanwhile();
            let done = self.done_so_far();
            if done.as_ref().is_some_and(|it| it["started"] == orders && it["in_flight"] == 0) {
                return;
            }
            if done.is_some() && done != last {
                (last, since) = (done, Instant::now());
            }
            assert!(since.elapsed() < stalled_after, "nothing gets on any more: {}", self.says());
            thread::sleep(LOOK_EVERY);
        }
    }

    /// What an operator would look at first.
    pub fn says(&self) -> String {
        let list = ["list", "--data", "orchestrator", "--limit", "5"];
        let blocked = [&list[..], &["--status", "blocked"]].concat();
        let questions = [&["status", "--data", "orchestrator"][..], &list, &blocked];
        let answers = questions.map(|question| self.order(question).output().unwrap());
        answers
            .iter()
            .flat_map(|answer| [&answer.stdout, &answer.stderr])
            .map(|said| String::from_utf8_lossy(said).into_owned())
            .collect()
    }

    /// One of that durability, under another program.
    pub fn engine_under(&self, durability: &str, under: impl Fn(&Command) -> Command) -> Process {
        let told = ["--data", "orchestrator", "--broker", self.word(), "--durability", durability];
        self.runs(under(&self.order(&[&["run"][..], &told].concat())))
    }

    pub fn services(&self) -> Process {
        self.services_with(&[])
    }

    /// Services that are told more.
    pub fn services_with(&self, more: &[&str]) -> Process {
        let told = ["participants", "--data", "services", "--broker", self.word(), "--seed", "7"];
        self.starts(&[&told, more].concat())
    }

    /// Places the orders above `placed`, up to `until`.
    pub fn places(&self, placed: u64, until: u64) {
        let [from, count] = [placed + 1, until - placed].map(|number| number.to_string());
        let seed = ["--seed", "7", "--broker", self.word()];
        said(self.order(&[&["publish", "--from", &from, "--orders", &count], &seed[..]].concat()));
    }

    /// Whether the folder of an orchestrator that was killed holds instances that have not ended.
    pub fn under_way(&self) -> bool {
        let list = ["list", "--data", "orchestrator", "--limit", "1", "--json", "--status"];
        ["running", "turning-back"].into_iter().any(|status| {
            let output = said(self.order(&[&list[..], &[status]].concat()));
            let found: Value = serde_json::from_slice(&output.stdout).unwrap();
            found["instances"].as_array().is_some_and(|found| !found.is_empty())
        })
    }

    /// Every message that was consumed so far is accounted for.
    pub fn audits(&self) {
        let output = self.order(&["audit", "--data", "orchestrator"]).output().unwrap();
        let (found, error) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{found}{error}");
        self.checks("orchestrator");
    }

    /// The same, with the accounts.
    pub fn audited(&self) -> Value {
        self.audits();
        let output = said(self.order(&["audit", "--data", "orchestrator", "--json"]));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Checks the folder of the orchestrator, or of a service, that was killed or stopped.
    fn checks(&self, folder: &str) {
        let output = self.order(&["fsck", "--data", folder]).output().unwrap();
        let (found, error) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{folder}: {found}{error}");
    }

    /// The same for the folders of all services.
    pub fn checks_services(&self) {
        for entry in std::fs::read_dir(self.folder.join("services")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            self.checks(&format!("services/{name}"));
        }
    }

    pub fn reconciled(&self) -> Value {
        self.reconciled_with(&[])
    }

    /// Of services that were told more.
    pub fn reconciled_with(&self, more: &[&str]) -> Value {
        let told = ["reconcile", "--data", "orchestrator", "--services", "services", "--json"];
        let output = self.order(&[&told, more].concat()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
    }
}

/// Runs to its end, which is a good one.
fn said(mut command: Command) -> Output {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    output
}

/// A process that ends with the test.
pub struct Process {
    child: Child,
    ready: Receiver<()>,
    heard: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Waits until it says so.
    pub fn is_ready(&mut self) {
        self.ready.recv_timeout(READY_WITHIN).expect("the process gets ready");
    }

    pub fn gets(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Whether it has logged this.
    pub fn has_said(&self, text: &str) -> bool {
        self.heard.lock().unwrap().contains(text)
    }

    pub fn dies(mut self) {
        self.child.kill().unwrap();
        self.ends();
    }

    pub fn stops(&mut self) {
        self.gets("TERM");
        self.ends();
    }

    pub fn ends(&mut self) {
        self.child.wait().unwrap();
        self.reader.take().map(JoinHandle::join).transpose().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
