//! Which commands wait in a relay, told without looking through all that wait.
//!
//! ```text
//! few wait ─► may be here: look through them · many wait ─► noted once, then as they come ─► is not here · may be here
//! ```
//!
//! What goes in: the commands that wait when one is first asked for, and those that come after. What comes out: whether one may be here.
//! What must be true: of one that is here it is never said that it is not. It may be said of one that has left; then somebody looks in vain.

use super::departures::Numbered;
use crate::destinations::Key;
use rustc_hash::FxHashSet;

/// With fewer messages than these they are looked through instead.
pub(super) const NOTED_MIN: usize = 256;

/// The commands that may be here, once they were asked for.
#[derive(Default)]
pub(super) struct Present(Option<Noted>);

struct Noted {
    keys: FxHashSet<Key>,
    /// With more keys than these most have left, and they are noted anew.
    keys_max: usize,
}

impl Present {
    /// Whether a command may be among so many messages, all of which `messages` gives.
    pub(super) fn may_have<'a, I: Iterator<Item = &'a Numbered>>(
        &mut self,
        key: &Key,
        count: usize,
        messages: impl FnOnce() -> I,
    ) -> bool {
        if count < NOTED_MIN {
            self.0 = None;
            return count > 0;
        }
        let noted = self.0.get_or_insert_with(|| Noted {
            keys: messages().filter_map(key_of).collect(),
            keys_max: 2 * count,
        });
        noted.keys.contains(key)
    }

    /// Messages that are here from now on.
    pub(super) fn come<'a>(&mut self, messages: impl Iterator<Item = &'a Numbered>) {
        let Some(noted) = &mut self.0 else { return };
        noted.keys.extend(messages.filter_map(key_of));
        if noted.keys.len() > noted.keys_max {
            self.0 = None;
        }
    }
}

fn key_of((_, outgoing): &Numbered) -> Option<Key> {
    outgoing.sender.map(|sender| sender.key())
}
