//! Counts the clients of librdkafka that this process has open, by what each is for.
//!
//! ```text
//! Context::new(role) ─► Open ─► ... as long as the client lives ... ─► dropped with it, after librdkafka has let it go
//! ```
//!
//! Each client costs two threads and more, and some ten file descriptors: one that is left behind shows here before they run out.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// What a client of librdkafka is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// Creates topics and asks for their settings.
    Admin,
    /// Creates topics by asking for them.
    Asking,
    /// Is the member that owns a group.
    Owner,
    /// Asks which topics there are.
    Probe,
    /// Sends.
    Producer,
    /// Reads messages.
    Reader,
    /// Reads the record of a group's owner.
    Record,
}

impl Role {
    /// The word for it in metrics; the client's own name has it as well.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Asking => "asking",
            Self::Owner => "owner",
            Self::Probe => "probe",
            Self::Producer => "producer",
            Self::Reader => "reader",
            Self::Record => "record",
        }
    }
}

static OPEN: Mutex<BTreeMap<Role, u64>> = Mutex::new(BTreeMap::new());

/// One client; dropped after it.
#[derive(Debug)]
pub(super) struct Open(Role);

impl Open {
    pub(super) fn new(role: Role) -> Self {
        *lock().entry(role).or_default() += 1;
        Self(role)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(count) = lock().get_mut(&self.0) {
            *count -= 1;
        }
    }
}

/// How many clients of librdkafka this process has open, by what they are for: what there is none of any more is named with 0.
pub fn clients_open() -> Vec<(&'static str, u64)> {
    lock().iter().map(|(role, count)| (role.name(), *count)).collect()
}

fn lock() -> MutexGuard<'static, BTreeMap<Role, u64>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}
