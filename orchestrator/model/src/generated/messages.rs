//! The messages that generated sagas are made of: twelve places for steps, four events, and what begins and ends a saga.
//!
//! A place has two commands: [`Do`], which may be refused and is undone by [`Undo`], and [`Insist`], which can't be refused and is
//! undone by [`Desist`]. The number is a part of the type, so that every place has contracts of its own, as sagas have that
//! people write. Events carry a slot as well: sagas in different slots share none, and so can run in one process.

use crate::message::{Channel, Command, Event, Message, Never};
use serde::{Deserialize, Serialize};

/// Places for steps.
pub const PLACES: usize = 12;
/// Sets of events. Sagas of different slots neither begin nor wake each other.
pub const SLOTS: usize = 3;
/// Events that a wait may await, in each slot.
pub const EVENTS: usize = 4;
/// Events that a saga may publish under way, in each slot.
pub const NOTICES: usize = 2;

/// Where participants read their commands: each serves every fourth place.
pub const PARTICIPANTS: [Channel; 4] =
    [Channel::json("north"), Channel::json("east"), Channel::json("south"), Channel::json("west")];

/// Where sagas are begun and withdrawn.
pub const BEGINNINGS: Channel = Channel::json("beginnings");
/// Where what waits are for is told.
pub const HAPPENINGS: Channel = Channel::json("happenings");
/// Where a refusal of what waits are for is told.
pub const OBJECTIONS: Channel = Channel::json("objections");
/// Where sagas tell of themselves.
pub const NOTES: Channel = Channel::json("notes");

macro_rules! places {
    ($prefix:literal) => {
        [
            concat!($prefix, "0"),
            concat!($prefix, "1"),
            concat!($prefix, "2"),
            concat!($prefix, "3"),
            concat!($prefix, "4"),
            concat!($prefix, "5"),
            concat!($prefix, "6"),
            concat!($prefix, "7"),
            concat!($prefix, "8"),
            concat!($prefix, "9"),
            concat!($prefix, "10"),
            concat!($prefix, "11"),
        ]
    };
}
macro_rules! slots {
    ($prefix:literal) => {
        [concat!($prefix, "A"), concat!($prefix, "B"), concat!($prefix, "C")]
    };
}
const DO: [&str; PLACES] = places!("Do");
const DID: [&str; PLACES] = places!("Did");
const REFUSED: [&str; PLACES] = places!("Refused");
const UNDO: [&str; PLACES] = places!("Undo");
const UNDID: [&str; PLACES] = places!("Undid");
const INSIST: [&str; PLACES] = places!("Insist");
const DESIST: [&str; PLACES] = places!("Desist");

const BEGUN: [&str; SLOTS] = slots!("Begun");
const WITHDRAWN: [&str; SLOTS] = slots!("Withdrawn");
const COMPLETED: [&str; SLOTS] = slots!("Completed");
const FAILED: [&str; SLOTS] = slots!("Failed");
const HAPPENED: [[&str; SLOTS]; EVENTS] =
    [slots!("Happened0"), slots!("Happened1"), slots!("Happened2"), slots!("Happened3")];
const OBJECTED: [[&str; SLOTS]; EVENTS] =
    [slots!("Objected0"), slots!("Objected1"), slots!("Objected2"), slots!("Objected3")];
const NOTED: [[&str; SLOTS]; NOTICES] = [slots!("Noted0"), slots!("Noted1")];

