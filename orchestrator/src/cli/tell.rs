//! Instances, verdicts and settings in words and tables.

use super::out::{Paint, table, tame};
use crate::{config::Settings, engine::InstanceView};
use dirigent_model::{
    definition::NodeId,
    history::{Line, Verdict, What, Why},
    instance::Leg,
    time::Timestamp,
};
use std::{collections::BTreeSet, time::Duration};

/// Characters of a cause or a note that a table shows; `show --json` has all of it.
const NOTE_CHARS_MAX: usize = 100;

/// A table of instances, the oldest first.
pub(super) fn list(
    instances: &[InstanceView],
    more: bool,
    quarantined: usize,
    now: Timestamp,
    paint: Paint,
) -> String {
    let beside = match quarantined {
        0 => String::new(),
        1 => "1 message is quarantined; `quarantine list` shows it.\n".into(),
        count => format!("{count} messages are quarantined; `quarantine list` shows them.\n"),
    };
    if instances.is_empty() {
        return format!("No instances.\n{beside}");
    }
    let head = ["KEY", "SAGA", "STATUS", "STARTED", "TOOK", "NOTE"].map(ToOwned::to_owned);
    let mut rows = vec![head.to_vec()];
    rows.extend(instances.iter().map(|instance| {
        let started = instance.started_at;
        let took = instance.ended_at.map_or("-".into(), |ended| span(ended.since(started)));
        vec![
            tame(instance.key.as_str()),
            format!("{} v{}", instance.saga, instance.version),
            instance.status.clone(),
            ago(now.since(started)),
            took,
            note(instance),
        ]
    }));
    let mut text = table(&rows, |row, column, cell| match (row, column) {
        (0, _) => paint.dim(cell),
        (_, 2) => status(cell, paint),
        (_, _) => cell.into(),
    });
    if more {
        let count = instances.len();
        text.push_str(&format!("There are more than these {count}; --limit shows more of them.\n"));
    }
    text + &beside
}

fn note(instance: &InstanceView) -> String {
    let incident = instance.incidents.first();
    short(incident.or(instance.cause.as_ref()).map_or("", String::as_str))
}

pub(super) fn short(text: &str) -> String {
    let tamed = tame(text);
    if tamed.chars().count() <= NOTE_CHARS_MAX {
        return tamed;
    }
    tamed.chars().take(NOTE_CHARS_MAX - 1).chain(['…']).collect()
}

fn status(word: &str, paint: Paint) -> String {
    match word {
        "completed" => paint.green(word),
        "compensated" | "turning-back" => paint.yellow(word),
        "blocked" | "killed" => paint.red(word),
        other => other.into(),
    }
}

/// Everything about one instance.
pub(super) fn instance(view: &InstanceView, now: Timestamp, paint: Paint) -> String {
    let run = if view.run == 0 { String::new() } else { format!(", run {}", view.run + 1) };
    let title = format!("{} {}", view.saga, tame(view.key.as_str()));
    let mut text =
        format!("{}  v{}{run}  {}\n", paint.bold(title), view.version, status(&view.status, paint));
    let mut facts = vec![
        ("id", view.id.to_string()),
        ("trace", view.trace.clone()),
        ("started", format!("{} ({})", view.started_at, ago(now.since(view.started_at)))),
    ];
    if let Some(ended) = view.ended_at {
        facts.push(("ended", format!("{ended} (after {})", span(ended.since(view.started_at)))));
    }
    if let Some(kept) = view.kept_until {
        facts.push(("kept until", format!("{kept}, so long a repeated start is recognised")));
    }
    if let Some(due) = view.due {
        facts.push(("next", format!("{due} ({})", due_in(due, now))));
    }
    if let Some(cause) = &view.cause {
        facts.push(("cause", tame(cause)));
    }
    facts.extend(view.incidents.iter().map(|incident| ("incident", tame(incident))));
    let rows: Vec<_> =
        facts.into_iter().map(|(name, fact)| vec![format!("  {name}"), fact]).collect();
    text.push_str(&table(&rows, |row, column, cell| match (rows[row][0].trim(), column) {
        (_, 0) => paint.dim(cell),
        ("incident", _) => paint.red(cell),
        (_, _) => cell.into(),
    }));
    // Sequences are there to hold others; what is in them says it all.
    let nodes = view.nodes.iter().filter(|node| !is_inner(&node.name));
    let nodes: Vec<_> =
        nodes.map(|node| vec![format!("  {}", node.name), node.state.clone()]).collect();
    text.push_str(&format!("\n{}\n", paint.bold("steps")));
    text.push_str(&table(&nodes, |_, column, cell| match (cell, column) {
        ("done", 1) => paint.green(cell),
        ("compensated" | "turned back" | "turning back", 1) => paint.yellow(cell),
        ("rejected" | "in doubt", 1) => paint.red(cell),
        ("not reached", 1) => paint.dim(cell),
        (_, _) => cell.into(),
    }));
    if !view.kept.is_empty() {
        text.push_str(&format!("\n{}\n", paint.bold("kept messages")));
        let kept = view.kept.iter().map(|kept| {
            let number = format!("  #{}", kept.number);
            vec![number, kept.standing.clone(), tame(&kept.name), short(&kept.text)]
        });
        let kept: Vec<_> = kept.collect();
        text.push_str(&table(&kept, |_, _, cell| match cell {
            "quarantined" => paint.red(cell),
            "parked" => paint.yellow(cell),
            _ => cell.into(),
        }));
    }
    text.push_str(&format!("\n{}\n", paint.bold("data")));
    let data = serde_json::to_string_pretty(&view.data).unwrap_or_default();
    data.lines().for_each(|line| text.push_str(&format!("  {}\n", tame(line))));
    text.push_str(&format!("\n{}\n", paint.bold("history")));
    if view.history_forgotten > 0 {
        let gone = view.history_forgotten;
        text.push_str(&format!("  {}\n", paint.dim(format!("({gone} older lines are not kept)"))));
    }
    let mut undoing = BTreeSet::new();
    let mut lines = Vec::with_capacity(view.history.len());
    for line in &view.history {
        lines.push(history_row(view, line, &undoing));
        let asked = line.sent.iter().filter(|(_, leg, _)| *leg == Leg::Compensate);
        undoing.extend(asked.map(|(node, ..)| *node));
    }
    text.push_str(&table(&lines, |row, column, cell| match (view.history[row].verdict, column) {
        (Verdict::Ignored(_) | Verdict::Duplicate, _) | (_, 0) => paint.dim(cell),
        (Verdict::Applied | Verdict::Deferred, _) => cell.into(),
    }));
    text
}

