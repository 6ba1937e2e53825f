//! Durability, judged in the very moment: whoever lets a message go, or settles a delivery, must have its cause on the disk by then.
//!
//! ```text
//! broker tells: stored · settled ─► what would a power cut leave of the journal now? ─► is the cause in it?
//! ```
//!
//! What goes in: all that brokers tell, and the disk of the orchestrator. What comes out: findings. What must be true: a message of the
//! orchestrator is stored only once a durable group holds it, word for word; a delivery is settled only once a durable group covers its position, or, where the
//! broker remembers, counts one more than were settled; messages of one instance to one channel leave in the order of their groups. What
//! was sent or settled is gone if the answer comes later, so it is asked for at once, not at the end.

use super::{super::process::APP, Finding, Findings, outside::marks};
use crate::{
    engine::{Covered, decode_group},
    journal::{GroupSeq, Prefix, SimDisk},
};
use dirigent_connectors::{
    Memory, Message, Sent, Settle, names,
    simulated::{Place, SimEvent, What},
};
use std::collections::{BTreeMap, BTreeSet};

/// Findings that are told of one run: one cause has many of them.
const TOLD_MAX: usize = 5;

/// The rules, as they are told.
pub(super) const NO_MESSAGE: &str = "no message leaves before its cause is durable";
const OTHER_MESSAGE: &str = "a message leaves as it was made durable";
const NO_SETTLEMENT: &str = "no delivery is settled before its effect is durable";
const IN_ORDER: &str = "messages of one saga leave in order";
const READABLE: &str = "what is durable can be read";

/// What is durable so far, and what was done on its account.
pub(super) struct Durable {
    disk: SimDisk,
    prefix: Prefix,
    known: Known,
    /// By channel: deliveries that this owner has settled, and how many were counted before it.
    settled: BTreeMap<String, (u64, u64)>,
    /// By instance or key, and channel: the message that left last, as the groups number them, and in which life.
    last: BTreeMap<(String, String), (u64, u32)>,
    /// Messages that somebody sent and that were not confirmed: the broker may have refused one of a window, and taken the next.
    doubtful: BTreeSet<(String, String)>,
    /// Messages that have left once.
    left: BTreeSet<(String, String)>,
    findings: Vec<Finding>,
}

/// What the durable groups say.
#[derive(Default)]
struct Known {
    /// By channel and id: the messages that are to leave, with their numbers among all.
    outgoing: BTreeMap<(String, String), Vec<(u64, Message)>>,
    messages: u64,
    /// By channel and partition: offsets that are taken care of.
    covered: BTreeMap<(String, u32), Vec<Covered>>,
    /// By channel: deliveries that may be settled.
    settled: BTreeMap<String, u64>,
    unreadable: Vec<String>,
}

impl Durable {
    pub(super) fn new(disk: SimDisk) -> Self {
        Self {
            disk,
            prefix: Prefix::new(),
            known: Known::default(),
            settled: BTreeMap::new(),
            last: BTreeMap::new(),
            doubtful: BTreeSet::new(),
            left: BTreeSet::new(),
            findings: Vec::new(),
        }
    }

    /// Something happened at a broker just now.
    pub(super) fn hears(&mut self, event: &SimEvent, memory: Memory) {
        match &event.what {
            What::Stored { message, .. } if marks::is_ours(message) => {
                self.read_on();
                self.leaves(message, event.life);
            }
            What::Answered { message, sent } if *sent != Sent::Confirmed => {
                let place = (message.channel.clone(), marks::id(message).to_owned());
                self.doubtful.insert(place);
            }
            What::Settled { group, place, settle: Settle::Done } if **group == *APP => {
                self.read_on();
                self.settles(place, memory);
            }
            What::Owns { group, .. } if **group == *APP => {
                self.read_on();
                // What its predecessor had counted and not settled is handed out again, and counted again.
                let counted = self.known.settled.iter();
                self.settled = counted.map(|(channel, all)| (channel.clone(), (0, *all))).collect();
            }
            _ => {}
        }
    }

    /// All of it, with nothing left behind: its brokers hold on to it.
    pub(super) fn take(&mut self) -> Self {
        let disk = self.disk.clone();
        std::mem::replace(self, Self::new(disk))
    }

    /// What was found.
    pub(super) fn tell(self, findings: &mut Findings) {
        for found in self.findings.into_iter().take(TOLD_MAX) {
            findings.add(found.rule, found.found);
        }
        for unreadable in self.known.unreadable.into_iter().take(TOLD_MAX) {
            findings.add(READABLE, unreadable);
        }
    }

