//! The twelve canonical sagas: small enough that every point of a run can be tried, and together all that a saga can be made of.
//!
//! What goes in: a saga's name. What comes out: how it is declared, who answers it, and what its customers say. What must be true: undisturbed,
//! each of them comes to its end, whatever becomes of one of its stages.

use super::{
    example,
    messages::{Agreed, Objected, Wished, Withdrawn},
    script::{Outcome, Script},
    small,
};
use dirigent::{participant::Participant, simulation::Simulation};
use dirigent_connectors::{Attributes, ChannelKind, Message, names};
use dirigent_model::{
    definition::{Definition, DefinitionErrors, Graph, Kind, Plan, WayBack},
    message::Event,
};
use order::{
    order::messages::{OrderApproved, OrderDeclined},
    trip::trip_saga,
};
use std::{sync::Arc, time::Duration};

/// The number of everybody's purchase. Odd, for the saga that chooses.
const NUMBER: u64 = 3;

/// When news come, unless they come early: long before their time is over, whoever dies meanwhile.
const NEWS_AFTER: Duration = Duration::from_secs(60);

/// When news come early.
const EARLY_AFTER: Duration = Duration::from_secs(30);

/// When what was said is said again: long after its saga has ended, whoever died meanwhile.
const AGAIN_AFTER: Duration = Duration::from_secs(5 * 60);

// Early means: while the saga rests.
const _: () = assert!(EARLY_AFTER.as_secs() * 2 < small::RESTS.as_secs());

/// One of the twelve.
pub struct Canonical {
    /// What it is called.
    pub name: &'static str,
    /// Why it is one of them.
    pub why: &'static str,
    /// Its steps and waits, in the order in which they are declared.
    pub stages: &'static [&'static str],
    plan: fn() -> Arc<Plan>,
    participants: &'static [fn(Script) -> Participant],
    /// What customers say, by what is to become of its wait.
    said: fn(Outcome) -> Vec<Said>,
}

/// So long after the beginning; the first of them begins the saga.
type Said = (Duration, Message);

/// All of them.
pub static CANONICAL: [Canonical; 12] = [
    Canonical {
        name: "order",
        why: "the example: branches, a choice, a person who decides, a status that is asked for, a pivot, a retriable step",
        stages: &["reserve-stock", "authorise-payment", "approval", "capture-payment", "ship"],
        plan: || plan(example::order()),
        participants: &[example::inventory, example::payment, example::shipping],
        said: order_said,
    },
    Canonical {
        name: "trip",
        why: "the example without a point of no return: branches, then a step, and a way back from everywhere",
        stages: &["book-flight", "book-hotel", "rent-car"],
        plan: || plan(trip_saga()),
        participants: &[example::flights, example::hotels, example::cars],
        said: |_| vec![said(Duration::ZERO, "begins", &example::requested(NUMBER.cast_signed()))],
    },
    Canonical {
        name: "chain",
        why: "the saga of the textbook: a sequence, undone in reverse order",
        stages: &["first", "second", "third"],
        plan: || plan(small::chain()),
        participants: &[small::shelf, small::till],
        said: |_| wished(),
    },
    Canonical {
        name: "fork",
        why: "branches of different length that are joined before a pivot: what is open settles before anything is undone",
        stages: &["thing", "money", "charge"],
        plan: || plan(small::fork()),
        participants: &[small::shelf, small::till],
        said: |_| wished(),
    },
    Canonical {
        name: "nest",
        why: "branches within a branch: three steps under way at once, undone by their dependencies",
        stages: &["money", "left", "right", "other"],
        plan: || plan(small::nest()),
        participants: &[small::shelf, small::till],
        said: |_| wished(),
    },
    Canonical {
        name: "choice",
        why: "answers of the data that are recorded when first asked, and hold after every restart",
        stages: &["thing", "money", "charge"],
        plan: || plan(small::choice()),
        participants: &[small::shelf, small::till],
        said: |_| wished(),
    },
    Canonical {
        name: "reminder",
        why: "a wait after whose time the saga goes on, and which can be refused",
        stages: &["thing", "agreement", "money"],
        plan: || plan(small::reminder()),
        participants: &[small::shelf, small::till],
        said: |outcome| news(NEWS_AFTER, outcome),
    },
    Canonical {
        name: "early",
        why: "an event that comes while its saga rests: it is kept until it is waited for",
        stages: &["thing", "agreement"],
        plan: || plan(small::early()),
        participants: &[small::shelf],
        said: |outcome| news(EARLY_AFTER, outcome),
    },
    Canonical {
        name: "payout",
        why: "a pivot that can't be asked about, and branches behind it: asked until they answer",
        stages: &["thing", "charge", "letter", "parcel"],
        plan: || plan(small::payout()),
        participants: &[small::shelf, small::till, small::post],
        said: |_| wished(),
    },
    Canonical {
        name: "inquiry",
        why: "a step and a pivot whose participants are asked what became of them before anything is undone",
        stages: &["money", "charge", "parcel"],
        plan: || plan(small::inquiry()),
        participants: &[small::till, small::post],
        said: |_| wished(),
    },
    Canonical {
        name: "withdrawn",
        why: "a saga that its customer withdraws while it waits, or whose own time is over",
        stages: &["thing", "agreement"],
        plan: || plan(small::withdrawn()),
        participants: &[small::shelf],
        said: withdrawn_said,
    },
    Canonical {
        name: "again",
        why: "a key that begins anew once its saga has ended, with a step that leaves nothing to undo, and an end that nobody is told of",
        stages: &["look", "thing"],
        plan: || plan(small::again()),
        participants: &[small::shelf],
        said: |_| {
            let wish = Wished { number: NUMBER };
            vec![said(Duration::ZERO, "begins", &wish), said(AGAIN_AFTER, "begins-again", &wish)]
        },
    },
];

