//! The way out of a lane, which its relay shares with the destinations behind it.
//!
//! What goes in: that something may leave which waited (a destination). What comes out: the relay is woken. What must be true: whoever wakes
//! it while it is busy is not forgotten.

use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(crate) struct WayOut(Notify);

impl WayOut {
    /// Something may leave that waited.
    pub(super) fn wake(&self) {
        self.0.notify_one();
    }

    /// Until something may leave that waited.
    pub(crate) async fn woken(&self) {
        self.0.notified().await;
    }
}
