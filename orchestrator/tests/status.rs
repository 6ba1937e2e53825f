//! Doubt that is asked about, from end to end: the engine, the memory broker, and a service built with the kit, whose records
//! are the ledger of what took effect.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

mod support;

use dirigent::{
    Orchestrator, OrchestratorBuilder,
    participant::{Answer, Asked, Misbehaviour, Participant, Records, Running, Tx},
    store::MemoryStore,
};
use dirigent_connectors::{ChannelSpec, Connector, Message, Sent, memory::MemoryBroker, names};
use dirigent_model::{
    definition::{AskStatus, Definition, DefinitionErrors, saga, step},
    instance::Leg,
    message::Message as _,
    retry::Retry,
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use support::{
    Begun, Broken, Finished, Paid, Pay, Release, Released, Reserve, Reserved, Stranger, event,
    stubborn::Stubborn, until,
};

/// Reserves, and pays as the pivot. Neither is asked for twice, so that a reply too late is in doubt at once.
fn doubtful() -> Result<Definition<u64>, DefinitionErrors> {
    let asked = || AskStatus::within(Duration::from_secs(20)).retry(Retry::never());
    saga("doubtful", 1, |event: &Begun| event.id, |event: Begun| event.id)
        .then(
            step("reserve", |id: &u64| Reserve { id: *id })
                .reply_within(Duration::from_millis(200))
                .retry(Retry::never())
                .status_by(asked())
                .compensated_by(|_, _| Release { ticket: None }),
        )
        .then(
            step("pay", |id: &u64| Pay { amount: *id })
                .on_rejection(|_, _| ())
                .reply_within(Duration::from_millis(200))
                .retry(Retry::never())
                .status_by(asked())
                .pivot(),
        )
        .ends_with(|id| Finished { id: *id }, |id| Broken { id: *id, why: String::new() })
}

fn orchestrator(connector: impl Connector + 'static) -> OrchestratorBuilder {
    Orchestrator::builder("shop").saga(doubtful()).connector(Arc::new(connector))
}

/// Counts an effect of an order.
fn note(tx: &mut Tx<'_>, what: &str, asked: &Asked) {
    let key = format!("{what}/{}", asked.subject);
    let times = tx.get_as::<u64>(&key).unwrap_or(0) + 1;
    tx.put_as(&key, &times);
}

fn service() -> Participant {
    Participant::new("service")
        .on::<Reserve>(|tx, _, asked| {
            note(tx, "reserved", asked);
            Answer::Done(Reserved { ticket: 7 })
        })
        .undoes::<Release, Reserve>(
            |tx, _, asked| {
                note(tx, "released", asked);
                Answer::Done(Released {})
            },
            |_, _| Released {},
        )
        .on::<Pay>(|tx, _, asked| {
            note(tx, "paid", asked);
            Answer::Done(Paid {})
        })
}

/// A broker, the service on it, and what took effect there.
struct Bench {
    broker: MemoryBroker,
    store: Arc<MemoryStore>,
    customer: Stranger,
}

impl Bench {
    async fn new() -> Self {
        let broker = MemoryBroker::new();
        let channels = [ChannelSpec::events("starts"), ChannelSpec::events("ends")];
        broker.prepare(&channels).await.unwrap();
        let customer = Stranger::listening(&broker, ChannelSpec::events("ends"), "customer").await;
        Self { broker, store: Arc::new(MemoryStore::new()), customer }
    }

    async fn start(&self, service: Participant) -> Running {
        service.start(Arc::new(self.broker.clone()), self.store.clone()).await.unwrap()
    }

    async fn begins(&mut self, id: u64) {
        self.customer.begins(id, 1).await;
    }

    /// The event that tells of the next end.
    async fn end(&mut self) -> String {
        let delivery = self.customer.next().await;
        delivery.message.attributes.get(names::TYPE).unwrap().to_owned()
    }

    /// How often an order was reserved, released and paid for.
    fn ledger(&self, id: u64) -> [u64; 3] {
        ["reserved", "released", "paid"].map(|what| {
            let key = format!("{what}/{id}");
            let record = Records::of(&*self.store).get(key.as_bytes()).unwrap();
            record.map_or(0, |bytes| serde_json::from_slice(&bytes).unwrap())
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_done_without_a_word_goes_forward_instead_of_being_compensated() {
    let mut bench = Bench::new().await;
    let engine = orchestrator(bench.broker.clone()).start().await.unwrap();
    let silent = service().misbehave(|asked| match asked.leg {
        Leg::Do => Misbehaviour::SilentAfter,
        Leg::Compensate | Leg::Status => Misbehaviour::None,
    });
    let running = bench.start(silent).await;
    bench.begins(1).await;
    assert_eq!(bench.end().await, Finished::NAME);
    assert_eq!(bench.ledger(1), [1, 0, 1]);
    let counts = running.stop().await.unwrap();
    assert_eq!((counts.silent, counts.questions, counts.sealed), (2, 2, 0));
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_arrives_after_not_done_is_refused_and_leaves_the_ledger_empty() {
    let mut bench = Bench::new().await;
    let late = Late::around(&bench.broker, Reserve::NAME);
    let engine = orchestrator(late.connector()).start().await.unwrap();
    let running = bench.start(service()).await;
    bench.begins(1).await;
    assert_eq!(bench.end().await, Broken::NAME);
    let shown = engine.handle().show(engine.handle().id("doubtful", "1")).unwrap().unwrap();
    let reserve = shown.nodes.iter().find(|node| node.name == "reserve").unwrap();
    assert_eq!((shown.status.as_str(), reserve.state.as_str()), ("compensated", "not done"));
    late.arrives().await;
    until(|| running.counts().refused == 1).await;
    assert_eq!(bench.ledger(1), [0, 0, 0]);
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pivot_that_was_not_done_turns_the_saga_back_and_is_refused_when_it_arrives() {
    let mut bench = Bench::new().await;
    let late = Late::around(&bench.broker, Pay::NAME);
    let engine = orchestrator(late.connector()).start().await.unwrap();
    let running = bench.start(service()).await;
    bench.begins(1).await;
    assert_eq!(bench.end().await, Broken::NAME);
    late.arrives().await;
    until(|| running.counts().refused == 1).await;
    assert_eq!(bench.ledger(1), [1, 1, 0]);
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_survives_a_restart_and_its_answer_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = Bench::new().await;
    let engine = orchestrator(bench.broker.clone()).data(folder.path()).start().await.unwrap();
    bench.begins(1).await;
    let handle = engine.handle();
    until(|| {
        let shown = handle.show(handle.id("doubtful", "1")).unwrap();
        let is_asked = |state: &str| state.starts_with("in doubt, status asked (attempt 1");
        shown.is_some_and(|shown| shown.nodes.iter().any(|node| is_asked(&node.state)))
    })
    .await;
    drop(handle);
    engine.stop().await.unwrap();
    let engine = orchestrator(bench.broker.clone()).data(folder.path()).start().await.unwrap();
    // The command and the question have waited in the channel: both are answered, and one answer is too late.
    let _running = bench.start(service()).await;
    assert_eq!(bench.end().await, Finished::NAME);
    assert_eq!(bench.ledger(1), [1, 0, 1]);
    let handle = engine.handle();
    until(|| handle.snapshot().inputs.duplicate >= 1).await;
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_participant_without_the_duty_sets_the_question_aside_or_fails_it_and_the_step_is_in_doubt()
 {
    let mut bench = Bench::new().await;
    let engine = orchestrator(bench.broker.clone()).start().await.unwrap();
    let mut work = Stranger::listening(&bench.broker, ChannelSpec::work("work"), "worker").await;
    bench.begins(1).await;
    assert_eq!(told(&work.next().await.message), Reserve::NAME);
    let question = work.next().await.message;
    assert_eq!(told(&question), "dirigent.StatusQuery");
    let failure = br#"{"code":"unknown-command","message":"?","retriable":false,"effect":"none"}"#;
    work.sends(support::reply(&question, "Failure", failure.to_vec())).await;
    let release = work.next().await.message;
    assert_eq!(told(&release), Release::NAME);
    work.sends(support::reply(&release, Released::NAME, b"{}".to_vec())).await;
    assert_eq!(bench.end().await, Broken::NAME);
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_about_a_status_that_no_step_can_have_asked_for_is_set_aside() {
    let mut bench = Bench::new().await;
    let plain = Orchestrator::builder("shop").saga(support::purchase(1));
    let engine = plain.connector(Arc::new(bench.broker.clone())).start().await.unwrap();
    let dead = ChannelSpec::work("shop.dead-letters");
    let mut letters = Stranger::listening(&bench.broker, dead, "clerk").await;
    let mut work = Stranger::listening(&bench.broker, ChannelSpec::work("work"), "worker").await;
    bench.begins(1).await;
    let mut command = work.next().await.message;
    command.attributes.set(dirigent::envelope::SAGA_LEG, "status");
    work.sends(support::reply(&command, "dirigent.StatusNotDone", b"{}".to_vec())).await;
    let letter = letters.next().await.message;
    assert_eq!(letter.attributes.get(dirigent::envelope::DEAD_REASON), Some("unknown-step"));
    work.sends(event("starts", Begun::NAME, "other", "2", br#"{"id":2,"amount":5}"#.to_vec()))
        .await;
    assert_eq!(told(&work.next().await.message), Reserve::NAME);
    engine.stop().await.unwrap();
}

fn told(message: &Message) -> &str {
    message.attributes.get(names::TYPE).unwrap()
}

/// Commands of one name that are kept until they are let go.
struct Late {
    broker: MemoryBroker,
    name: &'static str,
    kept: Arc<Mutex<Vec<Message>>>,
}

impl Late {
    fn around(broker: &MemoryBroker, name: &'static str) -> Self {
        Self { broker: broker.clone(), name, kept: Arc::default() }
    }

    /// The broker that keeps them.
    fn connector(&self) -> Stubborn {
        let (name, kept) = (self.name, Arc::clone(&self.kept));
        Stubborn::around(&self.broker, move |message| {
            (told(message) == name).then(|| {
                kept.lock().unwrap().push(message.clone());
                Sent::Confirmed
            })
        })
    }

    /// What was kept arrives after all.
    async fn arrives(&self) {
        let kept = std::mem::take(&mut *self.kept.lock().unwrap());
        assert!(!kept.is_empty(), "nothing was kept");
        let sent = self.broker.sink().await.unwrap().send(&kept).await;
        assert!(sent.iter().all(|sent| *sent == Sent::Confirmed));
    }
}
