//! How a running process stands, in words and a table.

use super::out::{Paint, table, tame};
use crate::engine::{BrokerView, Readiness, StatusView};

/// The answer to `status`.
pub(super) fn status(view: &StatusView, paint: Paint) -> String {
    let Readiness { ready, reasons } = &view.readiness;
    let mut text = match ready {
        true => format!("{}\n", paint.green("ready")),
        false => format!("{}\n", paint.red("not ready")),
    };
    for reason in reasons {
        let since = reason.for_seconds.map(|seconds| format!(", for {seconds} s"));
        let since = since.unwrap_or_default();
        text.push_str(&format!(
            "  {} {}{since}: {}\n",
            reason.what,
            reason.state,
            tame(&reason.why)
        ));
    }
    let (counts, person) = (&view.counts, &view.person);
    if person.blocked > 0 {
        let held = match person.held {
            0 => String::new(),
            held => format!(", {held} of them held by quarantined messages"),
        };
        text.push_str(&format!(
            "{}: {} blocked{held}; `list --status blocked` shows them\n",
            paint.yellow("a person is wanted"),
            counted(person.blocked, "instance")
        ));
    }
    if person.quarantined > 0 {
        text.push_str(&format!(
            "{}: {} quarantined; `quarantine list` shows them\n",
            paint.yellow("a person is wanted"),
            counted(person.quarantined, "message")
        ));
    }
    let rows = [
        ("instances", format!("{} live, {} blocked", counts.in_flight, person.blocked)),
        (
            "ended",
            format!(
                "{} completed, {} compensated, {} killed",
                counts.completed, counts.compensated, counts.killed
            ),
        ),
        (
            "consumed",
            format!(
                "{} applied, {} duplicate, {} ignored, {} parked, {} quarantined",
                counts.inputs.applied,
                counts.inputs.duplicate,
                counts.inputs.ignored,
                counts.inputs.parked,
                counts.inputs.quarantined
            ),
        ),
        ("to be sent", format!("{} ever, {} not confirmed", counts.sent, waiting(view))),
    ];
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|(name, fact)| vec![format!("  {name}"), fact]).collect();
    text.push('\n');
    text.push_str(&table(
        &rows,
        |_, column, cell| if column == 0 { paint.dim(cell) } else { cell.into() },
    ));
    let head = ["BROKER", "PART", "STATE", "FOR", "RECONNECTS", "WAITING"].map(ToOwned::to_owned);
    let mut rows = vec![head.to_vec()];
    rows.extend(view.brokers.iter().map(broker));
    text.push('\n');
    text.push_str(&table(&rows, |row, column, cell| match (row, column, cell) {
        (0, _, _) => paint.dim(cell),
        (_, 2, "ready") => paint.green(cell),
        (_, 2, "away" | "degraded") => paint.red(cell),
        (_, 2, _) => paint.yellow(cell),
        (_, _, _) => cell.into(),
    }));
    let figures: Vec<Vec<String>> = view
        .brokers
        .iter()
        .flat_map(|broker| &broker.figures)
        .map(|(name, value)| vec![format!("  {}", tame(name)), value.to_string()])
        .collect();
    if !figures.is_empty() {
        text.push('\n');
        text.push_str(&table(&figures, |_, _, cell| cell.into()));
    }
    text
}

fn counted(count: u64, what: &str) -> String {
    let (is, s) = if count == 1 { ("is", "") } else { ("are", "s") };
    format!("{count} {what}{s} {is}")
}

fn waiting(view: &StatusView) -> u64 {
    view.brokers.iter().filter_map(|broker| broker.waiting).sum()
}

fn broker(view: &BrokerView) -> Vec<String> {
    let waiting = match (view.waiting, view.oldest_seconds) {
        (None, _) => "-".into(),
        (Some(count), None) => count.to_string(),
        (Some(count), Some(seconds)) => format!("{count}, the oldest for {seconds} s"),
    };
    vec![
        view.connector.clone(),
        view.part.clone(),
        view.state.clone(),
        format!("{} s", view.for_seconds),
        view.reconnects.to_string(),
        waiting,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Reason, Snapshot, WantsPerson};

    #[test]
    fn a_process_that_is_not_ready_says_why_before_anything_else() {
        let reason = Reason {
            what: "rabbitmq sink".into(),
            state: "away".into(),
            why: "refused".into(),
            for_seconds: Some(7),
        };
        let broker = BrokerView {
            connector: "rabbitmq".into(),
            part: "sink".into(),
            state: "away".into(),
            why: Some("refused".into()),
            for_seconds: 7,
            reconnects: 2,
            waiting: Some(40),
            oldest_seconds: Some(6),
            figures: vec![("lag_messages topic=orders".into(), 3.0)],
        };
        let view = StatusView {
            readiness: Readiness { ready: false, reasons: vec![reason] },
            brokers: vec![broker],
            person: WantsPerson::default(),
            counts: Snapshot { in_flight: 5, ..Snapshot::default() },
        };
        let text = status(&view, Paint::plain());
        assert!(text.starts_with("not ready\n  rabbitmq sink away, for 7 s: refused\n"), "{text}");
        assert!(text.contains("5 live") && text.contains("40, the oldest for 6 s"), "{text}");
        assert!(text.contains("lag_messages topic=orders"), "{text}");
        assert!(!text.contains("a person is wanted"), "{text}");
    }

    #[test]
    fn a_process_that_is_ready_says_what_wants_a_person_and_where_to_look() {
        let view = StatusView {
            readiness: Readiness { ready: true, reasons: Vec::new() },
            brokers: Vec::new(),
            person: WantsPerson { blocked: 2, held: 1, quarantined: 1 },
            counts: Snapshot { in_flight: 5, blocked: 1, ..Snapshot::default() },
        };
        let text = status(&view, Paint::plain());
        let first: Vec<&str> = text.lines().take(3).collect();
        assert_eq!(
            first,
            [
                "ready",
                "a person is wanted: 2 instances are blocked, 1 of them held by quarantined messages; `list --status blocked` shows them",
                "a person is wanted: 1 message is quarantined; `quarantine list` shows them",
            ]
        );
        assert!(text.contains("5 live, 2 blocked"), "{text}");
    }
}
