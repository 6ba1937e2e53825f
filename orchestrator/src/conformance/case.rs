//! Samples: for any number a command with its business key, the compensation that undoes it, and one that is refused.
//!
//! Types are known where a case is declared and forgotten behind it, as in the participant kit.

use dirigent_model::message::{
    Body, Channel, Codec, CodecError, Command, Format, Key, Message, Never,
};
use std::marker::PhantomData;

/// A command that a participant carries out, by samples.
///
/// ```
/// # use dirigent::conformance::Case;
/// # use dirigent_model::message::{Channel, Command, Message, Never};
/// # use serde::{Deserialize, Serialize};
/// # macro_rules! message { ($($name:ident { $($field:ident),* }),*) => { $(
/// #     #[derive(Serialize, Deserialize)] struct $name { $($field: i64),* }
/// #     impl Message for $name { const NAME: &'static str = stringify!($name); } )* } }
/// # message!(Reserve { order, pieces }, Reserved { number }, SoldOut { order }, Release { order }, Released { order });
/// # impl Command for Reserve { const TO: Channel = Channel::json("stock"); type Success = Reserved; type Rejection = SoldOut; }
/// # impl Command for Release { const TO: Channel = Channel::json("stock"); type Success = Released; type Rejection = Never; }
/// let case = Case::of(|number| (number, Reserve { order: number, pieces: 1 }))
///     .undone_by(|number| (number, Release { order: number }))
///     .refused(|number| (number, Reserve { order: number, pieces: 1_000_000 }));
/// ```
#[must_use = "a case is played by `Conformance::case(..)`"]
pub struct Case<C: Command> {
    played: Played,
    command: PhantomData<fn() -> C>,
}

/// A case, its types forgotten.
pub(super) struct Played {
    pub command: Sample,
    pub undo: Option<Sample>,
    pub refused: Option<Sample>,
    pub tells_status: bool,
}

/// How a message is made of a number, and which answers it may get.
pub(super) struct Sample {
    pub channel: Channel,
    pub name: &'static str,
    pub success: Kind,
    pub rejection: Option<Kind>,
    make: Box<Make>,
}

/// Makes the message of a number.
type Make = dyn Fn(i64, &dyn Codec) -> Result<(Key, Body), CodecError> + Send + Sync;

/// A type of answer.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    pub name: &'static str,
    reads: fn(&Body, &dyn Codec) -> Result<(), CodecError>,
}

impl<C: Command> Case<C> {
    /// A command that is to be done. For each number a business key and the command; different numbers have different keys.
    pub fn of<K: Into<Key>>(make: impl Fn(i64) -> (K, C) + Send + Sync + 'static) -> Self {
        let command = Sample::of(make);
        let played = Played { command, undo: None, refused: None, tells_status: true };
        Self { played, command: PhantomData }
    }

    /// What undoes it: for each number the same business key, and the compensation as it is sent when no answer is known.
    pub fn undone_by<K: Into<Key>, X: Command<Rejection = Never>>(
        mut self,
        make: impl Fn(i64) -> (K, X) + Send + Sync + 'static,
    ) -> Self {
        self.played.undo = Some(Sample::of(make));
        self
    }

    /// A command of the same type that is refused for a business reason.
    pub fn refused<K: Into<Key>>(
        mut self,
        make: impl Fn(i64) -> (K, C) + Send + Sync + 'static,
    ) -> Self {
        self.played.refused = Some(Sample::of(make));
        self
    }

    /// Leaves out the third duty: no definition asks about it by `status_by`.
    pub fn without_status(mut self) -> Self {
        self.played.tells_status = false;
        self
    }

    pub(super) fn played(self) -> Played {
        self.played
    }
}

impl Played {
    /// All its samples.
    pub(super) fn samples(&self) -> impl Iterator<Item = &Sample> {
        [Some(&self.command), self.undo.as_ref(), self.refused.as_ref()].into_iter().flatten()
    }
}

impl Sample {
    fn of<K: Into<Key>, C: Command>(make: impl Fn(i64) -> (K, C) + Send + Sync + 'static) -> Self {
        Self {
            channel: C::TO,
            name: C::NAME,
            success: Kind::of::<C::Success>(),
            rejection: (C::Rejection::NAME != Never::NAME).then(Kind::of::<C::Rejection>),
            make: Box::new(move |number, codec| {
                let (key, command) = make(number);
                Ok((key.into(), Body::write(&command, C::TO.format, codec)?))
            }),
        }
    }

    /// The business key and the command of a number.
    pub(super) fn make(&self, number: i64, codec: &dyn Codec) -> Result<(Key, Body), CodecError> {
        (self.make)(number, codec)
    }

    pub(super) fn format(&self) -> Format {
        self.channel.format
    }
}

impl Kind {
    fn of<M: Message>() -> Self {
        Self { name: M::NAME, reads: |body, codec| body.read::<M>(codec).map(drop) }
    }

    /// Whether these bytes are such an answer.
    pub(super) fn reads(&self, body: &Body, codec: &dyn Codec) -> Result<(), CodecError> {
        (self.reads)(body, codec)
    }
}
