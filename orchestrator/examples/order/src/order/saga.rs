//! The order saga: secures stock and money side by side, asks for approval of large orders, takes the money, ships.
//!
//! Where money is concerned nothing is guessed: without an answer the payment service is asked what became of the command.

use super::messages::{
    ApprovalRequested, AuthorisePayment, CapturePayment, OrderApproved, OrderCompleted,
    OrderDeclined, OrderFailed, OrderPlaced, ReleaseStock, ReserveStock, ShipOrder, VoidPayment,
};
use dirigent_model::{
    definition::{
        AskStatus, Block, Definition, DefinitionErrors, OnTimeout, Outcome, RETENTION_DEFAULT, all,
        publish, saga, step, wait, when,
    },
    retry::Retry,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// From this amount on a person must agree, in cents.
pub const APPROVAL_FROM_CENTS: i64 = 100_000;

/// What the saga knows of its order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The order.
    pub id: i64,
    /// Who ordered.
    pub customer: String,
    /// The article.
    pub sku: String,
    /// Pieces.
    pub quantity: i32,
    /// The amount, in cents.
    pub amount_cents: i64,
    /// What is set aside for it.
    pub reservation: i64,
    /// What is held on the card.
    pub hold: i64,
    /// Follows the parcel.
    pub tracking: String,
    /// Why it came to nothing; empty where nobody said.
    pub failure: String,
}

/// How long an order waits for whom. Neither the shape of the saga nor its fingerprint depends on it.
#[derive(Debug, Clone)]
pub struct OrderTiming {
    /// For each answer of the inventory, and of the payment service before the money is taken.
    pub secure_within: Duration,
    /// For each answer about taking the money.
    pub capture_within: Duration,
    /// For each answer of the shipping service.
    pub ship_within: Duration,
    /// For a person to decide about a large order.
    pub approval_within: Duration,
    /// When to ask again, for every step.
    pub retry: Retry,
    /// How the payment service is asked what became of a command that it did not answer.
    pub status: AskStatus,
    /// When to ask again, for every compensation.
    pub compensation_retry: Retry,
    /// How long an order is kept once it has ended.
    pub keep_for: Duration,
}

impl Default for OrderTiming {
    fn default() -> Self {
        Self {
            secure_within: Duration::from_secs(10),
            capture_within: Duration::from_secs(30),
            ship_within: Duration::from_secs(60),
            approval_within: Duration::from_secs(24 * 60 * 60),
            retry: Retry::exponential(3, Duration::from_millis(200), Duration::from_secs(5)),
            status: AskStatus::within(Duration::from_secs(10)),
            compensation_retry: Retry::exponential(
                10,
                Duration::from_millis(200),
                Duration::from_secs(30),
            ),
            keep_for: RETENTION_DEFAULT,
        }
    }
}

impl OrderTiming {
    /// For demos in which messages are lost: asks again soon and often, so that what was lost costs seconds.
    pub fn brisk() -> Self {
        Self {
            secure_within: Duration::from_secs(1),
            capture_within: Duration::from_secs(1),
            ship_within: Duration::from_secs(1),
            approval_within: Duration::from_secs(60),
            retry: Retry::exponential(6, Duration::from_millis(50), Duration::from_millis(500)),
            status: AskStatus::within(Duration::from_secs(1)).retry(Retry::exponential(
                6,
                Duration::from_millis(50),
                Duration::from_millis(500),
            )),
            compensation_retry: Retry::exponential(
                30,
                Duration::from_millis(50),
                Duration::from_secs(1),
            ),
            keep_for: RETENTION_DEFAULT,
        }
    }
}

/// Secures stock and money side by side, asks for approval of large orders, takes the money, ships.
///
/// # Errors
/// None: a test builds it.
pub fn order_saga() -> Result<Definition<Order>, DefinitionErrors> {
    order_saga_with(&OrderTiming::default())
}

