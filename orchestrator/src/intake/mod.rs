//! The intake: what a message is, whom it concerns, and which shard that is.
//!
//! One thread for each source. A message that concerns nobody, or can't be read, goes to a shard all the same: as a
//! dead letter, so that it is settled only once that is durable.

mod classify;

use crate::{
    engine::{
        Covered, DeliveryDone, DeliveryJob, Fatal, HELD_UP_AFTER, Job, Progress, Shared, ToShard,
        What,
    },
    envelope,
};
use classify::Target;
pub(crate) use classify::targets;
use crossbeam_channel::{SendTimeoutError, Sender};
use dirigent_connectors::{Delivery, Memory, Settler, Source, health::Flow};
use dirigent_schemas::registry::SchemaRegistry;
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// Deliveries taken from a source at once.
const FETCH_MAX: usize = 512;

/// How often an idle intake looks whether it is to stop.
pub(crate) const IDLE: Duration = Duration::from_millis(100);

/// Reads one source.
pub(crate) struct Intake {
    pub shared: Arc<Shared>,
    pub source: Box<dyn Source>,
    pub memory: Memory,
    pub shards: Vec<Sender<ToShard>>,
    /// What had been taken care of before the start, by channel and partition.
    pub progress: BTreeMap<(String, u32), Progress>,
    /// The largest body that is looked into, in bytes.
    pub body_bytes_max: usize,
    /// By channel and partition: the offset behind the last delivery.
    pub reached: BTreeMap<(String, u32), u64>,
    pub names: BTreeMap<String, Arc<str>>,
    /// Which connector this is of.
    pub lane: usize,
    /// How often it looks whether it is to stop.
    pub idle: Duration,
}

