//! The functions of a saga whose messages say nothing: what is sent is empty, what comes in is not read, and choices take the arm
//! that the start event names.

use super::{Choices, empty};
use crate::{
    definition::{Behaviour, Data, NodeId},
    message::{Body, Codec, CodecError, Format, StatusQuery},
};

/// The start event carries the answers: an instance comes by its data in no other way.
pub(super) fn start_body(choices: &Choices) -> Body {
    let bytes = serde_json::to_vec(choices).expect("places and numbers can be written as JSON");
    Body { format: Format::Json, bytes }
}

pub(super) fn read_choices(json: &[u8]) -> Result<Box<dyn Data>, CodecError> {
    serde_json::from_slice::<Choices>(json)
        .map(|choices| Box::new(choices) as Box<dyn Data>)
        .map_err(|error| CodecError::new("choices", Format::Json, error))
}

/// Functions without content: what is sent is empty, and what comes in is not read.
pub(super) struct Silent {
    pub(super) ends: [bool; 2],
}

impl Behaviour for Silent {
    fn command(&self, _: NodeId, _: &dyn Data, _: &dyn Codec) -> Result<Body, CodecError> {
        Ok(empty(Format::Json))
    }

    fn succeeded(
        &self,
        _: NodeId,
        _: &mut dyn Data,
        _: &Body,
        _: &dyn Codec,
    ) -> Result<(), CodecError> {
        Ok(())
    }

    fn rejected(
        &self,
        _: NodeId,
        _: &mut dyn Data,
        _: &Body,
        _: &dyn Codec,
    ) -> Result<(), CodecError> {
        Ok(())
    }

    fn undo(
        &self,
        _: NodeId,
        _: &dyn Data,
        _: Option<&Body>,
        _: &dyn Codec,
    ) -> Result<Body, CodecError> {
        Ok(empty(Format::Json))
    }

    fn question(&self, _: &StatusQuery, _: Format, _: &dyn Codec) -> Result<Body, CodecError> {
        Ok(empty(Format::Json))
    }

    fn event(
        &self,
        _: Option<NodeId>,
        _: &str,
        _: &mut dyn Data,
        _: &Body,
        _: &dyn Codec,
    ) -> Result<(), CodecError> {
        Ok(())
    }

    fn choose(&self, node: NodeId, data: &dyn Data) -> Option<usize> {
        let choices: &Choices = data
            .as_any()
            .downcast_ref()
            .expect("an explored instance carries answers to choices as its data");
        choices.0.iter().find(|(known, _)| *known == node).and_then(|(_, answer)| *answer)
    }

    fn publish(&self, _: NodeId, _: &dyn Data, _: &dyn Codec) -> Result<Body, CodecError> {
        Ok(empty(Format::Json))
    }

    fn end(
        &self,
        completed: bool,
        _: &dyn Data,
        _: &dyn Codec,
    ) -> Option<Result<Body, CodecError>> {
        let is_told = self.ends[usize::from(!completed)];
        is_told.then(|| Ok(empty(Format::Json)))
    }
}
