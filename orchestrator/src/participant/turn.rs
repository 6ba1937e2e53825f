//! One turn: what a window of deliveries changes and what is answered. Decides only; nothing is written or sent here.
//!
//! In goes a window of deliveries; out comes one batch of the store, with what may be sent and settled once it is durable.
//! Commands are answered in `answer`, questions about them in `status`, events heard in `hear`; what all of them leave behind is
//! gathered here.

mod answer;
mod hear;
mod status;

use super::{
    Counts, Service,
    remembered::{
        Batch, Mark, Remembered, SPACE, each, expiring, number_of, outbox_key, position_key, read,
        read_message, write, write_message,
    },
    reply,
    traced::Place,
    tx::{CHANGES_BYTES_MAX, Kept},
};
use crate::{
    envelope::{self, DeadLetter},
    journal::Durability,
    store::{BATCH_BYTES_MAX, Change, Store, StoreError, prefix_end},
    telemetry::SpanFact,
};
use dirigent_connectors::{Delivery, Message, Position};
use dirigent_model::{
    message::{Body, CodecError},
    time::Timestamp,
};
use std::{collections::BTreeMap, ops::Bound, sync::Arc};

/// Bytes of changes after which no further delivery is taken into a batch: with what the next one may change at the most
/// it still is one batch of the store, all or nothing.
const BATCH_BYTES_FULL: usize = BATCH_BYTES_MAX / 2;

/// Records forgotten in one turn at the most. More than a turn remembers, so that forgetting keeps up.
const FORGET_MAX: usize = 1_024;

/// Does the turns of a participant, on a thread that may block.
pub(super) struct Worker {
    service: Arc<Service>,
    store: Arc<dyn Store>,
    outbox_next: u64,
    /// Of the outbox, and confirmed by the broker: removed with the next batch.
    confirmed: Vec<u64>,
    /// Everything below was answered: written with the next batch, so that a position never covers what may be unanswered.
    answered: BTreeMap<(String, u32), u64>,
    /// Nothing expires earlier.
    forget_from: Timestamp,
}

/// What is to be sent, and where it waits for its confirmation.
pub(super) struct Outgoing {
    pub message: Message,
    pub outbox: Option<u64>,
}

/// The outcome of a window. `changes` are made durable in one batch; only then may `out` be sent, in its order; only then are the
/// first `taken` deliveries settled. The rest of the window belongs to the next turn.
#[must_use]
pub(super) struct Turn {
    pub changes: Vec<Change>,
    pub out: Vec<Outgoing>,
    pub taken: usize,
    pub counts: Counts,
    /// To be noted once `changes` are durable.
    pub spans: Vec<SpanFact>,
}

/// A turn being made.
struct Making<'a> {
    batch: Batch<'a>,
    out: Vec<Outgoing>,
    outbox_next: u64,
    counts: Counts,
    spans: Vec<SpanFact>,
    now: Timestamp,
}

impl Worker {
    /// Takes up the work where the store says it was left.
    pub(super) fn new(service: Arc<Service>, store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let mut outbox_next = 0;
        each(&*store, b"o/", |key, _| {
            outbox_next = number_of(key).map_or(outbox_next, |number| number + 1);
            Ok(())
        })?;
        let (confirmed, answered) = (Vec::new(), BTreeMap::new());
        Ok(Self { service, store, outbox_next, confirmed, answered, forget_from: Timestamp(0) })
    }

    /// Where reading goes on.
    pub(super) fn positions(&self) -> Result<Vec<Position>, StoreError> {
        let mut positions = Vec::new();
        each(&*self.store, b"p/", |key, value| {
            let damaged = || StoreError::Corrupt { space: SPACE, key: key.to_vec() };
            let (name, partition) = key[2..].split_last_chunk::<4>().ok_or_else(damaged)?;
            let channel = name.strip_suffix(b"\0").and_then(|name| std::str::from_utf8(name).ok());
            positions.push(Position {
                channel: channel.ok_or_else(damaged)?.to_owned(),
                partition: u32::from_be_bytes(*partition),
                next: read(key, value)?,
            });
            Ok(())
        })?;
        Ok(positions)
    }

    /// What was not confirmed when the process ended, in its order.
    pub(super) fn waiting(&self) -> Result<Vec<Outgoing>, StoreError> {
        let mut waiting = Vec::new();
        each(&*self.store, b"o/", |key, value| {
            waiting.push(Outgoing { message: read_message(key, value)?, outbox: number_of(key) });
            Ok(())
        })?;
        Ok(waiting)
    }

    /// Decides a window and makes it durable.
    pub(super) fn take(
        &mut self,
        deliveries: &[Delivery],
        now: Timestamp,
    ) -> Result<Turn, StoreError> {
        let turn = self.decide(deliveries, now)?;
        self.write(&turn.changes)?;
        Ok(turn)
    }

    /// Everything of a window was sent: remembered with the next batch.
    pub(super) fn sent(&mut self, out: &[Outgoing], answered: &[Delivery], by_position: bool) {
        self.confirmed.extend(out.iter().filter_map(|outgoing| outgoing.outbox));
        if by_position {
            for delivery in answered {
                let place = (delivery.message.channel.clone(), delivery.partition);
                let next = self.answered.entry(place).or_default();
                *next = (*next).max(delivery.offset + 1);
            }
        }
    }

    /// Writes down what the last window left.
    pub(super) fn finish(&mut self) -> Result<(), StoreError> {
        let mut batch = Batch::on(&*self.store);
        note_progress(&mut batch, &mut self.confirmed, &mut self.answered);
        let changes = batch.into_changes();
        self.write(&changes)
    }

