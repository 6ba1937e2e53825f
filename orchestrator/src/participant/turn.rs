//! One turn: what a window of deliveries changes and what is answered. Decides only; nothing is written or sent here.
//!
//! In goes a window of deliveries; out comes one batch of the store, with what may be sent and settled once it is durable.
//! Where the store has transactions, the whole turn is one: reads, handlers, batch. A turn that came to nothing left nothing here
//! either, and is made again from what the store then says.
//! Commands are answered in `answer`, questions about them in `status`, events heard in `hear`; what all of them leave behind is
//! gathered here.

mod answer;
mod hear;
mod status;

use super::{
    Counts, Service,
    asked::{Asked, Heard},
    remembered::{
        Batch, Mark, Remembered, SPACE, answer_key, each, expiring, heard_key, mark_key, number_of,
        outbox_key, position_key, read, read_message, write, write_message,
    },
    reply,
    traced::Place,
    tx::{CHANGES_BYTES_MAX, Kept, Tx},
};
use crate::{
    envelope::{self, DeadLetter},
    journal::Durability,
    planted::{self, Bug},
    store::{BATCH_BYTES_MAX, Change, Left, Store, StoreError, Transaction, prefix_end},
    telemetry::SpanFact,
};
use dirigent_connectors::{Delivery, Message, Position};
use dirigent_model::{
    message::{Body, Codec, CodecError},
    time::Timestamp,
};
use std::{collections::BTreeMap, ops::Bound, sync::Arc};

/// Bytes of changes after which no further delivery is taken into a batch: with what the next one may change at the most
/// it still is one batch of the store, all or nothing: the changes of a handler, a reply, and what is small beside them.
const BATCH_BYTES_FULL: usize = BATCH_BYTES_MAX - 2 * CHANGES_BYTES_MAX - 1024 * 1024;

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

/// A turn, and what the worker then knows.
struct Decided {
    turn: Turn,
    outbox_next: u64,
    forget_from: Timestamp,
}

/// A turn being made.
struct Making<'a> {
    batch: Batch<'a>,
    /// What handlers and the batch are kept by, all or nothing.
    transaction: Option<&'a dyn Transaction>,
    /// Why the handler is not called any more: the store gave its transactions up, time and again.
    given_up: Option<&'a str>,
    out: Vec<Outgoing>,
    outbox_next: u64,
    counts: Counts,
    spans: Vec<SpanFact>,
    now: Timestamp,
}

impl Worker {
    /// Takes up the work where the store says it was left.
    pub(super) fn new(service: Arc<Service>, store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let (confirmed, answered) = (Vec::new(), BTreeMap::new());
        let forget_from = Timestamp(0);
        let mut worker = Self { service, store, outbox_next: 0, confirmed, answered, forget_from };
        worker.outbox_next = worker.reading(outbox_end)?;
        Ok(worker)
    }

    /// Where reading goes on.
    pub(super) fn positions(&self) -> Result<Vec<Position>, StoreError> {
        self.reading(positions)
    }

    /// What was not confirmed when the process ended, in its order.
    pub(super) fn waiting(&self) -> Result<Vec<Outgoing>, StoreError> {
        self.reading(waiting)
    }

    /// Takes the work up again after a turn that came to nothing, or whose commit is in doubt: what the store says counts, as
    /// after a crash. Answers what waits to be sent.
    pub(super) fn take_up(&mut self) -> Result<Vec<Outgoing>, StoreError> {
        let (end, mut waiting) = self.reading(|store| Ok((outbox_end(store)?, waiting(store)?)))?;
        self.outbox_next = self.outbox_next.max(end);
        waiting.retain(|one| one.outbox.is_none_or(|number| !self.confirmed.contains(&number)));
        Ok(waiting)
    }

    /// Decides a window and makes it durable. Where the store gave up on it before, its handlers are not called.
    pub(super) fn take(
        &mut self,
        deliveries: &[Delivery],
        now: Timestamp,
        given_up: Option<&str>,
    ) -> Result<Turn, StoreError> {
        let store = Arc::clone(&self.store);
        let transaction = store.transaction()?;
        let decided = self.decide(&*store, transaction.as_deref(), deliveries, now, given_up)?;
        self.write(transaction, &decided.turn.changes)?;
        self.confirmed.clear();
        self.answered.clear();
        self.outbox_next = decided.outbox_next;
        self.forget_from = decided.forget_from;
        Ok(decided.turn)
    }

