//! Notifications: tells the customer how an order ended, once.

use crate::{
    ledger::apply,
    order::{
        messages::{OrderCompleted, OrderFailed},
        reconcile::kinds::{TOLD_COMPLETED, TOLD_FAILED},
    },
};
use dirigent::participant::Participant;

pub(super) const NAME: &str = "order-notifications";

/// The participant, without its codec.
pub fn notifications() -> Participant {
    Participant::new(NAME)
        .listens::<OrderCompleted>(|tx, event, heard| apply(tx, event.order, TOLD_COMPLETED, heard))
        .listens::<OrderFailed>(|tx, event, heard| apply(tx, event.order, TOLD_FAILED, heard))
}
