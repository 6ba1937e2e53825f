//! The services of the order saga without their own durability, and somebody who hears how orders end: they answer as fast as they can, so
//! that whoever asks them is what is measured.

use super::{Error, watch::Watch};
use bytes::Bytes;
use dirigent::envelope;
use dirigent_connectors::{
    Attributes, ChannelKind, ChannelSpec, Connector, Message, Settle, SourceSpec, names,
};
use dirigent_model::message::{Body, Command, Format, Message as Named};
use dirigent_schemas::Bodies;
use order::order::messages::{
    AuthorisePayment, CaptureDeclined, CapturePayment, INVENTORY, ORDER_EVENTS, OrderShipped,
    PAYMENT, PaymentAuthorised, PaymentCaptured, PaymentDeclined, PaymentVoided, ReleaseStock,
    ReserveStock, SHIPPING, ShipOrder, StockRejected, StockReleased, StockReserved, VoidPayment,
};
use order::order::rates::{Rates, Refusal};
use std::{borrow::Cow, collections::HashMap, sync::Arc};
use tokio::task::JoinHandle;

/// Commands and events taken at once.
const FETCH_MAX: usize = 2_048;

/// Deliveries of one source that may be unsettled.
const UNSETTLED_MAX: usize = 8_192;

/// Tasks that work beside what is measured. They end with it.
#[derive(Default)]
pub(super) struct Crew(Vec<JoinHandle<Result<(), Error>>>);

impl Crew {
    pub(super) fn hire(&mut self, task: impl Future<Output = Result<(), Error>> + Send + 'static) {
        self.0.push(tokio::spawn(task));
    }

    /// The error of one that has ended, since without it nothing moves any more.
    pub(super) async fn check(&mut self) -> Result<(), Error> {
        let Some(ended) = self.0.iter().position(JoinHandle::is_finished) else { return Ok(()) };
        match self.0.swap_remove(ended).await {
            Ok(Err(error)) => Err(error),
            Ok(Ok(())) => Err("a part of the benchmark has ended before the others".into()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// Starts both for commands on channels with this prefix. They are there before this returns.
pub(super) async fn start(
    connector: &Arc<dyn Connector>,
    prefix: &str,
    codec: &Bodies,
    rates: Rates,
    watch: &Arc<Watch>,
) -> Result<Crew, Error> {
    let named = |name: &str| format!("{prefix}{name}");
    let channels =
        [INVENTORY, PAYMENT, SHIPPING].map(|channel| ChannelSpec::work(named(channel.name)));
    let spec = |channels: &[ChannelSpec], group: &str| SourceSpec {
        channels: channels.into(),
        group: named(group),
        positions: vec![],
        unsettled_max: UNSETTLED_MAX,
    };
    let answers = Answers::new(codec)?;
    let mut commands = connector.source(spec(&channels, "bench-services")).await?;
    let mut replies = connector.sink().await?;
    let events = [ChannelSpec::events(named(ORDER_EVENTS.name))];
    let mut ends = connector.source(spec(&events, "bench-listener")).await?;
    let mut crew = Crew::default();
    let (seeing, hearing) = (Arc::clone(watch), Arc::clone(watch));
    crew.hire(async move {
        let settler = commands.settler();
        loop {
            let taken = commands.receive(FETCH_MAX).await?;
            seeing.commands(&taken);
            let window: Vec<Message> =
                taken.iter().filter_map(|command| answers.to(&command.message, &rates)).collect();
            super::sent(&replies.send(&window).await)?;
            let done: Vec<_> = taken.iter().map(|taken| (taken.receipt, Settle::Done)).collect();
            settler.settle(&done);
        }
    });
    crew.hire(async move {
        let settler = ends.settler();
        loop {
            let taken = ends.receive(FETCH_MAX).await?;
            hearing.events(&taken);
            let done: Vec<_> = taken.iter().map(|taken| (taken.receipt, Settle::Done)).collect();
            settler.settle(&done);
        }
    });
    Ok(crew)
}

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