    /// The broker has it, or never will: out of the outbox with the next batch.
    pub(super) fn decided(&mut self, outgoing: &Outgoing) {
        self.confirmed.extend(outgoing.outbox);
    }

    /// All that these are answered by was sent, or is durable: their positions are written with the next batch.
    pub(super) fn all_sent(&mut self, answered: &[Delivery]) {
        for delivery in answered {
            let place = (delivery.message.channel.clone(), delivery.partition);
            let next = self.answered.entry(place).or_default();
            *next = (*next).max(delivery.offset + 1);
        }
    }

    /// Makes durable what is sent later, so that the deliveries it answers can be settled before. What is too large for the outbox is
    /// left as it is. After an error the same may be tried again.
    pub(super) fn put_off(&mut self, later: &mut [Outgoing]) -> Result<(), StoreError> {
        let mut open = later.iter_mut().filter(|outgoing| outgoing.outbox.is_none()).peekable();
        while open.peek().is_some() {
            let (mut changes, mut bytes, mut end) = (Vec::new(), 0, self.outbox_next);
            let mut numbered = Vec::new();
            for outgoing in open.by_ref() {
                let record = write_message(&outgoing.message);
                if record.len() > CHANGES_BYTES_MAX {
                    continue;
                }
                bytes += record.len();
                changes.push(Change::put(SPACE, outbox_key(end), record));
                numbered.push((outgoing, end));
                end += 1;
                if bytes >= BATCH_BYTES_FULL {
                    break;
                }
            }
            self.write(self.store.transaction()?, &changes)?;
            self.outbox_next = end;
            for (outgoing, number) in numbered {
                outgoing.outbox = Some(number);
            }
        }
        Ok(())
    }

    /// Writes down what the last window left.
    pub(super) fn finish(&mut self) -> Result<(), StoreError> {
        let mut batch = Batch::on(&*self.store);
        self.note_progress(&mut batch);
        let changes = batch.into_changes();
        if !changes.is_empty() {
            self.write(self.store.transaction()?, &changes)?;
        }
        self.confirmed.clear();
        self.answered.clear();
        Ok(())
    }

    /// Reads what this worker alone writes, with everything before decided.
    fn reading<T>(
        &self,
        read: impl FnOnce(&dyn Store) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match self.store.transaction()? {
            Some(transaction) => read(&*transaction),
            None => read(&*self.store),
        }
    }

    fn write(
        &self,
        transaction: Option<Box<dyn Transaction>>,
        changes: &[Change],
    ) -> Result<(), StoreError> {
        if changes.is_empty() {
            // A transaction that changed nothing ends here.
            return Ok(());
        }
        if let Some(transaction) = transaction {
            transaction.write(changes)?;
            return transaction.commit();
        }
        self.store.write(changes)?;
        if planted::is(Bug::KitAnswersUnsynced) {
            return Ok(());
        }
        match self.service.durability {
            Durability::PowerLoss => self.store.sync(),
            Durability::ProcessCrash => self.store.hand_over(),
        }
    }

    fn decide(
        &self,
        store: &dyn Store,
        transaction: Option<&dyn Transaction>,
        deliveries: &[Delivery],
        now: Timestamp,
        given_up: Option<&str>,
    ) -> Result<Decided, StoreError> {
        let read_by = match transaction {
            Some(transaction) => transaction,
            None => store,
        };
        let mut making = Making {
            batch: Batch::on(read_by),
            transaction,
            given_up,
            out: Vec::new(),
            outbox_next: self.outbox_next,
            counts: Counts::default(),
            spans: Vec::new(),
            now,
        };
        making.batch.look_at(&self.looked_for(deliveries))?;
        self.note_progress(&mut making.batch);
        let forget_from = self.forget(&mut making)?;
        let mut taken = 0;
        for delivery in deliveries {
            self.deliver(&mut making, delivery)?;
            taken += 1;
            if making.batch.bytes() >= BATCH_BYTES_FULL {
                break;
            }
        }
        let Making { batch, out, counts, spans, outbox_next, .. } = making;
        let turn = Turn { changes: batch.into_changes(), out, taken, counts, spans };
        Ok(Decided { turn, outbox_next, forget_from })
    }

