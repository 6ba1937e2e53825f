//! The relay: messages whose cause is durable leave for the broker, in order, a window at a time.
//!
//! One for each connector (a *lane*). The window that is in flight lets the next one gather behind it. What the broker
//! confirms moves the watermark; what is unknown is sent again, in its order, with the same id; what can't be sent goes
//! back to its instance as an input, and counts as confirmed once that input is durable.

mod watermark;

use crate::{
    engine::{Confirm, Job, Lane, LaneSeq, Outgoing, Sender, What},
    envelope,
    meters::Meters,
};
use dirigent_connectors::{Message, Sent, Sink, UnsentReason, names, retry::Delays};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use watermark::Watermark;

/// Messages in flight at once on a lane. Deep enough that a broker's sync serves many.
const WINDOW_MAX: usize = 2_048;

/// Bytes of bodies in flight at once on a lane.
const WINDOW_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes of each text of a message that a log shows.
const LOGGED_BYTES_MAX: usize = 256;

/// The way into a relay.
#[derive(Clone)]
pub(crate) struct RelayHandle {
    inbox: mpsc::UnboundedSender<Vec<(LaneSeq, Outgoing)>>,
    state: Arc<State>,
}

struct State {
    watermark: Mutex<Watermark>,
    /// When messages were handed over, by the last number of each batch; those below the watermark are gone.
    handed: Mutex<VecDeque<(LaneSeq, Instant)>>,
    confirmed: AtomicU64,
    waiting: AtomicUsize,
}

impl State {
    fn confirm(&self, seqs: &[LaneSeq]) {
        let mut watermark = self.watermark.lock().unwrap_or_else(PoisonError::into_inner);
        watermark.confirm(seqs);
        self.confirmed.store(watermark.next(), Ordering::Release);
        let mut handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner);
        while handed.front().is_some_and(|(last, _)| *last < watermark.next()) {
            handed.pop_front();
        }
    }

    /// Messages that no broker has to answer for any more.
    fn decided(&self, count: usize) {
        self.waiting.fetch_sub(count, Ordering::AcqRel);
    }
}

impl RelayHandle {
    /// Hands over messages whose group is durable. The caller keeps [`RelayHandle::waiting`] within the outbox's bound.
    pub(crate) fn send(&self, messages: Vec<(LaneSeq, Outgoing)>) {
        self.state.waiting.fetch_add(messages.len(), Ordering::AcqRel);
        if let Some((last, _)) = messages.last() {
            let mut handed = self.state.handed.lock().unwrap_or_else(PoisonError::into_inner);
            handed.push_back((*last, Instant::now()));
        }
        if self.inbox.send(messages).is_err() {
            tracing::debug!("The relay has ended; its messages are sent after the next start.");
        }
    }

    pub(crate) fn gauge(&self) -> RelayGauge {
        RelayGauge(Arc::clone(&self.state))
    }

    /// Counts messages as confirmed whose instances know that they could not be sent.
    pub(crate) fn confirm(&self, seqs: &[LaneSeq]) {
        self.state.confirm(seqs);
    }

    /// Every message below this number is confirmed.
    pub(crate) fn confirmed(&self) -> LaneSeq {
        self.state.confirmed.load(Ordering::Acquire)
    }

    /// Messages handed over and neither confirmed nor given back. One that is given back waits for the committer, which
    /// therefore must not wait for it.
    pub(crate) fn waiting(&self) -> usize {
        self.state.waiting.load(Ordering::Acquire)
    }
}

/// Looks at a relay without keeping it alive.
#[derive(Clone)]
pub(crate) struct RelayGauge(Arc<State>);

impl RelayGauge {
    /// See [`RelayHandle::waiting`].
    pub(crate) fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::Acquire)
    }

    /// How long the oldest message that no broker has confirmed has been here; none where all are.
    pub(crate) fn oldest(&self) -> Option<Duration> {
        let handed = self.0.handed.lock().unwrap_or_else(PoisonError::into_inner);
        handed.front().map(|(_, since)| since.elapsed())
    }
}

/// Sends what it is given, for as long as it is given something.
pub(crate) struct Relay {
    lane: Lane,
    name: String,
    sink: Box<dyn Sink>,
    inbox: mpsc::UnboundedReceiver<Vec<(LaneSeq, Outgoing)>>,
    state: Arc<State>,
    unsent: Vec<crossbeam_channel::Sender<Job>>,
    /// Messages below this number come from before the start: they may have been sent then.
    sent_before: LaneSeq,
    meters: Arc<Meters>,
}

/// Another process owns what this one sends for.
#[derive(Debug, thiserror::Error)]
#[error(
    "nothing more may be sent on {connector}, because another process has taken its work over: {owner}"
)]
pub(crate) struct Fenced {
    connector: String,
    owner: String,
}

/// What is remembered of a message on its way.
struct Head {
    seq: LaneSeq,
    sender: Option<Sender>,
    /// Nobody can say that it never arrived: an attempt to send it was not confirmed.
    may_have_left: bool,
}

impl Relay {
    /// A relay for a lane whose messages below `confirmed` are confirmed, and whose messages below `sent_before` may have
    /// been sent before the start.
    pub(crate) fn new(
        lane: Lane,
        name: &str,
        sink: Box<dyn Sink>,
        confirmed: LaneSeq,
        sent_before: LaneSeq,
        unsent: Vec<crossbeam_channel::Sender<Job>>,
    ) -> (Self, RelayHandle) {
        let (sender, inbox) = mpsc::unbounded_channel();
        let state = Arc::new(State {
            watermark: Mutex::new(Watermark::new(confirmed)),
            handed: Mutex::default(),
            confirmed: AtomicU64::new(confirmed),
            waiting: AtomicUsize::new(0),
        });
        let handle = RelayHandle { inbox: sender, state: Arc::clone(&state) };
        let (name, meters) = (name.into(), Arc::default());
        (Self { lane, name, sink, inbox, state, unsent, sent_before, meters }, handle)
    }

