//! Blocks as a saga's author writes them. Every stage is a type of its own, so that what is missing is a type error
//! where the block is written.

use super::{
    behaviour::{Act, Data, EventAct, InventedActs, StepAct, data_mut, data_ref},
    graph::{AskStatus, MessageRef, OnTimeout, WayBack},
    invented::{InventAct, invented},
};
use crate::{
    message::{Body, Channel, Codec, CodecError, Command, Contract, Event, Key, Message, Never},
    retry::Retry,
};
use std::{any::TypeId, marker::PhantomData, time::Duration};

/// A finished block of a saga whose own data is `D`.
pub struct Block<D> {
    pub(super) shape: Shape,
    pub(super) data: PhantomData<fn(D)>,
}

/// A block before its nodes have places.
pub(super) enum Shape {
    Sequence(Vec<Shape>),
    Step {
        name: String,
        step: Box<super::graph::Step>,
        act: Act,
    },
    Wait {
        name: String,
        kind: super::graph::Kind,
        events: Vec<EventAct>,
        act: Act,
    },
    All {
        name: String,
        branches: Vec<Shape>,
    },
    Choose {
        name: String,
        labels: Vec<String>,
        arms: Vec<Shape>,
        otherwise: Option<Box<Shape>>,
        act: Act,
    },
    Publish {
        name: String,
        event: MessageRef,
        act: Act,
    },
    Pause {
        name: String,
        span: Duration,
    },
}

/// Anything that is a finished block.
#[diagnostic::on_unimplemented(
    message = "this block is not finished",
    label = "not finished",
    note = "a step is finished by `.reply_within(..)` and then its way back: `.compensated_by(..)`, `.nothing_to_compensate(\"why\")`, `.pivot()` or `.retriable()`",
    note = "a wait is finished by `.within(..)`, a choice by `.otherwise(..)` or `.otherwise_nothing()`"
)]
pub trait IntoBlock<D> {
    /// The block.
    fn into_block(self) -> Block<D>;
}

impl<D> IntoBlock<D> for Block<D> {
    fn into_block(self) -> Block<D> {
        self
    }
}

impl<D> Block<D> {
    fn of(shape: Shape) -> Self {
        Self { shape, data: PhantomData }
    }

    /// This block and then another one.
    #[must_use]
    pub fn then(self, next: impl IntoBlock<D>) -> Self {
        let mut blocks = match self.shape {
            Shape::Sequence(blocks) => blocks,
            single => vec![single],
        };
        blocks.push(next.into_block().shape);
        Self::of(Shape::Sequence(blocks))
    }
}

impl MessageRef {
    pub(super) fn of<M: Message>(channel: Channel) -> Self {
        Self { name: M::NAME.into(), channel: channel.name.into(), format: channel.format }
    }
}

/// What a step's compensation learns of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<'a, S> {
    /// It took effect; this was its reply.
    Done(&'a S),
    /// It may or may not have taken effect.
    InDoubt,
}

/// A step whose rejection has not been handled. See [`step`].
pub struct Unhandled(());
/// A step whose rejection is handled.
pub struct Handled(());
/// A step without a time limit for its reply.
pub struct Unlimited(());
/// A step with a time limit for its reply.
pub struct Limited(());

/// A step's rejection `J` is handled, or can't happen.
#[diagnostic::on_unimplemented(
    message = "the rejection `{J}` of this step is not handled",
    label = "the saga would turn back without a word about it",
    note = "say what it does to the data, before the way back: `.on_rejection(|data, reply| ..)`",
    note = "only a command with `type Rejection = Never` needs no handler"
)]
pub trait RejectionSettled<J> {}
impl<J> RejectionSettled<J> for Handled {}
impl RejectionSettled<Never> for Unhandled {}

/// A step's reply has a time limit.
#[diagnostic::on_unimplemented(
    message = "this step has no time limit for its reply",
    label = "it would wait for ever",
    note = "say how long each attempt waits, before the way back: `.reply_within(Duration::from_secs(..))`"
)]
pub trait TimeLimited {}
impl TimeLimited for Limited {}

/// A rejection that can't happen: [`Never`].
#[diagnostic::on_unimplemented(
    message = "this command can be refused with `{Self}`",
    label = "needs a command that can't be refused",
    note = "a compensation and a retriable step are asked until they are done: their command has `type Rejection = Never`",
    note = "a step that can be refused is finished by `.compensated_by(..)`, `.nothing_to_compensate(\"why\")` or `.pivot()`"
)]
pub trait CanNotHappen: sealed::Sealed {}
impl CanNotHappen for Never {}

