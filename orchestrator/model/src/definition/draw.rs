//! The graph for people and tools: a Mermaid flowchart, Graphviz dot, JSON.
//!
//! `Drawing` decides what is drawn; the two printers only spell it. Whatever a label says, it stays inside its node.

use super::{
    fingerprint::Fingerprint,
    graph::{Graph, Kind, NodeId, OnTimeout, Step, WayBack},
};
use serde::Serialize;
use std::{fmt::Write, time::Duration};

impl Graph {
    /// A Mermaid flowchart. Solid arrows go forward; dotted ones turn back or lead to a compensation.
    pub fn to_mermaid(&self) -> String {
        Drawing::of(self).mermaid()
    }

    /// A Graphviz digraph of the same.
    pub fn to_dot(&self) -> String {
        Drawing::of(self).dot()
    }

    /// The graph and its fingerprint as indented JSON: `{ "fingerprint": "…", "graph": { … } }`.
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Printed<'a> {
            fingerprint: String,
            graph: &'a Graph,
        }
        let printed = Printed { fingerprint: Fingerprint::of(self).to_string(), graph: self };
        serde_json::to_string_pretty(&printed).expect("a graph can be written as JSON")
    }
}

/// How a node looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Start,
    Completed,
    Failed,
    Step,
    Pivot,
    Retriable,
    Wait,
    Pause,
    Publish,
    Choice,
    Fork,
    Join,
    Compensation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Solid,
    /// Turning back.
    Dotted,
    /// A compensation beside its step.
    Beside,
}

struct Shape {
    id: String,
    look: Look,
    /// Each on a line of its own.
    label: Vec<String>,
}

struct Arc {
    from: String,
    to: String,
    line: Line,
    label: String,
}

/// Where a path goes on from, and under which label.
type Loose = Vec<(String, String)>;

struct Drawing<'a> {
    graph: &'a Graph,
    shapes: Vec<Shape>,
    arcs: Vec<Arc>,
}

impl<'a> Drawing<'a> {
    fn of(graph: &'a Graph) -> Self {
        let mut drawing = Self { graph, shapes: Vec::new(), arcs: Vec::new() };
        let start = vec![graph.start.name.clone(), format!("on {}", graph.start.channel)];
        drawing.shape("start", Look::Start, start);
        let loose = drawing.lay(Graph::ROOT, vec![("start".into(), String::new())]);
        let told = |event: &Option<super::MessageRef>, end: &str| {
            std::iter::once(end.to_owned()).chain(event.as_ref().map(ToString::to_string)).collect()
        };
        drawing.shape("completed", Look::Completed, told(&graph.ends.completed, "completed"));
        drawing.join(loose, "completed");
        let cancels = graph.cancelled_by.iter().map(|event| event.name.clone());
        let deadline = graph.deadline.map(|span| format!("after {}", span_text(span)));
        let causes: Vec<String> = cancels.chain(deadline).collect();
        if !causes.is_empty() {
            drawing.arc("start", "failed", Line::Dotted, &causes.join(", "));
        }
        if drawing.arcs.iter().any(|arc| arc.to == "failed") {
            drawing.shape("failed", Look::Failed, told(&graph.ends.failed, "compensated"));
        }
        drawing
    }

    fn shape(&mut self, id: &str, look: Look, label: Vec<String>) {
        self.shapes.push(Shape { id: id.into(), look, label });
    }

    fn arc(&mut self, from: &str, to: &str, line: Line, label: &str) {
        self.arcs.push(Arc { from: from.into(), to: to.into(), line, label: label.into() });
    }

    fn join(&mut self, loose: Loose, to: &str) {
        for (from, label) in loose {
            self.arc(&from, to, Line::Solid, &label);
        }
    }

