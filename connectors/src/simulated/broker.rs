//! The state of one simulated broker behind its lock, and the turns in which it is looked at and changed.
//!
//! ```text
//! source, sink, command ─► turn: end what is over ─► look or change ─► unlock ─► tell whoever watches
//! ```
//!
//! Nothing waits while it has a turn, and watchers are told after it: they may ask the broker, command it, and kill who called.

use super::{
    Life, SimEvent, SimKind, SimSettings,
    faults::injected,
    house::{ConnId, House},
    life::Mourner,
    logs::Logs,
    queues::Queues,
};
use crate::{ConnectorError, Delivery, Receipt, Settle, SourceSpec};
use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// Told of all that happens.
pub(super) type Watcher = Box<dyn FnMut(&SimEvent) + Send>;

/// Whether there is something to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// There is.
    There,
    /// There is not. There may be at this time, or when the reader is woken.
    Wait(Option<Instant>),
}

/// What came of opening a source.
pub(super) enum Opening {
    Opened(ConnId),
    /// Another one has what it reads.
    Taken {
        /// Who, for people.
        owner: String,
        /// When it has lost it, if it stays silent.
        gone_at: Option<Instant>,
    },
}

/// A simulated broker. What is shared by all who are connected.
pub(super) struct Broker {
    state: Mutex<State>,
    watchers: Mutex<Vec<Watcher>>,
    /// Told when a group or queue has lost its reader.
    pub(super) turnover: Notify,
}

pub(super) struct State {
    pub(super) house: House,
    pub(super) kept: Kept,
}

/// What it keeps, by its kind.
pub(super) enum Kept {
    Log(Logs),
    Queues(Queues),
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").finish_non_exhaustive()
    }
}

impl Broker {
    pub(super) fn new(settings: SimSettings) -> Self {
        let kept = match settings.kind {
            SimKind::Log => Kept::Log(Logs::default()),
            SimKind::Queues => Kept::Queues(Queues::default()),
        };
        let state = State { house: House::new(settings), kept };
        Self { state: Mutex::new(state), watchers: Mutex::default(), turnover: Notify::new() }
    }

    /// A turn, with all ended that is over.
    pub(super) fn turn(&self) -> Turn<'_> {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.advance(now);
        Turn { broker: self, now, state: Some(state) }
    }

    pub(super) fn watch(&self, watcher: Watcher) {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner).push(watcher);
        self.turn().house.watched = true;
    }

    /// Tells what happened. Whoever tells already, further up, tells this as well.
    fn tell(&self) {
        let mut watchers = match self.watchers.try_lock() {
            Ok(watchers) => watchers,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        loop {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let told = std::mem::take(&mut state.house.told);
            drop(state);
            if told.is_empty() {
                return;
            }
            for event in &told {
                for watcher in watchers.iter_mut() {
                    watcher(event);
                }
            }
        }
    }
}

impl Mourner for Broker {
    fn died(&self, life: &Life) {
        let mut turn = self.turn();
        let now = turn.now;
        let State { house, kept } = &mut *turn;
        let of_life = |(id, conn): (&ConnId, &super::house::Conn)| {
            std::ptr::eq(Arc::as_ptr(&conn.life), life).then_some(*id)
        };
        let gone: Vec<ConnId> = house.conns.iter().filter_map(of_life).collect();
        for conn in gone {
            match kept {
                Kept::Log(logs) => logs.died(conn),
                Kept::Queues(queues) => queues.died(house, conn, now),
            }
            house.conns.remove(&conn);
        }
        drop(turn);
        self.turnover.notify_waiters();
    }
}

/// The broker, locked. Watchers are told once it is dropped.
pub(super) struct Turn<'a> {
    broker: &'a Broker,
    pub(super) now: Instant,
    state: Option<MutexGuard<'a, State>>,
}

impl Deref for Turn<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        self.state.as_ref().expect("there until it is dropped")
    }
}

impl DerefMut for Turn<'_> {
    fn deref_mut(&mut self) -> &mut State {
        self.state.as_mut().expect("there until it is dropped")
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let has_news = self.state.take().is_some_and(|state| !state.house.told.is_empty());
        if has_news {
            self.broker.tell();
        }
    }
}

impl State {
    fn advance(&mut self, now: Instant) {
        self.house.advance(now);
        if let Kept::Log(logs) = &mut self.kept
            && logs.due().is_some_and(|due| due <= now)
        {
            logs.time_out(&mut self.house, now);
        }
    }

    /// When something is over next, whether anybody waits for it or not.
    fn due(&self) -> Option<Instant> {
        let kept = match &self.kept {
            Kept::Log(logs) => logs.due(),
            Kept::Queues(_) => None,
        };
        sooner(self.house.due(), kept)
    }

    pub(super) fn open(
        &mut self,
        life: &Arc<Life>,
        spec: &SourceSpec,
        now: Instant,
    ) -> Result<Opening, ConnectorError> {
        let channels = spec.channels.iter().map(|channel| channel.name.as_str());
        if let Some(refusal) = self.house.refusal(channels) {
            self.house.inject(now, life.number(), injected::SOURCE_REFUSED);
            return Err(refusal);
        }
        match &mut self.kept {
            Kept::Log(logs) => logs.open(&mut self.house, life, spec, now),
            Kept::Queues(queues) => Ok(queues.open(&mut self.house, life, spec, now)),
        }
    }

