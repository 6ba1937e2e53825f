//! A broker that asks who its clients are, and clients with good and with bad papers: for the tests of secure brokers.
//!
//! All certificates are made here, anew for each run.

#![allow(
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    reason = "shared by several test binaries, each of which uses a part"
)]

mod papers;

use bytes::Bytes;
use dirigent_brokers::{Broker, Kind, Secured};
use dirigent_connectors::{
    Attributes, ChannelKind, ChannelSpec, Connector, Health, Message, Sent, Settle, Sink, Source,
    SourceSpec, health::Standing, names,
};
use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

pub use papers::{Authority, LATER, OVER, Papers};

/// The user, who is in the certificate of the clients as well.
pub const USER: &str = "ann";

/// To be found in nothing that is printed.
pub const PASSWORD: &str = "s3cret-of-ann";

/// How long anything may take here: machines are busy, and a broker needs a while to start.
pub const PATIENCE: Duration = Duration::from_secs(150);

/// What the broker shows and asks, with a certificate that ends with this year.
pub fn broker_of(authority: &Authority, until: i32) -> Secured {
    let Papers { certificate, key } = authority.issues("broker", "127.0.0.1", until);
    Secured { ca: authority.pem(), certificate, key, user: USER.into(), password: PASSWORD.into() }
}

/// The files of a client, good and bad ones, in a folder.
pub struct Client {
    pub folder: PathBuf,
}

impl Client {
    /// Writes papers of `authority`, and those of a stranger whom the broker does not trust.
    pub fn of(authority: &Authority, folder: &Path) -> Self {
        let stranger = Authority::new("stranger");
        let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
        for (name, by) in [("", authority), ("stranger-", &stranger)] {
            let Papers { certificate, key } = by.issues(USER, "client", LATER);
            write(&format!("{name}ca.pem"), &by.pem());
            write(&format!("{name}client.pem"), &certificate);
            write(&format!("{name}client.key"), &key);
        }
        write("password", &format!("{PASSWORD}\n"));
        write("wrong-password", "s3cret-of-nobody\n");
        Self { folder: folder.to_owned() }
    }

    pub fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// The example with these settings, and no others.
    pub fn order(&self, settings: &[(String, String)], arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_order"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("DIRIGENT_") {
                command.env_remove(name);
            }
        }
        command.args(arguments).current_dir(&self.folder).env("DIRIGENT_LOG", "warn,lapin=off");
        command.envs(settings.iter().map(|(name, value)| (name, value)));
        command
    }

    /// A start that fails: what it says, which holds no secret.
    pub fn refused(&self, settings: &[(String, String)], broker: &str, data: &str) -> String {
        // Far longer than the refusal may take, since nothing is to be waited for.
        let wait = ["--wait-for-broker", "100"];
        let start = ["run", "--broker", broker, "--data", data];
        let begun = Instant::now();
        let output = self.order(settings, &[&start[..], &wait].concat()).output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(begun.elapsed() < Duration::from_secs(90), "it has waited: {said}");
        said
    }

    /// Starts a process of the example, and waits until it is ready.
    pub fn starts(&self, settings: &[(String, String)], arguments: &[&str]) -> Running {
        let mut command = self.order(settings, arguments);
        command.env("DIRIGENT_LOG", "warn,order=info,lapin=off");
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let ready = |line: &String| line.starts_with("ready:") || line.contains("are running");
        assert!(lines.any(|line| ready(&line)), "{arguments:?} ended before it was ready");
        // Read to its end, so that the process never waits for a reader.
        thread::spawn(move || lines.for_each(|line| eprintln!("{line}")));
        Running(child)
    }
}

/// A start that fails: what is wrong, the settings that are said otherwise, and what has to be told.
pub type Case<'a> = (&'a str, Vec<(&'a str, String)>, Vec<&'a str>);

/// A process that ends with the test.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Settings with some of them said otherwise; an empty one is not said.
pub fn but(settings: &[(String, String)], others: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut changed = settings.to_vec();
    for (name, value) in others {
        changed.retain(|(known, _)| known != name);
        changed.push(((*name).to_owned(), (*value).to_owned()));
    }
    changed
}

/// All that a process has printed, which holds no secret.
pub fn said(output: &Output) -> String {
    let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    let text = text.concat();
    assert!(!text.contains("s3cret"), "a secret was printed");
    text
}

/// The demo balances, and says how it got in.
pub fn demo_balances(client: &Client, settings: &[(String, String)], broker: &str) -> String {
    let demo = ["demo", "--orders", "200", "--seed", "7", "--broker", broker];
    let output = client.order(settings, &demo).output().unwrap();
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("200 started, 179 completed, 21 compensated"), "{text}");
    assert!(text.contains("balanced"), "{text}");
    text
}

/// No setting that is shown tells a secret.
pub fn shows_no_secret(client: &Client, settings: &[(String, String)]) -> String {
    let output = client.order(settings, &["config", "show"]).output().unwrap();
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    text
}

pub fn message(id: usize) -> Message {
    Message {
        channel: "work".into(),
        kind: ChannelKind::Work,
        key: "k".into(),
        attributes: Attributes::new().with(names::ID, id.to_string()),
        others: vec![],
        body: Bytes::from_static(b"{}"),
    }
}

pub async fn source(connector: &dyn Connector) -> Box<dyn Source> {
    let channel = ChannelSpec::work("work");
    connector.prepare(std::slice::from_ref(&channel)).await.unwrap();
    let spec = SourceSpec {
        channels: vec![channel],
        group: "test".into(),
        positions: vec![],
        unsettled_max: 100,
    };
    connector.source(spec).await.unwrap()
}

pub async fn until(health: &Health, wanted: impl FnMut(&Standing) -> bool) -> Standing {
    let standing = tokio::time::timeout(PATIENCE, health.until(wanted)).await;
    standing.unwrap_or_else(|_| panic!("it still says {:?}", health.report()))
}

pub async fn confirmed(sink: &mut dyn Sink, mut open: Vec<Message>) {
    let begin = Instant::now();
    while !open.is_empty() {
        assert!(begin.elapsed() < PATIENCE, "the sink did not heal");
        let outcomes = sink.send(&open).await;
        let mut outcomes = outcomes.iter();
        open.retain(|_| outcomes.next() != Some(&Sent::Confirmed));
    }
}

/// Receives and settles until each of the first `count` messages has come.
pub async fn all_come(source: &mut dyn Source, count: usize) {
    let mut seen = BTreeSet::new();
    while seen.len() < count {
        let read = tokio::time::timeout(PATIENCE, source.receive(100)).await;
        let read = read.unwrap_or_else(|_| panic!("only {seen:?} came")).unwrap();
        let done: Vec<_> = read.iter().map(|it| (it.receipt, Settle::Done)).collect();
        source.settler().settle(&done);
        seen.extend(
            read.iter()
                .map(|it| it.message.attributes.get(names::ID).unwrap().parse::<usize>().unwrap()),
        );
    }
    assert_eq!(seen, (0..count).collect::<BTreeSet<usize>>());
}

/// The name of a broker on the command line.
pub fn word(broker: &Broker) -> &'static str {
    match broker.kind() {
        Kind::Kafka => "kafka",
        Kind::RabbitMq => "rabbitmq",
        Kind::SchemaRegistry | Kind::Postgres => unreachable!("it is no broker"),
    }
}
