//! What a fuzzer asks of what a participant reads: what commands and events say of themselves, and its records.
//!
//! What must be true: what can be read is written again as the same value, and a plan of the check mends what it says that it mends.

use super::{
    asked::{Asked, Heard},
    fsck::{fsck, repair},
    remembered::{Mark, Remembered, read, read_message, write, write_message},
};
use crate::store::Store;
use dirigent_connectors::Message;
use dirigent_model::time::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

/// Plans that are made and applied until nothing is left to be mended: what one sets aside may leave something for the next, and no more.
const PLANS_MAX: usize = 8;

/// Whether a message can be answered as a command, or be told from others as an event.
pub(crate) fn is_heard(message: &Message) -> bool {
    let command = Asked::read(message);
    if let Ok(asked) = &command {
        assert!(asked.place().contains(&asked.step));
    }
    command.is_ok() | Heard::read(message).is_ok()
}

/// Whether bytes are a record of a participant, of whatever kind.
pub(crate) fn is_record(value: &[u8]) -> bool {
    let message = read_message(b"o/", value).ok();
    if let Some(message) = &message {
        assert_eq!(read_message(b"o/", &write_message(message)).ok().as_ref(), Some(message));
    }
    is_again::<Remembered>(value)
        | is_again::<Mark>(value)
        | is_again::<Timestamp>(value)
        | is_again::<u64>(value)
        | message.is_some()
}

fn is_again<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &[u8]) -> bool {
    let Ok(known) = read::<T>(b"", value) else { return false };
    assert_eq!(read::<T>(b"", &write(&known)).ok().as_ref(), Some(&known));
    true
}

/// Checks a store and mends it, until nothing is left to be mended.
pub(crate) fn rests(store: &dyn Store) {
    let mut found = fsck(store).expect("a store in memory does not fail");
    let mut plans = 0;
    while !found.plan().repairs.is_empty() {
        plans += 1;
        assert!(plans <= PLANS_MAX, "plans come to an end: {:?}", found.findings);
        found = repair(store, &found.plan(), &mut |_, _, _| Ok(()))
            .expect("a plan can be applied to the state that it was made for");
    }
}
