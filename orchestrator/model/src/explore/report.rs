//! What was found: a summary, and each violation with a shortest sequence that leads to it, as text and as a diagram.

use super::{
    Bounds,
    symbols::{Choices, Move, Symbols, Word},
};
use crate::{
    decision::{Decision, Effect, Hold},
    definition::{Fingerprint, Graph, NodeId, plain},
    history::Verdict,
    instance::{Core, Leg, Next, NodeState, Status},
    message::FailureEffect,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The outcome of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[must_use]
pub struct Checked {
    /// The definition's name.
    pub definition: String,
    /// Its version.
    pub version: u32,
    /// The hash of the shape that was checked. As text: readers of JSON in other languages round numbers of 64 bits.
    #[serde(with = "fingerprint_text")]
    pub fingerprint: Fingerprint,
    /// States found.
    pub states: usize,
    /// Inputs applied, those that change nothing included.
    pub transitions: u64,
    /// How far was looked.
    pub bounds: Bounds,
    /// Whether every state within the bounds was looked at.
    pub exhausted: bool,
    /// What must not be, the shortest sequences first.
    pub violations: Vec<Violation>,
}

mod fingerprint_text {
    use crate::definition::Fingerprint;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(one: &Fingerprint, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(one)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Fingerprint, D::Error> {
        let text = String::deserialize(from)?;
        u64::from_str_radix(&text, 16).map(Fingerprint).map_err(D::Error::custom)
    }
}

impl Checked {
    /// Whether every state was looked at and nothing was found.
    pub fn is_sound(&self) -> bool {
        self.exhausted && self.violations.is_empty()
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { definition, version, bounds, .. } = self;
        let states = grouped(self.states as u64);
        let transitions = grouped(self.transitions);
        let plural = if bounds.attempts_max == 1 { "" } else { "s" };
        let how = if self.exhausted {
            "every order of inputs explored"
        } else if self.states > bounds.states_max {
            "NOT EXHAUSTED, the bound on states was reached"
        } else {
            "NOT EXHAUSTED, stopped at inputs that can't be decided"
        };
        write!(
            f,
            "{definition} v{version}: {states} states, {transitions} transitions, {how} (≤ {} attempt{plural} per command{}): ",
            bounds.attempts_max,
            if bounds.holds { "" } else { ", none of them held" },
        )?;
        match self.violations.len() {
            0 if self.exhausted => write!(f, "no violation")?,
            0 => write!(f, "no violation so far")?,
            1 => write!(f, "1 violation")?,
            count => write!(f, "{count} violations")?,
        }
        self.violations.iter().try_for_each(|violation| write!(f, "\n\n{violation}"))
    }
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 2);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Kinds of violations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ViolationKind {
    /// The graph's nodes do not lie in one another as they must; nothing was explored.
    Malformed,
    /// It can't be declared like this: the builder would refuse it.
    Refused,
    /// An input was refused, or made the transition panic.
    Panicked,
    /// An input that did not count changed something: a reply was accepted twice, or after it was settled.
    AcceptedTwice,
    /// Something took effect and stays where the saga ends compensated.
    LeftUncompensated,
    /// Something may have taken effect, or may still, where the saga ends compensated.
    LeftInDoubt,
    /// A step was compensated that certainly took no effect, or a second time.
    CompensatedWithoutEffect,
    /// A step was compensated before one that depended on it.
    CompensatedOutOfOrder,
    /// A step was compensated after the pivot was done.
    CompensatedAfterPivot,
    /// A step was compensated though the saga had not turned back.
    CompensatedGoingForward,
    /// A step was compensated while a command was still out.
    CompensationRacesCommand,
    /// A participant was asked what became of a command that was still out, or about which nothing was in doubt.
    AskedWithoutDoubt,
    /// A forward command left, or the saga went on, after it had turned back.
    ForwardAfterTurningBack,
    /// The saga completed though part of its path was not done.
    CompletedTooSoon,
    /// A command was sent though its destination held it, released otherwise than once, or as another attempt.
    HeldWrongly,
    /// No end can be reached any more.
    NeverEnds,
    /// Nothing is awaited, nothing is due, and it is no end.
    Stands,
}

impl fmt::Display for ViolationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "malformed graph",
            Self::Refused => "refused when it is declared",
            Self::Panicked => "an input can't be decided",
            Self::AcceptedTwice => "accepted though it did not count",
            Self::LeftUncompensated => "left uncompensated",
            Self::LeftInDoubt => "left in doubt",
            Self::CompensatedWithoutEffect => "compensated without effect",
            Self::CompensatedOutOfOrder => "compensated out of order",
            Self::CompensatedAfterPivot => "compensated after the pivot",
            Self::CompensatedGoingForward => "compensated going forward",
            Self::CompensationRacesCommand => "a compensation races a command",
            Self::AskedWithoutDoubt => "asked though nothing was in doubt",
            Self::ForwardAfterTurningBack => "forward after turning back",
            Self::CompletedTooSoon => "completed too soon",
            Self::HeldWrongly => "held wrongly",
            Self::NeverEnds => "never ends",
            Self::Stands => "stands still",
        })
    }
}

