//! One queue, consumed for ever: one connection after the other, whatever becomes of the other queues.
//!
//! ```text
//! dial ─► (declare again) ─► consume: answered · silent, which is told · given up ─► deliver and settle until it is lost, or we
//!                                                                                   are forgotten by the broker ─► dial …
//! ```
//!
//! All deliveries of a queue come on one AMQP channel, so that one delivery tag names one delivery and one acknowledgement can speak for
//! many. When that channel is gone, the ledger of the queue starts anew and the broker hands out again what it was not told about. There is
//! never a second consumer of ours: the next one is asked for once the connection of the one before is let go, and the broker takes the
//! queue from a consumer whose connection has ended before it hands anything to another.

use super::{
    acks::Telling,
    connection::{Dialer, Held, REBUILD_TIME_MAX, Trouble},
    owner, silence,
    source::{GOOD_CONNECTION, Inbox, QueueStands, Reader},
    topology::{self, queue_of},
    watch::Watched,
};
use crate::retry::Delays;
use futures::{StreamExt, future::maybe_done, stream::ReadyChunks};
use lapin::{
    Channel,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions},
    types::FieldTable,
};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

/// Deliveries moved at once before settlements are looked at again.
const DELIVERIES_PER_TURN: usize = 256;

/// After how long a queue that does not answer is told by its name. Queues answer within milliseconds; after a restart of the broker
/// within seconds, while it elects their leaders.
const SILENT_AFTER: Duration = Duration::from_secs(10);

/// How long a queue may take to answer before it is asked anew. RabbitMQ itself gives up after about 65 s, by closing the connection; giving up
/// before that leaves it waiting there.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(75);

/// How long the last words may take.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);

/// The task of one queue.
pub(super) struct Consumer {
    pub(super) dialer: Arc<Dialer>,
    pub(super) reader: Arc<Reader>,
    pub(super) inbox: Arc<Inbox>,
    /// Which of the reader's.
    pub(super) queue: usize,
    /// Turns true, or its sender is dropped.
    pub(super) stopped: watch::Receiver<bool>,
}

impl Consumer {
    /// Works until it is stopped.
    pub(super) async fn run(self) {
        let mut stopped = self.stopped.clone();
        let (mut delays, mut again) = (Delays::new(), false);
        loop {
            let opened = tokio::select! {
                biased;
                () = stop(&mut stopped) => return,
                opened = self.open(again) => opened,
            };
            let since = Instant::now();
            let lost = match opened {
                Ok(mut session) => {
                    if again {
                        let queue = self.name();
                        tracing::info!(queue, "The queue is consumed again.");
                        self.inbox.health.reconnected();
                    }
                    self.inbox.stands(self.queue, QueueStands::Consumed);
                    let served = self.serve_while_known(&mut session).await;
                    if served.is_ok() {
                        let last_words = tell(&session.amqp, self.inbox.news(self.queue));
                        let _ = timeout(LAST_WORDS_MAX, last_words).await;
                        session.connection.close().await;
                    }
                    self.inbox.restart(self.queue);
                    served
                }
                Err(lost) => Err(lost),
            };
            let Err(lost) = lost else { return };
            // It was waited for long enough: it is asked anew at once.
            let was_long = matches!(lost, Lost::Silent);
            self.tell_of(lost);
            if was_long || since.elapsed() >= GOOD_CONNECTION {
                delays.succeeded();
            }
            again = true;
            tokio::select! {
                biased;
                () = stop(&mut stopped) => return,
                () = sleep(delays.after_failure()) => {}
            }
        }
    }

    fn name(&self) -> String {
        queue_of(&self.reader.channels[self.queue], &self.reader.group)
    }

    fn tell_of(&self, lost: Lost) {
        let (queue, address) = (self.name(), &self.dialer.settings().uri);
        let why = match lost {
            // It was told when it was found out, and it still is so.
            Lost::Silent => return,
            Lost::To(Trouble::Mend(error)) => {
                let text = error.to_string();
                tracing::error!(
                    queue,
                    error = text,
                    "RabbitMQ refuses to let us consume, trying again."
                );
                self.inbox.report(error);
                text
            }
            Lost::To(Trouble::Shut(error)) => error.to_string(),
            Lost::To(Trouble::Passing { doing, source }) => {
                let source = source.map(|source| format!(": {source}")).unwrap_or_default();
                format!("RabbitMQ at {address} was asked {doing}{source}")
            }
            Lost::Forgotten(why) => why,
            Lost::To(Trouble::Owned { .. }) => format!("another connection reads queue {queue}"),
        };
        tracing::warn!(queue, why, "A queue is not consumed, trying again.");
        self.inbox.stands(self.queue, QueueStands::Failing(why));
    }

    /// A connection on which the queue is consumed.
    async fn open(&self, again: bool) -> Result<Session, Lost> {
        let purpose = format!("consume {} from {}", self.reader.group, self.name());
        let connection = Held::new(self.dialer.dial(&purpose).await?);
        let prepared = timeout(REBUILD_TIME_MAX, self.prepare(&connection, again)).await;
        let silent = |_| Trouble::Passing {
            doing: format!("to declare queue {} and to open an AMQP channel", self.name()),
            source: None,
        };
        let (amqp, is_marked) = prepared.map_err(silent)??;
        let deliveries = self.consume(&amqp).await?;
        Ok(Session { connection, amqp, deliveries, is_marked })
    }

