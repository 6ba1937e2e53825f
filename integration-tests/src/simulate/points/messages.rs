//! The messages of the small canonical sagas: a shelf, a till and a post office, what customers say, and what sagas tell.

use dirigent_model::message::{Channel, Command, Event, Message, Never};
use serde::{Deserialize, Serialize};

/// Where customers say what they want, and take it back.
pub(super) const WISHES: Channel = Channel::json("wishes");
/// What a saga may wait for.
pub(super) const NEWS: Channel = Channel::json("news");
/// What sagas tell of themselves.
pub(super) const TOLD: Channel = Channel::json("told");
/// Commands to whoever has things.
pub(super) const SHELF: Channel = Channel::json("shelf");
/// Commands to whoever has money.
pub(super) const TILL: Channel = Channel::json("till");
/// Commands to whoever brings things.
pub(super) const POST: Channel = Channel::json("post");

/// Declares a message, which says whose purchase it is about.
macro_rules! message {
    ($(#[$doc:meta])* $name:ident $(=> to $to:ident, $success:ident or $rejection:ident)? $(=> on $on:ident)?) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        pub(super) struct $name {
            /// The purchase.
            pub number: u64,
        }

        impl Message for $name {
            const NAME: &'static str = stringify!($name);
        }

        $(impl Command for $name {
            const TO: Channel = $to;
            type Success = $success;
            type Rejection = $rejection;
        })?

        $(impl Event for $name {
            const ON: Channel = $on;
        })?
    };
}

message! { /// A customer wants something: begins a saga.
Wished => on WISHES }
message! { /// The customer does not want it any more.
Withdrawn => on WISHES }
message! { /// What was waited for.
Agreed => on NEWS }
message! { /// The opposite.
Objected => on NEWS }
message! { /// A saga has come so far.
Noted => on TOLD }
message! { /// A saga has completed.
Completed => on TOLD }
message! { /// A saga has come to nothing.
Failed => on TOLD }

message! { /// Take a thing from the shelf.
Take => to SHELF, Taken or Missing }
message! { /// It is taken.
Taken }
message! { /// There is none.
Missing }
message! { /// Put it back.
PutBack => to SHELF, IsBack or Never }
message! { /// It is on the shelf.
IsBack }

message! { /// Hold the money.
Hold => to TILL, Held or Declined }
message! { /// It is held.
Held }
message! { /// No money.
Declined }
message! { /// Let go of the money.
LetGo => to TILL, LetGone or Never }
message! { /// It is not held any more.
LetGone }
message! { /// Take the money for good.
Charge => to TILL, Charged or Declined }
message! { /// The money is taken.
Charged }

message! { /// Look at what there is; nothing changes.
Look => to SHELF, Looked or Missing }
message! { /// It was looked at.
Looked }

message! { /// Bring it.
Bring => to POST, Brought or Never }
message! { /// It was brought.
Brought }
