//! What became of each message of a window, decided from all that the broker said about it.
//!
//! Decided for the window as a whole, as lapin may attach a returned message to the confirm of another one: only when
//! every confirm is in, every return is in too (the broker sends a return before the confirm of the same message),
//! and what was handed over is the window without everything returned.

use crate::{ChannelKind, Message, Sent, UnsentReason, names};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What identifies a message when the broker gives it back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Returned {
    /// Its `id`; empty if it has none.
    pub(super) id: String,
    /// The exchange it was sent to.
    pub(super) exchange: String,
    /// The routing key it was sent with.
    pub(super) routing_key: String,
}

impl Returned {
    fn would_be(message: &Message) -> Self {
        let (exchange, routing_key) = route(message);
        Self {
            id: message.attributes.get(names::ID).unwrap_or_default().into(),
            exchange: exchange.into(),
            routing_key: routing_key.into(),
        }
    }
}

/// The exchange and the routing key of a message: work goes straight to its queue, events to their exchange.
pub(super) fn route(message: &Message) -> (&str, &str) {
    match message.kind {
        ChannelKind::Work => ("", &message.channel),
        ChannelKind::Events => (&message.channel, ""),
    }
}

/// What the broker said about one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    /// It was not sent, for this reason.
    Withheld(UnsentReason, String),
    /// Confirmed.
    Ack,
    /// Refused for now.
    Nack,
    /// It was not sent, as its channel does not confirm for now; or only as a probe.
    Silent,
    /// Nothing.
    Nothing,
}

/// How the window ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The broker has said something about every message, or closed the AMQP channel after it.
    Complete,
    /// The time limit passed.
    TimedOut(String),
    /// The connection or the AMQP channel broke for a reason that is no message's fault.
    Broken(String),
    /// The AMQP channel was closed over exchanges that do not exist.
    NoExchange(BTreeSet<String>),
    /// The AMQP channel was closed over an exchange we may not write to; none if it could not be told which.
    Forbidden { exchange: Option<String>, text: String },
    /// The AMQP channel was closed over a message, for what the text says; `alone` where there is only one that it can be.
    Refused { text: String, alone: bool },
    /// The AMQP channel was closed over a message larger than the broker takes (bytes).
    TooLarge { bytes_max: usize },
}

/// One outcome per message, in order. `heard` has one entry per message.
pub(super) fn decide(
    window: &[Message],
    heard: &[Heard],
    returned: &[Returned],
    end: &End,
) -> Vec<Sent> {
    let mut returns: HashMap<&Returned, usize> = HashMap::new();
    for one in returned {
        *returns.entry(one).or_default() += 1;
    }
    let mut copies: HashMap<Returned, usize> = HashMap::new();
    if !returns.is_empty() {
        for (message, heard) in window.iter().zip(heard) {
            if !matches!(heard, Heard::Withheld(..)) {
                *copies.entry(Returned::would_be(message)).or_default() += 1;
            }
        }
    }
    let one = |(message, heard): (&Message, &Heard)| {
        if let Heard::Withheld(reason, text) = heard {
            return Sent::Unsent { reason: *reason, text: text.clone() };
        }
        if *heard == Heard::Silent {
            return unknown(format!(
                "RabbitMQ does not confirm what is sent to {}",
                message.channel
            ));
        }
        if !returns.is_empty() {
            let key = Returned::would_be(message);
            match (returns.get(&key).copied().unwrap_or(0), copies[&key]) {
                (0, _) => {}
                (back, sent) if back >= sent => {
                    return Sent::Unsent {
                        reason: UnsentReason::Unroutable,
                        text: format!("RabbitMQ has no queue {}", message.channel),
                    };
                }
                (back, sent) => {
                    return unknown(format!(
                        "RabbitMQ gave back {back} of {sent} messages with this id to {}",
                        message.channel
                    ));
                }
            }
        }
        match heard {
            Heard::Ack => acknowledged(message, end, returned),
            Heard::Nack => unknown(format!(
                "RabbitMQ did not take it into {} (nack); is the queue full, or short of replicas?",
                message.channel
            )),
            Heard::Nothing | Heard::Withheld(..) | Heard::Silent => unheard(message, end),
        }
    };
    window.iter().zip(heard).map(one).collect()
}

