//! The twelve canonical sagas: small enough that every point of a run can be tried, and together all that a saga can be made of.
//!
//! What goes in: a saga's name. What comes out: how it is declared, who answers it, what its customers say, and how it ends. What must be true: undisturbed,
//! each of them comes to the end that is declared here, whatever becomes of one of its stages. These ends are written by hand, from what the blocks
//! promise: they are what the engine is measured against.

use super::{
    example,
    messages::{Agreed, Objected, Wished, Withdrawn},
    script::{Outcome, Script, Trouble},
    small,
};
use dirigent::{participant::Participant, simulation::Simulation};
use dirigent_model::{
    definition::{Definition, DefinitionErrors, Graph, Kind, Plan, Step, WayBack},
    instance::Leg,
    message::Event,
};
use order::{
    order::messages::{OrderApproved, OrderDeclined},
    trip::trip_saga,
};
use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

/// The number of everybody's purchase, unless it is another's turn to be chosen. Odd, for the saga that chooses.
pub(super) const NUMBER: u64 = 3;

/// When news come, unless they come early: long before their time is over, whoever dies meanwhile.
const NEWS_AFTER: Duration = Duration::from_secs(60);

/// When news come early.
const EARLY_AFTER: Duration = Duration::from_secs(30);

/// When what was said is said again: long after its saga has ended, whoever died meanwhile.
const AGAIN_AFTER: Duration = Duration::from_secs(5 * 60);

/// How soon a copy follows: while what it is a copy of is still taken in.
const COPY_AFTER: Duration = Duration::from_millis(1);

// Early means: while the saga rests.
const _: () = assert!(EARLY_AFTER.as_secs() * 2 < small::RESTS.as_secs());

/// A step that is refused, not answered, or in doubt.
const ANY: &[Outcome] = &[Outcome::Rejection, Outcome::Timeout, Outcome::Doubt];
/// A step that answers once it was asked again, or a wait after whose time the saga goes on.
const REFUSED: &[Outcome] = &[Outcome::Rejection];
/// A step that is known not to have been done, or a wait whose time is over.
const NOT_DONE: &[Outcome] = &[Outcome::Rejection, Outcome::Timeout];

/// One of the twelve.
#[derive(Clone, Copy)]
pub struct Canonical {
    /// What it is called.
    pub name: &'static str,
    /// Why it is one of them.
    pub why: &'static str,
    /// Its steps and waits, in the order in which they are declared.
    pub stages: &'static [&'static str],
    /// What turns it back, forward, by stage; with every other outcome it completes.
    pub(super) turns_back: &'static [(&'static str, &'static [Outcome])],
    /// The stage that is refused where something is to be undone: the last one, with most done before.
    pub(super) turn: &'static str,
    /// Other numbers, by which other stages are chosen, and which.
    pub(super) others: &'static [(u64, &'static [&'static str])],
    /// Runs of its key.
    pub(super) runs: u64,
    plan: fn() -> Arc<Plan>,
    participants: &'static [fn(Script) -> Participant],
    /// What customers say about this number, by what is to become of its wait.
    said: fn(Simulation, u64, Outcome) -> Simulation,
}

