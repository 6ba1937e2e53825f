//! The payment service: holds money, lets it go, takes it. Speaks Avro.

use crate::{
    ledger::{applied, apply},
    order::{
        Rates,
        messages::{
            AuthorisePayment, CaptureDeclined, CapturePayment, PaymentAuthorised, PaymentCaptured,
            PaymentDeclined, PaymentVoided, VoidPayment,
        },
        rates::Refusal,
        reconcile::kinds::{CAPTURED, HELD, VOIDED},
    },
};
use dirigent::participant::{Answer, Participant};

pub(super) const NAME: &str = "order-payment";

/// The participant, without its codec.
pub fn payment(rates: Rates) -> Participant {
    Participant::new(NAME)
        .on::<AuthorisePayment>(move |tx, command, asked| {
            if rates.refusal(command.order) == Some(Refusal::CardDeclined) {
                return Answer::Rejected(PaymentDeclined { reason: "card declined".into() });
            }
            apply(tx, command.order, HELD, asked);
            Answer::Done(PaymentAuthorised { hold: command.order })
        })
        .undoes::<VoidPayment, AuthorisePayment>(
            |tx, command, asked| {
                if applied(tx, command.order, HELD) > applied(tx, command.order, VOIDED) {
                    apply(tx, command.order, VOIDED, asked);
                }
                Answer::Done(PaymentVoided {})
            },
            |_, _| PaymentVoided {},
        )
        .on::<CapturePayment>(move |tx, command, asked| {
            if rates.refusal(command.order) == Some(Refusal::CaptureDeclined) {
                return Answer::Rejected(CaptureDeclined { reason: "hold expired".into() });
            }
            apply(tx, command.order, CAPTURED, asked);
            Answer::Done(PaymentCaptured { receipt: command.order })
        })
        .misbehave(move |asked| rates.misbehaviour(asked))
}
