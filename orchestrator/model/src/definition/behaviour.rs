//! The functions behind a graph: what the author wrote, its types forgotten.
//!
//! [`Behaviour`] is what a transition asks. [`Declared`] answers with the author's functions; the explorer answers without
//! any data, so that the very same transition can be driven through every order of inputs.

use super::{
    graph::{MessageRef, NodeId},
    invented::InventAct,
};
use crate::message::{Body, Codec, CodecError, Contract, Format, Key, StatusQuery};
use serde::{Serialize, de::DeserializeOwned};
use std::any::Any;

/// A saga's own data.
pub trait Data: Any + Send + Sync {
    /// Appends it as JSON text.
    fn write_json(&self, into: &mut Vec<u8>) -> Result<(), CodecError>;
    /// As JSON text.
    fn to_json(&self) -> Result<Vec<u8>, CodecError> {
        let mut text = Vec::new();
        self.write_json(&mut text).map(|()| text)
    }
    /// A copy.
    fn copy(&self) -> Box<dyn Data>;
    /// For looking at its type.
    fn as_any(&self) -> &dyn Any;
    /// For looking at its type.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

impl<D: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> Data for D {
    fn write_json(&self, into: &mut Vec<u8>) -> Result<(), CodecError> {
        serde_json::to_writer(into, self).map_err(|error| {
            CodecError::new(std::any::type_name::<D>(), crate::message::Format::Json, error)
        })
    }

    fn copy(&self) -> Box<dyn Data> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

pub(crate) fn data_ref<D: Data>(data: &dyn Data) -> &D {
    data.as_any().downcast_ref().expect("an instance carries the data type of its own definition")
}

pub(crate) fn data_mut<D: Data>(data: &mut dyn Data) -> &mut D {
    data.as_any_mut()
        .downcast_mut()
        .expect("an instance carries the data type of its own definition")
}

pub(crate) type MakeAct =
    Box<dyn Fn(&dyn Data, &dyn Codec) -> Result<Body, CodecError> + Send + Sync>;
pub(crate) type HandleAct =
    Box<dyn Fn(&mut dyn Data, &Body, &dyn Codec) -> Result<(), CodecError> + Send + Sync>;
pub(crate) type UndoAct =
    Box<dyn Fn(&dyn Data, Option<&Body>, &dyn Codec) -> Result<Body, CodecError> + Send + Sync>;
pub(crate) type ChooseAct = Box<dyn Fn(&dyn Data) -> Option<usize> + Send + Sync>;
pub(crate) type KeyAct = Box<dyn Fn(&Body, &dyn Codec) -> Result<Key, CodecError> + Send + Sync>;
pub(crate) type BeginAct =
    Box<dyn Fn(&Body, &dyn Codec) -> Result<Box<dyn Data>, CodecError> + Send + Sync>;

/// What one node does.
pub(crate) enum Act {
    Container,
    Step(StepAct),
    Wait,
    Choose(ChooseAct),
    Publish(MakeAct, Contract),
}

pub(crate) struct StepAct {
    pub command: MakeAct,
    pub succeeded: HandleAct,
    pub rejected: HandleAct,
    pub undo: Option<UndoAct>,
    pub invented: InventedActs,
    pub contracts: Vec<Contract>,
}

/// Its answers, made up from their types.
pub(crate) struct InventedActs {
    pub success: InventAct,
    pub rejection: InventAct,
    pub undone: Option<InventAct>,
}

impl Act {
    /// The messages it sends and reads; an awaited event has its own place.
    pub(crate) fn contracts(&self) -> &[Contract] {
        match self {
            Self::Step(step) => &step.contracts,
            Self::Publish(_, contract) => std::slice::from_ref(contract),
            Self::Container | Self::Wait | Self::Choose(_) => &[],
        }
    }
}

/// How an event finds its instance and what it does there.
pub(crate) struct EventAct {
    /// The wait it is for; `None` for an event that cancels.
    pub node: Option<NodeId>,
    pub event: MessageRef,
    pub contract: Contract,
    pub key: KeyAct,
    pub handle: HandleAct,
}

/// Which answer to a step is made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invented {
    /// It was done.
    Success,
    /// It was refused.
    Rejection,
    /// Its compensation was done.
    Undone,
}

/// What a transition asks of a definition.
pub(crate) trait Behaviour: Send + Sync {
    /// The command of a step.
    fn command(&self, node: NodeId, data: &dyn Data, codec: &dyn Codec)
    -> Result<Body, CodecError>;
    /// A step's success: changes nothing when the body can't be read.
    fn succeeded(
        &self,
        node: NodeId,
        data: &mut dyn Data,
        body: &Body,
        codec: &dyn Codec,
    ) -> Result<(), CodecError>;
    /// A step's rejection: changes nothing when the body can't be read.
    fn rejected(
        &self,
        node: NodeId,
        data: &mut dyn Data,
        body: &Body,
        codec: &dyn Codec,
    ) -> Result<(), CodecError>;
    /// The command that undoes a step, with its reply, or in doubt.
    fn undo(
        &self,
        node: NodeId,
        data: &dyn Data,
        done: Option<&Body>,
        codec: &dyn Codec,
    ) -> Result<Body, CodecError>;
    /// The question what became of a step.
    fn question(
        &self,
        query: &StatusQuery,
        format: Format,
        codec: &dyn Codec,
    ) -> Result<Body, CodecError>;
    /// An awaited event: changes nothing when the body can't be read.
    fn event(
        &self,
        node: Option<NodeId>,
        name: &str,
        data: &mut dyn Data,
        body: &Body,
        codec: &dyn Codec,
    ) -> Result<(), CodecError>;
    /// The arm to take; `None` for none.
    fn choose(&self, node: NodeId, data: &dyn Data) -> Option<usize>;
    /// The event to emit.
    fn publish(&self, node: NodeId, data: &dyn Data, codec: &dyn Codec)
    -> Result<Body, CodecError>;
    /// Makes up an answer to a step; `None` where it has none such.
    fn invented(&self, _node: NodeId, _answer: Invented) -> Option<InventAct> {
        None
    }
    /// The event that tells of the end, where one is declared.
    fn end(
        &self,
        completed: bool,
        data: &dyn Data,
        codec: &dyn Codec,
    ) -> Option<Result<Body, CodecError>>;
}

/// The author's functions.
pub(crate) struct Declared {
    pub acts: Vec<Act>,
    pub events: Vec<EventAct>,
    pub completed: Option<MakeAct>,
    pub failed: Option<MakeAct>,
}

impl Declared {
    fn step(&self, node: NodeId) -> &StepAct {
        match &self.acts[node.index()] {
            Act::Step(act) => act,
            _ => unreachable!("only steps are asked for a step's functions"),
        }
    }
}

impl Behaviour for Declared {
    fn command(
        &self,
        node: NodeId,
        data: &dyn Data,
        codec: &dyn Codec,
    ) -> Result<Body, CodecError> {
        (self.step(node).command)(data, codec)
    }

