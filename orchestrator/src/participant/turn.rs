//! One turn: what a window of deliveries changes and what is answered. Decides only; nothing is written or sent here.
//!
//! The three duties of a participant are kept in [`Worker::answer`]: a key that was answered is answered the same way again,
//! a compensation wins over its command, and what was answered can be asked for later.

use super::{
    Answers, Counts, Misbehaviour, Service,
    asked::{Asked, Heard, Unanswerable, Undoing},
    remembered::{
        Answered, Batch, Effect, Mark, Remembered, SPACE, answer_key, each, expiring, expiry_key,
        heard_key, mark_key, number_of, outbox_key, position_key, read, read_message, write,
        write_message,
    },
    reply,
    traced::Place,
    tx::{CHANGES_BYTES_MAX, Kept, Tx, Void},
};
use crate::{
    envelope::{self, DeadLetter},
    journal::Durability,
    store::{BATCH_BYTES_MAX, Change, Store, StoreError, prefix_end},
    telemetry::SpanFact,
};
use dirigent_connectors::{Delivery, Message, Position, names};
use dirigent_model::{
    instance::Leg,
    message::{Body, CodecError, Failure, FailureEffect, Format, Message as _},
    time::Timestamp,
};
use std::{
    collections::BTreeMap,
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

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

    fn command(
        &self,
        making: &mut Making<'_>,
        message: &Message,
    ) -> Result<Result<(), DeadLetter>, StoreError> {
        let mut asked = match Asked::read(message) {
            Ok(asked) => asked,
            Err(Unanswerable(text)) => {
                return Ok(Err(DeadLetter { reason: "unanswerable", text }));
            }
        };
        let misbehaviour = (self.service.misbehave)(&asked);
        if misbehaviour == Misbehaviour::SilentBefore {
            making.counts.silent += 1;
            return Ok(Ok(()));
        }
        let service = &self.service.name;
        let place = Place::of_command(&asked, &message.attributes, self.service.spans.is_on());
        let (name, body) = self.answer(making, &mut asked, message, place.as_ref())?;
        making.spans.extend(
            place.and_then(|place| place.handled_command(service, &asked, message, making.now)),
        );
        if misbehaviour == Misbehaviour::SilentAfter {
            making.counts.silent += 1;
            return Ok(Ok(()));
        }
        let reply = reply::reply(service, &asked, place.as_ref(), &name, body, making.now);
        making.out.push(Outgoing { message: reply, outbox: None });
        Ok(Ok(()))
    }

    /// The answer to a command, whoever asks how often and in whatever order.
    fn answer(
        &self,
        making: &mut Making<'_>,
        asked: &mut Asked,
        message: &Message,
        place: Option<&Place>,
    ) -> Result<(String, Body), StoreError> {
        let key = answer_key(&asked.idempotency_key);
        let known = match making.batch.get_as::<Remembered>(&key) {
            Ok(known) => known.map(|known| known.answer),
            Err(error) => return self.damaged(making, message, error),
        };
        let in_doubt = match known {
            Some(Answered::Reply { name, format, body, .. }) => {
                making.counts.repeated += 1;
                return Ok((name, Body { format, bytes: body }));
            }
            Some(Answered::Failed { attempt, format, body }) if asked.attempt <= attempt => {
                making.counts.repeated += 1;
                return Ok((Failure::NAME.to_owned(), Body { format, bytes: body }));
            }
            Some(Answered::InDoubt) => true,
            Some(Answered::Failed { .. }) | None => false,
        };
        let Some(act) = self.service.commands.get(&message.channel, &asked.command) else {
            let text =
                format!("{} does not know the command `{}`", self.service.name, asked.command);
            return Ok(self.failed(
                making,
                message,
                "unknown-command",
                text,
                false,
                FailureEffect::None,
            ));
        };
        let mark = mark_key(&asked.place());
        let undoes = asked.leg == Leg::Compensate && act.undoes.is_some();
        let marked = if undoes || act.undoable {
            match making.batch.get_as::<Mark>(&mark) {
                Ok(marked) => marked.map(|mark| mark.effect),
                Err(error) => return self.damaged(making, message, error),
            }
        } else {
            None
        };
        let body = match envelope::format_of(&message.attributes) {
            Ok(format) => Body { format, bytes: message.body.to_vec() },
            Err(text) => {
                return Ok(self.failed(
                    making,
                    message,
                    "undecodable",
                    text,
                    false,
                    FailureEffect::None,
                ));
            }
        };
        let codec = &*self.service.codec;
        if undoes {
            match marked {
                Some(Effect::Took) => asked.undoing = Some(Undoing::Certain),
                Some(Effect::InDoubt) => asked.undoing = Some(Undoing::InDoubt),
                // Compensation wins: the command was never here, or was undone before.
                None | Some(Effect::Undone) => {
                    let nothing = act.undoes.as_ref().expect("it undoes");
                    let nothing = catch_unwind(AssertUnwindSafe(|| nothing(&body, asked, codec)));
                    making.counts.nothing_to_undo += 1;
                    return Ok(match nothing {
                        Ok(Answers::Done(name, Ok(reply))) => {
                            self.keep(making, &key, name, &reply, false);
                            self.put_mark(making, &mark, Effect::Undone);
                            (name.to_owned(), reply)
                        }
                        other => {
                            let trouble = Trouble::of(other);
                            self.failed(
                                making,
                                message,
                                trouble.code,
                                trouble.text,
                                trouble.retriable,
                                FailureEffect::None,
                            )
                        }
                    });
                }
            }
        } else if act.undoable && marked == Some(Effect::Undone) {
            making.counts.refused += 1;
            let text = "its compensation was here first; nothing was done".to_owned();
            return Ok(self.failed(
                making,
                message,
                "compensated",
                text,
                false,
                FailureEffect::None,
            ));
        }
        let mut tx = Tx::on(&making.batch, codec);
        let answers = catch_unwind(AssertUnwindSafe(|| (act.handle)(&mut tx, &body, asked, codec)));
        let kept = match answers {
            Ok(Answers::Failed(failure)) => {
                making.counts.failed += 1;
                if failure.effect == FailureEffect::Unknown {
                    self.put_in_doubt(making, &key, act.undoable.then_some(&mark));
                }
                let (name, body) = self.failure(message, &failure);
                // A compensation may succeed by a copy of its message: nobody has given up on it for good.
                let for_good = asked.leg == Leg::Do && failure.effect == FailureEffect::None;
                if for_good && !in_doubt && fits(&body) {
                    let (attempt, format) = (asked.attempt, body.format);
                    let answer = Answered::Failed { attempt, format, body: body.bytes.clone() };
                    self.remember(making, &key, answer);
                }
                return Ok((name, body));
            }
            Ok(Answers::Done(name, Ok(reply))) if fits(&reply) => {
                tx.finish().map(|kept| (kept, name, reply, false))
            }
            Ok(Answers::Rejected(name, Ok(reply))) if fits(&reply) => {
                tx.finish().map(|kept| (kept, name, reply, true))
            }
            Ok(Answers::Undecodable(error)) => {
                return Ok(self.failed(
                    making,
                    message,
                    "undecodable",
                    error.to_string(),
                    false,
                    FailureEffect::None,
                ));
            }
            other => {
                let trouble = Trouble::of(other);
                tracing::error!(
                    command = asked.command,
                    saga = asked.saga,
                    code = trouble.code,
                    "A handler could not answer: {}",
                    trouble.text
                );
                self.put_in_doubt(making, &key, act.undoable.then_some(&mark));
                return Ok(self.failed(
                    making,
                    message,
                    trouble.code,
                    trouble.text,
                    trouble.retriable,
                    FailureEffect::Unknown,
                ));
            }
        };
        match kept {
            Ok((kept, name, reply, rejected)) => {
                self.commit(making, kept, &asked.idempotency_key, place);
                self.keep(making, &key, name, &reply, rejected);
                if undoes {
                    self.put_mark(making, &mark, Effect::Undone);
                } else if act.undoable && !rejected {
                    self.put_mark(making, &mark, Effect::Took);
                }
                if rejected {
                    making.counts.rejected += 1
                } else {
                    making.counts.done += 1
                }
                Ok((name.to_owned(), reply))
            }
            Err(Void::Store(error)) => self.damaged(making, message, error),
            Err(Void::Impossible(text)) => {
                tracing::error!(
                    command = asked.command,
                    saga = asked.saga,
                    "A handler asked for something impossible: {text}"
                );
                self.put_in_doubt(making, &key, act.undoable.then_some(&mark));
                Ok(self.failed(making, message, "impossible", text, false, FailureEffect::Unknown))
            }
        }
    }

    fn event(
        &self,
        making: &mut Making<'_>,
        message: &Message,
    ) -> Result<Result<(), DeadLetter>, StoreError> {
        let name = message.attributes.get(names::TYPE).unwrap_or_default();
        let Some(act) = self.service.events.get(&message.channel, name) else {
            making.counts.ignored += 1;
            return Ok(Ok(()));
        };
        let dead = |reason, text: String| Ok(Err(DeadLetter { reason, text }));
        let heard = match Heard::read(message) {
            Ok(heard) => heard,
            Err(Unanswerable(text)) => return dead("unanswerable", text),
        };
        let key = heard_key(&heard.source, &heard.id);
        match making.batch.get(&key) {
            Ok(None) => {}
            Ok(Some(_)) => {
                making.counts.repeated += 1;
                return Ok(Ok(()));
            }
            Err(error) if error.is_final() => return Err(error),
            Err(error) => return dead("damaged", error.to_string()),
        }
        let body = match envelope::format_of(&message.attributes) {
            Ok(format) => Body { format, bytes: message.body.to_vec() },
            Err(text) => return dead("undecodable", text),
        };
        let codec = &*self.service.codec;
        let mut tx = Tx::on(&making.batch, codec);
        match catch_unwind(AssertUnwindSafe(|| act(&mut tx, &body, &heard, codec))) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return dead("undecodable", error.to_string()),
            Err(panic) => return dead("panicked", said(&*panic)),
        }
        match tx.finish() {
            Ok(kept) => {
                let service = &self.service.name;
                let is_noted = self.service.spans.is_on();
                let place = Place::of_event(service, &heard, &message.attributes, is_noted);
                self.commit(making, kept, &heard.id, place.as_ref());
                making.spans.extend(
                    place.and_then(|place| {
                        place.handled_event(service, &heard, message, making.now)
                    }),
                );
                let expires = making.now + self.service.remember_for;
                making.batch.set(expiry_key(expires, &key), Some(Vec::new()));
                making.batch.set(key, Some(write(&expires)));
                making.counts.heard += 1;
                Ok(Ok(()))
            }
            Err(Void::Store(error)) if error.is_final() => Err(error),
            Err(Void::Store(error)) => dead("damaged", error.to_string()),
            Err(Void::Impossible(text)) => dead("impossible", text),
        }
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

    fn keep(&self, making: &mut Making<'_>, key: &[u8], name: &str, reply: &Body, rejected: bool) {
        self.remember(making, key, Answered::reply(name, reply, rejected));
    }

    fn remember(&self, making: &mut Making<'_>, key: &[u8], answer: Answered) {
        let expires = making.now + self.service.remember_for;
        making.batch.set(expiry_key(expires, key), Some(Vec::new()));
        making.batch.set(key.to_vec(), Some(write(&Remembered { answer, expires })));
    }

    fn put_mark(&self, making: &mut Making<'_>, mark: &[u8], effect: Effect) {
        let expires = making.now + self.service.remember_for;
        making.batch.set(expiry_key(expires, mark), Some(Vec::new()));
        making.batch.set(mark.to_vec(), Some(write(&Mark { effect, expires })));
    }

    /// The handler may have left an effect outside: its compensation is to be carried out.
    fn put_in_doubt(&self, making: &mut Making<'_>, key: &[u8], mark: Option<&Vec<u8>>) {
        self.remember(making, key, Answered::InDoubt);
        if let Some(mark) = mark {
            self.put_mark(making, mark, Effect::InDoubt);
        }
    }

    /// A record that can't be read concerns this command only; a store that failed ends the participant.
    fn damaged(
        &self,
        making: &mut Making<'_>,
        message: &Message,
        error: StoreError,
    ) -> Result<(String, Body), StoreError> {
        if error.is_final() {
            return Err(error);
        }
        tracing::error!(participant = self.service.name, "A record can't be used: {error}");
        let text = error.to_string();
        Ok(self.failed(making, message, "damaged", text, false, FailureEffect::Unknown))
    }

    fn failed(
        &self,
        making: &mut Making<'_>,
        message: &Message,
        code: &str,
        text: String,
        retriable: bool,
        effect: FailureEffect,
    ) -> (String, Body) {
        making.counts.failed += 1;
        self.failure(message, &Failure { code: code.into(), message: text, retriable, effect })
    }

    /// A failure as the asker writes; as JSON where that can't be.
    fn failure(&self, message: &Message, failure: &Failure) -> (String, Body) {
        let format = envelope::format_of(&message.attributes).unwrap_or(Format::Json);
        let body = Body::write(failure, format, &*self.service.codec).unwrap_or_else(|_| Body {
            format: Format::Json,
            bytes: serde_json::to_vec(failure).expect("a failure is texts and a flag"),
        });
        (Failure::NAME.to_owned(), body)
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

/// Whether a reply can be remembered.
fn fits(reply: &Body) -> bool {
    reply.bytes.len() <= CHANGES_BYTES_MAX
}

/// Why a handler gave no answer that can be kept.
struct Trouble {
    code: &'static str,
    text: String,
    retriable: bool,
}

impl Trouble {
    fn of(answers: std::thread::Result<Answers>) -> Self {
        let unwritable = |text: String| Self { code: "unwritable-reply", text, retriable: false };
        match answers {
            Err(panic) => Self { code: "panicked", text: said(&*panic), retriable: true },
            Ok(Answers::Done(_, Err(error)) | Answers::Rejected(_, Err(error))) => {
                unwritable(error.to_string())
            }
            Ok(Answers::Done(_, Ok(reply)) | Answers::Rejected(_, Ok(reply))) => {
                unwritable(format!(
                    "the reply has {} bytes, the bound is {CHANGES_BYTES_MAX}",
                    reply.bytes.len()
                ))
            }
            Ok(Answers::Undecodable(error)) => {
                Self { code: "undecodable", text: error.to_string(), retriable: false }
            }
            Ok(Answers::Failed(failure)) => {
                Self { code: "failed", text: failure.message, retriable: failure.retriable }
            }
        }
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
