//! The time of a command counts only while its reply could have been heard, that of a wait only while its event could: neither a
//! broker that is away nor a restart uses up attempts, or ends a wait. On the memory broker, with a source that can be made deaf; time is moved by hand.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

mod support;

use async_trait::async_trait;
use dirigent::{
    Orchestrator, OrchestratorBuilder,
    engine::{Engine, KeptFilter, PARKED_FOR, Snapshot},
};
use dirigent_connectors::{
    ChannelSpec, Connector, ConnectorError, Delivery, Health, Memory, Message, Settler, Sink,
    Source, SourceSpec, health::Flow, memory::MemoryBroker, names,
};
use dirigent_model::{
    definition::{Definition, DefinitionErrors, OnTimeout, pause, saga, step, wait},
    retry::Retry,
};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use support::{
    Begun, Reserve, STARTS, Stranger,
    clock::ByHand,
    invoices::{Paid, payment},
    reply_to,
};

/// The time for a reply; three attempts have it.
const WITHIN: Duration = Duration::from_secs(10);

/// How long what is to happen may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The memory broker, with sources that hand out nothing while their health says that nothing flows.
struct Reachable {
    broker: MemoryBroker,
    health: Health,
    /// How long opening takes, by which clock.
    opens_in: (Duration, Arc<ByHand>),
}

#[async_trait]
impl Connector for Reachable {
    fn name(&self) -> &str {
        self.broker.name()
    }

    fn memory(&self) -> Memory {
        self.broker.memory()
    }

    async fn prepare(&self, channels: &[ChannelSpec]) -> Result<(), ConnectorError> {
        self.broker.prepare(channels).await
    }

    async fn source(&self, spec: SourceSpec) -> Result<Box<dyn Source>, ConnectorError> {
        let (opens_in, clock) = &self.opens_in;
        clock.passes(*opens_in);
        let (inner, health) = (self.broker.source(spec).await?, self.health.clone());
        Ok(Box::new(Listening { inner, health }))
    }

    async fn sink(&self) -> Result<Box<dyn Sink>, ConnectorError> {
        self.broker.sink().await
    }

    async fn owner_sink(&self, group: &str) -> Result<Box<dyn Sink>, ConnectorError> {
        self.broker.owner_sink(group).await
    }
}

struct Listening {
    inner: Box<dyn Source>,
    health: Health,
}

#[async_trait]
impl Source for Listening {
    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>, ConnectorError> {
        self.health.until(|_| self.health.flow() != Flow::Nothing).await;
        self.inner.receive(max).await
    }

    fn settler(&self) -> Arc<dyn Settler> {
        self.inner.settler()
    }

    fn health(&self) -> Health {
        self.health.clone()
    }
}

/// One step that is asked three times.
fn errand() -> Result<Definition<u64>, DefinitionErrors> {
    saga("errand", 1, |event: &Begun| event.id, |event: Begun| event.id)
        .then(
            step("reserve", |id: &u64| Reserve { id: *id })
                .reply_within(WITHIN)
                .retry(Retry::exponential(3, Duration::from_millis(200), Duration::from_secs(1)))
                .nothing_to_compensate("it is a test"),
        )
        .ends()
}

/// One wait that has as long, and turns the saga back when nothing comes.
fn invoice() -> Result<Definition<u64>, DefinitionErrors> {
    saga("invoice", 1, |event: &Begun| event.id, |event: Begun| event.id)
        .then(wait("paid", |event: &Paid| event.id, |_, _| {}).within(WITHIN, OnTimeout::Reject))
        .ends()
}

/// An engine that works on one saga, and the one whom it asks.
struct Stage {
    saga: fn(OrchestratorBuilder) -> OrchestratorBuilder,
    clock: Arc<ByHand>,
    broker: MemoryBroker,
    health: Health,
    folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        Self::of(|builder| builder.saga(errand()))
    }

    fn of(saga: fn(OrchestratorBuilder) -> OrchestratorBuilder) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (broker, health) = (MemoryBroker::new(), Health::new());
        Self { saga, clock: ByHand::new(), broker, health, folder }
    }

    async fn starts(&self) -> Engine {
        self.starts_with(Duration::ZERO).await
    }

    /// Starts with a source that takes so long to open.
    async fn starts_with(&self, opens_in: Duration) -> Engine {
        let (broker, health) = (self.broker.clone(), self.health.clone());
        let opens_in = (opens_in, Arc::clone(&self.clock));
        let connector = Reachable { broker, health, opens_in };
        let folder: &Path = self.folder.path();
        (self.saga)(Orchestrator::builder("shop"))
            .connector(Arc::new(connector))
            .clock(Arc::clone(&self.clock) as _)
            .data(folder)
            .start()
            .await
            .unwrap()
    }

    async fn asked(&self) -> Stranger {
        let work = ChannelSpec::work("work");
        self.broker.prepare(std::slice::from_ref(&work)).await.unwrap();
        let mut asked = Stranger::listening(&self.broker, work, "asked").await;
        asked.begins(7, 1).await;
        asked
    }

    /// A minute in steps, with time for the shards to look at what is due.
    async fn a_minute_passes(&self) {
        self.time_passes(Duration::from_secs(60)).await;
    }

    /// So much time, in twelve steps.
    async fn time_passes(&self, span: Duration) {
        for _ in 0..12 {
            self.clock.passes(span / 12);
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }

    /// One of its channels is not heard from now on, and the others are.
    fn loses(&self, channel: &str) {
        self.health.ails(vec![channel.to_owned()], "it does not answer");
    }

    /// The next command, time going on meanwhile.
    async fn next_of(&self, asked: &mut Stranger) -> Message {
        let next = asked.next();
        tokio::pin!(next);
        loop {
            tokio::select! {
                delivery = &mut next => return delivery.message,
                () = tokio::time::sleep(Duration::from_millis(100)) => self.clock.passes(Duration::from_secs(1)),
            }
        }
    }
}

