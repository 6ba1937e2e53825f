//! The sagas the tests are about, with small messages: an order, a trip of nested blocks, and what else a rule needs.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test uses some of it")]

use dirigent_model::{
    definition::{
        AskStatus, Block, Definition, DefinitionErrors, OnTimeout, Outcome, all, choose, pause,
        publish, saga, step, wait, when,
    },
    message::{Channel, Command, Event, Failure, Message, Never},
    retry::Retry,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

pub const INVENTORY: Channel = Channel::json("inventory");
pub const PAYMENTS: Channel = Channel::avro("payments");
pub const ORDERS: Channel = Channel::json("orders");

pub fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

macro_rules! messages {
    ($($name:ident { $($field:ident : $kind:ty),* $(,)? })*) => {$(
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub struct $name { $(pub $field: $kind),* }
        impl Message for $name {
            const NAME: &'static str = stringify!($name);
        }
    )*};
}

macro_rules! commands {
    ($($name:ty => $to:expr, $success:ty, $rejection:ty;)*) => {$(
        impl Command for $name {
            const TO: Channel = $to;
            type Success = $success;
            type Rejection = $rejection;
        }
    )*};
}

macro_rules! events {
    ($($name:ty),*) => {$(
        impl Event for $name {
            const ON: Channel = ORDERS;
        }
    )*};
}

messages! {
    OrderPlaced { order: u64 }
    OrderApproved { order: u64 }
    OrderDeclined { order: u64, by: String }
    OrderWithdrawn { order: u64 }
    OrderCompleted { order: u64, tracking: String }
    OrderFailed { order: u64, reason: String }
    ReserveStock { order: u64 }
    StockReserved { reservation: u64 }
    StockRejected { sku: String }
    ReleaseStock { order: u64, reservation: Option<u64> }
    StockReleased {}
    AuthorisePayment { order: u64 }
    PaymentAuthorised { hold: u64 }
    PaymentDeclined { reason: String }
    CancelPayment { order: u64, hold: Option<u64> }
    PaymentCancelled { refunded: u64 }
    CapturePayment { hold: u64 }
    PaymentCaptured {}
    CaptureDeclined { reason: String }
    ShipOrder { order: u64, reservation: u64 }
    OrderShipped { tracking: String }
}

commands! {
    ReserveStock => INVENTORY, StockReserved, StockRejected;
    ReleaseStock => INVENTORY, StockReleased, Never;
    AuthorisePayment => PAYMENTS, PaymentAuthorised, PaymentDeclined;
    CancelPayment => PAYMENTS, PaymentCancelled, Never;
    CapturePayment => PAYMENTS, PaymentCaptured, CaptureDeclined;
    ShipOrder => ORDERS, OrderShipped, Never;
}

events!(OrderPlaced, OrderApproved, OrderDeclined, OrderWithdrawn, OrderCompleted, OrderFailed);

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Order {
    pub id: u64,
    pub reservation: u64,
    pub hold: u64,
    pub tracking: String,
    pub failure: String,
}

impl Order {
    fn placed(event: OrderPlaced) -> Self {
        Self { id: event.order, ..Self::default() }
    }

    fn needs_approval(&self) -> bool {
        self.id >= 1_000
    }

    fn completed(&self) -> OrderCompleted {
        OrderCompleted { order: self.id, tracking: self.tracking.clone() }
    }

    fn failed(&self) -> OrderFailed {
        OrderFailed { order: self.id, reason: self.failure.clone() }
    }
}

/// Secures stock and money side by side, asks for approval of large orders, takes the money, ships.
pub fn order_saga() -> Result<Definition<Order>, DefinitionErrors> {
    saga("order", 1, |event: &OrderPlaced| event.order, Order::placed)
        .then(all("secure").branch(reserve_stock()).branch(authorise_payment()))
        .then(when("needs-approval", Order::needs_approval, approval()))
        .then(capture_payment())
        .then(ship())
        .deadline(Duration::from_secs(7 * 24 * 60 * 60))
        .cancelled_by(|event: &OrderWithdrawn| event.order, |_, _| ())
        .ends_with(Order::completed, Order::failed)
}

pub fn reserve_stock() -> Block<Order> {
    step("reserve-stock", |order: &Order| ReserveStock { order: order.id })
        .on_success(|order, reply| order.reservation = reply.reservation)
        .on_rejection(|order, reply| order.failure = format!("no stock of {}", reply.sku))
        .reply_within(Duration::from_secs(10))
        .retry(Retry::exponential(3, Duration::from_millis(200), Duration::from_secs(5)))
        .compensated_by(|order, outcome| ReleaseStock {
            order: order.id,
            reservation: match outcome {
                Outcome::Done(reply) => Some(reply.reservation),
                Outcome::InDoubt => None,
            },
        })
}

pub fn authorise_payment() -> Block<Order> {
    step("authorise-payment", |order: &Order| AuthorisePayment { order: order.id })
        .on_success(|order, reply| order.hold = reply.hold)
        .on_rejection(|order, reply| order.failure = reply.reason)
        .reply_within(Duration::from_secs(20))
        .retry(
            Retry::exponential(2, Duration::from_millis(200), Duration::from_secs(5))
                .not_after(&["blocked"]),
        )
        .compensation_retry(Retry::exponential(
            2,
            Duration::from_millis(200),
            Duration::from_secs(5),
        ))
        .compensated_by(|order, outcome| CancelPayment {
            order: order.id,
            hold: match outcome {
                Outcome::Done(reply) => Some(reply.hold),
                Outcome::InDoubt => None,
            },
        })
}

pub fn approval() -> Block<Order> {
    wait("approval", |event: &OrderApproved| event.order, |_: &mut Order, _| ())
        .or_rejected(
            |event: &OrderDeclined| event.order,
            |order, event| order.failure = format!("declined by {}", event.by),
        )
        .within(Duration::from_secs(24 * 60 * 60), OnTimeout::Reject)
}

pub fn capture_payment() -> Block<Order> {
    step("capture-payment", |order: &Order| CapturePayment { hold: order.hold })
        .on_rejection(|order, reply| order.failure = reply.reason)
        .reply_within(Duration::from_secs(30))
        .pivot()
}

pub fn ship() -> Block<Order> {
    step("ship", |order: &Order| ShipOrder { order: order.id, reservation: order.reservation })
        .on_success(|order, reply| order.tracking = reply.tracking)
        .reply_within(Duration::from_secs(60))
        .retriable()
}

pub fn reserved() -> StockReserved {
    StockReserved { reservation: 3 }
}

pub fn authorised() -> PaymentAuthorised {
    PaymentAuthorised { hold: 9 }
}

pub fn declined() -> PaymentDeclined {
    PaymentDeclined { reason: "card".into() }
}

pub fn shipped() -> OrderShipped {
    OrderShipped { tracking: "T1".into() }
}

messages! {
    TripAsked { trip: String, legs: u8 }
    TripEnded { trip: String }
    PaxReady { trip: String, pax: u64 }
    Book { place: String }
    Booked { code: u64 }
    Full { place: String }
    Unbook { place: String, code: Option<u64> }
    Unbooked {}
    Note { text: String }
    Odd { a: u8 }
    Worse { a: u8 }
}

commands! {
    Book => ORDERS, Booked, Full;
    Unbook => ORDERS, Unbooked, Never;
    Odd => ORDERS, Booked, Booked;
    Worse => ORDERS, Failure, Never;
}

events!(TripAsked, TripEnded, PaxReady, Note);

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Trip {
    pub trip: String,
    pub legs: u8,
    pub pax: Vec<u64>,
    pub codes: Vec<u64>,
}

/// Books a place: undone by its code, or without one when in doubt. One attempt of ten seconds.
macro_rules! booking {
    ($place:literal) => {
        step($place, |_: &Trip| Book { place: $place.into() })
            .on_success(|trip, reply| trip.codes.push(reply.code))
            .on_rejection(|_, _| ())
            .reply_within(seconds(10))
            .retry(Retry::never())
            .compensation_retry(Retry::never())
            .compensated_by(|_, outcome| Unbook {
                place: $place.into(),
                code: match outcome {
                    Outcome::Done(reply) => Some(reply.code),
                    Outcome::InDoubt => None,
                },
            })
    };
}

pub fn booked(code: u64) -> Booked {
    Booked { code }
}

pub fn full(place: &str) -> Full {
    Full { place: place.into() }
}

pub fn ready(pax: u64) -> PaxReady {
    PaxReady { trip: "rome".into(), pax }
}

fn pax(name: &str, on_timeout: OnTimeout) -> Block<Trip> {
    wait(
        name,
        |event: &PaxReady| event.trip.clone(),
        |trip: &mut Trip, event| {
            trip.pax.push(event.pax);
        },
    )
    .within(seconds(100), on_timeout)
}

fn note(name: &str) -> Block<Trip> {
    publish(name, |trip: &Trip| Note { text: trip.trip.clone() })
}

/// Every kind of block within the others:
///
/// ```text
/// visa ─► travel: ┬ flight ─► transfer? (bus | taxi | otherwise a note) ┬ ─► insurance? ─► last
///                 ├ hotel ─► rooms: (single | double)                   │
///                 └ pax-early ─► a note ─► rest                         ┘
/// ```
pub fn trip_saga() -> Result<Definition<Trip>, DefinitionErrors> {
    saga(
        "trip",
        1,
        |event: &TripAsked| event.trip.clone(),
        |event: TripAsked| Trip { trip: event.trip, legs: event.legs, ..Trip::default() },
    )
    .then(booking!("visa"))
    .then(
        all("travel")
            .branch(
                booking!("flight").then(
                    choose("transfer")
                        .arm("bus", |trip: &Trip| trip.legs == 1, booking!("bus"))
                        .arm("taxi", |trip: &Trip| trip.legs == 2, booking!("taxi"))
                        .otherwise(note("on-foot")),
                ),
            )
            .branch(
                booking!("hotel")
                    .then(all("rooms").branch(booking!("single")).branch(booking!("double"))),
            )
            .branch(
                pax("pax-early", OnTimeout::Proceed)
                    .then(note("noted"))
                    .then(pause("rest", seconds(5))),
            ),
    )
    .then(when("insured", |trip: &Trip| trip.legs > 0, booking!("insurance")))
    .then(pax("pax-late", OnTimeout::Reject))
    .then(booking!("last"))
    .ends_with(
        |trip: &Trip| TripEnded { trip: trip.trip.clone() },
        |trip: &Trip| Note { text: format!("no {}", trip.trip) },
    )
}

pub fn rome(legs: u8) -> TripAsked {
    TripAsked { trip: "rome".into(), legs }
}

/// Two ways with a pivot each, and what only goes forward behind them.
pub fn forked_saga() -> Result<Definition<Trip>, DefinitionErrors> {
    let undone = |name| {
        step(name, |_: &Trip| Book { place: "any".into() })
            .on_rejection(|_, _| ())
            .reply_within(seconds(10))
            .compensated_by(|_, _| Unbook { place: "any".into(), code: None })
    };
    let pivot = |name| {
        step(name, |_: &Trip| CapturePayment { hold: 1 })
            .on_rejection(|_, _| ())
            .reply_within(seconds(10))
            .retry(Retry::never())
            .pivot()
    };
    let go = |name| {
        step(name, |_: &Trip| ShipOrder { order: 1, reservation: 1 })
            .reply_within(seconds(10))
            .retriable()
    };
    let late = wait("late", |event: &PaxReady| event.trip.clone(), |_: &mut Trip, _| ());
    saga(
        "forked",
        1,
        |e: &TripAsked| e.trip.clone(),
        |e: TripAsked| Trip { legs: e.legs, ..Trip::default() },
    )
    .then(all("first").branch(undone("a")).branch(undone("b").then(undone("c"))))
    .then(
        choose("way")
            .arm("left", |trip: &Trip| trip.legs == 1, undone("d").then(pivot("left")))
            .otherwise(pivot("right").then(go("go-right"))),
    )
    .then(
        all("last")
            .branch(go("e"))
            .branch(late.within(seconds(50), OnTimeout::Proceed).then(go("f"))),
    )
    .deadline(seconds(60))
    .cancelled_by(|event: &Note| event.text.clone(), |_, _| ())
    .ends()
}

/// Steps side by side and a pivot, each of which can be asked about.
pub fn asking_saga() -> Result<Definition<Trip>, DefinitionErrors> {
    let asked = |attempts| {
        AskStatus::within(seconds(5)).retry(Retry::exponential(attempts, seconds(1), seconds(1)))
    };
    let undone = |name, attempts| {
        step(name, |_: &Trip| Book { place: "any".into() })
            .on_rejection(|_, _| ())
            .reply_within(seconds(10))
            .retry(Retry::exponential(attempts, seconds(1), seconds(1)))
            .status_by(asked(attempts))
            .compensated_by(|_, _| Unbook { place: "any".into(), code: None })
    };
    saga(
        "asking",
        1,
        |e: &TripAsked| e.trip.clone(),
        |e: TripAsked| Trip { legs: e.legs, ..Trip::default() },
    )
    .then(all("first").branch(undone("a", 1)).branch(undone("b", 2).then(undone("c", 3))))
    .then(
        step("pay", |_: &Trip| CapturePayment { hold: 1 })
            .on_rejection(|_, _| ())
            .reply_within(seconds(10))
            .retry(Retry::never())
            .status_by(asked(2))
            .pivot(),
    )
    .deadline(seconds(60))
    .cancelled_by(|event: &Note| event.text.clone(), |_, _| ())
    .ends()
}