mod sealed {
    /// Keeps others from declaring that their rejection can't happen.
    pub trait Sealed {}
    impl Sealed for crate::message::Never {}
}

/// A step being declared.
#[must_use = "a step is finished by its way back and used in `.then(..)` or `.branch(..)`"]
pub struct StepDraft<D, C: Command, R = Unhandled, T = Unlimited> {
    name: String,
    make: fn(&D) -> C,
    on_success: Option<fn(&mut D, C::Success)>,
    on_rejection: Option<fn(&mut D, C::Rejection)>,
    reply_within: Duration,
    retry: Retry,
    status: Option<AskStatus>,
    compensation_retry: Retry,
    compensation_within: Option<Duration>,
    stage: PhantomData<fn(R, T)>,
}

/// Sends a command and awaits its reply.
pub fn step<D: Data, C: Command>(name: &str, make: fn(&D) -> C) -> StepDraft<D, C> {
    StepDraft {
        name: name.into(),
        make,
        on_success: None,
        on_rejection: None,
        reply_within: Duration::ZERO,
        retry: Retry::default(),
        status: None,
        compensation_retry: Retry::exponential(
            10,
            Duration::from_millis(200),
            Duration::from_secs(30),
        ),
        compensation_within: None,
        stage: PhantomData,
    }
}

impl<D: Data, C: Command, R, T> StepDraft<D, C, R, T> {
    fn stage<R2, T2>(self) -> StepDraft<D, C, R2, T2> {
        StepDraft {
            name: self.name,
            make: self.make,
            on_success: self.on_success,
            on_rejection: self.on_rejection,
            reply_within: self.reply_within,
            retry: self.retry,
            status: self.status,
            compensation_retry: self.compensation_retry,
            compensation_within: self.compensation_within,
            stage: PhantomData,
        }
    }

    /// What the success reply does to the data.
    pub fn on_success(mut self, handle: fn(&mut D, C::Success)) -> Self {
        self.on_success = Some(handle);
        self
    }

    /// What the rejection does to the data; the saga then turns back.
    pub fn on_rejection(mut self, handle: fn(&mut D, C::Rejection)) -> StepDraft<D, C, Handled, T> {
        self.on_rejection = Some(handle);
        self.stage()
    }

    /// How long each attempt waits for its reply.
    pub fn reply_within(mut self, limit: Duration) -> StepDraft<D, C, R, Limited> {
        self.reply_within = limit;
        self.stage()
    }

    /// When to ask again; [`Retry::default`] if not said.
    pub fn retry(mut self, policy: Retry) -> Self {
        self.retry = policy;
        self
    }

    /// Before the step counts as in doubt, its participant is asked what became of it: done, rejected, or not done and
    /// refused from now on. Only where it can't say, or does not answer, the step is in doubt. A pivot that was not done then
    /// turns the saga back; without the question it is asked again until it answers.
    ///
    /// The participant must keep the duty of [`StatusQuery`](crate::message::StatusQuery); the participant kit does.
    pub fn status_by(mut self, how: AskStatus) -> Self {
        self.status = Some(how);
        self
    }

    /// When to ask again for the compensation; exhausted, the instance is blocked with an incident.
    pub fn compensation_retry(mut self, policy: Retry) -> Self {
        self.compensation_retry = policy;
        self
    }

    /// How long each attempt of the compensation waits for its reply; as long as the step if not said.
    pub fn compensation_reply_within(mut self, limit: Duration) -> Self {
        self.compensation_within = Some(limit);
        self
    }

    fn finish(
        self,
        way_back: WayBack,
        undo: Option<(UndoAct, InventAct)>,
        undoing: Vec<Contract>,
    ) -> Block<D> {
        let (undo, undone) = undo.unzip();
        let mut contracts = Contract::asking::<C>();
        contracts.extend(undoing);
        if self.status.is_some() {
            contracts.extend(Contract::asking_status(C::TO));
        }
        let Self { make, on_success, on_rejection, .. } = self;
        let act = StepAct {
            command: Box::new(move |data, codec| {
                Body::write(&make(data_ref(data)), C::TO.format, codec)
            }),
            succeeded: Box::new(move |data, body, codec| {
                let reply = body.read::<C::Success>(codec)?;
                if let Some(handle) = on_success {
                    handle(data_mut(data), reply);
                }
                Ok(())
            }),
            rejected: Box::new(move |data, body, codec| {
                let reply = body.read::<C::Rejection>(codec)?;
                if let Some(handle) = on_rejection {
                    handle(data_mut(data), reply);
                }
                Ok(())
            }),
            undo,
            invented: InventedActs {
                success: invented::<C::Success>,
                rejection: invented::<C::Rejection>,
                undone,
            },
            contracts,
        };
        let step = super::graph::Step {
            command: MessageRef::of::<C>(C::TO),
            success: C::Success::NAME.into(),
            rejection: (TypeId::of::<C::Rejection>() != TypeId::of::<Never>())
                .then(|| C::Rejection::NAME.into()),
            reply_within: self.reply_within,
            retry: self.retry,
            status: self.status,
            way_back,
        };
        Block::of(Shape::Step { name: self.name, step: Box::new(step), act: Act::Step(act) })
    }
}

