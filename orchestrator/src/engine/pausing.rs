//! Destinations that an operator paused: kept in the store, so that a restart does not let go what a person stopped.

use super::Shared;
use crate::{
    destinations::{DestinationView, Paused},
    store::{Change, KeyRange, Space, Store, StoreError, prefix_end},
};
use std::{ops::Bound, sync::Arc};

/// Under which keys of the store's single records they lie.
pub(super) const PREFIX: &str = "paused/";

/// The stored form this release writes: this byte, then JSON.
const FORMAT: u8 = 1;

/// Why a destination could not be paused or resumed.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// No such destination.
    #[error("there is no destination `{channel}`; there are: {known}")]
    NoSuchDestination {
        /// What was named.
        channel: String,
        /// What there is.
        known: String,
    },
    /// It is paused already.
    #[error("`{channel}` was paused by {by} at {since} already: {why}")]
    PausedAlready {
        /// Which.
        channel: String,
        /// Who.
        by: String,
        /// Since when.
        since: dirigent_model::time::Timestamp,
        /// Why.
        why: String,
    },
    /// It is not paused.
    #[error("`{channel}` is not paused; its state is {state}")]
    NotPaused {
        /// Which.
        channel: String,
        /// How it stands.
        state: String,
    },
    /// It can't be kept.
    #[error("keeping that `{channel}` is paused, or is no longer; nothing was changed")]
    Store {
        /// Which.
        channel: String,
        /// Why not.
        #[source]
        source: StoreError,
    },
}

/// Pauses a destination, or resumes it with `None`, once that is durable. Blocks.
pub(super) fn pause(
    shared: &Shared,
    channel: &str,
    paused: Option<Paused>,
) -> Result<DestinationView, PauseError> {
    let Some(destination) = shared.destinations.of(channel) else {
        let known: Vec<&str> = shared.destinations.channels().collect();
        let (channel, known) = (channel.to_owned(), known.join(", "));
        return Err(PauseError::NoSuchDestination { channel, known });
    };
    let now = shared.clock.now();
    let view = destination.view(now);
    let channel = channel.to_owned();
    match (&paused, view.paused) {
        (Some(_), Some(Paused { by, why, since })) => {
            return Err(PauseError::PausedAlready { channel, by, why, since });
        }
        (None, None) => return Err(PauseError::NotPaused { channel, state: view.state }),
        (Some(_), None) | (None, Some(_)) => {}
    }
    keep(&**shared.table.store(), &channel, paused.as_ref())
        .map_err(|source| PauseError::Store { channel: channel.clone(), source })?;
    if let Some(Paused { by, why, .. }) = &paused {
        tracing::warn!(channel, by, why, "A destination is paused: its commands are held.");
    }
    destination.pause(paused);
    Ok(destination.view(now))
}

/// Whether a stored pause can be read.
pub(super) fn is_readable(value: &[u8]) -> bool {
    let json = value.strip_prefix(&[FORMAT]);
    json.is_some_and(|json| serde_json::from_slice::<Paused>(json).is_ok())
}

fn keep(store: &dyn Store, channel: &str, paused: Option<&Paused>) -> Result<(), StoreError> {
    let key = format!("{PREFIX}{channel}");
    let change = match paused {
        Some(paused) => {
            let mut value = vec![FORMAT];
            value.extend(serde_json::to_vec(paused).expect("texts and a number are JSON"));
            Change::put(Space::Meta, key, value)
        }
        None => Change::remove(Space::Meta, key),
    };
    store.write(&[change])?;
    store.sync()
}

/// Pauses again what was paused when the process ended.
pub(super) fn recall(shared: &Arc<Shared>) -> Result<(), StoreError> {
    let store = shared.table.store();
    let end = prefix_end(PREFIX.as_bytes());
    let range: KeyRange<'_> = (Bound::Included(PREFIX.as_bytes()), end.as_ref().map(Vec::as_slice));
    let page = store.scan(Space::Meta, range, usize::MAX)?;
    let damaged = page.damaged.into_iter().map(|key| (key, Vec::new()));
    for (key, value) in page.records.into_iter().chain(damaged) {
        let channel = String::from_utf8_lossy(&key[PREFIX.len()..]).into_owned();
        let read = value.strip_prefix(&[FORMAT]).map(serde_json::from_slice);
        // Whoever paused it meant it to stay so, whatever can still be read of the reason.
        let paused = read.and_then(Result::ok).unwrap_or_else(|| Paused {
            by: "somebody".into(),
            why: "the record of it can't be read".into(),
            since: shared.clock.now(),
        });
        match shared.destinations.of(&channel) {
            Some(destination) => {
                let Paused { by, why, .. } = &paused;
                tracing::warn!(channel, by, why, "A destination is still paused.");
                destination.pause(Some(paused));
            }
            None => tracing::warn!(
                channel,
                "A destination is paused that no saga here sends commands to; it stays so for when one does."
            ),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;
    use dirigent_model::time::Timestamp;

    #[test]
    fn the_form_of_a_pause_is_the_kept_one() {
        let (by, why) = ("ann".to_owned(), "they move house".to_owned());
        let paused = Paused { by, why, since: Timestamp(1_767_225_600_000) };
        let store = MemoryStore::new();
        keep(&store, "inventory", Some(&paused)).unwrap();
        let value = store.get(Space::Meta, b"paused/inventory").unwrap().unwrap();
        let kept = crate::kept_forms::kept("pause", &value);
        assert!(is_readable(&kept));
        let read: Paused = serde_json::from_slice(&kept[1..]).unwrap();
        assert_eq!(read, paused);
        let later = [&[FORMAT + 1], &kept[1..]].concat();
        assert!(!is_readable(&later), "it stays paused, and nobody is told why");
    }
}
