//! What participants answer: as they are asked to, but for one step, which has an outcome of one's choice.
//!
//! What goes in: the step and its [`Outcome`]. What comes out: participants that answer so, however often they are asked, in whichever life. A step that
//! is asked until it answers (a pivot that has no status, a retriable one) is troubled in its first attempts only: every world comes to rest.

use dirigent::participant::{Answer, Asked, Misbehaviour, Participant};
use dirigent_model::{
    instance::Leg,
    message::{Command, Failure, FailureEffect, Never},
};

/// What becomes of a step, or of a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Outcome {
    /// It is done, and its answer comes. Of a wait: the event comes.
    Success,
    /// It is refused; where it can't be, it fails for a while. Of a wait: what refuses it comes.
    Rejection,
    /// It is not done, and no answer comes. Of a wait: nothing comes.
    Timeout,
    /// It is done, and no answer comes. Of a wait: the event comes twice.
    Doubt,
}

impl Outcome {
    /// All but success, which is the same for whichever step.
    pub(super) const TROUBLES: [Self; 3] = [Self::Rejection, Self::Timeout, Self::Doubt];

    /// As one says it at the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Rejection => "rejection",
            Self::Timeout => "timeout",
            Self::Doubt => "doubt",
        }
    }
}

/// Attempts of a step that is asked until it answers, in which it does not.
const TROUBLED_ATTEMPTS: u32 = 2;

/// What becomes of one step or wait; all others succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Script {
    pub stage: &'static str,
    pub outcome: Outcome,
    /// It is asked until it answers.
    pub is_insisted_on: bool,
}

impl Script {
    /// What becomes of a wait.
    pub(super) fn of(self, wait: &str) -> Outcome {
        if self.stage == wait { self.outcome } else { Outcome::Success }
    }

    /// What becomes of an attempt.
    fn of_attempt(self, said: &Asked) -> Outcome {
        let is_over = self.is_insisted_on && said.attempt > TROUBLED_ATTEMPTS;
        if said.leg != Leg::Do || is_over { Outcome::Success } else { self.of(&said.step) }
    }
}

/// A participant that answers by a script.
pub(super) struct Scripted {
    made: Participant,
    script: Script,
}

impl Scripted {
    pub(super) fn new(name: &str, script: Script) -> Self {
        Self { made: Participant::new(name), script }
    }

    /// Carries a command out, or refuses it; what can't be refused fails for now.
    pub(super) fn on<C: Command>(
        mut self,
        done: fn(&C) -> C::Success,
        refused: fn(&C) -> Option<C::Rejection>,
    ) -> Self {
        let script = self.script;
        self.made = self.made.on(move |_, asked: C, said| match script.of_attempt(said) {
            Outcome::Rejection => match refused(&asked) {
                Some(refused) => Answer::Rejected(refused),
                None => Answer::Failed(busy()),
            },
            Outcome::Success | Outcome::Timeout | Outcome::Doubt => Answer::Done(done(&asked)),
        });
        self
    }

    /// Undoes a command.
    pub(super) fn undoes<X: Command<Rejection = Never>, C: Command>(
        mut self,
        undone: fn(&X) -> X::Success,
    ) -> Self {
        self.made = self.made.undoes::<X, C>(
            move |_, asked, _| Answer::Done(undone(&asked)),
            move |asked, _| undone(&asked),
        );
        self
    }

    pub(super) fn ready(self) -> Participant {
        let script = self.script;
        self.made.misbehave(move |said| match script.of_attempt(said) {
            Outcome::Success | Outcome::Rejection => Misbehaviour::None,
            Outcome::Timeout => Misbehaviour::SilentBefore,
            Outcome::Doubt => Misbehaviour::SilentAfter,
        })
    }
}

fn busy() -> Failure {
    Failure {
        code: "busy".into(),
        message: "as the script says".into(),
        retriable: true,
        effect: FailureEffect::None,
    }
}