/// Whether a name was made up for a sequence, which has none of its own: no name that is given holds a slash.
fn is_inner(name: &str) -> bool {
    name == "saga" || name.contains('/')
}

/// `undoing` are the steps whose compensation was sent before: success there means that it was carried out.
fn history_row(view: &InstanceView, line: &Line, undoing: &BTreeSet<NodeId>) -> Vec<String> {
    let name = |node: NodeId| {
        let node = view.nodes.get(node.index());
        node.map_or_else(|| "?".into(), |node| node.name.clone())
    };
    let mut told = Vec::new();
    match line.verdict {
        Verdict::Applied => {}
        Verdict::Deferred => told.push("kept for later".into()),
        Verdict::Duplicate => told.push("ignored: it came before".into()),
        Verdict::Ignored(because) => told.push(format!("ignored: {}", why(because))),
    }
    told.extend(line.note.as_deref().map(short));
    for (node, leg, attempt) in &line.sent {
        let verb = match leg {
            Leg::Do => "asks",
            Leg::Compensate => "compensates",
            Leg::Status => "asks the status of",
        };
        let again = if *attempt > 1 { format!(" (attempt {attempt})") } else { String::new() };
        told.push(format!("{verb} {}{again}", name(*node)));
    }
    vec![
        format!("  +{}", span(line.at.since(view.started_at))),
        what(line, undoing).into(),
        line.node.map(name).unwrap_or_default(),
        told.join("; "),
    ]
}

fn what(line: &Line, undoing: &BTreeSet<NodeId>) -> &'static str {
    // Only what was applied: a late answer to the command itself is ignored once its compensation is out.
    let undone =
        line.verdict == Verdict::Applied && line.node.is_some_and(|node| undoing.contains(&node));
    match line.what {
        What::Started => "started",
        What::Succeeded if undone => "compensated",
        What::Succeeded => "succeeded",
        What::Rejected => "rejected",
        What::Failed => "failed",
        What::Event => "event",
        What::TimedOut => "timed out",
        What::Woke => "woke",
        What::Unsent => "unsent",
        What::Cancelled => "cancelled",
        What::Operator => "operator",
        What::NotDone => "not done",
        What::Unknown => "unknown",
        What::Held => "held",
        What::Unheard => "unheard",
    }
}

/// Why an input did not matter, for people.
pub(super) fn why(why: Why) -> &'static str {
    match why {
        Why::HasEnded => "the instance has ended",
        Why::NotAsked => "the step was never asked",
        Why::AlreadySettled => "the step was settled in another way",
        Why::EarlierAttempt => "it answers an earlier attempt",
        Why::OtherKey => "it answers another effect",
        Why::NotAwaited => "nobody waits for it any more",
        Why::TooManyEarly => "too many events are kept already",
        Why::PastPivot => {
            "the point of no return has been asked for: it only goes forward from here"
        }
        Why::TurningBackAlready => "it turns back already",
        Why::NothingDue => "nothing was due",
        Why::NoIncident => "the step has nothing that waits for an operator",
    }
}

