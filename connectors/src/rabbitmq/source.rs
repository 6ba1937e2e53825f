//! Consuming: one task per source owns the connection and moves deliveries in and settlements out.
//!
//! ```text
//! broker ─► pump ─► inbox (bounded by the prefetch) ─► receive
//! settle ─► ledger ─► pump ─► broker
//! ```
//!
//! All queues of a source are consumed on one AMQP channel, so that one delivery tag names one delivery and one
//! acknowledgement can speak for many. When that channel is gone, the ledger starts anew and the broker hands out
//! again what it was not told about.

use super::{
    NAME,
    acks::{Ledger, Telling},
    connection::{Dialer, Held, Trouble},
    envelope, owner,
    topology::{self, queue_of},
};
use crate::{
    ChannelSpec, ConnectorError, Delivery, Health, Receipt, Settle, Settler, Source, SourceSpec,
    retry::Delays,
};
use async_trait::async_trait;
use futures::{
    FutureExt, StreamExt,
    future::{maybe_done, ready},
    stream::{self, BoxStream, ReadyChunks, SelectAll},
};
use lapin::{
    Channel,
    message::Delivery as AmqpDelivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions},
    types::FieldTable,
};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// Deliveries the pump moves at once before it looks at settlements again.
const DELIVERIES_PER_TURN: usize = 256;

/// After how long a queue that does not answer is told by its name while a connection is rebuilt. Shorter than one try may take.
const SILENT_AFTER: Duration = Duration::from_secs(75);

/// A connection that held for so long was a good one: the next rebuild starts with short delays again.
const GOOD_CONNECTION: Duration = Duration::from_secs(10);

/// Reads the queues of its channels.
pub(super) struct RabbitMqSource {
    inbox: Arc<Inbox>,
    unsettled_max: usize,
    pump: JoinHandle<()>,
    /// Dropped with the source, which ends the pump and its connection.
    _stop: oneshot::Sender<()>,
}

impl RabbitMqSource {
    pub(super) async fn open(
        dialer: Arc<Dialer>,
        spec: SourceSpec,
    ) -> Result<Self, ConnectorError> {
        let reader = Arc::new(Reader::new(&spec, dialer.settings().prefetch_max)?);
        let stand_by = dialer.settings().stand_by;
        let attempt = || async {
            match Session::open(&dialer, &reader).await {
                Err(Trouble::Owned { .. }) if stand_by => Ok(None),
                opened => opened.map(Some),
            }
        };
        let opened = dialer.while_opening("opening a source", attempt).await;
        let session = opened.map_err(|error| reader.naming_the_silent(error))?;
        let inbox = Arc::new(Inbox::default());
        if session.is_none() {
            inbox.health.waiting("another connection reads its queues; this one stands by");
        }
        let (stop, stopped) = oneshot::channel();
        let pump = Pump { dialer, reader, inbox: inbox.clone(), stopped };
        Ok(Self {
            inbox,
            unsettled_max: spec.unsettled_max,
            pump: tokio::spawn(pump.run(session)),
            _stop: stop,
        })
    }
}

#[async_trait]
impl Source for RabbitMqSource {
    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>, ConnectorError> {
        loop {
            let deliveries = self.inbox.lock().take(max.max(1), self.unsettled_max)?;
            if !deliveries.is_empty() {
                return Ok(deliveries);
            }
            tokio::select! {
                () = self.inbox.changed.notified() => {}
                ended = &mut self.pump => match ended {
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    // The runtime is shutting down, and we with it.
                    _ => std::future::pending().await,
                },
            }
        }
    }

    fn settler(&self) -> Arc<dyn Settler> {
        self.inbox.clone()
    }

    fn health(&self) -> Health {
        self.inbox.health.clone()
    }
}

/// Between the pump and the reader.
#[derive(Default)]
struct Inbox {
    state: Mutex<State>,
    /// Wakes the reader: something arrived, there is room again, or there is trouble.
    changed: Notify,
    /// Wakes the pump: the broker is to be told something.
    settled: Notify,
    health: Health,
}