    /// Draws a block behind loose ends, and returns those it leaves.
    fn lay(&mut self, node: NodeId, before: Loose) -> Loose {
        let graph = self.graph;
        let name = graph.name_of(node).to_owned();
        let id = format!("n{}", node.0);
        let (look, mut label) = match &graph.node(node).kind {
            Kind::Sequence { children } => {
                return children.iter().fold(before, |loose, child| self.lay(*child, loose));
            }
            Kind::All { branches } => {
                self.shape(&id, Look::Fork, vec![name, "all of".into()]);
                self.join(before, &id);
                let loose: Loose = branches
                    .iter()
                    .flat_map(|branch| self.lay(*branch, vec![(id.clone(), String::new())]))
                    .collect();
                let end = format!("j{}", node.0);
                self.shape(&end, Look::Join, Vec::new());
                self.join(loose, &end);
                return vec![(end, String::new())];
            }
            Kind::Choose { arms, otherwise } => {
                self.shape(&id, Look::Choice, vec![name]);
                self.join(before, &id);
                let mut loose = Loose::new();
                for arm in arms {
                    loose.extend(self.lay(arm.node, vec![(id.clone(), arm.label.clone())]));
                }
                let label =
                    if arms.len() == 1 && arms[0].label == "yes" { "no" } else { "otherwise" };
                let rest = vec![(id.clone(), label.to_owned())];
                loose.extend(match otherwise {
                    Some(inner) => self.lay(*inner, rest),
                    None => rest,
                });
                return loose;
            }
            Kind::Step(step) => self.step(&id, step),
            Kind::Wait { event, refusing, within, on_timeout } => {
                let within = span_text(*within);
                let mut label = vec![format!("awaits {event} from {}", event.channel)];
                let mut back: Vec<String> = refusing.iter().map(ToString::to_string).collect();
                match on_timeout {
                    OnTimeout::Reject => back.push(format!("none within {within}")),
                    OnTimeout::Proceed => label.push(format!("goes on without it after {within}")),
                }
                if !back.is_empty() {
                    self.arc(&id, "failed", Line::Dotted, &back.join(", "));
                }
                (Look::Wait, label)
            }
            Kind::Publish { event } => {
                (Look::Publish, vec![format!("publishes {event} on {}", event.channel)])
            }
            Kind::Pause { span } => (Look::Pause, vec![format!("for {}", span_text(*span))]),
        };
        label.insert(0, name);
        self.shape(&id, look, label);
        self.join(before, &id);
        vec![(id, String::new())]
    }

    fn step(&mut self, id: &str, step: &Step) -> (Look, Vec<String>) {
        let mut label = vec![
            format!("{} to {}", step.command, step.command.channel),
            format!("reply within {}", span_text(step.reply_within)),
        ];
        if let Some(status) = &step.status {
            label.push(format!("else asks its status, within {}", span_text(status.reply_within)));
        }
        if let Some(rejection) = &step.rejection {
            self.arc(id, "failed", Line::Dotted, rejection);
        }
        let look = match &step.way_back {
            WayBack::Compensated { command, .. } => {
                let undo = format!("u{}", &id[1..]);
                let text = vec![command.name.clone(), format!("to {}", command.channel)];
                self.shape(&undo, Look::Compensation, text);
                self.arc(id, &undo, Line::Beside, "compensated by");
                Look::Step
            }
            WayBack::Nothing { reason } if reason.trim().is_empty() => {
                label.push("NO COMPENSATION, no reason written".into());
                Look::Step
            }
            WayBack::Nothing { reason } => {
                label.push(format!("nothing to compensate: {reason}"));
                Look::Step
            }
            WayBack::Pivot => {
                label.push("pivot: no way back".into());
                Look::Pivot
            }
            WayBack::Retriable => {
                label.push("asked until done".into());
                Look::Retriable
            }
        };
        (look, label)
    }

    fn mermaid(&self) -> String {
        let mut text = String::from("flowchart TD\n");
        for Shape { id, look, label } in &self.shapes {
            let label: Vec<String> = label.iter().map(|line| plain(line)).collect();
            let label = if label.is_empty() { " ".into() } else { label.join("<br/>") };
            let (open, close, class) = match look {
                Look::Start => ("([", "])", "start"),
                Look::Completed => ("([", "])", "completed"),
                Look::Failed => ("([", "])", "failed"),
                Look::Step => ("[", "]", "step"),
                Look::Pivot => ("{{", "}}", "pivot"),
                Look::Retriable => ("(", ")", "retriable"),
                Look::Wait => ("[/", "/]", "wait"),
                Look::Pause => ("[\\", "\\]", "wait"),
                Look::Publish => (">", "]", "publish"),
                Look::Choice => ("{", "}", "choice"),
                Look::Fork => ("[[", "]]", "parallel"),
                Look::Join => ("((", "))", "parallel"),
                Look::Compensation => ("[", "]", "compensation"),
            };
            put(&mut text, format_args!("    {id}{open}\"{label}\"{close}:::{class}"));
        }
        for Arc { from, to, line, label } in &self.arcs {
            let arrow = if *line == Line::Solid { "-->" } else { "-.->" };
            let label =
                if label.is_empty() { String::new() } else { format!("|\"{}\"|", plain(label)) };
            put(&mut text, format_args!("    {from} {arrow}{label} {to}"));
        }
        for (class, style) in STYLES {
            put(&mut text, format_args!("    classDef {class} {style}"));
        }
        text
    }

