//! The witness: notes each effect in the batch that keeps its answer, so that a judge knows what truly took place.
//!
//! A record of the service's own, by saga, run, step and leg: how often, and the place of the last time among all effects of a simulation. What was
//! rolled back with its turn, or lost with its store, leaves no note, as it left no effect.

use super::{
    asked::Asked,
    remembered::{Batch, Records, own_key},
};
use crate::store::{Store, StoreError};
use dirigent_model::instance::Leg;
use std::cell::Cell;

thread_local! {
    static EFFECTS: Cell<u64> = const { Cell::new(0) };
}

/// A run begins on this thread: places count from its first effect.
pub(crate) fn begins() {
    EFFECTS.set(0);
}

/// Where notes lie among a service's own records.
const PREFIX: &str = "witness/";

/// An effect as it was noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Witness {
    pub saga: String,
    pub run: u64,
    pub step: String,
    /// It took another one back.
    pub undoes: bool,
    /// How often it took place.
    pub times: u64,
    /// The place of the last time among all effects.
    pub order: u64,
}

/// Notes an effect that is about to be kept.
pub(super) fn note(batch: &mut Batch<'_>, asked: &Asked) -> Result<(), StoreError> {
    let Asked { saga, run, step, leg, .. } = asked;
    let key = own_key(format!("{PREFIX}{saga}/{run}/{leg}/{step}", leg = leg.as_str()).as_bytes());
    let times = batch.get(&key)?.as_deref().map_or(0, |value| read(value).0) + 1;
    let order = EFFECTS.get() + 1;
    EFFECTS.set(order);
    batch.set(key, Some(format!("{times} {order}").into_bytes()));
    Ok(())
}

fn read(value: &[u8]) -> (u64, u64) {
    let text = String::from_utf8_lossy(value);
    let mut numbers = text.split(' ').map(|number| number.parse().unwrap_or_default());
    (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default())
}

/// All effects that a participant's store knows of.
pub(crate) fn witnessed(store: &dyn Store) -> Vec<Witness> {
    let mut found = Vec::new();
    let take = |key: &[u8], value: &[u8]| {
        let key = String::from_utf8_lossy(key);
        let mut parts = key.trim_start_matches(PREFIX).splitn(4, '/');
        let (Some(saga), Some(run), Some(leg), Some(step)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return;
        };
        let (times, order) = read(value);
        let undoes = leg == Leg::Compensate.as_str();
        let (saga, run) = (saga.into(), run.parse().unwrap_or_default());
        found.push(Witness { saga, run, step: step.into(), undoes, times, order });
    };
    if let Err(error) = Records::of(store).each(PREFIX.as_bytes(), take) {
        unreachable!("a store in memory failed: {error}");
    }
    found
}
