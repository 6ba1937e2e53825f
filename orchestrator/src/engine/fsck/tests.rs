//! Commands still to be sent, held against the instances that are to account for them: groups written by hand.

use super::fsck;
use crate::{
    engine::group::{GroupBody, GroupHead, InstanceChange, Outgoing, Sender, TallyChange},
    journal::{GroupSeq, Journal, JournalOptions, SimDisk},
    store::{MemoryStore, Severity},
};
use dirigent_connectors::{Attributes, ChannelKind, Message, names};
use dirigent_model::{
    definition::{Fingerprint, NodeId},
    instance::{Ask, Core, InstanceId, Leg, Next, NodeState, Status, Trace},
    message::Key,
    time::Timestamp,
};
use std::sync::Arc;

fn core(state: NodeState) -> Core {
    let key = Key::from("80");
    Core {
        id: InstanceId::of("order", &key),
        definition: "order".into(),
        version: 1,
        fingerprint: Fingerprint(7),
        key,
        run: 1,
        status: Status::Running,
        revision: 1,
        nodes: vec![NodeState::Entered, state],
        cause: None,
        incidents: vec![],
        early: vec![],
        events_taken: vec![],
        started_at: Timestamp(1),
        ended_at: None,
        deadline: Some(Timestamp(900)),
        trace: Trace::default(),
    }
}

fn asked(attempt: u32) -> Ask {
    let next = Next::GiveUp(Timestamp(50));
    let (first_at, asked_at) = (Timestamp(1), Timestamp(1));
    Ask { attempt, excused: 0, first_at, asked_at, next, doubt: false, questions: 0 }
}

fn command(core: &Core, leg: Leg, attempt: u32) -> Outgoing {
    let sender = Sender { instance: core.id, run: core.run, node: NodeId(1), leg, attempt };
    let attributes = Attributes::new()
        .with("sagaid", core.id.to_string())
        .with("sagarun", core.run.to_string())
        .with(names::IDEMPOTENCY_KEY, core.idempotency_key("reserve", leg).to_string());
    let message = Message {
        channel: "inventory".into(),
        kind: ChannelKind::Work,
        key: "80".into(),
        attributes,
        others: vec![],
        body: vec![].into(),
    };
    Outgoing { lane: 0, sender: Some(sender), saga: 0, message }
}

/// What is found where an instance in this state and these commands are in the journal.
fn found(core: &Core, outgoing: Vec<Outgoing>) -> Vec<(&'static str, Severity, String)> {
    let mut state = vec![dirigent_model::instance::FORMAT];
    state.extend(postcard::to_stdvec(core).unwrap());
    state.extend(b"{}");
    let release = Some((core.definition.clone(), core.version, core.fingerprint.0));
    let tally = TallyChange { release, started: true, ..TallyChange::default() };
    let due = core.next_due().map(|(due, _)| due);
    let (id, state, lines) = (core.id, Some(state), vec![]);
    let changes = vec![InstanceChange { id, state, lines, due, tally }];
    let body = GroupBody { changes, outgoing, ..GroupBody::default() };
    let head = GroupHead { lanes: vec![(1, 1)], ..GroupHead::default() };
    let mut record = head.encode();
    body.encode(&mut record);
    let disk = SimDisk::new();
    let options = JournalOptions { segment_bytes: 32 * 1024, ..JournalOptions::default() };
    let mut journal =
        Journal::open(Arc::new(disk.clone()), options, GroupSeq::FIRST, &mut |_, _| Ok(()))
            .unwrap();
    journal.append(&[&record]).unwrap();
    journal.sync().unwrap();
    drop(journal);
    let found = fsck(Arc::new(MemoryStore::new()), Arc::new(disk), None).unwrap();
    found.findings.into_iter().map(|it| (it.kind, it.severity, it.what)).collect()
}

#[test]
fn a_command_whose_instance_knows_the_attempt_has_a_cause() {
    let open = core(NodeState::Open(asked(3)));
    assert_eq!(found(&open, vec![command(&open, Leg::Do, 2), command(&open, Leg::Do, 3)]), []);
    let undone = core(NodeState::Undone);
    assert_eq!(found(&undone, vec![command(&undone, Leg::Do, 1)]), []);
    assert_eq!(found(&undone, vec![command(&undone, Leg::Compensate, 4)]), []);
    let undoing = core(NodeState::Undoing(None, asked(1)));
    assert_eq!(found(&undoing, vec![command(&undoing, Leg::Compensate, 1)]), []);
    // What a former run has sent is not known any more.
    let former = Core { run: 0, ..open.clone() };
    assert_eq!(found(&core(NodeState::Idle), vec![command(&former, Leg::Do, 1)]), []);
}

#[test]
fn a_command_that_its_instance_never_asked_for_is_found_with_the_reason() {
    let without_cause = |core: &Core, outgoing: Outgoing, why: &str| {
        let all = found(core, vec![outgoing]);
        let told = all.iter().any(|(kind, severity, what)| {
            (*kind, *severity) == ("command-without-cause", Severity::Harmful) && what.contains(why)
        });
        assert!(told, "{why}: {all:?}");
    };
    let idle = core(NodeState::Idle);
    without_cause(&idle, command(&idle, Leg::Do, 1), "it was never asked");
    let open = core(NodeState::Open(asked(3)));
    without_cause(&open, command(&open, Leg::Do, 4), "its last attempt was 3");
    without_cause(&open, command(&open, Leg::Compensate, 1), "it was never compensated");
    let later = Core { run: 2, ..open.clone() };
    without_cause(&open, command(&later, Leg::Do, 1), "the instance is in run 1");
    let mut elsewhere = command(&open, Leg::Do, 1);
    elsewhere.sender = elsewhere.sender.map(|sender| Sender { node: NodeId(9), ..sender });
    without_cause(&open, elsewhere, "the instance has no such step");
    let mut strange = command(&open, Leg::Do, 1);
    strange.message.attributes.set("sagaid", "x");
    without_cause(&open, strange, "names another instance");
}

#[test]
fn one_idempotency_key_for_two_effects_and_none_at_all_are_found() {
    let open = core(NodeState::Open(asked(1)));
    let mut second = command(&open, Leg::Do, 1);
    second.sender = second.sender.map(|sender| Sender { node: NodeId(0), ..sender });
    let all = found(&open, vec![command(&open, Leg::Do, 1), second]);
    assert!(
        all.iter()
            .any(|(kind, _, what)| *kind == "idempotency-key-strange" && what.contains(" and ")),
        "{all:?}"
    );
    let mut keyless = command(&open, Leg::Do, 1);
    keyless.message.attributes.set(names::IDEMPOTENCY_KEY, "");
    let all = found(&open, vec![keyless]);
    assert!(all.iter().any(|(kind, ..)| *kind == "idempotency-key-strange"), "{all:?}");
}

#[test]
fn a_command_whose_instance_was_forgotten_is_told_and_harms_nobody() {
    let open = core(NodeState::Open(asked(1)));
    let mut orphan = command(&open, Leg::Do, 1);
    let nobody = InstanceId::of("order", &Key::from("nobody"));
    orphan.sender = orphan.sender.map(|sender| Sender { instance: nobody, ..sender });
    let all = found(&open, vec![orphan]);
    let [(kind, severity, _)] = &all[..] else { panic!("{all:?}") };
    assert_eq!((*kind, *severity), ("command-of-a-forgotten-instance", Severity::Harmless));
}
