//! One opening of a group at a time: whoever gives up on one and tries again waits until the former has ended.
//!
//! An opening that nobody waits for any more goes on until its call of librdkafka comes back. Two of one group would take its fence
//! from each other, and many would pile up clients while the brokers do not answer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex as Lock, PoisonError, Weak},
};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// The doors that are in use, by group.
#[derive(Debug, Default)]
pub(super) struct Doors(Lock<HashMap<String, Weak<Mutex<()>>>>);

/// Held while a group is opened.
pub(super) type Door = OwnedMutexGuard<()>;

impl Doors {
    /// Waits for the openings of this group that came before.
    pub(super) async fn pass(&self, group: &str) -> Door {
        let door = {
            let mut doors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            doors.retain(|_, door| door.strong_count() > 0);
            match doors.get(group).and_then(Weak::upgrade) {
                Some(door) => door,
                None => {
                    let door = Arc::new(Mutex::new(()));
                    doors.insert(group.to_owned(), Arc::downgrade(&door));
                    door
                }
            }
        };
        door.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn openings_of_one_group_follow_each_other_and_hold_up_no_other_group() {
        let doors = Doors::default();
        let first = doors.pass("one").await;
        let mut second = Box::pin(doors.pass("one"));
        assert!(second.as_mut().now_or_never().is_none());
        let other = doors.pass("other").await;
        drop(first);
        let second = second.await;
        drop((second, other));
        drop(doors.pass("one").await);
        assert_eq!(doors.0.lock().expect("whole").len(), 1, "doors nobody uses are forgotten");
    }
}
