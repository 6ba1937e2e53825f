//! Simulation: sagas, their participants and their brokers on virtual time, with everything that can go wrong, from a seed.
//!
//! ```text
//! Simulation: sagas, participants, what customers say ─► world: brokers, disks, processes that die ─► judge ─► Report
//! ```
//!
//! What runs is the real thing: intake, shards, journal, relay, timers and the participant kit. Brokers, disk, store, time and death are simulated. What
//! goes in: definitions, participants, messages, a seed. What comes out: a [`Report`] with a finding for each rule that was broken. What must be true: the same seed gives the
//! same run; a sound system has no findings, whatever the seed.
//!
//! ```text
//! // in a test of a saga's author: many worlds, all else drawn
//! simulate(order()).participants(|| vec![inventory(), payment()]).starts(|number| OrderPlaced { order: number, .. }).check();
//! // one world, each thing said
//! let report = Simulation::new(seed).saga(order()).participant(inventory).participant(payment).starts("4711", &OrderPlaced { .. }).run();
//! report.assert_sound();
//! ```

mod causes;
mod clock;
mod disk;
mod histories;
mod judge;
mod kit;
mod points;
mod process;
mod shrink;
mod told;
mod watching;
mod world;

use crate::{
    api::IntoPlan,
    engine::replies_by,
    participant::{Participant, witness_begins},
};
use dirigent_connectors::{
    Attributes, ChannelKind, Message, names,
    simulated::{Random, SimBroker, SimFaults, SimKind},
};
use dirigent_model::{
    definition::Plan, instance::Leg, message::Event, scenario::Coverage, transition::destination,
};
use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

pub use kit::{Simulate, Simulated, simulate};
pub use points::Death;
pub use process::APP as ORCHESTRATOR;
pub use shrink::{Cut, Shortest, shortest};

thread_local! {
    static RUNNING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread runs a simulation, in which nothing may wait for another thread.
pub(crate) fn is_running() -> bool {
    RUNNING.get()
}

/// Says that this thread runs one, however it ends.
struct Running;

impl Running {
    fn begins() -> Self {
        RUNNING.set(true);
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.set(false);
    }
}

/// How long everything may take to come to rest once the faults are over, unless said otherwise.
pub const RESTS_WITHIN: Duration = Duration::from_secs(6 * 3_600);

/// What goes wrong in a run, and for how long.
#[derive(Debug, Clone)]
pub struct Faults {
    /// What brokers do.
    pub brokers: SimFaults,
    /// How long an operation at a broker takes, at the most.
    pub latency: Duration,
    /// Within how long the orchestrator is killed, again and again; not at all if not said.
    pub killed_within: Option<Duration>,
    /// The same of each participant.
    pub participants_killed_within: Option<Duration>,
    /// Whether the orchestrator also dies at a certain call of disk, store or broker.
    pub dies_at_crossings: bool,
    /// Whether the power goes with it now and then.
    pub power_cuts: bool,
    /// One turn of the orchestrator in so many is followed by a wait.
    pub dawdles: Option<u64>,
    /// Whether customers say the same twice.
    pub says_twice: bool,
    /// How long things go wrong.
    pub lasts: Duration,
    /// So many commands are in flight at once at each destination, at the most. Not drawn.
    pub in_flight_max: Option<usize>,
    /// Within how long a participant's channel takes no commands for some seconds, again and again: they are unroutable.
    pub unroutable_within: Option<Duration>,
}

impl Faults {
    /// None at all.
    pub fn none() -> Self {
        Self {
            brokers: SimFaults::none(),
            latency: Duration::ZERO,
            killed_within: None,
            participants_killed_within: None,
            dies_at_crossings: false,
            power_cuts: false,
            dawdles: None,
            says_twice: false,
            lasts: Duration::ZERO,
            in_flight_max: None,
            unroutable_within: None,
        }
    }

    /// A mix of them: each is on or off, so that none hides another in every run.
    pub fn drawn(random: &mut Random) -> Self {
        let seconds = |random: &mut Random, most: u64| Duration::from_secs(1 + random.below(most));
        let maybe = |random: &mut Random, most| random.one_in(2).then(|| seconds(random, most));
        Self {
            brokers: if random.one_in(4) { SimFaults::none() } else { SimFaults::drawn(random) },
            latency: [0, 5, 50, 1_000].map(Duration::from_millis)[random.below(4) as usize],
            killed_within: maybe(random, 30),
            participants_killed_within: maybe(random, 30),
            dies_at_crossings: random.one_in(2),
            power_cuts: random.one_in(2),
            dawdles: random.one_in(2).then(|| 2 + random.below(40)),
            says_twice: random.one_in(2),
            lasts: seconds(random, 120),
            in_flight_max: None,
            unroutable_within: random.one_in(4).then(|| seconds(random, 30)),
        }
    }
}

/// A participant as it is made for each of its lives.
pub(crate) struct Making(Participant);

impl Making {
    pub(crate) fn name(&self) -> &str {
        self.0.name()
    }

    pub(crate) fn channels(&self) -> Vec<String> {
        self.0.reads().map(ToOwned::to_owned).collect()
    }
}

/// What a customer says.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    pub after: Duration,
    pub message: Message,
    /// The saga that it begins, and its key.
    pub begins: Option<(String, String)>,
}