fn acknowledged(message: &Message, end: &End, returned: &[Returned]) -> Sent {
    match (message.kind, end) {
        // Its return may be attached to a confirm that did not come. Where no confirm carried any, none had come in before the last of them.
        (ChannelKind::Work, End::TimedOut(text)) if !returned.is_empty() => unknown(text.clone()),
        _ => Sent::Confirmed,
    }
}

/// The channels with messages about which nothing was heard, and none about which anything was.
pub(super) fn unheard_channels<'a>(
    window: &'a [Message],
    heard: &[Heard],
) -> impl Iterator<Item = (&'a str, ChannelKind)> {
    let mut channels: BTreeMap<(&str, ChannelKind), bool> = BTreeMap::new();
    for (message, heard) in window.iter().zip(heard) {
        let is_unheard = match heard {
            Heard::Nothing => true,
            Heard::Ack | Heard::Nack => false,
            Heard::Withheld(..) | Heard::Silent => continue,
        };
        let known = channels.entry((&message.channel, message.kind)).or_insert(true);
        *known &= is_unheard;
    }
    channels.into_iter().filter_map(|(channel, is_unheard)| is_unheard.then_some(channel))
}

fn unheard(message: &Message, end: &End) -> Sent {
    let (exchange, _) = route(message);
    match end {
        End::Complete => unknown("RabbitMQ said nothing about it".into()),
        End::Refused { text, alone: true } => {
            Sent::Unsent { reason: UnsentReason::Refused, text: text.clone() }
        }
        End::Refused { text, alone: false } => {
            unknown(format!("sent on the same AMQP channel as a refused message: {text}"))
        }
        End::TimedOut(text) | End::Broken(text) => unknown(text.clone()),
        End::NoExchange(names) if names.contains(exchange) => Sent::Unsent {
            reason: UnsentReason::Unroutable,
            text: format!("RabbitMQ has no exchange {exchange}"),
        },
        End::NoExchange(_) => unknown(
            "sent on the same AMQP channel as a message to an exchange that does not exist".into(),
        ),
        End::Forbidden { exchange: Some(forbidden), text } if forbidden == exchange => {
            Sent::Unsent { reason: UnsentReason::NotAuthorised, text: text.clone() }
        }
        End::Forbidden { text, .. } => {
            unknown(format!("sent on the same AMQP channel as a refused message: {text}"))
        }
        End::TooLarge { bytes_max } if message.body.len() > *bytes_max => Sent::Unsent {
            reason: UnsentReason::TooLarge,
            text: format!(
                "{} bytes; this RabbitMQ takes {bytes_max} (max_message_size)",
                message.body.len()
            ),
        },
        End::TooLarge { .. } => {
            unknown("sent on the same AMQP channel as a message that was too large".into())
        }
    }
}

