//! What a simulated broker is, and how long it takes for things.

use super::SimFaults;
use crate::{Retention, kafka::PositionsFrom};
use std::{ops::Range, time::Duration};

/// The largest body that is taken (bytes), unless set otherwise. What Kafka takes by default.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// Partitions of each log, unless set otherwise. More than one, and few enough for keys to share them.
pub const PARTITIONS: u32 = 3;

/// How long opening a source or sink waits for a broker that is away, unless set otherwise.
pub const OPEN_WAIT_MAX: Duration = Duration::from_secs(20);

/// How long a window of a queueing broker waits for its confirms, unless set otherwise. As for RabbitMQ.
pub const CONFIRM_TIME_MAX: Duration = Duration::from_secs(10);

/// How long a window of a log waits for its confirms, unless set otherwise. As for Kafka.
pub const SEND_WAIT_MAX: Duration = Duration::from_secs(30);

/// How long the broker keeps a reader of which it hears nothing, unless set otherwise: a session of Kafka.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(10);

/// The same of a queueing broker: two heartbeats of RabbitMQ.
pub const HEARTBEATS_MISSED: Duration = Duration::from_secs(20);

/// How much longer than that a second reader waits before it is refused, unless set otherwise.
pub const TAKEOVER_MARGIN: Duration = Duration::from_secs(8);

/// How much longer than a window a transaction may be open, before the broker aborts it.
pub const TRANSACTION_MARGIN: Duration = Duration::from_secs(5);

/// Which real broker it behaves like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SimKind {
    /// Kafka: partitions that keep what was read, positions remembered by the reader, one owner of a group, transactions.
    Log,
    /// RabbitMQ: queues that forget what was settled, and hand out again what was not once its reader is gone.
    Queues,
}

/// What a [`SimBroker`](super::SimBroker) is.
#[derive(Debug, Clone)]
pub struct SimSettings {
    /// What people call it, as [`Connector::name`](crate::Connector::name).
    pub name: String,
    /// Which real one it behaves like.
    pub kind: SimKind,
    /// Repeats the same dice for the same calls.
    pub seed: u64,
    /// Of each log; a queue has none.
    pub partitions: u32,
    /// How long an operation takes each way. With an empty range all takes no time, and nothing happens between the halves of a call.
    pub latency: Range<Duration>,
    /// What goes wrong how often.
    pub faults: SimFaults,
    /// The largest body that is taken (bytes).
    pub message_bytes_max: usize,
    /// How long a log keeps messages. Queues keep them until they are settled.
    pub retention: Retention,
    /// How long a broker keeps a reader of which it hears nothing.
    pub session_timeout: Duration,
    /// How much longer a second reader waits before it is refused.
    pub takeover_margin: Duration,
    /// How long a window waits for its confirms.
    pub send_wait_max: Duration,
    /// How long opening waits for a broker that is away.
    pub open_wait_max: Duration,
    /// What a person has decided about positions that can't be trusted. Of a log.
    pub positions_from: PositionsFrom,
}

impl SimSettings {
    /// A broker that keeps logs, without faults and without latency.
    pub fn log(name: impl Into<String>, seed: u64) -> Self {
        Self {
            name: name.into(),
            kind: SimKind::Log,
            seed,
            partitions: PARTITIONS,
            latency: Duration::ZERO..Duration::ZERO,
            faults: SimFaults::none(),
            message_bytes_max: MESSAGE_BYTES_MAX,
            retention: Retention::ForEver,
            session_timeout: SESSION_TIMEOUT,
            takeover_margin: TAKEOVER_MARGIN,
            send_wait_max: SEND_WAIT_MAX,
            open_wait_max: OPEN_WAIT_MAX,
            positions_from: PositionsFrom::Refuse,
        }
    }

    /// A broker that keeps queues, without faults and without latency.
    pub fn queues(name: impl Into<String>, seed: u64) -> Self {
        Self {
            kind: SimKind::Queues,
            partitions: 1,
            retention: Retention::UntilSettled,
            session_timeout: HEARTBEATS_MISSED,
            send_wait_max: CONFIRM_TIME_MAX,
            ..Self::log(name, seed)
        }
    }

    /// How long a transaction may be open.
    pub(super) fn transaction_timeout(&self) -> Duration {
        self.send_wait_max + TRANSACTION_MARGIN
    }
}
