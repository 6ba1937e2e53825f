//! Orders: stock, payment and shipping, brought to one end.

pub mod messages;
