//! What follows from what, without any state: the order's number says whether and where it is refused, and so which way it goes.

use crate::bench::Error;
use dirigent_connectors::{ChannelKind, Message, names};
use dirigent_model::message::Message as Named;
use order::order::{
    messages::{
        AuthorisePayment, CaptureDeclined, CapturePayment, OrderCompleted, OrderFailed,
        OrderPlaced, OrderShipped, PaymentAuthorised, PaymentCaptured, PaymentVoided, ReleaseStock,
        ReserveStock, ShipOrder, StockReleased, StockReserved, VoidPayment,
    },
    rates::{Rates, Refusal},
};
use std::collections::HashMap;

/// All that the engine sends for an order.
pub(super) const SENT: [&str; 8] = [
    ReserveStock::NAME,
    AuthorisePayment::NAME,
    CapturePayment::NAME,
    ShipOrder::NAME,
    ReleaseStock::NAME,
    VoidPayment::NAME,
    OrderCompleted::NAME,
    OrderFailed::NAME,
];

/// What follows from what.
pub(super) struct Moves {
    rates: Rates,
    forms: HashMap<&'static str, Message>,
}

impl Moves {
    /// Of messages as the engine sends them, for channels with this prefix and replies on this channel. A type that the engine has
    /// not sent borrows the form of one that it has.
    pub(super) fn new(
        sent: &HashMap<String, Message>,
        rates: Rates,
        prefix: &str,
        replies: &str,
    ) -> Result<Self, Error> {
        let mut forms = HashMap::new();
        for name in SENT {
            let is_event = name == OrderCompleted::NAME || name == OrderFailed::NAME;
            let kind = if is_event { ChannelKind::Events } else { ChannelKind::Work };
            let like = || sent.values().find(|message| message.kind == kind);
            let form = sent.get(name).or_else(like);
            let mut form = form.cloned().ok_or(
                "the engine has sent nothing in the rehearsal that the bare loop could send, too",
            )?;
            form.channel = format!("{prefix}{}", form.channel);
            form.attributes.set(names::TYPE, name);
            if !is_event {
                form.attributes.set(names::REPLY_TO, replies);
            }
            forms.insert(name, form);
        }
        Ok(Self { rates, forms })
    }

    /// The form of each message.
    pub(super) fn forms(&self) -> impl Iterator<Item = (&'static str, &Message)> {
        self.forms.iter().map(|(name, form)| (*name, form))
    }

    /// The names of the messages that follow from an input of this type.
    pub(super) fn after(&self, input: &str, order: &str) -> Result<&'static [&'static str], Error> {
        const NONE: &[&str] = &[];
        let number = order.parse().map_err(|_| format!("`{order}` is no number of an order"))?;
        let after: &'static [&'static str] = match (input, self.rates.refusal(number)) {
            (OrderPlaced::NAME, _) => &[ReserveStock::NAME, AuthorisePayment::NAME],
            (PaymentAuthorised::NAME, Some(Refusal::NoStock)) => &[VoidPayment::NAME],
            (PaymentAuthorised::NAME, _) => &[CapturePayment::NAME],
            (StockReserved::NAME, Some(Refusal::CardDeclined)) => &[ReleaseStock::NAME],
            (CaptureDeclined::NAME, _) => &[ReleaseStock::NAME, VoidPayment::NAME],
            (PaymentCaptured::NAME, _) => &[ShipOrder::NAME],
            (OrderShipped::NAME, _) => &[OrderCompleted::NAME],
            (PaymentVoided::NAME, _) => &[OrderFailed::NAME],
            (StockReleased::NAME, Some(Refusal::CardDeclined)) => &[OrderFailed::NAME],
            // The engine only takes note of it, too.
            _ => NONE,
        };
        Ok(after)
    }

    /// The messages that follow from an input.
    pub(super) fn messages_after(
        &self,
        input: &Message,
    ) -> Result<impl Iterator<Item = Message> + '_, Error> {
        let name = input.attributes.get(names::TYPE).unwrap_or_default();
        let (key, after) = (input.key.clone(), self.after(name, &input.key)?);
        Ok(after.iter().filter_map(move |name| {
            let form = self.forms.get(name)?;
            Some(Message { key: key.clone(), ..form.clone() })
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::orders::rates;
    use order::order::messages::{PaymentDeclined, StockRejected};

    /// What a service answers, as `services` does.
    fn answer(command: &str, refusal: Option<Refusal>) -> Option<&'static str> {
        Some(match (command, refusal) {
            (ReserveStock::NAME, Some(Refusal::NoStock)) => StockRejected::NAME,
            (ReserveStock::NAME, _) => StockReserved::NAME,
            (AuthorisePayment::NAME, Some(Refusal::CardDeclined)) => PaymentDeclined::NAME,
            (AuthorisePayment::NAME, _) => PaymentAuthorised::NAME,
            (CapturePayment::NAME, Some(Refusal::CaptureDeclined | Refusal::Declined)) => {
                CaptureDeclined::NAME
            }
            (CapturePayment::NAME, _) => PaymentCaptured::NAME,
            (ShipOrder::NAME, _) => OrderShipped::NAME,
            (ReleaseStock::NAME, _) => StockReleased::NAME,
            (VoidPayment::NAME, _) => PaymentVoided::NAME,
            _ => return None,
        })
    }

    #[test]
    fn every_order_comes_to_one_end_with_the_messages_that_the_saga_has() {
        let moves = Moves { rates: rates(0.5), forms: HashMap::new() };
        for order in 0..1_000_i64 {
            let refusal = moves.rates.refusal(order);
            let (mut waiting, mut inputs, mut ends) = (vec![OrderPlaced::NAME], 0, Vec::new());
            while let Some(input) = waiting.pop() {
                inputs += 1;
                for sent in moves.after(input, &order.to_string()).unwrap() {
                    match answer(sent, refusal) {
                        Some(reply) => waiting.push(reply),
                        None => ends.push(*sent),
                    }
                }
            }
            let (end, count) = match refusal {
                None => (OrderCompleted::NAME, 5),
                Some(Refusal::NoStock | Refusal::CardDeclined) => (OrderFailed::NAME, 4),
                Some(Refusal::CaptureDeclined | Refusal::Declined) => (OrderFailed::NAME, 6),
            };
            assert_eq!((ends, inputs), (vec![end], count), "order {order}, {refusal:?}");
        }
    }
}