#[derive(Default)]
struct State {
    /// Arrived and not handed out. No more than the prefetch of all queues, as none of them is acknowledged.
    waiting: VecDeque<Delivery>,
    ledger: Ledger,
    /// What a person must mend; the latest only.
    trouble: Option<ConnectorError>,
}

impl State {
    fn take(&mut self, max: usize, unsettled_max: usize) -> Result<Vec<Delivery>, ConnectorError> {
        if let Some(error) = self.trouble.take() {
            return Err(error);
        }
        let room = unsettled_max.saturating_sub(self.ledger.handed_out());
        let count = max.min(room).min(self.waiting.len());
        self.ledger.hand_out(count);
        Ok(self.waiting.drain(..count).collect())
    }
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrive(&self, reader: &Reader, arrived: Vec<(usize, AmqpDelivery)>) {
        let opened: Vec<_> = arrived
            .into_iter()
            .map(|(index, delivery)| {
                let channel = &reader.channels[index];
                let tag = delivery.delivery_tag;
                (tag, envelope::message_of(channel, &delivery.properties, delivery.data))
            })
            .collect();
        let mut state = self.lock();
        for (tag, message) in opened {
            let receipt = state.ledger.arrived(tag);
            // Receipts count the deliveries of this source from 1.
            let offset = receipt.0 - 1;
            state.waiting.push_back(Delivery { message, partition: 0, offset, receipt });
        }
        drop(state);
        self.changed.notify_one();
    }

    /// What the broker does not know yet.
    fn news(&self) -> Vec<Telling> {
        self.lock().ledger.tell()
    }

    fn report(&self, error: ConnectorError) {
        self.lock().trouble = Some(error);
        self.changed.notify_one();
    }

    /// The AMQP channel is gone: what waits will be handed out again by the broker.
    fn restart(&self) {
        let mut state = self.lock();
        state.waiting.clear();
        state.ledger.restart();
    }
}

impl Settler for Inbox {
    fn settle(&self, settlements: &[(Receipt, Settle)]) {
        let mut state = self.lock();
        for (receipt, settle) in settlements {
            state.ledger.settle(*receipt, *settle);
        }
        let may_go_on = !state.waiting.is_empty();
        drop(state);
        self.settled.notify_one();
        if may_go_on {
            self.changed.notify_one();
        }
    }
}

/// What is read, by whom.
struct Reader {
    channels: Vec<ChannelSpec>,
    group: String,
    /// Deliveries the broker pushes ahead per queue.
    prefetch: u16,
    /// The queue whose answer is awaited.
    asked: Mutex<Option<String>>,
}

impl Reader {
    fn new(spec: &SourceSpec, prefetch_max: u16) -> Result<Self, ConnectorError> {
        topology::check_names(&spec.channels, Some(&spec.group))?;
        if spec.unsettled_max == 0 {
            return Err(ConnectorError::Setting {
                connector: NAME,
                setting: "unsettled_max".into(),
                text: "a source that may hand out nothing reads nothing; at least 1".into(),
            });
        }
        // Quorum queues count the prefetch per consumer only, so the queues share it.
        let total = spec.unsettled_max.min(usize::from(prefetch_max));
        let share = (total / spec.channels.len().max(1)).max(1);
        Ok(Self {
            channels: spec.channels.clone(),
            group: spec.group.clone(),
            prefetch: u16::try_from(share).unwrap_or(prefetch_max),
            asked: Mutex::default(),
        })
    }

    fn asks(&self, queue: Option<&str>) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = queue.map(Into::into);
    }

    /// The queue that keeps us waiting although the broker let us in, and what a person can do.
    fn silent(&self) -> Option<String> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = asked.as_ref()?;
        Some(format!(
            "to consume queue {queue}, which does not answer: `rabbitmq-queues quorum_status {queue}` shows whether it has a leader"
        ))
    }

    /// An opening that came to nothing over one queue names it.
    fn naming_the_silent(&self, error: ConnectorError) -> ConnectorError {
        match (error, self.silent()) {
            (
                ConnectorError::Unreachable { connector, address, doing, waited, source },
                Some(silent),
            ) => {
                let doing = format!("{doing} (it was asked {silent})");
                ConnectorError::Unreachable { connector, address, doing, waited, source }
            }
            (error, _) => error,
        }
    }
}

