//! The judge: what must hold of a run, told by three who share nothing with each other.
//!
//! ```text
//! brokers tell ─► outside: the story of each saga, by its graph        ─┐
//!             └─► durable: is the cause on the disk, at this moment?    ├─► Findings
//! the engine's views ─► inside: how each saga stands · leaks            │
//! disk and store ─► folder: accounts, and whether what rests can go on ─┘
//! ```
//!
//! What goes in: all that happened at the brokers, the effects that participants kept, disk and store, the instances as people see them, and the graphs. What
//! comes out: findings, each by the rule it breaks, with saga, key and step. What must be true: a sound run has none, whatever went wrong in
//! it; each rule has a test in which it is broken.

mod durable;
mod folder;
mod inside;
mod leaks;
mod outside;

pub(super) use folder::Inquests;
pub(super) use leaks::{FORGETS_WITHIN, have_destinations_forgotten};

use super::{
    Finding, Findings, Simulation, clock,
    disk::SimStore,
    process::{APP, lock},
    world::Place,
};
use crate::{
    destinations::DestinationView,
    engine::{Handle, InstanceView, KeptFilter, KeptView, ListFilter, Snapshot},
    journal::SimDisk,
    participant::witnessed,
};
use dirigent_connectors::{
    Memory,
    simulated::{Random, SimBroker, SimEvent, SimKind, What},
};
use dirigent_model::time::Timestamp;
use durable::Durable;
use outside::{Graphs, Known, Stand};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

/// One run in so many is looked at in each moment, and after each crash: that costs more than all the rest.
const CLOSE_LOOK_ONE_IN: u64 = 4;

/// Whether this seed is one of those that are looked at closely.
pub(super) fn looks_closely(seed: u64) -> bool {
    Random(seed ^ 0x4A55_4447).one_in(CLOSE_LOOK_ONE_IN)
}

/// Listens to all brokers from the beginning.
pub(super) struct Watch {
    told: Arc<Mutex<Vec<(usize, SimEvent)>>>,
    durable: Option<Arc<Mutex<Durable>>>,
}

impl Watch {
    /// Begins to listen; to what is durable, too, if this is a close look.
    pub(super) fn begins(
        brokers: &[(SimBroker, Vec<String>)],
        disk: &SimDisk,
        is_close: bool,
    ) -> Self {
        let durable = is_close.then(|| Arc::new(Mutex::new(Durable::new(disk.clone()))));
        let watch = Self { told: Arc::default(), durable };
        for (number, (broker, _)) in brokers.iter().enumerate() {
            let memory = match broker.settings().kind {
                SimKind::Log => Memory::Positions,
                SimKind::Queues => Memory::Settlements,
            };
            let (told, durable) = (Arc::clone(&watch.told), watch.durable.clone());
            broker.watch(Box::new(move |event| {
                if let Some(durable) = &durable {
                    lock(durable).hears(event, memory);
                }
                if is_of_interest(&event.what) {
                    lock(&told).push((number, event.clone()));
                }
            }));
        }
        watch
    }
}

/// Whether the story is told without it.
fn is_of_interest(what: &What) -> bool {
    match what {
        What::Stored { .. } | What::Ended { .. } | What::Answered { .. } => true,
        What::HandedOut { group, .. } | What::Settled { group, .. } => **group == *APP,
        What::Returned { .. } | What::Owns { .. } | What::Injected { .. } => false,
    }
}

/// What a person at the running orchestrator could see at the end.
pub(super) struct Seen {
    snapshot: Snapshot,
    instances: Vec<InstanceView>,
    /// Messages that are kept.
    kept: Vec<KeptView>,
    destinations: Vec<DestinationView>,
    concerns: Vec<String>,
    at: Timestamp,
}

impl Seen {
    pub(super) fn of(handle: &Handle) -> Self {
        let all = handle.list(&ListFilter::default()).unwrap_or_default();
        let whole = |it: &InstanceView| handle.show(it.id).ok().flatten();
        Self {
            snapshot: handle.snapshot(),
            instances: all.iter().filter_map(whole).collect(),
            kept: handle.reader().kept(&KeptFilter::default()),
            destinations: handle.destinations(),
            concerns: handle.concerns().iter().map(|concern| format!("{concern:?}")).collect(),
            at: handle.now(),
        }
    }

    /// How many ended how.
    pub(super) fn ended(&self) -> BTreeMap<String, u64> {
        let mut ended = BTreeMap::new();
        for instance in &self.instances {
            *ended.entry(instance.status.clone()).or_default() += 1;
        }
        ended
    }

    /// All instances that are kept.
    pub(super) fn instances(&self) -> &[InstanceView] {
        &self.instances
    }

    /// Messages that are kept.
    pub(super) fn kept(&self) -> &[KeptView] {
        &self.kept
    }

    /// Runs of all keys, with those that others have followed.
    pub(super) fn runs(&self) -> u64 {
        self.instances.iter().map(|instance| u64::from(instance.run) + 1).sum()
    }

    fn stands(&self) -> BTreeMap<String, Stand> {
        let stand = |it: &InstanceView| Stand { status: it.status.clone(), run: it.run.into() };
        self.instances.iter().map(|it| (it.id.to_string(), stand(it))).collect()
    }
}

/// An effect at a participant, as it is kept there.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Effect {
    /// How often it took place.
    times: u64,
    /// The place of the last time among all effects of the run.
    order: u64,
}

/// By step: what its participant did, and undid.
type Effects = BTreeMap<String, (Effect, Effect)>;

/// Everything that is judged.
pub(super) struct Judged<'a> {
    pub simulation: &'a Simulation,
    pub seen: Option<&'a Seen>,
    pub watch: Watch,
    pub inquests: &'a Inquests,
    pub brokers: &'a [(SimBroker, Vec<String>)],
    pub places: &'a [Arc<Place>],
    pub disk: &'a SimDisk,
    pub store: &'a SimStore,
    /// How much time passed.
    pub lasted: Duration,
}

impl Judged<'_> {
    pub(super) fn judge(self, findings: &mut Findings) {
        self.folder(findings);
        let effects = self.effects();
        if let Some(seen) = self.seen {
            self.inside(seen, &effects, findings);
            self.leaks(seen, findings);
        }
        self.outside(&effects, findings);
        let durable = self.watch.durable.as_ref().map(|durable| lock(durable).take());
        durable.into_iter().for_each(|durable| durable.tell(findings));
    }

    fn outside(&self, effects: &BTreeMap<(String, u64), Effects>, findings: &mut Findings) {
        let plans = self.simulation.sagas.iter();
        let graphs = Graphs(plans.map(|plan| (plan.graph(), Some(&**plan))).collect());
        let known = Known {
            graphs: &graphs,
            stands: self.seen.map(Seen::stands).unwrap_or_default(),
            effects,
            reads: &|channel| self.simulation.reads(channel),
            lasted: self.lasted,
            begins: Some(clock::BEGINS.0),
        };
        outside::judge(&lock(&self.watch.told), &known, findings);
    }

    /// By saga and run of its key.
    fn effects(&self) -> BTreeMap<(String, u64), Effects> {
        let mut effects: BTreeMap<(String, u64), Effects> = BTreeMap::new();
        for place in self.places {
            for witness in witnessed(&*place.store.seen()) {
                let of_run = effects.entry((witness.saga, witness.run)).or_default();
                let of_step = of_run.entry(witness.step).or_default();
                let effect = if witness.undoes { &mut of_step.1 } else { &mut of_step.0 };
                effect.times += witness.times;
                effect.order = effect.order.max(witness.order);
            }
        }
        effects
    }
}
