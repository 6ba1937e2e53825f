//! What services and listeners see of the load, whoever carries it: when commands arrive, and how many orders came to an end.
//!
//! Latency is taken from the instant an order *was due*, by its number alone. A load that falls behind its plan counts against whoever made
//! it wait: nothing is left out because it could not even be sent.

use super::histogram::Histogram;
use dirigent_connectors::{Delivery, Message, names};
use dirigent_model::message::Message as Named;
use order::order::messages::{OrderCompleted, OrderFailed, ReserveStock};
use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// When each order is due: one behind the other, evenly.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    pub begun: Instant,
    /// The number of the first order.
    pub first: u64,
    pub orders: u64,
    pub per_second: f64,
    /// The first of them that are not measured: what is cold gets warm.
    pub warm_up: u64,
}

impl Schedule {
    /// How many orders are due.
    pub(super) fn due_by(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.begun).as_secs_f64();
        ((passed * self.per_second) as u64).min(self.orders)
    }

    /// When an order is due, if it is to be measured.
    fn due_at(&self, order: u64) -> Option<Instant> {
        let place = order.checked_sub(self.first)?;
        if place >= self.orders || place < self.warm_up {
            return None;
        }
        Some(self.due_of(place))
    }

    /// When the order in this place is due: the first one once the first interval is over, as `due_by` says.
    pub(super) fn due_of(&self, place: u64) -> Instant {
        self.begun + Duration::from_secs_f64((place + 1) as f64 / self.per_second)
    }
}

/// Latencies seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// From when an order was due to the arrival of its first command at a service.
    pub to_command: Histogram,
    /// From when an order was due to the arrival of the event that tells of its end.
    pub to_end: Histogram,
}

impl Seen {
    pub(super) fn add(&mut self, other: &Self) {
        self.to_command.add(&other.to_command);
        self.to_end.add(&other.to_end);
    }
}

/// Shared by those who see.
#[derive(Default)]
pub(super) struct Watch {
    /// Ends of orders below this number are nobody's any more.
    first: AtomicU64,
    ended: AtomicU64,
    schedule: RwLock<Option<Schedule>>,
    seen: Mutex<Seen>,
    keeps_forms: AtomicBool,
    forms: Mutex<HashMap<String, Message>>,
}

impl Watch {
    /// Services have these commands.
    pub(super) fn commands(&self, commands: &[Delivery]) {
        self.look(commands, |seen| &mut seen.to_command, |name| name == ReserveStock::NAME);
    }

    /// Listeners have these events.
    pub(super) fn events(&self, events: &[Delivery]) {
        let is_end = |name: &str| name == OrderCompleted::NAME || name == OrderFailed::NAME;
        self.look(events, |seen| &mut seen.to_end, is_end);
        let first = self.first.load(Ordering::Acquire);
        let ends = events.iter().map(|event| &event.message).filter(|message| {
            message.attributes.get(names::TYPE).is_some_and(is_end)
                && message.key.parse().is_ok_and(|order: u64| order >= first)
        });
        self.ended.fetch_add(ends.count() as u64, Ordering::AcqRel);
    }

    fn look(
        &self,
        deliveries: &[Delivery],
        histogram: impl Fn(&mut Seen) -> &mut Histogram,
        counts: impl Fn(&str) -> bool,
    ) {
        let now = Instant::now();
        if self.keeps_forms.load(Ordering::Relaxed) {
            self.keep_forms(deliveries);
        }
        let schedule = *self.schedule.read().unwrap_or_else(PoisonError::into_inner);
        let Some(schedule) = schedule else { return };
        let mut guard = self.lock();
        let seen: &mut Seen = &mut guard;
        for Delivery { message, .. } in deliveries {
            if !message.attributes.get(names::TYPE).is_some_and(&counts) {
                continue;
            }
            let due = message.key.parse().ok().and_then(|order| schedule.due_at(order));
            if let Some(due) = due {
                histogram(seen).record(now.saturating_duration_since(due));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on latencies are taken by this schedule.
    pub(super) fn follow(&self, schedule: Schedule) {
        *self.lock() = Seen::default();
        *self.schedule.write().unwrap_or_else(PoisonError::into_inner) = Some(schedule);
    }

    /// What was seen since the last time.
    pub(super) fn take(&self) -> Seen {
        std::mem::take(&mut self.lock())
    }

    /// Counts ends from 0 on, of orders from this number on: who was placed before is of an earlier load.
    pub(super) fn begin(&self, first: u64) {
        self.first.store(first, Ordering::Release);
        self.ended.store(0, Ordering::Release);
    }

    /// Orders of this load that came to an end.
    pub(super) fn ended(&self) -> u64 {
        self.ended.load(Ordering::Acquire)
    }

    /// Keeps one message of each type from now on, or no more of them.
    pub(super) fn keep(&self, keeps: bool) {
        self.keeps_forms.store(keeps, Ordering::Relaxed);
    }

    fn keep_forms(&self, deliveries: &[Delivery]) {
        let mut forms = self.forms.lock().unwrap_or_else(PoisonError::into_inner);
        for Delivery { message, .. } in deliveries {
            let Some(name) = message.attributes.get(names::TYPE) else { continue };
            if !forms.contains_key(name) {
                forms.insert(name.to_owned(), message.clone());
            }
        }
    }

    /// One message of each type that was seen, as it arrived.
    pub(super) fn forms(&self) -> HashMap<String, Message> {
        self.forms.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_due_one_behind_the_other_and_not_before() {
        let begun = Instant::now();
        let schedule = Schedule { begun, first: 100, orders: 10, per_second: 10.0, warm_up: 2 };
        assert_eq!(schedule.due_by(begun), 0);
        assert_eq!(schedule.due_by(begun + Duration::from_millis(350)), 3);
        assert_eq!(schedule.due_by(begun + Duration::from_secs(60)), 10);
        assert_eq!(schedule.due_at(99), None);
        assert_eq!(schedule.due_at(101), None, "the warm-up is not measured");
        assert_eq!(schedule.due_at(102), Some(begun + Duration::from_secs_f64(0.3)));
        assert_eq!(schedule.due_at(110), None);
    }
}
