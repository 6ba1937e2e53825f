//! What the history of a saga must tell, held against its graph and against what lies at the brokers.
//!
//! What goes in: the sagas that are there at the end, with their histories, and all that was ever stored at a broker. What comes out: findings. What must be
//! true: the rules follow from the graph and from what people are promised, and nothing of the engine's own decisions is asked.

use super::{Faults, Findings, Simulation, clock::BEGINS, judge::Seen};
use crate::{
    engine::{InstanceView, PARKED_FOR},
    envelope::{SAGA_ATTEMPT, SAGA_ID, SAGA_LEG, SAGA_RUN, SAGA_STEP},
};
use dirigent_connectors::{
    names,
    simulated::{Fate, Kept, SimBroker, SimFaults, SimKind},
};
use dirigent_model::{
    definition::{Graph, Kind, NodeId, Repeat, WayBack},
    history::{Line, Verdict, What, Why},
    instance::Leg,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// The histories of all sagas, with what they are held against.
pub(super) struct Histories<'a> {
    pub simulation: &'a Simulation,
    pub seen: &'a Seen,
    pub brokers: &'a [(SimBroker, Vec<String>)],
    /// What went wrong: some rules hold only where it is known how long things take.
    pub faults: &'a Faults,
}

/// What lies at a broker for one key and channel, in its order.
struct Stored {
    kept: Kept,
    kind: SimKind,
}

type ByKey = BTreeMap<(String, String), Vec<Stored>>;

/// One saga.
struct Saga<'a> {
    instance: &'a InstanceView,
    graph: &'a Graph,
    stored: &'a ByKey,
}

/// How long a message is on its way at the most, where nothing is slow.
const CROSSES_WITHIN: Duration = Duration::from_secs(1);

type Broken = Vec<(&'static str, String)>;

impl Histories<'_> {
    pub(super) fn judge(&self, had_one_life: bool, findings: &mut Findings) {
        let stored = self.stored();
        for instance in self.seen.instances().iter().filter(|it| it.history_forgotten == 0) {
            let Some(plan) = self.simulation.plan(&instance.saga) else { continue };
            let saga = Saga { instance, graph: plan.graph(), stored: &stored };
            let mut broken = Broken::new();
            saga.what_happens_is_told(&mut broken);
            saga.each_input_counts_once(&mut broken);
            saga.no_time_is_over_before_it_is(&mut broken);
            saga.who_is_refused_turns_back(&mut broken);
            saga.early_events_are_taken(&mut broken);
            let kept = self.seen.kept().iter().filter(|kept| kept.instance == instance.id);
            let kept: Vec<String> = kept.map(|kept| format!("{kept:?}")).collect();
            let kept: Vec<&str> = kept.iter().map(String::as_str).collect();
            saga.what_was_said_is_heard(&kept, &mut broken);
            saga.runs_are_asked_for(&mut broken);
            // What a broker does not confirm may be given up.
            let faults = &self.faults;
            if had_one_life && faults.brokers == SimFaults::none() {
                saga.what_was_sent_is_there(&mut broken);
            }
            // What a broker does not take is overtaken by what it takes of the same window.
            let SimFaults { refused, reset, away, .. } = faults.brokers;
            if [refused, reset, away] == [0; 3] {
                saga.commands_keep_their_order(&mut broken);
            }
            let dawdles = [faults.brokers.slow, faults.brokers.reset, faults.brokers.away];
            if dawdles == [0; 3] && faults.latency < CROSSES_WITHIN {
                saga.what_is_settled_stays(&mut broken);
            }
            let who = format!("{} {}", instance.saga, instance.key);
            let told = broken.into_iter().map(|(rule, text)| (rule, format!("{who}: {text}")));
            told.for_each(|(rule, text)| findings.add(rule, text));
        }
    }

    /// All that was ever stored, by channel and key.
    fn stored(&self) -> ByKey {
        let mut channels: BTreeSet<String> = BTreeSet::new();
        for graph in self.simulation.sagas.iter().map(|plan| plan.graph()) {
            let notices = graph.nodes.iter().filter_map(|node| match &node.kind {
                Kind::Publish { event } => Some(event),
                _ => None,
            });
            let ends = graph.ends.completed.iter().chain(&graph.ends.failed);
            let heard = graph.events_awaited().chain([&graph.start]);
            channels.extend(notices.chain(ends).chain(heard).map(|event| event.channel.clone()));
            for step in graph.ids().filter_map(|node| graph.step(node)) {
                channels.insert(step.command.channel.clone());
                if let WayBack::Compensated { command, .. } = &step.way_back {
                    channels.insert(command.channel.clone());
                }
            }
        }
        let mut stored = ByKey::new();
        for (broker, _) in self.brokers {
            for channel in &channels {
                for kept in broker.messages(channel) {
                    let place = (channel.clone(), kept.message.key.clone());
                    let kind = broker.settings().kind;
                    stored.entry(place).or_default().push(Stored { kept, kind });
                }
            }
        }
        stored
    }
}

