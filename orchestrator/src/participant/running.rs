//! A participant at work: read a window, make the turn durable, send what it answers, settle.
//!
//! What the broker does not confirm becomes durable and [rests](super::rests) with its channel, so that an ill queue of replies holds up
//! no other. One task owns the connection; turns are made on a thread that may block. A turn that the store gave up is made again. Dropped without [`Running::stop`], it ends where it stands,
//! as in a crash: what was not settled comes again.

use super::{
    Counts, ParticipantError, Service, again,
    rests::Rests,
    turn::{Outgoing, Worker},
};
use crate::{
    envelope, may_block,
    store::{Store, StoreError},
    telemetry::SpanFact,
};
use dirigent_connectors::{
    Connector, ConnectorError, Delivery, Memory, Receipt, Sent, Settle, Settler, Sink, Source,
    SourceSpec, retry::Delays,
};
use dirigent_schemas::registry::RegistryError;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, task::JoinHandle, time::Instant};

/// Deliveries decided in one turn at the most: one sync for all of them, and answers that do not wait long for each other.
const WINDOW_MAX: usize = 256;

/// Deliveries a source hands out before the first of them must be settled. One window at work, one on its way.
const UNSETTLED_MAX: usize = 2 * WINDOW_MAX;

/// After how long without a delivery the positions of what was answered last are written.
const IDLE: Duration = Duration::from_secs(1);

/// A participant at work.
#[must_use = "a participant ends when this is dropped"]
pub struct Running {
    name: String,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), ParticipantError>>,
    counts: Arc<Mutex<Counts>>,
}

impl Running {
    /// Ends the work between two windows. What was read and not answered comes again.
    ///
    /// # Errors
    /// Why it had ended before, or could not end in order.
    pub async fn stop(mut self) -> Result<Counts, ParticipantError> {
        self.stop.send_replace(true);
        joined((&mut self.task).await)?;
        Ok(self.counts())
    }

    /// Waits for the end of the work, which comes by an error only.
    pub async fn ended(&mut self) -> Result<(), ParticipantError> {
        joined((&mut self.task).await)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What was done since it was started.
    pub fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn joined(
    ended: Result<Result<(), ParticipantError>, tokio::task::JoinError>,
) -> Result<(), ParticipantError> {
    ended.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        // Only dropping aborts, and then nobody waits.
        Err(_) => Ok(()),
    })
}

/// Opens everything and starts the work.
pub(super) async fn start(
    service: Service,
    connector: Arc<dyn Connector>,
    store: Arc<dyn Store>,
) -> Result<Running, ParticipantError> {
    let name = service.name.clone();
    let service = Arc::new(service);
    let connect = |doing| {
        let participant = name.clone();
        move |source| ParticipantError::Connector { participant, doing, source: Box::new(source) }
    };
    if let Some(registry) = service.schemas.clone() {
        let service = Arc::clone(&service);
        let agreed = may_block(move || registry.agree(&service.contracts)).await;
        agreed.map_err(unreadable(&name))?;
    }
    connector.prepare(&service.channels).await.map_err(connect("preparing its channels"))?;
    let (mut tries, mut delays) = (1, Delays::new());
    let (opened, worker) = loop {
        let (service, store) = (Arc::clone(&service), Arc::clone(&store));
        let opened = may_block(move || {
            let worker = Worker::new(service, store)?;
            Ok::<_, StoreError>(((worker.positions()?, worker.waiting()?), worker))
        });
        match opened.await {
            Err(error) if error.is_passing() && tries < OPEN_TRIES_MAX => {
                tries += 1;
                tokio::time::sleep(delays.after_failure()).await;
            }
            opened => break opened.map_err(failed(&name))?,
        }
    };
    let (positions, waiting) = opened;
    let spec = SourceSpec {
        channels: service.listening.clone(),
        group: name.clone(),
        positions,
        unsettled_max: UNSETTLED_MAX,
    };
    // Asking takes as long as opening does, and its answer is for people.
    let (source, ()) = tokio::join!(connector.source(spec), again::compare(&service, &*connector));
    let source = source.map_err(connect("opening its source"))?;
    let sink = connector.sink().await.map_err(connect("opening its sink"))?;
    let (stop, stopped) = watch::channel(false);
    let counts = Arc::new(Mutex::new(Counts::default()));
    let at_work = AtWork {
        service,
        settler: source.settler(),
        source,
        sink,
        by_position: connector.memory() == Memory::Positions,
        noted: Vec::new(),
        worker: Some(worker),
        rests: Rests::default(),
        counts: Arc::clone(&counts),
        stopped,
    };
    let task = tokio::spawn(at_work.run(waiting));
    Ok(Running { name, stop, task, counts })
}