/// What must not be, before its sequence is known.
pub(super) struct Finding {
    pub(super) kind: ViolationKind,
    pub(super) node: Option<NodeId>,
    pub(super) text: String,
}

impl Finding {
    pub(super) fn saga(kind: ViolationKind, text: &str) -> Self {
        Self { kind, node: None, text: text.into() }
    }
}

/// What must not be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Which rule is broken.
    pub kind: ViolationKind,
    /// At which block, by name.
    pub node: Option<String>,
    /// What is wrong, for people.
    pub text: String,
    /// A shortest sequence that leads to it.
    pub sequence: Vec<Line>,
}

/// One input of a sequence, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Who it came from: a channel or `operator`; `None` for time passing.
    pub from: Option<String>,
    /// What came in.
    pub input: String,
    /// What was sent then.
    pub sent: Vec<Sent>,
    /// What is known of blocks now, where that changed.
    pub changes: Vec<String>,
    /// Where the saga stands; `None` where no decision was reached.
    pub status: Option<Status>,
}

/// A message sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// The channel.
    pub to: String,
    /// The message, for people.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.text)?;
        for (at, line) in self.sequence.iter().enumerate() {
            write!(f, "\n{:>3}. {line}", at + 1)?;
        }
        Ok(())
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.input)?;
        for sent in &self.sent {
            write!(f, "\n       sends   {} to {}", sent.text, sent.to)?;
        }
        for change in &self.changes {
            write!(f, "\n       now     {change}")?;
        }
        match self.status {
            Some(status) => write!(f, "\n       saga    {status}"),
            None => Ok(()),
        }
    }
}

