//! A whole process under its command line: ready, asked by another process, told to stop, killed, and started again; and what it does
//! where its machine refuses it something: file descriptors, a sync, any write.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

mod support;

use dirigent::{
    cli::{
        AuditArgs, Cli, ConfigVerb, FolderArgs, ListArgs, PauseArgs, PauseVerb, RunArgs,
        SpeakerArgs, StatusArgs, Verb,
    },
    config::SettingsArgs,
};
use dirigent_connectors::{ChannelSpec, memory::MemoryBroker};
use dirigent_model::definition::{pause, saga};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, ExitCode, Output, Stdio},
    time::{Duration, Instant},
};
use support::{Begun, Stranger, purchase};

/// Names the data folder to whom runs as a child.
const FOLDER: &str = "DIRIGENT_TEST_PROCESS_FOLDER";

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

/// What the child of a test does, by the name of a test here. It ends with the exit code of its verb.
fn as_child(verb: impl FnOnce(SettingsArgs) -> Verb) {
    as_child_of(dirigent::cli("shop").saga(purchase(1)), None, verb);
}

/// The same for a shop of its own, with a customer who buys for as long as it lives.
fn as_child_of(cli: Cli, customer: Option<Duration>, verb: impl FnOnce(SettingsArgs) -> Verb) {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let settings = SettingsArgs { data: Some(folder.into()), ..SettingsArgs::default() };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let broker = MemoryBroker::new();
    if let Some(every) = customer {
        runtime.spawn(buys(broker.clone(), every));
    }
    let code = runtime.block_on(cli.memory_broker(broker).execute(verb(settings)));
    let is_good = format!("{code:?}") == format!("{:?}", ExitCode::SUCCESS);
    std::process::exit(if is_good { 0 } else { 1 });
}

async fn buys(broker: MemoryBroker, every: Duration) {
    let mut customer = Stranger::listening(&broker, ChannelSpec::events("ends"), "customer").await;
    for id in 0.. {
        customer.begins(id, 5).await;
        tokio::time::sleep(every).await;
    }
}

fn in_memory(settings: SettingsArgs) -> Verb {
    Verb::Run(RunArgs { settings: SettingsArgs { broker: Some("memory".into()), ..settings } })
}

#[test]
#[ignore = "run by the tests below as a process of its own"]
fn runs_with_customers() {
    let cli = dirigent::cli("shop").saga(purchase(1));
    as_child_of(cli, Some(Duration::from_millis(5)), in_memory);
}

#[test]
#[ignore = "run by the tests below as a process of its own"]
fn runs_with_customers_and_answers_by_http() {
    let cli = dirigent::cli("shop").saga(purchase(1));
    as_child_of(cli, Some(Duration::from_millis(5)), |settings| {
        in_memory(SettingsArgs { http: Some("127.0.0.1:0".into()), ..settings })
    });
}

#[test]
#[ignore = "run by the tests below as a process of its own"]
fn pauses_a_destination() {
    as_child(|settings| {
        Verb::Pause(PauseVerb::Destination(PauseArgs {
            channel: "work".into(),
            folder: FolderArgs { data: settings.data, ..FolderArgs::default() },
            why: "migration".into(),
            speaker: SpeakerArgs { by: "ann".into() },
        }))
    });
}

/// Its saga has a function that does not return.
#[test]
#[ignore = "run by the tests below as a process of its own"]
fn runs_and_can_not_finish() {
    let stuck = |event: Begun| -> u64 {
        eprintln!("a function does not return for {}", event.id);
        loop {
            std::thread::park();
        }
    };
    let rest = pause("rest", Duration::from_secs(1));
    let stuck = saga("purchase", 1, |event: &Begun| event.id, stuck).then(rest).ends();
    let cli = dirigent::cli("shop").saga(stuck);
    as_child_of(cli, Some(Duration::from_millis(50)), in_memory);
}

#[test]
#[ignore = "run by the tests below as a process of its own"]
fn audits() {
    as_child(|settings| {
        let folder = FolderArgs { data: settings.data, ..FolderArgs::default() };
        Verb::Audit(AuditArgs { folder, json: false })
    });
}