type UndoAct = super::behaviour::UndoAct;

impl<D: Data, C: Command, R, T> StepDraft<D, C, R, T> {
    /// Compensatable: this command undoes the step. It may be asked again, but never refused.
    pub fn compensated_by<X>(self, undo: fn(&D, Outcome<'_, C::Success>) -> X) -> Block<D>
    where
        X: Command<Rejection: CanNotHappen>,
        R: RejectionSettled<C::Rejection>,
        T: TimeLimited,
    {
        let way_back = WayBack::Compensated {
            command: MessageRef::of::<X>(X::TO),
            success: X::Success::NAME.into(),
            reply_within: self.compensation_within.unwrap_or(self.reply_within),
            retry: self.compensation_retry.clone(),
        };
        let act: UndoAct =
            Box::new(move |data: &dyn Data, done: Option<&Body>, codec: &dyn Codec| {
                let reply = done.map(|body| body.read::<C::Success>(codec)).transpose()?;
                let outcome = reply.as_ref().map_or(Outcome::InDoubt, Outcome::Done);
                Body::write(&undo(data_ref(data), outcome), X::TO.format, codec)
            });
        self.finish(way_back, Some((act, invented::<X::Success>)), Contract::asking::<X>())
    }

    /// There is nothing to undo. The written reason is kept with the definition and makes the exception an accepted one;
    /// without one the definition is refused.
    pub fn nothing_to_compensate(self, reason: &str) -> Block<D>
    where
        R: RejectionSettled<C::Rejection>,
        T: TimeLimited,
    {
        self.finish(WayBack::Nothing { reason: reason.into() }, None, Vec::new())
    }

    /// The point of no return: once it is done the saga only goes forward. It is never left in doubt.
    pub fn pivot(self) -> Block<D>
    where
        R: RejectionSettled<C::Rejection>,
        T: TimeLimited,
    {
        self.finish(WayBack::Pivot, None, Vec::new())
    }

    /// After the pivot: asked until it is done.
    pub fn retriable(self) -> Block<D>
    where
        C::Rejection: CanNotHappen,
        T: TimeLimited,
    {
        self.finish(WayBack::Retriable, None, Vec::new())
    }
}

/// A wait being declared.
#[must_use = "a wait is finished by `.within(..)`"]
pub struct WaitDraft<D> {
    name: String,
    event: MessageRef,
    refusing: Option<MessageRef>,
    events: Vec<EventAct>,
    data: PhantomData<fn(D)>,
}

/// Awaits an event that carries this saga's business key.
pub fn wait<D: Data, E: Event, K: Into<Key> + 'static>(
    name: &str,
    key: fn(&E) -> K,
    handle: fn(&mut D, E),
) -> WaitDraft<D> {
    WaitDraft {
        name: name.into(),
        event: MessageRef::of::<E>(E::ON),
        refusing: None,
        events: vec![event_act(key, handle)],
        data: PhantomData,
    }
}

impl<D: Data> WaitDraft<D> {
    /// Another event instead makes the saga turn back.
    pub fn or_rejected<E: Event, K: Into<Key> + 'static>(
        mut self,
        key: fn(&E) -> K,
        handle: fn(&mut D, E),
    ) -> Self {
        self.refusing = Some(MessageRef::of::<E>(E::ON));
        self.events.truncate(1);
        self.events.push(event_act(key, handle));
        self
    }

    /// How long it is awaited, and what it means when none comes.
    pub fn within(self, limit: Duration, on_timeout: OnTimeout) -> Block<D> {
        let kind = super::graph::Kind::Wait {
            event: self.event,
            refusing: self.refusing,
            within: limit,
            on_timeout,
        };
        Block::of(Shape::Wait { name: self.name, kind, events: self.events, act: Act::Wait })
    }
}