/// The task that serves one session after the other.
struct Pump {
    dialer: Arc<Dialer>,
    reader: Arc<Reader>,
    inbox: Arc<Inbox>,
    stopped: oneshot::Receiver<()>,
}

impl Pump {
    async fn run(mut self, opened: Option<Session>) {
        let address = self.dialer.settings().uri.clone();
        let mut delays = Delays::new();
        let mut session = match opened {
            Some(session) => session,
            None => tokio::select! {
                biased;
                _ = &mut self.stopped => return,
                taken_over = rebuild(&self.dialer, &self.reader, &self.inbox, &mut delays) => taken_over,
            },
        };
        loop {
            let since = Instant::now();
            match self.serve(&mut session).await {
                Ended::Stopped => {
                    // What was settled before the source was dropped is told before the goodbye.
                    let _ = tell(&session.amqp, self.inbox.news()).await;
                    return session.connection.close().await;
                }
                Ended::Lost(error) => {
                    tracing::warn!(%address, group = self.reader.group, error,
                        "The connection that consumes was lost, rebuilding it.");
                    self.inbox.health.away(error);
                }
            }
            // Lets its queues go, which the next one takes.
            drop(session);
            self.inbox.restart();
            if since.elapsed() >= GOOD_CONNECTION {
                delays.succeeded();
            }
            session = tokio::select! {
                biased;
                _ = &mut self.stopped => return,
                rebuilt = rebuild(&self.dialer, &self.reader, &self.inbox, &mut delays) => rebuilt,
            };
        }
    }

    async fn serve(&mut self, session: &mut Session) -> Ended {
        loop {
            let turn = tokio::select! {
                biased;
                _ = &mut self.stopped => return Ended::Stopped,
                () = self.inbox.settled.notified() => tell(&session.amqp, self.inbox.news()).await,
                happened = session.events.next() => {
                    self.take_turn(session, happened.unwrap_or_default()).await
                }
            };
            match turn {
                Ok(()) => {}
                Err(Trouble::Passing { doing, source }) => {
                    let source = source.map(|source| source.to_string()).unwrap_or_default();
                    return Ended::Lost(format!("RabbitMQ was asked {doing}: {source}"));
                }
                // Only dialling says so, and this connection stands.
                Err(Trouble::Shut(error)) => return Ended::Lost(error.to_string()),
                Err(Trouble::Mend(error)) => {
                    let text = error.to_string();
                    self.inbox.report(error);
                    return Ended::Lost(text);
                }
                Err(Trouble::Owned { queue, .. }) => {
                    return Ended::Lost(format!("another connection reads queue {queue}"));
                }
            }
        }
    }

    async fn take_turn(&self, session: &mut Session, happened: Vec<Event>) -> Result<(), Trouble> {
        let mut arrived = Vec::with_capacity(happened.len());
        let mut outcome = Ok(());
        for event in happened {
            outcome = match event {
                Event::Delivered(index, delivery) => {
                    arrived.push((index, delivery));
                    continue;
                }
                Event::Failed(error) => Err(Trouble::passing("to deliver", error)),
                Event::Cancelled(index) => {
                    let queue = queue_of(&self.reader.channels[index], &self.reader.group);
                    tracing::warn!(
                        queue,
                        "RabbitMQ stopped delivering, was the queue deleted? Declaring it again."
                    );
                    session.resume(&self.reader, index).await
                }
            };
            if outcome.is_err() {
                break;
            }
        }
        self.inbox.arrive(&self.reader, arrived);
        outcome
    }
}

async fn rebuild(dialer: &Dialer, reader: &Reader, inbox: &Inbox, delays: &mut Delays) -> Session {
    sleep(delays.after_failure()).await;
    let open = || async {
        let silent = || Trouble::Passing {
            doing: reader.silent().unwrap_or_else(|| "to let us consume".into()),
            source: None,
        };
        timeout(SILENT_AFTER, Session::open(dialer, reader)).await.unwrap_or_else(|_| Err(silent()))
    };
    dialer.for_ever("consume", delays, &inbox.health, open, |error| inbox.report(error)).await
}