struct AtWork {
    service: Arc<Service>,
    source: Box<dyn Source>,
    settler: Arc<dyn Settler>,
    sink: Box<dyn Sink>,
    by_position: bool,
    /// Answered, but their positions are not durable yet: a log's broker is not told more than the store knows.
    noted: Vec<(Receipt, Settle)>,
    /// Away while a turn is made.
    worker: Option<Worker>,
    /// Sent, not confirmed, and durable.
    rests: Rests,
    counts: Arc<Mutex<Counts>>,
    stopped: watch::Receiver<bool>,
}

/// How often a store that was opened, and can't be read for now, is tried when the work begins.
const OPEN_TRIES_MAX: u32 = 8;

/// How often a turn is made again that the store gave up because of others, before its deliveries are taken one by one; and how
/// often one of them is, before it is answered by a failure instead of holding up all behind it.
const TRIES_MAX: u32 = 5;

/// What became of a window so far. A store that is away is waited for, however long; what it gave up before then counts no more, as
/// it may have been for the same reason.
#[derive(Default)]
struct Tries {
    given_up: u32,
    is_alone: bool,
    why: String,
}

impl Tries {
    /// Counts a try with this many deliveries. Whether they are taken one by one from now on.
    fn failed(&mut self, error: &StoreError, part: usize) -> bool {
        let StoreError::GivenUp { source, .. } = error else {
            self.given_up = 0;
            return false;
        };
        self.given_up += 1;
        self.why = format!("its transaction was given up {TRIES_MAX} times: {source}");
        self.is_alone |= part == 1;
        let is_new = self.given_up >= TRIES_MAX && !self.is_alone;
        if is_new {
            (self.is_alone, self.given_up) = (true, 0);
        }
        is_new
    }

    fn succeeded(&mut self) {
        self.given_up = 0;
    }

    /// How many of the window are taken now.
    fn part(&self, window: usize) -> usize {
        if self.is_alone { 1 } else { window }
    }

    /// Why the delivery is answered without its handler.
    fn given_up(&self) -> Option<String> {
        (self.is_alone && self.given_up >= TRIES_MAX).then(|| self.why.clone())
    }
}

/// What the work goes on with.
enum Event {
    RestIsOver,
    Received(Result<Vec<Delivery>, ConnectorError>),
    Idle,
}

/// Whether the work goes on.
#[derive(PartialEq, Eq)]
enum Goes {
    On,
    ToItsEnd,
}

impl AtWork {
    async fn run(mut self, waiting: Vec<Outgoing>) -> Result<(), ParticipantError> {
        let mut goes = self.send_all(waiting).await?;
        let mut was_full = false;
        while goes == Goes::On {
            let (due, has_room) = (self.rests.due(), self.rests.has_room());
            if !has_room && !was_full {
                tracing::warn!(
                    participant = self.service.name,
                    channels = self.rests.channels(),
                    "As much waits for the broker's confirmation as may; no further commands are taken."
                );
            }
            was_full = !has_room;
            let event = tokio::select! {
                biased;
                _ = self.stopped.wait_for(|stopped| *stopped) => break,
                () = until(due) => Event::RestIsOver,
                received = self.source.receive(WINDOW_MAX), if has_room => Event::Received(received),
                () = tokio::time::sleep(IDLE), if !self.noted.is_empty() => Event::Idle,
            };
            let received = match event {
                Event::Received(received) => received,
                Event::RestIsOver => {
                    self.try_again().await;
                    continue;
                }
                Event::Idle => {
                    self.write_when_idle().await?;
                    continue;
                }
            };
            let window = received.map_err(|source| ParticipantError::Connector {
                participant: self.service.name.clone(),
                doing: "reading",
                source: Box::new(source),
            })?;
            goes = self.know_schemas(&window).await?;
            if goes == Goes::On {
                goes = self.take(window).await?;
            }
        }
        self.write_positions().await
    }

