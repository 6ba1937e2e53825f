//! Publishing: a whole window in flight on one confirming AMQP channel, then one decision over all of it.
//!
//! The connection is rebuilt by a task that the sink owns; [`send`](RabbitMqSink::send) waits for it within its time limit.

use super::{
    connection::{Dialer, Trouble, code, refusal},
    envelope::{self, NAME_BYTES_MAX, Unfit},
    topology::{self, Prepared},
    window::{self, End, Heard, Returned},
};
use crate::{
    ChannelKind, ConnectorError, Health, Message, Sent, Sink, UnsentReason, retry::Delays,
};
use async_trait::async_trait;
use futures::future::{MaybeDone, maybe_done};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use std::{collections::BTreeSet, pin::Pin, sync::Arc, time::Duration};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout_at},
};

/// How often we look whether the broker reads from us again. Alarms last seconds to hours.
const BLOCKED_LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is said of a broker that does not read from us.
const BLOCKED: &str =
    "RabbitMQ takes no messages for want of memory or disk; see `rabbitmq-diagnostics alarms`";

/// Sends windows to one broker.
pub(super) struct RabbitMqSink {
    dialer: Arc<Dialer>,
    prepared: Prepared,
    /// None while a window is under way, so that a dropped `send` leaves no half-heard line behind.
    line: Option<Line>,
    dialling: Option<Dialling>,
    delays: Delays,
    /// How long the next rebuild waits before its first try.
    pause: Duration,
    health: Health,
}

/// A connection with a confirming AMQP channel.
struct Line {
    connection: Connection,
    amqp: Channel,
    /// A window was given up on it: what the broker says from now on may belong to that one.
    stale: bool,
}

impl Line {
    async fn open(dialer: &Dialer, prepared: &Prepared) -> Result<Self, Trouble> {
        let connection = dialer.dial("publish").await?;
        if let Err(trouble) = topology::declare(&connection, &prepared.all(), None).await {
            match trouble {
                // What still exists can be published to; what does not is told per message.
                Trouble::Mend(error) => {
                    tracing::error!(%error, "A channel can't be declared again, publishing goes on.");
                }
                Trouble::Passing { .. } => return Err(trouble),
            }
        }
        let opening = |error| Trouble::of("to open a confirming AMQP channel", error);
        let amqp = connection.create_channel().await.map_err(opening)?;
        amqp.confirm_select(ConfirmSelectOptions::default()).await.map_err(opening)?;
        Ok(Self { connection, amqp, stale: false })
    }

    fn is_blocked(&self) -> bool {
        self.connection.status().connected() && self.connection.status().blocked()
    }

    fn is_usable(&self) -> bool {
        !self.stale && self.amqp.status().connected()
    }
}

/// The task that rebuilds the line. Ends with its owner.
struct Dialling(JoinHandle<Line>);

impl Drop for Dialling {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl RabbitMqSink {
    pub(super) async fn open(
        dialer: Arc<Dialer>,
        prepared: Prepared,
    ) -> Result<Self, ConnectorError> {
        let line =
            dialer.while_opening("opening a sink", || Line::open(&dialer, &prepared)).await?;
        Ok(Self {
            dialer,
            prepared,
            line: Some(line),
            dialling: None,
            delays: Delays::new(),
            pause: Duration::ZERO,
            health: Health::new(),
        })
    }

    /// Waits for a line that can be published on, and takes it.
    async fn take_line(&mut self) -> Line {
        while self.line.as_ref().is_some_and(Line::is_blocked) {
            self.health.degraded(BLOCKED);
            sleep(BLOCKED_LOOK_EVERY).await;
        }
        if let Some(line) = self.line.take()
            && line.is_usable()
        {
            return line;
        }
        let dialling = self.dialling.get_or_insert_with(|| {
            let (dialer, prepared, pause, health) =
                (self.dialer.clone(), self.prepared.clone(), self.pause, self.health.clone());
            Dialling(tokio::spawn(async move {
                sleep(pause).await;
                let open = || Line::open(&dialer, &prepared);
                dialer.for_ever("publish", &mut Delays::new(), &health, open, |_| {}).await
            }))
        });
        let ended = (&mut dialling.0).await;
        self.dialling = None;
        match ended {
            Ok(line) => line,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is shutting down, and we with it.
            Err(_) => std::future::pending().await,
        }
    }

    /// Why the window was not decided in time. `line` is the one it went out on, or would have.
    fn silence(&self, line: Option<&Line>) -> String {
        let limit = self.dialer.settings().confirm_time_max;
        let address = &self.dialer.settings().uri;
        match line {
            Some(line) if line.is_blocked() => {
                format!("RabbitMQ at {address} takes no messages for want of memory or disk")
            }
            Some(_) => format!("RabbitMQ at {address} did not confirm within {}s", limit.as_secs()),
            None => format!("RabbitMQ at {address} was not reached within {}s", limit.as_secs()),
        }
    }

