//! The connection that publishes, and the task that keeps one standing.
//!
//! ```text
//! keep: dial ─► line ─► look at it until it is gone, given up or blocked ─► dial …
//!                └──► sink: wait for a line ─► one window ─► done, or given up
//! ```
//!
//! The task looks all the time, so that a connection that breaks is seen and rebuilt before the next window wants it,
//! and [`Health`] says how the broker stands although nothing is being sent.

use super::{
    connection::{Dialer, Trouble},
    probes::Silent,
    topology::{self, Prepared},
};
use crate::{ConnectorError, Health, retry::Delays};
use lapin::{Channel, Connection, options::ConfirmSelectOptions};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

/// How often we look whether the line stands and the broker reads from us. Costs two reads of memory.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is said of a broker that does not read from us.
pub(super) const BLOCKED: &str =
    "takes no messages for want of memory or disk; `rabbitmq-diagnostics alarms` shows of which";

/// A connection with a confirming AMQP channel.
pub(super) struct Line {
    pub(super) connection: Connection,
    pub(super) amqp: Channel,
    use_: AtomicU8,
    changed: Notify,
}

/// What became of a line by being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Use {
    /// Nothing that matters now.
    Idle,
    /// A window is under way. A `send` that is dropped leaves it so: what the broker says later belongs to that window.
    Busy,
    /// A window was decided on it.
    Proved,
    /// Closed by the broker over a message: nothing is wrong with the way to it.
    Spent,
    /// A window was given up on it.
    Failed,
}

impl Line {
    async fn open(dialer: &Dialer, prepared: &Prepared) -> Result<Self, Trouble> {
        let connection = dialer.dial("publish").await?;
        if let Err(trouble) = topology::declare(&connection, &prepared.all(), None).await {
            match trouble {
                // What still exists can be published to; what does not is told per message.
                Trouble::Mend(error) => {
                    tracing::error!(%error, "A channel can't be declared again, publishing goes on.");
                }
                Trouble::Passing { .. } | Trouble::Owned { .. } | Trouble::Shut(_) => {
                    return Err(trouble);
                }
            }
        }
        let opening = |error| Trouble::of("to open a confirming AMQP channel", error);
        let amqp = connection.create_channel().await.map_err(opening)?;
        amqp.confirm_select(ConfirmSelectOptions::default()).await.map_err(opening)?;
        let (use_, changed) = (AtomicU8::new(Use::Idle as u8), Notify::new());
        Ok(Self { connection, amqp, use_, changed })
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.connection.status().connected() && self.connection.status().blocked()
    }

    /// The broker is there, and reads from us.
    pub(super) fn stands_open(&self) -> bool {
        self.amqp.status().connected() && !self.is_blocked()
    }

    fn is_usable(&self) -> bool {
        let unused =
            [Use::Idle as u8, Use::Proved as u8].contains(&self.use_.load(Ordering::Acquire));
        unused && self.stands_open()
    }

    fn stands(&self) -> Stands {
        let used = self.use_.load(Ordering::Acquire);
        if self.is_blocked() {
            // A blocked connection can't even be closed: it is kept instead of piling up more of them.
            Stands::Blocked
        } else if used == Use::Failed as u8 {
            Stands::Ended { fault: true }
        } else if used == Use::Spent as u8 {
            Stands::Ended { fault: false }
        } else if used == Use::Busy as u8 {
            // Whoever uses it finds out, and gives it up.
            if self.connection.status().connected() { Stands::Well } else { Stands::Breaking }
        } else if !self.amqp.status().connected() {
            Stands::Ended { fault: true }
        } else {
            Stands::Well
        }
    }
}

/// How a line stands.
enum Stands {
    Well,
    Blocked,
    Breaking,
    Ended { fault: bool },
}

/// A line taken for one window. Given up unless it is said how the window ended.
pub(super) struct Taken(Arc<Line>);

impl std::ops::Deref for Taken {
    type Target = Line;

    fn deref(&self) -> &Line {
        &self.0
    }
}

impl Taken {
    /// The window was decided: the line carries the next one.
    pub(super) fn proved(self) {
        self.ended(Use::Proved);
    }

    /// It was taken for something that leaves no trace on it.
    pub(super) fn unused(self) {
        self.ended(Use::Idle);
    }

