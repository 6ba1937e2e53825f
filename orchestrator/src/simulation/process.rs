//! The orchestrator's process: it lives, dies, and lives again on what it left behind.
//!
//! ```text
//! disk and store ─► Life: recover, connect, take turns ─► dies: by a kill at any time, or at a crossing ─► what was not synced is lost ─► …
//! ```
//!
//! What goes in: what to run, and dice or a plan for when and how it dies. What comes out: its lives, counted, and what refused to start. What must be true:
//! a start is refused only for what a person must mend, and the faults of a simulation are none of that.

use super::{
    Faults, Tell,
    clock::SimClock,
    disk::{LivingDisk, SimStore},
    judge::Inquests,
    points::{Death, Deaths, Lives},
    told::Told,
};
use crate::{
    Orchestrator, StartError,
    engine::{Assembly, Dice, EngineError, Folder, Handle, InTurn, Turns},
    journal::{Preparation, SimDisk},
};
use dirigent_connectors::{
    Connector,
    simulated::{Life, Random, SimBroker},
};
use dirigent_model::definition::Plan;
use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};
use tokio::time::sleep;

/// Bytes of a segment: small, so that rolling, retiring and recycling have their share of what happens.
const SEGMENT_BYTES: u64 = 16 * 1024;

/// Starts that may fail in a row. Each one is a death at a crossing while recovering, or a broker that was away for too long.
const REFUSED_MAX: u32 = 200;

/// Lives in a row that may die before they have opened. The next one is spared until it has: a process that is killed faster than it
/// opens would loop, and nothing would ever be asked of it.
const UNOPENED_MAX: u32 = 8;

/// The application's name, and so its process's.
pub const APP: &str = "simulated";

/// What a process leaves for the next one, and what all of them run.
pub(super) struct Process {
    pub plans: Vec<Arc<Plan>>,
    /// With the channels that are not the first one's.
    pub brokers: Vec<(SimBroker, Vec<String>)>,
    pub disk: SimDisk,
    pub store: SimStore,
    pub shards: usize,
    pub faults: Faults,
    pub deaths: Deaths,
    pub lives: Arc<Lives>,
    /// Takes the lines of a trace.
    pub trace: Option<Tell>,
    pub clock: Arc<SimClock>,
    pub random: Random,
    pub told: Arc<Told>,
    pub inquests: Arc<Inquests>,
    /// The engine that runs now.
    pub handle: Arc<Mutex<Option<Handle>>>,
}

/// How a life ended.
enum End {
    Died,
    Stopped,
    Failed(String),
}

impl Process {
    /// Lives until it is asked to stop, and says why it can't go on if it can't. What is asked of it begins once it has opened, which
    /// it does after [`UNOPENED_MAX`] lives at the latest.
    pub(super) async fn run(
        mut self,
        stop: tokio::sync::watch::Receiver<bool>,
    ) -> Result<(), String> {
        let (mut refused, mut unopened) = (0, 0);
        loop {
            let life = Arc::new(Life::numbered(self.told.begins()));
            let is_spared = unopened >= UNOPENED_MAX;
            let planned = self.lives.begins(APP, &life, &self.deaths);
            if planned.is_none() && !self.told.are_faults_over() && !is_spared {
                self.plan_death(&life);
            }
            let kill = self.kill_after();
            let end = self.live(&life, kill, is_spared, stop.clone()).await;
            let has_opened = lock(&self.handle).take().is_some();
            unopened = if has_opened { 0 } else { unopened + 1 };
            let (was_alive, before) = (life.is_alive(), life.died_before());
            life.kill();
            self.tell(&life, &end, planned);
            match end {
                End::Stopped => return Ok(()),
                End::Died => {
                    refused = 0;
                    self.told.died(before);
                }
                End::Failed(_) if !was_alive => self.told.died(before),
                End::Failed(why) => {
                    refused += 1;
                    self.told.failed(&why);
                    if refused > REFUSED_MAX {
                        return Err(format!(
                            "it could not go on {refused} times in a row, at last: {why}"
                        ));
                    }
                }
            }
            self.leaves(planned);
            sleep(self.random.between(&(Duration::from_millis(1)..Duration::from_secs(5)))).await;
        }
    }

    /// At which crossing it is to die, if at one.
    fn plan_death(&mut self, life: &Life) {
        if self.faults.dies_at_crossings && self.random.one_in(2) {
            // Often soon, in the middle of its recovery.
            let within = [20, 200, 2_000][self.random.below(3) as usize];
            life.die_at(1 + self.random.below(within));
        }
    }

    fn kill_after(&mut self) -> Option<Duration> {
        let within = self.faults.killed_within?;
        (!self.told.are_faults_over()).then(|| self.random.between(&(Duration::ZERO..within)))
    }

