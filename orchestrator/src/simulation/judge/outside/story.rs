//! The story of a run as it was seen at its brokers, taken apart by saga and run of its key.
//!
//! What goes in: what brokers told, in order. What comes out: for each run of a saga the commands that were sent, the replies that were handed to
//! the orchestrator, and for each key what began it, what happened, and which ends were told.

use super::{super::super::process::APP, Graphs, marks};
use dirigent_connectors::{
    Message, Sent,
    simulated::{Place, SimEvent, What},
};
use dirigent_model::{
    definition::{Graph, NodeId},
    instance::InstanceId,
    message::Key,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// A moment: its place in the story.
pub(super) type Moment = usize;

/// An attempt of a command.
pub(super) struct Command<'a> {
    pub message: &'a Message,
    /// When it was sent first, whether the broker took it or may have.
    pub sent: Moment,
    /// When a broker stored it first.
    pub stored: Option<Moment>,
}

/// A reply, or an event, that the orchestrator was handed.
pub(super) struct Heard<'a> {
    pub message: &'a Message,
    /// When first.
    pub at: Moment,
    /// How long after the beginning, and when last: a message may be said again.
    pub after: Duration,
    pub again: Duration,
    /// When the orchestrator said that it had taken care of it, and how long after the beginning that was.
    pub settled: Option<(Moment, Duration)>,
}

/// One run of a saga's key.
#[derive(Default)]
pub(super) struct Run<'a> {
    /// In the order in which they were sent first.
    pub commands: Vec<Command<'a>>,
    pub replies: Vec<Heard<'a>>,
}

/// One key of a saga.
pub(super) struct Keyed<'a> {
    pub graph: &'a Graph,
    pub key: String,
    /// What began it, each message once.
    pub starts: Vec<Heard<'a>>,
    /// What it may have waited for.
    pub events: Vec<Heard<'a>>,
    /// Ids of the messages that told of its end, and what they told.
    pub ends: Vec<(&'a str, &'a str, Moment)>,
    /// A customer was told that the broker has what begins it.
    pub is_confirmed: bool,
    pub runs: BTreeMap<u64, Run<'a>>,
}

/// All of it.
pub(super) struct Story<'a> {
    /// By the id of the instance.
    pub sagas: BTreeMap<String, Keyed<'a>>,
    /// Commands of nobody.
    pub strays: Vec<&'a Message>,
    /// Every message of the orchestrator that was stored, in order.
    pub ours: Vec<&'a Message>,
    /// Channels of whose messages a broker first said nothing, and when.
    pub unanswered: BTreeMap<&'a str, Moment>,
}

impl<'a> Story<'a> {
    /// Takes the story apart.
    pub(super) fn of(told: &'a [(usize, SimEvent)], graphs: &'a Graphs<'a>) -> Self {
        let mut story = Self {
            sagas: BTreeMap::new(),
            strays: Vec::new(),
            ours: Vec::new(),
            unanswered: BTreeMap::new(),
        };
        let mut open: BTreeMap<(usize, &Place), &Message> = BTreeMap::new();
        let mut handed: BTreeMap<(usize, &Place), &Message> = BTreeMap::new();
        for (at, (broker, event)) in told.iter().enumerate() {
            match &event.what {
                What::Stored { place, message, open: is_open } => {
                    story.stored(at, message);
                    if *is_open {
                        open.insert((*broker, place), message);
                    } else {
                        story.counts(at, message, graphs);
                    }
                }
                What::Ended { committed, places } => {
                    let ended: Vec<&Message> =
                        places.iter().filter_map(|place| open.remove(&(*broker, place))).collect();
                    for message in ended.into_iter().filter(|_| *committed) {
                        story.counts(at, message, graphs);
                    }
                }
                What::Answered { message, sent } => story.answered(at, message, sent, graphs),
                What::HandedOut { group, place, message } if **group == *APP => {
                    handed.insert((*broker, place), message);
                    story.handed_out((at, event.at), message, graphs);
                }
                What::Settled { group, place, .. } if **group == *APP => {
                    if let Some(message) = handed.get(&(*broker, place)) {
                        story.settled((at, event.at), message, graphs);
                    }
                }
                _ => {}
            }
        }
        story
    }

    fn stored(&mut self, at: Moment, message: &'a Arc<Message>) {
        if marks::is_ours(message) && !marks::is_dead_letter(message) {
            self.ours.push(message);
        }
        self.sent(at, message, true);
    }

    fn sent(&mut self, at: Moment, message: &'a Message, is_stored: bool) {
        if !marks::is_command(message) {
            return;
        }
        let Some((saga, run)) = marks::saga(message) else { return };
        let Some(keyed) = self.sagas.get_mut(saga) else {
            self.strays.push(message);
            return;
        };
        let commands = &mut keyed.runs.entry(run).or_default().commands;
        let id = marks::id(message);
        match commands.iter_mut().find(|known| marks::id(known.message) == id) {
            Some(known) if is_stored => known.stored = known.stored.or(Some(at)),
            Some(_) => {}
            None => {
                commands.push(Command { message, sent: at, stored: is_stored.then_some(at) });
            }
        }
    }

