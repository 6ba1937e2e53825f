//! What an answer reads from the disk: beside the runtime, one answer at a time, and for so long.
//!
//! What goes in: work that may wait for a disk. What comes out: its outcome, or nothing where it takes too long. What must be true: a disk that is
//! silent costs one thread, whoever asks and however often, and no task of the runtime waits in it.

use std::{sync::Arc, time::Duration};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

/// How long an answer waits for what it reads. Probes give up after a second, as a rule.
const READ_WITHIN: Duration = Duration::from_millis(500);

/// Whose turn it is to read.
#[derive(Debug, Clone)]
pub(super) struct Reads(Arc<Semaphore>);

impl Reads {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }

    /// Does the work, unless that would take too long. What was begun keeps its turn until it has ended.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let reading = async {
            let turn = Arc::clone(&self.0).acquire_owned().await.ok()?;
            let read = spawn_blocking(move || {
                let read = work();
                drop(turn);
                read
            });
            read.await.ok()
        };
        timeout(READ_WITHIN, reading).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test(start_paused = true)]
    async fn who_reads_from_a_silent_disk_gets_nothing_and_so_does_the_next_one_until_it_answers() {
        let reads = Reads::new();
        assert_eq!(reads.read(|| 1).await, Some(1));
        let (answers, silent) = mpsc::channel::<()>();
        let long = reads.clone();
        let long = tokio::spawn(async move { long.read(move || silent.recv()).await });
        while reads.0.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        // Time runs by itself only where nothing is read: a thread beside the runtime holds it.
        tokio::time::advance(READ_WITHIN).await;
        assert_eq!(long.await.expect("it ends"), None);
        let next = tokio::spawn({
            let reads = reads.clone();
            async move { reads.read(|| 2).await }
        });
        tokio::task::yield_now().await;
        tokio::time::advance(READ_WITHIN).await;
        assert_eq!(next.await.expect("it ends"), None);
        answers.send(()).expect("it still waits");
        let turn = reads.0.acquire().await.expect("it is never closed");
        drop(turn);
        assert_eq!(reads.read(|| 3).await, Some(3));
    }
}
