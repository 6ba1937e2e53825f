//! What tests have crossed of a definition, and what none of them has: above all the compensations no test ever ran.
//!
//! ```text
//! definition ─► possible: what can happen at each node ─┐
//! decision ──► crossed: what has happened there ────────┴─► missing
//! ```
//!
//! What goes in: a definition, and decisions about its instances, by a scenario or by a simulation. What comes out: counts. What must be true: nothing
//! is crossed that is not possible, and merging in any order gives the same.

mod crossed;
mod possible;

use super::Scenario;
use crate::{
    decision::Decision,
    definition::{Data, NodeId, Plan},
    instance::Core,
};
use std::{collections::BTreeMap, fmt};

const SUCCEEDED: &str = "succeeded";
const REJECTED: &str = "rejected";
const NO_EFFECT: &str = "failed without effect";
const LATE: &str = "did not answer in time";
const AGAIN: &str = "asked again";
const WAS_DONE: &str = "asked, was done";
const WAS_REJECTED: &str = "asked, was rejected";
const NOT_DONE: &str = "asked, was not done";
const NOT_KNOWN: &str = "asked, is unknown";
const IN_DOUBT: &str = "left in doubt";
const COMPENSATED: &str = "compensated";
const COMPENSATED_IN_DOUBT: &str = "compensated in doubt";
const COMPENSATED_AGAIN: &str = "compensation asked again";
const GIVEN_UP: &str = "compensation given up";
const CAME: &str = "event came";
const EARLY: &str = "event came early";
const REFUSED: &str = "refusing event came";
const TIMED_OUT: &str = "timed out";
const NO_ARM: &str = "took no arm";
const OTHERWISE: &str = "took the other way";
const DEADLINE: &str = "deadline";
const CANCELLED: &str = "cancelled by event";

