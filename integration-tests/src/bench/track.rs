//! A track that orders run on from customers to their ends, whether through the engine or through the bare loop, and the two ways to load it:
//! *closed*, as fast as it goes, and *open*, by the clock whatever becomes of it.

use super::{
    Error,
    figures::Measured,
    orders::Counter,
    services::Crew,
    watch::{Schedule, Seen, Watch},
};
use dirigent::engine::Handle;
use dirigent_connectors::{Connector, Message, Sink};
use dirigent_schemas::Bodies;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, task::JoinHandle};

/// Orders placed at once at the most, in a closed load.
const HANDFUL_MAX: u64 = 500;

/// How often it is looked for orders to place: what falls due within is placed at once.
const TICK: Duration = Duration::from_millis(1);

/// How long nothing may move before a run is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Customers who place orders beside one another in an open load: none waits for what the broker confirms to another.
const CUSTOMERS: usize = 4;

/// Windows that wait for one of them. Beyond that placing waits, and counts against whoever is measured.
const WINDOWS_WAITING_MAX: usize = 64;

/// Counts the inputs that were taken care of.
#[derive(Clone)]
pub(super) enum Counted {
    /// By the engine: applied and durable.
    ByEngine(Handle),
    /// By the bare loop: what followed from them is confirmed.
    Bare(Arc<AtomicU64>),
}

impl Counted {
    pub(super) fn events(&self) -> u64 {
        match self {
            Self::ByEngine(handle) => handle.snapshot().inputs.applied,
            Self::Bare(taken) => taken.load(Ordering::Acquire),
        }
    }
}

/// Where orders go in and come to their end.
pub(super) struct Track {
    pub watch: Arc<Watch>,
    pub counted: Counted,
    counter: Counter,
    codec: Arc<Bodies>,
    sink: Box<dyn Sink>,
    customers: Vec<mpsc::Sender<Vec<Message>>>,
    /// Customers, who end with their senders.
    tasks: Vec<JoinHandle<Result<(), Error>>>,
    crew: Crew,
    next: u64,
}

/// What a closed load came to.
pub(super) struct Closed {
    pub taken: Duration,
    pub orders: u64,
    pub events: u64,
}

impl Closed {
    pub(super) fn events_per_second(&self) -> f64 {
        self.events as f64 / self.taken.as_secs_f64()
    }

    pub(super) fn orders_per_second(&self) -> f64 {
        self.orders as f64 / self.taken.as_secs_f64()
    }
}

/// An open load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub orders_per_second: f64,
    pub lasts: Duration,
    /// Of that time: not measured.
    pub warm_up: Duration,
}

/// What an open load came to.
pub(super) struct Paced {
    pub seen: Seen,
    /// Orders that did not end although nothing moved any more.
    pub unended: u64,
    /// How far placing fell behind its plan at the worst.
    pub behind_max: Duration,
}

impl Paced {
    /// Percentiles of the way to the first command, and of the way to the end.
    pub(super) fn figures(&self) -> (Measured, Measured) {
        (self.seen.to_command.told(), self.seen.to_end.told())
    }
}

impl Track {
    pub(super) async fn new(
        connector: &Arc<dyn Connector>,
        counter: Counter,
        codec: Arc<Bodies>,
        (watch, counted): (Arc<Watch>, Counted),
        crew: Crew,
    ) -> Result<Self, Error> {
        let (mut customers, mut tasks) = (Vec::new(), Vec::new());
        for _ in 0..CUSTOMERS {
            let (windows, mut places) = mpsc::channel::<Vec<Message>>(WINDOWS_WAITING_MAX);
            let mut sink = connector.sink().await?;
            customers.push(windows);
            tasks.push(tokio::spawn(async move {
                while let Some(window) = places.recv().await {
                    super::sent(&sink.send(&window).await)?;
                }
                Ok(())
            }));
        }
        let sink = connector.sink().await?;
        Ok(Self { watch, counted, counter, codec, sink, customers, tasks, crew, next: 0 })
    }

    /// Continues with this number: those below were placed before.
    pub(super) fn begin_at(&mut self, order: u64) {
        self.next = self.next.max(order);
    }

    /// Places one order, and says when its first input was taken care of. It has ended when this returns.
    pub(super) async fn first_input(&mut self) -> Result<Instant, Error> {
        let before = self.counted.events();
        self.watch.begin(self.next);
        let order = self.counter.order(self.next, &self.codec)?;
        self.next += 1;
        super::sent(&self.sink.send(&[order]).await)?;
        let (mut moved, mut first) = (Moved::new(), None);
        while self.watch.ended() == 0 {
            if first.is_none() && self.counted.events() > before {
                first = Some(Instant::now());
            }
            self.crew.check().await?;
            moved.check(0, 1)?;
            tokio::time::sleep(TICK).await;
        }
        Ok(first.unwrap_or_else(Instant::now))
    }

