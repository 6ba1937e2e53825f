//! The five services of an order, each a participant with a ledger of its own.
//!
//! What they decide follows from the [`Rates`] and the order's number alone; what they did stands in their ledgers.

mod approvals;
mod inventory;
mod notifications;
mod payment;
mod shipping;

pub use approvals::approvals;
pub use inventory::inventory;
pub use notifications::notifications;
pub use payment::payment;
pub use shipping::shipping;

use super::Rates;
use dirigent::participant::Participant;
use dirigent_schemas::Bodies;
use std::sync::Arc;

/// All five, with their names. Each wants a store of its own.
pub fn services(rates: Rates) -> Vec<(&'static str, Participant)> {
    let bodies = Arc::new(Bodies::new());
    [
        (inventory::NAME, inventory(rates)),
        (payment::NAME, payment(rates)),
        (shipping::NAME, shipping(rates)),
        (approvals::NAME, approvals(rates)),
        (notifications::NAME, notifications()),
    ]
    .map(|(name, participant)| (name, participant.codec(bodies.clone())))
    .into()
}
