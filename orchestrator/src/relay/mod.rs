//! The relay: messages whose cause is durable leave for the broker, in order, a window at a time.
//!
//! One for each connector (a *lane*). The window that is in flight lets the next one gather behind it; who is in it, the
//! [`departures`] say: every saga at every destination in turn, and nothing that its destination holds. What the broker
//! confirms moves the watermark; what is unknown is sent again, in its order, with the same id, after a rest of its channel, and holds up
//! no other; what can't be sent goes back to its instance as an input, and counts as confirmed once that input is durable. A command
//! whose answer has come is *withdrawn*, once it is durable that it had no effect: it is not sent again, and counts as confirmed.

mod departures;
mod present;
mod rests;
mod watermark;

use crate::{
    destinations::{Destinations, WayOut},
    engine::{Clock, Confirm, Job, Lane, LaneSeq, Outgoing, Sender, What, Withdrawn},
    envelope,
    meters::Meters,
    planted::{self, Bug},
};
use departures::{Departures, GivenBack, Numbered};
use dirigent_connectors::{Message, Sent, Sink, UnsentReason, names};
use dirigent_model::instance::InstanceId;
use rustc_hash::FxHashSet;
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};
use watermark::Watermark;
pub(crate) use watermark::{Confirmed, Stretch};

/// Messages in flight at once on a lane. Deep enough that a broker's sync serves many.
const WINDOW_MAX: usize = 2_048;

/// Bytes of bodies in flight at once on a lane.
const WINDOW_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How often a relay looks whether messages that wait for their turn may leave, unless it is woken.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A window that is not decided by then is slow: commands in it and behind it are known to wait. Far below any time limit that makes sense
/// with a broker between.
const DECIDED_WITHIN: Duration = Duration::from_millis(50);

/// What is kept of a message while it is in a window: its number, lane, sender and saga.
type Head = (LaneSeq, Lane, Option<Sender>, u32);

/// Bytes of each text of a message that a log shows.
const LOGGED_BYTES_MAX: usize = 256;

/// The way into a relay.
#[derive(Clone)]
pub(crate) struct RelayHandle {
    inbox: mpsc::UnboundedSender<ToRelay>,
    state: Arc<State>,
}

/// What a relay is told, in this order: a command is handed over before it is withdrawn.
enum ToRelay {
    Messages(Vec<(LaneSeq, Outgoing)>),
    Withdrawn(Withdrawn),
}

struct State {
    watermark: Mutex<Watermark>,
    handed: Mutex<Handed>,
    confirmed: AtomicU64,
    waiting: AtomicUsize,
    queued: AtomicUsize,
}

/// When messages were handed over that are not confirmed, by stretches. Those that are confirmed go once they come first, or are many.
#[derive(Default)]
struct Handed {
    batches: VecDeque<(Stretch, Instant)>,
    /// With how many it is looked through for those.
    look_at: usize,
}

/// Batches that were handed over, before it is looked for those that are confirmed behind one that is not.
const HANDED_LOOK_MIN: usize = 1_024;

impl Handed {
    fn confirm(&mut self, watermark: &Watermark) {
        while self.batches.front().is_some_and(|(stretch, _)| watermark.covers(*stretch)) {
            self.batches.pop_front();
        }
        if self.batches.len() > self.look_at.max(HANDED_LOOK_MIN) {
            self.batches.retain(|(stretch, _)| !watermark.covers(*stretch));
            self.look_at = 2 * self.batches.len();
        }
    }
}

impl State {
    fn confirm(&self, seqs: &[LaneSeq]) {
        let mut watermark = self.watermark.lock().unwrap_or_else(PoisonError::into_inner);
        watermark.confirm(seqs);
        self.confirmed.store(watermark.next(), Ordering::Release);
        self.handed.lock().unwrap_or_else(PoisonError::into_inner).confirm(&watermark);
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
        if let (Some((first, _)), Some((last, _))) = (messages.first(), messages.last()) {
            let mut handed = self.state.handed.lock().unwrap_or_else(PoisonError::into_inner);
            handed.batches.push_back(((*first, last + 1), Instant::now()));
        }
        if self.inbox.send(ToRelay::Messages(messages)).is_err() {
            tracing::debug!("The relay has ended; its messages are sent after the next start.");
        }
    }

