//! Lanes: one for each connector. What people call it, and on which channel replies come back by it.
//!
//! Accounts and positions go by channel, so no two lanes read the same one: replies by the first come on `<app>.replies`, by any
//! other one on a channel that says its name, too. A lane is known by its place. Started with the connectors in another order,
//! messages of one would leave by the other, and positions of one would be taken for the other's: that is refused.

use super::shard::Fatal;
use crate::store::{Change, Space, Store};

/// Under which key of the store's single records the names lie.
pub(super) const KEY: &[u8] = b"connectors";

/// The stored form this release writes: this byte, then the names in postcard.
const FORMAT: u8 = 1;

/// What people call the lanes: by their connectors, with a number where two have the same name.
pub(crate) fn names<'a>(connectors: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut known: Vec<&str> = Vec::new();
    let names = connectors.into_iter().map(|name| {
        known.push(name);
        match known.iter().filter(|known| **known == name).count() {
            1 => name.to_owned(),
            nth => format!("{name}-{nth}"),
        }
    });
    names.collect()
}

/// The channel that replies to commands come on that left by a lane, of an application whose replies come on `replies`.
pub(crate) fn replies_by(replies: &str, lane: usize, name: &str) -> String {
    if lane == 0 { replies.to_owned() } else { format!("{replies}.{name}") }
}

/// Refuses names that are in another order than at the last start. Writes nothing.
pub(super) fn compare(store: &dyn Store, names: &[String]) -> Result<(), Fatal> {
    known(store, names).map(|_| ())
}

/// Keeps the names for the next start. Only once this one has come about: the order of one that came to nothing binds nobody.
pub(super) fn keep(store: &dyn Store, names: &[String]) -> Result<(), Fatal> {
    if !known(store, names)? {
        let value = postcard::to_extend(names, vec![FORMAT])?;
        store.write(&[Change::put(Space::Meta, KEY, value)])?;
        store.sync()?;
    }
    Ok(())
}

/// Whether these are the names of the last start.
fn known(store: &dyn Store, names: &[String]) -> Result<bool, Fatal> {
    let known = store.get(Space::Meta, KEY)?;
    let before = known.as_deref().map(|known| {
        read(known).ok_or("reading the names of the connectors of the last start; restore the data folder from a backup")
    });
    let before = before.transpose()?.unwrap_or_default();
    let moved = before
        .iter()
        .zip(names)
        .any(|(was, is)| was != is && (names.contains(was) || before.contains(is)));
    if moved {
        return Err(format!(
            "the connectors of the last start were {}, in this order; now they are {}: messages and positions of one would be taken for those of another; start with them in the same order, and add new ones behind them",
            before.join(", "),
            names.join(", ")
        )
        .into());
    }
    Ok(before == names)
}

pub(super) fn read(value: &[u8]) -> Option<Vec<String>> {
    value.strip_prefix(&[FORMAT]).and_then(|names| postcard::from_bytes(names).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    #[test]
    fn each_lane_has_a_name_and_a_channel_of_replies_of_its_own() {
        let names = names(["kafka", "rabbitmq", "kafka"]);
        assert_eq!(names, ["kafka", "rabbitmq", "kafka-2"]);
        let replies = |lane: usize| replies_by("shop.replies", lane, &names[lane]);
        assert_eq!(
            [0, 1, 2].map(replies),
            ["shop.replies", "shop.replies.rabbitmq", "shop.replies.kafka-2"]
        );
    }

    #[test]
    fn comparing_keeps_nothing_so_that_a_start_that_comes_to_nothing_binds_nobody() {
        let store = MemoryStore::default();
        compare(&store, &names(["rabbitmq", "kafka"])).unwrap();
        keep(&store, &names(["kafka", "rabbitmq"])).unwrap();
        compare(&store, &names(["rabbitmq", "kafka"])).unwrap_err();
    }

    #[test]
    fn connectors_in_another_order_are_refused_and_others_may_follow_or_take_a_place() {
        let store = MemoryStore::default();
        let start = |connectors: &[&str]| {
            let outcome = keep(&store, &names(connectors.iter().copied()));
            outcome.map_err(|error| error.to_string())
        };
        start(&["kafka"]).unwrap();
        start(&["kafka", "rabbitmq"]).unwrap();
        start(&["kafka", "rabbitmq"]).unwrap();
        let error = start(&["rabbitmq", "kafka"]).unwrap_err();
        assert!(error.contains("were kafka, rabbitmq, in this order"), "{error}");
        start(&["memory", "kafka", "rabbitmq"]).unwrap_err();
        start(&["rabbitmq"]).unwrap_err();
        start(&["kafka", "memory"]).unwrap();
        start(&["kafka"]).unwrap();
        store.write(&[Change::put(Space::Meta, KEY, [FORMAT + 1])]).unwrap();
        assert!(start(&["kafka"]).unwrap_err().contains("names of the connectors"));
    }
}