    fn dot(&self) -> String {
        let title = format!("{} v{}", self.graph.name, self.graph.version);
        let mut text = String::new();
        put(&mut text, format_args!("digraph {} {{", quoted(std::slice::from_ref(&title))));
        put(
            &mut text,
            format_args!(
                "    label={}; labelloc=t; fontname=\"Helvetica\"; nodesep=0.4; ranksep=0.45;",
                quoted(&[title])
            ),
        );
        text += "    node [fontname=\"Helvetica\", fontsize=11, style=\"filled\", fillcolor=\"#ffffff\", color=\"#57606a\"];\n";
        text += "    edge [fontname=\"Helvetica\", fontsize=10, color=\"#57606a\"];\n";
        for Shape { id, look, label } in &self.shapes {
            let look = match look {
                Look::Start => "shape=box, style=\"rounded,filled\", fillcolor=\"#ddf4ff\"",
                Look::Completed => "shape=box, style=\"rounded,filled\", fillcolor=\"#dafbe1\"",
                Look::Failed => "shape=box, style=\"rounded,filled\", fillcolor=\"#ffebe9\"",
                Look::Step => "shape=box",
                Look::Pivot => {
                    "shape=hexagon, penwidth=2, fillcolor=\"#fff8c5\", color=\"#9a6700\""
                }
                Look::Retriable => "shape=box, style=\"rounded,filled\", fillcolor=\"#dafbe1\"",
                Look::Wait | Look::Pause => "shape=note, fillcolor=\"#f6f8fa\"",
                Look::Publish => "shape=cds, fillcolor=\"#ddf4ff\"",
                Look::Choice => "shape=diamond, fillcolor=\"#fbefff\"",
                Look::Fork => "shape=box, style=\"filled,bold\", fillcolor=\"#eaeef2\"",
                Look::Join => "shape=circle, width=0.15, fixedsize=true, fillcolor=\"#57606a\"",
                Look::Compensation => {
                    "shape=box, style=\"dashed,filled\", fillcolor=\"#ffebe9\", color=\"#cf222e\""
                }
            };
            put(&mut text, format_args!("    {id} [label={}, {look}];", quoted(label)));
        }
        for Arc { from, to, line, label } in &self.arcs {
            let label = quoted(std::slice::from_ref(label));
            let look = match line {
                Line::Solid => ", weight=5",
                Line::Dotted | Line::Beside => {
                    ", style=dotted, color=\"#cf222e\", fontcolor=\"#cf222e\""
                }
            };
            put(&mut text, format_args!("    {from} -> {to} [label={label}{look}];"));
            if *line == Line::Beside {
                put(&mut text, format_args!("    {{ rank=same; {from}; {to}; }}"));
            }
        }
        if self.shapes.iter().any(|shape| shape.look == Look::Failed) {
            text += "    { rank=same; completed; failed; }\n";
        }
        text + "}\n"
    }
}

const STYLES: [(&str, &str); 11] = [
    ("start", "fill:#ddf4ff,stroke:#57606a"),
    ("completed", "fill:#dafbe1,stroke:#57606a"),
    ("failed", "fill:#ffebe9,stroke:#cf222e"),
    ("step", "fill:#ffffff,stroke:#57606a"),
    ("pivot", "fill:#fff8c5,stroke:#9a6700,stroke-width:3px"),
    ("retriable", "fill:#dafbe1,stroke:#57606a"),
    ("wait", "fill:#f6f8fa,stroke:#57606a"),
    ("publish", "fill:#ddf4ff,stroke:#57606a"),
    ("choice", "fill:#fbefff,stroke:#57606a"),
    ("parallel", "fill:#eaeef2,stroke:#57606a,stroke-width:2px"),
    ("compensation", "fill:#ffebe9,stroke:#cf222e,stroke-dasharray:4 3"),
];

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("writing to a string does not fail");
}

/// Text that Mermaid takes as nothing but text: letters, digits and harmless marks stay, the rest is spelled as a code.
pub(crate) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            letter if letter.is_alphanumeric() => out.push(letter),
            ' ' | '-' | '_' | '.' | ',' | ':' | '/' | '(' | ')' | '→' | '≤' => out.push(letter),
            letter if is_break(letter) => out.push(' '),
            letter => {
                write!(out, "#{};", u32::from(letter)).expect("writing to a string does not fail");
            }
        }
    }
    out
}

/// A string of dot, each part on a line of its own.
fn quoted(lines: &[String]) -> String {
    let mut out = String::from("\"");
    for (at, line) in lines.iter().enumerate() {
        if at > 0 {
            out += "\\n";
        }
        for letter in line.chars() {
            match letter {
                '"' | '\\' => out.extend(['\\', letter]),
                letter if is_break(letter) => out.push(' '),
                letter => out.push(letter),
            }
        }
    }
    out.push('"');
    out
}

/// Control characters, and the two separators that some readers take for the end of a line.
fn is_break(letter: char) -> bool {
    letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}')
}

fn span_text(span: Duration) -> String {
    let ms = span.as_millis();
    match ms {
        0 => "0 s".into(),
        _ if ms.is_multiple_of(86_400_000) => format!("{} d", ms / 86_400_000),
        _ if ms.is_multiple_of(3_600_000) => format!("{} h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{} min", ms / 60_000),
        _ if ms.is_multiple_of(1_000) => format!("{} s", ms / 1_000),
        _ => format!("{ms} ms"),
    }
}
