//! Placeholder while the workspace is laid out.

pub mod journal;
pub mod store;
