//! From the facts of a saga's turns to its spans: one tree for each instance, across all services.
//!
//! ```text
//! saga order                         root; emitted when the instance ends
//! ├── intake OrderPlaced             below the sender's span where that belongs to the trace, else below the root
//! │   └── transition applied
//! ├── reserve-stock                  a command: from when it was sent to its reply, timeout, or being unsent
//! │   └── handle ReserveStock        the participant's
//! │       └── intake StockReserved
//! │           └── transition applied
//! └── compensate reserve-stock
//! ```
//!
//! Pure: facts in, spans out. The only memory is which commands are out, to know when their spans began; it is bounded,
//! and a command that is not in it gets a span without length.

use super::{
    Fact, SentCommand, semconv,
    spans::{SpanFact, SpanKind},
};
use dirigent_model::{
    history::{Line, Verdict, What},
    instance::{InstanceId, Leg, Status},
    time::Timestamp,
};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use rustc_hash::FxHashMap;

/// Instances whose commands are known, in each of two generations; the older one goes when the younger is full.
const INSTANCES_KNOWN_MAX: usize = 100_000;

/// A command without an answer yet.
#[derive(Debug)]
struct Open {
    command: SentCommand,
    since: Timestamp,
}

/// What is known of a running instance.
#[derive(Debug, Default)]
struct Known {
    /// Known from its beginning: what is not in `open` is not out.
    whole: bool,
    open: Vec<Open>,
}

/// Makes spans of facts.
pub(super) struct Tree {
    /// What `messaging.system` says; `None` where it is not known.
    system: Option<String>,
    generation_max: usize,
    young: FxHashMap<InstanceId, Known>,
    old: FxHashMap<InstanceId, Known>,
}

impl Tree {
    pub(super) fn new(system: Option<String>) -> Self {
        Self {
            system,
            generation_max: INSTANCES_KNOWN_MAX,
            young: FxHashMap::default(),
            old: FxHashMap::default(),
        }
    }

    /// The spans that are over with this fact, which became durable at `durable_at`.
    pub(super) fn take(&mut self, mut fact: Fact, durable_at: Timestamp) -> Vec<SpanFact> {
        // A turn without a line had nothing to do.
        let Some(line) = fact.line.take() else { return Vec::new() };
        let mut spans = Vec::with_capacity(3 + fact.published.len());
        let transition = self.turn(&fact, &line, durable_at, &mut spans);
        for published in &fact.published {
            let at = (fact.trace.id, published.span);
            let name = format!("publish {}", published.name);
            let span = SpanFact::new(at, SpanKind::Producer, name, line.at, durable_at)
                .under(transition)
                .with(semconv::MESSAGING_OPERATION, "send")
                .with(semconv::MESSAGING_DESTINATION, published.channel.as_str());
            spans.push(self.on_system(of_saga(span, &fact)));
        }
        let mut known = self.known(fact.instance);
        known.whole |= line.what == What::Started && line.verdict == Verdict::Applied;
        for (open, outcome) in closed(&mut known, &fact, &line) {
            spans.push(self.command(&fact, open, line.at, outcome));
        }
        let commands = std::mem::take(&mut fact.commands);
        for command in commands {
            // What was held is sent again as the same attempt, and is the same span.
            if !known.open.iter().any(|open| open.command.span == command.span) {
                known.open.push(Open { command, since: line.at });
            }
        }
        if fact.has_ended {
            for open in std::mem::take(&mut known.open) {
                spans.push(self.command(&fact, open, line.at, Outcome::Abandoned));
            }
            spans.push(root(&fact, line.at));
        } else if !fact.status.is_end() {
            self.remember(fact.instance, known);
        }
        spans
    }

