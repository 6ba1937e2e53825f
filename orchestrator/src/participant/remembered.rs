//! What a participant keeps beside its own records, and under which keys. All of it lies in one space, so that one batch is atomic.
//!
//! ```text
//! r/<key>                        the service's own records
//! k/<idempotency key>            what was answered
//! e/<saga>/<run>/<step>          the mark of a step: did it take effect, was it undone
//! m/<source>\0<id>               events heard
//! o/<number>                     the outbox: events and dead letters not yet confirmed by the broker
//! p/<channel>\0<partition>       positions in a log: everything below was answered
//! x/<expires>/<key>              when a key may be forgotten, time first
//! ```

use crate::store::{Space, Store, StoreError, prefix_end};
use bytes::Bytes;
use dirigent_connectors::{Attributes, ChannelKind, Message};
use dirigent_model::{
    message::{Body, Format},
    time::Timestamp,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
};

/// Where everything lies.
pub(super) const SPACE: Space = Space::Ledger;

/// The layout of the values here; the first byte of each. A value of a later layout is refused, with the release to use.
const LAYOUT: u8 = 1;

/// What was answered to an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Remembered {
    pub answer: Answered,
    pub expires: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answered {
    /// Done, or rejected: this reply, whenever it is asked again.
    Reply { name: String, format: Format, body: Vec<u8>, rejected: bool },
    /// It failed and may have left an effect outside: the handler is asked again.
    InDoubt,
    /// It failed without effect. This attempt, and those before it, stay what they were answered: a saga that gave up on that
    /// word will not compensate. A later attempt is carried out.
    Failed { attempt: u32, format: Format, body: Vec<u8> },
    /// Its status was asked for before it came, and answered by *not done*: it is refused from then on.
    Sealed,
}

/// What became of a step, under the key that its command and its compensation share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    pub effect: Effect,
    pub expires: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Effect {
    /// The command took effect.
    Took,
    /// The command failed and may have left an effect outside.
    InDoubt,
    /// The compensation was here, with or without anything to undo.
    Undone,
}

/// An outgoing message that waits for the broker.
#[derive(Debug, Serialize, Deserialize)]
struct Waiting {
    channel: String,
    work: bool,
    key: String,
    attributes: Vec<(String, String)>,
    others: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

pub(super) fn own_key(key: &[u8]) -> Vec<u8> {
    [b"r/", key].concat()
}

pub(super) fn answer_key(idempotency_key: &str) -> Vec<u8> {
    [b"k/", idempotency_key.as_bytes()].concat()
}

pub(super) fn mark_key(place: &str) -> Vec<u8> {
    [b"e/", place.as_bytes()].concat()
}

pub(super) fn heard_key(source: &str, id: &str) -> Vec<u8> {
    [b"m/", source.as_bytes(), b"\0", id.as_bytes()].concat()
}

pub(super) fn outbox_key(number: u64) -> Vec<u8> {
    [b"o/".as_slice(), &number.to_be_bytes()].concat()
}

pub(super) fn position_key(channel: &str, partition: u32) -> Vec<u8> {
    [b"p/", channel.as_bytes(), b"\0", &partition.to_be_bytes()].concat()
}

pub(super) fn expiry_key(expires: Timestamp, key: &[u8]) -> Vec<u8> {
    [b"x/", expires.0.to_be_bytes().as_slice(), key].concat()
}

/// The number behind a prefix of two bytes.
pub(super) fn number_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*key.get(2..)?.first_chunk()?))
}

/// Time and key of an entry of the expiry index.
pub(super) fn expiring(key: &[u8]) -> Option<(Timestamp, &[u8])> {
    let (time, key) = key.get(2..)?.split_first_chunk()?;
    Some((Timestamp(u64::from_be_bytes(*time)), key))
}

/// The bytes of a value.
pub(super) fn write<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![LAYOUT])
        .expect("values of our own are plain data and can be written")
}

/// Whether a later release wrote a value.
pub(super) fn is_newer(value: &[u8]) -> bool {
    value.first().is_some_and(|layout| *layout > LAYOUT)
}

/// A value from its bytes; one that makes no sense is damage of this record only.
pub(super) fn read<T: DeserializeOwned>(key: &[u8], bytes: &[u8]) -> Result<T, StoreError> {
    let damaged = || StoreError::Corrupt { space: SPACE, key: key.to_vec() };
    match bytes.split_first() {
        Some((&LAYOUT, value)) => postcard::from_bytes(value).map_err(|_| damaged()),
        Some((&layout, _)) if layout > LAYOUT => {
            Err(StoreError::NewerRecord { space: SPACE, key: key.to_vec(), layout, known: LAYOUT })
        }
        Some(_) | None => Err(damaged()),
    }
}

