//! What a process owes its schema registry, and what it does without it: against a registry within the test.

// Clippy takes the helpers of an integration test for code that is no test.
#![allow(clippy::unwrap_used)]

mod stub;

use dirigent_model::message::{Body, Channel, Contract, Format, Message};
use dirigent_schemas::{
    Bodies,
    registry::{
        Compatibility, Credentials, RegistryError, RegistrySettings, SchemaRegistry, Subjects,
        keep_to_released,
    },
};
use serde::{Deserialize, Serialize};
use std::{
    cell::Cell,
    time::{Duration, Instant},
};
use stub::{Stub, Trouble};

const HOLD_V1: &str = r#"{"type":"record","name":"Hold","namespace":"bank","fields":[
    {"name":"amount","type":"int"},{"name":"card","type":"string"}]}"#;
const HOLD_V2: &str = r#"{"type":"record","name":"Hold","namespace":"bank","fields":[
    {"name":"amount","type":"int"},{"name":"card","type":"string"},
    {"name":"currency","type":"string","default":"EUR"}]}"#;
const HOLD_WITHOUT_DEFAULT: &str = r#"{"type":"record","name":"Hold","namespace":"bank","fields":[
    {"name":"amount","type":"int"},{"name":"card","type":"string"},
    {"name":"currency","type":"string"}]}"#;

const CHANNEL: Channel = Channel::avro("payment");

