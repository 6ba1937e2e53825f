//! Commands that their destination holds, and what nobody could hear that is waited for: what a shard asks of destinations and of its
//! hearing before it decides, and tells destinations afterwards.
//!
//! The decision itself is the model's: it is handed what is known here as a part of the input.

use super::Shard;
use crate::{
    destinations::{Destination, Key, Stage},
    engine::{
        Sender,
        shard::Live,
        withdrawal::{Withdrawn, out_at, settled},
    },
};
use dirigent_model::{
    decision::{Heard, Hold, Input},
    definition::{NodeId, Plan},
    history::{Verdict, Why},
    instance::{Core, Instance, InstanceId, Leg, Next, NodeState, Status},
    message::{Failure, Message as _},
    time::Timestamp,
    transition,
};
use std::time::Duration;

impl Shard {
    /// What is due in an instance: time that counts, a command that its destination holds, or a wait that goes on.
    pub(super) fn due_input(&self, id: InstanceId) -> Input {
        self.live.get(&id).and_then(|live| self.resting_input(live)).unwrap_or(Input::Due)
    }

    fn resting_input(&self, live: &Live) -> Option<Input> {
        let core = &live.instance.core;
        let node = core.next_due()?.1?;
        if let NodeState::Waiting { until, since } = core.state(node) {
            let until = self.batch.now + self.unheard(&live.plan, node, (*since, *until))?;
            return Some(Input::Unheard { node, until });
        }
        let (leg, ask) = core.state(node).asked()?;
        let destination = self.destination(&live.plan, node, leg)?;
        let stage = match ask.next {
            Next::GiveUp(_) => {
                let may_wait = may_wait(core, leg);
                Stage::UnderWay { asked_at: ask.asked_at, may_wait }
            }
            Next::AskAgain(_) | Next::Held(_) => Stage::Resting,
        };
        let key: Key = (core.id, node, leg);
        let (hold, until) = match stage {
            Stage::UnderWay { asked_at, .. }
                if !self.was_heard(&live.plan, (node, leg), asked_at) =>
            {
                destination.keep_in_flight(key, self.batch.now);
                (Hold::Queued, self.batch.now)
            }
            Stage::UnderWay { .. } | Stage::Resting => {
                let asked = (key, core.run, ask.attempt);
                destination.at_due(&asked, stage, self.batch.now)?
            }
        };
        Some(Input::Held { node, leg, attempt: ask.attempt, hold, until })
    }

    /// A saga that turns back gives up what its broker does not take: it does not leave any more, when the saga may have ended long ago.
    pub(super) fn withdraw_stuck(&mut self, id: InstanceId) {
        let Some(live) = self.live.get(&id) else { return };
        let core = &live.instance.core;
        let Some((_, Some(node))) = core.next_due() else { return };
        let Some((leg, ask)) = core.state(node).asked() else { return };
        let sender = Sender { instance: id, run: core.run, node, leg, attempt: ask.attempt };
        let stuck = self
            .destination(&live.plan, node, leg)
            .is_some_and(|destination| destination.is_stuck(&sender.asked()));
        if may_wait(core, leg) || !stuck {
            return;
        }
        let channel = transition::destination(live.plan.graph(), node, leg).unwrap_or_default();
        let (lane, channel) = (self.shared.routes.lane(channel), channel.to_owned());
        self.batch.withdrawn.push(Withdrawn { lane, channel, sender });
    }

    /// Whether a reply to a command that was sent at `asked` would have been heard: it comes the way the command went.
    fn was_heard(&self, plan: &Plan, (node, leg): (NodeId, Leg), asked: Timestamp) -> bool {
        let channel = transition::destination(plan.graph(), node, leg).unwrap_or_default();
        let replies = self.shared.envelopes.replies(channel);
        let lane = self.shared.routes.lane(channel);
        let hearing = self.shared.hearing.get(usize::from(lane));
        hearing.is_none_or(|hearing| !hearing.begins_anew(replies, asked, self.batch.now))
    }

    /// How much longer a wait goes on, since what it awaits could not have been heard all the time.
    fn unheard(&self, plan: &Plan, node: NodeId, time: (Timestamp, Timestamp)) -> Option<Duration> {
        transition::awaited_on(plan.graph(), node).filter_map(|on| self.lacks(on, time)).max()
    }

