//! The decision: a definition, an instance, an input and the time give a new instance and what is to be sent.
//!
//! [`start`] and [`apply`] are plain functions. They never fail on anything the world can say: a message that can't be
//! read is an [`Unreadable`] value and leaves the instance as it was. The rules they obey are numbered in the reference of
//! sagas; the ways forward are in [`forward`], those back in [`backward`], replies and time in [`answers`],
//! questions what became of a step in [`questions`].

mod answers;
mod backward;
mod events;
mod forward;
mod held;
mod operator;
mod questions;

pub use events::awaited_on;
pub use held::destination;

use crate::{
    decision::{Command, Decision, Effect, Heard, Input, Unreadable},
    definition::{Graph, NodeId, Plan},
    history::{Line, Verdict, What, Why},
    instance::{
        Cause, CauseKind, Core, EVENTS_TAKEN_MAX, Incident, Instance, InstanceId, Leg, NodeState,
        Status, Trace, taken_id,
    },
    message::{Body, Codec, CodecError, Key},
    planted::{self, Mistake},
    time::Timestamp,
};

/// Characters kept of a text that came from outside, in causes, incidents and history.
const TEXT_CHARS_MAX: usize = 200;

/// Where the event that tells of the end gets its id from. No block can be called so: its id is never another one's.
const END_PLACE: &str = "/end";

/// What a start event brings along.
#[derive(Debug, Clone)]
pub struct Start<'a> {
    /// The business key, as [`Plan::start_key`] reads it.
    pub key: Key,
    /// Which run for this key; 0 for the first.
    pub run: u32,
    /// The start event.
    pub body: &'a Body,
    /// The id of its message.
    pub cause: Option<String>,
    /// The trace the instance is to belong to.
    pub trace: Trace,
}

/// Begins an instance.
pub fn start(
    plan: &Plan,
    start: Start<'_>,
    now: Timestamp,
    codec: &dyn Codec,
) -> Result<Decision, Unreadable> {
    let graph = plan.graph();
    let data = plan.begin(start.body, codec)?;
    let id = InstanceId::of(&graph.name, &start.key);
    let core = Core {
        id,
        definition: graph.name.clone(),
        version: graph.version,
        fingerprint: plan.fingerprint(),
        key: start.key,
        run: start.run,
        status: Status::Running,
        revision: 1,
        nodes: vec![NodeState::Idle; graph.nodes.len()],
        cause: None,
        incidents: Vec::new(),
        early: Vec::new(),
        events_taken: start.cause.iter().map(|message| taken_id(id, message)).collect(),
        started_at: now,
        ended_at: None,
        deadline: graph.deadline.map(|span| now + span),
        trace: start.trace,
    };
    let instance = Instance { core, data, history: Default::default() };
    let mut turn = Turn::new(plan, instance, now, codec);
    turn.enter(Graph::ROOT);
    let told = Told { what: What::Started, node: None, note: None };
    Ok(turn.decide(Verdict::Applied, told, start.cause))
}

/// Begins the next run of a key in the place of one that has ended, whatever run the start event says. It remembers the messages that
/// began earlier runs, and those they took: delivered again, they begin no further run and are no events of this one.
pub fn start_again(
    plan: &Plan,
    start: Start<'_>,
    ended: &Core,
    now: Timestamp,
    codec: &dyn Codec,
) -> Result<Decision, Unreadable> {
    let further = u32::from(!planted::is(Mistake::RunNotAdvanced));
    let run = ended.run.saturating_add(further);
    let mut decision = self::start(plan, Start { run, ..start }, now, codec)?;
    let taken = &mut decision.instance.core.events_taken;
    taken.splice(0..0, ended.events_taken.iter().copied());
    taken.drain(..taken.len().saturating_sub(EVENTS_TAKEN_MAX));
    Ok(decision)
}

/// Applies one input. The instance comes back unchanged beside the reason when the input can't be read.
pub fn apply(
    plan: &Plan,
    instance: Instance,
    input: Input,
    cause: Option<String>,
    now: Timestamp,
    codec: &dyn Codec,
) -> Result<Decision, (Box<Instance>, Unreadable)> {
    let mut turn = Turn::new(plan, instance, now, codec);
    let outcome = match input {
        Input::Reply(reply) => turn.reply(reply),
        Input::Event { name, body } => turn.event(&name, body, cause.clone()),
        Input::Due => Ok(turn.due()),
        Input::Held { node, leg, attempt, hold, until } => {
            turn.held((node, leg, attempt), hold, until)
        }
        Input::Unheard { node, until } => Ok(turn.unheard(node, until)),
        Input::Unsent { node, leg, attempt, text } => turn.unsent(node, leg, attempt, &text),
        Input::Operator { action, by, why } => Ok(turn.operator(&action, &by, &why)),
    };
    match outcome {
        Ok((verdict, told)) => {
            if verdict == Verdict::Applied || verdict == Verdict::Deferred {
                turn.instance.core.revision += 1;
            }
            Ok(turn.decide(verdict, told, cause))
        }
        Err(unreadable) => Err((Box::new(turn.instance), unreadable)),
    }
}

