//! Queues that do not answer: what is said of them to people, and to their measuring tools.
//!
//! A quorum queue without a leader takes what is sent to it and never confirms it; whoever wants to consume it gets no answer. RabbitMQ 3.10.8
//! makes one of a queue whose first entry was not on the disk when the broker was killed: it comes back as a new member that
//! waits for somebody to trigger its first election, in term 0 (<https://github.com/rabbitmq/rabbitmq-server/issues/10070>,
//! <https://github.com/rabbitmq/rabbitmq-server/issues/15725>, <https://github.com/rabbitmq/ra/issues/179>). A client can't tell it from a
//! queue whose majority is away, for which the cure is to bring that back: so it is named, for a person, and asked again for ever.

use super::RabbitMqUri;
use crate::{
    ChannelKind,
    health::{Measure, MeasureKind},
};

/// Of each queue of a source.
pub(super) static QUEUE_UP: Measure = Measure {
    name: "rabbitmq_queue_up",
    help: "Whether a queue is consumed: 0 while it does not answer or its connection is lost",
    kind: MeasureKind::Gauge,
};

/// Of a sink.
pub(super) static CHANNELS_SILENT: Measure = Measure {
    name: "rabbitmq_channels_silent",
    help: "Channels whose messages the broker does not confirm, while it confirms others",
    kind: MeasureKind::Gauge,
};

/// What is known of a channel that does not confirm, and what a person can do.
pub(super) fn of_channel(channel: &str, kind: ChannelKind, uri: &RabbitMqUri) -> String {
    match kind {
        ChannelKind::Work => of_queue(channel, uri),
        ChannelKind::Events => format!(
            "exchange {channel} does not confirm: a queue that is bound to it does not answer. `rabbitmqctl list_bindings` names them, \
             `rabbitmq-queues quorum_status QUEUE` tells which has no leader"
        ),
    }
}

/// What is known of a queue that does not answer, and what a person can do.
pub(super) fn of_queue(queue: &str, uri: &RabbitMqUri) -> String {
    let member = member_of(queue, uri);
    format!(
        "queue {queue} does not answer. `rabbitmq-queues quorum_status {queue}`: where no member leads, start those that are away; where \
         all are followers in term 0, `rabbitmqctl eval 'ra:trigger_election({{list_to_atom(\"{member}\"),node()}}).'`"
    )
}

/// What RabbitMQ calls a queue's member on each node.
fn member_of(queue: &str, uri: &RabbitMqUri) -> String {
    match uri.for_lapin().vhost.as_str() {
        "/" => format!("%2F_{queue}"),
        vhost => format!("{vhost}_{queue}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_queue_is_named_as_the_tools_of_the_broker_want_it() {
        let said = |uri| of_queue("orders", &RabbitMqUri::parse(uri).unwrap());
        assert!(said("amqp://me:secret@host/%2f").contains("list_to_atom(\"%2F_orders\")"));
        let other = said("amqp://me:secret@host/shop");
        assert!(other.contains("quorum_status orders") && other.contains("\"shop_orders\""));
        assert!(!other.contains("secret"), "{other}");
    }
}
