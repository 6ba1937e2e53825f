//! Consuming: who has the queues of a group, and what comes from them on its way to the reader.
//!
//! ```text
//! pump: lock the queues ─► a consumer for each ─► look at the locks until they are lost ─► …
//! broker ─► consumers ─► inbox (bounded by the prefetch) ─► receive
//! settle ─► a ledger for each queue ─► consumers ─► broker
//! ```
//!
//! Each queue has a [`consumer`](super::consumer) with a connection of its own: RabbitMQ keeps whoever wants to consume a queue without
//! a leader waiting for a minute, and then closes the connection. The others deliver meanwhile. What locks the queues is
//! a connection that asks for nothing else, so that it stands as long as the broker does.

use super::{
    NAME,
    acks::{Ledger, Telling},
    connection::{Dialer, Held, Trouble},
    consumer::Consumer,
    envelope, owner, silence,
    topology::{self, queue_of},
    watch::Progress,
};
use crate::{
    ChannelSpec, ConnectorError, Delivery, Health, Receipt, Settle, Settler, Source, SourceSpec,
    health::Figure, retry::Delays,
};
use async_trait::async_trait;
use lapin::message::Delivery as AmqpDelivery;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, timeout},
};

/// How often we look whether the locks of the queues stand. Costs a read of memory.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A connection that held for so long was a good one: the next rebuild starts with short delays again.
pub(super) const GOOD_CONNECTION: Duration = Duration::from_secs(10);

/// Reads the queues of its channels.
pub(super) struct RabbitMqSource {
    inbox: Arc<Inbox>,
    unsettled_max: usize,
    pump: JoinHandle<()>,
    /// Dropped with the source, which ends the pump and its connections.
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
            match own(&dialer, &reader).await {
                Err(Trouble::Owned { .. }) if stand_by => Ok(None),
                owned => owned.map(Some),
            }
        };
        let owned = dialer.while_opening("opening a source", attempt).await?;
        let inbox = Arc::new(Inbox::new(&reader));
        let is_owner = owned.is_some();
        if !is_owner {
            inbox.health.waiting("another connection reads its queues; this one stands by");
        }
        let (stop, stopped) = oneshot::channel();
        let connect_time_max = dialer.settings().connect_time_max;
        let pump = Pump { dialer, reader, inbox: inbox.clone(), stopped };
        let pump = tokio::spawn(pump.run(owned));
        let source = Self { inbox, unsettled_max: spec.unsettled_max, pump, _stop: stop };
        if is_owner {
            // What a person must mend is told at once. A queue that does not answer holds nobody up: it is told by the health.
            let known = timeout(connect_time_max, source.inbox.first_outcomes()).await;
            known.unwrap_or(Ok(()))?;
        }
        Ok(source)
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

/// How a queue stands with its consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum QueueStands {
    /// Being asked for the first time.
    Opening,
    Consumed,
    /// Asked, and it does not answer: what is known, and what a person can do.
    Silent(String),
    /// Refused, or its connection is lost.
    Failing(String),
}

/// Between the consumers and the reader.
pub(super) struct Inbox {
    state: Mutex<State>,
    /// Wakes the reader: something arrived, there is room again, or there is trouble.
    changed: Notify,
    /// Wakes whoever opens the source: a queue stands in another way.
    stood: Notify,
    queues: Vec<Queue>,
    pub(super) health: Health,
}

struct Queue {
    name: String,
    channel: ChannelSpec,
    /// Wakes its consumer: the broker is to be told something.
    settled: Notify,
}

struct State {
    /// Arrived and not handed out, with the queue. No more than the prefetch of all queues, as none of them is acknowledged.
    waiting: VecDeque<(usize, Delivery)>,
    /// By queue.
    ledgers: Vec<Ledger>,
    stands: Vec<QueueStands>,
    arrived: u64,
    /// What a person must mend; the latest only.
    trouble: Option<ConnectorError>,
}

impl State {
    fn take(&mut self, max: usize, unsettled_max: usize) -> Result<Vec<Delivery>, ConnectorError> {
        if let Some(error) = self.trouble.take() {
            return Err(error);
        }
        let handed_out: usize = self.ledgers.iter().map(Ledger::handed_out).sum();
        let room = unsettled_max.saturating_sub(handed_out);
        let count = max.min(room).min(self.waiting.len());
        let mut taken = Vec::with_capacity(count);
        for (queue, delivery) in self.waiting.drain(..count) {
            self.ledgers[queue].hand_out(1);
            taken.push(delivery);
        }
        Ok(taken)
    }

    /// Whether each queue has had a first outcome. An error where a person is needed.
    fn is_known(&mut self) -> Result<bool, ConnectorError> {
        match self.trouble.take() {
            Some(error) => Err(error),
            None => Ok(!self.stands.contains(&QueueStands::Opening)),
        }
    }