    /// A message is there for good.
    fn counts(&mut self, at: Moment, message: &'a Message, graphs: &Graphs<'a>) {
        if !marks::is_ours(message) || marks::saga(message).is_some() {
            return;
        }
        let (id, name) = (marks::id(message), marks::name(message));
        for graph in graphs.ending_with(message) {
            if let Some(keyed) = self.sagas.get_mut(&id_of(graph, &message.key))
                && !keyed.ends.iter().any(|(known, told, _)| (*known, *told) == (id, name))
            {
                keyed.ends.push((id, name, at));
            }
        }
    }

    fn answered(&mut self, at: Moment, message: &'a Message, sent: &Sent, graphs: &Graphs<'a>) {
        match sent {
            Sent::Confirmed => {
                for (graph, key) in graphs.begun_by(message) {
                    self.keyed(graph, &key).is_confirmed = true;
                }
            }
            Sent::Unsent { .. } | Sent::Unknown { .. } | Sent::Fenced { .. } => {
                if matches!(sent, Sent::Unknown { .. }) {
                    self.unanswered.entry(&message.channel).or_insert(at);
                }
                self.sent(at, message, false);
            }
        }
    }

    fn handed_out(
        &mut self,
        (at, after): (Moment, Duration),
        message: &'a Message,
        graphs: &Graphs<'a>,
    ) {
        let heard = || Heard { message, at, after, again: after, settled: None };
        if let Some((saga, run)) = marks::saga(message) {
            if let Some(keyed) = self.sagas.get_mut(saga) {
                keyed.runs.entry(run).or_default().replies.push(heard());
            }
            return;
        }
        let is_new = |known: &[Heard<'_>]| {
            !known.iter().any(|known| marks::id(known.message) == marks::id(message))
        };
        for (graph, key) in graphs.begun_by(message) {
            let starts = &mut self.keyed(graph, &key).starts;
            if is_new(starts) {
                starts.push(heard());
            }
            let id = marks::id(message);
            for start in starts.iter_mut().filter(|start| marks::id(start.message) == id) {
                start.again = after;
            }
        }
        for (graph, key) in graphs.awaiting(message) {
            let events = &mut self.keyed(graph, &key).events;
            if is_new(events) {
                events.push(heard());
            }
        }
    }

    fn settled(&mut self, when: (Moment, Duration), message: &'a Message, graphs: &Graphs<'a>) {
        let id = marks::id(message);
        let note = |heard: &mut Vec<Heard<'_>>| {
            for known in heard.iter_mut().filter(|known| marks::id(known.message) == id) {
                known.settled = known.settled.or(Some(when));
            }
        };
        if let Some((saga, run)) = marks::saga(message) {
            let run = self.sagas.get_mut(saga).and_then(|keyed| keyed.runs.get_mut(&run));
            if let Some(run) = run {
                note(&mut run.replies);
            }
            return;
        }
        for (graph, key) in graphs.awaiting(message) {
            note(&mut self.keyed(graph, &key).events);
        }
    }

    fn keyed(&mut self, graph: &'a Graph, key: &str) -> &mut Keyed<'a> {
        self.sagas.entry(id_of(graph, key)).or_insert_with(|| Keyed {
            graph,
            key: key.to_owned(),
            starts: Vec::new(),
            events: Vec::new(),
            ends: Vec::new(),
            is_confirmed: false,
            runs: BTreeMap::new(),
        })
    }
}

impl Keyed<'_> {
    /// Whether it may have been forgotten, and begun once more: that is another saga with the same name for everything.
    pub(super) fn may_be_two(&self) -> bool {
        let first = self.starts.iter().map(|start| start.after).min().unwrap_or_default();
        self.starts.iter().any(|start| start.again > first + self.graph.retention)
    }
}

/// The id of a saga's instance.
pub(super) fn id_of(graph: &Graph, key: &str) -> String {
    InstanceId::of(&graph.name, &Key::from(key)).to_string()
}

impl<'a> Run<'a> {
    /// Attempts for a step on a leg, in the order in which they were sent first.
    pub(super) fn of(&self, step: &str, leg: &str) -> impl Iterator<Item = &Command<'a>> {
        self.commands.iter().filter(move |command| {
            marks::step(command.message) == step && marks::leg(command.message) == leg
        })
    }

    /// Replies that a step got on a leg, under one of these names.
    pub(super) fn replies_to(
        &self,
        step: &str,
        leg: &str,
        names: &[&str],
    ) -> impl Iterator<Item = &Heard<'a>> {
        self.replies.iter().filter(move |reply| {
            marks::step(reply.message) == step
                && marks::leg(reply.message) == leg
                && names.contains(&marks::name(reply.message))
        })
    }

    /// When the orchestrator first heard that a step was done, from whomever.
    pub(super) fn done(&self, graph: &Graph, node: NodeId) -> Option<Moment> {
        let (step, name) = (graph.step(node)?, graph.name_of(node));
        let success = [step.success.as_str()];
        let told = self.replies_to(name, "do", &success);
        told.chain(self.replies_to(name, "status", &success)).map(|reply| reply.at).min()
    }

    /// When the first attempt for a step was sent on a leg.
    pub(super) fn first(&self, step: &str, leg: &str) -> Option<Moment> {
        self.of(step, leg).map(|command| command.sent).min()
    }

    /// Steps that were asked for on a leg, each once.
    pub(super) fn asked(&self, graph: &Graph, leg: &str) -> BTreeSet<NodeId> {
        let of_leg = self.commands.iter().filter(|it| marks::leg(it.message) == leg);
        of_leg.filter_map(|it| graph.find(marks::step(it.message))).collect()
    }
}