impl Intake {
    /// Works until told to stop. Waits in place for shards that have enough, so it wants a thread of its own.
    pub(crate) async fn run(mut self) -> Result<(), Fatal> {
        let (settler, health) = (self.source.settler(), self.source.health());
        while !self.shared.stopping.load(Ordering::Acquire) {
            let held_up = self.shared.hold_up.lasts();
            self.hears(&if held_up { Flow::Nothing } else { health.flow() });
            if !waits_for_room(&self.shared, self.lane, self.idle).await {
                return Ok(());
            }
            let received = tokio::time::timeout(self.idle, self.source.receive(FETCH_MAX)).await;
            let Ok(received) = received else { continue };
            let received = received?;
            // What was fetched while the disk became low waits, too.
            if !waits_for_room(&self.shared, self.lane, self.idle).await {
                return Ok(());
            }
            let room = received.len().div_ceil(self.shards.len().max(1));
            let mut jobs: Vec<Vec<Job>> =
                self.shards.iter().map(|_| Vec::with_capacity(room)).collect();
            for delivery in received {
                if let Some((registry, id)) = self.unknown_schema(&delivery) {
                    // What came before it does not wait with it.
                    let handed_over = self.hand_over(&mut jobs);
                    self.hears(&Flow::Nothing);
                    let goes_on =
                        handed_over && registry.wait_for(id, || !self.shared.is_stopping())?;
                    if !goes_on {
                        return Ok(());
                    }
                }
                self.take_in(delivery, &settler, &mut jobs);
            }
            if !self.hand_over(&mut jobs) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Tells the shards which messages reach this process.
    fn hears(&self, flow: &Flow) {
        self.shared.hearing[self.lane].tell(flow, self.shared.clock.now());
    }

    /// The id of the schema that a body was written with, where the registry has to be asked first. While it is away the whole
    /// source waits, which stops fetching: nothing is condemned for an outage, and nothing overtakes.
    fn unknown_schema(&self, delivery: &Delivery) -> Option<(Arc<SchemaRegistry>, u32)> {
        let registry = self.shared.schemas.as_ref()?;
        let format = envelope::format_of(&delivery.message.attributes).ok()?;
        let id = registry.wants(format, &delivery.message.body)?;
        Some((Arc::clone(registry), id))
    }

    /// Whether the shards still take jobs.
    fn hand_over(&self, jobs: &mut [Vec<Job>]) -> bool {
        self.shards.iter().zip(jobs).all(|(shard, jobs)| {
            if jobs.is_empty() {
                return true;
            }
            let mut jobs = ToShard::Jobs(std::mem::take(jobs));
            loop {
                match shard.send_timeout(jobs, HELD_UP_AFTER) {
                    Ok(()) => return true,
                    Err(SendTimeoutError::Disconnected(_)) => return false,
                    // What comes meanwhile stays with the broker.
                    Err(SendTimeoutError::Timeout(back)) => {
                        self.hears(&Flow::Nothing);
                        jobs = back;
                    }
                }
            }
        })
    }

    fn take_in(&mut self, delivery: Delivery, settler: &Arc<dyn Settler>, jobs: &mut [Vec<Job>]) {
        let Delivery { message, partition, offset, receipt } = delivery;
        let channel = self.name(&message.channel);
        let (covered, again) = match self.memory {
            Memory::Settlements => (None, false),
            Memory::Positions => self.cover(&message.channel, partition, offset),
        };
        let targets = if again {
            vec![Target { instance: classify::nobody(partition), what: What::SettleOnly }]
        } else {
            classify::targets(&self.shared, &message, self.body_bytes_max)
        };
        let cause = message.attributes.get(dirigent_connectors::names::ID).map(ToOwned::to_owned);
        let shards = targets.len();
        let done = DeliveryDone::new(
            channel,
            partition,
            offset,
            covered,
            Arc::clone(settler),
            receipt,
            shards,
        );
        let (done, message) = (Arc::new(done), Arc::new(message));
        let all: Vec<_> = targets.iter().map(|target| target.instance).collect();
        for (at, Target { instance, what }) in targets.into_iter().enumerate() {
            let others = all.iter().copied().filter(|other| *other != instance).collect();
            let (message, done) = (Arc::clone(&message), Arc::clone(&done));
            let delivery = DeliveryJob { message, done, leads: at == 0, others };
            let job = Job { instance, what, cause: cause.clone(), delivery: Some(delivery) };
            jobs[self.shared.shard_of(instance)].push(job);
        }
    }

    /// The one copy of a channel's name.
    fn name(&mut self, channel: &str) -> Arc<str> {
        if let Some(known) = self.names.get(channel) {
            return Arc::clone(known);
        }
        let name: Arc<str> = channel.into();
        self.names.insert(channel.to_owned(), Arc::clone(&name));
        name
    }

    /// What taking care of this offset covers, and whether that was done before the start.
    fn cover(&mut self, channel: &str, partition: u32, offset: u64) -> (Option<Covered>, bool) {
        let place = (channel.to_owned(), partition);
        let before = self.progress.get(&place);
        let start = before.map_or(0, |before| before.next);
        let reached = self.reached.entry(place).or_insert(start);
        let (covered, again) = cover(before, reached, offset);
        (Some(covered), again)
    }
}

/// Waits while the disk is low; answers whether to go on. The source's own bounds hold it back, it goes on serving its broker,
/// and what is in hand at the end is not settled, so it comes again.
async fn waits_for_room(shared: &Shared, lane: usize, idle: Duration) -> bool {
    while shared.disk.is_low() {
        shared.hearing[lane].tell(&Flow::Nothing, shared.clock.now());
        if shared.stopping.load(Ordering::Acquire) {
            return false;
        }
        tokio::time::sleep(idle).await;
    }
    true
}

/// What taking care of an offset covers, with the gap before it, and whether that was done before the start. `reached` is the offset
/// behind the last delivery whose gap is covered with it: one that only has to be settled says nothing of positions, so the gap
/// before it is left to the next that does.
fn cover(before: Option<&Progress>, reached: &mut u64, offset: u64) -> (Covered, bool) {
    let again = before.is_some_and(|before| before.covers(offset));
    let covered = Covered { from: (*reached).min(offset), end: offset + 1 };
    if !again {
        *reached = (*reached).max(offset + 1);
    }
    (covered, again)
}

/// For how many instances a message is, or why it is set aside; a panic of a decoder goes on.
#[cfg(feature = "fuzzing")]
pub(crate) fn concerned(
    registry: &crate::registry::Registry,
    codec: &dyn dirigent_model::message::Codec,
    message: &dirigent_connectors::Message,
) -> Result<usize, envelope::DeadLetter> {
    classify::classify(registry, codec, message, crate::BODY_BYTES_MAX).map(|all| all.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_that_ends_at_a_message_covered_before_the_start_is_covered_with_the_next_one() {
        // Before the start: 0 to 6 are done, 8 to 10 too, and 7 was under way. Meanwhile the log was compacted, and has no 7.
        let mut before = Progress::default();
        before.cover(Covered { from: 0, end: 7 });
        (8..11).for_each(|offset| before.cover(Covered { from: offset, end: offset + 1 }));
        let mut progress = before.clone();
        let mut reached = before.next;
        let mut comes = |offset| {
            let (covered, again) = cover(Some(&before), &mut reached, offset);
            if !again {
                progress.cover(covered);
            }
            again
        };
        assert!((8..11).all(&mut comes), "only to be settled");
        assert!(!comes(11) && !comes(12));
        assert_eq!((progress.next, progress.above.len()), (13, 0));
        assert_eq!((progress.covered(), progress.skipped), (13, 7));
    }
}
