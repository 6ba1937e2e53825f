//! Keeps one demo apart from everything else at the same broker: every channel and group has a prefix there, and none here.

use async_trait::async_trait;
use dirigent_connectors::{
    ChannelSpec, Connector, ConnectorError, Delivery, Health, Memory, Message, Position, Retention,
    Sent, Settler, Sink, Source, SourceSpec,
};
use std::sync::Arc;

/// A connector whose channels have a prefix at the broker.
pub(super) struct Apart {
    inner: Arc<dyn Connector>,
    prefix: Arc<str>,
}

impl Apart {
    /// Channels and groups begin with `prefix` at the broker of `inner`.
    pub(super) fn new(inner: Arc<dyn Connector>, prefix: &str) -> Self {
        Self { inner, prefix: prefix.into() }
    }

    fn named(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn channels(&self, channels: &[ChannelSpec]) -> Vec<ChannelSpec> {
        let named = |channel: &ChannelSpec| ChannelSpec {
            name: self.named(&channel.name),
            kind: channel.kind,
        };
        channels.iter().map(named).collect()
    }
}

#[async_trait]
impl Connector for Apart {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn memory(&self) -> Memory {
        self.inner.memory()
    }

    async fn prepare(&self, channels: &[ChannelSpec]) -> Result<(), ConnectorError> {
        self.inner.prepare(&self.channels(channels)).await
    }

    async fn retention(&self, channel: &str) -> Result<Retention, ConnectorError> {
        self.inner.retention(&self.named(channel)).await
    }

    async fn source(&self, spec: SourceSpec) -> Result<Box<dyn Source>, ConnectorError> {
        let position =
            |position: Position| Position { channel: self.named(&position.channel), ..position };
        let spec = SourceSpec {
            channels: self.channels(&spec.channels),
            group: self.named(&spec.group),
            positions: spec.positions.into_iter().map(position).collect(),
            unsettled_max: spec.unsettled_max,
        };
        let inner = self.inner.source(spec).await?;
        Ok(Box::new(ApartSource { inner, prefix: Arc::clone(&self.prefix) }))
    }

    async fn sink(&self) -> Result<Box<dyn Sink>, ConnectorError> {
        let inner = self.inner.sink().await?;
        Ok(Box::new(ApartSink { inner, prefix: Arc::clone(&self.prefix) }))
    }

    async fn owner_sink(&self, group: &str) -> Result<Box<dyn Sink>, ConnectorError> {
        let inner = self.inner.owner_sink(&self.named(group)).await?;
        Ok(Box::new(ApartSink { inner, prefix: Arc::clone(&self.prefix) }))
    }
}

struct ApartSource {
    inner: Box<dyn Source>,
    prefix: Arc<str>,
}

#[async_trait]
impl Source for ApartSource {
    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>, ConnectorError> {
        let mut deliveries = self.inner.receive(max).await?;
        for delivery in &mut deliveries {
            if let Some(name) = delivery.message.channel.strip_prefix(&*self.prefix) {
                delivery.message.channel = name.to_owned();
            }
        }
        Ok(deliveries)
    }

    fn settler(&self) -> Arc<dyn Settler> {
        self.inner.settler()
    }

    fn health(&self) -> Health {
        self.inner.health()
    }
}

struct ApartSink {
    inner: Box<dyn Sink>,
    prefix: Arc<str>,
}

#[async_trait]
impl Sink for ApartSink {
    async fn send(&mut self, window: &[Message]) -> Vec<Sent> {
        let named = |message: &Message| Message {
            channel: format!("{}{}", self.prefix, message.channel),
            ..message.clone()
        };
        let window: Vec<_> = window.iter().map(named).collect();
        self.inner.send(&window).await
    }

    fn health(&self) -> Health {
        self.inner.health()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use dirigent_connectors::{Attributes, ChannelKind, memory::MemoryBroker};

    #[tokio::test]
    async fn two_demos_at_one_broker_do_not_hear_each_other() {
        let broker = MemoryBroker::new();
        let [one, two] =
            ["one.", "two."].map(|prefix| Apart::new(Arc::new(broker.clone()), prefix));
        let channels = vec![ChannelSpec::work("orders")];
        one.prepare(&channels).await.unwrap();
        two.prepare(&channels).await.unwrap();
        let message = Message {
            channel: "orders".into(),
            kind: ChannelKind::Work,
            key: "1".into(),
            attributes: Attributes::new(),
            others: vec![],
            body: Bytes::new(),
        };
        one.sink().await.unwrap().send(std::slice::from_ref(&message)).await;
        assert_eq!((broker.waiting("one.orders"), broker.waiting("two.orders")), (1, 0));
        let spec = SourceSpec { channels, group: "g".into(), positions: vec![], unsettled_max: 9 };
        let heard = one.source(spec).await.unwrap().receive(9).await.unwrap();
        assert_eq!(heard[0].message, message);
    }
}
