//! The commit group: what becomes durable together.
//!
//! A shard writes the [`GroupBody`] of its turn: the instances it changed, the messages they send, the inputs taken care of
//! and what became of each. The committer puts a [`GroupHead`] before it: which number the first message has on each
//! lane, up to where each lane is confirmed, and inputs that were decided by more than one shard. Recovery folds both.

use super::{
    accounts::{Count, Counts, Covered},
    kept::KeptChange,
    kept_wire::{put_kept, take_kept},
    wire::{Malformed, Put, Take},
};
use crate::{
    envelope::SAGA_RUN,
    planted::{self, Bug},
};
use dirigent_connectors::Message;
use dirigent_model::{
    definition::NodeId,
    instance::{InstanceId, Leg, Status},
    time::Timestamp,
};
use uuid::Uuid;

/// The layout this release writes.
const FORMAT: u8 = 2;

/// Inputs in one group, at the most: every shard's full batch and more. Counts take no bytes of their own, so a damaged one could
/// ask for any memory.
const INPUTS_MAX: usize = 1 << 20;

/// Which connector a message leaves by: its place in the list of connectors.
pub(crate) type Lane = u8;

/// The number of a message on its lane; consecutive from 1.
pub(crate) type LaneSeq = u64;

/// Whose command a message is, so that *unsent* finds its way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sender {
    pub instance: InstanceId,
    /// Which run of its key. Not stored beside the message, which says it itself.
    pub run: u32,
    pub node: NodeId,
    pub leg: Leg,
    pub attempt: u32,
}

/// A message that is to leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub lane: Lane,
    /// `None` for events and dead letters.
    pub sender: Option<Sender>,
    /// Which definition's command it is, so that one does not starve another: [`saga_of`] its name. Not stored; recovery finds
    /// it with the instance.
    pub saga: u32,
    pub message: Message,
}

/// Tells definitions apart, in a few bytes. Two that look alike share a queue, no more.
pub(crate) fn saga_of(definition: &str) -> u32 {
    let mut hasher = rustc_hash::FxHasher::default();
    std::hash::Hasher::write(&mut hasher, definition.as_bytes());
    u32::try_from(std::hash::Hasher::finish(&hasher) >> 32).unwrap_or_default()
}

/// What a group does to one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InstanceChange {
    pub id: InstanceId,
    /// The stored form; `None` when the instance is gone.
    pub state: Option<Vec<u8>>,
    /// Encoded lines added to its history.
    pub lines: Vec<Vec<u8>>,
    /// When it is next looked at by itself.
    pub due: Option<Timestamp>,
    /// What it does to the tally of instances.
    pub tally: TallyChange,
}

/// What one instance's change does to the tally.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TallyChange {
    /// Release and fingerprint, where `started`, `ended` or a change of blocking needs them.
    pub release: Option<(String, u32, u64)>,
    pub started: bool,
    pub ended: Option<Status>,
    pub became_blocked: bool,
    pub became_unblocked: bool,
}

/// An input taken care of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InputDone {
    pub channel: std::sync::Arc<str>,
    pub partition: u32,
    /// Where the reader remembers positions.
    pub covered: Option<Covered>,
    pub count: Count,
}

/// What a shard's turn adds up to.
#[derive(Debug, Default)]
pub(crate) struct GroupBody {
    pub changes: Vec<InstanceChange>,
    pub outgoing: Vec<Outgoing>,
    pub inputs: Vec<InputDone>,
    pub kept: Vec<KeptChange>,
}

/// Deliveries of a place that the group settles: channel, partition, how many.
pub(crate) type Settled = (std::sync::Arc<str>, u32, u64);

/// What the committer adds.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct GroupHead {
    /// For each lane: the number of its first message in this group, and up to which number it is confirmed.
    pub lanes: Vec<(LaneSeq, LaneSeq)>,
    /// Inputs decided by more than one shard, with the group of the last of them: what the others said is before it in the journal.
    pub shared_inputs: Vec<InputDone>,
    /// What is kept of those.
    pub kept: Vec<KeptChange>,
    /// Where the broker remembers: deliveries that are settled once this group is durable.
    pub settled: Vec<Settled>,
}

