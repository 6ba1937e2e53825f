//! A world of the users' kit, drawn from a seed: how many customers, what they say, when, and how often.

use super::{Company, Says, Simulate, Spoken};
use crate::simulation::{RESTS_WITHIN, Simulation};
use dirigent_connectors::{Attributes, ChannelKind, Message, names, simulated::Random};
use dirigent_model::{
    definition::{Graph, Kind, Node, Plan, WayBack},
    retry::Retry,
};
use std::time::Duration;

/// Numbers that customers have, but for those that follow in the same world.
const NUMBERS: u64 = 100_000;

/// Within how long customers begin, at the most (s).
const BEGIN_WITHIN_S: u64 = 30;

/// Within how long of its beginning a saga hears what happens outside, at the most (s).
const HEARD_WITHIN_S: u64 = 60;

/// A start is said again only of sagas that are kept for longer than a world of them lasts.
const REPEATED_FROM: Duration = Duration::from_secs(24 * 3_600);

impl Simulate {
    pub(super) fn world(&self, company: &Company, seed: u64) -> Simulation {
        let mut random = Random(seed ^ 0x6B69_7473);
        let mut world = Simulation::new(seed).saga(company.plan.clone()).covered();
        world.rests_within = RESTS_WITHIN + longest(company.plan.graph());
        if let Some(faults) = &self.faults {
            world = world.faults(faults.clone());
        }
        world = company.join(world, seed, &mut random);
        let within = Duration::from_secs(1 + random.below(BEGIN_WITHIN_S));
        // Some worlds hear of nearly nothing, others of nearly all.
        let heard = [100, 500, 800, 950][random.below(4) as usize];
        let first = random.below(NUMBERS);
        for number in first..=first + random.below(self.sagas_max) {
            let at = random.between(&(Duration::ZERO..within));
            world = self.customer(world, &company.plan, number, at, heard, &mut random);
        }
        world
    }

    fn customer(
        &self,
        world: Simulation,
        plan: &Plan,
        number: u64,
        at: Duration,
        heard: u16,
        random: &mut Random,
    ) -> Simulation {
        let Some(starts) = &self.starts else { return world };
        let start = said(starts, plan, number);
        let (saga, key) = (plan.graph().name.clone(), start.key.to_string());
        let mut world =
            world.message(at, message(&start, &format!("start-{number}")), Some((&saga, &key)));
        if random.one_in(8) && plan.graph().retention >= REPEATED_FROM {
            world = world.repeats(at + random.between(&seconds(120)));
        }
        for (place, says) in self.heard.iter().enumerate() {
            if random.chance(heard) {
                let happens = said(says, plan, number);
                let later = at + random.between(&seconds(HEARD_WITHIN_S));
                let id = format!("happens-{place}-{number}");
                world = world.message(later, message(&happens, &id), None);
            }
        }
        world
    }
}

/// How long a saga may take that nobody answers: all that it waits for, one after the other.
fn longest(graph: &Graph) -> Duration {
    let asked = |retry: &Retry, within: Duration| retry.span(within) + within;
    let of = |node: &Node| match &node.kind {
        Kind::Wait { within, .. } => *within,
        Kind::Pause { span } => *span,
        Kind::Step(step) => {
            let status = step.status.as_ref().map(|ask| asked(&ask.retry, ask.reply_within));
            let back = match &step.way_back {
                WayBack::Compensated { retry, reply_within, .. } => asked(retry, *reply_within),
                WayBack::Nothing { .. } | WayBack::Pivot | WayBack::Retriable => Duration::ZERO,
            };
            asked(&step.retry, step.reply_within) + status.unwrap_or_default() + back
        }
        Kind::Sequence { .. } | Kind::All { .. } | Kind::Choose { .. } | Kind::Publish { .. } => {
            Duration::ZERO
        }
    };
    graph.nodes.iter().map(of).sum()
}

fn seconds(at_most: u64) -> std::ops::Range<Duration> {
    Duration::ZERO..Duration::from_secs(at_most)
}

fn said(says: &Says, plan: &Plan, number: u64) -> Spoken {
    says(plan, number).unwrap_or_else(|mistake| panic!("what customer {number} says: {mistake}"))
}

fn message(spoken: &Spoken, id: &str) -> Message {
    let attributes = Attributes::new()
        .with(names::ID, id)
        .with(names::TYPE, spoken.name)
        .with(names::CONTENT_TYPE, spoken.body.format.content_type());
    Message {
        channel: spoken.channel.into(),
        kind: ChannelKind::Events,
        key: spoken.key.to_string(),
        attributes,
        others: Vec::new(),
        body: spoken.body.bytes.clone().into(),
    }
}
