//! Every order of inputs: all states a saga can reach, by driving the very same transition that runs in production.
//!
//! ```text
//! graph ─► symbols: states as bytes, every input that can come ─► transition::apply ─► reference: was that allowed?
//!                    ▲                                                                       │
//!                    └────────────── states not seen before, breadth first ◄─────────────────┘
//! ```
//!
//! `symbols` stands for participants, people, time and data. `reference` is written from the rules alone
//! and shares nothing with the transition: it keeps its own account of what took effect, and its own order of undoing.
//! `report` tells a violation as text and as a diagram. Breadth first, so the first sequence found is a shortest one.
//!
//! What is merged, and why that loses nothing: instants (which of the due things comes first is chosen freely instead),
//! until when a destination holds a command (it is given back, or was out when its time was over, whenever that may be),
//! bodies and data (a choice takes every arm), the cause and the revision (no decision rests on them), the three
//! ways of having had no effect, the attempt above the bound, how often a pivot was asked about before, and after the fact by whose word a step counts as undone.
//! One event of a name is kept early at a time; the ids of taken events are forgotten once that they count has been seen.

mod reference;
mod report;
mod symbols;

pub use report::{Checked, Line, Sent, Violation, ViolationKind};

use crate::{
    decision::{Decision, Effect},
    definition::{Fingerprint, Graph, Plan},
    history::Verdict,
    instance::Instance,
};
use reference::Reference;
use report::Finding;
use serde::{Deserialize, Serialize};
use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
};
use symbols::{Choices, Move, Situation, Symbols};

/// How far is looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// States looked at; beyond them the check says that it is not exhausted.
    pub states_max: usize,
    /// Attempts told apart per command; later ones count as this one. At least 1, at most 15.
    pub attempts_max: u32,
    /// Whether destinations hold commands, wherever one may be.
    pub holds: bool,
}

impl Bounds {
    /// Some hundred bytes and a tenth of a millisecond each: not much more than a minute, and never short of memory.
    pub const STATES_MAX: usize = 300_000;
    /// A first attempt and one after it: what a third could meet, the second has met.
    pub const ATTEMPTS_MAX: u32 = 2;
}

impl Default for Bounds {
    fn default() -> Self {
        Self { states_max: Self::STATES_MAX, attempts_max: Self::ATTEMPTS_MAX, holds: true }
    }
}

/// Violations told; further ones are most often the same mistake met elsewhere.
const VIOLATIONS_MAX: usize = 16;

/// Inputs that can't be decided, after which the exploration stops: each is a mistake of its own weight, and is told aloud.
const UNDECIDED_MAX: usize = 4;

impl Plan {
    /// Explores every order of inputs. See [`check_graph`].
    pub fn check(&self) -> Checked {
        check_graph(self.graph())
    }

    /// Explores every order of inputs within bounds.
    pub fn check_within(&self, bounds: Bounds) -> Checked {
        check_graph_within(self.graph(), bounds)
    }
}

/// Explores every order of inputs of a graph, wherever it comes from: declared, or read from JSON.
///
/// A step with nothing to compensate is taken at its word if a reason is written. A blank reason counts as a compensation
/// that is missing: such a step must not have taken effect where the saga ends compensated.
///
/// Sagas with many steps side by side have too many states for two attempts per command, any of which may be held. They are explored
/// without holds, else with one attempt, and the outcome says so; if that is not exhausted either, [`Checked::is_sound`] is false.
pub fn check_graph(graph: &Graph) -> Checked {
    let whole = Bounds::default();
    let fewer =
        [Bounds { holds: false, ..whole }, Bounds { holds: false, attempts_max: 1, ..whole }];
    let mut checked = check_graph_within(graph, whole);
    for bounds in fewer {
        if checked.exhausted || !checked.violations.is_empty() {
            break;
        }
        checked = check_graph_within(graph, bounds);
    }
    checked
}

