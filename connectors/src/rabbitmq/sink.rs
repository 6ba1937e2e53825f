//! Publishing: a whole window in flight on one confirming AMQP channel, then one decision over all of it.
//!
//! A channel of which nothing was confirmed in time, though the connection stands, is [silent](super::probes): its messages are unknown at once, and
//! those of other channels go on without it.
//!
//! The connection is kept by the task of a [`line`](super::line); [`send`](RabbitMqSink::send) waits for it within its time limit.
//! What was prepared and is gone, because somebody deleted it, is declared again and sent to once more before it counts as unroutable.

use super::{
    connection::{Dialer, code, refusal},
    envelope::{self, NAME_BYTES_MAX, Unfit},
    line::{BLOCKED, Keeper},
    probes::{Probes, Silent},
    topology::{self, Prepared},
    window::{self, End, Heard, Returned},
};
use crate::{ChannelKind, ChannelSpec, ConnectorError, Health, Message, Sent, Sink, UnsentReason};
use async_trait::async_trait;
use futures::future::{FutureExt, ready};
use lapin::{BasicProperties, Channel, Confirmation, Connection, options::BasicPublishOptions};
use std::{
    collections::{BTreeSet, VecDeque},
    pin::Pin,
    sync::Arc,
    task::Poll,
};
use tokio::time::{Instant, timeout_at};

/// Sends windows to one broker.
pub(super) struct RabbitMqSink {
    dialer: Arc<Dialer>,
    prepared: Prepared,
    keeper: Keeper,
    probes: Probes,
    health: Health,
}

impl RabbitMqSink {
    pub(super) async fn open(
        dialer: Arc<Dialer>,
        prepared: Prepared,
    ) -> Result<Self, ConnectorError> {
        let (health, silent) = (Health::new(), Silent::default());
        let keeper =
            Keeper::open(dialer.clone(), prepared.clone(), health.clone(), silent.clone()).await?;
        let probes = Probes::new(dialer.clone(), silent);
        Ok(Self { dialer, prepared, keeper, probes, health })
    }

    /// Sends these messages, and where the broker refuses one without saying which, those it said nothing of once more in halves, in
    /// order, until that one is alone.
    async fn send_apart(&mut self, window: &[Message], deadline: Instant) -> Vec<Sent> {
        let (mut outcomes, unheard) = self.send_part(window, deadline).await;
        let mut parts = halves(unheard);
        while let Some(part) = parts.pop_front() {
            if Instant::now() >= deadline {
                break;
            }
            let messages: Vec<Message> = part.iter().map(|index| window[*index].clone()).collect();
            let (decided, unheard) = self.send_part(&messages, deadline).await;
            for (index, outcome) in part.iter().zip(decided) {
                outcomes[*index] = outcome;
            }
            for half in halves(unheard.into_iter().map(|at| part[at]).collect()).into_iter().rev() {
                parts.push_front(half);
            }
        }
        outcomes
    }

    /// Sends these messages, all in flight at once, and decides each of them. Also answers of which nothing was heard, where the broker
    /// refused one of several without saying which.
    async fn send_part(
        &mut self,
        window: &[Message],
        deadline: Instant,
    ) -> (Vec<Sent>, Vec<usize>) {
        let mut hearing = Hearing::new(window.len());
        let mut sendable = Vec::with_capacity(window.len());
        let silent = self.probes.silent.channels();
        for (index, message) in window.iter().enumerate() {
            match self.fit(message) {
                Ok(properties) if silent.contains(&message.channel) => {
                    self.probes.send(message, properties);
                    hearing.heard[index] = Heard::Silent;
                }
                Ok(properties) => sendable.push((index, message, properties)),
                Err(withheld) => hearing.heard[index] = withheld,
            }
        }
        if sendable.is_empty() {
            return (window::decide(window, &hearing.heard, &[], &End::Complete), Vec::new());
        }
        let Ok(line) = timeout_at(deadline, self.keeper.take()).await else {
            let end = End::TimedOut(self.silence());
            return (window::decide(window, &hearing.heard, &[], &end), Vec::new());
        };
        let in_time = {
            let mut flight = Flight::begin(&line.amqp, sendable).await;
            let in_time = timeout_at(deadline, flight.land(&mut hearing)).await;
            if in_time.is_err() {
                flight.land_what_is_there(&mut hearing);
            }
            in_time
        };
        let end = match (in_time, hearing.broken.take()) {
            (Err(_), _) => End::TimedOut(self.silence()),
            (Ok(()), None) => End::Complete,
            (Ok(()), Some(error)) => {
                let silent = silent_exchanges(window, &hearing.heard);
                let alone = hearing.unheard().len() == 1;
                let finding = end_of(&line.connection, &error, &silent, alone);
                match timeout_at(deadline, finding).await {
                    Ok(end) => end,
                    Err(_) => End::Broken(error.to_string()),
                }
            }
        };
        if matches!(end, End::TimedOut(_)) && line.stands_open() {
            self.probes.silent.suspect(window::unheard_channels(window, &hearing.heard));
        }
        if !matches!(end, End::Complete) {
            tracing::warn!(?end, messages = window.len(), "A window was not confirmed as a whole.");
        }
        match end {
            End::Complete => line.proved(),
            End::TimedOut(_) | End::Broken(_) => line.failed(),
            // Only the AMQP channel was closed, over a message. The new line declares the topology again.
            End::NoExchange(_)
            | End::Forbidden { .. }
            | End::Refused { .. }
            | End::TooLarge { .. } => line.spent(),
        }
        let outcomes = window::decide(window, &hearing.heard, &hearing.returned, &end);
        match end {
            End::Refused { alone: false, .. } => (outcomes, hearing.unheard()),
            _ => (outcomes, Vec::new()),
        }
    }

