//! The shipping service: sends what was reserved.

use crate::{
    ledger::apply,
    order::{
        Rates,
        messages::{OrderShipped, ShipOrder},
        reconcile::kinds::SHIPPED,
    },
};
use dirigent::participant::{Answer, Participant};

pub(super) const NAME: &str = "order-shipping";

/// The participant, without its codec.
pub fn shipping(rates: Rates) -> Participant {
    Participant::new(NAME)
        .on::<ShipOrder>(|tx, command, asked| {
            apply(tx, command.order, SHIPPED, asked);
            Answer::Done(OrderShipped { tracking: format!("parcel-{}", command.order) })
        })
        .misbehave(move |asked| rates.misbehaviour(asked))
}
