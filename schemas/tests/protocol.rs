//! The messages of the protocol itself are what their contracts say: participants in other languages read the files.

use dirigent_model::message::{
    Body, Failure, FailureEffect, Format, JsonOnly, Message, StatusNotDone, StatusQuery,
    StatusUnknown,
};
use dirigent_schemas::Bodies;
use std::fmt::Debug;

/// The type's schema has the contract's fingerprint, and both formats bring a message back as it was.
fn equals_its_contract<M: Message + PartialEq + Debug>(message: &M, contract: &str) {
    let bodies = Bodies::new();
    let own = M::SCHEMA.expect("a message of the protocol has a schema");
    let fingerprint = bodies.learn(own).expect("the type's schema can be read");
    assert_eq!(Some(fingerprint), bodies.learn(contract).ok(), "{}", M::NAME);
    for format in [Format::Json, Format::Avro] {
        let body = Body::write(message, format, &bodies).expect("it can be written");
        assert_eq!(&body.read::<M>(&bodies).expect("it can be read"), message);
    }
}

#[test]
fn the_messages_of_the_protocol_equal_their_contracts() {
    let query = StatusQuery { idempotencykey: "k".into(), command: "ReserveStock".into() };
    equals_its_contract(&query, include_str!("../dirigent/status-query.v1.avsc"));
    equals_its_contract(&StatusNotDone {}, include_str!("../dirigent/status-not-done.v1.avsc"));
    let unknown = StatusUnknown { message: "the bank is away".into() };
    equals_its_contract(&unknown, include_str!("../dirigent/status-unknown.v1.avsc"));
    for effect in [FailureEffect::None, FailureEffect::Unknown] {
        let (code, message) = ("timeout".into(), "the bank is away".into());
        let failure = Failure { code, message, retriable: true, effect };
        equals_its_contract(&failure, include_str!("../dirigent/failure.v1.avsc"));
    }
}

#[test]
fn the_questions_and_answers_about_a_status_have_names_that_no_command_of_a_user_has() {
    for name in [StatusQuery::NAME, StatusNotDone::NAME, StatusUnknown::NAME] {
        assert!(name.starts_with("dirigent."), "{name}");
    }
}

#[test]
fn an_unknown_without_its_reason_is_read_from_json() {
    let body = Body { format: Format::Json, bytes: b"{}".to_vec() };
    let unknown = body.read::<StatusUnknown>(&JsonOnly).expect("it can be read");
    assert_eq!(unknown, StatusUnknown { message: String::new() });
}
