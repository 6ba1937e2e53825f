//! The types equal their contracts: what a sample writes is what its `.avsc` says, field by field, and comes back unchanged.

// Clippy takes the helpers of an integration test for code that is no test.
#![allow(clippy::unwrap_used)]

use dirigent_model::message::{
    Body, Command, Event, Failure, FailureEffect, Format, JsonOnly, Message,
};
use dirigent_schemas::{Bodies, compatible};
use serde_json::Value;
use std::fmt::Debug;

/// What the contracts say about every message, checked on one sample of it.
fn equals_its_contract<M: Message + PartialEq + Debug>(sample: M) {
    let bodies = Bodies::new();
    let text = M::SCHEMA.expect("every message of the examples has a schema");
    let schema: Value = serde_json::from_str(text).unwrap();
    assert_eq!(schema["name"], M::NAME, "the name on the wire is the name of the contract");

    let avro = Body::write(&sample, Format::Avro, &bodies).unwrap();
    assert_eq!(avro.read::<M>(&bodies).unwrap(), sample, "through Avro");
    let json = Body::write(&sample, Format::Json, &JsonOnly).unwrap();
    assert_eq!(json.read::<M>(&JsonOnly).unwrap(), sample, "through JSON");

    let fields = schema["fields"].as_array().expect("a record has fields");
    assert_eq!(names_in_order(&json.bytes), named(fields), "{}: fields and their order", M::NAME);
    let written: Value = serde_json::from_slice(&json.bytes).unwrap();
    for field in fields {
        let value = &written[field["name"].as_str().unwrap()];
        assert!(fits(value, &field["type"]), "{}: {value} is not {}", M::NAME, field["type"]);
    }
    compatible(text, text).unwrap();
}

/// A message with an optional field, checked with it and without.
fn equals_its_contract_with_and_without<M: Message + PartialEq + Debug>(with: M, without: M) {
    equals_its_contract(with);
    equals_its_contract(without);
}

fn named(fields: &[Value]) -> Vec<String> {
    fields.iter().map(|field| field["name"].as_str().unwrap().to_owned()).collect()
}

/// The names of a JSON object as they stand in the text; a parsed map would sort them.
fn names_in_order(object: &[u8]) -> Vec<String> {
    struct Names(Vec<String>);
    impl<'de> serde::Deserialize<'de> for Names {
        fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            struct Each;
            impl<'de> serde::de::Visitor<'de> for Each {
                type Value = Names;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(
                    self,
                    mut map: A,
                ) -> Result<Names, A::Error> {
                    let mut names = Vec::new();
                    while let Some((name, _)) = map.next_entry::<String, serde::de::IgnoredAny>()? {
                        names.push(name);
                    }
                    Ok(Names(names))
                }
            }
            from.deserialize_map(Each)
        }
    }
    serde_json::from_slice::<Names>(object).unwrap().0
}

/// Whether a JSON value is one of an Avro type.
fn fits(value: &Value, avro: &Value) -> bool {
    match avro {
        Value::Array(branches) => branches.iter().any(|branch| fits(value, branch)),
        Value::String(name) => match name.as_str() {
            "null" => value.is_null(),
            "int" => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
            "long" => value.is_i64(),
            "string" => value.is_string(),
            _ => false,
        },
        _ => false,
    }
}

mod order {
    use super::*;
    use ::order::order::messages::*;

    #[test]
    fn every_message_of_the_order_saga_equals_its_contract() {
        equals_its_contract(OrderPlaced {
            order: 7,
            customer: "ada".into(),
            sku: "lamp".into(),
            quantity: 2,
            amount_cents: 12_900,
        });
        equals_its_contract(ReserveStock { order: 7, sku: "lamp".into(), quantity: 2 });
        equals_its_contract(StockReserved { reservation: 41 });
        equals_its_contract(StockRejected { sku: "lamp".into() });
        equals_its_contract_with_and_without(
            ReleaseStock { order: 7, reservation: Some(41) },
            ReleaseStock { order: 7, reservation: None },
        );
        equals_its_contract(StockReleased {});
        equals_its_contract(AuthorisePayment {
            order: 7,
            customer: "ada".into(),
            amount_cents: 12_900,
        });
        equals_its_contract(PaymentAuthorised { hold: 41 });
        equals_its_contract(PaymentDeclined { reason: "no luck".into() });
        equals_its_contract_with_and_without(
            VoidPayment { order: 7, hold: Some(41) },
            VoidPayment { order: 7, hold: None },
        );
        equals_its_contract(PaymentVoided {});
        equals_its_contract(CapturePayment { order: 7, hold: 41 });
        equals_its_contract(PaymentCaptured { receipt: 41 });
        equals_its_contract(CaptureDeclined { reason: "no luck".into() });
        equals_its_contract(ShipOrder { order: 7, reservation: 41 });
        equals_its_contract(OrderShipped { tracking: "TR-1".into() });
        equals_its_contract(ApprovalRequested { order: 7, amount_cents: 12_900 });
        equals_its_contract(OrderApproved { order: 7, by: "grace".into() });
        equals_its_contract(OrderDeclined { order: 7, by: "grace".into() });
        equals_its_contract(OrderCompleted { order: 7, tracking: "TR-1".into() });
        equals_its_contract(OrderFailed { order: 7, reason: "no luck".into() });
    }
}

