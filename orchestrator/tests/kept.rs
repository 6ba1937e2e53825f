//! What is kept for an instance: events that came too soon, and messages that its saga could not take.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

mod support;

use dirigent::{
    Orchestrator, OrchestratorBuilder, Publisher,
    engine::{
        Clock, Decided, Decision, Engine, Handle, HandleError, InstanceView, KeptFilter, KeptView,
        ListFilter, OperatorError, Reader, WantsPerson, open_at_rest,
    },
    envelope,
    registry::Registry,
};
use dirigent_connectors::{ChannelSpec, Connector, memory::MemoryBroker, names};
use dirigent_model::{message::Message as _, time::Timestamp};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use support::{
    Begun, Broken, Finished, STARTS, Stranger, event,
    invoices::{DAY, MENDED, Paid, UNLUCKY, invoice, invoice_again, other, payment},
    start_event, until,
};

#[derive(Clone, Default)]
struct Hand(Arc<AtomicU64>);

impl Hand {
    fn moves(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp(1_800_000_000_000 + self.0.load(Ordering::SeqCst))
    }
}

struct Shop {
    broker: MemoryBroker,
    folder: tempfile::TempDir,
    clock: Hand,
    customer: Stranger,
}

impl Shop {
    async fn new() -> Self {
        let broker = MemoryBroker::new();
        let channels = [ChannelSpec::events("starts"), ChannelSpec::events("ends")];
        broker.prepare(&channels).await.unwrap();
        let customer = Stranger::listening(&broker, ChannelSpec::events("ends"), "customer").await;
        drop(Stranger::listening(&broker, ChannelSpec::events("starts"), "shop").await);
        let folder = tempfile::tempdir().unwrap();
        Self { broker, folder, clock: Hand::default(), customer }
    }

    fn builder(&self) -> OrchestratorBuilder {
        Orchestrator::builder("shop")
            .saga(invoice("invoice"))
            .connector(Arc::new(self.broker.clone()))
            .clock(Arc::new(self.clock.clone()))
            .data(self.folder.path())
            .shards(2)
    }

    async fn opens(&self) -> Engine {
        self.builder().start().await.unwrap()
    }

    async fn begins(&mut self, id: u64) {
        self.customer.begins(id, 1).await;
    }

    /// A payment, as the `nth` message of its kind.
    async fn pays(&mut self, id: u64, amount: u64) {
        self.customer.sends(payment(id, amount)).await;
    }

    async fn finishes(&mut self) -> String {
        let message = self.customer.next().await.message;
        assert_eq!(message.attributes.get(names::TYPE), Some(Finished::NAME));
        message.key
    }
}

fn parked(handle: &Handle) -> Vec<KeptView> {
    handle.reader().kept(&KeptFilter::default())
}

fn quarantined(handle: &Handle) -> Vec<KeptView> {
    handle.reader().kept(&KeptFilter { quarantined: true, ..KeptFilter::default() })
}

/// Keys of the instances that want a person, each with why.
fn blocked_ones(reader: &Reader) -> Vec<(String, String)> {
    let filter = ListFilter { status: Some("blocked".into()), ..ListFilter::default() };
    let told = |view: InstanceView| (view.key.to_string(), view.incidents.join("; "));
    reader.list(&filter).unwrap().into_iter().map(told).collect()
}

