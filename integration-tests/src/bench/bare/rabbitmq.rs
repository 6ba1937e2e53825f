//! The bare loop by lapin: takes what has been pushed, publishes what follows, awaits every confirm, acknowledges.

use super::{Loop, WINDOW_MAX};
use crate::bench::{Error, services::Crew};
use dirigent_connectors::{ChannelKind, Message, names, rabbitmq::PREFETCH_MAX};
use futures::{
    StreamExt,
    future::{ready, try_join_all},
    stream,
};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    message::Delivery,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
        ConfirmSelectOptions,
    },
    types::{AMQPValue, FieldTable, ShortString},
};
use std::{collections::HashMap, pin::Pin, sync::atomic::Ordering, task::Poll};

/// Messages survive a restart of the broker.
const PERSISTENT: u8 = 2;

/// What stands before the names of attributes.
const PREFIX: &str = "cloudEvents_";

/// Starts it as a task.
pub(super) async fn start(crew: &mut Crew, address: &str, work: Loop) -> Result<(), Error> {
    // As the connector has it: a broker that stops reading from who publishes goes on pushing.
    let reading = Connection::connect(address, ConnectionProperties::default()).await?;
    let writing = Connection::connect(address, ConnectionProperties::default()).await?;
    let out = writing.create_channel().await?;
    out.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut queues = Vec::new();
    for queue in &work.reads {
        let channel = reading.create_channel().await?;
        channel.basic_qos(PREFETCH_MAX, BasicQosOptions::default()).await?;
        let consumer = channel
            .basic_consume(
                queue.name.as_str().into(),
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await?;
        let place = queues.len();
        queues.push((channel, consumer.map(move |delivery| (place, delivery))));
    }
    let forms: HashMap<&'static str, Form> =
        work.moves.forms().map(|(name, form)| (name, Form::of(form))).collect();
    let (channels, consumers): (Vec<Channel>, Vec<_>) = queues.into_iter().unzip();
    crew.hire(async move {
        // They live as long as the task.
        let _connections = (reading, writing);
        let mut inputs = stream::select_all(consumers).ready_chunks(WINDOW_MAX);
        while let Some(window) = inputs.next().await {
            let mut confirms: Vec<Publishing<'_>> = Vec::with_capacity(window.len());
            let mut through = vec![None; channels.len()];
            let taken = window.len() as u64;
            for (place, delivery) in window {
                let delivery = delivery?;
                let (name, order) = read(&delivery)?;
                for name in work.moves.after(name, order)? {
                    let mut publishing = publish(&out, &forms[name], order);
                    // The first poll queues the frames; waiting until they are written would send one at a time.
                    match futures::poll!(publishing.as_mut()) {
                        Poll::Pending => confirms.push(publishing),
                        Poll::Ready(done) => confirms.push(Box::pin(ready(done))),
                    }
                }
                through[place] = Some(delivery.delivery_tag);
            }
            let confirmed = try_join_all(confirms).await?;
            if confirmed.iter().any(|it| !matches!(it, Confirmation::Ack(None))) {
                return Err("RabbitMQ did not take a message of the bare loop".into());
            }
            for (channel, tag) in channels.iter().zip(through) {
                if let Some(tag) = tag {
                    channel.basic_ack(tag, BasicAckOptions { multiple: true }).await?;
                }
            }
            work.taken.fetch_add(taken, Ordering::AcqRel);
        }
        Err("RabbitMQ has ended the bare loop's consumer".into())
    });
    Ok(())
}

type Publishing<'a> = Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send + 'a>>;

/// Sends a message; done once the broker has it.
fn publish<'a>(out: &'a Channel, form: &'a Form, order: &str) -> Publishing<'a> {
    let properties = form.properties(order);
    let options = BasicPublishOptions { mandatory: form.mandatory, ..Default::default() };
    Box::pin(async move {
        let (exchange, routing_key) = (form.exchange.clone(), form.routing_key.clone());
        out.basic_publish(exchange, routing_key, options, &form.body, properties).await?.await
    })
}

fn read(delivery: &Delivery) -> Result<(&str, &str), Error> {
    let name = delivery.properties.kind().as_ref().map(ShortString::as_str);
    let headers = delivery.properties.headers().as_ref().map(FieldTable::inner);
    let key = headers.and_then(|headers| headers.get("cloudEvents_partitionkey"));
    match (name, key) {
        (Some(name), Some(AMQPValue::LongString(key))) => {
            Ok((name, std::str::from_utf8(key.as_bytes())?))
        }
        _ => Err("a message of the bare loop has lost its type or its key".into()),
    }
}

/// A message to be sent, but for its key.
struct Form {
    exchange: ShortString,
    routing_key: ShortString,
    mandatory: bool,
    properties: BasicProperties,
    headers: FieldTable,
    body: bytes::Bytes,
}

impl Form {
    /// As the connector writes it.
    fn of(form: &Message) -> Self {
        let mut headers = FieldTable::default();
        for (name, value) in form.attributes.iter().filter(|(name, _)| *name != names::CONTENT_TYPE)
        {
            let name = match name {
                names::TRACEPARENT | names::TRACESTATE => name.to_owned(),
                _ => format!("{PREFIX}{name}"),
            };
            headers.insert(name.into(), AMQPValue::LongString(value.as_bytes().into()));
        }
        let property =
            |name: &str| ShortString::from(form.attributes.get(name).unwrap_or_default());
        let properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_message_id(property(names::ID))
            .with_correlation_id(property(dirigent::envelope::SAGA_ID))
            .with_type(property(names::TYPE))
            .with_content_type(property(names::CONTENT_TYPE))
            .with_reply_to(property(names::REPLY_TO));
        let (exchange, routing_key) = match form.kind {
            ChannelKind::Work => ("".into(), form.channel.as_str().into()),
            ChannelKind::Events => (form.channel.as_str().into(), "".into()),
        };
        let mandatory = form.kind == ChannelKind::Work;
        Self { exchange, routing_key, mandatory, properties, headers, body: form.body.clone() }
    }

    fn properties(&self, order: &str) -> BasicProperties {
        let mut headers = self.headers.clone();
        let key = AMQPValue::LongString(order.as_bytes().into());
        headers.insert(format!("{PREFIX}partitionkey").into(), key);
        self.properties.clone().with_headers(headers)
    }
}