    /// Checks what can be known without the broker.
    fn fit(&self, message: &Message) -> Result<BasicProperties, Heard> {
        let bytes_max = self.dialer.settings().message_bytes_max;
        if message.body.len() > bytes_max {
            let text = format!("{} bytes; at most {bytes_max} are sent", message.body.len());
            return Err(Heard::Withheld(UnsentReason::TooLarge, text));
        }
        if message.channel.is_empty() || message.channel.len() > NAME_BYTES_MAX {
            let text = format!("names of channels have 1 to {NAME_BYTES_MAX} bytes");
            return Err(Heard::Withheld(UnsentReason::Refused, text));
        }
        envelope::properties_of(message).map_err(|unfit| match unfit {
            Unfit::Name(name) => Heard::Withheld(
                UnsentReason::Refused,
                format!("the header {name} is longer than {NAME_BYTES_MAX} bytes"),
            ),
            Unfit::Headers { bytes } => Heard::Withheld(
                UnsentReason::TooLarge,
                format!("{bytes} bytes of headers do not fit into one AMQP frame"),
            ),
        })
    }

    /// Puts the line back if it can carry the next window.
    fn keep_or_rebuild(&mut self, mut line: Line, end: &End) {
        match end {
            End::Complete => {
                self.health.ready();
                self.delays.succeeded();
                self.pause = Duration::ZERO;
                self.line = Some(line);
            }
            // A blocked connection can't even be closed: keep it instead of piling up more of them.
            End::TimedOut(_) if line.is_blocked() => {
                self.health.degraded(BLOCKED);
                line.stale = true;
                self.line = Some(line);
            }
            End::TimedOut(text) | End::Broken(text) => {
                self.health.away(text);
                self.pause = self.delays.after_failure();
            }
            // Only the AMQP channel was closed, over a message. The new line declares the topology again.
            End::NoExchange(_) | End::Forbidden { .. } | End::TooLarge { .. } => {
                self.pause = Duration::ZERO;
            }
        }
    }
}

#[async_trait]
impl Sink for RabbitMqSink {
    async fn send(&mut self, window: &[Message]) -> Vec<Sent> {
        let deadline = Instant::now() + self.dialer.settings().confirm_time_max;
        let mut hearing = Hearing::new(window.len());
        let mut sendable = Vec::with_capacity(window.len());
        for (index, message) in window.iter().enumerate() {
            match self.fit(message) {
                Ok(properties) => sendable.push((index, message, properties)),
                Err(withheld) => hearing.heard[index] = withheld,
            }
        }
        if sendable.is_empty() {
            return window::decide(window, &hearing.heard, &[], &End::Complete);
        }
        let Ok(line) = timeout_at(deadline, self.take_line()).await else {
            let end = End::TimedOut(self.silence(self.line.as_ref()));
            return window::decide(window, &hearing.heard, &[], &end);
        };
        let in_time = timeout_at(deadline, publish(&line.amqp, sendable, &mut hearing)).await;
        let end = match (in_time, hearing.broken.take()) {
            (Err(_), _) => End::TimedOut(self.silence(Some(&line))),
            (Ok(()), None) => End::Complete,
            (Ok(()), Some(error)) => {
                let silent = silent_exchanges(window, &hearing.heard);
                let finding = end_of(&line.connection, &error, &silent);
                match timeout_at(deadline, finding).await {
                    Ok(end) => end,
                    Err(_) => End::Broken(error.to_string()),
                }
            }
        };
        if !matches!(end, End::Complete) {
            tracing::warn!(?end, messages = window.len(), "A window was not confirmed as a whole.");
        }
        self.keep_or_rebuild(line, &end);
        window::decide(window, &hearing.heard, &hearing.returned, &end)
    }

    fn health(&self) -> Health {
        self.health.clone()
    }
}

/// What is heard about one window, while it comes in.
struct Hearing {
    heard: Vec<Heard>,
    returned: Vec<Returned>,
    broken: Option<lapin::Error>,
}

impl Hearing {
    fn new(messages: usize) -> Self {
        Self { heard: vec![Heard::Nothing; messages], returned: Vec::new(), broken: None }
    }

    fn confirmation(&mut self, index: usize, confirmation: Confirmation) {
        self.heard[index] = match &confirmation {
            Confirmation::Ack(_) => Heard::Ack,
            Confirmation::Nack(_) => Heard::Nack,
            // Never on a channel in confirm mode; nothing was promised, so nothing was heard.
            Confirmation::NotRequested => Heard::Nothing,
        };
        if let Some(back) = confirmation.take_message() {
            self.returned.push(Returned {
                id: envelope::id_of(&back.delivery.properties),
                exchange: back.delivery.exchange.to_string(),
                routing_key: back.delivery.routing_key.to_string(),
            });
        }
    }

