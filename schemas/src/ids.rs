//! Ids of a schema registry and what they stand for: all that [`bodies`](super::bodies) asks, and nobody waits for.
//!
//! Filled by [`registry`](super::registry) before a message is sent or handed on.

use crate::known::Known;
use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

/// Ids a process keeps. As many as it keeps schemas: several ids may stand for one.
pub const IDS_MAX: usize = 4_096;

/// Ids that the registry does not have, remembered at once. Whoever sends more of them has them asked for again.
pub const MISSING_MAX: usize = 1_024;

/// How long the registry is not asked again for an id that it did not have. Short enough for a registry that was
/// behind its leader, long enough that a stream of such messages does not become a stream of questions.
pub const MISSING_FOR: Duration = Duration::from_secs(60);

/// What an id stands for.
#[derive(Clone)]
pub(crate) enum Entry {
    Known(&'static Known),
    /// The registry has it, and bodies written with it can't be read here; why.
    Unusable(Arc<str>),
    /// The registry did not have it then.
    Missing(Instant),
}

/// Two schemas for one id.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Changed;

#[derive(Default)]
pub(crate) struct Ids(RwLock<Tables>);

#[derive(Default)]
struct Tables {
    entries: HashMap<u32, Entry>,
    missing: usize,
    /// By where the schema lies: each text is kept once.
    of: HashMap<usize, u32>,
}

impl Ids {
    pub(crate) fn get(&self, id: u32) -> Option<Entry> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).entries.get(&id).cloned()
    }

    /// All that can be read.
    pub(crate) fn known(&self) -> Vec<(u32, &'static Known)> {
        let tables = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let known = tables.entries.iter().filter_map(|(id, entry)| match entry {
            Entry::Known(known) => Some((*id, *known)),
            Entry::Unusable(_) | Entry::Missing(_) => None,
        });
        known.collect()
    }

    /// The id that bodies of this schema are written with.
    pub(crate) fn of(&self, own: &'static Known) -> Option<u32> {
        let tables = self.0.read().unwrap_or_else(PoisonError::into_inner);
        tables.of.get(&std::ptr::from_ref(own).addr()).copied()
    }

    /// Whether the registry has to be asked before a body with this id is read.
    pub(crate) fn wants(&self, id: u32, now: Instant) -> bool {
        match self.get(id) {
            Some(Entry::Known(_) | Entry::Unusable(_)) => false,
            Some(Entry::Missing(since)) => now.duration_since(since) >= MISSING_FOR,
            None => true,
        }
    }

    /// Whether there is room for another id.
    pub(crate) fn is_full(&self) -> bool {
        let tables = self.0.read().unwrap_or_else(PoisonError::into_inner);
        tables.entries.len() - tables.missing >= IDS_MAX
    }

    /// Reads bodies with this id from now on.
    pub(crate) fn put(&self, id: u32, known: &'static Known) -> Result<(), Changed> {
        let mut tables = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(Entry::Known(before)) = tables.entries.get(&id)
            && before.fingerprint != known.fingerprint
        {
            return Err(Changed);
        }
        tables.set(id, Entry::Known(known));
        Ok(())
    }

    /// Writes bodies of this schema with this id from now on, and reads them.
    pub(crate) fn put_own(&self, id: u32, own: &'static Known) -> Result<(), Changed> {
        self.put(id, own)?;
        let mut tables = self.0.write().unwrap_or_else(PoisonError::into_inner);
        tables.of.insert(std::ptr::from_ref(own).addr(), id);
        Ok(())
    }

    pub(crate) fn put_unusable(&self, id: u32, why: &str) {
        let mut tables = self.0.write().unwrap_or_else(PoisonError::into_inner);
        tables.set(id, Entry::Unusable(why.into()));
    }

    pub(crate) fn put_missing(&self, id: u32, now: Instant) {
        let mut tables = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if tables.missing >= MISSING_MAX {
            tables.entries.retain(|_, entry| !matches!(entry, Entry::Missing(_)));
            tables.missing = 0;
        }
        tables.set(id, Entry::Missing(now));
    }
}

impl Tables {
    fn set(&mut self, id: u32, entry: Entry) {
        let is_missing = matches!(entry, Entry::Missing(_));
        let was_missing = matches!(self.entries.insert(id, entry), Some(Entry::Missing(_)));
        self.missing = self.missing + usize::from(is_missing) - usize::from(was_missing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::known::known;

    #[test]
    fn an_id_that_was_missing_is_asked_for_again_after_a_while() {
        let (ids, now) = (Ids::default(), Instant::now());
        assert!(ids.wants(7, now));
        ids.put_missing(7, now);
        assert!(!ids.wants(7, now + MISSING_FOR / 2));
        assert!(ids.wants(7, now + MISSING_FOR));
        ids.put(7, known(r#""long""#).unwrap()).unwrap();
        assert!(!ids.wants(7, now + MISSING_FOR));
    }

    #[test]
    fn missing_ids_never_fill_the_table() {
        let (ids, now) = (Ids::default(), Instant::now());
        ids.put(1, known(r#""long""#).unwrap()).unwrap();
        for id in 2..10_000 {
            ids.put_missing(id, now);
        }
        let tables = ids.0.read().unwrap();
        assert!(tables.missing <= MISSING_MAX && tables.entries.len() == tables.missing + 1);
        drop(tables);
        assert!(!ids.wants(1, now) && !ids.is_full());
    }

    #[test]
    fn an_id_never_changes_what_it_stands_for() {
        let ids = Ids::default();
        ids.put(7, known(r#""long""#).unwrap()).unwrap();
        ids.put_own(7, known(r#"{"type":"long"}"#).unwrap()).unwrap();
        assert_eq!(ids.put(7, known(r#""string""#).unwrap()), Err(Changed));
    }
}
