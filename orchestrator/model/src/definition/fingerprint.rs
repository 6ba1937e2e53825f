//! The hash that tells one released shape from another.
//!
//! It covers what a stored instance depends on: nodes in their order, names, kinds, messages, channels, ways back.
//! It leaves out what may be tuned while instances run, since they carry their own due times: durations, retry policies,
//! retention, and the written reason why nothing is compensated.

use super::graph::{Graph, Kind, MessageRef, WayBack};
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write};

/// A hash of a graph's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint(pub u64);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Fingerprint {
    pub(crate) fn of(graph: &Graph) -> Self {
        let text = canonical(graph).expect("writing to a string does not fail");
        let digest = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, text.as_bytes());
        Self(digest.as_u64_pair().0)
    }
}

fn canonical(graph: &Graph) -> Result<String, fmt::Error> {
    let mut text = String::new();
    let message =
        |message: &MessageRef| format!("{}@{}:{:?}", message.name, message.channel, message.format);
    let optional =
        |event: &Option<MessageRef>| event.as_ref().map_or_else(|| "-".to_owned(), message);
    writeln!(
        text,
        "{} {} {} {:?}",
        graph.name,
        graph.version,
        message(&graph.start),
        graph.repeat
    )?;
    writeln!(text, "{} {}", optional(&graph.ends.completed), optional(&graph.ends.failed))?;
    for cancel in &graph.cancelled_by {
        writeln!(text, "cancel {}", message(cancel))?;
    }
    for node in &graph.nodes {
        write!(text, "{} {:?} ", node.name, node.parent.map(|parent| parent.0))?;
        match &node.kind {
            Kind::Sequence { children } => writeln!(text, "sequence {}", children.len())?,
            Kind::All { branches } => writeln!(text, "all {}", branches.len())?,
            Kind::Choose { arms, otherwise } => {
                let labels: Vec<&str> = arms.iter().map(|arm| arm.label.as_str()).collect();
                writeln!(text, "choose {labels:?} {}", otherwise.is_some())?;
            }
            Kind::Wait { event, refusing, on_timeout, .. } => {
                writeln!(text, "wait {} {} {on_timeout:?}", message(event), optional(refusing))?;
            }
            Kind::Publish { event } => writeln!(text, "publish {}", message(event))?,
            Kind::Pause { .. } => writeln!(text, "pause")?,
            Kind::Step(step) => {
                write!(
                    text,
                    "step {} {} {:?} ",
                    message(&step.command),
                    step.success,
                    step.rejection
                )?;
                if step.status.is_some() {
                    write!(text, "status ")?;
                }
                match &step.way_back {
                    WayBack::Compensated { command, success, .. } => {
                        writeln!(text, "compensated {} {success}", message(command))?;
                    }
                    WayBack::Nothing { .. } => writeln!(text, "nothing")?,
                    WayBack::Pivot => writeln!(text, "pivot")?,
                    WayBack::Retriable => writeln!(text, "retriable")?,
                }
            }
        }
    }
    Ok(text)
}
