//! The world around the sagas: brokers, participants, customers, and time.
//!
//! ```text
//! draw the faults ─► brokers · orchestrator · participants · customers, all at once ─► the faults end ─► everybody comes to rest ─► judge
//! ```
//!
//! What goes in: a [`Simulation`]. What comes out: what is to be judged, and how it went. What must be true: one seed is one run. All of it is on
//! one thread, on virtual time, and nothing is drawn but from the seed.

use super::{
    Faults, Findings, Making, Report, Said, Simulation, Tell, causes,
    clock::SimClock,
    disk::SimStore,
    histories::Histories,
    judge,
    points::{Deaths, Lives},
    process::{APP, Process, lock},
    told::Told,
    watching::Watching,
};
use crate::{
    engine::{Handle, ListFilter},
    journal::SimDisk,
};
use dirigent_connectors::{
    Message, Sent, names,
    simulated::{Life, Random, SimBroker, SimFaults, SimKind, SimSettings, What},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

/// How often it is looked whether everybody has come to rest, at first and at the most.
const LOOK_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

/// A participant's place: what it leaves for its next life.
pub(super) struct Place {
    pub name: String,
    pub store: SimStore,
}

/// Runs it on a thread and a time of its own.
pub(super) fn run(simulation: Simulation) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap_or_else(|error| panic!("making a runtime of one thread: {error}"));
    let _running = super::Running::begins();
    dirigent_connectors::retry::seeded(simulation.seed);
    let watching = Watching::of(&simulation);
    let report = runtime.block_on(simulate(simulation));
    Report { coverage: watching.coverage(), ..report }
}

