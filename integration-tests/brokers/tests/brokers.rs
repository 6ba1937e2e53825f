//! The helper against real brokers: found again, killed, restarted, frozen, and ended when nobody is left.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use dirigent_brokers::{
    Broker, How, Kind, PRIVATE_IDLE_MAX, Unavailable, kafka, kafka_private, rabbitmq,
    rabbitmq_private, require,
};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

/// How long a broker may take for what is asked of it here, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_kafka_that_is_found_tells_its_metadata() {
    let Some(broker) = require!(kafka()) else { return };
    assert!(answers(&broker), "{broker:?}");
    assert_eq!(broker.kind(), Kind::Kafka);
}

#[test]
fn a_rabbitmq_that_is_found_greets() {
    let Some(broker) = require!(rabbitmq()) else { return };
    assert!(answers(&broker), "{broker:?}");
    assert!(broker.address().starts_with("amqp"), "{broker:?}");
}

#[test]
fn whoever_asks_twice_gets_the_same_broker() {
    for find in [kafka, rabbitmq] {
        let Some(first) = require!(find()) else { return };
        let Some(second) = require!(find()) else { return };
        assert_eq!(first.address(), second.address());
        assert_eq!(first.how(), second.how());
    }
}

#[test]
fn a_shared_broker_is_killed_by_nobody() {
    for find in [kafka, rabbitmq] {
        let Some(broker) = require!(find()) else { return };
        assert!(matches!(broker.kill(), Err(Unavailable::NotOurs { .. })), "{broker:?}");
        assert!(matches!(broker.restart(), Err(Unavailable::NotOurs { .. })), "{broker:?}");
        assert!(answers(&broker), "{broker:?}");
    }
}

#[test]
fn a_killed_kafka_is_gone_and_comes_back_with_its_topics() {
    let Some(broker) = require!(kafka_private()) else { return };
    if broker.is_mock() {
        broker.kill().expect("the mock goes down");
        broker.restart().expect("the mock comes up");
        return;
    }
    create_topic(&broker, "kept");
    broker.kill().expect("a private broker may be killed");
    assert!(!answers(&broker), "it is dead");
    broker.kill().expect("killing twice is fine");
    broker.restart().expect("it starts on its ports and data");
    eventually("the topic is there again", || topics(&broker).contains(&"kept".to_owned()));
}

#[test]
fn a_killed_rabbitmq_is_gone_and_comes_back_with_its_users() {
    let Some(broker) = require!(rabbitmq_private()) else { return };
    broker.rabbitmqctl(&["add_user", "kept", "without-meaning"]).expect("rabbitmqctl reaches it");
    broker.kill().expect("a private broker may be killed");
    assert!(!answers(&broker), "it is dead");
    broker.restart().expect("it starts on its ports and data");
    let users = broker.rabbitmqctl(&["list_users"]).expect("rabbitmqctl reaches it again");
    assert!(users.contains("kept"), "{users}");
}

#[test]
fn a_frozen_broker_is_silent_until_it_is_thawed() {
    let Some(broker) = require!(rabbitmq_private()) else { return };
    broker.freeze().expect("a private broker may be frozen");
    assert!(!answers(&broker), "it says nothing");
    broker.thaw().expect("and thawed");
    eventually("it speaks again", || answers(&broker));
}

#[test]
fn a_private_broker_ends_with_its_value_and_leaves_nothing() {
    let Some(broker) = require!(rabbitmq_private()) else { return };
    let log = broker.log().expect("it was started here");
    let folder = log.parent().expect("a log lies in the broker's folder").to_path_buf();
    assert!(!processes_of(&folder).is_empty(), "it has processes");
    drop(broker);
    assert!(!folder.exists(), "{} is gone", folder.display());
    eventually("its processes are gone, the watchdog too", || processes_of(&folder).is_empty());
}

#[test]
fn a_private_broker_of_a_killed_process_is_ended_by_its_watchdog() {
    // The test runs itself once more, as the process that is killed.
    const CHILD: &str = "DIRIGENT_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let Ok(broker) = rabbitmq_private() else { return };
        let log = broker.log().expect("it was started here");
        writeln!(std::io::stderr(), "log={}", log.display()).expect("the parent reads");
        loop {
            thread::park();
        }
    }
    if require!(rabbitmq()).is_none() {
        return;
    }
    let mut child = Command::new(std::env::current_exe().expect("the test runs"))
        .args(["--exact", "a_private_broker_of_a_killed_process_is_ended_by_its_watchdog"])
        .env(CHILD, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the test can run itself");
    let said = std::io::BufReader::new(child.stderr.take().expect("it is piped"));
    let log = std::io::BufRead::lines(said)
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("log=").map(str::to_owned))
        .expect("the child has a broker");
    child.kill().expect("the child lives");
    child.wait().expect("the child is ours");
    let folder = Path::new(&log).parent().expect("a log lies in a folder").to_path_buf();
    assert!(folder.exists(), "the broker outlives its process at first");
    let limit = PRIVATE_IDLE_MAX + PATIENCE;
    eventually_within(limit, "the watchdog has tidied up", || {
        !folder.exists() && processes_of(&folder).is_empty()
    });
}

#[test]
fn the_output_of_the_program_ends_although_its_broker_lives_on() {
    // A daemon that had inherited the pipe would keep the reader waiting for ever.
    let begun = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_brokers")).arg("status").output();
    let output = output.expect("the program runs");
    assert!(output.status.success());
    assert!(begun.elapsed() < PATIENCE, "the pipes were closed");

    let Some(broker) = require!(kafka()) else { return };
    if let How::Started { .. } = broker.how() {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("DIRIGENT_KAFKA") || text.contains("kafka"), "{text}");
    }
}

