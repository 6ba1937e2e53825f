//! Generated sagas: sound definitions drawn from a seed, for whoever wants to try more shapes than people think of.
//!
//! ```text
//! seed ─► dice ─► drawing: which blocks, on which terms ─► blocks: as an author declares them ─► Generated { plan, parts, waits }
//! ```
//!
//! Every block is drawn: steps with and without compensation, pivots, retriable steps, questions about a status, branches side by
//! side, choices, waits, pauses, notices, deadlines, withdrawals, sub-structures of all of them, and policies of a few small times.
//! The messages are real ones (`messages`), typed as an author's are, and what a saga learns is kept in its data ([`Recorded`]).
//!
//! [`Generated::parts`] says what each step's participant may answer, and [`Part::reply`] writes that answer, so that anything can
//! play the participants. Who has a participant kit lets [`cast`] name every command with its types.
//!
//! ```
//! use dirigent_model::{
//!     decision::{Effect, Input, Reply},
//!     generated::{Answer, generated},
//!     instance::{Status, Trace},
//!     message::JsonOnly,
//!     time::Timestamp,
//!     transition::{self, Start},
//! };
//!
//! let saga = generated(7);
//!
//! // Key 1, and a turn by which its choices go. Everything asked for is done; what time brings, it brings.
//! let body = saga.begins(1, 0);
//! let key = saga.plan.start_key(&body, &JsonOnly).unwrap();
//! let start = Start { key, run: 0, body: &body, cause: None, trace: Trace::default() };
//! let mut now = Timestamp(0);
//! let mut decision = transition::start(&saga.plan, start, now, &JsonOnly).unwrap();
//! let mut asked = Vec::new();
//! while !decision.instance.core.status.is_end() {
//!     asked.extend(decision.effects.into_iter().filter_map(|effect| match effect {
//!         Effect::Command(command) => Some(command),
//!         Effect::Publish { .. } => None,
//!     }));
//!     let input = match asked.pop() {
//!         Some(command) => {
//!             let part = saga.part(command.node).unwrap();
//!             let (name, body) = part.reply(command.leg, Answer::Success, 1, 42).unwrap();
//!             let (key, attempt) = (Some(command.idempotency_key), Some(command.attempt));
//!             Input::Reply(Reply { node: command.node, leg: command.leg, key, attempt, held_until: None, name, body })
//!         }
//!         None => {
//!             now = decision.instance.core.next_due().expect("it waits for something").0;
//!             Input::Due
//!         }
//!     };
//!     decision = transition::apply(&saga.plan, decision.instance, input, None, now, &JsonOnly).unwrap();
//! }
//! assert!(matches!(decision.instance.core.status, Status::Completed | Status::Compensated));
//! ```

mod blocks;
mod dice;
mod drawing;
mod messages;

pub use messages::*;

use crate::{
    definition::{Definition, Graph, Kind, NodeId, Plan, WayBack},
    instance::Leg,
    message::{
        Body, Channel, Failure, FailureEffect, Format, JsonOnly, Message, StatusNotDone,
        StatusUnknown,
    },
};
use serde_json::json;
use std::{fmt, sync::Arc};

/// How much is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Steps, 1 to [`PLACES`]; fewer are drawn more often.
    pub steps_max: usize,
    /// Branches and arms within one another.
    pub nesting_max: usize,
    /// Attempts of a policy.
    pub attempts_max: u32,
    /// Whose events: sagas in different slots, below [`SLOTS`], neither begin nor wake each other.
    pub slot: usize,
    /// Waits and pauses are so many times as long.
    pub patience: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { steps_max: PLACES, nesting_max: 3, attempts_max: 4, slot: 0, patience: 1 }
    }
}

/// A saga drawn from a seed, and all that is needed to play the world around it.
#[derive(Clone)]
pub struct Generated {
    /// What it was drawn from; also in its name.
    pub seed: u64,
    /// How much was drawn.
    pub limits: Limits,
    /// As its author has it.
    pub definition: Definition<Recorded>,
    /// As the engine has it.
    pub plan: Arc<Plan>,
    /// Its steps, in the order of their nodes.
    pub parts: Vec<Part>,
    /// Its waits, in the order of their nodes.
    pub waits: Vec<Awaited>,
}

/// A step, as its participant sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Where it lies.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its place: the `N` of its messages.
    pub place: usize,
    /// Where its participant reads.
    pub channel: Channel,
    /// What it is asked for.
    pub command: String,
    /// Its answer when that was done.
    pub success: String,
    /// Its refusal, where it may refuse.
    pub rejection: Option<String>,
    /// What undoes it, and the answer to that.
    pub undo: Option<(String, String)>,
    /// Whether it is asked what became of it.
    pub is_questioned: bool,
}

/// What a participant may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It was done, or undone.
    Success,
    /// It is refused, for good and without effect.
    Rejection,
    /// It failed.
    Failure {
        /// Whether asking again may help.
        retriable: bool,
        /// Whether it may have taken effect.
        effect: FailureEffect,
    },
    /// About a status: it was not done, and is refused from now on.
    NotDone,
    /// About a status: nobody knows.
    Unknown,
}

/// A wait: the events it takes, by number, name and channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awaited {
    /// Where it lies.
    pub node: NodeId,
    /// Which event: the `E` of its messages.
    pub event: usize,
    /// The name of what it awaits, on [`HAPPENINGS`].
    pub awaits: String,
    /// The name of what refuses it, on [`OBJECTIONS`], where something may.
    pub refusing: Option<String>,
}

/// Draws a saga. The same seed gives the same one.
pub fn generated(seed: u64) -> Generated {
    generated_within(seed, Limits::default())
}

