//! What a saga does, rule by rule: the numbers are those of the reference of sagas.

#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

#[path = "../sagas/mod.rs"]
mod sagas;

mod back;
mod failures;
mod forward;
mod held;
mod record;

use dirigent_model::{
    message::{Failure, FailureEffect},
    scenario::{Scenario, scenario},
};
use sagas::*;

fn order(id: u64) -> Scenario<Order> {
    scenario(&order_saga().unwrap()).starts(OrderPlaced { order: id })
}

fn secured(id: u64) -> Scenario<Order> {
    order(id).succeeds("reserve-stock", reserved()).succeeds("authorise-payment", authorised())
}

fn captured() -> Scenario<Order> {
    secured(80).succeeds("capture-payment", PaymentCaptured {})
}

fn trip(legs: u8) -> Scenario<Trip> {
    scenario(&trip_saga().unwrap()).starts(rome(legs))
}

fn failure(code: &str, retriable: bool, effect: FailureEffect) -> Failure {
    Failure { code: code.into(), message: "m".into(), retriable, effect }
}