    /// Which messages found no queue or exchange although it was prepared: somebody has deleted it while we run.
    fn deleted(&self, window: &[Message], outcomes: &[Sent]) -> Vec<usize> {
        let is_unroutable =
            |sent: &Sent| matches!(sent, Sent::Unsent { reason: UnsentReason::Unroutable, .. });
        let unroutable = (0..window.len()).filter(|index| is_unroutable(&outcomes[*index]));
        unroutable
            .filter(|index| self.prepared.has(&window[*index].channel, window[*index].kind))
            .collect()
    }

    /// Declares again what was deleted. Whatever lay in a queue is gone with it, which a person should know.
    async fn declare_again(&mut self, window: &[Message]) {
        let gone: BTreeSet<ChannelSpec> = window
            .iter()
            .map(|message| ChannelSpec { name: message.channel.clone(), kind: message.kind })
            .collect();
        for channel in &gone {
            tracing::warn!(
                channel = channel.name,
                "A queue or exchange was deleted, with all that lay in it; declaring it again."
            );
        }
        let gone: Vec<ChannelSpec> = gone.into_iter().collect();
        let line = self.keeper.take().await;
        match topology::declare(&line.connection, &gone, None).await {
            Ok(()) => line.unused(),
            Err(trouble) => tracing::error!(?trouble, "It can't be declared again."),
        }
    }