    /// Places these orders, no more than the window at once, and waits for their ends. They are written before the clock starts:
    /// customers are no part of what is measured.
    pub(super) async fn closed(&mut self, orders: u64, window: u64) -> Result<Closed, Error> {
        let numbers = self.next..self.next + orders;
        self.next = numbers.end;
        let all = numbers.map(|order| self.counter.order(order, &self.codec));
        let all = all.collect::<Result<Vec<_>, _>>()?;
        self.watch.begin(self.next - orders);
        let events_before = self.counted.events();
        let handful = HANDFUL_MAX.min(window.div_ceil(4)).max(1);
        let (begun, mut placed, mut moved) = (Instant::now(), 0_u64, Moved::new());
        loop {
            let ended = self.watch.ended();
            if ended >= orders {
                break;
            }
            let left = orders - placed;
            let free =
                window.saturating_sub(placed.saturating_sub(ended)).min(left).min(4 * handful);
            // Orders come in handfuls, so that placing them does not cost the core that is being measured.
            if free < left.min(handful) || left == 0 {
                self.crew.check().await?;
                moved.check(ended, orders)?;
                tokio::time::sleep(TICK).await;
                continue;
            }
            let (from, to) = (usize::try_from(placed)?, usize::try_from(placed + free)?);
            super::sent(&self.sink.send(&all[from..to]).await)?;
            placed += free;
        }
        let taken = begun.elapsed();
        let events = self.counted.events() - events_before;
        Ok(Closed { taken, orders, events })
    }

    /// Places orders when they are due, and waits for their ends.
    pub(super) async fn open(&mut self, pace: Pace) -> Result<Paced, Error> {
        self.open_with(pace, |_| {}).await
    }

    /// The same; `each_second` is told what was seen since the last second.
    pub(super) async fn open_with(
        &mut self,
        pace: Pace,
        mut each_second: impl FnMut(Seen) + Send,
    ) -> Result<Paced, Error> {
        let of = |time: Duration| (time.as_secs_f64() * pace.orders_per_second) as u64;
        let orders = of(pace.lasts).max(1);
        let schedule = Schedule {
            begun: Instant::now(),
            first: self.next,
            orders,
            per_second: pace.orders_per_second,
            warm_up: of(pace.warm_up).min(orders - 1),
        };
        self.next += orders;
        self.watch.begin(schedule.first);
        let mut behind_max = Duration::ZERO;
        let (mut placed, mut turn, mut told) = (0, 0, schedule.begun);
        let mut moved = Moved::new();
        self.watch.follow(schedule);
        let mut seen = Seen::default();
        loop {
            let now = Instant::now();
            let due = schedule.due_by(now);
            if due > placed {
                let late = now.saturating_duration_since(schedule.due_of(placed));
                behind_max = behind_max.max(late);
                let window = (placed..due)
                    .map(|place| self.counter.order(schedule.first + place, &self.codec))
                    .collect::<Result<Vec<_>, _>>()?;
                placed = due;
                turn = (turn + 1) % self.customers.len();
                if self.customers[turn].send(window).await.is_err() {
                    return Err(self.customer_ended(turn).await);
                }
            }
            if now.duration_since(told) >= Duration::from_secs(1) {
                told += Duration::from_secs(1);
                let lately = self.watch.take();
                seen.add(&lately);
                each_second(lately);
            }
            let ended = self.watch.ended();
            self.crew.check().await?;
            if ended >= orders {
                break;
            }
            if placed == orders && moved.check(ended, orders).is_err() {
                break;
            }
            tokio::time::sleep(TICK).await;
        }
        seen.add(&self.watch.take());
        let unended = orders.saturating_sub(self.watch.ended());
        Ok(Paced { seen, unended, behind_max })
    }

    async fn customer_ended(&mut self, turn: usize) -> Error {
        match (&mut self.tasks[turn]).await {
            Ok(Err(error)) => error,
            Ok(Ok(())) => "a customer has left before the end".into(),
            Err(error) => error.into(),
        }
    }
}

/// Notices when nothing moves any more.
struct Moved {
    last: u64,
    at: Instant,
}

impl Moved {
    fn new() -> Self {
        Self { last: 0, at: Instant::now() }
    }

    fn check(&mut self, ended: u64, orders: u64) -> Result<(), Error> {
        if ended != self.last {
            (self.last, self.at) = (ended, Instant::now());
        }
        if self.at.elapsed() >= PATIENCE {
            let seconds = PATIENCE.as_secs();
            return Err(format!(
                "{ended} of {orders} orders have ended, and no further one for {seconds} s; is the broker well, and is there room on the disk?"
            )
            .into());
        }
        Ok(())
    }
}
