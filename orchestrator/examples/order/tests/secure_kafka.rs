//! Kafka by SASL over TLS, which lets in clients with a certificate and a password only: the demo by each mechanism, and each refusal with
//! what a person can do.
//!
//! Wants the feature `kafka-tls`. Tests share a broker where they do it no harm, and say that they are skipped where none can be started.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

mod secured;

use dirigent_brokers::{Broker, Unavailable};
use secured::{Authority, Client, LATER, USER, broker_of, but};
use std::{
    sync::{Arc, Mutex, Weak},
    thread,
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
