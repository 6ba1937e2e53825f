//! Reading queues: who alone reads one, what is out, and what returns.
//!
//! A settlement takes its way to the broker. If the connection breaks, or the process dies, before it is there, the delivery comes
//! again although it was settled.

use super::{Held, Queues};
use crate::{
    ConnectorError, Delivery, Message, Receipt, Settle, SourceSpec,
    receipts::Receipts,
    simulated::{
        Life, What,
        broker::{Look, Opening},
        faults::injected,
        house::{ConnId, House, NAME},
    },
};
use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};
use tokio::time::Instant;

/// What one open source reads.
pub(super) struct Reader {
    pub(super) group: Arc<str>,
    queues: Vec<usize>,
    out: Receipts<Out>,
    /// Settled here, and not yet heard of by the broker; in the order in which it hears.
    under_way: VecDeque<(Instant, Out, Settle)>,
    unsettled_max: usize,
    delivered: u64,
}

/// A delivery that is out.
struct Out {
    queue: usize,
    held: Held,
}

impl Queues {
    /// Takes the queues, if nobody else reads them, and begins to read.
    pub(in crate::simulated) fn open(
        &mut self,
        house: &mut House,
        life: &Arc<Life>,
        spec: &SourceSpec,
        now: Instant,
    ) -> Opening {
        let queues: Vec<usize> =
            spec.channels.iter().map(|channel| self.queue(channel, &spec.group)).collect();
        let channels = spec.channels.iter().zip(&queues);
        let alone: Vec<usize> = channels
            .filter(|(channel, _)| !channel.keeps_letters())
            .map(|(_, queue)| *queue)
            .collect();
        for queue in &alone {
            if let Some(taken) = self.taken(house, *queue, now) {
                return taken;
            }
        }
        let channels = queues.iter().map(|queue| self.queues[*queue].channel);
        let reads = channels.map(|channel| Arc::clone(&self.channels[channel].name)).collect();
        let conn = house.connect(life, reads);
        for queue in &queues {
            self.queues[*queue].readers.push(conn);
        }
        for queue in alone {
            self.queues[queue].owner = Some((conn, Arc::clone(life)));
        }
        let group: Arc<str> = spec.group.as_str().into();
        let epoch = self.epochs.entry(Arc::clone(&group)).or_default();
        *epoch += 1;
        let epoch = *epoch;
        house.tell(now, life.number(), || What::Owns { group: Arc::clone(&group), epoch });
        let reader = Reader {
            group,
            queues,
            out: Receipts::default(),
            under_way: VecDeque::new(),
            unsettled_max: spec.unsettled_max.max(1),
            delivered: 0,
        };
        self.readers.insert(conn, reader);
        Opening::Opened(conn)
    }

    /// Who reads the queue and could still do so. One whose connection is broken, or that is silent for longer than the broker
    /// bears, has lost it.
    fn taken(&mut self, house: &mut House, queue: usize, now: Instant) -> Option<Opening> {
        let (conn, life) = self.queues[queue].owner.clone()?;
        let is_broken = house.conns.get(&conn).is_some_and(|conn| conn.broken_until.is_some());
        let gone_at = life.silent_since(now).map(|since| since + house.settings.session_timeout);
        if !is_broken && gone_at.is_none_or(|at| now < at) {
            let owner = format!("process {}", life.number());
            return Some(Opening::Taken { owner, gone_at });
        }
        house.inject(now, life.number(), injected::TAKEN_OVER);
        self.give_back(house, conn, now);
        house.lost(conn, "whoever reads its queues now".to_owned());
        self.leave(conn);
        None
    }

    /// Whether there is something to read, or when there may be.
    pub(in crate::simulated) fn look(
        &mut self,
        house: &mut House,
        conn: ConnId,
        now: Instant,
    ) -> Look {
        self.hear(house, conn, now);
        let Some(reader) = self.readers.get(&conn) else { return Look::Wait(None) };
        let mut later = reader.under_way.front().map(|(at, ..)| *at);
        if reader.out.len() >= reader.unsettled_max {
            return Look::Wait(later);
        }
        for queue in &reader.queues {
            let queue = &mut self.queues[*queue];
            if house.is_silent(&self.channels[queue.channel].name) {
                continue;
            }
            queue.ripen(now);
            if !queue.ready.is_empty() {
                return Look::There;
            }
            if let Some(((at, _), _)) = queue.late.first_key_value() {
                later = Some(later.map_or(*at, |other| other.min(*at)));
            }
        }
        Look::Wait(later)
    }

    /// Hands out what is there, queue after queue, beginning with any of them.
    pub(in crate::simulated) fn take(
        &mut self,
        house: &mut House,
        conn: ConnId,
        max: usize,
        now: Instant,
    ) -> Vec<Delivery> {
        let Some(reader) = self.readers.get_mut(&conn) else { return Vec::new() };
        let room = reader.unsettled_max.saturating_sub(reader.out.len()).min(max);
        let count = reader.queues.len();
        let first = house.random.below(count as u64) as usize;
        let life = house.life(conn);
        let mut deliveries = Vec::new();
        for turn in (first..count).chain(0..first) {
            let index = reader.queues[turn];
            let queue = &mut self.queues[index];
            let channel = &self.channels[queue.channel];
            if house.is_silent(&channel.name) {
                continue;
            }
            while deliveries.len() < room
                && let Some(held) = queue.ready.pop_front()
            {
                let group = &reader.group;
                house.tell(now, life, || What::HandedOut {
                    group: Arc::clone(group),
                    place: channel.place(held.number),
                    message: Arc::clone(&held.message),
                });
                // The kind is the reader's, as on the wire there is none.
                let message = Message { kind: queue.kind, ..Message::clone(&held.message) };
                let receipt = reader.out.insert(Out { queue: index, held });
                let offset = reader.delivered;
                reader.delivered += 1;
                deliveries.push(Delivery { message, partition: 0, offset, receipt });
            }
        }
        deliveries
    }

