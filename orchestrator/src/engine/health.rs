//! What is amiss with an engine, as of now: for readiness, for operators, and for its own threads.
//!
//! Whoever finds something raises it; it stands until the same finder clears it. Each change is logged once.

use serde::{Deserialize, Serialize};
use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

/// Something that keeps an engine from taking work in. An engine without one is ready as far as itself is concerned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "concern", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Concern {
    /// Little room is left on the disk: nothing is taken in until there is more. What was begun goes on.
    DiskLow {
        /// Bytes that were free when it was last looked at.
        free_bytes: u64,
        /// Bytes that have to be free.
        wanted_bytes: u64,
    },
    /// The journal waits for room for its next file: nothing is decided until there is.
    DiskFull {
        /// How long that file is to be.
        wanted_bytes: u64,
    },
    /// The disk has not answered for a while: nothing is settled and nothing leaves until it does.
    DiskSilent {
        /// What it was asked to do.
        doing: String,
        /// For how long.
        seconds: u64,
    },
    /// Brokers confirm too little: nothing is decided until they do.
    OutboxFull {
        /// Messages that wait to be confirmed.
        messages: usize,
    },
    /// The engine has to end.
    Failed {
        /// Why.
        cause: String,
    },
}

impl fmt::Display for Concern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DiskLow { free_bytes, wanted_bytes } => write!(
                f,
                "{free_bytes} bytes are free on the disk and {wanted_bytes} are wanted; nothing is taken in until there is room"
            ),
            Self::DiskFull { wanted_bytes } => write!(
                f,
                "the disk has no room for the journal's next file of {wanted_bytes} bytes; it goes on once there is"
            ),
            Self::DiskSilent { doing, seconds } => {
                write!(f, "the disk has not answered for {seconds} s while {doing}")
            }
            Self::OutboxFull { messages } => {
                write!(f, "{messages} messages wait for the brokers to confirm them")
            }
            Self::Failed { cause } => write!(f, "the engine has to end: {cause}"),
        }
    }
}

/// All that is amiss.
#[derive(Debug, Default)]
pub(crate) struct Health {
    concerns: Mutex<Vec<Concern>>,
}

impl Health {
    /// Says what is amiss, in place of an earlier word of the same kind.
    pub(crate) fn raise(&self, concern: Concern) {
        let mut concerns = self.concerns.lock().unwrap_or_else(PoisonError::into_inner);
        let same = std::mem::discriminant(&concern);
        match concerns.iter_mut().find(|known| std::mem::discriminant(*known) == same) {
            Some(known) => *known = concern,
            None => {
                tracing::warn!(%concern, "The engine is held up.");
                concerns.push(concern);
            }
        }
    }

    /// Nothing of this kind is amiss any more.
    pub(crate) fn clear(&self, over: impl Fn(&Concern) -> bool) {
        let mut concerns = self.concerns.lock().unwrap_or_else(PoisonError::into_inner);
        concerns.retain(|concern| {
            let over = over(concern);
            if over {
                tracing::info!(%concern, "The engine is no longer held up by this.");
            }
            !over
        });
    }

    pub(crate) fn concerns(&self) -> Vec<Concern> {
        self.concerns.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_concern_stands_in_its_latest_words_until_it_is_cleared() {
        let health = Health::default();
        health.raise(Concern::DiskLow { free_bytes: 9, wanted_bytes: 10 });
        health.raise(Concern::DiskFull { wanted_bytes: 3 });
        health.raise(Concern::DiskLow { free_bytes: 7, wanted_bytes: 10 });
        let low = Concern::DiskLow { free_bytes: 7, wanted_bytes: 10 };
        assert_eq!(health.concerns(), [low.clone(), Concern::DiskFull { wanted_bytes: 3 }]);
        health.clear(|concern| matches!(concern, Concern::DiskFull { .. }));
        assert_eq!(health.concerns(), [low]);
    }
}
