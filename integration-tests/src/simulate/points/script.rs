//! What participants answer: as they are asked to, but for one step, which has an outcome of one's choice.
//!
//! What goes in: a [`Trouble`], that is a step or wait, one of its legs, and an [`Outcome`]. What comes out: participants that answer so, however often they
//! are asked, in whichever life, and how often the trouble took place. What is asked until it answers (a pivot that has no status, a retriable step, a
//! compensation) is troubled in its first attempts only: every world comes to rest.

use dirigent::participant::{Answer, Asked, Misbehaviour, Participant};
use dirigent_model::{
    instance::Leg,
    message::{Command, Failure, FailureEffect, Never},
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// What becomes of a step, of its compensation, of a question about it, or of a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Outcome {
    /// It is done, and its answer comes. Of a wait: the event comes.
    Success,
    /// It is refused; where it can't be, it fails for a while. Of a question: it is never answered. Of a wait: what refuses it comes.
    Rejection,
    /// It is not done, and no answer comes. Of a question: what it asks about was done. Of a wait: nothing comes.
    Timeout,
    /// It is done, and no answer comes. Of a question: what it asks about was not done. Of a wait: what was said long ago is said anew.
    Doubt,
    /// Of a wait: the event comes twice at once, with one id.
    Twice,
}

impl Outcome {
    /// As one says it at the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Rejection => "rejection",
            Self::Timeout => "timeout",
            Self::Doubt => "doubt",
            Self::Twice => "twice",
        }
    }
}

/// Attempts of what is asked until it answers, in which it does not.
const TROUBLED_ATTEMPTS: u32 = 2;

/// Questions that are not answered: one is left for a participant that dies with the next one, and another one for its next life.
const TROUBLED_QUESTIONS: u32 = 1;

/// What does not just succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trouble {
    /// A step or a wait.
    pub stage: &'static str,
    /// Forward, back, or a question; of a wait: forward.
    pub leg: Leg,
    pub outcome: Outcome,
}

/// What becomes of each step and wait.
#[derive(Debug, Clone)]
pub(super) struct Script {
    /// All else succeeds.
    pub trouble: Option<Trouble>,
    /// But for this one, which is refused, so that there is something to undo.
    pub turned_back_by: Option<&'static str>,
    /// The troubled step is asked until it answers.
    pub is_insisted_on: bool,
    /// How often the trouble took place at a participant.
    pub met: Arc<AtomicU64>,
}

impl Script {
    /// What becomes of a wait.
    pub(super) fn of_wait(&self, wait: &str) -> Outcome {
        match self.trouble {
            _ if self.turned_back_by == Some(wait) => Outcome::Rejection,
            Some(trouble) if trouble.stage == wait => trouble.outcome,
            Some(_) | None => Outcome::Success,
        }
    }

    /// What becomes of an attempt.
    fn of_attempt(&self, said: &Asked) -> Outcome {
        if said.leg == Leg::Do && self.turned_back_by == Some(said.step.as_str()) {
            return Outcome::Rejection;
        }
        let Some(trouble) = self.trouble.filter(|trouble| trouble.stage == said.step) else {
            return Outcome::Success;
        };
        let is_over = said.attempt > TROUBLED_ATTEMPTS;
        match (trouble.leg, said.leg) {
            (Leg::Do, Leg::Do) if is_over && self.is_insisted_on => Outcome::Success,
            (Leg::Compensate, Leg::Compensate) if is_over => Outcome::Success,
            (Leg::Do, Leg::Do) | (Leg::Compensate, Leg::Compensate) => trouble.outcome,
            // Nobody asks about what has answered.
            (Leg::Status, Leg::Do) if trouble.outcome == Outcome::Doubt => Outcome::Timeout,
            (Leg::Status, Leg::Do) => Outcome::Doubt,
            (Leg::Status, Leg::Status) if trouble.outcome == Outcome::Rejection => Outcome::Timeout,
            (Leg::Status, Leg::Status) if said.attempt > TROUBLED_QUESTIONS => Outcome::Success,
            (Leg::Status, Leg::Status) => trouble.outcome,
            (Leg::Do | Leg::Compensate, _) | (Leg::Status, Leg::Compensate) => Outcome::Success,
        }
    }

    /// An attempt has had its outcome, which is no success.
    fn meets(&self, said: &Asked) {
        if self.trouble.is_some_and(|it| (it.stage, it.leg) == (said.step.as_str(), said.leg)) {
            self.met.fetch_add(1, Ordering::Relaxed);
        }
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
        let script = self.script.clone();
        self.made = self.made.on(move |_, asked: C, said| match script.of_attempt(said) {
            Outcome::Rejection => {
                script.meets(said);
                match refused(&asked) {
                    Some(refused) => Answer::Rejected(refused),
                    None => Answer::Failed(busy()),
                }
            }
            Outcome::Success | Outcome::Timeout | Outcome::Doubt | Outcome::Twice => {
                Answer::Done(done(&asked))
            }
        });
        self
    }

    /// Undoes a command, or fails for now to do so.
    pub(super) fn undoes<X: Command<Rejection = Never>, C: Command>(
        mut self,
        undone: fn(&X) -> X::Success,
    ) -> Self {
        let script = self.script.clone();
        self.made = self.made.undoes::<X, C>(
            move |_, asked, said| match script.of_attempt(said) {
                Outcome::Rejection => {
                    script.meets(said);
                    Answer::Failed(busy())
                }
                Outcome::Success | Outcome::Timeout | Outcome::Doubt | Outcome::Twice => {
                    Answer::Done(undone(&asked))
                }
            },
            move |asked, _| undone(&asked),
        );
        self
    }

    pub(super) fn ready(self) -> Participant {
        let script = self.script;
        self.made.misbehave(move |said| {
            let how = match script.of_attempt(said) {
                Outcome::Success | Outcome::Rejection | Outcome::Twice => Misbehaviour::None,
                Outcome::Timeout => Misbehaviour::SilentBefore,
                Outcome::Doubt => Misbehaviour::SilentAfter,
            };
            if how != Misbehaviour::None {
                script.meets(said);
            }
            how
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
