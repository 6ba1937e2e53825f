//! The judge: what must hold after a run, told from what the world saw. Its rules are its own; instances and accounts it reads through the
//! engine's views.
//!
//! What goes in: the effects that participants kept, what lies at the brokers, the instances as people see them, and the graphs. What comes
//! out: findings, each by the rule it breaks. Rules are written from the graph alone, plainly and slowly on purpose: they are what the engine is measured
//! against.

use super::{Findings, Simulation, disk::SimStore, process::APP, world::Place};
use crate::{
    engine::{self, Handle, InstanceView, KeptFilter, ListFilter, Snapshot},
    journal::SimDisk,
    participant::witnessed,
};
use dirigent_connectors::{
    names,
    simulated::{Fate, SimBroker},
};
use dirigent_model::{
    definition::{Graph, Kind, NodeId, WayBack},
    instance::InstanceId,
    message::Key,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// What a person at the running orchestrator could see at the end.
pub(super) struct Seen {
    snapshot: Snapshot,
    instances: Vec<InstanceView>,
    /// Messages that are kept, and for whom.
    kept: Vec<(InstanceId, String)>,
}

impl Seen {
    pub(super) fn of(handle: &Handle) -> Self {
        let all = handle.list(&ListFilter::default()).unwrap_or_default();
        let whole = |it: &InstanceView| handle.show(it.id).ok().flatten();
        let kept = handle.reader().kept(&KeptFilter::default());
        Self {
            snapshot: handle.snapshot(),
            instances: all.iter().filter_map(whole).collect(),
            kept: kept.iter().map(|kept| (kept.instance, format!("{kept:?}"))).collect(),
        }
    }

    /// How many ended how.
    pub(super) fn ended(&self) -> BTreeMap<String, u64> {
        let mut ended = BTreeMap::new();
        for instance in &self.instances {
            *ended.entry(instance.status.clone()).or_default() += 1;
        }
        ended
    }

    /// Runs of all keys, with those that others have followed.
    pub(super) fn runs(&self) -> u64 {
        self.instances.iter().map(|instance| u64::from(instance.run) + 1).sum()
    }
}

/// An effect at a participant, as it is kept there.
#[derive(Debug, Clone, Copy, Default)]
struct Effect {
    /// How often it took place.
    times: u64,
    /// The place of the last time among all effects of the run.
    order: u64,
}

/// By step: what its participant did, and undid.
type Effects = BTreeMap<String, (Effect, Effect)>;

/// Everything that is judged.
pub(super) struct Judged<'a> {
    pub simulation: &'a Simulation,
    pub seen: Option<&'a Seen>,
    pub brokers: &'a [(SimBroker, Vec<String>)],
    pub places: &'a [Arc<Place>],
    pub disk: &'a SimDisk,
    pub store: &'a SimStore,
    /// How much time passed.
    pub lasted: Duration,
}

