//! Samples of the commands that the services of an order carry out, for the conformance kit: whoever replaces one of them is held to
//! the same.
//!
//! Which orders are refused follows from the [`Rates`] and the number alone, here as in the services: the kit must be told the rates
//! that the participant was started with.

use super::{
    Rates,
    messages::{
        AuthorisePayment, CapturePayment, ReleaseStock, ReserveStock, ShipOrder, VoidPayment,
    },
    rates::Refusal,
    reconcile::kinds::{CAPTURED, HELD, RELEASED, RESERVED, SHIPPED, VOIDED},
};
use dirigent::conformance::{Case, Conformance};
use dirigent_model::message::{Command, Message as _};
use dirigent_schemas::Bodies;
use std::sync::Arc;

/// Orders from which one is taken for each number of the kit. Enough that each place of refusal is among them at any rate that is shown.
const STRIDE: i64 = 1_000;

/// A service that carries out commands of the order saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Service {
    /// Sets stock aside
    Inventory,
    /// Holds money and takes it
    Payment,
    /// Sends what was reserved
    Shipping,
}

impl Service {
    /// Its name, which is its consumer group too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inventory => "order-inventory",
            Self::Payment => "order-payment",
            Self::Shipping => "order-shipping",
        }
    }

    /// What is played against it.
    pub fn conformance(self, rates: Rates) -> Conformance {
        let kit = Conformance::of(self.name()).codec(Arc::new(Bodies::new()));
        let good = move |number| accepted(rates, number);
        match self {
            Self::Inventory => {
                let reserve = |order| ReserveStock { order, sku: "sku-1".into(), quantity: 1 };
                let case =
                    Case::of(move |number| at(good(number), reserve)).undone_by(move |number| {
                        at(good(number), |order| ReleaseStock { order, reservation: None })
                    });
                kit.case(or_refused(case, rates, Refusal::NoStock, reserve))
            }
            Self::Payment => {
                let customer = || "customer-1".to_owned();
                let hold = move |order| AuthorisePayment {
                    order,
                    customer: customer(),
                    amount_cents: 100,
                };
                let capture = |order| CapturePayment { order, hold: order };
                let held =
                    Case::of(move |number| at(good(number), hold)).undone_by(move |number| {
                        at(good(number), |order| VoidPayment { order, hold: None })
                    });
                let captured = Case::of(move |number| at(good(number), capture));
                kit.case(or_refused(held, rates, Refusal::CardDeclined, hold)).case(or_refused(
                    captured,
                    rates,
                    Refusal::CaptureDeclined,
                    capture,
                ))
            }
            Self::Shipping => kit.case(Case::of(move |number| {
                at(good(number), |order| ShipOrder { order, reservation: order })
            })),
        }
    }

    /// How the ledger names the effect of a command and what undoes it.
    pub fn kinds(command: &str) -> Option<(&'static str, Option<&'static str>)> {
        match command {
            ReserveStock::NAME => Some((RESERVED, Some(RELEASED))),
            AuthorisePayment::NAME => Some((HELD, Some(VOIDED))),
            CapturePayment::NAME => Some((CAPTURED, None)),
            ShipOrder::NAME => Some((SHIPPED, None)),
            _ => None,
        }
    }
}

fn at<C>(order: i64, make: impl Fn(i64) -> C) -> (i64, C) {
    (order, make(order))
}

/// With a sample that is refused, where any is at these rates.
fn or_refused<C: Command>(
    case: Case<C>,
    rates: Rates,
    place: Refusal,
    make: impl Fn(i64) -> C + Send + Sync + 'static,
) -> Case<C> {
    if rates.reject == 0.0 {
        return case;
    }
    case.refused(move |number| {
        at(one_of(number, |order| rates.refusal(order) == Some(place)), &make)
    })
}

/// An order that nobody refuses.
fn accepted(rates: Rates, number: i64) -> i64 {
    one_of(number, |order| rates.refusal(order).is_none())
}

/// The first order of a number's own that is so; where none is, its first.
fn one_of(number: i64, is_so: impl Fn(i64) -> bool) -> i64 {
    let from = number * STRIDE;
    (from..from + STRIDE).find(|order| is_so(*order)).unwrap_or(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_orders_of_their_own_and_of_the_wanted_kind() {
        let rates = Rates { seed: 1, reject: 0.1, silent: 0.0 };
        let good: std::collections::BTreeSet<_> =
            (1..200).map(|number| accepted(rates, number)).collect();
        assert_eq!(good.len(), 199);
        assert!(good.iter().all(|order| rates.refusal(*order).is_none()));
        for place in [Refusal::NoStock, Refusal::CardDeclined, Refusal::CaptureDeclined] {
            let order = one_of(77, |order| rates.refusal(order) == Some(place));
            assert_eq!(rates.refusal(order), Some(place));
        }
    }

    #[test]
    fn every_command_of_the_samples_has_its_kinds_in_the_ledger() {
        assert_eq!(Service::kinds("ReserveStock"), Some((RESERVED, Some(RELEASED))));
        assert_eq!(Service::kinds("ShipOrder"), Some((SHIPPED, None)));
        assert_eq!(Service::kinds("OrderPlaced"), None);
    }
}
