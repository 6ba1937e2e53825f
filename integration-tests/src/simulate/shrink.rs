//! The shortest cut of a world drawn from a seed: see [`dirigent::simulation::shortest`].

use super::drawn;
use dirigent::simulation::{Shortest, Simulation};
use std::time::Duration;

/// How long a shortest cut is looked for.
const WITHIN: Duration = Duration::from_secs(60);

/// The shortest cut of a seed's run that breaks a rule.
pub fn shortest(seed: u64) -> Shortest {
    shortest_of(&|| drawn(seed))
}

/// The shortest cut of a run that breaks a rule.
pub fn shortest_of(make: &dyn Fn() -> Simulation) -> Shortest {
    dirigent::simulation::shortest(make, WITHIN)
}