pub(super) fn write_message(message: &Message) -> Vec<u8> {
    let text = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    write(&Waiting {
        channel: message.channel.clone(),
        work: message.kind == ChannelKind::Work,
        key: message.key.clone(),
        attributes: message.attributes.iter().map(text).collect(),
        others: message.others.iter().map(|(name, value)| (name.clone(), value.to_vec())).collect(),
        body: message.body.to_vec(),
    })
}

pub(super) fn read_message(key: &[u8], bytes: &[u8]) -> Result<Message, StoreError> {
    let waiting: Waiting = read(key, bytes)?;
    Ok(Message {
        channel: waiting.channel,
        kind: if waiting.work { ChannelKind::Work } else { ChannelKind::Events },
        key: waiting.key,
        attributes: waiting.attributes.into_iter().collect::<Attributes>(),
        others: waiting
            .others
            .into_iter()
            .map(|(name, value)| (name, Bytes::from(value)))
            .collect(),
        body: Bytes::from(waiting.body),
    })
}

impl Answered {
    pub(super) fn reply(name: &str, body: &Body, rejected: bool) -> Self {
        let body_bytes = body.bytes.clone();
        Self::Reply { name: name.to_owned(), format: body.format, body: body_bytes, rejected }
    }
}

/// The changes of a batch on top of the store: what was changed is seen by what comes later in the batch.
pub(super) struct Batch<'a> {
    store: &'a dyn Store,
    /// What the store holds, as far as it was looked at before.
    seen: HashMap<Vec<u8>, Option<Vec<u8>>>,
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    bytes: usize,
}

impl<'a> Batch<'a> {
    pub(super) fn on(store: &'a dyn Store) -> Self {
        Self { store, seen: HashMap::new(), changes: BTreeMap::new(), bytes: 0 }
    }

    /// The store under the changes.
    pub(super) fn store(&self) -> &'a dyn Store {
        self.store
    }

    /// Looks at keys that will be asked for, all at once where the store can do that.
    pub(super) fn look_at(&mut self, keys: &[Vec<u8>]) -> Result<(), StoreError> {
        self.seen.extend(self.store.glance(SPACE, keys)?);
        Ok(())
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(changed) = self.changes.get(key) {
            return Ok(changed.clone());
        }
        match self.seen.get(key) {
            Some(seen) => Ok(seen.clone()),
            None => self.store.get(SPACE, key),
        }
    }

    pub(super) fn get_as<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        self.get(key)?.map(|bytes| read(key, &bytes)).transpose()
    }

    pub(super) fn set(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.bytes += key.len() + value.as_ref().map_or(0, Vec::len);
        self.changes.insert(key, value);
    }

    /// Bytes of all changes, those that were changed again included.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn into_changes(self) -> Vec<crate::store::Change> {
        let change = |(key, value)| crate::store::Change { space: SPACE, key, value };
        self.changes.into_iter().map(change).collect()
    }
}

/// Reads a participant's own records, for whoever wants to look at them.
#[derive(Clone, Copy)]
pub struct Records<'a>(&'a dyn Store);

/// Records read from the store at once: a page fits the memory whatever the records are.
const PAGE_RECORDS: usize = 1_000;

impl<'a> Records<'a> {
    /// The records in a participant's store.
    pub fn of(store: &'a dyn Store) -> Self {
        Self(store)
    }

    /// One record.
    ///
    /// # Errors
    /// What the store says.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.get(SPACE, &own_key(key))
    }

    /// Hands every record whose key begins with `prefix` to `take`, in the order of the keys.
    ///
    /// # Errors
    /// What the store says; a damaged record is an error too.
    pub fn each(
        &self,
        prefix: &[u8],
        mut take: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), StoreError> {
        each(self.0, &own_key(prefix), |key, value| {
            take(&key[own_key(b"").len()..], value);
            Ok(())
        })
    }
}