impl GroupHead {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut into = vec![FORMAT];
        into.number(self.lanes.len() as u64);
        for (first, confirmed) in &self.lanes {
            into.number(*first);
            into.number(*confirmed);
        }
        put_inputs(&mut into, &self.shared_inputs);
        put_kept(&mut into, &self.kept);
        into.number(self.settled.len() as u64);
        for (channel, partition, deliveries) in &self.settled {
            into.text(channel);
            into.number(u64::from(*partition));
            into.number(*deliveries);
        }
        into
    }
}

impl GroupBody {
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
            && self.outgoing.is_empty()
            && self.inputs.is_empty()
            && self.kept.is_empty()
    }

    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        into.number(self.changes.len() as u64);
        for change in &self.changes {
            put_change(into, change);
        }
        into.number(self.outgoing.len() as u64);
        for outgoing in &self.outgoing {
            put_outgoing(into, outgoing);
        }
        put_inputs(into, &self.inputs);
        put_kept(into, &self.kept);
    }
}

/// The layout of a group that a later release wrote, and this one does not know.
pub(crate) fn later_format(record: &[u8]) -> Option<u8> {
    record.first().copied().filter(|format| *format > FORMAT)
}

/// Reads a group back.
pub(crate) fn decode(record: &[u8]) -> Result<(GroupHead, GroupBody), Malformed> {
    let mut from = Take(record);
    if from.byte("the format")? != FORMAT {
        return Err(Malformed("a format this release knows"));
    }
    let mut head = GroupHead::default();
    let lanes: usize = from.small("the lanes")?;
    if lanes > usize::from(Lane::MAX) + 1 {
        return Err(Malformed("a number of lanes that a process can have"));
    }
    for _ in 0..lanes {
        head.lanes
            .push((from.number("a lane's first number")?, from.number("a lane's watermark")?));
    }
    head.shared_inputs = take_inputs(&mut from)?;
    head.kept = take_kept(&mut from)?;
    for _ in 0..from.number("the settled deliveries")? {
        let channel = from.text("a settled delivery's channel")?.into();
        let partition = from.small("a settled delivery's partition")?;
        head.settled.push((channel, partition, from.number("the settled deliveries of a place")?));
    }
    let mut body = GroupBody::default();
    for _ in 0..from.number("the changes")? {
        body.changes.push(take_change(&mut from)?);
    }
    for _ in 0..from.number("the messages")? {
        let outgoing = take_outgoing(&mut from)?;
        if usize::from(outgoing.lane) >= head.lanes.len() {
            return Err(Malformed("the lane of a message"));
        }
        body.outgoing.push(outgoing);
    }
    body.inputs = take_inputs(&mut from)?;
    body.kept = take_kept(&mut from)?;
    if from.0.is_empty() { Ok((head, body)) } else { Err(Malformed("the end of the group")) }
}

const STARTED: u8 = 1;
const GONE: u8 = 2;
const COMPLETED: u8 = 4;
const COMPENSATED: u8 = 8;
const KILLED: u8 = 12;
const ENDED: u8 = 12;
const BLOCKED: u8 = 16;
const UNBLOCKED: u8 = 32;
const RELEASE: u8 = 64;

fn put_change(into: &mut Vec<u8>, change: &InstanceChange) {
    let tally = &change.tally;
    let mut flags = 0;
    flags |= if tally.started { STARTED } else { 0 };
    flags |= if change.state.is_none() { GONE } else { 0 };
    flags |= match tally.ended {
        Some(Status::Completed) => COMPLETED,
        Some(Status::Compensated) => COMPENSATED,
        Some(Status::Killed) => KILLED,
        None | Some(Status::Running | Status::TurningBack) => 0,
    };
    flags |= if tally.became_blocked { BLOCKED } else { 0 };
    flags |= if tally.became_unblocked { UNBLOCKED } else { 0 };
    flags |= if tally.release.is_some() { RELEASE } else { 0 };
    into.push(flags);
    into.extend_from_slice(change.id.0.as_bytes());
    if let Some((name, version, fingerprint)) = &tally.release {
        into.text(name);
        into.number(u64::from(*version));
        into.extend_from_slice(&fingerprint.to_be_bytes());
    }
    into.number(change.due.map_or(0, |due| due.0));
    into.number(change.lines.len() as u64);
    for line in &change.lines {
        into.bytes(line);
    }
    if let Some(state) = &change.state {
        into.bytes(state);
    }
}