async fn simulate(simulation: Simulation) -> Report {
    let begun = Instant::now();
    let mut random = Random(simulation.seed);
    let faults = simulation.drawn_faults();
    let told = Arc::new(Told::default());
    let lives = Arc::new(Lives::default());
    let clock = Arc::new(SimClock::new());
    let brokers = brokers(&simulation, &faults, &mut random);
    if let Some(tell) = &simulation.trace {
        trace(&brokers, tell);
    }
    let (disk, store) = (SimDisk::new(), SimStore::default());
    let is_close = judge::looks_closely(simulation.seed);
    let watch = judge::Watch::begins(&brokers, &disk, is_close);
    let inquests = Arc::new(judge::Inquests::new(&simulation.sagas, is_close));
    let causes = causes::watch(&brokers, &disk);
    let handle = Arc::new(Mutex::new(None));
    let (stop, stopped) = watch::channel(false);
    let process = Process {
        plans: simulation.sagas.clone(),
        brokers: brokers.clone(),
        disk: disk.clone(),
        store: store.clone(),
        shards: simulation.shards.unwrap_or(1 + random.below(3) as usize),
        faults: faults.clone(),
        deaths: simulation.deaths.clone(),
        lives: Arc::clone(&lives),
        trace: simulation.trace.clone(),
        clock: Arc::clone(&clock),
        random: random.fork(),
        told: Arc::clone(&told),
        inquests: Arc::clone(&inquests),
        handle: Arc::clone(&handle),
    };
    let orchestrator = tokio::spawn(process.run(stopped));
    let mut others = JoinSet::new();
    let mut places = Vec::new();
    for (make, (name, reads)) in simulation.participants.iter().zip(simulation.crew()) {
        let place = Arc::new(Place { name: name.clone(), store: SimStore::default() });
        places.push(Arc::clone(&place));
        let service = Service {
            make: Arc::clone(make),
            place,
            broker: broker_of(&brokers, reads),
            clock: Arc::clone(&clock),
            faults: faults.clone(),
            deaths: simulation.deaths.clone(),
            lives: Arc::clone(&lives),
            random: random.fork(),
            told: Arc::clone(&told),
        };
        others.spawn(service.run());
    }
    if let Some(within) = faults.unroutable_within {
        let random = Random(simulation.seed ^ 3);
        let told = Arc::clone(&told);
        others.spawn(unroute(simulation.commanded(&brokers), within, random, told));
    }
    // Queues for events are made by who listens: what is said before is said to nobody.
    while !told.has_opened() {
        sleep(LOOK_AFTER.0).await;
    }
    let mut customers = JoinSet::new();
    for said in &simulation.said {
        let broker = brokers.iter().find(|(_, own)| own.contains(&said.message.channel));
        let broker = broker.unwrap_or(&brokers[0]).0.clone();
        customers.spawn(say(broker, said.clone(), random.fork(), faults.says_twice));
    }
    let mut findings = Findings::default();
    while customers.join_next().await.is_some() {}
    sleep(faults.lasts.saturating_sub(begun.elapsed())).await;
    told.end_faults();
    brokers.iter().for_each(|(broker, _)| broker.faults(SimFaults::none()));
    let reads = simulation.all_reads();
    let rested = rest(&handle, &brokers, &reads, simulation.rests_within).await;
    let rested = forget(&handle, &brokers, &reads, rested).await;
    let seen = lock(&handle).clone().map(|handle| judge::Seen::of(&handle));
    stop.send_replace(true);
    let ended = match orchestrator.await {
        Ok(ended) => ended,
        Err(error) => Err(format!("the simulation's own task ended: {error}")),
    };
    others.shutdown().await;
    // Whoever judges reads with the code as it is.
    #[cfg(feature = "planted")]
    crate::planted::plant(None);
    if let Err(why) = ended {
        findings.add("it starts again whatever happened before", why);
    }
    if let Err(why) = rested {
        findings.add("everything comes to rest once the faults are over", why);
    }
    let judged = judge::Judged {
        simulation: &simulation,
        seen: seen.as_ref(),
        watch,
        inquests: &inquests,
        brokers: &brokers,
        places: &places,
        disk: &disk,
        store: &store,
        lasted: begun.elapsed(),
    };
    judged.judge(&mut findings);
    causes.judge(&mut findings);
    if let Some(seen) = &seen {
        let had_one_life = lives.crossings().get(APP).is_some_and(|lives| lives.len() == 1);
        let histories =
            Histories { simulation: &simulation, seen, brokers: &brokers, faults: &faults };
        histories.judge(had_one_life, &mut findings);
    }
    let mut injected = told.counts();
    for (broker, _) in &brokers {
        for (fault, count) in broker.injected() {
            *injected.entry(fault).or_default() += count;
        }
    }
    Report {
        seed: simulation.seed,
        findings: findings.0,
        virtual_time: begun.elapsed(),
        injected,
        failures: told.failures(),
        runs: seen.as_ref().map(judge::Seen::runs).unwrap_or_default(),
        ended: seen.map(|seen| seen.ended()).unwrap_or_default(),
        crossings: lives.crossings(),
        coverage: Vec::new(),
    }
}

/// What a broker is called.
pub(super) fn broker_name(index: usize) -> String {
    format!("broker-{index}")
}

/// Tells all that happens at the brokers.
fn trace(brokers: &[(SimBroker, Vec<String>)], tell: &Tell) {
    for (broker, _) in brokers {
        let (name, tell) = (broker.settings().name.clone(), Arc::clone(tell));
        broker.watch(Box::new(move |event| {
            let line = format!(
                "{:>10.3} {name} life {:>2} {}",
                event.at.as_secs_f64(),
                event.life,
                story(&event.what)
            );
            (lock(&tell))(&line);
        }));
    }
}

/// What happened, in one line.
fn story(what: &What) -> String {
    let of = |message: &Message| {
        let attribute = |name| message.attributes.get(name).unwrap_or_default().to_owned();
        format!("{} {} ({})", message.channel, attribute(names::TYPE), attribute(names::ID))
    };
    match what {
        What::Stored { place, message, open } => {
            let open = if *open { ", not committed yet" } else { "" };
            format!("stores at {}: {}{open}", place.offset, of(message))
        }
        What::Ended { committed, places } => {
            let how = if *committed { "commits" } else { "aborts" };
            format!("{how} {} messages", places.len())
        }
        What::Answered { message, sent } => format!("answers {sent:?}: {}", of(message)),
        What::HandedOut { group, message, .. } => format!("hands to {group}: {}", of(message)),
        What::Settled { group, place, settle } => {
            format!("hears from {group}: {settle:?}, {} at {}", place.channel, place.offset)
        }
        What::Returned { group, places } => {
            format!("takes back from {group}: {} messages", places.len())
        }
        What::Owns { group, epoch } => format!("gives {group} to it, epoch {epoch}"),
        What::Injected { fault } => format!("FAULT: {fault}"),
    }
}

