//! The judge from inside: what must hold after a run, by the instances as the engine shows them to people.
//!
//! What goes in: the effects that participants kept, what lies at the brokers, the engine's views, and the graphs. What comes out: findings, each by
//! the rule it breaks. Rules are written from the graph alone, plainly and slowly on purpose: they are what the engine is measured
//! against. The same is told from [`outside`](super::outside) without any view.

use super::{Effect, Effects, Findings, Judged, Seen, outside::paths::follows};
use crate::engine::InstanceView;
use dirigent_connectors::{names, simulated::Fate};
use dirigent_model::{
    definition::{Graph, NodeId, WayBack},
    instance::InstanceId,
    message::Key,
};
use std::collections::{BTreeMap, BTreeSet};

impl Judged<'_> {
    pub(super) fn inside(
        &self,
        seen: &Seen,
        effects: &BTreeMap<(String, u64), Effects>,
        findings: &mut Findings,
    ) {
        self.nothing_that_was_said_is_lost(seen, findings);
        for ((saga, run), effects) in effects {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn found(done: u64, undone: u64) -> Vec<&'static str> {
        let effect = |times| Effect { times, order: 0 };
        let effects = Effects::from([("step".into(), (effect(done), effect(undone)))]);
        let mut findings = Findings::default();
        each_takes_place_once("a saga", &effects, &mut findings);
        findings.0.into_iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn an_effect_that_took_place_twice_and_one_undone_that_never_was_are_found() {
        assert_eq!(found(1, 1), [""; 0]);
        assert_eq!(found(2, 0), ["every effect takes place once"]);
        assert_eq!(found(0, 1), ["only what was done is undone"]);
    }
}
