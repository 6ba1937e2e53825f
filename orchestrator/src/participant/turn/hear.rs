//! An event that was heard: once for each source and id, with what its listener changed, in one batch.

use super::{Making, Worker, said};
use crate::{
    envelope::{self, DeadLetter},
    participant::{
        asked::{Heard, Unanswerable},
        remembered::{expiry_key, heard_key, write},
        traced::Place,
        tx::Void,
    },
    store::{Left, StoreError},
};
use dirigent_connectors::{Message, names};
use dirigent_model::message::Body;
use std::panic::{AssertUnwindSafe, catch_unwind};

impl Worker {
    pub(super) fn event(
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
            Err(error) if !error.is_of_one_record() => return Err(error),
            Err(error) => return dead("damaged", error.to_string()),
        }
        let body = match envelope::format_of(&message.attributes) {
            Ok(format) => Body { format, bytes: message.body.to_vec() },
            Err(text) => return dead("undecodable", text),
        };
        if let Some(why) = making.given_up {
            return dead("not-kept", why.to_owned());
        }
        let codec = &*self.service.codec;
        let mut tx = making.tx(codec);
        let done = catch_unwind(AssertUnwindSafe(|| act(&mut tx, &body, &heard, codec)));
        let left = making.left(matches!(done, Ok(Ok(()))) && !tx.is_void())?;
        match done {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return dead("undecodable", error.to_string()),
            Err(panic) => return dead("panicked", said(&*panic)),
        }
        if let Left::Refused(why) = left {
            return dead("not-kept", why);
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
            Err(Void::Store(error)) if !error.is_of_one_record() => Err(error),
            Err(Void::Store(error)) => dead("damaged", error.to_string()),
            Err(Void::Impossible(text)) => dead("impossible", text),
        }
    }
}