/// All of them.
pub static CANONICAL: [Canonical; 12] = [
    Canonical {
        name: "order",
        why: "the example: branches, a choice, a person who decides, a status that is asked for, a pivot, a retriable step",
        stages: &["reserve-stock", "authorise-payment", "approval", "capture-payment", "ship"],
        turns_back: &[
            ("reserve-stock", ANY),
            ("authorise-payment", NOT_DONE),
            ("approval", NOT_DONE),
            ("capture-payment", NOT_DONE),
        ],
        turn: "capture-payment",
        others: &[],
        runs: 1,
        plan: || plan(example::order()),
        participants: &[example::inventory, example::payment, example::shipping],
        said: |world, number, outcome| {
            let order = number.cast_signed();
            let approved = OrderApproved { order, by: "person".into() };
            let declined = OrderDeclined { order, by: "person".into() };
            let placed = example::large_order(order);
            let world = world.starts(Duration::ZERO, &number.to_string(), &placed);
            news(world, (NEWS_AFTER, number), outcome, &approved, &declined)
        },
    },
    Canonical {
        name: "trip",
        why: "the example without a point of no return: branches, then a step, and a way back from everywhere",
        stages: &["book-flight", "book-hotel", "rent-car"],
        turns_back: &[("book-flight", ANY), ("book-hotel", ANY), ("rent-car", ANY)],
        turn: "rent-car",
        others: &[],
        runs: 1,
        plan: || plan(trip_saga()),
        participants: &[example::flights, example::hotels, example::cars],
        said: |world, number, _| {
            let requested = example::requested(number.cast_signed());
            world.starts(Duration::ZERO, &number.to_string(), &requested)
        },
    },
    Canonical {
        name: "chain",
        why: "the saga of the textbook: a sequence, undone in reverse order",
        stages: &["first", "second", "third"],
        turns_back: &[("first", ANY), ("second", ANY), ("third", ANY)],
        turn: "third",
        others: &[],
        runs: 1,
        plan: || plan(small::chain()),
        participants: &[small::shelf, small::till],
        said: wished,
    },
    Canonical {
        name: "fork",
        why: "branches of different length that are joined before a pivot: what is open settles before anything is undone",
        stages: &["thing", "money", "charge"],
        turns_back: &[("thing", ANY), ("money", ANY), ("charge", REFUSED)],
        turn: "charge",
        others: &[],
        runs: 1,
        plan: || plan(small::fork()),
        participants: &[small::shelf, small::till],
        said: wished,
    },
    Canonical {
        name: "nest",
        why: "branches within a branch: three steps under way at once, undone by their dependencies",
        stages: &["money", "left", "right", "other"],
        turns_back: &[("money", ANY), ("left", ANY), ("right", ANY), ("other", ANY)],
        turn: "right",
        others: &[],
        runs: 1,
        plan: || plan(small::nest()),
        participants: &[small::shelf, small::till],
        said: wished,
    },
    Canonical {
        name: "choice",
        why: "answers of the data that are recorded when first asked, and hold after every restart",
        stages: &["thing", "money", "charge"],
        turns_back: &[("thing", ANY), ("money", ANY), ("charge", REFUSED)],
        turn: "charge",
        others: &[(2, &["charge"])],
        runs: 1,
        plan: || plan(small::choice()),
        participants: &[small::shelf, small::till],
        said: wished,
    },
    Canonical {
        name: "reminder",
        why: "a wait after whose time the saga goes on, and which can be refused",
        stages: &["thing", "agreement", "money"],
        turns_back: &[("thing", ANY), ("agreement", REFUSED), ("money", ANY)],
        turn: "money",
        others: &[],
        runs: 1,
        plan: || plan(small::reminder()),
        participants: &[small::shelf, small::till],
        said: |world, number, outcome| {
            let wished = wished(world, number, outcome);
            news(wished, (NEWS_AFTER, number), outcome, &Agreed { number }, &Objected { number })
        },
    },
    Canonical {
        name: "early",
        why: "an event that comes while its saga rests: it is kept until it is waited for",
        stages: &["thing", "agreement"],
        turns_back: &[("thing", ANY), ("agreement", NOT_DONE)],
        turn: "agreement",
        others: &[],
        runs: 1,
        plan: || plan(small::early()),
        participants: &[small::shelf],
        said: |world, number, outcome| {
            let wished = wished(world, number, outcome);
            news(wished, (EARLY_AFTER, number), outcome, &Agreed { number }, &Objected { number })
        },
    },
    Canonical {
        name: "payout",
        why: "a pivot that can't be asked about, and branches behind it: asked until they answer",
        stages: &["thing", "charge", "letter", "parcel"],
        turns_back: &[("thing", ANY), ("charge", REFUSED)],
        turn: "charge",
        others: &[],
        runs: 1,
        plan: || plan(small::payout()),
        participants: &[small::shelf, small::till, small::post],
        said: wished,
    },
    Canonical {
        name: "inquiry",
        why: "a step and a pivot whose participants are asked what became of them before anything is undone",
        stages: &["money", "charge", "parcel"],
        turns_back: &[("money", NOT_DONE), ("charge", NOT_DONE)],
        turn: "charge",
        others: &[],
        runs: 1,
        plan: || plan(small::inquiry()),
        participants: &[small::till, small::post],
        said: wished,
    },
    Canonical {
        name: "withdrawn",
        why: "a saga that its customer withdraws while it waits, or whose own time is over",
        stages: &["thing", "agreement"],
        turns_back: &[("thing", ANY), ("agreement", NOT_DONE)],
        turn: "agreement",
        others: &[],
        runs: 1,
        plan: || plan(small::withdrawn()),
        participants: &[small::shelf],
        said: |world, number, outcome| {
            let wished = wished(world, number, outcome);
            news(wished, (NEWS_AFTER, number), outcome, &Agreed { number }, &Withdrawn { number })
        },
    },
    Canonical {
        name: "again",
        why: "a key that begins anew once its saga has ended, with a step that leaves nothing to undo, and an end that nobody is told of",
        stages: &["look", "thing"],
        turns_back: &[("look", ANY), ("thing", ANY)],
        turn: "thing",
        others: &[],
        runs: 2,
        plan: || plan(small::again()),
        participants: &[small::shelf],
        said: |world, number, outcome| {
            let wished = wished(world, number, outcome);
            wished.hears(AGAIN_AFTER, &number.to_string(), &Wished { number })
        },
    },
];