/// What the history is told of an input.
struct Told {
    what: What,
    node: Option<NodeId>,
    note: Option<String>,
}

impl Told {
    fn of(what: What, node: NodeId) -> Self {
        Self { what, node: Some(node), note: None }
    }

    fn noting(mut self, text: &str) -> Self {
        self.note = Some(shorten(text));
        self
    }

    fn ignored(self, why: Why) -> (Verdict, Self) {
        (Verdict::Ignored(why), self)
    }
}

type Outcome = (Verdict, Told);

/// One input on its way through an instance.
struct Turn<'a> {
    plan: &'a Plan,
    codec: &'a dyn Codec,
    now: Timestamp,
    instance: Instance,
    effects: Vec<Effect>,
    incidents_raised: u32,
    heard: Option<Heard>,
    /// The history has a line about it already.
    is_told: bool,
}

impl<'a> Turn<'a> {
    fn new(plan: &'a Plan, instance: Instance, now: Timestamp, codec: &'a dyn Codec) -> Self {
        Self {
            plan,
            codec,
            now,
            instance,
            effects: Vec::new(),
            incidents_raised: 0,
            heard: None,
            is_told: false,
        }
    }

    fn decide(mut self, verdict: Verdict, told: Told, cause: Option<String>) -> Decision {
        let sent = self.effects.iter().filter_map(|effect| match effect {
            Effect::Command(Command { node, leg, attempt, .. }) => Some((*node, *leg, *attempt)),
            Effect::Publish { .. } => None,
        });
        let line = Line {
            at: self.now,
            what: told.what,
            node: told.node,
            cause: cause.map(|id| shorten(&id)),
            verdict,
            sent: sent.collect(),
            note: told.note,
        };
        let nothing = matches!(verdict, Verdict::Ignored(Why::NothingDue));
        let line = (!nothing && !self.is_told).then(|| {
            let encoded = self.instance.history.append(&line);
            (line, encoded)
        });
        Decision {
            instance: self.instance,
            verdict,
            effects: self.effects,
            line,
            heard: self.heard,
            incidents_raised: self.incidents_raised,
        }
    }

    fn graph(&self) -> &'a Graph {
        self.plan.graph()
    }

    fn state(&self, node: NodeId) -> &NodeState {
        self.instance.core.state(node)
    }

    fn set(&mut self, node: NodeId, state: NodeState) {
        self.instance.core.nodes[node.index()] = state;
    }

    fn status(&self) -> Status {
        self.instance.core.status
    }

    fn publish(
        &mut self,
        node: Option<NodeId>,
        place: &str,
        body: Result<Body, CodecError>,
        to: (&str, &str),
    ) {
        match body {
            Ok(body) => self.effects.push(Effect::Publish {
                node,
                channel: to.0.into(),
                name: to.1.into(),
                body,
                id: self.instance.core.idempotency_key(place, Leg::Do),
            }),
            Err(error) => {
                self.raise(node.unwrap_or(Graph::ROOT), Leg::Do, &format!("publishing: {error}"))
            }
        }
    }

    /// Ends the instance, and tells of it.
    fn end(&mut self, status: Status) {
        self.instance.core.status = status;
        self.instance.core.ended_at = Some(self.now);
        self.instance.core.deadline = None;
        self.instance.core.early.clear();
        let completed = match status {
            Status::Completed => true,
            Status::Compensated => false,
            Status::Running | Status::TurningBack | Status::Killed => return,
        };
        let ends = &self.graph().ends;
        let event = if completed { &ends.completed } else { &ends.failed };
        let body = self.plan.behaviour().end(completed, &*self.instance.data, self.codec);
        if let (Some(event), Some(body)) = (event, body) {
            self.publish(None, END_PLACE, body, (&event.channel, &event.name));
        }
    }

    /// Raises an incident at a node, once for each command.
    fn raise(&mut self, node: NodeId, leg: Leg, text: &str) {
        let incidents = &mut self.instance.core.incidents;
        if !incidents.iter().any(|known| known.node == node && known.leg == leg) {
            incidents.push(Incident { node, leg, since: self.now, text: shorten(text) });
            self.incidents_raised += 1;
        }
    }

    /// Closes the incident of a command that has been answered.
    fn settle_incident(&mut self, node: NodeId, leg: Leg) {
        self.instance.core.incidents.retain(|known| !(known.node == node && known.leg == leg));
    }

    fn cause(&self, node: Option<NodeId>, what: CauseKind, text: &str) -> Cause {
        Cause { node, what, text: shorten(text) }
    }
}

fn shorten(text: &str) -> String {
    // No text has more characters than bytes.
    if text.len() <= TEXT_CHARS_MAX {
        return text.into();
    }
    match text.char_indices().nth(TEXT_CHARS_MAX) {
        None => text.into(),
        Some((at, _)) => format!("{}…", &text[..at]),
    }
}
