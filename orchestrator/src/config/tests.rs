//! Settings: who wins, what is refused, and what is never shown.

use super::*;
use crate::UNSETTLED_MAX;
use crate::destinations::{CircuitSettings, Rate};
use dirigent_connectors::memory::MemoryBroker;

fn world(variables: &[(&str, &str)]) -> World {
    let pairs = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    World { environment: pairs.collect(), folder: "no-such-folder".into() }
}

fn with_file(text: &str) -> (tempfile::TempDir, World) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(FILE), text).unwrap();
    let world = World { environment: BTreeMap::new(), folder: folder.path().into() };
    (folder, world)
}

fn load(world: &World) -> Result<Settings, String> {
    Settings::load("order", &SettingsArgs::default(), world).map_err(|error| error.to_string())
}

fn refused(text: &str) -> String {
    match file::parse("dirigent.toml", text) {
        Ok(said) if !said.wrong.is_empty() => ConfigErrors(said.wrong).to_string(),
        Ok(_) => {
            let (_folder, world) = with_file(text);
            load(&world).err().expect("it is refused")
        }
        Err(errors) => ConfigErrors(errors).to_string(),
    }
}

#[test]
fn nothing_said_gives_the_defaults() {
    let settings = load(&world(&[])).unwrap();
    assert_eq!((settings.app.as_str(), settings.data), ("order", None));
    assert_eq!((settings.broker, settings.kafka.as_str()), (None, "localhost:9092"));
    assert_eq!(settings.durability, Durability::PowerLoss);
    assert_eq!((settings.kafka_partitions, settings.kafka_replicas), (6, None));
    assert_eq!((settings.unsettled_max, settings.shards), (UNSETTLED_MAX, None));
    assert!(settings.warnings.is_empty());
}

#[test]
fn of_a_device_no_more_is_read_than_a_file_of_settings_may_have() {
    let flags = SettingsArgs { config: Some("/dev/zero".into()), ..SettingsArgs::default() };
    let error = Settings::load("order", &flags, &world(&[])).err().expect("it has no end");
    assert!(error.to_string().contains("larger than such a file may be"), "{error}");
    let variables = [("DIRIGENT_RABBITMQ_PASSWORD_FILE", "/dev/zero")];
    let error = load(&world(&variables)).err().expect("it has no end");
    assert!(error.contains("larger than such a file may be"), "{error}");
}