    fn write(&self, changes: &[Change]) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.store.write(changes)?;
        match self.service.durability {
            Durability::PowerLoss => self.store.sync(),
            Durability::ProcessCrash => Ok(()),
        }
    }

    fn decide(&mut self, deliveries: &[Delivery], now: Timestamp) -> Result<Turn, StoreError> {
        let store = Arc::clone(&self.store);
        let mut making = Making {
            batch: Batch::on(&*store),
            out: Vec::new(),
            outbox_next: self.outbox_next,
            counts: Counts::default(),
            spans: Vec::new(),
            now,
        };
        note_progress(&mut making.batch, &mut self.confirmed, &mut self.answered);
        self.forget(&mut making)?;
        let mut taken = 0;
        for delivery in deliveries {
            self.deliver(&mut making, delivery)?;
            taken += 1;
            if making.batch.bytes() >= BATCH_BYTES_FULL {
                break;
            }
        }
        self.outbox_next = making.outbox_next;
        let Making { batch, out, counts, spans, .. } = making;
        Ok(Turn { changes: batch.into_changes(), out, taken, counts, spans })
    }

    fn deliver(&self, making: &mut Making<'_>, delivery: &Delivery) -> Result<(), StoreError> {
        let message = &delivery.message;
        let done = if self.service.commands.contains_channel(&message.channel) {
            self.command(making, message)?
        } else {
            self.event(making, message)?
        };
        if let Err(dead) = done {
            self.set_aside(making, delivery, &dead);
        }
        Ok(())
    }

    /// Takes what a handler did into the batch, its events by way of the outbox.
    fn commit(&self, making: &mut Making<'_>, kept: Kept, cause: &str, place: Option<&Place>) {
        for (key, value) in kept.changes {
            making.batch.set(key, value);
        }
        for (number, mut event) in kept.events.into_iter().enumerate() {
            let service = &self.service.name;
            reply::complete(&mut event, service, cause, number, place, making.now);
            making.spans.extend(
                place.and_then(|place| place.published(cause, service, number, &event, making.now)),
            );
            making.put_out(event);
        }
    }

    fn set_aside(&self, making: &mut Making<'_>, delivery: &Delivery, dead: &DeadLetter) {
        making.counts.dead += 1;
        tracing::warn!(
            participant = self.service.name,
            channel = delivery.message.channel,
            reason = dead.reason,
            "A message was set aside as a dead letter: {}",
            dead.text
        );
        let message = delivery.message.clone();
        let channel = &self.service.dead_letters;
        let letter = envelope::dead_letter(
            channel,
            message,
            dead,
            delivery.partition,
            delivery.offset,
            making.now,
        );
        making.put_out(letter);
    }

    /// Forgets what has expired, some at a time.
    fn forget(&mut self, making: &mut Making<'_>) -> Result<(), StoreError> {
        if making.now < self.forget_from {
            return Ok(());
        }
        let end = prefix_end(b"x/");
        let range = (Bound::Included(b"x/".as_slice()), end.as_ref().map(Vec::as_slice));
        let page = self.store.scan(SPACE, range, FORGET_MAX)?;
        // Nothing put from now on expires before this.
        let mut earliest = making.now + self.service.remember_for;
        for (entry, _) in &page.records {
            let Some((expires, key)) = expiring(entry) else { continue };
            if expires > making.now {
                earliest = earliest.min(expires);
                break;
            }
            making.batch.set(entry.clone(), None);
            // A record that was renewed has a later entry of its own.
            if self.expires(key)?.is_some_and(|record| record <= making.now) {
                making.batch.set(key.to_vec(), None);
                making.counts.forgotten += 1;
            }
            earliest = making.now;
        }
        self.forget_from = earliest;
        Ok(())
    }

    /// When a record may be forgotten; at once where it is damaged.
    fn expires(&self, key: &[u8]) -> Result<Option<Timestamp>, StoreError> {
        let bytes = match self.store.get(SPACE, key) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(error) if error.is_final() => return Err(error),
            Err(_) => return Ok(Some(Timestamp(0))),
        };
        let expires = match key.first() {
            Some(b'k') => read::<Remembered>(key, &bytes).map(|remembered| remembered.expires),
            Some(b'e') => read::<Mark>(key, &bytes).map(|mark| mark.expires),
            _ => read::<Timestamp>(key, &bytes),
        };
        Ok(Some(expires.unwrap_or(Timestamp(0))))
    }
}

impl Making<'_> {
    /// By way of the outbox: it is sent again until the broker has confirmed it. What is too large for that is sent once.
    fn put_out(&mut self, message: Message) {
        let bytes = write_message(&message);
        let outbox = (bytes.len() <= CHANGES_BYTES_MAX).then_some(self.outbox_next);
        if let Some(number) = outbox {
            self.outbox_next += 1;
            self.batch.set(outbox_key(number), Some(bytes));
        }
        self.out.push(Outgoing { message, outbox });
    }
}

fn note_progress(
    batch: &mut Batch<'_>,
    confirmed: &mut Vec<u64>,
    answered: &mut BTreeMap<(String, u32), u64>,
) {
    for number in confirmed.drain(..) {
        batch.set(outbox_key(number), None);
    }
    for ((channel, partition), next) in std::mem::take(answered) {
        batch.set(position_key(&channel, partition), Some(write(&next)));
    }
}

/// The words of a panic.
fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    text.map_or_else(
        || "the handler panicked".to_owned(),
        |text| format!("the handler panicked: {text}"),
    )
}

/// Type of a written reply.
pub(super) type Written = Result<Body, CodecError>;
