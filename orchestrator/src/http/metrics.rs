//! Metrics as OpenMetrics text: what the [meters](crate::meters) have measured, and what is read of the engine when somebody asks.
//!
//! Names begin with `dirigent_` and end in their unit; the table of them is in README.md. Labels are names of channels, connectors and
//! what connectors show: nothing that a message can choose.

use crate::{destinations::DestinationView, engine::Handle};
use dirigent_connectors::health::{Figure, MeasureKind};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::{Registry, Unit},
};
use std::{
    collections::BTreeMap,
    fmt::{self, Error},
};

/// What is shown.
pub(super) struct Exposition(Registry);

impl Exposition {
    /// Of a running engine, or of a process that has none yet.
    pub(super) fn of(handle: Option<Handle>) -> Self {
        let mut registry = Registry::with_prefix("dirigent");
        if let Some(handle) = &handle {
            handle.meters().register(&mut registry);
        }
        registry.register_collector(Box::new(Figures(handle)));
        Self(registry)
    }

    /// The text, up to its `# EOF`.
    pub(super) fn text(&self) -> Result<String, Error> {
        let mut text = String::new();
        encode(&mut text, &self.0)?;
        Ok(text)
    }
}

/// Read when somebody asks.
struct Figures(Option<Handle>);

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

type Labels<'a> = Vec<(&'a str, &'a str)>;

/// Writes metrics, one after the other.
struct Writer<'e>(DescriptorEncoder<'e>);

impl Writer<'_> {
    fn gauge<'a>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        values: impl IntoIterator<Item = (Labels<'a>, f64)>,
    ) -> Result<(), Error> {
        self.metric(MeasureKind::Gauge, name, help, unit, values)
    }

    fn counter<'a>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        values: impl IntoIterator<Item = (Labels<'a>, f64)>,
    ) -> Result<(), Error> {
        self.metric(MeasureKind::Counter, name, help, unit, values)
    }

    fn metric<'a>(
        &mut self,
        kind: MeasureKind,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        values: impl IntoIterator<Item = (Labels<'a>, f64)>,
    ) -> Result<(), Error> {
        let known = match kind {
            MeasureKind::Gauge => MetricType::Gauge,
            MeasureKind::Counter => MetricType::Counter,
        };
        let mut metric = self.0.encode_descriptor(name, help, unit.as_ref(), known)?;
        for (labels, value) in values {
            if labels.is_empty() {
                put(kind, &mut metric, value)?;
            } else {
                put(kind, &mut metric.encode_family(&labels)?, value)?;
            }
        }
        Ok(())
    }
}

fn put(kind: MeasureKind, metric: &mut MetricEncoder<'_>, value: f64) -> Result<(), Error> {
    match kind {
        MeasureKind::Gauge => metric.encode_gauge(&value),
        MeasureKind::Counter => metric.encode_counter::<NoLabelSet, _, u64>(&value, None),
    }
}

impl Collector for Figures {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut out = Writer(encoder);
        let ready = self.0.as_ref().is_some_and(|handle| handle.readiness().ready);
        let ready = [(vec![], f64::from(u8::from(ready)))];
        out.gauge("ready", "Whether messages are taken in and leave", None, ready)?;
        let Some(handle) = &self.0 else { return Ok(()) };
        sagas(&mut out, handle)?;
        messages(&mut out, handle)?;
        destinations(&mut out, handle)?;
        brokers(&mut out, handle)
    }
}

fn sagas(out: &mut Writer<'_>, handle: &Handle) -> Result<(), Error> {
    let counts = handle.snapshot();
    let person = handle.wants_person();
    let states = [("live", counts.in_flight), ("blocked", person.blocked), ("held", person.held)];
    out.gauge(
        "instances",
        "Instances that have not ended, those of them that want a person, and those of these that a quarantined message holds",
        None,
        states.map(|(state, count)| (vec![("state", state)], count as f64)),
    )?;
    let started = [(vec![], counts.started as f64)];
    out.counter("instances_started", "Instances ever started", None, started)?;
    let ends = [
        ("completed", counts.completed),
        ("compensated", counts.compensated),
        ("killed", counts.killed),
    ];
    out.counter(
        "instances_ended",
        "Instances that have ended, by how",
        None,
        ends.map(|(end, count)| (vec![("end", end)], count as f64)),
    )?;
    let syncs = [(vec![], counts.syncs as f64)];
    out.counter("journal_syncs", "Syncs of the journal by this process", None, syncs)?;
    let written = [(vec![], counts.journal_bytes_written as f64)];
    let help = "Bytes written to the journal by this process";
    out.counter("journal_written", help, Some(Unit::Bytes), written)?;
    let live = [(vec![], counts.journal_bytes as f64)];
    out.gauge("journal_live", "Bytes of the journal not yet given up", Some(Unit::Bytes), live)
}

