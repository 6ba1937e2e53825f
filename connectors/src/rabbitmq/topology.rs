//! The queues and exchanges behind channels: their names, their arguments, and declaring them.
//!
//! Declared when channels are prepared and sources opened, and again on each new connection, so that a broker
//! that was replaced by an empty one works again.

use super::{
    NAME,
    connection::{Trouble, code, refusal},
    envelope::NAME_BYTES_MAX,
    owner,
};
use crate::{ChannelKind, ChannelSpec, ConnectorError};
use lapin::{
    Connection, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

/// How often a queue may hand out a message before the broker drops it. RabbitMQ 4 drops after 20 by default, and each
/// crash of ours counts for all that was prefetched: it must never come to that, we decide ourselves what is dead.
/// 4.x would take -1 for "never", 3.10 refuses it; both take a number that is never reached, and the queue keeps
/// its arguments through an upgrade.
const DELIVERY_LIMIT: i64 = 1_000_000_000;

/// The channels that were prepared, for everyone who connects anew. No more than the channels of our definitions.
#[derive(Debug, Clone, Default)]
pub(super) struct Prepared(Arc<Mutex<BTreeSet<ChannelSpec>>>);

impl Prepared {
    pub(super) fn remember(&self, channels: &[ChannelSpec]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(channels.iter().cloned());
    }

    pub(super) fn has(&self, name: &str, kind: ChannelKind) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().any(|channel| channel.name == name && channel.kind == kind)
    }

    pub(super) fn all(&self) -> Vec<ChannelSpec> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// The queue that a group reads a channel from.
pub(super) fn queue_of(channel: &ChannelSpec, group: &str) -> String {
    match channel.kind {
        ChannelKind::Work => channel.name.clone(),
        ChannelKind::Events => format!("{}.{group}", channel.name),
    }
}

/// Refuses names that AMQP can't carry.
pub(super) fn check_names(
    channels: &[ChannelSpec],
    group: Option<&str>,
) -> Result<(), ConnectorError> {
    let fits = |name: &str| !name.is_empty() && name.len() <= NAME_BYTES_MAX;
    let all_fit = |channel: &&ChannelSpec| {
        fits(&channel.name) && group.is_none_or(|group| owner::lock_fits(&queue_of(channel, group)))
    };
    match channels.iter().find(|channel| !all_fit(channel)) {
        None => Ok(()),
        Some(channel) => Err(ConnectorError::Setting {
            connector: NAME,
            setting: format!("channel {:?}", channel.name),
            text: format!(
                "the names of queues and exchanges have 1 to {NAME_BYTES_MAX} bytes, group and `.owner` included"
            ),
        }),
    }
}

/// Declares what is behind `channels`, and the queues that the group `reader` reads events from. The names were checked.
pub(super) async fn declare(
    connection: &Connection,
    channels: &[ChannelSpec],
    reader: Option<&str>,
) -> Result<(), Trouble> {
    // An AMQP channel of its own: a refused declaration closes it.
    let amqp = connection
        .create_channel()
        .await
        .map_err(|error| Trouble::of("to open an AMQP channel", error))?;
    for channel in channels {
        let name = channel.name.as_str();
        if channel.kind == ChannelKind::Events {
            let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
            amqp.exchange_declare(
                name.into(),
                ExchangeKind::Fanout,
                options,
                FieldTable::default(),
            )
            .await
            .map_err(|error| Trouble::of(format!("to declare exchange {name}"), error))?;
        }
        let queue = match (channel.kind, reader) {
            (ChannelKind::Work, _) => queue_of(channel, ""),
            (ChannelKind::Events, Some(group)) => queue_of(channel, group),
            (ChannelKind::Events, None) => continue,
        };
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        let arguments = queue_arguments(channel.keeps_letters());
        amqp.queue_declare(queue.as_str().into(), options, arguments)
            .await
            .map_err(|error| Trouble::of(format!("to declare queue {queue}"), error))?;
        if channel.kind == ChannelKind::Events {
            amqp.queue_bind(
                queue.as_str().into(),
                name.into(),
                "".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .map_err(|error| {
                Trouble::of(format!("to bind queue {queue} to exchange {name}"), error)
            })?;
        }
    }
    Ok(())
}

/// Binds a queue to an exchange that the broker deletes with its last binding: once the exchange is gone, so is the queue, even
/// where another of its name stands in its place. Nothing is ever sent to it. Says whether it could be.
pub(super) async fn mark(connection: &Connection, queue: &str, mark: &str) -> bool {
    let marking = async {
        let amqp = connection.create_channel().await?;
        let options = ExchangeDeclareOptions { auto_delete: true, ..Default::default() };
        let arguments = FieldTable::default();
        amqp.exchange_declare(mark.into(), ExchangeKind::Fanout, options, arguments).await?;
        let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
        amqp.queue_bind(queue.into(), mark.into(), "".into(), options, arguments).await
    };
    match marking.await {
        Ok(()) => true,
        // Not every user may bind: then such a queue is found out by its consumers only.
        Err(error) => {
            tracing::debug!(queue, mark, %error, "A queue can't be marked.");
            false
        }
    }
}

/// Whether an exchange is missing for certain.
pub(super) async fn lacks_exchange(connection: &Connection, exchange: &str) -> bool {
    let Ok(amqp) = connection.create_channel().await else { return false };
    let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
    let declared = amqp
        .exchange_declare(exchange.into(), ExchangeKind::Fanout, options, FieldTable::default())
        .await;
    declared.is_err_and(|error| {
        refusal(&error).is_some_and(|(reply_code, _)| reply_code == code::NOT_FOUND)
    })
}

fn queue_arguments(keeps_letters: bool) -> FieldTable {
    let mut arguments = FieldTable::default();
    // Replicated, and survives a crash of the broker with everything it has confirmed.
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    // The order of a key holds only while one consumer has the queue. The broker hands nothing of such a queue to `basic.get`,
    // which is how management and command line tools look at dead letters: those need no order.
    if !keeps_letters {
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    }
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERY_LIMIT));
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_has_its_own_queue_for_events_and_all_share_the_one_for_work() {
        assert_eq!(queue_of(&ChannelSpec::events("orders"), "billing"), "orders.billing");
        assert_eq!(queue_of(&ChannelSpec::work("payments"), "billing"), "payments");
    }

    #[test]
    fn names_that_amqp_cannot_carry_are_refused_before_anything_is_declared() {
        let long = ChannelSpec::events("n".repeat(250));
        assert!(check_names(std::slice::from_ref(&long), None).is_ok());
        assert!(check_names(&[long], Some("billing")).is_err());
        assert!(check_names(&[ChannelSpec::work("")], None).is_err());
    }
}
