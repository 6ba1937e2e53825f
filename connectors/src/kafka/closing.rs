//! Waits, when a process ends, until its sources have left their groups: otherwise the next start waits for a session to time out.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

/// How long leaving may take. Longer, and the brokers find out by themselves.
const LEAVE_WAIT_MAX: Duration = Duration::from_secs(3);

/// Counts the reader threads that have not ended.
#[derive(Debug, Default)]
pub(super) struct Closing {
    open: Mutex<usize>,
    ended: Condvar,
}

/// One reader thread; dropped when it ends.
pub(super) struct Open(Arc<Closing>);

impl Closing {
    pub(super) fn opened(self: &Arc<Self>) -> Open {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Open(self.clone())
    }

    /// Blocks for [`LEAVE_WAIT_MAX`] at the most.
    pub(super) fn wait(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.ended.wait_timeout_while(open, LEAVE_WAIT_MAX, |open| *open > 0);
        let (open, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if *open > 0 {
            tracing::debug!(open = *open, "Some sources did not leave their groups in time.");
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        *self.0.open.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.ended.notify_all();
    }
}