    /// A command must not leave any more, and not again; where it is still here it counts as confirmed. A relay that has ended sends
    /// nothing: what there is left is looked at before the next start. Until the relay hears of it, it counts as one that waits.
    pub(crate) fn withdraw(&self, command: Withdrawn) {
        self.state.waiting.fetch_add(1, Ordering::AcqRel);
        if self.inbox.send(ToRelay::Withdrawn(command)).is_err() {
            self.state.decided(1);
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

    /// All that is confirmed.
    pub(crate) fn all_confirmed(&self) -> Confirmed {
        self.state.watermark.lock().unwrap_or_else(PoisonError::into_inner).confirmed()
    }

    /// Messages handed over and neither confirmed nor given back. One that is given back waits for the committer, which
    /// therefore must not wait for it; nor for those that wait for their destination, which have a bound of their own.
    pub(crate) fn waiting(&self) -> usize {
        let queued = self.state.queued.load(Ordering::Acquire);
        self.state.waiting.load(Ordering::Acquire).saturating_sub(queued)
    }
}

/// Looks at a relay without keeping it alive.
#[derive(Clone)]
pub(crate) struct RelayGauge(Arc<State>);

impl RelayGauge {
    /// See [`RelayHandle::waiting`].
    pub(crate) fn waiting(&self) -> usize {
        let queued = self.0.queued.load(Ordering::Acquire);
        self.0.waiting.load(Ordering::Acquire).saturating_sub(queued)
    }

    /// How long the oldest message that no broker has confirmed has been here; none where all are.
    pub(crate) fn oldest(&self) -> Option<Duration> {
        let handed = self.0.handed.lock().unwrap_or_else(PoisonError::into_inner);
        handed.batches.front().map(|(_, since)| since.elapsed())
    }
}

/// Sends what it is given, for as long as it is given something.
pub(crate) struct Relay {
    lane: Lane,
    name: String,
    sink: Box<dyn Sink>,
    inbox: mpsc::UnboundedReceiver<ToRelay>,
    state: Arc<State>,
    back: Vec<crossbeam_channel::Sender<Job>>,
    /// Messages below this number come from before the start: they may have been sent then.
    sent_before: LaneSeq,
    /// Those that an attempt of this process has sent without a confirm. No more than there are in the departures.
    unconfirmed: FxHashSet<LaneSeq>,
    departures: Departures,
    way: Arc<WayOut>,
    clock: Arc<dyn Clock>,
    meters: Arc<Meters>,
}

/// What a relay shares with the rest of its process.
pub(crate) struct Surroundings {
    pub destinations: Arc<Destinations>,
    /// Told of what may let a waiting message go.
    pub way: Arc<WayOut>,
    pub clock: Arc<dyn Clock>,
    /// By shard: the way back for what could not leave.
    pub back: Vec<crossbeam_channel::Sender<Job>>,
    /// Told of its windows.
    pub meters: Arc<Meters>,
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

impl Relay {
    /// A relay for a lane of which so much is confirmed, and whose messages below `sent_before` may have been sent before the
    /// start.
    pub(crate) fn new(
        lane: Lane,
        name: &str,
        sink: Box<dyn Sink>,
        confirmed: &Confirmed,
        sent_before: LaneSeq,
        surroundings: Surroundings,
    ) -> (Self, RelayHandle) {
        let (sender, inbox) = mpsc::unbounded_channel();
        let state = Arc::new(State {
            watermark: Mutex::new(Watermark::new(confirmed)),
            handed: Mutex::default(),
            confirmed: AtomicU64::new(confirmed.below),
            waiting: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
        });
        let handle = RelayHandle { inbox: sender, state: Arc::clone(&state) };
        let Surroundings { destinations, way, clock, back, meters } = surroundings;
        let departures = Departures::new(destinations);
        let name = name.into();
        let relay = Self {
            lane,
            name,
            sink,
            inbox,
            state,
            back,
            sent_before,
            unconfirmed: FxHashSet::default(),
            departures,
            way,
            clock,
            meters,
        };
        (relay, handle)
    }

    /// Works until every handle is gone. An error when nothing may leave any more.
    pub(crate) async fn run(mut self) -> Result<(), Fenced> {
        loop {
            if self.departures.ready() == 0 && !self.gather().await {
                return Ok(());
            }
            // All of it: who is to leave next is chosen among all that are there. What comes meanwhile is the next window's.
            for _ in 0..self.inbox.len() {
                if let Ok(told) = self.inbox.try_recv() {
                    self.take_in(told);
                }
            }
            let (now, at) = (self.clock.now(), Instant::now());
            let departing = self.departures.next(now, at, WINDOW_MAX, WINDOW_BYTES_MAX);
            self.state.queued.store(self.departures.queued(), Ordering::Release);
            for given_back in departing.given_back {
                self.give_back(&given_back);
            }
            if !departing.window.is_empty() {
                self.send_window(departing.window).await?;
            }
        }
    }

    /// Waits for messages, or for those that wait for their turn. Says whether there will be more.
    async fn gather(&mut self) -> bool {
        let more = if self.departures.is_waiting() {
            tokio::select! {
                biased;
                more = self.inbox.recv() => more,
                () = self.way.woken() => return true,
                () = tokio::time::sleep(LOOK_EVERY) => return true,
            }
        } else {
            self.inbox.recv().await
        };
        match more {
            Some(told) => self.take_in(told),
            None => return false,
        }
        true
    }

    fn take_in(&mut self, told: ToRelay) {
        match told {
            ToRelay::Messages(messages) => self.departures.take_in(messages),
            ToRelay::Withdrawn(command) => {
                let seqs = self.departures.withdraw(&command);
                for seq in &seqs {
                    self.unconfirmed.remove(seq);
                }
                self.state.confirm(&seqs);
                self.state.decided(seqs.len() + 1);
            }
        }
    }

    /// Tells an instance that its command did not leave. The message counts as confirmed once that is durable.
    fn give_back(&mut self, GivenBack { seq, sender, until }: &GivenBack) {
        let confirm = Confirm { lane: self.lane, seq: *seq };
        let may_have_left = self.may_have_left(*seq);
        self.unconfirmed.remove(seq);
        let what = What::Held { sender: *sender, until: *until, may_have_left, confirm };
        self.tell(sender.instance, what, None);
        self.state.decided(1);
    }

    /// Hands a job to the shard of its instance. A shard that has ended leaves the message above the watermark: it is tried
    /// again after the next start.
    fn tell(&self, instance: InstanceId, what: What, cause: Option<String>) {
        let shard = crate::engine::shard_of(instance, self.back.len());
        self.back[shard].send(Job { instance, what, cause, delivery: None }).unwrap_or_default();
    }

    /// Nobody can say that it never arrived.
    fn may_have_left(&self, seq: LaneSeq) -> bool {
        seq < self.sent_before || self.unconfirmed.contains(&seq)
    }

    /// Sends a window. What is not decided by it goes back to the departures.
    async fn send_window(&mut self, window: Vec<Numbered>) -> Result<(), Fenced> {
        let mut heads = Vec::with_capacity(window.len());
        let mut messages = Vec::with_capacity(window.len());
        for (seq, Outgoing { lane, sender, saga, message }) in window {
            heads.push((seq, lane, sender, saga));
            messages.push(message);
        }
        let (outcomes, withdrawn) = self.decided(&heads, &messages).await;
        let mut confirmed = Vec::with_capacity(messages.len());
        let mut again = Vec::new();
        let (mut unknown, mut was_confirmed) = ((0, None), false);
        let (mut given_back, mut fenced) = (0, None);
        // Of what a sink says nothing, nobody knows what became of it.
        let untold =
            std::iter::repeat_with(|| Sent::Unknown { text: "nothing was said of it".into() });
        let outcomes = outcomes.into_iter().chain(untold);
        for ((head, message), sent) in heads.into_iter().zip(messages).zip(outcomes) {
            let (seq, lane, sender, saga) = head;
            let sent = mistaken(sent, was_confirmed);
            match sent {
                Sent::Confirmed => {
                    confirmed.push(seq);
                    was_confirmed = true;
                    let again = self.unconfirmed.remove(&seq);
                    let now = || self.clock.now();
                    self.departures.confirmed((seq, sender, &message.channel), again, now);
                }
                Sent::Unknown { text } => {
                    unknown = (unknown.0 + 1, Some(text));
                    if let Some(sender) = sender
                        && let Some(destination) = self.departures.destination(&message.channel)
                    {
                        destination.unconfirmed(sender.key(), self.clock.now());
                    }
                    let now = self.clock.now();
                    self.departures.tell((seq, sender, &message.channel), now);
                    self.unconfirmed.insert(seq);
                    again.push((seq, Outgoing { lane, sender, saga, message }));
                }
                Sent::Fenced { text } => fenced = Some(text),
                Sent::Unsent { reason, text } => {
                    let channel = message.channel.clone();
                    match self.cannot_send(seq, sender, message, reason, &text) {
                        Disposed::Confirmed => confirmed.push(seq),
                        Disposed::ByInstance => given_back += 1,
                        Disposed::Again(message) => {
                            again.push((seq, Outgoing { lane, sender, saga, message }));
                            continue;
                        }
                    }
                    self.unconfirmed.remove(&seq);
                    // It waits no more; and is not late before its instance hears of it.
                    let now = || self.clock.now();
                    self.departures.confirmed((seq, sender, &channel), false, now);
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
        self.meters.window_sent(&self.name, again.is_empty());
        if let (count, Some(text)) = unknown {
            let connector = &self.name;
            tracing::warn!(
                connector,
                count,
                text,
                "Messages are not confirmed; sending them again."
            );
        }
        self.departures.hear(again, was_confirmed, Instant::now());
        withdrawn.into_iter().for_each(|command| self.take_in(ToRelay::Withdrawn(command)));
        Ok(())
    }

    /// What the broker says of a window, and which commands were withdrawn meanwhile: whether they are in it is known afterwards. Where it takes
    /// long, destinations are told of all that is in it or behind it: that is not late.
    async fn decided(
        &mut self,
        heads: &[Head],
        messages: &[Message],
    ) -> (Vec<Sent>, Vec<Withdrawn>) {
        let Self { sink, inbox, departures, clock, .. } = self;
        let mut deciding = sink.send(messages);
        if let Ok(outcomes) = tokio::time::timeout(DECIDED_WITHIN, &mut deciding).await {
            return (outcomes, Vec::new());
        }
        for ((seq, _, sender, _), message) in heads.iter().zip(messages) {
            departures.tell((*seq, *sender, &message.channel), clock.now());
        }
        departures.tell_all(clock.now());
        let (mut withdrawn, mut are_more) = (Vec::new(), true);
        loop {
            let told = tokio::select! {
                biased;
                outcomes = &mut deciding => return (outcomes, withdrawn),
                told = inbox.recv(), if are_more => told,
            };
            match told {
                Some(ToRelay::Messages(messages)) => {
                    departures.take_in(messages);
                    departures.tell_all(clock.now());
                }
                // Messages may overtake it: it covers no attempt that was asked after it.
                Some(ToRelay::Withdrawn(command)) => withdrawn.push(command),
                None => are_more = false,
            }
        }
    }

    fn cannot_send(
        &self,
        seq: LaneSeq,
        sender: Option<Sender>,
        mut message: Message,
        reason: UnsentReason,
        text: &str,
    ) -> Disposed {
        if let Some(sender) = sender {
            let Sender { instance, attempt, .. } = sender;
            if self.may_have_left(seq) {
                // *Unsent* says that it had no effect for certain, which nobody knows here: its instance takes it for lost
                // when the time for the reply is over, and it is in doubt then.
                tracing::warn!(instance = %instance, channel = message.channel, attempt, %reason, text, "A command that may have been sent before can't be sent again; the time limit of its step decides.");
                return Disposed::Confirmed;
            }
            let text = format!("{reason} on `{}`: {text}", message.channel);
            let confirm = Confirm { lane: self.lane, seq };
            let cause = message.attributes.get(names::ID).map(ToOwned::to_owned);
            let what = What::Unsent { sender, text, confirm };
            if let Some(destination) = self.departures.destination(&message.channel) {
                destination.forget(sender.key());
            }
            self.tell(instance, what, cause);
            return Disposed::ByInstance;
        }
        let is_letter = message.attributes.get(envelope::DEAD_REASON).is_some();
        let mended = is_letter
            && match reason {
                UnsentReason::TooLarge => envelope::shorten_letter(&mut message, text),
                UnsentReason::Refused => envelope::strip_letter(&mut message, text),
                UnsentReason::Unroutable | UnsentReason::NotAuthorised => false,
            };
        if mended {
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

/// What is made of the broker's word where a bug is planted; `was_confirmed` says whether another one of the window was.
fn mistaken(sent: Sent, was_confirmed: bool) -> Sent {
    match sent {
        Sent::Unknown { .. }
            if planted::is(Bug::UnknownTakenForConfirmed)
                || planted::is(Bug::SentByOneConfirm) && was_confirmed =>
        {
            Sent::Confirmed
        }
        Sent::Unsent { .. } if planted::is(Bug::UnsentTakenForSent) => Sent::Confirmed,
        Sent::Fenced { text } if planted::is(Bug::FenceIgnored) => Sent::Unknown { text },
        sent => sent,
    }
}

/// What becomes of a message that can't be sent.
enum Disposed {
    Confirmed,
    ByInstance,
    Again(Message),
}
