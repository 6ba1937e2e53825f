//! Windows that their broker does not decide for long: what is in them and behind them has not left as far as anybody knows, so its time
//! does not go on. On the memory broker; time is moved by hand.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

mod support;

use dirigent::{
    Orchestrator,
    destinations::DestinationView,
    engine::{Clock, Handle},
};
use dirigent_connectors::{ChannelSpec, Connector, memory::MemoryBroker, names};
use std::{sync::Arc, time::Duration};
use support::{Stranger, clock::ByHand, purchase, stubborn::Stubborn, until};
use tokio::sync::watch;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_broker_decides_nothing_commands_in_its_window_and_behind_it_use_up_no_attempt() {
    let (broker, clock) = (MemoryBroker::new(), ByHand::new());
    let (deciding, decides) = watch::channel(false);
    broker.prepare(&["starts", "ends"].map(ChannelSpec::events)).await.unwrap();
    let mut customer = Stranger::listening(&broker, ChannelSpec::events("ends"), "customer").await;
    let engine = Orchestrator::builder("shop")
        .saga(purchase(1))
        .connector(Arc::new(Stubborn::that_answers(&broker, decides)))
        .clock(Arc::clone(&clock) as Arc<dyn Clock>)
        .start()
        .await
        .unwrap();
    let handle = engine.handle();
    customer.begins(1, 500).await;
    until(|| work(&handle).sent == 1).await;
    clock.passes(Duration::from_millis(10));
    customer.begins(2, 500).await;
    until(|| reserve(&handle, "2").contains("attempt 1,")).await;

    // Longer than all twenty attempts would take.
    for _ in 0..25 {
        let before = ["1", "2"].map(|key| (key, reserve(&handle, key)));
        clock.passes(Duration::from_millis(500));
        for (key, before) in &before {
            until(|| reserve(&handle, key) != *before).await;
            let state = reserve(&handle, key);
            assert!(state.contains("attempt 1,"), "purchase {key}: {state}");
        }
    }
    assert_eq!(work(&handle).sent, 1, "the other one is behind it");

    let worker = Stranger::listening(&broker, ChannelSpec::work("work"), "worker").await;
    let worker = tokio::spawn(worker.answers());
    deciding.send(true).unwrap();
    for _ in 0..2 {
        assert_eq!(customer.next().await.message.attributes.get(names::TYPE), Some("Finished"));
    }
    assert_eq!(work(&handle).sent, 4, "each command left once");
    worker.abort();
    engine.stop().await.unwrap();
}