/// [`check_graph`] within bounds.
pub fn check_graph_within(graph: &Graph, bounds: Bounds) -> Checked {
    let bounds = Bounds { attempts_max: bounds.attempts_max.clamp(1, 15), ..bounds };
    let nothing = Checked {
        definition: graph.name.clone(),
        version: graph.version,
        fingerprint: Fingerprint::of(graph),
        states: 0,
        transitions: 0,
        bounds,
        exhausted: true,
        violations: Vec::new(),
    };
    if let Err(text) = reference::well_laid(graph) {
        let violation =
            Violation { kind: ViolationKind::Malformed, node: None, text, sequence: Vec::new() };
        return Checked { violations: vec![violation], ..nothing };
    }
    let symbols = Symbols::new(graph, bounds.attempts_max, bounds.holds);
    let mut explorer = Explorer {
        reference: Reference::new(graph),
        symbols: &symbols,
        known: HashMap::new(),
        keys: Vec::new(),
        origins: Vec::new(),
        edges: Vec::new(),
        good: Vec::new(),
        transitions: 0,
        undecided: 0,
        seen: HashSet::new(),
        violations: Vec::new(),
    };
    let exhausted = explorer.run(bounds.states_max);
    Checked {
        states: explorer.keys.len(),
        transitions: explorer.transitions,
        exhausted,
        violations: explorer.violations,
        ..nothing
    }
}

/// How a state was first reached.
#[derive(Clone)]
struct Origin {
    /// `None` for the start.
    from: Option<u32>,
    by: Move,
    choices: Choices,
}

struct Explorer<'a> {
    symbols: &'a Symbols,
    reference: Reference<'a>,
    known: HashMap<Rc<[u8]>, u32>,
    keys: Vec<Rc<[u8]>>,
    origins: Vec<Origin>,
    edges: Vec<(u32, u32)>,
    /// Whether a state is an end, or waits for a person openly.
    good: Vec<bool>,
    transitions: u64,
    undecided: usize,
    seen: HashSet<(ViolationKind, Option<u16>)>,
    violations: Vec<Violation>,
}