impl Stored {
    fn attribute(&self, name: &str) -> &str {
        self.kept.message.attributes.get(name).unwrap_or_default()
    }

    fn is_there(&self) -> bool {
        self.kept.fate == Fate::There
    }

    fn is_named(&self, name: &str) -> bool {
        self.attribute(names::TYPE) == name
    }
}

impl Saga<'_> {
    fn lines(&self) -> &[Line] {
        &self.instance.history
    }

    /// What lies in a channel for this saga's key.
    fn at(&self, channel: &str) -> &[Stored] {
        let place = (channel.to_owned(), self.instance.key.to_string());
        self.stored.get(&place).map(Vec::as_slice).unwrap_or_default()
    }

    fn node(&self, node: NodeId) -> &str {
        self.graph.name_of(node)
    }

    /// Since the beginning of the simulation.
    fn began(&self) -> Duration {
        self.instance.started_at.since(BEGINS)
    }

    /// The end of each run that has one is told, and so is each notice.
    fn what_happens_is_told(&self, broken: &mut Broken) {
        let rule = "what happens is told";
        let status = self.instance.status.as_str();
        let has_ended = ["completed", "compensated"].contains(&status);
        let ends = &self.graph.ends;
        if let (Some(completed), Some(failed)) = (&ends.completed, &ends.failed) {
            let mut told = BTreeSet::new();
            for event in [completed, failed] {
                let there = self.at(&event.channel).iter().filter(|it| it.is_there());
                told.extend(
                    there.filter(|it| it.is_named(&event.name)).map(|it| it.attribute(names::ID)),
                );
            }
            let runs = self.instance.run as usize + usize::from(has_ended);
            if told.len() < runs {
                broken.push((rule, format!("of {runs} runs {} ends were told", told.len())));
            }
        }
        for (at, node) in self.graph.nodes.iter().enumerate() {
            let is_done = self.instance.nodes.get(at).is_some_and(|it| it.state == "done");
            if let Kind::Publish { event } = &node.kind
                && is_done
                && !self
                    .at(&event.channel)
                    .iter()
                    .any(|it| it.is_there() && it.is_named(&event.name))
            {
                broken.push((rule, format!("{} was not told", node.name)));
            }
        }
    }

    fn each_input_counts_once(&self, broken: &mut Broken) {
        let rule = "each input counts once";
        let (mut causes, mut done) = (BTreeSet::new(), BTreeMap::new());
        for line in self.lines() {
            let counts = matches!(line.verdict, Verdict::Applied | Verdict::Deferred);
            if matches!(line.what, What::Event | What::Started | What::Cancelled)
                && counts
                && let Some(cause) = &line.cause
                && !causes.insert(cause)
            {
                broken.push((rule, format!("{cause} counted twice")));
            }
            if line.what == What::Succeeded
                && counts
                && let Some(node) = line.node
            {
                *done.entry(node.index()).or_insert(0) += 1;
            }
        }
        for (index, times) in done {
            let compensated = self.graph.nodes.get(index).is_some_and(|node| {
                matches!(&node.kind, Kind::Step(step) if matches!(step.way_back, WayBack::Compensated { .. }))
            });
            if times > 1 + usize::from(compensated) {
                let name = self.graph.nodes.get(index).map_or("?", |node| &node.name);
                broken.push((rule, format!("{name} succeeded {times} times")));
            }
        }
    }

    /// A time limit is reached once it is, reckoned from what was sent.
    fn no_time_is_over_before_it_is(&self, broken: &mut Broken) {
        let rule = "no time is over before it is";
        for (at, line) in self.lines().iter().enumerate() {
            if line.what != What::TimedOut || line.verdict != Verdict::Applied {
                continue;
            }
            let Some(node) = line.node else {
                let over = self.graph.deadline.map(|span| self.instance.started_at + span);
                if over.is_some_and(|over| line.at < over) {
                    broken.push((rule, format!("the deadline at {}", line.at)));
                }
                continue;
            };
            let Some(step) = self.graph.step(node) else { continue };
            let before = self.lines()[..at].iter().rev();
            let mut sent =
                before.flat_map(|line| line.sent.iter().map(move |sent| (line.at, sent)));
            let Some((asked, (_, leg, _))) = sent.find(|(_, sent)| sent.0 == node) else {
                continue;
            };
            let within = match (leg, &step.way_back, &step.status) {
                (Leg::Compensate, WayBack::Compensated { reply_within, .. }, _) => *reply_within,
                (Leg::Status, _, Some(status)) => status.reply_within,
                _ => step.reply_within,
            };
            if line.at < asked + within {
                let name = self.node(node);
                broken
                    .push((rule, format!("{name} was asked at {asked}, given up at {}", line.at)));
            }
        }
    }

    /// Who was refused, or withdrawn before its point of no return, does not complete.
    fn who_is_refused_turns_back(&self, broken: &mut Broken) {
        let rule = "who is refused or withdrawn turns back";
        let mut pivot_asked = false;
        for line in self.lines() {
            let is_refusal = match (line.what, line.node.map(|node| &self.graph.node(node).kind)) {
                (What::Rejected | What::Cancelled, _) => true,
                (What::Event, Some(Kind::Wait { refusing: Some(refusing), .. })) => {
                    line.note.as_deref() == Some(&*refusing.name)
                }
                _ => false,
            };
            if is_refusal && line.verdict == Verdict::Applied && self.instance.status == "completed"
            {
                broken.push((rule, format!("{:?} at {}, and it completed", line.what, line.at)));
            }
            if line.what == What::Cancelled
                && line.verdict == Verdict::Ignored(Why::PastPivot)
                && !pivot_asked
            {
                broken.push((rule, "its withdrawal was ignored before any pivot was asked".into()));
            }
            pivot_asked |= line.sent.iter().any(|(node, ..)| {
                self.graph.step(*node).is_some_and(|step| step.way_back == WayBack::Pivot)
            });
        }
    }

    /// A wait whose event is kept already does not wait in vain. Told where one wait alone takes that event.
    fn early_events_are_taken(&self, broken: &mut Broken) {
        let waits: Vec<(NodeId, Vec<&str>)> = self
            .graph
            .ids()
            .filter_map(|node| match &self.graph.node(node).kind {
                Kind::Wait { event, refusing, .. } => {
                    let names = [event].into_iter().chain(refusing).map(|it| &*it.name);
                    Some((node, names.collect()))
                }
                _ => None,
            })
            .collect();
        let mut kept: BTreeSet<&str> = BTreeSet::new();
        for line in self.lines() {
            if line.verdict == Verdict::Deferred {
                kept.extend(line.note.as_deref());
            }
            let Some(node) = line.node.filter(|_| line.what == What::TimedOut) else { continue };
            let Some((_, own)) = waits.iter().find(|(wait, _)| *wait == node) else { continue };
            let alone =
                |name: &&&str| waits.iter().filter(|(_, names)| names.contains(*name)).count() == 1;
            if let Some(name) = own.iter().filter(alone).find(|name| kept.contains(**name)) {
                let text = format!("{} waited in vain for {name}, which had come", self.node(node));
                broken.push(("an early event is kept for its wait", text));
            }
        }
    }

    /// Whether one before it may have ended and been forgotten.
    fn may_be_begun_anew(&self) -> bool {
        self.began() >= self.graph.retention
    }

    /// Whether this may not be the first that was begun for its key, so that others took what was said.
    fn has_forerunners(&self) -> bool {
        self.graph.repeat == Repeat::RestartWhenFinished || self.may_be_begun_anew()
    }

    /// Events for this saga, in their order, each once: by channel.
    fn said(&self) -> BTreeMap<&str, Vec<&Stored>> {
        let mut said: BTreeMap<&str, Vec<&Stored>> = BTreeMap::new();
        for event in self.graph.events_awaited() {
            said.entry(&event.channel).or_default();
        }
        for (channel, events) in &mut said {
            let mut known = BTreeSet::new();
            let ours = |it: &&Stored| {
                it.is_there() && self.graph.events_awaited().any(|event| it.is_named(&event.name))
            };
            let mut all: Vec<&Stored> = self.at(channel).iter().filter(ours).collect();
            all.sort_by_key(|it| it.kept.place.offset);
            all.retain(|it| known.insert(it.attribute(names::ID)));
            *events = all;
        }
        said
    }

    /// Each event that a broker has for this saga stands in its history, or is kept for it; and those of a log in their order.
    fn what_was_said_is_heard(&self, kept: &[&str], broken: &mut Broken) {
        if self.has_forerunners() {
            return;
        }
        let place_of =
            |id: &str| self.lines().iter().position(|line| line.cause.as_deref() == Some(id));
        for events in self.said().values() {
            let mut last = None;
            for event in events {
                let id = event.attribute(names::ID);
                let place = place_of(id);
                let is_kept = kept.iter().any(|text| text.contains(id));
                let came_too_soon = event.kept.at + PARKED_FOR.mul_f32(0.9) < self.began();
                if place.is_none() && !is_kept && !came_too_soon {
                    broken.push(("what was said is heard", format!("{id} is nowhere")));
                }
                if event.kind == SimKind::Log && place.is_some() && place < last {
                    let text = format!("{id} was heard before what came before it");
                    broken.push(("what was said is heard in its order", text));
                }
                last = place.max(last);
            }
        }
    }

    /// There are no more runs of a key than events that begin one.
    fn runs_are_asked_for(&self, broken: &mut Broken) {
        let start = &self.graph.start;
        let there = self.at(&start.channel).iter().filter(|it| it.is_named(&start.name));
        let asked: BTreeSet<&str> = there.map(|it| it.attribute(names::ID)).collect();
        if self.instance.run as usize + 1 > asked.len() {
            let runs = self.instance.run + 1;
            broken.push(("no run that nobody asked for", format!("{runs} runs, {asked:?}")));
        }
    }

    /// Its run, as its commands say it.
    fn run(&self) -> String {
        match self.instance.run {
            0 => String::new(),
            run => run.to_string(),
        }
    }

    /// Commands of this run as its history has them, with where each was stored first; none where it never was.
    fn commands(&self) -> Vec<Decided<'_>> {
        let (id, run) = (self.instance.id.to_string(), self.run());
        let (mut commands, mut known) = (Vec::new(), BTreeSet::new());
        for (at, line) in self.lines().iter().enumerate() {
            for (node, leg, attempt) in &line.sent {
                // What was held is asked again as the attempt that it was.
                let is_new = known.insert((node.index(), leg, attempt));
                let Some(step) = self.graph.step(*node).filter(|_| is_new) else { continue };
                let channel = match (leg, &step.way_back) {
                    (Leg::Compensate, WayBack::Compensated { command, .. }) => &command.channel,
                    _ => &step.command.channel,
                };
                let what = format!("{} {leg} {attempt} of {}", self.node(*node), line.at);
                let (name, attempt) = (self.node(*node), attempt.to_string());
                let is_it = |it: &&Stored| {
                    it.attribute(SAGA_ID) == id
                        && it.attribute(SAGA_RUN) == run
                        && it.attribute(SAGA_STEP) == name
                        && it.attribute(SAGA_LEG) == leg.as_str()
                        && it.attribute(SAGA_ATTEMPT) == attempt
                };
                let stored = self.at(channel).iter().filter(is_it);
                let stored = stored.map(|it| it.kept.place.offset).min();
                commands.push(Decided { at, node: *node, leg: *leg, channel, what, stored });
            }
        }
        commands
    }

    /// Whether a later line says that a command of this node did not leave, or that it need not.
    fn may_stay(&self, at: usize, node: NodeId) -> bool {
        let later = self.lines()[at..].iter().filter(|line| line.node == Some(node));
        later.into_iter().any(|line| match line.what {
            What::Held
            | What::Unsent
            | What::Failed
            | What::Rejected
            | What::NotDone
            | What::Unknown
            | What::Operator => true,
            What::Started
            | What::Succeeded
            | What::Event
            | What::TimedOut
            | What::Woke
            | What::Cancelled
            | What::Unheard => false,
        })
    }

    /// Where the process never died and no broker failed, each command that left lies there. A question need not be asked once its answer is known.
    fn what_was_sent_is_there(&self, broken: &mut Broken) {
        for command in self.commands() {
            let may_stay = command.leg == Leg::Status || self.may_stay(command.at, command.node);
            if command.stored.is_none() && !may_stay {
                let Decided { what, channel, .. } = command;
                broken.push(("what was sent is there", format!("{what} is not in {channel}")));
            }
        }
    }

    /// A command that was refused is not sent again, but for what was on its way.
    fn what_is_settled_stays(&self, broken: &mut Broken) {
        let (id, run) = (self.instance.id.to_string(), self.run());
        for line in self.lines() {
            let Some(node) = line.node.filter(|_| line.what == What::Rejected) else { continue };
            let Some(step) = self.graph.step(node) else { continue };
            let last = line.at.since(BEGINS) + CROSSES_WITHIN;
            let late = self.at(&step.command.channel).iter().find(|it| {
                it.kept.at > last
                    && it.attribute(SAGA_ID) == id
                    && it.attribute(SAGA_RUN) == run
                    && it.attribute(SAGA_STEP) == self.node(node)
                    && it.attribute(SAGA_LEG) == Leg::Do.as_str()
            });
            if let Some(late) = late.filter(|_| line.verdict == Verdict::Applied) {
                let (name, at) = (self.node(node), late.kept.at.as_secs_f64());
                let text = format!("{name} was refused at {}, and sent again at {at} s", line.at);
                broken.push(("what is settled is not sent again", text));
            }
        }
    }

    /// Commands of one saga reach a channel in the order in which they were decided.
    fn commands_keep_their_order(&self, broken: &mut Broken) {
        // One that was begun anew once its forerunner was forgotten sends the same commands with the same ids.
        if self.may_be_begun_anew() {
            return;
        }
        let commands = self.commands();
        let mut last: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
        for command in commands.iter().filter(|it| !self.may_stay(it.at, it.node)) {
            let Decided { channel, what, stored: Some(stored), .. } = command else { continue };
            let last = last.entry(channel).or_insert((*stored, what));
            if *stored < last.0 {
                let text = format!("{what} came before {} in {channel}", last.1);
                broken.push(("commands keep their order", text));
            }
            *last = (*stored, &**what).max(*last);
        }
    }
}

/// A command that a history tells of.
struct Decided<'a> {
    /// The line that does.
    at: usize,
    node: NodeId,
    leg: Leg,
    channel: &'a str,
    what: String,
    /// Where it was stored first.
    stored: Option<u64>,
}