fn messages(out: &mut Writer<'_>, handle: &Handle) -> Result<(), Error> {
    let inputs = handle.meters().inputs();
    // What is kept for later moves on to another verdict, so its number can fall: that is a gauge.
    let is_kept = |verdict: &str| matches!(verdict, "parked" | "quarantined");
    let of = |kept: bool| {
        inputs.iter().flat_map(move |(channel, counts)| {
            let labels =
                |verdict: &'static str| vec![("channel", channel.as_str()), ("verdict", verdict)];
            let some = counts.iter().filter(move |(verdict, _)| is_kept(verdict) == kept);
            some.map(move |(verdict, count)| (labels(verdict), *count as f64))
        })
    };
    let help = "Messages consumed and decided, by channel and what became of them";
    out.counter("inputs", help, None, of(false))?;
    let help = "Messages consumed and kept for later, by channel and why";
    out.gauge("inputs_kept", help, None, of(true))?;
    let counts = handle.snapshot();
    let sent = [(vec![], counts.sent as f64)];
    out.counter("messages_committed", "Messages that are durable and to be sent", None, sent)?;
    let outboxes = handle.outboxes();
    let confirmed = outboxes.iter().zip(&counts.confirmed);
    out.counter(
        "messages_confirmed",
        "Messages that their broker has confirmed",
        None,
        confirmed.map(|(outbox, count)| (labelled(&outbox.connector), *count as f64)),
    )?;
    let waiting = |outbox: &crate::engine::Outbox| outbox.gauge.waiting() as f64;
    out.gauge(
        "outbox_messages",
        "Messages that are durable and not confirmed",
        None,
        outboxes.iter().map(|outbox| (labelled(&outbox.connector), waiting(outbox))),
    )?;
    let age =
        |outbox: &crate::engine::Outbox| outbox.gauge.oldest().map_or(0.0, |age| age.as_secs_f64());
    out.gauge(
        "outbox_age",
        "How long the oldest of them has waited",
        Some(Unit::Seconds),
        outboxes.iter().map(|outbox| (labelled(&outbox.connector), age(outbox))),
    )
}

fn labelled(connector: &str) -> Labels<'_> {
    vec![("connector", connector)]
}

fn destinations(out: &mut Writer<'_>, handle: &Handle) -> Result<(), Error> {
    let now = handle.now();
    let views = handle.destinations();
    let each = |value: &dyn Fn(&DestinationView) -> Option<f64>| {
        let shown = views.iter().filter_map(|view| {
            value(view).map(|value| (vec![("channel", view.channel.as_str())], value))
        });
        shown.collect::<Vec<_>>()
    };
    let states = views.iter().flat_map(|view| {
        DestinationView::STATES.into_iter().map(move |state| {
            let labels = vec![("channel", view.channel.as_str()), ("state", state)];
            (labels, f64::from(u8::from(view.state == state)))
        })
    });
    let help = "1 for how a destination of commands stands, 0 for how it does not";
    out.gauge("destination_state", help, None, states)?;
    let help = "Commands that were given back and rest with their instances";
    out.gauge("destination_held_commands", help, None, each(&|view| Some(view.held as f64)))?;
    let held_for = |view: &DestinationView| {
        view.oldest_held.map_or(0.0, |since| now.since(since).as_secs_f64())
    };
    let help = "How long the oldest of them is held";
    let ages = each(&|view| Some(held_for(view)));
    out.gauge("destination_held_age", help, Some(Unit::Seconds), ages)?;
    let help = "Commands that wait in this process for their turn, or for their broker";
    out.gauge("destination_queued_commands", help, None, each(&|view| Some(view.queued as f64)))?;
    let help = "Commands sent and not yet answered, where their number is limited";
    let in_flight = each(&|view| view.in_flight.map(|count| count as f64));
    out.gauge("destination_in_flight_commands", help, None, in_flight)?;
    let help = "Commands that may be sent and not yet answered, where limited";
    let limits = each(&|view| view.in_flight_max.map(|count| count as f64));
    out.gauge("destination_in_flight_commands_max", help, None, limits)?;
    let help = "Commands a second that may leave, where limited";
    out.gauge("destination_rate_max", help, None, each(&|view| view.rate.map(f64::from)))?;
    let help = "The last outcomes that its circuit looks at";
    out.gauge("destination_outcomes", help, None, each(&|view| Some(view.outcomes as f64)))?;
    let help = "How many of them are failures";
    out.gauge("destination_failures", help, None, each(&|view| Some(view.failures as f64)))?;
    let help = "Commands that were let go by this process";
    out.counter("destination_sent", help, None, each(&|view| Some(view.sent as f64)))?;
    let help = "Times that a command was given back by this process";
    let given_back = each(&|view| Some(view.given_back as f64));
    out.counter("destination_given_back", help, None, given_back)?;
    let help = "Times that its circuit opened in this process";
    out.counter("destination_circuit_opened", help, None, each(&|view| Some(view.opened as f64)))
}

fn brokers(out: &mut Writer<'_>, handle: &Handle) -> Result<(), Error> {
    let reports = handle.broker_reports();
    let labels = |at: usize| vec![("connector", reports[at].connector), ("part", reports[at].part)];
    let each = || 0..reports.len();
    out.gauge(
        "broker_ready",
        "Whether a source or sink has messages flowing",
        None,
        each().map(|at| (labels(at), f64::from(u8::from(reports[at].report.standing.is_ready())))),
    )?;
    out.counter(
        "broker_reconnects",
        "Connections that were lost and built anew",
        None,
        each().map(|at| (labels(at), reports[at].report.reconnects as f64)),
    )?;
    // All values of one measure stand together, whoever shows them.
    let mut by_measure: BTreeMap<&str, Vec<(usize, &Figure)>> = BTreeMap::new();
    for at in each() {
        for figure in &reports[at].report.figures {
            by_measure.entry(figure.measure.name).or_default().push((at, figure));
        }
    }
    for figures in by_measure.values() {
        let Some((_, first)) = figures.first() else { continue };
        let values = figures.iter().map(|(at, figure)| {
            let mut all = labels(*at);
            all.extend(figure.labels.iter().map(|(name, value)| (*name, value.as_str())));
            (all, figure.value)
        });
        let measure = first.measure;
        out.metric(measure.kind, measure.name, measure.help, None, values)?;
    }
    Ok(())
}
