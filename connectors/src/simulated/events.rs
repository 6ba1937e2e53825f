//! What truly happened at a simulated broker, for whoever judges a run: told in order, with what a message was and where it lay.
//!
//! Times count from when the broker was made, so that two runs of one seed tell the same.

use crate::{Message, Sent, Settle};
use std::{sync::Arc, time::Duration};

/// Where a message lies at a broker. Orders messages of one partition, and of one queue as they were stored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The channel.
    pub channel: Arc<str>,
    /// The partition of a log; 0 of a queue.
    pub partition: u32,
    /// The offset in a log; of a queue the number under which the broker stored it, the same in the queue of each group.
    pub offset: u64,
}

/// What a stored message counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is within a transaction that has not ended: nobody who reads what is committed sees it yet.
    Open,
    /// It is there for good.
    There,
    /// Its transaction was aborted: nobody who reads what is committed ever sees it.
    Aborted,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct SimEvent {
    /// When, since the broker was made.
    pub at: Duration,
    /// By whose call: the number of a [`Life`](super::Life). Of what the broker does by itself: the one it does it to.
    pub life: u32,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// A message reached the broker, which keeps it. On a log in a transaction, `open` is true, and [`What::Ended`] follows.
    Stored {
        /// Where it lies now.
        place: Place,
        /// What was sent.
        message: Arc<Message>,
        /// Whether it counts only once its transaction is committed.
        open: bool,
    },
    /// A transaction has ended.
    Ended {
        /// Whether it was committed.
        committed: bool,
        /// Where its messages lie.
        places: Vec<Place>,
    },
    /// A sender was told what became of a message.
    Answered {
        /// What was sent.
        message: Arc<Message>,
        /// What was told.
        sent: Sent,
    },
    /// A message was handed to a reader.
    HandedOut {
        /// For which group.
        group: Arc<str>,
        /// Where it lies.
        place: Place,
        /// What was sent.
        message: Arc<Message>,
    },
    /// A reader has settled a delivery, and its broker has heard so.
    Settled {
        /// For which group.
        group: Arc<str>,
        /// Where the message lies.
        place: Place,
        /// As what.
        settle: Settle,
    },
    /// Deliveries that were not settled returned to their queue, as their reader or its connection was gone.
    Returned {
        /// For which group.
        group: Arc<str>,
        /// Where they lie, in the order in which they are handed out again.
        places: Vec<Place>,
    },
    /// A reader owns a group, or the queues of one, from now on.
    Owns {
        /// Which.
        group: Arc<str>,
        /// How many owned it before, and one.
        epoch: u64,
    },
    /// A fault was injected: a name of [`injected`](super::injected).
    Injected {
        /// Which.
        fault: &'static str,
    },
}

/// A message that was ever stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// Where it lies or lay.
    pub place: Place,
    /// What was sent.
    pub message: Arc<Message>,
    /// By whom: the number of a [`Life`](super::Life).
    pub life: u32,
    /// When, since the broker was made.
    pub at: Duration,
    /// What it counts for.
    pub fate: Fate,
}

/// A delivery that was handed out and not settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsettled {
    /// For which group.
    pub group: Arc<str>,
    /// With whom it is: the number of a [`Life`](super::Life).
    pub life: u32,
    /// Where the message lies.
    pub place: Place,
}