impl Judged<'_> {
    pub(super) fn judge(&self, findings: &mut Findings) {
        self.accounts_balance(findings);
        let Some(seen) = self.seen else { return };
        self.nothing_that_was_said_is_lost(seen, findings);
        self.nothing_is_left_over(seen, findings);
        let effects = self.effects();
        for ((saga, run), effects) in &effects {
            each_takes_place_once(&format!("{saga} in run {run}"), effects, findings);
        }
        for instance in &seen.instances {
            let run = (instance.id.to_string(), u64::from(instance.run));
            let effects = effects.get(&run).cloned().unwrap_or_default();
            self.one_saga(instance, &effects, findings);
        }
        let known: BTreeSet<String> = seen.instances.iter().map(|it| it.id.to_string()).collect();
        let forgets = self.simulation.sagas.iter().any(|plan| plan.graph().retention < self.lasted);
        let sagas: BTreeSet<&String> = effects.keys().map(|(saga, _)| saga).collect();
        for stray in sagas.into_iter().filter(|saga| !known.contains(*saga) && !forgets) {
            findings
                .add("no effect without a saga", format!("{stray} is no saga, and has effects"));
        }
    }

    fn accounts_balance(&self, findings: &mut Findings) {
        match engine::audit(self.store.seen(), Arc::new(self.disk.clone())) {
            Ok(audit) if audit.is_clean() => {}
            Ok(audit) => findings.add("the accounts balance", format!("{audit:?}")),
            Err(error) => findings.add("the data folder can be read", crate::describe(&*error)),
        }
    }

    /// What a broker has confirmed of what begins a saga has begun one.
    fn nothing_that_was_said_is_lost(&self, seen: &Seen, findings: &mut Findings) {
        let known: BTreeSet<InstanceId> = seen.instances.iter().map(|it| it.id).collect();
        for said in &self.simulation.said {
            let Some((saga, key)) = &said.begins else { continue };
            let is_known = known.contains(&InstanceId::of(saga, &Key::from(key.as_str())));
            if !is_known && !self.may_be_forgotten(saga, key) {
                findings
                    .add("every saga that was asked for begins", format!("{saga} {key} did not"));
            }
        }
    }

    /// Whether a saga that is not there has ended, and was kept for as long as it declares: its end was told, where it tells it.
    fn may_be_forgotten(&self, saga: &str, key: &str) -> bool {
        let Some(graph) = self.simulation.plan(saga).map(|plan| plan.graph()) else { return false };
        let mut tells = graph.ends.completed.iter().chain(&graph.ends.failed).peekable();
        let is_told = |name: &str, channel: &str| {
            let lie = self.brokers.iter().flat_map(|(broker, _)| broker.messages(channel));
            lie.filter(|it| it.fate == Fate::There && it.message.key == key)
                .any(|it| it.message.attributes.get(names::TYPE) == Some(name))
        };
        graph.retention < self.lasted
            && (tells.peek().is_none() || tells.any(|event| is_told(&event.name, &event.channel)))
    }

    fn nothing_is_left_over(&self, seen: &Seen, findings: &mut Findings) {
        let rule = "nothing is left over";
        let confirmed: u64 = seen.snapshot.confirmed.iter().sum();
        if confirmed != seen.snapshot.sent {
            let sent = seen.snapshot.sent;
            findings.add(rule, format!("{sent} messages were sent, {confirmed} are confirmed"));
        }
        // An event that comes late waits for a further run of its key, and nobody for it.
        let lives = |id: InstanceId| {
            let status = seen.instances.iter().find(|it| it.id == id).map(|it| it.status.as_str());
            matches!(status, Some("running" | "turning-back" | "blocked"))
        };
        for (_, kept) in seen.kept.iter().filter(|(id, _)| lives(*id)) {
            findings.add(rule, format!("a message is kept from its saga: {kept}"));
        }
        for (broker, _) in self.brokers {
            for unsettled in broker.unsettled() {
                findings.add(rule, format!("a delivery is not settled: {unsettled:?}"));
            }
            for letters in self.dead_letters() {
                for letter in broker.messages(&letters).iter().filter(|it| it.fate == Fate::There) {
                    let attributes = &letter.message.attributes;
                    findings.add("no message becomes a dead letter", format!("{attributes:?}"));
                }
            }
        }
    }

    fn dead_letters(&self) -> Vec<String> {
        let names = self.places.iter().map(|place| place.name.as_str()).chain([APP]);
        names.map(|name| format!("{name}.dead-letters")).collect()
    }

    /// By saga and run of its key.
    fn effects(&self) -> BTreeMap<(String, u64), Effects> {
        let mut effects: BTreeMap<(String, u64), Effects> = BTreeMap::new();
        for place in self.places {
            for witness in witnessed(&*place.store.seen()) {
                let of_run = effects.entry((witness.saga, witness.run)).or_default();
                let of_step = of_run.entry(witness.step).or_default();
                let effect = if witness.undoes { &mut of_step.1 } else { &mut of_step.0 };
                effect.times += witness.times;
                effect.order = effect.order.max(witness.order);
            }
        }
        effects
    }

    fn one_saga(&self, instance: &InstanceView, effects: &Effects, findings: &mut Findings) {
        let who = || format!("{} {}", instance.saga, instance.key);
        let Some(plan) = self.simulation.plan(&instance.saga) else { return };
        let graph = plan.graph();
        let of = |node: NodeId| effects.get(graph.name_of(node)).copied().unwrap_or_default();
        let steps: Vec<NodeId> = graph.ids().filter(|node| graph.step(*node).is_some()).collect();
        match instance.status.as_str() {
            "completed" => {
                for node in steps.iter().filter(|node| of(**node).1.times > 0) {
                    let step = graph.name_of(*node);
                    findings.add(
                        "what completed is not compensated",
                        format!("{}: {step} was undone", who()),
                    );
                }
                for node in &steps {
                    let is_done =
                        instance.nodes.get(node.index()).is_some_and(|it| it.state == "done");
                    if is_done && of(*node).0.times == 0 && self.is_witnessed(graph, *node) {
                        let step = graph.name_of(*node);
                        findings.add(
                            "what is done has taken effect",
                            format!("{}: {step} is said to be done", who()),
                        );
                    }
                }
            }
            "compensated" => {
                for node in &steps {
                    let (done, undone) = of(*node);
                    let step = graph.name_of(*node);
                    let stands = done.times > undone.times;
                    match graph.step(*node).map(|step| &step.way_back) {
                        Some(WayBack::Compensated { .. }) if stands => findings.add(
                            "all that took effect is compensated",
                            format!("{}: {step} stands", who()),
                        ),
                        Some(WayBack::Pivot) if stands => findings.add(
                            "behind the pivot nothing turns back",
                            format!("{}: {step} was done", who()),
                        ),
                        _ => {}
                    }
                }
                self.in_reverse(graph, &steps, &of, &who, findings);
            }
            "killed" | "blocked" => {}
            other => {
                findings.add(
                    "every saga ends",
                    format!("{} is {other}: {:?}, due {:?}", who(), instance.nodes, instance.due),
                );
            }
        }
        if instance.status == "blocked" && instance.incidents.is_empty() {
            findings.add("who is blocked says why", who());
        }
    }

    /// Compensations go in the reverse order of what they undo.
    fn in_reverse(
        &self,
        graph: &Graph,
        steps: &[NodeId],
        of: &dyn Fn(NodeId) -> (Effect, Effect),
        who: &dyn Fn() -> String,
        findings: &mut Findings,
    ) {
        for first in steps {
            for second in steps.iter().filter(|second| follows(graph, *first, **second)) {
                let (undone_first, undone_second) = (of(*first).1, of(*second).1);
                let both = undone_first.times > 0 && undone_second.times > 0;
                if both && undone_first.order < undone_second.order {
                    let (first, second) = (graph.name_of(*first), graph.name_of(*second));
                    findings.add(
                        "compensations go in reverse order",
                        format!(
                            "{}: {first} was undone before {second}, which depends on it",
                            who()
                        ),
                    );
                }
            }
        }
    }

    /// Whether the participant of a step says what it did.
    fn is_witnessed(&self, graph: &Graph, node: NodeId) -> bool {
        graph.step(node).is_some_and(|step| self.simulation.reads(&step.command.channel))
    }
}

