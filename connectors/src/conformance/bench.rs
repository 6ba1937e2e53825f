//! The bench the promises are checked on: messages to send, and a reader that keeps positions as the orchestrator does.

use super::Broken;
use crate::{
    Attributes, ChannelKind, ChannelSpec, Connector, Delivery, Memory, Message, Position, Sent,
    Settle, Settler, Source, SourceSpec, names,
};
use bytes::Bytes;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How long an answer is awaited before a message counts as missing.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);

/// How long silence is listened to before nothing more counts as coming.
const SILENCE: Duration = Duration::from_millis(1_500);

/// A source together with what it takes to open it anew.
pub(super) struct Reader<'a> {
    connector: &'a dyn Connector,
    spec: SourceSpec,
    source: Option<Box<dyn Source>>,
    /// Where to go on, had everything below been taken care of.
    positions: BTreeMap<(String, u32), u64>,
}

impl<'a> Reader<'a> {
    pub(super) async fn open(
        connector: &'a dyn Connector,
        channel: &ChannelSpec,
        group: &str,
    ) -> Result<Self, Broken> {
        Self::open_bounded(connector, channel, group, 10_000).await
    }

    pub(super) async fn open_bounded(
        connector: &'a dyn Connector,
        channel: &ChannelSpec,
        group: &str,
        unsettled_max: usize,
    ) -> Result<Self, Broken> {
        let spec = SourceSpec {
            channels: vec![channel.clone()],
            group: group.to_owned(),
            positions: Vec::new(),
            unsettled_max,
        };
        let mut reader = Self { connector, spec, source: None, positions: BTreeMap::new() };
        reader.reopen().await?;
        Ok(reader)
    }

    /// Drops the source and opens it anew: for a log with the positions of what was settled.
    pub(super) async fn reopen(&mut self) -> Result<(), Broken> {
        self.source = None;
        if self.connector.memory() == Memory::Positions {
            let position = |((channel, partition), next): (&(String, u32), &u64)| Position {
                channel: channel.clone(),
                partition: *partition,
                next: *next,
            };
            self.spec.positions = self.positions.iter().map(position).collect();
        }
        let source = self.connector.source(self.spec.clone()).await;
        self.source =
            Some(source.map_err(|error| format!("opening the source: {}", in_full(&error)))?);
        Ok(())
    }

    /// Exactly `count` deliveries, or what is missing.
    pub(super) async fn receive(&mut self, count: usize) -> Result<Vec<Delivery>, Broken> {
        let mut deliveries = Vec::new();
        while deliveries.len() < count {
            match self.receive_within(count - deliveries.len(), ANSWER_WAIT_MAX).await? {
                Some(more) => deliveries.extend(more),
                None => return Err(format!("{} of {count} messages came", deliveries.len())),
            }
        }
        Ok(deliveries)
    }

    pub(super) async fn nothing_more_comes(&mut self) -> Result<(), Broken> {
        match self.receive_within(10, SILENCE).await? {
            None => Ok(()),
            Some(more) => Err(format!(
                "{} messages too many came, the first is {:?}",
                more.len(),
                id(&more[0])
            )),
        }
    }

    async fn receive_within(
        &mut self,
        max: usize,
        wait: Duration,
    ) -> Result<Option<Vec<Delivery>>, Broken> {
        let source = self.source.as_mut().ok_or("the source could not be opened")?;
        match tokio::time::timeout(wait, source.receive(max)).await {
            Err(_) => Ok(None),
            Ok(Err(error)) => Err(format!("receiving: {}", in_full(&error))),
            Ok(Ok(more)) if more.is_empty() => Err("receive returned without a delivery".into()),
            Ok(Ok(more)) if more.len() > max => {
                Err(format!("receive returned {} deliveries, {max} were asked for", more.len()))
            }
            Ok(Ok(more)) => Ok(Some(more)),
        }
    }

    pub(super) fn settler(&self) -> Result<Arc<dyn Settler>, Broken> {
        Ok(self.source.as_ref().ok_or("the source could not be opened")?.settler())
    }

    /// Settles as done, and moves the position behind each of them.
    pub(super) fn done(&mut self, deliveries: &[Delivery]) -> Result<(), Broken> {
        let settlements: Vec<_> =
            deliveries.iter().map(|delivery| (delivery.receipt, Settle::Done)).collect();
        self.settler()?.settle(&settlements);
        for delivery in deliveries {
            let next = self
                .positions
                .entry((delivery.message.channel.clone(), delivery.partition))
                .or_default();
            *next = (*next).max(delivery.offset + 1);
        }
        Ok(())
    }
}

pub(super) fn message(channel: &ChannelSpec, key: &str, id: usize) -> Message {
    let attributes = Attributes::new()
        .with(names::SPEC_VERSION, "1.0")
        .with(names::ID, id.to_string())
        .with(names::SOURCE, "conformance")
        .with(names::TYPE, "Counted")
        .with(names::SUBJECT, key)
        .with(names::CONTENT_TYPE, "application/json");
    Message {
        channel: channel.name.clone(),
        kind: channel.kind,
        key: key.to_owned(),
        attributes,
        others: Vec::new(),
        body: Bytes::from(id.to_string()),
    }
}

pub(super) fn numbered(
    channel: &ChannelSpec,
    key: &str,
    ids: std::ops::Range<usize>,
) -> Vec<Message> {
    ids.map(|id| message(channel, key, id)).collect()
}

pub(super) fn id(delivery: &Delivery) -> usize {
    let id = delivery.message.attributes.get(names::ID).and_then(|id| id.parse().ok());
    id.unwrap_or(usize::MAX)
}

pub(super) fn ids(deliveries: &[Delivery]) -> Vec<usize> {
    deliveries.iter().map(id).collect()
}

pub(super) async fn prepare(
    connector: &dyn Connector,
    channel: &ChannelSpec,
) -> Result<(), Broken> {
    let prepared = connector.prepare(std::slice::from_ref(channel)).await;
    prepared.map_err(|error| format!("preparing {}: {}", channel.name, in_full(&error)))
}

/// Sends a window and expects every message of it to be confirmed.
pub(super) async fn send_confirmed(
    connector: &dyn Connector,
    window: &[Message],
) -> Result<(), Broken> {
    let outcomes = send(connector, window).await?;
    match outcomes.iter().position(|outcome| *outcome != Sent::Confirmed) {
        None => Ok(()),
        Some(index) => Err(format!(
            "message {index} of {} was not confirmed: {:?}",
            window.len(),
            outcomes[index]
        )),
    }
}

pub(super) async fn send(
    connector: &dyn Connector,
    window: &[Message],
) -> Result<Vec<Sent>, Broken> {
    let sink = connector.sink().await;
    let mut sink = sink.map_err(|error| format!("opening the sink: {}", in_full(&error)))?;
    let outcomes = sink.send(window).await;
    if outcomes.len() != window.len() {
        return Err(format!("{} outcomes for {} messages", outcomes.len(), window.len()));
    }
    Ok(outcomes)
}

pub(super) fn expect_equal<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: &T,
    expected: &T,
) -> Result<(), Broken> {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what}: found {found:?}, expected {expected:?}"))
    }
}

pub(super) fn channel(kind: ChannelKind, prefix: &str) -> ChannelSpec {
    ChannelSpec { name: format!("{prefix}-channel"), kind }
}

pub(super) fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}
