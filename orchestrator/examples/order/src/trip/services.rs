//! The three booking offices of a trip. A city called `Nowhere` has no flights, `Fulltown` no rooms and `Walkville` no cars.

use super::messages::{
    BookFlight, BookHotel, CancelFlight, CancelHotel, CarRented, CarReturned, FlightBooked,
    FlightCancelled, FlightUnavailable, HotelBooked, HotelCancelled, HotelFull, NoCarLeft, RentCar,
    ReturnCar,
};
use crate::ledger::{applied, apply};
use dirigent::participant::{Answer, Asked, Participant, Tx};

/// All three, with their names. Each wants a store of its own.
pub fn services() -> Vec<(&'static str, Participant)> {
    vec![("trip-flights", flights()), ("trip-hotels", hotels()), ("trip-cars", cars())]
}

/// The airline.
pub fn flights() -> Participant {
    Participant::new("trip-flights")
        .on::<BookFlight>(|tx, command, asked| {
            if command.to == "Nowhere" {
                let reason = format!("no flight to {}", command.to);
                return Answer::Rejected(FlightUnavailable { reason });
            }
            apply(tx, command.trip, "flight-booked", asked);
            Answer::Done(FlightBooked { booking: command.trip })
        })
        .undoes::<CancelFlight, BookFlight>(
            |tx, command, asked| {
                give_back(tx, command.trip, "flight-booked", "flight-cancelled", asked);
                Answer::Done(FlightCancelled {})
            },
            |_, _| FlightCancelled {},
        )
}

/// The hotel.
pub fn hotels() -> Participant {
    Participant::new("trip-hotels")
        .on::<BookHotel>(|tx, command, asked| {
            if command.city == "Fulltown" {
                return Answer::Rejected(HotelFull { city: command.city });
            }
            apply(tx, command.trip, "hotel-booked", asked);
            Answer::Done(HotelBooked { booking: command.trip })
        })
        .undoes::<CancelHotel, BookHotel>(
            |tx, command, asked| {
                give_back(tx, command.trip, "hotel-booked", "hotel-cancelled", asked);
                Answer::Done(HotelCancelled {})
            },
            |_, _| HotelCancelled {},
        )
}

/// The car rental.
pub fn cars() -> Participant {
    Participant::new("trip-cars")
        .on::<RentCar>(|tx, command, asked| {
            if command.city == "Walkville" {
                return Answer::Rejected(NoCarLeft { city: command.city });
            }
            apply(tx, command.trip, "car-rented", asked);
            Answer::Done(CarRented { contract: command.trip })
        })
        .undoes::<ReturnCar, RentCar>(
            |tx, command, asked| {
                give_back(tx, command.trip, "car-rented", "car-returned", asked);
                Answer::Done(CarReturned {})
            },
            |_, _| CarReturned {},
        )
}

fn give_back(tx: &mut Tx<'_>, trip: i64, taken: &str, given_back: &str, asked: &Asked) {
    if applied(tx, trip, taken) > applied(tx, trip, given_back) {
        apply(tx, trip, given_back, asked);
    }
}