/// Transitions of one definition: those there are, and how often each was crossed. Plain data, to be merged over tests.
///
/// ```text
/// saga `trip` v1: 5 of 17 transitions crossed, 1 of 3 compensations
///   book-flight   succeeded              2
///                 rejected               never
///                 compensated            1
///   …
/// ```
///
/// It is the same in whatever order, and on how many threads, tests run. One test asserts for all: the others return their scenarios, and it plays them
/// again.
///
/// ```text
/// #[test]
/// fn without_stock_the_hold_is_let_go() -> Scenario<Order> { placed().rejects("reserve-stock", ..) .. }
///
/// #[test]
/// fn no_compensation_is_untested() {
///     Coverage::over([without_stock_the_hold_is_let_go(), ..]).assert_compensations_covered();
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    definition: String,
    version: u32,
    /// Per node, in the order of the definition: its name and what can happen there.
    possible: Vec<(String, Vec<String>)>,
    crossed: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Coverage {
    /// All of a definition, nothing crossed yet.
    pub fn of(plan: &Plan) -> Self {
        let graph = plan.graph();
        let mut possible = vec![(graph.name.clone(), possible::at_the_whole(graph))];
        for (number, node) in graph.ids().zip(&graph.nodes) {
            possible.push((node.name.clone(), possible::at(graph, number)));
        }
        possible.retain(|(_, what)| !what.is_empty());
        let (definition, version) = (graph.name.clone(), graph.version);
        Self { definition, version, possible, crossed: BTreeMap::new() }
    }

    /// Of several tests of one definition, which return their scenarios.
    ///
    /// # Panics
    /// There are none, or they are of different definitions.
    #[track_caller]
    pub fn over<D: Data>(scenarios: impl IntoIterator<Item = Scenario<D>>) -> Self {
        let all = scenarios.into_iter().map(|scenario| scenario.coverage());
        let all = all.reduce(|all, one| all.merge(&one));
        all.expect("there is one scenario at least, whose definition tells what is possible")
    }

    /// Adds what other tests of the same definition have crossed.
    ///
    /// # Panics
    /// It is of another definition, or of another version of it.
    #[must_use]
    pub fn merge(mut self, other: &Self) -> Self {
        assert!(
            (&self.definition, self.version) == (&other.definition, other.version),
            "the coverage of `{}` v{} says nothing of `{}` v{}",
            other.definition,
            other.version,
            self.definition,
            self.version
        );
        for (name, crossed) in &other.crossed {
            for (what, times) in crossed {
                self.add_times(name, what, *times);
            }
        }
        self
    }

    /// Everything that no test has crossed: the node's name and what did not happen there.
    pub fn missing(&self) -> Vec<(&str, &str)> {
        self.all().filter(|(name, what)| self.times(name, what) == 0).collect()
    }

    /// Steps whose compensation no test has asked for: neither of what was done, nor of what was in doubt.
    pub fn compensations_never_run(&self) -> Vec<&str> {
        let never = |name: &&str| {
            self.times(name, COMPENSATED) + self.times(name, COMPENSATED_IN_DOUBT) == 0
        };
        self.compensations().filter(never).collect()
    }

    /// How often this has happened at the node of this name; the saga's own name for what happens to it as a whole.
    pub fn times(&self, name: &str, what: &str) -> u64 {
        let crossed = self.crossed.get(name).and_then(|crossed| crossed.get(what));
        crossed.copied().unwrap_or_default()
    }

    /// The compensation of every step that has one was asked for by some test.
    ///
    /// # Panics
    /// One never was.
    #[track_caller]
    pub fn assert_compensations_covered(&self) {
        let never = self.compensations_never_run();
        assert!(never.is_empty(), "no test has ever run the compensations of {never:?}\n{self}");
    }

    /// Everything was crossed but what is named here: a node's name and what does not happen there. What is named and was crossed is
    /// a mistake, too, so that the list stays true.
    ///
    /// # Panics
    /// Something else was not crossed, or something of this was.
    #[track_caller]
    pub fn assert_covered_except(&self, except: &[(&str, &str)]) {
        let missing = self.missing();
        let more: Vec<_> = missing.iter().filter(|it| !except.contains(it)).collect();
        assert!(more.is_empty(), "no test has ever crossed {more:?}\n{self}");
        let wrong: Vec<_> = except.iter().filter(|it| !missing.contains(it)).collect();
        assert!(wrong.is_empty(), "named as never crossed, but crossed or unknown: {wrong:?}");
    }

    /// Adds what one decision has crossed, of an instance that was so before. Scenarios and simulations do it by themselves.
    pub fn cross(&mut self, plan: &Plan, before: &Core, decision: &Decision) {
        let graph = plan.graph();
        let mut found: Vec<(Option<NodeId>, String)> = Vec::new();
        crossed::by(graph, before, decision, &mut |node, what| found.push((node, what.into())));
        for (node, what) in found {
            let name = node.map_or(&*graph.name, |node| graph.name_of(node));
            // What an operator forced is no transition of the definition.
            if self.all().any(|known| known == (name, &*what)) {
                self.add_times(name, &what, 1);
            }
        }
    }

    fn add_times(&mut self, name: &str, what: &str, times: u64) {
        let crossed = self.crossed.entry(name.into()).or_default();
        *crossed.entry(what.into()).or_default() += times;
    }

    fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        let each = self.possible.iter();
        each.flat_map(|(name, what)| what.iter().map(move |what| (&**name, &**what)))
    }

    fn compensations(&self) -> impl Iterator<Item = &str> {
        self.all().filter(|(_, what)| *what == COMPENSATED_IN_DOUBT).map(|(name, _)| name)
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (all, missing) = (self.all().count(), self.missing().len());
        let compensations = self.compensations().count();
        let run = compensations - self.compensations_never_run().len();
        let (name, version) = (&self.definition, self.version);
        write!(
            f,
            "saga `{name}` v{version}: {} of {all} transitions crossed, {run} of {compensations} compensations",
            all - missing
        )?;
        let width = self.possible.iter().map(|(name, _)| name.chars().count()).max();
        let (width, of_what) = (width.unwrap_or_default(), COMPENSATED_AGAIN.len());
        for (name, all) in &self.possible {
            for (number, what) in all.iter().enumerate() {
                let shown = if number == 0 { name } else { "" };
                write!(f, "\n  {shown:width$}  {what:of_what$}  ")?;
                match self.times(name, what) {
                    0 => f.write_str("never")?,
                    times => write!(f, "{times}")?,
                }
            }
        }
        Ok(())
    }
}