    /// Settles here at once; the broker hears of it a little later.
    pub(in crate::simulated) fn settle(
        &mut self,
        house: &mut House,
        conn: ConnId,
        settlements: &[(Receipt, Settle)],
        now: Instant,
    ) {
        let Some(reader) = self.readers.get_mut(&conn) else { return };
        let takes = house.random.between(&house.settings.latency);
        // A process that stands still tells when it goes on.
        let from = house.conn(conn).life.frozen_until(now).unwrap_or(now);
        let last = reader.under_way.back().map(|(at, ..)| *at);
        let at = last.map_or(from + takes, |last| last.max(from + takes));
        for (receipt, settle) in settlements {
            if let Some(out) = reader.out.remove(*receipt) {
                reader.under_way.push_back((at, out, *settle));
            }
        }
        self.hear(house, conn, now);
        house.conn(conn).wake.notify_one();
    }

    /// The broker hears of what was settled, as far as that has arrived.
    pub(super) fn hear(&mut self, house: &mut House, conn: ConnId, now: Instant) {
        let Some(reader) = self.readers.get_mut(&conn) else { return };
        let life = house.life(conn);
        let mut again: Vec<Out> = Vec::new();
        while reader.under_way.front().is_some_and(|(at, ..)| *at <= now)
            && let Some((_, out, settle)) = reader.under_way.pop_front()
        {
            let group = &reader.group;
            let channel = &self.channels[self.queues[out.queue].channel];
            house.tell(now, life, || What::Settled {
                group: Arc::clone(group),
                place: channel.place(out.held.number),
                settle,
            });
            if settle == Settle::Again {
                again.push(out);
            }
        }
        self.put_in_front(house, again);
    }

    /// The connection is gone: what was not settled, or was and nobody has heard, returns.
    pub(in crate::simulated) fn give_back(
        &mut self,
        house: &mut House,
        conn: ConnId,
        now: Instant,
    ) {
        self.hear(house, conn, now);
        let Some(reader) = self.readers.get_mut(&conn) else { return };
        let mut back: Vec<Out> = reader.out.drain();
        back.extend(reader.under_way.drain(..).map(|(_, out, _)| out));
        if back.is_empty() {
            return;
        }
        let group = Arc::clone(&reader.group);
        back.sort_unstable_by_key(|out| (out.queue, out.held.number));
        let (life, rate) = (house.life(conn), house.settings.faults.reordered);
        if back.len() > 1 && house.strikes(now, life, rate, injected::REORDERED) {
            for at in (1..back.len()).rev() {
                back.swap(at, house.random.below(at as u64 + 1) as usize);
            }
            // Stable: within a queue they stay as they were shuffled.
            back.sort_by_key(|out| out.queue);
        }
        if house.watched {
            let places = back.iter().map(|out| self.place(out.queue, out.held.number)).collect();
            house.tell(now, life, || What::Returned { group, places });
        }
        self.put_in_front(house, back);
    }

    fn put_in_front(&mut self, house: &House, back: Vec<Out>) {
        let queues: BTreeSet<usize> = back.iter().map(|out| out.queue).collect();
        for out in back.into_iter().rev() {
            self.queues[out.queue].ready.push_front(out.held);
        }
        for queue in queues {
            self.queues[queue].wake(house);
        }
    }

    /// The source was dropped by a process that lives: what it has settled is told before the goodbye.
    pub(in crate::simulated) fn close(&mut self, house: &mut House, conn: ConnId, now: Instant) {
        if house.unreachable_until(conn).is_none()
            && let Some(reader) = self.readers.get_mut(&conn)
        {
            reader.under_way.iter_mut().for_each(|(at, ..)| *at = now);
        }
        self.died(house, conn, now);
    }

    /// The process has died with its source, and the locks of its queues are free.
    pub(in crate::simulated) fn died(&mut self, house: &mut House, conn: ConnId, now: Instant) {
        self.give_back(house, conn, now);
        self.readers.remove(&conn);
        self.leave(conn);
    }

    fn leave(&mut self, conn: ConnId) {
        for queue in &mut self.queues {
            queue.readers.retain(|reader| *reader != conn);
            queue.owner.take_if(|(owner, _)| *owner == conn);
        }
    }

    /// The refusal of a reader whose queues are another's.
    pub(in crate::simulated) fn owned(&self, conn: ConnId, owner: String) -> ConnectorError {
        let group = self.readers.get(&conn).map_or("", |reader| &reader.group).to_owned();
        ConnectorError::Owned { connector: NAME, group, owner }
    }
}

impl Reader {
    /// What is out: queue and number.
    pub(super) fn out(&self) -> impl Iterator<Item = (usize, u64)> {
        let under_way = self.under_way.iter().map(|(_, out, _)| out);
        self.out.iter().chain(under_way).map(|out| (out.queue, out.held.number))
    }
}
