//! The sagas of the example, order and trip, with participants that answer by a script.
//!
//! The definitions are those that people read first; only the services are others, since those of the example decide by themselves.

use super::script::{Script, Scripted};
use dirigent::participant::Participant;
use dirigent_model::definition::{Definition, DefinitionErrors};
use dirigent_schemas::Bodies;
use order::{
    order::{
        Order, OrderTiming,
        messages::{
            AuthorisePayment, CaptureDeclined, CapturePayment, OrderPlaced, OrderShipped,
            PaymentAuthorised, PaymentCaptured, PaymentDeclined, PaymentVoided, ReleaseStock,
            ReserveStock, ShipOrder, StockRejected, StockReleased, StockReserved, VoidPayment,
        },
        order_saga_with,
        saga::APPROVAL_FROM_CENTS,
    },
    trip::messages::{
        BookFlight, BookHotel, CancelFlight, CancelHotel, CarRented, CarReturned, FlightBooked,
        FlightCancelled, FlightUnavailable, HotelBooked, HotelCancelled, HotelFull, NoCarLeft,
        RentCar, ReturnCar, TripRequested,
    },
};
use std::sync::Arc;

/// The order saga. A person has as long as whoever else news are waited for.
pub(super) fn order() -> Result<Definition<Order>, DefinitionErrors> {
    order_saga_with(&OrderTiming {
        approval_within: super::small::NEWS_WITHIN,
        ..OrderTiming::default()
    })
}

/// An order so large that a person must agree to it.
pub(super) fn large_order(order: i64) -> OrderPlaced {
    OrderPlaced {
        order,
        customer: "customer".into(),
        sku: "sku".into(),
        quantity: 1,
        amount_cents: APPROVAL_FROM_CENTS,
    }
}

pub(super) fn inventory(script: Script) -> Participant {
    Scripted::new("points-inventory", script)
        .on::<ReserveStock>(
            |asked| StockReserved { reservation: asked.order },
            |asked| Some(StockRejected { sku: asked.sku.clone() }),
        )
        .undoes::<ReleaseStock, ReserveStock>(|_| StockReleased {})
        .ready()
}

pub(super) fn payment(script: Script) -> Participant {
    Scripted::new("points-payment", script)
        .on::<AuthorisePayment>(
            |asked| PaymentAuthorised { hold: asked.order },
            |_| Some(PaymentDeclined { reason: "card".into() }),
        )
        .undoes::<VoidPayment, AuthorisePayment>(|_| PaymentVoided {})
        .on::<CapturePayment>(
            |asked| PaymentCaptured { receipt: asked.order },
            |_| Some(CaptureDeclined { reason: "hold expired".into() }),
        )
        .ready()
        .codec(Arc::new(Bodies::new()))
}

pub(super) fn shipping(script: Script) -> Participant {
    Scripted::new("points-shipping", script)
        .on::<ShipOrder>(|asked| OrderShipped { tracking: asked.order.to_string() }, |_| None)
        .ready()
}

/// A trip.
pub(super) fn requested(trip: i64) -> TripRequested {
    TripRequested {
        trip,
        traveller: "traveller".into(),
        from: "here".into(),
        to: "there".into(),
        nights: 2,
    }
}

pub(super) fn flights(script: Script) -> Participant {
    Scripted::new("points-flights", script)
        .on::<BookFlight>(
            |asked| FlightBooked { booking: asked.trip },
            |_| Some(FlightUnavailable { reason: "none".into() }),
        )
        .undoes::<CancelFlight, BookFlight>(|_| FlightCancelled {})
        .ready()
}

pub(super) fn hotels(script: Script) -> Participant {
    Scripted::new("points-hotels", script)
        .on::<BookHotel>(
            |asked| HotelBooked { booking: asked.trip },
            |asked| Some(HotelFull { city: asked.city.clone() }),
        )
        .undoes::<CancelHotel, BookHotel>(|_| HotelCancelled {})
        .ready()
}

pub(super) fn cars(script: Script) -> Participant {
    Scripted::new("points-cars", script)
        .on::<RentCar>(
            |asked| CarRented { contract: asked.trip },
            |asked| Some(NoCarLeft { city: asked.city.clone() }),
        )
        .undoes::<ReturnCar, RentCar>(|_| CarReturned {})
        .ready()
}
