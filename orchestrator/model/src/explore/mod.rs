//! Every order of inputs: all states a saga can reach, by driving the very same transition that runs in production.
//!
//! ```text
//! graph ─► symbols: states as bytes, every input that can come ─► transition::apply ─► reference: was that allowed?
//!                    ▲                                                                       │
//!                    └── states of a class not seen before (`reduce`), breadth first ◄───────┘
//! ```
//!
//! `symbols` stands for participants, people, time and data. `reference` is written from the rules alone
//! and shares nothing with the transition: it keeps its own account of what took effect, and its own order of undoing.
//! `report` tells a violation as text and as a diagram. Breadth first, so the first sequence found is a shortest one; where something
//! is found after some inputs were put first, it is looked for once more without that.
//!
//! What is merged, and why that loses nothing: instants (which of the due things comes first is chosen freely instead),
//! until when a destination holds a command (it is given back, or was out when its time was over, whenever that may be),
//! bodies and data (a choice takes every arm), the cause and the revision (no decision rests on them), the three
//! ways of having had no effect, the attempt above the bound, how many attempts are excused, how often a pivot was asked about before, and after the fact by whose word a step counts as undone.
//! One event of a name is kept early at a time; the ids of taken events are forgotten once that they count has been seen.

#[cfg(test)]
mod agree;
mod reduce;
mod reference;
mod report;
mod symbols;
mod tries;
#[cfg(test)]
mod wrong;

pub use report::{Checked, Line, Sent, Violation, ViolationKind};

use crate::{
    decision::{Decision, Effect},
    definition::{Fingerprint, Graph, NodeId, Plan, accepted},
    history::Verdict,
    instance::{Core, Instance, NodeState, Status},
};
use reduce::Reduction;
use reference::{Fate, Reference};
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
    /// Whether what would only repeat itself is left out. It finds what exploring all of it finds, with far fewer states.
    #[serde(default = "yes")]
    pub reduced: bool,
}

fn yes() -> bool {
    true
}

impl Bounds {
    /// Some hundred bytes and a tenth of a millisecond each: not much more than a minute, and never short of memory.
    pub const STATES_MAX: usize = 300_000;
    /// A first attempt and one after it: what a third could meet, the second has met.
    pub const ATTEMPTS_MAX: u32 = 2;
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            states_max: Self::STATES_MAX,
            attempts_max: Self::ATTEMPTS_MAX,
            holds: true,
            reduced: true,
        }
    }
}

/// Violations told; further ones are most often the same mistake met elsewhere.
const VIOLATIONS_MAX: usize = 16;

/// States looked at for a shorter sequence to what was found: some seconds. A sequence that lies behind them is told as it was found.
const SHORTER_STATES_MAX: usize = 30_000;

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
/// What the builder would refuse is told first ([`ViolationKind::Refused`]), by the same rules; what comes of it follows as sequences. Where
/// the transition has no answer, which only a refused graph can bring about, it panics and is caught: the hook for panics hears of it.
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
    let found = explored(&symbols, graph, bounds);
    let mut violations = refused(graph);
    violations.extend(found.violations);
    violations.truncate(VIOLATIONS_MAX);
    Checked {
        states: found.states,
        transitions: found.transitions,
        exhausted: found.exhausted,
        violations,
        ..nothing
    }
}

/// What the builder would say of a graph that came another way: it names the mistake, where a sequence shows what comes of it.
fn refused(graph: &Graph) -> Vec<Violation> {
    let mistakes = accepted(graph).err().map(|refused| refused.errors).unwrap_or_default();
    let told = mistakes.iter().map(|mistake| Violation {
        kind: ViolationKind::Refused,
        node: mistake.block().filter(|name| graph.find(name).is_some()).map(ToOwned::to_owned),
        text: mistake.to_string(),
        sequence: Vec::new(),
    });
    told.collect()
}

/// What an exploration came to.
struct Found {
    states: usize,
    transitions: u64,
    exhausted: bool,
    violations: Vec<Violation>,
}