/// A span of time in two parts at the most: `27ms`, `3.2s`, `4m 10s`, `2d 3h`.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes, seconds) {
        (0, 0, 0, 0) => format!("{}ms", span.subsec_millis()),
        (0, 0, 0, seconds) => format!("{seconds}.{}s", span.subsec_millis() / 100),
        (0, 0, minutes, _) => format!("{minutes}m {}s", seconds % 60),
        (0, hours, minutes, _) => format!("{hours}h {minutes}m"),
        (days, hours, ..) => format!("{days}d {hours}h"),
    }
}

/// How long ago, without parts of a second: nobody reads as fast as they pass.
pub(super) fn ago(past: Duration) -> String {
    match past.as_secs() {
        0 => "just now".into(),
        seconds @ 1..60 => format!("{seconds}s ago"),
        _ => format!("{} ago", span(past)),
    }
}

pub(super) fn due_in(due: Timestamp, now: Timestamp) -> String {
    if due > now { format!("in {}", span(due.since(now))) } else { "now".into() }
}

/// Each setting with its value and who said it.
pub(super) fn settings(settings: &Settings, paint: Paint) -> String {
    let row = |(key, value, origin): &(String, String, String)| {
        vec![key.clone(), tame(value), origin.clone()]
    };
    let mut rows = vec![vec!["SETTING".into(), "VALUE".into(), "SAID BY".into()]];
    rows.extend(settings.shown.iter().map(row));
    table(&rows, |row, column, cell| match (row, column, cell) {
        (0, ..) | (_, 2, "default") => paint.dim(cell),
        (_, _, cell) => cell.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::NodeView;
    use dirigent_model::{instance::InstanceId, message::Key};

    #[test]
    fn spans_read_as_people_say_them() {
        for (millis, said) in [
            (0, "0ms"),
            (27, "27ms"),
            (3_207, "3.2s"),
            (250_000, "4m 10s"),
            (7_260_000, "2h 1m"),
            (183_600_000, "2d 3h"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), said);
        }
        assert_eq!(ago(Duration::from_millis(999)), "just now");
        assert_eq!(ago(Duration::from_millis(27_479)), "27s ago");
        assert_eq!(ago(Duration::from_secs(250)), "4m 10s ago");
    }
    #[test]
    fn a_compensated_instance_tells_what_was_taken_back() {
        let node = |name: &str, state: &str| NodeView { name: name.into(), state: state.into() };
        let line = |at, what, node: Option<u16>, verdict, sent: &[(u16, Leg)]| Line {
            at: Timestamp(at),
            what,
            node: node.map(NodeId),
            cause: None,
            verdict,
            sent: sent.iter().map(|(node, leg)| (NodeId(*node), *leg, 1)).collect(),
            note: None,
        };
        let undo = [(1, Leg::Compensate)];
        let key = Key::from(String::from("5"));
        let view = InstanceView {
            id: InstanceId::of("order", &key),
            saga: "order".into(),
            version: 1,
            key,
            run: 0,
            status: "compensated".into(),
            cause: None,
            incidents: Vec::new(),
            held_by: None,
            started_at: Timestamp(0),
            ended_at: Some(Timestamp(23)),
            kept_until: None,
            due: None,
            trace: String::new(),
            nodes: vec![
                node("saga", "turned back"),
                node("reserve-stock", "compensated"),
                node("needs-approval/0", "not reached"),
            ],
            data: serde_json::Value::Null,
            history: vec![
                line(0, What::Started, None, Verdict::Applied, &[(1, Leg::Do)]),
                line(9, What::Succeeded, Some(1), Verdict::Applied, &undo),
                line(15, What::Succeeded, Some(1), Verdict::Duplicate, &[]),
                line(23, What::Succeeded, Some(1), Verdict::Applied, &[]),
            ],
            history_forgotten: 0,
            kept: Vec::new(),
        };
        let text = instance(&view, Timestamp(4_000), Paint::plain());
        let (steps, history) = text.split_once("history\n").unwrap();
        assert!(!steps.contains("needs-approval/0") && !steps.contains("turned back"), "{steps}");
        let told: Vec<Vec<&str>> =
            history.lines().map(|line| line.split_whitespace().skip(1).collect()).collect();
        assert_eq!(told[1][..2], ["succeeded", "reserve-stock"]);
        assert_eq!(told[2][..2], ["succeeded", "reserve-stock"], "ignored: {text}");
        assert_eq!(told[3], ["compensated", "reserve-stock"]);
    }
}
