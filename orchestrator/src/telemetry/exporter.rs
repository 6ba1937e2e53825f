//! The thread that talks to the collector: gathers spans, sends them by OTLP over HTTP, and counts what is lost.
//!
//! The only one that may wait for the network; nobody waits for it.

use super::{
    otlp::{TracesError, TracesSettings, spawn},
    spans::{Counters, SpanFact, SpanKind, SpanValue, ToExporter, TraceCounts},
};
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use dirigent_model::time::Timestamp;
use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId, Value,
    trace::{Link, SpanContext, SpanKind as OtelKind, Status, TraceState},
};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Spans in one request, as OpenTelemetry's own processors have it.
const SPANS_PER_REQUEST_MAX: usize = 512;

/// How long a span waits for others to share its request.
const GATHER: Duration = Duration::from_millis(500);

/// How long the collector is left alone after a request that failed, so that a dead one costs nothing.
const REST: Duration = Duration::from_secs(1);

/// The least time between two warnings about a collector.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Starts the thread that talks to the collector. Its HTTP client is made and dropped there: it must not be in an async runtime.
pub(super) fn start(
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
