//! The pure saga. See the head of each room.
pub mod message;
