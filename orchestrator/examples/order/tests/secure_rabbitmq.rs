//! RabbitMQ by AMQPS, which lets in clients with a certificate only: the demo, each refusal with what a person can do, and papers
//! that run out and are renewed while a process runs.
//!
//! Each test has a broker of its own, and says that it is skipped where none can be started.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

mod secured;

use dirigent_brokers::Broker;
use dirigent_connectors::{
    Connector, Secret,
    health::Standing,
    rabbitmq::{RabbitMqConnector, RabbitMqSettings, RabbitMqTls},
};
use secured::{Authority, Client, LATER, OVER, PASSWORD, USER, broker_of, but};

macro_rules! broker_or_skip {
    ($secured:expr) => {{
        let found = dirigent_brokers::rabbitmq_private_secured($secured);
        let Some(broker) = dirigent_brokers::require!(found) else { return };
        broker
    }};
}

fn settings(broker: &Broker, client: &Client) -> Vec<(String, String)> {
    let address = format!("amqps://{USER}@{}/%2f", broker.secured().unwrap());
    [
        ("DIRIGENT_RABBITMQ", address),
        ("DIRIGENT_RABBITMQ_PASSWORD_FILE", client.file("password")),
        ("DIRIGENT_RABBITMQ_TLS_CA", client.file("ca.pem")),
        ("DIRIGENT_RABBITMQ_TLS_CERTIFICATE", client.file("client.pem")),
        ("DIRIGENT_RABBITMQ_TLS_KEY", client.file("client.key")),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

#[test]
fn the_demo_balances_over_amqps_with_a_client_certificate_and_without_a_password() {
    let authority = Authority::new("house");
    let broker = broker_or_skip!(&broker_of(&authority, LATER));
    let folder = tempfile::tempdir().unwrap();
    let client = Client::of(&authority, folder.path());
    let settings = settings(&broker, &client);
    let told = secured::demo_balances(&client, &settings, "rabbitmq");
    assert!(told.contains("amqps://"), "{told}");
    secured::shows_no_secret(&client, &settings);
    // Known by the certificate alone: the password would not get it in.
    let external = but(
        &settings,
        &[
            ("DIRIGENT_RABBITMQ_PASSWORD_FILE", &client.file("wrong-password")),
            ("DIRIGENT_RABBITMQ_MECHANISM", "EXTERNAL"),
        ],
    );
    secured::demo_balances(&client, &external, "rabbitmq");
}

#[test]
fn whoever_is_not_let_in_is_told_why_at_once_and_what_to_do() {
    let authority = Authority::new("house");
    let broker = broker_or_skip!(&broker_of(&authority, LATER));
    let folder = tempfile::tempdir().unwrap();
    let client = Client::of(&authority, folder.path());
    let good = settings(&broker, &client);
    let address = format!("amqps://{USER}:{PASSWORD}@{}/%2f", broker.secured().unwrap());
    let by_name = address.replace("127.0.0.1", "localhost");
    let plain = broker.address().replace("amqp://", "amqps://");
    let file = |name: &str| client.file(name);
    let cases: Vec<secured::Case<'_>> = vec![
        (
            "a wrong authority",
            vec![("DIRIGENT_RABBITMQ_TLS_CA", file("stranger-ca.pem"))],
            vec!["signed by nobody who is trusted here", "`tls.ca`", "amqps://127.0.0.1"],
        ),
        (
            "a wrong name",
            vec![
                ("DIRIGENT_RABBITMQ", by_name),
                ("DIRIGENT_RABBITMQ_PASSWORD_FILE", String::new()),
            ],
            vec!["is for another name", "amqps://localhost"],
        ),
        (
            "no certificate",
            vec![
                ("DIRIGENT_RABBITMQ_TLS_CERTIFICATE", String::new()),
                ("DIRIGENT_RABBITMQ_TLS_KEY", String::new()),
            ],
            vec!["wants a certificate of its clients", "`tls.certificate`"],
        ),
        (
            "a stranger's certificate",
            vec![
                ("DIRIGENT_RABBITMQ_TLS_CERTIFICATE", file("stranger-client.pem")),
                ("DIRIGENT_RABBITMQ_TLS_KEY", file("stranger-client.key")),
            ],
            vec!["refuses the certificate of this client"],
        ),
        (
            "a wrong password",
            vec![("DIRIGENT_RABBITMQ_PASSWORD_FILE", file("wrong-password"))],
            vec!["does not let us in", "check user, password"],
        ),
        ("a port without TLS", vec![("DIRIGENT_RABBITMQ", plain)], vec!["does not speak TLS"]),
        (
            "a key of another certificate",
            vec![("DIRIGENT_RABBITMQ_TLS_KEY", file("stranger-client.key"))],
            vec!["tls.key", "belong together"],
        ),
    ];
    std::thread::scope(|scope| {
        for (number, (case, changes, words)) in cases.iter().enumerate() {
            let (client, good) = (&client, &good);
            scope.spawn(move || {
                let changes: Vec<_> =
                    changes.iter().map(|(name, value)| (*name, value.as_str())).collect();
                let data = format!("data-{number}");
                let told = client.refused(&but(good, &changes), "rabbitmq", &data);
                for word in words {
                    assert!(told.contains(word), "{case}: {told}");
                }
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_has_run_out_is_told_by_readiness_and_renewed_without_a_restart() {
    let authority = Authority::new("house");
    let broker = broker_or_skip!(&broker_of(&authority, LATER));
    let folder = tempfile::tempdir().unwrap();
    let client = Client::of(&authority, folder.path());
    let address = format!("amqps://{USER}@{}", broker.secured().unwrap());
    let mut settings = RabbitMqSettings::new(&address).unwrap();
    settings.password = Some(Secret::new(PASSWORD));
    settings.tls = RabbitMqTls {
        ca: Some(client.file("ca.pem").into()),
        certificate: Some(client.file("client.pem").into()),
        key: Some(client.file("client.key").into()),
    };
    settings.check().unwrap();
    let connector = RabbitMqConnector::new(settings);
    let mut source = secured::source(&connector).await;
    let mut sink = connector.sink().await.unwrap();
    secured::confirmed(sink.as_mut(), (0..10).map(secured::message).collect()).await;

    // In order: RabbitMQ 3.10 killed with `kill -9` may come back with a queue that has no leader. Erlang keeps files of certificates
    // for a while.
    let restarted_with = |until| {
        broker.rabbitmqctl(&["stop_app"]).unwrap();
        broker.secure(&broker_of(&authority, until)).unwrap();
        broker.rabbitmqctl(&["eval", "ssl:clear_pem_cache()."]).unwrap();
        broker.rabbitmqctl(&["start_app"]).unwrap();
    };
    restarted_with(OVER);
    for health in [source.health(), sink.health()] {
        let degraded = |standing: &Standing| {
            standing.name() == "degraded"
                && standing.why().is_some_and(|why| why.contains("expired"))
        };
        secured::until(&health, degraded).await;
    }
    // The broker is renewed while our own papers are a stranger's: those are read anew for each connection, too.
    let ours = ["pem", "key"].map(|kind| {
        let file = client.file(&format!("client.{kind}"));
        let ours = std::fs::read(&file).unwrap();
        std::fs::copy(client.file(&format!("stranger-client.{kind}")), &file).unwrap();
        (file, ours)
    });
    restarted_with(LATER);
    let refused = |standing: &Standing| {
        standing.why().is_some_and(|why| why.contains("refuses the certificate of this client"))
    };
    secured::until(&source.health(), refused).await;
    for (file, text) in ours {
        std::fs::write(file, text).unwrap();
    }
    for health in [source.health(), sink.health()] {
        secured::until(&health, Standing::is_ready).await;
    }
    secured::confirmed(sink.as_mut(), (10..20).map(secured::message).collect()).await;
    secured::all_come(source.as_mut(), 20).await;
}