    /// What a window will ask the store for, as far as its heads say.
    fn looked_for(&self, deliveries: &[Delivery]) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        for message in deliveries.iter().map(|delivery| &delivery.message) {
            if !self.service.commands.contains_channel(&message.channel) {
                if let Ok(heard) = Heard::read(message) {
                    keys.push(heard_key(&heard.source, &heard.id));
                }
            } else if let Ok(asked) = Asked::read(message) {
                keys.push(answer_key(&asked.idempotency_key));
                keys.push(mark_key(&asked.place()));
            }
        }
        keys
    }

    fn note_progress(&self, batch: &mut Batch<'_>) {
        for number in &self.confirmed {
            batch.set(outbox_key(*number), None);
        }
        for ((channel, partition), next) in &self.answered {
            batch.set(position_key(channel, *partition), Some(write(next)));
        }
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

    /// Forgets what has expired, some at a time. Answers before when nothing else expires.
    fn forget(&self, making: &mut Making<'_>) -> Result<Timestamp, StoreError> {
        if making.now < self.forget_from {
            return Ok(self.forget_from);
        }
        let store = making.batch.store();
        let end = prefix_end(b"x/");
        let range = (Bound::Included(b"x/".as_slice()), end.as_ref().map(Vec::as_slice));
        let page = store.scan(SPACE, range, FORGET_MAX)?;
        // Nothing put from now on expires before this.
        let mut earliest = making.now + self.service.remember_for;
        let due: Vec<_> = (page.records.iter())
            .filter_map(|(entry, _)| Some((entry, expiring(entry)?)))
            .take_while(|(_, (expires, _))| *expires <= making.now)
            .collect();
        let keys: Vec<_> = due.iter().map(|(_, (_, key))| key.to_vec()).collect();
        let seen: BTreeMap<_, _> = store.glance(SPACE, &keys)?.into_iter().collect();
        for (entry, (_, key)) in &due {
            making.batch.set((*entry).clone(), None);
            let bytes = match seen.get(*key) {
                Some(seen) => Ok(seen.clone()),
                None => store.get(SPACE, key),
            };
            // A record that was renewed has a later entry of its own.
            if expires(key, bytes)?.is_some_and(|record| record <= making.now) {
                making.batch.set(key.to_vec(), None);
                making.counts.forgotten += 1;
            }
        }
        let next = page.records.iter().filter_map(|(entry, _)| expiring(entry)).nth(due.len());
        match next {
            Some((expires, _)) => earliest = earliest.min(expires),
            None if !due.is_empty() => earliest = making.now,
            None => {}
        }
        Ok(earliest)
    }
}

/// When a record may be forgotten; at once where it is damaged.
fn expires(
    key: &[u8],
    found: Result<Option<Vec<u8>>, StoreError>,
) -> Result<Option<Timestamp>, StoreError> {
    let bytes = match found {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(error) if error.is_of_one_record() => return Ok(Some(Timestamp(0))),
        Err(error) => return Err(error),
    };
    let expires = match key.first() {
        Some(b'k') => read::<Remembered>(key, &bytes).map(|remembered| remembered.expires),
        Some(b'e') => read::<Mark>(key, &bytes).map(|mark| mark.expires),
        _ => read::<Timestamp>(key, &bytes),
    };
    Ok(Some(expires.unwrap_or(Timestamp(0))))
}

impl Making<'_> {
    /// What a handler reads and writes.
    fn tx<'m>(&'m self, codec: &'m dyn Codec) -> Tx<'m> {
        if let Some(transaction) = self.transaction {
            transaction.enter();
        }
        Tx::on(&self.batch, self.transaction, codec)
    }

    /// What is left of a handler's work in the transaction.
    fn left(&self, keeps: bool) -> Result<Left, StoreError> {
        match self.transaction {
            Some(transaction) => transaction.leave(keeps),
            None if keeps => Ok(Left::Kept),
            None => Ok(Left::Undone),
        }
    }

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

/// The number behind the last of the outbox.
fn outbox_end(store: &dyn Store) -> Result<u64, StoreError> {
    let mut end = 0;
    each(store, b"o/", |key, _| {
        end = number_of(key).map_or(end, |number| number + 1);
        Ok(())
    })?;
    Ok(end)
}

fn waiting(store: &dyn Store) -> Result<Vec<Outgoing>, StoreError> {
    let mut waiting = Vec::new();
    each(store, b"o/", |key, value| {
        waiting.push(Outgoing { message: read_message(key, value)?, outbox: number_of(key) });
        Ok(())
    })?;
    Ok(waiting)
}

fn positions(store: &dyn Store) -> Result<Vec<Position>, StoreError> {
    let mut positions = Vec::new();
    each(store, b"p/", |key, value| {
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