    /// The AMQP channel of a queue is gone: what waits will be handed out again by the broker.
    fn restart(&mut self, queue: usize) {
        self.waiting.retain(|(from, _)| *from != queue);
        self.ledgers[queue].restart();
    }
}

impl Inbox {
    fn new(reader: &Reader) -> Self {
        let queue = |channel: &ChannelSpec| Queue {
            name: queue_of(channel, &reader.group),
            channel: channel.clone(),
            settled: Notify::new(),
        };
        let queues: Vec<Queue> = reader.channels.iter().map(queue).collect();
        let state = State {
            waiting: VecDeque::new(),
            ledgers: queues.iter().map(|_| Ledger::default()).collect(),
            stands: vec![QueueStands::Opening; queues.len()],
            arrived: 0,
            trouble: None,
        };
        Self {
            state: Mutex::new(state),
            changed: Notify::new(),
            stood: Notify::new(),
            queues,
            health: Health::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn arrive(&self, queue: usize, arrived: Vec<AmqpDelivery>) {
        let channel = &self.queues[queue].channel;
        let opened: Vec<_> = arrived
            .into_iter()
            .map(|delivery| {
                let tag = delivery.delivery_tag;
                (tag, envelope::message_of(channel, &delivery.properties, delivery.data))
            })
            .collect();
        let mut state = self.lock();
        for (tag, message) in opened {
            let receipt = self.receipt(queue, state.ledgers[queue].arrived(tag));
            // Counts the deliveries of this source.
            let offset = state.arrived;
            state.arrived += 1;
            state.waiting.push_back((queue, Delivery { message, partition: 0, offset, receipt }));
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Ledgers count for themselves: a receipt of the source carries the queue, too.
    fn receipt(&self, queue: usize, Receipt(own): Receipt) -> Receipt {
        Receipt(own * self.queues.len() as u64 + queue as u64)
    }

    /// How far the consumer of this queue has come.
    pub(super) fn progress(&self, queue: usize) -> Progress {
        let state = self.lock();
        let ledger = &state.ledgers[queue];
        Progress {
            arrived: ledger.ever_arrived(),
            open: ledger.open(),
            is_consumed: state.stands[queue] == QueueStands::Consumed,
        }
    }

    /// What the broker does not know yet about this queue.
    pub(super) fn news(&self, queue: usize) -> Vec<Telling> {
        self.lock().ledgers[queue].tell()
    }

    /// Waits until something of this queue was settled.
    pub(super) async fn settled(&self, queue: usize) {
        self.queues[queue].settled.notified().await;
    }

    /// A person must mend this.
    pub(super) fn report(&self, error: ConnectorError) {
        self.lock().trouble = Some(error);
        self.changed.notify_one();
        self.stood.notify_one();
    }

    /// The AMQP channel of this queue is gone.
    pub(super) fn restart(&self, queue: usize) {
        self.lock().restart(queue);
    }

    /// A queue stands so, and with it the source.
    pub(super) fn stands(&self, queue: usize, stands: QueueStands) {
        let mut state = self.lock();
        state.stands[queue] = stands;
        self.tell_health(&state.stands);
        drop(state);
        self.stood.notify_one();
    }

    /// All queues are asked anew.
    fn opening(&self) {
        self.lock().stands.fill(QueueStands::Opening);
    }

    fn tell_health(&self, stands: &[QueueStands]) {
        let figure = |(queue, stands): (&Queue, &QueueStands)| Figure {
            measure: &silence::QUEUE_UP,
            labels: vec![("queue", queue.name.clone())],
            value: f64::from(u8::from(*stands == QueueStands::Consumed)),
        };
        self.health.show(self.queues.iter().zip(stands).map(figure).collect());
        let (mut silent, mut failing, mut opening) = (Vec::new(), Vec::new(), false);
        for stands in stands {
            match stands {
                QueueStands::Consumed => {}
                QueueStands::Opening => opening = true,
                QueueStands::Silent(why) => silent.push(why),
                QueueStands::Failing(why) => failing.push(why),
            }
        }
        let ailing = silent.len() + failing.len();
        let why = match silent.first().or(failing.first()) {
            Some(why) if failing.len() == stands.len() => return self.health.away(why.as_str()),
            Some(why) if ailing > 1 => format!("{ailing} of {} queues: {why}", stands.len()),
            Some(why) => why.to_string(),
            None if opening => return,
            None => return self.health.ready(),
        };
        let is_deaf = |stands: &QueueStands| *stands != QueueStands::Consumed;
        let deaf = self.queues.iter().zip(stands).filter(|(_, stands)| is_deaf(stands));
        let deaf: Vec<String> = deaf.map(|(queue, _)| queue.channel.name.clone()).collect();
        if deaf.len() == stands.len() {
            self.health.degraded(why);
        } else {
            self.health.ails(deaf, why);
        }
    }

    /// Waits until each queue has answered, failed or was found silent. An error where a person is needed.
    async fn first_outcomes(&self) -> Result<(), ConnectorError> {
        while !self.lock().is_known()? {
            self.stood.notified().await;
        }
        Ok(())
    }
}

impl Settler for Inbox {
    fn settle(&self, settlements: &[(Receipt, Settle)]) {
        let mut touched = vec![false; self.queues.len()];
        let count = self.queues.len() as u64;
        let mut state = self.lock();
        for (Receipt(receipt), settle) in settlements {
            let Some(queue) = receipt.checked_rem(count).and_then(|at| usize::try_from(at).ok())
            else {
                continue;
            };
            state.ledgers[queue].settle(Receipt(receipt / count), *settle);
            touched[queue] = true;
        }
        let may_go_on = !state.waiting.is_empty();
        drop(state);
        for (queue, _) in self.queues.iter().zip(touched).filter(|(_, touched)| *touched) {
            queue.settled.notify_one();
        }
        if may_go_on {
            self.changed.notify_one();
        }
    }
}

/// What is read, by whom.
pub(super) struct Reader {
    pub(super) channels: Vec<ChannelSpec>,
    pub(super) group: String,
    /// Deliveries the broker pushes ahead per queue.
    pub(super) prefetch: u16,
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
        })
    }
}

/// A connection that has the locks of all queues, which are declared.
async fn own(dialer: &Dialer, reader: &Reader) -> Result<Held, Trouble> {
    let connection = Held::new(dialer.dial(&format!("consume {}", reader.group)).await?);
    owner::lock(&connection, &reader.channels, &reader.group).await?;
    topology::declare(&connection, &reader.channels, Some(&reader.group)).await?;
    Ok(connection)
}

/// The task that keeps the locks, and a consumer for each queue while it has them.
struct Pump {
    dialer: Arc<Dialer>,
    reader: Arc<Reader>,
    inbox: Arc<Inbox>,
    stopped: oneshot::Receiver<()>,
}

impl Pump {
    async fn run(mut self, owned: Option<Held>) {
        let address = self.dialer.settings().uri.clone();
        let mut delays = Delays::new();
        let mut next = owned;
        loop {
            let connection = match next.take() {
                Some(connection) => connection,
                None => tokio::select! {
                    biased;
                    _ = &mut self.stopped => return,
                    rebuilt = rebuild(&self.dialer, &self.reader, &self.inbox, &mut delays) => rebuilt,
                },
            };
            let since = Instant::now();
            self.inbox.opening();
            let (stop, mut consumers) = self.consumers();
            let stopped = tokio::select! {
                biased;
                _ = &mut self.stopped => true,
                () = panics(&mut consumers) => false,
                () = lost(&connection) => false,
            };
            // They tell what was settled before their goodbye.
            stop.send_replace(true);
            ended(&mut consumers).await;
            if stopped {
                return connection.close().await;
            }
            let group = &self.reader.group;
            tracing::warn!(%address, group, "The connection that consumes was lost, rebuilding it.");
            self.inbox
                .health
                .away(format!("the connection to RabbitMQ at {address} that consumes was lost"));
            // Lets its queues go, which the next one takes.
            drop(connection);
            if since.elapsed() >= GOOD_CONNECTION {
                delays.succeeded();
            }
        }
    }

