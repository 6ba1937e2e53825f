//! Waits, when a process ends, until its sources have left their groups: otherwise the next start waits for a session to time out.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How long leaving may take. Longer, and the brokers find out by themselves.
const LEAVE_WAIT_MAX: Duration = Duration::from_secs(3);

/// Counts the reader threads that have not ended, and the sources that still want theirs.
#[derive(Debug, Default)]
pub(super) struct Closing {
    counts: Mutex<Counts>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Counts {
    threads: usize,
    sources: usize,
}

/// One reader thread; dropped when it ends.
pub(super) struct ThreadRuns(Arc<Closing>);

/// One source; dropped with it.
pub(super) struct SourceLives(Arc<Closing>);

impl Closing {
    pub(super) fn thread(self: &Arc<Self>) -> ThreadRuns {
        self.lock().threads += 1;
        ThreadRuns(self.clone())
    }

    pub(super) fn source(self: &Arc<Self>) -> SourceLives {
        self.lock().sources += 1;
        SourceLives(self.clone())
    }

    /// Blocks for [`LEAVE_WAIT_MAX`] at the most. Does not wait for sources that were not dropped.
    pub(super) fn wait(&self) {
        let leaving = |counts: &mut Counts| counts.threads > counts.sources;
        let waited = self.ended.wait_timeout_while(self.lock(), LEAVE_WAIT_MAX, leaving);
        let (mut counts, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if leaving(&mut counts) {
            tracing::debug!("Some sources did not leave their groups in time.");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ThreadRuns {
    fn drop(&mut self) {
        self.0.lock().threads -= 1;
        self.0.ended.notify_all();
    }
}

impl Drop for SourceLives {
    fn drop(&mut self) {
        self.0.lock().sources -= 1;
    }
}
