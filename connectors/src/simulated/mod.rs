//! Simulated brokers: a [log](SimKind::Log) as Kafka keeps one, and [queues](SimKind::Queues) as RabbitMQ does, on virtual time and by seed.
//!
//! ```text
//! Life ─► SimBroker::connector ─► sources and sinks ─► a turn at the broker ─► what happened ─► whoever watches
//!                                 dice of SimFaults, commands ──┘
//! ```
//!
//! For a simulator that runs the real engine and participants in one thread with tokio's clock paused. What goes in: a seed, faults by
//! rate and by command, and the calls of processes, each in one [`Life`]. What comes out: what connectors promise, the
//! [events](SimEvent) that truly happened, and how often each fault was [injected](SimBroker::injected).
//!
//! What must be true: the same seed and the same calls give the same answers at the same times; no fault breaks what the
//! [promises](crate#) of connectors allow nothing to break: what was confirmed is there, what was handed out and not settled comes again, and within one opened
//! source the messages of a key keep their order unless one returns. Nobody runs in the background: what is over in time
//! is found to be over by whoever comes next, and readers that wait wake up for it.
//!
//! ```
//! # use dirigent_connectors::{ChannelSpec, SourceSpec, simulated::{Life, SimBroker, SimFaults, SimSettings}};
//! # use std::sync::Arc;
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let faults = SimFaults { confirm_lost: 20, reset: 5, ..SimFaults::none() };
//! let broker = SimBroker::new(SimSettings { faults, ..SimSettings::queues("rabbit", 7) });
//! let life = Arc::new(Life::new());
//! let connector = broker.connector(Arc::clone(&life));
//! connector.prepare(&[ChannelSpec::work("stock")]).await?;
//! life.die_at(3); // the third call from now on does not happen any more
//! # Ok(())
//! # }
//! ```

mod broker;
mod events;
mod faults;
mod house;
mod life;
mod logs;
mod queues;
mod settings;
mod sink;
mod source;
#[cfg(test)]
mod tests;

pub use crate::random::Random;
pub use events::{Fate, Kept, Place, SimEvent, Unsettled, What};
pub use faults::{SimFaults, injected};
pub use life::Life;
pub use settings::{
    CONFIRM_TIME_MAX, HEARTBEATS_MISSED, MESSAGE_BYTES_MAX, OPEN_WAIT_MAX, PARTITIONS,
    SEND_WAIT_MAX, SESSION_TIMEOUT, SimKind, SimSettings, TAKEOVER_MARGIN, TRANSACTION_MARGIN,
};

use crate::{ChannelSpec, Connector, ConnectorError, Memory, Retention, Sink, Source, SourceSpec};
use async_trait::async_trait;
use broker::{Broker, Kept as Store};
use sink::{Owns, SimSink};
use source::{SimSource, reached};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Messages of a batch that is handed out in pieces, at the most.
const PIECE_MAX: usize = 8;

/// A broker. Clones are the same one.
#[derive(Debug, Clone)]
pub struct SimBroker {
    broker: Arc<Broker>,
    settings: Arc<SimSettings>,
}

impl SimBroker {
    /// Empty, with nobody connected. Its time begins now.
    pub fn new(settings: SimSettings) -> Self {
        let broker = Arc::new(Broker::new(settings.clone()));
        Self { broker, settings: Arc::new(settings) }
    }

    /// What it was made with. The faults may have been [changed](Self::faults) since.
    pub fn settings(&self) -> &SimSettings {
        &self.settings
    }

    /// The way of one life of a process to this broker.
    pub fn connector(&self, life: Arc<Life>) -> Arc<dyn Connector> {
        life.mourned_by(&self.broker);
        Arc::new(SimConnector { sim: self.clone(), life })
    }

    /// Other faults from now on: none, for the end of a run in which all is to come to rest.
    pub fn faults(&self, faults: SimFaults) {
        self.broker.turn().house.settings.faults = faults;
    }

    // Faults by command.

    /// Away for so long from now: nothing gets there, connections are lost, and what is under way is in doubt.
    pub fn away(&self, duration: Duration) {
        let mut turn = self.broker.turn();
        let now = turn.now;
        turn.goes_away(0, now, duration);
    }

    /// All connections break at once. Each stands again after a time of its own.
    pub fn reset_connections(&self) {
        let mut turn = self.broker.turn();
        let now = turn.now;
        turn.reset_all(now);
    }

    /// A channel hands out nothing for so long, as one without a leader. Its sources are degraded.
    pub fn freeze_source(&self, channel: &str, duration: Duration) {
        let mut turn = self.broker.turn();
        let until = turn.now + duration;
        let now = turn.now;
        turn.house.inject(now, 0, injected::SILENT);
        turn.house.silence(channel, until);
    }

    /// A channel takes no messages for so long, or for ever: what is sent to it is unroutable.
    pub fn unroutable(&self, channel: &str, duration: Option<Duration>) {
        let mut turn = self.broker.turn();
        let until = turn.now + duration.unwrap_or(house::EVER);
        turn.house.unroute(channel, until);
    }

    /// Nobody may read a channel for so long, or for ever: its sources end with an error that says `text`, and none opens.
    pub fn refuse_source(&self, channel: &str, text: &str, duration: Option<Duration>) {
        let mut turn = self.broker.turn();
        let until = turn.now + duration.unwrap_or(house::EVER);
        turn.house.refuse(channel, text.to_owned(), until);
    }