    /// An AMQP channel to consume by, and whether the queue is marked.
    async fn prepare(&self, connection: &Held, again: bool) -> Result<(Channel, bool), Trouble> {
        if again {
            self.declare(connection).await?;
        }
        let opening = |error| Trouble::of("to open an AMQP channel for consuming", error);
        let amqp = connection.create_channel().await.map_err(opening)?;
        let options = BasicQosOptions::default();
        amqp.basic_qos(self.reader.prefetch, options).await.map_err(opening)?;
        let name = self.name();
        // Before it is consumed: whatever becomes of the queue from now on is seen by its mark.
        let is_marked = topology::mark(connection, &name, &owner::lock_of(&name)).await;
        Ok((amqp, is_marked))
    }

    async fn declare(&self, connection: &Held) -> Result<(), Trouble> {
        let channel = &self.reader.channels[self.queue..=self.queue];
        topology::declare(connection, channel, Some(&self.reader.group)).await
    }

    async fn consume(&self, amqp: &Channel) -> Result<Deliveries, Lost> {
        let queue = self.name();
        let answer = amqp.basic_consume(
            queue.as_str().into(),
            // The broker makes up a tag, so that a new consumer is never taken for a cancelled one.
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        tokio::pin!(answer);
        let (answered, was_silent) = match timeout(SILENT_AFTER, answer.as_mut()).await {
            Ok(answered) => (answered, false),
            Err(_) => {
                let why = silence::of_queue(&queue, &self.dialer.settings().uri);
                tracing::warn!(queue, why, "A queue does not answer, waiting for it.");
                self.inbox.stands(self.queue, QueueStands::Silent(why));
                let longer = timeout(ANSWER_TIME_MAX - SILENT_AFTER, answer.as_mut());
                (longer.await.map_err(|_| Lost::Silent)?, true)
            }
        };
        match answered {
            Ok(consumer) => Ok(consumer.ready_chunks(DELIVERIES_PER_TURN)),
            // What ended the wait says less than that there was no answer.
            Err(_) if was_silent => Err(Lost::Silent),
            Err(error) => Err(Trouble::of(format!("to consume queue {queue}"), error).into()),
        }
    }

    /// Serves the queue for as long as the broker knows that we consume it.
    async fn serve_while_known(&self, session: &mut Session) -> Result<(), Lost> {
        let Session { connection, amqp, deliveries, is_marked } = session;
        let (inbox, queue, name) = (&*self.inbox, self.queue, self.name());
        let (prefetch, is_marked) = (self.reader.prefetch, *is_marked);
        let watched = Watched { inbox, queue, name: &name, prefetch, is_marked };
        tokio::select! {
            biased;
            served = self.serve(amqp, deliveries) => served,
            why = watched.forgotten(connection) => Err(Lost::Forgotten(why)),
        }
    }

    /// Moves deliveries in and settlements out, until it is stopped or the connection is lost.
    async fn serve(&self, amqp: &Channel, deliveries: &mut Deliveries) -> Result<(), Lost> {
        let mut stopped = self.stopped.clone();
        loop {
            let delivered = tokio::select! {
                biased;
                () = stop(&mut stopped) => return Ok(()),
                () = self.inbox.settled(self.queue) => {
                    tell(amqp, self.inbox.news(self.queue)).await?;
                    continue;
                }
                delivered = deliveries.next() => delivered,
            };
            match delivered {
                Some(delivered) => self.arrive(delivered)?,
                // Not on the same AMQP channel: what becomes of a queue made anew on one that consumed the old one, `watch` tells.
                None => {
                    let queue = self.name();
                    let why =
                        format!("RabbitMQ stopped delivering from queue {queue}; was it deleted?");
                    return Err(Lost::Forgotten(why));
                }
            }
        }
    }

    fn arrive(
        &self,
        delivered: Vec<lapin::Result<lapin::message::Delivery>>,
    ) -> Result<(), Trouble> {
        let mut arrived = Vec::with_capacity(delivered.len());
        let mut outcome = Ok(());
        for one in delivered {
            match one {
                Ok(delivery) => arrived.push(delivery),
                Err(error) => {
                    outcome = Err(Trouble::passing("to deliver", error));
                    break;
                }
            }
        }
        self.inbox.arrive(self.queue, arrived);
        outcome
    }
}

async fn stop(stopped: &mut watch::Receiver<bool>) {
    // Where its sender is gone, the pump is.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

type Deliveries = ReadyChunks<lapin::Consumer>;

/// A connection with one AMQP channel and its consumer.
struct Session {
    connection: Held,
    amqp: Channel,
    deliveries: Deliveries,
    /// The queue that is consumed is marked.
    is_marked: bool,
}

/// Why a queue is not consumed.
enum Lost {
    /// It did not answer.
    Silent,
    /// The broker has cancelled our consumer, or forgotten it: what is known of that.
    Forgotten(String),
    To(Trouble),
}

impl From<Trouble> for Lost {
    fn from(trouble: Trouble) -> Self {
        Self::To(trouble)
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
