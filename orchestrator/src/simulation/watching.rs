//! What a simulation sees of the decisions in it: which transitions they cross, and each as a line of its story.
//!
//! What goes in: a [`Simulation`] that wants to know. What comes out: coverage by saga, and lines for its trace. What must be true: it ends with the run,
//! however that ends.

use super::{Simulation, Tell, clock::since_the_beginning, process::lock};
use crate::engine::watch;
use dirigent_model::{
    decision::Decision,
    definition::{Graph, Plan},
    history::{Verdict, What},
    instance::{Core, Leg},
    scenario::Coverage,
};
use std::{cell::RefCell, rc::Rc, sync::Arc};

/// Watches the decisions of this thread until it is dropped.
pub(super) struct Watching {
    coverage: Rc<RefCell<Vec<Coverage>>>,
}

impl Watching {
    pub(super) fn of(simulation: &Simulation) -> Self {
        let coverage = Rc::new(RefCell::new(Vec::new()));
        if simulation.is_covered {
            coverage.borrow_mut().extend(simulation.sagas.iter().map(|plan| Coverage::of(plan)));
        }
        let (into, tell) = (Rc::clone(&coverage), simulation.trace.clone());
        let sagas: Vec<Arc<Plan>> = simulation.sagas.clone();
        if simulation.is_covered || tell.is_some() {
            watch(Some(Box::new(move |plan, before, decision| {
                let place = sagas.iter().position(|saga| saga.fingerprint() == plan.fingerprint());
                let mut into = into.borrow_mut();
                if let Some(coverage) = place.and_then(|place| into.get_mut(place)) {
                    coverage.cross(plan, before, decision);
                }
                if let Some(tell) = &tell {
                    tells(tell, plan.graph(), before, decision);
                }
            })));
        }
        Self { coverage }
    }

    /// What was crossed, saga by saga.
    pub(super) fn coverage(&self) -> Vec<Coverage> {
        self.coverage.borrow().clone()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        watch(None);
    }
}

fn tells(tell: &Tell, graph: &Graph, before: &Core, decision: &Decision) {
    let Some((line, _)) = &decision.line else { return };
    let at = since_the_beginning(line.at).as_secs_f64();
    let (saga, key) = (&graph.name, &before.key);
    let mut story = format!("{at:>10.3} {saga} {key}: {}", told(line.what));
    if let Some(node) = line.node {
        story.push_str(&format!(" {}", graph.name_of(node)));
    }
    if let Some(note) = &line.note {
        story.push_str(&format!(" ({note})"));
    }
    match line.verdict {
        Verdict::Applied => {}
        Verdict::Deferred => story.push_str(", kept for later"),
        Verdict::Duplicate => story.push_str(", known already"),
        Verdict::Ignored(why) => story.push_str(&format!(", ignored: {}", why.as_str())),
    }
    for (node, leg, attempt) in &line.sent {
        let verb = match leg {
            Leg::Do => "asks",
            Leg::Compensate => "compensates",
            Leg::Status => "asks what became of",
        };
        story.push_str(&format!("; {verb} {}", graph.name_of(*node)));
        if *attempt > 1 {
            story.push_str(&format!(" (attempt {attempt})"));
        }
    }
    let after = decision.instance.core.status;
    if after != before.status {
        story.push_str(&format!("; is {after}"));
    }
    (lock(tell))(&story);
}

fn told(what: What) -> &'static str {
    match what {
        What::Started => "started",
        What::Succeeded => "succeeded",
        What::Rejected => "rejected",
        What::Failed => "failed",
        What::Event => "event",
        What::TimedOut => "timed out",
        What::Woke => "woke",
        What::Unsent => "could not be sent",
        What::Cancelled => "cancelled",
        What::Operator => "operator",
        What::NotDone => "was not done",
        What::Unknown => "nobody knows of",
        What::Held => "held",
        What::Unheard => "unheard",
    }
}