/// A world to be run.
#[must_use = "nothing runs before `.run()`"]
pub struct Simulation {
    pub(crate) seed: u64,
    pub(crate) sagas: Vec<Arc<Plan>>,
    pub(crate) mistakes: Vec<String>,
    pub(crate) participants: Vec<Arc<dyn Fn() -> Making + Send + Sync>>,
    crew: OnceLock<Vec<(String, Vec<String>)>>,
    pub(crate) said: Vec<Said>,
    pub(crate) faults: Option<Faults>,
    pub(crate) deaths: points::Deaths,
    pub(crate) shards: Option<usize>,
    pub(crate) kinds: Vec<(SimKind, Vec<String>)>,
    pub(crate) rests_within: Duration,
    pub(crate) is_covered: bool,
    pub(crate) trace: Option<Tell>,
    /// The bug that it is run with.
    #[cfg(feature = "planted")]
    pub(crate) bug: Option<crate::planted::Bug>,
}

/// Takes the lines of a trace.
pub(crate) type Tell = Arc<Mutex<dyn FnMut(&str) + Send>>;

impl Simulation {
    /// With everything else to be said, and all that is not said drawn from the seed.
    pub fn new(seed: u64) -> Self {
        let kind = if Random(seed ^ 1).one_in(2) { SimKind::Log } else { SimKind::Queues };
        Self {
            seed,
            sagas: Vec::new(),
            mistakes: Vec::new(),
            participants: Vec::new(),
            crew: OnceLock::new(),
            said: Vec::new(),
            faults: None,
            deaths: points::Deaths::new(),
            shards: None,
            kinds: vec![(kind, Vec::new())],
            rests_within: RESTS_WITHIN,
            is_covered: false,
            trace: None,
            #[cfg(feature = "planted")]
            bug: None,
        }
    }

    /// Runs with a bug in the engine or the kit, which the judge does not have.
    #[cfg(feature = "planted")]
    pub fn planted(mut self, bug: crate::planted::Bug) -> Self {
        self.bug = Some(bug);
        self
    }

    /// Adds a saga.
    pub fn saga(mut self, saga: impl IntoPlan) -> Self {
        match saga.into_plan() {
            Ok(plan) => self.sagas.push(plan),
            Err(mistakes) => self.mistakes.push(mistakes.to_string()),
        }
        self
    }

    /// Adds a participant, made anew for each of its lives.
    pub fn participant(mut self, make: impl Fn() -> Participant + Send + Sync + 'static) -> Self {
        self.participants.push(Arc::new(move || Making(make().witnessed())));
        self.crew = OnceLock::new();
        self
    }

    /// A customer begins a saga with this event, so long after the beginning.
    pub fn starts<E: Event>(self, after: Duration, key: &str, event: &E) -> Self {
        let begun = |plan: &&Arc<Plan>| plan.graph().start.name == E::NAME;
        let begins = self.sagas.iter().find(begun).map(|plan| plan.graph().name.clone());
        let id = format!("start-{key}");
        self.says(after, key, &id, event, begins.map(|saga| (saga, key.to_owned())))
    }