    /// What can't be written now is written later.
    async fn write_when_idle(&mut self) -> Result<(), ParticipantError> {
        match self.write_positions().await {
            Err(ParticipantError::Store { source, .. }) if source.is_passing() => {
                let participant = &self.service.name;
                let cause = std::error::Error::source(&source).map(ToString::to_string);
                tracing::warn!(participant, cause, "Positions are written later: {source}");
                Ok(())
            }
            written => written,
        }
    }

    /// Makes durable what the last windows have left, and settles them.
    async fn write_positions(&mut self) -> Result<(), ParticipantError> {
        let mut worker = self.worker.take().expect("no turn is being made");
        let (worker, finished) = may_block(move || {
            let finished = worker.finish();
            (worker, finished)
        })
        .await;
        self.worker = Some(worker);
        finished.map_err(failed(&self.service.name))?;
        self.settler.settle(&std::mem::take(&mut self.noted));
        Ok(())
    }

    /// Waits until the schemas of all bodies are known, or known to be missing. Only a stop ends that early.
    async fn know_schemas(&mut self, window: &[Delivery]) -> Result<Goes, ParticipantError> {
        let Some(registry) = self.service.schemas.clone() else { return Ok(Goes::On) };
        for message in window.iter().map(|delivery| &delivery.message) {
            let Ok(format) = envelope::format_of(&message.attributes) else { continue };
            let Some(id) = registry.wants(format, &message.body) else { continue };
            let (registry, stopped) = (Arc::clone(&registry), self.stopped.clone());
            // Dropped without a stop, nobody holds the other end.
            let goes_on = move || stopped.has_changed().is_ok() && !*stopped.borrow();
            let known = may_block(move || registry.wait_for(id, goes_on)).await;
            if !known.map_err(unreadable(&self.service.name))? {
                return Ok(Goes::ToItsEnd);
            }
        }
        Ok(Goes::On)
    }

    /// Turns until the whole window is answered.
    async fn take(&mut self, mut window: Vec<Delivery>) -> Result<Goes, ParticipantError> {
        let (mut tries, mut delays) = (Tries::default(), Delays::new());
        while !window.is_empty() {
            let mut worker = self.worker.take().expect("no turn is being made");
            let (now, part, given_up) =
                (self.service.clock.now(), tries.part(window.len()), tries.given_up());
            let (worker, deliveries, turn) = may_block(move || {
                let turn = worker.take(&window[..part], now, given_up.as_deref());
                (worker, window, turn)
            })
            .await;
            self.worker = Some(worker);
            let turn = match turn {
                Err(error) if error.is_passing() => {
                    if tries.failed(&error, part) {
                        delays.succeeded();
                    }
                    window = deliveries;
                    if self.take_up(error, &mut delays).await? == Goes::ToItsEnd {
                        return Ok(Goes::ToItsEnd);
                    }
                    continue;
                }
                turn => turn.map_err(failed(&self.service.name))?,
            };
            tries.succeeded();
            delays.succeeded();
            // The turn has written the positions of those before.
            self.settler.settle(&std::mem::take(&mut self.noted));
            self.note(turn.spans);
            if self.send(turn.out).await? == Goes::ToItsEnd {
                return Ok(Goes::ToItsEnd);
            }
            let by_position = self.by_position;
            if by_position {
                self.worker().all_sent(&deliveries[..turn.taken]);
            }
            let settlements: Vec<_> = deliveries[..turn.taken]
                .iter()
                .map(|delivery| (delivery.receipt, Settle::Done))
                .collect();
            match by_position {
                true => self.noted.extend(settlements),
                false => self.settler.settle(&settlements),
            }
            self.counts.lock().unwrap_or_else(PoisonError::into_inner).add(&turn.counts);
            window = deliveries;
            window.drain(..turn.taken);
        }
        Ok(Goes::On)
    }

