//! The order saga and the trip saga: examples that use only the public interface.
//!
//! [`order`] is a saga with five services that keep a ledger each, and the reconciliation of those ledgers with the sagas.
//! [`trip`] is a smaller saga of another business, without a point of no return.

mod contract;
pub mod ledger;
pub mod order;
pub mod trip;
