//! Against a real schema registry (Apicurio): what it says is what the stub of the plain tests says.
//!
//! Run by name: `cargo test -p integration-tests --test schema_registry`. It is downloaded at first (109 MB).

// Clippy takes the helpers of an integration test for code that is no test.
#![allow(clippy::unwrap_used)]

use dirigent::telemetry::Traces;
use dirigent_brokers::Broker;
use dirigent_model::message::{Body, Channel, Contract, Format, Message};
use dirigent_schemas::registry::{Compatibility, RegistrySettings, SchemaRegistry, Subjects};
use order::demo::{AddressArgs, BrokerKind, DemoArgs, PostgresArgs, RateArgs, RegistryArgs, demo};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A message in three versions, with a record of its own for each test.
macro_rules! versions {
    ($record:literal) => {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Old {
            amount: i32,
        }
        impl Message for Old {
            const NAME: &'static str = $record;
            const SCHEMA: Option<&'static str> = Some(concat!(
                r#"{"type":"record","name":""#,
                $record,
                r#"","namespace":"bank","fields":[{"name":"amount","type":"int"}]}"#
            ));
        }
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        #[allow(dead_code, reason = "not every test needs every version")]
        struct New {
            amount: i32,
            currency: String,
        }
        impl Message for New {
            const NAME: &'static str = $record;
            const SCHEMA: Option<&'static str> = Some(concat!(
                r#"{"type":"record","name":""#,
                $record,
                r#"","namespace":"bank","fields":[{"name":"amount","type":"int"},
                {"name":"currency","type":"string","default":"EUR"}]}"#
            ));
        }
        #[derive(Debug, Serialize, Deserialize)]
        #[allow(dead_code, reason = "not every test needs every version")]
        struct Broken {}
        impl Message for Broken {
            const NAME: &'static str = $record;
            const SCHEMA: Option<&'static str> = Some(concat!(
                r#"{"type":"record","name":""#,
                $record,
                r#"","namespace":"bank","fields":[{"name":"amount","type":"int"},
                {"name":"currency","type":"string"}]}"#
            ));
        }
    };
}

const CHANNEL: Channel = Channel::avro("payment");

fn settings(found: &Broker) -> RegistrySettings {
    RegistrySettings { register: true, ..RegistrySettings::new(found.address()) }
}

fn agreed<M: Message>(settings: RegistrySettings) -> SchemaRegistry {
    let registry = SchemaRegistry::new(settings).unwrap();
    registry.agree(&[Contract::sent::<M>(CHANNEL)]).unwrap();
    registry
}

#[test]
fn a_new_version_is_registered_and_both_versions_read_each_other() {
    versions!("Evolving");
    let Some(found) = dirigent_brokers::require!(dirigent_brokers::schema_registry()) else {
        return;
    };
    let (old, new) = (agreed::<Old>(settings(&found)), agreed::<New>(settings(&found)));
    let from_old = Body::write(&Old { amount: 5 }, Format::Avro, &*old.codec()).unwrap();
    let written = New { amount: 5, currency: "USD".into() };
    let from_new = Body::write(&written, Format::Avro, &*new.codec()).unwrap();
    assert_ne!(from_old.bytes[..5], from_new.bytes[..5]);
    for (registry, body) in [(&old, &from_new), (&new, &from_old)] {
        let id = registry.wants(body.format, &body.bytes).expect("an id that was not met");
        assert!(registry.wait_for(id, || true).unwrap());
    }
    assert_eq!(from_new.read::<Old>(&*old.codec()).unwrap(), Old { amount: 5 });
    let resolved = New { amount: 5, currency: "EUR".into() };
    assert_eq!(from_old.read::<New>(&*new.codec()).unwrap(), resolved);
    // Asked again, everybody gets the same ids.
    let again = agreed::<New>(RegistrySettings { register: false, ..settings(&found) });
    let body = Body::write(&written, Format::Avro, &*again.codec()).unwrap();
    assert_eq!(body, from_new);
}

#[test]
fn an_incompatible_change_is_refused_with_its_field() {
    versions!("Breaking");
    let Some(found) = dirigent_brokers::require!(dirigent_brokers::schema_registry()) else {
        return;
    };
    agreed::<Old>(settings(&found));
    let refused = |settings: RegistrySettings| {
        let registry = SchemaRegistry::new(settings).unwrap();
        let error = registry.agree(&[Contract::sent::<Broken>(CHANNEL)]).unwrap_err();
        dirigent::describe(&error)
    };
    let text = refused(settings(&found));
    assert!(text.contains("'currency'") && text.contains("subject `bank.Breaking`"), "{text}");
}

#[test]
fn an_id_that_is_not_there_is_told_from_an_outage() {
    versions!("Missing");
    let Some(found) = dirigent_brokers::require!(dirigent_brokers::schema_registry()) else {
        return;
    };
    let registry = agreed::<Old>(settings(&found));
    let mut body = Body::write(&Old { amount: 5 }, Format::Avro, &*registry.codec()).unwrap();
    body.bytes[1] = 0x70;
    let id = registry.wants(body.format, &body.bytes).unwrap();
    assert!(registry.wait_for(id, || true).unwrap());
    let text = body.read::<Old>(&*registry.codec()).unwrap_err().text;
    assert!(text.contains("no such schema"), "{text}");
}

#[test]
fn one_schema_has_one_id_whatever_its_subject_is_called() {
    versions!("Named");
    let Some(found) = dirigent_brokers::require!(dirigent_brokers::schema_registry()) else {
        return;
    };
    let by_channel = RegistrySettings {
        subjects: Subjects::TopicRecordName,
        compatibility: Compatibility::None,
        ..settings(&found)
    };
    let write = |registry: SchemaRegistry| {
        Body::write(&Old { amount: 5 }, Format::Avro, &*registry.codec()).unwrap()
    };
    assert_eq!(write(agreed::<Old>(by_channel)), write(agreed::<Old>(settings(&found))));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_runs_with_a_registry() {
    let found = tokio::task::spawn_blocking(dirigent_brokers::schema_registry).await.unwrap();
    let Some(found) = dirigent_brokers::require!(found) else { return };
    let args = DemoArgs {
        orders: 300,
        rates: RateArgs { reject_rate: 0.2, silent_rate: 0.0, seed: 7 },
        broker: BrokerKind::Memory,
        address: AddressArgs::default(),
        registry: RegistryArgs { registry: Some(found.address().to_owned()) },
        postgres: PostgresArgs::default(),
        chaos: false,
        inventory: None,
        data: None,
        json: true,
    };
    let traces = Arc::new(Traces::from_env("order").unwrap());
    let report = Box::pin(demo(&args, &traces)).await.unwrap();
    assert!(report.is_good(), "{report}");
}