/// The brokers, each with the channels that are not the first one's.
fn brokers(
    simulation: &Simulation,
    faults: &Faults,
    random: &mut Random,
) -> Vec<(SimBroker, Vec<String>)> {
    let mut settings = |name: &str, kind| {
        let settings = match kind {
            SimKind::Log => SimSettings::log(name, random.below(u64::MAX)),
            SimKind::Queues => SimSettings::queues(name, random.below(u64::MAX)),
        };
        let latency = Duration::ZERO..faults.latency;
        SimBroker::new(SimSettings { latency, faults: faults.brokers.clone(), ..settings })
    };
    simulation
        .kinds
        .iter()
        .enumerate()
        .map(|(index, (kind, channels))| (settings(&broker_name(index), *kind), channels.clone()))
        .collect()
}

pub(super) fn broker_of(brokers: &[(SimBroker, Vec<String>)], reads: &[String]) -> SimBroker {
    let own = brokers.iter().find(|(_, own)| own.iter().any(|channel| reads.contains(channel)));
    own.unwrap_or(&brokers[0]).0.clone()
}

/// How long a channel takes nothing.
const UNROUTABLE_FOR: std::ops::Range<Duration> =
    Duration::from_millis(100)..Duration::from_secs(8);

/// Lets one channel after another take nothing for a while.
async fn unroute(
    channels: Vec<(SimBroker, String)>,
    within: Duration,
    mut random: Random,
    told: Arc<Told>,
) {
    while !channels.is_empty() {
        sleep(random.between(&(Duration::from_millis(1)..within))).await;
        if told.are_faults_over() {
            return;
        }
        let (broker, channel) = &channels[random.below(channels.len() as u64) as usize];
        broker.unroutable(channel, Some(random.between(&UNROUTABLE_FOR)));
    }
}

/// A participant's process, life after life.
struct Service {
    make: Arc<dyn Fn() -> Making + Send + Sync>,
    place: Arc<Place>,
    broker: SimBroker,
    clock: Arc<SimClock>,
    faults: Faults,
    deaths: Deaths,
    lives: Arc<Lives>,
    random: Random,
    told: Arc<Told>,
}

impl Service {
    async fn run(mut self) {
        loop {
            let life = Arc::new(Life::numbered(self.told.begins()));
            let is_over = self.told.are_faults_over();
            let planned = self.lives.begins(&self.place.name, &life, &self.deaths);
            if planned.is_some() {
                self.live(&life, None).await;
            } else if let Some(within) = self.faults.participants_killed_within
                && !is_over
            {
                life.die_at(1 + self.random.below(400));
                let span = self.random.between(&(Duration::ZERO..within));
                self.live(&life, Some(span)).await;
            } else {
                self.live(&life, None).await;
            }
            life.kill();
            self.told.count("participant died");
            match planned {
                Some(death) => self.place.store.crash(&mut death.dice(&mut self.random)),
                None => self.place.store.crash(&mut self.random),
            }
            sleep(self.random.between(&(Duration::from_millis(1)..Duration::from_secs(3)))).await;
        }
    }

    async fn live(&self, life: &Arc<Life>, at_most: Option<Duration>) {
        let participant = (self.make)().0.clock(Arc::clone(&self.clock) as _);
        let connector = self.broker.connector(Arc::clone(life));
        let store = self.place.store.of(life);
        let told = Arc::clone(&self.told);
        let ends = async {
            match at_most {
                Some(span) => sleep(span).await,
                None => std::future::pending().await,
            }
            if told.are_faults_over() {
                std::future::pending::<()>().await;
            }
        };
        let works = async {
            match participant.start(connector, store).await {
                Ok(mut running) => running.ended().await,
                Err(error) => Err(error),
            }
        };
        // One that died at a crossing waits for ever for what never answers.
        tokio::select! {
            biased;
            () = ends => {}
            () = life.over() => {}
            ended = works => if let Err(error) = ended && life.is_alive() {
                self.told.failed(&crate::describe(&error));
            },
        }
    }
}

