//! A whole process under its command line: ready, asked by another process, told to stop, killed, and started again.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

mod support;

use dirigent::{
    cli::{ConfigVerb, ListArgs, RunArgs, StatusArgs, Verb},
    config::SettingsArgs,
};
use dirigent_connectors::memory::MemoryBroker;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, ExitCode, Output, Stdio},
};
use support::purchase;

/// Names the data folder to whom runs as a child.
const FOLDER: &str = "DIRIGENT_TEST_PROCESS_FOLDER";

/// What the child of a test does, by the name of a test here. It ends with the exit code of its verb.
/// One of the tests here as a process of its own, which knows no settings but those that it is given.
fn child(test: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DIRIGENT_"))
    {
        command.env_remove(name);
    }
    command.args(["--exact", test, "--ignored", "--nocapture", "--quiet"]).env(FOLDER, folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn as_child(verb: impl FnOnce(SettingsArgs) -> Verb) {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let settings = SettingsArgs { data: Some(folder.into()), ..SettingsArgs::default() };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cli = dirigent::cli("shop").saga(purchase(1)).memory_broker(MemoryBroker::new());
    let code = runtime.block_on(cli.execute(verb(settings)));
    let is_good = format!("{code:?}") == format!("{:?}", ExitCode::SUCCESS);
    std::process::exit(if is_good { 0 } else { 1 });
}

#[test]
#[ignore = "run by the tests below as a process of its own"]
fn runs() {
    as_child(|settings| {
        let settings = SettingsArgs { broker: Some("memory".into()), ..settings };
        Verb::Run(RunArgs { settings })
    });
}

#[test]
#[ignore = "run by the tests below as a process of its own"]
fn runs_and_answers_by_http() {
    as_child(|settings| {
        let (broker, http) = (Some("memory".into()), Some("127.0.0.1:0".into()));
        Verb::Run(RunArgs { settings: SettingsArgs { broker, http, ..settings } })
    });
}

#[test]
#[ignore = "run by the tests below as a process of its own"]
fn says_how_it_stands() {
    as_child(|settings| {
        let mut args = StatusArgs::default();
        args.folder.data = settings.data;
        Verb::Status(args)
    });
}

#[test]
#[ignore = "run by the tests below as a process of its own"]
fn runs_with_a_broker_that_is_away() {
    as_child(|settings| {
        let settings = SettingsArgs {
            broker: Some("rabbitmq".into()),
            // Nobody listens on the port of discard.
            rabbitmq: Some("amqp://ann:s3cret@127.0.0.1:9/%2f".into()),
            wait_for_broker: Some("1".into()),
            ..settings
        };
        Verb::Run(RunArgs { settings })
    });
}

#[test]
#[ignore = "run by the tests below as a process of its own"]
fn runs_with_a_log_that_is_away() {
    as_child(|settings| {
        let settings = SettingsArgs {
            broker: Some("kafka".into()),
            kafka: Some("127.0.0.1:9".into()),
            wait_for_broker: Some("1".into()),
            ..settings
        };
        Verb::Run(RunArgs { settings })
    });
}

#[test]
#[ignore = "run by the tests below as a process of its own"]
fn lists() {
    as_child(|settings| {
        let mut args = ListArgs::default();
        args.folder.data = settings.data;
        Verb::List(args)
    });
}

#[test]
#[ignore = "run by the tests below as a process of its own"]
fn shows_settings() {
    as_child(|settings| Verb::Config(ConfigVerb::Show(RunArgs { settings })));
}

#[test]
#[ignore = "run by the tests below as a process of its own"]
fn checks_settings() {
    as_child(|settings| Verb::Config(ConfigVerb::Check(RunArgs { settings })));
}

/// A process that said that it is ready.
struct Running {
    child: Child,
    errors: BufReader<std::process::ChildStderr>,
    /// The line that says so.
    ready: String,
}

impl Running {
    fn start(folder: &Path) -> Self {
        Self::start_as("runs", folder)
    }

    fn start_as(test: &str, folder: &Path) -> Self {
        let mut child = child(test, folder).spawn().unwrap();
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("ready: shop runs purchase v1 · memory · data in ") {
            assert!(errors.read_line(&mut said).unwrap() > 0, "it ended: {said}");
        }
        Self { child, errors, ready: said }
    }

    fn gets(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    fn ends(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        let said: Vec<String> = self.errors.lines().map_while(Result::ok).collect();
        (status.code(), said.join("\n"))
    }
}

fn list(folder: &Path) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = child("lists", folder).output().unwrap();
    let text = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (status.code(), text)
}

/// The whole answer to a question by HTTP.
fn asked(address: &str, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_process_tells_by_http_and_by_its_socket_how_it_stands() {
    let place = tempfile::tempdir().unwrap();
    let says = |test| {
        let output = child(test, place.path()).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    };
    let (code, text) = says("says_how_it_stands");
    assert!(code == Some(1) && text.contains("process"), "nobody runs: {code:?} {text}");

    let running = Running::start_as("runs_and_answers_by_http", place.path());
    let (_, address) = running.ready.trim().rsplit_once("http at ").expect("it says where");
    assert!(asked(address, "GET", "/live").starts_with("HTTP/1.1 200 OK"));
    let ready = asked(address, "GET", "/ready");
    assert!(ready.starts_with("HTTP/1.1 200 OK"), "{ready}");
    assert!(ready.ends_with(r#"{"ready":true,"reasons":[]}"#), "{ready}");
    let metrics = asked(address, "GET", "/metrics");
    for line in [
        "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r",
        "# TYPE dirigent_instances gauge",
        "dirigent_instances{state=\"live\"} 0.0",
        "# TYPE dirigent_instances_started counter",
        "dirigent_instances_started_total 0.0",
        "dirigent_broker_ready{connector=\"memory\",part=\"source\"} 1.0",
        "dirigent_outbox_messages{connector=\"memory\"} 0.0",
        "# UNIT dirigent_sync_duration_seconds seconds",
        "# EOF",
    ] {
        assert!(metrics.lines().any(|found| found == line.trim_end()), "no `{line}` in {metrics}");
    }
    assert!(asked(address, "POST", "/ready").starts_with("HTTP/1.1 405"));
    let (code, text) = says("says_how_it_stands");
    assert!(
        code == Some(0) && text.contains("ready") && text.contains("memory"),
        "{code:?} {text}"
    );

    running.gets("-TERM");
    let (code, said) = running.ends();
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_process_answers_stops_in_order_and_starts_again_after_it_was_killed() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let running = Running::start(folder);
    let (code, text) = list(folder);
    assert!(code == Some(0) && text.contains("No instances."), "{code:?} {text}");

    let (code, text) = child("runs", folder).output().map(|o| (o.status.code(), o.stderr)).unwrap();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(code == Some(1) && text.contains("error: data folder "), "{code:?} {text}");
    let holder = format!("is in use by process {}", running.child.id());
    assert!(text.contains(&holder), "{text}");

    running.gets("-KILL");
    running.ends();
    assert!(folder.join("control.sock").exists(), "nobody took it away");
    let (code, text) = list(folder);
    assert!(code == Some(0) && text.contains("No instances."), "{code:?} {text}");

    for signal in ["-TERM", "-INT"] {
        let running = Running::start(folder);
        running.gets(signal);
        let (code, said) = running.ends();
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("stopping: ") && said.ends_with("stopped"), "{said}");
        assert!(!folder.join("control.sock").exists());
    }
}

#[test]
fn a_broker_that_is_away_ends_the_start_with_its_address_and_what_to_do() {
    let place = tempfile::tempdir().unwrap();
    for (test, address, setting) in [
        (
            "runs_with_a_broker_that_is_away",
            "rabbitmq at amqp://127.0.0.1:9/%2f",
            "DIRIGENT_RABBITMQ",
        ),
        ("runs_with_a_log_that_is_away", "kafka at 127.0.0.1:9", "DIRIGENT_KAFKA"),
    ] {
        let output = child(test, place.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("error: {address} did not answer")), "{said}");
        assert!(said.contains(setting) && !said.contains("s3cret"), "{said}");
    }
}

#[test]
fn settings_are_shown_with_who_said_them_and_checked_without_mercy() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("settings.toml");
    std::fs::write(&file, "broker = 'rabbitmq'\n[log]\nformat = 'json'\n").unwrap();
    let ask = |test: &str, variables: &[(&str, &str)]| {
        let mut child = child(test, place.path());
        child.env("DIRIGENT_CONFIG", &file).envs(variables.iter().copied());
        let Output { status, stdout, stderr } = child.output().unwrap();
        (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
    };
    let uri = ("DIRIGENT_RABBITMQ", "amqp://ann:s3cret@broker:5672/%2f");
    let (code, said) = ask("shows_settings", &[uri]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("amqp://ann:***@broker:5672/%2f") && !said.contains("s3cret"), "{said}");
    assert!(said.contains("settings.toml:1") && said.contains("DIRIGENT_RABBITMQ"), "{said}");
    let (code, said) = ask("checks_settings", &[uri]);
    assert!(code == Some(0) && said.contains("can be used"), "{said}");

    let typo = ("DIRIGENT_KAFAK", "x:9");
    let (code, said) = ask("shows_settings", &[typo]);
    assert!(code == Some(0) && said.contains("warning: nobody reads"), "{said}");
    let (code, said) = ask("checks_settings", &[typo]);
    assert!(code == Some(1) && said.contains("did you mean `DIRIGENT_KAFKA`?"), "{said}");
    std::fs::write(&file, "borker = 'rabbitmq'\n").unwrap();
    let (code, said) = ask("shows_settings", &[]);
    assert!(code == Some(1), "{said}");
    assert!(
        said.contains("settings.toml:1: unknown key `borker`; did you mean `broker`?"),
        "{said}"
    );
}
