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
    Fact, Observer, exporter,
    spans::{Counters, Spans, ToExporter, TraceCounts},
    tree::Tree,
};
use crate::engine::{Clock, SystemClock};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use dirigent_model::time::Timestamp;
use opentelemetry_otlp::{OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT};
use std::{
    env,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Turns whose spans are not made yet. Some moments of full load; what comes on top is dropped and counted.
pub const TURNS_WAITING_MAX: usize = 50_000;

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
    pub fn by_env(settings: TracesSettings) -> Result<Self, TracesError> {
        let said = |name: &str| env::var(name).ok().filter(|said| !said.is_empty());
        if is_off(&said) {
            return Ok(Self::quiet());
        }
        let endpoint = endpoint_of(&said).or(settings.endpoint);
        let Some(endpoint) = endpoint else { return Ok(Self::quiet()) };
        let service = said(SERVICE_NAME).unwrap_or(settings.service);
        Self::start(TracesSettings { endpoint: Some(endpoint), service, ..settings })
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
            exporter::start(&settings, exporter_inbox, counters, stopping)?
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

/// Whether the environment wants no traces.
fn is_off(said: &impl Fn(&str) -> Option<String>) -> bool {
    said(SDK_DISABLED).is_some_and(|said| said.eq_ignore_ascii_case("true"))
        || said(TRACES_EXPORTER).is_some_and(|said| said == "none")
}

/// Where the environment wants traces: an address of their own is taken as it is, the one for all signals gets the path.
fn endpoint_of(said: &impl Fn(&str) -> Option<String>) -> Option<String> {
    said(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT).or_else(|| {
        let base = said(OTEL_EXPORTER_OTLP_ENDPOINT)?;
        Some(format!("{}/v1/traces", base.trim_end_matches('/')))
    })
}

fn is_https(endpoint: &str) -> bool {
    endpoint.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"))
}

pub(super) fn spawn(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, TracesError> {
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

#[cfg(test)]
mod tests {
    use super::{
        super::spans::{SpanFact, SpanKind},
        *,
    };

    #[test]
    fn quiet_traces_are_off_and_end_at_once() {
        let traces = Traces::quiet();
        assert!(!traces.is_on() && !traces.spans().is_on());
        assert!(traces.flush(Duration::ZERO) && traces.shutdown(Duration::ZERO));
    }

    #[test]
    fn the_environment_names_the_collector_for_traces_or_for_everything() {
        let all = |name: &str| {
            (name == OTEL_EXPORTER_OTLP_ENDPOINT).then(|| "http://collector:4318/".to_owned())
        };
        assert_eq!(endpoint_of(&all).as_deref(), Some("http://collector:4318/v1/traces"));
        let own = |name: &str| match name {
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT => Some("http://own/path".to_owned()),
            _ => all(name),
        };
        assert_eq!(endpoint_of(&own).as_deref(), Some("http://own/path"));
        assert_eq!(endpoint_of(&|_: &str| None), None);
    }

    #[test]
    fn the_environment_can_turn_traces_off() {
        assert!(is_off(&|name: &str| (name == SDK_DISABLED).then(|| "TRUE".to_owned())));
        assert!(is_off(&|name: &str| (name == TRACES_EXPORTER).then(|| "none".to_owned())));
        assert!(!is_off(&|_: &str| None));
    }

    #[test]
    fn a_collector_that_is_not_there_costs_its_spans_and_stops_nobody() {
        // Nobody listens on the port of a listener that is gone.
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let settings = TracesSettings {
            endpoint: Some(format!("http://{gone}/v1/traces")),
            ..TracesSettings::new("t")
        };
        let traces = Traces::start(settings).unwrap();
        let at = ([1; 16], [2; 8]);
        let span = SpanFact::new(at, SpanKind::Internal, "s", Timestamp(1), Timestamp(2));
        (0..2_000).for_each(|_| traces.spans().record(span.clone()));
        assert!(traces.shutdown(Duration::from_secs(30)));
        assert_eq!(traces.counts(), TraceCounts { dropped: 2_000, ..TraceCounts::default() });
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
}
