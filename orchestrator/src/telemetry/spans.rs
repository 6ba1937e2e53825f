//! Spans as this process notes them, and the handle by which anybody may note one.
//!
//! Ids are given, never drawn by a tracer: the span of a message follows from the message's id, so that whoever takes the
//! message knows its parent from `traceparent` alone, and a message that is sent again is the same span.

use crossbeam_channel::{Sender, TrySendError, bounded};
use dirigent_model::time::Timestamp;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Spans that wait to be exported. A burst of some two thousand sagas; what comes on top is dropped and counted.
pub const SPANS_WAITING_MAX: usize = 65_536;

/// A trace id and a span id.
pub type SpanRef = ([u8; 16], [u8; 8]);

/// What a span stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// Something inside.
    Internal,
    /// A message was sent, and its answer awaited.
    Client,
    /// A message was sent.
    Producer,
    /// A message was taken.
    Consumer,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpanValue {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
    /// Yes or no.
    Flag(bool),
}

impl From<String> for SpanValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for SpanValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<u32> for SpanValue {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<usize> for SpanValue {
    fn from(number: usize) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<bool> for SpanValue {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

/// A span that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanFact {
    /// The trace.
    pub trace: [u8; 16],
    /// Its own id.
    pub span: [u8; 8],
    /// The span above it; `None` for a root.
    pub parent: Option<[u8; 8]>,
    /// Whether the span above came in with a message.
    pub parent_is_remote: bool,
    /// What it stands for.
    pub kind: SpanKind,
    /// Its name: few different ones, without ids.
    pub name: String,
    /// When it began.
    pub from: Timestamp,
    /// When it was over.
    pub until: Timestamp,
    /// Attributes, by the names in [`semconv`](super::semconv). Never a message's body.
    pub attributes: Vec<(&'static str, SpanValue)>,
    /// What went wrong, in words that hold no data; `None` is the normal case, a compensation too.
    pub error: Option<&'static str>,
    /// A span of another trace that has to do with it.
    pub link: Option<SpanRef>,
}

impl SpanFact {
    /// A span without attributes.
    pub fn new(
        (trace, span): SpanRef,
        kind: SpanKind,
        name: impl Into<String>,
        from: Timestamp,
        until: Timestamp,
    ) -> Self {
        Self {
            trace,
            span,
            parent: None,
            parent_is_remote: false,
            kind,
            name: name.into(),
            from,
            until: until.max(from),
            attributes: Vec::new(),
            error: None,
            link: None,
        }
    }

    /// Below a span of this process.
    #[must_use]
    pub fn under(mut self, parent: [u8; 8]) -> Self {
        self.parent = Some(parent);
        self
    }

    /// Below a span that came in with a message.
    #[must_use]
    pub fn under_remote(mut self, parent: [u8; 8]) -> Self {
        self.parent_is_remote = true;
        self.under(parent)
    }

    /// With an attribute.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<SpanValue>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }
}

/// How many spans went which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TraceCounts {
    /// Taken by the collector.
    pub exported: u64,
    /// Lost, because too many waited or the collector did not take them.
    pub dropped: u64,
    /// Turns whose spans were never made, because too many waited.
    pub turns_dropped: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub exported: AtomicU64,
    pub dropped: AtomicU64,
    pub turns_dropped: AtomicU64,
}

impl Counters {
    pub(super) fn read(&self) -> TraceCounts {
        TraceCounts {
            exported: self.exported.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            turns_dropped: self.turns_dropped.load(Ordering::Relaxed),
        }
    }
}

/// What the exporter is sent.
pub(super) enum ToExporter {
    /// To be exported.
    Span(Box<SpanFact>),
    /// Export what came before, and say so.
    Flush(Sender<()>),
    /// Export what came before, and end.
    Stop,
}

/// Notes spans. Cheap to clone; never blocks, and does nothing where nobody listens.
#[derive(Clone, Default)]
pub struct Spans(Option<Noted>);

#[derive(Clone)]
struct Noted {
    exporter: Sender<ToExporter>,
    counters: Arc<Counters>,
}

impl Spans {
    /// Nobody listens.
    pub fn quiet() -> Self {
        Self(None)
    }

    /// Into a queue of [`SPANS_WAITING_MAX`].
    pub(super) fn queue(
        counters: Arc<Counters>,
    ) -> (Self, Sender<ToExporter>, crossbeam_channel::Receiver<ToExporter>) {
        let (exporter, inbox) = bounded(SPANS_WAITING_MAX);
        (Self(Some(Noted { exporter: exporter.clone(), counters })), exporter, inbox)
    }

    /// Whether anybody listens.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Notes a span; drops and counts it where too many wait.
    pub fn record(&self, span: SpanFact) {
        let Some(noted) = &self.0 else { return };
        match noted.exporter.try_send(ToExporter::Span(Box::new(span))) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                noted.counters.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl std::fmt::Debug for Spans {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Spans").field(&self.is_on()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span() -> SpanFact {
        SpanFact::new(([1; 16], [2; 8]), SpanKind::Internal, "s", Timestamp(5), Timestamp(3))
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let counters = Arc::new(Counters::default());
        let (spans, _exporter, inbox) = Spans::queue(Arc::clone(&counters));
        (0..SPANS_WAITING_MAX + 7).for_each(|_| spans.record(span()));
        assert_eq!(counters.read(), TraceCounts { dropped: 7, ..TraceCounts::default() });
        assert_eq!(inbox.len(), SPANS_WAITING_MAX);
    }

    #[test]
    fn a_quiet_handle_takes_nothing() {
        assert!(!Spans::quiet().is_on());
        Spans::default().record(span());
    }

    #[test]
    fn a_span_never_ends_before_it_began() {
        assert_eq!((span().from, span().until), (Timestamp(5), Timestamp(5)));
    }
}