    /// The spans of the turn itself; returns that of the transition.
    fn turn(
        &self,
        fact: &Fact,
        line: &Line,
        until: Timestamp,
        spans: &mut Vec<SpanFact>,
    ) -> [u8; 8] {
        let mut above = fact.root;
        if let Some(message) = &fact.message {
            let at = (fact.trace.id, fresh());
            let name = format!("intake {message}");
            let mut span = SpanFact::new(at, SpanKind::Consumer, name, line.at, until)
                .with(semconv::MESSAGING_OPERATION, "process")
                .with(semconv::MESSAGING_MESSAGE_TYPE, message.as_str());
            span = match fact.caused_by {
                Some((trace, parent)) if trace == fact.trace.id => span.under_remote(parent),
                other => SpanFact { link: other, ..span.under(fact.root) },
            };
            if let Some(channel) = &fact.channel {
                span = span.with(semconv::MESSAGING_DESTINATION, channel.as_str());
            }
            if let Some(id) = &line.cause {
                span = span.with(semconv::MESSAGING_MESSAGE_ID, id.as_str());
            }
            above = at.1;
            spans.push(self.on_system(of_saga(span, fact)));
        }
        let at = (fact.trace.id, fresh());
        let (verdict, why) = verdict_of(line.verdict);
        let name = format!("transition {verdict}");
        let mut span = SpanFact::new(at, SpanKind::Internal, name, line.at, until)
            .under(above)
            .with(semconv::SAGA_INPUT, input_of(line.what))
            .with(semconv::SAGA_VERDICT, verdict)
            .with(semconv::SAGA_STATUS, status_of(fact.status))
            .with(semconv::SAGA_COMMANDS_SENT, fact.commands.len());
        if let Some(why) = why {
            span = span.with(semconv::SAGA_WHY, why);
        }
        if let Some(step) = &fact.step {
            span = span.with(semconv::SAGA_STEP, step.as_str());
        }
        spans.push(of_saga(span, fact));
        at.1
    }

    /// The span of a command that is not awaited any more.
    fn command(&self, fact: &Fact, open: Open, until: Timestamp, outcome: Outcome) -> SpanFact {
        let Open { command, since } = open;
        let back = command.leg == Leg::Compensate;
        let name = match command.leg {
            Leg::Do => command.step.clone(),
            Leg::Compensate => format!("compensate {}", command.step),
            Leg::Status => format!("status {}", command.step),
        };
        let at = (fact.trace.id, command.span);
        let mut span = SpanFact::new(at, SpanKind::Client, name, since, until)
            .under(fact.root)
            .with(semconv::SAGA_STEP, command.step)
            .with(semconv::SAGA_LEG, command.leg.as_str())
            .with(semconv::SAGA_ATTEMPT, command.attempt)
            .with(semconv::SAGA_OUTCOME, outcome.as_str())
            .with(semconv::MESSAGING_OPERATION, "send")
            .with(semconv::MESSAGING_DESTINATION, command.channel)
            .with(semconv::MESSAGING_MESSAGE_TYPE, command.name);
        if back {
            span = span.with(semconv::SAGA_COMPENSATION, true);
        }
        if matches!(outcome, Outcome::Answered { start_known: false, .. }) {
            span = span.with(semconv::SAGA_START_UNKNOWN, true);
        }
        span.error = outcome.error();
        self.on_system(of_saga(span, fact))
    }

    fn on_system(&self, span: SpanFact) -> SpanFact {
        match &self.system {
            Some(system) => span.with(semconv::MESSAGING_SYSTEM, system.as_str()),
            None => span,
        }
    }

    fn known(&mut self, id: InstanceId) -> Known {
        self.young.remove(&id).or_else(|| self.old.remove(&id)).unwrap_or_default()
    }

    fn remember(&mut self, id: InstanceId, known: Known) {
        if self.young.len() >= self.generation_max {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id, known);
    }
}

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It was answered.
    Answered { how: &'static str, start_known: bool },
    /// Another attempt was answered.
    Superseded,
    /// No answer came in time.
    TimedOut,
    /// It could not be handed to the broker.
    Unsent,
    /// The saga ended without its answer.
    Abandoned,
}

impl Outcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Answered { how, .. } => how,
            Self::Superseded => "superseded",
            Self::TimedOut => "timed-out",
            Self::Unsent => "unsent",
            Self::Abandoned => "abandoned",
        }
    }

    /// A refusal is an answer like any other; technical trouble is an error.
    fn error(self) -> Option<&'static str> {
        match self {
            Self::Answered { how: "failed", .. } => Some("the participant failed"),
            Self::TimedOut => Some("no reply in time"),
            Self::Unsent => Some("the broker did not take it"),
            Self::Answered { .. } | Self::Superseded | Self::Abandoned => None,
        }
    }
}