/// A customer says something until the broker has it: at least once, as everybody may.
async fn say(broker: SimBroker, said: Said, mut random: Random, says_twice: bool) {
    sleep(said.after).await;
    let connector = broker.connector(Arc::new(Life::new()));
    let mut times = if says_twice && random.one_in(4) { 2 } else { 1 };
    while times > 0 {
        let Ok(mut sink) = connector.sink().await else {
            sleep(Duration::from_secs(1)).await;
            continue;
        };
        while times > 0 {
            match sink.send(std::slice::from_ref(&said.message)).await.first() {
                Some(Sent::Confirmed) => times -= 1,
                _ => {
                    sleep(random.between(&(Duration::from_millis(10)..Duration::from_secs(2))))
                        .await
                }
            }
        }
    }
}

/// Waits until nothing goes on any more, and says what still does if that takes too long.
async fn rest(
    handle: &Mutex<Option<Handle>>,
    brokers: &[(SimBroker, Vec<String>)],
    reads: &[(String, String)],
    within: Duration,
) -> Result<(), String> {
    let begun = Instant::now();
    let mut look_after = LOOK_AFTER.0;
    let mut was_still = false;
    loop {
        let doing = doing(lock(handle).as_ref(), brokers, reads);
        match (&doing, was_still) {
            (None, true) => return Ok(()),
            // What was just settled may have left something behind.
            (None, false) => was_still = true,
            (Some(_), _) => was_still = false,
        }
        if let Some(doing) = doing.filter(|_| begun.elapsed() > within) {
            return Err(format!("after {} h: {doing}", within.as_secs() / 3_600));
        }
        sleep(look_after).await;
        look_after = (look_after * 2).min(LOOK_AFTER.1);
    }
}

/// Waits, once nothing goes on any more, until destinations have forgotten what nobody asks for again, or have had the time to.
async fn forget(
    handle: &Mutex<Option<Handle>>,
    brokers: &[(SimBroker, Vec<String>)],
    reads: &[(String, String)],
    mut rested: Result<(), String>,
) -> Result<(), String> {
    let begun = Instant::now();
    let has_forgotten = || lock(handle).as_ref().is_some_and(judge::have_destinations_forgotten);
    while rested.is_ok() && !has_forgotten() && begun.elapsed() < judge::FORGETS_WITHIN {
        sleep(judge::FORGETS_WITHIN / 20).await;
        rested = rest(handle, brokers, reads, judge::FORGETS_WITHIN).await;
    }
    rested
}

/// What is still going on.
fn doing(
    handle: Option<&Handle>,
    brokers: &[(SimBroker, Vec<String>)],
    reads: &[(String, String)],
) -> Option<String> {
    let Some(handle) = handle else { return Some("no orchestrator runs".into()) };
    let snapshot = handle.snapshot();
    if snapshot.in_flight > snapshot.blocked {
        let live = ListFilter { limit: 3, ..ListFilter::default() };
        let live = handle.list(&ListFilter { status: Some("running".into()), ..live });
        let shown: Vec<String> =
            live.unwrap_or_default().iter().map(|it| format!("{} {:?}", it.saga, it.due)).collect();
        return Some(format!(
            "{} sagas are under way, {} of them blocked: {shown:?}",
            snapshot.in_flight, snapshot.blocked
        ));
    }
    let confirmed: u64 = snapshot.confirmed.iter().sum();
    if snapshot.sent > confirmed {
        return Some(format!("{} messages are not confirmed", snapshot.sent - confirmed));
    }
    let mut unsettled: BTreeMap<String, usize> = BTreeMap::new();
    for (broker, _) in brokers {
        for delivery in broker.unsettled() {
            *unsettled.entry(delivery.place.channel.to_string()).or_default() += 1;
        }
    }
    if !unsettled.is_empty() {
        return Some(format!("deliveries are not settled: {unsettled:?}"));
    }
    for (broker, _) in brokers {
        for (channel, group) in reads {
            let waiting = broker.waiting(channel, group);
            if waiting > 0 {
                return Some(format!("{waiting} messages of {channel} wait for {group}"));
            }
        }
    }
    None
}