pub(super) fn event_act<D: Data, E: Event, K: Into<Key> + 'static>(
    key: fn(&E) -> K,
    handle: fn(&mut D, E),
) -> EventAct {
    EventAct {
        node: None,
        event: MessageRef::of::<E>(E::ON),
        contract: Contract::read::<E>(E::ON),
        key: Box::new(
            move |body: &Body, codec: &dyn Codec| Ok(key(&body.read::<E>(codec)?).into()),
        ),
        handle: Box::new(move |data: &mut dyn Data, body: &Body, codec: &dyn Codec| {
            let event = body.read::<E>(codec)?;
            handle(data_mut(data), event);
            Ok(())
        }),
    }
}

/// Branches side by side, being declared.
#[must_use = "branches are used in `.then(..)`"]
pub struct AllDraft<D> {
    name: String,
    branches: Vec<Shape>,
    data: PhantomData<fn(D)>,
}

/// Runs branches side by side and joins when all have succeeded.
pub fn all<D: Data>(name: &str) -> AllDraft<D> {
    AllDraft { name: name.into(), branches: Vec::new(), data: PhantomData }
}

impl<D: Data> AllDraft<D> {
    /// One more branch.
    pub fn branch(mut self, block: impl IntoBlock<D>) -> Self {
        self.branches.push(block.into_block().shape);
        self
    }
}

impl<D: Data> IntoBlock<D> for AllDraft<D> {
    fn into_block(self) -> Block<D> {
        Block::of(Shape::All { name: self.name, branches: self.branches })
    }
}

/// A choice being declared.
#[must_use = "a choice is finished by `.otherwise(..)` or `.otherwise_nothing()`"]
pub struct ChooseDraft<D> {
    name: String,
    labels: Vec<String>,
    asks: Vec<fn(&D) -> bool>,
    arms: Vec<Shape>,
}

/// Goes through a block only when the data says so. The answer is recorded when first asked.
pub fn when<D: Data>(name: &str, holds: fn(&D) -> bool, block: impl IntoBlock<D>) -> Block<D> {
    choose(name).arm("yes", holds, block).otherwise_nothing()
}

/// Takes the first arm whose question the data answers with yes. The answer is recorded when first asked.
pub fn choose<D: Data>(name: &str) -> ChooseDraft<D> {
    ChooseDraft { name: name.into(), labels: Vec::new(), asks: Vec::new(), arms: Vec::new() }
}

impl<D: Data> ChooseDraft<D> {
    /// One more arm.
    pub fn arm(mut self, label: &str, holds: fn(&D) -> bool, block: impl IntoBlock<D>) -> Self {
        self.labels.push(label.into());
        self.asks.push(holds);
        self.arms.push(block.into_block().shape);
        self
    }

    /// Where it goes when no arm applies.
    pub fn otherwise(self, block: impl IntoBlock<D>) -> Block<D> {
        let shape = block.into_block().shape;
        self.finish(Some(Box::new(shape)))
    }

    /// Goes on at once when no arm applies.
    pub fn otherwise_nothing(self) -> Block<D> {
        self.finish(None)
    }

    fn finish(self, otherwise: Option<Box<Shape>>) -> Block<D> {
        let asks = self.asks;
        let act = Act::Choose(Box::new(move |data: &dyn Data| {
            let data = data_ref::<D>(data);
            asks.iter().position(|holds| holds(data))
        }));
        Block::of(Shape::Choose {
            name: self.name,
            labels: self.labels,
            arms: self.arms,
            otherwise,
            act,
        })
    }
}

/// Emits an event and goes on.
pub fn publish<D: Data, E: Event>(name: &str, make: fn(&D) -> E) -> Block<D> {
    Block::of(Shape::Publish {
        name: name.into(),
        event: MessageRef::of::<E>(E::ON),
        act: Act::Publish(maker(make), Contract::sent::<E>(E::ON)),
    })
}

pub(super) fn maker<D: Data, E: Event>(make: fn(&D) -> E) -> super::behaviour::MakeAct {
    Box::new(move |data: &dyn Data, codec: &dyn Codec| -> Result<Body, CodecError> {
        Body::write(&make(data_ref(data)), E::ON.format, codec)
    })
}

/// Goes on after a while. Survives restarts.
pub fn pause<D: Data>(name: &str, span: Duration) -> Block<D> {
    Block::of(Shape::Pause { name: name.into(), span })
}
