//! A step without a way back is no block.
use dirigent_model::{definition::*, message::*};
use serde::{Deserialize, Serialize};
use std::time::Duration;

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
    let _ = saga(
        "order",
        1,
        |event: &OrderPlaced| event.order,
        |event: OrderPlaced| Order { id: event.order, reservation: 0 },
    )
    .then(
        step("reserve-stock", |order: &Order| ReserveStock { order: order.id })
            .on_rejection(|_, _| ())
            .reply_within(Duration::from_secs(10)),
    )
    .ends();
}
