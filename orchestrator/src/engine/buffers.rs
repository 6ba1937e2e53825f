//! Buffers of encoded groups, used again: a group is large, and fresh memory of that size costs more than filling it.

use std::sync::{Mutex, PoisonError};

/// Buffers kept, for all shards together.
const KEPT_MAX: usize = 16;

/// A buffer that grew beyond is given back to the system, in bytes.
const KEPT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Empty buffers that wait to be filled again.
#[derive(Default)]
pub(crate) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    pub(super) fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    pub(super) fn give_back(&self, mut buffer: Vec<u8>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.capacity() <= KEPT_BYTES_MAX && kept.len() < KEPT_MAX {
            buffer.clear();
            kept.push(buffer);
        }
    }
}
