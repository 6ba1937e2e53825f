//! What is too large for journal or store: it costs its message, and never the process, which would meet it again after each restart.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

mod support;

use dirigent::{
    Orchestrator, OrchestratorBuilder,
    engine::{Engine, Handle, KeptFilter, KeptView},
    envelope,
};
use dirigent_connectors::{
    ChannelSpec, Connector,
    memory::{MemoryBroker, MemorySettings},
    names,
};
use dirigent_model::{
    definition::{Definition, DefinitionErrors, OnTimeout, saga, step, wait},
    message::{Event, Message as _},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use support::{
    Finished, Reserve, STARTS, Stranger, event,
    invoices::{DAY, Paid},
    purchase, until,
};

/// More than the journal takes as one record.
const HUGE: usize = 70 * 1024 * 1024;

/// What a small body becomes in the saga's data.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Item {
    #[serde(default)]
    colour: String,
    #[serde(default)]
    weight_in_grams: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Ordered {
    id: u64,
    #[serde(default)]
    items: Vec<Item>,
}
impl dirigent_model::message::Message for Ordered {
    const NAME: &'static str = "Ordered";
}
impl Event for Ordered {
    const ON: dirigent_model::message::Channel = STARTS;
}

/// At this payment a function says all that it was given.
const UNLUCKY: u64 = 13;

/// One step, then a wait: payments that come before the step is done are kept for it.
fn order() -> Result<Definition<Ordered>, DefinitionErrors> {
    saga("order", 1, |event: &Ordered| event.id, |event: Ordered| event)
        .then(
            step("reserve", |data: &Ordered| Reserve { id: data.id })
                .reply_within(DAY)
                .nothing_to_compensate("it is a test"),
        )
        .then(
            wait(
                "paid",
                |event: &Paid| event.id,
                |_: &mut Ordered, event| {
                    assert!(event.amount != UNLUCKY, "unlucky {}", "\u{1}".repeat(5_000_000));
                },
            )
            .within(DAY, OnTimeout::Reject),
        )
        .ends()
}

struct Shop {
    broker: MemoryBroker,
    folder: tempfile::TempDir,
    customer: Stranger,
    letters: Stranger,
}

impl Shop {
    async fn new() -> Self {
        let settings = MemorySettings { message_bytes_max: 2 * HUGE, ..MemorySettings::default() };
        let broker = MemoryBroker::with_settings(settings);
        let channels = ["starts", "ends"].map(ChannelSpec::events);
        broker.prepare(&channels).await.unwrap();
        broker.prepare(&[ChannelSpec::work("shop.dead-letters")]).await.unwrap();
        let customer = Stranger::listening(&broker, ChannelSpec::events("ends"), "customer").await;
        let letters = ChannelSpec::work("shop.dead-letters");
        let letters = Stranger::listening(&broker, letters, "clerk").await;
        // Its group, so that what comes before its start is kept for it.
        drop(Stranger::listening(&broker, ChannelSpec::events("starts"), "shop").await);
        Self { broker, folder: tempfile::tempdir().unwrap(), customer, letters }
    }

    fn builder(&self) -> OrchestratorBuilder {
        Orchestrator::builder("shop")
            .saga(order())
            .saga(purchase(1))
            .connector(Arc::new(self.broker.clone()))
            .data(self.folder.path())
            .shards(1)
    }

    async fn orders(&mut self, id: u64, body: String) {
        let name = format!("ordered-{id}");
        let body = body.into_bytes();
        self.customer.sends(event(STARTS.name, Ordered::NAME, &name, &id.to_string(), body)).await;
    }

    async fn pays(&mut self, id: u64, amount: u64, padding: usize) {
        let pad = " ".repeat(padding);
        let body = format!(r#"{{"id":{id},"amount":{amount}{pad}}}"#).into_bytes();
        let name = format!("paid-{id}-{amount}");
        self.customer.sends(event(STARTS.name, Paid::NAME, &name, &id.to_string(), body)).await;
    }

    /// Whatever came before it, another saga begins and ends; a stop writes its checkpoint, and a restart reads what is there.
    async fn goes_on(&mut self, engine: Engine) -> Engine {
        let work = Stranger::listening(&self.broker, ChannelSpec::work("work"), "worker").await;
        let worker = tokio::spawn(work.answers());
        self.customer.begins(1_000, 5).await;
        let end = self.customer.next().await.message;
        assert_eq!(end.attributes.get(names::TYPE), Some(Finished::NAME));
        worker.abort();
        engine.stop().await.unwrap();
        self.builder().start().await.unwrap()
    }
}

fn quarantined(handle: &Handle) -> Vec<KeptView> {
    handle.reader().kept(&KeptFilter { quarantined: true, ..KeptFilter::default() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_larger_than_a_record_of_the_journal_becomes_a_dead_letter_that_tells_its_size() {
    let mut shop = Shop::new().await;
    let engine = shop.builder().start().await.unwrap();
    let huge = event(STARTS.name, Ordered::NAME, "huge", "1", vec![b' '; HUGE]);
    shop.customer.sends(huge).await;
    let letter = shop.letters.next().await.message;
    let says = |name| letter.attributes.get(name);
    assert_eq!((says(envelope::DEAD_REASON), letter.body.len()), (Some("too-large"), 0));
    let text = says(envelope::DEAD_TEXT).unwrap();
    assert!(text.contains(&format!("body of {HUGE} bytes, CRC-32C ")), "{text}");
    let engine = shop.goes_on(engine).await;
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_whose_data_grows_beyond_the_bound_is_quarantined_and_the_process_goes_on() {
    let mut shop = Shop::new().await;
    let engine = shop.builder().start().await.unwrap();
    let items = vec!["{}"; 300_000].join(",");
    shop.orders(1, format!(r#"{{"id":1,"items":[{items}]}}"#)).await;
    let handle = engine.handle();
    until(|| quarantined(&handle).len() == 1).await;
    let found = quarantined(&handle).swap_remove(0);
    assert_eq!((found.reason.as_str(), found.blocks), ("instance-too-large", true));
    assert!(found.text.contains("the bound is 1048576"), "{}", found.text);
    assert!(handle.show(handle.id("order", "1")).unwrap().is_none());
    drop(handle);
    let engine = shop.goes_on(engine).await;
    assert_eq!(quarantined(&engine.handle()).len(), 1);
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_events_that_come_at_once_for_one_instance_fill_it_up_to_its_bound_and_no_further() {
    let mut shop = Shop::new().await;
    // All of them are there before the first is read.
    shop.orders(1, r#"{"id":1}"#.into()).await;
    for amount in 1..=5 {
        shop.pays(1, amount, 900_000).await;
    }
    let engine = shop.builder().start().await.unwrap();
    let handle = engine.handle();
    until(|| handle.snapshot().inputs.consumed() == 6).await;
    let found = quarantined(&handle);
    let reasons: Vec<&str> = found.iter().map(|kept| kept.reason.as_str()).collect();
    assert_eq!(reasons, ["instance-too-large"]);
    let inputs = handle.snapshot().inputs;
    assert_eq!((inputs.applied, inputs.quarantined, inputs.parked), (2, 1, 3));
    drop(handle);
    let engine = shop.goes_on(engine).await;
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_panics_with_megabytes_of_text_costs_its_message_and_not_the_process() {
    let mut shop = Shop::new().await;
    let engine = shop.builder().start().await.unwrap();
    let handle = engine.handle();
    shop.orders(1, r#"{"id":1}"#.into()).await;
    let mut work = Stranger::listening(&shop.broker, ChannelSpec::work("work"), "worker").await;
    let asked = work.next().await.message;
    work.sends(support::reply_to(&asked)).await;
    drop(work);
    shop.pays(1, UNLUCKY, 0).await;
    until(|| quarantined(&handle).len() == 1).await;
    let found = quarantined(&handle).swap_remove(0);
    assert_eq!((found.reason.as_str(), found.blocks), ("handler-panicked", true));
    assert!(found.text.contains("panicked: unlucky") && found.text.len() < 1_000);
    drop(handle);
    let engine = shop.goes_on(engine).await;
    engine.stop().await.unwrap();
}