#[test]
fn a_flag_wins_over_the_environment_which_wins_over_the_file() {
    let (_folder, mut world) =
        with_file("data = 'a'\nshards = 3\n[kafka]\naddress = 'file:1'\n[log]\nformat = 'json'\n");
    world.environment.insert("DIRIGENT_KAFKA".into(), "environment:1".into());
    world.environment.insert("DIRIGENT_DATA".into(), "b".into());
    world.environment.insert("DIRIGENT_SHARDS".into(), String::new());
    let flags = SettingsArgs { data: Some("c".into()), ..SettingsArgs::default() };
    let settings = Settings::load("order", &flags, &world).unwrap();
    assert_eq!(settings.data, Some("c".into()));
    assert_eq!(settings.kafka, "environment:1");
    assert_eq!(settings.shards, Some(3), "an empty variable says nothing");
    assert_eq!(settings.log_format, LogFormat::Json);
    let origin = |key: &str| {
        let shown = settings.shown.iter().find(|(shown, ..)| shown == key);
        shown.map(|(_, _, origin)| origin.clone()).unwrap()
    };
    assert_eq!(origin("data"), "--data");
    assert_eq!(origin("kafka.address"), "DIRIGENT_KAFKA");
    assert!(origin("shards").ends_with("dirigent.toml:2"), "{}", origin("shards"));
    assert_eq!(origin("durability"), "default");
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
    let cases = [
        (
            "data = 'x'\nborker = 'kafka'\n",
            "dirigent.toml:2: unknown key `borker`; did you mean `broker`?",
        ),
        (
            "[kafka]\nadress = 'x'\n",
            "dirigent.toml:2: unknown key `adress`; did you mean `address`?",
        ),
        (
            "address = 'x'\n",
            "dirigent.toml:1: unknown key `address`; did you mean `kafka.address`?",
        ),
        (
            "[log]\ncolour = 'x'\n",
            "dirigent.toml:2: unknown key `colour`; known here: filter, format",
        ),
    ];
    for (text, error) in cases {
        assert_eq!(refused(text), error);
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_its_place_and_what_would_be_right() {
    for (text, error) in [
        (
            "broker = 'kafak'",
            "`broker` can't be `kafak`, only one of memory, kafka, rabbitmq; did you mean `kafka`?",
        ),
        ("\nshards = 0", ":2: `shards` takes a whole number from 1 to 256"),
        ("shards = 'many'", ":1: `shards` has to be u64"),
        ("data = ", ":1: "),
        ("[log]\nfilter = 'a=b=c'", "`log.filter` is no filter of logs"),
        ("app = 'My App'", "`app` takes 1 to 64 lower-case letters"),
        ("durability = 'none'", "only one of power-loss, process-crash"),
    ] {
        let told = refused(text);
        assert!(told.contains(error), "{text}: {told}");
    }
}

#[test]
fn properties_of_kafka_are_passed_on_unless_a_promise_rests_on_them() {
    let (_folder, world) = with_file(
        "[kafka.properties]\n'sasl.password' = 's3cret'\n'socket.keepalive.enable' = true\n'linger.ms' = 5\n",
    );
    let settings = load(&world).unwrap();
    assert_eq!(settings.kafka_properties["sasl.password"], "s3cret");
    assert_eq!(settings.kafka_properties["socket.keepalive.enable"], "true");
    assert_eq!(settings.kafka_properties["linger.ms"], "5");
    let told = refused("[kafka.properties]\n'linger.ms' = 5\n'enable.auto.commit' = true\n");
    assert!(told.starts_with("dirigent.toml:3: ") && told.contains("enable.auto.commit"), "{told}");
    assert!(told.contains("positions are kept in the journal"), "{told}");
}

#[test]
fn secrets_are_shown_nowhere() {
    let (_folder, world) = with_file(
        "[rabbitmq]\nuri = 'amqp://ann:s3cret@broker:5672/%2f'\n[kafka.properties]\n'sasl.password' = 's3cret'\n",
    );
    let mut settings = load(&world).unwrap();
    settings.broker = Some(BrokerName::RabbitMq);
    let shown = format!("{:?} {}", settings.shown, settings.broker_shown());
    assert!(shown.contains("amqp://ann:***@broker:5672"), "{shown}");
    let flags = SettingsArgs { rabbitmq: Some("amqp://s3cret@b".into()), ..Default::default() };
    let shown = format!("{shown} {flags:?}");
    assert!(!shown.contains("s3cret"), "{shown}");
    for text in [
        "[rabbitmq]\nuri = 'http://ann:s3cret@broker'\n",
        "[kafka.properties]\n'sasl.password' = ['s3cret']\n",
        "[rabbitmq]\nuri = 'amqp://ann:s3cret@broker\n",
        "[rabbitmq]\npassword = s3cret\n",
    ] {
        let told = refused(text);
        assert!(!told.contains("s3cret"), "{told}");
    }
    // Passwords without their quotes.
    for text in ["[rabbitmq]\npassword = 4711\n", "[kafka.sasl]\npassword = 4711\n"] {
        let told = refused(text);
        assert!(!told.contains("4711"), "{told}");
        assert!(told.contains(":2: `password` has to be a string"), "{told}");
    }
    for text in
        ["rabbitmq = 4711\n", "[registry]\ntoken = [4711]\n", "[kafka.sasl]\npassword.x = 4711\n"]
    {
        let told = refused(text);
        assert!(!told.contains("4711"), "{told}");
    }
}

#[test]
fn a_variable_nobody_reads_is_a_warning() {
    let settings = load(&world(&[
        ("DIRIGENT_KAFAK", "x:1"),
        ("DIRIGENT_REQUIRE_BROKERS", "1"),
        ("DIRIGENT_TEST_ANYTHING", "1"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://jaeger:4318"),
    ]))
    .unwrap();
    assert_eq!(
        settings.warnings,
        ["nobody reads the environment's DIRIGENT_KAFAK; did you mean `DIRIGENT_KAFKA`?"]
    );
    assert!(
        settings.shown.iter().any(|(key, value, _)| key == "otlp" && value == "http://jaeger:4318")
    );
}

#[test]
fn a_run_without_a_broker_says_how_to_choose_one() {
    let settings = load(&world(&[])).unwrap();
    let error = settings.connector(&MemoryBroker::new()).err().unwrap().to_string();
    assert!(error.contains("--broker kafka"), "{error}");
}

#[test]
fn a_file_that_is_named_and_not_there_is_an_error() {
    let flags =
        SettingsArgs { config: Some("no-such-file.toml".into()), ..SettingsArgs::default() };
    let error = Settings::load("order", &flags, &world(&[])).err().unwrap().to_string();
    assert!(error.starts_with("reading the settings in no-such-file.toml: "), "{error}");
}

#[test]
fn destinations_are_protected_as_the_file_says_and_otherwise_as_all_are() {
    let (_folder, world) = with_file(
        "[destinations]\nin_flight_max = 500\n[destination.inventory]\nrate = 100\ncircuit = { open_seconds = 90, probes = 1 }\n\
         [destination.mail]\nrate = 5\nburst = 50\ncircuit = { enabled = false }\n",
    );
    let settings = load(&world).unwrap();
    let Protections { all, by_channel } = &settings.protections;
    assert_eq!(
        (all.in_flight_max, all.rate, all.circuit),
        (Some(500), None, Some(CircuitSettings::default()))
    );
    let inventory = by_channel["inventory"];
    assert_eq!(inventory.in_flight_max, Some(500));
    assert_eq!(inventory.rate, Some(Rate { per_second: 100, burst: 100 }));
    let circuit = inventory.circuit.unwrap();
    assert_eq!(
        (circuit.probes, circuit.open_min.as_secs(), circuit.open_max.as_secs()),
        (1, 90, 90)
    );
    let mail = by_channel["mail"];
    assert_eq!((mail.rate, mail.circuit), (Some(Rate { per_second: 5, burst: 50 }), None));
    let shown =
        settings.shown.iter().find(|(key, ..)| key == "destination.inventory.rate").unwrap();
    assert!(shown.1 == "100" && shown.2.ends_with("dirigent.toml:4"), "{shown:?}");
}

#[test]
fn what_can_not_be_said_of_a_destination_is_refused_with_its_line() {
    for (text, said) in [
        (
            "[destination.a]\nrate = 0\n",
            "dirigent.toml:2: `destination.a.rate` takes a whole number from 1",
        ),
        ("[destination.a]\nburst = 3\n", "and no rate is said"),
        ("[destinations]\ncircuit = { outcomes = 5 }\n", "would never open the circuit"),
        (
            "[destinations.circuit]\nopen_seconds = 9\nopen_seconds_max = 3\n",
            "is less than open_seconds",
        ),
        ("[destination.a]\nrat = 1\n", "unknown key `rat`"),
    ] {
        let error = refused(text);
        assert!(error.contains(said), "{text}: {error}");
    }
}

#[test]
fn properties_are_tried_at_librdkafka_and_told_with_their_line_and_their_own_name() {
    let told = refused("[kafka.properties]\n'linger.ms' = 'abc'\n'lingre.ms' = 5\n");
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines.len(), 2, "{told}");
    assert!(
        lines[0].contains("dirigent.toml:2: `linger.ms` of `kafka.properties` is refused")
            && !lines[0].contains("abc"),
        "{told}"
    );
    assert!(lines[1].ends_with("dirigent.toml:3: `lingre.ms` of `kafka.properties` is no property that librdkafka knows; did you mean `linger.ms`?"), "{told}");
}

#[test]
fn all_that_is_wrong_is_told_at_once_with_its_place_and_the_rest_can_still_be_shown() {
    let (_folder, world) = with_file(
        "shards = 0\n[rabbitmq]\npassword_file = 'no-such-file'\n[kafka]\naddress = 'x:99999'\n\
         [kafka.properties]\nacks = 0\n[destination.a]\nrate = 0\n[registry]\nurl = 'http://r'\nusername = 'ann'\n",
    );
    let told = load(&world).err().unwrap();
    for said in [
        "dirigent.toml:1: `shards` takes",
        "dirigent.toml:3: `rabbitmq.password_file` names no-such-file, which can't be read",
        "dirigent.toml:5: `kafka.address` names `x:99999`",
        "dirigent.toml:7: `kafka.properties` may not set `acks`",
        "dirigent.toml:9: `destination.a.rate` takes",
        "`registry.username` is said without a password",
    ] {
        assert!(told.contains(said), "{said}: {told}");
    }
    let (settings, wrong) = Settings::read("order", &SettingsArgs::default(), &world);
    assert_eq!(wrong.len(), told.lines().count());
    let shown = |key: &str| settings.shown.iter().find(|shown| shown.0 == key).unwrap();
    assert_eq!(shown("shards").1, "0");
    assert!(shown("shards").2.ends_with("dirigent.toml:1"));
    assert_eq!(shown("durability").1, "power-loss");
    let world = World { folder: "no-such-folder".into(), ..world };
    let flags = SettingsArgs { config: Some("no-such-file".into()), ..SettingsArgs::default() };
    let (settings, wrong) = Settings::read("order", &flags, &world);
    assert_eq!((wrong.len(), settings.durability), (1, Durability::PowerLoss));
}

#[test]
fn what_the_program_says_itself_counts_where_nobody_else_says_anything() {
    let own = |value: &str, by: &str| SettingsArgs {
        broker: Some("kafka".into()),
        otherwise: vec![Otherwise { key: "kafka.address", value: value.into(), by: by.into() }],
        ..SettingsArgs::default()
    };
    let flags = own("found:9092", "started here");
    let settings = Settings::load("order", &flags, &world(&[])).unwrap();
    assert_eq!(settings.broker_told(), "kafka at found:9092, started here");
    let said = world(&[("DIRIGENT_KAFKA", "said:9092")]);
    let settings = Settings::load("order", &flags, &said).unwrap();
    assert_eq!(settings.broker_told(), "kafka at said:9092, by DIRIGENT_KAFKA");
    let settings = Settings::load("order", &own("(looked for)", "default"), &world(&[])).unwrap();
    assert!(settings.shown.iter().any(|shown| shown.1 == "(looked for)"));
    let own = Otherwise { key: "rabbitmq.uri", value: "(looked for)".into(), by: "us".into() };
    let flags = SettingsArgs { otherwise: vec![own], ..SettingsArgs::default() };
    let settings = Settings::load("order", &flags, &world(&[])).unwrap();
    assert!(settings.shown.contains(&("rabbitmq.uri".into(), "(looked for)".into(), "us".into())));
}

/// Looked up from the file's begin for each setting, the lines of so many took minutes.
#[test]
fn tens_of_thousands_of_destinations_each_have_their_line() {
    let sections = (0..20_000).map(|n| format!("[destination.d{n}]\nrate = {}\n", n + 1));
    let said = file::parse("dirigent.toml", &sections.collect::<String>()).unwrap();
    assert_eq!(said.protections.by_channel.len(), 20_000);
    let last = said.shown.iter().find(|shown| shown.0 == "destination.d19999.rate").unwrap();
    assert_eq!((last.1.as_str(), last.2.as_str()), ("20000", "dirigent.toml:40000"));
}
