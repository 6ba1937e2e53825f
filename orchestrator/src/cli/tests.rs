//! A process through its command line: what it answers while it runs, and what its folder tells at rest.

use super::{
    serve::{Process, lock},
    *,
};
use crate::{
    control::{Action, Answer, Named, Question, ask},
    engine::{Clock, Decision, InstanceView, KeptFilter, SystemClock},
};
use dirigent_connectors::{ChannelSpec, Connector, Message, names};
use dirigent_model::{
    definition::{Definition, OnTimeout, saga, step, wait},
    history::{Verdict, Why},
    message::{Channel, Command, Event, Failure, Message as _, Never},
    retry::Retry,
};
use serde::{Deserialize, Serialize};
use std::{path::Path, time::Duration};
use support::Stranger;

#[path = "../../tests/support/mod.rs"]
mod support;

const BOOKS: Channel = Channel::json("books");
const LOANS: Channel = Channel::json("loans");
const LIBRARY: Channel = Channel::json("library");

/// The loan whose book can't be taken back.
const LOST: u64 = 13;

macro_rules! messages {
    ($($name:ident { $($field:ident: $kind:ty),* })*) => {$(
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        struct $name { $($field: $kind),* }
        impl dirigent_model::message::Message for $name { const NAME: &'static str = stringify!($name); }
    )*};
}

messages! {
    Asked { loan: u64 }
    Lend { loan: u64 }
    Lent {}
    TakeBack { loan: u64 }
    TakenBack {}
    Read { loan: u64 }
    Finished { loan: u64 }
    Broken { loan: u64 }
}

impl Event for Asked {
    const ON: Channel = LOANS;
}
impl Event for Read {
    const ON: Channel = LOANS;
}
impl Event for Finished {
    const ON: Channel = LIBRARY;
}
impl Event for Broken {
    const ON: Channel = LIBRARY;
}
impl Command for Lend {
    const TO: Channel = BOOKS;
    type Success = Lent;
    type Rejection = Never;
}
impl Command for TakeBack {
    const TO: Channel = BOOKS;
    type Success = TakenBack;
    type Rejection = Never;
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Loan {
    loan: u64,
}

/// Lends a book, and waits until it is read.
fn loan() -> Result<Definition<Loan>, DefinitionErrors> {
    saga("loan", 1, |event: &Asked| event.loan, |event: Asked| Loan { loan: event.loan })
        .then(
            step("lend", |data: &Loan| Lend { loan: data.loan })
                .reply_within(Duration::from_secs(60))
                .compensation_retry(Retry::never())
                .compensated_by(|data: &Loan, _| TakeBack { loan: data.loan }),
        )
        .then(
            wait("read", |event: &Read| event.loan, |_: &mut Loan, _| ())
                .within(Duration::from_secs(3_600), OnTimeout::Reject),
        )
        .ends_with(
            |data: &Loan| Finished { loan: data.loan },
            |data: &Loan| Broken { loan: data.loan },
        )
}

async fn librarian(mut stranger: Stranger) {
    loop {
        let command = stranger.next().await.message;
        let (name, body) = answer_to(&command);
        stranger.sends(support::reply(&command, name, body)).await;
    }
}

fn answer_to(command: &Message) -> (&'static str, Vec<u8>) {
    let is_lost = command.key == LOST.to_string();
    match command.attributes.get(names::TYPE).unwrap() {
        Lend::NAME => (Lent::NAME, b"{}".to_vec()),
        TakeBack::NAME if is_lost => (
            Failure::NAME,
            br#"{"code":"lost","message":"nobody has it","retriable":false,"effect":"none"}"#
                .to_vec(),
        ),
        TakeBack::NAME => (TakenBack::NAME, b"{}".to_vec()),
        other => panic!("nobody sends {other}"),
    }
}

/// A library: the process, its broker, and who works there.
struct Library {
    broker: MemoryBroker,
    process: Process,
    reader: Stranger,
    librarian: tokio::task::JoinHandle<()>,
}

fn library_cli(broker: &MemoryBroker) -> Cli {
    cli("library").saga(loan()).saga(support::purchase(1)).memory_broker(broker.clone())
}

impl Library {
    async fn opens(broker: MemoryBroker, folder: &Path) -> Self {
        let flags = SettingsArgs {
            data: Some(folder.into()),
            broker: Some("memory".into()),
            shards: Some("2".into()),
            ..SettingsArgs::default()
        };
        let nowhere = World { environment: Default::default(), folder: "no-such-folder".into() };
        let settings = Settings::load("library", &flags, &nowhere).unwrap();
        let channels = [ChannelSpec::events("loans"), ChannelSpec::events("library")];
        broker.prepare(&channels).await.unwrap();
        let reader = Stranger::listening(&broker, ChannelSpec::events("library"), "reader").await;
        let process = Process::start(library_cli(&broker), &settings).await;
        let process = process.unwrap_or_else(|trouble| panic!("{trouble}"));
        let books = Stranger::listening(&broker, ChannelSpec::work("books"), "books").await;
        let librarian = tokio::spawn(librarian(books));
        Self { broker, process, reader, librarian }
    }

    async fn lends(&mut self, loan: u64) {
        let body = serde_json::to_vec(&Asked { loan }).unwrap();
        let id = format!("asked-{loan}");
        self.reader.sends(support::event("loans", Asked::NAME, &id, &loan.to_string(), body)).await;
    }

    async fn closes(self) {
        self.librarian.abort();
        self.process.stop().await.unwrap_or_else(|trouble| panic!("{trouble}"));
    }
}

async fn asks(folder: &Path, question: Question) -> Result<Answer, String> {
    let registry = library_cli(&MemoryBroker::new()).registry().unwrap();
    ask(folder, registry, question).await.map_err(|error| crate::describe(&error))
}

fn named(key: &str) -> Named {
    Named { key: key.into(), saga: None }
}

async fn shows(folder: &Path, key: &str) -> Result<InstanceView, String> {
    match asks(folder, Question::Show { instance: named(key) }).await? {
        Answer::Shown { instance } => Ok(*instance),
        other => panic!("{other:?}"),
    }
}

async fn lists(folder: &Path, status: Option<&str>) -> Vec<(String, String)> {
    let status = status.map(ToOwned::to_owned);
    match asks(folder, Question::List { saga: None, status, limit: 100 }).await.unwrap() {
        Answer::Listed { instances, more: false, quarantined: 0 } => {
            let told = |view: InstanceView| (view.key.to_string(), view.status);
            let mut all: Vec<_> = instances.into_iter().map(told).collect();
            all.sort();
            all
        }
        other => panic!("{other:?}"),
    }
}

async fn operates(folder: &Path, key: &str, action: Action) -> Result<Verdict, String> {
    let (by, why) = ("ann".into(), "it has to be".into());
    match asks(folder, Question::Operate { instance: named(key), action, by, why }).await? {
        Answer::Operated { verdict, .. } => Ok(verdict),
        other => panic!("{other:?}"),
    }
}

/// Asks again and again, at most for 20 s: nothing tells the outside of these states.
async fn until_state(folder: &Path, key: &str, reached: impl Fn(&InstanceView) -> bool) {
    let wait = async {
        loop {
            if shows(folder, key).await.is_ok_and(|view| reached(&view)) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the state within 20 s");
}

fn is_waiting(view: &InstanceView) -> bool {
    view.nodes.iter().any(|node| node.state.starts_with("waiting"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_are_heard_while_it_runs_and_everything_can_be_read_at_rest() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let mut library = Library::opens(MemoryBroker::new(), folder).await;
    for loan in [1, 2, LOST] {
        library.lends(loan).await;
    }
    for loan in ["1", "2", "13"] {
        until_state(folder, loan, is_waiting).await;
    }
    assert_eq!(operates(folder, "1", Action::Cancel).await, Ok(Verdict::Applied));
    assert_eq!(library.reader.next().await.message.key, "1");
    assert_eq!(operates(folder, "2", Action::Kill).await, Ok(Verdict::Applied));
    let again = operates(folder, "2", Action::Cancel).await;
    assert_eq!(again, Ok(Verdict::Ignored(Why::HasEnded)));

    assert_eq!(operates(folder, "13", Action::Cancel).await, Ok(Verdict::Applied));
    until_state(folder, "13", |view| view.status == "blocked").await;
    let unknown = operates(folder, "13", Action::Retry { step: "lent".into() }).await;
    assert!(unknown.unwrap_err().contains("has no step `lent`"));
    let running = [("1", "compensated"), ("13", "blocked"), ("2", "killed")];
    let running = running.map(|(key, status)| (key.to_owned(), status.to_owned()));
    assert_eq!(lists(folder, None).await, running);
    assert_eq!(lists(folder, Some("blocked")).await, running[1..2]);
    let resolved = operates(folder, "13", Action::Resolve { step: "lend".into() }).await;
    assert_eq!(resolved, Ok(Verdict::Applied));
    assert_eq!(library.reader.next().await.message.key, "13");
    let told = shows(folder, "13").await.unwrap();
    library.closes().await;

    assert!(!folder.join("control.sock").exists(), "an orderly end takes its socket away");
    assert_eq!(lists(folder, Some("compensated")).await.len(), 2);
    let at_rest = shows(folder, &told.id.to_string()).await.unwrap();
    let json = |view: &InstanceView| serde_json::to_value(view).unwrap();
    assert_eq!(json(&at_rest), json(&told), "the same at rest, found by its id");
    let text = tell::instance(&at_rest, SystemClock::default().now(), Paint::plain());
    for said in [
        "loan 13  v1  compensated",
        "it has to be",
        "cancel by ann (uid ",
        "asks lend",
        "compensates lend",
        "resolved by hand",
        "\"loan\": 13",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let refused = operates(folder, "1", Action::Cancel).await.unwrap_err();
    assert!(refused.starts_with("no process runs on data folder"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_messages_are_listed_and_decided_about_while_it_runs_and_read_at_rest() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let mut library = Library::opens(MemoryBroker::new(), folder).await;
    let body = serde_json::to_vec(&Read { loan: 7 }).unwrap();
    library.reader.sends(support::event("loans", Read::NAME, "read-7", "7", body)).await;
    let parked = || async {
        match asks(folder, Question::Kept { filter: KeptFilter::default() }).await.unwrap() {
            Answer::KeptListed { messages, more: false } => messages,
            other => panic!("{other:?}"),
        }
    };
    let wait = async {
        while parked().await.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("it is parked within 20 s");
    let number = parked().await[0].number;
    let decide = || {
        let (by, why) = ("ann".into(), "it has to be".into());
        asks(folder, Question::Decide { number, decision: Decision::Replay, by, why })
    };
    let refused = decide().await.unwrap_err();
    assert!(refused.contains("`quarantine list` shows"), "{refused}");
    library.closes().await;

    let at_rest = parked().await;
    let now = SystemClock::default().now();
    let text = tell_kept::list(&at_rest, false, false, now, Paint::plain());
    assert!(text.contains("no-instance-yet") && text.contains("loan"), "{text}");
    let shown = match asks(folder, Question::KeptMessage { number }).await.unwrap() {
        Answer::KeptShown { message } => tell_kept::message(&message, now, Paint::plain()),
        other => panic!("{other:?}"),
    };
    assert!(shown.contains("{\"loan\":7}") && shown.contains("read-7"), "{shown}");
    let refused = decide().await.unwrap_err();
    assert!(refused.starts_with("no process runs on data folder"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_of_a_process_that_is_gone_is_told_from_one_that_listens() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let mut library = Library::opens(MemoryBroker::new(), folder).await;
    library.lends(1).await;
    until_state(folder, "1", is_waiting).await;
    let broker = library.broker.clone();
    library.closes().await;
    // What a process leaves behind that is killed.
    drop(std::os::unix::net::UnixListener::bind(folder.join("control.sock")).unwrap());
    assert_eq!(lists(folder, None).await, [("1".to_owned(), "running".to_owned())]);
    let library = Library::opens(broker, folder).await;
    assert_eq!(operates(folder, "1", Action::Kill).await, Ok(Verdict::Applied));
    library.closes().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_with_a_long_path_is_no_hindrance() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("long".repeat(20)).join("path".repeat(20));
    let mut library = Library::opens(MemoryBroker::new(), &folder).await;
    library.lends(1).await;
    until_state(&folder, "1", is_waiting).await;
    assert_eq!(lists(&folder, Some("running")).await.len(), 1);
    library.closes().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_is_for_its_owner_and_survives_nonsense() {
    use std::{
        io::{BufRead, BufReader, Write},
        os::unix::{fs::PermissionsExt, net::UnixStream},
    };
    let place = tempfile::tempdir().unwrap();
    let socket = place.path().join("control.sock");
    let library = Library::opens(MemoryBroker::new(), place.path()).await;
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let told = tokio::task::spawn_blocking(move || {
        let mut stream = UnixStream::connect(socket).unwrap();
        let mut answers = BufReader::new(stream.try_clone().unwrap()).lines();
        stream.write_all(b"nonsense\n").unwrap();
        let nonsense = answers.next().unwrap().unwrap();
        stream
            .write_all(b"{\"ask\":\"list\",\"saga\":null,\"status\":null,\"limit\":5}\n")
            .unwrap();
        let list = answers.next().unwrap().unwrap();
        // The other side may hang up before it has read all of it.
        stream.write_all(&[b'x'; 70_000]).unwrap_or_default();
        let too_much = answers.next().unwrap().unwrap();
        (nonsense, list, too_much)
    });
    let (nonsense, list, too_much) = told.await.unwrap();
    assert!(nonsense.contains("does not understand the question"), "{nonsense}");
    assert_eq!(list, r#"{"answer":"listed","instances":[],"more":false,"quarantined":0}"#);
    assert!(too_much.contains("a question has at most 65536 bytes"), "{too_much}");
    library.closes().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_is_not_there_is_told_with_what_helps() {
    let place = tempfile::tempdir().unwrap();
    let missing = shows(&place.path().join("nowhere"), "1").await.unwrap_err();
    assert!(missing.contains("is no data folder") && missing.contains("--data"), "{missing}");
    let library = Library::opens(MemoryBroker::new(), place.path()).await;
    let unknown = shows(place.path(), "7").await.unwrap_err();
    assert_eq!(unknown, "there is no instance with key or id `7`; `list` shows those there are");
    let instance = Named { key: "7".into(), saga: Some("laon".into()) };
    let unknown = asks(place.path(), Question::Show { instance }).await.unwrap_err();
    assert!(unknown.ends_with("did you mean `loan`?"), "{unknown}");
    let of = |saga: &str| Question::List { saga: Some(saga.into()), status: None, limit: 9 };
    let unknown = asks(place.path(), of("laon")).await.unwrap_err();
    assert_eq!(
        unknown,
        "there is no saga `laon` in this program, and no instance of one here; did you mean `loan`? (it has loan, purchase)"
    );
    assert!(matches!(
        asks(place.path(), of("loan")).await,
        Ok(Answer::Listed { instances, .. }) if instances.is_empty()
    ));
    library.closes().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_of_a_saga_that_is_not_in_this_program_is_told_as_that() {
    let place = tempfile::tempdir().unwrap();
    let mut library = Library::opens(MemoryBroker::new(), place.path()).await;
    library.lends(63).await;
    until_state(place.path(), "63", is_waiting).await;
    library.closes().await;
    let other = || cli("shop").saga(support::purchase(1)).registry().unwrap();
    let shown = ask(place.path(), other(), Question::Show { instance: named("63") }).await;
    let refusal = crate::describe(&shown.unwrap_err());
    assert!(refusal.contains("one of saga `loan`"), "{refusal}");
    assert!(refusal.contains("not in this program") && refusal.contains("--data"), "{refusal}");
    let listed = Question::List { saga: Some("loan".into()), status: None, limit: 9 };
    let listed = ask(place.path(), other(), listed).await.unwrap();
    assert!(matches!(listed, Answer::Listed { instances, .. } if instances.len() == 1));
}

#[tokio::test]
async fn a_folder_in_use_is_named_with_who_has_it() {
    let place = tempfile::tempdir().unwrap();
    let folder = lock(place.path(), Duration::ZERO).await.unwrap();
    let trouble = lock(place.path(), Duration::ZERO).await.unwrap_err().to_string();
    assert!(trouble.contains("is in use by process "), "{trouble}");
    drop(folder);
    lock(place.path(), Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_broker_needs_a_data_folder_unless_it_lives_in_this_process() {
    let flags = SettingsArgs { broker: Some("kafka".into()), ..SettingsArgs::default() };
    let nowhere = World { environment: Default::default(), folder: "no-such-folder".into() };
    let settings = Settings::load("library", &flags, &nowhere).unwrap();
    let trouble = Process::start(library_cli(&MemoryBroker::new()), &settings).await.err().unwrap();
    assert!(trouble.to_string().contains("hint: say --data DIR"), "{trouble}");
}

fn parse(line: &str) -> Result<Verb, clap::Error> {
    let matches = cli("library").command().try_get_matches_from(line.split(' '))?;
    Verb::from_arg_matches(&matches)
}

#[test]
fn the_command_line_is_sound() {
    cli("library").command().debug_assert();
    let Ok(Verb::Run(args)) = parse("library run --broker kafka --data d --kafka k:9 --shards 3")
    else {
        panic!("it is understood")
    };
    assert_eq!(args.settings.kafka.as_deref(), Some("k:9"));
    let Ok(Verb::Resolve(args)) = parse("library resolve 4711 lend --why lost --by ann") else {
        panic!("it is understood")
    };
    assert_eq!(
        (args.key.as_str(), args.step.as_str(), args.speaker.by.as_str()),
        ("4711", "lend", "ann")
    );
    assert!(matches!(parse("library list --status turning-back"), Ok(Verb::List(_))));
    for wrong in ["library cancel 1", "library list --limit 0", "library graph", "library"] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}

fn help_of(line: &str) -> String {
    let asked = cli("library").saga(loan()).version("7.1").command();
    let told = asked.try_get_matches_from(line.split(' ')).unwrap_err();
    told.to_string()
}

#[test]
fn help_says_what_the_program_and_each_verb_are_about() {
    let help = help_of("library --help");
    assert!(help.starts_with("Runs sagas: "), "{help}");
    assert_eq!(help_of("library --version"), "library 7.1\n");
    let unsaid = cli("library").command().try_get_matches_from(["library", "--version"]);
    let unsaid = unsaid.unwrap_err().to_string();
    assert!(unsaid.starts_with("library (dirigent "), "{unsaid}");
    let (pause, resume) =
        (help_of("library pause destination -h"), help_of("library resume destination -h"));
    assert!(pause.starts_with("Holds all commands to one destination"), "{pause}");
    assert!(resume.starts_with("Lets commands leave again"), "{resume}");
}

#[test]
fn every_word_of_an_operator_says_why_and_takes_the_former_name_of_it() {
    for word in ["why", "reason"] {
        for line in [
            "cancel 1",
            "kill 1",
            "retry 1 lend",
            "resolve 1 lend",
            "pause destination books",
            "resume destination books",
            "quarantine discard 1",
            "quarantine replay 1",
        ] {
            let line = format!("library {line} --{word} lost");
            assert!(parse(&line).is_ok(), "{line}: {:?}", parse(&line).err());
        }
    }
}

/// As a binary does that has verbs of its own.
#[derive(Debug, clap::Parser)]
struct Embedding {
    #[command(subcommand)]
    verb: Embedded,
}

#[derive(Debug, Subcommand)]
enum Embedded {
    Demo,
    #[command(flatten)]
    Sagas(Box<Verb>),
}

#[test]
fn the_verbs_are_a_part_of_another_command() {
    use clap::{CommandFactory, Parser};
    Embedding::command().debug_assert();
    let parse = |line: &str| Embedding::try_parse_from(line.split(' ')).unwrap().verb;
    assert!(matches!(parse("order demo"), Embedded::Demo));
    assert!(
        matches!(parse("order list --data d"), Embedded::Sagas(verb) if matches!(*verb, Verb::List(_)))
    );
}

#[tokio::test]
async fn a_saga_is_checked_and_drawn_by_name_and_version() {
    let broker = MemoryBroker::new();
    for line in
        ["library check loan@1 --json", "library graph loan", "library graph loan@v1 --format dot"]
    {
        let code = library_cli(&broker).carry_out(parse(line).unwrap()).await;
        assert_eq!(format!("{:?}", code.unwrap()), format!("{:?}", ExitCode::SUCCESS), "{line}");
    }
    let verb = parse("library graph laon").unwrap();
    let trouble = library_cli(&broker).carry_out(verb).await.unwrap_err().to_string();
    assert!(
        trouble.contains("no saga `laon`") && trouble.contains("did you mean `loan`?"),
        "{trouble}"
    );
    assert!(trouble.contains("it has loan@1, purchase@1"), "{trouble}");
}

#[test]
fn settings_that_can_be_used_and_are_hardly_meant_are_warned_of() {
    let place = tempfile::tempdir().unwrap();
    let text = "data = 'd'\nheadroom_bytes = 99999999999999\n[destination.book]\nrate = 1\n[destination.books]\nrate = 1\n";
    std::fs::write(place.path().join("dirigent.toml"), text).unwrap();
    let world = World { environment: Default::default(), folder: place.path().into() };
    let library = library_cli(&MemoryBroker::new());
    let settings = settings::usable(&library, &SettingsArgs::default(), &world).unwrap();
    let odd = settings::oddities(&library, &settings);
    assert_eq!(odd.len(), 2, "{odd:?}");
    assert!(
        odd[0].contains("`[destination.book]`") && odd[0].ends_with("did you mean `books`?"),
        "{odd:?}"
    );
    assert!(odd[1].contains("a tenth of those counts"), "{odd:?}");
}

#[test]
fn settings_are_shown_though_some_are_wrong_and_checked_with_the_files_they_name() {
    let place = tempfile::tempdir().unwrap();
    let text = "broker = 'rabbitmq'\nshards = 0\n[rabbitmq]\nuri = 'amqps://b'\n[rabbitmq.tls]\nca = 'no-ca'\n[kafka.properties]\n'linger.ms' = 'abc'\n";
    std::fs::write(place.path().join("dirigent.toml"), text).unwrap();
    let world = World { environment: Default::default(), folder: place.path().into() };
    let library = library_cli(&MemoryBroker::new());
    let told = |verb| settings::config(&library, &verb, &world).unwrap_err().to_string();
    let shown = told(ConfigVerb::Show(RunArgs::default()));
    assert!(shown.contains("dirigent.toml:2: `shards`") && !shown.contains("hint"), "{shown}");
    let checked = told(ConfigVerb::Check(RunArgs::default()));
    assert_eq!(checked.matches("linger.ms` of").count(), 1, "{checked}");
    assert!(
        checked.contains("dirigent.toml:2: `shards`")
            && checked.contains("dirigent.toml:6: `rabbitmq.tls.ca` names no-ca")
            && checked.contains("hint: `config show` prints"),
        "{checked}"
    );
}

#[tokio::test]
async fn a_folder_that_somebody_uses_who_does_not_listen_is_told_as_such() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("data");
    let used = crate::store::DataFolder::open(&folder).unwrap();
    let registry = library_cli(&MemoryBroker::new()).registry().unwrap();
    let told = async || {
        ask(&folder, Arc::clone(&registry), Question::Status).await.unwrap_err().to_string()
    };
    let deaf = told().await;
    assert!(deaf.contains(&format!("is in use by process {} (", std::process::id())), "{deaf}");
    drop(used);
    assert!(told().await.starts_with("no process runs on data folder"));
}