    /// Whether a source has something to read, or when it may have. An error where a person is needed.
    pub(super) fn look(&mut self, conn: ConnId, now: Instant) -> Result<Look, ConnectorError> {
        if !self.house.has(conn) {
            return Ok(Look::Wait(None));
        }
        self.thaw(conn, now);
        if let Some(owner) = self.house.conn(conn).lost_to.clone() {
            return Err(match &self.kept {
                Kept::Log(logs) => logs.owned(conn, owner),
                Kept::Queues(queues) => queues.owned(conn, owner),
            });
        }
        let reads = self.house.conn(conn).reads.iter();
        if let Some(refusal) = self.house.refusal(reads.map(|channel| &**channel)) {
            self.house.inject(now, self.house.life(conn), injected::SOURCE_REFUSED);
            return Err(refusal);
        }
        if self.house.unreachable_until(conn).is_some() {
            return Ok(Look::Wait(self.due()));
        }
        let look = match &mut self.kept {
            Kept::Log(logs) => logs.look(&self.house, conn, now)?,
            Kept::Queues(queues) => queues.look(&mut self.house, conn, now),
        };
        Ok(match look {
            Look::There => Look::There,
            Look::Wait(later) => Look::Wait(sooner(later, self.due())),
        })
    }

    /// Hands out at most `max` deliveries; none where the dice are against it.
    pub(super) fn take(&mut self, conn: ConnId, max: usize, now: Instant) -> Vec<Delivery> {
        if !self.house.has(conn) {
            return Vec::new();
        }
        let life = self.house.life(conn);
        let faults = &self.house.settings.faults;
        let (reset, silent, pieces) = (faults.reset, faults.silent, faults.pieces);
        if self.house.strikes(now, life, reset, injected::SOURCE_RESET) {
            self.reset(conn, now);
            return Vec::new();
        }
        if self.house.strikes(now, life, silent, injected::SILENT) {
            let reads = &self.house.conns[&conn].reads;
            let at = self.house.random.below(reads.len() as u64) as usize;
            let channel = Arc::clone(&reads[at]);
            let silent_for = self.house.trouble(|settings| &settings.faults.silent_for);
            self.house.silence(&channel, now + silent_for);
        }
        let max = match self.house.strikes(now, life, pieces, injected::PIECES) {
            true => 1 + self.house.random.below(max.min(super::PIECE_MAX) as u64) as usize,
            false => max,
        };
        match &mut self.kept {
            Kept::Log(logs) => logs.take(&mut self.house, conn, max, now),
            Kept::Queues(queues) => queues.take(&mut self.house, conn, max, now),
        }
    }

    pub(super) fn settle(&mut self, conn: ConnId, settlements: &[(Receipt, Settle)], now: Instant) {
        match &mut self.kept {
            Kept::Log(logs) => logs.settle(&mut self.house, conn, settlements, now),
            Kept::Queues(queues) => queues.settle(&mut self.house, conn, settlements, now),
        }
    }

    /// The connection breaks.
    pub(super) fn reset(&mut self, conn: ConnId, now: Instant) {
        let broken_for = self.house.trouble(|settings| &settings.faults.broken_for);
        if let Kept::Queues(queues) = &mut self.kept {
            queues.give_back(&mut self.house, conn, now);
        }
        self.house.break_for(conn, now, broken_for);
    }

    /// All connections break.
    pub(super) fn reset_all(&mut self, now: Instant) {
        let conns: Vec<ConnId> = self.house.conns.keys().copied().collect();
        for conn in conns {
            let is_source = !self.house.conn(conn).reads.is_empty();
            let fault = if is_source { injected::SOURCE_RESET } else { injected::SINK_RESET };
            self.house.inject(now, self.house.life(conn), fault);
            self.reset(conn, now);
        }
    }

    /// The broker is away from now on, and with it all connections.
    pub(super) fn goes_away(&mut self, life: u32, now: Instant, duration: Duration) {
        self.house.inject(now, life, injected::AWAY);
        if let Kept::Queues(queues) = &mut self.kept {
            let conns: Vec<ConnId> = self.house.conns.keys().copied().collect();
            for conn in conns {
                queues.give_back(&mut self.house, conn, now);
            }
        }
        self.house.goes_away(now, duration);
    }

    /// A queueing broker closes the connections of a process that stood still for too long: it finds out now.
    fn thaw(&mut self, conn: ConnId, now: Instant) {
        let found = self.house.conn(conn);
        let Some(freeze) = found.life.last_freeze() else { return };
        if found.freeze_seen == Some(freeze.since) {
            return;
        }
        self.house.conn_mut(conn).freeze_seen = Some(freeze.since);
        let too_long = freeze.until - freeze.since >= self.house.settings.session_timeout;
        if too_long && self.house.conn(conn).lost_to.is_none() {
            let life = self.house.life(conn);
            self.house.inject(now, life, injected::SOURCE_RESET);
            self.reset(conn, now);
        }
    }

    /// Somebody who lives has dropped a source or sink.
    pub(super) fn close(&mut self, conn: ConnId, now: Instant) {
        match &mut self.kept {
            Kept::Log(logs) => logs.close(&self.house, conn),
            Kept::Queues(queues) => queues.close(&mut self.house, conn, now),
        }
        self.house.conns.remove(&conn);
    }
}

fn sooner(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
