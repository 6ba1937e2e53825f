//! Brings the library's deserializer to a closure.
//!
//! The library deserializes into a type it is told, and shows its deserializer to nobody else. So it is
//! told [`Taken`], whose `Deserialize` passes the deserializer on to the closure that waits on this thread.

use serde::{Deserialize, Deserializer, de::Error as _};

/// What waits for a deserializer.
pub(crate) type Read<'r> =
    dyn FnMut(&mut dyn erased_serde::Deserializer<'_>) -> Result<(), erased_serde::Error> + 'r;

scoped_tls_hkt::scoped_thread_local!(
    static mut WAITING: for<'r> &'r mut Read<'r>
);

/// Runs `library`, and gives the deserializer with which it makes its [`Taken`] to `read`.
pub(crate) fn to<R>(read: &mut Read<'_>, library: impl FnOnce() -> R) -> R {
    WAITING.set(read, library)
}

/// Stands for the value that `read` took.
pub(crate) struct Taken;

impl<'de> Deserialize<'de> for Taken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut erased = <dyn erased_serde::Deserializer<'_>>::erase(deserializer);
        WAITING.with(|read| read(&mut erased)).map_err(D::Error::custom)?;
        Ok(Self)
    }
}