/// The order saga with other time limits.
///
/// # Errors
/// None: a test builds it.
pub fn order_saga_with(timing: &OrderTiming) -> Result<Definition<Order>, DefinitionErrors> {
    saga("order", 1, |event: &OrderPlaced| event.order, Order::placed)
        .then(all("secure").branch(reserve_stock(timing)).branch(authorise_payment(timing)))
        .then(when("needs-approval", Order::needs_approval, approval(timing)))
        .then(capture_payment(timing))
        .then(ship(timing))
        .keep_for(timing.keep_for)
        .ends_with(Order::completed, Order::failed)
}

fn reserve_stock(timing: &OrderTiming) -> Block<Order> {
    step("reserve-stock", |order: &Order| ReserveStock {
        order: order.id,
        sku: order.sku.clone(),
        quantity: order.quantity,
    })
    .on_success(|order, reply| order.reservation = reply.reservation)
    .on_rejection(|order, reply| order.failure = format!("no stock of {}", reply.sku))
    .reply_within(timing.secure_within)
    .retry(timing.retry.clone())
    .compensation_retry(timing.compensation_retry.clone())
    .compensated_by(|order, outcome| ReleaseStock {
        order: order.id,
        reservation: match outcome {
            Outcome::Done(reply) => Some(reply.reservation),
            Outcome::InDoubt => None,
        },
    })
}

fn authorise_payment(timing: &OrderTiming) -> Block<Order> {
    step("authorise-payment", |order: &Order| AuthorisePayment {
        order: order.id,
        customer: order.customer.clone(),
        amount_cents: order.amount_cents,
    })
    .on_success(|order, reply| order.hold = reply.hold)
    .on_rejection(|order, reply| order.failure = reply.reason)
    .reply_within(timing.secure_within)
    .retry(timing.retry.clone())
    .status_by(timing.status.clone())
    .compensation_retry(timing.compensation_retry.clone())
    .compensated_by(|order, outcome| VoidPayment {
        order: order.id,
        hold: match outcome {
            Outcome::Done(reply) => Some(reply.hold),
            Outcome::InDoubt => None,
        },
    })
}

fn approval(timing: &OrderTiming) -> Block<Order> {
    publish("request-approval", |order: &Order| ApprovalRequested {
        order: order.id,
        amount_cents: order.amount_cents,
    })
    .then(
        wait("approval", |event: &OrderApproved| event.order, |_: &mut Order, _| ())
            .or_rejected(
                |event: &OrderDeclined| event.order,
                |order, event| order.failure = format!("declined by {}", event.by),
            )
            .within(timing.approval_within, OnTimeout::Reject),
    )
}

fn capture_payment(timing: &OrderTiming) -> Block<Order> {
    step("capture-payment", |order: &Order| CapturePayment { order: order.id, hold: order.hold })
        .on_rejection(|order, reply| order.failure = reply.reason)
        .reply_within(timing.capture_within)
        .retry(timing.retry.clone())
        .status_by(timing.status.clone())
        .pivot()
}

fn ship(timing: &OrderTiming) -> Block<Order> {
    step("ship", |order: &Order| ShipOrder { order: order.id, reservation: order.reservation })
        .on_success(|order, reply| order.tracking = reply.tracking)
        .reply_within(timing.ship_within)
        .retry(timing.retry.clone())
        .retriable()
}

impl Order {
    fn placed(event: OrderPlaced) -> Self {
        Self {
            id: event.order,
            customer: event.customer,
            sku: event.sku,
            quantity: event.quantity,
            amount_cents: event.amount_cents,
            reservation: 0,
            hold: 0,
            tracking: String::new(),
            failure: String::new(),
        }
    }

    fn needs_approval(&self) -> bool {
        self.amount_cents >= APPROVAL_FROM_CENTS
    }

    fn completed(&self) -> OrderCompleted {
        OrderCompleted { order: self.id, tracking: self.tracking.clone() }
    }

    fn failed(&self) -> OrderFailed {
        let reason = match self.failure.as_str() {
            "" => "not everybody answered in time",
            told => told,
        };
        OrderFailed { order: self.id, reason: reason.to_owned() }
    }
}