/// Why a session ended.
enum Ended {
    Stopped,
    Lost(String),
}

/// What comes from the broker, with the index of the channel.
#[expect(clippy::large_enum_variant, reason = "nearly every event is a delivery")]
enum Event {
    Delivered(usize, AmqpDelivery),
    Failed(lapin::Error),
    Cancelled(usize),
}

/// One connection with one AMQP channel and a consumer per queue.
struct Session {
    connection: Held,
    amqp: Channel,
    events: ReadyChunks<SelectAll<BoxStream<'static, Event>>>,
}

impl Session {
    async fn open(dialer: &Dialer, reader: &Reader) -> Result<Self, Trouble> {
        reader.asks(None);
        let connection = Held::new(dialer.dial(&format!("consume {}", reader.group)).await?);
        owner::lock(&connection, &reader.channels, &reader.group).await?;
        topology::declare(&connection, &reader.channels, Some(&reader.group)).await?;
        let opening = |error| Trouble::of("to open an AMQP channel for consuming", error);
        let amqp = connection.create_channel().await.map_err(opening)?;
        amqp.basic_qos(reader.prefetch, BasicQosOptions::default()).await.map_err(opening)?;
        let mut all = SelectAll::new();
        // Keeps the stream from ending while a cancelled consumer is being replaced.
        all.push(stream::pending().boxed());
        let events = all.ready_chunks(DELIVERIES_PER_TURN);
        let mut session = Self { connection, amqp, events };
        for index in 0..reader.channels.len() {
            session.consume(reader, index).await?;
        }
        Ok(session)
    }

    /// Consumes a queue again whose consumer the broker has cancelled.
    async fn resume(&mut self, reader: &Reader, index: usize) -> Result<(), Trouble> {
        let channel = &reader.channels[index..=index];
        topology::declare(&self.connection, channel, Some(&reader.group)).await?;
        self.consume(reader, index).await
    }

    async fn consume(&mut self, reader: &Reader, index: usize) -> Result<(), Trouble> {
        let queue = queue_of(&reader.channels[index], &reader.group);
        reader.asks(Some(&queue));
        let answer = self
            .amqp
            .basic_consume(
                queue.as_str().into(),
                // The broker makes up a tag, so that a new consumer is never taken for the cancelled one.
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await;
        reader.asks(None);
        let consumer =
            answer.map_err(|error| Trouble::of(format!("to consume queue {queue}"), error))?;
        let events = consumer
            .map(move |delivered| match delivered {
                Ok(delivery) => Event::Delivered(index, delivery),
                Err(error) => Event::Failed(error),
            })
            .chain(ready(Event::Cancelled(index)).into_stream());
        self.events.get_mut().push(events.boxed());
        Ok(())
    }
}

/// Tells the broker, in this order.
async fn tell(amqp: &Channel, tellings: Vec<Telling>) -> Result<(), Trouble> {
    let mut under_way = Vec::with_capacity(tellings.len());
    for telling in tellings {
        let mut frame = Box::pin(maybe_done(tell_one(amqp, telling)));
        // The first poll queues the frame, so the order is this loop's; waiting for each would send one at a time.
        let _ = futures::poll!(frame.as_mut());
        under_way.push(frame);
    }
    for mut frame in under_way {
        frame.as_mut().await;
        if let Some(Err(error)) = frame.as_mut().take_output() {
            return Err(Trouble::passing("to take settlements", error));
        }
    }
    Ok(())
}

async fn tell_one(amqp: &Channel, telling: Telling) -> lapin::Result<()> {
    match telling {
        Telling::AckThrough(tag) => amqp.basic_ack(tag, BasicAckOptions { multiple: true }).await,
        Telling::Ack(tag) => amqp.basic_ack(tag, BasicAckOptions::default()).await,
        Telling::Requeue(tag) => amqp.basic_reject(tag, BasicRejectOptions { requeue: true }).await,
    }
}
