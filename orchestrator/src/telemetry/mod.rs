//! What the process tells about itself: facts of every turn for traces, and logs.
//!
//! Shards note a [`Fact`] for each input when somebody listens; the committer hands facts over once they are durable,
//! so that a trace never tells of something that did not happen. From there:
//!
//! ```text
//! committer ─► Traces::observe ─► tree: spans with the ids that stand in traceparent ─► exporter ─► collector
//! participant ─► Spans::record ──────────────────────────────────────────────────────────┘
//! ```
//!
//! Nobody waits on that way: every queue is bounded, and what does not fit is dropped and counted.

pub mod logs;
pub mod otlp;
pub mod semconv;
pub mod spans;

mod exporter;
mod tree;

pub use otlp::{Traces, TracesError, TracesSettings};
pub use spans::{SpanFact, SpanKind, SpanValue, Spans, TraceCounts};

use crate::envelope;
use dirigent_connectors::{Attributes, Message, names};
use dirigent_model::{
    decision::Effect,
    definition::{NodeId, Plan, WayBack},
    history::{Line, Verdict},
    instance::{Core, InstanceId, Leg, Status, Trace},
    message::{Message as _, StatusQuery},
    time::Timestamp,
};
use uuid::Uuid;

/// Takes facts in. Must not block.
pub trait Observer: Send + Sync {
    /// Whether anybody listens.
    fn is_on(&self) -> bool;
    /// Facts, durable and in the order of each instance.
    fn observe(&self, facts: Vec<Fact>);
}

/// Nobody listens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Observer for Quiet {
    fn is_on(&self) -> bool {
        false
    }

    fn observe(&self, _facts: Vec<Fact>) {}
}

/// A command that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentCommand {
    /// The step.
    pub step: String,
    /// Which of its commands.
    pub leg: Leg,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// Its channel.
    pub channel: String,
    /// Its name.
    pub name: String,
    /// The span that its `traceparent` names.
    pub span: [u8; 8],
}

/// The command that a reply answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// The step.
    pub step: String,
    /// Which of its commands.
    pub leg: Leg,
    /// Which attempt, where the reply says so.
    pub attempt: Option<u32>,
    /// Its channel.
    pub channel: String,
    /// Its name.
    pub name: String,
    /// Its span, where the attempt is known.
    pub span: Option<[u8; 8]>,
}

impl Answered {
    fn command(&self) -> Option<SentCommand> {
        Some(SentCommand {
            step: self.step.clone(),
            leg: self.leg,
            attempt: self.attempt?,
            channel: self.channel.clone(),
            name: self.name.clone(),
            span: self.span?,
        })
    }
}

/// An event that was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedEvent {
    /// Its channel.
    pub channel: String,
    /// Its name.
    pub name: String,
    /// The span that its `traceparent` names.
    pub span: [u8; 8],
}

/// One turn of one instance. Holds no body of any message.
#[derive(Debug, Clone)]
pub struct Fact {
    /// The instance.
    pub instance: InstanceId,
    /// Which run for its key.
    pub run: u32,
    /// The saga's name and version.
    pub saga: (String, u32),
    /// The business key.
    pub key: String,
    /// The trace it belongs to.
    pub trace: Trace,
    /// The span that stands for the whole run.
    pub root: [u8; 8],
    /// When the instance began.
    pub started_at: Timestamp,
    /// Where it stands now.
    pub status: Status,
    /// Whether this turn ended it.
    pub has_ended: bool,
    /// The line of its history.
    pub line: Option<Line>,
    /// The step the line is about.
    pub step: Option<String>,
    /// The command whose reply this was; known for replies only.
    pub answered: Option<Answered>,
    /// The channel the input came from.
    pub channel: Option<String>,
    /// The type of the input's message.
    pub message: Option<String>,
    /// The trace and span that the input's `traceparent` names.
    pub caused_by: Option<spans::SpanRef>,
    /// Commands sent.
    pub commands: Vec<SentCommand>,
    /// Events published.
    pub published: Vec<PublishedEvent>,
}

impl Fact {
    pub(crate) fn of(
        core: &Core,
        plan: &Plan,
        line: Option<Line>,
        effects: &[Effect],
        message: Option<&Message>,
    ) -> Self {
        let graph = plan.graph();
        let attributes = message.map(|message| &message.attributes);
        let attribute = |name: &str| attributes.and_then(|attributes| attributes.get(name));
        let (mut commands, mut published) = (Vec::new(), Vec::new());
        for effect in effects {
            match effect {
                Effect::Command(command) => commands.push(SentCommand {
                    step: graph.name_of(command.node).to_owned(),
                    leg: command.leg,
                    attempt: command.attempt,
                    channel: command.channel.clone(),
                    name: command.name.clone(),
                    span: span_of_attempt(&command.idempotency_key, command.attempt),
                }),
                Effect::Publish { channel, name, id, .. } => published.push(PublishedEvent {
                    channel: channel.clone(),
                    name: name.clone(),
                    span: envelope::span_of(id),
                }),
            }
        }
        let node = line.as_ref().and_then(|line| line.node);
        let has_ended = core.status.is_end()
            && line.as_ref().is_some_and(|line| {
                line.verdict == Verdict::Applied && core.ended_at == Some(line.at)
            });
        Self {
            instance: core.id,
            run: core.run,
            saga: (core.definition.clone(), core.version),
            key: core.key.as_str().to_owned(),
            trace: core.trace,
            root: root_of(core),
            started_at: core.started_at,
            status: core.status,
            has_ended,
            step: node.map(|node| graph.name_of(node).to_owned()),
            line,
            answered: node
                .zip(attributes)
                .and_then(|(node, reply)| answered(core, plan, node, reply)),
            channel: message.map(|message| message.channel.clone()),
            message: attribute(names::TYPE).map(ToOwned::to_owned),
            caused_by: attribute(names::TRACEPARENT).and_then(envelope::parse_traceparent),
            commands,
            published,
        }
    }
}

/// The command that a reply answers; `None` for a message that is no reply.
fn answered(core: &Core, plan: &Plan, node: NodeId, reply: &Attributes) -> Option<Answered> {
    let head = envelope::reply_head(reply)?.ok()?;
    let step = plan.graph().step(node)?;
    let command = match (head.leg, &step.way_back) {
        (Leg::Compensate, WayBack::Compensated { command, .. }) => command,
        (Leg::Do | Leg::Compensate | Leg::Status, _) => &step.command,
    };
    let name = if head.leg == Leg::Status { StatusQuery::NAME } else { &command.name };
    let key = core.idempotency_key(&head.step, head.leg);
    Some(Answered {
        leg: head.leg,
        attempt: head.attempt,
        channel: command.channel.clone(),
        name: name.to_owned(),
        span: head.attempt.map(|attempt| span_of_attempt(&key, attempt)),
        step: head.step,
    })
}

fn span_of_attempt(idempotency_key: &Uuid, attempt: u32) -> [u8; 8] {
    envelope::span_of(&envelope::message_id(idempotency_key, attempt))
}

/// The root span of a run: later runs for the same key share the instance's id, and may share its trace.
fn root_of(core: &Core) -> [u8; 8] {
    match core.run {
        0 => envelope::root_span(core.id),
        run => envelope::span_of(&Uuid::new_v5(&core.id.0, &run.to_be_bytes())),
    }
}
