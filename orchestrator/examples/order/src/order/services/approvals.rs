//! Approvals: decides about large orders in the place of a person.

use crate::{
    ledger::apply,
    order::{
        Rates,
        messages::{ApprovalRequested, OrderApproved, OrderDeclined},
        rates::Refusal,
        reconcile::kinds::{APPROVED, DECLINED},
    },
};
use dirigent::participant::Participant;

pub(super) const NAME: &str = "order-approvals";

/// Who decides.
const BY: &str = "credit office";

/// The participant, without its codec.
pub fn approvals(rates: Rates) -> Participant {
    Participant::new(NAME)
        .listens::<ApprovalRequested>(move |tx, event, heard| {
            let order = event.order;
            if rates.refusal(order) == Some(Refusal::Declined) {
                apply(tx, order, DECLINED, heard);
                tx.publish(order, &OrderDeclined { order, by: BY.into() });
            } else {
                apply(tx, order, APPROVED, heard);
                tx.publish(order, &OrderApproved { order, by: BY.into() });
            }
        })
        .publishes::<OrderApproved>()
}
