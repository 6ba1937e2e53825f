//! The messages of the trip saga: what travels, on which channel, and which answers a command may get.
//!
//! The contract is the `.avsc` beside each name; `tests/contracts.rs` proves that the types here equal it.

use crate::contract::message;
use dirigent_model::message::{Channel, Never};

/// Trips asked for by travellers.
pub const TRIPS: Channel = Channel::json("trips");
/// What the saga tells the world about a trip.
pub const TRIP_EVENTS: Channel = Channel::json("trip-events");
/// Commands to the airline.
pub const FLIGHTS: Channel = Channel::json("flights");
/// Commands to the hotel.
pub const HOTELS: Channel = Channel::json("hotels");
/// Commands to the car rental.
pub const CARS: Channel = Channel::json("cars");

// Events that come in

message! {
    /// A traveller asked for a trip: starts the saga.
    TripRequested in "trip/trip-requested.v1.avsc" => event on TRIPS {
        /// The trip.
        trip: i64,
        /// Who travels.
        traveller: String,
        /// The city of departure.
        from: String,
        /// The city of arrival.
        to: String,
        /// Nights in the hotel.
        nights: i32,
    }
}

// Flights

message! {
    /// Book a seat.
    BookFlight in "trip/book-flight.v1.avsc" => command to FLIGHTS, FlightBooked or FlightUnavailable {
        /// The trip.
        trip: i64,
        /// The city of departure.
        from: String,
        /// The city of arrival.
        to: String,
    }
}
message! {
    /// The seat is booked.
    FlightBooked in "trip/flight-booked.v1.avsc" {
        /// What was booked.
        booking: i64,
    }
}
message! {
    /// No seat: nothing was booked.
    FlightUnavailable in "trip/flight-unavailable.v1.avsc" {
        /// For people.
        reason: String,
    }
}
message! {
    /// Give the seat of a trip back; without a booking where its answer never came.
    CancelFlight in "trip/cancel-flight.v1.avsc" => command to FLIGHTS, FlightCancelled or Never {
        /// The trip.
        trip: i64,
        /// What was booked. Missing where its answer never came.
        booking: Option<i64>,
    }
}
message! {
    /// The trip has no seat any more.
    FlightCancelled in "trip/flight-cancelled.v1.avsc" {
    }
}

// Hotels

message! {
    /// Book a room.
    BookHotel in "trip/book-hotel.v1.avsc" => command to HOTELS, HotelBooked or HotelFull {
        /// The trip.
        trip: i64,
        /// Where.
        city: String,
        /// Nights in the hotel.
        nights: i32,
    }
}
message! {
    /// The room is booked.
    HotelBooked in "trip/hotel-booked.v1.avsc" {
        /// What was booked.
        booking: i64,
    }
}
message! {
    /// No room: nothing was booked.
    HotelFull in "trip/hotel-full.v1.avsc" {
        /// Where.
        city: String,
    }
}
message! {
    /// Give the room of a trip back; without a booking where its answer never came.
    CancelHotel in "trip/cancel-hotel.v1.avsc" => command to HOTELS, HotelCancelled or Never {
        /// The trip.
        trip: i64,
        /// What was booked. Missing where its answer never came.
        booking: Option<i64>,
    }
}
message! {
    /// The trip has no room any more.
    HotelCancelled in "trip/hotel-cancelled.v1.avsc" {
    }
}

// Cars

message! {
    /// Rent a car.
    RentCar in "trip/rent-car.v1.avsc" => command to CARS, CarRented or NoCarLeft {
        /// The trip.
        trip: i64,
        /// Where.
        city: String,
        /// Days with the car.
        days: i32,
    }
}
message! {
    /// The car is rented.
    CarRented in "trip/car-rented.v1.avsc" {
        /// What was rented.
        contract: i64,
    }
}
message! {
    /// No car: nothing was rented.
    NoCarLeft in "trip/no-car-left.v1.avsc" {
        /// Where.
        city: String,
    }
}
message! {
    /// Give the car of a trip back; without a contract where its answer never came.
    ReturnCar in "trip/return-car.v1.avsc" => command to CARS, CarReturned or Never {
        /// The trip.
        trip: i64,
        /// What was rented. Missing where its answer never came.
        contract: Option<i64>,
    }
}
message! {
    /// The trip has no car any more.
    CarReturned in "trip/car-returned.v1.avsc" {
    }
}

// Events that go out

message! {
    /// Flight, hotel and car are booked.
    TripBooked in "trip/trip-booked.v1.avsc" => event on TRIP_EVENTS {
        /// The trip.
        trip: i64,
    }
}
message! {
    /// A trip came to nothing, and everything was taken back.
    TripFailed in "trip/trip-failed.v1.avsc" => event on TRIP_EVENTS {
        /// The trip.
        trip: i64,
        /// For people.
        reason: String,
    }
}
