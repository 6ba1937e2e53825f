//! Trips: flight, hotel and car, all or none.

pub mod messages;
