//! Traces: takes facts from the committer, makes spans of them, and brings those to a collector by OTLP over HTTP.
//!
//! ```text
//! committer ─ observe ─► [turns] ─► tree thread ─► [spans] ─► exporter thread ─► collector
//!                                   participants ────┘
//! ```
//!
//! Two queues and two threads, so that a collector that is slow, dead or silent never reaches whoever does the work: the
//! first queue is emptied as fast as spans are made, the second one drops what does not fit. Both count what they drop.

use super::{
    Fact, Observer,
    spans::{Counters, SpanFact, SpanKind, SpanValue, Spans, ToExporter, TraceCounts},
    tree::Tree,
};
use crate::engine::{Clock, SystemClock};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use dirigent_model::time::Timestamp;
use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId, Value,
    trace::{Link, SpanContext, SpanKind as OtelKind, Status, TraceState},
};
use opentelemetry_otlp::{
    OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, Protocol, SpanExporter,
    WithExportConfig,
};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks},
};
use std::{
    env,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Turns whose spans are not made yet. Some moments of full load; what comes on top is dropped and counted.
pub const TURNS_WAITING_MAX: usize = 50_000;

/// Spans in one request, as OpenTelemetry's own processors have it.
const SPANS_PER_REQUEST_MAX: usize = 512;

/// How long a span waits for others to share its request.
const GATHER: Duration = Duration::from_millis(500);

/// How long the collector is left alone after a request that failed, so that a dead one costs nothing.
const REST: Duration = Duration::from_secs(1);

/// The least time between two warnings about a collector.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// How long stopping waits between two looks at whether a thread has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Names the service in traces.
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
/// Turns all telemetry off where it says `true`.
const SDK_DISABLED: &str = "OTEL_SDK_DISABLED";
/// Turns traces off where it says `none`.
const TRACES_EXPORTER: &str = "OTEL_TRACES_EXPORTER";

/// Why there are no traces.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// This build speaks no TLS to collectors.
    #[error(
        "traces can't be sent by https in this build; give {OTEL_EXPORTER_OTLP_ENDPOINT} an http address, of a collector beside this process for example"
    )]
    Https,
    /// The settings make no sense.
    #[error(
        "setting up the sending of traces; look at the variables that begin with OTEL_EXPORTER_OTLP"
    )]
    Setup(#[source] opentelemetry_otlp::ExporterBuildError),
    /// A thread could not be made.
    #[error("starting a thread for traces")]
    Thread(#[source] std::io::Error),
}

/// Where traces go, and what they say about their sender.
#[derive(Clone)]
pub struct TracesSettings {
    /// The name of the service.
    pub service: String,
    /// The full address to post to, such as `http://localhost:4318/v1/traces`; what the environment says for `None`.
    pub endpoint: Option<String>,
    /// How long one request may take; what the environment says, or ten seconds, for `None`.
    pub timeout: Option<Duration>,
    /// `messaging.system`, such as `kafka`, where one broker carries everything.
    pub system: Option<String>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

impl TracesSettings {
    /// For a service, by the environment.
    pub fn new(service: impl Into<String>) -> Self {
        Self {
            service: service.into(),
            endpoint: None,
            timeout: None,
            system: None,
            clock: Arc::new(SystemClock::default()),
        }
    }
}

/// Sends traces. An [`Observer`] for the engine, and the source of [`Spans`] for participants.
pub struct Traces(Option<Sending>);

struct Sending {
    turns: Sender<ToTree>,
    /// Turns on their way to the tree.
    waiting: Arc<AtomicUsize>,
    spans: Spans,
    counters: Arc<Counters>,
    clock: Arc<dyn Clock>,
    stopping: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

enum ToTree {
    Turns(Vec<Fact>, Timestamp),
    Flush(Sender<()>),
    Stop,
}

impl Traces {
    /// Sends nothing.
    pub fn quiet() -> Self {
        Self(None)
    }

    /// As the environment says (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, `OTEL_SERVICE_NAME`, and
    /// the other variables of OTLP exporters); quiet where it names no collector. `app` names the service where nothing else does.
    ///
    /// # Errors
    /// What the environment says makes no sense.
    pub fn from_env(app: &str) -> Result<Self, TracesError> {
        Self::by_env(TracesSettings::new(app))
    }

    /// Like [`from_env`](Self::from_env), and what `settings` say where the environment says nothing.
    ///
    /// # Errors
    /// What the environment says makes no sense.
    pub fn by_env(mut settings: TracesSettings) -> Result<Self, TracesError> {
        let said = |name| env::var(name).ok().filter(|said| !said.is_empty());
        let off = said(SDK_DISABLED).is_some_and(|said| said.eq_ignore_ascii_case("true"))
            || said(TRACES_EXPORTER).is_some_and(|said| said == "none");
        let endpoint = said(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT)
            .or_else(|| said(OTEL_EXPORTER_OTLP_ENDPOINT))
            .or_else(|| settings.endpoint.clone());
        let Some(endpoint) = endpoint.filter(|_| !off) else { return Ok(Self::quiet()) };
        if is_https(&endpoint) {
            return Err(TracesError::Https);
        }
        if said(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT).or(said(OTEL_EXPORTER_OTLP_ENDPOINT)).is_some()
        {
            // The exporter reads it again, and adds the path where the specification says so.
            settings.endpoint = None;
        }
        if let Some(service) = said(SERVICE_NAME) {
            settings.service = service;
        }
        Self::start(settings)
    }

    /// As `settings` say.
    ///
    /// # Errors
    /// They make no sense, or there are no threads for it.
    pub fn start(settings: TracesSettings) -> Result<Self, TracesError> {
        if settings.endpoint.as_deref().is_some_and(is_https) {
            return Err(TracesError::Https);
        }
        let counters = Arc::new(Counters::default());
        let stopping = Arc::new(AtomicBool::new(false));
        let waiting = Arc::new(AtomicUsize::new(0));
        let (spans, to_exporter, exporter_inbox) = Spans::queue(Arc::clone(&counters));
        let exporter = {
            let (counters, stopping) = (Arc::clone(&counters), Arc::clone(&stopping));
            start_exporter(&settings, exporter_inbox, counters, stopping)?
        };
        // Bounded by `waiting`, in turns instead of batches of them.
        let (turns, inbox) = unbounded();
        let tree = TreeThread {
            tree: Tree::new(settings.system),
            inbox,
            waiting: Arc::clone(&waiting),
            spans: spans.clone(),
            to_exporter,
        };
        let tree = spawn("traces tree", move || tree.run())?;
        let threads = Mutex::new(vec![tree, exporter]);
        let clock = settings.clock;
        Ok(Self(Some(Sending { turns, waiting, spans, counters, clock, stopping, threads })))
    }

    /// For participants and others who note spans.
    pub fn spans(&self) -> Spans {
        self.0.as_ref().map_or_else(Spans::quiet, |sending| sending.spans.clone())
    }

    /// What became of the spans so far.
    pub fn counts(&self) -> TraceCounts {
        self.0.as_ref().map_or_else(TraceCounts::default, |sending| sending.counters.read())
    }

    /// Waits, at most `within`, until everything noted before was sent or dropped. Says whether it was. Blocks.
    pub fn flush(&self, within: Duration) -> bool {
        let Some(sending) = &self.0 else { return true };
        let (done, all) = bounded(1);
        sending.turns.send(ToTree::Flush(done)).is_ok() && all.recv_timeout(within).is_ok()
    }

    /// Sends what was noted, at most `within`, and ends; what could not be sent is lost. Says whether it ended in time. Blocks.
    pub fn shutdown(&self, within: Duration) -> bool {
        let Some(sending) = &self.0 else { return true };
        let until = Instant::now() + within;
        sending.stopping.store(true, Ordering::Release);
        // Where the threads are gone already, there is nothing to stop.
        sending.turns.send(ToTree::Stop).unwrap_or_default();
        let mut threads = sending.threads.lock().unwrap_or_else(PoisonError::into_inner);
        while threads.iter().any(|thread| !thread.is_finished()) {
            if Instant::now() >= until {
                // A request that hangs ends with its own time limit; nobody has to wait for that.
                return false;
            }
            std::thread::park_timeout(LOOK_AGAIN);
        }
        // All are joined, whatever the first of them says.
        let sound: Vec<bool> = threads.drain(..).map(|thread| thread.join().is_ok()).collect();
        sound.into_iter().all(|sound| sound)
    }
}

impl Observer for Traces {
    fn is_on(&self) -> bool {
        self.0.is_some()
    }

    fn observe(&self, facts: Vec<Fact>) {
        let Some(sending) = &self.0 else { return };
        let turns = facts.len();
        if sending.waiting.fetch_add(turns, Ordering::Relaxed) + turns > TURNS_WAITING_MAX
            || sending.turns.send(ToTree::Turns(facts, sending.clock.now())).is_err()
        {
            sending.waiting.fetch_sub(turns, Ordering::Relaxed);
            sending.counters.turns_dropped.fetch_add(turns as u64, Ordering::Relaxed);
        }
    }
}

impl Drop for Traces {
    /// Lets the threads end by themselves, with what they have. To wait for that, [`shutdown`](Traces::shutdown) before.
    fn drop(&mut self) {
        if let Some(sending) = &self.0 {
            sending.stopping.store(true, Ordering::Release);
            sending.turns.send(ToTree::Stop).unwrap_or_default();
        }
    }
}

fn is_https(endpoint: &str) -> bool {
    endpoint.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"))
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, TracesError> {
    std::thread::Builder::new().name(name.into()).spawn(work).map_err(TracesError::Thread)
}

/// Makes spans as fast as turns come.
struct TreeThread {
    tree: Tree,
    inbox: Receiver<ToTree>,
    waiting: Arc<AtomicUsize>,
    spans: Spans,
    to_exporter: Sender<ToExporter>,
}

impl TreeThread {
    fn run(mut self) {
        while let Ok(message) = self.inbox.recv() {
            match message {
                ToTree::Turns(facts, durable_at) => {
                    self.waiting.fetch_sub(facts.len(), Ordering::Relaxed);
                    for fact in facts {
                        let spans = self.tree.take(fact, durable_at);
                        spans.into_iter().for_each(|span| self.spans.record(span));
                    }
                }
                // Behind all spans; where the exporter hangs, whoever waits for the flush gives up by its own limit.
                ToTree::Flush(done) => self.pass(ToExporter::Flush(done)),
                ToTree::Stop => break,
            }
        }
        self.pass(ToExporter::Stop);
    }

    fn pass(&self, message: ToExporter) {
        // An exporter that is gone has nothing more to be told.
        self.to_exporter.send(message).unwrap_or_default();
    }
}

/// Starts the thread that talks to the collector. Its HTTP client is made and dropped there: it must not be in an async runtime.
fn start_exporter(
    settings: &TracesSettings,
    inbox: Receiver<ToExporter>,
    counters: Arc<Counters>,
    stopping: Arc<AtomicBool>,
) -> Result<JoinHandle<()>, TracesError> {
    let (endpoint, timeout) = (settings.endpoint.clone(), settings.timeout);
    let resource = Resource::builder().with_service_name(settings.service.clone()).build();
    let scope =
        InstrumentationScope::builder("dirigent").with_version(env!("CARGO_PKG_VERSION")).build();
    let (started, outcome) = bounded(1);
    let thread = spawn("traces exporter", move || {
        let mut builder = SpanExporter::builder().with_http().with_protocol(Protocol::HttpBinary);
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(timeout) = timeout {
            builder = builder.with_timeout(timeout);
        }
        let mut exporter = match builder.build() {
            Ok(exporter) => exporter,
            Err(error) => return started.send(Err(TracesError::Setup(error))).unwrap_or_default(),
        };
        exporter.set_resource(&resource);
        started.send(Ok(())).unwrap_or_default();
        let batch = Vec::with_capacity(SPANS_PER_REQUEST_MAX);
        let told = Told { at: None, counts: TraceCounts::default() };
        ExporterThread { exporter, scope, inbox, counters, stopping, batch, told }.run();
    })?;
    let gone = || TracesError::Thread(std::io::Error::other("it ended at once"));
    outcome.recv().unwrap_or_else(|_| Err(gone()))?;
    Ok(thread)
}

/// Brings spans to the collector.
struct ExporterThread {
    exporter: SpanExporter,
    scope: InstrumentationScope,
    inbox: Receiver<ToExporter>,
    counters: Arc<Counters>,
    stopping: Arc<AtomicBool>,
    batch: Vec<SpanData>,
    told: Told,
}

/// Whether the work goes on.
#[derive(PartialEq, Eq)]
enum Goes {
    On,
    ToItsEnd,
}

/// What was last said about losses, and when.
struct Told {
    at: Option<Instant>,
    counts: TraceCounts,
}

impl ExporterThread {
    fn run(mut self) {
        let mut send_at = Instant::now();
        loop {
            let next = if self.batch.is_empty() {
                self.inbox.recv().map_err(RecvTimeoutError::from)
            } else {
                self.inbox.recv_deadline(send_at)
            };
            match next {
                Ok(ToExporter::Span(span)) => {
                    if self.batch.is_empty() {
                        send_at = Instant::now() + GATHER;
                    }
                    self.batch.push(data(*span, &self.scope));
                    if self.batch.len() >= SPANS_PER_REQUEST_MAX && self.send() == Goes::ToItsEnd {
                        return;
                    }
                }
                Ok(ToExporter::Flush(done)) => {
                    let goes = self.send();
                    done.send(()).unwrap_or_default();
                    if goes == Goes::ToItsEnd {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    if self.send() == Goes::ToItsEnd {
                        return;
                    }
                }
                Ok(ToExporter::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.send();
    }

    fn send(&mut self) -> Goes {
        if self.batch.is_empty() {
            return Goes::On;
        }
        let batch = std::mem::take(&mut self.batch);
        let spans = batch.len() as u64;
        match futures_executor::block_on(self.exporter.export(batch)) {
            Ok(()) => {
                self.counters.exported.fetch_add(spans, Ordering::Relaxed);
                self.tell(None);
                Goes::On
            }
            Err(error) => {
                self.counters.dropped.fetch_add(spans, Ordering::Relaxed);
                self.tell(Some(&error.to_string()));
                if self.stopping.load(Ordering::Acquire) {
                    return self.give_up();
                }
                std::thread::park_timeout(REST);
                Goes::On
            }
        }
    }

    /// Drops all that waits: the process ends, and the collector does not take it.
    fn give_up(&mut self) -> Goes {
        let (mut dropped, mut goes) = (0, Goes::On);
        while goes == Goes::On
            && let Ok(message) = self.inbox.try_recv()
        {
            match message {
                ToExporter::Span(_) => dropped += 1,
                ToExporter::Flush(done) => done.send(()).unwrap_or_default(),
                ToExporter::Stop => goes = Goes::ToItsEnd,
            }
        }
        self.counters.dropped.fetch_add(dropped, Ordering::Relaxed);
        goes
    }

    /// Tells of losses, once in a while.
    fn tell(&mut self, error: Option<&str>) {
        let counts = self.counters.read();
        let lost = (counts.dropped, counts.turns_dropped);
        if lost == (self.told.counts.dropped, self.told.counts.turns_dropped)
            || self.told.at.is_some_and(|at| at.elapsed() < WARN_EVERY)
        {
            return;
        }
        let spans_dropped = counts.dropped - self.told.counts.dropped;
        let turns_dropped = counts.turns_dropped - self.told.counts.turns_dropped;
        self.told = Told { at: Some(Instant::now()), counts };
        let error = error.unwrap_or("too many waited");
        tracing::warn!(
            spans_dropped,
            turns_dropped,
            error,
            "Traces are lost: the collector does not take them, or not fast enough."
        );
    }
}

/// A span as the exporter takes it.
fn data(span: SpanFact, scope: &InstrumentationScope) -> SpanData {
    let mut links = SpanLinks::default();
    links
        .links
        .extend(span.link.map(|(trace, span)| Link::with_context(context(trace, span, true))));
    let attribute = |(name, value): (&'static str, SpanValue)| {
        let value: Value = match value {
            SpanValue::Text(text) => text.into(),
            SpanValue::Number(number) => number.into(),
            SpanValue::Flag(flag) => flag.into(),
        };
        KeyValue::new(name, value)
    };
    SpanData {
        span_context: context(span.trace, span.span, false),
        parent_span_id: span.parent.map_or(SpanId::INVALID, SpanId::from_bytes),
        parent_span_is_remote: span.parent_is_remote,
        span_kind: match span.kind {
            SpanKind::Internal => OtelKind::Internal,
            SpanKind::Client => OtelKind::Client,
            SpanKind::Producer => OtelKind::Producer,
            SpanKind::Consumer => OtelKind::Consumer,
        },
        name: span.name.into(),
        start_time: instant(span.from),
        end_time: instant(span.until),
        attributes: span.attributes.into_iter().map(attribute).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links,
        status: span.error.map_or(Status::Unset, Status::error),
        instrumentation_scope: scope.clone(),
    }
}

fn context(trace: [u8; 16], span: [u8; 8], remote: bool) -> SpanContext {
    let (trace, span) = (TraceId::from_bytes(trace), SpanId::from_bytes(span));
    SpanContext::new(trace, span, TraceFlags::SAMPLED, remote, TraceState::NONE)
}

fn instant(at: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(at.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_traces_are_off_and_end_at_once() {
        let traces = Traces::quiet();
        assert!(!traces.is_on() && !traces.spans().is_on());
        assert!(traces.flush(Duration::ZERO) && traces.shutdown(Duration::ZERO));
    }

    #[test]
    fn an_https_collector_is_refused_with_the_way_out() {
        let settings = TracesSettings {
            endpoint: Some("HTTPS://user:secret@collector/v1/traces".into()),
            ..TracesSettings::new("t")
        };
        let Err(error) = Traces::start(settings) else { panic!("it is refused") };
        let text = crate::describe(&error);
        assert!(text.contains("http address") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn a_span_keeps_its_ids_on_the_way_to_the_exporter() {
        let span =
            SpanFact::new(([3; 16], [4; 8]), SpanKind::Client, "s", Timestamp(1), Timestamp(2))
                .under_remote([5; 8])
                .with("saga.attempt", 2_u32);
        let scope = InstrumentationScope::builder("t").build();
        let data =
            data(SpanFact { link: Some(([6; 16], [7; 8])), error: Some("e"), ..span }, &scope);
        assert_eq!(data.span_context.trace_id().to_bytes(), [3; 16]);
        assert_eq!(data.span_context.span_id().to_bytes(), [4; 8]);
        assert_eq!((data.parent_span_id.to_bytes(), data.parent_span_is_remote), ([5; 8], true));
        assert_eq!(data.links.links[0].span_context.span_id().to_bytes(), [7; 8]);
        assert_eq!(data.attributes, [KeyValue::new("saga.attempt", 2_i64)]);
        assert_eq!(data.status, Status::error("e"));
    }
}