    /// Somebody says that this has happened, so long after the beginning.
    pub fn hears<E: Event>(self, after: Duration, key: &str, event: &E) -> Self {
        let id = format!("heard-{}-{key}-{}", E::NAME, self.said.len());
        self.says(after, key, &id, event, None)
    }

    /// What was said last is said once more, so long after the beginning and with the same id: as by whoever heard no answer.
    pub fn repeats(mut self, after: Duration) -> Self {
        let copy = self.said.last().map(|last| Said { after, begins: None, ..last.clone() });
        self.said.extend(copy);
        self
    }

    /// A message as it is, so long after the beginning; of a start, the saga and key that it begins.
    pub fn message(
        mut self,
        after: Duration,
        message: Message,
        begins: Option<(&str, &str)>,
    ) -> Self {
        let begins = begins.map(|(saga, key)| (saga.to_owned(), key.to_owned()));
        self.said.push(Said { after, message, begins });
        self
    }

    fn says<E: Event>(
        mut self,
        after: Duration,
        key: &str,
        id: &str,
        event: &E,
        begins: Option<(String, String)>,
    ) -> Self {
        let attributes = Attributes::new()
            .with(names::ID, id)
            .with(names::TYPE, E::NAME)
            .with(names::CONTENT_TYPE, "application/json");
        let body = serde_json::to_vec(event).unwrap_or_default();
        let message = Message {
            channel: E::ON.name.to_owned(),
            kind: ChannelKind::Events,
            key: key.into(),
            attributes,
            others: Vec::new(),
            body: body.into(),
        };
        self.said.push(Said { after, message, begins });
        self
    }