async fn completes(engine: &Engine) {
    comes_to(engine, |snapshot| snapshot.completed == 1).await;
}

async fn comes_to(engine: &Engine, is_so: fn(&Snapshot) -> bool) {
    let begun = Instant::now();
    while !is_so(&engine.handle().snapshot()) {
        assert!(begun.elapsed() < PATIENCE, "{:?}", engine.handle().snapshot());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_its_broker_is_away_no_command_runs_out_of_time_and_the_reply_of_then_counts() {
    let stage = Stage::new();
    let engine = stage.starts().await;
    let mut asked = stage.asked().await;
    let command = asked.next().await.message;
    stage.health.away("it was stopped");
    stage.a_minute_passes().await;
    asked.sends(reply_to(&command)).await;
    stage.a_minute_passes().await;
    stage.health.ready();
    completes(&engine).await;
    let more = tokio::time::timeout(Duration::from_millis(200), asked.source.receive(1)).await;
    assert!(more.is_err(), "asked once: {more:?}");
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_its_broker_came_back_a_command_has_its_whole_time_and_is_then_asked_again() {
    let stage = Stage::new();
    let engine = stage.starts().await;
    let mut asked = stage.asked().await;
    asked.next().await;
    stage.health.away("it was stopped");
    stage.a_minute_passes().await;
    stage.health.ready();
    let second = stage.next_of(&mut asked).await;
    let attempt = second.attributes.get(dirigent::envelope::SAGA_ATTEMPT);
    assert_eq!(attempt, Some("2"), "{:?}", second.attributes.get(names::ID));
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_no_process_ran_no_command_ran_out_of_time() {
    let stage = Stage::new();
    let engine = stage.starts().await;
    let mut asked = stage.asked().await;
    let command = asked.next().await.message;
    engine.stop().await.unwrap();
    stage.clock.passes(Duration::from_secs(3_600));
    let engine = stage.starts().await;
    // Less than the limit, and every timer that is due has its turn.
    stage.clock.passes(WITHIN / 2);
    let more = tokio::time::timeout(Duration::from_millis(700), asked.source.receive(1)).await;
    assert!(more.is_err(), "asked once: {more:?}");
    asked.sends(reply_to(&command)).await;
    completes(&engine).await;
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_source_opens_no_command_runs_out_of_time() {
    let stage = Stage::new();
    let engine = stage.starts().await;
    let mut asked = stage.asked().await;
    let command = asked.next().await.message;
    // Most of the limit passes while somebody listens, and the rest of it while the next one is about to.
    stage.clock.passes(WITHIN * 2 / 3);
    engine.stop().await.unwrap();
    let engine = stage.starts_with(WITHIN).await;
    let more = tokio::time::timeout(Duration::from_millis(700), asked.source.receive(1)).await;
    assert!(more.is_err(), "asked once: {more:?}");
    asked.sends(reply_to(&command)).await;
    completes(&engine).await;
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_goes_on_while_its_broker_is_away_and_takes_the_event_that_is_sent_after_it_is_back()
{
    let stage = Stage::of(|builder| builder.saga(invoice()));
    let engine = stage.starts().await;
    let mut payer = stage.asked().await;
    comes_to(&engine, |snapshot| snapshot.in_flight == 1).await;
    stage.health.away("it was stopped");
    stage.a_minute_passes().await;
    assert_eq!(engine.handle().snapshot().in_flight, 1, "away longer than it waits");
    stage.health.ready();
    payer.sends(payment(7, 1)).await;
    completes(&engine).await;
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_ends_once_it_had_its_time_though_its_broker_was_away_and_its_process_not_there() {
    let stage = Stage::of(|builder| builder.saga(invoice()));
    let engine = stage.starts().await;
    stage.asked().await;
    comes_to(&engine, |snapshot| snapshot.in_flight == 1).await;
    stage.health.away("it was stopped");
    stage.a_minute_passes().await;
    engine.stop().await.unwrap();
    stage.clock.passes(Duration::from_secs(3_600));
    stage.health.ready();
    let engine = stage.starts().await;
    assert_eq!(engine.handle().snapshot().in_flight, 1);
    let begun = Instant::now();
    while engine.handle().snapshot().compensated == 0 {
        assert!(begun.elapsed() < PATIENCE, "{:?}", engine.handle().snapshot());
        tokio::time::sleep(Duration::from_millis(100)).await;
        stage.clock.passes(Duration::from_secs(1));
    }
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_no_process_ran_a_wait_did_not_end_and_takes_the_event_that_came_meanwhile() {
    let stage = Stage::of(|builder| builder.saga(invoice()));
    let engine = stage.starts().await;
    let mut payer = stage.asked().await;
    comes_to(&engine, |snapshot| snapshot.in_flight == 1).await;
    engine.stop().await.unwrap();
    stage.clock.passes(Duration::from_secs(3_600));
    stage.health.away("it is not there yet");
    let engine = stage.starts().await;
    stage.a_minute_passes().await;
    payer.sends(payment(7, 1)).await;
    stage.health.ready();
    completes(&engine).await;
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sagas_deadline_and_its_pauses_go_on_while_its_broker_is_away() {
    let stage = Stage::of(|builder| {
        let late = saga("late", 1, |event: &Begun| event.id, |event: Begun| event.id)
            .deadline(WITHIN * 2)
            .then(
                wait("paid", |event: &Paid| event.id, |_, _| {})
                    .within(WITHIN * 9, OnTimeout::Reject),
            );
        let rest = saga("rest", 1, |event: &Begun| event.id, |event: Begun| event.id)
            .then(pause("rest", WITHIN));
        builder.saga(late.ends()).saga(rest.ends())
    });
    let engine = stage.starts().await;
    stage.asked().await;
    comes_to(&engine, |snapshot| snapshot.in_flight == 2).await;
    stage.health.away("it was stopped");
    stage.a_minute_passes().await;
    comes_to(&engine, |snapshot| snapshot.completed == 1 && snapshot.compensated == 1).await;
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_replies_alone_are_not_heard_commands_do_not_run_out_of_time_and_waits_do() {
    let stage = Stage::of(|builder| builder.saga(errand()).saga(invoice()));
    let engine = stage.starts().await;
    let mut asked = stage.asked().await;
    let command = asked.next().await.message;
    comes_to(&engine, |snapshot| snapshot.in_flight == 2).await;
    stage.loses("shop.replies");
    stage.a_minute_passes().await;
    comes_to(&engine, |snapshot| snapshot.compensated == 1).await;
    assert_eq!(engine.handle().snapshot().in_flight, 1);
    asked.sends(reply_to(&command)).await;
    stage.health.ready();
    completes(&engine).await;
    let more = tokio::time::timeout(Duration::from_millis(200), asked.source.receive(1)).await;
    assert!(more.is_err(), "asked once: {more:?}");
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_events_alone_are_not_heard_waits_go_on_and_commands_are_asked_again_in_time() {
    let stage = Stage::of(|builder| builder.saga(errand()).saga(invoice()));
    let engine = stage.starts().await;
    let mut asked = stage.asked().await;
    asked.next().await;
    comes_to(&engine, |snapshot| snapshot.in_flight == 2).await;
    stage.loses(STARTS.name);
    let second = stage.next_of(&mut asked).await;
    assert_eq!(second.attributes.get(dirigent::envelope::SAGA_ATTEMPT), Some("2"));
    asked.sends(reply_to(&second)).await;
    completes(&engine).await;
    stage.a_minute_passes().await;
    assert_eq!(engine.handle().snapshot().in_flight, 1, "not heard for longer than it waits");
    stage.health.ready();
    asked.sends(payment(7, 1)).await;
    comes_to(&engine, |snapshot| snapshot.completed == 2).await;
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_stays_parked_while_the_start_of_its_saga_could_not_be_heard_and_then_for_the_rest_of_its_time()
 {
    let stage = Stage::of(|builder| builder.saga(invoice()));
    let engine = stage.starts().await;
    let work = ChannelSpec::work("work");
    let mut payer = Stranger::listening(&stage.broker, work, "payer").await;
    let parked = |engine: &Engine, quarantined| {
        engine.handle().reader().kept(&KeptFilter { quarantined, ..KeptFilter::default() }).len()
    };
    for id in [7, 8] {
        payer.sends(payment(id, 1)).await;
    }
    comes_to(&engine, |snapshot| snapshot.inputs.parked == 2).await;
    stage.loses(STARTS.name);
    stage.time_passes(PARKED_FOR * 2).await;
    assert_eq!((parked(&engine, false), parked(&engine, true)), (2, 0));
    // The next process knows how long nobody listened.
    engine.stop().await.unwrap();
    let engine = stage.starts().await;
    stage.time_passes(PARKED_FOR * 2).await;
    assert_eq!((parked(&engine, false), parked(&engine, true)), (2, 0));
    stage.health.ready();
    payer.begins(7, 1).await;
    completes(&engine).await;
    assert_eq!((parked(&engine, false), parked(&engine, true)), (1, 0));
    let begun = Instant::now();
    while parked(&engine, true) == 0 {
        assert!(begun.elapsed() < PATIENCE, "{:?}", engine.handle().snapshot());
        tokio::time::sleep(Duration::from_millis(100)).await;
        stage.clock.passes(PARKED_FOR / 10);
    }
    engine.stop().await.unwrap();
}