/// Every record that begins with a prefix, page by page.
pub(super) fn each(
    store: &dyn Store,
    prefix: &[u8],
    mut take: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let end = prefix_end(prefix);
    let mut from = prefix.to_vec();
    loop {
        let range = (Bound::Included(from.as_slice()), end.as_ref().map(Vec::as_slice));
        let page = store.scan(SPACE, range, PAGE_RECORDS)?;
        if let Some(key) = page.damaged.into_iter().next() {
            return Err(StoreError::Corrupt { space: SPACE, key });
        }
        for (key, value) in &page.records {
            take(key, value)?;
        }
        match page.next {
            Some(next) => from = next,
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_as_it_was_written() {
        let kept = Remembered {
            answer: Answered::Reply {
                name: "StockReserved".into(),
                format: Format::Json,
                body: b"{}".to_vec(),
                rejected: false,
            },
            expires: Timestamp(5),
        };
        // Stores of released versions hold these bytes: they never change without a new layout.
        let sample = b"\x01\x00\x0dStockReserved\x00\x02{}\x00\x05";
        assert_eq!(write(&kept), sample);
        assert_eq!(read::<Remembered>(b"k/1", sample).unwrap(), kept);
        let mark = Mark { effect: Effect::Undone, expires: Timestamp(300) };
        assert_eq!(write(&mark), b"\x01\x02\xac\x02");
        let later = read::<Mark>(b"e/1", b"\x02\x02\x05").unwrap_err();
        assert!(later.to_string().contains("the release that wrote it"), "{later}");
        assert!(later.is_of_one_record());
        assert!(matches!(read::<Mark>(b"e/1", b"\x00\x02\x05"), Err(StoreError::Corrupt { .. })));
        assert!(matches!(read::<Mark>(b"e/1", b""), Err(StoreError::Corrupt { .. })));
    }

    #[test]
    fn the_forms_of_a_participants_records_are_the_kept_ones() {
        let reply = |rejected| Answered::Reply {
            name: "StockReserved".into(),
            format: Format::Avro,
            body: b"\0\x01".to_vec(),
            rejected,
        };
        let failed = Answered::Failed { attempt: 300, format: Format::Json, body: b"{}".to_vec() };
        let expires = Timestamp(1_767_225_600_000);
        let answers = [reply(false), reply(true), Answered::InDoubt, failed, Answered::Sealed];
        for (number, answer) in answers.into_iter().enumerate() {
            let remembered = Remembered { answer, expires };
            let name = format!("participant-answer-{number}");
            let kept = crate::kept_forms::kept(&name, &write(&remembered));
            assert_eq!(read::<Remembered>(b"k/1", &kept).unwrap(), remembered);
        }
        for (number, effect) in
            [Effect::Took, Effect::InDoubt, Effect::Undone].into_iter().enumerate()
        {
            let mark = Mark { effect, expires };
            let name = format!("participant-mark-{number}");
            let kept = crate::kept_forms::kept(&name, &write(&mark));
            assert_eq!(read::<Mark>(b"e/1", &kept).unwrap(), mark);
        }
        let message = Message {
            channel: "c".into(),
            kind: ChannelKind::Events,
            key: "7".into(),
            attributes: Attributes::new().with("id", "a").with("type", "b"),
            others: vec![("h".into(), Bytes::from_static(b"\xff"))],
            body: Bytes::from_static(b"{}"),
        };
        let kept = crate::kept_forms::kept("participant-message", &write_message(&message));
        assert_eq!(read_message(b"o/", &kept).unwrap(), message);
        let kept = crate::kept_forms::kept("participant-position", &write(&70_000_u64));
        assert_eq!(read::<u64>(b"p/", &kept).unwrap(), 70_000);
        let keys = [
            own_key(b"stock"),
            answer_key("key"),
            mark_key("saga/1/step"),
            heard_key("source", "id"),
            outbox_key(300),
            position_key("c", 4),
            expiry_key(expires, b"k/key"),
        ];
        let kept = crate::kept_forms::kept("participant-keys", &keys.join(&b'\n'));
        assert_eq!(number_of(&keys[4]), Some(300));
        assert_eq!(expiring(&keys[6]), Some((expires, &b"k/key"[..])));
        assert!(kept.ends_with(b"k/key"));
    }

    #[test]
    fn a_message_waits_unchanged_in_the_outbox() {
        let message = Message {
            channel: "c".into(),
            kind: ChannelKind::Events,
            key: "7".into(),
            attributes: Attributes::new().with("id", "a").with("type", "b"),
            others: vec![("h".into(), Bytes::from_static(b"\xff"))],
            body: Bytes::from_static(b"{}"),
        };
        assert_eq!(read_message(b"o/", &write_message(&message)).unwrap(), message);
    }
}
