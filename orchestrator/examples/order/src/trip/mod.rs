//! Trips: flight, hotel and car, all or none. There is no point of no return: everything can be given back.

pub mod messages;
pub mod saga;
pub mod services;

pub use saga::{Trip, trip_saga};