async fn decides(handle: &Handle, number: u64, decision: Decision) -> Result<Decided, HandleError> {
    let handle = handle.clone();
    let work = move || handle.decide(number, decision, "ann", "it has to be");
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn paid(handle: &Handle, id: u64) -> serde_json::Value {
    let shown = handle.show(handle.id("invoice", &id.to_string())).unwrap().unwrap();
    shown.data["paid"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_before_its_instance_is_parked_and_offered_in_order_when_that_begins() {
    let mut shop = Shop::new().await;
    let engine = shop.opens().await;
    for amount in [7, 8] {
        shop.pays(1, amount).await;
    }
    let handle = engine.handle();
    until(|| parked(&handle).len() == 2).await;
    assert_eq!(parked(&handle)[0].reason, "no-instance-yet");
    until(|| handle.snapshot().inputs.parked == 2).await;
    shop.begins(1).await;
    assert_eq!(shop.finishes().await, "1");
    until(|| parked(&handle).is_empty()).await;
    assert_eq!(paid(&handle, 1), serde_json::json!([7, 8]));
    engine.stop().await.unwrap();
    let inputs = handle.snapshot().inputs;
    assert_eq!((inputs.applied, inputs.parked, inputs.consumed()), (3, 0, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_one_number_that_services_publish_from_their_tables_are_taken_once_each() {
    let mut shop = Shop::new().await;
    let engine = shop.opens().await;
    let broker = || Arc::new(shop.broker.clone());
    let mut web_shop = Publisher::connect(broker(), "web-shop").await.unwrap();
    let mut billing = Publisher::connect(broker(), "billing").await.unwrap();
    for _ in 0..2 {
        web_shop.publish_as("17", 63_u64, &Begun { id: 63, amount: 1 }).await.unwrap();
    }
    for _ in 0..2 {
        web_shop.publish_as("17", 63_u64, &Paid { id: 63, amount: 7 }).await.unwrap();
    }
    billing.publish_as("17", 63_u64, &Paid { id: 63, amount: 8 }).await.unwrap();
    assert_eq!(shop.finishes().await, "63");
    let handle = engine.handle();
    until(|| handle.snapshot().inputs.consumed() == 5).await;
    assert_eq!(paid(&handle, 63), serde_json::json!([7, 8]));
    engine.stop().await.unwrap();
    let inputs = handle.snapshot().inputs;
    assert_eq!((inputs.applied, inputs.duplicate), (3, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_parked_survives_restarts_and_still_meets_its_instance() {
    let mut shop = Shop::new().await;
    let engine = shop.opens().await;
    shop.pays(1, 7).await;
    let handle = engine.handle();
    until(|| parked(&handle).len() == 1).await;
    drop(handle);
    engine.stop().await.unwrap();
    let engine = shop.opens().await;
    let handle = engine.handle();
    assert_eq!(parked(&handle).len(), 1);
    shop.begins(1).await;
    shop.pays(1, 8).await;
    assert_eq!(shop.finishes().await, "1");
    assert_eq!(paid(&handle, 1), serde_json::json!([7, 8]));
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_whose_instance_does_not_come_in_time_is_quarantined_and_can_be_replayed() {
    let mut shop = Shop::new().await;
    let engine = shop.opens().await;
    shop.pays(1, 7).await;
    let handle = engine.handle();
    until(|| parked(&handle).len() == 1).await;
    let due = parked(&handle)[0].until.unwrap();
    assert_eq!(due.since(shop.clock.now()), dirigent::engine::PARKED_FOR);
    shop.clock.moves(dirigent::engine::PARKED_FOR);
    until(|| quarantined(&handle).len() == 1).await;
    let set_aside = &quarantined(&handle)[0];
    assert_eq!((set_aside.reason.as_str(), set_aside.blocks), ("no-instance", false));
    assert!(set_aside.text.contains("`invoice` with key `1`"), "{}", set_aside.text);
    // It blocks nobody: the instance begins after all, and the message waits for a person.
    shop.begins(1).await;
    shop.pays(1, 8).await;
    let applied = || handle.snapshot().inputs.applied == 2;
    until(applied).await;
    let decided = decides(&handle, set_aside.number, Decision::Replay).await.unwrap();
    assert_eq!(decided.became, "applied");
    assert_eq!(shop.finishes().await, "1");
    assert_eq!(paid(&handle, 1), serde_json::json!([8, 7]));
    let inputs = handle.snapshot().inputs;
    assert_eq!((inputs.applied, inputs.quarantined), (3, 0));
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_discarded_without_an_instance_becomes_a_dead_letter_that_says_who_and_why() {
    let mut shop = Shop::new().await;
    let engine = shop.opens().await;
    shop.pays(1, 7).await;
    let handle = engine.handle();
    until(|| parked(&handle).len() == 1).await;
    shop.clock.moves(dirigent::engine::PARKED_FOR);
    until(|| quarantined(&handle).len() == 1).await;
    let number = quarantined(&handle)[0].number;
    let decided = decides(&handle, number, Decision::Discard).await.unwrap();
    assert_eq!(decided.became, "discarded");
    assert!(quarantined(&handle).is_empty());
    let inputs = handle.snapshot().inputs;
    assert_eq!((inputs.quarantined, inputs.dead_letters, inputs.ignored), (1, 1, 0));
    drop(handle);
    engine.stop().await.unwrap();

    let engine = shop.opens().await;
    let mut letters =
        Stranger::listening(&shop.broker, ChannelSpec::work("shop.dead-letters"), "clerk").await;
    let letter = letters.next().await.message;
    let says = |name| letter.attributes.get(name);
    assert_eq!(says(envelope::DEAD_REASON), Some("discarded"));
    assert_eq!(says(envelope::DEAD_TEXT), Some("discarded by ann: it has to be"));
    assert_eq!(&letter.body[..], &payment(1, 7).body[..]);
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_for_two_sagas_waits_for_both_and_counts_once() {
    let mut shop = Shop::new().await;
    let both = || shop.builder().saga(other());
    let engine = both().start().await.unwrap();
    let handle = engine.handle();
    shop.customer.sends(payment(1, 7)).await;
    until(|| parked(&handle).len() == 2).await;
    until(|| handle.snapshot().inputs.consumed() == 1).await;
    // Over a restart, too: both copies and the count lie in one group.
    drop(handle);
    engine.stop().await.unwrap();
    let engine = shop.builder().saga(other()).start().await.unwrap();
    let handle = engine.handle();
    shop.begins(1).await;
    until(|| parked(&handle).len() == 1).await;
    shop.customer.sends(event(STARTS.name, "Opened", "o", "1", br#"{"id":1}"#.to_vec())).await;
    until(|| parked(&handle).is_empty()).await;
    until(|| handle.snapshot().inputs.applied == 3).await;
    assert_eq!(handle.snapshot().inputs.consumed(), 3);
    let id = handle.id("other", "1");
    assert_eq!(handle.show(id).unwrap().unwrap().data["paid"], serde_json::json!([7]));
    assert_eq!(paid(&handle, 1), serde_json::json!([7]));
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_for_two_sagas_that_one_has_taken_is_let_go_for_the_other_in_the_end() {
    let mut shop = Shop::new().await;
    let engine = shop.builder().saga(other()).start().await.unwrap();
    let handle = engine.handle();
    shop.begins(1).await;
    shop.pays(1, 7).await;
    until(|| parked(&handle).len() == 1).await;
    assert_eq!(parked(&handle)[0].saga, "other");
    shop.clock.moves(dirigent::engine::PARKED_FOR);
    until(|| parked(&handle).is_empty()).await;
    assert!(quarantined(&handle).is_empty());
    engine.stop().await.unwrap();
    let inputs = handle.snapshot().inputs;
    assert_eq!((inputs.consumed(), inputs.applied), (2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_before_a_further_run_of_its_key_is_parked_for_it_and_ignored_if_none_begins() {
    let mut shop = Shop::new().await;
    let again = Orchestrator::builder("shop")
        .saga(invoice_again())
        .connector(Arc::new(shop.broker.clone()))
        .clock(Arc::new(shop.clock.clone()))
        .data(shop.folder.path());
    let engine = again.start().await.unwrap();
    let handle = engine.handle();
    shop.begins(1).await;
    shop.pays(1, 7).await;
    shop.pays(1, 8).await;
    assert_eq!(shop.finishes().await, "1");
    // One of the next run, before its start; and one that the first run has taken, delivered again.
    shop.pays(1, 9).await;
    shop.pays(1, 8).await;
    until(|| handle.snapshot().inputs.ignored == 1).await;
    assert_eq!(parked(&handle).len(), 1);
    let mut start = start_event(1, 1);
    start.attributes.set(names::ID, "another start");
    shop.customer.sends(start).await;
    shop.pays(1, 10).await;
    assert_eq!(shop.finishes().await, "1");
    assert_eq!(paid(&handle, 1), serde_json::json!([9, 10]));
    // No third run begins: this one came too late.
    shop.pays(1, 11).await;
    until(|| parked(&handle).len() == 1).await;
    shop.clock.moves(dirigent::engine::PARKED_FOR);
    until(|| parked(&handle).is_empty()).await;
    assert!(quarantined(&handle).is_empty());
    engine.stop().await.unwrap();
    let inputs = handle.snapshot().inputs;
    assert_eq!((inputs.applied, inputs.ignored, inputs.parked), (6, 2, 0));
}

/// One test for all that follows a panic: the mistake in the sagas' functions is mended in its course.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_makes_a_function_panic_is_quarantined_and_what_follows_it_waits_in_order() {
    let mut shop = Shop::new().await;
    let engine = shop.opens().await;
    let handle = engine.handle();
    shop.begins(1).await;
    shop.pays(1, UNLUCKY).await;
    shop.pays(1, 8).await;
    // Another instance goes on meanwhile, and one cannot even begin.
    shop.begins(2).await;
    shop.pays(2, 1).await;
    shop.pays(2, 2).await;
    assert_eq!(shop.finishes().await, "2");
    shop.pays(3, 4).await;
    shop.customer.sends(start_event(3, UNLUCKY)).await;
    shop.pays(3, 5).await;
    until(|| quarantined(&handle).len() == 2 && parked(&handle).len() == 3).await;
    let blocked = quarantined(&handle).swap_remove(0);
    assert_eq!((blocked.reason.as_str(), blocked.blocks), ("handler-panicked", true));
    assert!(blocked.text.contains("this amount is unlucky"));
    let whole = handle.reader().kept_message(blocked.number).unwrap().message.unwrap();
    assert_eq!(whole.body, r#"{"id":1,"amount":13}"#);
    let shown = handle.show(handle.id("invoice", "1")).unwrap().unwrap();
    assert_eq!((shown.status.as_str(), shown.kept.len()), ("blocked", 2));
    // Whoever asks what wants a person is told of it, however he asks.
    let held = format!("held by quarantined message #{}", blocked.number);
    assert_eq!((shown.held_by, shown.incidents), (Some(blocked.number), vec![held.clone()]));
    assert_eq!(blocked_ones(&handle.reader()), [("1".to_owned(), held.clone())]);
    let status = handle.status();
    assert_eq!(status.person, WantsPerson { blocked: 1, held: 1, quarantined: 2 });
    assert!(status.readiness.ready, "it works all the same");
    // What is for a person does not change by restarting, nor by time: its timers rest.
    drop(handle);
    engine.stop().await.unwrap();
    let plan = invoice("invoice").unwrap().plan();
    let at_rest = open_at_rest(shop.folder.path(), Arc::new(Registry::new(vec![plan]).unwrap()));
    assert_eq!(blocked_ones(&at_rest.unwrap()), [("1".to_owned(), held)]);
    shop.clock.moves(2 * DAY);
    let engine = shop.opens().await;
    let handle = engine.handle();
    assert_eq!((quarantined(&handle).len(), parked(&handle).len()), (2, 3));

    // Still the same mistake: quarantined again, in its place.
    let again = decides(&handle, blocked.number, Decision::Replay).await.unwrap();
    assert_eq!((again.became.as_str(), again.followed, again.parked), ("quarantined", 0, 1));
    assert!(again.text.unwrap().contains("unlucky"));
    assert_eq!(quarantined(&handle)[0].number, blocked.number);
    let behind = parked(&handle)[0].number;
    let refused = decides(&handle, behind, Decision::Replay).await.unwrap_err();
    assert!(matches!(refused, HandleError::Operator(OperatorError::NotQuarantined { .. })));

    MENDED.store(true, Ordering::SeqCst);
    let begun = quarantined(&handle)[1].number;
    let replayed = decides(&handle, begun, Decision::Replay).await.unwrap();
    assert_eq!((replayed.became.as_str(), replayed.followed), ("applied", 2));
    assert_eq!(shop.finishes().await, "3");
    assert_eq!(paid(&handle, 3), serde_json::json!([4, 5]));

    // Given up, with a reason; what is behind it goes on.
    let discarded = decides(&handle, blocked.number, Decision::Discard).await.unwrap();
    assert_eq!((discarded.became.as_str(), discarded.followed), ("discarded", 1));
    assert_eq!(paid(&handle, 1), serde_json::json!([8]));
    let shown = handle.show(handle.id("invoice", "1")).unwrap().unwrap();
    let told = shown.history.iter().any(|line| {
        line.note.as_deref()
            == Some(&format!("discard #{} InvoicePaid by ann: it has to be", blocked.number))
    });
    assert!(told && shown.kept.is_empty(), "{shown:?}");
    let inputs = handle.snapshot().inputs;
    assert_eq!((inputs.parked, inputs.quarantined, inputs.ignored), (0, 0, 1));
    assert_eq!((inputs.applied, inputs.consumed()), (8, 9));
    assert_eq!(handle.status().person, WantsPerson::default());
    // The timers rested while it was blocked: its wait was not over then. Now they go on.
    assert_eq!(shown.status, "running");
    shop.clock.moves(DAY);
    let broken = shop.customer.next().await.message;
    assert_eq!(
        (broken.key.as_str(), broken.attributes.get(names::TYPE)),
        ("1", Some(Broken::NAME))
    );
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_too_large_to_be_kept_becomes_a_dead_letter() {
    let mut shop = Shop::new().await;
    let engine = shop.builder().body_bytes_max(8 * 1024 * 1024).start().await.unwrap();
    let mut letters =
        Stranger::listening(&shop.broker, ChannelSpec::work("shop.dead-letters"), "clerk").await;
    let mut large = payment(1, 7);
    large.others.push(("x".into(), vec![b' '; dirigent::engine::KEPT_MESSAGE_BYTES_MAX].into()));
    shop.customer.sends(large).await;
    let letter = letters.next().await.message;
    assert_eq!(letter.attributes.get(envelope::DEAD_REASON), Some("parked-full"));
    let handle = engine.handle();
    engine.stop().await.unwrap();
    let inputs = handle.snapshot().inputs;
    assert_eq!((inputs.quarantined, inputs.dead_letters, inputs.parked), (1, 1, 0));
}
