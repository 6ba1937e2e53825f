//! What a simulation adds to participants: commands that nobody wrote are played, and those of others are refused, fail and stay unanswered by dice.
//!
//! What goes in: names and made-up answers of a definition, and dice. What comes out: a participant that keeps its duties as any other: what was answered
//! is remembered, and what is refused or fails has no effect.

use super::{Answers, Asked, CommandAct, Misbehaviour, Participant};
use dirigent_connectors::ChannelSpec;
use dirigent_model::message::{Body, Codec, CodecError, Failure};
use std::sync::Arc;

/// Makes the body of an answer up.
pub(crate) type Invent = Arc<dyn Fn(&dyn Codec) -> Result<Body, CodecError> + Send + Sync>;

/// What comes instead of a handler's answer.
pub(crate) enum Instead {
    /// A refusal, by its name.
    Rejected(&'static str, Invent),
    /// Technical trouble.
    Failed(Failure),
}

/// What comes instead of the answer to a command, if anything does.
pub(crate) type Interrupts = Arc<dyn Fn(&Asked) -> Option<Instead> + Send + Sync>;

impl Participant {
    /// Whether it carries out this command.
    pub(crate) fn carries_out(&self, channel: &str, command: &str) -> bool {
        self.service.commands.get(channel, command).is_some()
    }

    /// Plays a command: it is always done, and answered so. One that undoes another of this participant says which by name.
    pub(crate) fn plays(
        mut self,
        (channel, command): (&'static str, &'static str),
        success: &'static str,
        answer: &Invent,
        undoes: Option<&'static str>,
    ) -> Self {
        let done = |answer: &Invent| {
            let answer = Arc::clone(answer);
            move |codec: &dyn Codec| Answers::Done(success, answer(codec))
        };
        let (handle, nothing) = (done(answer), done(answer));
        let act = CommandAct {
            handle: Box::new(move |_, _, _, codec| handle(codec)),
            undoes: undoes.map(|_| {
                Box::new(move |_: &Body, _: &Asked, codec: &dyn Codec| nothing(codec)) as _
            }),
            undoable: false,
        };
        self.service.commands.insert((channel, command), act);
        self.service.listen(ChannelSpec::work(channel));
        self.undone.extend(undoes.map(|undone| ((channel, undone), command)));
        self
    }

    /// Some of its commands are not handed to their handlers, and answered so instead.
    pub(crate) fn interrupted(mut self, by: &Interrupts) -> Self {
        for acts in self.service.commands.0.values_mut() {
            for act in acts.values_mut() {
                let by = Arc::clone(by);
                let handle = std::mem::replace(
                    &mut act.handle,
                    Box::new(|_, _, _, _| unreachable!("it is replaced at once")),
                );
                act.handle = Box::new(move |tx, body, asked, codec| match by(asked) {
                    None => handle(tx, body, asked, codec),
                    Some(Instead::Rejected(name, answer)) => Answers::Rejected(name, answer(codec)),
                    Some(Instead::Failed(failure)) => Answers::Failed(failure),
                });
            }
        }
        self
    }

    /// Misbehaves in this way, too, where it would not by itself.
    pub(crate) fn also_misbehaves(
        mut self,
        how: impl Fn(&Asked) -> Misbehaviour + Send + Sync + 'static,
    ) -> Self {
        let own = self.service.misbehave;
        self.service.misbehave = Box::new(move |asked| match own(asked) {
            Misbehaviour::None => how(asked),
            own => own,
        });
        self
    }
}
