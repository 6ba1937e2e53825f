//! Orders: stock, payment and shipping, brought to one end.
//!
//! [`saga`] declares it, [`services`] carry out its commands, [`rates`] says which orders go wrong and where, and
//! [`samples`] are what the conformance kit asks them, and [`reconcile`](mod@reconcile) holds what the services did against what the sagas say.

pub mod messages;
pub mod rates;
pub mod reconcile;
pub mod saga;
pub mod samples;
pub mod services;

pub use rates::{Rates, placed};
pub use reconcile::{Reconciliation, SagaEnd, reconcile};
pub use saga::{Order, OrderTiming, order_saga, order_saga_with};
