//! The messages of the order saga: what travels, on which channel, and which answers a command may get.
//!
//! The contract is the `.avsc` beside each name; `tests/contracts.rs` proves that the types here equal it.

use crate::contract::message;
use dirigent_model::message::{Channel, Never};

/// Orders placed by customers.
pub const ORDERS: Channel = Channel::json("orders");
/// What people decided about large orders.
pub const ORDER_APPROVALS: Channel = Channel::json("order-approvals");
/// What the saga tells the world about an order.
pub const ORDER_EVENTS: Channel = Channel::json("order-events");
/// Commands to the inventory.
pub const INVENTORY: Channel = Channel::json("inventory");
/// Commands to the payment service; in Avro, the others in JSON.
pub const PAYMENT: Channel = Channel::avro("payment");
/// Commands to the shipping service.
pub const SHIPPING: Channel = Channel::json("shipping");

// Events that come in

message! {
    /// A customer placed an order: starts the saga.
    OrderPlaced in "order/order-placed.v1.avsc" => event on ORDERS {
        /// The order.
        order: i64,
        /// Who ordered.
        customer: String,
        /// The article.
        sku: String,
        /// Pieces.
        quantity: i32,
        /// The amount, in cents.
        amount_cents: i64,
    }
}
message! {
    /// A person agreed to an order.
    OrderApproved in "order/order-approved.v1.avsc" => event on ORDER_APPROVALS {
        /// The order.
        order: i64,
        /// The person.
        by: String,
    }
}
message! {
    /// A person refused an order.
    OrderDeclined in "order/order-declined.v1.avsc" => event on ORDER_APPROVALS {
        /// The order.
        order: i64,
        /// The person.
        by: String,
    }
}

// Inventory

message! {
    /// Set stock aside for an order.
    ReserveStock in "order/reserve-stock.v1.avsc" => command to INVENTORY, StockReserved or StockRejected {
        /// The order.
        order: i64,
        /// The article.
        sku: String,
        /// Pieces.
        quantity: i32,
    }
}
message! {
    /// The stock is set aside.
    StockReserved in "order/stock-reserved.v1.avsc" {
        /// What was set aside.
        reservation: i64,
    }
}
message! {
    /// There is not enough stock: nothing was set aside.
    StockRejected in "order/stock-rejected.v1.avsc" {
        /// The article.
        sku: String,
    }
}
message! {
    /// Give back what was set aside for an order; without a reservation where its answer never came.
    ReleaseStock in "order/release-stock.v1.avsc" => command to INVENTORY, StockReleased or Never {
        /// The order.
        order: i64,
        /// What was set aside. Missing where its answer never came.
        reservation: Option<i64>,
    }
}
message! {
    /// Nothing is set aside for the order any more.
    StockReleased in "order/stock-released.v1.avsc" {
    }
}

// Payment

message! {
    /// Hold an amount on the customer's card.
    AuthorisePayment in "order/authorise-payment.v1.avsc" => command to PAYMENT, PaymentAuthorised or PaymentDeclined {
        /// The order.
        order: i64,
        /// Who ordered.
        customer: String,
        /// The amount, in cents.
        amount_cents: i64,
    }
}
message! {
    /// The amount is held.
    PaymentAuthorised in "order/payment-authorised.v1.avsc" {
        /// What is held.
        hold: i64,
    }
}
message! {
    /// The card was declined: nothing is held.
    PaymentDeclined in "order/payment-declined.v1.avsc" {
        /// For people.
        reason: String,
    }
}
message! {
    /// Let go of what is held for an order; without a hold where its answer never came.
    VoidPayment in "order/void-payment.v1.avsc" => command to PAYMENT, PaymentVoided or Never {
        /// The order.
        order: i64,
        /// What is held. Missing where its answer never came.
        hold: Option<i64>,
    }
}
message! {
    /// Nothing is held for the order any more.
    PaymentVoided in "order/payment-voided.v1.avsc" {
    }
}
message! {
    /// Take the money that is held: the point of no return.
    CapturePayment in "order/capture-payment.v1.avsc" => command to PAYMENT, PaymentCaptured or CaptureDeclined {
        /// The order.
        order: i64,
        /// What is held.
        hold: i64,
    }
}
message! {
    /// The money was taken.
    PaymentCaptured in "order/payment-captured.v1.avsc" {
        /// The proof of payment.
        receipt: i64,
    }
}
message! {
    /// The hold could not be taken: no money moved.
    CaptureDeclined in "order/capture-declined.v1.avsc" {
        /// For people.
        reason: String,
    }
}

// Shipping

message! {
    /// Send what was reserved.
    ShipOrder in "order/ship-order.v1.avsc" => command to SHIPPING, OrderShipped or Never {
        /// The order.
        order: i64,
        /// What was set aside.
        reservation: i64,
    }
}
message! {
    /// The parcel is on its way.
    OrderShipped in "order/order-shipped.v1.avsc" {
        /// Follows the parcel.
        tracking: String,
    }
}

// Events that go out

message! {
    /// An order is so large that a person must agree to it.
    ApprovalRequested in "order/approval-requested.v1.avsc" => event on ORDER_EVENTS {
        /// The order.
        order: i64,
        /// The amount, in cents.
        amount_cents: i64,
    }
}
message! {
    /// An order was paid and sent.
    OrderCompleted in "order/order-completed.v1.avsc" => event on ORDER_EVENTS {
        /// The order.
        order: i64,
        /// Follows the parcel.
        tracking: String,
    }
}
message! {
    /// An order came to nothing, and everything was taken back.
    OrderFailed in "order/order-failed.v1.avsc" => event on ORDER_EVENTS {
        /// The order.
        order: i64,
        /// For people.
        reason: String,
    }
}
