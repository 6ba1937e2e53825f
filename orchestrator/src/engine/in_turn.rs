//! All parts of an engine on one thread, one turn after another, in an order that is drawn.
//!
//! ```text
//! who could go on now? ─► one of them is drawn ─► its turn ─► who could go on now? … nobody ─► sleep until something is due
//! ```
//!
//! What goes in: an [`Assembly`] made for [`Turns::InTurn`], and dice. What comes out: why it ended. What must be true: every order in which
//! real threads could take these turns can be drawn; a part that would wait for another one is not stepped; the same dice on the same
//! virtual time give the same run. Intakes and relays wait for brokers, so they are futures, polled only when they were woken.
//!
//! On virtual time nothing costs as much as parts that wake up, again and again, to find that nothing has changed: most lives let them sleep for longer
//! than threads would, as long as nobody has given them anything to find.

use super::{
    Handle, Shared,
    assembly::{Assembly, BATCHES_WAITING_PER_SHARD, INBOX_MAX},
    committer::{Committer, IDLE},
    headroom::{LOOK_EVERY, Watcher},
    shard::{Fatal, Shard},
};
use futures::{FutureExt, future::BoxFuture};
use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};
use tokio::time::{Instant, Sleep};

/// Turns taken before others on this thread are let on.
const TURNS_AT_ONCE: usize = 32;

/// How long an idle shard sleeps at the most: less than what counts as having stood still.
const SHARD_IDLE: Duration = Duration::from_secs(4);

/// How long an intake and the committer sleep at the most in a life that lets them, while nothing happens. For an intake that is how late it hears
/// that its broker is away or back: less than what a deadline is worth.
const REST: Duration = Duration::from_secs(1);

/// One life in so many has no such rest: each part wakes up as often as its thread would.
const RESTLESS_ONE_IN: usize = 8;

/// What decides whose turn it is.
pub(crate) trait Dice: Send {
    /// A number below `bound`, which is at least one.
    fn below(&mut self, bound: usize) -> usize;

    /// How long this thread is held up after a turn, as by others on its machine; none as a rule.
    fn held_up(&mut self) -> Option<Duration>;
}

/// An engine that runs while it is polled.
pub(crate) struct InTurn {
    shared: Arc<Shared>,
    handle: Handle,
    waiters: Vec<Waiter>,
    /// Whose turn it may be, found anew before each.
    could: Vec<Turn>,
    shards: Vec<Shard>,
    /// By shard: until when it sleeps, unless it is sent something.
    sleeps_until: Vec<Instant>,
    /// Shared with the shards, which let it get on while they wait for the disk's word.
    committer: Arc<Mutex<Committer>>,
    watcher: Watcher,
    dice: Box<dyn Dice>,
    /// How long the committer sleeps while no watermark can have moved.
    committer_rest: Duration,
    commits_at: Instant,
    looks_at: Instant,
    held_until: Option<Instant>,
    sleep: Pin<Box<Sleep>>,
}

/// A part that waits for a broker.
struct Waiter {
    work: BoxFuture<'static, Result<(), Fatal>>,
    woken: Arc<Woken>,
    /// It hands jobs to the shards.
    is_intake: bool,
}

/// Remembers that somebody was woken, and tells whoever polls them all.
#[derive(Default)]
struct Woken {
    is_woken: AtomicBool,
    parent: Mutex<Option<Waker>>,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
        let parent = self.parent.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(parent) = parent {
            parent.wake();
        }
    }
}

/// Whose turn it may be.
#[derive(Debug, Clone, Copy)]
enum Turn {
    Waiter(usize),
    Shard(usize),
    Committer,
    Checkpoint,
    Watcher,
}

