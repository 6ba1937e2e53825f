//! The inventory: sets stock aside and gives it back.

use crate::{
    ledger::{applied, apply},
    order::{
        Rates,
        messages::{ReleaseStock, ReserveStock, StockRejected, StockReleased, StockReserved},
        rates::Refusal,
        reconcile::kinds::{RELEASED, RESERVED},
    },
};
use dirigent::participant::{Answer, Participant};

pub(super) const NAME: &str = "order-inventory";

/// The participant, without its codec.
pub fn inventory(rates: Rates) -> Participant {
    Participant::new(NAME)
        .on::<ReserveStock>(move |tx, command, asked| {
            if rates.refusal(command.order) == Some(Refusal::NoStock) {
                return Answer::Rejected(StockRejected { sku: command.sku });
            }
            apply(tx, command.order, RESERVED, asked);
            Answer::Done(StockReserved { reservation: command.order })
        })
        .undoes::<ReleaseStock, ReserveStock>(
            |tx, command, asked| {
                if applied(tx, command.order, RESERVED) > applied(tx, command.order, RELEASED) {
                    apply(tx, command.order, RELEASED, asked);
                }
                Answer::Done(StockReleased {})
            },
            |_, _| StockReleased {},
        )
        .misbehave(move |asked| rates.misbehaviour(asked))
}