    /// How much longer an event is parked that was to be given up, since the start of its saga could not have been heard all
    /// the time.
    pub(super) fn start_unheard(
        &self,
        saga: &str,
        time: (Timestamp, Timestamp),
    ) -> Option<Duration> {
        let plan = self.shared.registry.newest_of(saga)?;
        self.lacks(&plan.graph().start.channel, time)
    }

    /// How much longer is waited for something on this channel.
    fn lacks(&self, channel: &str, time: (Timestamp, Timestamp)) -> Option<Duration> {
        let lane = usize::from(self.shared.routes.lane(channel));
        self.shared.hearing.get(lane)?.lacks(channel, time, self.batch.now)
    }

    /// Until when the destination is held that a failure came from.
    pub(super) fn held_until(
        &self,
        id: InstanceId,
        (node, leg): (NodeId, Leg),
        reply: &str,
    ) -> Option<Timestamp> {
        if reply != Failure::NAME {
            return None;
        }
        let live = self.live.get(&id)?;
        self.destination(&live.plan, node, leg)?.held_until((id, node, leg), self.batch.now)
    }

    /// Tells a destination what an input says of it.
    pub(super) fn tell_destination(&self, instance: &Instance, plan: &Plan, heard: Heard) {
        let Heard { node, leg, well, left } = heard;
        if let Some(destination) = self.destination(plan, node, leg) {
            destination.hear((instance.core.id, node, leg), well, left, self.batch.now);
        }
    }

    /// What a reply came to that no longer mattered: its command left after its step was settled, and is out no more.
    /// One to an earlier attempt says nothing of the one that is out.
    pub(super) fn note_needless(
        &self,
        id: InstanceId,
        (node, leg): (NodeId, Leg),
        verdict: Verdict,
    ) {
        match verdict {
            Verdict::Duplicate | Verdict::Ignored(Why::AlreadySettled | Why::HasEnded) => {}
            Verdict::Applied | Verdict::Deferred | Verdict::Ignored(_) => return,
        }
        if let Some(live) = self.live.get(&id)
            && let Some(destination) = self.destination(&live.plan, node, leg)
        {
            destination.forget((id, node, leg));
        }
    }

    /// An answer has settled commands that were out at a node: where the broker has not confirmed them they do not leave again.
    pub(super) fn withdraw_settled(
        &mut self,
        id: InstanceId,
        node: NodeId,
        out: [Option<(Leg, u32)>; 2],
    ) {
        let Some(live) = self.live.get(&id) else { return };
        let withdrawn = self.withdrawn(&live.instance.core, &live.plan, node, out);
        self.batch.withdrawn.extend(withdrawn);
    }

    fn withdrawn(
        &self,
        core: &Core,
        plan: &Plan,
        node: NodeId,
        out: [Option<(Leg, u32)>; 2],
    ) -> Vec<Withdrawn> {
        let of = |sender: Sender| {
            let channel = transition::destination(plan.graph(), node, sender.leg)?.to_owned();
            Some(Withdrawn { lane: self.shared.routes.lane(&channel), channel, sender })
        };
        settled(core, node, out).filter_map(of).collect()
    }

    /// An instance ended as it stood: its commands are not awaited any more, and what has not left stays.
    pub(super) fn forget_commands(&mut self, core: &Core, plan: &Plan) {
        for node in plan.graph().ids() {
            let withdrawn = self.withdrawn(core, plan, node, out_at(core, node));
            self.batch.withdrawn.extend(withdrawn);
            let Some((leg, _)) = core.state(node).asked() else { continue };
            if let Some(destination) = self.destination(plan, node, leg) {
                destination.forget((core.id, node, leg));
            }
        }
    }

    fn destination(&self, plan: &Plan, node: NodeId, leg: Leg) -> Option<&Destination> {
        let channel = transition::destination(plan.graph(), node, leg)?;
        self.shared.destinations.of(channel).map(|destination| &**destination)
    }
}

/// Whether a saga waits for a command for as long as its broker does not take it: not one that turns back, but for its compensations.
fn may_wait(core: &Core, leg: Leg) -> bool {
    leg == Leg::Compensate || core.status == Status::Running
}
