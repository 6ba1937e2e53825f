//! Customers: they place orders, and not more than a window of them at a time.

use crate::order::{
    messages::{ORDERS, OrderPlaced},
    placed,
};
use dirigent_connectors::{
    Attributes, ChannelKind, ChannelSpec, Connector, ConnectorError, Message, Sent, Sink, names,
    retry::Delays,
};
use dirigent_model::message::Message as _;
use std::sync::Arc;
use uuid::Uuid;

/// Orders handed to the broker at once.
pub const WINDOW_MAX: u32 = 256;

/// Places orders at a broker.
pub struct Customers {
    sink: Box<dyn Sink>,
    seed: u64,
}

/// An order that can't be placed for good.
#[derive(Debug, thiserror::Error)]
#[error("placing order {order} on `{}`: {text}", ORDERS.name)]
pub struct NotPlaced {
    /// The order.
    pub order: i64,
    /// What the broker said.
    pub text: String,
}

impl Customers {
    /// Connects them.
    ///
    /// # Errors
    /// What the connector says.
    pub async fn at(connector: &Arc<dyn Connector>, seed: u64) -> Result<Self, ConnectorError> {
        connector.prepare(&[ChannelSpec::events(ORDERS.name)]).await?;
        Ok(Self { sink: connector.sink().await?, seed })
    }

    /// Places `count` orders from `first` on, at most [`WINDOW_MAX`], and waits until the broker has them.
    ///
    /// # Errors
    /// The broker refuses one for good.
    pub async fn place(&mut self, first: i64, count: u32) -> Result<(), NotPlaced> {
        let orders = first..first + i64::from(count.min(WINDOW_MAX));
        let mut left: Vec<_> = orders.map(|order| (order, message(self.seed, order))).collect();
        let mut delays = Delays::new();
        while !left.is_empty() {
            let window: Vec<_> = left.iter().map(|(_, message)| message.clone()).collect();
            let mut again = Vec::new();
            for (placed, sent) in left.into_iter().zip(self.sink.send(&window).await) {
                match sent {
                    Sent::Confirmed => {}
                    Sent::Unsent { text, .. } => return Err(NotPlaced { order: placed.0, text }),
                    // A customer's sink belongs to no group.
                    Sent::Unknown { .. } | Sent::Fenced { .. } => again.push(placed),
                }
            }
            left = again;
            if !left.is_empty() {
                tokio::time::sleep(delays.after_failure()).await;
            }
        }
        Ok(())
    }
}

/// The event of an order: the same whenever it is placed again.
fn message(seed: u64, order: i64) -> Message {
    let event = placed(seed, order);
    let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("order/{seed}/{order}").as_bytes());
    Message {
        channel: ORDERS.name.into(),
        kind: ChannelKind::Events,
        key: order.to_string(),
        attributes: Attributes::new()
            .with(names::SPEC_VERSION, "1.0")
            .with(names::ID, id.to_string())
            .with(names::SOURCE, "/customers")
            .with(names::TYPE, OrderPlaced::NAME)
            .with(names::SUBJECT, order.to_string())
            .with(names::CONTENT_TYPE, ORDERS.format.content_type()),
        others: vec![],
        body: serde_json::to_vec(&event).expect("an order is texts and numbers").into(),
    }
}
