//! Kafka by SASL over TLS, which lets in clients with a certificate and a password only: the demo by each mechanism, each refusal with
//! what a person can do, a topic that may not be written to, and a broker that comes back with other papers.
//!
//! Wants the feature `kafka-tls`. Tests share a broker where they do it no harm, and say that they are skipped where none can be started.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

mod secured;

use dirigent_brokers::{Broker, Unavailable};
use dirigent_connectors::{
    Connector, Secret, Sent, UnsentReason,
    health::Standing,
    kafka::{KafkaConnector, KafkaSasl, KafkaSettings, KafkaTls, SaslMechanism},
    names,
};
use secured::{Authority, Client, LATER, OVER, PASSWORD, PATIENCE, USER, broker_of, but};
use std::{
    sync::{Arc, Mutex, Weak},
    thread,
    time::{Duration, Instant},
};

/// A broker, and who signs its certificates.
struct House {
    authority: Authority,
    broker: Broker,
}

/// One for all tests that run at the same time.
fn house() -> Result<Arc<House>, Unavailable> {
    static HOUSE: Mutex<Weak<House>> = Mutex::new(Weak::new());
    let mut known = HOUSE.lock().unwrap();
    if let Some(house) = known.upgrade() {
        return Ok(house);
    }
    let house = Arc::new(new_house()?);
    *known = Arc::downgrade(&house);
    Ok(house)
}

fn new_house() -> Result<House, Unavailable> {
    let authority = Authority::new("house");
    let broker = dirigent_brokers::kafka_private_secured(&broker_of(&authority, LATER))?;
    Ok(House { authority, broker })
}

