//! The services of the order saga without their own durability: they answer as fast as they can, so that the engine is what is measured.

use super::Error;
use bytes::Bytes;
use dirigent::envelope;
use dirigent_connectors::{
    Attributes, ChannelKind, ChannelSpec, Connector, Message, Settle, SourceSpec,
    memory::MemoryBroker, names,
};
use dirigent_model::message::{Body, Command, Format, Message as Named};
use dirigent_schemas::Bodies;
use order::order::messages::{
    AuthorisePayment, CaptureDeclined, CapturePayment, INVENTORY, OrderShipped, PAYMENT,
    PaymentAuthorised, PaymentCaptured, PaymentDeclined, PaymentVoided, ReleaseStock, ReserveStock,
    SHIPPING, ShipOrder, StockRejected, StockReleased, StockReserved, VoidPayment,
};
use order::order::rates::{Rates, Refusal};
use std::{borrow::Cow, collections::HashMap, sync::Arc};

/// Answers, written once: the bytes are what counts here, not what they say.
struct Answers {
    by_command: HashMap<&'static str, (Answer, Option<Answer>)>,
}

#[derive(Clone)]
struct Answer {
    name: &'static str,
    format: Format,
    body: Bytes,
}

fn answer<C: Command, R: Named>(reply: &R, codec: &Bodies) -> Result<Answer, Error> {
    let format = C::TO.format;
    Ok(Answer { name: R::NAME, format, body: Body::write(reply, format, codec)?.bytes.into() })
}

impl Answers {
    fn new(codec: &Bodies) -> Result<Self, Error> {
        let stock = (
            answer::<ReserveStock, _>(&StockReserved { reservation: 4_711 }, codec)?,
            Some(answer::<ReserveStock, _>(&StockRejected { sku: "sku-1".into() }, codec)?),
        );
        let payment = (
            answer::<AuthorisePayment, _>(&PaymentAuthorised { hold: 4_712 }, codec)?,
            Some(answer::<AuthorisePayment, _>(&PaymentDeclined { reason: "card".into() }, codec)?),
        );
        let capture = (
            answer::<CapturePayment, _>(&PaymentCaptured { receipt: 4_713 }, codec)?,
            Some(answer::<CapturePayment, _>(
                &CaptureDeclined { reason: "expired".into() },
                codec,
            )?),
        );
        let ship =
            (answer::<ShipOrder, _>(&OrderShipped { tracking: "NL4714".into() }, codec)?, None);
        let release = (answer::<ReleaseStock, _>(&StockReleased {}, codec)?, None);
        let void = (answer::<VoidPayment, _>(&PaymentVoided {}, codec)?, None);
        let by_command = HashMap::from([
            (ReserveStock::NAME, stock),
            (AuthorisePayment::NAME, payment),
            (CapturePayment::NAME, capture),
            (ShipOrder::NAME, ship),
            (ReleaseStock::NAME, release),
            (VoidPayment::NAME, void),
        ]);
        Ok(Self { by_command })
    }

    fn to(&self, command: &Message, rates: &Rates) -> Option<Message> {
        let name = command.attributes.get(names::TYPE)?;
        let (done, refused) = self.by_command.get(name)?;
        let refusal = command.key.parse().ok().and_then(|order| rates.refusal(order));
        let refuses = matches!(
            (name, refusal),
            (ReserveStock::NAME, Some(Refusal::NoStock))
                | (AuthorisePayment::NAME, Some(Refusal::CardDeclined))
                | (CapturePayment::NAME, Some(Refusal::CaptureDeclined | Refusal::Declined))
        );
        let answer = refused.as_ref().filter(|_| refuses).unwrap_or(done);
        let mut pairs: Vec<(Cow<'static, str>, Cow<'static, str>)> = Vec::with_capacity(12);
        let mut put =
            |name: &'static str, value: Cow<'static, str>| pairs.push((name.into(), value));
        put(names::SPEC_VERSION, "1.0".into());
        put(names::ID, command.attributes.get(names::ID)?.to_owned().into());
        put(names::SOURCE, "/bench".into());
        put(names::TYPE, answer.name.into());
        put(names::CONTENT_TYPE, answer.format.content_type().into());
        let echoed = [
            envelope::SAGA_ID,
            envelope::SAGA_STEP,
            envelope::SAGA_LEG,
            envelope::SAGA_ATTEMPT,
            names::IDEMPOTENCY_KEY,
            names::TRACEPARENT,
        ];
        for name in echoed {
            put(name, command.attributes.get(name)?.to_owned().into());
        }
        let attributes = Attributes::of_distinct(pairs);
        Some(Message {
            channel: command.attributes.get(names::REPLY_TO)?.to_owned(),
            kind: ChannelKind::Work,
            key: command.key.clone(),
            attributes,
            others: vec![],
            body: answer.body.clone(),
        })
    }
}

/// Answers every command of the order saga until its task is dropped.
pub(super) async fn respond(
    broker: MemoryBroker,
    codec: Arc<Bodies>,
    rates: Rates,
) -> Result<(), Error> {
    let answers = Answers::new(&codec)?;
    let channels = [INVENTORY, PAYMENT, SHIPPING].map(|channel| ChannelSpec::work(channel.name));
    let spec = SourceSpec {
        channels: channels.into(),
        group: "bench".into(),
        positions: vec![],
        unsettled_max: 8_192,
    };
    let (mut source, mut sink) = (broker.source(spec).await?, broker.sink().await?);
    let settler = source.settler();
    loop {
        let commands = source.receive(2_048).await?;
        let replies: Vec<Message> =
            commands.iter().filter_map(|command| answers.to(&command.message, &rates)).collect();
        sink.send(&replies).await;
        let settled: Vec<_> =
            commands.iter().map(|command| (command.receipt, Settle::Done)).collect();
        settler.settle(&settled);
    }
}