    fn consumers(&self) -> (watch::Sender<bool>, JoinSet<()>) {
        let (stop, stopped) = watch::channel(false);
        let mut consumers = JoinSet::new();
        for queue in 0..self.reader.channels.len() {
            let consumer = Consumer {
                dialer: self.dialer.clone(),
                reader: self.reader.clone(),
                inbox: self.inbox.clone(),
                queue,
                stopped: stopped.clone(),
            };
            consumers.spawn(consumer.run());
        }
        (stop, consumers)
    }
}

/// Waits for the consumers, and passes on their panics.
async fn ended(consumers: &mut JoinSet<()>) {
    while let Some(joined) = consumers.join_next().await {
        if let Err(error) = joined
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// Passes on the panic of a consumer as soon as there is one, since nobody else would consume its queue. Ends by nothing else.
async fn panics(consumers: &mut JoinSet<()>) {
    ended(consumers).await;
    std::future::pending().await
}

/// Returns once the connection is gone.
async fn lost(connection: &Held) {
    while connection.status().connected() {
        sleep(LOOK_EVERY).await;
    }
}

async fn rebuild(dialer: &Dialer, reader: &Reader, inbox: &Inbox, delays: &mut Delays) -> Held {
    sleep(delays.after_failure()).await;
    let open = || own(dialer, reader);
    dialer.for_ever("consume", delays, &inbox.health, open, |error| inbox.report(error)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[should_panic(expected = "a consumer of one queue")]
    async fn the_panic_of_one_consumer_is_passed_on_while_the_others_go_on() {
        let mut consumers = JoinSet::new();
        consumers.spawn(std::future::pending());
        consumers.spawn(async { panic!("a consumer of one queue") });
        panics(&mut consumers).await;
    }
}
