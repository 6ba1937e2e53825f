//! The three duties, on the memory broker and on [every store](stores): asked twice, late, in the wrong order, with crashes and panics between.

mod again;
mod bounds;
mod crashed;
mod resting;
mod status;
mod stores;

use super::*;
use crate::{
    envelope::{SAGA_ATTEMPT, SAGA_ID, SAGA_LEG, SAGA_RUN, SAGA_STEP},
    store::{MemoryStore, Store},
};
use dirigent_connectors::{
    Attributes, Delivery, Memory, Message as Sending, Position, Sent, Settle, Sink, Source,
    SourceSpec, memory::MemoryBroker, names,
};
use dirigent_model::{
    instance::Leg,
    message::{Channel, FailureEffect},
    time::Timestamp,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};
use uuid::Uuid;

const STOCK: Channel = Channel::json("stock");
const NEWS: Channel = Channel::json("news");
const REPLIES: &str = "replies";

macro_rules! message {
    ($name:ident { $($field:ident: $type:ty),* } $(to $reply:ident or $rejection:ident)? $(on $channel:ident)?) => {
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        struct $name { $($field: $type),* }
        impl Message for $name { const NAME: &'static str = stringify!($name); }
        $(impl Command for $name {
            const TO: Channel = STOCK;
            type Success = $reply;
            type Rejection = $rejection;
        })?
        $(impl Event for $name { const ON: Channel = $channel; })?
    };
}

message!(Reserve { sku: String } to Reserved or SoldOut);
message!(Reserved { number: u64 });
message!(SoldOut { sku: String });
message!(Release {} to Released or Never);
message!(Released { had: bool });
message!(Noted { sku: String } on NEWS);
message!(Fill { how: String } to Filled or SoldOut);
message!(Filled { text: String });

/// Reserves what is asked for: `gone` is sold out, `bomb` panics, `broken` fails, `loud` is told to the world.
fn inventory() -> Participant {
    Participant::new("inventory")
        .on::<Reserve>(|tx, command, asked| match command.sku.as_str() {
            "gone" => Answer::Rejected(SoldOut { sku: command.sku }),
            "bomb" => {
                tx.put("half", "done");
                panic!("out of order")
            }
            "broken" => Answer::Failed(Failure {
                code: "broken".into(),
                message: "no forklift".into(),
                retriable: true,
                effect: FailureEffect::None,
            }),
            "large" => {
                tx.put("large", vec![0; CHANGES_BYTES_MAX + 1]);
                Answer::Done(Reserved { number: 0 })
            }
            sku => {
                let number = tx.get_as::<u64>("reserved").unwrap_or(0) + 1;
                tx.put_as("reserved", &number);
                tx.put(format!("by/{}", asked.subject), sku);
                if sku == "loud" {
                    tx.publish(asked.subject.as_str(), &Noted { sku: command.sku });
                }
                Answer::Done(Reserved { number })
            }
        })
        .undoes::<Release, Reserve>(
            |tx, _, asked| {
                let released = tx.get_as::<u64>("released").unwrap_or(0) + 1;
                tx.put_as("released", &released);
                Answer::Done(Released { had: asked.undoing == Some(Undoing::Certain) })
            },
            |_, _| Released { had: false },
        )
        .publishes::<Noted>()
}

/// A broker, a store, and a saga that asks.
struct Bench {
    broker: MemoryBroker,
    store: Arc<dyn Store>,
    sink: Box<dyn Sink>,
    replies: Box<dyn Source>,
}

impl Bench {
    async fn new() -> Self {
        let broker = MemoryBroker::new();
        let listening = vec![ChannelSpec::work(REPLIES), ChannelSpec::events(NEWS.name)];
        let replies = broker.source(spec(listening)).await.unwrap();
        broker.prepare(&[ChannelSpec::work(STOCK.name)]).await.unwrap();
        let sink = broker.sink().await.unwrap();
        Self { broker, store: stores::store(), sink, replies }
    }

    async fn start(&self, participant: Participant) -> Running {
        participant.start(Arc::new(self.broker.clone()), self.store.clone()).await.unwrap()
    }

    async fn send(&mut self, window: &[Sending]) {
        assert!(self.sink.send(window).await.iter().all(|sent| *sent == Sent::Confirmed));
    }

    /// The next replies and events.
    async fn hears(&mut self, count: usize) -> Vec<Sending> {
        let mut heard: Vec<Delivery> = Vec::new();
        while heard.len() < count {
            heard.extend(self.replies.receive(count - heard.len()).await.unwrap());
        }
        let settled: Vec<_> = heard.iter().map(|one| (one.receipt, Settle::Done)).collect();
        self.replies.settler().settle(&settled);
        heard.into_iter().map(|one| one.message).collect()
    }

    async fn asks(&mut self, command: Sending) -> Sending {
        self.send(&[command]).await;
        self.hears(1).await.remove(0)
    }

    fn record<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let bytes = Records::of(&*self.store).get(key.as_bytes()).unwrap()?;
        Some(serde_json::from_slice(&bytes).unwrap())
    }
}

