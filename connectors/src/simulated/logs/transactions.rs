//! Transactions of the owner of a group, and the fence: who does not own the group any more begins and ends none.
//!
//! What is in a transaction lies in the log at once, and holds back whoever reads behind it. It ends by its sender, by the next owner
//! (which aborts what the former left open), or by time, where its sender has died or stands still.

use super::{Logs, Spot};
use crate::{
    Message,
    simulated::{Fate, What, faults::injected, house::House},
};
use std::sync::Arc;
use tokio::time::Instant;

pub(super) struct Transaction {
    group: Arc<str>,
    life: u32,
    pub(super) until: Instant,
    spots: Vec<Spot>,
}

/// What became of the end of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::simulated) enum Ended {
    /// It is there.
    Committed,
    /// It was aborted before, by time.
    Gone,
    /// Another one owns the group.
    Fenced(String),
}

impl Logs {
    /// Who owns the group instead of the owner of that epoch.
    pub(in crate::simulated) fn fenced(&self, group: &str, epoch: u64) -> Option<String> {
        let found = self.groups.get(group)?;
        (found.epoch != epoch).then(|| found.name())
    }

    /// The epoch of this life's ownership of a group, where it has it.
    pub(in crate::simulated) fn epoch_of(
        &self,
        group: &str,
        life: &Arc<crate::simulated::Life>,
    ) -> Option<u64> {
        let found = self.groups.get(group)?;
        let (_, owner) = found.owner.as_ref()?;
        Arc::ptr_eq(owner, life).then_some(found.epoch)
    }

    /// Stores messages in a new transaction.
    pub(in crate::simulated) fn begin(
        &mut self,
        house: &mut House,
        life: u32,
        group: &Arc<str>,
        messages: &[(usize, &Arc<Message>)],
        now: Instant,
    ) -> u64 {
        let spots = messages
            .iter()
            .map(|(topic, message)| self.append(house, life, *topic, message, now, Fate::Open))
            .collect();
        let number = self.transaction_next;
        self.transaction_next += 1;
        let until = now + house.settings.transaction_timeout();
        let group = Arc::clone(group);
        self.transactions.insert(number, Transaction { group, life, until, spots });
        number
    }

    /// Commits it, if its owner still has the group.
    pub(in crate::simulated) fn commit(
        &mut self,
        house: &mut House,
        number: u64,
        epoch: u64,
        now: Instant,
    ) -> Ended {
        let Some(group) = self.transactions.get(&number).map(|open| Arc::clone(&open.group)) else {
            return Ended::Gone;
        };
        if let Some(owner) = self.fenced(&group, epoch) {
            return Ended::Fenced(owner);
        }
        self.end(house, number, now, |_| true);
        Ended::Committed
    }

    /// Ends it so that nobody who was cut off can say how: with all of it there, with none, or torn.
    pub(in crate::simulated) fn end_in_doubt(
        &mut self,
        house: &mut House,
        number: u64,
        now: Instant,
    ) {
        let way = house.random.below(3);
        let mut random = house.random.fork();
        self.end(house, number, now, |_| match way {
            0 => true,
            1 => false,
            _ => random.one_in(2),
        });
    }

    /// Aborts what a former owner has left open.
    pub(super) fn abort_of(&mut self, house: &mut House, group: &str, now: Instant) {
        let of_group = self.transactions.iter().filter(|(_, open)| &*open.group == group);
        let left: Vec<u64> = of_group.map(|(number, _)| *number).collect();
        for number in left {
            self.end(house, number, now, |_| false);
        }
    }

    /// Aborts what is open for too long.
    pub(in crate::simulated) fn time_out(&mut self, house: &mut House, now: Instant) {
        let over = self.transactions.iter().filter(|(_, open)| open.until <= now);
        let over: Vec<(u64, u32)> = over.map(|(number, open)| (*number, open.life)).collect();
        for (number, life) in over {
            house.inject(now, life, injected::TIMED_OUT);
            self.end(house, number, now, |_| false);
        }
    }

    /// Each partition gets a mark of the end, which takes an offset.
    fn end(
        &mut self,
        house: &mut House,
        number: u64,
        now: Instant,
        mut is_there: impl FnMut(Spot) -> bool,
    ) {
        let Some(Transaction { life, spots, .. }) = self.transactions.remove(&number) else {
            return;
        };
        let (mut there, mut aborted) = (Vec::new(), Vec::new());
        let mut marked: Vec<(usize, u32)> = Vec::new();
        for spot in spots {
            let (topic, partition, at) = spot;
            let log = &mut self.topics[topic].partitions[partition as usize];
            let is_there = is_there(spot);
            log.entries[at].fate = if is_there { Fate::There } else { Fate::Aborted };
            if !marked.contains(&(topic, partition)) {
                log.high += 1;
                marked.push((topic, partition));
            }
            if house.watched {
                let places = if is_there { &mut there } else { &mut aborted };
                places.push(self.place(spot));
            }
        }
        for (committed, places) in [(true, there), (false, aborted)] {
            if !places.is_empty() {
                house.tell(now, life, || What::Ended { committed, places });
            }
        }
        marked.dedup_by_key(|(topic, _)| *topic);
        for (topic, _) in marked {
            self.wake(house, topic);
        }
    }
}