impl Explorer<'_> {
    /// True when every state was looked at.
    fn run(&mut self, states_max: usize) -> bool {
        let before = self.symbols.unstarted();
        match self.symbols.starts() {
            Ok(starts) => {
                for (choices, decision) in starts {
                    let origin = Origin { from: None, by: Move::Start, choices };
                    self.cross(&before, origin, decision);
                }
            }
            Err(text) => {
                let origin = Origin { from: None, by: Move::Start, choices: Choices::default() };
                let finding = Finding::saga(ViolationKind::Panicked, &text);
                self.violated(finding, 0, Some(origin));
            }
        }
        let mut at = 0;
        while at < self.keys.len() {
            if self.keys.len() > states_max || self.undecided >= UNDECIDED_MAX {
                return false;
            }
            self.expand(at);
            at += 1;
        }
        self.ends_are_reachable();
        true
    }

    fn expand(&mut self, at: usize) {
        let symbols = self.symbols;
        let here = symbols.decode(&self.keys[at]);
        let stands = here.core.next_due().is_none() && here.core.incidents.is_empty();
        if stands && !here.core.status.is_end() {
            let text =
                "nothing is awaited, nothing is due and no incident is open, but it has not ended";
            self.violated(Finding::saga(ViolationKind::Stands, text), at, None);
        }
        let from = Some(place(at));
        let mut spare: Option<Instance> = None;
        for by in symbols.moves(&here.core) {
            let instance = spare.take().unwrap_or_else(|| symbols.instance(&here.core));
            let choices = Choices::default();
            let decision = match symbols.apply(instance, by) {
                Ok(decision) => decision,
                Err(text) => {
                    let kind = ViolationKind::Panicked;
                    let origin = Origin { from, by, choices };
                    self.transitions += 1;
                    self.undecided += 1;
                    self.violated(Finding { kind, node: by.node(), text }, at, Some(origin));
                    continue;
                }
            };
            if matches!(decision.verdict, Verdict::Ignored(_) | Verdict::Duplicate) {
                self.transitions += 1;
                if let Some(finding) = self.changed_all_the_same(&here, by, &decision) {
                    self.violated(finding, at, Some(Origin { from, by, choices }));
                } else if !by.moves_time() {
                    spare = Some(symbols.again(decision.instance));
                }
                continue;
            }
            for (choices, decision) in symbols.each_choice(&here.core, by, decision) {
                self.cross(&here, Origin { from, by, choices }, decision);
            }
        }
    }

    /// What does not count must not change anything.
    fn changed_all_the_same(
        &self,
        here: &Situation,
        by: Move,
        decision: &Decision,
    ) -> Option<Finding> {
        let is_same = by.moves_time() || decision.instance.core == here.core;
        (!is_same || !decision.effects.is_empty()).then(|| Finding {
            kind: ViolationKind::AcceptedTwice,
            node: by.node(),
            text: format!("an input judged {:?} changed the instance", decision.verdict),
        })
    }

    /// Goes along one transition: judges it, and keeps the state it leads to.
    fn cross(&mut self, here: &Situation, origin: Origin, decision: Decision) {
        self.transitions += 1;
        let core = &decision.instance.core;
        let mut fates = here.fates.clone();
        let mut findings = Vec::new();
        if origin.by.is_unawaited() && decision.verdict == Verdict::Applied {
            findings.push(Finding {
                kind: ViolationKind::AcceptedTwice,
                node: origin.by.node(),
                text: "a reply that was not awaited was accepted".into(),
            });
        }
        findings.extend(self.taken_twice(origin.by, &decision));
        findings.extend(self.reference.holds(origin.by, &here.core, &decision));
        self.reference.hears(origin.by, &here.core, &mut fates);
        for effect in &decision.effects {
            if let Effect::Command(command) = effect {
                findings.extend(self.reference.sees(&here.core, core, command, &mut fates));
            }
        }
        findings.extend(self.reference.judges(&here.core, core, &fates));
        let next = self.symbols.encode(core, &fates);
        let is_good = core.status.is_end() || core.is_blocked();
        let to = match self.known.get(next.as_slice()) {
            Some(to) => *to,
            None => {
                let to = place(self.keys.len());
                let key: Rc<[u8]> = next.into();
                self.known.insert(Rc::clone(&key), to);
                self.keys.push(key);
                self.origins.push(origin.clone());
                self.good.push(is_good);
                to
            }
        };
        if let Some(from) = origin.from.filter(|from| *from != to) {
            self.edges.push((from, to));
        }
        for finding in findings {
            let at = origin.from.unwrap_or(0) as usize;
            self.violated(finding, at, Some(origin.clone()));
        }
    }

    /// An event delivered twice in a row must count once. Later on a message of that name may be a new one.
    fn taken_twice(&self, by: Move, first: &Decision) -> Option<Finding> {
        if !matches!(by, Move::Event(_)) {
            return None;
        }
        let again = self.symbols.apply(first.instance.clone(), by);
        let counts = again.is_ok_and(|again| {
            matches!(again.verdict, Verdict::Applied | Verdict::Deferred)
                || again.instance.core != first.instance.core
        });
        counts.then(|| {
            Finding::saga(ViolationKind::AcceptedTwice, "the same event, delivered again, counts")
        })
    }

    /// Every path ends: backwards from the ends (and from states that openly wait for a person) all states are met.
    fn ends_are_reachable(&mut self) {
        let mut first = vec![0_u32; self.keys.len() + 1];
        for (_, to) in &self.edges {
            first[*to as usize + 1] += 1;
        }
        for at in 1..first.len() {
            first[at] += first[at - 1];
        }
        let (mut fill, mut into) = (first.clone(), vec![0_u32; self.edges.len()]);
        for (from, to) in &self.edges {
            into[fill[*to as usize] as usize] = *from;
            fill[*to as usize] += 1;
        }
        let mut reached = self.good.clone();
        let mut next: Vec<usize> = (0..reached.len()).filter(|at| reached[*at]).collect();
        while let Some(at) = next.pop() {
            for from in &into[first[at] as usize..first[at + 1] as usize] {
                if !std::mem::replace(&mut reached[*from as usize], true) {
                    next.push(*from as usize);
                }
            }
        }
        if let Some(at) = reached.iter().position(|reached| !reached) {
            let text = "from here no input, and no passing of time, leads to an end";
            self.violated(Finding::saga(ViolationKind::NeverEnds, text), at, None);
        }
    }

    /// Keeps a violation, the first of its kind at its node, with the sequence that leads to it.
    fn violated(&mut self, finding: Finding, at: usize, last: Option<Origin>) {
        let node = finding.node.map(|node| node.0);
        if self.violations.len() >= VIOLATIONS_MAX || !self.seen.insert((finding.kind, node)) {
            return;
        }
        let mut path: Vec<Origin> = last.into_iter().collect();
        let mut next = match path.first() {
            Some(last) => last.from,
            None => Some(place(at)),
        };
        while let Some(at) = next {
            let origin = self.origins[at as usize].clone();
            next = origin.from;
            path.push(origin);
        }
        path.reverse();
        let sequence = report::tell(self.symbols, path.iter().map(|way| (way.by, &way.choices)));
        let node = finding.node.map(|node| self.symbols.graph().name_of(node).to_owned());
        self.violations.push(Violation { kind: finding.kind, node, text: finding.text, sequence });
    }
}

fn place(at: usize) -> u32 {
    u32::try_from(at).expect("the bound on states fits")
}