fn explored(symbols: &Symbols, graph: &Graph, bounds: Bounds) -> Found {
    let found = Explorer::new(symbols, graph, bounds.reduced).run(bounds.states_max);
    if !bounds.reduced || found.violations.is_empty() {
        return found;
    }
    // Inputs that were put first may lie in the way to it.
    let whole = Explorer::new(symbols, graph, false);
    let mut violations = whole.run(bounds.states_max.min(SHORTER_STATES_MAX)).violations;
    let missing =
        |violation: &Violation| violations.iter().all(|known| known.kind != violation.kind);
    let more: Vec<Violation> = found.violations.iter().filter(|it| missing(it)).cloned().collect();
    violations.extend(more);
    violations.truncate(VIOLATIONS_MAX);
    Found { violations, ..found }
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
    /// `None` where nothing is left out.
    reduction: Option<Reduction<'a>>,
    /// By the name of its class: where a state lies.
    known: HashMap<Rc<[u8]>, u32>,
    keys: Vec<Rc<[u8]>>,
    origins: Vec<Origin>,
    edges: Vec<(u32, u32)>,
    /// Whether a state is an end, or waits for a person openly.
    good: Vec<bool>,
    /// Where what nobody awaits has been tried: at which node, and what was known of it and of the saga.
    tried: HashSet<(NodeId, Vec<u8>)>,
    transitions: u64,
    undecided: usize,
    seen: HashSet<(ViolationKind, Option<u16>)>,
    violations: Vec<Violation>,
}

impl<'a> Explorer<'a> {
    fn new(symbols: &'a Symbols, graph: &'a Graph, reduced: bool) -> Self {
        Self {
            reference: Reference::new(graph),
            reduction: reduced.then(|| Reduction::new(symbols)),
            symbols,
            known: HashMap::new(),
            keys: Vec::new(),
            origins: Vec::new(),
            edges: Vec::new(),
            good: Vec::new(),
            tried: HashSet::new(),
            transitions: 0,
            undecided: 0,
            seen: HashSet::new(),
            violations: Vec::new(),
        }
    }

    fn run(mut self, states_max: usize) -> Found {
        let exhausted = self.looks_at_all(states_max);
        Found {
            states: self.keys.len(),
            transitions: self.transitions,
            exhausted,
            violations: self.violations,
        }
    }

    /// True when every state was looked at.
    fn looks_at_all(&mut self, states_max: usize) -> bool {
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
        let mut spare = None;
        if self.reduction.is_none() {
            for by in symbols.moves(&here.core) {
                self.goes(&here, at, by, &mut spare);
            }
            return;
        }
        let mut opened = vec![false; symbols.events().count()];
        for by in self.moves_left(&here) {
            self.goes(&here, at, by, &mut spare).iter().for_each(|place| opened[*place] = true);
        }
        // Events for waits that are open go on like any input; others are kept, and only then matter where their wait opens next.
        let mut waiting: Vec<u16> = Vec::new();
        for (place, by) in (0..).zip(symbols.events()) {
            if self.is_live(&here, place) {
                self.goes(&here, at, by, &mut spare).iter().for_each(|it| opened[*it] = true);
            } else {
                waiting.push(place);
            }
        }
        for place in waiting {
            if opened[usize::from(place)] {
                self.goes(&here, at, Move::Event(place), &mut spare);
            } else {
                self.tries_early(&here, at, place);
            }
        }
    }

    /// The inputs that are enough here, events apart.
    fn moves_left(&self, here: &Situation) -> Vec<Move> {
        let (symbols, core) = (self.symbols, &here.core);
        let mut moves = symbols.moves_of_all(core);
        match self.reduction.as_ref().and_then(|reduction| reduction.goes_first(here)) {
            Some(node) => symbols.moves_at(node, core, &mut moves),
            None => symbols.graph().ids().for_each(|node| symbols.moves_at(node, core, &mut moves)),
        }
        moves.retain(|by| !by.is_unawaited());
        moves
    }