    /// Tells these meters of its windows.
    pub(crate) fn measured_by(mut self, meters: Arc<Meters>) -> Self {
        self.meters = meters;
        self
    }

    /// Works until every handle is gone. An error when nothing may leave any more.
    pub(crate) async fn run(mut self) -> Result<(), Fenced> {
        let mut gathered: VecDeque<(LaneSeq, Outgoing)> = Default::default();
        loop {
            if gathered.is_empty() {
                match self.inbox.recv().await {
                    Some(messages) => gathered.extend(messages),
                    None => return Ok(()),
                }
            }
            while gathered.len() < WINDOW_MAX
                && let Ok(messages) = self.inbox.try_recv()
            {
                gathered.extend(messages);
            }
            let mut bytes = 0;
            let fits = gathered.iter().take(WINDOW_MAX).take_while(|(_, outgoing)| {
                let before = bytes;
                bytes += outgoing.message.body.len();
                before == 0 || bytes <= WINDOW_BYTES_MAX
            });
            let count = fits.count();
            let window: Vec<_> = gathered.drain(..count).collect();
            self.send_window(window).await?;
        }
    }

    /// Sends a window until each of its messages is decided.
    async fn send_window(&mut self, window: Vec<(LaneSeq, Outgoing)>) -> Result<(), Fenced> {
        let mut heads = Vec::with_capacity(window.len());
        let mut messages = Vec::with_capacity(window.len());
        for (seq, Outgoing { sender, message, .. }) in window {
            heads.push(Head { seq, sender, may_have_left: seq < self.sent_before });
            messages.push(message);
        }
        let mut delays = Delays::new();
        while !messages.is_empty() {
            let outcomes = self.sink.send(&messages).await;
            let mut confirmed = Vec::with_capacity(outcomes.len());
            let mut again = (Vec::new(), Vec::new());
            let (mut unknown, mut given_back, mut fenced) = (None, 0, None);
            for ((mut head, message), sent) in heads.into_iter().zip(messages).zip(outcomes) {
                match sent {
                    Sent::Confirmed => confirmed.push(head.seq),
                    Sent::Unknown { text } => {
                        unknown = Some(text);
                        head.may_have_left = true;
                        again.0.push(head);
                        again.1.push(message);
                    }
                    Sent::Fenced { text } => fenced = Some(text),
                    Sent::Unsent { reason, text } => {
                        match self.cannot_send(&head, message, reason, &text) {
                            Disposed::Confirmed => confirmed.push(head.seq),
                            Disposed::ByInstance => given_back += 1,
                            Disposed::Again(message) => {
                                again.0.push(head);
                                again.1.push(message);
                            }
                        }
                    }
                }
            }
            if !confirmed.is_empty() {
                self.state.confirm(&confirmed);
            }
            self.state.decided(confirmed.len() + given_back);
            if let Some(owner) = fenced {
                // What is not confirmed stays above the watermark.
                return Err(Fenced { connector: self.name.clone(), owner });
            }
            (heads, messages) = again;
            self.meters.window_sent(&self.name, messages.is_empty());
            if let Some(text) = unknown {
                tracing::warn!(
                    connector = self.name,
                    count = messages.len(),
                    text,
                    "Messages are not confirmed; sending them again."
                );
                tokio::time::sleep(delays.after_failure()).await;
            }
        }
        Ok(())
    }

    fn cannot_send(
        &self,
        head: &Head,
        mut message: Message,
        reason: UnsentReason,
        text: &str,
    ) -> Disposed {
        if let Some(Sender { instance, node, leg, attempt }) = head.sender {
            if head.may_have_left {
                // *Unsent* says that it had no effect for certain, which nobody knows here: its instance takes it for lost
                // when the time for the reply is over, and it is in doubt then.
                tracing::warn!(instance = %instance, channel = message.channel, attempt, %reason, text, "A command that may have been sent before can't be sent again; the time limit of its step decides.");
                return Disposed::Confirmed;
            }
            let text = format!("{reason} on `{}`: {text}", message.channel);
            let confirm = Confirm { lane: self.lane, seq: head.seq };
            let cause = message.attributes.get(names::ID).map(ToOwned::to_owned);
            let what = What::Unsent { node, leg, attempt, text, confirm };
            let shard = crate::engine::shard_of(instance, self.unsent.len());
            let job = Job { instance, what, cause, delivery: None };
            // A shard that has ended leaves the message above the watermark: it is tried again after the next start.
            self.unsent[shard].send(job).unwrap_or_default();
            return Disposed::ByInstance;
        }
        let is_letter = message.attributes.get(envelope::DEAD_REASON).is_some();
        if is_letter
            && reason == UnsentReason::TooLarge
            && envelope::shorten_letter(&mut message, text)
        {
            return Disposed::Again(message);
        }
        // What comes from outside may be long.
        let shown = |text| envelope::shortened(text, LOGGED_BYTES_MAX);
        let id = shown(message.attributes.get(names::ID).unwrap_or_default());
        let kind = shown(message.attributes.get(names::TYPE).unwrap_or_default());
        let key = shown(&message.key);
        tracing::error!(channel = message.channel, key, id, kind, %reason, text, "A message that no saga waits for can't be sent; it is given up.");
        Disposed::Confirmed
    }
}

/// What becomes of a message that can't be sent.
enum Disposed {
    Confirmed,
    ByInstance,
    Again(Message),
}