    /// Waits after a turn that came to nothing, then takes the work up from what the store says: a commit in doubt is decided
    /// by then, and what it left to be sent is sent. Only a stop ends that early.
    async fn take_up(
        &mut self,
        mut error: StoreError,
        delays: &mut Delays,
    ) -> Result<Goes, ParticipantError> {
        let mut waiting = loop {
            if self.rest_from(&error, "A turn came to nothing, it is made again", delays).await
                == Goes::ToItsEnd
            {
                return Ok(Goes::ToItsEnd);
            }
            let mut worker = self.worker.take().expect("no turn is being made");
            let (worker, waiting) = may_block(move || {
                let waiting = worker.take_up();
                (worker, waiting)
            })
            .await;
            self.worker = Some(worker);
            match waiting {
                Ok(waiting) => break waiting,
                Err(again) if again.is_passing() => error = again,
                Err(ended) => return Err(failed(&self.service.name)(ended)),
            }
        };
        let resting = self.rests.numbers();
        waiting.retain(|one| one.outbox.is_none_or(|number| !resting.contains(&number)));
        self.send_all(waiting).await
    }

    /// Waits after the store came to nothing. Only a stop ends that early.
    async fn rest_from(&mut self, error: &StoreError, said: &str, delays: &mut Delays) -> Goes {
        let delay = delays.after_failure();
        let cause = std::error::Error::source(error).map(ToString::to_string);
        let participant = &self.service.name;
        tracing::warn!(participant, cause, ?delay, "{said}: {error}");
        tokio::select! {
            biased;
            _ = self.stopped.wait_for(|stopped| *stopped) => Goes::ToItsEnd,
            () = tokio::time::sleep(delay) => Goes::On,
        }
    }

    /// Notes the spans of a turn, which is durable by now.
    fn note(&self, spans: Vec<SpanFact>) {
        if spans.is_empty() {
            return;
        }
        let until = self.service.clock.now();
        for span in spans {
            self.service.spans.record(SpanFact { until: until.max(span.from), ..span });
        }
    }

    /// Sends what waits in the outbox, in its order.
    async fn send_all(&mut self, mut waiting: Vec<Outgoing>) -> Result<Goes, ParticipantError> {
        while !waiting.is_empty() {
            let later = waiting.split_off(waiting.len().min(WINDOW_MAX));
            if self.send(std::mem::replace(&mut waiting, later)).await? == Goes::ToItsEnd {
                return Ok(Goes::ToItsEnd);
            }
        }
        Ok(Goes::On)
    }

    /// Sends what may leave. What the broker did not confirm of it, and what belongs to a channel that rests, is durable and rests when this
    /// returns; what is too large for that is sent until the broker has decided. Only a stop ends that early.
    async fn send(&mut self, out: Vec<Outgoing>) -> Result<Goes, ParticipantError> {
        let rests = |outgoing: &Outgoing| self.rests.holds(&outgoing.message.channel);
        let (held, leave): (Vec<_>, Vec<_>) = out.into_iter().partition(rests);
        let mut later = self.hand_over(leave).await;
        if !later.is_empty() {
            let participant = &self.service.name;
            let messages = later.len();
            tracing::warn!(participant, messages, "The broker has not confirmed, sending again.");
        }
        later.extend(held);
        if later.is_empty() {
            return Ok(Goes::On);
        }
        let Some(later) = self.put_off(later).await? else { return Ok(Goes::ToItsEnd) };
        let (later, large): (Vec<_>, Vec<_>) =
            later.into_iter().partition(|outgoing| outgoing.outbox.is_some());
        let (held, unconfirmed) =
            later.into_iter().partition(|outgoing| self.rests.holds(&outgoing.message.channel));
        self.rests.hear(unconfirmed, Instant::now());
        self.rests.keep(held);
        Ok(self.send_large(large).await)
    }