    fn succeeded(
        &self,
        node: NodeId,
        data: &mut dyn Data,
        body: &Body,
        codec: &dyn Codec,
    ) -> Result<(), CodecError> {
        (self.step(node).succeeded)(data, body, codec)
    }

    fn rejected(
        &self,
        node: NodeId,
        data: &mut dyn Data,
        body: &Body,
        codec: &dyn Codec,
    ) -> Result<(), CodecError> {
        (self.step(node).rejected)(data, body, codec)
    }

    fn undo(
        &self,
        node: NodeId,
        data: &dyn Data,
        done: Option<&Body>,
        codec: &dyn Codec,
    ) -> Result<Body, CodecError> {
        let undo = self.step(node).undo.as_ref().expect("only compensatable steps are compensated");
        undo(data, done, codec)
    }

    fn question(
        &self,
        query: &StatusQuery,
        format: Format,
        codec: &dyn Codec,
    ) -> Result<Body, CodecError> {
        Body::write(query, format, codec)
    }

    fn event(
        &self,
        node: Option<NodeId>,
        name: &str,
        data: &mut dyn Data,
        body: &Body,
        codec: &dyn Codec,
    ) -> Result<(), CodecError> {
        let act = self.events.iter().find(|act| act.node == node && act.event.name == name);
        (act.expect("only awaited events reach the data").handle)(data, body, codec)
    }

    fn choose(&self, node: NodeId, data: &dyn Data) -> Option<usize> {
        match &self.acts[node.index()] {
            Act::Choose(ask) => ask(data),
            _ => unreachable!("only choices are asked to choose"),
        }
    }

    fn publish(
        &self,
        node: NodeId,
        data: &dyn Data,
        codec: &dyn Codec,
    ) -> Result<Body, CodecError> {
        match &self.acts[node.index()] {
            Act::Publish(make, _) => make(data, codec),
            _ => unreachable!("only publishing nodes publish"),
        }
    }

    fn invented(&self, node: NodeId, answer: Invented) -> Option<InventAct> {
        let Act::Step(step) = self.acts.get(node.index())? else { return None };
        match answer {
            Invented::Success => Some(step.invented.success),
            Invented::Rejection => Some(step.invented.rejection),
            Invented::Undone => step.invented.undone,
        }
    }

    fn end(
        &self,
        completed: bool,
        data: &dyn Data,
        codec: &dyn Codec,
    ) -> Option<Result<Body, CodecError>> {
        let make = if completed { self.completed.as_ref() } else { self.failed.as_ref() };
        make.map(|make| make(data, codec))
    }
}