mod trip {
    use super::*;
    use ::order::trip::messages::*;

    #[test]
    fn every_message_of_the_trip_saga_equals_its_contract() {
        equals_its_contract(TripRequested {
            trip: 9,
            traveller: "ada".into(),
            from: "Utrecht".into(),
            to: "Porto".into(),
            nights: 3,
        });
        equals_its_contract(BookFlight { trip: 9, from: "Utrecht".into(), to: "Porto".into() });
        equals_its_contract(FlightBooked { booking: 41 });
        equals_its_contract(FlightUnavailable { reason: "no luck".into() });
        equals_its_contract_with_and_without(
            CancelFlight { trip: 9, booking: Some(41) },
            CancelFlight { trip: 9, booking: None },
        );
        equals_its_contract(FlightCancelled {});
        equals_its_contract(BookHotel { trip: 9, city: "Porto".into(), nights: 3 });
        equals_its_contract(HotelBooked { booking: 41 });
        equals_its_contract(HotelFull { city: "Porto".into() });
        equals_its_contract_with_and_without(
            CancelHotel { trip: 9, booking: Some(41) },
            CancelHotel { trip: 9, booking: None },
        );
        equals_its_contract(HotelCancelled {});
        equals_its_contract(RentCar { trip: 9, city: "Porto".into(), days: 4 });
        equals_its_contract(CarRented { contract: 41 });
        equals_its_contract(NoCarLeft { city: "Porto".into() });
        equals_its_contract_with_and_without(
            ReturnCar { trip: 9, contract: Some(41) },
            ReturnCar { trip: 9, contract: None },
        );
        equals_its_contract(CarReturned {});
        equals_its_contract(TripBooked { trip: 9 });
        equals_its_contract(TripFailed { trip: 9, reason: "no luck".into() });
    }
}

/// The widest numbers, so that a field which is `long` here and `int` there is found.
#[test]
fn numbers_and_texts_keep_their_whole_range() {
    use ::order::order::messages::{AuthorisePayment, OrderPlaced};
    for amount_cents in [i64::MIN, -1, 0, i64::MAX] {
        equals_its_contract(AuthorisePayment {
            order: i64::MAX,
            customer: "ß—🎈".into(),
            amount_cents,
        });
    }
    for quantity in [i32::MIN, i32::MAX] {
        let (customer, sku) = (String::new(), String::new());
        equals_its_contract(OrderPlaced {
            order: i64::MIN,
            customer,
            sku,
            quantity,
            amount_cents: 1,
        });
    }
}

#[test]
fn every_contract_has_a_type() {
    let folder = |saga: &str| {
        let path = format!("{}/../../../schemas/{saga}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_dir(path).unwrap().count()
    };
    let declared = |source: &str| source.matches("message! {").count();
    assert_eq!(folder("order"), declared(include_str!("../src/order/messages.rs")));
    assert_eq!(folder("trip"), declared(include_str!("../src/trip/messages.rs")));
}

#[test]
fn technical_trouble_travels_in_avro_too() {
    let bodies = Bodies::new();
    for effect in [FailureEffect::None, FailureEffect::Unknown] {
        let failure = Failure {
            code: "timeout".into(),
            message: "the bank is away".into(),
            retriable: true,
            effect,
        };
        let body = Body::write(&failure, Format::Avro, &bodies).unwrap();
        assert_eq!(body.read::<Failure>(&bodies).unwrap(), failure);
    }
}

#[test]
fn payment_speaks_avro_and_the_others_json() {
    use ::order::{order::messages::*, trip::messages::*};
    let payment = [AuthorisePayment::TO, VoidPayment::TO, CapturePayment::TO];
    assert!(payment.iter().all(|to| (to.name, to.format) == ("payment", Format::Avro)));
    let others = [ReserveStock::TO, ShipOrder::TO, BookFlight::TO, BookHotel::TO, RentCar::TO];
    assert!(others.iter().all(|to| to.format == Format::Json));
    assert_eq!(OrderPlaced::ON.name, "orders");
    assert_eq!(TripRequested::ON.name, "trips");
}
