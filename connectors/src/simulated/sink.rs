//! A sink of a simulated broker, as its process sees it.
//!
//! ```text
//! window ─► on its way ─► reached? ─► each message stored or not, by the dice ─► the answer on its way ─► outcomes
//! owner of a log: … ─► in a transaction, open ─► its end on its way ─► committed, in doubt, or fenced ─► …
//! ```

use super::{
    Life, What,
    broker::{Broker, Kept, State, Turn},
    faults::injected,
    house::ConnId,
    logs::Ended,
};
use crate::{Health, Message, Sent, Sink, UnsentReason};
use async_trait::async_trait;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};

pub(super) struct SimSink {
    broker: Arc<Broker>,
    life: Arc<Life>,
    conn: ConnId,
    owns: Option<Owns>,
    health: Health,
}

/// Whose messages these are, as their sender knows it.
#[derive(Clone)]
pub(super) struct Owns {
    pub(super) group: Arc<str>,
    pub(super) epoch: u64,
}

/// A window on its way, with what is decided of it.
struct Flight {
    messages: Vec<Arc<Message>>,
    outcomes: Vec<Option<Sent>>,
    /// How often the connection had been broken when it arrived.
    breaks: u64,
    /// How long the answer takes.
    answer: Duration,
    /// Nothing is heard of some of it before the time is over.
    is_unheard: bool,
    /// The answer came too late.
    is_late: bool,
}

impl Flight {
    fn new(messages: Vec<Arc<Message>>, answer: Duration) -> Self {
        let outcomes = vec![None; messages.len()];
        Self { messages, outcomes, breaks: 0, answer, is_unheard: false, is_late: false }
    }
}

impl SimSink {
    pub(super) fn open(broker: Arc<Broker>, life: Arc<Life>, owns: Option<Owns>) -> Self {
        let (conn, health) = {
            let mut turn = broker.turn();
            let conn = turn.house.connect(&life, Vec::new());
            (conn, turn.house.conn(conn).health.clone())
        };
        Self { broker, life, conn, owns, health }
    }

    /// Waits until the broker can be reached. False where that takes too long.
    async fn reaches(&self, deadline: Instant) -> bool {
        loop {
            self.life.runs().await;
            let until = self.broker.turn().house.unreachable_until(self.conn);
            let Some(until) = until else { return true };
            sleep_until(until.min(deadline)).await;
            if Instant::now() >= deadline {
                self.life.runs().await;
                return false;
            }
        }
    }

    /// The plain way: each message for itself.
    async fn deliver(&self, flight: &mut Flight, deadline: Instant) {
        loop {
            if !self.reaches(deadline).await {
                return;
            }
            let mut turn = self.broker.turn();
            if turn.lands(self.conn, flight) {
                break;
            }
        }
        self.hears(flight, deadline).await;
    }

    /// Waits for the answer, and no longer than a window may take.
    async fn hears(&self, flight: &mut Flight, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now());
        flight.is_late = flight.answer > left;
        super::pause(flight.answer.min(left)).await;
        self.life.runs().await;
    }

    /// The owner's way on a log: in transactions, one after the other.
    async fn transact(&self, flight: &mut Flight, owns: &Owns, deadline: Instant) {
        if !self.reaches(deadline).await {
            return;
        }
        let parts = self.broker.turn().parts(self.conn, flight);
        for part in parts {
            if part.is_empty() {
                continue;
            }
            let open = self.broker.turn().begin(self.conn, flight, owns, &part);
            let Some(open) = open else { return };
            super::pause(flight.answer).await;
            self.life.cross("commit").await;
            if !self.broker.turn().commit(self.conn, flight, owns, open, &part) {
                return;
            }
        }
        self.hears(flight, deadline).await;
    }
}

#[async_trait]
impl Sink for SimSink {
    async fn send(&mut self, window: &[Message]) -> Vec<Sent> {
        self.life.cross("send").await;
        let begun = Instant::now();
        let messages: Vec<_> = window.iter().map(|message| Arc::new(message.clone())).collect();
        let (mut flight, request, wait_max) = {
            let mut turn = self.broker.turn();
            let life = self.life.number();
            let slower = turn.house.slowness(&messages);
            let request = turn.house.takes(begun, life) + slower;
            let answer = turn.house.takes(begun, life);
            let flight = Flight::new(messages, answer);
            (flight, request, turn.house.settings.send_wait_max)
        };
        let deadline = begun + wait_max;
        super::pause(request).await;
        match self.owns.clone() {
            Some(owns) => self.transact(&mut flight, &owns, deadline).await,
            None => self.deliver(&mut flight, deadline).await,
        }
        if flight.is_unheard {
            sleep_until(deadline).await;
            self.life.runs().await;
        }
        let outcomes = self.broker.turn().answers(self.conn, flight, self.owns.as_ref());
        self.life.runs().await;
        outcomes
    }

