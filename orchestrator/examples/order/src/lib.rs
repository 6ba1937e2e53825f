//! The order saga and the trip saga: examples that use only the public interface.

mod contract;
pub mod order;
pub mod trip;