    /// Whether an event may do something now: its wait is open, or it cancels, or no wait will need it any more. That it is
    /// ignored then is tried once for each status of the saga.
    fn is_live(&mut self, here: &Situation, place: u16) -> bool {
        let core = &here.core;
        let name = self.symbols.event(place);
        let cancels = self.symbols.graph().cancelled_by.iter().any(|event| event.name == name);
        let waits = self.reduction.iter().flat_map(|reduction| &reduction.waits);
        let mut of_it =
            waits.filter(|(_, takes)| takes.contains(&place)).map(|(node, _)| core.state(*node));
        let is_open = of_it.clone().any(|state| matches!(state, NodeState::Waiting { .. }));
        let may_be_kept =
            core.status == Status::Running && of_it.any(|state| *state == NodeState::Idle);
        if is_open || cancels || may_be_kept {
            return is_open || cancels;
        }
        let (by_event, status) = (NodeId(u16::MAX - place), vec![self.symbols.head(core)]);
        self.tried.insert((by_event, status))
    }

    /// Takes one input: the events whose waits it opened.
    fn goes(
        &mut self,
        here: &Situation,
        at: usize,
        by: Move,
        spare: &mut Option<Instance>,
    ) -> Vec<usize> {
        let (symbols, from) = (self.symbols, Some(place(at)));
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
                return Vec::new();
            }
        };
        if matches!(decision.verdict, Verdict::Ignored(_) | Verdict::Duplicate) {
            self.transitions += 1;
            if let Some(finding) = self.changed_all_the_same(here, by, &decision) {
                self.violated(finding, at, Some(Origin { from, by, choices }));
            } else if !by.moves_time() {
                *spare = Some(symbols.again(decision.instance));
            }
            return Vec::new();
        }
        if by == Move::Kill {
            self.transitions += 1;
            let core = &decision.instance.core;
            if core.status != Status::Killed || !decision.effects.is_empty() {
                let text = "killed by an operator, it goes on";
                let finding = Finding::saga(ViolationKind::NeverEnds, text);
                self.violated(finding, at, Some(Origin { from, by, choices }));
            }
            return Vec::new();
        }
        let mut opened = Vec::new();
        for (choices, decision) in symbols.each_choice(&here.core, by, decision) {
            let waits = self.reduction.iter().flat_map(|reduction| &reduction.waits);
            for (node, takes) in waits {
                let after = decision.instance.core.state(*node);
                if *here.core.state(*node) == NodeState::Idle && *after != NodeState::Idle {
                    opened.extend(takes.iter().map(|place| usize::from(*place)));
                }
            }
            self.cross(here, Origin { from, by, choices }, decision);
        }
        opened
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
        let (to, is_new) = self.keep(core, &fates, &origin);
        if let Some(from) = origin.from.filter(|from| *from != to) {
            self.edges.push((from, to));
        }
        for finding in findings {
            let at = origin.from.unwrap_or(0) as usize;
            self.violated(finding, at, Some(origin.clone()));
        }
        if self.reduction.is_some() {
            let there = Situation { core: decision.instance.core.calmed(), fates };
            self.tries_unawaited(here, &there, &origin, is_new.then_some(to));
        }
    }

    /// Keeps a state if its class is new: where it lies, and whether it is.
    fn keep(&mut self, core: &Core, fates: &[Fate], origin: &Origin) -> (u32, bool) {
        let symbols = self.symbols;
        let class: Rc<[u8]> = match &self.reduction {
            Some(reduction) => reduction.class(symbols, core, fates).into(),
            None => symbols.encode(core, fates).into(),
        };
        if let Some(to) = self.known.get(&class) {
            return (*to, false);
        }
        let key = match &self.reduction {
            Some(_) => symbols.encode(core, fates).into(),
            None => Rc::clone(&class),
        };
        let to = self.add(key, core, origin);
        self.known.insert(class, to);
        (to, true)
    }

    fn add(&mut self, key: Rc<[u8]>, core: &Core, origin: &Origin) -> u32 {
        let to = place(self.keys.len());
        self.keys.push(key);
        self.origins.push(origin.clone());
        self.good.push(core.status.is_end() || core.is_blocked());
        to
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
        self.violated_after(finding, at, last.into_iter().collect());
    }

    /// The same, with what came last, the latest first; `at` is where it lies where nothing came.
    fn violated_after(&mut self, finding: Finding, at: usize, mut path: Vec<Origin>) {
        let node = finding.node.map(|node| node.0);
        if self.violations.len() >= VIOLATIONS_MAX || !self.seen.insert((finding.kind, node)) {
            return;
        }
        let mut next = match path.last() {
            Some(first) => first.from,
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
