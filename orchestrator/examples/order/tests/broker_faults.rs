//! A RabbitMQ that goes away, is frozen, or loses patience, under a connector and under a whole process: what readiness says, and that it heals.
//! And an orchestrator that is frozen while another one takes its Kafka over, and a Kafka that is damaged, or forgets.
//!
//! Each test has a broker of its own, and says that it is skipped where none can be started.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

mod processes;

use dirigent_brokers::Broker;
use dirigent_connectors::{
    Attributes, ChannelKind, ChannelSpec, Connector, Delivery, Health, Message, Sent, Settle, Sink,
    Source, SourceSpec,
    health::Standing,
    kafka::{KafkaConnector, KafkaSettings},
    names,
    rabbitmq::{RabbitMqConnector, RabbitMqSettings},
};
use order::trip::messages::TripRequested;
use processes::At;
use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long anything may take here: machines are busy, and a broker needs a while to start.
const PATIENCE: Duration = Duration::from_secs(150);

/// The first line of a process that says where it answers by HTTP ends with this and the address.
const HTTP_AT: &str = "http at ";

/// It goes in order: RabbitMQ 3.10 killed with `kill -9` may come back with a quorum queue that has no leader, which no client can heal.
#[test]
fn readiness_follows_a_rabbitmq_that_goes_away_and_comes_back() {
    let Some(broker) = dirigent_brokers::require!(dirigent_brokers::rabbitmq_private()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let process = Running::start(&broker, folder.path());
    let (status, body) = process.get("/ready");
    assert_eq!(status, 200);
    assert!(body.starts_with(r#"{"ready":true,"reasons":[],"#), "{body}");
    assert!(order(&broker, folder.path(), &["status"]).status.success());

    broker.rabbitmqctl(&["stop_app"]).unwrap();
    let body = process.until_ready_says(503, &["rabbitmq source", "rabbitmq sink", "away"]);
    assert!(!body.contains("guest"), "no credentials: {body}");
    assert_eq!(process.get("/live").0, 200);
    assert!(process.metric("dirigent_ready ").starts_with('0'));
    let said = order(&broker, folder.path(), &["status"]);
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert_eq!(said.status.code(), Some(1), "{text}");
    assert!(text.starts_with("not ready") && text.contains("rabbitmq source away"), "{text}");

    broker.rabbitmqctl(&["start_app"]).unwrap();
    process.until_ready_says(200, &["true"]);
    for part in ["source", "sink"] {
        let name =
            format!("dirigent_broker_reconnects_total{{connector=\"rabbitmq\",part=\"{part}\"}} ");
        let reconnects: f64 = process.metric(&name).parse().unwrap();
        assert!(reconnects >= 1.0, "{part}: {reconnects}");
    }
    // Messages flow again, both ways: the commands of an order that starts now are confirmed.
    assert!(order(&broker, folder.path(), &["publish", "--orders", "1"]).status.success());
    let begin = Instant::now();
    while process
        .metric("dirigent_messages_confirmed_total{connector=\"rabbitmq\"} ")
        .parse::<f64>()
        .unwrap()
        < 1.0
    {
        assert!(begin.elapsed() < PATIENCE, "{}", process.get("/metrics").1);
        thread::sleep(Duration::from_millis(100));
    }
    let started: f64 = process.metric("dirigent_instances_started_total ").parse().unwrap();
    assert_eq!(started, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_frozen_is_given_up_by_its_silence_and_found_again() {
    let Some(broker) = dirigent_brokers::require!(dirigent_brokers::rabbitmq_private()) else {
        return;
    };
    let mut settings = RabbitMqSettings::new(broker.address()).unwrap();
    settings.heartbeat = Duration::from_secs(2);
    let connector = RabbitMqConnector::new(settings);
    let channel = ChannelSpec::work("work");
    let mut source = source(&connector, &channel).await;
    let mut sink = connector.sink().await.unwrap();
    confirmed(sink.as_mut(), (0..10).map(message).collect()).await;
    broker.freeze().unwrap();
    // Nothing is sent or received: only the missing heartbeats tell.
    until(&source.health(), |standing| standing.name() == "away").await;
    until(&sink.health(), |standing| standing.name() == "away").await;
    broker.thaw().unwrap();
    until(&source.health(), Standing::is_ready).await;
    until(&sink.health(), Standing::is_ready).await;
    confirmed(sink.as_mut(), (10..20).map(message).collect()).await;
    all_come(source.as_mut(), 20).await;
}

/// As one without a leader does not: a majority of its nodes is away, or RabbitMQ 3.10 was killed while it made the queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_does_not_answer_is_named_and_how_to_look_at_it() {
    let Some(broker) = dirigent_brokers::require!(dirigent_brokers::rabbitmq_private()) else {
        return;
    };
    let connector = RabbitMqConnector::new(RabbitMqSettings::new(broker.address()).unwrap());
    let channel = ChannelSpec::work("work");
    connector.prepare(std::slice::from_ref(&channel)).await.unwrap();
    // The Erlang process of the queue, by its registered name.
    let queue = "erlang:whereis(list_to_atom(\"%2F_work\"))";
    broker.rabbitmqctl(&["eval", &format!("sys:suspend({queue}).")]).unwrap();
    let mut source = source(&connector, &channel).await;
    until(&source.health(), |standing| {
        standing.name() == "degraded"
            && standing.why().is_some_and(|why| why.contains("rabbitmq-queues quorum_status work"))
    })
    .await;
    broker.rabbitmqctl(&["eval", &format!("sys:resume({queue}).")]).unwrap();
    until(&source.health(), Standing::is_ready).await;
    let mut sink = connector.sink().await.unwrap();
    confirmed(sink.as_mut(), (0..10).map(message).collect()).await;
    all_come(source.as_mut(), 10).await;
}

/// As after a kill of RabbitMQ 3.10 soon after it made the queue: its member is new, and waits for its first election.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_queue_has_no_leader_sagas_that_do_not_need_it_go_on_and_the_others_once_it_has_one()
 {
    const TRIPS: usize = 20;
    const ORDERS: usize = 40;
    let Some(broker) = dirigent_brokers::require!(dirigent_brokers::rabbitmq_private()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let at = At { broker: &broker, folder: folder.path().to_owned() };
    let mut services = at.services();
    services.is_ready();
    let process = Running::start(&broker, folder.path());
    let lose = r#"{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"inventory">>)), ok = ra:force_delete_server(quorum_queues, {list_to_atom("%2F_inventory"), node()}), {[_], []} = rabbit_quorum_queue:recover(<<"/">>, [Q])."#;
    broker.rabbitmqctl(&["eval", lose]).unwrap();
    // As a kill of the broker does: what the queue knew of its consumer is gone with the rest.
    broker.rabbitmqctl(&["close_all_connections", "a test"]).unwrap();
    at.places(0, ORDERS as u64);
    process.until_ready_says(503, &["rabbitmq sink", "degraded", "inventory", "trigger_election"]);
    let connector = RabbitMqConnector::new(RabbitMqSettings::new(broker.address()).unwrap());
    let mut sink = connector.sink().await.unwrap();
    confirmed(sink.as_mut(), (0..TRIPS).map(trip).collect()).await;
    // Each trip ends, well or turned back.
    process.until_counted("dirigent_instances_ended_total", TRIPS);
    broker
        .rabbitmqctl(&["eval", r#"ra:trigger_election({list_to_atom("%2F_inventory"), node()})."#])
        .unwrap();
    process.until_counted("dirigent_instances_ended_total", TRIPS + ORDERS);
    process.until_ready_says(200, &["true"]);
}

/// The broker takes a delivery back that was not settled within its `consumer_timeout`, and closes the channel. Deliveries are
/// settled once they are durable, which takes milliseconds: it comes to this only when the process stands still for half an hour.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settler_slower_than_the_brokers_patience_loses_nothing() {
    let Some(broker) = dirigent_brokers::require!(dirigent_brokers::rabbitmq_private()) else {
        return;
    };
    // Looked at on every tick of a channel, which is a minute unless said.
    for setting in ["consumer_timeout, 1000", "channel_tick_interval, 500"] {
        broker.rabbitmqctl(&["eval", &format!("application:set_env(rabbit, {setting}).")]).unwrap();
    }
    let connector = RabbitMqConnector::new(RabbitMqSettings::new(broker.address()).unwrap());
    let channel = ChannelSpec::work("work");
    let mut source = source(&connector, &channel).await;
    let mut sink = connector.sink().await.unwrap();
    confirmed(sink.as_mut(), (0..10).map(message).collect()).await;
    let held = source.receive(10).await.unwrap();
    let begin = Instant::now();
    while source.health().report().reconnects == 0 {
        assert!(
            begin.elapsed() < PATIENCE,
            "the broker is patient: {:?}",
            source.health().report()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    until(&source.health(), Standing::is_ready).await;
    // Too late: the broker hands them out again, and does not take this for what it hands out now.
    settle(source.as_ref(), &held);
    all_come(source.as_mut(), 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_ends_its_source_instead_of_being_passed_over() {
    let Some(broker) = dirigent_brokers::require!(dirigent_brokers::kafka_private()) else {
        return;
    };
    let Some(folder) = broker.log().and_then(|log| log.parent().map(Path::to_owned)) else {
        return;
    };
    let connector = KafkaConnector::new(KafkaSettings {
        partitions: 1,
        ..KafkaSettings::new(broker.address())
    });
    let connector = connector.unwrap();
    let channel = ChannelSpec::work("work");
    connector.prepare(std::slice::from_ref(&channel)).await.unwrap();
    let mut sink = connector.sink().await.unwrap();
    for id in 0..3 {
        confirmed(sink.as_mut(), vec![message(id)]).await;
    }
    let segment = segment_of(&folder, "work-0").expect("the segment of the partition");
    let mut bytes = std::fs::read(&segment).unwrap();
    let middle = bytes.windows(2).enumerate().filter(|(_, body)| *body == b"{}").nth(1).unwrap().0;
    bytes[middle] = b'[';
    std::fs::write(&segment, bytes).unwrap();

    let spec = SourceSpec {
        channels: vec![channel],
        group: "test".into(),
        positions: vec![],
        unsettled_max: 100,
    };
    let mut source = connector.source(spec).await.unwrap();
    let mut read = Vec::new();
    let why = loop {
        match tokio::time::timeout(PATIENCE, source.receive(10)).await.unwrap() {
            Ok(more) => read.extend(more.into_iter().map(|delivery| delivery.offset)),
            Err(error) => break error.to_string(),
        }
    };
    assert!(why.contains("the log is damaged") && why.contains("would skip"), "{why}");
    assert!(read.len() <= 1 && read.iter().all(|offset| *offset == 0), "{read:?}");
}

/// Brokers forget a transactional id after seven days without a transaction; these do after one second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_rested_until_the_brokers_forgot_it_goes_on_sending() {
    let forgetful = [
        ("transactional.id.expiration.ms", "1000"),
        ("transaction.remove.expired.transaction.cleanup.interval.ms", "200"),
    ];
    let found = dirigent_brokers::kafka_private_with(&forgetful);
    let Some(broker) = dirigent_brokers::require!(found) else { return };
    let connector = KafkaConnector::new(KafkaSettings {
        partitions: 1,
        ..KafkaSettings::new(broker.address())
    });
    let connector = connector.unwrap();
    let channel = ChannelSpec::work("work");
    connector.prepare(std::slice::from_ref(&channel)).await.unwrap();
    let spec = SourceSpec {
        channels: vec![channel],
        group: "test".into(),
        positions: vec![],
        unsettled_max: 100,
    };
    let mut source = connector.source(spec).await.unwrap();
    let mut sink = connector.owner_sink("test").await.unwrap();
    confirmed(sink.as_mut(), vec![message(0)]).await;
    let begin = Instant::now();
    let refused = loop {
        // Asking whether they have forgotten it reminds them: it rests again then.
        tokio::time::sleep(Duration::from_secs(3)).await;
        match &sink.send(&[message(1)]).await[..] {
            [Sent::Unknown { text }] => break text.clone(),
            [Sent::Confirmed] => assert!(begin.elapsed() < PATIENCE, "they do not forget it"),
            other => panic!("{other:?}"),
        }
    };
    assert!(refused.contains("InvalidProducerIdMapping"), "{refused}");
    confirmed(sink.as_mut(), (1..10).map(message).collect()).await;
    all_come(source.as_mut(), 10).await;
}

/// The file of a partition's only segment, wherever below `folder` it lies.
fn segment_of(folder: &Path, partition: &str) -> Option<PathBuf> {
    std::fs::read_dir(folder).ok()?.find_map(|entry| {
        let path = entry.ok()?.path();
        if path.ends_with(partition) {
            return Some(path.join("00000000000000000000.log"));
        }
        path.is_dir().then(|| segment_of(&path, partition)).flatten()
    })
}

/// The other one works on a copy of its data folder: a supervisor that took a machine which stood still for dead.
#[test]
fn an_orchestrator_that_stood_still_is_fenced_off_by_the_one_that_took_over() {
    const ORDERS: u64 = 50;
    let Some(broker) = dirigent_brokers::require!(dirigent_brokers::kafka_private()) else {
        return;
    };
    // A mock lives within this process, and names no members of a group.
    if broker.is_mock() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [first_at, second_at] = ["first", "second"].map(|name| {
        let folder = folder.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        At { broker: &broker, folder }
    });
    let mut first = first_at.engine();
    first.is_ready();
    first_at.places(0, ORDERS);
    let begin = Instant::now();
    while !first_at.under_way() {
        assert!(begin.elapsed() < PATIENCE, "no order is under way");
        thread::sleep(Duration::from_millis(50));
    }
    first.gets("STOP");
    let copied = Command::new("cp")
        .args(["-r", "--no-target-directory"])
        .args([&first_at.folder, &second_at.folder])
        .status();
    assert!(copied.unwrap().success());
    let mut second = second_at.engine();
    second.is_ready();
    first.gets("CONT");
    while !first.has_ended() {
        assert!(begin.elapsed() < PATIENCE, "the first one goes on");
        thread::sleep(Duration::from_millis(50));
    }
    first.ends();
    assert!(first.has_said("error: ") && first.has_said(&format!("process {} on ", second.id())));

    // Only the second one goes on, and what the first had begun ends there.
    let mut services = second_at.services();
    second_at.until_all_have_ended(ORDERS, PATIENCE, || ());
    second.stops();
    services.stops();
    second_at.audits();
    let found = second_at.reconciled();
    assert_eq!((&found["started"], &found["in_flight"]), (&ORDERS.into(), &0.into()), "{found}");
    assert_eq!(found["ledger"]["effects_twice"], 0, "{found}");
    assert_eq!(found["ledger"]["balanced"], true, "{found}");
}

fn message(id: usize) -> Message {
    Message {
        channel: "work".into(),
        kind: ChannelKind::Work,
        key: "k".into(),
        attributes: Attributes::new().with(names::ID, id.to_string()),
        others: vec![],
        body: bytes::Bytes::from_static(b"{}"),
    }
}

fn trip(number: usize) -> Message {
    let requested = TripRequested {
        trip: i64::try_from(number).unwrap(),
        traveller: "ann".into(),
        from: "Utrecht".into(),
        to: "Porto".into(),
        nights: 2,
    };
    Message {
        channel: "trips".into(),
        kind: ChannelKind::Events,
        key: number.to_string(),
        attributes: Attributes::new()
            .with(names::SPEC_VERSION, "1.0")
            .with(names::ID, format!("trip-{number}"))
            .with(names::SOURCE, "/test")
            .with(names::TYPE, "TripRequested")
            .with(names::CONTENT_TYPE, "application/json"),
        others: vec![],
        body: serde_json::to_vec(&requested).unwrap().into(),
    }
}

async fn source(connector: &RabbitMqConnector, channel: &ChannelSpec) -> Box<dyn Source> {
    connector.prepare(std::slice::from_ref(channel)).await.unwrap();
    let spec = SourceSpec {
        channels: vec![channel.clone()],
        group: "test".into(),
        positions: vec![],
        unsettled_max: 100,
    };
    connector.source(spec).await.unwrap()
}

async fn until(health: &Health, wanted: impl FnMut(&Standing) -> bool) {
    let standing = tokio::time::timeout(PATIENCE, health.until(wanted)).await;
    standing.unwrap_or_else(|_| panic!("it still says {:?}", health.report()));
}

async fn confirmed(sink: &mut dyn Sink, mut open: Vec<Message>) {
    let begin = Instant::now();
    while !open.is_empty() {
        assert!(begin.elapsed() < PATIENCE, "the sink did not heal");
        let outcomes = sink.send(&open).await;
        let mut outcomes = outcomes.iter();
        open.retain(|_| outcomes.next() != Some(&Sent::Confirmed));
    }
}

/// Receives and settles until each of the first `count` messages has come.
async fn all_come(source: &mut dyn Source, count: usize) {
    let mut seen = BTreeSet::new();
    while seen.len() < count {
        let read = tokio::time::timeout(PATIENCE, source.receive(100)).await;
        let read = read.unwrap_or_else(|_| panic!("only {seen:?} came")).unwrap();
        settle(source, &read);
        let id = |it: &Delivery| -> usize {
            it.message.attributes.get(names::ID).unwrap().parse().unwrap()
        };
        seen.extend(read.iter().map(id));
    }
    assert_eq!(seen, (0..count).collect::<BTreeSet<usize>>());
}

fn settle(source: &dyn Source, deliveries: &[Delivery]) {
    let done: Vec<_> = deliveries.iter().map(|it| (it.receipt, Settle::Done)).collect();
    source.settler().settle(&done);
}

/// A verb of the example, to its end.
fn order(broker: &Broker, folder: &Path, arguments: &[&str]) -> Output {
    let mut command = command(broker, folder);
    let at = match arguments[0] {
        "status" => ["--data", "orchestrator"],
        _ => ["--broker", "rabbitmq"],
    };
    command.args(arguments).args(at).output().unwrap()
}

fn command(broker: &Broker, folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_order"));
    command
        .current_dir(folder)
        .env(broker.kind().variable(), broker.address())
        .env("DIRIGENT_LOG", "error,lapin=off");
    command
}

/// An orchestrator that said that it is ready, and where it answers by HTTP. Ends with the test.
struct Running {
    child: Child,
    http: String,
}

impl Running {
    fn start(broker: &Broker, folder: &Path) -> Self {
        let mut command = command(broker, folder);
        command.args([
            "run",
            "--data",
            "orchestrator",
            "--broker",
            "rabbitmq",
            "--http",
            "127.0.0.1:0",
        ]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = said
            .find_map(|line| line.unwrap().split_once(HTTP_AT).map(|(_, at)| at.trim().to_owned()));
        // Read to its end, so that the process never waits for a reader.
        thread::spawn(move || said.map_while(Result::ok).for_each(|line| eprintln!("{line}")));
        Self { child, http: ready.expect("it says where it answers") }
    }

    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.http).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn until_ready_says(&self, status: u16, words: &[&str]) -> String {
        let begin = Instant::now();
        loop {
            let (found, body) = self.get("/ready");
            if found == status && words.iter().all(|word| body.contains(word)) {
                return body;
            }
            assert!(begin.elapsed() < PATIENCE, "it still says {found} {body}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until all series of this name add up to so many.
    fn until_counted(&self, name: &str, count: usize) {
        let begin = Instant::now();
        loop {
            let (_, text) = self.get("/metrics");
            let values = text.lines().filter(|line| line.starts_with(name));
            let values = values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            let found = values.sum::<f64>();
            if found == count as f64 {
                return;
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "{name}: {found} of {count}: {}",
                self.get("/ready").1
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// The value behind a name with its labels.
    fn metric(&self, name: &str) -> String {
        let (_, text) = self.get("/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
