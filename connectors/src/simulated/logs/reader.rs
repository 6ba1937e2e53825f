//! Reading logs: who owns a group, where each partition is read next, and what is out.
//!
//! Positions are compared with the log, and with what the group has settled, by the rules of the Kafka connector itself
//! ([`positions`]). The group hears of a settlement at once, where the real one hears of it within seconds: a reader that settles before
//! its position is durable shows by the next start.

use super::{Group, Logs, Partition, Spot};
use crate::{
    ConnectorError, Delivery, Message, Receipt, Settle, SourceSpec,
    kafka::positions::{self, Log, Mark, Start},
    receipts::Receipts,
    simulated::{
        Fate, Life, Place, What,
        broker::{Look, Opening},
        faults::injected,
        house::{ConnId, House, NAME, refused},
    },
};
use std::{collections::BTreeMap, sync::Arc};
use tokio::time::Instant;

/// What one open source has read.
pub(super) struct Reader {
    pub(super) group: Arc<str>,
    epoch: u64,
    cursors: Vec<Cursor>,
    out: Receipts<Out>,
    /// Settled to come again, by cursor and entry.
    again: BTreeMap<(usize, usize), Arc<Message>>,
    unsettled_max: usize,
}

/// Where one partition is read.
struct Cursor {
    topic: usize,
    partition: u32,
    /// The entry that is read next.
    at: usize,
    mark: Mark,
}

/// A delivery that is out.
struct Out {
    cursor: usize,
    at: usize,
    offset: u64,
    message: Arc<Message>,
}

/// What there is to read of a partition.
enum Next {
    There,
    Later(Instant),
    Nothing,
    /// It was deleted before it was read.
    Deleted,
}

impl Logs {
    /// Takes the group, if nobody has it, and begins to read.
    pub(in crate::simulated) fn open(
        &mut self,
        house: &mut House,
        life: &Arc<Life>,
        spec: &SourceSpec,
        now: Instant,
    ) -> Result<Opening, ConnectorError> {
        let name: Arc<str> = spec.group.as_str().into();
        if let Some(taken) = self.taken(house, &name, now) {
            return Ok(taken);
        }
        let topics: Vec<usize> =
            spec.channels.iter().map(|channel| self.topic(house, channel)).collect();
        self.abort_of(house, &name, now);
        let group = self.groups.entry(Arc::clone(&name)).or_default();
        group.epoch += 1;
        let epoch = group.epoch;
        let number = life.number();
        house.tell(now, number, || What::Owns { group: Arc::clone(&name), epoch });
        let cursors = self.cursors(house, &name, &topics, spec, now)?;
        let reads = topics.iter().map(|topic| Arc::clone(&self.topics[*topic].name)).collect();
        let conn = house.connect(life, reads);
        for topic in topics {
            self.topics[topic].readers.push(conn);
        }
        let group = self.groups.get_mut(&name).expect("made above");
        group.owner = Some((conn, Arc::clone(life)));
        let reader = Reader {
            group: name,
            epoch,
            cursors,
            out: Receipts::default(),
            again: BTreeMap::new(),
            unsettled_max: spec.unsettled_max.max(1),
        };
        self.readers.insert(conn, reader);
        Ok(Opening::Opened(conn))
    }

    /// Who has the group and could still come back. One that is silent for longer than its session has lost it.
    fn taken(&mut self, house: &mut House, name: &Arc<str>, now: Instant) -> Option<Opening> {
        let group = self.groups.get_mut(name)?;
        let (conn, life) = group.owner.as_ref()?;
        let gone_at = life.silent_since(now).map(|since| since + house.settings.session_timeout);
        if gone_at.is_none_or(|at| now < at) {
            return Some(Opening::Taken { owner: group.name(), gone_at });
        }
        house.inject(now, life.number(), injected::TAKEN_OVER);
        // It may wake up, and is to hear of it.
        house.lost(*conn, format!("whoever came after epoch {}", group.epoch));
        group.owner = None;
        None
    }

