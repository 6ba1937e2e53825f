//! What a saga is: a graph that can be stored, drawn, hashed and checked, and plain functions by its side.
//!
//! [`saga`] begins a declaration, [`SagaDraft::ends_with`] finishes it and reports every mistake of the graph at once.

mod behaviour;
mod block;
mod draw;
mod errors;
mod fingerprint;
mod graph;
mod invented;
mod rules;

pub(crate) use behaviour::{BeginAct, Behaviour, Declared};
pub use behaviour::{Data, Invented};
pub use block::{
    AllDraft, Block, CanNotHappen, ChooseDraft, Handled, IntoBlock, Limited, Outcome,
    RejectionSettled, StepDraft, TimeLimited, Unhandled, Unlimited, WaitDraft, all, choose, pause,
    publish, step, wait, when,
};
pub(crate) use draw::plain;
pub use errors::{DefinitionError, DefinitionErrors};
pub use fingerprint::Fingerprint;
pub use graph::{
    Arm, AskStatus, Ends, Graph, Kind, MessageRef, Node, NodeId, OnTimeout, Repeat, Step, WayBack,
};
pub(crate) use rules::check as accepted;

use crate::message::{Body, Codec, CodecError, Contract, Event, Key};
use behaviour::{Act, EventAct, KeyAct};
use block::{Shape, event_act, maker};
use std::{fmt, marker::PhantomData, ops::Deref, sync::Arc, time::Duration};

/// How long an ended instance is kept if the definition does not say.
pub const RETENTION_DEFAULT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A checked definition of a saga whose own data is `D`.
pub struct Definition<D> {
    plan: Arc<Plan>,
    data: PhantomData<fn(D)>,
}

impl<D> Clone for Definition<D> {
    fn clone(&self) -> Self {
        Self { plan: Arc::clone(&self.plan), data: PhantomData }
    }
}

impl<D> Definition<D> {
    /// The definition with its data type forgotten, as the engine keeps it.
    pub fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.plan)
    }
}

impl<D> Deref for Definition<D> {
    type Target = Plan;

    fn deref(&self) -> &Plan {
        &self.plan
    }
}

impl<D> fmt::Debug for Definition<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.plan, f)
    }
}

type ReadData = fn(&[u8]) -> Result<Box<dyn Data>, CodecError>;

/// A definition whose data type is forgotten.
pub struct Plan {
    graph: Graph,
    fingerprint: Fingerprint,
    behaviour: Arc<dyn Behaviour>,
    begin: BeginAct,
    start_key: KeyAct,
    event_keys: Vec<(String, KeyAct)>,
    read_data: ReadData,
    contracts: Vec<Contract>,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} v{} {}", self.graph.name, self.graph.version, self.fingerprint)
    }
}

impl Plan {
    /// A plan without an author: `read` makes the data of a start event's body.
    pub(crate) fn symbolic(graph: Graph, behaviour: Arc<dyn Behaviour>, read: ReadData) -> Self {
        Self {
            fingerprint: Fingerprint::of(&graph),
            graph,
            behaviour,
            begin: Box::new(move |body, _| read(&body.bytes)),
            start_key: Box::new(|_, _| Ok(Key::from("explored"))),
            event_keys: Vec::new(),
            read_data: read,
            contracts: Vec::new(),
        }
    }

    /// The shape.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The hash of the shape. It never changes once a version is released.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Every message that its instances send or read, each once; with a schema where its author gave it one.
    pub fn contracts(&self) -> &[Contract] {
        &self.contracts
    }

    /// The key of the instance that a start event begins.
    pub fn start_key(&self, body: &Body, codec: &dyn Codec) -> Result<Key, CodecError> {
        (self.start_key)(body, codec)
    }

    /// The key of the instance that an event is for; `None` if no instance ever awaits such an event.
    pub fn event_key(
        &self,
        name: &str,
        body: &Body,
        codec: &dyn Codec,
    ) -> Option<Result<Key, CodecError>> {
        self.event_keys.iter().find(|(known, _)| known == name).map(|(_, key)| key(body, codec))
    }

    /// An answer to a step that is made up from its type alone, for participants that nobody wrote: in the format of the step's own channel, or of
    /// its compensation's. `None` where the step has no such answer.
    pub fn invented(
        &self,
        node: NodeId,
        answer: Invented,
        codec: &dyn Codec,
    ) -> Option<Result<Body, CodecError>> {
        let step = self.graph.step(node)?;
        let format = match (answer, &step.way_back) {
            (Invented::Undone, WayBack::Compensated { command, .. }) => command.format,
            (Invented::Undone, _) => return None,
            (Invented::Rejection, _) if step.rejection.is_none() => return None,
            (Invented::Success | Invented::Rejection, _) => step.command.format,
        };
        self.behaviour.invented(node, answer).map(|make| make(format, codec))
    }

