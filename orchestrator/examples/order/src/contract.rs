//! How the messages of both sagas are declared: the type, its `.avsc`, and its place in the conversation.

/// Declares a message from the file of its contract, and what it is: a command with its answers, an event, or an answer.
///
/// ```text
/// message! { ReserveStock in "order/reserve-stock.v1.avsc" => command to INVENTORY, StockReserved or StockRejected { order: i64 } }
/// message! { OrderPlaced in "order/order-placed.v1.avsc" => event on ORDERS { order: i64 } }
/// message! { StockReserved in "order/stock-reserved.v1.avsc" { reservation: i64 } }
/// ```
macro_rules! message {
    (
        $(#[$doc:meta])*
        $name:ident in $avsc:literal
        $(=> command to $to:ident, $success:ident or $rejection:ident)?
        $(=> event on $on:ident)?
        { $( $(#[$field_doc:meta])* $field:ident: $type:ty, )* }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub struct $name {
            $( $(#[$field_doc])* pub $field: $type, )*
        }

        impl dirigent_model::message::Message for $name {
            const NAME: &'static str = stringify!($name);
            const SCHEMA: Option<&'static str> =
                Some(include_str!(concat!("../../../../../schemas/", $avsc)));
        }

        $(impl dirigent_model::message::Command for $name {
            const TO: dirigent_model::message::Channel = $to;
            type Success = $success;
            type Rejection = $rejection;
        })?

        $(impl dirigent_model::message::Event for $name {
            const ON: dirigent_model::message::Channel = $on;
        })?
    };
}
pub(crate) use message;