    /// Where each partition begins, or the refusal of a position that the log does not have.
    fn cursors(
        &mut self,
        house: &House,
        group: &Arc<str>,
        topics: &[usize],
        spec: &SourceSpec,
        now: Instant,
    ) -> Result<Vec<Cursor>, ConnectorError> {
        let mut cursors = Vec::new();
        for index in topics {
            let topic = &mut self.topics[*index];
            let of_topic = |position: &&crate::Position| *position.channel == *topic.name;
            let count = topic.partitions.len();
            if let Some(gone) = spec
                .positions
                .iter()
                .filter(of_topic)
                .find(|position| position.partition as usize >= count)
            {
                let text = format!(
                    "partition {} was read before, but there are only {count}",
                    gone.partition
                );
                return Err(refused(format!("reading {}", topic.name), text));
            }
            for (number, partition) in (0_u32..).zip(&mut topic.partitions) {
                partition.expire(house.settings.retention, now);
                let position = spec.positions.iter().find(|position| {
                    *position.channel == *topic.name && position.partition == number
                });
                let committed = self
                    .groups
                    .get(group)
                    .and_then(|group| group.committed.get(&(*index, number)).copied());
                let log = Log { low: partition.low, high: partition.high, committed };
                let next = position.map(|position| position.next);
                let start =
                    positions::start(next, log, house.settings.positions_from).map_err(|text| {
                        refused(format!("reading {} partition {number}", topic.name), text)
                    })?;
                let at = match start {
                    Start::Beginning => partition.first,
                    Start::At(next) => partition.index_of(next),
                };
                let mark = Mark::starting_at(start);
                cursors.push(Cursor { topic: *index, partition: number, at, mark });
            }
        }
        Ok(cursors)
    }

    /// Whether there is something to read, or when there may be.
    pub(in crate::simulated) fn look(
        &mut self,
        house: &House,
        conn: ConnId,
        now: Instant,
    ) -> Result<Look, ConnectorError> {
        let Some(reader) = self.readers.get_mut(&conn) else { return Ok(Look::Wait(None)) };
        if reader.out.len() >= reader.unsettled_max {
            return Ok(Look::Wait(None));
        }
        if !reader.again.is_empty() {
            return Ok(Look::There);
        }
        let mut later: Option<Instant> = None;
        for cursor in &mut reader.cursors {
            let topic = &mut self.topics[cursor.topic];
            if house.is_silent(&topic.name) {
                continue;
            }
            let partition = &mut topic.partitions[cursor.partition as usize];
            partition.expire(house.settings.retention, now);
            match cursor.next(partition, now) {
                Next::There => return Ok(Look::There),
                Next::Later(at) => later = Some(later.map_or(at, |other| other.min(at))),
                Next::Nothing => {}
                Next::Deleted => {
                    let next = cursor.mark.next();
                    let log = Log { low: partition.low, high: partition.high, committed: None };
                    let why = positions::start(next, log, crate::kafka::PositionsFrom::Refuse);
                    let text = why.err().unwrap_or_else(|| "it was deleted unread".to_owned());
                    let doing = format!("reading {} partition {}", topic.name, cursor.partition);
                    return Err(refused(doing, text));
                }
            }
        }
        Ok(Look::Wait(later))
    }

    /// Hands out what is there: what is to come again first, then partition after partition, beginning with any of them.
    pub(in crate::simulated) fn take(
        &mut self,
        house: &mut House,
        conn: ConnId,
        max: usize,
        now: Instant,
    ) -> Vec<Delivery> {
        let Some(reader) = self.readers.get_mut(&conn) else { return Vec::new() };
        let room = reader.unsettled_max.saturating_sub(reader.out.len()).min(max);
        let mut taken: Vec<(usize, usize, Arc<Message>)> = Vec::new();
        while taken.len() < room
            && let Some(((cursor, at), message)) = reader.again.pop_first()
        {
            taken.push((cursor, at, message));
        }
        let count = reader.cursors.len();
        let first = house.random.below(count as u64) as usize;
        for index in (first..count).chain(0..first) {
            let cursor = &mut reader.cursors[index];
            let topic = &self.topics[cursor.topic];
            if house.is_silent(&topic.name) {
                continue;
            }
            let partition = &topic.partitions[cursor.partition as usize];
            while taken.len() < room && matches!(cursor.next(partition, now), Next::There) {
                let entry = &partition.entries[cursor.at];
                cursor.mark.read(entry.offset);
                taken.push((index, cursor.at, Arc::clone(&entry.message)));
                cursor.at += 1;
            }
        }
        let mut deliveries = Vec::with_capacity(taken.len());
        for (index, at, message) in taken {
            let cursor = &reader.cursors[index];
            let topic = &self.topics[cursor.topic];
            let partition = cursor.partition;
            let offset = topic.partitions[partition as usize].entries[at].offset;
            let group = &reader.group;
            house.tell(now, house.life(conn), || What::HandedOut {
                group: Arc::clone(group),
                place: Place { channel: Arc::clone(&topic.name), partition, offset },
                message: Arc::clone(&message),
            });
            let out = Out { cursor: index, at, offset, message: Arc::clone(&message) };
            let receipt = reader.out.insert(out);
            // The kind is the reader's, as on the wire there is none.
            let message = Message { kind: topic.kind, ..Message::clone(&message) };
            deliveries.push(Delivery { message, partition, offset, receipt });
        }
        deliveries
    }