impl Violation {
    /// The sequence as a Mermaid `sequenceDiagram`.
    pub fn to_mermaid(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for line in &self.sequence {
            let named =
                line.from.as_deref().into_iter().chain(line.sent.iter().map(|sent| &*sent.to));
            for name in named {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        let place = |name: &str| names.iter().position(|known| *known == name).unwrap_or_default();
        let mut text = String::from("sequenceDiagram\n    participant saga\n");
        for (at, name) in names.iter().enumerate() {
            text += &format!("    participant p{at} as {}\n", plain(name));
        }
        let mut status = None;
        for line in &self.sequence {
            text += &match &line.from {
                Some(from) => format!("    p{}->>saga: {}\n", place(from), plain(&line.input)),
                None => format!("    Note over saga: {}\n", plain(&line.input)),
            };
            for sent in &line.sent {
                text += &format!("    saga->>p{}: {}\n", place(&sent.to), plain(&sent.text));
            }
            if line.status != status {
                status = line.status;
                if let Some(status) = status {
                    text += &format!("    Note over saga: {status}\n");
                }
            }
        }
        text + &format!("    Note over saga: VIOLATION {}\n", plain(&self.text))
    }
}

/// Goes along a sequence once more, and tells it.
pub(super) fn tell<'a>(
    symbols: &Symbols,
    path: impl Iterator<Item = (Move, &'a Choices)>,
) -> Vec<Line> {
    let mut core = symbols.unstarted().core;
    let mut lines = Vec::new();
    for (by, choices) in path {
        let (from, input) = described(symbols, &core, by);
        let decided = match by {
            Move::Start => symbols.start(choices),
            _ => symbols.apply_choosing(&core, by, choices),
        };
        match decided {
            Ok(decision) => {
                lines.push(told(symbols.graph(), from, input, &core, &decision));
                core = decision.instance.core.calmed();
            }
            Err(text) => {
                let input = format!("{input}: {text}");
                let (sent, changes) = (Vec::new(), Vec::new());
                lines.push(Line { from, input, sent, changes, status: None });
            }
        }
    }
    lines
}

fn told(
    graph: &Graph,
    from: Option<String>,
    input: String,
    before: &Core,
    decision: &Decision,
) -> Line {
    let after = &decision.instance.core;
    let sent = decision.effects.iter().map(|effect| match effect {
        Effect::Command(command) => {
            let name = graph.name_of(command.node);
            let back = of_leg(command.leg);
            let again = match command.attempt {
                1 => String::new(),
                attempt => format!(", attempt {attempt}"),
            };
            let text = format!("{} ({back}{name}{again})", command.name);
            Sent { to: command.channel.clone(), text }
        }
        Effect::Publish { channel, name, .. } => Sent { to: channel.clone(), text: name.clone() },
    });
    let changes = graph.ids().filter_map(|id| {
        let (was, is) = (before.state(id), after.state(id));
        let text = state_text(graph, id, is)?;
        (Some(&text) != state_text(graph, id, was).as_ref())
            .then(|| format!("{}: {text}", graph.name_of(id)))
    });
    let mut changes: Vec<String> = changes.collect();
    if let Verdict::Ignored(why) = decision.verdict {
        changes.push(format!("ignored: {}", why.as_str()));
    }
    Line { from, input, sent: sent.collect(), changes, status: Some(after.status) }
}

/// What is known of a block, in words; `None` where there is nothing to tell.
fn state_text(graph: &Graph, id: NodeId, state: &NodeState) -> Option<String> {
    let is_container = graph.step(id).is_none() && !graph.children(id).is_empty();
    Some(match state {
        NodeState::Idle | NodeState::Entered => return None,
        NodeState::Done(_) if is_container => return None,
        NodeState::Chosen(None) => "goes on at once".into(),
        NodeState::Chosen(Some(place)) => match &graph.node(id).kind {
            crate::definition::Kind::Choose { arms, .. } => {
                let label = arms.get(usize::from(*place)).map(|arm| arm.label.as_str());
                format!("takes {}", label.unwrap_or("otherwise"))
            }
            _ => return None,
        },
        NodeState::Open(ask) => match ask.next {
            Next::GiveUp(_) => format!("attempt {} is out", ask.attempt),
            Next::AskAgain(_) => format!("rests after attempt {}", ask.attempt),
            Next::Held(_) => format!("attempt {} is held", ask.attempt),
        },
        NodeState::Waiting { .. } => "waiting".into(),
        NodeState::Done(_) => "done".into(),
        NodeState::InQuestion(question) => match question.ask.next {
            Next::GiveUp(_) => format!("question {} about its status is out", question.ask.attempt),
            Next::AskAgain(_) => format!("rests after question {}", question.ask.attempt),
            Next::Held(_) => format!("question {} about its status is held", question.ask.attempt),
        },
        NodeState::InDoubt => "in doubt".into(),
        NodeState::NoEffect(_) => "no effect".into(),
        NodeState::Ended => "ended without success".into(),
        NodeState::Undoing(_, ask) => match ask.next {
            Next::GiveUp(_) => format!("attempt {} to compensate is out", ask.attempt),
            Next::AskAgain(_) => format!("rests after attempt {} to compensate", ask.attempt),
            Next::Held(_) => format!("attempt {} to compensate is held", ask.attempt),
        },
        NodeState::Stuck(..) => "compensation given up, incident".into(),
        NodeState::Undone => "undone".into(),
        NodeState::Resolved => "resolved by an operator".into(),
    })
}

/// Which command of a step is meant.
fn of_leg(leg: Leg) -> &'static str {
    match leg {
        Leg::Do => "",
        Leg::Compensate => "compensation of ",
        Leg::Status => "status of ",
    }
}

/// Who an input comes from, and what it says.
fn described(symbols: &Symbols, core: &Core, by: Move) -> (Option<String>, String) {
    let graph = symbols.graph();
    let channel = |node: NodeId, leg: Leg| {
        let step = graph.step(node)?;
        Some(match (leg, &step.way_back) {
            (Leg::Compensate, crate::definition::WayBack::Compensated { command, .. }) => {
                command.channel.clone()
            }
            _ => step.command.channel.clone(),
        })
    };
    let of = |node: NodeId, leg: Leg| format!("{}{}", of_leg(leg), graph.name_of(node));
    let operator = || Some("operator".to_owned());
    match by {
        Move::Start => (Some(graph.start.channel.clone()), format!("{} starts it", graph.start)),
        Move::Reply(node, leg, word) => {
            (channel(node, leg), format!("{} {}", of(node, leg), word_text(word)))
        }
        Move::Unawaited(node, leg, word) => {
            (channel(node, leg), format!("{} {}, unawaited", of(node, leg), word_text(word)))
        }
        Move::Stale(node, leg) => {
            (channel(node, leg), format!("{}: an earlier attempt fails", of(node, leg)))
        }
        Move::Due(None) => (None, "the deadline of the saga is reached".into()),
        Move::Due(Some(node)) => (
            None,
            match core.state(node) {
                NodeState::Open(ask) | NodeState::Undoing(_, ask) => {
                    let back = matches!(core.state(node), NodeState::Undoing(..));
                    let name = of(node, if back { Leg::Compensate } else { Leg::Do });
                    match ask.next {
                        Next::GiveUp(_) => format!("{name}: no reply in time"),
                        Next::AskAgain(_) => format!("{name}: time to ask again"),
                        Next::Held(_) => format!("{name}: time to ask its destination again"),
                    }
                }
                NodeState::InQuestion(question) => {
                    let name = of(node, Leg::Status);
                    match question.ask.next {
                        Next::GiveUp(_) => format!("{name}: no reply in time"),
                        Next::AskAgain(_) => format!("{name}: time to ask again"),
                        Next::Held(_) => format!("{name}: time to ask its destination again"),
                    }
                }
                _ => format!("{}: the time is over", graph.name_of(node)),
            },
        ),
        Move::Event(place) => {
            let name = symbols.event(place);
            let event = graph.events_awaited().find(|event| event.name == name);
            (event.map(|event| event.channel.clone()), format!("event {name}"))
        }
        Move::Unsent(node, leg) => {
            (None, format!("{}: the command can't be handed to the broker", of(node, leg)))
        }
        Move::Held(node, leg, Hold::Queued) => {
            (None, format!("{}: the command waits for its turn at its destination", of(node, leg)))
        }
        Move::Held(node, leg, Hold::GivenBack) => {
            (None, format!("{}: its destination is held, the command is given back", of(node, leg)))
        }
        Move::Held(node, leg, Hold::Left) => {
            (None, format!("{}: no reply in time, and its destination is held", of(node, leg)))
        }
        Move::HeldFailure(node, leg, effect) => {
            let word = word_text(Word::Failure { retriable: true, effect });
            (channel(node, leg), format!("{} {word}, and its destination is held", of(node, leg)))
        }
        Move::Unheard(node) => (
            None,
            format!(
                "{}: the time is over, but its event could not have been heard",
                graph.name_of(node)
            ),
        ),
        Move::Cancel => (operator(), "cancel".into()),
        Move::Kill => (operator(), "kill".into()),
        Move::Retry(node) => (operator(), format!("retry {}", graph.name_of(node))),
        Move::Resolve(node) => (operator(), format!("resolve {}", graph.name_of(node))),
    }
}

fn word_text(word: Word) -> &'static str {
    match word {
        Word::Success => "succeeds",
        Word::Rejection => "is rejected",
        Word::NotDone => "was not done, and is refused from now on",
        Word::Unknown => "is unknown",
        Word::Failure { retriable: true, effect: FailureEffect::None } => {
            "fails without effect, asking again may help"
        }
        Word::Failure { retriable: true, effect: FailureEffect::Unknown } => {
            "fails with unknown effect, asking again may help"
        }
        Word::Failure { retriable: false, effect: FailureEffect::None } => {
            "fails for good without effect"
        }
        Word::Failure { retriable: false, effect: FailureEffect::Unknown } => {
            "fails for good with unknown effect"
        }
    }
}