impl InTurn {
    pub(crate) fn new(assembly: Assembly, mut dice: Box<dyn Dice>) -> Self {
        let Assembly { handle, mut intakes, mut shards, committer, watcher, relays } = assembly;
        let rests = dice.below(RESTLESS_ONE_IN) > 0;
        for intake in intakes.iter_mut().filter(|_| rests) {
            intake.idle = REST;
        }
        let shared = Arc::clone(&handle.shared);
        let committer = Arc::new(Mutex::new(committer));
        for shard in &mut shards {
            let (committer, shared) = (Arc::clone(&committer), Arc::clone(&shared));
            shard.wait = Box::new(move || {
                // The disk's word, and nothing else, is what the shard waits for.
                let mut committer = lock(&committer);
                if let Err(cause) = committer.turn() {
                    shared.fail("The committer failed", cause);
                } else if committer.held_up().is_some() {
                    // A thread would wait here until somebody makes room; on the only one nobody could.
                    shared.fail("A shard waits", "for a disk that is full".into());
                }
            });
        }
        let intakes = intakes.into_iter().map(|intake| (intake.run().boxed(), true));
        let relays = relays.into_iter().map(|relay| {
            let work = async move { relay.run().await.map_err(Fatal::from) };
            (work.boxed(), false)
        });
        let waiters = intakes.chain(relays).map(|(work, is_intake)| {
            let woken = Arc::new(Woken::default());
            woken.is_woken.store(true, Ordering::Release);
            Waiter { work, woken, is_intake }
        });
        let now = Instant::now();
        Self {
            shared,
            waiters: waiters.collect(),
            could: Vec::new(),
            handle,
            sleeps_until: vec![now; shards.len()],
            shards,
            committer,
            watcher,
            dice,
            committer_rest: if rests { REST } else { IDLE },
            commits_at: now + IDLE,
            looks_at: now,
            held_until: None,
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }

    /// For questions and operators.
    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Goes on until something no instance can mend has happened, and says what.
    pub(crate) async fn run(&mut self) -> Fatal {
        poll_fn(|context| self.poll(context)).await
    }

    /// Ends in order: takes in nothing more, finishes what was begun, writes a checkpoint.
    pub(crate) fn stop(mut self) -> Result<(), Fatal> {
        self.shared.stopping.store(true, Ordering::Release);
        self.waiters.retain(|waiter| !waiter.is_intake);
        loop {
            let mut is_idle = true;
            for shard in &mut self.shards {
                is_idle &= !shard.has_mail();
                shard.step()?;
            }
            let mut committer = lock(&self.committer);
            is_idle &= committer.waiting() == 0;
            committer.turn()?;
            committer.write_checkpoint();
            if is_idle {
                return committer.end();
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Fatal> {
        for waiter in &self.waiters {
            let mut parent = waiter.woken.parent.lock().unwrap_or_else(PoisonError::into_inner);
            if !parent.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
                *parent = Some(context.waker().clone());
            }
        }
        for _ in 0..TURNS_AT_ONCE {
            let now = Instant::now();
            if self.held_until.is_some_and(|until| now < until) {
                return self.sleeps(context);
            }
            self.held_until = None;
            self.find_who_could_go_on(now);
            if self.could.is_empty() {
                return self.sleeps(context);
            }
            let turn = self.could[self.dice.below(self.could.len())];
            if let Err(cause) = self.take(turn, now) {
                self.shared.fail("A part of it failed", cause);
            }
            let mut failure = self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(cause) = failure.take() {
                return Poll::Ready(cause);
            }
            drop(failure);
            self.held_until = self.dice.held_up().map(|span| now + span);
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Everybody who has something to do and would not wait for another one.
    fn find_who_could_go_on(&mut self, now: Instant) {
        let could = &mut self.could;
        could.clear();
        let inboxes_have_room = self.shards.iter().all(|shard| shard.waiting() < INBOX_MAX);
        for (index, waiter) in self.waiters.iter().enumerate() {
            let is_woken = waiter.woken.is_woken.load(Ordering::Acquire);
            if is_woken && (inboxes_have_room || !waiter.is_intake) {
                could.push(Turn::Waiter(index));
            }
        }
        let committer = lock(&self.committer);
        if committer.waiting() < self.shards.len() * BATCHES_WAITING_PER_SHARD {
            for (index, shard) in self.shards.iter().enumerate() {
                if shard.has_mail() || now >= self.sleeps_until[index] {
                    could.push(Turn::Shard(index));
                }
            }
        }
        let has_mail = committer.waiting() > 0 && committer.held_up().is_none();
        if has_mail || now >= self.commits_at {
            could.push(Turn::Committer);
        }
        if committer.has_checkpoint() {
            could.push(Turn::Checkpoint);
        }
        if now >= self.looks_at {
            could.push(Turn::Watcher);
        }
    }

    fn take(&mut self, turn: Turn, now: Instant) -> Result<(), Fatal> {
        match turn {
            Turn::Waiter(index) => {
                let waiter = &mut self.waiters[index];
                waiter.woken.is_woken.store(false, Ordering::Release);
                // A relay may have heard that something is confirmed.
                if !waiter.is_intake {
                    self.commits_at = self.commits_at.min(now + IDLE);
                }
                let waker = Waker::from(Arc::clone(&waiter.woken));
                match waiter.work.poll_unpin(&mut Context::from_waker(&waker)) {
                    Poll::Pending => Ok(()),
                    Poll::Ready(outcome) => {
                        drop(self.waiters.remove(index));
                        outcome
                    }
                }
            }
            Turn::Shard(index) => {
                let shard = &mut self.shards[index];
                shard.step()?;
                self.sleeps_until[index] = now + shard.patience(SHARD_IDLE);
                Ok(())
            }
            Turn::Committer => {
                let mut committer = lock(&self.committer);
                let is_idle = committer.waiting() == 0;
                committer.turn()?;
                let rest = if is_idle { self.committer_rest } else { IDLE };
                self.commits_at = now + committer.held_up().unwrap_or(rest);
                Ok(())
            }
            Turn::Checkpoint => {
                lock(&self.committer).write_checkpoint();
                self.commits_at = self.commits_at.min(now + IDLE);
                Ok(())
            }
            Turn::Watcher => {
                self.watcher.step();
                self.looks_at = now + LOOK_EVERY;
                Ok(())
            }
        }
    }

    /// Sleeps until somebody is woken, or the next thing is due.
    fn sleeps(&mut self, context: &mut Context<'_>) -> Poll<Fatal> {
        let until = self.held_until.unwrap_or_else(|| {
            let shards = self.sleeps_until.iter().copied();
            shards.fold(self.commits_at.min(self.looks_at), Instant::min)
        });
        self.sleep.as_mut().reset(until);
        if self.sleep.as_mut().poll(context).is_ready() {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

fn lock(committer: &Mutex<Committer>) -> MutexGuard<'_, Committer> {
    committer.lock().unwrap_or_else(PoisonError::into_inner)
}