fn take_change(from: &mut Take<'_>) -> Result<InstanceChange, Malformed> {
    let flags = from.byte("a change")?;
    let id = InstanceId(Uuid::from_bytes(from.array("an instance's id")?));
    let release = if flags & RELEASE == 0 {
        None
    } else {
        let name = from.text("a definition's name")?.to_owned();
        let version = from.small("a definition's version")?;
        Some((name, version, u64::from_be_bytes(from.array("a definition's fingerprint")?)))
    };
    let due = match from.number("an instance's due time")? {
        0 => None,
        due => Some(Timestamp(due)),
    };
    let mut lines = Vec::new();
    for _ in 0..from.number("an instance's history")? {
        lines.push(from.bytes("a line of history")?.to_vec());
    }
    let state =
        if flags & GONE == 0 { Some(from.bytes("an instance's state")?.to_vec()) } else { None };
    let ended = match flags & ENDED {
        COMPLETED => Some(Status::Completed),
        COMPENSATED => Some(Status::Compensated),
        KILLED => Some(Status::Killed),
        _ => None,
    };
    let tally = TallyChange {
        release,
        started: flags & STARTED != 0,
        ended,
        became_blocked: flags & BLOCKED != 0,
        became_unblocked: flags & UNBLOCKED != 0,
    };
    Ok(InstanceChange { id, state, lines, due, tally })
}

fn put_outgoing(into: &mut Vec<u8>, outgoing: &Outgoing) {
    into.push(outgoing.lane);
    match &outgoing.sender {
        None => into.push(0),
        Some(sender) => {
            into.push(match sender.leg {
                Leg::Do => 1,
                Leg::Compensate => 2,
                Leg::Status => 3,
            });
            into.extend_from_slice(sender.instance.0.as_bytes());
            into.number(u64::from(sender.node.0));
            into.number(u64::from(sender.attempt));
        }
    }
    into.message(&outgoing.message);
}

fn take_outgoing(from: &mut Take<'_>) -> Result<Outgoing, Malformed> {
    let lane = from.byte("a message's lane")?;
    let leg = match from.byte("a message's sender")? {
        0 => None,
        1 => Some(Leg::Do),
        2 => Some(Leg::Compensate),
        3 => Some(Leg::Status),
        _ => return Err(Malformed("a message's sender")),
    };
    let mut sender = match leg {
        None => None,
        Some(leg) => Some(Sender {
            instance: InstanceId(Uuid::from_bytes(from.array("a sender's id")?)),
            run: 0,
            node: NodeId(from.small("a sender's step")?),
            leg,
            attempt: from.small("a sender's attempt")?,
        }),
    };
    let message = from.message()?;
    if let Some(sender) = &mut sender {
        // The first run says nothing of it.
        let run = message.attributes.get(SAGA_RUN).and_then(|run| run.parse().ok());
        sender.run = run.unwrap_or_default();
    }
    Ok(Outgoing { lane, sender, saga: 0, message })
}