    /// Why the window was not decided in time.
    fn silence(&self) -> String {
        let limit = self.dialer.settings().confirm_time_max;
        let address = &self.dialer.settings().uri;
        if self.keeper.is_blocked() {
            format!("RabbitMQ at {address} {BLOCKED}")
        } else if self.keeper.is_connected() {
            format!("RabbitMQ at {address} did not confirm within {}s", limit.as_secs())
        } else {
            format!("RabbitMQ at {address} was not reached within {}s", limit.as_secs())
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
}

#[async_trait]
impl Sink for RabbitMqSink {
    async fn send(&mut self, window: &[Message]) -> Vec<Sent> {
        let deadline = Instant::now() + self.dialer.settings().confirm_time_max;
        let mut outcomes = self.send_apart(window, deadline).await;
        let deleted = self.deleted(window, &outcomes);
        if deleted.is_empty() {
            return outcomes;
        }
        let again: Vec<Message> = deleted.iter().map(|index| window[*index].clone()).collect();
        // Once more and no further: who deletes it again and again means it.
        if timeout_at(deadline, self.declare_again(&again)).await.is_ok() {
            let second = self.send_apart(&again, deadline).await;
            for (index, outcome) in deleted.into_iter().zip(second) {
                outcomes[index] = outcome;
            }
        }
        outcomes
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

    /// The messages of which nothing was heard, in order.
    fn unheard(&self) -> Vec<usize> {
        let nothing = |index: &usize| self.heard[*index] == Heard::Nothing;
        (0..self.heard.len()).filter(nothing).collect()
    }

    fn hear(&mut self, index: usize, confirmed: lapin::Result<Confirmation>) {
        match confirmed {
            Ok(confirmation) => self.confirmation(index, confirmation),
            Err(error) => self.failure(error),
        }
    }

    fn confirmation(&mut self, index: usize, confirmation: Confirmation) {
        self.heard[index] = match &confirmation {
            Confirmation::Ack(_) => Heard::Ack,
            Confirmation::Nack(_) => Heard::Nack,
            // Never on a channel in confirm mode; nothing was promised, so nothing was heard.
            Confirmation::NotRequested => Heard::Nothing,
        };
        self.returned(confirmation);
    }

    fn returned(&mut self, confirmation: Confirmation) {
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

type Publishing<'a> = Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send + 'a>>;

/// A window under way: the confirms that are still awaited, with the place of their message.
struct Flight<'a> {
    under_way: VecDeque<(usize, Publishing<'a>)>,
}

impl<'a> Flight<'a> {
    /// Puts the whole window in flight, in order.
    async fn begin(
        amqp: &'a Channel,
        sendable: Vec<(usize, &'a Message, BasicProperties)>,
    ) -> Self {
        let mut under_way = VecDeque::with_capacity(sendable.len());
        for (index, message, properties) in sendable {
            let (exchange, routing_key) = window::route(message);
            let options = BasicPublishOptions {
                mandatory: message.kind == ChannelKind::Work,
                ..Default::default()
            };
            let mut publishing: Publishing<'a> = Box::pin(async move {
                let body = &message.body;
                let (exchange, routing_key) = (exchange.into(), routing_key.into());
                amqp.basic_publish(exchange, routing_key, options, body, properties).await?.await
            });
            // The first poll queues the frames; waiting until they are written would send one at a time.
            match futures::poll!(publishing.as_mut()) {
                Poll::Pending => under_way.push_back((index, publishing)),
                Poll::Ready(done) => under_way.push_back((index, Box::pin(ready(done)))),
            }
        }
        Self { under_way }
    }

    /// Collects every confirm. May be dropped halfway and called again.
    async fn land(&mut self, hearing: &mut Hearing) {
        while let Some((index, publishing)) = self.under_way.front_mut() {
            let (index, confirmed) = (*index, publishing.await);
            self.under_way.pop_front();
            hearing.hear(index, confirmed);
        }
    }

    /// Collects the confirms that have come in, though others before them have not.
    fn land_what_is_there(&mut self, hearing: &mut Hearing) {
        let mut missing = Vec::new();
        for (index, mut publishing) in self.under_way.drain(..) {
            match publishing.as_mut().now_or_never() {
                Some(confirmed) => hearing.hear(index, confirmed),
                None => missing.push(publishing),
            }
        }
        // A confirm that came in meanwhile may carry what was returned of another message, whose own was heard just now. It tells nothing
        // else: what it carries for others may be missing in turn.
        for mut publishing in missing {
            if let Some(Ok(confirmation)) = publishing.as_mut().now_or_never() {
                hearing.returned(confirmation);
            }
        }
    }
}

/// Both halves of these messages, in order; nothing of none.
fn halves(messages: Vec<usize>) -> VecDeque<Vec<usize>> {
    let (first, second) = messages.split_at(messages.len() / 2);
    [first, second].into_iter().filter(|half| !half.is_empty()).map(<[usize]>::to_vec).collect()
}

/// The exchanges of the messages about which nothing was heard.
fn silent_exchanges(window: &[Message], heard: &[Heard]) -> BTreeSet<String> {
    let silent = |(_, heard): &(&Message, &Heard)| **heard == Heard::Nothing;
    let exchange = |(message, _): (&Message, &Heard)| window::route(message).0.to_owned();
    window.iter().zip(heard).filter(silent).map(exchange).collect()
}

/// What an error during a window means for its messages.
async fn end_of(
    connection: &Connection,
    error: &lapin::Error,
    silent: &BTreeSet<String>,
    alone: bool,
) -> End {
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
            None => End::Refused { text, alone },
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

    #[test]
    fn what_is_taken_apart_keeps_its_order_until_each_is_alone() {
        assert_eq!(halves(vec![1, 4, 6]), [vec![1], vec![4, 6]]);
        assert_eq!(halves(vec![4]), [vec![4]]);
        assert!(halves(Vec::new()).is_empty());
    }
}
