//! Kept messages, what was decided about them, and audits, in words and tables.

use super::{
    out::{Paint, table, tame},
    tell::{ago, due_in, short},
};
use crate::engine::{Audit, Decided, KeptView};
use dirigent_model::time::Timestamp;

/// Characters of a body that are shown; `--json` has all of it.
const BODY_CHARS_MAX: usize = 4_000;

/// A table of kept messages, in the order of arrival.
pub(super) fn list(
    messages: &[KeptView],
    quarantined: bool,
    more: bool,
    now: Timestamp,
    paint: Paint,
) -> String {
    if messages.is_empty() {
        return format!("No {} messages.\n", if quarantined { "quarantined" } else { "parked" });
    }
    let last = if quarantined { "TEXT" } else { "UNTIL" };
    let head = ["NUMBER", "KEY", "SAGA", "MESSAGE", "REASON", "CAME", last];
    let mut rows = vec![head.map(ToOwned::to_owned).to_vec()];
    rows.extend(messages.iter().map(|message| {
        let until = message.until.map_or("-".into(), |until| due_in(until, now));
        vec![
            message.number.to_string(),
            tame(&message.key),
            tame(&message.saga),
            tame(&message.name),
            message.reason.clone(),
            ago(now.since(message.since)),
            if quarantined { short(&message.text) } else { until },
        ]
    }));
    let mut text = table(&rows, |row, column, cell| match (row, column) {
        (0, _) => paint.dim(cell),
        (_, 4) if quarantined => paint.red(cell),
        (_, _) => cell.into(),
    });
    if more {
        let count = messages.len();
        text.push_str(&format!("There are more than these {count}; --limit shows more of them.\n"));
    }
    text
}

/// Everything about one kept message.
pub(super) fn message(view: &KeptView, now: Timestamp, paint: Paint) -> String {
    let title = format!("#{} {}", view.number, tame(&view.name));
    let mut text = format!("{}  {}\n", paint.bold(title), view.standing);
    let place = format!("{}, partition {}, offset {}", view.channel, view.partition, view.offset);
    let mut facts = vec![
        ("for", format!("{} {} ({})", tame(&view.saga), tame(&view.key), view.instance)),
        ("why", format!("{}: {}", view.reason, tame(&view.text))),
        ("came", format!("{} ({}) from {}", view.since, ago(now.since(view.since)), tame(&place))),
    ];
    if let Some(until) = view.until {
        facts.push(("until", format!("{until} ({})", due_in(until, now))));
    }
    if view.blocks {
        let blocks = "what comes for its instance waits behind it, and its timers rest";
        facts.push(("blocks", blocks.into()));
    }
    let mut rows: Vec<_> =
        facts.into_iter().map(|(name, fact)| vec![format!("  {name}"), fact]).collect();
    let Some(whole) = &view.message else { return text + &table(&rows, |_, _, cell| cell.into()) };
    rows.push(vec!["  key".into(), tame(&whole.key)]);
    let headers = whole.attributes.iter().chain(&whole.headers);
    rows.extend(headers.map(|(name, value)| vec![format!("  {}", tame(name)), tame(value)]));
    text.push_str(&table(&rows, |_, column, cell| match column {
        0 => paint.dim(cell),
        _ => cell.into(),
    }));
    let body: String = whole.body.chars().take(BODY_CHARS_MAX).collect();
    let cut = if body.len() < whole.body.len() { "\n  (the rest is in --json)" } else { "" };
    text.push_str(&format!("\n{}\n  {}{cut}\n", paint.bold("body"), tame(&body)));
    text
}

/// What became of a message that an operator decided about.
pub(super) fn decided(decided: &Decided) -> String {
    let Decided { number, became, text, followed, parked } = decided;
    let mut told = format!("#{number}: {became}");
    if let Some(text) = text {
        told.push_str(&format!(" again: {}", tame(text)));
    }
    if *followed > 0 {
        told.push_str(&format!("; {followed} behind it followed"));
    }
    if *parked > 0 {
        told.push_str(&format!("; {parked} of its instance are parked still"));
    }
    told + "\n"
}

/// What an audit found.
pub(super) fn audit(audit: &Audit, paint: Paint) -> String {
    let head = [
        "CHANNEL",
        "PARTITION",
        "CONSUMED",
        "APPLIED",
        "DUPLICATE",
        "IGNORED",
        "PARKED",
        "QUARANTINED",
        "DEAD LETTERS",
        "NEXT",
    ];
    let mut rows = vec![head.map(ToOwned::to_owned).to_vec()];
    rows.extend(audit.partitions.iter().map(|partition| {
        let counts = &partition.counts;
        let numbers = [
            partition.consumed,
            counts.applied,
            counts.duplicate,
            counts.ignored,
            counts.parked,
            counts.quarantined,
            counts.dead_letters,
        ];
        let mut row = vec![tame(&partition.channel), partition.partition.to_string()];
        row.extend(numbers.map(|number| number.to_string()));
        row.push(partition.next.map_or("-".into(), |next| next.to_string()));
        row
    }));
    let mut text =
        table(&rows, |row, _, cell| if row == 0 { paint.dim(cell) } else { cell.into() });
    let instances = &audit.instances;
    text.push_str(&format!(
        "instances in flight: {}, of which {} with an incident, {} held by quarantined messages\n",
        instances.found, instances.found_blocked, instances.held
    ));
    if audit.is_clean() {
        text.push_str(&format!("{}\n", paint.green("every message consumed is accounted for")));
    }
    for gap in &audit.gaps {
        text.push_str(&format!("{} {}\n", paint.red("gap:"), tame(gap)));
    }
    text
}