impl Canonical {
    /// The one of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        CANONICAL.iter().find(|saga| saga.name == name)
    }

    /// Its own number and others, each with the stages that take place by it.
    pub(super) fn numbers(&self) -> Vec<(u64, &'static [&'static str])> {
        std::iter::once((NUMBER, self.stages)).chain(self.others.iter().copied()).collect()
    }

    /// What may become of these stages, success aside: on each of their legs.
    pub(super) fn troubles(&self, stages: &[&'static str]) -> Vec<Trouble> {
        let plan = (self.plan)();
        let mut troubles = Vec::new();
        for stage in stages.iter().copied() {
            let mut adds = |leg, outcomes: &[Outcome]| {
                troubles.extend(outcomes.iter().map(|outcome| Trouble {
                    stage,
                    leg,
                    outcome: *outcome,
                }));
            };
            let Some(step) = step_of(plan.graph(), stage) else {
                adds(Leg::Do, ANY);
                adds(Leg::Do, &[Outcome::Twice]);
                continue;
            };
            adds(Leg::Do, ANY);
            let is_compensated = matches!(step.way_back, WayBack::Compensated { .. });
            if is_compensated && stage != self.turn {
                adds(Leg::Compensate, ANY);
            }
            // A pivot that stays in doubt wants a person, and so does not end by itself.
            match (&step.status, is_compensated) {
                (Some(_), true) => adds(Leg::Status, ANY),
                (Some(_), false) => adds(Leg::Status, &[Outcome::Timeout, Outcome::Doubt]),
                (None, _) => {}
            }
        }
        troubles
    }

    /// How it ends, as people see it.
    pub(super) fn ends(&self, trouble: Option<Trouble>) -> &'static str {
        let turns_back = trouble.is_some_and(|Trouble { stage, leg, outcome }| match leg {
            Leg::Do => {
                let of_stage = self.turns_back.iter().find(|(turning, _)| *turning == stage);
                of_stage.is_some_and(|(_, outcomes)| outcomes.contains(&outcome))
            }
            // It has turned back before.
            Leg::Compensate => true,
            // Only what is answered in the end, and was done, counts as done.
            Leg::Status => outcome != Outcome::Timeout,
        });
        if turns_back { "compensated" } else { "completed" }
    }

    /// In which this goes wrong, and what was met is counted.
    fn script(&self, trouble: Option<Trouble>, met: &Arc<AtomicU64>) -> Script {
        let plan = (self.plan)();
        let step = trouble.and_then(|trouble| step_of(plan.graph(), trouble.stage));
        let is_insisted_on = step.is_some_and(|step| match step.way_back {
            WayBack::Pivot => step.status.is_none(),
            WayBack::Retriable => true,
            WayBack::Compensated { .. } | WayBack::Nothing { .. } => false,
        });
        let is_undone = trouble.is_some_and(|trouble| trouble.leg == Leg::Compensate);
        let turned_back_by = is_undone.then_some(self.turn);
        Script { trouble, turned_back_by, is_insisted_on, met: Arc::clone(met) }
    }

    /// A world with one instance of it, in which this goes wrong, and what was met is counted.
    pub(super) fn world(
        &self,
        world: Simulation,
        (number, trouble): (u64, Option<Trouble>),
        met: &Arc<AtomicU64>,
    ) -> Simulation {
        let plan = (self.plan)();
        let script = self.script(trouble, met);
        let wait = waits(plan.graph()).next().unwrap_or_default();
        let outcome = script.of_wait(&wait);
        let world = self.participants.iter().fold(world.saga(plan), |world, participant| {
            let script = script.clone();
            world.participant(move || participant(script.clone()))
        });
        (self.said)(world, number, outcome)
    }

    /// Whether a trouble of this stage is a participant's: customers say what becomes of a wait.
    pub(super) fn is_met(&self, stage: &str) -> bool {
        step_of((self.plan)().graph(), stage).is_some()
    }
}

fn step_of<'a>(graph: &'a Graph, stage: &str) -> Option<&'a Step> {
    graph.find(stage).and_then(|node| graph.step(node))
}

/// Names of waits.
fn waits(graph: &Graph) -> impl Iterator<Item = String> {
    let is_wait = |kind: &Kind| matches!(kind, Kind::Wait { .. });
    graph.nodes.iter().filter(move |node| is_wait(&node.kind)).map(|node| node.name.clone())
}

fn plan<D>(definition: Result<Definition<D>, DefinitionErrors>) -> Arc<Plan> {
    definition.expect("a test builds all canonical sagas").plan()
}

