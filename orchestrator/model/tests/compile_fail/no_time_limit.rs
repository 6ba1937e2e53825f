//! A reply has a time limit.
use dirigent_model::{definition::*, message::*};
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Order {
    id: u64,
    reservation: u64,
}

macro_rules! messages {
    ($($name:ident { $($field:ident),* })*) => {$(
        #[derive(Serialize, Deserialize)]
        struct $name { $($field: u64),* }
        impl Message for $name {
            const NAME: &'static str = stringify!($name);
        }
    )*};
}

messages! {
    OrderPlaced { order }
    ReserveStock { order }
    StockReserved { reservation }
    StockRejected { sku }
    ReleaseStock { order }
    StockReleased { reservation }
}

impl Event for OrderPlaced {
    const ON: Channel = Channel::json("orders");
}

impl Command for ReserveStock {
    const TO: Channel = Channel::json("inventory");
    type Success = StockReserved;
    type Rejection = StockRejected;
}

impl Command for ReleaseStock {
    const TO: Channel = Channel::json("inventory");
    type Success = StockReleased;
    type Rejection = Never;
}

fn main() {
    let _ = step("reserve-stock", |order: &Order| ReserveStock { order: order.id })
        .on_rejection(|_, _| ())
        .compensated_by(|order, _| ReleaseStock { order: order.id });
}