/// What a participant did for a step of one run, it did once, and undid only then.
fn each_takes_place_once(who: &str, effects: &Effects, findings: &mut Findings) {
    for (step, (done, undone)) in effects {
        if done.times > 1 || undone.times > 1 {
            let (done, undone) = (done.times, undone.times);
            findings.add(
                "every effect takes place once",
                format!("{who}: {step} was done {done} times, undone {undone} times"),
            );
        }
        if undone.times > done.times {
            findings.add("only what was done is undone", format!("{who}: {step}"));
        }
    }
}

/// Whether the second step begins only after the first one: the block that holds both is a sequence, and has them in this order.
fn follows(graph: &Graph, first: NodeId, second: NodeId) -> bool {
    let (up_first, up_second) = (way_up(graph, first), way_up(graph, second));
    let common =
        up_first.iter().rev().zip(up_second.iter().rev()).take_while(|(a, b)| a == b).count();
    let (Some(block), Some(of_first), Some(of_second)) = (
        common.checked_sub(1).and_then(|last| up_first.iter().rev().nth(last)),
        up_first.iter().rev().nth(common),
        up_second.iter().rev().nth(common),
    ) else {
        return false;
    };
    let in_order = matches!(graph.nodes[block.index()].kind, Kind::Sequence { .. });
    let place = |node: &NodeId| graph.children(*block).into_iter().position(|child| child == *node);
    in_order && place(of_first) < place(of_second)
}

/// A node and all blocks around it, the innermost first.
fn way_up(graph: &Graph, node: NodeId) -> Vec<NodeId> {
    std::iter::successors(Some(node), |node| graph.nodes[node.index()].parent).collect()
}