    fn health(&self) -> Health {
        self.health.clone()
    }
}

impl Drop for SimSink {
    fn drop(&mut self) {
        if self.life.is_alive() {
            let mut turn = self.broker.turn();
            let now = turn.now;
            turn.close(self.conn, now);
        }
    }
}

impl Turn<'_> {
    /// Stores what is not decided, message by message. False where the broker went away before.
    fn lands(&mut self, conn: ConnId, flight: &mut Flight) -> bool {
        if !self.house.has(conn) {
            return true;
        }
        let now = self.now;
        let life = self.house.life(conn);
        let State { house, kept } = &mut **self;
        let faults = house.settings.faults.clone();
        let goes_away = house.random.chance(faults.away);
        let first = goes_away && house.random.one_in(2);
        if first {
            self.away_by_dice(conn);
            return false;
        }
        flight.breaks = house.conn(conn).breaks;
        let resets = house.strikes(now, life, faults.reset, injected::SINK_RESET);
        let count = flight.messages.len() as u64 + 1;
        let arrive = if resets { house.random.below(count) as usize } else { usize::MAX };
        for (at, message) in flight.messages.iter().enumerate().take(arrive) {
            if let Some(unfit) = house.unfit(now, life, message) {
                flight.outcomes[at] = Some(unfit);
                continue;
            }
            if house.strikes(now, life, faults.refused, injected::REFUSED) {
                let text = format!("{} did not take it", house.settings.name);
                flight.outcomes[at] = Some(Sent::Unknown { text });
                continue;
            }
            if !kept.store(house, life, message, now) {
                flight.outcomes[at] = Some(house.unroutable(message));
                continue;
            }
            if house.strikes(now, life, faults.doubled, injected::DOUBLED) {
                kept.store(house, life, message, now);
            }
            if house.strikes(now, life, faults.confirm_lost, injected::CONFIRM_LOST) {
                flight.is_unheard = true;
            } else {
                flight.outcomes[at] = Some(Sent::Confirmed);
            }
        }
        if resets {
            self.reset(conn, now);
        }
        if goes_away {
            self.away_by_dice(conn);
        }
        true
    }

    fn away_by_dice(&mut self, conn: ConnId) {
        let (now, life) = (self.now, self.house.life(conn));
        let away_for = self.house.trouble(|settings| &settings.faults.away_for);
        self.goes_away(life, now, away_for);
    }

    /// Decides what can't be sent at all. The rest goes in one transaction; where the broker refused something, in halves, as if it
    /// had been looked for.
    fn parts(&mut self, conn: ConnId, flight: &mut Flight) -> Vec<Vec<usize>> {
        if !self.house.has(conn) {
            return Vec::new();
        }
        let now = self.now;
        let life = self.house.life(conn);
        let State { house, kept } = &mut **self;
        if house.random.chance(house.settings.faults.away) {
            self.away_by_dice(conn);
            return Vec::new();
        }
        let mut fit = Vec::with_capacity(flight.messages.len());
        let mut was_refused = false;
        for (at, message) in flight.messages.iter().enumerate() {
            let unfit = house.unfit(now, life, message);
            let unfit = unfit.or_else(|| kept.lacks(house, message));
            match unfit {
                None => fit.push(at),
                Some(unfit) => {
                    let reason = match &unfit {
                        Sent::Unsent { reason, .. } => Some(*reason),
                        _ => None,
                    };
                    was_refused |= reason == Some(UnsentReason::TooLarge);
                    flight.outcomes[at] = Some(unfit);
                }
            }
        }
        if !was_refused {
            return vec![fit];
        }
        let second = fit.split_off(fit.len() / 2);
        vec![fit, second]
    }

    /// Stores a part of a window in a transaction that is open. None where nothing more can be sent.
    fn begin(
        &mut self,
        conn: ConnId,
        flight: &mut Flight,
        owns: &Owns,
        part: &[usize],
    ) -> Option<u64> {
        if !self.house.has(conn) {
            return None;
        }
        let now = self.now;
        let life = self.house.life(conn);
        let State { house, kept } = &mut **self;
        let Kept::Log(logs) = kept else { return None };
        if logs.fenced(&owns.group, owns.epoch).is_some() {
            return None;
        }
        flight.breaks = house.conn(conn).breaks;
        let messages: Vec<_> = part
            .iter()
            .map(|at| &flight.messages[*at])
            .filter_map(|message| Some((logs.route(house, message)?, message)))
            .collect();
        Some(logs.begin(house, life, &owns.group, &messages, now))
    }

    /// Ends a transaction. False where nothing more can be sent in this window.
    fn commit(
        &mut self,
        conn: ConnId,
        flight: &mut Flight,
        owns: &Owns,
        open: u64,
        part: &[usize],
    ) -> bool {
        if !self.house.has(conn) {
            return false;
        }
        let now = self.now;
        let life = self.house.life(conn);
        let State { house, kept } = &mut **self;
        let Kept::Log(logs) = kept else { return false };
        let is_cut = house.unreachable_until(conn).is_some();
        let was_cut = house.conn(conn).breaks != flight.breaks;
        let faults = &house.settings.faults;
        let (lost, reset) = (faults.confirm_lost, faults.reset);
        if !is_cut && !was_cut && house.strikes(now, life, lost, injected::CONFIRM_LOST) {
            logs.end_in_doubt(house, open, now);
            return false;
        }
        if is_cut || was_cut {
            // The word may have been on its way before; or the brokers end it by themselves, in time.
            if house.random.one_in(2) {
                logs.end_in_doubt(house, open, now);
            }
            return false;
        }
        let ended = logs.commit(house, open, owns.epoch, now);
        if ended == Ended::Committed {
            for at in part {
                flight.outcomes[*at] = Some(Sent::Confirmed);
            }
        }
        if house.strikes(now, life, reset, injected::SINK_RESET) {
            self.reset(conn, now);
        }
        ended == Ended::Committed
    }

    /// What the sender hears in the end.
    fn answers(&mut self, conn: ConnId, flight: Flight, owns: Option<&Owns>) -> Vec<Sent> {
        let now = self.now;
        let State { house, kept } = &mut **self;
        let Some(found) = house.conns.get(&conn) else { return Vec::new() };
        let (life, name) = (found.life.number(), house.settings.name.clone());
        // What was decided out there was not heard where the connection broke meanwhile, or the answer came too late.
        let cut = found.breaks != flight.breaks;
        let late = flight.is_late;
        let fenced = owns.and_then(|owns| match kept {
            Kept::Log(logs) => logs.fenced(&owns.group, owns.epoch),
            Kept::Queues(_) => None,
        });
        if let Some(owner) = &fenced {
            house.inject(now, life, injected::FENCED);
            house.lost(conn, owner.clone());
        }
        let heard = |outcome: Option<Sent>| match (outcome, &fenced) {
            (Some(Sent::Unsent { reason, text }), _) => Sent::Unsent { reason, text },
            (Some(Sent::Confirmed), _) if !cut && !late => Sent::Confirmed,
            (_, Some(owner)) => Sent::Fenced { text: owner.clone() },
            (Some(Sent::Unknown { text }), None) if !cut => Sent::Unknown { text },
            _ if cut => Sent::Unknown { text: format!("the connection to {name} was lost") },
            _ => Sent::Unknown { text: format!("{name} did not confirm in time") },
        };
        let outcomes: Vec<Sent> = flight.outcomes.into_iter().map(heard).collect();
        for (message, sent) in flight.messages.into_iter().zip(&outcomes) {
            house.tell(now, life, || What::Answered { message, sent: sent.clone() });
        }
        outcomes
    }
}

impl Kept {
    /// Stores a message; says whether it could.
    fn store(
        &mut self,
        house: &mut super::house::House,
        life: u32,
        message: &Arc<Message>,
        now: Instant,
    ) -> bool {
        match self {
            Kept::Log(logs) => match logs.route(house, message) {
                Some(topic) => {
                    logs.store(house, life, topic, message, now);
                    true
                }
                None => false,
            },
            Kept::Queues(queues) => queues.store(house, life, message, now),
        }
    }

    /// The refusal of work for a log that nobody has prepared.
    fn lacks(&mut self, house: &super::house::House, message: &Message) -> Option<Sent> {
        let Kept::Log(logs) = self else { return None };
        logs.route(house, message).is_none().then(|| house.unroutable(message))
    }
}