    /// Tells how a life ended.
    fn tell(&self, life: &Life, end: &End, planned: Option<Death>) {
        let Some(tell) = &self.trace else { return };
        let (at, number) = (self.clock.elapsed().as_secs_f64(), life.number());
        let how = match (end, life.died_before()) {
            (End::Stopped, _) => "stops in order".to_owned(),
            (_, Some(before)) if planned.is_some_and(|death| death.power_cut) => {
                format!("DIES before {before}, and the power goes with it")
            }
            (_, Some(before)) => format!("DIES before {before}"),
            (End::Died, None) => "DIES".to_owned(),
            (End::Failed(why), None) => format!("ends by itself: {why}"),
        };
        (lock(tell))(&format!("{at:>10.3} {APP} life {number:>2} {how}"));
    }

    /// What is left once it is dead, as it was planned or as the dice say.
    fn leaves(&mut self, planned: Option<Death>) {
        let mut dice = planned.map(|death| death.dice(&mut self.random));
        let random = dice.as_mut().unwrap_or(&mut self.random);
        self.store.crash(random);
        let is_cut = match planned {
            Some(death) => death.power_cut,
            None => self.faults.power_cuts && random.one_in(3),
        };
        if is_cut {
            self.disk.crash(random.below(u64::MAX));
            self.told.count("power cut");
        }
        self.inquests.died(&self.disk, &self.store);
    }

    async fn live(
        &mut self,
        life: &Arc<Life>,
        kill_after: Option<Duration>,
        is_spared: bool,
        mut stop: tokio::sync::watch::Receiver<bool>,
    ) -> End {
        let told = Arc::clone(&self.told);
        let opened = Arc::new(tokio::sync::Notify::new());
        let has_opened = Arc::clone(&opened);
        let mut killed = pin!(async move {
            if is_spared {
                has_opened.notified().await;
            }
            match kill_after {
                Some(after) => sleep(after).await,
                None => std::future::pending().await,
            }
            if told.are_faults_over() {
                std::future::pending::<()>().await;
            }
        });
        let engine = {
            let opening = self.open(life);
            let opened = tokio::select! {
                biased;
                () = &mut killed => return End::Died,
                opened = alive(life, opening) => opened,
            };
            match opened {
                None => return End::Died,
                Some(Err(why)) => return End::Failed(why),
                Some(Ok(engine)) => engine,
            }
        };
        let mut engine = engine;
        *lock(&self.handle) = Some(engine.handle());
        self.told.opened();
        opened.notify_one();
        let ended = tokio::select! {
            biased;
            () = &mut killed => return End::Died,
            _ = stop.wait_for(|stop| *stop) => None,
            ended = alive(life, engine.run()) => Some(ended),
        };
        match ended {
            Some(None) => End::Died,
            Some(Some(cause)) => End::Failed(crate::describe(&*cause)),
            None => match engine.stop() {
                Ok(()) => End::Stopped,
                Err(cause) => End::Failed(crate::describe(&*cause)),
            },
        }
    }

    async fn open(&mut self, life: &Arc<Life>) -> Result<InTurn, String> {
        let mut builder = Orchestrator::builder(APP).shards(self.shards).clock(self.clock.clone());
        for plan in &self.plans {
            builder = builder.saga(Arc::clone(plan));
        }
        for (broker, channels) in &self.brokers {
            let channels: Vec<&str> = channels.iter().map(String::as_str).collect();
            let connector: Arc<dyn Connector> = broker.connector(Arc::clone(life));
            builder = builder.connector_for(connector, &channels);
        }
        let mut parts =
            builder.parts().await.map_err(|error: StartError| crate::describe(&error))?;
        parts.store = self.store.of(life);
        parts.disk = Arc::new(LivingDisk::new(self.disk.clone(), Arc::clone(life)));
        parts.journal.segment_bytes = SEGMENT_BYTES;
        parts.journal.preparation = Preparation::OnDemand;
        parts.journal.nonce_seed = Some(self.random.below(u64::MAX));
        parts.headroom_bytes = 0;
        parts.protections.all.in_flight_max = self.faults.in_flight_max;
        let failed = |error: EngineError| crate::describe(&error);
        let read = Folder::of(&parts).recover().map_err(failed)?;
        let assembly = Assembly::of(parts, read, Turns::InTurn).await.map_err(failed)?;
        let dice = SeededDice { random: self.random.fork(), dawdles: self.faults.dawdles };
        Ok(InTurn::new(assembly, Box::new(dice)))
    }
}

/// What comes of it while this life goes on; nothing once it has ended.
async fn alive<T>(life: &Life, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|context| match work.as_mut().poll(context) {
        _ if !life.is_alive() => Poll::Ready(None),
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => Poll::Pending,
    })
    .await
}

struct SeededDice {
    random: Random,
    /// One turn in so many is followed by a wait.
    dawdles: Option<u64>,
}

impl Dice for SeededDice {
    fn below(&mut self, bound: usize) -> usize {
        match bound {
            0 | 1 => 0,
            bound => self.random.below(bound as u64) as usize,
        }
    }

    fn held_up(&mut self) -> Option<Duration> {
        let one_in = self.dawdles?;
        let longest = Duration::from_millis(if self.random.one_in(50) { 400 } else { 20 });
        self.random.one_in(one_in).then(|| self.random.between(&(Duration::ZERO..longest)))
    }
}

pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
