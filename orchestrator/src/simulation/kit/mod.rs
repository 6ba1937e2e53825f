//! The users' kit: their saga with their participants in many drawn worlds, as a test that takes seconds.
//!
//! ```text
//! simulate(saga).participants(..).starts(..) ─► worlds by seed, on all cores ─► judged ─► Simulated, or the shortest story of what broke
//! ```
//!
//! What goes in: a definition, its participants, and what customers say. What comes out: figures and [`Coverage`] of all runs, or a panic that tells the seed, the
//! rule, the shortest cut of the story, and how to repeat it. What must be true: a seed is one run, on whatever thread and beside whatever others.

mod company;
mod report;
mod worlds;

pub use report::Simulated;

use super::{
    Faults, Report,
    shrink::{run, shortest},
};
use crate::{api::IntoPlan, participant::Participant};
use company::Company;
use dirigent_model::{
    definition::Plan,
    message::{Body, Event, Format, JsonOnly, Key},
};
use std::{
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// Worlds if not said otherwise: some seconds of a small saga, and most of what a saga can come to.
const SEEDS_DEFAULT: u64 = 100;

/// Sagas that are begun in one world, at the most, if not said otherwise.
const SAGAS_DEFAULT: u64 = 8;

/// How long the shortest cut of a broken run is looked for.
const CUT_WITHIN: Duration = Duration::from_secs(20);

/// Runs a saga in many worlds, each drawn from a seed: how many are begun, who says what when and twice, which answers are refusals, failures or silence, what brokers
/// lose, double, delay and reorder, when processes are killed, and what a power cut leaves. After each run it is checked that every saga has ended or says why not,
/// that each effect took place once, and that exactly what took effect was compensated, in reverse order.
///
/// ```text
/// #[test]
/// fn orders_survive_whatever_goes_wrong() {
///     let simulated = simulate(order_saga())
///         .participants(|| vec![inventory(), payment()])
///         .starts(|number| OrderPlaced { order: number, .. })
///         .hears(|number| OrderApproved { order: number })
///         .seeds(0..200)
///         .check();
///     simulated.coverage.assert_compensations_covered();
/// }
/// ```
///
/// Commands of channels that none of the participants reads are played: they are done at once, with answers made up from their types. A simulation is
/// repeatable where its participants are: they keep what they must remember by their [`Tx`](crate::participant::Tx), and ask neither clocks nor dice.
pub fn simulate(saga: impl IntoPlan) -> Simulate {
    Simulate {
        saga: saga.into_plan().map_err(|mistakes| mistakes.to_string()),
        make: Arc::new(Vec::new),
        starts: None,
        heard: Vec::new(),
        sagas_max: SAGAS_DEFAULT,
        faults: None,
        moody: true,
        seeds: chosen_seeds(),
        traced: false,
    }
}

/// What somebody says about the customer of this number: key and message.
type Says = Arc<dyn Fn(&Plan, u64) -> Result<Spoken, String> + Send + Sync>;

/// Makes all participants of a world.
type Make = Arc<dyn Fn() -> Vec<Participant> + Send + Sync>;

/// A message before its time is known.
struct Spoken {
    key: Key,
    channel: &'static str,
    name: &'static str,
    body: Body,
}

/// A saga to be simulated. See [`simulate`].
#[must_use = "nothing runs before `.check()` or `.run()`"]
pub struct Simulate {
    saga: Result<Arc<Plan>, String>,
    make: Make,
    starts: Option<Says>,
    heard: Vec<Says>,
    sagas_max: u64,
    faults: Option<Faults>,
    moody: bool,
    seeds: Range<u64>,
    traced: bool,
}

impl Simulate {
    /// Who carries out commands and listens to events. They are made anew for each of their lives; what they keep lies in their stores.
    pub fn participants(
        mut self,
        make: impl Fn() -> Vec<Participant> + Send + Sync + 'static,
    ) -> Self {
        self.make = Arc::new(make);
        self
    }

    /// How the saga of a customer begins. Customers have numbers, of which each world draws some, and should differ in all that the saga asks for.
    pub fn starts<E: Event>(mut self, event: impl Fn(u64) -> E + Send + Sync + 'static) -> Self {
        self.starts = Some(Arc::new(move |plan, number| {
            if plan.graph().start.name != E::NAME {
                let (saga, start) = (&plan.graph().name, &plan.graph().start.name);
                return Err(format!("`{saga}` is started by `{start}`, not by `{}`", E::NAME));
            }
            spoken(&event(number), |body| plan.start_key(body, &JsonOnly))
        }));
        self
    }

    /// What happens to a customer's saga from outside, and is not said by a participant: early, late, twice, or not at all, by the seed.
    pub fn hears<E: Event>(mut self, event: impl Fn(u64) -> E + Send + Sync + 'static) -> Self {
        self.heard.push(Arc::new(move |plan, number| {
            spoken(&event(number), |body| match plan.event_key(E::NAME, body, &JsonOnly) {
                Some(key) => key,
                None => plan.start_key(body, &JsonOnly),
            })
            .map_err(|error| format!("`{}` never awaits it: {error}", plan.graph().name))
        }));
        self
    }

    /// So many sagas are begun in one world, at the most; eight if not said.
    pub fn sagas(mut self, at_most: u64) -> Self {
        self.sagas_max = at_most.max(1);
        self
    }

    /// What goes wrong in every world; each draws its own mix if not said. [`Faults::none`] leaves only what participants and customers do.
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = Some(faults);
        self
    }

    /// Participants answer as they are written: nobody is refused, fails or stays unanswered by dice.
    pub fn willing(mut self) -> Self {
        self.moody = false;
        self
    }

    /// One world for each of these seeds; 0..100 if not said, or as `DIRIGENT_TEST_SEED` (the first) and `DIRIGENT_TEST_SEEDS` (how many) say in the environment.
    pub fn seeds(mut self, seeds: Range<u64>) -> Self {
        self.seeds = seeds;
        self
    }

    /// One world only: as it was when it broke a rule.
    pub fn seed(self, seed: u64) -> Self {
        self.seeds(seed..seed + 1)
    }

    /// Prints the story of each run, message by message and decision by decision.
    pub fn trace(mut self) -> Self {
        self.traced = true;
        self
    }

    /// Runs all worlds, until one breaks a rule.
    ///
    /// # Panics
    /// A rule was broken: it tells which, by which seed, the shortest cut of the story, and how to repeat it. Or what was said makes no sense, as of a command that
    /// nobody carries out and whose answer can't be made up.
    pub fn check(self) -> Simulated {
        let simulated = self.tries();
        match &simulated.broken {
            None => simulated,
            Some(broken) => panic!("{}", self.tell(broken, &simulated)),
        }
    }

    /// Runs all worlds as [`check`](Self::check) does, and returns what was broken instead.
    ///
    /// # Panics
    /// What was said makes no sense.
    pub fn run(self) -> Simulated {
        self.tries()
    }

    fn tries(&self) -> Simulated {
        let company = self.company().unwrap_or_else(|mistake| panic!("{mistake}"));
        let simulated = Mutex::new(Simulated::of(&company.plan));
        let (next, stops) = (AtomicU64::new(self.seeds.start), AtomicBool::new(false));
        let work = || {
            while !stops.load(Ordering::Relaxed) {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= self.seeds.end {
                    return;
                }
                let world = self.world(&company, seed);
                let world = match self.traced {
                    true => world.traced(tell_line),
                    false => world,
                };
                let report = run(world);
                stops.fetch_or(!report.is_sound(), Ordering::Relaxed);
                simulated.lock().unwrap_or_else(PoisonError::into_inner).add(report);
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
        let threads = if self.traced { 1 } else { cores.min(self.seeds.end - self.seeds.start) };
        std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
        simulated.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn company(&self) -> Result<Company, String> {
        let plan = self.saga.clone()?;
        if self.starts.is_none() {
            let (saga, start) = (&plan.graph().name, &plan.graph().start.name);
            return Err(format!("say how `{saga}` begins: `.starts(|number| {start} {{ .. }})`"));
        }
        for says in self.starts.iter().chain(&self.heard) {
            says(&plan, 0)?;
        }
        if self.seeds.is_empty() {
            return Err("there are no seeds: say `.seeds(0..100)`".to_owned());
        }
        Company::of(plan, Arc::clone(&self.make), self.moody)
    }

    /// What a person is told of a run that broke a rule.
    fn tell(&self, broken: &Report, simulated: &Simulated) -> String {
        let seed = broken.seed;
        let head = format!("{simulated}\n\nA rule was broken.\n{broken}\n");
        let Ok(company) = self.company() else { return head };
        let shortest = shortest(&|| self.world(&company, seed), CUT_WITHIN);
        format!(
            "{head}\n{shortest}\nTo repeat it: `.seed({seed}).trace()` in place of `.seeds(..)`, or DIRIGENT_TEST_SEED={seed} DIRIGENT_TEST_SEEDS=1 where the test says no seeds. (dirigent {})",
            env!("CARGO_PKG_VERSION")
        )
    }
}

#[allow(clippy::print_stdout, reason = "it is asked for, by whoever looks for what went wrong")]
fn tell_line(line: &str) {
    println!("{line}");
}

fn spoken<E: Event>(
    event: &E,
    key: impl FnOnce(&Body) -> Result<Key, dirigent_model::message::CodecError>,
) -> Result<Spoken, String> {
    let body = Body::write(event, Format::Json, &JsonOnly).map_err(|error| error.to_string())?;
    let key = key(&body).map_err(|error| error.to_string())?;
    Ok(Spoken { key, channel: E::ON.name, name: E::NAME, body })
}

/// Seeds as the environment says, for long runs without a change of the test.
fn chosen_seeds() -> Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let first: u64 = number("DIRIGENT_TEST_SEED").unwrap_or(0);
    first..first.saturating_add(number("DIRIGENT_TEST_SEEDS").unwrap_or(SEEDS_DEFAULT))
}