/// Takes out the commands that this turn settles, with what became of each.
fn closed(known: &mut Known, fact: &Fact, line: &Line) -> Vec<(Open, Outcome)> {
    let Some(step) = &fact.step else { return Vec::new() };
    if line.verdict != Verdict::Applied {
        return Vec::new();
    }
    match line.what {
        What::Succeeded | What::Rejected | What::Failed | What::NotDone | What::Unknown => {
            let Some(answered) = &fact.answered else { return Vec::new() };
            let how = input_of(line.what);
            // A reply to the command settles the question about it as well, and the other way round.
            let is_back = |leg| leg == Leg::Compensate;
            let mine = known.open.extract_if(.., |open| {
                open.command.step == *step && is_back(open.command.leg) == is_back(answered.leg)
            });
            let mut closed: Vec<(Open, Outcome)> = mine.map(|o| (o, Outcome::Superseded)).collect();
            // A reply that does not say which attempt it answers, answers the last one.
            let attempt = answered
                .attempt
                .or_else(|| closed.iter().map(|(open, _)| open.command.attempt).max());
            for (open, outcome) in &mut closed {
                if Some(open.command.attempt) == attempt && open.command.leg == answered.leg {
                    *outcome = Outcome::Answered { how, start_known: true };
                }
            }
            if closed.is_empty()
                && !known.whole
                && let Some(command) = answered.command()
            {
                let open = Open { command, since: line.at };
                closed.push((open, Outcome::Answered { how, start_known: false }));
            }
            closed
        }
        What::TimedOut | What::Unsent => {
            let outcome =
                if line.what == What::Unsent { Outcome::Unsent } else { Outcome::TimedOut };
            let mine = known.open.extract_if(.., |open| open.command.step == *step);
            mine.map(|open| (open, outcome)).collect()
        }
        What::Started
        | What::Event
        | What::Woke
        | What::Cancelled
        | What::Operator
        | What::Unheard
        // Its span goes on: the same attempt leaves later.
        | What::Held => Vec::new(),
    }
}

/// The span of the whole saga.
fn root(fact: &Fact, until: Timestamp) -> SpanFact {
    let at = (fact.trace.id, fact.root);
    let name = format!("saga {}", fact.saga.0);
    let mut span = SpanFact::new(at, SpanKind::Internal, name, fact.started_at, until)
        .with(semconv::SAGA_VERSION, fact.saga.1)
        .with(semconv::SAGA_RUN, fact.run)
        .with(semconv::SAGA_OUTCOME, status_of(fact.status));
    if fact.trace.parent != [0; 8] {
        span = span.under_remote(fact.trace.parent);
    }
    // Compensated is an end as good as completed; killed may have left effects behind.
    span.error = (fact.status == Status::Killed).then_some("an operator ended it as it stood");
    of_saga(span, fact)
}

fn of_saga(span: SpanFact, fact: &Fact) -> SpanFact {
    span.with(semconv::SAGA_ID, fact.instance.to_string())
        .with(semconv::SAGA_NAME, fact.saga.0.as_str())
        .with(semconv::SAGA_KEY, fact.key.as_str())
}

/// An id for a span that no message names.
fn fresh() -> [u8; 8] {
    RandomIdGenerator::default().new_span_id().to_bytes()
}

const fn verdict_of(verdict: Verdict) -> (&'static str, Option<&'static str>) {
    match verdict {
        Verdict::Applied => ("applied", None),
        Verdict::Deferred => ("deferred", None),
        Verdict::Duplicate => ("duplicate", None),
        Verdict::Ignored(why) => ("ignored", Some(why.as_str())),
    }
}

const fn input_of(what: What) -> &'static str {
    match what {
        What::Started => "started",
        What::Succeeded => "succeeded",
        What::Rejected => "rejected",
        What::Failed => "failed",
        What::Event => "event",
        What::TimedOut => "timed-out",
        What::Woke => "woke",
        What::Unsent => "unsent",
        What::Cancelled => "cancelled",
        What::Operator => "operator",
        What::NotDone => "not-done",
        What::Unknown => "unknown",
        What::Held => "held",
        What::Unheard => "unheard",
    }
}