    /// Windows with messages for a channel take `by` longer, for so long.
    pub fn slow(&self, channel: &str, by: Duration, duration: Duration) {
        let mut turn = self.broker.turn();
        let until = turn.now + duration;
        turn.house.slow_down(channel, by, until);
    }

    /// Deletes all of a partition of a log below an offset, read or not. Queues have no such thing: nothing happens.
    pub fn forget_before(&self, channel: &str, partition: u32, offset: u64) {
        let mut turn = self.broker.turn();
        if let Store::Log(logs) = &mut turn.kept {
            logs.forget_before(channel, partition, offset);
        }
        turn.house.changed();
    }

    // The truth.

    /// From now on tells all that happens, in order. The watcher is called after the call that led to it: it may ask and command this broker, and
    /// kill lives.
    pub fn watch(&self, watcher: Box<dyn FnMut(&SimEvent) + Send>) {
        self.broker.watch(watcher);
    }

    /// How often each fault was injected so far, by its [name](injected).
    pub fn injected(&self) -> BTreeMap<&'static str, u64> {
        self.broker.turn().house.injected()
    }

    /// What is handed out and, as far as this broker has heard, not settled.
    pub fn unsettled(&self) -> Vec<Unsettled> {
        let mut turn = self.broker.turn();
        let now = turn.now;
        let broker::State { house, kept } = &mut *turn;
        match kept {
            Store::Log(logs) => logs.unsettled(house),
            Store::Queues(queues) => queues.unsettled(house, now),
        }
    }

    /// How many messages of a channel a group has not been handed, or is to be handed again. Of a log without a reader: how many it has
    /// not settled. Of a queue of work, the group does not matter.
    pub fn waiting(&self, channel: &str, group: &str) -> usize {
        match &self.broker.turn().kept {
            Store::Log(logs) => logs.waiting(channel, group),
            Store::Queues(queues) => queues.waiting(channel, group),
        }
    }

    /// All messages that were ever stored in a channel, with those of transactions that were aborted.
    pub fn messages(&self, channel: &str) -> Vec<Kept> {
        let turn = self.broker.turn();
        match &turn.kept {
            Store::Log(logs) => logs.messages(&turn.house, channel),
            Store::Queues(queues) => queues.messages(&turn.house, channel),
        }
    }
}

/// The way of one life to a broker.
struct SimConnector {
    sim: SimBroker,
    life: Arc<Life>,
}

impl SimConnector {
    /// Crosses the border, and waits until the broker can be reached.
    async fn calls(&self, what: &'static str, doing: &str) -> Result<(), ConnectorError> {
        self.life.cross(what).await;
        reached(&self.sim.broker, &self.life, doing).await
    }
}

#[async_trait]
impl Connector for SimConnector {
    fn name(&self) -> &str {
        &self.sim.settings.name
    }

    fn memory(&self) -> Memory {
        match self.sim.settings.kind {
            SimKind::Log => Memory::Positions,
            SimKind::Queues => Memory::Settlements,
        }
    }

    async fn prepare(&self, channels: &[ChannelSpec]) -> Result<(), ConnectorError> {
        self.calls("prepare", "preparing its channels").await?;
        let mut turn = self.sim.broker.turn();
        let broker::State { house, kept } = &mut *turn;
        for channel in channels {
            match kept {
                Store::Log(logs) => {
                    logs.topic(house, channel);
                }
                Store::Queues(queues) => queues.prepare(channel),
            }
        }
        Ok(())
    }

    async fn retention(&self, _: &str) -> Result<Retention, ConnectorError> {
        Ok(self.sim.settings.retention)
    }

    async fn source(&self, spec: SourceSpec) -> Result<Box<dyn Source>, ConnectorError> {
        self.calls("open", "opening a source").await?;
        let (broker, life) = (Arc::clone(&self.sim.broker), Arc::clone(&self.life));
        Ok(Box::new(SimSource::open(broker, life, spec).await?))
    }

    async fn sink(&self) -> Result<Box<dyn Sink>, ConnectorError> {
        self.calls("open", "opening a sink").await?;
        let (broker, life) = (Arc::clone(&self.sim.broker), Arc::clone(&self.life));
        Ok(Box::new(SimSink::open(broker, life, None)))
    }

    async fn owner_sink(&self, group: &str) -> Result<Box<dyn Sink>, ConnectorError> {
        if self.sim.settings.kind == SimKind::Queues {
            return self.sink().await;
        }
        self.calls("open", "opening the sink of an owner").await?;
        let epoch = match &self.sim.broker.turn().kept {
            Store::Log(logs) => logs.epoch_of(group, &self.life),
            Store::Queues(_) => None,
        };
        let Some(epoch) = epoch else {
            let doing = format!("opening the sink of group {group}");
            let text = "no source of this group is open here, so nobody here owns it; open its source first";
            return Err(house::refused(doing, text.to_owned()));
        };
        let (broker, life) = (Arc::clone(&self.sim.broker), Arc::clone(&self.life));
        let owns = Owns { group: group.into(), epoch };
        Ok(Box::new(SimSink::open(broker, life, Some(owns))))
    }
}

/// Lets time go by; none where it is nought.
async fn pause(duration: Duration) {
    if !duration.is_zero() {
        tokio::time::sleep(duration).await;
    }
}