    /// The data an instance begins with.
    pub(crate) fn begin(
        &self,
        body: &Body,
        codec: &dyn Codec,
    ) -> Result<Box<dyn Data>, CodecError> {
        (self.begin)(body, codec)
    }

    /// Data from its stored JSON.
    pub(crate) fn read_data(&self, json: &[u8]) -> Result<Box<dyn Data>, CodecError> {
        (self.read_data)(json)
    }

    pub(crate) fn behaviour(&self) -> &dyn Behaviour {
        &*self.behaviour
    }
}

/// A saga being declared.
#[must_use = "a saga is finished by `.ends_with(..)` or `.ends()`"]
pub struct SagaDraft<D> {
    graph: Graph,
    blocks: Vec<Shape>,
    begin: BeginAct,
    start_key: KeyAct,
    cancels: Vec<EventAct>,
    contracts: Vec<Contract>,
    data: PhantomData<fn(D)>,
}

/// Begins the declaration of a saga: its name and version, the event that starts it, the business key in that event,
/// and the data an instance begins with.
pub fn saga<D, E, K>(name: &str, version: u32, key: fn(&E) -> K, begin: fn(E) -> D) -> SagaDraft<D>
where
    D: Data,
    E: Event,
    K: Into<Key> + 'static,
{
    SagaDraft {
        graph: Graph {
            name: name.into(),
            version,
            start: MessageRef::of::<E>(E::ON),
            repeat: Repeat::default(),
            deadline: None,
            retention: RETENTION_DEFAULT,
            cancelled_by: Vec::new(),
            ends: Ends { completed: None, failed: None },
            nodes: Vec::new(),
        },
        blocks: Vec::new(),
        begin: Box::new(move |body, codec| Ok(Box::new(begin(body.read::<E>(codec)?)))),
        start_key: Box::new(move |body, codec| Ok(key(&body.read::<E>(codec)?).into())),
        cancels: Vec::new(),
        contracts: vec![Contract::read::<E>(E::ON)],
        data: PhantomData,
    }
}

impl<D: Data + serde::de::DeserializeOwned> SagaDraft<D> {
    /// The next block.
    pub fn then(mut self, block: impl IntoBlock<D>) -> Self {
        self.blocks.push(block.into_block().shape);
        self
    }

    /// What a second start event with a known key means; [`Repeat::Duplicate`] if not said.
    pub fn on_repeated_start(mut self, repeat: Repeat) -> Self {
        self.graph.repeat = repeat;
        self
    }

    /// How long the whole saga may run before it turns back; without a limit if not said.
    pub fn deadline(mut self, span: Duration) -> Self {
        self.graph.deadline = Some(span);
        self
    }

    /// How long an ended instance is kept, and so how long a repeated start is recognised; [`RETENTION_DEFAULT`] if not said.
    pub fn keep_for(mut self, span: Duration) -> Self {
        self.graph.retention = span;
        self
    }