    fn read_on(&mut self) {
        let Self { disk, prefix, known, .. } = self;
        // What was given up before anybody looked had no message that left, but may have settled something that is heard of only now.
        if prefix.read_on(disk, &mut |seq, record| known.take_in(seq, record)) {
            self.settled.values_mut().for_each(|(so_far, _)| *so_far = 0);
        }
    }

    fn leaves(&mut self, message: &Message, life: u32) {
        let place = (message.channel.clone(), marks::id(message).to_owned());
        let Some(durable) = self.known.outgoing.get(&place) else {
            self.find(NO_MESSAGE, format!("{} is in no durable group", marks::named(message)));
            return;
        };
        let is_first = self.left.insert(place.clone());
        // A dead letter that was refused leaves in another form.
        if marks::is_dead_letter(message) {
            return;
        }
        if !durable.iter().any(|(_, made)| made == message) {
            let made = durable.len();
            let what = format!("{} differs from its {made} durable forms", marks::named(message));
            self.find(OTHER_MESSAGE, what);
            return;
        }
        if !is_first {
            return;
        }
        let is_new = (0, life);
        let last = self.last.entry((owner(message), message.channel.clone())).or_insert(is_new);
        // Asked again as the same attempt, it stands in several groups: the first that fits.
        match durable.iter().map(|(number, _)| *number).find(|number| *number > last.0) {
            Some(number) => *last = (number, life),
            None if last.1 == life && !self.doubtful.contains(&place) => {
                let what = format!("{} left behind one of a later group", marks::named(message));
                self.find(IN_ORDER, what);
            }
            None => {}
        }
    }

    fn settles(&mut self, place: &Place, memory: Memory) {
        let named = format!("{} of {}/{}", place.offset, place.channel, place.partition);
        if memory == Memory::Positions {
            let known = (place.channel.to_string(), place.partition);
            let covered = self.known.covered.get(&known).map(Vec::as_slice).unwrap_or_default();
            let holds = |it: &Covered| it.from <= place.offset && place.offset < it.end;
            if !covered.iter().any(holds) {
                self.find(NO_SETTLEMENT, format!("{named} is covered by no durable group"));
            }
            return;
        }
        let counted = self.known.settled.get(&*place.channel).copied().unwrap_or_default();
        let (so_far, before) = self.settled.entry(place.channel.to_string()).or_default();
        *so_far += 1;
        let (so_far, may) = (*so_far, counted.saturating_sub(*before));
        if so_far > may {
            let what = format!("{named} is settlement {so_far}, and durable groups count {may}");
            self.find(NO_SETTLEMENT, what);
        }
    }

    fn find(&mut self, rule: &'static str, found: String) {
        self.findings.push(Finding { rule, found });
    }
}

impl Known {
    fn take_in(&mut self, seq: GroupSeq, record: &[u8]) {
        let (head, body) = match decode_group(record) {
            Ok(group) => group,
            Err(error) => return self.unreadable.push(format!("group {seq}: {error}")),
        };
        for outgoing in body.outgoing {
            self.messages += 1;
            let message = outgoing.message;
            let place = (message.channel.clone(), marks::id(&message).to_owned());
            self.outgoing.entry(place).or_default().push((self.messages, message));
        }
        for input in head.shared_inputs.into_iter().chain(body.inputs) {
            let place = (input.channel.to_string(), input.partition);
            self.covered.entry(place).or_default().extend(input.covered);
        }
        for (channel, _, deliveries) in head.settled {
            *self.settled.entry(channel.to_string()).or_default() += deliveries;
        }
    }
}

