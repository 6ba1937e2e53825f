//! What the process tells about itself: facts of every turn for traces, and logs.
//!
//! Shards note a [`Fact`] for each input when somebody listens; the committer hands facts over once they are durable,
//! so that a trace never tells of something that did not happen.

use crate::engine::DeliveryJob;
use dirigent_connectors::names;
use dirigent_model::{
    decision::Effect,
    definition::Plan,
    history::Line,
    instance::{Core, InstanceId, Leg, Status, Trace},
    time::Timestamp,
};

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

/// One turn of one instance.
#[derive(Debug, Clone)]
pub struct Fact {
    /// The instance.
    pub instance: InstanceId,
    /// The saga's name and version.
    pub saga: (String, u32),
    /// The business key.
    pub key: String,
    /// The trace it belongs to.
    pub trace: Trace,
    /// When the instance began.
    pub started_at: Timestamp,
    /// Where it stands now.
    pub status: Status,
    /// The line of its history.
    pub line: Option<Line>,
    /// The step the line is about.
    pub step: Option<String>,
    /// The command whose reply this was: leg, attempt and span; known for replies only.
    pub answered: Option<SentCommand>,
    /// The channel the input came from.
    pub channel: Option<String>,
    /// The type of the input's message.
    pub message: Option<String>,
    /// The span that the input's `traceparent` names.
    pub caused_by: Option<[u8; 8]>,
    /// Commands sent.
    pub commands: Vec<SentCommand>,
}

impl Fact {
    pub(crate) fn of(
        core: &Core,
        plan: &Plan,
        line: Option<&(Line, Vec<u8>)>,
        effects: &[Effect],
        delivery: Option<&DeliveryJob>,
    ) -> Self {
        let graph = plan.graph();
        let line = line.map(|(line, _)| line.clone());
        let attributes = delivery.map(|delivery| &delivery.message.attributes);
        let attribute = |name: &str| attributes.and_then(|attributes| attributes.get(name));
        let commands = effects.iter().filter_map(|effect| match effect {
            Effect::Command(command) => Some(SentCommand {
                step: graph.name_of(command.node).to_owned(),
                leg: command.leg,
                attempt: command.attempt,
                channel: command.channel.clone(),
                name: command.name.clone(),
                span: crate::envelope::span_of(&crate::envelope::message_id(
                    &command.idempotency_key,
                    command.attempt,
                )),
            }),
            Effect::Publish { .. } => None,
        });
        let answered = attributes.and_then(|attributes| {
            let head = crate::envelope::reply_head(attributes)?.ok()?;
            let (key, attempt) = (head.key?, head.attempt?);
            Some(SentCommand {
                step: head.step,
                leg: head.leg,
                attempt,
                channel: String::new(),
                name: String::new(),
                span: crate::envelope::span_of(&crate::envelope::message_id(&key, attempt)),
            })
        });
        Self {
            instance: core.id,
            saga: (core.definition.clone(), core.version),
            key: core.key.as_str().to_owned(),
            trace: core.trace,
            started_at: core.started_at,
            status: core.status,
            step: line
                .as_ref()
                .and_then(|line| line.node)
                .map(|node| graph.name_of(node).to_owned()),
            line,
            answered,
            channel: delivery.map(|delivery| delivery.message.channel.clone()),
            message: attribute(names::TYPE).map(ToOwned::to_owned),
            caused_by: attribute(names::TRACEPARENT)
                .and_then(crate::envelope::parse_traceparent)
                .map(|(_, span)| span),
            commands: commands.collect(),
        }
    }
}