    /// Keeps what the broker said over what followed from it.
    fn failure(&mut self, error: lapin::Error) {
        if self.broken.as_ref().is_none_or(|known| refusal(known).is_none()) {
            self.broken = Some(error);
        }
    }
}

/// Puts the whole window in flight, in order, then collects every confirm.
async fn publish(
    amqp: &Channel,
    sendable: Vec<(usize, &Message, BasicProperties)>,
    hearing: &mut Hearing,
) {
    let mut in_flight = Vec::with_capacity(sendable.len());
    for (index, message, properties) in sendable {
        let (exchange, routing_key) = window::route(message);
        let options = BasicPublishOptions {
            mandatory: message.kind == ChannelKind::Work,
            ..Default::default()
        };
        let mut publishing = Box::pin(maybe_done(amqp.basic_publish(
            exchange.into(),
            routing_key.into(),
            options,
            &message.body,
            properties,
        )));
        // The first poll queues the frames; waiting until they are written would send one at a time.
        let _ = futures::poll!(publishing.as_mut());
        in_flight.push((index, publishing));
    }
    for (index, mut publishing) in in_flight {
        publishing.as_mut().await;
        let confirmed = match taken(publishing.as_mut()) {
            Ok(confirm) => confirm.await,
            Err(error) => Err(error),
        };
        match confirmed {
            Ok(confirmation) => hearing.confirmation(index, confirmation),
            Err(error) => hearing.failure(error),
        }
    }
}

fn taken<F: Future>(done: Pin<&mut MaybeDone<F>>) -> F::Output {
    done.take_output().expect("a future that was awaited has its output, and it is taken once")
}

/// The exchanges of the messages about which nothing was heard.
fn silent_exchanges(window: &[Message], heard: &[Heard]) -> BTreeSet<String> {
    let silent = |(_, heard): &(&Message, &Heard)| **heard == Heard::Nothing;
    let exchange = |(message, _): (&Message, &Heard)| window::route(message).0.to_owned();
    window.iter().zip(heard).filter(silent).map(exchange).collect()
}

/// What an error during a window means for its messages.
async fn end_of(connection: &Connection, error: &lapin::Error, silent: &BTreeSet<String>) -> End {
    let Some((reply_code, text)) = refusal(error) else { return End::Broken(error.to_string()) };
    match reply_code {
        code::NOT_FOUND => {
            let mut missing = BTreeSet::new();
            for exchange in silent.iter().filter(|exchange| !exchange.is_empty()) {
                if topology::lacks_exchange(connection, exchange).await {
                    missing.insert(exchange.clone());
                }
            }
            if missing.is_empty() { End::Broken(text) } else { End::NoExchange(missing) }
        }
        code::ACCESS_REFUSED => {
            let exchange = refused_exchange(&text, silent);
            End::Forbidden { exchange, text }
        }
        code::PRECONDITION_FAILED => match bytes_max_in(&text) {
            Some(bytes_max) => End::TooLarge { bytes_max },
            None => End::Broken(text),
        },
        _ => End::Broken(text),
    }
}

/// The exchange that a refusal names, as in `access to exchange 'orders' in vhost '/' refused for user 'ann'`.
fn refused_exchange(text: &str, silent: &BTreeSet<String>) -> Option<String> {
    let named = text.split_once("exchange '").and_then(|(_, rest)| rest.split_once('\''));
    let named = named.map(|(name, _)| if name == "amq.default" { "" } else { name });
    match named {
        Some(name) if silent.contains(name) => Some(name.to_owned()),
        // Cut off, or worded otherwise: still certain if there is only one that it can be.
        _ if silent.len() == 1 => silent.first().cloned(),
        _ => None,
    }
}

/// The limit in `message size 20 is larger than configured max size 10`.
fn bytes_max_in(text: &str) -> Option<usize> {
    let (_, limit) = text.split_once("larger than")?;
    let digits = limit.rsplit(|c: char| !c.is_ascii_digit()).find(|part| !part.is_empty())?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_exchange() {
        let silent = BTreeSet::from([String::new(), "orders".to_owned()]);
        let text = "ACCESS_REFUSED - write access to exchange 'orders' in vhost '/' refused for user 'ann'";
        assert_eq!(refused_exchange(text, &silent).as_deref(), Some("orders"));
        let text = "ACCESS_REFUSED - access to exchange 'amq.default' in vhost '/' refused";
        assert_eq!(refused_exchange(text, &silent).as_deref(), Some(""));
        assert_eq!(refused_exchange("ACCESS_REFUSED - no", &silent), None);
        let one = BTreeSet::from(["orders".to_owned()]);
        assert_eq!(refused_exchange("ACCESS_REFUSED - no", &one).as_deref(), Some("orders"));
    }

    #[test]
    fn the_brokers_size_limit_is_read_from_its_words() {
        let text = "PRECONDITION_FAILED - message size 200 is larger than configured max size 100";
        assert_eq!(bytes_max_in(text), Some(100));
        assert_eq!(bytes_max_in("PRECONDITION_FAILED - unknown delivery tag 7"), None);
    }
}
