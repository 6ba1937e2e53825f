//! Turns that a store gives up, or whose commit is in doubt: made again, from what the store then says.

use super::*;
use crate::store::{Change, KeyRange, Left, Page, Space, StoreError, Transaction};
use std::collections::VecDeque;

/// What becomes of a commit.
#[derive(Debug, Clone, Copy)]
enum Commit {
    GivenUp,
    LostBefore,
    /// It took effect, and nobody was told.
    LostBehind,
}

/// A store whose commits go wrong as told, then well. What is to be written of `poison` is never kept.
struct Moody {
    inner: Arc<MemoryStore>,
    moods: Arc<Mutex<VecDeque<Commit>>>,
    poison: Option<&'static [u8]>,
}

impl Moody {
    fn new(moods: &[Commit]) -> Self {
        let moods = Arc::new(Mutex::new(moods.iter().copied().collect()));
        Self { inner: Arc::new(MemoryStore::new()), moods, poison: None }
    }
}

struct MoodyTransaction {
    store: Moody,
    staged: Mutex<Vec<Change>>,
}

fn given_up() -> StoreError {
    let (doing, place) = ("committing".into(), "a test".into());
    StoreError::GivenUp { doing, place, source: "two in each other's way".into() }
}

fn unreached() -> StoreError {
    let (doing, place) = ("committing".into(), "a test".into());
    StoreError::Unreached { doing, place, source: "connection closed".into() }
}

macro_rules! reads {
    ($self:ident, $inner:expr) => {
        fn get(&$self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
            $inner.get(space, key)
        }
        fn scan(&$self, space: Space, range: KeyRange<'_>, limit: usize) -> Result<Page, StoreError> {
            $inner.scan(space, range, limit)
        }
        fn sync(&$self) -> Result<(), StoreError> {
            Ok(())
        }
    };
}

impl Store for Moody {
    reads!(self, self.inner);
    fn write(&self, _: &[Change]) -> Result<(), StoreError> {
        panic!("nothing is written beside a transaction")
    }
    fn transaction(&self) -> Result<Option<Box<dyn Transaction>>, StoreError> {
        let (inner, moods) = (Arc::clone(&self.inner), Arc::clone(&self.moods));
        let store = Moody { inner, moods, poison: self.poison };
        Ok(Some(Box::new(MoodyTransaction { store, staged: Mutex::default() })))
    }
}

impl Store for MoodyTransaction {
    reads!(self, self.store.inner);
    fn write(&self, changes: &[Change]) -> Result<(), StoreError> {
        self.staged.lock().unwrap().extend_from_slice(changes);
        Ok(())
    }
}

impl Transaction for MoodyTransaction {
    fn enter(&self) {}
    fn leave(&self, keeps: bool) -> Result<Left, StoreError> {
        Ok(if keeps { Left::Kept } else { Left::Undone })
    }
    fn commit(self: Box<Self>) -> Result<(), StoreError> {
        let staged = self.staged.into_inner().unwrap();
        let poison = self.store.poison.unwrap_or(b"none");
        if staged.iter().any(|change| change.key == poison) {
            return Err(given_up());
        }
        match self.store.moods.lock().unwrap().pop_front() {
            None => self.store.inner.write(&staged),
            Some(Commit::GivenUp) => Err(given_up()),
            Some(Commit::LostBefore) => Err(unreached()),
            Some(Commit::LostBehind) => {
                self.store.inner.write(&staged)?;
                Err(unreached())
            }
        }
    }
}

async fn bench_on(store: Moody) -> Bench {
    Bench { store: Arc::new(store), ..Bench::new().await }
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_was_given_up_is_made_again_and_takes_effect_once() {
    let mut bench = bench_on(Moody::new(&[Commit::GivenUp, Commit::LostBefore])).await;
    let running = bench.start(inventory()).await;
    bench.send(&[of_saga(1, reserve("brush", 1)), of_saga(2, reserve("loud", 1))]).await;
    let replies = bench.hears(3).await;
    says(replies.iter().find(|one| one.channel == REPLIES).unwrap(), Reserved { number: 1 });
    assert_eq!(bench.record::<u64>("reserved"), Some(2));
    let counts = running.stop().await.unwrap();
    assert_eq!((counts.done, counts.repeated), (2, 0), "only the turn that was kept counts");
}

#[tokio::test(start_paused = true)]
async fn a_commit_in_doubt_that_took_effect_is_answered_by_what_it_remembered() {
    let mut bench = bench_on(Moody::new(&[Commit::LostBehind])).await;
    let running = bench.start(inventory()).await;
    bench.send(&[reserve("loud", 1)]).await;
    let heard = bench.hears(2).await;
    assert_eq!(
        heard[0].attributes.get(names::TYPE),
        Some(Noted::NAME),
        "its event, from the outbox"
    );
    says(&heard[1], Reserved { number: 1 });
    // The outbox goes on behind what the commit in doubt has left.
    says(&bench.asks(of_saga(2, reserve("brush", 1))).await, Reserved { number: 2 });
    assert_eq!(bench.record::<u64>("reserved"), Some(2));
    let counts = running.stop().await.unwrap();
    assert_eq!((counts.done, counts.repeated), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_a_store_never_keeps_is_answered_by_a_failure_and_holds_up_nobody() {
    let mut moody = Moody::new(&[]);
    // What the handler writes for the business key 8.
    moody.poison = Some(b"r/by/8");
    let mut bench = bench_on(moody).await;
    let mut poison = of_saga(1, reserve("brush", 1));
    poison.attributes.set(names::SUBJECT, "8");
    bench.send(&[poison, of_saga(2, reserve("brush", 1))]).await;
    let running = bench.start(inventory()).await;
    let replies = bench.hears(2).await;
    // It was called, and what it may have done outside of the store stands.
    fails(&replies[0], "not-kept", true, FailureEffect::Unknown);
    says(&replies[1], Reserved { number: 1 });
    assert_eq!(bench.record::<u64>("reserved"), Some(1));
    let mut undo = of_saga(1, release(1));
    undo.attributes.set(names::IDEMPOTENCY_KEY, "key-1-undone");
    says(&bench.asks(undo).await, Released { had: false });
    assert_eq!(bench.record::<u64>("released"), Some(1), "it is carried out, as one in doubt");
    let counts = running.stop().await.unwrap();
    assert_eq!((counts.done, counts.failed), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_participant_that_waits_for_its_store_can_be_stopped() {
    let mut bench = bench_on(Moody::new(&[Commit::LostBefore; 1_000])).await;
    let running = bench.start(inventory()).await;
    bench.send(&[reserve("brush", 1)]).await;
    assert_eq!(running.stop().await.unwrap().done, 0);
    assert_eq!(bench.record::<u64>("reserved"), None);
}