const fn status_of(status: Status) -> &'static str {
    match status {
        Status::Running => "running",
        Status::TurningBack => "turning-back",
        Status::Completed => "completed",
        Status::Compensated => "compensated",
        Status::Killed => "killed",
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Answered, spans::SpanValue},
        *,
    };
    use dirigent_model::{instance::Trace, message::Key};

    const TRACE: [u8; 16] = [7; 16];
    const ROOT: [u8; 8] = [1; 8];

    fn command(step: &str, leg: Leg, attempt: u32) -> SentCommand {
        let span = [u8::try_from(attempt).unwrap() + 10; 8];
        SentCommand {
            step: step.into(),
            leg,
            attempt,
            channel: "inventory".into(),
            name: "ReserveStock".into(),
            span,
        }
    }

    fn fact(at: u64, what: What, step: Option<&str>) -> Fact {
        let line = Line {
            at: Timestamp(at),
            what,
            node: None,
            cause: None,
            verdict: Verdict::Applied,
            sent: Vec::new(),
            note: Some("canary".into()),
        };
        let key = Key::from(1_u64);
        Fact {
            instance: InstanceId::of("order", &key),
            run: 0,
            saga: ("order".into(), 1),
            key: "1".into(),
            trace: Trace { id: TRACE, parent: [0; 8] },
            root: ROOT,
            started_at: Timestamp(100),
            status: Status::Running,
            has_ended: false,
            line: Some(line),
            step: step.map(Into::into),
            answered: None,
            channel: None,
            message: None,
            caused_by: None,
            commands: Vec::new(),
            published: Vec::new(),
        }
    }

    fn started(attempt: u32) -> Fact {
        Fact { commands: vec![command("s", Leg::Do, attempt)], ..fact(100, What::Started, None) }
    }

    fn reply(at: u64, attempt: u32) -> Fact {
        let command = command("s", Leg::Do, attempt);
        let answered = Answered {
            step: "s".into(),
            leg: Leg::Do,
            attempt: Some(attempt),
            channel: command.channel,
            name: command.name,
            span: Some(command.span),
        };
        Fact {
            answered: Some(answered),
            message: Some("StockReserved".into()),
            caused_by: Some((TRACE, [9; 8])),
            ..fact(at, What::Succeeded, Some("s"))
        }
    }

    fn named<'a>(spans: &'a [SpanFact], name: &str) -> Vec<&'a SpanFact> {
        spans.iter().filter(|span| span.name == name).collect()
    }

    fn says(span: &SpanFact, name: &str) -> Option<SpanValue> {
        span.attributes.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
    }

    #[test]
    fn a_command_lasts_from_its_sending_to_its_reply() {
        let mut tree = Tree::new(None);
        assert!(named(&tree.take(started(1), Timestamp(101)), "s").is_empty());
        let spans = tree.take(reply(150, 1), Timestamp(151));
        let [span] = named(&spans, "s")[..] else { panic!("one span of the command") };
        assert_eq!((span.from, span.until), (Timestamp(100), Timestamp(150)));
        assert_eq!((span.span, span.parent), ([11; 8], Some(ROOT)));
        assert_eq!(says(span, semconv::SAGA_OUTCOME), Some("succeeded".into()));
    }

    #[test]
    fn an_intake_stands_below_the_senders_span_and_the_transition_below_the_intake() {
        let spans = Tree::new(None).take(reply(150, 1), Timestamp(151));
        let intake = named(&spans, "intake StockReserved")[0];
        let transition = named(&spans, "transition applied")[0];
        assert_eq!((intake.parent, intake.parent_is_remote), (Some([9; 8]), true));
        assert_eq!(transition.parent, Some(intake.span));
    }

    #[test]
    fn an_input_of_another_trace_is_linked_and_stands_below_the_root() {
        let other = ([8; 16], [9; 8]);
        let event = Fact {
            message: Some("OrderApproved".into()),
            caused_by: Some(other),
            ..fact(120, What::Event, None)
        };
        let spans = Tree::new(None).take(event, Timestamp(121));
        let intake = named(&spans, "intake OrderApproved")[0];
        assert_eq!((intake.parent, intake.link), (Some(ROOT), Some(other)));
    }

    #[test]
    fn a_timeout_ends_the_commands_span_with_an_error_and_a_late_reply_gives_no_second_one() {
        let mut tree = Tree::new(None);
        let _ = tree.take(started(1), Timestamp(100));
        let spans = tree.take(fact(200, What::TimedOut, Some("s")), Timestamp(200));
        assert_eq!(named(&spans, "s")[0].error, Some("no reply in time"));
        assert!(named(&tree.take(reply(250, 1), Timestamp(250)), "s").is_empty());
    }

    #[test]
    fn a_reply_to_a_command_of_before_the_restart_gives_a_span_without_length() {
        let spans = Tree::new(None).take(reply(150, 2), Timestamp(151));
        let [span] = named(&spans, "s")[..] else { panic!("one span of the command") };
        assert_eq!((span.from, span.until, span.span), (Timestamp(150), Timestamp(150), [12; 8]));
        assert_eq!(says(span, semconv::SAGA_START_UNKNOWN), Some(true.into()));
    }

    #[test]
    fn the_end_brings_the_root_and_what_was_still_open() {
        let mut tree = Tree::new(None);
        let _ = tree.take(started(1), Timestamp(100));
        let killed =
            Fact { status: Status::Killed, has_ended: true, ..fact(300, What::Operator, None) };
        let spans = tree.take(killed, Timestamp(301));
        assert_eq!(says(named(&spans, "s")[0], semconv::SAGA_OUTCOME), Some("abandoned".into()));
        let root = named(&spans, "saga order")[0];
        assert_eq!((root.span, root.parent), (ROOT, None));
        assert_eq!((root.from, root.until), (Timestamp(100), Timestamp(300)));
        assert_eq!(root.error, Some("an operator ended it as it stood"));
        assert!(tree.young.is_empty());
    }

    #[test]
    fn the_way_back_is_named_and_marked_and_no_error() {
        let mut tree = Tree::new(None);
        let back = command("s", Leg::Compensate, 1);
        let begun = Fact { commands: vec![back], ..fact(100, What::Started, None) };
        let _ = tree.take(begun, Timestamp(100));
        let ended = reply(180, 1);
        let answered = ended.answered.clone().map(|a| Answered { leg: Leg::Compensate, ..a });
        let ended = Fact { answered, status: Status::Compensated, has_ended: true, ..ended };
        let spans = tree.take(ended, Timestamp(181));
        let span = named(&spans, "compensate s")[0];
        assert_eq!(says(span, semconv::SAGA_COMPENSATION), Some(true.into()));
        assert_eq!(span.error, None);
        let root = named(&spans, "saga order")[0];
        assert_eq!(
            (root.error, says(root, semconv::SAGA_OUTCOME)),
            (None, Some("compensated".into()))
        );
    }

    #[test]
    fn a_question_about_a_status_is_named_and_a_late_reply_to_the_command_closes_it() {
        let question = || command("s", Leg::Status, 2);
        let asked = || Fact { commands: vec![question()], ..fact(100, What::TimedOut, Some("s")) };
        let mut tree = Tree::new(None);
        let _ = tree.take(asked(), Timestamp(100));
        let spans = tree.take(reply(150, 1), Timestamp(151));
        let span = named(&spans, "status s")[0];
        assert_eq!(says(span, semconv::SAGA_OUTCOME), Some("superseded".into()));
        assert_eq!(says(span, semconv::SAGA_LEG), Some("status".into()));
        let mut tree = Tree::new(None);
        let _ = tree.take(asked(), Timestamp(100));
        let answered =
            reply(150, 2).answered.map(|answered| Answered { leg: Leg::Status, ..answered });
        let not_done = Fact { answered, ..fact(150, What::NotDone, Some("s")) };
        let spans = tree.take(not_done, Timestamp(151));
        let span = named(&spans, "status s")[0];
        assert_eq!(says(span, semconv::SAGA_OUTCOME), Some("not-done".into()));
        assert_eq!(span.error, None);
    }

    #[test]
    fn what_the_history_notes_never_gets_into_a_span() {
        let mut tree = Tree::new(None);
        let mut spans = tree.take(started(1), Timestamp(100));
        spans.extend(tree.take(reply(150, 1), Timestamp(151)));
        assert!(!format!("{spans:?}").contains("canary"));
    }

    #[test]
    fn the_memory_of_commands_is_bounded() {
        let mut tree = Tree { generation_max: 10, ..Tree::new(None) };
        for number in 0..100_u64 {
            let instance = InstanceId::of("order", &Key::from(number));
            let _ = tree.take(Fact { instance, ..started(1) }, Timestamp(100));
        }
        assert!(tree.young.len() + tree.old.len() <= 20);
    }
}
