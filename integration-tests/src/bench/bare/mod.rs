//! The bare loop: what a program costs that takes the engine's inputs and sends the engine's messages, and remembers nothing.
//!
//! ```text
//! orders, replies ─► bare loop: which messages follow is told by the order's number alone ─► confirmed ─► settled
//!                       ▲                                                                        │
//!                       └──────────────── the same services ◄───────────────────────────────────┘
//! ```
//!
//! It consumes and produces by the client library itself, with the engine's acks, confirms and bounds on windows: a window is sent as soon as
//! the one before is confirmed, with all that has come meanwhile. What it sends are copies of messages that the engine has sent, so that
//! every size is the same. On the broker in memory the connector is that library.

mod kafka;
mod moves;
mod rabbitmq;

use super::{
    Error,
    orders::Counter,
    services::{self, Crew},
    stage::{Stage, Which},
    track::{Counted, Track},
    watch::Watch,
};
use dirigent_connectors::{ChannelKind, ChannelSpec, Connector, Settle, SourceSpec};
use dirigent_schemas::Bodies;
use moves::Moves;
use order::order::rates::Rates;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// Messages of one window at the most: what the relay sends at once.
const WINDOW_MAX: usize = 2_048;

/// Deliveries that may be unsettled: what a source of the engine may have.
const UNSETTLED_MAX: usize = dirigent::UNSETTLED_MAX;

/// How the loop sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    /// Each message confirmed by the brokers.
    Confirmed,
    /// The same, each window in one transaction of Kafka, as the engine's are.
    InTransactions,
}

impl Sending {
    /// What stands before the names of its channels: no loop takes another one's messages.
    fn prefix(self) -> &'static str {
        match self {
            Self::Confirmed => "bare-",
            Self::InTransactions => "bare-tx-",
        }
    }
}

/// A loop that runs, until it is dropped.
pub(super) struct Bare {
    pub track: Track,
    stop: Arc<AtomicBool>,
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// What a loop works with.
#[derive(Clone)]
struct Loop {
    moves: Arc<Moves>,
    sending: Sending,
    /// The channels it reads.
    reads: [ChannelSpec; 2],
    /// Inputs whose messages are confirmed.
    taken: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Bare {
    /// Starts one that sends what the engine has sent: `forms` has a message of each type.
    pub(super) async fn start(
        stage: &Stage,
        forms: &HashMap<String, dirigent_connectors::Message>,
        rates: Rates,
        sending: Sending,
    ) -> Result<Self, Error> {
        let prefix = sending.prefix();
        let reads = ["orders", "replies"].map(|name| ChannelSpec::work(format!("{prefix}{name}")));
        let [orders, replies] = reads.clone();
        let moves = Arc::new(Moves::new(forms, rates, prefix, &replies.name)?);
        let (taken, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let work =
            Loop { moves, sending, reads, taken: Arc::clone(&taken), stop: Arc::clone(&stop) };
        let (connector, codec) = (stage.connector()?, Arc::new(Bodies::new()));
        let watch = Arc::new(Watch::default());
        let mut crew = services::start(&connector, prefix, &codec, rates, &watch).await?;
        connector.prepare(&work.reads).await?;
        match stage.which {
            Which::Memory => in_memory(&mut crew, &connector, work).await?,
            Which::Kafka => kafka::start(&mut crew, stage.address(), work).await?,
            Which::Rabbitmq => rabbitmq::start(&mut crew, stage.address(), work).await?,
        }
        let counter = Counter { channel: orders.name, kind: ChannelKind::Work };
        let seen = (watch, Counted::Bare(taken));
        let track = Track::new(&connector, counter, codec, seen, crew).await?;
        Ok(Self { track, stop })
    }
}

/// The loop on the broker in memory.
async fn in_memory(
    crew: &mut Crew,
    connector: &Arc<dyn Connector>,
    work: Loop,
) -> Result<(), Error> {
    let spec = SourceSpec {
        channels: work.reads.to_vec(),
        group: "bench-bare".into(),
        positions: vec![],
        unsettled_max: UNSETTLED_MAX,
    };
    let (mut source, mut sink) = (connector.source(spec).await?, connector.sink().await?);
    let settler = source.settler();
    crew.hire(async move {
        loop {
            let inputs = source.receive(WINDOW_MAX).await?;
            let mut window = Vec::with_capacity(inputs.len());
            for input in &inputs {
                window.extend(work.moves.messages_after(&input.message)?);
            }
            super::sent(&sink.send(&window).await)?;
            let done: Vec<_> = inputs.iter().map(|input| (input.receipt, Settle::Done)).collect();
            settler.settle(&done);
            work.taken.fetch_add(inputs.len() as u64, Ordering::AcqRel);
        }
    });
    Ok(())
}
