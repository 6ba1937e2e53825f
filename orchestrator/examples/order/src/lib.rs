//! The order saga and the trip saga: examples that use only the public interface.
//!
//! [`order`] is a saga with five services that keep a ledger each, and the reconciliation of those ledgers with the sagas.
//! [`demo`] runs everything in one process.
//! [`trip`] is a smaller saga of another business, without a point of no return.

mod contract;
pub mod demo;
pub mod ledger;
pub mod order;
pub mod trip;