/// Whose messages keep their order among each other.
fn owner(message: &Message) -> String {
    let saga = marks::saga(message).map(|(saga, run)| format!("{saga}/{run}"));
    saga.unwrap_or_else(|| {
        format!("{} {}", message.key, message.attributes.get(names::TYPE).unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::{Count, GroupBody, GroupHead, InputDone, Outgoing},
        journal::{Journal, JournalOptions, Preparation},
    };
    use dirigent_connectors::{Attributes, ChannelKind};
    use std::{sync::Arc, time::Duration};

    /// A journal that is written by hand, and whoever watches it.
    struct Watched {
        journal: Journal,
        durable: Durable,
    }

    fn watched() -> Watched {
        let disk = SimDisk::new();
        let options =
            JournalOptions { preparation: Preparation::OnDemand, ..JournalOptions::default() };
        let durable = Durable::new(disk.clone());
        let journal = Journal::open(Arc::new(disk), options, GroupSeq::FIRST, &mut |_, _| Ok(()));
        Watched { journal: journal.unwrap(), durable }
    }

    fn message(id: &str) -> Message {
        let attributes = Attributes::new()
            .with(names::ID, id)
            .with(names::TYPE, "Reserve")
            .with(names::SOURCE, format!("/dirigent/{APP}"))
            .with("sagaid", "a-saga");
        Message {
            channel: "work".into(),
            kind: ChannelKind::Work,
            key: "80".into(),
            attributes,
            others: vec![],
            body: "{}".into(),
        }
    }

    impl Watched {
        fn appends(mut self, ids: &[&str], offsets: &[u64], settled: u64) -> Self {
            let outgoing =
                |id: &&str| Outgoing { lane: 0, sender: None, saga: 0, message: message(id) };
            let input = |offset: &u64| InputDone {
                channel: "replies".into(),
                partition: 0,
                covered: Some(Covered { from: *offset, end: offset + 1 }),
                count: Count::Applied,
            };
            let body = GroupBody {
                outgoing: ids.iter().map(outgoing).collect(),
                inputs: offsets.iter().map(input).collect(),
                ..GroupBody::default()
            };
            let settled = vec![("replies".into(), 0, settled)];
            let head = GroupHead { lanes: vec![(1, 1)], settled, ..GroupHead::default() };
            let mut record = head.encode();
            body.encode(&mut record);
            self.journal.append(&[&record]).unwrap();
            self
        }

        fn syncs(mut self) -> Self {
            self.journal.sync().unwrap();
            self
        }

        fn hears(mut self, what: What) -> Self {
            let memory = Memory::Positions;
            let event = SimEvent { at: Duration::ZERO, life: 1, what };
            self.durable.hears(&event, memory);
            self
        }

        fn sends(self, message: Message) -> Self {
            let place = Place { channel: "work".into(), partition: 0, offset: 0 };
            self.hears(What::Stored { place, message: Arc::new(message), open: false })
        }

        fn settles(mut self, offset: u64, memory: Memory) -> Self {
            let place = Place { channel: "replies".into(), partition: 0, offset };
            let (group, settle) = (APP.into(), Settle::Done);
            let what = What::Settled { group, place, settle };
            self.durable.hears(&SimEvent { at: Duration::ZERO, life: 1, what }, memory);
            self
        }

        fn found(self) -> Vec<&'static str> {
            let mut findings = Findings::default();
            self.durable.tell(&mut findings);
            findings.0.into_iter().map(|finding| finding.rule).collect()
        }
    }

    #[test]
    fn a_message_that_leaves_before_its_group_is_synced_is_found_and_one_that_waits_is_not() {
        let early = watched().appends(&["a"], &[], 0).sends(message("a"));
        assert_eq!(early.found(), [NO_MESSAGE]);
        let waits = watched().appends(&["a"], &[], 0).syncs().sends(message("a"));
        assert_eq!(waits.sends(message("a")).found(), [""; 0]);
        assert_eq!(watched().syncs().sends(message("of nobody")).found(), [NO_MESSAGE]);
    }

    #[test]
    fn a_message_that_leaves_otherwise_than_it_was_made_durable_is_found() {
        let other = Message { body: "other".into(), ..message("a") };
        let sent = watched().appends(&["a"], &[], 0).syncs().sends(other);
        assert_eq!(sent.found(), [OTHER_MESSAGE]);
    }

    #[test]
    fn a_position_that_is_settled_before_its_group_is_synced_is_found() {
        let log = Memory::Positions;
        let early = watched().appends(&[], &[7], 0).settles(7, log);
        assert_eq!(early.found(), [NO_SETTLEMENT]);
        let waits = watched().appends(&[], &[7], 0).syncs().settles(7, log);
        assert_eq!(waits.settles(8, log).found(), [NO_SETTLEMENT]);
    }

    #[test]
    fn one_settlement_more_than_durable_groups_count_is_found_whatever_a_former_life_counted() {
        let queue = Memory::Settlements;
        let two = || watched().appends(&[], &[], 2).syncs().settles(0, queue);
        assert_eq!(two().settles(1, queue).found(), [""; 0]);
        assert_eq!(two().settles(1, queue).settles(2, queue).found(), [NO_SETTLEMENT]);
        let next_life = two().hears(What::Owns { group: APP.into(), epoch: 2 });
        assert_eq!(next_life.settles(1, queue).found(), [NO_SETTLEMENT]);
    }

    #[test]
    fn messages_of_one_saga_that_overtake_each_other_are_found_unless_the_broker_was_the_cause() {
        let both = || watched().appends(&["a", "b"], &[], 0).syncs();
        assert_eq!(both().sends(message("a")).sends(message("b")).found(), [""; 0]);
        assert_eq!(both().sends(message("b")).sends(message("a")).found(), [IN_ORDER]);
        let (sent, a) = (Sent::Unknown { text: "refused".into() }, Arc::new(message("a")));
        let refused = both().sends(message("b")).hears(What::Answered { message: a, sent });
        assert_eq!(refused.sends(message("a")).found(), [""; 0]);
    }
}
