//! An instance with everything in it that an instance can have, for the kept sample of its stored form.

use super::table::Resting;
use dirigent_model::{
    definition::{Fingerprint, NodeId},
    history::{History, Line, Verdict, What, Why},
    instance::{
        Ask, Cause, CauseKind, Core, Early, Incident, Instance, InstanceId, Leg, Next, NoEffect,
        NodeState, Question, Status, Trace,
    },
    message::{Body, Format, Key},
    time::Timestamp,
};
use uuid::Uuid;

const AT: Timestamp = Timestamp(1_767_225_600_000);

fn ask(next: Next) -> Ask {
    Ask {
        attempt: 5,
        excused: 3,
        first_at: AT,
        asked_at: Timestamp(AT.0 + 40),
        next,
        doubt: true,
        questions: 1,
    }
}

fn body() -> Body {
    Body { format: Format::Avro, bytes: vec![0, 0xff, 7] }
}

pub(super) fn core() -> Core {
    let key = Key::from(&"80".to_owned());
    let until = Timestamp(AT.0 + 90_000);
    let question = Question {
        ask: ask(Next::GiveUp(until)),
        about: ask(Next::AskAgain(until)),
        cause: CauseKind::TimedOut,
        text: "no reply".into(),
    };
    let no_effects = [NoEffect::Rejected, NoEffect::Unsent, NoEffect::Failed, NoEffect::NotDone]
        .map(NodeState::NoEffect);
    let mut nodes = vec![
        NodeState::Idle,
        NodeState::Entered,
        NodeState::Chosen(Some(1)),
        NodeState::Chosen(None),
        NodeState::Open(ask(Next::GiveUp(until))),
        NodeState::Open(ask(Next::Held(until))),
        NodeState::Waiting { until, since: AT },
        NodeState::Done(Some(body())),
        NodeState::Done(None),
        NodeState::InQuestion(Box::new(question)),
        NodeState::InDoubt,
        NodeState::Ended,
        NodeState::Undoing(Some(body()), ask(Next::AskAgain(until))),
        NodeState::Stuck(None, ask(Next::GiveUp(until))),
        NodeState::Undone,
        NodeState::Resolved,
    ];
    nodes.extend(no_effects);
    Core {
        id: InstanceId::of("order", &key),
        definition: "order".into(),
        version: 3,
        fingerprint: Fingerprint(1 << 63),
        key,
        run: 2,
        status: Status::TurningBack,
        revision: 300,
        nodes,
        cause: Some(Cause {
            node: Some(NodeId(4)),
            what: CauseKind::Rejected,
            text: "sold out".into(),
        }),
        incidents: vec![Incident {
            node: NodeId(13),
            leg: Leg::Compensate,
            since: AT,
            text: "given up".into(),
        }],
        early: vec![Early {
            event: "Paid".into(),
            body: body(),
            since: AT,
            cause: Some("message-1".into()),
        }],
        events_taken: vec![Uuid::from_u128(9)],
        started_at: AT,
        ended_at: None,
        deadline: Some(until),
        trace: Trace { id: [1; 16], parent: [2; 8] },
    }
}

/// One line for each kind of input and each verdict.
pub(super) fn lines() -> Vec<Line> {
    let whats = [
        What::Started,
        What::Succeeded,
        What::Rejected,
        What::Failed,
        What::Event,
        What::TimedOut,
        What::Woke,
        What::Unsent,
        What::Cancelled,
        What::Operator,
        What::NotDone,
        What::Unknown,
        What::Held,
        What::Unheard,
    ];
    let verdicts = [
        Verdict::Applied,
        Verdict::Deferred,
        Verdict::Duplicate,
        Verdict::Ignored(Why::HasEnded),
        Verdict::Ignored(Why::NotAsked),
        Verdict::Ignored(Why::AlreadySettled),
        Verdict::Ignored(Why::EarlierAttempt),
        Verdict::Ignored(Why::OtherKey),
        Verdict::Ignored(Why::NotAwaited),
        Verdict::Ignored(Why::TooManyEarly),
        Verdict::Ignored(Why::PastPivot),
        Verdict::Ignored(Why::TurningBackAlready),
        Verdict::Ignored(Why::NothingDue),
        Verdict::Ignored(Why::NoIncident),
    ];
    let line = |(what, verdict)| Line {
        at: AT,
        what,
        node: Some(NodeId(4)),
        cause: Some("message-1".into()),
        verdict,
        sent: vec![
            (NodeId(5), Leg::Do, 1),
            (NodeId(6), Leg::Compensate, 2),
            (NodeId(7), Leg::Status, 3),
        ],
        note: Some("by ann".into()),
    };
    whats.into_iter().zip(verdicts).map(line).collect()
}

pub(super) fn resting() -> Resting {
    let mut history = History::default();
    lines().iter().for_each(|line| drop(history.append(line)));
    let data = Box::new(serde_json::json!({ "order": 80 }));
    let core = core();
    let due = core.next_due().map(|(due, _)| due);
    let mut state = Vec::new();
    Instance { core, data, history: History::default() }.encode(&mut state);
    Resting { state, history, due, seq: 41, ended: false, new: false }
}
