//! Sagas to be explored and drawn: an order and a trip as their authors would write them, and shapes made of one small
//! command.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test uses some of it")]

use dirigent_model::{
    definition::{
        AskStatus, Block, Definition, DefinitionErrors, OnTimeout, StepDraft, all, choose, pause,
        publish, saga, step, wait, when,
    },
    message::{Channel, Command, Event, Message, Never},
    retry::Retry,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

pub const SERVICES: Channel = Channel::json("services");

macro_rules! messages {
    ($($name:ident)*) => {$(
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub struct $name { pub key: u64 }
        impl Message for $name {
            const NAME: &'static str = stringify!($name);
        }
    )*};
}
macro_rules! commands {
    ($($name:ident on $to:literal => $success:ident, $rejection:ident;)*) => {$(
        impl Command for $name {
            const TO: Channel = Channel::json($to);
            type Success = $success;
            type Rejection = $rejection;
        }
    )*};
}
macro_rules! events {
    ($($name:ident on $on:literal;)*) => {$(
        impl Event for $name {
            const ON: Channel = Channel::json($on);
        }
    )*};
}

messages! {
    OrderPlaced OrderApproved OrderDeclined OrderWithdrawn OrderCompleted OrderFailed
    ReserveStock StockReserved StockRejected ReleaseStock StockReleased
    AuthorisePayment PaymentAuthorised PaymentDeclined CancelPayment PaymentCancelled
    CapturePayment PaymentCaptured CaptureDeclined ShipOrder OrderShipped
    TripAsked TripBooked TripFailed Confirmed Notice
    BookFlight FlightBooked FlightFull CancelFlight FlightCancelled
    BookHotel HotelBooked HotelFull CancelHotel HotelCancelled
    BookCar CarBooked NoCar CancelCar CarCancelled
    TakeMoney MoneyTaken MoneyRefused SendTickets TicketsSent
    Do Did Refused Undo Undid Finish Finished
}
commands! {
    ReserveStock on "inventory" => StockReserved, StockRejected;
    ReleaseStock on "inventory" => StockReleased, Never;
    AuthorisePayment on "payment" => PaymentAuthorised, PaymentDeclined;
    CancelPayment on "payment" => PaymentCancelled, Never;
    CapturePayment on "payment" => PaymentCaptured, CaptureDeclined;
    ShipOrder on "shipping" => OrderShipped, Never;
    BookFlight on "flights" => FlightBooked, FlightFull;
    CancelFlight on "flights" => FlightCancelled, Never;
    BookHotel on "hotels" => HotelBooked, HotelFull;
    CancelHotel on "hotels" => HotelCancelled, Never;
    BookCar on "cars" => CarBooked, NoCar;
    CancelCar on "cars" => CarCancelled, Never;
    TakeMoney on "payment" => MoneyTaken, MoneyRefused;
    SendTickets on "tickets" => TicketsSent, Never;
    Do on "services" => Did, Refused;
    Undo on "services" => Undid, Never;
    Finish on "services" => Finished, Never;
}
events! {
    OrderPlaced on "orders"; OrderApproved on "order-approvals"; OrderDeclined on "order-approvals";
    OrderWithdrawn on "orders"; OrderCompleted on "order-events"; OrderFailed on "order-events";
    TripAsked on "trips"; TripBooked on "trip-events"; TripFailed on "trip-events";
    Confirmed on "confirmations"; Notice on "notices";
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Own {
    pub key: u64,
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A step of the given command, undone by another one.
macro_rules! undoable {
    ($name:literal, $command:ident, $undo:ident) => {
        step($name, |own: &Own| $command { key: own.key })
            .on_rejection(|_, _| ())
            .reply_within(seconds(10))
            .compensated_by(|own, _| $undo { key: own.key })
    };
}

pub fn approval() -> Block<Own> {
    wait("approval", |event: &OrderApproved| event.key, |_: &mut Own, _| ())
        .or_rejected(|event: &OrderDeclined| event.key, |_, _| ())
        .within(seconds(24 * 60 * 60), OnTimeout::Reject)
}

/// Secures stock and money side by side, asks for approval of large orders, takes the money, ships.
pub fn order() -> Result<Definition<Own>, DefinitionErrors> {
    saga("order", 1, |event: &OrderPlaced| event.key, |event: OrderPlaced| Own { key: event.key })
        .then(
            all("secure")
                .branch(undoable!("reserve-stock", ReserveStock, ReleaseStock))
                .branch(undoable!("authorise-payment", AuthorisePayment, CancelPayment)),
        )
        .then(when("needs-approval", |own: &Own| own.key > 10, approval()))
        .then(
            step("capture-payment", |own: &Own| CapturePayment { key: own.key })
                .on_rejection(|_, _| ())
                .reply_within(seconds(30))
                .pivot(),
        )
        .then(
            step("ship", |own: &Own| ShipOrder { key: own.key })
                .reply_within(seconds(60))
                .retriable(),
        )
        .cancelled_by(|event: &OrderWithdrawn| event.key, |_, _| ())
        .deadline(seconds(48 * 60 * 60))
        .ends_with(|own| OrderCompleted { key: own.key }, |own| OrderFailed { key: own.key })
}

/// Flight, then hotel and car side by side; a pause, a notice, the money, the tickets.
pub fn trip() -> Result<Definition<Own>, DefinitionErrors> {
    saga("trip", 2, |event: &TripAsked| event.key, |event: TripAsked| Own { key: event.key })
        .then(undoable!("book-flight", BookFlight, CancelFlight))
        .then(all("stay").branch(undoable!("book-hotel", BookHotel, CancelHotel)).branch(when(
            "wants-car",
            |own: &Own| own.key > 1,
            undoable!("book-car", BookCar, CancelCar),
        )))
        .then(pause("cool-off", seconds(3600)))
        .then(publish("tell", |own: &Own| Notice { key: own.key }))
        .then(
            wait("confirmation", |event: &Confirmed| event.key, |_: &mut Own, _| ())
                .within(seconds(3600), OnTimeout::Proceed),
        )
        .then(
            step("take-money", |own: &Own| TakeMoney { key: own.key })
                .on_rejection(|_, _| ())
                .reply_within(seconds(30))
                .pivot(),
        )
        .then(
            step("send-tickets", |own: &Own| SendTickets { key: own.key })
                .reply_within(seconds(60))
                .retriable(),
        )
        .ends_with(|own| TripBooked { key: own.key }, |own| TripFailed { key: own.key })
}

/// The order, but what `reserve-stock` took is never given back.
pub fn order_without_release(reason: &str) -> Result<Definition<Own>, DefinitionErrors> {
    saga("order", 1, |event: &OrderPlaced| event.key, |event: OrderPlaced| Own { key: event.key })
        .then(
            step("reserve-stock", |own: &Own| ReserveStock { key: own.key })
                .on_rejection(|_, _| ())
                .reply_within(seconds(10))
                .nothing_to_compensate(reason),
        )
        .then(undoable!("authorise-payment", AuthorisePayment, CancelPayment))
        .ends_with(|own| OrderCompleted { key: own.key }, |own| OrderFailed { key: own.key })
}

pub fn plain_step(name: &str) -> Block<Own> {
    let draft: StepDraft<Own, Do> = step(name, |own: &Own| Do { key: own.key });
    draft
        .on_rejection(|_, _| ())
        .reply_within(seconds(10))
        .retry(Retry::default())
        .compensated_by(|own, _| Undo { key: own.key })
}

pub fn begun(name: &str) -> dirigent_model::definition::SagaDraft<Own> {
    saga(name, 1, |event: &TripAsked| event.key, |event: TripAsked| Own { key: event.key })
}

/// So many steps one after the other.
pub fn chain(steps: usize) -> Result<Definition<Own>, DefinitionErrors> {
    (0..steps)
        .fold(begun("chain"), |draft, at| draft.then(plain_step(&format!("step-{at}"))))
        .ends()
}

/// Branches side by side, each of so many steps.
pub fn fan(branches: usize, steps: usize) -> Result<Definition<Own>, DefinitionErrors> {
    let branch = |branch: usize| {
        let first = plain_step(&format!("step-{branch}-0"));
        (1..steps).fold(first, |block, at| block.then(plain_step(&format!("step-{branch}-{at}"))))
    };
    let fan = (0..branches).fold(all("fan"), |all, at| all.branch(branch(at)));
    begun("fan").then(fan).ends()
}

/// A choice of three inside a branch, a choice in a choice.
pub fn choices() -> Result<Definition<Own>, DefinitionErrors> {
    let inner = choose("inner")
        .arm("left", |own: &Own| own.key == 1, plain_step("left"))
        .arm("right", |own: &Own| own.key == 2, plain_step("right"))
        .otherwise_nothing();
    let outer = choose("outer")
        .arm("deep", |own: &Own| own.key == 3, inner)
        .arm("flat", |own: &Own| own.key == 4, plain_step("flat"))
        .otherwise(plain_step("rest"));
    begun("choices")
        .then(all("side-by-side").branch(outer).branch(plain_step("beside")))
        .then(plain_step("last"))
        .ends()
}

/// Thirty steps as a large saga has them: in order, side by side, chosen, questioned, awaited; a pivot; what only goes forward.
///
/// ```text
/// a a a ─► 3 branches of 2, 1 asked about, 1 behind a wait ─► one of 3 ways (2 │ 1 │ a notice)
///   ─► 4 side by side ─► approval ─► a asked a a a a ─► if wanted: 2 side by side ─► pause ─► pivot, asked about
///   ─► 2 side by side ─► 5 retriable
/// ```
pub fn thirty() -> Result<Definition<Own>, DefinitionErrors> {
    let asked = |name: &str| {
        step(name, |own: &Own| Do { key: own.key })
            .on_rejection(|_, _| ())
            .reply_within(seconds(10))
            .status_by(AskStatus::within(seconds(5)))
            .compensated_by(|own, _| Undo { key: own.key })
    };
    let forward = |name: &str| {
        step(name, |own: &Own| Finish { key: own.key }).reply_within(seconds(60)).retriable()
    };
    let confirmed = wait("confirmed", |event: &Confirmed| event.key, |_: &mut Own, _| ())
        .within(seconds(3600), OnTimeout::Proceed);
    begun("thirty")
        .then(plain_step("a-1"))
        .then(plain_step("a-2"))
        .then(plain_step("a-3"))
        .then(
            all("first")
                .branch(plain_step("b-1").then(plain_step("b-2")))
                .branch(asked("b-3"))
                .branch(confirmed.then(plain_step("b-4"))),
        )
        .then(
            choose("way")
                .arm("both", |own: &Own| own.key == 1, plain_step("c-1").then(plain_step("c-2")))
                .arm("one", |own: &Own| own.key == 2, plain_step("c-3"))
                .otherwise(publish("told", |own: &Own| Notice { key: own.key })),
        )
        .then(
            all("second")
                .branch(plain_step("d-1"))
                .branch(plain_step("d-2"))
                .branch(plain_step("d-3"))
                .branch(plain_step("d-4")),
        )
        .then(approval())
        .then(plain_step("e-1"))
        .then(asked("e-2"))
        .then(plain_step("e-3"))
        .then(plain_step("e-4"))
        .then(plain_step("e-5"))
        .then(plain_step("e-6"))
        .then(when(
            "wanted",
            |own: &Own| own.key > 3,
            all("third").branch(plain_step("f-1")).branch(plain_step("f-2")),
        ))
        .then(pause("cool-off", seconds(60)))
        .then(
            step("pivot", |own: &Own| TakeMoney { key: own.key })
                .on_rejection(|_, _| ())
                .reply_within(seconds(30))
                .status_by(AskStatus::within(seconds(5)))
                .pivot(),
        )
        .then(all("fourth").branch(forward("g-1")).branch(forward("g-2")))
        .then(forward("g-3"))
        .then(forward("g-4"))
        .then(forward("g-5"))
        .then(forward("g-6"))
        .then(forward("g-7"))
        .cancelled_by(|event: &OrderWithdrawn| event.key, |_, _| ())
        .deadline(seconds(48 * 60 * 60))
        .ends_with(|own| TripBooked { key: own.key }, |own| TripFailed { key: own.key })
}