fn wished(world: Simulation, number: u64, _: Outcome) -> Simulation {
    world.starts(Duration::ZERO, &number.to_string(), &Wished { number })
}

/// What is waited for is said so long after the beginning, or what refuses it, as its outcome says.
fn news<A: Event, R: Event>(
    world: Simulation,
    (after, number): (Duration, u64),
    outcome: Outcome,
    agrees: &A,
    refuses: &R,
) -> Simulation {
    let key = &number.to_string();
    match outcome {
        Outcome::Success => world.hears(after, key, agrees),
        Outcome::Rejection => world.hears(after, key, refuses),
        Outcome::Timeout => world,
        Outcome::Doubt => world.hears(after, key, agrees).hears(AGAIN_AFTER, key, agrees),
        Outcome::Twice => world.hears(after, key, agrees).repeats(after + COPY_AFTER),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dirigent_model::definition::{OnTimeout, Repeat};
    use std::collections::BTreeSet;

    #[test]
    fn the_stages_of_each_saga_are_its_steps_and_waits() {
        for saga in &CANONICAL {
            let plan = (saga.plan)();
            let graph = plan.graph();
            let is_stage = |kind: &Kind| matches!(kind, Kind::Step(_) | Kind::Wait { .. });
            let found: Vec<&str> =
                graph.nodes.iter().filter(|it| is_stage(&it.kind)).map(|it| &*it.name).collect();
            assert_eq!(found, saga.stages, "{}", saga.name);
            assert_eq!(graph.name, saga.name);
            assert!(waits(graph).count() <= 1, "{}: whose wait would an outcome be?", saga.name);
        }
    }

    #[test]
    fn together_they_are_made_of_all_that_a_saga_can_be_made_of() {
        let mut found: BTreeSet<&str> = BTreeSet::new();
        for saga in &CANONICAL {
            let plan = (saga.plan)();
            let graph = plan.graph();
            found.extend(graph.deadline.map(|_| "deadline"));
            found.extend(graph.cancelled_by.first().map(|_| "cancelled by"));
            found.insert(match graph.repeat {
                Repeat::Duplicate => "a repeated start is a duplicate",
                Repeat::Reject => "a repeated start is refused",
                Repeat::RestartWhenFinished => "a repeated start begins anew",
            });
            found.insert(if graph.ends.completed.is_some() { "tells" } else { "tells nothing" });
            for node in &graph.nodes {
                found.insert(match &node.kind {
                    Kind::Sequence { .. } => "sequence",
                    Kind::All { .. } => "all",
                    Kind::Choose { otherwise: Some(_), .. } => "choice with another way",
                    Kind::Choose { otherwise: None, .. } => "choice of nothing",
                    Kind::Publish { .. } => "publish",
                    Kind::Pause { .. } => "pause",
                    Kind::Wait { on_timeout: OnTimeout::Reject, .. } => "wait or turn back",
                    Kind::Wait { on_timeout: OnTimeout::Proceed, .. } => "wait or go on",
                    Kind::Step(step) => match (&step.way_back, &step.status) {
                        (WayBack::Compensated { .. }, None) => "compensated",
                        (WayBack::Compensated { .. }, Some(_)) => "compensated, with a status",
                        (WayBack::Nothing { .. }, _) => "nothing to compensate",
                        (WayBack::Pivot, None) => "pivot",
                        (WayBack::Pivot, Some(_)) => "pivot with a status",
                        (WayBack::Retriable, _) => "retriable",
                    },
                });
            }
        }
        // A repeated start that is refused is not among them.
        let wanted = [
            "a repeated start begins anew",
            "a repeated start is a duplicate",
            "all",
            "cancelled by",
            "choice of nothing",
            "choice with another way",
            "compensated",
            "compensated, with a status",
            "deadline",
            "nothing to compensate",
            "pause",
            "pivot",
            "pivot with a status",
            "publish",
            "retriable",
            "sequence",
            "tells",
            "tells nothing",
            "wait or go on",
            "wait or turn back",
        ];
        assert_eq!(found, BTreeSet::from(wanted));
    }

    #[test]
    fn ends_and_other_sides_are_declared_for_stages_that_there_are() {
        for saga in &CANONICAL {
            let named = saga.turns_back.iter().map(|(stage, _)| *stage).chain([saga.turn]);
            let chosen = saga.others.iter().flat_map(|(_, stages)| stages.iter().copied());
            for stage in named.chain(chosen) {
                assert!(saga.stages.contains(&stage), "{}: {stage}", saga.name);
            }
            let refused = Trouble { stage: saga.turn, leg: Leg::Do, outcome: Outcome::Rejection };
            assert_eq!(saga.ends(Some(refused)), "compensated", "{}", saga.name);
            assert_eq!(saga.ends(None), "completed", "{}", saga.name);
        }
    }
}