fn spec(channels: Vec<ChannelSpec>) -> SourceSpec {
    SourceSpec { channels, group: "saga".into(), positions: vec![], unsettled_max: 1_000 }
}

fn sending(name: &str, leg: Leg, attempt: u32, body: impl Serialize) -> Sending {
    let key = Uuid::new_v5(&Uuid::NAMESPACE_OID, leg.as_str().as_bytes());
    Sending {
        channel: STOCK.name.into(),
        kind: ChannelKind::Work,
        key: "7".into(),
        attributes: Attributes::new()
            .with(names::ID, format!("{leg}-{attempt}"))
            .with(names::TYPE, name)
            .with(names::SUBJECT, "7")
            .with(names::REPLY_TO, REPLIES)
            .with(names::IDEMPOTENCY_KEY, key.to_string())
            .with(names::TRACEPARENT, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
            .with(SAGA_ID, "3f0c1a9e-0000-5000-8000-000000000007")
            .with(SAGA_STEP, "reserve-stock")
            .with(SAGA_LEG, leg.as_str())
            .with(SAGA_ATTEMPT, attempt.to_string()),
        others: vec![],
        body: serde_json::to_vec(&body).unwrap().into(),
    }
}

fn reserve(sku: &str, attempt: u32) -> Sending {
    sending(Reserve::NAME, Leg::Do, attempt, Reserve { sku: sku.into() })
}

fn release(attempt: u32) -> Sending {
    sending(Release::NAME, Leg::Compensate, attempt, Release {})
}

fn of_run(run: u32, mut command: Sending) -> Sending {
    let key = command.attributes.get(names::IDEMPOTENCY_KEY).unwrap().to_owned();
    command.attributes.set(names::IDEMPOTENCY_KEY, format!("{key}/{run}"));
    command.attributes.set(SAGA_RUN, run.to_string());
    command
}

fn of_saga(saga: usize, mut command: Sending) -> Sending {
    command.attributes.set(names::IDEMPOTENCY_KEY, format!("key-{saga}"));
    command.attributes.set(SAGA_ID, format!("saga-{saga}"));
    command
}

fn says<T: Message + PartialEq + std::fmt::Debug>(reply: &Sending, expected: T) {
    assert_eq!(reply.attributes.get(names::TYPE), Some(T::NAME), "{:?}", reply.body);
    assert_eq!(serde_json::from_slice::<T>(&reply.body).unwrap(), expected);
}

fn fails(reply: &Sending, code: &str, retriable: bool, effect: FailureEffect) {
    assert_eq!(reply.attributes.get(names::TYPE), Some("Failure"));
    let failure: Failure = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(
        (failure.code.as_str(), failure.retriable, failure.effect),
        (code, retriable, effect),
        "{failure:?}"
    );
}

#[tokio::test]
async fn a_command_is_answered_to_whom_it_says_with_what_it_said() {
    let mut bench = Bench::new().await;
    let running = bench.start(inventory()).await;
    let reply = bench.asks(of_run(2, reserve("brush", 3))).await;
    says(&reply, Reserved { number: 1 });
    let asked = of_run(2, reserve("brush", 3)).attributes;
    for echoed in [
        SAGA_ID,
        SAGA_RUN,
        SAGA_STEP,
        SAGA_LEG,
        SAGA_ATTEMPT,
        names::IDEMPOTENCY_KEY,
        names::SUBJECT,
    ] {
        assert_eq!(reply.attributes.get(echoed), asked.get(echoed), "{echoed}");
    }
    let trace = reply.attributes.get(names::TRACEPARENT).unwrap();
    assert!(trace.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{trace}");
    // Nobody takes spans here, so that the reply names the one that is known to exist.
    assert_eq!(trace, asked.get(names::TRACEPARENT).unwrap());
    assert_eq!((reply.channel.as_str(), reply.kind), (REPLIES, ChannelKind::Work));
    assert_eq!(running.stop().await.unwrap().done, 1);
}

#[tokio::test]
async fn a_repeated_command_is_answered_as_before_and_takes_effect_once() {
    let mut bench = Bench::new().await;
    let running = bench.start(inventory()).await;
    bench.send(&[reserve("brush", 1), reserve("brush", 1), reserve("brush", 2)]).await;
    let replies = bench.hears(3).await;
    for reply in &replies {
        says(reply, Reserved { number: 1 });
    }
    let ids: Vec<_> = replies.iter().map(|reply| reply.attributes.get(names::ID)).collect();
    assert_eq!(ids[0], ids[1], "the same attempt is answered by the same message");
    assert_ne!(ids[0], ids[2]);
    assert_eq!(bench.record::<u64>("reserved"), Some(1));
    let counts = running.stop().await.unwrap();
    assert_eq!((counts.done, counts.repeated), (1, 2));
}

#[tokio::test]
async fn a_rejection_stays_one_and_leaves_nothing_to_undo() {
    let mut bench = Bench::new().await;
    let _running = bench.start(inventory()).await;
    says(&bench.asks(reserve("gone", 1)).await, SoldOut { sku: "gone".into() });
    says(&bench.asks(reserve("gone", 2)).await, SoldOut { sku: "gone".into() });
    says(&bench.asks(release(1)).await, Released { had: false });
    assert_eq!(bench.record::<u64>("released"), None);
}

#[tokio::test]
async fn a_compensation_undoes_what_took_effect_once() {
    let mut bench = Bench::new().await;
    let _running = bench.start(inventory()).await;
    bench.send(&[reserve("brush", 1), release(1), release(2)]).await;
    let replies = bench.hears(3).await;
    says(&replies[1], Released { had: true });
    says(&replies[2], Released { had: true });
    assert_eq!(bench.record::<u64>("released"), Some(1));
}

#[tokio::test]
async fn a_compensation_that_comes_first_wins_over_its_command() {
    let mut bench = Bench::new().await;
    let running = bench.start(inventory()).await;
    says(&bench.asks(release(1)).await, Released { had: false });
    fails(&bench.asks(reserve("brush", 1)).await, "compensated", false, FailureEffect::None);
    says(&bench.asks(release(2)).await, Released { had: false });
    assert_eq!((bench.record::<u64>("reserved"), bench.record::<u64>("released")), (None, None));
    let counts = running.stop().await.unwrap();
    assert_eq!((counts.nothing_to_undo, counts.refused, counts.done), (1, 1, 0));
}

#[tokio::test]
async fn a_compensation_of_one_run_says_nothing_about_the_next_run_of_the_same_key() {
    let mut bench = Bench::new().await;
    let _running = bench.start(inventory()).await;
    says(&bench.asks(of_run(0, release(1))).await, Released { had: false });
    says(&bench.asks(of_run(1, reserve("brush", 1))).await, Reserved { number: 1 });
    says(&bench.asks(of_run(1, release(1))).await, Released { had: true });
}

#[tokio::test]
async fn what_became_of_a_key_can_be_asked() {
    let mut bench = Bench::new().await;
    let _running = bench.start(inventory()).await;
    let key =
        |command: &Sending| command.attributes.get(names::IDEMPOTENCY_KEY).unwrap().to_owned();
    let done = of_saga(1, reserve("brush", 1));
    let (gone, bomb) = (of_saga(2, reserve("gone", 1)), of_saga(3, reserve("bomb", 1)));
    bench.send(&[done.clone(), gone.clone(), bomb.clone()]).await;
    bench.hears(3).await;
    let status = |command| super::status(&*bench.store, &key(command)).unwrap();
    assert!(matches!(status(&done), Status::Done { name, .. } if name == "Reserved"));
    assert_eq!(status(&gone), Status::NotDone);
    assert_eq!(status(&bomb), Status::Unknown);
    assert_eq!(super::status(&*bench.store, "never seen").unwrap(), Status::NotDone);
}

#[tokio::test]
async fn a_handler_that_panics_keeps_nothing_and_stops_nobody() {
    let mut bench = Bench::new().await;
    let _running = bench.start(inventory()).await;
    bench.send(&[of_saga(1, reserve("bomb", 1)), of_saga(2, reserve("brush", 1))]).await;
    let replies = bench.hears(2).await;
    fails(&replies[0], "panicked", true, FailureEffect::Unknown);
    says(&replies[1], Reserved { number: 1 });
    assert_eq!(Records::of(&*bench.store).get(b"half").unwrap(), None);
}

#[tokio::test]
async fn after_a_panic_the_compensation_is_carried_out_because_nobody_knows() {
    let mut bench = Bench::new().await;
    let _running = bench.start(inventory()).await;
    bench.send(&[reserve("bomb", 1), release(1)]).await;
    says(&bench.hears(2).await[1], Released { had: false });
    assert_eq!(bench.record::<u64>("released"), Some(1));
}

#[tokio::test]
async fn an_attempt_that_failed_without_effect_stays_failed_and_a_later_one_may_succeed() {
    let mut bench = Bench::new().await;
    let _running = bench.start(inventory()).await;
    fails(&bench.asks(reserve("broken", 1)).await, "broken", true, FailureEffect::None);
    // The same attempt delivered again, though it would succeed now: the saga may have given up on the first answer.
    fails(&bench.asks(reserve("brush", 1)).await, "broken", true, FailureEffect::None);
    assert_eq!(bench.record::<u64>("reserved"), None);
    says(&bench.asks(reserve("brush", 2)).await, Reserved { number: 1 });
}

#[tokio::test]
async fn a_handler_that_changes_more_than_a_batch_holds_is_answered_by_a_failure() {
    let mut bench = Bench::new().await;
    let _running = bench.start(inventory()).await;
    fails(&bench.asks(reserve("large", 1)).await, "impossible", false, FailureEffect::Unknown);
    assert_eq!(Records::of(&*bench.store).get(b"large").unwrap(), None);
}

#[tokio::test]
async fn what_can_not_be_understood_is_answered_without_effect() {
    let mut bench = Bench::new().await;
    let _running = bench.start(inventory()).await;
    let unknown = sending("Explode", Leg::Do, 1, Release {});
    fails(&bench.asks(unknown).await, "unknown-command", false, FailureEffect::None);
    let odd = sending(Reserve::NAME, Leg::Do, 1, [1, 2]);
    fails(&bench.asks(odd).await, "undecodable", false, FailureEffect::None);
    let mut typed = reserve("brush", 1);
    typed.attributes.set(names::CONTENT_TYPE, "text/plain");
    fails(&bench.asks(typed).await, "undecodable", false, FailureEffect::None);
}

#[tokio::test]
async fn what_can_not_be_answered_is_set_aside_with_its_reason() {
    let mut bench = Bench::new().await;
    let running = bench.start(inventory()).await;
    let mut lost = reserve("brush", 1);
    lost.attributes = Attributes::new().with(names::TYPE, Reserve::NAME);
    bench.send(&[lost, reserve("brush", 1)]).await;
    says(&bench.hears(1).await[0], Reserved { number: 1 });
    let mut dead =
        bench.broker.source(spec(vec![ChannelSpec::work("inventory.dead-letters")])).await.unwrap();
    let letter = dead.receive(1).await.unwrap().remove(0).message;
    assert_eq!(letter.attributes.get(crate::envelope::DEAD_REASON), Some("unanswerable"));
    assert_eq!(letter.attributes.get(crate::envelope::DEAD_TEXT), Some("`sagaid` is missing"));
    assert_eq!(running.stop().await.unwrap().dead, 1);
}

#[tokio::test]
async fn commands_are_carried_out_in_the_order_they_came() {
    let mut bench = Bench::new().await;
    let window: Vec<_> = (0..600).map(|saga| of_saga(saga, reserve("brush", 1))).collect();
    bench.send(&window).await;
    let _running = bench.start(inventory()).await;
    for (index, reply) in bench.hears(600).await.iter().enumerate() {
        says(reply, Reserved { number: index as u64 + 1 });
    }
}

#[tokio::test]
async fn silence_is_as_told() {
    let mut bench = Bench::new().await;
    let participant = inventory().misbehave(|asked| match asked.attempt {
        1 => Misbehaviour::SilentBefore,
        2 => Misbehaviour::SilentAfter,
        _ => Misbehaviour::None,
    });
    let running = bench.start(participant).await;
    let attempts: Vec<_> = (1..=3).map(|attempt| reserve("brush", attempt)).collect();
    bench.send(&attempts).await;
    let replies = bench.hears(1).await;
    says(&replies[0], Reserved { number: 1 });
    assert_eq!(replies[0].attributes.get(SAGA_ATTEMPT), Some("3"));
    let counts = running.stop().await.unwrap();
    assert_eq!((counts.silent, counts.done, counts.repeated), (2, 1, 1));
}

#[tokio::test]
async fn an_event_is_heard_once_and_what_is_published_meanwhile_goes_out() {
    let mut bench = Bench::new().await;
    let listener = Participant::new("reader").listens::<Noted>(|tx, event, heard| {
        let times = tx.get_as::<u64>(&event.sku).unwrap_or(0) + 1;
        tx.put_as(&event.sku, &times);
        assert_eq!(heard.subject, "7");
    });
    let listening = bench.start(listener).await;
    let _running = bench.start_on_own_store(inventory()).await;
    bench.send(&[reserve("loud", 1), reserve("loud", 1)]).await;
    let heard = bench.hears(3).await;
    let note = heard.iter().find(|one| one.kind == ChannelKind::Events).unwrap().clone();
    says(&note, Noted { sku: "loud".into() });
    bench.send(&[note.clone(), note]).await;
    bench.hears(2).await;
    while listening.counts().repeated < 2 {
        tokio::task::yield_now().await;
    }
    let counts = listening.stop().await.unwrap();
    assert_eq!((counts.heard, bench.record::<u64>("loud")), (1, Some(1)));
}

#[tokio::test]
async fn a_crash_between_batch_and_reply_is_made_up_for_when_the_command_comes_again() {
    let mut bench = Bench::new().await;
    let mute = Mute::around(&bench.broker);
    let participant = inventory();
    let running = participant.start(mute.clone(), bench.store.clone()).await.unwrap();
    bench.send(&[reserve("loud", 1)]).await;
    while !mute.was_asked.load(Ordering::Acquire) {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.record::<u64>("reserved"), Some(1), "the batch came before the reply");
    drop(running);
    while bench.broker.waiting(STOCK.name) == 0 {
        tokio::task::yield_now().await;
    }

    let running = bench.start(inventory()).await;
    let heard = bench.hears(2).await;
    assert_eq!(heard[0].attributes.get(names::TYPE), Some(Noted::NAME), "from the outbox");
    says(&heard[1], Reserved { number: 1 });
    assert_eq!(bench.record::<u64>("reserved"), Some(1));
    running.stop().await.unwrap();
    let running = bench.start(inventory()).await;
    let last = bench.asks(reserve("loud", 2)).await;
    says(&last, Reserved { number: 1 });
    running.stop().await.unwrap();
}

#[tokio::test]
async fn what_is_remembered_is_forgotten_after_its_time() {
    let mut bench = Bench::new().await;
    let clock = Arc::new(Hand::default());
    let participant = inventory().remember_for(Duration::from_secs(60)).clock(clock.clone());
    let running = bench.start(participant).await;
    bench.asks(of_saga(1, reserve("brush", 1))).await;
    clock.0.store(59_000, Ordering::Relaxed);
    says(&bench.asks(of_saga(1, reserve("brush", 2))).await, Reserved { number: 1 });
    clock.0.store(61_000, Ordering::Relaxed);
    bench.asks(of_saga(2, reserve("brush", 1))).await;
    let status = super::status(&*bench.store, "key-1").unwrap();
    assert_eq!(status, Status::NotDone);
    let counts = running.stop().await.unwrap();
    assert_eq!(counts.forgotten, 2, "the answer and the mark");
}

#[tokio::test]
async fn a_log_is_read_on_where_everything_was_answered() {
    let mut bench = Bench::new().await;
    let log = Arc::new(Log { inner: bench.broker.clone(), opened_at: Mutex::default() });
    for _ in 0..2 {
        let running = inventory().start(log.clone(), bench.store.clone()).await.unwrap();
        bench.send(&[of_saga(1, reserve("brush", 1)), of_saga(2, reserve("brush", 1))]).await;
        bench.hears(2).await;
        running.stop().await.unwrap();
    }
    let at = Position { channel: STOCK.name.into(), partition: 0, next: 2 };
    assert_eq!(*log.opened_at.lock().unwrap(), [vec![], vec![at]]);
}

#[tokio::test]
async fn a_declaration_that_makes_no_sense_is_refused_with_what_would() {
    let bench = Bench::new().await;
    let handler = |_: &mut Tx<'_>, _: Release, _: &Asked| Answer::Done(Released { had: true });
    let cases = [
        (Participant::new("a"), "neither carries out commands nor listens"),
        (inventory().on::<Release>(handler), "`Release` has two handlers"),
        (
            Participant::new("a")
                .undoes::<Release, Reserve>(handler, |_, _| Released { had: false }),
            "`Release` undoes `Reserve`, which is not carried out here",
        ),
    ];
    for (participant, expected) in cases {
        let started = participant.start(Arc::new(bench.broker.clone()), bench.store.clone()).await;
        let text = started.err().expect("refused").to_string();
        assert!(text.contains(expected), "{text}");
    }
}

impl Bench {
    async fn start_on_own_store(&self, participant: Participant) -> Running {
        participant.start(Arc::new(self.broker.clone()), stores::store()).await.unwrap()
    }
}

/// A clock moved by hand.
#[derive(Default)]
struct Hand(AtomicU64);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
}

/// A connector that never sends: whoever uses it is stuck between its batch and its replies.
struct Mute {
    inner: MemoryBroker,
    was_asked: Arc<AtomicBool>,
}

impl Mute {
    fn around(broker: &MemoryBroker) -> Arc<Self> {
        Arc::new(Self { inner: broker.clone(), was_asked: Arc::default() })
    }
}

struct MuteSink(Arc<AtomicBool>);

#[async_trait::async_trait]
impl Sink for MuteSink {
    async fn send(&mut self, _: &[Sending]) -> Vec<Sent> {
        self.0.store(true, Ordering::Release);
        std::future::pending().await
    }
    fn health(&self) -> dirigent_connectors::Health {
        dirigent_connectors::Health::new()
    }
}

#[async_trait::async_trait]
impl Connector for Mute {
    fn name(&self) -> &str {
        "mute"
    }
    fn memory(&self) -> Memory {
        Memory::Settlements
    }
    async fn prepare(&self, channels: &[ChannelSpec]) -> Result<(), ConnectorError> {
        self.inner.prepare(channels).await
    }
    async fn source(&self, spec: SourceSpec) -> Result<Box<dyn Source>, ConnectorError> {
        self.inner.source(spec).await
    }
    async fn sink(&self) -> Result<Box<dyn Sink>, ConnectorError> {
        Ok(Box::new(MuteSink(self.was_asked.clone())))
    }
    async fn owner_sink(&self, _: &str) -> Result<Box<dyn Sink>, ConnectorError> {
        self.sink().await
    }
}

/// A connector that calls itself a log, and notes from where it is to be read.
struct Log {
    inner: MemoryBroker,
    opened_at: Mutex<Vec<Vec<Position>>>,
}

#[async_trait::async_trait]
impl Connector for Log {
    fn name(&self) -> &str {
        "log"
    }
    fn memory(&self) -> Memory {
        Memory::Positions
    }
    async fn prepare(&self, channels: &[ChannelSpec]) -> Result<(), ConnectorError> {
        self.inner.prepare(channels).await
    }
    async fn source(&self, spec: SourceSpec) -> Result<Box<dyn Source>, ConnectorError> {
        self.opened_at.lock().unwrap().push(spec.positions.clone());
        self.inner.source(spec).await
    }
    async fn sink(&self) -> Result<Box<dyn Sink>, ConnectorError> {
        self.inner.sink().await
    }
    async fn owner_sink(&self, group: &str) -> Result<Box<dyn Sink>, ConnectorError> {
        self.inner.owner_sink(group).await
    }
}