    /// What goes wrong; drawn from the seed if not said.
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = Some(faults);
        self
    }

    /// Lets the first lives of a process end, one by each of these deaths, whatever goes wrong besides. It is a participant by its name, or the [`ORCHESTRATOR`].
    pub fn dies(mut self, process: &str, deaths: Vec<Death>) -> Self {
        self.deaths.insert(process.to_owned(), deaths);
        self
    }

    /// So many shards take turns in each of the orchestrator's lives, one at least; drawn from the seed if not said.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = Some(shards.max(1));
        self
    }

    /// The brokers: the first one carries what no other does. One of either kind, by the seed, if not said.
    pub fn brokers(mut self, kinds: Vec<(SimKind, Vec<String>)>) -> Self {
        self.kinds = kinds;
        self
    }

    /// What goes wrong, said or drawn.
    pub fn drawn_faults(&self) -> Faults {
        self.faults.clone().unwrap_or_else(|| Faults::drawn(&mut Random(self.seed ^ 2)))
    }

    /// How many things customers say.
    pub fn said_count(&self) -> usize {
        self.said.len()
    }

    /// Without some of what customers say, by number.
    pub fn unsaid(mut self, numbers: &BTreeSet<usize>) -> Self {
        let mut number = 0;
        self.said.retain(|_| {
            number += 1;
            !numbers.contains(&(number - 1))
        });
        self
    }

    /// Tells in its report which transitions of the sagas were crossed.
    pub fn covered(mut self) -> Self {
        self.is_covered = true;
        self
    }

    /// Tells what happens, line by line.
    pub fn traced(mut self, tell: impl FnMut(&str) + Send + 'static) -> Self {
        self.trace = Some(Arc::new(Mutex::new(tell)));
        self
    }

    /// Runs it to its end, on this thread.
    ///
    /// # Panics
    /// Within a runtime, for definitions with mistakes, and for deaths of a process that is not there.
    pub fn run(self) -> Report {
        assert!(self.mistakes.is_empty(), "{}", self.mistakes.join("\n"));
        for process in self.deaths.keys() {
            let is_there =
                process == ORCHESTRATOR || self.crew().iter().any(|(name, _)| name == process);
            assert!(is_there, "`{process}` is to die, but is no process of this simulation");
        }
        witness_begins();
        #[cfg(feature = "planted")]
        crate::planted::plant(self.bug);
        world::run(self)
    }

    pub(crate) fn plan(&self, saga: &str) -> Option<&Arc<Plan>> {
        self.sagas.iter().find(|plan| plan.graph().name == saga)
    }

    /// The participants' names, and the channels that each reads, in their order. Kept, since telling it makes all of them.
    pub(crate) fn crew(&self) -> &[(String, Vec<String>)] {
        let of = |making: Making| (making.name().to_owned(), making.channels());
        self.crew.get_or_init(|| self.participants.iter().map(|make| of(make())).collect())
    }

    /// Every channel that somebody reads, with the group that does.
    pub(crate) fn all_reads(&self) -> Vec<(String, String)> {
        let replies = format!("{}.replies", process::APP);
        let replies = (0..self.kinds.len()).map(|lane| {
            let channel = replies_by(&replies, lane, &world::broker_name(lane));
            (channel, process::APP.to_owned())
        });
        let mut reads: Vec<(String, String)> = replies.collect();
        for plan in &self.sagas {
            let awaited = plan.graph().events_awaited().chain([&plan.graph().start]);
            reads.extend(awaited.map(|event| (event.channel.clone(), process::APP.to_owned())));
        }
        for (name, channels) in self.crew() {
            reads.extend(channels.iter().map(|channel| (channel.clone(), name.clone())));
        }
        reads
    }

    /// Every channel of commands that a participant reads, with its broker.
    pub(crate) fn commanded(
        &self,
        brokers: &[(SimBroker, Vec<String>)],
    ) -> Vec<(SimBroker, String)> {
        let graphs = self.sagas.iter().map(|plan| plan.graph());
        let commands = graphs.flat_map(|graph| {
            let to = |node| [Leg::Do, Leg::Compensate].map(|leg| destination(graph, node, leg));
            graph.ids().flat_map(to).flatten()
        });
        let commands: BTreeSet<&str> = commands.collect();
        let read = self.crew().iter().flat_map(|(_, reads)| {
            let broker = world::broker_of(brokers, reads);
            let commanded = reads.iter().filter(|channel| commands.contains(channel.as_str()));
            commanded.map(move |channel| (broker.clone(), channel.clone()))
        });
        read.collect()
    }

    /// Whether one of the participants reads this channel.
    pub(crate) fn reads(&self, channel: &str) -> bool {
        self.crew().iter().any(|(_, channels)| channels.iter().any(|own| own == channel))
    }
}

/// A rule that was broken, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The rule.
    pub rule: &'static str,
    /// What was found instead.
    pub found: String,
}

#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Finding>);

impl Findings {
    pub(crate) fn add(&mut self, rule: &'static str, found: String) {
        self.0.push(Finding { rule, found });
    }
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Repeats it.
    pub seed: u64,
    /// Rules that were broken.
    pub findings: Vec<Finding>,
    /// How much time passed in it.
    pub virtual_time: Duration,
    /// Faults by kind.
    pub injected: BTreeMap<&'static str, u64>,
    /// Why processes ended by themselves, and how often.
    pub failures: BTreeMap<String, u64>,
    /// Sagas by how they ended.
    pub ended: BTreeMap<String, u64>,
    /// Runs of all keys: more than sagas where a key began anew.
    pub runs: u64,
    /// How often each process crossed its border in each of its lives.
    pub crossings: BTreeMap<String, Vec<u64>>,
    /// Which transitions were crossed, saga by saga in their order; of [covered](Simulation::covered) runs.
    pub coverage: Vec<Coverage>,
}

impl Report {
    /// Whether every rule held.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    /// # Panics
    /// A rule was broken.
    pub fn assert_sound(&self) {
        assert!(self.is_sound(), "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {} s of virtual time, {:?}",
            self.seed,
            self.virtual_time.as_secs(),
            self.ended
        )?;
        for Finding { rule, found } in &self.findings {
            writeln!(f, "  broken: {rule}: {found}")?;
        }
        for (failure, times) in &self.failures {
            writeln!(f, "  a process ended by itself {times} times: {failure}")?;
        }
        write!(f, "  faults: {:?}", self.injected)
    }
}
