//! Windows that their broker does not decide for long, or does not confirm: what is in them and behind them has not left as far as anybody
//! knows, so its time does not go on. On the memory broker; the hour is moved by hand.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

mod support;

use dirigent::{
    Orchestrator, OrchestratorBuilder,
    destinations::{DestinationView, Protection},
    engine::{Clock, Handle, OperatorAction},
};
use dirigent_connectors::{ChannelSpec, Connector, Sent, memory::MemoryBroker, names};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use support::{Stranger, clock::ByHand, purchase, stubborn::Stubborn, until};
use tokio::sync::watch;

/// More than the first step of a purchase waits for its reply.
const TOO_LONG: Duration = Duration::from_millis(500);

async fn customer(broker: &MemoryBroker) -> Stranger {
    broker.prepare(&["starts", "ends"].map(ChannelSpec::events)).await.unwrap();
    Stranger::listening(broker, ChannelSpec::events("ends"), "customer").await
}

fn shop(connector: Stubborn, clock: &Arc<ByHand>) -> OrchestratorBuilder {
    Orchestrator::builder("shop")
        .saga(purchase(1))
        .connector(Arc::new(connector))
        .protect_at("work", Protection { circuit: None, ..Protection::default() })
        .clock(Arc::clone(clock) as Arc<dyn Clock>)
}

fn work(handle: &Handle) -> DestinationView {
    handle.destinations().into_iter().find(|view| view.channel == "work").unwrap()
}

/// What is known of the first step of a purchase; nothing before it is durable.
fn reserve(handle: &Handle, key: &str) -> String {
    let Some(shown) = handle.show(handle.id("purchase", key)).unwrap() else {
        return String::new();
    };
    shown.nodes.into_iter().find(|node| node.name == "reserve").unwrap().state
}

/// The time of a few attempts passes, and those of these purchases stay the first ones.
async fn wait_in_vain(handle: &Handle, clock: &ByHand, keys: &[&str]) {
    for _ in 0..4 {
        let before: Vec<String> = keys.iter().map(|key| reserve(handle, key)).collect();
        clock.passes(TOO_LONG);
        for (key, before) in keys.iter().zip(&before) {
            until(|| reserve(handle, key) != *before).await;
            let state = reserve(handle, key);
            assert!(state.contains("attempt 1,"), "purchase {key}: {state}");
        }
    }
}