    /// An event that makes the saga turn back, as long as its pivot has not been asked for.
    pub fn cancelled_by<E: Event, K: Into<Key> + 'static>(
        mut self,
        key: fn(&E) -> K,
        handle: fn(&mut D, E),
    ) -> Self {
        self.graph.cancelled_by.push(MessageRef::of::<E>(E::ON));
        self.cancels.push(event_act(key, handle));
        self
    }

    /// Finishes the declaration with the events that tell of success and of failure.
    pub fn ends_with<S: Event, F: Event>(
        mut self,
        completed: fn(&D) -> S,
        failed: fn(&D) -> F,
    ) -> Result<Definition<D>, DefinitionErrors> {
        self.graph.ends = Ends {
            completed: Some(MessageRef::of::<S>(S::ON)),
            failed: Some(MessageRef::of::<F>(F::ON)),
        };
        self.contracts.extend([Contract::sent::<S>(S::ON), Contract::sent::<F>(F::ON)]);
        self.build(Some(maker(completed)), Some(maker(failed)))
    }

    /// Finishes the declaration of a saga that tells nobody of its end.
    pub fn ends(self) -> Result<Definition<D>, DefinitionErrors> {
        self.build(None, None)
    }

    fn build(
        self,
        completed: Option<behaviour::MakeAct>,
        failed: Option<behaviour::MakeAct>,
    ) -> Result<Definition<D>, DefinitionErrors> {
        let mut laid = Laid { nodes: Vec::new(), acts: Vec::new(), events: self.cancels };
        laid.lay(Shape::Sequence(self.blocks), None, "saga");
        let graph = Graph { nodes: laid.nodes, ..self.graph };
        rules::check(&graph)?;
        let fingerprint = Fingerprint::of(&graph);
        let event_keys =
            laid.events.iter_mut().map(|act| (act.event.name.clone(), take_key(act))).collect();
        let mut contracts = self.contracts;
        contracts.extend(laid.acts.iter().flat_map(Act::contracts));
        contracts.extend(laid.events.iter().map(|act| act.contract));
        contracts.sort_unstable();
        contracts.dedup();
        let declared = Declared { acts: laid.acts, events: laid.events, completed, failed };
        let plan = Plan {
            graph,
            fingerprint,
            behaviour: Arc::new(declared),
            begin: self.begin,
            start_key: self.start_key,
            event_keys,
            read_data: |json| {
                serde_json::from_slice::<D>(json)
                    .map(|data| Box::new(data) as Box<dyn Data>)
                    .map_err(|error| {
                        CodecError::new(
                            std::any::type_name::<D>(),
                            crate::message::Format::Json,
                            error,
                        )
                    })
            },
            contracts,
        };
        Ok(Definition { plan: Arc::new(plan), data: PhantomData })
    }
}

fn take_key(act: &mut EventAct) -> KeyAct {
    std::mem::replace(&mut act.key, Box::new(|_, _| unreachable!("keys are asked of the plan")))
}

/// Nodes given their places, parents first.
struct Laid {
    nodes: Vec<Node>,
    acts: Vec<Act>,
    events: Vec<EventAct>,
}

impl Laid {
    fn lay(&mut self, shape: Shape, parent: Option<NodeId>, fallback: &str) -> NodeId {
        // Places beyond the bound are never used: `rules::check` refuses such a graph.
        let id = NodeId(u16::try_from(self.nodes.len()).unwrap_or(u16::MAX));
        let (name, kind, act) = match &shape {
            Shape::Sequence(_) => (fallback.into(), Kind::Sequence { children: Vec::new() }, None),
            Shape::Step { name, step, .. } => (name.clone(), Kind::Step(step.clone()), None),
            Shape::Wait { name, kind, .. } => (name.clone(), kind.clone(), None),
            Shape::All { name, .. } => (name.clone(), Kind::All { branches: Vec::new() }, None),
            Shape::Choose { name, .. } => {
                (name.clone(), Kind::Choose { arms: Vec::new(), otherwise: None }, None)
            }
            Shape::Publish { name, event, .. } => {
                (name.clone(), Kind::Publish { event: event.clone() }, None)
            }
            Shape::Pause { name, span } => {
                (name.clone(), Kind::Pause { span: *span }, Some(Act::Container))
            }
        };
        let inner = format!("{name}/");
        self.nodes.push(Node { name, parent, kind });
        self.acts.push(act.unwrap_or(Act::Container));
        match shape {
            Shape::Sequence(blocks) => {
                let children = self.lay_each(blocks, id, &inner);
                self.nodes[id.index()].kind = Kind::Sequence { children };
            }
            Shape::All { branches, .. } => {
                let branches = self.lay_each(branches, id, &inner);
                self.nodes[id.index()].kind = Kind::All { branches };
            }
            Shape::Choose { labels, arms, otherwise, act, .. } => {
                let places = self.lay_each(arms, id, &inner);
                let otherwise =
                    otherwise.map(|shape| self.lay(*shape, Some(id), &format!("{inner}otherwise")));
                let arms = labels
                    .into_iter()
                    .zip(places)
                    .map(|(label, node)| Arm { label, node })
                    .collect();
                self.nodes[id.index()].kind = Kind::Choose { arms, otherwise };
                self.acts[id.index()] = act;
            }
            Shape::Step { act, .. } | Shape::Publish { act, .. } => self.acts[id.index()] = act,
            Shape::Wait { events, act, .. } => {
                self.events
                    .extend(events.into_iter().map(|event| EventAct { node: Some(id), ..event }));
                self.acts[id.index()] = act;
            }
            Shape::Pause { .. } => {}
        }
        id
    }

    fn lay_each(&mut self, shapes: Vec<Shape>, parent: NodeId, inner: &str) -> Vec<NodeId> {
        let place = |(index, shape)| self.lay(shape, Some(parent), &format!("{inner}{index}"));
        shapes.into_iter().enumerate().map(place).collect()
    }
}
