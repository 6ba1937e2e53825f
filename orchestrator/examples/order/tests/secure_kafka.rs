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
    let cases: Vec<(&str, Vec<(&str, String)>, Vec<&str>)> = vec![
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
    let topics = ["open", "forbidden"].map(dirigent_connectors::ChannelSpec::work);
    connector.prepare(&topics).await.unwrap();
    house.broker.deny_writing(USER, "forbidden").unwrap();
    let source = secured::source(&connector).await;
    let to = |channel: &str, id| dirigent_connectors::Message {
        channel: channel.into(),
        ..secured::message(id)
    };
    let owners = connector.owner_sink("test").await.unwrap();
    for mut sink in [connector.sink().await.unwrap(), owners] {
        let begin = Instant::now();
        let window = [to("open", 0), to("forbidden", 1), to("open", 2)];
        let sent = loop {
            let sent = sink.send(&window).await;
            // The broker learns of a permission a moment after it was given.
            let unsent = |sent: &Sent| matches!(sent, Sent::Unsent { .. });
            if sent.iter().any(unsent) || begin.elapsed() > PATIENCE {
                break sent;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        assert!(
            matches!(&sent[1], Sent::Unsent { reason: UnsentReason::NotAuthorised, text } if text.contains("forbidden")),
            "{sent:?}"
        );
        assert_eq!((&sent[0], &sent[2]), (&Sent::Confirmed, &Sent::Confirmed));
    }
    drop(source);
}

#[test]
fn a_saga_whose_destination_may_not_be_written_to_decides_it_and_compensates() {
    let Some(house) = dirigent_brokers::require!(new_house()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let client = Client::of(&house.authority, folder.path());
    let settings = settings(&house.broker, &client);
    let data = ["--data", "orchestrator"];
    // The topics are there once everybody is.
    let _services =
        client.starts(&settings, &["participants", "--broker", "kafka", "--data", "services"]);
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
        if text.contains("compensated") || text.contains("completed") {
            break text;
        }
        assert!(begin.elapsed() < PATIENCE, "{text}");
        thread::sleep(Duration::from_millis(100));
    };
    assert!(shown.contains("not-authorised") && !shown.contains("completed"), "{shown}");
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
