//! The trip saga: seat and bed side by side, then a car for the days between.

use super::messages::{
    BookFlight, BookHotel, CancelFlight, CancelHotel, RentCar, ReturnCar, TripBooked, TripFailed,
    TripRequested,
};
use dirigent_model::definition::{Block, Definition, DefinitionErrors, Outcome, all, saga, step};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long each answer of a booking office is awaited: they ask systems of their own.
const REPLY_WITHIN: Duration = Duration::from_secs(30);

/// What the saga knows of its trip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trip {
    /// The trip.
    pub id: i64,
    /// The city of departure.
    pub from: String,
    /// The city of arrival.
    pub to: String,
    /// Nights in the hotel.
    pub nights: i32,
    /// Why it came to nothing; empty where nobody said.
    pub failure: String,
}

/// Books flight and hotel side by side, then rents a car; gives everything back when one of them is not to be had.
///
/// # Errors
/// None: a test builds it.
pub fn trip_saga() -> Result<Definition<Trip>, DefinitionErrors> {
    saga("trip", 1, |event: &TripRequested| event.trip, Trip::requested)
        .then(all("seats-and-beds").branch(book_flight()).branch(book_hotel()))
        .then(rent_car())
        .ends_with(Trip::booked, Trip::failed)
}

fn book_flight() -> Block<Trip> {
    step("book-flight", |trip: &Trip| BookFlight {
        trip: trip.id,
        from: trip.from.clone(),
        to: trip.to.clone(),
    })
    .on_rejection(|trip, reply| trip.failure = reply.reason)
    .reply_within(REPLY_WITHIN)
    .compensated_by(|trip, outcome| CancelFlight {
        trip: trip.id,
        booking: match outcome {
            Outcome::Done(reply) => Some(reply.booking),
            Outcome::InDoubt => None,
        },
    })
}

fn book_hotel() -> Block<Trip> {
    step("book-hotel", |trip: &Trip| BookHotel {
        trip: trip.id,
        city: trip.to.clone(),
        nights: trip.nights,
    })
    .on_rejection(|trip, reply| trip.failure = format!("no room in {}", reply.city))
    .reply_within(REPLY_WITHIN)
    .compensated_by(|trip, outcome| CancelHotel {
        trip: trip.id,
        booking: match outcome {
            Outcome::Done(reply) => Some(reply.booking),
            Outcome::InDoubt => None,
        },
    })
}

fn rent_car() -> Block<Trip> {
    step("rent-car", |trip: &Trip| RentCar {
        trip: trip.id,
        city: trip.to.clone(),
        days: trip.nights.saturating_add(1),
    })
    .on_rejection(|trip, reply| trip.failure = format!("no car in {}", reply.city))
    .reply_within(REPLY_WITHIN)
    .compensated_by(|trip, outcome| ReturnCar {
        trip: trip.id,
        contract: match outcome {
            Outcome::Done(reply) => Some(reply.contract),
            Outcome::InDoubt => None,
        },
    })
}

impl Trip {
    fn requested(event: TripRequested) -> Self {
        Self {
            id: event.trip,
            from: event.from,
            to: event.to,
            nights: event.nights,
            failure: String::new(),
        }
    }

    fn booked(&self) -> TripBooked {
        TripBooked { trip: self.id }
    }

    fn failed(&self) -> TripFailed {
        let reason = match self.failure.as_str() {
            "" => "not everybody answered in time",
            told => told,
        };
        TripFailed { trip: self.id, reason: reason.to_owned() }
    }
}