fn unknown(text: String) -> Sent {
    Sent::Unknown { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Attributes;
    use bytes::Bytes;

    fn message(kind: ChannelKind, channel: &str, id: &str) -> Message {
        Message {
            channel: channel.into(),
            kind,
            key: "k".into(),
            attributes: Attributes::new().with(names::ID, id.to_owned()),
            others: vec![],
            body: Bytes::from_static(b"12345"),
        }
    }

    fn work(channel: &str, id: &str) -> Message {
        message(ChannelKind::Work, channel, id)
    }

    fn events(channel: &str, id: &str) -> Message {
        message(ChannelKind::Events, channel, id)
    }

    fn outcomes(window: &[Message], heard: &[Heard], returned: &[&Message], end: &End) -> String {
        let returned: Vec<_> = returned.iter().map(|message| Returned::would_be(message)).collect();
        decide(window, heard, &returned, end)
            .iter()
            .map(|sent| match sent {
                Sent::Confirmed => "confirmed".to_owned(),
                Sent::Unsent { reason, .. } => reason.to_string(),
                Sent::Unknown { .. } | Sent::Fenced { .. } => "unknown".to_owned(),
            })
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn a_returned_message_is_unroutable_whichever_confirm_it_came_with() {
        let window = [work("a", "1"), work("gone", "2"), work("a", "3")];
        assert_eq!(
            outcomes(&window, &[Heard::Ack, Heard::Ack, Heard::Ack], &[&window[1]], &End::Complete),
            "confirmed unroutable confirmed"
        );
    }

    #[test]
    fn the_same_id_to_two_queues_is_told_apart_by_the_route() {
        let window = [work("a", "1"), work("gone", "1")];
        assert_eq!(
            outcomes(&window, &[Heard::Ack, Heard::Ack], &[&window[1]], &End::Complete),
            "confirmed unroutable"
        );
    }

    #[test]
    fn copies_of_one_message_are_unroutable_together_or_unknown_together() {
        let window = [work("q", "1"), work("q", "1"), work("a", "2")];
        let acks = [Heard::Ack, Heard::Ack, Heard::Ack];
        assert_eq!(
            outcomes(&window, &acks, &[&window[0], &window[1]], &End::Complete),
            "unroutable unroutable confirmed"
        );
        // The queue went away between the two: which of them came back can't be told.
        assert_eq!(
            outcomes(&window, &acks, &[&window[0]], &End::Complete),
            "unknown unknown confirmed"
        );
    }

    #[test]
    fn a_nack_is_unknown_and_a_withheld_message_keeps_its_reason() {
        let window = [work("a", "1"), work("a", "2")];
        let heard = [Heard::Nack, Heard::Withheld(UnsentReason::TooLarge, "big".into())];
        assert_eq!(outcomes(&window, &heard, &[], &End::Complete), "unknown too-large");
    }

    #[test]
    fn after_the_time_limit_what_was_confirmed_counts_unless_something_came_back() {
        let window = [work("a", "1"), events("e", "2"), work("sick", "3"), work("gone", "4")];
        let heard = [Heard::Ack, Heard::Ack, Heard::Nothing, Heard::Ack];
        let late = End::TimedOut("late".into());
        assert_eq!(outcomes(&window[..3], &heard[..3], &[], &late), "confirmed confirmed unknown");
        // Which confirm a return came with says nothing: another one may be missing.
        assert_eq!(
            outcomes(&window, &heard, &[&window[3]], &late),
            "unknown confirmed unknown unroutable"
        );
    }

    #[test]
    fn what_was_held_back_for_its_channel_is_unknown_and_suspects_nobody() {
        let window = [work("sick", "1"), work("a", "2"), work("b", "3"), work("a", "4")];
        let heard = [Heard::Silent, Heard::Ack, Heard::Nothing, Heard::Nothing];
        assert_eq!(
            outcomes(&window, &heard, &[], &End::TimedOut("late".into())),
            "unknown confirmed unknown unknown"
        );
        let unheard: Vec<_> = unheard_channels(&window, &heard).collect();
        assert_eq!(unheard, [("b", ChannelKind::Work)]);
    }

    #[test]
    fn a_missing_exchange_is_unroutable_and_its_neighbours_are_unknown() {
        let window = [events("e", "1"), work("a", "2"), events("gone", "3"), events("e", "4")];
        let heard = [Heard::Ack, Heard::Nothing, Heard::Nothing, Heard::Nothing];
        assert_eq!(
            outcomes(&window, &heard, &[], &End::NoExchange(BTreeSet::from(["gone".into()]))),
            "confirmed unknown unroutable unknown"
        );
    }

    #[test]
    fn a_forbidden_exchange_is_not_authorised_and_its_neighbours_are_unknown() {
        let window = [events("e", "1"), events("f", "2")];
        let heard = [Heard::Nothing, Heard::Nothing];
        let end = |exchange: Option<&str>| End::Forbidden {
            exchange: exchange.map(Into::into),
            text: "no".into(),
        };
        assert_eq!(outcomes(&window, &heard, &[], &end(Some("f"))), "unknown not-authorised");
        assert_eq!(outcomes(&window, &heard, &[], &end(None)), "unknown unknown");
    }

    #[test]
    fn what_is_larger_than_the_broker_takes_is_too_large() {
        let window = [work("a", "1")];
        assert_eq!(
            outcomes(&window, &[Heard::Nothing], &[], &End::TooLarge { bytes_max: 4 }),
            "too-large"
        );
        assert_eq!(
            outcomes(&window, &[Heard::Nothing], &[], &End::TooLarge { bytes_max: 5 }),
            "unknown"
        );
    }

    #[test]
    fn a_message_that_closed_its_amqp_channel_alone_is_refused_and_one_of_several_unknown() {
        let window = [work("a", "1"), work("a", "2")];
        let refused = |alone| End::Refused { text: "invalid message".into(), alone };
        assert_eq!(
            outcomes(&window, &[Heard::Ack, Heard::Nothing], &[], &refused(true)),
            "confirmed refused"
        );
        assert_eq!(
            outcomes(&window, &[Heard::Nothing, Heard::Nothing], &[], &refused(false)),
            "unknown unknown"
        );
    }
}
