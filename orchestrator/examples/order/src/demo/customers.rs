//! Customers: they place orders, and not more than a window of them at a time.

use crate::order::placed;
use dirigent::{PublishError, Publisher};
use dirigent_connectors::Connector;
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

/// Orders handed to the broker at once.
pub const WINDOW_MAX: u32 = 256;

/// How long a broker may be away while customers wait: longer than anything that is done to one here.
const PATIENCE: Duration = Duration::from_secs(600);

/// Places orders at a broker.
pub struct Customers {
    publisher: Publisher,
    seed: u64,
}

impl Customers {
    /// Connects them.
    ///
    /// # Errors
    /// What the connector says.
    pub async fn at(connector: &Arc<dyn Connector>, seed: u64) -> Result<Self, PublishError> {
        let publisher = Publisher::connect(Arc::clone(connector), "customers").await?;
        Ok(Self { publisher: publisher.within(PATIENCE), seed })
    }

    /// Places `count` orders from `first` on, at most [`WINDOW_MAX`], and waits until the broker has them. Each has the same id whenever
    /// it is placed again.
    ///
    /// # Errors
    /// The broker refuses one for good, or is away for too long.
    pub async fn place(&mut self, first: i64, count: u32) -> Result<(), PublishError> {
        let orders = first..first + i64::from(count.min(WINDOW_MAX));
        let placed: Vec<_> = orders.map(|order| placed(self.seed, order)).collect();
        let id = |order: i64| {
            let name = format!("order/{}/{order}", self.seed);
            Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string()
        };
        let events: Vec<_> =
            placed.iter().map(|event| (id(event.order), event.order.into(), event)).collect();
        self.publisher.publish_all(events).await
    }
}
