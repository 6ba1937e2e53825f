//! Channels of a sink that do not confirm, and the probes that find out when they do again.
//!
//! ```text
//! a window is late ─► channels with nothing confirmed are silent ─► their messages are unknown at once, the first of them is a probe
//! probe: a connection of its own ─► publish ─► answered: the channel is used again · not in time: the next one that comes is a probe
//! ```
//!
//! RabbitMQ stops reading from a connection once one queue has a few dozen messages that it can't store, so what goes to a silent channel
//! never shares a connection with others. A probe is a message that somebody wants sent now: nothing is sent again here by itself.

use super::{
    connection::{Dialer, Held, Trouble, refusal},
    silence, window,
};
use crate::{ChannelKind, Health, Message, health::Figure};
use lapin::{
    BasicProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

/// How long a probe may take. Long enough that there nearly always is one under way: what it waits for ends it at once.
const PROBE_TIME_MAX: Duration = Duration::from_secs(30);

/// How long a channel is probed without an answer before it is told. One that was only held up by others answers at once.
const TOLD_AFTER: Duration = Duration::from_secs(5);

/// A silent channel that nobody sends to for so long is forgotten, and is an ordinary one for the next message: what was to be sent there
/// again was settled otherwise. Longer than anybody waits before sending again.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);

/// Probes under way at once, each with a connection of its own. Further silent channels wait for their turn.
const PROBES_MAX: usize = 16;

/// Which channels are silent. Shared with whoever tells the health of the sink.
#[derive(Debug, Clone, Default)]
pub(super) struct Silent(Arc<Mutex<BTreeMap<String, Silence>>>);

#[derive(Debug)]
struct Silence {
    kind: ChannelKind,
    is_probed: bool,
    /// When a message for it last came by.
    wanted: Instant,
    /// When its first probe began. Until then, and for a moment after it, it is only suspected.
    since: Option<Instant>,
    is_told: bool,
}

impl Silent {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Silence>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As they are now: what is sent in one window to one channel is treated alike, so that it keeps its order.
    pub(super) fn channels(&self) -> BTreeSet<String> {
        self.lock().keys().cloned().collect()
    }

    /// These did not confirm in time, though the connection stands.
    pub(super) fn suspect<'a>(&self, channels: impl Iterator<Item = (&'a str, ChannelKind)>) {
        let mut silent = self.lock();
        for (channel, kind) in channels {
            silent.entry(channel.into()).or_insert(Silence {
                kind,
                is_probed: false,
                wanted: Instant::now(),
                since: None,
                is_told: false,
            });
        }
    }

    /// Whether a probe of it may begin, which it then has.
    fn begins(&self, channel: &str) -> bool {
        match self.lock().get_mut(channel) {
            Some(silence) if !silence.is_probed => {
                (silence.is_probed, silence.wanted) = (true, Instant::now());
                silence.since.get_or_insert_with(Instant::now);
                true
            }
            _ => false,
        }
    }

    fn ended(&self, channel: &str, probed: Probed) {
        let mut silent = self.lock();
        if probed == Probed::Answered {
            if silent.remove(channel).is_some_and(|silence| silence.is_told) {
                tracing::info!(channel, "RabbitMQ confirms what is sent to this channel again.");
            }
        } else if let Some(silence) = silent.get_mut(channel) {
            silence.is_probed = false;
            if probed == Probed::Unreached {
                silence.since = None;
            }
        }
    }

    /// Tells how the sink stands whose connection is well, and how many channels are not.
    pub(super) fn tell(&self, health: &Health, dialer: &Dialer) {
        let mut silent = self.lock();
        silent.retain(|_, silence| silence.is_probed || silence.wanted.elapsed() < FORGOTTEN_AFTER);
        for (channel, silence) in silent.iter_mut().filter(|(_, silence)| !silence.is_told) {
            silence.is_told = silence.since.is_some_and(|since| since.elapsed() >= TOLD_AFTER);
            if silence.is_told {
                tracing::warn!(
                    channel,
                    "RabbitMQ does not confirm what is sent to this channel; others go on."
                );
            }
        }
        let mut told = silent.iter().filter(|(_, silence)| silence.is_told);
        let first = told.next();
        let count = first.map_or(0, |_| 1 + told.count());
        let (measure, labels) = (&silence::CHANNELS_SILENT, Vec::new());
        health.show(vec![Figure { measure, labels, value: count as f64 }]);
        match first {
            None => health.ready(),
            Some((channel, silence)) => {
                let uri = &dialer.settings().uri;
                let why = silence::of_channel(channel, silence.kind, uri);
                health.degraded(if count > 1 { format!("{count} channels: {why}") } else { why });
            }
        }
    }
}

/// How a probe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probed {
    Answered,
    NotInTime,
    /// The broker is away: nothing is known of the channel.
    Unreached,
}

/// The probes of one sink. They end with it.
pub(super) struct Probes {
    dialer: Arc<Dialer>,
    pub(super) silent: Silent,
    under_way: JoinSet<()>,
}

impl Probes {
    pub(super) fn new(dialer: Arc<Dialer>, silent: Silent) -> Self {
        Self { dialer, silent, under_way: JoinSet::new() }
    }

    /// Finds out by this message whether its channel answers, unless that is being found out.
    pub(super) fn send(&mut self, message: &Message, properties: BasicProperties) {
        while let Some(ended) = self.under_way.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        if self.under_way.len() >= PROBES_MAX || !self.silent.begins(&message.channel) {
            return;
        }
        let (dialer, silent, message) = (self.dialer.clone(), self.silent.clone(), message.clone());
        self.under_way.spawn(async move {
            let probed = timeout(PROBE_TIME_MAX, probe(&dialer, &message, properties)).await;
            let probed = match probed {
                Ok(Ok(())) => Probed::Answered,
                Ok(Err(_)) => Probed::Unreached,
                Err(_) => Probed::NotInTime,
            };
            silent.ended(&message.channel, probed);
        });
    }
}

/// Returns once the broker has said anything about the message: what it is, the window finds out that sends it again.
async fn probe(
    dialer: &Dialer,
    message: &Message,
    properties: BasicProperties,
) -> Result<(), Trouble> {
    let connection = Held::new(dialer.dial(&format!("probe {}", message.channel)).await?);
    let opening = |error| Trouble::of("to open a confirming AMQP channel", error);
    let amqp = connection.create_channel().await.map_err(opening)?;
    amqp.confirm_select(ConfirmSelectOptions::default()).await.map_err(opening)?;
    let (exchange, routing_key) = window::route(message);
    let options =
        BasicPublishOptions { mandatory: message.kind == ChannelKind::Work, ..Default::default() };
    let body = &message.body;
    let publishing =
        amqp.basic_publish(exchange.into(), routing_key.into(), options, body, properties);
    let answered = match publishing.await {
        Ok(confirm) => confirm.await,
        Err(error) => Err(error),
    };
    match answered {
        Ok(_) => Ok(()),
        Err(error) if refusal(&error).is_some() => Ok(()),
        Err(error) => Err(Trouble::passing("to confirm a probe", error)),
    }
}
