//! What customers place: orders of one shape, small enough that nobody has to agree to them.

use super::Error;
use dirigent_connectors::{Attributes, ChannelKind, Message, names};
use dirigent_model::message::{Body, Format, Message as Named};
use dirigent_schemas::Bodies;
use order::order::{Rates, messages::OrderPlaced};

/// Repeats which orders are refused.
const SEED: u64 = 7;

/// Where orders go in.
#[derive(Debug, Clone)]
pub(super) struct Counter {
    pub channel: String,
    pub kind: ChannelKind,
}

impl Counter {
    /// An order's start event as it lies at the broker.
    pub(super) fn order(&self, order: u64, codec: &Bodies) -> Result<Message, Error> {
        let placed = OrderPlaced {
            order: i64::try_from(order)?,
            customer: format!("customer-{}", order % 1_000),
            sku: format!("sku-{}", order % 100),
            quantity: 2,
            amount_cents: 4_999,
        };
        let body = Body::write(&placed, Format::Json, codec)?;
        let id = format!("order-placed-{order}");
        Ok(event::<OrderPlaced>(&self.channel, self.kind, order.to_string(), id, body))
    }
}

/// An event of a customer.
pub(super) fn event<M: Named>(
    channel: &str,
    kind: ChannelKind,
    key: String,
    id: String,
    body: Body,
) -> Message {
    let attributes = Attributes::of_distinct(vec![
        (names::SPEC_VERSION.into(), "1.0".into()),
        (names::ID.into(), id.into()),
        (names::SOURCE.into(), "/shop".into()),
        (names::TYPE.into(), M::NAME.into()),
        (names::CONTENT_TYPE.into(), body.format.content_type().into()),
    ]);
    Message {
        channel: channel.into(),
        kind,
        key,
        attributes,
        others: vec![],
        body: body.bytes.into(),
    }
}

/// What goes wrong: this part of the orders is refused, somewhere.
pub(super) fn rates(reject: f64) -> Rates {
    Rates { seed: SEED, reject, silent: 0.0 }
}

/// What a message takes at a broker, without its framing (bytes).
pub(super) fn bytes_of(message: &Message) -> u64 {
    let attributes: usize =
        message.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    (message.body.len() + message.key.len() + attributes) as u64
}