/// The same message in two versions: `Hold` is what this program knows as the newest.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename = "Hold")]
struct HoldV1 {
    amount: i32,
    card: String,
}
impl Message for HoldV1 {
    const NAME: &'static str = "Hold";
    const SCHEMA: Option<&'static str> = Some(HOLD_V1);
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Hold {
    amount: i32,
    card: String,
    currency: String,
}
impl Message for Hold {
    const NAME: &'static str = "Hold";
    const SCHEMA: Option<&'static str> = Some(HOLD_V2);
}

#[derive(Debug, Serialize, Deserialize)]
struct Broken {}
impl Message for Broken {
    const NAME: &'static str = "Hold";
    const SCHEMA: Option<&'static str> = Some(HOLD_WITHOUT_DEFAULT);
}

fn sent<M: Message>() -> Contract {
    Contract::sent::<M>(CHANNEL)
}

fn read<M: Message>() -> Contract {
    Contract::read::<M>(CHANNEL)
}

fn settings(stub: &Stub) -> RegistrySettings {
    RegistrySettings {
        register: true,
        answer_wait_max: Duration::from_secs(60),
        start_wait_max: Duration::from_secs(60),
        ..RegistrySettings::new(stub.url())
    }
}

fn registry(stub: &Stub) -> SchemaRegistry {
    SchemaRegistry::new(settings(stub)).unwrap()
}

fn v1() -> HoldV1 {
    HoldV1 { amount: 5, card: "ab".into() }
}

fn v2() -> Hold {
    Hold { amount: 5, card: "ab".into(), currency: "EUR".into() }
}

/// What a process with this newest version writes.
fn written<M: Message>(stub: &Stub, message: &M) -> Body {
    let registry = registry(stub);
    registry.agree(&[sent::<M>()]).unwrap();
    Body::write(message, Format::Avro, &*registry.codec()).unwrap()
}

fn error<T>(outcome: Result<T, RegistryError>) -> String {
    let error = outcome.err().expect("it is refused");
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[test]
fn a_body_is_the_magic_byte_the_id_and_the_datum() {
    let stub = Stub::start();
    stub.has("another", r#""long""#);
    let body = written(&stub, &v1());
    assert_eq!(body.bytes, [0, 0, 0, 0, 2, 10, 4, b'a', b'b']);
    assert_eq!(stub.subjects(), ["another", "bank.Hold"]);
}

#[test]
fn what_was_agreed_on_is_written_and_read_while_the_registry_is_away() {
    let stub = Stub::start();
    let registry = registry(&stub);
    registry.agree(&[sent::<Hold>(), read::<Hold>()]).unwrap();
    drop(stub);
    let body = Body::write(&v2(), Format::Avro, &*registry.codec()).unwrap();
    assert_eq!(registry.wants(body.format, &body.bytes), None);
    assert_eq!(body.read::<Hold>(&*registry.codec()).unwrap(), v2());
}

#[test]
fn a_reader_of_the_new_version_reads_the_old_one_and_the_reverse() {
    let stub = Stub::start();
    let (old, new) = (written(&stub, &v1()), written(&stub, &v2()));
    let reads = |body: &Body| {
        let registry = registry(&stub);
        let id = registry.wants(body.format, &body.bytes).expect("an id nobody has met here");
        assert!(registry.wait_for(id, || true).unwrap());
        assert_eq!(registry.wants(body.format, &body.bytes), None);
        registry.codec()
    };
    assert_eq!(old.read::<Hold>(&*reads(&old)).unwrap(), v2());
    assert_eq!(new.read::<HoldV1>(&*reads(&new)).unwrap(), v1());
}

#[test]
fn both_framings_are_read_whichever_is_written() {
    let stub = Stub::start();
    let registry = registry(&stub);
    registry.agree(&[sent::<Hold>()]).unwrap();
    let single = Body::write(&v2(), Format::Avro, &Bodies::new()).unwrap();
    assert_eq!(single.bytes[..2], [0xC3, 0x01]);
    assert_eq!(registry.wants(Format::Avro, &single.bytes), None);
    assert_eq!(single.read::<Hold>(&*registry.codec()).unwrap(), v2());
    let framed = Body::write(&v2(), Format::Avro, &*registry.codec()).unwrap();
    let text = framed.read::<Hold>(&Bodies::new()).unwrap_err().text;
    assert!(text.contains("registry.url"), "{text}");
}

#[test]
fn an_incompatible_change_is_refused_at_the_start_and_names_the_field() {
    let stub = Stub::start();
    let id = stub.has("bank.Hold", HOLD_V1);
    let text = error(registry(&stub).agree(&[sent::<Broken>()]));
    assert!(
        text.contains("'currency'") && text.contains("version 1 of subject `bank.Hold`"),
        "{text}"
    );
    assert!(text.contains("the new version can't read"), "{text}");
    // Nothing was registered.
    assert_eq!(stub.has("bank.Hold", HOLD_V1), id);
    assert!(!stub.requests().iter().any(|asked| asked == "POST /subjects/bank.Hold/versions"));
    // The other way round: those who have the version with the field can't read one without it.
    let stub = Stub::start();
    stub.has("bank.Hold", HOLD_WITHOUT_DEFAULT);
    let text = error(registry(&stub).agree(&[sent::<HoldV1>()]));
    assert!(text.contains("still has the old version") && text.contains("'currency'"), "{text}");
    let only = RegistrySettings { compatibility: Compatibility::Backward, ..settings(&stub) };
    SchemaRegistry::new(only).unwrap().agree(&[sent::<HoldV1>()]).unwrap();
}

#[test]
fn what_is_sent_to_us_and_can_not_be_read_is_refused_at_the_start() {
    let stub = Stub::start();
    stub.has("bank.Hold", HOLD_V1);
    let text = error(registry(&stub).agree(&[read::<Broken>()]));
    assert!(text.contains("'currency'"), "{text}");
    registry(&stub).agree(&[read::<Hold>()]).unwrap();
}

#[test]
fn the_registrys_own_rule_is_asked_before_anything_is_registered() {
    let stub = Stub::start();
    stub.has("bank.Hold", HOLD_V1);
    stub.closes("bank.Hold");
    let text = error(registry(&stub).agree(&[sent::<Hold>()]));
    assert!(text.contains("the stub says no") && text.contains("level is BACKWARD"), "{text}");
    assert!(!stub.requests().iter().any(|asked| asked == "POST /subjects/bank.Hold/versions"));
}

#[test]
fn without_leave_to_register_a_missing_schema_is_refused_with_what_to_do() {
    let stub = Stub::start();
    let only = RegistrySettings { register: false, ..settings(&stub) };
    let text = error(SchemaRegistry::new(only.clone()).unwrap().agree(&[sent::<Hold>()]));
    assert!(text.contains("`bank.Hold`") && text.contains("registry.register = true"), "{text}");
    stub.has("bank.Hold", HOLD_V2);
    SchemaRegistry::new(only).unwrap().agree(&[sent::<Hold>()]).unwrap();
}

#[test]
fn subjects_are_named_after_the_record_or_after_channel_and_record() {
    let stub = Stub::start();
    let by_channel = RegistrySettings { subjects: Subjects::TopicRecordName, ..settings(&stub) };
    SchemaRegistry::new(by_channel).unwrap().agree(&[sent::<Hold>()]).unwrap();
    assert_eq!(stub.subjects(), ["payment-bank.Hold"]);
}

#[test]
fn a_registry_in_trouble_is_asked_again_until_it_answers() {
    let stub = Stub::start();
    stub.meets([Trouble::Says(503, "busy"), Trouble::Half, Trouble::Says(200, "<html>")]);
    registry(&stub).agree(&[sent::<Hold>()]).unwrap();
    let id = stub.has("bank.Hold", HOLD_V2);
    let reader = registry(&stub);
    stub.meets([
        Trouble::Says(503, "busy"),
        Trouble::Says(401, ""),
        Trouble::Says(404, "<html>no</html>"),
    ]);
    assert!(reader.wait_for(id, || true).unwrap());
    assert_eq!(written(&stub, &v2()).read::<Hold>(&*reader.codec()).unwrap(), v2());
}

#[test]
fn a_registry_that_is_away_ends_the_start_with_its_address() {
    let stub = Stub::start();
    stub.always(Some(Trouble::Says(503, "busy")));
    let hurried = RegistrySettings { start_wait_max: Duration::ZERO, ..settings(&stub) };
    let text = error(SchemaRegistry::new(hurried).unwrap().agree(&[sent::<Hold>()]));
    assert!(
        text.contains(&stub.url()) && text.contains("503") && text.contains("bank.Hold"),
        "{text}"
    );
    stub.always(Some(Trouble::Silence));
    let impatient = RegistrySettings {
        start_wait_max: Duration::ZERO,
        answer_wait_max: Duration::from_millis(200),
        ..settings(&stub)
    };
    let text = error(SchemaRegistry::new(impatient).unwrap().agree(&[sent::<Hold>()]));
    assert!(text.contains("timeout"), "{text}");
}

#[test]
fn an_outage_holds_a_message_back_until_told_to_stop_and_never_condemns_it() {
    let stub = Stub::start();
    let body = written(&stub, &v1());
    let reader = registry(&stub);
    let id = reader.wants(body.format, &body.bytes).unwrap();
    stub.always(Some(Trouble::Says(404, "<html>a proxy</html>")));
    let asked_before = stub.requests().len();
    let settled = reader.wait_for(id, || stub.requests().len() < asked_before + 4).unwrap();
    assert!(!settled);
    assert_eq!(reader.wants(body.format, &body.bytes), Some(id), "it is still wanted");
    stub.always(None);
    assert!(reader.wait_for(id, || true).unwrap());
    assert_eq!(body.read::<HoldV1>(&*reader.codec()).unwrap(), v1());
}

#[test]
fn an_id_that_the_registry_does_not_have_is_asked_for_a_few_times_and_then_told() {
    let stub = Stub::start();
    let body = Body { format: Format::Avro, bytes: vec![0, 0, 0, 0, 99, 10, 4, b'a', b'b'] };
    let reader = registry(&stub);
    assert_eq!(reader.wants(body.format, &body.bytes), Some(99));
    assert!(reader.wait_for(99, || true).unwrap());
    assert_eq!(stub.requests(), vec!["GET /schemas/ids/99"; 3]);
    assert_eq!(reader.wants(body.format, &body.bytes), None, "not asked again for a while");
    let text = body.read::<HoldV1>(&*reader.codec()).unwrap_err().text;
    assert!(text.contains("schema 99") && text.contains("no such schema"), "{text}");
}

#[test]
fn a_schema_that_is_of_no_use_here_is_a_reason_and_no_trouble() {
    let stub = Stub::start();
    stub.has("other", "syntax = \"proto3\";");
    let reader = registry(&stub);
    assert!(reader.wait_for(1, || true).unwrap());
    let body = Body { format: Format::Avro, bytes: vec![0, 0, 0, 0, 1, 10] };
    let text = body.read::<HoldV1>(&*reader.codec()).unwrap_err().text;
    assert!(text.contains("schema 1") && text.contains("of no use here"), "{text}");
}

#[test]
fn aliases_of_a_writer_do_not_keep_its_messages_from_being_read() {
    let stub = Stub::start();
    let aliased = HOLD_V1.replace(r#""name":"card""#, r#""name":"card","aliases":["number"]"#);
    let id = stub.has("bank.Hold", &aliased);
    let reader = registry(&stub);
    assert!(reader.wait_for(id, || true).unwrap());
    let mut bytes = written(&stub, &v1()).bytes;
    bytes[4] = u8::try_from(id).unwrap();
    let body = Body { format: Format::Avro, bytes };
    assert_eq!(body.read::<Hold>(&*reader.codec()).unwrap(), v2());
}

#[test]
fn schemas_that_were_met_are_known_after_a_restart_without_the_registry() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("schemas");
    let stub = Stub::start();
    let body = written(&stub, &v1());
    let first = registry(&stub);
    first.keep_in(&folder).unwrap();
    let id = first.wants(body.format, &body.bytes).unwrap();
    first.wait_for(id, || true).unwrap();
    stub.always(Some(Trouble::Says(503, "away")));
    let second = registry(&stub);
    second.keep_in(&folder).unwrap();
    assert_eq!(second.wants(body.format, &body.bytes), None);
    assert_eq!(body.read::<Hold>(&*second.codec()).unwrap(), v2());
}

#[test]
fn another_registry_at_the_same_address_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let stub = Stub::start();
    let first = registry(&stub);
    first.keep_in(place.path()).unwrap();
    first.agree(&[sent::<Hold>()]).unwrap();
    let other = Stub::start();
    other.has("bank.Hold", HOLD_V1);
    let text = error(
        SchemaRegistry::new(settings(&other))
            .and_then(|registry| registry.keep_in(place.path()).map(|()| registry))
            .and_then(|registry| registry.agree(&[sent::<HoldV1>()])),
    );
    assert!(text.contains("schema 1") && text.contains("was replaced"), "{text}");
}

#[test]
fn credentials_are_sent_and_shown_nowhere() {
    let stub = Stub::start();
    let who = |credentials| RegistrySettings { credentials, ..settings(&stub) };
    let basic = Credentials::Basic { username: "ann".into(), password: "s3cret".into() };
    let bearer = Credentials::Bearer("s3cret".into());
    for (credentials, header) in [(basic, "Basic YW5uOnMzY3JldA=="), (bearer, "Bearer s3cret")] {
        let settings = who(credentials);
        assert!(!format!("{settings:?}").contains("s3cret"));
        let registry = SchemaRegistry::new(settings).unwrap();
        registry.agree(&[sent::<Hold>()]).unwrap();
        assert_eq!(stub.authorization().as_deref(), Some(header));
        stub.meets([Trouble::Says(401, "{\"message\":\"no\"}")]);
        let text = error(registry.agree(&[sent::<Hold>()]));
        assert!(text.contains("check user and password") && !text.contains("s3cret"), "{text}");
    }
    for url in
        ["http://ann:s3cret@host", "ftp://s3cret", "http://host?token=s3cret", "https:///s3cret"]
    {
        let text = error(SchemaRegistry::new(RegistrySettings::new(url)));
        assert!(!text.contains("s3cret"), "{text}");
    }
}

#[test]
fn https_without_a_certificate_to_trust_is_refused_and_nothing_is_sent() {
    let stub = Stub::start();
    let place = tempfile::tempdir().unwrap();
    let ca = place.path().join("ca.pem");
    std::fs::write(&ca, "no certificate").unwrap();
    let url = stub.url().replace("http://", "https://");
    let https = RegistrySettings { ca: Some(ca), ..RegistrySettings::new(url) };
    let text = error(SchemaRegistry::new(https));
    assert!(text.contains("ca.pem") && text.contains("no certificate"), "{text}");
    assert!(stub.requests().is_empty());
}

#[test]
fn a_message_without_a_schema_is_refused_at_the_start() {
    #[derive(Serialize, Deserialize)]
    struct Bare {}
    impl Message for Bare {
        const NAME: &'static str = "Bare";
    }
    let stub = Stub::start();
    let text = error(registry(&stub).agree(&[sent::<Bare>()]));
    assert!(text.contains("`Bare`") && text.contains("`payment`"), "{text}");
    // In JSON it needs none.
    let json = Contract::sent::<Bare>(Channel::json("payment"));
    registry(&stub).agree(&[json]).unwrap();
    assert!(stub.requests().is_empty());
}

#[test]
fn a_change_is_checked_against_the_released_versions_without_any_registry() {
    let released = vec![("hold.v1.avsc".to_owned(), HOLD_V1.to_owned())];
    let codec = Bodies::new();
    let text = error(keep_to_released(&codec, &[sent::<Broken>()], &released, Compatibility::Full));
    assert!(text.contains("hold.v1.avsc") && text.contains("'currency'"), "{text}");
    keep_to_released(&codec, &[sent::<Hold>()], &released, Compatibility::Full).unwrap();
    // What the old version wrote is read.
    let old = Body::write(&v1(), Format::Avro, &Bodies::new()).unwrap();
    assert_eq!(old.read::<Hold>(&codec).unwrap(), v2());
}

#[test]
fn waiting_ends_soon_after_it_is_told_to() {
    let stub = Stub::start();
    stub.always(Some(Trouble::Says(503, "away")));
    let (reader, looks) = (registry(&stub), Cell::new(0));
    let begun = Instant::now();
    let goes_on = || {
        looks.set(looks.get() + 1);
        looks.get() < 20
    };
    assert!(!reader.wait_for(1, goes_on).unwrap());
    assert!(looks.get() >= 20 && begun.elapsed() < Duration::from_secs(60));
}