/// Each purchase gets what it wants, and none of its commands leaves twice.
async fn all_end_well(customer: &mut Stranger, work: Stranger, purchases: usize) {
    let worker = tokio::spawn(work.answers());
    for _ in 0..purchases {
        assert_eq!(customer.next().await.message.attributes.get(names::TYPE), Some("Finished"));
    }
    worker.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_broker_decides_nothing_commands_in_its_window_and_behind_it_use_up_no_attempt() {
    let (broker, clock) = (MemoryBroker::new(), ByHand::new());
    let mut customer = customer(&broker).await;
    let (deciding, decides) = watch::channel(false);
    let (stubborn, windows) = Stubborn::that_answers(&broker, decides);
    let engine = shop(stubborn, &clock).start().await.unwrap();
    let handle = engine.handle();
    customer.begins(1, 500).await;
    until(|| windows.load(Ordering::Acquire) == 1).await;
    customer.begins(2, 500).await;
    until(|| work(&handle).queued == 2).await;
    assert!(reserve(&handle, "2").contains("attempt 1,"));
    wait_in_vain(&handle, &clock, &["1", "2"]).await;
    assert_eq!(work(&handle).sent, 1, "the other one is behind it");
    let place = Stranger::listening(&broker, ChannelSpec::work("work"), "worker").await;
    deciding.send(true).unwrap();
    all_end_well(&mut customer, place, 2).await;
    assert_eq!(work(&handle).sent, 4, "each command left once");
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_left_just_before_its_time_was_over_has_its_time_anew_whatever_leaves_after_it() {
    let (broker, clock) = (MemoryBroker::new(), ByHand::new());
    let mut customer = customer(&broker).await;
    let place = Stranger::listening(&broker, ChannelSpec::work("work"), "worker").await;
    let (deciding, decides) = watch::channel(false);
    let (stubborn, windows) = Stubborn::that_answers(&broker, decides);
    let engine = shop(stubborn, &clock).start().await.unwrap();
    let handle = engine.handle();
    customer.begins(1, 500).await;
    until(|| windows.load(Ordering::Acquire) == 1).await;
    customer.begins(2, 500).await;
    until(|| work(&handle).queued == 2).await;
    // Nearly all of the 400 ms that a reply may take.
    clock.passes(Duration::from_millis(390));
    deciding.send(true).unwrap();
    until(|| work(&handle).queued == 0).await;
    // Another window leaves at once, and is decided as soon.
    customer.begins(3, 500).await;
    until(|| work(&handle).sent == 3).await;
    let before = ["1", "2"].map(|key| reserve(&handle, key));
    clock.passes(Duration::from_millis(20));
    for (key, before) in ["1", "2"].iter().zip(&before) {
        until(|| reserve(&handle, key) != *before).await;
        let state = reserve(&handle, key);
        assert!(state.contains("attempt 1,"), "purchase {key}: {state}");
    }
    all_end_well(&mut customer, place, 3).await;
    assert_eq!(work(&handle).sent, 6, "each command left once");
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saga_that_turns_back_does_not_wait_for_a_broker_that_confirms_nothing() {
    let (broker, clock) = (MemoryBroker::new(), ByHand::new());
    let mut customer = customer(&broker).await;
    let is_well = Arc::new(AtomicBool::new(false));
    let confirms = Arc::clone(&is_well);
    let stubborn = Stubborn::around(&broker, move |message| {
        let is_lost = message.channel == "work" && !confirms.load(Ordering::Acquire);
        is_lost.then(|| Sent::Unknown { text: "its disk is full".into() })
    });
    let engine = shop(stubborn, &clock).start().await.unwrap();
    let handle = engine.handle();
    customer.begins(1, 500).await;
    until(|| work(&handle).queued == 1).await;
    wait_in_vain(&handle, &clock, &["1"]).await;
    let (asking, id) = (handle.clone(), handle.id("purchase", "1"));
    let cancel = move || asking.operate(id, OperatorAction::Cancel, "ann", "no longer wanted");
    tokio::task::spawn_blocking(cancel).await.unwrap().unwrap();
    assert!(reserve(&handle, "1").contains("attempt 1,"), "it may be answered yet");
    until(|| {
        clock.passes(Duration::from_millis(50));
        reserve(&handle, "1").starts_with("being compensated")
    })
    .await;
    // The command itself was withdrawn; what waits is its compensation.
    until(|| work(&handle).queued == 1).await;
    let place = Stranger::listening(&broker, ChannelSpec::work("work"), "worker").await;
    is_well.store(true, Ordering::Release);
    let worker = tokio::spawn(place.answers());
    assert_eq!(customer.next().await.message.attributes.get(names::TYPE), Some("Broken"));
    worker.abort();
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_broker_does_not_confirm_a_command_it_uses_up_no_attempt() {
    let (broker, clock) = (MemoryBroker::new(), ByHand::new());
    let mut customer = customer(&broker).await;
    let is_well = Arc::new(AtomicBool::new(false));
    let confirms = Arc::clone(&is_well);
    let stubborn = Stubborn::around(&broker, move |message| {
        let is_lost = message.channel == "work" && !confirms.load(Ordering::Acquire);
        is_lost.then(|| Sent::Unknown { text: "its queue has no leader".into() })
    });
    let engine = shop(stubborn, &clock).start().await.unwrap();
    let handle = engine.handle();
    customer.begins(1, 500).await;
    until(|| work(&handle).queued == 1).await;
    wait_in_vain(&handle, &clock, &["1"]).await;
    let place = Stranger::listening(&broker, ChannelSpec::work("work"), "worker").await;
    is_well.store(true, Ordering::Release);
    all_end_well(&mut customer, place, 1).await;
    assert_eq!(work(&handle).queued, 0, "nothing is awaited from the broker");
    engine.stop().await.unwrap();
}
