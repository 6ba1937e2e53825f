//! The third duty: what became of a command, by its idempotency key.
//!
//! In goes a question; out comes what was answered to the command before, or that it was not done, or that nobody knows.
//! *Not done* is binding: with that answer its key is sealed, in the same batch, and the command is refused however late it
//! comes. So no saga counts on a command that takes effect after all.

use super::{Making, Worker};
use crate::{
    envelope,
    participant::{
        asked::{Asked, Unanswerable, fitting},
        remembered::{Answered, Remembered, answer_key},
    },
    planted::{self, Bug},
    store::StoreError,
};
use dirigent_connectors::{Message, names};
use dirigent_model::message::{Body, FailureEffect, StatusNotDone, StatusQuery, StatusUnknown};

impl Worker {
    /// The answer to a question about a status.
    pub(super) fn status(
        &self,
        making: &mut Making<'_>,
        asked: &Asked,
        message: &Message,
    ) -> Result<(String, Body), StoreError> {
        let query = match self.query(message) {
            Ok(query) => query,
            Err(text) => {
                let effect = FailureEffect::Unknown;
                return Ok(self.failed(making, message, "undecodable", text, false, effect));
            }
        };
        making.counts.questions += 1;
        let key = answer_key(&query.idempotencykey);
        let known = match making.batch.get_as::<Remembered>(&key) {
            Ok(known) => known.map(|known| known.answer),
            Err(error) => return self.damaged(making, message, error),
        };
        match known {
            Some(Answered::Reply { name, format, body, .. }) => {
                Ok((name, Body { format, bytes: body }))
            }
            Some(Answered::InDoubt) => {
                let text = "an attempt failed in a way that may have left an effect";
                Ok(self.answered(message, &StatusUnknown { message: text.into() }))
            }
            Some(Answered::Sealed) => Ok(self.answered(message, &StatusNotDone {})),
            // A later attempt may be under way, and would be carried out.
            Some(Answered::Failed { .. }) | None => {
                if self.service.commands.get(&message.channel, &query.command).is_none() {
                    let name = &self.service.name;
                    let text = format!("{name} does not know the command `{}`", query.command);
                    let effect = FailureEffect::Unknown;
                    return Ok(self.failed(
                        making,
                        message,
                        "unknown-command",
                        text,
                        false,
                        effect,
                    ));
                }
                tracing::debug!(
                    participant = self.service.name,
                    saga = asked.saga,
                    step = asked.step,
                    "A command that was never carried out is refused from now on."
                );
                if !planted::is(Bug::KitSealForgotten) {
                    self.remember(making, &key, Answered::Sealed);
                }
                making.counts.sealed += 1;
                Ok(self.answered(message, &StatusNotDone {}))
            }
        }
    }

    fn query(&self, message: &Message) -> Result<StatusQuery, String> {
        let format = envelope::format_of(&message.attributes)?;
        let body = Body { format, bytes: message.body.to_vec() };
        let query: StatusQuery =
            body.read(&*self.service.codec).map_err(|error| error.to_string())?;
        fitting(names::IDEMPOTENCY_KEY, &query.idempotencykey)
            .map_err(|Unanswerable(text)| format!("in the question, {text}"))?;
        Ok(query)
    }
}