macro_rules! of_a_place {
    ($($(#[$doc:meta])* $name:ident = $names:ident { $($(#[$inner:meta])* $field:ident: $kind:ty),* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        pub struct $name<const N: usize> {
            /// The business key.
            pub key: u64,
            $($(#[$inner])* pub $field: $kind),*
        }

        impl<const N: usize> Message for $name<N> {
            const NAME: &'static str = $names[N];
        }
    )*};
}

of_a_place! {
    /// What a step asks for; may be refused.
    Do = DO {
        /// How much had happened in its saga when it was written.
        seen: u32
    }
    /// What a step asks for that can't be refused.
    Insist = INSIST {
        /// How much had happened in its saga when it was written.
        seen: u32
    }
    /// It was done.
    Did = DID {
        /// What the participant calls it; comes back with the compensation.
        receipt: u64
    }
    /// It was refused.
    Refused = REFUSED {}
    /// Undoes [`Do`].
    Undo = UNDO {
        /// What the participant called it; `None` in doubt.
        receipt: Option<u64>
    }
    /// Undoes [`Insist`].
    Desist = DESIST {
        /// What the participant called it; `None` in doubt.
        receipt: Option<u64>
    }
    /// It was undone, or there was nothing to undo.
    Undid = UNDID {}
}

/// What a participant is asked to do, whichever command it is.
pub trait Asked: Command {
    /// Its place.
    const PLACE: usize;
    /// The business key.
    fn key(&self) -> u64;
    /// How much had happened in its saga when it was written.
    fn seen(&self) -> u32;
    /// The answer when it was done.
    fn done(key: u64, receipt: u64) -> Self::Success;
    /// The final refusal, where there may be one.
    fn refused(key: u64) -> Option<Self::Rejection>;
}

/// What undoes a command, whichever it is.
pub trait Undoing<C: Asked>: Command<Rejection = Never> {
    /// The business key.
    fn key(&self) -> u64;
    /// What the participant called it; `None` in doubt.
    fn receipt(&self) -> Option<u64>;
    /// The answer.
    fn undone(key: u64) -> Self::Success;
}

impl<const N: usize> Command for Do<N> {
    const TO: Channel = PARTICIPANTS[N % PARTICIPANTS.len()];
    type Success = Did<N>;
    type Rejection = Refused<N>;
}

impl<const N: usize> Asked for Do<N> {
    const PLACE: usize = N;

    fn key(&self) -> u64 {
        self.key
    }

    fn seen(&self) -> u32 {
        self.seen
    }

    fn done(key: u64, receipt: u64) -> Did<N> {
        Did { key, receipt }
    }

    fn refused(key: u64) -> Option<Refused<N>> {
        Some(Refused { key })
    }
}

impl<const N: usize> Command for Insist<N> {
    const TO: Channel = PARTICIPANTS[N % PARTICIPANTS.len()];
    type Success = Did<N>;
    type Rejection = Never;
}

impl<const N: usize> Asked for Insist<N> {
    const PLACE: usize = N;

    fn key(&self) -> u64 {
        self.key
    }

    fn seen(&self) -> u32 {
        self.seen
    }

    fn done(key: u64, receipt: u64) -> Did<N> {
        Did { key, receipt }
    }

    fn refused(_: u64) -> Option<Never> {
        None
    }
}

macro_rules! undoing {
    ($($undo:ident of $command:ident)*) => {$(
        impl<const N: usize> Command for $undo<N> {
            const TO: Channel = PARTICIPANTS[N % PARTICIPANTS.len()];
            type Success = Undid<N>;
            type Rejection = Never;
        }

        impl<const N: usize> Undoing<$command<N>> for $undo<N> {
            fn key(&self) -> u64 {
                self.key
            }

            fn receipt(&self) -> Option<u64> {
                self.receipt
            }

            fn undone(key: u64) -> Undid<N> {
                Undid { key }
            }
        }
    )*};
}
undoing! { Undo of Do  Desist of Insist }

/// Plays participants: is told every command there is, once, with what undoes it.
pub trait Cast {
    /// One command and what undoes it. `C::TO` says whose they are, and `X` travels on the same channel.
    fn plays<C: Asked, X: Undoing<C>>(&mut self);
}

/// Tells a cast every command that generated sagas may send.
pub fn cast(to: &mut impl Cast) {
    macro_rules! plays {
        ($($n:literal)*) => {$(
            to.plays::<Do<$n>, Undo<$n>>();
            to.plays::<Insist<$n>, Desist<$n>>();
        )*};
    }
    plays!(0 1 2 3 4 5 6 7 8 9 10 11);
}

/// Something that happened in a saga, as it saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Happening {
    /// A step was done.
    Done {
        /// Its place.
        place: usize,
        /// What its participant called it.
        receipt: u64,
    },
    /// A step was refused.
    Refused {
        /// Its place.
        place: usize,
    },
    /// An awaited event came.
    Heard {
        /// Which.
        event: usize,
        /// What its sender called it.
        number: u64,
    },
    /// A refusing event came.
    Objected {
        /// To which event.
        event: usize,
        /// What its sender called it.
        number: u64,
    },
    /// It was withdrawn.
    Withdrawn,
}

/// A generated saga's own data: what happened to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// The business key.
    pub key: u64,
    /// What its choices go by, together with how much had happened when they were asked.
    pub turn: u64,
    /// What happened, in this order.
    pub happened: Vec<Happening>,
}