/// Inputs lie together by channel and partition: their counts, then their offsets as distances.
fn put_inputs(into: &mut Vec<u8>, inputs: &[InputDone]) {
    let mut places: Vec<((&str, u32), Counts, Vec<Covered>)> = Vec::new();
    let mut last = 0;
    for input in inputs {
        let place = (&*input.channel, input.partition);
        // Neighbours are of the same place as a rule.
        if places.get(last).is_none_or(|(known, ..)| *known != place) {
            last = places.iter().position(|(known, ..)| *known == place).unwrap_or_else(|| {
                places.push((place, Counts::default(), Vec::new()));
                places.len() - 1
            });
        }
        let (_, counts, covered) = &mut places[last];
        counts.add(input.count, 1);
        if planted::is(Bug::PositionsNotJournaled) {
            continue;
        }
        covered.extend(input.covered);
    }
    into.number(places.len() as u64);
    for ((channel, partition), counts, mut covered) in places {
        into.text(channel);
        into.number(u64::from(partition));
        for count in Count::ALL {
            into.number(counts.of(count));
        }
        covered.sort_unstable_by_key(|covered| covered.from);
        into.number(covered.len() as u64);
        let mut before = 0;
        for Covered { from, end } in covered {
            into.number(from - before);
            into.number(end - from);
            before = from;
        }
    }
}