#[test]
#[ignore = "run by the tests below as a process of its own"]
fn runs() {
    as_child(in_memory);
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

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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

    /// Reads what it says up to this.
    fn says(&mut self, text: &str) {
        let mut said = String::new();
        while !said.contains(text) {
            assert!(self.errors.read_line(&mut said).unwrap() > 0, "it ended: {said}");
        }
    }

    fn gets(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    fn ends(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        let said: Vec<String> = self.errors.by_ref().lines().map_while(Result::ok).collect();
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
    assert!(
        ready.ends_with(
            r#"{"ready":true,"reasons":[],"person":{"blocked":0,"held":0,"quarantined":0}}"#
        ),
        "{ready}"
    );
    let metrics = asked(address, "GET", "/metrics");
    for line in [
        "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r",
        "# TYPE dirigent_instances gauge",
        "dirigent_instances{state=\"live\"} 0.0",
        "dirigent_instances{state=\"held\"} 0.0",
        "# TYPE dirigent_instances_started counter",
        "dirigent_instances_started_total 0.0",
        "dirigent_broker_ready{connector=\"memory\",part=\"source\"} 1.0",
        "dirigent_outbox_messages{connector=\"memory\"} 0.0",
        "dirigent_destination_state{channel=\"work\",state=\"closed\"} 1.0",
        "dirigent_destination_state{channel=\"work\",state=\"open\"} 0.0",
        "# UNIT dirigent_destination_held_age_seconds seconds",
        "dirigent_destination_circuit_opened_total{channel=\"work\"} 0.0",
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
fn metrics_tell_how_destinations_stand_and_what_they_hold() {
    let place = tempfile::tempdir().unwrap();
    let running = Running::start_as("runs_with_customers_and_answers_by_http", place.path());
    let (_, address) = running.ready.trim().rsplit_once("http at ").expect("it says where");
    let metric = |name: &str| {
        let metrics = asked(address, "GET", "/metrics");
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.parse::<f64>().ok());
        value.unwrap_or_else(|| panic!("no `{name}` in {metrics}"))
    };
    let until = |name: &str, holds: &dyn Fn(f64) -> bool| {
        let begun = Instant::now();
        while !holds(metric(name)) {
            assert!(begun.elapsed() < Duration::from_secs(60), "{name}{}", metric(name));
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    until("dirigent_destination_sent_total{channel=\"work\"} ", &|sent| sent > 0.0);
    let paused = child("pauses_a_destination", place.path()).output().unwrap();
    assert!(paused.status.success(), "{}", String::from_utf8_lossy(&paused.stderr));
    let state =
        |state| format!("dirigent_destination_state{{channel=\"work\",state=\"{state}\"}} ");
    assert_eq!((metric(&state("paused")), metric(&state("closed"))), (1.0, 0.0));
    until("dirigent_destination_held_commands{channel=\"work\"} ", &|held| held > 10.0);
    until("dirigent_destination_held_age_seconds{channel=\"work\"} ", &|age| age > 0.0);
    until("dirigent_destination_given_back_total{channel=\"work\"} ", &|times| times > 10.0);
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
fn a_second_signal_ends_a_process_at_once_that_can_not_finish() {
    let place = tempfile::tempdir().unwrap();
    let mut running = Running::start_as("runs_and_can_not_finish", place.path());
    running.says("a function does not return for ");
    running.gets("-TERM");
    running.says("a second signal stops at once");
    running.gets("-TERM");
    let (code, said) = running.ends();
    assert_eq!(code, Some(143), "{said}");
    assert!(said.ends_with("stopped at once"), "{said}");
    assert_audited(place.path());
}

fn assert_audited(folder: &Path) {
    let Output { status, stdout, stderr } = child("audits", folder).output().unwrap();
    let text = String::from_utf8([stdout, stderr].concat()).unwrap();
    assert!(status.success(), "{text}");
}

/// Whether there is such a program; says aloud that `test` is skipped where there is none.
fn is_there(program: &str, test: &str) -> bool {
    let found = Command::new(program).arg("--version").output();
    let found = found.is_ok_and(|output| output.status.success());
    if !found {
        let line = format!("SKIPPED {test}: there is no {program}; Debian's package brings it\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
    found
}

#[test]
fn without_file_descriptors_a_process_goes_on_and_answers_once_there_are_some() {
    if !is_there("prlimit", "file descriptors") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let running = Running::start_as("runs_and_answers_by_http", place.path());
    let (_, address) = running.ready.trim().rsplit_once("http at ").expect("it says where");
    let id = running.child.id();
    let open_files_max = |count: u64| {
        let limit = [format!("--pid={id}"), format!("--nofile={count}:")];
        assert!(Command::new("prlimit").args(limit).status().unwrap().success());
    };
    // The lowest that is free is above none that are taken.
    let open = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap();
    let highest = open.map(|entry| entry.unwrap().file_name().to_string_lossy().parse().unwrap());
    let highest: u64 = highest.max().unwrap();
    open_files_max(highest + 1);
    // Fills what gaps there are; each is held until there are descriptors again.
    let mut asking: Vec<_> = (0..=highest).map(|_| TcpStream::connect(address).unwrap()).collect();
    for stream in &mut asking {
        write!(stream, "GET /live HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    }
    let mut last = asking.pop().unwrap();
    last.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut answer = [0; 15];
    assert!(last.read_exact(&mut answer).is_err(), "it was accepted: {answer:?}");

    open_files_max(1_024);
    drop(asking);
    last.set_read_timeout(None).unwrap();
    last.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    let (code, text) = list(place.path());
    assert!(code == Some(0) && text.contains("No instances."), "{code:?} {text}");
    running.gets("-TERM");
    let (code, said) = running.ends();
    assert_eq!(code, Some(0), "{said}");
}

/// How the machine refuses something from a thread's `nth` call on.
fn refusing(calls: &str, error: &str, nth: &str, folder: &Path) -> Output {
    let plain = child("runs_with_customers", folder);
    // A process that goes on in spite of the error would go on for ever.
    let mut traced = Command::new("timeout");
    traced.args(["--kill-after=5", "60", "strace"]);
    traced.args(["-f", "--seccomp-bpf", "-qq", "-o", "/dev/null"]);
    traced.args(["-e", &format!("trace={calls}")]);
    traced.args(["-e", &format!("inject={calls}:error={error}:when={nth}")]);
    traced.arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => traced.env(name, value),
            None => traced.env_remove(name),
        };
    }
    traced.stdin(Stdio::null()).output().unwrap()
}

/// Ends with the error, and starts again with every message accounted for.
fn ends_and_starts_again(calls: &str, (error, words): (&str, &str), nth: &str) {
    let place = tempfile::tempdir().unwrap();
    let output = refusing(calls, error, nth, place.path());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let case = format!("{error} from {calls}, {nth}: {said}");
    assert_eq!(output.status.code(), Some(1), "{case}");
    assert!(said.contains("error: ") && said.contains(words), "{case}");
    assert_audited(place.path());
    let mut running = Running::start_as("runs_with_customers", place.path());
    running.gets("-TERM");
    running.says("stopping: ");
    let (code, said) = running.ends();
    assert_eq!(code, Some(0), "{case}, and then: {said}");
    assert_audited(place.path());
}

#[test]
fn a_sync_that_fails_ends_the_process_and_the_next_start_accounts_for_every_message() {
    if !is_there("strace", "a sync that fails") {
        return;
    }
    for nth in ["2", "9"] {
        ends_and_starts_again("fdatasync", ("EIO", "Input/output error"), nth);
    }
}

#[test]
fn a_file_system_that_becomes_read_only_ends_the_process_and_the_next_start_accounts_for_every_message()
 {
    if !is_there("strace", "a read-only file system") {
        return;
    }
    // By injection: a file system with files open for writing can't be remounted.
    let writes = "pwrite64,ftruncate,fdatasync,fsync,unlink,rename";
    ends_and_starts_again(writes, ("EROFS", "Read-only file system"), "30+");
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