fn settings(broker: &Broker, client: &Client) -> Vec<(String, String)> {
    [
        ("DIRIGENT_KAFKA", broker.secured().unwrap()),
        ("DIRIGENT_KAFKA_TLS_CA", client.file("ca.pem")),
        ("DIRIGENT_KAFKA_TLS_CERTIFICATE", client.file("client.pem")),
        ("DIRIGENT_KAFKA_TLS_KEY", client.file("client.key")),
        ("DIRIGENT_KAFKA_SASL_MECHANISM", "SCRAM-SHA-512".into()),
        ("DIRIGENT_KAFKA_SASL_USERNAME", USER.into()),
        ("DIRIGENT_KAFKA_SASL_PASSWORD_FILE", client.file("password")),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

fn connector(broker: &Broker, client: &Client, mechanism: SaslMechanism) -> KafkaConnector {
    let mut settings = KafkaSettings::new(broker.secured().unwrap());
    settings.tls = Some(KafkaTls {
        ca: Some(client.file("ca.pem").into()),
        certificate: Some(client.file("client.pem").into()),
        key: Some(client.file("client.key").into()),
        key_password: None,
    });
    let password = Secret::new(PASSWORD);
    settings.sasl = Some(KafkaSasl { mechanism, username: USER.into(), password });
    KafkaConnector::new(settings).unwrap()
}

#[test]
fn the_demo_balances_over_sasl_ssl_by_scram_and_by_plain() {
    let Some(house) = dirigent_brokers::require!(house()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let client = Client::of(&house.authority, folder.path());
    let settings = settings(&house.broker, &client);
    let told = secured::demo_balances(&client, &settings, "kafka");
    assert!(told.contains("by sasl_ssl"), "{told}");
    secured::shows_no_secret(&client, &settings);
    let plain = but(&settings, &[("DIRIGENT_KAFKA_SASL_MECHANISM", "PLAIN")]);
    secured::demo_balances(&client, &plain, "kafka");
}

#[test]
fn whoever_is_not_let_in_is_told_why_and_what_to_do_instead_of_waiting() {
    let Some(house) = dirigent_brokers::require!(house()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let client = Client::of(&house.authority, folder.path());
    let good = settings(&house.broker, &client);
    let by_name = house.broker.secured().unwrap().replace("127.0.0.1", "localhost");
    let file = |name: &str| client.file(name);
    let cases: Vec<secured::Case<'_>> = vec![
        (
            "a wrong authority",
            vec![("DIRIGENT_KAFKA_TLS_CA", file("stranger-ca.pem"))],
            vec!["signed by nobody who is trusted here", "`tls.ca`", "127.0.0.1:"],
        ),
        (
            "a wrong name",
            vec![("DIRIGENT_KAFKA", by_name)],
            vec!["is for another name", "localhost:"],
        ),
        (
            "no certificate",
            vec![
                ("DIRIGENT_KAFKA_TLS_CERTIFICATE", String::new()),
                ("DIRIGENT_KAFKA_TLS_KEY", String::new()),
            ],
            vec!["`tls.certificate`"],
        ),
        (
            "a stranger's certificate",
            vec![
                ("DIRIGENT_KAFKA_TLS_CERTIFICATE", file("stranger-client.pem")),
                ("DIRIGENT_KAFKA_TLS_KEY", file("stranger-client.key")),
            ],
            vec!["does not take the certificate of this client"],
        ),
        (
            "a wrong password by SCRAM",
            vec![("DIRIGENT_KAFKA_SASL_PASSWORD_FILE", file("wrong-password"))],
            vec!["does not let us in", "`sasl.password`"],
        ),
        (
            "a wrong password by PLAIN",
            vec![
                ("DIRIGENT_KAFKA_SASL_PASSWORD_FILE", file("wrong-password")),
                ("DIRIGENT_KAFKA_SASL_MECHANISM", "PLAIN".into()),
            ],
            vec!["does not let us in", "`sasl.password`"],
        ),
        (
            "a key of another certificate",
            vec![("DIRIGENT_KAFKA_TLS_KEY", file("stranger-client.key"))],
            vec!["kafka setting tls", "does the key belong to the certificate"],
        ),
    ];
    thread::scope(|scope| {
        for (number, (case, changes, words)) in cases.iter().enumerate() {
            let (client, good) = (&client, &good);
            scope.spawn(move || {
                let changes: Vec<_> =
                    changes.iter().map(|(name, value)| (*name, value.as_str())).collect();
                let told = client.refused(&but(good, &changes), "kafka", &format!("data-{number}"));
                for word in words {
                    assert!(told.contains(word), "{case}: {told}");
                }
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_the_user_may_not_write_to_leaves_its_message_unsent_and_the_others_confirmed()
{
    let Some(house) = dirigent_brokers::require!(house()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let client = Client::of(&house.authority, folder.path());
    let connector = connector(&house.broker, &client, SaslMechanism::ScramSha256);
    connector.prepare(&[dirigent_connectors::ChannelSpec::work("forbidden")]).await.unwrap();
    house.broker.deny_writing(USER, "forbidden").unwrap();
    let forbidden =
        |id| dirigent_connectors::Message { channel: "forbidden".into(), ..secured::message(id) };
    let refused = |sent: &Sent| matches!(sent, Sent::Unsent { reason: UnsentReason::NotAuthorised, text } if text.contains("forbidden"));
    let mut source = secured::source(&connector).await;
    let mut plain = connector.sink().await.unwrap();
    // The broker learns of a permission a moment after it was given.
    let begin = Instant::now();
    while !refused(&plain.send(&[forbidden(0)]).await[0]) {
        assert!(begin.elapsed() < PATIENCE, "it is permitted");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let owners = connector.owner_sink("test").await.unwrap();
    for (mut sink, first) in [(plain, 0), (owners, 4)] {
        let work = |id: usize| secured::message(first + id);
        let sent = sink.send(&[work(0), forbidden(0), work(1)]).await;
        assert!(refused(&sent[1]), "{sent:?}");
        assert_eq!((&sent[0], &sent[2]), (&Sent::Confirmed, &Sent::Confirmed));
        // The owner's transaction has nothing else in it, and what comes after finds a sink that works.
        let sent = sink.send(&[forbidden(1), forbidden(2)]).await;
        assert!(sent.iter().all(refused), "{sent:?}");
        let sent = sink.send(&[work(2), work(3)]).await;
        assert_eq!(sent, [Sent::Confirmed, Sent::Confirmed]);
    }
    // One that came twice would be among as many as were confirmed, in the place of another one.
    let mut came = Vec::new();
    while came.len() < 8 {
        let read = tokio::time::timeout(PATIENCE, source.receive(100)).await;
        let read = read.unwrap_or_else(|_| panic!("only {came:?} came")).unwrap();
        came.extend(read.iter().map(|it| it.message.attributes.get(names::ID).unwrap().to_owned()));
    }
    assert_eq!(came, ["0", "1", "2", "3", "4", "5", "6", "7"]);
}

#[test]
fn a_saga_whose_destination_may_not_be_written_to_decides_it_and_compensates() {
    let Some(house) = dirigent_brokers::require!(new_house()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let client = Client::of(&house.authority, folder.path());
    let settings = settings(&house.broker, &client);
    let data = ["--data", "orchestrator"];
    // The topics are there once everybody is. Nothing but the forbidden topic turns the order back.
    let services =
        ["participants", "--broker", "kafka", "--data", "services", "--reject-rate", "0"];
    let _services = client.starts(&settings, &services);
    let _engine = client.starts(&settings, &[&["run", "--broker", "kafka"][..], &data].concat());
    house.broker.deny_writing(USER, "inventory").unwrap();
    let ends = |arguments: &[&str]| {
        let output = client.order(&settings, arguments).output().unwrap();
        let text = secured::said(&output);
        assert!(output.status.success(), "{text}");
        text
    };
    ends(&["publish", "--broker", "kafka", "--orders", "1", "--seed", "7"]);
    let begin = Instant::now();
    let shown = loop {
        let show = [&["show", "1"][..], &data].concat();
        let output = client.order(&settings, &show).output().unwrap();
        let text = secured::said(&output);
        if text.lines().any(|line| line.trim_start().starts_with("ended ")) {
            break text;
        }
        assert!(begin.elapsed() < PATIENCE, "{text}");
        thread::sleep(Duration::from_millis(100));
    };
    let why = "not-authorised on `inventory`: sending to topic inventory";
    let line = |word: &str| shown.lines().find(|line| line.trim_start().starts_with(word));
    assert!(line("order 1").is_some_and(|line| line.ends_with("compensated")), "{shown}");
    assert!(line("cause").is_some_and(|line| line.contains(why)), "{shown}");
    for (step, ended) in [("reserve-stock", " unsent"), ("authorise-payment", " compensated")] {
        assert!(line(step).is_some_and(|line| line.ends_with(ended)), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_comes_back_with_a_certificate_that_has_run_out_is_told_and_one_renewed_is_found_again()
 {
    let Some(house) = dirigent_brokers::require!(new_house()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let client = Client::of(&house.authority, folder.path());
    let connector = connector(&house.broker, &client, SaslMechanism::ScramSha512);
    let mut source = secured::source(&connector).await;
    let mut sink = connector.sink().await.unwrap();
    secured::confirmed(sink.as_mut(), (0..10).map(secured::message).collect()).await;
    let restarted_with = |until| {
        house.broker.secure(&broker_of(&house.authority, until)).unwrap();
        house.broker.restart().unwrap();
    };
    restarted_with(OVER);
    for health in [source.health(), sink.health()] {
        let degraded = |standing: &Standing| {
            standing.name() == "degraded"
                && standing.why().is_some_and(|why| why.contains("certificate of the broker"))
        };
        secured::until(&health, degraded).await;
    }
    restarted_with(LATER);
    secured::confirmed(sink.as_mut(), (10..20).map(secured::message).collect()).await;
    secured::all_come(source.as_mut(), 20).await;
    for health in [source.health(), sink.health()] {
        secured::until(&health, Standing::is_ready).await;
    }
}