fn take_inputs(from: &mut Take<'_>) -> Result<Vec<InputDone>, Malformed> {
    let mut inputs = Vec::new();
    for _ in 0..from.number("the inputs")? {
        let channel: std::sync::Arc<str> = from.text("an input's channel")?.into();
        let partition = from.small("an input's partition")?;
        let first = inputs.len();
        for count in Count::ALL {
            let messages: usize = from.small("an input's count")?;
            if messages > INPUTS_MAX - inputs.len() {
                return Err(Malformed("a count of inputs that a group can have"));
            }
            for _ in 0..messages {
                inputs.push(InputDone {
                    channel: channel.clone(),
                    partition,
                    covered: None,
                    count,
                });
            }
        }
        // Which offset had which verdict is not kept: only their sums are.
        let mut before = 0_u64;
        for place in 0..from.number("an input's offsets")? {
            let further = from.number("an input's offset")?;
            before = before.checked_add(further).ok_or(Malformed("an input's offset"))?;
            // It covers itself at the least.
            let reach = Some(from.number("an input's reach")?).filter(|reach| *reach > 0);
            let end = reach.and_then(|reach| before.checked_add(reach));
            let end = end.ok_or(Malformed("an input's reach"))?;
            let at = usize::try_from(place).ok().and_then(|place| inputs.get_mut(first + place));
            at.ok_or(Malformed("an input's verdict"))?.covered =
                Some(Covered { from: before, end });
        }
    }
    Ok(inputs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dirigent_connectors::{Attributes, ChannelKind};

    fn sample() -> (GroupHead, GroupBody) {
        let id = InstanceId(Uuid::from_u128(7));
        let tally = TallyChange {
            release: Some(("order".into(), 3, 99)),
            started: true,
            ended: Some(Status::Killed),
            became_blocked: true,
            became_unblocked: false,
        };
        let message = Message {
            channel: "inventory".into(),
            kind: ChannelKind::Work,
            key: "80".into(),
            attributes: Attributes::new().with("id", "a").with(SAGA_RUN, "3"),
            others: vec![("x".into(), vec![0, 255].into())],
            body: vec![1, 2, 3].into(),
        };
        let (node, leg) = (NodeId(300), Leg::Compensate);
        let sender = Sender { instance: id, run: 3, node, leg, attempt: 2 };
        let input = |from: Option<u64>, count| {
            let covered = from.map(|from| Covered { from, end: from + 2 });
            InputDone { channel: "orders".into(), partition: 4, covered, count }
        };
        let body = GroupBody {
            changes: vec![
                InstanceChange {
                    id,
                    state: Some(vec![1; 300]),
                    lines: vec![vec![5], vec![6]],
                    due: Some(Timestamp(12)),
                    tally,
                },
                InstanceChange {
                    id,
                    state: None,
                    lines: vec![],
                    due: None,
                    tally: TallyChange::default(),
                },
            ],
            outgoing: vec![
                Outgoing { lane: 1, sender: Some(sender), saga: 0, message: message.clone() },
                Outgoing { lane: 0, sender: None, saga: 0, message },
            ],
            inputs: vec![
                input(Some(7), Count::Applied),
                input(Some(9), Count::Applied),
                input(Some(30), Count::DeadLetter),
            ],
            kept: crate::engine::kept_wire::tests::samples(),
        };
        let head = GroupHead {
            lanes: vec![(1, 0), (500, 400)],
            shared_inputs: vec![input(None, Count::Duplicate)],
            kept: crate::engine::kept_wire::tests::samples(),
            settled: vec![("orders".into(), 4, 300)],
        };
        (head, body)
    }

    #[test]
    fn a_group_is_read_as_it_was_written() {
        let (head, body) = sample();
        let mut record = head.encode();
        body.encode(&mut record);
        let (head_again, body_again) = decode(&record).unwrap();
        assert_eq!(head_again, head);
        assert_eq!(body_again.changes, body.changes);
        assert_eq!(body_again.outgoing, body.outgoing);
        assert_eq!(body_again.inputs, body.inputs);
        assert_eq!(body_again.kept, body.kept);
    }

    #[test]
    fn a_group_of_a_later_release_is_told_from_a_damaged_one() {
        let mut record = sample().0.encode();
        assert_eq!(later_format(&record), None);
        record[0] = FORMAT + 1;
        assert_eq!(later_format(&record), Some(FORMAT + 1));
        assert!(decode(&record).is_err());
        assert_eq!(later_format(&[]), None);
    }

    #[test]
    fn the_form_of_a_group_is_the_kept_one() {
        let (head, body) = sample();
        let mut record = head.encode();
        body.encode(&mut record);
        let kept = crate::kept_forms::kept("group", &record);
        let (head_again, body_again) = decode(&kept).unwrap();
        assert_eq!((head_again, body_again.changes), (head, body.changes));
        assert_eq!((body_again.outgoing, body_again.inputs), (body.outgoing, body.inputs));
        assert_eq!(body_again.kept, body.kept);
    }

    /// A group without messages that says these numbers of lanes and, of one place, of applied inputs, then these of their offsets.
    fn of_inputs(lanes: u64, applied: u64, offsets: &[(u64, u64)]) -> Vec<u8> {
        let mut record = vec![FORMAT];
        record.number(lanes);
        (0..2 * lanes.min(300)).for_each(|_| record.number(1));
        record.number(1);
        record.text("orders");
        [4, applied, 0, 0, 0, 0, 0].into_iter().for_each(|number| record.number(number));
        record.number(offsets.len() as u64);
        for (further, reach) in offsets {
            record.number(*further);
            record.number(*reach);
        }
        // Neither kept nor settled messages, and an empty body.
        record.extend([0; 6]);
        record
    }

    #[test]
    fn numbers_that_overflow_or_ask_for_any_memory_make_no_group() {
        let (head, _) = decode(&of_inputs(2, 2, &[(7, 1), (3, 2)])).unwrap();
        assert_eq!(head.shared_inputs[1].covered, Some(Covered { from: 10, end: 12 }));
        for (lanes, applied, offsets) in [
            (257, 0, &[][..]),
            (u64::MAX, 0, &[]),
            (1, u64::MAX, &[]),
            (1, INPUTS_MAX as u64 + 1, &[]),
            (1, 1, &[(u64::MAX, 1)]),
            (1, 2, &[(u64::MAX - 1, 1), (2, 1)]),
            (1, 1, &[(5, 0)]),
            (1, 1, &[(5, 1), (5, 1)]),
        ] {
            assert!(
                decode(&of_inputs(lanes, applied, offsets)).is_err(),
                "{lanes} {applied} {offsets:?}"
            );
        }
    }

    #[test]
    fn a_message_of_a_lane_that_its_group_does_not_know_makes_no_group() {
        let (head, body) = sample();
        let one_lane = GroupHead { lanes: vec![(1, 0)], ..head };
        let mut record = one_lane.encode();
        body.encode(&mut record);
        assert_eq!(decode(&record).map(|_| ()), Err(Malformed("the lane of a message")));
    }

    #[test]
    fn a_group_cut_anywhere_is_refused_and_never_panics() {
        let (head, body) = sample();
        let mut record = head.encode();
        body.encode(&mut record);
        for length in 0..record.len() {
            assert!(decode(&record[..length]).is_err(), "{length}");
        }
    }
}