impl Recorded {
    /// How much has happened.
    pub fn seen(&self) -> u32 {
        u32::try_from(self.happened.len()).expect("a saga of a few blocks sees few happenings")
    }

    /// What a choice goes by, 0 to 3. Asked again later, it may be another one: answers have to be kept.
    pub fn turn_at(&self, choice: usize) -> u64 {
        (self.turn >> (2 * choice)).wrapping_add(u64::from(self.seen())) & 3
    }
}

/// Begins a saga.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun<const S: usize> {
    /// The business key.
    pub key: u64,
    /// What its choices go by.
    pub turn: u64,
}

/// Makes a saga turn back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawn<const S: usize> {
    /// The business key.
    pub key: u64,
}

/// What a wait awaits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happened<const S: usize, const E: usize> {
    /// The business key.
    pub key: u64,
    /// What its sender calls it.
    pub number: u64,
}

/// Refuses what a wait awaits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objected<const S: usize, const E: usize> {
    /// The business key.
    pub key: u64,
    /// What its sender calls it.
    pub number: u64,
}

/// What a saga tells under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted<const S: usize, const E: usize> {
    /// What its saga knew.
    pub recorded: Recorded,
}

/// What a saga tells when it has completed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completed<const S: usize> {
    /// What its saga knew.
    pub recorded: Recorded,
}

/// What a saga tells when it is compensated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed<const S: usize> {
    /// What its saga knew.
    pub recorded: Recorded,
}

macro_rules! of_a_slot {
    ($($name:ident on $channel:ident = $names:ident;)*) => {$(
        impl<const S: usize> Message for $name<S> {
            const NAME: &'static str = $names[S];
        }

        impl<const S: usize> Event for $name<S> {
            const ON: Channel = $channel;
        }
    )*};
}
of_a_slot! {
    Begun on BEGINNINGS = BEGUN;
    Withdrawn on BEGINNINGS = WITHDRAWN;
    Completed on NOTES = COMPLETED;
    Failed on NOTES = FAILED;
}

macro_rules! numbered {
    ($($name:ident on $channel:ident = $names:ident;)*) => {$(
        impl<const S: usize, const E: usize> Message for $name<S, E> {
            const NAME: &'static str = $names[E][S];
        }

        impl<const S: usize, const E: usize> Event for $name<S, E> {
            const ON: Channel = $channel;
        }
    )*};
}
numbered! {
    Happened on HAPPENINGS = HAPPENED;
    Objected on OBJECTIONS = OBJECTED;
    Noted on NOTES = NOTED;
}

/// The names of an event that a wait may await, and of the one that refuses it.
pub(super) fn names_of(slot: usize, event: usize) -> (&'static str, &'static str) {
    (HAPPENED[event][slot], OBJECTED[event][slot])
}