#[test]
fn an_address_in_the_environment_that_does_not_answer_is_an_error_without_its_password() {
    let output = Command::new(env!("CARGO_BIN_EXE_brokers"))
        .args(["up", "rabbitmq"])
        .env("DIRIGENT_RABBITMQ", "amqp://me:s3cret@127.0.0.1:1")
        .output()
        .expect("the program runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(text.contains("DIRIGENT_RABBITMQ"), "{text}");
    assert!(text.contains("127.0.0.1:1"), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
}

#[test]
fn the_program_administers_the_broker_that_was_started_here_and_no_other() {
    let ask = |address: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brokers"));
        command.args(["rabbitmqctl", "eval", "1 + 1."]).stdin(Stdio::null());
        address.map(|address| command.env("DIRIGENT_RABBITMQ", address));
        command.output().expect("the program runs")
    };
    let Some(broker) = require!(rabbitmq()) else { return };
    if let How::Started { .. } = broker.how() {
        let asked = ask(None);
        assert!(asked.status.success(), "{asked:?}");
        assert_eq!(asked.stdout.trim_ascii(), b"2");
    }
    let refused = ask(Some("amqp://me:s3cret@127.0.0.1:1"));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("started here only"), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
}

#[test]
fn a_run_that_requires_brokers_does_not_accept_the_mock() {
    // Without any program to start one with, and with a target folder of its own.
    let empty = tempfile::tempdir().expect("a folder for the test");
    let program = empty.path().join("brokers");
    std::fs::copy(env!("CARGO_BIN_EXE_brokers"), &program).expect("the program can be copied");
    std::fs::write(empty.path().join("CACHEDIR.TAG"), "").expect("the folder can be written");
    let output = Command::new(&program)
        .args(["up", "kafka"])
        .env_remove("DIRIGENT_KAFKA")
        .env_remove("JAVA_HOME")
        .env("DIRIGENT_REQUIRE_BROKERS", "1")
        .env("PATH", empty.path())
        .output()
        .expect("the program runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("java"), "{text}");
    assert!(text.contains("install"), "{text}");
}

#[test]
fn a_test_without_its_broker_is_skipped_aloud_and_fails_where_brokers_are_required() {
    let run = |required: &str| {
        Command::new(std::env::current_exe().expect("the test runs"))
            .args(["--exact", "a_rabbitmq_that_is_found_greets"])
            .env("DIRIGENT_RABBITMQ", "amqp://127.0.0.1:1")
            .env("DIRIGENT_REQUIRE_BROKERS", required)
            .stdin(Stdio::null())
            .output()
            .expect("the test can run itself")
    };
    let skipped = run("0");
    let text = String::from_utf8_lossy(&skipped.stderr).into_owned();
    assert!(skipped.status.success(), "{text}");
    assert!(text.contains("SKIPPED brokers::a_rabbitmq_that_is_found_greets: "), "{text}");
    assert!(!run("1").status.success(), "a skip is a failure where brokers are required");
}

#[test]
fn a_broker_may_be_shared_between_threads() {
    fn shareable<T: Send + Sync>() {}
    shareable::<Broker>();
}

fn answers(broker: &Broker) -> bool {
    match broker.kind() {
        Kind::Kafka => client(broker).fetch_metadata(None, Duration::from_secs(5)).is_ok(),
        Kind::RabbitMq => greeted(broker.address()),
        Kind::SchemaRegistry | Kind::Postgres => unreachable!("no test here kills one"),
    }
}

fn client(broker: &Broker) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.address());
    config.create().expect("the configuration is valid")
}

fn topics(broker: &Broker) -> Vec<String> {
    match client(broker).fetch_metadata(None, Duration::from_secs(5)) {
        Ok(metadata) => metadata.topics().iter().map(|topic| topic.name().to_owned()).collect(),
        Err(_) => Vec::new(),
    }
}

fn create_topic(broker: &Broker, name: &str) {
    use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.address());
    let admin: AdminClient<_> = config.create().expect("the configuration is valid");
    let topic = NewTopic::new(name, 1, TopicReplication::Fixed(1));
    let created = admin.create_topics([&topic], &AdminOptions::new());
    let outcome = blocking(created).expect("the broker answers");
    assert!(outcome.iter().all(Result::is_ok), "{outcome:?}");
}

/// Whether RabbitMQ answers the protocol header with a frame.
fn greeted(address: &str) -> bool {
    let host = address.rsplit_once('@').map_or(address, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or(host);
    let attempt = || -> std::io::Result<u8> {
        let mut stream = std::net::TcpStream::connect(host)?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        stream.write_all(b"AMQP\x00\x00\x09\x01")?;
        let mut first = [0; 1];
        std::io::Read::read_exact(&mut stream, &mut first)?;
        Ok(first[0])
    };
    attempt().is_ok_and(|first| first == 1)
}

/// Runs a future to its end on this thread; it is woken by librdkafka's own.
fn blocking<F: Future>(future: F) -> F::Output {
    use std::sync::Arc;
    use std::task::{Context, Poll, Wake, Waker};
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Command lines that name the folder.
fn processes_of(folder: &Path) -> Vec<String> {
    let wanted = folder.to_string_lossy().into_owned();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let lines = entries.flatten().filter_map(|entry| {
        let bytes = std::fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
    });
    lines.filter(|line| line.contains(&wanted)).collect()
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    eventually_within(PATIENCE, what, holds);
}

fn eventually_within(limit: Duration, what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < limit, "not within {} s: {what}", limit.as_secs());
        thread::sleep(Duration::from_millis(100));
    }
}