    pub(in crate::simulated) fn settle(
        &mut self,
        house: &mut House,
        conn: ConnId,
        settlements: &[(Receipt, Settle)],
        now: Instant,
    ) {
        let Some(reader) = self.readers.get_mut(&conn) else { return };
        let life = house.life(conn);
        for (receipt, settle) in settlements {
            let Some(out) = reader.out.remove(*receipt) else { continue };
            let cursor = &mut reader.cursors[out.cursor];
            let topic = &self.topics[cursor.topic];
            let group = &reader.group;
            house.tell(now, life, || What::Settled {
                group: Arc::clone(group),
                place: Place {
                    channel: Arc::clone(&topic.name),
                    partition: cursor.partition,
                    offset: out.offset,
                },
                settle: *settle,
            });
            match settle {
                Settle::Done => cursor.mark.settled(out.offset),
                Settle::Again => {
                    reader.again.insert((out.cursor, out.at), out.message);
                }
            }
        }
        // A broker that can't be reached hears with the next settlement.
        if house.unreachable_until(conn).is_none() {
            self.tell_group(conn);
        }
        house.conn(conn).wake.notify_one();
    }

    /// Tells the group up to where everything is settled, if it is still this reader's.
    fn tell_group(&mut self, conn: ConnId) {
        let Some(reader) = self.readers.get(&conn) else { return };
        let Some(group) = self.groups.get_mut(&reader.group) else { return };
        if group.epoch != reader.epoch {
            return;
        }
        for cursor in &reader.cursors {
            if let Some(low) = cursor.mark.low() {
                group.committed.insert((cursor.topic, cursor.partition), low);
            }
        }
    }

    /// The source was dropped by a process that lives: it leaves its group.
    pub(in crate::simulated) fn close(&mut self, house: &House, conn: ConnId) {
        if house.unreachable_until(conn).is_none() {
            self.tell_group(conn);
        }
        let Some(reader) = self.remove(conn) else { return };
        if let Some(group) = self.groups.get_mut(&reader.group)
            && group.owner.as_ref().is_some_and(|(owner, _)| *owner == conn)
        {
            group.owner = None;
        }
    }

    /// The process has died with its source. The group still counts as owned, until the session is over.
    pub(in crate::simulated) fn died(&mut self, conn: ConnId) {
        self.remove(conn);
    }

    fn remove(&mut self, conn: ConnId) -> Option<Reader> {
        for topic in &mut self.topics {
            topic.readers.retain(|reader| *reader != conn);
        }
        self.readers.remove(&conn)
    }

    /// The refusal of a reader whose group is another's.
    pub(in crate::simulated) fn owned(&self, conn: ConnId, owner: String) -> ConnectorError {
        let group = self.readers.get(&conn).map_or("", |reader| &reader.group).to_owned();
        ConnectorError::Owned { connector: NAME, group, owner }
    }
}

impl Group {
    /// The present owner, for people.
    pub(super) fn name(&self) -> String {
        let life = self.owner.as_ref().map(|(_, life)| life.number());
        let life = life.map_or("a process that is gone".to_owned(), |it| format!("process {it}"));
        format!("{life}, epoch {}", self.epoch)
    }
}

impl Reader {
    /// The entry at which a partition is read next.
    pub(super) fn begins_at(&self, topic: usize, partition: u32) -> Option<usize> {
        let reads = |cursor: &&Cursor| cursor.topic == topic && cursor.partition == partition;
        self.cursors.iter().find(reads).map(|cursor| cursor.at)
    }

    /// How many are to come again.
    pub(super) fn waiting_again(&self, topic: usize) -> usize {
        self.again.keys().filter(|(cursor, _)| self.cursors[*cursor].topic == topic).count()
    }

    /// What is out.
    pub(super) fn out(&self) -> impl Iterator<Item = Spot> {
        self.out.iter().map(|out| {
            let cursor = &self.cursors[out.cursor];
            (cursor.topic, cursor.partition, out.at)
        })
    }
}

impl Cursor {
    /// What comes next; passes what was aborted.
    fn next(&mut self, partition: &Partition, now: Instant) -> Next {
        while let Some(entry) = partition.entries.get(self.at) {
            match entry.fate {
                Fate::Aborted => self.at += 1,
                Fate::Open => return Next::Nothing,
                Fate::There if self.at < partition.first => return Next::Deleted,
                Fate::There if entry.visible > now => return Next::Later(entry.visible),
                Fate::There => return Next::There,
            }
        }
        Next::Nothing
    }
}