impl Canonical {
    /// The one of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        CANONICAL.iter().find(|saga| saga.name == name)
    }

    /// What can become of a stage, success aside.
    pub(super) fn scripts(&self) -> Vec<Script> {
        let of =
            |stage: &&'static str| Outcome::TROUBLES.map(|outcome| self.script(stage, outcome));
        self.stages.iter().flat_map(of).collect()
    }

    /// In which this becomes of a stage.
    pub(super) fn script(&self, stage: &'static str, outcome: Outcome) -> Script {
        let plan = (self.plan)();
        let step = plan.graph().find(stage).and_then(|node| plan.graph().step(node));
        let is_insisted_on = step.is_some_and(|step| match step.way_back {
            WayBack::Pivot => step.status.is_none(),
            WayBack::Retriable => true,
            WayBack::Compensated { .. } | WayBack::Nothing { .. } => false,
        });
        Script { stage, outcome, is_insisted_on }
    }

    /// A world with one instance of it, in which all goes by a script.
    pub(super) fn world(&self, world: Simulation, script: Script) -> Simulation {
        let plan = (self.plan)();
        let wait = waits(plan.graph()).next().unwrap_or_default();
        let key = NUMBER.to_string();
        let begins = plan.graph().start.name.clone();
        let all_said = (self.said)(script.of(&wait));
        let world = self.participants.iter().fold(world.saga(plan), |world, participant| {
            world.participant(move || participant(script))
        });
        all_said.into_iter().fold(world, |world, (after, message)| {
            let is_start = message.attributes.get(names::TYPE) == Some(begins.as_str());
            world.message(after, message, is_start.then_some((self.name, key.as_str())))
        })
    }
}

/// Names of waits.
pub(super) fn waits(graph: &Graph) -> impl Iterator<Item = String> {
    let is_wait = |kind: &Kind| matches!(kind, Kind::Wait { .. });
    graph.nodes.iter().filter(move |node| is_wait(&node.kind)).map(|node| node.name.clone())
}

fn plan<D>(definition: Result<Definition<D>, DefinitionErrors>) -> Arc<Plan> {
    definition.expect("a test builds all canonical sagas").plan()
}

fn said<E: Event>(after: Duration, id: &str, event: &E) -> Said {
    let attributes = Attributes::new()
        .with(names::ID, format!("{id}-{NUMBER}"))
        .with(names::TYPE, E::NAME)
        .with(names::CONTENT_TYPE, "application/json");
    let message = Message {
        channel: E::ON.name.into(),
        kind: ChannelKind::Events,
        key: NUMBER.to_string(),
        attributes,
        others: Vec::new(),
        body: serde_json::to_vec(event).unwrap_or_default().into(),
    };
    (after, message)
}

fn wished() -> Vec<Said> {
    vec![said(Duration::ZERO, "begins", &Wished { number: NUMBER })]
}

fn news(after: Duration, outcome: Outcome) -> Vec<Said> {
    let agreed = Agreed { number: NUMBER };
    let news = match outcome {
        Outcome::Success => vec![said(after, "agrees", &agreed)],
        Outcome::Rejection => vec![said(after, "objects", &Objected { number: NUMBER })],
        Outcome::Timeout => vec![],
        Outcome::Doubt => {
            vec![said(after, "agrees", &agreed), said(AGAIN_AFTER, "agrees-again", &agreed)]
        }
    };
    [wished(), news].concat()
}

fn withdrawn_said(outcome: Outcome) -> Vec<Said> {
    match outcome {
        Outcome::Rejection => {
            let withdrawn = Withdrawn { number: NUMBER };
            [wished(), vec![said(NEWS_AFTER, "withdraws", &withdrawn)]].concat()
        }
        Outcome::Success | Outcome::Timeout | Outcome::Doubt => news(NEWS_AFTER, outcome),
    }
}

fn order_said(outcome: Outcome) -> Vec<Said> {
    let order = NUMBER.cast_signed();
    let approved = OrderApproved { order, by: "person".into() };
    let decided = match outcome {
        Outcome::Success => vec![said(NEWS_AFTER, "approves", &approved)],
        Outcome::Rejection => {
            let declined = OrderDeclined { order, by: "person".into() };
            vec![said(NEWS_AFTER, "declines", &declined)]
        }
        Outcome::Timeout => vec![],
        Outcome::Doubt => {
            vec![
                said(NEWS_AFTER, "approves", &approved),
                said(AGAIN_AFTER, "approves-again", &approved),
            ]
        }
    };
    [vec![said(Duration::ZERO, "begins", &example::large_order(order))], decided].concat()
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
        // A repeated start that is refused becomes a dead letter, which the judge takes for a fault.
        assert_eq!(found.len(), 20, "{found:?}");
    }
}
