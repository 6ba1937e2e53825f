//! Worlds drawn from a seed: sagas of every shape, participants with moods, customers, and what goes wrong.
//!
//! ```text
//! seed ─► which sagas (dirigent_model::generated), on which brokers, how many customers, what they say and when ─► Simulation
//! ```
//!
//! What goes in: a seed. What comes out: a world that is not run yet. What must be true: the same seed gives the same world, and every saga in it can
//! come to an end: participants fail for a while, never for ever.

mod moods;
#[cfg(feature = "planted")]
mod planted;
pub mod points;
mod shrink;

pub use dirigent::simulation::{Cut, Shortest};
#[cfg(feature = "planted")]
pub use planted::{Found, UNFOUND, first_found, world_for};
pub use shrink::{shortest, shortest_of};

use dirigent::simulation::Simulation;
use dirigent_connectors::{
    Attributes, ChannelKind, Message, names,
    simulated::{Random, SimKind},
};
use dirigent_model::{
    definition::Repeat,
    generated::{
        BEGINNINGS, Generated, HAPPENINGS, Limits, OBJECTIONS, PARTICIPANTS, SLOTS,
        generated_within,
    },
    message::Body,
};
use std::time::Duration;

/// Sagas that are begun in one run, at the most.
const SAGAS_MAX: u64 = 12;

/// How many times as long sagas wait and pause in some worlds: longer than an engine keeps times in memory.
const PATIENCE: u64 = 40;

/// A world drawn from a seed.
pub fn drawn(seed: u64) -> Simulation {
    drawn_with(seed, Random(seed ^ 0x5041_5449).one_in(6))
}

/// The same, with sagas that are patient or not.
fn drawn_with(seed: u64, are_patient: bool) -> Simulation {
    let mut random = Random(seed ^ 0x5341_4741);
    let mut world = Simulation::new(seed).brokers(brokers(&mut random));
    let slots = 1 + random.below(SLOTS as u64) as usize;
    let patience = if are_patient { PATIENCE } else { 1 };
    let sagas: Vec<Generated> = (0..slots)
        .map(|slot| {
            let steps_max = 1 + random.below(8) as usize;
            let limits = Limits { steps_max, slot, patience, ..Limits::default() };
            generated_within(random.below(u64::MAX), limits)
        })
        .collect();
    for saga in &sagas {
        world = world.saga(saga.definition.clone());
    }
    let mood = moods::Mood::drawn(&mut random);
    for (number, channel) in PARTICIPANTS.iter().enumerate() {
        let (name, mood) = (channel.name, mood.clone());
        let seed = seed.wrapping_add(number as u64);
        world = world.participant(move || moods::participant(name, seed, &mood));
    }
    let within = Duration::from_millis(1 + random.below(30_000));
    let mut begun: Vec<&Generated> = Vec::new();
    for key in 0..1 + random.below(SAGAS_MAX) {
        let saga = &sagas[random.below(sagas.len() as u64) as usize];
        begun.push(saga);
        world = begins(world, saga, key, &mut random, within);
    }
    for (key, saga) in begun.into_iter().enumerate() {
        world = begins_again(world, saga, key as u64, &mut random, within);
    }
    world
}

/// Sagas that are kept for so long after their end are begun anew now and then: what begins the next run comes before the former is forgotten.
const KEPT_LONG_ENOUGH: Duration = Duration::from_secs(300);

/// A customer asks for the same once more, by another message.
fn begins_again(
    world: Simulation,
    saga: &Generated,
    key: u64,
    random: &mut Random,
    within: Duration,
) -> Simulation {
    let graph = saga.plan.graph();
    let (is_asked, at) = (random.one_in(3), random.between(&(within..within * 2)));
    if !is_asked || graph.repeat == Repeat::Reject || graph.retention < KEPT_LONG_ENOUGH {
        return world;
    }
    let body = saga.begins(key, random.below(8));
    let start = message(BEGINNINGS.name, &graph.start.name, key, "begins-again", body);
    world.message(at, start, None)
}

/// One broker of either kind, or one of each with the participants shared out among them.
fn brokers(random: &mut Random) -> Vec<(SimKind, Vec<String>)> {
    let kind = |random: &mut Random| if random.one_in(2) { SimKind::Log } else { SimKind::Queues };
    let mut brokers = vec![(kind(random), Vec::new())];
    if random.one_in(3) {
        let other = PARTICIPANTS.iter().filter(|_| random.one_in(2)).map(|it| it.name.to_owned());
        let other: Vec<String> = other.collect();
        brokers.push((kind(random), other));
    }
    brokers
}

/// A customer begins a saga; what it waits for happens now and then, early or late, and it may be withdrawn.
fn begins(
    world: Simulation,
    saga: &Generated,
    key: u64,
    random: &mut Random,
    within: Duration,
) -> Simulation {
    let graph = saga.plan.graph();
    let at = random.between(&(Duration::ZERO..within));
    let name = graph.name.clone();
    let start = message(
        BEGINNINGS.name,
        &graph.start.name,
        key,
        "begins",
        saga.begins(key, random.below(8)),
    );
    let mut world = world.message(at, start, Some((&name, &key.to_string())));
    for (number, wait) in saga.waits.iter().enumerate() {
        let later = at + random.between(&(Duration::ZERO..Duration::from_secs(60)));
        let happens = saga.happens(key, number as u64);
        let refusing = wait.refusing.as_ref().filter(|_| random.one_in(4));
        let (channel, name) = match refusing {
            Some(refusing) => (OBJECTIONS.name, refusing),
            None if random.one_in(5) => continue,
            None => (HAPPENINGS.name, &wait.awaits),
        };
        let id = format!("happens-{number}");
        world = world.message(later, message(channel, name, key, &id, happens), None);
    }
    if random.one_in(6)
        && let Some((name, body)) = saga.withdraws(key)
    {
        let later = at + random.between(&(Duration::ZERO..Duration::from_secs(30)));
        world = world.message(later, message(BEGINNINGS.name, &name, key, "withdraws", body), None);
    }
    world
}

fn message(channel: &str, name: &str, key: u64, id: &str, body: Body) -> Message {
    let attributes = Attributes::new()
        .with(names::ID, format!("{id}-{key}"))
        .with(names::TYPE, name)
        .with(names::CONTENT_TYPE, "application/json");
    Message {
        channel: channel.into(),
        kind: ChannelKind::Events,
        key: key.to_string(),
        attributes,
        others: Vec::new(),
        body: body.bytes.into(),
    }
}