    /// Makes durable what is sent later; `None` after a stop.
    async fn put_off(
        &mut self,
        mut later: Vec<Outgoing>,
    ) -> Result<Option<Vec<Outgoing>>, ParticipantError> {
        let mut delays = Delays::new();
        loop {
            let mut worker = self.worker.take().expect("no turn is being made");
            let (worker, tried, kept) = may_block(move || {
                let kept = worker.put_off(&mut later);
                (worker, later, kept)
            })
            .await;
            self.worker = Some(worker);
            later = tried;
            match kept {
                Ok(()) => return Ok(Some(later)),
                Err(error) if error.is_passing() => {
                    let said = "What is to be sent later can't be kept yet";
                    if self.rest_from(&error, said, &mut delays).await == Goes::ToItsEnd {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(failed(&self.service.name)(error)),
            }
        }
    }

    /// Sends some of what rests and is due.
    async fn try_again(&mut self) {
        let window = self.rests.leave(Instant::now(), WINDOW_MAX);
        let unconfirmed = self.hand_over(window).await;
        if !unconfirmed.is_empty() {
            tracing::warn!(
                participant = self.service.name,
                messages = unconfirmed.len(),
                channels = self.rests.channels(),
                "The broker has still not confirmed, sending again."
            );
        }
        self.rests.hear(unconfirmed, Instant::now());
    }

    /// Sends until the broker has decided every message. Only a stop ends that early.
    async fn send_large(&mut self, mut left: Vec<Outgoing>) -> Goes {
        let mut delays = Delays::new();
        while !left.is_empty() {
            let delay = delays.after_failure();
            tokio::select! {
                biased;
                _ = self.stopped.wait_for(|stopped| *stopped) => return Goes::ToItsEnd,
                () = tokio::time::sleep(delay) => {}
            }
            left = self.hand_over(left).await;
        }
        Goes::On
    }

    /// Hands a window to the broker; answers what it did not confirm.
    async fn hand_over(&mut self, window: Vec<Outgoing>) -> Vec<Outgoing> {
        if window.is_empty() {
            return window;
        }
        let messages: Vec<_> = window.iter().map(|outgoing| outgoing.message.clone()).collect();
        let outcomes = self.sink.send(&messages).await;
        let mut unconfirmed = Vec::new();
        for (outgoing, sent) in window.into_iter().zip(outcomes) {
            match sent {
                Sent::Confirmed => self.worker().decided(&outgoing),
                Sent::Unsent { reason, text } => {
                    let (participant, channel) = (&self.service.name, &outgoing.message.channel);
                    tracing::error!(participant, channel, %reason, "A message can't be sent for good: {text}");
                    self.counts.lock().unwrap_or_else(PoisonError::into_inner).unsent += 1;
                    self.worker().decided(&outgoing);
                }
                // A participant's sink belongs to no group: its duties make a message of a former owner harmless.
                Sent::Unknown { .. } | Sent::Fenced { .. } => unconfirmed.push(outgoing),
            }
        }
        unconfirmed
    }

    fn worker(&mut self) -> &mut Worker {
        self.worker.as_mut().expect("no turn is being made")
    }
}

/// Returns at this instant, if there is one.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn unreadable(participant: &str) -> impl FnOnce(RegistryError) -> ParticipantError {
    let participant = participant.to_owned();
    move |source| ParticipantError::Schemas { participant, source: Box::new(source) }
}

fn failed(participant: &str) -> impl FnOnce(StoreError) -> ParticipantError {
    let participant = participant.to_owned();
    move |source| ParticipantError::Store { participant, source }
}