    /// The broker closed the AMQP channel over a message.
    pub(super) fn spent(self) {
        self.ended(Use::Spent);
    }

    /// The window was not decided: what the broker says from now on may belong to it.
    pub(super) fn failed(self) {
        self.ended(Use::Failed);
    }

    fn ended(&self, how: Use) {
        self.0.use_.store(how as u8, Ordering::Release);
        self.0.changed.notify_one();
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.0.use_.load(Ordering::Acquire) == Use::Busy as u8 {
            self.ended(Use::Failed);
        }
    }
}

/// The task that keeps a line, and the way to it. The task ends with it.
pub(super) struct Keeper {
    slot: watch::Receiver<Option<Arc<Line>>>,
    task: JoinHandle<()>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Keeper {
    pub(super) async fn open(
        dialer: Arc<Dialer>,
        prepared: Prepared,
        health: Health,
        silent: Silent,
    ) -> Result<Self, ConnectorError> {
        let line =
            dialer.while_opening("opening a sink", || Line::open(&dialer, &prepared)).await?;
        let line = Arc::new(line);
        let (slot_in, slot) = watch::channel(Some(line.clone()));
        let task = tokio::spawn(keep(dialer, prepared, (health, silent), line, slot_in));
        Ok(Self { slot, task })
    }

    /// Waits for a line that can be published on, and takes it.
    pub(super) async fn take(&mut self) -> Taken {
        loop {
            let line = self.slot.borrow_and_update().clone();
            if let Some(line) = line {
                if line.is_usable() {
                    line.use_.store(Use::Busy as u8, Ordering::Release);
                    return Taken(line);
                }
                if self.task.is_finished() {
                    self.keeper_ended().await;
                }
                // The keeper sees the same within its next look.
                sleep(LOOK_EVERY).await;
                continue;
            }
            tokio::select! {
                changed = self.slot.changed() => if changed.is_err() { self.keeper_ended().await },
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Whether the broker does not read from the line there is.
    pub(super) fn is_blocked(&self) -> bool {
        self.slot.borrow().as_ref().is_some_and(|line| line.is_blocked())
    }

    /// Whether there is a line.
    pub(super) fn is_connected(&self) -> bool {
        self.slot.borrow().is_some()
    }

    async fn keeper_ended(&mut self) {
        match (&mut self.task).await {
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is shutting down, and we with it.
            _ => std::future::pending().await,
        }
    }
}

/// Keeps a line in the slot, for ever.
async fn keep(
    dialer: Arc<Dialer>,
    prepared: Prepared,
    (health, silent): (Health, Silent),
    mut line: Arc<Line>,
    slot: watch::Sender<Option<Arc<Line>>>,
) {
    let address = dialer.settings().uri.clone();
    let blocked = format!("RabbitMQ at {address} {BLOCKED}");
    let lost = format!("the connection to RabbitMQ at {address} that publishes was lost");
    let mut delays = Delays::new();
    loop {
        let fault = watch_over(
            &line,
            || silent.tell(&health, &dialer),
            &health,
            &mut delays,
            &blocked,
            &lost,
        )
        .await;
        slot.send_replace(None);
        drop(line);
        if fault {
            health.away(lost.as_str());
            tracing::warn!(%address, "The connection that publishes was lost, rebuilding it.");
            sleep(delays.after_failure()).await;
        }
        let open = || Line::open(&dialer, &prepared);
        let opened = dialer.for_ever("publish", &mut Delays::new(), &health, open, |_| {}).await;
        line = Arc::new(opened);
        slot.send_replace(Some(line.clone()));
    }
}

/// Looks at a line until it has ended. Says whether the way to the broker is at fault.
async fn watch_over(
    line: &Line,
    is_well: impl Fn(),
    health: &Health,
    delays: &mut Delays,
    blocked: &str,
    lost: &str,
) -> bool {
    loop {
        match line.stands() {
            Stands::Well => is_well(),
            Stands::Blocked => health.degraded(blocked),
            Stands::Breaking => health.away(lost),
            Stands::Ended { fault } => return fault,
        }
        if line.use_.load(Ordering::Acquire) == Use::Proved as u8 {
            delays.succeeded();
        }
        let _ = timeout(LOOK_EVERY, line.changed.notified()).await;
    }
}