/// Draws a saga within limits. The same seed and limits give the same one.
///
/// # Panics
/// The slot is none of [`SLOTS`].
pub fn generated_within(seed: u64, limits: Limits) -> Generated {
    let definition = drawing::draw(seed, limits)
        .unwrap_or_else(|errors| panic!("what is drawn is sound, but seed {seed}: {errors}"));
    let plan = definition.plan();
    let (parts, waits) = (parts_of(plan.graph()), waits_of(plan.graph(), limits.slot));
    Generated { seed, limits, definition, plan, parts, waits }
}

impl fmt::Debug for Generated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} within {:?}", self.plan, self.limits)
    }
}

fn parts_of(graph: &Graph) -> Vec<Part> {
    let step = |node: NodeId| {
        let step = graph.step(node)?;
        let name = graph.name_of(node);
        let place = name.rsplit('-').next()?.parse().ok()?;
        let undo = match &step.way_back {
            WayBack::Compensated { command, success, .. } => {
                Some((command.name.clone(), success.clone()))
            }
            WayBack::Nothing { .. } | WayBack::Pivot | WayBack::Retriable => None,
        };
        Some(Part {
            node,
            name: name.into(),
            place,
            channel: PARTICIPANTS[place % PARTICIPANTS.len()],
            command: step.command.name.clone(),
            success: step.success.clone(),
            rejection: step.rejection.clone(),
            undo,
            is_questioned: step.status.is_some(),
        })
    };
    graph.ids().filter_map(step).collect()
}

fn waits_of(graph: &Graph, slot: usize) -> Vec<Awaited> {
    let wait = |node: NodeId| match &graph.node(node).kind {
        Kind::Wait { event, refusing, .. } => {
            let number = (0..EVENTS).find(|number| names_of(slot, *number).0 == event.name)?;
            let refusing = refusing.as_ref().map(|refusing| refusing.name.clone());
            Some(Awaited { node, event: number, awaits: event.name.clone(), refusing })
        }
        _ => None,
    };
    graph.ids().filter_map(wait).collect()
}

impl Generated {
    /// The step at a node, if there is one.
    pub fn part(&self, node: NodeId) -> Option<&Part> {
        self.parts.iter().find(|part| part.node == node)
    }

    /// The event that begins it. Choices go by `turn` and by what has happened when they are asked.
    pub fn begins(&self, key: u64, turn: u64) -> Body {
        said(json!({ "key": key, "turn": turn }))
    }

    /// An event for one of its waits, or the refusal of one; `number` is what its sender calls it.
    pub fn happens(&self, key: u64, number: u64) -> Body {
        said(json!({ "key": key, "number": number }))
    }

    /// The name of the event that withdraws it, on [`BEGINNINGS`], and the event; `None` where none does.
    pub fn withdraws(&self, key: u64) -> Option<(String, Body)> {
        let event = self.plan.graph().cancelled_by.first()?;
        Some((event.name.clone(), said(json!({ "key": key }))))
    }
}

impl Part {
    /// All that its participant may answer to one of its commands; nothing to one that it never gets.
    pub fn answers(&self, leg: Leg) -> Vec<Answer> {
        let failure = |retriable, effect| Answer::Failure { retriable, effect };
        let (none, unknown) = (FailureEffect::None, FailureEffect::Unknown);
        let failures = [
            failure(true, none),
            failure(true, unknown),
            failure(false, none),
            failure(false, unknown),
        ];
        let mut answers = match leg {
            Leg::Compensate if self.undo.is_none() => return Vec::new(),
            Leg::Status if !self.is_questioned => return Vec::new(),
            Leg::Compensate => vec![Answer::Success],
            Leg::Do => vec![Answer::Success],
            Leg::Status => vec![Answer::Success, Answer::NotDone, Answer::Unknown],
        };
        if leg != Leg::Compensate && self.rejection.is_some() {
            answers.push(Answer::Rejection);
        }
        answers.extend(failures);
        answers
    }

    /// The name and the body of an answer; `None` where it is none that this command may get.
    /// `receipt` is what the participant calls what it did.
    pub fn reply(
        &self,
        leg: Leg,
        answer: Answer,
        key: u64,
        receipt: u64,
    ) -> Option<(String, Body)> {
        Some(match (answer, leg) {
            (Answer::Success, Leg::Compensate) => {
                (self.undo.as_ref()?.1.clone(), said(json!({ "key": key })))
            }
            (Answer::Success, Leg::Do | Leg::Status) => {
                (self.success.clone(), said(json!({ "key": key, "receipt": receipt })))
            }
            (Answer::Rejection, Leg::Do | Leg::Status) => {
                (self.rejection.clone()?, said(json!({ "key": key })))
            }
            (Answer::NotDone, Leg::Status) => {
                (StatusNotDone::NAME.into(), written(&StatusNotDone {}))
            }
            (Answer::Unknown, Leg::Status) => {
                let message = "nobody knows".into();
                (StatusUnknown::NAME.into(), written(&StatusUnknown { message }))
            }
            (Answer::Failure { retriable, effect }, _) => {
                let code = if retriable { "busy" } else { "hopeless" };
                let message = "as drawn".into();
                let failure = Failure { code: code.into(), message, retriable, effect };
                (Failure::NAME.into(), written(&failure))
            }
            (Answer::Rejection, Leg::Compensate)
            | (Answer::NotDone | Answer::Unknown, Leg::Do | Leg::Compensate) => return None,
        })
    }
}

fn said(value: serde_json::Value) -> Body {
    Body { format: Format::Json, bytes: value.to_string().into_bytes() }
}

fn written<M: Message>(message: &M) -> Body {
    Body::write(message, Format::Json, &JsonOnly).expect("texts can be written as JSON")
}
