//! The answer to a command: the three duties of a participant are kept here.
//!
//! In goes a command as it came, whoever sends it, how often, and in whatever order. Out come the answer and what is remembered
//! with it, in the batch of the turn. A key that was answered is answered the same way again, a compensation wins over its
//! command, and what was answered can be asked for later (in `status`).

use super::{Making, Outgoing, Worker, said};
use crate::{
    envelope::{self, DeadLetter},
    participant::{
        Answers, Misbehaviour,
        asked::{Asked, Unanswerable, Undoing},
        remembered::{Answered, Effect, Mark, Remembered, answer_key, expiry_key, mark_key, write},
        reply,
        traced::Place,
        tx::{CHANGES_BYTES_MAX, Void},
    },
    planted::{self, Bug},
    store::{Left, StoreError},
};
use dirigent_connectors::Message;
use dirigent_model::{
    instance::Leg,
    message::{Body, Failure, FailureEffect, Format, Message as Sent, StatusQuery},
};
use std::panic::{AssertUnwindSafe, catch_unwind};

impl Worker {
    pub(super) fn command(
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
        let (name, body) = if asked.command == StatusQuery::NAME {
            self.status(making, &asked, message)?
        } else {
            self.answer(making, &mut asked, message, place.as_ref())?
        };
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
            // Somebody counts on it not being done.
            Some(Answered::Sealed) => {
                making.counts.refused += 1;
                let text =
                    "its status was asked for and was `not done`; nothing was done".to_owned();
                let effect = FailureEffect::None;
                return Ok(self.failed(making, message, "sealed", text, false, effect));
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
                            if !planted::is(Bug::KitCompensationLoses) {
                                self.put_mark(making, &mark, Effect::Undone);
                            }
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
        let mut tx = making.tx(codec);
        let answers = match making.given_up {
            None => catch_unwind(AssertUnwindSafe(|| (act.handle)(&mut tx, &body, asked, codec))),
            // It was called before, and what it did outside of its transaction stands.
            Some(why) => Ok(Answers::Failed(Failure {
                code: "not-kept".into(),
                message: why.to_owned(),
                retriable: true,
                effect: FailureEffect::Unknown,
            })),
        };
        let answers = match making.left(is_answer(&answers) && !tx.is_void())? {
            Left::Kept | Left::Undone => answers,
            // Nothing of it took effect, as it says itself: often it is what the constraint was for.
            Left::Refused(_) if matches!(answers, Ok(Answers::Rejected(..))) => {
                tx.forget();
                answers
            }
            Left::Refused(why) => Ok(Answers::NotKept(why)),
        };
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
                #[cfg(feature = "simulation")]
                if self.service.is_witnessed && !rejected {
                    crate::participant::witness::note(&mut making.batch, asked)?;
                }
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

    fn keep(&self, making: &mut Making<'_>, key: &[u8], name: &str, reply: &Body, rejected: bool) {
        if planted::is(Bug::KitForgetsAnswers) {
            return;
        }
        self.remember(making, key, Answered::reply(name, reply, rejected));
    }

    pub(super) fn remember(&self, making: &mut Making<'_>, key: &[u8], answer: Answered) {
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
    pub(super) fn damaged(
        &self,
        making: &mut Making<'_>,
        message: &Message,
        error: StoreError,
    ) -> Result<(String, Body), StoreError> {
        if !error.is_of_one_record() {
            return Err(error);
        }
        tracing::error!(participant = self.service.name, "A record can't be used: {error}");
        let text = error.to_string();
        Ok(self.failed(making, message, "damaged", text, false, FailureEffect::Unknown))
    }

    pub(super) fn failed(
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

    fn failure(&self, message: &Message, failure: &Failure) -> (String, Body) {
        self.answered(message, failure)
    }

    /// An answer of the protocol's own, as the asker writes; as JSON where that can't be.
    pub(super) fn answered<M: Sent>(&self, message: &Message, answer: &M) -> (String, Body) {
        let format = envelope::format_of(&message.attributes).unwrap_or(Format::Json);
        let body = Body::write(answer, format, &*self.service.codec).unwrap_or_else(|_| Body {
            format: Format::Json,
            bytes: serde_json::to_vec(answer).expect("it is made of texts and flags"),
        });
        (M::NAME.to_owned(), body)
    }
}

/// Whether a handler said what became of its command, and that can be remembered.
fn is_answer(answers: &std::thread::Result<Answers>) -> bool {
    match answers {
        Ok(Answers::Done(_, Ok(reply)) | Answers::Rejected(_, Ok(reply))) => fits(reply),
        _ => false,
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
            Ok(Answers::NotKept(text)) => Self { code: "not-kept", text, retriable: true },
            Ok(Answers::Failed(failure)) => {
                Self { code: "failed", text: failure.message, retriable: failure.retriable }
            }
        }
    }
}
